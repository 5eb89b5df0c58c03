"""How far a batch is: what came out of it, what its live jobs tell, what there is to come."""

from __future__ import annotations

import math
from collections import Counter, deque

import msgspec

from ._core.forecast import time_left
from ._core.job import Held, Job, Left, Queued, Ready, Running, Submitting
from ._core.plan import Plan
from ._core.routing import Route
from ._core.upstream import Health
from ._core.values import Result
from .errors import UnknownOutcome


class AccountProgress(Health, frozen=True):
    """How one account of a client fares: the attributes of `Health`, `running` of all its batches, and these.

    Attributes:
        done: Requests of this batch that it finished with their pictures, in this run.
        credits: Billed for the requests of this batch that ended with it, in this run.
    """

    done: int
    credits: float


class Progress(msgspec.Struct, frozen=True):
    """How far a batch is, at one moment.

    Attributes:
        total: Requests in the input, or None where it has no length.
        pulled: Requests taken from the input so far.
        queued: Of these, waiting to be sent.
        submitting: Creates on the way.
        held: Creates whose answer was lost, and of which a callback may still tell.
        running: Tasks at the provider.
        saving: Finished tasks whose pictures are being fetched or wait for it.
        done: Finished with their pictures.
        failed: Finished without, the unknown ones included.
        unknown: Creates whose answer was lost.
        earlier: Of the done and failed, those that an earlier run of the journal had brought to their end.
        credits: Billed in this run, as the results tell; those that tell nothing count 0.
        reserved: Credits that the tasks at the providers are expected to cost, and what creates may have cost whose
            answer was lost in this run.
        projected: Credits in this run by its end: these, and what is not sent at the mean price of what was; None where
            the input has no length or a price is unknown.
        elapsed: Seconds since the batch began.
        rate: Requests finished per second of late, earlier ones not counted.
        eta: Seconds to the end, by the limits, by how long tasks have taken so far (before any has ended, by what the
            provider's record says), and by `rate` once that is steady; None where the input has no length.
        latency: Seconds that the providers took for a task, the median of the last 512; None before any.
        latency_p95: Of these, what 95 in a hundred stay below.
        calls_per_task: Status calls that a finished task took, on average; None before any.
        recent: The last results, at most 48, the newest last.
        accounts: How each account fares.
    """

    total: int | None
    pulled: int
    queued: int
    submitting: int
    held: int
    running: int
    saving: int
    done: int
    failed: int
    unknown: int
    earlier: int
    credits: float
    reserved: float
    projected: float | None
    elapsed: float
    rate: float
    eta: float | None
    latency: float | None
    latency_p95: float | None
    calls_per_task: float | None
    recent: tuple[Result, ...]
    accounts: tuple[AccountProgress, ...]


