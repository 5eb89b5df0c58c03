"""Turns among callers: each gets its share, nobody is passed over, nothing is saved up, and nothing drifts."""

from __future__ import annotations

import math
import tracemalloc
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagen_async._core.callers import LEAST_SHARE, MOST_SHARE, AllCallers, Caller, Callers

SHARES = st.sampled_from([1.0, 1.0, 2.0, 0.5, 3.0, 0.1, 7.3])


class Waiting:
    """Callers of whom as many wait as a test says, and who of them was sent."""

    def __init__(self) -> None:
        self.callers = AllCallers().of([0])
        self.number = Counter[str]()
        self.known: dict[str, Caller] = {}
        self.sent = Counter[str]()

    def add(self, name: str, share: float = 1.0, number: int = 1) -> None:
        """Have so many more wait."""
        if not self.number[name]:
            self.known[name] = self.callers.enter(name, share)
        self.number[name] += number

    def remove(self, name: str) -> None:
        """Have one wait no more, for another reason than that it is sent."""
        self.number[name] -= 1
        if not self.number[name]:
            self.callers.leave(self.known.pop(name))

    def send(self) -> str:
        """Send one of whoever goes first; of equals whose name does."""
        name = min(self.known, key=lambda name: (self.known[name].rank, name))
        self.callers.send(self.known[name])
        self.sent[name] += 1
        self.remove(name)
        return name


STEPS = st.lists(st.tuples(st.sampled_from(["send", "send", "add", "cancel"]), st.sampled_from("cde"), SHARES))


@given(one=SHARES, other=SHARES, steps=STEPS)
def test_of_two_who_wait_all_the_time_each_gets_its_share(
    one: float, other: float, steps: list[tuple[str, str, float]]
) -> None:
    """Whoever else comes, goes or leaves, what they get by their shares differs by a turn of each at most."""
    waiting = Waiting()
    waiting.add("a", one, 1000)
    waiting.add("b", other, 1000)
    most = 1 / Fraction(one) + 1 / Fraction(other)
    for what, name, share in steps:
        if what == "send":
            waiting.send()
        elif what == "add":
            waiting.add(name, share)
        elif waiting.number[name]:
            waiting.remove(name)
        apart = abs(waiting.sent["a"] / Fraction(one) - waiting.sent["b"] / Fraction(other))
        assert apart <= most * Fraction("1.000001")


@pytest.mark.parametrize("share", [2.0, 0.5, 10.0])
def test_a_share_says_how_many_turns_a_caller_gets(share: float) -> None:
    """Twice the share, twice the turns, and the same for those who wait with it."""
    waiting = Waiting()
    for name, own in (("a", 1.0), ("b", share), ("c", 1.0)):
        waiting.add(name, own, 100_000)
    for _ in range(12_000):
        waiting.send()
    assert waiting.sent["a"] == pytest.approx(12_000 / (2 + share), abs=1)
    assert waiting.sent["b"] == pytest.approx(12_000 * share / (2 + share), abs=share)


def test_who_had_nobody_waiting_has_saved_up_nothing() -> None:
    """After a thousand turns of another's a caller that comes back gets every other one, as it would have before."""
    waiting = Waiting()
    for names in ("ab", "cd"):
        waiting.add(names[0], number=5000)
        for _ in range(1000):
            waiting.send()
        waiting.add(names[1], number=100)
        turns = [waiting.send() for _ in range(40)]
        assert Counter(turns) == {names[0]: 20, names[1]: 20}
        assert names[1] in turns[:2]
        while waiting.known:
            waiting.remove(next(iter(waiting.known)))


def test_who_comes_goes_before_those_who_had_a_turn_already() -> None:
    """Somebody with one request waits for no more than what is left of a round."""
    waiting = Waiting()
    for name in "abc":
        waiting.add(name, number=100)
    assert [waiting.send() for _ in range(4)] == ["a", "b", "c", "a"]
    waiting.add("z")
    assert [waiting.send() for _ in range(4)] == ["b", "c", "z", "a"]


def test_an_endless_row_of_new_callers_passes_nobody_over() -> None:
    """Whoever waits long has its turns though somebody new always waits; of those who are gone nothing is kept."""
    waiting = Waiting()
    waiting.add("z", number=10_000)
    tracemalloc.start()
    try:
        for number in range(5_000):
            waiting.add(f"new {number}")
            while len(waiting.known) > 4:
                waiting.send()
            waiting.sent, waiting.number = Counter(z=waiting.sent["z"]), +waiting.number
        left, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert waiting.sent["z"] >= 1_200
    # Five thousand would take 1 MB, and what the other threads of a test run allocate is counted too.
    assert left < 300_000


def test_who_could_not_have_its_turns_catches_up_by_one() -> None:
    """A caller that waited while it could not be sent is ahead by one turn then, and not by all that it missed."""
    callers = AllCallers().of([0])
    late, busy = callers.enter("late", 1.0), callers.enter("busy", 1.0)
    for _ in range(100):
        callers.send(busy)
    assert late.rank < busy.rank
    callers.send(late)
    assert late.rank >= busy.rank


def test_turns_do_not_drift() -> None:
    """After as many as a service makes in years, thirds are thirds: of three alike each has the same, to the last."""
    callers = AllCallers().of([0])
    own = [callers.enter(name, share) for name, share in (("a", 0.3), ("b", 0.3), ("c", 0.6))]
    own[0].rank = own[1].rank = own[2].rank = (10**9 * 4 * 10**9, 1)
    sent = Counter[str]()
    for _ in range(4_000):
        first = min(own, key=lambda caller: (caller.rank, caller.name))
        callers.send(first)
        sent[first.name] += 1
    assert sent == {"a": 1000, "b": 1000, "c": 2000}


@pytest.mark.parametrize(
    ("share", "counts_as"),
    [
        (0.0, LEAST_SHARE),
        (-1.0, LEAST_SHARE),
        (math.nan, LEAST_SHARE),
        (-math.inf, LEAST_SHARE),
        (1e-300, LEAST_SHARE),
        (math.inf, MOST_SHARE),
        (1e300, MOST_SHARE),
    ],
)
def test_whatever_a_share_is_turns_go_on(share: float, counts_as: float) -> None:
    """What is no share counts as the least or the greatest: nothing breaks where it is used."""
    callers: Callers = AllCallers().of([0])
    assert callers.enter("a", share).rank == callers.enter("b", counts_as).rank


def test_turns_at_other_accounts_are_others() -> None:
    """Callers are compared with those who wait for the same accounts, and where nobody waits nothing is kept."""
    callers = AllCallers()
    here, there = callers.of([0, 1]), callers.of([0])
    assert (here is callers.of({1: "x", 0: "y"}), here is there) == (True, False)
    one = here.enter("a", 1.0)
    here.send(one)
    assert there.enter("a", 1.0).rank < one.rank
    assert callers.names == {"a": 2}
    here.leave(one)
    assert callers.names == {"a": 1}
    del here, there, one
    assert len(callers._of) == 0
