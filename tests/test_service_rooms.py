"""The rooms of a service by themselves: what goes wrong in each, and what is kept for how long."""

from __future__ import annotations

import asyncio
import io
import json
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from inner import (
    Announcer,
    Book,
    Bookkeeper,
    FileRow,
    Files,
    OffLoop,
    OrderRow,
    SessionSettings,
    refusal_of,
    refusing,
)
from PIL import Image
from servers import free_socket, served, serving
from services import service

from imagen_async import errors
from imagen_async.errors import ConfigurationError, ImagenError, JournalError
from imagen_async.sandbox import Latency, Sandbox
from imagen_async.service import new_caller

DAY = 86400.0


def row(number: int, **fields: Any) -> OrderRow:
    """An order in the book."""
    terms = {"content": "c", "body": b"{}", "tasks": 1, "is_async": False, "begun_at": 0.0, "day": 1, "reserved": 8.0}
    return OrderRow(f"img-{number}", "shop", "name", number, **{**terms, **fields})


async def test_what_is_kept_no_longer_is_removed(tmp_path: Path) -> None:
    """Pictures and orders whose time is over go, and what was spent, and which numbers are taken, stays."""
    keeper, off_loop, now = Bookkeeper(str(tmp_path / "serve.db")), OffLoop("files", 1), time.time()
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    for name, age in (("old", 2 * DAY), ("new", 0.0)):
        (tmp_path / f"{name}.png").write_bytes(b"x")
        (inputs / name).write_bytes(b"x")
        os.utime(inputs / name, (now - age, now - age))
    await keeper.open()
    try:
        files = Files(keeper, "00" * 32, DAY, str(inputs), off_loop)
        for number, (name, dies_at) in enumerate((("old", now - 1), ("new", now + DAY))):
            shown = FileRow(name, str(tmp_path / f"{name}.png"), "image/png", dies_at)
            ended_at = now - 2 * DAY if name == "old" else now
            await keeper.ask(lambda book, number=number: book.put(row(number)))
            ended = row(number, ended_at=ended_at, spent=8.0, is_final=True)
            await keeper.ask(lambda book, ended=ended, shown=shown: book.end(ended, [shown]))
        await files.sweep()
        assert {path.name for path in (*tmp_path.glob("*.png"), *inputs.iterdir())} == {"new.png", "new"}
        assert await keeper.ask(lambda book: (book.file("old"), book.file("new") is not None)) == (None, True)
        rows, first = await keeper.ask(lambda book: book.orders_of("shop", "name"))
        assert ([each.ordinal for each in rows], first) == ([1], 1)
        spent = await keeper.ask(lambda book: book.spendings())
        assert (spent["shop"].settled, spent["shop"].reserved) == ({1: 16.0}, {})
    finally:
        await keeper.close()
        off_loop.close()


async def test_what_cannot_be_noted_is_told_to_whoever_asked(tmp_path: Path) -> None:
    """One that fails, with an error of the tree, takes none of those with it that came at the same time."""
    keeper = Bookkeeper(str(tmp_path / "serve.db"))
    await keeper.open()

    def fails(book: Book) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    try:
        works: list[Callable[[Book], None]] = [lambda book: book.put(row(1)), fails, lambda book: book.put(row(2))]
        asked = [keeper.ask(work) for work in works]
        came = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(each) for each in came] == [type(None), JournalError, type(None)]
        assert await keeper.ask(lambda book: [book.order(f"img-{number}") for number in (1, 2)]) == [row(1), row(2)]
    finally:
        await keeper.close()


async def test_a_book_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    """Nothing is written to it; what is no book at all is refused, too."""
    path = tmp_path / "serve.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(JournalError, match="newer version"):
        Book(str(path))
    (tmp_path / "other.db").write_text("a list of prompts, by mistake, and long enough to be looked at as a file" * 20)
    with pytest.raises(JournalError):
        Book(str(tmp_path / "other.db"))


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (errors.InvalidRequest("seed=x"), 400, "invalid_value"),
        (errors.InvalidRequest("The content was flagged: NSFW"), 400, "content_policy_violation"),
        (errors.GenerationFailed("Blocked by the content policy", task_id="t"), 400, "content_policy_violation"),
        (errors.GenerationFailed("It broke", task_id="t"), 424, "generation_failed"),
        (errors.ModelUnavailable("Gone"), 404, "model_unavailable"),
        (errors.BudgetReached("No more"), 402, "budget_reached"),
        (errors.InsufficientCredits("Empty"), 402, "insufficient_credits"),
        (errors.AuthenticationError("Wrong"), 424, "failed"),
        (errors.RateLimited("Slow"), 429, "rate_limited"),
        (errors.RateLimited("Slow", task_id="t"), 424, "rate_limited"),
        (errors.UnknownOutcome("Lost", credits=8.0), 424, "unknown_outcome"),
        (errors.DeadlineExceeded("Late"), 503, "not_sent_in_time"),
        (errors.DeadlineExceeded("Late", task_id="t"), 424, "deadline_exceeded"),
        (errors.TransportError("Down"), 503, "not_reached"),
        (errors.TransportError("Down", task_id="t"), 424, "not_reached"),
        (errors.DownloadFailed("Dead", task_id="t"), 424, "download_failed"),
        (errors.ProtocolError("Odd", task_id="t"), 424, "protocol_error"),
        (errors.JournalError("Full"), 503, "not_noted"),
        (errors.ConfigurationError("Off"), 424, "failed"),
    ],
)
def test_each_error_has_its_status(error: ImagenError, status: int, code: str) -> None:
    """Where anything was sent, none that a client repeats of its own accord."""
    refusal = refusal_of(error, 4.0)
    assert (refusal.status, refusal.code) == (status, code)
    assert ("Retry-After" in refusal.all_headers) == (status in (429, 503))
    assert refusal.error["kind"] == type(error).__name__
    assert refusal.error["may_have_cost"] == (8.0 if status == 424 and code == "unknown_outcome" else 4.0)


