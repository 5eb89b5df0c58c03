"""The program around us: its threads may all wait for us, its loops come and go, it ends as it likes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
from clients import client_of, run
from inner import PlainGroup

from imagen_async import Client, ConfigurationError, DownloadFailed
from imagen_async.sandbox import Sandbox
from imagen_async.testing import running_sandbox

PATIENCE = 20
"""Seconds after which what should be over soon is taken for hanging."""


@pytest.mark.parametrize("way", ["anyio's workers", "the loop's executor"])
async def test_all_threads_of_the_program_may_wait_for_a_client(way: str, tmp_path: Path) -> None:
    """Pictures are made, saved and looked at, and hosts found by name, while no thread of the program is free."""
    loop, count = asyncio.get_running_loop(), 40 if way == "anyio's workers" else 64
    with running_sandbox(Sandbox()) as sandbox:
        url = sandbox.url.replace("127.0.0.1", "localhost")
        async with Client("sandbox", api_key=sandbox.key, base_url=url) as client:

            async def save(number: int) -> int:
                return len(await (await client.generate(f"fox {number}")).save(tmp_path))

            def begin(number: int) -> Any:
                if way == "anyio's workers":
                    return anyio.to_thread.run_sync(anyio.from_thread.run, save, number)
                wait = lambda: asyncio.run_coroutine_threadsafe(save(number), loop).result(PATIENCE)  # noqa: E731
                return asyncio.to_thread(wait)

            async with asyncio.timeout(PATIENCE):
                saved = await asyncio.gather(*map(begin, range(count)))
    assert saved == [1] * count


async def test_files_are_worked_on_where_the_program_says(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """An executor that is handed in does it; one that takes nothing any more loses no picture."""
    with ThreadPoolExecutor(1, thread_name_prefix="theirs") as executor:
        async with client_of(imagen_sandbox, executor=executor) as client:
            result = await client.generate("a fox")
            await result.save(tmp_path / "1")
            assert [thread.name for thread in threading.enumerate() if thread.name.startswith("theirs")] == ["theirs_0"]
            executor.shutdown()
            assert len(await result.save(tmp_path / "2")) == 1
    held, busy = threading.Event(), ThreadPoolExecutor(1)
    busy.submit(held.wait, PATIENCE)
    async with client_of(imagen_sandbox, executor=busy) as client, asyncio.timeout(PATIENCE):
        saving = asyncio.ensure_future((await client.generate("a heron")).save(tmp_path / "3"))
        while not busy._work_queue.qsize():
            await asyncio.sleep(0)
        busy.shutdown(wait=False, cancel_futures=True)
        assert len(await saving) == 1
    held.set()
    for wrong in (3, ProcessPoolExecutor(1)):
        with pytest.raises(ConfigurationError, match="works in threads"):
            client_of(imagen_sandbox, executor=wrong)


USES: dict[str, Callable[[Client, Any, Any], Any]] = {
    "generate": lambda client, *_: client.generate("x"),
    "submit": lambda client, *_: client.submit("x"),
    "collect": lambda client, *_: client.collect("t1"),
    "credits": lambda client, *_: client.credits(),
    "batch": lambda client, *_: run(client, ["x"]),
    "entering": lambda client, *_: client.__aenter__(),
    "leaving": lambda client, *_: client.__aexit__(None, None, None),
    "await job": lambda _, job, __: job._single.result(),
    "iterating": lambda _, __, batch: anext(batch),
    "leaving a batch": lambda _, __, batch: batch.__aexit__(None, None, None),
    "stop": lambda _, __, batch: batch.stop(),
}


@pytest.mark.parametrize("use", USES)
async def test_another_loop_is_refused_at_once(use: str, imagen_sandbox: Sandbox) -> None:
    """In a second thread's loop each use raises what says what to do, sends nothing, and leaves the client as it is."""
    async with client_of(imagen_sandbox) as client, client.batch([]) as batch:
        job = await client.submit("a fox")

        async def elsewhere() -> None:
            await asyncio.wait_for(USES[use](client, job, batch), PATIENCE)

        with pytest.raises(ConfigurationError, match=r"another event loop.*run_coroutine_threadsafe"):
            await asyncio.to_thread(asyncio.run, elsewhere())
        with pytest.raises(ConfigurationError, match="another event loop"):
            await asyncio.to_thread(batch.stop)
        assert ((await job).ok, len(imagen_sandbox.ledger.create_times)) == (True, 1)


