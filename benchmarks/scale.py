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

from benchmarks.clients import ENDLESS
from benchmarks.simulation import MODEL, upstream
from imagen_async import ImageRequest
from imagen_async._core.change import Change
from imagen_async._core.job import Job
from imagen_async._core.job_events import Event, OwnerLeft, Turn
from imagen_async._core.latency import LatencyPrior
from imagen_async._core.plan import Plan
from imagen_async._core.poll_schedule import PollSchedule
from imagen_async._core.provider import Limits
from imagen_async._core.rate_limit import Rate
from imagen_async._core.routing import Offer, Policy, Route
from imagen_async._core.states import Noting
from imagen_async._core.upstream import Upstream
from imagen_async._core.wire import Accepted, Pending, Succeeded

TITLE = "100 tasks at once on each of 10 to 1,000 accounts, in virtual time: CPU of the plan, ratios to the fewest"

EACH = 100
"""Tasks of an account, all of which come to run at once."""

LIMITS = Limits(submit=Rate(100, per=10), status=Rate(50, per=1), running=EACH)
BREATH = 0.001
"""Seconds between two looks, as the loop has it."""

MEDIAN = 30.0
REQUEST = ImageRequest("a red fox", model=MODEL.name)
WAYS = ("one account each", "spread", "cheapest", "in_order")

_PER_JOB = 35.0
"""Microseconds of the plan that a job of one create and three questions may take."""


class Figures:
    """What a run has cost.

    Attributes:
        cpu: Seconds of CPU, the simulated provider's included: the same for each job, however many there are.
        looks: How often the plan was looked at.
        asked: How often an account was asked when it has something to do, or how full it is.
        peak: Tasks that ran at once at most.
    """

    def __init__(self) -> None:
        self.cpu = 0.0
        self.looks = 0
        self.asked = 0
        self.peak = 0


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


def _jobs(count: int, way: str) -> Iterator[Job]:
    """Jobs for `count` accounts, each for one of them in turn, or all for whoever that policy lets go first."""
    names = [f"a{number}" for number in range(count)]
    # Of equal prices: then all share.
    ranks = {name: number if way == "in_order" else 0 for number, name in enumerate(names)}
    route = None if way == WAYS[0] else Route(tuple(Offer(name, MODEL, ranks[name]) for name in names))
    for number in range(count * EACH):
        yield Job(number, 0, number, str(number), REQUEST, names[number % count], MODEL, deadline=1e6, route=route)


class Simulation:
    """Accounts whose tasks take about half a minute, and a batch that feeds them as fast as they take it."""

    def __init__(self, count: int, way: str) -> None:
        self.figures = Figures()
        self._chance = random.Random(1)
        self._plan = Plan(_accounts(count, LIMITS, self.figures), 1)
        self._input = _jobs(count, way)
        self._answers: list[tuple[float, int, Job, Event]] = []
        self._turn = itertools.count()
        self._ends: dict[int, float] = {}

    def run(self) -> Figures:
        """Run to the end."""
        began = time.process_time()
        now = looked = 0.0
        self._look(now)
        while (wakes := self._plan.wake_at(now)) < math.inf or self._answers:
            next_answer = self._answers[0][0] if self._answers else math.inf
            now = max(min(wakes, next_answer), looked + BREATH)
            while self._answers and self._answers[0][0] <= now:
                at, _, job, event = heapq.heappop(self._answers)
                self._plan.settle(job, event, at)
            self._look(now)
            looked = now
        self.figures.cpu = time.process_time() - began
        assert not self._plan.jobs
        return self.figures

    def _look(self, now: float) -> None:
        self.figures.looks += 1
        while self._plan.wants_more(0) and (job := next(self._input, None)) is not None:
            self._plan.add(job, now)
        for change in self._plan.take(now):
            if isinstance(change.event, Turn):
                self._talk(change, now)
        self.figures.peak = max(self.figures.peak, len(self._ends))

    def _talk(self, change: Change, now: float) -> None:
        job, answered_at = change.after, now + self._chance.uniform(0.05, 0.15)
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


def _callbacks(count: int) -> float:
    """Seconds of CPU for callbacks that name the task of each create on the way."""
    plan, jobs = _running(count)

    def tell() -> None:
        for job in jobs:
            assert plan.on_callback(job.id, job.account, 1, f"t{job.id}", 1.0)

    return _cpu(tell)


def _leave(count: int) -> float:
    """Seconds of CPU for leaving all tasks, beside another owner's."""
    plan, jobs = _running(count)
    for job in jobs:
        plan.settle(job, Accepted(f"t{job.id}"), 1.0)
    return _cpu(lambda: plan.tell_all(0, OwnerLeft(), 2.0))


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


def _quietly(work: Callable[[], float]) -> float:
    """What it takes without the collector, which looks at all that lives, time and again."""
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
        firsts: Figures | None = None
        for count in counts:
            made: list[Figures] = []
            _quietly(lambda count=count, way=way, made=made: made.append(Simulation(count, way).run()) or 0.0)  # type: ignore[misc]
            figures = made[0]
            firsts = firsts or figures
            jobs = count * EACH
            rows.append(
                {
                    "what": way,
                    "accounts": count,
                    "at once": figures.peak,
                    "µs a job": figures.cpu / jobs * 1e6,
                    "ratio": figures.cpu / jobs / (firsts.cpu / counts[0] / EACH),
                    "µs a look": figures.cpu / figures.looks * 1e6,
                    "accounts asked a job": figures.asked / jobs,
                }
            )
    for what, work in (("a callback each", _callbacks), ("all left", _leave)):
        first = 0.0
        for count in counts:
            each = _quietly(lambda work=work, count=count: work(count)) / count / EACH * 1e6  # type: ignore[misc]
            first = first or each
            rows.append(_row(what, count, each, each / first))
    per_job(300, 50)
    rows.append(_row("one create, three questions", 1, statistics.median(per_job() for _ in range(7)), 1.0))
    return rows


def _row(what: str, count: int, each: float, ratio: float) -> dict[str, object]:
    own = {"what": what, "accounts": count, "at once": count * EACH, "µs a job": each, "ratio": ratio}
    return {**own, "µs a look": "", "accounts asked a job": ""}


if __name__=="__main__":
    import sys
    for way in WAYS:
        for n in map(int, sys.argv[1:]):
            f=Simulation(n,way).run(); print(way,n,f.peak,round(f.cpu/n/EACH*1e6,1),f.looks,round(f.cpu/f.looks*1e6,1),round(f.asked/n/EACH,1),flush=True)
    for n in map(int, sys.argv[1:]): print(n,_callbacks(n)/n/EACH*1e6,_leave(n)/n/EACH*1e6)
    print(sorted(per_job() for _ in range(3)))
