"""What a batch may spend: whatever is answered, what is spent and what is in flight never come to more."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pools import ANSWER, FAST, GO, LEAVE, LONG, POLICIES, ROOMY, SLOW, SMALL, Create, Pool, event, exact, play

from imagen_async import Account, Client
from imagen_async._core.budget import Budget
from imagen_async._core.job import Job
from imagen_async._core.model import Model
from imagen_async._core.routing import Offer, Policy
from imagen_async._core.states import Done, Doubted, Failed, Fetching, NotAdmitted, Queued, Running, Unknown
from imagen_async._core.values import ImageRequest
from imagen_async._core.wire import Succeeded
from imagen_async.errors import BudgetReached
from imagen_async.sandbox import Sandbox

OFTEN = settings(deadline=None, max_examples=100)

# ------------------------------------------------------------------------------------------- the budget by itself


def job_of(number: int, images: int = 1) -> tuple[Job, Offer]:
    """A job of so many pictures at 0.1 credits each, and where it may be sent."""
    model = Model("imagen4-fast", "google/imagen4-fast", None, credits=0.1)
    request = ImageRequest("a red fox", model=model.name, num_images=images)
    return Job(number, 1, number, f"k{number}", request, "a", model, 900.0), Offer("a", model)


@OFTEN
@given(tenths=st.integers(0, 500))
def test_tenths_of_a_credit_add_up_exactly(tenths: int) -> None:
    """A limit of n tenths is n pictures of 0.1 credits each, not one more or less."""
    budget = Budget(tenths / 10)
    sent = 0
    while budget.fits(*(ordered := job_of(sent))):
        budget.reserve(*ordered)
        if sent % 3:
            budget.settle(ordered[0].id, None if sent % 2 else 0.1)
        sent += 1
    assert sent == tenths
    assert budget.spent + budget.reserved == pytest.approx(tenths / 10)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "reserve", "release", "settle"]),
        st.integers(1, 4),
        st.integers(0, 8),
        st.sampled_from([None, 0, 1, 2, 3, 4]),
    ),
    max_size=60,
)


@OFTEN
@given(limit=st.integers(0, 40), before=st.integers(0, 10), steps=STEPS)
def test_the_books_are_right_at_every_step(
    limit: int, before: int, steps: list[tuple[str, int, int, int | None]]
) -> None:
    """Spent is what was billed or may have been, reserved is what is in flight, and both together stay in the limit."""
    budget = Budget(limit / 10, before / 10)
    spent, flying = Fraction(before, 10), dict[int, int]()
    for number, (step, images, which, quarters) in enumerate(steps):
        job_id = sorted(flying)[which % len(flying)] if flying else 10_000
        if step == "reserve":
            ordered = job_of(number, images)
            fits = spent + Fraction(sum(flying.values()) + images, 10) <= Fraction(limit, 10)
            assert budget.fits(*ordered) == fits
            if fits:
                budget.reserve(*ordered)
                flying[number] = images
        elif step == "release":
            budget.release(job_id)
            flying.pop(job_id, None)
        else:
            price = Fraction(flying.pop(job_id, 0), 10)
            billed = price if quarters is None else price * quarters / 4
            budget.settle(job_id, None if quarters is None else float(billed))
            spent += billed
        assert exact(budget.spent) == spent
        assert exact(budget.reserved) == Fraction(sum(flying.values()), 10)
        assert budget.is_idle == (not flying)
        assert spent + Fraction(sum(flying.values()), 10) <= max(Fraction(limit, 10), Fraction(before, 10))
    assert budget.limit == limit / 10


def test_what_was_spent_before_counts() -> None:
    """Earlier runs' credits leave less for this one, whenever they come to be known."""
    budget = Budget(0.5, spent=0.1)
    budget.add_spent(0.2)
    assert budget.spent == 0.3
    assert budget.fits(*job_of(1, images=2))
    assert not budget.fits(*job_of(1, images=3))


