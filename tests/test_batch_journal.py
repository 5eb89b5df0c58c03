"""What a batch makes of its journal, on virtual time: what it meets again, takes up, writes, hears from callbacks."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sqlite3
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, nullcontext
from pathlib import Path
from typing import Any

import anyio
import inner
import msgspec
import pytest
from anyio.lowlevel import checkpoint
from builders import failure, make_job, upstream
from journals import Disk, Held, Inline, anyio_backend, entry, place

from imagen_async import ImageFile, ImageRequest, InvalidRequest, JournalError, Limits, Rate, Result
from imagen_async._journal.batch_journal import BatchJournal
from imagen_async._journal.resume import TakenUp
from imagen_async.ports import EntryError, JobStore, JournalEntry
from imagen_async.providers import PROVIDERS

__all__ = ["anyio_backend", "place"]

OWNER = 5
BOTH = ["kie", "apikley"]
RESENT = frozenset({"queued"})
FILE = ImageFile("/a.png", "ab" * 32, 9, "image/png", "u")


def journal_over(store: JobStore | Path, **terms: Any) -> BatchJournal:
    """The journal of a batch of kie.ai and Apikley, worked at once unless another thread is given."""
    options = inner.JobOptions(deadline=900.0, retries=2, resubmits=1, save_to=terms.pop("save_to", None))
    router = inner.Router({name: PROVIDERS[name] for name in BOTH})
    return BatchJournal(store, inner.JobFactory(router, ImageRequest("-"), options), **{"executor": Inline(), **terms})


@asynccontextmanager
async def opened(store: JobStore | Path, **terms: Any) -> AsyncIterator[BatchJournal]:
    """The same, in the midst of its run."""
    rates = terms.pop("rates", {})
    journal = journal_over(store, **terms)
    await journal.open(rates, counts_money=True)
    try:
        yield journal
    finally:
        await journal.close()


def left(*entries: JournalEntry) -> Disk:
    """A store as earlier runs have left it: with these entries, each of a job that was sent once at least."""
    disk = Disk()
    disk.write(msgspec.structs.replace(each, state="submitting") for each in entries)
    disk.write(entries)
    return disk


def taken_up(journal: BatchJournal, wait: float = 0.0) -> list[inner.Job]:
    """The jobs that go on, whose ids are from 100 on."""
    return journal.resume.take_up(OWNER, itertools.count(100).__next__, lambda job: wait)


def told(met: inner.Job | Result | TakenUp) -> dict[str, Any]:
    """What came of meeting a request, as far as it matters here."""
    if isinstance(met, Result):
        assert met.earlier
        error = met.error
        return {"earlier": error and (type(error).__name__, error.task_id, "to mine" in error.message)}
    if isinstance(met, TakenUp):
        assert (met.leave.retries, met.leave.resubmits) == (2, 1)
        accounts = [offer.account for offer in met.leave.route.offers] if met.leave.route else []
        return {"goes on as": met.job_id, "to": accounts, "doubted": met.leave.is_doubted}
    where = [offer.account for offer in met.way.offers]
    return {"job": type(met.state).__name__, "to": where, "attempts": met.attempts, "lost": met.lost}


GOES_ON = {"goes on as": 100, "to": BOTH, "doubted": False}
SENT_AGAIN = {"job": "Queued", "to": BOTH, "attempts": 1, "lost": 0}
FETCHED = {"job": "Fetching", "to": ["kie"], "attempts": 1, "lost": 0}
DONE = {"state": "done", "task_id": "t", "urls": ("u",), "credits": 8.0}
HELD = {"state": "unknown", "lost": 1, "lost_creates": (1,), "error": EntryError("UnknownOutcome", "lost")}
RUNNING = {"state": "running", "task_id": "t"}
READY = {"state": "ready", "task_id": "t", "urls": ("u",)}
DENIED = {**RUNNING, "error": EntryError("InvalidRequest", "no such task")}
FAILED = {"state": "failed", "task_id": "t", "error": EntryError("GenerationFailed", "flagged")}
AS_IT_WAS = {"earlier": None}
HELD_STILL = {"earlier": ("UnknownOutcome", None, False)}
NOT_OURS = {"earlier": ("ConfigurationError", "t", True)}
ELSEWHERE = {"account": "mine"}
SAVING = {"save_to": "/out"}
AGAIN = {"again": RESENT | {"failed", "unknown"}}
GONE = {"gone": frozenset({"kie"})}
NAMED = {"named": frozenset({"kie"})}
MET: dict[str, Any] = {
    "queued": ({"state": "queued", "error": EntryError("RateLimited", "429")}, {}, SENT_AGAIN),
    "done": (DONE, {}, AS_IT_WAS),
    "done, not saved": (DONE, SAVING, FETCHED),
    "done, saved": ({**DONE, "files": (FILE,)}, SAVING, AS_IT_WAS),
    "done without a link": ({**DONE, "urls": ()}, SAVING, AS_IT_WAS),
    "done elsewhere": ({**DONE, **ELSEWHERE}, {}, AS_IT_WAS),
    "done elsewhere, not saved": ({**DONE, **ELSEWHERE}, SAVING, NOT_OURS),
    "failed": (FAILED, {}, {"earlier": ("GenerationFailed", "t", False)}),
    "failed, wanted again": (FAILED, AGAIN, SENT_AGAIN),
    "held": (HELD, {}, HELD_STILL),
    "held, wanted again": (HELD, AGAIN, {**SENT_AGAIN, "to": ["kie"], "lost": 1}),
    "held elsewhere, wanted again": ({**HELD, **ELSEWHERE}, AGAIN, HELD_STILL),
    "held, named": ({**HELD, "task_id": "t"}, {}, GOES_ON),
    "held, named, wanted again": ({**HELD, "task_id": "t"}, AGAIN, GOES_ON),
    "unanswered by a service": (HELD, NAMED, {**SENT_AGAIN, "to": ["kie"], "attempts": 0, "lost": 1}),
    "unanswered by a service elsewhere": ({**HELD, **ELSEWHERE}, {"named": frozenset({"mine"})}, HELD_STILL),
    "lost by a service": ({**HELD, "task_id": "t"}, NAMED, GOES_ON),
    "lost by a service, wanted again": (
        {**HELD, "task_id": "t"},
        {**NAMED, **AGAIN},
        {**SENT_AGAIN, "to": ["kie"], "lost": 1},
    ),
    "running": (RUNNING, AGAIN, GOES_ON),
    "running, gone with its sandbox": (RUNNING, GONE, SENT_AGAIN),
    "held, gone with its sandbox": (HELD, GONE, SENT_AGAIN),
    "running elsewhere, others gone": ({**RUNNING, "account": "apikley"}, GONE, GOES_ON),
    "running elsewhere": ({**RUNNING, **ELSEWHERE}, {}, NOT_OURS),
    "ready": (READY, {}, GOES_ON),
    "ready elsewhere": ({**READY, **ELSEWHERE}, {}, NOT_OURS),
    "denied": (DENIED, {}, GOES_ON),
    "denied, wanted again": (DENIED, AGAIN, {**GOES_ON, "doubted": True}),
}


@pytest.mark.parametrize(("found", "terms", "expected"), MET.values(), ids=list(MET))
async def test_what_a_request_is_to_earlier_runs(found: Any, terms: Any, expected: Any) -> None:
    """What ended is an earlier result, what runs goes on, what never went out is sent; paid again on request only."""
    assert journal_over(Disk()).unmet == 0, "nothing is known before it is open"
    async with opened(left(entry(0, **found)), **terms) as journal:
        for job in taken_up(journal):
            has_leave = (job.retries, job.resubmits) != (0, 0)
            assert (job.owner, job.way.only(job.account), has_leave) == (OWNER, job.way, False)
        before = journal.unmet
        met = journal.resume.meet(ImageRequest("prompt 0", key="k0"), 0, OWNER, 7)
        assert told(met) == expected
        is_sent = found["state"] in terms.get("again", RESENT) or (terms == GONE and expected == SENT_AGAIN)
        assert (before, journal.unmet) == ((0, 0) if is_sent else (1, 0))
        assert terms != GONE or journal.resume.spent_credits() == 0, "what is gone was not paid for, the other is open"
        new = journal.resume.meet(ImageRequest("prompt 1", key="k1"), 1, OWNER, 8)
        assert told(new) == {"job": "Queued", "to": BOTH, "attempts": 0, "lost": 0}


WithField = msgspec.defstruct("WithField", [("own", object, None)], bases=(ImageRequest,), frozen=True)
"""A request with a field of the user's own."""
MADE = f"{inner.stable_key(ImageRequest('a', 'imagen4'))}-2"
"""The key that is made for a second request without one."""
REFUSED: dict[str, tuple[list[str | ImageRequest], str]] = {
    "changed": ([ImageRequest("prompt 9", key="k0")], "The key 'k0' stood for another request.*choose another folder"),
    "a default changed": ([ImageRequest("prompt 0", key="k0", model="imagen4-ultra")], 'model was "imagen4"'),
    "doubled": ([ImageRequest("a", key="k"), ImageRequest("b", key="k")], "'k' came 2 times"),
    "made and given": (["a", ImageRequest("b", key=MADE), "a"], "made for this request, was given to another"),
    "half a character": ([ImageRequest("a", key="\ud800")], "cannot be written to the journal"),
    "no JSON": ([WithField("a", own=object())], "cannot be written to the journal"),
}


