"""One picture that somebody awaits, on virtual time: its task's id, its errors, and what is told when nobody waits."""

from __future__ import annotations

import asyncio
import traceback
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from clients import run
from inner import now
from virtual_network import Network, VirtualClient, anyio_backend

from imagen_async import ImageRequest, errors
from imagen_async.events import Event, JobEvent
from imagen_async.providers import PROVIDERS
from imagen_async.sandbox import Latency

__all__ = ["anyio_backend"]


@pytest.fixture
def network() -> Network:
    """A network whose tasks all take 20 s, and whose answers come after 0.5 s on average."""
    return Network(PROVIDERS["kie"], latency=Latency(median=20, sigma=0), round_trip=0.5)


async def test_a_job_is_awaited_as_often_as_wanted(network: Network, caplog: pytest.LogCaptureFixture) -> None:
    """It has its task's id as soon as the provider took it; whoever awaits it has the pictures, the log nothing."""
    async with VirtualClient(network) as client:
        job = await client.submit(ImageRequest("x", key="mine"))
        assert now() < 2
        assert (job.task_id, job.key) == (network.ledger.tasks[0].task_id, "mine")
        assert repr(job) == f"Job(task_id={job.task_id!r}, key='mine')"
        assert (job.done(), job.state) == (False, "running")
        with pytest.raises(asyncio.InvalidStateError, match="running: await it"):
            job.result()
        assert (await job).urls == (await job).urls == job.result().urls != ()
        assert (job.done(), job.state) == (True, "done")
        assert (await client.generate("y")).ok
    assert caplog.messages == []


async def test_an_address_where_nobody_listens_is_told_soon(network: Network) -> None:
    """Neither a create nor a collect waits there for its deadline; the error of a task keeps its id."""
    network.is_down = True
    async with VirtualClient(network) as client:
        for call, task_id in ((client.generate("x"), None), (client.collect("t1"), "t1")):
            with pytest.raises(errors.TransportError, match="cannot be reached") as caught:
                await call
            assert (caught.value.sent, caught.value.task_id) == (False, task_id)
    assert now() < 120


async def test_each_caller_raises_an_error_of_its_own(network: Network) -> None:
    """Callers of an account that its wrong key has stopped raise as many objects, each with its own traceback."""
    network.faults.keep("create", "401")
    async with VirtualClient(network) as client:
        told: list[Any] = []
        for calls in ([client.generate(f"{n}") for n in range(20)], [client.submit("once more") for _ in range(2)]):
            told += await asyncio.gather(*calls, return_exceptions=True)
    assert ({type(error) for error in told}, len({id(error) for error in told})) == ({errors.AuthenticationError}, 22)
    assert len(network.ledger.creates) == 1, "the first goes alone, so that a wrong key meets the server once"
    depths = [len(traceback.extract_tb(error.__traceback__)) for error in told]
    assert max(depths) < 10, "no traceback goes on where another caller's ended"


