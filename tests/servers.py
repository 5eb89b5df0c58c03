"""Small servers on loopback: some misbehave in ways the sandbox does not, some take the sandbox's callbacks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio
import trustme
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


class Lines:
    """A server that tells of its connections: what came on each, by its number from 1, and a way to misuse it."""

    def __init__(self, status: str, head: str) -> None:
        self.url = ""
        self.requests: list[tuple[int, str]] = []
        self.opened: list[asyncio.StreamWriter] = []
        self._status, self._head = status, head

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer each request with the number of its connection."""
        self.opened.append(writer)
        number = len(self.opened)
        with contextlib.suppress(OSError, EOFError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.requests.append((number, head.split()[0].decode()))
                await reader.readexactly(2 * head.startswith(b"POST"))
                answer = f"HTTP/1.1 {self._status}\r\n{self._head}Content-Length: 1\r\n\r\n{number}"
                writer.write(answer.encode("latin-1"))
        writer.close()

    def speak(self, number: int, words: bytes) -> None:
        """Write on a connection on which nothing was asked, or, without words, end it: the client's kernel has it."""
        with socket.socket(fileno=os.dup(self.opened[number - 1].get_extra_info("socket").fileno())) as line:
            if words:
                line.send(words)
            else:
                line.shutdown(socket.SHUT_RDWR)


async def _begin_after(listening: asyncio.Server, event: asyncio.Event) -> None:
    await event.wait()
    await listening.start_serving()


@asynccontextmanager
async def lines(
    *, tls: ssl.SSLContext | None = None, status: str = "200 OK", head: str = "", after: asyncio.Event | None = None
) -> AsyncIterator[Lines]:
    """Serve one while the block runs; `after` that event, until which connections are made and no more."""
    server = Lines(status, head)
    found = socket.create_server(("127.0.0.1", 0))
    listening = await asyncio.start_server(server.serve, sock=found, ssl=tls, start_serving=after is None)
    async with listening, anyio.create_task_group() as group:
        server.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{found.getsockname()[1]}"
        if after is not None:
            group.start_soon(_begin_after, listening, after)
        yield server
        group.cancel_scope.cancel()
        for line in server.opened:
            line.close()
            with contextlib.suppress(OSError):
                await line.wait_closed()


class Relay:
    """A proxy that leads every name to one server on loopback, and keeps what it is asked."""

    def __init__(self, url: str, status: str, scheme: str) -> None:
        self.url, self.heads = "", list[str]()
        self.scheme = scheme
        self._port, self._status = int(url.rpartition(":")[2]), status
        self._writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Lead one connection, or answer in its place."""
        self._writers.append(writer)
        with contextlib.suppress(OSError, EOFError):
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head.decode())
            if self._status != "200 OK":
                writer.write(f"HTTP/1.1 {self._status}\r\nContent-Length: 0\r\n\r\n".encode())
            else:
                there, onward = await asyncio.open_connection("127.0.0.1", self._port)
                self._writers.append(onward)
                (writer if head.startswith(b"CONNECT") else onward).write(
                    b"HTTP/1.1 200 OK\r\n\r\n" if head.startswith(b"CONNECT") else head
                )
                await asyncio.gather(self._pump(reader, onward), self._pump(there, writer))
        writer.close()

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            target.write(data)
        target.close()

    def close(self) -> None:
        """End what is still led."""
        for writer in self._writers:
            writer.close()


@asynccontextmanager
async def relayed(url: str, *, status: str = "200 OK", tls: ssl.SSLContext | None = None) -> AsyncIterator[Relay]:
    """Serve a proxy that leads to a server; another status than 200 is its answer to everything."""
    relay = Relay(url, status, "http" if tls is None else "https")
    async with await asyncio.start_server(relay.serve, "127.0.0.1", ssl=tls) as listening:
        relay.url = f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        yield relay
        relay.close()


def of_loopback(*names: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """TLS for a server on loopback, also by other names, and for a client that trusts it."""
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1", *names).configure_cert(server)
    authority.configure_trust(client)
    return server, client


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
