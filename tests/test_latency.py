"""The life table: a survival curve whatever it is told, true to what it was told, and never shorter for who runs on."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from imagen_async._core.latency import EDGES, MEMORY, Curve, LatencyPrior, LifeTable

FIVE = LatencyPrior(median=5, sigma=0.5)
PRIORS = st.builds(LatencyPrior, median=st.floats(0.3, 600), sigma=st.floats(0.2, 1.5))
AGES = st.floats(0, EDGES[-1])

Step = tuple[int, str, float, float]
STEPS = st.lists(
    st.tuples(
        st.integers(0, 4),
        st.sampled_from(["lasted", "lasted", "told", "untold", "look"]),
        st.floats(0, 1000),
        st.floats(0, 1),
    ),
    max_size=60,
)
"""What happens to five tasks at a time: which, what, how many seconds after its last, and where in them it ended."""


class Watcher(NamedTuple):
    """What learns: of a table, or of one kind of a schedule."""

    lasted: Callable[[float, float], None]
    ended: Callable[[float, float, float | None], None]
    look: Callable[[], object]


def watch(watcher: Watcher, steps: Iterable[Step]) -> None:
    """Tell the story of some tasks, each watched from its beginning, a new one in the place of each that ended."""
    seen: defaultdict[int, float] = defaultdict(float)
    for number, what, gap, part in steps:
        after, by = seen[number], seen[number] + gap
        if what == "look":
            watcher.look()
        elif what == "lasted":
            watcher.lasted(after, by)
            seen[number] = by
        else:
            watcher.ended(after, by, after + part * gap if what == "told" else None)
            del seen[number]


def watched(prior: LatencyPrior, steps: Iterable[Step]) -> LifeTable:
    """A table that was told this story."""
    table = LifeTable(prior)
    watch(Watcher(table.lasted, table.ended, lambda: table.curve), steps)
    return table


def told(prior: LatencyPrior, latencies: Iterable[float]) -> LifeTable:
    """A table that was told the latencies of tasks, and is looked at after each, as a schedule does."""
    table = LifeTable(prior)
    for latency in latencies:
        table.ended(0.0, latency + 1, latency)
        _ = table.curve
    return table


def shares(table: LifeTable) -> list[float]:
    """The table's curve at every edge, and far beyond the last."""
    return [table.curve.survival(age) for age in (*EDGES, 2 * EDGES[-1], 1e9)]


def check_sound(table: LifeTable) -> None:
    """Nothing that the table says is out of its range."""
    found = shares(table)
    assert found[0] == 1
    assert all(0 < late <= early for early, late in itertools.pairwise(found))
    assert 0 <= table.mean < math.inf
    assert 0 <= table.count < math.inf
    for age in (0.0, 0.1, 5.0, 1e4, 1e6):
        assert 0 <= table.curve.waiting(age, age + 3) <= 3 + 1e-6
        assert age < table.curve.next_age(age, 0.1, 30.0) <= age + 30
        assert 0 <= table.curve.quantile(0.5, age) <= EDGES[-1]


# What it knows beforehand


@given(prior=st.builds(LatencyPrior, median=st.floats(1e-3, 600), sigma=st.floats(0.05, 3)))
@example(prior=LatencyPrior(median=0.01, sigma=0.2))
def test_the_records_word_is_a_chance_for_every_bin(prior: LatencyPrior) -> None:
    """A record gives each bin a chance to end that is never over a half, and never nothing beyond the first bin."""
    first, *others = prior.chances()
    assert len(others) == len(EDGES) - 2
    assert 0 <= first <= 0.5
    assert all(0 < chance <= 0.5 for chance in others)


@given(prior=PRIORS)
def test_the_records_survival_is_that_of_its_law(prior: LatencyPrior) -> None:
    """Half of the tasks outlive the median, and a sixth of them the median times e to the sigma."""
    assert prior.survival(0.0) == 1
    assert prior.survival(prior.median) == pytest.approx(0.5)
    assert prior.survival(prior.median * math.exp(prior.sigma)) == pytest.approx(0.1587, abs=1e-4)
    assert prior.survival(prior.median * math.exp(-prior.sigma)) == pytest.approx(0.8413, abs=1e-4)


