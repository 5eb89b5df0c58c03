"""The client over real sockets, from end to end: pictures, attaching, several loops, what is refused beforehand."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import pickle
from collections import Counter
from pathlib import Path
from traceback import TracebackException
from typing import Any

import pytest
from clients import FAST, client_of, run
from conftest import naming
from servers import called_back
from virtual_network import prompts

from imagen_async import Account, Callback, Client, ImageRequest, Result, errors
from imagen_async.sandbox import Faults, Latency, Sandbox


async def test_generate_makes_a_picture_and_saves_it(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """One call gives URLs, credits and latency; save gives a PNG."""
    async with client_of(imagen_sandbox) as client:
        result = await client.generate("a bowl of ramen", model="imagen4-ultra", aspect_ratio="16:9")
        (file,) = await result.save(tmp_path / "out")
    assert (result.ok, result.provider, result.model, result.credits) == (True, "sandbox", "imagen4-ultra", 12)
    assert result.latency == pytest.approx(0.05, abs=0.2)
    assert json.loads(result.raw)["data"]["state"] == "success"
    assert Path(file).name == "000000-a-bowl-of-ramen.png"


async def test_a_result_goes_elsewhere_without_its_client() -> None:
    """What is pickled, for a cache or another process, has all that a result tells, and neither client nor key."""
    async with Client("sandbox") as client:
        result = await client.generate("a red fox")
        kept = pickle.dumps(result)
    told = pickle.loads(kept)
    assert (repr(told), told.raw, told.request) == (repr(result), result.raw, result.request)
    assert b"Client" not in kept
    with pytest.raises(errors.ConfigurationError, match="collect"):
        await told.save("nowhere")


async def test_collect_attaches_to_a_task_of_an_earlier_client(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """A task id is enough to have the picture, and nothing is created; one that is not known is an error at once."""
    async with client_of(imagen_sandbox) as client:
        job = await client.submit("x")
    async with client_of(imagen_sandbox) as client:
        result = await client.collect(job.task_id, provider="sandbox")
        (file,) = await result.save(tmp_path)
        for wrong, words in (("no-such-task", {}), (" ", {}), ("x", {"provider": "kie"})):
            with pytest.raises(errors.ConfigurationError if words else errors.InvalidRequest):
                await client.collect(wrong, **words)
    assert (result.task_id, len(imagen_sandbox.ledger.creates)) == (job.task_id, 1)
    assert job.task_id in Path(file).name


async def test_trouble_on_the_way_makes_no_second_task(imagen_sandbox: Sandbox) -> None:
    """Over real sockets too a create that is cut off is made once at most, and a question is asked again."""
    imagen_sandbox.order("create", "reset_after", "truncated", "too_long")
    imagen_sandbox.order("poll", "reset", "truncated", "too_long")
    results = await run(client_of(imagen_sandbox), prompts(4))
    assert Counter(type(result.error) for result in results) == {errors.UnknownOutcome: 3, type(None): 1}
    assert imagen_sandbox.ledger.tasks_by_prompt() == Counter(prompts(4))


async def test_the_balance_is_that_of_every_account_or_of_one(imagen_sandbox: Sandbox) -> None:
    """`credits` asks all at once; None where the API has no such question; a failure names whose, and no key."""
    keys = {"kie": "sk-wrong-and-secret", "apikley": imagen_sandbox.key, "apiin": imagen_sandbox.key}
    accounts = [Account(name, key, imagen_sandbox.url_of(name)) for name, key in keys.items()]
    async with Client(*accounts) as client:
        assert await client.credits("apikley") == {"apikley": 1_000_000.0}
        assert await client.credits("apiin") == {"apiin": None}
        with pytest.raises(errors.AuthenticationError) as caught:
            await client.credits()
    assert (caught.value.provider, "secret" in f"{caught.value!r} {caught.value} {client!r}") == ("kie", False)


async def test_save_to_fetches_every_picture(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """Results come with their files, however few the connections and whatever faults; no key goes to the file host."""
    imagen_sandbox.order("file", "reset", "html", "http_503", "truncated")
    async with client_of(imagen_sandbox, limits=FAST, connections=2, connect_timeout=0.2) as client:
        results = await run(client, prompts(20), save_to=tmp_path, model="seedream-4", num_images=2)
    assert [(result.ok, len(result.files)) for result in results] == [(True, 2)] * 20
    assert (len([*tmp_path.glob("*.png")]), [*tmp_path.glob(".*")], imagen_sandbox.ledger.key_leaks) == (40, [], 0)


@pytest.mark.slow
async def test_chaos_on_every_road(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A tenth of all requests goes wrong, a key is revoked, an account is empty: no prompt has two tasks."""
    settings: dict[str, Any] = {"limits": FAST, "latency": Latency(0.05, minimum=0.01)}
    kie, apikley = (Sandbox(**settings, faults=Faults(0.1, seed=seed)) for seed in (11, 12))
    servers = {"kie": kie, "apiin": Sandbox(**settings, balance=8.0 * 50), "apikley": apikley}
    caplog.set_level(logging.ERROR, "imagen_async")
    async with kie, servers["apiin"], apikley:
        accounts = [Account(name, each.key, each.url_of(name), FAST) for name, each in servers.items()]
        async with Client(*accounts, timeout=3) as client, client.batch(prompts(400), save_to=tmp_path) as batch:
            results = [await anext(batch) for _ in range(100)]
            kie.keep("create", "401")
            results += [result async for result in batch]
    made = [create for each in servers.values() for create in each.ledger.tasks]
    assert sorted(result.index for result in results) == list(range(400))
    assert max(Counter(create.prompt for create in made).values()) == 1
    assert all(bool(result.files) == result.ok == (result.error is None) for result in results)
    assert sum(result.ok for result in results) > 100
    lost = sum(isinstance(result.error, errors.UnknownOutcome) for result in results)
    assert len({create.task_id for create in made} - {result.task_id for result in results}) <= lost
    assert isinstance(batch.progress.accounts[1].error, errors.InsufficientCredits)
    assert [each.ledger.refused["submit"] for each in servers.values()] == [0, 0, 0]
    assert caplog.text == ""


