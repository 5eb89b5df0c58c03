"""Who may reach the service: asked over real sockets, as programs, browsers and pages of other people's ask."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiohttp import web
from inner import Caller, Callers, Refusal, WatchedCallers, new_caller
from multidict import CIMultiDict
from servers import serving

from imagen_async.errors import ConfigurationError
from imagen_async.service._guard import CALLER, OWN_HEADERS, Asked, Guard, check_listening, guard

EVIL = "evil.example"
CREATE = "/v1/images/generations"
Headers = Sequence[tuple[str, str]]


def digest(key: str) -> bytes:
    """As the callers know a key."""
    return hashlib.sha256(key.encode()).digest()


SHOP = (digest("shop-key"), Caller("shop"))
NIGHT = (digest("night-key"), Caller("night"))
ADMIN = (digest("root"), Caller("admin", is_admin=True))
CALLERS = Callers([ADMIN, SHOP, NIGHT])
WITHOUT_ADMIN = Callers([SHOP])


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    body: Any

    @property
    def word(self) -> str:
        """Who was let in, or why nobody was."""
        return str(self.body["error"]["code"] if self.status >= 400 else self.body["caller"])


class Door:
    """A guarded application on loopback, or at a socket in the file system, and what was let in."""

    def __init__(self, port: int, path: str | None) -> None:
        self.port, self._path = port, path
        self.passed: list[str] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Let somebody in."""
        self.passed.append(request.path)
        return web.json_response({"caller": request[CALLER].name})

    async def ask(self, method: str, path: str, headers: Headers = (), body: bytes = b"", host: str = "") -> Answer:
        """Send exactly these headers; without a `host` the server's own address."""
        connecting = (
            asyncio.open_connection("127.0.0.1", self.port)
            if self._path is None
            else asyncio.open_unix_connection(self._path)
        )
        reader, writer = await connecting
        lines = [f"{method} {path} HTTP/1.1", "Connection: close"]
        lines.append(f"Host: {host or f'127.0.0.1:{self.port}'}")
        lines += [f"Content-Length: {len(body)}"] if method in ("POST", "DELETE") else []
        lines += [f"{name}: {value}" for name, value in headers]
        writer.write("\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape") + body)
        head, _, content = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        first, *rest = head.decode().split("\r\n")
        found = {name.lower(): value for name, _, value in (line.partition(": ") for line in rest)}
        assert [name for name in found if name.startswith("access-control-")] == []
        return Answer(int(first.split()[1]), found, json.loads(content) if content.startswith(b"{") else content)


def refused(refusal: Refusal) -> web.Response:
    """As a service answers it."""
    headers = refusal.all_headers
    return web.Response(status=refusal.status, body=refusal.body, headers=headers, content_type="application/json")


@asynccontextmanager
async def door(
    callers: Callers | WatchedCallers | None = None,
    public_url: str | None = None,
    prefix: str = "",
    path: str | None = None,
) -> AsyncIterator[Door]:
    """Serve a guarded application while the block runs."""
    with socket.socket(socket.AF_UNIX if path else socket.AF_INET) as found:
        found.bind(path or ("127.0.0.1", 0))
        yielded = Door(0 if path else found.getsockname()[1], path)
        clock = iter(range(0, 1000, 2))

        def present() -> Callers:
            assert callers is not None
            return callers if isinstance(callers, Callers) else callers.present(float(next(clock)))

        application = web.Application(middlewares=[guard(None if callers is None else present, public_url, refused)])
        for method, where in (
            *(("GET", each) for each in ("/", "/events", "/metrics", "/healthz", "/files/{name}", "/v1/models")),
            *(("POST", CREATE), ("POST", "/v1/images/edits"), ("DELETE", f"{CREATE}/{{id}}")),
        ):
            application.router.add_route(method, where, yielded.answer)
        root = application
        if prefix:
            root = web.Application()
            root.add_subapp("/other", web.Application())
            root.add_subapp(prefix, application)
        async with serving(root, found):
            yield yielded


