"""Writes a store from a thread, off the event loop: what gathers while one group is committed is the next."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, ThreadPoolExecutor

import anyio

from .._core.failure import Failure
from .._core.job import Job
from .._core.journal_entry import JournalEntry, entry_of
from .._core.states import Noting
from ..errors import JournalError
from .clock import epoch, now
from .store import JobStore

GATHER = 0.02
"""Seconds that a group gathers: a commit costs as much as fifty changes, and a create's round trip is far longer."""

ENOUGH = 40
"""Changes with which a group does not wait for more."""


class _Group:
    """The changes of one transaction, the last of each job, and the event of their being durable, or of its failure."""

    def __init__(self) -> None:
        self.entries: dict[str, JournalEntry] = {}
        self.ended = asyncio.Event()
        self.failure: Failure | None = None


class JournalWriter:
    """What writes one store: the changes of all jobs, in order, as many at once as there are.

    Args:
        store: In the midst of a run; ended and closed by whoever has begun it.
        executor: Where it is written; None: a thread of its own.

    Attributes:
        failure: Why the last group could not be written, or None. Its changes are tried again with every later one.
    """

    def __init__(self, store: JobStore, executor: Executor | None = None) -> None:
        self.failure: Failure | None = None
        self._store = store
        self._own = ThreadPoolExecutor(1, "imagen-journal") if executor is None else None
        self._executor = executor or self._own
        self._gathering = _Group()
        self._writing: _Group | None = None
        self._timer: asyncio.TimerHandle | None = None

    def note(self, job: Job) -> None:
        """Have the store say, soon and in order, how a job is now."""
        entry = entry_of(job, now(), epoch())
        if entry is not None:
            self.put(entry)

    def put(self, entry: JournalEntry) -> None:
        """Have a change written soon, in order; one of the same job that still waits is superseded."""
        self._gathering.entries[entry.key] = entry
        # Not for each one beyond: the group is called already then.
        self._call(at_once=len(self._gathering.entries) == ENOUGH)

    def has(self, key: str) -> bool:
        """True while something that was noted of a job is not on disk yet."""
        return key in self._gathering.entries or (self._writing is not None and key in self._writing.entries)

    def durable(self, job: Job) -> Awaitable[None] | None:
        """What ends once the job, as it is, is on disk, with JournalError when it cannot be; None: it is."""
        if isinstance(job.state, Noting):
            return self._durable_intent(job.key)
        # A question waits only where something of its job is not on disk yet, which is seldom.
        return self.wait_durable(job.key) if self.has(job.key) else None

    async def wait_durable(self, key: str) -> None:
        """Wait until what was noted of a job is on disk; raises JournalError when it cannot be written."""
        group = self._gathering if key in self._gathering.entries else self._writing
        if group is None or key not in group.entries:
            return
        # After a group that failed nothing is planned: its changes are written when somebody needs them.
        if group is self._gathering:
            self._call()
        await group.ended.wait()
        if group.failure is not None:
            # One for each that waits: it is the whole group's, and none of its jobs may be named in another's.
            raise group.failure.exception()

    async def close(self) -> None:
        """Write what is left, whatever cancels meanwhile; raises JournalError when that is not possible."""
        try:
            await to_the_end(self._write_all)
        finally:
            if self._own is not None:
                self._own.shutdown(wait=False)
            if self._gathering.entries and self.failure is not None:
                raise self.failure.exception()

    async def _durable_intent(self, key: str) -> None:
        # Shielded like the create itself: whether that goes is the plan's to say then, not whoever cancels.
        with anyio.CancelScope(shield=True):
            await self.wait_durable(key)

    async def _write_all(self) -> None:
        while self._writing is not None:
            await self._writing.ended.wait()
        if self._gathering.entries:
            group = self._gathering
            self._begin()
            await group.ended.wait()

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
        entries = list(self._writing.entries.values())
        writing = asyncio.get_running_loop().run_in_executor(self._executor, self._store.write, entries)
        writing.add_done_callback(self._ended)

    def _ended(self, written: asyncio.Future[None]) -> None:
        group, self._writing = self._writing, None
        assert group is not None
        # Before what has failed is put back, which waits for somebody who needs it: a full disk is not tried for ever.
        if self._gathering.entries:
            self._call(at_once=len(self._gathering.entries) >= ENOUGH)
        error = written.exception()
        if error is not None:
            self._keep(group, error)
        else:
            self.failure = None
        group.ended.set()

    def _keep(self, group: _Group, error: BaseException) -> None:
        """Keep what could not be written, under what came since."""
        broken = Failure(JournalError, f"The journal broke: {error}")
        self.failure = group.failure = Failure.of(error) if isinstance(error, JournalError) else broken
        self._gathering.entries = {**group.entries, **self._gathering.entries}


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
