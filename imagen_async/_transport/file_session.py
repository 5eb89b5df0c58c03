"""The session without a key, which fetches files from anywhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Self

import aiohttp
import anyio
from yarl import URL

from .._addresses import is_public, literal
from .._core.mask import Mask
from .._core.wire import HttpRequest, HttpResponse
from .._handles import waits_for_handles
from .._patience import Patience
from .._watch.observer import Observer
from ..errors import DownloadFailed, ImagenError, TransportError
from .connector import NotPublic
from .departure import OUTGOING, Departure
from .host_pauses import HostPauses
from .links import as_given, is_no_link, led_to
from .sessions import SessionSettings, connector_for, open_session, transport_error

_HEADERS = {
    # A host that can give a picture in several forms is to give the one that was made; and whatever comes is taken.
    # The newer forms are not named: hosts make a smaller picture of the one that they have for those who name them.
    "Accept": "image/png, image/jpeg;q=0.9, */*;q=0.5",
    # A file that is not packed has a length that tells whether it is whole.
    "Accept-Encoding": "identity",
}

_REDIRECTS = frozenset({301, 302, 303, 307, 308})

_MOST_REDIRECTS = 10


class FileSession:
    """The session that fetches pictures, from any host, without any key, cookie or login.

    A link may lead to this machine or its networks only where the API of its account is there too: what answers there
    trusts whoever is near, and providers are not.

    Args:
        settings: How it connects.
        homes: The base URL of each account.
        observer: Hears of each exchange.
        mask: Over what no error may show; None: the passwords of proxies.

    Attributes:
        mask: As given.
    """

    def __init__(
        self,
        settings: SessionSettings,
        homes: Mapping[str, str] | None = None,
        observer: Observer | None = None,
        mask: Mask | None = None,
    ) -> None:
        self._settings = settings
        self._homes = homes or {}
        self._observer = observer or Observer()
        self.mask = mask or Mask(settings.proxies.passwords)
        self._is_inside: dict[str, bool] = {}
        self._session: aiohttp.ClientSession | None = None
        self._turns = anyio.Semaphore(settings.connections)
        self._pauses = HostPauses()

    async def __aenter__(self) -> Self:
        # Without a key: another client's went to the host of the files (measured).
        self._session = open_session(_HEADERS, connector_for(self._settings, only_public=True))
        # Connections of its own: one that was opened for an account inside serves no other.
        self._anywhere = connector_for(self._settings)
        self._unbound = open_session(_HEADERS, self._anywhere)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            session, self._session = self._session, None
            # Both, also where a task is cancelled here once more: the scope holds off anyio's cancelling alone.
            with anyio.CancelScope(shield=True):
                try:
                    await session.close()
                finally:
                    await self._unbound.close()

    @asynccontextmanager
    async def get(self, url: str, account: str = "") -> AsyncIterator[aiohttp.ClientResponse]:
        """Open a file for reading that an account has made, once its host may be asked.

        Raises:
            TransportError: The network fails, also while it is read.
            DownloadFailed: What is no address, or leads to one that is not to be fetched from.
        """
        outcome: HttpResponse | None = None
        failure: ImagenError | None = None
        # No more at once than there are connections: the wait for one is no trouble of the network.
        async with self._pauses.over(url), self._turns:
            began_at = asyncio.get_running_loop().time()
            silence = _Silence()
            OUTGOING.set(silence.departure)
            try:
                # A large picture on a slow line may take its time; silence may not.
                with Patience(self._settings.timeout, since=silence.began_at):
                    async with await self._open(url, account) as response:
                        outcome = HttpResponse(response.status, b"")
                        silence.response = response
                        yield response
                return
            except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
                failure = transport_error(error, url, self.mask)
            except ImagenError as error:
                # What the caller does not like about the answer is no failure to get one.
                failure = error if outcome is None else None
                raise
            finally:
                self._tell(url, failure or outcome, began_at)
            raise failure

    @waits_for_handles
    async def _open(self, url: str, account: str) -> aiohttp.ClientResponse:
        """Follow an address to its answer."""
        failure: ImagenError
        link, address, departure = url, URL(), OUTGOING.get()
        try:
            address = as_given(link)
            for _ in range(_MOST_REDIRECTS):
                departure.left_at = None
                # Followed here: aiohttp escapes anew what may be signed, and cannot send every byte that may come.
                response = await self._ask(address, account)
                where = response.headers.get("Location") if response.status in _REDIRECTS else None
                if where is None:
                    self._pauses.hear(url, response)
                    return response
                # Not kept: the host may end it without a word, and the next step go the same way each time.
                response.close()
                link = led_to(address, where)
                address = as_given(link)
            failure = TransportError(f"More than {_MOST_REDIRECTS} redirects lead to no file.")
        except ImagenError:
            raise
        except Exception as error:
            if is_no_link(error):
                failure = DownloadFailed(f"{self.mask.text(link)[:200]!r} is no address that can be fetched.")
            else:
                failure = transport_error(error, str(address), self.mask, sent=departure.left_at is not None)
        raise failure

    async def _ask(self, address: URL, account: str) -> aiohttp.ClientResponse:
        """Ask an address for its file, where it may be asked."""
        assert self._session is not None
        proxy, host = self._settings.proxies.of(address), address.host or ""
        terms = {} if proxy is None else proxy.terms(address)
        if proxy is None:
            try:
                return await self._session.get(address, allow_redirects=False)
            except NotPublic as found:
                where = f"{host} leads to {found}" if str(found) != host else host
        elif (written := literal(host)) is not None and not is_public(written):
            where = host
        else:
            return await self._unbound.get(address, allow_redirects=False, **terms)
        if not (self._settings.private_files or await self._has_its_api_inside(account)):
            message = f"The link leads into this machine or its networks ({where}), where no API of its account is"
            raise DownloadFailed(f"{self.mask.text(message)}. Where that is meant: Client(private_files=True).")
        return await self._unbound.get(address, allow_redirects=False, **terms)

    async def _has_its_api_inside(self, account: str) -> bool:
        """Say whether an account's API is at no address of the Internet: at what is connected to, as for its files."""
        if account not in self._is_inside and account in self._homes:
            home = URL(self._homes[account])
            address = literal(home.host or "")
            if address is None and self._settings.proxies.of(home) is None:
                address = await self._connected_to(home)
            self._is_inside[account] = address is not None and not is_public(address)
        return self._is_inside.get(account, False)

    async def _connected_to(self, home: URL) -> str:
        failure: ImagenError
        try:
            return await self._anywhere.peer_of(home)
        except Exception as error:
            failure = transport_error(error, str(home), self.mask, sent=False)
        raise failure

    def _tell(self, url: str, outcome: HttpResponse | ImagenError | None, began_at: float) -> None:
        if outcome is not None and self._observer.hears_exchanges:
            # What follows the question mark is often a signature that opens the file.
            request = HttpRequest("GET", url.partition("?")[0], operation="file")
            self._observer.exchange("", request, outcome, began_at, asyncio.get_running_loop().time())


class _Silence:
    """Since when nothing has come of a file, as far as it was looked for.

    Attributes:
        departure: The request's.
        response: Its answer, once that has begun.
    """

    def __init__(self) -> None:
        self.departure = Departure()
        self.response: aiohttp.ClientResponse | None = None
        self._bytes = -1

    def began_at(self) -> float:
        """Loop time from which it counts: now, where something has come since the last look, or it is not asked for."""
        now = asyncio.get_running_loop().time()
        if self.response is None:
            # To connect has a limit of its own.
            return now if self.departure.left_at is None else self.departure.left_at
        came = self.response.content.total_bytes
        if came == self._bytes:
            return self.departure.left_at or 0.0
        self._bytes = came
        return now
