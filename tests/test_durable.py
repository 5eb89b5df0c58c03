"""Single requests with a journal: a key is one task and one bill, whoever asks for it and whatever has died."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import inner
import msgspec
import pytest
from clients import FAST, client_of, run
from dict_store import DictStore
from inner import JournalReader, SharedJournal
from journals import entry, place

from imagen_async import Client, ImageRequest, errors
from imagen_async.ports import JobStore, JournalEntry
from imagen_async.sandbox import Faults, Latency, Sandbox
from imagen_async.testing import running_sandbox

__all__ = ["place"]

SLOW = Latency(median=0.8, sigma=0)


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """A sandbox in a thread, whose tasks take no time."""
    with running_sandbox(Sandbox(latency=Latency(median=0.05, sigma=0), limits=FAST, faults=Faults())) as sandbox:
        yield sandbox


@pytest.fixture
def slow() -> Iterator[Sandbox]:
    """The same, whose tasks take most of a second."""
    with running_sandbox(Sandbox(latency=SLOW, limits=FAST, faults=Faults())) as sandbox:
        yield sandbox


def durable(sandbox: Sandbox, place: Path, **settings: Any) -> Client:
    """A client with a journal there."""
    return client_of(sandbox, journal=place / "run.db", limits=FAST, **settings)


def rows(place: Path) -> dict[str, JournalEntry]:
    """What the journal says, by key."""
    with JournalReader(place / "run.db") as reader:
        return {entry.key: entry for entry in reader.entries()}


async def until_running(place: Path, key: str) -> None:
    """Wait until the journal knows of a key's task."""
    while not (place / "run.db").exists() or key not in (found := rows(place)) or found[key].state != "running":
        await asyncio.sleep(0.02)


# ------------------------------------------------------------------------------------------------ one key is one task


async def test_the_same_key_is_the_same_picture(sandbox: Sandbox, place: Path) -> None:
    """Asked for again, in the same opening or in a later one, it is what it was, and nothing is sent."""
    async with durable(sandbox, place) as client:
        first = await client.generate("a fox", key="order-17", seed=7)
        again = await client.generate("a fox", key="order-17", seed=7)
    async with durable(sandbox, place) as client:
        later = await client.generate(ImageRequest("a fox", key="order-17", seed=7))
        job = await client.submit("a fox", key="order-17", seed=7)
        assert (job.task_id, job.key, job.state, job.done()) == (first.task_id, "order-17", "done", True)
        assert (await job).urls == job.result().urls == first.urls
    assert first.urls == again.urls == later.urls != ()
    assert [each.earlier for each in (first, again, later)] == [False, True, True]
    assert (len(sandbox.ledger.tasks), later.key, later.credits) == (1, "order-17", first.credits)


async def test_callers_of_one_key_wait_for_one_task(slow: Sandbox, place: Path) -> None:
    """Two at once, in one client or in two, have the same task; who is cancelled takes nothing from the others."""
    async with durable(slow, place) as client, durable(slow, place) as other:
        one, two = (asyncio.ensure_future(client.generate("a fox", key="k")) for _ in range(2))
        await until_running(place, "k")
        three = asyncio.ensure_future(other.generate("a fox", key="k"))
        job = await client.submit("a fox", key="k")
        one.cancel()
        found = [await two, await three, await job]
        with pytest.raises(asyncio.CancelledError):
            await one
    assert len({each.urls for each in found}) == len(slow.ledger.tasks) == 1
    assert {each.task_id for each in found} == {slow.ledger.tasks[0].task_id}


