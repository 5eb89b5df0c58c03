"""Callers take turns at being sent: by their shares, whoever came first and however many each has waiting."""

from __future__ import annotations

import itertools
import sys
import tracemalloc
from collections import Counter
from fractions import Fraction
from typing import Any

import inner
import msgspec
import pytest
from builders import failure
from hypothesis import given
from hypothesis import strategies as st
from plan_world import World
from queues import FAST, PLAIN, Line, Queue

from imagen_async.errors import AccountError

SHARES = {"a": 1.0, "b": 2.0, "c": 0.5, "d": 1.0}
WIDE = inner.Limits(submit=inner.Rate(10**6, per=1), running=10**6)


class Turns(Queue):
    """The queue of one account beside a plain list of who waits, and exact arithmetic of whose turn it is."""

    def __init__(self) -> None:
        super().__init__({"a": WIDE})
        self.purses = [None, inner.Budget(1e6)]
        self.lines: dict[Line, dict[int, bool]] = {}
        self.flying: list[tuple[int, Line]] = []
        self.time = Fraction(0)
        self.ends: dict[str, tuple[Fraction, int]] = {}

    def put(self, line: Line, *, job_id: int | None = None, at_front: bool = False, keeps_turn: bool = False) -> None:
        """Have a new one wait, or one again that was sent."""
        if line.caller not in {each.caller for each in self.lines}:
            self.ends[line.caller] = (self.time + 1 / Fraction(SHARES[line.caller]), 0)
        purse = self.purses[line.purse]
        if job_id is None:
            job_id = self.add(line, purse=purse, at_front=at_front, share=SHARES[line.caller]).id
        else:
            self.waiting.add(self.jobs[job_id], purse, at_front=at_front, keeps_turn=keeps_turn)
        before = self.lines.get(line, {})
        own = {job_id: keeps_turn}
        self.lines[line] = {**own, **before} if at_front else {**before, **own}

    def next(self) -> int | None:
        """Who is to be sent."""
        heads = [(line, *next(iter(ids.items()))) for line, ids in self.lines.items()]
        if len({line.caller for line in self.lines}) < 2:
            return min((job_id for _, job_id, _ in heads), default=None)
        return min((self._place(line, keeps), job_id) for line, job_id, keeps in heads)[1]

    def _place(self, line: Line, keeps_turn: bool) -> tuple[Fraction, int]:
        return (Fraction(-1), 0) if keeps_turn else self.ends[line.caller]

    def send(self) -> None:
        """The first one goes."""
        found = self.waiting.next(0.0)
        assert (found and found[1]) == self.next()
        if found is not None:
            line = next(line for line, ids in self.lines.items() if found[1] in ids)
            if len({each.caller for each in self.lines}) > 1 and not self.lines[line][found[1]]:
                self.time = max(self.time, self.ends[line.caller][0])
                self.ends[line.caller] = (self.time + 1 / Fraction(SHARES[line.caller]), 1)
            self.waiting.remove(found[1], is_sent=True)
            self._drop(found[1], line)
            self.flying.append((found[1], line))

    def leave(self, number: int) -> None:
        """One waits no more, and was not sent."""
        waiting = [(job_id, line) for line, ids in self.lines.items() for job_id in ids]
        if waiting:
            job_id, line = waiting[number % len(waiting)]
            self.waiting.remove(job_id)
            self._drop(job_id, line)

    def _drop(self, job_id: int, line: Line) -> None:
        del self.lines[line][job_id]
        if not self.lines[line]:
            del self.lines[line]


WORDS = [*["add"] * 4, *["send"] * 5, "leave", "comes to nothing", "again"]
STEPS = st.lists(
    st.tuples(st.sampled_from(WORDS), st.sampled_from("abcd"), st.sampled_from([FAST, PLAIN]), st.integers(0, 7)),
    min_size=20,
    max_size=120,
)


@given(steps=STEPS)
def test_turns_are_what_exact_arithmetic_says(steps: list[tuple[str, str, str, int]]) -> None:
    """Whoever comes, is sent, comes back or leaves: a turn is paid where something was sent, once, and not else."""
    turns = Turns()
    for what, caller, model, number in steps:
        if what == "add":
            turns.put(Line("a", model, number % 2, caller=caller))
        elif what == "send":
            turns.send()
        elif what == "leave":
            turns.leave(number)
        elif turns.flying:
            job_id, line = turns.flying.pop(number % len(turns.flying))
            turns.put(line, job_id=job_id, at_front=True, keeps_turn=what == "comes to nothing")
    while turns.lines:
        turns.send()
    assert turns.waiting.next(0.0) is None


