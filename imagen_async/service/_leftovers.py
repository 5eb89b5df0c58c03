"""What an earlier process has left, or runs on past its time: it is paid for, and whoever asked for it hears of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from .._watch.log import log
from ..errors import ImagenError
from ._archive import Archive
from ._book import OrderRow
from ._bookkeeper import Bookkeeper
from ._desk import Desk
from ._orders import Order
from ._refusals import Refused

if TYPE_CHECKING:
    from .._client import Client


class Leftovers:
    """Collects it, and notes what it has come to.

    Args:
        client: Has the tasks.
        keeper: Has the book.
        archive: Looks up orders.
        desk: Settles them.
        deadline: Seconds for each.
        ended: Hears of each order that has come to an end after all.
    """

    def __init__(
        self,
        client: Client,
        keeper: Bookkeeper,
        archive: Archive,
        desk: Desk,
        deadline: float,
        ended: Callable[[OrderRow, Order], None],
    ) -> None:
        self._client = client
        self._keeper = keeper
        self._archive = archive
        self._desk = desk
        self._deadline = deadline
        self._ended = ended
        self._is_wanted = self._is_at_work = self._has_told = False

    async def collect(self) -> None:
        """Collect what there is, and settle it; while that goes on, once more is done by the one that does it."""
        self._is_wanted = True
        if self._is_at_work:
            return
        self._is_at_work = True
        try:
            while self._is_wanted:
                self._is_wanted = False
                async for _ in self._client.resume(deadline=self._deadline):
                    pass
                await self.settle()
        except ImagenError as error:
            log(logging.WARNING, "what runs on, and nobody waits for, cannot be collected now: %s", error)
        finally:
            self._is_at_work = False

    async def tell(self) -> None:
        """Tell, once, of those whose end an earlier process has noted, and not announced."""
        if self._has_told:
            return
        self._has_told = True
        for row in await self._keeper.ask(lambda book: book.untold()):
            with suppress(Refused):
                self._ended(row, await self._archive.order(row))

    async def settle(self) -> None:
        """Note what has come to an end of which the book does not know that, as far as it is known by now."""
        rows = await self._keeper.ask(lambda book: book.unfinished())
        # Those for which nobody waits are gone on with, or wait for their caller to be known again.
        for row in (row for row in rows if not row.is_async or row.ended_at is not None or row.is_called_off):
            # Where its model is gone, what it may cost stays set aside.
            with suppress(Refused):
                order = await self._archive.order(row)
                ended = await self._desk.settle(row, order)
                if ended is not None:
                    self._ended(ended, order)
