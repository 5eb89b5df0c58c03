"""What a batch hands out: results in the order of finishing or of the input, and how far it is."""

from __future__ import annotations

import math
from collections import Counter, deque

import msgspec

from ._core.job import Job
from ._core.lane import Health
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
        reserved: Credits that the tasks at the providers are expected to cost, and creates that may have made one.
        projected: Credits in this run by its end, with what is not sent at the mean price of what was; None where the
            input has no length or a price is unknown.
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
        self._unknown: dict[str, bool] = {}
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
            self._unknown[result.key] = result.earlier

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
        if job.task_id is not None:
            self._finished_tasks += 1
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

    def latency(self, part: float) -> float | None:
        """Seconds below which that part of the last latencies is."""
        ordered = sorted(self._latencies)
        return ordered[math.ceil(part * len(ordered)) - 1] if ordered else None

    def reopen(self, key: str) -> None:
        """Take back an unknown result, by its request's key in a journal: another one will come in its place."""
        if key in self._unknown:
            self.failed -= 1
            self.unknown -= 1
            self.earlier -= self._unknown.pop(key)

    def pace(self, now: float, steady: float) -> float | None:
        """Results a second since the first of the last 512; None until they have come for `steady` seconds."""
        if len(self._times) < 20 or now - self._times[0] < steady:
            return None
        return (len(self._times) - 1) / (now - self._times[0])

    def rate(self, now: float) -> float:
        """Results a second, over the last 512: recent enough to follow a change, long enough to be steady."""
        since = self._times[0] if len(self._times) == self._times.maxlen else self.began_at
        return len(self._times) / max(now - since, 1e-3)


class AsTheyFinish:
    """Hands results out in the order of finishing."""

    def __init__(self) -> None:
        self.ready: deque[Result] = deque()

    def expect(self, ticket: int) -> None:
        """Hear which result is the next of the input, by the id of its job or another number of its own."""

    def put(self, result: Result, ticket: int) -> None:
        """Take in a result."""
        self.ready.append(result)

    def skip(self, ticket: int) -> None:
        """Hear that a result will not come."""

    def release(self) -> None:
        """Give up waiting for results that will not come any more."""


class InOrder(AsTheyFinish):
    """Hands results out in the order of the input."""

    def __init__(self) -> None:
        super().__init__()
        self._early: dict[int, Result | None] = {}
        self._expected: deque[int] = deque()

    def expect(self, ticket: int) -> None:
        """Hear which result is the next of the input, by the id of its job or another number of its own."""
        self._expected.append(ticket)
        self._let_out()

    def put(self, result: Result, ticket: int) -> None:
        """Take in a result, and let out what it held back."""
        self._early[ticket] = result
        self._let_out()

    def skip(self, ticket: int) -> None:
        """Hear that a result will not come, and let out what it held back."""
        self._early[ticket] = None
        self._let_out()

    def release(self) -> None:
        """Give up waiting for results that will not come any more, so that those after them come out."""
        order = [ticket for ticket in self._expected if ticket in self._early]
        for ticket in [*order, *(self._early.keys() - set(order))]:
            self._release(ticket)
        self._expected.clear()

    def _let_out(self) -> None:
        while self._expected and self._expected[0] in self._early:
            self._release(self._expected.popleft())

    def _release(self, ticket: int) -> None:
        result = self._early.pop(ticket)
        if result is not None:
            self.ready.append(result)
