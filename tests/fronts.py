"""Proxies in front of a service, each with its habits, and whoever counts what comes in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TypeVar

import aiohttp
from aiohttp import web
from aiohttp.typedefs import Handler

HOP_BY_HOP = frozenset(("connection", "host", "content-length", "transfer-encoding", "keep-alive"))


class Counted:
    """A middleware that keeps the headers of each POST, whatever becomes of it."""

    def __init__(self) -> None:
        self.posts: list[Mapping[str, str]] = []

    @property
    def middleware(self) -> web.middleware:
        """It, for an application."""

        @web.middleware
        async def count(request: web.Request, handler: Handler) -> web.StreamResponse:
            if request.method == "POST":
                self.posts.append(dict(request.headers))
            return await handler(request)

        return count


class Front:
    """A proxy that leads to a service.

    Args:
        upstream: The service's address.
        session: By which it asks.
        patience: Seconds after which it says 504 with a page, as proxies do; None: it waits.
        keeps: True where it hears the service out for whoever has left it, or was told 504: the answer is lost with it.

    Attributes:
        url: Its own address.
        posts: How many it was sent.
    """

    def __init__(self, upstream: str, session: aiohttp.ClientSession, patience: float | None, keeps: bool) -> None:
        self.url = ""
        self.posts = 0
        self._upstream = upstream
        self._session = session
        self._patience = patience
        self._keeps = keeps
        self._asking: set[asyncio.Task[web.Response]] = set()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Lead one request on: an aiohttp handler."""
        self.posts += request.method == "POST"
        asking = asyncio.create_task(self._ask(request, await request.read()))
        self._asking.add(asking)
        asking.add_done_callback(self._asking.discard)
        try:
            return await asyncio.wait_for(asyncio.shield(asking), self._patience)
        except TimeoutError:
            return web.Response(status=504, text="<html><h1>504 Gateway Time-out</h1></html>", content_type="text/html")
        except aiohttp.ClientError:
            return web.Response(status=502, text="<html><h1>502 Bad Gateway</h1></html>", content_type="text/html")
        finally:
            if not self._keeps:
                asking.cancel()

    async def _ask(self, request: web.Request, body: bytes) -> web.Response:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
        url = f"{self._upstream}{request.path_qs}"
        async with self._session.request(request.method, url, data=body, headers=headers) as response:
            content = await response.read()
            passed = {name: value for name, value in response.headers.items() if name.lower() not in HOP_BY_HOP}
            return web.Response(status=response.status, body=content, headers=passed)

    async def heard_out(self) -> None:
        """Wait until the service has answered all that is asked for nobody any more."""
        while self._asking:
            await asyncio.wait(self._asking)


T = TypeVar("T", bound=Front)


@asynccontextmanager
async def front(
    upstream: str, *, patience: float | None = None, keeps: bool = False, kind: type[T] = Front
) -> AsyncIterator[T]:
    """Serve one while the block runs."""
    no_limits = {"timeout": aiohttp.ClientTimeout(), "connector": aiohttp.TCPConnector(limit=0)}
    async with aiohttp.ClientSession(**no_limits, auto_decompress=False) as session:
        made = kind(upstream, session, patience, keeps)
        application = web.Application()
        application.router.add_route("*", "/{tail:.*}", made.answer)
        terms = {"access_log": None, "handle_signals": False, "shutdown_timeout": 0.1}
        runner = web.AppRunner(application, **terms, handler_cancellation=not keeps)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            yield made
            await made.heard_out()
        finally:
            await runner.cleanup()
