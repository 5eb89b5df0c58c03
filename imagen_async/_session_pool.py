"""The sessions: one an account, with its key, and one without a key for files. Carries values, decides nothing."""

from __future__ import annotations

import asyncio
import ssl as ssl_module
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import anyio
import msgspec
from yarl import URL

from ._core.wire import HttpRequest, HttpResponse, clean
from ._version import __version__
from ._watch.observer import Observer
from .errors import DownloadFailed, ImagenError, ProtocolError, TransportError

USER_AGENT = f"imagen_async/{__version__}"
"""Sent always: kie.ai's edge refuses requests without one (403, "error code: 1010")."""

MAX_ANSWER = 1 << 20
"""Bytes of an API answer; the recorded ones are below 5 KB."""

KEEP_ALIVE = 75.0
"""Seconds that an idle connection stays open: longer than any poll interval, for a new one costs ten requests."""

_JSON_HEADERS = {"Content-Type": "application/json"}

# What happens before a byte of the request leaves; everything else may have reached the server.
_NOT_SENT = (
    aiohttp.ClientConnectorError,
    aiohttp.ClientHttpProxyError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ServerFingerprintMismatch,
    aiohttp.InvalidURL,
)

SSLSetting = ssl_module.SSLContext | bool


class Endpoint(msgspec.Struct, frozen=True):
    """Where an account's API is, and what opens it. Its key is in no repr."""

    base_url: str
    api_key: str

    def __repr__(self) -> str:
        return f"Endpoint({self.base_url!r})"


class SessionSettings(msgspec.Struct, frozen=True):
    """How sessions connect.

    Attributes:
        connections: Open at once, for each account and for files; 16 to 100 are cheapest.
        connect_timeout: Seconds to get a connection, with DNS and TLS.
        timeout: Seconds for a whole exchange; for a file, seconds without a byte.
        trust_env: Take proxies from HTTPS_PROXY, HTTP_PROXY and NO_PROXY. (.netrc is never read.)
        ssl: A context with your own CA, or True for the system's.
    """

    connections: int = 64
    connect_timeout: float = 10.0
    timeout: float = 60.0
    trust_env: bool = False
    ssl: SSLSetting = True


class SessionPool:
    """The open sessions of one client. Enter it in the loop that uses it."""

    def __init__(
        self, endpoints: Mapping[str, Endpoint], settings: SessionSettings, observer: Observer | None = None
    ) -> None:
        self._observer = observer or Observer()
        self._endpoints = endpoints
        self._settings = settings
        self._timeout = _timeout(settings, settings.timeout)
        self._stack = AsyncExitStack()
        self._sessions: dict[str, aiohttp.ClientSession] = {}
        self._proxies: dict[str, str | None] = {}
        self._files: FileSession | None = None

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for name, endpoint in self._endpoints.items():
                headers = {"Authorization": f"Bearer {endpoint.api_key}"}
                session = _open_session(self._settings, headers)
                self._sessions[name] = await stack.enter_async_context(session)
                # Once an account, not once a request: it reads the whole environment.
                self._proxies[name] = _proxy(endpoint.base_url, self._settings)
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

    async def send(self, account: str, request: HttpRequest, *, within: float | None = None) -> HttpResponse:
        """Carry one request to an account's own address, with its key, and follow no redirect.

        Args:
            account: Whose session.
            request: What to send.
            within: Seconds for the whole exchange, where that is less than the setting.

        Raises:
            TransportError: No answer came; `sent` is False when no byte left.
            ProtocolError: The answer is longer than `MAX_ANSWER` or breaks off.
        """
        # Told from here, for aiohttp's TraceConfig costs 10 µs a request even when it is empty.
        if not self._observer.hears_exchanges:
            return await self._send(account, request, within)
        now = asyncio.get_running_loop().time
        began_at = now()
        outcome: HttpResponse | ImagenError | None = None
        try:
            outcome = await self._send(account, request, within)
            return outcome
        except ImagenError as error:
            outcome = error
            raise
        finally:
            # A cancelled exchange has no outcome, and is nothing to tell.
            if outcome is not None:
                self._observer.exchange(account, request, outcome, began_at, now())

    async def _send(self, account: str, request: HttpRequest, within: float | None) -> HttpResponse:
        endpoint = self._endpoints[account]
        total = self._settings.timeout if within is None else min(within, self._settings.timeout)
        try:
            # aiohttp repeats by itself what is free to repeat, once, on a connection that had died; never a POST.
            async with self._sessions[account].request(
                request.method,
                # Ids are opaque, and encoded by the dialect: yarl would encode their percent signs again.
                URL(endpoint.base_url + request.path, encoded=True),
                data=request.body,
                headers=_JSON_HEADERS if request.body is not None else None,
                allow_redirects=False,
                proxy=self._proxies[account],
                timeout=self._timeout if total == self._settings.timeout else _timeout(self._settings, total),
            ) as response:
                # Not `json()`, which has no bound, and costs 6 µs more.
                body = await _read_bounded(response)
                return _plain(response, _redacted(body, endpoint.api_key))
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            failure = _transport_error(error, endpoint.base_url)
        # Raised out here, so that it does not hold aiohttp's error: that one's repr shows the key.
        raise failure


