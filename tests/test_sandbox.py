"""The sandbox: what its service answers as each provider, without sockets, and over real ones for any record alone."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import aiohttp
import inner
import msgspec
import pytest
from conftest import naming
from PIL import Image

from imagen_async import Account, Client, ImageRequest, InvalidRequest, Limits, Rate
from imagen_async._core.dialects.jobs import JobsDialect
from imagen_async._core.dialects.tasks import TasksDialect
from imagen_async.providers import PROVIDERS, Model, Provider
from imagen_async.sandbox import Faults, Latency, Ledger, Sandbox

AS_EACH = pytest.mark.parametrize("provider", ["kie", "apikley", "liangxin", "apiin"])


class Api:
    """A provider's API as a client sees it: the client's half of how it talks, and the server's without sockets."""

    def __init__(self, provider: str, limits: Limits | None = None, **settings: Any) -> None:
        record = PROVIDERS[provider]
        self.ledger, self.dialect, self.faults = Ledger(), record.dialect, Faults()
        settings |= {"latency": Latency(median=10, sigma=0), "faults": self.faults, "files": "http://files"}
        self.service = inner.Service(record, key="k", limits=limits or Limits(), ledger=self.ledger, **settings)
        request = ImageRequest("a red fox", aspect_ratio="16:9")
        self.body = self.dialect.build_create(request, record.find("imagen4-fast"), "http://me/token").body

    def create(self, now: float = 0.0, key: str = "k", body: bytes | None = None) -> dict[str, Any]:
        """The answer to a create of an `imagen4-fast`, or of another body."""
        reply = self.service.create(f"Bearer {key}", body or self.body, now, now)
        return {"http": reply.status, **json.loads(reply.body)}

    def read(self, now: float) -> Any:
        """What the client makes of a status answer."""
        reply = self.service.status("Bearer k", self.task_id, now)
        return self.dialect.read_status(inner.HttpResponse(reply.status, reply.body), self.task_id)

    @property
    def task_id(self) -> str:
        """The first task's."""
        return str(self.ledger.tasks[0].task_id)


@AS_EACH
def test_it_speaks_as_each_provider(provider: str) -> None:
    """In each one's own words, which the client understands up to the picture; and so it refuses a wrong key."""
    api, in_the_body = Api(provider), provider in ("kie", "apikley")
    made = api.create()
    assert (made["http"], made["code"], "message" in made) == (200, 200, provider == "apiin")
    assert api.dialect.read_created(inner.HttpResponse(200, json.dumps(made).encode())) == inner.Accepted(api.task_id)
    assert [type(api.read(now)) for now in (0.0, 9.9, 10.0)] == [inner.Pending, inner.Pending, inner.Succeeded]
    assert api.read(10.0).urls == (f"http://files/{provider}/{api.task_id}/1.png",)
    refused = api.create(key="wrong")
    assert (refused["http"], "error" in refused) == ((200, False) if in_the_body else (401, True))


@AS_EACH
@pytest.mark.parametrize("fault", [None, "fail_word"])
def test_it_calls_back_as_each_provider_does(provider: str, fault: str | None) -> None:
    """Once the task has ended, in the shape of its status answers; kie.ai signs, and says 501 of a failure."""
    api = Api(provider, signing_key="k")
    api.faults.order("task", fault)
    api.create()
    webhook = api.service.webhooks.popleft()
    assert (webhook.url, webhook.ends) == ("http://me/token", 10.0)
    lines, body = webhook.message(10.0, 1700000000.0)
    document = json.loads(body)
    data, says_so = document["data"], provider == "kie" and fault
    assert api.task_id in (data.get("taskId"), data.get("task_id"))
    assert document["code"] == (501 if says_so else 200)
    assert ("resultJson" in data) == (provider != "apiin" and not says_so)
    whole = json.dumps({**document, "code": 200}).encode()
    read = api.dialect.read_status(inner.HttpResponse(200, whole), api.task_id)
    assert type(read) is (inner.TaskFailed if fault else inner.Succeeded)
    signature = inner.signature_of(api.task_id, "1700000000", "k")
    signed = {"X-Webhook-Timestamp": "1700000000", "X-Webhook-Signature": signature}
    assert lines == {"Content-Type": "application/json", **(signed if provider == "kie" else {})}


