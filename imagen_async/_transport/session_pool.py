"""The sessions that carry a key, one an account, and beside them the one for files. Carries values, decides nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from functools import lru_cache
from types import TracebackType
from typing import Self

import aiohttp
import anyio
import msgspec
from yarl import URL

from .._core.answer_headers import retry_after
from .._core.mask import Mask
from .._core.wire import HttpRequest, HttpResponse
from .._handles import connections_within, waits_for_handles
from .._patience import AlarmClock, Patience
from .._text import well_formed
from .._watch.observer import Observer
from ..errors import ImagenError, ProtocolError, TransportError
from .connector import Connector
from .departure import OUTGOING, Departure
from .file_session import FileSession
from .sessions import SessionSettings, connector_for, open_session, transport_error

MAX_ANSWER = 1 << 20
"""Bytes of an API answer; the recorded ones are below 5 KB."""

OTHER_CONNECTIONS = 3
"""More connections that a create tries, at once and for nothing, where one ended before a byte of it had left."""

_KNOWN_URLS = 1024
"""Addresses of each account that are kept: those of creates, and of the tasks that are asked about time and again."""

_JSON_HEADERS = {"Content-Type": "application/json"}


class Endpoint(msgspec.Struct, frozen=True):
    """Where an account's API is, and what opens it. Its key is in no repr."""

    base_url: str
    api_key: str

    def __repr__(self) -> str:
        return f"Endpoint({self.base_url!r})"


def mask_of(endpoints: Iterable[Endpoint], settings: SessionSettings) -> Mask:
    """Over the keys of accounts, and the passwords of their proxies."""
    return Mask([*(endpoint.api_key for endpoint in endpoints), *settings.proxies.passwords])


class _Way:
    """How an account's requests go out.

    aiohttp shows a proxy whatever a session always sends: through one, the key goes with each request instead.

    Attributes:
        url: The whole address of a path.
        always: Headers of the session.
        asks: Headers of a request without a body, and `creates` of one with a body.
        proxied: How aiohttp is told the proxy.
        is_relayed: True where the proxy answers in the account's place: http:// has no tunnel.
    """

    def __init__(self, endpoint: Endpoint, settings: SessionSettings) -> None:
        address, key = URL(endpoint.base_url), {"Authorization": f"Bearer {endpoint.api_key}"}
        # Ids are opaque, and encoded by the dialect: yarl would encode their percent signs again.
        # A path without its slash would go on with the host or the port, to which the key is sent.
        base = f"{endpoint.base_url}/"
        self.url = lru_cache(_KNOWN_URLS)(lambda path: URL(base + path.removeprefix("/"), encoded=True))
        proxy = settings.proxies.of(address)
        self.proxied = {} if proxy is None else proxy.terms(address)
        self.always, own = (key, {}) if proxy is None else ({}, key)
        self.asks = {**own, **self.proxied.pop("headers", {})}
        self.creates = {**self.asks, **_JSON_HEADERS}
        self.is_relayed = proxy is not None and address.scheme == "http"

    def headers_of(self, request: HttpRequest) -> Mapping[str, str]:
        """What a request says beside what its session always says."""
        if request.body is None:
            return self.asks
        is_json = request.media_type == _JSON_HEADERS["Content-Type"]
        return self.creates if is_json else {**self.asks, "Content-Type": request.media_type}


class _Ended(TransportError):
    """The connection had ended before a byte left."""


