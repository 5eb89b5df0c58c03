"""The plan and its upstreams, driven by arbitrary scripts of answers: who may talk, when, and how each job ends."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imagen_async._core.job import (
    Done,
    Event,
    Failed,
    Final,
    Job,
    Left,
    Links,
    NotAdmitted,
    NotSaved,
    Queued,
    Ready,
    Running,
    Saved,
    SendAborted,
    Submitting,
    Unknown,
)
from imagen_async._core.latency import LatencyPrior
from imagen_async._core.plan import Plan
from imagen_async._core.poll_schedule import Kind, PollSchedule
from imagen_async._core.provider import Limits
from imagen_async._core.rate_limit import Rate
from imagen_async._core.upstream import FIRST_CONTACT_TRIES, LONGEST_PAUSE_AFTER_LOST, LOST_IN_A_ROW, Upstream
from imagen_async._core.values import ImageRequest
from imagen_async._core.wire import (
    Accepted,
    ConnectFailed,
    Lost,
    NoAnswer,
    Pending,
    Rejected,
    Remedy,
    Succeeded,
    TaskFailed,
    TaskRefused,
)
from imagen_async.errors import (
    AuthenticationError,
    DeadlineExceeded,
    DownloadFailed,
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
from imagen_async.providers import PROVIDERS

MODELS = {model.name: model for model in PROVIDERS["kie"].models}


class EverySecond(PollSchedule):
    """Knows nothing and learns nothing: a question a second up to the age of 4, then one every 2 seconds."""

    def next_age(self, kind: Kind, asked: float, announced: float = 0.0) -> float:
        """A fixed interval for each stretch of a task's age."""
        return asked + (1.0 if asked < 4 else 2.0)


SCHEDULE = EverySecond(LatencyPrior(median=5, sigma=0.5))
SUCCESS = Succeeded(("https://files.example/1.png",), 1.0, 8.0, b"{}")
SAVING_AT_ONCE = 2
LIMITS = {
    "wide": Limits(submit=Rate(3, per=2), status=Rate(2, per=1), running=5),
    "narrow": Limits(submit=Rate(1, per=0.5), status=Rate(3, per=2), running=2),
}
CONNECTIONS = 6

CREATED: dict[str, Callable[[str], Event]] = {
    "accepted": Accepted,
    "lost": lambda _: Lost(TransportError("reset")),
    "not sent": lambda _: ConnectFailed(TransportError("no route")),
    "refused": lambda _: Rejected(InvalidRequest("bad", code=422), Remedy.FAIL),
    "silent": lambda _: Rejected(GenerationFailed("silent", code=408), Remedy.NEW_TASK),
    "model gone": lambda _: Rejected(ModelUnavailable("gone", code=404), Remedy.CLOSE_MODEL),
    "no credit": lambda _: Rejected(InsufficientCredits("empty", code=402), Remedy.STOP),
    "wrong key": lambda _: Rejected(AuthenticationError("no", code=401), Remedy.STOP),
    "limited": lambda _: Rejected(RateLimited("slow down", code=429), Remedy.BACK_OFF),
    "limited long": lambda _: Rejected(RateLimited("slow down", code=429), Remedy.BACK_OFF, 4.0),
    "maintenance": lambda _: Rejected(TransportError("maintenance", code=455), Remedy.PAUSE),
    "maintenance long": lambda _: Rejected(TransportError("maintenance", code=455), Remedy.PAUSE, 3.0),
    "withheld": lambda _: SendAborted(JournalError("the disk is full")),
}
FREE_TO_REPEAT = ("not sent", "limited", "limited long", "maintenance", "maintenance long")
ASKED: dict[str, Callable[[str], Event]] = {
    "pending": lambda _: Pending("waiting"),
    "succeeded": lambda _: SUCCESS,
    "broken": lambda _: TaskFailed(GenerationFailed("too dark", code="500"), 0.0, b"{}"),
    "no urls": lambda _: TaskFailed(GenerationFailed("no picture", code="no_urls"), 8.0, b"{}"),
    "denied": lambda _: TaskRefused(InvalidRequest("recordInfo is null", code=422)),
    "unreadable": lambda _: NoAnswer(TransportError("502")),
    "asked too often": lambda _: NoAnswer(RateLimited("429"), limited=True),
}


def gone() -> NotSaved:
    error = DownloadFailed("404")
    error.gone = True
    return NotSaved(error)


FETCHED: dict[str, Callable[[str], Event]] = {
    "saved": lambda _: Saved(()),
    "not saved": lambda _: NotSaved(DownloadFailed("502")),
    "gone": lambda _: gone(),
}

Trip = tuple[float, float]


def most_at_the_server(trips: Iterable[Trip], per: float) -> int:
    """The most calls that some server could see within less than `per` seconds.

    A server may see a call at any instant from its sending to its answer. Those that were answered at `start` or later
    and sent before `start + per` can all be seen in [start, start + per); to try each answer as start is enough.
    """
    trips = list(trips)
    return max(
        (sum(sent < start + per and answered >= start for sent, answered in trips) for _, start in trips),
        default=0,
    )


