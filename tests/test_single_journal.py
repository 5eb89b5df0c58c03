"""Single requests with a journal on virtual time: what leaves when, and what a full disk or a lost answer does."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
import pytest
from dict_store import DictStore
from inner import Locked, Rate, SharedJournal, now
from journals import FULL, Disk, entry, place
from virtual_network import Network, VirtualClient, anyio_backend

from imagen_async import Client, ImageRequest, Limits, Result, errors
from imagen_async.ports import JournalEntry
from imagen_async.providers import PROVIDERS
from imagen_async.sandbox import Latency

__all__ = ["anyio_backend", "place"]


@pytest.fixture
def network() -> Network:
    """A network whose tasks all take 20 s, and whose answers come after 0.5 s on average."""
    return Network(PROVIDERS["kie"], latency=Latency(median=20, sigma=0), round_trip=0.5)


@pytest.fixture
def disk() -> Iterator[Disk]:
    """A store that can be full."""
    with closing(Disk()) as disk:
        yield disk


def states(disk: Disk) -> dict[str, str]:
    """How its jobs are, by key."""
    return {key: found.state for key in list(disk._jobs) if (found := disk.find(key)) is not None}


async def asked(client: Client, key: str, **terms: Any) -> Result | errors.ImagenError:
    """What a key comes to, also where that is an error."""
    try:
        return await client.generate("a fox", key=key, **terms)
    except errors.ImagenError as error:
        return error


async def test_what_cannot_be_noted_is_not_sent(network: Network, disk: Disk) -> None:
    """On a full disk nothing leaves; once there is room the same call goes through, and is paid for once."""
    async with VirtualClient(network, journal=disk) as client:
        disk.room = 0
        with pytest.raises(errors.JournalError, match=FULL):
            await client.generate("a fox", key="k")
        assert network.ledger.creates == []
        disk.room = None
        assert (await client.generate("a fox", key="k")).ok
    assert len(network.ledger.tasks) == 1


async def test_a_request_that_no_journal_can_hold_is_refused(network: Network, disk: Disk) -> None:
    """Half a character is this request's trouble alone, and nothing is sent."""
    async with VirtualClient(network, journal=disk) as client:
        for words in ({"key": "\ud800"}, {"prompt": "\ud800"}):
            with pytest.raises(errors.InvalidRequest):
                await client.generate(ImageRequest(**{"prompt": "x", **words}))
        assert (await client.generate("a fox")).ok
    assert len(network.ledger.creates) == 1


async def test_the_window_of_an_ended_process_counts(disk: Disk) -> None:
    """What a process sent before its end takes places in the next one's window: no window sees more than its limit."""
    network = Network(PROVIDERS["kie"], limits=Limits(Rate(3, per=10), Rate(50, per=1), running=100))
    for life in range(2):
        async with VirtualClient(network, journal=disk) as client, asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(client.submit(f"fox {life} {number}", deadline=300))
    times = network.ledger.create_times
    assert (len(times), network.ledger.refused) == (6, {})
    assert times[3] - times[0] >= 10


async def test_a_create_on_the_way_is_heard_out(network: Network, disk: Disk) -> None:
    """Whoever is cancelled while it leaves loses no task: the next caller waits for its answer, and has its picture."""
    async with VirtualClient(network, journal=disk) as client:
        with anyio.move_on_after(0.3) as scope:
            await client.generate("a fox", key="k")
        assert (scope.cancelled_caught, states(disk)) == (True, {"k": "submitting"})
        assert (await client.generate("a fox", key="k")).ok
        assert disk.owner("k")
    assert len(network.ledger.creates) == 1


async def test_who_is_cancelled_before_anything_left_leaves_nothing(network: Network, disk: Disk) -> None:
    """A request that was never sent is as if it had not been: its key is free, also for another one."""
    network.connecting = 5.0
    async with VirtualClient(network, journal=disk) as client:
        with anyio.move_on_after(1):
            await client.generate("a fox", key="k")
        await anyio.sleep(10)
        assert (states(disk), network.ledger.creates) == ({}, [])
        assert (await client.generate("a heron", key="k")).ok


async def test_the_first_caller_may_leave(network: Network, disk: Disk) -> None:
    """Who asked first is nobody special: the others go on, and nothing is sent once all have left."""
    async with VirtualClient(network, journal=disk) as client, asyncio.TaskGroup() as group:
        callers = [group.create_task(client.generate("a fox", key="k")) for _ in range(3)]
        await anyio.lowlevel.checkpoint()
        callers[0].cancel()
        await anyio.sleep(5)
        callers[1].cancel()
        assert (await callers[2]).ok
    assert len(network.ledger.creates) == 1


