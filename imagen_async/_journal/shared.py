"""A journal that several processes have open at once, each for single requests, beside a batch that has its run."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Collection, Iterable
from contextlib import ExitStack, closing

from .._core.journal_entry import JournalEntry, cut_off
from .._sqlite import connect
from ..errors import InvalidRequest, JournalError
from .explained import about_values, explained
from .file import KEPT, Changes, Journal, in_use
from .lock import FileLock, Place
from .making import AGAIN, MAKING, is_ready, prepare
from .schema import FORGET_SENDS, OWNER, SCHEMA_VERSION, select
from .store import ENDED, Claim
from .wal import check_pair

_DAY = 86400.0

_DROP = "state IN ('done', 'failed') AND ended_at < ?"
"""What may be dropped: what has ended, and not what is held, which may have been paid for."""


class SharedJournal(Journal):
    """A journal opened for single requests, made if missing; each process that does so has a place of its own.

    A row is the process's that works on it, for as long as that holds its place; then it is whoever's that asks for it.

    Raises:
        JournalError: It cannot be used.
    """

    _whose = f"{OWNER} IS NOT NULL"

    def find(self, key: str) -> JournalEntry | None:
        """The job of that key as it is now, whoever has written it last; or None."""
        self._ahead.forget()
        return super().find(key)

    def claim(self, entry: JournalEntry, again: Collection[str] = (), *, held: bool = False) -> Claim:
        """Take the row of a key where nobody else has it, as BatchStore has it."""
        with self._turn, explained(self.path):
            standing = self._standing(entry.key)
            # Asked time and again while another one is at work on it, which needs no right to write.
            if standing is not None and self._is_others(*standing):
                return Claim(standing[0], is_others=True)
            with self._commit(), about_values():
                loss = self._loss()
                if loss is not None:
                    raise loss
                return self._claimed(entry, again, held=held)

    def owner(self, key: str) -> str | None:
        """Who has the row of a single request: the name of one that lives, '' for nobody, None where there is none."""
        with self._turn, explained(self.path):
            standing = self._standing(key)
            if standing is None or standing[1] is None:
                return None
            return standing[1] if standing[1] and self._place.is_alive(standing[1]) else ""

    def release(self, keys: Iterable[str]) -> None:
        """Let go of rows of its own; one that was never sent is gone with that, and its key is free again."""
        with self._turn, explained(self.path), self._commit():
            for key in keys:
                own = (key, self._place.name)
                unsent = "attempts = 0 AND state = 'queued'"
                self._writing.execute(f"DELETE FROM jobs WHERE key = ? AND {OWNER} = ? AND {unsent}", own)
                self._writing.execute(f"UPDATE jobs SET {OWNER} = '' WHERE key = ? AND {OWNER} = ?", own)

    def abandoned(self) -> list[JournalEntry]:
        """The single requests that have not ended, or whose task is named, and that no process has that lives."""
        ended = ", ".join(map(repr, sorted(ENDED)))
        condition = f"{self._whose} AND (state NOT IN ({ended}) OR state = 'unknown' AND task_id IS NOT NULL)"
        with self._turn, explained(self.path):
            rows = self._reading.execute(f"{self._select_owned} WHERE {condition}").fetchall()
            return [self._rows.entry(row) for *row, owner in rows if not (owner and self._place.is_alive(owner))]

    def drop(self, before: float, kept: float) -> int:
        """Drop the rows of single requests that ended before a Unix time, but for their keys; returns how many."""
        those = f"FROM jobs WHERE {self._whose} AND {_DROP}"
        with self._turn, explained(self.path), self._commit():
            self._writing.execute(FORGET_SENDS, (KEPT,))
            values = (time.time(), kept, before)
            self._writing.execute(f"INSERT OR REPLACE INTO dropped SELECT key, ?, ? {those}", values)
            return self._writing.execute(f"DELETE {those}", (before,)).rowcount

    def _entered(self, stack: ExitStack) -> Place:
        by = time.monotonic() + MAKING
        # Before anybody connects, who would take what lies beside the file for its own.
        check_pair(self._real_path)
        while not is_ready(self._real_path):
            if self._make_ready() and not is_ready(self._real_path):
                message = f"{self.path} cannot be open in several processes: its file system does not let them share it"
                raise JournalError(f"{message}. Nothing was sent. Choose a local disk.")
            if time.monotonic() > by:
                raise in_use(self.path)
            time.sleep(AGAIN)
        self._select_owned = select(SCHEMA_VERSION).replace(" FROM", f", {OWNER} FROM")
        self._place = stack.enter_context(closing(Place(self._real_path)))
        self._owner = self._place.name
        return self._place

    def _make_ready(self) -> bool:
        """Make the file, or bring it up to this version, alone; False where another process is about to."""
        with closing(FileLock(self._real_path)) as lock:
            if lock.take():
                self._make_if_missing()
                with closing(connect(self._real_path, "rw")) as connection:
                    prepare(connection, self.path)
                return True
        return False

    def _take_over(self, reading: sqlite3.Connection) -> None:
        """Nothing at once: what others have left is taken over row by row, by whoever asks for it."""

    def _standing(self, key: str) -> tuple[JournalEntry, str | None] | None:
        # By the connection that writes: within a commit no other process comes between.
        row = self._writing.execute(f"{self._select_owned} WHERE key = ?", (key,)).fetchone()
        return None if row is None else (self._rows.entry(row[:-1]), row[-1])

    def _is_others(self, entry: JournalEntry, owner: str | None) -> bool:
        """True for a row that another one is at work on, and lives. Of one that is unknown it may hear yet."""
        is_at_work = entry.state not in ("done", "failed") and bool(owner) and owner != self._place.name
        return is_at_work and self._place.is_alive(str(owner))

    def _claimed(self, entry: JournalEntry, again: Collection[str], *, held: bool) -> Claim:
        standing = self._standing(entry.key)
        if standing is None:
            self._check_dropped(entry.key)
            self._write_now(entry)
            return Claim(entry, is_ours=True)
        found, owner = standing
        if self._is_others(found, owner):
            return Claim(found, is_others=True)
        if owner is None and (found.state not in ENDED or found.state in again):
            raise self._of_a_batch(found.key)
        if found.state == "submitting":
            # Its process is gone, and whether its create has reached the provider nobody can tell.
            self._give(found.key, self._place.name)
            found = cut_off(found)
            self._write_now(found)
            # Where it is only told, nobody is at work on it: whoever asks next is told, too, and does not wait.
            self._give(found.key, "")
        is_awaited = found.state == "unknown" and (held or found.task_id is not None) and owner is not None
        if found.state in ENDED and not (found.state in again or is_awaited):
            return Claim(found)
        self._give(found.key, self._place.name)
        if found.state in again:
            # So that another one who asks for it again finds that somebody is at work on it.
            self._writing.execute("UPDATE jobs SET state = 'queued' WHERE key = ?", (found.key,))
        return Claim(found, is_ours=True)

    def _of_a_batch(self, key: str) -> InvalidRequest:
        what = f"The key {key!r} is that of a request of a batch in {self.path}"
        return InvalidRequest(f"{what}, which has not come to an end: run the batch again, or give a new key.")

    def _give(self, key: str, owner: str) -> None:
        self._writing.execute(f"UPDATE jobs SET {OWNER} = ? WHERE key = ?", (owner, key))

    def _write_now(self, entry: JournalEntry) -> None:
        Changes([entry], self._rows, self._place.name).write(self._writing, with_intents=True)

    def _check_dropped(self, key: str) -> None:
        row = self._writing.execute("SELECT kept FROM dropped WHERE key = ?", (key,)).fetchone()
        if row is not None:
            what = f"The key {key!r} stood for a request that {self.path} kept for {row[0] / _DAY:g} days"
            raise InvalidRequest(f"{what}, and dropped then (keep_journal): it may have been paid for. Give a new key.")
