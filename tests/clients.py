"""What tests do with a client, whatever it talks to: run a batch to its end, hear what it tells."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from imagen_async import Client, Limits, Rate, Result
from imagen_async.events import Event, JobEvent
from imagen_async.sandbox import Sandbox

FAST = Limits(Rate(200, per=0.5), Rate(500, per=0.5), running=300)


def client_of(sandbox: Sandbox, **settings: Any) -> Client:
    """A client of a sandbox, which may be in another thread."""
    return Client("sandbox", api_key=sandbox.key, base_url=sandbox.url, **settings)


async def run(client: Client, requests: Any, **terms: Any) -> list[Result]:
    """All results of a batch, in the order in which they came; the client is opened for it where it is not open."""
    if not client.is_open:
        async with client:
            return await run(client, requests, **terms)
    async with client.batch(requests, **terms) as results:
        return [result async for result in results]


async def until_error(batch: Any, error: type[BaseException], match: str | None = None) -> list[Result]:
    """Iterate until that error is raised; the results before it."""
    results: list[Result] = []
    with pytest.raises(error, match=match):
        async for result in batch:
            results.append(result)
    return results


class Heard:
    """A client's `on_event` that keeps what it hears, as `events`, and lets a test wait for it."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._news = asyncio.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        self._news.set()

    def jobs(self, state: str = "", key: str = "") -> list[JobEvent]:
        """What was told of jobs that came to a state, of one request or of all."""
        told = (event for event in self.events if isinstance(event, JobEvent))
        return [event for event in told if state in ("", event.state) and key in ("", event.key)]

    def states(self, key: str) -> list[str]:
        """What a request's job went through."""
        return [event.state for event in self.jobs(key=key)]

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until something holds that comes with an event."""
        while not condition():
            self._news.clear()
            await self._news.wait()

    async def job(self, state: str, count: int = 1) -> None:
        """Wait until so many jobs have come to a state."""
        await self.until(lambda: len(self.jobs(state)) >= count)
