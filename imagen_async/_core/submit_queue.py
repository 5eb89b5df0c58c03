"""Everybody who waits to be sent, and who goes next to which account."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping

import msgspec

from .budget import Budget
from .callers import KEPT, Caller, Callers, Rank
from .job import Job
from .purses import Purses
from .readiness import NOW, Turn
from .routing import Offer
from .shortage import Shortage
from .upstream import Upstreams
from .ways import Group, Way, Ways

MOST_WAITING = 500
"""Jobs of one owner that wait for some accounts while others have nothing to do, before no more are taken in."""


class _Place(msgspec.Struct, frozen=True, gc=False):
    """Where a job waits, and whose it is."""

    group: Group
    owner: int


class SubmitQueue:
    """The jobs that wait to be sent.

    A job is bound to no account until it is sent. Of the accounts that can send now, the one with the most room goes
    first, and it takes those first that the fewest other accounts can take. Of these callers take turns, by their
    shares; a caller's own go as they came.

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
        # Of those that have somebody waiting: while there is but one, nobody asks whose turn it is.
        self._callers = self._ways.callers.names

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

    def add(self, job: Job, budget: Budget | None, *, at_front: bool, keeps_turn: bool = False) -> None:
        """Take in a job: behind the others of its caller, or before them; it may keep the turn that came to nothing."""
        way = self._ways.of(job.way)
        # On a budget those of one price, so that a dear one keeps no cheap one waiting.
        prices = () if budget is None else (offer.model.price(job.request) for offer in job.way.all_offers)
        key = job.caller if budget is None else (job.caller, id(budget), *prices)
        group = way.groups.get(key)
        if group is None:
            caller = self._enter(way, job)
            group = way.groups[key] = Group(key, way, budget, caller, OrderedDict())
            group.ids[job.id] = keeps_turn
            self._ways.use(way)
            self._purses.enter(group)
        else:
            group.ids[job.id] = keeps_turn
            group.caller.share = job.share
            if at_front:
                group.ids.move_to_end(job.id, last=False)
                if len(self._callers) > 1:
                    way.rich.renew(group)
        way.waiting += 1
        self._places[job.id] = _Place(group, job.owner)
        self._shortage.add(job.owner, way)

    def remove(self, job_id: int, *, is_sent: bool = False) -> None:
        """Take a job out; where it is sent, its caller has had a turn."""
        place = self._places.pop(job_id)
        group, way = place.group, place.group.way
        keeps_turn = group.ids.pop(job_id)
        way.waiting -= 1
        if len(self._callers) > 1:
            if is_sent and not keeps_turn:
                way.callers.send(group.caller)
            if group.ids:
                way.rich.renew(group)
        if not group.ids:
            del way.groups[group.key]
            self._purses.leave(group)
            way.callers.leave(group.caller)
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
        if len(self._callers) > 1:
            return self._next_by_turns(first[2])
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

    def _enter(self, way: Way, job: Job) -> Caller:
        were_several = len(self._callers) > 1
        caller = way.callers.enter(job.caller, job.share)
        if not were_several and len(self._callers) > 1:
            # Nobody has told them what happened meanwhile.
            for each in self._ways:
                each.rich.regroup()
        return caller

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

    def _next_by_turns(self, number: int) -> tuple[Offer, int]:
        """Whom an account takes where several callers wait: as else, but of equals by turns."""
        firsts: dict[Callers, tuple[tuple[int, Rank, int], Group, Offer]] = {}
        for group, offer in self._fronts(number):
            place = (len(group.way.open), *group.first)
            best = firsts.get(group.way.callers)
            if best is None or place < best[0]:
                firsts[group.way.callers] = (place, group, offer)
        # Turns at different accounts tell nothing of each other: who has waited longest for his goes first.
        place, _, offer = min(firsts.values(), key=_across)
        return offer, place[2]

    def _fronts(self, number: int) -> Iterator[tuple[Group, Offer]]:
        """Of each way to an account the group whose turn it is, and all of the poor."""
        for way in self._ways.at(number):
            if way.rich and (offer := way.takers.get(number)) is not None:
                yield way.rich.first(), offer
        if self._purses:
            yield from self._purses.takers(number)


def _across(found: tuple[tuple[int, Rank, int], Group, Offer]) -> tuple[int, int, int]:
    (open_, rank, job_id), group, _ = found
    return open_, -1 if rank == KEPT else group.caller.since, job_id
