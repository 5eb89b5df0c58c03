"""How long it will take: sending times against a provider that is played through, and what a batch says of its end."""

from __future__ import annotations

import asyncio
import heapq
import math
import random
import statistics
from collections.abc import AsyncIterator, Iterator
from typing import Any, NamedTuple

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_asks import KIND, PENDING, UNTOLD, task
from test_latency import FIVE, PRIORS
from virtual_network import Network, batch_over, scheduler_over

from imagen_async import Limits, Rate
from imagen_async._core.forecast import kinds_of, making_time, sending_time, time_left
from imagen_async._core.job import Job, Queued, Ready, Running
from imagen_async._core.lane import Lane
from imagen_async._core.latency import LatencyPrior
from imagen_async._core.poll_schedule import PollSchedule
from imagen_async._core.wire import Succeeded
from imagen_async.providers import PROVIDERS
from imagen_async.sandbox import Latency
from imagen_async.testing import VirtualTimeLoop

KIE = PROVIDERS["kie"]
KIES = Limits(Rate(20, per=10), Rate(10, per=1), running=100)
NOW = 5000.0


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """These tests run on virtual time."""
    return "asyncio", {"loop_factory": VirtualTimeLoop}


# Sending


def played(count: int, limits: Limits, latencies: Iterator[float], running: int) -> float:
    """When the last create goes, by playing it through: each when its window and a running task's end let it."""
    # Those that run have begun one after the other, over one latency.
    ends = [next(latencies) * number / running for number in range(1, running + 1)]
    heapq.heapify(ends)
    now, sent = 0.0, []
    for number in range(count):
        if number >= limits.submit.count:
            now = max(now, sent[number - limits.submit.count] + limits.submit.per)
        while len(ends) >= limits.running:
            now = max(now, heapq.heappop(ends))
        sent.append(now)
        heapq.heappush(ends, now + next(latencies))
    return now


def endless(latency: float) -> Iterator[float]:
    """The same latency again and again."""
    while True:
        yield latency


LIMITS = st.builds(
    Limits,
    submit=st.builds(Rate, st.integers(1, 50), per=st.floats(0.5, 20)),
    status=st.builds(Rate, st.integers(1, 50), per=st.floats(0.5, 20)),
    running=st.integers(1, 200),
)


@settings(deadline=None)
@given(count=st.integers(0, 500), limits=LIMITS, latency=st.floats(0.1, 300), part=st.floats(0, 1))
def test_sending_takes_as_long_as_the_limits_make_it(count: int, limits: Limits, latency: float, part: float) -> None:
    """The last create goes when the submit limit, or the ends of running tasks, let it, to a task or a window."""
    running = int(limits.running * part)
    told = sending_time(count, limits, latency, running)
    assert abs(told - played(count, limits, endless(latency), running)) <= latency + limits.submit.per


@given(count=st.integers(1, 500), limits=LIMITS)
def test_where_only_the_submit_limit_binds_it_is_told_exactly(count: int, limits: Limits) -> None:
    """With room for every task, the last create goes when the last window opens."""
    roomy = Limits(limits.submit, running=1000)
    assert sending_time(count, roomy, latency=60.0) == pytest.approx(played(count, roomy, endless(60.0), 0))


def test_latencies_that_differ_are_told_by_their_mean() -> None:
    """Where the running limit binds, the mean latency is what counts, however far from it the single ones are."""
    chance, limits = random.Random(1), Limits(Rate(1000, per=1), running=20)
    drawn = [chance.lognormvariate(3, 0.8) for _ in range(3000)]
    told = sending_time(2000, limits, statistics.fmean(drawn))
    assert told == pytest.approx(played(2000, limits, iter(drawn), 0), rel=0.1)


@pytest.mark.parametrize(
    ("count", "running", "seconds"),
    [
        (0, 0, 0),
        (0, 100, 0),
        (1, 0, 0),
        (1, 99, 0),
        (20, 80, 0),
        (1, 100, 0.05),
        (20, 90, 0.5),
        (21, 0, 10),
        (40, 0, 10),
        (40, 100, 10),
    ],
)
def test_sending_times_at_the_edges(count: int, running: int, seconds: float) -> None:
    """Nothing to send takes no time, a first window none either; the next one, and who finds no place, wait."""
    assert sending_time(count, KIES, 5.0, running) == pytest.approx(seconds)


