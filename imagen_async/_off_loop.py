"""Work off the event loop: a thread that is there before anything depends on it, and waiting for it that ends."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any

import anyio

_Work = SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]

_STEP = 0.05


class OwnThread(Executor):
    """One thread that does what it is given, in order, from when this is made until `shutdown`.

    A ThreadPoolExecutor starts its thread with the first work and takes none once the main thread has ended, though
    loops in other threads go on. This thread is begun at once, so that there is one or nothing is begun. It keeps no
    program from ending: a caller whose work must be done waits for it.

    Raises:
        RuntimeError: No thread can be started.
    """

    def __init__(self, name: str) -> None:
        work: _Work = SimpleQueue()
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
