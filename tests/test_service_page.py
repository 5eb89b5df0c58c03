"""The service's page: what it says, that no text breaks out of its place, and how it keeps itself new in a browser."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import re
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import aiohttp
import anyio
import msgspec
import pytest
from aiohttp import web
from browsers import NASTY, chromium_of_the_machine, place_of_picture
from conftest import naming
from inner import AccountSeen, Figures, RateSeen, Seen, paint
from servers import free_socket, serving
from virtual_network import VIRTUAL_TIME

from imagen_async.service._live import BEAT, Live, Stream
from imagen_async.service._markup import page_of
from imagen_async.service._page import HEADERS, MOST_STREAMS, POLICY, Page, page_routes
from imagen_async.service._view import MOST_ROWS, View, view_of

if TYPE_CHECKING:
    from playwright.async_api import Browser
    from playwright.async_api import Page as Shown

on_virtual_time = pytest.mark.parametrize("anyio_backend", [VIRTUAL_TIME], ids=["virtual"])

AT = 1_800_000_000.0
FOLDER = files("imagen_async.service")
FOREIGN = (
    "https://elsewhere.example/x.png",
    "//elsewhere.example/x.png",
    "/\\elsewhere.example/x.png",
    "\\\\elsewhere.example",
    "javascript:alert(1)",
    "data:image/png;base64,AA==",
    "/files/a b.png",
    "/files/a\tb.png",
    "files/x.png",
    "",
)
"""Addresses that are not of the service's own pictures."""


def an_account(name: str = "kie", **fields: Any) -> AccountSeen:
    """An account that takes requests."""
    usual = {"state": "ready", "why": None, "until": None, "waiting": 0, "running": 7, "running_limit": 100}
    rates = {"submit": RateSeen(20, 10.0, 1.9), "status": RateSeen(10, 1.0)}
    return AccountSeen(name, **{**usual, **rates, **fields})


class World:
    """What a page looks at: figures to be changed, accounts, and how often somebody has looked."""

    def __init__(self, *accounts: AccountSeen) -> None:
        self.figures = Figures(AT)
        self.accounts = accounts or (an_account(),)
        self.at = AT
        self.looks = 0

    def look(self) -> Seen:
        """What is seen now."""
        self.looks += 1
        return Seen(self.figures.snapshot(self.at), self.accounts)

    def make(self, caller: str = "ann", prompt: str = "a fox", url: str = "/files/1.png") -> None:
        """Let one picture be asked for and made."""
        self.figures.begin(caller, self.at)
        self.figures.sent(caller, "kie", self.at)
        self.figures.end(caller, "kie", "done", 1, 8.0, 12.0, self.at)
        self.figures.picture(url, caller, prompt, "imagen4-fast", self.at)

    @property
    def view(self) -> View:
        """What the page shows of it."""
        return view_of(self.look())

    @property
    def html(self) -> str:
        """The page itself."""
        return page_of(FOLDER.joinpath("page.html").read_text("utf-8"), self.view, self.at)


# What it says


def test_it_says_what_runs_and_what_was_made() -> None:
    """The headline is of now, the line below of all that was done; what there was none of is not named."""
    world = World()
    assert (world.view.headline, world.view.quiet) == ("Nothing is running", None)
    assert (world.view.made, world.view.others, world.view.since) == ("0 pictures for 0 credits", "", AT)
    world.make()
    assert (world.view.headline, world.view.made, world.view.quiet) == (
        "Nothing is running",
        "1 picture for 8 credits",
        AT,
    )
    world.figures.begin("ann", AT)
    assert (world.view.headline, world.view.quiet) == ("1 waiting, none running", None)
    world.figures.sent("ann", "kie", AT)
    assert world.view.headline == "1 running"
    for _ in range(1200):
        world.figures.begin("ann", AT)
    assert world.view.headline == "1 running, 1,200 waiting"
    for outcome in ("failed", "unknown", "left", "left"):
        world.figures.end("bob", None, outcome, 0, 0.25, None, AT)
    assert world.view.others == "; 1 failed, 1 of unknown outcome, 2 given up"
    assert world.view.made == "1 picture for 9 credits"


