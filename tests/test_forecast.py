"""How long it will take: sending times against a provider that is played through, and what a batch says of its end."""

from __future__ import annotations

import asyncio
import itertools
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable
from functools import partial
from typing import Any

import anyio
import inner
import msgspec
import pytest
from builders import failure, upstream
from hypothesis import given, settings
from hypothesis import strategies as st
from inner import Job, Kind, LatencyPrior, PollSchedule, Upstream
from latencies import FAR_OFF
from polling import FIVE, KIND, PENDING, task
from virtual_network import Network, anyio_backend, batch_over, scheduler_over

from imagen_async import Limits, Rate, errors
from imagen_async._core.forecast import Shares, kinds_of, making_time, sending_time, time_left
from imagen_async.providers import PROVIDERS
from imagen_async.sandbox import Latency

__all__ = ["anyio_backend"]

KIES = Limits(Rate(20, per=10), Rate(10, per=1), running=100)
SLOW_KIND: Kind = ("imagen4-ultra", 1)
NOW = 5000.0
RATES = st.builds(Rate, st.integers(1, 50), per=st.floats(0.5, 20))
LIMITS = st.builds(Limits, submit=RATES, status=RATES, running=st.integers(1, 200))
PACES = st.none() | st.floats(0.001, 1000)


def test_sending_takes_as_long_as_the_limits_make_it() -> None:
    """Nothing to send takes no time, a first window none either; the next one, and who finds no place, wait.

    A place is free when one of those that run ends: 100 places, and tasks of 5 s or of 500 s.
    """
    edges = {(0, 0, 5): 0, (0, 100, 5): 0, (1, 0, 5): 0, (1, 99, 5): 0, (20, 80, 5): 0, (1, 100, 5): 0.05}
    edges |= {(20, 90, 5): 0.5, (21, 0, 5): 10, (40, 0, 5): 10, (41, 0, 5): 20, (40, 100, 5): 10, (300, 0, 500): 1000}
    assert {case: sending_time(case[0], KIES, case[2], case[1]) for case in edges} == pytest.approx(edges)


def knowing(latencies: Iterable[float], prior: LatencyPrior = FIVE, kind: Kind = KIND) -> PollSchedule:
    """A schedule that knows how long these tasks took."""
    schedule = PollSchedule(prior)
    schedule.recall((kind, latency) for latency in latencies)
    return schedule


def running_jobs(ages: Iterable[float]) -> list[Job]:
    """Jobs whose tasks are of these ages."""
    return [task(number, since=NOW - age) for number, age in enumerate(ages)]


def account_with(
    schedule: PollSchedule, running: list[Job], limits: Limits = KIES, name: str = "kie", *, heard: bool = True
) -> Upstream:
    """An account on which these tasks run, of which it heard a moment ago, or never since they began."""
    account = upstream(name, limits, schedule)
    account.running = len(running)
    for job in running:
        account.poll_queue.expect(job, job.state.since)
        if heard:
            account.poll_queue.answered(job.id, PENDING, NOW)
    return account


def left_of(schedule: PollSchedule, ages: list[float], limits: Limits = KIES, unsent: int = 0, **more: bool) -> float:
    """The time left when tasks of these ages run, and so many are still to be sent."""
    jobs = running_jobs(ages)
    return time_left(unsent, jobs, [account_with(schedule, jobs, limits, **more)], NOW)


SEEN, AGES = (st.lists(st.floats(0, longest), max_size=20) for longest in (2000, 1e5))


@settings(max_examples=60)
@given(seen=SEEN, ages=AGES, unsent=st.integers(0, 10**6), limits=LIMITS, pace=PACES, heard=st.booleans())
def test_the_time_left_is_one_that_can_be(
    seen: list[float], ages: list[float], unsent: int, limits: Limits, pace: float | None, heard: bool
) -> None:
    """Whatever is known, runs and waits, it is finite, what the limits allow at least, and longer for more or slower.

    Each task is asked about once at least, and the last create goes when the limits let it.
    """
    schedule, jobs = knowing(seen, FAR_OFF), running_jobs(ages)
    accounts = [account_with(schedule, jobs, limits, heard=heard)]
    if jobs:
        success = inner.Succeeded(("u",), None, None, b"")
        jobs = [*jobs, jobs[0].to(inner.Queued()), jobs[0].to(inner.Fetching("t", success))]
    left = time_left(unsent, jobs, accounts, NOW, pace)
    assert (unsent + len(ages)) / limits.status.count * limits.status.per <= left < math.inf
    assert left >= sending_time(unsent, limits, schedule.mean(kinds_of(jobs) or schedule.kinds), len(ages))
    assert time_left(unsent, jobs, accounts, NOW) <= left <= time_left(unsent + 500, jobs, accounts, NOW, pace)
    assert left <= time_left(unsent, jobs, accounts, NOW, pace and pace / 2)
    if pace and unsent:
        assert left > unsent / pace


