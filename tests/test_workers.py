"""A web application with several workers, killed at random: a key is one picture, paid for once, for whoever asks."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest
from aiohttp import ClientError, ClientSession
from printed import KEY, as_printed
from servers import free_socket

from imagen_async import Limits, Rate
from imagen_async.sandbox import Latency, Sandbox
from imagen_async.testing import running_sandbox
from tests.world.windows import busiest_window

KEYS = 100
KILLS = 12

PATIENCE = 45.0
"""Seconds for which a caller asks again: a callback is waited for for 30."""

LIMITS = Limits(Rate(20, per=1), Rate(100, per=1), 100)


def quicker(program: str) -> str:
    """The program with a quicker account: its lease and its windows are short."""
    terms = "limits=Limits(Rate(20, per=1), Rate(100, per=1), 100), timeout=5, connect_timeout=1"
    program = program.replace('Client("kie", ', f'Client("kie", {terms}, ')
    return program.replace("from imagen_async import ", "from imagen_async import Limits, Rate, ")


def workers_of(process: asyncio.subprocess.Process) -> list[int]:
    """The workers of a supervisor that have begun; multiprocessing's own helper is none."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


async def picture(session: ClientSession, url: str) -> tuple[int, dict[str, Any]]:
    """What a caller gets who asks again, with the same key, until there is a picture, or none will come any more."""
    told, by = (0, dict[str, Any]()), time.monotonic() + PATIENCE
    while told[0] != 200 and time.monotonic() < by:
        with suppress(ClientError, ConnectionError, TimeoutError):
            async with session.get(url) as answer:
                told = answer.status, await answer.json() if answer.status != 500 else {}
        await asyncio.sleep(0.1)
    return told


async def kill_some(process: asyncio.subprocess.Process) -> None:
    """Kill one worker after the other; the supervisor begins new ones."""
    for _ in range(KILLS):
        await asyncio.sleep(random.uniform(0.2, 0.8))
        if workers := workers_of(process):
            with suppress(ProcessLookupError):
                os.kill(random.choice(workers), SIGKILL)


@pytest.mark.slow
async def test_whoever_is_killed_each_key_is_one_picture(tmp_path: Path) -> None:
    """Four workers with one journal, key and address are killed at random: who asks again has the picture.

    None is paid for twice, no window is overrun, and callbacks come to whichever worker takes them. Where a worker was
    killed after an intent was noted, and before its create has left, there is no task: that is told as unknown.
    """
    sandbox = Sandbox(limits=LIMITS, latency=Latency(median=0.5, sigma=0.2), signing_key=KEY)
    with running_sandbox(sandbox), free_socket() as (found, port):
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        async with (
            as_printed("with_fastapi.py", tmp_path, sandbox, port, workers=4, changed=quicker) as process,
            ClientSession() as session,
        ):
            killing = asyncio.create_task(kill_some(process))
            here = f"http://127.0.0.1:{port}/picture"
            urls = [f"{here}?prompt=fox+number+{number}&key=order-{number}" for number in range(KEYS)]
            answers = await asyncio.gather(*(picture(session, url) for url in urls))
            await killing
            urls = [url for url, (status, _) in zip(urls, answers, strict=True) if status == 200]
            again = await asyncio.gather(*(picture(session, url) for url in urls))
    billed = Counter(task.prompt for task in sandbox.ledger.tasks)
    assert max(billed.values()) == 1, "nothing is paid for twice"
    made = [f"fox number {number}" for number, (status, _) in enumerate(answers) if status == 200]
    told = {prompt: answers[int(prompt.split()[-1])] for prompt in set(billed) ^ set(made)}
    assert told == {}, "whoever has paid has the picture"
    assert len(made) > KEYS / 2
    assert again == [answer for answer in answers if answer[0] == 200]
    assert all(Path(tmp_path / file).exists() for status, told in answers if status == 200 for file in told["files"])
    assert busiest_window(sandbox.ledger.create_times, LIMITS.submit.per) <= LIMITS.submit.count
