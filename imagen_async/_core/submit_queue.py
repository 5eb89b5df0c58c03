"""Everybody who waits to be sent, and who goes next to which account."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping

import msgspec

from .budget import Budget
from .job import Job
from .purses import Purses
from .readiness import NOW, Turn
from .routing import Offer
from .shortage import Shortage
from .upstream import Upstreams
from .ways import Group, Ways

MOST_WAITING = 500
"""Jobs of one owner that wait for some accounts while others have nothing to do, before no more are taken in."""


class _Place(msgspec.Struct, frozen=True, gc=False):
    """Where a job waits, and whose it is."""

    group: Group
    owner: int


class SubmitQueue:
    """The jobs that wait to be sent.

    A job is bound to no account until it is sent. Of the accounts that can send now, the one with the most room goes
    first, and it takes those first that the fewest other accounts can take.

    Args:
        upstreams: The accounts.
        jobs: Every live job, by its id; somebody else's, and only looked at.
    """

    def __init__(self, upstreams: Upstreams, jobs: Mapping[int, Job]) -> None:
        self._ways = Ways(upstreams, lambda number: self._shortage.freed(number))
        self._shortage = Shortage(upstreams.in_order, self._ways)
        self._purses = Purses(self._ways, jobs)
        self._numbers = upstreams.numbers
        self._places: dict[int, _Place] = {}

    def __len__(self) -> int:
        return len(self._places)

    def wants_more(self, owner: int) -> bool:
        """Say whether an owner should add more: some account has less of it than one look at its window may send."""
        # Where all that comes is for one account, the idleness of the others is worth a bounded queue, and no more.
        if self._shortage.waiting(owner) >= MOST_WAITING:
            return False
        self._ways.notice()
        return self._shortage.is_any(owner)

    def waiting_for(self, account: str) -> int:
        """Count those who may be sent to an account, whoever else takes them too."""
        self._ways.notice()
        number = self._numbers[account]
        return sum(way.waiting for way in self._ways.at(number) if number in way.open)

    def add(self, job: Job, budget: Budget | None, *, at_front: bool) -> None:
        """Take in a job: behind the others, or before them."""
        way = self._ways.of(job.way)
        # On a budget those of one price, so that a dear one keeps no cheap one waiting.
        prices = () if budget is None else (offer.model.price(job.request) for offer in job.way.all_offers)
        key = None if budget is None else (id(budget), *prices)
        group = way.groups.get(key)
        is_new = group is None
        if group is None:
            group = way.groups[key] = Group(key, way, budget, OrderedDict())
            self._ways.use(way)
        group.ids[job.id] = None
        if at_front:
            group.ids.move_to_end(job.id, last=False)
        if is_new:
            self._purses.enter(group)
        way.waiting += 1
        self._places[job.id] = _Place(group, job.owner)
        self._shortage.add(job.owner, way)

    def remove(self, job_id: int) -> None:
        """Take a job out."""
        place = self._places.pop(job_id)
        group, way = place.group, place.group.way
        del group.ids[job_id]
        way.waiting -= 1
        if not group.ids:
            del way.groups[group.key]
            self._purses.leave(group)
            if not way.groups:
                self._ways.rest(way)
        self._shortage.remove(place.owner, way)

    def forget(self, owner: int) -> None:
        """Know nothing more of an owner, of whom nobody waits."""
        self._shortage.forget(owner)

    def next(self, now: float) -> tuple[Offer, int] | None:
        """Who may be sent now, and where; None for nobody."""
        first = self._first(now)
        # Asked at the door once more: no create goes for that something has happened of which nobody was told.
        while first is not None and first[0] == NOW and not self._ways.is_ready(first[2], now):
            first = self._first(now)
        if first is None or first[0] > NOW:
            return None
        # Who can go elsewhere lets those first who cannot; of equals the lower number came earlier.
        _, job_id, offer = min(self._takers(first[2]))
        return offer, job_id

    def wake_at(self, now: float) -> float:
        """When `next` will have somebody, if nothing else happens; infinity for never."""
        # Only of those who would get somebody: a free window that nobody waits for is no reason to look again.
        first = self._first(now)
        return math.inf if first is None else max(first[0], now)

    def unwanted(self) -> Iterator[int]:
        """Those whom no account takes any more."""
        self._ways.notice()
        for way in self._ways:
            if not way.open:
                for group in way.groups.values():
                    yield from group.ids

    def unaffordable(self) -> Iterator[int]:
        """Those whose budget is used up: nothing of it is in flight, and none of them fits into what is left."""
        self._ways.notice()
        return self._purses.unaffordable()

    def _first(self, now: float) -> Turn | None:
        """The first turn of an account that would get somebody."""
        if not self._places:
            return None
        self._ways.look(now)
        if not self._purses:
            return self._ways.first()
        self._purses.look()
        firsts = (self._ways.first(), self._purses.first())
        return min((turn for turn in firsts if turn is not None), default=None)

    def _takers(self, number: int) -> Iterator[tuple[int, int, Offer]]:
        """Whom an account may take, the first of each group: how many others take him, who he is, its offer to him."""
        for way in self._ways.at(number):
            if (offer := way.takers.get(number)) is not None:
                for group in way.rich.values():
                    yield len(way.open), next(iter(group.ids)), offer
        for group, offer in self._purses.takers(number) if self._purses else ():
            yield len(group.way.open), next(iter(group.ids)), offer