class FileSession:
    """The session that fetches pictures, from any host, without any key, cookie or login."""

    def __init__(self, settings: SessionSettings, observer: Observer | None = None) -> None:
        self._settings = settings
        self._observer = observer or Observer()
        self._session: aiohttp.ClientSession | None = None
        self._turns = anyio.Semaphore(settings.connections)

    async def __aenter__(self) -> Self:
        # Without a key: another client's went to the host of the files (measured).
        self._session = _open_session(self._settings, {"Accept": "image/*"})
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            with anyio.CancelScope(shield=True):
                await self._session.close()
        self._session = None

    @asynccontextmanager
    async def get(self, url: str) -> AsyncIterator[aiohttp.ClientResponse]:
        """Open a file for reading; raises TransportError where the network fails, also while it is read."""
        assert self._session is not None
        # A large picture on a slow line may take its time; silence may not.
        timeout = aiohttp.ClientTimeout(
            total=None, connect=self._settings.connect_timeout, sock_read=self._settings.timeout
        )
        outcome: HttpResponse | None = None
        failure: ImagenError | None = None
        # No more at once than there are connections: the wait for one is no trouble of the network.
        async with self._turns:
            began_at = asyncio.get_running_loop().time()
            try:
                async with self._session.get(url, timeout=timeout, proxy=_proxy(url, self._settings)) as response:
                    outcome = HttpResponse(response.status, b"")
                    yield response
                return
            except aiohttp.InvalidURL:
                failure = DownloadFailed(f"{url[:200]!r} is no address that can be fetched.")
            except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
                failure = _transport_error(error, url)
            finally:
                self._tell(url, failure or outcome, began_at)
            raise failure

    def _tell(self, url: str, outcome: HttpResponse | ImagenError | None, began_at: float) -> None:
        if outcome is not None and self._observer.hears_exchanges:
            # What follows the question mark is often a signature that opens the file.
            request = HttpRequest("GET", url.partition("?")[0], operation="file")
            self._observer.exchange("", request, outcome, began_at, asyncio.get_running_loop().time())


def _open_session(settings: SessionSettings, headers: Mapping[str, str]) -> aiohttp.ClientSession:
    # The threaded resolver on purpose: aiodns, which aiohttp takes silently once it is installed, has open bugs.
    connector = aiohttp.TCPConnector(
        limit=settings.connections,
        # aiohttp's own 15 s are shorter than the time between two questions may be.
        keepalive_timeout=KEEP_ALIVE,
        resolver=aiohttp.ThreadedResolver(),
        ssl=settings.ssl,
    )
    return aiohttp.ClientSession(
        connector=connector,
        headers={"User-Agent": USER_AGENT, **headers},
        # What a host sets is nobody's to keep: an account is known by its key, files by nothing.
        cookie_jar=aiohttp.DummyCookieJar(),
        # trust_env would read .netrc too, for every request and in place of our key: proxies are looked up here.
        trust_env=False,
    )


def _timeout(settings: SessionSettings, total: float) -> aiohttp.ClientTimeout:
    """`connect` is shorter than `total`, so a timeout that is not a ConnectionTimeoutError came after the sending."""
    return aiohttp.ClientTimeout(total=total, connect=min(settings.connect_timeout, total * 0.9))


def _proxy(url: str, settings: SessionSettings) -> str | None:
    if not settings.trust_env:
        return None
    parts = urlsplit(url)
    return None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)


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
        response.headers.get("Location") if 300 <= response.status < 400 else None,
    )


def _seconds(retry_after: str | None) -> float | None:
    """Read Retry-After in seconds, at most an hour; its other form, a date, says less than our own pause."""
    return min(float(retry_after), 3600.0) if retry_after and retry_after.isascii() and retry_after.isdigit() else None


def _transport_error(error: Exception, url: str) -> TransportError:
    parts = urlsplit(url)
    where = f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")
    what = clean(str(error)) or type(error).__name__
    if isinstance(error, aiohttp.ClientResponseError):
        # Its own words hold the whole address, a proxy's login included.
        what = f"HTTP {error.status}, {clean(error.message)}"
    if isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ConnectionTimeoutError):
        what = "no answer in time"
    sent = not isinstance(error, _NOT_SENT)
    return TransportError(f"{'The exchange with' if sent else 'No connection to'} {where} failed: {what}.", sent=sent)


__all__ = ["Endpoint", "FileSession", "SSLSetting", "SessionPool", "SessionSettings"]