async def test_leaving_sends_nothing_more(network: Network, disk: Disk) -> None:
    """Requests that wait for their turn when the client is left are not sent, and fail; asked for again they are."""
    limits = Limits(Rate(2, per=100), Rate(50, per=1), running=100)
    network = Network(PROVIDERS["kie"], limits=limits, latency=Latency(median=20, sigma=0))
    async with VirtualClient(network, journal=disk) as client:
        asking = [asyncio.ensure_future(asked(client, f"k{number}")) for number in range(4)]
        await anyio.sleep(5)
        assert len(network.ledger.creates) == 2
    found = await asyncio.gather(*asking)
    assert len(network.ledger.creates) == 2
    assert all(isinstance(each, errors.ImagenError) for each in found)
    assert [state for state in states(disk).values() if state != "queued"] == ["running", "running"]
    with closing(Disk.__new__(Disk)) as later:
        pass_on(disk, later)
        async with VirtualClient(network, journal=later) as client:
            assert len([each async for each in client.resume()]) == len(network.ledger.creates) == 2
            assert all([isinstance(await asked(client, f"k{number}"), Result) for number in range(4)])
    assert len(network.ledger.tasks) == 4


def pass_on(disk: Disk, later: Disk) -> None:
    """Have a later process find what a store has kept, whose own has ended."""
    disk.close()
    kept = {"jobs": disk._jobs, "sends": disk._sends, "notes": disk._notes, "owners": disk._owners, "count": 9}
    Disk.__init__(later)
    later.__dict__.update({f"_{name}": value for name, value in kept.items() if name != "count"})
    later._me = "a later one"
    later._alive = {later._me}


async def test_a_task_that_the_provider_denies_is_made_anew_when_it_is_asked_for(network: Network, disk: Disk) -> None:
    """A task of which the provider knows nothing fails as often as it is asked for; `retry_failed` makes another."""
    disk.claim(unsent := entry(key="k", state="queued", attempts=0, sent_at=None, request=request_of("a fox")))
    intent = msgspec.structs.replace(unsent, state="submitting", attempts=1, sent_at=1.0)
    disk.write([intent])
    disk.write([msgspec.structs.replace(intent, state="running", task_id="nobody-knows", accepted_at=2.0)])
    async with VirtualClient(network, journal=disk) as client:
        for _ in range(2):
            error = await asked(client, "k")
            assert isinstance(error, errors.InvalidRequest)
            assert error.task_id == "nobody-knows"
        assert (await client.generate("a fox", key="k", retry_failed=True)).ok
    assert len(network.ledger.tasks) == 1


def request_of(prompt: str) -> ImageRequest:
    """The request as it is sent, and noted."""
    return ImageRequest(prompt, model="imagen4", aspect_ratio="1:1", key="k")


async def test_a_lost_create_is_not_sent_to_another_account(network: Network, disk: Disk) -> None:
    """Where its own account is not there, its task might stand beside the new one: it stays held, and as it was."""
    disk.claim(unsent := entry(key="k", state="queued", attempts=0, sent_at=None, request=request_of("a fox")))
    intent = msgspec.structs.replace(unsent, state="submitting", attempts=1, sent_at=1.0, account="apiin")
    disk.write([intent])
    async with VirtualClient(network, journal=disk) as client:
        for _ in range(2):
            assert isinstance(await asked(client, "k", retry_failed=True), errors.UnknownOutcome)
            assert (states(disk), disk.owner("k")) == ({"k": "unknown"}, "")
    assert network.ledger.creates == []


async def test_a_task_of_an_account_that_is_not_there_is_left_alone(network: Network, disk: Disk) -> None:
    """It says whose it is, with the task's id, and stays for whoever has that account."""
    disk.claim(unsent := entry(key="k", state="queued", attempts=0, sent_at=None, request=request_of("a fox")))
    intent = msgspec.structs.replace(unsent, state="submitting", attempts=1, sent_at=1.0, account="apiin")
    disk.write([intent])
    running: JournalEntry = msgspec.structs.replace(intent, state="running", task_id="t1", accepted_at=2.0)
    disk.write([running])
    disk.release(["k"])
    async with VirtualClient(network, journal=disk) as client:
        error = await asked(client, "k", retry_failed=True)
        assert isinstance(error, errors.ConfigurationError)
        assert (error.provider, error.task_id, "apiin, which this client does not have" in error.message) == (
            *("apiin", "t1"),
            True,
        )
        (left,) = await client.unfinished()
        (result,) = [each async for each in client.resume()]
        assert (left.state, type(result.error), result.task_id) == ("running", errors.ConfigurationError, "t1")
    assert (states(disk), network.ledger.creates) == ({"k": "running"}, [])


