"""Whose status is asked next: each when it is due, the called first, and of the late the most worthwhile."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from typing import Any

import msgspec
import pytest
from builders import failure, make_job
from hypothesis import given, settings
from hypothesis import strategies as st
from polling import BROKEN, FIVE, KIND, NOTHING, PENDING, SILENT, SUCCESS, UNTOLD, task

from imagen_async._core.callback_reliability import CallbackReliability
from imagen_async._core.job import Job
from imagen_async._core.poll_queue import PollQueue
from imagen_async._core.poll_schedule import Kind, PollSchedule
from imagen_async._core.states import Collected, Confirming, Relinking, Running
from imagen_async._core.wire import Succeeded, TaskFailed, TaskStatus
from imagen_async.errors import UnknownOutcome

LATE = 0.2
"""Seconds up to which a question is still one that goes at its time."""

ANSWERS = {
    "pending": PENDING,
    "ended": SUCCESS,
    "untold": UNTOLD,
    "broken": BROKEN,
    "nothing": NOTHING,
    "denied": SILENT,
}


def met(number: int, since: float) -> Job:
    """A task of one of five sorts: most run, and some were named by their id, lost their links, or are only named."""
    match number:
        case 6:
            return task(number, since, model="imagen4-fast", images=4)
        case 7:
            return task(number, since, Collected)
        case 8:
            return task(number, since, Relinking, outcome=SUCCESS)
        case 9:
            unknown = failure(UnknownOutcome)
            return make_job(number, Confirming(unknown, since=since, until=since + 60, task_id="t9"))
    return task(number, since)


class Notes(PollSchedule):
    """A schedule that tells what it was told."""

    def __init__(self) -> None:
        super().__init__(FIVE)
        self.told: list[tuple[Any, ...]] = []

    def lasted(self, kind: Kind, after: float, age: float) -> None:
        """It ran on."""
        self.told.append(("lasted", kind, after, age))
        super().lasted(kind, after, age)

    def ended(self, kind: Kind, after: float, by: float, latency: float | None) -> None:
        """It has ended."""
        self.told.append(("ended", kind, after, by, latency))
        super().ended(kind, after, by, latency)


class Watched(msgspec.Struct):
    """A task as the list has it.

    Its age is known where it `runs`, and where it `is_ours` its callback would come here. It was last `asked` about and
    last `seen` to run, and is `due` at a time, or None while its question is out. It `was_called` at a time, and
    `is_called` until it is asked about for that; `is_untold` where the last question brought no answer.
    """

    job: Job
    runs: bool
    is_ours: bool
    asked: float
    seen: float
    due: float | None = None
    was_called: float | None = None
    is_called: bool = False
    is_untold: bool = False

    @property
    def since(self) -> float:
        """From when its age counts."""
        return self.job.state.since  # type: ignore[union-attr]

    @property
    def kind(self) -> Kind:
        """What its latency depends on."""
        return self.job.model.name, self.job.request.images


class World:
    """The questions of some tasks beside a plain list of who is due when, who is called, and who is late."""

    def __init__(self) -> None:
        self.schedule = Notes()
        self.poll_queue = PollQueue(self.schedule)
        self.reliability = CallbackReliability()
        self.told: list[tuple[Any, ...]] = []
        self.now = 0.0
        self.tasks: dict[int, Watched] = {}
        self.called: list[int] = []
        self.late: set[int] = set()
        self.silent = 1.0

    @property
    def due(self) -> dict[int, float]:
        """When who waits to be asked about is due."""
        return {number: each.due for number, each in self.tasks.items() if each.due is not None}

    def begin(self, number: int, *, at_once: bool) -> None:
        """A task is met: one that this process saw accepted, unless it is to be asked about at once."""
        job, now = met(number, self.now), self.now
        runs, is_named = type(job.state) is Running, isinstance(job.state, Confirming)
        self.tasks[number] = Watched(job, runs, runs and not at_once, now, now, was_called=now if is_named else None)
        self.expect(number, at_once=at_once, is_due=at_once or not runs)

    def expect(self, number: int, *, at_once: bool = False, is_due: bool = False) -> None:
        """Set the next question about a task."""
        each = self.tasks[number]
        self.poll_queue.expect(each.job, self.now, at_once=at_once)
        if each.is_called:
            self.called.append(number)
            each.due = -math.inf
        elif each.was_called is not None and each.is_untold:
            each.due = self.now + 1
        else:
            each.due = self.now if is_due else self.time_of(each)

    def time_of(self, each: Watched) -> float:
        """The schedule's word on when to ask."""
        share = self.reliability.share if each.is_ours and each.was_called is None else 0.0
        return each.since + self.schedule.next_age(each.kind, each.asked - each.since, share)

    def call(self, number: int) -> None:
        """A callback comes, about whomever."""
        self.poll_queue.on_callback(number, self.now)
        each = self.tasks.get(number)
        if each is None:
            self.reliability.came_late(number)
        elif each.was_called is None:
            each.was_called, each.is_called = self.now, True
            if each.due is not None:
                self.called.append(number)
                self.late.discard(number)
                each.due = -math.inf

    def pop(self) -> int:
        """Ask about one: the called as they were called, others by their time, and when late any of the late."""
        number, due = self.poll_queue.pop(self.now), self.due
        if self.called:
            assert number == self.called.pop(0)
        elif not self.late and min(due.values()) > self.now - LATE:
            assert due[number] == min(due.values()) <= self.now
        else:
            self.late |= {each for each, at in due.items() if at <= self.now}
            assert number in self.late
            self.late.remove(number)
        self.tasks[number].due, self.tasks[number].is_called = None, False
        return number

    def answer(self, number: int, event: TaskStatus) -> None:
        """Hear what came of a question."""
        self.poll_queue.answered(number, event, self.now)
        each = self.tasks[number]
        each.asked, each.is_untold = self.now, event in (NOTHING, SILENT)
        if each.runs and not each.is_untold:
            self.learn(each, event)
        if not isinstance(event, Succeeded | TaskFailed):
            self.expect(number)
            return
        if each.is_ours:
            self.reliability.ended(number, each.was_called is not None)
            self.set_anew()
        self.forget(number)

    def learn(self, each: Watched, event: TaskStatus) -> None:
        """From when it was seen to run it still did, or has ended: as the provider tells, or as its callback came."""
        ages = (each.seen - each.since, self.now - each.since)
        if event == PENDING:
            self.told.append(("lasted", each.kind, *ages))
            each.seen = self.now
        else:
            by_callback = None if each.was_called is None else each.was_called - each.since
            self.told.append(("ended", each.kind, *ages, SUCCESS.latency if event == SUCCESS else by_callback))

    def set_anew(self) -> None:
        """Where the share of ends that come unannounced is half or twice what it was, the schedule has another word."""
        silent = 1 - self.reliability.share
        if silent <= self.silent / 2 or silent >= self.silent * 2:
            self.silent = silent
            for number, each in self.tasks.items():
                if each.due is not None and each.is_ours and each.was_called is None:
                    self.late.discard(number)
                    each.due = self.time_of(each)

    def forget(self, number: int) -> None:
        """A task is asked about no more."""
        self.poll_queue.forget(number)
        self.tasks.pop(number, None)
        self.late.discard(number)
        self.called = [each for each in self.called if each != number]

    def play(self, what: str, number: int, seconds: float) -> None:
        """Do one thing, where it can be done."""
        out = [each for each, watched in self.tasks.items() if watched.due is None]
        if what == "wait":
            self.now += seconds if number < 5 else 10 * seconds
        elif what == "begin" and number not in self.tasks:
            self.begin(number, at_once=seconds > 8)
        elif what == "call":
            self.call(number)
        elif what == "pop" and self.poll_queue.next_at() <= self.now:
            self.pop()
        elif what == "forget":
            self.forget(number)
        elif what in ANSWERS and out:
            self.answer(out[number % len(out)], ANSWERS[what])
        elif what in ANSWERS and number not in self.tasks:
            self.poll_queue.answered(number, ANSWERS[what], self.now)
        self.check()

    def check(self) -> None:
        """The questions and the list tell the same."""
        due = self.due
        first = -math.inf if self.late or self.called else min(due.values(), default=math.inf)
        told = (len(self.poll_queue), self.poll_queue.next_at(), self.poll_queue.reliability.share)
        assert told == (len(due), first, self.reliability.share)
        assert self.schedule.told == self.told
        assert [self.poll_queue.heard_at(each.job) for each in self.tasks.values()] == [
            each.seen for each in self.tasks.values()
        ]
        count = sum(at <= self.now for at in due.values())
        assert min(1, count) <= self.poll_queue.due(self.now) <= count


