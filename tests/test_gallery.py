"""The gallery: what it shows, in a real Chromium from file://, and that no prompt can break out of its place."""

from __future__ import annotations

import contextlib
import html
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from browsers import NASTY, chromium_of_the_machine, place_of_picture
from commands import Call, at, call, clean_environment, prompt_file
from conftest import naming
from files import FILES
from inner import Journal, JournalReader, PromptLine
from PIL import Image

from imagen_async import ImageFile
from imagen_async._cli.gallery.page import write_gallery
from imagen_async.ports import EntryError, JournalEntry
from imagen_async.sandbox import Sandbox

if TYPE_CHECKING:
    from playwright.sync_api import Page

__all__ = ["call", "clean_environment"]

LARGE = 2**53 + 1
"""A seed that a page's own numbers cannot hold."""


@contextlib.contextmanager
def opened(path: Path, width: int = 1280, complains: bool = False, **terms: Any) -> Iterator[Page]:
    """The page as a person opens it, from its file; what it complains of, or fetches from elsewhere, is a failure."""
    found = chromium_of_the_machine()
    from playwright.sync_api import sync_playwright  # only here: every worker would wait for it

    complaints: list[str] = []
    # The machine may be busy, and no wait here measures a time.
    with sync_playwright() as playwright, naming(complaints):
        chromium = playwright.chromium.launch(executable_path=found, timeout=120_000)
        page = chromium.new_page(viewport={"width": width, "height": 800}, offline=True, **terms)
        page.set_default_timeout(120_000)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: complaints.extend([request.url] * (not request.url.startswith("file:"))))
        page.goto(path.absolute().as_uri())
        yield page
        chromium.close()
    assert complains or complaints == []


def take_picture(page: Page, name: str) -> None:
    """Take a picture of a page, where one is asked for."""
    if (path := place_of_picture(name)) is not None:
        page.screenshot(path=path)


def wait_for(page: Page, condition: str, argument: object = None) -> None:
    """Wait until a condition holds in the page. Not asked at each frame: a busy machine may draw none for long."""
    page.wait_for_function(condition, arg=argument, polling=50)


def wait_for_text(page: Page, selector: str, text: str) -> None:
    """Wait until the first such element says exactly this; the count says it once the cards are laid out, too."""
    wait_for(page, "([selector, text]) => document.querySelector(selector)?.textContent === text", [selector, text])


def texts(page: Page, selector: str) -> list[str]:
    """What these elements say."""
    return page.locator(selector).all_text_contents()


def picture(path: Path, width: int = 288) -> ImageFile:
    """A picture that a batch has saved."""
    Image.new("RGB", (width, 288), "teal").save(path)
    return ImageFile(str(path), path.stem, 1000, "image/png", f"https://x.example/{path.name}")


def an_entry(number: int, state: Any = "done", account: str = "kie", **fields: Any) -> JournalEntry:
    """One request as a journal has it; what is no field of an entry is asked for."""
    own = {name: fields.pop(name) for name in JournalEntry.__struct_fields__ if name in fields}
    own = {"urls": tuple(file.url for file in own.get("files", ())), **own}
    asked = PromptLine(**{"prompt": f"prompt {number}", "model": "imagen4", "key": str(number), **fields})
    return JournalEntry(str(number), number, state, account, asked, attempts=1, **own)


def gallery_of(folder: Path, entries: Iterable[JournalEntry]) -> Path:
    """The gallery of a folder whose journal has these, as a batch would leave it."""
    rows = list(entries)
    with Journal(folder / "run.db", PromptLine) as journal:
        sent = [(row.key, row.position, "submitting", row.account, row.request) for row in rows]
        journal.write([JournalEntry(*fields, attempts=1) for fields in sent])
        journal.write(rows)
    with JournalReader(folder / "run.db", PromptLine) as journal:
        return write_gallery(str(folder), journal)[0]