async def test_a_deadline_is_given_up_and_goes_on_the_next_time(network: Network, disk: Disk) -> None:
    """A task that takes too long is the next caller's, of this process or another, and is paid for once."""
    async with VirtualClient(network, journal=disk) as client:
        with pytest.raises(errors.DeadlineExceeded):
            await client.generate("a fox", key="k", deadline=10)
        began = now()
        await anyio.sleep(1)
        assert (disk.owner("k"), states(disk)) == ("", {"k": "running"})
        assert (await client.generate("a fox", key="k")).ok
        assert now() - began < 20
    assert len(network.ledger.creates) == 1


async def test_a_file_is_a_journal_as_a_store_is(network: Network, place: Path) -> None:
    """The same on a file: one task for each key, and the pictures where they belong."""
    for _ in range(2):
        async with VirtualClient(network, journal=place / "run.db") as client, asyncio.TaskGroup() as group:
            asking = [group.create_task(client.generate("a fox", key=f"k{number % 5}")) for number in range(20)]
        assert len({task.result().urls for task in asking}) == 5
    assert len(network.ledger.creates) == 5


async def test_a_store_is_one_clients(network: Network, disk: Disk) -> None:
    """Two clients with one store would take each other's requests for their own: the second one is refused."""
    async with VirtualClient(network, journal=disk):
        with pytest.raises(errors.JournalError, match="a dict is in use: another client of this program"):
            await VirtualClient(network, journal=disk).__aenter__()
    async with VirtualClient(network, journal=disk) as client:
        assert (await client.generate("a fox", key="k")).ok


async def test_a_client_that_is_opened_again_finds_what_it_has_left(network: Network, disk: Disk) -> None:
    """Its own requests are anybody's once it was left; and of one that was never sent nothing is left."""
    network.connecting = 2.0
    async with VirtualClient(network, journal=disk) as client:
        await client.submit("a fox", key="k")
        asking = asyncio.ensure_future(asked(client, "unsent"))
        await anyio.sleep(1)
    assert isinstance(await asking, errors.ImagenError)
    async with VirtualClient(network, journal=disk) as client:
        assert [left.key for left in await client.unfinished()] == ["k"]
        assert [result.key async for result in client.resume()] == ["k"]
    assert (states(disk), len(network.ledger.creates)) == ({"k": "done"}, 1)


async def test_leaving_ends_the_waiting_for_another_process(network: Network, place: Path) -> None:
    """Who waits for what another one is at work on is told that the client was left; the other one's stays its own."""
    with SharedJournal(place / "run.db") as other:
        other.claim(entry(key="k", state="queued", attempts=0, sent_at=None, request=request_of("a fox")))
        async with VirtualClient(network, journal=place / "run.db") as client:
            asking = asyncio.ensure_future(asked(client, "k"))
            await anyio.sleep(1)
        assert isinstance(await asking, errors.ConfigurationError)
        assert other.owner("k")
    assert network.ledger.creates == []


class Busy(DictStore):
    """A store that another program writes whenever something is to be let go of."""

    is_busy = True

    def release(self, keys: Iterable[str]) -> None:
        """Let go, once nobody else writes."""
        if self.is_busy:
            raise Locked("a dict is locked by another program")
        super().release(keys)


async def test_what_is_asked_for_anew_is_not_let_go_of(network: Network) -> None:
    """Where that has to wait, and somebody asks for the key meanwhile, the row stays this process's."""
    with closing(Busy({})) as store:
        async with VirtualClient(network, journal=store) as client:
            await asked(client, "k", deadline=5)
            await anyio.sleep(0.05)
            asking = asyncio.ensure_future(asked(client, "k"))
            await anyio.lowlevel.checkpoint()
            store.is_busy = False
            await anyio.sleep(1)
            assert store.owner("k"), "another process would go on with it, too"
            assert isinstance(await asking, Result)
    assert len(network.ledger.creates) == 1
