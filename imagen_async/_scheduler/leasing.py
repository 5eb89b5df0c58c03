"""Waits for places of limits that others share, whenever the plan has requests and none at hand."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

import anyio

from .._clock import now
from .._core.limiter import Limiter
from .._plain_group import PlainGroup
from .._watch.log import log

AGAIN = 1.0
"""Seconds after a lease that failed until the next try: without a place nothing is sent meanwhile."""

REST = 0.05
"""Seconds after a lease that brought nothing until the next one: it should have waited by itself."""


class Leasing:
    """Awaits places and has the plan look at what came.

    Args:
        group: Where the waiting goes on.
        notice: Has the plan looked at.
    """

    def __init__(self, group: PlainGroup, notice: Callable[[], None]) -> None:
        self._group = group
        self._notice = notice
        # By their ids: a limit of the user's own may have no hash.
        self._awaited: set[int] = set()

    def look(self, wanted: Iterable[tuple[Limiter, int]]) -> None:
        """Wait for places of these limits, for so many requests each; one wait at a time for each."""
        for limiter, count in wanted:
            if id(limiter) not in self._awaited:
                self._awaited.add(id(limiter))
                self._group.start_soon(self._lease, limiter, count)

    async def _lease(self, limiter: Limiter, count: int) -> None:
        try:
            await limiter.lease(count)
            if limiter.ready_at(now()) > now():
                await anyio.sleep(REST)
        except Exception:  # somebody else's: a limit that fails must not end the client, and nothing goes without it
            log(logging.WARNING, "places of a shared limit could not be had; they are asked for again", exc_info=True)
            await anyio.sleep(AGAIN)
        finally:
            self._awaited.discard(id(limiter))
        self._notice()
