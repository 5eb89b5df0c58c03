"""What `peers` measures, each in a process of its own that imports no client but that one."""

from __future__ import annotations

import asyncio
import importlib
import time
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.worker import Work, main, peak_memory, prompts

FAL_APP = "fal-ai/imagen4"
FAL_ENDPOINT = f"{FAL_APP}/preview"
REPLICATE_MODEL = "google/imagen-4"


class Stopwatch:
    """CPU and time since it was made, and when the program held the result of which job."""

    def __init__(self) -> None:
        self._cpu, self._began_at = time.process_time(), time.monotonic()
        self._held: dict[int, float] = {}

    def hold(self, number: int) -> None:
        """The result of this job is there now."""
        self._held[number] = time.monotonic()

    def figures(self) -> dict[str, object]:
        """What was taken, to be asked for right after the last result."""
        cpu, wall = time.process_time() - self._cpu, time.monotonic() - self._began_at
        return {"cpu": cpu, "wall": wall, "held": self._held, "peak": peak_memory()}


async def ours(url: str, count: int, running: int, freshness: float) -> dict[str, object]:
    """Our batch, under a limit of what runs at once and none of how often it may ask."""
    from imagen_async import Account, Client, Limits, Rate

    limits = Limits(Rate(10**9, per=1), Rate(10**9, per=1), running)
    account = Account("sandbox", api_key="a-key", base_url=url, limits=limits)
    stopwatch = Stopwatch()
    async with Client(account, freshness=freshness) as client:
        async with client.batch(prompts(count), model="imagen4") as results:
            async for result in results:
                if result.ok:
                    stopwatch.hold(result.index)
        return stopwatch.figures()


async def fal(url: str, count: int, running: int) -> dict[str, object]:
    """fal-client: `submit`, then `get` of the handle."""
    module = _peer("fal_client.client")
    # The one change: where `submit` posts to. An environment variable can name another host, but not plain HTTP; all
    # other addresses are the server's to tell, and come with its answer. Transport, pool, headers, retries and interval
    # stay the package's own, and no client of this benchmark has TLS to pay for, so that this favours none.
    module.QUEUE_URL_FORMAT = f"{url}/"
    stopwatch = Stopwatch()
    client = module.AsyncClient(key="a-key")

    async def make(prompt: str) -> bool:
        handle = await client.submit(FAL_ENDPOINT, arguments={"prompt": prompt, "aspect_ratio": "1:1"})
        return bool((await handle.get())["images"])

    await _each(make, count, running, stopwatch)
    return stopwatch.figures()


async def replicate(url: str, count: int, running: int) -> dict[str, object]:
    """replicate: `predictions.async_create`, then `async_wait` of the prediction."""
    module = _peer("replicate")
    stopwatch = Stopwatch()
    client = module.Client(api_token="a-key", base_url=url)

    async def make(prompt: str) -> bool:
        given = {"prompt": prompt, "aspect_ratio": "1:1"}
        prediction = await client.predictions.async_create(model=REPLICATE_MODEL, input=given)
        await prediction.async_wait()
        return bool(prediction.output)

    await _each(make, count, running, stopwatch)
    return stopwatch.figures()


def _peer(name: str) -> Any:
    """Import a peer; what it has to say about its own dependencies is not for the table."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


async def _each(make: Callable[[str], Awaitable[bool]], count: int, running: int, stopwatch: Stopwatch) -> None:
    """Make a picture of each prompt, so many at once, as a peer's user would."""
    turns = asyncio.Semaphore(running)

    async def one(number: int, prompt: str) -> None:
        async with turns:
            if await make(prompt):
                stopwatch.hold(number)

    await asyncio.gather(*(one(number, prompt) for number, prompt in enumerate(prompts(count))))


WORK: Work = {"ours": ours, "fal": fal, "replicate": replicate}

if __name__ == "__main__":
    main(WORK)
