"""The session without a key, which fetches files from anywhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

import aiohttp
import anyio

from .._core.wire import HttpRequest, HttpResponse
from .._watch.observer import Observer
from ..errors import DownloadFailed, ImagenError
from .sessions import SessionSettings, open_session, proxy_of, transport_error


class FileSession:
    """The session that fetches pictures, from any host, without any key, cookie or login."""

    def __init__(self, settings: SessionSettings, observer: Observer | None = None) -> None:
        self._settings = settings
        self._observer = observer or Observer()
        self._session: aiohttp.ClientSession | None = None
        self._turns = anyio.Semaphore(settings.connections)

    async def __aenter__(self) -> Self:
        # Without a key: another client's went to the host of the files (measured).
        self._session = open_session(self._settings, {"Accept": "image/*"})
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
                async with self._session.get(url, timeout=timeout, proxy=proxy_of(url, self._settings)) as response:
                    outcome = HttpResponse(response.status, b"")
                    yield response
                return
            except aiohttp.InvalidURL:
                failure = DownloadFailed(f"{url[:200]!r} is no address that can be fetched.")
            except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
                failure = transport_error(error, url)
            finally:
                self._tell(url, failure or outcome, began_at)
            raise failure

    def _tell(self, url: str, outcome: HttpResponse | ImagenError | None, began_at: float) -> None:
        if outcome is not None and self._observer.hears_exchanges:
            # What follows the question mark is often a signature that opens the file.
            request = HttpRequest("GET", url.partition("?")[0], operation="file")
            self._observer.exchange("", request, outcome, began_at, asyncio.get_running_loop().time())
