"""What stands in the place of the machine under a world: its clocks, its chance, its threads, its poll.

Only what belongs to Python and to aiohttp's own socket call is replaced, and before the package is loaded; the package
itself is as users have it. Import this first: the interpreter is good for worlds alone from then on.
"""

from __future__ import annotations

import os
import random
import secrets
import select
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import GenericAlias
from typing import TYPE_CHECKING, Any

import aiohappyeyeballs.impl
import backoff  # noqa: F401
from aiohttp import web  # noqa: F401

if TYPE_CHECKING:
    from .process import Process

EPOCH = 1_800_000_000.0
"""Unix time at which a world begins: in a year that can be."""


class Stage(threading.local):
    """Whose code runs now in this thread: it has that one's clocks, chance and threads.

    Attributes:
        process: The process, or None between two of them: then all is as it was.
    """

    process: Process | None = None

    @contextmanager
    def of(self, process: Process) -> Iterator[None]:
        """Run a block as a process."""
        before, self.process = self.process, process
        try:
            yield
        finally:
            self.process = before


stage = Stage()

_real_time, _real_monotonic, _real_clock = time.time, time.monotonic, time.clock_gettime
_real_sleep, _real_urandom = time.sleep, os.urandom


def _time() -> float:
    return _real_time() if stage.process is None else stage.process.wall()


def _monotonic() -> float:
    return _real_monotonic() if stage.process is None else stage.process.time()


def _clock_gettime(clock: int) -> float:
    if stage.process is None:
        return _real_clock(clock)
    has_all = clock == getattr(time, "CLOCK_BOOTTIME", None)
    return stage.process.time() + (stage.process.computer.slept if has_all else 0.0)


def _sleep(seconds: float) -> None:
    assert stage.process is None, f"a world has no time to sleep for {seconds} s"
    _real_sleep(seconds)


def _urandom(count: int) -> bytes:
    return _real_urandom(count) if stage.process is None else stage.process.chance.randbytes(count)


_real_getpid, _real_kill = os.getpid, os.kill


def _getpid() -> int:
    return _real_getpid() if stage.process is None else stage.process.number


def _kill(number: int, sig: int) -> None:
    if stage.process is None:
        _real_kill(number, sig)
    elif not any(each.number == number and not each.is_dead for each in stage.process.universe.processes):
        raise ProcessLookupError(number)


def _randbelow(limit: int) -> int:
    return random.SystemRandom().randrange(limit) if stage.process is None else stage.process.chance.randrange(limit)


class Parked(BaseException):
    """A thread has nothing to do."""


class Queue:
    """A queue.SimpleQueue for threads that are none: who gets from it when it is not its turn is parked."""

    __class_getitem__ = classmethod(GenericAlias)

    def __init__(self) -> None:
        self._items = deque[Any]()
        self._parked = deque[Thread]()
        self._awake = 0
        self.is_turn = False

    def put(self, item: Any) -> None:
        """Add something, and wake a thread that will take it."""
        self._items.append(item)
        self._wake()

    def get(self) -> Any:
        """Take the next, in a thread whose turn it is."""
        if not self.is_turn:
            raise Parked
        self.is_turn = False
        return self._items.popleft()

    def park(self, thread: Thread, *, turned: bool) -> None:
        """Let a thread wait for its next turn."""
        self._awake -= turned
        self._parked.append(thread)
        self._wake()

    def leave(self) -> None:
        """A thread has ended."""
        self._awake -= 1

    def _wake(self) -> None:
        while self._parked and self._awake < len(self._items):
            self._awake += 1
            self._parked.popleft().take_turn()


