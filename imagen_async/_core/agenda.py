"""When each of many accounts has something to do: asked anew of those alone that something has happened to."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Sequence

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
        self._at = [math.inf] * len(whens)
        self._heap: list[tuple[float, int]] = []
        self._looked_at = -math.inf

    def due(self, now: float) -> list[int]:
        """Those that have something to do now, in the order of their numbers; each is asked again at the next look."""
        self._refresh(now)
        due: list[int] = []
        while self._next_at(now) <= now:
            _, number = heapq.heappop(self._heap)
            self._at[number] = math.inf
            due.append(number)
        self.touched.update(due)
        return sorted(due)

    def next_at(self, now: float) -> float:
        """When the first of them has something to do, if nothing happens before; infinity for never."""
        self._refresh(now)
        return self._next_at(now)

    def _refresh(self, now: float) -> None:
        # Who asks about the past knows nothing of what was found out since.
        if now < self._looked_at:
            self.touched.update(range(len(self._whens)))
        self._looked_at = now
        if self._restless:
            self.touched |= self._restless
        for number in self.touched:
            self._ask(number, now)
        self.touched.clear()

    def _ask(self, number: int, now: float) -> None:
        at = self._whens[number](now)
        if at == self._at[number]:
            return
        self._at[number] = at
        if at < math.inf:
            heapq.heappush(self._heap, (at, number))
            # As in TimerQueue: what was replaced stays until it surfaces, or is most of it.
            if len(self._heap) > 2 * len(self._at) + 64:
                self._heap = [entry for entry in self._heap if self._at[entry[1]] == entry[0]]
                heapq.heapify(self._heap)

    def _next_at(self, now: float) -> float:
        while self._heap:
            at, number = self._heap[0]
            if self._at[number] != at:
                heapq.heappop(self._heap)
                continue
            if at > now:
                return at
            # What is told for now is looked at once more: it may have been too early.
            self._ask(number, now)
            if self._at[number] == at:
                return at
        return math.inf
