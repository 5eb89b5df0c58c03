"""What the poll schedule is to reach: the benchmark's own figures, in virtual time, the same on every run."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import callbacks, schedule
from benchmarks.callbacks import LONG, SHORT
from benchmarks.shapes import SHAPES, Lognormal
from imagen_async import Limits
from imagen_async.providers import PROVIDERS, SANDBOX

KIE = PROVIDERS["kie"]


def ratios(rows: list[dict[str, Any]]) -> dict[str, float]:
    """How ours compares with each other schedule."""
    return {row["schedule"]: row["ours / this"] for row in rows}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "calls", "delay"),
    [("narrow", 0.6, 0.4), ("two humps", 0.6, 0.4), ("wide", 1.05, 0.45), ("drifting", 0.6, 0.4)],
)
def test_once_it_has_learnt_it_needs_few_calls(shape: str, calls: float, delay: float) -> None:
    """After 200 tasks it needs fewer calls than a fixed interval as soon, and comes near the optimum that knows all.

    Against exponential backoff with as many calls, its delay is 0.4 times as long at most. Where the latencies are
    wide, the optimum itself does not get there.
    """
    # Each law that a drifting one goes through needs enough tasks to be learnt.
    ours = ratios(schedule.warm(shape, 1600 if shape == "drifting" else 1000))
    assert ours["fixed, as soon as ours"] <= calls
    assert ours["1 s × 1.5 up to 10 s"] <= delay
    assert ours["optimum, law known"] <= 1.10
    assert ours["optimum, as many calls as that"] <= 1.10


@pytest.mark.parametrize("shape", SHAPES)
def test_a_cold_start_costs_little(shape: str) -> None:
    """Over its first 50 tasks, with a record that is far off, it needs 1.1 times a fixed interval's calls at most."""
    assert ratios(schedule.cold(shape, seeds=24))["fixed, as soon as ours"] <= 1.1


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "delay"), [("narrow", 0.7), ("two humps", 0.7), ("wide", 0.95), ("drifting", 0.7)])
def test_scarce_calls_go_where_they_count(shape: str, delay: float) -> None:
    """With too few status calls for all, pictures wait 0.7 times as long as with first come, first asked.

    Where the latencies are wide, nobody could do much better: the optimum without a limit is no further away.
    """
    ours = ratios(schedule.scarce(shape, 1000))
    assert ours["first come, first asked"] <= delay
    assert ours["optimum without a limit"] <= 1.10


@pytest.mark.parametrize("shape", SHAPES)
def test_a_batch_takes_hardly_longer_than_the_limits_make_it(shape: str) -> None:
    """1,000 tasks under 20 creates per 10 s end within 1.03 times the shortest time that there is."""
    (ratio,) = ratios(schedule.makespan(shape)).values()
    assert 1.0 <= ratio <= 1.03


@pytest.mark.parametrize(("law", "limits", "calls"), [(SHORT, SANDBOX.limits, 1.2), (LONG, KIE.limits, 2.5)])
def test_callbacks_save_calls_and_their_loss_costs_nothing(law: Lognormal, limits: Limits, calls: float) -> None:
    """With callbacks 500 tasks are seen within 50 ms on average, for few calls; with all of them lost, as by polling.

    Where they cease in the middle, or half of them never come, pictures are seen no later than by polling alone.
    """
    rows = {way: callbacks.simulated(way, law, limits, 500) for way in callbacks.WAYS}
    delays = {way: row["mean delay, ms"] for way, row in rows.items()}
    assert rows["all arrive"]["status calls per task"] <= calls
    assert delays["all arrive"] <= 50
    assert {**rows["all are lost"], "callbacks": ""} == {**rows["off"], "callbacks": ""}
    assert max(delays["half are lost"], delays["lost from the middle on"]) <= delays["off"]
