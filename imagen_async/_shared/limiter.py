"""The limits of an account that its client shares: what the plan asks them, and what is said of them to others."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec

from .._clock import boot_clock
from .._core.leased_places import LeasedPlaces
from .._core.rate_limit import Rate
from .._core.shared_limits import Held, Kind, Wish, Word

POLL = 0.1
"""Seconds after which whoever waits for a place asks again, where nobody can tell when there is one."""

LONGEST_POLL = 0.5
"""The same at most, and of a window's length: whoever waits must not be taken for one that stands still."""

IDLE = 0.1
"""Seconds after which places that are not used are given back."""

QUICK = IDLE
"""Seconds in which places are used up that were too few: the next are twice as many."""


class Company(Protocol):
    """Through which a limit deals with those that share it; `Seat` is one.

    Attributes:
        way: Seconds that a request may take from its first byte to its answer.
        is_open: True from when the client is opened until it is closed.
    """

    way: float
    is_open: bool

    @property
    def longest(self) -> float:
        """Seconds that it may take in all, with its connection."""

    def call(self, within: float = 0.0) -> None: ...

    def later(self, seconds: float, act: Callable[[], None]) -> None: ...

    def mark(self, kind: Kind) -> bool: ...

    def unmark(self, kind: Kind) -> None: ...

    def occupied(self, running: int) -> None: ...

    def leave(self) -> None: ...


