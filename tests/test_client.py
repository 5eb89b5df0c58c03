"""The client against the real sandbox server: one picture at a time, errors, attaching, leaving, several loops."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import traceback
import warnings
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from imagen_async import (
    Account,
    AuthenticationError,
    Client,
    ConfigurationError,
    DeadlineExceeded,
    GenerationFailed,
    ImageRequest,
    InsufficientCredits,
    InvalidRequest,
    Job,
    Limits,
    ModelUnavailable,
    Rate,
    Result,
    TransportError,
    UnknownOutcome,
    raw_model,
)
from imagen_async.sandbox import CREATE_FAULTS, POLL_FAULTS, TASK_FAULTS, Latency, Sandbox
from imagen_async.testing import running_sandbox


def client_of(sandbox: Sandbox, **settings: Any) -> Client:
    """A client of the sandbox in the other thread."""
    return Client("sandbox", api_key=sandbox.key, base_url=sandbox.url, **settings)


async def test_generate_makes_a_picture_and_saves_it(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """One call gives URLs, credits and latency; save gives a PNG."""
    async with client_of(imagen_sandbox) as client:
        result = await client.generate("a bowl of ramen", model="imagen4-ultra", aspect_ratio="16:9")
        (file,) = await result.save(tmp_path / "out")
    assert result.ok
    assert (result.provider, result.model, result.credits) == ("sandbox", "imagen4-ultra", 12)
    assert result.latency == pytest.approx(0.05, abs=0.2)
    assert json.loads(result.raw)["data"]["state"] == "success"
    assert Path(file).name == "000000-a-bowl-of-ramen.png"
    assert imagen_sandbox.ledger.key_leaks == 0


async def test_every_provider_is_spoken_to_in_its_own_way(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """The same request, with an aspect ratio, gives pictures at all four providers' APIs."""

    async def try_one(name: str) -> Result:
        account = Account(name, api_key=imagen_sandbox.key, base_url=imagen_sandbox.url_of(name))
        async with Client(account) as client:
            result = await client.generate("a fox", model="imagen4-ultra", aspect_ratio="9:16", seed=7)
            await result.save(tmp_path / name)
            return result

    names = ("kie", "apikley", "liangxin", "apiin")
    results = await asyncio.gather(*map(try_one, names))
    assert [result.provider for result in results] == list(names)
    wire = {create.provider: create.input for create in imagen_sandbox.ledger.creates}
    assert wire["kie"] == wire["apikley"] == {"prompt": "a fox", "aspect_ratio": "9:16", "seed": "7"}
    assert wire["liangxin"] == {"prompt": "a fox", "aspect_ratio": "social_story_9_16", "seed": 7}
    assert wire["apiin"] == {"prompt": "a fox", "aspect_ratio": "9:16", "seed": 7}
    assert [result.latency is None for result in results] == [False, False, False, True]


async def test_a_raw_model_sends_its_extra_unchecked(imagen_sandbox: Sandbox) -> None:
    """A model without a record goes out under its own name; the provider's refusal of it is ModelUnavailable."""
    async with client_of(imagen_sandbox) as client:
        with pytest.raises(ModelUnavailable, match="not supported"):
            await client.generate("x", model=raw_model("seedream/5-lite"), extra={"quality": "basic"})
    (create,) = imagen_sandbox.ledger.creates
    assert (create.model, create.input) == ("seedream/5-lite", {"prompt": "x", "quality": "basic"})


async def test_submit_returns_with_the_task_id_and_the_job_is_awaited(imagen_sandbox: Sandbox) -> None:
    """The job names its task as soon as the provider took it, and can be awaited more than once."""
    async with client_of(imagen_sandbox) as client:
        job = await client.submit(ImageRequest("x", key="mine"))
        assert (job.task_id, job.key) == (imagen_sandbox.ledger.creates[0].task_id, "mine")
        assert (await job).urls == (await job).urls != ()


