"""The rule: a running task is asked about when a finished picture would have waited for `freshness` seconds."""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from latencies import FAR_OFF, LAWS, drawn
from polling import FIVE, KIND

from imagen_async._core.latency import EDGES, LatencyPrior
from imagen_async._core.poll_schedule import FRESHNESS, LONGEST_INTERVAL, LONGEST_SILENCE, Kind, PollSchedule
from imagen_async.errors import ConfigurationError
from imagen_async.providers import PROVIDERS

OTHER: Kind = ("imagen4", 4)
FRESH = st.floats(0.01, 5)
ASKED = st.floats(0, 100) | st.floats(0, 1e4) | st.sampled_from(EDGES[:200])
PRIORS = st.sampled_from([FIVE, FAR_OFF, LatencyPrior(median=1, sigma=0.35)])
LATENCIES = st.lists(st.floats(0, 300), max_size=20)


def told(latencies: Iterable[float], prior: LatencyPrior = FIVE, freshness: float = FRESHNESS) -> PollSchedule:
    """A schedule that was told how long tasks took, and is looked at after each."""
    schedule = PollSchedule(prior, freshness)
    for latency in latencies:
        schedule.ended(KIND, 0.0, latency + 1, latency)
        schedule.next_age(KIND, 0.0)
    return schedule


def questions(schedule: PollSchedule, until: float) -> list[float]:
    """The ages at which a task is asked about that ends at the age `until`."""
    ages = [schedule.next_age(KIND, 0.0)]
    while ages[-1] < until:
        ages.append(schedule.next_age(KIND, ages[-1]))
    return ages


def played(schedule: PollSchedule, latencies: list[float]) -> tuple[float, float]:
    """Mean calls and mean delay of tasks that are asked about by what the schedule knows; it learns nothing more."""
    ages = questions(schedule, max(latencies))
    asked = [bisect_left(ages, latency) for latency in latencies]
    calls = statistics.fmean(at + 1 for at in asked)
    return calls, statistics.fmean(ages[at] - latency for at, latency in zip(asked, latencies, strict=True))


# The rule


@settings(deadline=None, max_examples=60)
@given(prior=PRIORS, latencies=LATENCIES, asked=ASKED, freshness=FRESH, announced=st.just(0.0) | st.floats(0, 0.99))
@example(prior=FAR_OFF, latencies=[], asked=300.0, freshness=5.0, announced=0.5)
@example(prior=FIVE, latencies=[], asked=0.0, freshness=0.1, announced=0.98)
def test_the_next_question_comes_when_the_waiting_is_worth_it(
    prior: LatencyPrior, latencies: list[float], asked: float, freshness: float, announced: float
) -> None:
    """The waiting expected at the next question is the freshness, or less where the longest interval cuts it short.

    That is half a minute, and longer by as much as fewer ends go unannounced, up to five minutes.
    """
    schedule = told(latencies, prior, freshness)
    longest = min(LONGEST_INTERVAL / (1 - announced), LONGEST_SILENCE)
    age = schedule.next_age(KIND, asked, announced)
    waiting = schedule.waiting(KIND, asked, age, announced)
    assert asked < age <= asked + longest * (1 + 1e-9)
    if age - asked < longest * (1 - 1e-9):
        assert waiting == pytest.approx(freshness, rel=1e-6, abs=1e-6)
    else:
        assert waiting <= freshness * (1 + 1e-6)


@pytest.mark.parametrize("law", LAWS)
def test_the_mean_delay_is_the_freshness_times_the_calls(law: str) -> None:
    """Whatever the latencies are, once they are known, each call costs so much waiting as a call is worth.

    So a quarter of the freshness shows pictures about twice as soon, for about twice as many calls.
    """
    seen, latencies = drawn(law, 400), drawn(law, 5000, seed=8)
    figures = {freshness: played(told(seen, freshness=freshness), latencies) for freshness in (0.05, 0.2, 0.4)}
    for freshness, (calls, delay) in figures.items():
        assert delay == pytest.approx(freshness * calls, rel=0.25), freshness
    (calls, delay), (more_calls, less_delay) = figures[0.2], figures[0.05]
    assert 1.6 < more_calls / calls < 2.3
    assert 1.7 < delay / less_delay < 2.5


# Its setting


@pytest.mark.parametrize(
    "freshness", [0, -0.1, math.nan, math.inf, -math.inf, True, "0.1", None, [0.1], 1j, 86401, 10**400], ids=repr
)
def test_a_freshness_that_cannot_be_meant_is_refused(freshness: Any) -> None:
    """A freshness that is no number of seconds above 0 is a ConfigurationError that names it."""
    with pytest.raises(ConfigurationError, match="freshness="):
        PollSchedule(FIVE, freshness)


@pytest.mark.parametrize("freshness", [1, 0.001, 1000, 1e-12, 86400])
def test_any_number_of_seconds_will_do(freshness: float) -> None:
    """Every freshness from above 0 to a day gives a question not before the last and not after half a minute."""
    schedule = PollSchedule(FIVE, freshness)
    assert schedule.freshness == freshness
    assert all(asked <= schedule.next_age(KIND, asked) <= asked + LONGEST_INTERVAL for asked in (0.0, 3.0, 1e5))


