"""What a service costs over the library alone: the same pictures, asked for over HTTP; and what it takes to wait."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import aiohttp
from aiohttp import web

from benchmarks.worker import current_memory
from imagen_async import Account, Client, Limits, Rate
from imagen_async.sandbox import Latency, Sandbox
from imagen_async.service import application

TITLE = "CPU of the owner's process per picture, journalled and saved; and memory of requests that wait"

LIMITS = Limits(Rate(10**6, per=1), Rate(10**6, per=1), running=10**6)

AT_ONCE = 200

MOST_CPU = 1500.0
"""Microseconds that a request through the service may take more than one of the library."""

MOST_MEMORY = 30.0
"""MB more with 1,000 requests waiting."""

WAITING = 1000

WARM = 20
"""Requests that wait before memory is looked at."""


def run(*, quick: bool) -> list[dict[str, object]]:
    """A row for the library alone, one for the service with what it takes more, and one for a server that does nothing.

    The last says what of that is HTTP's: to take a request and give its answer, on a machine where each of that wakes
    another process.
    """
    count, pairs = (200, 1) if quick else (900, 7)
    taken = measured(count, pairs, ("alone", "served", "bare"))
    memory = {name: waiting(name) for name in ("alone", "served")}
    cpu = {name: statistics.median(each) for name, each in taken.items()}
    rows: list[tuple[object, ...]] = [
        ("the library alone", cpu["alone"], "", memory["alone"], ""),
        ("through the service", cpu["served"], more(taken), memory["served"], memory["served"] - memory["alone"]),
        ("a server of aiohttp's that only waits", cpu["bare"], "", "", ""),
    ]
    columns = ("what", "µs CPU per picture", "µs more", f"MB of {WAITING:,} that wait", "MB more")
    return [dict(zip(columns, row, strict=True)) for row in rows]


def check() -> list[str]:
    """What is wrong with a short run: twice the CPU, or half as much memory again, as is wanted at most."""
    cpu = more(measured(300, 3, ("alone", "served")))
    memory, wrong = waiting("served") - waiting("alone"), list[str]()
    if cpu > 2 * MOST_CPU:
        wrong.append(f"a request through the service takes {cpu:.0f} µs more, {MOST_CPU:.0f} are wanted")
    if memory > 1.5 * MOST_MEMORY:
        wrong.append(f"{WAITING:,} requests that wait take {memory:.0f} MB, {MOST_MEMORY:.0f} are wanted")
    return wrong


def more(taken: dict[str, list[float]]) -> float:
    """What the service takes more than the library alone, by the pairs."""
    return statistics.median(each - other for each, other in zip(taken["served"], taken["alone"], strict=True))


def measured(count: int, pairs: int, names: tuple[str, ...]) -> dict[str, list[float]]:
    """Microseconds of CPU per picture, each way, in pairs taken in turn."""
    taken: dict[str, list[float]] = {name: [] for name in names}
    with started("benchmarks.service", "sandbox", "0.3") as maker:
        url = said(maker)
        # The first pair is a warm-up.
        for number in range(pairs + 1):
            for name in names if number % 2 else reversed(names):
                figure = float(_told("owner", name, url, str(count)))
                taken[name] += [figure / count * 1e6] if number else []
    return taken


def waiting(name: str) -> float:
    """MB more that an owner's process has while requests wait for pictures that take long."""
    with started("benchmarks.service", "sandbox", "3600") as maker:
        url = said(maker)
        return float(_told("owner", f"{name}-waiting", url, str(WAITING)))


