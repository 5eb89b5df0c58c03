"""The sessions that carry a key, one an account, and beside them the one for files. Carries values, decides nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from types import TracebackType
from typing import Self

import aiohttp
import anyio
import msgspec
from yarl import URL

from .._core.wire import HttpRequest, HttpResponse
from .._handles import connections_within, waits_for_handles
from .._patience import Patience
from .._text import well_formed
from .._watch.observer import Observer
from ..errors import ImagenError, ProtocolError, TransportError
from .connector import Connector
from .departure import OUTGOING, Departure
from .file_session import FileSession
from .sessions import SessionSettings, connector_for, open_session, proxy_of, transport_error

MAX_ANSWER = 1 << 20
"""Bytes of an API answer; the recorded ones are below 5 KB."""

OTHER_CONNECTIONS = 3
"""More connections that a create tries, at once and for nothing, where one ended before a byte of it had left."""

_JSON_HEADERS = {"Content-Type": "application/json"}


class Endpoint(msgspec.Struct, frozen=True):
    """Where an account's API is, and what opens it. Its key is in no repr."""

    base_url: str
    api_key: str

    def __repr__(self) -> str:
        return f"Endpoint({self.base_url!r})"


class _Ended(TransportError):
    """The connection had ended before a byte left."""


class SessionPool:
    """The open sessions of one client. Enter it in the loop that uses it."""

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
        self._proxies: dict[str, str | None] = {}
        self._files: FileSession | None = None

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for name, endpoint in self._endpoints.items():
                headers = {"Authorization": f"Bearer {endpoint.api_key}"}
                self._connectors[name] = connector = connector_for(self._settings)
                session = open_session(self._settings, headers, connector)
                self._sessions[name] = await stack.enter_async_context(session)
                # Once an account, not once a request: it reads the whole environment.
                self._proxies[name] = proxy_of(endpoint.base_url, self._settings)
            self._files = await stack.enter_async_context(FileSession(self._settings, self._observer))
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

    async def send(
        self,
        account: str,
        request: HttpRequest,
        *,
        within: float | None = None,
        leaves: Callable[[], bool] | None = None,
    ) -> HttpResponse:
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
        if not self._observer.hears_exchanges:
            return await self._send(account, request, within, leaves)
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
        endpoint, began_at = self._endpoints[account], asyncio.get_running_loop().time()
        try:
            # A slow connection takes nothing of the time for an answer that may be paid for.
            with Patience(seconds, since=lambda: departure.left_at or began_at):
                # aiohttp repeats by itself what is free to repeat, once, on a connection that had died; never a POST.
                async with self._request(account, request, departure) as response:
                    if departure.left_at is None:
                        raise ConnectionAbortedError("an answer came to what was not asked yet")
                    if (told := response.headers.get("Keep-Alive")) is not None:
                        self._connectors[account].hear_keep_alive(told)
                    # Not `json()`, which has no bound, and costs 6 µs more.
                    body = await _read_bounded(response)
                    return _plain(response, _redacted(body, endpoint.api_key))
        except ImagenError:
            raise
        # Whatever it is: what counts is whether anything has left, and that is known without it.
        except Exception as error:
            failure = transport_error(error, endpoint.base_url, sent=departure.left_at is not None)
        # Raised out here, so that it does not hold aiohttp's error: that one's repr shows the key.
        raise _Ended(failure.message, sent=False) if departure.is_on_line else failure

    def _request(
        self, account: str, request: HttpRequest, departure: Departure
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        return self._sessions[account].request(
            request.method,
            # Ids are opaque, and encoded by the dialect: yarl would encode their percent signs again.
            URL(self._endpoints[account].base_url + request.path, encoded=True),
            data=departure.body(request.body),
            headers=_JSON_HEADERS if request.body is not None else None,
            allow_redirects=False,
            proxy=self._proxies[account],
        )


async def _read_bounded(response: aiohttp.ClientResponse) -> bytes:
    length = response.content_length or 0
    chunks: list[bytes] = []
    size = 0
    content = response.content
    # The end is asked for first: a read beyond it would be one more wait for each answer.
    while length <= MAX_ANSWER and not content.at_eof() and (chunk := await content.readany()):
        size += len(chunk)
        # As it is unpacked: a few bytes on the wire can become many megabytes.
        if size > MAX_ANSWER:
            break
        chunks.append(chunk)
    if length > MAX_ANSWER or size > MAX_ANSWER:
        # Not given back to the pool: the connection still carries the rest.
        response.close()
        raise ProtocolError(f"The answer is longer than {MAX_ANSWER:,} bytes.", code=response.status)
    return b"".join(chunks)


def _redacted(body: bytes, api_key: str) -> bytes:
    """Some servers quote the key in their refusal; a very short one would be found where it is not meant."""
    return body.replace(api_key.encode(), b"***") if len(api_key) >= 8 else body


def _plain(response: aiohttp.ClientResponse, body: bytes) -> HttpResponse:
    return HttpResponse(
        response.status,
        body,
        _seconds(response.headers.get("Retry-After")),
        # aiohttp gives bytes that are no text as lone surrogates, which nothing could write down.
        well_formed(response.headers.get("Location", "")) or None if 300 <= response.status < 400 else None,
    )


def _seconds(retry_after: str | None) -> float | None:
    """Read Retry-After in seconds, at most an hour; its other form, a date, says less than our own pause."""
    return min(float(retry_after), 3600.0) if retry_after and retry_after.isascii() and retry_after.isdigit() else None
