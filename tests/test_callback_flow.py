"""Callbacks on virtual time: however they come, each picture is paid once and seen soon."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import anyio
import msgspec
import pytest
from clients import Heard, run
from dict_store import DictStore
from virtual_network import PUBLIC_URL, VIRTUAL_TIME, Network, VirtualClient, billed, prompts

from imagen_async import Callback, Limits, Rate, Result, errors
from imagen_async.providers import PROVIDERS
from imagen_async.sandbox import Create, Latency

pytestmark = pytest.mark.parametrize("anyio_backend", [VIRTUAL_TIME], ids=["virtual-time"])
KEY = "a-webhook-key"
SELDOM = 600.0
"""A freshness with which the first question comes after half a minute: what is seen before was announced."""
FOX = "a red fox"


def server(name: str = "kie", median: float = 12, *, create: str | None = None, callback: str | None = None) -> Network:
    """A provider whose tasks take about so long, with a fault of the first create and one of every callback."""
    limits = Limits(Rate(50, per=1), Rate(500, per=1), 200)
    network = Network(PROVIDERS[name], limits=limits, latency=Latency(median, sigma=0.1), signing_key=KEY)
    network.faults.order("create", *([create] if create else []))
    network.faults.keep("callback", callback)
    return network


def called_back(*networks: Network, key: str | None = None, **settings: Any) -> VirtualClient:
    """A client that its networks call back."""
    return VirtualClient(*networks, callback=Callback(PUBLIC_URL, signing_key=key), **settings)


def assert_made_once(network: Network, results: list[Result], *made: str) -> None:
    """Each prompt has its picture, which was billed once."""
    told = {result.request.prompt: (result.error, result.task_id) for result in results}
    assert told == {create.prompt: (None, create.task_id) for create in network.ledger.tasks}
    assert billed(network) == dict.fromkeys(made, 1)


def noted(kept: dict[str, Any], *fields: str) -> list[tuple[Any, ...]]:
    """What a store knows of each job."""
    return [tuple(getattr(entry, field) for field in fields) for entry in kept["jobs"].values()]


async def lose_one(network: Network, kept: dict[str, Any], ago: float = 0.0) -> Create:
    """A process that was left, now or so long ago, while its create's answer was lost and no callback had come."""
    network.faults.order("create", "reset_after")
    heard = Heard()
    async with called_back(network, on_event=heard) as client, client.batch([FOX], journal=DictStore(kept)):
        await heard.job("held")
    for key, entry in kept["jobs"].items():
        kept["jobs"][key] = msgspec.structs.replace(entry, sent_at=entry.sent_at - ago)
    assert noted(kept, "state", "task_id") == [("unknown", None)]
    return network.ledger.tasks[0]


@pytest.mark.parametrize("fault", [None, "twice", "early"])
@pytest.mark.parametrize("provider", ["kie", "apikley", "liangxin", "apiin"])
async def test_an_announced_end_takes_one_status_call(provider: str, fault: str | None) -> None:
    """Whatever a provider's callback looks like, signed or not, twice or early, its task is asked about at once."""
    network = server(provider, callback=fault)
    network.faults.order("task", "fail_word")
    client = called_back(network, key=KEY if provider == "kie" else None, freshness=SELDOM)
    results = await run(client, prompts(10), model="imagen4-ultra")
    assert Counter(type(result.error) for result in results) == {type(None): 9, errors.GenerationFailed: 1}
    assert (set(network.ledger.polls.values()), set(network.ledger.callback_answers)) == ({1}, {200})


@pytest.mark.parametrize("fault", ["lost", "unsigned", "wrong_signature", "stale", "no_task_id"])
async def test_what_is_not_announced_is_found(fault: str, caplog: pytest.LogCaptureFixture) -> None:
    """Where no callback comes, or none that is signed as it must be, polling finds all, and the log says it once."""
    network = server(callback=fault)
    assert_made_once(network, await run(called_back(network, key=KEY), prompts(20)), *prompts(20))
    words = f"can it reach {PUBLIC_URL}" if fault == "lost" else "not signed with its signing key"
    assert set(network.ledger.callback_answers) == (set() if fault == "lost" else {401})
    assert sum(words in line for line in caplog.messages) == 1