def test_a_client_is_open_inside_its_block_in_one_loop_after_another(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """Use outside is a clear error, and an error inside comes out as it is; results can be saved in a later loop."""
    client = client_of(imagen_sandbox)

    async def make() -> Result:
        async with client:
            with pytest.raises(errors.ConfigurationError, match="open already"):
                await client.__aenter__()
            return await client.generate("x", seed=1)

    async def fail() -> None:
        async with client:
            await client.submit("x")
            raise ZeroDivisionError

    results = [asyncio.run(make()) for _ in range(2)]
    with pytest.raises(ZeroDivisionError):
        asyncio.run(fail())
    assert not client.is_open
    with pytest.raises(errors.ConfigurationError, match="async with"):
        asyncio.run(client.generate("x"))  # type: ignore[arg-type]
    assert len(asyncio.run(results[0].save(tmp_path))) == 1  # type: ignore[arg-type]
    gc.collect()


async def test_the_sandbox_inside_the_process_needs_nothing() -> None:
    """Client("sandbox") starts a server, which calls it back where that is asked for, signed, and stops it."""
    async with called_back(None, key="a-key", freshness=60) as client:
        assert (await asyncio.wait_for(client.generate("x"), 20)).ok
    gc.collect()


KIE = Account("kie", "k")
CONFIGURATIONS: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
    (("kie",), {}, "KIE_API_KEY"),
    (("nobody",), {}, "knows: kie, apikley"),
    ((), {}, r'Name an account, such as Client\("kie"\)'),
    (("kie",), {"api_key": "two words"}, "copy it again"),
    *(
        ((KIE,), {"base_url": address}, "no address")
        for address in ("api.kie.ai", "https://a..b", "https://.b", f"https://{'a' * 64}.com")
    ),
    *(((KIE,), {"base_url": each}, "base_url: allowed is a text") for each in (b"https://api.kie.ai", Path("x"), 7)),
    *(((KIE,), {"api_key": each}, "api_key: allowed is a text") for each in (b"key", 7)),
    *(((KIE,), {"api_key": each}, "no key has") for each in ("k\ney", "k\u00e9y", "k\ud800")),
    ((KIE,), {"base_url": "http://api.kie.ai"}, "unencrypted"),
    ((KIE,), {"base_url": "https://me:a-password@api.kie.ai"}, r"^'https://\*\*\*@api.kie.ai' is no address"),
    *(((KIE,), {"ssl": each}, "TLS stays on") for each in (False, None, "ca.pem", 1)),
    (("kie", "kie"), {}, "Two accounts have the name 'kie'.*name="),
    ((KIE, Account("kie", "k", name="b")), {}, "'kie' and 'b' have the same key and address"),
    ((KIE, Account("kie", "k", name="b", base_url="https://API.kie.ai:443/")), {}, "'kie' and 'b'.*one account"),
    ((KIE, Account("kie", name="kie-2")), {}, "KIE_2_API_KEY"),
    ((KIE, "sandbox"), {"api_key": "k"}, "api_key: with several accounts, say it of each"),
    ((KIE,), {"policy": "dearest"}, "policy='dearest'"),
    ((Account("kie", "k", name="apiin"),), {}, "another provider"),
    ((Account("kie", "k", name="2nd=x"),), {}, "a word"),
    *((("sandbox",), {"connections": each}, "connections") for each in (0, None)),
    (("sandbox",), {"timeout": 0}, "timeout"),
    (("sandbox",), {"connect_timeout": float("inf")}, "connect_timeout"),
    *((("sandbox",), {"freshness": each}, "freshness=") for each in (0, -1, float("nan"), True, "0.1", None)),
    *((("sandbox",), {"on_event": each}, "plain function") for each in (asyncio.sleep, "print")),
    *((("sandbox",), {"callback": each}, r"Callback\(…") for each in ("https://h.example", 0, [])),
    (("sandbox",), {"limiter": "shared"}, "a function"),
]


