"""Whoever asks badly keeps nobody else: idle and slow connections, long bodies, wrong keys."""

from __future__ import annotations

import asyncio
import io
import statistics
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest
from services import GENERATIONS, Answer, service

from imagen_async import Account, Limits, Rate
from imagen_async.sandbox import Latency, Sandbox
from imagen_async.service import new_caller


async def test_idle_and_slow_connections_keep_nobody(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """With 500 that say nothing, or a byte now and then, a picture is made as ever."""
    head = b"POST %b HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
    async with service(imagen_sandbox, tmp_path) as asker, AsyncExitStack() as stack:
        port = int(asker.url.rpartition(":")[2])
        for number in range(500):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            stack.callback(writer.close)
            if number % 2:
                writer.write(head % GENERATIONS.encode())
        assert (await asker.generate()).status == 200
    assert len(imagen_sandbox.ledger.tasks) == 1


async def test_long_bodies_are_refused_before_they_are_read(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """10 MB of JSON are 413; so is a form with a field, or with parts, beyond all bounds, and nothing of it is kept."""
    form = {"Authorization": "Bearer x"}
    async with service(imagen_sandbox, tmp_path) as asker:
        json = {"Content-Type": "application/json"}
        answer = await asker.ask("POST", GENERATIONS, json, data=io.BytesIO(b'{"prompt": "' + b"x" * (10 << 20)))
        assert (answer.status, answer.error["code"]) == (413, "too_long")
        long, many, odd = (aiohttp.FormData(default_to_multipart=True) for _ in range(3))
        long.add_field("prompt", "x" * 600_000)
        for number in range(200):
            many.add_field(f"field{number}", "x")
        odd.add_field("image", b"no picture at all", filename="a.png", content_type="image/png")
        statuses = [(await asker.ask("POST", "/v1/images/edits", form, data=each)).status for each in (long, many, odd)]
        assert statuses == [413, 413, 400]
        assert list((tmp_path / ".inputs").iterdir()) == []
    assert imagen_sandbox.ledger.tasks == []


@pytest.mark.slow
async def test_callers_take_turns(tmp_path: Path) -> None:
    """Three with a few requests are sent alike, though a fourth had far more waiting before they came."""
    path, made = tmp_path / "callers.toml", {}
    for name in ("greedy", "ana", "ben", "eva"):
        made[name] = {"Authorization": f"Bearer {new_caller(path, name).key}"}
    # Wide windows: all are there before the second one begins.
    limits = Limits(Rate(10, per=4.0), Rate(500, per=0.5), running=300)
    async with Sandbox(limits=limits, latency=Latency(median=0.05)) as sandbox:
        account = Account("sandbox", api_key=sandbox.key, base_url=sandbox.url, limits=limits)
        async with service(sandbox, tmp_path / "out", callers=path, accounts=[account]) as asker:

            def ask(name: str, count: int) -> list[asyncio.Future[Answer]]:
                asking = (asker.generate(f"{name} {number}", headers=made[name]) for number in range(count))
                return [asyncio.ensure_future(each) for each in asking]

            greedy = ask("greedy", 100)
            while len(sandbox.ledger.tasks) < 10:
                await asyncio.sleep(0.01)
            asked = [each for name in ("ana", "ben", "eva") for each in ask(name, 8)]
            assert {answer.status for answer in await asyncio.gather(*asked)} == {200}
            for each in greedy:
                each.cancel()
        order = [task.input["prompt"].split()[0] for task in sandbox.ledger.tasks]
    places = {name: [at for at, each in enumerate(order) if each == name] for name in made}
    medians = {name: statistics.median(places[name]) for name in ("ana", "ben", "eva")}
    # First come first served they would be 8 apart, and behind the 100.
    assert max(medians.values()) - min(medians.values()) <= 5
    assert max(places[name][-1] for name in medians) <= 10 + 4 * 8 + 10


async def test_a_wrong_key_learns_nothing(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """Neither what there is, nor whose: each path but those of pictures is 401 before a body is read."""
    new_caller(tmp_path / "callers.toml", "shop")
    async with service(imagen_sandbox, tmp_path / "out", callers=tmp_path / "callers.toml") as asker:
        for method, path in (("POST", GENERATIONS), ("GET", "/v1/models"), ("GET", "/v1/images/generations/img-1")):
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic eDp5"}):
                answer = await asker.ask(method, path, headers)
                assert (answer.status, answer.headers["x-should-retry"]) == (401, "false")
        assert (await asker.ask("GET", "/files/nothing")).status == 404
