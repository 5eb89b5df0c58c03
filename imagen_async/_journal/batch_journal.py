"""A batch's journal from its opening to its closing: what it knows, what writes it, what callbacks find in it."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import PurePath

import msgspec

from .._core.budget import Budget
from .._core.callbacks import Seal
from .._core.change import Change
from .._core.job import Job
from .._core.job_events import CallbackNamed, Readmitted
from .._core.plan import OwnerTerms
from .._core.states import Ended
from .._core.upstream import Upstream
from .._core.wording import STATE_WORDS
from .._job_factory import JobFactory
from .callbacks import SECRET, JournalCallbacks
from .file import Journal
from .resume import ResumeState
from .store import JobStore
from .writer import JournalWriter, to_the_end


class _Begun(msgspec.Struct, frozen=True):
    """A run that has begun: its store, what that knows, and what ends the run."""

    store: JobStore
    resume: ResumeState
    seal: Seal | None
    ending: ExitStack


class BatchJournal:
    """What a batch has of its journal.

    The store is opened, written and closed in one thread, in the order of the asking; the loop waits for no disk.

    Args:
        journal: The path of a file, or a store that the caller has opened, and closes.
        factory: Makes the batch's jobs.
        again: The states of earlier runs from which a request is sent once more.
        expects_callbacks: True where callbacks are asked for.
        executor: The thread, given up at the end; None: one of its own.

    Attributes:
        resume: Once it is open: what earlier runs know.
        writer: Once it is open: what writes it.
    """

    resume: ResumeState
    writer: JournalWriter

    def __init__(
        self,
        journal: str | PurePath | JobStore,
        factory: JobFactory,
        *,
        again: frozenset[str] = frozenset({"queued"}),
        expects_callbacks: bool = False,
        executor: Executor | None = None,
    ) -> None:
        self._given = journal
        self._factory = factory
        self._again = again
        self._expects_callbacks = expects_callbacks
        self._thread = executor or ThreadPoolExecutor(1, "imagen-journal")
        self._begun: _Begun | None = None
        self._callbacks: JournalCallbacks | None = None

    @property
    def unmet(self) -> int:
        """Requests of earlier runs that are not sent again, and that the input has not come to yet, as far as known."""
        return 0 if self._begun is None else max(0, self._begun.resume.unmet)

    async def open(self) -> None:
        """Open the store and begin a run; raises JournalError. Whoever is cancelled meanwhile leaves none open."""
        beginning = self._thread.submit(self._begin)
        try:
            self._begun = await asyncio.wrap_future(beginning)
        except BaseException:
            # In the same thread, so behind the opening, however far that is.
            self._thread.submit(_end, beginning)
            self._thread.shutdown(wait=False)
            raise
        self.resume = self._begun.resume
        self.writer = JournalWriter(self._begun.store, self._thread)

    async def close(self) -> None:
        """Write what is left, end the run, and close what was opened here; raises JournalError when that fails."""
        assert self._begun is not None
        try:
            await self.writer.close()
        finally:
            ending = asyncio.wrap_future(self._thread.submit(self._begun.ending.close))
            self._thread.shutdown(wait=False)
            # `wait` raises nothing of what it waits for, and can be begun anew after a cancellation.
            await to_the_end(lambda: asyncio.wait([ending]))
            ending.result()

    def callbacks_for(self, owner: int, new_id: Callable[[], int], collect: Callable[[Job], None]) -> JournalCallbacks:
        """What callbacks are to know of its requests; where none are expected, nobody asks.

        Args:
            owner: Whose the jobs are to be that callbacks bring back.
            new_id: Makes their ids.
            collect: Takes them.
        """
        assert self._begun is not None
        assert self._begun.seal is not None
        self._callbacks = JournalCallbacks(
            self._begun.store, self.writer, self.resume, self._begun.seal, collect, owner=owner, new_id=new_id
        )
        return self._callbacks

    def terms(self, budget: Budget | None, upstreams: Mapping[str, Upstream]) -> OwnerTerms:
        """On what terms the batch's jobs come in: its budget, and what earlier runs know of the accounts."""
        return OwnerTerms(
            budget,
            sent={name: self.resume.spent_places(name, each.submit.rate.per) for name, each in upstreams.items()},
            latencies={name: self.resume.latencies(name) for name in upstreams},
        )

    def on_change(self, change: Change, now: float) -> None:
        """Have it say, soon and in order, how a job is now, where that is news to whoever reads it later."""
        before, job = change.before, change.after
        if before is None:
            is_news = isinstance(job.state, Ended)  # what comes in was made here, or read from it
        else:
            # What an answer of "not yet" changes within a state is of no use to a later run.
            # By the word that people see: what leads from one to another state of one word is no news for a later run.
            is_other = STATE_WORDS[type(before.state)] != STATE_WORDS[type(job.state)]
            is_news = is_other or isinstance(change.event, CallbackNamed)
        if is_news and not isinstance(change.event, Readmitted):
            self.writer.note(job)
            if self._callbacks is not None:
                self._callbacks.note(job)

    def durable(self, job: Job) -> Awaitable[None] | None:
        """What ends once the job, as it is, is on disk, with JournalError when it cannot be; None: it is."""
        return self.writer.durable(job)

    def _begin(self) -> _Begun:
        """Open the store, begin a run, and learn or make what is needed of it from the start. Works in the thread."""
        with ExitStack() as ending:
            store = self._given if not isinstance(self._given, str | os.PathLike) else Journal(self._given)
            if store is not self._given:
                ending.callback(store.close)
            store.begin_run()
            ending.callback(store.end_run)
            # Only a file lies in a folder, and only whoever has its lock knows that nobody else writes there.
            if isinstance(store, Journal) and self._factory.save_to is not None:
                store.sweep(self._factory.save_to)
            before = store.notes().get(SECRET)
            # Before there was a secret, there was nothing to call back to.
            awaits_callbacks = self._expects_callbacks and before is not None
            resume = ResumeState(store, self._factory, again=self._again, awaits_callbacks=awaits_callbacks)
            seal = _seal(store, before) if self._expects_callbacks else None
            return _Begun(store, resume, seal, ending.pop_all())


def _seal(store: JobStore, secret: str | None) -> Seal:
    """The seal of a store's secret, which is made with the store's first run that needs it."""
    if secret is None:
        secret = secrets.token_hex(32)
        store.note({SECRET: secret})
    return Seal(bytes.fromhex(secret))


def _end(beginning: Future[_Begun]) -> None:
    """End a run that nobody waits for any more, if it ever began."""
    if not beginning.cancelled() and beginning.exception() is None:
        beginning.result().ending.close()
