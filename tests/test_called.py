"""What callbacks do to the questions: a called task goes first, once; the more are announced, the later the others."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polling import BROKEN, FIVE, KIND, NOTHING, PENDING, SILENT, SUCCESS, UNTOLD, Step, task

from imagen_async._core.job import Job
from imagen_async._core.poll_queue import PollQueue
from imagen_async._core.poll_schedule import PollSchedule
from imagen_async._core.states import Collected, Relinking
from imagen_async._core.wire import Succeeded, TaskFailed, TaskStatus

FAR = 10_000
"""Numbers of the tasks that only teach."""


def known() -> PollSchedule:
    """A schedule that knows well that tasks take about 5 s."""
    chance, schedule = random.Random(1), PollSchedule(FIVE)
    schedule.recall([(KIND, chance.lognormvariate(math.log(5), 0.35)) for _ in range(400)])
    return schedule


def teach(poll_queue: PollQueue, count: int, *, announced: bool, now: float = 0.0) -> None:
    """Let so many other tasks begin and end, each with a callback or each without."""
    for number in range(FAR, FAR + count):
        poll_queue.expect(task(number, since=now - 5.0), now - 5.0)
        if announced:
            poll_queue.on_callback(number, now)
            assert poll_queue.pop(now) == number
        poll_queue.answered(number, SUCCESS, now)
        poll_queue.forget(number)


def trusting() -> tuple[PollQueue, PollSchedule]:
    """The questions of an account whose last fifty tasks were all announced."""
    schedule = known()
    poll_queue = PollQueue(schedule)
    teach(poll_queue, 50, announced=True)
    assert poll_queue.reliability.share > 0.97
    return poll_queue, schedule


def drained(poll_queue: PollQueue, now: float) -> list[int]:
    """Who is asked about by now, in this order."""
    order = []
    while poll_queue.next_at() <= now:
        order.append(poll_queue.pop(now))
    return order


# First of all, and once


def test_a_called_task_is_asked_about_first() -> None:
    """It goes before those that are late and those that are due, and of several called ones the first goes first."""
    poll_queue = PollQueue(PollSchedule(FIVE))
    for number in range(10):
        poll_queue.expect(task(number), 0.0)
    late = poll_queue.pop(500.0)
    poll_queue.expect(task(10, since=500.0), 500.0, at_once=True)
    called = [number for number in (7, 3, 10, 5) if number != late]
    for number in called:
        poll_queue.on_callback(number, 500.0)
    order = drained(poll_queue, 500.0)
    assert order[: len(called)] == called
    assert sorted([late, *order]) == list(range(11))


@pytest.mark.parametrize("now", [0.0, 0.5, 300.0], ids=["just begun", "soon", "late"])
def test_a_called_task_does_not_wait_for_its_time(now: float) -> None:
    """However long it was to wait yet, it is due at once, and the others at their time."""
    poll_queue = PollQueue(PollSchedule(FIVE))
    poll_queue.expect(task(1), 0.0)
    poll_queue.expect(task(2), 0.0)
    at = poll_queue.next_at()
    poll_queue.on_callback(2, now)
    assert poll_queue.next_at() == -math.inf
    assert (len(poll_queue), poll_queue.pop(now)) == (2, 2)
    assert (len(poll_queue), poll_queue.next_at()) == (1, at)


@pytest.mark.parametrize("again", [1, 5])
def test_a_second_call_changes_nothing(again: int) -> None:
    """A callback that is delivered several times asks one question: before it goes, on its way, and after it."""
    poll_queue, job = PollQueue(PollSchedule(FIVE)), task(1)
    poll_queue.expect(job, 0.0)
    for _ in range(1 + again):
        poll_queue.on_callback(1, 2.0)
    assert (len(poll_queue), poll_queue.pop(2.0)) == (1, 1)
    for _ in range(again):
        poll_queue.on_callback(1, 2.1)
    assert (len(poll_queue), poll_queue.next_at()) == (0, math.inf)
    poll_queue.answered(1, PENDING, 2.2)
    poll_queue.expect(job, 2.2)
    at = poll_queue.next_at()
    assert 2.2 < at < math.inf
    for _ in range(again):
        poll_queue.on_callback(1, 2.3)
    assert (len(poll_queue), poll_queue.next_at()) == (1, at)


@pytest.mark.parametrize("event", [PENDING, NOTHING, SILENT], ids=["pending", "unreadable", "denied"])
def test_a_call_during_a_question_asks_one_more(event: TaskStatus) -> None:
    """The answer on its way may be older than the end: where it tells of none, one more question goes, and no third."""
    poll_queue, job = PollQueue(PollSchedule(FIVE)), task(1)
    poll_queue.expect(job, 0.0, at_once=True)
    poll_queue.pop(0.0)
    poll_queue.on_callback(1, 3.0)
    assert (len(poll_queue), poll_queue.next_at()) == (0, math.inf)
    poll_queue.answered(1, event, 3.1)
    poll_queue.expect(job, 3.1)
    assert (len(poll_queue), poll_queue.next_at(), poll_queue.pop(3.1)) == (1, -math.inf, 1)
    poll_queue.answered(1, event, 3.2)
    poll_queue.expect(job, 3.2)
    assert 3.2 < poll_queue.next_at() < math.inf


@pytest.mark.parametrize("event", [SUCCESS, UNTOLD, BROKEN], ids=["told", "untold", "broken"])
def test_a_call_during_the_last_question_asks_no_more(event: TaskStatus) -> None:
    """Where the answer on its way tells of the end, the callback that came meanwhile asks nothing, and has counted."""
    poll_queue = PollQueue(PollSchedule(FIVE))
    poll_queue.expect(task(1), 0.0)
    poll_queue.pop(100.0)
    poll_queue.on_callback(1, 100.0)
    poll_queue.answered(1, event, 100.1)
    poll_queue.forget(1)
    assert (len(poll_queue), poll_queue.next_at()) == (0, math.inf)
    assert poll_queue.reliability.share == pytest.approx(1 / 2)


@pytest.mark.parametrize("when", ["called", "on its way", "answered", "late"])
def test_who_is_forgotten_after_a_call_leaves_nothing(when: str) -> None:
    """A called task that is forgotten is asked about no more, and as a new one like any other."""
    poll_queue = PollQueue(PollSchedule(FIVE))
    poll_queue.expect(task(1), 0.0)
    if when == "late":
        poll_queue.expect(task(2), 0.0)
        poll_queue.forget(poll_queue.pop(500.0))
    number = 1 if when != "late" else poll_queue.pop(500.0)
    poll_queue.expect(task(number), 500.0)
    poll_queue.on_callback(number, 500.0)
    if when in ("on its way", "answered"):
        assert poll_queue.pop(500.0) == number
    if when == "answered":
        poll_queue.answered(number, PENDING, 500.0)
        poll_queue.expect(task(number), 500.0)
    poll_queue.forget(number)
    poll_queue.on_callback(number, 500.0)
    assert (len(poll_queue), poll_queue.next_at(), bool(poll_queue)) == (0, math.inf, False)
    poll_queue.expect(task(number, since=600.0), 600.0)
    assert 600.0 < poll_queue.next_at() < math.inf


def test_a_call_about_nobody_is_nothing() -> None:
    """A callback about a task that is not asked about asks nothing, before it begins and after it has ended."""
    poll_queue = PollQueue(PollSchedule(FIVE))
    poll_queue.on_callback(1, 0.0)
    assert (len(poll_queue), poll_queue.next_at(), poll_queue.reliability.share) == (0, math.inf, 0)
    poll_queue.expect(task(1), 0.0)
    assert poll_queue.next_at() > 0


# By which schedule


def test_after_a_call_the_plain_schedule_holds() -> None:
    """A task whose callback has come, and that is not seen to have ended, is asked about as if there were no others."""
    poll_queue, schedule = trusting()
    job = task(1)
    poll_queue.expect(job, 0.0)
    assert poll_queue.next_at() == schedule.next_age(KIND, 0.0, poll_queue.reliability.share)
    poll_queue.on_callback(1, 4.0)
    poll_queue.pop(4.0)
    for now in (4.0, 5.0, 60.0):
        poll_queue.answered(1, PENDING, now)
        poll_queue.expect(job, now)
        assert poll_queue.next_at() == schedule.next_age(KIND, now)
        assert poll_queue.next_at() < schedule.next_age(KIND, now, poll_queue.reliability.share)


@pytest.mark.parametrize("event", [NOTHING, SILENT], ids=["unreadable", "denied"])
def test_a_call_whose_question_is_not_answered_is_asked_about_again(event: TaskStatus) -> None:
    """Where no answer comes, a task that is said to have ended is asked about a second later, until there is one."""
    schedule = known()
    poll_queue, job = PollQueue(schedule), task(1)
    poll_queue.expect(job, 0.0)
    poll_queue.on_callback(1, 100.0)
    now = 100.0
    for _ in range(4):
        assert poll_queue.pop(now) == 1
        poll_queue.answered(1, event, now)
        poll_queue.expect(job, now)
        assert (len(poll_queue), poll_queue.next_at()) == (1, now + 1)
        now += 1
    assert poll_queue.pop(now) == 1
    poll_queue.answered(1, PENDING, now)
    poll_queue.expect(job, now)
    assert poll_queue.next_at() == schedule.next_age(KIND, now)


@pytest.mark.parametrize(
    ("state", "at_once"),
    [({}, True), ({"kind": Collected}, True), ({"kind": Relinking, "outcome": SUCCESS}, False)],
    ids=["taken up", "named by its id", "dead links"],
)
def test_no_callback_is_waited_for_by_what_was_taken_up(state: dict[str, Any], at_once: bool) -> None:
    """The callbacks of another process's tasks do not come here: they are asked about by the plain schedule."""
    poll_queue, schedule = trusting()
    job = task(1, **state)
    poll_queue.expect(job, 0.0, at_once=at_once)
    assert poll_queue.pop(0.0) == 1
    for now in (0.0, 4.0, 60.0):
        poll_queue.answered(1, PENDING, now)
        poll_queue.expect(job, now)
        assert poll_queue.next_at() == schedule.next_age(KIND, now)


