"""The one thread in which a store is opened, written and closed, in the order of the asking."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import ExitStack
from typing import Protocol, TypeVar

from .._off_loop import OwnThreads, ends_by
from ..errors import JournalError
from .explained import told
from .writer import to_the_end


class Begun(Protocol):
    """What was begun in the thread, and what ends it."""

    @property
    def ending(self) -> ExitStack: ...


T = TypeVar("T", bound=Begun)


def own_thread() -> OwnThreads:
    """A thread for one journal; raises JournalError where there is none."""
    try:
        return OwnThreads("imagen-journal")
    except RuntimeError as error:
        message = f"No thread can be started that writes the journal ({error}). Nothing was sent. End other programs."
        raise JournalError(message) from error


async def begun(thread: Executor, begin: Callable[[], T]) -> T:
    """Begin something in the thread. Whoever is cancelled meanwhile leaves nothing open; nor does what fails.

    Raises:
        ImagenError: Why it cannot be begun.
    """
    beginning = thread.submit(begin)
    try:
        return await asyncio.wrap_future(beginning)
    except BaseException as error:
        # In the same thread, so behind the opening, however far that is.
        thread.submit(_end, beginning)
        thread.shutdown(wait=False)
        if isinstance(error, Exception):
            raise told(error) from error
        raise


async def ended(thread: Executor, what: Begun, by: float) -> None:
    """End what was begun, and the thread, whatever cancels meanwhile. What hangs is left to it from then on.

    Raises:
        ImagenError: What went wrong with that.
    """
    over = asyncio.Event()
    try:
        ending = asyncio.wrap_future(thread.submit(what.ending.close))
    except RuntimeError:  # an executor that takes nothing any more: then nothing of it is at work either
        what.ending.close()
        return
    thread.shutdown(wait=False)
    ending.add_done_callback(lambda _: over.set())
    await to_the_end(lambda: ends_by(over, by))
    if ending.done() and (error := ending.exception()) is not None:
        raise told(error) from error


def _end(beginning: Future[T]) -> None:
    """End what nobody waits for any more, if it ever began."""
    if not beginning.cancelled() and beginning.exception() is None:
        beginning.result().ending.close()