@given(prior=PRIORS, part=st.floats(0.01, 0.99), age=st.just(0.0) | st.floats(0.001, 100))
def test_the_records_quantile_inverts_its_survival(prior: LatencyPrior, part: float, age: float) -> None:
    """A record's quantile is the first edge that no more than the rest of the tasks outlive, of those so old."""
    share, found = (1 - part) * prior.survival(age), prior.quantile(part, age)
    assert found in EDGES
    assert prior.survival(found) <= share
    assert found == 0 or prior.survival(EDGES[EDGES.index(found) - 1]) > share


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.99])
def test_the_records_quantile_is_that_of_its_law(part: float) -> None:
    """A record's quantile is that of the lognormal law, to a bin."""
    exact = 47 * math.exp(0.95 * statistics.NormalDist().inv_cdf(part))
    assert exact <= LatencyPrior(median=47, sigma=0.95).quantile(part) <= 1.06 * exact


def test_the_records_mean_is_that_of_its_law() -> None:
    """The mean of many draws from a record's law is the mean that the record tells."""
    chance, prior = random.Random(1), LatencyPrior(median=47, sigma=0.95)
    drawn = statistics.fmean(chance.lognormvariate(math.log(47), 0.95) for _ in range(50_000))
    assert prior.mean == pytest.approx(drawn, rel=0.02)


def test_a_record_of_very_quick_tasks_gives_a_survival_curve() -> None:
    """A record by which all tasks end within the first bin leaves a curve from which something follows."""
    check_sound(LifeTable(LatencyPrior(median=0.01, sigma=0.2)))


# Whatever it is told


@settings(deadline=None)
@given(prior=PRIORS, steps=STEPS)
def test_what_was_watched_gives_a_survival_curve(prior: LatencyPrior, steps: list[Step]) -> None:
    """A curve starts at 1, never rises, never reaches 0, and all that follows from it is finite and in its range."""
    check_sound(watched(prior, steps))


TIMES = st.one_of(st.just(0.0), st.floats(0, 1e6), st.sampled_from(EDGES))


@settings(deadline=None)
@given(notes=st.lists(st.tuples(TIMES, TIMES, st.none() | st.floats(-1e9, 1e9), st.booleans()), max_size=40))
@example(notes=[(25308.0, 25326.0, None, True)])
@example(notes=[(0.0, 1e6, None, False)] * 40 + [(0.0, 1e6, None, True)])
def test_anything_at_all_gives_a_survival_curve(notes: list[tuple[float, float, float | None, bool]]) -> None:
    """Tasks that were met late, ended at once, or whose provider tells nonsense leave the curve one that can be."""
    table = LifeTable(FIVE)
    for one, other, latency, has_ended in notes:
        after, by = sorted((one, other))
        if has_ended:
            table.ended(after, by, latency)
        else:
            table.lasted(after, by)
    check_sound(table)


def test_many_tasks_of_one_latency_leave_a_curve() -> None:
    """Ten thousand tasks that all took the same time to the digit are no certainty: stragglers stay thinkable."""
    check_sound(told(FIVE, [3.0] * 10_000))
    check_sound(told(FIVE, [0.0] * 1000))
    check_sound(told(FIVE, [1e7] * 1000))


# The curve's own figures


def waited(curve: Curve, asked: float, age: float) -> float:
    """The same expectation by its definition, E[(age - T)+ | T > asked], added up piece by piece."""
    points = [asked, *(edge for edge in EDGES if asked < edge < age), age]
    ended = [1 - curve.survival(point) / curve.survival(asked) for point in points]
    return sum(
        (late - early) * (low + high) / 2
        for (early, late), (low, high) in zip(itertools.pairwise(points), itertools.pairwise(ended), strict=True)
    )


@settings(deadline=None)
@given(prior=PRIORS, steps=STEPS, asked=AGES, more=st.floats(0, 1000))
def test_waiting_is_what_its_definition_says(prior: LatencyPrior, steps: list[Step], asked: float, more: float) -> None:
    """The expected waiting is the mean time for which a task that was unfinished at the last question has been done."""
    curve = watched(prior, steps).curve
    age = min(asked + more, EDGES[-1])
    assert curve.waiting(asked, age) == pytest.approx(waited(curve, asked, age), rel=1e-6, abs=1e-6)


@settings(deadline=None)
@given(prior=PRIORS, steps=STEPS, asked=AGES, gaps=st.lists(st.floats(0, 100), min_size=2, max_size=5))
def test_waiting_grows_with_the_age(prior: LatencyPrior, steps: list[Step], asked: float, gaps: list[float]) -> None:
    """The longer nobody asks, the more waiting is expected, and never more than the time since the last question."""
    curve = watched(prior, steps).curve
    ages = [*itertools.accumulate(gaps, initial=asked)]
    waits = [curve.waiting(asked, age) for age in ages]
    assert waits[0] == pytest.approx(0, abs=1e-9)
    assert all(late >= early - 1e-6 for early, late in itertools.pairwise(waits))
    assert all(wait <= age - asked + 1e-6 for wait, age in zip(waits, ages, strict=True))


