"""The locks of a journal: one process has its run, others a place beside it, and a process that died holds none."""

from __future__ import annotations

import contextlib
import os
import sqlite3

from .._held_file import WHOLE, HeldFile, owns_locks
from .._roster import Roster
from .._sqlite import code_of, connect
from ..errors import JournalError


class _Own:
    """What was taken by this process, and by no fork of it.

    Args:
        path: The file that is locked.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._process = os.getpid()

    def check_process(self) -> None:
        """Make sure that it was taken by this process; raises JournalError."""
        if os.getpid() != self._process:
            message = f"The lock {self._path} is that of process {self._process}, of which this one is a fork"
            raise JournalError(f"{message}: open the journal anew here, once that has closed it.")


class FileLock(_Own):
    """A lock on a file beside the journal: the one by which SQLite has a file for itself alone.

    The open file's, where there are such locks, so that nothing else that the program does with the file ends it; else
    SQLite's own, renewed at each check. Other versions of this package know the one by the other.

    Args:
        path: The journal's real path.
    """

    def __init__(self, path: str) -> None:
        super().__init__(_path_of(path))
        self._stack = contextlib.ExitStack()
        self._file: HeldFile | None = None

    def take(self) -> bool:
        """Take it; False while another process, or another journal of this one, has it. May be tried again."""
        if owns_locks(self._path):
            # Once: to close it ends what another version, in this process, has locked by SQLite.
            if self._file is None or not self._file.is_in_place():
                self._file = self._stack.enter_context(contextlib.closing(HeldFile(self._path, is_made=True)))
            # Not waited for: whoever has it has it for a whole batch.
            is_taken = self._file.lock(WHOLE, alone=True)
            if self._file.is_owner:
                return is_taken and self._file.is_in_place()
            self._stack.close()
        return self._take_as_sqlite()

    def check(self) -> None:
        """Make sure that it is held, on the file that others would find; raises JournalError."""
        self.check_process()
        # Taken anew, which is nothing where it is held: only an open file's is sure to be.
        file = self._file
        if file is None or not (file.is_in_place() and file.lock(WHOLE, alone=True)):
            what = "was removed or replaced, or its lock was lost"
            raise JournalError(f"{self._path} {what}, so another batch may be at work: start again.")

    def close(self) -> None:
        """Let go of it; once more is nothing."""
        self._stack.close()

    def _take_as_sqlite(self) -> bool:
        connection = self._stack.enter_context(contextlib.closing(connect(self._path, "rwc", timeout=0)))
        try:
            connection.execute("PRAGMA journal_mode = MEMORY")  # nothing is ever written to it
            # The system's lock, which ends with its process: a file that says so would outlive a kill.
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            if code_of(error) != "SQLITE_BUSY":
                raise
            return False
        # Opened after, and closed before: by its closing the process loses the lock.
        self._file = self._stack.enter_context(contextlib.closing(HeldFile(self._path, is_made=True)))
        return True


class Place(_Own):
    """A place among those that have a journal open for single requests: as long as it is held, its rows are its own.

    Args:
        path: The journal's real path.

    Attributes:
        name: Whose those rows are.

    Raises:
        OSError: Nobody could tell here who lives.
    """

    def __init__(self, path: str) -> None:
        super().__init__(f"{path}-owners")
        self._roster = Roster(self._path)
        self.name: str = self._roster.name

    def is_alive(self, name: str) -> bool:
        """True while the process runs, and has the journal open, that has that name."""
        return self._roster.is_alive(name)

    def check(self) -> None:
        """Make sure that others find it; raises JournalError."""
        self.check_process()
        if not self._roster.is_in_place():
            what = "was removed or replaced, so another process may take over what this one is at work on"
            raise JournalError(f"{self._path} {what}. Nothing more is sent: open the client anew.")

    def close(self) -> None:
        """Let go of it; once more is nothing."""
        self._roster.close()


def is_locked(path: str) -> bool:
    """True while somebody has the lock of the journal with that real path."""
    lock = _path_of(path)
    if not os.path.exists(lock):
        return False
    try:
        if owns_locks(lock):
            with contextlib.closing(HeldFile(lock)) as file:
                found = file.is_locked(WHOLE)
            if found is not None:
                return found
        # An exclusive lock keeps readers out, too, so that a read is enough to tell.
        with contextlib.closing(connect(lock, "ro", timeout=0)) as connection:
            connection.execute("SELECT 1 FROM sqlite_master").fetchall()
    except (OSError, sqlite3.OperationalError):
        return True  # held, or not ours to look at: then nobody can tell that it is free
    return False


def _path_of(path: str) -> str:
    return f"{path}-lock"