@pytest.mark.parametrize(("items", "words"), REFUSED.values(), ids=list(REFUSED))
async def test_a_request_that_cannot_be_told_apart_is_refused(items: list[str | ImageRequest], words: str) -> None:
    """A key that stood, or stands, for something else, or that no journal can hold, fails its own request alone."""
    async with opened(left(entry(0, **DONE))) as journal:
        for item in items[:-1]:
            journal.resume.meet(item, 0, OWNER, 2)
        with pytest.raises(InvalidRequest, match=words):
            journal.resume.meet(items[-1], 0, OWNER, 3)
        assert isinstance(journal.resume.meet("something else", 0, OWNER, 4), inner.Job)


async def test_what_was_spent_counts_but_not_what_a_job_reserves(caplog: pytest.LogCaptureFixture) -> None:
    """Earlier jobs count with what they have cost, or may have; what goes on is reserved by its own job."""
    of_price = [entry(0, **DONE), entry(1, **HELD), entry(2, **RUNNING), entry(3, **RUNNING, **ELSEWHERE)]
    async with opened(left(of_price[0])) as journal:
        assert (journal.resume.spent_credits(), caplog.records) == (8, [])
    of_no_price = [entry(number, **RUNNING, price=None) for number in (4, 5)]
    async with opened(left(*of_price, *of_no_price)) as journal:
        spent = [journal.resume.spent_credits(), len(taken_up(journal)), journal.resume.spent_credits()]
    assert spent == [8 + 8 + 8 + 8, 3, 8 + 8 + 8]
    message = "a dict: nobody knows what 2 earlier tasks have cost: no budget counts them"
    assert [each.getMessage() for each in caplog.records] == [message] * 2


