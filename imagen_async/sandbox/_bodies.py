"""Reads the JSON that others send: what cannot be read, or not be written again, is no body at all."""

from __future__ import annotations

from typing import Any

import msgspec

from .._core.forgiving_json import NOT_JSON
from .._core.plain_values import DEEPEST

# What the client lets a request hold, in the input of a body.
_DEEPEST = DEEPEST + 2


def object_of(body: bytes) -> dict[str, Any]:
    """The JSON object of a body; an empty one where there is none."""
    try:
        # Strict, as the servers are: no NaN, no half of a character.
        content = msgspec.json.decode(body)
    except NOT_JSON:
        return {}
    return content if isinstance(content, dict) and not _is_deeper(content, _DEEPEST) else {}


def _is_deeper(value: object, most: int) -> bool:
    # Answers and callbacks tell it again, from further down in the stack than where it was read.
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return most < 0 or any(_is_deeper(each, most - 1) for each in inside)
