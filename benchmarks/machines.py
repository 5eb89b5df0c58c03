"""Batches of three processes, as if of three machines, through one service: what it takes, and whether it grows."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack, ExitStack

from benchmarks.service import LIMITS, said, serving, started
from benchmarks.worker import peak_memory
from imagen_async import Account, Client
from imagen_async.sandbox import Latency, Sandbox
from imagen_async.service import application, new_caller

TITLE = "three batches at once through one service, each of a caller of its own, with a journal"

MACHINES = 3

LATENCY = 0.5
"""Seconds that a task takes."""

MODULE = "benchmarks.machines"


def run(*, quick: bool) -> list[dict[str, object]]:
    """A row for each number of requests of a batch."""
    return [measured(count) for count in ((100, 300) if quick else (1000, 10_000))]


def check() -> list[str]:
    """What is wrong with a short run: a request that is lost, or made twice."""
    row = measured(300)
    wrong = f"{row['tasks']} tasks for {MACHINES * 300} requests, of which {row['done']} are done"
    return [] if row["tasks"] == row["done"] == MACHINES * 300 else [wrong]


def measured(count: int) -> dict[str, object]:
    """What batches of so many requests take."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        maker = stack.enter_context(started(MODULE, "sandbox"))
        server = stack.enter_context(started(MODULE, "service", said(maker), folder))
        address, *keys = json.loads(said(server))
        began = time.monotonic()
        clients = [
            stack.enter_context(started(MODULE, "batch", address, key, f"{folder}/{number}.db", str(count)))
            for number, key in enumerate(keys)
        ]
        found = [json.loads(said(each)) for each in clients]
        wall = time.monotonic() - began
        server.terminate()
        cpu, memory = json.loads(said(server))
        maker.terminate()
        tasks = int(said(maker))
    ends = [each["ended_at"] for each in found]
    return {
        "requests of each": count,
        "done": sum(each["done"] for each in found),
        "tasks": tasks,
        "pictures a second": MACHINES * count / wall,
        "they end within (s)": max(ends) - min(ends),
        "service ms CPU a picture": cpu / (MACHINES * count) * 1e3,
        "service MB": memory / 1e6,
        "client ms CPU a picture": statistics.mean(each["cpu"] for each in found) / count * 1e3,
        "client MB": max(each["memory"] for each in found) / 1e6,
    }


async def sandbox() -> None:
    """Serve a sandbox until it is told to leave; says its address first, and how many tasks it has made last."""
    async with Sandbox(limits=LIMITS, latency=Latency(median=LATENCY, sigma=0)) as made:
        print(made.url, flush=True)
        await terminated()
        print(len(made.ledger.tasks), flush=True)


async def service(url: str, folder: str) -> None:
    """Serve until it is told to leave; says its address and the keys first, and what it took last."""
    keys = [new_caller(f"{folder}/callers.toml", f"machine-{number}").key for number in range(MACHINES)]
    async with AsyncExitStack() as stack:
        account, out = Account("sandbox", base_url=url, limits=LIMITS), f"{folder}/out"
        os.mkdir(out)
        client = Client(account, journal=f"{out}/run.db", save_to=out, shared=False)
        made = application(await stack.enter_async_context(client), callers=f"{folder}/callers.toml")
        address = await stack.enter_async_context(serving(made))
        began = time.process_time()
        print(json.dumps([address, *keys]), flush=True)
        await terminated()
        print(json.dumps([time.process_time() - began, peak_memory()]), flush=True)


async def batch(url: str, key: str, journal: str, count: int) -> None:
    """Have a batch made, and say what it took."""
    began, done = time.process_time(), 0
    prompts = (f"a red fox, number {number} of {journal}" for number in range(count))
    async with Client(Account("served", base_url=url, api_key=key)) as client:
        async with client.batch(prompts, journal=journal) as results:
            async for result in results:
                done += result.ok
    took = {"done": done, "cpu": time.process_time() - began, "memory": peak_memory(), "ended_at": time.time()}
    print(json.dumps(took), flush=True)


async def terminated() -> None:
    """Wait for SIGTERM."""
    is_told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, is_told.set)
    await is_told.wait()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["sandbox"]:
            asyncio.run(sandbox())
        case ["service", url, folder]:
            asyncio.run(service(url, folder))
        case ["batch", url, key, journal, count]:
            asyncio.run(batch(url, key, journal, int(count)))