WORDS = [*["begin"] * 8, *["wait"] * 2, *["call"] * 4, *["pop"] * 6, "forget", *ANSWERS, "ended", "ended"]
STEP = st.tuples(st.sampled_from(WORDS), st.integers(1, 12), st.floats(0, 10))


@settings(deadline=None, max_examples=60)
@given(steps=st.lists(STEP, min_size=30, max_size=120), gone=st.sets(st.integers(1, 9)))
def test_each_question_is_handed_out_once_in_its_time_and_what_is_learned_is_told(
    steps: list[tuple[str, int, float]], gone: set[int]
) -> None:
    """Whatever comes it does what a plain list does: the called first, who is not forgotten in the end."""
    world = World()
    for step in steps:
        world.play(*step)
    world.now += 1000.0
    if world.due:
        world.pop()  # from here on the others are late
    for number in gone:
        world.forget(number)
        world.check()
    waiting = set(world.due)
    assert {world.pop() for _ in range(len(waiting))} == waiting
    assert (len(world.poll_queue), world.poll_queue.next_at()) == (0, math.inf)


def known() -> PollSchedule:
    """A schedule that knows well that tasks take about 5 s."""
    chance, schedule = random.Random(1), PollSchedule(FIVE)
    schedule.recall([(KIND, chance.lognormvariate(math.log(5), 0.35)) for _ in range(400)])
    return schedule


