"""The port by which a batch's jobs are kept: what a batch needs of a store, and nothing of where that keeps them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

import msgspec

from .._core.journal_entry import Bill, JournalEntry
from .._core.values import ImageRequest

LONGEST_WAY = 60.0
"""Seconds after which a create whose intent was noted has reached the server, or never will: the default timeout."""


ENDED = frozenset({"done", "failed", "unknown"})
"""The states of a single request of which nothing more comes by itself."""


class Claim(msgspec.Struct, frozen=True):
    """What became of a claim.

    Attributes:
        entry: The row as it was found, or as it was made; of a dead owner's create, what `cut_off` makes of that.
        is_ours: True where it is to be gone on with here.
        is_others: True where another one that lives is at work on it. Where neither is so it has ended.
    """

    entry: JournalEntry
    is_ours: bool = False
    is_others: bool = False


class BatchStore(Protocol):
    """What remembers the jobs of a batch beyond its process; `Journal`, a SQLite file, is one.

    A run is one batch over one input, from `begin_run` to `end_run`; one at a time.

    Called in the event loop, once for each request or oftener, so to be answered from memory or from a local disk:
    `find`, `find_task`, `times_seen`, `is_new`, `name`. They may come while `write` is at work, and none of them waits
    for it: what they tell is as of the last `write` that has returned.

    Called in one thread of the run, never in the loop and never two at once, so free to take as long as durability
    takes: `begin_run`, `counts`, `notes`, `note`, `write`, `end_run`, `close`; and, only while a run begins,
    `unfinished`, `with_lost_creates`, `bills`, `latencies`, `sent_since`.

    *Durable*: what was written is still there after the process was killed at any instant, and after the machine lost
    power. A create is sent, a task is asked about and a picture is fetched only once the `write` that tells of it has
    returned, so that a store which returns earlier can make a batch pay twice. *In order*: each call has been carried
    out when the next one comes, and of one key the later entry is the truth. A call that raised has changed nothing;
    its entries come again, with whatever is newer.

    One process at a time has the run of a store; what keeps others out is the store's own matter, and `begin_run` is
    where it may refuse. Several processes may share a store that has more calls: see `JobStore`.

    Attributes:
        name: What it is called in messages: "… is in use".
        is_new: True when the run that has begun can find nothing of earlier ones; `find` is not called then.
    """

    @property
    def name(self) -> str: ...

    @property
    def is_new(self) -> bool: ...

    def begin_run(self) -> None:
        """Begin a run: no key was seen in it yet; raises JournalError while another one goes on.

        From here on no entry is `submitting` whose process is gone: it is what `journal_entry.cut_off` makes of it.
        """

    def end_run(self) -> None:
        """End the run; the next may begin."""

    def close(self) -> None:
        """Give back what it holds. Called by whoever has opened it, after the run; once more is nothing."""

    def write(self, entries: Iterable[JournalEntry]) -> None:
        """Keep these changes, each of another job, all of them durably or none; raises JournalError when none was kept.

        Where one is what it cannot store, such as a text or a number that is too long, it raises ValueError or
        TypeError, and has kept none: they come again one by one, and what it refuses by itself is left out.

        A job is new with an entry that is `submitting`, or that was never sent (no `attempts`), and keeps the
        `position` of its first one. What it is changes only with such entries: any other one leaves `request` and
        `price`, and those of `sent_at`, `accepted_at` and `ended_at` that it has as None, as they were.

        An entry that is `submitting` is also a create that goes out, which `sent_since` tells of for as long as it is
        one of the latest 100,000.
        """

    def note(self, notes: Mapping[str, str]) -> None:
        """Keep something of the batch as a whole, as durably; the last of a name is the truth."""

    def notes(self) -> Mapping[str, str]:
        """All that was noted, and whatever the store notes for itself."""

    def find(self, key: str) -> JournalEntry | None:
        """The job of that key, or None."""

    def find_task(self, task_id: str) -> JournalEntry | None:
        """The job with that task, or None."""

    def unfinished(self) -> Iterable[JournalEntry]:
        """The jobs whose task runs, or whose pictures are to be fetched; also held ones whose task a callback named."""

    def with_lost_creates(self) -> Iterable[JournalEntry]:
        """The jobs of which a create's answer was lost: held ones, and those that came to an end all the same."""

    def counts(self) -> Counter[str]:
        """How many jobs it has, by state."""

    def bills(self) -> Iterable[tuple[Bill, int]]:
        """What its jobs say of money, and how many say the same."""

    def latencies(self, account: str, at_most: int) -> Iterable[tuple[ImageRequest, float]]:
        """The latest requests of an account whose latency is known, and one that can be: those sent last, oldest first.

        A latency can be from 0 to the last of `_core.latency.EDGES`. Those that another model has made are left out.
        """

    def sent_since(self, account: str, moment: float) -> Iterable[tuple[float, float | None]]:
        """When an account's creates were sent and were over that the server may have seen since that Unix time.

        One is over with its answer, with the end of its job, or when the next one of its job is about to be sent, where
        none of that job's was lost. Of one that is none of these nobody knows: None. It has reached the server
        `LONGEST_WAY` after its intent was noted, or never will.
        """

    def times_seen(self, key: str) -> int:
        """Count how often this run has met a key, this time included. An input may be endless, so not in memory."""


