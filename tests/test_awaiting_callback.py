"""Jobs whose create's answer was lost and of which a callback may tell: whatever comes, nothing is paid for twice."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import plan_world
import pytest
from builders import failure, upstream
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plan_world import ASKED, CREATED, FETCHED, FREE_TO_REPEAT, SUCCESS, UNSENT, EverySecond, World

from imagen_async._core.budget import Budget
from imagen_async._core.failure import Failure
from imagen_async._core.job import Job
from imagen_async._core.job_events import Event
from imagen_async._core.latency import LatencyPrior
from imagen_async._core.provider import Limits
from imagen_async._core.rate_limit import Rate
from imagen_async._core.states import (
    AwaitingCallback,
    BeingAsked,
    Claim,
    Claimed,
    Confirming,
    Done,
    Ended,
    Failed,
    Fetching,
    NotAdmitted,
    Noting,
    Orphaned,
    Queued,
    Running,
    Sending,
    Submitting,
    Unknown,
)
from imagen_async._core.transitions import PATIENCE
from imagen_async._core.upstream import CALLBACK_WAIT_AT_LEAST, Upstream
from imagen_async._core.wire import Accepted, Created, Lost, Pending, Succeeded, TaskFailed
from imagen_async.errors import DeadlineExceeded, GenerationFailed, TransportError, UnknownOutcome

ROOMY = Limits(submit=Rate(100, per=1), status=Rate(100, per=1), running=100)
SMALL = Limits(submit=Rate(3, per=2), status=Rate(4, per=1), running=5)
PRICE = 8.0
LOST = CREATED["lost"]("")
DENIED, BROKEN, PENDING, UNREADABLE = (ASKED[name]("") for name in ("denied", "broken", "pending", "unreadable"))
ANSWERS = [name for name in CREATED if name != "accepted"]
"""What may come of a create beside a task."""


class Hearing(World):
    """A world with callbacks: which create was lost, what was told of it, and what the provider itself has said."""

    def __init__(self, limits: Limits = ROOMY, *, expects_callbacks: bool = True) -> None:
        # A schedule of its own: how long a callback is waited for follows from what it learns.
        schedule = EverySecond(LatencyPrior(median=5, sigma=0.5))
        account = upstream("wide", limits, schedule, 12, lambda setbacks, longest: 1.0)
        super().__init__(account, expects_callbacks=expects_callbacks)
        self.lost: dict[int, set[int]] = defaultdict(set)
        self.named: dict[int, set[str]] = defaultdict(set)
        self.believed: dict[int, set[str]] = defaultdict(set)
        self.stopped_at: dict[int, int] = {}
        self.costs: dict[int, dict[int, float]] = defaultdict(dict)

    @property
    def upstream(self) -> Upstream:
        return self.plan.upstreams["wide"]

    def look(self) -> list[Job]:
        """Hand out what may talk, and check what holds of every live job."""
        taken = super().look()
        for job in self.plan.jobs:
            self.check(job)
        return taken

    def send(self, job: Job) -> bool:
        """Let a create leave, if it may; not one that a callback has stopped."""
        if not super().send(job):
            return False
        assert job.retried > self.stopped_at.get(job.id, -1), "a callback has named a task, and it is sent again"
        self.costs[job.id][job.attempts] = PRICE
        return True

    def check(self, job: Job) -> None:
        """What holds of every live job at any time."""
        assert job.lost == len(job.lost_creates) == len(set(job.lost_creates))
        assert set(job.lost_creates) <= self.lost[job.id]
        if isinstance(job.state, Confirming):
            assert job.state.task_id in self.named[job.id]
        if isinstance(job.state, AwaitingCallback | Confirming):
            assert job.expires_at is not None
            assert job.state.until <= job.expires_at or self.named[job.id], "waits beyond its deadline for nothing"
            assert job.lost
        elif job.task_id is not None:
            assert job.task_id in self.believed[job.id], "a callback was believed by itself"

    def hear(self, job: Job, create: int | None = None, task_id: str | None = "") -> Job | None:
        """Let a callback come; without more, the true one about the last create."""
        live = self.plan.find(job.id)
        create = (live or job).attempts if create is None else create
        task_id = f"t{job.id}-{create}" if task_id == "" else task_id
        if live is not None and task_id is not None and self.is_told_by(live, create):
            self.stopped_at[job.id] = live.retried
            self.named[job.id].add(task_id)
        return self.plan.on_callback(job.id, create, task_id, self.now, "wide")

    def is_told_by(self, job: Job, create: int) -> bool:
        """True where a callback about that create is news of a job."""
        match job.state:
            case Sending() | Orphaned(claim=None):
                return create in (job.attempts, *job.lost_creates)
            case Queued() | Noting() | AwaitingCallback():
                return create in job.lost_creates
        return False

    def claimed(self, job_id: int) -> Claim | None:
        """What a callback has told of a job whose create is on the way."""
        live = self.plan.find(job_id)
        return live.state.claim if live is not None and isinstance(live.state, Claimed | Orphaned) else None

    def is_leave(self, job_id: int) -> bool:
        """Not where a callback has named a task."""
        return self.claimed(job_id) is None

    def answer(self, job_id: int, event: Event) -> Job | None:
        """Settle a job that talks, and note what is known from then on."""
        was = self.talking[job_id][0]
        live = self.plan.find(job_id)
        if isinstance(event, Created):
            claim = self.claimed(job_id)
            if isinstance(event, Accepted):
                self.believed[job_id].add(event.task_id)
            elif isinstance(event, Lost) or (claim is not None and claim.create == was.attempts):
                self.lost[job_id].add(was.attempts)
            else:
                self.costs[job_id][was.attempts] = 0.0
        elif live is not None and isinstance(was.state, Confirming) and isinstance(event, KNOWN):
            self.believed[job_id].add(was.state.task_id)
        if isinstance(event, Succeeded | TaskFailed):
            number = was.lost_creates[-1] if isinstance(was.state, Confirming) else self._number(was)
            # What an earlier run has lost is in the budget before its first create.
            if event.credits is not None and number in self.costs[job_id]:
                self.costs[job_id][number] = event.credits
        return super().answer(job_id, event)

    def _number(self, job: Job) -> int:
        """Which create has made a running job's task."""
        assert isinstance(job.state, Running)
        return int(job.state.task_id.rpartition("-")[2]) if "-" in job.state.task_id else 0

    def take_up(self, *, told: bool, **place: Any) -> Job:
        """Take in a lost job of an earlier run, whose first create was lost, and of which a callback may have told."""
        number = len(self.added) + 1
        task_id = f"t{number}-1"
        self.lost[number].add(1)
        self.creates[number] = 1
        unknown, since, until = failure(UnknownOutcome, "lost", credits=PRICE), self.now, self.now + 40.0
        state: AwaitingCallback | Confirming = AwaitingCallback(unknown, since, until)
        if told:
            self.named[number].add(task_id)
            self.stopped_at[number] = 0
            state = Confirming(unknown, since, until, task_id)
        return self.add(
            "wide", attempts=1, lost=1, lost_creates=(1,), expires_at=self.now + 900.0, state=state, **place
        )

    def may_have_cost(self, job_ids: list[int]) -> float:
        """Credits that some jobs' creates have cost at most, as far as anybody can tell."""
        return sum(sum(self.costs[job_id].values()) for job_id in job_ids)


