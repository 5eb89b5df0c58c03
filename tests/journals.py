"""What tests of journals share: a quick disk, entries, jobs as any SQLite program reads them, stores that misbehave."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from dict_store import DictStore

from imagen_async import ImageRequest, JournalError
from imagen_async.ports import JournalEntry
from imagen_async.sandbox import CREATE_FAULTS
from imagen_async.testing import VirtualTimeLoop

FULL = "The disk is full. Make room first."
LOST = frozenset(CREATE_FAULTS) - {"429", "http_429", "455", "500"}
"""Faults of a create after which nobody can tell whether there is a task."""


@contextmanager
def quick_folder() -> Iterator[Path]:
    """A folder in memory where there is one: it is the process that dies here, not the machine."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture
def place() -> Iterator[Path]:
    """A quick folder of the test's own; not `tmp_path`, whose disk takes its time for every commit."""
    with quick_folder() as folder:
        yield folder


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Tests of a module that imports this run on virtual time."""
    return "asyncio", {"loop_factory": VirtualTimeLoop}


def entry(number: int = 0, **fields: Any) -> JournalEntry:
    """One job's entry; by default a create on the way."""
    values = {"state": "submitting", "account": "kie", "attempts": 1, "sent_at": 1000.0 + number, "price": 8.0}
    request = ImageRequest(f"prompt {number}", model="imagen4", aspect_ratio="1:1")
    return JournalEntry(**{"key": f"k{number}", "position": number, "request": request, **values, **fields})


def keys(entries: Iterable[JournalEntry]) -> list[str]:
    """Which they are, in a fixed order."""
    return sorted(each.key for each in entries)


def by_hand(path: Path, *statements: str) -> None:
    """Change a journal's file as another program would."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


class Held(Executor):
    """A thread that is busy: what it is given to do waits until the test lets it begin, and end.

    Attributes:
        waiting: What it was given, each with what it is to be answered by, in order.
        is_given_up: True once whoever had it needs it no more.
        refuses: True where it takes nothing, as an executor does once the main thread has ended.
    """

    def __init__(self, *, is_busy: bool = True) -> None:
        self.waiting: list[tuple[Future[Any], Callable[[], Any]]] = []
        self.is_given_up = self.refuses = False
        self._is_busy = is_busy

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        """Keep it for later, or do it at once, in the caller's thread."""
        if self.refuses:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")
        future: Future[Any] = Future()
        self.waiting.append((future, lambda: work(*arguments, **named)))
        if not self._is_busy:
            self.let_go()
        return future

    def let_go(self) -> None:
        """Do all that waits."""
        while self.waiting:
            future, work = self.waiting.pop(0)
            if future.running() or future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except Exception as error:
                    future.set_exception(error)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Note that it is given up."""
        assert not wait, "the loop is not to wait for a thread"
        self.is_given_up = True


Inline = partial(Held, is_busy=False)
"""On virtual time nothing may wait for a thread."""


class Disk(DictStore):
    """A store that notes each group it was given to write, and can be full.

    Attributes:
        groups: The keys of each group that was given, in order.
        room: Groups that it still takes; None: any.
        refused: Keys of jobs that it cannot store, or of which it stores no more than that they run.
    """

    def __init__(self, *, room: int | None = None, error: BaseException | None = None) -> None:
        super().__init__({})
        self.groups: list[list[str]] = []
        self.room = room
        self.refused: dict[str, Exception] = {}
        self._error = error or JournalError(FULL)

    def write(self, entries: Iterable[JournalEntry]) -> None:
        """Keep these changes, or raise."""
        group = list(entries)
        self.groups.append([each.key for each in group])
        if self.room == 0:
            raise self._error
        for each in group:
            if each.key in self.refused and not (each.state == "running" and each.error is None):
                raise self.refused[each.key]
        super().write(group)
