"""Connections in memory: bytes take their time, arrive in their order, and may be lost with the line."""

from __future__ import annotations

import asyncio
import errno
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from .stage import FIRST_DESCRIPTOR
from .wire import Wire

if TYPE_CHECKING:
    from .process import Process
    from .universe import Universe

GIVES_UP = 130.0
"""Seconds after which a system gives up on a connection that is not answered."""


class Terms(NamedTuple):
    """How a network carries bytes.

    Attributes:
        latency: Seconds that they take one way, at least.
        jitter: Seconds more, by chance.
        pieces: Share of the writes that arrive in pieces.
    """

    latency: float = 0.02
    jitter: float = 0.01
    pieces: float = 0.1


class Listening:
    """A place where a process listens; asyncio's Server as aiohttp uses it."""

    def __init__(self, network: Network, process: Process, factory: Any, address: tuple[str, int]) -> None:
        self.process, self.factory = process, factory
        self._network, self._address = network, address
        self.sockets: list[Any] = [self]

    def getsockname(self) -> tuple[str, int]:
        """Where."""
        return self._address

    def close(self) -> None:
        """Listen no more."""
        self._network.listening.pop(self._address[1], None)
        self.sockets = []

    async def wait_closed(self) -> None:
        """It is closed at once."""


class Descriptor:
    """What stands for the socket of a connection."""

    family = None

    def __init__(self, number: int) -> None:
        self._number = number

    def fileno(self) -> int:
        """Its number."""
        return self._number

    def setsockopt(self, *_: Any) -> None:
        """Nothing to set."""


