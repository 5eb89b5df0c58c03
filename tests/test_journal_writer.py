"""The journal's writer, on virtual time: what is noted is written in groups, in order, and what fails is not lost."""

from __future__ import annotations

import asyncio
import threading
from contextlib import nullcontext
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from builders import make_job
from inner import Noting, Running
from journals import FULL, Disk, Held, Inline, anyio_backend, entry

from imagen_async import JournalError
from imagen_async._journal.writer import ENOUGH, GATHER, JournalWriter, to_the_end

__all__ = ["anyio_backend"]

AT_WORK = Running("t", since=0.0)


def now() -> float:
    """Virtual time."""
    return asyncio.get_running_loop().time()


async def turns() -> None:
    """Let the loop turn so often that whatever is to happen at this instant has happened."""
    for _ in range(5):
        await checkpoint()


def written_by(thread: Held, **terms: Any) -> tuple[Disk, JournalWriter]:
    """A disk, and what writes it in that thread."""
    disk = Disk(**terms)
    return disk, JournalWriter(disk, thread)


async def test_changes_of_a_moment_are_one_group() -> None:
    """What comes within a moment is written together, in the order of the noting, and nobody has to ask for it."""
    disk, writer = written_by(Inline())
    for number in range(3):
        writer.put(entry(number))
        await anyio.sleep(GATHER / 4)
    assert (disk.groups, writer.has("k0")) == ([], True)
    await anyio.sleep(GATHER)
    assert (disk.groups, writer.has("k0")) == ([["k0", "k1", "k2"]], False)


@pytest.mark.parametrize("count", [ENOUGH, 5 * ENOUGH])
async def test_enough_changes_do_not_wait_for_more(count: int) -> None:
    """A group of many is written at the loop's next turn, once, whatever else that turn brings; one of fewer is not."""
    disk, writer = written_by(Inline())
    for number in range(count):
        if number == ENOUGH - 1:
            await turns()
            assert disk.groups == []
        writer.put(entry(number))
    await turns()
    assert (list(map(len, disk.groups)), now()) == ([count], 0.0)
    await anyio.sleep(1)
    assert len(disk.groups) == 1


@pytest.mark.parametrize(("count", "after"), [(1, GATHER), (ENOUGH - 1, GATHER), (ENOUGH, 0.0), (ENOUGH + 1, 0.0)])
async def test_one_group_at_a_time(count: int, after: float) -> None:
    """What comes while a group is written waits for its end, and then goes at once only where it is enough."""
    disk, writer = written_by(thread := Held())
    writer.put(entry(1000))
    await anyio.sleep(2 * GATHER)
    for number in range(count):
        writer.put(entry(number))
    await anyio.sleep(10 * GATHER)
    assert (len(thread.waiting), writer.has("k1000")) == (1, True)
    began = now()
    while len(disk.groups) < 2:
        thread.let_go()
        await anyio.sleep(GATHER / 8)
    assert now() - began == pytest.approx(after, abs=GATHER / 2)
    assert list(map(len, disk.groups)) == [1, count]


async def test_the_last_change_of_a_job_wins() -> None:
    """Of several changes of one job that wait the last is written, also over one that is being written."""
    disk, writer = written_by(thread := Held())
    writer.put(entry(1))
    writer.put(entry(1, attempts=2))
    await anyio.sleep(2 * GATHER)
    writer.put(entry(1, attempts=3))
    waiting = asyncio.ensure_future(writer.wait_durable("k1"))
    thread.let_go()
    await turns()
    assert disk.find("k1") == entry(1, attempts=2)
    assert not waiting.done(), "whoever waits for a job waits for the last that was noted of it"
    await anyio.sleep(2 * GATHER)
    thread.let_go()
    await waiting
    assert disk.find("k1") == entry(1, attempts=3)


async def test_what_is_on_disk_is_not_waited_for() -> None:
    """A job of which all is on disk goes on at once, one with a change waits, and an intent always passes by here."""
    _, writer = written_by(Inline())
    await writer.wait_durable("never noted")
    job = make_job(1, AT_WORK)
    assert writer.durable(job) is None
    writer.note(job)
    waiting = [writer.durable(job), writer.durable(make_job(3, Noting()))]
    assert None not in waiting
    await asyncio.gather(*filter(None, waiting))
    assert writer.durable(job) is None
    writer.note(make_job(2))
    assert not writer.has("k2"), "of one that was never handed out there is nothing to say"


@pytest.mark.parametrize(("state", "until"), [(Noting(), 10), (AT_WORK, 5)], ids=["intent", "task"])
async def test_only_an_intent_is_waited_for_whoever_cancels(state: Noting | Running, until: int) -> None:
    """Whether a create goes once its intent is on disk is the plan's to say, so that its wait is not cancelled."""
    _, writer = written_by(thread := Held())
    writer.note(make_job(1, state))
    waiting = writer.durable(make_job(1, state))
    assert waiting is not None
    asyncio.get_running_loop().call_later(10, thread.let_go)
    with anyio.move_on_after(5):
        await waiting
    assert now() == until


