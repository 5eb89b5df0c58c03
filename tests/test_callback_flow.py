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
from imagen_async._core.journal_entry import JournalEntry
from imagen_async.providers import PROVIDERS
from imagen_async.sandbox import Create, Latency

KEY = "a-webhook-key"
SELDOM = 60.0
"""A freshness with which the first question comes after half a minute: what is seen before was announced."""
PROVIDERS_THAT_CALL = ("kie", "apikley", "liangxin", "apiin")


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """These tests run on virtual time."""
    return VIRTUAL_TIME


def server(name: str = "kie", median: float = 12, **settings: Any) -> Network:
    """A provider whose tasks take about so long."""
    limits = settings.pop("limits", Limits(Rate(50, per=1), Rate(500, per=1), 200))
    return Network(PROVIDERS[name], limits=limits, latency=Latency(median, sigma=0.1), **settings)


def called_back(*networks: Network, key: str | None = None, **settings: Any) -> VirtualClient:
    """A client that its networks call back."""
    return VirtualClient(*networks, callback=Callback(PUBLIC_URL, signing_key=key), **settings)


def assert_made_once(network: Network, results: list[Result], *made: str) -> None:
    """Each prompt has its picture, which was billed once."""
    told = {result.request.prompt: (result.error, result.task_id) for result in results}
    assert told == {create.prompt: (None, create.task_id) for create in network.ledger.tasks}
    assert billed(network) == dict.fromkeys(made, 1)


def entries_of(kept: dict[str, Any]) -> list[JournalEntry]:
    """The jobs of a store."""
    return list(kept["jobs"].values())


async def lose_one(network: Network, kept: dict[str, Any], prompt: str = "a red fox") -> Create:
    """A process that is left while its create's answer is lost and no callback has come; that create."""
    network.faults.order("create", "reset_after")
    heard = Heard()
    async with called_back(network, on_event=heard) as client:
        async with client.batch([prompt], journal=DictStore(kept)) as batch:
            await heard.job("held")
    assert [type(left.error) for left in batch.leftover] == [errors.UnknownOutcome]
    return network.ledger.tasks[0]


def age(kept: dict[str, Any]) -> None:
    """Let all that a store knows have happened three hours ago: too long for a callback to come."""
    for key, entry in kept["jobs"].items():
        kept["jobs"][key] = msgspec.structs.replace(entry, sent_at=entry.sent_at - 10_000)


