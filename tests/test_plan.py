"""The plan and its upstreams, driven by arbitrary scripts of answers: who may talk, when, and how each job ends."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import plan_world
import pytest
from builders import MODELS, failure
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plan_world import (
    ASKED,
    CONNECTIONS,
    CREATED,
    FETCHED,
    FREE_TO_REPEAT,
    GONE,
    LIMITS,
    SAVING_AT_ONCE,
    SUCCESS,
    UNSENT,
    World,
    make_upstream,
    most_at_the_server,
)

from imagen_async._core.budget import Budget
from imagen_async._core.circuit_breaker import FIRST_CONTACT_TRIES, LONGEST_PAUSE_AFTER_LOST, LOST_IN_A_ROW
from imagen_async._core.failure import Failure
from imagen_async._core.job import Job
from imagen_async._core.job_events import Event, Saved, SendAborted
from imagen_async._core.provider import Limits
from imagen_async._core.rate_limit import Rate
from imagen_async._core.states import (
    Collected,
    Done,
    Ended,
    Failed,
    Fetching,
    Left,
    Links,
    NotAdmitted,
    Noting,
    Queued,
    Relinking,
    Running,
    Submitting,
    Unknown,
)
from imagen_async._core.wire import Accepted, Lost, NoAnswer, Pending, Rejected, Remedy
from imagen_async.errors import (
    AuthenticationError,
    DeadlineExceeded,
    GenerationFailed,
    ImagenError,
    InsufficientCredits,
    InvalidRequest,
    JournalError,
    ModelUnavailable,
    RateLimited,
    TransportError,
    UnknownOutcome,
)

# Sums of eighths are exact, so a test at the very edge of a window is a test of the rule and not of rounding.
EIGHTHS = st.integers(1, 40).map(lambda eighths: eighths / 8)
OFTEN_CREATED = ["accepted"] * 20 + [*FREE_TO_REPEAT, "lost", "refused", "silent"] * 2
OFTEN_ASKED = ["pending"] * 2 + ["succeeded"] * 10
ANSWER = st.tuples(
    st.just("answer"),
    st.integers(0, 9),
    st.sampled_from(OFTEN_CREATED + list(CREATED)),
    st.sampled_from(OFTEN_ASKED + list(ASKED)),
    st.sampled_from(list(FETCHED)),
)
ADD = st.builds(
    lambda account, model, jobs, **place: ("add", account, model, jobs, place),
    account=st.sampled_from(list(LIMITS)),
    model=st.sampled_from(list(MODELS)),
    jobs=st.integers(1, 4),
    owner=st.integers(1, 3),
    retries=st.integers(0, 2),
    resubmits=st.integers(0, 1),
    deadline=st.sampled_from([900.0, 900.0, 8.0, 2.0]),
    save_to=st.sampled_from(["out", "out", None]),
)
COLLECT = st.tuples(st.just("collect"), st.sampled_from(list(LIMITS)), st.integers(1, 3))
LEAVE = st.tuples(st.sampled_from(["leave", "abandon", "withhold"]), st.integers(2, 3))
GO = st.just(("wake",)) | st.tuples(st.just("wait"), EIGHTHS)
ODD = st.one_of(COLLECT, COLLECT, LEAVE)
NOTING = st.one_of(
    st.tuples(st.just("noting"), st.booleans()),
    st.tuples(st.just("unsent"), st.integers(0, 9), st.sampled_from(list(UNSENT))),
    st.just(("stale",)),
)
STEP: st.SearchStrategy[tuple[Any, ...]] = st.one_of(*[ADD] * 5, *[ANSWER] * 16, *[GO] * 6, *[NOTING] * 2, ODD)
SCRIPTS = st.lists(STEP, min_size=30, max_size=80)
LONG = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])


def play(world: World, step: tuple[Any, ...]) -> None:
    """Do one step of a script, and look."""
    match step:
        case ("add", account, model, jobs, place):
            for _ in range(jobs if place["owner"] not in world.left else 0):
                world.add(account, model, **place)
        case ("collect", account, owner):
            if owner not in world.left:
                state = Collected("old", since=world.now)
                world.add(account, owner=owner, expires_at=world.now + 20.0, state=state, save_to="out")
    plan_world.play(world, step)


def played(script: list[tuple[Any, ...]]) -> World:
    """A world after a whole script."""
    world = World()
    for step in script:
        play(world, step)
    return world


# ------------------------------------------------------------------------------- what holds after every script


@LONG
@given(script=SCRIPTS)
def test_each_job_ends_exactly_once(script: list[tuple[Any, ...]]) -> None:
    """Whatever is answered, no job is lost or handed out twice at a time, and each ends once, in a final state."""
    world = played(script)
    live = {job.id for job in world.plan.jobs}
    ended = [job.id for job in world.ended]
    assert sorted([*live, *ended]) == sorted(world.added)
    world.drain()
    assert sorted(job.id for job in world.ended) == sorted(world.added)
    assert all(isinstance(job.state, Ended) for job in world.ended)


@LONG
@given(script=SCRIPTS)
def test_every_change_is_told_in_order(script: list[tuple[Any, ...]]) -> None:
    """Whoever hears every change knows at any time how each job stands: each begins where the last one left off."""
    world = played(script)
    stands: dict[int, Job] = {}
    for change in world.plan.changes:
        assert stands.get(change.after.id) is change.before
        stands[change.after.id] = change.after
    assert all(stands[job.id] is job for job in (*world.plan.jobs, *world.ended))


@LONG
@given(script=SCRIPTS)
def test_a_plan_that_is_drained_is_empty(script: list[tuple[Any, ...]]) -> None:
    """When all jobs ended nothing is running, nothing waits, nothing will be handed out, and it never wakes."""
    world = played(script)
    world.drain()
    assert len(world.plan) == 0
    assert [upstream.running for upstream in world.plan.upstreams.values()] == [0, 0]
    assert not any(upstream.poll_queue for upstream in world.plan.upstreams.values())
    for owner in (1, 2, 3):
        assert world.wants_more(owner) == world.plan.upstreams.take_creates, "nobody waits for anybody"
    assert world.plan.wake_at(world.now) == math.inf
    assert world.plan.take(world.now + 1e6) == []


@LONG
@given(script=SCRIPTS)
def test_no_job_is_paid_for_twice(script: list[tuple[Any, ...]]) -> None:
    """A job's creates are one, and one for each that made nothing and each retry and resubmit that it had.

    A create that stopped its account, or closed its model, is not sent again here, where each job has one account.
    """
    world = played(script)
    world.drain()
    world.check_creates()


@LONG
@given(script=SCRIPTS)
def test_creates_keep_to_the_running_limit(script: list[tuple[Any, ...]]) -> None:
    """No create is handed out that could make more tasks than may run at once, and `running` counts them right."""
    world = World()
    for step in script:
        talked = [job for job, _ in world.talking.values()]
        play(world, step)
        creating = [world.talking[job_id][0] for job_id in world.creating()]
        for name, upstream in world.plan.upstreams.items():
            running = sum(isinstance(job.state, Submitting | Running) for job in world.plan.jobs if job.account == name)
            assert upstream.running == running
            if any(job.account == name for job in creating if job not in talked):
                assert running <= upstream.limits.running


@LONG
@given(script=SCRIPTS)
def test_no_window_at_the_server_holds_more_creates_than_the_limit(script: list[tuple[Any, ...]]) -> None:
    """Wherever in its round trip the server sees each create, no window holds more than the submit limit."""
    world = played(script)
    for name, limits in LIMITS.items():
        assert most_at_the_server(world.all_trips(name, "create"), limits.submit.per) <= limits.submit.count


@LONG
@given(script=SCRIPTS)
def test_no_window_at_the_server_holds_more_status_calls_than_the_limit(script: list[tuple[Any, ...]]) -> None:
    """Wherever in its round trip the server sees each status call, no window holds more than the status limit."""
    world = played(script)
    for name, limits in LIMITS.items():
        assert most_at_the_server(world.all_trips(name, "status"), limits.status.per) <= limits.status.count


@LONG
@given(script=SCRIPTS)
def test_first_creates_go_first_come_first_served(script: list[tuple[Any, ...]]) -> None:
    """In each account the jobs are sent for the first time in the order in which they came."""
    world = played(script)
    world.drain()
    for order in world.first_creates.values():
        assert order == sorted(order)


@LONG
@given(script=SCRIPTS)
def test_nothing_is_sent_for_an_owner_who_left(script: list[tuple[Any, ...]]) -> None:
    """From the instant that an owner leaves, none of its jobs is handed out for anything."""
    world = World()
    for step in script:
        gone = set(world.left)
        before = set(world.talking)
        play(world, step)
        assert not [job_id for job_id in set(world.talking) - before if world.added[job_id].owner in gone]


@LONG
@given(script=SCRIPTS)
def test_at_most_so_many_pictures_are_saved_at_once(script: list[tuple[Any, ...]]) -> None:
    """Never more downloads than the plan was made for."""
    world = World()
    for step in script:
        play(world, step)
        assert sum(isinstance(job.state, Fetching) for job, _ in world.talking.values()) <= SAVING_AT_ONCE


@LONG
@given(script=SCRIPTS)
def test_creates_leave_half_of_the_connections_to_status_calls(script: list[tuple[Any, ...]]) -> None:
    """At no time do the creates under way hold more than half of an account's connections."""
    world = World()
    for step in script:
        play(world, step)
        for name in LIMITS:
            creating = [
                job for job, _ in world.talking.values() if job.account == name and isinstance(job.state, Submitting)
            ]
            assert len(creating) <= CONNECTIONS // 2


