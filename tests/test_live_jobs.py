"""Every live job, and who it belongs to: the same as looking at all of them."""

from __future__ import annotations

import inner
from builders import make_job
from hypothesis import given
from hypothesis import strategies as st

from imagen_async._core.live_jobs import LiveJobs

STATES = (None, inner.Running("t1", since=0.0), inner.Running("t2", since=0.0), None)
STEPS = st.lists(st.tuples(st.integers(1, 5), st.integers(0, 3), st.sampled_from(["kie", "b"]), st.booleans()))


@given(steps=STEPS, asks_from=st.integers(0, 20))
def test_it_finds_what_a_look_at_all_would(steps: list[tuple[int, int, str, bool]], asks_from: int) -> None:
    """An owner's jobs, in order, and whether another one has a task, from whichever moment on that is asked."""
    jobs, plain = LiveJobs(), dict[int, inner.Job]()
    for step, (number, state, account, is_over) in enumerate(steps):
        job = make_job(number, STATES[state], account=account, owner=number % 2)
        if is_over and number in plain:
            jobs.drop(plain.pop(number))
        else:
            assert jobs.keep(job) is plain.get(number)
            plain[number] = job
        assert dict(jobs) == plain
        for owner in (0, 1):
            own = [each for each in plain.values() if each.owner == owner]
            assert (jobs.of(owner), jobs.has_any(owner)) == (own, bool(own))
        for each in plain.values() if step >= asks_from else ():
            for task in ("t1", "t2"):
                others = [other for other in plain.values() if other.id != each.id and other.account == each.account]
                assert jobs.has_another(task, each) == any(other.task_id == task for other in others)
