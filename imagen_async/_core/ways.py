"""The ways that jobs wait to go: who takes those of a route, and which of all that are waited for can send first."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping

import msgspec

from .budget import Budget
from .callers import KEPT, AllCallers, Caller, Callers, Rank
from .readiness import Readiness, Turn
from .routing import Offer, Route
from .upstream import Upstream, Upstreams

MOST_IDLE = 16
"""Ways that are kept though nobody waits: to find out anew who takes a request is a look at every account of it."""

_LONG = 4
"""Accounts from which on a route is known again by itself, and not by what is in it."""

_MOST_KNOWN = 64
"""Routes that are known so at a time."""


_Standing = tuple[tuple[bool, int], bool, int]
"""What an account has closed, whether it is paused, and how many creates it may send at a look."""


class Group(msgspec.Struct, eq=False):
    """Those of one caller who may go the same way, on the same budget and at the same price, first come first served.

    `ids` says of each whether it keeps the turn that it had. `cheapest` and `dearest` are what one of them costs in
    parts of a credit, as of `priced_as_of`.
    """

    key: object
    way: Way
    budget: Budget | None
    caller: Caller
    ids: OrderedDict[int, bool]
    cheapest: float = 0.0
    dearest: float = 0.0
    priced_as_of: tuple[int, int] | None = None

    @property
    def first(self) -> tuple[Rank, int]:
        """Where the first of them stands, and who it is."""
        job_id, keeps_turn = next(iter(self.ids.items()))
        return KEPT if keeps_turn else self.caller.rank, job_id


_Entry = tuple[Rank, int, int, Group]
"""Where a group's first one stands, or stood at some time, who it is, and the group, behind a number of the entry's."""


class Line(dict[object, Group]):
    """Groups by their keys, and which of them is first by turns.

    That is found out only where it is asked: with one caller nobody does.
    """

    def __init__(self) -> None:
        # Both empty while nobody asks. No group stands before its entry, and each that is here has one.
        self._heap: list[_Entry] = []
        self._entries: dict[object, _Entry] = {}
        self._serials = itertools.count()

    def renew(self, group: Group) -> None:
        """A group has come in, or another one is its first now."""
        if not self._heap:
            return
        entry = self._entries.get(group.key)
        # Whoever stands farther behind now is found out when it is to be the first of all.
        if entry is None or entry[3] is not group or group.first < entry[:2]:
            heapq.heappush(self._heap, self._stand(group))
            if len(self._heap) > 2 * len(self) + 64:
                self.regroup()

    def regroup(self) -> None:
        """All stand elsewhere now."""
        self._heap.clear()
        self._entries.clear()

    def first(self) -> Group:
        """The group whose first one goes before all others; there must be one."""
        if len(self) == 1:
            return next(iter(self.values()))
        heap = self._heap
        if not heap:
            heap.extend(map(self._stand, self.values()))
            heapq.heapify(heap)
        while True:
            entry = heap[0]
            group = entry[3]
            if self._entries.get(group.key) is not entry:
                heapq.heappop(heap)
            elif self.get(group.key) is not group:
                # It has gone, and the entry means nothing any more.
                del self._entries[group.key]
            elif group.first == entry[:2]:
                return group
            else:
                heapq.heapreplace(heap, self._stand(group))

    def _stand(self, group: Group) -> _Entry:
        entry = self._entries[group.key] = (*group.first, next(self._serials), group)
        return entry


class Way:
    """Those who may go to the same accounts, in the same order.

    Attributes:
        serial: Its number: no other way has had it.
        key: The route's.
        offers: What the accounts of the route offer, by their numbers.
        open: Of these, those that still take such requests.
        takers: Of these, those that may get one as things are: nobody better is open who is not paused.
        version: Counts how often that has changed.
        groups: All who wait.
        rich: Of these, those whose budget has room for any of the accounts.
        callers: Whose they are, and those who wait for the same takers on other ways.
        waiting: How many wait.
        shown: The least turn by which it stands among all ways; none of its takers has one before that.
        by_room: What `Ways.order` tells, as of `ordered_at`.
    """

    def __init__(self, serial: int, key: object, offers: dict[int, Offer], callers: Callers) -> None:
        self.serial = serial
        self.key = key
        self.offers = offers
        self.open: dict[int, Offer] = {}
        self.takers: dict[int, Offer] = {}
        self.version = 0
        self.groups: dict[object, Group] = {}
        self.rich = Line()
        self.callers = callers
        self.waiting = 0
        self.shown: Turn | None = None
        self.by_room: list[tuple[int, int]] = []
        self.ordered_at = -1
        self._heap: list[Turn] = []

    def choose(self, open_: dict[int, Offer], takers: dict[int, Offer], turns: list[Turn | None]) -> None:
        """Take note of who takes it from now on."""
        self.open, self.takers = open_, takers
        self.version += 1
        self.ordered_at = -1
        self._fill(turns)

    def regroup(self, callers: Callers) -> None:
        """Let those who wait have their turns among these callers from now on."""
        before, self.callers = self.callers, callers
        if callers is before:
            return
        for group in self.groups.values():
            before.leave(group.caller)
            group.caller = callers.enter(group.caller.name, group.caller.share)
        self.rich.regroup()

    def offer(self, turn: Turn, turns: list[Turn | None]) -> None:
        """Take note of the turn that one of its takers has now."""
        heapq.heappush(self._heap, turn)
        # What is no turn any more stays until it surfaces, or is most of it.
        if len(self._heap) > 2 * len(self.takers) + 64:
            self._fill(turns)

    def first(self, turns: list[Turn | None]) -> Turn | None:
        """The first turn of its takers; None while each of them waits for an answer."""
        heap = self._heap
        while heap and turns[heap[0][2]] is not heap[0]:
            heapq.heappop(heap)
        return heap[0] if heap else None

    def _fill(self, turns: list[Turn | None]) -> None:
        self._heap = [turn for number in self.takers if (turn := turns[number]) is not None]
        heapq.heapify(self._heap)


class Ways:
    """All ways that are in use, or were a moment ago.

    Args:
        upstreams: The accounts.
        freed: Hears of an account, by its number, that may have too few now who wait for it: it takes more than it
            did, or is the taker of fewer.

    Attributes:
        rooms_version: Counts how often an account has come to take more at a look.
        closures: Counts how often an account has come to take less for good.
        callers: Those who have somebody waiting.
        readiness: When each account can send.
    """

    def __init__(self, upstreams: Upstreams, freed: Callable[[int], None]) -> None:
        self.rooms_version = self.closures = 0
        self._freed = freed
        self._upstreams = upstreams
        self.readiness = Readiness(upstreams.in_order)
        self._touched = upstreams.hearing()
        self._standings = [_standing(upstream) for upstream in upstreams.in_order]
        self.callers = AllCallers()
        self._ways: dict[object, Way] = {}
        self._known: dict[int, tuple[Route, Way]] = {}
        self._idle: OrderedDict[int, Way] = OrderedDict()
        self._at: list[dict[int, Way]] = [{} for _ in upstreams]
        # Those of which somebody waits whose budget lets him go to any of them, and the first turn of each.
        self._live: dict[int, Way] = {}
        self._tops: list[tuple[Turn, int]] = []

    def of(self, route: Route) -> Way:
        """The way of a route."""
        known = self._known.get(id(route))
        if known is not None:
            return known[1]
        key = route.key
        way = self._ways.get(key)
        if way is None:
            way = self._add(key, route)
        if len(route.offers) > _LONG:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            # The route as well: while it is kept, no other one has its identity.
            self._known[id(route)] = (route, way)
        return way

    def use(self, way: Way) -> None:
        """Somebody waits for a way."""
        self._idle.pop(way.serial, None)

    def rest(self, way: Way) -> None:
        """Nobody waits for a way any more."""
        self._idle[way.serial] = way
        if len(self._idle) > MOST_IDLE:
            _, oldest = self._idle.popitem(last=False)
            del self._ways[oldest.key]
            self._known.clear()
            for number in oldest.offers:
                del self._at[number][oldest.serial]

    def at(self, number: int) -> Collection[Way]:
        """The ways to an account."""
        return self._at[number].values()

    def __iter__(self) -> Iterator[Way]:
        return iter(self._ways.values())

    def notice(self) -> None:
        """Take note of what the accounts take now."""
        self._upstreams.pass_on()
        if not self._touched:
            return
        for number in self._touched:
            upstream, before = self._upstreams.in_order[number], self._standings[number]
            standing = self._standings[number] = _standing(upstream)
            if standing == before:
                continue
            if standing[:-1] != before[:-1]:
                for way in self._at[number].values():
                    self._choose(way)
            self.closures += standing[0] != before[0]
            self.rooms_version += standing[-1] > before[-1]
            self._freed(number)
        self.readiness.touched |= self._touched
        self._touched.clear()

    def look(self, now: float) -> None:
        """Take note of what the accounts take, and of when each can send."""
        self.notice()
        for number in self.readiness.look(now):
            turn = self.readiness.turns[number]
            for way in self._at[number].values() if turn is not None else ():
                if turn is not None and number in way.takers:
                    way.offer(turn, self.readiness.turns)
                    if way.serial in self._live:
                        self._show(turn, way)

    def is_ready(self, number: int, now: float) -> bool:
        """Ask an account itself whether it can send now; where it cannot, the next look finds out when it can."""
        is_ready = self._upstreams.in_order[number].submit_at(now) <= now
        if not is_ready:
            self.readiness.touched.add(number)
        return is_ready

    def first(self) -> Turn | None:
        """The first turn of an account that anybody waits for; None while each of these waits for an answer."""
        while self._tops:
            turn, serial = self._tops[0]
            way = self._live.get(serial)
            if way is not None and turn is self.readiness.turns[turn[2]] and turn[2] in way.takers:
                return turn
            heapq.heappop(self._tops)
            if way is not None and way.shown is turn:
                way.shown = None
                self._show(way.first(self.readiness.turns), way)
        return None

    def enrich(self, group: Group) -> None:
        """Let a group have any account of its way from now on."""
        way = group.way
        way.rich[group.key] = group
        way.rich.renew(group)
        if way.serial not in self._live:
            self._live[way.serial] = way
            self._show(way.first(self.readiness.turns), way)

    def impoverish(self, group: Group) -> None:
        """Let a group have any account of its way no more."""
        way = group.way
        way.rich.pop(group.key, None)
        if not way.rich:
            self._live.pop(way.serial, None)
            way.shown = None

    def choice(self, offers: Mapping[int, Offer]) -> dict[int, Offer]:
        """Of some that are open, those that may get a request: none is better, but for those that are paused."""
        # A better one that only waits for its limit is waited for, too: `cheapest` and `in_order` promise that.
        best = min((each.rank for number, each in offers.items() if not self._is_paused(number)), default=math.inf)
        return {number: offer for number, offer in offers.items() if offer.rank <= best}

    def order(self, way: Way) -> list[tuple[int, int]]:
        """How many creates a look may send at most to whom that takes a way, the most first; as they are, or were."""
        if way.ordered_at != self.rooms_version:
            way.ordered_at = self.rooms_version
            accounts = self._upstreams.in_order
            way.by_room = sorted(((accounts[number].at_a_look, number) for number in way.open), reverse=True)
        return way.by_room

    def _is_paused(self, number: int) -> bool:
        return self._upstreams.in_order[number].breaker.is_paused

    def _add(self, key: object, route: Route) -> Way:
        offers: dict[int, Offer] = {}
        for offer in route.offers:
            offers.setdefault(self._upstreams.numbers[offer.account], offer)
        way = self._ways[key] = Way(next(self.callers.moments), key, offers, self.callers.of(offers))
        for number in offers:
            self._at[number][way.serial] = way
        self._choose(way)
        return way

    def _choose(self, way: Way) -> None:
        open_ = {
            number: offer
            for number, offer in way.offers.items()
            if self._upstreams.in_order[number].breaker.refusal(offer.model.name) is None
        }
        way.choose(open_, self.choice(open_), self.readiness.turns)
        way.regroup(self.callers.of(way.takers))
        if way.serial in self._live:
            self._show(way.first(self.readiness.turns), way)

    def _show(self, turn: Turn | None, way: Way) -> None:
        if turn is None or (way.shown is not None and way.shown <= turn):
            return
        way.shown = turn
        # Few pile up: of each way they are earlier and earlier, until one surfaces.
        heapq.heappush(self._tops, (turn, way.serial))


def _standing(upstream: Upstream) -> _Standing:
    return upstream.breaker.closures, upstream.breaker.is_paused, upstream.at_a_look