def test_configuration_errors_name_the_thing_and_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing, wrong or cannot work is said when the client is made, before anything is sent."""
    monkeypatch.delenv("KIE_API_KEY", raising=False)
    for accounts, settings, words in CONFIGURATIONS:
        with naming(accounts, settings), pytest.raises(errors.ConfigurationError, match=words) as caught:
            Client(*accounts, **settings)
        assert TracebackException.from_exception(caught.value, capture_locals=True), "its variables can be shown"


def test_keys_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key of an account named `kie-2` is in KIE_2_API_KEY; none is in a repr, nor is a signing key."""
    monkeypatch.setenv("KIE_API_KEY", " from-the-environment\n")
    monkeypatch.setenv("KIE_2_API_KEY", "second-from-the-environment")
    client = Client("kie", Account("kie", name="kie-2"))
    assert client.accounts == ("kie", "kie-2")
    mistaken = Account("kie", "from-the-environment", "https://environment@h.example")
    assert "environment" not in repr(client) + repr(mistaken)
    assert "secret" not in repr(Callback("https://example.com", signing_key="a-secret"))


INPUTS: list[tuple[Any, dict[str, Any], str]] = [
    ("a prompt", {}, "put it in a list"),
    (7, {}, "not int"),
    (["a"], {"model": "imagen5"}, "imagen5"),
    (["a"], {"key": "k"}, "key"),
    (["a"], {"retries": -1}, "retries=-1"),
    (["a"], {"save_to": "/dev/null/x"}, "choose another folder"),
    ([ImageRequest("a", key="k"), ImageRequest("b", key="k")], {}, "same key 'k'"),
]


async def test_what_is_wrong_is_refused_before_anything_is_sent(imagen_sandbox: Sandbox) -> None:
    """A parameter, an input or a term that is wrong is named, with what was given, what is allowed and who takes it."""
    async with client_of(imagen_sandbox) as client:
        for parameters, words in ({"model": "imagen5"}, "imagen4-fast, imagen4-ultra"), ({"deadline": 0}, "deadline=0"):
            with pytest.raises(errors.InvalidRequest, match=words):
                await client.generate("x", **parameters)
        for requests, terms, words in INPUTS:
            error = errors.ConfigurationError if "save_to" in terms else errors.InvalidRequest
            with naming(requests, terms), pytest.raises(error, match=words):
                await run(client, requests, **terms)
    assert imagen_sandbox.ledger.creates == []
