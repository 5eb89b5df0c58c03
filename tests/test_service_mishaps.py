"""What has gone wrong with services, each told once: by a hostile reading, and by whoever else looks for it."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from services import Asker, service

from imagen_async import Account, Client
from imagen_async.errors import JournalError
from imagen_async.sandbox import Latency, Sandbox
from imagen_async.service import application, new_caller


async def test_a_mounted_service_pays_for_nobody_who_has_left(tmp_path: Path) -> None:
    """Below a path, in a server that cancels no handler: repeats make no second task, and addresses lead there."""
    async with Sandbox(latency=Latency(median=3.0, sigma=0)) as sandbox:
        account = Account("sandbox", base_url=sandbox.url, api_key=sandbox.key)
        kept = {"journal": tmp_path / "run.db", "save_to": tmp_path, "shared": False}
        async with Client(account, **kept) as client, aiohttp.ClientSession() as session:
            whole = web.Application()
            whole.add_subapp("/img/", application(client))
            runner = web.AppRunner(whole, access_log=None, handle_signals=False)
            await runner.setup()
            try:
                await web.TCPSite(runner, "127.0.0.1", 0).start()
                asker = Asker(f"http://127.0.0.1:{runner.addresses[0][1]}/img", session)
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(asker.generate(), 0.5)
                await asyncio.sleep(1.2)
                (url,) = (await asker.generate()).urls
                assert url.startswith(f"{asker.url}/files/")
                async with session.get(url) as response:
                    assert response.status == 200
                location = (await asker.generate("b", **{"async": True})).headers["Location"]
                assert location.startswith("/img/v1/")
            finally:
                await runner.cleanup()
        assert [task.input["prompt"] for task in sandbox.ledger.tasks].count("a fox") == 1


async def test_what_is_called_off_in_part_shows_what_was_made(tmp_path: Path) -> None:
    """Of two pictures one runs when the order is called off: that is made and shown, by the next process, too."""
    async with Sandbox(latency=Latency(median=0.3, sigma=0)) as sandbox:
        sandbox.faults.order("create", None, *["429"] * 20)
        async with service(sandbox, tmp_path, grace=0.0) as asker:
            location = (await asker.generate(n=2, **{"async": True})).headers["Location"]
            while not sandbox.ledger.tasks:
                await asyncio.sleep(0.01)
            assert (await asker.ask("DELETE", location)).status == 200
        sandbox.faults.keep("create", None)
        async with service(sandbox, tmp_path) as asker:
            found = (await asker.over(location)).body
            assert (found["status"], len((await asker.ask("GET", location)).urls)) == ("done", 1)
        assert len(sandbox.ledger.tasks) == 1


async def test_a_book_and_its_journal_go_together(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """With another journal nothing is served, for its orders would be paid again; with its own it goes on."""
    async with service(imagen_sandbox, tmp_path) as asker:
        assert (await asker.generate()).status == 200
    away = tmp_path / "away"
    away.mkdir()
    for path in tmp_path.glob("run.db*"):
        path.rename(away / path.name)
    with pytest.raises(JournalError, match="another journal"):
        async with service(imagen_sandbox, tmp_path):
            pass
    for path in tmp_path.glob("run.db*"):
        path.unlink()
    for path in away.iterdir():
        path.rename(tmp_path / path.name)
    async with service(imagen_sandbox, tmp_path) as asker:
        assert (await asker.generate("b")).status == 200


async def test_what_an_older_journal_does_not_know_is_paid_within_the_budget(
    imagen_sandbox: Sandbox, tmp_path: Path
) -> None:
    """Restored from a copy it makes a key's picture anew: both of them count, for this process and the next."""
    path = tmp_path / "callers.toml"
    headers = {"Authorization": f"Bearer {new_caller(path, 'shop').key}", "Idempotency-Key": "17"}
    path.write_text(f"{path.read_text()}budget = 20.0\n")
    folder, older = tmp_path / "out", tmp_path / "older"
    asked = {"headers": headers, "model": "imagen4"}
    async with service(imagen_sandbox, folder, callers=path):
        pass
    shutil.copytree(folder, older)
    async with service(imagen_sandbox, folder, callers=path) as asker:
        assert (await asker.generate(**asked)).status == 200
    for each in folder.glob("run.db*"):
        each.unlink()
    for each in older.glob("run.db*"):
        shutil.copyfile(each, folder / each.name)
    async with service(imagen_sandbox, folder, callers=path) as asker:
        assert (await asker.generate(**asked)).status == 200
    async with service(imagen_sandbox, folder, callers=path) as asker:
        assert (await asker.generate(**asked)).status == 200
        other = await asker.generate("b", headers=headers | {"Idempotency-Key": "18"})
        assert (other.status, other.error["code"]) == (402, "budget_reached")
    assert len(imagen_sandbox.ledger.tasks) == 2


async def test_an_order_that_could_not_be_sent_says_why(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """An empty account ends it as failed, with the account's own word, also for the next process."""
    async with service(imagen_sandbox, tmp_path) as asker:
        imagen_sandbox.faults.keep("create", "402")
        location = (await asker.generate(**{"async": True})).headers["Location"]
        found = (await asker.over(location)).body
        assert (found["status"], "error" in found) == ("failed", True)
    async with service(imagen_sandbox, tmp_path) as asker:
        assert (await asker.over(location)).body["error"] == found["error"]
    assert imagen_sandbox.ledger.tasks == []


async def test_an_alias_that_stands_for_another_model_changes_no_order(tmp_path: Path) -> None:
    """What runs is made by the model that it was asked of; an equal request then is one of the new model."""
    async with Sandbox(latency=Latency(median=0.5, sigma=0)) as sandbox:
        async with service(sandbox, tmp_path, aliases={"it": "imagen4-fast"}, grace=0.0) as asker:
            location = (await asker.generate(model="it", **{"async": True})).headers["Location"]
            while not sandbox.ledger.tasks:
                await asyncio.sleep(0.01)
        async with service(sandbox, tmp_path, aliases={"it": "imagen4"}) as asker:
            assert (await asker.over(location)).body["model"] == "imagen4-fast"
            assert (await asker.generate(model="it")).body["model"] == "imagen4"
        async with service(sandbox, tmp_path) as asker:
            assert (await asker.over(location)).body["status"] == "done"
        assert len(sandbox.ledger.tasks) == 2


async def test_what_outlasts_its_time_is_told_as_it_is(tmp_path: Path) -> None:
    """A task that runs when its deadline passes is 424 with its id, and the same request finds its picture."""
    async with (
        Sandbox(latency=Latency(median=1.5, sigma=0)) as sandbox,
        service(sandbox, tmp_path, deadline=0.7) as asker,
    ):
        late = await asker.generate()
        assert (late.status, late.error["code"]) == (424, "deadline_exceeded")
        while (answer := await asker.generate()).status == 424:
            assert answer.error["task_id"] == late.error["task_id"]
        assert (answer.status, len(sandbox.ledger.tasks)) == (200, 1)
