"""A file kept open, bytes of which are locked for as long as it is: by the open file, not by the process.

POSIX takes from a process all locks that it has on a file as soon as it closes any descriptor of that: whoever zips,
hashes or uploads a folder ends SQLite's. A lock of the open file ends with that alone (Linux since 3.15, macOS).
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import sys
import threading
import weakref
from importlib import import_module
from io import FileIO
from typing import Any, NamedTuple

# Not on Windows, where SQLite's own locks are the open file's.
_fcntl: Any = import_module("fcntl") if os.name == "posix" else None

_LAYOUTS = {"linux": ("hhqqi4x", (0, 1, 2, 3)), "darwin": ("qqihh", (2, 3, 0, 1))}
"""The system's `struct flock`, and where in it kind, whence, start and length stand."""

_NOT_KNOWN = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.ENOTTY)
"""What kernels and file systems answer that do not have such locks."""


class Span(NamedTuple):
    """Bytes of a file; they need not be there to be locked."""

    start: int
    length: int


# As SQLite's file format has them, for as long as there are its version 3, and its WAL mode.
WHOLE = Span(0x40000000, 512)
"""Locked by whoever has a database for itself alone."""
SHARED = Span(0x40000002, 510)
"""Locked, by each for itself, by all who have a database open; who is the last may remove what lies beside it."""
MERGES = Span(121, 1)
"""Of a `-shm`: locked by whoever has the database take up what lies beside it."""
SHM_IN_USE = Span(128, 1)
"""The same of a `-shm`: who is the first may cut it off, under the feet of whoever has it mapped."""


class HeldFile:
    """A file that is kept open; a fork of the process has it closed, so that a lock ends with the process that took it.

    A fork that Python does not hear of, in a library of C's, keeps it: the file is in use until that has ended, too.

    Args:
        path: Where it is.
        is_made: True where it is made if missing, and may be locked alone.

    Attributes:
        is_owner: Whether locks are, as far as it is known, the open file's; else they are the process's.
    """

    def __init__(self, path: str, *, is_made: bool = False) -> None:
        self.is_owner = owns_locks(path)
        self._path = path
        # Not while another thread forks: the child would not know of a descriptor that is in no list yet.
        with _opening:
            self._file = FileIO(path, "r+", opener=_made_if_missing) if is_made else FileIO(path, "r")
            _files.add(self)
        self._written = os.fstat(self._file.fileno()).st_mtime_ns

    @property
    def is_unlinked(self) -> bool:
        """True when no name leads to it any more, as far as it can be told."""
        with contextlib.suppress(OSError, ValueError):
            return os.fstat(self._file.fileno()).st_nlink == 0
        return False

    def is_in_place(self) -> bool:
        """True while its path leads to it."""
        try:
            return identity_of(self._path) == _identity(os.fstat(self._file.fileno()))
        except (OSError, ValueError):
            return False  # closed, by a program that closes whatever it finds open, or by a fork

    def is_changed(self) -> bool:
        """True when it was written since this was asked last, or since it was opened."""
        before, self._written = self._written, os.fstat(self._file.fileno()).st_mtime_ns
        return before != self._written

    def lock(self, span: Span, *, alone: bool) -> bool:
        """Lock bytes, for itself or beside others; again is nothing. False: somebody else has them."""
        if _fcntl is None:
            return True
        try:
            if self.is_owner:
                self._call("F_OFD_SETLK", _fcntl.F_WRLCK if alone else _fcntl.F_RDLCK, span)
            else:
                self.lock_for_process(span, alone=alone)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            if error.errno not in _NOT_KNOWN or not self.is_owner:
                raise
            self._refuse()
            return self.lock(span, alone=alone)
        return True

    def lock_for_process(self, span: Span, *, alone: bool) -> None:
        """Give the process itself, and SQLite in it, the lock that it may have lost; raises OSError."""
        if _fcntl is not None:
            kind = _fcntl.LOCK_EX if alone else _fcntl.LOCK_SH
            _fcntl.lockf(self._file.fileno(), kind | _fcntl.LOCK_NB, span.length, span.start)

    def unlock(self, span: Span) -> None:
        """Unlock bytes; a lock of the process stays, for it may be SQLite's."""
        if self.is_owner:
            self._call("F_OFD_SETLK", _fcntl.F_UNLCK, span)

    def is_locked(self, span: Span) -> bool | None:
        """True while somebody has any of the bytes; nothing is taken meanwhile. None: that cannot be told so."""
        if self.is_owner:
            try:
                return bool(self._call("F_OFD_GETLK", _fcntl.F_WRLCK, span) != _fcntl.F_UNLCK)
            except OSError as error:
                if error.errno not in _NOT_KNOWN:
                    raise
                self._refuse()
        return None

    def read_at(self, start: int, length: int) -> bytes:
        """What stands there; less where the file ends before. Raises OSError."""
        return os.pread(self._file.fileno(), length, start)

    def write_at(self, start: int, content: bytes) -> None:
        """Write over what stands there; raises OSError."""
        os.pwrite(self._file.fileno(), content, start)

    def close(self) -> None:
        """Close it; once more, or in a fork of its process, is nothing."""
        self._file.close()

    def _refuse(self) -> None:
        _without.add(_device_of(self._path))
        self.is_owner = False

    def _call(self, command: str, kind: int, span: Span) -> int:
        """Have the system do something with a lock; returns the kind that it tells of."""
        layout, (at_kind, at_whence, at_start, at_length) = _LAYOUTS[sys.platform]
        values: list[Any] = [0] * 5
        values[at_kind], values[at_whence], values[at_start], values[at_length] = kind, os.SEEK_SET, *span
        told = _fcntl.fcntl(self._file.fileno(), getattr(_fcntl, command), struct.pack(layout, *values))
        return int(struct.unpack(layout, told)[at_kind])


def _made_if_missing(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT, 0o666)


def owns_locks(path: str) -> bool:
    """True where locks of a file are, as far as it is known, the open file's."""
    is_known = sys.platform in _LAYOUTS and hasattr(_fcntl, "F_OFD_SETLK")
    return is_known and _device_of(path) not in _without


def identity_of(path: str) -> tuple[int, int] | None:
    """Which file a path leads to, or None."""
    with contextlib.suppress(OSError):
        return _identity(os.stat(path))
    return None


def _device_of(path: str) -> int | None:
    folder = identity_of(os.path.dirname(path) or ".")
    return None if folder is None else folder[0]


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


_without: set[int | None] = set()
"""Devices that have refused such a lock."""

_files: weakref.WeakSet[HeldFile] = weakref.WeakSet()
_opening = threading.RLock()


def _let_go_in_child() -> None:
    # Closing a copy unlocks nothing of the parent's; kept, it would hold the lock after the parent was killed.
    for file in list(_files):
        with contextlib.suppress(OSError):
            file.close()
    _opening.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_opening.acquire, after_in_parent=_opening.release, after_in_child=_let_go_in_child)