async def test_who_asks_twice_has_two_errors(network: Network, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever awaits a job that failed gets an error of its own, and so does who saves its result; the log has none."""
    network.faults.keep("task", "fail_word")
    async with VirtualClient(network) as client:
        job = await client.submit("a fox")
        (result,) = await run(client, ["a heron"])
        calls = *map(asyncio.ensure_future, [job, job]), client.generate("a hen"), result.save("."), result.save(".")
        raised = [*await asyncio.gather(*calls, return_exceptions=True), result.error]
        with pytest.raises(errors.GenerationFailed):
            job.result()
    assert ({type(error) for error in raised}, len({id(error) for error in raised})) == ({errors.GenerationFailed}, 6)
    assert caplog.messages == []


async def test_a_cancelled_call_tells_its_task(network: Network, caplog: pytest.LogCaptureFixture) -> None:
    """A cancelled call asks no more; a task that runs by then is logged once with its id, for it is paid for."""
    async with VirtualClient(network) as client:
        with anyio.move_on_after(5):
            await client.generate("x")
        # A question that had left by then arrives.
        await anyio.sleep(1)
        seen = len(network.ledger.poll_times)
        await anyio.sleep(100)
    told = f"kie: nobody waited for task {network.ledger.tasks[0].task_id}: "
    assert (len(network.ledger.poll_times), [message[: len(told)] for message in caplog.messages]) == (seen, [told])


UNAWAITED = {
    None: ["kie: nobody waited for task {task_id}: Left while the task ran"],
    "reset_after": ["nobody waited for the end of 'mine': ", "cost up to 8 credits"],
    "500": [],
}


@pytest.mark.parametrize("call", ["generate", "submit"])
@pytest.mark.parametrize("fault", UNAWAITED)
async def test_a_create_that_nobody_waits_for_is_logged(
    network: Network, call: str, fault: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Cancelled while its create is on the way: the log says what became of it, paid or lost; of a refusal nothing."""
    network.faults.order("create", fault)
    async with VirtualClient(network) as client:
        with anyio.move_on_after(0.001):
            await getattr(client, call)("x", key="mine")
        await anyio.sleep(10)
    assert len(caplog.messages) == bool(UNAWAITED[fault])
    for words in UNAWAITED[fault]:
        assert words.format(task_id=network.ledger.creates[0].task_id) in caplog.text


async def test_a_picture_for_a_cancelled_call_is_logged(network: Network, caplog: pytest.LogCaptureFixture) -> None:
    """Where a call is cancelled in the instant in which its picture comes, the log has the task, once."""

    def cancel(event: Event) -> None:
        if isinstance(event, JobEvent) and event.state == "done":
            call.cancel()

    async with VirtualClient(network, on_event=cancel) as client:
        call = asyncio.create_task(client.generate("x"))
        with pytest.raises(asyncio.CancelledError):
            await call
    task_id = network.ledger.tasks[0].task_id
    assert caplog.messages == [f"kie: nobody waited for task {task_id}: it is paid for: collect it"]


async def test_leaving_the_client_ends_a_waiting_job(network: Network, caplog: pytest.LogCaptureFixture) -> None:
    """A job that runs when the client is left tells its task in the log, once, and to whoever awaits it then."""
    network.faults.order("task", "fail_word", None)
    async with VirtualClient(network) as client:
        await client.submit("fails before")
        await anyio.sleep(50)
        job = await client.submit("runs")
    for _ in range(2):
        with pytest.raises(errors.DeadlineExceeded, match="Left while the task ran") as caught:
            await job
        assert caught.value.task_id == job.task_id
    assert [job.task_id in message for message in caplog.messages] == [True]


@pytest.mark.parametrize("turns", range(8))
async def test_a_call_that_has_just_begun_does_not_hold_up_leaving(network: Network, turns: int) -> None:
    """Whatever a call in another task has come to, its exchange not even begun, the client is left at once."""
    network.round_trip = 1000.0
    async with VirtualClient(network) as client:
        await anyio.sleep(1)
        call = asyncio.create_task(client.collect("no-such-task"))
        for _ in range(turns):
            await anyio.lowlevel.checkpoint()
    assert now() < 3
    with pytest.raises((errors.InvalidRequest, errors.DeadlineExceeded, errors.ConfigurationError)):
        await call


async def test_of_a_picture_that_was_given_up_nothing_is_kept(network: Network) -> None:
    """A program that gives up one picture after the other, for months, keeps no word of any."""
    async with VirtualClient(network) as client:
        for _ in range(5):
            with anyio.move_on_after(5):
                await client.generate("x")
        async with client.batch(["y"]) as batch:
            batch.stop()
        await anyio.sleep(100)
        plan, stream = client.scheduler._plan, client.scheduler._stream
        kept = [plan.jobs, stream.owners, stream._listeners, plan._course._withholding, bool(plan._course._spending)]
        assert kept == [{}, {}, {}, set(), False]
