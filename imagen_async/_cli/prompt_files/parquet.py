"""Parquet: a row a request, its columns named as in any table."""

from __future__ import annotations

import datetime
import decimal
import io
import math
from collections.abc import Callable, Iterator
from typing import Any

from ...errors import ConfigurationError
from .lines import KINDS, BadLine, Item, request_of
from .tables import header_problem, lacking_prompt, of_table

_ROWS = 1000
"""In memory at a time, as Python's own values."""

_UNTOLD = (OSError, ValueError, OverflowError)
"""Of values that Python has no own for: years beyond 9999, a name twice in a struct, text that is no Unicode."""


def parquet_reader(data: bytes, name: str) -> Callable[[], Iterator[Item]]:
    """What begins to read the rows of a file; raises ConfigurationError where it is none, or pyarrow is missing."""
    try:
        from pyarrow import ArrowException, parquet  # only here: it takes its time, and only this needs it
    except ImportError as error:
        message = f"{name}: to read Parquet needs an extra: pip install 'imagen-async[export]'"
        raise ConfigurationError(message) from error
    try:
        names = parquet.ParquetFile(io.BytesIO(data)).schema_arrow.names
    except (ArrowException, OSError) as error:
        raise ConfigurationError(f"{name} is no whole Parquet file: {error}.") from error

    def rows() -> Iterator[Item]:
        problem = header_problem(names)
        if problem is not None:
            yield BadLine(0, problem)
            return
        read, lack = 0, lacking_prompt(0, names)
        try:
            for batch in parquet.ParquetFile(io.BytesIO(data)).iter_batches(_ROWS):
                for number, row in enumerate(batch.to_pylist(), read + 1):
                    yield of_table(request_of(number, {name: _told(name, value) for name, value in row.items()}), lack)
                read += batch.num_rows
        except (ArrowException, *_UNTOLD) as error:
            yield BadLine(read + 1, f"the rest cannot be read: {error}")

    return rows


def _told(column: str, value: Any) -> Any:
    """What a row says in a column. In a field, bytes are text that its writer did not call so, or wrong."""
    if not isinstance(value, bytes) or column.lower() not in KINDS:
        return _plain(value)
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    match value:
        case float() if not math.isfinite(value):
            return None
        case datetime.date() | datetime.time():
            return value.isoformat()
        case datetime.timedelta() | decimal.Decimal():
            return str(value)
        case bytes():
            return f"{len(value)} bytes"
        case dict():
            return {str(name): _plain(each) for name, each in value.items()}
        case list() | tuple():
            return [_plain(each) for each in value]
        case _:
            return value
