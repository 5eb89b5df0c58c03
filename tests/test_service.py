"""The service over real HTTP: what OpenAI's clients send is made once, and answered as they read it."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from services import GENERATIONS, service

from imagen_async import Client
from imagen_async.errors import ConfigurationError, JournalError
from imagen_async.sandbox import Latency, Sandbox
from imagen_async.service import application

PNG = b"\x89PNG\r\n\x1a\n"


async def test_pictures_are_handed_out_from_here_alone(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """An address leads to the service, needs no key, tells no provider's, and has the picture with its type."""
    async with service(imagen_sandbox, tmp_path) as asker:
        answer = await asker.generate(n=2, model="imagen4-fast")
        assert (answer.status, len(set(answer.urls))) == (200, 2)
        assert imagen_sandbox.url not in answer.text
        for url in answer.urls:
            assert url.startswith(f"{asker.url}/files/")
            async with asker.session.get(url) as response:
                assert (await response.read()).startswith(PNG)
                assert response.headers["Content-Type"] == "image/png"
                assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert (await asker.ask("GET", f"{answer.urls[0].removeprefix(asker.url)}x")).status == 404
    assert imagen_sandbox.ledger.key_leaks == 0
    assert len(imagen_sandbox.ledger.tasks) == 2


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ({}, {"url", "b64_json"}),
        ({"response_format": "url"}, {"url"}),
        ({"response_format": "b64_json"}, {"b64_json"}),
        ({"model": "gpt-image-1"}, {"b64_json"}),
        ({"response_format": None}, {"url", "b64_json"}),
    ],
)
async def test_a_picture_is_shown_as_known_clients_read_it(
    imagen_sandbox: Sandbox, tmp_path: Path, said: dict[str, Any], shown: set[str]
) -> None:
    """By address, as base64, or both; whoever asks for OpenAI's own model reads base64 alone."""
    async with service(imagen_sandbox, tmp_path, aliases={"gpt-image-1": "imagen4-fast"}) as asker:
        answer = await asker.ask("POST", GENERATIONS, json={"prompt": "a fox", **said})
        (picture,) = answer.body["data"]
        assert set(picture) == shown
        if "b64_json" in shown:
            assert base64.b64decode(picture["b64_json"]).startswith(PNG)
        assert answer.body["model"] == ("imagen4-fast" if "model" in said else "imagen4")


