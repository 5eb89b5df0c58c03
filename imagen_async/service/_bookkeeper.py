"""Keeps a service's book off the loop: what comes together is one transaction, on disk before anybody goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, TypeVar

import msgspec

from .._journal.explained import told
from .._journal.thread import begun, ended, own_thread
from .._off_loop import machine_time
from ._book import Book

T = TypeVar("T")

LEAVING = 10.0
"""Seconds for which the end of a service waits for its disk."""


class _Open(msgspec.Struct, frozen=True):
    book: Book
    ending: ExitStack


class Bookkeeper:
    """The one who has the book.

    Args:
        path: Of its file, made if missing.

    Attributes:
        path: As given.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._asked: list[tuple[Callable[[Book], Any], asyncio.Future[Any]]] = []
        self._working: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Open the book; raises JournalError where it cannot be used."""
        self._thread = own_thread()
        self._open = await begun(self._thread, self._begin)

    async def close(self) -> None:
        """Write what is left, and let go of the book; raises JournalError when that fails."""
        self._begin_work()
        while self._working is not None:
            await asyncio.wait([self._working])
        await ended(self._thread, self._open, machine_time() + LEAVING)

    def ask(self, work: Callable[[Book], T], *, wait: float = 0.0) -> asyncio.Future[T]:
        """Have something noted or looked up, in the order of the asking.

        Args:
            work: What to do with the book.
            wait: Seconds for which it may wait for others, to be one transaction with them.

        Returns:
            What ends once it is on disk, with what the work returned, or with JournalError where it cannot be done.
        """
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        # Of what nobody waits for, a failure is told by what is asked next.
        done.add_done_callback(lambda future: future.cancelled() or future.exception())
        self._asked.append((work, done))
        if self._working is None and wait:
            asyncio.get_running_loop().call_later(wait, self._begin_work)
        else:
            self._begin_work()
        return done

    def _begin_work(self) -> None:
        if self._working is None and self._asked:
            self._working = asyncio.create_task(self._work_off())

    async def _work_off(self) -> None:
        try:
            while self._asked:
                asked, self._asked = self._asked, []
                await self._do(asked)
        finally:
            self._working = None

    async def _do(self, asked: list[tuple[Callable[[Book], Any], asyncio.Future[Any]]]) -> None:
        try:
            doing = self._thread.submit(self._open.book.do, [work for work, _ in asked])
            values = await asyncio.wrap_future(doing)
        except Exception as error:
            if len(asked) > 1:
                # What one of them cannot do is nothing to the others.
                for each in asked:
                    await self._do([each])
            elif not asked[0][1].done():
                asked[0][1].set_exception(told(error))
            return
        for (_, done), value in zip(asked, values, strict=True):
            if not done.done():
                done.set_result(value)

    def _begin(self) -> _Open:
        with ExitStack() as stack:
            book = Book(self.path)
            stack.callback(book.close)
            return _Open(book, stack.pop_all())