def test_each_account_says_how_it_fares() -> None:
    """It takes requests, is slowed down, paused until a time, or stopped, and why; what takes nothing stands above."""
    world = World(
        an_account("a"),
        an_account("b", state="limited", why="HTTP 429", running_limit=None),
        an_account("c", state="paused", why="HTTP 503", until=AT + 60),
        an_account("d", state="paused"),
        an_account("e", state="stopped", why="the key is wrong\nfor ever", until=AT),
    )
    world.figures.end("ann", "a", "done", 1, 72.625, 1.0, AT)
    view = world.view
    told = [(row.name, row.note, row.until, row.why) for row in view.accounts]
    assert told == [
        ("a", "takes requests", None, ""),
        ("b", "slowed down", None, "HTTP 429"),
        ("c", "paused until", AT + 60, "HTTP 503"),
        ("d", "paused", None, ""),
        ("e", "stopped", None, "the key is wrong for ever"),
    ]
    assert [row.name for row in view.troubles] == ["c", "d", "e"]
    assert view.said == "Nothing is running. c is paused. d is paused. e is stopped."
    rates = (("1.9/s", "of 20 in 10 s"), ("–", "of 10 in 1 s"))
    counts = (("1", ""), ("0", ""), ("0", ""), ("72.62", ""))
    assert view.accounts[0].cells == (("0", ""), ("7", "of 100"), *rates, *counts)
    assert view.accounts[1].cells[1] == ("7", "")