def test_a_loop_that_stands_still_is_another_one(imagen_sandbox: Sandbox) -> None:
    """A client that was not left is not used in the next loop."""
    loop, opened, leaves = asyncio.new_event_loop(), asyncio.Event(), asyncio.Event()
    client = client_of(imagen_sandbox)

    async def own() -> None:
        async with client:
            opened.set()
            await leaves.wait()

    owner = loop.create_task(own())
    loop.run_until_complete(opened.wait())
    for use in ("generate", "entering"):
        with pytest.raises(ConfigurationError, match="another event loop"):
            asyncio.run(USES[use](client, None, None))
    leaves.set()
    loop.run_until_complete(owner)
    loop.close()


ENDINGS = {
    "SystemExit in a result": ("raise SystemExit(7)", "main()", 7),
    "SystemExit in a task below": ("raise SystemExit(7)", "asyncio.wait_for(main(), 30)", 7),
    "KeyboardInterrupt": ("raise KeyboardInterrupt", "asyncio.wait_for(main(), 30)", -2),
}

PROGRAM = """
import asyncio, sys
from imagen_async import Client
async def main():
    async with Client("sandbox", api_key={key!r}, base_url={url!r}) as client:
        async with client.batch([f"fox {{n}}" for n in range(6)], journal="run.db", save_to="out") as results:
            async for result in results:
                {ending}
async def outer():
    await {outer}
asyncio.run(outer())
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", ENDINGS)
async def test_a_program_that_ends_within_a_batch_ends(way: str, imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """No thread of ours holds it, its code is the program's own, and the next run pays nothing twice."""
    ending, outer, code = ENDINGS[way]
    program = PROGRAM.format(key=imagen_sandbox.key, url=imagen_sandbox.url, ending=ending, outer=outer)
    command = [sys.executable, "-c", program]
    ended = await asyncio.to_thread(subprocess.run, command, cwd=tmp_path, capture_output=True, timeout=PATIENCE)
    assert ended.returncode == code, ended.stderr.decode()
    prompts = [f"fox {number}" for number in range(6)]
    results = await run(client_of(imagen_sandbox), prompts, journal=tmp_path / "run.db", save_to=tmp_path / "out")
    assert ([result.ok for result in results], len(imagen_sandbox.ledger.tasks)) == ([True] * 6, 6)


@pytest.mark.parametrize("leaves", ["break", "raise", "to the end", "bad input"])
@pytest.mark.parametrize("is_async", [True, False])
async def test_a_generator_is_closed_when_its_batch_is_left(
    is_async: bool, leaves: str, imagen_sandbox: Sandbox, tmp_path: Path
) -> None:
    """Its own end has run by then, also where it waits a little; a file that gives its lines stays open."""
    closed: list[bool] = []

    def plain() -> Iterator[str]:
        try:
            yield from ("x" for _ in range(3 if leaves == "to the end" else 10**6))
        finally:
            closed.append(True)

    async def slow() -> AsyncIterator[str]:
        try:
            for prompt in plain():
                yield prompt
        finally:
            await anyio.sleep(0.01)
            closed.append(True)

    async with client_of(imagen_sandbox) as client:
        try:
            async with client.batch(slow() if is_async else plain()) as results:
                async for _ in results:
                    assert leaves != "raise"
                    if leaves != "to the end":
                        break
        except AssertionError:
            pass
        assert closed
        (tmp_path / "x.txt").write_text("a fox\n")
        with (tmp_path / "x.txt").open() as file:
            await run(client, file)
            assert not file.closed


