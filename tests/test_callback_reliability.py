"""How far callbacks are trusted: slowly won, quickly lost; and what the schedule makes of a share of announced ends."""

from __future__ import annotations

import itertools
import math
import random
import statistics

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from polling import FIVE, KIND

from imagen_async._core.callback_reliability import CallbackReliability
from imagen_async._core.latency import EDGES, Curve, LatencyPrior, LifeTable
from imagen_async._core.poll_schedule import FRESHNESS, LONGEST_INTERVAL, LONGEST_SILENCE, PollSchedule

SURE = 1000 / 1001
"""The share after a thousand callbacks in a row: no more is ever believed."""

Step = tuple[str, int]
STEPS = st.lists(
    st.tuples(st.sampled_from(["announced", "announced", "missed", "late"]), st.integers(0, 9)), max_size=60
)
"""What happens to which of some tasks."""


def step(reliability: CallbackReliability, what: str, number: int) -> None:
    """Tell one thing."""
    if what == "late":
        reliability.came_late(number)
    else:
        reliability.ended(number, what == "announced")


def played(*steps: tuple[str, int]) -> CallbackReliability:
    """What is known after so many of each, all of different tasks."""
    reliability, numbers = CallbackReliability(), itertools.count()
    for what, count in steps:
        for _ in range(count):
            step(reliability, what, next(numbers))
    return reliability


def trust(reliability: CallbackReliability) -> float:
    """The odds that an end is announced."""
    return reliability.share / (1 - reliability.share)


# Trust


@settings(deadline=None, max_examples=60)
@given(steps=STEPS)
def test_the_share_is_one_whatever_happens(steps: list[Step]) -> None:
    """The share is 0 until a callback was of use, and after that above 0 and below 1."""
    reliability, is_known = CallbackReliability(), False
    missed: set[int] = set()
    for what, number in steps:
        is_known |= what == "announced" or (what == "late" and number in missed)
        missed = missed | {number} if what == "missed" else missed - {number} if what == "late" else missed
        step(reliability, what, number)
        assert (0 < reliability.share < 1) if is_known else (reliability.share == 0)


@settings(deadline=None, max_examples=60)
@given(steps=STEPS)
def test_an_announced_end_adds_trust_and_a_missed_one_halves_it(steps: list[Step]) -> None:
    """Each end that a callback announces makes the next likelier, each that it does not at least halves the odds."""
    reliability = CallbackReliability()
    for number, (what, about) in enumerate(steps):
        before = trust(reliability)
        step(reliability, what, about if what == "late" else number)
        after = trust(reliability)
        if what == "announced":
            assert after == pytest.approx(before + 1)
        elif what == "missed":
            assert after <= before / 2 * (1 + 1e-9)
        else:
            assert after >= before * (1 - 1e-9)


def test_the_share_is_that_of_the_last_ones() -> None:
    """One callback is worth a half, nine in a row nine tenths; nothing but misses is worth nothing."""
    assert played(("announced", 1)).share == pytest.approx(1 / 2)
    assert played(("announced", 9)).share == pytest.approx(9 / 10)
    assert played(("announced", 9), ("missed", 1)).share == pytest.approx(4.5 / 5.5)
    assert played(("missed", 500)).share == 0
    assert played(("missed", 500), ("announced", 1)).share == pytest.approx(1 / 2)


def test_no_number_of_callbacks_is_certainty() -> None:
    """After any number of callbacks, ten misses in a row are enough for a share below a half."""
    reliability = played(("announced", 20_000))
    assert reliability.share == pytest.approx(SURE)
    for number in range(10):
        reliability.ended(-1 - number, announced=False)
    assert reliability.share < 0.5


# A callback that is merely late


@pytest.mark.parametrize("before", [0, 1, 2, 9, 500, 1500])
def test_a_late_callback_undoes_its_miss(before: int) -> None:
    """An end that was missed, and announced after that, counts in the end as one that was announced in time."""
    late, timely = played(("announced", before)), played(("announced", before + 1))
    late.ended(-1, announced=False)
    assert late.share < timely.share
    late.came_late(-1)
    assert late.share == pytest.approx(timely.share)


def test_callbacks_that_always_come_late_are_trusted_as_well() -> None:
    """Where each callback comes just after the status call, trust grows as with those that come in time."""
    reliability = CallbackReliability()
    for number in range(50):
        reliability.ended(number, announced=False)
        reliability.came_late(number)
    assert reliability.share == pytest.approx(played(("announced", 50)).share)


def test_a_second_late_callback_does_nothing() -> None:
    """A callback that comes again, or is about a task that was not missed, leaves the share as it is."""
    reliability = played(("announced", 4), ("missed", 2))
    reliability.came_late(4)
    share = reliability.share
    for number in (4, 4, 0, 99, -1):
        reliability.came_late(number)
        assert reliability.share == share