async def test_a_key_that_stood_for_another_request_is_refused(slow: Sandbox, place: Path) -> None:
    """Also while that is worked on, here or by another one; the message says what differs. A default may be said."""
    async with durable(slow, place) as client, durable(slow, place) as other:
        job = await client.submit("a fox", key="k")
        for each in (client, other):
            with pytest.raises(errors.InvalidRequest, match=r"'k' stood for another request.*prompt was \"a fox\""):
                await each.generate("a heron", key="k")
            with pytest.raises(errors.InvalidRequest, match="seed"):
                await each.generate("a fox", key="k", seed=1, retry_failed=True)
        await job
        with pytest.raises(errors.InvalidRequest, match="another request"):
            await client.generate("a heron", key="k")
        assert (await client.generate("a fox", key="k", aspect_ratio=job.result().request.aspect_ratio)).earlier
    assert len(slow.ledger.tasks) == 1


async def test_without_a_key_each_is_new_and_none_forgotten(sandbox: Sandbox, place: Path) -> None:
    """The same prompt twice are two tasks, each with a row."""
    async with durable(sandbox, place) as client:
        first, second = await client.generate("a fox"), await client.generate("a fox")
        assert first.key != second.key
        assert await client.unfinished() == []
    assert {entry.task_id for entry in rows(place).values()} == {first.task_id, second.task_id}
    assert {entry.state for entry in rows(place).values()} == {"done"}


async def test_a_failure_stays_one_until_it_is_to_be_paid_for_again(sandbox: Sandbox, place: Path) -> None:
    """The same error comes again, of its own for each; `retry_failed` makes a new task, and that is the key's then."""
    sandbox.faults.keep("task", "fail_word")
    async with durable(sandbox, place) as client:
        told = []
        for _ in range(3):
            with pytest.raises(errors.GenerationFailed) as caught:
                await client.generate("a fox", key="k")
            told.append(caught.value)
    async with durable(sandbox, place) as client:
        with pytest.raises(errors.GenerationFailed) as caught:
            await (await client.submit("a fox", key="k"))
        told.append(caught.value)
        assert len(sandbox.ledger.tasks) == 1
        sandbox.faults.keep("task", None)
        result = await client.generate("a fox", key="k", retry_failed=True)
        assert (await client.generate("a fox", key="k", retry_failed=True)).urls == result.urls
    assert len(set(map(id, told))) == 4
    assert len({(each.message, each.task_id, each.code) for each in told}) == 1
    assert len(sandbox.ledger.tasks) == 2


async def test_a_lost_answer_is_not_asked_for_again(sandbox: Sandbox, place: Path) -> None:
    """A create whose answer was lost is held, in this process and the next, until the user says that it may be paid."""
    sandbox.faults.keep("create", "reset_after")
    async with durable(sandbox, place, timeout=0.3) as client:
        with pytest.raises(errors.UnknownOutcome):
            await client.generate("a fox", key="k")
    sandbox.faults.keep("create", None)
    async with durable(sandbox, place) as client:
        for _ in range(2):
            with pytest.raises(errors.UnknownOutcome) as caught:
                await client.generate("a fox", key="k")
        assert caught.value.credits
        assert (await client.unfinished(), [each async for each in client.resume()]) == ([], [])
        assert len(sandbox.ledger.tasks) == 1
        assert (await client.generate("a fox", key="k", retry_failed=True)).ok
    assert len(sandbox.ledger.tasks) == 2


async def test_what_was_refused_is_sent_when_it_is_asked_for_again(sandbox: Sandbox, place: Path) -> None:
    """Where nothing was made, such as for want of credit, nothing stands in the way of the next time."""
    sandbox.faults.keep("create", "402")
    async with durable(sandbox, place) as client:
        with pytest.raises(errors.InsufficientCredits):
            await client.generate("a fox", key="k")
    sandbox.faults.keep("create", None)
    async with durable(sandbox, place) as client, durable(sandbox, place) as other:
        assert (await other.generate("a fox", key="k")).ok
        assert (await client.generate("a fox", key="k")).earlier


