"""What a prompt file will cost, in credits and in time, and which account gets what, before anything is sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from .. import Account, ImageRequest, Limits
from ..errors import ImagenError
from ..providers.served import UNBOUNDED
from .balances import Balance
from .library import (
    Budget,
    PollSchedule,
    Router,
    Shares,
    TaskKind,
    making_time,
    provider_of,
    sending_time,
    with_defaults,
)
from .wording import amount, counted, duration


class Share(msgspec.Struct):
    """What one account is expected to get.

    Attributes:
        kinds: Requests, by model and pictures of each.
        credits: What they cost when all succeed, by model; None where a price is unknown.
        sending: Seconds that the submit limit alone allows for the creates.
        seconds: Expected seconds to the last picture.
        latency: Mean seconds that one of these tasks is expected to take.
        limits: What it was reckoned with.
        balance: What the account has left; why that is not known; None where nobody tells.
    """

    kinds: Counter[TaskKind]
    credits: dict[str, float | None]
    sending: float
    seconds: float
    latency: float
    limits: Limits
    balance: Balance

    @property
    def models(self) -> dict[str, int]:
        """Requests by model."""
        models: Counter[str] = Counter()
        for (model, _), count in self.kinds.items():
            models[model] += count
        return dict(models)

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "models": self.models,
            "credits": self.credits,
            "seconds": round(self.seconds, 1),
            "balance": None if isinstance(self.balance, ImagenError) else self.balance,
        }

    def text(self) -> str:
        """For people: what the limits allow."""
        rate = self.limits.submit
        if rate == UNBOUNDED:
            return f"sent when the service's accounts may take them, then some {duration(self.latency)} each"
        sending = f"sent in {duration(self.sending)}" if self.sending else "all sent at once"
        guessed = " (a guess: it learns)" if rate.guess else ""
        return (
            f"about {duration(self.seconds)}: {sending} at {rate.count} creates per {rate.per:g} s{guessed}, "
            f"{self.limits.running} tasks at once of some {duration(self.latency)} each"
        )

    def cost_text(self) -> str:
        """For people: what goes there, and whether the account has as much."""
        costs = [f"{count:,} × {name} ({_credits(self.credits[name])})" for name, count in self.models.items()]
        return f"{', '.join(costs) or 'nothing'}{self.balance_text()}"

    def balance_text(self) -> str:
        """For people: what the account has left, as far as it tells."""
        if self.balance is None:
            return ""
        if isinstance(self.balance, ImagenError):
            return f"; balance unknown: {self.balance.message}"
        cost = _sum(self.credits.values())
        short = ", too few" if cost is not None and cost > self.balance else ""
        return f"; {amount(self.balance)} credits on the account{short}"


class Estimate(msgspec.Struct, frozen=True):
    """The figures of a plan.

    Attributes:
        requests: In the file.
        images: Pictures that they ask for.
        shares: What each account is expected to get.
        known: Requests of the file that are in the folder's journal already, and are not counted here.
        affordable: Requests that the budget pays for; None without one.
        spent: Credits that the journal's jobs have cost, or may have.
        max_credits: The budget, or None.
    """

    requests: int
    images: int
    shares: dict[str, Share]
    known: int
    affordable: int | None
    spent: float
    max_credits: float | None

    @property
    def credits(self) -> float | None:
        """What they cost when all succeed, or None where a price is unknown."""
        return _sum(credits for share in self.shares.values() for credits in share.credits.values())

    @property
    def seconds(self) -> float:
        """Expected seconds to the last picture, by the limits and by how long such tasks take."""
        return max(share.seconds for share in self.shares.values())

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        shares = self.shares.values()
        models: Counter[str] = Counter()
        for share in shares:
            models.update(share.models)
        return {
            "requests": self.requests,
            "images": self.images,
            "credits": self.credits,
            "models": dict(models),
            "seconds": round(self.seconds, 1),
            "seconds_at_least": max(share.sending for share in shares),
            "latency": round(max((share.latency for share in shares if share.kinds), default=0.0), 1),
            "in_journal": self.known,
            "affordable": self.affordable,
            "accounts": {name: share.to_json() for name, share in self.shares.items()},
        }

    def text(self) -> str:
        """For people."""
        lines = []
        if self.known:
            lines.append(f"{counted(self.known, 'request')} of the file in the journal already; to be sent:")
        if not self.requests:
            return "\n".join([*lines, "nothing"])
        models = ", ".join(f"{count:,} × {name}" for name, count in self.to_json()["models"].items())
        cost = _credits(self.credits)
        lines.append(f"{counted(self.requests, 'request')} ({models}), {counted(self.images, 'picture')}, {cost}")
        if len(self.shares) == 1:
            (share,) = self.shares.values()
            lines[-1] += share.balance_text()
            lines.append(share.text())
        else:
            lines.append(f"about {duration(self.seconds)}:")
            for name, share in self.shares.items():
                lines.append(f"  {name}: {share.cost_text()}")
                lines += [f"    {share.text()}"] if share.kinds else []
        return "\n".join([*lines, *self._budget_lines()])

    def _budget_lines(self) -> list[str]:
        if self.affordable is None or self.max_credits is None:
            return []
        spent = f", of which {amount(self.spent)} are spent or may have been," if self.spent else ""
        what = "all of it" if self.affordable >= self.requests else f"{counted(self.affordable, 'request')} of it"
        return [f"the budget of {amount(self.max_credits)} credits{spent} pays for {what}"]


class Estimator:
    """Reckons what checked requests cost, as `batch` would send them.

    Args:
        pool: The accounts.
        router: Finds who can take a request.
        schedules: What is known of latencies, by account.
        budget: What may be spent, or None; used up by the estimate.
    """

    def __init__(
        self,
        pool: Mapping[str, Account],
        router: Router,
        schedules: Mapping[str, PollSchedule],
        budget: Budget | None,
    ) -> None:
        self._limits = {name: account.limits or provider_of(account).limits for name, account in pool.items()}
        self._router = router
        self._schedules = schedules
        self._budget = budget

    def estimate(
        self,
        requests: Iterable[ImageRequest],
        defaults: ImageRequest,
        balances: Mapping[str, Balance],
        *,
        known: int = 0,
    ) -> Estimate:
        """Add up the requests that are to be sent, beside so many that a journal has."""
        images = count = affordable = 0
        shares = Shares(self._limits, self._schedules)
        credits: dict[str, dict[str, float | None]] = {name: {} for name in self._limits}
        spent = 0.0 if self._budget is None else self._budget.spent
        for request in requests:
            request, route = self._router.route(with_defaults(request, defaults))
            offer = shares.deal(route, request.count)
            price = route.dearest(offer, request)
            own, name = credits[offer.account], offer.model.name
            before = own.get(name, 0.0)
            own[name] = None if before is None or price is None else before + price
            affordable += self._budget is not None and self._affords(price, self._budget)
            images += request.count
            count += 1
        return Estimate(
            requests=count,
            images=images,
            shares={name: self._share(name, shares, credits[name], balances.get(name)) for name in self._limits},
            known=known,
            affordable=None if self._budget is None else affordable,
            spent=spent,
            max_credits=None if self._budget is None else self._budget.limit,
        )

    @staticmethod
    def _affords(price: float | None, budget: Budget) -> bool:
        # One that does not fit keeps no cheaper one behind it from being paid for, as in a batch.
        if price is None or budget.spent + price > budget.limit:
            return False
        budget.add_spent(price)
        return True

    def _share(self, name: str, shares: Shares, credits: dict[str, float | None], balance: Balance) -> Share:
        kinds, limits, schedule = shares.kinds[name], self._limits[name], self._schedules[name]
        count = kinds.total()
        return Share(
            kinds=kinds,
            credits=credits,
            sending=sending_time(count, limits, latency=0.0),
            seconds=making_time(count, kinds, limits, schedule),
            latency=schedule.mean(kinds),
            limits=limits,
            balance=balance,
        )


def _sum(amounts: Iterable[float | None]) -> float | None:
    """The sum, or None where one of them is unknown."""
    total = 0.0
    for each in amounts:
        if each is None:
            return None
        total += each
    return total


def _credits(credits: float | None) -> str:
    return "an unknown price" if credits is None else f"{amount(credits)} credits"
