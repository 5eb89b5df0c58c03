"""A provider's own list of models, read loosely: no sample of it is at hand, only words about it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from .._core.field_names import folded
from .._core.record_values import is_price
from .._text import one_line, shown

_NAMES = ("model", "modelid", "modelname", "id", "slug", "name")
"""What a model's name may stand under, as it reads in any style, the surest first."""

_PRICE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*credits?\s*(?:per|/|an?|each)\s*(?:image|picture|generation)", re.I)

DEEPEST = 6


class Listed(msgspec.Struct, frozen=True):
    """One model of a list.

    Attributes:
        wire_name: The provider's name of it.
        credits: Of a picture, where the list tells one price alone.
        price: What it says of the price, in its own words; empty where it says nothing.
    """

    wire_name: str
    credits: float | None = None
    price: str = ""


def listed_in(answer: Any) -> list[Listed]:
    """The models of a list, however deep in the answer it is; none where there is no list."""
    found = {each.wire_name: each for each in _in(answer, DEEPEST)}
    return list(found.values())


def _in(value: Any, room: int) -> Iterator[Listed]:
    if not room:
        return
    if isinstance(value, list):
        for each in value:
            listed = _listed(each)
            if listed is None:
                yield from _in(each, room - 1)
            else:
                yield listed
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _in(each, room - 1)


def _listed(item: Any) -> Listed | None:
    if isinstance(item, str):
        return Listed(item) if re.fullmatch(r"[\w.-]+(/[\w.-]+)*", item) else None
    if not isinstance(item, Mapping):
        return None
    told = {folded(str(key)): value for key, value in item.items()}
    names = (told.get(name) for name in _NAMES)
    name = next((each for each in names if isinstance(each, str) and re.fullmatch(r"[\w.-]+(/[\w.-]+)*", each)), None)
    if name is None:
        return None
    words = one_line(shown(" ".join(_price_words(item, 3)), 300))
    prices = {float(each) for each in _PRICE.findall(words)}
    price = prices.pop() if len(prices) == 1 else None
    return Listed(name, price if is_price(price) else None, words)


def _price_words(item: Mapping[str, Any], room: int) -> Iterator[str]:
    for key, value in item.items():
        if "pric" in folded(str(key)) and isinstance(value, str):
            yield value
        elif isinstance(value, Mapping) and room and "pric" in folded(str(key)):
            yield from (each for each in value.values() if isinstance(each, str))
