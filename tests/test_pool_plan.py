"""The plan over several accounts, driven by scripts of answers: who gets an item next, how it ends, how each fares."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any

import msgspec
import pytest
import test_plan
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imagen_async._core.budget import Budget
from imagen_async._core.job import (
    Done,
    Event,
    Failed,
    Final,
    Job,
    Left,
    NotAdmitted,
    Queued,
    Ready,
    Running,
    Submitting,
    Unknown,
)
from imagen_async._core.journal_entry import entry_of
from imagen_async._core.latency import LatencyPrior
from imagen_async._core.plan import Plan
from imagen_async._core.poll_schedule import Kind, PollSchedule
from imagen_async._core.provider import Limits, Provider
from imagen_async._core.rate_limit import Rate
from imagen_async._core.resuming import resumed
from imagen_async._core.routing import Policy, Route, Router
from imagen_async._core.upstream import FIRST_CONTACT_TRIES, LOST_IN_A_ROW, Upstream
from imagen_async._core.values import ImageRequest
from imagen_async._core.wire import (
    ConnectFailed,
    Rejected,
    Remedy,
    Succeeded,
    TaskFailed,
)
from imagen_async._core.wording import nobody_takes
from imagen_async.errors import (
    AccountError,
    AuthenticationError,
    BudgetReached,
    GenerationFailed,
    ImagenError,
    InsufficientCredits,
    ModelUnavailable,
    RateLimited,
    TransportError,
    UnknownOutcome,
)
from imagen_async.providers import PROVIDERS

FAST, PLAIN = "imagen4-fast", "imagen4"
ROOMY = Limits(submit=Rate(100, per=1), status=Rate(100, per=1), running=100)
SMALL = Limits(submit=Rate(2, per=2), status=Rate(4, per=1), running=4)
CONNECTIONS = 12
PRICES = {"a": 0.5, "b": 0.3, "c": 1.0}


class EverySecond(PollSchedule):
    """Asks once a second, and learns nothing."""

    def next_age(self, kind: Kind, asked: float, announced: float = 0.0) -> float:
        """A second later."""
        return asked + 1.0


SCHEDULE = EverySecond(LatencyPrior(median=5, sigma=0.5))


def growing(setbacks: int, longest: float) -> float:
    """Pauses of 1, 2, 4 … seconds."""
    return min(longest, 2.0**setbacks)


def provider(name: str, price: float | None = None) -> Provider:
    """kie.ai's record as that of another account, at another price."""
    return msgspec.structs.replace(PROVIDERS["kie"], name=name, prices=price)


def rejected(error: ImagenError, remedy: Remedy, retry_after: float | None = None) -> Rejected:
    return Rejected(error, remedy, retry_after)


CREATED = [
    "accepted",
    "lost",
    "not sent",
    "refused",
    "silent",
    "model gone",
    "no credit",
    "wrong key",
    "limited",
    "limited long",
    "maintenance",
    "withheld",
]
ASKED = ["succeeded", "pending", "broken", "denied", "unreadable"]
FETCHED = ["saved", "not saved"]
MAY_MOVE = {"not sent", "model gone", "no credit", "wrong key", "limited", "limited long", "maintenance"}
"""Answers to a create after which it is known that nothing was made, and that others may have the item."""


ANSWERS = {**test_plan.CREATED, **test_plan.ASKED, **test_plan.FETCHED}


def event(name: str, credits: float | None = None, task_id: str = "t") -> Event:
    """An answer by its name: those of one account, with what was billed."""
    match name:
        case "succeeded":
            return Succeeded(("https://files.example/1.png",), 1.0, credits, b"{}")
        case "broken":
            return TaskFailed(GenerationFailed("too dark", code="500"), credits, b"{}")
        case "limited long":
            return rejected(RateLimited("slow down", code=429), Remedy.BACK_OFF, 8.0)
    return ANSWERS[name](task_id)


class Create(msgspec.Struct):
    """A create that was sent, or a task that was taken up: its price, what came of it, what it cost once known."""

    account: str
    price: Fraction
    answer: str = ""
    after: str = ""
    cost: Fraction | None = None


def exact(credits: float | None) -> Fraction:
    """An amount as a person reads it."""
    return Fraction(credits or 0.0).limit_denominator(10_000)


