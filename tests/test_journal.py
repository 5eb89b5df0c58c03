"""The journal: its file, its writer, its readers, and batches that go on where an earlier one stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
import pytest
from crashing import World, quick_folder
from hypothesis import given, settings
from hypothesis import strategies as st
from test_batch import FAST, run
from test_client import client_of
from virtual_network import Network

from imagen_async import (
    AuthenticationError,
    Client,
    ConfigurationError,
    DeadlineExceeded,
    GenerationFailed,
    ImageFile,
    ImageRequest,
    InvalidRequest,
    JournalError,
    Limits,
    Rate,
    Result,
    UnknownOutcome,
)
from imagen_async._core.journal_entry import EntryError, JournalEntry, bill_of
from imagen_async._core.latency import MEMORY
from imagen_async._core.routing import Router
from imagen_async._core.values import stable_key
from imagen_async._job_factory import JobFactory, JobOptions
from imagen_async._journal import Journal, JournalReader
from imagen_async._journal.batch_journal import BatchJournal
from imagen_async._journal.resume import TakenUp, latencies_of
from imagen_async._journal.schema import APPLICATION_ID, SCHEMA_VERSION
from imagen_async._journal.writer import JournalWriter
from imagen_async.providers import PROVIDERS
from imagen_async.sandbox import Latency, Sandbox
from imagen_async.testing import running_sandbox

replace = msgspec.structs.replace
SLOWLY = Limits(Rate(10, per=0.5), Rate(500, per=0.5), running=300)


def entry(number: int = 0, **fields: Any) -> JournalEntry:
    """One job's row; by default a create on the way."""
    values = {"state": "submitting", "account": "kie", "attempts": 1, "sent_at": 1000.0 + number, "price": 8.0}
    request = ImageRequest(f"prompt {number}", model="imagen4", aspect_ratio="1:1")
    return JournalEntry(**{"key": f"k{number}", "position": number, "request": request, **values, **fields})


def rows_of(path: Path) -> dict[str, dict[str, Any]]:
    """The jobs by prompt, as any program sees them."""
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        rows = [dict(row) for row in connection.execute("SELECT * FROM jobs")]
    return {msgspec.json.decode(row["request"])["prompt"]: row for row in rows}


def states_of(path: Path) -> Counter[str]:
    """How many jobs are in which state."""
    return Counter(row["state"] for row in rows_of(path).values())


# The file


figures = st.none() | st.floats(0, 1e9, allow_nan=False)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
requests = st.builds(
    ImageRequest,
    prompt=st.text(min_size=1),
    model=st.none() | st.text(),
    seed=st.none() | st.integers(0, 2**63 - 1),
    num_images=st.none() | st.integers(1, 4),
    key=st.none() | st.text(min_size=1),
    extra=st.dictionaries(st.text(), json_values, max_size=3),
)
entries = st.builds(
    JournalEntry,
    key=st.text(min_size=1),
    position=st.integers(0, 2**40),
    state=st.sampled_from(["submitting", "queued", "running", "ready", "done", "failed", "unknown"]),
    account=st.sampled_from(["kie", "apiin"]),
    request=requests,
    task_id=st.none() | st.text(min_size=1),
    urls=st.lists(st.text(min_size=1), max_size=2).map(tuple),
    error=st.none() | st.builds(EntryError, st.text(), st.text(), st.none() | st.integers() | st.text()),
    credits=figures,
    price=figures,
    latency=figures,
    attempts=st.integers(1, 9),
    retried=st.integers(0, 9),
    lost=st.integers(0, 9),
    lost_creates=st.lists(st.integers(1, 2**31), max_size=3).map(tuple),
    sent_at=figures,
    accepted_at=figures,
    ended_at=figures,
)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(entries, max_size=4, unique_by=lambda row: row.key),
    st.sampled_from(["a.png", "ein Fuchs.png", "狐 🦊.png", "it's #1? 100%.png", "..png"]),
)
def test_what_is_written_is_read(rows: list[JournalEntry], name: str) -> None:
    """Every field of every record comes back as it was, whatever script it is in, also from a moved folder."""
    with tempfile.TemporaryDirectory() as folder:
        here, there = Path(folder, "here"), Path(folder, "there")
        here.mkdir()
        files = (ImageFile(str(here / "out" / name), "ab" * 32, 9, "image/png", "https://x.example"),)
        rows = [replace(row, files=files if row.state == "done" else ()) for row in rows]
        with Journal(here / "j.db") as journal:
            journal.write(replace(row, state="submitting") for row in rows)
            journal.write(rows)
            assert [journal.find(row.key) for row in rows] == rows
        here.rename(there)
        with JournalReader(there / "j.db") as reader:
            found = {row.key: row for row in reader.entries()}
            unknown = {row.key: row.task_id for row in rows if row.state == "unknown"}
            at_work = {row.key for row in rows if row.state in ("running", "ready")}
            assert {row.key for row in reader.unfinished()} == at_work | {key for key in unknown if unknown[key]}
            assert {row.key for row in reader.with_lost_creates()} == {row.key for row in rows if row.lost}
        for row in rows:
            moved = tuple(replace(each, path=each.path.replace(str(here), str(there), 1)) for each in row.files)
            assert found[row.key] == replace(row, files=moved)


def test_a_journal_notes_who_writes_it(tmp_path: Path) -> None:
    """Beside the notes of the batch is that of the process which has the file, for whoever is refused meanwhile."""
    with Journal(tmp_path / "j.db") as journal:
        journal.note({"a": "1"})
    with JournalReader(tmp_path / "j.db") as reader:
        assert reader.notes() == {"a": "1", "process": str(os.getpid())}


def test_records_come_in_the_order_of_their_ending(tmp_path: Path) -> None:
    """Those that ended come first, as they ended, then the others by their place in the input."""
    with Journal(tmp_path / "j.db") as journal:
        journal.write(entry(number) for number in range(4))
        journal.write([entry(3, state="done", ended_at=5.0), entry(1, state="done", ended_at=9.0)])
        assert [each.key for each in journal.entries()] == ["k3", "k1", "k0", "k2"]


def with_latency(number: int, latency: float | None, **fields: Any) -> tuple[JournalEntry, JournalEntry]:
    """A job as it was sent, and as it ended."""
    return entry(number, **fields), entry(number, state="done", latency=latency, ended_at=9000.0 - number, **fields)


@pytest.mark.parametrize("latency", ["'soon'", "1.7e9", "-1.0", "9e999", "x'00'"])
def test_a_latency_that_cannot_be_is_passed_over(tmp_path: Path, latency: str) -> None:
    """What somebody else wrote into a journal, or a provider with a broken clock, does not spoil a schedule."""
    path = tmp_path / "j.db"
    with Journal(path) as journal:
        for number in (1, 2):
            for each in with_latency(number, float(number)):
                journal.write([each])
    with closing(sqlite3.connect(path)) as plain, plain:
        plain.execute(f"UPDATE jobs SET latency = {latency} WHERE latency = 1.0")
    with Journal(path) as journal:
        assert [known for _, known in journal.latencies("kie", 9)] == [2.0]


