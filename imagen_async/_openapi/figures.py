"""Numbers and words as a page writes them, with or without quotes."""

from __future__ import annotations

import math
import re
from typing import Any

from .flat import is_number

_BEYOND = 2**63
"""Numbers from which on a bound binds nothing."""


def whole_of(value: object) -> int | None:
    """The whole number that a bound of length or count comes to; None for what is no number."""
    figure = figure_of(value)
    return None if figure is None else math.floor(figure)


def figure_of(value: object) -> float | None:
    """A number that can be a bound, also where a page writes it as a text."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,3}(,[0-9]{3}){1,5}", value):
        value = value.replace(",", "")
    if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,18}(\.[0-9]{1,18})?", value):
        value = float(value) if "." in value else int(value)
    if not is_number(value) or not -_BEYOND <= value <= _BEYOND:
        return None
    return int(value) if isinstance(value, int) else float(value)


def plain_json(value: Any) -> Any:
    """The same of plain numbers: those of a page know their letters, and are written by nobody."""
    if isinstance(value, list):
        return [plain_json(each) for each in value]
    if isinstance(value, dict):
        return {name: plain_json(each) for name, each in value.items()}
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return int(value) if isinstance(value, int) else float(value)


def letters_of(value: object) -> object:
    """What YAML has taken for a number or a truth value, as the letters that the page has."""
    if isinstance(value, bool):
        return str(value).lower()
    return getattr(value, "letters", str(value)) if is_number(value) else value


def plain_of(value: str | float, *, has_points: bool = False) -> str | int | float:
    """A value as itself; where no number has a point, 2.0 is 2, which are one to JSON."""
    if isinstance(value, str):
        return value
    return int(value) if isinstance(value, int) or (value.is_integer() and not has_points) else float(value)