@pytest.mark.parametrize("callback_fault", [None, "early", "twice"])
@pytest.mark.parametrize("create_fault", ["reset_after", "no_task_id", "http_504_made", "truncated"])
async def test_an_unknown_create_is_cleared_up(
    create_fault: str, callback_fault: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """A create whose answer was lost gets its task id from the callback, and its picture is collected."""
    network, kept = server(create=create_fault, callback=callback_fault), {}
    results = await run(called_back(network), ["first", "second"], journal=DictStore(kept))
    assert_made_once(network, results, "first", "second")
    assert noted(kept, "state", "lost", "lost_creates") == [("done", 0, ())] * 2
    assert caplog.messages == [], "no task is left over"


async def test_a_task_made_twice_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Where a lost create was sent again, a callback of the first names the task that is paid for besides, always."""
    network = server(create="reset_after", callback="lost")
    async with called_back(network) as client, client.batch([FOX], on_unknown="resubmit") as batch:
        await network.has_seen(2)
        doubled, kept = network.ledger.tasks
        # The second create is on its way still; then it has ended.
        assert await client.call(doubled) == 200
        assert (await anext(batch)).task_id == kept.task_id
        assert [await client.call(create) for create in (doubled, kept, kept)] == [200] * 3
    told = f"kie: task {doubled.task_id} was made by a create whose answer was lost; it is paid for: collect it"
    assert caplog.messages == [told] * 2


async def test_a_task_that_nobody_can_hold_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Without a journal, a callback for a request that has ended as unknown leaves its task's id in the log, if any."""
    network = server(create="reset_after", callback="no_task_id")
    async with called_back(network) as client:
        (result,) = await run(client, [FOX], deadline=5)
        (task,) = network.ledger.tasks
        assert await client.call(task) == 200
        # The provider's own, which names nothing, comes at the end of the task.
        await anyio.sleep(60)
    assert isinstance(result.error, errors.UnknownOutcome)
    said = (f"task {task.task_id} was made", "its callback does not say which")
    assert [words in line for words, line in zip(said, caplog.messages, strict=True)] == [True, True]


@pytest.mark.parametrize("is_old", [False, True], ids=["soon after", "long after"])
async def test_a_later_process_is_told(is_old: bool) -> None:
    """The callback of a lost create comes to the next process with the journal, and its picture is collected there."""
    network, kept = server(), {}
    await lose_one(network, kept, 10_000 if is_old else 0)
    async with called_back(network) as client, client.batch([FOX, "a heron"], journal=DictStore(kept)) as batch:
        results = [result async for result in batch]
        progress = batch.progress
    # Long after, nobody waits any more: it comes out as unknown first, and as done once it is told.
    assert Counter(result.ok for result in results) == ({True: 2, False: 1} if is_old else {True: 2})
    assert billed(network) == {FOX: 1, "a heron": 1}
    assert (progress.done, progress.failed, progress.unknown, progress.earlier, progress.reserved) == (2, 0, 0, 0, 0)
    assert noted(kept, "state", "lost") == [("done", 0)] * 2


async def test_what_a_callback_told_outlives_the_process() -> None:
    """What an answered callback told is in the journal for any later run; once the batch is left none is taken."""
    network, kept, heard = server(create="reset_after", callback="lost"), {}, Heard()
    network.faults.keep("poll", "http_502")
    async with called_back(network, on_event=heard) as client:
        async with client.batch([FOX], journal=DictStore(kept)):
            await heard.job("held")
            (task,) = network.ledger.tasks
            assert [await client.call(task), await client.call(task)] == [200, 200]
        assert await client.call(task) == 404, "whoever calls back is to try again, with luck later"
    assert noted(kept, "state", "task_id") == [("unknown", task.task_id)]
    network.faults.keep("poll", None)
    results = await run(VirtualClient(network), [FOX], journal=DictStore(kept), on_unknown="resubmit")
    assert_made_once(network, results, FOX)


async def test_a_callback_comes_before_its_request_is_met_again() -> None:
    """Where a held request is to be sent once more, a callback that comes first is cheaper: its task is collected."""
    network, kept = server(), {}
    task = await lose_one(network, kept)

    async def input_that_waits() -> AsyncIterator[str]:
        while task.task_id not in network.ledger.announced:
            await anyio.sleep(1)
        yield FOX

    client, journal = called_back(network), DictStore(kept)
    results = await run(client, input_that_waits(), journal=journal, on_unknown="resubmit", ordered=True)
    assert_made_once(network, results, FOX)


async def test_a_callback_that_comes_while_its_batch_is_left_is_noted() -> None:
    """A batch that waits for its last create's answer to leave begins nothing more; what it is told is for the next."""
    network, kept = server(callback="lost"), {}
    task = await lose_one(network, kept, 10_000)
    network.round_trip, whole = 100.0, asyncio.Event()
    async with called_back(network) as client:
        async with client.batch(["a heron"], journal=DictStore(kept)) as batch:
            await anyio.sleep(10)
            seen = len(network.ledger.poll_times)
            calling = asyncio.create_task(client.call(task, after=whole))
            asyncio.get_running_loop().call_later(1, whole.set)
        assert (len(network.ledger.poll_times), await calling) == (seen, 200)
    assert noted(kept, "task_id") == [(task.task_id,), (None,)]
    assert [type(result.error) for result in batch.leftover] == [errors.UnknownOutcome]


async def test_a_callback_whose_body_takes_its_time() -> None:
    """What is told is acted on as things are when it has arrived whole: here after its request came out as unknown."""
    network, heard, whole = server(median=3, create="reset_after", callback="lost"), Heard(), asyncio.Event()
    async with called_back(network, on_event=heard) as client:
        async with client.batch([FOX], journal=DictStore({}), deadline=5) as batch:
            await heard.job("held")
            (task,) = network.ledger.tasks
            calling = asyncio.create_task(client.call(task, after=whole))
            result = await anext(batch)
            whole.set()
            assert await calling == 200
            await heard.job("done")
            assert (batch.progress.done, batch.progress.unknown, batch.progress.failed) == (1, 0, 0)
    assert isinstance(result.error, errors.UnknownOutcome)
    assert [(result.ok, result.task_id) for result in batch.leftover] == [(True, task.task_id)]


async def test_tokens_of_an_earlier_opening_are_not_good() -> None:
    """A client that is opened again counts its jobs anew; what was made before is not taken for theirs."""
    network = server()
    client = called_back(network)
    async with client:
        await client.generate(FOX)
        (task,) = network.ledger.tasks
        assert await client.call(task) == 200
    assert await client.call(task) == 503, "nobody is there"
    async with client:
        assert await client.call(task) == 404
