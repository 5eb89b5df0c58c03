"""Whose status is asked next: each when it is due, the called first, and of the late the most worthwhile."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Iterable
from typing import Any

import inner
import msgspec
from builders import failure, make_job, upstream
from hypothesis import example, given, settings
from hypothesis import strategies as st
from polling import BROKEN, FIVE, KIND, NOTHING, PENDING, SILENT, SUCCESS, UNLINKED, UNTOLD, task

from imagen_async._core.poll_queue import PollQueue
from imagen_async.errors import UnknownOutcome

LATE = 0.2
"""Seconds up to which a question is still one that goes at its time."""
ANSWERS = {"pending": PENDING, "ended": SUCCESS, "untold": UNTOLD, "broken": BROKEN, "lost": NOTHING, "denied": SILENT}
ANSWERS["unlinked"] = UNLINKED
FOUR: inner.Kind = ("imagen4-fast", 4)


def met(number: int, since: float) -> inner.Job:
    """A task of one of five sorts: most run, and some were named by their id, lost their links, or are only named."""
    if number == 9:
        return make_job(9, inner.Confirming(failure(UnknownOutcome), since=since, until=since + 60, task_id="t9"))
    if number == 8:
        return task(number, since, inner.Relinking, outcome=SUCCESS)
    return task(number, since, inner.Collected if number == 7 else inner.Running, kind=FOUR if number == 6 else KIND)


class Watched(msgspec.Struct):
    """A task as the list has it.

    Its age is known where it `runs`, and where it `is_ours` its callback would come here. It was last `asked` about and
    last `seen` to run, its last question was `sent`, and it is `due`, or None while its question is out. It `is_called`
    from its callback, or since its time `is_over`, until it is asked about. It was `made` when it was first said to
    have succeeded, and lacks its links since. Its last question was `untold`, or answered.
    """

    job: inner.Job
    kind: inner.Kind
    since: float
    runs: bool
    is_ours: bool
    asked: float
    seen: float
    due: float | None = None
    was_called: float | None = None
    is_called: bool = False
    is_over: bool = False
    sent: float = -math.inf
    made: float | None = None
    untold: bool = False

    @property
    def is_said_to_have_ended(self) -> bool:
        """It is said to have ended."""
        return self.made is not None or (self.was_called is not None and self.untold)


def queue_of(schedule: inner.PollSchedule, status: int = 1) -> PollQueue:
    """The questions of an account with so many status calls a second; one has none to spare."""
    return PollQueue(schedule, inner.SparePlaces(inner.Window(inner.Rate(status, per=1))))


class World:
    """The questions of some tasks beside a plain list of who is due when, who is called, and who is late."""

    def __init__(self) -> None:
        self.told, self.schedule = inner.PollSchedule(FIVE), inner.PollSchedule(FIVE)
        self.poll_queue = queue_of(self.told)
        self.reliability = inner.CallbackReliability()
        self.now = 0.0
        self.tasks: dict[int, Watched] = {}
        self.called: list[int] = []
        self.late: set[int] = set()
        self.silent = 1.0
        self.stale: list[int] = []

    @property
    def due(self) -> dict[int, float]:
        """When who waits to be asked about is due."""
        return {number: each.due for number, each in self.tasks.items() if each.due is not None}

    def begin(self, number: int, *, at_once: bool) -> None:
        """A task is met: one that this process saw accepted, unless it is to be asked about at once."""
        job, now = met(number, self.now), self.now
        runs = type(job.state) is inner.Running
        each = Watched(job, (job.model.name, job.request.count), now, runs, runs and not at_once, now, now)
        each.was_called = now if isinstance(job.state, inner.Confirming) else None
        each.due = self.time_of(each) if runs and not at_once else now
        self.tasks[number] = each
        self.poll_queue.expect(job, now, at_once=at_once)

    def chance(self, each: Watched) -> float:
        """How far its callback is relied upon."""
        return self.reliability.share if each.is_ours and each.was_called is None else 0.0

    def time_of(self, each: Watched) -> float:
        """The schedule's word on when to ask."""
        return each.since + self.schedule.next_age(each.kind, each.asked - each.since, self.chance(each))

    def waiting(self, each: Watched) -> float:
        """The schedule's word on what it is worth to ask now; of one that is made, the time since it was asked."""
        if each.made is not None:
            return self.now - each.asked
        return self.schedule.waiting(each.kind, each.asked - each.since, self.now - each.since, self.chance(each))

    def call(self, number: int) -> None:
        """A callback comes, about whomever."""
        self.poll_queue.on_callback(number, self.now)
        each = self.tasks.get(number)
        if each is None:
            self.reliability.came_late(number)
        elif each.was_called is None:
            each.was_called = self.now
            self.goes_first(number, each)

    def run_out(self, number: int) -> None:
        """The time of whomever is over."""
        each = self.tasks.get(number)
        assert self.poll_queue.ask_last(number) == (each is not None and not each.is_over)
        if each is not None and not each.is_over:
            each.is_over = True
            self.goes_first(number, each)

    def goes_first(self, number: int, each: Watched) -> None:
        """A task is to be asked about before all others: now, or when its question is back."""
        if each.due is not None and not each.is_called:
            self.called.append(number)
            self.late.discard(number)
            each.due = -math.inf
        each.is_called = True

    def pop(self) -> None:
        """Ask about one: the called as they were called, others by their time, and of the late the most worthwhile."""
        number, due = self.poll_queue.pop(self.now), self.due
        self.tasks[number].sent = self.now
        if self.called:
            assert number == self.called.pop(0)
        elif not self.late and min(due.values()) > self.now - LATE:
            assert due[number] == min(due.values()) <= self.now
        else:
            self.late |= {each for each, at in due.items() if at <= self.now}
            worth = {each: self.waiting(self.tasks[each]) for each in self.late}
            assert worth[number] == max(worth.values())
            self.late.remove(number)
        self.tasks[number].due, self.tasks[number].is_called = None, False

    def answer(self, number: int, event: inner.TaskStatus) -> None:
        """Hear what came of a question; a task that goes on is asked about again."""
        self.poll_queue.answered(number, event, self.now)
        each, is_untold = self.tasks[number], event in (NOTHING, SILENT)
        each.asked, each.untold = self.now, is_untold
        if event == UNLINKED:
            each.made = self.now if each.made is None else each.made
        elif each.runs and not is_untold:
            self.learn(each, event)
        has_ended = isinstance(event, inner.Succeeded | inner.TaskFailed)
        if has_ended and each.is_ours:
            self.reliability.ended(number, each.was_called is not None)
        each.made = None if event == PENDING else each.made
        if self.trusts_otherwise() or (has_ended and len(self.tasks) == 3):
            self.set_anew(self.tasks)
        else:
            if each.runs and self.schedule.has_moved(each.kind):
                self.stale += [number for number in self.tasks if number not in self.stale]
            some, self.stale = self.stale[:16], self.stale[16:]
            self.set_anew(some)
        if has_ended:
            self.forget(number)
            return
        self.poll_queue.expect(each.job, self.now)
        if each.is_called:
            self.called.append(number)
            each.due = -math.inf
        else:
            each.due = self.now + 1 if each.is_said_to_have_ended else self.time_of(each)

    def learn(self, each: Watched, event: inner.TaskStatus) -> None:
        """From when it was seen to run it still did, or has ended: as the provider tells, or as its callback came."""
        ages = (each.seen - each.since, self.now - each.since)
        if event == PENDING:
            self.schedule.lasted(each.kind, *ages)
            each.seen = self.now
        else:
            ages = ages if each.made is None else (ages[0], each.made - each.since)
            by_callback = None if each.was_called is None else each.was_called - each.since
            self.schedule.ended(each.kind, *ages, SUCCESS.latency if event == SUCCESS else by_callback)

    def trusts_otherwise(self) -> bool:
        """Half or twice as many ends come unannounced as before."""
        silent = 1 - self.reliability.share
        if self.silent / 2 < silent < self.silent * 2:
            return False
        self.silent = silent
        return True

    def set_anew(self, numbers: Iterable[int]) -> None:
        """The schedule has another word on these, where they wait by it."""
        for number in numbers:
            each = self.tasks.get(number)
            if each is None or each.due is None or not each.runs or each.is_called or each.is_said_to_have_ended:
                continue
            if each.is_ours or each.sent > -math.inf:
                self.late.discard(number)
                each.due = self.time_of(each)

    def forget(self, number: int) -> None:
        """A task is asked about no more."""
        self.poll_queue.forget(number)
        self.tasks.pop(number, None)
        self.late.discard(number)
        self.called = [each for each in self.called if each != number]

    def play(self, what: str, number: int = 1, seconds: float = 0.0) -> None:
        """Do one thing, where it can be done."""
        out = [each for each, watched in self.tasks.items() if watched.due is None]
        if what == "wait":
            self.now += seconds if number < 5 else 10 * seconds
        elif what == "begin" and number not in self.tasks:
            self.begin(number, at_once=seconds > 8)
        elif what == "call":
            self.call(out[0] if out and seconds > 5 else number)
        elif what == "run out":
            self.run_out(out[0] if out and seconds > 5 else number)
        elif what == "pop" and self.poll_queue.next_at(self.now) <= self.now:
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
        due, queue = self.due, self.poll_queue
        first = -math.inf if self.late or self.called else min(due.values(), default=math.inf)
        assert (len(queue), queue.next_at(self.now), queue.reliability.share) == (
            len(due),
            first,
            self.reliability.share,
        )
        kinds, tasks = (KIND, FOUR), self.tasks.values()
        assert [self.told.next_age(kind, 9) for kind in kinds] == [self.schedule.next_age(kind, 9) for kind in kinds]
        assert [queue.heard_at(each.job) for each in tasks] == [each.seen for each in tasks]
        assert [queue.sent_at(each) for each in (0, *self.tasks)] == [-math.inf, *(each.sent for each in tasks)]
        count = sum(at <= self.now for at in due.values())
        assert min(1, count) <= queue.due(self.now) <= count


