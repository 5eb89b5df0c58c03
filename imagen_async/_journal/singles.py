"""A client's journal from its opening to its closing: what writes it, and by what a single request gets its row."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from concurrent.futures import Executor
from contextlib import ExitStack, suppress
from pathlib import PurePath
from typing import TypeVar, TypeVarTuple

import msgspec

from .._core.callbacks import Seal
from .._core.change import Change
from .._core.job import Job
from .._core.job_events import Prepared, Upload
from .._core.journal_entry import JournalEntry, entry_of
from .._core.plan import OwnerTerms
from .._core.poll_schedule import Kind
from .._core.rate_limit import Rate
from .._core.upstream import Upstream
from .._off_loop import machine_time
from ..errors import ConfigurationError, JournalError
from .callbacks import seal_of
from .clock import CLOCK, JournalClock, now
from .explained import Locked, told
from .resume import check_writable, latencies_of, sent_ago
from .shared import SharedJournal
from .store import Claim, JobStore
from .thread import begun, ended, own_thread
from .uploads import news_of, uploads_in
from .writer import AGAIN, LEAVING, PATIENCE, JournalWriter, is_news

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_SHARED = ("claim", "owner", "release", "abandoned", "drop", "note_once")
"""The calls of a JobStore that one for batches only does not have."""

DROPPING = 3600.0
"""Seconds between two looks for rows that are kept no longer."""


class _Begun(msgspec.Struct, frozen=True):
    """An open store, and what it said of earlier processes."""

    store: JobStore
    clock: JournalClock
    ending: ExitStack
    uploads: dict[str, set[Upload]]
    sent: dict[str, list[float]]
    seal: Seal
    since_last: float
    latencies: dict[str, list[tuple[Kind, float]]]


class SingleJournal:
    """What a client has of its journal for single requests: it keeps their jobs, as `JobKeeper` has it.

    The store is opened, written and closed in one thread, in the order of the asking; the loop waits for no disk.

    Args:
        journal: The path of a file, or a store that the caller has opened, and closes.
        kept: Seconds for which rows of what has ended are kept; None: for ever.
        recall: Is told of the files that were uploaded before, and that are there yet, by account.
        executor: The thread, given up at the end; None: one of its own, begun by `open`.

    Attributes:
        seal: Once it is open: makes the tokens of its jobs.

    Raises:
        ConfigurationError: The store is for batches only.
    """

    def __init__(
        self,
        journal: str | PurePath | JobStore,
        kept: float | None,
        recall: Callable[[Mapping[str, Iterable[Upload]]], None],
        executor: Executor | None = None,
    ) -> None:
        lacking = [] if isinstance(journal, str | os.PathLike) else [n for n in _SHARED if not hasattr(journal, n)]
        if lacking:
            what = f"journal=: this store is for batches only, for it has no {', '.join(lacking)}"
            raise ConfigurationError(f"{what}. See imagen_async.ports.JobStore, or give the path of a file.")
        self._given = journal
        self._kept = kept
        # Rows of its own that are not at an end on which nothing follows.
        self._claimed: set[str] = set()
        self._recall = recall
        self._executor = executor

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return self._begun.store.name

    async def open(self, rates: Mapping[str, Rate]) -> None:
        """Open the store. Whoever is cancelled meanwhile leaves none open.

        Args:
            rates: The submit limits of the accounts, by name.

        Raises:
            JournalError: It cannot be used.
        """
        self._thread = self._executor or own_thread()
        self._begun = await begun(self._thread, lambda: self._begin(rates))
        self.seal: Seal = self._begun.seal
        self._recall(self._begun.uploads)
        self._writer = JournalWriter(self._begun.store, self._begun.clock, self._thread)

    async def close(self) -> None:
        """Write what is left, and let go of all that is not finished; raises JournalError when that fails."""
        by = machine_time() + LEAVING
        try:
            await self._writer.close(by)
        finally:
            await ended(self._thread, self._begun, by)

    def terms(self, upstreams: Mapping[str, Upstream]) -> OwnerTerms:
        """What earlier processes know of the accounts."""
        limits = {name: (each.submit.rate, each.status.rate) for name, each in upstreams.items()}
        sent, age = self._begun.sent, self._begun.since_last
        return OwnerTerms(
            sent={
                name: [now() + rate.per - ago for ago in sent[name] if ago < rate.per]
                for name, (rate, _) in limits.items()
            },
            asked={name: now() - age for name, (_, rate) in limits.items() if age < rate.per},
            latencies=self._begun.latencies,
        )

    def on_change(self, change: Change, now: float) -> None:
        """Have it say, soon and in order, how a job is now, where that is news to whoever reads it later."""
        if isinstance(change.event, Prepared):
            news = news_of(self._begun.uploads, change.after.account, change.event.uploads)
            if news:
                self._writer.remember(news)
        if is_news(change):
            self._writer.note(change.after)

    def durable(self, job: Job) -> Awaitable[None] | None:
        """What ends once the job, as it is, is on disk, with JournalError when it cannot be; None: it is."""
        return self._writer.durable(job)

    async def written(self, key: str) -> None:
        """Wait until all that was noted of a request is on disk; raises JournalError."""
        await self._writer.wait_durable(key)

    def entry_of(self, job: Job) -> JournalEntry | None:
        """What there is to remember of a job as it is now."""
        return entry_of(job, now(), self._begun.clock.epoch())

    def past_epoch(self) -> float:
        """The Unix time at which the running loop's clock stood at 0, for what earlier processes have noted."""
        return self._begun.clock.past_epoch()

    async def claim(self, entry: JournalEntry, again: Collection[str], *, held: bool = False) -> Claim:
        """As in JobStore; raises ImagenError."""
        check_writable(entry.request)
        claim = await self._run(lambda: self._begun.store.claim(entry, again, held=held))
        if claim.is_ours:
            self._claimed.add(entry.key)
        return claim

    async def ask(self, look: Callable[[JobStore], T]) -> T:
        """What a look at the store tells; raises ImagenError."""
        return await self._run(look, self._begun.store)

    async def put_back(self, entry: JournalEntry) -> None:
        """Have a row of ours say what it said when it was claimed, and let go of it; raises ImagenError."""
        await self._run(self._begun.store.write, [entry])
        await self.release(entry.key)

    def settled(self, key: str) -> None:
        """Hear that a row has come to an end on which nothing follows: whose it is does not matter any more."""
        self._claimed.discard(key)

    async def release(self, key: str, is_wanted: Callable[[], bool] = lambda: True) -> None:
        """Let go of a row, for as long as that is wanted; raises ImagenError."""
        await self._run(self._begun.store.release, [key], is_wanted=is_wanted)
        self._claimed.discard(key)

    async def abandoned(self) -> list[JournalEntry]:
        """The requests that have not ended and whose process does not live; raises ImagenError."""
        return list(await self.ask(lambda store: store.abandoned()))

    async def drop_for_ever(self) -> None:
        """Drop what is kept no longer, now and then; what cannot be dropped now is with the next time."""
        while self._kept is not None:
            await asyncio.sleep(min(DROPPING, self._kept))
            try:
                await self._run(_drop, self._begun.store, self._kept)
            except Exception:  # such as a full disk, of which whoever sends is told
                continue

    async def _run(self, work: Callable[[*Ts], T], *arguments: *Ts, is_wanted: Callable[[], bool] = lambda: True) -> T:
        """Do something in the thread, again while another process writes; errors are of the tree."""
        by = now() + PATIENCE
        while True:
            try:
                return await asyncio.wrap_future(self._thread.submit(work, *arguments))
            except Locked as error:
                if now() >= by:
                    raise told(error) from error
            except Exception as error:
                raise told(error) from error
            await asyncio.sleep(AGAIN)
            if not is_wanted():
                raise JournalError("It is at work on that again.")

    def _let_go(self, store: JobStore) -> None:
        """Leave what is not finished to whoever asks for it. Works in the thread."""
        # Where that cannot be noted, it is so once the store is closed.
        with suppress(Exception):
            store.release(sorted(self._claimed))

    def _begin(self, rates: Mapping[str, Rate]) -> _Begun:
        """Open the store, and learn what is needed of it from the start. Works in the thread."""
        with ExitStack() as ending:
            if isinstance(self._given, str | os.PathLike):
                store: JobStore = ending.enter_context(SharedJournal(self._given))
                ending.callback(store.end_run)
            else:
                store = self._given
                _use(store)
                ending.callback(_unuse, store)
            ending.callback(self._let_go, store)
            notes = store.notes()
            clock = JournalClock(notes)
            # Never that it is over: others may be at work yet, and nobody knows when they asked for something last.
            store.note(clock.note())
            _drop(store, self._kept)
            return _Begun(
                store=store,
                clock=clock,
                ending=ending.pop_all(),
                uploads=uploads_in(notes),
                since_last=clock.since_last() if CLOCK in notes else math.inf,
                latencies={name: latencies_of(store, name) for name in rates},
                seal=seal_of(store, notes),
                # Last, for the time from here on is not counted: a place is free later, and never too early.
                sent={name: sent_ago(store, clock, name, rate) for name, rate in rates.items()},
            )


_IN_USE: list[JobStore] = []
"""Stores of users' own that clients of this program have open."""


def _use(store: JobStore) -> None:
    """See to it that a store is one client's: to another one its rows would be its own, and be paid for twice."""
    if any(each is store for each in _IN_USE):
        what = f"{store.name} is in use: another client of this program has it open for single requests"
        raise JournalError(f"{what}. Nothing was sent. Give each client a store of its own, over the same jobs.")
    _IN_USE.append(store)


def _unuse(store: JobStore) -> None:
    _IN_USE[:] = [each for each in _IN_USE if each is not store]


def _drop(store: JobStore, kept: float | None) -> None:
    if kept is not None:
        store.drop(time.time() - kept, kept)