def test_a_provider_that_bills_more_is_taken_at_its_word() -> None:
    """From the first bill above the price on, that bill is the price of a picture of that model at that account."""
    budget = Budget(10.0)
    budget.reserve(*job_of(1, images=2))
    budget.settle(1, 1.0)
    ordered, elsewhere = job_of(2, images=3)[0], Offer("b", job_of(2)[1].model)
    budget.reserve(ordered, job_of(2)[1])
    assert budget.reserved == 1.5
    budget.reserve(job_of(3, images=3)[0], elsewhere)
    assert budget.reserved == 1.8
    budget.settle(2, None)
    assert budget.spent == 2.5
    budget.reserve(*job_of(4))
    budget.settle(4, 0.1)
    budget.reserve(*job_of(5))
    assert budget.reserved == 0.8


def test_news_of_a_job_that_has_nothing_reserved_is_no_news() -> None:
    """A second settlement or release of a job, or one of a job that was never reserved, changes nothing."""
    budget = Budget(1.0)
    budget.reserve(*job_of(1))
    for _ in range(2):
        budget.settle(1, 0.05)
        budget.release(1)
        budget.release(2)
    assert (budget.spent, budget.reserved, budget.is_idle) == (0.05, 0.0, True)


# ------------------------------------------------------------------------------------------------ a plan's budget

TAKEN_UP = st.lists(
    st.tuples(st.integers(1, 2), st.sampled_from("abc"), st.integers(1, 4), st.booleans()),
    max_size=4,
)
ADD = st.builds(
    lambda accounts, jobs, images, place: ("add", accounts, FAST, jobs, images, place),
    st.sampled_from(["abc", "abc", "ab", "bc", "a", "c"]),
    st.integers(1, 4),
    st.integers(1, 4),
    st.fixed_dictionaries(
        {
            "owner": st.integers(1, 3),
            "retries": st.integers(0, 2),
            "resubmits": st.integers(0, 1),
            "deadline": st.sampled_from([900.0, 900.0, 900.0, 20.0]),
            "save_to": st.sampled_from(["out", None]),
        }
    ),
)
STEP: st.SearchStrategy[tuple[Any, ...]] = st.one_of(*[ADD] * 5, *[ANSWER] * 14, *[GO] * 5, LEAVE, SLOW)
SCRIPT = st.lists(STEP, min_size=15, max_size=60)
LIMITS = st.integers(0, 120)


class Books:
    """A pool whose owners 1 and 2 have budgets, and books of its own, kept from what was sent and answered."""

    def __init__(self, limits: tuple[int, int], policy: Policy, taken_up: list[tuple[int, str, int, bool]]) -> None:
        self.pool = Pool(policy=policy)
        self.budgets = {owner: Budget(tenths / 10) for owner, tenths in enumerate(limits, 1)}
        for owner, budget in self.budgets.items():
            self.pool.plan.open(owner, budget=budget)
        outcome = event("succeeded")
        assert isinstance(outcome, Succeeded)
        for owner, account, images, is_ready in taken_up:
            state = Fetching("old", outcome) if is_ready else Running("old", since=0.0)
            job = self.pool.add(account, images, owner=owner, state=state, save_to="out", expires_at=50.0)
            if is_ready:
                # Its task has ended, so the journal's figure has it already.
                self.budgets[owner].add_spent(float(sum(map(at_most, self.pool.creates[job.id]))))
        self.begun = {owner: sum(map(at_most, self.creates(owner))) for owner in self.budgets}
        self.abandoned: set[int] = set()

    def creates(self, owner: int) -> list[Create]:
        pool = self.pool
        return [create for job_id, each in pool.creates.items() if pool.jobs[job_id].owner == owner for create in each]

    def check(self) -> None:
        """Compare the budgets with the books."""
        for owner, budget in self.budgets.items():
            exposed = sum(map(at_most, self.creates(owner)))
            assert exposed <= max(exact(budget.limit), self.begun[owner])
            if owner not in self.abandoned:
                assert exact(budget.spent) + exact(budget.reserved) == exposed
                if all(create.cost is not None for create in self.creates(owner)):
                    assert (budget.reserved, budget.is_idle) == (0.0, True)
        self.check_ends()

    def check_ends(self) -> None:
        """None that could be sent was given up, and none that never can be was kept."""
        for job in self.pool.fresh:
            if isinstance(job.state, NotAdmitted) and job.state.failure.is_a(BudgetReached):
                assert self.budgets[job.owner].is_idle
                assert not self.fits(job)
        for owner, budget in self.budgets.items():
            queued = [job for job in self.pool.plan.jobs if job.owner == owner and isinstance(job.state, Queued)]
            assert not (queued and budget.is_idle and not any(map(self.fits, queued)))

    def fits(self, job: Job) -> bool:
        budget = self.budgets[job.owner]
        is_open = {name: each.breaker.refusal(FAST) is None for name, each in self.pool.plan.upstreams.items()}
        return any(budget.fits(job, offer) for offer in job.way.offers if is_open[offer.account])


