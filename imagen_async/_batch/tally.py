"""Counts what came out of a batch, and with its live jobs and what is to come says how far it is."""

from __future__ import annotations

import math
from collections import Counter, deque

import msgspec

from .._core.change import Change
from .._core.forecast import time_left
from .._core.job import Job
from .._core.job_events import StatusAsked
from .._core.routing import Route
from .._core.states import Ended, Fetching, Left, Queued
from .._core.upstream import Health
from .._core.values import Result
from .._core.wording import STATE_WORDS
from .._progress import AccountProgress, Progress
from .._scheduler.scheduler import Standing
from ..errors import UnknownOutcome


class _Recent:
    """The last results, and how they came."""

    def __init__(self) -> None:
        self.results: deque[Result] = deque(maxlen=48)
        self._times: deque[float] = deque(maxlen=512)
        self._latencies: deque[float] = deque(maxlen=512)

    def add(self, result: Result, now: float) -> None:
        self.results.append(result)
        if not result.earlier:
            self._times.append(now)
            if result.latency is not None:
                self._latencies.append(result.latency)

    def latencies(self, *parts: float) -> list[float | None]:
        """Seconds below which each of these parts of the last latencies is."""
        ordered = sorted(self._latencies)
        return [ordered[math.ceil(part * len(ordered)) - 1] if ordered else None for part in parts]

    def pace(self, now: float, steady: float) -> float | None:
        """Results a second since the first of the last 512; None until they have come for `steady` seconds."""
        if len(self._times) < 20 or now - self._times[0] < steady:
            return None
        return (len(self._times) - 1) / (now - self._times[0])

    def rate(self, now: float, began_at: float) -> float:
        """Results a second, over the last 512: recent enough to follow a change, long enough to be steady."""
        since = self._times[0] if len(self._times) == self._times.maxlen else began_at
        return len(self._times) / max(now - since, 1e-3)


class _Calls:
    """Status calls that tasks took."""

    def __init__(self) -> None:
        self._of: Counter[int] = Counter()
        self._of_finished = self._finished = 0

    def ask(self, job_id: int) -> None:
        self._of[job_id] += 1

    def end(self, job: Job) -> None:
        calls = self._of.pop(job.id, 0)
        if job.task_id is not None and not isinstance(job.state, Left):
            # Each retry has had a finished task before it.
            self._finished += 1 + job.retried
            self._of_finished += calls

    @property
    def per_task(self) -> float | None:
        """Of those that finished, on average; None before any has."""
        return self._of_finished / self._finished if self._finished else None


class _Money:
    """What a batch has cost in this run, and may have."""

    def __init__(self) -> None:
        self.spent = 0.0
        self.spent_by: dict[str, float] = {}
        self.at_risk = 0.0
        self._prices = 0.0
        self._priced = 0
        self._billed_before: dict[str, float] = {}

    def begin(self, job: Job) -> None:
        """Count a job that is to be sent, or is taken up, with its price."""
        self._priced += 1
        # One unknown price makes the mean unknown from then on.
        price = job.model.price(job.request)
        self._prices += math.nan if price is None else price
        # Of one that is only fetched all was billed before; of one made anew, what its earlier tasks have cost.
        before = math.inf if isinstance(job.state, Fetching) else job.spent
        if before:
            self._billed_before[job.key] = before

    def add(self, result: Result) -> None:
        if not result.earlier:
            spent = max(0.0, (result.credits or 0.0) - self._billed_before.get(result.key, 0.0))
            self.spent += spent
            self.spent_by[result.provider] = self.spent_by.get(result.provider, 0.0) + spent

    @property
    def mean_price(self) -> float | None:
        """Credits that a request costs, by those that were sent; None where one of them has an unknown price."""
        mean = self._prices / self._priced if self._priced else math.nan
        return None if math.isnan(mean) else mean

    def projected(self, unsent: int | None, reserved: float, *, has_live: bool) -> float | None:
        """Credits by the end, or None where prices are unknown, or what is to come."""
        price = self.mean_price
        if unsent is None or (price is None and (unsent or has_live)):
            return None
        return self.spent + reserved + unsent * (price or 0.0)


