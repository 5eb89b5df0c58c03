"""How long it will take: sending times against a provider that is played through, and what a batch says of its end."""

from __future__ import annotations

import asyncio
import heapq
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable
from typing import Any

import anyio
import msgspec
import pytest
from builders import failure, upstream
from hypothesis import given, settings
from hypothesis import strategies as st
from latencies import FAR_OFF
from polling import FIVE, KIND, PENDING, task
from virtual_network import Network, batch_over, scheduler_over

from imagen_async import Limits, Rate
from imagen_async._core.forecast import Shares, kinds_of, making_time, sending_time, time_left
from imagen_async._core.job import Job
from imagen_async._core.latency import LatencyPrior
from imagen_async._core.poll_schedule import Kind, PollSchedule
from imagen_async._core.routing import Offer, Route
from imagen_async._core.states import Fetching, Queued, Running
from imagen_async._core.upstream import Upstream
from imagen_async._core.wire import ConnectFailed, Rejected, Remedy, Succeeded
from imagen_async.errors import InsufficientCredits, RateLimited, TransportError
from imagen_async.providers import PROVIDERS
from imagen_async.sandbox import Latency
from imagen_async.testing import VirtualTimeLoop

KIES = Limits(Rate(20, per=10), Rate(10, per=1), running=100)
SLOW_KIND: Kind = ("imagen4-ultra", 1)
NOW = 5000.0
LIMITS = st.builds(
    Limits,
    submit=st.builds(Rate, st.integers(1, 50), per=st.floats(0.5, 20)),
    status=st.builds(Rate, st.integers(1, 50), per=st.floats(0.5, 20)),
    running=st.integers(1, 200),
)
PACES = st.none() | st.floats(0.001, 1000)


# Sending


def played(count: int, limits: Limits, latency: float, running: int) -> float:
    """When the last create goes, by playing it through: each when its window and a running task's end let it."""
    # Those that run have begun one after the other, over one latency.
    ends = [latency * number / running for number in range(1, running + 1)]
    now, sent = 0.0, []
    for number in range(count):
        if number >= limits.submit.count:
            now = max(now, sent[number - limits.submit.count] + limits.submit.per)
        while len(ends) >= limits.running:
            now = max(now, heapq.heappop(ends))
        sent.append(now)
        heapq.heappush(ends, now + latency)
    return now


@settings(deadline=None, max_examples=60)
@given(count=st.integers(0, 500), limits=LIMITS, latency=st.floats(0.1, 300), part=st.floats(0, 1))
def test_sending_takes_as_long_as_the_limits_make_it(count: int, limits: Limits, latency: float, part: float) -> None:
    """The last create goes when the submit limit, or the ends of running tasks, let it, to a task or a window."""
    running = int(limits.running * part)
    expected = played(count, limits, latency, running)
    assert sending_time(count, limits, latency, running) == pytest.approx(expected, abs=latency + limits.submit.per)
    roomy = Limits(limits.submit, running=1000)
    exact = played(count, roomy, latency, 0)
    assert sending_time(count, roomy, latency) == pytest.approx(exact), "where only the window binds"


@pytest.mark.parametrize(
    ("count", "running", "seconds"),
    [
        *((0, 0, 0), (0, 100, 0), (1, 0, 0), (1, 99, 0), (20, 80, 0), (1, 100, 0.05), (20, 90, 0.5)),
        *((21, 0, 10), (40, 0, 10), (41, 0, 20), (40, 100, 10)),
    ],
)
def test_sending_times_at_the_edges(count: int, running: int, seconds: float) -> None:
    """Nothing to send takes no time, a first window none either; the next one, and who finds no place, wait."""
    assert sending_time(count, KIES, 5.0, running) == pytest.approx(seconds)


# The time left


def knowing(latencies: Iterable[float], prior: LatencyPrior = FIVE, kind: Kind = KIND) -> PollSchedule:
    """A schedule that knows how long these tasks took."""
    schedule = PollSchedule(prior)
    schedule.recall((kind, latency) for latency in latencies)
    return schedule


def running_jobs(ages: Iterable[float]) -> list[Job]:
    """Jobs whose tasks are of these ages."""
    return [task(number, since=NOW - age) for number, age in enumerate(ages)]


def account_with(
    schedule: PollSchedule, jobs: Iterable[Job] = (), limits: Limits = KIES, name: str = "kie", *, heard: bool = True
) -> Upstream:
    """An account with these jobs, whose tasks were heard of a moment ago, or never since they began."""
    account = upstream(name, limits, schedule)
    for job in jobs:
        if isinstance(job.state, Running):
            account.running += 1
            account.poll_queue.expect(job, job.state.since)
            if heard:
                account.poll_queue.answered(job.id, PENDING, NOW)
    return account


