"""What all open pages hear, each second while something changes: looked at and written once, however many they are."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextvars import Context

import msgspec

from .._watch.log import log

BEAT = b": nothing new\n\n"
"""What is said instead where nothing has changed for long, so that both ends know of each other: a comment."""


class Live:
    """The one ticker of all streams of events. It ticks while there are any.

    Args:
        look: What is to be shown, by name, each to be written as JSON. It is called at each tick.
        every: Seconds between two ticks.
        beats_after: Seconds after which something is said, though nothing has changed.
        most: Streams at once.

    Attributes:
        number: Of the newest event.
        beats: How often all were told that there is nothing new.
        is_over: True from `end` on.
    """

    def __init__(self, look: Callable[[], Mapping[str, object]], every: float, beats_after: float, most: int) -> None:
        self.number = 0
        self.beats = 0
        self.is_over = False
        self._look = look
        self._every = every
        self._beats_after = beats_after
        self._most = most
        self._streams: set[Stream] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._shown: Mapping[str, object] = {}
        self._news = b""
        self._whole: bytes | None = None
        self._quiet_for = 0.0

    def open(self) -> Stream | None:
        """A stream, to be closed; None: there are as many as can be, or it is over."""
        if self.is_over or len(self._streams) >= self._most:
            return None
        if self._timer is None:
            self._see()
            self._wait()
        stream = Stream(self)
        self._streams.add(stream)
        return stream

    def close(self, stream: Stream) -> None:
        """Forget a stream; without any, nobody looks."""
        self._streams.discard(stream)
        if not self._streams:
            self._stop()

    def end(self) -> None:
        """Let every stream end now, and open no other."""
        self.is_over = True
        self._stop()
        self._wake()

    def event(self, seen: int) -> bytes:
        """The newest event, for a stream that has seen one: what is new since, or everything."""
        if seen == self.number - 1 and seen:
            return self._news
        if self._whole is None:
            self._whole = _event(self._shown)
        return self._whole

    def _tick(self) -> None:
        self._wait()
        if self._see():
            self._quiet_for = 0.0
            self._wake()
            return
        self._quiet_for += self._every
        if self._quiet_for >= self._beats_after:
            self._quiet_for = 0.0
            self.beats += 1
            self._wake()

    def _see(self) -> bool:
        """Look; returns True where something has changed."""
        try:
            shown = self._look()
            news = {name: value for name, value in shown.items() if self._shown.get(name) != value}
            if not news and self.number:
                return False
            self._news = _event(news)
        except Exception as error:  # whatever cannot be looked at now: no page is left alone for that
            log(logging.WARNING, "the page cannot be brought up to date: %s", error, exc_info=True)
            return False
        self._shown, self._whole = shown, None
        self.number += 1
        return True

    def _wait(self) -> None:
        # In a context of nobody: that of the request that has opened the first stream would be kept.
        self._timer = asyncio.get_running_loop().call_later(self._every, self._tick, context=Context())

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None

    def _wake(self) -> None:
        for stream in self._streams:
            stream.wake.set()


class Stream:
    """What one page hears. Events that it is too slow for it misses; the next one tells it everything."""

    def __init__(self, live: Live) -> None:
        self.wake = asyncio.Event()
        self._live = live
        self._seen = 0
        self._beats = live.beats

    async def next(self) -> bytes | None:
        """The next event, or a beat; None at the end."""
        while not self._live.is_over:
            if self._seen != self._live.number:
                event = self._live.event(self._seen)
                self._seen, self._beats = self._live.number, self._live.beats
                return event
            if self._beats != self._live.beats:
                self._beats = self._live.beats
                return BEAT
            self.wake.clear()
            await self.wake.wait()
        return None

    def close(self) -> None:
        """Hear nothing more."""
        self._live.close(self)


def _event(shown: Mapping[str, object]) -> bytes:
    """As a server-sent event; JSON has no line ends."""
    return b"data: " + msgspec.json.encode(shown) + b"\n\n"
