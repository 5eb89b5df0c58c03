"""The columns beside a request's fields, as a list of pictures takes them: under names and as types that load.

Hugging Face's `datasets` reads a list without a schema. It takes any column that ends in `file_name` or `file_names`,
in an object too, for pictures, and a column has one type in all its lines, or nothing loads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, KeysView, Mapping
from typing import Any

_TAKEN = re.compile(r"(.*_)?file_names?")
"""Columns that `datasets` takes for the names of pictures' files, and replaces by what is in them."""

PICTURE = "image"
"""The column that `datasets` makes of `file_name`."""

EXACT = 2**53
"""Up to here every whole number has a float of its own, and a float is the whole number that it says."""

_TIME = re.compile(r"\d{4}-\d\d-\d\d([ T]\d\d(:?\d\d(:?\d\d(\.\d+)?)?)?(Z|[+-]\d\d(:?\d\d)?)?)?")
"""A text that is read as a time where no schema says otherwise: a column that begins with some takes no other text."""

Shape = str | tuple[Any, ...]
"""What values are alike in: the name of a type, or what is in a list or an object.

Of numbers: `small` is a whole one that a float can hold, `int64` one that it may not. Of times: how they are written.
"""

TEXT = "text"
"""The shape of values that no type holds but text: as it is where it is one, else as JSON."""

_USUAL: dict[type, Shape] = {str: "string", float: "float64", bool: "bool"}
"""The shapes that hold whatever is of a type."""

_NUMBERS = {"small": 0, "int64": 1, "float64": 2}


class Columns:
    """The columns of all lines of a list, which decide together how each is written."""

    def __init__(self) -> None:
        self._shapes: dict[str, Shape | None] = {}
        self._listed: dict[str, str] = {}

    @property
    def names(self) -> KeysView[str]:
        """Of all columns that were seen."""
        return self._shapes.keys()

    def add(self, columns: Mapping[str, Any]) -> bool:
        """See the columns of one more line; True where it tells something new of any."""
        new = [
            name
            for name, value in columns.items()
            if not self._is_usual(name, value) and self._see(name, _shape_of(value))
        ]
        return bool(new)

    def _is_usual(self, name: str, value: Any) -> bool:
        """True for a value that tells nothing new at the first look, as most do."""
        return name in self._shapes and (value is None or _USUAL.get(type(value)) == self._shapes[name])

    def merge(self, others: Columns) -> None:
        """See the columns of another list as well."""
        for name, shape in others._shapes.items():
            self._see(name, shape)

    def mark(self) -> str:
        """What differs where any column is another, or comes in another order."""
        return str(self._shapes)

    def shape(self, name: str) -> Shape | None:
        """What all values of a column are alike in; None where there are none."""
        return self._shapes.get(name)

    def listed(self, columns: Mapping[str, Any], ours: Collection[str]) -> dict[str, Any]:
        """A line's columns as the list has them, beside its own fields."""
        if not self._listed:
            self._listed = listed_names(self._shapes, {PICTURE, *ours})
        return {self._listed[name]: self.value(name, value) for name, value in columns.items()}

    def value(self, name: str, value: Any) -> Any:
        """A column's value as a list has it."""
        shape = self._shapes.get(name)
        if shape == TEXT and value is not None and not isinstance(value, str):
            return json.dumps(value, ensure_ascii=False)
        return float(value) if shape == "float64" and value is not None else value

    def _see(self, name: str, shape: Shape | None) -> bool:
        is_known, before = name in self._shapes, self._shapes.get(name)
        both = _both(before, shape)
        if is_known and both == before:
            return False
        self._shapes[name] = both
        self._listed.clear()
        return True


def listed_names(names: Iterable[str], ours: Collection[str], *, taken: bool = True) -> dict[str, str]:
    """The names of columns in a list: `input_…` where a name is the list's own, a `_` behind it where it names files.

    Args:
        names: Of all columns.
        ours: The list's own fields.
        taken: True for a list that `datasets` reads, and takes what is named so for pictures.
    """
    given = dict.fromkeys(names)
    listed: dict[str, str] = {}
    for name in given:
        new = f"input_{name}" if name in ours else name
        new += "_" if taken and _TAKEN.fullmatch(new) else ""
        while new != name and (new in ours or new in given or new in listed.values()):
            new += "_"
        listed[name] = new
    return listed


def _shape_of(value: Any) -> Shape | None:
    """The shape of one value; None for none."""
    match value:
        case str():
            return re.sub(r"\d", "0", value) if _TIME.fullmatch(value) else "string"
        case None:
            return None
        case bool():
            return "bool"
        case int():
            return "small" if abs(value) <= EXACT else "int64" if -(2**63) <= value < 2**63 else TEXT
        case float():
            return "float64"
        case list() | tuple():
            # What reads a list loses its place, or breaks, at a null beside a value (seen with pyarrow 26).
            has_both = None in value and any(each is not None for each in value)
            return TEXT if has_both else _all_of(map(_shape_of, value))
        case dict() if value and not any(map(_TAKEN.fullmatch, value)):
            shapes = {name: _shape_of(each) for name, each in value.items()}
            return TEXT if TEXT in shapes.values() else ("object", *sorted(shapes.items()))
        case _:
            return TEXT


def _all_of(shapes: Iterable[Shape | None]) -> Shape:
    inner: Shape | None = None
    for shape in shapes:
        inner = _both(inner, shape)
    return TEXT if inner == TEXT else ("list", inner)


def _both(one: Shape | None, other: Shape | None) -> Shape | None:
    """The shape that holds what either does."""
    if one is None or one == other:
        return other
    if other is None:
        return one
    if isinstance(one, str) and isinstance(other, str):
        if all(each == "string" or _TIME.fullmatch(each) for each in (one, other)):
            return "string"
        small, large = sorted((one, other), key=lambda each: _NUMBERS.get(each, -1))
        return TEXT if small not in _NUMBERS or (small, large) == ("int64", "float64") else large
    if isinstance(one, tuple) and isinstance(other, tuple) and one[0] == other[0]:
        return _all_of((one[1], other[1])) if one[0] == "list" else _both_objects(one, other)
    return TEXT


def _both_objects(one: tuple[Any, ...], other: tuple[Any, ...]) -> Shape:
    before, now = dict(one[1:]), dict(other[1:])
    if before.keys() != now.keys():
        return TEXT
    shapes = {name: _both(before[name], now[name]) for name in before}
    return TEXT if TEXT in shapes.values() else ("object", *shapes.items())
