"""The columns of a table of pictures: which there are, and a type for each that holds all its values."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import msgspec

from ..columns import Columns, Shape
from ..library import FIELDS, ColumnType
from .samples import Sample

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


_KINDS: dict[Shape | None, ColumnType] = {"bool": "bool", "small": "int64", "int64": "int64", "float64": "float64"}
"""The types of columns by the shape of their values; of all others, text."""


class Column(msgspec.Struct, frozen=True):
    """A column of a table: the member of the lines that it holds, by whose name it goes, and its type."""

    name: str
    kind: ColumnType


def columns_of(samples: Iterable[Sample]) -> list[Column]:
    """The columns beside the picture: ours, then the prompt file's, each with a type that holds all its values."""
    others = Columns()
    for sample in samples:
        others.add({name: value for name, value in sample.line.items() if name not in _FIXED and name != "file_name"})
    columns = [Column(name, kind) for name, kind in _FIXED.items()]
    return columns + [Column(name, _KINDS.get(others.shape(name), "string")) for name in others.names]


def value_of(value: Any, kind: ColumnType) -> Any:
    """A value as its column takes it; what has no column type of its own is JSON."""
    if value is None or kind != "string" or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)
