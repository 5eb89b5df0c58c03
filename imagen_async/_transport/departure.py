"""The last instant before a request leaves: for a create, when it is asked for the last time whether it may."""

from __future__ import annotations

import asyncio
import io
import select
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Protocol

import aiohttp
from aiohttp import ClientHandlerType, ClientRequest, ClientResponse
from aiohttp.abc import AbstractStreamWriter

from .._patience import TURNS

SETTLED = 4
"""Turns after which an end that was read has come through to the transport."""


LARGE = 1 << 20
"""Bytes from which on a body goes out in pieces: as a whole it keeps the loop, and aiohttp warns of it."""


class Line(Protocol):
    """What is looked at of a connection; aiohttp's protocol is one.

    Attributes:
        transport: What carries its bytes; None: it is closed.
        should_close: True where it carries something that nobody has asked for, or an end.
    """

    transport: asyncio.Transport | None

    @property
    def should_close(self) -> bool:
        """See above."""


def may_have_ended(line: Line) -> bool:
    """Say whether the other end may have closed a connection on which nothing is awaited; costs 1 µs.

    The loop may not have come to read that yet. Bytes that wait to be read are an end, or what nobody has asked for.
    A transport that has no socket tells its ends by itself.
    """
    transport = line.transport
    if transport is None or transport.is_closing() or line.should_close:
        return True
    socket = transport.get_extra_info("socket")
    if socket is None:
        return False
    descriptor = socket.fileno()
    return descriptor < 0 or _is_readable(descriptor)


def _polled(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def _selected(descriptor: int) -> bool:
    return bool(select.select([descriptor], [], [], 0)[0])


# `select` takes no descriptor above 1,023 but on Windows, which has nothing else.
_is_readable = _polled if hasattr(select, "poll") else _selected


class Departure:
    """Whether a request has left, told by whoever sends it.

    Args:
        leaves: Of a create, says whether it may go; asked once, when nothing but writing it is left to do.
        is_again: True where another connection had ended before it left.

    Attributes:
        began_at: Loop time at which this was made.
        is_again: As given.
        is_create: True for what must not be sent again.
        left_at: Loop time from which a byte of it may have left; None: none has.
        is_on_line: True while a create has its connection and was not asked yet: what fails then is the connection.
    """

    __slots__ = ("_leaves", "began_at", "is_again", "is_create", "is_on_line", "left_at")

    def __init__(self, leaves: Callable[[], bool] | None = None, *, is_again: bool = False) -> None:
        self.began_at = asyncio.get_running_loop().time()
        self.is_again = is_again
        self.is_create = leaves is not None
        self.left_at: float | None = None
        self.is_on_line = False
        self._leaves = leaves

    def waits_since(self) -> float:
        """Loop time since which its answer is waited for, or else a connection."""
        return self.left_at or self.began_at

    def body(self, content: bytes | bytearray | None) -> bytes | bytearray | io.BytesIO | aiohttp.BytesPayload | None:
        """What aiohttp is to write: a create's body asks before its first byte, and that of its head, is written."""
        if content is not None and self._leaves is not None:
            return _CreateBody(content, self)
        return content if content is None or len(content) <= LARGE else io.BytesIO(content)

    async def leave(self, line: Line) -> None:
        """Let a create leave, or raise ConnectionAbortedError: then no byte of it may be written."""
        assert self._leaves is not None
        looks, turns = 1, TURNS
        while looks and turns:
            looks, turns = looks - 1, turns - 1
            if may_have_ended(line):
                # What waits there is read by the loop: what a new TLS connection begins with, or an end, in some turns.
                looks = SETTLED
            if looks:
                await asyncio.sleep(0)
        if looks:
            raise ConnectionAbortedError("the connection had ended")
        self.is_on_line = False
        if not self._leaves():
            raise ConnectionAbortedError("it is not to go any more")
        self.left_at = asyncio.get_running_loop().time()


OUTGOING: ContextVar[Departure] = ContextVar("OUTGOING")
"""The request that a task sends, for the connector: aiohttp hands nothing through to it."""


async def sent_once(request: ClientRequest, send: ClientHandlerType) -> ClientResponse:
    """A middleware for every session: aiohttp sends what is free to repeat once more by itself, beside every limit.

    It has no switch for that, but does so for two kinds of errors only.
    """
    try:
        return await send(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise aiohttp.ClientConnectionError(str(error) or type(error).__name__) from None


class _CreateBody(aiohttp.BytesPayload):
    """Is written by aiohttp together with the head, in one go, some turns of the loop after the connection is had.

    Between the last question and the first byte nothing is awaited.
    """

    def __init__(self, content: bytes | bytearray, departure: Departure) -> None:
        super().__init__(content)
        self._departure = departure

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        line: Any = writer
        await self._departure.leave(line.protocol)
        await super().write_with_length(writer, content_length)
