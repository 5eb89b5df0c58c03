"""Makes parameters of an input's schema. What it cannot make goes into the notes: nothing is dropped in silence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import msgspec

from .._core.parameters import (
    Anything,
    Choice,
    Either,
    Fields,
    Flag,
    Items,
    Number,
    Parameter,
    Text,
    Whole,
)
from .._text import one_line, shown, told
from ..errors import ConfigurationError
from .creates import Document
from .prose import file_in, longest_in

DEEPEST = 12
"""Objects and lists of an input in one another."""

MOST_FIELDS = 500
"""Of an input, all in all."""

_UNREAD = ("pattern", "multipleOf", "uniqueItems", "not", "if", "dependentRequired", "minProperties", "contains")
"""Keywords that bind a value in a way that no parameter has."""


class Branches(msgspec.Struct, frozen=True):
    """The ways to fill in an input: of each what it requires, and which fields are its own."""

    required: tuple[tuple[str, ...], ...] = ()
    fields: tuple[tuple[str, ...], ...] = ()


class SchemaReader:
    """Reads the schema of one input.

    Args:
        document: In which its references lead somewhere.

    Attributes:
        notes: What it says and a parameter cannot.
    """

    def __init__(self, document: Document) -> None:
        self.notes: list[str] = []
        self._document = document
        self._read = 0

    def fields(self, schema: Mapping[str, Any], place: str = "", room: int = DEEPEST) -> dict[str, Parameter]:
        """The fields of an object's schema, by their names."""
        required = self._required(schema)
        found: dict[str, Parameter] = {}
        for name, each in self._document.properties(schema).items():
            spelt = unquote(name).strip()
            if spelt != name:
                self._note(place + spelt, "is spelt with blanks around it on the page")
            is_required = spelt in required or name in required
            found[spelt] = self.parameter(self._document.resolved(each), place + spelt, room, required=is_required)
        for name in required - found.keys():
            self._note(place + name, "is required, and not described")
            found[name] = Anything(required=True)
        return found

    def _required(self, schema: Mapping[str, Any]) -> set[str]:
        parts = [schema, *map(self._document.resolved, _list(schema.get("allOf")))]
        return {unquote(str(name)).strip() for part in parts for name in _list(part.get("required"))}

    def with_branches(self, schema: Mapping[str, Any]) -> tuple[dict[str, Parameter], Branches]:
        """The fields of an input, and the ways to fill it in where it has several."""
        fields = self.fields(schema)
        ways = [self._document.resolved(each) for each in _list(schema.get("oneOf")) or _list(schema.get("anyOf"))]
        if not ways:
            return fields, Branches()
        own = [self.fields(way) for way in ways]
        for name in dict.fromkeys(name for each in own for name in each):
            # Whether it must be there is the way's to say.
            kinds = [msgspec.structs.replace(each[name], required=False) for each in own if name in each]
            kinds = [kind for at, kind in enumerate(kinds) if kind not in kinds[:at]]
            fields.setdefault(name, kinds[0] if len(kinds) == 1 else Either(kinds=tuple(kinds)))
        required = tuple(tuple(sorted(self._required(way))) for way in ways)
        return fields, Branches(required, tuple(tuple(each) for each in own))

    def parameter(
        self, schema: Mapping[str, Any], place: str, room: int = DEEPEST, *, required: bool = False
    ) -> Parameter:
        """The parameter that a schema describes."""
        self._read += 1
        if self._read > MOST_FIELDS or not room:
            raise ConfigurationError("The page's input has too many fields, or too many in one another.")
        for word in _UNREAD:
            if word in schema:
                self._note(place, f"has a {word} that is not checked: {told(schema[word])}")
        several = _list(schema.get("oneOf")) or _list(schema.get("anyOf"))
        made = self._either(several, place, room) if several else self._one(schema, place, room)
        return self._with_default(msgspec.structs.replace(made, required=required), schema, place)

    def _either(self, several: list[Any], place: str, room: int) -> Parameter:
        ways = [self._document.resolved(each) for each in several]
        made = [self.parameter(way, place, room - 1) for way in ways if way.get("type") != "null"]
        kinds = [kind for at, kind in enumerate(made) if kind not in made[:at]]
        return kinds[0] if len(kinds) == 1 else Either(kinds=tuple(kinds))

    def _with_default(self, made: Parameter, schema: Mapping[str, Any], place: str) -> Parameter:
        default = schema.get("default")
        # An empty text or list says that nothing is there.
        if default is None or default in ("", []):
            return made
        if isinstance(made, Choice | Text) and not made.takes(default) and made.takes(str(default)):
            default = str(default)
        if made.takes(default):
            return msgspec.structs.replace(made, default=default)
        self._note(place, f"has a default that it does not take: {told(default)}")
        return made

    def _one(self, schema: Mapping[str, Any], place: str, room: int) -> Parameter:
        if "const" in schema or _list(schema.get("enum")):
            return self._choice(schema, place)
        kinds = [kind for kind in _types(schema) if kind != "null"]
        if len(kinds) > 1:
            ways = [self._one({**schema, "type": kind}, place, room) for kind in kinds]
            return Either(kinds=tuple(ways))
        match kinds[0] if kinds else None:
            case "string":
                return self._text(schema, place)
            case "integer":
                return Whole(minimum=_int(self._least(schema, place, 1)), maximum=_int(self._most(schema, place, 1)))
            case "number":
                return Number(minimum=self._least(schema, place), maximum=self._most(schema, place))
            case "boolean":
                return Flag()
            case "array":
                return self._items(schema, place, room)
            case "object" if self._document.properties(schema):
                return Fields(fields=self.fields(schema, f"{place}.", room - 1))
        what = f"of the type {shown(str(kinds[0]))} and not described further" if kinds else "of no type"
        self._note(place, f"is {what}, so that its values are not checked")
        return Anything()

    def _choice(self, schema: Mapping[str, Any], place: str) -> Parameter:
        values = [schema["const"]] if "const" in schema else _list(schema.get("enum"))
        given = [value for value in values if isinstance(value, str | int | float) and not isinstance(value, bool)]
        if not given:
            if values and all(isinstance(value, bool) for value in values):
                return Flag()
            self._note(place, f"has values that are not checked: {told(values)}")
            return Anything()
        if len(given) < len([value for value in values if value is not None]):
            self._note(place, f"has values that are left out: {told(values)}")
        # What a page writes without quotes is a number to YAML, and the text of its digits to the API.
        is_text = "string" in _types(schema)
        return Choice(values=tuple(dict.fromkeys(str(value) if is_text else value for value in given)))

    def _text(self, schema: Mapping[str, Any], place: str) -> Parameter:
        file = file_in(place.rpartition(".")[2], schema)
        if file is not None:
            return file
        form = schema.get("format")
        if form not in (None, "string"):
            self._note(place, f"has the format {shown(str(form))}, which is not checked")
        longest = _int(schema.get("maxLength"))
        longest = longest_in(schema.get("description")) if longest is None else longest
        return Text(min_length=max(0, _int(schema.get("minLength")) or 0), max_length=longest)

    def _items(self, schema: Mapping[str, Any], place: str, room: int) -> Parameter:
        inner = self._document.resolved(schema.get("items"))
        if not inner:
            self._note(place, "is a list of what is not described")
        described = inner if "description" in inner else {**inner, "description": schema.get("description")}
        each = self.parameter(described, place, room - 1) if inner else Anything()
        least = max(0, _int(schema.get("minItems")) or 0)
        return Items(of=each, min_items=least, max_items=_int(schema.get("maxItems")))

    def _least(self, schema: Mapping[str, Any], place: str, step: int = 0) -> float | None:
        return self._bound(schema, place, ("minimum", "exclusiveMinimum"), step)

    def _most(self, schema: Mapping[str, Any], place: str, step: int = 0) -> float | None:
        return self._bound(schema, place, ("maximum", "exclusiveMaximum"), -step)

    def _bound(self, schema: Mapping[str, Any], place: str, names: tuple[str, str], step: int) -> float | None:
        bound, exclusive = schema.get(names[0]), schema.get(names[1])
        # True of the bound in OpenAPI 3.0, a bound of its own in 3.1.
        limit = bound if exclusive is True else exclusive
        if isinstance(limit, bool) or not isinstance(limit, int | float):
            return bound if isinstance(bound, int | float) and not isinstance(bound, bool) else None
        if not step:
            self._note(place, f"may come near to {limit}, and not be that")
        return limit + step

    def _note(self, place: str, what: str) -> None:
        note = one_line(f"{shown(place)} {what}")
        if note not in self.notes:
            self.notes.append(note)


def _types(schema: Mapping[str, Any]) -> list[Any]:
    """The types that a schema names, or that what else it says is of."""
    told_type = schema.get("type")
    kinds = _list(told_type) or ([told_type] if told_type is not None else [])
    if not kinds:
        kinds = ["array"] if "items" in schema else ["object"] if "properties" in schema else []
    return kinds


def _list(value: object) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def _int(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return math.floor(value)