# ------------------------------------------------------------------------------------ and that it gets there


def answered_world(limits: Limits, connections: int = 200, jobs: int = 0, **place: Any) -> World:
    """A world whose first create was accepted, so that the account is known to work; its job is done."""
    world = World(make_upstream("wide", limits, connections))
    first = world.add()
    world.look()
    world.answer(first.id, Accepted("t0"))
    world.drain()
    world.deliver()
    world.now += 1000.0
    for _ in range(jobs):
        world.add(**place)
    return world


@pytest.mark.parametrize("running", [1, 2, 7])
def test_the_running_limit_is_reached(running: int) -> None:
    """With more jobs than room, exactly as many tasks as may run are started, and the next when one has ended."""
    world = answered_world(Limits(submit=Rate(100, per=1), running=running), jobs=20)
    assert len(world.look()) == running
    for job_id in list(world.talking):
        world.answer(job_id, Accepted(f"t{job_id}"))
    assert world.look() == []
    world.sleep(world.plan.wake_at(world.now))
    asked = sorted(world.talking)
    world.answer(asked[0], SUCCESS)
    assert [isinstance(job.state, Submitting) for job in world.look()] == [True]


@pytest.mark.parametrize("count", [1, 3, 20])
def test_the_submit_limit_is_reached(count: int) -> None:
    """With enough jobs and an account that works, a full window of creates goes at once, and the next one after it."""
    world = answered_world(Limits(submit=Rate(count, per=10), running=1000), jobs=3 * count)
    start = world.now
    for window in range(3):
        taken = world.look()
        assert [isinstance(job.state, Submitting) for job in taken].count(True) == count
        for job in taken:
            world.answer(job.id, Accepted("t") if isinstance(job.state, Submitting) else SUCCESS)
        world.now = start + 10.0 * (window + 1)
    assert sorted(world.creates) == list(range(1, 3 * count + 2))


@pytest.mark.parametrize("count", [1, 2, 10])
def test_the_status_limit_is_reached(count: int) -> None:
    """With many running tasks, as many status calls as the limit allows go in each window."""
    world = World(make_upstream("wide", Limits(status=Rate(count, per=1), running=1000), connections=200))
    for number in range(5 * count):
        world.add(expires_at=900.0, state=Running(f"t{number}", since=0.0))
    for second in range(5):
        world.now = float(second)
        assert len(world.look()) == count
        for job_id in list(world.talking):
            world.answer(job_id, Pending("waiting"))
    assert most_at_the_server(world.trips["wide", "status"], 1.0) == count


def test_status_calls_are_fair() -> None:
    """With more tasks than status calls, each task is asked once before any is asked twice."""
    world = World(make_upstream("wide", Limits(status=Rate(2, per=1))))
    for number in range(8):
        world.add(expires_at=900.0, state=Running(f"t{number}", since=0.0))
    asked = []
    for second in range(4):
        world.now = float(second)
        for job in world.look():
            asked.append(job.id)
            world.answer(job.id, Pending("waiting"))
    assert sorted(asked) == list(range(1, 9))


def test_half_of_the_connections_are_used_for_creates() -> None:
    """With enough jobs, creates use all of their half of the connections, and status calls find the other half."""
    world = answered_world(Limits(submit=Rate(100, per=1), status=Rate(100, per=1), running=100), connections=8, jobs=9)
    for number in range(9):
        world.add(expires_at=world.now + 900, state=Running(f"t{number}", since=world.now))
    taken = world.look()
    assert Counter(type(job.state) for job in taken) == {Noting: 4, Running: 4}


def test_a_single_connection_still_serves_both() -> None:
    """With one connection, a job is still sent, asked about and done."""
    world = World(make_upstream("wide", connections=1))
    world.add()
    world.drain()
    assert [type(job.state) for job in world.ended] == [Done]


def test_all_places_for_saving_are_used() -> None:
    """With more finished pictures than places for saving, all places are used, and the next follows."""
    world = answered_world(Limits(submit=Rate(100, per=1), status=Rate(100, per=1)), jobs=5, save_to="out")
    for job in world.look():
        world.answer(job.id, Accepted("t"))
    world.sleep(world.plan.wake_at(world.now))
    for job_id in list(world.talking):
        world.answer(job_id, SUCCESS)
    assert len(world.look()) == SAVING_AT_ONCE
    world.answer(next(iter(world.talking)), Saved(()))
    assert len(world.look()) == 1


def test_a_full_account_does_not_hold_up_another() -> None:
    """An account that waits for its window leaves the other's turns alone."""
    world = World()
    world.add("wide")
    world.look()
    world.answer(1, CREATED["limited long"](""))
    narrow = world.add("narrow")
    assert [job.id for job in world.look()] == [narrow.id]


def test_a_job_is_asked_about_at_the_ages_of_the_schedule() -> None:
    """A running task is asked about when the schedule says, counted from its acceptance."""
    world = World()
    world.add()
    world.look()
    world.answer(1, Accepted("t1"))
    asked = []
    for _ in range(6):
        world.look()
        world.sleep(world.plan.wake_at(world.now))
        asked.append(world.now)
        world.answer(1, Pending("waiting"))
    assert asked == [1.0, 2.0, 3.0, 4.0, 6.0, 8.0]


def test_a_task_to_be_collected_is_asked_about_at_once() -> None:
    """A job that comes in running is asked about without delay, and never created."""
    world = World()
    job = world.add(expires_at=20.0, state=Collected("old", since=0.0))
    assert [(taken.id, type(taken.state)) for taken in world.look()] == [(job.id, Collected)]
    world.answer(job.id, SUCCESS)
    world.drain()
    assert world.creates == {}
    assert world.ended[0].task_id == "old"


# ------------------------------------------------------------------------------------------- sent again


@pytest.mark.parametrize("answer", FREE_TO_REPEAT)
def test_what_is_free_to_repeat_is_sent_again_until_it_is_taken(answer: str) -> None:
    """A create that was not sent, or met 429 or 455, goes again after a pause, and then the job is done."""
    world = answered_world(LIMITS["wide"], jobs=1)
    job_id = world.look()[0].id
    for attempt in range(1, 4):
        assert world.creates[job_id] == attempt
        world.answer(job_id, CREATED[answer](""))
        assert world.look() == []
        world.sleep(world.plan.wake_at(world.now))
    world.drain()
    assert world.creates[job_id] == 4
    assert isinstance(world.ended[-1].state, Done)


