"""The port behind which jobs are kept: a file keeps its promises as a dict does, which says them shortest."""

from __future__ import annotations

import time
from contextlib import closing
from typing import Any

import pytest
from dict_store import DictStore
from hypothesis import given, settings
from hypothesis import strategies as st
from inner import EDGES, LONGEST_WAY, Journal
from journals import entry, keys, quick_folder

from imagen_async import ImageRequest, JournalError
from imagen_async.ports import JobStore, JournalEntry

NOW = float(round(time.time()))
some_times = st.none() | st.sampled_from([NOW + 10, NOW + 50, NOW + 100])


def change(number: int, has_task: bool, **fields: Any) -> JournalEntry:
    """What may become of a job: a create on the way was sent once at least, and somebody knows when."""
    if fields["state"] == "submitting":
        fields |= {"attempts": fields["attempts"] or 1, "sent_at": fields["sent_at"] or NOW}
    return entry(number, task_id=f"t{number}" if has_task else None, **fields)


changes = st.builds(
    change,
    st.integers(0, 2),
    st.booleans(),
    state=st.sampled_from(["submitting", "running", "ready", "done", "failed", "unknown", "queued"]),
    account=st.sampled_from(["kie", "apiin"]),
    request=st.sampled_from([ImageRequest("a", model="imagen4"), ImageRequest("b", num_images=4)]),
    position=st.integers(0, 3),
    attempts=st.integers(0, 2),
    lost=st.integers(0, 1),
    credits=st.sampled_from([None, 0.0, 8.0]),
    price=st.sampled_from([None, 8.0]),
    latency=st.sampled_from([None, 0.0, 2.0, -1.0, EDGES[-1], EDGES[-1] + 1]),
    sent_at=some_times,
    accepted_at=some_times,
    ended_at=some_times,
)
groups = st.lists(changes, max_size=3, unique_by=lambda each: each.key)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(groups, max_size=4), min_size=1, max_size=3))
def test_a_file_keeps_and_tells_what_a_dict_does(runs: list[list[list[JournalEntry]]]) -> None:
    """After any changes, in any number of runs, both say the same: of each job, of money, of times, of the run."""
    kept: dict[str, Any] = {}
    runs = [[[entry(number, sent_at=NOW) for number in range(3)], *runs[0]], *runs[1:]]
    with quick_folder() as folder:
        for groups in runs:
            with Journal(folder / "j.db") as file, closing(DictStore(kept)) as model:
                for store in (file, model):
                    store.begin_run()
                    with pytest.raises(JournalError, match=f"^{store.name} is in use"):
                        store.begin_run()
                assert told_by(file) == told_by(model)
                for number, group in enumerate(groups):
                    for store in (file, model):
                        store.write(group)
                        store.note({"groups": str(number), f"ü{number}": ""})
                        with pytest.raises((JournalError, AttributeError)):
                            store.write([entry(3), None])  # type: ignore[list-item]
                    assert told_by(file) == told_by(model)


def told_by(store: JobStore) -> dict[str, Any]:
    """All that a store says, in a fixed order."""
    bills = list(store.bills())
    assert len(bills) == len(dict(bills)), "what says the same of money is told once"
    moments = (0.0, NOW + 49, NOW + 50, NOW + 50 + LONGEST_WAY, NOW + 999)
    return {
        "is new": store.is_new,
        "seen": [store.times_seen(key) for key in "abab"],
        "jobs": [store.find(f"k{number}") for number in range(4)],
        "tasks": [store.find_task(f"t{number}") for number in range(4)],
        "latencies": [list(store.latencies(name, count)) for name in ("kie", "apiin") for count in (0, 1, 2, 9)],
        "windows": [sorted(store.sent_since("kie", moment), key=repr) for moment in moments],
        "unfinished": keys(store.unfinished()),
        "lost": keys(store.with_lost_creates()),
        "counts": store.counts(),
        "notes": {name: value for name, value in store.notes().items() if name != "process"},
        "bills": dict(bills),
    }
