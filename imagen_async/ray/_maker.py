"""One row after the other: which request it is, that it is made once, and that it is paid for within its limit."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import msgspec

from .._client import Client
from .._core.cells import as_shown, request_of
from .._core.defaults import content_key, with_defaults
from .._core.journal_entry import JournalEntry
from .._core.parameters import Parameter
from .._core.routing import UNKNOWN_PRICE
from .._core.values import ImageRequest, Result
from .._core.wording import states_sent_again
from .._input_files import InputLooks
from .._journal import JournalReader
from .._journal.resume import check_writable
from .._opening import known_files
from .._text import one_line
from ..errors import AccountError, ImagenError, InvalidRequest, JournalError
from ._answers import Answer, answer_of, failed_answer
from ._purse import Purse


class Order(msgspec.Struct, frozen=True):
    """What a job is, with each of its rows; none of it is secret.

    Attributes:
        mark: Of the journal that the job began with.
        began_at: The coordinator's Unix time at which it did.
        defaults: What rows leave unsaid.
        max_credits: What all jobs of the journal may spend until it is done; infinity: anything.
        deadline: Seconds for each request, from when it first goes out.
        retry_failed: Whether what had failed, or was unknown, before the job began is made anew.
    """

    mark: str
    began_at: float
    defaults: ImageRequest
    max_credits: float = math.inf
    deadline: float = 900.0
    retry_failed: bool = False


class RowMaker:
    """Has rows made by an open client.

    Args:
        client: It.
        journal: Its journal, or None.
        is_left: Says whether it is being left: what comes of a row then is no answer.
    """

    def __init__(self, client: Client, journal: str | None, is_left: Callable[[], bool]) -> None:
        self._client = client
        self._journal = journal
        self._is_left = is_left
        self._purse = None if journal is None else Purse(self._look_up, partial(self._count, journal))
        # By key: what ends once nobody is at work on it.
        self._at_work: dict[str, asyncio.Event] = {}

    async def open(self) -> None:
        """Learn what was spent before."""
        if self._purse is not None:
            await self._purse.open()

    async def answer(self, order: Order, row: Mapping[str, Any]) -> Answer:
        """What becomes of a row; raises ImagenError where that ends the job, for all others would fare the same."""
        request = as_shown(row)
        try:
            request = await self._request(order, row)
            async with self._alone(str(request.key)):
                result = await self._made(order, request)
        except ImagenError as error:
            if self._is_left() or isinstance(error, JournalError):
                raise
            return failed_answer(request, error)
        is_stopped = isinstance(result.error, AccountError) and self.is_stopped()
        if result.error is not None and (is_stopped or isinstance(result.error, JournalError)):
            raise result.error
        return answer_of(result)

    def is_stopped(self) -> bool:
        """True where none of the accounts takes anything more."""
        return not self._client._open().scheduler.upstreams.take_creates

    async def _request(self, order: Order, row: Mapping[str, Any]) -> ImageRequest:
        """The request of a row, with its key; raises InvalidRequest."""
        opened, router = self._client._open(), self._client._router

        def own(model: Any) -> Mapping[str, Parameter]:
            return router.own_fields(model or order.defaults.model)

        try:
            stated = with_defaults(request_of(row, own), order.defaults)
            looks = InputLooks(opened.uploader.files, router, None, opened.off_loop, known_files(self._journal))
            stated = await looks.request(stated)
            check_writable(named := msgspec.structs.replace(stated, key=stated.key or content_key(stated)))
            return named
        except ImagenError:
            raise
        except Exception as error:  # of whatever a data set may hold
            raise InvalidRequest(f"The row cannot be read: {one_line(str(error))}.") from error

    @asynccontextmanager
    async def _alone(self, key: str) -> AsyncIterator[None]:
        """Be the only one who is at work on a key; who comes later finds what became of it."""
        while (other := self._at_work.get(key)) is not None:
            await other.wait()
        self._at_work[key] = gone = asyncio.Event()
        try:
            yield
        finally:
            del self._at_work[key]
            gone.set()

    async def _made(self, order: Order, request: ImageRequest) -> Result:
        """What a request comes to; raises ImagenError where nothing was begun."""
        if self._purse is None:
            return await self._outcome(order, request)
        key = str(request.key)
        is_limited = order.max_credits < math.inf
        entry = await self._look_up(key) if is_limited or order.retry_failed else None
        # What this job has sent is made once, however often its rows are asked for.
        renews = order.retry_failed and entry is not None and (entry.sent_at or 0.0) < order.began_at
        # What is there is given, whatever it has cost.
        is_there = entry is not None and entry.state in ("running", "ready", "done")
        price = self._dearest(request) if is_limited and not is_there else 0.0
        again = states_sent_again(retry_failed=renews, resubmits_unknown=renews)
        async with self._purse.held(key, price, order.max_credits, again):
            return await self._outcome(order, request, renews=renews)

    async def _outcome(self, order: Order, request: ImageRequest, *, renews: bool = False) -> Result:
        # The time of a row counts from when it first goes out, as in a batch: there may be many before it.
        single = await self._client._new(request, {}, order.deadline, "fail", renews, waits=True)
        try:
            return await single.outcome()
        finally:
            single.drop()

    def _dearest(self, request: ImageRequest) -> float:
        """The most that a request may cost; raises InvalidRequest where nobody knows."""
        sent, route = self._client._router.route(request)
        # Of hundreds of accounts most have the same model.
        offers = {id(offer.model): offer for offer in route.offers}.values()
        prices = [route.dearest(offer, sent) for offer in offers]
        if None in prices:
            raise InvalidRequest(f"model={request.model!r}: {UNKNOWN_PRICE}.")
        return max(price or 0.0 for price in prices)

    async def _look_up(self, key: str) -> JournalEntry | None:
        (entry,) = await self._client._open().durably.look_up([key])
        return entry

    async def _count(self, journal: str) -> float:
        return await self._client._open().off_loop.run(_spent_in, journal)


def _spent_in(journal: str) -> float:
    """Credits that all requests of a journal have cost, or may have."""
    with JournalReader(journal) as reader:
        return sum(bill.total * count for bill, count in reader.bills())
