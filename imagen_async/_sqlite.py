"""Connections to SQLite files: how one is opened, and what is done to it as a whole or not at all."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote


def connect(path: str, mode: str, timeout: float = 5.0) -> sqlite3.Connection:
    """Connect, in a mode of SQLite's: `ro`, `rw`, `rwc`. Transactions are begun by us alone."""
    # As an address, so that the mode can be said; quoted, for no character of the path means anything there then.
    address = f"file:{quote(str(Path(path).absolute()))}?mode={mode}"
    # Opened in one thread, written in another: each connection is still used by one at a time.
    return sqlite3.connect(address, uri=True, timeout=timeout, isolation_level=None, check_same_thread=False)


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Have all of the block's statements take effect, or none of them."""
    # The right to write at once: a transaction that has only read may be refused it later.
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # A disk that is full has undone it already.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def code_of(error: sqlite3.Error) -> str:
    """SQLite's name of an error; nothing where Python's own module raised it."""
    return getattr(error, "sqlite_errorname", "")
