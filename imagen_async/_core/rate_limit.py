"""The exact limit: at most N requests in any window of W seconds at the server, and what N is where nobody tells."""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections import deque
from collections.abc import Iterable

import msgspec

from .._text import told
from ..errors import ConfigurationError


class Rate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`count` requests in any window of `per` seconds: `Rate(20, per=10)`.

    Attributes:
        count: Requests.
        per: Seconds.
        guess: True where no provider has published it: it climbs beyond `count` for as long as all goes well.
    """

    count: int
    per: float
    guess: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.count, int) or isinstance(self.count, bool) or self.count < 1:
            raise ConfigurationError(f"A rate's count of {told(self.count)}: it must be a whole number of at least 1.")
        if isinstance(self.per, bool) or not isinstance(self.per, int | float) or not 0 < self.per < math.inf:
            raise ConfigurationError(f"A window of {told(self.per)} seconds: it must be a number above 0.")


FIRST_REST = 4
"""Clean windows after a step that was refused, before it is tried again: the refusal has cost a window and more."""

LONGEST_REST = 64
"""Clean windows between two tries of a step that was refused: one refusal in so many windows is below 3 % of any."""


class Window:
    """The places of one rate limit. `ready_at` and `taken` ask and change nothing; the others change.

    1. A request takes a place when it is sent (`take`).
    2. Its place is free again `per` seconds after its answer arrived (`answered`), or after it is known that none will.
       The server saw the request before the answer left, and sees the next one after it was sent: the two are more
       than `per` apart there, even if the first took long and the second no time at all.
    3. So any window of `per` seconds at the server holds at most `limit` requests. A token or leaky bucket, which
       counts from the sending, lets almost twice as many through when the first ones are slow.
    4. A refusal for the rate (`refused`) holds everything for a full window, or for as long as the server asks, and
       halves the limit, once a window however many refusals come. Where several came and others were taken, what the
       window has taken is the most that it is known to take, and the limit falls to that.
    5. Each clean window after that, without a refusal, gives one place back: up to the set limit, and beyond it where
       that is a guess, then only from windows that were used in full.
    6. A step up that is refused, from what a full window had taken well, is taken back, and nothing is halved. It is
       tried again after `FIRST_REST` clean windows, then after twice as many, up to `LONGEST_REST`: so the limit stays
       at what the server takes, and follows when that rises.

    Attributes:
        rate: As it was set, or guessed.
        limit: Places, as they are now.
    """

    is_shared = False

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self.limit: int = rate.count
        self._in_flight = 0
        self._free_at: deque[float] = deque()
        self._blocked_until = -math.inf
        self._cut_at = -math.inf
        self._refusals = 0
        self._clean_since = -math.inf
        self._is_full = False
        self._proven = 0
        self._ceiling = math.inf
        # Doubled at the first refusal already.
        self._rest = FIRST_REST // 2

    def reopen(self, now: float) -> None:
        """Go on after the client was closed: nobody waits any more for the answers to what was in flight."""
        # The server may have got them until just now, so each place is held for a window from here.
        self.preload([now + self.rate.per] * self._in_flight)
        self._in_flight = 0

    async def lease(self, wanted: int) -> None:
        """Nothing: all places are at hand."""

    def preload(self, free_at: Iterable[float]) -> None:
        """Take the places that an earlier process has spent; each is free again at its time, on this clock."""
        self._free_at = deque(sorted((*self._free_at, *free_at)))

    def ready_at(self, now: float, limit: int | None = None) -> float:
        """When the next request may go: `now` or earlier for at once, infinity while only an answer can tell.

        Args:
            now: Loop time.
            limit: Places of which it may take one; None: all that there are.
        """
        spare = (self.limit if limit is None else limit) - 1 - self._in_flight
        if spare < 0:
            return math.inf
        # The places are in order of time, so the one that must be free first stands `spare` from the end.
        blocking = len(self._free_at) - 1 - spare
        return max(self._blocked_until, self._free_at[blocking] if blocking >= 0 else -math.inf)

    def taken(self, now: float) -> int:
        """Places that are not free now."""
        return self._in_flight + len(self._free_at) - bisect_right(self._free_at, now)

    def frees_at(self, now: float) -> float:
        """When the next place is free again, if nothing happens; infinity while none will be."""
        first = bisect_right(self._free_at, now)
        return self._free_at[first] if first < len(self._free_at) else math.inf

    def is_blocked(self, now: float) -> bool:
        """True while a refusal holds everything."""
        return now < self._blocked_until

    def take(self, now: float) -> None:
        """Take a place; only when `ready_at(now) <= now`."""
        self._free(now)
        self._in_flight += 1
        # Before anything was sent, no window tells what the server takes.
        if self._clean_since == -math.inf:
            self._clean_since = now
        if self._in_flight + len(self._free_at) >= self.limit:
            self._is_full = True

    def answered(self, now: float) -> None:
        """Note that a request's answer arrived, or that none will."""
        self._in_flight -= 1
        free_at = now + self.rate.per
        # In order, as `ready_at` and `taken` need it: by itself, but for a place that an earlier process has preloaded.
        if self._free_at and free_at < self._free_at[-1]:
            insort(self._free_at, free_at)
        else:
            self._free_at.append(free_at)
        if self._refusals > 1 and not self._in_flight:
            self._fall_to_what_was_taken(now)
        if now >= self._clean_since + self.rate.per:
            self._climb(now)

    def refused(self, now: float, retry_after: float | None = None) -> None:
        """Note that the server refused for its rate; the request's own `answered` follows."""
        self.block(now, retry_after)
        if now < self._cut_at + self.rate.per:
            self._refusals += 1
            return
        self._cut_at, self._refusals = now, 1
        if self._proven and self.limit == self._proven + 1:
            self.limit = self._ceiling = self._proven
            self._rest = min(2 * self._rest, LONGEST_REST)
        else:
            self.limit = max(1, self.limit // 2)
            # No step up explains it: what was known to be taken holds no more.
            self._forget_what_was_proven()
        self._is_full = False

    def block(self, now: float, retry_after: float | None = None) -> None:
        """Send nothing for a full window, or for as long as the server asks; no clean window begins before."""
        self._blocked_until = max(self._blocked_until, now + max(self.rate.per, retry_after or 0.0))
        self._clean_since = self._blocked_until

    def _free(self, now: float) -> None:
        while self._free_at and self._free_at[0] <= now:
            self._free_at.popleft()

    def _fall_to_what_was_taken(self, now: float) -> None:
        """Once all answers of a volley are there. A window that took nothing tells of an outage, not of a rate."""
        self._free(now)
        was_taken = len(self._free_at) - self._refusals
        # Of an answer that comes later than a window after the cut, the places tell of another window.
        if now < self._cut_at + self.rate.per and 0 < was_taken < self.limit:
            self.limit = was_taken
            self._forget_what_was_proven()
        self._refusals = 0

    def _climb(self, now: float) -> None:
        """Take one step up after a clean window, where that may be tried."""
        if self._is_full:
            self._proven = self.limit
            # A step that was refused before has held: the server takes more than it did, and the next come sooner.
            if self.limit > self._ceiling:
                self._ceiling, self._rest = math.inf, FIRST_REST // 2
        if self.limit >= self.rate.count and not (self.rate.guess and self._is_full):
            return
        if self.limit >= self._ceiling and now < self._clean_since + self._rest * self.rate.per:
            return
        self.limit += 1
        self._clean_since = now
        self._is_full = False

    def _forget_what_was_proven(self) -> None:
        self._proven, self._ceiling, self._rest = 0, math.inf, FIRST_REST // 2
