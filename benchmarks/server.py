"""A createTask server in a process of its own, as cheap as aiohttp makes it, so that the client is what is measured."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from aiohttp import web

from imagen_async import Rate
from imagen_async.sandbox._gate import StrictWindow

PREFIX = "/api/v1/jobs"

CREATED = 1776850322264
"""Unix milliseconds at which every task says that it was created: only its latency is looked at."""


class Server:
    """Makes tasks that are done after a set time, behind round trips of chosen length and a strict window.

    With a number of `questions`, each is done instead when it is asked about for so many times: then every client makes
    the same requests, whenever it asks.
    """

    def __init__(self, latency: float, jitter: float, rate: Rate, questions: int = 0) -> None:
        self._latency = latency
        self._jitter = jitter
        self._window = StrictWindow(rate)
        self._questions = questions
        self._done_at: dict[str, float] = {}
        self._asked: Counter[str] = Counter()
        self._figures = {"creates": 0, "polls": 0, "refused": 0, "first": 0.0, "last": 0.0}

    def routes(self) -> list[web.RouteDef]:
        """What it answers."""
        return [
            web.post(f"{PREFIX}/createTask", self.create),
            web.get(f"{PREFIX}/recordInfo", self.status),
            web.get("/figures", self.figures),
        ]

    async def create(self, request: web.Request) -> web.Response:
        """Take a create after the way there, answer after the way back."""
        await request.read()
        await self._travel()
        now = asyncio.get_running_loop().time()
        figures = self._figures
        figures["first"] = figures["first"] or now
        figures["last"] = now
        if not self._window.take(now):
            figures["refused"] += 1
            answer = b'{"code":429,"msg":"too many","data":null}'
        else:
            figures["creates"] += 1
            task_id = f"{figures['creates']:032x}"
            self._done_at[task_id] = now + self._latency
            answer = b'{"code":200,"msg":"success","data":{"taskId":"%s"}}' % task_id.encode()
        await self._travel()
        return web.Response(body=answer, content_type="application/json")

    async def status(self, request: web.Request) -> web.Response:
        """Answer about a task; one that was seen finished is forgotten, so that a million fit."""
        self._figures["polls"] += 1
        task_id = request.query["taskId"]
        done = self._is_done(task_id)
        if done:
            del self._done_at[task_id], self._asked[task_id]
        return web.Response(
            body=record_answer(task_id, self._latency if done else None), content_type="application/json"
        )

    def _is_done(self, task_id: str) -> bool:
        self._asked[task_id] += 1
        if self._questions:
            return self._asked[task_id] >= self._questions
        return asyncio.get_running_loop().time() >= self._done_at[task_id]

    async def figures(self, request: web.Request) -> web.Response:
        """Tell what was seen since the last time."""
        figures, self._figures = self._figures, dict.fromkeys(self._figures, 0)
        return web.json_response(figures)

    async def _travel(self) -> None:
        if self._jitter:
            await asyncio.sleep(random.uniform(0, self._jitter))


def record_answer(task_id: str, latency: float | None) -> bytes:
    """A recordInfo answer of the recorded size, about half a kilobyte; None: not finished."""
    state = "waiting" if latency is None else "success"
    result = '""' if latency is None else '"{\\"resultUrls\\":[\\"https://files.example/%s.png\\"]}"' % task_id
    completed = "null" if latency is None else CREATED + round(latency * 1000)
    param = json.dumps(json.dumps({"input": json.dumps({"prompt": "x" * 60}), "model": "google/imagen4"}))
    return (
        f'{{"code":200,"msg":"success","data":{{"taskId":"{task_id}","model":"google/imagen4","state":"{state}",'
        f'"param":{param},"resultJson":{result},"failCode":null,"failMsg":null,"costTime":null,'
        f'"completeTime":{completed},"createTime":{CREATED}}}}}'
    ).encode()


@contextmanager
def served(module: str, *arguments: float) -> Iterator[str]:
    """Run a module's server in a process of its own; yields its base URL."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.terminate()


def server_process(
    latency: float = 0.2, jitter: float = 0.0, rate: Rate | None = None, questions: int = 0
) -> AbstractContextManager[str]:
    """Run this server in a process of its own; its base URL is what comes out."""
    rate = rate or Rate(10**9, per=1)
    return served("benchmarks.server", latency, jitter, rate.count, rate.per, questions)


def take_figures(url: str) -> dict[str, Any]:
    """What the server saw since the last time it was asked."""
    with urllib.request.urlopen(f"{url}/figures") as answer:
        figures: dict[str, Any] = json.load(answer)
        return figures


async def serve(routes: Iterable[web.RouteDef]) -> None:
    """Listen anywhere on loopback, and say where."""
    application = web.Application()
    application.add_routes(routes)
    runner = web.AppRunner(application, access_log=None, keepalive_timeout=600)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=2048).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name in ("latency", "jitter", "count", "per", "questions"):
        parser.add_argument(name, type=float)
    options = parser.parse_args()
    server = Server(options.latency, options.jitter, Rate(int(options.count), per=options.per), int(options.questions))
    asyncio.run(serve(server.routes()))
