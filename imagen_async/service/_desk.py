"""Where demands come in: each order is made once, for all who ask for the same, whenever and however often they do."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Protocol

import msgspec

from .._core.values import ImageRequest
from .._single import Single
from .._text import told
from .._watch.log import log
from ..errors import ConfigurationError, ImagenError
from ._archive import Archive
from ._book import FileRow, OrderRow
from ._bookkeeper import Bookkeeper
from ._demand import Demand
from ._orders import Order, Watch, key_of
from ._ordinals import LAPSES, Turn, Turns
from ._refusals import FAULT, LEAVING, Refused, refusal_of, wrong

if TYPE_CHECKING:
    from ._callers import Caller

GIVEN_AFTER = 0.02
"""Seconds after which at the latest it is noted that an answer was given."""


class Purse(Protocol):
    """What callers may spend."""

    def reserve(self, caller: Caller, order_id: str, credits: float | None, day: int) -> None:
        """Set aside what an order may cost; raises ImagenError where it does not fit."""

    def settle(self, order_id: str, spent: float | None) -> None:
        """Hear what an order has cost; None: nobody knows, so that it is what was set aside."""

    def release(self, order_id: str) -> None:
        """Hear that nothing of an order was sent."""


class _Line:
    """All orders of one caller and name, for as long as any of them is at work, or somebody waits."""

    __slots__ = ("looking_up", "orders", "rows", "turns", "users")

    def __init__(self) -> None:
        self.users = 0
        self.looking_up = asyncio.Lock()
        self.turns: Turns | None = None
        # As the book has them, which nobody else writes.
        self.rows: dict[int, OrderRow] = {}
        self.orders: dict[int, Order] = {}


class Wait(msgspec.Struct, frozen=True):
    """Somebody's waiting for an order, which is the `ordinal`th of its line."""

    order: Order
    line: _Line
    ordinal: int


Begin = Callable[[Demand, ImageRequest, str], Awaitable[Single]]
"""Has a request of a demand sent under a key, or finds what came of that key before."""

Shown = Callable[[Order], Iterable[FileRow]]
"""The pictures of an order, as they can be fetched."""

Ended = Callable[[OrderRow, Order], None]
"""Hears of an order that has ended, once that is noted."""