class Sharing(Queue):
    """A queue whose accounts answer at once, and what each caller got of them."""

    def __init__(self, accounts: str, limits: inner.Limits | None = None) -> None:
        rooms = limits or inner.Limits(submit=inner.Rate(3, per=2), running=1000)
        super().__init__(dict.fromkeys(accounts, rooms))
        self.now = 0.0
        self.sent: list[tuple[str, int, str]] = []

    def wait(self, line: Line, number: int = 1, share: float = 1.0) -> list[int]:
        """Have so many more wait; who they are."""
        return [self.add(line, share=share).id for _ in range(number)]

    def send(self, most: int = 10**6) -> Counter[str]:
        """Send what can be sent now; returns how many each caller got."""
        got = Counter[str]()
        while most > 0 and (found := self.waiting.next(self.now)) is not None:
            offer, job_id = found
            self.waiting.remove(job_id, is_sent=True)
            self.upstreams[offer.account].take_submit(self.now)
            self.upstreams[offer.account].settle_submit(inner.Accepted("t"), FAST, self.now)
            got[self.jobs[job_id].caller] += 1
            self.sent.append((offer.account, job_id, self.jobs[job_id].caller))
            most -= 1
        return got


@given(
    shares=st.tuples(*[st.sampled_from([1.0, 1.0, 2.0, 0.25, 3.0])] * 2),
    steps=st.lists(st.tuples(st.sampled_from("cdef"), st.sampled_from([FAST, PLAIN]), st.integers(0, 5)), max_size=60),
)
def test_several_accounts_are_shared_as_one(shares: tuple[float, float], steps: list[tuple[str, str, int]]) -> None:
    """Two who wait all the time get theirs by their shares of all accounts together, whatever others do meanwhile."""
    queue, own = Sharing("abc"), dict(zip("xy", shares, strict=True))
    for (name, share), model in itertools.product(own.items(), (FAST, PLAIN)):
        queue.wait(Line("abc", model, caller=name), 400, share)
    got, most = Counter[str](), sum(1 / share for share in shares) + 1e-6
    for name, model, number in steps:
        queue.wait(Line("abc", model, caller=name), number)
        while sent := queue.send(most=1):
            got += sent
            assert abs(got["x"] / own["x"] - got["y"] / own["y"]) <= most
        queue.now += 1.0
    for name in "xycdef":
        for model in (FAST, PLAIN):
            ids = [each for _, each, who in queue.sent if who == name and queue.jobs[each].request.model == model]
            assert ids == sorted(ids), "first come, first served, within a caller and a way"


def test_who_came_first_with_thousands_is_no_obstacle() -> None:
    """A greedy caller gets no more than the others while they have somebody waiting, and all that is left after."""
    queue = Sharing("a", WIDE)
    queue.wait(Line("a", caller="greedy"), 5_000)
    for name in "xyz":
        queue.wait(Line("a", caller=name), 50)
    assert queue.send(most=200) == {"greedy": 50, "x": 50, "y": 50, "z": 50}
    assert queue.send(most=500) == {"greedy": 500}


def test_one_caller_alone_is_sent_as_if_there_were_none() -> None:
    """First come, first served over all its ways, also where another caller comes and goes."""
    queue = Sharing("abc", WIDE)
    for name in "bc":
        queue.upstreams[name].submit.block(0.0, 100.0)
    lines = [Line(way, model, caller="x") for way, model in zip(["ab", "ac"] * 9, [FAST, FAST, PLAIN] * 6, strict=True)]
    ids = [job_id for line in lines for job_id in queue.wait(line)]
    other = queue.wait(Line("ab", caller="y"))
    queue.waiting.remove(other[0])
    queue.send()
    assert [job_id for _, job_id, _ in queue.sent] == ids


