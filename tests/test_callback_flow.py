"""Callbacks from end to end, over real sockets: however they come, each picture is paid once and seen soon."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web
from anyio import create_task_group
from servers import called_back, free_socket, served, serving

from imagen_async import Account, Batch, Callback, Client, Limits, Rate, Result, UnknownOutcome
from imagen_async._batch.batch import _Phase
from imagen_async._journal import JournalReader
from imagen_async.sandbox import Create, Latency, Sandbox
from imagen_async.webhooks import Receiver

KEY = "a-webhook-key"
SELDOM = 60.0
"""A freshness with which the first question comes after half a minute: what is seen before was announced."""


def quick_sandbox(**settings: Any) -> Sandbox:
    """A sandbox whose tasks take a quarter of a second, and that repeats a callback soon."""
    latency = Latency(median=0.25, sigma=0.1)
    limits = Limits(submit=Rate(200, per=1), status=Rate(500, per=1))
    return Sandbox(latency=latency, limits=limits, callback_retry=0.05, **settings)


async def results_of(client: Client, prompts: list[str], **settings: Any) -> list[Result]:
    """All that comes out of a batch."""
    async with client.batch(prompts, **settings) as results:
        return [result async for result in results]


def assert_made_once(sandbox: Sandbox, results: list[Result], prompts: list[str]) -> None:
    """Each prompt has its picture, and was billed once."""
    assert [result.error for result in results] == [None] * len(prompts)
    assert sandbox.ledger.tasks_by_prompt() == Counter(prompts)
    assert sorted(str(result.task_id) for result in results) == sorted(
        str(create.task_id) for create in sandbox.ledger.tasks
    )


@pytest.mark.parametrize("fault", [None, "twice", "early"])
@pytest.mark.parametrize("key", [None, KEY], ids=["unsigned", "signed"])
async def test_an_announced_picture_takes_one_status_call(fault: str | None, key: str | None) -> None:
    """A callback, also one that comes twice or before the create's answer, shows the picture for one status call."""
    prompts = [f"prompt {number}" for number in range(20)]
    async with quick_sandbox(signing_key=key) as sandbox:
        sandbox.keep("callback", fault)
        async with called_back(sandbox, key=key, freshness=SELDOM) as client:
            assert_made_once(sandbox, await results_of(client, prompts), prompts)
        assert set(sandbox.ledger.polls.values()) == {1}
        assert set(sandbox.ledger.callback_answers) == {200}


@pytest.mark.parametrize("task_fault", [None, "fail_word"])
@pytest.mark.parametrize("provider", ["kie", "apikley", "liangxin", "apiin"])
async def test_each_provider_is_understood(provider: str, task_fault: str | None) -> None:
    """Whatever a provider's callback looks like, of a picture or of a failure, its task is asked about at once."""
    async with quick_sandbox(signing_key=KEY) as sandbox:
        sandbox.order("task", task_fault)
        key = KEY if provider == "kie" else None
        async with called_back(sandbox, provider, key=key, freshness=SELDOM) as client:
            (result,) = await results_of(client, ["a red fox"], model="imagen4-ultra")
        assert result.ok == (task_fault is None)
        assert sandbox.ledger.callback_answers == {200: 1}
        assert sandbox.ledger.polls == {sandbox.ledger.tasks[0].task_id: 1}


async def test_a_pool_is_called_back_by_all() -> None:
    """One key is that of the accounts whose provider signs; the others are known by their tokens alone."""
    prompts = [f"prompt {number}" for number in range(12)]
    async with quick_sandbox(signing_key=KEY) as sandbox:
        async with called_back(sandbox, "kie", "apiin", key=KEY, freshness=SELDOM) as client:
            results = await results_of(client, prompts)
            assert_made_once(sandbox, results, prompts)
    assert {result.provider for result in results} == {"kie", "apiin"}
    assert sandbox.ledger.callback_answers == {200: len(prompts)}


