"""The one queue of all accounts: who goes next, where to, and when there will be somebody."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from collections.abc import Iterator
from typing import NamedTuple

import msgspec
import pytest
from builders import failure, make_job, upstream
from hypothesis import given, settings
from hypothesis import strategies as st

from imagen_async._core.budget import Budget
from imagen_async._core.job import Job
from imagen_async._core.provider import Limits, Provider
from imagen_async._core.rate_limit import Rate
from imagen_async._core.routing import Policy, Route, Router
from imagen_async._core.submit_queue import MOST_WAITING, SubmitQueue
from imagen_async._core.upstream import Upstreams
from imagen_async._core.values import ImageRequest
from imagen_async._core.wire import Accepted, ConnectFailed, Created, Rejected, Remedy
from imagen_async.errors import AccountError, ModelUnavailable, RateLimited, TransportError
from imagen_async.providers import PROVIDERS

WAYS = ("a", "b", "c", "ab", "bc", "ac", "abc")
FAST, PLAIN = "imagen4-fast", "imagen4"
PRICE = {"a": 0.5, "b": 0.3, "c": 1.0}
ANSWERS: dict[str, Created] = {
    "accepted": Accepted("t"),
    "limited": Rejected(failure(RateLimited), Remedy.BACK_OFF),
    "not sent": ConnectFailed(failure(TransportError)),
    "gone": Rejected(failure(ModelUnavailable), Remedy.CLOSE_MODEL),
    "empty": Rejected(failure(AccountError), Remedy.STOP),
}


def provider(name: str) -> Provider:
    """kie.ai's record as that of another account, at another price."""
    return msgspec.structs.replace(PROVIDERS["kie"], name=name, prices=PRICE[name])


class Queue:
    """Upstreams that have answered long ago, jobs, and those who wait, without a plan around them."""

    def __init__(self, limits: dict[str, Limits], policy: Policy = "spread") -> None:
        self.upstreams = Upstreams(upstream(name, each, connections=10_000) for name, each in limits.items())
        self.jobs: dict[int, Job] = {}
        self.waiting = SubmitQueue(self.upstreams, self.jobs)
        self._policy = policy
        self._routes: dict[tuple[str, str], Route] = {}
        for each in self.upstreams.values():
            each.take_submit(-1e6)
            each.settle_submit(Accepted("t"), FAST, -1e6)

    def add(
        self,
        way: str,
        *,
        model: str = FAST,
        images: int = 1,
        owner: int = 1,
        budget: Budget | None = None,
        at_front: bool = False,
    ) -> int:
        """Have one more wait for these accounts."""
        request = ImageRequest("a red fox", model=model)
        if (way, model) not in self._routes:
            router = Router({name: provider(name) for name in way}, self._policy)
            self._routes[way, model] = router.route(request)[1]
        route, number = self._routes[way, model], len(self.jobs) + 1
        # So many only for the price: kie.ai makes one at a time, and would refuse them.
        request = msgspec.structs.replace(request, num_images=images)
        self.jobs[number] = make_job(number, owner=owner, request=request, account=way[0], model=model, route=route)
        self.waiting.add(self.jobs[number], budget, at_front=at_front)
        return number

    def send(self, now: float) -> tuple[str, int] | None:
        """Send the next one, as the plan does."""
        if (found := self.waiting.next(now)) is None:
            return None
        offer, number = found
        self.waiting.remove(number)
        self.upstreams[offer.account].take_submit(now)
        self.upstreams[offer.account].running += 1
        return offer.account, number

    def send_all(self, now: float) -> list[tuple[str, int]]:
        """Send all that can go."""
        return list(iter(lambda: self.send(now), None))


def wide(count: int = 1000, running: int = 1000) -> Limits:
    """Room for so many."""
    return Limits(submit=Rate(count, per=10), running=running)


class Line(NamedTuple):
    """What those have in common who wait in one line, first come first served."""

    way: str
    model: str
    purse: int


