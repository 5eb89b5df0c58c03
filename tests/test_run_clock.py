"""How long ago an earlier run noted something, whatever the clocks of the machines say: never more than it was."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from imagen_async._core.run_clock import RunClock, ages, run_clock

jumps = st.sampled_from([0.0, 0.0, -3600.0, -3.0, 3.0, 3600.0, 1e8])
seconds = st.sampled_from([0.0, 0.5, 3.0, 20.0, 5000.0])
runs = st.lists(st.tuples(jumps, st.booleans(), st.booleans(), st.lists(seconds, max_size=3)), min_size=2, max_size=6)


@given(runs)
def test_no_clock_makes_a_create_older_than_it_is(history: list[tuple[float, bool, bool, list[float]]]) -> None:
    """However often clocks are set and machines are started anew, before a run or instead of its end."""
    true, wall, booted, boot = 1000.0, 0.0, 500.0, 0
    last: RunClock | None = None
    noted: list[tuple[float, float]] = []
    for jump, is_new_boot, is_killed, waits in history:
        wall += jump
        if is_new_boot:
            boot, booted = boot + 1, true
        run = run_clock(last, true + wall, true - booted, str(boot))
        if last is not None:
            present = last.earliest(true - booted, str(boot))
            told = ages(last, [at for at, _ in noted], present)
            assert all(0 <= age <= true - when + 1e-6 for age, (_, when) in zip(told, noted, strict=True))
        for wait in waits:
            true += wait
            noted.append((run.time(true - booted), true))
        last = run if is_killed else replace(run, left=run.time(true - booted))


CLOCKS: dict[str, Any] = {
    "goes on": (("b", 120.9), (120.0, 60.0)),
    "was set": (("b", 121.1), (121.1, 121.1)),
    "counts from another start": (("c", 120.0), (120.0, 120.0)),
    "has no name": ((None, 120.0), (120.0, 120.0)),
}


@pytest.mark.parametrize(("machine", "expected"), CLOCKS.values(), ids=list(CLOCKS))
def test_the_clock_of_a_run_is_that_of_the_one_before(machine: Any, expected: tuple[float, float]) -> None:
    """As long as it can be: so a short run makes nothing young that was noted long before it."""
    boot, wall = machine
    clock = run_clock(RunClock(100.0, 50.0, 60.0, boot and "b", left=110.0), wall, 70.0, boot)
    assert (clock.began, clock.since, clock.at, clock.boot, clock.left) == (*expected, 70.0, boot, None)


AGES: dict[str, Any] = {
    "the machine has run on": (RunClock(100.0, 50.0, 100.0, "b"), (70.0, "b"), [20.0, 15.0, 0.0]),
    "its clock is that of runs before": (RunClock(100.0, 50.0, 90.0, "b"), (70.0, "b"), [30.0, 15.0, 0.0]),
    "it was started anew": (RunClock(100.0, 50.0, 100.0, "b"), (9000.0, "c"), [0.0, 0.0, 0.0]),
    "it was, after a good end": (RunClock(100.0, 50.0, 100.0, "b", left=112.0), (3.0, "c"), [12.0, 7.0, 0.0]),
    "it has no such clock": (RunClock(100.0, 50.0, 100.0, None, left=112.0), (9000.0, None), [12.0, 7.0, 0.0]),
    "its clock went back": (RunClock(100.0, 50.0, 100.0, "b"), (40.0, "b"), [0.0, 0.0, 0.0]),
    "nothing is known": (None, (9000.0, "b"), [0.0, 0.0, 0.0]),
}


@pytest.mark.parametrize(("last", "machine", "expected"), AGES.values(), ids=list(AGES))
def test_how_long_ago_it_was_at_least(last: RunClock | None, machine: Any, expected: list[float]) -> None:
    """By the machine's own clock where that has run on, else by what the last run has seen go by."""
    present = 0.0 if last is None else last.earliest(*machine)
    assert ages(last, [-500.0, 105.0, 900.0], present) == expected
