"""What a client has of the places of one limit that others have places of, too. Times are the machine's."""

from __future__ import annotations

import math
from collections import deque

import msgspec

from .shared_limits import Held, Places

GRAIN = 100
"""Times of answers that are kept as they are; more are rounded up to such a part of a window: so few are kept."""


class LeasedPlaces:
    """What a client has of one limit's places. Times are the machine's.

    Attributes:
        at_hand: Places that it may use.
        in_flight: Those that it uses.
        marked: Those of them whose request may have left.
    """

    def __init__(self, per: float) -> None:
        self.at_hand = self.in_flight = self.marked = 0
        self._per = per
        self._fresh: deque[Lot] = deque()
        self._untils: deque[float] = deque()
        self._leases = _Lots()
        self._answered = _Lots()
        self._was_used = False

    @property
    def are_any(self) -> bool:
        """True while some are not free."""
        return bool(self._leases.count or self._answered.count)

    def add(self, until: float, count: int) -> None:
        """Have some more."""
        self.at_hand += count
        self._fresh.append(Lot(until, count))
        self._leases.add(until, count)
        # None is given back before it was there for a while.
        self._was_used = True

    def take(self) -> None:
        """Use one that is at hand."""
        lot = self._fresh[0]
        self._untils.append(lot.at)
        lot.count -= 1
        if not lot.count:
            self._fresh.popleft()
        self.at_hand -= 1
        self.in_flight += 1
        self._was_used = True

    def next_until(self) -> float:
        """The lease of the place at hand that is used next."""
        return self._fresh[0].at if self._fresh else -math.inf

    def oldest_until(self) -> float:
        """The lease of the oldest of those that are used and have not left."""
        return self._untils[0] if self._untils else -math.inf

    def leave_one(self) -> None:
        """The oldest of them leaves."""
        self._untils.popleft()

    def answer(self, now: float) -> None:
        """One of those that are used is free a window from now."""
        self.in_flight -= 1
        while len(self._untils) > self.in_flight:
            self._untils.popleft()
        self._drop(oldest=True)
        grain = self._per / GRAIN
        self._answered.add(now if len(self._answered) < GRAIN else math.ceil(now / grain) * grain, 1)

    def release(self) -> bool:
        """One of those that are used is free now; False where it counted as one that had left."""
        self.in_flight -= 1
        # Whichever it had: the others have the later leases from now on.
        self._drop(oldest=True)
        if self._untils and len(self._untils) > self.in_flight - self.marked:
            self._untils.popleft()
            return True
        return False

    def is_idle(self) -> bool:
        """True where some are at hand, and none was used since this was asked."""
        was_used, self._was_used = self._was_used, False
        return bool(self.at_hand) and not was_used

    def give_back(self) -> None:
        """Have none at hand any more."""
        while self.at_hand:
            self.at_hand -= 1
            self._drop(oldest=False)
        self._fresh.clear()

    def leave(self, now: float) -> None:
        """Use none any more."""
        self.give_back()
        while self.in_flight:
            self.answer(now)
        self._untils.clear()
        self._leases = _Lots()

    def taken(self, now: float) -> int:
        """Places that are not free."""
        self._forget_the_past(now)
        return self._leases.count + self._answered.count

    def held(self, now: float) -> Held:
        """The same, as it is said to others."""
        self._forget_the_past(now)
        return Held(self._leases.listed(), self._answered.listed())

    def _drop(self, *, oldest: bool) -> None:
        # One whose lease was over is not among them any more.
        if self._leases.count > self.at_hand + self.in_flight:
            self._leases.drop(oldest=oldest)

    def _forget_the_past(self, now: float) -> None:
        self._leases.forget(now - self._per)
        self._answered.forget(now - self._per)


class Lot(msgspec.Struct):
    """So many places with the same time."""

    at: float
    count: int


class _Lots:
    """Places by their times, the earliest first.

    Attributes:
        count: How many there are.
    """

    def __init__(self) -> None:
        self.count = 0
        self._lots: deque[Lot] = deque()

    def __len__(self) -> int:
        return len(self._lots)

    def add(self, at: float, count: int) -> None:
        """Have more; of an earlier time than the last they count as of that."""
        self.count += count
        if self._lots and self._lots[-1].at >= at:
            self._lots[-1].count += count
        else:
            self._lots.append(Lot(at, count))

    def drop(self, *, oldest: bool) -> None:
        """Have one fewer."""
        self.count -= 1
        lot = self._lots[0 if oldest else -1]
        lot.count -= 1
        if not lot.count:
            self._lots.remove(lot)

    def forget(self, moment: float) -> None:
        """Have none any more of that time or before."""
        while self._lots and self._lots[0].at <= moment:
            self.count -= self._lots.popleft().count

    def listed(self) -> Places:
        """All of them."""
        return [(lot.at, lot.count) for lot in self._lots]
