"""What the poll schedule is to reach: the benchmark's own figures, in virtual time, the same on every run."""

from __future__ import annotations

from statistics import fmean
from typing import Any

import pytest
from inner import PollSchedule

from benchmarks import burst, callbacks, schedule, tail
from benchmarks.shapes import SHAPES, Lognormal, draws
from benchmarks.simulation import Simulation
from imagen_async.providers import PROVIDERS, SANDBOX, Provider


def ratios(rows: list[dict[str, Any]]) -> dict[str, float]:
    """How ours compares with each other schedule."""
    return {row["schedule"]: row["ours / this"] for row in rows}


@pytest.mark.parametrize("shape", ["narrow", "two humps", "wide"])
def test_the_mean_delay_is_the_freshness_times_the_calls(shape: str) -> None:
    """So a quarter of the freshness shows pictures about twice as soon, for about twice as many calls."""
    figures = {}
    for freshness in (0.2, 0.05):
        outcome = Simulation(PollSchedule(schedule.PRIOR, freshness), draws(SHAPES[shape], 600), schedule.OPEN).run()
        calls, delay = figures[freshness] = fmean(outcome.calls[200:]), fmean(outcome.delays[200:])
        assert delay == pytest.approx(freshness * calls, rel=0.25), freshness
    (calls, delay), (more_calls, less_delay) = figures.values()
    assert (more_calls / calls, delay / less_delay) == pytest.approx((2, 2), rel=0.2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "tasks", "calls", "delay"),
    [("two humps", 2200, 0.6, 0.4), ("wide", 1000, 1.05, 0.45), ("drifting", 2200, 0.6, 0.4)],
)
def test_once_it_has_learnt_it_needs_few_calls(shape: str, tasks: int, calls: float, delay: float) -> None:
    """After 200 tasks it needs fewer calls than a fixed interval as soon, and comes near the optimum that knows all.

    Against exponential backoff with as many calls, its delay is 0.4 times as long at most. Where the latencies are
    wide, the optimum itself does not get there. Each law that a drifting one goes through needs enough tasks, too.
    """
    ours = ratios(schedule.warm(shape, tasks))
    assert ours["fixed, as soon as ours"] <= calls
    assert ours["1 s × 1.5 up to 10 s"] <= delay
    assert max(ours["optimum, law known"], ours["optimum, as many calls as that"]) <= 1.10


@pytest.mark.parametrize("shape", SHAPES)
def test_a_cold_start_costs_little(shape: str) -> None:
    """Over its first 50 tasks, with a record that is far off, it needs 1.1 times a fixed interval's calls at most."""
    assert ratios(schedule.cold(shape, seeds=8))["fixed, as soon as ours"] <= 1.1


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "delay"), [("narrow", 0.7), ("two humps", 0.7), ("wide", 0.95)])
def test_scarce_calls_go_where_they_count(shape: str, delay: float) -> None:
    """With too few status calls for all, pictures wait 0.7 times as long as with first come, first asked.

    Where the latencies are wide, nobody could do much better: the optimum without a limit is no further away.
    """
    ours = ratios(schedule.scarce(shape, 2200))
    assert ours["first come, first asked"] <= delay
    assert ours["optimum without a limit"] <= 1.10


@pytest.mark.parametrize("shape", ["two humps", "drifting"])
def test_a_batch_takes_hardly_longer_than_the_limits_make_it(shape: str) -> None:
    """1,000 tasks under 20 creates per 10 s end within 1.03 times the shortest time that there is."""
    (ratio,) = ratios(schedule.makespan(shape)).values()
    assert 1.0 <= ratio <= 1.03


@pytest.mark.parametrize(
    ("law", "provider", "calls"), [(callbacks.SHORT, SANDBOX, 1.2), (callbacks.LONG, PROVIDERS["kie"], 2.5)]
)
def test_callbacks_save_calls_and_their_loss_costs_nothing(law: Lognormal, provider: Provider, calls: float) -> None:
    """With callbacks 500 tasks are seen within 50 ms on average, for few calls; with all of them lost, as by polling.

    Where they cease in the middle, or half of them never come, pictures are seen no later than by polling alone.
    """
    rows = {way: callbacks.simulated(way, law, provider.limits, 500) for way in callbacks.WAYS}
    delays = {way: row["mean delay, ms"] for way, row in rows.items()}
    assert rows["all arrive"]["status calls per task"] <= calls
    assert delays["all arrive"] <= 50
    assert {**rows["all are lost"], "callbacks": ""} == {**rows["off"], "callbacks": ""}
    assert max(delays["half are lost"], delays["lost from the middle on"]) <= delays["off"]


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_what_the_first_of_a_burst_tell_is_used_for_the_others(shape: str) -> None:
    """Of 500 tasks at once, cold, calls × delay is below that of any fixed interval, and the last are seen soon."""
    found = burst.burst(shape, known=0, seeds=8)
    assert found.ratio <= burst.MOST.get(shape, 1.08)
    assert found.wall <= tail.LONGEST


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_the_last_of_a_batch_are_seen_soon(shape: str) -> None:
    """Where the law is known, 500 tasks at once are all seen by 1.03 times the last end."""
    assert burst.burst(shape, known=300, seeds=8).wall <= tail.LONGEST


@pytest.mark.parametrize("size", tail.AT_A_TIME)
def test_an_idle_limit_is_spent_on_who_is_there(size: int) -> None:
    """A single request under kie.ai's limits is seen within 0.15 s in the mean, of five at a time each within 0.4 s."""
    outcome = tail.groups(size, 100 // size)
    assert fmean(outcome.delays) <= tail.AT_A_TIME[size]
    assert outcome.busiest <= (tail.LIMITS.status.count if size > 1 else tail.LIMITS.status.count // 2)