async def test_pictures_outlive_their_links(sandbox: Sandbox, place: Path) -> None:
    """With a folder the result has its file, also the next time; one that was made without is fetched then."""
    async with durable(sandbox, place) as client:
        bare = await client.generate("a heron", key="bare")
    async with durable(sandbox, place, save_to=place / "out") as client:
        first = await client.generate("a fox", key="k")
        fetched = await client.generate("a heron", key="bare")
        collected = await client.collect(str(bare.task_id))
    assert (bare.files, len(first.files), len(fetched.files), len(collected.files)) == ((), 1, 1, 1)
    async with durable(sandbox, place, save_to=place / "out") as client:
        later = await client.generate("a fox", key="k")
    assert (later.files, Path(later.files[0].path).exists()) == (first.files, True)
    assert len(sandbox.ledger.tasks) == 2


# ------------------------------------------------------------------------------------------- whoever leaves, and dies


async def test_who_is_cancelled_leaves_the_task_to_the_next(slow: Sandbox, place: Path) -> None:
    """A task that nobody waits for any more is anybody's: of the same client, or of another that is open."""
    async with durable(slow, place) as client, durable(slow, place) as other:
        for number, each in enumerate((client, other)):
            asking = asyncio.ensure_future(client.generate("a fox", key=f"k{number}"))
            await until_running(place, f"k{number}")
            asking.cancel()
            assert (await each.generate("a fox", key=f"k{number}")).ok
    assert len(slow.ledger.tasks) == 2


async def test_what_is_gone_on_with_has_its_turns_with_whoever_asks_now(slow: Sandbox, place: Path) -> None:
    """The journal does not keep for whom a request was made; its task is that of the one who asks for it later."""
    async with durable(slow, place) as client:
        await client.submit("a fox", key="k")
        await until_running(place, "k")
    async with durable(slow, place) as client:
        opened, request = client._open(), inner.overridden("a fox", {"key": "k"})
        assert opened.durable is not None
        job = inner.single_job(client._router, request, opened.scheduler.new_id(), 60.0, turn=("x", 2.0))
        single = await opened.durable.single(job, retry_failed=False)
        assert (single.job.task_id, single.job.caller, single.job.share) == (slow.ledger.tasks[0].task_id, "x", 2.0)
        single.drop()


async def test_leaving_leaves_what_runs_to_the_journal(slow: Sandbox, place: Path) -> None:
    """Leaving the client sends nothing more; what ran is listed, and collected: by `resume`, or by its key."""
    async with durable(slow, place) as client:
        asking = [asyncio.ensure_future(client.generate(f"fox {number}", key=f"k{number}")) for number in range(3)]
        nameless = await client.submit("a heron")
        for number in range(3):
            await until_running(place, f"k{number}")
    for each in asking:
        with pytest.raises(errors.ImagenError):
            await each
    async with durable(slow, place) as client:
        left = await client.unfinished()
        assert {entry.key for entry in left} == {"k0", "k1", "k2", nameless.key}
        assert {entry.state for entry in left} == {"running"}
        mine = await client.generate("fox 1", key="k1")
        found = {each.key: each async for each in client.resume()}
        assert (found.keys(), all(each.ok for each in found.values())) == ({"k0", "k2", nameless.key}, True)
        assert (mine.ok, await client.unfinished()) == (True, [])
        assert found["k0"].urls == (await client.generate("fox 0", key="k0")).urls
    assert len(slow.ledger.tasks) == 4


WORKER = """
import asyncio, sys
from imagen_async import Client, Limits, Rate

async def main(url, key, journal, name):
    limits = Limits(Rate(200, per=0.5), Rate(500, per=0.5), running=300)
    async with Client("sandbox", api_key=key, base_url=url, journal=journal, limits=limits) as client:
        print("open", flush=True)
        print((await client.generate("a fox", key=name)).urls[0], flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


@contextmanager
def worker(sandbox: Sandbox, place: Path, key: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that asks for a key; killed at the end of the block."""
    command = [sys.executable, "-c", WORKER, sandbox.url, sandbox.key, str(place / "run.db"), key]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
            yield process
        finally:
            process.kill()


