"""The journal's file: what is written is read, what is not whole is refused, and one process writes it."""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from clients import client_of
from commands import rows_of
from conftest import naming
from inner import Journal, JournalReader, Locked, explained, held_file, prepare_folder
from journals import by_hand, entry, keys, place
from msgspec.structs import replace

from imagen_async import ConfigurationError, ImageFile, ImageRequest, JournalError, Limits, Rate, Result
from imagen_async._journal.file import KEPT, STRETCH
from imagen_async._journal.groups import write_group
from imagen_async._journal.schema import APPLICATION_ID, SCHEMA_VERSION
from imagen_async._journal.wal import OpenFiles, Stamps
from imagen_async._sqlite import connect
from imagen_async.ports import EntryError
from imagen_async.sandbox import Sandbox

__all__ = ["place"]

ODD = ImageRequest('a\n"fox" 🦊\0\u2028', model="", seed=2**63 - 1, key="", extra={"ü": [None, -0.5, {"": 2**53}]})
TIMES = {"latency": 0.5, "sent_at": 1e9, "accepted_at": 2e9, "ended_at": 3e9}
ENTRIES = [
    entry(0, state="queued", attempts=0, sent_at=None, price=None, request=ImageRequest("a")),
    entry(1, key="狐 '🦊';\0", position=2**40, state="running", request=ODD, task_id="t?", urls=("", "'ü'")),
    entry(2, state="failed", error=EntryError("InvalidRequest", "", 422, 200, "r-1", 5.5), retried=3, **TIMES),
    entry(3, state="unknown", error=EntryError("UnknownOutcome", "狐", "E\0"), lost=2, lost_creates=(1, 2**31)),
    entry(4, state="done", error=EntryError("DownloadFailed", "no code"), attempts=9, credits=0.0),
]
NAMES = ["a.png", "ein Fuchs.png", "狐 🦊.png", "it's #1? 100%.png", "..png"]


def test_what_is_written_is_read(place: Path) -> None:
    """Every field of every record comes back as it was, in any script, also by a link to the folder, and once moved."""
    here, there = place / "here", place / "there"
    here.mkdir()
    (place / "link").symlink_to(here)
    # Not where a folder's real name is no text: then by the name that leads there.
    (place / "caf\udce9").mkdir()
    (place / "coffee").symlink_to(place / "caf\udce9")
    paths = [folder / name for folder in (here / "out", place / "elsewhere", place / "coffee") for name in NAMES]
    files = tuple(ImageFile(str(path), "ab" * 32, 9, "image/png", "https://x.example") for path in paths)
    rows = [*ENTRIES[:-1], replace(ENTRIES[-1], files=files)]
    with Journal(place / "link" / "j.db") as journal:
        journal.write(replace(row, state="submitting") for row in rows)
        journal.write(rows)
    with JournalReader(here / "j.db") as reader:
        assert [reader.find(row.key) for row in rows] == rows
    here.rename(there)
    with JournalReader(there / "j.db") as reader:
        moved = tuple(replace(each, path=each.path.replace(str(here), str(there), 1)) for each in files)
        assert [reader.find(row.key) for row in rows] == [*rows[:-1], replace(rows[-1], files=moved)]
        assert keys(reader.entries()) == keys(rows)


def test_any_sqlite_program_reads_it(place: Path) -> None:
    """The file is one table of jobs with plain words and JSON, marked as ours, of this version, in WAL mode."""
    with Journal(place / "run.db") as journal:
        journal.write([entry(1)])
        journal.write([entry(1, state="done", task_id="t", urls=("https://x.example/1.png",), credits=8.0)])
        synchronous = journal._writing.execute("PRAGMA synchronous").fetchone()
        assert synchronous == (2,), "FULL: a commit is on the disk when it returns"
    (row,) = rows_of(str(place))
    told = {"key": "k1", "state": "done", "task_id": "t", "credits": 8.0, "urls": '["https://x.example/1.png"]'}
    assert row | told == row
    with closing(sqlite3.connect(place / "run.db")) as connection:
        names = ("application_id", "user_version", "journal_mode")
        pragmas = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names]
    assert pragmas == [APPLICATION_ID, SCHEMA_VERSION, "wal"]


