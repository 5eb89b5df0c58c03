"""The file that remembers a batch: SQLite, one writer, each group of changes one durable transaction.

Knows rows and transactions; what a row means is `_core.journal_entry`'s, when it is written `_group_commit`'s.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, Self
from urllib.parse import quote

import msgspec

from ._core.journal_entry import Bill, EntryError, JournalEntry, cut_off
from ._core.latency import EDGES
from ._core.values import ImageFile, ImageRequest
from ._folders import sync_folder
from .errors import JournalError

SCHEMA_VERSION = 2
APPLICATION_ID = 0x494D474A
"""Tells a journal from other SQLite files: "IMGJ"."""

KEPT = 86_400.0
"""Seconds for which the times of creates are kept: far longer than any limit's window."""

LONGEST_WAY = 60.0
"""Seconds after which a create whose intent was noted has reached the server, or never will: the default timeout."""

_COLUMNS = {
    "key": "TEXT PRIMARY KEY NOT NULL",
    "position": "INTEGER NOT NULL",
    "state": "TEXT NOT NULL",
    "account": "TEXT NOT NULL",
    "request": "TEXT NOT NULL",
    "task_id": "TEXT",
    "urls": "TEXT",
    "files": "TEXT",
    "error": "TEXT",
    "credits": "REAL",
    "price": "REAL",
    "latency": "REAL",
    "attempts": "INTEGER NOT NULL",
    "retried": "INTEGER NOT NULL",
    "lost": "INTEGER NOT NULL",
    "lost_creates": "TEXT",
    "sent_at": "REAL",
    "accepted_at": "REAL",
    "ended_at": "REAL",
}
_TIMES = ("sent_at", "accepted_at", "ended_at")
_PARTS = ("request", "urls", "files", "error", "lost_creates")
"""What is JSON in its column."""

_SINCE = {"lost_creates": 2}
"""The columns that an older schema does not have, with the version that brought them."""

_SCHEMA = (
    f"CREATE TABLE jobs ({', '.join(f'{name} {kind}' for name, kind in _COLUMNS.items())})",
    "CREATE TABLE notes (name TEXT PRIMARY KEY NOT NULL, value TEXT)",
    # A job's row knows its last create only, and a limit counts them all.
    "CREATE TABLE sends (account TEXT NOT NULL, key TEXT NOT NULL, sent_at REAL NOT NULL)",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)
_PUT = (
    f"INSERT INTO jobs ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))}) "
    "ON CONFLICT (key) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS if name not in ("key", "position"))
)
# What a job is changes only while it is sent; a time that a change does not know stays, such as that of the acceptance.
_MOVED = [name for name in _COLUMNS if name not in ("key", "position", "request", "price")]
_MOVE = (
    "UPDATE jobs SET "
    + ", ".join(f"{name} = coalesce(?, {name})" if name in _TIMES else f"{name} = ?" for name in _MOVED)
    + " WHERE key = ?"
)

