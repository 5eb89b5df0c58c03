"""Makes parameters of schemas. What it cannot make goes into the notes: nothing is dropped in silence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
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
from .figures import figure_of, letters_of, plain_json, plain_of, whole_of
from .flat import as_list, beside_ways, is_number
from .prose import file_in, longest_in

DEEPEST = 12
"""Objects and lists of an input in one another."""

MOST_FIELDS = 500
"""Of an input, all in all."""

_UNREAD = (
    *("pattern", "multipleOf", "uniqueItems", "not", "if", "then", "else", "contains", "prefixItems"),
    *("dependentRequired", "dependentSchemas", "minProperties", "maxProperties", "patternProperties", "propertyNames"),
    *("unevaluatedProperties", "minContains", "maxContains", "dependencies", "contentMediaType"),
)
"""Keywords that bind a value in a way that no parameter has."""


class SchemaReader:
    """Reads the schemas of one input's fields.

    Args:
        document: In which its references lead somewhere.

    Attributes:
        notes: What it says and a parameter cannot.
    """

    def __init__(self, document: Document) -> None:
        self.notes: list[str] = []
        self._document = document
        self._read = 0
        # What the objects hold in which the one that is read stands: their fields' schemas, by identity.
        self._open: set[frozenset[int]] = set()

    def fields(self, schema: Mapping[str, Any], place: str = "", room: int = DEEPEST) -> dict[str, Parameter]:
        """The fields of an object's schema, by their names."""
        schema = self._document.resolved(schema)
        found = self.described(schema, place, room)
        missing = required_in(schema) - found.keys()
        if len(missing) > MOST_FIELDS:
            raise ConfigurationError("The page's input has too many fields.")
        for name in sorted(missing):
            self.note(place + name, "is required, and not described")
            found[name] = Anything(required=True)
        return found

    def described(self, schema: Mapping[str, Any], place: str = "", room: int = DEEPEST) -> dict[str, Parameter]:
        """The fields that an object's schema describes; others may be required."""
        required = required_in(schema)
        found: dict[str, Parameter] = {}
        for name, each in self._document.properties(schema).items():
            if isinstance(each, list):
                continue  # `required` in the wrong place, or what is no field
            spelt = _spelt(name)
            if spelt != name:
                self.note(place + spelt, "is spelt with blanks around it on the page")
            if spelt in found:
                self.note(place + spelt, "is there twice, of which the last counts")
            own = self._document.resolved(each)
            if own.get("readOnly") is True:
                self.note(place + spelt, "is told by the provider, and not taken")
                continue
            is_required = spelt in required or own.get("required") is True
            found[spelt] = self.parameter(own, place + spelt, room, required=is_required)
        return found

    def note_unread(self, schema: Mapping[str, Any], place: str) -> None:
        """Note what binds a schema's values in a way that no parameter has."""
        for word in _UNREAD:
            if word in schema:
                self.note(place, f"has a {word} that is not checked: {told(schema[word])}")
        if schema.get("additionalProperties") not in (None, False):
            self.note(place, "may have further fields, which are not taken")

    def parameter(
        self, schema: Mapping[str, Any], place: str, room: int = DEEPEST, *, required: bool = False
    ) -> Parameter:
        """The parameter that a schema describes."""
        self._read += 1
        if self._read > MOST_FIELDS:
            raise ConfigurationError("The page's input has too many fields.")
        if not room:
            self.note(place, "lies too deep in others, so that its values are not checked")
            return Anything(required=required)
        self.note_unread(schema, place)
        several = as_list(schema.get("oneOf")) or as_list(schema.get("anyOf"))
        beside = {name: value for name, value in beside_ways(schema).items() if name != "default"}
        made = self._either(several, beside, place, room) if several else self._one(schema, place, room)
        return self._with_default(msgspec.structs.replace(made, required=required), schema, place)

    def _either(self, several: list[Any], beside: Mapping[str, Any], place: str, room: int) -> Parameter:
        # What stands beside them binds each.
        ways = [self._document.resolved({"allOf": [beside, each]}) for each in several]
        made = [self.parameter(way, place, room - 1) for way in ways if not is_null(way)]
        kinds = distinct(msgspec.structs.replace(kind, default=None) for kind in made)
        if not kinds:
            self.note(place, "is to be nothing, so that its values are not checked")
            return Anything()
        return one_of(kinds)

    def _with_default(self, made: Parameter, schema: Mapping[str, Any], place: str) -> Parameter:
        default = schema.get("default")
        # An empty text or list says that nothing is there.
        if default is None or default in ("", []):
            return made
        # What a page writes without quotes.
        is_text = isinstance(made, Choice | Text) and is_number(default) and not made.takes(default)
        default = letters_of(default) if is_text and made.takes(letters_of(default)) else plain_json(default)
        if made.takes(default):
            return msgspec.structs.replace(made, default=default)
        self.note(place, f"has a default that it does not take: {told(default)}")
        return made

    def _one(self, schema: Mapping[str, Any], place: str, room: int) -> Parameter:
        kinds, values = _types(schema), as_list(schema.get("enum"))
        is_of_items = "array" in kinds and not any(isinstance(each, list) for each in values)
        if "const" in schema or (values and not is_of_items):
            return self._choice(schema, place)
        if len(kinds) > 1:
            ways = [self._one({**schema, "type": kind}, place, room) for kind in kinds]
            return Either(kinds=tuple(ways))
        match kinds[0] if kinds else None:
            case "string":
                return self._text(schema, place)
            case "integer":
                return _whole(schema, self._least(schema, place, 1), self._most(schema, place, 1))
            case "number":
                return Number(minimum=self._least(schema, place), maximum=self._most(schema, place))
            case "boolean":
                return Flag()
            case "array":
                return self._items(schema, place, room)
            case "object" if self._document.properties(schema):
                return self._object(schema, place, room)
        what = f"of the type {shown(str(kinds[0]))} and not described further" if kinds else "of no type"
        self.note(place, f"is {what}, so that its values are not checked")
        return Anything()

    def _object(self, schema: Mapping[str, Any], place: str, room: int) -> Parameter:
        own = frozenset(map(id, self._document.properties(schema).values()))
        if own in self._open:
            self.note(place, "is of the kind that it stands in, so that its values are not checked")
            return Anything()
        self._open.add(own)
        try:
            return Fields(fields=self.fields(schema, f"{place}.", room - 1))
        finally:
            self._open.discard(own)

    def _choice(self, schema: Mapping[str, Any], place: str) -> Parameter:
        values = [schema["const"]] if "const" in schema else as_list(schema.get("enum"))
        kinds = _types(schema)
        # What a page writes without quotes is a number, or a truth value, to YAML, and its letters to the API.
        if kinds == ["string"]:
            values = [letters_of(each) for each in values]
        flags = [value for value in values if isinstance(value, bool)]
        has_points = kinds == ["number"] and any(isinstance(each, float) for each in values)
        said = (value for value in values if isinstance(value, str) or is_number(value))
        given = [plain_of(value, has_points=has_points) for value in said]
        if kinds == ["boolean"] and {"true", "false"} == {str(each).lower() for each in given}:
            return Flag()
        if len(given) + len(flags) < len([value for value in values if value is not None]):
            self.note(place, f"has values that are left out: {told(values)}")
        if flags and set(flags) != {True, False}:
            self.note(place, f"is {flags[0]} alone, which is not checked")
        if not given and not flags:
            self.note(place, f"has values that are not checked: {told(values)}")
            return Anything()
        if not given:
            return Flag()
        choice = Choice(values=tuple(_distinct_values(given)))
        return Either(kinds=(choice, Flag())) if flags else choice

    def _text(self, schema: Mapping[str, Any], place: str) -> Parameter:
        file = file_in(place.rpartition(".")[2], schema)
        if file is not None:
            if {"minLength", "maxLength"} & schema.keys():
                self.note(place, "has a length, which is not checked of an address")
            return file
        form = schema.get("format") or schema.get("contentEncoding")
        if form not in (None, "string"):
            self.note(place, f"has the format {shown(str(form))}, which is not checked")
        longest = self._count(schema, place, "maxLength")
        longest = longest_in(schema.get("description")) if longest is None else longest
        return Text(min_length=self._count(schema, place, "minLength") or 0, max_length=longest)

    def _items(self, schema: Mapping[str, Any], place: str, room: int) -> Parameter:
        inner = self._document.resolved(schema.get("items"))
        if as_list(schema.get("enum")):  # of its items, where it stands in the wrong place
            inner = {"enum": schema["enum"], **inner}
        if not inner:
            self.note(place, "is a list of what is not described")
        described = inner if "description" in inner else {**inner, "description": schema.get("description")}
        each = self.parameter(described, place, room - 1) if inner else Anything()
        least = self._count(schema, place, "minItems") or 0
        return Items(of=each, min_items=least, max_items=self._count(schema, place, "maxItems"))

    def _count(self, schema: Mapping[str, Any], place: str, word: str) -> int | None:
        """A bound of length or number; None where there is none that can be kept to."""
        found = whole_of(schema.get(word))
        if schema.get(word) is not None and (found is None or found < 0):
            self.note(place, f"has a {word} that binds nothing: {told(schema[word])}")
        return None if found is None or found < 0 else found

    def _least(self, schema: Mapping[str, Any], place: str, step: int = 0) -> float | None:
        return self._bound(schema, place, ("minimum", "exclusiveMinimum"), step)

    def _most(self, schema: Mapping[str, Any], place: str, step: int = 0) -> float | None:
        return self._bound(schema, place, ("maximum", "exclusiveMaximum"), -step)

    def _bound(self, schema: Mapping[str, Any], place: str, names: tuple[str, str], step: int) -> float | None:
        bound, exclusive = figure_of(schema.get(names[0])), schema.get(names[1])
        # True of the bound in OpenAPI 3.0, a bound of its own in 3.1.
        beyond = bound if exclusive is True else figure_of(exclusive)
        if beyond is not None and step:
            beyond = math.floor(beyond) + 1 if step > 0 else math.ceil(beyond) - 1
        elif beyond is not None:
            self.note(place, f"may come near to {beyond}, and not be that")
        if bound is not None and step:
            bound = math.ceil(bound) if step > 0 else math.floor(bound)
        found = [each for each in ((None if exclusive is True else bound), beyond) if each is not None]
        for name in names:
            if schema.get(name) is not None and not isinstance(schema[name], bool) and figure_of(schema[name]) is None:
                self.note(place, f"has a {name} that binds nothing: {told(schema[name])}")
        if not found:
            return None
        return max(found) if names[0] == "minimum" else min(found)

    def note(self, place: str, what: str) -> None:
        """Note, once, what a record cannot say."""
        note = one_line(f"{shown(place)} {what}")
        if note not in self.notes:
            self.notes.append(note)