UNSTORABLE = {
    "key": "\udcff",
    "task_id": "\udcff",
    "request": ImageRequest("half \ud83d"),
    "error": EntryError("TransportError", "caf\udce9"),
    "credits": 10**30,
    "position": 2**63,
    "account": {"kie"},
    "urls": (object(),),
}


@pytest.mark.parametrize(("field", "value"), UNSTORABLE.items(), ids=UNSTORABLE)
def test_one_that_cannot_be_stored_is_left_out_alone(place: Path, field: str, value: Any) -> None:
    """No half character, number or object keeps what it stands beside from the file, and nothing of it is blamed."""
    bad = entry(1, **{field: value})
    with Journal(place / "j.db") as journal:
        for _ in range(2):
            for group in ([entry(0), bad], [bad, entry(2)]):
                assert list(write_group(journal, group)) == [bad.key]
            with pytest.raises((ValueError, TypeError)):
                journal.write([entry(0), bad])
        assert keys(journal.entries()) == ["k0", "k2"]
        journal.note({"command": "batch caf\udce9.txt"})
        assert journal.notes()["command"] == "batch caf\ufffd.txt"


def test_a_lock_of_another_program_is_no_long_wait(place: Path) -> None:
    """A write that another program is in the way of fails soon, and as what may be tried again; reading goes on."""
    with Journal(place / "j.db") as journal, closing(sqlite3.connect(place / "j.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        with pytest.raises(Locked, match="is locked by another program"):
            journal.write([entry(1)])
        assert (time.monotonic() - began < 1, journal.find("k1")) == (True, None)
        other.execute("ROLLBACK")
        journal.write([entry(1)])


def test_records_come_in_the_order_of_their_ending(place: Path) -> None:
    """Those that ended come first, as they ended, then the others by their place in the input."""
    with Journal(place / "j.db") as journal:
        journal.write(entry(number) for number in range(4))
        journal.write([entry(3, state="done", ended_at=5.0), entry(1, state="done", ended_at=9.0)])
        assert [each.key for each in journal.entries()] == ["k3", "k1", "k0", "k2"]


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


def test_keys_are_counted_however_many_there_are(place: Path) -> None:
    """Each meeting of a key is counted, those on disk too, and anew in each run; other programs are in no way."""
    with Journal(place / "j.db") as journal, closing(sqlite3.connect(place / "j.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for count in (20_000, 9):
            journal.begin_run()
            times = [journal.times_seen(f"k{number % (count * 3 // 4)}") for number in range(count)]
            assert times == [1] * (count * 3 // 4) + [2] * (count - count * 3 // 4)
            journal.end_run()


def test_a_latency_that_cannot_be_is_passed_over(place: Path) -> None:
    """What somebody else wrote into a journal, or a provider with a broken clock, does not spoil a schedule."""
    broken = ["'soon'", "1.7e9", "-1.0", "9e999", "x'00'"]
    with Journal(place / "j.db") as journal:
        journal.write(entry(number) for number in range(6))
        journal.write(entry(number, state="done", latency=2.0) for number in range(6))
    by_hand(place / "j.db", *(f"UPDATE jobs SET latency = {each} WHERE key = 'k{n}'" for n, each in enumerate(broken)))
    with Journal(place / "j.db") as journal:
        assert [known for _, known in journal.latencies("kie", 9)] == [2.0]


def test_times_of_the_latest_creates_are_kept_whatever_the_clock_says(place: Path) -> None:
    """When creates were sent is known of far more than any window holds, and of no more, also where clocks were set."""
    numbers = f"WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {KEPT + 1})"
    Journal(place / "j.db").close()
    by_hand(place / "j.db", f"INSERT INTO sends {numbers} SELECT 'kie', i, 1e10 - i FROM n")
    with Journal(place / "j.db") as journal:
        times = [sent_at for sent_at, _ in journal.sent_since("kie", 0.0)]
        assert (len(times), max(times), min(times)) == (KEPT, 1e10 - 2, 1e10 - KEPT - 1)


def test_creates_are_looked_at_from_the_latest_on(place: Path) -> None:
    """One that was over last is found behind thousands that were over before, also where others sent more."""
    numbers = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {STRETCH - 1})"
    more = [f"INSERT INTO sends {numbers} SELECT '{account}', i, 2.0 FROM n" for account in ("kie", "other")]
    with Journal(place / "j.db") as journal:
        journal.write(entry(number, sent_at=1.0) for number in range(3))
        by_hand(place / "j.db", *more)
        journal.write(entry(number, state="running", sent_at=None, accepted_at=number * 100.0) for number in (1, 2))
        journal.write([entry(3, sent_at=195.0)])
        assert journal.sent_since("kie", 150.0) == [(195.0, None), (1.0, 200.0)]
        late = [(2.0, None)] * (STRETCH - 1)
        assert sorted(journal.sent_since("kie", 61.5)) == [(1.0, 100.0), (1.0, 200.0), *late, (195.0, None)]


def damage(path: Path) -> None:
    """Write over the bytes in its middle."""
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"\xff" * 8192)


NEXT, FOREIGN = f"PRAGMA user_version = {SCHEMA_VERSION + 1}", "PRAGMA application_id = 7"
UNUSABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "newer": (lambda path: by_hand(path, NEXT), "newer version .*its schema is 6, this version knows 5.*upgrade"),
    "foreign": (lambda path: by_hand(path, FOREIGN), "is no journal of imagen_async. Choose another"),
    "text": (lambda path: path.write_text("a red fox\n" * 300), "is no journal .* Nothing was sent. Choose another"),
    "emptied": (lambda path: path.write_bytes(b""), "is (empty. Nothing was sent.*restore it|no journal)"),
    "damaged": (damage, "is damaged .* Nothing was sent. Restore it from a copy"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[: 1 << 16]), "is damaged .* Nothing was sent. Restore it"),
}


@pytest.mark.parametrize("kind", [Journal, JournalReader])
@pytest.mark.parametrize("what", UNUSABLE)
def test_a_file_that_cannot_be_used_is_told_and_left_as_it_is(place: Path, kind: type, what: str) -> None:
    """The error says what is wrong and what to do; the file is not changed by the look at it, and closed."""
    path, (spoil, words) = place / "j.db", UNUSABLE[what]
    with Journal(path) as journal:
        journal.write(entry(number) for number in range(1000))
    spoil(path)
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


def test_a_place_that_takes_no_journal_is_told(place: Path) -> None:
    """A missing folder, one that cannot be written and a folder in the file's place are told; a look makes no file."""
    for path in ("missing/j.db", "/proc/j.db", "."):
        with pytest.raises(JournalError, match=r"cannot be written.*Nothing was sent.*choose another"):
            Journal(place / path)
    with pytest.raises(JournalError, match="There is no journal"):
        JournalReader(place / "j.db")
    assert not (place / "j.db").exists()


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


MEANT: list[tuple[Exception, str]] = [
    (of_sqlite("SQLITE_NOTADB"), r"is no journal \(as SQLite says\)\. Nothing was sent"),
    (of_sqlite("SQLITE_CORRUPT_VTAB"), r"is damaged \(as SQLite says\)\. Nothing was sent"),
    (of_sqlite("SQLITE_FORMAT"), "is damaged"),
    (of_sqlite("SQLITE_FULL"), r"is full or fails.*was not sent\. Make room first"),
    (of_sqlite("SQLITE_IOERR_WRITE"), "is full or fails"),
    (of_sqlite("SQLITE_CANTOPEN"), r"cannot be written.*Nothing was sent\. Mend its folder"),
    (of_sqlite("SQLITE_READONLY_DBMOVED"), "cannot be written"),
    (of_sqlite("SQLITE_BUSY_SNAPSHOT"), r"is locked by another program.*Close that first"),
    (of_sqlite("SQLITE_MISUSE"), r"cannot be used: as SQLite says"),
    (sqlite3.ProgrammingError("closed"), "cannot be used: closed"),
    (msgspec.ValidationError("no number"), r"is damaged \(no number\)"),
    (OSError(5, "no device"), r"cannot be used: no device\. Nothing was sent"),
    (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "half"), r"its name is not UTF-8\. Nothing was sent"),
]