def test_as_many_latencies_as_a_schedule_remembers(tmp_path: Path) -> None:
    """Of a long journal, the latest few hundred are what a schedule is told, and they are read without the others."""
    with Journal(tmp_path / "j.db") as journal:
        journal.write(entry(number) for number in range(2 * MEMORY))
        journal.write(entry(number, state="done", latency=float(number)) for number in range(2 * MEMORY))
        assert [latency for _, latency in latencies_of(journal, "kie")] == list(range(MEMORY, 2 * MEMORY))


@settings(deadline=None, max_examples=50)
@given(st.lists(entries, max_size=8, unique_by=lambda row: row.key))
def test_bills_are_those_of_the_records(rows: list[JournalEntry]) -> None:
    """What the journal says of money is what its records say, each as often as it is said, with or without a writer."""
    with quick_folder() as folder:
        with Journal(folder / "run.db") as journal:
            journal.write(replace(row, state="submitting") for row in rows)
            journal.write(rows)
            expected = Counter(bill_of(row) for row in rows)
            assert Counter(dict(journal.bills())) == expected
            assert len(journal.bills()) == len(expected)
        with JournalReader(folder / "run.db") as reader:
            assert Counter(dict(reader.bills())) == expected


def test_any_sqlite_program_reads_it(tmp_path: Path) -> None:
    """The file is one table of jobs with plain words and JSON, marked as ours, of this version, in WAL mode."""
    path = tmp_path / "j.db"
    with Journal(path) as journal:
        journal.write([entry(1)])
        journal.write([entry(1, state="done", task_id="t", urls=("https://x.example/1.png",), credits=8.0)])
        (synchronous,) = journal._writing.execute("PRAGMA synchronous").fetchone()
        assert synchronous == 2, "FULL: a commit is on the disk when it returns"
    row = rows_of(path)["prompt 1"]
    assert (row["key"], row["state"], row["task_id"], row["credits"]) == ("k1", "done", "t", 8.0)
    assert row["urls"] == '["https://x.example/1.png"]'
    with closing(sqlite3.connect(path)) as connection:
        pragmas = [
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("application_id", "user_version", "journal_mode")
        ]
    assert pragmas == [APPLICATION_ID, SCHEMA_VERSION, "wal"]


@pytest.mark.parametrize("name", ["what? 100% #1.db", "журнал 狐.db", "a;b&mode=ro.db"])
def test_any_file_name_will_do(tmp_path: Path, name: str) -> None:
    """No character of the path means anything to SQLite."""
    with Journal(tmp_path / name) as journal:
        journal.write([entry(1)])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, f"{name}-lock"])
    with JournalReader(tmp_path / name) as reader:
        assert reader.find("k1") == entry(1)


# An older journal


VERSION_1 = (
    "CREATE TABLE jobs (key TEXT PRIMARY KEY NOT NULL, position INTEGER NOT NULL, state TEXT NOT NULL, "
    "account TEXT NOT NULL, request TEXT NOT NULL, task_id TEXT, urls TEXT, files TEXT, error TEXT, credits REAL, "
    "price REAL, latency REAL, attempts INTEGER NOT NULL, retried INTEGER NOT NULL, lost INTEGER NOT NULL, "
    "sent_at REAL, accepted_at REAL, ended_at REAL)",
    "CREATE TABLE notes (name TEXT PRIMARY KEY NOT NULL, value TEXT)",
    "CREATE TABLE sends (account TEXT NOT NULL, key TEXT NOT NULL, sent_at REAL NOT NULL)",
    f"PRAGMA application_id = {APPLICATION_ID}",
    "PRAGMA user_version = 1",
)
OLD = [
    entry(1, state="done", task_id="t1", urls=("https://x.example/1.png",), credits=8.0, latency=2.0, accepted_at=1.0),
    entry(2, state="unknown", lost=1, error=EntryError("UnknownOutcome", "lost"), ended_at=9.0),
    entry(3, state="running", task_id="t3", attempts=2, retried=1),
]


def of_version_1(path: Path, *rows: JournalEntry) -> None:
    """A journal as version 1 of its schema had it."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in VERSION_1:
            connection.execute(statement)
        for row in rows:
            values = {name: getattr(row, name) for name in JournalEntry.__struct_fields__ if name != "lost_creates"}
            for name in ("request", "urls", "files", "error"):
                values[name] = msgspec.json.encode(values[name]).decode() if values[name] else None
            places = ", ".join("?" * len(values))
            connection.execute(f"INSERT INTO jobs ({', '.join(values)}) VALUES ({places})", list(values.values()))


def version_of(path: Path) -> tuple[int, list[str]]:
    """A file's schema version, and the columns of its jobs."""
    with closing(sqlite3.connect(path)) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        return version, [name for _, name, *_ in connection.execute("PRAGMA table_info(jobs)")]


def test_a_journal_of_version_1_is_read_as_it_is(tmp_path: Path) -> None:
    """A reader has every record of it, with no lost create by number, and leaves the file alone."""
    path = tmp_path / "j.db"
    of_version_1(path, *OLD)
    content = path.read_bytes()
    with JournalReader(path) as reader:
        assert sorted(reader.entries(), key=lambda row: row.key) == OLD
        assert all(row.lost_creates == () for row in reader.entries())
        assert [row.key for row in reader.with_lost_creates()] == [row.key for row in OLD if row.lost]
        assert [row.key for row in reader.unfinished()] == ["k3"]
        assert reader.find_task("t3") == reader.find("k3") == OLD[2]
    assert path.read_bytes() == content


def test_a_journal_of_version_1_is_upgraded_once(tmp_path: Path) -> None:
    """A writer gives it the new column, keeps all records, and fills the column from then on; again is nothing."""
    path = tmp_path / "j.db"
    of_version_1(path, *OLD, entry(4, attempts=3))
    with Journal(path) as journal:
        assert [journal.find(row.key) for row in OLD] == OLD
        cut = journal.find("k4")
        assert cut is not None
        assert (cut.state, cut.lost, cut.lost_creates) == ("unknown", 1, (3,))
        again = replace(OLD[1], attempts=2, lost=2, lost_creates=(1, 2))
        journal.write([again])
        assert journal.find("k2") == again
        with JournalReader(path) as reader:
            assert reader.find("k2") == again
    version, columns = version_of(path)
    assert (version, columns.count("lost_creates"), len(columns)) == (SCHEMA_VERSION, 1, 19)
    with Journal(path) as journal:
        assert journal.find("k2") == again
    assert version_of(path) == (version, columns)


def test_a_reader_of_version_1_goes_on_while_it_is_upgraded(tmp_path: Path) -> None:
    """A reader that was open before a writer came still sees every record, with the column or without it."""
    path = tmp_path / "j.db"
    of_version_1(path, *OLD)
    with JournalReader(path) as reader:
        with Journal(path) as journal:
            journal.write([entry(7)])
            assert reader.find("k1") == OLD[0]
            assert reader.find("k7") == entry(7)
    with JournalReader(path) as reader:
        assert reader.find("k1") == OLD[0]