async def test_whatever_goes_wrong_is_openais_envelope(caplog: pytest.LogCaptureFixture) -> None:
    """A fault of ours is 424, and logged; aiohttp's own refusals and errors of the library are told alike."""

    async def answer(request: web.Request) -> web.Response:
        match request.path:
            case "/fault":
                raise ZeroDivisionError
            case "/library":
                raise errors.JournalError("The disk is full.")
            case "/elsewhere":
                raise web.HTTPFound("/there")
        return web.Response()

    application = web.Application(middlewares=[refusing])
    application.router.add_get("/{path}", answer)
    with free_socket() as (found, port):
        async with serving(application, found), aiohttp.ClientSession() as session:

            async def told(method: str, path: str) -> tuple[int, str]:
                url = f"http://127.0.0.1:{port}{path}"
                async with session.request(method, url, allow_redirects=False) as response:
                    text = await response.text()
                    return response.status, json.loads(text)["error"]["code"] if response.status >= 400 else ""

            assert await told("GET", "/fault") == (424, "fault")
            assert await told("GET", "/library") == (503, "not_noted")
            assert await told("GET", "/elsewhere") == (302, "")
            assert await told("POST", "/fault") == (405, "method_not_allowed")
            async with session.post(f"http://127.0.0.1:{port}/fault") as response:
                assert response.headers["Allow"] == "GET,HEAD"
    assert "ZeroDivisionError" in caplog.text


async def test_a_callback_that_nobody_takes_is_given_up() -> None:
    """Nobody listens, a redirect, an error: each is tried again, then no more; an address inside is never called."""
    settings = SessionSettings(4, 5.0, 5.0)
    heard: list[str] = []

    def hear(request: web.Request) -> web.Response:
        heard.append(request.path)
        return web.Response(status=302, headers={"Location": "/there"}) if request.path == "/moved" else web.Response()

    with free_socket() as (_, port):
        nobody = f"http://127.0.0.1:{port}/"
    async with served(hear) as url:
        for is_private, address, taken in (
            (True, nobody, False),
            (True, f"{url}/moved", False),
            (True, f"{url}/here", True),
            (False, f"{url}/inside", False),
        ):
            announcer = Announcer(settings, is_private=is_private, first_wait=0.001)
            await announcer.open()
            try:
                assert await announcer.announce("img-1", address, b"{}", "whsec_" + "QUFB" * 8) is taken
            finally:
                await announcer.close()
    assert set(heard) == {"/moved", "/here"}


