"""Batches on virtual time: any input, any order, bad items, leaving, account errors, saving, what a journal brings."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from clients import FAST, Heard, run, until_error
from dict_store import DictStore
from hypothesis import given, settings
from hypothesis import strategies as st
from virtual_network import VIRTUAL_TIME, Network, VirtualClient, batch_over, prompts, scheduler_over

from imagen_async import ImageFile, ImageRequest, Limits, Rate, Result, errors
from imagen_async._batch.feeder import BREATHE_EVERY
from imagen_async._batch.reorder_buffer import InOrder
from imagen_async.providers import PROVIDERS
from imagen_async.sandbox import Latency

__all__ = ["FAST", "run"]

KIE = PROVIDERS["kie"]
LONG = Latency(median=600, sigma=0)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """These tests run on virtual time."""
    return VIRTUAL_TIME


@pytest.fixture
def network() -> Network:
    """A provider with kie.ai's limits, 20 creates in 10 s, whose tasks take about 13 s."""
    return Network(KIE)


def limited(count: int, per: float, **settings: Any) -> Network:
    """A provider that takes so many creates in so many seconds."""
    return Network(KIE, limits=Limits(Rate(count, per=per), Rate(100, per=1), running=100), **settings)


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


@settings(max_examples=60)
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


async def slowly() -> AsyncIterator[str]:
    for index in range(5):
        await anyio.sleep(1)
        yield f"async {index}"


INPUTS: dict[str, tuple[Any, int]] = {
    "a list": (lambda: ["a", "b"], 2),
    "a generator": (lambda: (f"g {n}" for n in range(5)), 5),
    "an async generator": (slowly, 5),
    "nothing": (list, 0),
}


@pytest.mark.parametrize("kind", INPUTS)
async def test_any_iterable_is_an_input(network: Network, kind: str) -> None:
    """A list, a generator and an async generator give one result for each request."""
    requests, count = INPUTS[kind]
    results = await run(VirtualClient(network), requests())
    assert sorted((result.index, result.ok) for result in results) == [(n, True) for n in range(count)]


async def test_defaults_fill_in_what_a_request_leaves_open() -> None:
    """The batch's parameters are for prompts and for unset fields; a request's own win, and `extra` is mixed."""
    network = Network(PROVIDERS["liangxin"])
    terms: dict[str, Any] = {"model": "imagen4-fast", "aspect_ratio": "16:9", "seed": 1, "extra": {"language": "en"}}
    own = ImageRequest("own", aspect_ratio="1:1", extra={"language": "ko", "enhance_prompt": True})
    results = await run(VirtualClient(network), ["plain", own], ordered=True, **terms)
    assert [(result.request.aspect_ratio, result.request.seed, result.request.extra) for result in results] == [
        ("16:9", 1, {"language": "en"}),
        ("1:1", 1, {"language": "ko", "enhance_prompt": True}),
    ]
    assert {create.model for create in network.ledger.creates} == {"imagen4-fast"}


async def test_one_bad_request_is_one_bad_result(network: Network) -> None:
    """Wrong parameters, wrong types, failed generations and lost answers do not end the batch."""
    network.faults.order("create", None, "reset_after")
    network.faults.order("task", None, None, "fail_word")
    requests: list[Any] = ["a", "b", ImageRequest("c", aspect_ratio="7:1"), 42, "", "d", "e"]
    requests.append(ImageRequest("f", key=7))  # type: ignore[arg-type]
    heard = Heard()
    results = await run(VirtualClient(network, on_event=heard), requests, ordered=True)
    assert [event.index for event in heard.jobs("failed") if event.attempts == 0] == [2, 3, 4, 7]
    kinds = [type(result.error) for result in results]
    assert [kinds[2:5], kinds[7]] == [[errors.InvalidRequest] * 3, errors.InvalidRequest]
    assert Counter(kinds[:2] + kinds[5:7]) == {type(None): 2, errors.UnknownOutcome: 1, errors.GenerationFailed: 1}
    told = results[3]
    assert (told.request.prompt, told.key, told.index, told.provider, told.model) == ("42", "3", 3, "kie", "")
    assert len(network.ledger.creates) == 4


