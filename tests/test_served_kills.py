"""Clients of a service, and the service itself, that are killed: nothing is paid for twice, and no picture is lost."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from clients import FAST, run
from commands import at, clean_environment, finish, lines_of, prompt_file, start
from servers import free_socket
from services import client_through, service

from imagen_async import UnknownOutcome
from imagen_async.sandbox import Latency, Sandbox
from imagen_async.testing import running_sandbox

__all__ = ["clean_environment"]

PATIENCE = 300.0
"""Seconds after which a run that should have ended is a failure."""


@contextlib.contextmanager
def serving(sandbox: Sandbox, folder: Path, port: int) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command `serve`, as a process, until it is killed; and its address."""
    words = ["serve", *at(sandbox), "-o", str(folder), "--port", str(port), "--rate", "200/0.5", "--running", "300"]
    with start(*words, "--status-rate", "500/0.5") as process:
        try:
            assert process.stderr is not None
            told = process.stderr.readline()
            found = re.search(r"http://[\d.:]+", told)
            assert found is not None, told
            yield process, found[0]
        finally:
            process.kill()
            process.communicate()


def free_port() -> int:
    """A port that nobody has just now."""
    with free_socket() as (_, port):
        return port


def test_the_command_goes_through_a_service(tmp_path: Path) -> None:
    """`batch -p served` makes a folder's pictures there, and goes on with it."""
    sandbox = Sandbox(latency=Latency(median=0.05, minimum=0.01))
    with running_sandbox(sandbox), serving(sandbox, tmp_path / "s", 0) as (_, url):
        options = ["-p", "served", "--base-url", url, "-o", "out", "--quiet"]
        for _ in range(2):
            outcome = finish(start("batch", prompt_file("a fox", "a heron"), *options))
            assert (outcome.code, outcome.is_clean) == (0, True), outcome.err
        assert len(lines_of(Path("out", "metadata.jsonl"))) == 2
        outcome = finish(start("credits", "-p", "served", "--base-url", url))
        assert (outcome.code, outcome.out) == (0, "served: the API of the service does not tell a balance\n")
    assert sandbox.ledger.tasks_by_prompt() == {"a fox": 1, "a heron": 1}


@pytest.mark.slow
def test_a_killed_client_goes_on(tmp_path: Path) -> None:
    """However often kill -9 ends a batch, its next run finds at the service what was there, and makes nothing twice."""
    seed, prompts = random.randrange(1_000_000), [f"fox number {number}" for number in range(150)]
    chance, sandbox = random.Random(seed), Sandbox(latency=Latency(median=0.4, minimum=0.1), limits=FAST)
    with running_sandbox(sandbox), serving(sandbox, tmp_path / "s", 0) as (_, url):
        words = ["batch", prompt_file(*prompts), "-o", "out", "-p", "served", "--base-url", url, "--quiet"]
        for _ in range(4):
            with start(*words) as process:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(chance.uniform(0.4, 1.6))
                process.kill()
                process.communicate()
        outcome = finish(start(*words), patience=PATIENCE)
        assert (outcome.code, outcome.is_clean) == (0, True), (seed, outcome.err)
        saved = lines_of(Path("out", "metadata.jsonl"))
    billed = sandbox.ledger.tasks_by_prompt()
    assert {prompt: count for prompt, count in billed.items() if count > 1} == {}, seed
    assert {line["text"] if "text" in line else line["prompt"] for line in saved} == set(prompts), seed


async def lives(sandbox: Sandbox, folder: Path, port: int, chance: random.Random, kills: int) -> None:
    """A service that is killed so many times, and comes back each time; the last one lives until it is cancelled."""
    for number in range(kills + 1):
        with serving(sandbox, folder, port):
            await asyncio.sleep(chance.uniform(0.5, 2.0) if number < kills else PATIENCE)
        await asyncio.sleep(chance.uniform(0.0, 0.5))


@pytest.mark.slow
async def test_a_killed_service_goes_on(tmp_path: Path) -> None:
    """Killed again and again in the midst of a batch it makes nothing twice, and whoever waits gets all of it.

    But for what its kill cut off on the way to its provider: of that nobody knows, and it says so.
    """
    seed, requests = random.randrange(1_000_000), [f"fox number {number}" for number in range(200)]
    sandbox = Sandbox(latency=Latency(median=0.4, minimum=0.1), limits=FAST)
    with running_sandbox(sandbox):
        port = free_port()
        living = asyncio.ensure_future(lives(sandbox, tmp_path / "s", port, random.Random(seed), 4))
        try:
            async with client_through(f"http://127.0.0.1:{port}") as client, asyncio.timeout(PATIENCE):
                results = await run(client, requests, journal=tmp_path / "run.db")
        finally:
            living.cancel()
            await asyncio.wait([living])
    billed = sandbox.ledger.tasks_by_prompt()
    assert {prompt: count for prompt, count in billed.items() if count > 1} == {}, seed
    odd = [result for result in results if not result.ok and not isinstance(result.error, UnknownOutcome)]
    assert (len(results), odd) == (200, []), seed
    assert {result.request.prompt for result in results if result.ok} <= set(billed), seed
    assert sum(result.ok for result in results) > 100, seed


@pytest.mark.slow
async def test_three_clients_go_through_one_service_at_once(tmp_path: Path) -> None:
    """Three batches of a thousand at once: each prompt is one task, and no limit is exceeded."""
    sandbox = Sandbox(latency=Latency(median=0.3, minimum=0.05), limits=FAST)
    with running_sandbox(sandbox):
        async with service(sandbox, tmp_path / "s", client={"limits": FAST}) as asker:

            async def work(name: str) -> int:
                async with client_through(asker.url) as client:
                    results = await run(client, [f"{name} {number}" for number in range(1000)])
                    return sum(result.ok for result in results)

            assert await asyncio.gather(*map(work, ("fox", "heron", "ramen"))) == [1000] * 3
    billed = sandbox.ledger.tasks_by_prompt()
    assert (len(billed), set(billed.values())) == (3000, {1})
    assert (sandbox.ledger.refused["submit"], sandbox.ledger.refused["running"]) == (0, 0)
