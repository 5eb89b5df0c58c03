"""The service asked by real clients of OpenAI's image API, unchanged but for the address: in environments of their own.

`python tests/real_clients/environments.py DIR` makes these, and `IMAGEN_CLIENTS=DIR` tells of them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from commands import COMMAND, at, running_in
from fronts import Counted, front
from real_askers import CLIENTS, RealClient, ask, distinct, environments, pictures
from servers import free_socket
from services import Asker, service

from imagen_async.sandbox import Latency, Sandbox
from imagen_async.service import new_caller

if environments() is None:
    pytest.skip("IMAGEN_CLIENTS names no folder of real clients", allow_module_level=True)

pytestmark = [pytest.mark.clients, pytest.mark.slow]

PNG = b"\x89PNG\r\n\x1a\n"
FAST = "imagen4-fast"

each_client = pytest.mark.parametrize("client", CLIENTS, ids=str)
each_impatient = pytest.mark.parametrize("client", [each for each in CLIENTS if each.impatient], ids=str)
each_openai = pytest.mark.parametrize("client", [each for each in CLIENTS if each.way.startswith("openai")], ids=str)


def prompts(count: int) -> list[dict[str, Any]]:
    """So many calls, each for a picture of its own."""
    return [{"prompt": f"fox number {number}", "model": FAST} for number in range(count)]


def tries_of(posts: list[Any]) -> Counter[str]:
    """How many of some POSTs said that they are the first, the second and so on."""
    return Counter(headers.get("x-stainless-retry-count", "none") for headers in posts)


@contextlib.asynccontextmanager
async def asked(sandbox: Sandbox, folder: Path, **terms: Any) -> AsyncIterator[tuple[Asker, Counted]]:
    """A service over a sandbox, and who counts what comes in."""
    counted = Counted()
    async with service(sandbox, folder, middlewares=[counted.middleware], **terms) as asker:
        yield asker, counted


@pytest.fixture
async def picture(imagen_sandbox: Sandbox, tmp_path: Path) -> Path:
    """A picture to go in."""
    path = tmp_path / "in.png"
    async with service(imagen_sandbox, tmp_path / "first") as asker:
        async with asker.session.get((await asker.generate("goes in")).urls[0]) as response:
            path.write_bytes(await response.read())
    imagen_sandbox.ledger.creates.clear()
    return path


@each_client
async def test_each_has_as_many_pictures_as_it_asked_for(
    client: RealClient, imagen_sandbox: Sandbox, tmp_path: Path
) -> None:
    """One, three at a time, and twice the same: each call has pictures of its own, at an address of the service."""
    async with asked(imagen_sandbox, tmp_path) as (asker, counted):
        one = {"prompt": "a fox", "model": FAST}
        told = await ask(client, asker.url, one, one, {**one, "prompt": "a heron", "n": 3})
        assert [len(each["pictures"]) for each in told] == [1, 1, 3]
        assert distinct(pictures(told)) == 5
        for each in pictures(told):
            assert client.way == "langchain" or each["is_png"]
            if each["url"]:
                assert each["url"].startswith(f"{asker.url}/files/")
                async with asker.session.get(each["url"]) as response:
                    assert (await response.read()).startswith(PNG)
    assert len(imagen_sandbox.ledger.tasks) == 5
    # Vercel's for OpenAI asks for one at a time of what is none of OpenAI's models.
    assert len(counted.posts) == (5 if client.way == "ai-openai" else 3)
    assert imagen_sandbox.ledger.key_leaks == 0


@each_client
async def test_a_size_is_the_nearest_aspect_ratio(client: RealClient, imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """What each says of the shape is understood, and what a model lacks of OpenAI's fields is no error."""
    sizes = {"1024x1024": "1:1", "1792x1024": "16:9", "1024x1792": "9:16", "512x512": "1:1"}
    quality = {} if client.is_ai_sdk else {"quality": "hd"}
    async with asked(imagen_sandbox, tmp_path) as (asker, _):
        calls = [{"prompt": size, "model": FAST, "size": size, **quality} for size in sizes]
        told = await ask(client, asker.url, *calls)
    assert distinct(pictures(told)) == 4
    assert {task.prompt: task.input["aspect_ratio"] for task in imagen_sandbox.ledger.tasks} == sizes