async def test_a_killed_process_leaves_its_task_to_the_next(slow: Sandbox, place: Path) -> None:
    """While it lives, also while it stands still, its key is waited for; once it is killed the task is gone on with."""
    async with durable(slow, place) as client:
        with worker(slow, place, "k") as process:
            await until_running(place, "k")
            process.send_signal(signal.SIGSTOP)
            assert await client.unfinished() == []
            with pytest.raises(errors.DeadlineExceeded, match="Another process is at work on the key 'k'") as caught:
                await client.generate("a fox", key="k", deadline=0.3)
            assert caught.value.task_id == slow.ledger.tasks[0].task_id
            asking = asyncio.ensure_future(client.generate("a fox", key="k"))
            await asyncio.sleep(0.3)
            process.kill()
            process.wait()
            assert (await asking).task_id == slow.ledger.tasks[0].task_id
    assert len(slow.ledger.tasks) == 1


async def test_what_another_process_ends_is_everybodys(slow: Sandbox, place: Path) -> None:
    """Who waits for another process has its result."""
    async with durable(slow, place) as client:
        with worker(slow, place, "k") as process:
            await until_running(place, "k")
            result = await client.generate("a fox", key="k")
            assert process.stdout is not None
            assert (process.stdout.readline().strip(), result.earlier) == (result.urls[0], True)
    assert len(slow.ledger.tasks) == 1


async def test_a_create_that_a_kill_cut_off_is_held(sandbox: Sandbox, place: Path) -> None:
    """Whether it was paid for nobody can tell: whoever asks is told so, as is whoever resumes; and it is sent once."""
    with SharedJournal(place / "run.db") as journal:
        for key in ("k", "r"):
            request = ImageRequest("a fox", model="imagen4", aspect_ratio="1:1", key=key)
            intent = entry(key=key, request=request, account="sandbox", sent_at=time.time())
            journal.claim(msgspec.structs.replace(intent, state="queued", attempts=0))
            journal.write([intent])
    sent = len(sandbox.ledger.creates)
    async with durable(sandbox, place) as client:
        with pytest.raises(errors.UnknownOutcome, match="the process ended before its answer came"):
            await client.generate("a fox", key="k")
        assert [entry.state for entry in await client.unfinished()] == ["submitting"]
        (held,) = [each async for each in client.resume()]
        assert (held.key, type(held.error)) == ("r", errors.UnknownOutcome)
        assert len(sandbox.ledger.creates) == sent
        assert (await client.generate("a fox", key="k", retry_failed=True)).ok
        assert (await client.generate("a fox", key="k")).ok
    assert len(sandbox.ledger.creates) == sent + 1


async def test_one_bad_task_ends_no_resuming(slow: Sandbox, place: Path) -> None:
    """What fails is a result with its error; what belongs to an account that is not there says so."""
    async with durable(slow, place) as client:
        for number in range(2):
            await client.submit(f"fox {number}", key=f"k{number}")
    with SharedJournal(place / "run.db") as journal:
        journal.claim(other := JournalEntry("other", 0, "queued", "kie", ImageRequest("x", model="imagen4")))
        assert other.state == "queued"
    slow.faults.keep("task", "fail_word")
    async with durable(slow, place) as client:
        await client.submit("fox 2", key="k2")
    slow.faults.keep("task", None)
    async with durable(slow, place) as client:
        found = {each.key: each async for each in client.resume()}
    assert {key: type(each.error) for key, each in found.items()} == {
        "k0": type(None),
        "k1": type(None),
        "k2": errors.GenerationFailed,
    }


# ------------------------------------------------------------------------------------------------ batches and stores


