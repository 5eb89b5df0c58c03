"""Work off the event loop: the one door for it, threads that are there before anything depends on them, and waiting
for them that ends.

None of it is done in threads that the program around us shares, anyio's workers or a loop's default executor: all of
those may be waiting for what is to be done here.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any, Self, TypeVar, TypeVarTuple

import anyio

from ._watch.log import log

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_Work = SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]

_STEP = 0.05

LEFT_BEHIND = 1.0
"""Seconds for which whoever is cancelled waits for what a thread has begun: the disk may hang."""


class OwnThreads(Executor):
    """A few threads that do what they are given, in the order of the giving, from when this is made until `shutdown`.

    A ThreadPoolExecutor starts its threads with the first work and takes none once the main thread has ended, though
    loops in other threads go on. These are begun at once, so that there is one or nothing is begun. They keep no
    program from ending: a caller whose work must be done waits for it.

    Args:
        name: Of the threads.
        count: How many there are; fewer where the machine has no more.

    Raises:
        RuntimeError: No thread can be started.
    """

    def __init__(self, name: str, count: int = 1) -> None:
        work: _Work = SimpleQueue()
        for number in range(count):
            with suppress(*([RuntimeError] if number else [])):
                Thread(target=_work_off, args=(work,), name=name, daemon=True).start()
        self._work = work
        # Also when it is forgotten, as by a program that drops its loop.
        self._give_up = weakref.finalize(self, work.put, None)

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        """Have something done after all that was given before; raises RuntimeError after `shutdown`."""
        if not self._give_up.alive:
            raise RuntimeError("The thread was given up.")
        future: Future[Any] = Future()
        self._work.put((future, partial(work, *arguments, **named)))
        return future

    def shutdown(self, wait: bool = False, *, cancel_futures: bool = False) -> None:
        """Take nothing more; what was given is done, and is not waited for."""
        self._give_up()


def _work_off(given: _Work) -> None:
    while (item := given.get()) is not None:
        future, work = item
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(work())
            except StopIteration as error:  # asyncio's futures do not carry it: whoever waits would wait for ever
                future.set_exception(RuntimeError(f"{error!r} was raised."))
            except BaseException as error:  # whose work it is hears of it, and the next one has its turn
                future.set_exception(error)
        # Not kept alive until the next one comes.
        del item, future, work
    # For the next of the threads.
    given.put(None)


class OffLoop:
    """The door from a loop to threads: a few of its own, given up with it, or those of an executor that is handed in.

    Args:
        name: Of its own threads.
        count: How many these are.
        executor: Where to work instead, for as long as it takes anything; whoever has made it ends it.
    """

    def __init__(self, name: str, count: int, executor: Executor | None = None) -> None:
        self._name = name
        self._count = count
        self._given = executor
        self._own: OwnThreads | None = None

    def open(self) -> Self:
        """Have the threads ready, which the first work does else; raises OSError where none can be started."""
        if self._given is None:
            self._threads()
        return self

    def close(self) -> None:
        """Give the threads up; what was given them is done. What comes later on has others."""
        if self._own is not None:
            self._own.shutdown()
        self._own = None

    def begin(self, act: Callable[[*Ts], T], *arguments: *Ts) -> Future[T]:
        """Have something done, and do not wait for it; raises OSError where no thread can be started for it."""
        if self._given is not None:
            try:
                return self._given.submit(act, *arguments)
            except Exception as error:  # a RuntimeError once it is shut down; of the user's own, whatever they raise
                self._do_without(error)
        return self._threads().submit(act, *arguments)

    async def run(self, act: Callable[[*Ts], T], *arguments: *Ts) -> T:
        """Have something done, and wait for it.

        Whoever is cancelled meanwhile waits, for `LEFT_BEHIND` seconds at most, for what was begun; else it is not
        done at all.
        """
        future = self.begin(act, *arguments)
        doing = asyncio.wrap_future(future)
        try:
            await asyncio.wait([doing])
        except asyncio.CancelledError:
            if not future.cancel():
                await self.wait(doing)
            raise
        if future.cancelled():  # by whoever has shut the executor down
            self._do_without("it cancelled what it was given")
            return await self.run(act, *arguments)
        return doing.result()

    async def wait(self, doing: asyncio.Future[Any]) -> None:
        """Wait until something is done, whatever cancels meanwhile, and not for ever; how it ended is not told."""
        doing.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        with anyio.CancelScope(shield=True):
            await asyncio.wait([doing], timeout=LEFT_BEHIND)

    def _do_without(self, why: object) -> None:
        """Take no executor any more: what is to be done may be paid for."""
        if self._given is not None:
            log(logging.WARNING, "the client's executor takes nothing (%s): threads of its own do its work", why)
        self._given = None

    def _threads(self) -> OwnThreads:
        if self._own is None:
            try:
                self._own = OwnThreads(self._name, self._count)
            except RuntimeError as error:
                raise OSError(errno.EAGAIN, f"no thread can be started ({error})") from error
        return self._own


def machine_time() -> float:
    """Seconds of the machine's clock, by which threads and disks go, also beside a loop of virtual time."""
    return time.monotonic()


async def ends_by(ended: asyncio.Event, by: float) -> bool:
    """Wait for something that a thread does, until that `machine_time` at most; True once it has ended."""
    while not ended.is_set() and machine_time() < by:
        # In short steps: a loop of virtual time would take one long wait for over at once.
        with anyio.move_on_after(_STEP):
            await ended.wait()
    return ended.is_set()
