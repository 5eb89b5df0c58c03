"""Callers of a service, each with its own key, and a service that leaves and comes back."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path

import pytest
from aiohttp import web
from inner import signed
from servers import free_socket, serving
from services import GENERATIONS, service

from imagen_async.sandbox import Latency, Sandbox
from imagen_async.service import NewCaller, new_caller


def callers_in(folder: Path, **more: str) -> tuple[Path, dict[str, NewCaller]]:
    """A file of callers, by their names, each with more lines in its table."""
    path = folder / "callers.toml"
    made = {}
    for name, lines in more.items():
        made[name] = new_caller(path, name)
        path.write_text(f"{path.read_text().rstrip()}\n{lines}\n")
    return path, made


def key_of(caller: NewCaller) -> dict[str, str]:
    """The header that has its key."""
    return {"Authorization": f"Bearer {caller.key}"}


async def test_a_caller_has_its_models_its_budget_and_its_own_orders(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """What it may not ask for is 403, what it cannot pay is 402 and sends nothing; others' orders are not there."""
    path, made = callers_in(tmp_path, shop='models = ["imagen4-fast"]\nbudget = 8.0', lab="")
    asked = {"model": "imagen4-fast", "async": True}
    async with service(imagen_sandbox, tmp_path / "out", callers=path) as asker:
        assert (await asker.generate(**asked)).status == 401
        answer = await asker.generate(headers=key_of(made["shop"]), model="imagen4-ultra")
        assert (answer.status, answer.error["code"]) == (403, "model_not_allowed")
        location = (await asker.generate(headers=key_of(made["shop"]), **asked)).headers["Location"]
        assert (await asker.ask("GET", location, key_of(made["shop"]))).status == 200
        assert (await asker.ask("GET", location, key_of(made["lab"]))).status == 404
        assert (await asker.ask("DELETE", location, key_of(made["lab"]))).status == 404
        assert (await asker.generate("b", headers=key_of(made["shop"]), **asked)).status == 202
        broke = await asker.generate("c", headers=key_of(made["shop"]), **asked)
        assert (broke.status, broke.error["code"]) == (402, "budget_reached")
        assert (await asker.generate("c", headers=key_of(made["lab"]))).status == 200
        # Equal requests of two callers are two.
        assert (await asker.generate("b", headers=key_of(made["lab"]), model="imagen4-fast")).status == 200
    async with service(imagen_sandbox, tmp_path / "out", callers=path) as asker:
        assert (await asker.generate("d", headers=key_of(made["shop"]), **asked)).status == 402
    assert imagen_sandbox.ledger.summary()["tasks"] == 4


