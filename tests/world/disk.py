"""A computer's disk: how long it takes, what it refuses, and what of it outlives a kill or a power loss.

The files are real; what stands in between are Python's own `open`, `os` and `sqlite3`, for paths below the disk's
folder only.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import os
import random
import shutil
import sqlite3
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .stage import stage

FULL = 2
"""SQLite's number for commits that are sure to be on the disk."""


class Disk:
    """A folder that outlives processes.

    Attributes:
        folder: Where it is.
        trouble: What it answers to whoever writes: `full`, `read-only`, or empty.
        slow: Seconds that each work takes more.
        on_commit: Is asked before each commit of SQLite's, and says whether the power is lost in the midst of it.
        on_step: Is asked before each change of another file, and says what ends the process there.
        commits: How many commits there were, and `steps`: how many changes.
        went_back: True once a process was ended by force.
    """

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.folder = folder
        self.trouble, self.slow = "", 0.0
        self.on_commit: Callable[[int], str] = lambda number: ""
        self.on_step: Callable[[int], str] = lambda number: ""
        self.commits = self.steps = 0
        self._chance = chance
        self._kept: Path | None = None
        self.went_back = False
        self._unsynced = set[str]()
        self._unnamed = set[str]()
        self._opened = weakref.WeakSet[Any]()
        folder.mkdir(parents=True)

    def seconds(self) -> float:
        """How long a work of a thread takes."""
        return self.slow + self._chance.uniform(0.0002, 0.004)

    def keep(self) -> None:
        """Keep it as it is now: what is written from here on will never have been."""
        if self._kept is None:
            self._kept = self.folder.with_name(f"{self.folder.name}-kept")
            shutil.copytree(self.folder, self._kept)

    def lose_power(self) -> None:
        """Keep of it what is sure to be on it, and of the rest as much as chance will have it."""
        if self._kept is not None:
            return
        self.keep()
        assert self._kept is not None
        for name in sorted(self._unsynced):
            path = self._kept / name
            if path.exists():
                os.truncate(path, self._chance.randrange(path.stat().st_size + 1))
        for name in sorted(self._unnamed):
            if self._chance.random() < 0.5:
                (self._kept / name).unlink(missing_ok=True)
        self._unsynced.clear()
        self._unnamed.clear()

    @property
    def is_kept(self) -> bool:
        """True while it is to go back to what was kept."""
        return self._kept is not None

    def opened(self, file: Any) -> Any:
        """Know an open file, which dies with its process."""
        self._opened.add(file)
        return file

    def go_back(self) -> None:
        """Be as it was kept; whoever had files open here is dead."""
        if self._kept is not None:
            for file in list(self._opened):
                with contextlib.suppress(OSError, ValueError):
                    file.close()
            shutil.rmtree(self.folder)
            self._kept.rename(self.folder)
            self._kept, self.went_back = None, True

    def has(self, path: Any) -> bool:
        """Say whether a path is below it."""
        return isinstance(path, str | Path) and str(path).startswith(f"{self.folder}/")

    def check(self, path: Any) -> None:
        """Refuse to be written to where that is its trouble."""
        if self.trouble and self.has(path):
            code = errno.ENOSPC if self.trouble == "full" else errno.EROFS
            raise OSError(code, os.strerror(code), str(path))

    def written(self, path: Any) -> None:
        """Note that a file is not sure to be whole after a power loss."""
        self._unsynced.add(os.path.relpath(path, self.folder))

    def named(self, part: Any, name: Any) -> None:
        """Note that a file has a name more, which is not sure to outlive a power loss."""
        self._unnamed.add(os.path.relpath(name, self.folder))
        if os.path.relpath(part, self.folder) in self._unsynced:
            self.written(name)

    def synced(self, path: str) -> None:
        """Note what is sure from now on: a file, or the names in a folder."""
        name = os.path.relpath(path, self.folder)
        self._unsynced.discard(name)
        self._unnamed = {each for each in self._unnamed if os.path.dirname(each) != ("" if name == "." else name)}

    def step(self) -> None:
        """Note that a file is about to be changed: the power, or the process, may end before that."""
        self.steps += 1
        what = self.on_step(self.steps)
        process = stage.process
        if what and process is not None and not process.is_dead:
            (self.lose_power if what == "power at a file" else self.keep)()
            process.universe.end_by_force(process.computer)

    def commit(self, path: str, act: Callable[[], Any]) -> Any:
        """Have SQLite commit; the power may be lost before any byte of that."""
        self.commits += 1
        what = self.on_commit(self.commits)
        if what == "killed before":
            self.keep()
        wal = Path(f"{path}-wal")
        before = wal.read_bytes() if what == "torn" and wal.exists() else b""
        done = act()
        if what == "torn" and not self.is_kept:
            self.lose_power()
            self._tear(wal, before)
        elif what == "killed after":
            self.keep()
        if what and stage.process is not None:
            stage.process.universe.end_by_force(stage.process.computer)
        return done

    def _tear(self, wal: Path, before: bytes) -> None:
        """Keep as many bytes as chance will have it of what the last commit has written."""
        assert self._kept is not None
        after = wal.read_bytes()
        cut = self._chance.randrange(len(before) if len(after) > len(before) else 0, len(after) + 1)
        (self._kept / os.path.relpath(wal, self.folder)).write_bytes(after[:cut] + before[cut:])


