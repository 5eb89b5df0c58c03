"""The exact limit: at most N requests in any window of W seconds at the server, whatever the network does."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

import msgspec

from ..errors import ConfigurationError


class Rate(msgspec.Struct, frozen=True):
    """`count` requests in any window of `per` seconds: `Rate(20, per=10)`."""

    count: int
    per: float

    def __post_init__(self) -> None:
        if not isinstance(self.count, int) or isinstance(self.count, bool) or self.count < 1:
            raise ConfigurationError(f"A rate's count of {self.count!r}: it must be a whole number of at least 1.")
        if isinstance(self.per, bool) or not isinstance(self.per, int | float) or not 0 < self.per < math.inf:
            raise ConfigurationError(f"A window of {self.per!r} seconds: it must be a number above 0.")


class Window:
    """The places of one rate limit. `ready_at` asks and changes nothing; the others change.

    1. A request takes a place when it is sent (`spend`).
    2. Its place is free again `per` seconds after its answer arrived (`answered`), or after it is known that none will.
       The server saw the request before the answer left, and sees the next one after it was sent: the two are more
       than `per` apart there, even if the first took long and the second no time at all.
    3. So any window of `per` seconds at the server holds at most `count` requests. A token or leaky bucket, which
       counts from the sending, lets almost twice as many through when the first ones are slow.
    4. A refusal for the rate (`refused`) holds everything for a full window and halves the limit, at most once a
       window; each clean window after it gives one place in twenty back (one of kie.ai's 20), up to the set limit.
    """

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self.limit = rate.count
        self._step = max(1, rate.count // 20)
        self._in_flight = 0
        self._free_at: deque[float] = deque()
        self._held_until = -math.inf
        self._cut_at = -math.inf
        self._clean_since = -math.inf

    def take_over(self, earlier: Window, now: float) -> None:
        """Take over an earlier window's places and holds, on the same clock; what it had in flight ends now."""
        self.limit = earlier.limit
        self._free_at = deque((*earlier._free_at, *([now + self.rate.per] * earlier._in_flight)))
        self._held_until, self._cut_at = earlier._held_until, earlier._cut_at
        self._clean_since = earlier._clean_since

    def remember(self, free_at: Iterable[float]) -> None:
        """Take the places that an earlier process has spent; each is free again at its time, on this clock."""
        self._free_at = deque(sorted((*self._free_at, *free_at)))

    def ready_at(self, now: float) -> float:
        """When the next request may go: `now` or earlier for at once, infinity while only an answer can tell."""
        spare = self.limit - 1 - self._in_flight
        if spare < 0:
            return math.inf
        # The places are in order of time, so the one that must be free first stands `spare` from the end.
        blocking = len(self._free_at) - 1 - spare
        return max(self._held_until, self._free_at[blocking] if blocking >= 0 else -math.inf)

    def spend(self, now: float) -> None:
        """Take a place; only when `ready_at(now) <= now`."""
        while self._free_at and self._free_at[0] <= now:
            self._free_at.popleft()
        self._in_flight += 1

    def answered(self, now: float) -> None:
        """Note that a request's answer arrived, or that none will."""
        self._in_flight -= 1
        self._free_at.append(now + self.rate.per)
        if self.limit < self.rate.count and now >= self._clean_since + self.rate.per:
            self.limit = min(self.rate.count, self.limit + self._step)
            self._clean_since = now

    def refused(self, now: float, retry_after: float | None = None) -> None:
        """Note that the server refused for its rate: hold for a full window, or for as long as it asks."""
        self._held_until = max(self._held_until, now + max(self.rate.per, retry_after or 0.0))
        self._clean_since = now
        if now >= self._cut_at + self.rate.per:
            self.limit = max(1, self.limit // 2)
            self._cut_at = now
