"""The file by which processes share a key's limits: real files, real processes, and whatever befalls them."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Literal

import msgspec
import pytest
from inner import (
    MOST_SHARED,
    Desk,
    Held,
    Position,
    Seat,
    Seats,
    SharedAccount,
    SharedFile,
    Shelf,
    StandsStill,
    Wish,
    Word,
    beside,
    boot_clock,
    folder,
    shared_limiter,
    shared_seat,
    shelves_of,
)

from imagen_async import Limits, Rate

RATE = Rate(20, per=60)
Kind = Literal["submit", "status"]

LIMITS = Limits(RATE, RATE, running=1000)

MEMBER = """
import asyncio, os, signal, sys, time
from pathlib import Path
from imagen_async import Limits, Rate
from imagen_async._shared.desk import Desk, Shelf
from imagen_async._shared.seat import Seat

async def main():
    limits = Limits(Rate(20, per=60), Rate(20, per=60), running=1000)
    desk = Desk([Shelf(Path(sys.argv[1]), "key", False)], "kie")
    seat = Seat(lambda: desk, lambda desk: desk.close(), 0, limits, 60.0, 10.0)
    creates, now = seat.limits["submit"], asyncio.get_running_loop().time
    # work

asyncio.run(main())
"""


def position(wanted: int = 0, held: Held | None = None, name: str = "0") -> Position:
    """What a client says of its creates."""
    return Position(name, {"submit": Wish(RATE, held or Held(), wanted)}, 0, 1000, lease=80.0)


def said_to(file: SharedFile, wanted: int = 0, held: Held | None = None) -> Word:
    """What a file tells a client of its creates."""
    return file.exchange(position(wanted, held))["submit"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a key's files lie, without the ends of their names."""
    return tmp_path / "state" / "key"


@pytest.fixture(autouse=True)
def _folder(path: Path) -> None:
    path.parent.mkdir()


def command_of(path: Path, work: str) -> list[str]:
    """What to run for a process that does some work at the key's desk."""
    code = MEMBER.replace("# work", work.strip().replace("\n", "\n    "))
    return [sys.executable, "-W", "error", "-c", code, str(path.parent)]


@contextmanager
def member(path: Path, work: str) -> Iterator[subprocess.Popen[str]]:
    """Another process, with a seat at the key's desk, that does some work and says so; killed at the end."""
    command = command_of(path, f"{work}\nprint('done', flush=True)\nsignal.pause()")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "done\n"
        yield process
        process.kill()


TAKE_SIX = """
await creates.lease(6)
for _ in range(4):
    creates.take(now())
for _ in range(3):
    assert creates.leaves(now())
"""
"""Six places: three have left, one waits for its connection, two are at hand."""


def test_the_first_use_of_a_key_does_not_wait(path: Path) -> None:
    """Where the key was never used on this machine nothing can be in its window."""
    with closing(SharedFile(path)) as file:
        assert said_to(file, wanted=50).granted == 20
        assert said_to(file, wanted=50, held=Held([(boot_clock() + 80, 20)])).granted == 0


def test_what_one_process_has_no_other_has(path: Path) -> None:
    """Two that have the file open see one window, also where the second comes later, or the first has left."""
    with closing(SharedFile(path)) as other:
        with closing(SharedFile(path)) as file:
            assert said_to(file, wanted=12).granted == 12
            assert said_to(other, wanted=50).granted == 8
            held = Held([], [(boot_clock(), 12)])
            file.exchange(msgspec.structs.replace(position(0, held), leaves=True))
        assert said_to(other, wanted=50, held=Held([(boot_clock() + 80, 8)])).granted == 0
        assert said_to(other, wanted=50).granted == 8


def delete(path: Path) -> None:
    """Remove the file, and leave what lies beside it."""
    path.with_suffix(".db").unlink()


def spoil(path: Path) -> None:
    """Write something else over it."""
    path.with_suffix(".db").write_bytes(b"not a database at all" * 500)


def empty(path: Path) -> None:
    """Leave nothing in it."""
    path.with_suffix(".db").write_bytes(b"")


def garble(path: Path) -> None:
    """Have it hold something that is no state."""
    with closing(sqlite3.connect(path.with_suffix(".db"))) as connection, connection:
        connection.execute("UPDATE state SET content = ?", (b"\x01",))