@pytest.mark.parametrize(
    "state", [{}, {"kind": Collected}, {"kind": Relinking, "outcome": SUCCESS}], ids=["run", "by id", "dead links"]
)
def test_what_was_taken_up_says_nothing_of_callbacks(state: dict[str, Any]) -> None:
    """Ends of tasks that another process began count neither for callbacks nor against them."""
    poll_queue = PollQueue(known())
    teach(poll_queue, 3, announced=True)
    share = poll_queue.reliability.share
    for number in range(40):
        poll_queue.expect(task(number, **state), 0.0, at_once=True)
        if number % 2:
            poll_queue.on_callback(number, 5.0)
        poll_queue.answered(number, SUCCESS, 5.0)
        poll_queue.forget(number)
        poll_queue.on_callback(number, 6.0)
    assert poll_queue.reliability.share == share
    assert (len(poll_queue), poll_queue.next_at()) == (0, math.inf)


def test_a_called_task_that_was_taken_up_goes_first_too() -> None:
    """A callback that reaches this process all the same is a reason to ask."""
    poll_queue = PollQueue(PollSchedule(FIVE))
    for number in range(5):
        poll_queue.expect(task(number), 0.0, at_once=True)
    poll_queue.on_callback(3, 0.0)
    assert drained(poll_queue, 0.0) == [3, 0, 1, 2, 4]