class End(asyncio.Transport):
    """One end of a connection.

    Attributes:
        other: The other end.
        unread: Arrivals that the loop has not read yet.
        is_open: True until it is closed or lost.
        is_ended: True once the other end's end has arrived, read or not.
    """

    def __init__(self, process: Process, number: int, names: tuple[Any, Any], network: Network) -> None:
        super().__init__({"sockname": names[0], "peername": names[1], "socket": Descriptor(number)})
        self.process, self.number = process, number
        self.unread, self.is_open, self.is_ended = 0, True, False
        self.other: End
        self.wire: Wire
        self.is_client = False
        self._protocol: Any = None
        self._carry, self._chance = network.terms, network.chance
        self._arrives_at = 0.0
        self._is_paused, self._held = False, list[bytes | None]()
        process.ends[number] = self

    def begin(self, protocol: Any) -> None:
        """Give it to its protocol."""
        self._protocol = protocol
        protocol.connection_made(self)

    # What the protocol asks for.

    def write(self, data: Any) -> None:
        """Send bytes."""
        if self.is_open and data:
            self.wire.written(self, bytes(data))

    def writelines(self, list_of_data: Any) -> None:
        """Send bytes at once."""
        self.write(b"".join(list_of_data))

    def close(self) -> None:
        """End it once all is sent."""
        if self.is_open:
            self.wire.ended(self, None)
            self._lose(None)

    def abort(self) -> None:
        """End it at once."""
        if self.is_open:
            self.wire.ended(self, ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"))
            self._lose(None)

    def is_closing(self) -> bool:
        """Say whether it has ended."""
        return not self.is_open

    def can_write_eof(self) -> bool:
        """It can."""
        return True

    def get_protocol(self) -> Any:
        """Whose it is."""
        return self._protocol

    def set_protocol(self, protocol: Any) -> None:
        """Give it to another."""
        self._protocol = protocol

    def get_write_buffer_size(self) -> int:
        """The line takes everything."""
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """It needs none."""

    def is_reading(self) -> bool:
        """Say whether it hands on what comes."""
        return not self._is_paused

    def pause_reading(self) -> None:
        """Keep what comes."""
        self._is_paused = True

    def resume_reading(self) -> None:
        """Hand on what came meanwhile."""
        self._is_paused = False
        held, self._held = self._held, []
        for data in held:
            self._hand_on(data)

    # What the line does.

    def send(self, data: bytes, delay: float = 0.0, told: Callable[[], object] | None = None) -> None:
        """Let bytes arrive at the other end, in pieces at times; `told` once the last of them was read there."""
        cuts = [len(data)]
        if len(data) > 1 and self._chance.random() < self._carry.pieces:
            cuts = sorted({*(self._chance.randrange(1, len(data)) for _ in range(3)), len(data)})
        for start, stop in itertools.pairwise([0, *cuts]):
            self.deliver(data[start:stop], delay, told if stop == len(data) else None)

    def send_end(self, error: Exception | None, delay: float = 0.0) -> None:
        """Let an end arrive at the other end: after all that was sent, where it is none by force."""
        self.deliver(error, delay, None)

    def deliver(self, what: bytes | Exception | None, delay: float, told: Any) -> None:
        """Let something arrive at the other end, after all that was sent before."""
        universe, there = self.process.universe, self.other
        takes = self._carry.latency + self._chance.random() * self._carry.jitter + delay
        self._arrives_at = max(self._arrives_at, universe.now + takes)
        universe.after(self._arrives_at - universe.now, None, lambda: there.arrive(what, told))

    def arrive(self, what: bytes | Exception | None, told: Any = None) -> None:
        """Have something wait for the loop."""
        if self.process.is_dead:
            return
        self.unread += 1
        self.is_ended = self.is_ended or not isinstance(what, bytes)
        self.process.happen(lambda: self._read(what, told), off_loop=False)

    def _read(self, what: bytes | Exception | None, told: Any) -> None:
        self.unread -= 1
        if isinstance(what, Exception):
            self._lose(what)
        elif not self.is_open:
            if what is not None:
                self.send_end(ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"))
        else:
            if told is not None:
                told()
            if self._is_paused:
                self._held.append(what)
            else:
                self._hand_on(what)

    def _hand_on(self, data: bytes | None) -> None:
        if not self.is_open:
            return
        if data is None:
            if not self._protocol.eof_received():
                self.close()
        else:
            self._protocol.data_received(data)

    def _lose(self, error: Exception | None) -> None:
        if self.is_open:
            self.is_open = False
            self.process.ends.pop(self.number, None)
            if self._protocol is not None:
                self.process.loop.call_soon(self._protocol.connection_lost, error)

    def vanish(self) -> None:
        """Be gone with the process: the other end is told by its system."""
        self.process.ends.pop(self.number, None)
        if self.is_open:
            self.is_open = False
            self.wire.ended(self, ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"))


class Network:
    """Who listens where, and how a connection comes about."""

    def __init__(self, universe: Universe) -> None:
        self.listening: dict[int, Listening] = {}
        self.terms = Terms()
        self.new_wire: Callable[[End, End], Wire] = Wire
        self.handshake: Callable[[Process, int], tuple[str, float]] = lambda process, port: ("made", 0.0)
        self._universe = universe
        self._ports = itertools.count(40_000)
        self._numbers = itertools.count(FIRST_DESCRIPTOR)
        self.chance = universe.chance("network")

    def listen(self, process: Process, factory: Any, host: str, port: int) -> Listening:
        """Listen at an address."""
        port = port or next(self._ports)
        if port in self.listening:
            raise OSError(errno.EADDRINUSE, "Address already in use")
        self.listening[port] = Listening(self, process, factory, (host, port))
        return self.listening[port]

    async def connect(self, process: Process, host: str, port: int) -> End:
        """Connect to an address, in two ways there and back."""
        how, delay = self.handshake(process, port)
        trip = 2 * self.terms.latency + self.chance.random() * self.terms.jitter
        made: asyncio.Future[End] = process.loop.create_future()
        if how == "never":
            self._universe.after(GIVES_UP, process, lambda: _refuse(made, TimeoutError(errno.ETIMEDOUT, "timed out")))
        else:
            self._universe.after(trip + delay, process, lambda: self._answer(process, port, how, made))
        try:
            return await made
        except asyncio.CancelledError:
            if made.done() and not made.cancelled() and made.exception() is None:
                made.result().abort()  # it was there already, and nobody has come to have it
            raise

    def _answer(self, process: Process, port: int, how: str, made: asyncio.Future[End]) -> None:
        listening = self.listening.get(port)
        if listening is None or listening.process.is_dead or how == "refused":
            _refuse(made, ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"))
        elif not made.done():
            made.set_result(self._pair(process, listening, port))

    def _pair(self, process: Process, listening: Listening, port: int) -> End:
        here, there = ("127.0.0.1", next(self._ports)), ("127.0.0.1", port)
        client = End(process, next(self._numbers), (here, there), self)
        server = End(listening.process, next(self._numbers), (there, here), self)
        client.other, server.other, client.is_client = server, client, True
        client.wire = server.wire = self.new_wire(client, server)
        self._universe.after(0.0, listening.process, lambda: server.begin(listening.factory()))
        return client


def _refuse(made: asyncio.Future[End], error: OSError) -> None:
    if not made.done():
        made.set_exception(error)