def left_of(schedule: PollSchedule, ages: list[float], limits: Limits = KIES, unsent: int = 0, **more: bool) -> float:
    """The time left when tasks of these ages run, and so many are still to be sent."""
    jobs = running_jobs(ages)
    return time_left(unsent, jobs, [account_with(schedule, jobs, limits, **more)], NOW)


@settings(deadline=None, max_examples=60)
@given(
    seen=st.lists(st.floats(0, 2000), max_size=20),
    ages=st.lists(st.floats(0, 1e5), max_size=20),
    unsent=st.integers(0, 10**6),
    more=st.integers(0, 5000),
    limits=LIMITS,
    pace=PACES,
    heard=st.booleans(),
)
def test_the_time_left_is_one_that_can_be(
    seen: list[float], ages: list[float], unsent: int, more: int, limits: Limits, pace: float | None, heard: bool
) -> None:
    """Whatever is known, runs and waits, it is finite, what the limits allow at least, and longer for more or slower.

    Each task is asked about once at least, and the last create goes when the limits let it.
    """
    schedule, jobs = knowing(seen, FAR_OFF), running_jobs(ages)
    if jobs:
        jobs += [jobs[0].to(Queued()), jobs[0].to(Fetching("t", Succeeded(("u",), None, None, b"")))]
    accounts = [account_with(schedule, jobs, limits, heard=heard)]
    left = time_left(unsent, jobs, accounts, NOW, pace)
    assert 0 <= left < math.inf
    assert left >= (unsent + len(ages)) / limits.status.count * limits.status.per
    assert left >= sending_time(unsent, limits, schedule.mean(kinds_of(jobs) or schedule.kinds), len(ages))
    assert time_left(unsent, jobs, accounts, NOW) <= left <= time_left(unsent + more, jobs, accounts, NOW, pace)
    assert left <= time_left(unsent, jobs, accounts, NOW, pace and pace / 2)
    if pace and unsent:
        assert left > unsent / pace


TWENTIES = [20 + statistics.NormalDist().inv_cdf((n + 0.5) / 200) for n in range(200)]
HUMPS = [5.0] * 200 + [400.0] * 10


@pytest.mark.parametrize(
    ("seen", "ages", "heard", "least", "most"),
    [
        (TWENTIES, [1.0], True, 15, 24),
        (TWENTIES, [18.0], True, 0.5, 6),
        (TWENTIES, [18.0, 1.0], True, 15, 24),
        (HUMPS, [4.0] * 5, True, 0, 100),
        (HUMPS, [4.0] * 5 + [50.0], True, 100, 1000),
        ([5.0] * 200, [30.0], True, 5, 1000),
        ([5.0] * 200, [30.0], False, 0, 0.5),
    ],
    ids=["begun", "nearly done", "the youngest", "without stragglers", "a straggler", "still running", "not heard of"],
)
def test_when_all_is_sent_the_slowest_is_waited_for(
    seen: list[float], ages: list[float], heard: bool, least: float, most: float
) -> None:
    """The last to end is mostly one of the youngest, or else a straggler: one that was still running when asked."""
    assert least <= left_of(knowing(seen, FAR_OFF), ages, heard=heard) <= most


def test_each_task_that_is_left_costs_a_status_call() -> None:
    """With one status call in 2 s, fifty tasks take a hundred seconds to be seen, and those to be sent more."""
    schedule, slow = knowing([5.0] * 200), Limits(status=Rate(1, per=2))
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
    schedule, part = knowing([5.0] * 100), 0.5 ** (1 / min(count, 20)) if count else 0.0
    schedule.recall([(SLOW_KIND, 200.0)] * 100)
    kinds = {KIND: 1, SLOW_KIND: 1}
    sending = sending_time(count, KIES, schedule.mean(kinds))
    assert making_time(count, kinds, KIES, schedule) == sending + schedule.quantile(SLOW_KIND, part)
    fresh = PollSchedule(FIVE)
    expected = sending_time(count, KIES, FIVE.mean) + FIVE.quantile(part)
    assert making_time(count, {}, KIES, fresh) == left_of(fresh, [], unsent=count) == expected


def test_before_anything_is_live_what_the_account_has_seen_stands_for_it() -> None:
    """Without a job yet, the kinds of earlier runs tell how long tasks take; once there is one, its own kind does."""
    schedule = knowing([60.0] * 200, kind=SLOW_KIND)
    few = Limits(Rate(1000, per=1), Rate(1000, per=1), running=10)
    assert left_of(schedule, [], few, unsent=200) == pytest.approx(20 * 60, rel=0.1)
    assert left_of(schedule, [0.0], few, unsent=200) == pytest.approx(20 * FIVE.mean, rel=0.2)


# Several accounts


