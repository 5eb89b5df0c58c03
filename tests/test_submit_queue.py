"""The one queue of all accounts: who goes next, where to, and when there will be somebody."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import Any

import msgspec
from builders import DrivenPlan, failure, make_job, upstream
from hypothesis import given, settings
from hypothesis import strategies as st

from imagen_async._core.budget import Budget
from imagen_async._core.job import Job
from imagen_async._core.provider import Limits, Provider
from imagen_async._core.rate_limit import Rate
from imagen_async._core.routing import Policy, Route, Router
from imagen_async._core.submit_queue import MOST_WAITING, SubmitQueue
from imagen_async._core.upstream import MOST_AT_A_LOOK, Upstream, Upstreams
from imagen_async._core.values import ImageRequest
from imagen_async._core.wire import Accepted, ConnectFailed, Rejected, Remedy
from imagen_async.errors import AccountError, ModelUnavailable, RateLimited, TransportError
from imagen_async.providers import PROVIDERS

OFTEN = settings(deadline=None, max_examples=70)
WAYS = ("a", "b", "c", "ab", "bc", "ac", "abc")
FAST, PLAIN = "imagen4-fast", "imagen4"
GONE = Rejected(failure(ModelUnavailable), Remedy.CLOSE_MODEL)
PRICE = {"a": 0.5, "b": 0.3, "c": 1.0}


def provider(name: str) -> Provider:
    """kie.ai's record as that of another account, at another price."""
    return msgspec.structs.replace(PROVIDERS["kie"], name=name, prices=PRICE[name])


class Queue:
    """Upstreams, jobs and those who wait, without a plan around them."""

    def __init__(self, limits: dict[str, Limits], policy: Policy = "spread") -> None:
        self.upstreams = Upstreams(upstream(name, each, connections=10_000) for name, each in limits.items())
        self.jobs: dict[int, Job] = {}
        self.submit_queue = SubmitQueue(self.upstreams, self.jobs)
        self.policy = policy
        self.routes: dict[tuple[str, str], Route] = {}

    def make(self, ways: Iterable[str], *, owner: int = 1, model: str = FAST) -> Job:
        """One more that may go to these accounts."""
        ways = "".join(ways)
        request = ImageRequest("a red fox", model=model)
        if (ways, model) not in self.routes:
            providers = {name: provider(name) for name in self.upstreams if name in ways}
            self.routes[ways, model] = Router(providers, self.policy).route(request)[1]
        route = self.routes[ways, model]
        first = route.offers[0]
        number = len(self.jobs) + 1
        job = make_job(number, owner=owner, request=request, account=first.account, model=model, route=route)
        self.jobs[number] = msgspec.structs.replace(job, model=first.model)
        return self.jobs[number]

    def add(self, ways: Iterable[str], *, at_front: bool = False, budget: Budget | None = None, **place: Any) -> int:
        """Have one more wait for these accounts."""
        job = self.make(ways, **place)
        self.submit_queue.add(job, budget, at_front=at_front)
        return job.id

    def trust(self) -> None:
        """Let every account have answered, long ago."""
        for each in self.upstreams.values():
            each.take_submit(-1e6)
            each.settle_submit(Accepted("t"), FAST, -1e6)

    def send(self, now: float) -> tuple[str, int] | None:
        """Send the next one, as the plan does."""
        found = self.submit_queue.next(now)
        if found is None:
            return None
        offer, job_id = found
        self.submit_queue.remove(job_id)
        self.upstreams[offer.account].take_submit(now)
        self.upstreams[offer.account].running += 1
        return offer.account, job_id

    def send_all(self, now: float) -> list[tuple[str, int]]:
        return list(iter(lambda: self.send(now), None))


def wide(count: int = 1000, running: int = 1000) -> Limits:
    return Limits(submit=Rate(count, per=10), running=running)


# -------------------------------------------------------------------------------------------------- the order


