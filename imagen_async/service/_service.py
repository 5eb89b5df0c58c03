"""A service over one client: what there is behind its paths, from its opening to its end."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from .._checked import checked_deadline, checked_kept
from .._core.suggestion import did_you_mean
from .._core.values import ImageRequest
from .._off_loop import OffLoop
from .._single import Single
from .._text import told
from .._watch.log import log
from ..errors import ConfigurationError, ImagenError, JournalError
from ._announcer import Announcer
from ._answers import prefix_of
from ._archive import Archive
from ._board import Board
from ._book import OrderRow
from ._bookkeeper import Bookkeeper
from ._budgets import CallerBudgets
from ._callers import ANYBODY, Caller, Callers
from ._demand import DAY, KEY, Demand
from ._desk import Desk
from ._files import SWEEPING, Files
from ._leftovers import Leftovers
from ._notices import Notices
from ._orders import Order
from ._reading import Reader
from ._refusals import Refused, wrong
from ._sight import Sight

if TYPE_CHECKING:
    from .._accounts import OpenAccount
    from .._client import Client

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
    kept = checked_kept(keep, "keep")
    if kept is None or kept < LEAST_KEPT:
        raise ConfigurationError(
            f"keep={keep!r}: allowed is a day or more, for so long a lost answer is asked for again."
        )
    if not 0 <= grace < math.inf:
        raise ConfigurationError(f"grace={grace!r}: allowed is a number of seconds from 0 on.")
    return Terms(dict(aliases), public_url, kept, checked_deadline(deadline), grace)


class Service:
    """What there is behind the paths.

    Args:
        client: Open by the time that this is; with a journal, and a folder for its pictures.
        terms: How it is to be.
        callers: Gives those who may ask now; None: everybody on this machine.

    Attributes:
        reader: Reads bodies.
        inputs: The folder of pictures that go in.
        files: Hands out pictures, once it is open.
        archive: Looks up orders, once it is open.
        notices: Tells callers of their ends, once it is open.
        sight: Sees how it fares, once it is open.
        desk: Takes orders, once it is open.
        board: What our own client hears of its tasks, once it is open.
        leftovers: Collects what nobody waits for any more, once it is open.
    """

    def __init__(self, client: Client, terms: Terms, callers: Callable[[], Callers] | None) -> None:
        folder = client._keeping.save_to
        if folder is None or client._keeping.journal is None:
            message = "A service needs a client that keeps what it makes: Client(…, journal=…, save_to=…)."
            raise ConfigurationError(message)
        self._client = client
        self._terms = terms
        self._callers = callers
        self.reader: Reader = Reader(client._router, terms.aliases, takes_private=self._is_private)
        for alias, model in terms.aliases.items():
            self._check_model(model, f"The alias {alias} stands for")
        for _, caller in () if callers is None else callers().entries:
            self._check_models_of(caller)
        self.inputs: str = os.path.join(folder, INPUTS)
        self._keeper = Bookkeeper(os.path.join(os.path.abspath(folder), BOOK))
        self._tasks: set[asyncio.Task[None]] = set()

    def _check_models_of(self, caller: Caller) -> None:
        """Refuse what there is not, and an alias, of which its model's name is meant; raises ConfigurationError."""
        for model in caller.models or ():
            if model in self._terms.aliases:
                message = (
                    f"Caller {caller.name} may use {told(model)}, an alias: name {self._terms.aliases[model]} there"
                )
                raise ConfigurationError(f"{message}.")
            self._check_model(model, f"Caller {caller.name} may use")

    def _check_model(self, model: str, what: str) -> None:
        """Refuse a model that none of the accounts has; raises ConfigurationError."""
        if not self.reader.has(model):
            message = f"{what} {told(model)}, which none of the accounts has"
            raise ConfigurationError(f"{message}.{did_you_mean(model, self.reader.models)}")

    @property
    def _is_private(self) -> bool:
        """True where addresses of this machine and its networks are fetched from, and called back to."""
        return self._client._settings.private_files or any(map(_is_local, self._client._accounts.values()))

    @property
    def off_loop(self) -> OffLoop:
        """Where files are read and written."""
        return self._client._open().off_loop

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Have its book open, and what an earlier process has left gone on with; raises ImagenError."""
        async with AsyncExitStack() as stack:
            await self._keeper.open()
            stack.push_async_callback(self._keeper.close)
            await self._check_journal(self._client._open().durably.mark)
            await self._prepare()
            stack.push_async_callback(self.notices.close)
            stack.push_async_callback(self._stop)
            for row in await self._keeper.ask(lambda book: book.unfinished()):
                await self.go_on(row)
            self._start(self._look_after())
            yield

    async def leave(self) -> None:
        """Take nothing more, and hear out what is on its way, or runs, for as long as the grace is."""
        await self.desk.close(self._terms.grace)
        # Last: what has ended meanwhile is told.
        self.board.close()

    async def _stop(self) -> None:
        """Hear out what is on its way, and call off what is done beside that."""
        await self.desk.close(0.0)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _check_journal(self, mark: str) -> None:
        """Make sure that the book is that of this journal; raises JournalError."""
        if await self._keeper.ask(lambda book: book.once("journal", mark)) != mark:
            message = f"{self._keeper.path} is the book of another journal, and the one that is there knows none of it"
            remedy = "Put that one back. To begin anew, remove both: what callers have spent is forgotten."
            raise JournalError(f"{message}. Nothing was sent. {remedy}")

    async def _prepare(self) -> None:
        """Have all who work here know of each other, and of what was spent before."""
        client = self._client._open()
        secret = await self._keeper.ask(lambda book: book.once("secret", secrets.token_hex(32)))
        self.files: Files = Files(self._keeper, secret, self._terms.kept, self.inputs, client.off_loop)
        self.archive: Archive = Archive(self._keeper, self.reader, client.durably)
        self.board: Board = Board(self.files.addresses)
        announcer = Announcer(self._client._settings, is_private=self._is_private)
        self.notices: Notices = Notices(self._keeper, self.reader, self.files, announcer, self._caller)
        budgets = CallerBudgets()
        for caller, spent in (await self._keeper.ask(lambda book: book.spendings())).items():
            budgets.recall(caller, sum(spent.settled.values()), spent.settled, spent.reserved)
        self.sight: Sight = Sight(client.scheduler)
        hearers = self.files.rows, self._ended, self.sight
        self.desk: Desk = Desk(self._keeper, budgets, self.archive, self._begin, *hearers)
        left = self._client, self._keeper, self.archive, self.desk, self._terms.deadline, self._ended
        self.leftovers: Leftovers = Leftovers(*left)
        await announcer.open()

    def address(self, request: web.Request) -> str:
        """Where whoever has sent a request finds the service."""
        here = f"{request.scheme}://{request.host}{prefix_of(request)}"
        return (self._terms.public_url or here).rstrip("/")

    async def find(self, caller: Caller, order_id: str) -> tuple[OrderRow, Order]:
        """An order of a caller, as it is now; nothing is sent for it. Raises Refused where there is none."""
        row = await self._keeper.ask(lambda book: book.order(order_id))
        if row is None or (row.caller != caller.name and not caller.is_admin):
            raise wrong("There is no such order, or not any more.", code="no_such_order", status=404)
        return row, self.desk.live(order_id) or await self.archive.order(row)

    async def go_on(self, row: OrderRow) -> None:
        """Have an order made that was taken, and that nobody makes; nothing where it is made, or is over."""
        caller = self._caller(row.caller)
        if row.is_async and row.ended_at is None and not row.is_called_off and caller is not None:
            try:
                key = row.name.removeprefix(KEY) if row.name.startswith(KEY) else None
                demand = Demand(caller, self.archive.asked(row), row.body, key, callback=row.callback)
            except Refused as refused:
                log(logging.WARNING, "the order %s is not gone on with: %s", row.id, refused)
            else:
                await self.desk.go_on(demand, row.ordinal)

    async def _begin(self, demand: Demand, request: ImageRequest, key: str) -> Single:
        asked, request = demand.asked, msgspec.structs.replace(request, key=key)
        terms = asked.deadline or self._terms.deadline, asked.on_refused
        turn = demand.caller.name, demand.caller.share
        return await self._client._new(request, {}, *terms, False, turn, waits=asked.waits)

    def _caller(self, name: str) -> Caller | None:
        return ANYBODY if self._callers is None else self._callers().by_name(name)

    def _ended(self, row: OrderRow, order: Order) -> None:
        self.sight.shown(order, self.files)
        if order.asked.way == "tasks":
            self.board.ended(row, order)
        if not order.is_final and order.cost is None:
            # Its time is over here, and it runs on.
            self._start(self.leftovers.collect())
        if self.notices.is_wanted(row):
            self._start(self.notices.tell(row, order))

    async def _look_after(self) -> None:
        """Tell of what has ended, collect what nobody waits for, and remove what is kept no longer: now and then."""
        while True:
            for work in (self.leftovers.tell, self.leftovers.collect, self.files.sweep):
                try:
                    await work()
                except ImagenError as error:  # such as a full disk: it is tried again
                    log(logging.WARNING, "what a service does now and then cannot be done now: %s", error)
            await asyncio.sleep(SWEEPING)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _is_local(account: OpenAccount) -> bool:
    return account.provider.is_local