@pytest.mark.parametrize("journal", [False, True])
async def test_the_input_is_pulled_only_as_it_can_be_sent(journal: bool) -> None:
    """An endless input is not read ahead of what the account may send."""
    network, pulled = limited(5, 60), []

    def endless() -> Iterator[str]:
        while True:
            pulled.append(f"prompt {len(pulled)}")
            yield pulled[-1]

    async with VirtualClient(network) as client:
        async with client.batch(endless(), journal=DictStore({}) if journal else None) as results:  # type: ignore[arg-type]
            for _ in range(5):
                assert (await anext(results)).ok
    assert len(network.ledger.creates) == 5
    assert len(pulled) <= 5 + 5 + 1


async def test_a_slow_reader_holds_the_input_back() -> None:
    """While nobody takes results, no more is paid for than the window holds; each that is taken lets one more in."""
    network = limited(200, 1)
    async with scheduler_over(network) as scheduler:
        async with batch_over(scheduler, network, (f"p{n}" for n in range(1000)), window=20) as batch:
            for taken in (0, 3):
                for _ in range(taken):
                    await anext(batch)
                await anyio.sleep(2000)
                assert batch.progress.pulled == batch.progress.done == 20 + taken


async def test_requests_that_nobody_takes_let_others_run(network: Network) -> None:
    """Where each request ends at once, whatever else the program does has its turn after fifty of them."""
    refused = iter([""] * 500)
    async with VirtualClient(network) as client, client.batch(refused):
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        assert 500 - len(list(refused)) <= 2 * BREATHE_EVERY


async def test_an_input_that_fails_raises_after_what_was_sent(network: Network) -> None:
    """An exception of the user's own iterable comes out, after the results of what it gave and whatever fails then."""

    def breaking() -> Iterator[str]:
        yield from "abc"
        raise ZeroDivisionError

    network.faults.order("create", None, None, "401")
    async with VirtualClient(network) as client, client.batch(breaking()) as batch:
        results = await until_error(batch, ZeroDivisionError)
    assert [result.ok for result in results] == [True, True]
    assert network.ledger.refused["401"] == 1


async def test_an_input_that_is_cancelled_from_within(network: Network) -> None:
    """A CancelledError out of the caller's generator ends the batch with an InvalidRequest, after the results."""

    async def source() -> AsyncIterator[str]:
        yield "a"
        yield "b"
        given_up = asyncio.get_running_loop().create_future()
        given_up.cancel()
        await given_up

    async with VirtualClient(network) as client, client.batch(source()) as batch:
        results = await until_error(batch, errors.InvalidRequest, "cancelled")
    assert sorted(result.request.prompt for result in results if result.ok) == ["a", "b"]
    current = asyncio.current_task()
    assert current is not None
    assert current.cancelling() == 0


async def test_batches_take_turns() -> None:
    """A short batch is served beside an endless one of the same account, request by request."""
    network = limited(10, 10)

    def endless() -> Iterator[str]:
        while True:
            yield "long"

    async with VirtualClient(network) as client, client.batch(endless()) as long:
        assert (await anext(long)).ok
        assert len(await run(client, prompts(20, "short"))) == 20
    order = [create.prompt for create in network.ledger.creates]
    shorts = [place for place, prompt in enumerate(order) if prompt != "long"]
    assert shorts[-1] - shorts[0] < 50, "every other one or so is a short one"


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize(
    ("fault", "error"),
    [("401", errors.AuthenticationError), ("402", errors.InsufficientCredits), ("403_edge", errors.ImagenError)],
)
async def test_an_account_error_ends_the_batch_after_its_results(
    fault: str, error: type[errors.ImagenError], ordered: bool
) -> None:
    """Results so far come out, also those after one that was never sent; then the error, and no more was sent."""
    network = limited(3, 10)
    network.faults.order("create", None, fault)
    async with VirtualClient(network) as client, client.batch(prompts(100), ordered=ordered) as batch:
        results = await until_error(batch, error)
        assert batch.progress.pulled < 10
    assert [result.ok for result in results] == [True] * len(network.ledger.tasks)
    assert len(network.ledger.creates) <= 3


async def test_a_wrong_key_costs_one_refusal(network: Network) -> None:
    """The first create goes alone, so a wrong key meets the server once, whoever asks, then and later."""
    network.faults.keep("create", "401")
    async with VirtualClient(network) as client:
        both = await asyncio.gather(run(client, prompts(50)), run(client, ["b"]), return_exceptions=True)
        assert [type(outcome) for outcome in both] == [errors.AuthenticationError] * 2
        with pytest.raises(errors.AuthenticationError):
            await run(client, iter(prompts(3)))
    assert len(network.ledger.creates) == 1


