"""The sandbox on loopback: real HTTP over what the service decides."""

from __future__ import annotations

import asyncio
import functools
import math
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

import aiohttp
import anyio
from aiohttp import web

from .._accounts import SANDBOX_KEY
from .._core.provider import Limits, Provider
from .._core.wire import Operation
from .._off_loop import OffLoop
from .._plain_group import PlainGroup
from ..providers import PROVIDERS, SANDBOX
from ._dialects import served_half
from ._envelopes import Reply
from ._faults import Faults, Road
from ._ledger import Ledger
from ._painter import paint
from ._service import Service
from ._tasks import Latency, Lives, Task
from ._upload_reader import LARGEST_UPLOAD, UploadReader, Way, ways_of
from ._uploads import UploadedFiles
from ._webhook_sender import WebhookSender

PAINTERS = 2
"""Pictures painted at once."""

_Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Sandbox:
    """A server on this machine that speaks as each of the known providers. An async context manager.

    `url` is kie.ai's API and, on its other paths, API in One's; `url_of("liangxin")` is LiangXin's, and so on. It bills
    what the records say; where they tell no price, kie.ai's, and 8 credits a picture for a model that it does not have.

    Args:
        latency: How long tasks take.
        limits: What it enforces; None: the sandbox's own, 50 creates and 200 status calls a second, 200 running.
        faults: Share of requests that go wrong, or a `Faults`.
        lives: How long links and pictures can be had; None: as long as it runs.
        balance: Credits on the account; None: more than anybody needs.
        key: The key that it takes.
        signing_key: What it signs callbacks with, as kie.ai and itself; None: nothing.
        callback_retry: Seconds to the first of three repeats of a callback that is not answered 2xx.
        port: Where to listen on 127.0.0.1; 0: wherever there is room.
        seed: Makes its latencies and task ids repeatable.
        calls_anywhere: True to call back to any address; else only to this machine, and the ledger counts the others.
        providers: Records of your own, which it serves beside the known ones, or in the place of one of that name.

    Attributes:
        ledger: What it saw and would have billed.
        faults: Takes orders: `sandbox.faults.order("create", "reset_after")`.
        limits: What it enforces.
    """

    def __init__(
        self,
        *,
        latency: Latency | None = None,
        limits: Limits | None = None,
        faults: float | Faults = 0.0,
        lives: Lives | None = None,
        balance: float | None = None,
        key: str = SANDBOX_KEY,
        signing_key: str | None = None,
        callback_retry: float = 1.0,
        port: int = 0,
        seed: int = 0,
        calls_anywhere: bool = False,
        providers: Iterable[Provider] = (),
    ) -> None:
        self.ledger: Ledger = Ledger()
        self.faults: Faults = faults if isinstance(faults, Faults) else Faults(faults, seed)
        self.key = key
        self.limits: Limits = limits or SANDBOX.limits
        self._port = port
        self._callbacks: dict[str, Any] = {"retry": callback_retry, "anywhere": calls_anywhere}
        self._stack = AsyncExitStack()
        self._off_loop = OffLoop("imagen-painter", PAINTERS)
        self._uploads = UploadedFiles()
        self._services = {
            name: Service(
                provider,
                key=key,
                limits=self.limits,
                latency=latency or Latency(),
                faults=self.faults,
                ledger=self.ledger,
                lives=lives or Lives(),
                balance=float("inf") if balance is None else balance,
                signing_key=signing_key,
                seed=seed,
            )
            for name, provider in _served(providers).items()
        }

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self._port}"

    def url_of(self, provider: str) -> str:
        """The base URL of one provider's API here."""
        return f"{self.url}/{provider}"

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            runner = web.AppRunner(
                self._application(), access_log=None, handle_signals=False, shutdown_timeout=0.1, keepalive_timeout=90
            )
            stack.callback(self._off_loop.close)
            session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
            stack.push_async_callback(_whole, session.close)
            self._webhook_sender = WebhookSender(session, self.ledger, **self._callbacks)
            self._upload_reader = UploadReader(session, self._off_loop)
            self._sending = await stack.enter_async_context(PlainGroup())
            # Before the group is left, which would wait for callbacks that are due later.
            stack.callback(self._sending.cancel)
            await runner.setup()
            stack.push_async_callback(_whole, runner.cleanup)
            site = web.TCPSite(runner, "127.0.0.1", self._port, backlog=1024)
            await site.start()
            self._port = runner.addresses[0][1]
            for service in self._services.values():
                service.files = f"{self.url}/files"
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def order(self, road: Road, *kinds: str | None) -> None:
        """Let the next requests on a road go wrong in these ways, in turn; None lets one go well."""
        self.faults.order(road, *kinds)

    def keep(self, road: Road, kind: str | None) -> None:
        """Let every request on a road go wrong in this way from now on; None ends that."""
        self.faults.keep(road, kind)

    def _application(self) -> web.Application:
        application = web.Application(client_max_size=LARGEST_UPLOAD)
        for (method, path), answer in self._places().items():
            application.router.add_route(method, path, answer)
        application.router.add_get("/files/{provider}/{task_id}/{number}.png", self._file)
        application.router.add_get("/files/uploads/{name}", self._uploaded_file)
        application.router.add_get("/sandbox/ledger", self._tell_ledger)
        return application

    def _places(self) -> dict[tuple[str, str], _Answer]:
        """Who answers, by method and path. At the top the local provider, and on paths that it has not, the others."""
        everybody = sorted(self._services.values(), key=lambda service: not service.provider.is_local)
        places = self._places_below("", everybody)
        for name, service in self._services.items():
            others = everybody if service.provider.is_local else []
            places |= self._places_below(f"/{name}", [service, *others])
        return places

    def _places_below(self, prefix: str, services: Iterable[Service]) -> dict[tuple[str, str], _Answer]:
        """The paths of several APIs in one; where two have the same, it is the first one's."""
        places: dict[tuple[str, str], _Answer] = {}
        for service in services:
            for path, way in ways_of(service.provider.uploads):
                places.setdefault(("POST", f"{prefix}{path}"), functools.partial(self._upload, service, way))
            for route in service.dialect.routes():
                # Each path has its service bound to it: which provider was meant is never asked again.
                answer = functools.partial(self._answer, service, route.operation)
                places.setdefault((route.method, f"{prefix}{route.path}"), answer)
        return places

    async def _answer(self, service: Service, operation: Operation, request: web.Request) -> web.StreamResponse:
        """Ask the service what a request asks, and carry its answer back."""
        authorization = request.headers.get("Authorization")
        try:
            body = await request.read()
        except (ConnectionError, RuntimeError):  # aiohttp's, where the connection was lost before it is asked
            return web.Response()  # whoever asked is gone
        except web.RequestPayloadError:  # it is packed in another way than it says
            body = b""
        now = asyncio.get_running_loop().time()
        match operation:
            case "create":
                reply = service.create(authorization, body, now, time.time())
                await self._announce(service)
            case "renewal":
                reply = service.renew(authorization, body, now)
            case "credits":
                reply = service.credits(authorization)
            case "models":
                model = service.dialect.model_of(request.match_info, request.query)
                reply = service.models(authorization, model)
            case _:
                task_id = service.dialect.task_of(request.match_info, request.query)
                reply = service.status(authorization, task_id, now)
        return await _deliver(request, reply)

    async def _upload(self, service: Service, way: Way, request: web.Request) -> web.StreamResponse:
        """Take a file of somebody's own, and say where it is."""
        assert service.provider.uploads is not None
        authorization = request.headers.get("Authorization")
        # Without the key nothing is fetched for anybody, be it a page in a browser.
        is_read = service.is_key(authorization)
        data = await self._upload_reader.read(request, way, service.provider.uploads.file_field) if is_read else None
        file = None if data is None else self._uploads.add(data)
        url = "" if file is None else f"{self.url}/files/uploads/{file.name}"
        return await _deliver(request, service.upload(authorization, file, url, time.time()))

    async def _uploaded_file(self, request: web.Request) -> web.StreamResponse:
        file = self._uploads.get(request.match_info["name"])
        if file is None:
            return web.Response(status=404)
        return web.Response(body=file.data, content_type=file.media_type)

    async def _announce(self, service: Service) -> None:
        """Let the callbacks be sent that a create has ordered; an early one before the create is answered."""
        while service.webhooks:
            webhook = service.webhooks.popleft()
            if webhook.fault == "early":
                await self._webhook_sender.announce(webhook)
            else:
                self._sending.start_soon(self._webhook_sender.announce, webhook)

    def picture(self, url: str) -> bytes | None:
        """What is at one of its links to a picture, as it is made, also when it serves no more; None: nothing of its.

        Painting takes a few milliseconds.
        """
        found = re.fullmatch(rf"{re.escape(self.url)}/files/([^/]+)/([^/]+)/(\d+)\.png(\?.*)?", url)
        service = None if found is None else self._services.get(found[1])
        task = None if found is None or service is None else service.task(found[2])
        return None if found is None or task is None else self._painted(task, found[3])

    def _painted(self, task: Task, number: str) -> bytes:
        """The picture of that number; one that was edited shows what went in."""
        inputs = [file.data for url in task.inputs if (file := self._uploads.at(url)) is not None]
        variant = f"{task.input.get('seed', task.id)}/{number}"
        return paint(str(task.input.get("prompt", "")), task.shape, variant, inputs)

    async def _tell_ledger(self, request: web.Request) -> web.Response:
        return web.json_response(self.ledger.summary())

    async def _file(self, request: web.Request) -> web.StreamResponse:
        """Paint a picture that a finished task made. Anybody may fetch it; a key would be a leak."""
        self.ledger.key_leaks += "Authorization" in request.headers
        service = self._services.get(request.match_info["provider"])
        until = _until(request.query.get("until"))
        now = asyncio.get_running_loop().time()
        task = service.picture(request.match_info["task_id"], until, now) if service else None
        if task is None:
            return web.Response(status=404)
        fault = self.faults.draw("file")
        if fault is not None and fault.startswith("http_"):
            return web.Response(status=int(fault.removeprefix("http_")), text="not now")
        number = request.match_info["number"]
        # It takes milliseconds, for which every other answer would wait.
        picture = await self._off_loop.run(self._painted, task, number)
        if fault == "html":
            return web.Response(text="<html>try again</html>", content_type="text/html")
        ending = fault or "whole"
        response = await _deliver(request, Reply(200, picture, "image/png", ending))
        self.ledger.pictures[task.id] += ending == "whole"
        return response


