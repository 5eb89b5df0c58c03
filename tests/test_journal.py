"""The journal's file: what is written is read, what is not whole is refused, and one process writes it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from journals import by_hand, entry, keys, place, quick_folder, rows_of

from imagen_async import ConfigurationError, ImageFile, ImageRequest, JournalError
from imagen_async._folders import prepare_folder
from imagen_async._journal import Journal, JournalReader
from imagen_async._journal.explained import explained
from imagen_async._journal.file import KEPT
from imagen_async._journal.schema import APPLICATION_ID, SCHEMA_VERSION
from imagen_async.ports import EntryError, JournalEntry

__all__ = ["place"]

replace = msgspec.structs.replace

# What is written


figures = st.none() | st.floats(0, 1e9, allow_nan=False)
counts = st.integers(0, 9)
words = st.text(min_size=1)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
requests = st.builds(
    ImageRequest,
    prompt=words,
    model=st.none() | st.text(),
    seed=st.none() | st.integers(0, 2**63 - 1),
    key=st.none() | words,
    extra=st.dictionaries(st.text(), json_values, max_size=3),
)
entries = st.builds(
    JournalEntry,
    key=words,
    position=st.integers(0, 2**40),
    state=st.sampled_from(["submitting", "queued", "running", "ready", "done", "failed", "unknown"]),
    account=st.sampled_from(["kie", "apiin"]),
    request=requests,
    task_id=st.none() | words,
    urls=st.lists(words, max_size=2).map(tuple),
    error=st.none() | st.builds(EntryError, st.text(), st.text(), st.none() | st.integers() | st.text()),
    attempts=st.integers(1, 9),
    lost_creates=st.lists(st.integers(1, 2**31), max_size=3).map(tuple),
    **dict.fromkeys(("credits", "price", "latency", "sent_at", "accepted_at", "ended_at"), figures),
    **dict.fromkeys(("retried", "lost"), counts),
)


@settings(deadline=None, max_examples=30)
@given(
    st.lists(entries, max_size=4, unique_by=lambda row: row.key),
    st.sampled_from(["a.png", "ein Fuchs.png", "狐 🦊.png", "it's #1? 100%.png", "..png"]),
)
def test_what_is_written_is_read(rows: list[JournalEntry], name: str) -> None:
    """Every field of every record comes back as it was, in any script, also by a link to the folder, and once moved."""
    with quick_folder() as folder:
        here, there = folder / "here", folder / "there"
        here.mkdir()
        (folder / "link").symlink_to(here)
        places = (here / "out" / name, folder / "elsewhere" / name)
        files = tuple(ImageFile(str(path), "ab" * 32, 9, "image/png", "https://x.example") for path in places)
        rows = [replace(row, files=files if row.state == "done" else ()) for row in rows]
        with Journal(folder / "link" / "j.db") as journal:
            journal.write(replace(row, state="submitting") for row in rows)
            journal.write(rows)
        with JournalReader(here / "j.db") as reader:
            assert [reader.find(row.key) for row in rows] == rows
        here.rename(there)
        with JournalReader(there / "j.db") as reader:
            found = {row.key: row for row in reader.entries()}
        for row in rows:
            moved = tuple(replace(each, path=each.path.replace(str(here), str(there), 1)) for each in row.files)
            assert found[row.key] == replace(row, files=moved)


def test_records_come_in_the_order_of_their_ending(place: Path) -> None:
    """Those that ended come first, as they ended, then the others by their place in the input."""
    with Journal(place / "j.db") as journal:
        journal.write(entry(number) for number in range(4))
        journal.write([entry(3, state="done", ended_at=5.0), entry(1, state="done", ended_at=9.0)])
        assert [each.key for each in journal.entries()] == ["k3", "k1", "k0", "k2"]


def test_any_sqlite_program_reads_it(place: Path) -> None:
    """The file is one table of jobs with plain words and JSON, marked as ours, of this version, in WAL mode."""
    path = place / "j.db"
    with Journal(path) as journal:
        journal.write([entry(1)])
        journal.write([entry(1, state="done", task_id="t", urls=("https://x.example/1.png",), credits=8.0)])
        (synchronous,) = journal._writing.execute("PRAGMA synchronous").fetchone()
        assert synchronous == 2, "FULL: a commit is on the disk when it returns"
    (row,) = rows_of(path)
    assert (row["key"], row["state"], row["task_id"], row["credits"]) == ("k1", "done", "t", 8.0)
    assert row["urls"] == '["https://x.example/1.png"]'
    with closing(sqlite3.connect(path)) as connection:
        names = ("application_id", "user_version", "journal_mode")
        pragmas = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names]
    assert pragmas == [APPLICATION_ID, SCHEMA_VERSION, "wal"]


@pytest.mark.parametrize("name", ["what? 100% #1.db", "журнал 狐.db", "a;b&mode=ro.db"])
def test_any_file_name_will_do(place: Path, name: str) -> None:
    """No character of the path means anything to SQLite, and what a killed process left half made is in no way."""
    (place / f"{name}-new").write_bytes(b"half a journal")
    with Journal(place / name) as journal:
        journal.write([entry(1)])
    assert sorted(path.name for path in place.iterdir()) == sorted([name, f"{name}-lock"])
    assert str(place) not in open_files(), "its folder was opened to make its name durable, and is closed"
    with JournalReader(place / name) as reader:
        assert reader.find("k1") == entry(1)


@pytest.mark.parametrize("latency", ["'soon'", "1.7e9", "-1.0", "9e999", "x'00'"])
def test_a_latency_that_cannot_be_is_passed_over(place: Path, latency: str) -> None:
    """What somebody else wrote into a journal, or a provider with a broken clock, does not spoil a schedule."""
    with Journal(place / "j.db") as journal:
        journal.write(entry(number) for number in (1, 2))
        journal.write(entry(number, state="done", latency=float(number)) for number in (1, 2))
    by_hand(place / "j.db", f"UPDATE jobs SET latency = {latency} WHERE latency = 1.0")
    with Journal(place / "j.db") as journal:
        assert [known for _, known in journal.latencies("kie", 9)] == [2.0]


def test_times_of_creates_are_kept_for_a_day(place: Path) -> None:
    """When creates were sent is known for far longer than any window, and then forgotten."""
    old, recent = time.time() - KEPT - 60, time.time() - KEPT + 60
    with Journal(place / "j.db") as journal:
        journal.write([entry(1, sent_at=old), entry(2, sent_at=recent)])
    with Journal(place / "j.db") as journal:
        assert journal.sent_since("kie", 0.0) == [(recent, None)]


# What is no journal, or not whole


def written(path: Path, jobs: int = 1000) -> bytearray:
    """Make a journal of many pages; what is in it."""
    with Journal(path) as journal:
        journal.write(entry(number) for number in range(jobs))
    return bytearray(path.read_bytes())


def newer(path: Path, version: int) -> None:
    """Make a journal of a version that is not known here."""
    written(path, 1)
    by_hand(path, f"PRAGMA user_version = {version}")


def damaged(path: Path) -> None:
    """Make a journal with flipped bytes in its middle."""
    content = written(path)
    middle = slice(len(content) // 2, len(content) // 2 + 8192)
    content[middle] = bytes(byte ^ 0xFF for byte in content[middle])
    path.write_bytes(content)


NEXT = SCHEMA_VERSION + 1
UNUSABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "far newer": (lambda path: newer(path, 99), "newer version .*99.* upgrade. Nothing was sent"),
    "the next version": (lambda path: newer(path, NEXT), "its schema is 3, this version knows 2.*upgrade"),
    "foreign": (lambda path: by_hand(path, "CREATE TABLE jobs (key)"), "is no journal of imagen_async. Choose another"),
    "text": (lambda path: path.write_text("a red fox\n" * 300), "is no journal .* Nothing was sent. Choose another"),
    "emptied": (lambda path: path.write_bytes(b""), "is (empty. Nothing was sent.*restore it|no journal)"),
    "damaged": (damaged, "is damaged .* Nothing was sent. Restore it from a copy"),
    "cut": (lambda path: path.write_bytes(written(path)[: 1 << 16]), "is damaged .* Nothing was sent. Restore it"),
}


@pytest.mark.parametrize("kind", [Journal, JournalReader])
@pytest.mark.parametrize(("make", "words"), UNUSABLE.values(), ids=list(UNUSABLE))
def test_a_file_that_cannot_be_used_is_told_and_left_as_it_is(
    place: Path, kind: type[JournalReader], make: Callable[[Path], object], words: str
) -> None:
    """The error says what is wrong and what to do; the file is not changed by the look at it, and closed."""
    path = place / "j.db"
    make(path)
    content = path.read_bytes()
    with pytest.raises(JournalError, match=f"(?s){path} .*{words}"):
        kind(path)
    assert (path.read_bytes(), str(path) in open_files()) == (content, False)


def open_files() -> set[str]:
    """What this process has open, where the system tells."""
    found = set()
    for handle in Path("/proc/self/fd").glob("*"):
        with suppress(OSError):
            found.add(os.readlink(handle))
    return found


@pytest.mark.parametrize("path", ["missing/j.db", "/proc/j.db", "."])
def test_a_place_that_takes_no_journal_is_told(place: Path, path: str) -> None:
    """A missing folder, one that cannot be written and a folder in the file's place say so, with what to do."""
    with pytest.raises(JournalError, match=r"cannot be written.*Nothing was sent.*choose another"):
        Journal(place / path)


