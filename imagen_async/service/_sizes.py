"""A size in pixels, as OpenAI's clients say it, as the nearest aspect ratio that a model has."""

from __future__ import annotations

import math
from collections.abc import Iterable

from .._text import seldom

_PAIR = seldom(r"([1-9][0-9]{0,4})\s*[xX×:]\s*([1-9][0-9]{0,4})")


def nearest_ratio(size: str, ratios: Iterable[str]) -> str | None:
    """The one of some aspect ratios that is nearest to a size; None for what is no size, or where there are none.

    Args:
        size: Such as `1024x1536`, or itself a ratio, such as `3:4`.
        ratios: Such as `16:9`; others, such as `auto`, are near to nothing. Of two that are as near, the first.
    """
    if size in (named := tuple(ratios)):
        return size
    wanted = _proportion(size)
    known = {each: found for each in named if (found := _proportion(each)) is not None}
    if wanted is None or not known:
        return None
    return min(known, key=lambda each: abs(known[each] - wanted))


def is_size(text: str) -> bool:
    """True for what says a size, or a ratio."""
    return _proportion(text) is not None


def _proportion(text: str) -> float | None:
    """How much wider than high, as a logarithm: twice as wide is as far off as twice as high."""
    found = _PAIR().fullmatch(text.strip())
    return None if found is None else math.log(int(found[1]) / int(found[2]))
