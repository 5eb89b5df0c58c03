"""Credits as providers tell them: a number, one in a text, one in an object; debits with their sign."""

from __future__ import annotations

import re
from typing import Any

from ..._text import seldom
from ..field_names import folded
from ..forgiving_json import unwrapped

_BILLED = (
    *("creditsconsumed", "consumecredits", "creditsused", "credits", "credit", "amount", "cost", "price", "total"),
    *("value", "consumed", "used", "spent", "charged", "deducted"),
)
_BALANCE = (
    *("remaining", "remainingcredits", "creditsremaining", "balance", "creditbalance", "available", "availablecredits"),
    *("credits", "credit", "amount", "total", "value", "data"),
)
_DEEPEST = 3
_UNIT = r"(?:credits?|cr|points?|pts?|积分)"
# Thousands are set off, which is more than the same with a decimal comma. A currency's sign is in none: no credits.
_TEXT = seldom(
    rf"(?:{_UNIT}\s*[:=]?\s*)?([-+]?)([1-9]\d{{0,2}}(?:[, _'’\u00a0\u202f]\d{{3}})+|\d+)"
    rf"(?:[.,](\d*))?(e[-+]?\d{{1,3}})?\s*{_UNIT}?",
    re.I | re.A,
)
# With the dots and the comma the other way round, where no doubt is left.
_DOTTED = seldom(r"[-+]?[1-9]\d{0,2}(?:(?:\.\d{3})+,\d*|(?:\.\d{3}){2,})\b", re.A)
_LARGEST = 1e18


def billed(*told: object) -> float | None:
    """What was billed, by the first of these that can be an amount: never below nothing, as a debit has its sign."""
    for value in told:
        if value is not None and (found := amount(value, _BILLED)) is not None:
            return abs(found)
    return None


def balance(told: object) -> float | None:
    """What an account has; below nothing where it owes."""
    return amount(told, _BALANCE)


def amount(value: object, names: tuple[str, ...] = (), depth: int = _DEEPEST) -> float | None:
    """A number of credits, however it is told; None for what is none."""
    match value:
        case bool():
            return None
        case int() | float():
            return float(value) if abs(value) <= _LARGEST else None
        case str():
            inner = unwrapped(value)
            return amount(inner, names, depth) if isinstance(inner, dict) else _in_text(value)
        case dict() if depth and _is_in_credits(value):
            spelt = {folded(key): value[key] for key in value}
            amounts = (amount(spelt[name], names, depth - 1) for name in names if name in spelt)
            return next((each for each in amounts if each is not None), None)
    return None


def _is_in_credits(told: dict[str, Any]) -> bool:
    """Dollars are none."""
    unit = told.get("currency") or told.get("unit")
    return not unit or (isinstance(unit, str) and re.fullmatch(_UNIT, unit, re.I) is not None)


def _in_text(text: str) -> float | None:
    text = text.strip().replace("−", "-")
    if _DOTTED().match(text):
        text = text.translate(str.maketrans(".,", ",."))
    found = _TEXT().fullmatch(text) if len(text) <= 64 else None
    if found is None:
        return None
    sign, whole, decimals, power = found.groups()
    digits = re.sub("[^0-9]", "", whole)
    return amount(float(f"{sign}{digits}.{decimals or 0}{power or ''}"))