def test_a_reader_needs_a_journal(place: Path) -> None:
    """Looking at a journal that is not there makes none."""
    with pytest.raises(JournalError, match="There is no journal"):
        JournalReader(place / "j.db")
    assert list(place.iterdir()) == []


def test_a_damaged_field_is_told(place: Path) -> None:
    """A row whose JSON somebody else has spoilt is a damaged journal, not a traceback of a decoder."""
    with Journal(place / "j.db") as journal:
        journal.write([entry(1)])
    by_hand(place / "j.db", "UPDATE jobs SET request = '{'")
    with JournalReader(place / "j.db") as reader, pytest.raises(JournalError, match="damaged"):
        reader.find("k1")
    with pytest.raises(JournalError, match="damaged"):
        Journal(place / "j.db")


def test_a_run_that_could_not_begin_is_not_in_use(place: Path) -> None:
    """Where a run's beginning fails, the next attempt is told why as well, and not that a batch is at work."""
    with Journal(place / "j.db") as journal:
        by_hand(place / "j.db", "ALTER TABLE jobs RENAME TO others")
        for _ in range(2):
            with pytest.raises(JournalError, match="no such table"):
                journal.begin_run()


def of_sqlite(name: str) -> sqlite3.Error:
    """An error of SQLite's with its name."""
    error = sqlite3.OperationalError("as SQLite says")
    error.sqlite_errorname = name
    return error