HOUR = 3600.0
CLOCKS: dict[str, Any] = {
    "as it was": (0.0, 60.0, {}, 20, [1062, 1061, 1010, 1006]),
    "set forward": (-HOUR, 60.0, {}, 20, [1062, 1061, 1010, 1006]),
    "set back": (HOUR, 60.0, {}, 20, [1062, 1061, 1010, 1006]),
    "of a machine that was started anew": (-HOUR, 60.0, {"boot": "another"}, 20, [1070, 1070, 1010, 1010, 1010]),
    "of one that was, after a good end": (-HOUR, 60.0, {"boot": "another", "left": -2.0}, 20, [1064, 1063, 1010, 1008]),
    "of a run that has just begun": (0.0, 5.0, {}, 20, [1065, 1065, 1010, 1006, 1005]),
    "that nobody noted": (0.0, 60.0, None, 20, [1070, 1070, 1010, 1010, 1010]),
    "that somebody has spoilt": (0.0, 60.0, {"boot": 7}, 20, [1070, 1070, 1010, 1010, 1010]),
    "for a smaller window": (0.0, 60.0, {}, 2, [1062, 1061]),
}


@pytest.mark.parametrize(("behind", "ago", "noted", "count", "places"), CLOCKS.values(), ids=list(CLOCKS))
async def test_what_earlier_runs_have_sent_holds_its_places(
    behind: float, ago: float, noted: Any, count: int, places: list[float]
) -> None:
    """Whatever the wall clock says now: until a window after the answer, or after now, where no clock can tell.

    A create without an answer may be on its way for a minute after its intent, whatever became of its process.
    """
    asyncio.get_running_loop().jump(1000.0)  # type: ignore[attr-defined]
    present = time.time() + behind
    disk = left(
        entry(0, **RUNNING, sent_at=present - 9, accepted_at=present - 4),
        entry(1, **HELD, sent_at=present - 9),
        entry(2, **RUNNING, sent_at=present - 1, accepted_at=present + 300),
        entry(3, **DONE, sent_at=present - 30, accepted_at=present - 30, latency=2.5),
        # The answer is one to its create before.
        entry(4, **HELD, sent_at=present - 8, accepted_at=present - 25),
    )
    if noted is not None:
        clock = json.loads(inner.JournalClock({}).note()[inner.CLOCK])
        left_at = {"left": present + noted["left"]} if "left" in noted else {}
        clock |= {"began": present - ago, "since": present - ago, "at": clock["at"] - ago, **noted, **left_at}
        disk.note({inner.CLOCK: json.dumps(clock)})
    upstreams = {name: upstream(name, Limits(submit=Rate(count, per=10.0))) for name in BOTH}
    async with opened(disk, rates=dict.fromkeys(BOTH, Rate(count, per=10.0))) as journal:
        terms = journal.terms(None, upstreams)
        (since,) = [job.state.since for job in taken_up(journal) if job.key == "k0"]  # type: ignore[union-attr]
    assert noted != {} or since == pytest.approx(996, abs=1.0), "as old as it is, whatever the wall clock says"
    assert terms.sent == {"kie": pytest.approx(places, abs=1.0), "apikley": []}
    assert terms.latencies == {"kie": [(("imagen4", 1), 2.5)], "apikley": []}