TWENTIES = [20 + statistics.NormalDist().inv_cdf((n + 0.5) / 200) for n in range(200)]
FIVES = [5.0] * 200
HUMPS = [*FIVES, *[400.0] * 10]
# What is known, the ages of what runs, whether it was heard of, and the least and the most that is left.
RUNNING: dict[str, tuple[list[float], list[float], bool, float, float]] = {
    "begun": (TWENTIES, [1.0], True, 15, 24),
    "nearly done": (TWENTIES, [18.0], True, 0.5, 6),
    "the youngest": (TWENTIES, [18.0, 1.0], True, 15, 24),
    "without stragglers": (HUMPS, [4.0] * 5, True, 0, 100),
    "a straggler": (HUMPS, [4.0] * 5 + [50.0], True, 100, 1000),
    "still running": (FIVES, [30.0], True, 5, 1000),
    "not heard of": (FIVES, [30.0], False, 0, 0.5),
}


@pytest.mark.parametrize("case", RUNNING)
def test_when_all_is_sent_the_slowest_is_waited_for(case: str) -> None:
    """The last to end is mostly one of the youngest, or else a straggler: one that was still running when asked."""
    seen, ages, heard, least, most = RUNNING[case]
    assert least <= left_of(knowing(seen, FAR_OFF), ages, heard=heard) <= most


def test_each_task_that_is_left_costs_a_status_call() -> None:
    """With one status call in 2 s, fifty tasks take a hundred seconds to be seen, and those to be sent more."""
    schedule, slow = knowing(FIVES), Limits(status=Rate(1, per=2))
    assert left_of(schedule, [1.0] * 50) < 15
    assert left_of(schedule, [1.0] * 50, slow) == 100
    assert left_of(schedule, [1.0] * 50, slow, unsent=10) == 120
    assert left_of(schedule, [], slow) == 0, "nothing is left"


@pytest.mark.parametrize("count", [0, 1, 5, 20, 200])
def test_making_takes_the_sending_and_the_slowest(count: int) -> None:
    """From the first create to the last picture is the sending, and then what the slowest of the last 20 takes.

    It is of the slowest kind, and takes what half of such volleys do not outlive. Before any kind is known it is the
    record's.
    """
    schedule, part = knowing(FIVES), 0.5 ** (1 / min(count, 20)) if count else 0.0
    schedule.recall([(SLOW_KIND, 200.0)] * 100)
    kinds = {KIND: 1, SLOW_KIND: 1}
    sending = sending_time(count, KIES, schedule.mean(kinds))
    assert making_time(count, kinds, KIES, schedule) == sending + schedule.quantile(SLOW_KIND, part)
    fresh, expected = PollSchedule(FIVE), sending_time(count, KIES, FIVE.mean) + FIVE.quantile(part)
    assert making_time(count, {}, KIES, fresh) == left_of(fresh, [], unsent=count) == expected


def test_before_anything_is_live_what_the_account_has_seen_stands_for_it() -> None:
    """Without a job yet, the kinds of earlier runs tell how long tasks take; once there is one, its own kind does."""
    schedule = knowing([60.0] * 200, kind=SLOW_KIND)
    few = Limits(Rate(1000, per=1), Rate(1000, per=1), running=10)
    assert left_of(schedule, [], few, unsent=200) == pytest.approx(20 * 60, rel=0.1)
    assert left_of(schedule, [0.0], few, unsent=200) == pytest.approx(20 * FIVE.mean, rel=0.2)


def window_of(count: int, running: int = 10_000, per: float = 10) -> Limits:
    """So many creates in 10 s, or in another time."""
    return Limits(Rate(count, per=per), Rate(1000, per=1), running)


