"""Parquet, with the pictures themselves in a column that Hugging Face's datasets takes for images."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .columns import Column, value_of
from .format import Format
from .samples import Sample

ROW_GROUP = 32 << 20
"""Bytes of pictures in a row group at most, and so in memory: what a reader fetches to see one row."""


_ROWS = 10_000
"""Rows in one at most, for pictures that weigh next to nothing."""


def _write(path: Path, shard: Iterable[Sample], columns: Sequence[Column]) -> list[str]:
    """A Parquet file whose `image` column is an Image of Hugging Face's datasets: bytes and a path."""
    from pyarrow import parquet  # only here: it takes its time, and only this needs it

    spoilt: list[str] = []
    schema = _schema(columns)
    with parquet.ParquetWriter(path, schema, use_dictionary=[column.name for column in columns]) as writer:
        rows: list[dict[str, Any]] = []
        weight = 0
        for sample in shard:
            data = sample.read()
            if data is None:
                spoilt.append(sample.file.path)
                continue
            rows.append(_row(sample, data, columns))
            weight += len(data)
            if weight >= ROW_GROUP or len(rows) == _ROWS:
                writer.write_table(_table(rows, schema))
                rows, weight = [], 0
        if rows:
            writer.write_table(_table(rows, schema))
    return spoilt


def _row(sample: Sample, data: bytes, columns: Iterable[Column]) -> dict[str, Any]:
    values = {column.name: value_of(sample.line.get(column.name), column.kind) for column in columns}
    return {"image": {"bytes": data, "path": Path(sample.line["file_name"]).name}, **values}


def _schema(columns: Iterable[Column]) -> Any:
    import pyarrow

    image = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    types = {column.name: column.kind for column in columns}
    fields = {"image": image, **{name: pyarrow.type_for_alias(kind) for name, kind in types.items()}}
    features = {"image": {"_type": "Image"}}
    features |= {name: {"dtype": kind, "_type": "Value"} for name, kind in types.items()}
    return pyarrow.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features}})})


def _table(rows: list[dict[str, Any]], schema: Any) -> Any:
    import pyarrow

    return pyarrow.Table.from_pylist(rows, schema)


PARQUET = Format("parquet", "train-{number:05d}-of-{count:05d}.parquet", _write, needs="pyarrow")
