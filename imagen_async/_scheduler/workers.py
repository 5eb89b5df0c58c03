"""Tasks that let one job after the other talk: a task that rests between two jobs costs a quarter of a new one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import anyio

from .._core.change import Change
from .._core.job import Job
from .._plain_group import PlainGroup


class Workers:
    """Let jobs talk whose turn has come.

    Args:
        group: Where the tasks run.
        talk: Lets one job talk to its end.
    """

    def __init__(self, group: PlainGroup, talk: Callable[[Job], Awaitable[None]]) -> None:
        self._group = group
        self._talk = talk
        self._scopes: list[anyio.CancelScope] = []
        self._resting: list[asyncio.Future[Job]] = []

    def on_turn(self, change: Change, now: float) -> None:
        """Let the job talk whose turn this is: in a task that has done with another's, or in a new one."""
        # A task that the program has cancelled rests no more.
        while self._resting and self._resting[-1].done():
            self._resting.pop()
        if self._resting:
            self._resting.pop().set_result(change.after)
        else:
            # Shielded: whatever is cancelled around the client, the answer to a create is heard if it comes in time.
            # Known before it runs, so that `cancel` ends also one that has not begun.
            scope = anyio.CancelScope(shield=True)
            self._scopes.append(scope)
            self._group.start_soon(self._work, change.after, scope)

    def cancel(self) -> None:
        """End every talk, and every task that rests."""
        for scope in self._scopes:
            scope.cancel()

    async def _work(self, job: Job, scope: anyio.CancelScope) -> None:
        with scope:
            while True:
                await self._talk(job)
                resting: asyncio.Future[Job] = asyncio.get_running_loop().create_future()
                self._resting.append(resting)
                job = await resting
