"""The agenda against a simple model, and its size."""

from __future__ import annotations

import math
import tracemalloc

from hypothesis import given, settings
from hypothesis import strategies as st

from imagen_async._core.timer_queue import TimerQueue

LATE = 1e300

NOTHING = 500_000
"""Bytes: what 100,000 times would leave is 10 MB, and what the other threads of a test run allocate is counted too."""

STEPS = st.lists(
    st.tuples(st.sampled_from(["set", "set", "set", "discard", "pop"]), st.integers(0, 9), st.integers(0, 20)),
    max_size=200,
)


@settings(deadline=None)
@given(steps=STEPS)
def test_an_agenda_does_what_a_list_of_appointments_does(steps: list[tuple[str, int, int]]) -> None:
    """At most one time for each job; the earliest first, and of equals the one that was set first."""
    timers = TimerQueue()
    model: dict[int, tuple[float, int]] = {}
    for turn, (step, job_id, number) in enumerate(steps):
        at = number / 2
        if step == "set":
            timers.set(job_id, at)
            model[job_id] = (at, turn)
        elif step == "discard":
            timers.discard(job_id)
            model.pop(job_id, None)
        else:
            first = min(model, key=model.__getitem__, default=None)
            due = first if first is not None and model[first][0] <= at else None
            assert timers.pop_due(at) == due
            if due is not None:
                del model[due]
        assert len(timers) == len(model)
        assert timers.next_at() == min((at for at, _ in model.values()), default=math.inf)


@settings(deadline=None)
@given(times=st.lists(st.floats(max_value=LATE, min_value=-LATE), max_size=200))
def test_everything_that_was_set_comes_out_in_order(times: list[float]) -> None:
    """All jobs come out, the earliest first, once each."""
    timers = TimerQueue()
    for job_id, at in enumerate(times):
        timers.set(job_id, at)
    out = []
    while (job_id := timers.pop_due(LATE)) is not None:
        out.append(job_id)
    assert out == sorted(range(len(times)), key=times.__getitem__)


def test_an_empty_agenda_has_nothing_due() -> None:
    """Without appointments the next time is infinity, and nothing is due however late it is."""
    timers = TimerQueue()
    assert not timers
    assert timers.next_at() == math.inf
    assert timers.pop_due(LATE) is None


def test_a_time_is_due_when_it_is_reached_and_not_before() -> None:
    """A job is due at its very time, and not the smallest instant before."""
    timers = TimerQueue()
    timers.set(7, 10.0)
    assert timers.pop_due(math.nextafter(10.0, 0.0)) is None
    assert timers.pop_due(10.0) == 7


def test_an_agenda_stays_small_when_times_are_replaced() -> None:
    """100,000 replaced times of three jobs leave an agenda of a few kilobytes with three jobs in order."""
    tracemalloc.start()
    try:
        timers = TimerQueue()
        before, _ = tracemalloc.get_traced_memory()
        for turn in range(100_000):
            timers.set(turn % 3, float(turn))
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < NOTHING
    assert after - before < NOTHING
    # The last three times were 99,997, 99,998 and 99,999.
    assert [timers.pop_due(LATE) for _ in range(4)] == [1, 2, 0, None]


def test_an_agenda_stays_small_when_jobs_come_and_go() -> None:
    """100,000 jobs that are set and discarded, a far-off one staying, leave no trace of themselves."""
    tracemalloc.start()
    try:
        timers = TimerQueue()
        timers.set(-1, -1.0)
        before, _ = tracemalloc.get_traced_memory()
        for job_id in range(100_000):
            timers.set(job_id, 5.0)
            timers.discard(job_id)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < NOTHING
    assert len(timers) == 1
    assert timers.pop_due(LATE) == -1
