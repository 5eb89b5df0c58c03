"""What is measured, each in a process of its own: our batch, and a bare aiohttp loop that makes the same requests."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.server import PREFIX
from benchmarks.worker import Work, current_memory, main, peak_memory, prompts
from imagen_async import Account, Client, Limits, Rate
from imagen_async._core.journal_entry import JournalEntry
from imagen_async._journal import Journal

KEY = "0123456789abcdef" * 2
"""As long as providers' keys are: each answer is looked through for it."""

ENDLESS = Limits(Rate(10**9, per=1), Rate(10**9, per=1), running=10**9)


FRESHNESS = 0.005
"""Seconds. So our batches take about as long as the bare loop: else one rests while the other is in a hurry."""


def account(url: str, running: int, submit: Rate | None = None) -> Account:
    """The sandbox's dialect and what its record says of latencies, at the benchmark's server."""
    limits = Limits(submit or ENDLESS.submit, ENDLESS.status, running)
    return Account("sandbox", api_key=KEY, base_url=url, limits=limits)


async def ours(url: str, count: int, running: int, shared: bool = True) -> dict[str, float]:
    """Our batch."""
    async with Client(account(url, running), freshness=FRESHNESS, shared=shared) as client:
        began, began_at = time.process_time(), time.monotonic()
        async with client.batch(prompts(count), model="imagen4") as results:
            done = sum([1 async for result in results if result.ok])
        cpu, wall = time.process_time() - began, time.monotonic() - began_at
    return {"done": done, "cpu": cpu, "wall": wall, "peak": peak_memory()}


class TimedJournal(Journal):
    """A journal that knows how much CPU its writing takes, and in how many transactions."""

    cpu = 0.0
    groups = 0

    def write(self, entries: Iterable[JournalEntry]) -> None:
        """Write, and take the time of the thread that does."""
        began = time.thread_time()
        super().write(entries)
        self.cpu += time.thread_time() - began
        self.groups += 1


async def journalled(url: str, count: int, running: int) -> dict[str, float]:
    """Our batch with a journal, each change of a job durable before what depends on it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "run.db")
        with TimedJournal(path) as journal:
            async with Client(account(url, running), freshness=FRESHNESS) as client:
                began, began_at = time.process_time(), time.monotonic()
                async with client.batch(prompts(count), journal=journal, model="imagen4") as results:
                    done = sum([1 async for result in results if result.ok])
                cpu, wall = time.process_time() - began, time.monotonic() - began_at
        size = path.stat().st_size  # noqa: ASYNC240 - the measuring is over
    return {"done": done, "cpu": cpu, "wall": wall, "bytes": size, "writing": journal.cpu, "groups": journal.groups}


async def bare(url: str, count: int, running: int) -> dict[str, float]:
    """A coroutine a job: create, wait a little longer than a task takes, ask until it is done."""
    source = prompts(count)
    done = 0

    async def work(session: aiohttp.ClientSession) -> None:
        nonlocal done
        for prompt in source:
            body = {"model": "google/imagen4", "input": {"prompt": prompt, "aspect_ratio": "1:1"}}
            async with session.post(f"{url}{PREFIX}/createTask", json=body) as response:
                task_id = (await response.json())["data"]["taskId"]
            state = ""
            while state != "success":
                await asyncio.sleep(0.25)
                async with session.get(f"{url}{PREFIX}/recordInfo?taskId={task_id}") as response:
                    entry = (await response.json())["data"]
                    state = entry["state"]
            done += bool(json.loads(entry["resultJson"])["resultUrls"])

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=64)) as session:
        began, began_at = time.process_time(), time.monotonic()
        async with asyncio.TaskGroup() as group:
            for _ in range(running):
                group.create_task(work(session))
        cpu, wall = time.process_time() - began, time.monotonic() - began_at
    return {"done": done, "cpu": cpu, "wall": wall, "peak": peak_memory()}


async def holding(url: str, count: int, running: int) -> dict[str, float]:
    """How much memory so many tasks take that all run at once, everything included."""
    async with Client(account(url, running)) as client:
        # Connections, buffers and code are there before and after: what counts is what a job adds.
        async with client.batch(prompts(200), model="imagen4") as results:
            while results.progress.running < 200:
                await asyncio.sleep(0.05)
            before = current_memory()
        async with client.batch(prompts(count), model="imagen4") as results:
            while results.progress.running < count:
                await asyncio.sleep(0.25)
            after = current_memory()
    return {"done": count, "bytes_per_job": (after - before) / count}


async def limited(url: str, count: int, rate: tuple[int, float]) -> dict[str, float]:
    """Our batch under a limit."""
    async with Client(account(url, 10**9, Rate(*rate))) as client:
        async with client.batch(prompts(count), model="imagen4") as results:
            done = sum([1 async for result in results if result.ok])
    return {"done": done}


async def bucket(url: str, count: int, rate: tuple[int, float]) -> dict[str, float]:
    """A token bucket of the same rate, as most clients have one: it counts what is sent, not what is answered."""
    tokens, per = rate
    sent: deque[float] = deque()
    level, filled_at = float(tokens), time.monotonic()

    async def send(session: aiohttp.ClientSession, prompt: str) -> None:
        body = {"model": "google/imagen4", "input": {"prompt": prompt}}
        async with session.post(f"{url}{PREFIX}/createTask", json=body) as response:
            await response.read()

    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
        for prompt in prompts(count):
            while True:
                now = time.monotonic()
                level, filled_at = min(float(tokens), level + (now - filled_at) * tokens / per), now
                if level >= 1:
                    break
                await asyncio.sleep((1 - level) * per / tokens)
            level -= 1
            sent.append(now)
            group.create_task(send(session, prompt))
    return {"done": len(sent)}


WORK: Work = {
    "ours": ours,
    "journalled": journalled,
    "bare": bare,
    "holding": holding,
    "limited": limited,
    "bucket": bucket,
}


def in_process(
    name: str, *arguments: object, loop: str = "asyncio", module: str = "benchmarks.clients"
) -> dict[str, Any]:
    """Do one of a module's `WORK` in a fresh process, on the event loop of that package."""
    command = [sys.executable, "-m", module, name, json.dumps(arguments), loop]
    # By what others have of the same key no figure is to change, and nothing is to be left behind.
    with tempfile.TemporaryDirectory() as state:
        environment = {**os.environ, "IMAGEN_ASYNC_STATE": state}
        ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    figures: dict[str, Any] = json.loads(ran.stdout)
    return figures


if __name__ == "__main__":
    main(WORK)