def test_every_error_is_told_as_what_it_means() -> None:
    """Whatever SQLite or the system says, the journal's error names the file, the cause, and what to do."""
    for error, words in MEANT:
        with naming(error, words), pytest.raises(JournalError, match=rf"run\.db.*{words}"), explained("run.db"):
            raise error


OTHER_PROCESS = """
import resource, sys
from imagen_async import ImageRequest
from imagen_async._journal import Journal
from imagen_async.ports import JournalEntry
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
journal, request = Journal(sys.argv[1]), ImageRequest("long " * 1000)
for number, _ in enumerate(sys.stdin):
    journal.write([JournalEntry(f"k{number}", number, "submitting", "kie", request, attempts=1, sent_at=5.0)])
    print("written", flush=True)
"""


def other_process(path: Path) -> Any:
    """A process that writes a job for each line that it is told, on a disk where a file has room for some."""
    command, pipe = [sys.executable, "-c", OTHER_PROCESS, str(path)], subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, bufsize=1)


def test_one_writer_whatever_the_file_is_called(place: Path) -> None:
    """A second writer is refused while the first one is open, by any name of the file, and only then."""
    (place / "link.db").symlink_to(place / "j.db")
    for name in ("j.db", "link.db", f"../{place.name}/j.db"):
        with Journal(place / "j.db"):
            with pytest.raises(JournalError, match=rf"in use.*process {os.getpid()}.*Nothing was sent"):
                Journal(place / name)
        Journal(place / name).close()


