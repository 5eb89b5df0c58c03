"""The journal's tables: their columns, the statements about them, and how an older file is brought up to them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from operator import itemgetter

from .._sqlite import transaction
from ..errors import JournalError
from .explained import damaged

SCHEMA_VERSION = 5
"""Raised also where an older version would misread what is noted: from 3 on keys are of whole requests, and from 4 on
requests may have pictures that go in: it would not find them, and pay again. From 5 on rows may be of single requests,
which it would take over from a process that lives.
"""
APPLICATION_ID = 0x494D474A
"""Tells a journal from other SQLite files: "IMGJ"."""

COLUMNS = {
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
    "ignored": "TEXT",
    "text": "TEXT",
    "made_by": "TEXT",
}
"""The columns of the table of jobs: the fields of JournalEntry."""

OWNER = "owner"
"""The column that says whose a row is: NULL is the batch's that has the journal's run. Of a single request it is the
name of whoever has it at work, or '' once that has let go of it.
"""

_TIMES = ("sent_at", "accepted_at", "ended_at")

_DROPPED = "CREATE TABLE dropped (key TEXT PRIMARY KEY NOT NULL, dropped_at REAL NOT NULL, kept REAL NOT NULL)"
"""Keys of single requests whose rows are kept no longer, and for how many seconds they were."""

_SINCE = {"lost_creates": 2, "ignored": 4, "text": 4, "made_by": 4}
"""The columns that an older schema does not have, with the version that brought them."""

_OWNED_SINCE = 5
"""The version that brought rows of single requests."""

SCHEMA = (
    f"CREATE TABLE jobs ({', '.join(f'{name} {kind}' for name, kind in COLUMNS.items())}, {OWNER} TEXT)",
    "CREATE TABLE notes (name TEXT PRIMARY KEY NOT NULL, value TEXT)",
    # A job's row knows its last create only, and a limit counts them all.
    "CREATE TABLE sends (account TEXT NOT NULL, key TEXT NOT NULL, sent_at REAL NOT NULL)",
    _DROPPED,
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)
TOGETHER = 8
"""Rows that one statement inserts where there are so many: with each the writing thread lets go of the interpreter."""


def _inserting(columns: Iterable[str], into: str, end: str = "") -> dict[int, str]:
    """Statements that insert rows, by how many at once."""
    row = f"({', '.join('?' for _ in columns)})"
    return {
        count: f"INSERT INTO {into} ({', '.join(columns)}) VALUES {', '.join([row] * count)}{end}"
        for count in (1, TOGETHER)
    }


# Whoever writes knows its own rows only: what is another's by now stays as that has it.
PUT = _inserting(
    (*COLUMNS, OWNER),
    "jobs",
    " ON CONFLICT (key) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in COLUMNS if name not in ("key", "position"))
    + f" WHERE jobs.{OWNER} IS excluded.{OWNER}",
)
"""Write jobs that are about to be sent; the place of one in the input is that of the first time."""

PUT_SENDS = _inserting(("account", "key", "sent_at"), "sends")
"""Note when creates were."""

# What a job is changes only while it is sent; a time that a change does not know stays, such as that of the acceptance.
_STAYS = ("key", "position", "request", "price")
_MOVED = tuple(name for name in COLUMNS if name not in _STAYS)
MOVE = (
    "UPDATE jobs SET "
    + ", ".join(f"{name} = coalesce(?, {name})" if name in _TIMES else f"{name} = ?" for name in _MOVED)
    + f" WHERE key = ? AND {OWNER} IS ?"
)
"""Write how a job is that was sent before, by what `moved` takes of its row."""

moved = itemgetter(*([*COLUMNS, OWNER].index(name) for name in (*_MOVED, "key", OWNER)))
"""Of a whole row with its owner, what a change of the job may change, its key, and whose it must be."""

RESTATE = "UPDATE jobs SET request = ? WHERE key = ?"
"""Write the request of a job that there is."""

# A row has the times of its last create only; one before it was over when that was noted, unless its answer was lost.
# `cut_off` ends a job when its create was noted: what came of that nobody knows.
SENT_BEFORE = (
    "SELECT number, sent_at, over_at, coalesce(over_at, sent_at + ?) > ? FROM ("
    "SELECT number, sends.sent_at, "
    "CASE WHEN jobs.sent_at > sends.sent_at THEN CASE WHEN lost = 0 THEN jobs.sent_at END "
    "WHEN accepted_at >= sends.sent_at THEN accepted_at WHEN ended_at > sends.sent_at THEN ended_at END AS over_at "
    "FROM "
    "(SELECT rowid AS number, key, sent_at FROM sends WHERE account = ? AND rowid < ? ORDER BY rowid DESC LIMIT ?) "
    "AS sends LEFT JOIN jobs ON jobs.key = sends.key) ORDER BY number DESC"
)
"""So many creates of an account before one: number, when noted and over, and whether that was since a moment."""

FORGET_SENDS = "DELETE FROM sends WHERE rowid <= (SELECT max(rowid) FROM sends) - ?"
"""Forget when creates were but for so many, the latest."""

PLACE = "UPDATE jobs SET position = ? WHERE key = ?"
"""Write where a job stands in the input now."""


# By rowid, that is in the order in which they were first sent: no index, no sorting, no look at the others.
def latencies(version: int) -> str:
    """The statement that reads how long an account's tasks took, but for what another model than its own has made."""
    own = " AND made_by IS NULL" if version >= _SINCE["made_by"] else ""
    return (
        f"SELECT request, latency FROM jobs WHERE account = ? AND latency BETWEEN 0 AND ?{own} "
        "ORDER BY rowid DESC LIMIT ?"
    )


