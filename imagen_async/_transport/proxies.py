"""Which proxy an address is reached through, by the environment or by what was given; read once, then only asked."""

from __future__ import annotations

import re
import sys
from base64 import b64encode
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote_to_bytes
from urllib.request import getproxies, proxy_bypass

import msgspec
from yarl import URL

from .._addresses import in_network, is_address, is_loopback
from .._core.plain_values import plain_or_same
from .._text import told
from ..errors import ConfigurationError

GIVEN = "proxy= (--proxy)"
"""What a proxy that was given is called in errors."""

_ENTRY = re.compile(r"(\[[^\]]*\]|[^:]*):(\d+)")


class Proxy(msgspec.Struct, frozen=True):
    """A proxy that can be used. Its login is in no repr.

    Attributes:
        url: Its address, without the login.
        headers: What it wants to be told: the login.
        password: The one in it.
    """

    url: URL
    headers: Mapping[str, str]
    password: str

    def __repr__(self) -> str:
        return f"Proxy({str(self.url)!r})"

    def terms(self, address: URL) -> dict[str, Any]:
        """How aiohttp is told to take it: a login must not go on through a tunnel, nor stay out of a plain request."""
        return {"proxy": self.url, "proxy_headers" if address.scheme == "https" else "headers": self.headers}


class Proxies(msgspec.Struct, frozen=True):
    """The proxies of a client.

    Attributes:
        by_scheme: For `http` and `https` addresses; in place of one that cannot be used, what is to be said of it.
        exempt: Hosts that are reached without one, as NO_PROXY writes them.
        asks_system: True where the system's own settings were read, which know exempt hosts too.
    """

    by_scheme: Mapping[str, Proxy | str] = {}
    exempt: tuple[str, ...] = ()
    asks_system: bool = False

    @property
    def passwords(self) -> list[str]:
        """Those in them."""
        return [proxy.password for proxy in self.by_scheme.values() if isinstance(proxy, Proxy)]

    def of(self, address: URL) -> Proxy | None:
        """The proxy for an address, None for none; raises ConfigurationError where it cannot be used."""
        host, proxy = address.host or "", self.by_scheme.get(address.scheme)
        # Nothing but this machine reaches its own loopback.
        if proxy is None or is_loopback(host) or any(_covers(entry, address) for entry in self.exempt):
            return None
        if self.asks_system and proxy_bypass(host):
            return None
        if isinstance(proxy, str):
            raise ConfigurationError(proxy)
        return proxy


def given_proxies(url: str) -> Proxies:
    """One proxy for everything but loopback; raises ConfigurationError where it cannot be used."""
    url = plain_or_same(url)
    proxy = _read(url, GIVEN) if type(url) is str else f"{GIVEN}: a proxy is an address, not {told(url)}."
    if isinstance(proxy, str):
        raise ConfigurationError(proxy)
    return Proxies({"http": proxy, "https": proxy})


def environment_proxies(environment: Mapping[str, str]) -> Proxies:
    """The proxies that the environment names; where it names none, the system's own settings (macOS, Windows).

    HTTPS_PROXY, HTTP_PROXY, and ALL_PROXY for both; lower case wins, and an empty one is none. A web server hands a
    request's `Proxy` header to a CGI program as HTTP_PROXY, which does not count there.
    """
    is_cgi, found = "REQUEST_METHOD" in environment, {}
    for scheme in ("https", "http"):
        for variable in (f"{scheme}_proxy", "all_proxy"):
            name = variable if variable in environment else variable.upper()
            url = environment.get(name, "").strip()
            if url and not (is_cgi and name == "HTTP_PROXY"):
                found[scheme] = _read(url, name)
                break
    system = {} if found or sys.platform not in ("darwin", "win32") else getproxies()
    for scheme in system.keys() & {"http", "https"}:
        found[scheme] = _read(system[scheme], "The system's settings")
    exempt = environment.get("no_proxy", environment.get("NO_PROXY", ""))
    return Proxies(found, tuple(re.split(r"[\s,]+", exempt.lower())), asks_system=bool(system))


def without_login(url: str) -> str:
    """An address, of a proxy or not, as it may be shown and written down."""
    return re.sub(r"^((?:--proxy=)?(?:[^/@]*://)?).*@", r"\1***@", url, flags=re.DOTALL)


def _covers(entry: str, address: URL) -> bool:
    """Say whether an entry of NO_PROXY is about an address: `*`, a host, a domain, either with a port, a network."""
    if entry == "*":
        return True
    host, port = address.host or "", None
    if (found := _ENTRY.fullmatch(entry)) is not None:
        entry, port = found[1], int(found[2])
    if port not in (None, address.port):
        return False
    if in_network(host, entry.strip("[]")):
        return True
    domain = entry.lstrip("*").strip(".")
    names = (f".{name}".removesuffix(".") for name in (host, address.raw_host))
    return bool(domain) and any(name.endswith(f".{domain}") for name in names)


def _read(url: str, name: str) -> Proxy | str:
    """A proxy, or what is to be said of one that cannot be used: where it was named, and what it is but for a login."""
    scheme, mark, rest = url.strip().partition("://")
    login, _, place = (rest if mark else scheme).rpartition("@")
    scheme, place = scheme.lower() if mark else "http", place.partition("/")[0]
    if scheme.startswith("socks"):
        why = "SOCKS is not supported, an http:// or https:// proxy is"
    elif scheme not in ("http", "https"):
        why = "a proxy's address begins with http:// or https://"
    elif not is_address(f"{scheme}://{place}") or place.endswith(":") or not login.isprintable():
        why = "it has no host, or a host, port or login that can be none; an example is http://proxy.example.com:3128"
    else:
        user, _, password = (unquote_to_bytes(word) for word in login.partition(":"))
        known = {"Proxy-Authorization": f"Basic {b64encode(user + b':' + password).decode()}"} if login else {}
        return Proxy(URL(f"{scheme}://{place}"), known, password.decode(errors="replace"))
    return f"{name}: {without_login(url)!r} is no proxy that can be used: {why}."
