"""The one queue of all accounts: who goes next, where to, and when there will be somebody."""

from __future__ import annotations

import itertools
import math
import random
import tracemalloc
from collections import deque
from collections.abc import Sequence

import inner
import msgspec
import pytest
from builders import failure, make_job
from hypothesis import given, settings
from hypothesis import strategies as st
from queues import FAST, PLAIN, PRICE, Line, Queue, route

from imagen_async.errors import AccountError, ModelUnavailable, RateLimited, TransportError

WAYS = (*"abcde", "ab", "bc", "ac", "abc", "de", "acde", "abcde")
ANSWERS: dict[str, inner.Created] = {
    "accepted": inner.Accepted("t"),
    "limited": inner.Rejected(failure(RateLimited), inner.Remedy.BACK_OFF),
    "not sent": inner.ConnectFailed(failure(TransportError)),
    "gone": inner.Rejected(failure(ModelUnavailable), inner.Remedy.CLOSE_MODEL),
    "empty": inner.Rejected(failure(AccountError), inner.Remedy.STOP),
}


class World(Queue):
    """The queue beside a plain list of who waits, accounts that answer this or that, and callers of these names."""

    def __init__(self, policy: inner.Policy, callers: str = "x") -> None:
        super().__init__(dict.fromkeys("abcde", inner.Limits(submit=inner.Rate(3, per=2), running=4)), policy)
        self.callers = callers
        self.purses = [None, inner.Budget(2.5), inner.Budget(0.9)]
        self.now = 0.0
        self.queued: dict[int, Line] = {}
        self.flying: list[tuple[str, int, Line]] = []

    def send(self) -> None:
        """The next one goes, if one can."""
        if (found := self.waiting.next(self.now)) is not None:
            offer, number = found
            self.waiting.remove(number, is_sent=True)
            self.upstreams[offer.account].take_submit(self.now)
            self.upstreams[offer.account].running += 1
            line = self.queued.pop(number)
            self.flying.append((offer.account, number, line))
            if (purse := self.purses[line.purse]) is not None:
                purse.reserve(self.jobs[number], offer)

    def answer(self, event: inner.Created) -> None:
        """What was sent first is answered."""
        account, number, line = self.flying.pop(0)
        self.upstreams[account].settle_submit(event, line.model, self.now)
        self.upstreams[account].running -= 1
        if (purse := self.purses[line.purse]) is not None:
            purse.settle(number, None if isinstance(event, inner.Accepted) else 0.0)

    def open(self, line: Line) -> list[str]:
        """Who still takes those of a line."""
        return [name for name in line.way if self.upstreams[name].breaker.refusal(line.model) is None]

    def affordable(self, line: Line) -> list[str]:
        """Who of them leaves the budget whole."""
        purse, names = self.purses[line.purse], self.open(line)
        if purse is None:
            return names
        used = purse.spent + purse.reserved
        return [name for name in names if used + PRICE[name] * line.images <= purse.limit]

    def takers(self, line: Line) -> list[str]:
        """Who of them may have it now: those of the best rank, and those behind them while these are paused."""
        rank = {"spread": lambda name: 0.0, "cheapest": PRICE.__getitem__, "in_order": line.way.index}[self.policy]
        able = self.affordable(line)
        best = min((rank(name) for name in able if not self.upstreams[name].breaker.is_paused), default=math.inf)
        return [name for name in able if rank(name) <= best]

    def next(self) -> tuple[str, set[int]] | None:
        """The account with the most room takes one whom the fewest can take: of one caller the one who came first.

        Whose turn it is of several is not said here, but nobody goes before the others of his line.
        """
        # Of each line the first: it is met last.
        heads = {line: number for number, line in reversed(self.queued.items())}
        ready = [each for each in self.upstreams.values() if each.submit_at(self.now) <= self.now]
        for each in sorted(ready, key=lambda each: each.load(self.now)):
            lines = [line for line in heads if each.name in self.takers(line)]
            if lines:
                fewest = min(len(self.open(line)) for line in lines)
                able = {heads[line] for line in lines if len(self.open(line)) == fewest}
                is_one = len({line.caller for line in heads}) == 1
                return each.name, {min(able)} if is_one else able
        return None

    def unaffordable(self) -> set[int]:
        """Those of a budget of which nothing is in flight, and no line has room for one more."""
        useful = {line.purse for line in self.queued.values() if self.affordable(line)}
        spent = {index for index, purse in enumerate(self.purses) if purse is not None and purse.is_idle} - useful
        return {number for number, line in self.queued.items() if line.purse in spent}

    def count(self, name: str, owners: Sequence[int] = (1, 2)) -> int:
        """How many of these owners' may be sent to an account."""
        return sum(name in self.open(line) and self.jobs[each].owner in owners for each, line in self.queued.items())

    def play(self, what: str, way: str, number: int) -> None:
        """Do one thing, where it can be done."""
        if what in ("add", "add at front"):
            caller = self.callers[len(self.jobs) * 7 % 11 % len(self.callers)]
            line = Line(way, PLAIN if number < 3 else FAST, number % 3, 3 if number in (7, 8) else 1, caller)
            purse, share = self.purses[line.purse], SHARE.get(caller, 1.0)
            job = self.add(line, 1 + number // 6, purse, at_front=what == "add at front", share=share)
            self.queued = {job.id: line, **self.queued} if what == "add at front" else {**self.queued, job.id: line}
        elif what == "leave" and self.queued:
            leaving = list(self.queued)[number % len(self.queued)]
            del self.queued[leaving]
            self.waiting.remove(leaving)
        elif what == "send":
            self.send()
        elif what == "wait":
            self.now += number / 8
        elif what in ANSWERS and self.flying:
            self.answer(ANSWERS[what])
        self.check()

    def check(self) -> None:
        """The queue and the list tell the same."""
        assert len(self.waiting) == len(self.queued)
        # In another order each time: whichever comes first after something has happened must have heard of it.
        checks = deque([self.check_counts, self.check_wants, self.check_unwanted, self.check_turns])
        checks.rotate(len(self.jobs))
        for check in checks:
            check()

    def check_counts(self) -> None:
        """How many wait for each account."""
        assert [self.waiting.waiting_for(name) for name in self.upstreams] == [
            self.count(each) for each in self.upstreams
        ]

    def check_unwanted(self) -> None:
        """Who has nowhere to go, and whose budget is used up."""
        assert set(self.waiting.unaffordable()) == self.unaffordable()
        assert set(self.waiting.unwanted()) == {each for each, line in self.queued.items() if not self.open(line)}

    def check_wants(self) -> None:
        """Whether more are wanted."""
        takers = [(name, each.at_a_look) for name, each in self.upstreams.items() if each.breaker.stopped is None]
        for owner in (1, 2):
            is_any = any(self.count(name, [owner]) < at_a_look for name, at_a_look in takers)
            assert self.waiting.wants_more(owner) == is_any

    def check_turns(self) -> None:
        """Who is next, and when there will be somebody."""
        waiting, found = self.waiting, self.waiting.next(self.now)
        may = self.next()
        assert (found and found[0].account) == (may and may[0])
        assert found is None or may is None or found[1] in may[1]
        at = waiting.wake_at(self.now)
        for time in (self.now, self.now + 1.5, self.now + 3, self.now + 30):
            assert (waiting.next(time) is not None) == (time >= at)
        if self.now < at < math.inf:
            assert waiting.next(at) is not None
            assert waiting.next(math.nextafter(at, -math.inf)) is None


WORDS = [*["add"] * 6, "add at front", "leave", *["send"] * 4, "wait", "wait", *["accepted"] * 2, *ANSWERS]
SHARE = {"x": 3.0, "y": 1.0, "z": 0.5}
STEP = st.tuples(st.sampled_from(WORDS), st.sampled_from(WAYS), st.integers(0, 11))


@pytest.mark.parametrize("callers", ["x", "xyz"])
@pytest.mark.parametrize("policy", ["spread", "cheapest", "in_order"])
@settings(max_examples=25)
@given(steps=st.lists(STEP, min_size=30, max_size=80))
def test_the_queue_does_what_plain_lists_do(
    policy: inner.Policy, callers: str, steps: list[tuple[str, str, int]]
) -> None:
    """Whoever comes and goes, it says who is next, where to and when, who has nowhere to go, and who is missing.

    With several callers whoever can be sent is sent as soon as with one, and those of a line go as they came.
    """
    world = World(policy, callers)
    for step in steps:
        world.play(*step)


@pytest.mark.parametrize("callers", ["x", "xyz"])
@pytest.mark.parametrize("policy", ["spread", "cheapest", "in_order"])
def test_the_queue_does_so_for_long(policy: inner.Policy, callers: str) -> None:
    """What piles up over a long time is cleared away, and nothing with it."""
    world, chance = World(policy, callers), random.Random(1)
    words = [*["add"] * 3, "leave", *["send"] * 6, "wait", *["accepted"] * 6, "limited"]
    for _ in range(400):
        world.play(chance.choice(words), chance.choice(("ab", "abcde")), chance.choice([1, 4, 7, 10]))


@pytest.mark.parametrize(
    ("second", "ways", "stopped", "taken"),
    [(7, "ab", "", 7), (7, "ab", "b", 5), (7, "ab", "ab", 0), (300, "ab", "", 100), (5, "a", "", inner.MOST_WAITING)],
    ids=["enough for the widest", "one stopped", "all stopped", "enough for a look", "one has nothing to do"],
)
def test_no_more_are_taken_in_than_can_soon_go(second: int, ways: str, stopped: str, taken: int) -> None:
    """More are wanted until each account has enough, and where none are for it, up to a bound for each owner."""
    rooms = {"a": 5, "b": second}
    queue = Queue({name: inner.Limits(inner.Rate(room, per=10), running=1000) for name, room in rooms.items()})
    for name in stopped:
        queue.upstreams[name].take_submit(0.0)
        queue.upstreams[name].settle_submit(ANSWERS["empty"], FAST, 0.0)
    while queue.waiting.wants_more(1) and len(queue.waiting) <= inner.MOST_WAITING:
        queue.add(Line(ways))
    assert len(queue.waiting) == taken
    assert queue.waiting.wants_more(2) == (stopped != "ab")
    if taken:
        queue.waiting.remove(1)
        assert queue.waiting.wants_more(1)


def test_an_account_is_asked_once_more_before_it_gets_somebody() -> None:
    """Also where nobody was told that it can send no more: no create goes over its limit for that."""
    queue = Queue(dict.fromkeys("abc", inner.Limits()))
    queue.add(Line("abc"))
    assert queue.waiting.next(0.0)[0].account == "a"
    for name, pause in (("a", 30.0), ("b", 20.0)):
        queue.upstreams[name].submit.block(0.0, pause)
    assert queue.waiting.next(0.0)[0].account == "c"
    queue.upstreams["c"].submit.block(0.0, 40.0)
    assert (queue.waiting.next(0.0), queue.waiting.wake_at(0.0)) == (None, 20.0)


def test_who_has_nowhere_to_go_is_told_at_once() -> None:
    """Whoever asks that first of all hears of the account that has just stopped."""
    queue = Queue(dict.fromkeys("ab", inner.Limits()))
    ids = [queue.add(Line(way)).id for way in ("a", "ab", "b", "a")]
    queue.upstreams["a"].take_submit(0.0)
    queue.upstreams["a"].settle_submit(ANSWERS["empty"], FAST, 0.0)
    assert list(queue.waiting.unwanted()) == [ids[0], ids[3]]


def test_what_changes_by_itself_is_found_out_at_the_next_look() -> None:
    """The room of an account whose window passes, and a limit of the user's own, of which nobody tells."""
    queue = Queue({name: inner.Limits(submit=inner.Rate(3, per=10), running=100) for name in "abe"})
    for name, count in (("a", 2), ("b", 1)):
        for _ in range(count):
            queue.upstreams[name].take_submit(0.0)
            queue.upstreams[name].settle_submit(inner.Accepted("t"), FAST, 0.0)
    queue.add(Line("ab"))
    assert [queue.waiting.next(now)[0].account for now in (9.0, 10.0)] == ["b", "a"]
    queue.waiting.remove(1)
    queue.add(Line("e"))
    for _ in range(3):
        queue.upstreams["e"].take_submit(10.0)
    assert queue.waiting.wake_at(10.0) == math.inf, "only an answer can tell"
    queue.upstreams["e"].submit.limit = 4
    assert queue.waiting.next(20.0)[0].account == "e"


def test_more_are_wanted_wherever_somebody_is_short_of_work() -> None:
    """Whoever was short last, and whatever each took before: an account that takes more again is to have as many."""
    assert Queue({"a": inner.Limits(submit=inner.Rate(1, per=10))}).waiting.wants_more(1), "room for one is room"
    queue = Queue(
        {name: inner.Limits(submit=inner.Rate(room, per=10), running=100) for name, room in (("a", 10), ("b", 1))}
    )
    lines: dict[str, list[int]] = {"a": [], "b": []}

    def fill() -> dict[str, int]:
        while queue.waiting.wants_more(1):
            name = next(each for each in "ab" if len(lines[each]) < queue.upstreams[each].at_a_look)
            lines[name].append(queue.add(Line(name)).id)
        return {name: len(line) for name, line in lines.items()}

    def lacks(name: str) -> bool:
        queue.waiting.remove(lines[name].pop())
        return queue.waiting.wants_more(1)

    for room in (5, 10):
        queue.upstreams["a"].submit.limit = room
        queue.upstreams["a"].touch()
        assert fill() == {"a": room, "b": 1}
        for name in "bab":
            assert lacks(name), name
            assert fill() == {"a": room, "b": 1}


def test_ways_that_nobody_waits_for_are_forgotten_and_found_again() -> None:
    """Of hundreds of them a few are kept; nobody's way is forgotten while he waits, also where it had been idle."""
    queue = Queue(dict.fromkeys("abcde", inner.Limits()), "in_order")
    ways = ["".join(way) for count in (3, 4, 5) for way in itertools.permutations("abcde", count)]
    stays = [queue.add(Line(way)).id for way in ways[-3:]]
    for number in stays:
        queue.waiting.remove(number)
    for way in ways[-3:]:
        queue.add(Line(way))
    jobs = {way: make_job(10**6, model=FAST, owner=1, route=route(way, FAST, "in_order")) for way in ways}
    tracemalloc.start()
    try:
        for way in (*ways[:-3], *ways[-43:-3] * 2):
            queue.jobs[10**6] = jobs[way]
            queue.waiting.add(jobs[way], None, at_front=True)
            assert queue.waiting.waiting_for(way[-1]) == 4
            queue.waiting.remove(10**6)
        left, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert left < 150_000
    assert len(queue.waiting) == 3
    for _ in range(3):
        queue.waiting.remove(queue.waiting.next(0.0)[1])
    assert (len(queue.waiting), queue.waiting.next(0.0)) == (0, None)


def test_turns_that_are_over_leave_nothing_behind() -> None:
    """Those of a busy account pile up nowhere, while another one goes first."""
    queue = Queue(dict.fromkeys("ab", inner.Limits(submit=inner.Rate(100, per=1))))
    queue.add(Line("ab"))
    tracemalloc.start()
    try:
        for turn in range(5_000):
            queue.upstreams["b"].take_submit(turn / 100)
            queue.upstreams["b"].settle_submit(inner.Accepted("t"), FAST, turn / 100)
            assert queue.waiting.next(turn / 100)[0].account == "a"
        left, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert left < 150_000


def test_owners_that_come_and_go_leave_nothing_behind() -> None:
    """Each batch is an owner of its own: a client that lives long keeps none of five thousand that are over."""
    queue = Queue(dict.fromkeys("ab", inner.Limits()))
    job = queue.add(Line("ab"))
    tracemalloc.start()
    try:
        for owner in range(5_000):
            queue.waiting.remove(job.id)
            queue.waiting.add(msgspec.structs.replace(job, owner=owner), None, at_front=False)
            assert queue.waiting.wants_more(owner)
            queue.waiting.forget(owner)
        left, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Their counts would take 1 MB, and what the other threads of a test run allocate is counted too.
    assert left < 300_000