KNOWN = Pending | Succeeded | TaskFailed
"""What the provider says of a task that it knows."""


def sent(world: Hearing, **place: Any) -> Job:
    """A job whose create is on its way."""
    job = world.add("wide", **place)
    (taken,) = world.look()
    assert taken.id == job.id
    return taken


def lost(world: Hearing, **place: Any) -> Job:
    """A job whose first create's answer was lost."""
    settled = world.answer(sent(world, **place).id, LOST)
    assert settled is not None
    world.look()
    return settled


def live(world: Hearing, job: Job) -> Job:
    """The job as it is now."""
    found = world.plan.find(job.id)
    assert found is not None
    return found


def end_of(world: Hearing, job: Job) -> Job:
    """The job as it ended."""
    world.deliver()
    (ended,) = [each for each in world.ended if each.id == job.id]
    return ended


def failure_of(job: Job) -> Failure:
    """What a job ended with."""
    assert isinstance(job.state, Unknown | Failed | NotAdmitted)
    return job.state.failure


def asked(world: Hearing) -> list[int]:
    """Look, and say who is asked about."""
    return [job.id for job in world.look() if isinstance(job.state, BeingAsked)]


def is_at_rest(world: Hearing) -> bool:
    """True where nothing is left to be done, and every place was given back."""
    upstream = world.upstream
    counters = (len(world.plan), upstream.running, upstream._asking, upstream._creating, len(upstream.poll_queue))
    return counters == (0, 0, 0, 0, 0) and world.plan.wake_at(world.now) == math.inf


# ------------------------------------------------------------------------------------------------------ any script

CALL = st.tuples(
    st.just("call"),
    st.integers(0, 9),
    st.sampled_from(["last", "last", "last", "first", "before", "next", "none at all"]),
    st.sampled_from(["its own", "its own", "its own", "its own", "another", None]),
)
ANSWER = st.tuples(
    st.just("answer"),
    st.integers(0, 9),
    st.sampled_from(["accepted"] * 6 + ["lost"] * 12 + [*FREE_TO_REPEAT, "refused", "silent"] + list(CREATED)),
    st.sampled_from(["succeeded"] * 10 + ["pending", "broken", "denied"] * 2 + list(ASKED)),
    st.sampled_from(list(FETCHED)),
)
ADD = st.builds(
    lambda jobs, **place: ("add", jobs, place),
    jobs=st.integers(1, 3),
    owner=st.integers(1, 3),
    retries=st.integers(0, 1),
    resubmits=st.integers(0, 1),
    deadline=st.sampled_from([900.0, 900.0, 20.0, 4.0]),
    save_to=st.sampled_from(["out", None]),
)
LOSE = st.tuples(st.just("lose"), st.integers(0, 9), st.booleans())
TAKE_UP = st.builds(
    lambda told, **place: ("take up", told, place),
    told=st.booleans(),
    owner=st.integers(1, 3),
    retries=st.integers(0, 1),
)
GO = st.just(("wake",)) | st.tuples(st.just("wait"), st.sampled_from([0.125, 1.0, 2.5, 31.0]))
LEAVE = st.tuples(st.sampled_from(["leave", "abandon", "withhold"]), st.integers(2, 3))
NOTING = st.one_of(
    st.tuples(st.just("noting"), st.booleans()),
    st.tuples(st.just("unsent"), st.integers(0, 9), st.sampled_from(list(UNSENT))),
    st.just(("stale",)),
)
STEP: st.SearchStrategy[tuple[Any, ...]] = st.one_of(
    *[ADD] * 3, *[ANSWER] * 9, *[CALL] * 6, *[GO] * 4, *[LOSE] * 2, *[NOTING] * 2, LEAVE, TAKE_UP
)
SCRIPTS = st.lists(STEP, min_size=20, max_size=60)
LONG = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])


