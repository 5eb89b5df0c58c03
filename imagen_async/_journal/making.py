"""Makes a journal's file, and brings one of an earlier version up to this one."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing, suppress

from .._folders import sync_folder
from .._sqlite import code_of, connect, transaction
from .schema import SCHEMA, SCHEMA_VERSION, check, upgrade, version_of
from .wal import untidied

MAKING = 5.0
"""Seconds for which a file may be made, or brought up to this version, by another process."""

AGAIN = 0.02
"""Seconds between two looks at whether it is."""


def prepare(writing: sqlite3.Connection, path: str) -> None:
    """Make sure that a file is a journal, and bring it up to this version; raises JournalError."""
    # Before anything is changed: what is no journal, or a newer one, stays as it is.
    check(writing, path)
    _switch_to_wal(writing)
    upgrade(writing)


def _switch_to_wal(writing: sqlite3.Connection) -> None:
    """Have readers beside it never in its way, and what is committed on the disk."""
    by = time.monotonic() + MAKING
    while True:
        try:
            writing.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            # It waits for nobody by itself, and others look whether it is done.
            if code_of(error) != "SQLITE_BUSY" or time.monotonic() > by:
                raise
        time.sleep(AGAIN)


def is_ready(path: str) -> bool:
    """True for a journal of this version that others may open beside whoever has it; raises no error about it."""
    with suppress(sqlite3.Error, OSError), untidied(path), closing(connect(path, "rw")) as connection:
        (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
        return mode == "wal" and version_of(connection) == SCHEMA_VERSION
    return False


def make(path: str) -> None:
    """Make the file whole under another name first: one that is there and empty was lost, and is not a new one."""
    part = f"{path}-new"
    for left in (part, f"{part}-wal", f"{part}-shm"):
        with suppress(FileNotFoundError):
            os.unlink(left)
    with closing(connect(part, "rwc")) as connection:
        with transaction(connection):
            for statement in SCHEMA:
                connection.execute(statement)
        # Now, while nobody looks at it: who switches needs it for himself alone, and does not get that among many.
        _switch_to_wal(connection)
    os.replace(part, path)
    sync_folder(os.path.dirname(path))
