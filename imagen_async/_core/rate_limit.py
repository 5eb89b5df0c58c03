"""The exact limit: at most N requests in any window of W seconds at the server, and what N is where nobody tells."""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections import deque
from collections.abc import Callable, Iterable

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


class LearnedLimit(msgspec.Struct):
    """How many places there are in a window: as set, lowered after a refusal, or learned. Rules 4 to 6 of `Window`.

    Attributes:
        rate: As it was set, or guessed.
        limit: Places, as they are now.
        blocked_until: Before that time nothing may be sent.
    """

    rate: Rate
    limit: int
    blocked_until: float = -math.inf
    cut_at: float = -math.inf
    refusals: int = 0
    clean_since: float = -math.inf
    is_full: bool = False
    proven: int = 0
    ceiling: float = math.inf
    # Doubled at the first refusal already.
    rest: int = FIRST_REST // 2

    def took(self, now: float, taken: int) -> None:
        """Note that a place was taken, and how many are by now."""
        # Before anything was sent, no window tells what the server takes.
        if self.clean_since == -math.inf:
            self.clean_since = now
        if taken >= self.limit:
            self.is_full = True

    def answered(self, now: float, in_flight: int, cooling: Callable[[], int]) -> None:
        """Note that an answer came: how many are on the way yet, and in how many places others have left behind."""
        if self.refusals > 1 and not in_flight:
            self._fall_to_what_was_taken(now, cooling())
        if now >= self.clean_since + self.rate.per:
            self._climb(now)

    def refused(self, now: float, retry_after: float | None = None) -> None:
        """Note that the server refused for its rate."""
        self.block(now, retry_after)
        if now < self.cut_at + self.rate.per:
            self.refusals += 1
            return
        self.cut_at, self.refusals = now, 1
        if self.proven and self.limit == self.proven + 1:
            self.limit = self.proven
            self.ceiling = self.proven
            self.rest = min(2 * self.rest, LONGEST_REST)
        else:
            self.limit = max(1, self.limit // 2)
            # No step up explains it: what was known to be taken holds no more.
            self._forget_what_was_proven()
        self.is_full = False

    def block(self, now: float, retry_after: float | None = None) -> None:
        """Send nothing for a full window, or for as long as the server asks; no clean window begins before."""
        self.blocked_until = max(self.blocked_until, now + max(self.rate.per, retry_after or 0.0))
        self.clean_since = self.blocked_until

    def _fall_to_what_was_taken(self, now: float, cooling: int) -> None:
        """Once all answers of a volley are there. A window that took nothing tells of an outage, not of a rate."""
        was_taken = cooling - self.refusals
        # Of an answer that comes later than a window after the cut, the places tell of another window.
        if now < self.cut_at + self.rate.per and 0 < was_taken < self.limit:
            self.limit = was_taken
            self._forget_what_was_proven()
        self.refusals = 0

    def _climb(self, now: float) -> None:
        """Take one step up after a clean window, where that may be tried."""
        if self.is_full:
            self.proven = self.limit
            # A step that was refused before has held: the server takes more than it did, and the next come sooner.
            if self.limit > self.ceiling:
                self.ceiling, self.rest = math.inf, FIRST_REST // 2
        if self.limit >= self.rate.count and not (self.rate.guess and self.is_full):
            return
        if self.limit >= self.ceiling and now < self.clean_since + self.rest * self.rate.per:
            return
        self.limit += 1
        self.clean_since = now
        self.is_full = False

    def _forget_what_was_proven(self) -> None:
        self.proven, self.ceiling, self.rest = 0, math.inf, FIRST_REST // 2


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
        self._learned = LearnedLimit(rate, rate.count)
        self._in_flight = 0
        self._free_at: deque[float] = deque()

    @property
    def limit(self) -> int:
        """Places, as they are now."""
        return self._learned.limit

    @limit.setter
    def limit(self, places: int) -> None:
        self._learned.limit = places

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
        spare = (self._learned.limit if limit is None else limit) - 1 - self._in_flight
        if spare < 0:
            return math.inf
        # The places are in order of time, so the one that must be free first stands `spare` from the end.
        blocking = len(self._free_at) - 1 - spare
        return max(self._learned.blocked_until, self._free_at[blocking] if blocking >= 0 else -math.inf)

    def spare_at(self, now: float, most: int) -> float:
        """When a request may go that nobody needs: while less than half of the places are taken, and fewer than that.

        Infinity while only an answer can tell.
        """
        return self.ready_at(now, min(self._learned.limit // 2, most))

    def taken(self, now: float) -> int:
        """Places that are not free now."""
        return self._in_flight + len(self._free_at) - bisect_right(self._free_at, now)

    def frees_at(self, now: float) -> float:
        """When the next place is free again, if nothing happens; infinity while none will be."""
        first = bisect_right(self._free_at, now)
        return self._free_at[first] if first < len(self._free_at) else math.inf

    def is_blocked(self, now: float) -> bool:
        """True while a refusal holds everything."""
        return now < self._learned.blocked_until

    def take(self, now: float) -> None:
        """Take a place; only when `ready_at(now) <= now`."""
        self._free(now)
        self._in_flight += 1
        self._learned.took(now, self._in_flight + len(self._free_at))

    def answered(self, now: float) -> None:
        """Note that a request's answer arrived, or that none will."""
        self._in_flight -= 1
        free_at = now + self.rate.per
        # In order, as `ready_at` and `taken` need it: by itself, but for a place that an earlier process has preloaded.
        if self._free_at and free_at < self._free_at[-1]:
            insort(self._free_at, free_at)
        else:
            self._free_at.append(free_at)
        self._learned.answered(now, self._in_flight, lambda: self._cooling(now))

    def refused(self, now: float, retry_after: float | None = None) -> None:
        """Note that the server refused for its rate; the request's own `answered` follows."""
        self._learned.refused(now, retry_after)

    def block(self, now: float, retry_after: float | None = None) -> None:
        """Send nothing for a full window, or for as long as the server asks; no clean window begins before."""
        self._learned.block(now, retry_after)

    def _free(self, now: float) -> None:
        while self._free_at and self._free_at[0] <= now:
            self._free_at.popleft()

    def _cooling(self, now: float) -> int:
        self._free(now)
        return len(self._free_at)
