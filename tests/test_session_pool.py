"""The transport against real servers on loopback: what it sends, what it bounds, what it says when it fails."""

from __future__ import annotations

import asyncio
import gc
import gzip
import os
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from handles import at_most, without_handles
from inner import MAX_ANSWER, Endpoint, HttpRequest, HttpResponse, SessionPool, SessionSettings
from servers import Handler, broken_off, endless, hang, lines, of_loopback, served

from imagen_async._handles import connections_within
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


async def test_no_path_changes_the_host_or_the_port() -> None:
    """One that begins with digits would be more of the port, and the key would go there."""
    async with served(echo) as url:
        asked = [await answer(url, HttpRequest("GET", path)) for path in ("9/ask", "@a.example/ask", ".example/ask")]
    assert [each.body.split()[0] for each in asked] == [b"/9/ask", b"/@a.example/ask", b"/.example/ask"]


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


async def test_no_netrc_takes_the_place_of_the_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A login that the machine has for a host is nobody's here, neither for the API nor for a file."""
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password mine\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    async with served(echo) as url, pool_for(url) as pool:
        assert (await pool.send("one", ASK)).body.endswith(b" Bearer ***")
        assert pool.files is not None
        async with pool.files.get(url, "one") as response:
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


NOWHERE = (
    "https://no-such-host.invalid",
    "https://a..b",
    f"https://{'a' * 70}.com",
)


async def test_no_connection_counts_as_not_sent() -> None:
    """Where nobody listens, or no name can be looked up, no byte has left: such a create is safe to send again."""
    async with served(echo) as closed:
        pass
    for url in (closed, *NOWHERE):
        error = await failure(url)
        assert (getattr(error, "sent", None), error.message[:13]) == (False, "No connection"), url


async def test_tls_is_verified_and_a_custom_authority_is_trusted() -> None:
    """A certificate that nobody vouches for is refused before a byte leaves; users can bring their own authority."""
    server, client = of_loopback()
    async with served(echo, tls=server) as url:
        error = await failure(url)
        assert (getattr(error, "sent", None), "certificate" in error.message) == (False, True)
        assert (await answer(url, ssl=client)).status == 200


class Gate:
    """The last question before a create leaves: what it says, and how often it was asked."""

    def __init__(self) -> None:
        self.opens, self.asked = True, 0

    def __call__(self) -> bool:
        self.asked += 1
        return self.opens


async def test_a_create_is_asked_once_when_its_connection_is_in_hand() -> None:
    """Not while it is opened, however long that takes: a create that was called off meanwhile sends no byte."""
    (tls, trusting), gate, shakes_hands = of_loopback(), Gate(), asyncio.Event()
    async with (
        lines(tls=tls, after=shakes_hands) as server,
        pool_for(server.url, ssl=trusting, connect_timeout=0.3) as pool,
    ):
        with pytest.raises(TransportError, match="No connection") as caught:
            await pool.send("one", CREATE, leaves=gate)
        assert (caught.value.sent, gate.asked) == (False, 0)
        create = asyncio.ensure_future(pool.send("one", CREATE, leaves=gate))
        for _ in range(99):
            await asyncio.sleep(0)
        gate.opens = False
        shakes_hands.set()
        with pytest.raises(TransportError) as caught:
            await create
        assert (caught.value.sent, gate.asked, server.requests) == (False, 1, []), caught.value
        gate.opens = True
        assert (await pool.send("one", CREATE, leaves=gate)).body == b"2"
        assert (gate.asked, server.requests) == (2, [(2, "POST")])