async def test_a_callback_that_never_comes_is_not_missed(caplog: pytest.LogCaptureFixture) -> None:
    """Where nothing is announced, polling finds every picture, and the log says once what to check."""
    prompts = [f"prompt {number}" for number in range(20)]
    async with quick_sandbox() as sandbox:
        sandbox.keep("callback", "lost")
        async with called_back(sandbox) as client:
            assert_made_once(sandbox, await results_of(client, prompts), prompts)
        assert not sandbox.ledger.callbacks
    assert [("can it reach http://127.0.0.1" in entry.getMessage()) for entry in caplog.records] == [True]


@pytest.mark.parametrize("forgery", ["unsigned", "wrong_signature", "stale", "no_task_id"])
async def test_what_is_not_signed_has_no_effect(forgery: str, caplog: pytest.LogCaptureFixture) -> None:
    """A callback whose signature is missing, wrong or old is refused, and the log says so once; polling goes on."""
    async with quick_sandbox(signing_key=KEY) as sandbox:
        sandbox.keep("callback", forgery)
        async with called_back(sandbox, key=KEY) as client:
            assert_made_once(sandbox, await results_of(client, ["a red fox"]), ["a red fox"])
            shares = [upstream.poll_queue.reliability.share for upstream in client._upstreams.values()]
    assert shares == [0.0]
    assert 200 not in sandbox.ledger.callback_answers
    assert [("not signed with its signing key" in entry.getMessage()) for entry in caplog.records] == [True]


async def test_another_tasks_name_moves_nothing() -> None:
    """A callback that names another task than the job's own triggers no question about either."""
    async with quick_sandbox() as sandbox:
        sandbox.keep("callback", "another_task")
        async with called_back(sandbox) as client:
            (result,) = await results_of(client, ["a red fox"])
        assert result.task_id == sandbox.ledger.tasks[0].task_id
        assert set(sandbox.ledger.polls) == {result.task_id}
        assert set(sandbox.ledger.callback_answers) == {200}


async def test_one_that_was_not_taken_comes_again() -> None:
    """A callback that was answered 500 is repeated, and then shows the picture."""
    answers: list[int] = []
    async with quick_sandbox() as sandbox:
        with free_socket() as (found, port):
            callback = Callback(f"http://127.0.0.1:{port}")
            client = Client("sandbox", api_key=sandbox.key, base_url=sandbox.url, freshness=SELDOM, callback=callback)
            receiver = Receiver(client)

            async def stumble(request: web.Request) -> web.Response:
                answers.append(500 if not answers else 200)
                return web.Response(status=500) if len(answers) == 1 else await receiver.handle(request)

            application = web.Application()
            application.router.add_post("/{token}", stumble)
            async with serving(application, found), client:
                assert_made_once(sandbox, await results_of(client, ["a red fox"]), ["a red fox"])
        assert answers == [500, 200]


@pytest.mark.parametrize("callback_fault", [None, "early", "twice"])
@pytest.mark.parametrize("create_fault", ["reset_after", "no_task_id", "http_504_made", "truncated"])
async def test_an_unknown_create_is_cleared_up(tmp_path: Path, create_fault: str, callback_fault: str | None) -> None:
    """A create whose answer was lost gets its task id from the callback, and its picture is collected."""
    async with quick_sandbox() as sandbox:
        sandbox.order("create", None, create_fault)
        sandbox.keep("callback", callback_fault)
        async with called_back(sandbox) as client:
            results = await results_of(client, ["first", "second"], journal=tmp_path / "run.db")
            assert_made_once(sandbox, results, ["first", "second"])
    with JournalReader(tmp_path / "run.db") as reader:
        assert [(entry.state, entry.lost, entry.lost_creates) for entry in reader.entries()] == [("done", 0, ())] * 2


async def test_a_lost_create_that_made_nothing_is_unknown_in_the_end() -> None:
    """Where no callback comes until the deadline, a lost create is unknown, and is not sent again."""
    async with quick_sandbox() as sandbox:
        sandbox.order("create", "reset_before")
        async with called_back(sandbox) as client:
            (result,) = await results_of(client, ["a red fox"], deadline=0.5)
        assert isinstance(result.error, UnknownOutcome)
        assert len(sandbox.ledger.creates) == 1