# What it knows of which kind

READINGS: dict[str, Callable[[PollSchedule, Kind], float]] = {
    "the first question": lambda schedule, kind: schedule.next_age(kind, 0.0),
    "a later question": lambda schedule, kind: schedule.next_age(kind, 20.0),
    "the waiting": lambda schedule, kind: schedule.waiting(kind, 2.0, 9.0),
    "the median": lambda schedule, kind: schedule.quantile(kind, 0.5),
    "the median of those so old": lambda schedule, kind: schedule.quantile(kind, 0.5, 20.0),
    "the mean": lambda schedule, kind: schedule.mean({kind: 1}),
}


def said(schedule: PollSchedule, kind: Kind) -> dict[str, float]:
    """All that a schedule says of a kind."""
    return {name: read(schedule, kind) for name, read in READINGS.items()}


def test_a_kind_learns_from_its_own() -> None:
    """What is learned of a model and a number of images changes all that is said of it, and nothing of another."""
    schedule, before = told([30.0] * 100), said(PollSchedule(FIVE), KIND)
    schedule.lasted(KIND, 0.0, 300.0)
    after = said(schedule, KIND)
    assert all(after[name] != before[name] for name in READINGS)
    assert before["the first question"] < after["the first question"]
    assert before["the median"] < 10 < 25 < after["the median"]
    assert before["the mean"] < 10 < 25 < after["the mean"]
    assert before["the waiting"] > 1 > 0.5 > after["the waiting"]
    assert said(schedule, OTHER) == before
    assert schedule.kinds == {KIND: 1}


def test_a_task_that_still_runs_is_learned_of() -> None:
    """Tasks that were unfinished at 60 s let the waiting that is expected of others fall."""
    schedule = PollSchedule(FIVE)
    for _ in range(50):
        schedule.lasted(KIND, 0.0, 60.0)
    assert schedule.waiting(KIND, 2.0, 9.0) < 0.5 < 1 < PollSchedule(FIVE).waiting(KIND, 2.0, 9.0)
    assert not schedule.kinds, "none has ended"


def test_what_is_recalled_is_learned() -> None:
    """Latencies of earlier runs teach just what those of this run would have; none leave the record's word."""
    latencies = drawn("narrow", 200)
    recalled, seen, nothing = PollSchedule(FIVE), PollSchedule(FIVE), PollSchedule(FIVE)
    recalled.recall((kind, latency) for latency in latencies for kind in (KIND, OTHER))
    for latency in latencies:
        seen.ended(KIND, 0.0, latency + 1, latency)
    nothing.recall([])
    assert said(recalled, KIND) == said(recalled, OTHER) == said(seen, KIND)
    assert recalled.kinds == {KIND: 1, OTHER: 1}
    assert said(nothing, KIND) == said(PollSchedule(FIVE), KIND)
    assert nothing.kinds == {}


def test_what_is_known_is_not_recalled_over() -> None:
    """Earlier runs say nothing of a kind that this run knows something of, and all that they have of the others."""
    schedule, fresh = told([5.0] * 20), told([5.0] * 20)
    schedule.recall([(KIND, 60.0)] * 50 + [(OTHER, 0.25)] * 50)
    assert said(schedule, KIND) == said(fresh, KIND)
    assert schedule.mean({OTHER: 1}) < 0.5


@pytest.mark.parametrize("reading", READINGS)
def test_what_was_only_asked_for_is_not_known(reading: str) -> None:
    """Whoever asks what is said of a kind leaves it unknown: earlier runs still teach it, and before that none does."""
    schedule, fresh = PollSchedule(FIVE), PollSchedule(FIVE)
    READINGS[reading](schedule, KIND)
    assert schedule.kinds == {}
    for each in (schedule, fresh):
        each.recall([(KIND, 60.0)] * 50)
    assert said(schedule, KIND) == said(fresh, KIND)
    assert schedule.kinds == {KIND: 1}


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.966])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_of_an_unknown_kind_a_forecast_is_the_records(provider: str, part: float) -> None:
    """Before any task has ended, a quantile is that of the record, and not of the earlier curve that is asked by."""
    prior = PROVIDERS[provider].latency
    exact = math.exp(statistics.NormalDist(math.log(prior.median), prior.sigma).inv_cdf(part))
    assert exact <= PollSchedule(prior).quantile(KIND, part) <= 1.06 * exact


def test_the_mean_is_that_of_the_mixture() -> None:
    """The mean latency of several kinds is weighed by how many there are of each; without any, it is the record's."""
    schedule = PollSchedule(FIVE)
    schedule.recall([(KIND, 10.0)] * 200 + [(OTHER, 40.0)] * 200)
    one, other = schedule.mean({KIND: 1}), schedule.mean({OTHER: 1})
    assert (one, other) == (pytest.approx(10, rel=0.02), pytest.approx(40, rel=0.02))
    assert schedule.mean({KIND: 3, OTHER: 1}) == pytest.approx((3 * one + other) / 4)
    assert schedule.mean({}) == schedule.mean({("unheard of", 1): 5}) == pytest.approx(FIVE.mean)
