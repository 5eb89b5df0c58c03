"""When the loop looks at the plan again: at once, shortly after its last look, or by a time that is set."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable

BREATH = 0.001
"""Seconds between two looks at the plan that changes ask for: a thousand a second are enough for any limit."""


class Wakeup:
    """Wakes the one loop that looks at the plan. Made in the loop that runs it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._called = asyncio.Event()
        self._alarm: asyncio.TimerHandle | None = None
        self._rings_at = math.inf
        self._looked_at = -math.inf
        self._is_looking = False

    def looks(self) -> float:
        """The loop looks now; returns that time."""
        # Before the look, so that what is noticed from here on counts for the next one.
        self._called.clear()
        self._is_looking = True
        self._looked_at = self._loop.time()
        return self._looked_at

    def wait(self, by: float) -> Awaitable[object]:
        """What ends once something was noticed since the look, or at that loop time."""
        self._is_looking = False
        self._ring_by(by)
        return self._called.wait()

    def notice(self) -> None:
        """Have the loop look at the plan: now, or shortly after its last look. Changes come in swarms."""
        if self._is_looking:
            return  # what a look itself has changed is in what it says of the next one
        if self._loop.time() >= self._looked_at + BREATH:
            self._called.set()
        else:
            self._ring_by(-math.inf)

    def silence(self) -> None:
        """Ring no more."""
        if self._alarm is not None:
            self._alarm.cancel()

    def _ring_by(self, time: float) -> None:
        # Not at once: uvloop's alarms ring up to a millisecond early, and nothing would be due yet, again and again.
        time = max(time, self._looked_at + BREATH)
        # An alarm that rings too early stays: a look too many costs less than a new alarm at every change.
        if time < self._rings_at:
            self.silence()
            self._alarm = self._loop.call_at(time, self._ring)
            self._rings_at = time

    def _ring(self) -> None:
        self._rings_at = math.inf
        self._called.set()
