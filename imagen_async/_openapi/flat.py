"""One schema of what a schema is put together of: its references, its `allOf`, and what stands beside these."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

from ..errors import ConfigurationError

DEEPEST = 100
"""Schemas that lead from one to the next, or are in one another, at most."""

MOST = 5000
"""Schemas of a page that are put together at most."""

_LEAST = frozenset({"minimum", "minLength", "minItems", "minProperties"})
_MOST = frozenset({"maximum", "maxLength", "maxItems", "maxProperties"})
_UNITED = ("oneOf", "anyOf")

Find = Callable[[object], object]
"""What a reference leads to."""


class Flattener:
    """Puts schemas together, each once.

    Args:
        find: Knows where a reference leads.
        note: Is told what could not be put together.
    """

    def __init__(self, find: Find, note: Callable[[str], None]) -> None:
        self._find = find
        self._note = note
        # By identity, with what it belongs to: while that is kept no other one has it.
        self._known: dict[int, tuple[object, dict[str, Any]]] = {}
        self._open: set[int] = set()

    def flat(self, schema: object) -> dict[str, Any]:
        """The schema in one piece; empty for what is none.

        Raises:
            ConfigurationError: It leads in a circle, or to too much.
        """
        if not isinstance(schema, Mapping):
            return {}
        known = self._known.get(id(schema))
        if known is not None:
            return known[1]
        if id(schema) in self._open or len(self._open) > DEEPEST:
            raise ConfigurationError("The page's references lead in a circle.")
        if len(self._known) > MOST:
            raise ConfigurationError("The page's schemas are put together of too many.")
        self._open.add(id(schema))
        try:
            found: dict[str, Any] = {}
            if "$ref" in schema:
                self._add(found, self.flat(self._find(schema["$ref"])))
            for part in as_list(schema.get("allOf")):
                self._add(found, self.flat(part))
            self._add(found, {name: value for name, value in schema.items() if name not in ("$ref", "allOf")})
        finally:
            self._open.discard(id(schema))
        self._known[id(schema)] = (schema, found)
        return found

    def _add(self, found: dict[str, Any], part: Mapping[str, Any]) -> None:
        """Let a schema say what another says, too; both bind."""
        for name, value in part.items():
            before = found.get(name)
            if before is None:
                found[name] = dict(value) if name == "properties" and isinstance(value, Mapping) else value
            elif name == "properties" and isinstance(value, Mapping) and isinstance(before, dict):
                for field, each in value.items():
                    before[field] = {"allOf": [before[field], each]} if field in before else each
            elif name == "required" and isinstance(before, list | tuple) and isinstance(value, list | tuple):
                found[name] = list(dict.fromkeys([*map(str, before), *map(str, value)]))
            elif name in _LEAST and is_number(before) and is_number(value):
                found[name] = max(before, value)
            elif name in _MOST and is_number(before) and is_number(value):
                found[name] = min(before, value)
            elif name == "enum" and isinstance(before, list) and isinstance(value, list):
                if len(before) + len(value) > MOST:
                    raise ConfigurationError("The page's schemas have too many values.")
                found[name] = [each for each in before if each in value] or value
            elif name in _UNITED and before != value:
                self._note(f"has several {name} that bind together, of which one is checked")
            else:
                found[name] = value


def ways_in(schema: Mapping[str, Any]) -> list[Any]:
    """The ways that a schema leaves, of either kind."""
    return [way for word in _UNITED for way in as_list(schema.get(word))]


def beside_ways(schema: Mapping[str, Any]) -> dict[str, Any]:
    """What a schema says beside its ways, which binds each of them."""
    return {name: value for name, value in schema.items() if name not in _UNITED}


def as_list(value: object) -> list[Any]:
    """A list itself; an empty one for what is none."""
    return list(value) if isinstance(value, list | tuple) else []


def is_number(value: object) -> TypeGuard[int | float]:
    """True for a number that JSON can say: a truth value is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, int) or math.isfinite(value)