_encode = msgspec.json.Encoder().encode
_decode_numbers = msgspec.json.Decoder(tuple[int, ...]).decode
_decode_urls = msgspec.json.Decoder(tuple[str, ...]).decode
_decode_files = msgspec.json.Decoder(tuple[ImageFile, ...]).decode
_decode_error = msgspec.json.Decoder(EntryError).decode


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

    def __init__(self, path: str | PurePath, request_type: type[ImageRequest] = ImageRequest) -> None:
        self._turn = threading.Lock()
        self.path: str = str(path)
        self.folder: str = os.path.dirname(self.path)
        # By its real name, and as it is now: a link to a journal is the same journal, and a program may change folders.
        self._real_path = os.path.realpath(self.path)
        self._real_folder = os.path.dirname(self._real_path)
        self._decode_request = msgspec.json.Decoder(request_type).decode
        self._stack = contextlib.ExitStack()
        with contextlib.ExitStack() as stack, self._telling():
            self._connections = [stack.enter_context(contextlib.closing(each)) for each in self._connect()]
            self._reading = self._connections[-1]
            self._select = _select(_version(self._reading))
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
        with self._telling():
            row = self._reading.execute(f"{self._select} WHERE key = ?", (key,)).fetchone()
        return None if row is None else self._entry(row)

    def find_task(self, task_id: str) -> JournalEntry | None:
        """The job with that task, or None. Looks through all of them."""
        with self._telling():
            row = self._reading.execute(f"{self._select} WHERE task_id = ?", (task_id,)).fetchone()
        return None if row is None else self._entry(row)

    def counts(self) -> Counter[str]:
        """How many jobs it has, by state."""
        with self._telling():
            return Counter(dict(self._reading.execute("SELECT state, count(*) FROM jobs GROUP BY state")))

    def unfinished(self) -> list[JournalEntry]:
        """The jobs whose task runs, or whose pictures are to be fetched; also held ones whose task a callback named."""
        return self._those("state IN ('running', 'ready') OR (state = 'unknown' AND task_id IS NOT NULL)")

    def with_lost_creates(self) -> list[JournalEntry]:
        """The jobs of which a create's answer was lost: held ones, and those that came to an end all the same."""
        return self._those("lost > 0")

    def _those(self, condition: str) -> list[JournalEntry]:
        with self._telling():
            rows = self._reading.execute(f"{self._select} WHERE {condition}").fetchall()
        return [self._entry(row) for row in rows]

    def latencies(self, account: str, at_most: int) -> list[tuple[ImageRequest, float]]:
        """The latest requests of an account whose latency is known, and one that can be, oldest first."""
        # By rowid, that is in the order in which they were first sent: no index, no sorting, no look at the others.
        sql = (
            "SELECT request, latency FROM jobs "
            "WHERE account = ? AND latency BETWEEN 0 AND ? ORDER BY rowid DESC LIMIT ?"
        )
        with self._telling():
            rows = self._reading.execute(sql, (account, EDGES[-1], at_most)).fetchall()
            return [(self._decode_request(request), latency) for request, latency in reversed(rows)]

    def bills(self) -> list[tuple[Bill, int]]:
        """What its jobs say of money, and how many say the same."""
        columns = "state, credits, price, lost, task_id IS NOT NULL"
        with self._telling():
            rows = self._reading.execute(f"SELECT {columns}, count(*) FROM jobs GROUP BY {columns}").fetchall()
        return [(Bill(state, credits, price, lost, bool(task)), n) for state, credits, price, lost, task, n in rows]

    def entries(self) -> Iterator[JournalEntry]:
        """All jobs, those that ended first, in the order of their ending."""
        with self._telling():
            for row in self._reading.execute(f"{self._select} ORDER BY ended_at IS NULL, ended_at, position"):
                yield self._entry(row)

    def notes(self) -> dict[str, str]:
        """What was noted of the batch as a whole."""
        with self._telling():
            return dict(self._reading.execute("SELECT name, value FROM notes"))

    def is_being_written(self) -> bool:
        """True while a batch is at work on it."""
        if not os.path.exists(self._lock_path):
            return False
        try:
            with contextlib.closing(_open(self._lock_path, "ro", timeout=0)) as connection:
                connection.execute("SELECT 1 FROM sqlite_master").fetchall()
        except sqlite3.OperationalError:
            return True  # held, or not ours to look at: then nobody can tell that it is free
        return False

    @property
    def _lock_path(self) -> str:
        return f"{self._real_path}-lock"

    def _connect(self) -> Iterator[sqlite3.Connection]:
        if not os.path.exists(self.path):
            raise JournalError(f"There is no journal {self.path}.")
        # Nothing is written, but only who may write can tidy up what SQLite keeps beside an open file. In a folder that
        # cannot be written, a file that was closed in good order is read as it lies there.
        for mode in ("rw", "ro", "ro&immutable=1"):
            try:
                connection = _open(self.path, mode)
                yield connection
                self._check(connection)
            except sqlite3.OperationalError as error:
                is_last = mode.endswith("1") or (mode == "ro" and self._has_more())
                if is_last or not _code(error).startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY")):
                    raise
            else:
                return

    def _has_more(self) -> bool:
        """True when a writer that was killed has left changes beside the file."""
        with contextlib.suppress(OSError):
            return os.path.getsize(f"{self._real_path}-wal") > 0
        return False

    def _check(self, connection: sqlite3.Connection) -> None:
        """Make sure that the file is a journal, whole, and of a version that is known here."""
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        version = _version(connection)
        if application != APPLICATION_ID:
            raise JournalError(f"{self.path} is no journal of imagen_async. Choose another file.")
        if version > SCHEMA_VERSION:
            message = f"{self.path} was written by a newer version of imagen_async (its schema is {version}"
            raise JournalError(f"{message}, this version knows {SCHEMA_VERSION}): upgrade. Nothing was sent.")
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise JournalError(_damaged(self.path, verdict))

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """Turn SQLite's errors into ours, which say what to do."""
        try:
            yield
        except sqlite3.Error as error:
            raise JournalError(_explained(self.path, error)) from error
        except msgspec.MsgspecError as error:
            raise JournalError(_damaged(self.path, str(error))) from error
        except OSError as error:
            raise JournalError(f"{self.path} cannot be used: {error.strerror or error}. Nothing was sent.") from error
        except UnicodeError as error:
            raise JournalError(f"{self.path!r} cannot be used: its name is not UTF-8. Nothing was sent.") from error

    def _entry(self, row: Sequence[Any]) -> JournalEntry:
        values = dict(zip(_COLUMNS, row, strict=True))
        with self._telling():
            values["request"] = self._decode_request(values["request"])
            values["urls"] = _decode_urls(values["urls"] or "[]")
            values["lost_creates"] = _decode_numbers(values["lost_creates"] or "[]")
            values["files"] = tuple(map(self._found, _decode_files(values["files"] or "[]")))
            values["error"] = _decode_error(values["error"]) if values["error"] else None
        return JournalEntry(**values)

    def _found(self, file: ImageFile) -> ImageFile:
        """A file as it is named here: the journal's folder may have moved since."""
        return msgspec.structs.replace(file, path=os.path.normpath(os.path.join(self.folder, file.path)))