def required_in(schema: Mapping[str, Any]) -> set[str]:
    """The names that a schema requires."""
    told_so, fields = schema.get("required"), schema.get("properties")
    if told_so is None and isinstance(fields, Mapping) and isinstance(fields.get("required"), list):
        told_so = fields["required"]  # a step too far in
    names = [told_so] if isinstance(told_so, str) else as_list(told_so)
    return {_spelt(str(name)) for name in names if isinstance(name, str | int)}


def _whole(schema: Mapping[str, Any], least: float | None, most: float | None) -> Whole:
    """A whole number; where the page says of how many bits, that bounds it too."""
    edge = 2**31 if schema.get("format") == "int32" else None
    least = -edge if least is None and edge is not None else least
    most = edge - 1 if most is None and edge is not None else most
    return Whole(minimum=whole_of(least), maximum=whole_of(most))


def _types(schema: Mapping[str, Any]) -> list[Any]:
    """The types that a schema names, or that what else it says is of; that it may be nothing goes without saying."""
    told_type = schema.get("type")
    kinds = as_list(told_type) or ([told_type] if told_type is not None else [])
    if not kinds:
        kinds = ["array"] if "items" in schema else ["object"] if "properties" in schema else []
    return [kind for kind in kinds if kind not in ("null", None)]