def at_most(create: Create) -> Fraction:
    """What a create has cost, or will at most."""
    return create.price if create.cost is None else create.cost


@LONG
@given(script=SCRIPT, limits=st.tuples(LIMITS, LIMITS), policy=POLICIES, taken_up=TAKEN_UP)
def test_no_budget_is_ever_exceeded(
    script: list[tuple[Any, ...]],
    limits: tuple[int, int],
    policy: Policy,
    taken_up: list[tuple[int, str, int, bool]],
) -> None:
    """At every step of any script tasks made, lost and on the way cost no more than the limit, and the books agree."""
    books = Books(limits, policy, taken_up)
    books.pool.look()
    for step in script:
        if step[0] == "abandon":
            books.abandoned.add(step[1])
        play(books.pool, step)
        books.check()
    books.pool.drain()
    books.check()
    assert sorted(books.pool.ended) == sorted(books.pool.jobs)
    for owner, budget in books.budgets.items():
        if owner not in books.abandoned:
            assert budget.is_idle
            assert exact(budget.spent) == sum((create.cost or Fraction(0)) for create in books.creates(owner))
    for job in books.pool.ended.values():
        if isinstance(job.state, NotAdmitted) and job.state.failure.is_a(BudgetReached):
            assert job.owner in books.budgets


@LONG
@given(tenths=st.integers(0, 60), images=st.lists(st.integers(1, 4), min_size=1, max_size=25), policy=POLICIES)
def test_a_budget_is_used_until_nothing_fits(tenths: int, images: list[int], policy: Policy) -> None:
    """With all going well whatever fits at some account is made, the first of each size first; the rest is unsent."""
    pool = Pool(policy=policy)
    budget = Budget(tenths / 10)
    pool.plan.open(1, budget=budget)
    jobs = [pool.add(images=number).id for number in images]
    pool.drain()
    done = [job_id for job_id in jobs if isinstance(pool.ended[job_id].state, Done)]
    assert exact(budget.spent) == sum(create.price for job_id in done for create in pool.creates[job_id])
    assert exact(budget.spent) <= Fraction(tenths, 10)
    for size in range(1, 5):
        alike = [job_id for job_id, number in zip(jobs, images, strict=True) if number == size]
        made = [job_id for job_id in alike if job_id in done]
        assert made == alike[: len(made)]
        assert made == alike or exact(budget.spent) + Fraction(3, 10) * size > Fraction(tenths, 10)
    for job_id in set(jobs) - set(done):
        state = pool.ended[job_id].state
        assert isinstance(state, NotAdmitted)
        assert state.failure.kind is BudgetReached
        assert f"{tenths / 10:,g} credits" in state.failure.message


def test_a_request_that_does_not_fit_ends_no_smaller_one() -> None:
    """Four pictures that the budget does not have keep no single one waiting, whichever came first."""
    pool = Pool({"b": ROOMY}).trusted()
    pool.plan.open(1, budget=Budget(0.3))
    large, small, late = pool.add(images=4), pool.add(images=1), pool.add(images=1)
    pool.drain()
    assert [type(pool.ended[job.id].state) for job in (large, small, late)] == [NotAdmitted, Done, NotAdmitted]


def test_those_of_one_way_wait_for_what_another_way_may_still_cost() -> None:
    """A budget is used up only when nothing of it fits anywhere: not while a cheaper account is still open to some."""
    pool = Pool({"a": SMALL, "b": SMALL})
    pool.plan.open(1, budget=Budget(0.45))
    dear, cheap = pool.add("a"), pool.add("b")
    last = pool.add("a")
    pool.upstream("b").submit.preload([50.0, 50.0])
    pool.look()
    assert not pool.fresh, "one of them fits, though it cannot be sent yet"
    pool.drain()
    assert [type(pool.ended[job.id].state) for job in (dear, cheap, last)] == [NotAdmitted, Done, NotAdmitted]