def test_late_ones_are_remembered_for_a_thousand_tasks() -> None:
    """However many ends are missed, no more than a thousand are kept: the oldest are forgotten, the newest known."""
    reliability = played(("missed", 3000))
    assert len(reliability._missed) == 1000
    reliability.came_late(1999)
    assert reliability.share == 0
    reliability.came_late(2000)
    assert reliability.share == pytest.approx(1 / 2)
    reliability.came_late(2999)
    assert reliability.share > 1 / 2
    assert len(reliability._missed) == 998


def test_announced_ends_are_not_kept() -> None:
    """A task whose callback came in time leaves nothing behind."""
    assert not played(("announced", 3000))._missed


# Silence


def test_silence_takes_ten_ends_and_no_callback() -> None:
    """None is expected where ten tasks have ended and none ever came, and only there."""
    assert [played(("missed", count)).are_silent for count in (0, 1, 9, 10, 11, 2000)] == [False] * 3 + [True] * 3
    assert not played(("announced", 1), ("missed", 500)).are_silent
    assert not played(("missed", 500), ("announced", 1)).are_silent
    assert not played(("announced", 500)).are_silent


def test_a_late_callback_breaks_the_silence() -> None:
    """One callback is enough, and be it late: from then on some are expected, whatever is missed."""
    reliability = played(("missed", 10))
    reliability.came_late(3)
    assert not reliability.are_silent
    for number in range(100, 200):
        reliability.ended(number, announced=False)
    assert not reliability.are_silent


# What the schedule makes of it

SHARES = st.floats(0, 0.999) | st.sampled_from([0.0, 0.5, 0.9, 0.99, SURE])
CURVES = st.builds(LatencyPrior, median=st.floats(0.5, 60), sigma=st.floats(0.2, 1.2)).map(
    lambda prior: LifeTable(prior).curve
)
ASKED = st.just(0.0) | st.floats(0, 600)


@settings(deadline=None, max_examples=60)
@given(curve=CURVES, asked=ASKED, more=st.floats(0, 600))
def test_where_nothing_is_announced_nothing_changes(curve: Curve, asked: float, more: float) -> None:
    """With a share of 0, both the next question and the waiting are to the digit what they are without."""
    assert curve.waiting(asked, asked + more, 0.0) == curve.waiting(asked, asked + more)
    assert curve.next_age(asked, FRESHNESS, LONGEST_INTERVAL, 0.0) == curve.next_age(asked, FRESHNESS, LONGEST_INTERVAL)


@settings(deadline=None, max_examples=60)
@given(curve=CURVES, asked=ASKED, shares=st.lists(SHARES, min_size=2, max_size=6), fresh=st.floats(0.01, 5))
def test_the_more_is_announced_the_later_it_is_asked(
    curve: Curve, asked: float, shares: list[float], fresh: float
) -> None:
    """A greater share never brings the next question forward, which is after the last one and not too late."""
    ages = [curve.next_age(asked, fresh, LONGEST_SILENCE, share) for share in sorted(shares)]
    assert all(late >= early - 1e-6 for early, late in itertools.pairwise(ages))
    assert all(asked < age <= asked + LONGEST_SILENCE for age in ages)


@settings(deadline=None, max_examples=60)
@given(curve=CURVES, asked=ASKED, share=SHARES, fresh=st.floats(0.01, 5))
def test_the_next_question_comes_when_the_waiting_is_worth_it(
    curve: Curve, asked: float, share: float, fresh: float
) -> None:
    """Whatever the share, the waiting expected at the next question is the freshness, or less where it is cut short."""
    age = curve.next_age(asked, fresh, LONGEST_SILENCE, share)
    waiting = curve.waiting(asked, age, share)
    if age < asked + LONGEST_SILENCE * (1 - 1e-9):
        assert waiting == pytest.approx(fresh, rel=1e-6)
    else:
        assert waiting <= fresh * (1 + 1e-6)


@settings(deadline=None, max_examples=60)
@given(curve=CURVES, asked=ASKED, more=st.floats(0, 600), share=SHARES)
def test_the_waiting_is_what_bayes_says(curve: Curve, asked: float, more: float, share: float) -> None:
    """What is not announced waits as ever; that nothing has come by now tells that it may well still run."""
    age = asked + more
    ended = 1 - curve.survival(age) / curve.survival(asked)
    expected = (1 - share) * curve.waiting(asked, age) / (1 - share * ended)
    assert curve.waiting(asked, age, share) == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert 0 <= curve.waiting(asked, age, share) <= curve.waiting(asked, age) * (1 + 1e-9)


PLAIN = Curve([FIVE.survival(edge) for edge in EDGES])
"""The curve of a law that is known to the digit."""


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.99, SURE])
@pytest.mark.parametrize(("asked", "age"), [(0.0, 3.0), (0.0, 6.0), (0.0, 20.0), (4.0, 5.0), (4.0, 9.0), (8.0, 12.0)])
def test_the_waiting_is_that_of_the_law(share: float, asked: float, age: float) -> None:
    """For a lognormal law, the waiting is what adding up its survival in small steps gives."""
    width = (age - asked) / 1000
    middles = (asked + (number + 0.5) * width for number in range(1000))
    waiting = sum(1 - FIVE.survival(middle) / FIVE.survival(asked) for middle in middles) * width
    ended = 1 - FIVE.survival(age) / FIVE.survival(asked)
    expected = (1 - share) * waiting / (1 - share * ended)
    assert PLAIN.waiting(asked, age, share) == pytest.approx(expected, rel=0.02, abs=1e-5)