async def test_what_was_not_billed_is_free_again(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """A refused create costs a budget nothing; one whose answer was lost counts as spent."""
    path, made = callers_in(tmp_path, shop="budget = 16.0")
    headers = key_of(made["shop"])
    async with service(imagen_sandbox, tmp_path / "out", callers=path) as asker:
        imagen_sandbox.order("create", "500", "500", "500", "reset_after")
        codes = [(await asker.generate(prompt, headers=headers)).status for prompt in "abcdef"]
    assert codes == [400, 400, 400, 424, 200, 402]


async def test_a_caller_is_called_back(tmp_path: Path) -> None:
    """At the end of what is made for it, signed, again where it was not taken, and not without a secret."""
    heard: list[tuple[dict[str, str], bytes]] = []
    taken = asyncio.Event()

    async def hear(request: web.Request) -> web.Response:
        heard.append((dict(request.headers), await request.read()))
        if len(heard) > 1:
            taken.set()
        return web.Response(status=204 if len(heard) > 1 else 503)

    listener = web.Application()
    listener.router.add_post("/hear", hear)
    path, made = callers_in(tmp_path, shop="")
    async with Sandbox(latency=Latency(median=0.05)) as sandbox:
        with free_socket() as (found, port):
            async with serving(listener, found), service(sandbox, tmp_path / "out", callers=path) as asker:
                asked = {"async": True, "callback_url": f"http://127.0.0.1:{port}/hear"}
                answer = await asker.generate(headers=key_of(made["shop"]), **asked)
                await asyncio.wait_for(taken.wait(), 60)
                headers, body = heard[-1]
                event = json.loads(body)
                assert (event["type"], event["data"]["id"]) == ("image_generation.done", answer.body["id"])
                assert len(event["data"]["data"]) == 1
                secret = made["shop"].callback_secret
                assert secret is not None
                at = float(headers["webhook-timestamp"])
                told = {name: value for name, value in headers.items() if name.startswith("webhook")}
                assert told == {
                    k: v for k, v in signed(answer.body["id"], body, secret, at).items() if k != "Content-Type"
                }
        async with service(sandbox, tmp_path / "open") as asker:
            refused = await asker.generate(**asked)
            assert (refused.status, refused.error["code"]) == (400, "no_callback_secret")


async def test_leaving_hears_out_what_runs_and_sends_the_others_back(tmp_path: Path) -> None:
    """What runs is answered within the grace; what waits is 503 and was not sent; the same again finds its picture."""
    async with Sandbox(latency=Latency(median=0.5, sigma=0)) as sandbox:
        sandbox.faults.order("create", None, "429", "429", "429", "429", "429", "429")
        async with service(sandbox, tmp_path, grace=5.0) as asker:
            first = asyncio.create_task(asker.generate("runs"))
            while not sandbox.ledger.tasks:
                await asyncio.sleep(0.01)
            second = asyncio.create_task(asker.generate("waits"))
            while len(sandbox.ledger.creates) < 2:
                await asyncio.sleep(0.01)
        assert (await first).status == 200
        answer = await second
        assert (answer.status, answer.error["code"]) == (503, "leaving")
        assert int(answer.headers["Retry-After"]) > 0
        assert len(sandbox.ledger.tasks) == 1


async def test_a_stream_of_what_was_not_sent_says_that_it_leaves(tmp_path: Path) -> None:
    """The reason is told in the stream, and the same request of the next process is made, once."""
    async with Sandbox(latency=Latency(median=0.1, sigma=0)) as sandbox:
        sandbox.faults.keep("create", "429")
        async with service(sandbox, tmp_path, grace=0.5) as asker:
            asked = asyncio.create_task(asker.generate(stream=True))
            while not sandbox.ledger.creates:
                await asyncio.sleep(0.01)
        assert '"code":"leaving"' in (await asked).text
        sandbox.faults.keep("create", None)
        async with service(sandbox, tmp_path) as asker:
            assert "image_generation.completed" in (await asker.generate(stream=True)).text
        assert len(sandbox.ledger.tasks) == 1


async def test_what_runs_longer_than_the_grace_is_found_again(tmp_path: Path) -> None:
    """Its caller is sent back, and asks the next process, which makes nothing a second time."""
    async with Sandbox(latency=Latency(median=1.0, sigma=0)) as sandbox:
        async with service(sandbox, tmp_path, grace=0.0) as asker:
            asked = asyncio.create_task(asker.generate(n=2))
            while len(sandbox.ledger.tasks) < 2:
                await asyncio.sleep(0.01)
        assert (await asked).status == 503
        async with service(sandbox, tmp_path) as asker:
            answer = await asker.generate(n=2, headers={"x-stainless-retry-count": "1"})
            assert len(answer.urls) == 2
        assert len(sandbox.ledger.tasks) == 2


async def test_an_order_that_nobody_waits_for_survives_its_process(tmp_path: Path) -> None:
    """Taken by one process, and made by the next, though nobody asks for it meanwhile."""
    async with Sandbox(latency=Latency(median=0.05, sigma=0)) as sandbox:
        sandbox.faults.keep("create", "429")
        async with service(sandbox, tmp_path, grace=0.0) as asker:
            location = (await asker.generate(**{"async": True})).headers["Location"]
        sandbox.faults.keep("create", None)
        async with service(sandbox, tmp_path) as asker:
            assert (await asker.over(location)).body["status"] == "done"
        assert len(sandbox.ledger.tasks) == 1


async def test_what_was_not_sent_of_several_stays_set_aside(tmp_path: Path) -> None:
    """Of three pictures one is made when the service leaves: the others are made later, within the same budget."""
    path, made = callers_in(tmp_path, shop="budget = 24.0")
    headers = key_of(made["shop"])
    async with Sandbox(latency=Latency(median=0.05, sigma=0)) as sandbox:
        for asked in ({"async": True}, {}):
            folder = tmp_path / f"out{len(asked)}"
            sandbox.faults.order("create", None, "429", "429", "429", "429")
            before = len(sandbox.ledger.tasks)
            async with service(sandbox, folder, callers=path, grace=1.0) as asker:
                asking = asyncio.create_task(asker.generate(n=3, headers=headers, **asked))
                while len(sandbox.ledger.tasks) == before:
                    await asyncio.sleep(0.01)
            location = (await asking).headers.get("Location")
            assert (await asking).status == (202 if asked else 503)
            sandbox.faults.keep("create", None)
            async with service(sandbox, folder, callers=path) as asker:
                if location is not None:
                    assert (await asker.over(location, headers)).body["status"] == "done"
                else:
                    assert (await asker.generate(n=3, headers=headers)).status == 200
                assert len(sandbox.ledger.tasks) == before + 3
                assert (await asker.generate("one more", headers=headers)).status == 402


@pytest.mark.parametrize("body", [b"x" * (2 << 20), b"{" * 100])
async def test_bodies_that_are_none_are_refused(imagen_sandbox: Sandbox, tmp_path: Path, body: bytes) -> None:
    """One that is too long is 413 before it is read whole, one that is no JSON is 400."""
    async with service(imagen_sandbox, tmp_path) as asker:
        answer = await asker.ask("POST", GENERATIONS, {"Content-Type": "application/json"}, data=io.BytesIO(body))
        assert answer.status == (413 if len(body) > 1000 else 400)
        assert (await asker.generate()).status == 200