def make_lane(
    name: str = "wide",
    limits: Limits | None = None,
    connections: int = CONNECTIONS,
    delay: Callable[[int, float], float] = lambda n, longest: 1.0,
) -> Upstream:
    return Upstream(name, limits or LIMITS[name], SCHEDULE, connections, delay)


class World:
    """A plan, and everything around it that a shell and a server would be: what talks, and what was seen of it."""

    def __init__(self, *upstreams: Upstream) -> None:
        self.plan = Plan(upstreams or [make_lane("wide"), make_lane("narrow")], SAVING_AT_ONCE)
        self.now = 0.0
        self.added: dict[int, Job] = {}
        self.talking: dict[int, tuple[Job, float]] = {}
        self.ended: list[Job] = []
        self.creates: Counter[int] = Counter()
        self.leave_to_repeat: Counter[int] = Counter()
        self.first_creates: dict[str, list[int]] = defaultdict(list)
        self.trips: dict[tuple[str, str], list[Trip]] = defaultdict(list)
        self.left: set[int] = set()

    def check_creates(self) -> None:
        """Each job had one create, and one for each that made nothing, each retry and each resubmit."""
        for job in self.ended:
            again = job.retried + self.added[job.id].resubmits - job.resubmits
            assert job.retried <= job.retries
            assert job.attempts == self.creates[job.id] <= 1 + self.leave_to_repeat[job.id] + again

    def add(self, account: str = "wide", model: str = "imagen4", **place: Any) -> Job:
        """Take in a job."""
        number = len(self.added) + 1
        place = {"owner": 1, "deadline": 900.0, **place}
        job = Job(number, place.pop("owner"), number, f"k{number}", *self._request(model, account), **place)
        self.added[number] = job
        self.plan.add(job, self.now)
        return job

    def _request(self, model: str, account: str) -> tuple[ImageRequest, str, Any]:
        return ImageRequest("a red fox", model=model), account, MODELS[model]

    def look(self) -> list[Job]:
        """What the loop does: take what may talk now, deliver what ended, and find out when to look again."""
        taken = self.plan.take(self.now)
        for job in taken:
            if isinstance(job.state, Submitting):
                self.plan.begin_create(job)
        for job in taken:
            assert job.id not in self.talking, "a job that talks was handed out again"
            assert job.id not in {ended.id for ended in self.ended}, "a job that ended was handed out"
            self.talking[job.id] = (job, self.now)
            if isinstance(job.state, Submitting):
                self.creates[job.id] += 1
                if self.creates[job.id] == 1:
                    self.first_creates[job.account].append(job.id)
        self.deliver()
        assert self.plan.wake_at(self.now) > self.now
        return taken

    def deliver(self) -> list[Job]:
        """Take out the jobs that ended."""
        new = list(self.plan.finished)
        self.plan.finished.clear()
        for job in new:
            assert job.id not in self.talking or job.owner in self.left, "a job that talks ended without its answer"
        self.ended += new
        return new

    def answer(self, job_id: int, event: Event) -> Job | None:
        """Settle a job that talks."""
        job, sent = self.talking.pop(job_id)
        kind = "create" if isinstance(job.state, Submitting) else "status" if isinstance(job.state, Running) else "file"
        self.trips[job.account, kind].append((sent, self.now))
        return self.plan.settle(job, event, self.now)

    def answer_by_name(self, number: int, created: str, asked: str, fetched: str) -> None:
        """Settle one of the jobs that talk with the event of that name that fits it."""
        job_id = sorted(self.talking)[number % len(self.talking)]
        state = self.talking[job_id][0].state
        if isinstance(state, Submitting):
            self.leave_to_repeat[job_id] += created in FREE_TO_REPEAT
            # One that was given up meanwhile was on its way, as far as anybody can tell.
            self.creates[job_id] -= created == "withheld" and job_id in {job.id for job in self.plan.jobs}
            self.answer(job_id, CREATED[created](f"t{job_id}-{self.creates[job_id]}"))
        elif isinstance(state, Running):
            self.answer(job_id, ASKED[asked](""))
        else:
            self.answer(job_id, FETCHED[fetched](""))

    def sleep(self, until: float) -> None:
        """Let time pass without an answer: nothing before `wake_at`, and something at it."""
        wake_at = self.plan.wake_at(self.now)
        ended = len(self.ended)
        self.now = until
        something = bool(self.look()) or len(self.ended) > ended
        assert something == (until >= wake_at)

    def leave(self, owner: int) -> None:
        """The owner goes."""
        self.left.add(owner)
        self.plan.leave(owner)

    def drain(self) -> None:
        """Let everything go well from here on, until nothing is left to do."""
        for _ in range(100 + 30 * len(self.added)):
            self.look()
            if self.talking:
                self.answer_by_name(0, "accepted", "succeeded", "saved")
            elif len(self.plan):
                self.sleep(self.plan.wake_at(self.now))
            else:
                return
        raise AssertionError("the plan came to no end")

    def all_trips(self, account: str, kind: str) -> list[Trip]:
        """Every call of this kind; those without an answer may be seen at any later time."""
        wanted = Submitting if kind == "create" else Running
        under_way = [
            (sent, math.inf)
            for job, sent in self.talking.values()
            if job.account == account and isinstance(job.state, wanted)
        ]
        return self.trips[account, kind] + under_way


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
STEP: st.SearchStrategy[tuple[Any, ...]] = st.one_of(*[ADD] * 5, *[ANSWER] * 16, *[GO] * 6, ODD)
SCRIPTS = st.lists(STEP, min_size=30, max_size=80)
LONG = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])


