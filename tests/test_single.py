"""One picture that somebody awaits, on virtual time: its task's id, its errors, and what is told when nobody waits."""

from __future__ import annotations

import asyncio
import traceback
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from clients import run
from virtual_network import VIRTUAL_TIME, Network, VirtualClient

from imagen_async import ImageRequest, Job, Result, errors
from imagen_async.events import Event, JobEvent
from imagen_async.providers import PROVIDERS
from imagen_async.sandbox import Latency

KIE = PROVIDERS["kie"]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """These tests run on virtual time."""
    return VIRTUAL_TIME


def steady(**settings: Any) -> Network:
    """A network whose tasks all take 20 s, and whose answers come after 0.5 s on average."""
    return Network(KIE, latency=Latency(median=20, sigma=0), round_trip=0.5, **settings)


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged."""
    return [record.getMessage() for record in caplog.records]


async def awaited(job: Job) -> Result:
    return await job


async def test_submit_names_the_task_and_the_job_is_awaited_as_often_as_wanted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The job has its task's id as soon as the provider took it; each who awaits it has the same pictures."""
    network = steady()
    async with VirtualClient(network) as client:
        job = await client.submit(ImageRequest("x", key="mine"))
        assert asyncio.get_running_loop().time() < 2
        assert (job.task_id, job.key) == (network.ledger.tasks[0].task_id, "mine")
        assert repr(job) == f"Job(task_id={job.task_id!r}, key='mine')"
        assert (await job).urls == (await job).urls != ()
    assert messages(caplog) == []


async def test_submit_raises_where_there_is_no_task() -> None:
    """A create that is refused, or whose answer is lost, is the error of `submit`: there is no job to await."""
    network = steady()
    network.faults.order("create", "500", "reset_after")
    async with VirtualClient(network) as client:
        for error in (errors.InvalidRequest, errors.UnknownOutcome):
            with pytest.raises(error):
                await client.submit("x")


async def test_an_address_where_nobody_listens_is_told_soon() -> None:
    """Neither a create nor a collect waits there for its deadline; the error of a task keeps its id."""
    network = steady()
    network.is_down = True
    async with VirtualClient(network) as client:
        for call, task_id in ((client.generate("x"), None), (client.collect("t1"), "t1")):
            with pytest.raises(errors.TransportError, match="cannot be reached") as caught:
                await call
            assert (caught.value.sent, caught.value.task_id) == (False, task_id)
    assert asyncio.get_running_loop().time() < 120


async def test_each_caller_raises_an_error_of_its_own() -> None:
    """Twenty callers of an account that its wrong key has stopped raise twenty objects, each with its own traceback."""
    network = steady()
    network.faults.keep("create", "401")
    async with VirtualClient(network) as client:
        job_errors = await asyncio.gather(*(client.generate(f"{n}") for n in range(20)), return_exceptions=True)
        again = await asyncio.gather(*(client.submit("once more") for _ in range(2)), return_exceptions=True)
    told = [error for error in (*job_errors, *again) if isinstance(error, errors.AuthenticationError)]
    assert len({id(error) for error in told}) == 22
    depths = [len(traceback.extract_tb(error.__traceback__)) for error in told]
    assert max(depths) < 10, "no traceback goes on where another caller's ended"


