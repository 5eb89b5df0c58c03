"""A provider in virtual time around the library's own plan: no network, no noise, the same on every run."""

from __future__ import annotations

import heapq
import itertools
from bisect import bisect_left
from collections.abc import Container, Iterable, Sequence

import msgspec

from imagen_async import ImageRequest
from imagen_async._core.change import Change
from imagen_async._core.circuit_breaker import CircuitBreaker
from imagen_async._core.job import Job
from imagen_async._core.job_events import Event, Turn
from imagen_async._core.latency import LatencyPrior
from imagen_async._core.plan import Plan
from imagen_async._core.poll_schedule import Kind, PollSchedule
from imagen_async._core.provider import Limits
from imagen_async._core.rate_limit import Window
from imagen_async._core.states import Ended, Noting
from imagen_async._core.upstream import Upstream
from imagen_async._core.wire import Accepted, Pending, Succeeded
from imagen_async.providers import PROVIDERS

MODEL = PROVIDERS["kie"].models[0]


class Fixed(PollSchedule):
    """Asks at a fixed interval, first come, first asked, whatever it sees."""

    def __init__(self, interval: float) -> None:
        super().__init__(LatencyPrior(1, 1))
        self._interval = interval

    def next_age(self, kind: Kind, asked: float, announced: float = 0.0, part: float = 1.0) -> float:
        """One interval later."""
        return asked + self._interval

    def waiting(self, kind: Kind, asked: float, age: float, announced: float = 0.0) -> float:
        """Whoever was asked longest ago goes first."""
        return age - asked


class Exponential(Fixed):
    """Asks after 1 s, 1.5 s, 2.25 s … 10 s."""

    def __init__(self, first: float = 1.0, factor: float = 1.5, longest: float = 10.0) -> None:
        super().__init__(first)
        intervals = (min(longest, first * factor**number) for number in itertools.count())
        self._ages = list(itertools.islice(itertools.accumulate(intervals), 500))

    def next_age(self, kind: Kind, asked: float, announced: float = 0.0, part: float = 1.0) -> float:
        """The next age of the series."""
        return next(age for age in self._ages if age > asked + 1e-6)


class Outcome(msgspec.Struct, frozen=True):
    """What became of a run.

    Attributes:
        calls: Status calls of each task, in the order of creation.
        delays: Seconds from its end at the provider to its being seen, of each.
        makespan: Seconds from the first create to the last picture seen.
        bound: The least that it can be: each create as early as the limit lets it, each picture seen at once.
        busiest: The most status calls of any window of the limit, at the provider.
    """

    calls: list[int]
    delays: list[float]
    makespan: float
    bound: float
    busiest: int


def upstream(name: str, limits: Limits, schedule: PollSchedule) -> Upstream:
    """An account with as many connections as it likes, that is tried again after a second whatever happens."""
    breaker = CircuitBreaker(name, lambda setbacks, longest: 1.0)
    return Upstream(name, limits, schedule, Window(limits.submit), Window(limits.status), breaker, 10**9)


class Simulation:
    """One account whose task number i takes `latencies[i]` seconds, behind a round trip of a fixed length.

    The end of each task that `announced` names is announced by a callback, one way later. With `at_a_time` the tasks
    come in groups of so many, each group once the one before has ended.
    """

    def __init__(
        self,
        schedule: PollSchedule,
        latencies: Sequence[float],
        limits: Limits,
        round_trip: float = 0.0,
        announced: Container[int] = (),
        at_a_time: int | None = None,
    ) -> None:
        self._latencies = latencies
        self._limits = limits
        self._round_trip = round_trip
        self._announced = announced
        self._at_a_time = at_a_time
        self._callbacks: list[tuple[float, int]] = []
        self._plan = Plan([upstream("account", limits, schedule)], 1)
        self._answers: list[tuple[float, int, Job, Event]] = []
        self._turn = itertools.count()
        self._ended_at: dict[int, float] = {}
        self._calls = [0] * len(latencies)
        self._asked_at: list[float] = []
        self._seen_at = [0.0] * len(latencies)

    def run(self) -> Outcome:
        """Run to the end."""
        now = 0.0
        added = 0
        while True:
            while added < len(self._latencies) and self._comes_next(added):
                self._plan.add(_job(added), now)
                added += 1
            for change in self._plan.take(now):
                if isinstance(change.event, Turn):
                    self._talk(change.after, now)
            events = (heap[0][0] for heap in (self._answers, self._callbacks) if heap)
            now = min(self._plan.wake_at(now), *events, float("inf"))
            if now == float("inf"):
                return self._outcome()
            while self._callbacks and self._callbacks[0][0] <= now:
                _, number = heapq.heappop(self._callbacks)
                self._plan.on_callback(number, "account", 1, str(number), now)
            while self._answers and self._answers[0][0] <= now:
                _, _, job, event = heapq.heappop(self._answers)
                self._see(self._plan.settle(job, event, now), now)

    def _comes_next(self, number: int) -> bool:
        if self._at_a_time is None:
            return self._plan.wants_more(0)
        return number % self._at_a_time > 0 or not self._plan.jobs

    def _see(self, changes: Iterable[Change], now: float) -> None:
        for change in changes:
            if isinstance(change.after.state, Ended):
                self._seen_at[change.after.id] = now

    def _talk(self, job: Job, now: float) -> None:
        there = now + self._round_trip / 2
        event: Event
        if isinstance(job.state, Noting):
            self._plan.leaves(job, now)
            self._ended_at[job.id] = there + self._latencies[job.id]
            if job.id in self._announced:
                heapq.heappush(self._callbacks, (self._ended_at[job.id] + self._round_trip / 2, job.id))
            event = Accepted(str(job.id))
        else:
            self._calls[job.id] += 1
            self._asked_at.append(there)
            ended = self._ended_at[job.id] <= there
            event = Succeeded(("url",), self._latencies[job.id], 1.0, b"") if ended else Pending("generating")
        heapq.heappush(self._answers, (now + self._round_trip, next(self._turn), job, event))

    def _outcome(self) -> Outcome:
        rate = self._limits.submit
        earliest = (number // rate.count * rate.per + latency for number, latency in enumerate(self._latencies))
        delays = [seen - self._ended_at[number] for number, seen in enumerate(self._seen_at)]
        busiest = _most_within(self._limits.status.per, self._asked_at)
        return Outcome(self._calls, delays, max(self._seen_at), max(earliest), busiest)


def _most_within(seconds: float, times: Sequence[float]) -> int:
    """The most of them that lie within so many seconds."""
    return max(number - bisect_left(times, time - seconds) for number, time in enumerate(times, 1))


def _job(number: int) -> Job:
    request = ImageRequest("a red fox", model=MODEL.name)
    return Job(number, 0, number, str(number), request, "account", MODEL, deadline=1e6)