def play(world: World, step: tuple[Any, ...]) -> None:
    """Do one step of a script, and look, as the loop does after each change."""
    match step:
        case ("add", account, model, jobs, place):
            for _ in range(jobs if place["owner"] not in world.left else 0):
                world.add(account, model, **place)
        case ("collect", account, owner):
            if owner not in world.left:
                state = Running("old", since=world.now, collected=True)
                world.add(account, owner=owner, expires_at=world.now + 20.0, state=state, save_to="out")
        case ("answer", number, created, asked, fetched):
            if world.talking:
                world.answer_by_name(number, created, asked, fetched)
        case ("wait", seconds):
            world.sleep(world.now + seconds)
        case ("wake",):
            wake_at = world.plan.wake_at(world.now)
            if wake_at < math.inf:
                world.sleep(wake_at)
        case ("leave", owner):
            world.leave(owner)
        case ("abandon", owner):
            world.leave(owner)
            world.plan.abandon(owner)
        case ("withhold", owner):
            world.plan.withhold(owner)
    world.look()


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
    assert all(isinstance(job.state, Final) for job in world.ended)


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
        assert world.plan.wants_more(owner) == world.plan.is_open, "nobody waits for anybody"
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
        before = +world.creates
        play(world, step)
        for name, upstream in world.plan.upstreams.items():
            running = sum(isinstance(job.state, Submitting | Running) for job in world.plan.jobs if job.account == name)
            assert upstream.running == running
            if any(world.added[job_id].account == name for job_id in world.creates - before):
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
        assert sum(isinstance(job.state, Ready) for job, _ in world.talking.values()) <= SAVING_AT_ONCE


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
    world = World(make_lane("wide", limits, connections))
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
        assert [type(job.state) for job in taken if isinstance(job.state, Submitting)] == [Submitting] * count
        for job in taken:
            world.answer(job.id, Accepted("t") if isinstance(job.state, Submitting) else SUCCESS)
        world.now = start + 10.0 * (window + 1)
    assert sorted(world.creates) == list(range(1, 3 * count + 2))


@pytest.mark.parametrize("count", [1, 2, 10])
def test_the_status_limit_is_reached(count: int) -> None:
    """With many running tasks, as many status calls as the limit allows go in each window."""
    world = World(make_lane("wide", Limits(status=Rate(count, per=1), running=1000), connections=200))
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
    world = World(make_lane("wide", Limits(status=Rate(2, per=1))))
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
    assert Counter(type(job.state) for job in taken) == {Submitting: 4, Running: 4}


def test_a_single_connection_still_serves_both() -> None:
    """With one connection, a job is still sent, asked about and done."""
    world = World(make_lane("wide", connections=1))
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
    job = world.add(expires_at=20.0, state=Running("old", since=0.0, collected=True))
    assert [(taken.id, type(taken.state)) for taken in world.look()] == [(job.id, Running)]
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
    world.answer(lost.id, Lost(TransportError("reset")))
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
        world.answer(job.id, Rejected(InvalidRequest("bad", code=422), Remedy.FAIL))
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
    world.answer(taken[0].id, NoAnswer(RateLimited("429"), limited=True, retry_after=6.0))
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
    world = World(make_lane("wide", Limits(submit=Rate(100, per=0.125)), delay=lambda n, longest: 2.0**n))
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
    upstream = make_lane("wide", Limits(submit=Rate(50, per=1), running=50), 10, delay=lambda n, longest: 2.0**n)
    world = World(upstream)
    for _ in range(6):
        world.add()
    world.look()
    world.answer(1, Rejected(InvalidRequest("bad", code=422), Remedy.FAIL))
    volley = world.look()
    assert len(volley) == 5
    for job in volley:
        world.answer(job.id, Rejected(TransportError("maintenance", code=455), Remedy.PAUSE, retry_after))
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
    assert isinstance(job.state.error, DeadlineExceeded)
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
    assert isinstance(job.state.error, DeadlineExceeded)
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
    world = World(make_lane("wide", Limits(status=Rate(100, per=1))))
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
        1: Left(Ready("t1", SUCCESS)),
        2: Left(Running("t2", since=0.0)),
        4: Left(Queued()),
    }
    assert [job.id for job in world.plan.jobs] == [3]


def test_an_answer_for_a_job_that_was_left_changes_nothing_but_its_place() -> None:
    """The late answer to a status call of a job that ended is ignored, and its connection is free again."""
    world = World(make_lane("wide", connections=1))
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
    assert isinstance(job.state.error, UnknownOutcome)
    assert job.state.error.credits == 12
    assert world.answer(1, Accepted("t1")) is None
    assert world.deliver() == []
    assert world.plan.upstreams["wide"].running == 0


