"""The one loop on virtual time: limits as the server sees them, polling, faults, deadlines, outages, leaving."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import Any

import anyio
import pytest
from clients import Heard, run
from virtual_network import (
    VIRTUAL_TIME,
    Network,
    VirtualClient,
    busiest_window,
    prompts,
)

from imagen_async import ImageFile, Limits, Rate, Result, errors
from imagen_async.ports import Window
from imagen_async.providers import PROVIDERS
from imagen_async.sandbox import CREATE_FAULTS, POLL_FAULTS, TASK_FAULTS, Latency

KIE = PROVIDERS["kie"]
OPEN = Limits(Rate(20, per=10), Rate(100, per=1), running=1000)
"""Limits under which every question goes when it is due."""


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """These tests run on virtual time."""
    return VIRTUAL_TIME


def now() -> float:
    return asyncio.get_running_loop().time()


async def made_at(network: Network, count: int, **settings: Any) -> list[Result]:
    """A batch of so many prompts, run to its end."""
    return await run(VirtualClient(network, **settings), prompts(count))


LIMITS = {
    "creates": (200, Limits(Rate(20, per=10), Rate(50, per=1), running=200)),
    "questions": (40, Limits(Rate(40, per=1), Rate(1, per=1), running=40)),
    "running tasks": (50, Limits(Rate(100, per=1), Rate(100, per=1), running=7)),
}


@pytest.mark.parametrize("binding", LIMITS)
async def test_no_limit_is_passed_and_no_task_forgotten(binding: str) -> None:
    """Whatever limit binds, the server sees no more in any window, refuses nothing, and is kept as busy as can be."""
    count, limits = LIMITS[binding]
    network = Network(KIE, limits=limits)
    results = await made_at(network, count)
    assert [result.error for result in results] == [None] * count
    assert network.ledger.refused == {}
    assert busiest_window(network.ledger.create_times, limits.submit.per) <= limits.submit.count
    assert busiest_window(network.ledger.poll_times, limits.status.per) <= limits.status.count
    # A place is free again one window and one round trip (0.3 s on average, twice) after it was taken.
    windows = count / limits.submit.count - 1
    span = network.ledger.create_times[-1] - network.ledger.create_times[0]
    assert binding != "creates" or span <= 1.05 * windows * (limits.submit.per + network.round_trip)


async def test_a_client_that_is_opened_again_keeps_its_limit() -> None:
    """What an earlier opening of the same client sent still counts: the server's window holds no more than it may."""
    network = Network(KIE, limits=Limits(Rate(5, per=100), Rate(100, per=1), running=50))
    client = VirtualClient(network)
    for name in "abc":
        async with client:
            assert all(result.ok for result in await run(client, prompts(3, name)))
    assert network.ledger.refused == {}


class Lent(Window):
    """A limit whose places are lent one by one: its store is away twice, then it has none, then all that are wanted."""

    is_shared = True
    lent = 0

    def ready_at(self, now: float) -> float:
        """When the window says, with a place at hand; else only a lease can tell."""
        return super().ready_at(now) if self.lent else math.inf

    def take(self, now: float) -> None:
        """Use one of those at hand."""
        self.lent -= 1
        super().take(now)

    async def lease(self, wanted: int) -> None:
        """Do as the class says."""
        self.leases = [*getattr(self, "leases", []), (now(), wanted)]
        if len(self.leases) <= 2:
            raise OSError("the store is away")
        self.lent += len(self.leases) > 3