def test_what_happens_while_one_caller_is_alone_counts_for_it_later() -> None:
    """Who comes back to its line meanwhile is the first of it, also once others wait again."""
    queue, purse = Sharing("a", WIDE), inner.Budget(1e6)
    one, other = Line("a", caller="x"), Line("a", caller="y")
    ids = [queue.add(one, purse=budget).id for budget in (None, purse, None, purse)]
    last = queue.wait(other)[0]
    assert queue.waiting.next(0.0) is not None
    queue.waiting.remove(last)
    for job_id in ids[:2]:
        queue.waiting.remove(job_id)
    queue.waiting.add(queue.jobs[ids[1]], purse, at_front=True, keeps_turn=True)
    queue.waiting.add(queue.jobs[ids[0]], None, at_front=True)
    queue.wait(other)
    queue.send()
    assert [job_id for _, job_id, _ in queue.sent] == [ids[1], ids[0], last + 1, ids[2], ids[3]]


def test_who_sends_alone_has_paid_for_nothing() -> None:
    """Whoever comes then waits behind whom it would have met without any turns, and takes turns from there on."""
    queue = Sharing("a", WIDE)
    queue.wait(Line("a", caller="x"), 10)
    queue.send(most=4)
    queue.wait(Line("a", caller="y"), 10)
    queue.send(most=4)
    assert [caller for _, _, caller in queue.sent[4:]] == ["x", "y", "x", "y"]


def test_who_is_first_of_its_line_once_another_has_left_is_seen() -> None:
    """Where a caller's first one leaves, the next may have come before another caller's."""
    queue = Sharing("a", WIDE)
    first, second = queue.wait(Line("a", caller="x")) + queue.wait(Line("a", caller="y"))
    again = queue.add(Line("a", caller="x"), at_front=True).id
    found = queue.waiting.next(0.0)
    assert found is not None
    assert found[1] == second
    queue.waiting.remove(again)
    queue.send()
    assert [job_id for _, job_id, _ in queue.sent] == [first, second]


def test_a_share_that_changes_holds_from_the_next_turn_on() -> None:
    """It is that with which the caller's last one came."""
    queue = Sharing("a", WIDE)
    for name in "xy":
        queue.wait(Line("a", caller=name), 50)
    assert queue.send(most=20) == {"x": 10, "y": 10}
    queue.wait(Line("a", caller="x"), share=3.0)
    assert queue.send(most=40) == {"x": 30, "y": 10}


