"""The paths by which orders come in, and how each is answered: at once, as a stream, or later."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from .._core.values import models_of
from .._text import told
from ._answers import body_of, check_made, completed_of, headers_of, prefix_of
from ._bodies import read_body
from ._callers import Caller
from ._demand import Demand
from ._guard import CALLER
from ._orders import Order, Part
from ._reading import Asked, Way
from ._refusals import LEAVING, Refusal, Refused, refusal_of, wrong

if TYPE_CHECKING:
    from ._service import Service

MAX_KEY = 255
"""Characters of an Idempotency-Key, as OpenAI and others have it."""

LOOK = 1.0
"""Seconds between two looks at whether one who waits has left, where the server does not tell."""

MAX_REPEAT = 10
"""Digits of the number of a try, from which on it is none."""


class Doors:
    """Takes orders over HTTP.

    Args:
        service: What there is behind them.
        heartbeat: Seconds between two signs of life of a stream.
    """

    def __init__(self, service: Service, heartbeat: float) -> None:
        self._service = service
        self._heartbeat = heartbeat

    async def generations(self, request: web.Request) -> web.StreamResponse:
        """Make pictures: an aiohttp handler."""
        return await self._answered(request, "generations")

    async def edits(self, request: web.Request) -> web.StreamResponse:
        """Make pictures out of pictures: an aiohttp handler."""
        return await self._answered(request, "edits")

    async def _answered(self, request: web.Request, way: Way) -> web.StreamResponse:
        demand = await self._demand(request, way)
        wait = await self._service.desk.wait(demand)
        try:
            response, is_told = await self._response(request, demand.asked, wait.order)
            if not response.prepared:
                # Only then it was given.
                await response.prepare(request)
                await response.write_eof()
            if is_told and not _has_left(request):
                await self._service.desk.given(wait)
        finally:
            self._service.desk.leave(wait, demand)
        return response

    async def _response(self, request: web.Request, asked: Asked, order: Order) -> tuple[web.StreamResponse, bool]:
        """The answer to an order, and whether it is the last word about it."""
        if asked.is_async:
            return promise_of(request, order), True
        return await (self._streamed(request, order) if asked.stream else self._made(request, order))

    async def _demand(self, request: web.Request, way: Way) -> Demand:
        """What a request asks for; raises Refused."""
        service, caller = self._service, request[CALLER]
        body = await read_body(request, way, service.inputs, service.off_loop)
        asked = service.reader.read(body)
        check_models(caller, asked)
        key = _key_of(request)
        again = request.headers.get("x-stainless-retry-count", "").strip()
        repeat = int(again) if again.isdecimal() and len(again) < MAX_REPEAT else 0
        callback = service.notices.callback(caller, asked, service.address(request))
        kept = msgspec.structs.replace(body, model=asked.parts[0].model or "")
        return Demand(caller, asked, msgspec.json.encode(kept), key, repeat, callback)

    async def _made(self, request: web.Request, order: Order) -> tuple[web.StreamResponse, bool]:
        """The whole answer, once all has ended."""
        await _over(request, order)
        try:
            check_made(order, is_leaving=self._service.desk.is_closing)
        except Refused as refused:
            return response_of(refused.refusal), order.is_final and order.refusal is None
        try:
            data = await self._service.files.data(order, self._service.address(request))
        except Refused as refused:  # it is there, and may be read another time
            return response_of(refused.refusal), False
        return json_of(body_of(order, data), headers=headers_of(order)), order.is_told

    async def _streamed(self, request: web.Request, order: Order) -> tuple[web.StreamResponse, bool]:
        """A stream of events: a sign of life now and then, each picture as it ends, or what went wrong."""
        headers = {**headers_of(order), "X-Accel-Buffering": "no"}
        response = web.StreamResponse(headers={**headers, "Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        is_told = True
        async for part in _with_pauses(order.ended(), self._heartbeat):
            if part is None:
                await response.write(b": still at work\n\n")
                continue
            events, is_whole = await self._events(request, order, part)
            is_told = is_told and is_whole
            for event in events:
                await response.write(_event(event))
        await order.over.wait()
        if order.refusal is not None:
            await response.write(_event({"type": "error", "error": order.refusal.error}))
        await response.write_eof()
        return response, is_told and order.is_final and order.refusal is None

    async def _events(self, request: web.Request, order: Order, part: Part) -> tuple[list[dict[str, Any]], bool]:
        """What is told of a task that has ended, and whether it is the last word about it."""
        if part.failure is not None:
            is_leaving = self._service.desk.is_closing and not part.is_final
            refusal = LEAVING if is_leaving else refusal_of(part.failure, part.cost)
            return [{"type": "error", "error": refusal.error}], not is_leaving
        pictures = self._service.files.pictures(part, self._service.address(request))
        try:
            return await self._service.files.read(lambda: [completed_of(order.asked, each) for each in pictures]), True
        except Refused as refused:
            return [{"type": "error", "error": refused.refusal.error}], False


def check_models(caller: Caller, asked: Asked) -> None:
    """Refuse what asks for a model that a caller may not use; raises Refused."""
    if caller.models is None:
        return
    for name in (name for part in asked.parts for name in models_of(part.model)):
        if name not in caller.models:
            message = f"This key may not use the model {told(name)}, only {', '.join(caller.models)}."
            raise wrong(message, "model", "model_not_allowed", 403)


def json_of(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """An answer of JSON."""
    content = msgspec.json.encode(body)
    return web.Response(status=status, body=content, content_type="application/json", headers=headers)


def response_of(refusal: Refusal) -> web.Response:
    """A refusal as it is sent."""
    headers = {**refusal.all_headers, "Cache-Control": "no-store"}
    return web.Response(status=refusal.status, body=refusal.body, content_type="application/json", headers=headers)


def _has_left(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


async def _over(request: web.Request, order: Order) -> None:
    """Wait for the end of an order; raises ConnectionResetError where whoever asks has left.

    A server that is told to cancels the handler then (`handler_cancellation`). Who mounts the application may not have
    told it, and is to pay for nobody who has left.
    """
    waiting = asyncio.ensure_future(order.over.wait())
    try:
        while not (await asyncio.wait([waiting], timeout=LOOK))[0]:
            if _has_left(request):
                raise ConnectionResetError("Whoever asked has left.")
    finally:
        waiting.cancel()


def promise_of(request: web.Request, order: Order) -> web.Response:
    """The answer to who asks for it later."""
    body = {"id": order.id, "object": "image_generation", "status": order.state, "created": int(time.time())}
    location = f"{prefix_of(request)}/v1/images/generations/{order.id}"
    headers = {**headers_of(order), "Location": location, "Retry-After": "2"}
    return json_of({**body, "ignored": list(order.asked.ignored)}, 202, headers)


def _event(event: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), msgspec.json.encode(event))


def _key_of(request: web.Request) -> str | None:
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    if not 0 < len(key) <= MAX_KEY or not key.isascii() or not key.isprintable():
        raise wrong(f"Idempotency-Key: allowed are 1 to {MAX_KEY} characters of ASCII.", code="invalid_key")
    return key


async def _with_pauses(parts: AsyncIterator[Part], seconds: float) -> AsyncIterator[Part | None]:
    """The parts as they come, and None for each time that nothing has come for so long."""
    pending: asyncio.Task[Part] | None = None
    try:
        while True:
            pending = pending or asyncio.ensure_future(anext(parts))
            done, _ = await asyncio.wait([pending], timeout=seconds)
            if not done:
                yield None
                continue
            try:
                part, pending = pending.result(), None
            except StopAsyncIteration:
                return
            yield part
    finally:
        if pending is not None:
            pending.cancel()