def call(world: Hearing, number: int, which: str, task: str | None) -> None:
    """Let a callback come about one of the jobs that ever were."""
    job = world.added[sorted(world.added)[-1 - number % len(world.added)]]
    found = world.plan.find(job.id)
    attempts = world.creates[job.id] if found is None else found.attempts
    create = {"last": attempts, "first": 1, "before": attempts - 1, "next": attempts + 1, "none at all": 0}[which]
    world.hear(job, create, {"its own": "", "another": f"stranger-{create}", None: None}[task])


def lose(world: Hearing, number: int, *, is_early: bool) -> None:
    """Lose a create's answer, and have its callback come just before, or just after, when it may wait to go again."""
    creating = sorted(set(world.creating()) - set(world.noting()))
    if creating:
        job = world.added[creating[number % len(creating)]]
        if is_early:
            world.hear(job)
        world.answer(job.id, LOST)
        if not is_early:
            world.hear(job)


def play(world: Hearing, step: tuple[Any, ...]) -> None:
    """Do one step of a script, and look."""
    match step:
        case ("add", jobs, place):
            for _ in range(jobs if place["owner"] not in world.left else 0):
                world.add("wide", **place)
        case ("lose", number, is_early):
            lose(world, number, is_early=is_early)
        case ("take up", told, place):
            if place["owner"] not in world.left:
                world.take_up(told=told, **place)
        case ("call", number, which, task):
            if world.added:
                call(world, number, which, task)
    plan_world.play(world, step)


def played(script: list[tuple[Any, ...]], world: Hearing | None = None) -> Hearing:
    """A world after a whole script, drained."""
    world = world or Hearing(SMALL)
    for step in script:
        play(world, step)
    world.drain()
    return world


@LONG
@given(script=SCRIPTS)
def test_no_create_goes_again_after_a_lost_one_without_leave(script: list[tuple[Any, ...]]) -> None:
    """Creates are one, and one for each that made nothing, each retry and each resubmit; none after a callback's word.

    That last part, and that no callback is believed by itself, the world checks at every look.
    """
    played(script).check_creates()


@LONG
@given(script=SCRIPTS)
def test_each_job_ends_once_and_every_place_is_given_back(script: list[tuple[Any, ...]]) -> None:
    """No job is lost, none ends twice, and then nothing runs, waits, is asked or will be."""
    world = played(script)
    assert sorted(job.id for job in world.ended) == sorted(world.added)
    assert all(isinstance(job.state, Ended) for job in world.ended)
    assert is_at_rest(world)
    assert world.plan.take(world.now + 1e6) == []


@LONG
@given(script=SCRIPTS)
def test_an_end_tells_what_is_known_and_no_more(script: list[tuple[Any, ...]]) -> None:
    """A task on a result is the provider's word, on an unknown one a callback's; what was lost and not found counts."""
    world = played(script)
    for job in world.ended:
        assert job.lost == len(job.lost_creates)
        assert set(job.lost_creates) <= set(range(1, job.attempts + 1))
        if isinstance(job.state, Unknown):
            assert job.lost
            assert job.task_id is None or job.task_id in world.named[job.id]
        elif job.task_id is not None:
            assert job.task_id in world.believed[job.id]


@LONG
@given(script=SCRIPTS)
def test_running_counts_no_job_that_waits_for_a_callback(script: list[tuple[Any, ...]]) -> None:
    """At any time the upstream counts the jobs that run or are being created, and the questions on their way."""
    world = Hearing(SMALL)
    for step in script:
        play(world, step)
        assert world.upstream.running == sum(isinstance(job.state, Submitting | Running) for job in world.plan.jobs)
        states = [job.state for job, _ in (*world.talking.values(), *world.stale)]
        assert world.upstream._asking == sum(isinstance(state, BeingAsked) for state in states)
        assert world.upstream._creating == sum(isinstance(state, Submitting) for state in states)


@LONG
@given(script=SCRIPTS, data=st.data())
def test_a_budget_is_never_exceeded(script: list[tuple[Any, ...]], data: st.DataObject) -> None:
    """What an owner's creates may have cost, whatever is lost and told, is within what is reserved and spent."""
    world = Hearing(SMALL)
    budgets = {owner: Budget(PRICE * data.draw(st.integers(1, 6))) for owner in (1, 2, 3)}
    for owner, budget in budgets.items():
        world.plan.open(owner, budget=budget)
    for step in script:
        play(world, step)
        for owner, budget in budgets.items():
            assert budget.spent + budget.reserved <= budget.limit
            own = [job.id for job in world.added.values() if job.owner == owner]
            if owner not in world.left:
                assert world.may_have_cost(own) <= budget.spent + budget.reserved
    world.drain()
    assert all(budget.is_idle for owner, budget in budgets.items() if owner not in world.left)