def teach(poll_queue: PollQueue, count: int, *, announced: bool) -> None:
    """Let so many other tasks begin and end, each with a callback or each without."""
    for number in range(10_000, 10_000 + count):
        poll_queue.expect(task(number, since=-5.0), -5.0)
        if announced:
            poll_queue.on_callback(number, 0.0)
            assert poll_queue.pop(0.0) == number
        poll_queue.answered(number, SUCCESS, 0.0)
        poll_queue.forget(number)


def drained(poll_queue: PollQueue, now: float) -> list[int]:
    """Who is asked about by now, in this order."""
    return list(iter(lambda: poll_queue.pop(now) if poll_queue.next_at() <= now else None, None))


def test_only_a_share_that_is_half_or_twice_as_silent_sets_the_questions_anew() -> None:
    """To set all of them anew is work, so that those which wait stay where they are for less."""
    schedule = known()
    poll_queue = PollQueue(schedule)
    teach(poll_queue, 15, announced=True)
    poll_queue.expect(task(1), 0.0)
    at = poll_queue.next_at()
    for count, announced in ((1, True), (1, False), (6, True)):
        teach(poll_queue, count, announced=announced)
        assert poll_queue.next_at() == at
    teach(poll_queue, 1, announced=False)
    assert poll_queue.reliability.share == 7 / 8
    assert poll_queue.next_at() == schedule.next_age(KIND, 0.0, 7 / 8) < at


def crowd(ages: list[float]) -> tuple[PollQueue, PollSchedule]:
    """Tasks of these ages at 1000 s, of which nobody has asked yet."""
    schedule = PollSchedule(FIVE)
    schedule.recall([(KIND, 5.0), (KIND, 6.0), (KIND, 30.0)] * 40)
    poll_queue = PollQueue(schedule)
    for number, age in enumerate(ages):
        poll_queue.expect(task(number, since=1000.0 - age), 1000.0 - age)
    return poll_queue, schedule