# The time left

FIGURES = st.floats(0, 2000)
PACES = st.none() | st.floats(0.001, 1000)


def schedule_of(prior: LatencyPrior, latencies: list[float]) -> PollSchedule:
    """A schedule that knows how long these tasks took."""
    schedule = PollSchedule(prior)
    schedule.recall((KIND, latency) for latency in latencies)
    return schedule


def running_jobs(ages: list[float], now: float = NOW) -> list[Job]:
    """Jobs whose tasks are of these ages."""
    return [task(number, since=now - age) for number, age in enumerate(ages)]


def lane_of(schedule: PollSchedule, jobs: list[Job], limits: Limits = KIES, *, are_heard_of: bool = True) -> Lane:
    """An account with these jobs, whose tasks were heard of a moment ago, or never since they began."""
    lane = Lane("kie", limits, schedule, 64, lambda setbacks, longest: longest)
    for job in jobs:
        if isinstance(job.state, Running):
            lane.running += 1
            lane.asks.expect(job, job.state.since)
            if are_heard_of:
                lane.asks.answered(job.id, PENDING, NOW)
    return lane


def left_of(schedule: PollSchedule, ages: list[float], limits: Limits = KIES, **heard: bool) -> float:
    """The time left when all is sent and tasks of these ages run."""
    jobs = running_jobs(ages)
    return time_left(0, jobs, lane_of(schedule, jobs, limits, **heard), NOW)


@settings(deadline=None)
@given(
    prior=PRIORS,
    seen=st.lists(FIGURES, max_size=20),
    ages=st.lists(st.floats(0, 1e5), max_size=20),
    unsent=st.integers(0, 10**6),
    limits=LIMITS,
    pace=PACES,
    heard=st.booleans(),
)
def test_the_time_left_is_one_that_can_be(
    prior: LatencyPrior,
    seen: list[float],
    ages: list[float],
    unsent: int,
    limits: Limits,
    pace: float | None,
    heard: bool,
) -> None:
    """Whatever is known, runs and waits, the time left is a finite number, and what the limits allow at the least."""
    schedule, jobs = schedule_of(prior, seen), running_jobs(ages)
    jobs += [jobs[0].to(Queued()), jobs[0].to(Ready("t", Succeeded(("u",), None, None, b"")))] if jobs else []
    left = time_left(unsent, jobs, lane_of(schedule, jobs, limits, are_heard_of=heard), NOW, pace)
    assert 0 <= left < math.inf
    assert left >= (unsent + len(ages)) / limits.status.count * limits.status.per
    assert left >= sending_time(unsent, limits, schedule.mean(kinds_of(jobs) or schedule.kinds), len(ages))


@settings(deadline=None)
@given(
    seen=st.lists(FIGURES, max_size=20),
    ages=st.lists(st.floats(0, 300), min_size=1, max_size=20),
    unsent=st.integers(1, 5000),
    more=st.integers(0, 5000),
    limits=LIMITS,
    pace=PACES,
)
def test_the_more_is_to_be_sent_the_longer_it_takes(
    seen: list[float], ages: list[float], unsent: int, more: int, limits: Limits, pace: float | None
) -> None:
    """With less to be sent the time left is no longer, and with a slower pace no shorter."""
    jobs = running_jobs(ages)
    lane = lane_of(schedule_of(FIVE, seen), jobs, limits)

    def left(count: int, pace: float | None) -> float:
        return time_left(count, jobs, lane, NOW, pace)

    assert left(unsent, pace) <= left(unsent + more, pace)
    assert left(unsent, None) <= left(unsent, pace) <= left(unsent, None if pace is None else pace / 2)


def test_nothing_left_takes_no_time() -> None:
    """When all is sent and nothing runs, the time left is nothing."""
    assert left_of(PollSchedule(FIVE), []) == 0
    assert making_time(0, {}, KIES, PollSchedule(FIVE)) == 0


