"""From link to verified file: what is a picture, what is refused, what is left on disk."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import itertools
import os
import random
import re
from collections.abc import Awaitable
from pathlib import Path

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from inner import TRIES, FileSession, SessionSettings, file_stem, paint, save_all
from servers import Handler, broken_off, endless, served

from imagen_async import DownloadFailed, ImageFile, ImageRequest, Result

PNG = paint("a red fox", "1:1", "1")
JPEG = b"\xff\xd8\xff\xe0" + b"j" * 500
WEBP = b"RIFF\x10\x00\x00\x00WEBPVP8 " + b"w" * 500
TAKEN = "000012-a-red-fox.png"


@pytest.fixture(autouse=True)
def short_waits() -> None:
    """The tries of a download are up to 15 seconds apart, by chance: of this seed's four waits none is over 0.2."""
    random.seed(10134)


def picture(request: web.Request, body: bytes = PNG) -> web.Response:
    """A picture, which is told to be something else."""
    return web.Response(body=body, content_type="text/plain")


async def fetch(folder: Path, *handlers: Handler, pictures: int = 1) -> tuple[ImageFile, ...]:
    """Save a result's pictures from a server with a handler for each request, the last one for all that follow."""
    turns = itertools.chain(handlers, itertools.repeat(handlers[-1]))
    async with served(lambda request: next(turns)(request)) as url, FileSession(SessionSettings()) as session:
        urls = tuple(f"{url}/{number}.exe?name=../../evil" for number in range(pictures))
        result = Result("k", 12, ImageRequest("A red fox!"), "kie", "imagen4", urls=urls, task_id="t1")
        return await save_all(session, result, str(folder))


async def test_pictures_are_named_by_us_and_by_their_content(tmp_path: Path) -> None:
    """Name and ending come from the request and the first bytes, whatever URL and headers say, from the second on with
    a number; the figures are true."""
    bodies = {"image/png": PNG, "image/jpeg": JPEG, "image/webp": WEBP}
    turns = [functools.partial(picture, body=body) for body in bodies.values()]
    files = await fetch(tmp_path / "new", *turns, pictures=3)
    assert [(file.media_type, Path(file).read_bytes()) for file in files] == list(bodies.items())
    assert [(file.sha256, file.size) for file in files] == [
        (hashlib.sha256(body).hexdigest(), len(body)) for body in bodies.values()
    ]
    assert [Path(file).name for file in files] == [TAKEN, "000012-a-red-fox-2.jpg", "000012-a-red-fox-3.webp"]
    assert files[0].url.endswith("/0.exe?name=../../evil")
    assert sorted(os.listdir(tmp_path / "new")) == sorted(Path(file).name for file in files)


TROUBLE: dict[str, Handler] = {
    "reset": broken_off,
    "short": lambda request: broken_off(request, PNG),
    "error page": lambda request: web.Response(text="<html>", content_type="image/png"),
    "503": lambda request: web.Response(status=503),
    "404": lambda request: web.Response(status=404),
}


@pytest.mark.parametrize("trouble", TROUBLE)
async def test_passing_trouble_is_tried_again(tmp_path: Path, trouble: str) -> None:
    """A broken connection, an error, an error page or a file that breaks off is fetched again, and nothing is left."""
    (file,) = await fetch(tmp_path, TROUBLE[trouble], picture)
    assert Path(file).read_bytes() == PNG
    assert os.listdir(tmp_path) == [TAKEN]


LASTING: dict[str, tuple[Handler, str, int, bool]] = {
    "no picture": (TROUBLE["error page"], "no PNG, JPEG or WebP", TRIES, False),
    "a link that has died": (TROUBLE["404"], "HTTP 404", 2, True),
    "a length beyond all bounds": (lambda request: picture(request, PNG + bytes(100_000)), "longer than", 1, False),
    "no end": (endless, "longer than", 1, False),
}


@pytest.mark.parametrize("what", LASTING)
async def test_what_cannot_be_fetched_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """What may pass is tried several times, what cannot once; the error has task and URL, and the folder is empty."""
    monkeypatch.setattr("imagen_async._downloads.MAX_PICTURE", 100_000)
    handler, words, tries, is_gone = LASTING[what]
    asked: list[web.Request] = []

    def answer(request: web.Request) -> object:
        asked.append(request)
        return handler(request)

    with pytest.raises(DownloadFailed, match=f"{words}.*http://127.0.0.1") as caught:
        await fetch(tmp_path, answer)
    error = caught.value
    assert (len(asked), error.gone, error.local, error.task_id) == (tries, is_gone, False, "t1")
    assert os.listdir(tmp_path) == []


async def test_saving_never_overwrites_another_picture(tmp_path: Path) -> None:
    """Another picture under the same name keeps its place; the same picture again is one file."""
    (tmp_path / TAKEN).write_bytes(b"an older picture")
    names = [Path(file).name for _ in range(2) for file in await fetch(tmp_path, picture)]
    assert names == [f"000012-a-red-fox-{hashlib.sha256(PNG).hexdigest()[:8]}.png"] * 2
    assert (tmp_path / TAKEN).read_bytes() == b"an older picture"
    assert len(os.listdir(tmp_path)) == 2


async def test_a_folder_that_cannot_be_written_says_so() -> None:
    """The error names the folder and what to do, and says that this machine is the reason."""
    with pytest.raises(DownloadFailed, match=r"/dev/null/below.*choose another folder") as caught:
        await fetch(Path("/dev/null/below"), picture)
    assert caught.value.local


async def test_cancelling_a_download_leaves_nothing(tmp_path: Path) -> None:
    """A download that is cancelled halfway removes its temporary file."""
    begun = asyncio.Event()

    def halfway(request: web.Request) -> Awaitable[web.StreamResponse]:
        begun.set()
        return endless(request, PNG, 0.01)

    saving = asyncio.create_task(fetch(tmp_path, halfway))
    await begun.wait()
    assert len(os.listdir(tmp_path)) == 1
    saving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await saving
    assert os.listdir(tmp_path) == []


@settings(max_examples=30)
@given(st.integers(0, 10**7), st.text())
def test_file_names_are_safe_whatever_the_prompt(index: int, prompt: str) -> None:
    """A name is short ASCII of letters, digits and dashes, and begins with the number."""
    stem = file_stem(index, prompt)
    assert re.fullmatch(rf"{index:06d}(-[a-z0-9]+)*", stem)
    assert len(stem) <= 64


def test_file_names_hold_no_word_that_an_image_folder_takes_for_a_split() -> None:
    """A picture of a train is not taken for the training split, also where a long word is cut."""
    assert file_stem(3, "A single TRAIN, test-bed; dev2 values") == "000003-a-single-bed-values"
    assert file_stem(3, "wonderful " * 4 + "testaments") == "000003" + "-wonderful" * 4
