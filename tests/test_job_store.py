"""The port behind which jobs are kept: a file keeps its promises as a dict does, which says them shortest."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from dict_store import DictStore
from hypothesis import given, settings
from hypothesis import strategies as st
from inner import EDGES, LONGEST_WAY, Journal, JournalReader, SharedJournal
from journals import entry, keys, place, quick_folder

from imagen_async import ImageRequest, InvalidRequest, JournalError
from imagen_async.ports import BatchStore, Claim, JobStore, JournalEntry

__all__ = ["place"]

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


@settings(max_examples=40)
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


def told_by(store: BatchStore) -> dict[str, Any]:
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


Shared = Callable[[], JobStore]


@pytest.fixture(params=["a file", "a dict"])
def shared(request: pytest.FixtureRequest, place: Path) -> Iterator[Shared]:
    """Opens one more store of the same jobs, as another process would."""
    kept: dict[str, Any] = {}
    with ExitStack() as stack:

        def opened() -> JobStore:
            store: JobStore = DictStore(kept) if request.param == "a dict" else SharedJournal(place / "j.db")
            return stack.enter_context(closing(store))

        yield opened


def asked(number: int = 0, **fields: Any) -> JournalEntry:
    """A request as it comes to a claim."""
    return entry(number, **{"state": "queued", "attempts": 0, "sent_at": None, **fields})


def test_a_row_is_its_owners_for_as_long_as_that_lives(shared: Shared) -> None:
    """Whoever asks for the row of a living owner is told so; with that it is whoever's that asks next."""
    one, other = shared(), shared()
    assert one.claim(asked()) == Claim(asked(), is_ours=True)
    one.write([entry(state="submitting")])
    one.write([entry(state="running", task_id="t1", accepted_at=1001.0)])
    assert other.claim(asked()).is_others
    assert (one.owner("k0"), other.owner("k0")) == (other.owner("k0"), one.owner("k0")) != (None, None)
    assert (list(one.abandoned()), list(other.abandoned())) == ([], [])
    one.close()
    assert (other.owner("k0"), other.owner("k1"), keys(other.abandoned())) == ("", None, ["k0"])
    taken = other.claim(asked())
    assert (taken.is_ours, taken.entry.state, taken.entry.task_id) == (True, "running", "t1")
    third = shared()
    assert third.claim(asked()).is_others
    other.write([entry(state="unknown", ended_at=1002.0)])
    assert third.claim(asked(), again=("unknown",)).is_others, "who is at work on it may hear of it yet"
    other.write([entry(state="done", task_id="t1", urls=("u",), ended_at=1002.0)])
    ended = third.claim(asked())
    assert (ended.is_ours, ended.is_others, ended.entry.urls) == (False, False, ("u",))


def test_a_create_that_was_cut_off_is_held(shared: Shared) -> None:
    """What its dead owner was sending is unknown; only whoever wants that paid for again has it."""
    one, other, third = shared(), shared(), shared()
    one.claim(asked())
    one.write([entry(state="submitting")])
    one.close()
    # Whoever was told of it is not at work on it: nobody waits for that one.
    for store in (other, other, third):
        held = store.claim(asked())
        assert (held.is_ours or held.is_others, held.entry.state, held.entry.lost, held.entry.lost_creates) == (
            False,
            "unknown",
            1,
            (1,),
        )
    again = other.claim(asked(), again=("unknown",))
    assert (again.is_ours, again.entry.state) == (True, "unknown")
    waiting = third.claim(asked(), again=("unknown",))
    assert (waiting.is_others, waiting.entry.state, waiting.entry.lost) == (True, "queued", 1)


def test_what_a_callback_may_tell_of_is_its_whose_that_waits(shared: Shared) -> None:
    """A held one is taken as it is, by one that waits for its callback; with the task that was named by anybody."""
    one, other, third = shared(), shared(), shared()
    one.claim(asked())
    one.write([entry(state="submitting")])
    one.close()
    held = other.claim(asked(), held=True)
    assert (held.is_ours, held.entry.state, held.entry.lost_creates) == (True, "unknown", (1,))
    assert third.claim(asked(), held=True).is_others
    other.write([msgspec.structs.replace(held.entry, task_id="t1")])
    other.release(["k0"])
    assert keys(third.abandoned()) == ["k0"], "it is to be collected"
    named = third.claim(asked())
    assert (named.is_ours, named.entry.state, named.entry.task_id) == (True, "unknown", "t1")


def test_what_is_noted_once_stays(shared: Shared) -> None:
    """Of several that note something for the first time one is the first, and all have what that noted."""
    one, other = shared(), shared()
    assert [store.note_once("secret", value) for store, value in ((one, "a"), (other, "b"))] == ["a", "a"]