async def test_collect_attaches_to_a_task_of_an_earlier_client(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """A task id is enough to have the picture, and nothing is created."""
    async with client_of(imagen_sandbox) as client:
        job = await client.submit("x")
    async with client_of(imagen_sandbox) as client:
        result = await client.collect(job.task_id, provider="sandbox")
        (file,) = await result.save(tmp_path)
    assert result.task_id == job.task_id
    assert job.task_id in Path(file).name
    assert len(imagen_sandbox.ledger.creates) == 1


async def test_collect_says_at_once_that_a_task_is_unknown(imagen_sandbox: Sandbox) -> None:
    """A task id that the provider does not know is an error now, not after the deadline."""
    async with client_of(imagen_sandbox) as client:
        with pytest.raises(InvalidRequest, match="knows no such task"):
            await client.collect("no-such-task")
        with pytest.raises(ConfigurationError, match="no account"):
            await client.collect("x", provider="kie")


async def test_a_smaller_freshness_asks_more_often_and_sees_sooner() -> None:
    """A picture of which a client values a status call less is asked about more often; both are seen."""
    with running_sandbox(Sandbox(latency=Latency(median=1.0, sigma=0))) as sandbox:

        async def ask(freshness: float) -> int:
            async with client_of(sandbox, freshness=freshness) as client:
                return sandbox.ledger.polls[str((await client.generate("x")).task_id)]

        few, many = await asyncio.gather(ask(0.3), ask(0.005))
    assert 1 <= few < many / 2


@pytest.mark.parametrize("freshness", [0, -1, float("nan"), float("inf"), True, "0.1", None])
def test_a_freshness_that_cannot_be_meant_is_refused(freshness: Any) -> None:
    """A freshness that is no number of seconds above 0 is refused when the client is made, by its name."""
    with pytest.raises(ConfigurationError, match="freshness="):
        Client("sandbox", freshness=freshness)


async def test_a_deadline_names_the_task_and_collect_takes_it() -> None:
    """generate gives up in time; the task goes on and its picture is not lost."""
    with running_sandbox(Sandbox(latency=Latency(median=1.2, sigma=0))) as sandbox:
        async with client_of(sandbox) as client:
            with pytest.raises(DeadlineExceeded, match="collect") as caught:
                await client.generate("x", deadline=0.4)
            assert caught.value.task_id is not None
            assert (await client.collect(caught.value.task_id)).ok


@pytest.mark.parametrize("fault", POLL_FAULTS)
async def test_no_trouble_while_polling_fails_a_job(imagen_sandbox: Sandbox, fault: str) -> None:
    """Whatever a status call meets, it is repeated, the task is not, and the picture comes."""
    imagen_sandbox.order("poll", fault, fault)
    async with client_of(imagen_sandbox, timeout=2) as client:
        result = await client.generate("x")
    assert result.ok
    assert len(imagen_sandbox.ledger.creates) == 1


@pytest.mark.parametrize("fault", CREATE_FAULTS)
async def test_no_trouble_with_a_create_makes_two_tasks(imagen_sandbox: Sandbox, fault: str) -> None:
    """Over real sockets too, a prompt makes at most one task, whatever its create meets."""
    imagen_sandbox.order("create", fault)
    async with client_of(imagen_sandbox) as client:
        try:
            await client.generate("x")
            error = None
        except (UnknownOutcome, InvalidRequest) as caught:
            error = caught
    assert len(imagen_sandbox.ledger.tasks) <= 1
    sent_again = fault in ("429", "http_429", "455")
    assert len(imagen_sandbox.ledger.creates) == 1 + sent_again
    assert (error is None) == sent_again


@pytest.mark.parametrize("fault", TASK_FAULTS)
async def test_every_end_of_a_task_is_read(imagen_sandbox: Sandbox, fault: str) -> None:
    """Failures are GenerationFailed with their code; odd shapes of success give their pictures."""
    imagen_sandbox.order("task", fault)
    async with client_of(imagen_sandbox) as client:
        if fault in ("fail_digits", "fail_word", "no_urls"):
            with pytest.raises(GenerationFailed) as caught:
                await client.generate("x")
            assert caught.value.code in ("500", "SENSITIVE_WORD_ERROR", "no_urls")
            assert caught.value.task_id == imagen_sandbox.ledger.creates[0].task_id
        else:
            result = await client.generate("x")
            assert len(result.urls) == (4 if fault == "more_urls" else 1)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("401", AuthenticationError),
        ("402", InsufficientCredits),
        ("no_credit_500", InsufficientCredits),
        ("433", InsufficientCredits),
    ],
)
async def test_account_errors_are_told_apart(imagen_sandbox: Sandbox, fault: str, error: type[Exception]) -> None:
    """A refused key and an empty account are different errors, and neither is tried again."""
    imagen_sandbox.order("create", fault)
    async with client_of(imagen_sandbox) as client:
        with pytest.raises(error):
            await client.generate("x")
    assert len(imagen_sandbox.ledger.creates) == 1


