"""The service and what stands around it: known programs that ask it, proxies in front, a file host that listens."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from fronts import Counted, Front, front
from inner import paint
from programs import LibreChat, N8n, OpenWebUI
from servers import served
from services import Asker, service

from imagen_async import Account
from imagen_async.sandbox import Latency, Sandbox
from imagen_async.service import new_caller

PNG = b"\x89PNG\r\n\x1a\n"
FOX, HERON = (paint(name, "1:1", "1") for name in ("a fox", "a heron"))
ALIASES = {
    "gpt-image-1": "nano-banana-2",
    "gpt-image-1-mini": "imagen4-fast",
    "dall-e-2": "imagen4-fast",
    "dall-e-3": "imagen4",
}


class Elsewhere:
    """A provider whose pictures lie at another host than its API; both keep what they are asked."""

    def __init__(self, sandbox: Sandbox, session: aiohttp.ClientSession) -> None:
        self.at_api: list[Mapping[str, str]] = []
        self.at_files: list[tuple[str, Mapping[str, str]]] = []
        self.files = self.api = ""
        self._sandbox = sandbox
        self._session = session

    async def file(self, request: web.Request) -> web.StreamResponse:
        """Hand out a picture: an aiohttp handler."""
        self.at_files.append((request.path_qs, dict(request.headers)))
        return await self._led_on(request)

    async def call(self, request: web.Request) -> web.StreamResponse:
        """Answer as the API: an aiohttp handler."""
        self.at_api.append(dict(request.headers))
        return await self._led_on(request)

    async def _led_on(self, request: web.Request) -> web.Response:
        known = {name: request.headers[name] for name in ("Authorization", "Content-Type") if name in request.headers}
        there, here = f"{self._sandbox.url}/files".encode(), f"{self.files}/files".encode()
        body = (await request.read()).replace(here, there)
        url = f"{self._sandbox.url}{request.path_qs}"
        async with self._session.request(request.method, url, data=body, headers=known) as response:
            content = (await response.read()).replace(there, here)
            return web.Response(status=response.status, body=content, headers={"Content-Type": response.content_type})


@asynccontextmanager
async def elsewhere(sandbox: Sandbox) -> AsyncIterator[Elsewhere]:
    """Serve one while the block runs."""
    async with aiohttp.ClientSession() as session:
        made = Elsewhere(sandbox, session)
        async with served(made.file) as made.files, served(made.call) as made.api:
            yield made


PROGRAMS: dict[str, Any] = {
    "open-webui": lambda *terms: OpenWebUI(*terms).generate("imagen4-fast"),
    "open-webui, nothing set": lambda *terms: OpenWebUI(*terms).generate("dall-e-2"),
    "open-webui, gpt-image": lambda *terms: OpenWebUI(*terms).generate("gpt-image-1", quality="high"),
    "open-webui, addresses": lambda *terms: OpenWebUI(*terms).generate("imagen4-fast", response_format="url"),
    "open-webui, both": lambda *terms: OpenWebUI(*terms).generate("imagen4-fast", response_format=None),
    "open-webui, an edit": lambda *terms: OpenWebUI(*terms).edit("nano-banana-2", [FOX]),
    "open-webui, an edit of two": lambda *terms: OpenWebUI(*terms).edit("nano-banana-2", [FOX, HERON]),
    "librechat": lambda *terms: LibreChat(*terms).generate(),
    "librechat, an edit": lambda *terms: LibreChat(*terms).edit(FOX),
    "n8n": lambda *terms: N8n(*terms).generate("gpt-image-1-mini"),
    "n8n, as it was": lambda *terms: N8n(*terms).generate("dall-e-3", quality="hd", size="1024x1792", style="vivid"),
    "n8n, addresses": lambda *terms: N8n(*terms).generate("dall-e-3", returnImageUrls=True),
}


@pytest.mark.parametrize("name", PROGRAMS)
async def test_a_known_program_has_its_picture_and_no_key_goes_elsewhere(
    name: str, imagen_sandbox: Sandbox, tmp_path: Path
) -> None:
    """What the program sends is one task, and what it reads a whole picture; the host of the files hears no key."""
    callers = tmp_path / "callers.toml"
    key = new_caller(callers, "shop").key
    counted = Counted()
    async with elsewhere(imagen_sandbox) as provider, aiohttp.ClientSession() as session:
        accounts = [Account("sandbox", api_key=imagen_sandbox.key, base_url=provider.api)]
        terms = {"accounts": accounts, "callers": callers, "aliases": ALIASES, "middlewares": [counted.middleware]}
        async with service(imagen_sandbox, tmp_path / "out", **terms) as asker:
            found = await PROGRAMS[name](session, f"{asker.url}/v1", key)
    assert [picture[:8] for picture in found] == [PNG]
    assert (len(counted.posts), len(imagen_sandbox.ledger.tasks)) == (1, 1)
    assert provider.at_files
    for asked, headers in provider.at_files:
        assert "Authorization" not in headers
        assert not [secret for secret in (key, imagen_sandbox.key) if secret in f"{asked} {headers}"]
    # The account's key goes to its API alone, and the caller's stays here.
    assert {headers["Authorization"] for headers in provider.at_api} == {f"Bearer {imagen_sandbox.key}"}
    assert not [headers for headers in provider.at_api if key in str(headers)]
    assert imagen_sandbox.ledger.key_leaks == 0


async def test_a_program_is_told_what_is_wrong(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """A wrong key and a model that there is not are statuses that the program shows, and nothing is sent."""
    callers = tmp_path / "callers.toml"
    key = new_caller(callers, "shop").key
    wrong = ((key, "dall-e-2", 404), ("sk-none", "imagen4-fast", 401), ("", "imagen4-fast", 401))
    async with service(imagen_sandbox, tmp_path / "out", callers=callers) as asker, aiohttp.ClientSession() as session:
        for sent, model, status in wrong:
            with pytest.raises(aiohttp.ClientResponseError) as caught:
                await OpenWebUI(session, f"{asker.url}/v1", sent).generate(model)
            assert caught.value.status == status
    assert imagen_sandbox.ledger.creates == []


class Behind:
    """A client of a service that stands behind a proxy."""

    def __init__(self, asker: Asker, counted: Counted, sandbox: Sandbox, proxy: Front) -> None:
        self._through = Asker(proxy.url, asker.session)
        self._counted = counted
        self._sandbox = sandbox

    async def give_up(self, tasks: int, **headers: str) -> None:
        """Ask, and leave once the service has heard that and so many tasks are made."""
        own = str(uuid.uuid4())
        asking = asyncio.create_task(self._through.generate(headers={**headers, "X-Try": own}))
        while len(self._sandbox.ledger.tasks) < tasks or own not in (each.get("X-Try") for each in self._counted.posts):
            await asyncio.sleep(0.01)
        asking.cancel()
        await asyncio.wait([asking])

    async def ask(self, **headers: str) -> list[str]:
        """Ask, and wait for the picture."""
        return (await self._through.generate(headers=headers)).urls


@asynccontextmanager
async def behind(folder: Path, latency: float, *, keeps: bool) -> AsyncIterator[tuple[Behind, Sandbox, Front]]:
    """Who asks a service through a proxy, while the block runs."""
    counted = Counted()
    async with Sandbox(latency=Latency(median=latency, sigma=0)) as sandbox:
        async with service(sandbox, folder, grace=0.0, middlewares=[counted.middleware]) as asker:
            async with front(asker.url, keeps=keeps) as proxy:
                yield Behind(asker, counted, sandbox, proxy), sandbox, proxy


REPEAT = "x-stainless-retry-count"


@pytest.mark.parametrize("keeps", [False, True], ids=["lets go", "takes the answer"])
async def test_behind_a_proxy_a_repeat_is_the_same(keeps: bool, tmp_path: Path) -> None:
    """Whoever says that it asks again has its picture for one task, whatever the proxy does with the first answers."""
    async with behind(tmp_path, 1.5, keeps=keeps) as (client, sandbox, proxy):
        for number in range(3):
            await client.give_up(1, **{REPEAT: str(number)})
        assert len(await client.ask(**{REPEAT: "3"})) == 1
        await proxy.heard_out()
        # Also once the proxy was given the answer.
        assert len(await client.ask(**{REPEAT: "4"})) == 1
        assert len(sandbox.ledger.tasks) == 1


async def test_behind_a_proxy_that_lets_go_nobody_need_say_that_it_asks_again(tmp_path: Path) -> None:
    """There what was left is free to be found, also by whoever sends no such header."""
    async with behind(tmp_path, 1.5, keeps=False) as (client, sandbox, _):
        for _ in range(3):
            await client.give_up(1)
        assert len(await client.ask()) == 1
        assert len(sandbox.ledger.tasks) == 1


async def test_the_limit_behind_a_proxy_that_takes_the_answer(tmp_path: Path) -> None:
    """Who does not say that it asks again pays for each try there; by an Idempotency-Key all of them are one."""
    async with behind(tmp_path, 1.5, keeps=True) as (client, sandbox, _):
        for number in range(3):
            await client.give_up(number + 1)
        for _ in range(3):
            await client.give_up(4, **{"Idempotency-Key": "order-17"})
        assert len(await client.ask(**{"Idempotency-Key": "order-17"})) == 1
        assert len(sandbox.ledger.tasks) == 4


async def test_behind_a_proxy_equal_requests_that_are_repeated_stay_apart(tmp_path: Path) -> None:
    """Four times the same at once, each asked for again, and again: four tasks, and each caller has another picture."""
    async with behind(tmp_path, 1.5, keeps=True) as (client, sandbox, _):
        for number in range(3):
            repeat = {REPEAT: str(number)}
            await asyncio.gather(*(client.give_up(4, **repeat) for _ in range(4)))
        found = await asyncio.gather(*(client.ask(**{REPEAT: "3"}) for _ in range(4)))
        assert len({url for urls in found for url in urls}) == 4
        assert len(sandbox.ledger.tasks) == 4