def calls_for(callers: int) -> int:
    """How many functions are called for fifty turns among so many callers, and as many new ones, as they come."""
    queue, count = Sharing("a", WIDE), 0

    def note(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event == "call"

    for _, number in itertools.product(range(2), range(callers)):
        queue.wait(Line("a", caller=f"caller {number}"))
    queue.send(most=callers // 2)
    before = sys.getprofile()
    sys.setprofile(note)
    try:
        for number in range(50):
            queue.wait(Line("a", caller=f"new {number}"))
            queue.send(most=1)
    finally:
        sys.setprofile(before)
    return count


def test_a_turn_among_a_thousand_callers_is_no_look_at_all_of_them() -> None:
    """It takes as much as among a hundred."""
    assert calls_for(1_000) <= 1.5 * calls_for(100)


@pytest.mark.parametrize("policy", ["spread", "in_order"])
def test_turns_go_on_where_an_account_drops_out(policy: inner.Policy) -> None:
    """Those who wait take turns at whoever is left, with those who wait for that one alone, and are gone when sent."""
    queue = Sharing("ab", WIDE)
    queue.policy = policy
    for name in "xyz":
        queue.wait(Line("ab", caller=name), 100)
    assert queue.send(most=30) == dict.fromkeys("xyz", 10)
    queue.upstreams["a"].take_submit(0.0)
    queue.upstreams["a"].settle_submit(inner.Rejected(failure(AccountError), inner.Remedy.STOP), FAST, 0.0)
    queue.wait(Line("b", caller="w"), 100, share=2.0)
    assert queue.send(most=50) == dict.fromkeys("xyz", 10) | {"w": 20}
    assert {account for account, _, _ in queue.sent[30:]} == {"b"}
    queue.send()
    assert queue.waiting._callers == {}


def test_callers_of_different_accounts_take_turns_at_the_one_that_they_share() -> None:
    """Where no order of theirs can be compared, who has waited longest for his turn goes first."""
    queue = Sharing("abc", WIDE)
    for name in "bc":
        queue.upstreams[name].submit.block(0.0, 100.0)
    for name in "xyz":
        queue.wait(Line("ab", caller=name), 100)
    queue.wait(Line("ac", caller="w"), 100)
    assert queue.send(most=80) == dict.fromkeys("wxyz", 20)


def test_who_lets_others_first_catches_up_by_one_turn() -> None:
    """Whoever can go elsewhere waits for those who cannot; that gives it no claim to what they had meanwhile."""
    queue = Sharing("ab", WIDE)
    queue.upstreams["b"].submit.block(0.0, 100.0)
    queue.wait(Line("ab", caller="x"), 100)
    queue.wait(Line("a", caller="y"), 200)
    assert queue.send(most=50) == {"y": 50}
    queue.wait(Line("a", caller="x"), 100)
    assert queue.send(most=20) == {"x": 10, "y": 10}


def test_callers_that_come_and_go_leave_nothing_behind() -> None:
    """A service that lives long keeps nothing of five thousand callers that are gone, while one waits all the time."""
    queue = Sharing("ab", WIDE)
    queue.wait(Line("ab", caller="x"), 12_000)
    job = queue.add(Line("ab", caller="y"))
    queue.send(most=10)
    tracemalloc.start()
    try:
        for number in range(5_000):
            queue.jobs[job.id] = msgspec.structs.replace(job, caller=f"caller {number}")
            queue.waiting.add(queue.jobs[job.id], None, at_front=number % 2 == 0)
            while (found := queue.waiting.next(0.0)) is not None:
                queue.waiting.remove(found[1], is_sent=True)
                if found[1] == job.id:
                    break
        left, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert queue.waiting.next(0.0) is not None
    assert left < 300_000


def test_callers_that_leave_before_their_turn_leave_nothing_behind() -> None:
    """Nothing is kept of five thousand whose turn was far off, while two others have theirs."""
    queue = Sharing("a", WIDE)
    for name in "xy":
        queue.wait(Line("a", caller=name), 10)
    job = queue.add(Line("a", caller="z"))
    tracemalloc.start()
    try:
        for number in range(5_000):
            assert queue.waiting.next(0.0) is not None
            queue.waiting.remove(job.id)
            queue.jobs[job.id] = msgspec.structs.replace(job, caller=f"caller {number}", share=0.001)
            queue.waiting.add(queue.jobs[job.id], None, at_front=False)
        left, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert left < 300_000


LIMITED = inner.Limits(submit=inner.Rate(1, per=1), status=inner.Rate(100, per=1), running=100)


def sent(world: World, count: int) -> list[int]:
    """Let so many creates go, each answered well, and all else wait; whose they are."""
    ids: list[int] = []
    while len(ids) < count:
        for job_id in world.sent():
            world.answer(job_id, "accepted")
            ids.append(job_id)
        world.now += 0.5
    return ids


@pytest.mark.parametrize("answer", ["limited", "maintenance", "not sent"])
def test_a_turn_that_came_to_nothing_is_not_paid_twice(answer: str) -> None:
    """What was refused for the account's sake, or never left, goes next, and then it is the others' turn."""
    world = World({"a": LIMITED}).trusted()
    world.is_noting = True
    x = world.add_many(3, caller="x")
    y = world.add_many(3, caller="y")
    (first,) = world.sent()
    assert first == x[0]
    world.answer(first, answer)
    world.now += 10.0
    assert sent(world, 5) == [x[0], y[0], x[1], y[1], x[2]]


def test_a_new_task_is_a_turn_of_its_own() -> None:
    """What is made anew for a failed task goes before the rest of its caller, and after who waits for a turn."""
    world = World({"a": LIMITED}).trusted()
    x = world.add_many(3, caller="x", retries=1)
    y = world.add_many(3, caller="y")
    (first,) = world.sent()
    world.answer(first, "silent")
    world.now += 2.0
    assert sent(world, 4) == [y[0], x[0], y[1], x[1]]


def test_who_leaves_has_had_no_turn() -> None:
    """What is cancelled before it was sent costs its caller nothing."""
    world = World({"a": LIMITED}).trusted()
    for owner in range(2, 10):
        world.add(owner=owner, caller="x")
    x, y = world.add_many(3, caller="x"), world.add_many(3, caller="y")
    for owner in range(2, 10):
        world.plan.leave(owner, world.now)
    assert sent(world, 4) == [x[0], y[0], x[1], y[1]]