def test_what_is_another_ones_is_not_written(shared: Shared) -> None:
    """An intent for a row that another one has raises, and what is known of one that was is left out."""
    one, other = shared(), shared()
    one.claim(asked())
    one.write([entry(state="submitting")])
    with pytest.raises(ValueError, match="another"):
        other.write([entry(1, state="queued", attempts=0), entry(state="submitting", attempts=2)])
    other.write([entry(state="failed", attempts=1, ended_at=1002.0)])
    assert [other.find(key) and other.find(key).state for key in ("k0", "k1")] == ["submitting", None]  # type: ignore[union-attr]


def test_what_is_let_go_of_is_anybodys(shared: Shared) -> None:
    """A row whose task runs is the next one's; one that was never sent is gone, and its key free."""
    one, other = shared(), shared()
    for number in range(2):
        one.claim(asked(number))
    one.write([entry(state="submitting")])
    one.write([entry(state="running", task_id="t1")])
    other.release(["k0", "k1"])
    assert other.claim(asked()).is_others, "it was not its to let go of"
    one.release(["k0", "k1", "k2"])
    assert (other.owner("k0"), other.owner("k1"), keys(other.abandoned())) == ("", None, ["k0"])
    assert other.claim(asked()).entry.state == "running"
    assert other.claim(asked(1, request=ImageRequest("other"))).is_ours


def test_what_is_dropped_leaves_its_key(shared: Shared) -> None:
    """Only what is done or has failed is dropped, of single requests alone, and its key stands for nothing else."""
    store = shared()
    states = {"done": 1, "failed": 1, "unknown": 1, "running": 0}
    for number, (state, has_ended) in enumerate(states.items()):
        store.claim(asked(number))
        store.write([entry(number)])
        store.write([entry(number, state=state, task_id=f"t{number}", ended_at=2000.0 if has_ended else None)])
    assert store.drop(2000.0, 60.0) == 0
    assert store.drop(2000.1, 60.0) == 2
    assert [store.find(f"k{number}") is None for number in range(4)] == [True, True, False, False]
    assert sorted(over for _, over in store.sent_since("kie", 0.0) if over is not None) == [2000.0]
    with pytest.raises(InvalidRequest, match="dropped"):
        store.claim(asked())
    with pytest.raises(InvalidRequest, match="dropped"):
        store.claim(asked(), again=("failed", "unknown"))
    with pytest.raises(ValueError, match="another"):
        store.write([entry(state="submitting")])


@contextmanager
def batch_beside(store: JobStore, place: Path) -> Iterator[BatchStore]:
    """A batch's store over the same jobs."""
    if isinstance(store, DictStore):
        yield store
    else:
        with Journal(place / "j.db") as journal:
            yield journal


def test_a_batch_and_single_requests_keep_apart(shared: Shared, place: Path) -> None:
    """A batch beside single requests counts, takes over and changes none of theirs; nor do they any of its own."""
    one = shared()
    for number in range(2):
        one.claim(asked(number))
        one.write([entry(number)])
    with batch_beside(shared(), place) as batch:
        batch.begin_run()
        assert (batch.is_new, batch.counts(), list(batch.bills())) == (True, {}, [])
        assert (list(batch.unfinished()), list(batch.with_lost_creates())) == ([], [])
        assert (found := batch.find("k0")) is not None
        assert found.state == "submitting"
        if not isinstance(batch, DictStore):
            with pytest.raises(ValueError, match="single request"):
                batch.write([entry(7), entry(state="submitting", attempts=2)])
            batch.write([entry(state="failed", ended_at=2.0), entry(1, state="failed", attempts=0)])
            assert [one.find(key).state for key in ("k0", "k1")] == ["submitting"] * 2  # type: ignore[union-attr]
        batch.write([entry(5), entry(6)])
        batch.write([entry(5, state="done", task_id="t5", ended_at=2000.0)])
        assert batch.counts() == {"submitting": 1, "done": 1}
        assert (one.owner("k5"), one.owner("k0")) == (None, one.owner("k1"))
        assert one.claim(asked(5)).entry.task_id == "t5"
        for number, again in ((6, ()), (5, ("done",))):
            with pytest.raises(InvalidRequest, match="batch"):
                one.claim(asked(number), again=again)
        assert one.drop(3000.0, 60.0) == 0
        batch.end_run()


