"""The file that remembers a batch: SQLite, one writer, each group of changes one durable transaction.

Knows rows and transactions; what a row means is `_core.journal_entry`'s, when it is written `writer`'s.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePath
from typing import Any

from .._core.journal_entry import JournalEntry, cut_off
from .._folders import sweep, sync_folder
from ..errors import JournalError
from .connection import connect, transaction
from .explained import explained
from .lock import FileLock
from .reader import JournalReader
from .schema import COLUMNS, MOVE, MOVED, PUT, SCHEMA, SCHEMA_VERSION, SEE, SEEN, SENT_SINCE, check, select, upgrade
from .store import LONGEST_WAY

KEPT = 86_400.0
"""Seconds for which the times of creates are kept: far longer than any limit's window."""


class Journal(JournalReader):
    """A journal opened for writing, made if missing: a JobStore in a SQLite file.

    One process has it at a time, and a crash leaves no lock. Creates that were on the way when the last process ended
    are unknown from here on.

    Attributes:
        is_new: True when no earlier run has left a job in it.
        is_in_use: True while a batch is at work on it.

    Raises:
        JournalError: It cannot be used, or another process has it.
    """

    is_new = True
    is_in_use = False

    @property
    def name(self) -> str:
        """What it is called in messages: its path."""
        return self.path

    def close(self) -> None:
        """Close the file, once what another thread writes is written; once more is nothing."""
        with self._turn:
            super().close()

    def write(self, entries: Iterable[JournalEntry]) -> None:
        """Write changes, all of them durably or none. May be called from any thread.

        Raises:
            JournalError: They could not be written, and none of them was.
        """
        put: list[tuple[Any, ...]] = []
        moved: list[tuple[Any, ...]] = []
        sends: list[tuple[str, str, float]] = []
        for entry in entries:
            # One that was never sent may have no row yet.
            if entry.state == "submitting" or not entry.attempts:
                put.append(self._rows.row(entry, COLUMNS))
            else:
                moved.append((*self._rows.row(entry, MOVED), entry.key))
            if entry.state == "submitting" and entry.sent_at is not None:
                sends.append((entry.account, entry.key, entry.sent_at))
        with self._turn, explained(self.path), transaction(self._writing):
            # At each write: where the lock is gone another batch may have begun, and prompts would be paid for twice.
            self._lock.check()
            self._writing.executemany(PUT, put)
            self._writing.executemany(MOVE, moved)
            self._writing.executemany("INSERT INTO sends VALUES (?, ?, ?)", sends)

    def note(self, notes: Mapping[str, str]) -> None:
        """Note something of the batch as a whole, durably. May be called from any thread."""
        with self._turn, explained(self.path), transaction(self._writing):
            self._writing.executemany("INSERT OR REPLACE INTO notes VALUES (?, ?)", notes.items())

    def begin_run(self) -> None:
        """Begin a run over an input; raises JournalError while another batch of this program is in the midst of one."""
        with self._turn:
            if self.is_in_use:
                raise JournalError(f"{self.path} is in use: another batch of this program is at work on it.")
            self.is_in_use = True
        try:
            with explained(self.path):
                self._reading.execute("DELETE FROM seen")
            self.is_new = not self.counts()
        except BaseException:
            self.is_in_use = False
            raise

    def end_run(self) -> None:
        """End the run; the next may begin."""
        self.is_in_use = False

    def times_seen(self, key: str) -> int:
        """Count how often this run has met a key, this time included. Kept on disk: an input may be endless."""
        with explained(self.path):
            (times,) = self._reading.execute(SEE, (key,)).fetchone()
        return int(times)

    def sent_since(self, account: str, moment: float) -> list[tuple[float, float | None]]:
        """When an account's creates were sent and accepted that the server may have seen since that Unix time.

        Between the note of the intent and the server lie a commit and the way. Of one without an answer, or of an
        earlier one of a job, nobody knows when it was answered: None.
        """
        with explained(self.path):
            earliest = moment - LONGEST_WAY
            return self._reading.execute(SENT_SINCE, (account, earliest, moment + 1.0, moment)).fetchall()

    def sweep(self, folder: str | PurePath) -> None:
        """Remove what a killed process has left unfinished in a folder, where that is the one the journal lies in.

        Who holds the journal is the only one to write there; what lies elsewhere may be somebody else's.
        """
        if os.path.realpath(folder) == os.path.dirname(self._real_path):
            sweep(folder)

    def _connect(self) -> Iterator[sqlite3.Connection]:
        # Before the file is looked at, or made: another process may be doing so.
        self._lock = FileLock(self._real_path)
        yield self._lock.connection
        if not self._lock.take():
            raise JournalError(f"{self._in_use()}. Wait for it to end, or choose another folder.")
        self._make_if_missing()
        writing = connect(self.path, "rw")
        yield writing
        self._writing = writing
        # Before anything is changed: what is no journal, or a newer one, stays as it is.
        check(writing, self.path)
        # Readers beside it are never in its way, and what is committed is on the disk.
        writing.execute("PRAGMA journal_mode = WAL")
        # In groups it costs 6.0 µs a change where NORMAL costs 5.6, and outlasts a power loss.
        writing.execute("PRAGMA synchronous = FULL")
        upgrade(writing)
        # Reading has a connection of its own, so that it never waits for a commit in the other thread.
        reading = connect(self.path, "rw")
        yield reading
        reading.execute(SEEN)
        self._take_over(reading)

    def _take_over(self, reading: sqlite3.Connection) -> None:
        """Make of what the last process has left what it is now that this one has the file."""
        with transaction(self._writing):
            self._writing.execute("DELETE FROM sends WHERE sent_at < ?", (time.time() - KEPT,))
        # Their process is gone, and whether their creates have reached the provider nobody can tell.
        rows = reading.execute(f"{select(SCHEMA_VERSION)} WHERE state = 'submitting'").fetchall()
        self.write([cut_off(self._rows.entry(row)) for row in rows])
        self.note({"process": str(os.getpid())})

    def _in_use(self) -> str:
        """Say that another process has it, and which."""
        who = ""
        # The file may be new, and not there yet.
        with contextlib.suppress(JournalError), JournalReader(self.path) as reader:
            who = f" (process {reader.notes().get('process', '?')})"
        return f"{self.path} is in use: another batch{who} is at work on it. Nothing was sent"

    def _make_if_missing(self) -> None:
        if not os.path.exists(self.path):
            _make(self._real_path)
        elif not os.path.getsize(self.path):
            message = f"{self.path} is empty. Nothing was sent. If it was a journal, restore it from a copy: a batch"
            raise JournalError(f"{message} without it would pay again for what it knew. If it was none, remove it.")


def _make(path: str) -> None:
    """Make the file whole under another name first: one that is there and empty was lost, and is not a new one."""
    part = f"{path}-new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(part)
    with contextlib.closing(connect(part, "rwc")) as connection, transaction(connection):
        for statement in SCHEMA:
            connection.execute(statement)
    os.replace(part, path)
    sync_folder(os.path.dirname(path))
