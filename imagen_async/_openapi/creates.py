"""The one create that a model's page describes: which model it names, and the schema of its input."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

import msgspec

from .._text import one_line, shown, told
from ..errors import ConfigurationError

_LONGEST_WAY = 20
"""References that lead from one to the next at most."""

_NO_MODEL = "This is no page of a model: no POST in it takes a `model` and its `input`"


class Create(msgspec.Struct, frozen=True):
    """What a page says of the create.

    Attributes:
        model: The provider's name of the model.
        schema: Of the input.
        example: An input of the page's own; empty where it has none, or one of another model.
        title: What the page calls it.
        is_other_example: True where its example names another model.
    """

    model: str
    schema: Mapping[str, Any]
    example: Mapping[str, Any] = {}
    title: str = ""
    is_other_example: bool = False


class Document:
    """An OpenAPI document whose references are followed, within itself."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self._content = content

    def create(self) -> Create:
        """The create that it describes; raises ConfigurationError where there is none, or not just one."""
        found = list(self._creates())
        if not found:
            paths = self._content.get("paths")
            named = ", ".join(map(str, paths)) if isinstance(paths, Mapping) else "none"
            raise ConfigurationError(f"{_NO_MODEL}; its paths are: {one_line(shown(named, 200))}.")
        names = list(dict.fromkeys(create.model for create in found))
        if len(names) > 1:
            raise ConfigurationError(f"The page is about several models: {', '.join(names)}. Give each its own.")
        return found[0]

    def resolved(self, schema: object) -> Mapping[str, Any]:
        """A schema itself, where it is a reference to one; an empty one for what is none."""
        for _ in range(_LONGEST_WAY):
            if not isinstance(schema, Mapping):
                return {}
            reference = schema.get("$ref")
            if reference is None:
                return schema
            schema = self._at(reference)
        raise ConfigurationError("The page's references lead in a circle.")

    def _at(self, reference: object) -> object:
        if not isinstance(reference, str) or not reference.startswith("#/"):
            raise ConfigurationError(f"The page refers to {told(reference)}, which is not in it.")
        place: object = self._content
        for part in reference[2:].split("/"):
            name = unquote(part).replace("~1", "/").replace("~0", "~")
            items = place if isinstance(place, Mapping) else {}
            # Names are seen with %20 and with a blank, on either side.
            spelt = next((each for each in items if each == name or unquote(str(each)).strip() == name.strip()), None)
            if spelt is None:
                raise ConfigurationError(f"The page refers to {told(reference)}, which is not in it.")
            place = items[spelt]
        return place

    def _creates(self) -> Iterator[Create]:
        paths = self._content.get("paths")
        for path in paths.values() if isinstance(paths, Mapping) else ():
            operation = self.resolved(self.resolved(path).get("post"))
            body = self.resolved(operation.get("requestBody")).get("content")
            media = self.resolved(next(iter(body.values()), None)) if isinstance(body, Mapping) else {}
            properties = self.properties(self.resolved(media.get("schema")))
            if "model" in properties and "input" in properties:
                example = _example_of(media)
                for model in _names_of(self.resolved(properties["model"]), example):
                    yield _create(model, self.resolved(properties["input"]), example, operation)

    def properties(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of an object's schema, with those that it is put together of."""
        found: dict[str, Any] = {}
        for part in _list(schema.get("allOf")):
            found |= self.properties(self.resolved(part))
        own = schema.get("properties")
        return found | (dict(own) if isinstance(own, Mapping) else {})


def _list(value: object) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def _example_of(media: Mapping[str, Any]) -> Mapping[str, Any]:
    several = media.get("examples")
    first = next(iter(several.values()), None) if isinstance(several, Mapping) else None
    found = media.get("example", first.get("value") if isinstance(first, Mapping) else None)
    return found if isinstance(found, Mapping) else {}


def _names_of(schema: Mapping[str, Any], example: Mapping[str, Any]) -> list[str]:
    """The model's names in its own field: what must be there, or else what is there where nothing is said."""
    listed = [schema["const"]] if "const" in schema else _list(schema.get("enum"))
    told_elsewhere = [
        schema.get("default"),
        schema.get("example"),
        *_list(schema.get("examples")),
        example.get("model"),
    ]
    names = listed or [each for each in told_elsewhere if each is not None][:1]
    found = [name.strip() for name in names if isinstance(name, str) and name.strip()]
    if not found:
        raise ConfigurationError("The page does not say which model it is about: its field `model` names none.")
    return found


def _create(model: str, schema: Mapping[str, Any], example: Mapping[str, Any], operation: Mapping[str, Any]) -> Create:
    given, is_other = example.get("input"), example.get("model") not in (None, model)
    return Create(
        model,
        schema,
        given if isinstance(given, Mapping) and not is_other else {},
        one_line(str(operation.get("summary") or "")),
        is_other,
    )