def test_a_thousand_callers_and_accounts_are_shown_as_far_as_there_is_room() -> None:
    """The busiest ones have rows, in the order of all; how many are left out is said."""
    world = World(*(an_account(f"a{number:03}", running=number % 90) for number in range(120)))
    for number in range(300):
        world.figures.begin(f"c{number:03}", AT)
        for _ in range(number % 100 // 90):
            world.figures.begin(f"c{number:03}", AT)
    view = world.view
    assert (len(view.accounts), len(view.callers)) == (MOST_ROWS, MOST_ROWS)
    assert [row.name for row in view.callers] == sorted(row.name for row in view.callers)
    assert {f"c{number:03}" for number in range(300) if number % 100 >= 90} <= {row.name for row in view.callers}
    assert view.unseen == "70 accounts and 250 callers more, of whom less is going on, are in the metrics."
    assert len(msgspec.json.encode(view)) < 40_000


@pytest.mark.parametrize("url", FOREIGN)
def test_no_foreign_address_is_shown(url: str) -> None:
    """A picture is only shown from the page's own host; of any other address nothing is written."""
    world = World()
    world.make(url=url, prompt="a heron")
    assert world.view.pictures[0].url == ""
    assert ("<img" in world.html, "a heron" in world.html, "not here" in world.html) == (False, True, True)


# No text breaks out of its place


class Elements(HTMLParser):
    """The tags, attributes and texts of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Count it."""
        self.tags[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in ("meta", "link", "img", "path") and not self.get_starttag_text().endswith("/>"):  # type: ignore[union-attr]
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Count it."""
        self.tags[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        """It closes what was opened last."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Keep it."""
        self.texts.append(data)


def test_whatever_it_quotes_the_page_has_our_elements_alone() -> None:
    """Names, prompts, models, reasons and addresses that try to break out are texts, each as it was."""
    world = World(*(an_account(text, state="stopped", why=text) for text in NASTY))
    for text in NASTY:
        world.figures.end(text, text, "done", 1, 1.0, 1.0, AT)
        world.figures.picture(f"/files/{text}", text, text, text, AT)
        world.figures.picture('/files/"onerror=alert(1)', text, text, text, AT)
    page = Elements()
    page.feed(world.html)
    page.close()
    assert page.open == []
    assert {*page.tags} <= {
        *("html", "head", "meta", "title", "link", "script", "body", "header", "main", "section", "footer", "figure"),
        *("h1", "h2", "p", "span", "ul", "li", "a", "img", "small", "time", "svg", "path", "text"),
        *("table", "thead", "tbody", "tr", "th", "td"),
    }
    assert (page.tags["script"], page.tags["svg"], page.tags["title"]) == (1, 3, 4)
    assert [name for name, _ in page.attributes if name.startswith("on") or name == "style"] == []
    links = {value for name, value in page.attributes if name in ("src", "href")}
    assert links - {"page.js", "page.css", "icon.svg", "metrics"} <= {
        '/files/"onerror=alert(1)',
        *(f"/files/{text}" for text in NASTY),
    }
    shown = {*page.texts}
    assert {picture.prompt for picture in world.view.pictures} <= shown
    assert {row.name for row in world.view.accounts} <= shown
    assert {row.why for row in world.view.troubles} <= shown


@pytest.mark.parametrize("at", [math.nan, math.inf, -1e300, 1e300, -1.0, 0.0])
def test_any_time_is_written_or_left_out(at: float) -> None:
    """A clock that is broken breaks no page."""
    world = World(an_account(state="paused", until=at))
    world.at = at
    world.figures = Figures(at)
    world.make()
    assert "</html>" in world.html
    json.loads(msgspec.json.encode(world.view))


def test_letters_can_be_read_on_their_ground() -> None:
    """Each colour of letters has a contrast of 4.5 or more, in light and dark, also on an empty picture's ground."""
    style = FOLDER.joinpath("page.css").read_text("utf-8")
    colours = {name: (light, dark) for name, light, dark in re.findall(r"--(\w+): light-dark\((#\w+), (#\w+)\)", style)}
    for scheme in (0, 1):
        for name in ("text", "quiet", "good", "slow", "bad"):
            assert _contrast(colours[name][scheme], colours["page"][scheme]) >= 4.5, name
        assert _contrast(colours["quiet"][scheme], colours["empty"][scheme]) >= 4.5
        assert _contrast(colours["plot"][scheme], colours["page"][scheme]) >= 3


def _contrast(one: str, other: str) -> float:
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    """As WCAG 2 reckons it."""
    values = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in values]
    return sum(share * value for share, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


# The ticker, on virtual time


class Told:
    """What is shown at a tick, and how often it was asked for."""

    def __init__(self) -> None:
        self.shown: dict[str, Any] = {"a": 1, "b": 1}
        self.looks = 0

    def look(self) -> dict[str, Any]:
        """What is shown now."""
        self.looks += 1
        if "error" in self.shown:
            raise ValueError(self.shown["error"])
        return dict(self.shown)


def opened(live: Live) -> Stream:
    """One stream more."""
    stream = live.open()
    assert stream is not None
    return stream


async def heard(stream: Stream) -> Any:
    """What an event tells; a beat is one without anything."""
    event = await stream.next()
    assert event is not None
    return {} if event == BEAT else json.loads(event.removeprefix(b"data: ").removesuffix(b"\n\n"))


@on_virtual_time
async def test_five_hundred_pages_cost_one_look_a_second() -> None:
    """However many hear it, each second is looked at once; and not at all without anybody."""
    told = Told()
    live = Live(told.look, 1.0, 15.0, 500)
    streams = [opened(live) for _ in range(500)]
    assert live.open() is None
    for number in range(2, 12):
        for stream in streams:
            assert (await heard(stream))["a"] == number - 1
        told.shown["a"] = number
    assert told.looks == 10
    for stream in streams:
        stream.close()
    await anyio.sleep(100)
    assert told.looks == 10
    assert await heard(opened(live)) == {"a": 11, "b": 1}


@on_virtual_time
async def test_an_event_tells_what_is_new_and_first_everything() -> None:
    """Who has heard the last one hears what has changed; who was too slow for some, and who comes, hears it all."""
    told = Told()
    live = Live(told.look, 1.0, 15.0, 10)
    quick, slow = opened(live), opened(live)
    assert (await heard(quick), await heard(slow)) == ({"a": 1, "b": 1}, {"a": 1, "b": 1})
    told.shown["b"] = 2
    assert await heard(quick) == {"b": 2}
    told.shown["b"] = 3
    assert await heard(quick) == {"b": 3}
    assert (await heard(slow), await heard(opened(live))) == ({"a": 1, "b": 3}, {"a": 1, "b": 3})


@on_virtual_time
async def test_a_beat_comes_where_nothing_changes() -> None:
    """Fifteen seconds after the last event, and each fifteen after, there is a comment, and no event."""
    told = Told()
    live = Live(told.look, 1.0, 15.0, 10)
    stream = opened(live)
    await stream.next()
    loop = asyncio.get_running_loop()
    began_at = loop.time()
    assert (await stream.next(), loop.time() - began_at) == (BEAT, 15.0)
    assert (await stream.next(), loop.time() - began_at) == (BEAT, 30.0)
    await anyio.sleep(7.5)
    told.shown["a"] = 2
    assert (await heard(stream), loop.time() - began_at) == ({"a": 2}, 38.0)
    assert (await stream.next(), loop.time() - began_at) == (BEAT, 53.0)


@on_virtual_time
async def test_a_look_that_fails_ends_no_stream(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, nothing is told, and the next that goes well is heard; also where the first one failed."""
    told = Told()
    live = Live(told.look, 1.0, 15.0, 10)
    told.shown["error"] = "no figures"
    stream = opened(live)
    await anyio.sleep(3.5)
    told.shown = {"a": 2}
    assert await heard(stream) == {"a": 2}
    told.shown["error"] = "none again"
    await anyio.sleep(2)
    told.shown = {"a": 3}
    assert await heard(stream) == {"a": 3}
    assert "the page cannot be brought up to date: no figures" in caplog.text


@on_virtual_time
async def test_the_end_is_heard_at_once() -> None:
    """All streams end when the server does, and none is opened after."""
    live = Live(Told().look, 1.0, 15.0, 10)
    streams = [opened(live) for _ in range(3)]
    for stream in streams:
        await stream.next()
    began_at = asyncio.get_running_loop().time()
    asyncio.get_running_loop().call_later(0.25, live.end)
    assert [await stream.next() for stream in streams] == [None] * 3
    assert asyncio.get_running_loop().time() - began_at == 0.25
    assert live.open() is None


# Over HTTP


@asynccontextmanager
async def page_at(found: socket.socket, world: World, page: Page | None = None) -> AsyncIterator[web.Application]:
    """Serve the page of a world at a socket, with pictures below `/files`."""

    async def picture(request: web.Request) -> web.Response:
        number = request.match_info["number"]
        status = {"status": 404} if number == "404" else {}
        return web.Response(body=b"" if status else paint("a fox", "1:1", number), content_type="image/png", **status)

    application = web.Application()
    if page is None:
        application.add_routes(page_routes(world.look, application))
    else:
        application.add_routes(page.routes())
        application.on_shutdown.append(page.end)
    application.router.add_get("/files/{number}.png", picture)
    async with serving(application, found):
        yield application


@asynccontextmanager
async def page_of_a_world(world: World, page: Page | None = None) -> AsyncIterator[tuple[str, aiohttp.ClientSession]]:
    """Its address, and a session to ask it with."""
    with free_socket() as (found, port):
        url = f"http://127.0.0.1:{port}"
        async with page_at(found, world, page):
            async with aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(limit=0)) as session:
                yield url, session


async def test_all_of_it_goes_out_under_the_strict_policy() -> None:
    """The page and what it needs have the same headers, and the policy lets nothing in from anywhere else."""
    kinds = {"/": "text/html", "/page.css": "text/css", "/page.js": "text/javascript", "/icon.svg": "image/svg+xml"}
    async with page_of_a_world(World()) as (_, session):
        for path, kind in kinds.items():
            async with session.get(path) as answer:
                assert (answer.status, answer.content_type, answer.charset) == (200, kind, "utf-8")
                assert HEADERS.items() <= answer.headers.items()
                assert await answer.text()
        async with session.get("/events") as answer:
            assert HEADERS.items() <= answer.headers.items()
            assert (answer.status, answer.content_type) == (200, "text/event-stream")
        async with session.head("/events") as answer:
            assert answer.status == 405
    assert "default-src 'none'" in POLICY
    assert "unsafe" not in POLICY
    assert HEADERS["Cache-Control"] == "no-store"


async def test_it_may_be_mounted_anywhere() -> None:
    """As a sub-application below another path it leads to its own parts, and ends with the whole."""
    outer, inner = web.Application(), web.Application()
    inner.add_routes(page_routes(World().look, inner))
    outer.add_subapp("/pictures/", inner)
    with free_socket() as (found, port):
        async with aiohttp.ClientSession() as session:
            async with serving(outer, found):
                base = f"http://127.0.0.1:{port}/pictures/"
                async with session.get(base) as answer:
                    links = re.findall(r'(?:href|src)="([^"]+)"', await answer.text())
                assert not [link for link in links if link.startswith(("/", "http"))]
                for link in [*links, "events"]:
                    if link != "metrics":
                        async with session.get(base + link) as answer:
                            assert answer.status == 200
                stream = await session.get(base + "events")
            with anyio.fail_after(30):
                assert b"".join([chunk async for chunk in stream.content.iter_any()]).startswith(b"data: {")


async def test_the_hundred_and_first_page_is_told_to_come_back() -> None:
    """It gets 503 with a Retry-After; when one has left, there is room again."""
    async with page_of_a_world(World()) as (_, session):
        async with contextlib.AsyncExitStack() as stack:
            answers = [await stack.enter_async_context(session.get("/events")) for _ in range(MOST_STREAMS)]
            assert {answer.status for answer in answers} == {200}
            async with session.get("/events") as refused:
                assert (refused.status, refused.headers["Retry-After"]) == (503, "10")
                assert HEADERS.items() <= refused.headers.items()
        # Those that have left are noticed with the next word to them.
        page = Page(World().look, every=0.01, beats_after=0.01)
    async with page_of_a_world(World(), page) as (_, session):
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(MOST_STREAMS):
                await stack.enter_async_context(session.get("/events"))
        with anyio.fail_after(60):
            while (answer := await session.get("/events")).status == 503:
                answer.release()
                await anyio.sleep(0.01)
            answer.close()


async def test_a_page_that_does_not_read_is_dropped() -> None:
    """What is written for it is not kept for ever: its stream ends, and others go on."""
    world = World()
    page = Page(world.look, every=0.005, beats_after=1.0, longest_write=0.1)
    async with page_of_a_world(world, page) as (url, session):
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.send(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
            with anyio.fail_after(120):
                while not page._live._streams:
                    await anyio.sleep(0.01)
                (stream,) = page._live._streams
                async with session.get("/events") as hearing:
                    while stream in page._live._streams:
                        world.make(prompt="a long prompt " * 20)
                        await hearing.content.readany()


async def test_streams_end_when_the_server_does() -> None:
    """A shutdown that would wait a minute for open answers does not: they are over, and end in good order."""
    world = World()
    application = web.Application()
    application.add_routes(page_routes(world.look, application))
    runner = web.AppRunner(application, shutdown_timeout=60)
    await runner.setup()
    with free_socket() as (found, port), anyio.fail_after(30):
        await web.SockSite(runner, found).start()
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session, session.get("/events") as answer:
            assert (await answer.content.readuntil(b"\n\n")).startswith(b"data: {")
            async with anyio.create_task_group() as group:
                group.start_soon(runner.cleanup)
                assert await answer.content.read() == b""


# In a browser


class Watched:
    """A page in a browser, and what it complained of or fetched from elsewhere."""

    def __init__(self, page: Shown, url: str) -> None:
        self.page = page
        self.complaints: list[str] = []
        page.set_default_timeout(120_000)
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda asked: self.complaints.extend([asked.url] * (not asked.url.startswith(url))))

    async def waits_for(self, condition: str, argument: object = None) -> None:
        """Wait until a condition holds in the page."""
        await self.page.wait_for_function(condition, arg=argument, polling=50)

    async def says(self, selector: str, text: str) -> None:
        """Wait until the first such element says exactly this."""
        words = "([selector, text]) => document.querySelector(selector)?.textContent.trim() === text"
        await self.waits_for(words, [selector, text])

    async def says_alone(self, section: str, text: str) -> None:
        """Wait until the section of such an element says this in the place of figures."""
        words = f"section:has({section}) > .empty:not([hidden])"
        await self.says(words, text)

    async def is_live(self) -> None:
        """Wait until it is."""
        await self.says("#connection", "Live")

    async def picture(self, name: str) -> None:
        """Take a picture of the whole of it, where one is asked for."""
        if (path := place_of_picture(name)) is not None:
            await self.page.screenshot(path=path, full_page=True)


@asynccontextmanager
async def in_a_browser() -> AsyncIterator[Browser]:
    """The machine's Chromium."""
    found = chromium_of_the_machine()
    from playwright.async_api import async_playwright  # only here: every worker would wait for it

    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=found, timeout=120_000)
        yield chromium
        await chromium.close()


@asynccontextmanager
async def shown(
    browser: Browser, url: str, width: int = 1280, complains: bool = False, **terms: Any
) -> AsyncIterator[Watched]:
    """The page as a person sees it; what it complains of is a failure."""
    page = await browser.new_page(viewport={"width": width, "height": 800}, **terms)
    watched = Watched(page, url)
    with naming(watched.complaints):
        await page.goto(url)
        yield watched
        await page.close()
    assert complains or watched.complaints == []


def busy_world() -> World:
    """A service with something of everything."""
    world = World(
        an_account("kie"),
        an_account("kie-2", state="limited", why="HTTP 429: creates are lowered to 10 in 10 s", running=4),
        an_account("apiin", state="paused", why="HTTP 503: under maintenance", until=AT + 300, running=0),
        an_account(
            "liangxin", state="stopped", why="The key is wrong (401): set LIANGXIN_API_KEY.", running_limit=None
        ),
    )
    for minute in range(100):
        world.at = AT + 60 * minute
        for number in range(minute * 7 % 9):
            caller, account = ("studio", "webshop", "ana@research")[number % 3], ("kie", "kie-2")[number % 2]
            world.figures.end(caller, account, "done", 1, 8.0, 8 + (minute * number) % 11, world.at)
            world.figures.picture(f"/files/{minute}.png", caller, f"a heron at dawn, {minute}", "imagen4", world.at)
    for number in range(42):
        world.figures.begin("webshop", world.at)
        if number < 12:
            world.figures.sent("webshop", "kie", world.at)
    return world


@pytest.mark.slow
async def test_numbers_and_pictures_come_by_themselves() -> None:
    """What changes is on the page without loading it, in each of its parts; what has the focus keeps it."""
    world = World()
    async with in_a_browser() as browser, page_of_a_world(world) as (url, _):
        async with shown(browser, url) as seen:
            await seen.is_live()
            await seen.says("h1", "Nothing is running")
            await seen.says_alone("#callers", "Nobody has asked for anything yet.")
            await seen.says_alone("#pictures", "None has been made yet.")
            await seen.picture("page-idle")
            world.make(prompt="a fox & <b>friends</b>")
            await seen.says("#pictures .prompt", "a fox & <b>friends</b>")
            await seen.says("#made", "1 picture for 8 credits")
            assert "Quiet since" in await seen.page.locator("#summary").inner_text()
            await seen.waits_for("() => document.querySelector('#pictures img').naturalWidth > 0")
            await seen.page.focus("#pictures a")
            world.figures.begin("bob", AT)
            world.make("bob", "a heron", "/files/2.png")
            await seen.says("h1", "1 waiting, none running")
            await seen.says("#callers tbody tr:nth-child(2) .name", "bob")
            await seen.says("#callers tbody tr:nth-child(2) td:last-child span", "8")
            await seen.says("#pictures .prompt", "a heron")
            assert await seen.page.evaluate("document.activeElement.textContent") == "a fox & <b>friends</b>"
            assert await seen.page.locator("section .empty:visible").count() == 0
            assert await seen.page.title() == "1 waiting, none running · imagen_async"
            assert "2 in this minute" in await seen.page.locator("#plot-pictures").inner_html()
            world.accounts = (an_account(state="stopped", why="the key is wrong"),)
            await seen.says("#troubles .why", "the key is wrong")
            await seen.says("#said", "Requests are running or waiting. kie is stopped.")
            world.accounts = ()
            await seen.says_alone("#accounts", "There is none.")
            await seen.waits_for("() => document.querySelector('#accounts').offsetHeight === 0")
            assert await seen.page.locator("#troubles li").count() == 0
        assert world.looks > 3


@pytest.mark.slow
async def test_it_looks_right_in_light_and_dark_and_on_a_phone() -> None:
    """It follows the browser's colours, and nothing reaches beyond the sides, however narrow or long its words."""
    world = busy_world()
    over = "document.documentElement.scrollWidth - innerWidth"
    async with in_a_browser() as browser, page_of_a_world(world) as (url, _):
        for scheme, colour in (("light", "rgb(250, 249, 246)"), ("dark", "rgb(22, 21, 20)")):
            async with shown(browser, url, color_scheme=scheme) as seen:
                await seen.is_live()
                await seen.waits_for("() => [...document.images].every(image => image.loading && image.src)")
                await seen.picture(f"page-{scheme}")
                assert await seen.page.evaluate("getComputedStyle(document.body).backgroundColor") == colour
                letters = await seen.page.evaluate("getComputedStyle(document.querySelector('svg text')).fill")
                assert letters == ("rgb(31, 29, 26)" if scheme == "light" else "rgb(233, 229, 221)")
                assert await seen.page.evaluate(over) <= 0
        async with shown(browser, url, 375, device_scale_factor=2, is_mobile=True, has_touch=True) as phone:
            await phone.is_live()
            await phone.picture("page-phone")
            assert await phone.page.evaluate(over) <= 0
            world.accounts = (an_account("x" * 300, state="stopped", why="y" * 300),)
            world.figures.end("w" * 300, "x" * 300, "done", 10_000, 1e12, 1.0, world.at)
            world.make("v" * 300, "u" * 300)
            await phone.says("#pictures .prompt", "u" * 159 + "…")
            assert await phone.page.evaluate(over) <= 0
            for width in (320, 760, 761, 900, 1000):
                await phone.page.set_viewport_size({"width": width, "height": 800})
                assert await phone.page.evaluate(over) <= 0


@pytest.mark.slow
async def test_who_does_not_see_it_finds_the_way() -> None:
    """Landmarks, headings, heads of tables and names of plots are there, also where the tables are blocks."""
    async with in_a_browser() as browser, page_of_a_world(busy_world()) as (url, _):
        for width in (1280, 375):
            async with shown(browser, url, width) as seen:
                await seen.is_live()
                page = seen.page
                for role, count in (("banner", 1), ("main", 1), ("contentinfo", 1), ("table", 2), ("status", 2)):
                    assert await page.get_by_role(role).count() == count, role
                assert await page.get_by_role("heading", level=1).inner_text() == "12 running, 30 waiting"
                assert await page.get_by_role("table", name="Callers").get_by_role("columnheader").count() == 8
                row = page.get_by_role("row", name="ana@research")
                assert await row.get_by_role("rowheader").count() == 1
                assert await page.get_by_role("img", name="Pictures a minute in the last two hours").count() == 1
                unnamed = "[...document.links].filter(link => !link.textContent.trim()).length"
                assert await page.evaluate(unnamed) == 0


@pytest.mark.slow
async def test_no_prompt_is_run_in_a_browser() -> None:
    """Hostile prompts, names and reasons are shown as text, from the server and by the script; none is run."""
    world = World(*(an_account(text, state="stopped", why=text) for text in NASTY))
    for text in NASTY:
        world.figures.picture("/files/1.png", text, text, text, AT)
    async with in_a_browser() as browser, page_of_a_world(world) as (url, _):
        async with shown(browser, url) as seen:
            await seen.is_live()
            await _check_texts(seen, world)
            for text in NASTY:
                world.figures.end(text, text, "done", 1, 1.0, 1.0, AT)
                world.figures.picture("/files/2.png", text, text, text, AT)
            world.accounts = tuple(an_account(f"{text}.", state="stopped", why=text) for text in NASTY)
            await seen.waits_for(f"() => document.querySelectorAll('#callers tbody tr').length === {len(NASTY)}")
            await _check_texts(seen, world)
            assert await seen.page.evaluate("[window.broken, document.scripts.length]") == [None, 1]
            assert await seen.page.locator("main :is(b, style, iframe), .prompt *, .name *, .why *").count() == 0
        # Should one ever break out, the policy stops it.
        async with shown(browser, url, complains=True) as seen:
            await seen.is_live()
            broken = "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.broken = 1\">')"
            await seen.page.evaluate(broken)
            await seen.waits_for("() => document.querySelector('.gone') !== null")
            assert await seen.page.evaluate("window.broken") is None
            assert any("Content Security Policy" in complaint for complaint in seen.complaints)


async def _check_texts(seen: Watched, world: World) -> None:
    """All texts that are anybody's are on the page as they are."""
    view = world.view
    for selector, texts in (
        (".prompt", [picture.prompt for picture in view.pictures]),
        ("#callers .name", [row.name for row in view.callers]),
        ("#accounts .name", [row.name for row in view.accounts]),
        ("#accounts .why", [row.why for row in view.accounts]),
    ):
        assert await seen.page.locator(selector).all_text_contents() == texts


@pytest.mark.slow
async def test_without_its_script_it_is_readable() -> None:
    """What it showed when it was loaded is all there, and it says of when that is."""
    world = busy_world()
    async with in_a_browser() as browser, page_of_a_world(world) as (url, _):
        async with shown(browser, url, java_script_enabled=False) as seen:
            await seen.picture("page-plain")
            text = await seen.page.locator("body").inner_text()
            assert "12 running, 30 waiting" in text
            assert "paused until" in text
            assert re.search(r"As of \d\d:\d\d:\d\d UTC\. Load the page again", text)
            assert await seen.page.locator("svg").count() == 3
            assert await seen.page.locator("#pictures img").count() == 24


@pytest.mark.slow
async def test_it_finds_the_server_again() -> None:
    """While the server is gone the page says so, and of when its figures are; then it goes on by itself."""
    world = World()
    async with in_a_browser() as browser:
        # Both sockets may be used anew at once; what is left of connections would keep the second one from its port.
        with socket.create_server(("127.0.0.1", 0)) as found:
            port = found.getsockname()[1]
            seen = Watched(await browser.new_page(), f"http://127.0.0.1:{port}")
            async with page_at(found, world):
                await seen.page.goto(f"http://127.0.0.1:{port}")
                await seen.is_live()
        await seen.waits_for("() => document.querySelector('#connection').className === 'lost'")
        text = await seen.page.locator("#connection").inner_text()
        assert re.match(r"The connection is lost; trying again\. What you see is from .*\d\d:\d\d", text)
        await seen.picture("page-lost")
        world.make(prompt="made meanwhile")
        with socket.create_server(("127.0.0.1", port)) as again:
            async with page_at(again, world):
                await seen.is_live()
                await seen.says("#pictures .prompt", "made meanwhile")
                await seen.page.close()
    assert all("net::ERR" in complaint for complaint in seen.complaints)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "words"),
    [(503, "The server has no room for one more page, or is ending; trying again."), (401, "The server wants its key")],
)
async def test_a_refusal_is_told(status: int, words: str) -> None:
    """A page that is not kept live says why, and has its figures all the same."""
    world = busy_world()

    @web.middleware
    async def refuse(request: web.Request, handler: Any) -> web.StreamResponse:
        return web.Response(status=status) if request.path == "/events" else await handler(request)

    application = web.Application(middlewares=[refuse])
    application.add_routes(page_routes(world.look, application))
    with free_socket() as (found, port):
        async with in_a_browser() as browser, serving(application, found):
            async with shown(browser, f"http://127.0.0.1:{port}", complains=True) as seen:
                begins = "words => document.querySelector('#connection')?.textContent.startsWith(words)"
                await seen.waits_for(begins, words)
                await seen.says("h1", "12 running, 30 waiting")


