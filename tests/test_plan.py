"""The plan, promise by promise: whose turn it is and when, deadlines, leaving, saving, intents that take their time."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import inner
import pytest
from builders import DrivenPlan, failure, make_job, upstream
from plan_world import FREE_TO_REPEAT, ROOMY, SUCCESS, UNSENT, World

from imagen_async import errors

READY = inner.Fetching("old-0", SUCCESS)


def world_of(limits: inner.Limits = ROOMY, connections: int = 200) -> World:
    """A world of one account, which has answered before."""
    return World({"a": limits}, connections=connections).trusted()


def creating(world: World, **place: Any) -> inner.Job:
    """A job whose create is on its way."""
    job = world.add(**place)
    assert job.id in world.sent()
    return job


def running(world: World, number: int, **place: Any) -> list[int]:
    """So many jobs of an earlier run whose tasks run."""
    return [world.take_up(inner.Running("old-0", since=world.now), **place).id for _ in range(number)]


@pytest.mark.parametrize(
    ("limits", "connections", "most"),
    [
        *[(inner.Limits(submit=inner.Rate(100, per=1), running=most), 200, most) for most in (1, 2, 7)],
        *[(inner.Limits(submit=inner.Rate(count, per=10), running=1000), 200, count) for count in (1, 3, 20)],
        *[(ROOMY, connections, connections // 2) for connections in (2, 8)],
        (ROOMY, 1, 1),
    ],
)
def test_as_many_creates_go_at_once_as_may(limits: inner.Limits, connections: int, most: int) -> None:
    """With more jobs than room, tasks, a window and half of the connections are used up; and all are made at last."""
    world = world_of(limits, connections)
    jobs = world.add_many(50)
    assert world.sent() == jobs[:most]
    assert world.look() == []
    world.drain()
    assert world.ends(*jobs) == [inner.Done] * 50


def test_status_calls_find_half_of_the_connections() -> None:
    """Creates and status calls use all of them together; a place for a download is not theirs."""
    world = world_of(connections=8)
    running(world, 9)
    world.add_many(9)
    saved = [world.take_up(READY, save_to="out", expires_at=world.now + 1).id for _ in range(4)]
    assert Counter(type(job.state) for job in world.look()) == {inner.Noting: 4, inner.Running: 4, inner.Fetching: 2}
    world.answer(saved[1], "saved")
    world.now += 5.0
    assert [job.id for job in world.look()] == saved[2:3], "what is paid for is fetched, however late, in order"
    assert world.plan.wake_at(world.now) == world.now - 5.0 + 900.0, "only an answer, or a deadline, can make room"
    full = world_of(connections=1)
    assert (running(full, 1), full.asked(), full.add_many(1), full.look()) == ([2], [2], [3], []), "all are in use"


@pytest.mark.parametrize("count", [1, 2, 10])
def test_as_many_status_calls_go_as_may(count: int) -> None:
    """With more tasks than status calls all of these are used, and each task is asked once before any is twice."""
    world = world_of(inner.Limits(status=inner.Rate(count, per=1), running=1000))
    jobs, asked = running(world, 4 * count), []
    for _ in range(4):
        asked += (volley := world.asked())
        assert len(volley) == count
        for job_id in volley:
            world.answer(job_id, "pending")
        world.now += 1.0
    assert sorted(asked) == jobs


@pytest.mark.parametrize("answer", ["not sent", *FREE_TO_REPEAT])
def test_what_is_free_to_repeat_is_sent_again_until_it_is_taken(answer: str) -> None:
    """A create that was not sent, or met 429 or 455, goes again after a pause, before newer ones."""
    world = world_of(inner.Limits(submit=inner.Rate(1, per=1)))
    world.is_noting = True
    job, newer = world.add(deadline=1e6), world.add()
    for attempt in range(1, 5):
        assert (world.creating() or world.sent()) == [job.id]
        assert world.talking[job.id].job.attempts == (1 if answer == "not sent" else attempt)
        world.answer(job.id, answer)
        assert world.look() == []
        world.wake()
    world.drain()
    assert world.ends(job.id, newer.id) == [inner.Done, inner.Done]


@pytest.mark.parametrize(("answers", "task_id"), [([], None), (["accepted"], "t3-1")])
def test_a_job_expires_at_its_deadline_from_its_first_sending(answers: list[str], task_id: str | None) -> None:
    """However long it waits for that; then it is given up to the instant, with its task id where it has one."""
    world = world_of(inner.Limits(submit=inner.Rate(1, per=100)))
    first, job = world.add(deadline=3.5), world.add(deadline=3.5)
    assert world.sent() == [first.id]
    world.answer(first.id, "refused")
    began = world.now
    world.wake_for(job.id)
    for name in answers or ["limited long"]:
        world.answer(job.id, name)
    while len(world.plan):
        world.wake()
        if world.talking:
            world.answer(job.id, "pending")
    assert world.now == began + 100.0 + 3.5
    ended = world.end_of(job)
    assert inner.wording_failure_of(ended).is_a(errors.DeadlineExceeded)
    assert (ended.task_id, ended.attempts) == (task_id, 1)


@pytest.mark.parametrize("before", [[], ["accepted"]])
@pytest.mark.parametrize(("answer", "end"), [("pending", inner.Failed), ("succeeded", inner.Done)])
def test_who_talks_is_heard_out_past_the_deadline(before: list[str], answer: str, end: type) -> None:
    """The deadline ends no job whose create or status call is on the way: the answer counts, however late.

    A task that becomes known so late is asked about once, before it is given up; so is one of which an old answer says
    that it ran.
    """
    world = world_of()
    job = creating(world, deadline=5.0)
    for name in before:
        world.answer(job.id, name)
        world.wake()
    world.sleep(world.now + 50.0)
    if not before:
        world.answer(job.id, "accepted")
        assert world.asked() == [job.id]
    world.answer(job.id, answer)
    if before and answer == "pending":
        assert world.asked() == [job.id]
        world.answer(job.id, answer)
    assert world.look() == []
    ended = world.end_of(job)
    assert (type(ended.state), ended.task_id) == (end, "t2-1")


@pytest.mark.parametrize("is_asked", [True, False])
def test_a_task_whose_time_passed_unseen_is_asked_about_once_more(is_asked: bool) -> None:
    """Where the process stood still past a deadline, one more answer ends the job, or that none can be had soon."""
    world = world_of(inner.Limits(status=inner.Rate(1, per=1), submit=inner.Rate(2, per=1)))
    job, other = running(world, 2)
    deadline = world.plan.find(job).expires_at
    if not is_asked:
        world.upstream().status.block(deadline + 40.0, 100.0)
    world.sleep(deadline + 40.0)
    if is_asked:
        assert [*world.creating(), *world.talking] == [job]
        world.answer(job, "succeeded")
        world.wake_for(other)
        world.answer(other, "unreadable")
    while len(world.plan):
        world.wake()
    assert world.ends(job, other) == [inner.Done if is_asked else inner.Failed, inner.Failed]
    assert world.now <= deadline + 40.0 + inner.LAST_WORD


def test_a_create_whose_time_is_over_does_not_leave() -> None:
    """Where the connection came too late nothing is sent, and the job ends as one whose time was over before."""
    world = world_of()
    world.is_noting = True
    job = creating(world, deadline=5.0)
    world.sleep(world.now + 5.0)
    world.answer(job.id, "accepted")
    ended = world.end_of(job)
    assert (ended.attempts, inner.wording_failure_of(ended).kind) == (0, errors.DeadlineExceeded)


@pytest.mark.parametrize("how", ["leave", "withhold"])
def test_who_goes_ends_at_once_what_does_not_talk(how: str) -> None:
    """What waits to be sent is left in any case; what runs or is to be saved by who leaves, with its task."""
    world = world_of(inner.Limits(submit=inner.Rate(1, per=100), status=inner.Rate(100, per=1)))
    (runs,) = running(world, 1)
    saved, sent = world.take_up(READY, save_to="out").id, world.add().id
    world.look()
    world.answer(runs, "pending")
    queued, other = world.add().id, world.add(owner=2).id
    waits = world.take_up(READY).id
    world.go(how)
    left = {queued: inner.Queued()}
    if how == "leave":
        left |= {runs: inner.Running("old-0", world.now), waits: READY, saved: READY}
    assert {job.id: job.state.was for job in world.deliver()} == left
    world.drain()
    assert world.ends(sent, other) == [inner.Done if how == "withhold" else inner.Left, inner.Done]
    if how == "withhold":
        assert world.end_of(world.add()).state == inner.Left(inner.Queued())


def test_of_an_owner_that_is_forgotten_nothing_is_known() -> None:
    """A later owner of the same number is neither withheld nor on a budget."""
    world = world_of()
    world.limit(1, 8.0)
    world.go("withhold")
    world.plan.plan.forget(1)
    world.withheld.clear()
    assert world.sent() == [] == world.sent()
    jobs = world.add_many(2)
    assert world.sent() == jobs


def test_a_finished_job_that_comes_in_is_fetched_and_nothing_else() -> None:
    """A job that comes in ready is handed out for saving at once, whatever its account says, without a call."""
    world = World()
    world.upstream().breaker.stopped = failure(errors.InsufficientCredits)
    job = world.take_up(READY, save_to="out", expires_at=5.0)
    assert world.look() == [job]
    world.answer(job.id, inner.Saved(()))
    assert world.deliver() == [job.to(inner.Done("old-0", SUCCESS))]
    assert world.is_at_rest()


@pytest.mark.parametrize(
    ("names", "answer", "ages"),
    [
        (["accepted"], "pending", [1, 2, 3, 4, 6, 8]),
        *[([*before, "gone"], "unreadable", [0, 1, 2, 3]) for before in ([], ["accepted", "succeeded"])],
    ],
)
def test_a_task_is_asked_about_by_the_schedule(names: list[str], answer: str, ages: list[int]) -> None:
    """From its acceptance on; one whose links died at once, and then by the schedule even if no answer comes."""
    world, asked = World(), []
    job = creating(world, save_to="out") if "accepted" in names else world.take_up(READY, save_to="out")
    for name in names:
        world.wake_for(job.id)
        world.answer(job.id, name)
    assert world.upstream().running == 1, "it is counted with those that run"
    began = world.now
    for _ in ages:
        world.wake_for(job.id)
        asked.append(world.now - began)
        world.answer(job.id, answer)
    assert asked == ages


@pytest.mark.parametrize("end", ["withhold", "leave", "abandon", "not noted", "unsendable"])
def test_a_create_that_has_not_left_was_never_sent(end: str) -> None:
    """Whatever ends its job then, it does not count as sent, costs nothing, and only gives its place back."""
    world = world_of()
    budget = world.limit(1, 20.0)
    world.is_noting = True
    job, other = creating(world), creating(world, owner=2)
    assert (budget.spent, budget.reserved) == (0, 8)
    if end in UNSENT:
        world.answer(job.id, end)
    else:
        world.go(end)
    ended = world.end_of(job)
    assert (ended.attempts, ended.lost, budget.spent, budget.reserved) == (0, 0, 0, 0)
    breaker = world.upstream().breaker
    assert (breaker.trouble, breaker.is_trusted, breaker.closures) == (None, True, (False, 0)), "it says nothing of it"
    world.drain()
    assert (world.ends(other.id), world.creates[job.id]) == ([inner.Done], [])
    assert world.is_at_rest()


class Lent(inner.Window):
    """A limit of which others have the rest: a place is there once it was lent."""

    is_shared = True
    at_hand = 0

    def ready_at(self, now: float) -> float:
        return now if self.at_hand else math.inf

    def take(self, now: float) -> None:
        super().take(now)
        self.at_hand -= 1


def shared_plan(*names: str) -> tuple[DrivenPlan, inner.Upstream]:
    """A plan of one account that has answered before, and of which some limits are shared."""
    account = upstream("kie", ROOMY)
    account.breaker.answered_status()
    for name in names:
        setattr(account, name, Lent(getattr(ROOMY, name)))
    return DrivenPlan([account]), account


@pytest.mark.parametrize("name", ["submit", "status"])
def test_places_of_a_shared_limit_are_wanted_while_they_are_lacking(name: str) -> None:
    """As many are wanted as there are requests that could go but for a place; with one at hand it goes."""
    plan, account = shared_plan(name)
    assert plan.plan.shares_limits
    assert [*plan.plan.wants_places(0.0)] == []
    for number in (1, 2):
        state = inner.Queued() if name == "submit" else inner.Running(f"t{number}", since=0.0)
        plan.add(make_job(number, state, expires_at=900.0), 0.0)
    limit = getattr(account, name)
    assert plan.take(0.0) == []
    assert [*plan.plan.wants_places(0.0)] == [(limit, 2 if name == "submit" else 1)]
    limit.at_hand = 1
    assert [*plan.plan.wants_places(0.0)] == [], "what is at hand is used first"
    assert [job.id for job in plan.take(0.0)] == [1]
    assert [*plan.plan.wants_places(0.0)] == [(limit, 1)]


def test_no_place_is_wanted_that_could_not_be_used() -> None:
    """Not while an account is paused, or full, or nobody waits for it, nor before a question is due."""
    plan, account = shared_plan("submit", "status")
    plan.add(make_job(1, expires_at=900.0), 0.0)
    assert [*plan.plan.wants_places(0.0)] == [(account.submit, 1)]
    account.breaker.paused_until = 5.0
    assert [*plan.plan.wants_places(4.9)] == []
    assert plan.wake_at(4.9) == 5.0, "then a place is worth a lease"
    assert [*plan.plan.wants_places(5.0)] == [(account.submit, 1)]
    account.running = account.limits.running
    assert [*plan.plan.wants_places(5.0)] == []
    plan.leave(1)
    account.running = 0
    assert [*plan.plan.wants_places(5.0)] == [], "nobody waits"
    account.poll_queue.expect(make_job(2, inner.Running("t2", since=5.0)), 5.0)
    due = account.poll_queue.next_at(5.0)
    assert due > 5.0
    assert [*plan.plan.wants_places(5.0)] == []
    assert plan.wake_at(5.0) == due
    assert [*plan.plan.wants_places(due)] == [(account.status, 1)]
