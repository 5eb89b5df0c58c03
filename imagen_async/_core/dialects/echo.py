"""What a provider says that it has understood of a request, beside what was sent: what it drops it drops silently."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ..field_names import folded
from ..forgiving_json import unwrapped
from ..wire import loose_json

_UNDERSTOOD = ("paramjson", "param")
"""Where a record says it, as these read in any style; what was read of the request before the request as it came."""


def ignored_in(raw: bytes, sent: Mapping[str, Any], files: Collection[str] = ()) -> tuple[str, ...]:
    """The fields of an input that the provider has dropped, or has made something else of; none where it is not told.

    Args:
        raw: Its answer about the task.
        sent: The input as it was sent.
        files: Fields whose addresses may be others there.
    """
    understood = _understood_in(raw, sent)
    if understood is None:
        return ()
    return tuple(
        name
        for name, value in sent.items()
        if name not in understood or not (_as_many if name in files else _is_same)(understood[name], value)
    )


def _understood_in(raw: bytes, sent: Mapping[str, Any]) -> Mapping[str, Any] | None:
    record = unwrapped(loose_json(raw))
    data = unwrapped(record.get("data")) if isinstance(record, dict) else None
    for word in _UNDERSTOOD:
        told = next((value for key, value in _items(data) if folded(key) == word), None)
        found = _opened(told)
        inside = _opened(found.get("input")) if found is not None and "input" in found else None
        understood = found if inside is None else inside
        # Another thing than the input says nothing of it: one field at least is to be as it was sent.
        if understood and any(name in understood and _is_same(understood[name], value) for name, value in sent.items()):
            return understood
    return None


def _items(value: Any) -> Collection[tuple[str, Any]]:
    return value.items() if isinstance(value, dict) else ()


def _opened(value: Any) -> dict[str, Any] | None:
    value = loose_json(value) if isinstance(value, str) else value
    return value if isinstance(value, dict) else None


def _as_many(one: Any, other: Any) -> bool:
    """True where two say as many addresses."""
    counts = [len(each) if isinstance(each, list | tuple) else int(each not in (None, "")) for each in (one, other)]
    return counts[0] == counts[1]


def _is_same(one: Any, other: Any) -> bool:
    """True where two values are one to an API, which may write 7 as '7'."""
    if isinstance(one, bool) or isinstance(other, bool):
        return str(one).lower() == str(other).lower()
    return one == other or str(one) == str(other)