@pytest.mark.slow
async def test_a_page_that_nobody_sees_takes_no_place() -> None:
    """Hidden, it ends its stream, says nothing of a loss, and is new again as soon as it is seen."""
    world = World()
    page = Page(world.look)
    turn = "hidden => { Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });"
    turn += "document.dispatchEvent(new Event('visibilitychange')); }"
    async with in_a_browser() as browser, page_of_a_world(world, page) as (url, _):
        async with shown(browser, url) as seen:
            await seen.is_live()
            await seen.page.evaluate(turn, True)
            world.make()
            with anyio.fail_after(120):
                while page._live._streams:
                    world.figures.begin("ann", AT)
                    await anyio.sleep(0.05)
            assert await seen.page.locator("#connection").inner_text() == "Live"
            world.make(prompt="made meanwhile")
            await seen.page.evaluate(turn, False)
            await seen.says("#pictures .prompt", "made meanwhile")


@pytest.mark.slow
async def test_a_picture_that_is_gone_says_so() -> None:
    """In its place stands that it is not here; its prompt stays."""
    world = World()
    async with in_a_browser() as browser, page_of_a_world(world) as (url, _):
        async with shown(browser, url, complains=True) as seen:
            await seen.is_live()
            world.make(url="/files/404.png", prompt="a fox")
            await seen.says("#pictures .gone", "not here")
            await seen.says("#pictures .prompt", "a fox")
