"""Batches against the real sandbox server: any input, any order, bad items, leaving, account errors, saving."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from servers import served
from test_client import client_of

from imagen_async import (
    AuthenticationError,
    Client,
    ConfigurationError,
    DeadlineExceeded,
    DownloadFailed,
    GenerationFailed,
    ImageRequest,
    InsufficientCredits,
    InvalidRequest,
    Limits,
    ModelUnavailable,
    Rate,
    Result,
    UnknownOutcome,
)
from imagen_async._batch.reorder_buffer import AsTheyFinish, InOrder
from imagen_async.sandbox import Faults, Latency, Sandbox
from imagen_async.testing import running_sandbox

SERIES = st.lists(st.booleans(), max_size=12).flatmap(
    lambda comes: st.tuples(
        st.just(comes),
        st.permutations(range(len(comes))),
        st.lists(st.integers(0, len(comes)), min_size=len(comes), max_size=len(comes)),
    )
)
"""Which of some tickets come to have a result, in which order they end, and how many are expected by then."""


def result_number(ticket: int) -> Result:
    """A result that is told by its index."""
    return Result(str(ticket), ticket, ImageRequest("x"), "kie", "imagen4")


@given(series=SERIES, is_cut_off=st.booleans())
def test_results_in_order_are_held_back_only_by_those_that_may_come(
    series: tuple[list[bool], list[int], list[int]], is_cut_off: bool
) -> None:
    """At any time those before the first that has not ended are out; skipped ones hold nothing back and never come."""
    comes, order, expected = series
    delivery, known, ended = InOrder(), 0, set[int]()
    for ticket, ahead in zip(order, expected, strict=True):
        for new in range(known, ahead):
            delivery.expect(new)
        known = max(known, ahead)
        if comes[ticket]:
            delivery.put(result_number(ticket), ticket)
        else:
            delivery.skip(ticket)
        ended.add(ticket)
        first = next(each for each in range(len(comes) + 1) if each not in ended or each >= known)
        assert [result.index for result in delivery.ready] == [each for each in range(first) if comes[each]]
        if is_cut_off and len(ended) > len(comes) // 2:
            break
    delivery.release()
    handed_out = [result.index for result in delivery.ready]
    assert sorted(handed_out) == [each for each in sorted(ended) if comes[each]]
    in_input = [each for each in handed_out if each < known]
    assert in_input == sorted(in_input)
    assert handed_out[: len(in_input)] == in_input, "those that the input did not have come last"
    delivery.release()
    assert len(delivery.ready) == len(handed_out)


def test_results_as_they_finish_are_not_held_back() -> None:
    """Without an order nothing waits for anything, and a result that will not come is no matter."""
    delivery = AsTheyFinish()
    delivery.expect(0)
    delivery.skip(0)
    for ticket in (2, 1):
        delivery.put(result_number(ticket), ticket)
    delivery.release()
    assert [result.index for result in delivery.ready] == [2, 1]


FAST = Limits(Rate(200, per=0.5), Rate(500, per=0.5), running=300)


async def run(client: Client, requests: Any, **settings: Any) -> list[Result]:
    """All results of a batch, in the order in which they came."""
    async with client.batch(requests, **settings) as results:
        return [result async for result in results]


async def test_any_iterable_of_strings_and_requests(imagen_sandbox: Sandbox) -> None:
    """A list, a generator, an async generator and a mixture all give one result for each request."""

    async def slowly() -> AsyncIterator[str]:
        for index in range(5):
            await anyio.sleep(0.01)
            yield f"async {index}"

    mixture: list[str | ImageRequest] = ["plain", ImageRequest("own", model="imagen4-fast", num_images=2, key="k")]
    async with client_of(imagen_sandbox) as client:
        for requests, count in (
            (["a", "b"], 2),
            ((f"g {n}" for n in range(5)), 5),
            (slowly(), 5),
            (mixture, 2),
            ([], 0),
        ):
            results = await run(client, requests, seed=1)
            assert sorted(result.index for result in results) == list(range(count))
            assert all(result.ok for result in results)
    own = next(create for create in imagen_sandbox.ledger.creates if create.prompt == "own")
    assert (own.model, own.input["num_images"], own.input["seed"]) == ("google/imagen4-fast", "2", 1)


async def test_defaults_fill_in_what_a_request_leaves_open(imagen_sandbox: Sandbox) -> None:
    """The batch's parameters are for prompts and for unset fields; a request's own win."""
    requests = ["plain", ImageRequest("own", aspect_ratio="3:4")]
    async with client_of(imagen_sandbox) as client:
        results = await run(client, requests, aspect_ratio="16:9", model="imagen4-fast")
    assert {result.request.prompt: result.request.aspect_ratio for result in results} == {"plain": "16:9", "own": "3:4"}
    assert {result.model for result in results} == {"imagen4-fast"}


async def test_results_in_the_order_of_the_input() -> None:
    """With ordered=True results come in the order of the input, whatever the order of finishing."""
    with running_sandbox(Sandbox(latency=Latency(median=0.3, sigma=0.8), limits=FAST, seed=3)) as sandbox:
        async with client_of(sandbox, limits=FAST) as client:
            as_they_finish = await run(client, [f"p{n}" for n in range(40)])
            in_order = await run(client, [f"q{n}" for n in range(40)], ordered=True)
    assert [result.index for result in in_order] == list(range(40))
    assert [result.index for result in as_they_finish] != list(range(40))


async def test_one_bad_request_is_one_bad_result(imagen_sandbox: Sandbox) -> None:
    """Wrong parameters, wrong types, failed generations and lost answers do not end the batch."""
    imagen_sandbox.order("create", None, "reset_after")
    imagen_sandbox.order("task", None, None, "fail_word")
    requests: list[Any] = ["a", "b", ImageRequest("c", aspect_ratio="7:1"), 42, "", "d", "e", "f"]
    async with client_of(imagen_sandbox) as client:
        results = await run(client, requests, ordered=True)
    assert [type(result.error) for result in results].count(type(None)) == 3
    assert {type(result.error) for result in results} == {
        type(None),
        InvalidRequest,
        UnknownOutcome,
        GenerationFailed,
    }
    assert [results[index].ok for index in (2, 3, 4)] == [False] * 3
    assert "42" in results[3].request.prompt
    assert len(imagen_sandbox.ledger.creates) == 5


async def test_the_input_is_pulled_only_as_it_can_be_sent(imagen_sandbox: Sandbox) -> None:
    """An endless input is not read ahead of what the account may send."""
    pulled = 0

    def endless() -> Iterator[str]:
        nonlocal pulled
        while True:
            pulled += 1
            yield f"prompt {pulled}"

    limits = Limits(Rate(5, per=60), Rate(100, per=1), running=5)
    async with client_of(imagen_sandbox, limits=limits) as client:
        async with client.batch(endless()) as results:
            for _ in range(5):
                assert (await anext(results)).ok
        sent = len(imagen_sandbox.ledger.creates)
    assert sent == 5
    assert pulled <= 5 + 5 + 1


async def test_a_slow_reader_holds_the_input_back(imagen_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """While nobody takes results, no more is paid for than the window holds."""
    monkeypatch.setattr("imagen_async._client.AHEAD", 10)
    limits = Limits(Rate(200, per=0.5), Rate(500, per=0.5), running=10)
    async with client_of(imagen_sandbox, limits=limits) as client:
        async with client.batch(f"p{n}" for n in range(1000)) as results:
            await anext(results)
            with anyio.move_on_after(1.0):
                await anyio.sleep_forever()
            # 10 that may run, 10 ahead, and the one that was taken.
            assert results.progress.pulled <= 21
            assert results.progress.done == results.progress.pulled


async def test_leaving_the_block_stops_sending() -> None:
    """After `break` no create is sent; tasks that run are in `leftover` with their ids."""
    with running_sandbox(Sandbox(latency=Latency(median=0.4, sigma=1.0), limits=FAST)) as sandbox:
        limits = Limits(Rate(20, per=0.3), Rate(500, per=0.5), running=300)
        async with client_of(sandbox, limits=limits) as client:
            async with client.batch(f"p{n}" for n in range(10_000)) as results:
                async for _ in results:
                    break
            sent = len(sandbox.ledger.creates)
            await anyio.sleep(0.7)
            assert len(sandbox.ledger.creates) == sent
            seen = {result.task_id for result in results.leftover}
            assert len(seen) == sent - 1
            running = [result for result in results.leftover if not result.ok]
            assert running
            assert all(isinstance(result.error, DeadlineExceeded) and result.task_id for result in running)
            assert (await client.collect(str(running[0].task_id))).ok


@pytest.mark.parametrize(
    ("fault", "error"), [("401", AuthenticationError), ("402", InsufficientCredits), ("403_edge", Exception)]
)
async def test_an_account_error_ends_the_batch_after_its_results(
    imagen_sandbox: Sandbox, fault: str, error: type[Exception]
) -> None:
    """Results so far come out; then the batch raises the account's error and has sent nothing more."""
    imagen_sandbox.order("create", None, None, None, fault)
    limits = Limits(Rate(3, per=0.3), Rate(100, per=1), running=100)
    got: list[Result] = []
    async with client_of(imagen_sandbox, limits=limits) as client:
        with pytest.raises(error):
            async with client.batch(f"p{n}" for n in range(100)) as results:
                async for result in results:
                    got.append(result)
    assert sum(result.ok for result in got) == len(imagen_sandbox.ledger.tasks)
    assert len(imagen_sandbox.ledger.creates) <= 6