JSON = ("Content-Type", "application/json")
FORM = ("Content-Type", "multipart/form-data; boundary=x")
FOREIGN: dict[str, tuple[Headers, str, int, str]] = {
    "a form": ([("Content-Type", "application/x-www-form-urlencoded")], "", 415, "unsupported_media_type"),
    "a simple fetch": ([("Content-Type", "text/plain")], "", 415, "unsupported_media_type"),
    "a fetch that says nothing": ([], "", 415, "unsupported_media_type"),
    "JSON in disguise": ([("Content-Type", "text/plain; application/json")], "", 415, "unsupported_media_type"),
    "two kinds in one": ([("Content-Type", "application/json, text/plain")], "", 415, "unsupported_media_type"),
    "what a proxy passes on": ([JSON, ("X-Forwarded-For", "203.0.113.9")], "", 403, "callers_needed"),
    "a form with files": ([FORM], "", 403, "own_header_needed"),
    "a form with a remembered login": ([FORM, ("Authorization", "Basic cm9vdDpyb290")], "", 403, "own_header_needed"),
    "a sandboxed frame": ([JSON, ("Origin", "null")], "", 403, "foreign_origin"),
    "another site": ([JSON, ("Origin", f"https://{EVIL}")], "", 403, "foreign_origin"),
    "another program's page": ([JSON, ("Origin", "http://127.0.0.1:1")], "", 403, "foreign_origin"),
    "no origin at all": ([JSON, ("Origin", "")], "", 403, "foreign_origin"),
    "an extension": ([JSON, ("Origin", "chrome-extension://127.0.0.1")], "", 403, "foreign_origin"),
    "half an origin": ([JSON, ("Origin", "http://127.0.0.1:x")], "", 403, "foreign_origin"),
    "a login in the origin": ([JSON, ("Origin", f"http://127.0.0.1@{EVIL}")], "", 403, "foreign_origin"),
    "a browser that tells": ([JSON, ("Sec-Fetch-Site", "cross-site")], "", 403, "foreign_origin"),
    "a neighbour": ([JSON, ("Sec-Fetch-Site", "same-site")], "", 403, "foreign_origin"),
    "a rebound name": ([JSON], EVIL, 403, "foreign_host"),
    "a rebound name of our own": ([JSON, ("Origin", f"http://{EVIL}:80")], f"{EVIL}:80", 403, "foreign_host"),
    "an address of all": ([JSON], "0.0.0.0:8790", 403, "foreign_host"),
    "a name that begins alike": ([JSON], f"localhost.{EVIL}", 403, "foreign_host"),
    "a login in the host": ([JSON], f"localhost@{EVIL}", 403, "foreign_host"),
    "a host with a tail": ([JSON], f"127.0.0.1 {EVIL}", 403, "foreign_host"),
}


@pytest.mark.parametrize("case", FOREIGN)
async def test_a_page_of_somebody_else_spends_nothing(case: str) -> None:
    """Without callers nothing passes that a page in the user's browser could have sent: no create, and no reading."""
    headers, host, status, code = FOREIGN[case]
    async with door() as ours:
        answer = await ours.ask("POST", CREATE, headers, b'{"prompt": "a fox"}', host)
        assert (answer.status, answer.word, answer.headers["x-should-retry"]) == (status, code, "false")
        for path in ("/v1/models", "/", "/metrics", "/events") if status == 403 and FORM not in headers else ():
            assert (await ours.ask("GET", path, headers, host=host)).word == code
        assert ours.passed == []


@pytest.mark.parametrize("callers", [None, CALLERS], ids=["without callers", "with callers"])
async def test_nobody_is_told_that_it_may_come(callers: Callers | None) -> None:
    """A browser that asks beforehand is refused, wherever it asks and whatever it has."""
    headers = [("Origin", f"https://{EVIL}"), ("Access-Control-Request-Method", "POST"), ("api-key", "shop-key")]
    async with door(callers) as ours:
        for path in (CREATE, "/", "/healthz", "/files/x", "/nothing", "*"):
            answer = await ours.ask("OPTIONS", path, headers)
            assert (answer.status, answer.word) == (403, "foreign_origin")


