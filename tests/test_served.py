"""Our own client as the client of our own service: the same API, one task for one name, whatever is lost on the way."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from clients import FAST, Heard, run
from conftest import naming
from inner import ServiceDesk
from servers import free_socket, served
from services import AFTER, BEFORE, Asker, between, client_through, service

from imagen_async import Account, Client, ImageRequest, Limits, Rate
from imagen_async.errors import (
    AuthenticationError,
    BudgetReached,
    ConfigurationError,
    DeadlineExceeded,
    GenerationFailed,
    ImagenError,
    InsufficientCredits,
    InvalidRequest,
    ModelUnavailable,
    UnknownOutcome,
)
from imagen_async.sandbox import Latency, Sandbox
from imagen_async.service import _tasks as tasks_module
from imagen_async.service import new_caller

TASKS, STATUS, ENDS = "/v1/tasks", "/v1/tasks/status", "/v1/tasks/events"
QUICK: dict[str, Any] = {"client": {"limits": FAST}}

LOSSES = (*BEFORE, *AFTER)

PNG = b"\x89PNG\r\n\x1a\n"


def prompts_of(sandbox: Sandbox) -> Counter[str]:
    """How many tasks of each prompt a sandbox has made."""
    return Counter(sandbox.ledger.tasks_by_prompt())


async def test_a_service_is_used_as_any_provider(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """A result is as if it were made here, its pictures come from the service, and its id collects it again."""
    async with service(imagen_sandbox, tmp_path / "s") as asker, client_through(asker.url) as client:
        result = await client.generate("a fox", model="imagen4-fast", aspect_ratio="16:9", num_images=None)
        assert (result.provider, result.model, result.credits, result.ignored) == ("served", "imagen4-fast", 4.0, ())
        assert result.request.aspect_ratio == "16:9"
        assert result.task_id is not None
        assert result.task_id.startswith("img-")
        assert result.latency is not None
        assert 0 < result.latency < 10
        (url,) = result.urls
        assert url.startswith(f"{asker.url}/files/")
        (file,) = await result.save(tmp_path / "out")
        assert Path(file).read_bytes().startswith(PNG)
        again = await client.collect(result.task_id)
        assert (again.urls, again.credits) == (result.urls, 4.0)
        job = await client.submit("a heron")
        assert job.task_id.startswith("img-")
        assert (await job).ok
        assert await client.credits() == {"served": None}
    assert prompts_of(imagen_sandbox) == {"a fox": 1, "a heron": 1}
    assert imagen_sandbox.ledger.tasks[0].input["aspect_ratio"] == "16:9"


async def test_a_key_is_one_picture_from_wherever_it_comes(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """Two clients that ask for one key get one task; another request under it is refused, and nothing is sent."""
    async with service(imagen_sandbox, tmp_path / "s") as asker:
        async with client_through(asker.url) as one, client_through(asker.url, journal=tmp_path / "run.db") as other:
            asked = [each.generate("a fox", key="order-17") for each in (one, one, other, other)]
            results = await asyncio.gather(*asked)
            assert len({result.urls for result in results}) == 1
            with pytest.raises(InvalidRequest, match="stood for another request") as caught:
                await one.generate("a heron", key="order-17")
            assert (caught.value.code, caught.value.task_id) == ("idempotency_key_reused", None)
    assert prompts_of(imagen_sandbox) == {"a fox": 1}


async def test_without_a_key_each_asks_for_its_own(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """The same prompts twice, by one client or by two, in a batch or alone, are as many pictures."""
    async with service(imagen_sandbox, tmp_path / "s", **QUICK) as asker:
        for _ in range(2):
            async with client_through(asker.url) as client:
                results = [await client.generate("a fox"), *await run(client, ["a fox", "a fox"])]
                odd = ("1", "x" * 5000, "two\nlines\0")
                results += await run(client, [ImageRequest("a fox", key=key) for key in odd])
                assert len({result.urls for result in results}) == 6
    assert prompts_of(imagen_sandbox) == {"a fox": 12}


async def test_a_batch_goes_in_groups_and_hears_its_ends(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """Many tasks travel in few calls, hardly any is asked about twice, and a journal resumes all of them."""
    requests = [f"fox {number}" for number in range(150)]
    terms: dict[str, Any] = {"journal": tmp_path / "run.db", "save_to": tmp_path / "out"}
    async with service(imagen_sandbox, tmp_path / "s", **QUICK) as asker, between(asker) as (proxy, url):
        async with client_through(url) as client:
            results = await run(client, requests, **terms)
            assert all(result.ok and Path(result.files[0]).exists() for result in results)
            assert proxy.tasks[TASKS] == 150
            assert proxy.calls[TASKS] <= 40
            assert proxy.tasks[STATUS] <= 320
            assert proxy.calls[ENDS] == 1
        async with client_through(url) as client:
            again = await run(client, requests, **terms)
            assert all(result.earlier for result in again)
            assert proxy.tasks[TASKS] == 150
    assert set(prompts_of(imagen_sandbox).values()) == {1}


@pytest.mark.parametrize(
    "fault", [pytest.param(each, marks=[] if each in ("502", "reset after") else pytest.mark.slow) for each in LOSSES]
)
async def test_a_lost_answer_is_no_unknown_outcome(imagen_sandbox: Sandbox, tmp_path: Path, fault: str) -> None:
    """Whatever becomes of calls on the way, each request is one task, and each picture comes."""
    settings: dict[str, Any] = {"timeout": 1.0} if fault == "hang" else {}
    async with service(imagen_sandbox, tmp_path / "s", **QUICK) as asker, between(asker) as (proxy, url):
        async with client_through(url, **settings) as client:
            proxy.faults = {TASKS: [fault, None, fault], STATUS: [fault], ENDS: [fault]}
            results = await run(client, [f"fox {number}" for number in range(20)])
            assert [result.error for result in results] == [None] * 20
            proxy.faults = {TASKS: [fault]}
            assert (await client.generate("a heron", key="h")).ok
    assert set(prompts_of(imagen_sandbox).values()) == {1}
    assert len(prompts_of(imagen_sandbox)) == 21


async def test_an_answer_that_never_comes_ends_with_the_deadline(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """It says that it may be made all the same; the same key is the same task, and so is the same journal."""
    async with service(imagen_sandbox, tmp_path / "s", **QUICK) as asker, between(asker) as (proxy, url):
        proxy.faults = {TASKS: ["reset after"] * 100}
        async with client_through(url) as client:
            with pytest.raises(DeadlineExceeded, match="the same task"):
                await client.generate("a fox", key="order-17", deadline=1.0)
            terms: dict[str, Any] = {"journal": tmp_path / "run.db"}
            (late,) = await run(client, ["a heron"], deadline=1.0, **terms)
            assert isinstance(late.error, DeadlineExceeded)
            proxy.faults = {}
            assert (await client.generate("a fox", key="order-17")).ok
            (result,) = await run(client, ["a heron"], **terms)
            assert result.ok
    assert prompts_of(imagen_sandbox) == {"a fox": 1, "a heron": 1}


async def test_a_lost_create_keeps_its_name_whatever_is_answered_then(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """A proxy without a service behind it ends the run; the next one asks for the same task, and pays nothing more."""
    terms: dict[str, Any] = {"journal": tmp_path / "run.db"}
    async with service(imagen_sandbox, tmp_path / "s", **QUICK) as asker, between(asker) as (proxy, url):
        proxy.faults = {TASKS: ["reset after", "404"]}
        async with client_through(url) as client:
            with pytest.raises(ConfigurationError, match="no service of this library"):
                await run(client, ["a fox"], **terms)
        async with client_through(url) as client:
            (result,) = await run(client, ["a fox"], **terms)
            assert result.ok
    assert prompts_of(imagen_sandbox) == {"a fox": 1}


async def test_a_lost_create_that_is_refused_is_held(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """By whom the repeat was refused nobody knows: leave to send again what failed makes no second task of it."""
    terms: dict[str, Any] = {"journal": tmp_path / "run.db"}
    async with service(imagen_sandbox, tmp_path / "s", **QUICK) as asker, between(asker) as (proxy, url):
        proxy.faults = {TASKS: ["reset after", "413"]}
        async with client_through(url) as client:
            (result,) = await run(client, ["a fox"], **terms)
            assert isinstance(result.error, UnknownOutcome)
            (result,) = await run(client, ["a fox"], retry_failed=True, **terms)
            assert result.ok
    assert prompts_of(imagen_sandbox) == {"a fox": 1}


async def test_what_was_lost_after_a_failure_is_found_again(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """That its first task failed is not the end of a request whose second one may be made: the next run has it."""
    terms: dict[str, Any] = {"journal": tmp_path / "run.db", "retries": 1}
    async with service(imagen_sandbox, tmp_path / "s", **QUICK) as asker, between(asker) as (proxy, url):
        imagen_sandbox.order("task", "fail_digits")
        proxy.faults = {TASKS: [None, *["reset after"] * 100]}
        async with client_through(url) as client:
            async with client.batch(["a fox"], **terms):
                while prompts_of(imagen_sandbox)["a fox"] < 2 or proxy.calls[TASKS] < 3:
                    await asyncio.sleep(0.02)
            proxy.faults = {}
            (result,) = await run(client, ["a fox"], **terms)
            assert result.ok
    assert prompts_of(imagen_sandbox) == {"a fox": 2}


async def test_a_lost_answer_costs_a_budget_nothing(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """However often a create is lost, it is one price, in this run and the next: what was paid for comes."""
    terms: dict[str, Any] = {"journal": tmp_path / "run.db", "max_credits": 24.0}
    requests = [f"fox {number}" for number in range(3)]
    async with service(imagen_sandbox, tmp_path / "s", **QUICK) as asker, between(asker) as (proxy, url):
        proxy.faults = {TASKS: ["reset after"] * 2}
        async with Client(Account("served", base_url=url, credits=8.0)) as client:
            assert [result.error for result in await run(client, requests, **terms)] == [None] * 3
            with pytest.raises(BudgetReached):
                await run(client, [*requests, "fox 3"], **terms)
            proxy.faults = {TASKS: ["reset after"] * 100}
            own: dict[str, Any] = {"journal": tmp_path / "own.db", "max_credits": 16.0}
            before = proxy.calls[TASKS]
            async with client.batch(["a heron", "an owl"], **own):
                while len(prompts_of(imagen_sandbox)) < 5 or proxy.calls[TASKS] < before + 3:
                    await asyncio.sleep(0.02)
            proxy.faults = {}
            assert [result.error for result in await run(client, ["a heron", "an owl"], **own)] == [None] * 2
    assert set(prompts_of(imagen_sandbox).values()) == {1}
    assert len(prompts_of(imagen_sandbox)) == 5


async def test_a_create_that_was_cut_off_is_asked_for_again(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """Who left while no answer had come finds the task by the same key, and by the same journal; it is one task."""
    terms: dict[str, Any] = {"journal": tmp_path / "batch.db"}
    async with service(imagen_sandbox, tmp_path / "s", **QUICK) as asker, between(asker) as (proxy, url):
        for _ in range(2):
            proxy.faults = {TASKS: ["hang", "hang", "hang"]}
            async with client_through(url, journal=tmp_path / "run.db") as client:
                lone = asyncio.ensure_future(client.generate("a fox", key="order-17"))
                async with client.batch(["a heron"], **terms):
                    while proxy.faults[TASKS]:
                        await asyncio.sleep(0.01)
                        if len(proxy.faults[TASKS]) == 2:
                            break
                lone.cancel()
        proxy.faults = {}
        async with client_through(url, journal=tmp_path / "run.db") as client:
            assert (await client.generate("a fox", key="order-17")).ok
            (result,) = await run(client, ["a heron"], **terms)
            assert result.ok
    assert prompts_of(imagen_sandbox) == {"a fox": 1, "a heron": 1}


async def test_a_task_past_its_time_is_collected(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """Given up here and there, it runs on at its provider, and is paid for: the service collects it all the same."""
    async with Sandbox(latency=Latency(median=2.0, sigma=0.0)) as slow:
        async with service(slow, tmp_path / "s", **QUICK) as asker, client_through(asker.url) as client:
            with pytest.raises(DeadlineExceeded, match="paid for: collect it") as caught:
                await client.generate("a fox", deadline=1.0)
            result = await client.collect(str(caught.value.task_id))
            assert len(result.urls) == 1
        assert prompts_of(slow) == {"a fox": 1}


async def test_pictures_go_in_from_here(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """Paths and bytes are brought to the service, once each; what it has made goes in by its address."""
    async with service(imagen_sandbox, tmp_path / "s") as asker, between(asker) as (proxy, url):
        async with client_through(url) as client:
            first = await client.generate("a fox")
            (file,) = await first.save(tmp_path / "out")
            data = Path(file).read_bytes()
            edits = [
                await client.generate("make it night", model="nano-banana-2", images=[each])
                for each in (file.path, data, first.urls[0])
            ]
            assert len({edit.urls for edit in edits}) == 3
            assert proxy.calls["/v1/files"] == 1
            key: dict[str, Any] = {"model": "nano-banana-2", "images": [data], "key": "night"}
            one, other = await client.generate("make it night", **key), await client.generate("make it night", **key)
            assert one.urls == other.urls
            with pytest.raises(InvalidRequest, match="there is no such picture here"):
                gone = f"{url}/v1/files/{'0' * 64}"
                await client.generate("make it night", model="nano-banana-2", images=[gone])
    assert list(imagen_sandbox.ledger.uploads.values()) == [1]
    assert imagen_sandbox.ledger.key_leaks == 0


FAILURES: list[tuple[str, str, type[Exception]]] = [
    ("task", "fail_digits", GenerationFailed),
    ("create", "500", InvalidRequest),
    ("create", "reset_after", UnknownOutcome),
    ("create", "model_gone", ModelUnavailable),
    ("create", "402", InsufficientCredits),
    ("create", "401", AuthenticationError),
]


@pytest.mark.parametrize(("road", "fault", "kind"), FAILURES)
async def test_an_error_is_what_it_would_be_here(
    imagen_sandbox: Sandbox, tmp_path: Path, road: Any, fault: str, kind: type[Exception]
) -> None:
    """The class, the message and the code are those that the service has met; the task is known by its id there."""
    async with service(imagen_sandbox, tmp_path / "s") as asker, client_through(asker.url) as client:
        imagen_sandbox.order(road, fault)
        with pytest.raises(kind) as caught:
            await client.generate("a fox")
        error: Any = caught.value
        assert (type(error), error.provider) == (kind, "served")
        imagen_sandbox.order(road, fault)
    async with service(imagen_sandbox, tmp_path / "t"):
        direct = Client("sandbox", api_key=imagen_sandbox.key, base_url=imagen_sandbox.url)
        async with direct as client:
            with pytest.raises(kind) as caught:
                await client.generate("a fox")
    own: Any = caught.value
    assert (error.code, error.message) == (own.code, own.message)
    assert error.task_id is None or error.task_id.startswith("img-")
    assert getattr(error, "credits", None) == getattr(own, "credits", None)


async def test_what_the_service_has_lost_is_not_made_anew(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """Leave to send again what failed is none for what may be billed: that has its own; a request's key has both."""
    terms: dict[str, Any] = {"journal": tmp_path / "run.db"}
    async with service(imagen_sandbox, tmp_path / "s", **QUICK) as asker, client_through(asker.url) as client:
        imagen_sandbox.order("create", "reset_after")
        for leave in ({}, {"retry_failed": True}, {}):
            (result,) = await run(client, ["a fox"], **leave, **terms)
            assert isinstance(result.error, UnknownOutcome)
        (result,) = await run(client, ["a fox"], on_unknown="resubmit", **terms)
        assert result.ok
        imagen_sandbox.order("create", "reset_after")
        async with client_through(asker.url, journal=tmp_path / "singles.db") as single:
            for _ in range(2):
                with pytest.raises(UnknownOutcome):
                    await single.generate("a heron", key="h")
            assert (await single.generate("a heron", key="h", retry_failed=True)).ok
    assert prompts_of(imagen_sandbox) == {"a fox": 2, "a heron": 2}


