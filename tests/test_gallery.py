"""The gallery: what it shows, in a real Chromium from file://, and that no prompt can break out of its place."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
from browsing import browser, screenshot_of
from PIL import Image
from test_command import Call, at, call, clean_environment, prompt_file

from imagen_async import ImageFile, ImageRequest, Limits, Rate
from imagen_async._cli._gallery import write_gallery
from imagen_async._core.journal_entry import EntryError, JournalEntry
from imagen_async._journal import Journal, JournalReader
from imagen_async.sandbox import Latency, Sandbox
from imagen_async.testing import running_sandbox

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

__all__ = ["call", "clean_environment"]

FAST = Sandbox(limits=Limits(Rate(1000, per=1), Rate(2000, per=1), 500), latency=Latency(0.1, minimum=0.05))
PICTURES = 500

PATIENCE = 120_000.0
"""Milliseconds after which a wait is in vain: long, for the machine may be busy, and no wait here measures a time."""

POLLING = 50
"""Milliseconds between two looks at what is waited for."""

STATE = """() => ({
  cards: document.querySelectorAll('.cell').length,
  count: document.querySelector('#count')?.textContent,
  missing: [...document.querySelectorAll('img')].filter(each => !each.naturalWidth).map(each => each.src).slice(0, 5),
  viewer: document.querySelector('#viewer')?.open && document.querySelector('#position').textContent,
  prompt: document.querySelector('#prompt')?.textContent,
  focus: document.activeElement?.outerHTML.slice(0, 100),
  scrolled: [scrollY, innerHeight, document.body.scrollHeight],
})"""
"""What a page shows, in a few words."""

LARGE = 2**53 + 1
"""A seed that a page's own numbers cannot hold."""

NASTY = (
    "</script><script>window.broken = 1</script>",
    '"><img src=x onerror="window.broken = 1">',
    "' onmouseover='window.broken = 1' x='",
    "<!--<script>",
    "]]><svg/onload=window.broken=1>",
    "{{ 7 * 7 }} {% raw %} {#",
    "javascript:window.broken=1",
    "two\u2028\u2029 line ends and \u202e another way round",
    "&lt;b&gt; &amp; <b>bold</b>",
    "</title></style><style>*{display:none}</style>",
    "C:\\n \\u003cscript\\u003e 100% #fragment ?query",
)
"""Prompts that would do harm where they are not taken for what they are."""


@contextlib.contextmanager
def opened(
    chromium: Browser, path: Path, *, width: int = 1280, dark: bool = False, complains: bool = False
) -> Iterator[Page]:
    """The page as a person opens it, from its file; what it complains of, or fetches from elsewhere, is a failure.

    A wait in vain, whichever it is, fails with what the page showed and what it complained of by then.
    """
    from playwright.sync_api import TimeoutError as InVain  # only here: every worker would wait for it

    colours: Literal["dark", "light"] = "dark" if dark else "light"
    page = chromium.new_page(viewport={"width": width, "height": 800}, color_scheme=colours, offline=True)
    page.set_default_timeout(PATIENCE)
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: complaints.extend([request.url] * (not request.url.startswith("file:"))))
    try:
        page.goto(path.absolute().as_uri())
        yield page
    except InVain as error:
        raise AssertionError(f"{error.message}\nseen: {seen(page)}\ncomplaints: {complaints}") from error
    page.close()
    assert complains or complaints == []


def seen(page: Page) -> str:
    """What a page shows at the moment; a page that hangs is not waited for long."""
    from playwright.sync_api import Error

    try:
        return str(page.wait_for_function(STATE, polling=POLLING, timeout=5_000).json_value())
    except Error as error:
        return f"nothing, for the page does not answer: {error.message}"


def wait_for(page: Page, condition: str, argument: object = None) -> None:
    """Wait until a condition holds in the page. Not asked at each frame: a busy machine may draw none for long."""
    page.wait_for_function(condition, arg=argument, polling=POLLING)


def wait_for_text(page: Page, selector: str, text: str) -> None:
    """Wait until the first such element says exactly this."""
    wait_for(page, "([selector, text]) => document.querySelector(selector)?.textContent === text", [selector, text])


def texts(page: Page, selector: str) -> list[str]:
    """What these elements say."""
    return page.locator(selector).all_text_contents()


def wait_for_count(page: Page, text: str) -> None:
    """Wait until the page says how many cards were found; by then they are laid out, too."""
    wait_for_text(page, "#count", text)


def wait_for_pictures(page: Page) -> None:
    """Wait until every picture that can be seen is there."""
    wait_for(
        page,
        "() => [...document.querySelectorAll('.cell img')].filter(picture => {"
        "  const place = picture.getBoundingClientRect(); return place.bottom > 0 && place.top < innerHeight;"
        "}).every(picture => picture.complete && picture.naturalWidth > 0)",
    )


