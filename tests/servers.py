"""Small servers on loopback: some misbehave in ways the sandbox does not, some take the sandbox's callbacks."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from aiohttp import web

from imagen_async import Account, Callback, Client, Limits
from imagen_async.sandbox import Sandbox
from imagen_async.webhooks import Receiver

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def served(handler: Handler, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Answer every request on loopback with one handler; yields the base URL."""
    application = web.Application()
    application.router.add_route("*", "/{tail:.*}", handler)
    runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        scheme = "http" if tls is None else "https"
        yield f"{scheme}://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@contextmanager
def free_socket() -> Iterator[tuple[socket.socket, int]]:
    """A socket on loopback that nobody else has, and its port: for an address that must be known beforehand."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        yield found, found.getsockname()[1]


@asynccontextmanager
async def serving(application: web.Application, found: socket.socket) -> AsyncIterator[None]:
    """Serve an application at a socket while the block runs."""
    runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.SockSite(runner, found).start()
        yield
    finally:
        await runner.cleanup()


@asynccontextmanager
async def called_back(
    sandbox: Sandbox,
    *providers: str,
    key: str | None = None,
    limits: Limits | None = None,
    **settings: Any,
) -> AsyncIterator[Client]:
    """An open client of a sandbox that calls it back, as the sandbox itself or as these providers."""
    accounts = [
        Account(name, api_key=sandbox.key, base_url=sandbox.url_of(name), limits=limits)
        for name in providers or ["sandbox"]
    ]
    with free_socket() as (found, port):
        callback = Callback(f"http://127.0.0.1:{port}/imagen", signing_key=key)
        client = Client(*accounts, callback=callback, **settings)
        async with serving(Receiver(client).application(), found), client:
            yield client
