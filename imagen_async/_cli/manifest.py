"""The lists beside the pictures: `metadata.jsonl`, a line a picture, `failures.jsonl`, a line a failed request."""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import json
import os
from collections.abc import Container, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .. import Result
from ..errors import ConfigurationError, JournalError
from .as_json import columns_of, pictures_json, result_json
from .columns import Columns
from .folder import JOURNAL
from .library import PART_SUFFIX, JournalReader, earlier_result
from .picture_sizes import Sizes, sizes_in
from .pictures import kept

METADATA = "metadata.jsonl"
FAILURES = "failures.jsonl"

_TYPED = 10 << 20
"""Bytes of a list by which Hugging Face's `datasets` tells the types of the whole (seen with 5.2)."""


class Manifest:
    """The lists of one folder, open for adding to. They follow its journal: entering writes them anew from it.

    So whatever a crash tore, doubled or kept out is right again. A line is written whole, and handed to the system at
    once.

    Args:
        folder: Where they lie.
        journal: What they follow.
        columns: Those of the requests that may come yet: each has one name and one type in all lines.

    Raises:
        ConfigurationError: The folder holds lists that no journal wrote, or they cannot be written.
    """

    def __init__(self, folder: str, journal: JournalReader, columns: Columns | None = None) -> None:
        self.folder = Path(folder)
        self._journal = journal
        self._columns = Columns() if columns is None else columns
        self._listed_failures: set[str] = set()
        self._is_stale = False

    def __enter__(self) -> Self:
        try:
            self._rebuild()
            self._open()
        except OSError as error:
            raise ConfigurationError(f"{error.filename} cannot be written: {error.strerror}.") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        with contextlib.suppress(OSError, JournalError, ValueError):  # the next run sets it right
            if self._is_stale:
                self._replace(FAILURES, self._failures_now())
            self._put_types_first()

    def write(self, result: Result, sizes: Sizes) -> None:
        """Add the lines of one result: one a picture, or one for its failure.

        Args:
            result: What came out.
            sizes: Of its pictures, read beforehand and elsewhere; one that is not in it is opened here and now.
        """
        # A failure that has come to a picture since is one no more: the list is made anew at the end.
        self._is_stale |= result.key in self._listed_failures
        if result.error is not None:
            self._listed_failures.add(result.key)
            _write_line(self._failures, result_json(result))
        for line in pictures_json(kept(result), self.folder, sizes, self._columns):
            _write_line(self._metadata, line)

    def _open(self) -> None:
        with ExitStack() as stack:
            # Without a buffer: a line that the disk refuses must not come back when the file is closed.
            self._metadata = stack.enter_context(open(self.folder / METADATA, "ab", buffering=0))
            self._failures = stack.enter_context(open(self.folder / FAILURES, "ab", buffering=0))
            self._stack = stack.pop_all()

    def _rebuild(self) -> None:
        self._columns.merge(columns_of(entry.request for entry in self._journal.entries()))
        self._replace(METADATA, self._pictures_now())
        self._replace(FAILURES, self._failures_now())
        self._put_types_first()

    def _pictures_now(self) -> Iterator[dict[str, Any]]:
        # An ImageFolder that lists what is not there does not load.
        sizes = sizes_in(self.folder / METADATA)
        for entry in self._journal.entries():
            yield from pictures_json(kept(earlier_result(entry)), self.folder, sizes, self._columns)

    def _failures_now(self) -> Iterator[dict[str, Any]]:
        for entry in self._journal.entries():
            if entry.error is not None and entry.state != "queued":
                self._listed_failures.add(entry.key)
                yield result_json(earlier_result(entry))

    def _put_types_first(self) -> None:
        """Let a long list begin with the lines that tell the types of its columns; what is null there stays null."""
        path = self.folder / METADATA
        telling = _telling(path) if path.stat().st_size > _TYPED else {}
        if telling:
            # The longest last, of which only the beginning must be among them.
            self._write_anew(METADATA, itertools.chain(sorted(telling.values(), key=len), _others(path, telling)))

    def _replace(self, name: str, lines: Iterable[dict[str, Any]]) -> None:
        self._write_anew(name, map(_encoded, lines))

    def _write_anew(self, name: str, lines: Iterable[bytes]) -> None:
        """Write a list anew: the old one stands until the new one is whole."""
        path = self.folder / name
        part = path.with_name(f".{name}{PART_SUFFIX}")
        with open(part, "wb") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)


def refuse_foreign_lists(folder: str) -> None:
    """Raise ConfigurationError for the lists of a folder without a journal: they would be written over."""
    for name in (METADATA, FAILURES):
        path = Path(folder, name)
        if path.exists() and path.stat().st_size:
            message = f"{folder} holds {name} and no journal ({JOURNAL}) that it could follow"
            raise ConfigurationError(f"{message}. Nothing was sent. Choose another -o, or move {name} away.")


def _telling(path: Path) -> dict[int, bytes]:
    """The lines, by their numbers, that tell something new of a column; none where all of them stand in front."""
    seen, telling, place, last = Columns(), dict[int, bytes](), 0, 0
    with open(path, "rb") as lines:
        for number, line in enumerate(lines):
            if seen.add(json.loads(line)):
                telling[number], last = line, place
            place += len(line)
    return telling if last > _TYPED else {}


def _others(path: Path, telling: Container[int]) -> Iterator[bytes]:
    with open(path, "rb") as lines:
        yield from (line for number, line in enumerate(lines) if number not in telling)


def _encoded(line: dict[str, Any]) -> bytes:
    return json.dumps(line, ensure_ascii=False).encode() + b"\n"


def _write_line(file: io.FileIO, line: dict[str, Any]) -> None:
    data = _encoded(line)
    # Without a buffer a full disk takes a part, and raises nothing.
    if file.write(data) != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
