"""What a provider makes of a create by the model's record: what it objects to, what it bills, what shape is asked."""

from __future__ import annotations

from typing import Any

from .._core.branches import is_one_way, ways_told
from .._core.model import Model
from .._core.own_fields import Translation
from .._core.parameters import Choice, Parameter, Text
from .._core.prices import Price
from .._core.provider import Provider
from .._core.values import ImageRequest
from ..providers.kie import KIE
from ._dialects import CreateBody

PRICE_WHERE_NONE_IS_KNOWN = 8.0
"""Credits for a picture of a model that has no price in its record, nor in that of kie.ai: as its plain Imagen 4."""

_NAME = Text(required=True)


def problem_of(provider: Provider, asked: CreateBody) -> tuple[int, str] | None:
    """What a provider would object to: its own code and words. Fields that it does not know are ignored, as seen."""
    if not _NAME.takes(asked.model) or (_known(provider, asked) is None and not provider.dialect.takes_raw_models):
        return 422, f"The model name {asked.model!r} you specified is not supported"
    model = _find(provider, asked)
    schema = model.inputs if model.parameters is not None else {"prompt": Text(required=True)}
    for field, parameter in schema.items():
        value = asked.input.get(field)
        if value is None or (value == "" and isinstance(parameter, Text) and parameter.required):
            # Seen so: a missing field is a 500 in the body, and not a 422.
            if parameter.required and parameter.default is None:
                return 500, f"{field} is required"
        elif not parameter.takes(value):
            return _refused(field, parameter)
    given = [name for name, value in asked.input.items() if value is not None]
    return None if is_one_way(given, model.branches) else (500, f"{ways_told(model.branches)} is required")


def _refused(field: str, parameter: Parameter) -> tuple[int, str]:
    # Seen in seven programs of others.
    if isinstance(parameter, Choice):
        return 500, f"This {field} is not within the range of allowed options"
    return 422, f"{field} is invalid"


def count_of(provider: Provider, asked: CreateBody) -> int:
    """Pictures that it makes: one where the model has no field for that, as seen with fields that it does not know."""
    return _find(provider, asked).count(_request_of(asked))


def price_of(provider: Provider, asked: CreateBody) -> float:
    """What a create costs. Where its provider publishes no price, kie.ai's: it bills, it only does not tell."""
    model, request = _find(provider, asked), _request_of(asked)
    for record in (model, *KIE.named(model.name)):
        if isinstance(record.credits, Price):
            return record.price(request) or 0.0
        if record.credits is not None:
            return record.credits * model.count(request)
    return PRICE_WHERE_NONE_IS_KNOWN * model.count(request)


def inputs_of(provider: Provider, asked: CreateBody) -> tuple[str, ...]:
    """The addresses of the files that go in, in their order."""
    found: list[object] = []
    for field in _find(provider, asked).files:
        value = asked.input.get(field)
        found += value if isinstance(value, list) else [value]
    return tuple(each for each in found if isinstance(each, str))


def understood_in(provider: Provider, asked: CreateBody) -> dict[str, Any]:
    """What of the input the model has fields for; of a raw one all."""
    schema = _find(provider, asked).parameters
    return {name: value for name, value in asked.input.items() if schema is None or name in schema}


def _request_of(asked: CreateBody) -> ImageRequest:
    """What was asked, by the names that it has on the wire."""
    return ImageRequest("", extra=asked.input)


def shape_of(provider: Provider, asked: CreateBody) -> str:
    """The asked shape as a ratio; the wire's word where the model's record has no other for it."""
    model = _find(provider, asked)
    translation = model.translations.get("aspect_ratio", Translation("aspect_ratio"))
    parameter = (model.parameters or {}).get(translation.field)
    given = asked.input.get(translation.field) or (parameter.default if parameter else None) or "1:1"
    return next((ours for ours, wire in translation.words.items() if wire == given), str(given))


def _find(provider: Provider, asked: CreateBody) -> Model:
    """The record of the asked model; of one that nobody has a record of, a raw one."""
    return _known(provider, asked) or Model(asked.model, asked.model, None)


def _known(provider: Provider, asked: CreateBody) -> Model | None:
    # By its own name alone, at whatever price was agreed on.
    found = next((model for model in provider.models if model.wire_name == asked.model), None)
    return None if found is None else provider.priced(found)
