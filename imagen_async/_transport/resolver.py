"""Names of hosts to addresses, in threads that nothing else waits for: to look one up may take half a minute."""

from __future__ import annotations

import socket
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

from .._addresses import is_loopback
from .._off_loop import OffLoop

LOOKUPS_AT_ONCE = 4
"""Of one session, which has few hosts; of several names that hang, the others wait for a thread."""

_AS_NUMBERS = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV


class Resolver(AbstractResolver):
    """Asks the system, as everything else on the machine does.

    In threads of its own: the loop's, which aiohttp takes, may all be waiting for us, and are waited for at the end.
    """

    def __init__(self) -> None:
        self._off_loop = OffLoop("imagen-names", LOOKUPS_AT_ONCE)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Look a host up; raises OSError where it is not found."""
        return await self._off_loop.run(_look_up, host, port, family)

    async def close(self) -> None:
        """Give the threads up, whatever they still wait for."""
        self._off_loop.close()


def _look_up(host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
    found: list[ResolveResult] = []
    for kind, _, protocol, _, address in _addresses(host, port, family):
        if kind == socket.AF_INET6 and len(address) < 3:
            continue  # a Python without IPv6
        # A link-local address is one with its zone, which the numbers alone do not say.
        has_zone = kind == socket.AF_INET6 and address[3]
        name = socket.getnameinfo(address, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)[0] if has_zone else address[0]
        found.append(
            ResolveResult(hostname=host, host=str(name), port=port, family=kind, proto=protocol, flags=_AS_NUMBERS)
        )
    return found


def _addresses(host: str, port: int, family: socket.AddressFamily) -> list[Any]:
    try:
        return socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    except socket.gaierror:
        # Without a network, Windows does not find itself among the kinds of address that it has.
        if not is_loopback(host):
            raise
        return socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
