"""The one loop on virtual time: limits as the server sees them, polling, faults, deadlines."""

from __future__ import annotations

import asyncio
import logging
import statistics
from types import SimpleNamespace
from typing import Any, cast

import anyio
import inner
import msgspec
import pytest
from builders import make_job
from clients import run
from inner import Exchange, HttpResponse, NoAnswer, PlainGroup, Running, Sending, Succeeded, advance, now
from samples import SUCCESS
from virtual_network import Listener, Network, VirtualClient, anyio_backend, jobs_for, prompts, scheduler_over

from imagen_async import ImageFile, Limits, Rate, Result, errors
from imagen_async._scheduler.leasing import Leasing
from imagen_async.providers import PROVIDERS
from imagen_async.sandbox import CREATE_FAULTS, POLL_FAULTS, Latency
from tests.world.windows import busiest_window

__all__ = ["anyio_backend"]

KIE = PROVIDERS["kie"]


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
    results, ledger = await run(VirtualClient(network), prompts(count)), network.ledger
    assert ([result.error for result in results], ledger.refused) == ([None] * count, {})
    assert busiest_window(ledger.create_times, limits.submit.per) <= limits.submit.count
    assert busiest_window(ledger.poll_times, limits.status.per) <= limits.status.count
    # A place is free again one window and one round trip (0.3 s on average, twice) after it was taken.
    span = ledger.create_times[-1] - ledger.create_times[0]
    assert binding != "creates" or span <= 1.05 * (count / limits.submit.count - 1) * (limits.submit.per + 0.3)


class Accepting(Listener):
    """An owner that notes when each caller's creates were accepted."""

    def __init__(self) -> None:
        super().__init__()
        self.times: dict[str, list[float]] = {}

    def on_change(self, change: Any, now: float) -> None:
        """Note it."""
        if isinstance(change.event, inner.Accepted):
            self.times.setdefault(change.after.caller, []).append(now)


async def test_callers_take_turns() -> None:
    """Who came first with 5,000 keeps nobody waiting: three with 50 each wait alike, and as long as it does for 50."""
    limits = Limits(Rate(20, per=10), Rate(50, per=1), running=2_000)
    network, listener = Network(KIE, limits=limits), Accepting()
    async with scheduler_over(network) as scheduler:
        owner = scheduler.new_id()
        scheduler.enter(owner, listener.owner())
        for caller, count in (("greedy", 5_000), ("x", 50), ("y", 50), ("z", 50)):
            for job in jobs_for(scheduler, KIE, owner, count):
                scheduler.add(msgspec.structs.replace(job, caller=caller, deadline=1e5))
        await network.has_seen(240)
        await anyio.sleep(2)
    assert [len(listener.times[caller]) for caller in "xyz"] == [50, 50, 50]
    medians = [statistics.median(times[:50]) for times in listener.times.values()]
    assert max(medians) <= 1.1 * min(medians)
    assert network.ledger.refused == {}
    assert busiest_window(network.ledger.create_times, 10) <= 20


async def test_a_client_that_is_opened_again_keeps_its_limit() -> None:
    """What an earlier opening of the same client sent still counts: the server's window holds no more than it may."""
    network = Network(KIE, limits=Limits(Rate(5, per=100), Rate(100, per=1), running=50))
    client = VirtualClient(network)
    for name in "abc":
        assert all(result.ok for result in await run(client, prompts(3, name)))
    assert network.ledger.refused == {}


async def test_places_of_a_shared_limit_are_asked_for_until_they_come(caplog: pytest.LogCaptureFixture) -> None:
    """One wait at a time; one that fails is logged and comes again in a second, one that brought nothing sooner."""
    leases = []

    async def lease(wanted: int) -> None:
        leases.append((round(now(), 2), wanted))
        if len(leases) <= 2:
            raise OSError("the store is away")

    limiter: Any = SimpleNamespace(lease=lease, ready_at=lambda now: now + (len(leases) <= 3))

    def look() -> None:
        if len(leases) <= 3:
            leasing.look([(limiter, 5), (limiter, 6)])

    async with PlainGroup() as group:
        leasing = Leasing(group, look)
        look()
    assert (leases, now()) == ([(0, 5), (1, 5), (2, 5), (2.05, 5)], leases[-1][0])
    assert [(record.levelno, bool(record.exc_info)) for record in caplog.records] == [(logging.WARNING, True)] * 2