MEANT: dict[str, tuple[Exception, str]] = {
    "no database": (of_sqlite("SQLITE_NOTADB"), r"is no journal \(as SQLite says\)\. Nothing was sent"),
    "corrupt": (of_sqlite("SQLITE_CORRUPT_VTAB"), r"is damaged \(as SQLite says\)\. Nothing was sent"),
    "of another format": (of_sqlite("SQLITE_FORMAT"), "is damaged"),
    "full": (of_sqlite("SQLITE_FULL"), r"is full or fails.*was not sent\. Make room first"),
    "failing": (of_sqlite("SQLITE_IOERR_WRITE"), "is full or fails"),
    "not to be opened": (of_sqlite("SQLITE_CANTOPEN"), r"cannot be written.*Nothing was sent\. Mend its folder"),
    "read only": (of_sqlite("SQLITE_READONLY_DBMOVED"), "cannot be written"),
    "locked": (of_sqlite("SQLITE_BUSY_SNAPSHOT"), r"is locked by another program.*Close that first"),
    "anything else": (of_sqlite("SQLITE_MISUSE"), r"cannot be used: as SQLite says"),
    "of Python's module": (sqlite3.ProgrammingError("closed"), "cannot be used: closed"),
    "not decoded": (msgspec.ValidationError("no number"), r"is damaged \(no number\)"),
    "of the system": (OSError(5, "no device"), r"cannot be used: no device\. Nothing was sent"),
    "of a name": (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "half"), r"its name is not UTF-8\. Nothing was sent"),
}


