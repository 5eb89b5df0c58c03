"""When each of many accounts has something to do: asked anew of those alone that something has happened to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

from .timer_queue import TimerQueue

When = Callable[[float], float]
"""Says at a loop time when there is something to do, as things are; infinity for never."""


class Agenda:
    """The times of all, so that a look at them costs no more for a thousand accounts than for those it is about.

    What it keeps of one holds until that is touched, or until its time has come: then it is asked again. So a time may
    be told too early, and never too late.

    Args:
        whens: What tells the time of each, by its number.
        restless: Numbers of those whose times change though nothing touches them: these are asked at every look.

    Attributes:
        touched: Numbers of those to which something has happened since they were asked. Others add to it.
    """

    def __init__(self, whens: Sequence[When], restless: Iterable[int] = ()) -> None:
        self.touched: set[int] = set(range(len(whens)))
        self._whens = whens
        self._restless = frozenset(restless)
        # Told for later, and told for now.
        self._at = [math.inf] * len(whens)
        self._timers = TimerQueue()
        self._due: set[int] = set()
        self._looked_at = -math.inf

    def due(self, now: float) -> Iterator[int]:
        """Those that have something to do now, in the order of their numbers; each again until it has no more.

        Whoever asks does it before asking for the next.
        """
        self._refresh(now)
        for number in sorted(self._due):
            while number in self._due:
                yield number
                self.touched.discard(number)
                self._ask(number, now)

    def next_at(self, now: float) -> float:
        """When the first of them has something to do, if nothing happens before; infinity for never."""
        self._refresh(now)
        return now if self._due else self._timers.next_at()

    def _refresh(self, now: float) -> None:
        # Who asks about the past knows nothing of what was found out since.
        if now < self._looked_at:
            self.touched.update(range(len(self._whens)))
        self._looked_at = now
        # What was told for now, or is by now, may have been told too early.
        if self._due:
            self.touched |= self._due
        while (number := self._timers.pop_due(now)) is not None:
            self._at[number] = math.inf
            self.touched.add(number)
        if self._restless:
            self.touched |= self._restless
        for number in self.touched:
            self._ask(number, now)
        self.touched.clear()

    def _ask(self, number: int, now: float) -> None:
        at = self._whens[number](now)
        if at <= now:
            self._due.add(number)
            at = math.inf
        else:
            self._due.discard(number)
        if at == self._at[number]:
            return
        self._at[number] = at
        if at < math.inf:
            self._timers.set(number, at)
        else:
            self._timers.discard(number)
