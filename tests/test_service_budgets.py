"""What each caller may spend: reserved, settled, released, and known again after a crash."""

from __future__ import annotations

from fractions import Fraction

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from inner import ANYBODY, Caller

from imagen_async.errors import BudgetReached, ConfigurationError
from imagen_async.service._budgets import CallerBudgets, Standing

DAY = 20_000
TENTHS = st.integers(0, 30)


class _Note(msgspec.Struct):
    """One line of a journal: a request's reservation, or its end."""

    request: str
    caller: str
    day: int
    reserved: int
    spent: int | None = None


class Books(RuleBasedStateMachine):
    """Two callers, several days, requests that end in any order, and crashes that lose the ends noted last.

    The model counts in tenths of a credit, as whole numbers. A reservation is noted for good before anything is sent;
    an end may be lost with the process, until the next reservation is noted behind it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.budgets = CallerBudgets()
        self.callers: dict[str, Caller] = {}
        self.bounds: dict[str, tuple[int | None, int | None]] = {}
        self.sure: dict[str, _Note] = {}
        self.present: dict[str, _Note] = {}
        self.day, self.number = DAY, 0

    @initialize(bounds=st.lists(st.tuples(st.none() | TENTHS, st.none() | TENTHS), min_size=2, max_size=2))
    def begin(self, bounds: list[tuple[int | None, int | None]]) -> None:
        """Each has a budget in all, a day's, both or none."""
        for name, (whole, daily) in zip(("one", "two"), bounds, strict=True):
            self.bounds[name] = whole, daily
            whole_credits, daily_credits = (None if tenths is None else tenths / 10 for tenths in (whole, daily))
            self.callers[name] = Caller(name, budget=whole_credits, budget_per_day=daily_credits)

    def taken(self, name: str, day: int | None = None) -> int:
        """Tenths of a credit that are spent or reserved."""
        notes = [note for note in self.present.values() if note.caller == name and day in (None, note.day)]
        return sum(note.reserved if note.spent is None else note.spent for note in notes)

    @rule(name=st.sampled_from(["one", "two"]), price=st.integers(0, 12))
    def reserve(self, name: str, price: int) -> None:
        """It is taken exactly where it fits into both budgets."""
        whole, daily = self.bounds[name]
        fits = (whole is None or self.taken(name) + price <= whole) and (
            daily is None or self.taken(name, self.day) + price <= daily
        )
        request = f"r{self.number}"
        self.number += 1
        try:
            self.budgets.reserve(self.callers[name], request, price / 10, self.day)
        except BudgetReached:
            assert not fits
            return
        assert fits
        self.present[request] = _Note(request, name, self.day, price)
        self.sure = {key: msgspec.structs.replace(note) for key, note in self.present.items()}

    @rule(data=st.data(), share=st.sampled_from([None, 0, 1, 2, 4]))
    def settle(self, data: st.DataObject, share: int | None) -> None:
        """It cost nothing, a part of what was reserved, all of it, or nobody knows; once more is no news."""
        request = data.draw(st.sampled_from(sorted(self.present) or ["none"]))
        note = self.present.get(request)
        spent = 0 if note is None or share is None else note.reserved * share // 4
        self.budgets.settle(request, None if share is None else spent / 10)
        if note is not None and note.spent is None:
            note.spent = note.reserved if share is None else spent

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        """Nothing was made; of what has ended it is no news."""
        request = data.draw(st.sampled_from(sorted(self.present) or ["none"]))
        self.budgets.release(request)
        if request in self.present and self.present[request].spent is None:
            del self.present[request]

    @rule()
    def repeat(self) -> None:
        """What has its reservation is not reserved once more."""
        for note in self.present.values():
            if note.spent is None:
                self.budgets.reserve(self.callers[note.caller], note.request, 1e6, self.day)

    @rule(days=st.sampled_from([-1, 1, 1, 40]))
    def pass_on(self, days: int) -> None:
        """Days pass; a clock is set back."""
        self.day += days

    @rule()
    def crash(self) -> None:
        """Another process knows what the journal had, and no more."""
        self.budgets = CallerBudgets()
        self.present = {key: msgspec.structs.replace(note) for key, note in self.sure.items()}
        for name in self.callers:
            own = [note for note in self.present.values() if note.caller == name]
            ended = [(note.day, note.spent) for note in own if note.spent is not None]
            by_day = {day: sum(spent for on, spent in ended if on == day) / 10 for day, _ in ended}
            flying = {note.request: (note.reserved / 10, note.day) for note in own if note.spent is None}
            self.budgets.recall(name, sum(spent for _, spent in ended) / 10, by_day, flying)

    @invariant()
    def nothing_is_overshot(self) -> None:
        """Spent and reserved are what the notes say, and never more than the budgets."""
        for name, (whole, daily) in self.bounds.items():
            known = self.budgets.standing(name, self.day)
            in_all = [note for note in self.present.values() if note.caller == name]
            of_day = [note for note in in_all if note.day == self.day]
            for notes, spent, reserved, bound in (
                (in_all, known.spent, known.reserved, whole),
                (of_day, known.spent_in_day, known.reserved_in_day, daily),
            ):
                assert exact(spent) == Fraction(sum(note.spent or 0 for note in notes), 10)
                assert exact(reserved) == Fraction(sum(note.reserved for note in notes if note.spent is None), 10)
                assert bound is None or exact(spent) + exact(reserved) <= Fraction(bound, 10)