def test_abandoning_a_create_that_has_not_left_yet_is_no_loss() -> None:
    """A create that still waits for its journal when it is given up was not sent: nothing may have been billed."""
    plan, job = world_with_one_create_handed_out()
    plan.leave(1)
    plan.abandon(1)
    ended = plan.finished.popleft()
    assert (ended.state, ended.attempts, ended.lost) == (Left(Queued()), 0, 0)
    assert not plan.may_send(job)
    assert plan.settle(job, SendAborted(), 1.0) is None


def world_with_one_create_handed_out() -> tuple[Plan, Job]:
    """A plan whose only job was handed out, and has not begun to talk."""
    world = World()
    world.add()
    (job,) = world.plan.take(world.now)
    return world.plan, job


# ---------------------------------------------------------------------------------- accounts that stop


@pytest.mark.parametrize(("answer", "error"), [("wrong key", AuthenticationError), ("no credit", InsufficientCredits)])
def test_a_stopped_account_ends_its_queue_unsent(answer: str, error: type[Exception]) -> None:
    """A wrong key or an empty account ends its job and all queued ones as unsent; one create was sent, and no more."""
    world = World()
    for _ in range(10):
        world.add()
    other = world.add("narrow")
    assert len(world.look()) == 2
    world.answer(1, CREATED[answer](""))
    ended = world.deliver()
    assert [job.id for job in ended] == [*range(2, 11), 1]
    for job in ended:
        assert isinstance(job.state, NotAdmitted)
        assert isinstance(job.state.error, error)
        assert job.state.error.provider == "wide"
    assert sum(world.creates.values()) == 2
    late = world.add()
    assert [(job.id, type(job.state)) for job in world.deliver()] == [(late.id, NotAdmitted)]
    assert world.plan.is_open, "the other account goes on"
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
        assert isinstance(job.state.error, ModelUnavailable)
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
        assert isinstance(state.error, ModelUnavailable)
        assert "imagen4-ultra" in state.error.message
    assert isinstance(ended[plain.id], Done)
    assert world.plan.upstreams["wide"].stopped is None


def test_401_for_a_model_that_worked_stops_the_account() -> None:
    """A key that is refused for a model of which it got a task is no longer right."""
    world = answered_world(Limits(submit=Rate(10, per=1), running=10), jobs=1)
    world.look()
    world.answer(2, CREATED["wrong key"](""))
    assert isinstance(world.deliver()[0].state, NotAdmitted)
    assert isinstance(world.plan.upstreams["wide"].stopped, AuthenticationError)


def test_no_credit_stops_the_account_whatever_worked_before() -> None:
    """An empty account is empty for every model."""
    world = answered_world(Limits(submit=Rate(10, per=1), running=10), jobs=1, model="imagen4-ultra")
    world.look()
    world.answer(2, CREATED["no credit"](""))
    assert isinstance(world.plan.upstreams["wide"].stopped, InsufficientCredits)


def test_no_credit_under_401_stops_the_account_too() -> None:
    """A refusal that was read as: no credit, is no question of the model, even where its code is 401."""
    world = answered_world(Limits(submit=Rate(10, per=1), running=10), jobs=1, model="imagen4-ultra")
    world.look()
    world.answer(2, Rejected(InsufficientCredits("Insufficient balance", code=401), Remedy.STOP))
    assert isinstance(world.plan.upstreams["wide"].stopped, InsufficientCredits)


@pytest.mark.parametrize(
    ("answer", "others"), [("accepted", 20), ("refused", 20), ("limited", 1), ("model gone", 20), ("lost", 1)]
)
def test_the_first_create_goes_alone(answer: str, others: int) -> None:
    """Until the account answered, one create is under way; then the others follow, but not after silence or 429."""
    world = World(make_lane("wide", Limits(submit=Rate(20, per=10), running=100), connections=100))
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
        assert world.plan.upstreams["wide"].stopped is None, attempt
        world.answer(next(iter(world.talking)), CREATED["not sent"](""))
        if attempt < FIRST_CONTACT_TRIES:
            world.look()
            world.sleep(world.plan.wake_at(world.now))
    assert FIRST_CONTACT_TRIES == 5
    ended = world.deliver()
    assert sorted(job.id for job in ended) == list(range(1, 11))
    for job in ended:
        assert isinstance(job.state, NotAdmitted)
        assert isinstance(job.state.error, TransportError)
        assert job.state.error.sent is False
        assert "no route" in job.state.error.message


def unreached() -> NoAnswer:
    error = TransportError("no route")
    error.sent = False
    return NoAnswer(error)


def test_a_server_that_is_never_reached_is_given_up_for_a_task_to_be_collected() -> None:
    """Five status calls in vain, before anything was answered, end a collected task with its task id."""
    world = World()
    world.add(expires_at=900.0, state=Running("old", since=0.0, collected=True))
    for attempt in range(1, FIRST_CONTACT_TRIES + 1):
        world.look()
        assert world.deliver() == [], attempt
        world.answer(1, unreached())
        if attempt < FIRST_CONTACT_TRIES:
            world.look()
            world.sleep(world.plan.wake_at(world.now))
    (job,) = world.deliver()
    assert isinstance(job.state, Failed)
    assert isinstance(job.state.error, TransportError)
    assert job.state.error.sent is False
    assert job.task_id == "old"


