"""What all jobs of a journal may spend: set aside before a create may go, and set right by what the journal says.

Unlike a batch's, which reserves when a create leaves: here each request is a single one, whoever asks for it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext

import anyio

from .._core.budget import PARTS, parts
from .._core.journal_entry import JournalEntry, bill_of
from ..errors import BudgetReached

LookUp = Callable[[str], Awaitable[JournalEntry | None]]
"""Reads what the journal has of a key."""

Count = Callable[[], Awaitable[float]]
"""Adds up what all requests of the journal have cost, or may have, in credits."""


class Purse:
    """Keeps what is spent and what is set aside at most at a limit. What does not fit waits, and is refused once
    nothing is under way that might yet cost less than it may.

    Args:
        look_up: Reads what the journal has of a key.
        count: Adds up the journal.
    """

    def __init__(self, look_up: LookUp, count: Count) -> None:
        self._look_up = look_up
        self._count = count
        self._spent = self._reserved = 0
        # Whether what is spent is as the journal says, as far as nobody is under way.
        self._is_counted = False
        self._changed = asyncio.Event()
        self._turn = asyncio.Lock()

    @property
    def spent(self) -> float:
        """Credits."""
        return self._spent / PARTS

    @property
    def reserved(self) -> float:
        """Credits that are set aside."""
        return self._reserved / PARTS

    async def open(self) -> None:
        """Learn what was spent before."""
        self._spent = parts(await self._count())

    @asynccontextmanager
    async def held(self, key: str, price: float, limit: float, again: frozenset[str]) -> AsyncIterator[None]:
        """Have a request's price set aside; nobody else may hold its key meanwhile.

        Args:
            key: The request's.
            price: The most that it may cost.
            limit: What may be spent in all; infinity: anything.
            again: States of the journal from which it would be sent once more.

        Raises:
            BudgetReached: It does not fit; nothing was sent.
            JournalError: The journal cannot be read.
        """
        # One at a time, in the order of the asking; whoever has no limit waits for nothing.
        async with nullcontext() if limit == math.inf else self._turn:
            before, aside = await self._hold(key, parts(price), limit * PARTS, again)
        try:
            yield
        finally:
            # Also where whoever asked is gone.
            with anyio.CancelScope(shield=True):
                await self._settle(key, before, aside)

    async def _hold(self, key: str, price: int, limit: float, again: frozenset[str]) -> tuple[int, int]:
        entry = await self._look_up(key)
        # A create that was on its way when its process died is unknown to whoever claims it.
        state = None if entry is None else "unknown" if entry.state == "submitting" else entry.state
        aside = price if state in (None, "queued", *again) else 0
        while aside and aside > limit - self._spent - self._reserved:
            if self._reserved:
                self._changed.clear()
                await self._changed.wait()
            elif self._is_counted:
                raise self._reached(aside, limit)
            else:
                # What was left to the journal while it was on its way may have cost nothing after all.
                self._is_counted = True
                self._spent = parts(await self._count())
        self._reserved += aside
        return _cost(entry), aside

    async def _settle(self, key: str, before: int, aside: int) -> None:
        cost = before + aside
        try:
            cost = _cost(await self._look_up(key))
        finally:
            self._reserved -= aside
            self._spent += cost - before
            self._is_counted = False
            self._changed.set()

    def _reached(self, price: int, limit: float) -> BudgetReached:
        spent = f"{self._spent / PARTS:g} of {limit / PARTS:g} credits are spent, and this takes {price / PARTS:g} more"
        return BudgetReached(
            f"The budget is reached: {spent}. Nothing was sent for it; a job with more max_credits makes it."
        )


def _cost(entry: JournalEntry | None) -> int:
    return 0 if entry is None else parts(bill_of(entry).total)
