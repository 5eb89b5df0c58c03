"""The one stream of changes: everything that happens to jobs, handed to whoever keeps, counts, tells or does."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol, get_args

import msgspec

from .._core.change import Change, ChangeListener
from .._core.job import Job
from .._core.job_events import Event, StatusAsked, Turn
from .._watch.observer import Observer


class JobKeeper(Protocol):
    """What keeps the jobs of an owner beyond this process: its journal."""

    def on_change(self, change: Change, now: float) -> None:
        """Hear one change; soon and in order it is kept."""

    def durable(self, job: Job) -> Awaitable[None] | None:
        """What ends once the job, as it is, would be known after a crash, with JournalError if not; None: it is."""


class Owner(msgspec.Struct, frozen=True):
    """Who waits for jobs.

    Attributes:
        results: Takes what comes out of them.
        closing: Hears that the client is being left, or that its loop has ended: no job is taken in or waited for.
        journal: Keeps them, or None.
        tally: Counts them, or None.
    """

    results: ChangeListener | None
    closing: Callable[[], None]
    journal: JobKeeper | None = None
    tally: ChangeListener | None = None


_TURNS = frozenset(get_args(Turn))

_NOBODY = Owner(None, closing=lambda: None)
"""Stands for an owner that has left."""


_Sort = tuple[type[Event], bool, bool]
"""What sort of change it is: the kind of its event, whether it has changed anything of the job, whether it is told."""


class ChangeStream:
    """Hands each change to all who hear of it, in an order that stands in `_in_order` and nowhere else.

    Args:
        callbacks: Knows which callback is about which job; None, where none are asked for.
        silence: Watches whether any callback comes, or None.
        events: Tells of it: the log, traces, the user's listener.
        after: Called once all of what came together was handed out.
        services: Knows which tasks run at services, or None.

    Attributes:
        owners: Who waits for jobs, by the number that these jobs have.
        events: As given.
        talks: Lets a job talk whose turn has come, and hears of turns alone; None: nobody yet.
    """

    def __init__(
        self,
        callbacks: ChangeListener | None,
        silence: ChangeListener | None,
        events: Observer,
        after: Callable[[], None],
        services: ChangeListener | None = None,
    ) -> None:
        self.owners: dict[int, Owner] = {}
        self.events = events
        self.talks: ChangeListener | None = None
        self._callbacks = callbacks
        self._silence = silence
        self._services = services
        self._after = after
        # Who hears of what is looked up, and not put together each time.
        self._listeners: dict[int, dict[_Sort, tuple[ChangeListener, ...]]] = {}
        self._waiting: deque[Change] = deque()
        self._is_delivering = False
        self._is_noticed = False

    def _in_order(self, owner: Owner, sort: _Sort) -> tuple[ChangeListener, ...]:
        """Who hears of a change of that sort to a job of that owner.

        Half of all that happens are turns, and answers of "not yet", which change nothing of the job: whoever keeps,
        delivers or counts jobs need not be asked about these.
        """
        kind, is_changed, is_told = sort
        listeners = (
            # First, so that whatever follows from a change is preceded by its note.
            owner.journal.on_change if is_changed and owner.journal is not None else None,
            self._callbacks if is_changed else None,
            self._services if is_changed else None,
            self._silence,
            owner.tally if is_changed or kind is StatusAsked else None,
            owner.results if is_changed else None,
            # Late, so that whatever a listener does, the result is where it belongs.
            self.events.on_change if is_told else None,
            # Last: by the time a job talks, everybody knows of its turn.
            self.talks if kind in _TURNS else None,
        )
        return tuple(listener for listener in listeners if listener is not None)

    def enter(self, owner_id: int, owner: Owner) -> None:
        """Let an owner hear of its jobs from now on."""
        self.owners[owner_id] = owner
        self._listeners[owner_id] = {}

    def exit(self, owner_id: int) -> None:
        """Forget an owner; what happens to its jobs still is told to the others."""
        self.owners.pop(owner_id, None)
        self._listeners.pop(owner_id, None)

    def durable(self, job: Job) -> Awaitable[None] | None:
        """As in JobKeeper; None also where nobody keeps the job."""
        owner = self.owners.get(job.owner)
        return None if owner is None or owner.journal is None else owner.journal.durable(job)

    def publish(self, changes: Iterable[Change], now: float, *, is_quiet: bool = False) -> None:
        """Hand out changes, one after the other; quietly, where nothing that waits for a change is to look for it.

        Once at a time: who hears of an end may end other jobs, and these come next, not in between.
        """
        self._waiting.extend(changes)
        self._is_noticed = self._is_noticed or not is_quiet
        if self._is_delivering:
            return
        self._is_delivering = True
        try:
            # Whoever begins to listen meanwhile hears of what is published next.
            is_told = self.events.is_listening
            while self._waiting:
                change = self._waiting.popleft()
                for listener in self._listeners_of(change, is_told=is_told):
                    listener(change, now)
        finally:
            self._is_delivering = False
        if self._is_noticed:
            self._is_noticed = False
            self._after()

    def _listeners_of(self, change: Change, *, is_told: bool) -> tuple[ChangeListener, ...]:
        job = change.after
        sort = (type(change.event), job is not change.before, is_told)
        known = self._listeners.get(job.owner)
        if known is None:
            return self._in_order(_NOBODY, sort)
        listeners = known.get(sort)
        if listeners is None:
            listeners = known[sort] = self._in_order(self.owners[job.owner], sort)
        return listeners
