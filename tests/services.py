"""A service on loopback over a sandbox, and whoever asks it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

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


@asynccontextmanager
async def service(sandbox: Sandbox, folder: Path, **terms: Any) -> AsyncIterator[Asker]:
    """Serve over a sandbox while the block runs, with what is kept in a folder; `middlewares` look on."""
    middlewares = terms.pop("middlewares", ())
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
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            yield Asker(f"http://127.0.0.1:{runner.addresses[0][1]}", session)
        finally:
            await runner.cleanup()
