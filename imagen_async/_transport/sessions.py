"""What all sessions share: how one is opened, which proxy it takes, and what its errors are called."""

from __future__ import annotations

import ssl as ssl_module
from collections.abc import Mapping
from urllib.parse import urlsplit

import aiohttp
import msgspec

from .._core.mask import Mask
from .._core.wire import clean
from .._handles import NoHandleLeft, is_for_want_of_a_handle, is_none_left
from .._version import __version__
from ..errors import TransportError
from .connector import Connector
from .departure import sent_once
from .proxies import Proxies

USER_AGENT = f"imagen_async/{__version__}"
"""Sent always: kie.ai's edge refuses requests without one (403, "error code: 1010")."""

LONGEST_HEADER = 72 << 10
"""Bytes of a line of an answer's head: policies of 64 KiB were met, where aiohttp takes 8."""

MOST_HEADERS = 1024
"""Lines of an answer's head."""

# Every limit of time is a `Patience` of ours: aiohttp's own count before what has arrived was read.
_NO_LIMIT = aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None)

SSLSetting = ssl_module.SSLContext | bool


class SessionSettings(msgspec.Struct, frozen=True):
    """How sessions connect.

    Attributes:
        connections: Open at once, for each account and for files; 16 to 100 are cheapest.
        connect_timeout: Seconds to get a connection, with DNS and TLS.
        timeout: Seconds for the answer to an API call; for a file, seconds without a byte.
        proxies: Through what. (.netrc is never read.)
        private_files: Fetch files from private addresses too, wherever the API of an account is.
        ssl: A context with your own CA, or True for the system's.
    """

    connections: int = 64
    connect_timeout: float = 10.0
    timeout: float = 60.0
    proxies: Proxies = Proxies()
    private_files: bool = False
    ssl: SSLSetting = True


def connector_for(settings: SessionSettings, *, only_public: bool = False) -> Connector:
    """The connections of one session; `only_public`, to addresses of the Internet alone."""
    limit, timeout = settings.connections, settings.connect_timeout
    return Connector(limit=limit, connect_timeout=timeout, ssl=settings.ssl, only_public=only_public)


def open_session(headers: Mapping[str, str], connector: Connector) -> aiohttp.ClientSession:
    """Open a session whose every request carries these headers; each needs an `OUTGOING` of its own."""
    return aiohttp.ClientSession(
        connector=connector,
        headers={"User-Agent": USER_AGENT, **headers},
        # What a host sets is nobody's to keep: an account is known by its key, files by nothing.
        cookie_jar=aiohttp.DummyCookieJar(),
        # trust_env would read .netrc too, for every request and in place of our key: a request is told its proxy.
        trust_env=False,
        # Whether something is sent again is the plan's to say: each call takes a place in its limit.
        middlewares=(sent_once,),
        timeout=_NO_LIMIT,
        max_line_size=LONGEST_HEADER,
        max_field_size=LONGEST_HEADER,
        max_headers=MOST_HEADERS,
    )


def transport_error(error: Exception, url: str, mask: Mask, *, sent: bool = True) -> TransportError:
    """Make of what a session raised an error of ours, which shows neither key nor login."""
    # Masked before it is cut: a head that is none is quoted, and half a key is one that is not found.
    what = clean(mask.text(str(error))) or type(error).__name__
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        what = f"the proxy cannot be reached: {what}"
    if isinstance(error, aiohttp.ClientResponseError):
        # Its own words hold the whole address, a proxy's login included.
        who = "the proxy answered " if isinstance(error, aiohttp.ClientHttpProxyError) else ""
        what = f"{who}HTTP {error.status}, {clean(mask.text(error.message))}"
    if isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ConnectionTimeoutError):
        what = "no answer in time"
    where = mask.text(_host(url))
    if not sent and (is_for_want_of_a_handle(error) or is_none_left()):
        return NoHandleLeft(f"No connection to {where}: this process has too many files open.", sent=False)
    return TransportError(f"{'The exchange with' if sent else 'No connection to'} {where} failed: {what}.", sent=sent)


def _host(url: str) -> str:
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}" + (f":{parts.port}" if parts.port else "")
    except ValueError:
        return "its address"