class JobStore(BatchStore, Protocol):
    """What remembers jobs of batches and, for several processes at once, of single requests: `Client(journal=…)`.

    No run is begun for single requests. Each of their rows has an owner, one client of one process, for as long as that
    lives: from the store's making to its closing. Each client has a store of its own. How it is known who lives is the
    store's own matter, but must be proof: whoever was killed is dead, and whoever stands still is not.

    What is asked for a run tells of a batch's rows alone: `begin_run`, `is_new`, `counts`, `bills`, `unfinished`,
    `with_lost_creates`. `write` changes the rows that this store has claimed, and those of a batch where it has begun a
    run: of an intent for another row, or for a key that was dropped, it raises ValueError; any other entry for such a
    row is left out.

    Called in one thread, like `write`; but `owner` by a batch in the event loop, like `find`.
    """

    def claim(self, entry: JournalEntry, again: Collection[str] = (), *, held: bool = False) -> Claim:
        """Take the row of a key, in one step between which and the next no other process comes: durably.

        Where there is none, this entry becomes it, which is `queued`. One that is not done and has not failed is left
        to another owner that lives: of an unknown one it may hear yet. Else one that is not `ENDED` becomes this one's;
        if it is `submitting`, it is first what `journal_entry.cut_off` makes of it, which has ended. One that has ended
        in a state of `again` becomes this one's and `queued`. An unknown one whose task a callback has named becomes
        this one's as it is, any unknown one where `held` are wanted. Any other stays as it is.

        Args:
            entry: The request, as it is to be sent.
            again: States from which it may be sent once more.
            held: True where of an unknown one a callback is waited for.

        Raises:
            InvalidRequest: The key's row was dropped; or is a batch's that has not ended, or is to be sent again.
        """

    def note_once(self, name: str, value: str) -> str:
        """Keep something of the store as a whole, durably, unless it has that name already; returns what it has."""

    def owner(self, key: str) -> str | None:
        """Who has the row of a single request: a name that lives; empty where nobody does. None: it is no such row."""

    def release(self, keys: Iterable[str]) -> None:
        """Let go of rows of this one's. One that was never sent, `queued` and without `attempts`, is no more."""

    def abandoned(self) -> Iterable[JournalEntry]:
        """Rows of single requests whose owner is dead: not ended, or unknown with a task that a callback has named."""

    def drop(self, before: float, kept: float) -> int:
        """Forget single requests that were done or had failed before that Unix time, but for their keys.

        Args:
            before: What ended before that is forgotten.
            kept: For how many seconds rows are kept, so that a later claim of such a key can be told.

        Returns:
            How many were forgotten.
        """
