"""When each account can send, and which of those that can now has the most room: kept from look to look."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .rate_limit import Window
from .rounds import Rounds
from .upstream import Upstream, changes_by_itself

NOW = -math.inf
"""When an account can send that can do so at once."""

Turn = tuple[float, float, int]
"""When an account can send (`NOW`, or a loop time to come), the part of its room that is used, its number; the least
goes first."""


class Readiness:
    """The turns of all accounts.

    Args:
        upstreams: The accounts, each with its place in the list for a number.

    Attributes:
        turns: Each one's turn as of the last look; None while only an answer, or a lease, can tell.
        touched: Numbers of those to which something has happened since. Others add to it.
    """

    def __init__(self, upstreams: Sequence[Upstream]) -> None:
        self.turns: list[Turn | None] = [None] * len(upstreams)
        self._upstreams = upstreams
        restless = [number for number, each in enumerate(upstreams) if changes_by_itself(each.submit)]
        self._rounds = Rounds(len(upstreams), restless)
        self.touched: set[int] = self._rounds.touched

    def look(self, now: float) -> list[int]:
        """Find out anew what may have changed; returns whose turn is another one."""
        return [number for number in self._rounds.look(now) if self._ask(number, now)]

    def _ask(self, number: int, now: float) -> bool:
        upstream = self._upstreams[number]
        turn: Turn | None = None
        until = upstream.submit_at(now)
        if until <= now:
            turn = (NOW, upstream.load(now), number)
            # Its load falls by itself when a place is free again.
            until = upstream.submit.frees_at(now) if isinstance(upstream.submit, Window) else math.inf
        elif until < math.inf:
            turn = (until, 0.0, number)
        self._rounds.set(number, until)
        if turn == self.turns[number]:
            return False
        self.turns[number] = turn
        return True
