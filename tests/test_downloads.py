"""From link to verified file: what is a picture, what is refused, what is left on disk."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import gzip
import hashlib
import itertools
import math
import os
import random
import re
import sys
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from files import FILES, chunk
from handles import without_handles
from inner import TRIES, FileSession, Mask, OffLoop, SessionSettings, paint, prepare_folder, save_all, sweep
from servers import Handler, broken_off, endless, served

from imagen_async import (
    ConfigurationError,
    DownloadFailed,
    ImageFile,
    ImagenError,
    ImageRequest,
    Result,
    TransportError,
)
from imagen_async._decoding import runs_out

PNG = paint("a red fox", "1:1", "1")
OFF_LOOP = OffLoop("imagen-files", 2)
TAKEN = "000012-a-red-fox.png"


SHORT_WAITS = 10134
"""The tries of a download are up to 15 seconds apart, by chance: of this seed's four waits none is over 0.2."""


@pytest.fixture(autouse=True)
def short_waits() -> None:
    """No test waits for chance."""
    random.seed(SHORT_WAITS)


def picture(request: web.Request, body: bytes = PNG) -> web.Response:
    """A picture, which is told to be something else."""
    return web.Response(body=body, content_type="text/plain")


NEAR = SessionSettings(private_files=True)
"""What is fetched here is on this machine."""


async def fetch(folder: Path, *handlers: Handler, pictures: int = 1, within: float = math.inf) -> tuple[ImageFile, ...]:
    """Save a result's pictures from a server with a handler for each request, the last one for all that follow."""
    turns = itertools.chain(handlers, itertools.repeat(handlers[-1]))
    random.seed(SHORT_WAITS)
    async with (
        served(lambda request: next(turns)(request)) as url,
        FileSession(NEAR) as session,
    ):
        urls = tuple(f"{url}/{number}.exe?name=../../evil" for number in range(pictures))
        result = Result("k", 12, ImageRequest("A red fox!"), "kie", "imagen4", urls=urls, task_id="t1")
        return await save_all(session, OFF_LOOP, result, str(folder), within=within)


async def test_pictures_are_named_by_us_and_by_their_content(tmp_path: Path) -> None:
    """Name and ending come from the request and the first bytes, whatever URL and headers say, from the second on with
    a number; the figures are true, and the mode is that of any new file."""
    turns = [functools.partial(picture, body=body) for _, _, body in FILES.values()]
    files = await fetch(tmp_path / "new", *turns, pictures=len(FILES))
    assert [(file.media_type, Path(file).suffix, Path(file).read_bytes()) for file in files] == list(FILES.values())
    assert [(file.sha256, file.size) for file in files] == [
        (hashlib.sha256(body).hexdigest(), len(body)) for _, _, body in FILES.values()
    ]
    assert [Path(file).stem for file in files][:3] == ["000012-a-red-fox" + end for end in ("", "-2", "-3")]
    (tmp_path / "any").touch()
    assert {Path(file).stat().st_mode for file in files} == {(tmp_path / "any").stat().st_mode}
    assert files[0].url.endswith("/0.exe?name=../../evil")
    assert sorted(os.listdir(tmp_path / "new")) == sorted(Path(file).name for file in files)


async def closed(request: web.Request, body: bytes) -> web.StreamResponse:
    """An answer without a length, which ends when the connection does."""
    response = web.StreamResponse()
    response.force_close()
    await response.prepare(request)
    await response.write(body)
    return response


def packed(request: web.Request, body: bytes, coding: str) -> web.Response:
    """An answer in a coding that nobody asked for."""
    assert request.headers["Accept-Encoding"] == "identity"
    return web.Response(body=body, headers={"Content-Encoding": coding})


