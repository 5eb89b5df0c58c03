"""The one owner of keys, limits and journal, for all workers of a cluster: it creates and asks; bytes never pass here.

What Ray runs as an actor. Without Ray in it, so that its promises are kept, and tried, by themselves.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing, nullcontext
from typing import Any

import anyio
import msgspec

from .._accounts import Account
from .._client import Client
from .._core.cells import request_of
from .._core.defaults import content_key, with_defaults
from .._core.failure import Failure
from .._core.journal_entry import JournalEntry
from .._core.routing import UNKNOWN_PRICE
from .._core.values import ImageRequest, Result
from .._core.wording import states_sent_again
from .._input_files import InputLooks
from .._journal import JournalReader
from .._journal.lock import FileLock
from .._opening import known_files
from .._scheduler.renewal import new_links
from ..errors import AccountError, ConfigurationError, ImagenError, InvalidRequest, JournalError
from ..events import Listener
from ._answers import Answer, answer_of, told
from ._groups import check_alone
from ._purse import Purse

SILENCE = 2.0
"""Seconds after which an asker that does not say that it is there is taken for dead: what it asked for is not sent."""

LOOK = 0.5
"""Seconds between two looks for such; an asker says that it is there as often."""

PATIENCE = 10.0
"""Seconds that one waits for the one before to let go of the journal."""


class Terms(msgspec.Struct, frozen=True):
    """What a coordinator is told, none of it secret.

    Attributes:
        journal: Where it keeps its requests; None where services of ours keep them by their names.
        defaults: What rows leave unsaid.
        max_credits: What all jobs of the journal may spend, or None.
        deadline: Seconds for each request, from when it first goes out.
        retry_failed: Whether what failed, or is unknown, is made anew.
        options: Of its Client.
    """

    journal: str | None
    defaults: ImageRequest
    max_credits: float | None = None
    deadline: float = 900.0
    retry_failed: bool = False
    options: Mapping[str, Any] = {}


class Coordinator:
    """Has each row made once, whoever asks for it, how often, and whoever dies meanwhile.

    Args:
        terms: What it is told.
        is_again: True where one before it has died: then its journal has to be there.
        listener: Hears what happens.
    """

    def __init__(self, terms: Terms, *, is_again: bool = False, listener: Listener | None = None) -> None:
        self._terms = terms
        self._is_again = is_again
        self._listener = listener
        self._again: frozenset[str] = states_sent_again(
            retry_failed=terms.retry_failed, resubmits_unknown=terms.retry_failed
        )
        self._begun = asyncio.Event()
        self._leaving = asyncio.Event()
        self._failure: ImagenError | None = None
        self._purse: Purse | None = None
        self._mark = ""
        # By asker: when it was last heard of, and what it waits for.
        self._heard: dict[str, float] = {}
        self._asks: dict[str, set[anyio.CancelScope]] = {}

    async def hold(self, accounts: Sequence[Account]) -> None:
        """Be open, with accounts whose keys nobody else has, until `leave`; raises ImagenError where it cannot be.

        Whoever calls it keeps the call: it is given anew to whatever takes the place of one that died.
        """
        try:
            async with self._opened(accounts):
                self._begun.set()
                await self._watch()
        except ImagenError as error:
            self._failure = error
            raise
        finally:
            self._begun.set()
            self._leaving.set()

    async def mark(self) -> str:
        """What tells its journal from any other, once it is open; raises what keeps it from being open."""
        await self._begun.wait()
        self._check_open(self._mark)
        return self._mark

    async def attend(self, asker: str) -> None:
        """Hear that an asker is there."""
        self._heard[asker] = asyncio.get_running_loop().time()

    async def ask(self, asker: str, mark: str, rows: Sequence[Mapping[str, Any]]) -> list[Answer] | None:
        """Have rows made, or find what they have come to; None where the asker was taken for dead: let it ask again.

        Free to repeat, for each has a key.

        Args:
            asker: Who asks.
            mark: Of the journal that the job began with.
            rows: What stands in the columns that are fields, by the fields' names.

        Raises:
            AccountError: No account takes anything more.
            JournalError: The journal is another one than the job's, or cannot be written.
            ConfigurationError: It is being left.
        """
        await self._begun.wait()
        self._check_open(mark)
        await self.attend(asker)
        answers: list[Answer | None] = [None] * len(rows)
        scopes = self._asks.setdefault(asker, set())
        with anyio.CancelScope() as scope:
            scopes.add(scope)
            try:
                await self._answer_all(rows, answers)
            finally:
                scopes.discard(scope)
        if scope.cancelled_caught:
            self._check_open(mark)
            return None
        return [answer for answer in answers if answer is not None]

    async def links(self, mark: str, account: str, task_id: str, dead: Sequence[str]) -> tuple[str, ...]:
        """Other links to the pictures of a task than those, which have died; creates nothing, and is free to repeat.

        Raises:
            DownloadFailed: There are none.
            ImagenError: The provider cannot be asked.
        """
        await self._begun.wait()
        self._check_open(mark)
        found = (await self._client.collect(task_id, provider=account, deadline=self._terms.deadline)).urls
        if set(found) != set(dead):
            return found
        opened, dialect = self._client._open(), self._client._accounts[account].provider.dialect
        errand, mask = opened.scheduler.errands.send, opened.pool.mask.text
        links = await new_links(errand, account, dialect, dead, mask)
        if isinstance(links, Failure):
            raise links.about(account=account, task_id=task_id).exception()
        return links

    async def leave(self, *, only_if_idle: bool = False) -> bool:
        """Send no more creates from now on, and hear out what is on its way; False where it is asked and not idle."""
        if only_if_idle and any(self._asks.values()):
            return False
        self._leaving.set()
        # At once: what the client says of them once it is left is nobody's answer.
        self._call_off(list(self._asks))
        return True

    async def is_stopped(self) -> bool:
        """True where none of its accounts takes anything more."""
        return self._begun.is_set() and not self._client._open().scheduler.upstreams.take_creates

    @asynccontextmanager
    async def _opened(self, accounts: Sequence[Account]) -> AsyncIterator[None]:
        journal = self._terms.journal
        async with AsyncExitStack() as stack:
            if journal is not None:
                await self._lock(stack, journal)
            self._client = Client(*accounts, journal=journal, on_event=self._listener, **self._terms.options)
            await stack.enter_async_context(self._client)
            durable = self._client._open().durable
            if durable is not None:
                self._mark = durable.mark
            if self._terms.max_credits is not None and journal is not None:
                spent = await self._client._open().off_loop.run(_spent_in, journal)
                self._purse = Purse(self._terms.max_credits, spent, self._look_up)
            yield

    async def _lock(self, stack: AsyncExitStack, journal: str) -> None:
        lock = stack.enter_context(closing(FileLock(f"{self._checked_path(journal)}-coordinator")))
        by = asyncio.get_running_loop().time() + PATIENCE
        while not lock.take():
            if asyncio.get_running_loop().time() > by:
                raise JournalError(f"{journal} is in use: another coordinator has it. Nothing was sent. End that job.")
            await asyncio.sleep(LOOK)

    def _checked_path(self, journal: str) -> str:
        """Where the journal really is; raises JournalError where it should be there, and is not."""
        path = os.path.realpath(journal)
        if self._is_again and not os.path.exists(path):
            message = f"This job had a journal at {journal}, and a coordinator that took the place of one that died"
            remedy = "Begin again where the journal is: generate_images(…, node=…)"
            raise JournalError(f"{message} finds none there. Nothing was sent, for it would be paid anew. {remedy}.")
        if not os.path.isdir(os.path.dirname(path)):
            raise JournalError(f"{journal} cannot be made: there is no folder {os.path.dirname(path)} on its node.")
        check_alone(path)
        return path

    def _check_open(self, mark: str) -> None:
        """Raise what keeps it from answering for a job that began with the journal of that mark."""
        if self._failure is not None:
            raise self._failure
        if self._leaving.is_set():
            raise ConfigurationError("The coordinator is being left. What was paid for is in the journal.")
        if mark != self._mark:
            message = f"The journal {self._terms.journal} is another one than this job began with, and knows none of it"
            raise JournalError(f"{message}. Nothing was sent, for it would be paid anew. Put the first one back.")

    async def _watch(self) -> None:
        """Call off what the dead have asked for, until it is left."""
        now = asyncio.get_running_loop().time
        while not self._leaving.is_set():
            looked = now()
            with anyio.move_on_after(LOOK):
                await self._leaving.wait()
            if now() - looked > SILENCE:
                # It stood still itself: nobody could be heard meanwhile.
                self._heard = dict.fromkeys(self._heard, now())
            silent = [asker for asker, heard in self._heard.items() if now() - heard > SILENCE]
            self._call_off(silent)
            for asker in silent:
                del self._heard[asker]
                self._asks.pop(asker, None)

    def _call_off(self, askers: Sequence[str]) -> None:
        for asker in askers:
            for scope in self._asks.get(asker, ()):
                scope.cancel()

    async def _answer_all(self, rows: Sequence[Mapping[str, Any]], answers: list[Answer | None]) -> None:
        async def put(place: int, row: Mapping[str, Any]) -> None:
            answers[place] = await self._answer(row)

        ending: ImagenError | None = None
        try:
            async with anyio.create_task_group() as group:
                for place, row in enumerate(rows):
                    group.start_soon(put, place, row)
        except* ImagenError as several:
            # One of them: each says the same.
            ending = _first(several)
        if ending is not None:
            raise ending

    async def _answer(self, row: Mapping[str, Any]) -> Answer:
        """What becomes of a row; raises ImagenError where that ends the job, for all others would fare the same."""
        prompt, key = row.get("prompt"), row.get("key")
        request = ImageRequest("" if prompt is None else str(prompt), key=None if key is None else str(key))
        try:
            request, price = await self._request(row)
            result = await self._made(request, price)
        except ImagenError as error:
            if self._leaving.is_set() or isinstance(error, JournalError):
                raise
            return Answer(request.key or "", request.prompt, error=told(error))
        if isinstance(result.error, JournalError) or (
            isinstance(result.error, AccountError) and await self.is_stopped()
        ):
            raise result.error
        return answer_of(result)

    async def _request(self, row: Mapping[str, Any]) -> tuple[ImageRequest, float]:
        """The request of a row, with its key, and the most that it may cost; raises InvalidRequest."""
        opened, router, defaults = self._client._open(), self._client._router, self._terms.defaults
        stated = with_defaults(request_of(row, router.own_fields(row.get("model") or defaults.model)), defaults)
        remembered = known_files(self._terms.journal)
        looks = InputLooks(opened.uploader.files, router, None, opened.off_loop, remembered)
        stated = await looks.request(stated)
        key = stated.key or content_key(stated)
        price = 0.0 if self._purse is None else self._dearest(stated)
        return msgspec.structs.replace(stated, key=key), price

    def _dearest(self, stated: ImageRequest) -> float:
        """The most that a request may cost; raises InvalidRequest where nobody knows."""
        sent, route = self._client._router.route(stated)
        # Of hundreds of accounts most have the same model.
        offers = {id(offer.model): offer for offer in route.offers}.values()
        prices = [route.dearest(offer, sent) for offer in offers]
        if None in prices:
            raise InvalidRequest(f"model={stated.model!r}: {UNKNOWN_PRICE}.")
        return max(price or 0.0 for price in prices)

    async def _made(self, request: ImageRequest, price: float) -> Result:
        """What a request comes to; raises ImagenError where nothing was begun."""
        deadline, retry_failed = self._terms.deadline, self._terms.retry_failed
        purse = self._purse
        held = nullcontext() if purse is None else purse.held(str(request.key), price, self._again)
        async with held:
            # The time of a row counts from when it first goes out, as in a batch: there may be many before it.
            single = await self._client._new(request, {}, deadline, "fail", retry_failed, waits=True)
            try:
                return await single.outcome()
            finally:
                single.drop()

    async def _look_up(self, key: str) -> JournalEntry | None:
        (entry,) = await self._client._open().durably.look_up([key])
        return entry


def _first(several: BaseExceptionGroup[ImagenError]) -> ImagenError:
    found = several.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found


def _spent_in(journal: str) -> float:
    """Credits that all requests of a journal have cost, or may have."""
    with JournalReader(journal) as reader:
        return sum(bill.total * count for bill, count in reader.bills())