def test_no_two_providers_give_the_same_id() -> None:
    """With one seed the ids are the same on every run, and those of two providers, who word them alike, differ."""
    apis = [Api(provider) for provider in ("kie", "apikley", "kie")]
    for api in apis:
        api.create()
    first, other, again = (api.task_id for api in apis)
    assert (len(first), first == again, first == other) == (len(other), True, False)


def test_its_limits_and_its_balance_are_strict() -> None:
    """A create too many in a window, or while too many run, or beyond the balance, is refused and makes no task."""
    slow = Limits(Rate(2, per=60), Rate(1, per=60), running=10)
    window, room, purse = Api("kie", slow), Api("kie", Limits(running=1)), Api("kie", balance=4)
    assert [window.create(now)["code"] for now in (0, 59, 59.9, 60, 60)] == [200, 200, 429, 200, 429]
    assert (len(window.ledger.tasks), window.ledger.refused["submit"]) == (3, 2)
    assert [room.create(now)["code"] for now in (0, 9, 10)] == [200, 429, 200]
    assert [purse.create()["code"] for _ in range(2)] == [200, 402]


@AS_EACH
def test_it_refuses_what_is_no_question_of_its_own(provider: str) -> None:
    """Another key, whatever is asked; a body that is no JSON, a task, a link, a model and a file that are not there."""
    service = Api(provider).service
    calls = [
        lambda key: service.create(key, b"no JSON", 0, 0),
        lambda key: service.status(key, "nobody's", 0),
        lambda key: service.renew(key, b"[]", 0),
        lambda key: service.renew(key, b'{"url": "http://files/x/1.png"}', 0),
        lambda key: service.models(key, "no/model"),
        lambda key: service.upload(key, "", "http://files/uploads/"),
        lambda key: service.credits(key),
    ]
    replies = [[call(key) for call in calls] for key in ("", "Bearer k")]
    codes = [[inner.open_answer(inner.HttpResponse(each.status, each.body)).code for each in row] for row in replies]
    assert codes[0] == [401] * 7
    assert all(400 <= code < 600 for code in codes[1][:6])
    assert codes[1][6] == 200


def test_it_checks_the_wire_types() -> None:
    """It objects to what kie.ai objects to, and ignores a misspelt field as kie.ai does."""
    taken = [{"prompt": "x", "seed": "7"}, {"prompt": "x", "misspelt": 1}]
    refused = [{"prompt": "x", "seed": 7}, {"prompt": "x", "aspect_ratio": "2:1"}, {"aspect_ratio": "1:1"}]
    bodies = [json.dumps({"model": "google/imagen4", "input": each}).encode() for each in (*taken, *refused)]
    assert [Api("kie").create(body=body)["code"] for body in bodies] == [200, 200, 422, 500, 500]


async def test_its_ledger_and_its_pictures_are_served() -> None:
    """Anybody may read what would have been billed; a picture is there only when its task is done."""
    async with Sandbox(latency=Latency(median=60)) as sandbox, aiohttp.ClientSession() as session:
        key = {"Authorization": f"Bearer {sandbox.key}"}
        body = {"model": "google/imagen4", "input": {"prompt": "x"}}
        await session.post(f"{sandbox.url_of('kie')}/api/v1/jobs/createTask", json=body, headers=key)
        async with session.get(f"{sandbox.url}/sandbox/ledger") as response:
            summary = await response.json()
        assert (summary["creates"], summary["tasks"], summary["credits"]) == (1, 1, 8)
        for path in (f"kie/{sandbox.ledger.tasks[0].task_id}/1.png", "kie/other/1.png", "nobody/x/1.png"):
            async with session.get(f"{sandbox.url}/files/{path}") as response:
                assert response.status == 404, path