def test_an_upgrade_that_fails_leaves_version_1(tmp_path: Path) -> None:
    """What is no table of jobs is not half upgraded: its version stays, and the error says so."""
    path = tmp_path / "j.db"
    of_version_1(path, *OLD)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("ALTER TABLE jobs RENAME TO others")
    with pytest.raises(JournalError):
        Journal(path)
    assert version_of(path) == (1, [])


def test_a_new_journal_has_the_columns_of_an_upgraded_one(tmp_path: Path) -> None:
    """Whichever way a journal came to its version, it holds the same."""
    Journal(tmp_path / "new.db").close()
    of_version_1(tmp_path / "old.db")
    Journal(tmp_path / "old.db").close()
    (version, new), (old_version, old) = version_of(tmp_path / "new.db"), version_of(tmp_path / "old.db")
    assert (version, sorted(new)) == (old_version, sorted(old)) == (2, sorted(JournalEntry.__struct_fields__))


# What is not a journal, or not whole


def next_version(path: Path) -> None:
    """A journal of the version after this one."""
    Journal(path).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")


def newer(path: Path) -> None:
    """A journal of a version that is not yet known."""
    Journal(path).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")


def another_program(path: Path) -> None:
    """Some other program's database."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE jobs (key TEXT)")


def text(path: Path) -> None:
    """A list of prompts, given as the journal by mistake."""
    path.write_text("a red fox\n" * 300)


def big(path: Path) -> int:
    """A journal of many pages; returns its size."""
    with Journal(path) as journal:
        journal.write(entry(number) for number in range(2000))
    return path.stat().st_size


def damaged(path: Path) -> None:
    """A big journal with flipped bytes in the middle."""
    size = big(path)
    content = bytearray(path.read_bytes())
    for place in range(size // 2, size // 2 + 8192):
        content[place] ^= 0xFF
    path.write_bytes(content)


def truncated(path: Path) -> None:
    """A big journal of which half is missing."""
    os.truncate(path, big(path) // 2)


@pytest.mark.parametrize("kind", [Journal, JournalReader])
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (newer, ["newer version", "99", "upgrade"]),
        (next_version, ["newer version", "its schema is 3", "knows 2", "upgrade"]),
        (another_program, ["no journal of imagen_async", "Choose another file"]),
        (text, ["not a database", "Nothing was sent"]),
        (damaged, ["damaged", "Nothing was sent", "copy"]),
        (truncated, ["damaged", "Nothing was sent", "copy"]),
    ],
)
def test_a_file_that_cannot_be_used_is_told_and_left_as_it_is(
    tmp_path: Path, kind: type[JournalReader], make: Callable[[Path], None], words: list[str]
) -> None:
    """The error says what is wrong and what to do; the file is not changed by the look at it."""
    path = tmp_path / "j.db"
    make(path)
    content = path.read_bytes()
    with pytest.raises(JournalError) as told:
        kind(path)
    for word in [str(path), *words]:
        assert word in told.value.message
    assert path.read_bytes() == content
    assert str(path) not in open_files(), "a file that was refused is closed"


def open_files() -> set[str]:
    """What this process has open, where the system tells."""
    found = set()
    for handle in Path("/proc/self/fd").glob("*"):
        with suppress(OSError):
            found.add(os.readlink(handle))
    return found


def test_a_text_file_is_not_called_a_damaged_journal(tmp_path: Path) -> None:
    """Who gives a list of prompts as the journal is told that it is none, not to restore it from a copy."""
    text(tmp_path / "prompts.txt")
    with pytest.raises(JournalError, match=r"no journal|not a journal"):
        Journal(tmp_path / "prompts.txt")


@pytest.mark.parametrize("path", ["missing/j.db", "/proc/j.db", "."])
def test_a_place_that_takes_no_journal_is_told(tmp_path: Path, path: str) -> None:
    """A missing folder, one that cannot be written and a folder in the file's place say so, with what to do."""
    with pytest.raises(JournalError, match=r"cannot be written.*Nothing was sent.*choose another"):
        Journal(tmp_path / path)


def test_a_reader_needs_a_journal(tmp_path: Path) -> None:
    """Looking at a journal that is not there makes none."""
    with pytest.raises(JournalError, match="There is no journal"):
        JournalReader(tmp_path / "j.db")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_field_is_told(tmp_path: Path) -> None:
    """A row whose JSON somebody else has spoilt is a damaged journal, not a traceback of a decoder."""
    path = tmp_path / "j.db"
    with Journal(path) as journal:
        journal.write([entry(1)])
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE jobs SET request = '{'")
        connection.commit()
    with JournalReader(path) as reader, pytest.raises(JournalError, match="damaged"):
        reader.find("k1")
    with pytest.raises(JournalError, match="damaged"):
        Journal(path)


# One writer


WRITER = """
import sys
from imagen_async._core.journal_entry import JournalEntry
from imagen_async._core.values import ImageRequest
from imagen_async._journal import Journal
journal = Journal(sys.argv[1])
journal.write([JournalEntry("k", 0, "submitting", "kie", ImageRequest("a"), attempts=1, price=8.0, sent_at=5.0)])
print("open", flush=True)
sys.stdin.read()
"""