OWN: dict[str, tuple[str, Headers, str]] = {
    "a program": ("POST", [JSON], ""),
    "a program that says more": ("POST", [("content-type", "Application/JSON; charset=utf-8")], ""),
    "another port": ("POST", [JSON], "localhost:1"),
    "a name with a dot": ("POST", [JSON], "LOCALHOST."),
    "IPv6": ("POST", [JSON], "[::1]:8790"),
    "a mapped address": ("POST", [JSON], "[::ffff:127.0.0.1]"),
    "our own page": (
        "POST",
        [JSON, ("Origin", "http://localhost:9"), ("Sec-Fetch-Site", "same-origin")],
        "localhost:9",
    ),
    "our own page with TLS": ("POST", [JSON, ("Origin", "https://localhost")], "localhost:443"),
    "a login that is not asked for": ("POST", [FORM, ("Authorization", "bearer sk-x")], ""),
    "a line that is typed": ("GET", [("Sec-Fetch-Site", "none")], ""),
    "a DELETE without a body": ("DELETE", [], ""),
    "the public page": ("POST", [JSON, ("Origin", "https://Pictures.localhost")], ""),
    **{f"a form with {name}": ("POST", [FORM, (name, "x")], "") for name in OWN_HEADERS},
}
PATHS = {"GET": "/v1/models", "POST": CREATE, "DELETE": f"{CREATE}/1"}


@pytest.mark.parametrize("case", OWN)
async def test_programs_of_this_machine_need_no_key(case: str) -> None:
    """Without callers, programs pass that send JSON, or a form with a header of their own, and so does our own page."""
    method, headers, host = OWN[case]
    async with door(public_url="https://pictures.localhost:443/imagen") as ours:
        answer = await ours.ask(method, PATHS[method], headers, host=host)
        assert (answer.status, answer.word) == (200, "")


async def test_a_delete_with_a_body_is_looked_at() -> None:
    """What has a body says what it is."""
    async with door() as ours:
        assert (await ours.ask("DELETE", PATHS["DELETE"], body=b"x")).status == 415
        assert (await ours.ask("DELETE", PATHS["DELETE"], [JSON], b"{}")).status == 200


def bearer(key: str) -> Headers:
    """As OpenAI's clients send a key."""
    return [("Authorization", f"Bearer {key}")]


def basic(key: str, user: str = "me") -> Headers:
    """As a browser sends a password."""
    return [("Authorization", f"Basic {base64.b64encode(f'{user}:{key}'.encode()).decode()}")]


KEYS: dict[str, tuple[Headers, str]] = {
    "a caller's": (bearer("shop-key"), "shop"),
    "another's": (bearer("night-key"), "night"),
    "the admin's": (bearer("root"), "admin"),
    "in small letters": ([("authorization", "bearer  shop-key ")], "shop"),
    "as for Azure": ([("api-key", "shop-key")], "shop"),
    "behind a proxy's login": ([*basic("x"), ("api-key", "shop-key")], "shop"),
    "from a foreign page": ([*bearer("shop-key"), ("Origin", f"https://{EVIL}")], "shop"),
    "none": ([], "missing_api_key"),
    "a cookie": ([("Cookie", "key=shop-key; Authorization=Bearer shop-key")], "missing_api_key"),
    "by Basic": (basic("shop-key"), "missing_api_key"),
    "a wrong one": (bearer("sk-wrong"), "invalid_api_key"),
    "an empty one": ([("Authorization", "Bearer ")], "invalid_api_key"),
    "its hash": (bearer(digest("shop-key").hex()), "invalid_api_key"),
    "no letters": (bearer("sh\u00f6p\udcff"), "invalid_api_key"),
    "two": ([*bearer("shop-key"), *bearer("night-key")], "invalid_api_key"),
    "two for Azure": ([("api-key", "shop-key"), ("api-key", "x")], "invalid_api_key"),
    "a very long one": (bearer("k" * 8000), "invalid_api_key"),
}


