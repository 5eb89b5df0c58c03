"""A folder's pictures in the forms that training tools load: WebDataset shards, Parquet with images in it."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from .._core.resuming import earlier_result
from .._core.values import ImageFile
from .._folders import PART_SUFFIX
from .._journal import JournalReader
from ..errors import ConfigurationError
from ._manifest import METADATA
from ._records import picture_records, sizes_in

Form = Literal["webdataset", "parquet"]

ROW_GROUP = 32 << 20
"""Bytes of pictures in a row group at most, and so in memory: what a reader fetches to see one row."""

_OURS = re.compile(r"shard-\d{6}\.tar|train-\d{5}-of-\d{5}\.parquet")

_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}


class ShardSize(msgspec.Struct, frozen=True):
    """How large a shard may get.

    Attributes:
        pictures: At most so many; None: any number.
        bytes: Of pictures, at most; None: any number. A shard has one picture at least.
    """

    pictures: int | None = None
    bytes: int | None = None


def shard_size(text: str) -> ShardSize | None:
    """Read `1000` (pictures) or `500MB` (bytes of pictures; KB, MB or GB); None for anything else."""
    found = re.fullmatch(r"([1-9]\d{0,11})(KB|MB|GB)?", text)
    if found is None:
        return None
    number = int(found[1])
    return ShardSize(bytes=number * _UNITS[found[2]]) if found[2] else ShardSize(pictures=number)


class Sample(msgspec.Struct, frozen=True):
    """One picture and what is known of it."""

    file: ImageFile
    record: dict[str, Any]

    @property
    def name(self) -> str:
        """Its name in an export: unique, and without a dot, where WebDataset takes the rest for an ending."""
        return Path(self.record["file_name"]).stem.replace(".", "-")

    def read(self) -> bytes | None:
        """Its bytes; None where they are not those that were saved."""
        try:
            data = Path(self.file.path).read_bytes()
        except OSError:
            return None
        return data if hashlib.sha256(data).hexdigest() == self.file.sha256 else None


class Export(msgspec.Struct, frozen=True):
    """What an export has come to: its shards, how many pictures are in them, and the files that are not as saved."""

    shards: list[Path]
    pictures: int
    spoilt: list[str]


def export(folder: str, journal: JournalReader, form: Form, out: str, size: ShardSize) -> Export:
    """Write the pictures of a folder into another one, as shards; an earlier export there is replaced at the end.

    Raises:
        ConfigurationError: The other folder holds something else, cannot be written, or a library is missing.
    """
    write = _write_tar if form == "webdataset" else _parquet_writer()
    target = Path(out)
    if target.resolve().is_relative_to(Path(folder).resolve()):
        raise ConfigurationError(f"{out} lies in {folder}, which is an ImageFolder and stays one. Choose another -o.")
    refuse_foreign_files(target)
    samples = sorted(samples_of(journal, Path(folder)), key=lambda sample: (sample.record["index"], sample.name))
    if not samples:
        raise ConfigurationError(f"{folder} has no picture to export.")
    part = target.with_name(f".{target.name}{PART_SUFFIX}")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        shards, spoilt = _write_shards(part, list(shards_of(samples, size)), form, write, columns_of(samples))
        if target.exists():
            shutil.rmtree(target)
        os.replace(part, target)
    except OSError as error:
        raise ConfigurationError(f"{target} cannot be written: {error.strerror or error}.") from error
    return Export([target / name for name in shards], len(samples) - len(spoilt), spoilt)


def refuse_foreign_files(target: Path) -> None:
    """Raise ConfigurationError for a folder that holds anything but an earlier export."""
    if target.exists():
        names = sorted(os.listdir(target)) if target.is_dir() else [target.name]
        foreign = next((name for name in names if not _OURS.fullmatch(name)), None)
        if foreign is not None:
            message = f"{target} holds {foreign}, which is no export of this command, and is not replaced"
            raise ConfigurationError(f"{message}. Choose another -o.")


def samples_of(journal: JournalReader, folder: Path) -> Iterator[Sample]:
    """Every picture that the journal of a folder has on disk."""
    sizes = sizes_in(folder / METADATA)
    for record in journal.records():
        result = earlier_result(record)
        for file, picture in zip(result.files, picture_records(result, folder, sizes), strict=True):
            yield Sample(file, picture)


def shards_of(samples: Iterable[Sample], size: ShardSize) -> Iterator[list[Sample]]:
    """Deal out samples, in their order."""
    shard: list[Sample] = []
    weight = 0
    for sample in samples:
        is_full = len(shard) == size.pictures or (size.bytes is not None and weight + sample.file.size > size.bytes)
        if shard and is_full:
            yield shard
            shard, weight = [], 0
        shard.append(sample)
        weight += sample.file.size
    if shard:
        yield shard


Columns = dict[str, str]
"""The type of each column of a table, by its name: `string`, `int64`, `float64` or `bool`."""

Writer = Callable[[Path, Sequence[Sample], Columns], list[str]]
"""Writes a shard; returns the paths of what is not as it was saved."""


def _write_shards(
    folder: Path, shards: Sequence[Sequence[Sample]], form: Form, write: Writer, columns: Columns
) -> tuple[list[str], list[str]]:
    names, spoilt = [], []
    for number, shard in enumerate(shards):
        tar, parquet = f"shard-{number:06d}.tar", f"train-{number:05d}-of-{len(shards):05d}.parquet"
        names.append(tar if form == "webdataset" else parquet)
        spoilt += write(folder / names[-1], shard, columns)
    return names, spoilt


def _write_tar(path: Path, shard: Sequence[Sample], columns: Columns) -> list[str]:
    """A WebDataset shard: a picture, its prompt as `.txt`, and all that is known of it as `.json`."""
    spoilt = []
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for sample in shard:
            data = sample.read()
            if data is None:
                spoilt.append(sample.file.path)
                continue
            record = json.dumps(sample.record, ensure_ascii=False)
            ending = Path(sample.file.path).suffix
            parts = ((ending, data), (".txt", sample.record["prompt"].encode()), (".json", record.encode()))
            for kind, content in parts:
                # No time and no owner: the same pictures make the same shard.
                member = tarfile.TarInfo(sample.name + kind)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return spoilt


_FIXED: Columns = {
    "prompt": "string",
    "model": "string",
    "aspect_ratio": "string",
    "negative_prompt": "string",
    "num_images": "int64",
    "seed": "int64",
    "key": "string",
    "index": "int64",
    "provider": "string",
    "task_id": "string",
    "credits": "float64",
    "latency": "float64",
    "sha256": "string",
    "width": "int64",
    "height": "int64",
}


def columns_of(samples: Iterable[Sample]) -> Columns:
    """The columns beside the picture: ours, then the prompt file's, each with a type that holds all its values."""
    kinds: dict[str, set[str]] = {}
    for sample in samples:
        for name, value in sample.record.items():
            if name not in _FIXED and name != "file_name":
                kinds.setdefault(name, set()).add(_kind(value))
    return _FIXED | {name: _type_of(kinds[name] - {"null"}) for name in kinds}


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return "int64"
    return {float: "float64", type(None): "null"}.get(type(value), "string")


