"""The one loop on virtual time: limits as the server sees them, polling, deadlines, outages, leaving."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Iterator
from statistics import fmean as mean
from typing import Any

import anyio
import msgspec
import pytest
from virtual_network import Listener, Network, busiest_window, jobs_for, scheduler_over

from imagen_async import (
    DeadlineExceeded,
    GenerationFailed,
    InsufficientCredits,
    Limits,
    Rate,
    TransportError,
    UnknownOutcome,
)
from imagen_async._core.wording import result_of
from imagen_async._scheduler.scheduler import Scheduler
from imagen_async._single import Single
from imagen_async.providers import PROVIDERS
from imagen_async.sandbox import CREATE_FAULTS, Faults, Latency
from imagen_async.testing import VirtualTimeLoop

KIE = PROVIDERS["kie"]
OPEN = Limits(Rate(20, per=10), Rate(100, per=1), running=1000)
"""Limits under which every question goes when it is due."""


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """These tests run on virtual time."""
    return "asyncio", {"loop_factory": VirtualTimeLoop}


def now() -> float:
    return asyncio.get_running_loop().time()


def enter(scheduler: Scheduler, count: int, **fields: object) -> Listener:
    """Hand in jobs of one new owner; what it hears is returned."""
    listener, owner = Listener(), scheduler.new_id()
    scheduler.enter(owner, listener.owner())
    for job in jobs_for(scheduler, KIE, owner, count, **fields):
        scheduler.add(job)
    return listener


async def test_a_thousand_jobs_stay_in_both_limits_and_reach_them() -> None:
    """The server never sees more than its limits in any window, refuses nothing, and is kept as busy as it allows."""
    network = Network(KIE, limits=Limits(Rate(20, per=10), Rate(50, per=1), running=200))
    async with scheduler_over(network) as scheduler:
        listener = enter(scheduler, 1000)
        await listener.heard(finished=1000)
    assert all(result.ok for result in listener.results)
    assert network.ledger.refused == {}
    assert busiest_window(network.ledger.create_times, 10) == 20
    assert busiest_window(network.ledger.poll_times, 1) <= 50
    span = network.ledger.create_times[-1] - network.ledger.create_times[0]
    # A place is free again one window and one round trip (0.3 s on average, twice) after it was taken.
    assert span <= 1.05 * (1000 / 20 - 1) * (10 + network.round_trip)


async def test_status_limit_binds_and_every_task_is_seen() -> None:
    """With one status call a second for forty running tasks, none is refused and none is forgotten."""
    network = Network(KIE, limits=Limits(Rate(40, per=1), Rate(1, per=1), running=40))
    async with scheduler_over(network) as scheduler:
        listener = enter(scheduler, 40)
        await listener.heard(finished=40)
    assert all(result.ok for result in listener.results)
    assert network.ledger.refused == {}
    assert busiest_window(network.ledger.poll_times, 1) == 1


async def test_running_limit_is_never_passed() -> None:
    """No more tasks run at once than the account has room for, and that many do."""
    network = Network(KIE, limits=Limits(Rate(100, per=1), Rate(100, per=1), running=7))
    async with scheduler_over(network) as scheduler:
        listener = enter(scheduler, 50)
        await listener.heard(finished=50)
    assert all(result.ok for result in listener.results)
    assert network.ledger.refused == {}


async def asked_about(latency: Latency, count: int) -> tuple[list[int], list[float]]:
    """The status calls of each of so many tasks, in order, and how late each end was seen."""
    network = Network(KIE, limits=OPEN, latency=latency, round_trip=0.0)
    async with scheduler_over(network) as scheduler:
        listener = enter(scheduler, count)
        await listener.heard(finished=count)
    assert all(result.ok for result in listener.results)
    since: dict[int, float] = {}
    for job in listener.accepted_jobs:
        since.setdefault(job.index, job.state.since)  # type: ignore[union-attr]
    ends = zip(listener.results, listener.finish_times, strict=True)
    late = {result.index: seen - since[result.index] - (result.latency or 0.0) for result, seen in ends}
    return [network.ledger.polls[str(task.task_id)] for task in network.ledger.tasks], [late[n] for n in range(count)]


@pytest.mark.parametrize("median", [3, 30, 120])
async def test_polling_learns_how_long_tasks_take(median: float) -> None:
    """After some two hundred tasks, each costs fewer status calls, or is seen sooner, and neither is worse."""
    claims, late = await asked_about(Latency(median=median, sigma=0.1), 300)
    first, last = slice(0, 20), slice(200, 300)
    assert min(late) > -0.01
    assert mean(claims[last]) < 1.2 * mean(claims[first])
    assert mean(late[last]) < 1.2 * mean(late[first])
    assert mean(claims[last]) * mean(late[last]) < 0.5 * mean(claims[first]) * mean(late[first])
    # The price of a call is a tenth of a second: so many calls, so much delay, and no more.
    assert mean(late[last]) < 0.13 * mean(claims[last])


async def test_polling_asks_of_the_first_task_too() -> None:
    """A first task of about 100 s, of which only the record is known, is seen within seconds, for some 30 calls."""
    claims, late = await asked_about(Latency(median=100, sigma=0), 1)
    assert 5 < claims[0] < 50
    assert 0 <= late[0] < 6


class Slowing(Latency, frozen=True):
    """Two hundred tasks of about 5 s, and from then on tasks of about 20 s."""

    numbers: Iterator[int] = msgspec.field(default_factory=itertools.count)

    def draw(self, chance: random.Random) -> float:
        """One task's seconds."""
        return chance.gauss(5, 0.5) if next(self.numbers) < 200 else chance.gauss(20, 2)


