"""The client over real sockets, from end to end: pictures, attaching, several loops, what is refused beforehand."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from clients import FAST, client_of, run
from servers import called_back, free_socket, serving
from virtual_network import prompts

from imagen_async import Account, Callback, Client, ImageRequest, Limits, Rate, Result, errors
from imagen_async.sandbox import Faults, Latency, Sandbox
from imagen_async.webhooks import Receiver

NOWHERE = "http://127.0.0.1:9"
PROVIDERS = ("kie", "apikley", "liangxin", "apiin")

__all__ = ["client_of"]


async def test_generate_makes_a_picture_and_saves_it(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """One call gives URLs, credits and latency; save gives a PNG."""
    async with client_of(imagen_sandbox) as client:
        result = await client.generate("a bowl of ramen", model="imagen4-ultra", aspect_ratio="16:9")
        (file,) = await result.save(tmp_path / "out")
    assert (result.ok, result.provider, result.model, result.credits) == (True, "sandbox", "imagen4-ultra", 12)
    assert result.latency == pytest.approx(0.05, abs=0.2)
    assert json.loads(result.raw)["data"]["state"] == "success"
    assert Path(file).name == "000000-a-bowl-of-ramen.png"
    assert imagen_sandbox.ledger.key_leaks == 0


async def test_collect_attaches_to_a_task_of_an_earlier_client(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """A task id is enough to have the picture, and nothing is created; one that is not known is an error at once."""
    async with client_of(imagen_sandbox) as client:
        job = await client.submit("x")
    async with client_of(imagen_sandbox) as client:
        result = await client.collect(job.task_id, provider="sandbox")
        (file,) = await result.save(tmp_path)
        for wrong, error in ((("no-such-task",), errors.InvalidRequest), ((" ",), errors.InvalidRequest)):
            with pytest.raises(error):
                await client.collect(*wrong)
        with pytest.raises(errors.ConfigurationError, match="no account"):
            await client.collect("x", provider="kie")
    assert result.task_id == job.task_id
    assert job.task_id in Path(file).name
    assert len(imagen_sandbox.ledger.creates) == 1


async def test_trouble_on_the_way_makes_no_second_task(imagen_sandbox: Sandbox) -> None:
    """Over real sockets too a create that is cut off is made once at most, and a question is asked again."""
    imagen_sandbox.order("create", "reset_after", "truncated", "too_long")
    imagen_sandbox.order("poll", "reset", "truncated", "too_long")
    results = await run(client_of(imagen_sandbox), prompts(4))
    assert Counter(type(result.error) for result in results) == {errors.UnknownOutcome: 3, type(None): 1}
    assert imagen_sandbox.ledger.tasks_by_prompt() == Counter(prompts(4))


async def test_the_balance_is_that_of_every_account_or_of_one(imagen_sandbox: Sandbox) -> None:
    """`credits` asks all at once; None where the API has no such question; a failure names whose, and no key."""
    accounts = [
        Account(name, api_key=imagen_sandbox.key, base_url=imagen_sandbox.url_of(name)) for name in PROVIDERS[1:]
    ]
    wrong = Account("kie", api_key="sk-wrong-and-secret", base_url=imagen_sandbox.url_of("kie"))
    async with Client(wrong, accounts[0], accounts[2]) as client:
        assert await client.credits("apikley") == {"apikley": 1_000_000.0}
        assert await client.credits("apiin") == {"apiin": None}
        with pytest.raises(errors.AuthenticationError) as caught:
            await client.credits()
    assert caught.value.provider == "kie"
    assert "secret" not in f"{caught.value!r} {caught.value} {client!r}"


async def test_an_address_where_nobody_listens() -> None:
    """The error comes in seconds, is ours, says that nothing was sent, and what to check."""
    limits = Limits(Rate(5, per=0.1), Rate(5, per=0.1), 5)
    async with Client("kie", api_key="k" * 20, base_url=NOWHERE, limits=limits) as client:
        with pytest.raises(errors.DeadlineExceeded, match="nothing was billed"):
            await client.generate("x", deadline=0.5)
        with pytest.raises(errors.TransportError) as caught:
            await client.credits()
    assert not caught.value.sent


async def test_save_to_fetches_every_picture(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """Results come with their files; file faults on the way are tried again, and no key goes to the file host."""
    imagen_sandbox.order("file", "reset", "html", "http_503", "truncated")
    async with client_of(imagen_sandbox, limits=FAST) as client:
        results = await run(client, prompts(20), save_to=tmp_path, model="imagen4-fast", num_images=2)
    assert [(result.ok, len(result.files)) for result in results] == [(True, 2)] * 20
    assert (len(list(tmp_path.glob("*.png"))), list(tmp_path.glob(".*"))) == (40, [])
    assert imagen_sandbox.ledger.key_leaks == 0


async def test_many_saves_at_once_wait_for_one_another(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """Saving more pictures at once than there are connections fails none of them."""
    async with client_of(imagen_sandbox, connections=2, connect_timeout=0.2) as client:
        result = await client.generate("x")
        saved = await asyncio.gather(*(result.save(tmp_path / str(n)) for n in range(20)))
    assert len(saved) == 20


async def test_a_client_is_called_back(tmp_path: Path) -> None:
    """Over real sockets too, signed or not, each picture is announced, seen for one status call and paid once."""
    async with Sandbox(latency=Latency(median=0.25, sigma=0.1), signing_key="a-key", callback_retry=0.05) as sandbox:
        sandbox.order("create", None, "reset_after")
        async with called_back(sandbox, "kie", "apiin", key="a-key", freshness=60) as client:
            results = await run(client, prompts(12), journal=tmp_path / "run.db")
    assert {(result.provider, result.ok) for result in results} == {("kie", True), ("apiin", True)}
    assert sandbox.ledger.tasks_by_prompt() == Counter(prompts(12))
    assert set(sandbox.ledger.callback_answers) == {200}


@pytest.mark.slow
async def test_chaos_on_every_road(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A tenth of all requests goes wrong, a key is revoked, an account is empty: no prompt has two tasks."""
    settings: dict[str, Any] = {"limits": FAST, "latency": Latency(0.05, minimum=0.01)}
    kie = Sandbox(**settings, faults=Faults(0.1, seed=11))
    apiin = Sandbox(**settings, balance=8.0 * 50)
    apikley = Sandbox(**settings, faults=Faults(0.1, seed=12))
    servers = {"kie": kie, "apiin": apiin, "apikley": apikley}
    async with kie, apiin, apikley:
        accounts = [
            Account(name, api_key=each.key, base_url=each.url_of(name), limits=FAST) for name, each in servers.items()
        ]
        async with Client(*accounts, timeout=3) as client, client.batch(prompts(400), save_to=tmp_path) as batch:
            with caplog.at_level(logging.ERROR, "imagen_async"):
                results = [await anext(batch) for _ in range(100)]
                kie.keep("create", "401")
                results += [result async for result in batch]
            progress = batch.progress
    made = [create for each in servers.values() for create in each.ledger.tasks]
    assert sorted(result.index for result in results) == list(range(400))
    assert max(Counter(create.prompt for create in made).values()) == 1
    assert all(bool(result.files) == result.ok == (result.error is None) for result in results)
    assert sum(result.ok for result in results) > 100
    # A task that exists and whose id came through is a picture, or a failure that the server knows of.
    unnamed = {create.task_id for create in made} - {result.task_id for result in results}
    assert len(unnamed) <= sum(isinstance(result.error, errors.UnknownOutcome) for result in results)
    assert isinstance(progress.accounts[1].error, errors.InsufficientCredits)
    assert [each.ledger.refused["submit"] for each in servers.values()] == [0, 0, 0]
    assert caplog.text == ""


