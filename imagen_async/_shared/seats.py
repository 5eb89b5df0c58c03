"""Makes the shared limits of a client's accounts, each of which has a seat at the desk of its key."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec

from .._accounts import Shared
from .._core.limiter import Limiter
from .._core.provider import Limits
from .._core.rate_limit import Rate, Window
from .._watch.log import log
from .desk import Shelf, enter, leave
from .folder import folders, is_named, name_of
from .mailbox import Mailbox, mailbox_at
from .seat import Seat

OWN_CLOCK = 1.0
"""Seconds by which a loop's clock may differ from the machine's; one that does so more goes by a time of its own."""

MOST_SHARED = 64
"""Keys whose limits a client shares: each takes four files that are open, of the 1,024 that most processes may have,
and a thread."""

_numbers = itertools.count()


class SharedAccount(msgspec.Struct, frozen=True):
    """What is to be known of an account whose limits are shared."""

    api_key: str
    base_url: str
    limits: Limits
    shared: Shared


class Seats:
    """The limits of a client's accounts: a `LimiterFactory`.

    Args:
        accounts: Those whose limits are shared, by name; the others have windows of their own, as have all where they
            are more than `MOST_SHARED`.
        way: Seconds that a request may take from its first byte to its answer.
        connect_timeout: Seconds that its connection may take before.
    """

    def __init__(self, accounts: Mapping[str, SharedAccount], way: float, connect_timeout: float) -> None:
        self._accounts = accounts if len(accounts) <= MOST_SHARED else {}
        if len(accounts) > MOST_SHARED:
            message = (
                "%d accounts are too many to share their limits with other processes (%d at most): "
                "this one counts alone, as with shared=False"
            )
            log(logging.WARNING, message, len(accounts), MOST_SHARED)
        self._way = way
        self._connect_timeout = connect_timeout
        self._seats: dict[str, Seat] = {}

    def __call__(self, account: str, kind: Literal["submit", "status"], rate: Rate) -> Limiter:
        """An account's limit, of creates or of status calls."""
        # Places are free by the machine's clock: where another time runs, as in tests, nobody could wait for them.
        if account not in self._accounts or not goes_by_the_machine():
            return Window(rate)
        seat = self._seats.get(account)
        if seat is None:
            seat = self._seats[account] = self._new_seat(account, self._accounts[account])
        return seat.limits[kind]

    async def mailbox(self) -> Mailbox | None:
        """Where callbacks are handed on: at the first key's desk; None where nothing is shared, or that cannot be."""
        seat = next(iter(self._seats.values()), None)
        if seat is None:
            return None
        try:
            return await mailbox_at(seat)
        except OSError as error:
            log(logging.WARNING, "callbacks that come to another process cannot be handed on: %s", error)
            return None

    def _new_seat(self, name: str, account: SharedAccount) -> Seat:
        desk = partial(enter, shelves_of(account, os.environ), name)
        return Seat(desk, leave, next(_numbers), account.limits, self._way, self._connect_timeout)


def shelves_of(account: SharedAccount, environment: Mapping[str, str]) -> tuple[Shelf, ...]:
    """Where a key's file may lie, the best first."""
    given = None if isinstance(account.shared, bool) else Path(account.shared)
    is_ours = not is_named(given, environment)
    name = name_of(account.api_key, account.base_url, is_for_this_machine=is_ours)
    return tuple(Shelf(folder, name, is_ours) for folder in folders(given, environment))


def goes_by_the_machine() -> bool:
    """True where the running loop's clock is the machine's."""
    return abs(asyncio.get_running_loop().time() - time.monotonic()) < OWN_CLOCK
