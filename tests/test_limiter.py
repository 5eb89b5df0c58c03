"""Another limit than this process's own: places that lie with others, and are waited for one at a time."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import Any

import anyio
import pytest
from virtual_network import VIRTUAL_TIME, Listener, Network, jobs_for, scheduler_over

from imagen_async import Limits, Rate
from imagen_async.ports import Window
from imagen_async.providers import PROVIDERS
from tests.world.windows import busiest_window


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """These tests run on virtual time."""
    return VIRTUAL_TIME


class Borrowed(Window):
    """A limit whose places lie in a window that others use too; where a store is away the first two leases fail."""

    is_shared = True

    def __init__(self, shared: Window, *, is_away: bool = False) -> None:
        super().__init__(shared.rate)
        self.shared, self.is_away = shared, is_away
        # When it was asked for places, and for how many requests.
        self.leases: list[tuple[float, int]] = []
        self._at_hand, self._is_awaited = 0, False

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
        self.leases.append((anyio.current_time(), wanted))
        if self.is_away and len(self.leases) <= 2:
            raise OSError("the store is away")
        if (ready_at := self.shared.ready_at(anyio.current_time())) == math.inf:
            return
        assert not self._is_awaited, "one wait at a time"
        self._is_awaited = True
        await anyio.sleep_until(ready_at)
        self._is_awaited = False
        # Meanwhile another may have taken it; the shell asks again.
        if self.shared.ready_at(now := anyio.current_time()) <= now:
            self.shared.take(now)
            self._at_hand += 1


async def create_times(count: int, limiter: Borrowed) -> list[float]:
    """When the creates of so many pictures arrive that a client makes under a limit, and all succeed."""
    network = Network(PROVIDERS["kie"], limits=Limits(Rate(10_000, per=1), running=100), limiter=limiter)
    async with scheduler_over(network) as scheduler:
        listener, owner = Listener(), scheduler.new_id()
        scheduler.enter(owner, listener.owner())
        for job in jobs_for(scheduler, network.provider, owner, count):
            scheduler.add(job)
        await listener.heard(finished=count)
    assert all(result.ok for result in listener.results)
    return network.ledger.create_times


async def test_two_clients_share_one_limit() -> None:
    """Two clients that are handed one limit stay in it together, and use all of it."""
    shared = Window(Rate(10, per=0.5))
    one, other = await asyncio.gather(*(create_times(15, Borrowed(shared)) for _ in range(2)))
    assert (len(one), len(other), busiest_window(one + other, 0.5)) == (15, 15, 10)


async def test_a_limit_that_fails_sends_nothing_and_is_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    """While no place can be had nothing is sent, a line in the log says so, and it goes on once there is one."""
    limiter = Borrowed(Window(Rate(5, per=1)), is_away=True)
    sent = await create_times(12, limiter)
    assert sent[0] >= 2
    assert busiest_window(sent, 1) <= 5
    times, wanted = zip(*limiter.leases[:7], strict=True)
    assert times[:3] == pytest.approx((times[0], times[0] + 1, times[0] + 2)), "a second after each failure"
    assert times[6] - times[3] < 0.05, "at once, when the first answer has come"
    assert wanted == (1, 1, 1, 11, 10, 9, 8), "it is told how many could go: one, until the account has answered"
    warnings = [(record.levelno, bool(record.exc_info)) for record in caplog.records]
    assert warnings == [(logging.WARNING, True)] * 2, "with what failed, twice"


async def test_a_limit_that_brings_nothing_is_asked_again_in_peace() -> None:
    """While the one place is in flight a lease brings none, and is repeated, but not as fast as the loop can."""
    limiter = Borrowed(Window(Rate(1, per=1)))
    assert busiest_window(await create_times(3, limiter), 1) == 1
    assert 5 < len(limiter.leases) < 50
