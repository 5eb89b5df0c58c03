"""A prompt file is checked before anything is sent: each line against its model, and against the folder's journal."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Container, Iterator
from typing import Any

import msgspec

from .. import ImageRequest
from ..errors import InvalidRequest
from ..ports import JournalEntry
from .library import Identity, Journal, JournalReader, Known, Router, numbered, with_defaults
from .options import FileOptions
from .prompt_files import BadLine, Mistakes, PromptFile, PromptLine
from .wording import counted, say

_AT_ONCE = 1000
"""Lines that are written to a journal together."""

_TWINS = 64
"""Requests of one content that are looked at for one of them."""


def checked_file(options: FileOptions, defaults: ImageRequest, router: Router) -> PromptFile | None:
    """Read and check the whole file; None, and every bad line on stderr, when something is wrong with it."""
    router.route(defaults)
    requests = PromptFile(options.file, options.format, options.limit, options.encoding)

    def admit(request: PromptLine) -> None:
        stated = with_defaults(request, defaults)
        router.route(stated)
        if stated.extra:
            requests.columns.add({"extra": stated.extra})

    bad = requests.check(admit)
    for name, field in requests.odd_columns():
        say(f"{requests.name}: warning: the column {name!r} is no field ({field}?); it goes to metadata.jsonl alone")
    if requests.nan_prompts:
        words = f"{counted(requests.nan_prompts, 'negative prompt')} of the word nan; for none leave the cell empty"
        say(f"{requests.name}: warning: there {'is' if requests.nan_prompts == 1 else 'are'} {words}")
    if bad:
        say(*bad.text(requests.name, len(requests)))
        return None
    return requests


def identity_of(journal: JournalReader, defaults: ImageRequest, router: Router, *, add: bool) -> Identity:
    """What tells which of a journal's requests each line of a file is, for one look through the file."""
    seen: Counter[str] = Counter()

    def times_seen(word: str) -> int:
        seen[word] += 1
        return seen[word]

    known = Known(journal.path, journal.find, times_seen, journal.notes(), is_new=not journal.counts())
    return Identity(known, router, defaults, add=add)


class JournalLines(msgspec.Struct):
    """The lines of a file that a journal has.

    Attributes:
        states: Theirs, by their number.
        moved: The places of requests that stood elsewhere in the file before, by their keys.
        are_edited: True where a line has another number than before, or its other columns said something else.
    """

    states: dict[int, str] = {}
    moved: dict[str, int] = {}
    are_edited: bool = False


def lines_in(requests: PromptFile, identity: Identity, gone: Container[str] = ()) -> JournalLines | None:
    """Which lines a journal has; None, and why on stderr, when some are others now.

    What ran at an account that is gone is queued once more.

    Raises:
        ConfigurationError: The journal's results were made under other defaults.
    """
    bad = Mistakes()
    known = JournalLines()
    for place, request in enumerate(requests):
        try:
            key, entry = identity.of(request)
        except InvalidRequest as error:
            bad.add(BadLine(request.line, error.message))
            continue
        if entry is not None:
            is_gone = entry.account in gone and entry.state in ("running", "ready", "unknown")
            known.states[request.line] = "queued" if is_gone else entry.state
            known.are_edited |= _is_edited(entry.request, request)
            if entry.position != place:
                known.moved[key] = place
    if bad:
        say(*bad.text(requests.name, len(requests)))
        return None
    return known


def restate(known: JournalLines, requests: PromptFile, identity: Identity, journal: Journal) -> None:
    """Have a journal's requests stand in the lines, and say in their other columns, what they do in the file now.

    Args:
        known: What the look before has found; its places become those of lines that ask for the same, too.
        requests: A file in which nothing is wrong.
        identity: For one more look through it.
        journal: Whose requests they are, open for writing.
    """
    edited = _edited(requests, identity, journal, known.moved)
    while known.are_edited and (some := dict(itertools.islice(edited, _AT_ONCE))):
        journal.restate(some)


def _edited(
    requests: PromptFile, identity: Identity, journal: Journal, moved: dict[str, int]
) -> Iterator[tuple[str, ImageRequest]]:
    """What the file says of requests now, by their keys, where that is new; `moved` learns of new places beside it."""
    taken: set[str] = set()
    for place, request in enumerate(requests):
        _, entry = identity.of(request)
        if entry is None:
            continue
        meant = entry
        if entry.key in taken or _is_edited(entry.request, request):
            # Of lines that ask for the same, one that was moved or removed: what was made for each keeps its columns.
            alike = [entry] if request.key else [entry, *_twins(entry, journal)]
            free = [each for each in alike if each.key not in taken] or [entry]
            meant = next((each for each in free if _columns(each) == request.columns), free[0])
            yield meant.key, msgspec.structs.replace(meant.request, line=request.line, columns=request.columns)
        if meant is not entry:
            moved[meant.key] = place
        taken.add(meant.key)


def _twins(entry: JournalEntry, journal: Journal) -> Iterator[JournalEntry]:
    """The journal's other jobs of the same content, whose keys are numbered."""
    stem, _, number = entry.key.rpartition("-")
    first = stem if stem and number.isdigit() else entry.key
    for occurrence in range(1, _TWINS):
        other = journal.find(numbered(first, occurrence))
        if other is None:
            return
        if other.key != entry.key:
            yield other


def _columns(entry: JournalEntry) -> dict[str, Any] | None:
    return entry.request.columns if isinstance(entry.request, PromptLine) else None


def _is_edited(before: ImageRequest, now: PromptLine) -> bool:
    return not isinstance(before, PromptLine) or (before.line, before.columns) != (now.line, now.columns)
