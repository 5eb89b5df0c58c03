"""Whose status is asked next: each when it is due, the most worthwhile first when many are late, all in the end."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polling import BROKEN, FIVE, KIND, NOTHING, PENDING, SILENT, SUCCESS, UNTOLD, Step, task

from imagen_async._core.job import Job
from imagen_async._core.poll_queue import PollQueue
from imagen_async._core.poll_schedule import Kind, PollSchedule
from imagen_async._core.states import Collected, Relinking
from imagen_async._core.wire import Succeeded, TaskFailed, TaskStatus


class World:
    """The questions of some tasks beside a simple model of them: a list of who is due when."""

    def __init__(self) -> None:
        self.schedule = PollSchedule(FIVE)
        self.poll_queue = PollQueue(self.schedule)
        self.now = 0.0
        self.jobs: dict[int, Job] = {}
        self.asked: dict[int, float] = {}
        self.due: dict[int, float] = {}

    def expect(self, number: int, **terms: bool) -> None:
        """Set the next question about a task, the first one or the one after an answer."""
        new = task(number, since=self.now)
        job = self.jobs.setdefault(number, new)
        since = job.state.since  # type: ignore[union-attr]
        self.poll_queue.expect(job, self.now, **terms)
        age = self.asked.get(number, since) - since
        self.due[number] = self.now if terms.get("at_once") else since + self.schedule.next_age(KIND, age)

    def answer(self, number: int, event: TaskStatus) -> None:
        """Hear what came of a question."""
        self.poll_queue.answered(number, event, self.now)
        self.asked[number] = self.now
        if isinstance(event, Succeeded | TaskFailed):
            self.forget(number)
        else:
            self.expect(number)

    def forget(self, number: int) -> None:
        """A task is asked about no more."""
        self.poll_queue.forget(number)
        for known in (self.jobs, self.asked, self.due):
            known.pop(number, None)

    def pop(self) -> int:
        """Ask about one that is due."""
        number = self.poll_queue.pop(self.now)
        assert self.due.pop(number) <= self.now, "it was due, and had not been handed out already"
        return number

    def check(self) -> None:
        """The questions and the list tell the same."""
        assert len(self.poll_queue) == len(self.due)
        assert bool(self.poll_queue) == bool(self.due)
        first = min(self.due.values(), default=math.inf)
        assert (self.poll_queue.next_at() <= self.now) == (first <= self.now)
        if first > self.now:
            assert self.poll_queue.next_at() == first

    def play(self, what: str, number: int, seconds: float) -> None:
        """Do one thing, where it can be done."""
        waiting = number in self.due
        if what == "wait":
            self.now += seconds
        elif what == "expect" and number not in self.jobs:
            self.expect(number, at_once=seconds > 5)
        elif what == "pop" and self.poll_queue.next_at() <= self.now:
            self.pop()
        elif what == "forget":
            self.forget(number)
        elif what in ANSWERS and number in self.jobs and not waiting:
            self.answer(number, ANSWERS[what])
        self.check()


ANSWERS = {"pending": PENDING, "succeeded": SUCCESS, "untold": UNTOLD, "broken": BROKEN, "nothing": NOTHING}
WORDS = ["expect", "expect", "wait", "wait", "pop", "pop", "pop", "forget", "pending", *ANSWERS]
STEPS = st.lists(st.tuples(st.sampled_from(WORDS), st.integers(1, 12), st.floats(0, 10)), max_size=120)


def played(steps: list[Step]) -> World:
    """A world in which all of this was done."""
    world = World()
    for step in steps:
        world.play(*step)
    return world


@settings(deadline=None)
@given(steps=STEPS)
def test_each_question_is_handed_out_once_and_when_it_is_due(steps: list[Step]) -> None:
    """Whatever comes and goes, a question is handed out at its time or later, once, and the next time is told."""
    played(steps)


@settings(deadline=None)
@given(steps=STEPS)
def test_every_question_is_handed_out_in_the_end(steps: list[Step]) -> None:
    """Whatever came before, all that wait to be asked about are handed out once their time has come."""
    world = played(steps)
    world.now += 100.0
    waiting = set(world.due)
    assert {world.pop() for _ in range(len(waiting))} == waiting
    world.check()
    assert (len(world.poll_queue), world.poll_queue.next_at()) == (0, math.inf)


@settings(deadline=None)
@given(steps=STEPS, gone=st.sets(st.integers(1, 12)))
def test_who_is_forgotten_is_not_handed_out(steps: list[Step], gone: set[int]) -> None:
    """A task that is forgotten is asked about no more, also when it was due, late or next in turn already."""
    world = played(steps)
    world.now += 100.0
    if world.due:
        world.pop()  # from here on the others are late
    for number in gone:
        world.forget(number)
    world.check()
    assert not gone & {world.pop() for _ in range(len(world.due))}
    assert world.poll_queue.next_at() == math.inf


def test_a_task_that_was_forgotten_may_come_back() -> None:
    """A task's job whose links died, or that got a new task, is asked about anew, by its new age."""
    poll_queue = PollQueue(PollSchedule(FIVE))
    poll_queue.expect(task(1), 0.0)
    poll_queue.answered(1, PENDING, 3.0)
    poll_queue.forget(1)
    poll_queue.expect(task(1, since=100.0), 100.0)
    assert poll_queue.next_at() == 100.0 + PollSchedule(FIVE).next_age(KIND, 0.0)


