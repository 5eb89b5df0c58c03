"""What a provider's limits let through, counted as strictly as a server can. Time is an argument."""

from __future__ import annotations

import heapq
from collections import deque

from .._core.provider import Limits
from .._core.rate_limit import Rate


class StrictWindow:
    """A server's own count: at most `count` taken in any window that ends now."""

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._taken: deque[float] = deque()

    def take(self, now: float) -> bool:
        """Take a place, or say that there is none."""
        # A window is open at its far end: a place is free again exactly one window after it was taken.
        while self._taken and now - self._taken[0] >= self._rate.per:
            self._taken.popleft()
        if len(self._taken) >= self._rate.count:
            return False
        self._taken.append(now)
        return True


class Gate:
    """Creates and status calls in any window, and tasks that run at once.

    Attributes:
        creates: The window of the creates.
        status_calls: That of the status calls.
    """

    def __init__(self, limits: Limits) -> None:
        self.creates = StrictWindow(limits.submit)
        self.status_calls = StrictWindow(limits.status)
        self._room = limits.running
        self._ends: list[float] = []

    def begin(self, ends: float) -> None:
        """Let a task run until then."""
        heapq.heappush(self._ends, ends)

    def is_full(self, now: float) -> bool:
        """True while no further task may run."""
        while self._ends and self._ends[0] <= now:
            heapq.heappop(self._ends)
        return len(self._ends) >= self._room