def other_process(path: Path) -> subprocess.Popen[str]:
    """Another process that has a journal open, with a create on the way."""
    command = [sys.executable, "-c", WRITER, str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    return process


def test_one_writer_in_one_process(tmp_path: Path) -> None:
    """A second writer is refused while the first one is open, and only then."""
    path = tmp_path / "j.db"
    with Journal(path):
        with pytest.raises(JournalError, match=rf"in use.*process {os.getpid()}.*Nothing was sent"):
            Journal(path)
        with pytest.raises(JournalError, match="in use"):
            Journal(os.path.relpath(path))
    Journal(path).close()


def test_another_name_of_the_same_file_is_the_same_journal(tmp_path: Path) -> None:
    """A symbolic link to a journal that is in use is in use."""
    (tmp_path / "link.db").symlink_to(tmp_path / "j.db")
    with Journal(tmp_path / "j.db"):
        with pytest.raises(JournalError, match="in use"):
            Journal(tmp_path / "link.db").close()


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    """While another process writes, this one is refused and can look; once that is killed, it can write at once."""
    path = tmp_path / "j.db"
    with other_process(path) as process:
        try:
            with pytest.raises(JournalError, match=rf"in use.*process {process.pid}"):
                Journal(path)
            with JournalReader(path) as reader:
                assert reader.is_being_written()
                assert [each.state for each in reader.entries()] == ["submitting"]
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        with JournalReader(path) as reader:
            assert not reader.is_being_written()
            assert [each.state for each in reader.entries()] == ["submitting"]
        with Journal(path) as journal:
            held = journal.find("k")
            assert held is not None
            assert (held.state, held.lost, held.at_risk, held.ended_at) == ("unknown", 1, 8.0, 5.0)
            assert held.error is not None
            assert held.error.type == "UnknownOutcome"


def test_a_reader_sees_each_commit(tmp_path: Path) -> None:
    """A reader that stays open sees what is written since, and a writer does not wait for it."""
    path = tmp_path / "j.db"
    with Journal(path) as journal, JournalReader(path) as reader, JournalReader(path) as slow:
        assert reader.is_being_written()
        journal.write(entry(number) for number in range(1000, 1010))
        listing = slow.entries()
        for number in range(50):
            next(listing, None)
            journal.write([entry(number)])
            assert reader.find(f"k{number}") == entry(number)
        listing.close()
    with JournalReader(path) as reader:
        assert not reader.is_being_written()


def test_a_journal_in_a_folder_that_cannot_be_written_is_readable(tmp_path: Path) -> None:
    """A journal that was closed in good order can be looked at where nothing can be written."""
    folder = tmp_path / "archive"
    folder.mkdir()
    with Journal(folder / "j.db") as journal:
        journal.write([entry(1)])
    (folder / "j.db-lock").unlink()
    os.chmod(folder / "j.db", 0o444)
    os.chmod(folder, 0o555)
    try:
        with JournalReader(folder / "j.db") as reader:
            assert reader.find("k1") == entry(1)
    finally:
        os.chmod(folder, 0o755)


# A disk that is full, a file that is locked


def fill(journal: Journal, spare: int = 0) -> None:
    """Let the journal grow by so many pages and no more, as on a full disk."""
    (pages,) = journal._writing.execute("PRAGMA page_count").fetchone()
    journal._writing.execute(f"PRAGMA max_page_count = {pages + spare}")


def make_room(journal: Journal) -> None:
    """Free the disk."""
    journal._writing.execute("PRAGMA max_page_count = 1000000")


def large(number: int) -> JournalEntry:
    """A record that takes pages of its own."""
    return entry(number, request=ImageRequest(f"{number} " + "long " * 2000))


def test_a_full_disk_writes_all_or_nothing(tmp_path: Path) -> None:
    """What does not fit is not written in part; the error says so, and with room it goes on."""
    with Journal(tmp_path / "j.db") as journal:
        journal.write([entry(0)])
        fill(journal, spare=1)
        with pytest.raises(JournalError, match=r"full.*not sent.*Make room"):
            journal.write([entry(1), large(2)])
        assert [each.key for each in journal.entries()] == ["k0"]
        make_room(journal)
        journal.write([entry(1), large(2)])
        assert [each.key for each in journal.entries()] == ["k0", "k1", "k2"]


FULL = """
import resource, signal, sys
from imagen_async._core.journal_entry import JournalEntry
from imagen_async._core.values import ImageRequest
from imagen_async._journal import Journal
from imagen_async.errors import JournalError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
journal, written = Journal(sys.argv[1]), 0
try:
    for number in range(10_000):
        request = ImageRequest("long " * 1000)
        journal.write([JournalEntry(f"k{number}", number, "submitting", "kie", request, attempts=1)])
        written += 1
except JournalError as error:
    print(written, error)
"""


def test_a_disk_that_really_takes_no_more(tmp_path: Path) -> None:
    """Where the system itself refuses to write, the error says so, and every commit before it is there."""
    path = tmp_path / "j.db"
    done = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, check=True)
    written, _, told = done.stdout.partition(" ")
    assert "is full or fails" in told
    assert "Make room" in told
    assert int(written) > 10
    with JournalReader(path) as reader:
        assert sum(1 for _ in reader.entries()) == int(written)


def test_a_locked_file_is_told(tmp_path: Path) -> None:
    """When another program holds the file, the error says that, and what to do."""
    path = tmp_path / "j.db"
    with Journal(path) as journal, closing(sqlite3.connect(path, isolation_level=None)) as other:
        journal._writing.execute("PRAGMA busy_timeout = 20")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(JournalError, match=r"locked by another program.*Close that"):
            journal.write([entry(1)])
        other.execute("ROLLBACK")
        journal.write([entry(1)])


# Group commit


def commits_of(journal: Journal) -> list[str]:
    """A list that grows by each transaction that is committed."""
    commits: list[str] = []
    journal._writing.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)
    return commits


async def test_many_notes_are_one_transaction(tmp_path: Path) -> None:
    """What one turn of the loop notes is one commit, and durable returns once that has happened."""
    with Journal(tmp_path / "j.db") as journal, anyio.fail_after(5):
        commits, writer = commits_of(journal), JournalWriter(journal)
        for number in range(500):
            writer.put(entry(number))
        assert journal.find("k0") is None
        await writer.wait_durable("k499")
        assert len(commits) == 1
        assert journal.find("k0") == entry(0)
        assert journal.find("k499") == entry(499)
        await writer.wait_durable("k499")
        await writer.wait_durable("never noted")
        await writer.close()
        assert len(commits) == 1


async def test_the_last_note_of_a_job_wins(tmp_path: Path) -> None:
    """Of several changes of one job that wait the last is written, also over one that is being written."""
    with Journal(tmp_path / "j.db") as journal, anyio.fail_after(5):
        writer = JournalWriter(journal)
        writer.put(entry(1, error=EntryError("A", "first")))
        writer.put(entry(1))
        await writer.wait_durable("k1")
        assert journal.find("k1") == entry(1)
        writer.put(entry(1, state="running", task_id="t"))
        await anyio.lowlevel.checkpoint()
        writer.put(entry(1, state="done", task_id="t"))
        await writer.wait_durable("k1")
        assert journal.find("k1") == entry(1, state="done", task_id="t")
        await writer.close()


async def test_many_waiters_are_all_served(tmp_path: Path) -> None:
    """Jobs that note and wait at once, over and over, each find their own change on disk."""
    with Journal(tmp_path / "j.db") as journal, anyio.fail_after(20):
        commits, writer = commits_of(journal), JournalWriter(journal)

        async def work(number: int) -> None:
            for turn in range(1, 6):
                writer.put(entry(number, attempts=turn))
                await writer.wait_durable(f"k{number}")
                found = journal.find(f"k{number}")
                assert found is not None
                assert found.attempts == turn

        async with anyio.create_task_group() as group:
            for number in range(40):
                group.start_soon(work, number)
        await writer.close()
        assert len(commits) < 40 * 5 / 4


async def test_what_failed_is_kept_and_written_later(tmp_path: Path) -> None:
    """A group that finds no room raises for its waiters, and its changes are written with the next that does."""
    with Journal(tmp_path / "j.db") as journal, anyio.fail_after(5):
        writer = JournalWriter(journal)
        fill(journal)
        writer.put(large(1))
        writer.put(large(2))
        raised = []
        for key in ("k1", "k2", "k1"):
            with pytest.raises(JournalError, match="full") as told:
                await writer.wait_durable(key)
            raised.append(told.value)
        assert len({id(error) for error in raised}) == 3, "each that waits has an error of its own"
        assert {error.provider for error in raised} == {None}, "the group's failure is not one job's"
        assert writer.failure is not None
        make_room(journal)
        writer.put(replace(large(2), error=EntryError("A", "newer")))
        await writer.wait_durable("k2")
        assert writer.failure is None
        assert journal.find("k1") == large(1)
        assert journal.find("k2") == replace(large(2), error=EntryError("A", "newer"))
        await writer.close()


