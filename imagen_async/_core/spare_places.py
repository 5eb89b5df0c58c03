"""What is left of a status limit, for questions before their time: where nobody else needs the call, it is free."""

from __future__ import annotations

import math

from .limiter import Limiter
from .rate_limit import Rate, Window

PART = 0.1
"""Of `freshness`: how much waiting a call is worth that takes nobody's place."""

_MOST = 5
"""Calls a second at most, however wide the limit is: half of kie.ai's. More would hardly show, and cost CPU."""

FEW = 2
"""Tasks that are too few to be in each other's way: the end of a batch, or single requests."""

_REST = 20.0
"""Seconds for which no question is set early after one has found no place: so many are asked in their time."""


class SparePlaces:
    """The places of a status limit that may be taken early.

    A call counts here as it counts at the limit itself, whoever it is for. Early ones go only while all calls of any
    window come to less than half of the limit, so what has its time never waits for what has not, and no 429 comes of
    them.

    Args:
        status: The limit. One that is shared with others has no places to spare, as far as anybody here knows.
    """

    def __init__(self, status: Limiter) -> None:
        self._status = status
        self._most = max(1, int(_MOST * status.rate.per))
        self._window = Window(Rate(self._most, status.rate.per))
        self._rest_until = -math.inf

    def take(self, now: float) -> None:
        """A status call goes out."""
        self._window.take(now)

    def answered(self, now: float) -> None:
        """Its answer is there, or none will come."""
        self._window.answered(now)

    def ready_at(self, now: float) -> float:
        """When the next early question may go; infinity while only an answer can tell."""
        if not self._are_any:
            return math.inf
        self._window.limit = min(self._status.limit // 2, self._most)
        return self._window.ready_at(now)

    def suit(self, running: int, now: float) -> bool:
        """Say whether a question about one of so many running tasks is to be set early."""
        return self._are_any and (running <= FEW or now >= self._rest_until)

    def retry_at(self, running: int, now: float) -> float:
        """When a question that finds no place may try again before its time; infinity: it may not."""
        if running <= FEW:
            return self.ready_at(now)
        self._rest_until = now + _REST
        return math.inf

    @property
    def _are_any(self) -> bool:
        return self._status.limit > 1 and not self._status.is_shared