CREATES: dict[str, type[BaseException] | None] = {
    **dict.fromkeys(CREATE_FAULTS, errors.UnknownOutcome),
    **dict.fromkeys(("429", "http_429", "455"), None),
    "500": errors.InvalidRequest,
    **dict.fromkeys(("402", "no_credit_500", "433"), errors.InsufficientCredits),
    "401": errors.AuthenticationError,
    "403_edge": errors.ImagenError,
    "model_gone": errors.ModelUnavailable,
}
"""What a create's fault comes to; None: it has certainly made nothing, and is sent again."""


@pytest.mark.parametrize("fault", CREATES)
async def test_no_create_is_repeated_unless_nothing_was_made(fault: str) -> None:
    """Whatever goes wrong with a create, its prompt makes at most one task; each kind is an error of its own."""
    network, error = Network(KIE), CREATES[fault]
    network.faults.order("create", fault)
    async with VirtualClient(network) as client:
        (came,) = await asyncio.gather(client.generate("x"), return_exceptions=True)
    assert isinstance(came, error or Result)
    assert (len(network.ledger.creates), len(network.ledger.tasks) <= 1) == (1 if error else 2, True)
    assert not isinstance(came, errors.UnknownOutcome) or came.credits == 8


BROKEN = {
    "says that it was sent": errors.TransportError("reset"),
    "says that it was not": errors.TransportError("no route", sent=False),
    "is about the answer": errors.ProtocolError("too long"),
    "is a bug": RuntimeError("oh"),
}


@pytest.mark.parametrize("what", BROKEN)
async def test_only_what_the_last_question_said_makes_a_create_doubtful(what: str) -> None:
    """Whatever the error says: before a yes nothing has left, and from a yes on a task may be there."""

    async def send(*request: Any, leaves: Any) -> Any:
        if answer is not None:
            leaves()
        raise BROKEN[what]

    exchange = Exchange({"kie": KIE.dialect}, send, cast(Any, None))
    job = make_job(1, inner.Noting())
    ends = []
    for answer in (None, False, True):
        ends.append(await exchange.create(job, lambda said=answer: said))
    unsent = inner.ConnectFailed if isinstance(BROKEN[what], errors.TransportError) else inner.Unsendable
    assert [type(end) for end in ends] == [unsent, inner.SendAborted, inner.Lost]
    assert unsent is inner.Unsendable or not ends[0].failure.was_sent


@pytest.mark.parametrize("fault", POLL_FAULTS)
async def test_no_trouble_while_polling_fails_a_job(fault: str, caplog: pytest.LogCaptureFixture) -> None:
    """A status call is repeated whatever it meets, the task is not; a state that is new to us is told once."""
    network = Network(KIE)
    network.faults.order("poll", fault, fault)
    (result,) = await run(VirtualClient(network), ["x"])
    assert (result.error, len(network.ledger.creates)) == (None, 1)
    assert str(network.ledger.tasks[0].task_id) in result.urls[0], "the picture is another's"
    assert fault != "odd_state" or caplog.messages == ["kie: unknown task state 'pondering' is taken for: not finished"]


@pytest.mark.parametrize("provider", ["kie", "apiin"])
@pytest.mark.parametrize(("fault", "seconds"), [("late_urls", 2), ("no_urls", 10)])
async def test_links_that_are_late_are_waited_for(provider: str, fault: str, seconds: float) -> None:
    """A success without links is asked about each second, for ten; then it has failed, is told, and not made again."""
    network = Network(PROVIDERS[provider], latency=Latency(20, sigma=0))
    network.faults.order("task", fault)
    async with VirtualClient(network) as client, client.batch(["x"], retries=3) as results:
        (result,) = [result async for result in results]
    asked = [at for at in network.ledger.poll_times if at >= network.ledger.create_times[0] + 20]
    assert asked[-1] - asked[0] == pytest.approx(seconds, abs=2.0)
    assert seconds / 2 <= len(asked) <= seconds + 2
    assert len(network.ledger.creates) == 1
    if fault == "no_urls":
        assert isinstance(result.error, errors.GenerationFailed)
        assert (result.error.code, result.task_id, b"success" in result.raw or b"completed" in result.raw) == (
            *("no_urls", network.ledger.tasks[0].task_id),
            True,
        )
    else:
        assert result.ok