async def test_a_task_that_failed_clears_up_its_create_too(tmp_path: Path) -> None:
    """Where the lost create's task has failed, its request has failed, and nothing is at risk any more."""
    async with quick_sandbox() as sandbox:
        sandbox.order("create", "reset_after")
        sandbox.order("task", "fail_word")
        async with called_back(sandbox) as client:
            (result,) = await results_of(client, ["a red fox"], journal=tmp_path / "run.db")
        assert result.error is not None
        assert (type(result.error).__name__, result.credits) == ("GenerationFailed", 0.0)


async def test_generate_and_submit_are_told_too() -> None:
    """A single picture whose create's answer was lost is there after all."""
    async with quick_sandbox() as sandbox:
        sandbox.order("create", "reset_after", "reset_after")
        async with called_back(sandbox) as client:
            result = await client.generate("a red fox")
            job = await client.submit("a heron")
            assert (await job).task_id == job.task_id == sandbox.ledger.tasks[1].task_id
        assert result.urls
        assert len(sandbox.ledger.tasks) == 2


async def test_a_resubmission_that_waits_is_called_off(tmp_path: Path) -> None:
    """A callback for a lost create that is to be sent again, and was not yet, is cheaper than a second task."""
    prompts = ["first", "second"]
    async with quick_sandbox() as sandbox:
        sandbox.order("create", None, "reset_after")
        limits = Limits(submit=Rate(2, per=1))
        async with called_back(sandbox, limits=limits) as client:
            results = await results_of(client, prompts, journal=tmp_path / "run.db", on_unknown="resubmit")
            assert_made_once(sandbox, results, prompts)


async def test_a_task_made_twice_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Where a lost create was sent again, the callback of the first one names the task that is paid for besides."""
    async with quick_sandbox() as sandbox:
        sandbox.order("create", "reset_after")
        sandbox.order("callback", "late", None)
        async with called_back(sandbox) as client:
            (result,) = await results_of(client, ["a red fox"], on_unknown="resubmit")
            while sum(sandbox.ledger.callbacks.values()) < 2:
                await asyncio.sleep(0.02)
        doubled, kept = sandbox.ledger.tasks
        assert result.task_id == kept.task_id
        assert [str(doubled.task_id) in entry.getMessage() for entry in caplog.records] == [True]


async def lose_one(sandbox: Sandbox, journal: Path, callback: Callback) -> None:
    """A process that is left while its create's answer is lost and no callback has come."""
    sandbox.order("create", "reset_after")
    client = Client("sandbox", api_key=sandbox.key, base_url=sandbox.url, callback=callback)
    async with client, client.batch(["a red fox"], journal=journal) as results:
        while not sandbox.ledger.creates:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
    (left,) = results.leftover
    assert isinstance(left.error, UnknownOutcome)


@pytest.mark.parametrize("is_old", [False, True], ids=["soon after", "long after"])
async def test_a_later_process_is_told(tmp_path: Path, is_old: bool) -> None:
    """The callback of a lost create comes to the next process with the journal, and its picture is collected there."""
    path = tmp_path / "run.db"
    async with Sandbox(latency=Latency(median=0.6, sigma=0.01), callback_retry=0.05) as sandbox:
        with free_socket() as (found, port):
            callback = Callback(f"http://127.0.0.1:{port}/imagen")
            await lose_one(sandbox, path, callback)
            if is_old:
                with sqlite3.connect(path) as connection:
                    connection.execute("UPDATE jobs SET sent_at = sent_at - 10000")
                connection.close()
            client = Client("sandbox", api_key=sandbox.key, base_url=sandbox.url, callback=callback)
            async with serving(Receiver(client).application(), found), client:
                sandbox.order("create", None)
                async with client.batch(["a red fox", "a heron"], journal=path) as batch:
                    results = [result async for result in batch]
                    progress = batch.progress
        assert Counter(result.ok for result in results) == ({True: 2, False: 1} if is_old else {True: 2})
        assert sandbox.ledger.tasks_by_prompt() == {"a red fox": 1, "a heron": 1}
        assert (progress.done, progress.failed, progress.unknown, progress.earlier) == (2, 0, 0, 0)
    with JournalReader(path) as reader:
        assert [(entry.state, entry.lost) for entry in reader.entries()] == [("done", 0)] * 2


