"""The file that remembers a batch: SQLite, each group of changes one durable transaction, and one batch at a time.

Knows rows and transactions; what a row means is `_core.journal_entry`'s, when it is written `writer`'s.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from itertools import chain
from pathlib import PurePath
from typing import Any

from .._core.journal_entry import JournalEntry, cut_off
from .._core.values import ImageRequest
from .._folders import sweep
from .._sqlite import connect, transaction
from .._text import well_formed
from .._watch.log import log
from ..errors import JournalError
from .explained import about_values, explained
from .lock import FileLock, Place
from .making import AGAIN, MAKING, is_ready, make, prepare
from .reader import JournalReader
from .rows import Rows
from .schema import (
    COLUMNS,
    FORGET_SENDS,
    MOVE,
    OWNER,
    PLACE,
    PUT,
    PUT_SENDS,
    RESTATE,
    SCHEMA_VERSION,
    SENT_BEFORE,
    TOGETHER,
    moved,
    select,
)
from .seen import Seen
from .store import LONGEST_WAY
from .wal import LOOKS, RESCUED, OpenFiles, Stamps, check_pair

LOCK_WAIT = 200
"""Milliseconds that one write waits for another program's: a write of ours takes one."""

PATIENT_WAIT = 2000
"""The same for what is written once, and not tried again."""

KEPT = 100_000
"""Creates whose times are kept, the latest: far more than any window holds. Not by their age, for clocks are set."""


STRETCH = 5_000
"""Creates that are looked at together, from the latest on, until none of so many was since a moment.

One before all of these was on its way while they all went: more than any limit lets through in the time of an answer.
"""


_TAKEN = "its key is that of a single request, or was, or another process has taken it over"

_KEY = [*COLUMNS].index("key")


class Changes:
    """The rows of a group of changes, by what becomes of them.

    Attributes:
        intents: Of creates that are about to go out.
        sends: When these were.
        unsent: Of jobs that were never sent, and may have no row yet.
        moved: Of jobs that have one.
    """

    def __init__(self, entries: Iterable[JournalEntry], rows: Rows, owner: str | None) -> None:
        self.intents: list[Sequence[Any]] = []
        self.sends: list[tuple[str, str, float]] = []
        self.unsent: list[Sequence[Any]] = []
        self.moved: list[Sequence[Any]] = []
        for entry in entries:
            if entry.state == "submitting":
                self.intents.append([*rows.row(entry), owner])
                if entry.sent_at is not None:
                    self.sends.append((entry.account, entry.key, entry.sent_at))
            elif not entry.attempts:
                self.unsent.append([*rows.row(entry), owner])
            else:
                self.moved.append([*rows.row(entry, is_moved=True), owner])

    def write(self, connection: sqlite3.Connection, *, with_intents: bool) -> None:
        """Write them, all or but for the intents; raises ValueError where an intent's key is another's by now."""
        if with_intents:
            before = connection.total_changes
            _insert(connection, PUT, self.intents)
            if connection.total_changes - before < len(self.intents) or self._is_dropped(connection):
                raise ValueError(_TAKEN)
            _insert(connection, PUT_SENDS, self.sends)
        _insert(connection, PUT, self.unsent)
        connection.executemany(MOVE, map(moved, self.moved))

    def _is_dropped(self, connection: sqlite3.Connection) -> bool:
        """True where the row of one of the intents was kept, and is not any more: its task was paid for once."""
        if connection.execute("SELECT 1 FROM dropped LIMIT 1").fetchone() is None:
            return False
        keys = ((row[_KEY],) for row in self.intents)
        return any(connection.execute("SELECT 1 FROM dropped WHERE key = ?", key).fetchone() for key in keys)


def _insert(connection: sqlite3.Connection, statements: Mapping[int, str], rows: Sequence[Sequence[Any]]) -> None:
    """Insert rows, as many by one statement as it takes."""
    together = len(rows) - len(rows) % TOGETHER
    chunks = (chain.from_iterable(rows[at : at + TOGETHER]) for at in range(0, together, TOGETHER))
    for count, those in ((TOGETHER, [list(each) for each in chunks]), (1, rows[together:])):
        if those:
            connection.executemany(statements[count], those)