async def test_who_asks_twice_about_a_failure_has_two_errors(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever awaits a job that failed gets an error of its own, and so does who saves its result."""
    network = steady()
    network.faults.keep("task", "fail_word")
    async with VirtualClient(network) as client:
        job = await client.submit("a fox")
        awaiting = await asyncio.gather(awaited(job), awaited(job), return_exceptions=True)
        (result,) = await run(client, ["a heron"])
        saving = await asyncio.gather(*(result.save(tmp_path) for _ in range(2)), return_exceptions=True)
    raised = (*awaiting, *saving, result.error)
    assert ({type(error) for error in raised}, len({id(error) for error in raised})) == ({errors.GenerationFailed}, 5)
    assert messages(caplog) == []


async def test_cancelling_generate_asks_no_more_and_tells_its_task(caplog: pytest.LogCaptureFixture) -> None:
    """A cancelled call asks no more; a task that runs by then is logged once with its id, for it is paid for."""
    network = steady()
    async with VirtualClient(network) as client:
        with anyio.move_on_after(5):
            await client.generate("x")
        seen = len(network.ledger.poll_times)
        await anyio.sleep(100)
        assert len(network.ledger.poll_times) == seen
    (task,) = network.ledger.tasks
    assert len(messages(caplog)) == 1
    assert f"kie: nobody waited for task {task.task_id}" in caplog.text


@pytest.mark.parametrize("call", ["generate", "submit"])
@pytest.mark.parametrize("fault", [None, "reset_after", "500"])
async def test_a_create_that_nobody_waits_for_is_logged(
    call: str, fault: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Cancelled while its create is on the way: the log says what became of it, paid or lost; of a refusal nothing."""
    network = steady()
    network.faults.order("create", fault)
    async with VirtualClient(network) as client:
        with anyio.move_on_after(0.001):
            await getattr(client, call)("x", key="mine")
        await anyio.sleep(10)
    told = {
        None: [f"kie: nobody waited for task {network.ledger.creates[0].task_id}: Left while the task ran"],
        "reset_after": ["nobody waited for the end of 'mine': "],
        "500": [],
    }[fault]
    assert [message[: len(start)] for message, start in zip(messages(caplog), told, strict=True)] == told
    assert fault != "reset_after" or "cost up to 8 credits" in caplog.text


async def test_what_was_told_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A picture, or an error with its task, that `generate` has handed over is nothing for the log."""
    network = steady()
    network.faults.order("task", None, "fail_word")
    async with VirtualClient(network) as client:
        assert (await client.generate("x")).ok
        with pytest.raises(errors.GenerationFailed):
            await client.generate("y")
    assert messages(caplog) == []


async def test_a_picture_that_comes_as_its_call_is_cancelled_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Where a call is cancelled in the instant in which its picture comes, the log has the task, once."""
    network = steady()

    def cancel(event: Event) -> None:
        if isinstance(event, JobEvent) and event.state == "done":
            call.cancel()

    async with VirtualClient(network, on_event=cancel) as client:
        call = asyncio.create_task(client.generate("x"))
        with pytest.raises(asyncio.CancelledError):
            await call
    task_id = network.ledger.tasks[0].task_id
    assert messages(caplog) == [f"kie: nobody waited for task {task_id}: it is paid for: collect it"]


async def test_leaving_the_client_ends_a_waiting_job(caplog: pytest.LogCaptureFixture) -> None:
    """A job that runs when the client is left tells its task in the log, once, and to whoever awaits it then."""
    network = steady()
    network.faults.order("task", "fail_word", None)
    async with VirtualClient(network) as client:
        await client.submit("fails before")
        await anyio.sleep(50)
        job = await client.submit("runs")
    for _ in range(2):
        with pytest.raises(errors.DeadlineExceeded, match="Left while the task ran") as caught:
            await job
        assert caught.value.task_id == job.task_id
    assert [job.task_id in message for message in messages(caplog)] == [True]


@pytest.mark.parametrize("turns", range(8))
async def test_a_call_that_has_just_begun_does_not_hold_up_leaving(turns: int) -> None:
    """Whatever a call in another task has come to, its exchange not even begun, the client is left at once."""
    async with VirtualClient(Network(KIE, round_trip=1000.0)) as client:
        await anyio.sleep(1)
        call = asyncio.create_task(client.collect("no-such-task"))
        for _ in range(turns):
            await anyio.lowlevel.checkpoint()
    assert asyncio.get_running_loop().time() < 3
    with pytest.raises((errors.InvalidRequest, errors.DeadlineExceeded, errors.ConfigurationError)):
        await call


async def test_of_a_picture_that_was_given_up_nothing_is_kept() -> None:
    """A program that gives up one picture after the other, for months, keeps no word of any."""
    async with VirtualClient(Network(KIE)) as client:
        for _ in range(5):
            with anyio.move_on_after(5):
                await client.generate("x")
        async with client.batch(["y"]) as batch:
            batch.stop()
        await anyio.sleep(100)
        plan, stream = client.scheduler._plan, client.scheduler._stream
        course = plan._course
        kept = [plan.jobs, stream.owners, stream._listeners, course._withholding, bool(course._spending)]
        assert kept == [{}, {}, {}, set(), False]