MARK = (
    "SELECT total(files IS NOT NULL), total(error IS NOT NULL AND state != 'queued'), count(*), total(ended_at), "
    "total(state = 'done'), total(state = 'failed'), total(state = 'unknown'), total(state = 'queued'), "
    "total(length(files)), total(length(error)) FROM jobs"
)
"""Jobs with pictures, failures; and what else tells that jobs have changed, as far as lists of them say of that."""


def select(version: int) -> str:
    """The beginning of a statement that reads jobs from a journal of that version."""
    columns = (name if _SINCE.get(name, 1) <= version else f"NULL AS {name}" for name in COLUMNS)
    return f"SELECT {', '.join(columns)} FROM jobs"


def owner_of(version: int) -> str:
    """The statement that reads whose a row is, from a journal of that version."""
    return f"SELECT {OWNER if version >= _OWNED_SINCE else 'NULL'} FROM jobs WHERE key = ?"


def version_of(connection: sqlite3.Connection) -> int:
    """The version of a journal's schema."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def check(connection: sqlite3.Connection, path: str) -> None:
    """Make sure that a file is a journal, whole, and of a version that is known here; raises JournalError."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    version = version_of(connection)
    if application != APPLICATION_ID:
        raise JournalError(f"{path} is no journal of imagen_async. Choose another file.")
    if version > SCHEMA_VERSION:
        message = f"{path} was written by a newer version of imagen_async (its schema is {version}"
        raise JournalError(f"{message}, this version knows {SCHEMA_VERSION}): upgrade. Nothing was sent.")
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise JournalError(damaged(path, verdict))


def upgrade(connection: sqlite3.Connection) -> None:
    """Give a journal of an older version the columns that it lacks, all of them or none."""
    version = version_of(connection)
    if version < SCHEMA_VERSION:
        with transaction(connection):
            for name in (name for name, since in _SINCE.items() if since > version):
                connection.execute(f"ALTER TABLE jobs ADD COLUMN {name} {COLUMNS[name]}")
            if version < _OWNED_SINCE:
                connection.execute(f"ALTER TABLE jobs ADD COLUMN {OWNER} TEXT")
                connection.execute(_DROPPED)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
