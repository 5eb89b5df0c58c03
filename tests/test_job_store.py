"""The port behind which jobs are kept: its promises, kept by a file and by a dict, and a batch over the latter."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from crashing import quick_folder
from dict_store import DictStore
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import called_back
from test_batch import FAST, run
from test_client import client_of
from test_journal import SLOWLY, entry, leave_after

from imagen_async import ImageRequest, JournalError
from imagen_async._core.journal_entry import JournalEntry
from imagen_async._journal import Journal
from imagen_async._journal.resume import latencies_of
from imagen_async._journal.store import LONGEST_WAY, JobStore
from imagen_async.sandbox import Latency, Sandbox
from imagen_async.testing import running_sandbox

replace = msgspec.structs.replace

Open = Callable[[], JobStore]


@pytest.fixture(params=["file", "dict"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens one store of each kind, and the same again once that was closed."""
    kept: dict[str, Any] = {}
    return (lambda: Journal(tmp_path / "j.db")) if request.param == "file" else (lambda: DictStore(kept))


# What is written


SENT = entry(1)
RUNNING = replace(SENT, state="running", task_id="t", accepted_at=7.0, sent_at=None)
DONE = replace(RUNNING, state="done", urls=("https://x.example",), credits=8.0, accepted_at=None, ended_at=9.0)
AGAIN = replace(SENT, attempts=2, sent_at=50.0)
NEVER_SENT = entry(1, state="queued", attempts=0, sent_at=None)
WRITES: dict[str, tuple[list[list[JournalEntry]], JournalEntry]] = {
    "as it is": ([[SENT]], SENT),
    "never sent": ([[NEVER_SENT]], NEVER_SENT),
    "sent after all": ([[NEVER_SENT], [replace(SENT, price=9.0)]], replace(SENT, price=9.0)),
    "times stay": ([[SENT], [RUNNING], [DONE]], replace(DONE, sent_at=SENT.sent_at, accepted_at=7.0)),
    "not over a new create": ([[SENT], [DONE], [AGAIN]], AGAIN),
    "the first position": ([[SENT], [replace(AGAIN, position=50)]], AGAIN),
    "the request stays": (
        [[SENT], [replace(RUNNING, position=50, price=1.0, request=ImageRequest("else"))]],
        replace(RUNNING, sent_at=SENT.sent_at),
    ),
}


@pytest.mark.parametrize("name", WRITES)
def test_what_is_written_is_found(opened: Open, name: str) -> None:
    """Of each key the last entry is the truth, with what it leaves as it was, also when opened again."""
    groups, expected = WRITES[name]
    with closing(opened()) as store:
        for group in groups:
            store.write(group)
        assert store.find("k1") == expected
        assert store.find("k2") is None
    if expected.state != "submitting":
        with closing(opened()) as store:
            store.begin_run()
            assert store.find("k1") == expected


def test_what_is_no_entry_leaves_the_others_out(opened: Open) -> None:
    """Where one change of several cannot be kept, none of them is."""
    with closing(opened()) as store:
        store.write([entry(1)])
        with pytest.raises((JournalError, AttributeError)):
            store.write([replace(entry(1), state="running"), None])  # type: ignore[list-item]
        assert store.find("k1") == entry(1)


def test_jobs_are_told_apart(opened: Open) -> None:
    """Jobs are found by their task; a held one whose task is named is unfinished, a lost create is kept in mind."""
    states = ["queued", "done", "failed", "unknown", "running", "ready", "unknown"]
    tasks = [None, "t1", None, None, "t4", "t5", "t6"]
    with closing(opened()) as store:
        store.write(entry(number) for number in range(7))
        store.write(entry(n, state=state, task_id=tasks[n]) for n, state in enumerate(states))
        assert keys(store.unfinished()) == ["k4", "k5", "k6"]
        assert keys(store.with_lost_creates()) == []
        assert store.counts() == Counter(states)
        assert [store.find_task(task) for task in ("t4", "nothing")] == [store.find("k4"), None]
        store.write([entry(3, state="unknown", task_id="t3", lost=1, lost_creates=(1,))])
        store.write([entry(1, state="done", task_id="t1", lost=1, lost_creates=(2,))])
        assert keys(store.unfinished()) == ["k3", "k4", "k5", "k6"]
        assert keys(store.with_lost_creates()) == ["k1", "k3"]


def keys(entries: Iterable[JournalEntry]) -> list[str]:
    """Which they are, in a fixed order."""
    return sorted(each.key for each in entries)


def test_notes(opened: Open) -> None:
    """Notes are kept over openings; the last of a name is the truth."""
    with closing(opened()) as store:
        store.note({"a": "1", "b": "ü"})
        store.note({"a": "2"})
    with closing(opened()) as store:
        assert {"a": "2", "b": "ü"}.items() <= store.notes().items()