@pytest.mark.parametrize("case", KEYS)
async def test_a_key_tells_who_asks(case: str) -> None:
    """With callers each is known by its key alone, wherever it asks from; without a good one nobody passes."""
    headers, word = KEYS[case]
    async with door(CALLERS) as ours:
        for method, path in (("POST", CREATE), ("GET", "/v1/models"), ("GET", "/nothing")):
            answer = await ours.ask(method, path, headers, host=EVIL)
            if "key" not in word:
                assert answer.status == (404 if path == "/nothing" else 200)
                assert path == "/nothing" or answer.word == word
                continue
            assert (answer.status, answer.word) == (401, word)
            assert (answer.headers["www-authenticate"], answer.headers["x-should-retry"]) == ("Bearer", "false")
            assert "sk-wrong" not in str(answer.body)


@pytest.mark.parametrize("callers", [None, CALLERS], ids=["without callers", "with callers"])
async def test_pictures_and_health_need_nothing(callers: Callers | None) -> None:
    """A page of anybody's may show a picture whose address it has; what looks after the service asks how it is."""
    async with door(callers) as ours:
        for path in ("/files/x.png", "/healthz"):
            headers = [("Sec-Fetch-Site", "cross-site"), ("Origin", "null"), *bearer("wrong")]
            assert (await ours.ask("GET", path, headers, host=EVIL)).status == 200
        assert (await ours.ask("POST", "/files/x.png", [JSON], host=EVIL)).status in (401, 403)


VISITORS: dict[str, tuple[Headers, int, str]] = {
    "nobody": ([], 401, "admin_needed"),
    "the admin in a browser": (basic("root"), 200, "admin"),
    "the admin without a name": (basic("root", ""), 200, "admin"),
    "our own page": ([*basic("root"), ("Sec-Fetch-Site", "same-origin")], 200, "admin"),
    "a caller in a browser": (basic("shop-key"), 401, "admin_needed"),
    "a key as the name": (basic("", "root"), 401, "admin_needed"),
    "no base64": ([("Authorization", "Basic !")], 401, "admin_needed"),
    "no text": ([("Authorization", f"Basic {base64.b64encode(bytes([255, 58, 255])).decode()}")], 401, "admin_needed"),
    "another scheme": ([("Authorization", "Digest root")], 401, "admin_needed"),
    "a foreign page": ([*basic("root"), ("Origin", f"https://{EVIL}")], 403, "foreign_origin"),
    "a frame of a foreign page": ([*basic("root"), ("Sec-Fetch-Site", "cross-site")], 403, "foreign_origin"),
    "the admin's program": ([*bearer("root"), ("Origin", "null")], 200, "admin"),
    "a caller's program": (bearer("shop-key"), 403, "admin_needed"),
    "a wrong key": (bearer("wrong"), 401, "invalid_api_key"),
}


@pytest.mark.parametrize("case", VISITORS)
async def test_the_page_is_for_the_admin(case: str) -> None:
    """Where there is an admin, its key is needed, also on loopback; by Basic for our own page alone, never for /v1."""
    headers, status, word = VISITORS[case]
    async with door(CALLERS) as ours:
        for path in ("/", "/events", "/metrics", "/%6Detrics"):
            answer = await ours.ask("GET", path, headers)
            assert (answer.status, answer.word) == (status, word)
            asks = answer.headers.get("www-authenticate", "")
            assert asks.startswith("Basic") == (status == 401 and word == "admin_needed")
        if headers and "Basic" in headers[0][1]:
            assert (await ours.ask("GET", "/v1/models", headers)).word == "missing_api_key"