async def test_every_call_takes_a_place_in_the_limit() -> None:
    """Questions for the balance wait for their turn beside those for tasks; who waits no more takes no place."""
    network = Network(KIE, limits=Limits(submit=Rate(20, per=10), status=Rate(2, per=5), running=20))
    async with VirtualClient(network) as client, client.batch(prompts(6)) as results:
        asking = [asyncio.ensure_future(client.credits()) for _ in range(7)]
        await asyncio.sleep(6)
        asking[-1].cancel()
        assert all([result.ok async for result in results])
        left = asyncio.ensure_future(client.credits())
        told = await asyncio.gather(*asking, return_exceptions=True)
        asking += [asyncio.ensure_future(client.credits()) for _ in range(3)]
        await asyncio.sleep(0)
    assert [type(each).__name__ for each in told] == ["ProtocolError"] * 6 + ["CancelledError"]
    last = await asyncio.gather(left, *asking[7:], return_exceptions=True)
    assert isinstance(last[-1], errors.ConfigurationError)
    times = network.ledger.poll_times
    assert all(later - at >= 5 for at, later in zip(times, times[2:], strict=False))


@pytest.mark.parametrize(("status", "body"), [(408, b""), (429, b""), (200, b'{"code": 429}'), (503, b"<")])
async def test_a_busy_provider_is_asked_once_more_for_a_balance(status: int, body: bytes) -> None:
    """After as long as it asks for, by HTTP's word or its own; where that is too long, it is told at once."""
    answers = [HttpResponse(status, body, 20.0), HttpResponse(200, b'{"code": 200, "data": 5}')]
    answers.append(HttpResponse(status, body, 40.0))
    times: list[float] = []

    class Busy(Network):
        async def __call__(self, *request: Any, **terms: Any) -> HttpResponse:
            times.append(asyncio.get_running_loop().time())
            return answers[len(times) - 1]

    async with VirtualClient(Busy(KIE)) as client:
        assert await client.credits() == {"kie": 5}
        with pytest.raises((errors.RateLimited, errors.TransportError)):
            await client.credits()
    assert (len(times), times[1] - times[0] >= 20) == (3, True)


def answering(provider: str, *data: Any) -> Exchange:
    """The talks with an account that answers with these, in turn, whatever it is asked."""
    answers = list(data)

    async def send(*request: Any, **terms: Any) -> HttpResponse:
        if isinstance(answer := answers.pop(0), Exception):
            raise answer
        return HttpResponse(200, msgspec.json.encode({"code": 200, "data": answer}))

    async def save(result: Result, folder: str, within: float) -> tuple[ImageFile, ...]:
        return ()

    return Exchange({"kie": PROVIDERS[provider].dialect}, send, save)


async def test_what_an_answer_has_too_much_of_is_told_once_and_bounded(caplog: pytest.LogCaptureFixture) -> None:
    """Of an account that invents words for a state 20 are logged, and of an answer with many links how many it has."""
    told: list[Any] = [{"state": f"mood {number // 2}"} for number in range(100)]
    told += [{"state": "success", "resultUrls": [f"https://files.example/{number}.png" for number in range(99)]}]
    exchange, job = answering("kie", *told), make_job(1, Running("t1", 0.0))
    for _ in range(101):
        await exchange.ask(job, job.state)
    *moods, links = caplog.messages
    assert [message.split("'")[1] for message in moods] == [f"mood {number}" for number in range(20)]
    assert links == "kie: task t1 has 99 links; 5 are taken, the others are in the result's raw answer"