def test_the_last_commit_is_everybodys(place: Path) -> None:
    """Several that write one file in turn take none of each other's commits for a file that was put in its place."""
    with SharedJournal(place / "j.db") as one, SharedJournal(place / "j.db") as other, Journal(place / "j.db") as batch:
        one.claim(asked(request=ImageRequest("long " * 500)))
        for number in range(1, 1500):
            store: BatchStore = (one, other, batch)[number % 3]
            if store is not batch:
                store.claim(asked(number, request=ImageRequest("long " * 500)))  # type: ignore[attr-defined]
            store.write([entry(number)])
        with JournalReader(place / "j.db") as reader:
            assert sum(reader.counts().values()) == 1500
        assert sum(batch.counts().values()) == 500


def test_a_file_that_took_up_some_pages_is_no_other_one(place: Path) -> None:
    """Where somebody reads what was before, SQLite writes a part of the file: that is no other program's doing."""
    size = {"request": ImageRequest("long " * 200)}
    with SharedJournal(place / "j.db") as journal, closing(sqlite3.connect(place / "j.db")) as reader:
        for number in range(200):
            journal.claim(asked(number, **size))
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM jobs").fetchall()
        # No new pages, and the last ones anew.
        journal.write([entry(number, **size) for number in range(150, 200)])
        with closing(sqlite3.connect(place / "j.db")) as other:
            other.execute("PRAGMA wal_checkpoint(PASSIVE)")
        with closing(sqlite3.connect(f"file:{place / 'j.db'}?immutable=1", uri=True)) as alone:
            with pytest.raises(sqlite3.DatabaseError, match="malformed"):
                alone.execute("SELECT * FROM notes").fetchall()
        assert journal.claim(asked(500)).is_ours


MANY = """
import sys, threading, time
from imagen_async import ImageRequest
from imagen_async._journal import Journal
from imagen_async._journal.explained import Locked
from imagen_async._journal.shared import SharedJournal
from imagen_async.ports import JournalEntry

path, who, until = sys.argv[1], sys.argv[2], time.monotonic() + 3

def patiently(work, *arguments):
    while True:
        try:
            return work(*arguments)
        except Locked:
            time.sleep(0.01)

def job(key, state, **fields):
    return JournalEntry(key, 0, state, "kie", ImageRequest("long " * 500, model="imagen4"), **fields)

def single(name):
    number = 0
    while time.monotonic() < until:
        with SharedJournal(path) as journal:
            for _ in range(20):
                key, number = f"{who} {name} {number}", number + 1
                assert patiently(journal.claim, job(key, "queued")).is_ours
                patiently(journal.write, [job(key, "submitting", attempts=1, sent_at=1.0)])
                patiently(journal.write, [job(key, "done", attempts=1, task_id=key, ended_at=2.0)])
            patiently(journal.end_run)
    counts.append(number)

def batch():
    number = 0
    while time.monotonic() < until:
        with Journal(path) as journal:
            patiently(journal.begin_run)
            for _ in range(20):
                number += 1
                patiently(journal.write, [job(f"batch {number}", "submitting", attempts=1, sent_at=1.0)])
            patiently(journal.end_run)
        time.sleep(0.02)

counts = []
works = [lambda name=name: single(name) for name in range(2)] + [batch] * (who == "0")
threads = [threading.Thread(target=work) for work in works]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(sum(counts))
"""


def test_it_is_made_by_another_while_it_is_looked_for(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another process has made, and written, since somebody looked is not taken for what a lost file has left."""
    path, exists = str(place / "j.db"), os.path.exists
    with ExitStack() as stack:
        made: list[SharedJournal] = []

        def exists_then(looked_for: str) -> bool:
            is_there = exists(looked_for)
            if looked_for == path and not made:
                monkeypatch.undo()
                made.append(stack.enter_context(SharedJournal(path)))
                assert made[0].claim(asked(1)).is_ours
            return is_there

        monkeypatch.setattr(os.path, "exists", exists_then)
        second = stack.enter_context(SharedJournal(path))
        assert made
        assert second.claim(asked(1)).is_others


@pytest.mark.slow
def test_many_write_one_file(place: Path) -> None:
    """Three processes, each with several that open, write and close the file, and a batch: none is in another's way."""
    command = [sys.executable, "-c", MANY, str(place / "j.db")]
    started = [subprocess.Popen([*command, str(n)], stdout=subprocess.PIPE, stderr=subprocess.PIPE) for n in range(3)]
    said = [process.communicate() for process in started]
    assert [errors.decode() for _, errors in said] == [""] * 3
    with closing(sqlite3.connect(place / "j.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        (count,) = connection.execute("SELECT count(*) FROM jobs WHERE owner IS NOT NULL AND state = 'done'").fetchone()
    assert count == sum(int(out) for out, _ in said) > 100
