"""A batch's journal from its opening to its closing: what it knows, what writes it, what callbacks find in it."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import Executor
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import PurePath

import msgspec

from .._core.budget import Budget
from .._core.callbacks import Seal
from .._core.change import Change
from .._core.identity import Identity
from .._core.job import Job
from .._core.job_events import Prepared, Upload
from .._core.plan import OwnerTerms
from .._core.rate_limit import Rate
from .._core.upstream import Upstream
from .._job_factory import JobFactory
from .._off_loop import machine_time
from ..errors import JournalError
from .callbacks import SECRET, JournalCallbacks, seal_of
from .clock import JournalClock
from .file import Journal
from .resume import Recollection, ResumeState, recollected
from .store import BatchStore
from .thread import begun, ended, own_thread
from .uploads import news_of, uploads_in
from .writer import LEAVING, JournalWriter, is_news


class _Begun(msgspec.Struct, frozen=True):
    """A run that has begun: its store, what that knows, and what ends the run."""

    store: BatchStore
    clock: JournalClock
    resume: ResumeState
    seal: Seal | None
    ending: ExitStack
    uploads: dict[str, set[Upload]]


class BatchJournal:
    """What a batch has of its journal.

    The store is opened, written and closed in one thread, in the order of the asking; the loop waits for no disk.

    Args:
        journal: The path of a file, or a store that the caller has opened, and closes.
        factory: Makes the batch's jobs.
        again: The states of earlier runs from which a request is sent once more.
        gone: Accounts of which all that earlier runs began has ended with these, unpaid.
        named: Accounts where creates are known by their names.
        expects_callbacks: True where callbacks are asked for.
        add: True where requests under other defaults than before are new ones, beside those that there are.
        recall: Is told of the files that earlier runs have uploaded, and that are there yet, by account.
        executor: The thread, given up at the end; None: one of its own, begun by `open`.

    Attributes:
        resume: Once it is open: what earlier runs know.
        writer: Once it is open: what writes it.
    """

    resume: ResumeState
    writer: JournalWriter

    def __init__(
        self,
        journal: str | PurePath | BatchStore,
        factory: JobFactory,
        *,
        again: frozenset[str] = frozenset({"queued"}),
        gone: frozenset[str] = frozenset(),
        named: frozenset[str] = frozenset(),
        expects_callbacks: bool = False,
        add: bool = False,
        recall: Callable[[Mapping[str, Iterable[Upload]]], None] = lambda uploads: None,
        executor: Executor | None = None,
    ) -> None:
        self._given = journal
        self._factory = factory
        self._again = again
        self._gone = gone
        self._named = named
        self._expects_callbacks = expects_callbacks
        self._add = add
        self._recall = recall
        self._executor = executor
        self._begun: _Begun | None = None
        self._callbacks: JournalCallbacks | None = None

    @property
    def unmet(self) -> int:
        """Requests of earlier runs that are not sent again, and that the input has not come to yet, as far as known."""
        return 0 if self._begun is None else max(0, self._begun.resume.unmet)

    async def open(self, rates: Mapping[str, Rate], *, counts_money: bool) -> None:
        """Open the store and begin a run. Whoever is cancelled meanwhile leaves none open.

        Args:
            rates: The submit limits of the accounts, by name.
            counts_money: True where what earlier runs have spent counts.

        Raises:
            JournalError: It cannot be used.
        """
        self._thread = self._executor or own_thread()
        self._begun = await begun(self._thread, partial(self._begin, rates, counts_money))
        self.resume = self._begun.resume
        self._recall(self._begun.uploads)
        self.writer = JournalWriter(self._begun.store, self._begun.clock, self._thread)

    async def close(self) -> None:
        """Write what is left, end the run, and close what was opened here; raises JournalError when that fails.

        What hangs is left to its thread, which closes the store where it ever comes to that.
        """
        assert self._begun is not None
        by = machine_time() + LEAVING
        try:
            await self.writer.close(by)
        finally:
            await ended(self._thread, self._begun, by)

    @property
    def secret(self) -> str | None:
        """What the names of its creates are made of, in this run and all later ones; None where none are needed."""
        assert self._begun is not None
        return None if self._begun.seal is None or not self._named else self._begun.seal.name("creates").hex()

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
            sent={name: self.resume.spent_places(name, each.submit.rate) for name, each in upstreams.items()},
            asked=self.resume.asked_at({name: each.status.rate for name, each in upstreams.items()}),
            latencies={name: self.resume.latencies(name) for name in upstreams},
        )

    def on_change(self, change: Change, now: float) -> None:
        """Have it say, soon and in order, how a job is now, where that is news to whoever reads it later."""
        job = change.after
        if isinstance(change.event, Prepared):
            self._remember(job.account, change.event.uploads)
        if is_news(change):
            self.writer.note(job)
            if self._callbacks is not None:
                self._callbacks.note(job)

    def _remember(self, account: str, uploads: Iterable[Upload]) -> None:
        assert self._begun is not None
        news = news_of(self._begun.uploads, account, uploads)
        if news:
            self.writer.remember(news)

    def durable(self, job: Job) -> Awaitable[None] | None:
        """What ends once the job, as it is, is on disk, with JournalError when it cannot be; None: it is."""
        return self.writer.durable(job)

    def _begin(self, rates: Mapping[str, Rate], counts_money: bool) -> _Begun:
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
            notes = store.notes()
            clock = JournalClock(notes)
            store.note(clock.note())
            ending.callback(_leave, store, clock)
            # Before there was a secret, there was nothing to call back to.
            awaits_callbacks = self._expects_callbacks and SECRET in notes
            earlier = recollected(store, clock, rates, counts_money=counts_money)
            resume = self._resume(store, clock, earlier, awaits_callbacks=awaits_callbacks)
            _note(store, resume.identity.news)
            ending.callback(_note_if_possible, store, resume.identity)
            seal = seal_of(store, notes) if self._expects_callbacks or self._named else None
            return _Begun(store, clock, resume, seal, ending.pop_all(), uploads_in(notes))

    def _resume(
        self, store: BatchStore, clock: JournalClock, earlier: Recollection, *, awaits_callbacks: bool
    ) -> ResumeState:
        return ResumeState(
            store,
            self._factory,
            clock,
            earlier,
            again=self._again,
            gone=self._gone,
            named=self._named,
            awaits_callbacks=awaits_callbacks,
            add=self._add,
        )


def _leave(store: BatchStore, clock: JournalClock) -> None:
    """Note that a run has ended in good order, so that the next one knows how long it went on."""
    # Where that cannot be noted, the next run waits for a window that may be over.
    with suppress(Exception):
        store.note(clock.note(is_over=True))


def _note_if_possible(store: BatchStore, identity: Identity) -> None:
    """What the next run would find out by itself is no reason to fail."""
    with suppress(JournalError):
        _note(store, identity.late_news)


def _note(store: BatchStore, news: Mapping[str, str]) -> None:
    if news:
        store.note(news)
