"""What can be an address of an API, or of a program of the user's own, and which are of the Internet; asks nobody."""

from __future__ import annotations

import socket
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

from yarl import URL

_IPAddress = IPv4Address | IPv6Address

_GLOBAL_UNICAST = ip_network("2000::/3")

_INSIDE = (
    # IPv6 that leads to the IPv4 address inside of it, and where that stands: from the right, in bits.
    (ip_network("::ffff:0:0/96"), 0),
    (ip_network("64:ff9b::/96"), 0),
    (ip_network("2002::/16"), 80),
)

_INSIDE_ENDS = (".localhost", ".local", ".internal", ".lan", ".home.arpa", ".svc", ".cluster.local")
"""How names end that are given within networks alone: mDNS, clouds and Docker, routers, and Kubernetes."""

_OF_LOCAL_VPNS = ip_network("198.18.0.0/15")
"""What a VPN on this machine answers for every host of the Internet, and takes back when it is connected to."""

_OF_PROTOCOLS = ip_network("192.0.0.0/24")
"""No machine of the Internet, and one cloud's metadata: releases of Python differ about which of it is private."""


def is_address(url: str) -> bool:
    """True for an HTTP address to which a path can be added: without a login, a query or a fragment."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        # To ask for the port raises ValueError where it can be none; yarl does, where the host can be none.
        is_http = parts.scheme in ("http", "https") and parts.port != 0 and bool(URL(url).host)
        is_name = is_host(URL(url).raw_host or "")
    except ValueError:
        return False
    is_odd = _spelt(host) is not None and not _is_canonical(host)
    return is_http and is_name and not is_odd and url.isprintable() and not set(url) & set(" ?#\\@")


def http_host(url: str) -> str | None:
    """The host of an HTTP address, as it is written; None for what is no such address."""
    try:
        parts = urlsplit(url)
        return parts.hostname if parts.scheme in ("http", "https") else None
    except ValueError:
        return None


def is_host(host: str) -> bool:
    """True for what can be the host of an address, as it is sent: an IP address, or a name that can be looked up."""
    # A proxy may read as an address what is escaped in a name.
    is_plain = "%" not in host or ":" in host
    return is_plain and all(0 < len(label) < 64 for label in host.removesuffix(".").split("."))


def is_unencrypted(url: str) -> bool:
    """True where what is sent to an address can be read on the way: by http:// to another machine."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not is_loopback(parts.hostname or "")


def is_inside(host: str) -> bool:
    """True for what is written as an address, or a name, of this machine or its networks; nobody is asked for it.

    Names are those that have no dot, as in a compose file, and those that end in `_INSIDE_ENDS`, which no name of the
    Internet does.
    """
    address, name = _spelt(host), host.lower().removesuffix(".")
    if address is not None:
        return not is_public(str(address))
    return "." not in name or f".{name}".endswith(_INSIDE_ENDS)


@lru_cache(maxsize=256)
def is_loopback(host: str) -> bool:
    """True for a name or an address of this machine itself, which no proxy can reach."""
    address = _spelt(host)
    is_named = f".{host.lower().removesuffix('.')}".endswith(".localhost")
    return is_named if address is None else _meant(address).is_loopback


def literal(host: str) -> str | None:
    """The IP address that is written as a host, however it is spelt; None for a name."""
    address = _spelt(host)
    return None if address is None else str(address)


def is_public(address: str) -> bool:
    """True for an IP address of the Internet: none of this machine, its networks, or of no one machine.

    100.64.0.0/10 is none: beside the customers of a provider it is the machines of a tailnet, and one cloud's metadata.
    """
    meant = _meant(ip_address(address.partition("%")[0]))
    if meant in _OF_LOCAL_VPNS:
        return True
    is_unicast = meant in _GLOBAL_UNICAST if meant.version == 6 else not (meant.is_multicast or meant.is_reserved)
    return meant.is_global and is_unicast and meant not in _OF_PROTOCOLS


def in_network(host: str, network: str) -> bool:
    """True for an IP address in a network, as 10.0.0.0/8 or one address names it; False also for what is none."""
    address = _spelt(host)
    try:
        return address is not None and _meant(address) in ip_network(network, strict=False)
    except ValueError:
        return False


def _meant(address: _IPAddress) -> _IPAddress:
    """The address that is reached in the end, by way of a translator or not."""
    for network, place in _INSIDE:
        if address in network:
            return IPv4Address(int(address) >> place & 0xFFFFFFFF)
    return address


def _is_canonical(host: str) -> bool:
    try:
        return bool(ip_address(host.partition("%")[0]))
    except ValueError:
        return False


def _spelt(host: str) -> _IPAddress | None:
    """The IP address that is written as a host, also in the forms that only the C library reads: 127.1, 0x7f000001."""
    plain = host.strip("[]").partition("%")[0].removesuffix(".")
    try:
        return ip_address(plain if _is_canonical(plain) else socket.inet_aton(plain))
    except (OSError, ValueError):
        return None
