"""The list of models and their schemas, as kie.ai tells them: OpenAPI 3.1, written out of the records."""

from __future__ import annotations

from typing import Any

from .._core.model import Model
from .._core.parameters import (
    Anything,
    Choice,
    Either,
    Fields,
    File,
    Flag,
    Items,
    Number,
    Parameter,
    Schema,
    Text,
    Whole,
)
from .._core.prices import Price
from .._core.provider import Provider


def list_of(provider: Provider) -> list[dict[str, Any]]:
    """The models of a provider, with their prices in words."""
    return [
        {"model": model.wire_name, "taskType": [model.task or ""], "pricingDesc": _price(model)}
        for model in provider.models
    ]


def _price(model: Model) -> str:
    match model.credits:
        case None:
            return ""
        case Price(credits=credits, field=field, by_value=by_value):
            return ", ".join(f"{field} {value}: {each:g} credits" for value, each in by_value.items()) or f"{credits:g}"
        case credits:
            return f"{credits:g} credits per image"


def openapi_of(model: Model) -> dict[str, Any]:
    """The document of one model: what `from_openapi` makes its record of again."""
    schema = {
        "type": "object",
        "required": ["model", "input"],
        "properties": {
            "model": {"type": "string", "enum": [model.wire_name]},
            "callBackUrl": {"type": "string", "format": "uri"},
            "input": {"$ref": "#/components/schemas/Input%20of%20the%20model"},
        },
    }
    body = {"content": {"application/json": {"schema": schema}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": model.wire_name, "version": "1"},
        "paths": {"/api/v1/jobs/createTask": {"post": {"summary": model.wire_name, "requestBody": body}}},
        "components": {"schemas": {"Input of the model": _input(model)}},
    }


def _input(model: Model) -> dict[str, Any]:
    described = _object(model.parameters or {})
    if not model.branches:
        return described
    properties = described["properties"]
    names = {name for branch in model.branches for name in branch.fields}
    ways = [
        {"required": list(branch.required), "properties": {name: properties[name] for name in branch.fields}}
        for branch in model.branches
    ]
    own = {name: each for name, each in properties.items() if name not in names}
    return {**described, "properties": own, "oneOf": ways}


def _object(fields: Schema) -> dict[str, Any]:
    required = [name for name, each in fields.items() if each.required]
    described = {name: _schema(each) for name, each in fields.items()}
    return {"type": "object", "properties": described, **({"required": required} if required else {})}


def _schema(parameter: Parameter) -> dict[str, Any]:
    default = {} if parameter.default is None else {"default": parameter.default}
    return {**_kind(parameter), **default}


def _kind(parameter: Parameter) -> dict[str, Any]:
    match parameter:
        case Text(max_length=longest, min_length=least):
            return {"type": "string", **_told(maxLength=longest, minLength=least or None)}
        case File():
            return {"type": "string", "format": "uri", **_told(description=_prose(parameter))}
        case Choice(values=values):
            return {"type": _type_of(values), "enum": list(values)}
        case Whole(minimum=least, maximum=most):
            return {"type": "integer", **_told(minimum=least, maximum=most)}
        case Number(minimum=lowest, maximum=highest):
            return {"type": "number", **_told(minimum=lowest, maximum=highest)}
        case Flag():
            return {"type": "boolean"}
        case Items(of=each, max_items=most, min_items=least):
            return {"type": "array", "items": _schema(each), **_told(maxItems=most, minItems=least or None)}
        case Fields(fields=fields):
            return _object(fields)
        case Either(kinds=kinds):
            return {"anyOf": [_schema(each) for each in kinds]}
        case Anything():
            return {}


def _told(**words: Any) -> dict[str, Any]:
    return {name: value for name, value in words.items() if value is not None}


def _type_of(values: tuple[str | int | float, ...]) -> str | list[str]:
    kinds = {type(value) for value in values}
    number = "integer" if float not in kinds else "number"
    return number if str not in kinds else "string" if len(kinds) == 1 else ["string", number]


def _prose(file: File) -> str | None:
    """What its page says of a file in words alone."""
    told = []
    if file.accepts:
        told.append(f"Accepted types: {', '.join(file.accepts)}")
    if file.max_bytes is not None:
        told.append(f"Max size: {file.max_bytes / 1e6:.1f}MB")
    return f"(File URL after upload; {'; '.join(told)})" if told else None
