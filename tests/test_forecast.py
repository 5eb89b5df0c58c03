"""How long it will take: sending times against a provider that is played through, and what a batch says of its end."""

from __future__ import annotations

import asyncio
import heapq
import math
import random
import statistics
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any, NamedTuple

import anyio
import msgspec
import pytest
from builders import failure, upstream
from hypothesis import given, settings
from hypothesis import strategies as st
from polling import FIVE, KIND, PENDING, UNTOLD, task
from virtual_network import Network, batch_over, scheduler_over

from imagen_async import Limits, Rate
from imagen_async._core.forecast import Shares, kinds_of, making_time, sending_time, time_left
from imagen_async._core.job import Job
from imagen_async._core.latency import LatencyPrior
from imagen_async._core.poll_schedule import PollSchedule
from imagen_async._core.routing import Offer, Route
from imagen_async._core.states import Fetching, Queued, Running
from imagen_async._core.upstream import Upstream
from imagen_async._core.wire import Accepted, ConnectFailed, Rejected, Remedy, Succeeded
from imagen_async.errors import InsufficientCredits, RateLimited, TransportError
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

PRIORS = st.builds(LatencyPrior, median=st.floats(0.3, 600), sigma=st.floats(0.2, 1.5))
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


def account_with(
    schedule: PollSchedule, jobs: list[Job], limits: Limits = KIES, *, are_heard_of: bool = True
) -> Upstream:
    """An account with these jobs, whose tasks were heard of a moment ago, or never since they began."""
    account = upstream("kie", limits, schedule)
    for job in jobs:
        if isinstance(job.state, Running):
            account.running += 1
            account.poll_queue.expect(job, job.state.since)
            if are_heard_of:
                account.poll_queue.answered(job.id, PENDING, NOW)
    return account


def left_of(schedule: PollSchedule, ages: list[float], limits: Limits = KIES, **heard: bool) -> float:
    """The time left when all is sent and tasks of these ages run."""
    jobs = running_jobs(ages)
    return time_left(0, jobs, [account_with(schedule, jobs, limits, **heard)], NOW)


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
    jobs += [jobs[0].to(Queued()), jobs[0].to(Fetching("t", Succeeded(("u",), None, None, b"")))] if jobs else []
    left = time_left(unsent, jobs, [account_with(schedule, jobs, limits, are_heard_of=heard)], NOW, pace)
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
    account = account_with(schedule_of(FIVE, seen), jobs, limits)

    def left(count: int, pace: float | None) -> float:
        return time_left(count, jobs, [account], NOW, pace)

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
    account = account_with(schedule, jobs, slow)
    assert time_left(20, jobs, [account], NOW) == pytest.approx(120, rel=0.15)
    assert left_of(schedule, [], slow) == 0


def test_tasks_that_ended_over_night_leave_the_time_that_is_told() -> None:
    """Seen the next day, of a provider that tells no latency, they change little of what the rest is told to take."""
    schedule, jobs = schedule_of(FIVE, [5.0] * 200), running_jobs([86_400.0] * 100)
    account = account_with(schedule, jobs, Limits(running=10), are_heard_of=False)
    before = time_left(200, [], [account], NOW)
    for job in jobs:
        account.settle_status(job.id, UNTOLD, NOW)
    assert time_left(200, [], [account], NOW) == pytest.approx(before, rel=0.2)


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


# Several accounts


def idle(name: str, limits: Limits = KIES, schedule: PollSchedule | None = None) -> Upstream:
    """An account on which nothing runs."""
    return upstream(name, limits, schedule or schedule_of(FIVE, [5.0] * 100))


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


@settings(deadline=None)
@given(limits=LIMITS, each=st.integers(0, 500), count=st.integers(1, 5))
def test_equal_accounts_take_equal_parts(limits: Limits, each: int, count: int) -> None:
    """With so many accounts of the same limits, each has so many times less to do, to one request."""
    accounts = [idle(f"account {number}", limits) for number in range(count)]
    left = together(each * count, *accounts)
    assert together(each, accounts[0]) <= left <= together(each + 1, accounts[0])


@pytest.mark.parametrize("many", [1, 2, 4, 9])
def test_accounts_take_parts_by_their_speed(many: int) -> None:
    """An account that may send so many times as much gets so many times as much, and they end together."""
    schedule = schedule_of(FIVE, [5.0] * 100)
    fast = idle("fast", Limits(Rate(10 * many, per=10), Rate(1000, per=1), running=10_000), schedule)
    slow = idle("slow", Limits(Rate(10, per=10), Rate(1000, per=1), running=10_000), schedule)
    unsent = 300 * (many + 1)
    assert together(unsent, fast, slow) == pytest.approx(together(300 * many, fast), abs=10)
    assert together(unsent, fast, slow) == pytest.approx(together(300, slow), abs=10)
    assert together(unsent, fast, slow, pace=(many + 1) / 20) == pytest.approx(300 * 20, abs=60)