async def test_what_a_providers_clock_tells_is_believed_as_far_as_ours_went() -> None:
    """A task takes some time, and no longer than it has been there; when one named by its id began is not known."""
    began, link = 1_776_323_915_587, ["https://files.example/1.png"]
    ends = [{"state": "success", "resultUrls": link, "createTime": began, "completeTime": began + 3_600_000}] * 4
    ends.append(ends[0] | {"completeTime": began})
    exchange = answering("kie", *ends)
    for state, latency in (
        (Running("t1", now() - 3599.0), 3600.0),
        (Running("t1", now() - 5.0), None),
        (inner.Collected("t1", now()), 3600.0),
        (inner.Relinking("t1", now(), outcome=Succeeded((), None, None, b"")), 3600.0),
        (Running("t1", now() - 5.0), None),
    ):
        status = await exchange.ask(make_job(1, state), state)
        assert isinstance(status, Succeeded)
        assert status.latency == latency


async def test_a_task_is_known_by_the_field_that_its_create_named() -> None:
    """An answer that has another id in that field is about another task."""
    ends = [{"id": name, "status": "completed", "url": "https://files.example/1.png"} for name in ("t2", "t1")]
    exchange, job = answering("apiin", {"id": "t1"}, *ends), make_job(1, Sending())
    running = advance(job, await exchange.create(job, lambda: True), 0.0)
    for kind in (NoAnswer, Succeeded):
        assert isinstance(await exchange.ask(running, running.state), kind)


async def test_a_deadline_names_the_task_and_collect_takes_it() -> None:
    """A task that takes longer ends in time, though a question is on its way then; its error says which to collect."""
    network = Network(KIE, latency=Latency(median=2000, sigma=0))
    async with VirtualClient(network) as client:
        job = await client.submit("x", deadline=100)
        network.round_trip = 1000.0
        with pytest.raises(errors.DeadlineExceeded, match="collect") as caught:
            await job
        assert (now(), caught.value.task_id) == (pytest.approx(100, abs=2), network.ledger.creates[0].task_id)
        network.round_trip = 0.3
        assert (await client.collect(job.task_id, deadline=2000)).ok


@pytest.mark.parametrize("provider", ["kie", "apikley"])
async def test_a_dead_link_is_renewed_where_that_can_be(provider: str) -> None:
    """A picture whose link has died is fetched by a new one; where none can be had, the error says so and has URLs."""
    asked: list[tuple[str, ...]] = []

    async def save(result: Result, folder: str) -> tuple[ImageFile, ...]:
        asked.append(result.urls)
        if "until=" not in result.urls[0]:
            raise errors.DownloadFailed("404", gone=True)
        return (ImageFile("x.png", "0", 1, "image/png", result.urls[0]),)

    (result,) = await run(VirtualClient(Network(PROVIDERS[provider]), save=save), ["x"], save_to=".")
    if provider == "kie":
        assert (result.error, [file.url for file in result.files]) == (None, list(asked[-1]))
    else:
        assert isinstance(result.error, errors.DownloadFailed)
        assert f"The provider gives no new link for {asked[0][0]}." in result.error.message
        assert result.urls == asked[0]


async def test_a_new_link_that_is_not_told_is_a_picture_not_fetched() -> None:
    """Also where the question has no answer: whoever fetches pictures that are paid for looks for that error."""
    exchange = answering("kie", errors.TransportError("reset"))
    state = inner.Fetching("t1", SUCCESS, inner.Links.RENEWED)
    told = await exchange.fetch(make_job(1, state, save_to="."), state)
    assert isinstance(told, inner.NotSaved)
    assert (told.failure.is_a(errors.DownloadFailed), told.failure.message) == (
        True,
        "The provider gave no new link: reset",
    )


@pytest.mark.parametrize(("deadline", "seconds"), [(20, 10 + 60), (500, 500)])
async def test_a_download_has_a_minute_at_least(deadline: float, seconds: float) -> None:
    """Fetching takes no longer than the deadline, or a minute where that is more: the picture is paid for."""

    async def hang(result: Result, folder: str) -> Any:
        await anyio.sleep_forever()

    client = VirtualClient(Network(KIE, latency=Latency(median=10, sigma=0)), save=hang)
    (result,) = await run(client, ["x"], save_to=".", deadline=deadline)
    assert isinstance(result.error, errors.DownloadFailed)
    assert result.error.message.startswith("The picture could not be fetched in time; its URL is on the result.")
    assert (len(result.urls), now()) == (1, pytest.approx(seconds, abs=4))


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
    assert caplog.messages == [told]
