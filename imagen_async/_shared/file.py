"""One key's shared limits in a file: SQLite, one row, changed by one process at a time."""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from .._clock import boot_clock, boot_id
from .._core.shared_limits import HandedOn, Kind, Position, SharedLimits, Word
from .._held_file import identity_of
from .._sqlite import code_of, connect
from .beside import Beside

LOOK = 0.1
"""Seconds between two looks at who is dead."""

_LEAP = 2**20
"""Changes that a state is ahead which stands in for one that was lost: to nobody who knows that it is an older one."""

_SCHEMA = (
    "CREATE TABLE state (id INTEGER PRIMARY KEY CHECK (id = 1), stamp INTEGER NOT NULL, file TEXT NOT NULL, "
    "content BLOB NOT NULL)"
)

_DAMAGES = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_FORMAT", "SQLITE_ERROR")
"""How SQLite's names of errors begin that tell of a file which is not, or no more, what it should be."""

T = TypeVar("T")

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(SharedLimits).decode


class _Lost(Exception):
    """The state is not there, or it is an older one."""


class SharedFile:
    """The file, as one process has it: used in one thread, but for `mark`.

    Args:
        path: Where it is to be, without the end of its name.

    Raises:
        OSError, sqlite3.Error: It cannot be used here.
    """

    def __init__(self, path: Path) -> None:
        self._beside = Beside(path)
        self._path = f"{path}.db"
        self._boot = boot_id()
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._state: SharedLimits | None = None
        self._stamp = 0
        self._was_used = False
        self._looked_at = -LOOK
        try:
            self.change(self._beside.bury_the_dead)
        except BaseException:
            self.close()
            raise

    def exchange(self, said: Position) -> dict[Kind, Word]:
        """Take a client's position, whose name is the number that it has in this process, and tell what it may have.

        Raises:
            StandsStill: Another process is stopped in the midst of its turn.
            OSError, sqlite3.Error: The file cannot be read or written: nothing was changed.
        """
        wants = any(wish.wanted for wish in said.wishes.values())

        def exchange(state: SharedLimits) -> dict[Kind, Word]:
            now = boot_clock()
            if wants and now >= self._looked_at + LOOK:
                self._looked_at = now
                self._beside.bury_the_dead(state)
            named = msgspec.structs.replace(said, name=f"{self._beside.process}/{said.name}")
            return state.exchange(named, now)

        return self.change(exchange)

    def change(self, change: Callable[[SharedLimits], T]) -> T:
        """Change the state, once it is this process's turn; raises as `exchange` does, and then nothing was changed."""
        with self._beside.turn():
            state = self._state_now()
            self._beside.rename(state)
            try:
                told = change(state)
                self._write(state)
            except BaseException:
                self._state = None  # what is in the file holds
                raise
            return told

    def mark(self, marked: Mapping[Kind, int]) -> None:
        """Note, from any thread, how many places have requests that may have left; raises OSError, ValueError."""
        self._beside.mark(marked)

    def secret(self) -> bytes:
        """By which clients of all processes know one another's callback tokens; raises as `exchange` does."""
        return self.change(lambda state: state.secret_or(secrets.token_bytes(32)))

    def hand_on(self, callback: HandedOn) -> None:
        """Keep a callback for whoever waits for it; raises as `exchange` does."""
        self.change(lambda state: state.hand_on(callback, boot_clock()))

    def calls(self) -> Sequence[HandedOn]:
        """Those that were handed on lately, as of the last change by this process."""
        return () if self._state is None else self._state.calls

    def pid(self, process: str) -> int | None:
        """The number of a process that uses the key, or None once it is dead."""
        return self._beside.pid(process)

    def close(self) -> None:
        """Close it; once more is nothing."""
        self._disconnect()
        self._beside.close()

    def _state_now(self) -> SharedLimits:
        try:
            state = self._read()
        except _Lost:
            state = self._begin_anew(is_lost=True)
        except (sqlite3.DatabaseError, msgspec.MsgspecError) as error:
            if isinstance(error, sqlite3.DatabaseError) and not code_of(error).startswith(_DAMAGES):
                raise
            state = self._begin_anew(is_lost=True)
        now = boot_clock()
        if state.boot != self._boot or now < state.at:
            state.begin_at_boot(self._boot, now)
        return state

    def _read(self) -> SharedLimits:
        """What the file says; raises _Lost where it is not there, or is older than what is known of it."""
        found = identity_of(self._path)
        if found is None or found != self._identity:
            self._disconnect()
            if found is None:
                return self._begin_anew(is_lost=self._was_used or self._beside.is_used())
            self._connect(found)
            self._stamp = max(self._stamp, self._beside.last_stamp())
        assert self._connection is not None
        row = self._connection.execute("SELECT stamp, file, content FROM state").fetchone()
        if row is None or row[0] < self._stamp or row[1] != str(found):
            raise _Lost
        if self._state is None or row[0] != self._stamp:
            self._state = _decode(row[2])
        self._stamp, self._was_used = row[0], True
        return self._state

    def _begin_anew(self, *, is_lost: bool) -> SharedLimits:
        """A state that knows nothing; where one was lost, nothing goes for a window."""
        self._disconnect()
        for name in (self._path, f"{self._path}-journal"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
        now = boot_clock()
        self._stamp = max(self._stamp, self._beside.last_stamp()) + _LEAP * is_lost
        state = SharedLimits(self._boot, now, lost_at=now if is_lost else -math.inf)
        with contextlib.closing(connect(self._path, "rwc", timeout=1.0)) as connection:
            connection.execute(_SCHEMA)
            found = identity_of(self._path)
            values = (self._stamp, str(found), _encode(state))
            connection.execute("INSERT INTO state VALUES (1, ?, ?, ?)", values)
        self._connect(found)
        self._state, self._was_used = state, True
        self._beside.use()
        return state

    def _write(self, state: SharedLimits) -> None:
        assert self._connection is not None
        self._connection.execute("UPDATE state SET stamp = ?, content = ?", (self._stamp + 1, _encode(state)))
        self._stamp += 1
        self._beside.stamp(self._stamp)

    def _connect(self, found: tuple[int, int] | None) -> None:
        self._connection = connection = connect(self._path, "rw", timeout=1.0)
        self._identity = found
        # Nothing of it need outlive the machine: all that it tells is of this start of it.
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA journal_mode = TRUNCATE")

    def _disconnect(self) -> None:
        self._identity = self._state = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None
