"""Where a batch's results come out: put in order, and waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .._core.values import Result
from .reorder_buffer import AsTheyFinish, InOrder


class Outlet:
    """The results of one batch on their way out.

    Args:
        ordered: In the order of the input, not of finishing.

    Attributes:
        live: Jobs whose end is yet to come.
    """

    def __init__(self, *, ordered: bool) -> None:
        self.live = 0
        self._buffer = InOrder() if ordered else AsTheyFinish()
        self._reopened: set[int] = set()
        self._changed = asyncio.Event()

    def expect(self, ticket: int) -> None:
        """Hear which result is the next of the input, by the id of its job or another number of its own."""
        # One that a callback has brought back before the input came to it has its place already.
        if ticket not in self._reopened:
            self._buffer.expect(ticket)

    def reopen(self, ticket: int) -> None:
        """Expect another result in the place of one that has come out."""
        self.expect(ticket)
        self._reopened.add(ticket)

    def put(self, result: Result, ticket: int) -> None:
        """Take in a result."""
        self._buffer.put(result, ticket)
        self._changed.set()

    def skip(self, ticket: int) -> None:
        """Hear that a result will not come."""
        self._buffer.skip(ticket)
        self._changed.set()

    def notice(self) -> None:
        """Have whoever waits look again whether anything is to come."""
        self._changed.set()

    async def next(self, is_over: Callable[[], bool]) -> Result | None:
        """The next result; None once nothing is left and, as `is_over` says, nothing will come."""
        while not self._buffer.ready:
            if is_over() and not self.live:
                self._buffer.release()
                break
            self._changed.clear()
            await self._changed.wait()
        return self._buffer.ready.popleft() if self._buffer.ready else None

    async def dry(self, is_over: Callable[[], bool]) -> None:
        """Wait until every live job has ended, or until `is_over` says that nobody waits any more."""
        while self.live and not is_over():
            self._changed.clear()
            await self._changed.wait()

    def empty(self) -> tuple[Result, ...]:
        """Take out all that is there, and wait for nothing more."""
        self._buffer.release()
        rest = tuple(self._buffer.ready)
        self._buffer.ready.clear()
        return rest