async def test_a_task_whose_id_was_handed_out_is_made(tmp_path: Path) -> None:
    """Whoever has submitted it may leave, and whoever collects it may give up: it is there for the next to collect."""
    limits = Limits(submit=Rate(1, per=0.5), running=100)
    async with Sandbox(latency=Latency(median=0.1, sigma=0)) as sandbox:
        accounts = [Account("sandbox", api_key=sandbox.key, base_url=sandbox.url, limits=limits)]
        async with service(sandbox, tmp_path / "s", accounts=accounts) as asker:
            async with client_through(asker.url) as client:
                first = await client.submit("a fox")
                job = await client.submit("a heron")
            async with client_through(asker.url) as client:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(client.collect(job.task_id), 0.01)
                for each in (first, job):
                    assert len((await client.collect(each.task_id)).urls) == 1
        assert prompts_of(sandbox) == {"a fox": 1, "a heron": 1}


async def _wrong(request: web.Request) -> web.StreamResponse:
    if request.path.startswith("/html"):
        return web.Response(status=501, text="<!DOCTYPE html><title>Not here</title>", content_type="text/html")
    raise web.HTTPNotFound


@pytest.mark.parametrize(
    ("where", "collects"),
    [("/nothing", False), *(pytest.param("/html", each, marks=pytest.mark.slow) for each in (False, True))],
)
async def test_what_is_no_service_is_given_up(caplog: pytest.LogCaptureFixture, where: str, *, collects: bool) -> None:
    """A wrong address is told in moments, by a create and by who collects; nothing waits for a deadline."""
    async with served(_wrong) as url, client_through(f"{url}{where}") as client:
        with pytest.raises(ImagenError, match="base URL"):
            await (client.collect("img-1") if collects else client.generate("a fox"))
    told = [record for record in caplog.records if "no word of what runs there" in record.getMessage()]
    assert [record.levelname for record in told if record.levelname != "DEBUG"] == ["WARNING"] * collects


