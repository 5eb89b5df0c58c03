"""What a journal notes of the lists beside it: which they were when they were as it says, so that they are let be."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from .columns import Columns

LISTS = "lists"
"""The note; nothing while a run is at work on the lists, and after one that was killed."""


class _Listed(msgspec.Struct, frozen=True):
    file_name: str


class _Failed(msgspec.Struct, frozen=True):
    key: str


_decode_picture = msgspec.json.Decoder(_Listed).decode
_decode_failure = msgspec.json.Decoder(_Failed).decode


def note_of(jobs: Sequence[float], columns: Columns, paths: Iterable[Path]) -> str:
    """What says that these lists, which have these columns, say what a journal with these jobs does."""
    files = [(found.st_size, found.st_mtime_ns) for found in map(os.stat, paths)]
    return msgspec.json.encode({"jobs": jobs, "columns": columns.mark(), "files": files}).decode()


def are_all_there(pictures: Path) -> bool:
    """True where each picture that a list beside them names is there, and not empty."""
    start = os.path.join(pictures.parent, "")
    try:
        return all(_is_picture(start + name) for name in _names_in(pictures))
    except (OSError, msgspec.MsgspecError):
        return False


def keys_in(failures: Path) -> set[str]:
    """The keys of the requests that a list of failures names."""
    with open(failures, "rb") as lines:
        return {_decode_failure(line).key for line in lines}


def _names_in(pictures: Path) -> Iterator[str]:
    with open(pictures, "rb") as lines:
        for line in lines:
            yield _decode_picture(line).file_name


def _is_picture(path: str) -> bool:
    found = os.stat(path)
    return found.st_size > 0 and stat.S_ISREG(found.st_mode)