async def test_a_batch_has_the_same_file_beside_single_requests(slow: Sandbox, place: Path) -> None:
    """In one client or in two, each has its own rows; a finished single request is an earlier result to a batch."""
    path, prompts = place / "run.db", [f"heron {number}" for number in range(20)]
    async with durable(slow, place) as client, client_of(slow, limits=FAST) as plain:
        done = await client.generate("a fox", key="done", model="imagen4-fast")
        running = await client.submit("a wolf", key="running", model="imagen4-fast")
        asked = [*prompts, *(ImageRequest(p, key=k) for p, k in (("a fox", "done"), ("a wolf", "running")))]
        for each in (client, plain):
            found = {r.request.prompt: r for r in await run(each, asked, journal=path, model="imagen4-fast")}
            assert len(found) == 22
            assert (found["a fox"].urls, found["a fox"].earlier) == (done.urls, True)
            assert sum(result.ok for result in found.values()) >= 21
        assert (await running).ok
        again = {r.request.prompt: r for r in await run(client, asked, journal=path, model="imagen4-fast")}
        assert (again["a wolf"].urls, all(each.earlier for each in again.values())) == ((await running).urls, True)
        with pytest.raises(errors.InvalidRequest, match="stood for another"):
            await client.generate("another", key="done")
    assert Counter(slow.ledger.tasks_by_prompt().values()) == {1: 22}


async def test_a_sandbox_of_the_clients_own_is_made_anew(place: Path) -> None:
    """Its tasks have ended with it and cost nothing: what ran is made again, and so is what nobody knows."""
    async with Client("sandbox", journal=place / "run.db") as client:
        await client.submit("a fox", key="k")
        request = rows(place)["k"].request
    with SharedJournal(place / "run.db") as journal:
        intent = entry(key="u", request=request, account="sandbox", sent_at=time.time())
        journal.claim(msgspec.structs.replace(intent, state="queued", attempts=0))
        journal.write([intent])
    async with Client("sandbox", journal=place / "run.db") as client:
        left = {each.key: each.error async for each in client.resume()}
        assert type(left["k"]) is errors.ConfigurationError
        assert (await client.generate("a fox", key="k")).ok
        assert (await client.generate("a fox", key="u")).ok


async def test_a_batch_never_sends_what_a_single_request_has(slow: Sandbox, place: Path) -> None:
    """Whoever came first has the key: one that has failed, or that came while the batch ran, is not sent by it."""
    slow.faults.order("task", "fail_word")
    async with durable(slow, place) as client:
        with pytest.raises(errors.GenerationFailed):
            await client.generate("a fox", key="failed", model="imagen4-fast")
        with pytest.raises(errors.GenerationFailed):  # which is on disk by then
            await client.generate("a fox", key="failed", model="imagen4-fast")
        asked = [ImageRequest("a fox", key="failed"), ImageRequest("a heron", key="mine")]
        for again, kind in ((False, errors.GenerationFailed), (True, errors.InvalidRequest)):
            terms = {"journal": place / "run.db", "model": "imagen4-fast", "retry_failed": again}
            found = {each.key: each for each in await run(client, asked, **terms)}
            assert (type(found["failed"].error), found["mine"].ok) == (kind, True)
        async with client.batch(many(), journal=place / "run.db", model="imagen4-fast") as results:
            late = await client.submit("a wolf", key="late", model="imagen4-fast")
            (result,) = [each async for each in results if each.key == "late"]
        assert isinstance(result.error, errors.InvalidRequest)
        assert (await late).ok
        with pytest.raises(errors.InvalidRequest, match="another request"):
            await client.generate("a fox", key="mine")
        assert (await client.generate("a heron", key="mine", model="imagen4-fast")).earlier
    assert set(slow.ledger.tasks_by_prompt().values()) == {1}


async def many() -> AsyncIterator[ImageRequest]:
    """An input that comes slowly, and of which the last is asked for by another one meanwhile."""
    await asyncio.sleep(0.3)
    yield ImageRequest("a wolf", key="late")


