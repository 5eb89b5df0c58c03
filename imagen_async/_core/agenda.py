"""When each of many accounts has something to do: asked anew of those alone that something has happened to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

from .rounds import Rounds

When = Callable[[float], float]
"""Says at a loop time when there is something to do, as things are; infinity for never."""


class Agenda:
    """The times of all.

    What it keeps of one holds until that is touched, or until its time has come: then it is asked again. So a time may
    be told too early, and never too late.

    Args:
        whens: What tells the time of each, by its number.
        restless: Numbers of those whose times change though nothing touches them: these are asked at every look.

    Attributes:
        touched: Numbers of those to which something has happened since they were asked. Others add to it.
    """

    def __init__(self, whens: Sequence[When], restless: Iterable[int] = ()) -> None:
        self._whens = whens
        self._rounds = Rounds(len(whens), restless)
        self.touched: set[int] = self._rounds.touched
        # Told for now; the others have a time in the rounds.
        self._due: set[int] = set()

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
        return now if self._due else self._rounds.next_at()

    def _refresh(self, now: float) -> None:
        # What was told for now, or is by now, may have been told too early.
        if self._due:
            self.touched |= self._due
        for number in self._rounds.look(now):
            self._ask(number, now)

    def _ask(self, number: int, now: float) -> None:
        at = self._whens[number](now)
        if at <= now:
            self._due.add(number)
            at = math.inf
        else:
            self._due.discard(number)
        self._rounds.set(number, at)