UNASKED = {"its end": b"", "an answer to nothing": b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"}


@pytest.mark.parametrize("is_secure", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("what", UNASKED)
@pytest.mark.parametrize("is_read", [True, False], ids=["read", "unread"])
async def test_no_create_goes_where_an_end_may_wait(what: str, is_secure: bool, is_read: bool) -> None:
    """A connection that says something unasked, read or not, takes no create: that goes out once, on another."""
    tls, trusting = of_loopback()
    async with lines(tls=tls if is_secure else None) as server, pool_for(server.url, ssl=trusting) as pool:
        gate = Gate()
        await pool.send("one", ASK)
        server.speak(1, UNASKED[what])
        for _ in range(9 * is_read):
            await asyncio.sleep(0)
        assert (await pool.send("one", CREATE, leaves=gate)).body == b"2"
        assert (gate.asked, server.requests) == (1, [(1, "GET"), (2, "POST")])


@pytest.mark.parametrize(
    ("head", "idle", "used"),
    [
        ("", 0, "11"),
        ("Keep-Alive: timeout=5, max=100\r\n", 0, "11"),
        ("Keep-Alive: max=100,Timeout = 1\r\n", 0, "21"),
        pytest.param("Keep-Alive: timeout=60\r\n", 4.2, "21", marks=pytest.mark.slow),
    ],
)
async def test_a_create_takes_no_connection_that_was_idle_for_long(head: str, idle: float, used: str) -> None:
    """Not one that the server may be about to close by its own word, or after 4 s; a question may, if it was last."""
    async with lines(head=head) as server, pool_for(server.url) as pool:
        await pool.send("one", ASK)
        await asyncio.sleep(idle)
        bodies = [(await pool.send("one", CREATE, leaves=Gate())).body, (await pool.send("one", ASK)).body]
        assert bodies == [used[:1].encode()] * 2
        # An old one is not closed for it, and serves the questions of others.
        both = await asyncio.gather(*(pool.send("one", ASK) for _ in "ab"))
        assert {response.body for response in both} == {b"1", b"2"}
        assert len(server.opened) == 2


async def test_the_connection_used_last_is_taken_first() -> None:
    """The others grow old, and are closed in the end."""
    async with lines() as server, pool_for(server.url) as pool:
        await asyncio.gather(*(pool.send("one", ASK) for _ in "abc"))
        last, *_ = [(await pool.send("one", ASK)).body for _ in "abc"]
        assert [number for number, _ in server.requests[3:]] == [int(last)] * 3 == [3] * 3


LONG = "x" * (64 << 10)


async def test_nothing_is_sent_again_beside_the_plan() -> None:
    """A question, or a file's, that a kept connection ends with is lost, once: whoever counts the calls repeats it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for is_answered in (True, False):
            asked.append((await reader.readuntil(b"\r\n\r\n")).split()[1])
            if is_answered:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    asked: list[bytes] = []
    async with await asyncio.start_server(serve, "127.0.0.1") as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with pool_for(url) as pool:
            assert pool.files is not None
            await pool.send("one", ASK)
            with pytest.raises(TransportError, match="disconnected"):
                await pool.send("one", ASK)
            async with pool.files.get(url, "one"):
                pass
            with pytest.raises(TransportError, match="disconnected"):
                async with pool.files.get(url, "one"):
                    pass
    assert len(asked) == 4


async def test_long_and_odd_heads_are_read() -> None:
    """Policies of 64 KiB, hundreds of lines, bytes that are no UTF-8: an answer is an answer, its texts are whole."""
    head = f"Content-Security-Policy: {LONG}\r\n" + "".join(f"X-{n}: {n}\r\n" for n in range(300))
    async with lines(head=head) as server, pool_for(server.url) as pool:
        assert (await pool.send("one", ASK)).body == b"1"
        assert pool.files is not None
        async with pool.files.get(server.url, "one") as response:
            assert await response.read() == b"2"

    async with lines(status="302 Gefunden", head="Location: /b\xfccher\r\n") as server:
        assert (await answer(server.url)).location == "/b\N{REPLACEMENT CHARACTER}cher"


async def test_a_cancelled_request_leaves_nothing_open() -> None:
    """What was not closed would warn when it is collected, and the test would fail."""
    async with served(hang) as url:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(answer(url, CREATE), 0.1)
    gc.collect()


async def test_leaving_that_is_cancelled_leaves_nothing_open() -> None:
    """Whatever it closes first: the rest is closed, too, and would warn like the above."""
    leaving = asyncio.current_task()
    assert leaving is not None
    async with served(echo) as url:
        with pytest.raises(asyncio.CancelledError):
            async with pool_for(url) as pool:
                await pool.send("one", ASK)
                leaving.cancel()
        leaving.uncancel()
    gc.collect()


async def test_no_answer_brings_a_key_back() -> None:
    """Neither where it redirects to nor its body, nor that of another account; what else its head tells is read."""

    def tell(request: web.Request) -> web.Response:
        escaped = "".join(f"\\u{ord(each):04x}" for each in KEY)
        head = {"Location": f"https://x.example/?key=Bearer%20{KEY}", "Retry-After": "2.5", "X-Request-Id": "r-1"}
        return web.Response(status=307, text=f'{{"msg": "{escaped}", "other": "another-key"}}', headers=head)

    endpoints = {"one": Endpoint("", KEY), "two": Endpoint("", "another-key")}
    async with served(tell) as url:
        at_url = {name: Endpoint(url, each.api_key) for name, each in endpoints.items()}
        async with SessionPool(at_url, SessionSettings()) as pool:
            told = await pool.send("one", ASK)
    assert (told.body, told.location) == (b'{"msg": "***", "other": "***"}', "https://x.example/?key=Bearer%20***")
    assert (told.retry_after, told.headers["x-request-id"]) == (2.5, "r-1")


async def test_the_key_is_in_no_repr_and_no_error() -> None:
    """An endpoint shows its address; an answer that is no HTTP makes an error whose whole chain shows no key."""
    assert KEY not in repr(Endpoint("https://api.example.com", KEY))

    async def garble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        # What is shown of it ends within the key.
        writer.write(b"HTTP/1.1 %s%s\r\nbad\x00header\r\n\r\n" % (436 * b"x", KEY.encode()))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(garble, "127.0.0.1") as server:
        chain: BaseException | None = await failure(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    while chain is not None:
        assert KEY[:8] not in f"{chain!r} {chain} {vars(chain)!r}"
        chain = chain.__cause__ or chain.__context__