class Pool:
    """A plan over several accounts, and what a shell and some servers would see of it."""

    def __init__(
        self,
        limits: Mapping[str, Limits] | None = None,
        policy: Policy = "spread",
        prices: Mapping[str, float | None] = PRICES,
    ) -> None:
        limits = limits or dict.fromkeys("abc", SMALL)
        self.providers = {name: provider(name, prices[name]) for name in limits}
        self.policy = policy
        self.plan = Plan([Upstream(name, each, SCHEDULE, CONNECTIONS, growing) for name, each in limits.items()], 2)
        self.now = 0.0
        self.jobs: dict[int, Job] = {}
        self.talking: dict[int, Job] = {}
        self.ended: dict[int, Job] = {}
        self.creates: dict[int, list[Create]] = defaultdict(list)
        self.fresh: list[Job] = []
        self.gone: set[int] = set()

    def upstream(self, name: str) -> Upstream:
        return self.plan.upstreams[name]

    def route(self, accounts: Iterable[str] = "", images: int | None = None, model: str = FAST) -> Route:
        chosen = {name: each for name, each in self.providers.items() if not accounts or name in accounts}
        return Router(chosen, self.policy).route(ImageRequest("a red fox", model=model, num_images=images))[1]

    def add(self, accounts: Iterable[str] = "", images: int | None = None, model: str = FAST, **place: Any) -> Job:
        """Take in a job for some accounts, or for all."""
        number = len(self.jobs) + 1
        route = self.route(accounts, images, model)
        first = route.offers[0]
        request = ImageRequest("a red fox", model=model, num_images=images)
        place = {"owner": 1, "deadline": 900.0, "route": route, **place}
        owner = place.pop("owner")
        job = Job(number, owner, number, f"k{number}", request, first.account, first.model, **place)
        self.jobs[number] = job
        if not isinstance(job.state, Queued):
            self.creates[number].append(Create(job.account, exact(job.model.price(request)), "accepted"))
        self.plan.add(job, self.now)
        return job

    def add_many(self, number: int, accounts: Iterable[str] = "", **place: Any) -> list[int]:
        return [self.add(accounts, **place).id for _ in range(number)]

    def look(self) -> list[Job]:
        """Hand out what may talk, collect what ended."""
        taken = self.plan.take(self.now)
        for job in taken:
            assert job.id not in self.talking, "an item was at two places at once"
            assert job.id not in self.ended
            self.talking[job.id] = job
            if isinstance(job.state, Submitting):
                self.plan.begin_create(job)
                (offer,) = [offer for offer in self.jobs[job.id].way.offers if offer.account == job.account]
                assert offer.model == job.model
                self.creates[job.id].append(Create(job.account, exact(job.model.price(job.request))))
        self.fresh = list(self.plan.finished)
        self.plan.finished.clear()
        for job in self.fresh:
            assert job.id not in self.ended
            assert isinstance(job.state, Final)
            self.ended[job.id] = job
            for create in self.creates[job.id]:
                create.cost = create.price if create.cost is None else create.cost
        return taken

    def sent(self) -> list[int]:
        """Look, and say whose creates left."""
        return [job.id for job in self.look() if isinstance(job.state, Submitting)]

    def creating(self, account: str = "") -> list[int]:
        """Whose creates are on the way."""
        jobs = sorted(self.talking.items())
        return [n for n, job in jobs if isinstance(job.state, Submitting) and account in ("", job.account)]

    def answer(self, job_id: int, name: str, credits: float | None = None) -> Job | None:
        """Settle a job that talks, and keep the books."""
        job = self.talking.pop(job_id)
        last = self.creates[job_id][-1]
        if isinstance(job.state, Submitting):
            last.answer = name
            if name == "lost":
                last.cost = last.price
            elif name != "accepted":
                last.cost = Fraction(0)
        elif isinstance(job.state, Running) and name in ("succeeded", "broken"):
            last.after = name
            if last.cost is None:
                last.cost = last.price if credits is None else exact(credits)
        return self.plan.settle(job, event(name, credits, f"t{job_id}-{len(self.creates[job_id])}"), self.now)

    def answer_any(self, number: int, created: str, asked: str, fetched: str, quarters: int | None) -> None:
        """Settle one of those that talk with the answer that fits it; it is billed in quarters of its price."""
        job_id = sorted(self.talking)[number % len(self.talking)]
        state = self.talking[job_id].state
        price = self.creates[job_id][-1].price
        credits = None if quarters is None else float(price * quarters / 4)
        name = created if isinstance(state, Submitting) else asked if isinstance(state, Running) else fetched
        self.answer(job_id, name, credits)

    def sleep(self, until: float) -> None:
        """Let time pass: nothing before `wake_at`, and something at it."""
        wake_at = self.plan.wake_at(self.now)
        self.now = until
        something = bool(self.look()) or bool(self.fresh)
        assert something == (until >= wake_at)

    def wake(self) -> None:
        """Do what is to be done by now, or sleep until something is."""
        wake_at = self.plan.wake_at(self.now)
        assert wake_at < math.inf
        if wake_at <= self.now:
            self.look()
        else:
            self.sleep(wake_at)

    def drain(self) -> None:
        """Let everything go well until nothing is left."""
        for _ in range(100 + 40 * len(self.jobs)):
            self.look()
            if self.talking:
                self.answer_any(0, "accepted", "succeeded", "saved", None)
            elif len(self.plan):
                self.wake()
            else:
                return
        raise AssertionError("the plan came to no end")

    def trusted(self) -> Pool:
        """Let every account answer once, so that none of them is at its first contact."""
        for name in self.plan.upstreams:
            self.add(name, owner=99)
        self.drain()
        self.now += 100.0
        return self


# ------------------------------------------------------------------------------------------------ scripts