async def test_a_wrong_key_shows_in_no_message(imagen_sandbox: Sandbox) -> None:
    """The refusal names the provider and not the key."""
    async with Client("sandbox", api_key="sk-wrong-and-secret", base_url=imagen_sandbox.url) as client:
        with pytest.raises(AuthenticationError) as caught:
            await client.generate("x")
        with pytest.raises(AuthenticationError):
            await client.credits()
    assert "secret" not in f"{caught.value!r} {caught.value} {client!r}"
    assert "sandbox" in str(caught.value)


async def test_each_caller_raises_an_error_of_its_own(imagen_sandbox: Sandbox) -> None:
    """Twenty callers of an account that its wrong key has stopped raise twenty objects, each with its own traceback."""
    async with Client("sandbox", api_key="wrong-key-0123456789", base_url=imagen_sandbox.url) as client:
        job_errors = await asyncio.gather(*(client.generate(f"{n}") for n in range(20)), return_exceptions=True)
        again = await asyncio.gather(*(client.submit("once more") for _ in range(2)), return_exceptions=True)
    errors = [*job_errors, *again]
    assert {type(error) for error in errors} == {AuthenticationError}
    assert len({id(error) for error in errors}) == 22
    frames = [len(traceback.extract_tb(error.__traceback__)) for error in errors if isinstance(error, BaseException)]
    assert max(frames) < 10, "no traceback goes on where another caller's ended"