@pytest.mark.parametrize(
    ("noted", "at"),
    [({}, 1000), ({"left": -4.0}, 996), ({"left": -11.0}, None), ({"left": -11.0, "boot": "b"}, 1000)],
    ids=["killed", "left", "left long ago", "on another machine"],
)
async def test_what_earlier_runs_have_asked_holds_its_places(noted: dict[str, Any], at: float | None) -> None:
    """No status call is noted: a whole window is theirs from their end on, or from now, where nobody tells when."""
    asyncio.get_running_loop().jump(1000.0)  # type: ignore[attr-defined]
    disk, clock = left(entry(0, **RUNNING)), json.loads(inner.JournalClock({}).note()[inner.CLOCK])
    told = {"left": clock["began"] + noted["left"]} if "left" in noted else {}
    disk.note(
        {inner.CLOCK: json.dumps({**clock, "began": clock["began"] - 60, "at": clock["at"] - 60, **noted, **told})}
    )
    upstreams = {"kie": upstream("kie", Limits(status=Rate(3, per=10.0)))}
    rates = {"kie": Rate(20, per=10.0)}
    async with opened(disk, rates=rates) as journal, opened(Disk(), rates=rates) as new:
        asked = [each.terms(None, upstreams).asked for each in (journal, new)]
    assert asked == [{} if at is None else {"kie": pytest.approx(at, abs=1.0)}, {}]


WAITED_FOR: dict[str, Any] = {
    "just now": ({}, {}, 100.0, ["AwaitingCallback"]),
    "too long ago": ({}, {}, 40.0, []),
    "nobody knows when": ({"sent_at": None}, {}, 100.0, []),
    "named": ({"task_id": "t"}, {}, 0.0, ["Confirming"]),
    "sent again": ({}, AGAIN, 100.0, []),
    "elsewhere": (ELSEWHERE, {}, 100.0, []),
    "ended": ({"state": "done", "task_id": "t"}, {}, 100.0, []),
    "without callbacks": ({}, {"expects_callbacks": False}, 100.0, []),
}


@pytest.mark.parametrize(("fields", "terms", "wait", "waiting"), WAITED_FOR.values(), ids=list(WAITED_FOR))
async def test_a_held_request_is_waited_for_if_it_may_be_told(fields: Any, terms: Any, wait: Any, waiting: Any) -> None:
    """A lost create of an earlier run is waited for as long as its provider calls back, unless sent again."""
    asyncio.get_running_loop().jump(1000.0)  # type: ignore[attr-defined]
    disk = left(entry(0, **{**HELD, "sent_at": time.time() - 50, **fields}))
    disk.note({inner.SECRET: "5e" * 32})
    async with opened(disk, **{"expects_callbacks": True, **terms}) as journal:
        assert [type(job.state).__name__ for job in taken_up(journal, wait)] == waiting
        met = told(journal.resume.meet(ImageRequest("prompt 0", key="k0"), 0, OWNER, 7))
        assert (met == GOES_ON) == bool(waiting)


