"""From link to verified file: what is a picture, what is refused, what is left on disk."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import served

from imagen_async import ConfigurationError, DownloadFailed, ImageFile, ImageRequest, Result
from imagen_async._downloads import MAX_PICTURE, TRIES, file_stem, save_all
from imagen_async._folders import prepare_folder
from imagen_async._session_pool import FileSession, SessionSettings
from imagen_async.sandbox._painter import paint

PNG = paint("a red fox", "1:1", "1")
JPEG = b"\xff\xd8\xff\xe0" + b"j" * 500
WEBP = b"RIFF\x10\x00\x00\x00WEBPVP8 " + b"w" * 500
TAKEN = "000012-a-red-fox.png"


@pytest.fixture(autouse=True)
def short_waits() -> None:
    """The tries of a download are up to 15 seconds apart, by chance: of this seed's four waits none is over 0.2."""
    random.seed(10134)


async def fetch(handler: Callable[[int, web.Request], Any], folder: Path, *names: str) -> tuple[ImageFile, ...]:
    """Save a result's pictures from a server that is told what to answer to the n-th request."""
    count = 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal count
        count += 1
        response = handler(count, request)
        return await response if asyncio.iscoroutine(response) else response

    async with served(answer) as url, FileSession(SessionSettings()) as session:
        urls = tuple(f"{url}/{name}" for name in names or ("x.exe?name=../../evil",))
        result = Result("k", 12, ImageRequest("A red fox!"), "kie", "imagen4", urls=urls, task_id="t1")
        return await save_all(session, result, str(folder))


def whole(count: int, request: web.Request) -> web.Response:
    """A picture, which is told to be something else."""
    return web.Response(body=PNG, content_type="text/plain")


PICTURES = {".png": (PNG, "image/png"), ".jpg": (JPEG, "image/jpeg"), ".webp": (WEBP, "image/webp")}


@pytest.mark.parametrize("ending", PICTURES)
async def test_a_picture_is_named_by_us_and_by_its_content(tmp_path: Path, ending: str) -> None:
    """Name and ending come from the request and the first bytes, whatever URL and headers say; its figures are true."""
    body, media_type = PICTURES[ending]
    (file,) = await fetch(lambda count, request: web.Response(body=body, content_type="text/plain"), tmp_path)
    path = Path(file)
    assert (path, path.read_bytes()) == (tmp_path / f"000012-a-red-fox{ending}", body)
    assert (file.sha256, file.size, file.media_type) == (hashlib.sha256(body).hexdigest(), len(body), media_type)
    assert file.url.endswith("/x.exe?name=../../evil")
    assert os.listdir(tmp_path) == [path.name]


async def test_a_second_picture_gets_a_number(tmp_path: Path) -> None:
    """The pictures of one task are named alike, from the second on with its number."""
    files = await fetch(lambda count, request: web.Response(body=PNG + bytes(count)), tmp_path, "1", "2", "3")
    assert [Path(file).name for file in files] == [TAKEN, "000012-a-red-fox-2.png", "000012-a-red-fox-3.png"]


async def broken_off(request: web.Request, body: bytes = b"") -> web.StreamResponse:
    """An answer that ends before the length that it told, or before it began."""
    assert request.transport is not None
    if body:
        response = web.StreamResponse(headers={"Content-Length": str(len(body) + 10)})
        await response.prepare(request)
        await response.write(body)
    request.transport.abort()
    return web.Response()


TROUBLE: dict[str, Callable[[web.Request], Any]] = {
    "reset": broken_off,
    "short": lambda request: broken_off(request, PNG),
    "error page": lambda request: web.Response(text="<html>", content_type="image/png"),
    "503": lambda request: web.Response(status=503),
    "404": lambda request: web.Response(status=404),
}