async def test_closing_writes_the_rest(tmp_path: Path) -> None:
    """What waits is written on closing, what had failed before included, and all who wait are told."""
    with Journal(tmp_path / "j.db") as journal, anyio.fail_after(5):
        writer = JournalWriter(journal)
        fill(journal)
        writer.put(large(1))
        with pytest.raises(JournalError):
            await writer.wait_durable("k1")
        make_room(journal)
        writer.put(entry(2))
        async with anyio.create_task_group() as group:
            group.start_soon(writer.wait_durable, "k2")
            await anyio.lowlevel.checkpoint()
            await writer.close()
        assert sorted(each.key for each in journal.entries()) == ["k1", "k2"]


async def test_closing_says_when_it_cannot_write(tmp_path: Path) -> None:
    """A disk that stays full is told on closing, at once."""
    with Journal(tmp_path / "j.db") as journal, anyio.fail_after(5):
        writer = JournalWriter(journal)
        fill(journal)
        writer.put(large(1))
        with pytest.raises(JournalError, match="full"):
            await writer.close()


async def test_a_close_that_is_cancelled_writes_nothing_older_over_what_is_newer(tmp_path: Path) -> None:
    """Cancelled while a group waits for its thread, closing leaves the last change of each job in the file."""
    busy = threading.Event()
    with Journal(tmp_path / "j.db") as journal, anyio.fail_after(10), ThreadPoolExecutor(1) as thread:
        thread.submit(busy.wait)
        writer = JournalWriter(journal, thread)
        writer.put(entry(1))
        while writer._writing is None:
            await anyio.lowlevel.checkpoint()
        writer.put(entry(1, state="running", task_id="t"))
        closing_it = asyncio.ensure_future(writer.close())
        await anyio.lowlevel.checkpoint()
        closing_it.cancel()
        free = threading.Timer(0.05, busy.set)
        free.start()
        with suppress(asyncio.CancelledError):
            await closing_it
        free.join()
        thread.shutdown(wait=True)
        assert journal.find("k1") == entry(1, state="running", task_id="t")


# Batches that go on


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """A quick sandbox with room for bursts."""
    with running_sandbox(Sandbox(latency=Latency(median=0.05, minimum=0.01), limits=FAST)) as server:
        yield server


def most_tasks(server: Sandbox) -> int:
    """How many tasks the prompt with the most of them has."""
    return max(server.ledger.tasks_by_prompt().values(), default=0)


async def leave_after(client: Any, count: int, requests: Any, **terms: Any) -> list[Result]:
    """Break off a batch after so many results; returns them and what was left over."""
    got = []
    async with client.batch(requests, **terms) as results:
        async for result in results:
            got.append(result)
            if len(got) == count:
                break
    return [*got, *results.leftover]


async def test_a_batch_goes_on_after_a_break(sandbox: Sandbox, tmp_path: Path) -> None:
    """Broken off twice and run again, a batch has made every picture once and saved them all."""
    prompts = [f"p{number}" for number in range(60)]
    terms = {"journal": tmp_path / "j.db", "save_to": tmp_path / "out"}
    async with client_of(sandbox, limits=SLOWLY) as client:
        await leave_after(client, 5, prompts, **terms)
        assert "submitting" not in states_of(tmp_path / "j.db")
        await leave_after(client, 30, (prompt for prompt in prompts), **terms)
    async with client_of(sandbox, limits=FAST) as client:
        results = await run(client, prompts, **terms)
        again = await run(client, prompts, **terms)
    for each in (results, again):
        assert sorted(result.index for result in each) == list(range(60))
        assert all(result.ok and len(result.files) == 1 and Path(result.files[0]).exists() for result in each)
    assert 0 < sum(result.earlier for result in results) < 60
    assert all(result.earlier for result in again)
    assert len(sandbox.ledger.tasks) == 60
    assert most_tasks(sandbox) == 1
    assert len(list((tmp_path / "out").iterdir())) == 60


async def test_leaving_at_once_leaves_no_create_in_doubt(sandbox: Sandbox, tmp_path: Path) -> None:
    """A batch that is left before its creates went out has nothing at the provider, and says so to the next run."""
    async with client_of(sandbox, limits=FAST) as client:
        await run(client, ["warm up"])
        for turns in range(6):
            path, prompts = tmp_path / f"{turns}.db", [f"{turns}-{number}" for number in range(20)]
            async with client.batch(prompts, journal=path):
                for _ in range(turns):
                    await anyio.lowlevel.checkpoint()
            assert states_of(path).keys() <= {"queued", "running", "done"}, turns
            results = await run(client, prompts, journal=path)
            assert all(result.ok for result in results)
    assert most_tasks(sandbox) == 1


async def test_stop_lets_what_runs_come_out(sandbox: Sandbox, tmp_path: Path) -> None:
    """After stop() nothing more is sent, running tasks come out, and the next run sends the rest."""
    prompts, got = [f"p{number}" for number in range(60)], []
    async with client_of(sandbox, limits=SLOWLY) as client:
        async with client.batch(prompts, journal=tmp_path / "j.db") as results:
            async for result in results:
                got.append(result)
                results.stop()
        assert results.leftover == ()
        sent = len(sandbox.ledger.tasks)
        assert len(got) == sent < 60
        assert states_of(tmp_path / "j.db").keys() <= {"done", "queued"}
    async with client_of(sandbox, limits=FAST) as client:
        assert all(result.ok for result in await run(client, prompts, journal=tmp_path / "j.db"))
    assert len(sandbox.ledger.tasks) == 60


async def test_draining_waits_for_what_runs(sandbox: Sandbox, tmp_path: Path) -> None:
    """With on_exit="drain" leaving waits for running tasks and saves them: nothing is left running."""
    terms = {"journal": tmp_path / "j.db", "save_to": tmp_path / "out"}
    async with client_of(sandbox, limits=SLOWLY) as client:
        seen = await leave_after(client, 1, [f"p{number}" for number in range(60)], on_exit="drain", **terms)
    assert len(seen) == len(sandbox.ledger.tasks) < 60
    assert all(result.ok and result.files for result in seen)
    assert states_of(tmp_path / "j.db").keys() <= {"done", "queued"}


async def test_order_lines_and_removals(tmp_path: Path) -> None:
    """A resumed input may be reordered, lengthened and shortened; ordered=True follows it as it is now."""
    with running_sandbox(Sandbox(latency=Latency(median=0.3, sigma=0.8), limits=FAST)) as server:
        async with client_of(server, limits=FAST) as client:
            await leave_after(client, 3, [f"p{number}" for number in range(20)], journal=tmp_path / "j.db")
            removed = {f"p{number}" for number in range(5)} & rows_of(tmp_path / "j.db").keys()
            prompts = [f"p{number}" for number in range(25, 4, -1)]
            results = await run(client, prompts, journal=tmp_path / "j.db", ordered=True)
        known = [result.request.prompt for result in results]
        assert known[:21] == prompts
        # A removed line whose task still ran comes out too, after those that were asked for.
        assert set(known[21:]) <= removed
        assert all(result.ok for result in results)
        assert most_tasks(server) == 1


