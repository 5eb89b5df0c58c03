"""What stands behind a row that was asked for: an input mostly comes in the order in which it came before."""

from __future__ import annotations

import sqlite3
from typing import Any

_MOST = 500
"""Rows that are read together at most: some 300 kB, in a millisecond."""

_FEWEST = 16

_NEAR = 100
"""Rows that may lie between two that are asked for one after the other, where these are taken for neighbours."""

Row = tuple[Any, ...]


class ReadAhead:
    """Finds rows by their keys: one by one, or with those behind them once their neighbours are asked for."""

    def __init__(self) -> None:
        self._age = 0
        # With the age at which they were read: the thread that writes may have gone on meanwhile.
        self._read: tuple[int, dict[str, Row]] = (0, {})
        self._last = 0
        self._count = 0

    def open(self, connection: sqlite3.Connection, select: str) -> None:
        """Hear where they are, and how a statement begins that reads whole rows, the key first."""
        self._connection = connection
        self._one = f"{select.replace('SELECT ', 'SELECT rowid, ', 1)} WHERE key = ?"
        self._some = f"{select} WHERE rowid > ? ORDER BY rowid LIMIT ?"

    def forget(self) -> None:
        """Hear that rows were written: what was read before is of no use any more. May be called from any thread."""
        self._age += 1

    def row(self, key: str) -> Row | None:
        """The row of that key as of the last writing that has ended, or None."""
        age, rows = self._read
        row = rows.get(key) if age == self._age else None
        return row or self._found(key)

    def _found(self, key: str) -> Row | None:
        age = self._age
        found = self._connection.execute(self._one, (key,)).fetchone()
        if found is None:
            return None
        number: int = found[0]
        row: Row = found[1:]
        is_neighbour = 0 < number - self._last <= _NEAR
        self._count = min(_MOST, max(_FEWEST, 2 * self._count)) if is_neighbour else 0
        self._last = number
        if self._count:
            behind = self._connection.execute(self._some, (number, self._count)).fetchall()
            self._read = age, {row[0]: row for row in behind}
            self._last += len(behind)
        return row