def wait_for_background(page: Page, colour: str) -> None:
    """Wait until the page has a colour."""
    wait_for(page, "colour => getComputedStyle(document.body).backgroundColor === colour", colour)


def made(call: Call, sandbox: Sandbox) -> Path:
    """A folder of sandbox pictures, some of them of other models, and a few failures; with its gallery."""
    rows = [
        {
            "prompt": f"a fox number {number}",
            "model": "imagen4-fast" if number % 5 == 0 else None,
            "seed": number if number % 2 else None,
            "aspect_ratio": "16:9" if number % 7 == 0 else "1:1",
            "category": "Animals",
        }
        for number in range(PICTURES + 3)
    ]
    Path("prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sandbox.order("task", *[None] * 30, "fail_word", "fail_digits", "fail_word")
    words = (
        "batch",
        "prompts.jsonl",
        *at(sandbox),
        "--rate",
        "500/1",
        "--running",
        "400",
        "-o",
        "out",
        "-q",
        "--gallery",
    )
    outcome = call(*words)
    assert outcome.code == 1
    assert "The pictures are shown by out/index.html" in outcome.err
    return Path("out/index.html")


@pytest.mark.slow
def test_five_hundred_pictures_in_a_browser(call: Call, tmp_path: Path) -> None:
    """Grid, search, filters, sorting, viewer, keys and colours do what they say, and pictures of them are taken."""
    with running_sandbox(FAST) as sandbox:
        path = made(call, sandbox)
    with browser() as chromium, opened(chromium, path) as page:
        wait_for_pictures(page)
        page.screenshot(path=screenshot_of("gallery-light", tmp_path))
        _check_grid(page)
        _check_finding(page)
        page.screenshot(path=screenshot_of("gallery-failures", tmp_path))
        _check_viewer(page, tmp_path)
        _check_dark(chromium, path, tmp_path)
    assert call("gallery", "out").lines == ["out/index.html"]


def _check_dark(chromium: Browser, path: Path, folder: Path) -> None:
    with opened(chromium, path, width=900, dark=True) as page:
        wait_for_pictures(page)
        page.screenshot(path=screenshot_of("gallery-dark", folder))
        wait_for_background(page, "rgb(19, 20, 22)")
        page.click("#theme")
        wait_for_background(page, "rgb(246, 246, 247)")


def _check_grid(page: Page) -> None:
    assert re.fullmatch(r"500 pictures, 3 failed; [\d,]+ credits", page.locator("#summary").inner_text())
    wait_for_count(page, "503 of 503")
    assert 15 < page.locator(".cell").count() < 60, "what is not seen is not laid out"
    first = page.locator(".cell").filter(has_text="a fox number 3").first
    lines = first.locator(".line").all_text_contents()
    assert lines[-2:-1] == ["imagen4 · sandbox"]
    assert re.fullmatch(r"288×288 · seed 3 · 8 credits · \d\.\d s", lines[-1])
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    page.wait_for_selector("text=a fox number 502")
    assert page.locator(".cell").count() < 60
    wait_for_pictures(page)
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_selector("text=a fox number 0")


def _check_finding(page: Page) -> None:
    page.fill("#search", "NUMBER 49 fox")
    wait_for_count(page, "15 of 503")  # 49, 149, 249, 349, 449, and 490 to 499
    page.fill("#search", "")
    page.select_option("#model", "imagen4-fast")
    wait_for_count(page, "101 of 503")
    page.select_option("#sort", "prompt")
    wait_for_text(page, ".words", "a fox number 0")
    assert texts(page, ".words")[:3] == ["a fox number 0", "a fox number 5", "a fox number 10"]
    page.select_option("#sort", "slowest first")
    latencies = [float(text.rsplit("· ", 1)[1].removesuffix(" s")) for text in texts(page, ".line") if "×" in text]
    assert latencies == sorted(latencies, reverse=True)
    page.select_option("#model", "")
    page.select_option("#provider", "sandbox")
    page.select_option("#state", "failed")
    wait_for_count(page, "3 of 503")
    assert len([text for text in texts(page, "div.thumb") if text.startswith("GenerationFailed (")]) == 3
    page.fill("#search", "sensitive_word")
    wait_for_count(page, "2 of 503")
    page.fill("#search", "nothing like it")
    wait_for_count(page, "0 of 503")
    assert page.locator(".cell").count() == 0
    page.fill("#search", "")


def _check_viewer(page: Page, folder: Path) -> None:
    page.select_option("#state", "")
    page.select_option("#sort", "order of the input")
    page.locator(".card").filter(has_text="a fox number 2").first.click()

    def shows(prompt: str) -> None:
        wait_for_text(page, "#prompt", prompt)

    def has_focus(number: int) -> None:
        wait_for(page, "number => document.activeElement.dataset.number === number", str(number))

    shows("a fox number 2")
    wait_for(page, "() => document.querySelector('#stage img')?.naturalWidth === 288")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    shows("a fox number 4")
    page.keyboard.press("ArrowLeft")
    shows("a fox number 3")
    details = dict(zip(texts(page, "dt"), texts(page, "dd"), strict=True))
    assert (details["category"], details["seed"], details["model"]) == ("Animals", "3", "imagen4")
    page.screenshot(path=screenshot_of("gallery-viewer", folder))
    page.click("#stage img")
    page.wait_for_selector("#stage.whole")
    page.keyboard.press("End")
    shows("a fox number 502")
    page.wait_for_selector("#next:disabled")
    page.keyboard.press("Home")
    shows("a fox number 0")
    page.keyboard.press("Escape")
    has_focus(0)
    assert page.locator("#viewer").get_attribute("open") is None
    page.keyboard.press("ArrowDown")
    has_focus(5)  # of five cards in a row the one below the first
    page.keyboard.press("Enter")
    shows("a fox number 5")
    page.click("#close")


class Elements(HTMLParser):
    """The elements of a page, as a browser sees them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        """Note a text."""
        self.texts.append(data)


def nasty(call: Call, sandbox: Sandbox) -> Path:
    """A folder whose name, prompts, keys, columns and reasons all try to break out; with its gallery."""
    folder = "<b onclick=x>&amp;"
    rows = [
        {"prompt": text, "key": f"{number} {text}", "negative_prompt": text, text: text, "seed": LARGE, "id": -LARGE}
        for number, text in enumerate(NASTY)
    ]
    Path("prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sandbox.order("task", *["fail_word", None] * 4)
    assert call("batch", "prompts.jsonl", *at(sandbox), "-o", folder, "-q").code == 1
    with Journal(f"{folder}/run.db") as journal:
        error = EntryError("GenerationFailed", NASTY[0] + NASTY[1])
        request = ImageRequest("x", model=NASTY[1], key="x")
        failed = JournalEntry("x", 99, "failed", NASTY[1], request, error=error, task_id=NASTY[2])
        journal.write([JournalEntry("x", 99, "submitting", NASTY[1], request, attempts=1, sent_at=1.0), failed])
    return Path(call("gallery", folder).lines[0])


def test_no_prompt_breaks_out_of_its_place(call: Call) -> None:
    """Whatever a prompt, key, column, reason or folder's name holds, the page has our elements and runs our script."""
    with running_sandbox(FAST) as sandbox:
        path = nasty(call, sandbox)
    page = Elements(path.read_text(encoding="utf-8"))
    assert (page.tags.count("script"), page.tags.count("style"), page.tags.count("title")) == (2, 1, 1)
    assert not {"img", "svg", "b"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    data = json.loads(next(text for text in page.texts if text.startswith("[{")))
    assert [card["prompt"] for card in data] == [*NASTY, "x"]
    with browser() as chromium, opened(chromium, path) as shown:
        assert shown.title() == "<b onclick=x>&amp;"
        assert [text.strip() for text in texts(shown, ".words")] == [*(text.strip() for text in NASTY), "x"]
        for number in range(len(NASTY) + 1):
            shown.locator(".card").nth(number).click()
            wait_for_text(shown, "#position", f"{number + 1} of {len(NASTY) + 1}")
            details = dict(zip(texts(shown, "dt"), texts(shown, "dd"), strict=True))
            assert number == len(NASTY) or (details["seed"], details["id"]) == (str(LARGE), str(-LARGE))
            assert shown.locator("#viewer a[href^='javascript']").count() == 0
            shown.keyboard.press("Escape")
            shown.wait_for_selector("#viewer", state="hidden")
        assert shown.evaluate("window.broken") is None
        assert shown.locator("script").count() == 2
        assert shown.evaluate("document.querySelectorAll('#grid b, #grid svg, dd *, #prompt *').length") == 0
        # Should one ever break out, the page's own policy stops it: a script put in by hand is not run.
        path.write_text(path.read_text(encoding="utf-8").replace("<main", "<script>window.broken = 1</script><main"))
        broken = chromium.new_page()
        broken.goto(path.absolute().as_uri())
        assert (broken.locator("script").count(), broken.evaluate("window.broken")) == (3, None)


def write_journal(folder: Path, entries: list[JournalEntry]) -> None:
    """A journal in a folder, as a batch would leave it."""
    with Journal(folder / "run.db") as journal:
        sent = [
            JournalEntry(row.key, row.position, "submitting", row.account, row.request, attempts=1) for row in entries
        ]
        journal.write(sent)
        journal.write(entries)


def gallery_of(folder: Path) -> Path:
    """The gallery of a folder, written anew."""
    with JournalReader(folder / "run.db") as journal:
        return write_gallery(str(folder), journal)[0]


def an_entry(number: int, state: Any = "done", **fields: Any) -> JournalEntry:
    """One request as a journal has it."""
    request = ImageRequest(f"prompt {number}", model="imagen4", key=str(number))
    return JournalEntry(str(number), number, state, "kie", request, attempts=1, **fields)


@pytest.mark.slow
def test_ten_thousand_pictures_are_as_quick_as_fifty(tmp_path: Path) -> None:
    """Of 10,000 cards only those in view are in the page, from the first to the last; a search looks at all."""
    file = ImageFile(str(tmp_path / "x.png"), "0" * 64, 1000, "image/png", "https://x.example/x.png")
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"sha256": "0" * 64, "width": 64, "height": 64}))
    Image.new("RGB", (64, 64), "teal").save(file.path)
    write_journal(tmp_path, [an_entry(number, files=(file,), urls=(file.url,)) for number in range(10_000)])
    with browser() as chromium, opened(chromium, gallery_of(tmp_path)) as page:
        wait_for_count(page, "10,000 of 10,000")
        for place in (0, 0.5, 1):
            page.evaluate(f"scrollTo(0, document.body.scrollHeight * {place})")
            page.wait_for_selector(f"text=/^prompt {int(place * 9_990)}$/")
            assert page.evaluate("document.querySelectorAll('*').length") < 600
        page.fill("#search", "prompt 9876")
        wait_for_count(page, "1 of 10,000")