@pytest.mark.parametrize("trouble", TROUBLE)
async def test_passing_trouble_is_tried_again(tmp_path: Path, trouble: str) -> None:
    """A broken connection, an error, an error page or a file that breaks off is fetched again, and nothing is left."""
    (file,) = await fetch(
        lambda count, request: TROUBLE[trouble](request) if count == 1 else whole(count, request), tmp_path
    )
    assert Path(file).read_bytes() == PNG
    assert os.listdir(tmp_path) == [TAKEN]


LASTING = {
    "no picture": (TROUBLE["error page"], "no PNG, JPEG or WebP", TRIES, False),
    "a link that has died": (TROUBLE["404"], "HTTP 404", 2, True),
    "a length beyond all bounds": (lambda _: web.Response(body=PNG + bytes(100_000)), "longer than", 1, False),
    "no end": (lambda request: without_end(request), "longer than", 1, False),
}


async def without_end(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    try:
        for _ in range(1000):
            await response.write(PNG)
    except ConnectionError:
        pass
    return response


@pytest.mark.parametrize("what", LASTING)
async def test_what_cannot_be_fetched_is_an_error_and_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """What may pass is tried several times, what cannot once; the error has task and URL, and the folder is empty."""
    monkeypatch.setattr("imagen_async._downloads.MAX_PICTURE", 100_000)
    assert MAX_PICTURE == 64 << 20
    answer, words, tries, is_gone = LASTING[what]
    counts: list[int] = []
    with pytest.raises(DownloadFailed, match=words) as caught:
        await fetch(lambda count, request: counts.append(count) or answer(request), tmp_path)
    error = caught.value
    assert (len(counts), error.gone, error.local, error.task_id) == (tries, is_gone, False, "t1")
    assert "http://127.0.0.1" in error.message
    assert os.listdir(tmp_path) == []


async def test_saving_never_overwrites_another_picture(tmp_path: Path) -> None:
    """Another picture under the same name keeps its place; the same picture again is one file."""
    (tmp_path / TAKEN).write_bytes(b"an older picture")
    for _ in range(2):
        (file,) = await fetch(whole, tmp_path)
        assert Path(file).name == f"000012-a-red-fox-{hashlib.sha256(PNG).hexdigest()[:8]}.png"
    assert (tmp_path / TAKEN).read_bytes() == b"an older picture"
    assert len(os.listdir(tmp_path)) == 2


async def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    """The error names the folder and what to do, and says that this machine is the reason."""
    (tmp_path / "file").touch()
    with pytest.raises(DownloadFailed, match="choose another folder") as caught:
        await fetch(whole, tmp_path / "file" / "below")
    assert caught.value.local
    with pytest.raises(ConfigurationError, match="choose another folder"):
        prepare_folder(tmp_path / "file" / "below")


async def test_cancelling_a_download_leaves_nothing(tmp_path: Path) -> None:
    """A download that is cancelled halfway removes its temporary file."""
    begun = asyncio.Event()

    async def halfway(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(PNG)
        begun.set()
        await asyncio.Event().wait()
        return response

    saving = asyncio.create_task(fetch(lambda count, request: halfway(request), tmp_path))
    await begun.wait()
    saving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await saving
    assert os.listdir(tmp_path) == []


@settings(max_examples=50)
@given(st.integers(0, 10**7), st.text())
def test_file_names_are_safe_whatever_the_prompt(index: int, prompt: str) -> None:
    """A name is short ASCII of letters, digits and dashes, and begins with the number."""
    stem = file_stem(index, prompt)
    assert stem.startswith(f"{index:06d}")
    assert set(stem) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert len(stem) <= 64
    assert not stem.endswith("-")


def test_file_names_hold_no_word_that_an_image_folder_takes_for_a_split() -> None:
    """A picture of a train is not taken for the training split, also where a long word is cut."""
    assert file_stem(3, "A single TRAIN, test-bed; dev2 values") == "000003-a-single-bed-values"
    assert file_stem(3, "wonderful " * 4 + "testaments") == "000003" + "-wonderful" * 4