def test_the_running_limit_makes_an_account_slow_too() -> None:
    """With tasks of 50 s, ten at once are 0.2 creates a second, whatever the window would allow."""
    schedule = schedule_of(LatencyPrior(50, 0.1), [50.0] * 200)
    few = idle("few", Limits(Rate(1000, per=1), Rate(1000, per=1), running=10), schedule)
    many = idle("many", Limits(Rate(1000, per=1), Rate(1000, per=1), running=90), schedule)
    jobs = [task(1, since=NOW)]
    alone = together(200, idle("few", few.limits, schedule), jobs=jobs)
    assert together(2000, few, many, jobs=jobs) == pytest.approx(alone, rel=0.1)


def test_an_account_that_was_refused_gets_a_smaller_part() -> None:
    """What is allowed now counts, not what was set: of two equal accounts, the one whose limit was halved gets half."""
    limits = Limits(Rate(20, per=10), Rate(1000, per=1), running=10_000)
    sound, cut = idle("sound", limits), idle("cut", limits)
    before = together(600, sound, cut)
    cut.take_submit(NOW)
    cut.settle_submit(Rejected(failure(RateLimited, "429"), Remedy.BACK_OFF), KIND[0], NOW)
    assert before == pytest.approx(together(300, sound), abs=10)
    assert together(600, sound, cut) == pytest.approx(together(400, sound), abs=10)


@settings(deadline=None)
@given(limits=LIMITS, other=LIMITS, unsent=st.integers(0, 2000), pace=PACES)
def test_a_stopped_account_gets_nothing(limits: Limits, other: Limits, unsent: int, pace: float | None) -> None:
    """The others have all of it to do; when none is left, nothing more is sent and no time is left for it."""
    open_one, none = idle("open", limits), stopped(idle("stopped", other))
    alone = together(unsent, open_one, pace=pace)
    assert together(unsent, open_one, none, pace=pace) == alone
    assert together(unsent, none, open_one, pace=pace) == alone
    assert together(unsent, none, pace=pace) == 0


def test_what_runs_on_a_stopped_account_is_waited_for() -> None:
    """Tasks of an account that takes nothing more are paid for, and their end is part of the time left."""
    schedule = schedule_of(FIVE, [60.0] * 200)
    jobs = running_jobs([1.0])
    account = stopped(account_with(schedule, jobs))
    assert together(0, account, jobs=jobs) == together(500, account, jobs=jobs) > 50
    quick = idle("quick")
    assert together(20, account, quick, jobs=jobs) == together(0, account, jobs=jobs)


@settings(deadline=None)
@given(limits=LIMITS, other=LIMITS, unsent=st.integers(0, 2000))
def test_a_paused_account_gets_something_only_when_all_are(limits: Limits, other: Limits, unsent: int) -> None:
    """It may come back, so it is reckoned with where there is no other, and passed over where there is."""
    sound, poor = idle("sound", limits), paused(idle("poor", other))
    assert together(unsent, sound, poor) == together(unsent, sound)
    assert together(unsent, poor) == together(unsent, idle("poor", other))
    assert together(unsent, poor, stopped(idle("none", limits))) == together(unsent, poor)
    both = together(unsent, paused(idle("sound", limits)), poor)
    assert both == together(unsent, idle("sound", limits), idle("poor", other))


def test_an_account_that_is_back_gets_its_part_again() -> None:
    """The first create that is taken ends the pause, for the time left too."""
    limits = Limits(Rate(20, per=10), Rate(1000, per=1), running=10_000)
    sound, back = idle("sound", limits), paused(idle("back", limits))
    assert together(600, sound, back) == together(600, sound)
    back.take_submit(NOW + 1000)
    back.settle_submit(Accepted("t"), KIND[0], NOW + 1000)
    assert together(600, sound, back) == together(300, sound)


# Dealing out before anything is sent


def route_of(*ranks: int) -> Route:
    """A way to as many accounts, of these ranks."""
    model = task(1).model
    return Route(tuple(Offer(f"account {number}", model, rank) for number, rank in enumerate(ranks)))


def shares_of(*limits: Limits, latency: float = 5.0) -> Shares:
    """Nothing dealt out yet to accounts of these limits, on which tasks take so long."""
    names = [f"account {number}" for number in range(len(limits))]
    schedules = {name: schedule_of(LatencyPrior(latency, 0.1), [latency] * 200) for name in names}
    return Shares(dict(zip(names, limits, strict=True)), schedules)


def counts_of(shares: Shares) -> list[int]:
    """How many requests each account has got."""
    return [kinds.total() for kinds in shares.kinds.values()]


def window_of(count: int, running: int = 10_000) -> Limits:
    """So many creates in 10 s."""
    return Limits(Rate(count, per=10), Rate(1000, per=1), running)


