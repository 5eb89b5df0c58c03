"""Makes parameters of an input's schema. What it cannot make goes into the notes: nothing is dropped in silence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote

import msgspec

from .._core.branches import Branch
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
from .figures import figure_of, letters_of, plain_of, whole_of
from .flat import as_list, is_number
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

_MOST_WAYS = 50
"""Ways to fill in an input; a page of kie.ai has two."""


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
        # What the objects hold in which the one that is read stands: their fields' schemas, by identity.
        self._open: set[frozenset[int]] = set()

    def fields(self, schema: Mapping[str, Any], place: str = "", room: int = DEEPEST) -> dict[str, Parameter]:
        """The fields of an object's schema, by their names."""
        schema = self._document.resolved(schema)
        found = self._described(schema, place, room)
        for name in _required(schema) - found.keys():
            self._note(place + name, "is required, and not described")
            found[name] = Anything(required=True)
        return found

    def _described(self, schema: Mapping[str, Any], place: str, room: int = DEEPEST) -> dict[str, Parameter]:
        required = _required(schema)
        found: dict[str, Parameter] = {}
        for name, each in self._document.properties(schema).items():
            spelt = _spelt(name)
            if spelt != name:
                self._note(place + spelt, "is spelt with blanks around it on the page")
            if spelt in found:
                self._note(place + spelt, "is there twice, of which the last counts")
            own = self._document.resolved(each)
            if own.get("readOnly") is True:
                self._note(place + spelt, "is told by the provider, and not taken")
                continue
            is_required = spelt in required or own.get("required") is True
            found[spelt] = self.parameter(own, place + spelt, room, required=is_required)
        return found

    def with_branches(self, schema: Mapping[str, Any]) -> tuple[dict[str, Parameter], tuple[Branch, ...]]:
        """The fields of an input, and the ways to fill it in where it has several."""
        schema = self._document.resolved(schema)
        self._note_unread(schema, "its input")
        ways, is_one = self._ways(schema, DEEPEST)
        if not ways:
            return self.fields(schema), ()
        fields = self._described(schema, "")
        own = [self._described(way, "") for way in ways]
        required = [_required(way) for way in ways]
        for name in dict.fromkeys(name for each in own for name in each):
            # Whether it must be there is the way's to say.
            kinds = _distinct(msgspec.structs.replace(each[name], required=False) for each in own if name in each)
            if name in fields and kinds != [msgspec.structs.replace(fields[name], required=False)]:
                self._note(name, "is described otherwise in one of several ways, which is not checked")
            elif len(kinds) > 1:
                self._note(name, "differs in several ways, so that which value goes with which is not checked")
            fields.setdefault(name, _one_of(kinds))
        for name in sorted({*_required(schema), *(name for each in required for name in each)} - fields.keys()):
            self._note(name, "is required, and not described")
            fields[name] = Anything(required=name in _required(schema))
        return fields, self._branches(schema, fields, own, required, is_one=is_one)

    def _branches(
        self,
        schema: Mapping[str, Any],
        fields: Mapping[str, Parameter],
        own: list[dict[str, Parameter]],
        required: list[set[str]],
        *,
        is_one: bool,
    ) -> tuple[Branch, ...]:
        always, described = _required(schema), set(self._document.properties(schema))
        # What every way has belongs to none; of a field with a default nobody need say it.
        wanted = [sorted(name for name in each - always if fields[name].default is None) for each in required]
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
            self._note("its input", "has ways of two kinds that bind together, of which one is checked")
        found: list[Mapping[str, Any]] = []
        for each in one or some if room else ():
            way = self._document.resolved(each)
            self._note_unread(way, "a way to fill in its input")
            inner, _ = self._ways(way, room - 1)
            plain = {name: value for name, value in way.items() if name not in ("oneOf", "anyOf")}
            found += [self._document.resolved({"allOf": [plain, part]}) for part in inner] or [way]
        if len(found) > _MOST_WAYS:
            raise ConfigurationError("The page's input has too many ways to be filled in.")
        return found, bool(one)

    def _note_unread(self, schema: Mapping[str, Any], place: str) -> None:
        for word in _UNREAD:
            if word in schema:
                self._note(place, f"has a {word} that is not checked: {told(schema[word])}")
        if schema.get("additionalProperties") not in (None, False):
            self._note(place, "may have further fields, which are not taken")

    def parameter(
        self, schema: Mapping[str, Any], place: str, room: int = DEEPEST, *, required: bool = False
    ) -> Parameter:
        """The parameter that a schema describes."""
        self._read += 1
        if self._read > MOST_FIELDS:
            raise ConfigurationError("The page's input has too many fields.")
        if not room:
            self._note(place, "lies too deep in others, so that its values are not checked")
            return Anything(required=required)
        self._note_unread(schema, place)
        several = as_list(schema.get("oneOf")) or as_list(schema.get("anyOf"))
        beside = {name: value for name, value in schema.items() if name not in ("oneOf", "anyOf", "default")}
        made = self._either(several, beside, place, room) if several else self._one(schema, place, room)
        return self._with_default(msgspec.structs.replace(made, required=required), schema, place)

    def _either(self, several: list[Any], beside: Mapping[str, Any], place: str, room: int) -> Parameter:
        # What stands beside them binds each.
        ways = [self._document.resolved({"allOf": [beside, each]}) for each in several]
        made = [self.parameter(way, place, room - 1) for way in ways if not _is_null(way)]
        kinds = _distinct(msgspec.structs.replace(kind, default=None) for kind in made)
        if not kinds:
            self._note(place, "is to be nothing, so that its values are not checked")
            return Anything()
        return _one_of(kinds)

    def _with_default(self, made: Parameter, schema: Mapping[str, Any], place: str) -> Parameter:
        default = schema.get("default")
        # An empty text or list says that nothing is there.
        if default is None or default in ("", []):
            return made
        # What a page writes without quotes.
        is_text = isinstance(made, Choice | Text) and is_number(default) and not made.takes(default)
        if is_text and made.takes(letters_of(default)):
            default = letters_of(default)
        if made.takes(default):
            return msgspec.structs.replace(made, default=plain_of(default) if is_number(default) else default)
        self._note(place, f"has a default that it does not take: {told(default)}")
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
        self._note(place, f"is {what}, so that its values are not checked")
        return Anything()

    def _object(self, schema: Mapping[str, Any], place: str, room: int) -> Parameter:
        own = frozenset(map(id, self._document.properties(schema).values()))
        if own in self._open:
            self._note(place, "is of the kind that it stands in, so that its values are not checked")
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
            self._note(place, f"has values that are left out: {told(values)}")
        if flags and set(flags) != {True, False}:
            self._note(place, f"is {flags[0]} alone, which is not checked")
        if not given and not flags:
            self._note(place, f"has values that are not checked: {told(values)}")
            return Anything()
        choice = Choice(values=tuple(dict.fromkeys(given)))
        return Flag() if not given else Either(kinds=(choice, Flag())) if flags else choice

    def _text(self, schema: Mapping[str, Any], place: str) -> Parameter:
        file = file_in(place.rpartition(".")[2], schema)
        if file is not None:
            if {"minLength", "maxLength"} & schema.keys():
                self._note(place, "has a length, which is not checked of an address")
            return file
        form = schema.get("format") or schema.get("contentEncoding")
        if form not in (None, "string"):
            self._note(place, f"has the format {shown(str(form))}, which is not checked")
        longest = self._count(schema, place, "maxLength")
        longest = longest_in(schema.get("description")) if longest is None else longest
        return Text(min_length=self._count(schema, place, "minLength") or 0, max_length=longest)

    def _items(self, schema: Mapping[str, Any], place: str, room: int) -> Parameter:
        inner = self._document.resolved(schema.get("items"))
        if as_list(schema.get("enum")):  # of its items, where it stands in the wrong place
            inner = {"enum": schema["enum"], **inner}
        if not inner:
            self._note(place, "is a list of what is not described")
        described = inner if "description" in inner else {**inner, "description": schema.get("description")}
        each = self.parameter(described, place, room - 1) if inner else Anything()
        least = self._count(schema, place, "minItems") or 0
        return Items(of=each, min_items=least, max_items=self._count(schema, place, "maxItems"))

    def _count(self, schema: Mapping[str, Any], place: str, word: str) -> int | None:
        """A bound of length or number; None where there is none that can be kept to."""
        found = whole_of(schema.get(word))
        if schema.get(word) is not None and (found is None or found < 0):
            self._note(place, f"has a {word} that binds nothing: {told(schema[word])}")
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
            self._note(place, f"may come near to {beyond}, and not be that")
        if bound is not None and step:
            bound = math.ceil(bound) if step > 0 else math.floor(bound)
        found = [each for each in ((None if exclusive is True else bound), beyond) if each is not None]
        for name in names:
            if schema.get(name) is not None and not isinstance(schema[name], bool) and figure_of(schema[name]) is None:
                self._note(place, f"has a {name} that binds nothing: {told(schema[name])}")
        if not found:
            return None
        return max(found) if names[0] == "minimum" else min(found)

    def _note(self, place: str, what: str) -> None:
        note = one_line(f"{shown(place)} {what}")
        if note not in self.notes:
            self.notes.append(note)


def _required(schema: Mapping[str, Any]) -> set[str]:
    told_so = schema.get("required")
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


def _distinct(kinds: Iterable[Parameter]) -> list[Parameter]:
    """Each once; they have no order, nor a hash."""
    found: list[Parameter] = []
    for kind in kinds:
        if kind not in found:
            found.append(kind)
    return found


def _one_of(kinds: list[Parameter]) -> Parameter:
    return kinds[0] if len(kinds) == 1 else Either(kinds=tuple(kinds))


def _is_null(way: Mapping[str, Any]) -> bool:
    kind, values = way.get("type", ""), as_list(way.get("enum"))
    is_one_value = ("const" in way and way["const"] is None) or (values and values == [None] * len(values))
    return kind in ("null", None) or bool(is_one_value)


def _spelt(name: str) -> str:
    """A name as the provider means it."""
    plain = unquote(name).strip()
    return name.strip() if "\ufffd" in plain else plain