async def test_a_store_of_ones_own(sandbox: Sandbox, place: Path) -> None:
    """It takes a store with the calls for single requests; one for batches alone is refused with what it lacks."""
    kept: dict[str, Any] = {}
    with closing(DictStore(kept)) as store, closing(DictStore(kept)) as second:
        async with client_of(sandbox, journal=store) as client, client_of(sandbox, journal=second) as other:
            one, two = await asyncio.gather(*(each.generate("a fox", key="k") for each in (client, other)))
        assert one.urls == two.urls
        batches = SimpleNamespace(**{name: getattr(store, name) for name in ("write", "find", "claim", "owner")})
        with pytest.raises(errors.ConfigurationError, match="for batches only, for it has no release, abandoned, drop"):
            await client_of(sandbox, journal=batches).__aenter__()
    assert len(sandbox.ledger.tasks) == 1


def typed(store: DictStore) -> JobStore:
    """The type checkers take the one for the other."""
    return store


# ------------------------------------------------------------------------------------------------ what may go wrong


@pytest.mark.parametrize("kept", ["90", "3 weeks", "0d", -1, True, "", "nan"])
def test_what_no_time_is_is_refused(kept: Any) -> None:
    """`keep_journal` takes a time; the message says which."""
    with pytest.raises(errors.ConfigurationError, match=r"^keep_journal=.*'90d', '12h'"):
        Client("sandbox", journal="run.db", keep_journal=kept)


def test_what_keeps_nothing_is_refused() -> None:
    """A time for a journal needs one, and a folder must be a path."""
    with pytest.raises(errors.ConfigurationError, match="give journal="):
        Client("sandbox", keep_journal="90d")
    with pytest.raises(errors.ConfigurationError, match="is no folder"):
        Client("sandbox", save_to=7)  # type: ignore[arg-type]


async def test_without_a_journal_nothing_is_unfinished(sandbox: Sandbox) -> None:
    """To ask for what was left takes a journal, and the message says how to have one."""
    async with client_of(sandbox) as client:
        with pytest.raises(errors.ConfigurationError, match=r"no journal: open one with `Client\(…, journal="):
            await client.unfinished()
        with pytest.raises(errors.ConfigurationError, match="no journal"):
            client.resume()
        assert (await client.generate("a fox", key="k", retry_failed=True)).ok


async def test_what_is_kept_no_longer_leaves_its_key(sandbox: Sandbox, place: Path) -> None:
    """A row is dropped once it has ended for so long; its key is never paid for again, and its picture stays."""
    async with durable(sandbox, place, save_to=place / "out") as client:
        result = await client.generate("a fox", key="k")
    async with durable(sandbox, place, keep_journal="90d") as client:
        assert (await client.generate("a fox", key="k")).earlier
    await asyncio.sleep(0.02)
    async with durable(sandbox, place, keep_journal=0.01) as client:
        assert rows(place) == {}
        for again in (False, True):
            with pytest.raises(errors.InvalidRequest, match=r"'k' stood for a request that .* dropped then"):
                await client.generate("a fox", key="k", retry_failed=again)
        await client.generate("a heron", key="h")
        while rows(place):  # now and then, not only at its opening
            await asyncio.sleep(0.02)
    (refused,) = await run(client_of(sandbox), [ImageRequest("a fox", key="k")], journal=place / "run.db")
    assert isinstance(refused.error, errors.InvalidRequest)
    assert (Path(result.files[0].path).exists(), len(sandbox.ledger.tasks)) == (True, 2)


@pytest.mark.parametrize("lost", ["run.db-owners", "run.db", "run.db-wal"])
async def test_where_the_journal_is_lost_nothing_is_sent(sandbox: Sandbox, place: Path, lost: str) -> None:
    """Without its place, or its file, a process would be taken for dead: it sends nothing more, and says so."""
    with pytest.raises(errors.JournalError, match=f"{lost} was removed"):
        async with durable(sandbox, place) as client:
            await client.generate("a fox", key="k0")
            (place / lost).unlink()
            for key in ("k1", None):
                with pytest.raises(errors.JournalError, match=f"{lost} was removed"):
                    await client.generate("a fox", key=key)
    assert len(sandbox.ledger.creates) == 1
