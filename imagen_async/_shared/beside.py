"""What lies beside a key's file: whose turn it is to change that, whether there ever was one, and who uses it."""

from __future__ import annotations

import contextlib
import os
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from .._core.shared_limits import KINDS, UNKNOWN, Kind, SharedLimits
from .._held_file import HeldFile, Span
from .._roster import Roster, is_anybody_in
from .folder import is_name

PATIENCE = 2.0
"""Seconds that one waits for its turn, which takes a ten-thousandth of one: whoever has it then stands still."""

_STEP = 0.0005

_TURN = Span(0x40000000, 1)
_USED = b"used"
_PID_AT = 16
_STAMP_AT = 32
_MARKS = struct.Struct("<II")
_STAMP = struct.Struct("<Q")
_MOST = 2**53
"""Changes that no file will ever have seen: where more are told, that is garbage."""

UNUSED = 30 * 86400.0
"""Seconds after which a key's files go that nobody has used: a key that is not used any more leaves nothing behind."""


class StandsStill(OSError):
    """Another process has the turn, and does not go on."""


class Beside:
    """A file whose lock is the turn, which also tells that the key was used here before; and the roster of processes.

    SQLite's own locks would not do: a process loses those with any other descriptor of the file that it closes.

    Args:
        path: Where they are to be, without the ends of their names.

    Attributes:
        process: What this process is called there.

    Raises:
        OSError: They cannot be used here.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._marked: Mapping[Kind, int] = dict.fromkeys(KINDS, 0)
        self._former = ""
        self._stack = contextlib.ExitStack()
        # What is marked in one thread must not go into a file that another one is closing.
        self._guard = threading.Lock()
        self._open()

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Have the turn while the block runs; raises StandsStill where another process has it for too long."""
        by = time.monotonic() + PATIENCE
        # What is waited for and what is found must be one file: somebody may have removed it meanwhile.
        while not (self._is_locked() and self._is_in_place()):
            if not self._is_in_place():
                self._reopen()
            elif time.monotonic() > by:
                raise StandsStill(f"process {self._whose_turn()} is stopped in the midst of its turn")
            else:
                time.sleep(_STEP)
        try:
            self._lock.write_at(_PID_AT, f"{os.getpid():<16}".encode())
            yield
        finally:
            self._lock.unlock(_TURN)

    def is_used(self) -> bool:
        """True where the key was used here before."""
        return self._lock.read_at(0, len(_USED)) == _USED

    def use(self) -> None:
        """Note that it was."""
        self._lock.write_at(0, _USED)

    def rename(self, state: SharedLimits) -> None:
        """Have a state know this process by the name that it has now."""
        if self._former:
            state.rename(self._former, self.process)
            self._former = ""

    def bury_the_dead(self, state: SharedLimits) -> None:
        """Let processes have nothing any more in a state that run no more."""
        for process in state.processes() - {self.process}:
            if not self._roster.is_alive(process):
                said = self._roster.said(process)
                marked = UNKNOWN if said is None else dict(zip(KINDS, _MARKS.unpack(said[: _MARKS.size]), strict=True))
                state.bury(process, marked)

    def mark(self, marked: Mapping[Kind, int]) -> None:
        """Note, from any thread, how many places have requests that may have left; raises OSError, ValueError."""
        with self._guard:
            self._marked = dict(marked)
            self._say_marks()

    def stamp(self, number: int) -> None:
        """Note which change was made last."""
        self._lock.write_at(_STAMP_AT, _STAMP.pack(number))

    def last_stamp(self) -> int:
        """The last change that is known of, also by those that have ended: a file that has it not is an older one."""
        said = self._lock.read_at(_STAMP_AT, _STAMP.size)
        number = int(_STAMP.unpack(said)[0]) if len(said) == _STAMP.size else 0
        return number if number < _MOST else 0

    def pid(self, process: str) -> int | None:
        """The number of a process that uses the key, or None once it is dead."""
        return self._roster.pid(process) if self._roster.is_alive(process) else None

    def close(self) -> None:
        """Close them; once more is nothing."""
        self._stack.close()

    def _say_marks(self) -> None:
        self._roster.say(_MARKS.pack(*(self._marked[kind] for kind in KINDS)))

    def _open(self) -> None:
        with contextlib.ExitStack() as stack:
            self._lock = stack.enter_context(contextlib.closing(HeldFile(f"{self._path}.lock", is_made=True)))
            self._roster = stack.enter_context(contextlib.closing(Roster(f"{self._path}.roster")))
            self.process: str = self._roster.name
            self._say_marks()
            self._stack = stack.pop_all()

    def _is_locked(self) -> bool:
        with contextlib.suppress(ValueError):  # closed, by what could not be opened anew
            return self._lock.lock(_TURN, alone=True)
        return False

    def _is_in_place(self) -> bool:
        return self._lock.is_in_place() and self._roster.is_in_place()

    def _reopen(self) -> None:
        """Go on with what has the files' names now, and be known there as the one that it was."""
        self._former = self._former or self.process
        with self._guard:
            self.close()
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._open()

    def _whose_turn(self) -> str:
        with contextlib.suppress(OSError):
            return self._lock.read_at(_PID_AT, 16).decode(errors="replace").strip("\0 ") or "?"
        return "?"


def sweep(folder: Path) -> None:
    """Remove the files of keys that nobody has used for long; what cannot be removed stays."""
    for lock in folder.glob("*.lock"):
        with contextlib.suppress(OSError):
            # Ours alone: the folder may be anybody's, and `poetry.lock` another program's. Written at each turn.
            if is_name(lock.stem) and time.time() - lock.stat().st_mtime > UNUSED:
                _remove(lock)


def _remove(lock: Path) -> None:
    with contextlib.closing(HeldFile(str(lock), is_made=True)) as file:
        is_ours = file.read_at(0, len(_USED)) == _USED
        if (
            is_ours
            and file.lock(_TURN, alone=True)
            and file.is_in_place()
            and not _is_in_use(lock.with_suffix(".roster"))
        ):
            for suffix in (".db", ".db-journal", ".roster", ".lock"):
                lock.with_suffix(suffix).unlink(missing_ok=True)


def _is_in_use(roster: Path) -> bool:
    return roster.exists() and is_anybody_in(str(roster))
