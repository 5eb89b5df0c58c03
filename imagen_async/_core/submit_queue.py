"""Everybody who waits to be sent, and who goes next to which account."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping

import msgspec

from .budget import Budget
from .job import Job
from .routing import Offer, Route
from .upstream import Upstream, Upstreams

MOST_WAITING = 500
"""Jobs of one owner that wait for some accounts while others have nothing to do, before no more are taken in."""


class _Group(msgspec.Struct):
    """Those who may go the same ways, on the same budget, first come first served."""

    key: object
    route: Route
    budget: Budget | None
    ids: OrderedDict[int, None]
    accounts: tuple[str, ...] = ()


class _Place(msgspec.Struct, frozen=True, gc=False):
    """Where a job waits, and the accounts that it is counted for."""

    group: _Group
    job_id: int
    owner: int
    accounts: tuple[str, ...]


class SubmitQueue:
    """The jobs that wait to be sent.

    A job is bound to no account until it is sent. Of the accounts that can send now, the one with the most room goes
    first, and it takes those first that the fewest other accounts can take.

    Args:
        upstreams: The accounts.
        jobs: Every live job, by its id; somebody else's, and only looked at.
    """

    def __init__(self, upstreams: Upstreams, jobs: Mapping[int, Job]) -> None:
        self._upstreams = upstreams
        self._jobs = jobs
        self._groups: dict[object, _Group] = {}
        self._places: dict[int, _Place] = {}
        # Kept up to date as they come and go: `wants_more` is asked before each request that is pulled.
        self._of: Counter[int] = Counter()
        self._for: Counter[tuple[int, str]] = Counter()

    def __len__(self) -> int:
        return len(self._places)

    def wants_more(self, owner: int) -> bool:
        """Say whether an owner should add more: some account has less of it than one look at its window may send."""
        # Where all that comes is for one account, the idleness of the others is worth a bounded queue, and no more.
        if self._of[owner] >= MOST_WAITING:
            return False
        takers = (upstream for upstream in self._upstreams.values() if upstream.breaker.stopped is None)
        return any(self._for[owner, upstream.name] < upstream.at_a_look for upstream in takers)

    def waiting_for(self, account: str) -> int:
        """Count those who may be sent to an account, whoever else takes them too."""
        return sum(count for (_, name), count in self._for.items() if name == account)

    def add(self, job: Job, budget: Budget | None, *, at_front: bool) -> None:
        """Take in a job: behind the others, or before them."""
        route = job.way
        # On a budget those of one price, so that a dear one keeps no cheap one waiting.
        key = (route.key, None if budget is None else (id(budget), job.request.images))
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = _Group(key, route, budget, OrderedDict())
        group.ids[job.id] = None
        if at_front:
            group.ids.move_to_end(job.id, last=False)
        self._count(_Place(group, job.id, job.owner, self._accounts(group)))

    def remove(self, job_id: int) -> None:
        """Take a job out."""
        group = self._uncount(job_id).group
        del group.ids[job_id]
        if not group.ids:
            del self._groups[group.key]

    def look_again(self) -> None:
        """Count anew who waits for whom: an account has stopped, or serves a model no more."""
        for job_id in list(self._places):
            place = self._uncount(job_id)
            self._count(msgspec.structs.replace(place, accounts=self._accounts(place.group)))

    def next(self, now: float) -> tuple[Offer, int] | None:
        """Who may be sent now, and where; None for nobody."""
        if not self._groups:
            return None
        ready = [upstream for upstream in self._upstreams.values() if upstream.submit_at(now) <= now]
        # By the part that is used up, so that equal accounts share a volley to the last place.
        if len(ready) > 1:
            ready.sort(key=lambda upstream: upstream.load(now))
        return next(filter(None, map(self._first_for, ready)), None)

    def wake_at(self, now: float) -> float:
        """When `next` will have somebody, if nothing else happens; infinity for never."""
        if not self._groups:
            return math.inf
        # Only of those who would get somebody: a free window that nobody waits for is no reason to look again.
        times = (
            upstream.submit_at(now) for upstream in self._upstreams.values() if self._first_for(upstream) is not None
        )
        return min(times, default=math.inf)

    def unwanted(self) -> Iterator[int]:
        """Those whom no account takes any more."""
        for group in self._groups.values():
            if not self._upstreams.open_offers(group.route):
                yield from group.ids

    def unaffordable(self) -> Iterator[int]:
        """Those whose budget is used up: nothing of it is in flight, and none of them fits into what is left."""
        # By budget, not by group: what no group has room for here, a cheaper account may have for another one.
        used_up: dict[int, bool] = {}
        for group in self._groups.values():
            if group.budget is not None:
                # A budget that is all reserved is not used up: what is in flight may turn out to cost less.
                is_over = group.budget.is_idle and not any(
                    self._fits(group, offer) for offer in self._upstreams.open_offers(group.route)
                )
                used_up[id(group.budget)] = used_up.get(id(group.budget), True) and is_over
        for group in self._groups.values():
            if used_up.get(id(group.budget)):
                yield from group.ids

    def _accounts(self, group: _Group) -> tuple[str, ...]:
        """Who takes a group now; one tuple for all that wait in it, as long as that is the same."""
        accounts = tuple(offer.account for offer in self._upstreams.open_offers(group.route))
        if accounts != group.accounts:
            group.accounts = accounts
        return group.accounts

    def _count(self, place: _Place) -> None:
        self._places[place.job_id] = place
        self._of[place.owner] += 1
        self._for.update((place.owner, account) for account in place.accounts)

    def _uncount(self, job_id: int) -> _Place:
        place = self._places.pop(job_id)
        self._of[place.owner] -= 1
        self._for.subtract((place.owner, account) for account in place.accounts)
        if not self._of[place.owner]:
            # Owners are numbered anew each time, so that their zeros would pile up.
            del self._of[place.owner]
            for account in self._upstreams:
                self._for.pop((place.owner, account), None)
        return place

    def _first_for(self, upstream: Upstream) -> tuple[Offer, int] | None:
        """Who goes next to an account, or None."""
        best: tuple[int, int] | None = None
        found: Offer | None = None
        for group in self._groups.values():
            offers = self._upstreams.open_offers(group.route)
            offer = self._offer_of(upstream, group, offers)
            if offer is not None:
                # Who can go elsewhere lets those first who cannot; of equals the lower number came earlier.
                first = (len(offers), next(iter(group.ids)))
                if best is None or first < best:
                    best, found = first, offer
        return None if found is None or best is None else (found, best[1])

    def _offer_of(self, upstream: Upstream, group: _Group, offers: list[Offer]) -> Offer | None:
        """The upstream's offer to a group, unless it has none, it is too dear, or a better one stands."""
        own = next((offer for offer in offers if offer.account == upstream.name), None)
        if own is None or not self._fits(group, own):
            return None
        # A better one that only waits for its limit is waited for, too: `cheapest` and `in_order` promise that.
        is_beaten = any(
            offer.rank < own.rank and not self._upstreams[offer.account].breaker.is_paused and self._fits(group, offer)
            for offer in offers
        )
        return None if is_beaten else own

    def _fits(self, group: _Group, offer: Offer) -> bool:
        # One speaks for all: on a budget those of a group have one price.
        return group.budget is None or group.budget.fits(self._jobs[next(iter(group.ids))], offer)
