"""The transport against real servers on loopback: what it sends, what it bounds, what it says when it fails."""

from __future__ import annotations

import asyncio
import gc
import gzip
import ssl
import warnings
from pathlib import Path

import pytest
import trustme
from aiohttp import web
from servers import served

from imagen_async._core.wire import HttpRequest
from imagen_async._session_pool import MAX_ANSWER, Endpoint, SessionPool, SessionSettings
from imagen_async.errors import ProtocolError, TransportError

KEY = "sk-very-secret-key"
ASK = HttpRequest("GET", "/api/v1/ask?taskId=a%2Fb")
CREATE = HttpRequest("POST", "/api/v1/create", b"{}")


def pool_for(url: str, **settings: object) -> SessionPool:
    """A pool with one account at that address."""
    return SessionPool({"one": Endpoint(url, KEY)}, SessionSettings(**settings))  # type: ignore[arg-type]


async def test_sends_the_key_a_user_agent_and_the_path_as_it_stands() -> None:
    """Every request carries the key and a User-Agent; a percent-encoded path is not encoded again."""
    seen: list[web.Request] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request)
        return web.Response(body=b"{}")

    async with served(handler) as url, pool_for(url) as pool:
        response = await pool.send("one", ASK)
        await pool.send("one", CREATE)
    assert response.status == 200
    assert [request.headers["Authorization"] for request in seen] == [f"Bearer {KEY}"] * 2
    assert all(request.headers["User-Agent"].startswith("imagen_async/") for request in seen)
    assert seen[0].raw_path == "/api/v1/ask?taskId=a%2Fb"
    assert seen[1].headers["Content-Type"] == "application/json"


async def test_keeps_a_path_in_the_base_url() -> None:
    """A base URL with a path, such as a gateway's, is kept before the API's own path."""

    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=request.raw_path.encode())

    async with served(handler) as url, pool_for(f"{url}/gateway") as pool:
        assert (await pool.send("one", ASK)).body.startswith(b"/gateway/api/v1/ask")


async def test_follows_no_redirect() -> None:
    """A redirect comes back as it is: the key goes to the account's own address only."""
    visited: list[str] = []

    async def elsewhere(request: web.Request) -> web.Response:
        visited.append(request.path)
        return web.Response()

    async with served(elsewhere) as other:

        async def handler(request: web.Request) -> web.Response:
            raise web.HTTPTemporaryRedirect(f"{other}/trap")

        async with served(handler) as url, pool_for(url) as pool:
            response = await pool.send("one", CREATE)
    assert (response.status, response.location) == (307, f"{other}/trap")
    assert visited == []


async def test_takes_the_key_out_of_what_a_server_quotes() -> None:
    """A server that quotes the key in its refusal does not bring it into our errors or logs."""

    async def handler(request: web.Request) -> web.Response:
        return web.Response(text=f"bad key {KEY}")

    async with served(handler) as url, pool_for(url) as pool:
        assert (await pool.send("one", ASK)).body == b"bad key ***"


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "chunked"])
async def test_an_answer_that_is_too_long_is_refused(declared: bool) -> None:
    """An answer over 1 MiB is not read to its end, whether it says its length or not."""

    async def handler(request: web.Request) -> web.StreamResponse:
        if declared:
            return web.Response(body=b" " * (MAX_ANSWER + 1))
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            for _ in range(1000):
                await response.write(b" " * 65536)
        except ConnectionError:
            pass
        return response

    async with served(handler) as url, pool_for(url) as pool:
        with pytest.raises(ProtocolError, match="longer than"):
            await pool.send("one", ASK)


async def test_a_compressed_bomb_is_refused() -> None:
    """A small answer that unpacks to 64 MiB is stopped at the same bound."""
    bomb = gzip.compress(b" " * (64 << 20))

    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=bomb, headers={"Content-Encoding": "gzip"})

    async with served(handler) as url, pool_for(url) as pool:
        with pytest.raises((ProtocolError, TransportError)):
            await pool.send("one", ASK)