def test_every_state_has_its_card(tmp_path: Path) -> None:
    """What runs, waits, is held or was not saved is there with what it is; a picture that has gone says so."""
    gone = ImageFile(str(tmp_path / "gone.png"), "1" * 64, 1000, "image/png", "https://x.example/gone.png")
    write_journal(
        tmp_path,
        [
            an_entry(0, files=(gone,), urls=(gone.url,)),
            an_entry(1, urls=("javascript:alert(1)", "https://x.example/1.png")),
            an_entry(2, "running", task_id="t2"),
            an_entry(3, "ready", task_id="t3", urls=("javascript:alert(1)",)),
            an_entry(4, "unknown", error=EntryError("UnknownOutcome", "its answer was lost"), lost=1),
        ],
    )
    with browser() as chromium, opened(chromium, gallery_of(tmp_path), complains=True) as page:
        page.wait_for_selector("text=This file cannot be shown")
        assert texts(page, "div.thumb")[1:] == [
            "It is done, and its pictures were not saved.",
            "Its task runs at the provider.",
            "It is made, and its picture is not on disk yet.",
            "UnknownOutcome: its answer was lost",
        ]
        page.locator(".card").nth(1).click()
        wait_for_text(page, "#position", "2 of 5")
        assert page.locator("#original").get_attribute("href") == "https://x.example/1.png"
        page.keyboard.press("ArrowRight")
        wait_for_text(page, "#position", "3 of 5")
        assert page.locator("#original").is_hidden()