def made_of(files: list[ImageFile], number: int) -> JournalEntry:
    """One of 10,000: some of another model, some with a seed, three that failed."""
    asked = {"model": "imagen4" if number % 5 else "imagen4-fast", "seed": number if number % 2 else None}
    if number in (30, 31, 33):
        error = EntryError("GenerationFailed", "flagged", "SENSITIVE_WORD" if number > 30 else 500)
        return an_entry(number, "failed", error=error, **asked)
    made = {"files": (files[number % 7 == 0],), "credits": 8.0, "latency": 5 + number * 37 % 100 / 10, "task_id": "t"}
    return an_entry(number, columns={"category": "Animals"}, **asked, **made)


@pytest.mark.slow
def test_ten_thousand_pictures_in_a_browser(tmp_path: Path) -> None:
    """Grid, search, filters, sorting, viewer, keys and colours do what they say.

    Only the cards in view are in the page, from the first to the last; a search looks at all.
    """
    files = [picture(tmp_path / "square.png"), picture(tmp_path / "wide.png", 512)]
    sizes = [{"sha256": "square", "width": 288, "height": 288}, {"sha256": "wide", "width": 512, "height": 288}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, sizes)))
    path = gallery_of(tmp_path, (made_of(files, number) for number in range(10_000)))
    with opened(path) as page:
        _check_grid(page)
        _check_finding(page)
        _check_viewer(page)
    with opened(path, width=900, color_scheme="dark") as page:
        wait_for(page, SEEN_AND_SHOWN)
        take_picture(page, "gallery-dark")
        has_colour = "colour => getComputedStyle(document.body).backgroundColor === colour"
        wait_for(page, has_colour, "rgb(19, 20, 22)")
        page.click("#theme")
        wait_for(page, has_colour, "rgb(246, 246, 247)")


SEEN_AND_SHOWN = """() => [...document.querySelectorAll('.cell img')].filter(picture => {
    const place = picture.getBoundingClientRect(); return place.bottom > 0 && place.top < innerHeight;
}).every(picture => picture.complete && picture.naturalWidth > 0)"""


def _check_grid(page: Page) -> None:
    wait_for(page, SEEN_AND_SHOWN)
    take_picture(page, "gallery-light")
    assert page.locator("#summary").inner_text() == "9,997 pictures, 3 failed; 79,976 credits"
    wait_for_text(page, "#count", "10,000 of 10,000")
    lines = page.locator(".cell").filter(has_text="prompt 3").first.locator(".line").all_text_contents()[-2:]
    assert lines == ["imagen4 · kie", "288×288 · seed 3 · 8 credits · 6.1 s"]
    for place in (0.5, 1, 0):
        page.evaluate(f"scrollTo(0, document.body.scrollHeight * {place})")
        page.wait_for_selector(f"text=/^prompt {int(place * 9_990)}$/")
        wait_for(page, SEEN_AND_SHOWN)
        assert 15 < page.locator(".cell").count() < 60, "what is not seen is not laid out"
        assert page.evaluate("document.querySelectorAll('*').length") < 600


def _check_finding(page: Page) -> None:
    def finds(number: str, *, search: str = "", **chosen: str) -> None:
        page.fill("#search", search)
        for name, value in chosen.items():
            page.select_option(f"#{name}", value)
        wait_for_text(page, "#count", f"{number} of 10,000")

    finds(str(sum("99" in str(number) and "49" in str(number) for number in range(10_000))), search="99 Prompt 49")
    finds("2,000", model="imagen4-fast", sort="prompt")
    wait_for_text(page, ".words", "prompt 0")
    assert texts(page, ".words")[:3] == ["prompt 0", "prompt 5", "prompt 10"]
    finds("2,000", sort="slowest first")
    latencies = [float(text.rsplit("· ", 1)[1].removesuffix(" s")) for text in texts(page, ".line") if "×" in text]
    assert latencies == sorted(latencies, reverse=True)
    finds("3", model="", provider="kie", state="failed")
    reasons = ["GenerationFailed (500): flagged", "GenerationFailed (SENSITIVE_WORD): flagged"]
    assert sorted(texts(page, "div.thumb"))[::2] == reasons
    take_picture(page, "gallery-failures")
    finds("2", search="sensitive_word")
    finds("0", search="nothing like it")
    assert page.locator(".cell").count() == 0
    finds("10,000", state="", sort="order of the input")


