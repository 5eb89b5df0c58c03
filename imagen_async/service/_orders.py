"""One order: what a caller asked for, made by as many tasks as that takes, for however many who wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Literal, Protocol, Self

import msgspec

from .._core.journal_entry import JournalEntry, bill_of, entry_of
from .._core.resuming import earlier_result
from .._core.values import ImageRequest, Result
from .._core.wording import STATE_WORDS
from .._journal.store import ENDED
from .._latch import Latch
from .._single import Single
from ..errors import ConfigurationError, ImagenError, UnknownOutcome
from ._reading import Asked
from ._refusals import Refusal, refusal_of

LEFT = "Nobody waited for it any more before it was sent: nothing was billed."

Begin = Callable[[ImageRequest, str], Awaitable[Single]]
"""Has a request sent under a key, or finds what came of that key before."""

_ON_ITS_WAY = ("submitting", "held", "running", "ready")

OrderState = Literal["queued", "running", "done", "failed", "cancelled"]


class Part(msgspec.Struct):
    """One task of an order.

    Attributes:
        request: What it is to make.
        key: The name by which the journal knows it.
        single: Who waits for it, once it has begun.
        result: What it came to, with or without an error, or None.
        error: Why it could not even begin, or None.
        noted: How it stands in the journal at its end, or where it is only looked at.
    """

    request: ImageRequest
    key: str
    single: Single | None = None
    result: Result | None = None
    error: ImagenError | None = None
    noted: JournalEntry | None = None

    @property
    def is_over(self) -> bool:
        """True once it is known what came of it."""
        return self.result is not None or self.error is not None

    @property
    def failure(self) -> ImagenError | None:
        """Why there is no picture of it, or None."""
        return self.error if self.result is None else self.result.error

    @property
    def is_on_its_way(self) -> bool:
        """True where something was sent for it, and it has not ended."""
        if self.is_over or self.single is None:
            return not self.is_over and self.noted is not None and self.noted.state != "queued"
        # As it is now: of a create that has left no journal has more than that it was about to.
        return STATE_WORDS[type(self.single.job.state)] in _ON_ITS_WAY

    @property
    def entry(self) -> JournalEntry | None:
        """How it stands in the journal; None where nothing of it does."""
        return self.noted if self.single is None or self.is_over else entry_of(self.single.job, 0.0, 0.0)

    @property
    def is_final(self) -> bool:
        """True where nothing more will ever come of it: whoever is told of that was given all that there is."""
        entry = self.entry
        if entry is None:
            return isinstance(self.error, UnknownOutcome)
        return entry.state in ("done", "failed", "unknown")

    @property
    def cost(self) -> float | None:
        """Credits that it has cost, or may have; None while that is open."""
        if isinstance(self.failure, UnknownOutcome):
            return self.failure.credits
        entry = self.entry
        if entry is None or (entry.state == "queued" and not entry.lost):
            return 0.0
        return bill_of(entry).total if self.is_final else None


class Watch(Protocol):
    """Counts how tasks fare."""

    def begun(self, caller: str) -> None:
        """Hear that a task of a caller is wanted, and waits."""

    def sent(self, caller: str, part: Part) -> None:
        """Hear that it exists at its provider."""

    def ended(self, caller: str, part: Part) -> None:
        """Hear what it has come to."""


class Order:
    """An order while it is being made.

    Args:
        id: Its own.
        key: What the keys of its tasks begin with.
        asked: What is wanted.
        begin: Has each task sent.
        caller: Whose it is.
        watch: Counts how its tasks fare, or None.

    Attributes:
        id: As given.
        caller: As given.
        asked: As given.
        parts: Its tasks.
        waiting: How many wait for it.
        is_withheld: True once nothing more of it is sent.
        refusal: What is said where it could not begin, or its end could not be noted, or None.
        begun: Set once its first task may be sent, or it is known that none will.
        over: Set once all has ended, and is noted.
    """

    __slots__ = (
        "_begin",
        "_is_stopped",
        "_moved",
        "_watch",
        "asked",
        "begun",
        "caller",
        "id",
        "is_withheld",
        "over",
        "parts",
        "refusal",
        "waiting",
    )

    def __init__(
        self, id: str, key: str, asked: Asked, begin: Begin, caller: str = "", watch: Watch | None = None
    ) -> None:
        self.id = id
        self.caller = caller
        self._watch = watch
        self.asked = asked
        self.parts: list[Part] = [
            Part(request, each) for request, each in zip(asked.parts, keys_of(key, len(asked.parts)), strict=True)
        ]
        self.waiting = 0
        self.is_withheld = False
        self.refusal: Refusal | None = None
        self.begun = Latch()
        self.over = Latch()
        self._begin = begin
        self._moved = Latch()
        self._is_stopped = False

    @classmethod
    def noted(cls, id: str, key: str, asked: Asked, entries: Iterable[JournalEntry | None], *, has_ended: bool) -> Self:
        """One that is only looked at, as the journal has it; once it has ended, what was not sent will not be."""
        order = cls(id, key, asked, _begins_nothing)
        for part, entry in zip(order.parts, entries, strict=True):
            part.noted = entry
            part.result = None if entry is None or entry.state not in ENDED else earlier_result(entry)
            if has_ended and (entry is None or entry.state == "queued"):
                part.error = ConfigurationError(LEFT)
        return order

    @property
    def state(self) -> OrderState:
        """Where it stands, in a word: `done` where at least one picture was made."""
        entries = [part.entry for part in self.parts]
        if all(part.is_over for part in self.parts):
            return "done" if any(part.failure is None for part in self.parts) else "failed"
        return "running" if any(entry is not None and entry.state != "queued" for entry in entries) else "queued"

    @property
    def refusals(self) -> list[Refusal]:
        """What is said of each task of which there is no picture."""
        return [refusal_of(part.failure, part.cost) for part in self.parts if part.failure is not None]

    @property
    def is_final(self) -> bool:
        """True where nothing more will come of any of its tasks."""
        return all(part.is_final for part in self.parts)

    @property
    def is_told(self) -> bool:
        """True where an answer with the pictures that there are is the last word: what is lacking was never sent."""
        return all(part.is_final or part.cost == 0 for part in self.parts)

    @property
    def cost(self) -> float | None:
        """Credits that it has cost, or may have; None while that is open."""
        costs = [part.cost for part in self.parts]
        known = [cost for cost in costs if cost is not None]
        return sum(known) if len(known) == len(costs) else None

    async def make(self) -> None:
        """Have all of it made, and wait for that."""
        first, *others = self.parts
        # Most have one, and need no task beside whoever makes the order.
        making = [asyncio.create_task(self._make(part)) for part in others]
        try:
            await asyncio.gather(self._make(first), *making) if making else await self._make(first)
        finally:
            for each in making:
                each.cancel()
            self._is_stopped = True
            self._moved.set()

    def withhold(self) -> None:
        """Send nothing more of it; what is on the way, or runs, is heard out: it is paid for."""
        self.is_withheld = True
        for part in self.parts:
            if part.single is not None and not part.single.is_over:
                part.single.withhold()

    async def ended(self) -> AsyncIterator[Part]:
        """Its tasks, as they end; those that have not by then are left out where it is stopped."""
        left = list(self.parts)
        while left:
            moved = self._moved
            over = [part for part in left if part.is_over]
            for part in over:
                left.remove(part)
                yield part
            if self._is_stopped and not over:
                return
            if not over:
                await moved.wait()

    async def _make(self, part: Part) -> None:
        if self.is_withheld:
            part.error = ConfigurationError(LEFT)
        else:
            try:
                part.single = await self._begin(part.request, part.key)
                if self.is_withheld:
                    part.single.withhold()
                await self._follow(part, part.single)
            except ImagenError as error:
                part.error = error
            finally:
                if part.single is not None:
                    part.single.drop()
        moved, self._moved = self._moved, Latch()
        moved.set()

    async def _follow(self, part: Part, single: Single) -> None:
        """Wait for what a task comes to, and have it counted, unless it had ended before it was asked for."""
        watch = None if single.is_over else self._watch
        if watch is not None:
            watch.begun(self.caller)
        try:
            await single.moved()
            if watch is not None and single.job.task_id is not None:
                watch.sent(self.caller, part)
            part.result = await single.outcome()
            part.noted = entry_of(single.job, 0.0, 0.0)
        finally:
            if watch is not None:
                watch.ended(self.caller, part)


def key_of(caller: str, name: str, ordinal: int) -> str:
    """What the keys of an order's tasks begin with: another one would be another task, and paid for."""
    return f"{caller}/{name}/{ordinal}"


def keys_of(key: str, tasks: int) -> list[str]:
    """The keys by which the journal knows the tasks of an order."""
    return [f"{key}/{at}" for at in range(tasks)]


async def _begins_nothing(request: ImageRequest, key: str) -> Single:
    raise ConfigurationError(LEFT)