async def test_what_a_callback_told_outlives_the_process(tmp_path: Path) -> None:
    """A callback that was answered is not sent again: what it told is in the journal, and any later run collects it."""
    path = tmp_path / "run.db"
    async with quick_sandbox() as sandbox:
        sandbox.order("create", "reset_after")
        sandbox.keep("poll", "http_502")
        async with called_back(sandbox) as client:
            async with client.batch(["a red fox"], journal=path):
                while not sandbox.ledger.callback_answers[200]:
                    await asyncio.sleep(0.01)
        with JournalReader(path) as reader:
            (entry,) = reader.entries()
        assert (entry.state, entry.task_id) == ("unknown", sandbox.ledger.tasks[0].task_id)
        sandbox.keep("poll", None)
        async with Client("sandbox", api_key=sandbox.key, base_url=sandbox.url) as client:
            (result,) = await results_of(client, ["a red fox"], journal=path, on_unknown="resubmit")
        assert_made_once(sandbox, [result], ["a red fox"])


async def test_no_key_or_token_is_logged(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """Whatever happens, no log line has a key, or a token that would let anybody call back."""
    caplog.set_level(logging.DEBUG)
    async with quick_sandbox(signing_key=KEY) as sandbox:
        sandbox.order("create", "reset_after", None, "no_task_id")
        sandbox.order("callback", "wrong_signature", "twice", "stale")
        async with called_back(sandbox, key=KEY) as client:
            await results_of(client, ["a", "b", "c", "d"], journal=tmp_path / "run.db", deadline=1.0)
            told = repr(client) + repr(client._callback) + repr(client._open().desk)
        secrets = [KEY, sandbox.key] + [
            str(create.callback_url).rpartition("/")[2] for create in sandbox.ledger.creates
        ]
    assert len(set(secrets)) == 6
    assert not [secret for secret in secrets if secret in caplog.text + told]


async def test_tokens_of_an_earlier_opening_are_not_good(imagen_sandbox: Sandbox) -> None:
    """A client that is opened again counts its jobs anew; what was made before is not taken for theirs."""
    with free_socket() as (found, port):
        callback = Callback(f"http://127.0.0.1:{port}/imagen")
        client = Client("sandbox", api_key=imagen_sandbox.key, base_url=imagen_sandbox.url, callback=callback)
        async with serving(Receiver(client).application(), found), ClientSession() as session:
            async with client:
                await client.generate("a red fox")
            url = str(imagen_sandbox.ledger.tasks[0].callback_url)
            body = {"data": {"taskId": imagen_sandbox.ledger.tasks[0].task_id}}
            statuses = [(await session.post(url, json=body)).status]
            async with client:
                statuses.append((await session.post(url, json=body)).status)
    assert statuses == [503, 404]


async def test_the_clients_own_sandbox_calls_back(tmp_path: Path) -> None:
    """`Client("sandbox", callback=…)` is called back by the sandbox that it starts, signed with the same key."""
    with free_socket() as (found, port):
        callback = Callback(f"http://127.0.0.1:{port}/imagen", signing_key=KEY)
        client = Client("sandbox", callback=callback, freshness=SELDOM)
        async with serving(Receiver(client).application(), found), client:
            began = time.monotonic()
            await client.generate("a red fox")
    assert time.monotonic() - began < 20


async def test_a_task_that_nobody_can_hold_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Without a journal, a callback for a request that has ended as unknown leaves its task's id in the log."""
    async with quick_sandbox() as sandbox:
        sandbox.order("create", "reset_after")
        sandbox.order("callback", "late")
        async with called_back(sandbox) as client:
            (result,) = await results_of(client, ["a red fox"], deadline=0.3)
            while not sandbox.ledger.callbacks:
                await asyncio.sleep(0.02)
    assert isinstance(result.error, UnknownOutcome)
    assert [str(sandbox.ledger.tasks[0].task_id) in entry.getMessage() for entry in caplog.records] == [True]


async def test_a_callback_comes_before_its_request_is_met_again(tmp_path: Path) -> None:
    """Where a held request is to be sent once more, a callback that comes first is cheaper: its task is collected."""
    path = tmp_path / "run.db"
    async with Sandbox(latency=Latency(median=0.4, sigma=0.01), callback_retry=0.05) as sandbox:
        with free_socket() as (found, port):
            callback = Callback(f"http://127.0.0.1:{port}/imagen")
            await lose_one(sandbox, path, callback)

            async def prompts() -> AsyncIterator[str]:
                while not sandbox.ledger.announced:
                    await asyncio.sleep(0.01)
                yield "a red fox"

            client = Client("sandbox", api_key=sandbox.key, base_url=sandbox.url, callback=callback)
            async with serving(Receiver(client).application(), found), client:
                async with client.batch(prompts(), journal=path, on_unknown="resubmit", ordered=True) as batch:
                    results = [result async for result in batch]
        assert_made_once(sandbox, results, ["a red fox"])


async def test_a_callback_that_comes_while_its_batch_is_left_is_noted(tmp_path: Path) -> None:
    """A batch that waits for its last create's answer to leave begins nothing more; what it is told is for the next."""
    path = tmp_path / "run.db"
    asked = asyncio.Event()

    async def hang(request: web.Request) -> web.Response:
        asked.set()
        await asyncio.sleep(30)
        return web.Response()

    async with quick_sandbox() as sandbox, served(hang) as silent:
        sandbox.keep("callback", "lost")
        with free_socket() as (found, port):
            callback = Callback(f"http://127.0.0.1:{port}/imagen")
            await lose_one(sandbox, path, callback)
            with closing(sqlite3.connect(path)) as connection, connection:
                connection.execute("UPDATE jobs SET sent_at = sent_at - 10000")
            (task,) = sandbox.ledger.tasks
            client = Client("sandbox", api_key=sandbox.key, base_url=silent, callback=callback)
            async with serving(Receiver(client).application(), found), client, ClientSession() as session:
                async with create_task_group() as group, client.batch(["a heron"], journal=path) as batch:
                    await asked.wait()
                    group.start_soon(call_when_left, batch, session, task)
    with JournalReader(path) as reader:
        assert {entry.request.prompt: entry.task_id for entry in reader.entries()} == {
            "a red fox": task.task_id,
            "a heron": None,
        }


async def call_when_left(batch: Batch, session: ClientSession, task: Create) -> None:
    """Announce a task once its batch is being left."""
    while batch._phase < _Phase.LEAVING:
        await asyncio.sleep(0.01)
    async with session.post(str(task.callback_url), json={"data": {"taskId": task.task_id}}) as response:
        assert response.status == 200


async def call_back(session: ClientSession, task: Create) -> int:
    """Announce a task as a provider would; returns what is answered."""
    async with session.post(str(task.callback_url), json={"data": {"taskId": task.task_id}}) as response:
        return response.status


async def test_a_request_that_waits_to_be_sent_again_is_told(tmp_path: Path) -> None:
    """A held request that was met again, and waits for the limit, does without its second create."""
    path = tmp_path / "run.db"
    async with quick_sandbox() as sandbox:
        sandbox.keep("callback", "lost")
        with free_socket() as (found, port):
            callback = Callback(f"http://127.0.0.1:{port}/imagen")
            await lose_one(sandbox, path, callback)
            limits = Limits(submit=Rate(1, per=1))
            client = Client("sandbox", api_key=sandbox.key, base_url=sandbox.url, limits=limits, callback=callback)
            async with serving(Receiver(client).application(), found), client, ClientSession() as session:
                prompts = ["a heron", "a red fox"]
                async with client.batch(prompts, journal=path, on_unknown="resubmit") as batch:
                    while batch.progress.pulled < 2:
                        await asyncio.sleep(0.01)
                    assert await call_back(session, sandbox.ledger.tasks[0]) == 200
                    results = [result async for result in batch]
                    assert (batch.progress.done, batch.progress.failed) == (2, 0)
        assert_made_once(sandbox, results, prompts)


async def test_a_callback_whose_body_takes_its_time(tmp_path: Path) -> None:
    """What is told is acted on as things are when it has arrived whole: here after its request came out as unknown."""
    async with quick_sandbox() as sandbox:
        sandbox.keep("callback", "lost")
        sandbox.order("create", "reset_after")
        async with called_back(sandbox) as client, ClientSession() as session, create_task_group() as group:
            async with client.batch(["a red fox"], journal=tmp_path / "run.db", deadline=0.5) as batch:
                while not sandbox.ledger.tasks:
                    await asyncio.sleep(0.01)
                unknown = asyncio.Event()

                async def body() -> AsyncIterator[bytes]:
                    yield b'{"data":{"taskId":'
                    await unknown.wait()
                    yield f'"{sandbox.ledger.tasks[0].task_id}"}}}}'.encode()

                async def post() -> None:
                    async with session.post(str(sandbox.ledger.tasks[0].callback_url), data=body()) as response:
                        assert response.status == 200

                group.start_soon(post)
                results = [await anext(batch)]
                unknown.set()
                while batch.progress.done < 1:
                    await asyncio.sleep(0.01)
            assert [type(result.error) for result in results] == [UnknownOutcome]
            assert [(result.ok, result.task_id) for result in batch.leftover] == [
                (True, sandbox.ledger.tasks[0].task_id)
            ]


async def test_a_callback_for_an_account_that_is_not_there_is_noted(tmp_path: Path) -> None:
    """Where nobody can ask about the task, the journal keeps its name for the run that can."""
    path = tmp_path / "run.db"
    async with quick_sandbox() as sandbox:
        sandbox.keep("callback", "lost")
        sandbox.order("create", "reset_after")
        async with called_back(sandbox, "kie") as client, client.batch(["a red fox"], journal=path):
            while not sandbox.ledger.creates:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
        with free_socket() as (found, port):
            account = Account("apiin", api_key=sandbox.key, base_url=sandbox.url_of("apiin"))
            client = Client(account, callback=Callback(f"http://127.0.0.1:{port}"))
            token = str(sandbox.ledger.tasks[0].callback_url).rpartition("/")[2]
            url, body = f"http://127.0.0.1:{port}/{token}", {"data": {"taskId": sandbox.ledger.tasks[0].task_id}}
            async with serving(Receiver(client).application(), found), client, ClientSession() as session:
                async with client.batch(["a red fox"], journal=path), session.post(url, json=body) as response:
                    assert response.status == 200
        async with called_back(sandbox, "kie") as client:
            assert_made_once(sandbox, await results_of(client, ["a red fox"], journal=path), ["a red fox"])


async def test_a_task_that_is_anothers_is_not_taken(caplog: pytest.LogCaptureFixture) -> None:
    """A callback that names the task of another request clears nothing up."""
    async with quick_sandbox() as sandbox:
        sandbox.keep("callback", "lost")
        sandbox.order("create", None, "reset_after")
        async with called_back(sandbox, freshness=SELDOM) as client, ClientSession() as session:
            async with client.batch(["own", "lost"], deadline=1.0) as batch:
                while batch.progress.held < 1:
                    await asyncio.sleep(0.01)
                own, lost = sandbox.ledger.tasks
                body = {"data": {"taskId": own.task_id}}
                async with session.post(str(lost.callback_url), json=body) as response:
                    assert response.status == 200
                results = {result.request.prompt: result async for result in batch}
        assert isinstance(results["lost"].error, UnknownOutcome)