class SessionPool:
    """The open sessions of one client. Enter it in the loop that uses it.

    Attributes:
        mask: Of all accounts: no answer or error comes without it.
    """

    def __init__(
        self, endpoints: Mapping[str, Endpoint], settings: SessionSettings, observer: Observer | None = None
    ) -> None:
        self._observer = observer or Observer()
        self._endpoints = endpoints
        connections = connections_within(settings.connections, sessions=len(endpoints))
        self._settings = msgspec.structs.replace(settings, connections=connections)
        self._stack = AsyncExitStack()
        self._sessions: dict[str, aiohttp.ClientSession] = {}
        self._connectors: dict[str, Connector] = {}
        # Once an account, not once a request.
        self._ways = {name: _Way(endpoint, settings) for name, endpoint in endpoints.items()}
        self._files: FileSession | None = None
        self._clock: AlarmClock | None = None
        self.mask = mask_of(endpoints.values(), settings)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for name in self._endpoints:
                self._connectors[name] = connector = connector_for(self._settings)
                session = open_session(self._ways[name].always, connector)
                self._sessions[name] = await stack.enter_async_context(session)
            homes = {name: endpoint.base_url for name, endpoint in self._endpoints.items()}
            self._files = await stack.enter_async_context(FileSession(self._settings, homes, self._observer, self.mask))
            self._clock = AlarmClock(asyncio.get_running_loop())
            # Before the sessions are closed: the loop forgets a timer that was cancelled once none before it is set.
            stack.callback(self._clock.stop)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A cancellation must not leave connections open, of which aiohttp would warn when they are collected.
        with anyio.CancelScope(shield=True):
            await self._stack.aclose()
        self._sessions.clear()
        self._files = None

    @property
    def files(self) -> FileSession | None:
        """The session without a key, while the pool is open."""
        return self._files

    def send(
        self,
        account: str,
        request: HttpRequest,
        *,
        within: float | None = None,
        leaves: Callable[[], bool] | None = None,
    ) -> Awaitable[HttpResponse]:
        """Carry one request to an account's own address, with its key, and follow no redirect.

        Args:
            account: Whose session.
            request: What to send.
            within: Seconds to get a connection, and from then on for the answer, where that is less than the setting.
            leaves: Of a create, which has a body: says whether it may go. Asked once, when the connection is in hand
                and the first byte is about to be written; never, where it does not come to that.

        Raises:
            TransportError: No answer came; `sent` is False when no byte left.
            ProtocolError: The answer is longer than `MAX_ANSWER` or breaks off.
        """
        # Told from here, for aiohttp's TraceConfig costs 10 µs a request even when it is empty.
        send = self._send_and_tell if self._observer.hears_exchanges else self._send
        return send(account, request, within, leaves)

    async def listen(self, account: str, path: str, hear: Callable[[bytes], bool], silence: float) -> None:
        """Hear a stream of an account's API, line by line, over a connection of its own.

        Args:
            account: Whose.
            path: Where it is.
            hear: Takes each line; what it returns says whether more is wanted.
            silence: Seconds without a line after which nobody speaks there any more.

        Raises:
            TransportError: There is no such stream, or it cannot be had, or has ended.
        """
        way, heard = self._ways[account], _Heard()
        OUTGOING.set(heard.departure)
        failure = TransportError("The stream has ended.")
        try:
            with Patience(silence, heard.at):
                async with open_session(way.always, connector_for(self._settings)) as session:
                    asked = {**way.asks, "Accept": "text/event-stream"}
                    url = way.url(path)
                    async with session.get(url, headers=asked, allow_redirects=False, **way.proxied) as response:
                        response.raise_for_status()
                        while line := await response.content.readline():
                            heard.note()
                            if not hear(line):
                                return
        except Exception as error:
            failure = transport_error(error, self._endpoints[account].base_url, self.mask)
        # Raised out here, as above.
        raise failure

    async def _send_and_tell(
        self, account: str, request: HttpRequest, within: float | None, leaves: Callable[[], bool] | None
    ) -> HttpResponse:
        now = asyncio.get_running_loop().time
        began_at = now()
        outcome: HttpResponse | ImagenError | None = None
        try:
            outcome = await self._send(account, request, within, leaves)
            return outcome
        except ImagenError as error:
            outcome = error
            raise
        finally:
            # A cancelled exchange has no outcome, and is nothing to tell.
            if outcome is not None:
                self._observer.exchange(account, request, outcome, began_at, now())

    @waits_for_handles
    async def _send(
        self, account: str, request: HttpRequest, within: float | None, leaves: Callable[[], bool] | None
    ) -> HttpResponse:
        seconds = self._settings.timeout if within is None else min(within, self._settings.timeout)
        departure = Departure(leaves)
        for _ in range(OTHER_CONNECTIONS):
            try:
                return await self._carry(account, request, seconds, departure)
            except _Ended:
                departure = Departure(leaves, is_again=True)
        return await self._carry(account, request, seconds, departure)

    async def _carry(self, account: str, request: HttpRequest, seconds: float, departure: Departure) -> HttpResponse:
        OUTGOING.set(departure)
        try:
            # A slow connection takes nothing of the time for an answer that may be paid for.
            with Patience(seconds, departure.waits_since, self._clock):
                response = await self._request(account, request, departure)
                try:
                    return await self._read(account, response, departure)
                except BaseException:
                    # Not given back to the others: what it still carries is of this answer.
                    response.close()
                    await response.wait_for_close()
                    raise
        except ImagenError:
            raise
        # Whatever it is: what counts is whether anything has left, and that is known without it.
        except Exception as error:
            sent = departure.left_at is not None
            failure = transport_error(error, self._endpoints[account].base_url, self.mask, sent=sent)
        # Raised out here, so that it does not hold aiohttp's error: that one's repr shows the key.
        raise _Ended(failure.message, sent=False) if departure.is_on_line else failure

    async def _read(self, account: str, response: aiohttp.ClientResponse, departure: Departure) -> HttpResponse:
        if departure.left_at is None:
            raise ConnectionAbortedError("an answer came to what was not asked yet")
        # Of a task that runs, it tells nothing; a create it has refused, as a provider does.
        if response.status == 407 and self._ways[account].is_relayed and not departure.is_create:
            raise aiohttp.ClientConnectionError("the proxy answered HTTP 407, it wants a login")
        if (told := response.headers.get("Keep-Alive")) is not None:
            self._connectors[account].hear_keep_alive(told)
        # Not `json()`, which has no bound, and costs 6 µs more.
        body = _whole(response)
        return self._plain(response, await _read_bounded(response) if body is None else body)

    def _plain(self, response: aiohttp.ClientResponse, body: bytes) -> HttpResponse:
        headers = response.headers
        # aiohttp gives bytes that are no text as lone surrogates, which nothing could write down.
        where = well_formed(headers.get("Location", "")) if 300 <= response.status < 400 else ""
        wait, where = retry_after(headers, time.time()), self.mask.text(where) if where else ""
        return HttpResponse(response.status, self.mask.content(body), wait, where or None, headers)

    def _request(self, account: str, request: HttpRequest, departure: Departure) -> Awaitable[aiohttp.ClientResponse]:
        way = self._ways[account]
        return self._sessions[account].request(
            request.method,
            way.url(request.path),
            data=departure.body(request.body),
            headers=way.headers_of(request),
            allow_redirects=False,
            # What has a body aiohttp sends once in any case.
            middlewares=None if request.body is None else (),
            **way.proxied,
        )