async def test_a_wrong_key_costs_one_refusal() -> None:
    """The first create goes alone, so a wrong key meets the server once."""
    with running_sandbox(Sandbox(key="the-right-key")) as sandbox:
        async with Client("sandbox", api_key="a-wrong-key", base_url=sandbox.url) as client:
            with pytest.raises(AuthenticationError):
                await run(client, [f"p{n}" for n in range(50)])
    assert len(sandbox.ledger.creates) == 1


async def test_a_model_that_is_gone_fails_its_own_items(imagen_sandbox: Sandbox) -> None:
    """Items of an unknown model fail, those of the others are made; the model is asked for once."""
    requests = [ImageRequest(f"p{n}", model="imagen4" if n % 2 else "raw:gone/model") for n in range(10)]
    async with client_of(imagen_sandbox) as client:
        results = await run(client, requests, ordered=True)
    assert [result.ok for result in results] == [bool(n % 2) for n in range(10)]
    assert {type(result.error) for result in results} == {type(None), ModelUnavailable}
    assert imagen_sandbox.ledger.refused["invalid"] <= 5


async def test_an_input_that_fails_raises_after_what_was_sent(imagen_sandbox: Sandbox) -> None:
    """An exception of the user's own iterable comes out, after the results of what it gave."""

    def breaking() -> Iterator[str]:
        yield "a"
        yield "b"
        raise ZeroDivisionError

    got = []
    async with client_of(imagen_sandbox) as client, client.batch(breaking()) as results:
        with pytest.raises(ZeroDivisionError):
            async for result in results:
                got.append(result)
    assert [result.ok for result in got] == [True, True]


