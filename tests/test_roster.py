"""Who of several processes lives: told by a lock that each holds, and by nothing that outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from inner import Roster, held_file, roster_module

MEMBER = """
import sys
from imagen_async._roster import Roster
roster = Roster(sys.argv[1])
roster.say(b"of itself")
print(roster.name, flush=True)
sys.stdin.read()
"""


@contextmanager
def member(path: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Another process that has a place: the name of that, and the process."""
    command = [sys.executable, "-c", MEMBER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process
        process.kill()


def test_who_is_killed_is_dead_at_once(tmp_path: Path) -> None:
    """A process lives by its lock: stopped it does, killed it does not; and what it said of itself stays."""
    with closing(Roster(str(tmp_path / "roster"))) as mine, member(tmp_path / "roster") as (name, process):
        process.send_signal(signal.SIGSTOP)
        assert mine.is_alive(name)
        assert mine.is_alive(mine.name)
        assert mine.pid(name) == process.pid
        process.kill()
        process.wait()
        assert not mine.is_alive(name)
        assert (mine.said(name) or b"").rstrip(b"\0") == b"of itself"


def test_who_has_a_dead_ones_place_is_another(tmp_path: Path) -> None:
    """A place comes again, a name never does: the dead one is not taken for whoever has its place now."""
    path = str(tmp_path / "roster")
    with closing(Roster(path)) as mine:
        with closing(Roster(path)) as other:
            dead = other.name
            other.say(b"of the first")
            assert mine.is_alive(dead)
        with closing(Roster(path)) as heir:
            assert heir.name.split("-")[0] == dead.split("-")[0]
            assert (mine.is_alive(heir.name), mine.is_alive(dead)) == (True, False)
            assert (mine.said(heir.name), mine.said(dead), mine.pid(dead)) == (bytes(32), None, None)


@pytest.mark.parametrize(
    "name", ["", "0", "x-0123456789abcdef", "0-short", "99999-0123456789abcdef", "1-0123456789abcdef"]
)
def test_what_is_no_name_is_nobodys(tmp_path: Path, name: str) -> None:
    """A name that no place ever had is nobody's."""
    with closing(Roster(str(tmp_path / "roster"))) as mine:
        assert (mine.is_alive(name), mine.pid(name), mine.said(name)) == (False, None, None)


def test_another_descriptor_that_is_closed_kills_nobody(tmp_path: Path) -> None:
    """Whoever reads the file beside it, in the same process, ends no place."""
    path = str(tmp_path / "roster")
    with closing(Roster(path)) as mine, closing(Roster(path)) as other:
        Path(path).read_bytes()
        assert other.is_alive(mine.name)


def test_a_fork_holds_no_place(tmp_path: Path) -> None:
    """A child that outlives its parent does not keep that alive."""
    path = str(tmp_path / "roster")
    with closing(Roster(path)) as mine:
        mortal = Roster(path)
        begun, begins = os.pipe()
        child = os.fork()
        if not child:
            os.write(begins, b"!")
            signal.pause()
        mortal.close()
        try:
            os.read(begun, 1)
            assert not mine.is_alive(mortal.name)
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def test_where_nobody_could_tell_there_is_no_roster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where locks are the process's, which others end, nobody is said to live."""
    monkeypatch.setattr(held_file, "_without", {tmp_path.stat().st_dev})
    with pytest.raises(OSError, match="no locks of open files"):
        Roster(str(tmp_path / "roster"))


def test_there_are_so_many_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all are taken nobody gets one that is another's."""
    monkeypatch.setattr(roster_module, "PLACES", 1)
    with closing(Roster(str(tmp_path / "roster"))), pytest.raises(OSError, match="all that there are"):
        Roster(str(tmp_path / "roster"))
