"""A data set on a cluster of Ray: ours, a stage written by hand, Ray's own HTTP processor; undisturbed and killed.

`python -m benchmarks ray` needs the extra `ray` and Linux: each job runs in a network and a home folder of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.machines import terminated
from benchmarks.service import said, started
from benchmarks.worker import cpu_of
from imagen_async import Account, Limits, Rate
from imagen_async.sandbox import Latency, Sandbox

TITLE = "1,000 rows by Ray Data under a strict window of 20 creates a second, tasks of about 5 s"

LIMITS = Limits(Rate(20, per=1), Rate(1000, per=1), running=1000)
KEY = "key-of-the-benchmark"
MODULE = "benchmarks.ray"

ACTORS = 4
"""Actors that create, of the others: each has its part of the rate."""

EVERY = 1.0
"""Seconds between two status calls of the others."""

TRIES = 3
"""Creates of the others for one row: time-outs, broken connections and 5xx are tried again, as such clients do."""


def run(*, quick: bool) -> list[dict[str, object]]:
    """A row for each way, and for each with a kill of what creates."""
    if importlib.util.find_spec("ray") is None:
        return [{"way": "none: pip install 'imagen-async[ray]'"}]
    count = 100 if quick else 1000
    return [measured(way, count, is_killed=is_killed) for is_killed in (False, True) for way in WAYS]


def measured(way: str, count: int, *, is_killed: bool) -> dict[str, object]:
    """What one job takes, in a network of its own."""
    with tempfile.TemporaryDirectory() as home:
        up = 'ip link set lo up 2>/dev/null || ifconfig lo up; exec "$@"'
        own = ["unshare", "-n" if os.geteuid() == 0 else "-rn", "bash", "-c", up, "--"]
        words = ["job", way, str(count), str(int(is_killed)), home]
        environment = {**os.environ, "HOME": home, "IMAGEN_ASYNC_STATE": home, "RAY_USAGE_STATS_ENABLED": "0"}
        command = [*own, sys.executable, "-m", MODULE, *words]
        ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL, env=environment)
        assert ran.returncode == 0, command
        found: dict[str, object] = json.loads(ran.stdout.splitlines()[-1])
        return found


async def sandbox() -> None:
    """Serve until it is told to leave; says its address first."""
    async with Sandbox(limits=LIMITS, latency=Latency(median=5.0, sigma=0.2), key=KEY) as made:
        print(made.url, flush=True)
        await terminated()


class Creator:
    """Creates at a fixed interval, and asks at a fixed interval: what is written by hand.

    Args:
        url: Of the API.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._next = 0.0
        self._session: Any = None

    async def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The rows of a batch with their pictures."""
        rows = await asyncio.gather(*(self.made(prompt) for prompt in batch["prompt"]))
        return {"prompt": batch["prompt"], "image": rows}

    async def made(self, prompt: str) -> bytes:
        """The picture of a row; empty where it failed."""
        task = await self.created(str(prompt))
        return b"" if task is None else await self.fetched(task)

    async def created(self, prompt: str) -> str | None:
        """Its task."""
        body = {"model": "google/imagen4-fast", "input": {"prompt": prompt}}
        for _ in range(TRIES):
            now = asyncio.get_running_loop().time()
            self._next = max(now, self._next + ACTORS / (LIMITS.submit.count / LIMITS.submit.per))
            await asyncio.sleep(self._next - now)
            answer = await self.asked("POST", "createTask", json=body)
            if answer is not None and answer.get("code") == 200:
                return str(answer["data"]["taskId"])
            await asyncio.sleep(1)
        return None

    async def fetched(self, task: str) -> bytes:
        """Its picture, once it is there."""
        while True:
            answer = await self.asked("GET", f"recordInfo?taskId={task}")
            data = (answer or {}).get("data") or {}
            if data.get("state") == "success":
                url = json.loads(data["resultJson"])["resultUrls"][0]
                async with self._session.get(url) as response:
                    picture: bytes = await response.read()
                    return picture
            if data.get("state") == "fail":
                return b""
            await asyncio.sleep(EVERY)

    async def asked(self, method: str, path: str, **terms: Any) -> dict[str, Any] | None:
        """What the API answers, or None."""
        import aiohttp

        if self._session is None:
            self._session = aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"})
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, ValueError):
            async with self._session.request(method, f"{self._url}/api/v1/jobs/{path}", **terms) as response:
                answer: dict[str, Any] = await response.json(content_type=None)
                return answer
        return None


class Asker(Creator):
    """The same for tasks that were made by somebody else."""

    async def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The rows of a batch with their pictures."""
        # Without a task: kie.ai refuses with HTTP 200, which the processor takes for a yes.
        rows = await asyncio.gather(*(self.fetched(str(task)) if task else _nothing() for task in batch["task"]))
        return {"prompt": batch["prompt"], "image": rows}


async def _nothing() -> bytes:
    return b""


