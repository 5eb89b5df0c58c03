"""Writes a store from a thread, off the event loop: what gathers while one group is committed is the next."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor
from contextlib import suppress

import anyio

from .._core.change import Change
from .._core.failure import Failure
from .._core.job import Job
from .._core.job_events import CallbackNamed, Readmitted
from .._core.journal_entry import JournalEntry, entry_of
from .._core.states import Ended, Noting
from .._core.wording import STATE_WORDS
from .._off_loop import OwnThreads, ends_by, machine_time
from .._watch.log import log
from ..errors import InvalidRequest, JournalError
from .clock import JournalClock, now
from .explained import Locked
from .groups import write_group
from .store import BatchStore
from .untold import naming_untold, tell_untold

GATHER = 0.02
"""Seconds that a group gathers: a commit costs as much as fifty changes, and a create's round trip is far longer."""

ENOUGH = 40
"""Changes with which a group does not wait for more."""

PATIENCE = 30.0
"""Seconds for which a group is tried again while another program writes; after that it fails, as on a full disk."""

TELL = 1.0
"""Seconds after which it is told that another program keeps the file."""

AGAIN = 0.1
"""Seconds between two of these tries."""

LEAVING = 2.5
"""Seconds that closing waits: whoever leaves is gone after five, two of which are for answers that are on the way."""


class _Group:
    """The changes of one transaction, the last of each job, and the event of their being durable, or of its failure."""

    def __init__(self) -> None:
        self.entries: dict[str, JournalEntry] = {}
        self.ended = asyncio.Event()
        self.failure: Failure | None = None
        self.left_out: dict[str, Failure] = {}


