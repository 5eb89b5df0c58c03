"""Batches on virtual time: any input, any order, bad items, leaving, account errors, saving, what a journal brings."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from clients import Heard, run, until_error
from dict_store import DictStore
from hypothesis import given, settings
from hypothesis import strategies as st
from inner import BREATHE_EVERY, LONGEST_TURN, now, stable_key
from journals import Disk, Held, place
from virtual_network import (
    PUBLIC_URL,
    Network,
    VirtualClient,
    anyio_backend,
    batch_over,
    prompts,
    scheduler_over,
)

from imagen_async import Callback, ImageRequest, Limits, Rate, Result, errors
from imagen_async._batch.inputs import LookedUp
from imagen_async._batch.reorder_buffer import InOrder
from imagen_async.providers import PROVIDERS
from imagen_async.sandbox import Latency
from tests.world.windows import busiest_window

__all__ = ["anyio_backend", "place"]

KIE = PROVIDERS["kie"]
LONG = Latency(median=600, sigma=0)


@pytest.fixture
def network() -> Network:
    """A provider with kie.ai's limits, 20 creates in 10 s, whose tasks take about 13 s."""
    return Network(KIE)


def limited(count: int, per: float, **settings: Any) -> Network:
    """A provider that takes so many creates in so many seconds."""
    return Network(KIE, limits=Limits(Rate(count, per=per), Rate(100, per=1), running=100), **settings)


def kinds(results: Any) -> list[type]:
    """Of what kind the results' errors are."""
    return [type(result.error) for result in results]


TICKET = st.tuples(st.booleans(), st.integers(0, 99), st.integers(0, 12))
"""Whether it comes to have a result, when it ends, and how many tickets are expected by then."""


@settings(max_examples=60)
@given(tickets=st.lists(TICKET, max_size=12), is_cut_off=st.booleans())
def test_results_in_order_are_held_back_only_by_those_that_may_come(
    tickets: list[tuple[bool, int, int]], is_cut_off: bool
) -> None:
    """At any time those before the first that has not ended are out; skipped ones hold nothing back and never come."""
    comes = [has_result for has_result, _, _ in tickets]
    delivery, known, ended = InOrder(), 0, set[int]()
    for ticket, (_, _, ahead) in sorted(enumerate(tickets), key=lambda each: each[1][1]):
        for new in range(known, min(ahead, len(tickets))):
            delivery.expect(new)
            known += 1
        if comes[ticket]:
            delivery.put(Result(str(ticket), ticket, ImageRequest("x"), "kie", "imagen4"), ticket)
        else:
            delivery.skip(ticket)
        ended.add(ticket)
        first = next(each for each in range(len(comes) + 1) if each not in ended or each >= known)
        assert [result.index for result in delivery.ready] == [each for each in range(first) if comes[each]]
        if is_cut_off and len(ended) > len(comes) // 2:
            break
    for _ in range(2):
        delivery.release()
        handed_out = [result.index for result in delivery.ready]
        assert sorted(handed_out) == [each for each in sorted(ended) if comes[each]]
        in_input = sorted(each for each in handed_out if each < known)
        assert handed_out[: len(in_input)] == in_input, "those that the input did not have come last"


async def slowly(pause: float = 1) -> AsyncIterator[str]:
    for index in range(5):
        yield f"async {index}"
        await anyio.sleep(pause)


class Bar:
    """As a progress bar around a generator is: it has a length, and then has none."""

    def __iter__(self) -> Iterator[str]:
        return iter("ab")

    def __len__(self) -> int:
        raise TypeError


async def test_any_iterable_is_an_input(network: Network) -> None:
    """A list, a generator and an async generator give one result for each request, by the batch's parameters."""
    async with VirtualClient(network) as client:
        for requests, count in ((["a", "b"], 2), (iter("abc"), 3), (slowly(), 5), ([], 0), (Bar(), 2)):
            results = await run(client, requests, aspect_ratio="16:9")
            told = sorted((result.index, result.ok, result.request.aspect_ratio) for result in results)
            assert told == [(number, True, "16:9") for number in range(count)]