# What accounts have done


def with_latency(number: int, latency: float | None, **fields: Any) -> list[JournalEntry]:
    """A job as it was sent, and as it ended."""
    ended = {"state": "done", "latency": latency, "ended_at": 9000.0 - number}
    return [entry(number, **fields), entry(number, **ended, **fields)]


def test_latencies_come_in_the_order_of_sending(opened: Open) -> None:
    """The latest latencies are those of the jobs that were sent last, the oldest first, whichever ended first."""
    with closing(opened()) as store:
        pairs = [with_latency(number, float(number)) for number in range(8)]
        store.write(sent for sent, _ in pairs)
        for _, ended in reversed(pairs):
            store.write([ended])
        store.write([entry(2, state="done", latency=2.5)])
        told = [(request.prompt, latency) for request, latency in store.latencies("kie", 100)]
        assert told == [(f"prompt {number}", 2.5 if number == 2 else number) for number in range(8)]
        for count in (0, 1, 3, 8, 9):
            assert list(store.latencies("kie", count)) == list(store.latencies("kie", 100))[max(0, 8 - count) :]


def test_latencies_are_of_one_account_and_known(opened: Open) -> None:
    """Another account's latencies, and jobs of which none is known that can be, do not count, nor toward the limit."""
    with closing(opened()) as store:
        assert list(store.latencies("kie", 100)) == []
        pairs = [
            with_latency(1, 1.0),
            with_latency(2, 2.0, account="apiin"),
            with_latency(3, None),
            with_latency(4, 4.0, request=ImageRequest("four", model="imagen4-fast", num_images=4)),
            with_latency(5, -1.0),
            with_latency(6, 1.7e9),
        ]
        for pair in pairs:
            store.write(pair)
        assert [latency for _, latency in store.latencies("kie", 2)] == [1.0, 4.0]
        assert [latency for _, latency in store.latencies("apiin", 2)] == [2.0]
        assert latencies_of(store, "kie") == [(("imagen4", 1), 1.0), (("imagen4-fast", 4), 4.0)]


def test_which_creates_a_window_may_have_seen(opened: Open) -> None:
    """A create counts until its answer is older than the window, and for the longest way where none is known."""
    with closing(opened()) as store:
        store.write(entry(number, sent_at=1000.0) for number in (1, 2, 3))
        store.write([entry(1, state="running", task_id="t1", sent_at=None, accepted_at=1010.0)])
        store.write([entry(2, state="running", task_id="t2", sent_at=None, accepted_at=1030.0)])
        # Of its first create nobody knows any more when it was answered.
        store.write([entry(1, attempts=2, sent_at=1015.0)])
        store.write([entry(1, state="running", attempts=2, task_id="t1", sent_at=None, accepted_at=1025.0)])
        assert sent(store, 1005.0) == [(1000.0, None), (1000.0, None), (1000.0, 1030.0), (1015.0, 1025.0)]
        assert sent(store, 1026.0) == [(1000.0, None), (1000.0, None), (1000.0, 1030.0)]
        assert sent(store, 1000.0 + LONGEST_WAY) == []
        assert list(store.sent_since("apiin", 1005.0)) == []


def sent(store: JobStore, moment: float) -> list[tuple[float, float | None]]:
    """What kie.ai may have seen since, in a fixed order."""
    return sorted(store.sent_since("kie", moment), key=lambda times: (times[0], times[1] or 0.0))


# Runs


def test_a_run_counts_anew(opened: Open) -> None:
    """A run knows which keys it has met, not those of the run before it, and whether there was one."""
    with closing(opened()) as store:
        for number in range(2):
            store.begin_run()
            assert store.is_new == (number == 0)
            assert [store.times_seen(key) for key in "abab"] == [1, 1, 2, 2]
            store.write([entry(1, state="done")] if number else [entry(1)])
            store.end_run()
    with closing(opened()) as store:
        store.begin_run()
        assert not store.is_new


def test_one_run_at_a_time(opened: Open) -> None:
    """A second batch on the same store is refused by name, and does not end the first one's run."""
    with closing(opened()) as store:
        store.begin_run()
        assert store.times_seen("a") == 1
        with pytest.raises(JournalError, match="is in use") as told:
            store.begin_run()
        assert told.value.message.startswith(store.name)
        assert store.times_seen("a") == 2
        store.end_run()
        store.begin_run()


def test_what_was_on_the_way_is_unknown_to_the_next_run(opened: Open) -> None:
    """A create whose process has ended without a word is held, with what it may have cost."""
    with closing(opened()) as store:
        store.begin_run()
        store.write([entry(1, attempts=2)])
    with closing(opened()) as store:
        store.begin_run()
        held = store.find("k1")
        assert held is not None
        assert (held.state, held.lost, held.lost_creates, held.at_risk) == ("unknown", 1, (2,), 8.0)
        assert held.ended_at == held.sent_at == 1001.0
    store.close()


