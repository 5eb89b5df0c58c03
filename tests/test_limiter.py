"""Another limit than this process's own: places that live in a dict, which several clients share and wait for."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterable
from typing import Any, Literal

import anyio
import pytest
from virtual_network import Listener, Network, busiest_window, jobs_for, scheduler_over

from imagen_async import Account, Client, Limits, Rate
from imagen_async.ports import Limiter
from imagen_async.providers import PROVIDERS
from imagen_async.sandbox import Latency, Sandbox
from imagen_async.testing import VirtualTimeLoop

KIE = PROVIDERS["kie"]
OPEN = Rate(10_000, per=1)


class DictLimiter:
    """A limit whose places are in a dict: whoever has that shares them.

    Attributes:
        shared: `lent`: places that somebody has at hand or in flight. `free_at`: when each used one is free again.
        leases: What was asked for, and when.
    """

    is_shared = True

    def __init__(self, rate: Rate, shared: dict[str, Any]) -> None:
        self.rate = rate
        self.limit = rate.count
        self.shared = shared
        self.leases: list[tuple[float, int]] = []
        self._at_hand = 0
        shared.setdefault("lent", 0)
        shared.setdefault("free_at", [])

    def ready_at(self, now: float) -> float:
        """At once with a place at hand; else only a lease can tell."""
        return -math.inf if self._at_hand else math.inf

    def taken(self, now: float) -> int:
        """Places that are not free."""
        return int(self.shared["lent"]) + sum(free_at > now for free_at in self.shared["free_at"])

    def is_blocked(self, now: float) -> bool:
        """Never."""
        return False

    def take(self, now: float) -> None:
        """Use one of those at hand."""
        self._at_hand -= 1

    def answered(self, now: float) -> None:
        """Give it back, free a window later."""
        self.shared["lent"] -= 1
        self.shared["free_at"].append(now + self.rate.per)

    def refused(self, now: float, retry_after: float | None = None) -> None:
        """Nothing: the tests count refusals."""

    def block(self, now: float, retry_after: float | None = None) -> None:
        """Nothing."""

    def preload(self, free_at: Iterable[float]) -> None:
        """Count what was sent before."""
        self.shared["free_at"] += free_at

    def reopen(self, now: float) -> None:
        """Nothing is in flight in these tests."""

    async def lease(self, wanted: int) -> None:
        """Take what is free, one at a time so that others have their turn, once there is any."""
        self.leases.append((now(), wanted))
        while self.taken(now()) >= self.limit:
            await anyio.sleep(0.01)
        self.shared["lent"] += 1
        self._at_hand += 1


class Failing(DictLimiter):
    """One whose store is away the first two times."""

    async def lease(self, wanted: int) -> None:
        """Fail, then be as any other."""
        if len(self.leases) < 2:
            self.leases.append((now(), wanted))
            raise OSError("the store is away")
        await super().lease(wanted)


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_two_clients_share_one_limit() -> None:
    """Two clients that are handed one limit stay in it together, and use all of it."""
    strict = Limits(Rate(10, per=0.5), OPEN, running=1000)
    shared: dict[str, Any] = {}

    def limiter(account: str, kind: Literal["submit", "status"], rate: Rate) -> Limiter:
        return DictLimiter(strict.submit if kind == "submit" else OPEN, shared if kind == "submit" else {})

    async with Sandbox(limits=strict, latency=Latency(0.05, minimum=0.01)) as sandbox:
        account = Account("sandbox", api_key=sandbox.key, base_url=sandbox.url, limits=Limits(OPEN, OPEN, running=1000))

        async def work(prompt: str) -> int:
            async with Client(account, limiter=limiter) as client, client.batch([prompt] * 20) as results:
                return len([result async for result in results if result.ok])

        done = await asyncio.gather(work("a"), work("b"))
    assert done == [20, 20]
    assert sandbox.ledger.refused == {}
    assert busiest_window(sandbox.ledger.create_times, 0.5) == 10


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"loop_factory": VirtualTimeLoop})], ids=["virtual-time"])
async def test_a_limit_that_fails_sends_nothing_and_is_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    """While no place can be had nothing is sent, a line in the log says so, and it goes on once there is one."""
    limiter = Failing(Rate(5, per=1), {})
    network = Network(KIE, limits=Limits(OPEN, OPEN, running=100), limiter=limiter)
    async with scheduler_over(network) as scheduler:
        listener, owner = Listener(), scheduler.new_id()
        scheduler.enter(owner, listener.owner())
        for job in jobs_for(scheduler, KIE, owner, 12):
            scheduler.add(job)
        await listener.heard(finished=12)
    assert all(result.ok for result in listener.results)
    assert [round(at) for at, _ in limiter.leases[:3]] == [0, 1, 2]
    assert limiter.leases[0][1] == 12, "it is told how many wait"
    assert network.ledger.create_times[0] >= 2
    assert busiest_window(network.ledger.create_times, 1) <= 5
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
