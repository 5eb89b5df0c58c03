"""Calls that go in groups: what is sent to one service within a moment is one exchange, whose answer is split again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from typing import Any, Protocol

import msgspec

from .._core.failure import Failure
from .._core.naming import Joined, NamingDialect
from .._core.wire import HttpRequest, HttpResponse
from ..errors import ImagenError, TransportError

MOMENT = 0.005
"""Seconds that a call waits for others."""

MOST_CALLS = 250
"""Calls in a group: an answer about each has its place in what is read of one."""

MOST_BYTES = 256 << 10
"""Bytes of a group: what stands before a service often takes no more than a megabyte."""

LEAST_TIME = 10.0
"""Seconds that the answer to a group may take at least, whatever the time of one of its calls."""

Leaves = Callable[[], bool]


class Send(Protocol):
    """What carries a request to an account; `SessionPool.send` is one."""

    def __call__(
        self, account: str, request: HttpRequest, *, within: float | None = None, leaves: Leaves | None = None
    ) -> Awaitable[HttpResponse]: ...


class _Call(msgspec.Struct, frozen=True, eq=False):
    """One call, and who waits for its answer."""

    request: HttpRequest
    within: float | None
    leaves: Leaves | None
    answer: asyncio.Future[HttpResponse]

    def fail(self, error: ImagenError) -> None:
        """Have whoever waits get an error of its own."""
        if not self.answer.done():
            self.answer.set_exception(Failure.of(error).exception())


class Groups:
    """Sends the calls of some accounts in groups, and those of all others as they come.

    Args:
        send: Carries a request.
        dialects: How the accounts talk whose calls go in groups.
        start: Runs something beside whoever calls.
    """

    def __init__(
        self,
        send: Send,
        dialects: Mapping[str, NamingDialect],
        start: Callable[[Callable[[], Coroutine[Any, Any, None]]], None],
    ) -> None:
        self._send = send
        self._dialects = dialects
        self._start = start
        self._waiting: dict[tuple[str, str], list[_Call]] = {}
        self._sizes: dict[tuple[str, str], int] = {}

    def send(
        self, account: str, request: HttpRequest, *, within: float | None = None, leaves: Leaves | None = None
    ) -> Awaitable[HttpResponse]:
        """Carry a request, arguments and errors as those of `SessionPool.send`.

        Of a create it is asked in the same way whether it may go, in the moment in which its group leaves: one that
        may not is taken out of that.
        """
        if account not in self._dialects:
            return self._send(account, request, within=within, leaves=leaves)
        call = _Call(request, within, leaves, asyncio.get_running_loop().create_future())
        self._add((account, request.path), call)
        return call.answer

    def _add(self, way: tuple[str, str], call: _Call) -> None:
        size = len(call.request.body or b"")
        if self._sizes.get(way, 0) + size > MOST_BYTES or len(self._waiting.get(way, ())) >= MOST_CALLS:
            self._start(partial(self._carry, way, self._taken(way)))
        calls = self._waiting.setdefault(way, [])
        if not calls:
            self._start(partial(self._wait, way, calls))
        calls.append(call)
        self._sizes[way] = self._sizes.get(way, 0) + size

    def _taken(self, way: tuple[str, str]) -> list[_Call]:
        self._sizes.pop(way, None)
        return self._waiting.pop(way, [])

    async def _wait(self, way: tuple[str, str], calls: list[_Call]) -> None:
        """Give others a moment, and send what there is by then; what is full has gone before."""
        await asyncio.sleep(MOMENT)
        if self._waiting.get(way) is calls:
            await self._carry(way, self._taken(way))

    async def _carry(self, way: tuple[str, str], calls: list[_Call]) -> None:
        account, dialect = way[0], self._dialects[way[0]]
        joined = dialect.join([call.request for call in calls])
        times = [call.within for call in calls if call.within is not None]
        within = max(LEAST_TIME, min(times)) if times else None
        leaves = partial(_leave, joined, calls) if calls[0].leaves is not None else None
        try:
            response = await self._send(account, joined.request, within=within, leaves=leaves)
            for call, answer in zip(calls, dialect.split(response, len(calls)), strict=True):
                if not call.answer.done():
                    call.answer.set_result(answer)
        except ImagenError as error:
            for call in calls:
                call.fail(error)
        finally:
            # Cancelled, or by a fault of ours: nobody may wait for what will not come.
            for call in calls:
                call.fail(TransportError("The client was left before the answer came."))


def _leave(joined: Joined, calls: list[_Call]) -> bool:
    """Ask of each call of a group for the last time whether it may go, and take out of its body those that may not."""
    body, is_any = joined.request.body, False
    assert isinstance(body, bytearray)
    for call, (start, end) in zip(calls, joined.places, strict=True):
        if call.leaves is None or call.leaves():
            is_any = True
        else:
            # As long as it was: the length is told by now.
            body[start:end] = b"null".ljust(end - start)
            call.fail(TransportError("It is not to go any more.", sent=False))
    return is_any