class Thread:
    """A threading.Thread whose target gets its work from a `Queue`, and can be begun anew when it waits there.

    What it does is done in one go, between two turns of its process's loop, after as long as the disk takes.
    """

    def __init__(self, *, target: Callable[..., None], args: tuple[Any, ...], name: str, daemon: bool) -> None:
        self._work, self._queue = target, args[0]
        self._arguments = args

    def start(self) -> None:
        """Wait for work."""
        assert stage.process is not None, "threads of a world are begun by its processes"
        self._process = stage.process
        self._queue.park(self, turned=False)

    def take_turn(self) -> None:
        """Work off one thing, in a while."""
        self._process.work(self._go)

    def _go(self) -> None:
        self._queue.is_turn = True
        try:
            self._work(*self._arguments)
        except Parked:
            self._queue.park(self, turned=True)
        else:
            self._queue.leave()


class Poll:
    """A select.poll that also knows the descriptors of connections that are none."""

    def __init__(self) -> None:
        self._real = _real_poll()
        self._lines: list[int] = []

    def register(self, descriptor: int, events: int = 0) -> None:
        """Look at that one, too."""
        if descriptor >= FIRST_DESCRIPTOR:
            self._lines.append(descriptor)
        else:
            self._real.register(descriptor, events)

    def poll(self, timeout: float | None = None) -> list[tuple[int, int]]:
        """Which of them have something to read."""
        process = stage.process
        if not self._lines or process is None:
            return self._real.poll(timeout)
        return [(each, select.POLLIN) for each in self._lines if process.is_readable(each)]


FIRST_DESCRIPTOR = 1 << 20
"""Of the connections in memory: higher than any of the system's."""

_real_poll = select.poll


def _poll() -> Any:
    return _real_poll() if stage.process is None else Poll()


class Socket:
    """What aiohttp connects: a name for a connection that is to be made."""

    family = None

    def __init__(self, **_: Any) -> None:
        self.end: Any = None

    def setblocking(self, flag: bool) -> None:
        """It never does."""

    def setsockopt(self, *_: Any) -> None:
        """Nothing to set."""

    def fileno(self) -> int:
        """None as long as it is not connected."""
        return -1

    def close(self) -> None:
        """Give the connection up."""
        if self.end is not None:
            self.end.abort()


class _Sockets:
    """The socket module as aiohttp's connecting sees it."""

    socket = Socket

    def __getattr__(self, name: str) -> Any:
        import socket

        return getattr(socket, name)


def set_up() -> None:
    """Put all of it in place; the package must not be loaded yet."""
    assert not any(name.startswith("imagen_async") for name in sys.modules), "the package was loaded too early"
    # Whoever starts this may have them ignored, as nohup does; then a program of a world would not hear of its own.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_DFL)
    time.time, time.monotonic, time.clock_gettime, time.sleep = _time, _monotonic, _clock_gettime, _sleep
    _replace_in_dependencies({_real_time: _time, _real_monotonic: _monotonic})
    os.urandom, secrets.token_bytes = _urandom, _token_bytes
    secrets.randbelow = _randbelow
    os.getpid, os.kill = _getpid, _kill
    select.poll = _poll  # type: ignore[misc, assignment]
    aiohappyeyeballs.impl.socket = _Sockets()  # type: ignore[assignment]
    # Pictures are painted by zlib then, in a tenth of the time; and looked at as where the extra is not installed.
    sys.modules["PIL"] = None  # type: ignore[assignment]
    with _threads_of_the_world():
        import imagen_async._off_loop  # noqa: F401


def _replace_in_dependencies(clocks: dict[Any, Any]) -> None:
    """Replace clocks that a dependency took by their names as it was loaded."""
    for module_name, module in list(sys.modules.items()):
        if module_name.partition(".")[0] in ("aiohttp", "anyio", "asyncio", "backoff"):
            for name, value in list(vars(module).items()):
                if callable(value) and value in clocks:
                    setattr(module, name, clocks[value])


def _token_bytes(count: int | None = None) -> bytes:
    return _urandom(32 if count is None else count)


@contextmanager
def _threads_of_the_world() -> Iterator[None]:
    """Whoever imports threads and queues meanwhile has those of worlds: the others stay as they are."""
    import queue

    real = threading.Thread, queue.SimpleQueue
    threading.Thread, queue.SimpleQueue = Thread, Queue  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        threading.Thread, queue.SimpleQueue = real  # type: ignore[misc]
