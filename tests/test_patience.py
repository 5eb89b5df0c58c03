"""What has arrived is read before a limit of time counts: on virtual time, and with answers that wait in the kernel."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from aiohttp import web
from anyio.from_thread import start_blocking_portal
from inner import Endpoint, HttpRequest, SessionPool, SessionSettings, now
from servers import of_loopback, served
from virtual_network import VIRTUAL_TIME, Network, VirtualClient, prompts

from imagen_async._patience import RESPITE, Alarm, AlarmClock, Patience
from imagen_async.providers import PROVIDERS
from imagen_async.sandbox import Latency

on_virtual_time = pytest.mark.parametrize("anyio_backend", [VIRTUAL_TIME], ids=["virtual"])


def stand_still(seconds: float) -> None:
    """Let virtual time pass in which the loop does nothing."""
    loop: Any = asyncio.get_running_loop()
    loop.jump(seconds)


async def rings(standing_still: float = 0.0, since: Callable[[], float] | None = None) -> float:
    """When an alarm of 5 seconds rings, in seconds, where the process stands still from the third one on."""
    rung = asyncio.Event()
    alarm, began_at = Alarm(5.0, rung.set, since), now()
    await anyio.sleep(3.0)
    stand_still(standing_still)
    await rung.wait()
    alarm.stop()
    return now() - began_at


@on_virtual_time
async def test_an_alarm_that_comes_late_gives_a_respite() -> None:
    """It rings at its time; where that passed while the process stood still, a little after that was over."""
    assert await rings() == 5.0
    assert await rings(1.9) == 5.0
    assert await rings(60.0) == 63.0 + RESPITE


@on_virtual_time
async def test_an_alarm_counts_from_what_came_on_meanwhile() -> None:
    """What has begun anew since has all of its seconds, and an alarm that is stopped does not ring."""
    began_at = now()
    assert await rings(since=lambda: min(now(), began_at + 12.0)) == 17.0
    alarm = Alarm(1.0, lambda: pytest.fail("it was stopped"))
    alarm.stop()
    await anyio.sleep(10.0)


@on_virtual_time
async def test_alarms_of_one_clock_ring_each_at_its_time() -> None:
    """In whatever order they are set, also by each other; those that were stopped meanwhile do not."""
    clock, began_at = AlarmClock(asyncio.get_running_loop()), now()
    rung: list[tuple[str, float]] = []

    def set_alarm(name: str, seconds: float) -> Alarm:
        return Alarm(seconds, lambda: rung.append((name, now() - began_at)), timers=clock)

    set_alarm("late", 9.0)
    stopped = set_alarm("stopped", 2.0)
    set_alarm("early", 1.0)
    clock.call_at(began_at + 1.5, stopped.stop)
    clock.call_at(began_at + 1.5, lambda: set_alarm("new", 2.0))
    await anyio.sleep(20.0)
    assert rung == [("early", 1.0), ("new", 3.5), ("late", 9.0)]


@on_virtual_time
@pytest.mark.parametrize("steps", [1, 60])
async def test_what_has_come_is_heard_before_patience_ends(steps: int) -> None:
    """Also where the loop needs many turns to get it to who waits; and where nothing comes, the wait ends in time."""

    async def slow_to_hear() -> str:
        await anyio.sleep(5.0)
        for _ in range(steps):
            await asyncio.sleep(0)
        return "heard"

    with Patience(5.0):
        assert await slow_to_hear() == "heard"
    with pytest.raises(TimeoutError):
        with Patience(5.0):
            await anyio.sleep_forever()
    assert now() == 10.0


@on_virtual_time
async def test_leaving_hears_the_answers_that_came_while_the_process_stood_still() -> None:
    """The time for hearing creates out does not count while nobody could hear."""
    network = Network(PROVIDERS["kie"], round_trip=1.0)
    async with VirtualClient(network) as client:
        async with client.batch(prompts(1)) as batch:
            await network.has_seen(1)
            asyncio.get_running_loop().call_later(0.001, stand_still, 60.0)
    assert [result.task_id for result in batch.leftover] == [task.task_id for task in network.ledger.creates]


@on_virtual_time
@pytest.mark.parametrize(("asked", "fault"), [(0, None), (1, None), (1, "reset")])
async def test_a_deadline_that_passes_while_the_process_stands_still_asks_once_more(asked: int, fault: Any) -> None:
    """Also where a question was on its way: its old answer, or that none came, does not give up what is there."""
    network = Network(PROVIDERS["kie"], latency=Latency(20, sigma=0), round_trip=1.0)
    network.faults.order("poll", *[fault] if fault else [])
    async with VirtualClient(network) as client:
        job = await client.submit("x", deadline=25)
        while len(network.ledger.poll_times) < asked:
            await asyncio.sleep(0.01)
        stand_still(60.0)
        assert (await job).ok
    assert len(network.ledger.creates) == 1


CHILD = """
import asyncio, sys
from imagen_async import Account, Client
async def main():
    async with Client(Account("kie", api_key="k", base_url=sys.argv[1]), freshness=0.001) as client:
        print((await client.generate("x", model="imagen4", deadline=2)).urls)