async def test_what_was_looked_up_and_stands_is_counted_and_comes_out_no_more() -> None:
    """The others come, by the keys that their finder knows, at their places in the input; no more is expected."""
    network, requests, store = limited(1, 60), [ImageRequest(prompt) for prompt in "abcdef"], DictStore({})
    async with VirtualClient(network) as client:
        await run(client, [requests[0], requests[3], requests[5]], journal=store)
        looked_up = LookedUp(requests, [1, 0, 0, 1, 0, 1], {4: "mine"})
        async with client.batch(looked_up, journal=store) as results:
            told = [(each.index, each.key, results.progress.projected) async for each in results]
    keys = [*(stable_key(ImageRequest(prompt, "imagen4")) for prompt in "bc"), "mine"]
    assert told == [(place, key, 24.0) for place, key in zip((1, 2, 4), keys, strict=True)]
    assert (results.progress.done, results.progress.earlier, len(network.ledger.creates)) == (6, 3, 6)


async def test_one_bad_request_is_one_bad_result() -> None:
    """Wrong parameters or types, failed tasks and downloads, lost answers and bugs of ours do not end the batch."""
    network = limited(1, 2)
    network.faults.order("create", None, "reset_after")
    network.faults.order("task", None, None, "fail_word")
    requests: list[Any] = ["a", "b", ImageRequest("c", aspect_ratio="7:1"), 42, "", "d", "blocked", "a bug"]
    requests.append(ImageRequest("f", key=7))  # type: ignore[arg-type]

    async def save(result: Result, folder: str) -> Any:
        failures = {"blocked": errors.DownloadFailed("blocked"), "a bug": ZeroDivisionError()}
        if result.request.prompt in failures:
            raise failures[result.request.prompt]
        return ()

    heard = Heard()
    results = await run(VirtualClient(network, on_event=heard, save=save), requests, ordered=True, save_to=".")
    bad, named = errors.InvalidRequest, [errors.GenerationFailed, errors.DownloadFailed, errors.ProtocolError]
    assert kinds(results) == [type(None), errors.UnknownOutcome, bad, bad, bad, *named, bad]
    assert [event.index for event in heard.jobs("failed") if event.attempts == 0] == [2, 3, 4, 8]
    told = results[3]
    assert (told.request.prompt, told.key, told.index, told.provider, told.model) == ("42", "3", 3, "kie", "")
    assert told.error is not None
    assert told.error.provider == "kie"
    assert len(network.ledger.creates) == 5


async def test_the_input_is_pulled_only_as_it_can_be_sent() -> None:
    """An endless input is not read ahead of what the account may send."""
    network = limited(5, 60)
    async with VirtualClient(network) as client, client.batch(iter(lambda: "x", ""), journal=DictStore({})) as results:
        for _ in range(5):
            assert (await anext(results)).ok
    assert (len(network.ledger.creates), results.progress.pulled <= 5 + 5 + 1) == (5, True)


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


def failing() -> Iterator[str]:
    yield from "abc"
    raise ZeroDivisionError


def ending() -> Iterator[str]:
    yield from "abc"
    raise StopAsyncIteration


async def cancelled() -> AsyncIterator[str]:
    for prompt in "abc":
        yield prompt
    raise asyncio.CancelledError


@pytest.mark.parametrize(
    ("source", "error"),
    [
        (failing, ZeroDivisionError),
        (ending, RuntimeError),
        (cancelled, errors.InvalidRequest),
        (prompts, errors.AuthenticationError),
    ],
)
async def test_an_error_ends_a_batch_after_its_results(source: Any, error: type) -> None:
    """What the input raises, or an account, comes out after the results of what was sent; the first is told."""
    requests = source(100) if source is prompts else source()
    network = limited(3, 10)
    network.faults.order("create", None, None, "401")
    async with VirtualClient(network) as client, client.batch(requests) as batch:
        assert kinds(await until_error(batch, error)) == [type(None)] * 2
    assert (len(network.ledger.creates), batch.progress.pulled < 10) == (3, True)
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]