async def test_a_shared_limit_is_asked_again_until_it_lends_a_place(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing goes without a place; a lease that fails is logged and comes again in a second, an empty one sooner."""
    limiter = Lent(Rate(10, per=1))
    network = Network(KIE, limiter=limiter)
    assert all(result.ok for result in await made_at(network, 5))
    assert [(round(at, 1), wanted) for at, wanted in limiter.leases[:3]] == [(0, 5), (1, 5), (2, 5)]
    assert limiter.leases[3][0] - limiter.leases[2][0] == pytest.approx(0.05, abs=0.01)
    assert network.ledger.create_times[0] >= 2.05
    told = [(record.levelno, bool(record.exc_info)) for record in caplog.records]
    assert told == [(logging.WARNING, True)] * 2


NOTHING_MADE = ("429", "http_429", "455")
"""What a create can meet that is certain to have made nothing, so that it is sent again."""


@pytest.mark.parametrize("fault", CREATE_FAULTS)
async def test_no_create_is_repeated_unless_nothing_was_made(fault: str) -> None:
    """Whatever goes wrong with a create, its prompt makes at most one task, and its job has one result."""
    network = Network(KIE)
    network.faults.order("create", None, fault)
    results = await made_at(network, 3)
    wrong = [type(result.error) for result in results if result.error is not None]
    at_risk = [result.error.credits for result in results if isinstance(result.error, errors.UnknownOutcome)]
    expected: list[type] = (
        [] if fault in NOTHING_MADE else [errors.InvalidRequest if fault == "500" else errors.UnknownOutcome]
    )
    assert (wrong, at_risk) == (expected, [8] * expected.count(errors.UnknownOutcome))
    assert len(network.ledger.creates) == 3 + (fault in NOTHING_MADE)
    assert max(network.ledger.tasks_by_prompt().values()) == 1


@pytest.mark.parametrize("fault", POLL_FAULTS)
async def test_no_trouble_while_polling_fails_a_job(fault: str) -> None:
    """Whatever a status call meets, it is repeated, the task is not, and the picture comes."""
    network = Network(KIE)
    network.faults.order("poll", fault, fault)
    (result,) = await made_at(network, 1)
    assert result.error is None
    assert len(network.ledger.creates) == 1


ENDS = {"fail_digits": "500", "fail_word": "SENSITIVE_WORD_ERROR", "no_urls": "no_urls", "more_urls": 4}


@pytest.mark.parametrize("fault", TASK_FAULTS)
async def test_every_end_of_a_task_is_read(fault: str) -> None:
    """Failures are GenerationFailed with their code and task; odd shapes of success give their pictures."""
    network = Network(KIE)
    network.faults.order("task", fault)
    (result,) = await made_at(network, 1)
    assert result.task_id == network.ledger.creates[0].task_id
    if isinstance(result.error, errors.GenerationFailed):
        assert (result.error.code, result.error.task_id) == (ENDS[fault], result.task_id)
    else:
        assert (result.error, len(result.urls)) == (None, ENDS.get(fault, 1))


ACCOUNT_ERRORS = {
    "401": errors.AuthenticationError,
    "402": errors.InsufficientCredits,
    "no_credit_500": errors.InsufficientCredits,
    "433": errors.InsufficientCredits,
    "403_edge": errors.ImagenError,
    "model_gone": errors.ModelUnavailable,
}


@pytest.mark.parametrize("fault", ACCOUNT_ERRORS)
async def test_account_errors_are_told_apart(fault: str) -> None:
    """A refused key, an empty account and a missing model are different errors, and none is tried again."""
    network = Network(KIE)
    network.faults.order("create", fault)
    async with VirtualClient(network) as client:
        with pytest.raises(ACCOUNT_ERRORS[fault]):
            await client.generate("x")
    assert len(network.ledger.creates) == 1


async def test_a_state_that_no_dialect_knows_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """A word for a state that is new to us means not finished, and is in the log once, however often it comes."""
    network = Network(KIE)
    network.faults.order("poll", *["odd_state"] * 3)
    assert all(result.ok for result in await made_at(network, 3))
    assert [record.getMessage() for record in caplog.records] == [
        "kie: unknown task state 'pondering' is taken for: not finished"
    ]


async def test_a_deadline_names_the_task_and_collect_takes_it() -> None:
    """A task that takes longer than the deadline ends with an error that says which to collect; it is not lost."""
    network = Network(KIE, latency=Latency(median=2000, sigma=0))
    async with VirtualClient(network) as client:
        with pytest.raises(errors.DeadlineExceeded, match="collect") as caught:
            await client.generate("x")
        assert now() == pytest.approx(900, abs=5)
        assert caught.value.task_id == network.ledger.creates[0].task_id
        assert (await client.collect(caught.value.task_id, deadline=2000)).ok


async def test_a_question_at_the_deadline_has_some_time_and_no_more() -> None:
    """A status call takes no longer than the job has left, so that its end is told in time."""
    network = Network(KIE, latency=Latency(median=2000, sigma=0))
    async with VirtualClient(network) as client:
        job = await client.submit("x", deadline=100)
        network.round_trip = 1000.0
        with pytest.raises(errors.DeadlineExceeded):
            await job
    assert now() == pytest.approx(100, abs=2)


async def saved_at(network: Network, save: Any, **terms: Any) -> Result:
    """One picture, as it comes out with that way of saving."""
    (result,) = await run(VirtualClient(network, save=save), ["x"], save_to=".", **terms)
    return result


@pytest.mark.parametrize("provider", ["kie", "apikley"])
async def test_a_dead_link_is_renewed_where_that_can_be(provider: str) -> None:
    """A picture whose link has died is fetched by a new one; where none can be had, the error says so and has URLs."""
    asked: list[tuple[str, ...]] = []

    async def save(result: Result, folder: str) -> tuple[ImageFile, ...]:
        asked.append(result.urls)
        if "until=" not in result.urls[0]:
            raise errors.DownloadFailed("404", gone=True)
        return (ImageFile("x.png", "0", 1, "image/png", result.urls[0]),)

    result = await saved_at(Network(PROVIDERS[provider]), save)
    if provider == "kie":
        assert (result.error, [file.url for file in result.files]) == (None, list(asked[-1]))
    else:
        assert isinstance(result.error, errors.DownloadFailed)
        assert f"The provider gives no new link for {asked[0][0]}." in result.error.message
        assert result.urls == asked[0]


async def test_a_download_has_a_minute_at_least() -> None:
    """Fetching takes no longer than the deadline, or a minute where that is more: the picture is paid for."""
    network = Network(KIE, latency=Latency(median=10, sigma=0))

    async def hang(result: Result, folder: str) -> tuple[ImageFile, ...]:
        await anyio.sleep_forever()
        return ()

    for deadline, seconds in ((20, 10 + 60), (500, 500)):
        began_at = now()
        result = await saved_at(network, hang, deadline=deadline)
        assert isinstance(result.error, errors.DownloadFailed)
        assert (result.error.message[:48], bool(result.urls)) == (
            "The picture could not be fetched in time; its UR",
            True,
        )
        assert now() - began_at == pytest.approx(seconds, abs=4)


async def test_leaving_stops_at_once_and_hears_the_creates_on_the_way() -> None:
    """From the instant of leaving no create is sent; those on the way end with their task ids, not as unknown."""
    network, heard = Network(KIE, round_trip=0.8), Heard()
    async with VirtualClient(network, on_event=heard) as client:
        async with client.batch(prompts(100)) as batch:
            await heard.job("running", 2)
            left_at = now()
        assert now() - left_at <= 2
        seen = len(network.ledger.creates)
        await anyio.sleep(100)
        assert len(network.ledger.creates) == seen
    assert {result.task_id for result in batch.leftover} == {create.task_id for create in network.ledger.creates}
    assert {type(result.error) for result in batch.leftover} == {errors.DeadlineExceeded}


async def test_a_create_that_is_not_answered_is_not_waited_for_long(caplog: pytest.LogCaptureFixture) -> None:
    """Leaving waits 1.5 s for the answers of creates; what has none by then is unknown, and logged if it comes yet."""
    network = Network(KIE, round_trip=100.0)
    async with VirtualClient(network) as client:
        async with client.batch(prompts(3)) as batch:
            await anyio.sleep(1)
        assert now() == pytest.approx(1 + 1.5)
        await anyio.sleep(200)
    assert {type(result.error) for result in batch.leftover} == {errors.UnknownOutcome}
    told = f"kie: nobody waits for task {network.ledger.tasks[0].task_id}; it is paid for: collect it"
    assert [record.getMessage() for record in caplog.records] == [told]


async def test_cancelling_around_the_client_still_hears_the_creates_on_the_way() -> None:
    """A cancel scope around everything does not cut off a create whose answer names a paid task."""
    network = Network(KIE, round_trip=0.8)
    with anyio.move_on_after(1.0):
        async with VirtualClient(network) as client, client.batch(prompts(30)) as batch:
            await anyio.sleep_forever()
    known = {result.task_id for result in batch.leftover}
    assert known == {create.task_id for create in network.ledger.creates}
    assert known