async def test_leaving_before_anything_was_awaited_sends_nothing(network: Network) -> None:
    """A feeder that has not had its turn yet does not send after the block was left."""
    async with VirtualClient(network) as client:
        async with client.batch(prompts(50)) as results:
            pass
        await anyio.sleep(100)
    assert (results.leftover, network.ledger.creates, results.progress.pulled) == ((), [], 0)


async def test_what_is_stopped_still_brings_what_runs(network: Network) -> None:
    """After `stop` no create is sent and what runs comes out; one that was stopped before its time sends nothing."""
    heard = Heard()
    async with VirtualClient(network, on_event=heard) as client:
        async with client.batch(prompts(100)) as batch:
            await heard.job("running", 5)
            batch.stop()
            now = batch.progress
            assert (now.queued, now.projected, now.pulled < 50) == (0, now.reserved, True)
            results = [result async for result in batch]
            assert (batch.progress.pulled, batch.progress.eta) == (now.pulled, 0)
        assert [result async for result in batch] == [], "each result comes once"
        never = client.batch(prompts(5, "never"))
        never.stop()
        async with never:
            assert [result async for result in never] == []
    assert [result.ok for result in results] == [True] * len(network.ledger.creates)
    assert len(results) <= 20


@pytest.mark.parametrize("is_cancelled", [False, True])
@pytest.mark.parametrize("on_exit", ["detach", "drain"])
async def test_draining_waits_for_what_runs(network: Network, on_exit: str, is_cancelled: bool) -> None:
    """Left with `drain`, a batch ends when its tasks have; with `detach` at once. Neither sends any more."""
    heard = Heard()
    async with VirtualClient(network, on_event=heard) as client:
        with anyio.CancelScope() as scope:
            async with client.batch(prompts(100), on_exit=on_exit) as batch:
                await heard.job("running", 5)
                if is_cancelled:
                    scope.cancel()
                    await anyio.sleep_forever()
        assert [result async for result in batch] == [], "all of them are in `leftover`"
    assert {result.ok for result in batch.leftover} == {on_exit == "drain"}
    assert len(batch.leftover) == len(network.ledger.creates) <= 20


async def test_draining_is_cut_short_by_a_second_cancellation() -> None:
    """Cancelled while it waits for what runs, a batch is drained no more: its tasks are told with their ids."""
    heard = Heard()
    network = Network(KIE, latency=LONG)
    async with VirtualClient(network, on_event=heard) as client:
        with anyio.move_on_after(50):
            async with client.batch(prompts(3), on_exit="drain", deadline=1000) as batch:
                await heard.job("running", 3)
                batch.stop()
                async for _ in batch:
                    pass
        assert asyncio.get_running_loop().time() < 60
    assert {type(result.error) for result in batch.leftover} == {errors.DeadlineExceeded}


# anyio never begins what is cancelled before its first step, and Python says so.
@pytest.mark.filterwarnings("ignore:coroutine")
async def test_draining_ends_when_the_program_has_cancelled_everything(network: Network) -> None:
    """A program that cancels every task of its loop, as some do at their end, is not kept from leaving by a drain."""
    before = asyncio.all_tasks()
    async with VirtualClient(network) as client:
        async with client.batch(["a", "b", "c"], on_exit="drain") as results:
            first = await anext(results)
            for task in asyncio.all_tasks() - before:
                task.cancel()
    known = {first.task_id, *(left.task_id for left in results.leftover)}
    assert known >= {task.task_id for task in network.ledger.tasks}
    gc.collect()


async def test_a_second_cancellation_while_leaving_loses_nothing() -> None:
    """Cancelled twice, a batch still tells which creates were on the way."""
    network, batches = Network(KIE, round_trip=1000.0), []

    async def work(client: VirtualClient) -> None:
        async with client.batch(prompts(10)) as batch:
            batches.append(batch)
            async for _ in batch:
                pass

    async with VirtualClient(network) as client:
        task = asyncio.create_task(work(client))
        for _ in range(2):
            await anyio.sleep(0.5)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [type(result.error) for result in batches[0].leftover] == [errors.UnknownOutcome]