# What is learned


def test_the_callback_tells_when_a_task_ended() -> None:
    """Where the provider tells no latency, a task has ended when its callback came, and not when it was asked about."""
    schedule = PollSchedule(FIVE)
    poll_queue = PollQueue(schedule)
    for number in range(100):
        poll_queue.expect(task(number), 0.0)
        poll_queue.on_callback(number, 12.0)
        assert poll_queue.pop(40.0) == number
        poll_queue.answered(number, UNTOLD, 40.0)
        poll_queue.forget(number)
    assert schedule.mean({KIND: 1}) == pytest.approx(12.0, rel=0.1)


def test_an_end_counts_for_callbacks_or_against_them() -> None:
    """An end is announced where its callback came before the answer; one that comes after it makes it good."""
    poll_queue = PollQueue(known())
    teach(poll_queue, 1, announced=True)
    assert poll_queue.reliability.share == pytest.approx(1 / 2)
    poll_queue.expect(task(1), 0.0)
    poll_queue.answered(1, SUCCESS, 9.0)
    poll_queue.forget(1)
    assert poll_queue.reliability.share == pytest.approx(1 / 3)
    poll_queue.on_callback(1, 9.5)
    assert poll_queue.reliability.share == pytest.approx(2 / 3)
    poll_queue.on_callback(1, 9.6)
    assert poll_queue.reliability.share == pytest.approx(2 / 3)


