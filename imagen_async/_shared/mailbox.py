"""Callbacks that came to another process than the one that waits for them: handed on by the file that both have."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import TypeVar

from .._core.shared_limits import HandedOn
from .desk import Store
from .seat import Seat

T = TypeVar("T")


class Mailbox:
    """A client's, at the desk of one of its keys: all processes that have the key share a secret, and what comes in.

    Args:
        seat: The client's there.
        secret: By which each of them knows the others' tokens.

    Attributes:
        secret: As given.
    """

    def __init__(self, seat: Seat, secret: bytes) -> None:
        self.secret = secret
        self._seat = seat

    async def hand_on(self, callback: HandedOn) -> None:
        """Leave a callback to whoever waits for it; raises OSError where that cannot be."""
        await _done(self._seat, lambda store: store.hand_on(callback))

    def listen(self, listener: Callable[[Sequence[HandedOn]], None]) -> None:
        """Have what others hand on from now on told, soon, while tasks run."""
        self._seat.listener = listener


async def mailbox_at(seat: Seat) -> Mailbox:
    """A client's mailbox; raises OSError where the desk cannot be used."""
    return Mailbox(seat, await _done(seat, lambda store: store.secret()))


async def _done(seat: Seat, work: Callable[[Store], T]) -> T:
    try:
        return await seat.do(work)
    except (sqlite3.Error, RuntimeError) as error:
        raise OSError(str(error)) from error
