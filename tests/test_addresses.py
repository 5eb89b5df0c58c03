"""Where a provider's links may lead: to the Internet, and to a private network only where the account's own API is."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from clients import client_of
from inner import FileSession, SessionSettings
from servers import of_loopback, served

from imagen_async import Account, Client, Result
from imagen_async._addresses import is_address, is_inside, is_loopback, is_public, is_unencrypted, literal
from imagen_async.errors import DownloadFailed, TransportError
from imagen_async.sandbox import Sandbox

PUBLIC = (
    *("8.8.8.8", "172.32.0.1", "100.63.255.255", "198.18.0.1", "198.19.255.255", "28.0.0.1", "223.255.255.254"),
    *("2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1", "64:ff9b::c612:1"),
)
INSIDE = (
    *("127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1"),
    *("169.254.169.254", "100.64.0.1", "100.100.100.200", "192.0.0.192", "224.0.0.1", "240.0.0.1", "255.255.255.255"),
    *("::1", "::", "fe80::1%eth0", "fc00::1", "fd00::1", "ff02::1", "fec0::1", "::127.0.0.1", "4000::1", "2001:db8::1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::808:808"),
    *("2002:7f00:1::", "2002:c0a8:101::1", "2001:0:7f00:1::"),
)
ODD = ("127.1", "2130706433", "0x7f.1", "0x7f000001", "017700000001", "0177.0.0.1", "127.0.0.1.", "10.1", "0")


def leads_inside(host: str) -> bool:
    """True for a host that is written as an address of no public place."""
    address = literal(host)
    return address is not None and not is_public(address)


def test_an_address_is_of_the_internet_or_not() -> None:
    """By what is reached in the end, through a translator or not; what a local VPN answers for every host is too."""
    assert [address for address in PUBLIC if not is_public(address) or leads_inside(address)] == []
    assert [address for address in INSIDE if is_public(address) or not leads_inside(f"[{address}]")] == []


def test_an_address_is_one_however_it_is_spelt() -> None:
    """The C library reads forms that nobody writes; a name is none, whatever it may lead to."""
    assert [host for host in ODD if not leads_inside(host)] == []
    assert [
        host for host in ("localhost", "a.example", "", "1.2.3.example", "\N{KELVIN SIGN}") if leads_inside(host)
    ] == []
    assert [
        host
        for host in ("127.0.0.1", "127.3", "localhost.", "a.Localhost", "::1", "::ffff:127.0.0.1")
        if not is_loopback(host)
    ] == []
    assert [
        host for host in ("10.0.0.1", "localhost.example", "alocalhost", "0.0.0.0", "128.1") if is_loopback(host)
    ] == []
    assert (is_unencrypted("http://[::1]:1/x"), is_unencrypted("http://10.0.0.1")) == (False, True)


BAD = (
    *(
        "h",
        "http://",
        "http:///x",
        "ftp://h",
        "http://u@h",
        "http://h?x",
        "http://h#x",
        "http://h\\x",
        "https://ex ample",
    ),
    *("http://h:0", "http://h:99999", "http://h:x", "http://[::1", "http://[x]", "http://a..b", f"http://{'a' * 64}"),
    *(
        "http://\ud800",
        "http://h\0",
        "http://h\n",
        "http://h\t/",
        "http://127.1",
        "http://0x7f.1",
        "http://\u2024\u2024",
        "http://%31.example",
    ),
)


def test_what_can_be_no_address_is_found_before_anything_is_sent() -> None:
    """No host, port or character that no request can carry."""
    assert [url for url in BAD if is_address(url)] == []
    good = (
        "http://h",
        "https://a.b:1/c",
        "http://[::1]:8000",
        "https://b\u00fccher.example",
        "http://h.",
        "http://a_b",
    )
    assert [url for url in good if not is_address(url)] == []


@contextlib.contextmanager
def known(monkeypatch: pytest.MonkeyPatch, **hosts: list[str]) -> Iterator[None]:
    """Names that lead to these addresses, for whoever asks the system; other names are none."""

    def found(host: Any, port: Any, *_: Any, **__: Any) -> list[Any]:
        addresses = hosts.get(str(host).partition(".")[0], [])
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        six = {address: ":" in address for address in addresses}
        family = {True: socket.AF_INET6, False: socket.AF_INET}
        return [
            (family[six[a]], socket.SOCK_STREAM, 6, "", (a, port, 0, 0) if six[a] else (a, port)) for a in addresses
        ]

    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", found)
        yield


def told(request: web.Request) -> web.Response:
    """A file, or a redirect to where the query says."""
    where = request.query.get("to")
    return web.Response(text="a secret") if where is None else web.Response(status=302, headers={"Location": where})


async def body_of(session: FileSession, url: str, account: str = "one") -> str:
    """What is at a link, or what is said of it."""
    try:
        async with session.get(url, account) as response:
            return await response.text()
    except DownloadFailed as error:
        return "refused" if "Client(private_files=True)" in error.message else error.message


async def test_a_link_leads_inside_only_where_the_account_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what is connected to: a name's, a redirect's, the account's own; each account's files are its own."""
    server, trusting = of_loopback("home.example", "here.example")
    async with served(told, tls=server) as url:
        port = url.rpartition(":")[2]
        homes = {"one": "https://1.1.1.1", "near": f"https://127.0.0.1:{port}", "named": f"https://home.example:{port}"}
        homes["posing"] = f"https://posing.example:{port}"
        with known(monkeypatch, here=["127.0.0.1"], home=["127.0.0.1"], posing=["127.0.0.1"]):
            links = [url, f"https://here.example:{port}/x.png", f"https://0.0.0.0:{port}"]
            async with FileSession(SessionSettings(ssl=trusting), homes) as session:
                for account in ("near", "named"):
                    assert [await body_of(session, link, account) for link in links[:2]] == ["a secret"] * 2
                    assert await body_of(session, f"{links[0]}/?to={links[1]}", account) == "a secret"
                with pytest.raises(TransportError, match=r"posing.*certificate"):
                    await body_of(session, url, "posing")
                # Connections that were opened for those above serve no other.
                assert [await body_of(session, link) for link in links] == ["refused"] * 3
                assert [await body_of(session, link, "nobody") for link in links] == ["refused"] * 3
                told_of = await body_of(session, f"{url}/?to=ftp://h/x", "near")
                assert told_of == "'ftp://h/x' is no address that can be fetched."
            async with FileSession(SessionSettings(ssl=trusting, private_files=True), homes) as session:
                assert [await body_of(session, link) for link in links[:2]] == ["a secret"] * 2