@pytest.mark.parametrize("event", [PENDING, NOTHING, SILENT], ids=["pending", "unreadable", "denied"])
def test_what_has_not_ended_says_nothing_of_callbacks(event: TaskStatus) -> None:
    """A question without an end is no miss, and a callback is no announcement before its task is seen to have ended."""
    poll_queue = PollQueue(known())
    teach(poll_queue, 3, announced=True)
    share = poll_queue.reliability.share
    for number in range(20):
        poll_queue.expect(task(number), 0.0)
        if number % 2:
            poll_queue.on_callback(number, 1.0)
        poll_queue.answered(number, event, 2.0)
    assert poll_queue.reliability.share == share


def test_callbacks_put_the_other_questions_off_and_misses_bring_them_back() -> None:
    """The question of a task that runs moves to a later time as others are announced, and forward as they are not."""
    schedule = known()
    poll_queue = PollQueue(schedule)
    poll_queue.expect(task(1), 0.0)
    times = [poll_queue.next_at()]
    for announced in (1, 2, 4, 8, 16):
        teach(poll_queue, announced, announced=True)
        times.append(poll_queue.next_at())
    assert times == sorted(set(times)), "later each time"
    assert times[0] == pytest.approx(schedule.next_age(KIND, 0.0), rel=0.05)
    assert times[-1] > 1.5 * times[0]
    for _ in range(8):
        teach(poll_queue, 2, announced=False)
        times.append(poll_queue.next_at())
    after = times[6:]
    assert after == sorted(after, reverse=True), "never later"
    assert after[-1] == pytest.approx(times[0], rel=0.05)


def test_one_miss_does_not_move_the_others() -> None:
    """What changes the trust by less than half leaves the questions where they are: to move all of them is work."""
    poll_queue, _ = trusting()
    poll_queue.expect(task(1), 0.0)
    at = poll_queue.next_at()
    teach(poll_queue, 5, announced=True)
    assert poll_queue.next_at() == at


def test_moving_the_others_leaves_the_called_and_the_asked() -> None:
    """Trust that is lost moves the questions that wait: not those that are called, nor those on their way."""
    poll_queue, _ = trusting()
    jobs = {number: task(number) for number in range(6)}
    for job in jobs.values():
        poll_queue.expect(job, 0.0)
    poll_queue.on_callback(4, 1.0)
    assert poll_queue.pop(1.0) == 4
    poll_queue.on_callback(2, 1.0)
    before = poll_queue.reliability.share
    teach(poll_queue, 6, announced=False)
    assert poll_queue.reliability.share < before / 2 + 0.25
    assert len(poll_queue) == 5
    assert drained(poll_queue, 1000.0)[0] == 2
    poll_queue.answered(4, PENDING, 1000.0)
    poll_queue.expect(jobs[4], 1000.0)
    assert drained(poll_queue, 2000.0) == [4]


# Whatever comes