@OFTEN
@given(ways=st.lists(st.sampled_from(WAYS), max_size=30), room=st.integers(1, 6))
def test_first_come_first_served_within_a_route(ways: list[str], room: int) -> None:
    """Those of one route go in the order in which they came, whoever takes them."""
    queue = Queue(dict.fromkeys("abc", wide(room)))
    queue.trust()
    numbers = [queue.add(way) for way in ways]
    sent = [job_id for _, job_id in queue.send_all(0.0)]
    for way in WAYS:
        those = [number for number, each in zip(numbers, ways, strict=True) if each == way]
        gone = [job_id for job_id in sent if job_id in those]
        assert gone == those[: len(gone)]


@OFTEN
@given(ways=st.lists(st.sampled_from(WAYS), max_size=30), room=st.integers(1, 6))
def test_an_account_takes_those_first_that_the_fewest_can_take(ways: list[str], room: int) -> None:
    """At every sending nobody waits for this account who has fewer others to go to, or as few and came earlier."""
    queue = Queue(dict.fromkeys("abc", wide(room)))
    queue.trust()
    submit_queue = {queue.add(way): way for way in ways}
    for account, job_id in queue.send_all(0.0):
        its_way = submit_queue.pop(job_id)
        assert account in its_way
        rivals = [(len(way), number) for number, way in submit_queue.items() if account in way]
        assert (len(its_way), job_id) < min(rivals, default=(9, 0))
    for account, each in queue.upstreams.items():
        if any(account in way for way in submit_queue.values()):
            assert each.submit_at(0.0) > 0.0, "it has room, and somebody waits for it"


@OFTEN
@given(
    rooms=st.tuples(*[st.integers(1, 8)] * 3),
    running=st.tuples(*[st.integers(1, 8)] * 3),
    jobs=st.integers(0, 24),
)
def test_the_account_with_the_most_room_goes_first(rooms: tuple[int, ...], running: tuple[int, ...], jobs: int) -> None:
    """Of those that can send now, the one with the smallest part of its window and tasks taken gets the next."""
    queue = Queue({name: wide(*each) for name, *each in zip("abc", rooms, running, strict=True)})
    queue.trust()
    for _ in range(jobs):
        queue.add("abc")
    gone = dict.fromkeys("abc", 0)
    most = {name: min(each) for name, *each in zip("abc", rooms, running, strict=True)}
    for _ in range(jobs):
        free = {name: number / most[name] for name, number in gone.items() if number < most[name]}
        sent = queue.send(0.0)
        assert (sent is None) == (not free)
        if sent is not None:
            assert free[sent[0]] == min(free.values())
            gone[sent[0]] += 1
    places = sum(map(min, rooms, running))
    assert len(queue.submit_queue) == max(0, jobs - places)


def test_a_job_that_only_one_can_take_is_not_held_up_by_those_who_can_go_elsewhere() -> None:
    """One that came last goes first at the only account that takes it; the others share what is left."""
    queue = Queue({"a": wide(2), "b": wide(2)})
    queue.trust()
    free = [queue.add("ab") for _ in range(6)]
    bound = queue.add("a")
    sent = queue.send_all(0.0)
    assert ("a", bound) in sent
    assert [job_id for _, job_id in sent if job_id != bound] == free[:3]


def test_one_whose_other_accounts_are_gone_is_as_bound_as_one_that_had_none() -> None:
    """How many can take a job is counted among those that still take anything."""
    queue = Queue({"a": wide(1), "b": wide(1), "c": wide(1)})
    queue.trust()
    queue.add("ac")
    former = queue.add("ab")
    queue.upstreams["b"].breaker.stopped = failure(AccountError)
    queue.upstreams["c"].submit.take(0.0)
    assert queue.send_all(0.0) == [("a", former)]


def test_one_that_comes_back_goes_before_the_others_of_its_route() -> None:
    """A job that could not be sent is the next of its route again."""
    queue = Queue({"a": wide(3)})
    queue.trust()
    for _ in range(2):
        queue.add("a")
    again = queue.add("a", at_front=True)
    assert [job_id for _, job_id in queue.send_all(0.0)] == [again, 1, 2]