def test_a_job_that_comes_back_keeps_its_place_before_the_newer_ones() -> None:
    """A create that met a 429 goes again before those that were not sent yet."""
    world = answered_world(Limits(submit=Rate(1, per=1)), jobs=3)
    first = world.look()[0]
    world.answer(first.id, CREATED["limited"](""))
    world.sleep(world.plan.wake_at(world.now))
    assert list(world.talking) == [first.id]


def test_a_lost_create_is_never_sent_again() -> None:
    """A create whose answer was lost ends the job as unknown, whatever retries it had, and the account goes on."""
    world = answered_world(LIMITS["wide"], jobs=2, retries=2)
    lost, other = world.look()
    world.answer(lost.id, Lost(failure(TransportError, "reset")))
    world.answer(other.id, Accepted("t"))
    world.drain()
    ended = {job.id: job for job in world.ended}
    assert isinstance(ended[lost.id].state, Unknown)
    assert isinstance(ended[other.id].state, Done)
    assert world.creates[lost.id] == 1


def test_a_429_holds_the_whole_account_for_a_window() -> None:
    """After a 429 no create of the account goes for a full window, and half of the limit goes in the next."""
    world = answered_world(Limits(submit=Rate(4, per=10), running=100), jobs=20)
    start = world.now
    taken = world.look()
    assert len(taken) == 4
    world.answer(taken[0].id, CREATED["limited"](""))
    for job in taken[1:]:
        world.answer(job.id, Rejected(failure(InvalidRequest, "bad", code=422), Remedy.FAIL))
    assert world.look() == []
    assert world.plan.wake_at(world.now) == start + 10.0
    world.sleep(start + 10.0)
    assert len(world.talking) == 2


def test_a_429_of_a_status_call_holds_status_calls_only() -> None:
    """Too many status calls hold the status calls for their window, and creates go on."""
    world = answered_world(Limits(submit=Rate(5, per=10), status=Rate(2, per=4), running=100))
    for number in range(4):
        world.add(expires_at=world.now + 900, state=Running(f"t{number}", since=world.now))
    taken = world.look()
    assert len(taken) == 2
    world.answer(taken[0].id, NoAnswer(failure(RateLimited, "429"), limited=True, retry_after=6.0))
    world.answer(taken[1].id, Pending("waiting"))
    new = world.add()
    assert [job.id for job in world.look()] == [new.id]
    assert world.plan.wake_at(world.now) == world.now + 6.0
    assert len(world.plan) == 5


def test_maintenance_pauses_the_account_and_then_sends_one_at_a_time() -> None:
    """After a 455 the account pauses, then a single create tries, and only when it is taken the others follow."""
    world = answered_world(Limits(submit=Rate(50, per=1), running=50), jobs=10)
    for job in world.look():
        world.answer(job.id, CREATED["maintenance"](""))
    assert world.look() == []
    assert world.plan.wake_at(world.now) == world.now + 1.0
    world.sleep(world.now + 1.0)
    assert len(world.talking) == 1
    world.answer(next(iter(world.talking)), Accepted("t"))
    assert len(world.look()) == 9


def test_pauses_grow_with_each_setback_in_a_row() -> None:
    """Each failed connection in a row makes a longer pause, and a success makes the next one short again."""
    world = World(make_upstream("wide", Limits(submit=Rate(100, per=0.125)), delay=lambda n, longest: 2.0**n))
    world.add()
    world.look()
    world.answer(1, Accepted("t"))
    world.drain()
    world.add()
    world.look()
    pauses = []
    for answer in ("not sent", "not sent", "not sent", "accepted", "not sent"):
        job_id = next(iter(world.talking))
        before = world.now
        world.answer(job_id, CREATED[answer]("t"))
        if answer == "accepted":
            world.drain()
            world.add()
            world.look()
            continue
        world.look()
        world.sleep(world.plan.wake_at(world.now))
        pauses.append(world.now - before)
    assert pauses == [1.0, 2.0, 4.0, 1.0]


@pytest.mark.parametrize("retry_after", [None, 1.0])
def test_the_failures_of_one_volley_count_once(retry_after: float | None) -> None:
    """Five creates that meet maintenance together make the pause of one setback, with Retry-After or without."""
    upstream = make_upstream("wide", Limits(submit=Rate(50, per=1), running=50), 10, delay=lambda n, longest: 2.0**n)
    world = World(upstream)
    for _ in range(6):
        world.add()
    world.look()
    world.answer(1, Rejected(failure(InvalidRequest, "bad", code=422), Remedy.FAIL))
    volley = world.look()
    assert len(volley) == 5
    for job in volley:
        world.answer(job.id, Rejected(failure(TransportError, "maintenance", code=455), Remedy.PAUSE, retry_after))
    assert world.plan.wake_at(world.now) == world.now + 1.0


# --------------------------------------------------------------------------------------------- deadlines


def test_a_job_that_never_goes_out_does_not_expire() -> None:
    """The deadline runs from the first sending, so a job may wait in the queue for longer than that."""
    world = answered_world(Limits(submit=Rate(1, per=100), running=100), jobs=3, deadline=50.0)
    sent = []
    for _ in range(3):
        taken = [job for job in world.look() if isinstance(job.state, Submitting)]
        sent += [job.id for job in taken]
        world.answer(taken[0].id, Accepted("t"))
        world.now += 1.0
        asked = world.look()
        world.answer(asked[0].id, SUCCESS)
        world.now += 99.0
    assert sent == [2, 3, 4]
    assert all(isinstance(job.state, Done) for job in world.ended)


def test_a_queued_job_expires_at_its_deadline() -> None:
    """A job whose create could not be sent is given up exactly at its deadline, with no task id."""
    world = answered_world(LIMITS["wide"], jobs=1, deadline=3.0)
    start = world.now
    world.look()
    world.answer(2, CREATED["limited long"](""))
    world.look()
    assert world.plan.wake_at(world.now) == start + 3.0
    world.sleep(start + 3.0)
    job = world.ended[-1]
    assert isinstance(job.state, Failed)
    assert job.state.failure.is_a(DeadlineExceeded)
    assert job.task_id is None
    assert world.creates[2] == 1


def test_a_create_on_the_way_is_heard_out_past_the_deadline() -> None:
    """The deadline does not end a job whose create is on the way, the first or a later one: its answer counts."""
    world = answered_world(LIMITS["wide"], jobs=1, deadline=5.0)
    world.look()
    world.answer(2, CREATED["not sent"](""))
    world.look()
    world.sleep(world.plan.wake_at(world.now))
    assert isinstance(world.talking[2][0].state, Submitting)
    world.sleep(world.now + 50.0)
    world.answer(2, Accepted("t2"))
    world.look()
    assert isinstance(world.ended[-1].state, Failed)
    assert world.ended[-1].task_id == "t2"


def test_a_status_call_on_the_way_is_heard_out_past_the_deadline() -> None:
    """The deadline does not end a job whose status call is on the way: a late picture is a picture."""
    world = answered_world(LIMITS["wide"], jobs=1, deadline=5.0)
    world.look()
    world.answer(2, Accepted("t2"))
    world.look()
    world.sleep(world.plan.wake_at(world.now))
    assert isinstance(world.talking[2][0].state, Running)
    world.sleep(world.now + 50.0)
    world.answer(2, SUCCESS)
    world.look()
    assert isinstance(world.ended[-1].state, Done)


def test_a_running_job_expires_at_its_deadline_with_its_task_id() -> None:
    """A task that does not end is given up exactly at the deadline, and the error carries the task id."""
    world = answered_world(LIMITS["wide"], jobs=1, deadline=3.5)
    start = world.now
    world.look()
    world.answer(2, Accepted("t2"))
    while len(world.plan):
        world.look()
        if world.talking:
            world.answer(2, Pending("waiting"))
        else:
            world.sleep(world.plan.wake_at(world.now))
    assert world.now == start + 3.5
    job = world.ended[-1]
    assert isinstance(job.state, Failed)
    assert job.state.failure.is_a(DeadlineExceeded)
    assert job.task_id == "t2"


# ----------------------------------------------------------------------------------------------- leaving


