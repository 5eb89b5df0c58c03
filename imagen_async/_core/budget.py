"""What a batch may spend: reserved when a create is sent, settled with what the provider reports. Pure arithmetic."""

from __future__ import annotations

from .job import Job
from .routing import Offer

PARTS = 1_000_000
"""Of a credit: amounts are added up as whole numbers, so that 0.1 + 0.2 is 0.3."""


class Budget:
    """The credits of one batch. What is spent and what is in flight together never come to more than the limit.

    A create reserves its price when it is sent. It is released when the create was refused or never left, and settled
    when the provider tells what it billed. Where it tells nothing, as of a lost create or a task that nobody waits for
    any more, the price counts as spent: nobody knows that it was not. Only a provider that bills more than its price
    can go beyond the limit, by what it billed too much of the tasks in flight; from then on its word is the price.

    Args:
        limit: Credits.
        spent: Credits that earlier runs have spent, or may have.

    Attributes:
        repriced: Counts how often a price has turned out to be too low.
    """

    def __init__(self, limit: float, spent: float = 0.0) -> None:
        self._limit = parts(limit)
        self._spent = parts(spent)
        # By job, with what was reserved for it: by the time that it is settled the price may be another one.
        self._reserved: dict[int, tuple[int, _Source, int]] = {}
        self._total_reserved = 0
        # What an account has billed for a model, and what was said that it would: where these are farthest apart.
        self._dearest: dict[_Source, tuple[int, int]] = {}
        self.repriced: int = 0

    @property
    def room(self) -> int:
        """What may be reserved yet, in parts of a credit."""
        return self._limit - self._spent - self._total_reserved

    @property
    def limit(self) -> float:
        """Credits that may be spent."""
        return self._limit / PARTS

    @property
    def spent(self) -> float:
        """Credits billed, or that may have been."""
        return self._spent / PARTS

    @property
    def reserved(self) -> float:
        """Credits that what is in flight is expected to cost."""
        return self._total_reserved / PARTS

    @property
    def is_idle(self) -> bool:
        """True while nothing is in flight, so that nothing can be released any more."""
        return not self._reserved

    def add_spent(self, credits: float) -> None:
        """Count what was spent before."""
        self._spent += parts(credits)

    def fits(self, job: Job, offer: Offer) -> bool:
        """Say whether a job may be sent there now."""
        # Nothing cancels a task, so all that is in flight may come to be billed.
        return self.price(job, offer) <= self.room

    def reserve(self, job: Job, offer: Offer) -> None:
        """A create leaves, or a task that runs is taken up."""
        price, said = self.price(job, offer), _said(job, offer)
        self._reserved[job.id] = (price, _source(offer, said), said)
        self._total_reserved += price

    def release(self, job_id: int) -> None:
        """Nothing was made; of a job that has nothing reserved it is no news."""
        price, _, _ = self._reserved.pop(job_id, (0, None, 0))
        self._total_reserved -= price

    def settle(self, job_id: int, credits: float | None) -> None:
        """A task has ended, or is out of sight: it has cost so much, or, where nobody tells, its price."""
        # An answer has settled it: the end of its job is no second bill.
        if job_id not in self._reserved:
            return
        price, source, said = self._reserved[job_id]
        self.release(job_id)
        # A bill below nothing would let more be spent than the limit says.
        billed = price if credits is None else max(0, parts(credits))
        self._spent += billed
        most, of = self._dearest.get(source, (0, 1))
        if billed * of > most * max(1, said):
            self._dearest[source] = (billed, max(1, said))
            self.repriced += billed > price

    def price(self, job: Job, offer: Offer) -> int:
        """What a create reserves there, in parts of a credit: with leave for another model, the dearest of them."""
        others = () if job.route is None or job.route.then is None else job.route.then.all_offers
        return max(self._price(job, each) for each in (offer, *others))

    def _price(self, job: Job, offer: Offer) -> int:
        said = _said(job, offer)
        billed, of = self._dearest.get(_source(offer, said), (0, 1))
        # Rounded up: a price that is too low by a fraction would let one picture too many through.
        return max(said, -(-max(1, said) * billed // of))


_Source = tuple[str, str, bool]
"""Whose price it is: an account's for a model, and whether it is said to cost nothing, from which nothing is learned of
what is dearer."""


def _source(offer: Offer, said: int) -> _Source:
    return offer.account, offer.model.wire_name, said > 0


def _said(job: Job, offer: Offer) -> int:
    """The record's price, in parts of a credit."""
    # Only a task taken up can have no price here: on a budget no create goes to an account whose price is unknown.
    return parts(offer.model.price(job.request) or 0.0)


def parts(credits: float) -> int:
    """An amount as it is added up, in parts of a credit."""
    return round(credits * PARTS)