AT_WORK = inner.Running("t", since=0.0)
NEWS: dict[str, Any] = {
    "a job that came in": (None, inner.Queued(), inner.Added(), False),
    "one that came in ended": (None, inner.Failed(failure(InvalidRequest, "odd")), inner.Added(), True),
    "another word": (inner.Noting(), AT_WORK, inner.Accepted("t"), True),
    "the same word": (inner.Noting(), inner.Sending(), inner.StatusAsked(), False),
    "not yet": (AT_WORK, AT_WORK, inner.StatusAsked(), False),
    "a callback": (AT_WORK, AT_WORK, inner.CallbackNamed(1, "t"), True),
    "leave from this run": (AT_WORK, inner.Queued(), inner.Readmitted(0, 0, None), False),
}


@pytest.mark.parametrize(("before", "after", "event", "is_news"), NEWS.values(), ids=list(NEWS))
async def test_what_a_later_run_needs_is_written(before: Any, after: Any, event: Any, is_news: bool) -> None:
    """A change is written where it is news to a later run: another state by its word, or what a callback told."""
    disk, job = Disk(), make_job(1, after, expires_at=9.0)
    async with opened(disk) as journal:
        journal.on_change(inner.Change(None if before is None else make_job(1, before), job, event), 0.0)
        durable = journal.durable(job)
        assert (durable is not None) == is_news
        if durable is not None:
            await durable
        assert disk.groups == ([["k1"]] if is_news else [])


async def test_the_loop_waits_for_no_disk() -> None:
    """Opening, the callbacks' secret, writing and closing are a thread's work, and nothing happens before its turn."""
    disk, thread = Disk(), Held()
    journal = journal_over(disk, expects_callbacks=True, executor=thread)
    opening = asyncio.ensure_future(journal.open({}, counts_money=False))
    await anyio.sleep(1)
    assert (disk.notes(), opening.done()) == ({}, False)
    thread.let_go()
    await opening
    journal.writer.put(entry(1))
    closing = asyncio.ensure_future(journal.close())
    await anyio.sleep(1)
    assert (disk.groups, closing.done()) == ([], False)
    while not closing.done():
        thread.let_go()
        await checkpoint()
    disk.begin_run()


async def test_what_may_take_its_time_is_read_in_the_thread() -> None:
    """Whatever looks through all jobs of earlier runs is asked beside the event loop, before the first job goes on."""
    asked: dict[str, bool] = {}

    class Slow(Disk):
        def __getattribute__(self, name: str) -> Any:
            asked[name] = threading.current_thread() is not threading.main_thread()
            return super().__getattribute__(name)

    store = Slow()
    store.write([entry(0), entry(1)])
    store.write([entry(0, **RUNNING), entry(1, **DONE, latency=2.5)])
    rates = {"kie": Rate(20, per=10.0)}
    async with opened(store, executor=None, rates=rates) as journal:
        asked.clear()
        assert (len(taken_up(journal)), journal.resume.spent_credits()) == (1, 8)
        assert journal.terms(None, {"kie": upstream("kie", Limits())}).latencies == {"kie": [(("imagen4", 1), 2.5)]}
        assert asked.keys() <= {"is_new"}


async def test_without_a_thread_nothing_is_begun(place: Path) -> None:
    """A machine that starts no more threads is an error before anything is sent, and leaves no journal."""
    before = threading.stack_size(2**46)  # more than any machine has
    try:
        with pytest.raises(JournalError, match=r"^No thread can be started .* Nothing was sent"):
            await journal_over(place / "j.db", executor=None).open({}, counts_money=False)
    finally:
        threading.stack_size(before)
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("executor", [Inline(), None], ids=["given up", "its own"])
async def test_a_run_in_a_locked_file_is_left_in_time(place: Path, executor: Held | None) -> None:
    """Another program's lock, or a thread that is gone, is an error that names the tasks; the file is closed."""
    journal = journal_over(place / "j.db", executor=executor)
    await journal.open({}, counts_money=False)
    journal.writer.put(entry(1))
    await journal.writer.wait_durable("k1")
    with closing(sqlite3.connect(place / "j.db", isolation_level=None)) as other:
        if executor is None:
            other.execute("BEGIN IMMEDIATE")
        else:
            executor.refuses = True
        journal.writer.put(entry(1, state="running", task_id="t1"))
        began = time.monotonic()
        with pytest.raises(JournalError, match="task t1 of kie"):
            await journal.close()
        assert time.monotonic() - began < 3
    with inner.Journal(place / "j.db") as store:
        assert store.counts() == {"unknown": 1}, "as after a kill: it is not sent again"


