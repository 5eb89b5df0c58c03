"""Pictures that go in: known by their content, looked at first, uploaded once, and renewed once they have gone."""

from __future__ import annotations

import asyncio
import io
import json
import random
import signal
import sqlite3
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import anyio
import commands
import inner
import msgspec
import pytest
from aiohttp import web
from commands import METADATA, Call, at, call, clean_environment, lines_of
from journals import by_hand
from PIL import Image
from plan_world import upstream
from samples import EDIT, EVENTS, LOST_BEFORE, NOW, job_in
from servers import served

from imagen_async import Account, Client, ImageRequest, Limits, Rate, errors, raw_model
from imagen_async.providers import PROVIDERS, Uploads
from imagen_async.sandbox import Latency, Sandbox
from imagen_async.testing import running_sandbox

__all__ = ["call", "clean_environment"]

KEY = "sk-secret-0123"
URL = "https://files.example/1.png"
RUNS_AGAIN = "UPDATE jobs SET state = 'running', files = NULL, urls = NULL, ended_at = NULL"


def picture(number: int, kind: str = "PNG") -> bytes:
    """A picture of its own."""
    out = io.BytesIO()
    Image.new("RGB", (40 + number, 30), (number % 256, 90, 30)).save(out, kind)
    return out.getvalue()


