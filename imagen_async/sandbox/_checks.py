"""What a provider makes of a create by the model's record: what it objects to, what it bills, what shape is asked."""

from __future__ import annotations

from .._core.model import Model
from .._core.parameters import Choice, Flag, Parameter, Schema, Text, Whole
from .._core.provider import Provider
from ..providers.kie import KIE
from ._dialects import CreateBody
from ._tasks import images_of

PRICE_WHERE_NONE_IS_KNOWN = 8.0
"""Credits for a picture of a model that has no price in its record and is none of kie.ai's: as its plain Imagen 4."""


def problem_of(provider: Provider, asked: CreateBody) -> tuple[int, str] | None:
    """What a provider would object to: its own code and words. Fields that it does not know are ignored, as seen."""
    if _find(provider, asked) is None:
        return 422, f"The model name {asked.model!r} you specified is not supported"
    if not asked.input.get("prompt"):
        # Seen so: a missing field is a 500 in the body, and not a 422.
        return 500, "prompt is required"
    for field, parameter in _schema(provider, asked).items():
        if field in asked.input and not _wire_takes(parameter, asked.input[field]):
            return 422, f"{field} is invalid"
    return None


def price_of(provider: Provider, asked: CreateBody) -> float:
    """What a create costs. Where its provider publishes no price, kie.ai's: it bills, it only does not tell."""
    model = _find(provider, asked)
    records = () if model is None else (provider.find(model.name), KIE.find(model.name))
    prices = (record.credits for record in records if record is not None)
    price = next((credits for credits in prices if credits is not None), PRICE_WHERE_NONE_IS_KNOWN)
    return price * images_of(asked.input)


def shape_of(provider: Provider, asked: CreateBody) -> str:
    """The asked aspect ratio in our word; the wire's where the model's record has no other for it."""
    given = asked.input.get("aspect_ratio", "1:1")
    parameter = _schema(provider, asked).get("aspect_ratio")
    words = parameter.words if isinstance(parameter, Choice) else {}
    # Several words of ours may be one on the wire; the ratio stands before the provider's own name for it.
    return next((ours for ours, wire in words.items() if wire == given), str(given))


def _find(provider: Provider, asked: CreateBody) -> Model | None:
    return next((model for model in provider.models if model.wire_name == asked.model), None)


def _schema(provider: Provider, asked: CreateBody) -> Schema:
    model = _find(provider, asked)
    return {} if model is None else model.parameters or {}


def _wire_takes(parameter: Parameter, value: object) -> bool:
    """The check from the other side: the types and words of the wire, which are not always ours."""
    match parameter:
        case Text(max_length=longest):
            return isinstance(value, str) and (longest is None or len(value) <= longest)
        case Choice(words=words):
            return isinstance(value, str) and (value in words.values() or value in words)
        case Whole(as_text=True):
            return isinstance(value, str) and value.lstrip("-").isdecimal() and parameter.takes(int(value))
        case Whole() | Flag():
            return parameter.takes(value)