def strip(path: Path) -> None:
    """Have it be a database of somebody else's."""
    with closing(sqlite3.connect(path.with_suffix(".db"))) as connection, connection:
        connection.execute("DROP TABLE state")


def forget(path: Path) -> None:
    """Have it hold nothing."""
    with closing(sqlite3.connect(path.with_suffix(".db"))) as connection, connection:
        connection.execute("DELETE FROM state")


def replace(path: Path) -> None:
    """Put the copy of an hour ago in its place."""
    shutil.copy(path.with_suffix(".old"), path.with_suffix(".new"))
    path.with_suffix(".new").replace(path.with_suffix(".db"))


def write_over(path: Path) -> None:
    """Write the copy over it: the file is the same one."""
    path.with_suffix(".db").write_bytes(path.with_suffix(".old").read_bytes())


def remove_all(path: Path) -> None:
    """Remove the whole folder."""
    shutil.rmtree(path.parent)


ACCIDENTS = [delete, spoil, empty, garble, strip, forget, replace, write_over]


def used(path: Path) -> SharedFile:
    """A file of which there is an older copy, and of which somebody has had five places since."""
    file = SharedFile(path)
    shutil.copy(path.with_suffix(".db"), path.with_suffix(".old"))
    assert said_to(file, wanted=5).granted == 5
    return file


@pytest.mark.parametrize("accident", [*ACCIDENTS, remove_all])
def test_after_an_accident_nothing_goes_for_a_window(path: Path, accident: Callable[[Path], None]) -> None:
    """Whatever becomes of the file while it is used: whoever has it waits for a window, and then all goes on."""
    with closing(used(path)) as file, closing(SharedFile(path)) as other:
        accident(path)
        before = boot_clock()
        for each in (file, other, file):
            word = said_to(each, wanted=50)
            assert word.granted == 0
            assert before + 60 <= word.blocked_until <= boot_clock() + 60
        file.change(lambda state: setattr(state, "lost_at", state.lost_at - 60))
        assert said_to(other, wanted=9).granted == 9
        assert said_to(file, wanted=50, held=Held([(boot_clock() + 80, 5)])).granted == 6


@pytest.mark.parametrize("accident", ACCIDENTS)
def test_who_comes_after_an_accident_waits_as_well(path: Path, accident: Callable[[Path], None]) -> None:
    """What lies beside the file tells that the key was used, and by how many changes: also where all have ended."""
    used(path).close()
    accident(path)
    with closing(SharedFile(path)) as file:
        assert said_to(file, wanted=50).granted == 0


def test_a_loss_is_one_loss_for_all(path: Path) -> None:
    """Whoever has seen more changes than the one who begins anew takes the new state for no older one."""
    with closing(used(path)) as busy, closing(SharedFile(path)) as seldom:
        for _ in range(30):
            said_to(busy)
        delete(path)
        lost = said_to(seldom).blocked_until
        assert said_to(busy).blocked_until == said_to(seldom).blocked_until == lost


def test_what_is_no_number_of_a_change_is_none(path: Path) -> None:
    """Whatever is written over the marker, the file itself goes on as it was."""
    used(path).close()
    path.with_suffix(".lock").write_bytes(b"used" + b"x" * 100)
    with closing(SharedFile(path)) as file:
        assert said_to(file, wanted=50).granted == 15


@pytest.mark.parametrize(("name", "value"), [("boot", "another"), ("at", 1e12)])
def test_another_boot_frees_what_a_lease_and_a_window_cover(path: Path, name: str, value: object) -> None:
    """What was had before the boot is out since that at the latest; where nobody can tell boots, a later time tells."""
    with closing(SharedFile(path)) as file, closing(SharedFile(path)) as other:
        said_to(file, wanted=20)
        assert said_to(other, wanted=50).granted == 0
        file.change(lambda state: setattr(state, name, value))
        assert said_to(other, wanted=50).granted == 20


def test_who_is_known_by_another_name_has_nothing_twice(path: Path) -> None:
    """Where what lies beside the file was removed, and not the file, each keeps what it has there."""
    with closing(SharedFile(path)) as file:
        said_to(file, wanted=5)
        for name in (".lock", ".roster"):
            path.with_suffix(name).unlink()
        assert said_to(file, wanted=50, held=Held([(boot_clock() + 80, 5)])).granted == 15