def _check_viewer(page: Page) -> None:
    def press(*keys: str, shows: str) -> None:
        for key in keys:
            page.keyboard.press(key)
        wait_for_text(page, "#prompt", shows)

    has_focus = "number => document.activeElement.dataset.number === number"
    page.locator(".card").filter(has_text="prompt 2").first.click()
    press(shows="prompt 2")
    wait_for(page, "() => document.querySelector('#stage img')?.naturalWidth === 288")
    press("ArrowRight", "ArrowRight", shows="prompt 4")
    press("ArrowLeft", shows="prompt 3")
    details = dict(zip(texts(page, "dt"), texts(page, "dd"), strict=True))
    assert (details["category"], details["seed"], details["model"]) == ("Animals", "3", "imagen4")
    take_picture(page, "gallery-viewer")
    page.click("#stage img")
    page.wait_for_selector("#stage.whole")
    press("End", shows="prompt 9999")
    page.wait_for_selector("#next:disabled")
    press("Home", shows="prompt 0")
    page.keyboard.press("Escape")
    wait_for(page, has_focus, "0")
    assert page.locator("#viewer").get_attribute("open") is None
    page.keyboard.press("ArrowDown")
    wait_for(page, has_focus, "5")  # of five cards in a row the one below the first
    press("Enter", shows="prompt 5")
    page.click("#close")


def nasty_in(folder: Path) -> Path:
    """A folder whose prompts, keys, columns, models and reasons all try to break out; with its gallery."""
    file = picture(folder / "x.png")
    rows = []
    for number, text in enumerate(NASTY):
        asked = {"prompt": text, "negative_prompt": text, "seed": LARGE, "columns": {text: text, "id": -LARGE}}
        failed = {"error": EntryError("GenerationFailed", text, text), "model": text, "task_id": text}
        came = failed if number % 2 else {"files": (file,)}
        rows.append(an_entry(number, "failed" if number % 2 else "done", text, **asked, **came))
    return gallery_of(folder, rows)


def test_no_prompt_breaks_out_of_its_place(tmp_path: Path) -> None:
    """Whatever a prompt, key, column, reason or folder's name holds, the page has our elements and runs our script."""
    folder = tmp_path / "<b onclick=x>&amp;"
    folder.mkdir()
    page = nasty_in(folder).read_text(encoding="utf-8")
    # All that is not ours is written without a `<`: whatever opens an element is known.
    tags = Counter(re.findall(r"<(\w+)", page))
    assert [tags[name] for name in ("script", "style", "title", "img", "svg", "b")] == [2, 1, 1, 0, 0, 0]
    assert re.findall(r"<[^>]*\son\w+\s*=", page) == []
    assert f"<title>{html.escape(folder.name)}</title>" in page
    data = json.loads(next(line for line in re.split("<[^>]*>", page) if line.startswith("[{")))
    assert [card["prompt"] for card in data] == list(NASTY)


