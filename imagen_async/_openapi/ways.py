"""Reads the input of a model: its fields, and where there are several ways to fill it in, which these are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from .._core.branches import Branch
from .._core.parameters import Anything, Parameter
from ..errors import ConfigurationError
from .creates import Document
from .flat import as_list, beside_ways
from .schemas import DEEPEST, SchemaReader, distinct, is_null, one_of, required_in

_MOST_WAYS = 50
"""Ways to fill in an input; a page of kie.ai has two."""


class InputReader:
    """Reads the schema of one input.

    Args:
        document: In which its references lead somewhere.
    """

    def __init__(self, document: Document) -> None:
        self._document = document
        self._reader = SchemaReader(document)

    @property
    def notes(self) -> list[str]:
        """What the schema says and a record cannot."""
        return self._reader.notes

    def read(self, schema: Mapping[str, Any]) -> tuple[dict[str, Parameter], tuple[Branch, ...]]:
        """The fields of an input, and the ways to fill it in where it has several."""
        schema = self._document.resolved(schema)
        self._reader.note_unread(schema, "its input")
        ways, is_one = self._ways(schema, DEEPEST)
        if len(ways) < 2:
            return self._reader.fields({"allOf": [beside_ways(schema), *ways]}), ()
        own = [self._reader.described(way) for way in ways]
        required = [required_in(way) for way in ways]
        # What every way wants is no way's own.
        always = required_in(schema).union(set[str].intersection(*required))
        fields = self._united(schema, own, always.union(*required))
        for name in always:
            fields[name] = msgspec.structs.replace(fields[name], required=True)
        return fields, self._branches(schema, fields, own, [each - always for each in required], is_one=is_one)

    def _united(
        self, schema: Mapping[str, Any], own: list[dict[str, Parameter]], required: set[str]
    ) -> dict[str, Parameter]:
        """The fields of an input and of all of its ways."""
        fields = self._reader.described(schema)
        for name in dict.fromkeys(name for each in own for name in each):
            # Whether it must be there is the way's to say.
            kinds = distinct(msgspec.structs.replace(each[name], required=False) for each in own if name in each)
            if name in fields and kinds != [msgspec.structs.replace(fields[name], required=False)]:
                self._reader.note(name, "is described otherwise in one of several ways, which is not checked")
            elif len(kinds) > 1:
                self._reader.note(name, "differs in several ways, so that which value goes with which is not checked")
            fields.setdefault(name, one_of(kinds))
        for name in sorted(required - fields.keys()):
            self._reader.note(name, "is required, and not described")
            fields[name] = Anything()
        return fields

    def _branches(
        self,
        schema: Mapping[str, Any],
        fields: Mapping[str, Parameter],
        own: list[dict[str, Parameter]],
        required: list[set[str]],
        *,
        is_one: bool,
    ) -> tuple[Branch, ...]:
        described = set(self._document.properties(schema))
        # What every way has belongs to none; of a field with a default nobody need say it.
        wanted = [sorted(name for name in each if fields[name].default is None) for each in required]
        fields_of = [
            {name for name in mine if name not in described} | set(each) for mine, each in zip(own, wanted, strict=True)
        ]
        if not is_one:
            fields_of = [set[str]().union(*fields_of)] * len(fields_of)
        if not any(wanted) and all(each == fields_of[0] for each in fields_of):
            return ()
        # In the way's own order.
        names = [
            [name for name in dict.fromkeys((*mine, *fields)) if name in each]
            for mine, each in zip(own, fields_of, strict=True)
        ]
        return tuple(Branch(tuple(needs), tuple(each)) for needs, each in zip(wanted, names, strict=True))

    def _ways(self, schema: Mapping[str, Any], room: int) -> tuple[list[Mapping[str, Any]], bool]:
        """The ways to fill in an input, those of a way among them; and whether just one of them is to be gone."""
        one, some = as_list(schema.get("oneOf")), as_list(schema.get("anyOf"))
        if one and some:
            self._reader.note("its input", "has ways of two kinds that bind together, of which one is checked")
        found: list[Mapping[str, Any]] = []
        for each in one or some if room else ():
            way = self._document.resolved(each)
            if is_null(way):
                continue
            self._reader.note_unread(way, "a way to fill in its input")
            inner, _ = self._ways(way, room - 1)
            found += [self._document.resolved({"allOf": [beside_ways(way), part]}) for part in inner] or [way]
        if len(found) > _MOST_WAYS:
            raise ConfigurationError("The page's input has too many ways to be filled in.")
        return found, bool(one)