@LONG
@given(script=SCRIPTS)
def test_without_callbacks_nothing_waits_for_one(script: list[tuple[Any, ...]]) -> None:
    """Where nobody asks for callbacks, and none comes, no job ever waits for one."""
    world = Hearing(SMALL, expects_callbacks=False)
    for step in script:
        if step[0] not in ("call", "lose", "take up"):
            play(world, step)
        assert not any(isinstance(job.state, AwaitingCallback | Confirming) for job in world.plan.jobs)


# ----------------------------------------------------------------------------------------- a lost create, one by one


def test_without_callbacks_a_lost_create_is_unknown_at_once() -> None:
    """A plan that hears nothing does as it always did."""
    world = Hearing(expects_callbacks=False)
    job = lost(world)
    assert isinstance(job.state, Unknown)
    assert world.hear(job) is None
    assert is_at_rest(world)


def test_a_lost_create_is_awaited_and_then_unknown() -> None:
    """Nothing is sent, asked or counted as running while a callback is waited for; when none came it is unknown."""
    world = Hearing()
    job = lost(world)
    assert isinstance(job.state, AwaitingCallback)
    assert job.state.until >= CALLBACK_WAIT_AT_LEAST
    assert (job.lost, job.lost_creates, job.task_id, world.upstream.running) == (1, (1,), None, 0)
    assert world.plan.wake_at(world.now) == job.state.until
    world.sleep(job.state.until)
    ended = end_of(world, job)
    assert isinstance(ended.state, Unknown)
    assert (ended.state.failure.task_id, ended.state.failure.credits, ended.attempts) == (None, PRICE, 1)
    assert is_at_rest(world)


def test_a_lost_create_is_awaited_until_the_deadline() -> None:
    """A callback is not waited for longer than the job has time."""
    world = Hearing()
    job = lost(world, deadline=3.0)
    assert isinstance(job.state, AwaitingCallback)
    assert job.state.until == job.expires_at == 3.0
    world.sleep(3.0)
    assert isinstance(end_of(world, job).state, Unknown)


@pytest.mark.parametrize("save_to", [None, "out"])
def test_a_callback_and_the_provider_s_word_make_a_lost_task_the_job_s_own(save_to: str | None) -> None:
    """The task that a callback names is asked about at once; the answer makes the job done, and nothing is lost."""
    world = Hearing()
    job = lost(world, save_to=save_to)
    told = world.hear(job)
    assert told is not None
    assert isinstance(told.state, Confirming)
    assert (told.state.task_id, told.lost, told.task_id) == ("t1-1", 1, None), "not believed yet"
    assert asked(world) == [job.id]
    moved = world.answer(job.id, SUCCESS)
    assert moved is not None
    assert isinstance(moved.state, Fetching if save_to else Done)
    assert (moved.task_id, moved.lost, moved.lost_creates, moved.attempts) == ("t1-1", 0, (), 1)
    world.drain()
    assert is_at_rest(world)


@pytest.mark.parametrize("late", [1.0, 10.0])
def test_a_callback_just_before_the_deadline_has_a_minute(late: float) -> None:
    """A task that a callback has named is asked about beyond the job's deadline, for a minute."""
    world = Hearing()
    job = lost(world, deadline=20.0)
    world.now = 20.0 - late
    told = world.hear(job)
    assert told is not None
    assert isinstance(told.state, Confirming)
    assert told.state.until == max(20.0, world.now + 2 * PATIENCE)


@pytest.mark.parametrize("retries", [0, 1])
def test_a_lost_task_that_failed_is_failed_or_made_anew(retries: int) -> None:
    """The provider's word that the task failed is final, and gives leave to a new one only where retries do."""
    world = Hearing()
    job = lost(world, retries=retries)
    world.hear(job)
    world.look()
    moved = world.answer(job.id, BROKEN)
    assert moved is not None
    assert (moved.lost, moved.lost_creates, moved.retried) == (0, (), retries)
    assert isinstance(moved.state, Queued if retries else Failed)
    assert [each.id for each in world.look()] == [job.id] * retries
    if not retries:
        assert failure_of(moved).is_a(GenerationFailed)
        assert moved.task_id == "t1-1"
    world.drain()
    assert is_at_rest(world)


def test_a_lost_task_that_runs_is_a_running_job() -> None:
    """Once the provider knows the task, the job runs, is counted, asked about, and given up at its deadline."""
    world = Hearing()
    job = lost(world, deadline=100.0)
    world.now = 5.0
    world.hear(job)
    world.look()
    moved = world.answer(job.id, PENDING)
    assert moved is not None
    assert moved.state == Running("t1-1", since=0.0), "its age counts from its create"
    assert (moved.lost, moved.lost_creates, world.upstream.running) == (0, (), 1)
    while len(world.plan):
        world.sleep(world.plan.wake_at(world.now))
        if job.id in world.talking:
            world.answer(job.id, PENDING)
        assert world.now <= 101.0
    ended = end_of(world, job)
    assert failure_of(ended).is_a(DeadlineExceeded)
    assert ended.task_id == "t1-1"
    assert is_at_rest(world)