ANSWER = st.tuples(
    st.just("answer"),
    st.integers(0, 9),
    st.sampled_from(["accepted"] * 12 + CREATED),
    st.sampled_from(["succeeded"] * 4 + ASKED),
    st.sampled_from(FETCHED),
    st.sampled_from([None, 4, 4, 0, 1, 3]),
)
ADD = st.builds(
    lambda accounts, model, jobs, images, place: ("add", accounts, model, jobs, images, place),
    st.sampled_from(["abc", "abc", "ab", "bc", "a", "c"]),
    st.sampled_from([FAST, FAST, FAST, PLAIN]),
    st.integers(1, 3),
    st.integers(1, 4),
    st.fixed_dictionaries(
        {
            "owner": st.integers(1, 3),
            "retries": st.integers(0, 2),
            "resubmits": st.integers(0, 1),
            "deadline": st.sampled_from([900.0, 900.0, 20.0]),
            "save_to": st.sampled_from(["out", None]),
        }
    ),
)
GO = st.just(("wake",)) | st.tuples(st.just("wait"), st.integers(1, 80).map(lambda eighths: eighths / 8))
LEAVE = st.tuples(st.sampled_from(["leave", "abandon", "withhold"]), st.integers(2, 3))
STEP: st.SearchStrategy[tuple[Any, ...]] = st.one_of(*[ADD] * 5, *[ANSWER] * 14, *[GO] * 5, LEAVE)
SCRIPT = st.lists(STEP, min_size=15, max_size=60)
POLICIES = st.sampled_from(["spread", "cheapest", "in_order"])
LONG = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])


def play(pool: Pool, step: tuple[Any, ...]) -> None:
    """Do one step of a script, and look."""
    match step:
        case ("add", accounts, model, jobs, images, place):
            for _ in range(jobs if place["owner"] not in pool.gone else 0):
                pool.add(accounts, images if model == FAST else None, model, **place)
        case ("answer", *what):
            if pool.talking:
                pool.answer_any(*what)
        case ("wait", seconds):
            pool.sleep(pool.now + seconds)
        case ("wake",):
            if pool.plan.wake_at(pool.now) < math.inf:
                pool.wake()
        case ("leave", owner):
            pool.gone.add(owner)
            pool.plan.leave(owner)
        case ("abandon", owner):
            pool.gone.add(owner)
            pool.plan.leave(owner)
            pool.plan.abandon(owner)
        case ("withhold", owner):
            pool.plan.withhold(owner)
    pool.look()
    assert pool.plan.wake_at(pool.now) > pool.now


@LONG
@given(script=SCRIPT, policy=POLICIES)
def test_an_item_moves_only_when_its_create_is_known_to_have_made_nothing(
    script: list[tuple[Any, ...]], policy: Policy
) -> None:
    """Another account gets an item after a create that made nothing or a task that failed, and never after a loss."""
    pool = Pool(policy=policy)
    for step in script:
        play(pool, step)
    pool.drain()
    for job_id, creates in pool.creates.items():
        for earlier, later in itertools.pairwise(creates):
            assert earlier.answer not in ("refused", "withheld", "")
            is_failed = earlier.after == "broken" or earlier.answer == "silent"
            if later.account != earlier.account:
                assert earlier.answer in MAY_MOVE or is_failed
            elif earlier.answer == "accepted":
                assert is_failed
        lost = [number for number, create in enumerate(creates) if create.answer == "lost"]
        if lost:
            assert len(lost) <= 1 + pool.jobs[job_id].resubmits
            assert len({create.account for create in creates[lost[0] :]}) == 1
        again = sum(create.after == "broken" or create.answer == "silent" for create in creates[:-1])
        assert again <= pool.jobs[job_id].retries


@LONG
@given(script=SCRIPT, policy=POLICIES)
def test_an_item_is_unsent_only_when_no_account_of_its_route_is_left(
    script: list[tuple[Any, ...]], policy: Policy
) -> None:
    """It ends so only once all of them refuse it, and its error names each where there are several."""
    pool = Pool(policy=policy)
    for step in [*script, ("drain",)]:
        if step == ("drain",):
            pool.drain()
        else:
            play(pool, step)
        for job in pool.fresh:
            refusals = {
                offer.account: pool.upstream(offer.account).refusal(offer.model.name)
                for offer in pool.jobs[job.id].way.offers
            }
            state = job.state
            last = pool.creates[job.id][-1].answer if pool.creates[job.id] else ""
            if isinstance(state, NotAdmitted) and last != "withheld":
                assert all(refusals.values())
                assert not all(isinstance(error, ModelUnavailable) for error in refusals.values())
                assert len(refusals) == 1 or all(f"{name}: " in state.error.message for name in refusals)
            elif isinstance(state, Failed) and isinstance(state.error, ModelUnavailable):
                assert all(isinstance(error, ModelUnavailable) for error in refusals.values())
                assert len(refusals) == 1 or all(f"{name}: " in state.error.message for name in refusals)


