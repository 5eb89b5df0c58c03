"""A service that is killed, wherever it is: whoever asks again gets the picture, and no prompt is paid for twice."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections import Counter
from pathlib import Path

import aiohttp
import pytest
from services import GENERATIONS

from imagen_async.sandbox import Latency, Sandbox
from imagen_async.testing import running_sandbox

PROMPTS = ("a fox", "a heron", "a bowl of ramen")

SHARES = 6
"""Tests that the steps are dealt to, so that they run beside one another."""

PATIENCE = 120.0
"""Seconds after which whoever asks again and again has been left without."""


class Lives:
    """A service that is started again each time that it has died; the first one dies at a step."""

    def __init__(self, sandbox: Sandbox, folder: Path, ends_at: int) -> None:
        self._words = [sandbox.url, str(folder)]
        self._ends_at = ends_at
        self.port = 0
        self.deaths = 0

    async def live(self) -> None:
        """Have it live, again and again."""
        while True:
            words = [*self._words, str(self.port), str(self._ends_at if not self.deaths else -1)]
            program = Path(__file__).parent / "mortal_service.py"
            process = await asyncio.create_subprocess_exec(
                sys.executable, str(program), *words, stdout=asyncio.subprocess.PIPE, env=dict(os.environ)
            )
            try:
                assert process.stdout is not None
                told = await process.stdout.readline()
                # Its end may come before it listens.
                self.port = int(told or self.port)
                await process.wait()
                self.deaths += 1
                assert self.deaths == 1, "it dies by itself"
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()


async def asked(lives: Lives, prompt: str) -> tuple[int, str]:
    """Ask as OpenAI's clients do, until there is an answer; its status, and the picture's name or the error's code."""
    count = 0
    async with aiohttp.ClientSession() as session:
        while True:
            headers = {"x-stainless-retry-count": str(count)}
            body = {"prompt": prompt, "response_format": "url"}
            try:
                url = f"http://127.0.0.1:{lives.port}{GENERATIONS}"
                async with session.post(url, json=body, headers=headers) as response:
                    found = await response.json()
            except (aiohttp.ClientError, ConnectionError, ValueError):
                count += lives.port != 0
                await asyncio.sleep(0.05)
                continue
            if response.status == 503:
                await asyncio.sleep(0.05)
                continue
            picture = found["data"][0]["url"].rpartition("/")[2] if "data" in found else found["error"]["code"]
            return response.status, picture


async def one_life(folder: Path, ends_at: int) -> int:
    """Three callers, then the same three once more, of a service that dies at a step; returns its deaths."""
    with running_sandbox(Sandbox(latency=Latency(median=0.1, minimum=0.05))) as sandbox:
        lives = Lives(sandbox, folder, ends_at)
        living = asyncio.create_task(lives.live())
        try:
            async with asyncio.timeout(PATIENCE):
                first = await asyncio.gather(*(asked(lives, prompt) for prompt in PROMPTS))
                second = await asyncio.gather(*(asked(lives, prompt) for prompt in PROMPTS))
        finally:
            living.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await living
        tasks = Counter(task.input["prompt"] for task in sandbox.ledger.tasks)
        for prompt, once, again in zip(PROMPTS, first, second, strict=True):
            what = (ends_at, prompt, once, again, tasks)
            assert all(status == 200 or told == "unknown_outcome" for status, told in (once, again)), what
            # What was on its way in the moment of its death nobody knows of: that is told, and is not sent again.
            is_told = "unknown_outcome" in (once[1], again[1])
            # Killed after an answer was written, and before that was noted, it hands out the same once more.
            assert tasks[prompt] <= 2 if is_told else tasks[prompt] == len({once, again}), what
        return lives.deaths


@pytest.mark.slow
@pytest.mark.parametrize("share", range(SHARES))
async def test_a_service_is_killed_at_each_of_its_steps(share: int, tmp_path: Path) -> None:
    """Whatever step of its book, its journal or an answer is its last: tasks are as many as answers, and no more."""
    for number in range(share, 10_000, SHARES):
        folder = tmp_path / str(number)
        folder.mkdir()
        if not await one_life(folder, number):
            assert number >= 60, "there are fewer steps than that"
            return
