"""The gallery of a folder: one page beside the pictures that shows them all, with nothing from anywhere else."""

from __future__ import annotations

import base64
import hashlib
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import quote

from ...errors import ConfigurationError
from ...ports import EntryError, JournalEntry
from ..as_json import other_columns, pictures_json
from ..library import FIELDS, PART_SUFFIX, JournalReader, earlier_result
from ..manifest import METADATA
from ..picture_sizes import ListedSizes, Sizes
from ..pictures import kept, removed_text
from ..wording import amount, counted

PAGE = "index.html"
"""The page's name in its folder, where a web server would look for it too."""

GENERATOR = "imagen-async gallery"
"""What a page of ours says of itself: only such a one is written over."""

REMOVED = "removed"
"""The state of a picture that is in the folder no more."""

LONGEST_TEXT = 4000
"""Characters that it shows of a result of words; the file has all."""

_PIECE = 1 << 20
"""Characters of the cards that are put into the page at a time."""

_GONE = "It was removed from the folder."

_WAITING = {
    "queued": "It waits to be sent.",
    "submitting": "Its create is on the way, or was when its process ended.",
    "running": "Its task runs at the provider.",
    "ready": "It is made, and its picture is not on disk yet.",
    "done": "It is done, and its pictures were not saved.",
}
"""What a card without a picture says where nothing went wrong."""


def refuse_foreign_page(folder: str) -> None:
    """Raise ConfigurationError where the page's place is taken by something else."""
    path = Path(folder, PAGE)
    if path.exists() and f'content="{GENERATOR}"'.encode() not in path.read_bytes()[:4096]:
        raise ConfigurationError(f"{path} is no gallery of this command, and is not written over. Move it away.")


def write_gallery(folder: str, journal: JournalReader) -> tuple[Path, str]:
    """Write the page of a folder anew.

    Returns:
        Where it is, and a few words on what is in it.

    Raises:
        ConfigurationError: Its place is taken, or it cannot be written.
    """
    path = Path(folder, PAGE)
    try:
        refuse_foreign_page(folder)
        part = path.with_name(f".{PAGE}{PART_SUFFIX}")
        with open(part, "w", encoding="utf-8", errors="replace") as page:
            summary = _write_page(page, journal, Path(folder))
        os.replace(part, path)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror or error}.") from error
    return path, summary


def _write_page(page: TextIO, journal: JournalReader, folder: Path) -> str:
    """Write the page; returns a few words on what is in it."""
    from jinja2 import Environment, PackageLoader  # only here: every other command would wait for it
    from markupsafe import Markup

    environment = Environment(loader=PackageLoader(__package__, ""), autoescape=True)
    assert environment.loader is not None
    style, script = (environment.loader.get_source(environment, name)[0] for name in ("style.css", "script.js"))
    # The page begins with how many cards there are, and what they cost: so the cards are written first, elsewhere.
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace", dir=folder) as cards:
        figures = _write_cards(cards, journal, folder)
        cards.seek(0)
        pieces = environment.get_template("page.html").generate(
            title=folder.resolve().name,
            generator=GENERATOR,
            summary=figures.text(),
            count=figures.cards,
            cards=map(Markup, iter(partial(cards.read, _PIECE), "")),
            labels=[(field.name, field.label) for field in FIELDS if field.label],
            # Ours, and free of what would end their elements; the hashes let nothing else run.
            style=Markup(style),
            script=Markup(script),
            style_hash=Markup(_hash(style)),
            script_hash=Markup(_hash(script)),
        )
        page.writelines(pieces)
    return figures.text()


def _write_cards(file: TextIO, journal: JournalReader, folder: Path) -> _Figures:
    """Write all cards as a JSON array that can stand in a page; one after the other, however many there are."""
    from jinja2.utils import htmlsafe_json_dumps

    figures = _Figures()
    file.write("[")
    for card in cards_of(journal, folder):
        file.write(", " if figures.cards else "")
        file.write(htmlsafe_json_dumps(card, sort_keys=True))
        figures.add(card)
    file.write("]")
    return figures


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


class _Figures:
    """What the cards of a page come to.

    Attributes:
        cards: How many there are.
    """

    def __init__(self) -> None:
        self.cards = 0
        self._pictures = 0
        self._credits = 0.0
        self._others: Counter[str] = Counter()

    def add(self, card: Mapping[str, Any]) -> None:
        self.cards += 1
        self._credits += card["credits"] or 0.0
        if card["file"] is None:
            self._others[card["state"]] += 1
        else:
            self._pictures += 1

    def text(self) -> str:
        """In a few words."""
        removed = self._others[REMOVED]
        others = sorted((state, count) for state, count in self._others.items() if state != REMOVED)
        parts = [counted(self._pictures, "picture"), *(f"{count:,} {state}" for state, count in others)]
        parts += [removed_text(removed)] if removed else []
        return f"{', '.join(parts)}; {amount(self._credits)} credits"


def cards_of(journal: JournalReader, folder: Path) -> Iterator[dict[str, Any]]:
    """A card for each picture, and for each request that has none; in the order of the input."""
    with ListedSizes(folder / METADATA) as sizes:
        for entry in journal.entries(by_position=True):
            yield from _cards(entry, folder, sizes)


def _cards(entry: JournalEntry, folder: Path, sizes: Sizes) -> Iterator[dict[str, Any]]:
    result = earlier_result(entry)
    common = _common(entry)
    there = kept(result)
    for file, picture in zip(there.files, pictures_json(there, folder, sizes), strict=True):
        name = Path(picture["file_name"]).as_posix()
        figures = {field: picture[field] for field in ("width", "height", "credits")}
        yield {
            **common,
            **figures,
            "file": f"./{quote(os.fsencode(name))}",
            "name": name,
            "bytes": file.size,
            "media": file.media_type.partition("/")[0],
            **({"text": entry.text[:LONGEST_TEXT]} if entry.text else {}),
        }
    for _ in range(len(result.files) - len(there.files)):
        share = None if result.credits is None else result.credits / max(1, len(result.urls))
        yield {**common, "state": REMOVED, "credits": share, "file": None, "reason": _GONE, "url": None}
    if not result.files:
        reason = common["reason"] or _WAITING.get(entry.state)
        # Whatever else a provider calls a URL is not put into a page.
        link = next((url for url in entry.urls if url.startswith(("https://", "http://"))), None)
        yield {**common, "credits": entry.credits, "file": None, "reason": reason, "url": link}


def _common(entry: JournalEntry) -> dict[str, Any]:
    """What all cards of a request say."""
    asked = {field.name: _exact(getattr(entry.request, field.name)) for field in FIELDS if field.column_type}
    return {
        **asked,
        "model": entry.model or None,
        "provider": entry.account,
        "key": entry.key,
        "index": entry.position,
        "task_id": entry.task_id,
        "latency": entry.latency,
        "ended_at": entry.ended_at,
        "state": entry.state,
        "reason": None if entry.error is None else _reason(entry.error),
        "columns": {name: _exact(value) for name, value in other_columns(entry.request).items()},
    }


def _reason(error: EntryError) -> str:
    code = "" if error.code is None else f" ({error.code})"
    return f"{error.type}{code}: {error.message}"


def _exact(value: Any) -> Any:
    """A number as the page can show it: its script has no whole numbers beyond these."""
    return str(value) if isinstance(value, int) and abs(value) > 2**53 - 1 else value
