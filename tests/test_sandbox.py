"""The sandbox as a server of its own: protocol, limits, ledger, pictures."""

from __future__ import annotations

import asyncio
import io
import sys
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from PIL import Image
from servers import served
from virtual_network import busiest_window

from imagen_async import Client, Limits, Rate
from imagen_async._core.callbacks import signature_of
from imagen_async.sandbox import Faults, Latency, Ledger, Sandbox
from imagen_async.sandbox._painter import SIZES, _gradient, paint
from imagen_async.testing import running_sandbox


async def post(url: str, body: object, key: str) -> tuple[int, dict[str, object]]:
    """One plain POST, as any other client would send it."""
    headers = {"Authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession() as session, session.post(url, json=body, headers=headers) as response:
        return response.status, await response.json(content_type=None)


def create_of(provider: str, sandbox: Sandbox) -> tuple[str, dict[str, object]]:
    """The address and body of a create at one of the APIs."""
    if provider == "apiin":
        return f"{sandbox.url_of(provider)}/api/v1/images/generations", {"model": "imagen4", "prompt": "x"}
    model = "imagen4-ultra" if provider == "liangxin" else "google/imagen4"
    return f"{sandbox.url_of(provider)}/api/v1/jobs/createTask", {"model": model, "input": {"prompt": "x"}}


@pytest.mark.parametrize("provider", ["kie", "apikley", "liangxin", "apiin"])
async def test_speaks_as_each_provider_and_refuses_in_its_envelope(imagen_sandbox: Sandbox, provider: str) -> None:
    """A create is answered in each provider's own words; a wrong key in its own envelope and status."""
    url, body = create_of(provider, imagen_sandbox)
    status, answer = await post(url, body, imagen_sandbox.key)
    assert (status, answer["code"]) == (200, 200)
    assert ("message" in answer) == (provider == "apiin")
    status, answer = await post(url, body, "wrong")
    assert status == (200 if provider in ("kie", "apikley") else 401)
    assert ("error" in answer) == (provider in ("liangxin", "apiin"))


async def test_enforces_a_strict_window() -> None:
    """The third create in a window of two is refused and makes no task."""
    limits = Limits(Rate(2, per=60), Rate(1, per=60), running=10)
    with running_sandbox(Sandbox(limits=limits)) as sandbox:
        url, body = create_of("kie", sandbox)
        codes = [(await post(url, body, sandbox.key))[1]["code"] for _ in range(3)]
    assert codes == [200, 200, 429]
    assert (len(sandbox.ledger.tasks), sandbox.ledger.refused["submit"]) == (2, 1)


async def test_enforces_the_running_limit_and_the_balance() -> None:
    """With room for one task the second is refused; with credit for one, the second is 402."""
    with running_sandbox(Sandbox(limits=Limits(running=1), latency=Latency(median=60))) as sandbox:
        url, body = create_of("kie", sandbox)
        assert [(await post(url, body, sandbox.key))[1]["code"] for _ in range(2)] == [200, 429]
    with running_sandbox(Sandbox(balance=8)) as sandbox:
        url, body = create_of("kie", sandbox)
        assert [(await post(url, body, sandbox.key))[1]["code"] for _ in range(2)] == [200, 402]


@pytest.mark.parametrize(
    ("wire_input", "code"),
    [
        ({"prompt": "x", "seed": 7}, 422),
        ({"prompt": "x", "seed": "7"}, 200),
        ({"prompt": "x", "aspect_ratio": "2:1"}, 422),
        ({"aspect_ratio": "1:1"}, 500),
        ({"prompt": "x", "misspelt": 1}, 200),
    ],
)
async def test_checks_the_wire_types(imagen_sandbox: Sandbox, wire_input: dict[str, object], code: int) -> None:
    """It objects to what kie.ai objects to, and ignores a misspelt field as kie.ai does."""
    url, _ = create_of("kie", imagen_sandbox)
    assert (await post(url, {"model": "google/imagen4", "input": wire_input}, imagen_sandbox.key))[1]["code"] == code


async def test_the_ledger_is_served(imagen_sandbox: Sandbox) -> None:
    """Anybody may read what would have been billed."""
    url, body = create_of("kie", imagen_sandbox)
    await post(url, body, imagen_sandbox.key)
    async with aiohttp.ClientSession() as session, session.get(f"{imagen_sandbox.url}/sandbox/ledger") as response:
        summary = await response.json()
    assert (summary["creates"], summary["tasks"], summary["credits"]) == (1, 1, 8)


async def test_a_picture_is_there_only_when_its_task_is_done() -> None:
    """The file of a task that runs is 404, as is any other."""
    with running_sandbox(Sandbox(latency=Latency(median=60))) as sandbox:
        url, body = create_of("kie", sandbox)
        _, answer = await post(url, body, sandbox.key)
        data = answer["data"]
        assert isinstance(data, dict)
        async with aiohttp.ClientSession() as session:
            for path in (f"kie/{data['taskId']}/1.png", "kie/other/1.png", "nobody/x/1.png"):
                async with session.get(f"{sandbox.url}/files/{path}") as response:
                    assert response.status == 404


@pytest.mark.parametrize("shape", SIZES)
def test_paints_the_asked_shape_with_and_without_pillow(shape: str) -> None:
    """Both painters make a whole PNG of the asked aspect ratio."""
    for data in (paint("a red fox", shape, "1"), _gradient(SIZES[shape], bytes(range(40)))):
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
            assert picture.format == "PNG"
            width, height = (int(part) for part in shape.split(":"))
            assert picture.width * height == picture.height * width


def test_paintings_differ_by_prompt_and_variant(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same prompt and seed give the same picture, anything else another one; without Pillow too."""
    for _ in range(2):
        pictures = {paint(prompt, "1:1", variant) for prompt in ("a", "b") for variant in ("1", "2")}
        assert len(pictures) == 4
        assert paint("a", "1:1", "1") in pictures
        monkeypatch.setitem(sys.modules, "PIL", None)


def test_faults_come_as_ordered_then_by_chance() -> None:
    """Orders are served first, in turn; chance is repeatable; a misspelt fault is refused."""
    faults = Faults(1.0, seed=5)
    faults.order("create", None, "429")
    assert [faults.draw("create"), faults.draw("create")] == [None, "429"]
    again = Faults(1.0, seed=5)
    assert [faults.draw("poll") for _ in range(20)] == [again.draw("poll") for _ in range(20)]
    with pytest.raises(ValueError, match="no fault"):
        faults.order("poll", "reset_after")


def test_busiest_window_counts_as_a_strict_server_does() -> None:
    """Arrivals that are a whole window apart do not share one."""
    assert busiest_window([0, 10, 20], 10) == 1
    assert busiest_window([0, 9.99, 10], 10) == 2
    assert busiest_window([], 10) == 0
    assert Ledger().credits == 0


async def test_client_sandbox_uses_the_accounts_limits() -> None:
    """The server inside the process enforces what the account was given."""
    async with Client("sandbox", limits=Limits(Rate(100, per=0.1), Rate(100, per=0.1), running=100)) as client:
        async with client.batch(f"p{n}" for n in range(150)) as results:
            assert all([result.ok async for result in results])


@pytest.mark.parametrize("task_fault", [None, "fail_word"])
@pytest.mark.parametrize("provider", ["kie", "apikley", "liangxin", "apiin"])
async def test_calls_back_as_each_provider_does(provider: str, task_fault: str | None) -> None:
    """Once the task has ended, in the shape of its status answers; kie.ai signs, and says 501 of a failure."""
    calls: list[tuple[dict[str, str], dict[str, Any]]] = []
    called = asyncio.Event()

    async def listen(request: web.Request) -> web.Response:
        calls.append((dict(request.headers), await request.json()))
        called.set()
        return web.Response(status=204)

    async with Sandbox(latency=Latency(median=0.05), signing_key="k") as sandbox, served(listen) as url:
        sandbox.order("task", task_fault)
        create, body = create_of(provider, sandbox)
        body["callback_url" if provider == "apiin" else "callBackUrl"] = f"{url}/hook/token"
        await post(create, body, sandbox.key)
        await called.wait()
    ((lines, document),) = calls
    task_id, data = str(sandbox.ledger.tasks[0].task_id), document["data"]
    assert task_id in (data.get("taskId"), data.get("task_id"))
    assert (data.get("state") or data["status"]) in (("fail", "failed") if task_fault else ("success", "completed"))
    assert document["code"] == (501 if provider == "kie" and task_fault else 200)
    assert ("resultJson" in data) == (provider != "apiin" and not (provider == "kie" and task_fault))
    assert ("X-Webhook-Signature" in lines) == (provider == "kie")
    if provider == "kie":
        assert lines["X-Webhook-Signature"] == signature_of(task_id, lines["X-Webhook-Timestamp"], "k")
