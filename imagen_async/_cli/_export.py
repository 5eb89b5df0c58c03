"""A folder's pictures in the forms that training tools load: WebDataset shards, Parquet with images in it."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import itertools
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
from ._json import pictures_json, sizes_in
from ._manifest import METADATA
from ._wording import counted

Form = Literal["webdataset", "parquet"]

ROW_GROUP = 32 << 20
"""Bytes of pictures in a row group at most, and so in memory: what a reader fetches to see one row."""

MARK = ".imagen-async-export"
"""The file that says of a folder that it is an export of this command, and may be replaced by the next one."""

_SHARD = re.compile(r"shard-\d{6}\.tar|train-\d{5}-of-\d{5}\.parquet")

_EXACT = 2**53
"""Up to here every whole number has a float of its own."""

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
    """One picture and what is known of it.

    Attributes:
        name: Its name in an export: unique, and without a dot, where WebDataset takes the rest for an ending.
        file: Where it lies.
        record: Its line of `metadata.jsonl`.
    """

    name: str
    file: ImageFile
    entry: dict[str, Any]

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

    An earlier export is not replaced while pictures are missing: it may be the last to have them.

    Raises:
        ConfigurationError: The other folder holds something else, cannot be written, or a library is missing.
    """
    write = _write_tar if form == "webdataset" else _parquet_writer()
    target = Path(out).resolve()
    if target.is_relative_to(Path(folder).resolve()):
        raise ConfigurationError(f"{out} lies in {folder}, which is an ImageFolder and stays one. Choose another -o.")
    refuse_foreign_files(target)
    samples = samples_of(journal, Path(folder))
    if not samples:
        raise ConfigurationError(f"{folder} has no picture to export.")
    part, is_new = target / PART_SUFFIX, not target.exists()
    try:
        part.mkdir(parents=True, exist_ok=True)
        shards, spoilt = _write_shards(part, list(shards_of(samples, size)), form, write)
        if spoilt and (len(spoilt) == len(samples) or (target / MARK).exists()):
            kept = "the earlier export stays" if (target / MARK).exists() else "nothing is left to export"
            raise ConfigurationError(
                f"{_these(spoilt)} missing, or not as saved; {kept}. Choose another -o, or mend it."
            )
        _replace(target, part, shards)
    except OSError as error:
        raise ConfigurationError(f"{target} cannot be written: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if is_new:
            with contextlib.suppress(OSError):
                target.rmdir()  # where nothing came of it
    return Export([target / name for name in shards], len(samples) - len(spoilt), spoilt)


def _these(spoilt: Sequence[str]) -> str:
    more = f" and {counted(len(spoilt) - 1, 'other')}" if len(spoilt) > 1 else ""
    return f"{spoilt[0]}{more} {'are' if more else 'is'}"


def refuse_foreign_files(target: Path) -> None:
    """Raise ConfigurationError for a folder that holds anything but an earlier export."""
    if not target.exists():
        return
    names = set(os.listdir(target)) if target.is_dir() else {target.name}
    ours = {name for name in names if _SHARD.fullmatch(name)} if MARK in names else set()
    foreign = min(names - ours - {MARK, PART_SUFFIX}, default=None)
    if foreign is not None:
        message = f"{target} holds {foreign}, which is no export of this command, and is not replaced"
        raise ConfigurationError(f"{message}. Choose another -o.")


def _replace(target: Path, part: Path, shards: Sequence[str]) -> None:
    """Put the new shards in the place of the old ones; whoever dies in the midst leaves a folder that is ours still."""
    refuse_foreign_files(target)
    (target / MARK).write_text("Made by imagen-async export, which may replace what is here.\n")
    for name in shards:
        os.replace(part / name, target / name)
    for name in set(os.listdir(target)) - {MARK, PART_SUFFIX, *shards}:
        (target / name).unlink()


def samples_of(journal: JournalReader, folder: Path) -> list[Sample]:
    """Every picture that the journal of a folder has on disk, in the order of the prompt file."""
    sizes = sizes_in(folder / METADATA)
    found = [
        (picture["index"], file, picture)
        for result in map(earlier_result, journal.entries())
        for file, picture in zip(result.files, pictures_json(result, folder, sizes), strict=True)
    ]
    samples: dict[str, Sample] = {}
    for _, file, picture in sorted(found, key=lambda each: (each[0], each[2]["file_name"])):
        name = Path(picture["file_name"]).stem.replace(".", "-")
        while name in samples:  # pictures of two kinds, or of several folders
            name += f"-{file.sha256[:8]}"
        samples[name] = Sample(name, file, picture)
    return list(samples.values())


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


Writer = Callable[[Path, Sequence[Sample], Sequence["Column"]], list[str]]
"""Writes a shard; returns the paths of what is not as it was saved."""


def _write_shards(
    folder: Path, shards: Sequence[Sequence[Sample]], form: Form, write: Writer
) -> tuple[list[str], list[str]]:
    names: list[str] = []
    spoilt: list[str] = []
    columns = columns_of(itertools.chain(*shards))
    for number, shard in enumerate(shards):
        tar, parquet = f"shard-{number:06d}.tar", f"train-{number:05d}-of-{len(shards):05d}.parquet"
        names.append(tar if form == "webdataset" else parquet)
        spoilt += write(folder / names[-1], shard, columns)
    return names, spoilt


def _write_tar(path: Path, shard: Sequence[Sample], columns: Sequence[Column]) -> list[str]:
    """A WebDataset shard: a picture, its prompt as `.txt`, and all that is known of it as `.json`."""
    spoilt = []
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for sample in shard:
            data = sample.read()
            if data is None:
                spoilt.append(sample.file.path)
                continue
            entry = json.dumps(sample.entry, ensure_ascii=False)
            ending = Path(sample.file.path).suffix
            parts = ((ending, data), (".txt", sample.entry["prompt"].encode()), (".json", entry.encode()))
            for kind, content in parts:
                # No time and no owner: the same pictures make the same shard.
                member = tarfile.TarInfo(sample.name + kind)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return spoilt


class Column(msgspec.Struct, frozen=True):
    """A column of a table: its name there, the field of the records that it holds, and its type."""

    name: str
    field: str
    kind: Literal["string", "int64", "float64", "bool"]


_FIXED: dict[str, Literal["string", "int64", "float64"]] = {
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


def columns_of(samples: Iterable[Sample]) -> list[Column]:
    """The columns beside the picture: ours, then the prompt file's, each with a type that holds all its values."""
    values: dict[str, list[Any]] = {}
    for sample in samples:
        for field, value in sample.entry.items():
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


def _type_of(values: Sequence[Any]) -> Literal["string", "int64", "float64", "bool"]:
    known = [value for value in values if value is not None]
    kinds = {type(value) for value in known}
    if kinds == {bool}:
        return "bool"
    if kinds == {int} and all(-(2**63) <= value < 2**63 for value in known):
        return "int64"
    is_exact = all(abs(value) <= _EXACT for value in known if type(value) is int)
    if kinds in ({float}, {int, float}) and is_exact:
        return "float64"
    return "string"


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


def _write_parquet(path: Path, shard: Sequence[Sample], columns: Sequence[Column]) -> list[str]:
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
            if weight >= ROW_GROUP:
                writer.write_table(_table(rows, schema))
                rows, weight = [], 0
        if rows:
            writer.write_table(_table(rows, schema))
    return spoilt


def _row(sample: Sample, data: bytes, columns: Iterable[Column]) -> dict[str, Any]:
    values = {column.name: _value(sample.entry.get(column.field), column.kind) for column in columns}
    return {"image": {"bytes": data, "path": Path(sample.entry["file_name"]).name}, **values}


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
