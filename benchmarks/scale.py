"""Many accounts, and many tasks that run at once: what the plan costs for each job, and for each look at it."""

from __future__ import annotations

import gc
import heapq
import itertools
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from benchmarks.clients import ENDLESS
from benchmarks.simulation import MODEL, upstream
from imagen_async import ImageRequest
from imagen_async._core.job import Job
from imagen_async._core.job_events import Event, OwnerLeft, Turn
from imagen_async._core.latency import LatencyPrior
from imagen_async._core.plan import Plan
from imagen_async._core.poll_schedule import PollSchedule
from imagen_async._core.provider import Limits
from imagen_async._core.rate_limit import Rate
from imagen_async._core.routing import Offer, Route
from imagen_async._core.states import Noting
from imagen_async._core.submit_queue import SubmitQueue
from imagen_async._core.upstream import Upstream, Upstreams
from imagen_async._core.wire import Accepted, Pending, Succeeded

TITLE = "100 tasks at once on each of 10 to 1,000 accounts, in virtual time: CPU of the plan, ratios to the fewest"

EACH = 100
"""Tasks of an account, all of which come to run at once."""

LIMITS = Limits(submit=Rate(100, per=10), status=Rate(50, per=1), running=EACH)
BREATH = 0.001
"""Seconds between two looks, as the loop has it."""

MEDIAN = 30.0
REQUEST = ImageRequest("a red fox", model=MODEL.name)
T = TypeVar("T")

WAYS = ("one account each", "spread", "cheapest", "in_order")

_IDLE_LOOKS = 1000


class Figures:
    """What a run has cost.

    Attributes:
        cpu: Seconds of CPU, the simulated provider's included: the same for each job, however many there are.
        idle: Seconds of CPU for a look that finds nothing to do, while most tasks run.
        asked: How often an account was asked when it has something to do, or how full it is.
        peak: Tasks that ran at once at most.
        jobs: How many there were.
    """

    def __init__(self, jobs: int = 0) -> None:
        self.cpu = self.idle = 0.0
        self.asked = 0
        self.peak = 0
        self.jobs = jobs

    @property
    def each(self) -> float:
        """Microseconds of CPU for a job."""
        return self.cpu / self.jobs * 1e6


def _accounts(count: int, limits: Limits, figures: Figures) -> list[Upstream]:
    """Accounts that count how often they are asked."""

    class Counted(Upstream):
        def submit_at(self, now: float) -> float:
            figures.asked += 1
            return super().submit_at(now)

        def ask_at(self, now: float) -> float:
            figures.asked += 1
            return super().ask_at(now)

        def load(self, now: float) -> float:
            figures.asked += 1
            return super().load(now)

    made = [upstream(f"a{number}", limits, PollSchedule(LatencyPrior(MEDIAN, 0.2))) for number in range(count)]
    for each in made:
        each.__class__ = Counted
    return made


def _size(count: int, way: str) -> int:
    """Jobs for so many accounts; where one goes before all others most would wait for that, for hours."""
    return 4 * EACH if way == "in_order" else count * EACH


