"""From link to verified file: what is a picture, what is refused, what is left on disk."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from servers import served

from imagen_async import ConfigurationError, DownloadFailed, ImageRequest, Result
from imagen_async._downloads import MAX_PICTURE, TRIES, file_stem, save_all
from imagen_async._folders import prepare_folder
from imagen_async._session_pool import FileSession, SessionSettings
from imagen_async.sandbox._painter import paint

PNG = paint("a red fox", "1:1", "1")
JPEG = b"\xff\xd8\xff\xe0" + b"j" * 500
WEBP = b"RIFF\x10\x00\x00\x00WEBPVP8 " + b"w" * 500


def result_with(*urls: str, index: int = 12, prompt: str = "A red fox!") -> Result:
    """A finished result with those pictures."""
    return Result("k", index, ImageRequest(prompt), "kie", "imagen4", urls=urls, task_id="t1")


async def fetch(answers: Callable[[int, web.Request], web.StreamResponse | None], folder: Path) -> tuple[Path, ...]:
    """Save one picture from a server that is told what to answer to the n-th request; None breaks the connection."""
    count = 0

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal count
        count += 1
        response = answers(count, request)
        if response is None:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        return response

    async with served(handler) as url, FileSession(SessionSettings()) as session:
        files = await save_all(session, result_with(f"{url}/x.exe?name=../../evil"), str(folder))
    return tuple(Path(file) for file in files)


def hidden(folder: Path) -> list[str]:
    """Temporary files that were left behind."""
    return [name for name in os.listdir(folder) if name.startswith(".")]


@pytest.mark.parametrize(
    ("body", "ending", "media_type"),
    [(PNG, ".png", "image/png"), (JPEG, ".jpg", "image/jpeg"), (WEBP, ".webp", "image/webp")],
)
async def test_a_picture_is_named_by_us_and_by_its_content(
    tmp_path: Path, body: bytes, ending: str, media_type: str
) -> None:
    """Name and ending come from the request and the first bytes, whatever URL and headers say."""
    (path,) = await fetch(lambda count, request: web.Response(body=body, content_type="text/plain"), tmp_path)
    assert path == tmp_path / f"000012-a-red-fox{ending}"
    assert path.read_bytes() == body
    assert hidden(tmp_path) == []


async def test_a_file_tells_its_sha256_size_and_type(tmp_path: Path) -> None:
    """What is returned describes the bytes on disk, and works as a path."""

    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=PNG)

    async with served(handler) as url, FileSession(SessionSettings()) as session:
        (file,) = await save_all(session, result_with(url), str(tmp_path))
    assert file.sha256 == hashlib.sha256(Path(file).read_bytes()).hexdigest()
    assert (file.size, file.media_type, file.url) == (len(PNG), "image/png", url)


async def test_a_second_picture_gets_a_number(tmp_path: Path) -> None:
    """The pictures of one task are named alike, from the second on with its number."""

    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=PNG + request.path.encode())

    async with served(handler) as url, FileSession(SessionSettings()) as session:
        files = await save_all(session, result_with(f"{url}/1", f"{url}/2", f"{url}/3"), str(tmp_path))
    names = [Path(file).name for file in files]
    assert names == ["000012-a-red-fox.png", "000012-a-red-fox-2.png", "000012-a-red-fox-3.png"]


@pytest.mark.parametrize("trouble", ["reset", "503", "404", "html", "short"])
async def test_passing_trouble_is_tried_again(tmp_path: Path, trouble: str) -> None:
    """A broken connection, an error, an error page or a file that breaks off is fetched again, and nothing is left."""

    def answers(count: int, request: web.Request) -> web.StreamResponse | None:
        if count > 1:
            return web.Response(body=PNG)
        match trouble:
            case "reset":
                return None
            case "html":
                return web.Response(text="<html>", content_type="image/png")
            case "short":
                asyncio.get_running_loop().call_later(0.01, _abort, request)
                return web.Response(body=PNG, headers={"Content-Length": str(len(PNG) + 10)})
        return web.Response(status=int(trouble))

    (path,) = await fetch(answers, tmp_path)
    assert path.read_bytes() == PNG
    assert hidden(tmp_path) == []


def _abort(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


async def test_what_is_no_picture_is_an_error_and_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After several tries the error carries task id and URL, and the folder is empty."""
    counts: list[int] = []

    def answers(count: int, request: web.Request) -> web.Response:
        counts.append(count)
        return web.Response(text="<html>blocked</html>", content_type="image/png")

    with pytest.raises(DownloadFailed, match="no PNG, JPEG or WebP") as caught:
        await fetch(answers, tmp_path)
    assert len(counts) == TRIES
    assert caught.value.task_id == "t1"
    assert "http://127.0.0.1" in caught.value.message
    assert not caught.value.local
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "chunked"])
async def test_a_file_that_is_too_long_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, declared: bool
) -> None:
    """Size is bounded whether the server declares it or not, and it is not tried again."""
    monkeypatch.setattr("imagen_async._downloads.MAX_PICTURE", 100_000)
    assert MAX_PICTURE == 64 << 20
    count = 0

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal count
        count += 1
        if declared:
            return web.Response(body=PNG + bytes(100_000))
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            for _ in range(1000):
                await response.write(PNG)
        except ConnectionError:
            pass
        return response

    async with served(handler) as url, FileSession(SessionSettings()) as session:
        with pytest.raises(DownloadFailed, match="longer than"):
            await save_all(session, result_with(url), str(tmp_path))
    assert count == 1
    assert os.listdir(tmp_path) == []


async def test_saving_never_overwrites_another_picture(tmp_path: Path) -> None:
    """Another picture under the same name keeps its place; the same picture again is one file."""
    taken = tmp_path / "000012-a-red-fox.png"
    taken.write_bytes(b"an older picture")
    for _ in range(2):
        (path,) = await fetch(lambda count, request: web.Response(body=PNG), tmp_path)
        assert path.name == f"000012-a-red-fox-{hashlib.sha256(PNG).hexdigest()[:8]}.png"
    assert taken.read_bytes() == b"an older picture"
    assert len(os.listdir(tmp_path)) == 2


async def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    """The error names the folder and what to do, and says that this machine is the reason."""
    (tmp_path / "file").touch()
    with pytest.raises(DownloadFailed, match="choose another folder") as caught:
        await fetch(lambda count, request: web.Response(body=PNG), tmp_path / "file" / "below")
    assert caught.value.local
    with pytest.raises(ConfigurationError, match="choose another folder"):
        prepare_folder(tmp_path / "file" / "below")


async def test_cancelling_a_download_leaves_nothing(tmp_path: Path) -> None:
    """A download that is cancelled halfway removes its temporary file."""
    begun = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(PNG)
        begun.set()
        await asyncio.Event().wait()
        return response

    async with served(handler) as url, FileSession(SessionSettings()) as session:
        saving = asyncio.ensure_future(save_all(session, result_with(url), str(tmp_path)))
        await begun.wait()
        saving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await saving
    assert os.listdir(tmp_path) == []


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