@contextlib.contextmanager
def started(module: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A process of a benchmark's own."""
    command = [sys.executable, "-m", module, *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[str]) -> str:
    """The next line that a process says."""
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    assert line, process.args
    return line


def _told(*words: str) -> str:
    with started("benchmarks.service", *words) as process:
        line = said(process)
        process.wait()
        return line


async def sandbox(latency: float) -> None:
    """Serve a sandbox whose limits are out of the way, until it is killed."""
    async with Sandbox(limits=LIMITS, latency=Latency(median=latency, sigma=0)) as served:
        print(served.url, flush=True)
        await asyncio.Event().wait()


async def owner(name: str, url: str, count: int) -> None:
    """Have so many pictures made, and say what that has cost; or what it takes that so many wait."""
    if name == "bare":
        await _bare(count)
        return
    with tempfile.TemporaryDirectory() as out:
        account = Account("sandbox", base_url=url, limits=LIMITS)
        async with Client(account, journal=f"{out}/run.db", save_to=out, shared=False) as client:
            if name.startswith("alone"):
                ask = functools.partial(_ask_library, client)
                print(await (_waits(ask, count, url) if name == "alone-waiting" else _cpu(ask, count)), flush=True)
                return
            async with serving(application(client, grace=0)) as address:
                ask = functools.partial(_ask_service, address)
                print(await (_waits(ask, count, url) if name == "served-waiting" else _cpu(ask, count)), flush=True)


@contextlib.asynccontextmanager
async def serving(made: web.Application) -> AsyncIterator[str]:
    """Serve an application at the address that comes, as a program does that has several clients at once."""
    runner = web.AppRunner(made, access_log=None, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=4096).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def _bare(count: int) -> None:
    """Answer so many requests after times such as pictures take, and say what that has cost."""

    async def answer(request: web.Request) -> web.Response:
        await request.json()
        await asyncio.sleep(random.uniform(0.3, 3.0))
        return web.json_response({"created": 1, "data": [{"url": f"http://127.0.0.1/files/{'0' * 40}.png"}]})

    made = web.Application()
    made.router.add_post("/v1/images/generations", answer)
    async with serving(made) as address:
        print(await _cpu(functools.partial(_ask_service, address), count), flush=True)


Ask = Callable[[int], Awaitable[None]]
"""Asks for so many pictures, and waits for them."""


async def _cpu(ask: Ask, count: int) -> float:
    await ask(1)
    began = time.process_time()
    await ask(count)
    return time.process_time() - began


async def _waits(ask: Ask, count: int, sandbox: str) -> float:
    async with aiohttp.ClientSession() as session:

        async def waits(most: int) -> int:
            """The memory once so many tasks run."""
            while True:
                await asyncio.sleep(0.5)
                async with session.get(f"{sandbox}/sandbox/ledger") as response:
                    if (await response.json())["tasks"] >= most:
                        return current_memory()

        # What the first ones load stays.
        first = asyncio.ensure_future(ask(WARM))
        before = await waits(WARM)
        asking = asyncio.ensure_future(ask(count))
        more = await waits(WARM + count) - before
    for each in (first, asking):
        each.cancel()
    return more / 1e6


async def _ask_library(client: Client, count: int) -> None:
    turns = asyncio.Semaphore(_at_once(count))

    async def one(number: int) -> None:
        async with turns:
            await client.generate(f"a red fox, number {number}", key=f"order-{count}-{number}")

    await asyncio.gather(*map(one, range(count)))


async def _ask_service(url: str, count: int) -> None:
    """Have another process ask for so many pictures, and wait for it."""
    words = ("-m", "benchmarks.service", "asker", url, str(count))
    process = await asyncio.create_subprocess_exec(sys.executable, *words)
    try:
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()


async def asker(url: str, count: int) -> None:
    """Ask for pictures as any client does."""
    turns = asyncio.Semaphore(_at_once(count))
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(None)) as session:

        async def one(number: int) -> None:
            body = {"prompt": f"a red fox, number {number}", "response_format": "url"}
            async with turns, session.post(f"{url}/v1/images/generations", json=body) as response:
                assert response.status == 200, await response.text()
                json.loads(await response.read())

        await asyncio.gather(*map(one, range(count)))


def _at_once(count: int) -> int:
    return count if count == WAITING else AT_ONCE


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["sandbox", latency]:
            asyncio.run(sandbox(float(latency)))
        case ["owner", name, url, count]:
            asyncio.run(owner(name, url, int(count)))
        case ["asker", url, count]:
            asyncio.run(asker(url, int(count)))
