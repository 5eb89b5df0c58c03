"""Orders that were taken before, as the book and the journal have them: looked at only, nothing is sent for any."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from .._core.journal_entry import JournalEntry
from ._book import OrderRow
from ._bookkeeper import Bookkeeper
from ._orders import Order, key_of, keys_of
from ._reading import Asked, Body, Reader
from ._refusals import Refused
from ._task_reading import read_task

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
        return self._noted(row, await self._durable.look_up(keys_of(_key(row), row.tasks)))

    def asked(self, row: OrderRow) -> Asked:
        """What a row's order was for; raises Refused as above."""
        body = msgspec.json.decode(row.body, type=Body)
        return read_task(self._reader, body) if body.way == "tasks" else self._reader.read(body)

    async def has(self, row: OrderRow) -> bool:
        """True where the journal has every task of an order; it may be an older one, restored from a copy."""
        return None not in await self._durable.look_up(keys_of(_key(row), row.tasks))

    async def last(self, caller: str, name: str) -> OrderRow | None:
        """A caller's newest order of a name; None where the book has none."""
        rows, _ = await self._keeper.ask(lambda book: book.orders_of(caller, name))
        last = max(rows, key=lambda row: row.ordinal, default=None)
        return None if last is None else (await self.rows([last.id]))[0]

    async def rows(self, ids: Sequence[str]) -> list[OrderRow | None]:
        """The rows of those ids, in one turn of the book."""
        return await self._keeper.ask(lambda book: [book.order(each) for each in ids])

    async def orders(self, rows: Sequence[OrderRow]) -> list[Order | None]:
        """The orders of rows of a task each, in one look at the journal; None where nobody serves a model any more."""
        entries = await self._durable.look_up([keys_of(_key(row), 1)[0] for row in rows])
        found: list[Order | None] = []
        for row, entry in zip(rows, entries, strict=True):
            try:
                found.append(self._noted(row, [entry]))
            except Refused:
                found.append(None)
        return found

    def _noted(self, row: OrderRow, entries: Sequence[JournalEntry | None]) -> Order:
        # Of what its caller has called off nothing more is sent, whatever still runs.
        has_ended = row.ended_at is not None or row.is_called_off
        return Order.noted(row.id, _key(row), self.asked(row), entries, has_ended=has_ended)


def _key(row: OrderRow) -> str:
    return key_of(row.caller, row.name, row.ordinal)