def test_a_killed_process_leaves_no_lock(place: Path) -> None:
    """While another process writes, this one is refused and can look; once that is killed, it can write at once."""
    path = place / "j.db"
    with other_process(path) as process:
        try:
            process.stdin.write("one\n")
            assert process.stdout.readline() == "written\n"
            with pytest.raises(JournalError, match=rf"in use.*process {process.pid}"):
                Journal(path)
            assert seen_in(path) == (True, [("submitting", 0, None)])
        finally:
            process.kill()
    assert seen_in(path) == (False, [("submitting", 0, None)])
    Journal(path).close()
    assert seen_in(path) == (False, [("unknown", 1, 5.0)])


def seen_in(path: Path) -> tuple[bool, list[tuple[str, int, float | None]]]:
    """Whether somebody writes a journal, and its jobs as somebody else sees them: state, lost creates, end."""
    with JournalReader(path) as reader:
        return reader.is_being_written(), [(each.state, each.lost, each.ended_at) for each in reader.entries()]


IN_ANOTHER_PROCESS = """
import sqlite3, sys
from imagen_async._journal import Journal, JournalReader
path = sys.argv[1]
for look in (
    lambda: Journal(path).close(),
    lambda: sqlite3.connect(path + "-lock", timeout=0).execute("BEGIN EXCLUSIVE"),  # as the version before does
    lambda: JournalReader(path).is_being_written(),
    lambda: sqlite3.connect(path).execute("SELECT key FROM jobs").fetchall(),
):
    try:
        print(look())
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
"""