async def test_what_a_model_lacks_is_dropped_and_told(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """OpenAI's optional fields are no error, and are named in the body and in a header; a slip is an error."""
    optional = {"quality": "hd", "style": "vivid", "background": "auto", "moderation": "low", "user": "u1"}
    async with service(imagen_sandbox, tmp_path) as asker:
        answer = await asker.generate(size="1024x1792", **optional)
        assert answer.body["ignored"] == ["quality", "style", "background", "moderation"]
        assert answer.headers["x-imagen-ignored"] == "quality, style, background, moderation"
        assert imagen_sandbox.ledger.tasks[-1].input["aspect_ratio"] == "9:16"
        # Those that the clients of autumn 2026 have besides.
        later = {"complexity": "low", "frame_count": 2, "frame_duration_ms": 200, "svg": {"model": "gpt-6"}}
        answer = await asker.generate(safety_identifier="u1", **later)
        assert answer.body["ignored"] == list(later)
        answer = await asker.generate(asspect_ratio="1:1")
        assert (answer.status, answer.error["param"]) == (400, "asspect_ratio")
        assert "Did you mean aspect_ratio?" in answer.error["message"]
        assert answer.headers["x-should-retry"] == "false"
    assert len(imagen_sandbox.ledger.tasks) == 2


async def test_the_same_again_is_a_new_picture_once_it_was_given(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """An equal request after the answer is another one; a named one is the same for ever, also after a restart."""
    named = {"Idempotency-Key": "order-17"}
    async with service(imagen_sandbox, tmp_path) as asker:
        first, second = await asker.generate(), await asker.generate()
        assert first.urls != second.urls
        third = await asker.generate(headers=named)
    async with service(imagen_sandbox, tmp_path) as asker:
        again = await asker.generate(headers=named)
        assert [url.rpartition("/")[2] for url in again.urls] == [url.rpartition("/")[2] for url in third.urls]
        fourth = await asker.generate()
        assert len({url.rpartition("/")[2] for answer in (first, second, third, fourth) for url in answer.urls}) == 4
        other = await asker.generate("another", headers=named)
        assert (other.status, other.error["code"]) == (400, "idempotency_key_reused")
    assert len(imagen_sandbox.ledger.tasks) == 4


async def test_who_leaves_and_comes_again_finds_the_picture(tmp_path: Path) -> None:
    """A client that gives up and asks again, time after time, has one task and gets its picture."""
    async with Sandbox(latency=Latency(median=1.5, sigma=0)) as sandbox, service(sandbox, tmp_path) as asker:
        for count in range(3):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(asker.generate(headers={"x-stainless-retry-count": str(count)}), 0.3)
        assert (await asker.generate()).status == 200
        assert len(sandbox.ledger.tasks) == 1


async def test_equal_requests_at_once_are_as_many_pictures(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """Five that ask for the same at the same time get five pictures; repeats of theirs make none."""
    async with service(imagen_sandbox, tmp_path) as asker:
        answers = await asyncio.gather(*(asker.generate() for _ in range(5)))
        assert len({url for answer in answers for url in answer.urls}) == 5
        repeat = await asker.generate(headers={"x-stainless-retry-count": "1"})
        assert repeat.urls[0] in {url for answer in answers for url in answer.urls}
    assert len(imagen_sandbox.ledger.tasks) == 5


async def test_a_failure_invites_no_repeat_once_money_may_be_gone(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """A failed task and a lost create are 424 with what they may have cost; a refused prompt is 400."""
    async with service(imagen_sandbox, tmp_path) as asker:
        imagen_sandbox.order("task", "fail_digits")
        failed = await asker.generate()
        assert (failed.status, failed.error["code"]) == (424, "generation_failed")
        assert failed.error["task_id"] == imagen_sandbox.ledger.tasks[-1].task_id
        imagen_sandbox.order("create", "reset_after")
        lost = await asker.generate()
        assert (lost.status, lost.error["code"], lost.error["may_have_cost"]) == (424, "unknown_outcome", 8)
        assert {failed.headers["x-should-retry"], lost.headers["x-should-retry"]} == {"false"}
        # Both were told: an equal request is a new one.
        assert (await asker.generate()).status == 200


async def test_a_stream_ends_with_the_picture(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """`stream` is answered by events: one completed for each picture, as OpenAI's client reads it."""
    async with service(imagen_sandbox, tmp_path) as asker:
        answer = await asker.generate(stream=True, n=2)
        events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
        assert [event["type"] for event in events] == ["image_generation.completed"] * 2
        assert all(base64.b64decode(event["b64_json"]).startswith(PNG) for event in events)
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        imagen_sandbox.order("task", "fail_digits")
        answer = await asker.generate(stream=True)
        assert '"code":"generation_failed"' in answer.text


async def test_an_order_is_asked_for_later(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """`async` is answered at once by an id, by which it is found, also after a restart, and wanted no more."""
    asked = {"async": True}
    async with service(imagen_sandbox, tmp_path) as asker:
        answer = await asker.generate(**asked)
        assert answer.status == 202
        path = answer.headers["Location"]
        while (found := await asker.ask("GET", path)).body["status"] != "done":
            await asyncio.sleep(0.05)
        assert len(found.urls) == 1
        assert (await asker.ask("GET", f"{GENERATIONS}/img-none")).status == 404
    async with service(imagen_sandbox, tmp_path) as asker:
        assert len((await asker.ask("GET", path)).urls) == 1
        assert (await asker.ask("DELETE", path)).body["status"] == "done"
    assert len(imagen_sandbox.ledger.tasks) == 1


async def test_what_was_not_sent_can_be_called_off(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """DELETE of an order that waits costs nothing, and it is not sent later; its id says so."""
    imagen_sandbox.faults.keep("create", "429")
    async with service(imagen_sandbox, tmp_path) as asker:
        path = (await asker.generate(**{"async": True})).headers["Location"]
        # A create may be on its way by then, and be refused.
        assert (await asker.ask("DELETE", path)).status == 200
        assert (await asker.over(path)).body["status"] == "cancelled"
        imagen_sandbox.faults.keep("create", None)
    async with service(imagen_sandbox, tmp_path) as asker:
        assert (await asker.ask("GET", path)).body["status"] == "cancelled"
    assert imagen_sandbox.ledger.tasks == []


async def test_pictures_go_in_as_bytes(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """A form brings pictures, which are uploaded once; a path of this machine is refused."""
    async with service(imagen_sandbox, tmp_path) as asker:
        url = (await asker.generate()).urls[0]
        async with asker.session.get(url) as response:
            picture = await response.read()
        for prompt in ("make it night", "make it day"):
            form = aiohttp.FormData()
            form.add_field("prompt", prompt)
            form.add_field("model", "nano-banana-2")
            form.add_field("n", "1")
            form.add_field("image", picture, filename="a.png", content_type="image/png")
            answer = await asker.ask("POST", "/v1/images/edits", {"Authorization": "Bearer x"}, data=form)
            assert (answer.status, len(answer.body["data"])) == (200, 1)
        assert list(imagen_sandbox.ledger.uploads.values()) == [1]
        answer = await asker.generate(model="nano-banana-2", images=["/etc/passwd"])
        assert (answer.status, answer.error["param"]) == (400, "images")


async def test_models_are_listed(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """Our names and the aliases; one of them by its name; an unknown one is 404 with what may be meant."""
    async with service(imagen_sandbox, tmp_path, aliases={"gpt-image-1": "imagen4-fast"}) as asker:
        names = [each["id"] for each in (await asker.ask("GET", "/v1/models")).body["data"]]
        assert {"imagen4", "gpt-image-1"} <= set(names)
        assert (await asker.ask("GET", "/v1/models/gpt-image-1")).body["stands_for"] == "imagen4-fast"
        assert (await asker.ask("GET", "/v1/models/imagen9")).error["code"] == "model_not_found"
        assert (await asker.ask("GET", "/healthz")).body == {"status": "ok"}
        assert (await asker.ask("GET", "/nowhere")).error["code"] == "not_found"


async def test_a_folder_has_one_service(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """A second one in the same folder is refused; so is a client that keeps nothing."""
    async with service(imagen_sandbox, tmp_path):
        with pytest.raises(JournalError, match="another service has this folder"):
            async with service(imagen_sandbox, tmp_path):
                pass
    with pytest.raises(ConfigurationError, match="keeps what it makes"):
        application(Client("sandbox"))
