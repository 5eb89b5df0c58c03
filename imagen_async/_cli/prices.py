"""What models cost, as people and programs read it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..providers import Model, Price


def price_text(models: Sequence[Model]) -> str:
    """The price of a picture of these models, which have one name."""
    known = [model for model in models if model.credits is not None]
    told = price_json(known)
    if told is None:
        return "price unknown"
    least, most = told if isinstance(told, list) else (told, told)
    text = f"{least:g} to {most:g} credits" if least != most else f"{most:g} credits"
    return text if len(known) == len(models) else f"{text} or unknown"


def price_json(models: Iterable[Model]) -> float | list[float] | None:
    """The same as a number, or as the least and the most; None where one of them is unknown."""
    bounds: list[float] = []
    for model in models:
        prices = _prices(model)
        if not prices:
            return None
        bounds += prices
    if not bounds:
        return None
    least, most = min(bounds), max(bounds)
    return most if least == most else [least, most]


def _prices(model: Model) -> list[float]:
    if isinstance(model.credits, Price):
        return [model.credits.credits, *model.credits.by_value.values()]
    return [] if model.credits is None else [model.credits]