async def test_a_client_is_open_inside_its_block_alone(imagen_sandbox: Sandbox) -> None:
    """Use outside of the block is a clear error; it can be entered again, and an error in it comes out as it is."""
    client = client_of(imagen_sandbox)
    with pytest.raises(errors.ConfigurationError, match="async with"):
        await client.generate("x")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            async with client:
                assert client.is_open
                with pytest.raises(errors.ConfigurationError, match="open already"):
                    await client.__aenter__()
                await client.submit("x")
                raise ZeroDivisionError
        assert not client.is_open


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
    """Client("sandbox") starts a server, which calls it back where that is asked for, signed, and stops it."""

    async def work() -> Result:
        with free_socket() as (found, port):
            callback = Callback(f"http://127.0.0.1:{port}/imagen", signing_key="a-key")
            client = Client("sandbox", callback=callback, freshness=60)
            async with serving(Receiver(client).application(), found), client:
                return await asyncio.wait_for(client.generate("x"), 20)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert asyncio.run(work()).ok
        gc.collect()


MINE = Account("kie", api_key="k")
CONFIGURATIONS: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
    (("kie",), {}, "KIE_API_KEY"),
    (("nobody",), {}, "knows: kie, apikley"),
    ((), {}, r'Name an account, such as Client\("kie"\)'),
    (("liangxin",), {"api_key": "k"}, "LIANGXIN_BASE_URL"),
    (("kie",), {"api_key": "two words"}, "copy it again"),
    (("kie",), {"api_key": "k", "base_url": "api.kie.ai"}, "no address"),
    (("kie",), {"api_key": "k", "base_url": "http://api.kie.ai"}, "unencrypted"),
    (("kie",), {"api_key": "k", "ssl": False}, "TLS stays on"),
    (("kie", "kie"), {}, "Two accounts have the name 'kie'.*name="),
    ((MINE, Account("kie", api_key="k", name="b")), {}, "'kie' and 'b' have the same key and address"),
    (
        (MINE, Account("kie", api_key="k", name="b", base_url="https://API.kie.ai:443/")),
        {},
        "'kie' and 'b'.*one account",
    ),
    ((MINE, Account("kie", name="kie-2")), {}, "KIE_2_API_KEY"),
    ((MINE, "sandbox"), {"api_key": "k"}, "api_key: with several accounts, say it of each"),
    ((MINE,), {"policy": "dearest"}, "policy='dearest'"),
    ((Account("kie", api_key="k", name="apiin"),), {}, "another provider"),
    ((Account("kie", api_key="k", name="2nd=x"),), {}, "a word"),
    ((Account("kie", api_key="k", credits=-1),), {}, "credits=-1: a price is a number of credits"),
    ((Account("kie", api_key="k", credits={"imagen5": 1}),), {}, "kie.ai has no model 'imagen5'"),
    (("sandbox",), {"connections": 0}, "connections"),
    (("sandbox",), {"connections": None}, "connections"),
    (("sandbox",), {"timeout": 0}, "timeout"),
    (("sandbox",), {"connect_timeout": float("inf")}, "connect_timeout"),
    *[(("sandbox",), {"freshness": each}, "freshness=") for each in (0, -1, float("nan"), True, "0.1", None)],
]