def test_of_a_process_that_is_killed_only_what_may_have_left_is_held(path: Path) -> None:
    """Of its six places three are free at once, as two were at hand, and one waited for its connection."""
    with closing(SharedFile(path)) as file, member(path, TAKE_SIX) as process:
        assert said_to(file, wanted=50).granted == 14
        process.kill()
        process.wait()
        said = position(50, Held([(boot_clock() + 80, 14)]))
        said.wishes["status"] = Wish(RATE, Held())
        while (word := file.exchange(said)["submit"]).granted == 0:
            time.sleep(0.01)  # who is dead is looked at ten times a second
        assert word.granted == 3


def test_what_was_answered_just_before_a_death_is_held(path: Path) -> None:
    """An answer that nobody else could read yet frees nothing: it counts as one on the way, beside the next."""
    answered = f"{TAKE_SIX}\ncreates.answered(now())\ncreates.answered(now())\ncreates.leaves(now())"
    with closing(SharedFile(path)) as file, member(path, answered) as process:
        process.kill()
        process.wait()
        assert said_to(file, wanted=50).granted == 16


def test_a_process_that_is_stopped_keeps_what_it_has(path: Path) -> None:
    """It may go on: until its leases are over nothing of it is free."""
    with closing(SharedFile(path)) as file, member(path, TAKE_SIX) as process:
        process.send_signal(signal.SIGSTOP)
        assert said_to(file, wanted=50).granted == 14


IN_ITS_TURN = """
desk.exchange = lambda *arguments: None
from imagen_async._shared.file import SharedFile
def stop(state):
    state.members.clear()
    print('done', flush=True)
    signal.pause()
SharedFile(Path(sys.argv[1], "key")).change(stop)
"""