def deny(world: Hearing, job: Job, seconds: float) -> None:
    """Let the provider deny a lost job's task for so long, whenever it is asked."""
    began = world.now
    while world.now - began < seconds and world.plan.find(job.id) is not None:
        world.look()
        if job.id in world.talking:
            world.answer(job.id, DENIED)
        world.now = min(world.plan.wake_at(world.now), began + seconds)


def test_a_task_that_the_provider_denies_is_not_the_job_s() -> None:
    """Denied for 30 s, a name is dropped: nothing is asked any more, and the job waits on, and is unknown at last."""
    world = Hearing()
    job = lost(world)
    world.hear(job, task_id="stranger")
    deny(world, job, PATIENCE - 1)
    waits = live(world, job)
    assert isinstance(waits.state, Confirming)
    assert waits.state.task_id == "stranger"
    deny(world, job, 5.0)
    waits = live(world, job)
    assert isinstance(waits.state, AwaitingCallback)
    assert (waits.lost, waits.lost_creates) == (1, (1,))
    assert asked(world) == []
    world.sleep(world.plan.wake_at(world.now))
    ended = end_of(world, job)
    assert isinstance(ended.state, Unknown)
    assert (ended.attempts, ended.lost) == (1, 1)
    assert is_at_rest(world)


def test_after_a_false_name_the_true_one_is_heard() -> None:
    """A callback that comes after the denied name was dropped is as good as a first one."""
    world = Hearing()
    job = lost(world)
    world.hear(job, task_id="stranger")
    deny(world, job, PATIENCE + 5)
    world.hear(job)
    assert asked(world) == [job.id]
    moved = world.answer(job.id, SUCCESS)
    assert moved is not None
    assert (moved.task_id, moved.lost) == ("t1-1", 0)


def test_a_short_denial_is_forgiven() -> None:
    """A task that is not known just after its creation is asked about again, and is the job's once it is known."""
    world = Hearing()
    job = lost(world)
    world.hear(job)
    deny(world, job, 10.0)
    world.sleep(world.plan.wake_at(world.now))
    moved = world.answer(job.id, SUCCESS)
    assert moved is not None
    assert (type(moved.state), moved.task_id, moved.lost) == (Done, "t1-1", 0)


def test_a_task_that_nobody_can_ask_about_stays_on_the_error() -> None:
    """A provider that cannot be read until the deadline leaves the job unknown, with the task to be collected."""
    world = Hearing()
    job = lost(world)
    world.hear(job)
    while len(world.plan):
        world.look()
        if job.id in world.talking:
            world.answer(job.id, UNREADABLE)
        else:
            world.sleep(world.plan.wake_at(world.now))
        assert world.now < 1000
    assert world.now == 900
    ended = end_of(world, job)
    assert isinstance(ended.state, Unknown)
    assert (ended.state.failure.task_id, ended.task_id, ended.lost) == ("t1-1", "t1-1", 1)


@pytest.mark.parametrize(("create", "task_id"), [(2, "t"), (0, "t"), (7, "t"), (1, None)])
def test_a_callback_about_no_lost_create_or_no_task_is_no_news(create: int, task_id: str | None) -> None:
    """A lost job takes no notice of a create that was not lost, nor of a callback that names nothing."""
    world = Hearing()
    job = lost(world)
    assert world.hear(job, create, task_id) is None
    assert live(world, job) == job
    assert asked(world) == []


def test_a_second_name_does_not_replace_the_first() -> None:
    """While one task is asked about, another name, or the same once more, changes nothing and asks nothing."""
    world = Hearing()
    job = lost(world)
    told = world.hear(job)
    assert world.hear(job) is None
    assert world.hear(job, task_id="stranger") is None
    assert live(world, job) == told
    assert asked(world) == [job.id]
    assert world.hear(job) is None
    assert asked(world) == []


def test_where_no_callback_ever_came_none_is_waited_for() -> None:
    """After ten tasks whose ends nobody announced a lost create is unknown at once; one fewer, and it is awaited."""
    for ends, state in ((9, AwaitingCallback), (10, Unknown)):
        world = Hearing()
        for _ in range(ends):
            job = sent(world)
            world.answer(job.id, Accepted(f"t{job.id}-1"))
            while job.id not in world.talking:
                world.sleep(world.plan.wake_at(world.now))
            world.answer(job.id, SUCCESS)
            world.now += 1.0
            world.look()
        settled = world.answer(sent(world).id, LOST)
        assert settled is not None
        assert isinstance(settled.state, state)
        assert bool(world.plan.plan.callback_wait(settled)) == (ends < 10)


# ------------------------------------------------------------------------------------------- quicker than its answer


@pytest.mark.parametrize("created", ANSWERS)
@pytest.mark.parametrize("resubmits", [0, 1])
def test_after_an_early_callback_no_answer_is_leave_to_send_again(created: str, resubmits: int) -> None:
    """A 429, a refusal, a lost answer, a stopped account: the task that was named is asked about, and none is made."""
    world = Hearing()
    job = sent(world, resubmits=resubmits, retries=1)
    noted = world.hear(job)
    assert noted is not None
    assert (noted.state, world.upstream.running) == (Claimed(Claim(1, "t1-1")), 1)
    moved = world.answer(job.id, CREATED[created]("t1-1"))
    assert moved is not None
    assert isinstance(moved.state, Confirming)
    assert (moved.state.task_id, moved.lost_creates, moved.attempts) == ("t1-1", (1,), 1)
    assert asked(world) == [job.id]
    done = world.answer(job.id, SUCCESS)
    assert done is not None
    assert (type(done.state), done.task_id, done.lost, done.attempts) == (Done, "t1-1", 0, 1)
    world.drain()
    assert is_at_rest(world)