async def test_of_an_input_and_an_account_that_fail_the_first_comes_out(imagen_sandbox: Sandbox) -> None:
    """What the user's own iterable has raised is not hidden by an account that stops after it."""

    def breaking() -> Iterator[str]:
        yield from "abc"
        raise ZeroDivisionError

    imagen_sandbox.order("create", None, None, "401")
    limits = Limits(Rate(1, per=0.3), Rate(100, per=1), running=100)
    async with client_of(imagen_sandbox, limits=limits) as client, client.batch(breaking()) as results:
        with pytest.raises(ZeroDivisionError):
            async for _ in results:
                pass
    assert imagen_sandbox.ledger.refused


async def test_inputs_that_are_none_are_refused(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """A lone string, doubled keys, wrong defaults and a bad folder are told before anything is sent."""
    (tmp_path / "file").touch()
    cases: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
        ("a prompt", {}, InvalidRequest, "put it in a list"),
        (7, {}, InvalidRequest, "not int"),
        (["a"], {"model": "imagen5"}, InvalidRequest, "imagen5"),
        (["a"], {"key": "k"}, InvalidRequest, "key"),
        (["a"], {"retries": -1}, InvalidRequest, "retries=-1"),
        (["a"], {"save_to": tmp_path / "file" / "x"}, ConfigurationError, "choose another folder"),
        ([ImageRequest("a", key="k"), ImageRequest("b", key="k")], {}, InvalidRequest, "same key 'k'"),
    ]
    async with client_of(imagen_sandbox) as client:
        for requests, settings, error, expected in cases:
            with pytest.raises(error, match=expected):
                await run(client, requests, **settings)
        with pytest.raises(ConfigurationError, match="Enter the batch first"):
            async for _ in client.batch(["a"]):
                pass
    assert imagen_sandbox.ledger.creates == []


