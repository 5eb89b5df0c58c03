"""How often a run has met a key: counted exactly, in memory that does not grow with the input."""

from __future__ import annotations

import sqlite3

_LATEST = 8192
"""Keys that are counted in memory, before they are put on disk together."""

_BITS = 2**23
"""Bits, a megabyte in all, that say of a key that it is on no disk: of a million keys 19 in 20 need no look there."""

_TABLE = "CREATE TEMP TABLE IF NOT EXISTS seen (key TEXT PRIMARY KEY NOT NULL, times INTEGER NOT NULL) WITHOUT ROWID"
"""A connection's own, which is gone with it."""


class Seen:
    """Counts keys.

    Args:
        connection: Has a place for what is too much to be kept in memory.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._latest: dict[str, int] = {}
        self._on_disk = bytearray()

    def clear(self) -> None:
        """Begin anew."""
        self._latest = {}
        if self._on_disk:
            self._on_disk = bytearray()
            self._connection.execute("DELETE FROM seen")

    def times(self, key: str) -> int:
        """Count a key once more; returns how often it was met by now."""
        times = self._latest.get(key)
        if times is None:
            times = self._times_on_disk(key)
            if len(self._latest) >= _LATEST:
                self._put_away()
        self._latest[key] = times + 1
        return times + 1

    def _times_on_disk(self, key: str) -> int:
        if self._on_disk:
            byte, bit = divmod(hash(key) % _BITS, 8)
            if self._on_disk[byte] & 1 << bit:
                row = self._connection.execute("SELECT times FROM seen WHERE key = ?", (key,)).fetchone()
                return 0 if row is None else int(row[0])
        return 0

    def _put_away(self) -> None:
        """Put on disk what was counted, all of it or nothing."""
        if not self._on_disk:
            self._connection.execute(_TABLE)
            self._on_disk = bytearray(_BITS // 8)
        put = "INSERT INTO seen VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET times = excluded.times"
        # In their order: then each page of the table is written once.
        with self._connection:
            self._connection.execute("BEGIN")
            self._connection.executemany(put, sorted(self._latest.items()))
        for key in self._latest:
            byte, bit = divmod(hash(key) % _BITS, 8)
            self._on_disk[byte] |= 1 << bit
        self._latest = {}