async def test_what_failed_is_kept_and_written_with_what_comes_later() -> None:
    """A group that finds no room raises for its waiters, and its changes are written under what is newer."""
    disk, writer = written_by(Inline(), room=0)
    writer.put(entry(1))
    writer.put(entry(2))
    errors = await asyncio.gather(*map(writer.wait_durable, ("k1", "k2", "k1")), return_exceptions=True)
    assert len({id(error) for error in errors}) == 3, "each that waits has an error of its own"
    assert list(map(repr, errors)) == [repr(JournalError(FULL))] * 3
    await anyio.sleep(1000)
    assert (len(disk.groups), writer.has("k1")) == (1, True), "a full disk is not tried for ever"
    with pytest.raises(JournalError):
        await writer.wait_durable("k1")
    assert (len(disk.groups), writer.failure is None) == (2, False), "but for whoever needs it"
    disk.room = None
    writer.put(entry(2, attempts=2))
    await writer.wait_durable("k1")
    assert (disk.groups[2:], writer.failure) == ([["k1", "k2"]], None)
    assert [disk.find("k1"), disk.find("k2")] == [entry(1), entry(2, attempts=2)]


@pytest.mark.parametrize(("count", "tries"), [(0, 1), (1, 2)])
async def test_only_what_came_meanwhile_is_written_after_a_failure(count: int, tries: int) -> None:
    """A failed group is tried again by itself only where changes came while it was written."""
    disk, writer = written_by(thread := Held(), room=0)
    writer.put(entry(1))
    await anyio.sleep(2 * GATHER)
    for number in range(count):
        writer.put(entry(number + 2))
    for _ in range(5):
        thread.let_go()
        await anyio.sleep(2 * GATHER)
    assert len(disk.groups) == tries


async def test_a_store_that_breaks_is_told_as_a_journal_that_broke() -> None:
    """Whatever a store raises comes out as a JournalError that names it."""
    _, writer = written_by(Inline(), room=0, error=RuntimeError("no such cluster"))
    writer.put(entry(1))
    with pytest.raises(JournalError, match=r"^The journal broke: no such cluster$"):
        await writer.wait_durable("k1")


@pytest.mark.parametrize(("has_more", "stays_full"), [(False, False), (True, False), (False, True)])
async def test_closing_writes_the_rest_or_raises(has_more: bool, stays_full: bool) -> None:
    """What waits is written on closing, once, what had failed before included; a disk that stays full is told."""
    disk, writer = written_by(Inline(), room=0)
    writer.put(entry(1))
    with pytest.raises(JournalError):
        await writer.wait_durable("k1")
    disk.room = 0 if stays_full else None
    if has_more:
        writer.put(entry(2))
    waiting = asyncio.ensure_future(writer.wait_durable("k2"))
    await turns()
    with pytest.raises(JournalError, match=FULL) if stays_full else nullcontext():
        await writer.close()
    await waiting
    await anyio.sleep(1)
    assert disk.groups == [["k1"], ["k1", "k2"] if has_more else ["k1"]]


async def test_a_close_that_is_cancelled_comes_to_its_end_first() -> None:
    """Cancelled while a group waits for its thread, closing writes what is newer after it, and only then gives way."""
    disk, writer = written_by(thread := Held())
    writer.put(entry(1))
    await anyio.sleep(2 * GATHER)
    writer.put(entry(1, attempts=2))
    closing = asyncio.ensure_future(writer.close())
    for _ in range(2):
        await turns()
        closing.cancel()
        await turns()
        assert not closing.done()
        thread.let_go()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert (disk.groups, disk.find("k1")) == ([["k1"], ["k1"]], entry(1, attempts=2))


async def test_what_must_not_be_left_half_done_is_begun_once() -> None:
    """A scope that is cancelled meanwhile waits for the end of what was begun, and does not begin it time and again."""
    lengths = iter([10])
    with anyio.move_on_after(5):
        await to_the_end(lambda: anyio.sleep(next(lengths)))
    assert now() == 10


async def test_a_thread_of_its_own_ends_with_the_writer() -> None:
    """A writer that is given no thread makes one, and gives it back."""
    disk, before = Disk(), threading.active_count()
    writer = JournalWriter(disk)
    writer.put(entry(1))
    await writer.wait_durable("k1")
    (thread,) = [each for each in threading.enumerate() if each.name.startswith("imagen-journal")]
    await writer.close()
    thread.join(10)
    assert (disk.groups, threading.active_count()) == ([["k1"]], before)