async def test_batches_take_turns() -> None:
    """A short batch is served beside an endless one of the same account, request by request."""
    network = limited(10, 10)
    async with VirtualClient(network) as client, client.batch(iter(lambda: "long", "")) as long:
        assert (await anext(long)).ok
        assert len(await run(client, prompts(20, "short"))) == 20
    shorts = [place for place, create in enumerate(network.ledger.creates) if create.prompt != "long"]
    assert shorts[-1] - shorts[0] < 50, "every other one or so is a short one"


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
            seen = batch.progress
            assert (seen.queued, seen.projected, seen.pulled < 50) == (0, seen.reserved, True)
            results = [result async for result in batch]
            assert (batch.progress.pulled, batch.progress.eta) == (seen.pulled, 0)
        assert [result async for result in batch] == [], "each result comes once"
        never = client.batch(prompts(5, "never"))
        never.stop()
        async with never:
            assert [result async for result in never] == []
    assert kinds(results) == [type(None)] * len(network.ledger.creates)


@pytest.mark.parametrize(
    ("on_exit", "cancelled"), [("detach", None), ("detach", "client"), ("drain", None), ("drain", "batch")]
)
async def test_leaving_stops_at_once_and_hears_the_creates_on_the_way(on_exit: str, cancelled: str | None) -> None:
    """However it is left, no create goes from then on, and each has its task told; `drain` waits for their ends."""
    network, heard = limited(5, 1, round_trip=0.8), Heard()
    scopes = {"client": anyio.CancelScope(), "batch": anyio.CancelScope()}
    with scopes["client"]:
        async with VirtualClient(network, on_event=heard) as client:
            with scopes["batch"]:
                async with client.batch(prompts(100), on_exit=on_exit) as batch:
                    await heard.job("running", 2)
                    left_at = now()
                    if cancelled is not None:
                        scopes[cancelled].cancel()
                        await anyio.sleep_forever()
            assert [result async for result in batch] == [], "all of them are in `leftover`"
    assert {result.task_id for result in batch.leftover} == {create.task_id for create in network.ledger.creates}
    assert max(network.ledger.create_times) <= left_at + network.round_trip
    error, longest = (errors.DeadlineExceeded, 2) if on_exit == "detach" else (type(None), 50)
    assert (set(kinds(batch.leftover)), now() - left_at <= longest) == ({error}, True)


async def test_draining_is_cut_short_by_a_second_cancellation() -> None:
    """Cancelled while it waits for what runs, a batch is drained no more: its tasks are told with their ids."""
    async with VirtualClient(Network(KIE, latency=LONG)) as client:
        with anyio.move_on_after(50):
            async with client.batch(prompts(3), on_exit="drain", deadline=1000) as batch:
                await anyio.sleep(10)
                batch.stop()
                await anext(batch)
        assert now() < 60
    assert kinds(batch.leftover) == [errors.DeadlineExceeded] * 3


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
    async with VirtualClient(Network(KIE, round_trip=1000.0)) as client:
        batch = client.batch(prompts(10))

        async def work() -> None:
            async with batch:
                await anext(batch)

        task = asyncio.create_task(work())
        for _ in range(2):
            await anyio.sleep(0.5)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert kinds(batch.leftover) == [errors.UnknownOutcome]


async def test_a_client_that_is_left_says_so_to_its_batches() -> None:
    """A batch in another task gets its running tasks as results, then an error where its input has more."""
    network, heard = limited(4, 1e4, latency=LONG), Heard()
    async with VirtualClient(network, on_event=heard) as client:
        whole, rest = (asyncio.create_task(run(client, prompts(count))) for count in (2, 1000))
        await heard.job("running", 4)
    assert kinds(await whole) == [errors.DeadlineExceeded] * 2
    with pytest.raises(errors.ConfigurationError, match="client was left"):
        await rest
    assert len(network.ledger.creates) == 4


