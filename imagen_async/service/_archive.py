"""Orders that were taken before, as the book and the journal have them: looked at only, nothing is sent for any."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ._book import OrderRow
from ._bookkeeper import Bookkeeper
from ._orders import Order, keys_of
from ._reading import Asked, Body, Reader

if TYPE_CHECKING:
    from .._durable import Durable


class Archive:
    """Looks up orders.

    Args:
        keeper: Has the book.
        reader: Reads what was asked for.
        durable: Has the journal.
    """

    def __init__(self, keeper: Bookkeeper, reader: Reader, durable: Durable) -> None:
        self._keeper = keeper
        self._reader = reader
        self._durable = durable

    async def order(self, row: OrderRow) -> Order:
        """The order of a row, as far as it has come; raises Refused where nobody serves its model any more."""
        key = f"{row.caller}/{row.name}/{row.ordinal}"
        # Of what its caller has called off nothing more is sent, whatever still runs.
        has_ended = row.ended_at is not None or row.is_called_off
        entries = await self._durable.look_up(keys_of(key, row.tasks))
        return Order.noted(row.id, key, self.asked(row), entries, has_ended=has_ended)

    def asked(self, row: OrderRow) -> Asked:
        """What a row's order was for; raises Refused as above."""
        return self._reader.read(msgspec.json.decode(row.body, type=Body))
