"""Whose turn it is among callers: each gets as many as its share says, however many it has waiting. Pure arithmetic."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from weakref import WeakValueDictionary

import msgspec

LEAST_SHARE, MOST_SHARE = 0.001, 1000.0
"""What is beyond counts as that."""

_TURN = 1_000_000_000
"""What a turn takes a caller with a share of 1: in whole numbers, that never drift."""

Rank = tuple[int, int]
"""Where a caller stands: when its next turn is over, and 0 for one that has had none since it came; the least goes
first."""

KEPT: Rank = (-1, 0)
"""Where one stands that has had its turn, and nothing came of it: before all others."""


class Caller(msgspec.Struct, eq=False, gc=False):
    """A caller that has somebody waiting.

    Attributes:
        name: Its name.
        share: Its share of the turns, from its next one on.
        rank: Where it stands among those who wait for the same accounts.
        since: When it came, or had its last turn, counted for all alike: for those who wait for other accounts.
        groups: How many groups of its wait.
    """

    name: str
    share: float
    rank: Rank
    since: int
    groups: int = 1


class Callers:
    """The callers that have somebody waiting for the same accounts.

    A turn takes 1 / share of a time that goes by turns alone: when one has ended, it is as late as that was to end. Who
    comes begins its first turn now, and who stays the next one when the last has ended; who is to be ready first goes
    first (self-clocked fair queueing). So nobody saves up turns while it has nobody waiting, nor is anything to be
    kept of it; nobody is passed over for good, for whoever comes later begins later; and of two who both have somebody
    waiting all the time each gets its share of turns, to within one turn of each.

    Args:
        moments: Counts what happens to all callers, whichever accounts they wait for.
        names: The names of all of these, and for how many sets of accounts each waits.
    """

    def __init__(self, moments: Iterator[int], names: dict[str, int]) -> None:
        self._moments = moments
        self._names = names
        self._waiting: dict[str, Caller] = {}
        self._time = 0

    def enter(self, name: str, share: float) -> Caller:
        """One more group of a caller waits; returns the caller."""
        caller = self._waiting.get(name)
        if caller is not None:
            caller.groups += 1
            return caller
        rank = (self._time + _length(share), 0)
        caller = self._waiting[name] = Caller(name, share, rank, next(self._moments))
        self._names[name] = self._names.get(name, 0) + 1
        return caller

    def leave(self, caller: Caller) -> None:
        """A group of a caller waits no more."""
        caller.groups -= 1
        if caller.groups:
            return
        name = caller.name
        del self._waiting[name]
        # There may be new ones all the time.
        if self._names[name] > 1:
            self._names[name] -= 1
        else:
            del self._names[name]

    def send(self, caller: Caller) -> None:
        """A caller has its turn."""
        # Where it could not have it when it was to be, for its budget's sake, or those go first whom fewer accounts
        # take, it catches up by one turn, and not by all that it has missed.
        self._time = max(self._time, caller.rank[0])
        caller.rank = (self._time + _length(caller.share), 1)
        caller.since = next(self._moments)


class AllCallers:
    """The callers by the accounts that they wait for: a turn at one account says nothing of those at another.

    Attributes:
        moments: Counts what happens to any of them.
        names: Their names; while there is but one, nobody needs to ask whose turn it is.
    """

    def __init__(self) -> None:
        self.moments = itertools.count()
        self.names: dict[str, int] = {}
        # As long as somebody has them.
        self._of: WeakValueDictionary[frozenset[int], Callers] = WeakValueDictionary()

    def of(self, accounts: Iterable[int]) -> Callers:
        """Those who wait for these accounts, by their numbers."""
        key = frozenset(accounts)
        callers = self._of.get(key)
        if callers is None:
            callers = self._of[key] = Callers(self.moments, self.names)
        return callers


def _length(share: float) -> int:
    if share == 1.0:
        return _TURN  # as mostly
    # In this order also what is no number counts as the least.
    return round(_TURN / min(MOST_SHARE, max(LEAST_SHARE, share)))
