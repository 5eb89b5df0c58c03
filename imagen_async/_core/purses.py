"""What the budgets leave room for of those who wait: all that their ways offer, only some of it, or nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import msgspec

from .budget import Budget
from .job import Job
from .readiness import Turn
from .routing import Offer
from .ways import Group, Ways


class _Purse(msgspec.Struct, eq=False):
    """One budget, and those who wait on it: all `groups`, and the `poor` ones, which it has not room for everywhere.

    Below a room of `most` it has no room everywhere any more for some of the others. Below `some` it has none at all
    for any of the poor, and from `all` on it has it everywhere for one of these: by the prices `as_of` then.
    """

    budget: Budget
    groups: dict[int, Group]
    poor: dict[int, Group]
    most: float = -math.inf
    some: float = math.inf
    all: float = math.inf
    as_of: tuple[int, int] | None = None


class Purses:
    """Sorts who waits by what a budget leaves room for.

    Mostly that is everything, or nothing: only in between the accounts of a way are looked at one by one.

    Args:
        ways: How they may go.
        jobs: Every live job, by its id; somebody else's, and only looked at.
    """

    def __init__(self, ways: Ways, jobs: Mapping[int, Job]) -> None:
        self._ways = ways
        self._jobs = jobs
        self._purses: dict[int, _Purse] = {}

    def __bool__(self) -> bool:
        return bool(self._purses)

    def enter(self, group: Group) -> None:
        """Take in a group of which somebody waits."""
        if group.budget is None:
            self._ways.enrich(group)
            return
        purse = self._purses.get(id(group.budget))
        if purse is None:
            purse = self._purses[id(group.budget)] = _Purse(group.budget, {}, {})
        purse.groups[id(group)] = group
        self._sort(purse, group)

    def leave(self, group: Group) -> None:
        """Let a group go of which nobody waits any more."""
        self._ways.impoverish(group)
        if group.budget is not None:
            purse = self._purses[id(group.budget)]
            del purse.groups[id(group)]
            purse.poor.pop(id(group), None)
            if not purse.groups:
                del self._purses[id(group.budget)]

    def look(self) -> None:
        """Sort anew where a budget has come to have room for more, or for less, than it had."""
        for purse in self._purses.values():
            room, as_of = purse.budget.room, (self._ways.closures, purse.budget.repriced)
            if room < purse.most or room >= purse.all or as_of != purse.as_of:
                purse.as_of = as_of
                purse.most, purse.some, purse.all = -math.inf, math.inf, math.inf
                for group in purse.groups.values():
                    self._sort(purse, group)

    def first(self) -> Turn | None:
        """The first turn of an account that the poor would get; None for never, as things are."""
        turns = self._ways.readiness.turns
        numbers = (number for _, offers in self._some() for number in offers)
        return min((turn for number in numbers if (turn := turns[number]) is not None), default=None)

    def takers(self, number: int) -> Iterator[tuple[Group, Offer]]:
        """The poor groups that an account may take somebody from, and its offer to each."""
        for group, offers in self._some():
            if number in offers:
                yield group, offers[number]

    def unaffordable(self) -> Iterator[int]:
        """Those whose budget is used up: nothing of it is in flight, and none of them fits into what is left."""
        for purse in self._purses.values():
            # A budget that is all reserved is not used up: what is in flight may turn out to cost less.
            if purse.budget.is_idle and not any(map(self._fits_somewhere, purse.groups.values())):
                # By budget, not by group: what has no room in one, a cheaper account may have for another one.
                for group in purse.groups.values():
                    yield from group.ids

    def _some(self) -> Iterator[tuple[Group, dict[int, Offer]]]:
        """The poor that may go somewhere, and where."""
        for purse in self._purses.values():
            room = purse.budget.room
            for group in purse.poor.values() if purse.some <= room else ():
                job = self._head(group)
                fitting = {
                    number: offer for number, offer in group.way.open.items() if purse.budget.price(job, offer) <= room
                }
                yield group, self._ways.choice(fitting)

    def _sort(self, purse: _Purse, group: Group) -> None:
        self._price(group, purse.budget)
        if group.dearest <= purse.budget.room:
            purse.poor.pop(id(group), None)
            purse.most = max(purse.most, group.dearest)
            self._ways.enrich(group)
        else:
            purse.poor[id(group)] = group
            purse.some, purse.all = min(purse.some, group.cheapest), min(purse.all, group.dearest)
            self._ways.impoverish(group)

    def _fits_somewhere(self, group: Group) -> bool:
        assert group.budget is not None
        self._price(group, group.budget)
        return group.cheapest <= group.budget.room

    def _price(self, group: Group, budget: Budget) -> None:
        as_of = (group.way.version, budget.repriced)
        if group.priced_as_of != as_of:
            group.priced_as_of = as_of
            job = self._head(group)
            # One speaks for all: on a budget those of a group have one price.
            prices = [budget.price(job, offer) for offer in group.way.open.values()]
            group.cheapest, group.dearest = min(prices, default=math.inf), max(prices, default=math.inf)

    def _head(self, group: Group) -> Job:
        return self._jobs[next(iter(group.ids))]