@pytest.mark.parametrize("error", [TransportError("reset"), RateLimited("429")])
def test_status_calls_that_reached_a_server_are_never_given_up(error: ImagenError) -> None:
    """Status calls that were sent and failed, however many, leave a collected task running until its deadline."""
    world = World()
    world.add(expires_at=900.0, state=Running("old", since=0.0, collected=True))
    for _ in range(4 * FIRST_CONTACT_TRIES):
        world.look()
        world.answer(1, NoAnswer(error))
        world.look()
        world.sleep(world.plan.wake_at(world.now))
    assert len(world.plan) == 1


def test_a_server_that_answered_is_not_given_up() -> None:
    """Once the server answered about any task, connections that fail are waited out until the deadline."""
    world = World()
    world.add(expires_at=900.0, state=Running("old", since=0.0, collected=True))
    world.look()
    world.answer(1, Pending("waiting"))
    for _ in range(4 * FIRST_CONTACT_TRIES):
        world.look()
        world.sleep(world.plan.wake_at(world.now))
        world.answer(1, unreached())
    assert len(world.plan) == 1


def test_failed_connections_do_not_stop_an_account_that_answered() -> None:
    """Once an account answered, failed connections are an outage that is waited out until the deadline."""
    world = answered_world(LIMITS["wide"], jobs=1)
    world.look()
    for _ in range(4 * FIRST_CONTACT_TRIES):
        world.answer(2, CREATED["not sent"](""))
        world.look()
        world.sleep(world.plan.wake_at(world.now))
    assert world.plan.upstreams["wide"].stopped is None
    world.drain()
    assert isinstance(world.ended[-1].state, Done)


def test_more_is_wanted_while_an_account_has_little_waiting() -> None:
    """More jobs are asked for while fewer wait than one look may send, so an endless input stays outside."""
    world = World(make_lane("wide", Limits(submit=Rate(5, per=1), running=3)))
    for _ in range(3):
        assert world.plan.wants_more(1)
        world.add()
    assert not world.plan.wants_more(1)
    world.look()
    assert world.plan.wants_more(1)


def test_no_more_is_wanted_for_an_account_that_stopped() -> None:
    """What waits for the others decides; when none is left, nothing is wanted and the plan is closed."""
    world = World()
    for _ in range(3):
        world.add("wide")
    assert world.plan.wants_more(1), "of the narrow one"
    world.plan.upstreams["narrow"].stopped = InsufficientCredits("empty")
    assert not world.plan.wants_more(1)
    assert world.plan.is_open
    world.look()
    assert world.plan.wants_more(1)
    world.answer(1, CREATED["no credit"](""))
    assert not world.plan.wants_more(1)
    assert not world.plan.is_open


def test_what_one_owner_has_waiting_does_not_keep_out_another() -> None:
    """An owner of whom 500 wait for one account adds no more, though another account is hungry; other owners may."""
    world = World()
    for _ in range(500):
        assert world.plan.wants_more(1)
        world.add("wide")
    assert not world.plan.wants_more(1)
    assert world.plan.wants_more(2)
    world.look()
    assert world.plan.wants_more(1)
    world.leave(1)
    assert world.plan.wants_more(1)


# --------------------------------------------------------------------------------------- how an account fares


LANE_LIMITS = st.builds(
    Limits,
    submit=st.builds(Rate, st.integers(1, 200), per=st.just(10), guess=st.booleans()),
    running=st.integers(1, 200),
)


@given(limits=LANE_LIMITS, sent=st.integers(0, 50), running=st.integers(0, 50))
def test_the_load_is_the_part_that_is_used_of_whatever_is_scarcer(limits: Limits, sent: int, running: int) -> None:
    """An account is as full as its window, or its places for tasks, whichever is fuller; an idle one is empty."""
    upstream = make_lane("wide", limits)
    assert upstream.load(0.0) == 0
    sent, running = min(sent, limits.submit.count), min(running, limits.running)
    for _ in range(sent):
        upstream.spend_submit(0.0)
    upstream.running = running
    assert upstream.load(0.0) == max(sent / limits.submit.count, running / limits.running)
    for _ in range(sent):
        upstream.settle_submit(SendAborted(), "imagen4", 1.0)
    upstream.running = 0
    assert (upstream.load(11.0), upstream.health(11.0).running) == (0, 0)


