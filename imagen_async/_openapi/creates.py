"""The one create that a model's page describes: which model it names, and the schema of its input."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

import msgspec

from .._text import one_line, shown, told
from ..errors import ConfigurationError
from .flat import Flattener, as_list, beside_ways, ways_in

_NO_OBJECT = (
    "This is no page of a createTask model: its `input` is no object of fields, as that of a model that answers at once"
)
_NO_MODEL = "This is no page of a model: no POST in it takes a `model` and its `input`"


class Create(msgspec.Struct, frozen=True):
    """What a page says of the create.

    Attributes:
        model: The provider's name of the model.
        schema: Of the input.
        title: What the page calls it.
        is_other_example: True where its example names another model.
    """

    model: str
    schema: Mapping[str, Any]
    title: str = ""
    is_other_example: bool = False


class Document:
    """An OpenAPI document whose references are followed, within itself.

    Args:
        content: The document.
        named: The model that it is of, where that is told beside it.

    Attributes:
        notes: What could not be put together.
    """

    def __init__(self, content: Mapping[str, Any], named: str | None = None) -> None:
        self.notes: list[str] = []
        self._content = content
        self._named = named
        self._flattener = Flattener(self._at, lambda what: self.notes.append(f"its input {what}"))

    def create(self) -> Create:
        """The create that it describes; raises ConfigurationError where there is none, or not just one.

        What is described several times over is taken in any of these ways.
        """
        found = list(self._creates())
        if not found:
            paths = self._content.get("paths")
            named = ", ".join(map(str, paths)) if isinstance(paths, Mapping) else "none"
            raise ConfigurationError(f"{_NO_MODEL}; its paths are: {one_line(shown(named, 200))}.")
        names = list(dict.fromkeys(create.model for create in found))
        if len(names) > 1:
            raise ConfigurationError(f"The page is about several models: {', '.join(names)}. Give each its own.")
        ways: list[Mapping[str, Any]] = []
        for create in found:
            if create.schema not in ways:
                ways.append(create.schema)
        return found[0] if len(ways) == 1 else msgspec.structs.replace(found[0], schema={"oneOf": ways})

    def resolved(self, schema: object) -> Mapping[str, Any]:
        """A schema in one piece; an empty one for what is none."""
        return self._flattener.flat(schema)

    def _at(self, reference: object) -> object:
        if not isinstance(reference, str) or not reference.startswith("#/"):
            raise ConfigurationError(f"The page refers to {told(reference)}, which is not in it.")
        place: object = self._content
        for part in reference[2:].split("/"):
            name = unquote(part).replace("~1", "/").replace("~0", "~")
            if isinstance(place, list) and name.isdecimal() and int(name) < len(place):
                place = place[int(name)]
                continue
            place = _under(place, name)
            if place is None:
                raise ConfigurationError(f"The page refers to {told(reference)}, which is not in it.")
        return place

    def _creates(self) -> Iterator[Create]:
        nameless: ConfigurationError | None = None
        found = 0
        for operation, media, schema in self._bodies():
            properties = self.properties(schema)
            model, given = _under(properties, "model"), _under(properties, "input")
            if model is None or given is None:
                continue
            if not self._may_hold_fields(given):
                nameless = nameless or ConfigurationError(_NO_OBJECT)
                continue
            # Whose example a page shows is seen to be another's (1 of 109).
            shown_model = _example_of(media).get("model")
            try:
                names = _names_of(self.resolved(model), shown_model, self._named)
            except ConfigurationError as error:
                nameless = nameless or error
                continue
            self._note_others(schema)
            for name in names:
                found += 1
                title, is_other = one_line(str(operation.get("summary") or "")), shown_model not in (None, name)
                yield Create(name, self.resolved(given), title, is_other)
        if nameless is not None and not found:
            raise nameless

    def _may_hold_fields(self, given: object) -> bool:
        """False for the input of a model that answers at once: a text, or a list."""
        schema = self.resolved(given)
        ways = ways_in(schema)
        kinds = schema.get("type", "object")
        is_object = "object" in as_list(kinds) if isinstance(kinds, list | tuple) else kinds in ("object", None)
        return is_object and (not ways or any(map(self._may_hold_fields, ways)))

    def _bodies(self) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]]]:
        """The bodies that a POST may have, with what is around each: JSON first, and each of several ways."""
        paths = _under(self._content, "paths")
        for path in paths.values() if isinstance(paths, Mapping) else ():
            operation = self.resolved(_under(self.resolved(path), "post"))
            content = _under(self.resolved(_under(operation, "requestBody")), "content")
            medias = content.items() if isinstance(content, Mapping) else ()
            for _, each in sorted(medias, key=lambda item: "json" not in str(item[0])):
                media = self.resolved(each)
                schema = self.resolved(_under(media, "schema"))
                whole = [self.resolved({"allOf": [beside_ways(schema), way]}) for way in ways_in(schema)] or [schema]
                yield from ((operation, media, each) for each in whole)

    def _note_others(self, schema: Mapping[str, Any]) -> None:
        others = [str(name) for name in as_list(schema.get("required")) if str(name).strip() not in ("model", "input")]
        if others:
            self.notes.append(f"the create wants {one_line(', '.join(others))} beside its input, which is not sent")

    def properties(self, schema: object) -> dict[str, Any]:
        """The fields of an object's schema, with those that it is put together of."""
        own = self.resolved(schema).get("properties")
        return {str(name): each for name, each in own.items()} if isinstance(own, Mapping) else {}


def _example_of(media: Mapping[str, Any]) -> Mapping[str, Any]:
    several = media.get("examples")
    first = next(iter(several.values()), None) if isinstance(several, Mapping) else None
    found = media.get("example", first.get("value") if isinstance(first, Mapping) else None)
    return found if isinstance(found, Mapping) else {}


def _under(value: object, name: str) -> Any:
    """What stands under a name, however that is spelt: names are seen with %20 and with a blank, on either side."""
    items = value if isinstance(value, Mapping) else {}
    if name in items:
        return items[name]
    return next((each for key, each in items.items() if unquote(str(key)).strip() == name.strip()), None)


def _names_of(schema: Mapping[str, Any], shown_model: object, named: str | None) -> list[str]:
    """The model's names in its own field: what must be there, or else what is there where nothing is said."""
    listed = [schema["const"]] if "const" in schema else as_list(schema.get("enum"))
    told_elsewhere = [
        schema.get("default"),
        schema.get("example"),
        *as_list(schema.get("examples")),
        shown_model,
    ]
    if named is not None and (not listed or named in listed):
        return [named]
    names = listed or [each for each in told_elsewhere if each is not None][:1]
    found = [name.strip() for name in names if isinstance(name, str) and name.strip()]
    if not found:
        raise ConfigurationError("The page does not say which model it is about: its field `model` names none.")
    return found