def test_one_that_is_taken_out_is_not_sent() -> None:
    """Those who leave make no gap, and a queue that all have left has nobody for anybody."""
    queue = Queue({"a": wide(9)})
    queue.trust()
    numbers = [queue.add("a") for _ in range(4)]
    for number in numbers[::2]:
        queue.submit_queue.remove(number)
    assert [job_id for _, job_id in queue.send_all(0.0)] == numbers[1::2]
    assert (len(queue.submit_queue), queue.submit_queue.next(0.0), queue.submit_queue.wake_at(0.0)) == (
        0,
        None,
        math.inf,
    )


# ------------------------------------------------------------------------------------------------ policies and money


@OFTEN
@given(
    policy=st.sampled_from(["cheapest", "in_order"]),
    states=st.tuples(*[st.sampled_from(["ready", "full", "held", "paused", "stopped", "closed"])] * 3),
)
def test_the_next_in_rank_goes_only_while_those_before_are_paused_or_gone(
    policy: Policy, states: tuple[str, ...]
) -> None:
    """A full window or a 429 is waited for; a paused, stopped or closed account is not."""
    queue = Queue(dict.fromkeys("abc", wide(2)), policy)
    queue.trust()
    for each, state in zip(queue.upstreams.values(), states, strict=True):
        put(each, state)
    queue.add("abc")
    order = "bac" if policy == "cheapest" else "abc"
    state_of = dict(zip("abc", states, strict=True))
    first = next((name for name in order if state_of[name] in ("ready", "full", "held")), None)
    found = queue.submit_queue.next(0.0)
    expected = first if first is not None and state_of[first] == "ready" else None
    assert (found and found[0].account) == expected


def close(upstream: Upstream, model: str) -> None:
    """Let it serve a model no more."""
    upstream.breaker.settle(GONE, model, 0.0)


def put(upstream: Upstream, state: str) -> None:
    """Bring an account that was ready into a state, as of 0.0."""
    match state:
        case "full":
            upstream.take_submit(0.0)
            upstream.take_submit(0.0)
        case "held":
            upstream.take_submit(0.0)
            upstream.settle_submit(Rejected(failure(RateLimited), Remedy.BACK_OFF), FAST, 0.0)
            assert not upstream.breaker.is_paused
        case "paused":
            upstream.take_submit(0.0)
            upstream.settle_submit(ConnectFailed(failure(TransportError)), FAST, 0.0)
            assert upstream.breaker.is_paused
        case "stopped":
            upstream.breaker.stopped = failure(AccountError)
        case "closed":
            close(upstream, FAST)


def test_who_cannot_pay_waits_without_holding_up_others() -> None:
    """A job whose budget is in flight is passed over; the next of another budget, or of none, is sent."""
    queue = Queue({"a": wide()})
    queue.trust()
    poor, rich = Budget(0.5), Budget(9.0)
    poor.reserve(queue.jobs[queue.add("a")], queue.jobs[1].way.offers[0])
    queue.submit_queue.remove(1)
    waits, goes, free = queue.add("a", budget=poor), queue.add("a", budget=rich), queue.add("a")
    assert [job_id for _, job_id in queue.send_all(0.0)] == [goes, free]
    assert list(queue.submit_queue.unaffordable()) == []
    poor.settle(1, None)
    assert list(queue.submit_queue.unaffordable()) == [waits]
    assert list(queue.submit_queue.unwanted()) == []


def test_an_account_that_is_too_dear_leaves_it_to_the_others() -> None:
    """With 0.3 credits left a job goes to the account of that price, also where that is not the first in order."""
    queue = Queue(dict.fromkeys("abc", wide()), "in_order")
    queue.trust()
    number = queue.add("abc", budget=Budget(0.3))
    assert queue.send_all(0.0) == [("b", number)]


@OFTEN
@given(ways=st.lists(st.sampled_from(WAYS), max_size=20), closed=st.sets(st.sampled_from("abc")))
def test_unwanted_are_those_with_no_account_left(ways: list[str], closed: set[str]) -> None:
    """Exactly those whose accounts have all stopped, or closed their model, are told to end."""
    queue = Queue(dict.fromkeys("abc", wide()))
    numbers = {queue.add(way): way for way in ways}
    for name in closed:
        put(queue.upstreams[name], "stopped" if name == "a" else "closed")
    assert sorted(queue.submit_queue.unwanted()) == [number for number, way in numbers.items() if set(way) <= closed]


