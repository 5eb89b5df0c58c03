"""The agenda: at most one time for each job, the earliest first, and small however many come and go."""

from __future__ import annotations

import math
import random
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagen_async._core.timer_queue import TimerQueue

STEP = st.tuples(st.sampled_from([*["set"] * 8, "discard", "pop"]), st.integers(0, 9), st.integers(0, 20))


@settings(max_examples=25)
@given(steps=st.lists(STEP, min_size=150, max_size=300))
def test_an_agenda_does_what_a_list_of_appointments_does(steps: list[tuple[str, int, int]]) -> None:
    """At most one time for each job; the earliest first, from its very instant on, and of equals the one set first."""
    timers, model = TimerQueue(), dict[int, tuple[float, int]]()
    for turn, (step, job_id, at) in enumerate(steps):
        if step == "set":
            timers.set(job_id, at)
            model[job_id] = (at, turn)
        elif step == "discard":
            timers.discard(job_id)
            model.pop(job_id, None)
        else:
            first = min(model, key=model.__getitem__, default=None)
            next_at = math.inf if first is None else model[first][0]
            due = first if next_at <= at else None
            assert (timers.next_at(), timers.pop_due(at)) == (next_at, due)
            model.pop(due, None)
        assert len(timers) == len(model)
    assert [timers.pop_due(1e9) for _ in model] == sorted(model, key=model.__getitem__)
    assert (timers.pop_due(math.inf), timers.next_at()) == (None, math.inf)


def test_fifty_thousand_appointments_are_nothing_special() -> None:
    """All come out in order, and to set one takes no look at the others: else this would take minutes."""
    timers, times = TimerQueue(), list(range(50_000))
    random.Random(1).shuffle(times)
    for job_id in times:
        timers.set(job_id, float(job_id))
    assert [timers.pop_due(1e9) for _ in times] == sorted(times)


@pytest.mark.parametrize("are_discarded", [False, True], ids=["times are replaced", "jobs come and go"])
def test_an_agenda_stays_small(*, are_discarded: bool) -> None:
    """20,000 times that are replaced or discarded leave no trace of themselves."""
    timers = TimerQueue()
    tracemalloc.start()
    try:
        for turn in range(20_000):
            timers.set(turn if are_discarded else turn % 50, -turn)
            if are_discarded:
                timers.discard(turn)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # They would take 2 MB, and what the other threads of a test run allocate is counted too.
    assert peak < 400_000
