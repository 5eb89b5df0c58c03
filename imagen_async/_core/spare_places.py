"""What is left of a status limit, for questions before their time: where nobody else needs the call, it is free."""

from __future__ import annotations

import math

from .limiter import LeasedLimiter, Limiter
from .rate_limit import Window

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

    Early questions go only while all calls of any window, whoever they are for, come to less than half of the limit, so
    what has its time never waits for what has not, and no 429 comes of them.

    Args:
        status: The limit. One of the user's own making has no places to spare, as far as anybody here knows.
    """

    def __init__(self, status: Limiter) -> None:
        self._window = status if type(status) is Window or isinstance(status, LeasedLimiter) else None
        self._most = max(1, int(_MOST * status.rate.per))
        self._rest_until = -math.inf

    def ready_at(self, now: float) -> float:
        """When the next early question may go; infinity while only an answer can tell."""
        if self._window is None:
            return math.inf
        return self._window.spare_at(now, self._most)

    def suit(self, running: int, now: float) -> bool:
        """Say whether a question about one of so many running tasks is to be set early."""
        are_any = self._window is not None and self._window.limit > 1
        return are_any and (running <= FEW or now >= self._rest_until)

    def retry_at(self, running: int, now: float) -> float:
        """When a question that finds no place may try again before its time; infinity: it may not."""
        if running <= FEW:
            return self.ready_at(now)
        self._rest_until = now + _REST
        return math.inf
