"""Limits of time that let what has arrived be read before they count.

A process stands still at times: Ctrl-Z, a suspended laptop, a frozen machine, a callback that blocks the loop. What
came meanwhile waits in the kernel, and when the process goes on, the loop finds it there together with every timer
that is past. A timer that counts at once throws the answer away, which may name a task that is paid for.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextvars import Context
from types import TracebackType
from typing import Protocol, Self

TURNS = 64
"""Turns of the loop after which what waited in the kernel was read: each carries every answer on by one step."""

LATE = 0.25
"""Seconds after its time from which an alarm tells that the process stood still."""

EARLY = 0.001
"""Seconds by which loops may be early: uvloop counts in milliseconds."""

RESPITE = 2.0
"""Seconds more for what was timed meanwhile: the other end goes on from where it was, too."""


class Setting(Protocol):
    """What was set, and may be taken back."""

    def cancel(self) -> object:
        """Take it back."""


class Timers(Protocol):
    """What calls at a loop time; a loop is one."""

    def call_at(self, when: float, callback: Callable[[], object], /) -> Setting:
        """Call then."""


class AlarmClock:
    """One timer of a loop for what is mostly taken back: each costs a tenth of a timer of its own.

    For some hundred at a time: all are looked through when the first of them may be due.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._bells: set[_Bell] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = math.inf
        # Of nobody: that of whoever sets an alarm holds what that one sends, and the loop keeps it for a minute.
        self._context = Context()

    def call_at(self, when: float, callback: Callable[[], object], /) -> Setting:
        """Call then."""
        bell = _Bell(when, callback, self._bells)
        self._bells.add(bell)
        # A timer that is early stays: it sets the next one.
        if when < self._rings_at:
            self._set(when)
        return bell

    def stop(self) -> None:
        """Call nothing more of what was set."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._rings_at, self._timer = math.inf, None
        now = self._loop.time() + EARLY
        for bell in sorted((each for each in self._bells if each.at <= now), key=lambda each: each.at):
            ring = bell.ring
            # Before it rings, and so that what it stops of the others does not.
            bell.cancel()
            ring()
        first = min((each.at for each in self._bells), default=math.inf)
        if first < self._rings_at:
            self._set(first)

    def _set(self, at: float) -> None:
        self.stop()
        self._rings_at = at
        self._timer = self._loop.call_at(at, self._look, context=self._context)


class _Bell:
    """What an `AlarmClock` is to call at a time."""

    __slots__ = ("_bells", "at", "ring")

    def __init__(self, at: float, ring: Callable[[], object], bells: set[_Bell]) -> None:
        self.at = at
        self.ring = ring
        self._bells = bells

    def cancel(self) -> None:
        self._bells.discard(self)
        # Who is rung holds this one, and a circle would wait for the collector.
        self.ring = _nothing


def _nothing() -> None:
    """What a bell does that was taken back."""


class Alarm:
    """Rings once, unless it is stopped before.

    Args:
        seconds: From now.
        ring: What to do then.
        since: Loop time from which they count instead, asked for when they are over: whatever came on meanwhile has
            its time anew, and costs no timer of its own.
        timers: What wakes it; None: the loop.
    """

    __slots__ = ("_at", "_loop", "_ring", "_seconds", "_setting", "_since", "_timers", "_turns")

    def __init__(
        self,
        seconds: float,
        ring: Callable[[], object],
        since: Callable[[], float] | None = None,
        timers: Timers | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._timers: Timers = timers or self._loop
        self._seconds = seconds
        self._ring = ring
        self._since = since
        self._turns = 0
        self._set(self._loop.time() + seconds)

    def stop(self) -> None:
        """Ring no more."""
        self._setting.cancel()

    def _set(self, at: float) -> None:
        self._at = at
        self._setting: Setting = self._timers.call_at(at, self._due)

    def _due(self) -> None:
        now = self._loop.time()
        if now - self._at > LATE:
            self._set(now + RESPITE)
        else:
            self._turns = TURNS
            self._turn()

    def _turn(self) -> None:
        self._turns -= 1
        if self._turns >= 0:
            self._setting = self._loop.call_soon(self._turn)
        elif self._since is not None and (at := self._since() + self._seconds) > self._loop.time():
            self._set(at)
        else:
            self._ring()


class Patience:
    """Ends the block around which it stands with a TimeoutError; arguments as an `Alarm`'s.

    As `asyncio.timeout`, and at the price of that for every request, which both together would double.
    """

    __slots__ = ("_alarm", "_cancelling", "_is_over", "_seconds", "_since", "_task", "_timers")

    def __init__(self, seconds: float, since: Callable[[], float] | None = None, timers: Timers | None = None) -> None:
        self._seconds = seconds
        self._since = since
        self._timers = timers
        self._is_over = False

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self._alarm = Alarm(self._seconds, self._end, self._since, self._timers)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._alarm.stop()
        # It holds this one, and a circle would wait for the collector after every request.
        del self._alarm
        # Whoever else has cancelled the task meanwhile wants more than the end of this block.
        if self._is_over and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def _end(self) -> None:
        self._is_over = True
        self._task.cancel()
