"""The lists beside the pictures: `metadata.jsonl`, a line a picture, `failures.jsonl`, a line a failed request."""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import json
import os
from collections.abc import Container, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .. import Result
from ..errors import ConfigurationError, JournalError
from ..ports import JournalEntry
from .as_json import columns_of, pictures_json, result_json, see
from .columns import Columns
from .folder import JOURNAL
from .library import Journal, earlier_result
from .list_note import LISTS, are_all_there, keys_in, note_of
from .picture_sizes import ListedSizes, Sizes
from .pictures import kept
from .rewriting import Rewriting

METADATA = "metadata.jsonl"
FAILURES = "failures.jsonl"

_TYPED = 10 << 20
"""Bytes of a list by which Hugging Face's `datasets` tells the types of the whole (seen with 5.2)."""


_encode = json.JSONEncoder(ensure_ascii=False).encode


class Manifest:
    """The lists of one folder, open for adding to. They follow its journal: entering sets right what differs from it.

    So whatever a crash tore, doubled or kept out is right again; lists that a run has left in good order, and whose
    pictures are there, are let be. A line is written whole, and handed to the system at once.

    Args:
        folder: Where they lie.
        journal: What they follow.
        columns: Those of the requests that may come yet: each has one name and one type in all lines.

    Raises:
        ConfigurationError: The folder holds lists that no journal wrote, or they cannot be written.
    """

    def __init__(self, folder: str, journal: Journal, columns: Columns | None = None) -> None:
        self.folder = Path(folder)
        self._journal = journal
        self._columns = Columns() if columns is None else columns
        self._listed_failures: set[str] = set()
        self._is_stale = False
        self._listed = 0
        self._paths = (self.folder / METADATA, self.folder / FAILURES)

    def __enter__(self) -> Self:
        try:
            if not self._is_in_order():
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
                self._rebuild()
            self._put_types_first()
            self._note_order()

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
        self._listed += bool(result.files)

    def _open(self) -> None:
        with ExitStack() as stack:
            # Without a buffer: a line that the disk refuses must not come back when the file is closed.
            self._metadata = stack.enter_context(open(self.folder / METADATA, "ab", buffering=0))
            self._failures = stack.enter_context(open(self.folder / FAILURES, "ab", buffering=0))
            self._stack = stack.pop_all()

    def _is_in_order(self) -> bool:
        """True where the last run has left the lists as they are to be; from here on nobody can tell."""
        noted = self._journal.notes().get(LISTS)
        if not noted:
            return False
        self._journal.note({LISTS: ""})
        jobs = self._journal.mark()
        try:
            if noted != note_of(jobs, self._columns, self._paths) or not are_all_there(self._paths[0]):
                return False
            self._listed, self._listed_failures = int(jobs[0]), keys_in(self._paths[1])
        except (OSError, ValueError):
            return False
        return True

    def _note_order(self) -> None:
        """Tell the next run that the lists have all that the journal has, where that is so."""
        jobs = self._journal.mark()
        if (self._listed, len(self._listed_failures)) == (jobs[0], jobs[1]):
            self._journal.note({LISTS: note_of(jobs, self._columns, self._paths)})

    def _rebuild(self) -> None:
        if not self._follow():
            # Some of their columns are news: those of all are to be known before a line is written.
            self._columns.merge(columns_of(entry.request for entry in self._journal.entries()))
            self._follow()

    def _follow(self) -> bool:
        """Have both lists say what the journal does; False, and they stay, where columns come that were not known."""
        self._listed_failures.clear()
        self._listed = 0
        metadata, failed = self._paths
        try:
            with ListedSizes(metadata) as sizes, Rewriting(metadata) as pictures, Rewriting(failed) as failures:
                for entry in self._journal.entries():
                    if see(self._columns, entry.request):
                        raise _NewColumnsError
                    self._put(entry, pictures, failures, sizes)
        except _NewColumnsError:
            return False
        if pictures.has_changed:
            self._put_types_first()
        return True

    def _put(self, entry: JournalEntry, pictures: Rewriting, failures: Rewriting, sizes: Sizes) -> None:
        """The lines of one job."""
        # An ImageFolder that lists what is not there does not load.
        if entry.files:
            result = kept(earlier_result(entry))
            # A picture that is missing may be there again at the next run, which is to look.
            self._listed += len(result.files) == len(entry.files)
            for line in pictures_json(result, self.folder, sizes, self._columns):
                pictures.put(_encoded(line))
        if entry.error is not None and entry.state != "queued":
            self._listed_failures.add(entry.key)
            failures.put(_encoded(result_json(earlier_result(entry))))

    def _put_types_first(self) -> None:
        """Let a long list begin with the lines that tell the types of its columns; what is null there stays null."""
        path = self.folder / METADATA
        telling = _telling(path) if path.stat().st_size > _TYPED else {}
        if telling:
            # The longest last, of which only the beginning must be among them.
            with Rewriting(path) as pictures:
                for line in itertools.chain(sorted(telling.values(), key=len), _others(path, telling)):
                    pictures.put(line)


class _NewColumnsError(Exception):
    """What columns there are is not known yet."""


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
    return _encode(line).encode() + b"\n"


def _write_line(file: io.FileIO, line: dict[str, Any]) -> None:
    data = _encoded(line)
    # Without a buffer a full disk takes a part, and raises nothing.
    if file.write(data) != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