@pytest.mark.parametrize(
    ("answer", "state", "task_id"),
    [
        ("accepted", Left, "t1"),
        ("not sent", Left, None),
        ("limited", Left, None),
        ("maintenance", Left, None),
        ("silent", Failed, None),
        ("lost", Unknown, None),
        ("refused", Failed, None),
        ("no credit", Left, None),
        ("model gone", Left, None),
    ],
)
def test_a_create_that_is_on_the_way_is_heard_out_after_leaving(answer: str, state: type, task_id: str | None) -> None:
    """Leaving keeps the job whose create is on the way until its answer, which gives the task id, and sends nothing."""
    world = World()
    world.add(retries=1)
    world.look()
    world.leave(1)
    assert [job.id for job in world.plan.jobs] == [1]
    assert world.deliver() == []
    world.answer(1, CREATED[answer]("t1"))
    (job,) = world.deliver()
    assert isinstance(job.state, state)
    assert job.task_id == task_id
    assert len(world.plan) == 0
    assert world.plan.take(world.now + 1e6) == []


def test_leaving_ends_all_that_does_not_talk_at_once() -> None:
    """Queued jobs are left without a task, running ones and those to be saved with theirs; other owners' go on."""
    world = World(make_upstream("wide", Limits(status=Rate(100, per=1))))
    world.add(expires_at=900.0, state=Running("t1", since=0.0), save_to="out")
    world.add(expires_at=900.0, state=Running("t2", since=0.0))
    world.add(owner=2)
    world.add()
    world.look()
    world.answer(1, SUCCESS)
    world.answer(2, Pending("waiting"))
    assert sorted(world.talking) == [3]
    world.leave(1)
    assert {job.id: job.state for job in world.deliver()} == {
        1: Left(Fetching("t1", SUCCESS)),
        2: Left(Running("t2", since=0.0)),
        4: Left(Queued()),
    }
    assert [job.id for job in world.plan.jobs] == [3]


def test_an_answer_for_a_job_that_was_left_changes_nothing_but_its_place() -> None:
    """The late answer to a status call of a job that ended is ignored, and its connection is free again."""
    world = World(make_upstream("wide", connections=1))
    world.add(expires_at=900.0, state=Running("t1", since=0.0))
    world.look()
    world.leave(1)
    assert [job.state for job in world.deliver()] == [Left(Running("t1", since=0.0))]
    other = world.add(owner=2, expires_at=900.0, state=Running("t2", since=0.0))
    assert world.look() == []
    assert world.answer(1, SUCCESS) is None
    assert world.deliver() == []
    assert [job.id for job in world.look()] == [other.id]


def test_abandoning_makes_the_creates_on_the_way_unknown() -> None:
    """A create whose answer nobody waits for any more is unknown, with its price, and its answer is late."""
    world = World()
    world.add(model="imagen4-ultra")
    world.look()
    world.leave(1)
    world.plan.abandon(1)
    (job,) = world.deliver()
    assert isinstance(job.state, Unknown)
    assert job.state.failure.is_a(UnknownOutcome)
    assert job.state.failure.credits == 12
    assert world.answer(1, Accepted("t1")) is None
    assert world.deliver() == []
    assert world.plan.upstreams["wide"].running == 0


# ---------------------------------------------------------------------------------- accounts that stop


@pytest.mark.parametrize(("answer", "error"), [("wrong key", AuthenticationError), ("no credit", InsufficientCredits)])
def test_a_stopped_account_ends_its_queue_unsent(answer: str, error: type[ImagenError]) -> None:
    """A wrong key or an empty account ends its job and all queued ones as unsent; one create was sent, and no more."""
    world = World()
    for _ in range(10):
        world.add()
    other = world.add("narrow")
    assert len(world.look()) == 2
    world.answer(1, CREATED[answer](""))
    ended = world.deliver()
    assert [job.id for job in ended] == [*range(1, 11)]
    for job in ended:
        assert isinstance(job.state, NotAdmitted)
        assert job.state.failure.is_a(error)
        assert job.state.failure.account == "wide"
    assert sum(world.creates.values()) == 2
    late = world.add()
    assert [(job.id, type(job.state)) for job in world.deliver()] == [(late.id, NotAdmitted)]
    assert world.plan.upstreams.take_creates, "the other account goes on"
    world.drain()
    assert [(job.id, type(job.state)) for job in world.ended if job.account == "narrow"] == [(other.id, Done)]


def test_tasks_that_run_on_a_stopped_account_are_still_collected() -> None:
    """An account that runs out of credit while tasks run is still asked about them: they are paid for."""
    world = answered_world(Limits(submit=Rate(10, per=1), running=10), jobs=2)
    paid, refused = world.look()
    world.answer(paid.id, Accepted("paid"))
    world.answer(refused.id, CREATED["no credit"](""))
    world.drain()
    ended = {job.id: job.state for job in world.ended}
    assert isinstance(ended[paid.id], Done)
    assert isinstance(ended[refused.id], NotAdmitted)


@pytest.mark.parametrize(
    ("first", "state"), [("no credit", NotAdmitted), ("wrong key", NotAdmitted), ("model gone", Failed)]
)
def test_a_create_that_comes_back_to_a_stopped_account_ends(first: str, state: type) -> None:
    """A 429 that arrives after the account stopped, or its model was closed, does not queue its job for ever."""
    world = answered_world(Limits(submit=Rate(10, per=1), running=10), jobs=2)
    closing, limited = world.look()
    world.answer(closing.id, CREATED[first](""))
    world.answer(limited.id, CREATED["limited"](""))
    assert [type(job.state) for job in world.deliver()] == [state, state]
    assert len(world.plan) == 0


@pytest.mark.parametrize(("first", "later"), [("no credit", "limited"), ("model gone", "not sent")])
def test_a_job_that_comes_back_to_a_stopped_account_has_no_deadline_left(first: str, later: str) -> None:
    """A job that ended because its account or model stopped is forgotten: nothing happens at its deadline."""
    world = answered_world(Limits(submit=Rate(10, per=1), running=10), jobs=2)
    closing, limited = world.look()
    world.answer(closing.id, CREATED[first](""))
    world.answer(limited.id, CREATED[later](""))
    world.deliver()
    assert world.plan.wake_at(world.now) == math.inf
    assert world.plan.take(world.now + 900.0) == []


def test_a_closed_model_fails_only_its_own_jobs() -> None:
    """A model that is gone fails its queued jobs and later ones, and the account's other models go on."""
    world = World()
    gone = [world.add(model="imagen4") for _ in range(3)]
    kept = [world.add(model="imagen4-fast") for _ in range(3)]
    world.look()
    world.answer(gone[0].id, CREATED["model gone"](""))
    gone.append(world.add(model="imagen4"))
    ended = world.deliver()
    assert sorted(job.id for job in ended) == [job.id for job in gone]
    for job in ended:
        assert isinstance(job.state, Failed)
        assert job.state.failure.is_a(ModelUnavailable)
    world.drain()
    ended = [job for job in world.ended if job.model.name == "imagen4-fast"]
    assert sorted(job.id for job in ended) == [job.id for job in kept]
    assert all(isinstance(job.state, Done) for job in ended)


def test_401_for_another_model_after_one_worked_closes_that_model() -> None:
    """A key that made a task is right, so a 401 for another model means that the key may not have this model."""
    world = answered_world(Limits(submit=Rate(10, per=1), running=10))
    ultra = world.add(model="imagen4-ultra")
    queued = world.add(model="imagen4-ultra")
    plain = world.add(model="imagen4")
    world.look()
    world.answer(ultra.id, CREATED["wrong key"](""))
    world.answer(queued.id, CREATED["wrong key"](""))
    world.drain()
    ended = {job.id: job.state for job in world.ended}
    for job in (ultra, queued):
        state = ended[job.id]
        assert isinstance(state, Failed)
        assert state.failure.is_a(ModelUnavailable)
        assert "imagen4-ultra" in state.failure.message
    assert isinstance(ended[plain.id], Done)
    assert world.plan.upstreams["wide"].breaker.stopped is None


def test_401_for_a_model_that_worked_stops_the_account() -> None:
    """A key that is refused for a model of which it got a task is no longer right."""
    world = answered_world(Limits(submit=Rate(10, per=1), running=10), jobs=1)
    world.look()
    world.answer(2, CREATED["wrong key"](""))
    assert isinstance(world.deliver()[0].state, NotAdmitted)
    assert is_stopped(world, AuthenticationError)


