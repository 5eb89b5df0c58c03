"""Callbacks: what they save and how soon they show a picture, and how many a receiver takes.

Run as a program it is the provider's side of the flood: it calls each URL that it reads, and prints how long that took.
"""

from __future__ import annotations

import asyncio
import json
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from aiohttp import web

from benchmarks.shapes import Lognormal, draws, steady
from benchmarks.simulation import Simulation
from imagen_async import Account, Callback, Client, Limits, Rate
from imagen_async._core.callback_bodies import read_callback
from imagen_async._core.poll_schedule import PollSchedule
from imagen_async.providers import PROVIDERS, SANDBOX
from imagen_async.sandbox import Latency, Sandbox
from imagen_async.testing import running_sandbox
from imagen_async.webhooks import Receiver

TITLE = "status calls and delays with callbacks and without: over loopback, in virtual time; then a flood of callbacks"

WAYS: dict[str, Callable[[int, int], bool] | None] = {
    "off": None,
    "all arrive": lambda number, count: True,
    "half are lost": lambda number, count: number % 2 == 0,
    "lost from the middle on": lambda number, count: number < count / 2,
    "all are lost": lambda number, count: False,
}
"""Which callbacks of a run arrive."""

CALLERS = 32
"""Connections of the flood."""

SHORT = Lognormal(1.0, 0.35, minimum=0.05)
LONG = Lognormal(30.0, 0.6)
"""How long tasks take: as the sandbox's do, and as kie.ai's may."""


def run(*, quick: bool) -> list[dict[str, object]]:
    """Rows for each way of delivering, then for a flood at our receiver and at a bare handler, in turn."""
    jobs, flood = (50, 500) if quick else (500, 3000)
    rows = [asyncio.run(_delivered(way, jobs)) for way in WAYS]
    for law, limits in ((SHORT, SANDBOX.limits), (LONG, PROVIDERS["kie"].limits)):
        rows += [simulated(way, law, limits, 2 * jobs) for way in WAYS]
    return rows + asyncio.run(_flooded(flood))


def simulated(way: str, law: Lognormal, limits: Limits, count: int) -> dict[str, Any]:
    """The plan alone, in virtual time, with round trips of 10 ms; it begins with the record of the provider."""
    latencies = draws(steady(law), count)
    provider = SANDBOX if law is SHORT else PROVIDERS["kie"]
    arrives = WAYS[way]
    announced = [number for number in range(count) if arrives is not None and arrives(number, count)]
    outcome = Simulation(PollSchedule(provider.latency), latencies, limits, 0.01, frozenset(announced)).run()
    delays = [delay * 1000 for delay in outcome.delays]
    figures = {"mean delay, ms": statistics.mean(delays), "p99, ms": statistics.quantiles(delays, n=100)[98]}
    calls = statistics.mean(outcome.calls)
    return _row(f"{way}, tasks of about {law.median:g} s, virtual", **{"status calls per task": calls, **figures})


def _row(what: str, **figures: float) -> dict[str, Any]:
    columns = ("status calls per task", "mean delay, ms", "p99, ms", "per s", "answer, ms", "slowest in 100, ms")
    return {"callbacks": what, **{column: figures.get(column, "") for column in columns}}


async def _delivered(way: str, count: int) -> dict[str, object]:
    """Run a batch whose callbacks are delivered so."""
    limits = Limits(submit=Rate(50, per=1), status=Rate(200, per=1), running=200)
    with running_sandbox(Sandbox(latency=Latency(median=1.0), limits=limits)) as sandbox:
        arrives = WAYS[way]
        if arrives is not None:
            sandbox.order("callback", *[None if arrives(number, count) else "lost" for number in range(count)])
        delays = []
        async with _called_back(sandbox, is_on=arrives is not None) as client:
            async with client.batch(f"prompt {number}" for number in range(count)) as results:
                async for result in results:
                    assert result.ok, result
                    delays.append(time.time() * 1000 - json.loads(result.raw)["data"]["completeTime"])
        calls = len(sandbox.ledger.poll_times) / count
    figures = {"mean delay, ms": statistics.mean(delays), "p99, ms": statistics.quantiles(delays, n=100)[98]}
    return _row(way, **{"status calls per task": calls, **figures})


@asynccontextmanager
async def _called_back(sandbox: Sandbox, *, is_on: bool = True) -> AsyncIterator[Client]:
    """An open client of a sandbox, its receiver beside a bare handler on the same server."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        callback = Callback(f"http://127.0.0.1:{found.getsockname()[1]}/imagen") if is_on else None
        account = Account("sandbox", api_key=sandbox.key, base_url=sandbox.url, limits=sandbox.limits)
        async with Client(account, callback=callback) as client:
            application = web.Application()
            application.router.add_post("/bare/{token}", _bare)
            if is_on:
                application.router.add_post("/imagen/{token}", Receiver(client).handle)
            runner = web.AppRunner(application, access_log=None)
            await runner.setup()
            try:
                await web.SockSite(runner, found, backlog=2048).start()
                yield client
            finally:
                await runner.cleanup()


async def _bare(request: web.Request) -> web.Response:
    """The least that a handler can do: read the body, decode it, answer."""
    read_callback(await request.read())
    return web.Response()


async def _flooded(count: int) -> list[dict[str, object]]:
    """Have `count` running tasks announced as fast as another process can, three times each and in turn.

    The questions that follow keep to kie.ai's own 10 a second: taking callbacks is what is measured.
    """
    limits = Limits(submit=Rate(10**6, per=1), status=Rate(10, per=1), running=10**6)
    taken: dict[str, list[dict[str, float]]] = {"bare": [], "imagen": []}
    with running_sandbox(Sandbox(latency=Latency(median=3600, sigma=0.0), limits=limits)) as sandbox:
        async with _called_back(sandbox) as client, client.batch(f"prompt {n}" for n in range(count)) as results:
            while results.progress.running < count:
                await asyncio.sleep(0.1)
            for _ in range(3):
                for name, figures in taken.items():
                    figures.append(await _flood(sandbox, name))
    rows = []
    for name, label in (("bare", "a flood, at a bare handler"), ("imagen", "a flood, at the receiver")):
        medians = {key: statistics.median(each[key] for each in taken[name]) for key in taken[name][0]}
        rows.append(_row(label, **medians))
    return rows


async def _flood(sandbox: Sandbox, name: str) -> dict[str, float]:
    calls = [
        (str(create.callback_url).replace("/imagen/", f"/{name}/"), {"code": 200, "data": {"taskId": create.task_id}})
        for create in sandbox.ledger.tasks
    ]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.callbacks", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    answer, _ = await process.communicate(json.dumps(calls).encode())
    figures: dict[str, float] = json.loads(answer)
    return figures


async def _call(calls: list[Any]) -> dict[str, float]:
    """Call every URL, `CALLERS` at a time."""
    times: list[float] = []
    left = iter(calls)

    async def caller(session: aiohttp.ClientSession) -> None:
        for url, body in left:
            began = time.perf_counter()
            async with session.post(url, json=body) as response:
                assert response.status == 200, response.status
                await response.read()
            times.append((time.perf_counter() - began) * 1000)

    async with aiohttp.ClientSession() as session:
        began = time.perf_counter()
        await asyncio.gather(*(caller(session) for _ in range(CALLERS)))
        seconds = time.perf_counter() - began
    slowest = statistics.quantiles(times, n=100)[98]
    return {"per s": len(times) / seconds, "answer, ms": statistics.median(times), "slowest in 100, ms": slowest}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_call(json.load(sys.stdin)))))