# Both tell the same


some_times = st.none() | st.sampled_from([10.0, 50.0, 100.0])
changes = st.builds(
    lambda number, **fields: entry(number, task_id=f"t{number}" if fields["state"] == "running" else None, **fields),
    st.integers(0, 2),
    state=st.sampled_from(["submitting", "running", "done", "failed", "unknown", "queued"]),
    account=st.sampled_from(["kie", "apiin"]),
    attempts=st.integers(0, 2),
    lost=st.integers(0, 1),
    credits=st.sampled_from([None, 0.0, 8.0]),
    price=st.sampled_from([None, 8.0]),
    latency=st.sampled_from([None, 2.0, 1e9]),
    sent_at=some_times,
    accepted_at=some_times,
    ended_at=some_times,
)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(changes, max_size=3, unique_by=lambda each: each.key), max_size=6))
def test_whatever_is_written_is_told_alike(groups: list[list[JournalEntry]]) -> None:
    """After any changes in any order, the file says what the dict says: of each job, of money, of times."""
    with quick_folder() as folder, Journal(folder / "j.db") as journal:
        stores: list[JobStore] = [journal, DictStore({})]
        for group in [[entry(number) for number in range(3)], *groups]:
            for store in stores:
                store.write(group)
            of_file, of_dict = map(told_by, stores)
            assert of_file == of_dict


def told_by(store: JobStore) -> list[Any]:
    """All that a store says, in a fixed order."""
    jobs = [store.find(f"k{number}") for number in range(3)]
    tasks = [store.find_task(f"t{number}") for number in range(3)]
    of_accounts = [store.latencies(name, 2) for name in ("kie", "apiin")]
    windows = [sent(store, moment) for moment in (0.0, 49.0, 100.0, 1000.0)]
    lists = [keys(store.unfinished()), keys(store.with_lost_creates())]
    return [jobs, tasks, of_accounts, windows, lists, store.counts(), Counter(dict(store.bills()))]


# A batch over a store of one's own


async def test_a_batch_goes_on_over_the_same_dict(tmp_path: Path) -> None:
    """Left in the middle, a batch goes on in another client, with another store over the same dict."""
    prompts = [f"p{number}" for number in range(40)]
    kept: dict[str, Any] = {}
    with running_sandbox(Sandbox(latency=Latency(median=0.05, minimum=0.01), limits=FAST)) as sandbox:
        async with client_of(sandbox, limits=SLOWLY) as client:
            await leave_after(client, 5, prompts, journal=DictStore(kept), save_to=tmp_path)
        assert 5 <= len(sandbox.ledger.tasks) < 40, "or it was not left in the middle"
        async with client_of(sandbox, limits=FAST) as client:
            results = await run(client, prompts, journal=DictStore(kept), save_to=tmp_path)
        assert sandbox.ledger.tasks_by_prompt() == dict.fromkeys(prompts, 1)
    assert sorted(result.request.prompt for result in results) == sorted(prompts)
    assert all(result.ok and Path(result.files[0]).exists() for result in results)
    assert 0 < sum(result.earlier for result in results) < 40
    assert len(list(tmp_path.iterdir())) == 40
    assert {each.state for each in kept["jobs"].values()} == {"done"}


class Watched(DictStore):
    """A store that notes who calls what may take its time."""

    def __init__(self) -> None:
        super().__init__({})
        self.threads: dict[str, set[int]] = {}

    def begin_run(self) -> None:
        """Begin, and note it."""
        self._watch("begin_run")
        super().begin_run()

    def end_run(self) -> None:
        """End, and note it."""
        self._watch("end_run")
        super().end_run()

    def notes(self) -> dict[str, str]:
        """Tell, and note it."""
        self._watch("notes")
        return super().notes()

    def note(self, notes: Mapping[str, str]) -> None:
        """Keep, and note it."""
        self._watch("note")
        super().note(notes)

    def write(self, entries: Iterable[JournalEntry]) -> None:
        """Keep, and note it."""
        self._watch("write")
        super().write(entries)

    def _watch(self, name: str) -> None:
        self.threads.setdefault(name, set()).add(threading.get_ident())


async def test_the_loop_waits_for_no_disk() -> None:
    """All that may take its time is called in one thread that is not the loop's, the callbacks' secret included."""
    store = Watched()
    async with Sandbox(latency=Latency(median=0.05)) as sandbox:
        async with called_back(sandbox) as client:
            (result,) = await run(client, ["a red fox"], journal=store)
    assert result.ok
    assert store.threads.keys() == {"begin_run", "notes", "note", "write", "end_run"}
    (thread,) = set.union(*store.threads.values())
    assert thread != threading.get_ident()