def _ours(rows: Any, url: str, home: str) -> Any:
    from imagen_async.ray import generate_images

    account = Account("sandbox", api_key=KEY, base_url=url, limits=LIMITS)
    return generate_images(rows, account, journal=f"{home}/run.db", model="imagen4-fast", client={"shared": False})


def _by_hand(rows: Any, url: str, home: str) -> Any:
    from ray.data import ActorPoolStrategy

    pool = ActorPoolStrategy(size=ACTORS)
    blocks = rows.repartition(target_num_rows_per_block=25)
    return blocks.map_batches(Creator, fn_constructor_args=(url,), compute=pool, batch_size=25, num_cpus=0.1)


def _by_processor(rows: Any, url: str, home: str) -> Any:
    from ray.data import ActorPoolStrategy
    from ray.data.llm import HttpRequestProcessorConfig, build_processor

    config = HttpRequestProcessorConfig(
        url=f"{url}/api/v1/jobs/createTask",
        headers={"Authorization": f"Bearer {KEY}"},
        qps=round(LIMITS.submit.count / LIMITS.submit.per / ACTORS),
        max_retries=TRIES - 1,
        concurrency=ACTORS,
        batch_size=25,
    )
    build = build_processor(
        config,
        preprocess=lambda row: {
            "payload": {"model": "google/imagen4-fast", "input": {"prompt": row["prompt"]}},
            "prompt": row["prompt"],
        },
        postprocess=lambda row: {
            "prompt": row["prompt"],
            "task": (row["http_response"].get("data") or {}).get("taskId") or "",
        },
    )
    created = build(rows.repartition(target_num_rows_per_block=25))
    pool = ActorPoolStrategy(size=ACTORS)
    return created.map_batches(Asker, fn_constructor_args=(url,), compute=pool, batch_size=25, num_cpus=0.1)


WAYS: dict[str, tuple[Callable[[Any, str, str], Any], str]] = {
    "imagen_async.ray": (_ours, "ray::ImagenCoordinator"),
    "by hand": (_by_hand, "(Creator)"),
    "HTTP processor": (_by_processor, "HttpRequest"),
}
"""By name: what makes it, and what Ray calls the processes that create."""


def job(way: str, count: int, home: str, *, is_killed: bool) -> dict[str, object]:
    """One job, on a cluster of its own."""
    import ray

    make, creates = WAYS[way]
    with started(MODULE, "sandbox") as server:
        url = said(server)
        ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False)
        rows = ray.data.from_items([{"prompt": f"a red fox, number {number}"} for number in range(count)])
        with killed(creates, url, count) if is_killed else contextlib.nullcontext():
            began, ended, whole = time.monotonic(), "whole", 0
            try:
                for batch in make(rows, url, home).iter_batches(batch_size=None, batch_format="pyarrow"):
                    whole += sum(bool(image) for image in batch["image"].to_pylist())
            except Exception as error:
                ended = type(error).__name__
            wall = time.monotonic() - began
        found, cpu = ledger(url), sum(map(cpu_of, processes("ray::ImagenCoordinator")))
        ray.shutdown()
    doubled = sum(made - 1 for made in found["prompts_with_several_tasks"].values())
    return {
        "way": way,
        "killed": is_killed,
        "s": wall,
        "status calls a task": found["polls"] / max(1, found["tasks"]),
        "429s": sum(found["refused"].values()),
        "tasks": found["tasks"],
        "paid twice": doubled,
        "rows without picture": count - whole,
        "job": ended,
        # Of the last one, where it was killed.
        "coordinator's ms CPU a row": cpu / count * 1e3,
    }


def ledger(url: str) -> dict[str, Any]:
    """What the sandbox has seen."""
    with urllib.request.urlopen(f"{url}/sandbox/ledger") as answer:
        found: dict[str, Any] = json.load(answer)
        return found


@contextlib.contextmanager
def killed(title: str, url: str, count: int) -> Iterator[None]:
    """SIGKILL to a process that Ray calls so, once a third of the tasks is there."""

    def kill() -> None:
        while ledger(url)["tasks"] < count / 3:
            time.sleep(0.2)
        os.kill(min(processes(title)), signal.SIGKILL)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    yield
    thread.join(1)


def processes(title: str) -> list[int]:
    """The processes of this network that Ray calls so."""
    return [int(process.name) for process in Path("/proc").glob("[0-9]*") if _is_called(process, title)]


def _is_called(process: Path, title: str) -> bool:
    with contextlib.suppress(OSError):
        is_here = os.readlink(process / "ns" / "net") == os.readlink("/proc/self/ns/net")
        name = (process / "cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
        return is_here and name.startswith("ray::") and title in name
    return False


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["sandbox"]:
            asyncio.run(sandbox())
        case ["job", way, count, is_killed, home]:
            print(json.dumps(job(way, int(count), home, is_killed=is_killed == "1")))
