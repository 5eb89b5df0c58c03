"""Small servers on loopback: some misbehave in ways the sandbox does not, some take the sandbox's callbacks."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from aiohttp import web

from imagen_async import Account, Callback, Client
from imagen_async.sandbox import Sandbox
from imagen_async.webhooks import Receiver

Handler = Callable[[web.Request], web.StreamResponse | Awaitable[web.StreamResponse]]


@contextmanager
def free_socket() -> Iterator[tuple[socket.socket, int]]:
    """A socket on loopback that nobody else has, and its port: for an address that must be known beforehand."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        yield found, found.getsockname()[1]


@asynccontextmanager
async def serving(
    application: web.Application, found: socket.socket, tls: ssl.SSLContext | None = None
) -> AsyncIterator[None]:
    """Serve an application at a socket while the block runs."""
    runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.SockSite(runner, found, ssl_context=tls).start()
        yield
    finally:
        await runner.cleanup()


@asynccontextmanager
async def served(handler: Handler, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Answer every request on loopback with one handler; yields the base URL."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = handler(request)
        return response if isinstance(response, web.StreamResponse) else await response

    application = web.Application()
    application.router.add_route("*", "/{tail:.*}", answer)
    with free_socket() as (found, port):
        async with serving(application, found, tls):
            yield f"{'http' if tls is None else 'https'}://127.0.0.1:{port}"


async def endless(request: web.Request, chunk: bytes = bytes(65536), pause: float = 0.0) -> web.StreamResponse:
    """An answer that goes on until nobody reads it any more."""
    response = web.StreamResponse()
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        while True:
            await response.write(chunk)
            await asyncio.sleep(pause)
    return response


async def broken_off(request: web.Request, body: bytes = b"") -> web.StreamResponse:
    """An answer that ends before the length that it told, or before it began."""
    await request.read()
    assert request.transport is not None
    if body:
        response = web.StreamResponse(headers={"Content-Length": str(len(body) + 10)})
        await response.prepare(request)
        await response.write(body)
    request.transport.abort()
    return web.Response()


async def hang(request: web.Request) -> web.StreamResponse:
    """Say nothing."""
    await asyncio.Event().wait()
    return web.Response()


@asynccontextmanager
async def called_back(
    sandbox: Sandbox | None, *providers: str, key: str | None = None, **settings: Any
) -> AsyncIterator[Client]:
    """An open client that is called back by a sandbox, as itself or as these providers; None: by one of its own."""
    accounts: list[Any] = list(providers or ["sandbox"])
    if sandbox is not None:
        accounts = [Account(name, sandbox.key, sandbox.url_of(name)) for name in accounts]
    with free_socket() as (found, port):
        callback = Callback(f"http://127.0.0.1:{port}/imagen", signing_key=key)
        client = Client(*accounts, callback=callback, **settings)
        async with serving(Receiver(client).application(), found), client:
            yield client