async def _whole(work: Callable[[], Awaitable[None]]) -> None:
    """Do it to its end, whatever is cancelled around it."""
    with anyio.CancelScope(shield=True):
        await work()


def _until(text: str | None) -> float | None:
    """When a renewed link dies, by what it says itself; one that does not say when has died; None for any other."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return -math.inf


async def _deliver(request: web.Request, reply: Reply) -> web.StreamResponse:
    if reply.ending == "whole":
        return web.Response(status=reply.status, body=reply.body, content_type=reply.media_type)
    transport = request.transport
    if transport is None:
        return web.Response()  # whoever asked is gone
    response = web.StreamResponse(status=reply.status or 200, headers={"Content-Length": str(len(reply.body))})
    if reply.ending == "truncated":
        response.content_type = reply.media_type
        await response.prepare(request)
        await response.write(reply.body[: len(reply.body) // 2])
    # Closed once what was written has gone; aborted, so that not even a beginning goes.
    transport.close() if reply.ending == "truncated" else transport.abort()
    return response


def _served(own: Iterable[Provider]) -> dict[str, Provider]:
    """The known records and the user's own; a dialect of which it has no half is no reason to serve nobody."""
    known = {**PROVIDERS, **{each.name: each for each in own}}
    return {name: each for name, each in known.items() if served_half(each.dialect) is not None}
