"""What the head of an answer tells beside its status: how long to wait, and by what name its sender knows it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from email.utils import mktime_tz, parsedate_tz

from .._text import seldom, well_formed

LONGEST_WAIT = 3600.0
"""Seconds that an answer can make anybody wait; then it is asked again."""

LONGEST_ID = 100
"""Characters of a request's id; a `traceparent` has 55."""

_NUMBER = seldom(r"(\d{1,20}(?:\.\d{0,20})?|\.\d{1,20})\s*(?:$|[,;]|s\b|sec|(ms\b))", re.A | re.I)

# Of the API itself first, then of what stands before it.
_IDS = (
    *("x-request-id", "request-id", "x-requestid", "requestid", "x-amzn-requestid", "x-amzn-request-id"),
    *("x-amz-request-id", "x-ms-request-id", "apim-request-id", "x-correlation-id", "correlation-id", "x-trace-id"),
    *("trace-id", "traceid", "x-b3-traceid", "x-log-id", "x-tt-logid", "eagleeye-traceid", "x-cloud-trace-context"),
    *("x-amzn-trace-id", "traceparent", "x-vercel-id", "fly-request-id", "cf-ray", "x-amz-cf-id"),
)


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds for which an answer asks to be left alone, 0 to `LONGEST_WAIT`; None where it says nothing readable.

    Args:
        headers: Of any case.
        now: Unix time. A date is measured against the answer's own `Date`, where it has one: clocks differ.
    """
    of_milliseconds = _seconds(headers.get("Retry-After-Ms"), unit=0.001)
    if of_milliseconds is not None:
        return min(of_milliseconds, LONGEST_WAIT)
    told = headers.get("Retry-After")
    seconds = _seconds(told)
    if seconds is None and told is not None:
        until, sent = _date(told), _date(headers.get("Date"))
        seconds = None if until is None else until - (now if sent is None else sent)
    return None if seconds is None else min(max(seconds, 0.0), LONGEST_WAIT)


def request_id(headers: Mapping[str, str], mask: Callable[[str], str] = str) -> str | None:
    """The id of a request as its server, or what stands before it, names it; None where none does."""
    return next((told for name in _IDS if (told := plain_id(headers.get(name), mask))), None)


def plain_id(told: object, mask: Callable[[str], str] = str) -> str | None:
    """An id as it can be shown, on one line, masked before it is cut; None for what is none."""
    if not isinstance(told, str) or not told.strip():
        return None
    line = "".join(each if each.isprintable() else " " for each in well_formed(told))
    return mask(line.strip())[:LONGEST_ID] or None


def _seconds(told: str | None, unit: float = 1.0) -> float | None:
    found = _NUMBER().match(told.strip().strip("\"'")) if told is not None else None
    return None if found is None else float(found[1]) * (0.001 if found[2] else unit)


def _date(told: str | None) -> float | None:
    """Unix time of a date in any of HTTP's three forms; None for what is none."""
    try:
        parts = None if told is None else parsedate_tz(told)
        return None if parts is None else float(mktime_tz(parts))
    # A day or a year that there is not.
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
