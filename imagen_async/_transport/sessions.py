"""What all sessions share: how one is opened and times out, which proxy it takes, and what its errors are called."""

from __future__ import annotations

import ssl as ssl_module
from collections.abc import Mapping
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import msgspec

from .._core.wire import clean
from .._version import __version__
from ..errors import TransportError
from .handles import NoHandleLeft, is_for_want_of_a_handle, is_none_left

USER_AGENT = f"imagen_async/{__version__}"
"""Sent always: kie.ai's edge refuses requests without one (403, "error code: 1010")."""

KEEP_ALIVE = 75.0
"""Seconds that an idle connection stays open: longer than any poll interval, for a new one costs ten requests."""

# What happens before a byte of the request leaves; everything else may have reached the server.
_NOT_SENT = (
    aiohttp.ClientConnectorError,
    aiohttp.ClientHttpProxyError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ServerFingerprintMismatch,
    aiohttp.InvalidURL,
)

SSLSetting = ssl_module.SSLContext | bool


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


def open_session(settings: SessionSettings, headers: Mapping[str, str]) -> aiohttp.ClientSession:
    """Open a session whose every request carries these headers."""
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


def timeouts(settings: SessionSettings, total: float) -> aiohttp.ClientTimeout:
    """`connect` is shorter than `total`, so a timeout that is not a ConnectionTimeoutError came after the sending."""
    return aiohttp.ClientTimeout(total=total, connect=min(settings.connect_timeout, total * 0.9))


def proxy_of(url: str, settings: SessionSettings) -> str | None:
    """The proxy that the environment names for an address, where it is to be followed."""
    if not settings.trust_env:
        return None
    parts = urlsplit(url)
    return None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)


def transport_error(error: Exception, url: str) -> TransportError:
    """Make of what a session raised an error of ours, which shows neither key nor login."""
    parts = urlsplit(url)
    where = f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")
    what = clean(str(error)) or type(error).__name__
    if isinstance(error, aiohttp.ClientResponseError):
        # Its own words hold the whole address, a proxy's login included.
        what = f"HTTP {error.status}, {clean(error.message)}"
    if isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ConnectionTimeoutError):
        what = "no answer in time"
    sent = not isinstance(error, _NOT_SENT)
    is_connecting = isinstance(error, aiohttp.ClientConnectorError)
    if is_connecting and (is_for_want_of_a_handle(error) or is_none_left()):
        return NoHandleLeft(f"No connection to {where}: this process has too many files open.", sent=False)
    return TransportError(f"{'The exchange with' if sent else 'No connection to'} {where} failed: {what}.", sent=sent)
