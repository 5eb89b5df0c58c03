"""Through which proxy an address is reached: by the environment as other programs read it, or by what was given."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest
from aiohttp import web
from inner import Endpoint, HttpRequest, SessionPool, SessionSettings
from servers import of_loopback, relayed, served
from yarl import URL

from imagen_async import Client, ConfigurationError
from imagen_async._transport.proxies import environment_proxies, given_proxies, without_login
from imagen_async.errors import DownloadFailed, ImagenError, TransportError

KEY, HOST = "sk-very-secret-key", "api.example.invalid"
P, Q = "http://p:1", "http://q:2"

NAMED: list[tuple[dict[str, str], str, str | None]] = [
    ({"HTTPS_PROXY": P}, "https://h", P),
    ({"HTTPS_PROXY": P}, "http://h", None),
    ({"HTTPS_PROXY": P, "https_proxy": Q}, "https://h", Q),
    ({"HTTPS_PROXY": P, "https_proxy": ""}, "https://h", None),
    ({"HTTPS_PROXY": P, "ALL_PROXY": Q}, "https://h", P),
    ({"ALL_PROXY": Q}, "http://h", Q),
    ({"ALL_PROXY": Q, "all_proxy": P}, "https://h", P),
    ({"https_proxy": "", "all_proxy": P}, "https://h", P),
    ({"HTTP_PROXY": P}, "http://h", P),
    ({"HTTP_PROXY": P, "REQUEST_METHOD": "GET"}, "http://h", None),
    ({"http_proxy": P, "REQUEST_METHOD": "GET"}, "http://h", P),
    ({"HTTP_PROXY": P, "ALL_PROXY": Q, "REQUEST_METHOD": "GET"}, "http://h", Q),
    ({"HTTPS_PROXY": "p:1"}, "https://h", P),
    ({"HTTPS_PROXY": " HTTP://u:x@p:1/ "}, "https://h", P),
    ({"HTTPS_PROXY": "https://p"}, "https://h", "https://p"),
    ({"HTTPS_PROXY": "http://[::1]:3128"}, "https://h", "http://[::1]:3128"),
    ({"HTTPS_PROXY": P, "ALL_PROXY": "socks://p:1"}, "https://h", P),
]


@pytest.mark.parametrize(("environment", "address", "proxy"), NAMED)
def test_the_environment_is_read_as_other_programs_read_it(
    environment: dict[str, str], address: str, proxy: str | None
) -> None:
    """Lower case wins, ALL_PROXY stands behind, and what a web server hands on as HTTP_PROXY is no proxy."""
    found = environment_proxies(environment).of(URL(address))
    assert (found and found.url) == (proxy and URL(proxy))


LOOPBACK = [
    "localhost",
    "LOCALHOST.",
    "api.localhost",
    "127.0.0.1",
    "127.9.9.9",
    "127.1",
    "[::1]",
    "[::ffff:127.0.0.1]",
]
EXEMPT = {
    "*": ["h", "10.0.0.1"],
    "example.com": ["example.com", "a.example.com", "EXAMPLE.com."],
    ".example.com": ["example.com", "a.example.com"],
    "*.example.com": ["a.b.example.com"],
    "other, example.com": ["example.com"],
    "other example.com": ["example.com"],
    "Example.COM:443": ["example.com"],
    "10.0.0.1": ["10.0.0.1"],
    "10.0.0.0/8,192.168.0.0/16": ["10.255.0.1", "192.168.7.7"],
    "fd00::/8": ["[fd00::1]"],
    "::2": ["[::2]", "[0:0::2]"],
    "[::2]:443": ["[::2]"],
    "b\u00fccher.example": ["b\u00fccher.example", "xn--bcher-kva.example"],
}
NOT_EXEMPT = {
    "": ["h"],
    ",": ["h"],
    "example.com": ["badexample.com", "example.com.evil", "com"],
    "example.com:80": ["example.com"],
    "10.0.0.0/8": ["11.0.0.1", "ten"],
    "10.0.0.0/99, /, :": ["10.0.0.1"],
    "10.0.0.1": ["110.0.0.1", "10.0.0.10"],
}


def test_no_proxy_is_read_as_curl_reads_it() -> None:
    """Domains with and without a dot, a port, addresses, networks; and nothing on loopback has one, given or not."""
    for entries, hosts in (EXEMPT | {"": LOOPBACK}).items():
        proxies = environment_proxies({"ALL_PROXY": P, "NO_PROXY": entries})
        assert [host for host in hosts if proxies.of(URL(f"https://{host}/x"))] == [], entries
    for entries, hosts in NOT_EXEMPT.items():
        proxies = environment_proxies({"ALL_PROXY": P, "no_proxy": entries, "NO_PROXY": "*"})
        assert [host for host in hosts if not proxies.of(URL(f"https://{host}/x"))] == [], entries
    assert [host for host in [*LOOPBACK, "h"] if given_proxies(P).of(URL(f"http://{host}"))] == ["h"]


UNUSABLE = {
    "": "''",
    "socks5://me:secret@p:1": "'socks5://***@p:1' is no proxy that can be used: SOCKS is not supported",
    "SOCKS5H://p:1": "SOCKS",
    "ftp://p:1": "begins with http://",
    "http://": "no host",
    "http://me:secret@": "no host",
    "http://me:se/c#r?et@p:x": "'http://***@p:x'",
    **dict.fromkeys(("http://p:99999", "p:-1", "p:0", "http://[::1", f"http://{'p' * 70}", "http:/p:1"), "port"),
    **dict.fromkeys(("http://p p", "p\\n"), "port"),
    **dict.fromkeys(("http://p\0:1", "http://a..b", "http://m\ud800:secret@p:1", "http://\u2024\u2024"), "can be none"),
}


@pytest.mark.parametrize("url", UNUSABLE, ids=range(len(UNUSABLE)))
def test_a_proxy_that_cannot_be_used_is_named_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    """Where it came from, and what it is but for its login; not where it is not needed, as for the sandbox."""
    with pytest.raises(ConfigurationError) as given:
        Client("kie", api_key="k", proxy=url)
    monkeypatch.setattr("imagen_async._opening.os.environ", {"HTTPS_PROXY": url or "http://"})
    Client("sandbox", trust_env=True), Client("kie", api_key="k")
    with pytest.raises(ConfigurationError) as named:
        Client("kie", api_key="k", trust_env=True)
    for error, name in ((given.value, "--proxy"), (named.value, "HTTPS_PROXY")):
        assert (name in error.message, "secret" in repr(error)) == (True, False)
    assert UNUSABLE[url] in given.value.message


def test_what_is_no_text_is_no_proxy() -> None:
    """Nothing but a ConfigurationError comes of it."""
    proxies: list[Any] = [5, b"http://p:1", ["p"], object()]
    for proxy in proxies:
        with pytest.raises(ConfigurationError, match="is an address, not"):
            Client("kie", api_key="k", proxy=proxy)


def test_a_login_is_shown_nowhere() -> None:
    """Whatever is said of a proxy, and however it is written, its login is cut."""
    proxies = given_proxies("http://me:s%40fe@p:1")
    assert "s%40fe" not in repr(proxies)
    shown = {"http://me:s@f/e@p:1": "http://***@p:1", "me:safe@p:1": "***@p:1", "--proxy=u@p": "--proxy=***@p", P: P}
    assert {url: without_login(url) for url in shown} == shown


@pytest.mark.parametrize("proxy_tls", [False, True], ids=["http proxy", "https proxy"])
@pytest.mark.parametrize("is_secure", [False, True], ids=["http", "https"])
async def test_key_and_login_each_go_to_their_own(*, is_secure: bool, proxy_tls: bool) -> None:
    """A tunnel's proxy sees the login and no key, the API sees the key and no login; files go through it without."""
    server, trusting = of_loopback(HOST)
    seen: list[tuple[str | None, str | None]] = []

    def answer(request: web.Request) -> web.Response:
        if request.path == "/away":
            raise web.HTTPFound(url)
        seen.append((request.headers.get("Authorization"), request.headers.get("Proxy-Authorization")))
        return web.Response(text="here")

    login = f"Basic {b64encode(b'me:s@fe').decode()}"
    async with (
        served(answer, tls=server if is_secure else None) as url,
        relayed(url, tls=server if proxy_tls else None) as relay,
    ):
        home = f"http{'s' if is_secure else ''}://{HOST}"
        proxies = given_proxies(f"{relay.scheme}://me:s%40fe@{relay.url}")
        settings = SessionSettings(proxies=proxies, ssl=trusting)
        async with SessionPool({"one": Endpoint(home, KEY)}, settings) as pool:
            for request in (HttpRequest("GET", "/ask"), HttpRequest("POST", "/make", b"{}")):
                assert (await pool.send("one", request)).body == b"here"
            assert pool.files is not None
            async with pool.files.get(f"{home}/x.png", "one") as response:
                assert await response.text() == "here"
            for inside in (f"{home}/away", "http://10.0.0.1/", "http://0x7f.1/", "http://[fd00::1]/", f"{url}/"):
                with pytest.raises(DownloadFailed, match="private_files"):
                    async with pool.files.get(inside, "one"):
                        pass
            for odd in ("http://127%2e0.0.1/", "http://%31%32%37.0.0.1/", "http://127.0.0.1../"):
                with pytest.raises(DownloadFailed, match="no address"):
                    async with pool.files.get(odd, "one"):
                        pass
    key, shown = f"Bearer {KEY}", None if is_secure else login
    assert seen == [(key, shown), (key, shown), (None, shown)]
    assert [(login in head, KEY in head) for head in relay.heads if "x.png" not in head][:1] == [(True, not is_secure)]