WORDS = [*["begin"] * 8, *["wait"] * 2, *["call"] * 4, "run out", *["pop"] * 6, "forget", *ANSWERS, "ended", "ended"]
ANNOUNCED = [("begin", 1), ("call", 1), ("pop",), ("ended",)]
MISSED = [("begin", 1), ("wait", 1, 9.0), ("pop",), ("ended",)]
TWICE_AS_SILENT = [*ANNOUNCED * 16, *MISSED, *ANNOUNCED * 6, *MISSED[:3], ("begin", 2), ("ended",)]
WITH_TURNS = [*TWICE_AS_SILENT[:-1], ("begin", 3), ("begin", 4), ("run out", 3), ("ended",)]
ALMOST_LATE = [("begin", 4), ("wait", 1, 0.25), *(("begin", each, 9.0) for each in (1, 2, 3)), ("wait", 1, 0.199)]
CHOSEN_ANEW = [*ALMOST_LATE, ("pop",), ("wait", 1, 0.001), ("pop",), ("wait", 1, 0.5), ("pop",)]
STEP = st.tuples(st.sampled_from(WORDS), st.integers(1, 9), st.floats(0, 10))


@settings(max_examples=60)
@given(steps=st.lists(STEP, min_size=30, max_size=120), gone=st.sets(st.integers(1, 9)))
@example(steps=CHOSEN_ANEW, gone=set())
@example(steps=TWICE_AS_SILENT, gone=set())
@example(steps=WITH_TURNS, gone=set())
def test_each_question_is_handed_out_once_in_its_time_and_what_is_learned_is_told(
    steps: list[tuple[Any, ...]], gone: set[int]
) -> None:
    """Whatever comes it does what a plain list does: the called first, who is not forgotten in the end."""
    world = World()
    late = [("wait", 9, 100.0), ("pop",), ("call", 1), ("call", 4)]
    for step in [*steps, *late, *(("forget", number) for number in gone), *[("pop",)] * 9]:
        world.play(*step)
    assert world.due == {}


