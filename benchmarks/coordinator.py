"""The coordinator of a cluster's jobs in virtual time: what a row costs it, and whether it grows with rows or accounts.

The real coordinator, client and journal, asked as by Ray's actors; the provider is simulated, and nothing goes over a
socket, so that what HTTP takes comes on top: see `ray` and `throughput`.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Any, ClassVar, Self

import msgspec

from benchmarks.service import said, started
from benchmarks.worker import current_memory
from imagen_async import Account, Client, ImageRequest, Limits, Rate
from imagen_async._core.mask import Mask
from imagen_async._core.wire import HttpRequest, HttpResponse
from imagen_async._limits import new_upstreams, window
from imagen_async._opening import (
    OpenClient,
    begin,
    file_threads,
    new_observer,
    new_scheduler,
    new_uploader,
    open_durable,
)
from imagen_async._plain_group import PlainGroup
from imagen_async.ray import _coordinator as coordinator_module
from imagen_async.ray._coordinator import Coordinator
from imagen_async.ray._driver import PATIENT
from imagen_async.ray._maker import Order
from imagen_async.ray._sizes import Sizes, sizes_for
from imagen_async.testing import VirtualTimeLoop

TITLE = "accounts at 2 creates a second, tasks of 30 s: CPU and memory of the coordinator for a row, without HTTP"

MODULE = "benchmarks.coordinator"

LIMITS = Limits(Rate(2, per=1), Rate(10, per=1), running=100)
MEDIAN, SIGMA = 30.0, 0.35
ROUND_TRIP = 0.2


def run(*, quick: bool) -> list[dict[str, object]]:
    """A row for each number of accounts and of rows."""
    sizes = [(10, 2_000), (100, 10_000)] if quick else [(10, 20_000), (100, 20_000), (100, 100_000), (200, 60_000)]
    return [_apart(accounts, rows) for accounts, rows in sizes]


def check() -> list[str]:
    """What is wrong with a short run: memory that grows with the rows."""
    few, many = _apart(5, 2_000), _apart(5, 10_000)
    grown = float(str(many["MB at the end"])) - float(str(few["MB at the end"]))
    return [f"8,000 rows more leave {grown:.1f} MB more in the coordinator"] if grown > 6 else []


def _apart(accounts: int, rows: int) -> dict[str, object]:
    """The same in a process of its own, whose memory nothing else has taken."""
    with started(MODULE, str(accounts), str(rows)) as process:
        found: dict[str, object] = json.loads(said(process))
        return found


def measured(accounts: int, rows: int) -> dict[str, object]:
    """What so many rows cost a coordinator with so many accounts."""
    loop = VirtualTimeLoop()
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    try:
        with tempfile.TemporaryDirectory(dir=memory) as folder:
            return loop.run_until_complete(_played(accounts, rows, os.path.join(folder, "run.db")))
    finally:
        loop.close()


async def _played(accounts: int, rows: int, journal: str) -> dict[str, object]:
    sizes = sizes_for([LIMITS] * accounts)
    coordinator = Coordinator(journal)
    coordinator_module.Client = Simulated  # type: ignore[misc]
    asked = Counter[str]()
    Provider.asked = asked
    before = current_memory()
    pool = [_account(number) for number in range(accounts)]
    holding = asyncio.create_task(coordinator.hold(pool, {"freshness": PATIENT}))
    mark, now = await coordinator.begin()
    order = Order(mark, now, ImageRequest("-", model="imagen4-fast"))
    began, cpu = asyncio.get_running_loop().time(), time.process_time()
    attending = asyncio.create_task(_attend(coordinator))
    numbers = iter(range(rows))
    slots = sizes.blocks * sizes.askers
    await asyncio.gather(*(_asked(coordinator, order, sizes, numbers) for _ in range(slots)))
    cpu, wall = time.process_time() - cpu, asyncio.get_running_loop().time() - began
    attending.cancel()
    grown = current_memory() - before
    await coordinator.leave()
    await holding
    return {
        "accounts": accounts,
        "rows": rows,
        "ms CPU a row": cpu / rows * 1e3,
        "status calls a row": asked["status"] / rows,
        "MB at the end": grown / 1e6,
        "asked for at once": slots * sizes.rows,
        "rows a virtual second": rows / wall,
        "of the possible": rows / wall / (accounts * LIMITS.submit.count / LIMITS.submit.per),
    }


async def _attend(coordinator: Coordinator) -> None:
    while True:
        await coordinator.attend("asker")
        await asyncio.sleep(coordinator_module.LOOK)


async def _asked(coordinator: Coordinator, order: Order, sizes: Sizes, numbers: Any) -> None:
    """One block after the other, as a thread of an asker does."""
    while block := [{"prompt": f"a red fox, number {number}"} for number in itertools.islice(numbers, sizes.rows)]:
        answers = await coordinator.ask("asker", order, block)
        assert answers is not None
        assert all(answer.error is None for answer in answers)


def _account(number: int) -> Account:
    return Account("kie", name=f"kie-{number}", api_key=f"key-{number}", limits=LIMITS, shared=False)


class Provider:
    """Tasks that are done once their time is over. Answers are bytes, as from a socket.

    Attributes:
        asked: How often, by what for.
    """

    asked: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        self._chance = random.Random(1)
        self._ends: dict[str, float] = {}
        self._forgotten: list[tuple[float, str]] = []
        self._numbers = itertools.count(1)

    async def send(self, account: str, request: HttpRequest, **terms: Any) -> HttpResponse:
        """Carry a request there, and its answer back."""
        leaves = terms.get("leaves")
        if leaves is not None:
            assert leaves()
        await asyncio.sleep(ROUND_TRIP * self._chance.random())
        self.asked[request.operation] += 1
        now = asyncio.get_running_loop().time()
        if request.operation == "create":
            task = f"{next(self._numbers):032x}"
            self._ends[task] = now + self._chance.lognormvariate(0, SIGMA) * MEDIAN
            heapq.heappush(self._forgotten, (now + 300, task))
            while self._forgotten[0][0] < now:
                del self._ends[heapq.heappop(self._forgotten)[1]]
            return _answer({"taskId": task})
        task = request.path.partition("taskId=")[2]
        if self._ends[task] > now:
            return _answer({"taskId": task, "state": "generating"})
        links = json.dumps({"resultUrls": [f"https://files.example/{task}.png"]})
        return _answer({"taskId": task, "state": "success", "resultJson": links, "costTime": 30000})


def _answer(data: dict[str, Any]) -> HttpResponse:
    return HttpResponse(200, msgspec.json.encode({"code": 200, "msg": "success", "data": data}))


class Inline(Executor):
    """Does at once what a journal's thread does: on virtual time nothing may wait for one."""

    def submit(self, work: Any, /, *arguments: Any, **named: Any) -> Future[Any]:
        """Do it."""
        future: Future[Any] = Future()
        try:
            future.set_result(work(*arguments, **named))
        except Exception as error:
            future.set_exception(error)
        return future


class Simulated(Client):
    """A client whose sessions lead to a simulated provider."""

    def __init__(self, *accounts: Account, **settings: Any) -> None:
        super().__init__(*accounts, limiter=window, **settings)
        self._keeping = msgspec.structs.replace(self._keeping, thread=Inline())

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            group = await stack.enter_async_context(PlainGroup())
            given: Sequence[Any] = self._accounts, self._schedules, self._settings.connections, self._limiter
            upstreams = new_upstreams(stack, *given, {})
            line: Any = SimpleNamespace(send=Provider().send, files=None, mask=Mask(()))
            threads = file_threads(None)
            uploader = await new_uploader(stack, {}, {}, self._settings, threads)
            observer = new_observer(None, self._savable, None)
            parts = upstreams, self._accounts, self._save, None, observer, uploader
            scheduler = new_scheduler(group, line, *parts)
            durable = await open_durable(stack, self._keeping, scheduler, self._router, uploader, self._savable)
            begin(stack, scheduler)
            self._opened = OpenClient(scheduler, line, None, stack.pop_all(), threads, None, uploader, durable)
        return self


if __name__ == "__main__":
    print(json.dumps(measured(*map(int, sys.argv[1:]))), flush=True)