@pytest.mark.parametrize("client", [each for each in CLIENTS if each.is_ai_sdk], ids=str)
async def test_the_ai_sdk_passes_on_options(client: RealClient, imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """It drops an aspect ratio and a seed with a warning; what stands in its provider's options comes through."""
    theirs = {"quality": "high", "moderation": "low", "outputFormat": "webp", "user": "u1"}
    ours = {"aspect_ratio": "3:4", "seed": 7, "negative_prompt": "dogs"}
    name, options = ("openai", theirs) if client.way == "ai-openai" else ("served", ours)
    async with asked(imagen_sandbox, tmp_path) as (asker, _):
        base = {"prompt": "a fox", "model": "imagen4"}
        (dropped,) = await ask(client, asker.url, {**base, "aspectRatio": "16:9", "seed": 1})
        assert {"aspectRatio", "seed"} <= set(dropped["warnings"])
        told = await ask(client, asker.url, {**base, "prompt": "a heron", "providerOptions": {name: options}})
    assert distinct(pictures(told)) == 1
    taken = imagen_sandbox.ledger.tasks[-1].input
    if options is ours:
        assert {key: str(taken[key]) for key in ours} == {key: str(value) for key, value in ours.items()}


async def test_no_field_of_openais_client_is_refused(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """Whatever argument the client has is a field that the service knows, be it to drop it and say so."""
    (openai,) = (each for each in CLIENTS if each.name == "openai")
    async with asked(imagen_sandbox, tmp_path) as (asker, _):
        (told,) = await ask(openai, asker.url, {"do": "fields"})
        assert {"prompt", "model", "n", "quality"} <= set(told["names"])
        # None of a picture is asked for: that is what is wrong, once no name is.
        answers = [await asker.generate(**{name: "x", "model": FAST, "n": 0}) for name in told["names"]]
    assert {answer.error["code"] for answer in answers} == {"invalid_value"}
    assert imagen_sandbox.ledger.creates == []


@each_openai
async def test_a_response_format_is_kept_to(client: RealClient, imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """An address, base64, or both; base64 alone of what is called as OpenAI's own model."""
    async with asked(imagen_sandbox, tmp_path, aliases={"gpt-image-1": FAST}) as (asker, _):
        base = {"prompt": "a fox", "model": FAST}
        formats = [{**base, "response_format": name} for name in ("url", "b64_json")]
        told = await ask(client, asker.url, *formats, base, {"prompt": "a fox", "model": "gpt-image-1"})
    shown = [({"url"} if each["url"] else set()) | ({"b64"} if "sha256" in each else set()) for each in pictures(told)]
    assert shown == [{"url"}, {"b64"}, {"url", "b64"}, {"b64"}]


@each_openai
async def test_a_stream_ends_with_the_pictures(
    client: RealClient, picture: Path, imagen_sandbox: Sandbox, tmp_path: Path
) -> None:
    """`stream` and `partial_images` come to one completed event a picture, of what is made and of what is edited."""
    async with asked(imagen_sandbox, tmp_path) as (asker, counted):
        stream = {"stream": True, "partial_images": 1}
        edit = {"do": "edit", "prompt": "make it night", "model": "nano-banana-2", "image": str(picture)}
        told = await ask(client, asker.url, {**prompts(1)[0], "n": 2, **stream}, {**edit, **stream})
    assert told[0]["events"] == ["image_generation.completed"] * 2
    assert told[1]["events"] == ["image_edit.completed"]
    assert distinct(pictures(told)) == 3
    assert all(each["is_png"] for each in pictures(told))
    assert (len(imagen_sandbox.ledger.tasks), len(counted.posts)) == (3, 2)


@each_openai
async def test_a_stream_that_fails_is_an_error(client: RealClient, imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """The client raises what the stream says, and asks for nothing again."""
    imagen_sandbox.order("task", "fail_digits")
    async with asked(imagen_sandbox, tmp_path) as (asker, counted):
        (told,) = await ask(client, asker.url, {**prompts(1)[0], "stream": True})
    assert "error" in told
    assert (len(imagen_sandbox.ledger.tasks), len(counted.posts)) == (1, 1)


@each_openai
async def test_models_are_listed(client: RealClient, imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """The client's list of models has ours and the aliases."""
    async with asked(imagen_sandbox, tmp_path, aliases={"gpt-image-1": FAST}) as (asker, _):
        (told,) = await ask(client, asker.url, {"do": "models"})
    assert {FAST, "gpt-image-1"} <= set(told["names"])


@pytest.mark.parametrize("client", [each for each in CLIENTS if each.way != "langchain"], ids=str)
async def test_pictures_go_in_as_bytes(
    client: RealClient, picture: Path, imagen_sandbox: Sandbox, tmp_path: Path
) -> None:
    """Each client's form is read; the same picture goes in once, and the same edit twice is two pictures."""
    async with asked(imagen_sandbox, tmp_path) as (asker, counted):
        edit = {"do": "edit", "prompt": "make it night", "model": "nano-banana-2", "image": str(picture)}
        told = await ask(client, asker.url, edit, edit, {**edit, "prompt": "make it day"})
    assert distinct(pictures(told)) == 3
    assert (len(imagen_sandbox.ledger.tasks), len(counted.posts)) == (3, 3)
    assert len(imagen_sandbox.ledger.uploads) == 1


@each_client
async def test_nothing_that_may_have_cost_is_asked_for_twice(
    client: RealClient, imagen_sandbox: Sandbox, tmp_path: Path
) -> None:
    """A wrong model, a failed task, a refused prompt and a lost create are one POST each."""
    async with asked(imagen_sandbox, tmp_path) as (asker, counted):
        imagen_sandbox.order("task", "fail_digits", "fail_word")
        two = [{"prompt": f"prompt {number}", "model": FAST} for number in range(2)]
        told = await ask(client, asker.url, *two, {"prompt": "a fox", "model": "imagen9"})
        imagen_sandbox.order("create", "reset_after")
        told += await ask(client, asker.url, {"prompt": "lost", "model": FAST})
    errors = [each["error"] for each in told]
    assert sorted(error["status_code"] for error in errors) == [400, 404, 424, 424]
    assert len(counted.posts) == 4
    assert len(imagen_sandbox.ledger.tasks) == 3
    if not client.is_litellm:  # which tells no code
        codes = {"content_policy_violation", "model_not_found", "generation_failed", "unknown_outcome"}
        assert {error["code"] for error in errors} == codes


@each_client
async def test_who_may_not_ask_is_told_once(client: RealClient, imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """A wrong key, and a budget that is reached, are errors of their own, and one POST each."""
    callers = tmp_path / "callers.toml"
    key = new_caller(callers, "shop").key
    # One picture costs 4 credits: there is room for two.
    callers.write_text(f"{callers.read_text()}budget = 9.0\n", encoding="utf-8")
    async with asked(imagen_sandbox, tmp_path, callers=callers) as (asker, counted):
        assert distinct(pictures(await ask(client, asker.url, *prompts(2), key=key))) == 2
        (full,) = await ask(client, asker.url, {"prompt": "one more", "model": FAST}, key=key)
        (wrong,) = await ask(client, asker.url, {"prompt": "one more", "model": FAST}, key="ia-wrong")
    assert [each["error"]["status_code"] for each in (full, wrong)] == [402, 401]
    assert len(counted.posts) == 4
    assert len(imagen_sandbox.ledger.tasks) == 2


@each_impatient
async def test_time_outs_cost_nothing(client: RealClient, tmp_path: Path) -> None:
    """A client whose patience is shorter than the tasks asks again by itself: one task, and one picture, a prompt."""
    async with Sandbox(latency=Latency(median=4, sigma=0)) as sandbox:
        async with asked(sandbox, tmp_path) as (asker, counted):
            told = await ask(client, asker.url, *prompts(10), **client.impatient)
        assert distinct(pictures(told)) == 10
        assert len(sandbox.ledger.tasks) == 10
    assert len(counted.posts) >= 20
    assert tries_of(counted.posts)["1"] == (10 if client.says_when_it_repeats else 0)


@pytest.mark.parametrize("client", [each for each in CLIENTS if each.name in ("openai", "openai-node")], ids=str)
async def test_time_outs_of_equal_requests_cost_nothing(client: RealClient, tmp_path: Path) -> None:
    """Who asks for the same five times at once has five pictures for five tasks, however often it asks again."""
    async with Sandbox(latency=Latency(median=4, sigma=0)) as sandbox:
        async with asked(sandbox, tmp_path) as (asker, _):
            told = await ask(client, asker.url, *prompts(1) * 5, **client.impatient)
        assert distinct(pictures(told)) == 5
        assert len(sandbox.ledger.tasks) == 5


@each_client
async def test_a_proxy_that_loses_patience_costs_nothing(client: RealClient, tmp_path: Path) -> None:
    """Where a proxy says 504 after two seconds, all clients ask again: one task, and one picture, a prompt."""
    async with Sandbox(latency=Latency(median=4, sigma=0)) as sandbox:
        async with asked(sandbox, tmp_path) as (asker, counted), front(asker.url, patience=2) as proxy:
            told = await ask(client, proxy.url, *prompts(10))
        assert distinct(pictures(told)) == 10
        assert len(sandbox.ledger.tasks) == 10
    assert len(counted.posts) >= 20


@pytest.mark.parametrize("client", [each for each in CLIENTS if each.says_when_it_repeats], ids=str)
@pytest.mark.parametrize("patience", [None, 2], ids=["waits", "says 504"])
async def test_a_proxy_that_takes_the_answer_costs_nothing(
    client: RealClient, patience: float | None, tmp_path: Path
) -> None:
    """Behind a proxy that hears the service out for who has left, who says that it asks again has its picture."""
    async with Sandbox(latency=Latency(median=4, sigma=0)) as sandbox:
        async with (
            asked(sandbox, tmp_path) as (asker, counted),
            front(asker.url, patience=patience, keeps=True) as proxy,
        ):
            told = await ask(client, proxy.url, *prompts(10), **(client.impatient if patience is None else {}))
        assert distinct(pictures(told)) == 10
        assert len(sandbox.ledger.tasks) == 10
    assert tries_of(counted.posts)["1"] == 10


@pytest.mark.parametrize("client", [each for each in CLIENTS if not each.says_when_it_repeats], ids=str)
async def test_the_limit_of_a_proxy_that_takes_the_answer(client: RealClient, tmp_path: Path) -> None:
    """Who does not say that it asks again pays for each try there; with an Idempotency-Key it pays once, and has it."""
    async with Sandbox(latency=Latency(median=5, sigma=0)) as sandbox:
        async with asked(sandbox, tmp_path) as (asker, _), front(asker.url, patience=2, keeps=True) as proxy:
            told = await ask(client, proxy.url, *prompts(2))
            assert [each["error"]["status_code"] for each in told] == [504, 504]
            assert set(sandbox.ledger.tasks_by_prompt().values()) == {3}
            named = [
                {**call, "prompt": f"{call['prompt']}, named", "headers": {"Idempotency-Key": call["prompt"]}}
                for call in prompts(2)
            ]
            assert distinct(pictures(await ask(client, proxy.url, *named))) == 2
        assert len(sandbox.ledger.tasks) == 6 + 2


@pytest.mark.parametrize("client", [each for each in CLIENTS if each.is_ai_sdk], ids=str)
async def test_what_was_aborted_is_found_by_the_next_call(client: RealClient, tmp_path: Path) -> None:
    """Vercel's does not ask again after an abort; whoever does so has what was made meanwhile."""
    async with Sandbox(latency=Latency(median=4, sigma=0)) as sandbox:
        async with asked(sandbox, tmp_path) as (asker, counted):
            told = await ask(client, asker.url, *({**call, "patience": 2000} for call in prompts(3)))
            assert all("error" in each for each in told)
            assert len(counted.posts) == 3
            assert distinct(pictures(await ask(client, asker.url, *prompts(3)))) == 3
        assert len(sandbox.ledger.tasks) == 3


@each_client
async def test_some_of_several_is_what_was_made(client: RealClient, imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """Where one of three fails, the others are the answer, and nothing is asked for again."""
    imagen_sandbox.order("task", "fail_digits")
    async with asked(imagen_sandbox, tmp_path) as (asker, counted):
        (told,) = await ask(client, asker.url, {**prompts(1)[0], "n": 3})
    if client.way == "ai-openai":  # it asks three times for one, and has all or nothing
        assert told["error"]["status_code"] == 424
        assert len(counted.posts) == 3
    else:
        assert distinct(pictures([told])) == 2
        assert len(counted.posts) == 1
    assert len(imagen_sandbox.ledger.tasks) == 3


@contextlib.asynccontextmanager
async def serving(sandbox: Sandbox, folder: Path, port: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """The command, at a port, until the block ends."""
    command = [COMMAND, "serve", *at(sandbox), "--not-shared", "-o", str(folder), "--port", str(port), "--grace", "0.2"]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    try:
        assert process.stderr is not None
        said = ""
        while "OpenAI's image API" not in said:
            line = await process.stderr.readline()
            assert line, said
            said += line.decode()
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


@each_client
async def test_a_killed_service_costs_nothing(client: RealClient, tmp_path: Path) -> None:
    """`kill -9` while ten wait, and half a second later another one: as many tasks as prompts, a picture for each."""
    with free_socket() as (_, port):
        pass
    async with Sandbox(latency=Latency(median=3, sigma=0)) as sandbox:
        url = f"http://127.0.0.1:{port}"
        async with serving(sandbox, tmp_path, port) as process:
            asking = asyncio.create_task(ask(client, url, *prompts(10), **client.persistent))
            while len(sandbox.ledger.tasks) < 10 or len(running_in(str(tmp_path))) < 10:
                await asyncio.sleep(0.02)
            process.kill()
        await asyncio.sleep(0.5)
        async with serving(sandbox, tmp_path, port):
            assert distinct(pictures(await asking)) == 10
        assert len(sandbox.ledger.tasks) == 10


@each_client
async def test_a_service_that_leaves_is_asked_again(client: RealClient, tmp_path: Path) -> None:
    """SIGTERM tells those who wait to come back, which clients do by themselves: a picture for each, and paid once."""
    with free_socket() as (_, port):
        pass
    async with Sandbox(latency=Latency(median=5, sigma=0)) as sandbox:
        url = f"http://127.0.0.1:{port}"
        async with serving(sandbox, tmp_path, port) as process:
            asking = asyncio.create_task(ask(client, url, *prompts(3), **client.persistent))
            while len(sandbox.ledger.tasks) < 3 or len(running_in(str(tmp_path))) < 3:
                await asyncio.sleep(0.02)
            process.terminate()
            assert await process.wait() == 0
        async with serving(sandbox, tmp_path, port):
            assert distinct(pictures(await asking)) == 3
        assert len(sandbox.ledger.tasks) == 3


@pytest.mark.parametrize("client", [each for each in CLIENTS if not each.name.endswith("-earlier")], ids=str)
async def test_a_program_that_gave_up_is_begun_again(client: RealClient, tmp_path: Path) -> None:
    """Whoever has run out of tries while nobody served, and starts its program anew, finds what was made for it."""
    with free_socket() as (_, port):
        pass
    async with Sandbox(latency=Latency(median=2, sigma=0)) as sandbox:
        url = f"http://127.0.0.1:{port}"
        async with serving(sandbox, tmp_path, port) as process:
            asking = asyncio.create_task(ask(client, url, *prompts(3)))
            while len(sandbox.ledger.tasks) < 3 or len(running_in(str(tmp_path))) < 3:
                await asyncio.sleep(0.02)
            process.kill()
        assert all("error" in each for each in await asking)
        async with serving(sandbox, tmp_path, port):
            assert distinct(pictures(await ask(client, url, *prompts(3)))) == 3
        assert len(sandbox.ledger.tasks) == 3
