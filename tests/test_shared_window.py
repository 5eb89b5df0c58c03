"""One window for the whole machine: real processes that use one key, over a server that counts strictly."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from inner import boot_clock
from servers import served

from imagen_async import Account, Client, Limits, Rate
from tests.world.windows import busiest_window

RATE = Rate(20, per=2)
KEY = "0123456789abcdef"

WORKER = """
import asyncio, sys
from imagen_async import Account, Client, Limits, Rate

async def main():
    url, name, count, timeout = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    limits = Limits(Rate(20, per=2), Rate(100, per=1), running=1000)
    account = Account("kie", api_key="0123456789abcdef", base_url=url, limits=limits)
    async with Client(account, timeout=timeout, connect_timeout=min(timeout, 10)) as client:
        print("ready", flush=True)
        sys.stdin.readline()
        made = (client.generate(f"{name} {number}", model="imagen4-fast") for number in range(count))
        await asyncio.gather(*made)

asyncio.run(main())
"""


class Strict:
    """A server that takes 20 creates in any window of 2 s, with 0 to 0.2 s there and as much back.

    Attributes:
        arrivals: When each create came, and whose it was.
        refused: How many were too many.
    """

    def __init__(self) -> None:
        self.arrivals: list[tuple[float, str]] = []
        self.refused = 0
        self._chance = random.Random(1)
        self._done_at: dict[str, float] = {}
        self._came = asyncio.Condition()

    async def __call__(self, request: web.Request) -> web.Response:
        """Answer a create, or a question about a task."""
        if request.method == "GET":
            return self._status(request.query["taskId"])
        body = await request.json()
        await asyncio.sleep(self._chance.uniform(0, 0.2))
        now = boot_clock()
        self.arrivals.append((now, body["input"]["prompt"].split()[0]))
        is_too_many = sum(at > now - RATE.per for at, _ in self.arrivals) > RATE.count
        self.refused += is_too_many
        task_id = f"{len(self.arrivals):032x}"
        self._done_at[task_id] = now + 0.3
        async with self._came:
            self._came.notify_all()
        await asyncio.sleep(self._chance.uniform(0, 0.2))
        refusal = {"code": 429, "msg": "too many", "data": None}
        return web.json_response(
            refusal if is_too_many else {"code": 200, "msg": "success", "data": {"taskId": task_id}}
        )

    def _status(self, task_id: str) -> web.Response:
        is_done = boot_clock() >= self._done_at[task_id]
        data = {"taskId": task_id, "model": "google/imagen4", "state": "success" if is_done else "waiting"}
        data["resultJson"] = json.dumps({"resultUrls": ["https://files.example/x.png"]}) if is_done else ""
        return web.json_response({"code": 200, "msg": "success", "data": data})

    async def came(self, count: int) -> None:
        """Wait until so many creates have come."""
        async with self._came:
            await self._came.wait_for(lambda: len(self.arrivals) >= count)

    def is_kept(self) -> bool:
        """True where no window held more than the limit, and nobody was refused."""
        return busiest_window([at for at, _ in self.arrivals], RATE.per) <= RATE.count and not self.refused


Workers = list[asyncio.subprocess.Process]


@asynccontextmanager
async def at_work(tmp_path: Path, *counts: int, patience: float = 60.0) -> AsyncIterator[tuple[Strict, Workers, Path]]:
    """Processes that make so many pictures each, all begun at once; the server, them, and their folder."""
    server, state = Strict(), tmp_path / "state"
    async with served(server) as url, AsyncExitStack() as stack:
        workers = []
        for number, count in enumerate(counts):
            command = (sys.executable, "-W", "error", "-c", WORKER, url, str(number), str(count), str(patience))
            pipe, environment = asyncio.subprocess.PIPE, {**os.environ, "IMAGEN_ASYNC_STATE": str(state)}
            worker = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, env=environment)
            stack.push_async_callback(ended, worker)
            workers.append(worker)
        for worker in workers:
            assert worker.stdout is not None
            assert await worker.stdout.readline() == b"ready\n"
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write(b"\n")
        yield server, workers, state


async def ended(worker: asyncio.subprocess.Process) -> None:
    """End a process that has not ended."""
    if worker.returncode is None:
        worker.kill()
    await worker.communicate()


async def all_end(workers: Workers) -> list[int]:
    """How each process has ended."""
    await asyncio.gather(*(worker.communicate() for worker in workers))
    return [worker.returncode or 0 for worker in workers]


@pytest.mark.slow
async def test_four_processes_share_one_window(tmp_path: Path) -> None:
    """None is refused, no window holds more than the limit, and while all are busy each has its quarter."""
    async with at_work(tmp_path, 50, 50, 50, 50) as (server, workers, _):
        assert await all_end(workers) == [0] * 4
    assert len(server.arrivals) == 200
    assert server.is_kept()
    shares = Counter(name for _, name in server.arrivals[:160])
    assert all(count == pytest.approx(40, abs=4) for count in shares.values()), shares


@pytest.mark.slow
async def test_after_a_kill_the_others_go_on(tmp_path: Path) -> None:
    """A process that is killed in the midst of its requests leaves no window too full, and its part to the others."""
    async with at_work(tmp_path, 100, 40, 40) as (server, (dies, *others), _):
        await server.came(50)
        dies.kill()
        assert await all_end(others) == [0, 0]
    assert Counter(name for _, name in server.arrivals)["1"] == 40
    assert server.is_kept()


@pytest.mark.slow
async def test_a_stop_for_longer_than_a_lease_overfills_no_window(tmp_path: Path) -> None:
    """Who goes on after all that it had was given to others takes other places, and makes all its pictures."""
    async with at_work(tmp_path, 30, 30, 60, patience=1.0) as (server, workers, _):
        await server.came(30)
        workers[0].send_signal(signal.SIGSTOP)
        await asyncio.sleep(14.5)  # a lease is 12 s here, and a window 2
        workers[0].send_signal(signal.SIGCONT)
        assert await all_end(workers) == [0] * 3
    counts = Counter(name for _, name in server.arrivals)
    assert (counts["1"], counts["2"]) == (30, 60)
    assert server.is_kept()


def delete(file: Path) -> None:
    """Remove the file."""
    file.unlink()


def replace(file: Path) -> None:
    """Put the copy of some time ago in its place."""
    file.with_suffix(".old").replace(file)


def spoil(file: Path) -> None:
    """Write something else over it."""
    file.write_bytes(b"no database" * 500)


def remove_all(file: Path) -> None:
    """Remove the whole folder."""
    shutil.rmtree(file.parent)


@pytest.mark.slow
@pytest.mark.parametrize("accident", [delete, replace, spoil, remove_all])
async def test_what_befalls_the_file_overfills_no_window(tmp_path: Path, accident: Callable[[Path], None]) -> None:
    """Whatever becomes of it while three processes send, they wait for a window, and go on."""
    async with at_work(tmp_path, 40, 40, 40) as (server, workers, state):
        await server.came(20)
        (file,) = state.glob("*.db")
        shutil.copy(file, file.with_suffix(".old"))
        await server.came(50)
        accident(file)
        assert await all_end(workers) == [0] * 3
    assert len(server.arrivals) == 120
    assert server.is_kept()


@pytest.mark.parametrize("is_usable", [True, False], ids=["with a file", "without"])
async def test_two_clients_of_a_process_share_one_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_usable: bool
) -> None:
    """They need no file for it: where none can be used they share what the process has."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("IMAGEN_ASYNC_STATE", str(tmp_path / ("state" if is_usable else "file")))
    server, limits = Strict(), Limits(RATE, Rate(100, per=1), running=1000)
    async with served(server) as url, AsyncExitStack() as stack:
        accounts = [Account("kie", api_key=KEY, base_url=url, limits=limits) for _ in range(2)]
        clients = [await stack.enter_async_context(Client(account)) for account in accounts]
        made = (client.generate(f"{n}", model="imagen4-fast") for n in range(14) for client in clients)
        assert len(await asyncio.gather(*made)) == 28
    assert len(server.arrivals) == 28
    assert server.is_kept()
    assert (tmp_path / "state").exists() == is_usable
