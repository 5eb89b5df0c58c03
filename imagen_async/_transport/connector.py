"""Which connection a request takes: the one used last, and for a create none whose end may be on its way."""

from __future__ import annotations

import re
import ssl
import time
from collections import deque
from typing import Any

import aiohttp
from aiohttp.abc import ResolveResult
from aiohttp.client_proto import ResponseHandler
from yarl import URL

from .._addresses import is_public
from .._patience import Patience
from .departure import OUTGOING, may_have_ended
from .resolver import Resolver

KEEP_ALIVE = 75.0
"""Seconds that an idle connection stays open: longer than any poll interval, for a new one costs ten requests."""

FIT_FOR_CREATE = 4.0
"""Seconds that a connection may have been idle before a create: many servers close theirs after 5, without a word."""

_TIMEOUT = re.compile(r"timeout\s*=\s*(\d{1,9})", re.ASCII | re.IGNORECASE)

_Idle = deque[tuple[ResponseHandler, float]]


class NotPublic(Exception):
    """A host leads to no address of the Internet, and none was connected to; its text is what it leads to."""


class Connector(aiohttp.TCPConnector):
    """aiohttp's, with its own order, and its own time for connecting.

    Args:
        limit: Connections in use at once.
        connect_timeout: Seconds to get a new one, with DNS and TLS.
        ssl: As in SessionSettings.
        only_public: Connect to addresses of the Internet alone, whatever name leads to others; raises NotPublic.
    """

    def __init__(
        self, *, limit: int, connect_timeout: float, ssl: ssl.SSLContext | bool, only_public: bool = False
    ) -> None:
        super().__init__(
            limit=limit,
            # aiohttp's own 15 s are shorter than the time between two questions may be.
            keepalive_timeout=KEEP_ALIVE,
            # On purpose: aiodns, which aiohttp takes silently once it is installed, has open bugs.
            resolver=Resolver(),
            ssl=ssl,
        )
        self._only_public = only_public
        # It ends with this one, whose only user it has.
        self._resolver_owner = True
        self._connect_timeout = connect_timeout
        self._fit_for = FIT_FOR_CREATE
        self._fit_since = 0.0
        self._suspended = _suspended()

    def hear_keep_alive(self, header: str) -> None:
        """Learn from an answer's Keep-Alive header after how long the server closes an idle connection."""
        told = _TIMEOUT.search(header)
        if told is not None:
            self._fit_for = min(FIT_FOR_CREATE, int(told[1]) - 1.0)

    async def connect(self, req: Any, traces: Any, timeout: Any) -> Any:  # noqa: ASYNC109 - as aiohttp calls it
        """Get a connection for a request."""
        connection = await super().connect(req, traces, timeout)
        departure = OUTGOING.get()
        departure.is_on_line = departure.is_create
        if not departure.is_create:
            # It is written now.
            departure.left_at = self._loop.time()
        return connection

    async def peer_of(self, address: URL) -> str:
        """The IP address that is connected to for an address, with TLS where that has it; sends nothing."""
        request = aiohttp.ClientRequest("GET", address, loop=self._loop)
        connection = await super().connect(request, [], aiohttp.ClientTimeout(total=None))
        try:
            assert connection.transport is not None
            return str(connection.transport.get_extra_info("peername")[0])
        finally:
            connection.close()

    def _convert_hosts_to_addr_infos(self, hosts: list[ResolveResult]) -> Any:
        # The last step before they are dialled: what a name leads to may be another address each time.
        found = [each for each in hosts if not self._only_public or is_public(each["host"])]
        if hosts and not found:
            raise NotPublic(", ".join(each["host"] for each in hosts))
        return super()._convert_hosts_to_addr_infos(found)

    async def _create_connection(self, *request: Any, **terms: Any) -> ResponseHandler:
        with Patience(self._connect_timeout):
            return await super()._create_connection(*request, **terms)

    async def _get(self, key: Any, traces: Any) -> Any:
        idle, departure = self._conns.get(key), OUTGOING.get()
        if idle is not None:
            is_create = departure.is_create
            is_fit = self._has_fit(idle, looks=departure.is_again) if is_create else _has_live(idle, looks=True)
            if not idle:
                del self._conns[key]
            if not is_fit:
                return None
        return await super()._get(key, traces)

    def _has_fit(self, idle: _Idle, *, looks: bool) -> bool:
        """Say whether the idle one used last will do for a create; `looks` where an end was met: others are closed."""
        # What has been read of one is told by nothing later on; for what was not, it is looked before it leaves.
        if not _has_live(idle, looks=looks):
            return False
        now, suspended = time.monotonic(), _suspended()
        # What was idle while the machine slept is older than it seems, and its end may never have come through.
        if suspended > self._suspended + 1:
            self._fit_since = now
        self._suspended = suspended
        if idle[0][1] >= max(self._fit_since, now - self._fit_for):
            return True
        # They still do for questions; a new one that would be one too many takes the place of the oldest.
        if len(idle) + len(self._acquired) >= self._limit:
            idle.pop()[0].close()
        return False

    def _release(self, key: Any, protocol: ResponseHandler, *, should_close: bool = False) -> None:
        super()._release(key, protocol, should_close=should_close)
        idle = self._conns.get(key)
        # aiohttp takes the first, which has been idle for longest.
        if idle and idle[-1][0] is protocol:
            idle.rotate(1)


def _has_live(idle: _Idle, *, looks: bool) -> bool:
    """Say whether an idle one is left once those are closed that have ended; `looks` for an end that was not read yet.

    What is free to repeat is looked after, too: nothing sends again what was lost on one that is known to have ended.
    """
    while idle and (may_have_ended(idle[0][0]) if looks else idle[0][0].should_close):
        idle.popleft()[0].close()
    return bool(idle)


def _suspended() -> float:
    """Seconds by which the wall clock is ahead of that which stands still while the machine sleeps."""
    return time.time() - time.monotonic()