def idle(name: str, limits: Limits = KIES, latency: float = 5.0) -> Upstream:
    """An account on which nothing runs, and tasks are known to take so long."""
    return account_with(knowing([latency] * 100), [], limits, name)


def paused(account: Upstream) -> Upstream:
    """The account after a connection that failed."""
    account.take_submit(NOW)
    account.settle_submit(inner.ConnectFailed(failure(errors.TransportError, "no route")), KIND[0], NOW)
    return account


def stopped(account: Upstream) -> Upstream:
    """The account without credit."""
    account.breaker.stopped = failure(errors.InsufficientCredits, "empty")
    return account


def together(unsent: int, *accounts: Upstream, jobs: Iterable[Job] = (), pace: float | None = None) -> float:
    """The time left for so many on these accounts."""
    return time_left(unsent, jobs, accounts, NOW, pace)


# What an account may do, how long tasks take on it, and so how many creates go in a second.
SPEEDS: list[tuple[Limits, float, float]] = [
    (window_of(10), 5.0, 1.0),
    (window_of(20, per=5), 5.0, 4.0),
    (window_of(10_000, running=10), 50.0, 0.2),
    (window_of(10_000, running=2), 0.8, 2.4),
]


@pytest.mark.parametrize("jobs", [[], [task(1, since=NOW)]], ids=["nothing is live", "a task runs elsewhere"])
def test_accounts_take_parts_by_their_speed(jobs: list[Job]) -> None:
    """An account that may send, or run, so many times as much gets so many times as much, and they end together."""
    for (limits, latency, speed), (others, slowness, more) in itertools.permutations(SPEEDS, 2):
        accounts = [idle("one", limits, latency), idle("other", others, slowness)]
        unsent, pace = int(2000 * (speed + more)), (speed + more) / 20
        left = together(unsent, *accounts, jobs=jobs), together(unsent, *accounts, jobs=jobs, pace=pace)
        assert left == pytest.approx((2000, 40_000), rel=0.1), (speed, more)


def test_an_account_that_was_refused_gets_a_smaller_part() -> None:
    """What is allowed now counts, not what was set: of two equal accounts, the one whose limit was halved gets half."""
    sound, cut = idle("sound", window_of(20)), idle("cut", window_of(20))
    cut.take_submit(NOW)
    cut.settle_submit(inner.Rejected(failure(errors.RateLimited, "429"), inner.Remedy.BACK_OFF), KIND[0], NOW)
    assert together(600, sound, cut) == pytest.approx(together(400, sound), abs=10)


@settings(max_examples=25)
@given(limits=LIMITS, other=LIMITS, unsent=st.integers(0, 2000))
def test_a_stopped_or_paused_account_gets_nothing_beside_another(limits: Limits, other: Limits, unsent: int) -> None:
    """The others have all of it to do. A paused one may come back, and has a part where there is none but such."""
    left = partial(together, unsent)
    sound, poor, none = idle("sound", limits), paused(idle("poor", other)), stopped(idle("none", other))
    assert left(sound, poor) == left(sound, none) == left(none, sound) == left(sound)
    assert left(none) == 0, "nothing more is sent"
    assert left(poor) == left(poor, none) == left(idle("poor", other))
    assert left(paused(idle("sound", limits)), poor) == left(sound, idle("poor", other))


def test_what_runs_on_a_stopped_account_is_waited_for() -> None:
    """Tasks of an account that takes nothing more are paid for, and their end is part of the time left."""
    jobs = running_jobs([1.0])
    account = stopped(account_with(knowing([60.0] * 200), jobs))
    left = together(0, account, jobs=jobs)
    assert 50 < left == together(500, account, jobs=jobs) == together(20, account, idle("quick"), jobs=jobs)


def shares_of(limits: Iterable[Limits]) -> Shares:
    """Nothing dealt out yet to accounts of these limits, of whose tasks nothing is known but the record."""
    by_name = {f"account {number}": each for number, each in enumerate(limits)}
    return Shares(by_name, {name: PollSchedule(FIVE) for name in by_name})


def route_of(*ranks: int) -> inner.Route:
    """A way to as many accounts, of these ranks, each with a model of its own."""
    names = [f"account {number}" for number in range(len(ranks))]
    models = [msgspec.structs.replace(task(1).model, name=f"model of {name}") for name in names]
    return inner.Route(tuple(map(inner.Offer, names, models, ranks)))