async def test_a_job_awaited_twice_raises_twice(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """Whoever awaits a job that failed gets an error of its own, and so does who saves its result."""
    imagen_sandbox.order("task", "fail_word")
    async with client_of(imagen_sandbox) as client:
        job = await client.submit("a fox")
        errors = await asyncio.gather(*(_awaited(job) for _ in range(2)), return_exceptions=True)
        async with client.batch(["a heron"]) as results:
            imagen_sandbox.order("task", "fail_word")
            (result,) = [result async for result in results]
        saving = await asyncio.gather(*(result.save(tmp_path) for _ in range(2)), return_exceptions=True)
    assert len({id(error) for error in (*errors, *saving, result.error)}) == 5
    assert {type(error) for error in (*errors, *saving, result.error)} == {GenerationFailed}


async def _awaited(job: Job) -> Result:
    return await job


async def test_an_address_where_nobody_listens(imagen_sandbox: Sandbox) -> None:
    """The error comes in seconds, says that nothing was sent, and what to check."""
    limits = Limits(Rate(5, per=0.1), Rate(5, per=0.1), 5)
    async with Client("kie", api_key="k" * 20, base_url="http://127.0.0.1:9", limits=limits) as client:
        with pytest.raises(DeadlineExceeded, match="nothing was billed"):
            await client.generate("x", deadline=0.5)


async def test_credits(imagen_sandbox: Sandbox) -> None:
    """The balance is a float by account, and None where the API does not tell."""
    async with client_of(imagen_sandbox) as client:
        assert await client.credits() == {"sandbox": 1_000_000.0}
    async with Client("apiin", api_key=imagen_sandbox.key, base_url=imagen_sandbox.url_of("apiin")) as client:
        assert await client.credits() == {"apiin": None}


async def test_cancelling_generate_stops_it_and_tells_its_task(
    imagen_sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    """A cancelled call asks no more; a task that runs by then is logged with its id, for it is paid for."""
    async with client_of(imagen_sandbox) as client:
        with caplog.at_level(logging.WARNING, "imagen_async"), anyio.move_on_after(0.15):
            await client.generate("x")
        polls = len(imagen_sandbox.ledger.poll_times)
        assert (await client.generate("y")).ok
    (first, _) = imagen_sandbox.ledger.creates
    assert first.task_id is not None
    assert first.task_id in caplog.text
    assert imagen_sandbox.ledger.polls[first.task_id] <= polls


@pytest.mark.parametrize("turns", range(8))
async def test_a_call_that_has_just_begun_does_not_hold_up_leaving(imagen_sandbox: Sandbox, turns: int) -> None:
    """Whatever a call in another task has come to, its exchange not even begun, the client is left at once."""
    with anyio.fail_after(5):
        async with client_of(imagen_sandbox) as client:
            await asyncio.sleep(0.01)
            call = asyncio.create_task(client.collect("no-such-task"))
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
        with pytest.raises((InvalidRequest, DeadlineExceeded, ConfigurationError)):
            await call
        async with client_of(imagen_sandbox) as client:
            await client.credits()  # by now the server has seen what became of the first connection


async def test_leaving_the_client_ends_a_waiting_call(imagen_sandbox: Sandbox) -> None:
    """Who still waits when the client is left hears which task runs on."""
    with running_sandbox(Sandbox(latency=Latency(median=60))) as slow:
        async with client_of(slow) as client:
            job = await client.submit("x")
        with pytest.raises(DeadlineExceeded, match="Left while the task ran") as caught:
            await job
        assert caught.value.task_id == job.task_id


async def test_an_error_in_the_block_comes_out_as_it_is(imagen_sandbox: Sandbox) -> None:
    """Leaving by an exception raises that exception, never a group."""
    with pytest.raises(ZeroDivisionError):
        async with client_of(imagen_sandbox) as client:
            await client.submit("x")
            raise ZeroDivisionError


async def test_a_closed_client_says_how_to_open_it(imagen_sandbox: Sandbox) -> None:
    """Use before or after the block is a clear error; the block can be entered again."""
    client = client_of(imagen_sandbox)
    with pytest.raises(ConfigurationError, match="async with"):
        await client.generate("x")
    for _ in range(2):
        async with client:
            assert (await client.generate("x")).ok
            with pytest.raises(ConfigurationError, match="open already"):
                await client.__aenter__()


def test_several_loops_in_one_process_and_saving_after_the_client(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """A client works in one asyncio.run after another; its results can be saved in a later one."""
    client = client_of(imagen_sandbox)

    async def make() -> Result:
        async with client:
            return await client.generate("x", seed=1)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = [asyncio.run(make()) for _ in range(2)]
        files = asyncio.run(results[0].save(tmp_path))  # type: ignore[arg-type]
        gc.collect()
    assert Path(files[0]).exists()


def test_the_sandbox_inside_the_process_needs_nothing() -> None:
    """Client("sandbox") starts a server, uses it and stops it."""

    async def work() -> Result:
        async with Client("sandbox") as client:
            return await client.generate("x")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert asyncio.run(work()).ok
        gc.collect()


def test_configuration_errors_name_the_thing_and_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing or wrong is said when the client is made, before anything is sent."""
    for name in ("KIE_API_KEY", "LIANGXIN_API_KEY", "LIANGXIN_BASE_URL", "KIE_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    mine = Account("kie", api_key="k")
    cases: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
        (("kie",), {}, "KIE_API_KEY"),
        (("nobody",), {}, "knows: kie, apikley"),
        ((), {}, r'Name an account, such as Client\("kie"\)'),
        (("liangxin",), {"api_key": "k"}, "LIANGXIN_BASE_URL"),
        (("kie",), {"api_key": "two words"}, "copy it again"),
        (("kie",), {"api_key": "k", "base_url": "api.kie.ai"}, "no address"),
        (("kie",), {"api_key": "k", "base_url": "http://api.kie.ai"}, "unencrypted"),
        (("kie",), {"api_key": "k", "ssl": False}, "TLS stays on"),
        (("kie", "kie"), {}, "Two accounts have the name 'kie'"),
        ((mine, Account("kie", api_key="k", name="b")), {}, "'kie' and 'b' have the same key and address"),
        ((mine, Account("kie", name="b")), {}, "B_API_KEY"),
        ((mine, "sandbox"), {"api_key": "k"}, "api_key: with several accounts, say it of each"),
        ((mine,), {"policy": "dearest"}, "policy='dearest'"),
        ((Account("kie", api_key="k", credits=-1),), {}, "credits=-1: a price is a number of credits"),
        ((Account("kie", api_key="k", credits={"imagen5": 1}),), {}, "kie.ai has no model 'imagen5'"),
    ]
    for accounts, settings, expected in cases:
        with pytest.raises(ConfigurationError, match=expected):
            Client(*accounts, **settings)
    monkeypatch.setenv("KIE_API_KEY", " from-the-environment\n")
    assert "environment" not in repr(Client("kie")) + repr(Account("kie", api_key="from-the-environment"))


async def test_wrong_parameters_are_refused_before_anything_is_sent(imagen_sandbox: Sandbox) -> None:
    """Each names the field, what was given, what is allowed and who takes it."""
    cases: list[tuple[dict[str, Any], str]] = [
        ({"model": "imagen5"}, "imagen4-fast, imagen4-ultra"),
        ({"aspect_ratio": "2:1"}, r"aspect_ratio='2:1': allowed is one of 1:1"),
        ({"num_images": 2}, r"num_images=2: imagen4 has no such parameter.*imagen4-fast.*apiin"),
        ({"seed": "7"}, "seed='7': allowed is a whole number"),
        ({"extra": {"person_generation": "allow_all"}}, "person_generation.*imagen4 has no such parameter"),
        ({"colour": "red"}, "colour: there is no such parameter"),
        ({"deadline": 0}, "deadline=0"),
    ]
    async with client_of(imagen_sandbox) as client:
        for parameters, expected in cases:
            with pytest.raises(InvalidRequest, match=expected):
                await client.generate("x", **parameters)
        with pytest.raises(InvalidRequest, match="prompt=' ': allowed is a non-empty string"):
            await client.generate(" ")
    assert imagen_sandbox.ledger.creates == []


async def test_connection_errors_are_ours() -> None:
    """No aiohttp exception reaches the user: the network's trouble is a TransportError."""
    async with Client("kie", api_key="k" * 20, base_url="http://127.0.0.1:9") as client:
        with pytest.raises(TransportError) as caught:
            await client.credits()
    assert not caught.value.sent


async def test_collecting_where_nobody_listens_does_not_wait_for_the_deadline() -> None:
    """A wrong address ends a collect after a few tries, and the error keeps the task id."""
    limits = Limits(Rate(5, per=0.1), Rate(5, per=0.1), 5)
    async with Client("sandbox", api_key="k" * 20, base_url="http://127.0.0.1:9", limits=limits) as client:
        with pytest.raises(TransportError, match="cannot be reached") as caught:
            await client.collect("t1", deadline=60)
    assert caught.value.task_id == "t1"


@pytest.mark.parametrize("fault", ["reset_after", None])
async def test_a_paid_create_that_nobody_waits_for_is_logged(
    imagen_sandbox: Sandbox, caplog: pytest.LogCaptureFixture, fault: str | None
) -> None:
    """generate is cancelled while its create is on the way: the log says what became of it, lost or accepted."""
    imagen_sandbox.order("create", fault)
    async with client_of(imagen_sandbox) as client:
        call = asyncio.ensure_future(client.generate("x", key="mine"))
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    if imagen_sandbox.ledger.tasks:
        named = "cost up to 8 credits" if fault else str(imagen_sandbox.ledger.tasks[0].task_id)
        assert named in caplog.text


async def test_errors_hold_no_key_anywhere_in_their_chain() -> None:
    """An answer that is no HTTP makes an error whose whole chain of causes shows no key."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 two hundred\r\nbad\x00header\r\n\r\n")
        await writer.drain()
        writer.close()

    key = "sk-a-very-secret-key"
    async with await asyncio.start_server(answer, "127.0.0.1") as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with Client("sandbox", api_key=key, base_url=url) as client:
            with pytest.raises(UnknownOutcome) as caught:
                await client.generate("x")
    chain: BaseException | None = caught.value
    while chain is not None:
        assert key not in f"{chain!r} {chain} {vars(chain)!r}"
        chain = chain.__cause__ or chain.__context__


def test_settings_that_cannot_work_are_refused() -> None:
    """No connections, or no time, is a configuration error and not a client that pays and never looks."""
    for settings in ({"connections": 0}, {"connections": None}, {"timeout": 0}, {"connect_timeout": float("inf")}):
        with pytest.raises(ConfigurationError, match=next(iter(settings))):
            Client("sandbox", **settings)  # type: ignore[arg-type]


async def test_many_saves_at_once_wait_for_one_another(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """Saving more pictures at once than there are connections fails none of them."""
    async with client_of(imagen_sandbox, connections=2, connect_timeout=0.2) as client:
        results = [await client.generate(f"p{n}") for n in range(3)]
        saved = await asyncio.gather(*(result.save(tmp_path / str(n)) for n in range(10) for result in results))
    assert len(saved) == 30