@LONG
@given(script=SCRIPT, policy=POLICIES)
def test_nothing_that_anybody_could_take_is_left_behind(script: list[tuple[Any, ...]], policy: Policy) -> None:
    """After any trouble, items with an account left are made once all goes well, and the plan is empty then."""
    pool = Pool(policy=policy)
    for step in script:
        play(pool, step)
    before = dict(pool.ended)
    pool.plan.upstreams["c"].stopped = pool.plan.upstreams["c"].stopped or AccountError("stopped from outside")
    takes = {
        job.id: any(pool.upstream(offer.account).refusal(offer.model.name) is None for offer in job.way.offers)
        for job in pool.plan.jobs
        if isinstance(job.state, Queued) and job.owner not in pool.gone
    }
    pool.plan._turn_away()
    pool.drain()
    assert sorted(pool.ended) == sorted(pool.jobs)
    assert len(pool.plan) == 0
    assert pool.plan.wake_at(pool.now) == math.inf
    assert all(upstream.running == 0 and not upstream.poll_queue for upstream in pool.plan.upstreams.values())
    for job_id, can_be_taken in takes.items():
        end = pool.ended[job_id].state
        if can_be_taken and pool.ended[job_id].deadline > 100:
            assert isinstance(end, Done), (before.get(job_id), end)


# ------------------------------------------------------------------------------------------- failover, one by one


@pytest.mark.parametrize("answer", sorted(MAY_MOVE))
@pytest.mark.parametrize("policy", ["spread", "in_order"])
def test_a_create_that_made_nothing_goes_to_another_account(answer: str, policy: Policy) -> None:
    """A failed connection, maintenance, a stopped account or a missing model sends the item on at once."""
    pool = Pool(dict.fromkeys("ab", ROOMY), policy)
    (job_id,) = pool.add_many(1)
    assert pool.sent() == [job_id]
    assert pool.talking[job_id].account == "a"
    pool.answer(job_id, answer)
    moves_at_once = policy == "spread" or answer not in ("limited", "limited long")
    assert pool.sent() == ([job_id] if moves_at_once else [])
    if moves_at_once:
        assert pool.talking[job_id].account == "b"
        assert pool.talking[job_id].attempts == 2
    pool.drain()
    assert isinstance(pool.ended[job_id].state, Done)


def test_a_wrong_request_is_tried_nowhere_else() -> None:
    """What one account finds wrong with a request fails it, with that account's word."""
    pool = Pool(dict.fromkeys("ab", ROOMY))
    (job_id,) = pool.add_many(1, retries=3)
    pool.look()
    pool.answer(job_id, "refused")
    pool.look()
    state = pool.ended[job_id].state
    assert isinstance(state, Failed)
    assert (state.error.provider, len(pool.creates[job_id])) == ("a", 1)


@pytest.mark.parametrize("resubmits", [0, 1])
def test_a_lost_create_stays_with_its_account(resubmits: int) -> None:
    """After a lost answer no other account gets the item; its own gets it again only where that was asked for."""
    pool = Pool(dict.fromkeys("ab", ROOMY)).trusted()
    pool.upstream("b").stopped = None
    (job_id,) = pool.add_many(1, resubmits=resubmits)
    pool.look()
    account = pool.talking[job_id].account
    pool.answer(job_id, "lost")
    assert pool.sent() == [job_id] * resubmits
    for answer in ["limited", "not sent", "maintenance"] * resubmits:
        assert pool.talking[job_id].account == account
        pool.answer(job_id, answer)
        while job_id not in pool.talking:
            pool.wake()
    if resubmits:
        pool.answer(job_id, "no credit")
        pool.look()
    assert {create.account for create in pool.creates[job_id]} == {account}
    assert isinstance(pool.ended[job_id].state, Unknown)


def test_a_retry_after_a_resubmit_stays_with_its_account() -> None:
    """A task that fails after its first create was lost is asked for again where both of them were."""
    pool = Pool(dict.fromkeys("ab", ROOMY)).trusted()
    (job_id,) = pool.add_many(1, resubmits=1, retries=1)
    pool.look()
    account = pool.talking[job_id].account
    for answer in ("lost", "accepted", "broken"):
        pool.answer(job_id, answer)
        pool.look()
        while job_id not in pool.talking:
            pool.wake()
    assert [create.account for create in pool.creates[job_id]] == [account] * 3


def test_a_lost_create_stays_with_its_account_when_its_task_is_taken_up_again() -> None:
    """A task that was resubmitted, and that a later run takes up and retries, stays where the lost one may be."""
    pool = Pool(dict.fromkeys("ab", ROOMY)).trusted()
    job = pool.add("a", resubmits=1)
    for name in ("lost", "accepted"):
        pool.look()
        left = pool.answer(job.id, name)
    assert left is not None
    entry = entry_of(left, pool.now, 0.0)
    assert entry is not None
    later = Pool(dict.fromkeys("ab", ROOMY)).trusted()
    like = msgspec.structs.replace(job, id=100, route=later.route(), retries=1)
    blank = msgspec.structs.replace(like, route=None, retries=0, resubmits=0)
    later.jobs[100] = msgspec.structs.replace(like, route=later.route())
    later.plan.add(resumed(entry, blank, later.now, 0.0), later.now)
    later.creates[100].append(Create("a", Fraction(0), "accepted"))
    later.plan.allow(100, like)
    later.look()
    later.answer(100, "broken")
    assert later.sent() == [100]
    assert later.talking[100].account == "a"


