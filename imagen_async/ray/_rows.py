"""The rows of a data set on their way in and out, as tables of Arrow: what is asked for, and what has become of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from .._core.cells import fields_in
from ..errors import ConfigurationError
from ._answers import Answer, Picture, decode, encode

if TYPE_CHECKING:
    import pyarrow as pa

ANSWER = "_imagen_async"
"""The column by which an answer goes from the asking to the fetching."""

_MADE = ("image", "path", "media_type", "sha256", "picture", "provider", "task_id", "credits", "latency", "error")
"""The columns that come out beside the row's own, which may have none of these names."""


class Reading(msgspec.Struct, frozen=True):
    """How the columns of a data set are read.

    Attributes:
        own: The fields that the models of the accounts have of their own.
        key: The column that has the keys; None: that of the name `key`, where there is one.
    """

    own: tuple[str, ...] = ()
    key: str | None = None

    def fields(self, columns: Sequence[str]) -> dict[str, str]:
        """The columns that are fields, and which; raises ConfigurationError for columns that cannot be taken in."""
        taken = sorted({*columns} & {*_MADE, ANSWER})
        if taken:
            message = f"The data set has columns that come out of generate_images: {', '.join(taken)}"
            raise ConfigurationError(f"{message}. Rename or drop them first: dataset.drop_columns([…]).")
        found = fields_in(columns, self.own)
        if self.key is not None:
            if self.key not in columns:
                message = f"key_column={self.key!r}: the data set has no such column, but {', '.join(columns)}"
                raise ConfigurationError(f"{message}.")
            found = {column: field for column, field in found.items() if field != "key"}
            found[self.key] = "key"
        if "prompt" not in found.values():
            raise ConfigurationError(f"The data set has no column `prompt`, but {', '.join(columns)}.")
        return found


def requests_in(table: pa.Table, reading: Reading) -> list[dict[str, Any]]:
    """What stands in the columns that are fields, by the fields' names, row by row."""
    fields = reading.fields(table.column_names)
    columns = [table.column(column).to_pylist() for column in fields]
    return [dict(zip(fields.values(), cells, strict=True)) for cells in zip(*columns, strict=True)]


def with_answers(table: pa.Table, answers: Iterable[Answer]) -> pa.Table:
    """The rows, each with what became of it."""
    import pyarrow as pa

    return table.append_column(ANSWER, pa.array(map(encode, answers), pa.binary()))


def answers_in(table: pa.Table) -> list[Answer]:
    """What became of each row."""
    return list(map(decode, table.column(ANSWER).to_pylist()))


Made = Sequence[Picture] | str
"""The pictures of a row, or why there are none after all."""


def with_pictures(table: pa.Table, answers: Sequence[Answer], made: Sequence[Made], *, as_paths: bool) -> pa.Table:
    """The rows with their pictures: one a picture, and one for a row that has none, with its error."""
    import pyarrow as pa

    places: list[int] = []
    lines: list[dict[str, Any]] = []
    for place, (answer, found) in enumerate(zip(answers, made, strict=True)):
        pictures: Sequence[Picture | None] = (None,) if isinstance(found, str) else found
        for number, picture in enumerate(pictures, start=1):
            places.append(place)
            lines.append(_line(answer, picture, number, found if isinstance(found, str) else None))
    # The largest that Arrow has: one block may hold more than 2 GB of pictures.
    names = {"path": pa.string()} if as_paths else {"image": pa.large_binary()}
    texts = {name: pa.string() for name in ("media_type", "sha256")}
    figures = {"credits": pa.float64(), "latency": pa.float64(), "error": pa.string()}
    said = {name: pa.string() for name in ("provider", "model", "task_id")}
    schema = {"key": pa.string(), "prompt": pa.string(), **names, **texts, "picture": pa.int64(), **said, **figures}
    columns = {name: pa.array([line[name] for line in lines], kind) for name, kind in schema.items()}
    own = table.drop_columns([ANSWER]).take(places)
    others = {name: own.column(name) for name in own.column_names if name not in schema}
    return pa.table({**columns, **others})


def _line(answer: Answer, picture: Picture | None, number: int, error: str | None) -> dict[str, Any]:
    """What comes out beside a row's own columns."""
    return {
        "key": answer.key or None,
        "prompt": answer.prompt,
        "image": picture and picture.image,
        "path": picture and picture.path,
        "media_type": picture and picture.media_type,
        "sha256": picture and picture.sha256,
        "picture": number,
        "provider": answer.provider or None,
        "model": answer.model or None,
        "task_id": answer.task_id,
        # Of several pictures of one task the first one has its cost, so that a sum is right.
        "credits": answer.credits if number == 1 else None,
        "latency": answer.latency,
        "error": error,
    }