async def test_a_client_that_is_left_says_so_to_its_batches() -> None:
    """A batch in another task gets its running tasks as results, then an error where its input has more."""
    network, heard = limited(4, 1e4, latency=LONG), Heard()
    async with VirtualClient(network, on_event=heard) as client:
        whole = asyncio.create_task(run(client, ["a", "b"]))
        await heard.job("running", 2)
        rest = client.batch(prompts(1000))

        async def read() -> list[Result]:
            async with rest as batch:
                return await until_error(batch, errors.ConfigurationError, "client was left")

        reading = asyncio.create_task(read())
        await heard.job("running", 4)
    assert [type(result.error) for result in await whole] == [errors.DeadlineExceeded] * 2
    assert [type(result.error) for result in await reading] == [errors.DeadlineExceeded] * 2
    assert len(network.ledger.creates) == 4


async def test_a_batch_is_entered_once_and_before_it_is_read(network: Network) -> None:
    """Entering a batch again would pay again for its requests, and is refused; so is one of a client that was left."""
    async with VirtualClient(network) as client:
        batch = client.batch(["a"])
        with pytest.raises(errors.ConfigurationError, match="Enter the batch first"):
            await anext(batch)
        async with batch:
            assert (await anext(batch)).ok
        with pytest.raises(errors.ConfigurationError, match="entered once"):
            await batch.__aenter__()
        late = client.batch(["b"])
    with pytest.raises(errors.ConfigurationError, match="The client was left"):
        await late.__aenter__()
    assert len(network.ledger.creates) == 1


async def test_a_batch_whose_journal_cannot_be_opened_leaves_nothing(network: Network) -> None:
    """Where the journal is in use the batch is not begun, and over: nothing is sent, and nobody keeps a word of it."""
    store = DictStore({})
    async with VirtualClient(network) as client, client.batch(prompts(1), journal=store):
        late = client.batch(prompts(5), journal=store)
        with pytest.raises(errors.JournalError, match="in use"):
            await late.__aenter__()
        assert len(client.scheduler._stream.owners) == 1
        assert "ETA" not in late._repr_html_(), "of what is over no end is foretold"
        elapsed = late.progress.elapsed
        await anyio.sleep(50)
        assert late.progress.elapsed == elapsed
    assert len(network.ledger.creates) == 1


async def test_a_disk_that_fails_ends_the_batch(tmp_path: Path) -> None:
    """After the first picture that cannot be written no create goes out, those in line included; URLs are kept."""
    network = limited(3, 20)

    async def full(result: Result, folder: str) -> tuple[ImageFile, ...]:
        raise errors.DownloadFailed("No space left. Free the disk.", local=True)

    async with VirtualClient(network, save=full) as client, client.batch(prompts(100), save_to=tmp_path) as batch:
        first = await anext(batch)
        sent = len(network.ledger.creates)
        rest = await until_error(batch, errors.DownloadFailed, "Free the disk")
    assert {(type(result.error), bool(result.urls)) for result in (first, *rest)} == {(errors.DownloadFailed, True)}
    assert len(network.ledger.creates) == sent < 7


async def test_a_picture_that_cannot_be_fetched_is_one_bad_result(network: Network, tmp_path: Path) -> None:
    """Where not this machine is the reason the batch goes on; a bug of ours while saving costs one result, too."""

    async def broken(result: Result, folder: str) -> tuple[ImageFile, ...]:
        if result.index < 2:
            raise (errors.DownloadFailed("blocked"), ZeroDivisionError("a bug"))[result.index]
        return ()

    results = await run(VirtualClient(network, save=broken), prompts(5), save_to=tmp_path, ordered=True)
    assert [result.ok for result in results] == [False, False, True, True, True]


async def test_progress_adds_up(network: Network) -> None:
    """A snapshot counts every request once, and the time left falls from what the record says to nothing."""
    async with VirtualClient(network) as client, client.batch(prompts(60)) as batch:
        assert (repr(batch).startswith("<Batch: "), "ETA" in batch._repr_html_()) == (True, True)
        first = batch.progress
        async for _ in batch:
            now = batch.progress
            live = now.queued + now.submitting + now.held + now.running + now.saving
            assert now.pulled == live + now.done + now.failed
            assert now.eta is not None
        last = batch.progress
    assert first.eta is not None
    assert first.eta > 20
    assert (last.total, last.pulled, last.done, last.failed, last.credits, last.eta) == (60, 60, 60, 0, 480, 0)
    await anyio.sleep(100)
    assert batch.progress.elapsed == pytest.approx(last.elapsed, abs=2), "once it was left, time stands still"