def test_when_all_is_sent_the_youngest_are_waited_for() -> None:
    """Of known latencies of about 20 s, a task of 1 s has some 19 s to go, and one of 18 s a few."""
    schedule = schedule_of(FIVE, [random.Random(n).gauss(20, 1) for n in range(200)])
    assert 15 < left_of(schedule, [1.0]) < 24
    assert left_of(schedule, [18.0]) < 6
    assert left_of(schedule, [18.0, 1.0]) > 15


def test_when_all_is_sent_a_straggler_is_waited_for() -> None:
    """A task that has outlived all others keeps some time left, though the young ones will be done before."""
    schedule = schedule_of(LatencyPrior(47, 0.95), [5.0] * 200 + [400.0] * 10)
    assert left_of(schedule, [4.0] * 5 + [50.0]) > 100 > left_of(schedule, [4.0] * 5)


def test_what_is_left_is_reckoned_from_when_a_task_was_last_heard_of() -> None:
    """Of tasks of some 5 s, one of 30 s that nobody has asked about is over, and one that still runs is a straggler."""
    schedule = schedule_of(LatencyPrior(47, 0.95), [5.0] * 200)
    assert left_of(schedule, [30.0], are_heard_of=False) < 1
    assert left_of(schedule, [30.0]) > 5


def test_each_task_that_is_left_costs_a_status_call() -> None:
    """With one status call a second, a hundred tasks take a hundred seconds to be seen, and those to be sent more."""
    schedule, slow, jobs = schedule_of(FIVE, [5.0] * 200), Limits(status=Rate(1, per=1)), running_jobs([1.0] * 100)
    assert left_of(schedule, [1.0] * 100) < 15
    assert left_of(schedule, [1.0] * 100, slow) == pytest.approx(100, rel=0.1)
    lane = lane_of(schedule, jobs, slow)
    assert time_left(20, jobs, lane, NOW) == pytest.approx(120, rel=0.15)
    assert left_of(schedule, [], slow) == 0


def test_tasks_that_ended_over_night_leave_the_time_that_is_told() -> None:
    """Seen the next day, of a provider that tells no latency, they change little of what the rest is told to take."""
    schedule, jobs = schedule_of(FIVE, [5.0] * 200), running_jobs([86_400.0] * 100)
    lane = lane_of(schedule, jobs, Limits(running=10), are_heard_of=False)
    before = time_left(200, [], lane, NOW)
    for job in jobs:
        lane.settle_status(job.id, UNTOLD, NOW)
    assert time_left(200, [], lane, NOW) == pytest.approx(before, rel=0.2)


def test_making_takes_the_sending_and_the_slowest() -> None:
    """From the first create to the last picture is the sending, and then the longest of the last tasks."""
    schedule = schedule_of(FIVE, [random.Random(n).gauss(30, 2) for n in range(200)])
    sending = sending_time(200, KIES, 30.0)
    assert sending + 28 < making_time(200, {KIND: 200}, KIES, schedule) < sending + 45
    assert making_time(1, {KIND: 1}, KIES, schedule) == pytest.approx(30, abs=4)


def test_a_slow_kind_in_a_mixture_is_waited_for() -> None:
    """The slowest kind among those to be made decides how long the last ones take."""
    schedule, slow = schedule_of(FIVE, [5.0] * 100), ("imagen4-ultra", 1)
    schedule.recall([(slow, 200.0)] * 100)
    assert making_time(10, {KIND: 10}, KIES, schedule) < 20
    assert making_time(10, {KIND: 9, slow: 1}, KIES, schedule) > 150


# What a batch says


class Look(NamedTuple):
    """What a batch said at one moment."""

    at: float
    finished: int
    eta: float | None


async def looks_at(network: Network, requests: Any) -> tuple[list[Look], float]:
    """Run a batch to its end; what it said every second, and when it was over."""
    looks: list[Look] = []
    clock = asyncio.get_running_loop().time
    async with scheduler_over(network) as scheduler, anyio.create_task_group() as group:
        batch = batch_over(scheduler, network, requests, window=2000)

        async def watch() -> None:
            while True:
                progress = batch.progress
                looks.append(Look(clock(), progress.done + progress.failed, progress.eta))
                await anyio.sleep(1)

        async with batch:
            group.start_soon(watch)
            results = [result async for result in batch]
            looks.append(Look(clock(), len(results), batch.progress.eta))
        group.cancel_scope.cancel()
    return looks, clock()


