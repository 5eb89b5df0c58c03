"""What a process has of a key that others share: one file, one thread that changes it, for all of its clients."""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec

from .._clock import boot_clock
from .._core.shared_limits import KINDS, HandedOn, Kind, Position, SharedLimits, Word
from .._joint import Joint
from .._off_loop import OwnThreads
from .._watch.log import log
from . import folder
from .beside import sweep
from .file import SharedFile

T = TypeVar("T")

LAST = 1.0
"""Seconds that a process stays at its end to say that it leaves: else others wait for leases that nobody has."""

Words = dict[Kind, Word]

Told = Callable[[Words | None, Sequence[HandedOn]], None]
"""Hears, in the desk's thread, what there is for a client (None: that could not be found out), and callbacks."""


class Shelf(msgspec.Struct, frozen=True):
    """A place where a key's file may lie: its folder, its name there, and whether nobody has named that folder."""

    folder: Path
    name: str
    is_ours: bool


class Store(Protocol):
    """Has a key's state; `SharedFile` is one."""

    def exchange(self, said: Position) -> Words: ...

    def mark(self, marked: Mapping[Kind, int]) -> None: ...

    def secret(self) -> bytes: ...

    def hand_on(self, callback: HandedOn) -> None: ...

    def calls(self) -> Sequence[HandedOn]: ...

    def close(self) -> None: ...


class OwnStore:
    """A state that no other process has."""

    def __init__(self) -> None:
        self._state = SharedLimits(None, boot_clock())

    def exchange(self, said: Position) -> Words:
        """As a file's."""
        return self._state.exchange(said, boot_clock())

    def mark(self, marked: Mapping[Kind, int]) -> None:
        """Nobody outlives this process to read it."""

    def secret(self) -> bytes:
        """As a file's."""
        return self._state.secret_or(secrets.token_bytes(32))

    def hand_on(self, callback: HandedOn) -> None:
        """As a file's."""
        self._state.hand_on(callback, boot_clock())

    def calls(self) -> Sequence[HandedOn]:
        """As a file's."""
        return self._state.calls

    def close(self) -> None:
        """There is nothing to close."""


class Desk:
    """One key's place in this process.

    Args:
        shelves: Where its file may lie: the first that can be used is taken, with the first exchange.
        account: Whose key it is, for messages.
    """

    def __init__(self, shelves: Sequence[Shelf], account: str) -> None:
        self._shelves = shelves
        self._account = account
        self._process = os.getpid()
        self._store: Store | None = None
        self._thread = OwnThreads("imagen-limits")
        self._turn = threading.Lock()
        self._marked: dict[Kind, int] = dict.fromkeys(KINDS, 0)
        # As others can read it: never fewer.
        self._noted = dict(self._marked)
        self._trouble = ""

    def exchange(self, said: Position, unmarked: Mapping[Kind, int], told: Told) -> None:
        """Have a client's position taken, after those that came before.

        Args:
            said: It.
            unmarked: Of so many that were marked it tells how they ended. They count until others can read that: were
                the process killed before, what was answered just now would be free at once.
            told: Hears what came of it.
        """
        with suppress(RuntimeError):  # it was closed meanwhile: nobody waits for what it would say
            self._thread.submit(self._exchange, said, unmarked, told)

    def do(self, work: Callable[[Store], T]) -> Future[T]:
        """Have something done with the store, after what was given before; raises RuntimeError once it is closed."""
        return self._thread.submit(lambda: work(self._opened()))

    def mark(self, kind: Kind, ahead: int = 0) -> bool:
        """Note that one more request may leave from now on; False: that cannot be noted, so that it may not.

        Args:
            kind: Of which limit.
            ahead: So many of those that come next are noted with it, where it is to be written at all.
        """
        # In a fork of the process they are the other one's places.
        if os.getpid() != self._process:
            return False
        with self._turn:
            self._marked[kind] += 1
            before = self._noted[kind]
            if self._marked[kind] <= before:
                return True
            self._noted[kind] = self._marked[kind] + ahead
            try:
                if self._store is not None:
                    self._store.mark(self._noted)
            except (OSError, ValueError) as error:
                self._marked[kind] -= 1
                self._noted[kind] = before
                self._tell(f"what leaves cannot be noted ({error})")
                return False
        return True

    def close(self) -> None:
        """Close the file, after what was given before."""
        with suppress(RuntimeError):
            closing = self._thread.submit(self._close)
            _closing.add(closing)
            closing.add_done_callback(_closing.discard)
        self._thread.shutdown()

    def _close(self) -> None:
        if self._store is not None:
            self._store.close()

    def _exchange(self, said: Position, unmarked: Mapping[Kind, int], told: Told) -> None:
        words: Words | None = None
        calls: Sequence[HandedOn] = ()
        try:
            store = self._opened()
            words, calls = store.exchange(said), store.calls()
            self._unmark(store, unmarked)
            self._trouble = ""
        except (OSError, sqlite3.Error, ValueError, msgspec.MsgspecError) as error:
            self._tell(str(error))
        finally:
            told(words, calls)

    def _unmark(self, store: Store, unmarked: Mapping[Kind, int]) -> None:
        if any(unmarked.values()):
            with self._turn, suppress(OSError, ValueError):  # too many are noted then: nobody takes what is not free
                for kind, count in unmarked.items():
                    self._marked[kind] -= count
                store.mark(self._marked)
                self._noted = dict(self._marked)

    def _opened(self) -> Store:
        if self._store is None:
            store = self._first_usable()
            with self._turn:
                store.mark(self._noted)
                self._store = store
        return self._store

    def _first_usable(self) -> Store:
        reasons = []
        for shelf in self._shelves:
            try:
                folder.make(shelf.folder, is_ours=shelf.is_ours)
                store = SharedFile(shelf.folder / shelf.name)
            except (OSError, sqlite3.Error, ValueError) as error:
                reasons.append(f"{shelf.folder}: {error}")
            else:
                sweep(shelf.folder)
                return store
        message = (
            "%s: its limits cannot be shared with other processes (%s): this one counts alone. "
            "Name a folder of this machine in %s, or say shared=False"
        )
        log(logging.WARNING, message, self._account, "; ".join(reasons), folder.VARIABLE)
        return OwnStore()

    def _tell(self, trouble: str) -> None:
        # Once: it is tried again and again.
        if trouble != self._trouble:
            self._trouble = trouble
            message = "%s: nothing is sent, since the file by which processes share its limits cannot be used: %s"
            log(logging.WARNING, message, self._account, trouble)


_desks: Joint[tuple[Shelf, ...], Desk] = Joint(Desk.close)
_closing: set[Future[Any]] = set()


def enter(shelves: Sequence[Shelf], account: str) -> Desk:
    """The desk of a key, of which there is one in a process; raises RuntimeError where no thread can be started."""
    return _desks.join(tuple(shelves), lambda: Desk(shelves, account))


def leave(desk: Desk) -> None:
    """Use a desk no more: the last one closes it."""
    _desks.leave(desk)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_closing.clear)


@atexit.register
def _say_what_is_left_to_say() -> None:
    wait([*_closing], LAST)