async def test_a_batch_is_entered_once_and_before_it_is_read(network: Network) -> None:
    """Entering a batch again would pay again for its requests, and is refused; so is one of a client that was left."""
    async with VirtualClient(network) as client:
        batch, late = client.batch(["a"]), client.batch(["b"])
        with pytest.raises(errors.ConfigurationError, match="Enter the batch first"):
            await anext(batch)
        async with batch:
            assert (await anext(batch)).ok
        with pytest.raises(errors.ConfigurationError, match="entered once"):
            await batch.__aenter__()
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


async def test_a_disk_that_fails_ends_the_batch() -> None:
    """After the first picture that cannot be written no create goes out, those in line included; URLs are kept."""
    network = limited(3, 20)

    async def full(result: Result, folder: str) -> Any:
        raise errors.DownloadFailed("No space left. Free the disk.", local=True)

    async with VirtualClient(network, save=full) as client, client.batch(prompts(100), save_to=".") as batch:
        first = await anext(batch)
        sent = len(network.ledger.creates)
        rest = await until_error(batch, errors.DownloadFailed, "Free the disk")
    assert {(type(result.error), bool(result.urls)) for result in (first, *rest)} == {(errors.DownloadFailed, True)}
    assert len(network.ledger.creates) == sent < 7


async def test_progress_adds_up(network: Network) -> None:
    """A snapshot counts every request once, and the time left falls from what the record says to nothing."""
    await anyio.sleep(100)
    async with VirtualClient(network) as client, client.batch(prompts(60)) as batch:
        assert ("not begun" in repr(batch), "ETA" in batch._repr_html_()) == (False, True)
        etas = [batch.progress.eta]
        async for _ in batch:
            seen = batch.progress
            etas.append(seen.eta)
            live = seen.queued + seen.submitting + seen.held + seen.running + seen.saving
            assert seen.pulled == live + seen.done + seen.failed
        last = batch.progress
    assert (None in etas, etas[0] > 20) == (False, True)  # type: ignore[operator]
    assert (last.total, last.pulled, last.done, last.failed, last.credits, last.eta) == (60, 60, 60, 0, 480, 0)
    await anyio.sleep(100)
    assert batch.progress.elapsed == pytest.approx(45, abs=15), "once it was left, time stands still"


async def test_without_its_journal_a_batch_sends_nothing_more() -> None:
    """Where intents cannot be noted no create goes; what runs comes out first, and then the JournalError is raised."""
    network, store = limited(5, 10), Disk()
    with pytest.raises(errors.JournalError, match="full"):
        async with VirtualClient(network) as client, client.batch(prompts(40), journal=store) as batch:
            results = [await anext(batch)]
            store.room = 0
            # Those whose intents are noted by then may be on the way.
            await anyio.sleep(1)
            seen = len(network.ledger.creates)
            results += await until_error(batch, errors.JournalError)
    assert kinds(results) == [type(None)] * len(network.ledger.tasks)
    assert len(network.ledger.creates) == seen < 40


async def test_one_request_that_no_journal_can_hold_is_one_bad_result(network: Network) -> None:
    """It is refused before a cent, also when it is met again, and whatever it stood beside is made and kept."""
    store = Disk()
    store.refused = {"odd": ValueError("odd")}
    for creates in (4, 4):
        items = [*prompts(2), ImageRequest("odd", key="odd"), *(ImageRequest(f"later {n}") for n in range(2))]
        results = await run(VirtualClient(network), items, journal=store, ordered=True)
        assert kinds(results) == [type(None)] * 2 + [errors.InvalidRequest] + [type(None)] * 2
        assert len(network.ledger.creates) == creates
    assert (store.counts(), store.find("odd")) == ({"done": 4}, None)