@settings(deadline=None)
@given(prior=PRIORS, steps=STEPS, part=st.floats(0.01, 0.99), asked=AGES)
def test_a_quantile_inverts_survival(prior: LatencyPrior, steps: list[Step], part: float, asked: float) -> None:
    """A quantile is the first edge that no more than the rest of the tasks outlive, of those unfinished before."""
    curve = watched(prior, steps).curve
    age = curve.quantile(part, asked)
    share = (1 - part) * curve.survival(asked)
    assert age in EDGES
    assert age >= asked
    assert curve.survival(age) <= share * (1 + 1e-9) or age == EDGES[-1]
    before = EDGES[EDGES.index(age) - 1]
    assert before <= asked or curve.survival(before) >= share * (1 - 1e-9)


def mean_between(curve: Curve, after: float, by: float) -> float:
    """The mean latency of those that end between two ages by its definition, added up piece by piece."""
    points = [after, *(edge for edge in EDGES if after < edge < by), by]
    parts = [
        (curve.survival(early) - curve.survival(late), (early + late) / 2) for early, late in itertools.pairwise(points)
    ]
    return sum(part * middle for part, middle in parts) / sum(part for part, _ in parts)


@settings(deadline=None)
@given(prior=PRIORS, steps=STEPS, after=st.floats(0, 500), width=st.floats(1, 20_000))
def test_the_mean_between_two_ages_is_what_its_definition_says(
    prior: LatencyPrior, steps: list[Step], after: float, width: float
) -> None:
    """Tasks that end between two ages take on average what the pieces of the curve between them add up to."""
    curve, by = watched(prior, steps).curve, after + width
    mean = curve.mean(after, by)
    assert after - 1e-3 <= mean <= by + 1e-3
    assert mean == pytest.approx(mean_between(curve, after, by), rel=1e-3, abs=1e-3)


# What it makes of what it is told


@settings(deadline=None)
@given(
    prior=PRIORS,
    steps=STEPS,
    running=st.lists(st.floats(0, 1000), min_size=1, max_size=20),
)
def test_tasks_that_still_run_lengthen_the_curve(prior: LatencyPrior, steps: list[Step], running: list[float]) -> None:
    """Each task that has lasted so far and has not ended makes long latencies more likely, and none less."""
    steps = [step for step in steps if step[1] in ("lasted", "told")]
    alone, together = LifeTable(prior), LifeTable(prior)
    for table in (alone, together):
        watch(Watcher(table.lasted, table.ended, lambda: None), steps)
    for age in running:
        together.lasted(0.0, age)
    assert all(more >= less - 1e-12 for more, less in zip(shares(together), shares(alone), strict=True))


def test_a_few_long_runners_make_a_difference() -> None:
    """Ten tasks that ended at 5 s beside ninety that still run at 50 s are not taken for a quick batch."""
    quick, slow = (LifeTable(FIVE) for _ in range(2))
    for table in (quick, slow):
        for _ in range(10):
            table.ended(0.0, 6.0, 5.0)
    for _ in range(90):
        slow.lasted(0.0, 50.0)
    assert quick.curve.survival(8.0) < 0.25
    assert slow.curve.survival(50.0) > 0.55


def test_half_of_a_batch_tells_the_whole_of_it() -> None:
    """Where the slower half still runs at the median, the curve ends there at a half: it is not that of the quick."""
    chance, table = random.Random(2), LifeTable(FIVE)
    for _ in range(300):
        latency = chance.lognormvariate(math.log(20), 0.5)
        if latency < 20:
            table.ended(0.0, 20.0, latency)
        else:
            table.lasted(0.0, 20.0)
    assert table.curve.survival(19.0) == pytest.approx(0.54, abs=0.08)
    assert table.curve.survival(10.0) == pytest.approx(0.917, abs=0.05)


@settings(deadline=None, max_examples=30)
@given(after=st.floats(1, 15), width=st.floats(1.1, 3))
def test_an_untold_latency_stays_between_the_two_questions(after: float, width: float) -> None:
    """Where the provider tells no latency, it counts for the time between the two questions and for no other."""
    by, table = after * width, LifeTable(FIVE)
    for _ in range(200):
        table.lasted(0.0, after)
        table.ended(after, by, None)
    assert table.curve.survival(0.8 * after) > 0.85
    assert table.curve.survival(1.25 * by) < 0.1
    assert min(FIVE.mean, after) <= table.mean <= max(FIVE.mean, by)


