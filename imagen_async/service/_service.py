"""A service over one client: what there is behind its paths, from its opening to its end."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from .._checked import checked_deadline, checked_kept
from .._core.values import ImageRequest
from .._off_loop import OffLoop
from .._single import Single
from .._watch.log import log
from ..errors import ConfigurationError, ImagenError
from ._answers import Picture
from ._book import OrderRow
from ._bookkeeper import Bookkeeper
from ._budgets import CallerBudgets
from ._callers import ANYBODY, Caller, Callers
from ._desk import DAY, KEY, Demand, Desk
from ._files import SWEEPING, Files
from ._orders import Order, Part, keys_of
from ._reading import Asked, Body, Reader
from ._refusals import Refused, wrong

if TYPE_CHECKING:
    from .._client import Client
    from .._durable import Durable

BOOK = "serve.db"
"""The name of its book, in the folder of its pictures."""

INPUTS = ".inputs"
"""The folder in that one of pictures that go in."""

LEAST_KEPT = DAY
"""Seconds for which its pictures are kept at least: for so long whoever was not answered may ask again."""


class Terms(msgspec.Struct, frozen=True):
    """How a service is to be.

    Attributes:
        aliases: Names that stand for models.
        public_url: Its address as callers know it; None: as each request names it.
        kept: Seconds for which a picture can be fetched.
        deadline: Seconds that an order may take.
        grace: Seconds for which its end hears out what runs.
    """

    aliases: Mapping[str, str] = {}
    public_url: str | None = None
    kept: float = 7 * DAY
    deadline: float = 900.0
    grace: float = 8.0


def checked_terms(
    aliases: Mapping[str, str], public_url: str | None, keep: str | float, deadline: float, grace: float
) -> Terms:
    """The terms of a service; raises ConfigurationError for what cannot be."""
    kept = checked_kept(keep)
    if kept is None or kept < LEAST_KEPT:
        raise ConfigurationError(
            f"keep={keep!r}: allowed is a day or more, for so long a lost answer is asked for again."
        )
    return Terms(dict(aliases), public_url, kept, checked_deadline(deadline), grace)


class Service:
    """What there is behind the paths.

    Args:
        client: Open by the time that this is; with a journal, and a folder for its pictures.
        terms: How it is to be.

    Attributes:
        reader: Reads bodies.
        desk: Takes orders.
        files: Hands out pictures.
        inputs: The folder of pictures that go in.
    """

    def __init__(self, client: Client, terms: Terms) -> None:
        folder = client._keeping.save_to
        if folder is None or client._keeping.journal is None:
            raise ConfigurationError(
                "A service needs a client that keeps what it makes: Client(…, journal=…, save_to=…)."
            )
        self._client = client
        self._terms = terms
        is_private = any(account.provider.is_local for account in client._accounts.values())
        self.reader: Reader = Reader(client._router, terms.aliases, takes_private=is_private)
        self.inputs: str = os.path.join(folder, INPUTS)
        self._keeper = Bookkeeper(os.path.join(os.path.abspath(folder), BOOK))
        self._budgets = CallerBudgets()
        self.desk: Desk = Desk(self._keeper, self._budgets, self._begin, lambda order: self.files.rows(order))
        self._left: asyncio.Task[None] | None = None

    @property
    def off_loop(self) -> OffLoop:
        """Where files are read and written."""
        return self._client._open().off_loop

    @property
    def _durable(self) -> Durable:
        return self._client._open().durably

    async def open(self, callers: Callers | None) -> None:
        """Open its book, and go on with what an earlier process has left.

        Args:
            callers: Who may ask; None: everybody on this machine.

        Raises:
            ImagenError: Its client is not open, or its book cannot be used.
        """
        await self._keeper.open()
        secret = await self._keeper.ask(lambda book: book.secret(lambda: secrets.token_hex(32)))
        self.files: Files = Files(self._keeper, secret, self._terms.kept, self.inputs, self.off_loop)
        for caller, spent in (await self._keeper.ask(lambda book: book.spendings())).items():
            self._budgets.recall(caller, sum(spent.settled.values()), spent.settled, spent.reserved)
        rows = await self._keeper.ask(lambda book: book.unfinished())
        await self._go_on(rows, callers)
        self._left = asyncio.create_task(self._look_after())

    async def close(self) -> None:
        """Hear out what is on its way, and close the book; raises ImagenError."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._keeper.close)
            if self._left is not None:
                self._left.cancel()
                await asyncio.wait([self._left])
            await self.desk.close(0.0)

    async def leave(self) -> None:
        """Take nothing more, and hear out what is on its way, or runs, for as long as the grace is."""
        await self.desk.close(self._terms.grace)

    def pictures(self, part: Part, request: web.Request) -> tuple[Picture, ...]:
        """The pictures of a task, as whoever has sent a request can fetch them."""
        address = self._terms.public_url or f"{request.scheme}://{request.host}"
        files = () if part.result is None else part.result.files
        return tuple(
            Picture(each.path, each.media_type, f"{address.rstrip('/')}/files/{self.files.token(part, at, each.path)}")
            for at, each in enumerate(files)
        )

    def check_callback(self, caller: Caller, asked: Asked) -> None:
        """Refuse a callback that could not be signed; raises Refused."""
        if asked.callback_url is not None and caller.callback_secret is None:
            message = "A callback must be signed, and this caller has no callback_secret in the callers' file."
            raise wrong(message, "callback_url", "no_callback_secret")

    async def find(self, caller: Caller, order_id: str) -> tuple[OrderRow, Order]:
        """An order of a caller, as it is now; nothing is sent for it. Raises Refused where there is none."""
        row = await self._keeper.ask(lambda book: book.order(order_id))
        if row is None or (row.caller != caller.name and not caller.is_admin):
            raise wrong("There is no such order, or not any more.", code="no_such_order", status=404)
        live = self.desk.live(order_id)
        return row, live or await self._looked_up(row)

    async def _begin(self, request: ImageRequest, key: str, caller: Caller) -> Single:
        request = msgspec.structs.replace(request, key=key)
        return await self._client._new(request, {}, self._terms.deadline, "fail", False)

    async def _looked_up(self, row: OrderRow) -> Order:
        asked = self._asked(row)
        keys = keys_of(f"{row.caller}/{row.name}/{row.ordinal}", row.tasks)
        return Order.noted(row.id, keys[0].rpartition("/")[0], asked, await self._durable.look_up(keys))

    def _asked(self, row: OrderRow) -> Asked:
        return self.reader.read(msgspec.json.decode(row.body, type=Body))

    async def _go_on(self, rows: Iterable[OrderRow], callers: Callers | None) -> None:
        """Have those made that an earlier process has taken, and for which nobody waits."""
        for row in rows:
            caller = ANYBODY if callers is None else callers.by_name(row.caller)
            if row.is_async and row.ended_at is None and caller is not None:
                try:
                    key = row.name.removeprefix(KEY) if row.name.startswith(KEY) else None
                    demand = Demand(caller, self._asked(row), row.body, key)
                except Refused as refused:
                    log(logging.WARNING, "the order %s is not gone on with: %s", row.id, refused)
                else:
                    await self.desk.go_on(demand, row.ordinal)

    async def _settle_left(self) -> None:
        """Note what those have come to that an earlier process has left, as far as it is known by now."""
        rows = await self._keeper.ask(lambda book: book.unfinished())
        # Those for which nobody waits are gone on with, or wait for their caller to be known again.
        for row in (row for row in rows if not row.is_async or row.ended_at is not None):
            try:
                order = await self._looked_up(row)
            except Refused:  # its model is gone: what it may cost stays set aside
                continue
            await self.desk.settle(row, order)

    async def _look_after(self) -> None:
        """Collect what an earlier process has left, then remove now and then what is kept no longer."""
        try:
            async for _ in self._client.resume(deadline=self._terms.deadline):
                pass
        except ImagenError as error:
            log(logging.WARNING, "what an earlier process has left cannot be collected now: %s", error)
        while True:
            await self._settle_left()
            await self.files.sweep()
            await asyncio.sleep(SWEEPING)