OPEN: dict[str, tuple[Callers | None, str | None, Headers, str, str]] = {
    "without callers": (None, None, [], "", ""),
    "without an admin": (WITHOUT_ADMIN, None, [], "", ""),
    "at a public address of this machine": (None, "http://localhost:5173", [], "localhost:5173", ""),
    "through a proxy": (WITHOUT_ADMIN, None, [("X-Forwarded-For", "10.0.0.1")], "", "admin_needed"),
    "through a proxy, without callers": (None, None, [("Via", "1.1 x")], "", "callers_needed"),
    "at a public address": (WITHOUT_ADMIN, "https://pictures.example", [], "", "admin_needed"),
    "by a rebound name": (WITHOUT_ADMIN, None, [], EVIL, "admin_needed"),
    "by a rebound name, without callers": (None, None, [], EVIL, "foreign_host"),
    "from a foreign page": (WITHOUT_ADMIN, None, [("Sec-Fetch-Site", "same-site")], "", "foreign_origin"),
    "by a caller": (WITHOUT_ADMIN, "https://pictures.example", bearer("shop-key"), "", "admin_needed"),
}


@pytest.mark.parametrize("case", OPEN)
async def test_the_page_is_open_to_who_sits_there(case: str) -> None:
    """Without an admin it is for this machine alone, as far as anybody can tell, and for no page of anybody else's."""
    callers, public_url, headers, host, word = OPEN[case]
    async with door(callers, public_url) as ours:
        answer = await ours.ask("GET", "/metrics", headers, host=host)
        assert (answer.status, answer.word) == (403 if word else 200, word)


async def test_a_path_is_what_it_is_routed_to() -> None:
    """However a path is spelt, what takes it has its own rule; what nothing takes needs a key."""
    async with door(CALLERS) as ours:
        for path in (
            "/files/../v1/models",
            "/files/%2e%2e/v1/models",
            "//metrics",
            "/metrics/",
            "/files%2Fx",
            "/healthz/",
        ):
            assert (await ours.ask("GET", path)).status == 401
        assert (await ours.ask("GET", "http://127.0.0.1/metrics", bearer("shop-key"))).status == 403
        assert ours.passed == []


async def test_it_may_be_mounted_in_another_application() -> None:
    """Its paths are its own, whatever stands before them."""
    async with door(CALLERS, prefix="/imagen") as ours:
        answers = [
            await ours.ask("GET", f"/imagen{path}") for path in ("/healthz", "/files/x", "/metrics", "/v1/models")
        ]
        assert [answer.status for answer in answers] == [200, 200, 401, 401]
        assert (await ours.ask("GET", "/imagen/", basic("root"))).word == "admin"


async def test_a_socket_in_the_file_system_is_of_this_machine(tmp_path: Path) -> None:
    """Without callers it is answered there, by the same rules."""
    async with door(path=str(tmp_path / "socket")) as ours:
        assert (await ours.ask("POST", CREATE, [JSON], host="localhost")).status == 200
        assert (await ours.ask("POST", CREATE, [JSON], host=EVIL)).word == "foreign_host"


async def test_a_key_counts_from_when_the_file_has_it(tmp_path: Path) -> None:
    """A caller that is added may ask at once; one that is taken out may not any more, though its file lies there."""
    path = tmp_path / "callers.toml"
    keys = [new_caller(path, "one").key]
    first = path.read_text()
    async with door(WatchedCallers(path, -10.0)) as ours:
        assert (await ours.ask("GET", "/v1/models", bearer(keys[0]))).word == "one"
        keys.append(new_caller(path, "two").key)
        assert (await ours.ask("GET", "/v1/models", bearer(keys[1]))).word == "two"
        path.write_text(path.read_text().removeprefix(first))
        assert [(await ours.ask("GET", "/v1/models", bearer(key))).status for key in keys] == [401, 200]


