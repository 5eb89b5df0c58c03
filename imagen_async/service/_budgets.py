"""What each caller may spend, a day and in all: reserved before anything is sent, settled by what it cost. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from .._core.budget import PARTS, parts
from .._core.routing import UNKNOWN_PRICE
from ..errors import BudgetReached, ConfigurationError
from ._callers import Caller

_EPOCH = datetime.date(1970, 1, 1).toordinal()

_DAYS = 31
"""Days of which it is known what a caller has spent in each: more than any clock is set back."""

_HUGE = 1e12
"""Credits that nothing costs: who says so knows no price."""


class Standing(msgspec.Struct, frozen=True):
    """Where a caller stands, in credits.

    Attributes:
        spent: In all: billed, or it may have been.
        reserved: For what is under way.
        spent_in_day: The part of `spent` that was reserved on the day that was asked for.
        reserved_in_day: The same of `reserved`.
    """

    spent: float
    reserved: float
    spent_in_day: float
    reserved_in_day: float


class _Sums(msgspec.Struct):
    """In parts of a credit."""

    spent: int = 0
    reserved: int = 0


class _Book(msgspec.Struct):
    """One caller's: in all, and by the day."""

    whole: _Sums
    days: dict[int, _Sums]

    def on(self, day: int) -> _Sums:
        """The sums of one day; those of days long ago are forgotten."""
        if day not in self.days:
            # By when they were first met, not by their numbers: one look at a clock that is wrong forgets nothing.
            for old in list(self.days)[: 1 - _DAYS]:
                if not self.days[old].reserved:
                    del self.days[old]
            self.days[day] = _Sums()
        return self.days[day]


class _Reservation(NamedTuple):
    caller: str
    amount: int
    day: int


class CallerBudgets:
    """Keeps what is spent and what is reserved of each caller at most at its budgets, to a millionth of a credit.

    A request reserves its price before anything is sent for it. It is released where nothing was made, and settled by
    what was billed; where nobody tells, its price counts as spent. What it comes to counts for the day on which it was
    reserved. Only a provider that bills more than was reserved leads beyond a budget, and nothing more is taken then.

    The bounds are those that a caller has when it reserves: what it had before, or has later, changes no sum.
    """

    def __init__(self) -> None:
        self._books: dict[str, _Book] = {}
        self._reservations: dict[str, _Reservation] = {}

    def reserve(self, caller: Caller, request_id: str, credits: float | None, day: int) -> None:
        """Keep credits for a request; nothing where it has a reservation already, as after a restart.

        Args:
            caller: Who asks.
            request_id: What the request is known by; no two callers have the same.
            credits: What it may cost at most; None: nobody knows.
            day: Days since 1970 in UTC.

        Raises:
            BudgetReached: It does not fit in.
            ConfigurationError: The caller has a budget, and nobody knows the price.
        """
        if request_id in self._reservations:
            return
        amount = _amount(credits)
        book = self._book(caller.name)
        today = book.on(day)
        bounds = (("in all", caller.budget, book.whole), ("a day", caller.budget_per_day, today))
        for which, limit, sums in bounds:
            if limit is None:
                continue
            if amount is None:
                raise ConfigurationError(f"Caller {caller.name} cannot have what it asks for: {UNKNOWN_PRICE}.")
            if sums.spent + sums.reserved + amount > parts(limit):
                until = f"The day ends at {_end_of(day)} UTC." if sums is today else "The file of callers may raise it."
                raise BudgetReached(f"{_full(caller.name, which, parts(limit), sums, amount)} {until}")
        self._hold(request_id, _Reservation(caller.name, amount or 0, day))

    def settle(self, request_id: str, spent: float | None) -> None:
        """A request has ended: it has cost so many credits; None: nobody knows, so that what is reserved is spent.

        Of a request that has nothing reserved it is no news.
        """
        held = self._reservations.get(request_id)
        if held is not None:
            self.release(request_id)
            amount = _amount(spent)
            for sums in self._sums(held):
                sums.spent += held.amount if amount is None else amount

    def release(self, request_id: str) -> None:
        """Nothing was made for a request; of one that has nothing reserved it is no news."""
        held = self._reservations.pop(request_id, None)
        if held is not None:
            for sums in self._sums(held):
                sums.reserved -= held.amount

    def recall(
        self,
        caller_name: str,
        spent_in_all: float,
        spent_by_day: Mapping[int, float],
        reservations: Mapping[str, tuple[float | None, int]],
    ) -> None:
        """Know of a caller what a journal knows, and nothing else.

        Args:
            caller_name: Whose it is.
            spent_in_all: Credits.
            spent_by_day: Credits, by the day on which they were reserved; the present day's matters.
            reservations: What was reserved and is not settled: credits and day, by the request.
        """
        for request_id in [each for each, held in self._reservations.items() if held.caller == caller_name]:
            del self._reservations[request_id]
        days = {day: _Sums(_amount(credits) or 0) for day, credits in sorted(spent_by_day.items())}
        self._books[caller_name] = _Book(_Sums(_amount(spent_in_all) or 0), days)
        for request_id, (credits, day) in reservations.items():
            self._hold(request_id, _Reservation(caller_name, _amount(credits) or 0, day))

    def standing(self, caller_name: str, day: int) -> Standing:
        """What a caller has spent and reserved, in all and on a day."""
        book = self._books.get(caller_name) or _Book(_Sums(), {})
        of_day = book.days.get(day) or _Sums()
        amounts = (book.whole.spent, book.whole.reserved, of_day.spent, of_day.reserved)
        return Standing(*(amount / PARTS for amount in amounts))

    def _hold(self, request_id: str, held: _Reservation) -> None:
        self._reservations[request_id] = held
        for sums in self._sums(held):
            sums.reserved += held.amount

    def _sums(self, held: _Reservation) -> tuple[_Sums, _Sums]:
        book = self._book(held.caller)
        return book.whole, book.on(held.day)

    def _book(self, name: str) -> _Book:
        return self._books.setdefault(name, _Book(_Sums(), {}))


def _amount(credits: float | None) -> int | None:
    """In parts of a credit; None where nobody knows, as where it is no number that anything could cost."""
    if credits is None or not -_HUGE <= credits <= _HUGE:
        return None
    # A bill below nothing would let more be spent than the budget says.
    return max(0, parts(credits))


def _full(name: str, which: str, limit: int, sums: _Sums, amount: int) -> str:
    taken = f"{_shown(sums.spent)} are spent and {_shown(sums.reserved)} reserved for what is under way"
    budget = f"The budget {which} of caller {name} is reached: of {_shown(limit)} credits {taken}"
    return f"{budget}; this request may cost {_shown(amount)}."


def _shown(amount: int) -> str:
    whole, rest = divmod(amount, PARTS)
    return f"{whole:,}" + f".{rest:06}".rstrip("0").rstrip(".")


def _end_of(day: int) -> str:
    return f"{datetime.date.fromordinal(_EPOCH + day + 1)} 00:00"
