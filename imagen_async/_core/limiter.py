"""The port by which limits enter: who may send when. `rate_limit.Window` is the one of a process by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, runtime_checkable

from .rate_limit import Rate


class Limiter(Protocol):
    """The places of one limit of one account. A request takes one before it leaves, and gives it back some time after.

    The plan asks synchronously, at every look, so all but `lease` must be quick and must not wait. Where places are
    others' too, those at hand are few: the shell awaits `lease` while requests want to go and none is at hand, and the
    plan finds what it brought. Time is loop time in seconds, the same clock in all calls of one client.

    Attributes:
        rate: As it was set, or guessed.
        limit: Places, as they are allowed now.
        is_shared: True where places must be awaited: `lease` is called. False: all that there are, are at hand.
    """

    rate: Rate
    limit: int
    is_shared: bool

    def ready_at(self, now: float) -> float:
        """When the next request may go; infinity while only an answer or a lease can tell. Changes nothing."""

    def taken(self, now: float) -> int:
        """Places that are not free now. Changes nothing."""

    def is_blocked(self, now: float) -> bool:
        """True while a refusal holds everything. Changes nothing."""

    def take(self, now: float) -> None:
        """Take a place; only when `ready_at(now) <= now`."""

    def answered(self, now: float) -> None:
        """Note that a request's answer arrived, or that none will: its place is free again a window later."""

    def refused(self, now: float, retry_after: float | None = None) -> None:
        """Note that the server refused for its rate; the request's own `answered` follows."""

    def block(self, now: float, retry_after: float | None = None) -> None:
        """Send nothing for a full window, or for as long as the server asks."""

    def preload(self, free_at: Iterable[float]) -> None:
        """Count requests that an earlier process sent: each holds a place until its time."""

    def reopen(self, now: float) -> None:
        """Go on after the client was closed: the answers to what was in flight are waited for no more."""

    async def lease(self, wanted: int) -> None:
        """Get places for up to so many requests; returns once `ready_at` may tell otherwise than before.

        Called by the shell, one call at a time; a cancelled call must lose no place.
        """


@runtime_checkable
class LeasedLimiter(Limiter, Protocol):
    """A limit of which others have places, too, and which a client has leased; what it knows beside any other one.

    Attributes:
        changed: Is called whenever `ready_at` may tell otherwise though nothing was called that changes it.
    """

    changed: Callable[[], None]

    def leaves(self, now: float) -> bool:
        """Say for the last time whether a request may leave that has taken a place; its first byte follows at once.

        False where its lease may be over before the server has it: the process stood still meanwhile. It is to take
        another place then; `answered` follows all the same.
        """

    def released(self, now: float) -> None:
        """Note, in place of `answered`, that of a request not a byte has left: its place is free at once."""

    def leave(self) -> None:
        """Hear that the client is closed: what it had is others' in its time. `reopen` takes it up again."""

    def occupied(self, running: int) -> None:
        """Hear how many tasks the client has of the account: all clients together keep within its room."""

    def spare_at(self, now: float, most: int) -> float:
        """When a request may go that nobody needs: while less than half of the places are taken, and fewer than that.

        Infinity while only an answer can tell. Changes nothing.
        """