def test_no_credit_stops_the_account_whatever_worked_before() -> None:
    """An empty account is empty for every model."""
    world = answered_world(Limits(submit=Rate(10, per=1), running=10), jobs=1, model="imagen4-ultra")
    world.look()
    world.answer(2, CREATED["no credit"](""))
    assert is_stopped(world, InsufficientCredits)


def test_no_credit_under_401_stops_the_account_too() -> None:
    """A refusal that was read as: no credit, is no question of the model, even where its code is 401."""
    world = answered_world(Limits(submit=Rate(10, per=1), running=10), jobs=1, model="imagen4-ultra")
    world.look()
    world.answer(2, Rejected(failure(InsufficientCredits, "Insufficient balance", code=401), Remedy.STOP))
    assert is_stopped(world, InsufficientCredits)


@pytest.mark.parametrize(
    ("answer", "others"), [("accepted", 20), ("refused", 20), ("limited", 1), ("model gone", 20), ("lost", 1)]
)
def test_the_first_create_goes_alone(answer: str, others: int) -> None:
    """Until the account answered, one create is under way; then the others follow, but not after silence or 429."""
    world = World(make_upstream("wide", Limits(submit=Rate(20, per=10), running=100), connections=100))
    first = world.add(model="imagen4-ultra")
    for _ in range(30):
        world.add()
    assert [job.id for job in world.look()] == [first.id]
    world.sleep(world.now + 5.0)
    world.answer(first.id, CREATED[answer]("t"))
    world.now += 10.0
    creates = [job for job in world.look() if isinstance(job.state, Submitting)]
    assert len(creates) == others


def test_failed_first_contacts_stop_the_account() -> None:
    """An account that cannot be reached five times and never answered is set up wrong: it stops, nothing was sent."""
    world = World()
    for _ in range(10):
        world.add()
    for attempt in range(1, FIRST_CONTACT_TRIES + 1):
        world.look()
        assert len(world.talking) == 1
        assert world.plan.upstreams["wide"].breaker.stopped is None, attempt
        world.answer(next(iter(world.talking)), CREATED["not sent"](""))
        if attempt < FIRST_CONTACT_TRIES:
            world.look()
            world.sleep(world.plan.wake_at(world.now))
    assert FIRST_CONTACT_TRIES == 5
    ended = world.deliver()
    assert sorted(job.id for job in ended) == list(range(1, 11))
    for job in ended:
        assert isinstance(job.state, NotAdmitted)
        assert job.state.failure.is_a(TransportError)
        assert job.state.failure.was_sent is False
        assert "no route" in job.state.failure.message


UNREACHED = NoAnswer(failure(TransportError, "no route", was_sent=False))


def is_stopped(world: World, kind: type[ImagenError]) -> bool:
    """True where the account takes nothing more, for that reason."""
    stopped = world.plan.upstreams["wide"].breaker.stopped
    return stopped is not None and stopped.is_a(kind)


def test_a_server_that_is_never_reached_is_given_up_for_a_task_to_be_collected() -> None:
    """Five status calls in vain, before anything was answered, end a collected task with its task id."""
    world = World()
    world.add(expires_at=900.0, state=Collected("old", since=0.0))
    for attempt in range(1, FIRST_CONTACT_TRIES + 1):
        world.look()
        assert world.deliver() == [], attempt
        world.answer(1, UNREACHED)
        if attempt < FIRST_CONTACT_TRIES:
            world.look()
            world.sleep(world.plan.wake_at(world.now))
    (job,) = world.deliver()
    assert isinstance(job.state, Failed)
    assert job.state.failure.is_a(TransportError)
    assert job.state.failure.was_sent is False
    assert job.task_id == "old"


@pytest.mark.parametrize("error", [failure(TransportError), failure(RateLimited)], ids=["reset", "429"])
def test_status_calls_that_reached_a_server_are_never_given_up(error: Failure) -> None:
    """Status calls that were sent and failed, however many, leave a collected task running until its deadline."""
    world = World()
    world.add(expires_at=900.0, state=Collected("old", since=0.0))
    for _ in range(4 * FIRST_CONTACT_TRIES):
        world.look()
        world.answer(1, NoAnswer(error))
        world.look()
        world.sleep(world.plan.wake_at(world.now))
    assert len(world.plan) == 1


def test_a_server_that_answered_is_not_given_up() -> None:
    """Once the server answered about any task, connections that fail are waited out until the deadline."""
    world = World()
    world.add(expires_at=900.0, state=Collected("old", since=0.0))
    world.look()
    world.answer(1, Pending("waiting"))
    for _ in range(4 * FIRST_CONTACT_TRIES):
        world.look()
        world.sleep(world.plan.wake_at(world.now))
        world.answer(1, UNREACHED)
    assert len(world.plan) == 1


def test_failed_connections_do_not_stop_an_account_that_answered() -> None:
    """Once an account answered, failed connections are an outage that is waited out until the deadline."""
    world = answered_world(LIMITS["wide"], jobs=1)
    world.look()
    for _ in range(4 * FIRST_CONTACT_TRIES):
        world.answer(2, CREATED["not sent"](""))
        world.look()
        world.sleep(world.plan.wake_at(world.now))
    assert world.plan.upstreams["wide"].breaker.stopped is None
    world.drain()
    assert isinstance(world.ended[-1].state, Done)


def test_no_more_is_wanted_for_an_account_that_stopped() -> None:
    """What waits for the others decides; when none is left, nothing is wanted and the plan is closed."""
    world = World()
    for _ in range(3):
        world.add("wide")
    assert world.wants_more(1), "of the narrow one"
    world.plan.upstreams["narrow"].breaker.stopped = failure(InsufficientCredits, "empty")
    assert not world.wants_more(1)
    assert world.plan.upstreams.take_creates
    world.look()
    assert world.wants_more(1)
    world.answer(1, CREATED["no credit"](""))
    assert not world.wants_more(1)
    assert not world.plan.upstreams.take_creates


# --------------------------------------------------------------------------------------- how an account fares


LANE_LIMITS = st.builds(
    Limits,
    submit=st.builds(Rate, st.integers(1, 200), per=st.just(10), guess=st.booleans()),
    running=st.integers(1, 200),
)


@given(limits=LANE_LIMITS, sent=st.integers(0, 50), running=st.integers(0, 50))
def test_the_load_is_the_part_that_is_used_of_whatever_is_scarcer(limits: Limits, sent: int, running: int) -> None:
    """An account is as full as its window, or its places for tasks, whichever is fuller; an idle one is empty."""
    upstream = make_upstream("wide", limits)
    assert upstream.load(0.0) == 0
    sent, running = min(sent, limits.submit.count), min(running, limits.running)
    for _ in range(sent):
        upstream.take_submit(0.0)
    upstream.running = running
    assert upstream.load(0.0) == max(sent / limits.submit.count, running / limits.running)
    for _ in range(sent):
        upstream.settle_submit(SendAborted(), "imagen4", 1.0)
    upstream.running = 0
    assert (upstream.load(11.0), upstream.health(11.0).running) == (0, 0)


