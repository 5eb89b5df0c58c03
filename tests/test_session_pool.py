"""The transport against real servers on loopback: what it sends, what it bounds, what it says when it fails."""

from __future__ import annotations

import asyncio
import gc
import gzip
import os
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web
from handles import at_most, without_handles
from inner import MAX_ANSWER, Endpoint, HttpRequest, HttpResponse, SessionPool, SessionSettings
from servers import Handler, broken_off, endless, hang, served

from imagen_async._transport.handles import connections_within
from imagen_async.errors import ImagenError, ProtocolError, TransportError

KEY = "sk-very-secret-key"
ASK = HttpRequest("GET", "/api/v1/ask?taskId=a%2Fb")
CREATE = HttpRequest("POST", "/api/v1/create", b"{}")


def pool_for(url: str, **settings: Any) -> SessionPool:
    """A pool with one account at that address."""
    return SessionPool({"one": Endpoint(url, KEY)}, SessionSettings(**settings))


async def answer(url: str, request: HttpRequest = ASK, **settings: Any) -> HttpResponse:
    """What comes of one request to that address."""
    async with pool_for(url, **settings) as pool:
        return await pool.send("one", request)


async def failure(url: str, **settings: Any) -> ImagenError:
    """The error of one create at that address."""
    with pytest.raises((TransportError, ProtocolError)) as caught:
        await answer(url, CREATE, **settings)
    return caught.value


def echo(request: web.Request) -> web.Response:
    """A server that tells what has reached it, the key too."""
    agent, login = request.headers["User-Agent"].partition("/")[0], request.headers.get("Authorization", "none")
    return web.Response(text=f"{request.raw_path} {request.content_type} {agent} {login}")


async def test_sends_the_key_a_user_agent_and_the_path_as_it_stands() -> None:
    """Every request has the key and a User-Agent, its path and the base URL's as they are; a quoted key is cut."""
    async with served(echo) as url:
        asked, created = await answer(f"{url}/gateway"), await answer(f"{url}/gateway", CREATE)
    assert asked.body == b"/gateway/api/v1/ask?taskId=a%2Fb application/octet-stream imagen_async Bearer ***"
    assert created.body == b"/gateway/api/v1/create application/json imagen_async Bearer ***"


async def test_a_process_with_no_handle_left_waits_for_one() -> None:
    """It is no trouble of the account's: nothing was sent, and the create goes once a connection can be opened."""
    async with served(echo) as url, pool_for(url) as pool:
        async with without_handles():
            creating = asyncio.create_task(pool.send("one", CREATE))
        assert (await creating).status == 200


@pytest.mark.parametrize(("free", "connections"), [(400, 64), (80, 20), (3, 2)])
def test_connections_are_no_more_than_there_are_handles_for(free: int, connections: int) -> None:
    """Those of an account, of files, and the files themselves find handles, and a fourth is left for others."""
    # Told by their number: what is open has the lowest ones, but for the one that counts.
    with at_most(len(os.listdir("/dev/fd")) + free):
        assert connections_within(64, sessions=1) == connections


async def test_follows_no_redirect() -> None:
    """A redirect comes back as it is, its pause an hour at most: the key goes to the account's own address only."""

    async def elsewhere(request: web.Request) -> web.Response:
        raise web.HTTPTemporaryRedirect("/trap", headers={"Retry-After": "7200"})

    async with served(elsewhere) as url:
        response = await answer(url, CREATE)
    assert (response.status, response.location, response.retry_after) == (307, "/trap", 3600.0)