def _jobs(count: int, way: str) -> Iterator[Job]:
    """Jobs for `count` accounts, each for one of them in turn, or all for whoever that policy lets go first."""
    names = [f"a{number}" for number in range(count)]
    # Half of them are cheap: these are waited for. Those of one price share.
    rank = {"spread": lambda number: 0, "cheapest": lambda number: 2 * number // count, "in_order": int}.get(way)
    route = None
    if rank is not None:
        route = Route(tuple(Offer(name, MODEL, rank(number)) for number, name in enumerate(names)))
    for number in range(_size(count, way)):
        yield Job(number, 0, number, str(number), REQUEST, names[number % count], MODEL, deadline=1e6, route=route)


class Simulation:
    """Accounts whose tasks take about half a minute, and a batch that feeds them as fast as they take it."""

    def __init__(self, count: int, way: str) -> None:
        self.figures = Figures(_size(count, way))
        self._chance = random.Random(1)
        self._plan = Plan(_accounts(count, LIMITS, self.figures), 1)
        self._input = _jobs(count, way)
        self._answers: list[tuple[float, int, Job, Event]] = []
        self._turn = itertools.count()
        self._ends: dict[int, float] = {}

    def run(self) -> Figures:
        """Run to the end."""
        began = time.process_time()
        now, is_measured = 0.0, False
        self._look(now)
        while (wakes := self._plan.wake_at(now)) < math.inf or self._answers:
            now = max(min(wakes, self._answers[0][0] if self._answers else math.inf), now + BREATH)
            while self._answers and self._answers[0][0] <= now:
                at, _, job, event = heapq.heappop(self._answers)
                self._plan.settle(job, event, at)
            self._look(now)
            if not is_measured and now > MEDIAN / 2:
                is_measured = True
                began += self._measure_idle(now)
        self.figures.cpu = time.process_time() - began
        assert not self._plan.jobs
        return self.figures

    def _measure_idle(self, now: float) -> float:
        """Look time and again at one moment, when all is done; returns what that took."""

        def look() -> None:
            for _ in range(_IDLE_LOOKS):
                assert not self._plan.take(now)
                self._plan.wants_more(0)
                self._plan.wake_at(now)

        asked = self.figures.asked
        took = _cpu(look)
        self.figures.asked = asked
        self.figures.idle = took / _IDLE_LOOKS
        return took

    def _look(self, now: float) -> None:
        while self._plan.wants_more(0) and (job := next(self._input, None)) is not None:
            self._plan.add(job, now)
        for change in self._plan.take(now):
            if isinstance(change.event, Turn):
                self._talk(change.after, now)
        self.figures.peak = max(self.figures.peak, len(self._ends))

    def _talk(self, job: Job, now: float) -> None:
        answered_at = now + self._chance.uniform(0.05, 0.15)
        event: Event = Pending("generating")
        if isinstance(job.state, Noting):
            self._plan.leaves(job, now)
            self._ends[job.id] = now + self._chance.lognormvariate(math.log(MEDIAN), 0.2)
            event = Accepted(str(job.id))
        elif self._ends[job.id] <= now:
            del self._ends[job.id]
            event = Succeeded(("url",), None, 1.0, b"")
        heapq.heappush(self._answers, (answered_at, next(self._turn), job, event))


def _running(count: int) -> tuple[Plan, list[Job]]:
    """A plan with 100 creates on the way to each of so many accounts, whose limits are out of the way."""
    plan = Plan(_accounts(count, ENDLESS, Figures()), 1, expects_callbacks=True)
    for account in plan.upstreams.values():
        account.breaker.answered_status()
    for job in _jobs(count, WAYS[0]):
        plan.add(job, 0.0)
    sent = [change.after for change in plan.take(0.0) if isinstance(change.event, Turn)]
    return plan, [change.after for job in sent for change in plan.leaves(job, 0.0)]


def callbacks(count: int) -> float:
    """Microseconds of CPU for a callback that names the task of a create on the way, while as many others are."""
    plan, jobs = _running(count)

    def tell() -> None:
        for job in jobs:
            assert plan.on_callback(job.id, job.account, 1, f"t{job.id}", 1.0)

    return _cpu(tell) / len(jobs) * 1e6


def leave(count: int) -> float:
    """Microseconds of CPU a task for leaving all that run."""
    plan, jobs = _running(count)
    for job in jobs:
        plan.settle(job, Accepted(f"t{job.id}"), 1.0)
    return _cpu(lambda: plan.tell_all(0, OwnerLeft(), 2.0)) / len(jobs) * 1e6


def _cpu(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def per_job(count: int = 3000, at_once: int = 500) -> float:
    """Microseconds of CPU that the plan takes for a job: it comes in, is sent, is asked about three times, and ends."""
    plan = Plan([upstream("a0", ENDLESS, PollSchedule(LatencyPrior(5, 0.35)))], 1)
    ended = itertools.repeat(Succeeded(("url",), 5.0, 1.0, b""))
    number, asked, now = 0, dict[int, int](), 0.0
    began = time.process_time()
    while number < count or plan.jobs:
        while number < count and len(plan.jobs) < at_once and plan.wants_more(0):
            plan.add(Job(number, 0, number, "k", REQUEST, "a0", MODEL, deadline=900.0), now)
            number += 1
        talking = [change.after for change in plan.take(now) if isinstance(change.event, Turn)]
        for job in talking:
            calls = asked[job.id] = asked.get(job.id, -1) + 1
            if not calls:
                plan.leaves(job, now)
                plan.settle(job, Accepted("t"), now)
            else:
                plan.settle(job, next(ended) if calls == 3 else Pending("generating"), now)
        now = now + BREATH if talking else max(now + BREATH, plan.wake_at(now))
    return (time.process_time() - began) / count * 1e6


def turns(count: int, each: int = 5) -> float:
    """Microseconds of CPU for a job's way through the queue, while so many callers take turns."""
    queue, jobs = SubmitQueue(Upstreams(_accounts(1, ENDLESS, Figures())), {}), {}
    for number in range(count * each):
        caller = {"caller": str(number % count)}
        jobs[number] = Job(number, number, 0, "k", REQUEST, "a0", MODEL, deadline=900.0, **caller)

    def work() -> None:
        for job in jobs.values():
            queue.add(job, None, at_front=False)
        while (found := queue.next(0.0)) is not None:
            queue.remove(found[1], is_sent=True)

    return _cpu(work) / len(jobs) * 1e6


def _quietly(work: Callable[[], T]) -> T:
    """What it comes to without the collector, which looks at all that lives, time and again."""
    gc.collect()
    gc.disable()
    try:
        return work()
    finally:
        gc.enable()


def run(*, quick: bool) -> list[dict[str, object]]:
    """A row for each way of use and number of accounts, for leaving and callbacks, and one for a job by itself."""
    counts = (10, 100) if quick else (10, 100, 1000)
    rows: list[dict[str, object]] = []
    for way in WAYS:
        made = [_quietly(Simulation(count, way).run) for count in counts]
        for count, each in zip(counts, made, strict=True):
            own = {"µs an idle look": each.idle * 1e6, "accounts asked a job": each.asked / each.jobs}
            rows.append({**_row(way, count, each.peak, each.each, made[0].each), **own})
    for what, work in (("a callback each", callbacks), ("all are left", leave)):
        took = [_quietly(lambda work=work, count=count: work(count)) for count in counts]
        rows += [_row(what, count, count * EACH, each, took[0]) for count, each in zip(counts, took, strict=True)]
    callers = (1, *counts)
    took = [min(_quietly(lambda count=count: turns(count, 1000 // count)) for _ in range(5)) for count in callers]
    rows += [_row("turns of callers", 1, count, each, took[0]) for count, each in zip(callers, took, strict=True)]
    per_job(300, 50)
    took = [_quietly(per_job) for _ in range(7)]
    return [*rows, _row("one create, three questions", 1, 500, statistics.median(took), statistics.median(took))]


def check() -> list[str]:
    """What ten times the accounts cost a job, in counts and ratios."""
    problems: list[str] = []
    for way in WAYS:
        few, many = (_quietly(Simulation(count, way).run) for count in (5, 50))
        asked = many.asked / many.jobs / (few.asked / few.jobs)
        if asked > 1.5:
            problems.append(f"scale: {way}: accounts are asked {asked:.2f} times as often a job for 50 as for 5.")
        if many.idle > 4 * few.idle:
            problems.append(
                f"scale: {way}: an idle look takes {many.idle / few.idle:.1f} times as long for 50 accounts."
            )
    few, many = (min(_quietly(lambda count=count: turns(count)) for _ in range(3)) for count in (10, 1000))
    if many > 3 * few:
        problems.append(f"scale: a job's turn takes {many / few:.1f} times as long among 1,000 callers as among 10.")
    for what, work in (("a callback", callbacks), ("leaving", leave)):
        few, many = (min(_quietly(lambda work=work, count=count: work(count)) for _ in range(3)) for count in (10, 100))
        if many > 3 * few:
            problems.append(
                f"scale: {what} takes {many / few:.1f} times as long a job with 10,000 tasks as with 1,000."
            )
    return problems


def _row(what: str, count: int, at_once: int, each: float, first: float) -> dict[str, object]:
    own = {"what": what, "accounts": count, "at once": at_once, "µs a job": each, "ratio": each / first}
    return {**own, "µs an idle look": "", "accounts asked a job": ""}