async def test_a_doubled_key_in_a_lazy_input_is_one_bad_result(sandbox: Sandbox, tmp_path: Path) -> None:
    """The second request with a key is refused, the first is made, in the first run and in a resumed one."""
    requests = [ImageRequest("a", key="k"), ImageRequest("b", key="k"), ImageRequest("c", key="l")]
    async with client_of(sandbox) as client:
        for earlier in (False, True):
            results = await run(client, (each for each in requests), journal=tmp_path / "j.db", ordered=True)
            assert [result.ok for result in results] == [True, False, True]
            assert isinstance(results[1].error, InvalidRequest)
            assert "'k' came 2 times" in results[1].error.message
            assert results[0].earlier == earlier
    assert sandbox.ledger.tasks_by_prompt() == {"a": 1, "c": 1}


async def test_equal_prompts_make_one_picture_each(sandbox: Sandbox, tmp_path: Path) -> None:
    """Three equal prompts without keys are three pictures, and stay three when the input is run again."""
    async with client_of(sandbox) as client:
        for _ in range(2):
            results = await run(client, ["same"] * 3, journal=tmp_path / "j.db")
            assert len({result.task_id for result in results}) == 3
        results = await run(client, ["same"] * 4, journal=tmp_path / "j.db")
    assert len({result.key for result in results}) == 4
    assert sandbox.ledger.tasks_by_prompt() == {"same": 4}


async def test_one_opened_journal_serves_one_batch_after_another(sandbox: Sandbox, tmp_path: Path) -> None:
    """A journal that the caller opened knows in its second batch what its first one made."""
    async with client_of(sandbox) as client:
        with Journal(tmp_path / "j.db") as journal:
            for earlier in (False, True):
                requests = ["a", ImageRequest("b", key="k")]
                results = await run(client, requests, journal=journal, ordered=True)
                assert [(result.ok, result.earlier) for result in results] == [(True, earlier)] * 2
    assert sandbox.ledger.tasks_by_prompt() == {"a": 1, "b": 1}


async def test_changed_parameters_are_refused_and_nothing_is_sent(sandbox: Sandbox, tmp_path: Path) -> None:
    """A key that stood for something else is a bad result which says what changed and what to do."""
    path = tmp_path / "j.db"
    first = ImageRequest("a cat", key="k", aspect_ratio="16:9", seed=3)
    changes: list[tuple[Any, dict[str, Any], str]] = [
        (replace(first, prompt="a dog"), {}, 'prompt was "a cat" and is "a dog" now'),
        (replace(first, seed=4), {}, "seed was 3 and is 4 now"),
        (first, {"model": "imagen4-ultra"}, 'model was "imagen4" and is "imagen4-ultra" now'),
        (replace(first, aspect_ratio=None), {}, 'aspect_ratio was "16:9" and is "1:1" now'),
        ("a prompt", {"model": "imagen4-fast"}, 'model was "imagen4" and is "imagen4-fast" now'),
        ("a prompt", {"negative_prompt": "rain"}, 'negative_prompt was null and is "rain" now'),
    ]
    async with client_of(sandbox) as client:
        assert all(result.ok for result in await run(client, [first, "a prompt"], journal=path))
        for request, terms, told in changes:
            (result,) = await run(client, [request], journal=path, **terms)
            assert isinstance(result.error, InvalidRequest)
            assert told in result.error.message
            assert "choose another journal" in result.error.message
        # What says the same in other words is the same.
        results = await run(client, [replace(first, model="imagen4"), "a prompt"], journal=path, aspect_ratio="1:1")
    assert all(result.ok and result.earlier for result in results)
    assert len(sandbox.ledger.creates) == 2


async def test_failed_ones_are_made_again_only_when_asked(sandbox: Sandbox, tmp_path: Path) -> None:
    """A failed generation is an earlier result, until retry_failed asks for a new task."""
    sandbox.order("task", "fail_word")
    path = tmp_path / "j.db"
    async with client_of(sandbox) as client:
        for earlier in (False, True):
            (result,) = await run(client, ["a"], journal=path)
            assert isinstance(result.error, GenerationFailed)
            assert (result.error.code, result.earlier) == ("SENSITIVE_WORD_ERROR", earlier)
        (result,) = await run(client, ["a"], journal=path, retry_failed=True)
        assert (result.ok, result.earlier) == (True, False)
        (result,) = await run(client, ["a"], journal=path, retry_failed=True)
        assert (result.ok, result.earlier) == (True, True)
    assert len(sandbox.ledger.tasks) == 2


async def test_unknown_ones_are_held_until_asked_for(sandbox: Sandbox, tmp_path: Path) -> None:
    """A lost answer stays held over runs; with resubmit it is sent once more a run, and no more."""
    path = tmp_path / "j.db"
    async with client_of(sandbox) as client:
        sandbox.order("create", "reset_after")
        for earlier in (False, True):
            (result,) = await run(client, ["a"], journal=path)
            assert isinstance(result.error, UnknownOutcome)
            assert (result.error.credits, result.earlier) == (8, earlier)
        sandbox.order("create", "reset_after")
        (result,) = await run(client, ["a"], journal=path, on_unknown="resubmit")
        assert isinstance(result.error, UnknownOutcome)
        assert result.error.credits == 16
        assert len(sandbox.ledger.creates) == 2
        (result,) = await run(client, ["a"], journal=path, on_unknown="resubmit")
        assert result.ok
    assert len(sandbox.ledger.tasks) == 3
    row = rows_of(path)["a"]
    assert (row["lost"], row["attempts"], row["state"]) == (2, 3, "done")


async def test_resubmit_in_the_same_run_is_once(sandbox: Sandbox, tmp_path: Path) -> None:
    """A lost answer is sent again once in its own run; lost again, it is held with both at risk."""
    async with client_of(sandbox) as client:
        sandbox.order("create", "reset_after", None, "reset_after", "reset_after")
        first = await run(client, ["a"], journal=tmp_path / "1.db", on_unknown="resubmit")
        second = await run(client, ["b"], journal=tmp_path / "2.db", on_unknown="resubmit")
    assert first[0].ok
    assert isinstance(second[0].error, UnknownOutcome)
    assert second[0].error.credits == 16
    assert sandbox.ledger.tasks_by_prompt() == {"a": 2, "b": 2}
    assert rows_of(tmp_path / "2.db")["b"]["state"] == "unknown"


async def test_pictures_can_be_saved_by_a_later_run(sandbox: Sandbox, tmp_path: Path) -> None:
    """What was made without save_to is fetched by a run that has one, and costs nothing more."""
    prompts, path = [f"p{number}" for number in range(10)], tmp_path / "j.db"
    async with client_of(sandbox) as client:
        assert all(not result.files for result in await run(client, prompts, journal=path))
        results = await run(client, prompts, journal=path, save_to=tmp_path / "out")
        assert all(result.ok and result.files and not result.earlier for result in results)
        results = await run(client, prompts, journal=path, save_to=tmp_path / "out")
        assert all(result.ok and result.files and result.earlier for result in results)
    assert len(sandbox.ledger.tasks) == 10
    assert sum(sandbox.ledger.pictures.values()) == 10


