"""What the fields of a body hold, each of its kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from .._text import seldom, told
from ._refusals import wrong

MOST_PICTURES = 10
"""Pictures that one request may ask for, as OpenAI has it."""

_NUMBERS = frozenset(("n", "seed", "output_compression", "frame_count", "frame_duration_ms", "partial_images"))
_WHOLE = seldom(r"-?[0-9]{1,18}")
_FLAGS = {"true": True, "1": True, "false": False, "0": False}


def typed(name: str, value: Any) -> Any:
    """What a text of a form stands for."""
    if not isinstance(value, str):
        return value
    if name in _NUMBERS and _WHOLE().fullmatch(value.strip()):
        return int(value)
    if name in ("stream", "async"):
        return _FLAGS.get(value.strip().lower(), value)
    if name == "extra":
        try:
            return msgspec.json.decode(value)
        except (msgspec.MsgspecError, RecursionError, UnicodeEncodeError):
            return value
    return value


def text_in(fields: Mapping[str, Any], name: str) -> str | None:
    """The text of a field, or None; raises Refused for anything else."""
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise wrong(f"{name}={told(value)}: allowed is a text.", name)
    return value


def flag_in(fields: Mapping[str, Any], name: str) -> bool:
    """What a field says that is true or false, the latter where there is none; raises Refused."""
    value = fields.get(name, False)
    if not isinstance(value, bool):
        raise wrong(f"{name}={told(value)}: allowed is true or false.", name)
    return value


def count_in(fields: Mapping[str, Any]) -> int:
    """How many pictures are wanted; raises Refused."""
    value = fields.get("n", 1)
    if type(value) is not int or not 1 <= value <= MOST_PICTURES:
        raise wrong(f"n={told(value)}: allowed is a whole number from 1 to {MOST_PICTURES}.", "n")
    return value


def table_in(fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The object of a field; raises Refused."""
    value = fields.get(name, {})
    if not isinstance(value, dict):
        raise wrong(f"{name}={told(value)}: allowed is an object of the model's own fields.", name)
    return value


def addresses_in(fields: Mapping[str, Any], name: str) -> list[str]:
    """The addresses of a field, which may be one or several; raises Refused."""
    value = fields.get(name, [])
    found = value if isinstance(value, list) else [value]
    for each in found:
        if not isinstance(each, str) or not each.strip():
            raise wrong(f"{name}={told(each)}: allowed are addresses of pictures.", name)
    return found