class Journal(JournalReader):
    """A journal opened for writing, made if missing. One process has it at a time, and a crash leaves no lock.

    Creates that were on the way when the last process ended are unknown from here on.

    Attributes:
        is_new: True when no earlier run has left a job in it.
        is_in_use: True while a batch is at work on it.

    Raises:
        JournalError: It cannot be used, or another process has it.
    """

    is_new: bool = True
    is_in_use: bool = False

    def _connect(self) -> Iterator[sqlite3.Connection]:
        lock = _open(self._lock_path, "rwc", timeout=0)
        yield lock
        self._lock(lock)
        if not os.path.exists(self.path):
            self._make()
        elif not os.path.getsize(self.path):
            message = f"{self.path} is empty. Nothing was sent. If it was a journal, restore it from a copy: a batch"
            raise JournalError(f"{message} without it would pay again for what it knew. If it was none, remove it.")
        writing = _open(self.path, "rw")
        yield writing
        self._writing = writing
        self._check(writing)
        writing.execute("PRAGMA journal_mode = WAL")
        writing.execute("PRAGMA synchronous = FULL")
        _upgrade(writing)
        # Reading has a connection of its own, so that it never waits for a commit in the other thread.
        reading = _open(self.path, "rw")
        yield reading
        reading.execute("CREATE TEMP TABLE seen (key TEXT PRIMARY KEY NOT NULL, times INTEGER NOT NULL) WITHOUT ROWID")
        with _transaction(writing):
            writing.execute("DELETE FROM sends WHERE sent_at < ?", (time.time() - KEPT,))
        rows = reading.execute(f"{_select(SCHEMA_VERSION)} WHERE state = 'submitting'").fetchall()
        self.write([cut_off(self._entry(row)) for row in rows])
        self.note({"process": str(os.getpid())})

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
                put.append(self._row(entry, _COLUMNS))
            else:
                moved.append((*self._row(entry, _MOVED), entry.key))
            if entry.state == "submitting" and entry.sent_at is not None:
                sends.append((entry.account, entry.key, entry.sent_at))
        with self._turn, self._telling(), _transaction(self._writing):
            self._check_lock()
            self._writing.executemany(_PUT, put)
            self._writing.executemany(_MOVE, moved)
            self._writing.executemany("INSERT INTO sends VALUES (?, ?, ?)", sends)

    def note(self, notes: Mapping[str, str]) -> None:
        """Note something of the batch as a whole, durably."""
        with self._turn, self._telling(), _transaction(self._writing):
            self._writing.executemany("INSERT OR REPLACE INTO notes VALUES (?, ?)", notes.items())

    def begin_run(self) -> None:
        """Begin a run over an input; raises JournalError while another batch of this program is in the midst of one."""
        if self.is_in_use:
            raise JournalError(f"{self.path} is in use: another batch of this program is at work on it.")
        with self._telling():
            self._reading.execute("DELETE FROM seen")
        self.is_new = not self.counts()
        self.is_in_use = True

    def end_run(self) -> None:
        """End the run; the next may begin."""
        self.is_in_use = False

    def times_seen(self, key: str) -> int:
        """Count how often this run has met a key, this time included. Kept on disk: an input may be endless."""
        sql = "INSERT INTO seen VALUES (?, 1) ON CONFLICT (key) DO UPDATE SET times = times + 1 RETURNING times"
        with self._telling():
            (times,) = self._reading.execute(sql, (key,)).fetchone()
        return int(times)

    def guards(self, folder: str | PurePath) -> bool:
        """True for the folder that it lies in: who holds the journal is the only one to write there."""
        return os.path.realpath(folder) == self._real_folder

    def sent_since(self, account: str, moment: float) -> list[tuple[float, float | None]]:
        """When an account's creates were sent and accepted that the server may have seen since that Unix time.

        Between the note of the intent and the server lie a commit and the way. Of one without an answer, or of an
        earlier one of a job, nobody knows when it was answered: None.
        """
        sql = (
            "SELECT sends.sent_at, accepted_at FROM sends LEFT JOIN jobs "
            "ON jobs.key = sends.key AND jobs.sent_at = sends.sent_at "
            "WHERE sends.account = ? AND sends.sent_at > ? AND coalesce(accepted_at, ?) > ?"
        )
        with self._telling():
            earliest = moment - LONGEST_WAY
            return self._reading.execute(sql, (account, earliest, moment + 1.0, moment)).fetchall()

    def _lock(self, connection: sqlite3.Connection) -> None:
        """Hold SQLite's own lock on a file beside the journal: readers stay free, and a dead process holds none."""
        try:
            connection.execute("PRAGMA journal_mode = MEMORY")  # nothing is ever written to it
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            if _code(error) != "SQLITE_BUSY":
                raise
            who = ""
            with contextlib.suppress(JournalError), JournalReader(self.path) as reader:
                who = f" (process {reader.notes().get('process', '?')})"
            message = f"{self.path} is in use: another batch{who} is at work on it. Nothing was sent"
            raise JournalError(f"{message}. Wait for it to end, or choose another folder.") from None
        self._locked = _identity(self._lock_path)

    def _check_lock(self) -> None:
        """Make sure that the file on which the lock is held is still the one that others would find."""
        if _identity(self._lock_path) != self._locked:
            raise JournalError(
                f"{self._lock_path} was removed or replaced, so another batch may be at work: start again."
            )

    def _make(self) -> None:
        """Make the file whole under another name first: one that is there and empty was lost, and is not a new one."""
        part = f"{self._real_path}-new"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)
        with contextlib.closing(_open(part, "rwc")) as connection, _transaction(connection):
            for statement in _SCHEMA:
                connection.execute(statement)
        os.replace(part, self._real_path)
        sync_folder(self._real_folder)

    def _row(self, entry: JournalEntry, columns: Iterable[str]) -> tuple[Any, ...]:
        if entry.files:
            files = tuple(msgspec.structs.replace(file, path=self._relative(file.path)) for file in entry.files)
            entry = msgspec.structs.replace(entry, files=files)
        return tuple(_text(getattr(entry, name)) if name in _PARTS else getattr(entry, name) for name in columns)

    def _relative(self, path: str) -> str:
        """A file below the journal's folder is named from there, so that the folder can move; any other as a whole."""
        real = os.path.realpath(path)
        inside = real.startswith(os.path.join(self._real_folder, ""))
        return os.path.relpath(real, self._real_folder) if inside else real