@settings(deadline=None, max_examples=40)
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
    order = drained(poll_queue, 1000.0)
    waits = [schedule.waiting(KIND, last[number], ages[number]) for number in order]
    assert len(order) >= len(never)
    assert all(first >= then - 1e-6 for first, then in itertools.pairwise(waits))


@pytest.mark.parametrize(("now", "order"), [(0.19, [1, 2]), (0.2, [2, 1])])
def test_from_a_fifth_of_a_second_on_a_question_is_late(now: float, order: list[int]) -> None:
    """Before, it goes by its time, however little there is to be won."""
    poll_queue = PollQueue(PollSchedule(FIVE))
    poll_queue.expect(task(1, since=0.0), 0.0, at_once=True)
    poll_queue.expect(task(2, since=-20.0), 0.1, at_once=True)
    assert drained(poll_queue, now) == order


def test_who_comes_later_goes_first_if_more_is_to_be_won() -> None:
    """Of a few late ones the next is chosen each time anew."""
    poll_queue, _ = crowd([30.0, 20.0, 10.0])
    assert poll_queue.pop(1000.0) == 0
    poll_queue.expect(task(3, since=970.0), 1000.0)
    assert drained(poll_queue, 1000.0) == [3, 1, 2]


def test_when_late_those_that_no_callback_announces_go_first() -> None:
    """Where callbacks are relied upon, who waits for his own waits least: tasks of another process go before him."""
    poll_queue = PollQueue(known())
    teach(poll_queue, 50, announced=True)
    for number in range(6):
        poll_queue.expect(task(number), 0.0, at_once=number % 2 == 1)
    for number in (1, 3, 5):
        assert poll_queue.pop(0.0) == number
        poll_queue.answered(number, PENDING, 0.0)
        poll_queue.expect(task(number), 0.0)
    assert set(drained(poll_queue, 30.0)[:3]) == {1, 3, 5}


def test_of_many_late_ones_the_first_eighth_goes_first() -> None:
    """Those with the most expected waiting go first, if not in exact order, and the forgotten not at all."""
    chance = random.Random(5)
    ages = [chance.uniform(20, 900) for _ in range(400)]
    poll_queue, schedule = crowd(ages)
    waits = [schedule.waiting(KIND, 0.0, age) for age in ages]
    most = sorted(range(400), key=waits.__getitem__, reverse=True)
    first, gone = poll_queue.pop(1000.0), most[7]
    poll_queue.forget(gone)
    order = [first, *drained(poll_queue, 1000.0)]
    assert {*order[:49], gone} == set(most[:50])
    assert sorted([*order, gone]) == list(range(400))


def test_nobody_starves_and_stragglers_give_way() -> None:
    """Of a hundred tasks, half of which never end, each is asked about within a minute, these less than the others."""
    poll_queue, chance, numbers = PollQueue(PollSchedule(FIVE)), random.Random(6), itertools.count()
    running: dict[int, tuple[Job, float]] = {}
    asked: dict[int, list[float]] = {}
    for now in (turn / 10 for turn in range(2000)):
        for number in itertools.islice(numbers, 100 - len(running)):
            takes = math.inf if number < 50 else chance.lognormvariate(math.log(5), 0.35)
            running[number], asked[number] = (task(number, since=now), now + takes), [now]
            poll_queue.expect(running[number][0], now)
        if poll_queue.next_at() <= now:
            number = poll_queue.pop(now)
            job, end = running[number]
            asked[number].append(now)
            poll_queue.answered(number, PENDING if end > now else UNTOLD, now)
            if end > now:
                poll_queue.expect(job, now)
            else:
                poll_queue.forget(number)
                del running[number]
    for number in running:
        asked[number].append(200.0)
    gaps = {number: [late - early for early, late in itertools.pairwise(times)] for number, times in asked.items()}
    slow, others = ([gap for number in gaps if (number < 50) == is_slow for gap in gaps[number]] for is_slow in (1, 0))
    assert max(slow + others) < 60
    assert statistics.fmean(slow) > 1.5 * statistics.fmean(others)
