"""The sandbox: what its service answers as each provider, without sockets, and over real ones for any record alone."""

from __future__ import annotations

import base64
import io
import json
import struct
import sys
import zlib
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
from imagen_async.providers import PROVIDERS, Model, Provider, Uploads
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


def test_it_tells_as_many_links_as_anybody_reads() -> None:
    """However many pictures are asked for, and billed, where no page sets a bound."""
    api = Api("apiin")
    body = {"model": "imagen4", "prompt": "x", "num_images": 200_000_000}
    assert api.create(body=json.dumps(body).encode())["http"] == 200
    assert len(api.read(10.0).urls) == 1000


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
        lambda key: service.upload(key, None, "", 0),
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


UNREADABLE = [b"NaN", b"1e999", rb'"\ud800"', b"9" * 5000, b"[" * 900 + b"]" * 900, b"[" * 100_000]


@AS_EACH
def test_a_body_that_cannot_be_read_makes_no_task(provider: str) -> None:
    """Nor one that could not be told again, nor one of a model that is no name: each is refused as it is wrong."""
    api = Api(provider)
    whole = json.loads(api.body)
    bodies = [api.body[:-1] + b',"odd":' + value + b"}" for value in UNREADABLE]
    bodies += [json.dumps({**whole, "model": name}).encode() for name in (None, 7, ["x"], {"a": 1}, " ", "\0")]
    for body in (*bodies, UNREADABLE[-1]):
        with naming(body[:200]):
            assert api.create(body=body)["http"] in (200, 400)
            assert b"is wrong" in api.service.renew("Bearer k", body, 0).body
    assert (api.ledger.tasks, api.ledger.refused["invalid"]) == ([], len(bodies) + 1)


async def test_no_request_breaks_it() -> None:
    """What is packed or encoded in another way than it says is refused; a link with an odd end leads to nothing."""
    forms = [
        (b"\0\1", "multipart/form-data; boundary=x"),
        (b"\0\1", "multipart/form-data"),
        (b"a=b", "application/x-www-form-urlencoded; charset=odd"),
    ]
    key = {"Authorization": f"Bearer {inner.SANDBOX_KEY}"}
    async with Sandbox() as sandbox, aiohttp.ClientSession(headers=key) as session:
        create, upload = f"{sandbox.url}/api/v1/jobs/createTask", f"{sandbox.url}/api/file-stream-upload"
        requests = [(upload, data, {"Content-Type": kind}) for data, kind in forms]
        packed = {"Content-Encoding": "gzip", "Connection": "close"}
        requests += [(url, b"not gzip", packed) for url in (create, upload)]
        for url, data, headers in requests:
            with naming(url, data, headers):
                async with session.post(url, data=data, headers=headers) as response:
                    assert (response.status, (await response.json())["code"] in (400, 422)) == (200, True)
        for end in ("?until=abc", "?until=nan", "?until="):
            async with session.get(f"{sandbox.url}/files/kie/x/1.png{end}") as response:
                assert response.status == 404, end
        assert (sandbox.ledger.tasks, sandbox.ledger.uploads) == ([], {})


CALLBACKS = "//127.0.0.1/x http:// http://[ http://127.0.0.1:99999/x javascript:1 ftp://127.0.0.1/x http://127.0.0.1:x/"


@pytest.mark.parametrize("anywhere", [False, True])
async def test_a_callback_that_has_no_address_is_not_taken(anywhere: bool) -> None:
    """It is withheld, or counted as one that nobody answered; the sandbox goes on, and so does the task."""
    addresses: list[Any] = [*CALLBACKS.split(), "", 5, {"a": "//127.0.0.1/x"}]
    key = {"Authorization": f"Bearer {inner.SANDBOX_KEY}"}
    async with Sandbox(callback_retry=0.001, calls_anywhere=anywhere) as sandbox:
        async with aiohttp.ClientSession(f"{sandbox.url}/", headers=key) as session:
            for address in addresses:
                # What is announced before the create is answered has been sent, or not, when that is there.
                sandbox.order("callback", "early")
                create = {"model": "google/imagen4", "input": {"prompt": "x"}, "callBackUrl": address}
                async with session.post("api/v1/jobs/createTask", json=create) as response:
                    assert (response.status, (await response.json())["code"]) == (200, 200), address
        tried = {*sandbox.ledger.callbacks, *sandbox.ledger.withheld}
        assert (tried, sandbox.ledger.announced) == ({each.task_id for each in sandbox.ledger.tasks}, set())
        assert (set(sandbox.ledger.callback_answers), bool(sandbox.ledger.withheld)) == ({0}, not anywhere)