async def test_a_store_is_closed_by_whoever_opened_it(place: Path) -> None:
    """A store that the caller has opened serves one run after another; a path's file is given back with each run."""
    with inner.Journal(place / "own.db") as store:
        for _ in range(2):
            async with opened(store):
                assert (store.is_in_use, store.times_seen("a")) == (True, 1)
            assert (store.is_in_use, store.counts()) == (False, {})
    for _ in range(2):
        async with opened(place / "j.db"):
            with pytest.raises(JournalError, match="in use"):
                await journal_over(place / "j.db").open({}, counts_money=False)


async def test_a_run_begins_with_a_swept_folder(place: Path) -> None:
    """What a killed process has left is removed by a batch that saves to its journal's folder, and nothing else."""
    dead, others = ".imagen-999999999-a.part", {f".imagen-{name}-a.part" for name in (os.getpid(), 1, "now")}
    elsewhere = place / "other"
    elsewhere.mkdir()
    for name in (dead, *others):
        (place / name).touch()
        (elsewhere / name).touch()
    for save_to, swept in ((None, set()), (elsewhere, set()), (place, {dead})):
        async with opened(place / "j.db", save_to=save_to and str(save_to)):
            assert {path.name for path in place.glob(".*")} == {dead, *others} - swept
            assert {path.name for path in elsewhere.iterdir()} == {dead, *others}


@pytest.mark.parametrize("is_at_work", [False, True], ids=["before its thread", "in its thread"])
async def test_a_batch_that_is_cancelled_while_it_opens_leaves_no_run(place: Path, is_at_work: bool) -> None:
    """However far the opening is when it is cancelled, the journal is free for the next batch of this process."""
    thread = Held()
    opening = asyncio.ensure_future(journal_over(place / "j.db", executor=thread).open({}, counts_money=False))
    await checkpoint()
    if is_at_work:
        thread.waiting[0][0].set_running_or_notify_cancel()
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    thread.let_go()
    assert ((place / "j.db").exists(), thread.is_given_up) == (is_at_work, True)
    inner.Journal(place / "j.db").close()


@pytest.mark.parametrize(("call", "is_over"), [("notes", True), ("write", True), ("end_run", False)])
async def test_a_run_that_fails_is_told_and_gives_its_thread_back(call: str, is_over: bool) -> None:
    """Where a run's beginning, last word or end fails, that is told; the next may begin unless this one has no end."""
    disk, thread = Disk(), Inline()

    def fail(*_: object) -> None:
        raise inner.Locked("The disk fails.")

    setattr(disk, call, fail)
    with pytest.raises(JournalError, match=r"The disk fails\.") as raised:
        async with opened(disk, executor=thread) as journal:
            journal.writer.put(entry(1))
    assert (thread.is_given_up, type(raised.value)) == (True, JournalError)
    with nullcontext() if is_over else pytest.raises(JournalError, match="in use"):
        disk.begin_run()


@asynccontextmanager
async def heard(disk: Disk) -> AsyncIterator[tuple[BatchJournal, inner.JournalCallbacks, list[inner.Job]]]:
    """A run in which callbacks come: what they find in it, and the jobs, with ids from 50 on, whose tasks they name."""
    collected: list[inner.Job] = []
    async with opened(disk, expects_callbacks=True) as journal:
        yield journal, journal.callbacks_for(OWNER, itertools.count(50).__next__, collected.append), collected