async def test_polling_follows_tasks_that_become_slower() -> None:
    """When tasks of 5 s become tasks of 20 s, the first of these cost many calls, and later ones far fewer."""
    claims, late = await asked_about(Slowing(), 800)
    assert mean(claims[700:]) < 0.7 * mean(claims[200:240])
    assert mean(late[700:]) < 1


@pytest.mark.parametrize("fault", CREATE_FAULTS)
async def test_no_create_is_repeated_unless_nothing_was_made(fault: str) -> None:
    """Whatever goes wrong with a create, its prompt makes at most one task, and its job has one result."""
    faults = Faults()
    faults.order("create", None, fault)
    network = Network(KIE, faults=faults)
    async with scheduler_over(network) as scheduler:
        listener = enter(scheduler, 3)
        await listener.heard(finished=3)
    assert max(network.ledger.tasks_by_prompt().values()) == 1
    sendable = fault in ("429", "http_429", "455")
    assert len(network.ledger.creates) == (4 if sendable else 3)
    errors = [result.error for result in listener.results if result.error is not None]
    assert len(errors) == (0 if sendable else 1)
    if not sendable and fault != "500":
        assert isinstance(errors[0], UnknownOutcome)
        assert errors[0].credits == 8


async def test_a_429_holds_the_account_for_a_window_and_its_rate_comes_back() -> None:
    """After a 429 nothing is sent for a full window; the refused job is sent again and the limit is reached again."""
    faults = Faults()
    faults.order("create", None, "429")
    network = Network(KIE, faults=faults, latency=Latency(median=3))
    async with scheduler_over(network) as scheduler:
        listener = enter(scheduler, 600)
        await listener.heard(finished=600)
    times = network.ledger.create_times
    pause = max(after - before for before, after in itertools.pairwise(times))
    assert pause >= 10
    assert all(result.ok for result in listener.results)
    assert busiest_window(times[-200:], 10) == 20


async def test_an_outage_of_minutes_loses_nothing() -> None:
    """While no connection can be made the account pauses, longer each time; then every job is sent, once."""
    network = Network(KIE)
    async with scheduler_over(network) as scheduler:
        listener = enter(scheduler, 60)
        await listener.heard(accepted=5)
        network.is_down = True
        await anyio.sleep(240)
        network.is_down = False
        await listener.heard(finished=60)
    assert all(result.ok for result in listener.results)
    assert len(network.ledger.creates) == 60


async def test_an_account_that_was_never_reached_is_given_up_soon() -> None:
    """A wrong address is told after five tries, not after the deadline, and nothing was sent."""
    network = Network(KIE)
    network.is_down = True
    async with scheduler_over(network) as scheduler:
        listener = enter(scheduler, 3)
        await listener.heard(finished=3)
        assert now() < 60
    assert all(isinstance(result.error, TransportError) and not result.error.sent for result in listener.results)


async def test_deadline_error_carries_the_task_id() -> None:
    """A task that takes longer than the deadline ends with an error that says which task to collect."""
    network = Network(KIE, latency=Latency(median=2000, sigma=0))
    async with scheduler_over(network) as scheduler:
        listener = enter(scheduler, 1)
        await listener.heard(finished=1)
        assert now() == pytest.approx(900, abs=5)
    error = listener.results[0].error
    assert isinstance(error, DeadlineExceeded)
    assert error.task_id == network.ledger.creates[0].task_id