class Journal(JournalReader):
    """A journal opened for writing, made if missing: a BatchStore in a SQLite file.

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

    # What a batch asks for its own run is of its own rows.
    _whose = f"{OWNER} IS NULL"
    _owner: str | None = None

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
            JournalError: They could not be written, and none of them was; or the journal was lost: another file has its
                name, or its lock is gone. Then no intent was written, and all else was: what exists is still noted.
            ValueError, TypeError: One of them is what cannot be stored; none was written.
        """
        with self._turn, explained(self.path):
            with self._commit(), about_values():
                changes = Changes(entries, self._rows, self._owner)
                # At each write: where the journal is lost another batch may have begun, and prompts be paid for twice.
                loss = self._loss()
                changes.write(self._writing, with_intents=loss is None)
                if loss is not None:
                    self._stamps.stop_merging()
            if self._files.must_merge:
                self._stamps.merge()
        if loss is not None and changes.intents:
            raise loss

    def restate(self, requests: Mapping[str, ImageRequest]) -> None:
        """Write what requests, by their keys, say beside what is wanted of them, which stays what it was: durably."""
        rows = [(self._rows.encode_request(request), key) for key, request in requests.items()]
        with self._turn, explained(self.path), _patient(self._writing), self._commit(), about_values():
            self._lock.check_process()
            self._writing.executemany(RESTATE, rows)

    def note(self, notes: Mapping[str, str]) -> None:
        """Note something of the batch as a whole, durably. May be called from any thread."""
        # A command line, or a folder, may hold names of files that are no text.
        texts = [(name, well_formed(value)) for name, value in notes.items()]
        with self._turn, explained(self.path), _patient(self._writing), self._commit():
            self._lock.check_process()
            self._writing.executemany("INSERT OR REPLACE INTO notes VALUES (?, ?)", texts)

    def note_once(self, name: str, value: str) -> str:
        """Note something unless it is noted; returns what is."""
        with self._turn, explained(self.path), _patient(self._writing), self._commit():
            self._writing.execute("INSERT OR IGNORE INTO notes VALUES (?, ?)", (name, value))
            (noted,) = self._writing.execute("SELECT value FROM notes WHERE name = ?", (name,)).fetchone()
        return str(noted)

    def move(self, places: Mapping[str, int]) -> None:
        """Note where jobs stand in the input as it is now, by their keys."""
        if places:
            with self._turn, explained(self.path), _patient(self._writing), self._commit():
                self._lock.check_process()
                self._writing.executemany(PLACE, ((place, key) for key, place in places.items()))

    def begin_run(self) -> None:
        """Begin a run over an input; raises JournalError while another batch of this program is in the midst of one."""
        with self._turn:
            self._lock.check_process()
            if self.is_in_use:
                raise JournalError(f"{self.path} is in use: another batch of this program is at work on it.")
            self.is_in_use = True
        try:
            with explained(self.path):
                self._seen.clear()
            self.is_new = not self.counts()
        except BaseException:
            self.is_in_use = False
            raise

    def end_run(self) -> None:
        """End the run; the next may begin. Raises JournalError where the journal was lost meanwhile."""
        self.is_in_use = False
        with self._turn:
            loss = self._loss()
        if loss is not None:
            raise JournalError(f"{loss.message}{self._rescued()}")

    def times_seen(self, key: str) -> int:
        """Count how often this run has met a key, this time included. Not in memory alone: an input may be endless."""
        with explained(self.path):
            return self._seen.times(key)

    def sent_since(self, account: str, moment: float) -> list[tuple[float, float | None]]:
        """When an account's creates were sent and were over that the server may have seen since that Unix time.

        Between the note of the intent and the server lie a commit and the way. Of one whose answer its process has not
        waited for nobody knows when it was over: None.
        """
        found: list[tuple[float, float | None]] = []
        before, is_known = sys.maxsize, True
        with explained(self.path):
            # Whole stretches, and not up to the first from before: what was noted first may have been over last.
            while is_known:
                values = (LONGEST_WAY, moment, account, before, STRETCH)
                rows = self._reading.execute(SENT_BEFORE, values).fetchall()
                since = [(sent_at, over_at) for _, sent_at, over_at, is_since in rows if is_since]
                found += since
                before, is_known = rows[-1][0] if rows else before, bool(since)
        return found

    def sweep(self, folder: str | PurePath) -> None:
        """Remove what a killed process has left unfinished in a folder, where that is the one the journal lies in.

        Who holds the journal is the only one to write there; what lies elsewhere may be somebody else's.
        """
        if os.path.realpath(folder) == os.path.dirname(self._real_path):
            sweep(folder)

    def _open(self, stack: ExitStack) -> sqlite3.Connection:
        # Before the file is looked at, or made: another process may be doing so.
        self._lock = self._entered(stack)
        check_pair(self._real_path)
        self._files = stack.enter_context(closing(OpenFiles(self._real_path, is_ready=is_ready(self._real_path))))
        self._writing = writing = stack.enter_context(closing(connect(self._real_path, "rw")))
        prepare(writing, self.path)
        # In groups it costs 6.0 µs a change where NORMAL costs 5.6, and outlasts a power loss.
        writing.execute("PRAGMA synchronous = FULL")
        # Reading has a connection of its own, so that it never waits for a commit in the other thread.
        reading = stack.enter_context(closing(connect(self._real_path, "rw")))
        self._seen = Seen(reading)
        self._stamps = Stamps(writing)
        self._files.hold(self._stamps)
        stack.callback(self._finish)
        self._take_over(reading)
        # From here on whoever writes tries again: a wait in SQLite could not be ended when the batch is left.
        writing.execute(f"PRAGMA busy_timeout = {LOCK_WAIT}")
        return reading

    def _entered(self, stack: ExitStack) -> FileLock | Place:
        """What says that the file may be written here, which is there then; raises JournalError."""
        lock = stack.enter_context(closing(FileLock(self._real_path)))
        by, looks = time.monotonic() + MAKING, LOOKS
        while not lock.take():
            # Who opens it for single requests has the lock only while it is made, or is brought up to this version.
            looks -= is_ready(self._real_path)
            if not looks or time.monotonic() > by:
                raise in_use(self.path)
            time.sleep(AGAIN)
        self._make_if_missing()
        return lock

    def _take_over(self, reading: sqlite3.Connection) -> None:
        """Make of what the last process has left what it is now that this one has the file."""
        # Their process is gone, and whether their creates have reached the provider nobody can tell.
        rows = reading.execute(f"{select(SCHEMA_VERSION)} WHERE state = 'submitting' AND {self._whose}").fetchall()
        with self._commit():
            self._writing.execute(FORGET_SENDS, (KEPT,))
        self.write([cut_off(self._rows.entry(row)) for row in rows])
        self.note({"process": str(os.getpid())})
        self._stamps.merge()

    @contextmanager
    def _commit(self) -> Iterator[None]:
        """Have all of the block's statements take effect, numbered, or none of them."""
        with transaction(self._writing):
            yield
            self._stamps.add()
        self._ahead.forget()

    def _loss(self) -> JournalError | None:
        """Why nothing may be sent any more: it is not this process's alone, or not where others would find it."""
        self._lock.check_process()
        loss = None
        # Of two losses that of the lock is told: who has that may have done the other.
        for held in (self._files, self._lock):
            try:
                with explained(self.path):
                    held.check()
            except JournalError as error:
                loss = error
        return loss

    def _finish(self) -> None:
        """Leave the files to SQLite; where they are lost, what now has their names is not its to tidy up."""
        with suppress(JournalError):  # in a fork they are somebody else's
            if self._loss() is None:
                self._files.let_go()
            elif self._files.must_merge:
                self._stamps.merge()

    def _rescued(self) -> str:
        """Save what would be gone with the process, or tell of it; returns what to do."""
        if not self._files.is_unlinked():
            return ""
        path = f"{self._real_path}{RESCUED}{time.time():.0f}"
        try:
            with closing(connect(path, "rwc")) as copy:
                self._writing.backup(copy)
        except sqlite3.Error:
            what = "task %s of %r is in no journal any more; it is paid for: collect it"
            for entry in self.unfinished():
                log(logging.WARNING, f"%s: {what}", entry.account, entry.task_id, entry.key)
            return " The log tells of its tasks that still run."
        return f" What it knew was saved as {path}: give that the name {self.path} before the batch is run again."

    def _make_if_missing(self) -> None:
        is_there = os.path.exists(self.path)
        if is_there and not os.path.getsize(self.path):
            message = f"{self.path} is empty. Nothing was sent. If it was a journal, restore it from a copy: a batch"
            raise JournalError(f"{message} without it would pay again for what it knew. If it was none, remove it.")
        if not is_there:
            check_pair(self._real_path)
            make(self._real_path)


@contextmanager
def _patient(writing: sqlite3.Connection) -> Iterator[None]:
    """Wait longer in a block for what others write: nobody tries that again."""
    writing.execute(f"PRAGMA busy_timeout = {PATIENT_WAIT}")
    try:
        yield
    finally:
        writing.execute(f"PRAGMA busy_timeout = {LOCK_WAIT}")


def in_use(path: str) -> JournalError:
    """What says that another process has a journal, and which."""
    who = ""
    # The file may be new, and not there yet.
    with suppress(JournalError), JournalReader(path) as reader:
        who = f" (process {reader.notes().get('process', '?')})"
    what = f"{path} is in use: another batch{who} is at work on it. Nothing was sent"
    return JournalError(f"{what}. Wait for it to end, or choose another folder.")
