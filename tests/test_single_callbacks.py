"""Callbacks about single requests of a journal whose process is gone: the next one that asks has the picture."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import anyio
import pytest
from files import encoded
from inner import Journal, SharedJournal, seal_of
from journals import entry, place
from msgspec.structs import replace
from servers import free_socket, serving

from imagen_async import (
    Account,
    Callback,
    Client,
    ImageRequest,
    InvalidRequest,
    Result,
    UnknownOutcome,
)
from imagen_async.sandbox import Latency, Sandbox
from imagen_async.webhooks import Receiver

__all__ = ["place"]

FOX = ImageRequest("a fox", key="k", model="imagen4-fast")


@asynccontextmanager
async def left_behind(place: Path) -> AsyncIterator[tuple[Sandbox, Client]]:
    """A create whose answer was lost, and whose process has ended; and another client of the journal, called back."""
    async with Sandbox(latency=Latency(median=1, sigma=0)) as sandbox:
        sandbox.order("create", "reset_after")
        account = Account("kie", sandbox.key, sandbox.url_of("kie"), shared=False)
        with free_socket() as (found, port):
            terms = {"journal": place / "run.db", "callback": Callback(f"http://127.0.0.1:{port}/imagen")}
            async with Client(account, **terms) as first:
                asking = asyncio.create_task(first.generate(FOX))
                while not sandbox.ledger.tasks:
                    await anyio.sleep(0.01)
                await anyio.sleep(0.1)
                asking.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await asking
            client = Client(account, **terms)
            async with client, serving(Receiver(client).application(), found):
                yield sandbox, client


async def test_who_asks_before_the_callback_waits_for_it(place: Path) -> None:
    """A create whose answer was lost is not told as unknown while its callback may come."""
    async with left_behind(place) as (sandbox, client):
        result = await client.generate(FOX)
        assert [result.task_id] == [task.task_id for task in sandbox.ledger.tasks]


@pytest.mark.parametrize("resumes", [False, True], ids=["asked for", "resumed"])
async def test_a_callback_that_nobody_waited_for_is_noted(place: Path, resumes: bool) -> None:
    """Its task is in the journal before it is answered: whoever asks for the key, or resumes, has the picture."""
    async with left_behind(place) as (sandbox, client):
        while not sandbox.ledger.callback_answers[200]:
            await anyio.sleep(0.02)
        (task,) = (task.task_id for task in sandbox.ledger.tasks)
        assert [(entry.key, entry.task_id) for entry in await client.unfinished()] == [("k", task)]
        results: list[Result] = [result async for result in client.resume()] if resumes else []
        assert [result.task_id for result in results] == [task] * resumes
        result = await client.generate(FOX)
        assert (result.task_id, result.earlier) == (task, resumes)
        assert await client.unfinished() == []


async def test_a_file_that_another_program_keeps_is_waited_for(place: Path) -> None:
    """While somebody else writes to the journal nothing is sent, and then it is."""
    async with Sandbox() as sandbox:
        account = Account("kie", sandbox.key, sandbox.url_of("kie"))
        async with Client(account, journal=place / "run.db") as client:
            with closing(sqlite3.connect(place / "run.db", isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                asking = asyncio.create_task(client.generate(FOX))
                await anyio.sleep(1.5)
                assert not sandbox.ledger.creates
                other.execute("ROLLBACK")
            assert (await asking).ok


async def test_a_file_that_is_kept_is_told_of(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What keeps an end from being noted for longer than a moment is in the log; the picture comes all the same."""
    async with Sandbox(latency=Latency(median=0.3, sigma=0)) as sandbox:
        account = Account("kie", sandbox.key, sandbox.url_of("kie"))
        async with Client(account, journal=place / "run.db") as client:
            job = await client.submit(FOX)
            with closing(sqlite3.connect(place / "run.db", isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                await anyio.sleep(2.5)
                other.execute("ROLLBACK")
            assert (await job).ok
    told = [record.levelname for record in caplog.records if "locked by another program" in record.message]
    assert told == ["WARNING"]


async def test_what_is_held_for_long_is_told_as_such(place: Path) -> None:
    """Of a create of long ago no callback comes any more: it is held, and not sent."""
    request = ImageRequest("a fox", key="k", model="imagen4-fast", aspect_ratio="16:9")
    with SharedJournal(place / "run.db") as journal:
        intent = entry(key="k", request=request, account="kie", state="submitting", sent_at=time.time() - 1000)
        journal.claim(replace(intent, state="queued", attempts=0))
        journal.write([intent])
    async with Sandbox() as sandbox:
        account = Account("kie", sandbox.key, sandbox.url_of("kie"))
        callback = Callback("http://127.0.0.1:9/imagen")
        async with Client(account, journal=place / "run.db", callback=callback) as client:
            for _ in range(2):
                with pytest.raises(UnknownOutcome):
                    await client.generate(FOX)
        assert not sandbox.ledger.creates


async def test_a_batchs_key_is_no_single_requests(place: Path) -> None:
    """What a batch has begun is the batch's to end."""
    with closing(Journal(place / "run.db")) as journal:
        journal.begin_run()
        for state, task in (("submitting", None), ("running", "t1")):
            journal.write([entry(key="k", request=FOX, account="kie", state=state, task_id=task)])
        journal.end_run()
    async with Sandbox() as sandbox:
        account = Account("kie", sandbox.key, sandbox.url_of("kie"))
        async with Client(account, journal=place / "run.db") as client:
            with pytest.raises(InvalidRequest, match="is that of a request of a batch"):
                await client.generate(FOX)
        assert not sandbox.ledger.creates


async def test_a_picture_that_goes_in_is_uploaded_once(place: Path) -> None:
    """What a process has uploaded the next one knows."""
    picture = encoded("PNG")
    async with Sandbox() as sandbox:
        account = Account("kie", sandbox.key, sandbox.url_of("kie"))
        for number in range(2):
            async with Client(account, journal=place / "run.db") as client:
                request = ImageRequest("make it night", images=[picture], model="nano-banana-2", key=f"k{number}")
                assert (await client.generate(request)).ok
        assert sandbox.ledger.uploads.total() == 1


def test_a_batch_and_single_requests_have_one_secret(place: Path) -> None:
    """Who makes it at the same time as another one has that one's: each knows the other's tokens."""
    with SharedJournal(place / "run.db") as one, closing(Journal(place / "run.db")) as batch:
        names = [seal_of(store, {}).name("k") for store in (one, batch, one)]
    assert len(set(names)) == 1