@pytest.mark.parametrize("policy", ["spread", "cheapest", "in_order"])
@pytest.mark.parametrize("answer", ["broken", "silent"])
def test_a_failed_generation_goes_elsewhere_first(policy: Policy, answer: str) -> None:
    """A new task for one that failed is asked of the others first, and of the same account when no other is left."""
    pool = Pool(dict.fromkeys("abc", ROOMY), policy)
    (job_id,) = pool.add_many(1, retries=4)
    pool.look()
    seen = []
    for _ in range(3):
        while job_id not in pool.talking:
            pool.wake()
        seen.append(pool.talking[job_id].account)
        if answer == "broken":
            pool.answer(job_id, "accepted")
            pool.look()
            while job_id not in pool.talking:
                pool.wake()
        pool.answer(job_id, answer)
        pool.look()
    assert sorted(seen) == ["a", "b", "c"]
    fourth = pool.talking[job_id].account
    assert fourth == seen[0]
    for name in set("abc") - {fourth}:
        pool.upstream(name).stopped = AccountError("stopped")
    pool.answer(job_id, "silent")
    assert pool.sent() == [job_id]
    assert pool.talking[job_id].account == fourth


def test_a_failed_generation_waits_for_another_account_that_is_busy() -> None:
    """Another account whose window is full is waited for, rather than that the one that failed is asked again."""
    pool = Pool({"a": ROOMY, "b": Limits(submit=Rate(1, per=50), running=10)}).trusted()
    (filler,) = pool.add_many(1, "b")
    (job_id,) = pool.add_many(1, retries=1)
    pool.look()
    assert (pool.talking[filler].account, pool.talking[job_id].account) == ("b", "a")
    answered_at = pool.now
    pool.answer(filler, "accepted")
    pool.answer(job_id, "silent")
    assert job_id not in pool.sent()
    while job_id not in pool.talking:
        pool.wake()
    assert (pool.talking[job_id].account, pool.now) == ("b", answered_at + 50.0)


REFUSALS = st.dictionaries(
    st.sampled_from(["a", "b", "c", "kie-2"]),
    st.sampled_from([ModelUnavailable, InsufficientCredits, AuthenticationError, AccountError, TransportError]).map(
        lambda kind: kind("no.")
    ),
    min_size=1,
)


@LONG
@given(refusals=REFUSALS)
def test_the_end_of_all_accounts_is_told_account_by_account(refusals: dict[str, ImagenError]) -> None:
    """One account's error stands as it is; of several, each is named, and the kind is theirs where they have one."""
    error = nobody_takes(refusals)
    if len(refusals) == 1:
        assert [error] == list(refusals.values())
        return
    kinds = {type(refusal) for refusal in refusals.values()}
    one = kinds.pop() if len(kinds) == 1 else AccountError
    assert type(error) is (one if issubclass(one, AccountError | ModelUnavailable) else AccountError)
    assert all(f"{account}: no" in error.message for account in refusals)


@pytest.mark.parametrize(
    ("answers", "end", "kind"),
    [
        (("model gone", "model gone"), Failed, ModelUnavailable),
        (("model gone", "no credit"), NotAdmitted, AccountError),
        (("no credit", "no credit"), NotAdmitted, InsufficientCredits),
        (("wrong key", "no credit"), NotAdmitted, AccountError),
    ],
)
def test_all_that_wait_end_when_the_last_account_goes(
    answers: tuple[str, str], end: type[Final], kind: type[ImagenError]
) -> None:
    """With no account left every queued item ends, and only those; other items of another model go on."""
    pool = Pool(dict.fromkeys("ab", SMALL))
    pool.add_many(8)
    first, second = pool.sent()
    other = pool.add(model=PLAIN)
    pool.answer(first, answers[0])
    pool.look()
    assert not pool.ended
    pool.answer(second, answers[1])
    pool.look()
    while pool.creating():
        pool.drain()
    ended = [pool.ended[job_id] for job_id in range(1, 9)]
    assert {type(job.state) for job in ended} == {end}
    for job in ended:
        assert isinstance(job.state, Failed | NotAdmitted)
        assert type(job.state.error) is kind
        assert "a: " in job.state.error.message
        assert "b: " in job.state.error.message
    served = not all(upstream.stopped for upstream in pool.plan.upstreams.values())
    assert isinstance(pool.ended[other.id].state, Done if served else NotAdmitted)


def test_a_job_that_was_lost_ends_unknown_when_its_account_goes() -> None:
    """A lost item that waits for its second sending is not called unsent when its account stops."""
    pool = Pool(dict.fromkeys("ab", ROOMY)).trusted()
    (job_id, other) = pool.add_many(2, "a", resubmits=1)
    pool.look()
    pool.answer(job_id, "lost")
    pool.answer(other, "no credit")
    pool.look()
    state = pool.ended[job_id].state
    assert isinstance(state, Unknown)
    assert isinstance(state.error, UnknownOutcome)


# ------------------------------------------------------------------------------------------------------ policies