class JournalWriter:
    """What writes one store: the changes of all jobs, in order, as many at once as there are.

    Args:
        store: In the midst of a run; ended and closed by whoever has begun it.
        clock: The run's.
        executor: Where it is written; None: a thread of its own.

    Attributes:
        failure: Why the last group could not be written, or None. Its changes are tried again with every later one.
    """

    def __init__(self, store: BatchStore, clock: JournalClock, executor: Executor | None = None) -> None:
        self.failure: Failure | None = None
        self._store = store
        self._clock = clock
        self._own = OwnThreads("imagen-journal") if executor is None else None
        self._executor = executor or self._own
        self._gathering = _Group()
        self._writing: _Group | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._locked_since: float | None = None
        self._is_lock_told = False
        self._give_up_at = math.inf

    def note(self, job: Job) -> None:
        """Have the store say, soon and in order, how a job is now."""
        entry = entry_of(job, now(), self._clock.epoch())
        if entry is not None:
            self.put(entry)

    def put(self, entry: JournalEntry) -> None:
        """Have a change written soon, in order; one of the same job that still waits is superseded."""
        self._gathering.entries[entry.key] = entry
        # Not for each one beyond: the group is called already then.
        self._call(at_once=len(self._gathering.entries) == ENOUGH)

    def remember(self, notes: Mapping[str, str]) -> None:
        """Have something noted soon that is of use to later runs, and no harm where it cannot be."""
        assert self._executor is not None
        with suppress(RuntimeError):  # an executor that takes nothing any more
            self._executor.submit(_note_if_possible, self._store, notes)

    def has(self, key: str) -> bool:
        """True while something that was noted of a job is not on disk yet."""
        return key in self._gathering.entries or (self._writing is not None and key in self._writing.entries)

    def durable(self, job: Job) -> Awaitable[None] | None:
        """What ends once the job, as it is, is on disk, with an error when it cannot be; None: it is."""
        if isinstance(job.state, Noting):
            return self._durable_intent(job.key)
        # A question waits only where something of its job is not on disk yet, which is seldom.
        return self.wait_durable(job.key) if self.has(job.key) else None

    async def wait_durable(self, key: str) -> None:
        """Wait until what was noted of a job is on disk.

        Raises:
            JournalError: The store cannot be written.
            InvalidRequest: It can, but not this: the job is what cannot be stored.
        """
        group = self._gathering if key in self._gathering.entries else self._writing
        if group is None or key not in group.entries:
            return
        # After a group that failed nothing is planned: its changes are written when somebody needs them.
        if group is self._gathering:
            self._call()
        await group.ended.wait()
        failure = group.failure or group.left_out.get(key)
        if failure is not None:
            # One for each that waits: it is the whole group's, and none of its jobs may be named in another's.
            raise failure.exception()

    async def close(self, by: float | None = None) -> None:
        """Write what is left, whatever cancels meanwhile, until that `machine_time`; None: for `LEAVING` seconds.

        Raises:
            JournalError: Not all could be written. It names the tasks that are paid for and that the store does not
                know, one by one; so does the log.
        """
        # Sooner: the last of these tries takes its time, too, and then the store is to be closed.
        self._give_up_at = now() + LEAVING / 2
        until = machine_time() + LEAVING if by is None else by
        try:
            await to_the_end(lambda: self._write_all(until))
        finally:
            if self._own is not None:
                self._own.shutdown()
            left = self._gathering.entries
            if self._writing is not None:
                left = {**self._writing.entries, **left}
                self.failure = Failure(JournalError, f"{self._store.name} was not written in time: its disk may hang.")
                # Whoever waits for it waits behind a shield.
                for group in (self._writing, self._gathering):
                    group.failure = self.failure
                    group.ended.set()
            if left and self.failure is not None:
                names = tell_untold(self._store, left.values(), self.failure.message)
                raise naming_untold(self.failure, names).exception()

    async def _durable_intent(self, key: str) -> None:
        # Shielded like the create itself: whether that goes is the plan's to say then, not whoever cancels.
        try:
            await self.wait_durable(key)
        except asyncio.CancelledError:
            # Not before it is needed: a scope costs more than all the rest of the waiting.
            with anyio.CancelScope(shield=True):
                await self.wait_durable(key)
            raise

    async def _write_all(self, by: float) -> None:
        while self._writing is not None:
            if not await ends_by(self._writing.ended, by):
                return
        if self._gathering.entries:
            group = self._gathering
            self._begin()
            await ends_by(group.ended, by)

    def _call(self, *, at_once: bool = False) -> None:
        """Have what gathers written soon, or at the loop's next turn; after the group before it."""
        if self._writing is not None or (self._timer is not None and not at_once):
            return
        if self._timer is not None:
            self._timer.cancel()
        # A transaction for each change would cost 158 µs; in a group a change costs 6 (measured, power-safe both).
        self._timer = asyncio.get_running_loop().call_later(0 if at_once else GATHER, self._begin)

    def _begin(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        # One group at a time, so that changes of one job are written in their order.
        self._writing, self._gathering = self._gathering, _Group()
        self._write(self._writing)

    def _write(self, group: _Group) -> None:
        entries = list(group.entries.values())
        loop = asyncio.get_running_loop()
        try:
            writing = loop.run_in_executor(self._executor, write_group, self._store, entries)
        except RuntimeError as error:  # an executor that was given up, or has no thread
            self._end(group, {}, JournalError(f"No thread writes the journal any more: {error}."))
        else:
            writing.add_done_callback(self._ended)

    def _ended(self, written: asyncio.Future[Mapping[str, Exception]]) -> None:
        group, error = self._writing, written.exception()
        assert group is not None
        assert error is None or isinstance(error, JournalError)
        if isinstance(error, Locked) and self._may_wait():
            asyncio.get_running_loop().call_later(AGAIN, self._write, group)
        else:
            self._end(group, {} if error is not None else written.result(), error)

    def _may_wait(self) -> bool:
        """True where what another program locks may be tried again."""
        if self._locked_since is None:
            self._locked_since, self._is_lock_told = now(), False
        # Others that work on the same journal have it for a moment only.
        if not self._is_lock_told and now() >= self._locked_since + TELL:
            self._is_lock_told = True
            message = "%s is locked by another program: nothing is sent, for up to %.0f seconds, until it is free"
            log(logging.WARNING, message, self._store.name, PATIENCE)
        return now() < min(self._locked_since + PATIENCE, self._give_up_at)

    def _end(self, group: _Group, left_out: Mapping[str, Exception], error: JournalError | None) -> None:
        self._writing = None
        # Before what has failed is put back, which waits for somebody who needs it: a full disk is not tried for ever.
        if self._gathering.entries:
            self._call(at_once=len(self._gathering.entries) >= ENOUGH)
        if error is not None:
            self._keep(group, error)
        else:
            self.failure = self._locked_since = None
            for key, why in left_out.items():
                self._leave_out(group, group.entries[key], why)
        group.ended.set()

    def _keep(self, group: _Group, error: JournalError) -> None:
        """Keep what could not be written, under what came since."""
        self.failure = group.failure = Failure.of(error)
        self._gathering.entries = {**group.entries, **self._gathering.entries}

    def _leave_out(self, group: _Group, entry: JournalEntry, error: Exception) -> None:
        """Tell of a change that cannot be stored: its job's trouble, and nobody else's."""
        # Of an intent nothing has left yet: it is the request that is refused. Anything else is already under way.
        kind = InvalidRequest if entry.state == "submitting" else JournalError
        group.left_out[entry.key] = Failure(kind, f"The request cannot be written to the journal: {error}.")
        tell_untold(self._store, [entry], error)


def is_news(change: Change) -> bool:
    """True where how a job is now is news to whoever reads it later."""
    before, job = change.before, change.after
    if isinstance(change.event, Readmitted):
        return False
    if before is None:
        return isinstance(job.state, Ended)  # what comes in was made here, or read from it
    # What an answer of "not yet" changes within a state is of no use to a later run.
    # By the word that people see: what leads from one to another state of one word is no news for a later run.
    is_other = STATE_WORDS[type(before.state)] != STATE_WORDS[type(job.state)]
    return is_other or isinstance(change.event, CallbackNamed)


async def to_the_end(work: Callable[[], Awaitable[object]]) -> None:
    """Do what must not be left half done, and may be begun anew; a cancellation meanwhile comes out after it."""
    cancelled: asyncio.CancelledError | None = None
    while True:
        try:
            # Off the loop the writing goes on whatever happens here; a scope's cancellation would come time and again.
            with anyio.CancelScope(shield=True):
                await work()
        except asyncio.CancelledError as error:
            cancelled = error
        else:
            break
    if cancelled is not None:
        raise cancelled


def _note_if_possible(store: BatchStore, notes: Mapping[str, str]) -> None:
    with suppress(Exception):
        store.note(notes)