def test_an_untold_latency_is_spread_as_the_others_were() -> None:
    """Between two questions far apart, it is taken to have ended when those ended whose latency is known."""
    table = told(FIVE, [5.0] * 200)
    for _ in range(100):
        table.ended(0.0, 500.0, None)
    assert table.curve.survival(4.0) > 0.85
    assert table.curve.survival(7.0) < 0.1


def test_an_untold_latency_between_questions_far_apart_leaves_the_mean() -> None:
    """Tasks of 5 s that are seen to have ended a day later count as such, and not as tasks of half a day."""
    table = told(FIVE, [5.0] * 200)
    for _ in range(100):
        table.ended(0.0, 86_400.0, None)
    assert table.mean == pytest.approx(5, rel=0.1)


@pytest.mark.parametrize("latency", [None, 4.0, 0.5, 99.0])
def test_a_latency_is_believed_between_the_two_questions(latency: float | None) -> None:
    """An ending that two questions pin down is the same to the table, whatever the provider tells or does not tell."""
    after, by = EDGES[70] * 1.01, EDGES[71] * 0.99
    table, other = LifeTable(FIVE), LifeTable(FIVE)
    for _ in range(20):
        _ = table.curve, other.curve
        table.ended(after, by, latency)
        other.ended(after, by, (after + by) / 2)
    assert shares(table) == pytest.approx(shares(other))
    assert table.mean == pytest.approx(other.mean, rel=0.05)


def test_what_is_old_is_forgotten() -> None:
    """When tasks of 5 s become tasks of 20 s, a few hundred of the new ones are what the curve and the mean tell."""
    chance = random.Random(3)
    before = [chance.lognormvariate(math.log(5), 0.3) for _ in range(1000)]
    table = told(FIVE, before)
    assert 4 < table.curve.quantile(0.5) < 6
    later = [chance.lognormvariate(math.log(20), 0.3) for _ in range(3 * MEMORY)]
    for latency in later:
        table.ended(0.0, latency, latency)
        _ = table.curve
    assert 16 < table.curve.quantile(0.5) < 24
    assert table.mean == pytest.approx(statistics.fmean(later), rel=0.15)
    assert table.curve.survival(8.0) > 0.85


def test_what_is_recent_is_remembered() -> None:
    """A handful of odd ones changes little of what hundreds of tasks have shown."""
    table = told(FIVE, [20.0] * 300)
    for _ in range(5):
        table.ended(0.0, 200.0, 200.0)
        _ = table.curve
    assert 18 < table.curve.quantile(0.5) < 23


def test_a_slow_record_is_soon_outweighed() -> None:
    """Ten tasks are enough to see that they take 3 s and not the record's 47."""
    table = told(LatencyPrior(median=47, sigma=0.95), [3.0] * 10)
    assert table.curve.survival(5.0) < 0.4
    assert table.mean < 10


@settings(deadline=None)
@given(prior=PRIORS, latencies=st.lists(st.floats(0, 1000), max_size=MEMORY - 1))
def test_the_mean_is_that_of_all_latencies_and_the_records(prior: LatencyPrior, latencies: list[float]) -> None:
    """The mean is the ordinary one, with the record's word as one task more, until the first are forgotten."""
    table = LifeTable(prior)
    for latency in latencies:
        table.ended(0.0, 1000.0, latency)
    assert table.mean == pytest.approx(statistics.fmean([prior.mean, *latencies]))


LAWS: dict[str, Callable[[random.Random], float]] = {
    "narrow": lambda chance: chance.lognormvariate(math.log(5), 0.35),
    "wide": lambda chance: chance.lognormvariate(math.log(8), 0.8),
    "two humps": lambda chance: chance.lognormvariate(math.log(4 if chance.random() < 0.85 else 25), 0.25),
    "even": lambda chance: chance.uniform(10, 40),
}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("prior", [FIVE, LatencyPrior(median=47, sigma=0.95)], ids=["quick", "slow"])
def test_a_table_that_was_told_many_latencies_knows_their_law(law: str, prior: LatencyPrior) -> None:
    """After 400 latencies the curve is nowhere more than a tenth off the true one, whatever the record said."""
    chance = random.Random(4)
    table = told(prior, [LAWS[law](chance) for _ in range(400)])
    many = sorted(LAWS[law](chance) for _ in range(20_000))
    for part in range(1, 20):
        age = many[len(many) * part // 20]
        assert table.curve.survival(age) == pytest.approx(1 - part / 20, abs=0.1), age
    assert table.mean == pytest.approx(statistics.fmean(many), rel=0.15)