# In time, and late


def crowd(ages: list[float]) -> tuple[PollQueue, PollSchedule]:
    """Tasks of these ages at 1000 s, of which nobody has asked yet."""
    schedule = PollSchedule(FIVE)
    schedule.recall([(KIND, 5.0), (KIND, 6.0), (KIND, 30.0)] * 40)
    poll_queue = PollQueue(schedule)
    for number, age in enumerate(ages):
        poll_queue.expect(task(number, since=1000.0 - age), 1000.0 - age)
    return poll_queue, schedule


def test_in_time_they_go_by_their_time() -> None:
    """While each question goes at its time, the earliest is first."""
    poll_queue, _ = crowd([0.4, 0.3, 0.2, 0.1])
    order = []
    while poll_queue:
        order.append(poll_queue.pop(poll_queue.next_at()))
    assert order == [0, 1, 2, 3]


@settings(deadline=None)
@given(
    never=st.lists(st.floats(20, 500), min_size=1, max_size=7),
    once=st.lists(st.tuples(st.floats(20, 500), st.floats(0, 1)), max_size=7),
)
def test_when_late_the_most_expected_waiting_goes_first(never: list[float], once: list[tuple[float, float]]) -> None:
    """Of few questions that the limit has kept, the next is always that with the most waiting expected by now."""
    ages = never + [age for age, _ in once]
    poll_queue, schedule = crowd(ages)
    last = dict.fromkeys(range(len(ages)), 0.0)
    for number, (age, part) in enumerate(once, start=len(never)):
        last[number] = age * part
        job, now = task(number, since=1000.0 - age), 1000.0 - age + age * part
        poll_queue.answered(number, NOTHING, now)
        poll_queue.expect(job, now)
    order = []
    while poll_queue.next_at() <= 1000.0:
        order.append(poll_queue.pop(1000.0))
    waits = [schedule.waiting(KIND, last[number], ages[number]) for number in order]
    assert len(order) >= len(never)
    assert all(first >= then - 1e-6 for first, then in itertools.pairwise(waits))


def test_of_many_late_ones_the_first_eighth_goes_first() -> None:
    """Of many that are late, those with the most expected waiting go before the others, if not in exact order."""
    chance = random.Random(5)
    ages = [chance.uniform(20, 900) for _ in range(400)]
    poll_queue, schedule = crowd(ages)
    order = [poll_queue.pop(1000.0) for _ in ages]
    waits = [schedule.waiting(KIND, 0.0, age) for age in ages]
    most = sorted(range(400), key=waits.__getitem__, reverse=True)
    assert set(order[:50]) == set(most[:50])
    assert sorted(order) == list(range(400))


# A limit that binds for long


class Crowded:
    """A hundred running tasks at a time and ten status calls a second, answered at once."""

    def __init__(self, draw: Callable[[int], float], schedule: PollSchedule | None = None) -> None:
        self.poll_queue = PollQueue(schedule or PollSchedule(FIVE))
        self.gaps: dict[int, list[float]] = {}
        self.unseen: list[float] = []
        self._draw = draw
        self._begun: dict[int, tuple[Job, float]] = {}
        self._asked: dict[int, float] = {}
        self._count = 0

    def run(self, seconds: float) -> None:
        """Begin a new task for each that was seen to end."""
        for turn in range(int(10 * seconds)):
            now = turn / 10
            while len(self._begun) < 100:
                self._begin(now)
            if self.poll_queue.next_at() <= now:
                self._ask(self.poll_queue.pop(now), now)

    def waited(self, now: float) -> float:
        """The longest that any task was not asked about, those that still wait included."""
        still = [now - asked for asked in self._asked.values()]
        return max(still + [gap for gaps in self.gaps.values() for gap in gaps])

    def _begin(self, now: float) -> None:
        job = task(self._count, since=now)
        self._begun[job.id] = job, now + self._draw(self._count)
        self._asked[job.id] = now
        self._count += 1
        self.poll_queue.expect(job, now)

    def _ask(self, number: int, now: float) -> None:
        job, end = self._begun[number]
        self.gaps.setdefault(number, []).append(now - self._asked[number])
        self._asked[number] = now
        if end > now:
            self.poll_queue.answered(number, PENDING, now)
            self.poll_queue.expect(job, now)
            return
        self.unseen.append(now - end)
        self.poll_queue.answered(number, UNTOLD, now)
        self.poll_queue.forget(number)
        del self._begun[number], self._asked[number]