def accounts_of(pool: Pool, jobs: Iterable[int]) -> list[str]:
    return [pool.talking[job_id].account for job_id in jobs]


def test_spread_gives_to_whoever_can_send_soonest() -> None:
    """Equal accounts share a volley to the last place of each, however their prices differ."""
    pool = Pool(dict.fromkeys("abc", SMALL)).trusted()
    jobs = pool.add_many(8)
    assert pool.sent() == jobs[:6]
    assert sorted(accounts_of(pool, jobs[:6])) == ["a", "a", "b", "b", "c", "c"]


def test_cheapest_waits_for_the_cheapest() -> None:
    """The cheapest account gets all while it can be reached, also where others could send sooner."""
    pool = Pool(dict.fromkeys("abc", SMALL), "cheapest").trusted()
    jobs = pool.add_many(6)
    assert pool.sent() == jobs[:2]
    for job_id in jobs[:2]:
        pool.answer(job_id, "accepted")
    assert pool.sent() == []
    pool.drain()
    assert {create.account for job_id in jobs for create in pool.creates[job_id]} == {"b"}


@pytest.mark.parametrize("trouble", ["not sent", "maintenance", "no credit", "model gone"])
@pytest.mark.parametrize("policy", ["cheapest", "in_order"])
def test_the_next_in_order_stands_in_for_one_that_is_stopped_or_paused(policy: Policy, trouble: str) -> None:
    """Others get its items from the instant that the first is in trouble, the next best of them first."""
    order = "bac" if policy == "cheapest" else "abc"
    pool = Pool(dict.fromkeys("abc", SMALL), policy).trusted()
    jobs = pool.add_many(3)
    first, second = pool.sent()
    assert set(accounts_of(pool, [first, second])) == {order[0]}
    pool.answer(first, trouble)
    pool.look()
    assert set(accounts_of(pool, [first, jobs[2]])) == {order[1]}


def test_in_order_the_next_does_not_stand_in_for_one_that_waits_for_its_limit() -> None:
    """A single 429 is waited out, and its items stay."""
    pool = Pool(dict.fromkeys("ab", SMALL), "in_order").trusted()
    jobs = pool.add_many(5)
    first, _ = pool.sent()
    pool.answer(first, "limited")
    assert pool.sent() == []
    assert pool.upstream("a").health(pool.now).state == "limited"
    pool.drain()
    assert {create.account for job_id in jobs for create in pool.creates[job_id]} == {"a"}


def test_items_come_back_to_the_first_once_it_does() -> None:
    """An account that was paused gets its items again from its first answered create on."""
    pool = Pool(dict.fromkeys("ab", ROOMY), "in_order").trusted()
    (first,) = pool.add_many(1)
    pool.look()
    pool.answer(first, "not sent")
    assert accounts_of(pool, pool.sent()) == ["b"]
    pool.now += 5.0
    (probe, *others) = pool.add_many(4)
    pool.look()
    assert accounts_of(pool, [probe, *others]).count("a") == 1
    pool.answer(pool.creating("a")[0], "accepted")
    assert set(accounts_of(pool, pool.add_many(3) and pool.sent())) == {"a"}


@LONG
@given(prices=st.lists(st.sampled_from([None, 0, 1.0, 2.0]), min_size=3, max_size=3))
def test_preferred_are_the_best_that_are_open_and_reachable(prices: list[float | None]) -> None:
    """Those that a forecast counts on are the best rank of what is open and not paused, or of what is open."""
    pool = Pool(dict.fromkeys("abc", ROOMY), "cheapest", dict(zip("abc", prices, strict=True)))
    real = [provider(name, price).find(FAST) for name, price in zip("abc", prices, strict=True)]
    costs = {name: model.credits for name, model in zip("abc", real, strict=True) if model is not None}
    by_cost = sorted(costs, key=lambda name: math.inf if costs[name] is None else costs[name] or 0.0)
    route = pool.route()
    cheapest = {name for name in costs if costs[name] == costs[by_cost[0]]}
    assert pool.plan.preferred(route) == cheapest
    for name in cheapest:
        pool.upstream(name).spend_submit(0.0)
        pool.upstream(name).settle_submit(ConnectFailed(TransportError("down")), FAST, 0.0)
        assert pool.upstream(name).is_paused
    others = set("abc") - cheapest
    assert bool(pool.plan.preferred(route) & others) == bool(others)
    for name in others:
        pool.upstream(name).stopped = AccountError("stopped")
    assert pool.plan.preferred(route) == cheapest, "they are paused, and there is nobody else"
    for name in cheapest:
        pool.upstream(name).stopped = AccountError("stopped")
    assert pool.plan.preferred(route) == set()


# -------------------------------------------------------------------------------------------------------- health


def test_a_new_account_is_ready() -> None:
    """An account that nothing has happened to yet is ready, has no error, and may do what it was set to."""
    health = Upstream("a", SMALL, SCHEDULE, CONNECTIONS, growing).health(0.0)
    assert (health.name, health.state, health.error, health.limit, health.rate, health.running) == (
        "a",
        "ready",
        None,
        SMALL.submit,
        0.0,
        0,
    )