class World:
    """The questions of some tasks beside a simple model of them: who waits, who is called, whose question is out."""

    def __init__(self) -> None:
        self.poll_queue = PollQueue(PollSchedule(FIVE))
        self.now = 0.0
        self.jobs: dict[int, Job] = {}
        self.waiting: set[int] = set()
        self.called: list[int] = []
        self.heard: set[int] = set()
        self.pending: set[int] = set()

    def expect(self, number: int, **terms: bool) -> None:
        """Set the next question about a task, the first one or the one after an answer."""
        job = self.jobs.setdefault(number, task(number, since=self.now))
        self.poll_queue.expect(job, self.now, **terms)
        self.waiting.add(number)
        if number in self.pending:
            self.pending.remove(number)
            self.called.append(number)

    def call(self, number: int) -> None:
        """A callback comes, about whomever."""
        self.poll_queue.on_callback(number, self.now)
        if number in self.jobs and number not in self.heard:
            self.heard.add(number)
            if number in self.waiting:
                self.called.append(number)
            else:
                self.pending.add(number)

    def pop(self) -> int:
        """Ask about one: the called first, and nobody twice."""
        number = self.poll_queue.pop(self.now)
        if self.called:
            assert number == self.called.pop(0)
        self.waiting.remove(number)
        return number

    def answer(self, number: int, event: TaskStatus) -> None:
        """Hear what came of a question."""
        self.poll_queue.answered(number, event, self.now)
        if isinstance(event, Succeeded | TaskFailed):
            self.forget(number)
        else:
            self.expect(number)

    def forget(self, number: int) -> None:
        """A task is asked about no more."""
        self.poll_queue.forget(number)
        self.jobs.pop(number, None)
        for known_of in (self.waiting, self.heard, self.pending):
            known_of.discard(number)
        self.called = [each for each in self.called if each != number]

    def check(self) -> None:
        """The questions and the model tell the same."""
        assert len(self.poll_queue) == len(self.waiting)
        assert (self.poll_queue.next_at() == math.inf) == (not self.waiting)
        assert not self.called or self.poll_queue.next_at() == -math.inf
        assert 0 <= self.poll_queue.reliability.share < 1

    def play(self, what: str, number: int, seconds: float) -> None:
        """Do one thing, where it can be done."""
        if what == "wait":
            self.now += seconds
        elif what == "expect" and number not in self.jobs:
            self.expect(number, at_once=seconds > 8)
        elif what == "call":
            self.call(number)
        elif what == "pop" and self.poll_queue.next_at() <= self.now:
            self.pop()
        elif what == "forget":
            self.forget(number)
        elif what in ANSWERS and number in self.jobs and number not in self.waiting:
            self.answer(number, ANSWERS[what])
        self.check()


ANSWERS: dict[str, TaskStatus] = {
    "pending": PENDING,
    "succeeded": SUCCESS,
    "untold": UNTOLD,
    "broken": BROKEN,
    "nothing": NOTHING,
}
WORDS = ["expect", "expect", "wait", "wait", "call", "call", "pop", "pop", "pop", "forget", "pending", *ANSWERS]
STEPS = st.lists(st.tuples(st.sampled_from(WORDS), st.integers(1, 8), st.floats(0, 10)), max_size=100)


@settings(deadline=None, max_examples=60)
@given(steps=STEPS)
def test_every_question_is_handed_out_once_and_the_called_first(steps: list[Step]) -> None:
    """Whatever comes and goes, who is called goes first, nobody is handed out twice, and all are in the end."""
    world = World()
    for step in steps:
        world.play(*step)
    world.now += 1000.0
    waiting = set(world.waiting)
    assert {world.pop() for _ in range(len(waiting))} == waiting
    world.check()
    assert (len(world.poll_queue), world.poll_queue.next_at()) == (0, math.inf)


def test_a_crowd_is_handed_out_once_each() -> None:
    """Of a hundred tasks under a limit, half of them called when they end, each is asked about until it has ended."""
    chance, world = random.Random(3), World()
    ends = {number: chance.lognormvariate(math.log(5), 0.5) for number in range(100)}
    for number in ends:
        world.expect(number)
    seen: list[int] = []
    for turn in range(2000):
        world.now = turn / 10
        for number in list(ends):
            if number % 2 and number in world.jobs and ends[number] <= world.now:
                world.call(number)
        if world.poll_queue.next_at() <= world.now:
            number = world.pop()
            has_ended = ends[number] <= world.now
            world.answer(number, UNTOLD if has_ended else PENDING)
            seen += [number] * has_ended
        world.check()
    assert sorted(seen) == list(range(100))
    assert not world.poll_queue


def test_a_reset_postpones_nothing_that_was_to_go_at_once() -> None:
    """What waits for no callback of its own, such as a task named by its id, is not moved when trust changes."""
    poll_queue = PollQueue(PollSchedule(FIVE))
    poll_queue.expect(task(99, since=100.0, kind=Collected), 100.0, at_once=True)
    poll_queue.expect(task(1, since=96.0), 96.0)
    poll_queue.on_callback(1, 100.0)
    assert poll_queue.pop(100.0) == 1
    poll_queue.answered(1, SUCCESS, 100.1)
    poll_queue.forget(1)
    assert poll_queue.next_at() == 100.0