def noise(side: int) -> bytes:
    """A picture of some megabytes, which nothing makes small."""
    out = io.BytesIO()
    Image.frombytes("RGB", (side, side), random.Random(7).randbytes(3 * side * side)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Some on disk."""
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for number, path in enumerate(paths):
        path.write_bytes(picture(number))
    return paths


def client_of(sandbox: Sandbox, **terms: Any) -> Client:
    """A client of a sandbox."""
    return Client("sandbox", api_key=sandbox.key, base_url=sandbox.url, **terms)


async def made(client: Client, requests: list[ImageRequest], **terms: Any) -> list[Any]:
    """The results of a batch, by place."""
    async with client.batch(requests, **terms) as results:
        return sorted([result async for result in results], key=lambda result: result.index)


async def test_a_path_bytes_and_a_url_go_in(imagen_sandbox: Sandbox, pictures: list[Path], tmp_path: Path) -> None:
    """The provider gets addresses; the key of a request is made of what the pictures show; an edit shows its source."""
    copy = tmp_path / "copy.png"
    copy.write_bytes(pictures[0].read_bytes())
    url = "https://files.example/fox.png"
    forms: list[Any] = [[pictures[0]], str(copy), picture(0), [picture(0)], (str(pictures[0]),)]
    async with client_of(imagen_sandbox) as client:
        results = [await client.generate("night", model="nano-banana-2", images=images) for images in forms]
        other = await client.generate("night", model="nano-banana-2", images=[pictures[1], url])
        (file,) = await results[0].save(tmp_path / "out")
    assert len({result.key for result in results}) == 1
    assert other.key not in {result.key for result in results}
    assert (imagen_sandbox.ledger.uploads.total(), imagen_sandbox.ledger.key_leaks) == (2, 0)
    sent = [create.input["image_input"] for create in imagen_sandbox.ledger.creates]
    assert sent[:5] == [sent[0]] * 5
    assert sent[0][0].startswith(f"{imagen_sandbox.url}/files/uploads/")
    assert sent[5][1] == url
    assert (results[0].request.images, results[0].credits) == ((str(pictures[0]),), 8)
    with Image.open(file.path) as edited:
        assert edited.convert("RGB").getpixel((20, 20)) == (0, 90, 30)


async def test_every_field_for_pictures_takes_paths(imagen_sandbox: Sandbox, pictures: list[Path]) -> None:
    """By its own name, beside `images`; what is filled in tells which half of a model is meant."""
    async with client_of(imagen_sandbox) as client:
        await client.generate("sky", model="ideogram-v3", images=[pictures[0]], extra={"mask_url": pictures[1]})
        await client.generate("sky", model="ideogram-v3", extra={"image_url": str(pictures[0])})
        await client.generate(model="recraft-crisp-upscale", images=pictures[0])
    models = [create.model for create in imagen_sandbox.ledger.creates]
    assert models == ["ideogram/v3-edit", "ideogram/v3-remix", "recraft/crisp-upscale"]
    assert set(imagen_sandbox.ledger.creates[0].input) == {"prompt", "image_url", "mask_url"}
    assert imagen_sandbox.ledger.uploads.total() == 2


async def test_what_cannot_go_in_is_refused_before_a_cent(
    imagen_sandbox: Sandbox, pictures: list[Path], tmp_path: Path
) -> None:
    """By its kind, its size, how many there are, or because it cannot be read: nothing is uploaded, nothing created."""
    (tmp_path / "fox.bmp").write_bytes(picture(7, "BMP"))
    (tmp_path / "half.png").write_bytes(picture(8)[:60])
    (tmp_path / "words.png").write_text("no picture")
    (tmp_path / "large.png").write_bytes(picture(9) + b"\0" * 0)
    bad: dict[str, dict[str, Any]] = {
        "cannot be read: No such file": {"images": ["none.png"]},
        "cannot be read: Is a directory": {"images": [tmp_path]},
        "allowed is a list of at most 14, each the URL": {"extra": {"image_input": [{"url": URL}]}},
        "it is image/bmp; allowed is a list of at most 14": {"images": [tmp_path / "fox.bmp"]},
        "breaks off: it is no whole PNG": {"images": [tmp_path / "half.png"]},
        "is no picture, video or sound": {"images": [tmp_path / "words.png"]},
        "allowed is a list of at most 14": {"images": [pictures[0]] * 15},
        "has no such parameter": {"images": [pictures[0]], "model": "imagen4"},
        "images holds 7: allowed is a path": {"images": [7]},
        "image_input=": {"images": [pictures[0]], "extra": {"image_input": [str(pictures[1])]}},
        "takes its parameters": {"images": [pictures[0]], "model": "raw:x"},
    }
    async with client_of(imagen_sandbox) as client:
        for told, fields in bad.items():
            with pytest.raises(errors.InvalidRequest) as caught:
                await client.generate("night", **{"model": "nano-banana-2", **fields})
            assert told in caught.value.message
        results = await made(client, [ImageRequest("x", **fields) for fields in bad.values()], model="nano-banana-2")
        assert [told in result.error.message for told, result in zip(bad, results, strict=True)] == [True] * len(bad)
    assert (imagen_sandbox.ledger.uploads, imagen_sandbox.ledger.creates) == ({}, [])


async def test_a_provider_without_an_upload_wants_a_url(imagen_sandbox: Sandbox, pictures: list[Path]) -> None:
    """The message says so; a request that one account cannot express goes to one that can."""
    ruxa = Account("ruxa", imagen_sandbox.key, imagen_sandbox.url_of("ruxa"))
    kie = Account("kie", imagen_sandbox.key, imagen_sandbox.url_of("kie"))
    async with Client(ruxa) as client:
        with pytest.raises(errors.InvalidRequest, match="Ruxa has no upload that is known: give its URL"):
            await client.generate("night", model="nano-banana-2", images=[pictures[0]])
    small = msgspec.structs.replace(PROVIDERS["kie"], uploads=Uploads("/api/file-stream-upload", max_bytes=20))
    async with Client(Account(small, imagen_sandbox.key, imagen_sandbox.url_of("kie"))) as client:
        with pytest.raises(errors.InvalidRequest, match=r"takes uploads of at most 2e-05 MB"):
            await client.generate("night", model="nano-banana-2", images=[pictures[0]])
    async with Client(ruxa, kie) as client:
        assert (await client.generate("night", model="nano-banana-2", images=[pictures[0]])).provider == "kie"


async def test_nothing_is_uploaded_for_what_is_not_sent(imagen_sandbox: Sandbox, pictures: list[Path]) -> None:
    """A budget that is too small, an account that is empty, a caller who leaves: no picture leaves this machine."""
    requests = [ImageRequest("night", images=[each]) for each in pictures]
    async with client_of(imagen_sandbox) as client:
        with pytest.raises(errors.BudgetReached):
            await made(client, requests, model="nano-banana-2", max_credits=7)
        async with client.batch(requests, model="nano-banana-2") as results:
            results.stop()
    assert (imagen_sandbox.ledger.uploads, imagen_sandbox.ledger.creates) == ({}, [])


async def test_a_picture_that_has_changed_is_not_sent(imagen_sandbox: Sandbox, pictures: list[Path]) -> None:
    """What was looked at is what goes in, or nothing does."""
    request = ImageRequest("night", images=(str(pictures[0]),), model="nano-banana-2")
    async with client_of(imagen_sandbox) as client:
        looked_at = inner.InputFiles().prepared(request, ())
        pictures[0].write_bytes(picture(99))
        with pytest.raises(errors.InvalidRequest, match="has changed since it was looked at"):
            await client.generate(looked_at)
    assert imagen_sandbox.ledger.creates == []


async def test_uploads_that_fail_are_told(imagen_sandbox: Sandbox, pictures: list[Path]) -> None:
    """A host for uploads that cannot be reached, or refuses: no create leaves, and the next account is asked."""
    nobody = Account("sandbox", imagen_sandbox.key, imagen_sandbox.url, upload_url="http://127.0.0.1:9")
    async with Client(nobody) as client:
        with pytest.raises(errors.DeadlineExceeded, match="No task was made"):
            await client.generate("night", model="nano-banana-2", images=[pictures[0]], deadline=0.5)
    wrong = Account("sandbox", imagen_sandbox.key, imagen_sandbox.url, upload_url=f"{imagen_sandbox.url}/liangxin")
    async with Client(wrong) as client:
        with pytest.raises(errors.AccountError, match=r"The upload of .* was refused.*upload_url"):
            await client.generate("night", model="nano-banana-2", images=[pictures[0]])
    assert imagen_sandbox.ledger.creates == []


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [(422, "no such kind", errors.InvalidRequest), (500, "not now", errors.DeadlineExceeded)],
)
async def test_what_the_host_of_uploads_says(
    imagen_sandbox: Sandbox, pictures: list[Path], status: int, message: str, kind: type[errors.ImagenError]
) -> None:
    """A file that it does not want is that request's end; what is wrong with the host is tried again."""
    asked = 0

    async def handle(request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        return web.json_response({"code": status, "msg": message}, status=status)

    async with served(handle) as url:
        account = Account("sandbox", imagen_sandbox.key, imagen_sandbox.url, upload_url=url)
        async with Client(account) as client:
            with pytest.raises(kind, match=message):
                await client.generate("night", model="nano-banana-2", images=[pictures[0]], deadline=3)
    assert (asked > 1, imagen_sandbox.ledger.creates) == (status == 500, [])


async def test_an_upload_that_wants_another_key_stops_the_account(
    imagen_sandbox: Sandbox, pictures: list[Path], tmp_path: Path
) -> None:
    """Nothing failed by it: what waits goes to the other account, or to the next run."""
    requests = [ImageRequest(f"night {number}", images=[each]) for number, each in enumerate(pictures)]
    terms: dict[str, Any] = {"model": "nano-banana-2", "journal": tmp_path / "run.db"}
    stopped = Account("sandbox", "wrong", imagen_sandbox.url, name="stopped")
    async with Client(stopped) as client, client.batch(requests, **terms) as results:
        with pytest.raises(errors.AuthenticationError, match="Check the key"):
            await anext(results)
    async with Client(stopped, Account("sandbox", imagen_sandbox.key, imagen_sandbox.url)) as client:
        assert [each.provider for each in await made(client, requests, **terms)] == ["sandbox"] * len(requests)
    assert {each.task_id is None for each in imagen_sandbox.ledger.creates} == {False}


def test_where_the_key_goes() -> None:
    """To the record's own host for uploads only while the API is at the record's own address."""
    kie = PROVIDERS["kie"]
    up = Uploads("/up", "https://up.own.example/")
    own = msgspec.structs.replace(kie, name="own", base_url="https://own.example/", uploads=up)
    accounts = {
        "kie": Account("kie", KEY),
        "mine": Account("kie", KEY, "https://proxy.example", name="mine"),
        "told": Account("kie", KEY, "https://proxy.example/x", name="told", upload_url="https://up.example/"),
        "ruxa": Account("ruxa", KEY),
        "own": Account(own, KEY),
    }
    opened = inner.open_pool(inner.named(accounts.values()), {})
    endpoints = {name: each.endpoint for name, each in opened.items() if each.endpoint is not None}
    where = {name: each.base_url for name, each in inner.upload_endpoints(opened, endpoints).items()}
    homes = {"kie": kie.uploads.base_url, "own": "https://up.own.example"}
    assert where == {**homes, "mine": "https://proxy.example", "told": "https://up.example"}
    with pytest.raises(errors.ConfigurationError):
        inner.open_pool({"kie": Account("kie", KEY, upload_url="http://up.example")}, {})


def edits(folder: Path, count: int, kinds: int) -> list[ImageRequest]:
    """So many edits over so many pictures."""
    paths = [folder / f"{number}.png" for number in range(kinds)]
    for number, path in enumerate(paths):
        path.write_bytes(picture(number))
    return [ImageRequest(f"edit {n}", images=(str(paths[n % kinds]),)) for n in range(count)]


async def test_two_hundred_edits_over_twenty_pictures(tmp_path: Path) -> None:
    """Each picture is uploaded once, by however many it is wanted at once, and every edit is made."""
    with running_sandbox(Sandbox(latency=Latency(0.05, minimum=0.01))) as sandbox:
        async with client_of(sandbox) as client:
            results = await made(client, edits(tmp_path, 200, 20), model="gpt-image-2", save_to=tmp_path / "out")
    assert [result.ok for result in results] == [True] * 200
    assert set(sandbox.ledger.uploads.values()) == {1}
    assert (len(sandbox.ledger.uploads), len(sandbox.ledger.tasks)) == (20, 200)


@pytest.mark.slow
def test_a_killed_batch_of_edits_uploads_and_pays_nothing_twice(call: Call, tmp_path: Path) -> None:
    """SIGKILL in the middle, twice: what is uploaded is used by the next run, and each edit is one task."""
    requests = edits(tmp_path, 200, 20)
    rows = [json.dumps({"prompt": each.prompt, "images": [Path(each.images[0]).name]}) for each in requests]
    Path("edits.jsonl").write_text("\n".join(rows))
    for number in range(20):
        Path(f"{number}.png").write_bytes(picture(number))
    with running_sandbox(Sandbox(latency=Latency(0.3, minimum=0.05))) as sandbox:
        words = ("batch", "edits.jsonl", *at(sandbox), "-m", "gpt-image-2", "-o", "out", "-q", "--rate", "40/1")
        for _ in range(2):
            process = commands.start(*words)
            for _ in range(15):
                process.stdout.readline()
            process.send_signal(signal.SIGKILL)
            commands.finish(process)
        words = (*words, "--resubmit-unknown")
        outcome = commands.finish(commands.start(*words), patience=150)
    lost = len(sandbox.ledger.tasks) - 200
    assert (outcome.code, len(lines_of(METADATA))) == (0, 200), outcome.err
    # A create that a kill met on its way may have made a task: nobody but the user may pay for it again.
    assert lost <= 2 * 20
    assert set(sandbox.ledger.uploads.values()) == {1}
    assert len(sandbox.ledger.uploads) == 20


async def test_what_has_gone_is_uploaded_anew(imagen_sandbox: Sandbox, pictures: list[Path], tmp_path: Path) -> None:
    """The journal knows until when an address is good; one that is over, or nearly, is no use."""
    journal = tmp_path / "run.db"
    for number, uploads in enumerate([1, 1, 2]):
        if number == 2:
            with closing(sqlite3.connect(journal)) as file:
                (name, note), *_ = file.execute("SELECT name, value FROM notes WHERE name LIKE 'upload %'").fetchall()
            over = json.dumps({**json.loads(note), "until": 100.0})
            by_hand(journal, f"UPDATE notes SET value = '{over}' WHERE name = '{name}'")
        async with client_of(imagen_sandbox) as client:
            request = ImageRequest(f"edit {number}", images=[pictures[0]])
            assert [each.ok for each in await made(client, [request], model="nano-banana-2", journal=journal)] == [True]
        assert imagen_sandbox.ledger.uploads.total() == uploads
        assert KEY not in journal.read_bytes().decode(errors="replace")


async def test_the_same_pictures_under_other_names_are_the_same_requests(
    imagen_sandbox: Sandbox, pictures: list[Path], tmp_path: Path
) -> None:
    """A folder that was moved is paid for once; an edit of another picture is another request."""
    moved = tmp_path / "moved.png"
    for path in (pictures[0], moved):
        async with client_of(imagen_sandbox) as client:
            requests = [ImageRequest("night", images=[path])]
            (result,) = await made(client, requests, model="nano-banana-2", journal=tmp_path / "run.db")
        moved.write_bytes(pictures[0].read_bytes())
    assert (result.earlier, len(imagen_sandbox.ledger.tasks)) == (True, 1)


def test_pictures_of_a_prompt_file(call: Call, imagen_sandbox: Sandbox) -> None:
    """Its names of files lead from its own folder; `--image` is for lines that name none; lists say what went in."""
    Path("in").mkdir()
    for number in range(3):
        Path("in", f"{number}.png").write_bytes(picture(number))
    Path("default.png").write_bytes(picture(9))
    Path("in/p.csv").write_text('prompt,images,seed\nnight,0.png,\nday,1.png;2.png,\nnoon,"[""0.png""]",\ndusk,,\n')
    words = ("in/p.csv", *at(imagen_sandbox), "-m", "seedream-4", "--image", "default.png")
    assert "4 pictures, 20 credits" in call("plan", *words).out
    assert call("batch", *words, "-o", "out", "-q").code == 0
    listed = {line["prompt"]: line["images"] for line in lines_of(METADATA)}
    assert listed == {
        "night": ["in/0.png"],
        "day": ["in/1.png", "in/2.png"],
        "noon": ["in/0.png"],
        "dusk": ["default.png"],
    }
    assert imagen_sandbox.ledger.uploads.total() == 4
    assert "Nothing is left" in call("batch", *words, "-o", "out", "-q").err
    Path("in/bad.csv").write_text("images\n0.png\nnone.png\n")
    refused = call("batch", "in/bad.csv", *at(imagen_sandbox), "-m", "recraft-crisp-upscale", "-o", "o", "-q")
    assert (refused.code, "in/bad.csv:3: 'in/none.png' goes in, and cannot be read" in refused.err) == (2, True)
    Path("in/up.csv").write_text("images\n0.png\n")
    assert call("batch", "in/up.csv", *at(imagen_sandbox), "-m", "recraft-crisp-upscale", "-o", "o", "-q").code == 0


def test_one_picture_is_edited(call: Call, imagen_sandbox: Sandbox) -> None:
    """`generate --image`, and a mask by `--set`."""
    Path("fox.png").write_bytes(picture(1))
    Path("mask.png").write_bytes(picture(2))
    words = ("sky", *at(imagen_sandbox), "-m", "ideogram-v3", "--image", "fox.png", "--set", "mask_url=mask.png")
    assert call("generate", *words, "-o", "out").code == 0
    (create,) = imagen_sandbox.ledger.creates
    assert create.model == "ideogram/v3-edit"
    assert "No such file" in call("generate", "x", *at(imagen_sandbox), "-m", "nano-banana-2", "--image", "no.png").err


async def test_bytes_are_kept_on_disk_and_gone_with_the_client(
    imagen_sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that waits is small, and nothing of it stays."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    async with client_of(imagen_sandbox) as client:
        async with client.batch([ImageRequest("x", images=[picture(1)])], model="nano-banana-2") as results:
            (result,) = [result async for result in results]
        (name,) = result.request.images
        (kept,) = tmp_path.rglob(str(name).removeprefix("sha256:"))
        assert (kept.read_bytes(), len(repr(result.request)) < 600) == (picture(1), True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("state", ["done", "running", "new"])
def test_a_source_that_is_gone_keeps_nobody_from_what_is_paid(call: Call, imagen_sandbox: Sandbox, state: str) -> None:
    """What is done, or runs, needs its picture no more: the same command goes on; what is new needs it."""
    Path("0.png").write_bytes(picture(0))
    Path("edits.jsonl").write_text('{"prompt": "night", "images": ["0.png"]}\n')
    words = ("batch", "edits.jsonl", *at(imagen_sandbox), "-m", "nano-banana-2", "-o", "out", "-q")
    assert call(*words).code == 0
    if state == "running":
        by_hand(Path("out/run.db"), RUNS_AGAIN)
    Path("0.png").unlink()
    if state == "new":
        Path("edits.jsonl").write_text('{"prompt": "night", "images": ["1.png"]}\n')
    found = call(*words)
    assert (found.code, "cannot be read" in found.err) == ((2, True) if state == "new" else (0, False)), found.err
    assert len(imagen_sandbox.ledger.tasks) == 1


@pytest.mark.parametrize("option", ["--image", "--set"])
def test_a_source_of_all_that_is_gone(call: Call, imagen_sandbox: Sandbox, option: str) -> None:
    """The same where the command line says it, and not the file."""
    Path("0.png").write_bytes(picture(0))
    Path("p.txt").write_text("night\n")
    given = (option, "0.png" if option == "--image" else "image_input=0.png")
    words = ("batch", "p.txt", *at(imagen_sandbox), "-m", "nano-banana-2", *given, "-o", "out", "-q")
    assert call(*words).code == 0
    by_hand(Path("out/run.db"), RUNS_AGAIN)
    Path("0.png").unlink()
    found = call(*words)
    assert (found.code, len(imagen_sandbox.ledger.tasks)) == (0, 1), found.err


@pytest.mark.parametrize("where", ["request", "batch"])
async def test_a_program_needs_no_source_of_what_is_paid(
    imagen_sandbox: Sandbox, pictures: list[Path], tmp_path: Path, where: str
) -> None:
    """The same of a batch: one of two tasks is done, one runs, and a third request would need the picture."""
    terms: dict[str, Any] = {"images": [pictures[0]]}
    common: dict[str, Any] = {"model": "nano-banana-2", "journal": tmp_path / "run.db"}
    common, own = (common, terms) if where == "request" else ({**common, **terms}, {})
    requests = [ImageRequest(prompt, **own) for prompt in ("a", "b", "c")]
    async with client_of(imagen_sandbox) as client:
        await made(client, requests[:2], **common)
    # Were it known where the picture was uploaded to, the third would need it no more either.
    by_hand(tmp_path / "run.db", f"{RUNS_AGAIN} WHERE position = 1", "DELETE FROM notes WHERE name LIKE 'upload %'")
    pictures[0].unlink()
    async with client_of(imagen_sandbox) as client:
        again = await made(client, requests, **common)
    assert [each.ok for each in again] == [True, True, False]
    assert isinstance(again[2].error, errors.InvalidRequest)
    assert len(imagen_sandbox.ledger.tasks) == 2


ODD_LINES = [
    ('{"prompt": "x", "images": {"a": 1}}', "p.jsonl:1: images={'a': 1}: allowed is a list of paths"),
    ('{"prompt": "x", "images": [["a.png"]]}', "p.jsonl:1: images holds ['a.png']: allowed is a path"),
    ('{"prompt": "x", "images": [""]}', "p.jsonl:1: images holds '': allowed is a path"),
    ('{"prompt": "x", "images": "file:///no.png"}', "p.jsonl:1: 'file:///no.png' goes in, and cannot be read"),
    ('{"prompt": "x", "resolution": "2K", "model": [["imagen4"]]}', "p.jsonl:1: model=['imagen4']: allowed is a text"),
]


@pytest.mark.parametrize(("line", "told"), ODD_LINES)
def test_odd_lines_are_named(call: Call, line: str, told: str) -> None:
    """Whatever stands in a line, it is told by its number, and nothing ends in silence."""
    Path("p.jsonl").write_text(line)
    found = call("plan", "p.jsonl", "-p", "sandbox", "-m", "nano-banana-2")
    assert (found.code, told in found.err) == (2, True), found.err


def test_no_picture_is_none_and_models_may_be_a_list(call: Call) -> None:
    """An empty text says nothing; several models are a list, too, beside a column that is a field of the model."""
    rows = ['{"prompt": "x", "images": "", "model": "nano-banana-2"}']
    rows += ['{"prompt": "x", "model": ["nano-banana-2", "nano-banana-pro"], "resolution": "4K"}']
    Path("p.jsonl").write_text("\n".join(rows))
    found = call("plan", "p.jsonl", "-p", "sandbox", "--json")
    assert (found.code, json.loads(found.out)["credits"]) == (0, 8 + 24), found.err


async def test_whoever_leaves_during_an_upload_keeps_no_place(imagen_sandbox: Sandbox, pictures: list[Path]) -> None:
    """A turn that is called off gives its place in the window back, however long its upload goes on."""
    async with slow_uploads(imagen_sandbox, 0.3) as url:
        limits = Limits(submit=Rate(1, per=0.2))
        account = Account("sandbox", imagen_sandbox.key, imagen_sandbox.url, limits=limits, upload_url=url)
        async with Client(account) as client:
            for path in pictures[:3]:
                with anyio.move_on_after(0.1):
                    await client.generate("night", model="nano-banana-2", images=[path])
            assert (await client.generate("a fox", model="nano-banana-2", deadline=5)).ok
            with pytest.raises(errors.DeadlineExceeded):
                await client.generate("night", model="nano-banana-2", images=[pictures[3]], deadline=0.1)
    assert len(imagen_sandbox.ledger.tasks) == 1


@asynccontextmanager
async def slow_uploads(sandbox: Sandbox, seconds: float) -> AsyncIterator[str]:
    """A host for uploads that takes its time; its address."""

    async def handle(request: web.Request) -> web.Response:
        await asyncio.sleep(seconds)
        return web.json_response({"code": 200, "data": {"downloadUrl": f"{sandbox.url}/files/late.png"}})

    async with served(handle) as url:
        yield url


async def test_the_same_bytes_at_once(imagen_sandbox: Sandbox) -> None:
    """They are written once, by whichever of several threads."""
    data = noise(1700)
    async with client_of(imagen_sandbox) as client:
        calls = [client.generate(f"x {n}", model="nano-banana-2", images=[data]) for n in range(8)]
        results = await asyncio.gather(*calls)
    assert ([each.ok for each in results], imagen_sandbox.ledger.uploads.total()) == ([True] * 8, 1)


async def test_what_another_host_has_is_not_sent_to_this_one(tmp_path: Path, pictures: list[Path]) -> None:
    """An account of the same name at another address, or with another key, has its files uploaded anew."""
    for number in range(2):
        async with Sandbox(latency=Latency(0.05, minimum=0.01)) as sandbox, client_of(sandbox) as client:
            requests = [ImageRequest(f"edit {number}", images=[pictures[0]])]
            (result,) = await made(client, requests, model="nano-banana-2", journal=tmp_path / "run.db")
            assert (result.ok, sandbox.ledger.uploads.total()) == (True, 1)


async def test_a_default_picture_goes_in_only_where_it_is_meant(imagen_sandbox: Sandbox, pictures: list[Path]) -> None:
    """A request with pictures of its own has no use for the batch's."""
    requests = [ImageRequest("x", images=[pictures[1]])]
    async with client_of(imagen_sandbox) as client:
        await made(client, requests, model="nano-banana-2", images=[pictures[0]])
    assert imagen_sandbox.ledger.uploads.total() == 1


async def test_an_older_journal_knows_no_pictures(
    imagen_sandbox: Sandbox, tmp_path: Path, pictures: list[Path]
) -> None:
    """One whose keys were made of parts of requests is gone on with by requests that have pictures."""
    journal = tmp_path / "run.db"
    for name in ("a", "b"):
        async with client_of(imagen_sandbox) as client:
            requests = [ImageRequest(name, images=[pictures[0]], seed=None), ImageRequest("always")]
            results = await made(client, requests, model="nano-banana-2", journal=journal)
        assert [each.ok for each in results] == [True, True]
        by_hand(journal, "DELETE FROM notes WHERE name IN ('keys', 'defaults')")
    assert len(imagen_sandbox.ledger.tasks) == 3


def test_where_an_upload_lies_is_no_result() -> None:
    """The address that a picture of this machine was given is what went in, whatever key it comes back under."""
    uploaded = "https://up.example/in.png"
    found = inner._own_works(job_in("Running"), {uploaded}, inner.Succeeded((uploaded, URL), None, None, b""))
    assert isinstance(found, inner.Succeeded)
    assert found.urls == (URL,)


IN = "https://a.example/in.png"


@pytest.mark.parametrize(
    "request_",
    [
        ImageRequest("x", "nano-banana-2", images=[IN]),
        ImageRequest("x", raw_model("maker/painter"), extra={"any": [{"url": IN}]}),
    ],
    ids=["known", "raw"],
)
def test_what_went_in_hides_nothing_that_was_made(request_: ImageRequest) -> None:
    """It may come back at the likelier place, also of a model of which nobody knows which fields take files."""
    model = PROVIDERS["kie"].find(str(request_.model))
    job = msgspec.structs.replace(job_in("Running", request=request_), model=model)
    raw = json.dumps({"data": {"resultJson": json.dumps({"imageUrl": IN, "outUrl": URL})}}).encode()
    found = inner._own_works(job, set(), inner.Succeeded((IN,), None, None, raw))
    assert isinstance(found, inner.Succeeded)
    assert found.urls == (URL,)


def test_a_callback_that_comes_during_an_upload() -> None:
    """The turn is called off: whatever comes of the upload says nothing of the task that runs by then."""
    for event in ("Prepared", "Rejected STOP", "ConnectFailed"):
        plan = inner.Plan([upstream()], 8, expects_callbacks=True)
        queued = inner.Queued(fallback=LOST_BEFORE)
        plan.add(job_in(queued, request=EDIT, attempts=1, lost=1, lost_creates=(1,), account="kie"), NOW)
        (preparing,) = [each.after for each in plan.take(NOW) if isinstance(each.after.state, inner.Preparing)]
        (named,) = plan.on_callback(preparing.id, "kie", 1, "task-1", NOW + 1)
        assert isinstance(named.after.state, inner.Confirming)
        assert plan.settle(preparing, EVENTS[event], NOW + 2) == []
