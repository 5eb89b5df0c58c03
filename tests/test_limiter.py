"""Another limit than this process's own: places that lie with others, and are waited for one at a time."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import Literal

import anyio
import pytest
from virtual_network import Listener, Network, busiest_window, jobs_for, scheduler_over

from imagen_async import Account, Client, Limits, Rate
from imagen_async.ports import Limiter, Window
from imagen_async.providers import PROVIDERS
from imagen_async.sandbox import Latency, Sandbox
from imagen_async.testing import VirtualTimeLoop

KIE = PROVIDERS["kie"]
OPEN = Rate(10_000, per=1)


def now() -> float:
    return asyncio.get_running_loop().time()


class Borrowed(Window):
    """A limit whose places lie in a window that others use too.

    Attributes:
        shared: That window.
        leases: When it was asked for places, and for how many requests.
        waits: The most leases that were under way at once.
        is_away: The first two leases fail, as where a store is away.
    """

    is_shared = True

    def __init__(self, shared: Window, *, is_away: bool = False) -> None:
        super().__init__(shared.rate)
        self.shared = shared
        self.leases: list[tuple[float, int]] = []
        self.waits = 0
        self.is_away = is_away
        self._at_hand = self._waiting = 0

    def ready_at(self, now: float) -> float:
        """At once with a place at hand; else only a lease can tell."""
        return now if self._at_hand else math.inf

    def take(self, now: float) -> None:
        """Use one of those at hand."""
        self._at_hand -= 1

    def answered(self, now: float) -> None:
        """Give it back, free a window later."""
        self.shared.answered(now)

    async def lease(self, wanted: int) -> None:
        """Take one place, so that others have their turn, once there is any."""
        self.leases.append((now(), wanted))
        if self.is_away and len(self.leases) <= 2:
            raise OSError("the store is away")
        if (ready_at := self.shared.ready_at(now())) == math.inf:
            return
        self._waiting += 1
        self.waits = max(self.waits, self._waiting)
        await anyio.sleep_until(ready_at)
        self._waiting -= 1
        # Meanwhile another may have taken it; the shell asks again.
        if self.shared.ready_at(now()) <= now():
            self.shared.take(now())
            self._at_hand += 1


async def test_two_clients_share_one_limit() -> None:
    """Two clients that are handed one limit stay in it together, and use all of it."""
    strict = Limits(Rate(10, per=0.5), OPEN, running=1000)
    shared = Window(strict.submit)

    def limiter(account: str, kind: Literal["submit", "status"], rate: Rate) -> Limiter:
        return Borrowed(shared if kind == "submit" else Window(OPEN))

    async with Sandbox(limits=strict, latency=Latency(0.05, minimum=0.01)) as sandbox:
        account = Account("sandbox", api_key=sandbox.key, base_url=sandbox.url, limits=Limits(OPEN, OPEN, running=1000))

        async def work(prompt: str) -> int:
            async with Client(account, limiter=limiter) as client, client.batch([prompt] * 15) as results:
                return len([result async for result in results if result.ok])

        done = await asyncio.gather(work("a"), work("b"))
    assert done == [15, 15]
    assert sandbox.ledger.refused == {}
    assert busiest_window(sandbox.ledger.create_times, 0.5) == 10


VIRTUAL_TIME = pytest.mark.parametrize(
    "anyio_backend", [("asyncio", {"loop_factory": VirtualTimeLoop})], ids=["virtual-time"]
)


async def create_times(count: int, limiter: Limiter) -> list[float]:
    """When the creates of so many jobs arrive that are sent under a limit, and all succeed."""
    network = Network(KIE, limits=Limits(OPEN, OPEN, running=100), limiter=limiter)
    async with scheduler_over(network) as scheduler:
        listener, owner = Listener(), scheduler.new_id()
        scheduler.enter(owner, listener.owner())
        for job in jobs_for(scheduler, KIE, owner, count):
            scheduler.add(job)
        with anyio.fail_after(300):
            await listener.heard(finished=count)
    assert all(result.ok for result in listener.results)
    return network.ledger.create_times


@VIRTUAL_TIME
async def test_a_limit_that_fails_sends_nothing_and_is_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    """While no place can be had nothing is sent, a line in the log says so, and it goes on once there is one."""
    limiter = Borrowed(Window(Rate(5, per=1)), is_away=True)
    sent = await create_times(12, limiter)
    assert sent[0] >= 2
    assert busiest_window(sent, 1) <= 5
    times, wanted = zip(*limiter.leases[:7], strict=True)
    assert times[:3] == (0, 1, 2), "a second after each failure"
    assert times[6] - times[3] < 0.05, "at once, when the first answer has come"
    assert wanted == (12, 12, 12, 11, 10, 9, 8), "it is told how many wait"
    assert limiter.waits == 1
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert all(record.exc_info for record in caplog.records), "with what failed"


@VIRTUAL_TIME
async def test_a_limit_that_brings_nothing_is_asked_again_in_peace() -> None:
    """While the one place is in flight a lease brings none, and is repeated, but not as fast as the loop can."""
    limiter = Borrowed(Window(Rate(1, per=1)))
    assert busiest_window(await create_times(3, limiter), 1) == 1
    assert 5 < len(limiter.leases) < 50