async def test_a_slow_answer_ends_in_time_and_counts_as_sent() -> None:
    """A server that never answers costs the set seconds, and the request may have reached it."""

    async def handler(request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        return web.Response()

    async with served(handler) as url, pool_for(url, timeout=0.3) as pool:
        with pytest.raises(TransportError, match="no answer in time") as caught:
            await pool.send("one", CREATE)
    assert caught.value.sent


async def test_more_time_than_the_setting_is_not_given() -> None:
    """A job with a long deadline does not make its status call wait longer than any other."""

    async def handler(request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        return web.Response()

    async with served(handler) as url, pool_for(url, timeout=0.3) as pool:
        async with asyncio.timeout(5):
            with pytest.raises(TransportError, match="no answer in time"):
                await pool.send("one", ASK, within=30)


async def test_a_trickling_answer_ends_in_time() -> None:
    """A server that sends a byte now and then is bounded by the total time, not by the pauses."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        try:
            for _ in range(1000):
                await response.write(b" ")
                await asyncio.sleep(0.02)
        except ConnectionError:
            pass
        return response

    async with served(handler) as url, pool_for(url, timeout=0.3) as pool:
        with pytest.raises(TransportError):
            await pool.send("one", ASK)


async def test_no_connection_counts_as_not_sent() -> None:
    """Where nobody listens no byte has left: such a create is safe to send again."""

    async def handler(request: web.Request) -> web.Response:
        return web.Response()

    async with served(handler) as url:
        pass
    async with pool_for(url) as pool:
        with pytest.raises(TransportError, match="No connection") as caught:
            await pool.send("one", CREATE)
    assert not caught.value.sent


async def test_a_name_that_does_not_resolve_counts_as_not_sent() -> None:
    """A DNS failure comes before the first byte."""
    async with pool_for("https://no-such-host.invalid") as pool:
        with pytest.raises(TransportError) as caught:
            await pool.send("one", CREATE)
    assert not caught.value.sent


async def test_a_reset_after_the_request_counts_as_sent() -> None:
    """A connection that breaks before the answer leaves the outcome open."""

    async def handler(request: web.Request) -> web.Response:
        await request.read()
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async with served(handler) as url, pool_for(url) as pool:
        with pytest.raises(TransportError) as caught:
            await pool.send("one", CREATE)
    assert caught.value.sent


@pytest.fixture
def authority() -> trustme.CA:
    """A certificate authority that no system trusts."""
    return trustme.CA()


@pytest.fixture
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    """A server's side of TLS for 127.0.0.1."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


async def test_tls_is_verified_and_a_failure_counts_as_not_sent(server_tls: ssl.SSLContext) -> None:
    """A certificate that nobody vouches for is refused before a byte of the request leaves."""

    async def handler(request: web.Request) -> web.Response:
        return web.Response()

    async with served(handler, tls=server_tls) as url, pool_for(url) as pool:
        with pytest.raises(TransportError, match="certificate") as caught:
            await pool.send("one", CREATE)
    assert not caught.value.sent


async def test_a_custom_authority_is_trusted(authority: trustme.CA, server_tls: ssl.SSLContext) -> None:
    """With a context of their own, users reach servers of their own authority."""

    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=b"welcome")

    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with served(handler, tls=server_tls) as url, pool_for(url, ssl=context) as pool:
        assert (await pool.send("one", ASK)).body == b"welcome"


async def test_proxies_come_from_the_environment_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP_PROXY is used with trust_env and ignored without; NO_PROXY is honoured."""
    asked: list[str] = []

    async def proxy(request: web.Request) -> web.Response:
        asked.append(str(request.url))
        return web.Response(body=b"by proxy")

    async def direct(request: web.Request) -> web.Response:
        return web.Response(body=b"direct")

    async with served(proxy) as proxy_url, served(direct) as url:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("http_proxy", proxy_url)
        answers = {}
        for trust_env in (True, False):
            async with pool_for(url, trust_env=trust_env) as pool:
                answers[trust_env] = (await pool.send("one", ASK)).body
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        async with pool_for(url, trust_env=True) as pool:
            assert (await pool.send("one", ASK)).body == b"direct"
    assert answers == {True: b"by proxy", False: b"direct"}


async def test_netrc_never_takes_the_keys_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A .netrc with a login for the host changes nothing, with trust_env too."""
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password mine\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    async def handler(request: web.Request) -> web.Response:
        return web.Response(text=request.headers.get("Authorization", "none"))

    async with served(handler) as url, pool_for(url, trust_env=True) as pool:
        assert (await pool.send("one", ASK)).body == b"Bearer ***"
        assert pool.files is not None
        async with pool.files.get(url) as response:
            assert await response.text() == "none"


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


def test_no_warning_of_anything_left_open() -> None:
    """After use, cancellation or an error, in several loops of one process, nothing warns that it was not closed."""

    async def handler(request: web.Request) -> web.Response:
        if request.method == "POST":
            await asyncio.Event().wait()
        return web.Response()

    async def use() -> None:
        async with served(handler) as url, pool_for(url) as pool:
            await pool.send("one", ASK)

    async def cancelled() -> None:
        async with served(handler) as url:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1), pool_for(url) as pool:
                    await pool.send("one", CREATE)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for work in (use, cancelled, use):
            asyncio.run(work())
        gc.collect()


def test_the_key_is_in_no_repr() -> None:
    """An endpoint shows its address and not its key."""
    assert KEY not in repr(Endpoint("https://api.example.com", KEY))