def logged(caplog: pytest.LogCaptureFixture, word: str) -> list[bool]:
    """Which of the lines of the log have a word."""
    return [word in record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("fault", [None, "twice", "early"])
@pytest.mark.parametrize("key", [None, KEY], ids=["unsigned", "signed"])
async def test_an_announced_picture_takes_one_status_call(fault: str | None, key: str | None) -> None:
    """A callback, also one that comes twice or before the create's answer, shows the picture for one status call."""
    network = server(signing_key=key)
    network.faults.keep("callback", fault)
    assert_made_once(network, await run(called_back(network, key=key, freshness=SELDOM), prompts(20)), *prompts(20))
    assert set(network.ledger.polls.values()) == {1}
    assert set(network.ledger.callback_answers) == {200}


@pytest.mark.parametrize("task_fault", [None, "fail_word"])
@pytest.mark.parametrize("provider", PROVIDERS_THAT_CALL)
async def test_each_provider_is_understood(provider: str, task_fault: str | None) -> None:
    """Whatever a provider's callback looks like, of a picture or of a failure, its task is asked about at once."""
    network = server(provider, signing_key=KEY)
    network.faults.order("task", task_fault)
    key = KEY if provider == "kie" else None
    (result,) = await run(called_back(network, key=key, freshness=SELDOM), ["a red fox"], model="imagen4-ultra")
    assert result.ok == (task_fault is None)
    assert network.ledger.callback_answers == {200: 1}
    assert network.ledger.polls == {network.ledger.tasks[0].task_id: 1}


async def test_a_callback_that_never_comes_is_not_missed(caplog: pytest.LogCaptureFixture) -> None:
    """Where nothing is announced, polling finds every picture, and the log says once what to check."""
    network = server()
    network.faults.keep("callback", "lost")
    assert_made_once(network, await run(called_back(network), prompts(20)), *prompts(20))
    assert logged(caplog, f"can it reach {PUBLIC_URL}") == [True]


@pytest.mark.parametrize("forgery", ["unsigned", "wrong_signature", "stale", "no_task_id"])
async def test_what_is_not_signed_has_no_effect(forgery: str, caplog: pytest.LogCaptureFixture) -> None:
    """A callback whose signature is missing, wrong or old is refused, and the log says so once; polling goes on."""
    network = server(signing_key=KEY)
    network.faults.keep("callback", forgery)
    async with called_back(network, key=KEY) as client:
        assert_made_once(network, await run(client, prompts(2)), *prompts(2))
        trust = client._upstreams["kie"].poll_queue.reliability.share
    assert (trust, set(network.ledger.callback_answers)) == (0.0, {401})
    assert logged(caplog, "not signed with its signing key") == [True]


LOST = ("reset_after", "no_task_id", "http_504_made", "truncated")


@pytest.mark.parametrize("callback_fault", [None, "early", "twice"])
@pytest.mark.parametrize("create_fault", LOST)
async def test_an_unknown_create_is_cleared_up(create_fault: str, callback_fault: str | None) -> None:
    """A create whose answer was lost gets its task id from the callback, and its picture is collected."""
    network, kept = server(), {}
    network.faults.order("create", None, create_fault)
    network.faults.keep("callback", callback_fault)
    results = await run(called_back(network), ["first", "second"], journal=DictStore(kept))
    assert_made_once(network, results, "first", "second")
    assert [(entry.state, entry.lost, entry.lost_creates) for entry in entries_of(kept)] == [("done", 0, ())] * 2


async def test_a_task_made_twice_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Where a lost create was sent again, the callback of the first one names the task that is paid for besides."""
    network = server()
    network.faults.order("create", "reset_after")
    network.faults.order("callback", "lost", None)
    async with called_back(network) as client:
        (result,) = await run(client, ["a red fox"], on_unknown="resubmit")
        doubled, kept = network.ledger.tasks
        for _ in range(2):
            assert await client.call(doubled) == 200
            assert await client.call(kept) == 200
    assert result.task_id == kept.task_id
    told = f"kie: task {doubled.task_id} was made by a create whose answer was lost; it is paid for: collect it"
    assert [record.getMessage() for record in caplog.records] == [told] * 2


async def test_the_first_create_is_told_of_while_the_second_is_on_its_way(caplog: pytest.LogCaptureFixture) -> None:
    """A lost create's task that is named when its job was sent again already is in the log: two are paid for."""
    network = server()
    network.faults.order("create", "reset_after")
    network.faults.keep("callback", "lost")
    async with called_back(network) as client, client.batch(["a red fox"], on_unknown="resubmit") as batch:
        await network.has_seen(2)
        doubled, kept = network.ledger.tasks
        assert await client.call(doubled) == 200
        assert (await anext(batch)).task_id == kept.task_id
    assert logged(caplog, str(doubled.task_id)) == [True]


async def test_a_task_that_nobody_can_hold_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Without a journal, a callback for a request that has ended as unknown leaves its task's id in the log."""
    network = server()
    network.faults.order("create", "reset_after")
    network.faults.keep("callback", "lost")
    async with called_back(network) as client:
        (result,) = await run(client, ["a red fox"], deadline=5)
        assert await client.call(network.ledger.tasks[0]) == 200
        # A callback that names nothing is told too: there is a task to look for.
        assert await client.call(network.ledger.tasks[0], " ") == 200
    assert isinstance(result.error, errors.UnknownOutcome)
    assert logged(caplog, str(network.ledger.tasks[0].task_id))[0]


@pytest.mark.parametrize("is_old", [False, True], ids=["soon after", "long after"])
async def test_a_later_process_is_told(is_old: bool) -> None:
    """The callback of a lost create comes to the next process with the journal, and its picture is collected there."""
    network, kept = server(), {}
    await lose_one(network, kept)
    if is_old:
        age(kept)
    async with called_back(network) as client, client.batch(["a red fox", "a heron"], journal=DictStore(kept)) as batch:
        results = [result async for result in batch]
        progress = batch.progress
    # Long after, nobody waits any more: it comes out as unknown first, and as done once it is told.
    assert Counter(result.ok for result in results) == ({True: 2, False: 1} if is_old else {True: 2})
    assert billed(network) == {"a red fox": 1, "a heron": 1}
    assert (progress.done, progress.failed, progress.unknown, progress.earlier, progress.reserved) == (2, 0, 0, 0, 0)
    assert [(entry.state, entry.lost) for entry in entries_of(kept)] == [("done", 0)] * 2


async def test_what_a_callback_told_outlives_the_process() -> None:
    """A callback that was answered is not sent again: what it told is in the journal, and any later run collects it."""
    network, kept, heard = server(), {}, Heard()
    network.faults.order("create", "reset_after")
    network.faults.keep("callback", "lost")
    network.faults.keep("poll", "http_502")
    async with called_back(network, on_event=heard) as client:
        async with client.batch(["a red fox"], journal=DictStore(kept)):
            await heard.job("held")
            for _ in range(2):
                assert await client.call(network.ledger.tasks[0]) == 200
    (entry,) = entries_of(kept)
    assert (entry.state, entry.task_id) == ("unknown", network.ledger.tasks[0].task_id)
    network.faults.keep("poll", None)
    results = await run(VirtualClient(network), ["a red fox"], journal=DictStore(kept), on_unknown="resubmit")
    assert_made_once(network, results, "a red fox")


async def test_a_callback_comes_before_its_request_is_met_again() -> None:
    """Where a held request is to be sent once more, a callback that comes first is cheaper: its task is collected."""
    network, kept = server(), {}
    task = await lose_one(network, kept)

    async def input_that_waits() -> AsyncIterator[str]:
        while task.task_id not in network.ledger.announced:
            await anyio.sleep(1)
        yield "a red fox"

    terms: dict[str, Any] = {"journal": DictStore(kept), "on_unknown": "resubmit", "ordered": True}
    results = await run(called_back(network), input_that_waits(), **terms)
    assert_made_once(network, results, "a red fox")


async def test_a_callback_that_comes_while_its_batch_is_left_is_noted() -> None:
    """A batch that waits for its last create's answer to leave begins nothing more; what it is told is for the next."""
    network, kept = server(), {}
    network.faults.keep("callback", "lost")
    task = await lose_one(network, kept)
    age(kept)
    network.round_trip = 100.0
    async with called_back(network) as client, anyio.create_task_group() as group:

        async def call_while_it_is_left() -> None:
            await anyio.sleep(1)
            assert await client.call(task) == 200

        async with client.batch(["a heron"], journal=DictStore(kept)) as batch:
            await anyio.sleep(10)
            seen = len(network.ledger.poll_times)
            group.start_soon(call_while_it_is_left)
        assert len(network.ledger.poll_times) == seen
    assert {entry.request.prompt: entry.task_id for entry in entries_of(kept)} == {
        "a red fox": task.task_id,
        "a heron": None,
    }
    assert [type(result.error) for result in batch.leftover] == [errors.UnknownOutcome]


async def test_a_callback_whose_body_takes_its_time() -> None:
    """What is told is acted on as things are when it has arrived whole: here after its request came out as unknown."""
    network, heard, whole = server(median=3), Heard(), asyncio.Event()
    network.faults.keep("callback", "lost")
    network.faults.order("create", "reset_after")
    async with called_back(network, on_event=heard) as client:
        async with client.batch(["a red fox"], journal=DictStore({}), deadline=5) as batch:
            await heard.job("held")
            task = network.ledger.tasks[0]
            calling = asyncio.create_task(client.call(task, after=whole))
            results = [await anext(batch)]
            whole.set()
            assert await calling == 200
            await heard.job("done")
            assert (batch.progress.done, batch.progress.unknown, batch.progress.failed) == (1, 0, 0)
    assert [type(result.error) for result in results] == [errors.UnknownOutcome]
    assert [(result.ok, result.task_id) for result in batch.leftover] == [(True, task.task_id)]


async def test_tokens_of_an_earlier_opening_are_not_good() -> None:
    """A client that is opened again counts its jobs anew; what was made before is not taken for theirs."""
    network, told = server(), []
    client = called_back(network)
    for _ in range(2):
        async with client:
            if not told:
                await client.generate("a red fox")
            (task,) = network.ledger.tasks
            is_token = client._open().desk.registry.is_token(str(task.callback_url).rpartition("/")[2])  # type: ignore[union-attr]
            told.append((await client.call(task), is_token))
        told.append(await client.call(task))
    assert told == [(200, True), 503, (404, False), 503]


@pytest.mark.parametrize("url", [7, "example.com"])
def test_what_is_no_address_is_nowhere_to_call_back(url: Any) -> None:
    """A callback needs an address, as a text."""
    with pytest.raises(errors.ConfigurationError, match="is no address"):
        Callback(url)


async def test_a_journals_tokens_end_with_its_batch() -> None:
    """Once a batch was left its tokens are good no more, so that whoever calls back tries again, with luck later."""
    network, heard = server(), Heard()
    async with called_back(network, on_event=heard) as client:
        async with client.batch(["a red fox"], journal=DictStore({})) as batch:
            await heard.job("running")
        assert [type(left.error) for left in batch.leftover] == [errors.DeadlineExceeded]
        assert await client.call(network.ledger.tasks[0]) == 404