@pytest.mark.parametrize("created", ANSWERS)
def test_an_early_callback_that_was_false_ends_as_unknown(created: str) -> None:
    """Where the provider does not know the early name, the job is unknown in the end: it is never sent again."""
    world = Hearing()
    job = sent(world, resubmits=1)
    world.hear(job, task_id="stranger")
    world.answer(job.id, CREATED[created]("t1-1"))
    deny(world, job, 100.0)
    ended = end_of(world, job)
    assert isinstance(ended.state, Unknown)
    assert (ended.attempts, ended.lost) == (1, 1)
    assert is_at_rest(world)


def test_an_early_callback_of_an_accepted_create_asks_at_once() -> None:
    """A create that is accepted after all runs, and is asked about at once, once, as its end was announced."""
    world = Hearing()
    job = sent(world)
    world.hear(job)
    moved = world.answer(job.id, Accepted("t1-1"))
    assert moved is not None
    assert (moved.state, moved.lost) == (Running("t1-1", since=0.0), 0)
    assert asked(world) == [job.id]
    world.answer(job.id, PENDING)
    assert asked(world) == []


def test_the_answer_s_own_word_wins_over_an_early_callback_s() -> None:
    """Where the create's own answer names another task, that one is the job's."""
    world = Hearing()
    job = sent(world)
    world.hear(job, task_id="stranger")
    moved = world.answer(job.id, Accepted("t1-1"))
    assert moved is not None
    assert moved.state == Running("t1-1", since=0.0)


@pytest.mark.parametrize(("create", "task_id"), [(0, "t"), (2, "t"), (1, None)])
def test_an_early_callback_about_another_create_is_no_news(create: int, task_id: str | None) -> None:
    """What is not about the create on its way, or names nothing, leaves a 429 what it is: leave to send again."""
    world = Hearing()
    job = sent(world)
    assert world.hear(job, create, task_id) is None
    moved = world.answer(job.id, CREATED["limited"](""))
    assert moved is not None
    assert isinstance(moved.state, Queued)


# -------------------------------------------------------------------------------------------------- with resubmits


def test_a_callback_stops_a_resubmission() -> None:
    """A job that waits to be sent once more is not sent once a callback tells that its first create made a task."""
    world = Hearing()
    job = sent(world, resubmits=1)
    queued = world.answer(job.id, LOST)
    assert queued is not None
    assert isinstance(queued.state, Queued)
    told = world.hear(job)
    assert told is not None
    assert isinstance(told.state, Confirming)
    assert asked(world) == [job.id]
    assert world.creates[job.id] == 1
    done = world.answer(job.id, SUCCESS)
    assert done is not None
    assert (type(done.state), done.attempts, done.lost, done.lost_creates) == (Done, 1, 0, ())
    world.drain()
    assert is_at_rest(world)


def test_a_callback_that_stopped_a_resubmission_and_was_false_brings_no_other() -> None:
    """Where the named task is not known, the job waits on and is unknown; it is not sent again."""
    world = Hearing()
    job = sent(world, resubmits=1)
    world.answer(job.id, LOST)
    world.hear(job, task_id="stranger")
    deny(world, job, 100.0)
    ended = end_of(world, job)
    assert isinstance(ended.state, Unknown)
    assert (ended.attempts, ended.resubmits) == (1, 0)
    assert is_at_rest(world)


@pytest.mark.parametrize("create", [0, 2])
def test_a_callback_about_no_lost_create_stops_no_resubmission(create: int) -> None:
    """Only a create that was lost can have made the task that a queued job waits for."""
    world = Hearing()
    job = sent(world, resubmits=1)
    world.answer(job.id, LOST)
    assert world.hear(job, create, "t") is None
    assert [type(each.state) for each in world.look()] == [Noting]


def resubmitted(world: Hearing) -> Job:
    """A job whose second create is on its way, after a first one that was lost."""
    job = sent(world, resubmits=1)
    world.answer(job.id, LOST)
    (again,) = world.look()
    assert isinstance(again.state, Submitting)
    return again


def test_a_callback_for_the_first_create_does_not_disturb_the_second() -> None:
    """While the second create is on its way, one about the first changes nothing of it, where that is accepted."""
    world = Hearing()
    job = resubmitted(world)
    told = world.hear(job, 1)
    assert told is not None
    assert isinstance(job.state, Noting)
    assert told.state == Claimed(Claim(1, "t1-1"), job.state.fallback)
    moved = world.answer(job.id, Accepted("t1-2"))
    assert moved is not None
    assert moved.state == Running("t1-2", since=0.0)
    assert (moved.lost, moved.lost_creates) == (1, (1,))
    assert world.hear(job, 1) is None
    assert asked(world) == []