LAW = (math.log(5), 0.35)
CROWDS: dict[str, Callable[[random.Random], Callable[[int], float]]] = {
    "all alike": lambda chance: lambda number: chance.lognormvariate(*LAW),
    "ten never end": lambda chance: lambda number: math.inf if number < 10 else chance.lognormvariate(*LAW),
    "half never end": lambda chance: lambda number: math.inf if number < 50 else chance.lognormvariate(*LAW),
    "some are very slow": lambda chance: lambda number: 1000 if number % 50 == 0 else 6 * chance.lognormvariate(*LAW),
}


@pytest.mark.parametrize("name", CROWDS)
def test_nobody_starves(name: str) -> None:
    """With ten calls a second for a hundred running tasks, each is asked about within a minute, stragglers too."""
    crowded = Crowded(CROWDS[name](random.Random(6)))
    crowded.run(300)
    assert len(crowded.unseen) > 300
    assert crowded.waited(300.0) < 60


def test_stragglers_give_way() -> None:
    """Tasks that are hardly expected to end any more are asked about less often than those that are."""
    crowded = Crowded(CROWDS["ten never end"](random.Random(6)))
    crowded.run(300)
    slow = [gap for number in range(10) for gap in crowded.gaps[number]]
    others = [gap for number, gaps in crowded.gaps.items() if number >= 10 for gap in gaps]
    assert statistics.fmean(slow) > 1.5 * statistics.fmean(others)


class InTurn(PollSchedule):
    """Learns as ever, but when late whoever was asked about longest ago goes first."""

    def waiting(self, kind: Kind, asked: float, age: float, announced: float = 0.0) -> float:
        """The time since the last question."""
        return age - asked


def test_the_order_shows_pictures_sooner_than_asking_in_turn() -> None:
    """Where the limit binds, pictures are seen sooner than when each task is asked about in its turn."""
    ours, in_turn = (Crowded(CROWDS["half never end"](random.Random(6)), kind(FIVE)) for kind in (PollSchedule, InTurn))
    for crowded in (ours, in_turn):
        crowded.run(300)
    assert statistics.fmean(ours.unseen) < 0.8 * statistics.fmean(in_turn.unseen)
    assert len(ours.unseen) >= len(in_turn.unseen)


# What is learned


def said(schedule: PollSchedule) -> tuple[float, ...]:
    """What a schedule says of the kind."""
    asked = (0.0, 2.0, 4.0, 8.0, 40.0)
    return schedule.mean({KIND: 1}), *(schedule.next_age(KIND, age) for age in asked)


def told(event: TaskStatus, **state: Any) -> PollSchedule:
    """A schedule after twenty tasks, asked about at the age of 3 s without an end, came to this 40 s later."""
    schedule = PollSchedule(FIVE)
    poll_queue = PollQueue(schedule)
    for number in range(20):
        job = task(number, **state)
        poll_queue.expect(job, 0.0)
        poll_queue.answered(number, PENDING, 3.0)
        poll_queue.expect(job, 3.0)
        poll_queue.answered(number, event, 43.0)
        poll_queue.forget(number)
    return schedule


@pytest.mark.parametrize(
    ("event", "least", "most"),
    [(SUCCESS, 3.9, 4.5), (UNTOLD, 3.0, 43.0), (BROKEN, 3.0, 43.0)],
    ids=["told", "untold", "broken"],
)
def test_a_task_that_ended_teaches(event: TaskStatus, least: float, most: float) -> None:
    """An end teaches its latency, or where none is told that it lies between the last two questions."""
    assert said(told(event)) != said(PollSchedule(FIVE))
    assert least <= told(event).mean({KIND: 1}) <= most


def test_a_task_that_ended_over_night_teaches_little() -> None:
    """Untold ends that are seen a day after the last question leave the mean what tasks of this kind take."""
    schedule = PollSchedule(FIVE)
    schedule.recall([(KIND, 5.0)] * 200)
    poll_queue = PollQueue(schedule)
    for number in range(50):
        poll_queue.expect(task(number), 86_400.0, at_once=True)
        poll_queue.answered(number, UNTOLD, 86_400.0)
    assert schedule.mean({KIND: 1}) == pytest.approx(5, rel=0.1)


def test_it_knows_when_a_task_was_last_heard_of() -> None:
    """A task is heard of when it begins and when it is said to run, and not by a question without an answer."""
    poll_queue, job = PollQueue(PollSchedule(FIVE)), task(1, since=7.0)
    poll_queue.expect(job, 7.0)
    heard = [poll_queue.heard_at(job)]
    for now, event in ((9.0, PENDING), (12.0, NOTHING), (15.0, SILENT), (20.0, PENDING)):
        poll_queue.answered(1, event, now)
        heard.append(poll_queue.heard_at(job))
    assert heard == [7.0, 9.0, 9.0, 9.0, 20.0]