WORLDS = {
    "the submit limit binds": ("kie", KIES, Latency(median=13, minimum=2)),
    "the running limit binds": ("kie", Limits(running=30), Latency(median=60, sigma=0.3)),
    "the status limit binds": ("kie", Limits(status=Rate(3, per=1)), Latency(median=30, sigma=0.2)),
    "no latency is told": ("apiin", KIES, Latency(median=5, sigma=0.4)),
}


@pytest.mark.parametrize("world", WORLDS)
async def test_from_the_middle_on_the_end_is_foretold(world: str) -> None:
    """From the middle on, the time left is told to within 15 %, in the last quarter to within a window and a task.

    But for the last few: when a straggler ends nobody can tell.
    """
    name, limits, latency = WORLDS[world]
    network = Network(PROVIDERS[name], limits=limits, latency=latency)
    looks, end = await looks_at(network, [f"p{number}" for number in range(600)])
    for look in looks:
        left = end - look.at
        assert look.eta is not None
        if 300 <= look.finished < 450:
            assert look.eta == pytest.approx(left, rel=0.15), look
        elif 450 <= look.finished < 570:
            assert look.eta == pytest.approx(left, abs=limits.submit.per + latency.median), look
    assert sum(300 <= look.finished < 450 for look in looks) > 50


HARD_WORLDS = {
    "one status call a second": ("kie", Limits(Rate(2, per=1), Rate(1, per=1)), Latency(median=30, sigma=0.2), 200),
    "no latency is told either": ("apiin", Limits(Rate(2, per=1), Rate(1, per=1)), Latency(median=30, sigma=0.2), 200),
    "tasks far quicker than the record": ("kie", KIES, Latency(median=4, sigma=0.2), 100),
}


@pytest.mark.parametrize("world", HARD_WORLDS)
async def test_the_end_is_foretold_up_to_the_last_few(world: str) -> None:
    """Where the record or the status limit could mislead, the second half is told to a quarter, a window and 2 s."""
    name, limits, latency, count = HARD_WORLDS[world]
    network = Network(PROVIDERS[name], limits=limits, latency=latency)
    looks, end = await looks_at(network, [f"p{number}" for number in range(count)])
    second_half = [look for look in looks if count // 2 <= look.finished]
    assert len(second_half) > 15
    for look in second_half:
        assert look.eta == pytest.approx(end - look.at, abs=0.25 * (end - look.at) + limits.submit.per + 2), look


async def test_the_time_left_falls_as_the_work_is_done() -> None:
    """What a batch says is left is less after each quarter of it, and nothing at the end."""
    network = Network(KIE, latency=Latency(median=13, minimum=2))
    looks, end = await looks_at(network, [f"p{n}" for n in range(400)])
    quarters = [next(look for look in looks if look.finished >= part) for part in (1, 100, 200, 300, 400)]
    etas = [look.eta for look in quarters]
    assert None not in etas
    assert etas == sorted(etas, reverse=True, key=float)  # type: ignore[arg-type]
    assert (etas[-1], quarters[-1].at) == (0, pytest.approx(end, abs=1.5))


async def test_the_first_word_is_the_records() -> None:
    """Before anything has ended the time left is told by the limits and by the provider's record."""
    network = Network(KIE, latency=Latency(median=47, sigma=0.1))
    looks, _ = await looks_at(network, [f"p{n}" for n in range(100)])
    assert looks[1].finished == 0
    assert looks[1].eta == pytest.approx(making_time(100, {KIND: 100}, KIES, PollSchedule(KIE.latency)), rel=0.2)


async def test_an_input_without_a_length_has_no_end_before_it_is_read() -> None:
    """Where nobody can know how many requests will come, no time is told until the last one has come."""

    async def slowly() -> AsyncIterator[str]:
        for number in range(30):
            await anyio.sleep(1)
            yield f"p{number}"

    looks, _ = await looks_at(Network(KIE, latency=Latency(median=13, minimum=2)), slowly())
    assert {look.eta for look in looks if look.at < 29} == {None}
    assert all(look.eta is not None for look in looks if look.at > 31)
    assert any(look.at > 31 for look in looks)