async def test_the_secret_of_tokens_is_made_once() -> None:
    """The first run that asks for callbacks makes the store's secret, and later ones know its tokens by it."""
    tokens, disks = set[str](), [Disk(), Disk()]
    for disk in (disks[0], *disks):
        async with heard(disk) as (_, callbacks, _):
            tokens.add(callbacks.seal.token(inner.Address(callbacks.seal.name("k"), 1)))
    assert (len(tokens), {len(disk.notes()[inner.SECRET]) for disk in disks}) == (2, {64})


ENDED = {**HELD, "state": "done", "task_id": "mine", "error": None}
HELD_TWICE = {**HELD, "attempts": 3, "lost": 2, "lost_creates": (1, 3)}
COLLECTED, NOTED, LOGGED = (["k0"], "t", False), ([], "t", False), ([], None, True)
CALLS: dict[str, Any] = {
    "of a held request": (HELD, ("k0", 1, "t"), COLLECTED),
    "of the first of two that were lost": (HELD_TWICE, ("k0", 1, "t"), COLLECTED),
    "of one of another account": ({**HELD, **ELSEWHERE}, ("k0", 1, "t"), NOTED),
    "of a request that lost nothing": ({**FAILED, "task_id": None}, ("k0", 1, "t"), ([], None, False)),
    "of another create": (HELD, ("k0", 2, "t"), ([], None, False)),
    "of a request that nobody knows": (HELD, ("k7", 1, "t"), ([], None, False)),
    "of the task that it came to": (ENDED, ("k0", 1, "mine"), ([], "mine", False)),
    "of a second task": (ENDED, ("k0", 1, "t"), ([], "mine", True)),
    "of another task than the named one": ({**HELD, "task_id": "mine"}, ("k0", 1, "t"), ([], "mine", True)),
    "of another request's task": (HELD, ("k0", 1, "other"), LOGGED),
}


@pytest.mark.parametrize(("fields", "call", "outcome"), CALLS.values(), ids=list(CALLS))
async def test_what_a_callback_comes_to_that_nobody_awaits(fields: Any, call: Any, outcome: Any, caplog: Any) -> None:
    """A held request's task is asked about once, or noted for the run that can; one that nobody can hold is logged."""
    disk, (key, create, task_id) = left(entry(0, **fields), entry(1, state="done", task_id="other")), call
    async with heard(disk) as (journal, callbacks, collected):
        journal.writer.put(entry(0, **fields))  # so that the same callback comes again while the first one waits
        address = inner.Address(callbacks.seal.name(key), create)
        await asyncio.gather(*(callbacks.called_back(address, task_id) for _ in range(2)))
        found = disk.find("k0")
        assert found is not None
        is_logged = any(f"kie: task {task_id} was made" in each.getMessage() for each in caplog.records)
        assert ([job.key for job in collected], found.task_id, is_logged) == outcome
        lost = sorted(fields.get("lost_creates", ()), key=lambda each: each == create)
        assert (found.state, found.lost_creates) == (fields["state"], (*lost,)), "the one that was told of is the last"
        for job in collected:
            assert (job.id, job.owner, type(job.state).__name__) == (50, OWNER, "Confirming")
            met = journal.resume.meet(ImageRequest("prompt 0", key="k0"), 0, OWNER, 7)
            assert told(met) == {**GOES_ON, "goes on as": 50}


async def test_a_create_that_is_lost_in_this_run_is_known_at_once() -> None:
    """A job that loses a create while the journal is open can be called back about from then on."""
    async with heard(Disk()) as (journal, callbacks, _):
        for lost, account in ((), None), ((1,), "kie"):
            job = make_job(1, AT_WORK, lost_creates=lost)
            journal.on_change(inner.Change(make_job(1, inner.Noting()), job, inner.Accepted("t")), 0.0)
            assert callbacks.account_of(callbacks.seal.name("k1")) == account


async def test_a_callback_that_could_not_be_written_is_heard_when_it_comes_again() -> None:
    """Whoever calls back is told that it was not taken while the disk is full, and is heard the next time."""
    disk = left(entry(0, **HELD))
    async with heard(disk) as (journal, callbacks, collected):
        journal.writer.put(entry(0, **HELD))
        disk.room, address = 0, inner.Address(callbacks.seal.name("k0"), 1)
        with pytest.raises(JournalError):
            await callbacks.called_back(address, "t")
        assert collected == []
        disk.room = None
        await callbacks.called_back(address, "t")
        assert [job.key for job in collected] == ["k0"]