@pytest.mark.parametrize("answer", ["not sent", "limited", "maintenance", "no credit", "model gone", "silent"])
def test_a_create_that_made_nothing_costs_nothing(answer: str) -> None:
    """A budget for one picture makes it, whatever was refused or never left before."""
    pool = Pool(dict.fromkeys("ab", ROOMY), prices={"a": 0.5, "b": 0.5})
    budget = Budget(0.5)
    pool.plan.open(1, budget=budget)
    first = pool.add(retries=1).id
    pool.look()
    pool.answer(first, answer)
    assert (budget.spent, budget.reserved) == (0.0, 0.0)
    pool.drain()
    assert isinstance(pool.ended[first].state, Done)
    assert budget.spent == 0.5


@pytest.mark.parametrize(
    ("answer", "sent", "books"), [("lost", 1, (0.3, 0.0)), ("refused", 2, (0.0, 0.0)), ("accepted", 1, (0.0, 0.3))]
)
def test_a_lost_create_counts_as_spent(answer: str, sent: int, books: tuple[float, float]) -> None:
    """Nobody knows that a lost create cost nothing, so its price is gone at once; that of a refused one is not."""
    pool = Pool({"b": ROOMY})
    budget = Budget(0.3)
    pool.plan.open(1, budget=budget)
    first, second = pool.add_many(2, resubmits=1)
    assert pool.sent() == [first]
    pool.answer(first, answer)
    assert (budget.spent, budget.reserved) == books
    pool.drain()
    assert sum(len(pool.creates[job_id]) for job_id in (first, second)) == sent
    assert isinstance(pool.ended[first].state, {"lost": Unknown, "refused": Failed, "accepted": Done}[answer])


@pytest.mark.parametrize(("credits", "sent"), [(0.0, 2), (None, 1), (0.1, 1)])
def test_a_broken_task_frees_what_it_was_not_billed(credits: float | None, sent: int) -> None:
    """A failed task that the provider bills nothing for leaves its price to the next; else it is spent."""
    pool = Pool({"b": ROOMY})
    budget = Budget(0.3)
    pool.plan.open(1, budget=budget)
    first, second = pool.add_many(2)
    pool.look()
    pool.answer(first, "accepted")
    pool.look()
    assert budget.reserved == 0.3
    while first not in pool.talking:
        pool.wake()
    pool.answer(first, "broken", credits)
    pool.drain()
    assert sum(len(pool.creates[job_id]) for job_id in (first, second)) == sent


def test_a_dearer_account_is_left_out_when_only_the_cheaper_fits() -> None:
    """An item waits for the account whose price is left, and is not sent to another one meanwhile."""
    pool = Pool({"a": SMALL, "b": SMALL}, prices={"a": 0.1, "b": 1.0}).trusted()
    budget = Budget(0.5)
    pool.plan.open(1, budget=budget)
    jobs = pool.add_many(6)
    pool.drain()
    assert {create.account for job_id in jobs for create in pool.creates[job_id]} == {"a"}
    assert [type(pool.ended[job_id].state) for job_id in jobs] == [Done] * 5 + [NotAdmitted]
    assert budget.spent == 0.5


def test_what_is_in_flight_is_waited_for_before_the_rest_is_given_up() -> None:
    """A budget that is all reserved is not used up: what is in flight may turn out to cost less."""
    pool = Pool({"b": ROOMY}).trusted()
    budget = Budget(0.3)
    pool.plan.open(1, budget=budget)
    first, second = pool.add_many(2)
    assert pool.sent() == [first]
    pool.answer(first, "accepted")
    pool.sleep(pool.now + 0.5)
    assert not pool.fresh
    while first not in pool.talking:
        pool.wake()
    pool.answer(first, "broken", 0.0)
    assert pool.sent() == [second]


