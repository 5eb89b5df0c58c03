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
from inner import EntryError, JournalClock, Locked, Noting, OwnThreads, Running, machine_time
from journals import FULL, Disk, Held, Inline, anyio_backend, entry

from imagen_async import InvalidRequest, JournalError
from imagen_async._journal.writer import AGAIN, ENOUGH, GATHER, JournalWriter, to_the_end

__all__ = ["anyio_backend"]

AT_WORK = Running("t", since=0.0)
BARE = [(kind(), kind.__name__) for kind in (StopIteration, SystemExit, asyncio.CancelledError)]


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
    return disk, JournalWriter(disk, JournalClock({}), thread)


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


@pytest.mark.parametrize(("error", "told"), [(RuntimeError("no such cluster"), "no such cluster"), *BARE])
async def test_a_store_that_breaks_is_told_as_a_journal_that_broke(error: BaseException, told: str) -> None:
    """Whatever a store raises comes out as a JournalError that names it."""
    _, writer = written_by(Inline(), room=0, error=error)
    writer.put(entry(1))
    with pytest.raises(JournalError, match=rf"^The journal broke: {told}$"):
        await writer.wait_durable("k1")


@pytest.mark.parametrize("error", [ValueError("odd"), TypeError("odd"), OverflowError("odd"), RecursionError("odd")])
async def test_what_cannot_be_stored_is_its_own_jobs_trouble(error: Exception, caplog: Any) -> None:
    """Of a group only that is left out, with an error of its own; of a task it is noted, or told, that it exists."""
    disk, writer = written_by(Inline())
    disk.refused = dict.fromkeys(["k1", "k2", "k3"], error)
    failed = {"state": "failed", "error": EntryError("GenerationFailed", "odd")}
    changes = [entry(0), entry(1), entry(2, task_id="t2", **failed), entry(3, state="unknown", task_id="t3"), entry(4)]
    for each in changes:
        writer.put(each)
    told = await asyncio.gather(*(writer.wait_durable(each.key) for each in changes), return_exceptions=True)
    assert list(map(type, told)) == [type(None), InvalidRequest, type(None), JournalError, type(None)]
    assert str(told[1]) == "The request cannot be written to the journal: odd."
    known = {each.key: (each.state, each.task_id) for each in map(disk.find, ["k0", "k2", "k4"]) if each is not None}
    assert known == {"k0": ("submitting", None), "k2": ("running", "t2"), "k4": ("submitting", None)}
    assert [each.levelname for each in caplog.records if "k1" not in each.getMessage()] == ["WARNING", "ERROR"]
    assert "task t3 of kie is paid for and could not be noted" in caplog.text
    await writer.close()
    assert (writer.failure, writer.has("k1")) == (None, False), "it is not tried for ever"


@pytest.mark.parametrize(("free_after", "is_left_after", "took"), [(5, None, 5), (None, None, 30), (None, 5, 6.25)])
async def test_a_lock_of_another_program_is_waited_for(
    free_after: Any, is_left_after: Any, took: float, caplog: Any
) -> None:
    """As long as that is bearable, and half as long as leaving may take once the batch is left; then it is an error."""
    disk, writer = written_by(Inline(), room=0, error=Locked("locked"))
    asyncio.get_running_loop().call_later(free_after or 999, setattr, disk, "room", None)
    writer.put(entry(1))
    waiting = asyncio.ensure_future(writer.wait_durable("k1"))
    if is_left_after is not None:
        await anyio.sleep(is_left_after)
        with pytest.raises(JournalError, match=r"^locked$"):
            await writer.close()
    with nullcontext() if free_after else pytest.raises(JournalError, match=r"^locked$"):
        await waiting
    assert now() == pytest.approx(took, abs=2 * AGAIN)
    assert [each.getMessage().partition(":")[0] for each in caplog.records] == ["a dict is locked by another program"]


UNTOLD = [(105, True, "task t100 of kie and 4 more, in the log."), (100, False, "task t99 of kie.")]


@pytest.mark.parametrize(("count", "is_readable", "end"), UNTOLD)
async def test_tasks_that_no_later_run_would_find_are_told(
    count: int, is_readable: bool, end: str, caplog: Any
) -> None:
    """Closing a store that takes nothing names each task that is paid for and not known there, in error and log."""
    disk, writer = written_by(Inline())
    disk.write([entry(0), entry(1), entry(1, state="running", task_id="t1")])
    disk.room = 0
    if not is_readable:
        del disk._jobs
    for number in range(count):
        writer.put(entry(number, state="done" if number == 1 else "running", task_id=f"t{number}"))
    writer.put(entry(200))
    with pytest.raises(JournalError, match=FULL) as raised:
        await writer.close()
    message = raised.value.message
    assert message.startswith(f"{FULL} Paid for, not noted, and to be collected: task t0 of kie, task ")
    assert (message.endswith(end), "task t1 of kie" in message) == (True, not is_readable)
    assert len([each for each in caplog.records if each.levelname == "ERROR"]) == count - is_readable


async def test_a_thread_that_takes_nothing_is_an_error_and_no_hang(caplog: Any) -> None:
    """Where no thread writes any more, whoever waits hears so, and the tasks are told."""
    thread = OwnThreads("imagen-journal")
    thread.shutdown()
    writer = JournalWriter(Disk(), JournalClock({}), thread)
    writer.put(entry(1, state="running", task_id="t1"))
    with pytest.raises(JournalError, match="No thread writes the journal any more"):
        await writer.wait_durable("k1")
    with pytest.raises(JournalError, match="task t1 of kie"):
        await writer.close()


def test_an_error_that_no_future_of_a_loop_carries_still_ends_the_waiting() -> None:
    """What a store of the user's own may let out while a run begins is told as an error that the loop takes."""
    failed = OwnThreads("imagen-journal").submit(next, iter(())).exception(timeout=5)
    assert (type(failed), str(failed)) == (RuntimeError, "StopIteration() was raised.")


async def test_a_disk_that_hangs_is_left() -> None:
    """Closing is over in time although the disk has not answered, and tells the tasks that it may not have."""
    _, writer = written_by(Held())
    writer.put(entry(1, state="running", task_id="t1"))
    await anyio.sleep(2 * GATHER)
    writer.note(make_job(2, Noting()))
    writer.put(entry(3, state="running", task_id="t3"))
    waiting, by = asyncio.ensure_future(writer.wait_durable("k2")), machine_time() + 0.2
    with pytest.raises(JournalError, match=r"was not written in time.*task t1 of kie, task t3 of kie"):
        await writer.close(by)
    with pytest.raises(JournalError, match="was not written in time"):
        await waiting
    assert by <= machine_time() < by + 1


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
    writer = JournalWriter(disk, JournalClock({}))
    writer.put(entry(1))
    await writer.wait_durable("k1")
    (thread,) = [each for each in threading.enumerate() if each.name.startswith("imagen-journal")]
    await writer.close()
    thread.join(10)
    assert (disk.groups, threading.active_count()) == ([["k1"]], before)