async def test_an_earlier_result_can_be_saved_by_hand(sandbox: Sandbox, tmp_path: Path) -> None:
    """A result of an earlier run saves its pictures as a new one does."""
    async with client_of(sandbox) as client:
        await run(client, ["a"], journal=tmp_path / "j.db")
        (result,) = await run(client, ["a"], journal=tmp_path / "j.db")
        assert result.earlier
        (file,) = await result.save(tmp_path / "out")
    assert Path(file).exists()


async def test_two_batches_with_two_journals(sandbox: Sandbox, tmp_path: Path) -> None:
    """Two batches of one client keep their journals apart, also in one folder."""
    found: dict[str, list[Result]] = {}

    async def work(client: Any, name: str) -> None:
        prompts = (f"{name} {number}" for number in range(30))
        found[name] = await run(client, prompts, journal=tmp_path / f"{name}.db", save_to=tmp_path)

    async with client_of(sandbox, limits=FAST) as client, anyio.create_task_group() as group:
        for name in ("a", "b"):
            group.start_soon(work, client, name)
    for name, results in found.items():
        assert all(result.ok and result.request.prompt.startswith(name) for result in results)
        assert len(rows_of(tmp_path / f"{name}.db")) == 30


async def test_a_second_batch_does_not_sweep_the_first_ones_folder(sandbox: Sandbox, tmp_path: Path) -> None:
    """A file that is being written by a batch stays when another one, with its own journal, begins beside it."""
    with Journal(tmp_path / "a.db"):
        part = tmp_path / ".imagen-now.part"
        part.write_bytes(b"half a picture of the batch that has a.db")
        async with client_of(sandbox) as client:
            assert (await run(client, ["x"], journal=tmp_path / "b.db", save_to=tmp_path))[0].ok
        assert part.exists()


async def test_what_a_killed_process_left_is_swept(sandbox: Sandbox, tmp_path: Path) -> None:
    """A batch whose journal lies in its folder removes the halves of an earlier process there."""
    part = tmp_path / ".imagen-99999999-old.part"
    part.write_bytes(b"half")
    async with client_of(sandbox) as client:
        assert (await run(client, ["x"], journal=tmp_path / "j.db", save_to=tmp_path))[0].ok
    assert not part.exists()


async def test_one_journal_twice_at_once_is_refused(sandbox: Sandbox, tmp_path: Path) -> None:
    """A second batch on a journal in use raises on entering and sends nothing; the first goes on."""
    async with client_of(sandbox) as client:
        async with client.batch(["a", "b"], journal=tmp_path / "j.db") as first:
            with pytest.raises(JournalError):
                await run(client, ["c"], journal=tmp_path / "j.db")
            assert sum([1 async for result in first if result.ok]) == 2
        assert (await run(client, ["c"], journal=tmp_path / "j.db"))[0].ok
    assert sandbox.ledger.tasks_by_prompt() == {"a": 1, "b": 1, "c": 1}


async def test_a_batch_that_is_cancelled_while_it_opens_leaves_no_lock(sandbox: Sandbox, tmp_path: Path) -> None:
    """Cancelled at any moment of its opening, a batch gives its journal back to the next one of this process."""
    async with client_of(sandbox) as client:
        for turns in range(8):
            path = tmp_path / f"{turns}.db"
            opening = asyncio.ensure_future(client.batch(["a"], journal=path).__aenter__())
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening
            with anyio.move_on_after(1):
                while not is_free(path):
                    await anyio.sleep(0.02)
            assert is_free(path), f"cancelled after {turns} turns"
    assert sandbox.ledger.creates == []


def is_free(path: Path) -> bool:
    """True when a journal can be opened for writing."""
    with suppress(JournalError), Journal(path):
        return True
    return False


async def test_a_wrong_key_loses_no_running_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resumed with a wrong key, tasks that run stay running in the journal, for a run with the right one."""
    monkeypatch.setattr("imagen_async._core.transitions.asking.PATIENCE", 0.2)
    prompts, path = ["a", "b", "c"], tmp_path / "j.db"
    with running_sandbox(Sandbox(latency=Latency(median=0.8, sigma=0), limits=FAST)) as server:
        async with client_of(server) as client:
            async with client.batch(prompts, journal=path):
                while len(server.ledger.tasks) < 3:
                    await anyio.sleep(0.01)
        assert states_of(path) == {"running": 3}
        async with type(client)("sandbox", api_key="a-wrong-key", base_url=server.url) as stranger:
            results = await run(stranger, prompts, journal=path)
            assert all(isinstance(result.error, AuthenticationError) and result.task_id for result in results)
        assert states_of(path) == {"running": 3}
        async with client_of(server) as client:
            results = await run(client, prompts, journal=path)
    assert all(result.ok for result in results)
    assert len(server.ledger.creates) == 3


async def test_a_task_that_took_too_long_is_collected_by_the_next_run(tmp_path: Path) -> None:
    """A deadline leaves the task to the journal, and the next run has its picture for nothing."""
    with running_sandbox(Sandbox(latency=Latency(median=1.0, sigma=0))) as server:
        async with client_of(server) as client:
            (late,) = await run(client, ["a"], journal=tmp_path / "j.db", deadline=0.3)
            assert isinstance(late.error, DeadlineExceeded)
            assert states_of(tmp_path / "j.db") == {"running": 1}
            (result,) = await run(client, ["a"], journal=tmp_path / "j.db")
    assert (result.ok, result.earlier, result.task_id) == (True, False, late.task_id)
    assert len(server.ledger.creates) == 1


async def test_a_key_that_no_file_can_hold_is_one_bad_result(sandbox: Sandbox, tmp_path: Path) -> None:
    """Half a character in a key fails its own request, not the batch."""
    requests = [ImageRequest("a", key="\ud800"), ImageRequest("b", key="fine"), ImageRequest("c", key="null\0null")]
    async with client_of(sandbox) as client:
        results = await run(client, requests, journal=tmp_path / "j.db", ordered=True)
    assert [result.ok for result in results] == [False, True, True]
    assert isinstance(results[0].error, InvalidRequest)


async def test_ten_thousand_earlier_results_take_no_memory(sandbox: Sandbox, tmp_path: Path) -> None:
    """A lazy input whose jobs are all done streams through a resumed batch, and nothing of it stays."""
    path, count = tmp_path / "j.db", 10_000
    prompts = [ImageRequest(f"prompt {number}") for number in range(count)]
    rows = [entry(n, key=stable_key(request), account="sandbox") for n, request in enumerate(prompts)]
    with Journal(path) as journal:
        journal.write(rows)
        journal.write(replace(row, state="done", task_id=row.key, urls=("https://x.example/1.png",)) for row in rows)
    del rows
    async with client_of(sandbox) as client:
        tracemalloc.start()
        try:
            seen = 0
            async with client.batch((f"prompt {n}" for n in range(count)), journal=path, ordered=True) as results:
                async for result in results:
                    assert result.earlier
                    seen += 1
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert seen == count
    assert sandbox.ledger.creates == []
    assert peak < 8e6, "about a window of results, of which each takes a kilobyte or two"


async def test_a_disk_that_fills_up_ends_the_batch(sandbox: Sandbox, tmp_path: Path) -> None:
    """Nothing is sent that was not recorded; the batch raises; with room the next run pays nothing twice."""
    path, prompts, got = tmp_path / "j.db", [f"p{number} " + "long " * 300 for number in range(200)], []
    async with client_of(sandbox, limits=Limits(Rate(20, per=0.2), Rate(500, per=0.5), running=300)) as client:
        with Journal(path) as journal:
            fill(journal, spare=30)
            with pytest.raises(JournalError, match="Make room"), anyio.fail_after(20):
                async with client.batch((prompt for prompt in prompts), journal=journal) as results:
                    async for result in results:
                        got.append(result)
            sent = {create.prompt for create in sandbox.ledger.creates}
            assert 10 < len(sent) < 200
            assert {row for row, values in rows_of(path).items() if values["attempts"]} >= sent
        results = await run(client, prompts, journal=path)
    assert sum(isinstance(result.error, UnknownOutcome) for result in results) == 200 - sum(r.ok for r in results)
    assert most_tasks(sandbox) == 1
    # A create whose answer found no room in the journal is held: it may have made a task.
    assert sum(result.ok for result in results) > 200 - 40


async def test_tasks_of_a_sandbox_that_died_with_its_client_are_made_again(tmp_path: Path) -> None:
    """What ran at a client's own sandbox is gone with it, and cost nothing: the next run makes it anew, at once."""
    prompts = [f"p{number}" for number in range(6)]
    async with Client("sandbox") as client, client.batch(prompts, journal=tmp_path / "j.db") as results:
        while results.progress.running < 6:
            await anyio.sleep(0.01)
    with anyio.fail_after(20):
        async with Client("sandbox") as client:
            again = await run(client, prompts, journal=tmp_path / "j.db")
    assert [result.ok for result in again] == [True] * 6