def exact(credits: float) -> Fraction:
    """What a float was meant to be."""
    return Fraction(str(credits))


Books.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestBooks = Books.TestCase

SHOP = Caller("shop", budget=10.0, budget_per_day=1.0)


def test_what_does_not_fit_is_refused_with_what_is_known() -> None:
    """The message tells which budget, what is spent, reserved and asked for, and when the day ends."""
    budgets = CallerBudgets()
    budgets.recall("shop", 1234.5, {DAY: 0.3}, {"a": (0.25, DAY)})
    with pytest.raises(BudgetReached) as raised:
        budgets.reserve(msgspec.structs.replace(SHOP, budget=2000.0), "b", 0.450001, DAY)
    taken = "of 1 credits 0.3 are spent and 0.25 reserved for what is under way; this request may cost 0.450001."
    assert raised.value.message == (
        f"The budget a day of caller shop is reached: {taken} The day ends at 2024-10-05 00:00 UTC."
    )
    with pytest.raises(BudgetReached) as raised:
        budgets.reserve(SHOP, "b", 0.0, DAY)
    assert "budget in all of caller shop is reached: of 10 credits 1,234.5 are spent" in raised.value.message
    assert budgets.standing("shop", DAY) == Standing(1234.5, 0.25, 0.3, 0.25)


def test_a_tenth_ten_times_is_a_credit() -> None:
    """Amounts are added up exactly: the tenth picture of 0.1 credits fits into 1 credit, and the eleventh does not."""
    budgets = CallerBudgets()
    for number in range(10):
        budgets.reserve(SHOP, str(number), 0.1, DAY)
    with pytest.raises(BudgetReached):
        budgets.reserve(SHOP, "more", 0.000001, DAY)
    budgets.reserve(SHOP, "tomorrow", 0.1, DAY + 1)


@pytest.mark.parametrize("price", [None, float("nan"), float("inf"), 1e300])
def test_a_price_that_nobody_knows_fits_into_no_budget(price: float | None) -> None:
    """Who has a budget is refused, with what to do; who has none has it, and what it was billed is known."""
    budgets = CallerBudgets()
    for caller in (msgspec.structs.replace(SHOP, budget=None), msgspec.structs.replace(SHOP, budget_per_day=None)):
        with pytest.raises(ConfigurationError, match=r"shop .*price is unknown.*give credits= in its Account"):
            budgets.reserve(caller, "a", price, DAY)
    for request in ("a", "b"):
        budgets.reserve(ANYBODY, request, price, DAY)
    budgets.settle("a", 8.0)
    budgets.settle("b", None)
    assert budgets.standing("", DAY) == Standing(8.0, 0.0, 8.0, 0.0)
    assert budgets.standing("shop", DAY) == Standing(0.0, 0.0, 0.0, 0.0)


def test_a_bill_above_what_was_reserved_is_counted() -> None:
    """The truth is known, on the day of the reservation, and nothing more is taken until there is room again."""
    budgets = CallerBudgets()
    budgets.reserve(SHOP, "a", 0.5, DAY)
    budgets.reserve(SHOP, "b", 0.5, DAY)
    budgets.settle("a", 3.0)
    budgets.settle("b", -3.0)
    assert budgets.standing("shop", DAY) == Standing(3.0, 0.0, 3.0, 0.0), "no bill is below nothing"
    with pytest.raises(BudgetReached):
        budgets.reserve(SHOP, "c", 0.0, DAY)
    budgets.reserve(SHOP, "d", 1.0, DAY + 1)
    budgets.settle("d", float("nan"))
    assert budgets.standing("shop", DAY + 1) == Standing(4.0, 0.0, 1.0, 0.0)


def test_days_of_long_ago_are_forgotten_and_what_runs_is_not() -> None:
    """Years of work take no more room than weeks; what is under way since long is settled for its own day."""
    budgets = CallerBudgets()
    rich = Caller("rich", budget_per_day=2.0)
    budgets.reserve(rich, "old", 1.0, 0)
    for day in range(1, 1000):
        budgets.reserve(rich, str(day), 2.0, day)
        budgets.settle(str(day), None)
    assert len(budgets._books["rich"].days) < 40
    budgets.settle("old", 1.0)
    assert (budgets.standing("rich", 0).spent_in_day, budgets.standing("rich", 999).spent) == (1.0, 1999.0)
    for reserved in ({"x": (1.0, 999)}, {"y": (0.5, 999)}):
        budgets.recall("rich", 5.0, {999: 2.0}, reserved)
    budgets.release("x")
    assert budgets.standing("rich", 999) == Standing(5.0, 0.5, 2.0, 0.5)