class _Heard:
    """When a stream was heard last.

    Attributes:
        departure: Its request's.
    """

    def __init__(self) -> None:
        self.departure = Departure()
        self._now = asyncio.get_running_loop().time
        self._at = self._now()

    def note(self) -> None:
        """Something has come."""
        self._at = self._now()

    def at(self) -> float:
        """Loop time of that."""
        return self._at


def _whole(response: aiohttp.ClientResponse) -> bytes | None:
    """A body that came with its head, as nearly all do, and is not too long; None where more is to be awaited."""
    content = response.content
    return content.read_nowait() if content.is_eof() and content.total_bytes <= MAX_ANSWER else None


async def _read_bounded(response: aiohttp.ClientResponse) -> bytes:
    content, length, size = response.content, response.content_length or 0, 0
    chunks: list[bytes] = []
    while length <= MAX_ANSWER and not content.at_eof() and (chunk := await content.readany()):
        size += len(chunk)
        # As it is unpacked: a few bytes on the wire can become many megabytes.
        if size > MAX_ANSWER:
            break
        chunks.append(chunk)
    if length > MAX_ANSWER or size > MAX_ANSWER:
        raise ProtocolError(f"The answer is longer than {MAX_ANSWER:,} bytes.", code=response.status)
    return b"".join(chunks)
