"""Writes a service's book off the loop: what comes together is one transaction, on disk before anybody goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, TypeVar

import msgspec

from .._journal.explained import told
from .._journal.thread import begun, ended, own_thread
from .._off_loop import machine_time
from ..errors import JournalError
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
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._changes: list[tuple[Callable[[Book], Any], asyncio.Future[Any]]] = []
        self._writing: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Open the book; raises JournalError where it cannot be used."""
        self._thread = own_thread()
        self._open = await begun(self._thread, self._begin)

    async def close(self) -> None:
        """Write what is left, and let go of the book; raises JournalError when that fails."""
        while self._writing is not None:
            await asyncio.wait([self._writing])
        await ended(self._thread, self._open, machine_time() + LEAVING)

    def write(self, change: Callable[[Book], T]) -> asyncio.Future[T]:
        """Have something noted, in the order of the asking.

        Returns:
            What ends once it is on disk, with what the change returned, or with JournalError where it cannot be.
        """
        noted: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        # Of what nobody waits for, a failure is told by what is written next.
        noted.add_done_callback(lambda future: future.cancelled() or future.exception())
        self._changes.append((change, noted))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_all())
        return noted

    async def read(self, look: Callable[[Book], T]) -> T:
        """What the book tells, after all that was to be noted before; raises JournalError."""
        while self._writing is not None:
            await asyncio.wait([self._writing])
        return await self._in_thread(look, self._open.book)

    async def _write_all(self) -> None:
        try:
            while self._changes:
                changes, self._changes = self._changes, []
                await self._write(changes)
        finally:
            self._writing = None

    async def _write(self, changes: list[tuple[Callable[[Book], Any], asyncio.Future[Any]]]) -> None:
        try:
            values = await self._in_thread(self._open.book.write, [change for change, _ in changes])
        except JournalError as error:
            for _, noted in changes:
                if not noted.done():
                    noted.set_exception(JournalError(error.message))
            return
        for (_, noted), value in zip(changes, values, strict=True):
            if not noted.done():
                noted.set_result(value)

    async def _in_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        try:
            return await asyncio.wrap_future(self._thread.submit(work, *arguments))
        except Exception as error:
            raise told(error) from error

    def _begin(self) -> _Open:
        with ExitStack() as stack:
            book = Book(self._path)
            stack.callback(book.close)
            return _Open(book, stack.pop_all())