async def test_a_list_of_other_defaults_is_refused_before_its_first_create(network: Network) -> None:
    """What an earlier run has made of one line under another model is found before any other line is sent."""
    kept: dict[str, Any] = {}
    await run(VirtualClient(network), ["a"], journal=DictStore(kept), model="imagen4-fast")
    with pytest.raises(errors.ConfigurationError, match="imagen4-fast → imagen4-ultra"):
        items = [*(ImageRequest(each, model="imagen4-fast") for each in prompts(100)), "a"]
        await run(VirtualClient(network), items, journal=DictStore(kept), model="imagen4-ultra")
    assert len(network.ledger.creates) == 1


async def test_a_cancellation_does_not_hide_that_the_journal_failed(network: Network) -> None:
    """A cancelled task whose batch cannot note a paid task ends with the JournalError."""
    store, heard = Disk(), Heard()
    async with VirtualClient(network, on_event=heard) as client:
        working = asyncio.create_task(run(client, ["a"], journal=store))
        await network.has_seen(1)
        store.room = 0
        await heard.job("running")
        working.cancel()
        with pytest.raises(errors.JournalError, match="full"):
            await working


class SlowThread(Held):
    """A journal's thread that takes ten seconds for anything."""

    def submit(self, *work: Any, **named: Any) -> Any:
        """Do it by and by."""
        asyncio.get_running_loop().call_later(10, self.let_go)
        return super().submit(*work, **named)


async def test_what_waits_for_a_slow_journal_is_not_held(network: Network) -> None:
    """A create that still waited to be noted when its batch was left is not sent, and not held as if it had been."""
    kept: dict[str, Any] = {}
    async with VirtualClient(network, thread=SlowThread()) as client:
        async with client.batch(["a", "b", "c"], journal=DictStore(kept)) as batch:
            await anyio.sleep(1)
            assert batch.progress.submitting > 0
        assert (network.ledger.creates, batch.leftover) == ([], ())
    assert {(entry.state, entry.lost) for entry in kept["jobs"].values()} == {("queued", 0)}


