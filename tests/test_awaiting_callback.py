"""Callbacks in a plan: when a lost create waits for one, what is asked for its sake, and what is no news."""

from __future__ import annotations

import pytest
from plan_world import World

from imagen_async._core.job import Job
from imagen_async._core.states import AwaitingCallback, Confirming, Done, Unknown


def sent(world: World, **place: object) -> Job:
    """A job whose create is on its way."""
    job = world.add(**place)
    assert world.sent() == [job.id]
    return world.talking[job.id].job


def answered(world: World, *names: str, **place: object) -> Job:
    """A job whose create was answered so, and it after that."""
    job: Job | None = sent(world, **place)
    for name in names:
        world.wake_for(job.id)
        job = world.answer(job.id, name)
        assert job is not None
    return job


def test_a_callback_is_waited_for_twice_as_long_as_the_slowest_tasks_take() -> None:
    """Half a minute at least: a provider repeats what was not taken, but only briefly."""
    world = World(callbacks=True)
    job, schedule = world.add(), world.upstream().schedule
    kind = ("imagen4", 1)
    assert world.plan.plan.callback_wait(job) == max(30.0, 2 * schedule.quantile(kind, 0.99))
    for latency, wait in ((1.0, 30.0), (400.0, 800.0)):
        for _ in range(500):
            schedule.ended(kind, 0.0, latency, latency)
        assert world.plan.plan.callback_wait(job) == pytest.approx(wait, rel=0.1)
    assert World().plan.plan.callback_wait(job) == 0, "where none are asked for"


def test_where_no_callback_ever_came_none_is_waited_for() -> None:
    """After ten tasks whose ends nobody announced a lost create is unknown at once; one fewer, and it is awaited."""
    world, ends = World(callbacks=True), []
    for _ in range(10):
        answered(world, "accepted", "succeeded")
        world.now += 1.0
        ends.append(bool(world.plan.plan.callback_wait(world.ended[0] if world.deliver() else world.ended[-1])))
    assert ends == [True] * 9 + [False]
    assert isinstance(answered(world, "lost").state, Unknown)


def test_the_task_of_a_lost_create_is_asked_about_at_once_and_once() -> None:
    """A second name, or the same once more, changes nothing and asks nothing while the first is asked about."""
    world = World(callbacks=True)
    job = answered(world, "lost")
    told = world.hear(job)
    assert told is not None
    assert isinstance(told.state, Confirming)
    assert [world.hear(job), world.hear(job, task_id="stranger"), world.live(job)] == [None, None, told]
    assert world.asked() == [job.id]
    assert world.hear(job) is None
    assert world.asked() == []
    done = world.answer(job.id, "succeeded")
    assert done is not None
    assert (type(done.state), done.task_id, done.lost, done.attempts) == (Done, "t1-1", 0, 1)
    world.deliver()
    assert world.is_at_rest()


def test_after_a_false_name_the_true_one_is_heard() -> None:
    """Once the provider has denied a name for half a minute nothing is asked, and the next name is, at once."""
    world = World(callbacks=True)
    job = answered(world, "lost")
    world.hear(job, task_id="stranger")
    while isinstance(world.live(job).state, Confirming):
        world.wake_for(job.id)
        world.answer(job.id, "denied")
    assert (world.asked(), world.live(job).lost_creates) == ([], (1,))
    assert world.now == 30.0
    world.hear(job)
    assert world.asked() == [job.id]


@pytest.mark.parametrize(("told", "asks_at_once"), [((1, "t1-1"), True), ((1, None), False), ((2, "t"), False)])
def test_an_accepted_create_whose_end_was_announced_is_asked_about_at_once(
    told: tuple[int, str | None], asks_at_once: bool
) -> None:
    """Once: a callback that came before the answer is as good as one after it, where it is about that very create."""
    world = World(callbacks=True)
    job = sent(world)
    world.hear(job, *told)
    world.answer(job.id, "accepted")
    assert world.asked() == [job.id] * asks_at_once
    world.wake_for(job.id)
    world.answer(job.id, "pending")
    assert world.asked() == []


@pytest.mark.parametrize(
    ("create", "task_id", "asks"),
    [
        (1, "t1-1", True),
        (1, None, True),
        (1, "stranger", False),
        (0, "t1-1", False),
        (2, "t1-1", False),
        (2, None, False),
    ],
)
def test_a_callback_for_a_running_job_is_one_question(create: int, task_id: str | None, asks: bool) -> None:
    """It is asked about at once, once; a callback about another task, or create, is none of its own."""
    world = World(callbacks=True)
    job = answered(world, "accepted", "pending")
    assert world.asked() == []
    for expected in ([job.id] * asks, []):
        assert world.hear(job, create, task_id) is None, "nothing that a journal is to keep"
        assert world.asked() == expected
    assert world.live(job) == job


def test_a_task_that_another_job_has_clears_nothing_up() -> None:
    """It was not made by the lost create, unless that is at another account."""
    world = World({"a": World().upstream().limits, "b": World().upstream().limits}, callbacks=True).trusted()
    other, job = world.add("a"), world.add("a")
    world.look()
    world.answer(other.id, "accepted")
    world.answer(job.id, "lost")
    task_id = world.live(other).task_id
    assert world.hear(job, 1, task_id) is None
    elsewhere = world.add("b")
    world.look()
    world.answer(elsewhere.id, "lost")
    assert world.hear(elsewhere, 1, task_id) is not None


def test_a_callback_for_a_job_that_ended_or_never_was_is_nothing() -> None:
    """It counts for the account's callbacks where it was only late; an account that is not there does no harm."""
    world = World(callbacks=True)
    job = answered(world, "accepted", "succeeded")
    world.deliver()
    reliability = world.upstream().poll_queue.reliability
    assert [world.plan.on_callback(each, 1, "t", world.now, "nobody") for each in (job.id, 99)] == [None, None]
    assert reliability.share == 0
    assert world.hear(job) is None
    assert reliability.share > 0
    assert world.is_at_rest()


def test_a_resubmission_whose_intent_is_being_noted_is_called_off() -> None:
    """A callback for the first create keeps the second from leaving, and frees its price; a later turn is its own."""
    world = World(callbacks=True)
    budget = world.limit(1, 40.0)
    job = answered(world, "lost", resubmits=1, retries=1)
    world.is_noting = True
    assert world.sent() == [job.id]
    first = world.talking[job.id]
    assert (budget.spent, budget.reserved) == (8, 8)
    told = world.hear(job, 1)
    assert told is not None
    assert (type(told.state), told.attempts, told.lost_creates) == (Confirming, 1, (1,))
    assert (budget.spent, budget.reserved) == (8, 0)
    assert not world.send(first)
    assert world.asked() == [job.id]
    world.answer(job.id, "broken")
    assert world.sent() == [job.id]
    world.settle_stale()
    world.drain()
    assert [create.number for create in world.creates[job.id]] == [1, 2]
    assert world.is_at_rest()


def test_a_refused_second_create_leaves_the_first_one_awaited() -> None:
    """A refusal says nothing of the first create: it is waited for as if the second had not been."""
    world = World(callbacks=True)
    job = answered(world, "lost", "refused", resubmits=1)
    assert (type(job.state), job.lost_creates) == (AwaitingCallback, (1,))
    assert world.hear(job, 2) is None
    assert world.hear(job, 1) is not None