async def test_only_addresses_of_the_internet_are_dialled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a name that leads to several, the others are left out; where none is left, nothing is connected to."""
    dialled: list[str] = []

    async def dial(_: Any, __: socket.socket, address: tuple[str, int]) -> None:
        dialled.append(address[0])
        raise ConnectionRefusedError

    monkeypatch.setattr("asyncio.selector_events.BaseSelectorEventLoop.sock_connect", dial)
    with known(monkeypatch, mixed=["127.0.0.1", "8.8.8.8", "::1", "198.18.0.7"], inside=["10.0.0.1", "fd00::1"]):
        async with FileSession(SessionSettings(), {"one": "https://1.1.1.1"}) as session:
            with pytest.raises(Exception, match="No connection"):
                await body_of(session, "http://mixed.example/")
            assert set(dialled) == {"8.8.8.8", "198.18.0.7"}
            dialled.clear()
            assert await body_of(session, "http://inside.example/") == "refused"
            assert dialled == []


async def test_a_client_tells_what_it_does_not_fetch(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """The sandbox's own pictures are saved, also once it is closed; with another account's name they are not."""
    async with client_of(imagen_sandbox) as client:
        result = await client.generate("a fox")
        assert await result.save(str(tmp_path / "open"))
    assert await result.save(str(tmp_path / "closed"))
    stranger = Client(Account("kie", "k", base_url="https://1.1.1.1"))
    foreign = Result("k", 1, result.request, "kie", "imagen4", urls=result.urls, _saver=stranger._save)
    with pytest.raises(DownloadFailed, match=r"127\.0\.0\.1\), where no API of its account is.*private_files"):
        await foreign.save(str(tmp_path / "far"))


def test_names_of_one_s_own_networks() -> None:
    """What has no dot, what ends as no name of the Internet does, and addresses that are none of it."""
    for host in ("serve", "a.local", "A.LOCAL.", "x.svc", "10.1.2.3", "::1", "fe80::1", "127.1", "169.254.1.1"):
        assert is_inside(host), host
    for host in ("example.com", "local.com", "8.8.8.8", "2606:4700::1111", "svc.example", "notlocal.internal.io"):
        assert not is_inside(host), host
