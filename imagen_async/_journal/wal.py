"""What SQLite keeps beside an open journal: in `-wal` the changes that are not in the file yet, in `-shm` who reads.

The file and its `-wal` are one journal, and either is nothing without the other: that they belong together is seen to
while they are in use, and before changes that a killed process has left are taken for the file's.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from glob import escape, glob

from .._held_file import MERGES, SHARED, SHM_IN_USE, HeldFile, Span, identity_of
from .._joint import Joint
from .._sqlite import code_of, connect
from ..errors import JournalError

RESCUED = "-rescued-"
"""What stands between a journal's name and a time, in the name of what was saved of one that had lost its own."""

_FARTHEST = 2**40
"""How far a run begins from the last commit of the one before, at random: no two files have a number in common."""

LOOKS = 3
"""How often a file and what lies beside it are looked at before they do not fit: others may write them meanwhile."""

LOOK_AGAIN = 0.02
"""Seconds between two of these looks."""

MERGING = 5.0
"""Seconds that another process may take to write the file: a few megabytes, and the disk's time for them."""

STAMP = "commit"
"""The note that has the number of the last commit."""

_HEAD = b"\x37\x7f\x06"
"""How a `-wal` begins, as SQLite's file format has it. Of one that begins in another way SQLite takes nothing."""

_PUT_STAMP = f"INSERT INTO notes VALUES ('{STAMP}', ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
# Without the index, which a crash may have left of another age.
_SELECT_STAMP = f"SELECT value FROM notes WHERE +name = '{STAMP}'"

_COSTS = "without it, what it knew would be paid for again"
_GOES_ON = "while a batch is at work on it. Nothing more is sent; what runs is still noted in the file that is open."
_RENAMED = f"Give it back its name before the batch is run again: {_COSTS}."
_OVERWRITTEN = f"Restore it from a copy before the batch is run again: {_COSTS}."


class OpenFiles:
    """The files of a journal that is open for writing: held, so that nobody else tidies them up, and watched.

    Args:
        path: The journal's real path.
        is_ready: True where no connection needs it for itself alone any more: then it is held from now on.

    Attributes:
        must_merge: True when what lies beside the file is not to be found there any more, and the file itself is.
    """

    must_merge = False

    def __init__(self, path: str, *, is_ready: bool = False) -> None:
        self._path = path
        self._wal: tuple[int, int] | None = None
        self._main = HeldFile(path)
        # Before any connection: what another thread closes takes from that the locks that it has by itself.
        self._shm = _shms.join(f"{path}-shm", lambda: _Shm(f"{path}-shm"))
        if is_ready:
            self._main.lock(SHARED, alone=False)
        self._held: dict[Span, HeldFile] = {}
        self._is_closed = False
        self._is_strange = False

    def hold(self, stamps: Stamps) -> None:
        """Hold all of them, once a connection has read."""
        self._stamps = stamps
        self._wal = identity_of(f"{self._path}-wal")
        # Windows could not remove what is held; where SQLite has none of these, it needs the file for itself alone.
        if os.name == "posix" and os.path.exists(f"{self._path}-shm"):
            self._held = {SHARED: self._main, SHM_IN_USE: self._shm.opened()}
        self.check()

    def check(self) -> None:
        """Make sure that they are still those that others would find; raises JournalError."""
        self.must_merge = False
        if not self._main.is_in_place():
            what, remedy = ("removed or replaced", "") if self.is_unlinked() else ("renamed", f" {_RENAMED}")
            raise JournalError(f"{self._path} was {what} {_GOES_ON}{remedy}")
        if self._is_overwritten():
            raise JournalError(f"{self._path} was overwritten {_GOES_ON} {_OVERWRITTEN}")
        self.must_merge = identity_of(f"{self._path}-wal") != self._wal
        if self.must_merge:
            raise JournalError(f"{self._path}-wal was removed or replaced {_GOES_ON} Then run the batch again.")
        for span, file in self._held.items():
            file.lock(span, alone=False)  # again, which is nothing where it is the open file's

    def is_unlinked(self) -> bool:
        """True when no name leads to the journal any more, so that it is gone once it is closed."""
        return self._main.is_unlinked

    def let_go(self) -> None:
        """Leave them to SQLite, which is about to close them and tidies up, if it is the last."""
        for span, file in self._held.items():
            # It believes that it has these, and the process may have lost them.
            with contextlib.suppress(OSError, ValueError):
                file.lock_for_process(span, alone=False)
            if span is SHM_IN_USE and _shms.users(self._shm) > 1:
                continue  # another journal of this process has it open, too
            with contextlib.suppress(OSError, ValueError):
                file.unlock(span)

    def close(self) -> None:
        """Close what is held, after SQLite: by its closing the process loses what locks it has."""
        if not self._is_closed:
            self._is_closed = True
            self._main.close()
            _shms.leave(self._shm)

    def _is_overwritten(self) -> bool:
        """True when the file itself has what this journal never wrote there."""
        # The look may cost SQLite its lock, which is renewed with the others.
        if self._main.is_changed():
            self._is_strange = not self._fits()
        return self._is_strange

    def _fits(self) -> bool:
        """True where the file is what it should be, which nobody can tell while another one writes it."""
        by, left = time.monotonic() + MERGING, LOOKS
        while not self._stamps.fit(self._path):
            left -= not self._is_being_merged()
            if not left or time.monotonic() > by:
                return False
            time.sleep(LOOK_AGAIN)
        return True

    def _is_being_merged(self) -> bool:
        return SHM_IN_USE in self._held and bool(self._held[SHM_IN_USE].is_locked(MERGES))


