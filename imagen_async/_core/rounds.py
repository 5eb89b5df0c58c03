"""Which of many are to be asked anew at a look: those that something has happened to, and those whose time has come."""

from __future__ import annotations

import math
from collections.abc import Iterable

from .timer_queue import TimerQueue


class Rounds:
    """The numbers to ask, so that a look costs no more for a thousand accounts than for those it is about.

    Args:
        count: How many there are.
        restless: Numbers of those for whom things change though nothing touches them: these are asked at every look.

    Attributes:
        touched: Numbers of those to which something has happened since they were asked. Others add to it.
    """

    def __init__(self, count: int, restless: Iterable[int] = ()) -> None:
        self.touched: set[int] = set(range(count))
        self._restless = frozenset(restless)
        self._at = [math.inf] * count
        self._timers = TimerQueue()
        self._looked_at = -math.inf

    def look(self, now: float) -> set[int]:
        """Those that are to be asked now; from here on they count as asked."""
        # Who asks about the past knows nothing of what was found out since.
        if now < self._looked_at:
            self.touched.update(range(len(self._at)))
        self._looked_at = now
        while (number := self._timers.pop_due(now)) is not None:
            self._at[number] = math.inf
            self.touched.add(number)
        if self._restless:
            self.touched |= self._restless
        asked = self.touched.copy()
        # The very set stays, which others have.
        self.touched.clear()
        return asked

    def set(self, number: int, at: float) -> None:
        """Have one asked at that loop time, whatever happens, in place of the time it had; infinity: at none."""
        if at == self._at[number]:
            return
        self._at[number] = at
        if at < math.inf:
            self._timers.set(number, at)
        else:
            self._timers.discard(number)

    def next_at(self) -> float:
        """The first of these times, or infinity."""
        return self._timers.next_at()
