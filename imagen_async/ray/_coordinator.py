"""The one owner of keys, limits and journal, for all workers of a cluster: it creates and asks; bytes never pass here.

What Ray runs as an actor. Without Ray in it, so that its promises are kept, and tried, by themselves.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from typing import Any

import anyio

from .._accounts import Account
from .._client import Client
from .._core.failure import Failure
from .._journal.lock import FileLock
from .._scheduler.renewal import new_links
from .._text import one_line
from ..errors import ConfigurationError, ImagenError, JournalError
from ..events import Listener
from ._answers import Answer
from ._groups import check_alone
from ._maker import Order, RowMaker

SILENCE = 2.0
"""Seconds after which an asker that does not say that it is there is taken for dead: what it asked for is not sent."""

LOOK = 0.5
"""Seconds between two looks for such; an asker says that it is there as often."""

PATIENCE = 10.0
"""Seconds that one waits for the one before to let go of the journal."""


class Coordinator:
    """Has each row made once, whoever asks for it, how often, and whoever dies meanwhile.

    Args:
        journal: Where it keeps its requests; None where services of ours keep them by their names.
        is_again: True where one before it has died: then its journal has to be there.
        listener: Hears what happens.
    """

    def __init__(self, journal: str | None, *, is_again: bool = False, listener: Listener | None = None) -> None:
        self._journal = journal
        self._is_again = is_again
        self._listener = listener
        self._begun = asyncio.Event()
        self._leaving = asyncio.Event()
        self._failure: ImagenError | None = None
        self._is_held = False
        self._mark = ""
        # By asker: when it was last heard of, and what it waits for.
        self._heard: dict[str, float] = {}
        self._asks: dict[str, set[anyio.CancelScope]] = {}
        self._moved = asyncio.Event()

    async def hold(self, accounts: Sequence[Account], options: Mapping[str, Any]) -> None:
        """Be open until `leave`; raises ImagenError where it cannot be.

        Whoever calls it keeps the call: it is given anew to whatever takes the place of one that died. What is secret
        comes with it, for nobody else keeps it.

        Args:
            accounts: With their keys.
            options: Other arguments of its Client.
        """
        if self._is_held:  # one call twice, by whatever has befallen the line
            await self._leaving.wait()
            return
        self._is_held = True
        try:
            async with self._opened(accounts, options):
                self._begun.set()
                await self._watch()
                # What is asked for is let go while there is a journal yet.
                while any(self._asks.values()):
                    self._moved.clear()
                    await self._moved.wait()
        except Exception as error:
            message = f"The coordinator cannot be open: {one_line(repr(error))}."
            self._failure = error if isinstance(error, ImagenError) else ConfigurationError(message)
            raise self._failure from error
        finally:
            self._begun.set()
            self._leaving.set()

    async def begin(self) -> tuple[str, float]:
        """The mark of its journal, and its Unix time, once it is open; raises what keeps it from being open."""
        await self._begun.wait()
        self._check_open(self._mark)
        return self._mark, time.time()

    async def attend(self, asker: str) -> None:
        """Hear that an asker is there."""
        self._heard[asker] = asyncio.get_running_loop().time()

    async def ask(self, asker: str, order: Order, rows: Sequence[Mapping[str, Any]]) -> list[Answer] | None:
        """Have rows made, or find what they have come to; None where the asker was taken for dead: let it ask again.

        Free to repeat, for each has a key.

        Args:
            asker: Who asks.
            order: The job.
            rows: What stands in the columns that are fields, by the fields' names.

        Raises:
            AccountError: No account takes anything more.
            JournalError: The journal is another one than the job's, or cannot be written.
            ConfigurationError: It is being left.
        """
        await self._begun.wait()
        self._check_open(order.mark)
        await self.attend(asker)
        answers: list[Answer | None] = [None] * len(rows)
        scopes = self._asks.setdefault(asker, set())
        with anyio.CancelScope() as scope:
            scopes.add(scope)
            try:
                await self._answer_all(order, rows, answers)
            finally:
                scopes.discard(scope)
                if not scopes and self._asks.get(asker) is scopes:
                    del self._asks[asker]
                self._moved.set()
        if scope.cancelled_caught:
            self._check_open(order.mark)
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
        found = (await self._client.collect(task_id, provider=account)).urls
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
        if only_if_idle and (self._heard or any(self._asks.values())):
            return False
        self._leaving.set()
        # At once: what the client says of them once it is left is nobody's answer.
        self._call_off(list(self._asks))
        return True

    async def is_stopped(self) -> bool:
        """True where none of its accounts takes anything more."""
        return self._begun.is_set() and self._maker.is_stopped()

    @asynccontextmanager
    async def _opened(self, accounts: Sequence[Account], options: Mapping[str, Any]) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if self._journal is not None:
                await self._lock(stack, self._journal)
            self._client = Client(*accounts, journal=self._journal, on_event=self._listener, **options)
            await stack.enter_async_context(self._client)
            if self._journal is not None:
                self._mark = self._client._open().durably.mark
            self._maker = RowMaker(self._client, self._journal, self._leaving.is_set)
            await self._maker.open()
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
            message = f"The journal {self._journal} is another one than this job began with, and knows none of it"
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

    def _call_off(self, askers: Sequence[str]) -> None:
        for asker in askers:
            for scope in self._asks.get(asker, ()):
                scope.cancel()

    async def _answer_all(self, order: Order, rows: Sequence[Mapping[str, Any]], answers: list[Answer | None]) -> None:
        async def put(place: int, row: Mapping[str, Any]) -> None:
            answers[place] = await self._maker.answer(order, row)

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


def _first(several: BaseExceptionGroup[ImagenError]) -> ImagenError:
    found = several.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found