async def test_a_proxy_that_is_not_there_is_named() -> None:
    """Its address alone would look like one that nobody has asked for."""
    settings = SessionSettings(proxies=given_proxies("http://127.0.0.1:1"))
    async with SessionPool({"one": Endpoint(f"https://{HOST}", KEY)}, settings) as pool:
        with pytest.raises(TransportError, match=r"the proxy cannot be reached: .*127\.0\.0\.1:1"):
            await pool.send("one", HttpRequest("GET", "/ask"))


@pytest.mark.parametrize("status", ["407 No secret-word", "502 Bad Gateway", "503 Busy", "200"])
async def test_a_proxy_that_opens_no_tunnel_has_sent_nothing(status: str) -> None:
    """Such a create is safe to send again; of a request without a tunnel, a proxy that wants a login answers itself."""
    leaves = lambda: True  # noqa: E731
    create = HttpRequest("POST", "/make", b"{}")
    async with relayed("http://127.0.0.1:1", status=status) as relay:
        settings = SessionSettings(proxies=given_proxies(f"http://me:secret%2Dword@{relay.url}"))
        pool = SessionPool({"one": Endpoint(f"https://{HOST}", KEY), "two": Endpoint(f"http://{HOST}", KEY)}, settings)
        async with pool:
            with pytest.raises(TransportError) as caught:
                await pool.send("one", create, leaves=leaves)
            assert (caught.value.sent, "secret" in f"{caught.value!r}") == (False, False), caught.value
            with pytest.raises(TransportError) as unfetched:
                assert pool.files is not None
                async with pool.files.get(f"https://{HOST}/x.png"):
                    pass
            assert "secret" not in f"{unfetched.value!r}"
            if status.startswith("407"):
                assert (await pool.send("two", create, leaves=leaves)).status == 407
                with pytest.raises(ImagenError, match="the proxy answered HTTP 407"):
                    await pool.send("two", HttpRequest("GET", "/ask"))