def window_of(count: int, running: int = 10_000, per: float = 10) -> Limits:
    """So many creates in 10 s, or in another time."""
    return Limits(Rate(count, per=per), Rate(1000, per=1), running)


def idle(name: str, limits: Limits = KIES, latency: float = 5.0) -> Upstream:
    """An account on which nothing runs, and tasks are known to take so long."""
    return account_with(knowing([latency] * 100), (), limits, name)


def paused(account: Upstream) -> Upstream:
    """The account after a connection that failed."""
    account.take_submit(NOW)
    account.settle_submit(ConnectFailed(failure(TransportError, "no route")), KIND[0], NOW)
    assert account.breaker.is_paused
    return account


def stopped(account: Upstream) -> Upstream:
    """The account without credit."""
    account.breaker.stopped = failure(InsufficientCredits, "empty")
    return account


def together(unsent: int, *accounts: Upstream, jobs: Iterable[Job] = (), pace: float | None = None) -> float:
    """The time left for so many on these accounts."""
    return time_left(unsent, jobs, accounts, NOW, pace)


@pytest.mark.parametrize("many", [1, 4])
def test_accounts_take_parts_by_their_speed(many: int) -> None:
    """An account that may send, or run, so many times as much gets so many times as much, and they end together."""
    slow, fast = idle("slow", window_of(10)), idle("fast", window_of(5 * many, per=5))
    unsent = 300 * (many + 1)
    for alone in (together(300, slow), together(300 * many, fast)):
        assert together(unsent, fast, slow) == pytest.approx(alone, abs=10)
    assert together(unsent, fast, slow, pace=(many + 1) / 20) == pytest.approx(300 * 20, abs=60)
    few, more = idle("few", window_of(10_000, 10), 50.0), idle("more", window_of(10_000, 10 * many), 50.0)
    jobs = [task(1, since=NOW)]
    assert together(unsent, few, more, jobs=jobs) == pytest.approx(together(300, few, jobs=jobs), rel=0.1)
    assert together(600, slow, few) == pytest.approx(together(500, slow), rel=0.1), "0.2 a second beside 1"
    quick = idle("quick", window_of(10_000, 1), 0.5)
    assert together(900, slow, quick) == pytest.approx(together(300, slow), rel=0.1), "2 a second beside 1"


def test_an_account_that_was_refused_gets_a_smaller_part() -> None:
    """What is allowed now counts, not what was set: of two equal accounts, the one whose limit was halved gets half."""
    sound, cut = idle("sound", window_of(20)), idle("cut", window_of(20))
    before = together(600, sound, cut)
    cut.take_submit(NOW)
    cut.settle_submit(Rejected(failure(RateLimited, "429"), Remedy.BACK_OFF), KIND[0], NOW)
    assert before == pytest.approx(together(300, sound), abs=10)
    assert together(600, sound, cut) == pytest.approx(together(400, sound), abs=10)


@settings(deadline=None, max_examples=25)
@given(limits=LIMITS, other=LIMITS, unsent=st.integers(0, 2000), pace=PACES)
def test_a_stopped_or_paused_account_gets_nothing_while_there_is_another(
    limits: Limits, other: Limits, unsent: int, pace: float | None
) -> None:
    """The others have all of it to do. A paused one may come back, and has a part where there is none but such."""

    def left(*accounts: Upstream) -> float:
        return together(unsent, *accounts, pace=pace)

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


# Dealing out before anything is sent


def route_of(*ranks: int) -> Route:
    """A way to as many accounts, of these ranks, each with a model of its own."""
    names = [f"account {number}" for number in range(len(ranks))]
    models = [msgspec.structs.replace(task(1).model, name=f"model of {name}") for name in names]
    return Route(tuple(map(Offer, names, models, ranks)))


def dealt(count: int, *limits: Limits, latency: float = 5.0) -> list[int]:
    """How many of so many requests each account gets of these limits, on which tasks take so long."""
    shares = shares_of(*limits, latency=latency)
    for _ in range(count):
        shares.deal(route_of(*[0] * len(limits)), 1)
    return [kinds.total() for kinds in shares.kinds.values()]


def shares_of(*limits: Limits, latency: float = 5.0) -> Shares:
    """Nothing dealt out yet to such accounts."""
    names = [f"account {number}" for number in range(len(limits))]
    schedules = {name: knowing([latency] * 200, LatencyPrior(latency, 0.1)) for name in names}
    return Shares(dict(zip(names, limits, strict=True)), schedules)


