"""The life table: its curve is the one that the definitions give of all that it was told, whatever that was."""

from __future__ import annotations

import itertools
import math
import operator
import statistics
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from inner import EDGES, MEMORY, Curve, LatencyPrior, LifeTable, believed
from latencies import BINS, FAR_OFF, PlainCurve, PlainTable
from polling import FIVE

PARTS = st.floats(0.01, 0.99)
PRIORS = st.builds(LatencyPrior, median=st.floats(0.01, 600), sigma=st.floats(0.2, 1.5))


@settings(max_examples=50)
@given(prior=PRIORS, part=PARTS, age=st.just(0.0) | st.floats(0.001, 100))
@example(prior=LatencyPrior(median=600, sigma=1.5), part=0.999, age=0.0)
def test_a_record_tells_the_lognormal_law(prior: LatencyPrior, part: float, age: float) -> None:
    """Its survival is that of its law, and its quantile the first edge that no more than the rest outlive."""
    law = statistics.NormalDist(math.log(prior.median), prior.sigma)
    assert prior.survival(age) == pytest.approx(1 - law.cdf(math.log(age)) if age else 1, abs=1e-9)
    share = (1 - part) * prior.survival(age)
    assert prior.quantile(part, age) == next((edge for edge in EDGES if prior.survival(edge) <= share), EDGES[-1])


@given(latency=st.none() | st.floats(), age=st.floats(0, 1e6))
@example(latency=70.0, age=10.0)
@example(latency=EDGES[-1], age=0.0)
def test_no_latency_is_longer_than_its_task_was_there(latency: float | None, age: float) -> None:
    """Nor nothing, or less; a create may have been on the way for a minute. Without an age, seven hours at most."""
    for longest, told in ((age + 60, believed(latency, age)), (EDGES[-1], believed(latency))):
        assert told == (latency if latency is not None and 0 < latency <= longest else None)


def test_a_records_mean_is_that_of_its_law() -> None:
    """The mean of many draws from a record's law is the mean that the record tells."""
    draws = statistics.NormalDist(math.log(47), 0.95).samples(50_000, seed=1)
    assert FAR_OFF.mean == pytest.approx(statistics.fmean(map(math.exp, draws)), rel=0.02)


CURVES = st.lists(st.sampled_from([0.999, 1.0]) | st.floats(0.7, 1), min_size=1, max_size=12).map(
    lambda lasting: [*itertools.accumulate(itertools.islice(itertools.cycle(lasting), BINS), operator.mul, initial=1.0)]
)
"""Shares that last beyond each edge, where the part that outlasts a bin goes round a few."""

AGES = st.floats(0, 300) | st.sampled_from([0.0, EDGES[1], EDGES[100], 0.99 * EDGES[-1]])


@settings(max_examples=80)
@given(shares=CURVES, asked=AGES, more=st.floats(0.2, 200), announced=st.just(0.0) | st.floats(0, 0.99), part=PARTS)
@example(shares=[0.999**k for k in range(BINS + 1)], asked=0.0, more=200.0, announced=0.0, part=0.99)
@example(shares=[0.97**k for k in range(BINS + 1)], asked=3.0, more=30.0, announced=0.9, part=0.5)
@example(shares=[0.999**k for k in range(BINS + 1)], asked=0.0, more=260.0, announced=0.0, part=0.5)
@example(shares=[1.0] + [0.5] * BINS, asked=1.0, more=30.0, announced=0.5, part=0.5)
def test_what_a_curve_says_is_what_the_definitions_say(
    shares: list[float], asked: float, more: float, announced: float, part: float
) -> None:
    """Survival, waiting, mean, quantile and the age at which a waiting is reached are what its pieces add up to."""
    curve, plain, age = Curve(shares), PlainCurve(shares), asked + part * more
    assert curve.survival(age) == pytest.approx(plain.survival(age), rel=1e-9)
    assert curve.quantile(part, asked) == plain.quantile(part, asked)
    by, ended = asked + 100 * more, curve.survival(asked) - curve.survival(asked + 100 * more)
    # Where next to nothing ends there, its mean is anything in between.
    near = 1e-3 if ended == 0 or ended > 1e-3 * curve.survival(asked) else by - asked
    assert curve.mean(asked, by) == pytest.approx(plain.mean(asked, by), rel=1e-6, abs=near)
    assert asked <= curve.mean(asked, by) <= by
    waiting = plain.waiting(asked, age, announced)
    assert curve.waiting(asked, age, announced) == pytest.approx(waiting, rel=1e-6, abs=1e-6)
    assert curve.next_age(asked, more, more, announced) == pytest.approx(asked + more), "cut short"
    if waiting > 1e-6:
        found = curve.next_age(asked, waiting, more, announced)
        assert asked <= found <= age * (1 + 1e-6)
        assert plain.waiting(asked, found, announced) == pytest.approx(waiting, rel=1e-6, abs=1e-6)