def test_requests_are_dealt_out_by_the_limits() -> None:
    """Whoever may send twice as much gets twice as much, and whoever may run few at once gets as few as these allow."""
    shares = shares_of(window_of(20), window_of(10), window_of(10))
    for _ in range(400):
        shares.deal(route_of(0, 0, 0), 1)
    assert counts_of(shares) == pytest.approx([200, 100, 100], abs=20)
    slow = shares_of(window_of(20), window_of(20, running=10), latency=100.0)
    for _ in range(440):
        slow.deal(route_of(0, 0), 1)
    assert counts_of(slow) == pytest.approx([410, 30], abs=5), "ten at once, and ten more every 100 s"


def test_within_a_window_the_part_that_is_used_decides() -> None:
    """Before any window is full they are filled evenly, so that a few requests are not all one account's."""
    shares = shares_of(window_of(20), window_of(10))
    for _ in range(15):
        shares.deal(route_of(0, 0), 1)
    assert counts_of(shares) == [10, 5]


@settings(deadline=None)
@given(
    limits=st.lists(LIMITS, min_size=1, max_size=4),
    requests=st.lists(st.tuples(st.permutations([0, 0, 1, 2]), st.integers(1, 4)), max_size=100),
)
def test_every_request_goes_to_an_account_of_the_best_rank(
    limits: list[Limits], requests: list[tuple[list[int], int]]
) -> None:
    """Only those that go first get anything, everything is dealt out once, and its kinds are counted."""
    shares, dealt = shares_of(*limits), Counter[tuple[str, int]]()
    for ranks, images in requests:
        route = route_of(*ranks[: len(limits)])
        offer = shares.deal(route, images)
        assert offer in route.offers
        assert offer.rank == min(each.rank for each in route.offers)
        dealt[offer.account, images] += 1
    for account, kinds in shares.kinds.items():
        assert kinds == {(KIND[0], images): n for (name, images), n in dealt.items() if name == account}


@settings(deadline=None)
@given(limits=st.lists(LIMITS, min_size=2, max_size=4), count=st.integers(1, 200))
def test_no_account_could_have_sent_anothers_last_request_sooner(limits: list[Limits], count: int) -> None:
    """When all may go anywhere, nobody's last create goes later than another account's next one would."""
    shares = shares_of(*limits)
    for _ in range(count):
        shares.deal(route_of(*[0] * len(limits)), 1)
    counts = counts_of(shares)
    assert sum(counts) == count
    latency = schedule_of(LatencyPrior(5.0, 0.1), [5.0] * 200).mean({KIND: 1})
    last = [sending_time(have, each, latency) for have, each in zip(counts, limits, strict=True)]
    following = [sending_time(have + 1, each, latency) for have, each in zip(counts, limits, strict=True)]
    assert max(last) <= min(following) + 1e-3


def test_the_model_that_an_account_would_make_is_counted() -> None:
    """What is dealt to an account counts under that account's own record of the model."""
    shares, (first, _) = shares_of(window_of(1), window_of(1)), route_of(0, 0).offers
    other = msgspec.structs.replace(first.model, name="raw:imagen")
    route = Route((first, Offer("account 1", other)))
    assert [shares.deal(route, 2).model.name for _ in range(4)] == ["imagen4", "raw:imagen"] * 2
    assert shares.kinds == {"account 0": {("imagen4", 2): 2}, "account 1": {("raw:imagen", 2): 2}}


# What a batch says


class Look(NamedTuple):
    """What a batch said at one moment."""

    at: float
    finished: int
    eta: float | None


async def looks_at(network: Network | list[Network], requests: Any) -> tuple[list[Look], float]:
    """Run a batch to its end; what it said every second, and when it was over."""
    networks = network if isinstance(network, list) else [network]
    looks: list[Look] = []
    clock = asyncio.get_running_loop().time
    async with scheduler_over(*networks) as scheduler, anyio.create_task_group() as group:
        batch = batch_over(scheduler, networks, requests, window=2000)

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


async def test_the_end_of_a_pool_is_foretold() -> None:
    """With three accounts of different limits and latencies, the time left is told as well as with one."""
    networks = [
        Network(PROVIDERS["kie"], limits=KIES, latency=Latency(median=13, minimum=2)),
        Network(PROVIDERS["apikley"], limits=Limits(Rate(10, per=10)), latency=Latency(median=20, minimum=2)),
        Network(PROVIDERS["apiin"], limits=Limits(Rate(5, per=10)), latency=Latency(median=5, sigma=0.4)),
    ]
    looks, end = await looks_at(networks, [f"p{number}" for number in range(900)])
    middle = [look for look in looks if 450 <= look.finished < 675]
    assert len(middle) > 40
    for look in middle:
        assert look.eta == pytest.approx(end - look.at, rel=0.25, abs=10), look


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