def test_a_process_that_is_stopped_in_its_turn_holds_all_and_is_named(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is changed and nothing goes until it goes on, or is dead; then all is as it was before its turn."""
    monkeypatch.setattr(beside, "PATIENCE", 0.05)
    with closing(SharedFile(path)) as file:
        assert said_to(file, wanted=3).granted == 3
        with member(path, IN_ITS_TURN) as process:
            for _ in range(2):
                with pytest.raises(StandsStill, match=f"process {process.pid} is stopped"):
                    said_to(file, wanted=3)
            process.kill()
            process.wait()
            assert said_to(file, wanted=50, held=Held([(boot_clock() + 80, 3)])).granted == 17


def test_another_descriptor_that_is_closed_takes_no_turn(path: Path) -> None:
    """Whoever reads the files in the same process ends nobody's turn, and kills nobody."""
    with closing(SharedFile(path)) as file, closing(SharedFile(path)) as other:
        assert said_to(other, wanted=5).granted == 5

        def read(state: object) -> None:
            for each in path.parent.iterdir():
                each.read_bytes()
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(beside, "PATIENCE", 0.05)
                with pytest.raises(StandsStill):
                    said_to(other, wanted=5)

        file.change(read)
        assert said_to(file, wanted=50).granted == 15


FULL = """
import resource, signal, sys
from contextlib import closing
from pathlib import Path
from imagen_async import Rate
from imagen_async._core.shared_limits import Held, Position, Wish
from imagen_async._shared.file import SharedFile

def said(**wish):
    return file.exchange(Position("0", {"submit": Wish(Rate(20, per=60), Held(), **wish)}, 0, 1000, 80.0))["submit"]

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with closing(SharedFile(Path(sys.argv[1]))) as file:
    said(wanted=2)
    size, hard = Path(sys.argv[1] + ".db").stat().st_size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, hard))
    try:
        said(wanted=7)
    except Exception as error:
        print(type(error).__name__)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    print(said(wanted=50).granted)
"""


def test_a_disk_that_takes_nothing_gives_nothing(path: Path) -> None:
    """Where a change cannot be written it was not made, and nobody is given a place by it."""
    command = [sys.executable, "-W", "error", "-c", FULL, str(path)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert lines in (["OperationalError", "20"], ["DatabaseError", "20"], ["OSError", "20"])


def test_a_fork_has_nothing_of_it(path: Path) -> None:
    """A child can mark nothing as its parent, and keeps none of its files: the parent's turn and place are its own."""
    desk = Desk([Shelf(path.parent, path.name, False)], "kie")
    asyncio.run(exchanged(desk, position(wanted=5)))
    child = os.fork()
    if not child:
        os._exit(10 + desk.mark("submit"))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 10
    with closing(SharedFile(path)) as file:
        assert desk.mark("submit")
        assert said_to(file, wanted=50).granted == 15
    desk.close()


async def exchanged(desk: Desk, said: Position, unmarked: Mapping[Kind, int] | None = None) -> Word | None:
    """What a desk tells a client of its creates; None where nothing could be found out."""
    loop = asyncio.get_running_loop()
    told: asyncio.Future[dict[Kind, Word] | None] = loop.create_future()
    desk.exchange(said, unmarked or {}, lambda words, calls: loop.call_soon_threadsafe(told.set_result, words) and None)
    words = await told
    return None if words is None else words["submit"]


async def test_a_mark_counts_until_others_can_read_how_it_ended(path: Path) -> None:
    """Whatever is marked meanwhile, one that has ended is taken away with the exchange that tells of it."""

    def marks() -> int:
        return path.with_suffix(".roster").read_bytes()[32]

    desk = Desk([Shelf(path.parent, path.name, False)], "kie")
    await exchanged(desk, position(wanted=5))
    assert [desk.mark("submit") for _ in range(2)] == [True, True]
    assert marks() == 2
    await exchanged(desk, position(held=Held([(boot_clock() + 80, 1)], [(boot_clock(), 1)])), {"submit": 1})
    assert marks() == 1
    assert desk.mark("submit", 2)
    assert desk.mark("submit")
    assert marks() == 4
    desk.close()


async def test_of_many_status_calls_a_few_are_noted_at_a_time(path: Path) -> None:
    """Never fewer are noted than may have left; what was noted ahead is right again with the next exchange."""

    def noted() -> int:
        return path.with_suffix(".roster").read_bytes()[36]

    with seat_at(path) as seat:
        limiter, loop = seat.limits["status"], asyncio.get_running_loop()
        await limiter.lease(18)
        seen = []
        for _ in range(5):
            limiter.take(loop.time())
            seen.append(noted())
        assert seen == [3, 3, 3, 5, 5]
        limiter.answered(loop.time())
        while noted() != 4:
            await asyncio.sleep(0.01)


async def test_places_that_are_used_up_at_once_were_too_few(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes back in a moment is given twice as many, as far as a tenth of all; who does not is given fewer."""
    with seat_at(path) as seat:
        limiter, loop = seat.limits["submit"], asyncio.get_running_loop()
        seen = []
        monkeypatch.setattr(shared_limiter, "QUICK", 60.0)
        for _ in range(4):
            await limiter.lease(1)
            seen.append(limiter.taken(loop.time()))
            while limiter.ready_at(loop.time()) < loop.time():
                limiter.take(loop.time())
        assert seen == [1, 3, 5, 7]
        monkeypatch.setattr(shared_limiter, "QUICK", 0.0)
        await limiter.lease(1)
        assert limiter.taken(loop.time()) == 8


async def test_where_no_folder_can_be_used_the_process_counts_alone_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning names each folder and why it cannot be, and what to do; then all places are the process's own."""
    (tmp_path / "file").write_text("")
    shelves = [Shelf(tmp_path / "file", "key", True), Shelf(tmp_path / "file" / "below", "key", False)]
    desk = Desk(shelves, "kie")
    word = await exchanged(desk, position(wanted=50))
    assert word is not None
    assert word.granted == 20
    assert desk.mark("submit")
    await exchanged(desk, position(wanted=50))
    (record,) = caplog.records
    assert (record.levelno, record.message.count(str(tmp_path))) == (logging.WARNING, 4)
    assert "IMAGEN_ASYNC_STATE" in record.message
    desk.close()


async def test_what_cannot_be_found_out_is_told_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """While somebody stands still in its turn nothing is given, and one line says who it is, until all goes on."""
    desk = Desk([Shelf(path.parent, path.name, False)], "kie")
    await exchanged(desk, position())
    with pytest.MonkeyPatch.context() as patch, member(path, IN_ITS_TURN) as process:
        patch.setattr(beside, "PATIENCE", 0.05)
        assert [await exchanged(desk, position(wanted=5)) for _ in range(3)] == [None, None, None]
        assert [str(process.pid) in record.message for record in caplog.records] == [True]
    word = await exchanged(desk, position(wanted=5))
    assert word is not None
    assert word.granted == 5
    desk.close()


async def test_what_cannot_be_marked_does_not_leave(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where it cannot be noted that a create leaves, none does, and a line says so."""
    desk = Desk([Shelf(path.parent, path.name, False)], "kie")
    await exchanged(desk, position())
    assert desk.mark("submit")
    assert desk._store is not None
    desk._store.close()
    assert not desk.mark("submit")
    assert ["what leaves cannot be noted" in record.message for record in caplog.records] == [True]
    desk.close()


@contextmanager
def seat_at(path: Path, before_it_enters: Callable[[], None] = lambda: None) -> Iterator[Seat]:
    """A client's seat at a key, whose desk stays open until the block ends."""
    desk = Desk([Shelf(path.parent, path.name, False)], "kie")

    def enter() -> Desk:
        before_it_enters()
        return desk

    seat = Seat(enter, lambda desk: None, 0, LIMITS, 60.0, 10.0)
    yield seat
    seat.leave()
    desk.close()


async def test_a_refusal_that_comes_while_others_are_told_is_told_them_next(path: Path) -> None:
    """What happens between a word and its answer is no part of it: everybody hears of it with the next one."""
    with seat_at(path) as seat:
        limiter, loop = seat.limits["submit"], asyncio.get_running_loop()
        await limiter.lease(2)
        limiter.take(loop.time())
        assert limiter.leaves(loop.time())
        said = limiter.dealings.wish()
        limiter.refused(loop.time())
        limiter.block(loop.time())
        limiter.answered(loop.time())
        assert (said.refusals, said.blocks, said.answers) == ([], [], 0)
        limiter.hear(said, Word(0, 0.0, 17, 0.0, 0.0, 0), loop.time())
        assert limiter.limit == 17
        assert [len(each) for each in (limiter.dealings.news.refusals, limiter.dealings.news.blocks)] == [1, 1]
        assert limiter.dealings.news.answers == 1


async def test_where_no_thread_can_be_started_it_is_tried_again(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A machine that has no thread left, for a moment, ends nothing: a line says so, and places come later."""
    monkeypatch.setattr(shared_seat, "AGAIN", 0.0)
    tries = iter([RuntimeError("no thread"), None])

    def fail_once() -> None:
        if (error := next(tries)) is not None:
            raise error

    with seat_at(path, fail_once) as seat:
        await seat.limits["submit"].lease(1)
        assert [record.levelno for record in caplog.records] == [logging.WARNING]


async def test_places_that_are_not_used_are_others_again(path: Path) -> None:
    """What was leased for requests that did not go is given back within moments, without being asked."""
    with seat_at(path) as seat:
        limiter, loop = seat.limits["submit"], asyncio.get_running_loop()
        await limiter.lease(12)
        with closing(SharedFile(path)) as file:
            for _ in range(2):
                limiter.take(loop.time())
            while limiter.ready_at(loop.time()) < float("inf"):
                await asyncio.sleep(0.01)
            while (word := said_to(file, wanted=50)).granted < 18:
                await asyncio.sleep(0.01)
            assert word.granted == 18


async def test_a_lease_that_is_nearly_over_is_no_place_any_more(path: Path) -> None:
    """After a stop, whatever was at hand is not used: its lease may end before its request is there."""
    desk = Desk([Shelf(path.parent, path.name, False)], "kie")
    seat = Seat(lambda: desk, lambda desk: None, 0, LIMITS, 60.0, 10.0)
    loop = asyncio.get_running_loop()
    for limiter in seat.limits.values():
        limiter.hear(limiter.dealings.wish(), Word(2, boot_clock() + 69.0, 20, 0.0, 0.0, 0), loop.time())
        assert limiter.ready_at(loop.time()) == float("inf")
        limiter.hear(limiter.dealings.wish(), Word(2, boot_clock() + 80.0, 20, 0.0, 0.0, 0), loop.time())
        limiter.take(loop.time())
        limiter.take(loop.time())
        assert limiter.ready_at(loop.time()) < loop.time()
    submit = seat.limits["submit"]
    assert submit.leaves(loop.time())
    seat.way = 69.5
    assert not submit.leaves(loop.time())
    submit.released(loop.time())
    seat.leave()
    desk.close()


async def test_what_is_given_to_one_that_has_left_is_not_its_own(path: Path) -> None:
    """A client that is closed and opened again in a moment hears no more of what it asked for before."""
    with seat_at(path) as seat:
        limiter, loop = seat.limits["submit"], asyncio.get_running_loop()
        asked = asyncio.create_task(limiter.lease(5))
        for _ in range(3):
            await asyncio.sleep(0)  # until it has asked
        seat.leave()
        limiter.reopen(loop.time())
        asked.cancel()
        limiter.occupied(0)
        with closing(SharedFile(path)) as file:
            while said_to(file, wanted=50).granted < 20:
                await asyncio.sleep(0.01)
        assert limiter.ready_at(loop.time()) == float("inf")


ONCE = """
await creates.lease(1)
creates.take(now()); assert creates.leaves(now()); creates.answered(now())
desk.do(lambda store: time.sleep(0.1))  # a slow disk
seat.leave()
"""


def test_who_ends_has_left(path: Path) -> None:
    """A process that closes its client and ends at once has said so: nobody waits for a lease of it."""
    for _ in range(3):
        subprocess.run(command_of(path, ONCE), check=True)
    with closing(SharedFile(path)) as file:
        held = file.change(lambda state: (len(state.members), state.left["submit"]))
        assert (held[0], held[1].leases, sum(count for _, count in held[1].answered)) == (0, [], 3)


# ------------------------------------------------------------------------------------------------------- where it lies


def test_the_folders_are_tried_in_their_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder that was named is the only one; else the runtime's, the user's state, and one for temporary files."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("HOME", "/h")
    last = Path(tempfile.gettempdir()) / f"imagen_async-{os.getuid()}"
    usual = {"XDG_RUNTIME_DIR": "/run/user/7", "XDG_STATE_HOME": "/h/state"}
    found = [Path("/run/user/7/imagen_async"), Path("/h/state/imagen_async"), last]
    assert list(folder.folders(None, usual)) == found
    home = Path("/h/.local/state/imagen_async")
    assert list(folder.folders(None, {"XDG_RUNTIME_DIR": "run", "XDG_STATE_HOME": "state"})) == [home, last]
    assert list(folder.folders(None, {**usual, "IMAGEN_ASYNC_STATE": "/s"})) == [Path("/s")]
    assert list(folder.folders(tmp_path, {"IMAGEN_ASYNC_STATE": "/s"})) == [tmp_path]
    # As these systems have it; neither was tried.
    monkeypatch.setattr(sys, "platform", "darwin")
    assert list(folder.folders(None, {})) == [Path("/h/Library/Application Support/imagen_async"), last]
    monkeypatch.setattr(sys, "platform", "win32")
    assert list(folder.folders(None, {"LOCALAPPDATA": "/l"})) == [Path("/l/imagen_async"), last]


def test_a_folder_that_nobody_named_is_this_users_alone(tmp_path: Path) -> None:
    """It is made for nobody else; one where others may write, or that is a link of somebody's, is not used."""
    folder.make(tmp_path / "a" / "b", is_ours=True)
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    (tmp_path / "a" / "b").chmod(0o770)
    with pytest.raises(PermissionError, match="others may write"):
        folder.make(tmp_path / "a" / "b", is_ours=True)
    folder.make(tmp_path / "a" / "b", is_ours=False)
    (tmp_path / "link").symlink_to(tmp_path / "a" / "b")
    with pytest.raises(OSError, match="is no folder"):
        folder.make(tmp_path / "link", is_ours=True)
    folder.make(tmp_path / "link", is_ours=False)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_somebody_elses_folder_is_not_used(tmp_path: Path) -> None:
    """In a folder for everybody's temporary files somebody else may have been there first."""
    (tmp_path / "theirs").mkdir(mode=0o700)
    os.chown(tmp_path / "theirs", 12345, 12345)
    with pytest.raises(PermissionError, match="another user's"):
        folder.make(tmp_path / "theirs", is_ours=True)


def test_network_file_systems_are_told_by_the_mounts(tmp_path: Path) -> None:
    """The mount that leads to a folder last says what it is on; where the system tells nothing, nothing is known."""
    mounts = tmp_path / "mounts"
    where = str(tmp_path / "a b").replace(" ", "\\040")
    (tmp_path / "a b" / "c").mkdir(parents=True)
    mounts.write_text(f"/dev/sda / ext4 rw 0 0\nserver:/x {where} nfs4 rw 0 0\nproc /proc proc rw 0 0\n")
    assert folder.file_system(tmp_path / "a b" / "c", mounts) == "nfs4"
    assert folder.file_system(tmp_path / "a b", mounts) == "nfs4"
    assert folder.file_system(tmp_path, mounts) == "ext4"
    assert folder.file_system(tmp_path, tmp_path / "missing") == ""


def test_a_folder_on_a_network_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other machines' clocks are others, and locks may mean nothing there."""
    monkeypatch.setattr(folder, "_NETWORKS", (folder.file_system(tmp_path),))
    with pytest.raises(OSError, match="network file system"):
        folder.make(tmp_path, is_ours=False)


def test_the_files_of_a_key_that_nobody_uses_go_and_nobody_elses(path: Path) -> None:
    """After a month without use they are removed, not while anybody has them open, and nothing that is not ours is."""
    folder_of_keys = path.parent
    unused, open_still, fresh = ((digit * 24) for digit in "abc")
    for name in (unused, fresh):
        SharedFile(folder_of_keys / name).close()
    others = [f"{'d' * 24}.lock", f"{'d' * 24}.db", "poetry.lock", "poetry.db"]
    for name in others:
        (folder_of_keys / name).write_text("somebody else's")
    with closing(SharedFile(folder_of_keys / open_still)):
        for each in folder_of_keys.iterdir():
            if fresh not in each.name:
                os.utime(each, (0, 0))
        beside.sweep(folder_of_keys)
    left = [f"{name}.{end}" for name in (open_still, fresh) for end in ("db", "lock", "roster")]
    kept = {each.name for each in folder_of_keys.iterdir() if not each.name.endswith("-journal")}
    assert kept == {*others, *left}


def test_names_show_no_key_and_are_one_for_one_address() -> None:
    """However an address is spelled it is the same; another key, address or machine is another file."""
    key = "k" * 40

    def name(key: str = key, address: str = "https://api.kie.ai", *, is_for_this_machine: bool = False) -> str:
        return folder.name_of(key, address, is_for_this_machine=is_for_this_machine)

    assert name() == name(address="https://API.kie.ai:443/") == name(address="https://api.kie.ai/")
    others = {name("other"), name(address="https://api.kie.ai/v1"), name(address="http://api.kie.ai")}
    assert all(map(folder.is_name, (name(), *others)))
    assert not any(map(folder.is_name, ("poetry", name()[1:], name() + "0")))
    assert len({name(), *others, name(is_for_this_machine=True)}) == 5
    assert all(key[:3] not in each and "kie" not in each for each in (name(), *others))


def test_a_shelf_says_whether_somebody_named_its_folder(tmp_path: Path) -> None:
    """A folder that the program or the environment names is taken as it is, for containers too."""
    account = SharedAccount("k" * 16, "https://api.kie.ai", LIMITS, True)
    (named,) = shelves_of(account, {"IMAGEN_ASYNC_STATE": str(tmp_path)})
    (given,) = shelves_of(msgspec.structs.replace(account, shared=str(tmp_path)), {})
    assert named == given
    assert (named.folder, named.is_ours) == (tmp_path, False)
    usual = shelves_of(account, {"XDG_RUNTIME_DIR": "/run/user/7"})
    assert all(shelf.is_ours and shelf.name != named.name for shelf in usual)


@pytest.mark.parametrize("count", [MOST_SHARED, MOST_SHARED + 1])
async def test_of_very_many_keys_none_is_shared(count: int, caplog: pytest.LogCaptureFixture) -> None:
    """A client with more keys than files may be open for says so, once, and counts alone."""
    accounts = {
        f"kie-{number}": SharedAccount(f"k{number}", "https://a.example", LIMITS, True) for number in range(count)
    }
    are_few = count == MOST_SHARED
    assert Seats(accounts, 60, 10)("kie-0", "submit", LIMITS.submit).is_shared == are_few
    assert ["are too many to share" in record.message for record in caplog.records] == [True] * (not are_few)