# --------------------------------------------------------------------------------------------------- how many


@settings(OFTEN, max_examples=30)
@given(
    ways=st.lists(st.sampled_from(WAYS), min_size=1, max_size=4),
    rooms=st.tuples(*[st.integers(1, 300)] * 3),
    stopped=st.sets(st.sampled_from("abc")),
)
def test_no_more_are_taken_in_than_can_soon_be_sent(ways: list[str], rooms: tuple[int, ...], stopped: set[str]) -> None:
    """Taking in while more are wanted ends, at the latest at `MOST_WAITING`, and no sooner than all have enough."""
    queue = Queue({name: wide(room) for name, room in zip("abc", rooms, strict=True)})
    for name in stopped:
        queue.upstreams[name].breaker.stopped = failure(AccountError)
    turn = itertools.cycle(ways)
    counts = dict.fromkeys("abc", 0)
    while queue.submit_queue.wants_more(1) and len(queue.submit_queue) <= MOST_WAITING:
        way = next(turn)
        queue.add(way)
        for name in way:
            counts[name] += 1
    needs = {name: min(room, MOST_AT_A_LOOK) for name, room in zip("abc", rooms, strict=True) if name not in stopped}
    assert len(queue.submit_queue) <= MOST_WAITING
    assert len(queue.submit_queue) == MOST_WAITING or all(counts[name] >= need for name, need in needs.items())
    if stopped == set("abc"):
        assert len(queue.submit_queue) == 0


def test_an_account_with_nothing_to_do_does_not_draw_in_the_whole_input() -> None:
    """Where all that comes is for one account, the other's idleness is worth a bounded queue and no more."""
    queue = Queue({"a": wide(5), "b": wide(5)})
    while queue.submit_queue.wants_more(1) and len(queue.submit_queue) <= MOST_WAITING:
        queue.add("a")
    assert len(queue.submit_queue) == MOST_WAITING
    queue.submit_queue.remove(1)
    assert queue.submit_queue.wants_more(1)


@OFTEN
@given(ways=st.lists(st.sampled_from(WAYS), min_size=1, max_size=30), data=st.data())
def test_those_who_were_sent_leave_room_for_others(ways: list[str], data: st.DataObject) -> None:
    """More are wanted exactly while some account has fewer waiting for it than it may send, whoever came and went."""
    queue = Queue(dict.fromkeys("abc", wide(5)))
    submit_queue = {queue.add(way): way for way in ways}
    for number in data.draw(st.lists(st.sampled_from(sorted(submit_queue)), unique=True)):
        queue.submit_queue.remove(number)
        del submit_queue[number]
        fewest = min(sum(name in way for way in submit_queue.values()) for name in "abc")
        assert queue.submit_queue.wants_more(1) == (fewest < 5)


def test_an_account_that_lost_a_model_is_filled_up_with_others() -> None:
    """Those of a model that it serves no more do not count for an account, so others are taken in for its sake."""
    queue = Queue(dict.fromkeys("ab", wide(3, running=9)))
    plan = DrivenPlan(queue.upstreams.values())
    plan.add(queue.make("ab"), 0.0)
    (sent,) = plan.take_and_send(0.0)
    while plan.plan.wants_more(1):
        plan.add(queue.make("ab"), 0.0)
        assert len(plan) < 20
    plan.settle(sent, GONE, 1.0)
    assert plan.plan.wants_more(1)
    for _ in range(3):
        plan.add(queue.make("a", model=PLAIN), 1.0)
    assert not plan.plan.wants_more(1)


@OFTEN
@given(steps=st.lists(st.tuples(st.booleans(), st.integers(1, 3), st.sampled_from(WAYS)), max_size=60))
def test_an_owner_is_not_held_up_by_the_length_of_anothers_queue(steps: list[tuple[bool, int, str]]) -> None:
    """How many of an owner wait is counted right as they come and go, and another owner's are not among them."""
    queue = Queue(dict.fromkeys("abc", wide()))
    for _ in range(MOST_WAITING - 3):
        queue.add("a", owner=1)
    mine: list[int] = []
    for is_new, owner, way in steps:
        if is_new or not mine:
            number = queue.add(way, owner=owner)
            if owner == 1:
                mine.append(number)
        else:
            queue.submit_queue.remove(mine.pop())
        assert queue.submit_queue.wants_more(1) == (len(mine) < 3)
        assert queue.submit_queue.wants_more(2)
        assert queue.submit_queue.wants_more(3)


