"""A journal that is looked at: what it says of its jobs, of money and of how long tasks took."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePath
from typing import Self

from .._core.journal_entry import Bill, JournalEntry
from .._core.latency import EDGES
from .._core.values import ImageRequest
from .._sqlite import code_of, connect
from ..errors import JournalError
from .ahead import ReadAhead
from .explained import explained
from .lock import is_locked
from .rows import Rows
from .schema import MARK, check, latencies, owner_of, select, version_of
from .wal import STAMP, check_pair, has_changes


class JournalReader:
    """A journal opened for looking at, also while a batch writes to it.

    Args:
        path: The file.
        request_type: What its requests are read as; a subclass of ImageRequest gets its own fields back.

    Attributes:
        folder: Where it lies.

    Raises:
        JournalError: It is missing, damaged, of a newer version, or something else.
    """

    _whose = "1"
    """Which rows are counted and added up: to whoever looks, all."""

    def __init__(self, path: str | PurePath, request_type: type[ImageRequest] = ImageRequest) -> None:
        self._turn = threading.Lock()
        self._ahead = ReadAhead()
        self.path = str(path)
        self.folder = os.path.dirname(self.path)
        # By its real name, and as it is now: a link to a journal is the same journal, and a program may change folders.
        self._real_path = os.path.realpath(self.path)
        self._rows = Rows(self.folder, os.path.dirname(self._real_path), request_type)
        self._stack = contextlib.ExitStack()
        with contextlib.ExitStack() as stack, explained(self.path):
            self._reading = self._open(stack)
            version = version_of(self._reading)
            self._select, self._latencies, self._select_owner = select(version), latencies(version), owner_of(version)
            self._ahead.open(self._reading, self._select)
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; once more is nothing."""
        self._stack.close()

    def find(self, key: str) -> JournalEntry | None:
        """The job of that key, or None."""
        with explained(self.path):
            row = self._ahead.row(key)
            return None if row is None else self._rows.entry(row)

    def owner(self, key: str) -> str | None:
        """Who has the row of a single request, or had it last; None where it is no such row."""
        with explained(self.path):
            found = self._reading.execute(self._select_owner, (key,)).fetchone()
            return None if found is None else found[0]

    def find_task(self, task_id: str) -> JournalEntry | None:
        """The job with that task, or None. Looks through all of them."""
        return next(iter(self._those("task_id = ? LIMIT 1", task_id)), None)

    def counts(self) -> Counter[str]:
        """How many jobs it has, by state."""
        with explained(self.path):
            return Counter(
                dict(self._reading.execute(f"SELECT state, count(*) FROM jobs WHERE {self._whose} GROUP BY state"))
            )

    def unfinished(self) -> list[JournalEntry]:
        """The jobs whose task runs, or whose pictures are to be fetched; also held ones whose task a callback named."""
        is_open = "state IN ('running', 'ready') OR (state = 'unknown' AND task_id IS NOT NULL)"
        return self._those(f"{self._whose} AND ({is_open})")

    def with_lost_creates(self) -> list[JournalEntry]:
        """The jobs of which a create's answer was lost: held ones, and those that came to an end all the same."""
        return self._those(f"{self._whose} AND lost > 0")

    def latencies(self, account: str, at_most: int) -> list[tuple[ImageRequest, float]]:
        """The latest requests of an account whose latency is known, and one that can be, oldest first."""
        with explained(self.path):
            # Up to what a curve knows: a provider's broken clock, or another program, may have left anything there.
            rows = self._reading.execute(self._latencies, (account, EDGES[-1], at_most)).fetchall()
            return [(self._rows.decode_request(request), latency) for request, latency in reversed(rows)]

    def bills(self) -> list[tuple[Bill, int]]:
        """What its jobs say of money, and how many say the same."""
        # Added up by the file: of many thousand jobs few have a bill of their own.
        columns = "state, credits, price, lost, task_id IS NOT NULL"
        with explained(self.path):
            found = f"SELECT {columns}, count(*) FROM jobs WHERE {self._whose} GROUP BY {columns}"
            rows = self._reading.execute(found).fetchall()
        return [(Bill(state, credits, price, lost, bool(task)), n) for state, credits, price, lost, task, n in rows]

    def entries(self, *, by_position: bool = False) -> Iterator[JournalEntry]:
        """All jobs: those that ended first, in the order of their ending; or in the order of the input."""
        ended = "ended_at IS NULL, ended_at, position"
        with explained(self.path):
            order = f"position, {ended}" if by_position else ended
            for row in self._reading.execute(f"{self._select} ORDER BY {order}"):
                yield self._rows.entry(row)

    def mark(self) -> tuple[float, ...]:
        """What differs where a job has come, has ended once more, is in another state or has other pictures.

        First how many have pictures, and how many a failure.
        """
        with explained(self.path):
            mark: tuple[float, ...] = self._reading.execute(MARK).fetchone()
            return mark

    def notes(self) -> dict[str, str]:
        """What was noted of the batch as a whole."""
        with explained(self.path):
            return dict(self._reading.execute("SELECT name, value FROM notes WHERE name != ?", (STAMP,)))

    def is_being_written(self) -> bool:
        """True while a batch is at work on it."""
        return is_locked(self._real_path)

    def _those(self, condition: str, *values: str) -> list[JournalEntry]:
        with explained(self.path):
            rows = self._reading.execute(f"{self._select} WHERE {condition}", values).fetchall()
            return [self._rows.entry(row) for row in rows]

    def _open(self, stack: contextlib.ExitStack) -> sqlite3.Connection:
        """Open what is needed, each thing to be closed whatever comes next; returns the connection that reads."""
        # While a batch is at work on it, that sees to it by itself.
        if not is_locked(self._real_path):
            check_pair(self._real_path)
        if not os.path.exists(self.path):
            raise JournalError(f"There is no journal {self.path}.")
        # Nothing is written, and who cannot write removes nothing that a batch has, or had, beside it. Where there is
        # nothing, only who may write can tidy up what SQLite keeps beside an open file. In a folder that cannot be
        # written, a file that was closed in good order is read as it lies there.
        is_used = os.path.exists(f"{self._real_path}-wal")
        modes = ["ro", "ro&immutable=1"] if is_used else ["rw", "ro", "ro&immutable=1"]
        while True:
            mode = modes.pop(0)
            try:
                connection = stack.enter_context(contextlib.closing(connect(self.path, mode)))
                check(connection, self.path)
                return connection
            except sqlite3.OperationalError as error:
                is_last = not modes or (mode == "ro" and has_changes(self._real_path))
                if is_last or not code_of(error).startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY")):
                    raise