class Tally:
    """What came out of a batch so far."""

    def __init__(self) -> None:
        self.began_at = 0.0
        self.done = self.failed = self.unknown = self.earlier = 0
        self.credits = 0.0
        self.done_by: Counter[str] = Counter()
        self.credits_by: dict[str, float] = {}
        self.recent: deque[Result] = deque(maxlen=48)
        self._unknown: dict[str, Result] = {}
        self._at_risk = 0.0
        self._times: deque[float] = deque(maxlen=512)
        self._latencies: deque[float] = deque(maxlen=512)
        self._calls: Counter[int] = Counter()
        self._finished_calls = self._finished_tasks = 0
        self._prices = 0.0
        self._priced = 0

    def count(self, result: Result, now: float) -> None:
        """Add one result."""
        self.recent.append(result)
        if result.earlier:
            self.earlier += 1
        else:
            self._times.append(now)
            if result.latency is not None:
                self._latencies.append(result.latency)
            self.credits += result.credits or 0.0
            self.done_by[result.provider] += result.ok
            self.credits_by[result.provider] = self.credits_by.get(result.provider, 0.0) + (result.credits or 0.0)
        self.done += result.ok
        self.failed += not result.ok
        if isinstance(result.error, UnknownOutcome):
            self.unknown += 1
            self._unknown[result.key] = result
            self._at_risk += _at_risk(result)

    def begin(self, price: float | None) -> None:
        """Count a job that is to be sent, or is taken up, with its price."""
        self._priced += 1
        self._prices += math.nan if price is None else price

    def ask(self, job_id: int) -> None:
        """Count a status call."""
        self._calls[job_id] += 1

    def end(self, job: Job) -> None:
        """Count a job that ended, whatever came of it."""
        calls = self._calls.pop(job.id, 0)
        if job.task_id is not None and not isinstance(job.state, Left):
            self._finished_tasks += 1 + job.retried
            self._finished_calls += calls

    @property
    def mean_price(self) -> float | None:
        """Credits that a request costs, by those that were sent; None where one of them has an unknown price."""
        mean = self._prices / self._priced if self._priced else math.nan
        return None if math.isnan(mean) else mean

    @property
    def calls_per_task(self) -> float | None:
        """Status calls that a finished task took, on average."""
        return self._finished_calls / self._finished_tasks if self._finished_tasks else None

    def latencies(self, *parts: float) -> list[float | None]:
        """Seconds below which each of these parts of the last latencies is."""
        ordered = sorted(self._latencies)
        return [ordered[math.ceil(part * len(ordered)) - 1] if ordered else None for part in parts]

    def reopen(self, key: str) -> None:
        """Take back an unknown result, by its request's key in a journal: another one will come in its place."""
        if key in self._unknown:
            self.failed -= 1
            self.unknown -= 1
            result = self._unknown.pop(key)
            self.earlier -= result.earlier
            self._at_risk -= _at_risk(result)

    def pace(self, now: float, steady: float) -> float | None:
        """Results a second since the first of the last 512; None until they have come for `steady` seconds."""
        if len(self._times) < 20 or now - self._times[0] < steady:
            return None
        return (len(self._times) - 1) / (now - self._times[0])

    def rate(self, now: float) -> float:
        """Results a second, over the last 512: recent enough to follow a change, long enough to be steady."""
        since = self._times[0] if len(self._times) == self._times.maxlen else self.began_at
        return len(self._times) / max(now - since, 1e-3)

    def progress(
        self,
        plan: Plan,
        owner: int,
        now: float,
        *,
        total: int | None,
        pulled: int,
        unpulled: int | None,
        route: Route | None,
    ) -> Progress:
        """How far the batch is.

        Args:
            plan: Has its live jobs, and how the accounts fare.
            owner: Whose jobs are the batch's.
            now: Loop time.
            total: Requests in the input, where it has a length.
            pulled: Requests taken from it.
            unpulled: Requests that will be; None where nobody knows.
            route: Where a plain prompt may go, as far as one fits anybody.
        """
        jobs = [job for job in plan.jobs if job.owner == owner]
        states = Counter(type(job.state) for job in jobs)
        at_work = (job for job in jobs if not isinstance(job.state, Queued))
        reserved = self._at_risk + sum(job.model.price(job.request) or 0.0 for job in at_work)
        unsent = None if unpulled is None else unpulled + states[Queued]
        median, p95 = self.latencies(0.5, 0.95)
        return Progress(
            total=total,
            pulled=pulled,
            queued=states[Queued],
            submitting=states[Submitting],
            held=states[Held],
            running=states[Running],
            saving=states[Ready],
            done=self.done,
            failed=self.failed,
            unknown=self.unknown,
            earlier=self.earlier,
            credits=self.credits,
            reserved=reserved,
            projected=None if unsent is None else self._projected(unsent, reserved, has_live=bool(jobs)),
            elapsed=now - self.began_at,
            rate=self.rate(now),
            eta=None if unsent is None else self._time_left(plan, jobs, unsent, route, now),
            latency=median,
            latency_p95=p95,
            calls_per_task=self.calls_per_task,
            recent=tuple(self.recent),
            accounts=tuple(self._fare(upstream.health(now)) for upstream in plan.upstreams.values()),
        )

    def _fare(self, health: Health) -> AccountProgress:
        done, credits = self.done_by[health.name], self.credits_by.get(health.name, 0.0)
        return AccountProgress(**msgspec.structs.asdict(health), done=done, credits=credits)

    def _projected(self, unsent: int, reserved: float, *, has_live: bool) -> float | None:
        """Credits by the end, or None where prices are unknown."""
        price = self.mean_price
        if price is None and (unsent or has_live):
            return None
        return self.credits + reserved + unsent * (price or 0.0)

    def _time_left(self, plan: Plan, jobs: list[Job], unsent: int, route: Route | None, now: float) -> float:
        """Seconds until the last result."""
        upstreams = plan.upstreams
        pace = self.pace(now, 2 * max(upstream.limits.submit.per for upstream in upstreams.values()))
        able = plan.preferred(route) if route is not None else set(upstreams)
        used = [
            upstream for name, upstream in upstreams.items() if name in able or any(job.account == name for job in jobs)
        ]
        return time_left(unsent, jobs, used, now, pace)


def _at_risk(result: Result) -> float:
    """Credits that a create may have cost whose answer was lost in this run."""
    return result.error.credits or 0.0 if isinstance(result.error, UnknownOutcome) and not result.earlier else 0.0
