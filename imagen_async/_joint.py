"""What a process has once, for all who use it there: made for the first of them, closed with the last.

A fork of the process has none of it, and begins anew: another thread may have been at work on it at that moment.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T", bound=Hashable)


class Joint(Generic[K, T]):
    """Things of one kind, of which there is one for a key.

    Args:
        close: Closes one that nobody uses any more.
    """

    def __init__(self, close: Callable[[T], None]) -> None:
        self._close = close
        self._lock = threading.Lock()
        self._things: dict[K, T] = {}
        self._users: Counter[T] = Counter()
        self._of_parent: list[dict[K, T]] = []
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._begin_in_child)

    def join(self, key: K, make: Callable[[], T]) -> T:
        """Use the thing of a key, which is made where nobody does; raises what `make` raises."""
        with self._lock:
            thing = self._things.get(key)
            if thing is None:
                thing = self._things[key] = make()
            self._users[thing] += 1
            return thing

    def leave(self, thing: T) -> None:
        """Use it no more. One of the process that this is a fork of is left to that."""
        with self._lock:
            if thing not in self._users:
                return
            self._users[thing] -= 1
            if not self._users[thing]:
                del self._users[thing]
                self._things = {key: each for key, each in self._things.items() if each is not thing}
                self._close(thing)

    def users(self, thing: T) -> int:
        """How many use it."""
        return self._users[thing]

    def _begin_in_child(self) -> None:
        # Kept, so that nothing of it is closed here by the way, as SQLite's may not be in a fork.
        self._of_parent.append(self._things)
        # Nobody is left here to release a lock that was held.
        self._lock, self._things, self._users = threading.Lock(), {}, Counter()