def _select(version: int) -> str:
    columns = (name if _SINCE.get(name, 1) <= version else f"NULL AS {name}" for name in _COLUMNS)
    return f"SELECT {', '.join(columns)} FROM jobs"


def _version(connection: sqlite3.Connection) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def _upgrade(connection: sqlite3.Connection) -> None:
    """Give a journal of an older version the columns that it lacks, all of them or none."""
    version = _version(connection)
    if version < SCHEMA_VERSION:
        with _transaction(connection):
            for name in (name for name, since in _SINCE.items() if since > version):
                connection.execute(f"ALTER TABLE jobs ADD COLUMN {name} {_COLUMNS[name]}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _text(value: object) -> str | None:
    """As JSON; nothing for what is empty."""
    return _encode(value).decode() if value else None


def _open(path: str, mode: str, timeout: float = 30.0) -> sqlite3.Connection:
    """Connect, in a mode of SQLite's: `ro`, `rw`, `rwc`. Transactions are begun by us alone."""
    address = f"file:{quote(str(Path(path).absolute()))}?mode={mode}"
    return sqlite3.connect(address, uri=True, timeout=timeout, isolation_level=None, check_same_thread=False)


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # A disk that is full has undone it already.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _code(error: sqlite3.Error) -> str:
    return getattr(error, "sqlite_errorname", "")


def _damaged(path: str, how: str) -> str:
    return (
        f"{path} is damaged ({how}). Nothing was sent. Restore it from a copy, or look at what it still tells with "
        "sqlite3; a batch without it would pay again for what it knew."
    )


def _explained(path: str, error: sqlite3.Error) -> str:
    name = _code(error)
    if name == "SQLITE_NOTADB":
        return (
            f"{path} is no journal ({error}). Nothing was sent. Choose another file; where it was one, restore it: a "
            "batch without it would pay again for what it knew."
        )
    if name == "SQLITE_FORMAT" or name.startswith("SQLITE_CORRUPT"):
        return _damaged(path, str(error))
    if name == "SQLITE_FULL" or name.startswith("SQLITE_IOERR"):
        return f"The disk of {path} is full or fails ({error}). What could not be noted was not sent. Make room first."
    if name.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM")):
        return f"{path} cannot be written ({error}). Nothing was sent. Mend its folder, or choose another."
    if name.startswith("SQLITE_BUSY"):
        return f"{path} is locked by another program ({error}). Close that first."
    return f"{path} cannot be used: {error}."