async def test_the_bills_are_what_the_provider_billed(tmp_path: Path) -> None:
    """Pictures, a failure that costs nothing and a lost answer: the journal's total is what was, or may be, billed."""
    path = tmp_path / "j.db"
    with running_sandbox(Sandbox(latency=Latency(median=0.05))) as sandbox:
        sandbox.order("create", None, "reset_after")
        sandbox.order("task", None, None, "fail_word")
        async with client_of(sandbox) as client:
            results = await run(client, [f"p{number}" for number in range(5)], journal=path)
    failed = [result.error for result in results if not result.ok]
    assert sorted(type(error).__name__ for error in failed) == ["GenerationFailed", "UnknownOutcome"]
    with JournalReader(path) as reader:
        assert sum(bill.total * count for bill, count in reader.bills()) == 8 * 4
        assert all(bill.open == 0 for bill, _ in reader.bills())


def journal_of(path: Path, **terms: Any) -> BatchJournal:
    """The journal of a batch of kie.ai and Apikley."""
    router = Router({name: PROVIDERS[name] for name in ("kie", "apikley")})
    given = JobOptions(**{"deadline": 900.0, "retries": 2, "resubmits": 1, "save_to": None, **terms})  # type: ignore[typeddict-item]
    return BatchJournal(path, JobFactory(router, ImageRequest("-"), given))


async def test_a_request_whose_task_runs_is_met_as_taken_up(tmp_path: Path) -> None:
    """A request that an earlier run has sent is the job that goes on, and how it would be made new; others are new."""
    with Journal(tmp_path / "j.db") as journal:
        journal.write([entry(0), entry(1)])
        running = entry(0, state="running", task_id="t0", accepted_at=1000.0)
        journal.write([running, entry(1, state="done", task_id="t1", urls=("u",), credits=8.0)])
    journal = journal_of(tmp_path / "j.db")
    await journal.open()
    try:
        (job,) = journal.resume.take_up(5, iter(range(100, 200)).__next__, lambda job: 0.0)
        assert (job.id, job.owner, job.task_id, job.account) == (100, 5, "t0", "kie")
        assert [offer.account for offer in job.way.offers] == ["kie"]
        assert (job.retries, job.resubmits) == (0, 0), "no leave to be sent again before the input has it"
        met = journal.resume.meet(ImageRequest("prompt 0", key="k0"), 0, 5, 7)
        assert isinstance(met, TakenUp)
        assert met.job_id == 100
        assert (met.leave.retries, met.leave.resubmits, met.leave.is_doubted) == (2, 1, False)
        assert met.leave.route is not None
        assert [offer.account for offer in met.leave.route.offers] == ["kie", "apikley"]
        done = journal.resume.meet(ImageRequest("prompt 1", key="k1"), 1, 5, 8)
        assert isinstance(done, Result)
        assert done.earlier
        new = journal.resume.meet(ImageRequest("prompt 2", key="k2"), 2, 5, 9)
        assert not isinstance(new, Result | TakenUp)
        assert (new.id, new.key, new.task_id) == (9, "k2", None)
        assert journal.resume.spent_credits() == 8, "the running one is still to be billed, and reserved by its job"
    finally:
        await journal.close()


async def test_what_another_account_left_is_not_taken_up(tmp_path: Path) -> None:
    """A task of an account that the client does not have stays as it is, and its request says whose it is."""
    with Journal(tmp_path / "j.db") as journal:
        journal.write([entry(0, account="mine")])
        journal.write([entry(0, state="running", task_id="t0", account="mine", accepted_at=1000.0)])
    journal = journal_of(tmp_path / "j.db")
    await journal.open()
    try:
        assert journal.resume.take_up(5, iter(range(100, 200)).__next__, lambda job: 0.0) == []
        met = journal.resume.meet(ImageRequest("prompt 0", key="k0"), 0, 5, 7)
        assert isinstance(met, Result)
        assert isinstance(met.error, ConfigurationError)
        assert "belongs to mine" in met.error.message
        assert (met.error.task_id, journal.resume.spent_credits()) == ("t0", 8)
    finally:
        await journal.close()


# What an earlier run has seen


def questions(prompts: Iterable[str], *earlier: Iterable[str]) -> tuple[int, float]:
    """How often a run over these prompts asks, after such earlier ones, and when first, counted from its start."""
    with quick_folder() as folder:
        world = World(folder, Network(PROVIDERS["kie"], latency=Latency(median=20, sigma=0.1), round_trip=0.0))
        for each in earlier:
            world.live(list(each))
        ledger = world.network.ledger
        asked, sent = len(ledger.poll_times), len(ledger.creates)
        results = world.live(list(prompts))
        assert all(result.ok for result in results)
        return len(ledger.poll_times) - asked, ledger.poll_times[asked] - ledger.create_times[sent]


def test_a_later_run_knows_how_long_tasks_take() -> None:
    """A batch whose journal has seen tasks of 20 s asks about none of its first ones early, and less often in all."""
    new = [f"new {number}" for number in range(40)]
    many, soon = questions(new)
    fewer, later = questions(new, (f"old {number}" for number in range(100)))
    assert soon < 2
    assert later > 8
    assert fewer < 0.75 * many


def test_a_run_without_earlier_ones_knows_the_record_only() -> None:
    """A journal in which nothing has ended yet teaches nothing: the first question comes as without it."""
    assert questions(["new"], [])[1] == questions(["new"])[1]