class _Shm:
    """A `-shm` that is held for all journals of this process.

    To close any descriptor of it ends SQLite's locks there, also those of another journal in the midst of a commit: it
    is closed once none of them has a connection.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._files: list[HeldFile] = []
        self._turn = threading.Lock()

    def opened(self) -> HeldFile:
        """The file, held from now on."""
        with self._turn:
            # Not one that was replaced, which another journal may still have its locks in.
            if not self._files or not self._files[-1].is_in_place():
                self._files.append(HeldFile(self._path))
            return self._files[-1]

    def close(self) -> None:
        """Close it, and those that were there before it, whoever still has a lock there."""
        for file in self._files:
            file.close()


_shms: Joint[str, _Shm] = Joint(_Shm.close)


@contextlib.contextmanager
def untidied(path: str) -> Iterator[None]:
    """Have nobody tidy up around a connection in the block, to a file that is in use by others."""
    with contextlib.closing(OpenFiles(path, is_ready=True)):
        yield


class Stamps:
    """Numbers the commits of a journal, in the journal: so are a file and a `-wal` known to belong together.

    Each commit notes its number, and that of the last one that the file itself has whole. The file alone has the number
    of a commit between these two, or the changes are another file's, or of another age. Others may commit, too: what
    they have noted counts as soon as SQLite tells that they have.

    Args:
        connection: Writes the journal.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._version = self._version_now()
        last, self._merged = _stamp_of(connection)
        self._last = last + 1 + secrets.randbelow(_FARTHEST)

    def add(self) -> None:
        """Number the transaction that is under way."""
        self._catch_up()
        self._last += 1
        self._connection.execute(_PUT_STAMP, (f"{self._last} {self._merged}",))

    def fit(self, path: str) -> bool:
        """See what the file alone has, as soon as it was written; True where it is what it should have."""
        with contextlib.suppress(sqlite3.DatabaseError):
            self._catch_up()
            found, least = _stamp_of_file(path), self._merged
            # Once more: what another one has committed since the first time, the file may have already.
            self._catch_up()
            if least <= found <= self._last:
                self._merged = max(found, self._merged)
                return True
        return False

    def _catch_up(self) -> None:
        """Hear of what others have committed. Not told by the file alone, which may be another one by now."""
        version = self._version_now()
        if version != self._version:
            self._version = version
            last, merged = _stamp_of(self._connection)
            self._last, self._merged = max(self._last, last), max(self._merged, merged)

    def _version_now(self) -> int:
        """What changes with each commit that is not this connection's."""
        (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        return int(version)

    def stop_merging(self) -> None:
        """Leave what lies beside the file where it is: beside a copy of the file it is as good."""
        self._connection.execute("PRAGMA wal_autocheckpoint = 0")

    def merge(self) -> None:
        """Have the file take up at once what lies beside it, which SQLite else does when that is much."""
        # What is committed is safe: a disk that takes no more is told of by the next commit.
        with contextlib.suppress(sqlite3.Error):
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")


def check_pair(path: str) -> None:
    """Make sure that a journal which nobody writes is whole with what lies beside it; raises JournalError."""
    if not os.path.exists(path):
        _check_missing(path)
    # Not only else: another process may have made it since.
    if has_changes(path):
        _check_changes(path)


def _check_missing(path: str) -> None:
    """Make sure that a journal which is not there never was."""
    for beside in (*sorted(glob(f"{escape(path)}{RESCUED}*"), reverse=True), f"{path}-wal"):
        # What another process has just made lay under its name before anything lay beside it.
        if has_content(beside) and not os.path.exists(path):
            message = f"{path} is missing, and {beside} has what it knew last. Nothing was sent."
            how = f"Put {path} back" if beside.endswith("-wal") else f"Give that the name {path}"
            raise JournalError(f"{message} {how}: {_COSTS}. To begin anew, remove {beside}.")


def _check_changes(path: str) -> None:
    """Make sure that the changes beside a file are its own, also while others write both."""
    for left in range(LOOKS - 1, -1, -1):
        try:
            _check_as_they_are(path)
            return
        except JournalError:
            if not left:
                raise
            time.sleep(LOOK_AGAIN)


def _check_as_they_are(path: str) -> None:
    with untidied(path):
        _check_held(path)


def _check_held(path: str) -> None:
    try:
        found = _stamp_of_file(path)
    except sqlite3.DatabaseError as error:
        if code_of(error) == "SQLITE_NOTADB":
            raise
        return  # nobody can tell; whoever opens it is told why
    if not (_has_head(f"{path}-wal") and _reaches(path, found)):
        message = f"{path}-wal is not of this {path}: one of them was replaced, or restored from a copy."
        remedy = f"Put back the file that it belongs to: {_COSTS}. To go on with the file as it is, remove {path}-wal."
        raise JournalError(f"{message} Nothing was sent. {remedy}")


def _has_head(changes: str) -> bool:
    """False where somebody has cut the changes off, or written over them, and whoever wrote them wrote on behind."""
    with contextlib.suppress(OSError), open(changes, "rb") as file:
        return file.read(len(_HEAD)) == _HEAD
    return True  # nobody can tell


def _reaches(path: str, found: int) -> bool:
    """True where the changes beside a file go on from the commit that the file has."""
    try:
        with contextlib.closing(connect(path, "ro")) as whole:
            last, merged = _stamp_of(whole)
    except sqlite3.DatabaseError as error:
        # Each change has its checksum, and the file was read alone: what does not fit are the two.
        return not code_of(error).startswith("SQLITE_CORRUPT")
    return merged <= found <= last


def has_changes(path: str) -> bool:
    """True when a writer that works, or was killed, has changes beside the file."""
    return has_content(f"{path}-wal")


def has_content(path: str) -> bool:
    """True for a file that is there and not empty."""
    with contextlib.suppress(OSError):
        return os.path.getsize(path) > 0
    return False


def _stamp_of_file(path: str) -> int:
    """The last commit that a file itself has, without what lies beside it."""
    # As it lies there, and no lock of it touched.
    with contextlib.closing(connect(path, "ro&immutable=1")) as alone:
        # Where others still read what was before, the file takes up only some pages, and may have fewer than it says.
        alone.execute("PRAGMA writable_schema = ON")
        return _stamp_of(alone)[0]


def _stamp_of(connection: sqlite3.Connection) -> tuple[int, int]:
    """The last commit that a journal knows, and the last one that its file had whole by then."""
    for (value,) in connection.execute(_SELECT_STAMP):
        with contextlib.suppress(ValueError, AttributeError):  # somebody else has written there
            last, merged = map(int, value.split())
            return last, merged
    return 0, 0