@pytest.mark.parametrize(("error", "words"), MEANT.values(), ids=list(MEANT))
def test_every_error_is_told_as_what_it_means(error: Exception, words: str) -> None:
    """Whatever SQLite or the system says, the journal's error names the file, the cause, and what to do."""
    with pytest.raises(JournalError, match=rf"run\.db.*{words}"), explained("run.db"):
        raise error


# One writer


OTHER_PROCESS = """
import resource, signal, sys
from imagen_async import ImageRequest, JournalError
from imagen_async._journal import Journal
from imagen_async.ports import JournalEntry
path, count, room = sys.argv[1], *map(int, sys.argv[2:])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
journal, written, request = Journal(path), 0, ImageRequest("long " * 1000)
try:
    while written < count:
        journal.write([JournalEntry(f"k{written}", written, "submitting", "kie", request, attempts=1, sent_at=5.0)])
        written += 1
    print("open", flush=True)
    sys.stdin.read()
except JournalError as error:
    print(written, error)
"""


def other_process(path: Path, count: int, room: int) -> subprocess.Popen[str]:
    """A process that writes so many jobs, on a disk where each file has so much room, and keeps the journal open."""
    command = [sys.executable, "-c", OTHER_PROCESS, str(path), str(count), str(room)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("name", ["j.db", "link.db", "../{}/j.db"])
def test_one_writer_whatever_the_file_is_called(place: Path, name: str) -> None:
    """A second writer is refused while the first one is open, by any name of the file, and only then."""
    (place / "link.db").symlink_to(place / "j.db")
    other = place / name.format(place.name)
    with Journal(place / "j.db"):
        with pytest.raises(JournalError, match=rf"in use.*process {os.getpid()}.*Nothing was sent"):
            Journal(other)
    Journal(other).close()


def test_a_killed_process_leaves_no_lock(place: Path) -> None:
    """While another process writes, this one is refused and can look; once that is killed, it can write at once."""
    path = place / "j.db"
    with other_process(path, count=1, room=1 << 30) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "open\n"
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
            assert [(each.state, each.lost, each.ended_at) for each in journal.entries()] == [("unknown", 1, 5.0)]


@pytest.mark.parametrize("spoil", [Path.unlink, lambda lock: (lock.unlink(), lock.touch())], ids=["gone", "another"])
def test_nothing_is_written_once_the_lock_is_gone(place: Path, spoil: Callable[[Path], object]) -> None:
    """A writer whose lock was removed or replaced writes no more: another batch may have begun, and would pay too."""
    with Journal(place / "j.db") as journal:
        spoil(place / "j.db-lock")
        with pytest.raises(JournalError, match="removed or replaced"):
            journal.write([entry(1)])
        assert journal.find("k1") is None


def test_a_reader_sees_each_commit(place: Path) -> None:
    """A reader that stays open sees what is written since, and a writer does not wait for it."""
    path = place / "j.db"
    with Journal(path) as journal, JournalReader(path) as reader, JournalReader(path) as slow:
        assert reader.is_being_written()
        journal.write(entry(number) for number in range(1000, 1010))
        listing = slow.entries()
        for number in range(10):
            next(listing)
            journal.write([entry(number)])
            assert reader.find(f"k{number}") == entry(number)
        listing.close()
    with JournalReader(path) as reader:
        assert not reader.is_being_written()


@contextmanager
def without_rights(folder: Path) -> Iterator[None]:
    """A folder and its files that can only be read, for whoever runs the test."""
    user = os.geteuid()
    for path in (folder.parent, folder, *folder.iterdir()):
        path.chmod(0o555)
    os.seteuid(user or 65534)
    try:
        yield
    finally:
        os.seteuid(user)
        for path in (folder, folder.parent):
            path.chmod(0o755)


BESIDE: dict[str, tuple[list[str], list[str], bool]] = {
    "closed in good order": ([], [], True),
    "closed, and something left": ([], ["j.db-wal"], True),
    "killed, and looked at since": (["j.db-wal", "j.db-shm"], [], True),
    "killed": (["j.db-wal"], [], False),
}


@pytest.mark.parametrize(("beside", "empty", "is_read"), BESIDE.values(), ids=list(BESIDE))
def test_a_journal_where_nothing_can_be_written_is_read_as_it_is_or_refused(
    place: Path, beside: list[str], empty: list[str], is_read: bool
) -> None:
    """What lies in a folder that cannot be written is read, unless that would tell old news."""
    folder = place / "archive"
    folder.mkdir()
    with Journal(place / "j.db") as journal:
        journal.write([entry(1)])
        for name in ("j.db", *beside):
            shutil.copy(place / name, folder)
    if not beside:
        shutil.copy(place / "j.db", folder)
    for name in empty:
        (folder / name).touch()
    with without_rights(folder), nullcontext() if is_read else pytest.raises(JournalError, match="cannot be written"):
        with JournalReader(folder / "j.db") as reader:
            assert (keys(reader.entries()), reader.is_being_written()) == (["k1"], False)


def test_a_folder_is_tried_before_anything_is_paid_for(place: Path) -> None:
    """A folder is made where it can be, and what takes no files, or has no name that a disk could hold, is told."""
    assert prepare_folder(place / "a" / "ü") == str(place / "a" / "ü")
    assert list((place / "a" / "ü").iterdir()) == []
    (place / "file").touch()
    unusable = (("file", "Nothing can be written to"), ("\ud800", "is not UTF-8"), ("\udfff", "is not UTF-8"))
    for name, words in unusable:
        with pytest.raises(ConfigurationError, match=words):
            prepare_folder(place / name)
    with without_rights(place / "a"), pytest.raises(ConfigurationError, match=r"Permission denied\. Free the disk"):
        prepare_folder(place / "a")


# A disk that is full


@pytest.mark.parametrize("undone", ["ABORT", "ROLLBACK"], ids=["undone by us", "undone by SQLite, as on a full disk"])
def test_a_group_that_finds_no_room_is_not_written_in_part(place: Path, undone: str) -> None:
    """What fails halfway is undone, and written as it was once there is room."""
    group = [entry(1), entry(2)]
    with Journal(place / "j.db") as journal:
        journal.write([entry(0)])
        by_hand(
            place / "j.db",
            "CREATE TRIGGER full BEFORE INSERT ON jobs WHEN NEW.key = 'k2' "
            f"BEGIN SELECT RAISE({undone}, 'no room'); END",
        )
        with pytest.raises(JournalError, match="no room"):
            journal.write(group)
        assert keys(journal.entries()) == ["k0"]
        by_hand(place / "j.db", "DROP TRIGGER full")
        journal.write(group)
        assert keys(journal.entries()) == ["k0", "k1", "k2"]


def test_a_disk_that_really_takes_no_more(place: Path) -> None:
    """Where the system itself refuses to write, the error says so, and every commit before it is there."""
    with other_process(place / "j.db", count=1_000_000, room=400_000) as process:
        written, _, told = process.communicate(timeout=60)[0].partition(" ")
    assert re.search("is full or fails .* Make room", told)
    with JournalReader(place / "j.db") as reader:
        assert reader.counts() == {"submitting": int(written)}
    assert int(written) > 10
