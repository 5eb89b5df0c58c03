"""Which hosts of files have asked to be left alone, and until when: that holds every download from there."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import aiohttp

from .._core.answer_headers import retry_after

MOST_HOSTS = 256
"""Hosts whose pauses are remembered: an answer may name any number of them."""

LONGEST_PAUSE = 600.0
"""Seconds that a host can hold its downloads for: links die, many of them after 20 minutes."""


class HostPauses:
    """The pauses of one session."""

    def __init__(self) -> None:
        self._until: OrderedDict[str, float] = OrderedDict()

    @asynccontextmanager
    async def over(self, url: str) -> AsyncIterator[None]:
        """Begin the block once an address's host may be asked; whoever calls sets the limit of time."""
        host = _host(url)
        left = self._left(host)
        while left > 0:
            await asyncio.sleep(left)
            # Anew each time: who was let go before may have met the next pause.
            left = self._left(host)
        yield

    def _left(self, host: str) -> float:
        return self._until.get(host, 0.0) - asyncio.get_running_loop().time()

    def hear(self, url: str, response: aiohttp.ClientResponse) -> None:
        """Learn from an answer to that address, also where redirects have led to another host."""
        # Mostly 429 or 503; an edge says so in words of its own.
        if response.ok:
            return
        pause = min(retry_after(response.headers, time.time()) or 0.0, LONGEST_PAUSE)
        until = asyncio.get_running_loop().time() + pause
        for host in {_host(url), response.url.raw_authority.lower()} if pause else ():
            self._until[host] = max(until, self._until.pop(host, 0.0))
            if len(self._until) > MOST_HOSTS:
                self._until.popitem(last=False)


def _host(url: str) -> str:
    try:
        return urlsplit(url.strip()).netloc.rpartition("@")[2].lower()
    except ValueError:
        return ""
