"""What a batch may spend: the arithmetic of a budget, and one batch after another."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inner import Budget, Done, Doubted, Failed, ImageRequest, Job, Model, Offer, Queued, Unknown
from plan_world import PRICES, ROOMY, World, exact

from imagen_async import Account, Client
from imagen_async.sandbox import Sandbox


def job_of(number: int, images: int = 1) -> tuple[Job, Offer]:
    """A job of so many pictures at 0.1 credits each, and where it may be sent."""
    model = Model("imagen4-fast", "google/imagen4-fast", None, credits=0.1)
    request = ImageRequest("a red fox", model=model.name, num_images=images)
    return Job(number, 1, number, f"k{number}", request, "a", model, 900.0), Offer("a", model)


STEPS = st.tuples(
    st.sampled_from(["reserve", "reserve", "release", "settle"]),
    st.integers(1, 4),
    st.integers(0, 8),
    st.sampled_from([None, 0, 1, 2, 3, 4]),
)


@settings(max_examples=60)
@given(limit=st.integers(0, 40), before=st.integers(0, 10), steps=st.lists(STEPS, max_size=40))
def test_the_books_are_right_at_every_step(limit: int, before: int, steps: list[Any]) -> None:
    """Spent is what was billed or may have been, reserved is what is in flight, to the last tenth of a credit."""
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
        reserved = Fraction(sum(flying.values()), 10)
        assert (exact(budget.spent), exact(budget.reserved), budget.is_idle) == (spent, reserved, not flying)
    assert budget.limit == limit / 10


def test_a_provider_that_bills_more_is_taken_at_its_word() -> None:
    """From the first bill above the price on, that bill is the price of a picture of that model at that account."""
    budget = Budget(10.0)
    budget.reserve(*job_of(1, images=2))
    budget.settle(1, 1.0)
    ordered, offer = job_of(2, images=3)
    budget.reserve(ordered, offer)
    assert budget.reserved == 1.5
    budget.reserve(job_of(3, images=3)[0], Offer("b", offer.model))
    assert budget.reserved == 1.8
    budget.settle(2, None)
    assert budget.spent == 2.5
    budget.reserve(*job_of(4))
    budget.settle(4, 0.1)
    budget.reserve(*job_of(5))
    assert budget.reserved == 0.8


def test_a_budget_of_nothing_is_for_what_is_free() -> None:
    """A limit of 0 lets an account of price 0, or of none, make everything, and no other one."""
    fits = [Budget(0.0).fits(job_of(1)[0], Offer("a", Model("m", "m", None, credits=at))) for at in (0.0, None, 0.1)]
    assert fits == [True, True, False]


def test_news_of_a_job_that_has_nothing_reserved_is_no_news() -> None:
    """A second settlement or release of a job, or one of a job that was never reserved, changes nothing."""
    budget = Budget(1.0)
    budget.reserve(*job_of(1))
    for _ in range(2):
        budget.settle(1, 0.05)
        budget.release(1)
        budget.release(2)
    budget.reserve(*job_of(3))
    budget.settle(3, -5.0)
    assert (budget.spent, budget.reserved, budget.is_idle) == (0.05, 0.0, True), "no bill is below nothing"


@pytest.mark.parametrize(("limit", "end"), [(0.3, Failed), (0.6, Done)])
def test_a_task_that_was_denied_and_is_replaced_costs_twice(limit: float, end: type) -> None:
    """The price of one that nobody knows counts as spent, and the new task has to fit beside it."""
    world = World({"b": ROOMY}, prices=PRICES).trusted()
    budget, job = world.limit(1, limit), world.take_up(Doubted("old-0", since=0.0, denied_at=0.0))
    assert world.asked() == [job.id]
    denied = world.answer(job.id, "denied")
    assert (type(denied.state), denied.spent, budget.spent, budget.reserved) == (Queued, 0.3, 0.3, 0.0)
    world.drain()
    assert (world.ends(job.id), budget.spent, budget.is_idle) == ([end], limit, True)


@pytest.mark.parametrize("answer", ["refused", "limited", "lost"])
def test_a_create_that_a_callback_has_named_counts_as_spent_when_nobody_waits(answer: str) -> None:
    """Its refusal is no proof that nothing is billed: its job ends unknown, and its price is not free again."""
    world = World({"b": ROOMY}, prices=PRICES, callbacks=True).trusted()
    budget, job = world.limit(1, 1.0), world.add()
    assert world.sent() == [job.id]
    world.go("leave")
    world.hear(job)
    world.answer(job.id, answer)
    assert (world.ends(job.id), budget.spent, budget.is_idle) == ([Unknown], 0.3, True)


async def test_a_picture_of_an_earlier_run_is_paid_for_once(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """Pictures that an earlier run paid for and did not save cost nothing more when a later one fetches them."""
    prompts, journal = [f"fox {number}" for number in range(4)], tmp_path / "journal"
    async with Client(Account("sandbox", base_url=imagen_sandbox.url, api_key=imagen_sandbox.key)) as client:
        async with client.batch(prompts[:2], journal=journal) as batch:
            assert [result.ok async for result in batch] == [True] * 2
        async with client.batch(prompts, journal=journal, save_to=tmp_path / "out", max_credits=32) as batch:
            assert [result.ok async for result in batch] == [True] * 4
    assert len(list((tmp_path / "out").glob("*.png"))) == 4
