"""Callbacks: the provider says that a task has ended, and its picture is seen at once. Polling stays underneath.

A `Receiver` takes them for a client that was given a `Callback`. It is an ASGI application, and it makes an aiohttp
handler and sub-application; it needs neither framework. A callback is never believed: its token tells whose it is, and
the provider is asked about the task, once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

from ._callbacks import Callback
from ._client import Client
from ._core.callback_bodies import MAX_CALLBACK, read_callback
from ._core.callbacks import TOLERANCE, is_signed
from ._patience import Patience
from .errors import ConfigurationError, InvalidRequest, JournalError, ProtocolError

if TYPE_CHECKING:
    from aiohttp import web


__all__ = ["Callback", "Receiver", "verify_signature"]

LONGEST_READ = 10.0
"""Seconds in which a callback must have arrived whole; kie.ai waits 15 s for its answer."""

_WORDS = {
    200: "ok",
    400: "the body holds no object",
    401: "the signature is missing, wrong or too old",
    404: "not found",
    405: "only POST is taken",
    408: "the body did not come",
    413: "the body is too long",
    503: "not now: call again",
}

_Message = MutableMapping[str, Any]


def verify_signature(headers: Mapping[str, str], body: bytes, key: str, tolerance: float = TOLERANCE) -> bool:
    """Say whether kie.ai has signed a callback, in constant time. For receivers of your own; `Receiver` does it itself.

    A good signature (kie.ai's documentation: base64 of HMAC-SHA256 over the task id, a dot, and the time) proves a task
    id and a time. It does not cover the rest of the body: ask for the task's status before you believe a URL.

    Args:
        headers: Of the callback, in any case: `X-Webhook-Timestamp` and `X-Webhook-Signature` are looked at.
        body: As it came. The task id is taken from `data.taskId`, `data.task_id` or `taskId`, which must agree.
        key: The webhook key that kie.ai's settings show.
        tolerance: Seconds by which the signature's time may differ from this machine's, before and after.

    Raises:
        ConfigurationError: The key is empty: anybody could sign with that.
    """
    if not key.strip():
        raise ConfigurationError("The webhook key is empty; take it from kie.ai's settings.")
    try:
        document = read_callback(body)
    except ProtocolError:
        return False
    return is_signed(headers, document, key.strip(), now=time.time(), tolerance=tolerance)


class Receiver:
    """Takes the callbacks of one client, which was given a `Callback`, while it is open.

    Mount it where the callback's `public_url` leads, in one of these ways; the last part of the path is the token:

    - FastAPI, Starlette: `app.mount("/imagen", receiver)`; it is an ASGI application.
    - aiohttp: `app.router.add_post("/imagen/{token}", receiver.handle)`, or
      `app.add_subapp("/imagen", receiver.application())`.

    It answers 200 to what it takes, also to what has no effect (a task that it does not know, or has heard of); 404 to
    a token that is not ours, 401 to a bad signature or an old one, 413 to more than 256 KiB, 400 to what holds no
    object, 503 while the client is not open, or its journal cannot be written. An object is JSON, or a form with it or
    with its fields, gzipped or not; an empty body is taken, too. What cannot be repeated, the task that it is about, is
    in the journal by then; all other work is done after. Safe to call twice: a task is asked about once.

    Raises:
        ConfigurationError: The client was given no `callback`.
    """

    def __init__(self, client: Client) -> None:
        if client._callback is None:
            raise ConfigurationError("This client asks for no callbacks: Client(…, callback=Callback(public_url=…)).")
        self._client = client

    async def handle(self, request: web.Request) -> web.Response:
        """Take one callback: an aiohttp handler, for POST requests to any path that ends with the token."""
        from aiohttp import web  # only here: who uses the client alone loads no server

        async def body() -> AsyncIterator[bytes]:
            try:
                async for chunk in request.content.iter_any():
                    yield chunk
            except web.RequestPayloadError:  # it is not packed as it says: its token tells enough
                return
            except RuntimeError as error:  # aiohttp's, where the connection was lost before this came to its turn
                raise ConnectionResetError(str(error)) from error

        try:
            status = await self._take(request.method, request.path, request.headers, body())
        except ConnectionError:
            status = 400
        return web.Response(status=status, text=_WORDS[status])

    def application(self) -> web.Application:
        """An aiohttp application, to be run as it is or added to another one as a sub-application."""
        from aiohttp import web  # only here, as above

        application = web.Application()
        application.router.add_route("*", "/{token:.*}", self.handle)
        return application

    async def __call__(
        self,
        scope: _Message,
        receive: Callable[[], Awaitable[_Message]],
        send: Callable[[_Message], Awaitable[None]],
    ) -> None:
        """Take one callback, as an ASGI application."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000})
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        status = await self._take(scope["method"], scope["path"], headers, _body(receive))
        content = _WORDS[status].encode()
        lines = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(content))]
        await send({"type": "http.response.start", "status": status, "headers": lines})
        await send({"type": "http.response.body", "body": content})

    async def _take(self, method: str, path: str, headers: Mapping[str, str], body: AsyncIterator[bytes]) -> int:
        """Take a callback; returns the HTTP status."""
        if method != "POST":
            return 405
        # Whatever it is mounted under: only the last part of the path is ours.
        token = path.rstrip("/").rpartition("/")[2]
        # Before its body is read: whoever has no token costs nothing and learns nothing.
        if (refusal := self._refusal(token)) is not None:
            return refusal
        try:
            with Patience(LONGEST_READ):
                content = await _read(body)
            document = {} if content is None else read_callback(content)
        except TimeoutError:
            return 408
        except ProtocolError:
            return 400
        return 413 if content is None else await self._hear_in_its_loop(token, headers, document)

    def _refusal(self, token: str) -> int | None:
        """The HTTP status where nobody is to hear of what comes with a token."""
        opened = self._client._opened
        if opened is None or opened.desk is None:
            return 503
        return 404 if opened.desk.registry.find(token) is None else None

    async def _hear_in_its_loop(self, token: str, headers: Mapping[str, str], document: Mapping[str, Any]) -> int:
        """Let the client know, in the loop in which it is open."""
        opened = self._client._opened
        if opened is None or opened.loop.is_closed():
            return 503
        hearing = self._hear(token, headers, document)
        if opened.loop is asyncio.get_running_loop():
            return await hearing
        try:  # the web server runs in another thread
            with Patience(LONGEST_READ):
                return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(hearing, opened.loop))
        except TimeoutError:
            return 503
        except RuntimeError:  # the loop was closed meanwhile
            hearing.close()
            return 503

    async def _hear(self, token: str, headers: Mapping[str, str], document: Mapping[str, Any]) -> int:
        """Act on a callback whose body has come: by then its job, its batch or its client may have come to an end."""
        opened = self._client._opened
        if opened is None or opened.desk is None:
            return 503
        try:
            is_taken = await opened.desk.hear(token, headers, document)
        # What it told is not safe, or its job's next intent is not: whoever called is to call again.
        except (JournalError, InvalidRequest, OSError):
            return 503
        return 404 if is_taken is None else 200 if is_taken else 401


async def _read(body: AsyncIterator[bytes]) -> bytes | None:
    """The whole body, or None where it is too long."""
    content = bytearray()
    async for chunk in body:
        content += chunk
        if len(content) > MAX_CALLBACK:
            return None
    return bytes(content)


async def _body(receive: Callable[[], Awaitable[_Message]]) -> AsyncIterator[bytes]:
    """The body of an ASGI request, piece by piece; it ends early where the sender leaves."""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return
        yield message.get("body", b"")
        if not message.get("more_body"):
            return


async def _live(receive: Callable[[], Awaitable[_Message]], send: Callable[[_Message], Awaitable[None]]) -> None:
    """Answer the server's start and end, where this is its whole application."""
    for word in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{word}.complete"})