def distinct(kinds: Iterable[Parameter]) -> list[Parameter]:
    """Each once; they have no order, nor a hash."""
    found: list[Parameter] = []
    for kind in kinds:
        if kind not in found:
            found.append(kind)
    return found


def one_of(kinds: list[Parameter]) -> Parameter:
    """What takes a value of any of these."""
    if all(isinstance(kind, Choice) for kind in kinds):  # as `oneOf` says an enum whose values have titles
        values = [value for kind in kinds if isinstance(kind, Choice) for value in kind.values]
        return Choice(values=tuple(_distinct_values(values)))
    return kinds[0] if len(kinds) == 1 else Either(kinds=tuple(kinds))


def _distinct_values(values: Iterable[str | float]) -> Iterable[str | float]:
    """Each once; 1 and 1.0 are two, as they are written."""
    return {(type(value), value): value for value in values}.values()


def is_null(way: Mapping[str, Any]) -> bool:
    """True for the schema of nothing."""
    kind, values = way.get("type", ""), as_list(way.get("enum"))
    is_one_value = ("const" in way and way["const"] is None) or (values and values == [None] * len(values))
    return kind in ("null", None) or bool(is_one_value)


def _spelt(name: str) -> str:
    """A name as the provider means it."""
    plain = unquote(name).strip()
    return name.strip() if "\ufffd" in plain else plain
