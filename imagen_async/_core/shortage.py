"""Whether some account has too few jobs of an owner waiting for it: asked before each request that is pulled."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from .upstream import Upstream
from .ways import Way, Ways


class _Search(msgspec.Struct):
    """How far the accounts were looked at for an owner: those before `passed` have enough, but for `loose` ones and
    those that take a way of `left`. `last` had too few when it was looked at last."""

    loose: set[int]
    left: dict[int, Way]
    passed: int = 0
    last: int = 0


class Shortage:
    """Counts who waits, by owner and way, and knows which account has too few of them.

    Args:
        upstreams: The accounts, by their numbers.
        ways: How they may go.
    """

    def __init__(self, upstreams: Sequence[Upstream], ways: Ways) -> None:
        self._upstreams = upstreams
        self._ways = ways
        self._of: dict[int, dict[int, int]] = {}
        self._totals: dict[int, int] = {}
        self._searches: dict[int, _Search] = {}

    def waiting(self, owner: int) -> int:
        """How many of an owner's wait."""
        return self._totals.get(owner, 0)

    def add(self, owner: int, way: Way) -> None:
        """One more waits."""
        own = self._of.setdefault(owner, {})
        own[way.serial] = own.get(way.serial, 0) + 1
        self._totals[owner] = self._totals.get(owner, 0) + 1

    def remove(self, owner: int, way: Way) -> None:
        """One waits no more."""
        own = self._of[owner]
        own[way.serial] -= 1
        self._totals[owner] -= 1
        if not own[way.serial]:
            del own[way.serial]
        # Owners are numbered anew each time, so that their zeros would pile up.
        if not self._totals[owner]:
            del self._of[owner], self._totals[owner]
        search = self._searches.get(owner)
        if search is not None:
            search.left[way.serial] = way

    def freed(self, number: int) -> None:
        """An account takes more than it did, or fewer wait for it."""
        for search in self._searches.values():
            search.loose.add(number)

    def forget(self, owner: int) -> None:
        """Know nothing more of an owner."""
        self._searches.pop(owner, None)

    def is_any(self, owner: int) -> bool:
        """Say whether some account has less of an owner than one look at its window may send."""
        search = self._searches.get(owner)
        if search is None:
            search = self._searches[owner] = _Search(set(), {})
        # Mostly it is the one that it was.
        if self._lacks(owner, search.last):
            return True
        found = self._find(owner, search)
        if found is not None:
            search.last = found
        return found is not None

    def _find(self, owner: int, search: _Search) -> int | None:
        while search.loose:
            number = search.loose.pop()
            if self._lacks(owner, number):
                return number
        while search.left:
            serial, way = next(iter(search.left.items()))
            if (found := self._lacking_in(owner, way)) is not None:
                return found
            del search.left[serial]
        while search.passed < len(self._upstreams):
            if self._lacks(owner, search.passed):
                return search.passed
            search.passed += 1
        return None

    def _lacking_in(self, owner: int, way: Way) -> int | None:
        waiting = self._of.get(owner, {}).get(way.serial, 0)
        for room, number in self._ways.order(way):
            # Whoever comes now can send no more than that, for whom all of these wait.
            if room <= waiting:
                return None
            if self._lacks(owner, number):
                return number
        return None

    def _lacks(self, owner: int, number: int) -> bool:
        upstream = self._upstreams[number]
        if upstream.breaker.stopped is not None:
            return False
        own = self._of.get(owner)
        if not own:
            return upstream.at_a_look > 0
        waiting = sum(own.get(way.serial, 0) for way in self._ways.at(number) if number in way.open)
        return waiting < upstream.at_a_look
