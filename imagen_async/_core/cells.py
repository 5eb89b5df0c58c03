"""A row of a table as a request: which of its columns are fields, and what stands in a cell."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..errors import ConfigurationError, InvalidRequest
from .fields import FIELDS
from .parameters import Parameter
from .values import ImageRequest

_WHOLE = re.compile(r"-?[0-9]{1,18}")

_OURS = {field.name: field for field in FIELDS if not field.is_made}


def fields_in(columns: Iterable[str], own: Iterable[str]) -> dict[str, str]:
    """The columns that are fields, by their names, and which: of a request in any case, and of a model's own.

    Args:
        columns: The names of a table's columns.
        own: The names of the fields that models have of their own.

    Raises:
        ConfigurationError: Two columns are one field.
    """
    names = {*_OURS, *own}
    found = {column: column if column in names else column.lower() for column in columns}
    found = {column: field for column, field in found.items() if field in names}
    for column, field in found.items():
        twin = next((other for other in found if other != column and found[other] == field), None)
        if twin is not None:
            raise ConfigurationError(f"The columns {column!r} and {twin!r} are both {field}: rename one of them.")
    return found


def request_of(cells: Mapping[str, Any], own_fields: Callable[[Any], Mapping[str, Parameter]]) -> ImageRequest:
    """The request of a row; what is empty is not said.

    Args:
        cells: What stands in the columns that are fields, by the fields' names.
        own_fields: Tells which fields a model has of its own: the others are not part of the request. None: of rows
            that name none.

    Raises:
        InvalidRequest: A cell holds what its field cannot be.
    """
    said = {name: value for name, value in cells.items() if not is_empty(value)}
    own = own_fields(said.get("model"))
    extra = _object("extra", said.pop("extra", {}))
    ours = {name: _ours(name, value) for name, value in said.items() if name in _OURS}
    others = {name: read_cell(own[name], value) for name, value in said.items() if name in own}
    return ImageRequest(**ours, extra={**others, **extra})


def is_empty(value: Any) -> bool:
    """True for a cell without a value, which a library of tables may write as a number that is none."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def key_text(value: Any) -> str:
    """A key as a text; a number is the same key however its column is written."""
    return str(_whole_again(value))


def as_shown(cells: Mapping[str, Any]) -> ImageRequest:
    """What can be shown of a row of which no request can be made."""
    prompt, key = cells.get("prompt"), cells.get("key")
    return ImageRequest("" if is_empty(prompt) else str(prompt), key=None if is_empty(key) else key_text(key))


def read_cell(parameter: Parameter, value: Any) -> Any:
    """What a cell means there: a text is read, and of a column in which some are missing a number is whole again."""
    if isinstance(value, str):
        return parameter.read(value.strip())
    whole = _whole_again(value)
    return whole if whole is not value and not parameter.takes(value) and parameter.takes(whole) else value


def _ours(name: str, value: Any) -> Any:
    field = _OURS[name]
    if name == "key":
        return key_text(value)
    if field.kind == "files":
        return tuple(value) if isinstance(value, list | tuple) else (value,)
    if field.kind != "whole":
        return value
    return int(value) if isinstance(value, str) and _WHOLE.fullmatch(value.strip()) else _whole_again(value)


def _whole_again(value: Any) -> Any:
    return int(value) if isinstance(value, float) and math.isfinite(value) and value.is_integer() else value


def _object(name: str, value: Any) -> dict[str, Any]:
    """An object, or the JSON of one. A table has the same fields in each of them: those that are null are not there."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise InvalidRequest(f"{name}: {value[:60]!r} is no JSON object.") from None
    if not isinstance(value, dict):
        raise InvalidRequest(f"{name}: an object is wanted, or the JSON of one, not {type(value).__name__}.")
    return {key: each for key, each in value.items() if each is not None}