@pytest.mark.parametrize("answer", ["limited", "not sent", "refused", "lost"])
def test_a_callback_for_the_first_create_is_kept_while_the_second_is_on_its_way(answer: str) -> None:
    """Where the second create comes to nothing, or is lost, the first one's task is asked about: no third is sent."""
    world = Hearing()
    job = resubmitted(world)
    world.hear(job, 1)
    waits = world.answer(job.id, CREATED[answer](""))
    assert waits is not None
    assert isinstance(waits.state, Confirming)
    assert (waits.state.task_id, waits.lost_creates) == ("t1-1", (2, 1) if answer == "lost" else (1,))
    assert asked(world) == [job.id]
    done = world.answer(job.id, SUCCESS)
    assert done is not None
    assert (done.task_id, done.attempts, done.lost) == ("t1-1", 2, int(answer == "lost"))


@pytest.mark.parametrize(("create", "left"), [(1, (2,)), (2, (1,))])
def test_of_two_lost_creates_either_can_be_told_of(create: int, left: tuple[int, ...]) -> None:
    """The task of either is the job's once the provider knows it; the other one stays lost, and may be billed."""
    world = Hearing()
    job = resubmitted(world)
    waits = world.answer(job.id, LOST)
    assert waits is not None
    assert isinstance(waits.state, AwaitingCallback)
    assert (waits.lost, waits.lost_creates) == (2, (1, 2))
    assert world.hear(job, create) is not None
    assert asked(world) == [job.id]
    done = world.answer(job.id, SUCCESS)
    assert done is not None
    assert (done.task_id, done.lost, done.lost_creates) == (f"t1-{create}", 1, left)


def test_a_refused_second_create_leaves_the_first_one_awaited() -> None:
    """A refusal says nothing of the first create: it is waited for as if the second had not been."""
    world = Hearing()
    job = resubmitted(world)
    waits = world.answer(job.id, CREATED["refused"](""))
    assert waits is not None
    assert isinstance(waits.state, AwaitingCallback)
    assert waits.lost_creates == (1,)
    assert world.hear(job, 2, "t") is None
    assert world.hear(job, 1) is not None


# ---------------------------------------------------------------------------------------------- of a running job


def running(world: Hearing) -> Job:
    """A job whose task runs and was just asked about."""
    job = sent(world)
    world.answer(job.id, Accepted("t1-1"))
    world.sleep(world.plan.wake_at(world.now))
    moved = world.answer(job.id, PENDING)
    assert moved is not None
    assert asked(world) == []
    return moved


@pytest.mark.parametrize("task_id", ["t1-1", None])
def test_a_callback_for_a_running_job_is_one_question(task_id: str | None) -> None:
    """It is asked about at once; a second callback, before the answer or after it, asks nothing more."""
    world = Hearing()
    job = running(world)
    assert world.hear(job, 1, task_id) is None, "nothing that a journal is to keep"
    assert asked(world) == [job.id]
    world.hear(job, 1, task_id)
    assert asked(world) == []
    world.answer(job.id, PENDING)
    world.hear(job, 1, task_id)
    assert asked(world) == []
    assert live(world, job).state == job.state


@pytest.mark.parametrize(("create", "task_id"), [(1, "stranger"), (0, "t1-1"), (2, "t1-1"), (2, None)])
def test_a_callback_for_another_task_asks_nothing(create: int, task_id: str | None) -> None:
    """One that names another task, or is about another create, is none of a running job's."""
    world = Hearing()
    job = running(world)
    assert world.hear(job, create, task_id) is None
    assert asked(world) == []
    assert live(world, job) == job


def test_a_callback_for_a_job_that_ended_or_never_was_is_nothing() -> None:
    """Nobody is asked about, and nothing is kept; an account that is not there does no harm."""
    world = Hearing()
    job = running(world)
    world.drain()
    assert world.hear(job) is None
    assert world.plan.on_callback(99, 1, "t", world.now, "wide") is None
    assert world.plan.find(99) is None
    assert world.plan.on_callback(job.id, 1, "t", world.now, "nobody") is None
    assert is_at_rest(world)


# ---------------------------------------------------------------------------------------------------------- leaving


@pytest.mark.parametrize("told", [True, False])
def test_an_owner_that_leaves_leaves_a_lost_job_unknown(told: bool) -> None:
    """A lost job ends at once, with the task that a callback has named on its error."""
    world = Hearing()
    job = lost(world)
    if told:
        world.hear(job)
    world.leave(1)
    ended = end_of(world, job)
    assert isinstance(ended.state, Unknown)
    assert failure_of(ended).task_id == ("t1-1" if told else None)
    assert is_at_rest(world)


def test_an_owner_that_leaves_while_its_lost_job_is_asked_about() -> None:
    """The answer that comes later moves nothing, and gives its place back."""
    world = Hearing()
    job = lost(world)
    world.hear(job)
    assert asked(world) == [job.id]
    world.leave(1)
    assert isinstance(end_of(world, job).state, Unknown)
    assert world.answer(job.id, SUCCESS) is None
    assert is_at_rest(world)


@pytest.mark.parametrize("created", ANSWERS)
def test_an_owner_that_left_hears_of_the_task_that_was_told_early(created: str) -> None:
    """A create that was on its way when its owner left ends as unknown, with the task that a callback has named."""
    world = Hearing()
    job = sent(world, resubmits=1)
    world.leave(1)
    assert world.hear(job) is not None
    world.answer(job.id, CREATED[created]("t1-1"))
    ended = end_of(world, job)
    assert isinstance(ended.state, Unknown)
    assert (failure_of(ended).task_id, ended.lost_creates) == ("t1-1", (1,))
    assert is_at_rest(world)