class Desk:
    """Takes orders. For one that has been taken there is no second task, whatever becomes of whoever asks, or of this.

    Args:
        keeper: Has the book, open.
        purse: What callers may spend.
        archive: Looks up what was taken before.
        begin: Has a task sent.
        shown: Says where its pictures can be fetched.
        ended: Hears of each end.
        watch: Counts how tasks fare.

    Attributes:
        is_closing: True once nothing is taken any more.
    """

    def __init__(
        self,
        keeper: Bookkeeper,
        purse: Purse,
        archive: Archive,
        begin: Begin,
        shown: Shown,
        ended: Ended,
        watch: Watch,
    ) -> None:
        self._keeper = keeper
        self._purse = purse
        self._archive = archive
        self._begin = begin
        self._shown = shown
        self._ended = ended
        self._watch = watch
        self._lines: dict[tuple[str, str], _Line] = {}
        self._orders: dict[str, Order] = {}
        self._making: set[asyncio.Task[None]] = set()
        self.is_closing = False

    async def wait(self, demand: Demand) -> Wait:
        """Wait for the order that a demand comes to, which has begun by then; whoever does so leaves it with `leave`.

        Raises:
            Refused: Its key stands for another body, or the service is leaving.
            ImagenError: It cannot be paid, or noted; nothing was sent.
        """
        line = self._enter(demand)
        try:
            turns = await self._turns(line, demand)
            ordinal = _ordinal(line, turns, demand)
            turns.join(ordinal, time.time(), repeat=demand.repeat)
            try:
                order = await self._joined(line, ordinal, demand)
            except BaseException:
                turns.leave(ordinal)
                raise
        except BaseException:
            self._exit(line, demand)
            raise
        return Wait(order, line, ordinal)

    def leave(self, wait: Wait, demand: Demand) -> None:
        """Wait no more, answered or not.

        Whoever leaves costs nothing that was not sent: once nobody waits any more, nothing more is. What was sent is
        heard out, and whoever asks for the same finds it.
        """
        _leave(wait.order)
        assert wait.line.turns is not None
        wait.line.turns.leave(wait.ordinal)
        self._exit(wait.line, demand)

    async def given(self, wait: Wait) -> None:
        """Hear that the answer to an order was written to whoever asked. It is on disk once this returns."""
        at, line = time.time(), wait.line
        assert line.turns is not None
        line.turns.give(wait.ordinal, at)
        line.rows[wait.ordinal] = msgspec.structs.replace(line.rows[wait.ordinal], given_at=at)
        # Killed before that, it hands out the same once more: no reason for a transaction of its own.
        await self._keeper.ask(lambda book: book.mark(wait.order.id, given_at=at), wait=GIVEN_AFTER)

    async def go_on(self, demand: Demand, ordinal: int) -> None:
        """Have an order made that an earlier process has taken, and for which nobody waits."""
        line = self._enter(demand)
        try:
            await self._turns(line, demand)
            if ordinal not in line.orders and not self.is_closing:
                self._place(line, ordinal, demand)
        finally:
            self._exit(line, demand)

    async def settle(self, row: OrderRow, order: Order) -> OrderRow | None:
        """Note what an order that nobody makes has come to; None where that is open, or it is gone on with."""
        is_lapsed = order.cost is not None and (row.is_called_off or time.time() - row.begun_at > LAPSES)
        if (row.caller, row.name) not in self._lines and (order.is_final or order.cost == 0 or is_lapsed):
            return await self._end(order, row, is_lapsed=is_lapsed)
        return None

    async def call_off(self, row: OrderRow) -> None:
        """Have no more sent of an order. It is on disk once this returns, for whichever process goes on with it."""
        await self._keeper.ask(lambda book: book.mark(row.id, is_called_off=True))
        line = self._lines.get((row.caller, row.name))
        if line is not None and row.ordinal in line.rows:
            line.rows[row.ordinal] = msgspec.structs.replace(line.rows[row.ordinal], is_called_off=True)

    def live(self, order_id: str) -> Order | None:
        """The order of that id, while it is being made."""
        return self._orders.get(order_id)

    async def close(self, grace: float) -> None:
        """Take nothing more, send nothing more, and hear out for some seconds what is on its way, or runs."""
        self.is_closing = True
        for order in self._orders.values():
            order.withhold()
        if self._making:
            await asyncio.wait(self._making, timeout=grace)
        for making in self._making:
            making.cancel()
        if self._making:
            await asyncio.wait(self._making)

    def _enter(self, demand: Demand) -> _Line:
        """The line of a demand, which is kept for as long as anybody is in it."""
        line = self._lines.setdefault((demand.caller.name, demand.name), _Line())
        line.users += 1
        return line

    def _exit(self, line: _Line, demand: Demand) -> None:
        line.users -= 1
        if not line.users:
            del self._lines[demand.caller.name, demand.name]

    async def _turns(self, line: _Line, demand: Demand) -> Turns:
        """What is known of the caller's equal requests, looked up where nobody has."""
        async with line.looking_up:
            if line.turns is None:
                place = demand.caller.name, demand.name
                rows, first = await self._keeper.ask(lambda book: book.orders_of(*place))
                line.rows = {row.ordinal: row for row in rows}
                line.turns = Turns(((row.ordinal, Turn(row.begun_at, row.given_at)) for row in rows), first)
        return line.turns

    async def _joined(self, line: _Line, ordinal: int, demand: Demand) -> Order:
        """The order of that number, with one more who waits for it, once it has begun."""
        while True:
            if self.is_closing:
                raise Refused(LEAVING)
            order = line.orders.get(ordinal)
            if order is None:
                order = self._place(line, ordinal, demand)
            elif order.is_withheld:
                # All had left it, and what runs of it is heard out: what comes of that is found by the same keys.
                await order.over.wait()
                continue
            order.waiting += 1
            try:
                await order.begun.wait()
                _check_same(order.asked.digest, demand)
                if order.refusal is not None:
                    raise Refused(order.refusal)
            except BaseException:
                _leave(order)
                raise
            return order

    def _place(self, line: _Line, ordinal: int, demand: Demand) -> Order:
        key = key_of(demand.caller.name, demand.name, ordinal)
        begin = partial(self._begin, demand)
        number = f"img-{secrets.token_hex(12)}"
        order = line.orders[ordinal] = Order(number, key, demand.asked, begin, demand.caller.name, self._watch)
        # As long as it is being made, somebody is in the line.
        line.users += 1
        making = asyncio.create_task(self._make(line, ordinal, order, demand))
        self._making.add(making)
        making.add_done_callback(partial(self._made, line, ordinal, order, demand))
        return order

    async def _make(self, line: _Line, ordinal: int, order: Order, demand: Demand) -> None:
        """Make an order, from its row in the book to its end there."""
        try:
            await self._note(line, ordinal, order, demand)
            self._orders[order.id] = order
            order.begun.set()
            if self.is_closing:
                order.withhold()
            await order.make()
            line.rows[ordinal] = await self._end(order, line.rows[ordinal])
            if line.rows[ordinal].ended_at is not None:
                self._ended(line.rows[ordinal], order)
        except ImagenError as error:
            refusal = refusal_of(error)
            # Once tasks may exist nobody is told to ask again, though whoever does finds them.
            order.refusal = msgspec.structs.replace(refusal, status=424) if order.begun.is_set() else refusal
        except Refused as refused:
            order.refusal = refused.refusal

    def _made(self, line: _Line, ordinal: int, order: Order, demand: Demand, making: asyncio.Task[None]) -> None:
        """Hear that an order is made, or will not be: also one that was called off before it began."""
        self._making.discard(making)
        fault = None if making.cancelled() else making.exception()
        if fault is not None:
            told = "".join(traceback.format_exception(fault))
            log(logging.ERROR, "the order %s failed by a fault of the service: %s", order.id, told)
            order.refusal = FAULT
        if making.cancelled():
            order.refusal = LEAVING
        self._orders.pop(order.id, None)
        del line.orders[ordinal]
        order.begun.set()
        order.over.set()
        self._exit(line, demand)

    async def _note(self, line: _Line, ordinal: int, order: Order, demand: Demand) -> None:
        """Have the order in the book: from here on its price is set aside, and it can be asked for by its id."""
        row = line.rows.get(ordinal)
        if row is not None:
            order.id = row.id
            _check_same(row.content, demand)
            if row.is_called_off and not row.is_final:
                raise wrong("It was called off by its caller.", code="cancelled")
            if row.is_final and await self._archive.has(row):
                return
        # What is set aside already, as before a restart, is not set aside twice.
        new = demand.row(order.id, ordinal, time.time())
        try:
            self._purse.reserve(demand.caller, order.id, demand.asked.price, new.day)
        except ConfigurationError as error:  # nobody knows the price, and this caller has a budget
            raise wrong(error.message, "model", "unknown_price", 402) from None
        if row is not None and row.spent is None:
            return
        try:
            await self._keeper.ask(lambda book: book.renew(new))
        except BaseException:
            self._purse.release(order.id)
            raise
        line.rows[ordinal] = new

    async def _end(self, order: Order, row: OrderRow, *, is_lapsed: bool = False) -> OrderRow:
        """Note what an order has come to, and have its pictures shown; returns how its row is then."""
        if self.is_closing and row.is_async and not order.is_final:
            return row  # nobody has called it off: the next process goes on with it
        is_unsent = order.cost == 0 and not order.is_final
        # What of it was not sent may be asked for again: what is set aside for it holds on.
        cost = order.cost if order.is_final or is_unsent or is_lapsed else None
        error = msgspec.json.encode(order.refusals[0].error) if order.refusals else None
        changes = {"ended_at": time.time(), "spent": cost, "is_final": order.is_final, "error": error}
        ended = msgspec.structs.replace(row, **changes)
        if is_unsent and not row.is_async:
            await self._keeper.ask(lambda book: book.cancel(order.id))
        else:
            files = tuple(self._shown(order))
            await self._keeper.ask(lambda book: book.end(ended, files))
        if not row.is_final:
            _settle(self._purse, order, cost)
        return ended


