"""What all jobs of a journal may spend: set aside before a create may go, and set right by what the journal says. Pure.

Unlike a batch's, which reserves when a create leaves: here each request is a single one, whoever asks for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import msgspec

from .._core.budget import PARTS, parts
from .._core.journal_entry import JournalEntry, bill_of
from ..errors import BudgetReached

LookUp = Callable[[str], Awaitable[JournalEntry | None]]
"""Reads what the journal has of a key."""


class _Held(msgspec.Struct):
    """What is set aside for a key, for all who ask for it."""

    users: int
    before: int
    price: int


class Purse:
    """Keeps what is spent and what is set aside at most at a limit. What does not fit waits, and is refused once
    nothing is under way that might yet cost less than it may.

    Args:
        limit: Credits.
        spent: Credits that the journal's requests have cost so far, or may have.
        look_up: Reads what the journal has of a key.
    """

    def __init__(self, limit: float, spent: float, look_up: LookUp) -> None:
        self._limit = parts(limit)
        self._spent = parts(spent)
        self._look_up = look_up
        self._held: dict[str, _Held] = {}
        self._reserved = 0
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

    @asynccontextmanager
    async def held(self, key: str, price: float, again: frozenset[str]) -> AsyncIterator[None]:
        """Have a request's price set aside, for as long as somebody waits for it.

        Args:
            key: The request's.
            price: The most that it may cost.
            again: States of the journal from which it would be sent once more.

        Raises:
            BudgetReached: It does not fit; nothing was sent.
        """
        held = self._held.get(key) or await self._hold(key, parts(price), again)
        held.users += 1
        try:
            yield
        finally:
            held.users -= 1
            if not held.users:
                # Beside whoever was cancelled: what is set aside is set right in any case.
                await asyncio.shield(asyncio.ensure_future(self._settle(key, held)))

    async def _hold(self, key: str, price: int, again: frozenset[str]) -> _Held:
        # One at a time, in the order of the asking: nobody else may settle the key between the look and the holding.
        async with self._turn:
            if key in self._held:
                return self._held[key]
            entry = await self._look_up(key)
            costs_more = entry is None or entry.state == "queued" or entry.state in again
            price = price if costs_more else 0
            while price > self._limit - self._spent - self._reserved:
                if not self._reserved:
                    raise self._reached(price)
                self._changed.clear()
                await self._changed.wait()
            self._reserved += price
            held = self._held[key] = _Held(0, _cost(entry), price)
            return held

    async def _settle(self, key: str, held: _Held) -> None:
        after = await self._look_up(key)
        if held.users or self._held.get(key) is not held:
            return
        del self._held[key]
        self._reserved -= held.price
        self._spent += _cost(after) - held.before
        self._changed.set()

    def _reached(self, price: int) -> BudgetReached:
        spent, limit = self._spent / PARTS, self._limit / PARTS
        message = f"The budget is reached: {spent:g} of {limit:g} credits are spent, and this takes {price / PARTS:g}"
        return BudgetReached(f"{message} more. Nothing was sent for it; a job with more max_credits makes it.")


def _cost(entry: JournalEntry | None) -> int:
    return 0 if entry is None else parts(bill_of(entry).total)