async def test_retries_make_a_new_task_only_where_asked_for() -> None:
    """A failed generation costs a new task when `retries` allows one, and is a failed result when it does not."""
    for retries, creates in ((0, 1), (2, 3)):
        faults = Faults()
        faults.order("task", "fail_word", "fail_word", "fail_digits")
        network = Network(KIE, faults=faults)
        async with scheduler_over(network) as scheduler:
            listener = enter(scheduler, 1, retries=retries)
            await listener.heard(finished=1)
        assert isinstance(listener.results[0].error, GenerationFailed)
        assert len(network.ledger.creates) == creates


async def test_no_credit_stops_the_account_and_what_runs_is_delivered() -> None:
    """Without credit nothing more is sent; the tasks that run already still give their pictures."""
    faults = Faults()
    faults.order("create", None, None, None, "402")
    network = Network(KIE, faults=faults, round_trip=0.0)
    async with scheduler_over(network) as scheduler:
        listener = enter(scheduler, 100)
        await listener.heard(finished=100)
    assert sum(result.ok for result in listener.results) == len(network.ledger.tasks)
    assert {type(result.error) for result in listener.results if not result.ok} == {InsufficientCredits}
    # Those of the first window were on the way when the refusal came; no later window was opened.
    assert len(network.ledger.creates) <= 20


async def test_leaving_stops_at_once_and_hears_the_creates_on_the_way() -> None:
    """From the instant of leaving no create is sent; those on the way end with their task ids, not as unknown."""
    network = Network(KIE, round_trip=0.8)
    async with scheduler_over(network) as scheduler:
        listener, owner = Listener(), scheduler.new_id()
        scheduler.enter(owner, listener.owner())
        for job in jobs_for(scheduler, KIE, owner, 100):
            scheduler.add(job)
        await listener.heard(accepted=2)
        left_at = now()
        await scheduler.leave(owner)
        assert now() - left_at <= 2
        seen = len(network.ledger.creates)
        await anyio.sleep(100)
        assert len(network.ledger.creates) == seen
        known = {result.task_id for result in listener.results if result.task_id}
    assert known == {create.task_id for create in network.ledger.creates}
    assert not any(isinstance(result.error, UnknownOutcome) for result in listener.results)


async def test_of_an_owner_that_has_left_nothing_is_kept() -> None:
    """A program that gives up one picture after the other, for months, keeps no word of any."""
    network = Network(KIE)
    async with scheduler_over(network) as scheduler:
        for _ in range(5):
            (job,) = jobs_for(scheduler, KIE, scheduler.new_id(), 1)
            single = Single(scheduler, job, result_of)
            single.begin()
            await anyio.sleep(5)
            scheduler.withhold(job.owner)
            single.drop()
        course = scheduler._plan._course
        assert (course._withholding, bool(course._spending)) == (set(), False)


async def test_cancelling_around_the_client_still_hears_the_creates_on_the_way() -> None:
    """A cancel scope around everything does not cut off a create whose answer names a paid task."""
    network = Network(KIE, round_trip=0.8)
    listener = Listener()
    with anyio.move_on_after(1.0):
        async with scheduler_over(network) as scheduler:
            owner = scheduler.new_id()
            scheduler.enter(owner, listener.owner())
            for job in jobs_for(scheduler, KIE, owner, 30):
                scheduler.add(job)
            await anyio.sleep_forever()
    known = {result.task_id for result in listener.results if result.task_id}
    assert known == {create.task_id for create in network.ledger.creates}
    assert known


async def test_two_owners_share_one_limit() -> None:
    """Two batches of one account together stay within its limit, and both are served."""
    network = Network(KIE, latency=Latency(median=3))
    async with scheduler_over(network) as scheduler:
        listeners = enter(scheduler, 60), enter(scheduler, 60)
        for listener in listeners:
            await listener.heard(finished=60)
    assert busiest_window(network.ledger.create_times, 10) == 20
    assert network.ledger.refused == {}


async def test_a_cancelled_waiter_takes_nobodys_turn() -> None:
    """Of three owners in line the middle one leaves; the others are sent, in order, and no place is lost."""
    network = Network(KIE, limits=Limits(Rate(1, per=10), Rate(10, per=1), running=10), latency=Latency(median=3))
    async with scheduler_over(network) as scheduler:
        listeners = []
        for index in range(3):
            listener, owner = Listener(), scheduler.new_id()
            scheduler.enter(owner, listener.owner())
            (job,) = jobs_for(scheduler, KIE, owner, 1)
            scheduler.add(job)
            if index == 1:
                scheduler.drop(owner)
            listeners.append(listener)
        await listeners[0].heard(finished=1)
        await listeners[2].heard(finished=1)
    first, second = network.ledger.create_times
    assert len(network.ledger.creates) == 2
    assert 10 < second - first <= 10 + 2 * network.round_trip + 0.01
