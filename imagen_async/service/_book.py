"""The book of a service: who asked for what, what they were given, what it cost, and where the pictures lie.

Beside the journal, which remembers the tasks: without this file their pictures are found again by the same keys, but
nobody knows any more whose they were, which of them were given, or what has been spent. One process writes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from typing import Any, TypeVar

import msgspec

from .._journal.explained import explained
from .._journal.lock import FileLock
from .._sqlite import connect, transaction
from ..errors import JournalError

T = TypeVar("T")

VERSION = 1

_SCHEMA = """
CREATE TABLE orders (
    id TEXT PRIMARY KEY, caller TEXT NOT NULL, name TEXT NOT NULL, ordinal INTEGER NOT NULL, content TEXT NOT NULL,
    body BLOB NOT NULL, tasks INTEGER NOT NULL, is_async INTEGER NOT NULL,
    begun_at REAL NOT NULL, given_at REAL, ended_at REAL,
    day INTEGER NOT NULL, reserved REAL NOT NULL, spent REAL, is_final INTEGER NOT NULL,
    is_called_off INTEGER NOT NULL, error BLOB, callback BLOB, told_at REAL,
    UNIQUE (caller, name, ordinal)
) STRICT;
CREATE INDEX orders_open ON orders (begun_at) WHERE ended_at IS NULL OR spent IS NULL;
CREATE INDEX orders_of_end ON orders (ended_at);
CREATE TABLE lapsed (
    caller TEXT NOT NULL, name TEXT NOT NULL, first INTEGER NOT NULL, PRIMARY KEY (caller, name)
) STRICT;
CREATE TABLE spent (
    caller TEXT NOT NULL, day INTEGER NOT NULL, credits REAL NOT NULL, PRIMARY KEY (caller, day)
) STRICT;
CREATE TABLE files (
    token TEXT PRIMARY KEY, path TEXT NOT NULL, media_type TEXT NOT NULL, dies_at REAL NOT NULL
) STRICT;
CREATE INDEX files_of_time ON files (dies_at);
CREATE TABLE notes (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
"""


class OrderRow(msgspec.Struct, frozen=True):
    """One order. Times are Unix seconds.

    Attributes:
        id: Its own; whoever asks for it later names it so.
        caller: Whose it is.
        name: What stands for its body, or for the key that its caller has given it.
        ordinal: Its number among the caller's orders of that name.
        content: What stands for its body.
        body: It, as it is read again.
        tasks: How many tasks it takes.
        is_async: True where nobody waits for it.
        begun_at: When it came.
        given_at: When its answer was written to somebody, or None.
        ended_at: When all of its tasks had ended, or None.
        day: The day, counted from 1970 in UTC, on which its price counts.
        reserved: Credits that it may cost.
        spent: Credits that it has cost, or may have, once that is known.
        is_final: True where nothing more will come of any of its tasks.
        is_called_off: True where its caller wanted no more to be sent of it.
        error: Of one that has ended without a picture, what was said of it, as JSON; or None.
        callback: Where its end is announced, or None.
        told_at: When that was, or was given up, or None.
    """

    id: str
    caller: str
    name: str
    ordinal: int
    content: str
    body: bytes
    tasks: int
    is_async: bool
    begun_at: float
    given_at: float | None = None
    ended_at: float | None = None
    day: int = 0
    reserved: float = 0.0
    spent: float | None = None
    is_final: bool = False
    is_called_off: bool = False
    error: bytes | None = None
    callback: bytes | None = None
    told_at: float | None = None

    @property
    def is_unsent(self) -> bool:
        """True where nothing of it was sent, or will be."""
        return self.ended_at is not None and self.spent == 0 and not self.is_final


class FileRow(msgspec.Struct, frozen=True):
    """A picture that can be fetched: by which token, where it lies, and until when."""

    token: str
    path: str
    media_type: str
    dies_at: float


class Spent(msgspec.Struct):
    """What a caller has spent, or may have.

    Attributes:
        settled: Credits of orders that have ended, by the day on which they were set aside.
        reserved: Of those that have not: credits and day, by their ids.
    """

    settled: dict[int, float] = {}
    reserved: dict[str, tuple[float | None, int]] = {}


_COLUMNS = OrderRow.__struct_fields__
_PUT = f"INSERT OR REPLACE INTO orders ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"

_KEEP_SPENT = "INSERT INTO spent SELECT caller, day, sum(spent) FROM orders"
_ADDED = "GROUP BY caller, day ON CONFLICT (caller, day) DO UPDATE SET credits = credits + excluded.credits"


class Book:
    """The file, made if missing. Used in one thread.

    Args:
        path: Where it is, or is to be.

    Raises:
        JournalError: It cannot be used, or another process has it.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        with ExitStack() as stack, explained(path):
            lock = stack.enter_context(closing(FileLock(path)))
            if not lock.take():
                message = f"{path} is in use: another service has this folder"
                raise JournalError(f"{message}. Nothing was sent. End that, or give this one a folder of its own.")
            self._connection = stack.enter_context(closing(connect(path, "rwc")))
            self._prepare()
            self._ending = stack.pop_all()

    def close(self) -> None:
        """Let go of it."""
        self._ending.close()

    def do(self, work: Sequence[Callable[[Book], T]]) -> list[T]:
        """Do several things to it, all or none of them; what each returned."""
        with explained(self.path), transaction(self._connection):
            return [each(self) for each in work]

    def orders_of(self, caller: str, name: str) -> tuple[list[OrderRow], int]:
        """The caller's orders of that name, without their bodies, and the ordinal below which none is remembered."""
        of = (caller, name)
        first = self._all("SELECT first FROM lapsed WHERE caller = ? AND name = ?", of)
        rows = self._orders("WHERE caller = ? AND name = ?", of, "x'' AS body")
        return list(rows), first[0][0] if first else 0

    def order(self, order_id: str) -> OrderRow | None:
        """The order of that id."""
        return next(self._orders("WHERE id = ?", (order_id,)), None)

    def unfinished(self) -> list[OrderRow]:
        """Those that have not ended, or of which it is open what they cost, the oldest first."""
        return list(self._orders("WHERE ended_at IS NULL OR spent IS NULL ORDER BY begun_at"))

    def untold(self) -> list[OrderRow]:
        """Those that have ended, and whose callers are still to be told."""
        return list(self._orders("WHERE callback IS NOT NULL AND told_at IS NULL AND ended_at IS NOT NULL"))

    def put(self, row: OrderRow) -> None:
        """Note an order, or how it is now."""
        self._connection.execute(_PUT, [getattr(row, name) for name in _COLUMNS])

    def mark(self, order_id: str, **fields: float | bool | bytes | None) -> None:
        """Note how an order is now, in some of its fields."""
        changes = ", ".join(f"{name} = ?" for name in fields)
        self._connection.execute(f"UPDATE orders SET {changes} WHERE id = ?", (*fields.values(), order_id))

    def end(self, row: OrderRow, files: Iterable[FileRow] = ()) -> None:
        """Note how an order has ended, and its pictures."""
        names = ("ended_at", "spent", "is_final", "error")
        self.mark(row.id, **{name: getattr(row, name) for name in names})
        rows = [(each.token, each.path, each.media_type, each.dies_at) for each in files]
        self._connection.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", rows)

    def renew(self, row: OrderRow) -> None:
        """Note an order that is begun, also once more; what it has cost is kept where that was to be its end."""
        self._connection.execute(f"{_KEEP_SPENT} WHERE id = ? AND spent IS NOT NULL AND is_final {_ADDED}", (row.id,))
        self.put(row)

    def cancel(self, order_id: str) -> None:
        """Note that nothing was sent of an order for which somebody waited: nobody pays for it, its number is free."""
        self._connection.execute("DELETE FROM orders WHERE id = ?", (order_id,))

    def file(self, token: str) -> FileRow | None:
        """The picture of that token."""
        found = self._all("SELECT token, path, media_type, dies_at FROM files WHERE token = ?", (token,))
        return FileRow(*found[0]) if found else None

    def spendings(self) -> dict[str, Spent]:
        """What each caller has spent, or may have."""
        found: dict[str, Spent] = {}
        orders = "SELECT caller, day, sum(spent) FROM orders WHERE spent IS NOT NULL GROUP BY caller, day"
        for caller, day, credits in self._all(f"SELECT caller, day, credits FROM spent UNION ALL {orders}"):
            settled = found.setdefault(caller, Spent()).settled
            settled[day] = settled.get(day, 0.0) + credits
        for caller, order_id, credits, day in self._all(
            "SELECT caller, id, reserved, day FROM orders WHERE spent IS NULL"
        ):
            found.setdefault(caller, Spent()).reserved[order_id] = credits, day
        return found

    def once(self, name: str, value: str) -> str:
        """What was noted first under a name; where nothing was, that is this value from now on."""
        self._connection.execute("INSERT OR IGNORE INTO notes VALUES (?, ?)", (name, value))
        return str(self._all("SELECT value FROM notes WHERE name = ?", (name,))[0][0])

    def dying(self, now: float) -> list[FileRow]:
        """The pictures whose time is over."""
        found = self._all("SELECT token, path, media_type, dies_at FROM files WHERE dies_at < ? LIMIT 1000", (now,))
        return [FileRow(*each) for each in found]

    def drop(self, tokens: Iterable[str], before: float) -> None:
        """Forget pictures that are gone, and orders that ended before a time. What these have cost is kept."""
        self._connection.executemany("DELETE FROM files WHERE token = ?", [(token,) for token in tokens])
        condition = "ended_at < ? AND spent IS NOT NULL"
        grouped = "caller, name, max(ordinal) + 1 FROM orders"
        self._connection.execute(
            f"INSERT INTO lapsed SELECT {grouped} WHERE {condition} GROUP BY caller, name "
            "ON CONFLICT (caller, name) DO UPDATE SET first = max(first, excluded.first)",
            (before,),
        )
        self._connection.execute(f"{_KEEP_SPENT} WHERE {condition} {_ADDED}", (before,))
        self._connection.execute(f"DELETE FROM orders WHERE {condition}", (before,))

    def _prepare(self) -> None:
        self._connection.execute("PRAGMA journal_mode = WAL")
        # What is reserved is on disk before anything is sent: a budget holds over a power loss, too.
        self._connection.execute("PRAGMA synchronous = FULL")
        (version,) = self._all("PRAGMA user_version")[0]
        if version > VERSION:
            raise JournalError(
                f"{self.path} is of a newer version ({version}) than this one reads: update the package."
            )
        if version < VERSION:
            with transaction(self._connection):
                for statement in _SCHEMA.split(";"):
                    self._connection.execute(statement)
                self._connection.execute(f"PRAGMA user_version = {VERSION}")

    def _orders(self, condition: str, values: Sequence[Any] = (), body: str = "body") -> Iterator[OrderRow]:
        columns = ", ".join(body if name == "body" else name for name in _COLUMNS)
        with explained(self.path):
            for row in self._connection.execute(f"SELECT {columns} FROM orders {condition}", values).fetchall():
                order = OrderRow(*row)
                flags = {name: bool(getattr(order, name)) for name in ("is_async", "is_final", "is_called_off")}
                yield msgspec.structs.replace(order, **flags)

    def _all(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        with explained(self.path):
            return self._connection.execute(query, values).fetchall()
