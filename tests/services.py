"""A service on loopback over a sandbox, and whoever asks it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from servers import broken_off, hang, served

from imagen_async import Account, Client
from imagen_async.sandbox import Sandbox
from imagen_async.service import application

GENERATIONS = "/v1/images/generations"


class Answer:
    """An answer that has come whole."""

    def __init__(self, status: int, headers: dict[str, str], text: str) -> None:
        self.status = status
        self.headers = headers
        self.text = text

    @property
    def body(self) -> dict[str, Any]:
        """Its JSON object."""
        found: dict[str, Any] = json.loads(self.text)
        return found

    @property
    def error(self) -> dict[str, Any]:
        """The error in it."""
        found: dict[str, Any] = self.body["error"]
        return found

    @property
    def urls(self) -> list[str]:
        """Where its pictures are."""
        return [each["url"] for each in self.body["data"]]


class Asker:
    """A program that asks a service."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self.session = session

    async def ask(self, method: str, path: str, headers: dict[str, str] | None = None, **terms: Any) -> Answer:
        """Ask, and read the whole answer."""
        async with self.session.request(method, f"{self.url}{path}", headers=headers, **terms) as response:
            return Answer(response.status, dict(response.headers), await response.text())

    async def over(self, path: str, headers: dict[str, str] | None = None) -> Answer:
        """How an order stands once it is not at work any more."""
        while (answer := await self.ask("GET", path, headers)).body["status"] in ("queued", "running"):
            await asyncio.sleep(0.02)
        return answer

    async def generate(self, prompt: str = "a fox", headers: dict[str, str] | None = None, **fields: Any) -> Answer:
        """Ask for pictures, by their addresses unless it says otherwise."""
        body = {"response_format": "url", "prompt": prompt, **fields}
        return await self.ask("POST", GENERATIONS, headers, json=body)


class Between:
    """What stands between a client and a service, and does to the calls that come what it was told to.

    Args:
        url: The service's.
        session: By which it is asked.

    Attributes:
        faults: By path, what is to happen to the next calls there; None: nothing.
        calls: How many came, by path.
        tasks: How many tasks, or questions, came in these.
    """

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self.session = session
        self.faults: dict[str, list[str | None]] = {}
        self.calls: Counter[str] = Counter()
        self.tasks: Counter[str] = Counter()

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        """Pass a call on, or do to it what is its turn."""
        self.calls[request.path] += 1
        body = await request.read()
        if request.path.startswith("/v1/tasks") and body:
            self.tasks[request.path] += len(next(iter(json.loads(body).values())))
        waiting = self.faults.get(request.path, [])
        fault = waiting.pop(0) if waiting else None
        if fault in (*BEFORE, *REFUSALS):
            return await _broken(request, fault, b"")
        headers = {name: request.headers[name] for name in ("Authorization", "Content-Type") if name in request.headers}
        headers["Host"] = request.headers["Host"]
        url = f"{self.url}{request.path}"
        async with self.session.request(request.method, url, data=body or None, headers=headers) as response:
            if response.content_type == "text/event-stream":
                return await _passed_on(request, response, is_cut=fault is not None)
            answer = await response.read()
            if fault is not None:
                return await _broken(request, fault, answer)
            return web.Response(status=response.status, body=answer, content_type=response.content_type)


BEFORE = ("reset before", "502", "429", "503")
"""What happens to a call of which the service never hears."""

REFUSALS = ("404", "413")
"""The same, in which what stands there says that there is no such service, or that it takes no such body."""

AFTER = ("reset after", "504", "truncated", "garbage", "hang")
"""What happens to the answer of a call that the service has heard."""


async def _passed_on(request: web.Request, source: aiohttp.ClientResponse, *, is_cut: bool) -> web.StreamResponse:
    """A stream as it comes; one that is cut ends after its first words."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    async for piece in source.content.iter_any():
        await response.write(piece)
        if is_cut:
            break
    return response


async def _broken(request: web.Request, fault: str, answer: bytes) -> web.StreamResponse:
    match fault:
        case "502" | "504" | "503" | "404" | "413":
            return web.Response(status=int(fault), text="<html>Bad gateway</html>", content_type="text/html")
        case "429":
            return web.Response(status=429, text="slow down", headers={"Retry-After": "0"})
        case "garbage":
            return web.Response(text="<html>welcome</html>", content_type="text/html")
        case "hang":
            return await hang(request)
        case "truncated":
            return await broken_off(request, answer[: len(answer) // 2] or b"x")
    return await broken_off(request)


@asynccontextmanager
async def between(asker: Asker) -> AsyncIterator[tuple[Between, str]]:
    """Stand between a service and whoever asks at the address that comes with it."""
    proxy = Between(asker.url, asker.session)
    async with served(proxy) as url:
        yield proxy, url


def client_through(url: str, **settings: Any) -> Client:
    """A client of a service at an address."""
    key = settings.pop("api_key", None)
    return Client(Account("served", api_key=key, base_url=url), **settings)


@asynccontextmanager
async def service(sandbox: Sandbox, folder: Path, **terms: Any) -> AsyncIterator[Asker]:
    """Serve over a sandbox while the block runs, with what is kept in a folder; `middlewares` look on."""
    middlewares, port = terms.pop("middlewares", ()), terms.pop("port", 0)
    folder.mkdir(exist_ok=True)
    kept = {"journal": folder / "run.db", "save_to": folder, "shared": False, **terms.pop("client", {})}
    accounts = terms.pop("accounts", [Account("sandbox", api_key=sandbox.key, base_url=sandbox.url)])
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session, Client(*accounts, **kept) as client:
        made = application(client, **terms)
        made.middlewares[:0] = middlewares
        runner = web.AppRunner(made, access_log=None, handle_signals=False, handler_cancellation=True)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", port, reuse_address=True).start()
            yield Asker(f"http://127.0.0.1:{runner.addresses[0][1]}", session)
        finally:
            await runner.cleanup()