# ------------------------------------------------------------------------------------------------------ time

EVENTS = st.lists(
    st.tuples(st.sampled_from(["accepted", "limited", "not sent"]), st.sampled_from([0.0, 0.125, 1.5, 4.0])),
    max_size=25,
)


@OFTEN
@given(
    ways=st.lists(st.sampled_from(WAYS), min_size=1, max_size=20),
    policy=st.sampled_from(["spread", "cheapest", "in_order"]),
    events=EVENTS,
    tenths=st.none() | st.integers(0, 40),
)
def test_somebody_goes_at_the_time_that_was_told_and_nobody_before(
    ways: list[str], policy: Policy, events: list[tuple[str, float]], tenths: int | None
) -> None:
    """`wake_at` is the first instant at which `next` has somebody, as long as nothing else happens."""
    queue = Queue(dict.fromkeys("abc", Limits(submit=Rate(2, per=2), running=4)), policy)
    budget = None if tenths is None else Budget(tenths / 10)
    for way in ways:
        queue.add(way, budget=budget)
    now, flying = 0.0, list[tuple[str, int]]()
    for name, pause in events:
        sent = queue.send_all(now)
        flying += sent
        for account, job_id in sent if budget is not None else ():
            budget.reserve(queue.jobs[job_id], next(o for o in queue.jobs[job_id].way.offers if o.account == account))
        check_wake_at(queue, now)
        now += pause
        if flying:
            account, job_id = flying.pop(0)
            answer = {
                "accepted": Accepted("t"),
                "limited": Rejected(failure(RateLimited), Remedy.BACK_OFF),
                "not sent": ConnectFailed(failure(TransportError)),
            }[name]
            queue.upstreams[account].settle_submit(answer, FAST, now)
            queue.upstreams[account].running -= 1
            if budget is not None:
                budget.settle(job_id, None if name == "accepted" else 0.0)
        check_wake_at(queue, now)


def check_wake_at(queue: Queue, now: float) -> None:
    """Compare it with `next` at every instant that matters."""
    at = queue.submit_queue.wake_at(now)
    for sixteenths in range(0, 200, 3):
        time = now + sixteenths / 16
        assert (queue.submit_queue.next(time) is not None) == (time >= at)
    if now < at < math.inf:
        assert queue.submit_queue.next(at) is not None
        assert queue.submit_queue.next(math.nextafter(at, -math.inf)) is None


def test_a_job_waits_in_no_accounts_line() -> None:
    """What frees first takes the next job, wherever the ones before it went."""
    queue = Queue({"a": Limits(submit=Rate(1, per=10)), "b": Limits(submit=Rate(1, per=3))})
    queue.trust()
    for _ in range(6):
        queue.add("ab")
    went: list[tuple[str, int]] = []
    for now in (0.0, 3.0, 6.0, 9.0, 10.0):
        for account, job_id in queue.send_all(now):
            queue.upstreams[account].settle_submit(Accepted("t"), FAST, now)
            went.append((account, job_id))
    assert went == [("a", 1), ("b", 2), ("b", 3), ("b", 4), ("b", 5), ("a", 6)]


def test_models_close_one_by_one() -> None:
    """An account that lacks one model is still sent the others, and loses only what it lacks."""
    queue = Queue(dict.fromkeys("ab", wide()))
    queue.trust()
    close(queue.upstreams["a"], PLAIN)
    lacking = [queue.add("ab", model=PLAIN) for _ in range(4)]
    served = [queue.add("ab") for _ in range(4)]
    went = {job_id: account for account, job_id in queue.send_all(0.0)}
    assert {went[job_id] for job_id in lacking} == {"b"}
    assert "a" in {went[job_id] for job_id in served}