@pytest.mark.parametrize("told", [True, False])
def test_a_create_that_is_abandoned_is_unknown_with_what_was_told(told: bool) -> None:
    """An owner that waits for no answer has the named task on the error, and the create among those that were lost."""
    world = Hearing()
    job = sent(world)
    if told:
        world.hear(job)
    world.abandon(1)
    ended = end_of(world, job)
    assert isinstance(ended.state, Unknown)
    assert (failure_of(ended).task_id, ended.lost, ended.lost_creates) == ("t1-1" if told else None, 1, (1,))
    world.answer(job.id, Accepted("t1-1"))
    assert is_at_rest(world)


def test_an_owner_that_withholds_goes_on_with_what_is_lost() -> None:
    """A lost job still hears of its task; a failed one is not made anew, and a queued resubmission is unknown."""
    world = Hearing()
    job, queued = lost(world, retries=1), sent(world, resubmits=1)
    world.answer(queued.id, LOST)
    world.withhold(1)
    assert isinstance(end_of(world, queued).state, Unknown)
    assert world.hear(job) is not None
    assert asked(world) == [job.id]
    moved = world.answer(job.id, BROKEN)
    ended = end_of(world, job)
    assert moved is not None
    assert failure_of(ended).is_a(GenerationFailed)
    assert world.look() == []
    assert is_at_rest(world)


# ----------------------------------------------------------------------------------------------------------- money


@pytest.mark.parametrize(("credits", "spent"), [(None, 8), (8.0, 8), (2.0, 2), (0.0, 0)])
def test_the_reserve_of_a_lost_job_becomes_what_it_is_billed(credits: float | None, spent: float) -> None:
    """While it is awaited its price stays reserved; what the provider says it billed takes the place of it."""
    world, budget = Hearing(), Budget(20)
    world.plan.open(1, budget=budget)
    job = lost(world)
    assert (budget.spent, budget.reserved) == (0, PRICE)
    world.hear(job)
    world.look()
    assert (budget.spent, budget.reserved) == (0, PRICE)
    world.answer(job.id, Succeeded(SUCCESS.urls, 1.0, credits, b"{}"))
    assert (budget.spent, budget.reserved) == (spent, 0)


@pytest.mark.parametrize("told", [True, False])
def test_a_lost_job_that_stays_unknown_counts_its_price(told: bool) -> None:
    """Nobody knows that it cost nothing."""
    world, budget = Hearing(), Budget(20)
    world.plan.open(1, budget=budget)
    job = lost(world)
    if told:
        world.hear(job, task_id="stranger")
        deny(world, job, 100.0)
    else:
        world.sleep(world.plan.wake_at(world.now))
    assert isinstance(end_of(world, job).state, Unknown)
    assert (budget.spent, budget.reserved) == (PRICE, 0)


def test_a_lost_job_keeps_the_next_one_waiting_for_its_credits() -> None:
    """On a budget for one, a second job is not sent while the first is awaited, and is once that has cost nothing."""
    world, budget = Hearing(), Budget(PRICE)
    world.plan.open(1, budget=budget)
    first = lost(world)
    second = world.add("wide")
    assert world.look() == []
    assert world.plan.find(second.id) is not None
    world.hear(first)
    world.look()
    world.answer(first.id, BROKEN)
    assert [job.id for job in world.look()] == [second.id]


@pytest.mark.parametrize("created", ["limited", "not sent", "refused"])
def test_an_early_callback_keeps_the_reserve_whatever_the_answer(created: str) -> None:
    """A refusal after a callback has named a task is no proof that nothing is billed."""
    world, budget = Hearing(), Budget(20)
    world.plan.open(1, budget=budget)
    job = sent(world)
    world.hear(job)
    world.answer(job.id, CREATED[created](""))
    assert (budget.spent, budget.reserved) == (0, PRICE)


def test_a_lost_job_waits_on_when_its_account_stops() -> None:
    """An account that takes nothing more can still be asked about what it may have made."""
    world = Hearing()
    job = lost(world)
    world.upstream.breaker.stopped = failure(TransportError)
    other = world.add("wide")
    world.look()
    assert isinstance(end_of(world, other).state, NotAdmitted)
    assert world.hear(job) is not None
    assert asked(world) == [job.id]
    assert isinstance(live(world, job).state, Confirming)


def test_a_resubmission_whose_intent_is_being_noted_is_called_off() -> None:
    """A callback for the first create that comes before the second has left keeps it from leaving, and frees its price.

    What the first one may have cost is counted as spent already.
    """
    world, budget = Hearing(), Budget(20)
    world.plan.open(1, budget=budget)
    job = sent(world, resubmits=1)
    world.is_noting = True
    world.answer(job.id, LOST)
    assert [type(each.state) for each in world.look()] == [Noting]
    assert (budget.spent, budget.reserved) == (PRICE, PRICE)
    told = world.hear(job, 1)
    assert told is not None
    assert isinstance(told.state, Confirming)
    assert (told.state.task_id, told.attempts, told.lost_creates) == ("t1-1", 1, (1,))
    assert (budget.spent, budget.reserved) == (PRICE, 0)
    assert asked(world) == [job.id]
    world.settle_stale()
    world.answer(job.id, SUCCESS)
    assert world.creates[job.id] == 1
    assert is_at_rest(world)