def test_of_many_late_ones_the_first_eighth_goes_first() -> None:
    """Those with the most expected waiting go first, if not in exact order, and the forgotten not at all."""
    chance, schedule = random.Random(5), inner.PollSchedule(FIVE)
    poll_queue, waits = queue_of(schedule), dict[int, float]()
    for number in range(400):
        age = chance.uniform(20, 900)
        waits[number] = schedule.waiting(KIND, 0.0, age)
        poll_queue.expect(task(number, since=-age), -age)
    most = sorted(waits, key=waits.__getitem__, reverse=True)
    first, gone = poll_queue.pop(0.0), most[7]
    poll_queue.forget(gone)
    order = [first, *(poll_queue.pop(0.0) for _ in range(398))]
    assert {*order[:49], gone} == set(most[:50])
    assert sorted([*order, gone]) == list(range(400))


@settings(max_examples=30)
@given(
    limit=st.integers(1, 30), per=st.sampled_from([0.5, 1.0, 10.0]), seed=st.integers(0, 99), count=st.integers(1, 30)
)
@example(limit=10, per=1.0, seed=1, count=1)
@example(limit=10, per=1.0, seed=1, count=30)
def test_a_question_before_its_time_takes_a_place_that_nobody_needs(
    limit: int, per: float, seed: int, count: int
) -> None:
    """It goes where all calls of the window come to less than half of the limit; at its time any does."""
    schedule = inner.PollSchedule(FIVE)
    account, chance = upstream("a", inner.Limits(status=inner.Rate(limit, per)), schedule), random.Random(seed)
    ends = {number: chance.lognormvariate(math.log(5), 0.35) for number in range(count)}
    asked, sent, early, now = dict.fromkeys(ends, 0.0), list[float](), 0, 0.0
    for number in ends:
        account.poll_queue.expect(task(number), 0.0)
    while ends:
        if (at := account.ask_at(now)) > now:
            now = at
            continue
        number = account.poll_queue.pop(now)
        account.take_status(now)
        if schedule.waiting(KIND, asked[number], now) < 0.9 * schedule.freshness:
            early += 1
            assert sum(each + per > now for each in sent) < min(limit // 2, max(1, 5 * per))
        asked[number] = now
        sent.append(now)
        # Answers that tell nothing, and teach nothing: what is worth a question stays as it was when that was set.
        account.settle_status(number, NOTHING, now)
        if ends[number] <= now:
            account.poll_queue.forget(number)
            del ends[number]
        else:
            account.poll_queue.expect(task(number), now)
    assert (early > 0) == (limit > 1)


def test_one_whose_links_are_missing_is_asked_about_a_second_later_also_after_an_early_question() -> None:
    """A question that does not go by the schedule has its time, whether or not a place is to spare then."""
    account = upstream("a", inner.Limits(status=inner.Rate(2, per=9)), inner.PollSchedule(FIVE))
    account.poll_queue.expect(task(1), 0.0)
    asked = account.ask_at(0.0)
    assert account.poll_queue.pop(asked) == 1
    account.take_status(asked)
    account.settle_status(1, UNLINKED, asked)
    account.poll_queue.expect(task(1), asked)
    assert account.ask_at(asked) == account.ask_at(asked + 1) == asked + 1


def test_nobody_starves_and_stragglers_give_way() -> None:
    """Of a hundred tasks, half of which never end, each is asked about within a minute, these less than the others."""
    poll_queue, chance, numbers = queue_of(inner.PollSchedule(FIVE)), random.Random(6), itertools.count()
    running: dict[int, tuple[inner.Job, float]] = {}
    asked, gaps = dict[int, float](), dict[bool, list[float]]({True: [], False: []})
    for now in (turn / 10 for turn in range(2000)):
        for number in itertools.islice(numbers, 100 - len(running)):
            takes = math.inf if number < 50 else chance.lognormvariate(math.log(5), 0.35)
            running[number], asked[number] = (task(number, since=now), now + takes), now
            poll_queue.expect(running[number][0], now)
        if poll_queue.next_at(now) <= now:
            number = poll_queue.pop(now)
            job, end = running[number]
            gaps[number < 50].append(now - asked[number])
            asked[number] = now
            poll_queue.answered(number, PENDING if end > now else UNTOLD, now)
            if end > now:
                poll_queue.expect(job, now)
            else:
                poll_queue.forget(number)
                del running[number]
    for number in running:
        gaps[number < 50].append(200.0 - asked[number])
    assert max(itertools.chain(*gaps.values())) < 60
    assert statistics.fmean(gaps[True]) > 1.4 * statistics.fmean(gaps[False])