HALF = PNG[: len(PNG) // 2]

KEY = "sk-Quoted-0123456789"

TROUBLE: dict[str, Handler] = {
    "nothing": lambda request: picture(request, b""),
    "the length of the half": lambda request: picture(request, HALF),
    "a few bytes": lambda request: picture(request, PNG[:7]),
    "no length, and closed": lambda request: closed(request, HALF),
    "cut between two pieces": lambda request: closed(request, PNG[:-12]),
    "gzip, cut": lambda request: packed(request, gzip.compress(PNG)[: len(PNG) // 2], "gzip"),
    "deflate, cut": lambda request: packed(request, zlib.compress(PNG)[: len(PNG) // 2], "deflate"),
    "bytes of no kind": lambda request: picture(request, bytes(99)),
    "reset": broken_off,
    "short": lambda request: broken_off(request, PNG),
    "error page": lambda request: web.Response(text="<html>", content_type="image/png"),
    "503": lambda request: web.Response(status=503),
    "404": lambda request: web.Response(status=404, headers={"X-Amz-Request-Id": "r-1"}),
}


@pytest.mark.parametrize("trouble", TROUBLE)
async def test_passing_trouble_is_tried_again(tmp_path: Path, trouble: str) -> None:
    """A broken connection, an error, an error page or a file that is not whole is fetched again; nothing is left."""
    (file,) = await fetch(tmp_path, TROUBLE[trouble], picture)
    assert Path(file).read_bytes() == PNG
    assert os.listdir(tmp_path) == [TAKEN]


@pytest.mark.parametrize("status", [429, 503, 529])
async def test_a_host_that_is_busy_is_left_alone_by_all_downloads(tmp_path: Path, status: int) -> None:
    """For as long as it asks; another host is not meant."""

    def busy(request: web.Request) -> web.Response:
        asked.append(asyncio.get_running_loop().time())
        head = {"Retry-After-Ms": "400"}
        return web.Response(status=status, headers=head) if len(asked) == 1 else picture(request)

    asked: list[float] = []
    async with served(busy) as url, served(picture) as other, FileSession(NEAR) as session:
        async with session.get(f"{url}/1"):
            pass
        began_at = asyncio.get_running_loop().time()
        async with session.get(f"{other}/3"):
            assert asyncio.get_running_loop().time() < began_at + 0.35
        for number in range(2):
            async with session.get(f"{url}/{number}") as response:
                assert await response.read() == PNG
    assert asked[1] - asked[0] >= 0.35


LASTING: dict[str, tuple[Handler, str, int, bool]] = {
    "no picture": (TROUBLE["error page"], "no picture", TRIES, False),
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
    told = (404, "r-1", True) if is_gone else (None, None, False)
    assert (error.status, error.request_id, error.at is not None) == told, "what the host's support asks for"
    assert os.listdir(tmp_path) == []


QUOTING: list[Handler] = [
    *(
        lambda request, status=status: web.Response(status=status, headers={"X-Request-Id": KEY})
        for status in (403, 500)
    ),
    lambda request: web.Response(text=KEY),
    lambda request: web.Response(body=bytes(8) + KEY.encode() * 2),
    lambda request: web.Response(status=302, headers={"Location": f"http://{KEY}.invalid/"}),
    lambda request: web.Response(status=302, headers={"Location": f"http://{KEY}.localhost./"}),
]


@pytest.mark.parametrize("number", range(len(QUOTING)))
async def test_a_host_of_files_that_knows_the_key_has_it_shown_nowhere(tmp_path: Path, number: int) -> None:
    """Nor a part of it, whatever it quotes it in."""
    async with served(QUOTING[number]) as url, FileSession(NEAR, mask=Mask([KEY])) as session:
        result = Result("k", 12, ImageRequest("A red fox!"), "kie", "imagen4", urls=(url,))
        with pytest.raises(DownloadFailed) as caught:
            await save_all(session, OFF_LOOP, result, str(tmp_path))
    told = f"{caught.value} {caught.value!r} {vars(caught.value)} {caught.value.__cause__!r}".lower()
    assert (KEY[:8].lower() in told, "***" in told) == (False, True)


KEPT: dict[str, tuple[Handler, int, str, bytes]] = {
    "cut each time": (TROUBLE["the length of the half"], TRIES, ".part", HALF),
    "reset each time": (TROUBLE["short"], TRIES, ".part", PNG),
    "of no known kind": (TROUBLE["bytes of no kind"], 2, ".bin", bytes(99)),
}


@pytest.mark.parametrize("what", KEPT)
async def test_what_is_no_whole_picture_is_kept_until_there_is_one(tmp_path: Path, what: str) -> None:
    """The error names what came, which stays beside the other pictures through later runs until all of it is there."""
    handler, tries, suffix, body = KEPT[what]
    asked: list[str] = []

    def spoilt(request: web.Request) -> object:
        asked.append(request.path)
        return handler(request) if request.path == "/0.exe" else picture(request)

    with pytest.raises(DownloadFailed, match=rf"kept as \S+{suffix}\.") as caught:
        await fetch(tmp_path, spoilt, pictures=2)
    (kept,) = tmp_path.glob(f"*{suffix}")
    assert (str(kept) in str(caught.value), asked.count("/0.exe")) == (True, tries)
    assert [Path(file).name for file in caught.value.files] == ["000012-a-red-fox-2.png"]
    sweep(tmp_path)
    with pytest.raises(DownloadFailed, match=re.escape(str(kept))):
        await fetch(tmp_path, lambda request: picture(request, PNG[:20]))
    assert (sorted(tmp_path.glob(f"*{suffix}*")), kept.read_bytes()) == ([kept], body), "less is not kept instead"
    await fetch(tmp_path, picture)
    assert not kept.exists()


async def test_what_is_beside_a_picture_of_the_same_name_is_not_its_own(tmp_path: Path) -> None:
    """Another task's picture of the same name leaves what was kept of this one's."""
    for task, body in (("t1", HALF), ("t2", PNG)):
        async with (
            served(functools.partial(picture, body=body)) as url,
            FileSession(NEAR) as session,
        ):
            result = Result("k", 12, ImageRequest("A red fox!"), "kie", "imagen4", urls=(url,), task_id=task)
            with pytest.raises(DownloadFailed) if body is HALF else contextlib.nullcontext():
                await save_all(session, OFF_LOOP, result, str(tmp_path))
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".part", ".png"]


LINKS = {
    "/a%28b%29%2Cc%7Ed.png?X-Signature=ab%2Bcd%2F%3D&u=a@b:c&n=%E7%8B&e=%7e": None,
    "/{t}[0]//a/../b|c^d.png?x[]=1&t=a+b%20c&q='\"<>`\\%zz%": None,
    "?a=1": "/?a=1",
    "/a/../b;?": None,
    "/a b/é.png?q=狐#fragment#": "/a%20b/%C3%A9.png?q=%E7%8B%90",
}


@pytest.mark.parametrize("link", LINKS, ids=range(len(LINKS)))
@pytest.mark.parametrize("is_redirect", [False, True], ids=["link", "redirect"])
async def test_a_link_is_fetched_byte_for_byte(tmp_path: Path, link: str, is_redirect: bool) -> None:
    """A signature holds for the bytes that were given; what no request can carry is escaped, and nothing else is."""
    asked: list[str] = []

    def answer(request: web.Request) -> web.Response:
        asked.append(request.raw_path)
        if request.path != "/start":
            return picture(request)
        return web.Response(status=307, headers={"Location": f"{url}{link}"})

    async with served(answer) as url, FileSession(NEAR) as session:
        urls = (f" {url.upper()}/start" if is_redirect else f" {url.upper()}{link}",)
        await save_all(session, OFF_LOOP, Result("k", 1, ImageRequest("x"), "kie", "imagen4", urls=urls), str(tmp_path))
    assert asked[is_redirect:] == [LINKS[link] or link]


async def test_a_redirect_may_have_any_bytes_and_leads_to_an_end(tmp_path: Path) -> None:
    """Bytes that are no text are asked for as they are; a circle is an error, and no address too."""

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1]
        asked.append(path)
        body = b"" if path in where else PNG
        head = b"302 Found\r\nLocation: " + where[path] if path in where else b"200 OK"
        writer.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (head, len(body), body))
        await writer.drain()
        writer.close()

    asked: list[bytes] = []
    where = {b"/latin": b"/caf\xe9.png", b"/circle": b"circle", b"/nowhere": b"mailto:a@b"}
    where |= {b"/a/b?c": b" ../d/./e?x=/../y#z ", b"/d/e?x=/../y": b"/f/../g;?", b"/f/../g;?": b"?h"}
    async with (
        await asyncio.start_server(reply, "127.0.0.1") as server,
        FileSession(NEAR) as session,
    ):
        port = server.sockets[0].getsockname()[1]
        async with session.get(f"http://127.0.0.1:{port}/latin") as response:
            assert await response.read() == PNG
        async with session.get(f"http://127.0.0.1:{port}/\ud83d/\udce9\t."):
            pass
        assert asked == [b"/latin", b"/caf%E9.png", b"/%3F/%E9%09."]
        async with session.get(f"http://127.0.0.1:{port}/a/b?c"):
            pass
        assert asked[4:] == [b"/d/e?x=/../y", b"/f/../g;?", b"/f/../g;?h"]
        for link, words in (("/circle", "redirects"), ("/nowhere", "no address")):
            with pytest.raises(ImagenError, match=words):
                async with session.get(f"http://127.0.0.1:{port}{link}"):
                    pass


NO_ADDRESSES = [
    *(
        "",
        "x.png",
        "http://",
        "http:///x",
        "http://[::1/x",
        "http://h:99999/",
        "http://.x/",
        "http://a..b/",
        "ftp://h/x",
    ),
    *("data:image/png;base64,x", "http://\u2024/", f"http://{'a' * 70}.example/", "http://\ud800/"),
]


@pytest.mark.parametrize("link", NO_ADDRESSES, ids=range(len(NO_ADDRESSES)))
async def test_what_is_no_address_is_told_as_such(link: str) -> None:
    """Whatever a provider calls a link ends as one of our errors."""
    async with FileSession(SessionSettings(connect_timeout=2.0)) as session:
        with pytest.raises(DownloadFailed, match="no address that can be fetched"):
            async with session.get(link):
                pass


async def test_no_handle_is_waited_for(tmp_path: Path) -> None:
    """Where no connection can be opened, nor a file, both wait for that, and the picture is saved."""

    async def status_of(url: str) -> int:
        async with session.get(url) as response:
            return response.status

    async with served(picture) as url, FileSession(NEAR) as session:
        result = Result("k", 12, ImageRequest("A red fox!"), "kie", "imagen4", urls=(url,))
        for action in (status_of(url), save_all(session, OFF_LOOP, result, str(tmp_path))):
            async with without_handles():
                waiting = asyncio.create_task(action)
            await waiting
    assert os.listdir(tmp_path) == [TAKEN]


def test_a_picture_that_is_whole_but_for_its_data_is_found_by_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only data that run out count: what Pillow does not like, finds too large or does not know is whole; so is
    everything where there is no Pillow."""
    pixels = zlib.compress(b"".join(b"\0" + random.randbytes(192) for _ in range(64)))
    cases = {
        "half": (64, 2, pixels[:4000]),
        "whole": (64, 2, pixels),
        "too large": (10**5, 2, b""),
        "odd": (64, 9, b""),
    }
    found = {}
    for name, (side, colours, data) in cases.items():
        head = side.to_bytes(4, "big") * 2 + bytes([8, colours, 0, 0, 0])
        png = PNG[:8] + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
        found[name] = runs_out("image/png", png)
    assert found == {"half": True, "whole": False, "too large": False, "odd": False}
    assert [runs_out(media_type, body) for media_type, _, body in FILES.values()] == [False] * len(FILES)
    monkeypatch.setitem(sys.modules, "PIL.PngImagePlugin", None)
    assert not runs_out("image/png", HALF)


def refuse(code: int) -> Callable[..., Any]:
    """What a file system does that cannot do something."""

    def refused(*_: object, **__: object) -> Any:
        raise OSError(code, os.strerror(code))

    return refused


ODD_FOLDERS: dict[str, tuple[dict[str, int], bool]] = {
    "no modes": ({"chmod": errno.EPERM, "fchmod": errno.ENOTSUP}, True),
    "no hard links": ({"link": errno.EPERM}, True),
    "no fsync": ({"fsync": errno.EINVAL}, True),
    "no new names": ({"link": errno.EPERM, "replace": errno.EACCES}, False),
    "no long names": ({"link": errno.ENAMETOOLONG, "replace": errno.ENAMETOOLONG}, False),
    "a disk in trouble": ({"fsync": errno.EIO}, False),
}


@pytest.mark.parametrize("what", ODD_FOLDERS)
async def test_a_folder_takes_pictures_or_is_refused_beforehand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """What a file system need not do is done without; what it must is tried before anything is paid for."""
    refusals, is_taken = ODD_FOLDERS[what]
    for name, code in refusals.items():
        monkeypatch.setattr(os, name, refuse(code))
    with contextlib.nullcontext() if is_taken else pytest.raises(ConfigurationError, match="Nothing can be written"):
        prepare_folder(tmp_path)
    assert os.listdir(tmp_path) == []
    for _ in range(2 * is_taken):
        (file,) = await fetch(tmp_path, picture)
        assert (Path(file).read_bytes(), os.listdir(tmp_path)) == (PNG, [TAKEN])


async def test_what_is_saved_in_time_is_told(tmp_path: Path) -> None:
    """A picture that does not come in the time for all of them takes none of those that have come."""
    with pytest.raises(DownloadFailed, match=r"after 0\.5 seconds of saving, 1 of 2 pictures are here") as caught:
        await fetch(tmp_path, picture, lambda request: endless(request, PNG, 0.01), pictures=2, within=0.5)
    assert [file.path for file in caught.value.files] == [str(tmp_path / TAKEN)]


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


@pytest.mark.slow
async def test_a_file_may_take_its_time_but_for_silence() -> None:
    """A host that goes silent within a file is given up; one that sends a little now and then is not."""

    async def dripping(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(8):
            await response.write(b"a drop")
            await asyncio.sleep(0.1)
        if "silent" in request.path:
            await asyncio.Event().wait()
        return response

    async with served(dripping) as url, FileSession(SessionSettings(timeout=0.4, private_files=True)) as session:
        async with session.get(f"{url}/slow") as response:
            assert await response.read() == b"a drop" * 8
        with pytest.raises(TransportError, match="no answer in time"):
            async with session.get(f"{url}/silent") as response:
                await response.read()