def test_health_counts_what_was_sent_and_what_runs() -> None:
    """The rate is that of the last window, the tasks are those on the way or at the provider."""
    pool = Pool({"a": SMALL}).trusted()
    first, _ = pool.add_many(2)
    pool.look()
    health = pool.upstream("a").health(pool.now)
    assert (health.rate, health.running, health.state) == (1.0, 2, "ready")
    pool.answer(first, "refused")
    assert pool.upstream("a").health(pool.now).running == 1
    pool.drain()
    assert pool.upstream("a").health(pool.now + 2.0).rate == 0.0


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        ("limited", "limited"),
        ("limited long", "limited"),
        ("not sent", "paused"),
        ("maintenance", "paused"),
        ("no credit", "stopped"),
        ("wrong key", "stopped"),
        ("model gone", "ready"),
        ("refused", "ready"),
        ("silent", "ready"),
        ("accepted", "ready"),
        ("lost", "ready"),
    ],
)
def test_one_accounts_trouble_is_its_own(answer: str, state: str) -> None:
    """What one answer makes of its account, with the error that says why; the other account stays ready."""
    pool = Pool(dict.fromkeys("ab", ROOMY))
    (job_id,) = pool.add_many(1, "a")
    pool.look()
    pool.answer(job_id, answer)
    health = pool.upstream("a").health(pool.now)
    assert health.state == state
    assert (health.error is None) == (state == "ready")
    assert pool.upstream("b").health(pool.now).state == "ready"
    others = pool.add_many(3, "b")
    pool.drain()
    assert all(isinstance(pool.ended[other].state, Done) for other in others)


def test_a_limited_account_tells_its_lowered_limit_until_it_is_back() -> None:
    """After a 429 its limit is below what it was set to; it climbs back window by window, and is ready then."""
    limits = Limits(submit=Rate(4, per=2), status=Rate(9, per=1), running=99)
    pool = Pool({"a": limits}).trusted()
    pool.add_many(40)
    first, *others = pool.sent()
    pool.answer(first, "limited")
    for job_id in others:
        pool.answer(job_id, "accepted")
    assert pool.upstream("a").health(pool.now).limit.count < 4
    seen = []
    while pool.upstream("a").health(pool.now).state != "ready":
        seen.append(pool.upstream("a").health(pool.now).limit.count)
        pool.wake()
        while pool.talking:
            pool.answer_any(0, "accepted", "succeeded", "saved", None)
    assert seen == sorted(seen)
    assert pool.upstream("a").health(pool.now).limit.count == 4


def test_an_account_of_one_create_at_a_time_is_limited_while_it_waits() -> None:
    """A limit that cannot be lowered any more is told as limited for as long as the 429 is waited out."""
    pool = Pool({"a": Limits(submit=Rate(1, per=4), running=9)}).trusted()
    (job_id,) = pool.add_many(1)
    pool.look()
    pool.answer(job_id, "limited")
    assert pool.upstream("a").health(pool.now).state == "limited"
    assert isinstance(pool.upstream("a").health(pool.now).error, RateLimited)
    assert pool.upstream("a").health(pool.now + 4.0).state == "ready"


@pytest.mark.parametrize(("answer", "tries"), [("not sent", 1), ("maintenance", 1), ("lost", LOST_IN_A_ROW)])
def test_a_paused_account_is_probed_and_comes_back(answer: str, tries: int) -> None:
    """Single creates further and further apart, while another account goes on; the first answer ends the pause."""
    pool = Pool(dict.fromkeys("ab", ROOMY)).trusted()
    pool.add_many(20, "a")
    pool.add_many(60)
    pool.look()
    probes = []
    for _ in range(60):
        if len(probes) == 6:
            break
        for job_id in pool.creating("a"):
            pool.answer(job_id, answer)
        while pool.talking:
            pool.answer_any(0, "accepted", "succeeded", "saved", None)
        assert pool.upstream("a").health(pool.now).state == "paused"
        pool.wake()
        assert len(pool.creating("a")) <= 1
        probes += [pool.now] * len(pool.creating("a"))
    gaps = [later - earlier for earlier, later in itertools.pairwise(probes)]
    assert gaps == [2.0, 4.0, 8.0, 16.0, 32.0]
    assert pool.upstream("b").health(pool.now).state == "ready"
    (probe,) = pool.creating("a")
    pool.answer(probe, "accepted")
    assert pool.upstream("a").health(pool.now).state == "ready"
    assert pool.upstream("a").health(pool.now).error is None
    pool.add_many(5, "a")
    pool.look()
    assert len(pool.creating("a")) >= 5


def test_an_account_that_refuses_all_for_its_rate_is_paused() -> None:
    """A second 429 with nothing accepted in between is no rate: others go first, and one create at a time probes it."""
    pool = Pool(dict.fromkeys("ab", SMALL), "in_order").trusted()
    pool.add_many(30)
    pool.look()
    for expected in ("limited", "paused"):
        while not pool.creating("a"):
            pool.wake()
        for job_id in pool.creating("a"):
            pool.answer(job_id, "limited")
        assert pool.upstream("a").health(pool.now).state == expected
    pool.look()
    assert pool.creating("b")
    assert not pool.creating("a")
    pool.drain()
    assert pool.upstream("a").health(pool.now + 100.0).state != "paused"
    assert all(isinstance(job.state, Done) for job in pool.ended.values())


