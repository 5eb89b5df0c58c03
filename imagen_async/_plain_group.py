"""A task group whose users never see an exception group."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self

import anyio


class PlainGroup:
    """Tasks that run beside a block, until it ends and `cancel` is called. An error of theirs comes out as it is."""

    def __init__(self) -> None:
        self._group = anyio.create_task_group()

    def start_soon(self, work: Callable[..., Coroutine[Any, Any, Any]], *arguments: object) -> None:
        """Start a task; its error ends the block."""
        self._group.start_soon(work, *arguments)

    def cancel(self) -> None:
        """End every task that still runs."""
        self._group.cancel_scope.cancel()

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if isinstance(error, asyncio.CancelledError):
                # The group itself must see a cancellation, to know whether it was its own scope's.
                await self._group.__aexit__(kind, error, trace)
            else:
                # Any other error of the block goes on by itself; the group would wrap it.
                if error is not None:
                    self.cancel()
                with contextlib.suppress(*([asyncio.CancelledError] if error is not None else [])):
                    # A cancellation that comes on top does not hide the error: that has something to tell.
                    await self._group.__aexit__(None, None, None)
        except BaseExceptionGroup as several:
            raise _first(several) from None


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