@pytest.mark.slow
def test_no_prompt_is_run_in_a_browser(tmp_path: Path) -> None:
    """A real browser shows every prompt and detail as it is, runs none of it, and would not run what broke out."""
    path = nasty_in(tmp_path)
    with opened(path) as shown:
        assert [text.strip() for text in texts(shown, ".words")] == [text.strip() for text in NASTY]
        for number in range(len(NASTY)):
            shown.locator(".card").nth(number).click()
            wait_for_text(shown, "#position", f"{number + 1} of {len(NASTY)}")
            details = dict(zip(texts(shown, "dt"), texts(shown, "dd"), strict=True))
            assert (details["seed"], details["id"]) == (str(LARGE), str(-LARGE))
            assert shown.locator("#viewer a[href^='javascript']").count() == 0
            shown.keyboard.press("Escape")
            shown.wait_for_selector("#viewer", state="hidden")
        assert (shown.evaluate("window.broken"), shown.locator("script").count()) == (None, 2)
        assert shown.evaluate("document.querySelectorAll('#grid b, #grid svg, dd *, #prompt *').length") == 0
    # Should one ever break out, the page's own policy stops it: a script put in by hand is not run.
    path.write_text(path.read_text(encoding="utf-8").replace("<main", "<script>window.broken = 1</script><main"))
    with opened(path, complains=True) as broken:
        assert (broken.locator("script").count(), broken.evaluate("window.broken")) == (3, None)


@pytest.mark.slow
def test_every_state_has_its_card(tmp_path: Path) -> None:
    """Whatever runs, waits, is held or unsaved has its card; broken or gone pictures say so; a sound is played."""
    (tmp_path / "x.wav").write_bytes(FILES["WAV"][2])
    heard = ImageFile(str(tmp_path / "x.wav"), "2" * 64, 124, "audio/wav", "https://x.example/x.wav")
    spoilt, gone = (
        ImageFile(str(tmp_path / name), "1" * 64, 1000, "image/png", "https://x.example/1.png") for name in "ab"
    )
    Path(spoilt.path).write_text("what was a picture")
    entries = [
        an_entry(0, files=(spoilt, gone), urls=(spoilt.url, gone.url)),
        an_entry(1, urls=("javascript:alert(1)", "https://x.example/1.png")),
        an_entry(2, "running", task_id="t2"),
        an_entry(3, "ready", task_id="t3", urls=("javascript:alert(1)",)),
        an_entry(4, "unknown", error=EntryError("UnknownOutcome", "its answer was lost"), lost=1),
        an_entry(5, files=(heard,)),
    ]
    with opened(gallery_of(tmp_path, entries), complains=True) as page:
        page.wait_for_selector("text=This file cannot be shown")
        assert texts(page, "div.thumb")[1:] == [
            "It was removed from the folder.",
            "It is done, and its pictures were not saved.",
            "Its task runs at the provider.",
            "It is made, and its picture is not on disk yet.",
            "UnknownOutcome: its answer was lost",
        ]
        wait_for(page, "() => document.querySelector('audio.thumb')?.duration === 0.01", [])
        original = page.locator("#original")
        page.locator(".card").nth(2).click()
        wait_for_text(page, "#position", "3 of 7")
        assert original.get_attribute("href") == "https://x.example/1.png"
        page.keyboard.press("ArrowRight")
        wait_for_text(page, "#position", "4 of 7")
        assert original.is_hidden()


def test_only_our_own_page_is_written_over(call: Call, imagen_sandbox: Sandbox) -> None:
    """Somebody's index.html stays as it is, before a cent is spent and after; our own is made anew."""
    words = ("batch", prompt_file("a fox"), *at(imagen_sandbox), "-o")
    own = Path("out/index.html")
    own.parent.mkdir()
    own.write_text("my own")
    outcome = call(*words, "out", "--gallery")
    refused = (outcome.code, "is no gallery of this command" in outcome.err, imagen_sandbox.ledger.creates)
    assert refused == (2, True, [])
    assert (call(*words, "out").code, "written over" in call("gallery", "out").err) == (0, True)
    assert own.read_text() == "my own"
    made = call(*words, "made", "--gallery")
    assert (made.code, "The pictures are shown by made/index.html\n" in made.err) == (0, True)
    assert call("gallery", "made") == (0, "made/index.html\n", "1 picture; 8 credits\n")
    odd = os.fsdecode(b"caf\xe9")
    assert "is not UTF-8" in call(*words, odd, "--gallery").err
    Path("made").rename(odd)
    assert "is not UTF-8" in call("gallery", odd).err