class SharedLimiter:
    """One of them: a `LeasedLimiter`. What is called `now` is a loop time.

    Args:
        kind: Of creates, or of status calls.
        rate: As the account has it.
        seat: The client's, where the others are.

    Attributes:
        dealings: What is said of it, and heard.
    """

    is_shared = True

    def __init__(self, kind: Kind, rate: Rate, seat: Company) -> None:
        self.rate = rate
        self.limit: int = rate.count
        self.changed: Callable[[], None] = lambda: None
        self.dealings = Dealings(rate)
        self._kind: Kind = kind
        self._seat = seat
        self._places = self.dealings.places
        self._is_watched = False

    def ready_at(self, now: float) -> float:
        """At once where a place is at hand, and nothing holds it."""
        # While the process stood still its lease went on: others may have the place soon, or have it already.
        is_any = self._places.at_hand and boot_clock() + self._seat.longest <= self._places.next_until()
        return self.dealings.blocked_until if is_any else math.inf

    def taken(self, now: float) -> int:
        """Its own places that are not free, and those that others were last heard to have."""
        return self.dealings.others() + self._places.taken(boot_clock())

    def is_blocked(self, now: float) -> bool:
        """True while a refusal holds everything."""
        return now < self.dealings.blocked_until

    def spare_at(self, now: float, most: int) -> float:
        """When a request may go that nobody needs."""
        if self.is_blocked(now):
            return self.dealings.blocked_until
        is_any = self.taken(now) < min(self.limit // 2, most)
        return now if is_any else now + self.rate.per / 10

    def take(self, now: float) -> None:
        """Take a place at hand."""
        self._places.take()
        if self._kind == "status":
            self._seat.mark(self._kind)

    def leaves(self, now: float) -> bool:
        """Look at the lease once more, and have it noted that the place is used."""
        if boot_clock() + self._seat.way > self._places.oldest_until() or not self._seat.mark(self._kind):
            return False
        self._places.leave_one()
        return True

    def answered(self, now: float) -> None:
        """The place is free a window later."""
        self._seat.unmark(self._kind)
        self._places.answer(boot_clock())
        self.dealings.news.answers += 1
        self._seat.call(min(self.rate.per / 10, POLL))

    def released(self, now: float) -> None:
        """Nothing has left: the place is free at once."""
        if not self._places.release():
            self._seat.unmark(self._kind)
        self._seat.call(min(self.rate.per / 10, POLL))

    def refused(self, now: float, retry_after: float | None = None) -> None:
        """The server has refused for the rate; everybody hears of it."""
        self._hold(now, retry_after)
        self.dealings.news.refusals.append((boot_clock(), retry_after))

    def block(self, now: float, retry_after: float | None = None) -> None:
        """Nothing is to be sent by anybody."""
        self._hold(now, retry_after)
        present = asyncio.get_running_loop().time()
        # Of one that is over, as a journal tells of, nobody need hear.
        if now + self.rate.per > present:
            self.dealings.news.blocks.append((boot_clock() + now - present, retry_after))

    def preload(self, free_at: Iterable[float]) -> None:
        """Tell of what a journal knows: most of it is known already."""
        offset = boot_clock() - asyncio.get_running_loop().time() - self.rate.per
        self.dealings.news.earlier += [(at + offset, 1) for at in free_at]

    def reopen(self, now: float) -> None:
        """What it had was left behind when it was closed."""
        self._seat.is_open = True

    def leave(self) -> None:
        """The client is closed."""
        self._seat.leave()

    def occupied(self, running: int) -> None:
        """Say how many tasks there are: soon, where somebody here waits for room."""
        self._seat.occupied(running)

    async def lease(self, wanted: int) -> None:
        """Wait until there is a place at hand."""
        await self.dealings.lease(wanted, self.limit // 10, self._seat.call)

    def hear(self, said: Wish, word: Word, now: float) -> None:
        """Take what was given for a wish."""
        self.limit = word.limit
        self.dealings.hear(said, word, now)
        # One watch for all: of several each would find unused what another has seen used just now.
        if word.granted and not self._is_watched:
            self._is_watched = True
            self._seat.later(IDLE, self._give_back)
        self.changed()

    def close(self) -> None:
        """Use nothing more: what is at hand is free, and what is on the way was answered just now, at the latest."""
        for _ in range(self._places.in_flight):
            self._seat.unmark(self._kind)
        self._places.leave(boot_clock())
        self._is_watched = False

    def _hold(self, now: float, retry_after: float | None) -> None:
        until = now + max(self.rate.per, retry_after or 0.0)
        self.dealings.blocked_until = max(self.dealings.blocked_until, until)
        self._seat.call()

    def _give_back(self) -> None:
        if self._places.is_idle():
            self._places.give_back()
            self._seat.call()
        self._is_watched = bool(self._places.at_hand)
        if self._is_watched:
            self._seat.later(IDLE, self._give_back)


class Dealings:
    """What is said of a limit to those who share it, and what they are heard to say.

    Attributes:
        places: What the client has of its places.
        blocked_until: Loop time until which a refusal holds everything.
        news: What has happened since it was said last.
    """

    def __init__(self, rate: Rate) -> None:
        self.places = LeasedPlaces(rate.per)
        self.blocked_until = -math.inf
        self.news = Wish(rate, Held())
        self._wanted = 0
        self._granted_at = -math.inf
        self._granted = 0
        self._told: Word | None = None
        self._told_at = -math.inf
        self._waiter: asyncio.Future[None] | None = None

    @property
    def waits(self) -> bool:
        """True while somebody waits for a place."""
        return self._wanted > 0 and not self.places.at_hand

    def others(self) -> int:
        """Places that others were last heard to have, unless that was long ago."""
        is_fresh = boot_clock() < self._told_at + self.news.rate.per
        return self._told.others if is_fresh and self._told is not None else 0

    async def lease(self, wanted: int, most_ahead: int, call: Callable[[], None]) -> None:
        """Wait until there is a place at hand.

        Args:
            wanted: For so many requests.
            most_ahead: Places that may be had for requests to come.
            call: Has it said that somebody waits.
        """
        self._wanted = wanted
        try:
            if not self.places.at_hand:
                loop = asyncio.get_running_loop()
                ahead = 2 * self._granted if loop.time() < self._granted_at + QUICK else self._granted // 2
                self._wanted = max(wanted, min(ahead, most_ahead))
                self._waiter = loop.create_future()
                call()
                await self._waiter
        finally:
            self._wanted = 0

    def wish(self) -> Wish:
        """What is to be said of it now."""
        news, now = self.news, boot_clock()
        news.earlier = [(at, count) for at, count in news.earlier if at + news.rate.per > now]
        # Lists of its own: what comes before it is answered is to be said the next time.
        lists = {"refusals": [*news.refusals], "blocks": [*news.blocks], "earlier": [*news.earlier]}
        held = self.places.held(now)
        return msgspec.structs.replace(news, held=held, wanted=self._wanted if self.waits else 0, **lists)

    def hear(self, said: Wish, word: Word, now: float) -> None:
        """Take what was given for a wish; `now` is a loop time."""
        news = self.news
        news.answers -= said.answers
        news.refusals, news.blocks = news.refusals[len(said.refusals) :], news.blocks[len(said.blocks) :]
        self._told, self._told_at = word, boot_clock()
        if word.blocked_until > self._told_at:
            self.blocked_until = max(self.blocked_until, now + word.blocked_until - self._told_at)
        if word.granted:
            self._granted, self._granted_at = word.granted, now
            self.places.add(word.until, word.granted)
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_result(None)

    def next_in(self) -> float:
        """In how many seconds whoever waits is to ask again."""
        if self._told is None:
            return POLL
        # Of a long window a twentieth: each question is a wake of three threads.
        longest = min(max(POLL, self.news.rate.per / 20), LONGEST_POLL)
        now, at = boot_clock(), max(self._told.frees_at, self._told.blocked_until)
        # A thousandth later: an alarm may ring early.
        return min(at - now + 0.001, longest) if at > now else longest