asyncio.run(main())
"""


@pytest.mark.slow
async def test_a_process_that_was_stopped_past_a_deadline_has_its_picture() -> None:
    """A real one, stopped while a question is on its way, whose answer says that the task runs."""
    asked, is_made = asyncio.Event(), False

    async def answer(request: web.Request) -> web.Response:
        made = {"state": "success", "resultUrls": ["https://files.example/1.png"]}
        data = {"taskId": "t1"} if request.method == "POST" else made if is_made else {"state": "waiting"}
        if request.method == "GET":
            asked.set()
            await asyncio.sleep(0.2)
        return web.json_response({"code": 200, "data": data})

    async with served(answer) as url:
        words = (sys.executable, "-c", CHILD, url)
        child = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE)
        await asyncio.wait_for(asked.wait(), 30)
        child.send_signal(signal.SIGSTOP)
        await asyncio.sleep(3)
        is_made = True
        child.send_signal(signal.SIGCONT)
        out, _ = await asyncio.wait_for(child.communicate(), 30)
    assert (child.returncode, out.strip()) == (0, b"('https://files.example/1.png',)")


ANSWERS: dict[str, Callable[[web.StreamResponse], Any]] = {
    "whole": lambda response: None,
    "in pieces": lambda response: response.enable_chunked_encoding(),
}


@pytest.mark.parametrize("is_secure", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("how", ANSWERS)
async def test_an_answer_that_waits_in_the_kernel_counts(how: str, is_secure: bool) -> None:
    """A program that blocks the loop for longer than an answer may take has it, and files just the same."""
    (tls, trusting), asked = of_loopback(), threading.Semaphore(0)

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.release()
        await asyncio.sleep(0.1)
        response = web.StreamResponse()
        ANSWERS[how](response)
        await response.prepare(request)
        for _ in range(8):
            await response.write(b"x" * 10_000)
            await asyncio.sleep(0)
        return response

    settings = SessionSettings(timeout=0.3, ssl=trusting)
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(served(answer, tls=tls if is_secure else None)) as url,
    ):
        async with SessionPool({"one": Endpoint(url, "k")}, settings) as pool, asyncio.TaskGroup() as group:
            assert pool.files is not None

            async def file() -> bytes:
                async with pool.files.get(f"{url}/x.png", "one") as response:
                    return await response.read()

            fetching = group.create_task(file())
            asking = group.create_task(pool.send("one", HttpRequest("GET", "/")))
            for _ in range(2):
                await anyio.to_thread.run_sync(asked.acquire)
            time.sleep(0.6)  # noqa: ASYNC251
    assert (len(asking.result().body), len(fetching.result())) == (80_000, 80_000)
