"""A line of a prompt file: a request that knows where it stands, or what is wrong with it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from ... import ImageRequest
from ..columns import EXACT
from ..library import FIELDS, shown

KINDS = {field.name: field.kind for field in FIELDS if not field.is_made}
"""What a value is read as, by its field's name in lower case; other names are not a request's."""

_MEANT = ("prompts", "caption", "captions", "text", "description", "positive_prompt", "query", "instruction")
"""What others call a prompt."""


class PromptLine(ImageRequest, frozen=True):
    """A request that knows its line, and the columns that are not a request's."""

    line: int = 0
    columns: dict[str, Any] = {}  # noqa: RUF012 - msgspec copies an empty default


class BadLine(msgspec.Struct, frozen=True):
    """A line that cannot be used, and why.

    Attributes:
        line: Its number.
        problem: Why.
        request: What it is where its model needs no prompt, and its columns are fields of that; None: nothing.
        is_last: True where all others have the same problem: they are not looked at.
    """

    line: int
    problem: str
    request: PromptLine | None = None
    is_last: bool = False


Item = PromptLine | BadLine
"""What a line comes to."""


def request_of(line: int, values: Mapping[str, Any]) -> Item:
    """A request of named values; the check of their types and ranges is the model's."""
    fields: dict[str, Any] = {}
    columns: dict[str, Any] = {}
    for name, value in values.items():
        lowered = name if name in KINDS else name.lower()
        if lowered in KINDS:
            fields[lowered] = _whole(value) if type(value) is float and KINDS[lowered] == "whole" else value
        else:
            columns[name] = value
    own = len({name.lower() for name in columns}) if len(columns) > 1 else len(columns)
    if len(fields) + own < len(values):
        return BadLine(line, "two of its fields have one name")
    return request_from(line, fields, columns)


def request_from(line: int, fields: dict[str, Any], columns: dict[str, Any]) -> Item:
    """A request of its fields, by their own names, and of what is beside them."""
    if isinstance(fields.get("prompt"), str):
        fields["prompt"] = fields["prompt"].strip()
    if fields.get("images") is None:
        fields.pop("images", None)
    if fields.get("extra") is None:
        fields.pop("extra", None)
    key = fields.get("key")
    if key is not None:
        # A number is the same key as its digits, so that JSON and CSV agree.
        fields["key"] = str(key)
    request = PromptLine(**fields, line=line, columns=columns)
    # What only changes a picture needs no words.
    if "prompt" in fields or request.images:
        return request
    only = f", only {shown(', '.join(columns))!r}" if columns else ""
    other_name = meant(columns)
    return BadLine(line, f"there is no prompt{other_name or only}", None if other_name else request)


def meant(names: Iterable[str]) -> str:
    """A question after the column that may be the prompt's, where there is none of that name; else nothing."""
    lowered = {name.lower().strip(): name for name in names}
    found = [*(name for name in _MEANT if name in lowered), *difflib.get_close_matches("prompt", lowered, 1, 0.7)]
    return f"; did you mean {lowered[found[0]]!r}? Rename it to prompt" if found else ""


def _whole(value: float) -> float:
    """42.0 as 42: a column of numbers in which some are missing is one of floats to most tools."""
    return int(value) if abs(value) <= EXACT and value.is_integer() else value