def test_requests_are_dealt_out_by_the_limits() -> None:
    """Whoever may send twice as much gets twice as much, within a window too, and whoever may run few gets few."""
    assert dealt(400, window_of(20), window_of(10), window_of(10)) == pytest.approx([200, 100, 100], abs=20)
    assert dealt(15, window_of(20), window_of(10)) == [10, 5], "so that a few requests are not all one account's"
    # Ten at once, and ten more every 100 s.
    assert dealt(440, window_of(20), window_of(20, running=10), latency=100.0) == pytest.approx([410, 30], abs=5)


@settings(deadline=None, max_examples=25)
@given(limits=st.lists(LIMITS, min_size=2, max_size=4), count=st.integers(1, 100))
def test_no_account_could_have_sent_anothers_last_request_sooner(limits: list[Limits], count: int) -> None:
    """When all may go anywhere, nobody's last create goes later than another account's next one would."""
    counts = dealt(count, *limits)
    assert sum(counts) == count
    latency = knowing([5.0] * 200, LatencyPrior(5.0, 0.1)).mean({KIND: 1})
    last = [sending_time(have, each, latency) for have, each in zip(counts, limits, strict=True)]
    following = [sending_time(have + 1, each, latency) for have, each in zip(counts, limits, strict=True)]
    assert max(last) <= min(following) + 1e-3


@settings(deadline=None, max_examples=25)
@given(requests=st.lists(st.tuples(st.permutations([0, 0, 1, 2]), st.integers(1, 4)), max_size=50))
def test_every_request_goes_to_an_account_of_the_best_rank(requests: list[tuple[list[int], int]]) -> None:
    """Only those that go first get anything, and it is counted once, under the account's own record of the model."""
    shares, counted = shares_of(*[window_of(1)] * 4), defaultdict[str, Counter[Kind]](Counter)
    for ranks, images in requests:
        offer = shares.deal(route_of(*ranks), images)
        assert offer.rank == 0
        counted[offer.account][f"model of {offer.account}", images] += 1
    assert {account: kinds for account, kinds in shares.kinds.items() if kinds} == counted


# What a batch says

VIRTUAL_TIME = pytest.mark.parametrize(
    "anyio_backend", [("asyncio", {"loop_factory": VirtualTimeLoop})], ids=["virtual-time"]
)
TIGHT = Limits(Rate(2, per=1), Rate(1, per=1))
WORLDS: dict[str, tuple[int, float, dict[str, tuple[Limits, Latency]]]] = {
    "the submit limit binds": (300, 0.15, {"kie": (KIES, Latency(13, minimum=2))}),
    "the running limit binds": (300, 0.3, {"kie": (Limits(running=30), Latency(60, sigma=0.3))}),
    "the status limit binds": (200, 0.15, {"apiin": (TIGHT, Latency(30, sigma=0.2))}),
    "tasks are quicker than the record": (100, 0.15, {"kie": (KIES, Latency(4, sigma=0.2))}),
    "a pool": (
        450,
        0.25,
        {
            "kie": (KIES, Latency(13, minimum=2)),
            "apikley": (Limits(Rate(10, per=10)), Latency(20, minimum=2)),
            "apiin": (Limits(Rate(5, per=10)), Latency(5, sigma=0.4)),
        },
    ),
}


async def told_by(networks: list[Network], requests: Any) -> tuple[list[tuple[float, float | None]], float]:
    """What a batch says is left as each result comes, and when; and when it was over."""
    clock = asyncio.get_running_loop().time
    async with scheduler_over(*networks) as scheduler, batch_over(scheduler, networks, requests, window=2000) as batch:
        told = [(clock(), batch.progress.eta) async for _ in batch]
        assert batch.progress.eta == 0
        return told, clock()


@pytest.mark.slow
@VIRTUAL_TIME
@pytest.mark.parametrize("world", WORLDS)
async def test_from_the_middle_on_the_end_is_foretold(world: str) -> None:
    """In the second half the time left is told to a part of it and a window, and nothing at the end.

    But for the last few: when a straggler ends nobody can tell.
    """
    count, part, accounts = WORLDS[world]
    networks = [Network(PROVIDERS[name], limits=limits, latency=how) for name, (limits, how) in accounts.items()]
    told, end = await told_by(networks, [f"p{number}" for number in range(count)])
    for at, eta in told[count // 2 : int(0.95 * count)]:
        assert eta == pytest.approx(end - at, abs=part * (end - at) + 12), at


@VIRTUAL_TIME
async def test_an_input_without_a_length_has_no_end_before_it_is_read() -> None:
    """Where nobody can know how many requests will come, no time is told until the last one has come."""

    async def slowly() -> AsyncIterator[str]:
        for number in range(30):
            await anyio.sleep(1)
            yield f"p{number}"

    told, _ = await told_by([Network(PROVIDERS["kie"], latency=Latency(5, minimum=2))], slowly())
    assert {eta for at, eta in told if at < 29} == {None}
    assert None not in [eta for at, eta in told if at > 31] != []
