"""The transport against real servers on loopback: what it sends, what it bounds, what it says when it fails."""

from __future__ import annotations

import asyncio
import gc
import gzip
import ssl
import warnings
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web
from servers import served

from imagen_async._core.wire import HttpRequest, HttpResponse
from imagen_async._session_pool import MAX_ANSWER, Endpoint, SessionPool, SessionSettings
from imagen_async.errors import ImagenError, ProtocolError, TransportError

KEY = "sk-very-secret-key"
ASK = HttpRequest("GET", "/api/v1/ask?taskId=a%2Fb")
CREATE = HttpRequest("POST", "/api/v1/create", b"{}")


def pool_for(url: str, **settings: Any) -> SessionPool:
    """A pool with one account at that address."""
    return SessionPool({"one": Endpoint(url, KEY)}, SessionSettings(**settings))


async def echo(request: web.Request) -> web.Response:
    """A server that tells what has reached it, the key too."""
    agent, login = request.headers["User-Agent"].partition("/")[0], request.headers.get("Authorization", "none")
    return web.Response(text=f"{request.raw_path} {request.content_type} {agent} {login}")


async def failure(url: str, request: HttpRequest = CREATE, **settings: Any) -> ImagenError:
    """The error of one request to that address."""
    async with pool_for(url, **settings) as pool:
        with pytest.raises((TransportError, ProtocolError)) as caught:
            await pool.send("one", request)
    return caught.value


async def test_sends_the_key_a_user_agent_and_the_path_as_it_stands() -> None:
    """Every request has the key and a User-Agent, its path and the base URL's as they are; a quoted key is cut."""
    async with served(echo) as url, pool_for(f"{url}/gateway") as pool:
        answers = [(await pool.send("one", request)).body.decode() for request in (ASK, CREATE)]
    assert answers == [
        "/gateway/api/v1/ask?taskId=a%2Fb application/octet-stream imagen_async Bearer ***",
        "/gateway/api/v1/create application/json imagen_async Bearer ***",
    ]


async def test_follows_no_redirect() -> None:
    """A redirect comes back as it is: the key goes to the account's own address only."""
    visited: list[str] = []

    async def elsewhere(request: web.Request) -> web.Response:
        visited.append(request.path)
        return web.Response()

    async with served(elsewhere) as other:

        async def handler(request: web.Request) -> web.Response:
            raise web.HTTPTemporaryRedirect(f"{other}/trap", headers={"Retry-After": "7"})

        async with served(handler) as url, pool_for(url) as pool:
            response = await pool.send("one", CREATE)
    assert (response.status, response.location, response.retry_after) == (307, f"{other}/trap", 7.0)
    assert visited == []


async def test_proxies_come_from_the_environment_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP_PROXY is used with trust_env and ignored without; NO_PROXY is honoured."""

    async def proxy(request: web.Request) -> web.Response:
        return web.Response(text=f"by proxy: {request.url.path}")

    async with served(proxy) as proxy_url, served(echo) as url:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("http_proxy", proxy_url)
        is_by_proxy = []
        for trust_env, excepted in ((True, ""), (False, ""), (True, "127.0.0.1")):
            monkeypatch.setenv("no_proxy", excepted)
            async with pool_for(url, trust_env=trust_env) as pool:
                is_by_proxy.append((await pool.send("one", ASK)).body.startswith(b"by proxy: /api"))
    assert is_by_proxy == [True, False, False]


async def test_netrc_never_takes_the_keys_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A .netrc with a login for the host changes nothing, with trust_env too; files are fetched without any login."""
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password mine\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    async with served(echo) as url, pool_for(url, trust_env=True) as pool:
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

    async with served(handler) as url, pool_for(url, connections=4) as pool, asyncio.TaskGroup() as group:
        for _ in range(50):
            group.create_task(pool.send("one", ASK))
    assert len(ports) <= 4


async def endless(request: web.Request, chunk: bytes = b" " * 65536, pause: float = 0.0) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    try:
        for _ in range(1000):
            await response.write(chunk)
            await asyncio.sleep(pause)
    except ConnectionError:
        pass
    return response


async def trickle(request: web.Request) -> web.StreamResponse:
    return await endless(request, b" ", 0.02)


async def declare(request: web.Request) -> web.Response:
    return web.Response(body=b" " * (MAX_ANSWER + 1))


async def bomb(request: web.Request) -> web.Response:
    return web.Response(body=gzip.compress(b" " * (64 << 20), 1), headers={"Content-Encoding": "gzip"})


async def hang(request: web.Request) -> web.Response:
    await asyncio.Event().wait()
    return web.Response()


async def reset(request: web.Request) -> web.Response:
    await request.read()
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


FAILURES = {
    "an answer that says that it is too long": (declare, ProtocolError, "longer than"),
    "an answer without an end": (endless, ProtocolError, "longer than"),
    "a small one that unpacks to 64 MiB": (bomb, (ProtocolError, TransportError), ""),
    "no answer": (hang, TransportError, "no answer in time"),
    "a byte now and then": (trickle, TransportError, ""),
    "a reset after the request": (reset, TransportError, ""),
}


@pytest.mark.parametrize("what", FAILURES)
async def test_a_bad_answer_ends_soon_and_its_request_counts_as_sent(what: str) -> None:
    """Size and time of an answer are bounded, and whatever is wrong with it, the request may have been acted on."""
    handler, kind, words = FAILURES[what]
    async with served(handler) as url:
        error = await failure(url, timeout=0.3)
    assert isinstance(error, kind)
    assert words in error.message
    assert getattr(error, "sent", True)


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
        assert isinstance(error, TransportError)
        assert (error.sent, error.message.startswith("No connection")) == (False, True)


async def test_tls_is_verified_and_a_custom_authority_is_trusted() -> None:
    """A certificate that nobody vouches for is refused before a byte leaves; users can bring their own authority."""
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(client)
    async with served(echo, tls=server) as url:
        error = await failure(url)
        assert isinstance(error, TransportError)
        assert (error.sent, "certificate" in error.message) == (False, True)
        async with pool_for(url, ssl=client) as pool:
            assert isinstance(await pool.send("one", ASK), HttpResponse)


def test_no_warning_of_anything_left_open() -> None:
    """After use, cancellation or an error, in several loops of one process, nothing warns that it was not closed."""

    async def use() -> None:
        async with served(echo) as url, pool_for(url) as pool:
            await pool.send("one", ASK)

    async def cancelled() -> None:
        async with served(hang) as url:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1), pool_for(url) as pool:
                    await pool.send("one", CREATE)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for work in (use, cancelled, use):
            asyncio.run(work())
        gc.collect()


async def test_the_key_is_in_no_repr_and_no_error() -> None:
    """An endpoint shows its address; an answer that is no HTTP makes an error whose whole chain shows no key."""
    assert KEY not in repr(Endpoint("https://api.example.com", KEY))

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 two hundred\r\nbad\x00header\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1") as server:
        chain: BaseException | None = await failure(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    while chain is not None:
        assert KEY not in f"{chain!r} {chain} {vars(chain)!r}"
        chain = chain.__cause__ or chain.__context__
