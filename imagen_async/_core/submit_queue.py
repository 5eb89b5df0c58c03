"""Everybody who waits to be sent, and who goes next to which account."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping

import msgspec

from .budget import Budget
from .job import Job
from .routing import Offer, Route
from .upstream import Upstream

MOST_WAITING = 500
"""Jobs of one owner that wait for some accounts while others have nothing to do, before no more are taken in."""


class _Line(msgspec.Struct):
    """Those who may go the same ways, on the same budget, first come first served."""

    key: object
    route: Route
    budget: Budget | None
    ids: OrderedDict[int, None]
    accounts: tuple[str, ...] = ()


class _Place(msgspec.Struct, frozen=True, gc=False):
    """Where a job waits, and the accounts that it is counted for."""

    line: _Line
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

    def __init__(self, upstreams: Mapping[str, Upstream], jobs: Mapping[int, Job]) -> None:
        self._upstreams = upstreams
        self._jobs = jobs
        self._lines: dict[object, _Line] = {}
        self._places: dict[int, _Place] = {}
        self._of: Counter[int] = Counter()
        self._for: Counter[tuple[int, str]] = Counter()

    def __len__(self) -> int:
        return len(self._places)

    def wants_more(self, owner: int) -> bool:
        """Say whether an owner should add more: some account has less of it than one look at its window may send."""
        if self._of[owner] >= MOST_WAITING:
            return False
        upstreams = self._upstreams.items()
        return any(
            self._for[owner, name] < upstream.at_a_look for name, upstream in upstreams if upstream.stopped is None
        )

    def add(self, job: Job, budget: Budget | None, *, at_front: bool) -> None:
        """Take in a job: behind the others, or before them."""
        route = job.way
        # On a budget those of one price, so that a dear one keeps no cheap one waiting.
        key = (route.key, None if budget is None else (id(budget), job.request.images))
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = _Line(key, route, budget, OrderedDict())
        line.ids[job.id] = None
        if at_front:
            line.ids.move_to_end(job.id, last=False)
        self._count(_Place(line, job.id, job.owner, self._accounts(line)))

    def remove(self, job_id: int) -> None:
        """Take a job out."""
        line = self._uncount(job_id).line
        del line.ids[job_id]
        if not line.ids:
            del self._lines[line.key]

    def look_again(self) -> None:
        """Count anew who waits for whom: an account has stopped, or serves a model no more."""
        for job_id in list(self._places):
            place = self._uncount(job_id)
            self._count(msgspec.structs.replace(place, accounts=self._accounts(place.line)))

    def next(self, now: float) -> tuple[Offer, int] | None:
        """Who may be sent now, and where; None for nobody."""
        if not self._lines:
            return None
        ready = [upstream for upstream in self._upstreams.values() if upstream.submit_at(now) <= now]
        if len(ready) > 1:
            ready.sort(key=lambda upstream: upstream.load(now))
        return next(filter(None, map(self._first_for, ready)), None)

    def wake_at(self, now: float) -> float:
        """When `next` will have somebody, if nothing else happens; infinity for never."""
        if not self._lines:
            return math.inf
        times = (
            upstream.submit_at(now) for upstream in self._upstreams.values() if self._first_for(upstream) is not None
        )
        return min(times, default=math.inf)

    def open_offers(self, route: Route) -> list[Offer]:
        """The accounts of a route that still take such requests."""
        return [offer for offer in route.offers if self._upstreams[offer.account].refusal(offer.model.name) is None]

    def unwanted(self) -> Iterator[int]:
        """Those whom no account takes any more."""
        for line in self._lines.values():
            if not self.open_offers(line.route):
                yield from line.ids

    def unaffordable(self) -> Iterator[int]:
        """Those whose budget is used up: nothing of it is in flight, and none of them fits into what is left."""
        used_up: dict[int, bool] = {}
        for line in self._lines.values():
            if line.budget is not None:
                is_over = line.budget.is_idle and not any(
                    self._fits(line, offer) for offer in self.open_offers(line.route)
                )
                used_up[id(line.budget)] = used_up.get(id(line.budget), True) and is_over
        for line in self._lines.values():
            if used_up.get(id(line.budget)):
                yield from line.ids

    def _accounts(self, line: _Line) -> tuple[str, ...]:
        """Who takes a line now; one tuple for all that wait in it, as long as that is the same."""
        accounts = tuple(offer.account for offer in self.open_offers(line.route))
        if accounts != line.accounts:
            line.accounts = accounts
        return line.accounts

    def _count(self, place: _Place) -> None:
        self._places[place.job_id] = place
        self._of[place.owner] += 1
        self._for.update((place.owner, account) for account in place.accounts)

    def _uncount(self, job_id: int) -> _Place:
        place = self._places.pop(job_id)
        self._of[place.owner] -= 1
        self._for.subtract((place.owner, account) for account in place.accounts)
        if not self._of[place.owner]:
            del self._of[place.owner]
            for account in self._upstreams:
                self._for.pop((place.owner, account), None)
        return place

    def _first_for(self, upstream: Upstream) -> tuple[Offer, int] | None:
        """Who goes next to an account, or None."""
        best: tuple[int, int] | None = None
        found: Offer | None = None
        for line in self._lines.values():
            offers = self.open_offers(line.route)
            offer = self._offer_of(upstream, line, offers)
            if offer is not None:
                first = (len(offers), next(iter(line.ids)))
                if best is None or first < best:
                    best, found = first, offer
        return None if found is None or best is None else (found, best[1])

    def _offer_of(self, upstream: Upstream, line: _Line, offers: list[Offer]) -> Offer | None:
        """The upstream's offer to a line, unless it has none, it is too dear, or a better one stands."""
        own = next((offer for offer in offers if offer.account == upstream.name), None)
        if own is None or not self._fits(line, own):
            return None
        is_beaten = any(
            offer.rank < own.rank and not self._upstreams[offer.account].is_paused and self._fits(line, offer)
            for offer in offers
        )
        return None if is_beaten else own

    def _fits(self, line: _Line, offer: Offer) -> bool:
        return line.budget is None or line.budget.fits(self._jobs[next(iter(line.ids))], offer)