def _ordinal(line: _Line, turns: Turns, demand: Demand) -> int:
    """Which of the caller's orders of that name a demand means; raises Refused where there is none to be behind."""
    if demand.key is None:
        return turns.next(time.time(), repeat=demand.repeat)
    if demand.after is None:
        last = line.rows.get(turns.last)
        # Of a task that was called off nothing was sent: who asks for it again wants it made.
        return turns.last + (last is not None and last.is_unsent and demand.asked.way == "tasks")
    before = next((ordinal for ordinal, row in line.rows.items() if row.id == demand.after), turns.first - 1)
    # What is remembered no more is before all that is; without any such it is a slip.
    if before < 0:
        message = f"after={told(demand.after)}: there is no such order of this key, or not any more. Nothing was sent."
        raise wrong(message, "after", "no_such_order")
    return before + 1


def _leave(order: Order) -> None:
    order.waiting -= 1
    if not order.waiting and not order.asked.is_async:
        order.withhold()


def _check_same(content: str, demand: Demand) -> None:
    """Refuse a key that stands for another body."""
    if content != demand.asked.digest:
        message = f"The key {demand.key!r} stood for another request. Nothing was sent: give this one another key."
        raise wrong(message, code="idempotency_key_reused")


def _settle(purse: Purse, order: Order, cost: float | None) -> None:
    if cost == 0:
        purse.release(order.id)
    elif cost is not None:
        purse.settle(order.id, cost)