async def test_odd_forms_are_refused(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """What is no form, has no names, no text, too many pictures, or one for a field that the model lacks is 400."""
    edits = "/v1/images/edits"
    async with service(imagen_sandbox, tmp_path) as asker:
        url = (await asker.generate()).urls[0]
        async with asker.session.get(url) as response:
            picture = await response.read()

        async def posted(*fields: tuple[str, Any, dict[str, str]]) -> int:
            form = aiohttp.FormData(default_to_multipart=True)
            for name, value, terms in fields:
                form.add_field(name, value, **terms)
            return (await asker.ask("POST", edits, {"Authorization": "Bearer x"}, data=form)).status

        png = {"filename": "a.png", "content_type": "image/png"}
        text = ("prompt", "x", {})
        model = ("model", "nano-banana-2", {})
        assert await posted(text, model, *[("image", picture, png)] * 17) == 413
        assert await posted(text, model, ("mask", picture, png)) == 400
        assert await posted(text, model, ("image", picture[:100], png)) == 400
        assert await posted(text, model, ("image", picture, png), ("extra", "no json", {})) == 400
        assert await posted(text, model, ("image[]", picture, png), ("extra", "{}", {}), ("n", "1", {})) == 200
        headers = {"Authorization": "Bearer x", "Content-Type": "multipart/form-data; boundary=b"}
        bodies = [b"nothing", b"--b\r\n\r\nno name\r\n--b--\r\n", b"--b\r\nContent-Disposition: form-data; na"]
        bodies.append(b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n\xff\r\n--b--\r\n')
        for body in bodies:
            assert (await asker.ask("POST", edits, headers, data=body)).status == 400
        headers["Content-Type"] = "multipart/form-data"
        assert (await asker.ask("POST", edits, headers, data=b"x")).status == 400


async def test_an_edit_needs_a_picture(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """Without one nothing is made, and a model that takes none is told, with others that do, and no path of ours."""
    content = io.BytesIO()
    Image.new("RGB", (64, 64)).save(content, "PNG")
    async with service(imagen_sandbox, tmp_path / "s") as asker:
        form = aiohttp.FormData({"prompt": "make it night", "model": "imagen4"})
        form.add_field("image", content.getvalue(), filename="a.png", content_type="image/png")
        for body, param, words in (
            ({"json": {"prompt": "make it night", "model": "nano-banana-2"}}, "image", "an edit needs a picture"),
            ({"data": form}, "model", "takes no picture. These do: "),
        ):
            answer = await asker.ask("POST", "/v1/images/edits", {"X-Requested-With": "x"}, **body)
            assert (answer.status, answer.error["param"]) == (400, param)
            assert words in answer.error["message"]
            assert str(tmp_path) not in answer.text
    assert imagen_sandbox.ledger.creates == []


async def test_a_caller_may_use_what_there_is(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """A slip in a caller's models, or an alias in their place, is told at the start."""
    path = tmp_path / "callers.toml"
    new_caller(path, "shop")
    whole = path.read_text()
    for named, words in (("imagen4-fst", "Did you mean imagen4-fast"), ("gpt-image-1", "an alias: name imagen4 there")):
        path.write_text(f'{whole}models = ["{named}"]\n')
        with pytest.raises(ConfigurationError, match=words):
            async with service(imagen_sandbox, tmp_path / "s", callers=path, aliases={"gpt-image-1": "imagen4"}):
                pass


async def test_a_stream_shows_that_it_lives(tmp_path: Path) -> None:
    """While nothing has ended a comment comes now and then, which no client takes for an event."""
    async with Sandbox(latency=Latency(median=0.4, sigma=0)) as sandbox:
        async with service(sandbox, tmp_path, heartbeat=0.05) as asker:
            lines = (await asker.generate(stream=True)).text.splitlines()
    assert sum(line.startswith(":") for line in lines) >= 2
    assert sum(line.startswith("event:") for line in lines) == 1


async def test_a_picture_that_is_gone_is_told(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """Asked for by its name once its file was removed, it is 424 and not made again; its address is 404."""
    async with service(imagen_sandbox, tmp_path) as asker:
        named = {"Idempotency-Key": "a"}
        url = (await asker.generate(headers=named)).urls[0]
        for path in tmp_path.glob("*.png"):
            path.unlink()
        for shown in ("url", "b64_json"):
            answer = await asker.generate(headers=named, response_format=shown)
            assert (answer.status, answer.error["code"]) in ((424, "picture_gone"), (400, "idempotency_key_reused"))
        assert (await asker.ask("GET", url.removeprefix(asker.url))).status == 404
        odd = await asker.generate(headers={"Idempotency-Key": "x" * 300})
        assert (odd.status, odd.error["code"]) == (400, "invalid_key")
    assert len(imagen_sandbox.ledger.tasks) == 1


async def test_what_was_called_off_stays_so(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """The same key again says that it was cancelled; a failed order tells why, when it is asked for later."""
    asked = {"async": True}
    named = {"Idempotency-Key": "a"}
    async with service(imagen_sandbox, tmp_path) as asker:
        imagen_sandbox.faults.keep("create", "429")
        location = (await asker.generate(headers=named, **asked)).headers["Location"]
        await asker.ask("DELETE", location)
        assert (await asker.over(location)).body["status"] == "cancelled"
        again = await asker.generate(headers=named, **asked)
        assert (again.status, again.error["code"]) == (400, "cancelled")
        imagen_sandbox.faults.keep("create", None)
        imagen_sandbox.order("task", "fail_digits")
        location = (await asker.generate("b", **asked)).headers["Location"]
        found = (await asker.over(location)).body
        assert found["error"]["code"] == "generation_failed"


async def test_a_price_that_nobody_knows_is_no_price_for_a_budget(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """A caller with a budget is refused what has no price, and nothing is sent; one without may have it."""
    path = tmp_path / "callers.toml"
    keys = {name: {"Authorization": f"Bearer {new_caller(path, name).key}"} for name in ("shop", "lab")}
    path.write_text(path.read_text().replace("[callers.shop]", "[callers.shop]\nbudget = 100"))
    async with service(imagen_sandbox, tmp_path / "out", callers=path) as asker:
        answer = await asker.generate(model="raw:some/model", headers=keys["shop"])
        assert (answer.status, answer.error["code"]) == (402, "unknown_price")
        assert (await asker.generate(model="raw:some/model", headers=keys["lab"])).status == 200
    assert len(imagen_sandbox.ledger.tasks) == 1