@pytest.mark.parametrize("is_known", [True, False], ids=["known", "found out"])
def test_where_open_files_have_no_locks_sqlites_own_serve(
    place: Path, is_known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system without them still lets one journal in at a time, and tells readers that it is in use."""
    monkeypatch.setattr(held_file, "_without", {place.stat().st_dev} if is_known else set())

    def refuse(*_: object) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    for _ in range(2):
        with Journal(place / "j.db") as journal, JournalReader(place / "j.db") as reader:
            journal.write([entry(1)])
            assert reader.is_being_written()
            with pytest.raises(JournalError, match="in use"):
                Journal(place / "j.db")


@pytest.mark.parametrize("is_known", [True, False], ids=["locks of the open file", "a system without these"])
def test_a_program_may_read_its_own_folder(place: Path, is_known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who zips the folder of a batch in its process loses neither the lock nor, to those who look, what was noted."""
    monkeypatch.setattr(held_file, "_without", set() if is_known else {place.stat().st_dev})
    path = place / "j.db"
    with Journal(path) as journal:
        journal.write([entry(1)])
        shutil.make_archive(str(place / "backup"), "zip", place)
        if not is_known:
            journal.write([entry(2)])  # there the locks are renewed with each commit
        before = (place / "j.db-wal").stat().st_ino
        command = [sys.executable, "-c", IN_ANOTHER_PROCESS, str(path)]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        assert [words.split(":")[0] for words in told] == ["JournalError", "OperationalError", "True", told[3]]
        assert "in use" in told[0]
        assert "locked" in told[1]
        assert "k1" in told[3]
        assert (place / "j.db-wal").stat().st_ino == before
        journal.write([entry(3)])
    assert {each.name for each in place.iterdir()} == {"j.db", "j.db-lock", "backup.zip"}


def test_a_batch_of_the_version_before_is_met(place: Path) -> None:
    """What holds the lock as SQLite does, in another process or in this one, keeps a batch out."""
    with closing(sqlite3.connect(place / "j.db-lock", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(JournalError, match="in use"):
            Journal(place / "j.db")
    Journal(place / "j.db").close()


FORKED = """
import os, sys
from imagen_async._journal import Journal
journal = Journal(sys.argv[1])
if os.fork() == 0:
    for use in (lambda: journal.note({}), lambda: journal.write([]), journal.begin_run):
        try:
            use()
        except Exception as error:
            print(type(error).__name__, f"of process {os.getppid()}, of which" in str(error), end=" ")
    print(flush=True)
sys.stdin.read()
"""


def test_a_fork_has_no_lock(place: Path) -> None:
    """A fork of a batch's process is told that the journal is not its own, and keeps nobody out once that is killed."""
    command, pipe = [sys.executable, "-c", FORKED, str(place / "j.db")], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().split() == ["JournalError", "True"] * 3
        with pytest.raises(JournalError, match="in use"):
            Journal(place / "j.db")
        process.kill()
        process.wait()
        Journal(place / "j.db").close()


def replace_by_copy(path: Path) -> None:
    """As programs do that keep folders alike."""
    shutil.copyfile(path, path.with_name("part"))
    path.with_name("part").replace(path)


def overwrite(path: Path) -> None:
    """With what it was before it was a journal."""
    path.with_name("whole").write_bytes(path.read_bytes())
    Journal(path.with_name("other.db")).close()
    path.write_bytes(path.with_name("other.db").read_bytes())


def rename_what_was_saved(path: Path) -> None:
    """As the error says."""
    (saved,) = path.parent.glob("j.db-rescued-*")
    saved.replace(path)


def put_back(path: Path) -> None:
    """With its old name."""
    path.with_name("away").rename(path)


def beside(path: Path, end: str) -> Path:
    """What lies beside it."""
    return path.with_name(path.name + end)


LOSSES: dict[str, tuple[Callable[[Path], object], str, str, Callable[[Path], object] | None]] = {
    "removed": (Path.unlink, "removed or replaced.*saved as", "missing.*Give that the name", rename_what_was_saved),
    "renamed": (lambda path: path.rename(path.with_name("away")), "was renamed.*its name", "is missing", put_back),
    "replaced": (replace_by_copy, "was removed or replaced", "", None),
    "overwritten": (overwrite, "was overwritten.*Restore it", "-wal is not of this", None),
    "-wal removed": (lambda path: beside(path, "-wal").unlink(), "-wal was removed or replaced", "", None),
    "-wal replaced": (lambda path: replace_by_copy(beside(path, "-wal")), "-wal was removed", "is not of this", None),
    "lock removed": (lambda path: beside(path, "-lock").unlink(), "-lock was removed or replaced", "", None),
    "lock replaced": (lambda path: replace_by_copy(beside(path, "-lock")), "-lock was removed or replaced", "", None),
}


@pytest.mark.parametrize(("lose", "words", "refused", "mend"), LOSSES.values(), ids=list(LOSSES))
def test_a_journal_that_is_lost_takes_no_intent(place: Path, lose: Any, words: str, refused: str, mend: Any) -> None:
    """Where others would find another file no create goes out, what exists is noted, and nothing is begun anew."""
    path = place / "j.db"
    with Journal(path) as journal:
        journal.begin_run()
        journal.write([entry(1), entry(2)])
        lose(path)
        with pytest.raises(JournalError, match=r"removed|renamed|overwritten"):
            journal.write([entry(3), entry(1, state="running", task_id="t1")])
        journal.write([entry(2, state="running", task_id="t2")])
        assert [journal.find(f"k{number}") is None for number in (1, 2, 3)] == [False, False, True]
        with pytest.raises(JournalError, match=words):
            journal.end_run()
    if refused:
        for kind in (Journal, JournalReader):
            with pytest.raises(JournalError, match=refused):
                kind(path)
    if mend is not None:
        mend(path)
    if mend is not None or not refused:
        with Journal(path) as journal:
            assert {each.key: each.task_id for each in journal.entries()} == {"k1": "t1", "k2": "t2"}


def test_all_that_is_held_is_closed(place: Path) -> None:
    """Where what lies beside a journal was replaced, what was held of it before is closed in the end, too."""
    path = place / "j.db"
    with Journal(path), closing(OpenFiles(str(path))) as beside_it:
        replace_by_copy(beside(path, "-shm"))
        with closing(connect(str(path), "ro")) as connection:
            beside_it.hold(Stamps(connection))
    gc.collect()  # which warns of each file that was left open


@pytest.mark.slow
async def test_a_batch_sends_nothing_more_once_its_journal_is_lost(place: Path, imagen_sandbox: Sandbox) -> None:
    """What runs still comes out, then the error; with the file in its place the rest is made, and nothing twice."""
    path, ledger, came = place / "j.db", imagen_sandbox.ledger, list[Result]()
    limits = Limits(submit=Rate(4, per=0.3), status=Rate(100, per=1), running=100)
    for errors in ([JournalError], []):
        with pytest.raises(*errors, match="was renamed") if errors else nullcontext():
            async with client_of(imagen_sandbox, limits=limits) as client:
                async with client.batch([f"fox {number}" for number in range(12)], journal=path) as results:
                    async for result in results:
                        came.append(result)
                        if errors and len(came) == 1:
                            path.rename(path.with_name("away"))
        if errors:
            assert len(came) == len(ledger.creates) < 12
            put_back(path)
    assert [result.ok for result in came[-12:]] == [True] * 12
    assert sorted(ledger.tasks_by_prompt().values()) == [1] * 12


def test_what_cannot_be_saved_is_told_one_by_one(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where the whole folder is gone, the log has each task that would be paid for again."""
    (place / "out").mkdir()
    with Journal(place / "out" / "j.db") as journal:
        journal.write([entry(number) for number in range(2)])
        shutil.rmtree(place / "out")
        journal.write([entry(number, state="running", task_id=f"t{number}") for number in range(2)])
        with pytest.raises(JournalError, match="The log tells"):
            journal.end_run()
    assert [f"kie: task t{n} of 'k{n}'" in text for n, text in enumerate(caplog.messages)] == [True, True]


PAIRS = {
    "as a kill leaves them": ("now", "now", None),
    "the file alone": ("now", "", None),
    "changes of a later age": ("then", "now", r"-wal is not of this .*Put back the file.*To go on.*remove"),
    "changes of a later age of one run": ("now, begun", "now", "is not of this"),
    "changes of an earlier age": ("later", "now", "is not of this"),
    "changes of another file": ("other", "now", "is not of this"),
    "changes that were written over": ("now", "cut", "is not of this"),
    "changes alone": ("", "now", r"is missing, and .*-wal has what it knew last.*To begin anew, remove"),
}


@pytest.mark.parametrize(("file", "changes", "refused"), PAIRS.values(), ids=list(PAIRS))
def test_changes_are_taken_for_those_of_their_own_file_only(
    place: Path, file: str, changes: str, refused: str | None
) -> None:
    """What lies beside a file that was restored or replaced is never put into it, nor is it removed, or passed over."""
    path, ages = place / "j.db", dict[str, bytes]()
    for age in ("then", "now", "later"):
        with Journal(path) as journal:
            ages[f"{age}, begun"] = path.read_bytes()
            for number in range(2, 400):  # more than SQLite leaves beside the file
                journal.write([entry(number)])
            journal.write([entry(1, account=age)])
            ages[age], ages[f"{age}-wal"] = path.read_bytes(), beside(path, "-wal").read_bytes()
    ages["cut-wal"] = bytes(4096) + ages["now-wal"][4096:]
    with Journal(place / "other.db"):
        ages["other"] = (place / "other.db").read_bytes()
    copy = place / "copy" / "j.db"
    copy.parent.mkdir()
    for end, name in (("", file), ("-wal", changes and f"{changes}-wal")):
        if name:
            beside(copy, end).write_bytes(ages[name])
    for kind in (JournalReader, Journal):
        with nullcontext() if refused is None else pytest.raises(JournalError, match=refused), kind(copy) as journal:
            found = journal.find("k1")
            assert found is not None
            assert found.account == ("now" if changes else "then")
    if refused is not None:
        assert beside(copy, "-wal").read_bytes() == ages[f"{changes}-wal"]
        assert not file or copy.read_bytes() == ages[file]


def test_a_reader_sees_each_commit(place: Path) -> None:
    """A reader that stays open sees what is written since, and a writer does not wait for it."""
    path = place / "j.db"
    with Journal(path) as journal, JournalReader(path) as reader, JournalReader(path) as slow:
        journal.write(entry(number) for number in range(1000, 1010))
        listing = slow.entries()
        for number in range(10):
            next(listing)
            journal.write([entry(number)])
            assert reader.find(f"k{number}") == entry(number)
        listing.close()


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


BESIDE = {
    "closed in good order": ({}, True),
    "closed, and something left": ({"j.db-wal": False}, True),
    "killed, and looked at since": ({"j.db-wal": True, "j.db-shm": True}, True),
    "killed": ({"j.db-wal": True}, False),
}


@pytest.mark.parametrize(("beside", "is_read"), BESIDE.values(), ids=list(BESIDE))
def test_a_journal_where_nothing_can_be_written(place: Path, beside: dict[str, bool], is_read: bool) -> None:
    """What lies in a folder that cannot be written is read as it is, and refused where that would tell old news."""
    folder = place / "archive"
    folder.mkdir()
    with Journal(place / "j.db") as journal:
        journal.write([entry(1)])
        for name, is_full in beside.items():
            (folder / name).write_bytes((place / name).read_bytes() if is_full else b"")
        shutil.copy(place / "j.db", folder)
    if not any(beside.values()):
        shutil.copy(place / "j.db", folder)
    with without_rights(folder), nullcontext() if is_read else pytest.raises(JournalError, match="cannot be written"):
        with JournalReader(folder / "j.db") as reader:
            assert (keys(reader.entries()), reader.is_being_written()) == (["k1"], False)


def test_a_folder_is_tried_before_anything_is_paid_for(place: Path) -> None:
    """A folder is made where it can be, and what takes no files, or has no name that a disk could hold, is told."""
    assert prepare_folder(place / "a" / "ü") == str(place / "a" / "ü")
    assert list((place / "a" / "ü").iterdir()) == []
    (place / "file").touch()
    for name, words in (("file", "Nothing can be written to"), ("\ud800", "not UTF-8"), ("\udfff", "not UTF-8")):
        with pytest.raises(ConfigurationError, match=words):
            prepare_folder(place / name)
    with without_rights(place / "a"), pytest.raises(ConfigurationError, match=r"Permission denied\. Free the disk"):
        prepare_folder(place / "a")


@pytest.mark.parametrize("undone", ["ABORT", "ROLLBACK"], ids=["undone by us", "undone by SQLite, as on a full disk"])
def test_a_group_that_finds_no_room_is_not_written_in_part(place: Path, undone: str) -> None:
    """What fails halfway is undone, and written as it was once there is room."""
    group, when = [entry(1), entry(2)], "BEFORE INSERT ON jobs WHEN NEW.key = 'k2'"
    with Journal(place / "j.db") as journal:
        by_hand(place / "j.db", f"CREATE TRIGGER full {when} BEGIN SELECT RAISE({undone}, 'no room'); END")
        with pytest.raises(JournalError, match="no room"):
            journal.write(group)
        assert keys(journal.entries()) == []
        by_hand(place / "j.db", "DROP TRIGGER full")
        journal.write(group)
        assert keys(journal.entries()) == ["k1", "k2"]


def test_a_file_that_another_program_locks_is_told(place: Path) -> None:
    """While another program holds the right to write, a change is refused, and written once that has let go."""
    with Journal(place / "j.db") as journal, closing(sqlite3.connect(place / "j.db", isolation_level=None)) as other:
        journal._writing.execute("PRAGMA busy_timeout = 1")  # not SQLite's half a minute
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(JournalError, match=r"is locked by another program .* Close that first"):
            journal.write([entry(1)])
        other.execute("ROLLBACK")
        assert journal.find("k1") is None
        journal.write([entry(1)])


def test_a_disk_that_really_takes_no_more(place: Path) -> None:
    """Where the system itself refuses to write, the error says so, and every commit before it is there."""
    with other_process(place / "j.db") as process:
        told, error = process.communicate("one more\n" * 1000, timeout=60)
    assert re.search("JournalError: .* is full or fails .* Make room", error)
    with JournalReader(place / "j.db") as reader:
        assert reader.counts() == {"submitting": told.count("written")}
    assert told.count("written") > 10