async def test_saving_has_a_time_for_all_of_it(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """A disk that hangs holds nobody; what is told is that it is paid for, and that saving is free to repeat."""
    held = threading.Event()
    with ThreadPoolExecutor(1) as executor:
        executor.submit(held.wait, PATIENCE)
        async with client_of(imagen_sandbox, executor=executor) as client:
            result = await client.generate("a fox")
            with pytest.raises(DownloadFailed, match=r"made and paid for.*0 of 1 pictures.*[Ss]ave it again") as raised:
                await result.save(tmp_path, deadline=0.1)
            assert raised.value.task_id == result.task_id
            held.set()
            assert len(await result.save(tmp_path)) == 1
    with pytest.raises(DownloadFailed, match="Nothing can be written"):
        await result.save("no\0name")


async def test_a_sandbox_that_ended_is_shown_and_not_saved(tmp_path: Path) -> None:
    """A notebook shows a picture of a client's own sandbox after both have ended; saving it says why it cannot be."""
    async with Client("sandbox") as client:
        result = await client.generate("a fox")
    assert 'src="data:image/' in (result._repr_html_() or "")
    with pytest.raises(DownloadFailed, match="has ended with the client") as raised:
        await result.save(tmp_path)
    assert raised.value.gone


async def test_a_client_may_be_left_in_another_task_than_it_was_entered_in(imagen_sandbox: Sandbox) -> None:
    """As fixtures, portals and cells of notebooks do; meanwhile it is entered by nobody else."""
    for client in (client_of(imagen_sandbox), Client("sandbox")):
        entering = [asyncio.create_task(client.__aenter__()) for _ in range(2)]
        (first, second) = await asyncio.gather(*entering, return_exceptions=True)
        assert (first, type(second)) == (client, ConfigurationError)
        assert (await client.generate("a fox")).ok
        await asyncio.create_task(client.__aexit__(None, None, None))
        assert not client.is_open


def test_a_generator_that_is_open_when_its_loop_ends_leaves_its_client(caplog: pytest.LogCaptureFixture) -> None:
    """Also where its client has a sandbox of its own: the loop closes it without a complaint."""
    client = Client("sandbox")

    async def pictures() -> AsyncIterator[object]:
        async with client, client.batch(["a fox"] * 9) as results:
            async for result in results:
                yield result

    generator = pictures()

    async def take_one() -> object:
        return await anext(generator)

    assert asyncio.run(take_one())
    assert (client.is_open, caplog.messages) == (False, [])


async def test_what_fails_beside_a_block_ends_it_and_comes_out_in_whichever_task_leaves() -> None:
    """The task that entered is cancelled, and only that; a cancellation from elsewhere stays one."""

    async def fails() -> None:
        raise OSError("lost")

    with pytest.raises(OSError, match="lost"):
        async with PlainGroup() as group:
            group.start_soon(fails)
            await asyncio.sleep(PATIENCE)
    group = PlainGroup()
    await asyncio.create_task(group.__aenter__())
    group.start_soon(fails)
    with pytest.raises(OSError, match="lost"):
        await asyncio.create_task(group.__aexit__(None, None, None))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01), PlainGroup() as group:
            group.start_soon(asyncio.sleep, PATIENCE)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


def test_a_client_without_a_loop_of_asyncio_says_so(imagen_sandbox: Sandbox) -> None:
    """As in a program of trio's, or one that drives coroutines by hand."""
    with pytest.raises(ConfigurationError, match="No event loop of asyncio runs here"):
        client_of(imagen_sandbox).__aenter__().send(None)


async def test_requests_that_a_left_client_did_not_send_are_told(imagen_sandbox: Sandbox) -> None:
    """Whoever still iterates gets what was made, and then the error: what was pulled and not sent is no result."""
    async with client_of(imagen_sandbox) as client:
        batch = await client.batch([f"fox {number}" for number in range(60)]).__aenter__()
        assert (await anext(batch)).ok
    with pytest.raises(ConfigurationError, match="had sent all of its requests"):
        assert [result async for result in batch]
    await batch.__aexit__(None, None, None)