def test_a_painting_has_the_asked_shape_and_differs_by_prompt_and_variant(monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole PNG, the same for the same arguments, with Pillow and without."""
    for shape, size in inner.SIZES.items():
        for data in (inner.paint("a red fox", shape, "1"), inner._gradient(size, bytes(range(40)))):
            with naming(shape), Image.open(io.BytesIO(data)) as picture:
                picture.load()
                width, height = map(int, shape.split(":"))
                assert (picture.format, picture.width * height) == ("PNG", picture.height * width)
    for _ in range(2):
        pictures = {inner.paint(prompt, "1:1", variant) for prompt in ("a", "b") for variant in ("1", "2")}
        assert len(pictures) == 4
        assert inner.paint("a", "1:1", "1") in pictures
        monkeypatch.setitem(sys.modules, "PIL", None)


def test_faults_come_as_ordered_then_by_chance() -> None:
    """Orders are served first, in turn; chance is repeatable; a misspelt fault is refused."""
    faults, again = Faults(1.0, seed=5), Faults(1.0, seed=5)
    faults.order("create", None, "429")
    assert [faults.draw("create"), faults.draw("create")] == [None, "429"]
    assert [faults.draw("poll") for _ in range(20)] == [again.draw("poll") for _ in range(20)]
    with pytest.raises(ValueError, match="no fault"):
        faults.order("poll", "reset_after")


SCHEMA: inner.Schema = {
    "prompt": inner.Text(required=True),
    "shape": inner.Choice(("square", "wide"), default="square"),
    "steps": inner.Whole(minimum=1, maximum=50),
}
WORDS = {"aspect_ratio": inner.Translation("shape", {"1:1": "square", "16:9": "wide"})}
PAINTER = Model("painter", "fifth/painter-2", SCHEMA, translations=WORDS)
TALK, OTHER_TALK = JobsDialect(credits_path="/api/v1/left"), TasksDialect(task_id_form="fifth-{number}")
FIFTH = Provider("fifth", "The Fifth", None, TALK, (PAINTER,), Limits(), inner.LatencyPrior(median=0.05, sigma=0.5))


@pytest.mark.parametrize("dialect", [TALK, OTHER_TALK], ids=["createTask", "images/generations"])
async def test_a_record_alone_makes_a_provider(dialect: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its model makes a picture of the asked shape, at a price although nobody publishes one, beside the others."""
    monkeypatch.setitem(PROVIDERS, "fifth", msgspec.structs.replace(FIFTH, dialect=dialect))
    async with Sandbox(latency=Latency(median=0.01, minimum=0.01)) as sandbox:
        account = Account("fifth", api_key=sandbox.key, base_url=sandbox.url_of("fifth"))
        async with Client(account) as client:
            result = await client.generate("a fox", model="painter", aspect_ratio="16:9", extra={"steps": 20})
            (picture,) = await result.save(tmp_path)
            (balance,) = (await client.credits()).values()
        (task,) = sandbox.ledger.tasks
        async with Client("kie", api_key=sandbox.key, base_url=sandbox.url_of("kie"), freshness=0.001) as client:
            assert (await client.generate("a heron", model="imagen4")).credits == 8
            with pytest.raises(InvalidRequest, match="painter is served by: fifth"):
                await client.generate("a heron", model="painter")
    assert (task.provider, task.model) == ("fifth", "fifth/painter-2")
    assert task.input == {"prompt": "a fox", "shape": "wide", "steps": 20}
    assert (task.credits, result.task_id) == (inner.PRICE_WHERE_NONE_IS_KNOWN, task.task_id)
    assert (balance is not None) == (dialect.build_credits() is not None)
    with Image.open(picture.path) as image:
        assert image.width * 9 == image.height * 16


async def test_a_local_provider_needs_no_key_and_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes it local is in its record: the client serves it by itself, with the limits that its account was given,
    and is not kept from it by another whose server's half is not written yet."""
    monkeypatch.setitem(PROVIDERS, "fifth", msgspec.structs.replace(FIFTH, is_local=True))
    monkeypatch.setitem(PROVIDERS, "sixth", msgspec.structs.replace(FIFTH, name="sixth", dialect=object()))
    async with Client("fifth", limits=Limits(Rate(1, per=60))) as client:
        result = await client.generate("a fox", model="painter")
        address, _, file = result.urls[0].partition("/files/")
        create = {"model": "fifth/painter-2", "input": {"prompt": "another"}}
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {inner.SANDBOX_KEY}"}) as session:
            async with session.post(f"{address}/fifth/api/v1/jobs/createTask", json=create) as response:
                answer = await response.json()
    assert (file.partition("/")[0], answer["code"]) == ("fifth", 429)