async def test_bytes_that_are_no_text_come_in_as_such() -> None:
    """A header of raw bytes, as servers send them in a redirect, holds no half character that nothing could store."""

    async def elsewhere(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.write(b"HTTP/1.1 307 Away\r\nLocation: /caf\xe9\r\nContent-Length: 0\r\n\r\n")
        return web.Response()

    async with served(elsewhere) as url:
        assert (await answer(url)).location == "/caf\ufffd"


async def test_the_environment_names_no_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """HTTP_PROXY and NO_PROXY count with trust_env alone; a .netrc never takes the key's place, nor does a file's."""
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password mine\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    async with served(lambda _: web.Response(text="by proxy")) as proxy_url, served(echo) as url:
        monkeypatch.setenv("http_proxy", proxy_url)
        assert (await answer(url, trust_env=True)).body == b"by proxy"
        assert (await answer(url)).body.endswith(b" Bearer ***")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        async with pool_for(url, trust_env=True) as pool:
            assert (await pool.send("one", ASK)).body.endswith(b" Bearer ***")
            assert pool.files is not None
            async with pool.files.get(url) as response:
                assert (await response.text()).endswith(" none")


async def test_connections_are_bounded_and_kept() -> None:
    """Fifty requests at once use no more connections than allowed, and use them again."""
    ports: set[int] = set()

    async def handler(request: web.Request) -> web.Response:
        assert request.transport is not None
        ports.add(request.transport.get_extra_info("peername")[1])
        return web.Response()

    async with served(handler) as url, pool_for(url, connections=4) as pool:
        await asyncio.gather(*(pool.send("one", ASK) for _ in range(50)))
    assert len(ports) <= 4


BLANKS = b" " * (MAX_ANSWER + 1)
BOMB, GZIP = gzip.compress(b" " * (64 << 20), 1), {"Content-Encoding": "gzip"}
FAILURES: dict[str, tuple[Handler, type[ImagenError], str]] = {
    "an answer that says that it is too long": (lambda _: web.Response(body=BLANKS), ProtocolError, "longer than"),
    "an answer without an end": (endless, ProtocolError, "longer than"),
    "a small one that unpacks to 64 MiB": (lambda _: web.Response(body=BOMB, headers=GZIP), ImagenError, ""),
    "no answer": (hang, TransportError, "no answer in time"),
    "a byte now and then": (lambda request: endless(request, b" ", 0.02), TransportError, "no answer in time"),
    "a reset after the request": (broken_off, TransportError, "disconnected"),
}


@pytest.mark.parametrize("what", FAILURES)
async def test_a_bad_answer_ends_soon_and_its_request_counts_as_sent(what: str) -> None:
    """Size and time of an answer are bounded, and whatever is wrong with it, the request may have been acted on."""
    handler, kind, words = FAILURES[what]
    async with served(handler) as url:
        error = await failure(url, timeout=0.3)
    assert (isinstance(error, kind), words in error.message, getattr(error, "sent", True)) == (True, True, True), error


async def test_more_time_than_the_setting_is_not_given() -> None:
    """A job with a long deadline does not make its status call wait longer than any other; a short one, shorter."""
    async with served(hang) as url:
        for timeout, within in ((0.2, 30.0), (30.0, 0.2)):
            async with pool_for(url, timeout=timeout) as pool, asyncio.timeout(5):
                with pytest.raises(TransportError, match="no answer in time"):
                    await pool.send("one", ASK, within=within)


async def test_no_connection_counts_as_not_sent() -> None:
    """Where nobody listens, or a name does not resolve, no byte has left: such a create is safe to send again."""
    async with served(echo) as closed:
        pass
    for url in (closed, "https://no-such-host.invalid"):
        error = await failure(url)
        assert (getattr(error, "sent", None), error.message[:13]) == (False, "No connection"), url


async def test_tls_is_verified_and_a_custom_authority_is_trusted() -> None:
    """A certificate that nobody vouches for is refused before a byte leaves; users can bring their own authority."""
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(client)
    async with served(echo, tls=server) as url:
        error = await failure(url)
        assert (getattr(error, "sent", None), "certificate" in error.message) == (False, True)
        assert (await answer(url, ssl=client)).status == 200


async def test_a_cancelled_request_leaves_nothing_open() -> None:
    """What was not closed would warn when it is collected, and the test would fail."""
    async with served(hang) as url:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(answer(url, CREATE), 0.1)
    gc.collect()


async def test_the_key_is_in_no_repr_and_no_error() -> None:
    """An endpoint shows its address; an answer that is no HTTP makes an error whose whole chain shows no key."""
    assert KEY not in repr(Endpoint("https://api.example.com", KEY))

    async def garble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 two hundred\r\nbad\x00header\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(garble, "127.0.0.1") as server:
        chain: BaseException | None = await failure(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    while chain is not None:
        assert KEY not in f"{chain!r} {chain} {vars(chain)!r}"
        chain = chain.__cause__ or chain.__context__
