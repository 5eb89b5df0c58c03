"""The columns of a table of pictures: which there are, and a type for each that holds all its values."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from ..library import FIELDS, ColumnType
from .samples import Sample

_EXACT = 2**53
"""Up to here every whole number has a float of its own."""

_FIXED: dict[str, ColumnType] = {
    **{field.name: field.column_type for field in FIELDS if field.column_type is not None},
    "index": "int64",
    "provider": "string",
    "task_id": "string",
    "credits": "float64",
    "latency": "float64",
    "sha256": "string",
    "width": "int64",
    "height": "int64",
}
"""The columns that every table has: a request's fields, then what became of it."""


class Column(msgspec.Struct, frozen=True):
    """A column of a table: its name there, the member of the lines that it holds, and its type."""

    name: str
    field: str
    kind: ColumnType


def columns_of(samples: Iterable[Sample]) -> list[Column]:
    """The columns beside the picture: ours, then the prompt file's, each with a type that holds all its values."""
    values: dict[str, list[Any]] = {}
    for sample in samples:
        for field, value in sample.line.items():
            if field not in _FIXED and field != "file_name":
                values.setdefault(field, []).append(value)
    columns = [Column(field, field, kind) for field, kind in _FIXED.items()]
    taken = {"image", *_FIXED, *values} - ({"image"} & values.keys())
    for field in values:
        name = field
        while name == "image" or (name != field and name in taken):
            name = f"input_{name}"
        columns.append(Column(name, field, _type_of(values[field])))
    return columns


def _type_of(values: Sequence[Any]) -> ColumnType:
    known = [value for value in values if value is not None]
    # Their very types: True is an int as well, and would turn into 1 in a column of numbers.
    kinds = {type(value) for value in known}
    if kinds == {bool}:
        return "bool"
    if kinds == {int} and all(-(2**63) <= value < 2**63 for value in known):
        return "int64"
    is_exact = all(abs(value) <= _EXACT for value in known if type(value) is int)
    if kinds in ({float}, {int, float}) and is_exact:
        return "float64"
    return "string"


def value_of(value: Any, kind: ColumnType) -> Any:
    """A value as its column takes it; what has no column type of its own is JSON."""
    if value is None or kind != "string" or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)
