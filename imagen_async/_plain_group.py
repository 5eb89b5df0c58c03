"""A task group whose users see no exception group, and that may be left in another task than it was entered in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self

import anyio


class PlainGroup:
    """Tasks that run beside a block, until it ends and `cancel` is called. An error of theirs comes out as it is.

    anyio's group is bound to the task that enters it. A block is not: fixtures, portals, cells of a notebook and
    generators that are collected enter in one task and leave in another. So the group has a task of its own.
    """

    def __init__(self) -> None:
        self._begun = asyncio.Event()
        self._over = asyncio.Event()
        self._error: BaseException | None = None
        self._has_cancelled = False

    def start_soon(self, work: Callable[..., Coroutine[Any, Any, Any]], *arguments: object) -> None:
        """Start a task; its error ends the block."""
        self._group.start_soon(work, *arguments)

    def cancel(self) -> None:
        """End every task that still runs."""
        self._group.cancel_scope.cancel()

    async def _hold(self) -> None:
        try:
            async with anyio.create_task_group() as self._group:
                self._begun.set()
                await self._over.wait()
        except BaseExceptionGroup as several:
            self._error = _first(several)
            if not self._over.is_set():
                self._has_cancelled = self._block.cancel()

    async def __aenter__(self) -> Self:
        block = asyncio.current_task()
        assert block is not None
        self._block = block
        self._holding = asyncio.create_task(self._hold())
        try:
            await self._begun.wait()
        except BaseException:
            self._holding.cancel()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if error is not None:
            self.cancel()
        cancelled = await self._held()
        if self._has_cancelled and isinstance(error, asyncio.CancelledError):
            self._block.uncancel()
        if self._error is not None:
            raise self._error from None
        # A cancellation that comes on top does not hide an error: that has something to tell.
        if cancelled is not None and error is None:
            raise cancelled

    async def _held(self) -> asyncio.CancelledError | None:
        """Wait until all have ended, who are cancelled with whoever waits; returns how that was cancelled."""
        cancelled = None
        while not self._holding.done():
            try:
                # A scope's cancellation would come time and again.
                with anyio.CancelScope(shield=cancelled is not None):
                    await asyncio.wait([self._holding])
            except asyncio.CancelledError as again:
                cancelled = again
                self.cancel()
        return cancelled


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
