"""A client's seat at the desk of a key: says what its limits have, and hears what they may have."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TypeVar

import msgspec

from .._core.provider import Limits
from .._core.shared_limits import KINDS, HandedOn, Kind, Position
from .._watch.log import log
from .desk import Desk, Store, Words
from .limiter import SharedLimiter

T = TypeVar("T")

AGAIN = 0.5
"""Seconds after which it is asked again where no answer could be had."""

HEARTBEAT = 0.5
"""Seconds, and a quarter of a window at most, after which what one has is said again: the file may be another one."""

AHEAD = 8
"""Status calls that have places at hand, for each of which one is noted before it leaves."""

WAITING = 10.0
"""Seconds that a create has from its place to its connection; beyond that it takes another place."""


class Seat:
    """A client's seat at a key's desk: says what its limits have, whenever that is worth it.

    Args:
        enter: Gives the desk, with the first exchange; raises RuntimeError where there is none.
        leave: Takes it back.
        number: Its own among those of its process.
        limits: The account's.
        way: Seconds that a request may take from its first byte to its answer.
        connect_timeout: Seconds that its connection may take before.

    Attributes:
        limits: Its two limits.
        way: As given.
        is_open: True from when the client is opened until it is closed.
        listener: Hears of callbacks that others have handed on; None: nobody does.
    """

    is_open = True
    listener: Callable[[Sequence[HandedOn]], None] | None = None

    def __init__(
        self,
        enter: Callable[[], Desk],
        leave: Callable[[Desk], None],
        number: int,
        limits: Limits,
        way: float,
        connect_timeout: float,
    ) -> None:
        self.way = way
        self.limits: dict[Kind, SharedLimiter] = {
            "submit": SharedLimiter("submit", limits.submit, self),
            "status": SharedLimiter("status", limits.status, self),
        }
        self._heartbeat = min(HEARTBEAT, limits.submit.per / 4, limits.status.per / 4)
        self._enter, self._leave = enter, leave
        self._blank = Position(str(number), {}, 0, limits.running, way + connect_timeout + WAITING)
        self._running = 0
        self._desk: Desk | None = None
        # What was said and not answered yet; and how many that were marked have ended since the last that was said.
        self._asked: Position | None = None
        self._unmarked: dict[Kind, int] = dict.fromkeys(KINDS, 0)
        # With its time: what uvloop gives for at once tells none.
        self._alarm: tuple[float, asyncio.Handle] | None = None
        self._timers: set[asyncio.Handle] = set()

    @property
    def longest(self) -> float:
        """Seconds that a request may take in all."""
        return self._blank.lease - WAITING

    def mark(self, kind: Kind) -> bool:
        """Note that the request of a place may leave; False: that cannot be noted, so that it may not."""
        places = self.limits[kind].dealings.places
        # Questions are many and cheap: of a wide limit a few are noted at a time, which the next exchange puts right.
        is_marked = self._at_desk().mark(kind, places.at_hand // AHEAD if kind == "status" else 0)
        places.marked += is_marked
        return is_marked

    def unmark(self, kind: Kind) -> None:
        """One of these was answered, or has not left."""
        places = self.limits[kind].dealings.places
        if places.marked:
            places.marked -= 1
            self._unmarked[kind] += 1

    def occupied(self, running: int) -> None:
        """Hear how many tasks the client has."""
        self._running = running
        self.call(0.0 if self.limits["submit"].dealings.waits else self._heartbeat)

    def call(self, within: float = 0.0) -> None:
        """Say what there is to say within so many seconds."""
        loop = asyncio.get_running_loop()
        at = loop.time() + within
        if not self.is_open:
            return
        if self._alarm is not None:
            if self._alarm[0] <= at:
                return
            self._alarm[1].cancel()
        self._alarm = at, loop.call_at(at, self._ask)

    def later(self, seconds: float, act: Callable[[], None]) -> None:
        """Have something done after so many seconds, unless the seat is left before."""

        def ring() -> None:
            self._timers.discard(timer)
            act()

        timer = asyncio.get_running_loop().call_later(seconds, ring)
        self._timers.add(timer)

    def do(self, work: Callable[[Store], T]) -> asyncio.Future[T]:
        """Have something done at the desk."""
        return asyncio.wrap_future(self._at_desk().do(work))

    def leave(self) -> None:
        """Have nothing any more, and say so."""
        self.is_open = False
        if self._alarm is not None:
            self._timers.add(self._alarm[1])
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        self._alarm = None
        if self._desk is not None:
            for limiter in self.limits.values():
                limiter.close()
            self._running = 0
            self._desk.exchange(self._position(leaves=True), self._told_unmarked(), lambda words, calls: None)
            self._leave(self._desk)
            self._desk = self._asked = self.listener = None

    def _at_desk(self) -> Desk:
        # Entered once it is needed.
        if self._desk is None:
            self._desk = self._enter()
        return self._desk

    def _position(self, *, leaves: bool = False) -> Position:
        wishes = {kind: limiter.dealings.wish() for kind, limiter in self.limits.items()}
        load = self._running + self.limits["submit"].dealings.places.at_hand
        return msgspec.structs.replace(self._blank, wishes=wishes, load=load, leaves=leaves)

    def _ask(self) -> None:
        self._alarm = None
        # One after the other: what was given for the last one must be in what is said next.
        if self._asked is not None:
            return
        try:
            desk, loop = self._at_desk(), asyncio.get_running_loop()
        except RuntimeError as error:  # no thread can be started: the machine has none left, for now
            log(logging.WARNING, "nothing is sent by a shared limit: %s; it is tried again", error)
            self.call(AGAIN)
            return
        said, unmarked = self._position(), self._told_unmarked()
        self._asked = said

        def told(words: Words | None, calls: Sequence[HandedOn]) -> None:
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(self._hear, said, unmarked, words)
                if calls and self.listener is not None:
                    loop.call_soon_threadsafe(self.listener, calls)

        desk.exchange(said, unmarked, told)

    def _told_unmarked(self) -> Mapping[Kind, int]:
        unmarked, self._unmarked = self._unmarked, dict.fromkeys(KINDS, 0)
        return unmarked

    def _hear(self, said: Position, unmarked: Mapping[Kind, int], words: Words | None) -> None:
        # Left meanwhile: what was given then was given back, and is not known any more, also if it is open again.
        if said is not self._asked:
            return
        self._asked = None
        if words is None:
            for kind, count in unmarked.items():
                self._unmarked[kind] += count
            self.call(AGAIN)
            return
        now = asyncio.get_running_loop().time()
        for kind, word in words.items():
            self.limits[kind].hear(said.wishes[kind], word, now)
        dealings = [limiter.dealings for limiter in self.limits.values()]
        waiting = [each.next_in() for each in dealings if each.waits]
        if any(each.dealings.waits and not said.wishes[kind].wanted for kind, each in self.limits.items()):
            self.call()  # somebody has begun to wait meanwhile
        elif waiting:
            self.call(min(waiting))
        elif any(each.places.are_any for each in dealings) or (self._running and self.listener is not None):
            self.call(self._heartbeat)