class Tally:
    """What came out of a batch so far.

    Attributes:
        began_at: Loop time at which it was entered.
        ended_at: Loop time at which it was left, or None.
    """

    def __init__(self) -> None:
        self.began_at = 0.0
        self.ended_at: float | None = None
        self._done = self._failed = self._unknown = self._earlier = 0
        self._done_by: Counter[str] = Counter()
        self._unknown_by_key: dict[str, Result] = {}
        self._recent = _Recent()
        self._calls = _Calls()
        self._money = _Money()

    def on_change(self, change: Change, now: float) -> None:
        """Count a job that comes in, a status call, or a job that ended, whatever came of it."""
        job = change.after
        if change.before is None:
            self._money.begin(job)
        if isinstance(change.event, StatusAsked):
            self._calls.ask(job.id)
        elif isinstance(job.state, Ended):
            self._calls.end(job)

    def count(self, result: Result, now: float) -> None:
        """Add one result, of a job or of an earlier run."""
        self._recent.add(result, now)
        self._money.add(result)
        self._earlier += result.earlier
        self._done += result.ok
        self._failed += not result.ok
        if not result.earlier:
            self._done_by[result.provider] += result.ok
        if isinstance(result.error, UnknownOutcome):
            self._unknown += 1
            self._unknown_by_key[result.key] = result
            self._money.at_risk += _at_risk(result)

    def pass_over(self) -> None:
        """Count a result of an earlier run that nobody asks for once more."""
        self._earlier += 1
        self._done += 1

    def reopen(self, key: str) -> None:
        """Take back an unknown result, by its request's key in a journal: another one will come in its place."""
        if key in self._unknown_by_key:
            result = self._unknown_by_key.pop(key)
            self._unknown -= 1
            # An unknown result was counted among the failed ones, too.
            self._failed -= 1
            self._earlier -= result.earlier
            self._money.at_risk -= _at_risk(result)

    def progress(
        self, standing: Standing, *, total: int | None, pulled: int, unpulled: int | None, route: Route | None
    ) -> Progress:
        """How far the batch is.

        Args:
            standing: Its live jobs, and how the accounts fare.
            total: Requests in the input, where it has a length.
            pulled: Requests taken from it.
            unpulled: Requests that will be; None where nobody knows.
            route: Where a plain prompt may go, as far as one fits anybody.
        """
        # Once the block was left, time stands still: a batch can be looked at for long after.
        now = standing.now if self.ended_at is None else self.ended_at
        reserved = self._money.at_risk + _reserved(standing)
        counts = _counts(standing)
        unsent = None if unpulled is None else unpulled + counts["queued"]
        median, p95 = self._recent.latencies(0.5, 0.95)
        progress = Progress(
            total=total,
            pulled=pulled,
            **counts,
            **self._results(),
            credits=self._money.spent,
            reserved=reserved,
            projected=self._money.projected(unsent, reserved, has_live=bool(standing.jobs)),
            elapsed=now - self.began_at,
            rate=self._recent.rate(now, self.began_at),
            eta=None if unsent is None else self._time_left(standing, unsent, route, now),
            latency=median,
            latency_p95=p95,
            calls_per_task=self._calls.per_task,
            recent=tuple(self._recent.results),
            accounts=tuple(self._fare(upstream.health(now)) for upstream in standing.upstreams.values()),
        )
        # Nobody knows when it goes on.
        return msgspec.structs.replace(progress, eta=None) if unsent and progress.is_paused else progress

    def _results(self) -> dict[str, int]:
        return {"done": self._done, "failed": self._failed, "unknown": self._unknown, "earlier": self._earlier}

    def _fare(self, health: Health) -> AccountProgress:
        done, credits = self._done_by[health.name], self._money.spent_by.get(health.name, 0.0)
        return AccountProgress(**msgspec.structs.asdict(health), done=done, credits=credits)

    def _time_left(self, standing: Standing, unsent: int, route: Route | None, now: float) -> float:
        """Seconds until the last result."""
        upstreams, jobs = standing.upstreams, standing.jobs
        # The first window's creates go at once, so that only the next ones tell a pace.
        pace = self._recent.pace(now, 2 * max(upstream.limits.submit.per for upstream in upstreams.values()))
        able = upstreams.preferred(route) if route is not None else set(upstreams)
        used = able | {job.account for job in jobs}
        return time_left(unsent, jobs, [each for name, each in upstreams.items() if name in used], now, pace)


def _counts(standing: Standing) -> dict[str, int]:
    """Live jobs, as people count them."""
    words = Counter(STATE_WORDS[type(job.state)] for job in standing.jobs)
    # What is made is being saved: a batch that saves nothing has none.
    return {
        **{word: words[word] for word in ("queued", "submitting", "held", "running")},
        "saving": words["ready"],
    }


def _reserved(standing: Standing) -> float:
    """Credits that the tasks at the providers, or on the way there, are expected to cost."""
    at_work = (job for job in standing.jobs if not isinstance(job.state, Queued))
    return sum(job.model.price(job.request) or 0.0 for job in at_work)


def _at_risk(result: Result) -> float:
    """Credits that a create may have cost whose answer was lost in this run."""
    return result.error.credits or 0.0 if isinstance(result.error, UnknownOutcome) and not result.earlier else 0.0