@given(limits=LANE_LIMITS, halvings=st.integers(0, 3))
def test_what_is_allowed_and_wanted_follows_the_limit_as_it_is_now(limits: Limits, halvings: int) -> None:
    """After 429s less is allowed in a window, and less is to wait for it; the other limits are as they were set."""
    upstream = make_upstream("wide", limits)
    count = limits.submit.count
    for number in range(halvings):
        upstream.take_submit(100.0 * number)
        upstream.settle_submit(Rejected(failure(RateLimited, "429"), Remedy.BACK_OFF), "imagen4", 100.0 * number)
        upstream.take_submit(100.0 * number + 20)
        upstream.settle_submit(Accepted("t"), "imagen4", 100.0 * number + 15)
        count = max(1, count // 2)
    assert upstream.allowed == Limits(Rate(count, per=10, guess=limits.submit.guess), limits.status, limits.running)
    assert upstream.at_a_look == min(count, limits.running, 100)
    assert upstream.health(1000.0).limit == upstream.allowed.submit


def test_an_account_says_why_it_takes_nothing_for_a_model() -> None:
    """A closed model is refused with its own error, every model once the account stopped; each names the account."""
    world = answered_world(WIDE, connections=100)
    upstream = world.plan.upstreams["wide"]
    assert [upstream.breaker.refusal(name) for name in MODELS] == [None] * len(MODELS)
    first, second = world.add(model="imagen4-ultra"), world.add()
    world.look()
    world.answer(first.id, CREATED["model gone"](""))
    closed = upstream.breaker.refusal("imagen4-ultra")
    assert closed is not None
    assert closed.is_a(ModelUnavailable)
    assert closed.account == "wide"
    assert upstream.breaker.refusal("imagen4") is None
    world.answer(second.id, CREATED["no credit"](""))
    for name in MODELS:
        refusal = upstream.breaker.refusal(name)
        assert refusal is not None
        assert refusal.is_a(InsufficientCredits)
        assert refusal.account == "wide"


@pytest.mark.parametrize("setback", ["not sent", "maintenance", "lost"])
@pytest.mark.parametrize("answer", ["accepted", "refused"])
def test_an_account_is_paused_from_a_setback_to_the_next_answer(setback: str, answer: str) -> None:
    """A failed connection, maintenance or the third lost answer pauses it, and a 429 in between ends no pause."""
    world = troubled_world(jobs=40)
    upstream = world.plan.upstreams["wide"]
    volley = world.look()
    for number, job in enumerate(volley):
        assert upstream.breaker.is_paused == (number >= (LOST_IN_A_ROW if setback == "lost" else 1))
        world.answer(job.id, CREATED[setback](""))
    error = world.plan.upstreams["wide"].health(world.now).error
    assert isinstance(error, TransportError)
    assert error.provider == "wide"
    assert upstream.health(world.now).state == "paused"
    for probe in ("limited", answer):
        while not world.creating():
            world.look()
            if not world.creating():
                world.sleep(world.plan.wake_at(world.now))
        assert upstream.breaker.is_paused
        (job_id,) = world.creating()
        world.answer(job_id, CREATED[probe]("t"))
        assert upstream.submit.limit == 20, "a 429 to a probe tells nothing of the rate"
    assert not upstream.breaker.is_paused


def pause_after_a_429(world: World, retry_after: float | None = None) -> float:
    """Refuse the only create that is on the way for the rate; returns the seconds until the next one goes."""
    (job_id,) = world.creating()
    world.answer(job_id, Rejected(failure(RateLimited, "slow down", code=429), Remedy.BACK_OFF, retry_after))
    before = world.now
    while not world.creating():
        world.look()
        if not world.creating():
            world.sleep(world.plan.wake_at(world.now))
    return world.now - before


def test_a_429_again_before_anything_was_taken_pauses_the_account() -> None:
    """No rate explains it, so the limit is cut once only, and single creates try, a window or ever longer apart."""
    world = troubled_world(jobs=60, deadline=1e6)
    upstream = world.plan.upstreams["wide"]
    for job in world.look():
        world.answer(job.id, CREATED["limited"](""))
    assert (upstream.submit.limit, upstream.health(world.now).state) == (10, "limited")
    start = world.now
    world.sleep(world.plan.wake_at(world.now))
    assert world.now - start == 10.0
    assert [pause_after_a_429(world) for _ in range(7)] == [10, 10, 10, 10, 16, 32, 60]
    assert (upstream.breaker.is_paused, upstream.health(world.now).state) == (True, "paused")
    assert upstream.submit.limit == 10, "it is not cut again, and no refused probe gives a place back"
    assert isinstance(upstream.health(world.now).error, RateLimited)
    assert pause_after_a_429(world, retry_after=500.0) == 500.0
    (probe,) = world.creating()
    world.answer(probe, Accepted("t"))
    assert (upstream.breaker.is_paused, upstream.health(world.now).state) == (False, "limited")
    assert isinstance(upstream.health(world.now).error, RateLimited)
    world.look()
    assert len(world.creating()) == upstream.submit.limit - 1, "the whole window, of which the probe is one"


def test_a_429_after_something_was_taken_cuts_the_limit_again() -> None:
    """While creates are taken between the 429s, each of them halves the limit, and none pauses the account."""
    world = troubled_world(jobs=60, deadline=1e6)
    upstream = world.plan.upstreams["wide"]
    limits = []
    for _ in range(4):
        world.look()
        first = world.creating()[0]
        world.answer(first, Accepted("t"))
        world.look()
        *_, last = world.creating()
        world.answer(last, CREATED["limited"](""))
        for job_id in world.creating():
            world.answer(job_id, CREATED["refused"](""))
        limits.append(upstream.submit.limit)
        assert not upstream.breaker.is_paused
        world.now += 10.0
    assert limits == [10, 5, 2, 1]


# ------------------------------------------------------------------------------------- answers that are lost

WIDE = Limits(submit=Rate(20, per=10), status=Rate(100, per=1), running=100)


def doubling(setbacks: int, longest: float) -> float:
    return float(min(longest, 2.0**setbacks))


def troubled_world(jobs: int, **place: Any) -> World:
    """A world whose account is known to work and doubles its pauses, with these jobs waiting."""
    world = World(make_upstream("wide", WIDE, connections=100, delay=doubling))
    world.add()
    world.look()
    world.answer(1, Accepted("t0"))
    world.drain()
    world.now += 1000.0
    for _ in range(jobs):
        world.add(**place)
    return world


def pause_after_losing_one(world: World) -> float:
    """Lose the only create that is on the way; returns the seconds until the next one goes."""
    (job_id,) = world.creating()
    world.answer(job_id, CREATED["lost"](""))
    before = world.now
    while not world.creating():
        world.look()
        if not world.creating():
            world.sleep(world.plan.wake_at(world.now))
    return world.now - before


@pytest.mark.parametrize("lost", [1, 2])
def test_one_or_two_lost_answers_change_nothing(lost: int) -> None:
    """Fewer than three lost answers in a row leave the other creates under way, and the next go at once and many."""
    world = troubled_world(jobs=60)
    volley = world.look()
    assert len(volley) == 20
    for job in volley[:lost]:
        world.answer(job.id, CREATED["lost"](""))
    for job in volley[lost:]:
        world.answer(job.id, CREATED["refused"](""))
    assert world.plan.wake_at(world.now) == world.now + 10.0
    world.sleep(world.now + 10.0)
    assert len(world.creating()) == 20


def test_a_volley_of_lost_answers_pauses_the_account_once() -> None:
    """Twenty answers that are lost together make the pause of one setback, and then a single create tries."""
    world = troubled_world(jobs=60)
    for job in world.look():
        world.answer(job.id, CREATED["lost"](""))
    assert world.look() == []
    world.sleep(world.now + 10.0)
    assert len(world.creating()) == 1
    assert pause_after_losing_one(world) == 2.0


def test_after_three_lost_answers_creates_go_one_at_a_time_and_further_apart() -> None:
    """From the third lost answer in a row on one create is under way, and the pauses double up to 900 s."""
    assert (LOST_IN_A_ROW, LONGEST_PAUSE_AFTER_LOST) == (3, 900.0)
    world = World(make_upstream("wide", Limits(submit=Rate(100, per=0.125)), connections=100, delay=doubling))
    for _ in range(40):
        world.add()
    world.look()
    pauses = [pause_after_losing_one(world) for _ in range(15)]
    assert pauses == [0.0, 0.0, *[2.0**n for n in range(10)], 900.0, 900.0, 900.0]


@pytest.mark.parametrize("answer", ["accepted", "refused", "silent", "limited", "maintenance"])
def test_any_answer_ends_the_row_of_lost_ones(answer: str) -> None:
    """Two lost answers, one that arrived, and two lost again are no row of three; a fifth one makes it one."""
    asked: list[float] = []
    world = World(make_upstream("wide", WIDE, connections=100, delay=lambda n, longest: asked.append(longest) or 1.0))
    for _ in range(7):
        world.add(model="imagen4-ultra")
    world.look()
    world.answer(1, CREATED["refused"](""))
    world.look()
    for job_id, name in zip(range(2, 7), ["lost", "lost", answer, "lost", "lost"], strict=True):
        world.answer(job_id, CREATED[name]("t"))
    assert LONGEST_PAUSE_AFTER_LOST not in asked
    world.now += 2.0
    world.answer(7, CREATED["lost"](""))
    assert asked[-1] == LONGEST_PAUSE_AFTER_LOST


@pytest.mark.parametrize("answer", ["accepted", "refused"])
def test_an_answer_after_the_outage_lets_all_go_again(answer: str) -> None:
    """The first create that is answered ends the one-at-a-time, and the next pause is short again."""
    world = troubled_world(jobs=80)
    for job in world.look():
        world.answer(job.id, CREATED["lost"](""))
    world.sleep(world.now + 10.0)
    assert pause_after_losing_one(world) == 2.0
    assert pause_after_losing_one(world) == 4.0
    (job_id,) = world.creating()
    world.answer(job_id, CREATED[answer]("t"))
    world.sleep(world.now + 20.0)
    again = world.creating()
    assert len(again) >= 19
    for number in again:
        world.answer(number, CREATED["lost"](""))
    world.sleep(world.now + 10.0)
    assert pause_after_losing_one(world) == 2.0


@pytest.mark.parametrize("hours", [1, 8, 48])
def test_a_long_outage_costs_few_unknown_outcomes(hours: int) -> None:
    """While every answer is lost there are one volley of unknowns, ten more, and four more for each hour."""
    world = troubled_world(jobs=400)
    until = world.now + hours * 3600.0
    while world.now < until:
        world.look()
        if world.creating():
            world.now += 30.0
            for job_id in world.creating():
                world.answer(job_id, CREATED["lost"](""))
        else:
            world.sleep(world.plan.wake_at(world.now))
    unknown = sum(isinstance(job.state, Unknown) for job in world.ended)
    assert 4 * hours - 1 <= unknown <= 20 + 11 + 4 * hours


def test_connections_that_fail_are_tried_more_often_than_lost_answers() -> None:
    """A try that cannot reach the server costs nothing, so its pauses are asked for up to 60 s, not up to 900 s."""
    asked: list[float] = []

    def delay(setbacks: int, longest: float) -> float:
        asked.append(longest)
        return 1.0

    for answer in ("not sent", "maintenance", "lost"):
        world = World(make_upstream("wide", Limits(submit=Rate(100, per=0.125)), connections=100, delay=delay))
        for _ in range(4):
            world.add()
        for _ in range(3):
            world.look()
            world.now += 2.0
            world.look()
            world.answer(world.creating()[0], CREATED[answer](""))
    assert asked == [60.0] * 6 + [900.0]


def test_a_lost_create_is_sent_again_once_where_that_was_asked_for() -> None:
    """With resubmits=1 a lost create goes again, before newer ones, and the second loss ends the job as unknown."""
    world = answered_world(Limits(submit=Rate(1, per=1), running=10), jobs=2, resubmits=1)
    world.look()
    world.answer(2, CREATED["lost"](""))
    world.sleep(world.plan.wake_at(world.now))
    assert list(world.talking) == [2]
    world.answer(2, CREATED["lost"](""))
    (job,) = world.deliver()
    assert isinstance(job.state, Unknown)
    assert (job.attempts, job.lost, job.resubmits, job.state.failure.credits) == (2, 2, 0, 16)
    world.drain()
    assert world.creates[2] == 2


def end_while_waiting(world: World, how: str) -> None:
    """End job 2 in this way, which waits to be sent again, or comes to be on the way again; job 3 is on the way."""
    if how in CREATED:
        world.answer(3, CREATED[how](""))
        return
    if how in ("not noted", "stopped after a 429"):
        world.is_noting = how == "not noted"
        world.sleep(world.plan.wake_at(world.now))
        world.answer(2, UNSENT[how] if world.is_noting else CREATED["limited"](""))
    if how in ("stopped", "stopped after a 429"):
        world.withhold(1)
    elif how == "left":
        world.leave(1)
    elif how == "expired":
        world.sleep(world.now + 50.0)


ENDS = ["expired", "left", "stopped", "stopped after a 429", "not noted", "no credit", "wrong key", "model gone"]


@pytest.mark.parametrize("how", ENDS)
def test_a_job_that_waits_to_be_sent_again_ends_unknown(how: str) -> None:
    """However a job ends that waits for its second sending, its first create may be billed, and its end says so."""
    limits = Limits(submit=Rate(2, per=20), running=10)
    world = answered_world(limits, jobs=2, resubmits=1, deadline=50.0, model="imagen4-ultra")
    world.look()
    world.answer(2, CREATED["lost"](""))
    end_while_waiting(world, how)
    world.deliver()
    (ended,) = [job for job in world.ended if job.id == 2]
    assert isinstance(ended.state, Unknown)
    assert "may have made a task" in ended.state.failure.message
    assert "nothing was billed" not in ended.state.failure.message


# --------------------------------------------------------------------------- pictures that are to be fetched


def test_a_finished_job_that_comes_in_is_fetched_and_nothing_else() -> None:
    """A job that comes in ready is handed out for saving at once, without a create or a status call."""
    world = World()
    job = world.add(expires_at=900.0, state=Fetching("t1", SUCCESS), save_to="out")
    assert world.look() == [job]
    world.answer(job.id, Saved(()))
    assert world.deliver() == [job.to(Done("t1", SUCCESS))]
    assert (world.creates, world.trips["wide", "status"], len(world.plan)) == ({}, [], 0)
    assert world.plan.wake_at(world.now) == math.inf


def test_a_job_that_comes_in_ready_does_not_expire() -> None:
    """A picture that waits for a place to be saved is fetched, however late: it is paid for."""
    world = World()
    for _ in range(SAVING_AT_ONCE + 1):
        world.add(expires_at=5.0, state=Fetching("t1", SUCCESS), save_to="out")
    assert len(world.look()) == SAVING_AT_ONCE
    world.sleep(1000.0)
    assert world.ended == []
    world.drain()
    assert [type(job.state) for job in world.ended] == [Done] * (SAVING_AT_ONCE + 1)


def test_a_done_job_that_comes_in_is_delivered() -> None:
    """A job that comes in done ends at once, and nothing is handed out for it, not even on a stopped account."""
    world = World()
    world.plan.upstreams["wide"].breaker.stopped = failure(AuthenticationError, "no")
    job = world.add(expires_at=900.0, state=Done("t1", SUCCESS))
    assert world.deliver() == [job]
    assert (world.look(), len(world.plan), world.plan.wake_at(0.0)) == ([], 0, math.inf)
    assert world.plan.upstreams["wide"].running == 0


def fetched(world: World, event: Event) -> Job | None:
    """Hand out job 1 for saving, and settle that."""
    world.look()
    if not world.talking:
        world.sleep(world.plan.wake_at(world.now))
    assert isinstance(world.talking[1][0].state, Fetching)
    return world.answer(1, event)


def test_dead_links_are_asked_for_again_then_renewed_then_the_picture_is_gone() -> None:
    """A dead link costs a status call, then a call for new links, then the job fails; never a new create."""
    world = World()
    world.add(expires_at=900.0, state=Fetching("t1", SUCCESS), save_to="out", retries=3, resubmits=1)
    asking = fetched(world, GONE)
    assert asking is not None
    assert asking.state == Relinking("t1", since=0.0, outcome=SUCCESS)
    assert world.plan.upstreams["wide"].running == 1
    assert [job.id for job in world.look()] == [1], "it ended long ago: nothing is gained by waiting"
    again = world.answer(1, SUCCESS)
    assert again is not None
    assert again.state == Fetching("t1", SUCCESS, Links.ASKED_AGAIN)
    renewing = fetched(world, GONE)
    assert renewing is not None
    assert renewing.state == Fetching("t1", SUCCESS, Links.RENEWED)
    fetched(world, GONE)
    (job,) = world.deliver()
    assert isinstance(job.state, Failed)
    assert (job.task_id, job.state.outcome, world.creates) == ("t1", SUCCESS, {})
    assert (len(world.plan), world.plan.wake_at(world.now)) == (0, math.inf)


def test_dead_links_are_asked_for_at_once_and_then_by_the_schedule() -> None:
    """A provider that gives no answer about a picture whose links died is not asked again and again at once."""
    world = World()
    world.add(expires_at=900.0, state=Fetching("t1", SUCCESS), save_to="out")
    fetched(world, GONE)
    asked = []
    for _ in range(4):
        if not world.look():
            world.sleep(world.plan.wake_at(world.now))
        asked.append(world.now)
        world.answer(1, ASKED["unreadable"](""))
    assert asked == [0.0, 1.0, 2.0, 3.0]


# ------------------------------------------------------------------------------------------- withholding


@LONG
@given(script=SCRIPTS)
def test_nothing_is_created_for_an_owner_who_is_withheld(script: list[tuple[Any, ...]]) -> None:
    """From the instant that an owner is withheld no create of its jobs is handed out, and all that runs still ends."""
    world = played(script)
    under_way = set(world.creating())
    for owner in (1, 2, 3):
        world.withhold(owner)
    assert not [job for job in world.plan.jobs if isinstance(job.state, Queued)]
    before = world.creates.copy()
    world.drain()
    assert world.creates == before
    ended = {job.id: job for job in world.ended}
    for job_id in under_way:
        assert not isinstance(ended[job_id].state, NotAdmitted)


def test_withholding_ends_what_is_queued_and_lets_the_rest_go_on() -> None:
    """What waits to be sent is left at once; what is on the way, runs or is saved comes to its own end."""
    world = answered_world(Limits(submit=Rate(1, per=100), status=Rate(100, per=1)))
    running = world.add(expires_at=9e9, state=Running("r", since=world.now))
    saving = world.add(expires_at=9e9, state=Fetching("s", SUCCESS), save_to="out")
    sent, queued = world.add(), world.add()
    other = world.add(owner=2)
    world.look()
    world.withhold(1)
    assert {job.id: job.state for job in world.deliver()} == {queued.id: Left(Queued())}
    world.drain()
    ends = {job.id: type(job.state) for job in world.ended[2:]}
    assert ends == {running.id: Done, saving.id: Done, sent.id: Done, other.id: Done}
    late = world.add()
    assert [(job.id, job.state) for job in world.deliver()] == [(late.id, Left(Queued()))]


@pytest.mark.parametrize("answer", FREE_TO_REPEAT)
def test_a_create_on_the_way_is_not_sent_again_for_an_owner_who_is_withheld(answer: str) -> None:
    """A 429, a 455 or a failed connection of a create on the way ends its job as left, without a second create."""
    world = answered_world(LIMITS["wide"], jobs=1, retries=1)
    world.look()
    world.withhold(1)
    world.answer(2, CREATED[answer](""))
    (job,) = world.deliver()
    assert isinstance(job.state, Left)
    assert isinstance(job.state.was, Queued)
    assert (job.task_id, world.creates[2], len(world.plan)) == (None, 1, 0)
    assert world.plan.take(world.now + 1e6) == []


def test_a_failed_generation_is_not_retried_for_an_owner_who_is_withheld() -> None:
    """A task that fails while its owner is withheld fails the job, with its own error, instead of a new task."""
    world = answered_world(LIMITS["wide"], jobs=1, retries=1)
    world.look()
    world.answer(2, Accepted("t2"))
    world.withhold(1)
    world.look()
    world.sleep(world.plan.wake_at(world.now))
    world.answer(2, ASKED["broken"](""))
    (job,) = world.deliver()
    assert isinstance(job.state, Failed)
    assert job.state.failure.is_a(GenerationFailed)
    assert (job.task_id, world.creates[2]) == ("t2", 1)


# ------------------------------------------------------------------------------------- until a create leaves


def noting_world(jobs: int, **place: Any) -> World:
    """A world whose account is known to work, and where the intents of these jobs are being noted."""
    world = answered_world(LIMITS["wide"], jobs=jobs, **place)
    world.is_noting = True
    assert len(world.look()) == jobs
    return world


def is_at_rest(world: World) -> bool:
    """True where nothing is left to be done, and every place was given back."""
    upstream = world.plan.upstreams["wide"]
    return len(world.plan) == upstream.running == upstream.submit.taken(world.now + 1000.0) == 0


@pytest.mark.parametrize("end", ["withhold", "leave", "abandon"])
def test_a_create_that_has_not_left_when_its_owner_goes_was_never_sent(end: str) -> None:
    """Its job is left at once, as queued; its turn may leave no more, and only gives its place back."""
    world = noting_world(jobs=1)
    other = world.add(owner=2)
    world.look()
    getattr(world, end)(1)
    (job,) = world.deliver()
    assert (job.id, job.state, job.attempts, job.lost) == (2, Left(Queued()), 0, 0)
    world.settle_stale()
    world.drain()
    assert [type(job.state) for job in world.ended if job.id == other.id] == [Done]
    assert world.creates[2] == 0
    assert is_at_rest(world)


def test_a_turn_may_not_leave_once_its_job_has_another_one() -> None:
    """A turn that a callback has called off stays so, whatever comes of it: a later turn's create leaves, and alone."""
    world = World(make_upstream(), expects_callbacks=True)
    world.add(resubmits=1, retries=1)
    world.look()
    world.answer(1, CREATED["lost"](""))
    world.is_noting = True
    world.look()
    first, _ = world.talking[1]
    world.plan.on_callback(1, 1, "t1-1", world.now)
    assert not world.plan.leaves(first, world.now), "a callback has claimed the job"
    world.look()
    world.answer(1, ASKED["broken"](""))
    world.look()
    second, _ = world.talking[1]
    assert (second.attempts, first.attempts) == (2, 2)
    world.settle_stale()
    assert world.send(second)
    world.drain()
    assert [type(job.state) for job in world.ended] == [Done]
    assert world.creates[1] == 2
    assert is_at_rest(world)


def test_a_create_whose_intent_cannot_be_noted_is_unsent() -> None:
    """A journal that cannot be written ends the job as unsent, with that error, and the others go on."""
    world = noting_world(jobs=2)
    world.answer(2, UNSENT["not noted"])
    (job,) = world.deliver()
    assert isinstance(job.state, NotAdmitted)
    assert job.state.failure.is_a(JournalError)
    assert (job.attempts, job.state.failure.account) == (0, "wide")
    assert world.plan.upstreams["wide"].breaker.stopped is None
    world.drain()
    assert [type(job.state) for job in world.ended] == [Done, NotAdmitted, Done]


def test_a_create_that_cannot_be_written_fails_its_job_and_nothing_else() -> None:
    """What stands in one request says nothing of the account: it is no setback, and the others go on at once."""
    world = noting_world(jobs=2)
    world.answer(2, UNSENT["unsendable"])
    (job,) = world.deliver()
    assert isinstance(job.state, Failed)
    assert job.state.failure.is_a(InvalidRequest)
    assert (job.attempts, job.state.failure.account, world.creates[2]) == (0, "wide", 0)
    breaker = world.plan.upstreams["wide"].breaker
    assert (breaker.trouble, breaker.is_trusted, breaker.closures) == (None, True, (False, 0))
    world.drain()
    assert [type(job.state) for job in world.ended] == [Done, Failed, Done]
    assert is_at_rest(world)


@pytest.mark.parametrize("end", ["withhold", "leave", "abandon", *UNSENT])
def test_what_was_reserved_for_a_create_that_did_not_leave_is_released(end: str) -> None:
    """A job that ends while its intent is being noted has cost nothing, however it ends."""
    world, budget = World(make_upstream()), Budget(20)
    world.plan.open(1, budget=budget)
    world.is_noting = True
    world.add()
    world.look()
    assert (budget.spent, budget.reserved) == (0, 8)
    if end in UNSENT:
        world.answer(1, UNSENT[end])
    else:
        getattr(world, end)(1)
    assert len(world.deliver()) == 1
    assert (budget.spent, budget.reserved) == (0, 0)
