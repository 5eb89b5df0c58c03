"""Limits of time that let what has arrived be read before they count.

A process stands still at times: Ctrl-Z, a suspended laptop, a frozen machine, a callback that blocks the loop. What
came meanwhile waits in the kernel, and when the process goes on, the loop finds it there together with every timer
that is past. A timer that counts at once throws the answer away, which may name a task that is paid for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

TURNS = 64
"""Turns of the loop after which what waited in the kernel was read: each carries every answer on by one step."""

LATE = 0.25
"""Seconds after its time from which an alarm tells that the process stood still."""

RESPITE = 2.0
"""Seconds more for what was timed meanwhile: the other end goes on from where it was, too."""


class Alarm:
    """Rings once, unless it is stopped before.

    Args:
        seconds: From now.
        ring: What to do then.
        since: Loop time from which they count instead, asked for when they are over: whatever came on meanwhile has
            its time anew, and costs no timer of its own.
    """

    __slots__ = ("_at", "_handle", "_loop", "_ring", "_seconds", "_since", "_turns")

    def __init__(self, seconds: float, ring: Callable[[], object], since: Callable[[], float] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._seconds = seconds
        self._ring = ring
        self._since = since
        self._turns = 0
        self._at = self._loop.time() + seconds
        self._handle: asyncio.Handle = self._loop.call_at(self._at, self._due)

    def stop(self) -> None:
        """Ring no more."""
        self._handle.cancel()

    def _set(self, at: float) -> None:
        self._at = at
        self._handle = self._loop.call_at(at, self._due)

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
            self._handle = self._loop.call_soon(self._turn)
        elif self._since is not None and (at := self._since() + self._seconds) > self._loop.time():
            self._set(at)
        else:
            self._ring()


class Patience:
    """Ends the block around which it stands with a TimeoutError; arguments as an `Alarm`'s.

    As `asyncio.timeout`, and at the price of that for every request, which both together would double.
    """

    __slots__ = ("_alarm", "_cancelling", "_is_over", "_seconds", "_since", "_task")

    def __init__(self, seconds: float, since: Callable[[], float] | None = None) -> None:
        self._seconds = seconds
        self._since = since
        self._is_over = False

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self._alarm = Alarm(self._seconds, self._end, self._since)
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