def dealt(count: int, *limits: Limits) -> list[int]:
    """How many of so many requests each account of these limits gets."""
    shares, route = shares_of(limits), route_of(*[0] * len(limits))
    for _ in range(count):
        shares.deal(route, 1)
    return [kinds.total() for kinds in shares.kinds.values()]


def test_requests_are_dealt_out_within_a_window_too() -> None:
    """Whoever may send twice as much gets twice as much of a few requests: they are not all one account's."""
    assert dealt(15, window_of(20), window_of(10)) == [10, 5]


@settings(max_examples=25)
@given(limits=st.lists(LIMITS, min_size=2, max_size=4), count=st.integers(1, 100))
def test_no_account_could_have_sent_anothers_last_request_sooner(limits: list[Limits], count: int) -> None:
    """When all may go anywhere, nobody's last create goes later than another account's next one would."""
    counts = dealt(count, *limits)
    assert sum(counts) == count
    last = [sending_time(have, each, FIVE.mean) for have, each in zip(counts, limits, strict=True)]
    following = [sending_time(have + 1, each, FIVE.mean) for have, each in zip(counts, limits, strict=True)]
    assert max(last) <= min(following) + 1e-3


@settings(max_examples=25)
@given(requests=st.lists(st.tuples(st.permutations([0, 0, 1, 2]), st.integers(1, 4)), max_size=50))
def test_every_request_goes_to_an_account_of_the_best_rank(requests: list[tuple[list[int], int]]) -> None:
    """Only those that go first get anything, and it is counted once, under the account's own record of the model."""
    shares, counted = shares_of([window_of(1)] * 4), defaultdict[str, Counter[Kind]](Counter)
    for ranks, images in requests:
        offer = shares.deal(route_of(*ranks), images)
        assert offer.rank == 0
        counted[offer.account][f"model of {offer.account}", images] += 1
    assert {account: kinds for account, kinds in shares.kinds.items() if kinds} == counted


POOL = [
    ("kie", KIES, Latency(13, minimum=2)),
    ("apikley", Limits(Rate(10, per=10)), Latency(20, minimum=2)),
    ("apiin", Limits(Rate(5, per=10)), Latency(5, sigma=0.4)),
]
# How many pictures are made, to what part of it the time left is told, and the accounts.
WORLDS: dict[str, tuple[int, float, list[tuple[str, Limits, Latency]]]] = {
    "the submit limit binds, and tasks are quicker than the record": (300, 0.15, POOL[:1]),
    "the running limit binds": (300, 0.3, [("kie", Limits(running=30), Latency(60, sigma=0.3))]),
    "the status limit binds": (200, 0.15, [("apiin", Limits(Rate(2, per=1), Rate(1, per=1)), Latency(30, sigma=0.2))]),
    "a pool": (450, 0.25, POOL),
}


async def told_by(networks: list[Network], requests: Any) -> tuple[list[tuple[float, float | None]], float]:
    """What a batch says is left as each result comes, and when; and when it was over."""
    clock = asyncio.get_running_loop().time
    async with scheduler_over(*networks) as scheduler, batch_over(scheduler, networks, requests, window=2000) as batch:
        told = [(clock(), batch.progress.eta) async for _ in batch]
        assert batch.progress.eta == 0
        return told, clock()


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS)
async def test_from_the_middle_on_the_end_is_foretold(world: str) -> None:
    """In the second half the time left is told to a part of it and a window, and nothing at the end.

    But for the last few: when a straggler ends nobody can tell.
    """
    count, part, accounts = WORLDS[world]
    networks = [Network(PROVIDERS[name], limits=limits, latency=how) for name, limits, how in accounts]
    told, end = await told_by(networks, [f"p{number}" for number in range(count)])
    for at, eta in told[count // 2 : int(0.95 * count)]:
        assert eta == pytest.approx(end - at, abs=part * (end - at) + 12), at


async def test_an_input_without_a_length_has_no_end_before_it_is_read() -> None:
    """Where nobody can know how many requests will come, no time is told until the last one has come."""

    async def slowly() -> AsyncIterator[str]:
        for number in range(30):
            await anyio.sleep(1)
            yield f"p{number}"

    told, _ = await told_by([Network(PROVIDERS["kie"], latency=Latency(5, minimum=2))], slowly())
    assert {eta for at, eta in told if at < 29} == {None}
    assert None not in [eta for at, eta in told if at > 31] != []