def _type_of(kinds: set[str]) -> str:
    if len(kinds) == 1:
        return next(iter(kinds))
    return "float64" if kinds == {"int64", "float64"} else "string"


def _value(value: Any, kind: str) -> Any:
    """A value as its column takes it; what has no column type of its own is JSON."""
    if value is None or kind != "string" or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def _parquet_writer() -> Writer:
    """What writes Parquet; raises ConfigurationError where pyarrow is missing."""
    if importlib.util.find_spec("pyarrow") is None:
        raise ConfigurationError("--to parquet needs an extra: pip install 'imagen-async[export]'")
    return _write_parquet


def _write_parquet(path: Path, shard: Sequence[Sample], columns: Columns) -> list[str]:
    """A Parquet file whose `image` column is an Image of Hugging Face's datasets: bytes and a path."""
    from pyarrow import parquet  # only here: it takes its time, and only this needs it

    spoilt: list[str] = []
    schema = _schema(columns)
    with parquet.ParquetWriter(path, schema, use_dictionary=list(columns)) as writer:
        rows: list[dict[str, Any]] = []
        weight = 0
        for sample in shard:
            data = sample.read()
            if data is None:
                spoilt.append(sample.file.path)
                continue
            rows.append(_row(sample, data, columns))
            weight += len(data)
            if weight >= ROW_GROUP:
                writer.write_table(_table(rows, schema))
                rows, weight = [], 0
        if rows:
            writer.write_table(_table(rows, schema))
    return spoilt


def _row(sample: Sample, data: bytes, columns: Columns) -> dict[str, Any]:
    values = {_column(name): _value(sample.record.get(name), kind) for name, kind in columns.items()}
    return {"image": {"bytes": data, "path": Path(sample.record["file_name"]).name}, **values}


def _column(name: str) -> str:
    """A column's name in the table: `image` is the picture's."""
    return "input_image" if name == "image" else name


def _schema(columns: Columns) -> Any:
    import pyarrow

    image = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    types = {_column(name): kind for name, kind in columns.items()}
    fields = {"image": image, **{name: pyarrow.type_for_alias(kind) for name, kind in types.items()}}
    features = {"image": {"_type": "Image"}}
    features |= {name: {"dtype": kind, "_type": "Value"} for name, kind in types.items()}
    return pyarrow.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features}})})


def _table(rows: list[dict[str, Any]], schema: Any) -> Any:
    import pyarrow

    return pyarrow.Table.from_pylist(rows, schema)
