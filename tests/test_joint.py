"""What a process has once for all who use it, and a fork of it for itself."""

from __future__ import annotations

import os
import signal
import threading

import pytest
from inner import Joint


class Thing:
    """Something that is to be closed, once."""

    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        """Count it."""
        self.closed += 1


def test_the_last_closes_it() -> None:
    """All who come have the same; who comes once it is closed has another."""
    joint: Joint[str, Thing] = Joint(Thing.close)
    first, other = joint.join("a", Thing), joint.join("b", Thing)
    assert joint.join("a", Thing) is first is not other
    joint.leave(first)
    assert (joint.users(first), first.closed) == (1, 0)
    joint.leave(first)
    assert (joint.users(first), first.closed, other.closed) == (0, 1, 0)
    assert joint.join("a", Thing) is not first


def test_what_cannot_be_made_is_used_by_nobody() -> None:
    """It is made by the next one who can."""
    joint: Joint[str, Thing] = Joint(Thing.close)

    def fail() -> Thing:
        raise RuntimeError("no thread")

    with pytest.raises(RuntimeError, match="no thread"):
        joint.join("a", fail)
    thing = joint.join("a", Thing)
    joint.leave(thing)
    assert thing.closed == 1


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_fork_begins_anew_whatever_another_thread_was_doing() -> None:
    """It neither waits for a thread that it does not have, nor closes what is its parent's."""
    joint: Joint[str, Thing] = Joint(Thing.close)
    parents, is_making, may_be_made = joint.join("a", Thing), threading.Event(), threading.Event()

    def make() -> Thing:
        is_making.set()
        may_be_made.wait()
        return Thing()

    thread = threading.Thread(target=joint.join, args=("b", make))
    thread.start()
    is_making.wait()
    child = os.fork()
    if not child:
        signal.alarm(30)
        own = joint.join("a", Thing)
        joint.leave(parents)
        joint.leave(own)
        os._exit(10 * own.closed + parents.closed)
    may_be_made.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 10
    assert joint.users(parents) == 1