async def test_each_way_of_uploading_is_served() -> None:
    """As a data URI, as bare base64, by an address of this machine, which is fetched, and by one that is not."""
    picture = inner.paint("a fox", "1:1", "1")
    text = base64.b64encode(picture).decode()
    async with Sandbox() as sandbox, aiohttp.ClientSession() as session:

        async def upload(way: str, key: str = inner.SANDBOX_KEY, **body: Any) -> dict[str, Any]:
            url, headers = f"{sandbox.url}/api/file-{way}-upload", {"Authorization": f"Bearer {key}"}
            async with session.post(url, json={**body, "uploadPath": "images"}, headers=headers) as response:
                return dict(await response.json())

        first = await upload("base64", base64Data=f"data:image/png;base64,{text}")
        address = first["data"]["downloadUrl"]
        for again in (await upload("base64", base64Data=text), await upload("url", fileUrl=address)):
            assert again["data"]["downloadUrl"] == address
        assert (first["success"], first["code"], first["data"]["fileSize"]) == (True, 200, len(picture))
        assert set(first["data"]) == {"fileName", "filePath", "downloadUrl", "fileSize", "mimeType", "uploadedAt"}
        other = await upload("url", fileUrl="https://nobody.example/fox.png?a=b")
        for url, begin in {address: picture, other["data"]["downloadUrl"]: b"\x89PNG"}.items():
            async with session.get(url) as response:
                assert (await response.read()).startswith(begin)
        wrong = [await upload("base64", base64Data=each) for each in ("data:image/png;base64,", "é", "=", 5, None)]
        addresses = ("fox.png", "file:///fox.png", "http://", f"{sandbox.url}/files/uploads/none", 5, None)
        wrong += [await upload("url", fileUrl=each) for each in addresses]
        assert {each["code"] for each in wrong} == {400}
        assert (await upload("url", "another", fileUrl=f"{sandbox.url}/sandbox/ledger"))["code"] == 401
        assert sandbox.ledger.uploads.total() == 4


def test_it_speaks_as_modkie_does() -> None:
    """In its words for a task that waits and runs, with a result that is no text."""
    api = Api("modkie")
    api.create()
    replies = [json.loads(api.service.status("Bearer k", api.task_id, now).body)["data"] for now in (0, 9, 10)]
    assert [each["state"] for each in replies] == ["pending", "processing", "success"]
    assert replies[-1]["resultJson"] == {"resultUrls": list(api.read(10).urls)}
    assert [type(api.read(now)) for now in (0, 9)] == [inner.Pending, inner.Pending]


def test_a_raw_model_may_be_called_anything() -> None:
    """Its name, where it is part of the task's id, is none of the path to its pictures."""
    api = Api("liangxin")
    api.create(body=b'{"model": "maker/a?b#c", "input": {"prompt": "x"}}')
    assert api.read(10.0).urls == (f"http://files/liangxin/{api.task_id}/1.png",)
    assert api.task_id.startswith("task_maker-a-b-c_")


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


def test_what_cannot_be_read_is_left_out_of_a_painting() -> None:
    """A picture that went in and is none, or larger than Pillow opens, is no reason to paint nothing."""
    chunks = {b"IHDR": struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0), b"IDAT": b"x"}
    written = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks.items()]
    giant = b"\x89PNG\r\n\x1a\n" + b"".join(written)
    for data in (giant, giant[:40], b"", b"RIFF"):
        assert inner.paint("a fox", "1:1", "1", [data]).startswith(b"\x89PNG")


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
BY_QUERIES = JobsDialect(
    create_path="/make?for=me",
    status_path="/made?kind=image&id=task%3A{task_id}.v1&v=2",
    credits_path="/left?for=me",
    models_path="/models?all=1",
    schema_path="/models?name={model}",
)
FIFTH = Provider("fifth", "The Fifth", None, TALK, (PAINTER,), Limits(), inner.LatencyPrior(median=0.05, sigma=0.5))


@pytest.mark.parametrize(
    "dialect", [TALK, OTHER_TALK, BY_QUERIES], ids=["createTask", "images/generations", "by queries"]
)
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


async def test_lists_and_schemas_may_be_asked_for_by_queries() -> None:
    """At one path, which the client asks for both; files may go to such a one, too."""
    own = msgspec.structs.replace(FIFTH, dialect=BY_QUERIES, uploads=Uploads("/up?for=me"))
    questions = [BY_QUERIES.build_models(), BY_QUERIES.build_schema(PAINTER.wire_name)]
    key = {"Authorization": f"Bearer {inner.SANDBOX_KEY}"}
    async with Sandbox(providers=[own]) as sandbox, aiohttp.ClientSession(headers=key) as session:
        answers = []
        for question in filter(None, questions):
            async with session.get(sandbox.url_of("fifth") + question.path) as response:
                answers.append((await response.json())["data"])
        file = aiohttp.FormData()
        file.add_field("file", io.BytesIO(b"x"), filename="x")
        async with session.post(sandbox.url_of("fifth") + "/up?for=me", data=file) as response:
            assert response.status == 200
    assert [each["model"] for each in answers[0]["models"]] == [PAINTER.wire_name] == [answers[1]["model"]]


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