@pytest.mark.parametrize("event", [SUCCESS, UNTOLD, BROKEN], ids=["told", "untold", "broken"])
@pytest.mark.parametrize(
    "state", [{"kind": Collected}, {"kind": Relinking, "outcome": SUCCESS}], ids=["collected", "dead links"]
)
def test_a_task_whose_age_means_nothing_teaches_nothing(event: TaskStatus, state: dict[str, Any]) -> None:
    """One that was named by its id, or whose links died, says nothing of how long tasks take."""
    assert said(told(event, **state)) == said(PollSchedule(FIVE))


@pytest.mark.parametrize("event", [NOTHING, SILENT], ids=["unreadable", "denied"])
def test_no_answer_teaches_nothing(event: TaskStatus) -> None:
    """A question that brought no answer is not taken for a task that still ran, nor for one that ended."""
    schedule, only = PollSchedule(FIVE), PollSchedule(FIVE)
    for each, events in ((schedule, [event, SUCCESS]), (only, [SUCCESS])):
        poll_queue = PollQueue(each)
        poll_queue.expect(task(1), 0.0)
        for happened in events:
            poll_queue.answered(1, happened, 50.0)
    assert said(schedule) == said(only)


@pytest.mark.parametrize("other", [{"images": 4}, {"model": "imagen4-fast"}], ids=["more pictures", "another model"])
def test_tasks_of_another_kind_teach_nothing(other: dict[str, Any]) -> None:
    """What tasks of another model, or of another number of pictures, have taken says nothing of these."""
    schedule = PollSchedule(FIVE)
    poll_queue, job = PollQueue(schedule), task(1, **other)
    poll_queue.expect(job, 0.0)
    poll_queue.answered(1, SUCCESS, 50.0)
    kind = (other.get("model", KIND[0]), other.get("images", KIND[1]))
    assert said(schedule) == said(PollSchedule(FIVE))
    assert schedule.mean({kind: 1}) != schedule.mean({KIND: 1})


def test_tasks_that_still_run_teach() -> None:
    """Of ninety tasks that run on at 60 s, beside ten that ended at 4 s, the next is not expected to be done at 5 s."""
    schedule, quick = PollSchedule(FIVE), PollSchedule(FIVE)
    for each, slow in ((schedule, 90), (quick, 0)):
        poll_queue = PollQueue(each)
        for number in range(10 + slow):
            poll_queue.expect(task(number), 0.0)
            poll_queue.answered(number, PENDING if number < slow else SUCCESS, 60.0)
    assert quick.waiting(KIND, 0.0, 20.0) > 12
    assert schedule.waiting(KIND, 0.0, 20.0) < 6


@pytest.mark.parametrize("event", [PENDING, NOTHING, SILENT], ids=["pending", "unreadable", "denied"])
def test_after_each_answer_the_next_question_waits(event: TaskStatus) -> None:
    """Whatever came of a question, and were it nothing, the next one comes by the schedule and not at once."""
    poll_queue, job = PollQueue(PollSchedule(FIVE)), task(1)
    poll_queue.expect(job, 0.0, at_once=True)
    assert poll_queue.pop(0.0) == 1
    for now in (0.5, 4.0, 50.0):
        poll_queue.answered(1, event, now)
        poll_queue.expect(job, now)
        assert now + PollSchedule(FIVE).freshness <= poll_queue.next_at() <= now + 30


def test_an_answer_about_a_forgotten_task_is_nothing() -> None:
    """An answer that comes when nobody waits for the task any more teaches nothing, and brings no question back."""
    schedule = PollSchedule(FIVE)
    poll_queue = PollQueue(schedule)
    poll_queue.expect(task(1), 0.0, at_once=True)
    poll_queue.pop(0.0)
    poll_queue.forget(1)
    poll_queue.answered(1, SUCCESS, 50.0)
    assert said(schedule) == said(PollSchedule(FIVE))
    assert (len(poll_queue), poll_queue.next_at()) == (0, math.inf)


@pytest.mark.parametrize(
    ("state", "at_once"), [({}, False), ({"kind": Relinking, "outcome": SUCCESS}, True)], ids=["runs", "dead links"]
)
def test_what_ended_long_ago_is_asked_about_at_once(state: dict[str, Any], at_once: bool) -> None:
    """A task that is asked for new links is asked at once, one that has just begun is given its time."""
    poll_queue = PollQueue(PollSchedule(FIVE))
    poll_queue.expect(task(1, since=7.0, **state), 7.0)
    assert (poll_queue.next_at() == 7.0) == at_once