async def test_a_relative_journal_outlives_chdir(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    """A batch that changes the working folder leaves a relative journal where it began, for the next run."""
    (place / "elsewhere").mkdir()
    async with VirtualClient(Network(KIE)) as client:
        for folder, earlier in (("elsewhere", False), (".", True)):
            monkeypatch.chdir(place)
            async with client.batch(["a"], journal="j.db") as results:
                monkeypatch.chdir(folder)
                assert [(result.ok, result.earlier) async for result in results] == [(True, earlier)]
    assert list((place / "elsewhere").iterdir()) == []


async def test_a_late_callback_brings_its_picture(network: Network, caplog: pytest.LogCaptureFixture) -> None:
    """In order, too, it comes out after the unknown result, before what the input has yet; a second one is no news."""
    network.faults.order("create", "reset_after")
    network.faults.order("callback", "lost")
    client = VirtualClient(network, callback=Callback(PUBLIC_URL))
    async with client, client.batch(slowly(1e8), ordered=True, journal=DictStore({})) as batch:
        lost = await anext(batch)
        assert [await client.call(network.ledger.creates[0]) for _ in range(2)] == [200, 200]
        assert kinds([lost, await anext(batch)]) == [errors.UnknownOutcome, type(None)]
    assert caplog.messages == []


async def leave_one_running(network: Network, store: DictStore) -> None:
    """Let a run end whose only task goes on."""
    heard = Heard()
    async with VirtualClient(network, on_event=heard) as client, client.batch(["a"], journal=store):
        await heard.job("running")


async def test_what_an_earlier_run_left_comes_last_where_the_input_has_it_no_more(network: Network) -> None:
    """In the order of the input, too, a picture that was paid for comes out."""
    store = DictStore({})
    await leave_one_running(network, store)
    results = await run(VirtualClient(network), ["b"], journal=store, ordered=True)
    assert [(result.request.prompt, result.ok) for result in results] == [("b", True), ("a", True)]


async def test_this_runs_leave_holds_for_what_an_earlier_run_left(network: Network) -> None:
    """A task that an earlier run has made and that fails is made anew where this run has retries for it."""
    store = DictStore({})
    network.faults.order("task", "fail_word")
    await leave_one_running(network, store)
    assert kinds(await run(VirtualClient(network), ["a"], journal=store, retries=1)) == [type(None)]
    assert len(network.ledger.creates) == 2


async def test_a_later_run_goes_on_by_what_the_earlier_has_sent_and_spent() -> None:
    """Its first creates stand in the window of the last ones, and the budget is that of all runs together."""
    network, store = limited(3, 100), DictStore({})
    await run(VirtualClient(network), prompts(3), journal=store)
    async with VirtualClient(network) as client, client.batch(prompts(9), journal=store, max_credits=40) as batch:
        results = await until_error(batch, errors.BudgetReached)
    assert [result.ok for result in results] == [True] * 5
    assert busiest_window(network.ledger.create_times, 100) == 3


@pytest.mark.parametrize("how", ["a break", "a stop", "its deadline"])
async def test_no_create_leaves_that_is_called_off_while_its_connection_is_opened(network: Network, how: str) -> None:
    """From that instant none is sent; nothing of it is doubtful, and the next run sends it, once."""
    kept: dict[str, Any] = {}
    network.connecting, deadline = 5.0, 3.0 if how == "its deadline" else 900.0
    async with VirtualClient(network) as client:
        async with client.batch(["a"], journal=DictStore(kept), deadline=deadline) as batch:
            await anyio.sleep(1)
            assert batch.progress.submitting == 1
            if how == "a stop":
                batch.stop()
            ended = [] if how == "a break" else [result async for result in batch]
        await anyio.sleep(20)
    assert (kinds([*ended, *batch.leftover]), network.ledger.creates) == (
        [errors.DeadlineExceeded] * (how == "its deadline"),
        [],
    )
    assert [entry.state for entry in kept["jobs"].values()] == ["queued"]
    (result,) = await run(VirtualClient(network), ["a"], journal=DictStore(kept))
    assert (result.ok, len(network.ledger.creates)) == (True, 1)


async def test_a_refusal_for_the_rate_holds_what_waits_for_its_connection(network: Network) -> None:
    """A create whose connection is still being opened when another one is refused with 429 waits, too: a window."""
    network.faults.order("create", "429")
    async with VirtualClient(network) as client, asyncio.TaskGroup() as group:
        group.create_task(client.generate("a fox"))
        await network.has_seen(1)
        network.connecting = 5.0
        group.create_task(client.generate("a heron"))
        await anyio.sleep(6)
        network.connecting = 0.0
    refused, *made = network.ledger.create_times
    assert (len(made), min(made) - refused > network.limits.submit.per) == (2, True)


async def test_a_create_that_leaves_long_after_its_intent_is_noted_anew(network: Network) -> None:
    """The next run counts its place from the intent: where a process stood still before it left, that is none any more.

    It is still the first create of its job, and the only one that was sent.
    """
    kept: dict[str, Any] = {}
    network.connecting = LONGEST_TURN + 1
    async with VirtualClient(network) as client, client.batch(["a"], journal=DictStore(kept)) as batch:
        await anyio.sleep(network.connecting - 0.5)
        network.connecting = 0.0
        (result,) = [result async for result in batch]
    (entry,), sends = kept["jobs"].values(), DictStore(kept).sent_since("kie", 0.0)
    assert (result.ok, entry.attempts, len(network.ledger.creates), len(sends)) == (True, 1, 1, 2)


async def test_a_cancelled_generate_sends_nothing_whose_connection_is_still_opened(network: Network) -> None:
    """However long that takes, and though the client stays open."""
    network.connecting = 5.0
    async with VirtualClient(network) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await client.generate("a fox")
        await anyio.sleep(20)
    assert network.ledger.creates == []