@pytest.mark.parametrize(("accounts", "settings", "words"), CONFIGURATIONS)
def test_configuration_errors_name_the_thing_and_the_remedy(
    accounts: tuple[Any, ...], settings: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is missing, wrong or cannot work is said when the client is made, before anything is sent."""
    for name in ("KIE_API_KEY", "LIANGXIN_API_KEY", "LIANGXIN_BASE_URL", "KIE_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(errors.ConfigurationError, match=words):
        Client(*accounts, **settings)


def test_keys_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key of an account named `kie-2` is in KIE_2_API_KEY; none is in a repr, nor is a signing key."""
    monkeypatch.setenv("KIE_API_KEY", " from-the-environment\n")
    monkeypatch.setenv("KIE_2_API_KEY", "second-from-the-environment")
    client = Client("kie", Account("kie", name="kie-2"))
    assert client.accounts == ("kie", "kie-2")
    assert "environment" not in repr(client) + repr(Account("kie", api_key="from-the-environment"))
    assert "secret" not in repr(Callback("https://example.com", signing_key="a-secret"))


PARAMETERS: list[tuple[dict[str, Any], str]] = [
    ({"model": "imagen5"}, "imagen4-fast, imagen4-ultra"),
    ({"aspect_ratio": "2:1"}, r"aspect_ratio='2:1': allowed is one of 1:1"),
    ({"num_images": 2}, r"num_images=2: imagen4 has no such parameter.*imagen4-fast.*apiin"),
    ({"seed": "7"}, "seed='7': allowed is a whole number"),
    ({"extra": {"person_generation": "allow_all"}}, "person_generation.*imagen4 has no such parameter"),
    ({"colour": "red"}, "colour: there is no such parameter"),
    ({"deadline": 0}, "deadline=0"),
    ({"prompt": " "}, "prompt=' ': allowed is a non-empty string"),
]
INPUTS: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
    ("a prompt", {}, errors.InvalidRequest, "put it in a list"),
    (7, {}, errors.InvalidRequest, "not int"),
    (["a"], {"model": "imagen5"}, errors.InvalidRequest, "imagen5"),
    (["a"], {"key": "k"}, errors.InvalidRequest, "key"),
    (["a"], {"retries": -1}, errors.InvalidRequest, "retries=-1"),
    (["a"], {"save_to": "file/x"}, errors.ConfigurationError, "choose another folder"),
    ([ImageRequest("a", key="k"), ImageRequest("b", key="k")], {}, errors.InvalidRequest, "same key 'k'"),
]


async def test_what_is_wrong_is_refused_before_anything_is_sent(
    imagen_sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A parameter, an input or a term that is wrong is named, with what was given, what is allowed and who takes it."""
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    async with client_of(imagen_sandbox) as client:
        for parameters, words in PARAMETERS:
            with pytest.raises(errors.InvalidRequest, match=words):
                await client.generate(**{"prompt": "x", **parameters})
        for requests, terms, error, words in INPUTS:
            with pytest.raises(error, match=words):
                await run(client, requests, **terms)
    assert imagen_sandbox.ledger.creates == []