async def test_the_address_is_that_which_a_service_says(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """As OpenAI's clients are told it, too."""
    async with service(imagen_sandbox, tmp_path / "s") as asker, client_through(f"{asker.url}/v1/") as client:
        assert (await client.generate("a fox")).ok


async def test_what_nobody_has_is_in_nobodys_place(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """A model that none of the service's accounts has keeps none of the others from being made, wherever it stands."""
    async with service(imagen_sandbox, tmp_path / "s") as asker, client_through(asker.url) as client:
        for models in ("imagen4-fast,nano-banana-pro-flash", "nano-banana-pro-flash,imagen4-fast"):
            assert (await client.generate("a fox", model=models)).model == "imagen4-fast"


async def test_a_failed_task_is_made_anew_where_that_is_wanted(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """By `retries`, or once by `retry_failed`, from whichever client; who asks again without gets the newest."""
    async with service(imagen_sandbox, tmp_path / "s", **QUICK) as asker:
        async with client_through(asker.url) as client, client_through(asker.url, journal=tmp_path / "j.db") as other:
            imagen_sandbox.order("task", "fail_digits")
            (result,) = await run(client, ["a fox"], retries=1)
            assert result.ok
            for count, own in enumerate((client, other), 1):
                imagen_sandbox.order("task", "fail_digits", "fail_digits")
                key = f"order-{count}"
                for again in (False, False, True, False):
                    with pytest.raises(GenerationFailed):
                        await own.generate("a heron", key=key, retry_failed=again)
                assert prompts_of(imagen_sandbox)["a heron"] == 3 * count - 1
                made = await own.generate("a heron", key=key, retry_failed=True)
                for each in (client, other):
                    assert (await each.generate("a heron", key=key, retry_failed=True)).urls == made.urls
                    assert (await each.generate("a heron", key=key)).urls == made.urls
    assert prompts_of(imagen_sandbox) == {"a fox": 2, "a heron": 6}


async def test_another_model_is_the_service_s_matter(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """Of several models the next one is asked there, under the same name; the result says which one has made it."""
    async with service(imagen_sandbox, tmp_path / "s") as asker, client_through(asker.url) as client:
        imagen_sandbox.order("task", "fail_word")
        asked: dict[str, Any] = {"model": "imagen4,imagen4-fast", "key": "k", "on_refused": "next"}
        result = await client.generate("a fox", **asked)
        assert (result.model, result.request.model) == ("imagen4-fast", "imagen4")
        assert (await client.generate("a fox", **asked)).urls == result.urls
    assert prompts_of(imagen_sandbox) == {"a fox": 2}


async def test_another_model_after_a_service_of_several_accounts(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """What was refused at a service may go on elsewhere, and comes back there: the end of each task is heard."""
    imagen_sandbox.faults.keep("task", "fail_word")
    direct = Account("sandbox", api_key=imagen_sandbox.key, base_url=imagen_sandbox.url, limits=FAST)
    async with service(imagen_sandbox, tmp_path / "s", **QUICK) as asker:
        async with Client(direct, Account("served", base_url=asker.url)) as client:
            requests = [ImageRequest(f"fox {number}", model="imagen4,imagen4-fast") for number in range(8)]
            async with client.batch(requests, on_refused="next") as batch, asyncio.timeout(40):
                results = [result async for result in batch]
                assert [each.running for each in batch.progress.accounts] == [0, 0]
    assert {type(result.error) for result in results} == {GenerationFailed}


async def test_a_key_that_failed_elsewhere_is_new_at_a_service(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """Its task of another account has no name there: where a new one is wanted, it is made."""
    direct = Account("sandbox", api_key=imagen_sandbox.key, base_url=imagen_sandbox.url)
    async with service(imagen_sandbox, tmp_path / "s", **QUICK) as asker:
        imagen_sandbox.order("task", "fail_digits")
        async with Client(direct, journal=tmp_path / "j.db") as client:
            with pytest.raises(GenerationFailed):
                await client.generate("a fox", key="k")
        both = (Account("served", base_url=asker.url), direct)
        async with Client(*both, policy="in_order", journal=tmp_path / "j.db") as client:
            result = await client.generate("a fox", key="k", retry_failed=True)
            assert result.provider == "served"
    assert prompts_of(imagen_sandbox) == {"a fox": 2}


async def stand(asker: Asker, ids: list[str], word: str) -> None:
    """Wait until the service says that of all these tasks."""
    while True:
        told = await asker.ask("POST", STATUS, json={"ids": ids})
        if {each["status"] for each in told.body["tasks"]} == {word}:
            return
        await asyncio.sleep(0.02)


async def test_who_leaves_has_nothing_more_sent(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """What waits at the service is called off there, as not sent; the next run sends it, and pays once."""
    imagen_sandbox.faults.keep("create", "429")
    terms: dict[str, Any] = {"journal": tmp_path / "run.db"}
    async with service(imagen_sandbox, tmp_path / "s", **QUICK) as asker:
        heard = Heard()
        async with client_through(asker.url, on_event=heard) as client:
            async with client.batch([f"fox {number}" for number in range(20)], **terms) as results:
                await heard.job("running", 20)
            assert results.leftover == ()
            ids = [str(each.task_id) for each in heard.jobs("running")]
            await stand(asker, ids, "unsent")
            lone = asyncio.ensure_future(client.generate("a heron", key="h"))
            await heard.job("running", 21)
            lone.cancel()
            await stand(asker, [str(heard.jobs("running")[-1].task_id)], "unsent")
            imagen_sandbox.faults.keep("create", None)
            assert (await client.generate("a heron", key="h")).ok
            again = await run(client, [f"fox {number}" for number in range(20)], **terms)
            assert [result.error for result in again] == [None] * 20
    assert set(prompts_of(imagen_sandbox).values()) == {1}
    assert len(prompts_of(imagen_sandbox)) == 21


async def test_who_calls_off_does_not_wait_for_what_has_left(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """A create on its way to the provider is made: the answer about it, and all others of its call, comes at once."""
    create = "/api/v1/jobs/createTask"
    async with aiohttp.ClientSession() as session:
        async with between(Asker(imagen_sandbox.url, session)) as (proxy, url):
            proxy.faults = {create: ["hang"]}
            terms: dict[str, Any] = {"client": {"timeout": 10.0}, "grace": 0.5}
            account = Account("sandbox", api_key=imagen_sandbox.key, base_url=url)
            async with service(imagen_sandbox, tmp_path / "s", accounts=[account], **terms) as asker:
                tasks = [{"key": prompt, "request": {"prompt": prompt}} for prompt in ("a fox", "a heron")]
                told = (await asker.ask("POST", TASKS, json={"tasks": tasks})).body["tasks"]
                while not proxy.calls[create]:
                    await asyncio.sleep(0.02)
                ids = [each["id"] for each in told]
                told = (await asker.ask("POST", "/v1/tasks/cancel", json={"ids": ids})).body["tasks"]
                assert sorted(each["status"] for each in told) in (["queued", "unsent"], ["running", "unsent"])
    assert sum(prompts_of(imagen_sandbox).values()) == 1


async def test_a_service_has_room_for_so_many(
    imagen_sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond its bound nothing is taken: the client waits, comes again, and in the end all is made."""
    monkeypatch.setattr(tasks_module, "MOST_UNFINISHED", 5)
    async with service(imagen_sandbox, tmp_path / "s", **QUICK) as asker, client_through(asker.url) as client:
        results = await run(client, [f"fox {number}" for number in range(12)])
        assert [result.error for result in results] == [None] * 12
    assert set(prompts_of(imagen_sandbox).values()) == {1}


async def test_a_group_without_room_is_refused_by_one_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is unfinished is looked through once for a group, not for each of its tasks: all others wait meanwhile."""
    live, looks = ServiceDesk.live, list[str]()

    def looked(desk: ServiceDesk, order_id: str) -> object:
        looks.append(order_id)
        return live(desk, order_id)

    monkeypatch.setattr(tasks_module, "MOST_UNFINISHED", 5)
    monkeypatch.setattr(ServiceDesk, "live", looked)
    async with Sandbox(latency=Latency(median=600)) as sandbox, service(sandbox, tmp_path, grace=0, **QUICK) as asker:

        def tasks(word: str, count: int) -> list[dict[str, Any]]:
            return [{"key": f"{word}-{each}", "request": {"prompt": "a fox"}} for each in range(count)]

        taken = await asker.ask("POST", TASKS, json={"tasks": tasks("first", 5)})
        assert all(told["status"] == "queued" for told in taken.body["tasks"])
        looks.clear()
        refused = await asker.ask("POST", TASKS, json={"tasks": tasks("second", 100)})
        assert [told["error"]["code"] for told in refused.body["tasks"]] == ["too_many_unfinished"] * 100
        assert len(looks) == 5


async def test_callers_have_their_keys_models_and_budgets(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """A wrong key, a model that is not allowed, and a budget that is reached are what they would be here."""
    path = tmp_path / "callers.toml"
    other = new_caller(path, "lab").key
    key = new_caller(path, "shop").key
    path.write_text(path.read_text() + 'models = ["imagen4-fast", "imagen4"]\nbudget = 9.0\n')
    async with service(imagen_sandbox, tmp_path / "s", callers=path, **QUICK) as asker:
        async with client_through(asker.url, api_key="wrong") as client:
            with pytest.raises(AuthenticationError):
                await client.generate("a fox")
        async with client_through(asker.url) as client:
            with pytest.raises(AuthenticationError):
                await client.generate("a fox")
        async with client_through(asker.url, api_key=key) as client:
            with pytest.raises(ModelUnavailable, match="may not use the model"):
                await client.generate("a fox", model="imagen4-ultra")
            made = await client.generate("a fox", model="imagen4-fast")
            with pytest.raises(BudgetReached, match="budget in all of caller shop is reached"):
                await client.generate("a heron", model="imagen4")
            assert key not in str(made)
        async with client_through(asker.url, api_key=other) as client:
            with pytest.raises(InvalidRequest, match="does not know this task"):
                await client.collect(str(made.task_id))
    assert prompts_of(imagen_sandbox) == {"a fox": 1}


async def test_an_account_that_stops_at_the_service_stops_here(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """Without credit there, a batch ends with that error, and what was not sent is sent by the next run."""
    terms: dict[str, Any] = {"journal": tmp_path / "run.db"}
    requests = [f"fox {number}" for number in range(30)]
    imagen_sandbox.faults.keep("create", "402")
    async with service(imagen_sandbox, tmp_path / "s", **QUICK) as asker, client_through(asker.url) as client:
        async with client.batch(requests, **terms) as results:
            with pytest.raises(InsufficientCredits):
                async for _ in results:
                    pass
    imagen_sandbox.faults.keep("create", None)
    async with service(imagen_sandbox, tmp_path / "s", **QUICK) as asker, client_through(asker.url) as client:
        results = await run(client, requests, **terms)
        assert [result.error for result in results] == [None] * 30
    assert set(prompts_of(imagen_sandbox).values()) == {1}


async def test_an_end_that_could_not_be_noted_is_noted_later(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """While a task's end is not in the book it runs, to whoever asks; once it is, its picture can be fetched."""
    async with service(imagen_sandbox, tmp_path / "s", **QUICK) as asker:
        with contextlib.closing(sqlite3.connect(tmp_path / "s" / "serve.db", isolation_level=None)) as book:
            book.execute("CREATE TRIGGER full BEFORE UPDATE ON orders BEGIN SELECT RAISE(ABORT, 'no room'); END")
            told = await asker.ask("POST", TASKS, json={"tasks": [{"key": "k", "request": {"prompt": "a fox"}}]})
            ids = [told.body["tasks"][0]["id"]]
            await stand(asker, ids, "running")
            while not list((tmp_path / "s").glob("*.png")):
                await asyncio.sleep(0.02)
            for _ in range(50):
                told = await asker.ask("POST", STATUS, json={"ids": ids})
                assert told.body["tasks"][0]["status"] in ("queued", "running")
            book.execute("DROP TRIGGER full")
        await stand(asker, ids, "done")
        (done,) = (await asker.ask("POST", STATUS, json={"ids": ids})).body["tasks"]
        async with asker.session.get(done["urls"][0]) as response:
            assert response.status == 200
    assert prompts_of(imagen_sandbox) == {"a fox": 1}


async def test_a_service_that_comes_back_is_gone_on_with(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """It leaves in the midst of a batch, with orders that wait and orders that run: nothing is lost, nothing twice."""
    requests = [f"fox {number}" for number in range(60)]
    slow = {"client": {"limits": Limits(Rate(10, per=0.5), Rate(500, per=0.5), running=10)}}
    with free_socket() as (_, port):
        pass
    heard = Heard()
    async with client_through(f"http://127.0.0.1:{port}", on_event=heard) as client:
        async with service(imagen_sandbox, tmp_path / "s", port=port, grace=0.5, **slow):
            running = asyncio.ensure_future(run(client, requests))
            await heard.job("done", 5)
        async with service(imagen_sandbox, tmp_path / "s", port=port, **QUICK):
            results = await running
            assert [result.error for result in results] == [None] * 60
    assert set(prompts_of(imagen_sandbox).values()) == {1}


def test_where_a_key_may_go_unencrypted() -> None:
    """To a service at an address, or a name, of one's own networks; to any other host, and provider, https alone."""
    inside = ("10.0.0.5", "192.168.1.2", "127.0.0.1", "[fd00::1]", "serve", "box.local", "serve.ns.svc", "a.internal")
    for host in (*inside, "nas.lan", "x.home.arpa", "serve.ns.svc.cluster.local", "localhost", "100.64.0.1"):
        Client(Account("served", base_url=f"http://{host}:8790", api_key="k"))
        if host not in ("127.0.0.1", "localhost"):
            with pytest.raises(ConfigurationError, match="unencrypted"):
                Client(Account("kie", base_url=f"http://{host}:8790", api_key="k"))
    for host in ("example.com", "8.8.8.8", "local.example.com", "internal.com", "[2001:4860:4860::8888]"):
        Client(Account("served", base_url=f"https://{host}", api_key="k"))
        with pytest.raises(ConfigurationError, match="unencrypted"):
            Client(Account("served", base_url=f"http://{host}:8790", api_key="k"))
    with pytest.raises(ConfigurationError, match="SERVED_API_KEY"):
        Client(Account("served", base_url="http://10.0.0.5:8790"))
    with pytest.raises(ConfigurationError, match="imagen-async serve says its address"):
        Client(Account("served", api_key="k"))


async def test_an_unencrypted_way_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """With the address, and without the key; on this machine nobody is told."""
    for host, count in (("10.0.0.5", 1), ("127.0.0.1", 0)):
        caplog.clear()
        async with Client(Account("served", base_url=f"http://{host}:8790", api_key="secret-key")):
            pass
        told = [record.getMessage() for record in caplog.records if "unencrypted" in record.getMessage()]
        assert len(told) == count
        assert all(host in each and "secret-key" not in each for each in told)


async def test_what_is_no_service_is_told(imagen_sandbox: Sandbox) -> None:
    """Another server at the address, or one that leads elsewhere, ends at once with what to do."""

    async def elsewhere(request: web.Request) -> web.StreamResponse:
        return web.Response(status=308, headers={"Location": "https://example.com/"})

    async with client_through(imagen_sandbox.url) as client:
        with pytest.raises(ConfigurationError, match="no service of this library"):
            await client.generate("a fox")
    async with served(elsewhere) as url, client_through(url) as client:
        with pytest.raises(ConfigurationError, match=r"redirects to https://example\.com/"):
            await client.generate("a fox")


BAD_BODIES: list[tuple[str, bytes]] = [
    (TASKS, b"{"),
    (TASKS, b"[]"),
    (TASKS, b'{"tasks": 7}'),
    (TASKS, b"[" * 100_000),
    (TASKS, b'{"tasks": [' + b"null," * 1000 + b"null]}"),
    (STATUS, b'{"ids": [7]}'),
    (STATUS, b'{"ids": {}}'),
    ("/v1/tasks/cancel", b"\xff"),
]

BAD_TASKS: list[tuple[dict[str, Any], str]] = [
    ({}, "request"),
    ({"request": {}}, "key"),
    ({"key": "", "request": {}}, "key"),
    ({"key": "k" * 1001, "request": {}}, "key"),
    ({"key": "a\0b", "request": {}}, "key"),
    ({"key": 7, "request": {}}, "key"),
    ({"key": "k", "request": {"prompt": 7}}, "prompt"),
    ({"key": "k", "request": {"prompt": "x", "seed": True}}, "seed"),
    ({"key": "k", "request": {"prompt": "x", "path": "/etc/passwd"}}, "path"),
    ({"key": "k", "request": {"prompt": "x", "extra": []}}, "extra"),
    ({"key": "k", "request": {"prompt": "x", "model": "imagen9"}}, "imagen9"),
    ({"key": "k", "request": {"prompt": "x", "model": "nano-banana-2", "images": ["/etc/passwd"]}}, "images"),
    ({"key": "k", "request": {"prompt": "x", "model": "nano-banana-2", "images": ["sha256:00"]}}, "images"),
    ({"key": "k", "request": {"prompt": "x"}, "deadline": -1}, "deadline"),
    ({"key": "k", "request": {"prompt": "x"}, "deadline": 1e300}, "deadline"),
    ({"key": "k", "request": {"prompt": "x"}, "after": "img-none"}, "after"),
    ({"key": "k", "request": {"prompt": "x"}, "instead": ["raw:x"]}, "instead"),
    ({"key": "k", "request": {"prompt": "x"}, "on_refused": "ask"}, "on_refused"),
    ({"key": "k", "request": {"prompt": "x"}, "callback_url": "https://x.example"}, "callback_url"),
]


async def test_what_is_no_task_is_told(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """A bad body is refused as a whole; a bad task alone, with the field that is wrong, beside the good ones."""
    async with service(imagen_sandbox, tmp_path / "s", **QUICK) as asker:
        for path, body in BAD_BODIES:
            with naming(path, body[:20]):
                answer = await asker.ask("POST", path, {"Content-Type": "application/json"}, data=body)
                assert answer.status in (400, 413)
        good = {"key": "good", "request": {"prompt": "a fox"}}
        tasks = [*(task for task, _ in BAD_TASKS), None, good, good]
        told = (await asker.ask("POST", TASKS, json={"tasks": tasks})).body["tasks"]
        for (task, field), each in zip(BAD_TASKS, told, strict=False):
            with naming(task):
                assert each["error"]["status"] in (400, 404)
                assert field in each["error"]["message"]
        assert told[-3] == {}
        assert told[-2]["id"] == told[-1]["id"]
        deep = '{"key": "deep", "request": {"prompt": "x", "extra": {"x": %s}}}' % ("[" * 800 + "]" * 800)
        body = f'{{"tasks": [{deep}, {json.dumps(good)}]}}'
        answer = await asker.ask("POST", TASKS, {"Content-Type": "application/json"}, data=body)
        assert answer.body["tasks"][0]["error"]["status"] in (400, 424)
        assert answer.body["tasks"][1]["id"] == told[-1]["id"]
        form = aiohttp.FormData({"image": "no file"}, default_to_multipart=True)
        answer = await asker.ask("POST", "/v1/files", {"Authorization": "Bearer x"}, data=form)
        assert answer.status == 400
        await stand(asker, [told[-1]["id"]], "done")
    assert prompts_of(imagen_sandbox) == {"a fox": 1}