async def test_save_to_fetches_every_picture(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """Results come with their files; file faults on the way are tried again, and no key goes to the file host."""
    imagen_sandbox.order("file", "reset", "html", "http_503", "truncated")
    async with client_of(imagen_sandbox, limits=FAST) as client:
        results = await run(client, [f"p{n}" for n in range(30)], save_to=tmp_path, model="imagen4-fast", num_images=2)
    assert all(result.ok and len(result.files) == 2 for result in results)
    assert len(list(tmp_path.glob("*.png"))) == 60
    assert list(tmp_path.glob(".*")) == []
    assert imagen_sandbox.ledger.key_leaks == 0


async def test_a_folder_that_breaks_ends_the_batch(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """When the disk or folder fails, no more pictures are paid for, and what was made keeps its URLs."""
    folder = tmp_path / "out"
    limits = Limits(Rate(3, per=0.5), Rate(100, per=1), running=100)
    got: list[Result] = []
    async with client_of(imagen_sandbox, limits=limits) as client:
        with pytest.raises(DownloadFailed, match="Free the disk"):
            async with client.batch((f"p{n}" for n in range(100)), save_to=folder) as results:
                folder.rmdir()
                folder.write_text("not a folder any more")
                async for result in results:
                    got.append(result)
    assert got
    assert all(result.urls and isinstance(result.error, DownloadFailed) for result in got)
    assert len(imagen_sandbox.ledger.creates) < 100


async def test_progress_adds_up(imagen_sandbox: Sandbox) -> None:
    """A snapshot counts every request once, with credits, rate and an ETA where the input has a length."""
    async with client_of(imagen_sandbox) as client, client.batch([f"p{n}" for n in range(60)]) as results:
        async for _ in results:
            now = results.progress
            assert now.pulled == now.queued + now.submitting + now.running + now.saving + now.done + now.failed
            assert now.eta is not None
            assert now.eta >= 0
        last = results.progress
    assert (last.total, last.done, last.failed, last.credits) == (60, 60, 0, 480)


async def test_two_batches_and_single_pictures_share_an_account(imagen_sandbox: Sandbox) -> None:
    """Batches and single calls at once are all served."""
    async with client_of(imagen_sandbox, limits=FAST) as client:
        first, second, single = await asyncio.gather(
            run(client, [f"a{n}" for n in range(40)]), run(client, [f"b{n}" for n in range(40)]), client.generate("c")
        )
    assert (len(first), len(second), single.ok) == (40, 40, True)


async def test_a_closed_client_ends_its_batches(imagen_sandbox: Sandbox) -> None:
    """A reader in another task is not left waiting when the client is left."""
    with running_sandbox(Sandbox(latency=Latency(median=60))) as slow:
        async with client_of(slow) as client:
            reading = asyncio.ensure_future(run(client, ["a", "b"]))
            while len(slow.ledger.tasks) < 2:
                await anyio.sleep(0.01)
        results = await asyncio.wait_for(reading, 5)
    assert [type(result.error) for result in results] == [DeadlineExceeded] * 2


@pytest.mark.slow
async def test_chaos_on_every_road(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With a tenth of all requests going wrong, each prompt has one result and at most one task."""
    faults = Faults(0.1, seed=11)
    with running_sandbox(Sandbox(latency=Latency(median=0.05), limits=FAST, faults=faults)) as sandbox:
        async with client_of(sandbox, limits=FAST, timeout=3) as client:
            with caplog.at_level(logging.ERROR, "imagen_async"):
                results = await run(client, [f"p{n}" for n in range(250)], save_to=tmp_path)
    assert sorted(result.index for result in results) == list(range(250))
    assert max(sandbox.ledger.tasks_by_prompt().values()) == 1
    saved = {result.task_id for result in results if result.ok}
    assert len(saved) > 180
    for result in results:
        assert result.ok or result.error is not None
        assert bool(result.files) == result.ok
    # A task that exists and whose id came through is a picture, or a failure that the server knows of.
    failed = {create.task_id for create in sandbox.ledger.tasks} - saved
    named = {result.task_id for result in results if result.task_id} - saved
    lost = [result for result in results if isinstance(result.error, UnknownOutcome)]
    assert len(failed - named) <= len(lost)
    assert caplog.text == ""


async def test_in_order_an_account_error_still_lets_later_results_out(imagen_sandbox: Sandbox) -> None:
    """With ordered=True, results after a request that was never sent come out before the account's error is raised."""
    imagen_sandbox.order("create", None, "402")
    got: list[Result] = []
    async with client_of(imagen_sandbox, limits=Limits(Rate(5, per=0.5), Rate(100, per=1), 100)) as client:
        with pytest.raises(InsufficientCredits):
            async with client.batch((f"p{n}" for n in range(20)), ordered=True) as results:
                async for result in results:
                    got.append(result)
    assert len(got) == len(imagen_sandbox.ledger.tasks) >= 2
    assert [result.index for result in got] == sorted(result.index for result in got)


async def test_leaving_before_anything_was_awaited_sends_nothing(imagen_sandbox: Sandbox) -> None:
    """A feeder that has not had its turn yet does not send after the block was left."""
    async with client_of(imagen_sandbox) as client:
        async with client.batch([f"p{n}" for n in range(50)]) as results:
            pass
        await anyio.sleep(0.3)
    assert len(imagen_sandbox.ledger.creates) <= 1
    assert len(results.leftover) == len(imagen_sandbox.ledger.tasks)


async def test_a_batch_is_entered_once(imagen_sandbox: Sandbox) -> None:
    """Entering a batch again would pay again for its requests, and is refused."""
    async with client_of(imagen_sandbox) as client:
        batch = client.batch(["a"])
        async with batch:
            assert (await anext(batch)).ok
        with pytest.raises(ConfigurationError, match="entered once"):
            await batch.__aenter__()
        late = client.batch(["b"])
    with pytest.raises(ConfigurationError, match="The client was left"):
        await late.__aenter__()
    assert len(imagen_sandbox.ledger.creates) == 1


async def test_a_stopped_account_ends_every_batch(imagen_sandbox: Sandbox) -> None:
    """A batch that begins after the account stopped, or runs beside it, ends with the account's error too."""
    imagen_sandbox.order("create", "402")
    async with client_of(imagen_sandbox) as client:
        wording = await asyncio.gather(run(client, ["a"]), run(client, ["b"]), return_exceptions=True)
        assert [type(outcome) for outcome in wording] == [InsufficientCredits] * 2
        with pytest.raises(InsufficientCredits):
            await asyncio.wait_for(run(client, (f"p{n}" for n in range(3))), 5)
    assert len(imagen_sandbox.ledger.creates) == 1


async def test_a_client_that_is_left_says_so_to_a_running_batch() -> None:
    """A batch in another task gets its running tasks as results, then an error for the rest of its input."""
    with running_sandbox(Sandbox(latency=Latency(median=60))) as slow:
        async with client_of(slow, limits=Limits(Rate(2, per=60), Rate(50, per=1), 10)) as client:
            reading = asyncio.ensure_future(run(client, (f"p{n}" for n in range(1000))))
            while len(slow.ledger.tasks) < 2:
                await anyio.sleep(0.01)
        with pytest.raises(ConfigurationError, match="client was left"):
            await asyncio.wait_for(reading, 5)
    assert len(slow.ledger.creates) == 2


# anyio never begins what is cancelled before its first step, and Python says so.
@pytest.mark.filterwarnings("ignore:coroutine")
async def test_draining_ends_when_the_program_has_cancelled_everything(imagen_sandbox: Sandbox) -> None:
    """A program that cancels every task of its loop, as some do at their end, is not kept from leaving by a drain."""
    before = asyncio.all_tasks()
    with anyio.fail_after(5):
        async with client_of(imagen_sandbox) as client:
            async with client.batch(["a", "b", "c"], on_exit="drain") as results:
                first = await anext(results)
                for task in asyncio.all_tasks() - before:
                    task.cancel()
    assert {first.task_id, *(left.task_id for left in results.leftover)} >= {
        task.task_id for task in imagen_sandbox.ledger.tasks
    }
    gc.collect()


async def test_the_time_left_is_told_before_the_first_task() -> None:
    """Before anything was sent, the time left is what the provider's record says, and never less than that of one."""
    with running_sandbox(Sandbox()) as sandbox:
        async with client_of(sandbox) as client, client.batch(["a", "b", "c"]) as results:
            first = results.progress.eta
            assert first is not None
            assert 1.0 <= first <= 3.0
            async for _ in results:
                assert results.progress.eta is not None
            assert results.progress.eta == 0


async def test_a_second_cancellation_while_leaving_loses_nothing(imagen_sandbox: Sandbox) -> None:
    """Cancelled twice, a batch still tells which creates were on the way."""
    started = asyncio.Event()

    async def handler(request: web.Request) -> web.Response:
        started.set()
        await asyncio.Event().wait()
        return web.Response()

    batches = []

    async def work(client: Client) -> None:
        async with client.batch(f"p{n}" for n in range(10)) as results:
            batches.append(results)
            async for _ in results:
                pass

    async with served(handler) as url, Client("sandbox", api_key="k" * 9, base_url=url) as client:
        task = asyncio.ensure_future(work(client))
        await started.wait()
        for _ in range(2):
            task.cancel()
            await anyio.sleep(0.05)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [type(result.error) for result in batches[0].leftover] == [UnknownOutcome]


async def test_a_disk_that_fails_stops_what_waits_to_be_sent(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """After the first picture that cannot be written, no other create goes out, those in line included."""
    folder = tmp_path / "out"
    limits = Limits(Rate(2, per=1.0), Rate(100, per=1), running=100)
    async with client_of(imagen_sandbox, limits=limits) as client:
        async with client.batch([f"p{n}" for n in range(50)], save_to=folder) as results:
            folder.rmdir()
            folder.write_text("not a folder any more")
            assert not (await anext(results)).ok
            sent = len(imagen_sandbox.ledger.creates)
            with pytest.raises(DownloadFailed):
                async for _ in results:
                    pass
    assert len(imagen_sandbox.ledger.creates) == sent


async def test_opening_a_client_again_keeps_the_limit() -> None:
    """What an earlier opening of the same client sent still counts: the server's window holds no more than it may."""
    limits = Limits(Rate(5, per=1.0), Rate(100, per=1), running=50)
    with running_sandbox(Sandbox(latency=Latency(median=0.02, minimum=0.01), limits=limits)) as sandbox:
        client = client_of(sandbox, limits=limits)
        for _ in range(3):
            async with client:
                assert all(result.ok for result in await run(client, ["a", "b", "c"]))
    assert sandbox.ledger.refused == {}


async def test_batches_take_turns(imagen_sandbox: Sandbox) -> None:
    """A short batch is served beside an endless one of the same account, request by request."""
    limits = Limits(Rate(10, per=0.3), Rate(200, per=0.5), running=50)

    def endless() -> Iterator[str]:
        while True:
            yield "long"

    async with client_of(imagen_sandbox, limits=limits) as client, client.batch(endless()) as long:
        assert (await anext(long)).ok
        results = await asyncio.wait_for(run(client, [f"short {n}" for n in range(20)]), 20)
    assert len(results) == 20
    prompts = [create.prompt for create in imagen_sandbox.ledger.creates]
    first = prompts.index("short 0")
    assert prompts[first:].count("long") < 100