TIMES = st.floats(0, 200) | st.sampled_from([0.0, EDGES[1], 30_000.0, 1e6])
WHAT = st.sampled_from(["lasted", "told", "untold", "look"])
NOTES = st.lists(st.tuples(WHAT, TIMES, TIMES, TIMES | st.floats(-1e9, 1e9)), max_size=40)
"""What is told of a task, or that the curve is looked at; two ages, and a latency, which may be nonsense."""


@settings(max_examples=60)
@given(prior=PRIORS, notes=NOTES)
@example(prior=LatencyPrior(median=0.01, sigma=0.2), notes=[])
@example(prior=FIVE, notes=[("look", 0, 0, 0), ("lasted", 0, 3, 0), ("look", 0, 0, 0)])
@example(prior=LatencyPrior(median=600, sigma=0.2), notes=[("untold", 0.05, EDGES[1], 0)])
@example(prior=FIVE, notes=[("untold", 25308.0, 25326.0, 0), ("untold", 3e4, 1e6, 0)])
@example(prior=FIVE, notes=[("lasted", 0, 1e6, 0)] * 40 + [("told", 0, 1e6, 1e6)])
@example(prior=FIVE, notes=[("told", 0, 4, 3)] * 1000)
@example(prior=FIVE, notes=[("told", 0, 0, 0)] * 500)
@example(prior=FIVE, notes=[("told", 0, 1e7, 1e7)] * 500)
def test_a_table_is_the_life_table_of_all_that_it_was_told(prior: LatencyPrior, notes: list[Any]) -> None:
    """Its curve is the one that every task gives by definition, each as much as it still counts.

    And whatever it is told, that tasks were met late, ended at once, are all alike, or nonsense, the curve falls from 1
    and never to 0, and all that follows from it can be.
    """
    table, plain = LifeTable(prior), PlainTable(prior)
    for one in (table, plain):
        for what, first, second, latency in notes:
            after, by = sorted((first, second))
            if what == "look":
                _ = one.curve
            elif what == "lasted":
                one.lasted(after, by)
            else:
                one.ended(after, by, latency if what == "told" else None)
    assert table.is_new == (not any(what in ("told", "untold") for what, *_ in notes))
    curve, shares = table.curve, [table.curve.survival(edge) for edge in EDGES]
    assert shares == pytest.approx(list(plain.curve.shares), rel=1e-6, abs=0)
    assert table.count == pytest.approx(plain.count)
    assert shares[0] == 1
    assert all(0 < late <= early for early, late in itertools.pairwise(shares))
    assert 0 <= table.mean < math.inf
    for age in (0.0, 0.1, 5.0, 1e4, 1e6):
        assert 0 <= curve.waiting(age, age + 3) <= 3 + 1e-6
        assert age < curve.next_age(age, 0.1, 30.0) <= age + 30
        assert 0 <= table.quantile(0.5, age) <= EDGES[-1]


def told(prior: LatencyPrior, latencies: Iterable[float]) -> LifeTable:
    """A table that was told the latencies of tasks, and is looked at after each, as a schedule does."""
    table = LifeTable(prior)
    for latency in latencies:
        table.ended(0.0, latency + 1, latency)
        _ = table.curve
    return table


@settings(max_examples=25)
@given(prior=PRIORS, latencies=st.lists(st.floats(0, 1000), max_size=MEMORY - 1))
def test_the_mean_is_that_of_all_latencies_and_the_records(prior: LatencyPrior, latencies: list[float]) -> None:
    """The mean is the ordinary one, with the record's word as one task more, until the first are forgotten."""
    table = LifeTable(prior)
    for latency in latencies:
        table.ended(0.0, 1000.0, latency)
    assert table.mean == pytest.approx(statistics.fmean([prior.mean, *latencies]))


def test_what_is_old_is_forgotten() -> None:
    """Hundreds of new tasks outweigh a thousand old ones, and a handful of odd ones changes little."""
    table = told(FIVE, [5.0] * 1000 + [20.0] * 600)
    assert table.curve.survival(8.0) > 0.9
    assert table.mean == pytest.approx(20, rel=0.1)
    assert told(FIVE, [20.0] * 300 + [200.0] * 5).curve.survival(23.0) < 0.2


def test_a_long_silence_is_not_taken_for_a_long_task() -> None:
    """Tasks of 5 s that are seen to have ended a day later, of a provider that tells no latency, count as such."""
    table = told(FIVE, [5.0] * 200)
    for _ in range(100):
        table.ended(0.0, 86_400.0, None)
    assert table.mean == pytest.approx(5, rel=0.1)


@pytest.mark.parametrize("count", [1, 10, 100])
def test_a_quantile_is_no_rarer_than_what_was_seen(count: int) -> None:
    """Of so many tasks, and two of the record's twice, only so large a part has shown how long it takes."""
    table = told(FAR_OFF, [5.0] * count)
    shown = table.count / (table.count + 4)
    for part in (0.05, 0.3, 0.7, 0.999):
        assert table.quantile(part, 0.5) == table.curve.quantile(min(part, shown), 0.5)