class _File(io.FileIO):
    """A file on a disk that may be full."""

    def write(self, data: Any) -> int:
        disk = _disk()
        if disk is not None:
            disk.check(self.name)
            disk.step()
            disk.written(self.name)
        return super().write(data)


class _Held(io.FileIO):
    """A file that is opened without any buffer: as the journal's are, which it holds."""

    def __init__(self, file: Any, *arguments: Any, **named: Any) -> None:
        super().__init__(file, *arguments, **named)
        disk = _disk()
        if disk is not None and disk.has(file):
            disk.opened(self)


class Connection(sqlite3.Connection):
    """A connection of SQLite's to a file on such a disk; it never waits by itself, for that would be real time."""

    path = ""

    def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
        disk = _disk()
        if sql.startswith("PRAGMA busy_timeout"):
            return super().execute("PRAGMA busy_timeout")
        if sql != "COMMIT" or disk is None or not disk.has(self.path):
            return super().execute(sql, *arguments)
        if disk.trouble:
            super().execute("ROLLBACK")
            raise _refusal(disk.trouble)
        commit = super().execute
        if super().execute("PRAGMA synchronous").fetchone()[0] < FULL:
            disk.written(f"{self.path}-wal")
        done: sqlite3.Cursor = disk.commit(self.path, lambda: commit("COMMIT"))
        return done


def _refusal(trouble: str) -> sqlite3.OperationalError:
    is_full = trouble == "full"
    error = sqlite3.OperationalError("database or disk is full" if is_full else "attempt to write a readonly database")
    error.sqlite_errorcode = sqlite3.SQLITE_FULL if is_full else sqlite3.SQLITE_READONLY
    error.sqlite_errorname = "SQLITE_FULL" if is_full else "SQLITE_READONLY"
    return error


def _disk() -> Disk | None:
    return None if stage.process is None else stage.process.computer.disk


_real_open, _real_io_open, _real_connect = builtins.open, io.open, sqlite3.connect
_real_fsync = os.fsync


def _open(file: Any, mode: str = "r", *arguments: Any, **named: Any) -> Any:
    disk = _disk()
    if disk is None or not disk.has(file):
        return _real_open(file, mode, *arguments, **named)
    if mode != "x+b":
        return disk.opened(_real_open(file, mode, *arguments, **named))
    disk.check(file)
    disk.step()
    disk.written(file)
    return disk.opened(io.BufferedRandom(_File(str(file), "x+")))


def _naming(act: Callable[..., None]) -> Callable[..., None]:
    """Have what gives a file a name known to its disk."""

    def name(source: Any, target: Any, **named: Any) -> None:
        disk = _disk()
        if disk is not None:
            disk.check(target)
            disk.step()
        act(source, target, **named)
        if disk is not None and disk.has(target):
            disk.named(source, target)

    return name


def _fsync(descriptor: int) -> None:
    disk = _disk()
    if disk is None:
        _real_fsync(descriptor)
        return
    path = os.readlink(f"/proc/self/fd/{descriptor}")
    disk.check(path)
    disk.step()
    if disk.has(path) or path == str(disk.folder):
        disk.synced(path)


def _io_open(file: Any, *arguments: Any, **named: Any) -> Any:
    # By which the journal knows whether the machine's own clock is that of the last run.
    if stage.process is not None and str(file) == "/proc/sys/kernel/random/boot_id":
        return io.StringIO(f"boot {stage.process.computer.boots}")
    disk, opened = _disk(), _real_io_open(file, *arguments, **named)
    return disk.opened(opened) if disk is not None and disk.has(file) else opened


def _connect(database: str, *arguments: Any, **named: Any) -> sqlite3.Connection:
    connection = _real_connect(database, *arguments, **{**named, "timeout": 0, "factory": Connection})
    if isinstance(connection, Connection):
        connection.path = str(database).removeprefix("file:").partition("?")[0]
    return connection


def set_up() -> None:
    """Put all of it in place."""
    builtins.open, io.open, io.FileIO = _open, _io_open, _Held  # type: ignore[misc]
    os.link, os.replace, os.fsync = _naming(os.link), _naming(os.replace), _fsync
    sqlite3.connect = _connect  # type: ignore[assignment]
