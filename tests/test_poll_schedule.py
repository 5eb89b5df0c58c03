"""The rule: a running task is asked about when a finished picture would have waited for `freshness` seconds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from inner import FRESHNESS, Kind, PollSchedule
from polling import FIVE, KIND

from imagen_async.errors import ConfigurationError
from imagen_async.providers import PROVIDERS

OTHER: Kind = ("imagen4", 4)


def told(latencies: Iterable[float]) -> PollSchedule:
    """A schedule that was told how long tasks took, and is looked at after each."""
    schedule = PollSchedule(FIVE)
    for latency in latencies:
        schedule.ended(KIND, 0.0, latency + 1, latency)
        schedule.next_age(KIND, 0.0)
    return schedule


@pytest.mark.parametrize(("freshness", "asked"), [(0.01, 0.0), (FRESHNESS, 0.0), (FRESHNESS, 6.0), (0.5, 3.0)])
def test_the_next_question_comes_when_the_waiting_is_worth_it(freshness: float, asked: float) -> None:
    """The waiting expected at the next question is the freshness, here where half of the ends are announced."""
    schedule = PollSchedule(FIVE, freshness)
    age = schedule.next_age(KIND, asked, announced=0.5)
    assert schedule.waiting(KIND, asked, age, announced=0.5) == pytest.approx(freshness)


@settings(max_examples=100)
@given(asked=st.floats(0, 15), freshness=st.sampled_from([FRESHNESS, 1.0]), part=st.sampled_from([0.1, 1.0]))
@example(asked=0.0, freshness=FRESHNESS, part=0.1)
@example(asked=-1e-9, freshness=FRESHNESS, part=1.0)
def test_whenever_a_task_was_asked_about_the_next_question_is_worth_as_much(
    asked: float, freshness: float, part: float
) -> None:
    """What is reckoned out for a few ages holds for those between, to a quarter of what a call is worth."""
    schedule = PollSchedule(FIVE, freshness)
    age = schedule.next_age(KIND, asked, part=part)
    assert asked < age <= asked + 30 + 1e-6
    if age < asked + 29.9:
        assert schedule.waiting(KIND, asked, age) == pytest.approx(part * freshness, rel=0.25)


@pytest.mark.parametrize(("announced", "longest"), [(0.0, 30), (0.5, 60), (0.8, 150), (0.95, 300), (0.99, 300)])
def test_a_question_comes_after_the_longest_interval_at_the_latest(announced: float, longest: float) -> None:
    """That is half a minute, and longer by as much as fewer ends go unannounced, up to five minutes."""
    assert PollSchedule(FIVE, 1000).next_age(KIND, 3.0, announced) == pytest.approx(3 + longest)


@pytest.mark.parametrize(
    "freshness", [0, -0.1, math.nan, math.inf, -math.inf, True, "0.1", None, [0.1], 1j, 86401, 10**400], ids=repr
)
def test_a_freshness_that_cannot_be_meant_is_refused(freshness: Any) -> None:
    """A freshness that is no number of seconds above 0 is a ConfigurationError that names it."""
    with pytest.raises(ConfigurationError, match="freshness="):
        PollSchedule(FIVE, freshness)


def test_any_number_of_seconds_up_to_a_day_will_do() -> None:
    """Every freshness from above 0 to a day is taken as it is."""
    for freshness in (1, 1e-12, 86400):
        assert PollSchedule(FIVE, freshness).freshness == freshness


def said(schedule: PollSchedule, kind: Kind) -> dict[str, float]:
    """All that a schedule says of a kind."""
    return {
        "the first question": schedule.next_age(kind, 0.0),
        "a later question": schedule.next_age(kind, 20.0),
        "the waiting": schedule.waiting(kind, 2.0, 9.0),
        "the median": schedule.quantile(kind, 0.5),
        "the median of those so old": schedule.quantile(kind, 0.5, 20.0),
        "the mean": schedule.mean({kind: 1}),
    }


def test_a_kind_learns_from_its_own() -> None:
    """What is learned of a model and a number of images changes all that is said of it, and nothing of another."""
    schedule, before = told([30.0] * 100), said(PollSchedule(FIVE), KIND)
    after = said(schedule, KIND)
    assert not before.items() & after.items()
    assert before["the first question"] < after["the first question"]
    assert before["the median"] < 10 < 25 < after["the median"]
    assert before["the mean"] < 10 < 25 < after["the mean"]
    assert before["the waiting"] > 1 > 0.5 > after["the waiting"]
    assert said(schedule, OTHER) == before
    assert schedule.kinds == {KIND: 1}


def test_what_has_moved_is_said_once() -> None:
    """The first time in any case, then where an eighth of the tasks end at other ages than was said; of each kind."""
    schedule = told([5.0] * 200)
    assert [schedule.has_moved(KIND) for _ in range(2)] == [True, False]
    for _ in range(80):
        schedule.ended(KIND, 0.0, 6.0, 5.0)
        assert not schedule.has_moved(KIND)
    for _ in range(100):
        schedule.ended(KIND, 0.0, 31.0, 30.0)
    assert [schedule.has_moved(KIND) for _ in range(2)] == [True, False]
    assert schedule.has_moved(OTHER)
    # A little at a time comes to as much in the end.
    said = 0
    for _ in range(200):
        schedule.ended(KIND, 0.0, 6.0, 5.0)
        said += schedule.has_moved(KIND)
    assert 1 <= said <= 4


def test_a_task_that_still_runs_is_learned_of() -> None:
    """Tasks that were unfinished at 60 s let the waiting that is expected of others fall."""
    schedule = PollSchedule(FIVE)
    for _ in range(50):
        schedule.lasted(KIND, 0.0, 60.0)
    assert schedule.waiting(KIND, 2.0, 9.0) < 0.5 < 1 < PollSchedule(FIVE).waiting(KIND, 2.0, 9.0)
    assert not schedule.kinds, "none has ended"


def test_what_is_recalled_is_learned() -> None:
    """Latencies of earlier runs teach just what those of this run would have; none leave the record's word."""
    latencies = [4.0 + number % 7 for number in range(200)]
    recalled, seen, nothing = PollSchedule(FIVE), PollSchedule(FIVE), PollSchedule(FIVE)
    recalled.recall((kind, latency) for latency in latencies for kind in (KIND, OTHER))
    nothing.recall([])
    for latency in latencies:
        seen.ended(KIND, 0.0, latency + 1, latency)
    assert said(recalled, KIND) == said(recalled, OTHER) == said(seen, KIND)
    assert said(nothing, KIND) == said(PollSchedule(FIVE), KIND)
    assert (recalled.kinds, nothing.kinds) == ({KIND: 1, OTHER: 1}, {})


def test_what_is_known_is_not_recalled_over() -> None:
    """Earlier runs say nothing of a kind that this run knows something of, and all that they have of the others."""
    schedule, fresh = told([5.0] * 20), told([5.0] * 20)
    schedule.recall([(KIND, 60.0)] * 50 + [(OTHER, 0.25)] * 50)
    assert said(schedule, KIND) == said(fresh, KIND)
    assert schedule.mean({OTHER: 1}) < 0.5


def test_what_was_only_asked_for_is_not_known() -> None:
    """Whoever asks what is said of a kind leaves it unknown: earlier runs still teach it, and before that none does."""
    schedule, fresh = PollSchedule(FIVE), PollSchedule(FIVE)
    said(schedule, KIND)
    assert schedule.kinds == {}
    for each in (schedule, fresh):
        each.recall([(KIND, 60.0)] * 50)
    assert (said(schedule, KIND), schedule.kinds) == (said(fresh, KIND), {KIND: 1})


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