class World:
    """The queue beside a plain list for each line, with accounts that answer this or that."""

    def __init__(self, policy: Policy) -> None:
        self.queue = Queue(dict.fromkeys("abc", Limits(submit=Rate(3, per=2), running=4)), policy)
        self.policy = policy
        self.purses = [None, Budget(2.5), Budget(0.9)]
        self.now = 0.0
        self.lines: dict[Line, list[int]] = {}
        self.flying: list[tuple[str, int, Line]] = []

    def add(self, line: Line, owner: int, *, at_front: bool) -> None:
        """One more waits, behind the others of its line or before them."""
        budget = self.purses[line.purse]
        number = self.queue.add(line.way, model=line.model, owner=owner, budget=budget, at_front=at_front)
        self.lines.setdefault(line, []).insert(0 if at_front else len(self.lines[line]), number)

    def remove(self, number: int) -> Line:
        """One leaves."""
        line = next(line for line, numbers in self.lines.items() if number in numbers)
        self.lines[line].remove(number)
        if not self.lines[line]:
            del self.lines[line]
        return line

    def send(self) -> None:
        """The next one goes, if one can."""
        if (sent := self.queue.send(self.now)) is not None:
            account, number = sent
            line, job = self.remove(number), self.queue.jobs[number]
            self.flying.append((account, number, line))
            if (purse := self.purses[line.purse]) is not None:
                purse.reserve(job, next(offer for offer in job.way.offers if offer.account == account))

    def answer(self, event: Created) -> None:
        """What was sent first is answered."""
        account, number, line = self.flying.pop(0)
        self.queue.upstreams[account].settle_submit(event, line.model, self.now)
        self.queue.upstreams[account].running -= 1
        self.queue.waiting.look_again()
        if (purse := self.purses[line.purse]) is not None:
            purse.settle(number, None if isinstance(event, Accepted) else 0.0)

    def open(self, line: Line) -> list[str]:
        """Who still takes those of a line."""
        return [name for name in line.way if self.queue.upstreams[name].breaker.refusal(line.model) is None]

    def affordable(self, line: Line) -> list[str]:
        """Who of them leaves the budget whole."""
        purse = self.purses[line.purse]
        return [
            name
            for name in self.open(line)
            if purse is None or purse.spent + purse.reserved + PRICE[name] <= purse.limit
        ]

    def takers(self, line: Line) -> list[str]:
        """Who of them may have it now: those of the best rank, and those behind them while these are paused."""
        rank = {"spread": lambda name: 0.0, "cheapest": PRICE.__getitem__, "in_order": line.way.index}[self.policy]
        able = self.affordable(line)
        best = min((rank(name) for name in able if not self.queue.upstreams[name].breaker.is_paused), default=math.inf)
        return [name for name in able if rank(name) <= best]

    def next(self) -> tuple[str, int] | None:
        """The account with the most room takes whom the fewest can take, and of those who came first."""
        ready = [each for each in self.queue.upstreams.values() if each.submit_at(self.now) <= self.now]
        for each in sorted(ready, key=lambda each: each.load(self.now)):
            firsts = (
                (len(self.open(line)), numbers[0])
                for line, numbers in self.lines.items()
                if each.name in self.takers(line)
            )
            if (first := min(firsts, default=None)) is not None:
                return each.name, first[1]
        return None

    def unaffordable(self) -> Iterator[int]:
        """Those of a budget of which nothing is in flight, and no line has room for one more."""
        for index, purse in enumerate(self.purses):
            lines = [line for line in self.lines if line.purse == index]
            if purse is not None and purse.is_idle and not any(map(self.affordable, lines)):
                yield from itertools.chain.from_iterable(map(self.lines.__getitem__, lines))

    def wants_more(self, owner: int) -> bool:
        """Whether an account that takes anything has fewer of an owner's to choose from than it may send at a look."""
        return any(
            len(self.choice(name, owner)) < each.at_a_look
            for name, each in self.queue.upstreams.items()
            if each.breaker.stopped is None
        )

    def choice(self, name: str, owner: int | None = None) -> list[int]:
        """Who may be sent to an account, of one owner or of all."""
        numbers = (number for line, numbers in self.lines.items() if name in self.open(line) for number in numbers)
        return [number for number in numbers if owner in (None, self.queue.jobs[number].owner)]

    def play(self, what: str, way: str, number: int) -> None:
        """Do one thing, where it can be done."""
        waiting = [each for numbers in self.lines.values() for each in numbers]
        if what in ("add", "add at front"):
            line = Line(way, PLAIN if number < 3 else FAST, number % 3)
            self.add(line, 1 + number // 6, at_front=what == "add at front")
        elif what == "leave" and waiting:
            self.queue.waiting.remove(waiting[number % len(waiting)])
            self.remove(waiting[number % len(waiting)])
        elif what == "send":
            self.send()
        elif what == "wait":
            self.now += number / 8
        elif what in ANSWERS and self.flying:
            self.answer(ANSWERS[what])
        self.check()

    def check(self) -> None:
        """The queue and the lists tell the same."""
        waiting, names = self.queue.waiting, self.queue.upstreams
        found = waiting.next(self.now)
        assert (found and (found[0].account, found[1])) == self.next()
        assert len(waiting) == sum(map(len, self.lines.values()))
        unwanted = {number for line, numbers in self.lines.items() if not self.open(line) for number in numbers}
        assert set(waiting.unwanted()) == unwanted
        assert set(waiting.unaffordable()) == set(self.unaffordable())
        assert [waiting.waiting_for(name) for name in names] == [len(self.choice(name)) for name in names]
        assert [waiting.wants_more(owner) for owner in (1, 2)] == [self.wants_more(owner) for owner in (1, 2)]
        self.check_wake_at()

    def check_wake_at(self) -> None:
        """It is the first instant at which somebody goes, as long as nothing else happens."""
        at = self.queue.waiting.wake_at(self.now)
        for time in (self.now, self.now + 1.5, self.now + 3, self.now + 30):
            assert (self.queue.waiting.next(time) is not None) == (time >= at)
        if self.now < at < math.inf:
            assert self.queue.waiting.next(at) is not None
            assert self.queue.waiting.next(math.nextafter(at, -math.inf)) is None


WORDS = [*["add"] * 6, "add at front", "leave", *["send"] * 4, "wait", "wait", *["accepted"] * 2, *ANSWERS]
STEP = st.tuples(st.sampled_from(WORDS), st.sampled_from(WAYS), st.integers(0, 11))


@pytest.mark.parametrize("policy", ["spread", "cheapest", "in_order"])
@settings(deadline=None, max_examples=25)
@given(steps=st.lists(STEP, min_size=30, max_size=80))
def test_the_queue_does_what_plain_lists_do(policy: Policy, steps: list[tuple[str, str, int]]) -> None:
    """Whoever comes and goes, it says who is next, where to and when, who has nowhere to go, and who is missing."""
    world = World(policy)
    for step in steps:
        world.play(*step)


def test_a_dear_request_keeps_no_cheap_one_of_its_budget_waiting() -> None:
    """Of one way and one budget, what still fits into it is sent, whatever came before."""
    queue, budget = Queue({"a": wide()}), Budget(1.0)
    _, cheap = queue.add("a", images=3, budget=budget), queue.add("a", budget=budget)
    assert queue.send_all(0.0) == [("a", cheap)]


@pytest.mark.parametrize(
    ("rooms", "ways", "stopped", "taken"),
    [
        ((5, 7), "ab", "", 7),
        ((5, 7), "ab", "b", 5),
        ((5, 7), "ab", "ab", 0),
        ((5, 300), "ab", "", 100),
        ((5, 5), "a", "", MOST_WAITING),
    ],
    ids=["enough for the widest", "one stopped", "all stopped", "enough for a look", "one has nothing to do"],
)
def test_no_more_are_taken_in_than_can_soon_be_sent(
    rooms: tuple[int, int], ways: str, stopped: str, taken: int
) -> None:
    """More are wanted until each account has enough, and where none are for it, up to a bound for each owner."""
    queue = Queue(dict(zip("ab", map(wide, rooms), strict=True)))
    for name in stopped:
        queue.upstreams[name].take_submit(0.0)
        queue.upstreams[name].settle_submit(ANSWERS["empty"], FAST, 0.0)
    while queue.waiting.wants_more(1) and len(queue.waiting) <= MOST_WAITING:
        queue.add(ways)
    assert len(queue.waiting) == taken
    assert queue.waiting.wants_more(2) == (stopped != "ab")
    if taken:
        queue.waiting.remove(1)
        assert queue.waiting.wants_more(1)


def test_owners_that_come_and_go_leave_nothing_behind() -> None:
    """Each batch is an owner of its own: a client that lives long keeps none of five thousand that are over."""
    queue = Queue(dict.fromkeys("ab", wide()))
    job = queue.jobs[queue.add("ab")]
    tracemalloc.start()
    try:
        for owner in range(5_000):
            queue.waiting.remove(job.id)
            queue.waiting.add(msgspec.structs.replace(job, owner=owner), None, at_front=False)
        left, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Their counts would take 1 MB, and what the other threads of a test run allocate is counted too.
    assert left < 300_000