def test_only_our_own_page_is_written_over(call: Call, imagen_sandbox: Sandbox) -> None:
    """Somebody's index.html stays as it is, before a cent is spent; a folder without a batch is an error."""
    file = prompt_file("a fox")
    Path("out").mkdir()
    Path("out/index.html").write_text("my own")
    for words in (("batch", file, *at(imagen_sandbox), "-o", "out", "--gallery"), ("gallery", "out")):
        outcome = call(*words)
        assert outcome.code == 2
        assert words[0] != "batch" or "is no gallery of this command" in outcome.err
    assert Path("out/index.html").read_text() == "my own"
    outcome = call("batch", file, *at(imagen_sandbox), "--gallery")
    assert (outcome.code, "-o DIR" in outcome.err) == (2, True)
    assert imagen_sandbox.ledger.creates == []
    assert call("batch", file, *at(imagen_sandbox), "-o", "out").code == 0
    assert "written over" in call("gallery", "out").err
    assert "holds no batch" in call("gallery", "nowhere").err
    odd = os.fsdecode(b"caf\xe9")
    assert "is not UTF-8" in call("batch", file, *at(imagen_sandbox), "-o", odd, "--gallery").err
    Path("out").rename(odd)
    assert "is not UTF-8" in call("gallery", odd).err