@pytest.mark.parametrize(("answer", "pause"), [("limited", 1.0), ("limited long", 8.0)])
@pytest.mark.parametrize("trouble", ["not sent", "maintenance"])
def test_a_429_to_a_probe_is_waited_out(answer: str, pause: float, trouble: str) -> None:
    """A paused account that answers its probe with a 429 gets no create for a window, or for as long as it asks."""
    pool = Pool({"a": ROOMY}).trusted()
    pool.add_many(5)
    for job_id in pool.sent():
        pool.answer(job_id, trouble)
    pool.wake()
    (probe,) = pool.creating("a")
    pool.now += 0.125
    at = pool.now
    pool.answer(probe, answer)
    assert pool.upstream("a").health(pool.now).state in ("limited", "paused")
    assert pool.sent() == []
    pool.wake()
    assert pool.now >= at + pause


def test_an_account_that_was_never_reached_stops_and_others_take_its_items() -> None:
    """Five failed connections to a server that never answered stop that account alone, and nothing is lost."""
    pool = Pool(dict.fromkeys("ab", ROOMY), "in_order")
    for _ in range(40):
        pool.add_many(2)
        pool.look()
        for job_id in pool.creating("a"):
            pool.answer(job_id, "not sent")
        pool.look()
        while pool.talking:
            pool.answer_any(0, "accepted", "succeeded", "saved", None)
        pool.now += 1.0
    assert pool.upstream("a").health(pool.now).state == "stopped"
    assert sum(create.account == "a" for creates in pool.creates.values() for create in creates) == FIRST_CONTACT_TRIES
    pool.drain()
    assert len(pool.ended) == 80
    assert all(isinstance(job.state, Done) for job in pool.ended.values())


@LONG
@given(script=SCRIPT)
def test_health_agrees_with_what_is_sent(script: list[tuple[Any, ...]]) -> None:
    """A stopped account gets nothing, a paused one a create at a time, and each has the error that is its reason."""
    pool = Pool()
    for step in script:
        before = {name: upstream.health(pool.now).state for name, upstream in pool.plan.upstreams.items()}
        talked = set(pool.creating())
        play(pool, step)
        for name, upstream in pool.plan.upstreams.items():
            health = upstream.health(pool.now)
            fresh = [job_id for job_id in pool.creating(name) if job_id not in talked]
            assert (health.state == "stopped") == (upstream.stopped is not None)
            assert health.state not in ("stopped", "paused") or health.error is not None
            assert health.state != "ready" or health.error is None
            assert before[name] != "stopped" or not fresh
            assert health.state != "paused" or len(fresh) <= 1
            expected = [job for job in pool.plan.jobs if job.account == name]
            assert health.running == sum(isinstance(job.state, Submitting | Running) for job in expected)
            assert health.limit.per == upstream.limits.submit.per
            assert 1 <= health.limit.count <= upstream.limits.submit.count


# ------------------------------------------------------------------------------------- owners of the same pool


def test_a_budget_ends_no_item_of_another_owner() -> None:
    """What one owner may not spend any more is no word about the others."""
    pool = Pool({"a": SMALL})
    pool.plan.limit_spending(1, Budget(0.9))
    mine, others = pool.add_many(4), pool.add_many(4, owner=2)
    pool.drain()
    assert [type(pool.ended[job_id].state) for job_id in mine] == [Done, NotAdmitted, NotAdmitted, NotAdmitted]
    assert all(isinstance(pool.ended[job_id].state, Done) for job_id in others)
    errors = [job.state.error for job in pool.ended.values() if isinstance(job.state, NotAdmitted)]
    assert all(isinstance(error, BudgetReached) for error in errors)


def test_leaving_one_owner_leaves_the_others_in_line() -> None:
    """The queued items of an owner who goes are left at once, and those behind them are sent."""
    pool = Pool({"a": SMALL}).trusted()
    mine, others = pool.add_many(4), pool.add_many(2, owner=2)
    pool.look()
    pool.plan.leave(1)
    pool.look()
    assert [type(pool.ended[job_id].state) for job_id in mine[2:]] == [Left, Left]
    pool.drain()
    assert all(isinstance(pool.ended[job_id].state, Done) for job_id in others)


def test_what_is_ready_is_saved_with_all_accounts_stopped() -> None:
    """A picture that is paid for is fetched whatever its account says now."""
    pool = Pool(dict.fromkeys("ab", SMALL))
    for upstream in pool.plan.upstreams.values():
        upstream.stopped = AccountError("stopped")
    outcome = event("succeeded")
    assert isinstance(outcome, Succeeded)
    job = pool.add(state=Ready("t", outcome), save_to="out", expires_at=5.0)
    pool.drain()
    assert isinstance(pool.ended[job.id].state, Done)
