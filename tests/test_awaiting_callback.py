"""Callbacks in a plan: when a lost create waits for one, what is asked for its sake, and what is no news."""

from __future__ import annotations

from typing import Any

import pytest
from inner import AwaitingCallback, Confirming, Done, Job, Unknown
from plan_world import ROOMY, World


@pytest.fixture
def world() -> World:
    """A world of one account, of which callbacks are asked for."""
    return World(callbacks=True)


def answered(world: World, *names: str, **place: object) -> Job:
    """A job whose create was sent, after these answers."""
    job: Job | None = world.add(**place)
    assert world.sent() == [job.id]
    for name in names:
        world.wake_for(job.id)
        job = world.answer(job.id, name)
        assert job is not None
    return job


def test_a_callback_is_waited_for_twice_as_long_as_the_slowest_tasks_take(world: World) -> None:
    """Half a minute at least: a provider repeats what was not taken, but only briefly."""
    job, schedule, kind = world.add(), world.upstream().schedule, ("imagen4", 1)
    assert world.plan.plan.callback_wait(job) == max(30.0, 2 * schedule.quantile(kind, 0.99))
    for latency, wait in ((1.0, 30.0), (400.0, 800.0)):
        for _ in range(500):
            schedule.ended(kind, 0.0, latency, latency)
        assert world.plan.plan.callback_wait(job) == pytest.approx(wait, rel=0.1)
    assert World().plan.plan.callback_wait(job) == 0, "where none are asked for"


def test_where_no_callback_ever_came_none_is_waited_for(world: World) -> None:
    """After ten tasks whose ends nobody announced a lost create is unknown at once; one fewer, and it is awaited."""
    waits = []
    for _ in range(10):
        done = answered(world, "accepted", "succeeded")
        world.now += 1.0
        waits.append(world.plan.plan.callback_wait(done) > 0)
    assert waits == [True] * 9 + [False]
    assert isinstance(answered(world, "lost").state, Unknown)


def test_an_end_of_waiting_that_is_seen_late_leaves_a_moment_to_hear(world: World) -> None:
    """A process that stood still reads its callbacks before it gives up, once; what comes after is too late."""
    for is_told in (True, False):
        job = answered(world, "lost")
        world.now += 100_000.0
        world.look()
        assert isinstance(world.plan.find(job.id).state, AwaitingCallback)
        if is_told:
            assert world.hear(job) is not None
            world.look()
            world.answer(job.id, "succeeded")
        world.now += 5.0
        world.look()
        assert isinstance(world.end_of(job).state, Done if is_told else Unknown)
        assert world.is_at_rest()


def test_the_task_of_a_lost_create_is_asked_about_at_once_and_once(world: World) -> None:
    """A second name, or the same once more, changes nothing and asks nothing while the first is asked about."""
    job = answered(world, "lost")
    told = world.hear(job)
    assert isinstance(told and told.state, Confirming)
    assert [world.hear(job), world.hear(job, task_id="stranger"), world.plan.find(job.id)] == [None, None, told]
    assert world.asked() == [job.id]
    assert (world.hear(job), world.asked()) == (None, [])
    world.answer(job.id, "succeeded")
    done = world.end_of(job)
    assert (type(done.state), done.task_id, done.lost, done.attempts) == (Done, "t1-1", 0, 1)
    assert world.is_at_rest()


def test_after_a_false_name_the_true_one_is_heard(world: World) -> None:
    """Once the provider has denied a name for half a minute nothing is asked, and the next name is, at once."""
    job = answered(world, "lost")
    world.hear(job, task_id="stranger")
    while isinstance(world.plan.find(job.id).state, Confirming):
        world.wake_for(job.id)
        world.answer(job.id, "denied")
    assert (world.now, world.asked(), world.plan.find(job.id).lost_creates) == (30.0, [], (1,))
    world.hear(job)
    assert world.asked() == [job.id]


@pytest.mark.parametrize(("told", "asks_at_once"), [((1, "t1-1"), True), ((1, None), False), ((2, "t"), False)])
def test_an_end_told_before_the_answer_is_asked_about_at_once(world: World, told: Any, asks_at_once: bool) -> None:
    """Once: a callback that came before the answer is as good as one after it, where it is about that very create."""
    job = answered(world)
    world.hear(job, *told)
    world.answer(job.id, "accepted")
    assert world.asked() == [job.id] * asks_at_once
    world.wake_for(job.id)
    world.answer(job.id, "pending")
    assert world.asked() == []


@pytest.mark.parametrize(
    ("create", "task_id", "asks"),
    [(1, "t1-1", True), (1, None, True), (1, "stranger", False), (0, "t1-1", False), (2, "t1-1", False)],
)
def test_a_callback_for_a_running_job_is_one_question(world: World, create: int, task_id: Any, asks: bool) -> None:
    """It is asked about at once, once; a callback about another task, or create, is none of its own."""
    job = answered(world, "accepted", "pending")
    assert world.asked() == []
    for expected in ([job.id] * asks, []):
        assert world.hear(job, create, task_id) is None, "nothing that a journal is to keep"
        assert world.asked() == expected
    assert world.plan.find(job.id) == job


@pytest.mark.parametrize(("account", "is_news"), [("a", False), ("b", True)])
def test_a_task_that_another_job_has_clears_nothing_up(account: str, is_news: bool) -> None:
    """It was not made by the lost create, unless that is at another account."""
    world = World(dict.fromkeys("ab", ROOMY), callbacks=True).trusted()
    other, job = world.add("a"), world.add(account)
    world.look()
    world.answer(other.id, "accepted")
    world.answer(job.id, "lost")
    assert (world.hear(job, 1, world.plan.find(other.id).task_id) is not None) == is_news


def test_a_callback_for_a_job_that_ended_or_never_was_is_nothing(world: World) -> None:
    """It counts for the account's callbacks where it was only late; an account that is not there does no harm."""
    job = answered(world, "accepted", "succeeded")
    reliability = world.upstream().poll_queue.reliability
    assert [world.plan.on_callback(each, 1, "t", world.now, "nobody") for each in (job.id, 99)] == [None, None]
    assert reliability.share == 0
    assert world.hear(job) is None
    assert reliability.share > 0


def test_a_resubmission_whose_intent_is_being_noted_is_called_off(world: World) -> None:
    """A callback for the first create keeps the second from leaving, and frees its price; a later turn is its own."""
    budget = world.limit(1, 40.0)
    job = answered(world, "lost", resubmits=1, retries=1)
    world.is_noting = True
    assert world.sent() == [job.id]
    first = world.talking[job.id]
    assert (budget.spent, budget.reserved) == (8, 8)
    told = world.hear(job, 1)
    assert isinstance(told and told.state, Confirming)
    assert (budget.spent, budget.reserved) == (8, 0)
    assert not world.send(first)
    assert world.asked() == [job.id]
    world.answer(job.id, "broken")
    assert world.sent() == [job.id]
    world.settle_stale()
    world.drain()
    assert [create.number for create in world.creates[job.id]] == [1, 2]
    assert world.is_at_rest()


def test_a_refused_second_create_leaves_the_first_one_awaited(world: World) -> None:
    """A refusal says nothing of the first create: it is waited for as if the second had not been."""
    job = answered(world, "lost", "refused", resubmits=1)
    assert (type(job.state), job.lost_creates) == (AwaitingCallback, (1,))
    assert [world.hear(job, create) is not None for create in (2, 1)] == [False, True]
