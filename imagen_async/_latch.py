"""An event that is set once: asyncio's, which can be cleared again, takes 700 bytes while nobody waits for it."""

from __future__ import annotations

import asyncio


class Latch:
    """Lets whoever waits go on once it is set, and everybody from then on. For one loop, whose time is no matter."""

    __slots__ = ("_is_set", "_waiting")

    def __init__(self) -> None:
        self._is_set = False
        self._waiting: list[asyncio.Future[None]] | None = None

    def is_set(self) -> bool:
        """True once it is set."""
        return self._is_set

    def set(self) -> None:
        """Let all go on, now and later. Once more is nothing."""
        self._is_set = True
        waiting, self._waiting = self._waiting, None
        for future in waiting or ():
            if not future.done():
                future.set_result(None)

    async def wait(self) -> None:
        """Wait until it is set; whoever is cancelled keeps nobody else."""
        if self._is_set:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._waiting is None:
            self._waiting = []
        self._waiting.append(future)
        try:
            await future
        finally:
            if self._waiting is not None:
                self._waiting.remove(future)