def test_a_retry_that_does_not_fit_ends_as_what_it_was() -> None:
    """An item that failed and whose new task the budget does not have fails with its own error."""
    pool = Pool({"b": ROOMY})
    pool.plan.open(1, budget=Budget(0.3))
    job = pool.add(retries=3)
    pool.look()
    pool.answer(job.id, "accepted")
    pool.look()
    pool.wake()
    pool.answer(job.id, "broken", 0.3)
    pool.look()
    state = pool.ended[job.id].state
    assert isinstance(state, Failed)
    assert state.failure.message == "too dark"
    assert pool.plan.wake_at(pool.now) == math.inf


def test_a_provider_that_bills_too_much_is_stopped_by_the_budget() -> None:
    """What is sent after the first bill above the price is counted at that bill, so the limit holds from there on."""
    pool = Pool({"b": SMALL}).trusted()
    budget = Budget(2.0)
    pool.plan.open(1, budget=budget)
    jobs = pool.add_many(10)
    for _ in range(200):
        pool.look()
        for job_id in list(pool.talking):
            pool.answer(job_id, "accepted" if job_id in pool.creating() else "succeeded", 0.6)
        pool.look()
        if not len(pool.plan):
            break
        if not pool.talking:
            pool.wake()
    assert [type(pool.ended[job_id].state) for job_id in jobs].count(Done) == 3
    assert budget.spent == pytest.approx(1.8)


def test_a_budget_of_nothing_sends_what_is_free() -> None:
    """A limit of 0 lets an account of price 0 make everything, and sends nothing elsewhere."""
    pool = Pool(dict.fromkeys("ab", SMALL), prices={"a": 0.5, "b": 0.0})
    pool.plan.open(1, budget=Budget(0.0))
    free, dear = pool.add(), pool.add("a")
    pool.drain()
    assert isinstance(pool.ended[free.id].state, Done)
    assert isinstance(pool.ended[dear.id].state, NotAdmitted)


# ------------------------------------------------------------------------------------------ what earlier runs left


def test_a_running_task_that_is_taken_up_holds_its_price() -> None:
    """Nothing is sent that would not fit beside it, and what it is billed for less than its price is free again."""
    pool = Pool({"b": ROOMY}).trusted()
    budget = Budget(0.5)
    pool.plan.open(1, budget=budget)
    old = pool.add(state=Running("old", since=pool.now), expires_at=pool.now + 100.0)
    new = pool.add()
    assert pool.sent() == []
    assert budget.reserved == 0.3
    pool.answer(old.id, "succeeded", 0.2)
    assert pool.sent() == [new.id]
    assert (budget.spent, budget.reserved) == (0.2, 0.3)


@pytest.mark.parametrize("limit", [0.3, 0.6, 0.9])
def test_a_task_that_was_given_up_holds_nothing_twice(limit: float) -> None:
    """A task taken up that the provider denies has nothing reserved any more while its item waits to be sent anew."""
    pool = Pool({"b": ROOMY})
    budget = Budget(limit)
    pool.plan.open(1, budget=budget)
    job = pool.add(state=Doubted("old", since=0.0), expires_at=900.0)
    pool.look()
    pool.answer(job.id, "denied")
    pool.now = 40.0
    pool.look()
    denied = pool.answer(job.id, "denied")
    assert denied is not None
    assert isinstance(denied.state, Queued)
    assert (budget.reserved, budget.is_idle) == (0.0, True)
    pool.drain()
    assert pool.now < 900.0, "it waited for what nothing could release"
    assert (budget.reserved, budget.is_idle) == (0.0, True)
    assert budget.spent <= limit


async def test_a_picture_of_an_earlier_run_is_paid_for_once(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """Pictures that an earlier run paid for and did not save cost nothing more when a later one fetches them."""
    account = Account("sandbox", base_url=imagen_sandbox.url, api_key=imagen_sandbox.key)
    prompts = [f"fox {number}" for number in range(4)]
    async with Client(account) as client:
        async with client.batch(prompts[:2], journal=tmp_path / "journal") as batch:
            assert [result.ok async for result in batch] == [True] * 2
        again = client.batch(prompts, journal=tmp_path / "journal", save_to=tmp_path / "out", max_credits=32)
        async with again as batch:
            assert [result.ok async for result in batch] == [True] * 4
    assert len(list((tmp_path / "out").glob("*.png"))) == 4