@pytest.mark.parametrize(
    ("peer", "server", "is_open"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("::1", "::ffff:127.0.0.1", True),
        ("10.0.0.2", "10.0.0.1", False),
        ("127.0.0.1", "10.0.0.1", False),
        ("10.0.0.2", "127.0.0.1", False),
        ("", "127.0.0.1", False),
        ("", "", False),
    ],
)
def test_who_comes_from_elsewhere_needs_a_key(peer: str, server: str, is_open: bool) -> None:
    """Whatever it says of itself: without callers only what came over loopback is answered."""
    headers = CIMultiDict([("Host", "localhost"), JSON])
    rules = Guard()
    judged = [rules.judge(Asked("POST", path, headers, peer, server), None) for path in (CREATE, "/")]
    words = [each.code if isinstance(each, Refusal) else each.name for each in judged]
    assert words == ([""] * 2 if is_open else ["callers_needed"] * 2)
    private = rules.judge(Asked("GET", "/", headers, peer, server), WITHOUT_ADMIN)
    assert isinstance(private, Caller) == is_open


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ([JSON], "foreign_host"),
        ([JSON, ("Host", "localhost"), ("Host", EVIL)], "foreign_host"),
        ([JSON, ("Host", "localhost"), ("Origin", "http://localhost"), ("Origin", "null")], "foreign_origin"),
        ([JSON, ("Host", "localhost"), ("Sec-Fetch-Site", "none"), ("Sec-Fetch-Site", "x")], "foreign_origin"),
        ([JSON, ("Host", "localhost"), ("Content-Type", "text/plain")], "unsupported_media_type"),
    ],
)
def test_of_several_headers_none_is_believed(headers: Headers, code: str) -> None:
    """No host, or several of what there is one of, which a server may let through that is less strict than ours."""
    judged = Guard().judge(Asked("POST", CREATE, CIMultiDict(headers), "127.0.0.1", "127.0.0.1"), None)
    assert isinstance(judged, Refusal)
    assert judged.code == code


LOOPBACK = (
    "127.0.0.1",
    "127.1",
    "localhost",
    "LocalHost.",
    "a.localhost",
    "::1",
    "[::1]",
    "::ffff:127.0.0.1",
    "127.255.0.1",
)
ELSEWHERE = (
    None,
    "",
    "0.0.0.0",
    "0",
    "::",
    "::ffff:0.0.0.0",
    "::ffff:10.0.0.1",
    "10.0.0.1",
    "example.com",
    "localhost.a",
)


def test_without_callers_the_service_listens_on_loopback_only() -> None:
    """By what a host is, not by what a name leads to, of which there may be several; with callers anywhere."""
    for mine in LOOPBACK:
        check_listening(mine, False)
    for host in (*ELSEWHERE, "my-machine", "ip6-localhost"):
        check_listening(host, True)
        with pytest.raises(ConfigurationError, match=r"--callers FILE, to which .*--new-caller NAME"):
            check_listening(host, False)


def test_a_public_url_is_an_address() -> None:
    """What can be none is told at the start, and so is one for others where nobody has a key."""
    for url in ("pictures.example", "ftp://pictures.example", "https://", "https://a@b", "*"):
        with pytest.raises(ConfigurationError, match="public_url"):
            guard(None, url, refused)
    with pytest.raises(ConfigurationError, match=r"others can spend credits.*--new-caller NAME"):
        guard(None, "https://pictures.example", refused)
    guard(lambda: CALLERS, "https://pictures.example", refused)


def test_a_refusal_is_openais_envelope() -> None:
    """Each status has OpenAI's word for its kind; half characters do not break it; only 429 and 503 invite a repeat."""
    kinds = {400: "invalid_request_error", 401: "authentication_error", 402: "insufficient_quota"}
    kinds |= {403: "permission_error", 404: "invalid_request_error", 424: "api_error", 429: "rate_limit_error"}
    for status, kind in kinds.items():
        refusal = Refusal(status, "some_code", "It is \ud800 so.\nReally", {"X": "3"}, "prompt", more={"task_id": "t"})
        error = json.loads(refusal.body)["error"]
        assert (error["type"], error["param"], error["code"], error["task_id"]) == (kind, "prompt", "some_code", "t")
        assert error["message"].startswith("It is ")
        repeat = {"Retry-After": "5"} if status == 429 else {"x-should-retry": "false"}
        assert refusal.all_headers == {"X": "3", **repeat}
    assert Refusal(503, "not_now", "x", again=0.2).all_headers == {"Retry-After": "1"}
