"""The lock of a journal: one process writes at a time, readers stay free, and a process that died holds none."""

from __future__ import annotations

import contextlib
import os
import sqlite3

from ..errors import JournalError
from .connection import connect
from .explained import code_of


class FileLock:
    """SQLite's own lock on a file beside the journal, for as long as its connection is open.

    Args:
        path: The journal's real path.

    Attributes:
        connection: Holds it; closed by whoever takes the lock.
    """

    def __init__(self, path: str) -> None:
        self._path = _path_of(path)
        self._identity: tuple[int, int] | None = None
        # Not waited for: whoever has it has it for a whole batch.
        self.connection = connect(self._path, "rwc", timeout=0)

    def take(self) -> bool:
        """Take it; False while another process, or another journal of this one, has it."""
        try:
            self.connection.execute("PRAGMA journal_mode = MEMORY")  # nothing is ever written to it
            # The system's lock, which ends with its process: a file that says so would outlive a kill.
            self.connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            if code_of(error) != "SQLITE_BUSY":
                raise
            return False
        self._identity = _identity(self._path)
        return True

    def check(self) -> None:
        """Make sure that the file on which it is held is still the one that others would find; raises JournalError."""
        if _identity(self._path) != self._identity:
            raise JournalError(f"{self._path} was removed or replaced, so another batch may be at work: start again.")


def is_locked(path: str) -> bool:
    """True while somebody has the lock of the journal with that real path."""
    lock = _path_of(path)
    if not os.path.exists(lock):
        return False
    try:
        # An exclusive lock keeps readers out, too, so that a read is enough to tell.
        with contextlib.closing(connect(lock, "ro", timeout=0)) as connection:
            connection.execute("SELECT 1 FROM sqlite_master").fetchall()
    except sqlite3.OperationalError:
        return True  # held, or not ours to look at: then nobody can tell that it is free
    return False


def _path_of(path: str) -> str:
    return f"{path}-lock"


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
