"""The rule: a running task is asked about when a finished picture would have waited for `freshness` seconds."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_latency import FIVE, LAWS, PRIORS, STEPS, Step, Watcher, watch
from test_latency import watched as watched_table

from imagen_async._core.latency import EDGES, Curve, LatencyPrior
from imagen_async._core.poll_schedule import FRESHNESS, LONGEST_INTERVAL, Kind, PollSchedule
from imagen_async.errors import ConfigurationError
from imagen_async.providers import PROVIDERS

KIND, OTHER = ("imagen4", 1), ("imagen4", 4)
FRESH = st.floats(0.01, 5)
ANY_AGE = st.one_of(st.floats(0, 1e6), st.floats(0, 100), st.sampled_from(EDGES))


def told(latencies: Iterable[float], prior: LatencyPrior = FIVE, freshness: float = FRESHNESS) -> PollSchedule:
    """A schedule that was told how long tasks took, and is looked at after each."""
    schedule = PollSchedule(prior, freshness)
    for latency in latencies:
        schedule.ended(KIND, 0.0, latency + 1, latency)
        schedule.next_age(KIND, 0.0)
    return schedule


def watched(prior: LatencyPrior, steps: Iterable[Step], freshness: float) -> PollSchedule:
    """A schedule that has watched some tasks of one kind."""
    schedule = PollSchedule(prior, freshness)
    watcher = Watcher(
        lambda after, age: schedule.lasted(KIND, after, age),
        lambda after, by, latency: schedule.ended(KIND, after, by, latency),
        lambda: schedule.next_age(KIND, 1.0),
    )
    watch(watcher, steps)
    return schedule


def questions(schedule: PollSchedule, until: float, kind: Kind = KIND) -> list[float]:
    """The ages at which a task is asked about that ends at the age `until`."""
    ages = [schedule.next_age(kind, 0.0)]
    while ages[-1] < until:
        ages.append(schedule.next_age(kind, ages[-1]))
    return ages


def played(schedule: PollSchedule, latencies: Iterable[float]) -> tuple[float, float]:
    """Mean calls and mean delay of tasks that are asked about by what the schedule knows; it learns nothing more."""
    latencies = list(latencies)
    ages = questions(schedule, max(latencies))
    asked = [bisect_left(ages, latency) for latency in latencies]
    calls = statistics.fmean(at + 1 for at in asked)
    return calls, statistics.fmean(ages[at] - latency for at, latency in zip(asked, latencies, strict=True))


def drawn(law: Callable[[random.Random], float], count: int, seed: int = 7) -> list[float]:
    """So many latencies of a law."""
    chance = random.Random(seed)
    return [law(chance) for _ in range(count)]


# The rule


@settings(deadline=None)
@given(prior=PRIORS, steps=STEPS, asked=ANY_AGE.filter(lambda age: age < 1e4), freshness=FRESH)
def test_the_next_question_comes_when_the_waiting_is_worth_it(
    prior: LatencyPrior, steps: list[Step], asked: float, freshness: float
) -> None:
    """The waiting expected at the next question is the freshness, or less where the longest interval cuts it short."""
    schedule = watched(prior, steps, freshness)
    age = schedule.next_age(KIND, asked)
    waiting = schedule.waiting(KIND, asked, age)
    if age - asked < LONGEST_INTERVAL * (1 - 1e-9):
        assert waiting == pytest.approx(freshness, rel=1e-6, abs=1e-6)
    else:
        assert waiting <= freshness * (1 + 1e-6)


@settings(deadline=None)
@given(prior=PRIORS, steps=STEPS, asked=ANY_AGE, freshness=FRESH)
def test_the_next_question_comes_later_but_not_too_late(
    prior: LatencyPrior, steps: list[Step], asked: float, freshness: float
) -> None:
    """Whatever is known and however old a task is, the next question is later than the last, by half a minute at most.

    No shorter than the freshness either, since nobody waits longer than since the last question.
    """
    interval = watched(prior, steps, freshness).next_age(KIND, asked) - asked
    assert freshness * (1 - 1e-6) <= interval <= LONGEST_INTERVAL + 1e-6


@settings(deadline=None)
@given(prior=PRIORS, steps=STEPS, asked=ANY_AGE, freshness=FRESH, factor=st.floats(1, 10))
def test_a_greater_freshness_asks_later(
    prior: LatencyPrior, steps: list[Step], asked: float, freshness: float, factor: float
) -> None:
    """Who values a call more asks later, or just as late."""
    soon, late = (watched(prior, steps, freshness * each) for each in (1, factor))
    assert late.next_age(KIND, asked) >= soon.next_age(KIND, asked) - 1e-9


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_task_that_never_ends_is_asked_about_all_the_same(provider: str) -> None:
    """A task that runs for hours is asked about at least every half minute, and no more than some hundred times."""
    ages = questions(PollSchedule(PROVIDERS[provider].latency), 3 * 3600)
    assert ages[-1] >= 3 * 3600
    assert all(late - early <= LONGEST_INTERVAL + 1e-6 for early, late in itertools.pairwise(ages))
    assert len(ages) < 3000


def test_calls_go_where_they_save_most() -> None:
    """Tasks of about 25 s are hardly asked about before they use to end, often while they do, stragglers less often."""
    schedule = told(drawn(lambda chance: chance.gauss(25, 1.5), 300))
    ages = questions(schedule, 100)
    assert sum(age < 21 for age in ages) <= 4
    gaps = [(early, late - early) for early, late in itertools.pairwise(ages)]
    busy = [gap for age, gap in gaps if 24 < age < 32]
    assert len(busy) >= 6
    assert ages[0] > 5 * max(busy)
    assert min(gap for age, gap in gaps if age > 60) > 1.5 * min(busy)


# What a call costs, and what it saves


@pytest.mark.parametrize("freshness", [0.05, 0.1, 0.4])
@pytest.mark.parametrize("law", LAWS)
def test_the_mean_delay_is_the_freshness_times_the_calls(law: str, freshness: float) -> None:
    """Whatever the latencies are, once they are known, each call costs so much waiting as a call is worth."""
    schedule = told(drawn(LAWS[law], 400), freshness=freshness)
    calls, delay = played(schedule, drawn(LAWS[law], 20_000, seed=8))
    assert delay == pytest.approx(freshness * calls, rel=0.25)


def drawn_from(curve: Curve, count: int) -> list[float]:
    """So many latencies that are spread just as a curve has them, up to its last edge."""
    shares = [curve.survival(edge) for edge in EDGES]
    latencies = []
    for number in range(count):
        share = max(1 - (number + 0.5) / count, shares[-1])
        k = bisect_left(shares, -share, lo=1, key=lambda each: -each)
        part = (shares[k - 1] - share) / (shares[k - 1] - shares[k])
        latencies.append(EDGES[k - 1] + part * (EDGES[k] - EDGES[k - 1]))
    return latencies


@settings(deadline=None, max_examples=30)
@given(prior=st.sampled_from([FIVE, LatencyPrior(47, 0.95), LatencyPrior(1, 0.35)]), steps=STEPS, freshness=FRESH)
def test_the_identity_holds_for_what_is_believed(prior: LatencyPrior, steps: list[Step], freshness: float) -> None:
    """Of tasks that end as the schedule believes, the mean delay is the freshness times the calls, less for a cut."""
    schedule, latencies = watched(prior, steps, freshness), drawn_from(watched_table(prior, steps).curve, 4000)
    calls, delay = played(schedule, latencies)
    assert delay <= 1.05 * freshness * calls
    ages = [0.0, *questions(schedule, latencies[-len(latencies) // 50])]
    if max(late - early for early, late in itertools.pairwise(ages)) < LONGEST_INTERVAL - 1e-6:
        assert delay >= 0.9 * freshness * calls


@pytest.mark.parametrize("law", LAWS)
def test_a_quarter_of_the_freshness_is_twice_the_calls_and_half_the_delay(law: str) -> None:
    """A quarter of the freshness shows pictures about twice as soon, for about twice as many calls."""
    seen, latencies = drawn(LAWS[law], 400), drawn(LAWS[law], 5000, seed=8)
    calls, delay = played(told(seen, freshness=0.2), latencies)
    more_calls, less_delay = played(told(seen, freshness=0.05), latencies)
    assert 1.6 < more_calls / calls < 2.3
    assert 1.7 < delay / less_delay < 2.5


@pytest.mark.parametrize("law", LAWS)
def test_what_it_learns_saves_calls_and_delay(law: str) -> None:
    """Under a record that is far off, the product of calls and delay falls once the latencies are known."""
    prior, latencies = PROVIDERS["kie"].latency, drawn(LAWS[law], 5000, seed=8)
    calls, delay = played(PollSchedule(prior), latencies)
    known_calls, known_delay = played(told(drawn(LAWS[law], 400), prior), latencies)
    assert known_calls * known_delay < 0.9 * calls * delay


@pytest.mark.parametrize(("law", "factor"), [("narrow", 0.7), ("two humps", 0.7), ("even", 0.8), ("wide", 0.95)])
def test_no_fixed_interval_does_as_well(law: str, factor: float) -> None:
    """Known latencies are seen sooner than by a fixed interval of as many calls: the narrower they are, the sooner."""
    latencies = drawn(LAWS[law], 5000, seed=8)
    calls, delay = played(told(drawn(LAWS[law], 400)), latencies)
    interval = interval_of(calls, latencies)
    assert delay < factor * statistics.fmean(math.ceil(each / interval) * interval - each for each in latencies)


def interval_of(calls: float, latencies: list[float]) -> float:
    """The fixed interval that makes so many calls a task."""
    low, high = 0.01, 100.0
    while high - low > 0.001:
        middle = (low + high) / 2
        enough = statistics.fmean(math.ceil(each / middle) for each in latencies) > calls
        low, high = (middle, high) if enough else (low, middle)
    return high


# Its setting


@pytest.mark.parametrize(
    "freshness", [0, -0.1, math.nan, math.inf, -math.inf, True, "0.1", None, [0.1], 1j, 86401, 10**400]
)
def test_a_freshness_that_cannot_be_meant_is_refused(freshness: Any) -> None:
    """A freshness that is no number of seconds above 0 is a ConfigurationError that names it."""
    with pytest.raises(ConfigurationError, match="freshness="):
        PollSchedule(FIVE, freshness)


@pytest.mark.parametrize("freshness", [1, 0.001, 1000, 1e-12, 86400])
def test_any_number_of_seconds_will_do(freshness: float) -> None:
    """Every freshness from above 0 to a day gives a question not before the last and not after half a minute."""
    for asked in (0.0, 3.0, 1e5):
        assert asked <= PollSchedule(FIVE, freshness).next_age(KIND, asked) <= asked + LONGEST_INTERVAL


# What it knows of which kind


def said(schedule: PollSchedule, kind: Kind) -> tuple[float, ...]:
    """All that a schedule says of a kind."""
    nexts = [schedule.next_age(kind, asked) for asked in (0.0, 3.0, 20.0, 500.0)]
    return *nexts, schedule.mean({kind: 1}), schedule.quantile(kind, 0.5), schedule.waiting(kind, 2.0, 9.0)


@settings(deadline=None)
@given(steps=STEPS)
def test_the_kinds_are_apart(steps: list[Step]) -> None:
    """What is learned of one model and number of images changes nothing of what is said of another."""
    assert said(watched(FIVE, steps, FRESHNESS), OTHER) == said(PollSchedule(FIVE), OTHER)


def test_a_kind_learns_from_its_own() -> None:
    """What is learned of a kind changes all that is said of it."""
    before, after = said(PollSchedule(FIVE), KIND), said(told([30.0] * 100), KIND)
    assert before[0] < after[0], "the first question"
    assert before[4:6] < (10, 10) < (25, 25) < after[4:6], "the mean and the median"
    assert before[6] > 1 > 0.5 > after[6], "the waiting of one that is 9 s old"


def test_what_is_recalled_is_learned() -> None:
    """Latencies of earlier runs teach just what those of this run would have."""
    latencies = drawn(LAWS["narrow"], 200)
    recalled, seen = PollSchedule(FIVE), PollSchedule(FIVE)
    recalled.recall((kind, latency) for latency in latencies for kind in (KIND, OTHER))
    for latency in latencies:
        seen.ended(KIND, 0.0, latency + 1, latency)
    assert said(recalled, KIND) == said(recalled, OTHER) == said(seen, KIND)
    assert set(recalled.kinds) == {KIND, OTHER}


def test_what_is_known_is_not_recalled_over() -> None:
    """Earlier runs say nothing of a kind that this run knows something of, and all that they have of the others."""
    schedule, fresh = told([5.0] * 20), told([5.0] * 20)
    schedule.recall([(KIND, 60.0)] * 50 + [(OTHER, 60.0)] * 50)
    assert said(schedule, KIND) == said(fresh, KIND)
    assert schedule.mean({OTHER: 1}) > 50


READINGS: dict[str, Callable[[PollSchedule], object]] = {
    "the next age": lambda schedule: schedule.next_age(KIND, 3.0),
    "a quantile": lambda schedule: schedule.quantile(KIND, 0.5),
    "the waiting": lambda schedule: schedule.waiting(KIND, 2.0, 9.0),
    "the mean": lambda schedule: schedule.mean({KIND: 1}),
}


@pytest.mark.parametrize("reading", READINGS)
def test_what_was_only_asked_for_is_not_known(reading: str) -> None:
    """Whoever asks what is said of a kind leaves it unknown: earlier runs still teach it, and before that none does."""
    schedule, fresh = PollSchedule(FIVE), PollSchedule(FIVE)
    READINGS[reading](schedule)
    assert not schedule.kinds
    for each in (schedule, fresh):
        each.recall([(KIND, 60.0)] * 50)
    assert said(schedule, KIND) == said(fresh, KIND)
    assert schedule.mean({KIND: 1}) > 50
    assert set(schedule.kinds) == {KIND}


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.966])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_of_an_unknown_kind_a_forecast_is_the_records(provider: str, part: float) -> None:
    """Before any task has ended, a quantile is that of the record, and not of the earlier curve that is asked by."""
    prior = PROVIDERS[provider].latency
    schedule = PollSchedule(prior)
    schedule.next_age(KIND, 0.0)
    exact = prior.median * math.exp(prior.sigma * statistics.NormalDist().inv_cdf(part))
    assert exact <= schedule.quantile(KIND, part) <= 1.06 * exact


def test_recalling_nothing_changes_nothing() -> None:
    """An empty journal leaves the record's word."""
    schedule = PollSchedule(FIVE)
    schedule.recall([])
    assert not schedule.kinds
    assert said(schedule, KIND) == said(PollSchedule(FIVE), KIND)


def test_the_mean_is_that_of_the_mixture() -> None:
    """The mean latency of several kinds is weighed by how many there are of each; without any, it is the record's."""
    schedule = PollSchedule(FIVE)
    schedule.recall([(KIND, 10.0)] * 200 + [(OTHER, 40.0)] * 200)
    one, other = schedule.mean({KIND: 1}), schedule.mean({OTHER: 1})
    assert (one, other) == (pytest.approx(10, rel=0.02), pytest.approx(40, rel=0.02))
    assert schedule.mean({KIND: 3, OTHER: 1}) == pytest.approx((3 * one + other) / 4)
    assert schedule.mean({}) == schedule.mean({("unheard of", 1): 5}) == pytest.approx(FIVE.mean)