@given(limits=LANE_LIMITS, halvings=st.integers(0, 3))
def test_what_is_allowed_and_wanted_follows_the_limit_as_it_is_now(limits: Limits, halvings: int) -> None:
    """After 429s less is allowed in a window, and less is to wait for it; the other limits are as they were set."""
    upstream = make_lane("wide", limits)
    count = limits.submit.count
    for number in range(halvings):
        upstream.spend_submit(100.0 * number)
        upstream.settle_submit(Rejected(RateLimited("429"), Remedy.BACK_OFF), "imagen4", 100.0 * number)
        upstream.spend_submit(100.0 * number + 20)
        upstream.settle_submit(Accepted("t"), "imagen4", 100.0 * number + 15)
        count = max(1, count // 2)
    assert upstream.allowed == Limits(Rate(count, per=10, guess=limits.submit.guess), limits.status, limits.running)
    assert upstream.at_a_look == min(count, limits.running, 100)
    assert upstream.health(1000.0).limit == upstream.allowed.submit


def test_an_account_says_why_it_takes_nothing_for_a_model() -> None:
    """A closed model is refused with its own error, every model once the account stopped; each names the account."""
    world = answered_world(WIDE, connections=100)
    upstream = world.plan.upstreams["wide"]
    assert [upstream.refusal(name) for name in MODELS] == [None] * len(MODELS)
    first, second = world.add(model="imagen4-ultra"), world.add()
    world.look()
    world.answer(first.id, CREATED["model gone"](""))
    closed = upstream.refusal("imagen4-ultra")
    assert isinstance(closed, ModelUnavailable)
    assert closed.provider == "wide"
    assert upstream.refusal("imagen4") is None
    world.answer(second.id, CREATED["no credit"](""))
    for name in MODELS:
        refusal = upstream.refusal(name)
        assert isinstance(refusal, InsufficientCredits)
        assert refusal.provider == "wide"


@pytest.mark.parametrize("setback", ["not sent", "maintenance", "lost"])
@pytest.mark.parametrize("answer", ["accepted", "refused"])
def test_an_account_is_paused_from_a_setback_to_the_next_answer(setback: str, answer: str) -> None:
    """A failed connection, maintenance or the third lost answer pauses it, and a 429 in between ends no pause."""
    world = troubled_world(jobs=40)
    upstream = world.plan.upstreams["wide"]
    volley = world.look()
    for number, job in enumerate(volley):
        assert upstream.is_paused == (number >= (LOST_IN_A_ROW if setback == "lost" else 1))
        world.answer(job.id, CREATED[setback](""))
    error = world.plan.upstreams["wide"].health(world.now).error
    assert isinstance(error, TransportError)
    assert upstream.health(world.now).state == "paused"
    for probe in ("limited", answer):
        while not creating(world):
            world.look()
            if not creating(world):
                world.sleep(world.plan.wake_at(world.now))
        assert upstream.is_paused
        (job_id,) = creating(world)
        world.answer(job_id, CREATED[probe]("t"))
        assert upstream.submit.limit == 20, "a 429 to a probe tells nothing of the rate"
    assert not upstream.is_paused


def pause_after_a_429(world: World, retry_after: float | None = None) -> float:
    """Refuse the only create that is on the way for the rate; returns the seconds until the next one goes."""
    (job_id,) = creating(world)
    world.answer(job_id, Rejected(RateLimited("slow down", code=429), Remedy.BACK_OFF, retry_after))
    before = world.now
    while not creating(world):
        world.look()
        if not creating(world):
            world.sleep(world.plan.wake_at(world.now))
    return world.now - before


def test_a_429_again_before_anything_was_taken_pauses_the_account() -> None:
    """No rate explains it, so the limit is cut once only, and single creates try, a window or ever longer apart."""
    world = troubled_world(jobs=60, deadline=1e6)
    upstream = world.plan.upstreams["wide"]
    for job in world.look():
        world.answer(job.id, CREATED["limited"](""))
    assert (upstream.submit.limit, upstream.is_paused, upstream.health(world.now).state) == (10, False, "limited")
    start = world.now
    world.sleep(world.plan.wake_at(world.now))
    assert world.now - start == 10.0
    assert [pause_after_a_429(world) for _ in range(7)] == [10, 10, 10, 10, 16, 32, 60]
    assert (upstream.is_paused, upstream.health(world.now).state) == (True, "paused")
    assert upstream.submit.limit == 10, "it is not cut again, and no refused probe gives a place back"
    assert isinstance(upstream.health(world.now).error, RateLimited)
    assert pause_after_a_429(world, retry_after=500.0) == 500.0
    (probe,) = creating(world)
    world.answer(probe, Accepted("t"))
    assert (upstream.is_paused, upstream.health(world.now).state) == (False, "limited")
    assert isinstance(upstream.health(world.now).error, RateLimited)
    world.look()
    assert len(creating(world)) == upstream.submit.limit - 1, "the whole window, of which the probe is one"


def test_a_429_after_something_was_taken_cuts_the_limit_again() -> None:
    """While creates are taken between the 429s, each of them halves the limit, and none pauses the account."""
    world = troubled_world(jobs=60, deadline=1e6)
    upstream = world.plan.upstreams["wide"]
    limits = []
    for _ in range(4):
        world.look()
        first = creating(world)[0]
        world.answer(first, Accepted("t"))
        world.look()
        *_, last = creating(world)
        world.answer(last, CREATED["limited"](""))
        for job_id in creating(world):
            world.answer(job_id, CREATED["refused"](""))
        limits.append(upstream.submit.limit)
        assert not upstream.is_paused
        world.now += 10.0
    assert limits == [10, 5, 2, 1]


# ------------------------------------------------------------------------------------- answers that are lost

WIDE = Limits(submit=Rate(20, per=10), status=Rate(100, per=1), running=100)


def doubling(setbacks: int, longest: float) -> float:
    return float(min(longest, 2.0**setbacks))


def troubled_world(jobs: int, **place: Any) -> World:
    """A world whose account is known to work and doubles its pauses, with these jobs waiting."""
    world = World(make_lane("wide", WIDE, connections=100, delay=doubling))
    world.add()
    world.look()
    world.answer(1, Accepted("t0"))
    world.drain()
    world.now += 1000.0
    for _ in range(jobs):
        world.add(**place)
    return world


def creating(world: World) -> list[int]:
    """The jobs whose create is on the way."""
    return [job_id for job_id, (job, _) in world.talking.items() if isinstance(job.state, Submitting)]


def pause_after_losing_one(world: World) -> float:
    """Lose the only create that is on the way; returns the seconds until the next one goes."""
    (job_id,) = creating(world)
    world.answer(job_id, CREATED["lost"](""))
    before = world.now
    while not creating(world):
        world.look()
        if not creating(world):
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
    assert len(creating(world)) == 20


def test_a_volley_of_lost_answers_pauses_the_account_once() -> None:
    """Twenty answers that are lost together make the pause of one setback, and then a single create tries."""
    world = troubled_world(jobs=60)
    for job in world.look():
        world.answer(job.id, CREATED["lost"](""))
    assert world.look() == []
    world.sleep(world.now + 10.0)
    assert len(creating(world)) == 1
    assert pause_after_losing_one(world) == 2.0


def test_after_three_lost_answers_creates_go_one_at_a_time_and_further_apart() -> None:
    """From the third lost answer in a row on one create is under way, and the pauses double up to 900 s."""
    assert (LOST_IN_A_ROW, LONGEST_PAUSE_AFTER_LOST) == (3, 900.0)
    world = World(make_lane("wide", Limits(submit=Rate(100, per=0.125)), connections=100, delay=doubling))
    for _ in range(40):
        world.add()
    world.look()
    pauses = [pause_after_losing_one(world) for _ in range(15)]
    assert pauses == [0.0, 0.0, *[2.0**n for n in range(10)], 900.0, 900.0, 900.0]


@pytest.mark.parametrize("answer", ["accepted", "refused", "silent", "limited", "maintenance"])
def test_any_answer_ends_the_row_of_lost_ones(answer: str) -> None:
    """Two lost answers, one that arrived, and two lost again are no row of three; a fifth one makes it one."""
    asked: list[float] = []
    world = World(make_lane("wide", WIDE, connections=100, delay=lambda n, longest: asked.append(longest) or 1.0))
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
    (job_id,) = creating(world)
    world.answer(job_id, CREATED[answer]("t"))
    world.sleep(world.now + 20.0)
    again = creating(world)
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
        if creating(world):
            world.now += 30.0
            for job_id in creating(world):
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
        world = World(make_lane("wide", Limits(submit=Rate(100, per=0.125)), connections=100, delay=delay))
        for _ in range(4):
            world.add()
        for _ in range(3):
            world.look()
            world.now += 2.0
            world.look()
            world.answer(creating(world)[0], CREATED[answer](""))
    assert asked == [60.0] * 6 + [900.0]


def test_a_lost_create_is_sent_again_once_where_that_was_asked_for() -> None:
    """With resubmits=1 a lost create goes again, before newer ones, and the second loss holds the job."""
    world = answered_world(Limits(submit=Rate(1, per=1), running=10), jobs=2, resubmits=1)
    world.look()
    world.answer(2, CREATED["lost"](""))
    world.sleep(world.plan.wake_at(world.now))
    assert list(world.talking) == [2]
    world.answer(2, CREATED["lost"](""))
    (job,) = world.deliver()
    assert isinstance(job.state, Unknown)
    assert (job.attempts, job.lost, job.resubmits, job.state.error.credits) == (2, 2, 0, 16)
    world.drain()
    assert world.creates[2] == 2


def end_while_waiting(world: World, how: str) -> None:
    """End job 2 in this way, which waits to be sent again, or comes to be on the way again; job 3 is on the way."""
    if how in CREATED:
        world.answer(3, CREATED[how](""))
        return
    if how in ("not noted", "stopped after a 429"):
        world.sleep(world.plan.wake_at(world.now))
        world.answer(2, CREATED["withheld" if how == "not noted" else "limited"](""))
    if how in ("stopped", "stopped after a 429"):
        world.plan.withhold(1)
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
    assert "may have made a task" in ended.state.error.message
    assert "nothing was billed" not in ended.state.error.message


# --------------------------------------------------------------------------- pictures that are to be fetched


def test_a_finished_job_that_comes_in_is_fetched_and_nothing_else() -> None:
    """A job that comes in ready is handed out for saving at once, without a create or a status call."""
    world = World()
    job = world.add(expires_at=900.0, state=Ready("t1", SUCCESS), save_to="out")
    assert world.look() == [job]
    world.answer(job.id, Saved(()))
    assert world.deliver() == [job.to(Done("t1", SUCCESS))]
    assert (world.creates, world.trips["wide", "status"], len(world.plan)) == ({}, [], 0)
    assert world.plan.wake_at(world.now) == math.inf


def test_a_job_that_comes_in_ready_does_not_expire() -> None:
    """A picture that waits for a place to be saved is fetched, however late: it is paid for."""
    world = World()
    for _ in range(SAVING_AT_ONCE + 1):
        world.add(expires_at=5.0, state=Ready("t1", SUCCESS), save_to="out")
    assert len(world.look()) == SAVING_AT_ONCE
    world.sleep(1000.0)
    assert world.ended == []
    world.drain()
    assert [type(job.state) for job in world.ended] == [Done] * (SAVING_AT_ONCE + 1)


def test_a_done_job_that_comes_in_is_delivered() -> None:
    """A job that comes in done ends at once, and nothing is handed out for it, not even on a stopped account."""
    world = World()
    world.plan.upstreams["wide"].stopped = AuthenticationError("no")
    job = world.add(expires_at=900.0, state=Done("t1", SUCCESS))
    assert world.deliver() == [job]
    assert (world.look(), len(world.plan), world.plan.wake_at(0.0)) == ([], 0, math.inf)
    assert world.plan.upstreams["wide"].running == 0


def fetched(world: World, event: Event) -> Job | None:
    """Hand out job 1 for saving, and settle that."""
    world.look()
    if not world.talking:
        world.sleep(world.plan.wake_at(world.now))
    assert isinstance(world.talking[1][0].state, Ready)
    return world.answer(1, event)


def test_dead_links_are_asked_for_again_then_renewed_then_the_picture_is_gone() -> None:
    """A dead link costs a status call, then a call for new links, then the job fails; never a new create."""
    world = World()
    world.add(expires_at=900.0, state=Ready("t1", SUCCESS), save_to="out", retries=3, resubmits=1)
    asking = fetched(world, gone())
    assert asking is not None
    assert asking.state == Running("t1", since=0.0, finished=SUCCESS)
    assert world.plan.upstreams["wide"].running == 1
    assert [job.id for job in world.look()] == [1], "it ended long ago: nothing is gained by waiting"
    again = world.answer(1, SUCCESS)
    assert again is not None
    assert again.state == Ready("t1", SUCCESS, Links.ASKED_AGAIN)
    renewing = fetched(world, gone())
    assert renewing is not None
    assert renewing.state == Ready("t1", SUCCESS, Links.RENEWED)
    fetched(world, gone())
    (job,) = world.deliver()
    assert isinstance(job.state, Failed)
    assert (job.task_id, job.state.outcome, world.creates) == ("t1", SUCCESS, {})
    assert (len(world.plan), world.plan.wake_at(world.now)) == (0, math.inf)


def test_dead_links_are_asked_for_at_once_and_then_by_the_schedule() -> None:
    """A provider that gives no answer about a picture whose links died is not asked again and again at once."""
    world = World()
    world.add(expires_at=900.0, state=Ready("t1", SUCCESS), save_to="out")
    fetched(world, gone())
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
    under_way = set(creating(world))
    for owner in (1, 2, 3):
        world.plan.withhold(owner)
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
    saving = world.add(expires_at=9e9, state=Ready("s", SUCCESS), save_to="out")
    sent, queued = world.add(), world.add()
    other = world.add(owner=2)
    world.look()
    world.plan.withhold(1)
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
    world.plan.withhold(1)
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
    world.plan.withhold(1)
    world.look()
    world.sleep(world.plan.wake_at(world.now))
    world.answer(2, ASKED["broken"](""))
    (job,) = world.deliver()
    assert isinstance(job.state, Failed)
    assert isinstance(job.state.error, GenerationFailed)
    assert (job.task_id, world.creates[2]) == ("t2", 1)


@pytest.mark.parametrize("end", [None, "withhold", "leave", "abandon"])
def test_a_create_may_still_be_sent_until_its_owner_goes(end: str | None) -> None:
    """A create that was handed out and not sent yet may go, unless its owner was withheld, left or was given up."""
    world = answered_world(LIMITS["wide"], jobs=1)
    world.add(owner=2)
    mine, other = world.look()
    assert world.plan.may_send(mine)
    if end is not None:
        world.left.add(1)
        {"withhold": world.plan.withhold, "leave": world.plan.leave, "abandon": world.plan.abandon}[end](1)
    assert world.plan.may_send(mine) == (end is None)
    assert world.plan.may_send(other)


@pytest.mark.parametrize("end", ["withhold", "leave"])
def test_a_create_that_was_withheld_is_left_and_gives_its_place_back(end: str) -> None:
    """A create that was handed out and not sent, for its owner went, is left as queued, and never counted as sent."""
    world = answered_world(LIMITS["wide"], jobs=1)
    world.look()
    {"withhold": world.plan.withhold, "leave": world.leave}[end](1)
    job = world.answer(2, SendAborted())
    assert job is not None
    assert (job.state, job.attempts, job.task_id) == (Left(Queued()), 0, None)
    assert world.deliver() == [job]
    assert (world.plan.upstreams["wide"].running, len(world.plan)) == (0, 0)


def test_a_create_whose_intent_cannot_be_noted_is_unsent() -> None:
    """A journal that cannot be written ends the job as unsent, with that error, and the others go on."""
    world = answered_world(LIMITS["wide"], jobs=2)
    world.look()
    world.answer(2, CREATED["withheld"](""))
    (job,) = world.deliver()
    assert isinstance(job.state, NotAdmitted)
    assert isinstance(job.state.error, JournalError)
    assert (job.attempts, job.state.error.provider) == (0, "wide")
    assert world.plan.upstreams["wide"].stopped is None
    world.drain()
    assert [type(job.state) for job in world.ended] == [Done, NotAdmitted, Done]