@pytest.mark.parametrize(("share", "asked", "age"), [(0.5, 0.0, 6.0), (0.9, 0.0, 9.0), (0.9, 4.0, 8.0)])
def test_the_waiting_is_that_of_many_tasks(share: float, asked: float, age: float) -> None:
    """Of many tasks, those of which nothing was heard by some age have waited as long as is expected, on average."""
    chance = random.Random(11)
    waits = []
    for _ in range(60_000):
        end, is_announced = chance.lognormvariate(math.log(5), 0.5), chance.random() < share
        if end > asked and not (is_announced and end <= age):
            waits.append(max(0.0, age - end))
    assert PLAIN.waiting(asked, age, share) == pytest.approx(statistics.fmean(waits), rel=0.04)


# Hardly anything is asked while callbacks come


@settings(deadline=None, max_examples=40)
@given(curve=CURVES)
def test_of_what_is_surely_announced_the_overdue_are_asked_about(curve: Curve) -> None:
    """With a share close to 1, a task is asked about when nearly all have ended, and within the longest silence."""
    age = curve.next_age(0.0, FRESHNESS, LONGEST_SILENCE, 1 - 1e-6)
    assert 0 < age <= LONGEST_SILENCE
    assert age == LONGEST_SILENCE or curve.survival(age) < 0.004


def test_the_overdue_are_asked_about_soon() -> None:
    """Tasks of about 5 s, after a thousand callbacks: asked when one in twenty still runs, not much later."""
    schedule = PollSchedule(FIVE)
    schedule.recall([(KIND, random.Random(number).lognormvariate(math.log(5), 0.5)) for number in range(400)])
    age = schedule.next_age(KIND, 0.0, SURE)
    assert FIVE.survival(age) < 0.06
    assert age < 20
    assert schedule.next_age(KIND, age, SURE) < age + 60


@settings(deadline=None, max_examples=40)
@given(prior=st.builds(LatencyPrior, median=st.floats(0.5, 60), sigma=st.floats(0.2, 1.2)), asked=ASKED, share=SHARES)
@example(prior=FIVE, asked=5000.0, share=SURE)
@example(prior=FIVE, asked=0.0, share=0.0)
def test_the_schedule_passes_the_share_on(prior: LatencyPrior, asked: float, share: float) -> None:
    """A schedule asks by the share, half a minute later at most with none, five minutes later at most with any."""
    schedule, curve = PollSchedule(prior), LifeTable(prior).curve
    longest = min(LONGEST_INTERVAL / (1 - share), LONGEST_SILENCE)
    age = schedule.next_age(KIND, asked, share)
    assert age == curve.next_age(asked, FRESHNESS, longest, share)
    assert schedule.waiting(KIND, asked, age, share) == curve.waiting(asked, age, share)
    assert schedule.next_age(KIND, asked) <= age + 1e-9
    assert age <= asked + longest <= asked + LONGEST_SILENCE


@pytest.mark.parametrize(("share", "longest"), [(0.0, 30), (0.5, 60), (0.8, 150), (0.9, 300), (SURE, 300)])
def test_the_longest_silence_grows_with_the_share(share: float, longest: float) -> None:
    """Where a call is hardly worth it, a task is asked about after half a minute, or after more, by the share."""
    assert PollSchedule(FIVE, 1000.0).next_age(KIND, 0.0, share) == pytest.approx(longest)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.95, SURE])
@pytest.mark.parametrize("median", [1.0, 5.0, 47.0])
def test_a_task_that_never_ends_is_asked_about_all_the_same(median: float, share: float) -> None:
    """However surely a callback will come, a task that runs for hours is asked about at least every five minutes."""
    schedule, ages = PollSchedule(LatencyPrior(median, 0.5)), [0.0]
    while ages[-1] < 2 * 3600:
        ages.append(schedule.next_age(KIND, ages[-1], share))
    gaps = [late - early for early, late in itertools.pairwise(ages)]
    assert min(gaps) > 0
    assert max(gaps) <= LONGEST_SILENCE + 1e-6
    assert len(ages) < 3000


def test_several_late_callbacks_give_back_what_was_lost() -> None:
    """Callbacks that all come just after their ends were found are worth as much as if they had been in time."""
    late, timely = played(("announced", 6)), played(("announced", 6 + 5))
    for number in range(5):
        late.ended(-1 - number, announced=False)
    for number in range(5):
        late.came_late(-1 - number)
    assert late.share == pytest.approx(timely.share)


def test_a_callback_that_came_is_never_forgotten() -> None:
    """However many misses follow, an account that has called back once is not taken for one that never does."""
    reliability = played(("announced", 1))
    for number in range(2000):
        reliability.ended(number, announced=False)
    assert not reliability.are_silent
