"""A prompt file is checked before anything is sent: each line against its model, and against the folder's journal."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Container, Iterator
from typing import Any, get_args

import msgspec

from .. import ImageRequest
from ..errors import InvalidRequest
from ..ports import JournalEntry
from .library import (
    MET,
    EntryState,
    Identity,
    Journal,
    JournalReader,
    Known,
    Router,
    is_at_end,
    numbered,
    plain_key,
    with_defaults,
)
from .options import FileOptions
from .own_columns import OwnColumns
from .prompt_files import BadLine, Mistakes, PromptFile, PromptLine
from .wording import counted, say

_AT_ONCE = 1000
"""Lines that are written to a journal together."""

_STATES = get_args(EntryState)

_TWINS = 64
"""Requests of one content that are looked at for one of them."""


def checked_file(options: FileOptions, defaults: ImageRequest, router: Router, own: OwnColumns) -> PromptFile | None:
    """Read and check the whole file; None, and every bad line on stderr, when something is wrong with it."""
    router.check_defaults(defaults)
    requests = PromptFile(options.file, options.format, options.limit, options.encoding)
    requests.convert(own.take, own.needs_prompt)

    def admit(request: PromptLine) -> None:
        stated = with_defaults(request, defaults)
        router.route(stated)
        if stated.extra:
            requests.columns.add({"extra": stated.extra})

    bad = requests.check(admit)
    for line in own.told([name for name in requests.columns.names if name != "extra"]):
        say(f"{requests.name}: {line}")
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
    known = Known(journal.path, journal.find, _SeenWords().count, journal.notes(), is_new=not journal.counts())
    return Identity(known, router, defaults, add=add)


class _SeenWords:
    """Counts how often each word was met: of a key, and of its job's being met, in one place."""

    _MET_ONCE = 1 << 32
    _ONCE_EACH = _MET_ONCE + 1

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}

    def count(self, word: str) -> int:
        is_met = word.endswith(MET)
        key = word[: -len(MET)] if is_met else word
        count = self._seen.get(key, 0) + (self._MET_ONCE if is_met else 1)
        # As most are: one number for a million of them.
        self._seen[key] = self._ONCE_EACH if count == self._ONCE_EACH else count
        return count >> 32 if is_met else count % self._MET_ONCE


class JournalLines:
    """What a journal has of a file, by the place of each request in it: a byte of each is all that is kept of most.

    Attributes:
        counts: Requests that the journal has, by state.
        settled: By place, 1 for each request whose result stands, and has nothing left to be done for it.
        keys: By place, keys of requests that are not settled, where they are not those of their content alone.
        moved: The places of requests that stood elsewhere in the file before, by their keys.
        news: What it is to note, now that all of them are known.
        are_edited: True where a line has another number than before, or its other columns said something else.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.settled = bytearray()
        self.keys: dict[int, str] = {}
        self.moved: dict[str, int] = {}
        self.news: dict[str, str] = {}
        self.are_edited = False
        self._states = bytearray()

    def state(self, place: int) -> str | None:
        """The state of the job of the request there; None where the journal has none."""
        number = self._states[place] if place < len(self._states) else 0
        return _STATES[number - 1] if number else None

    def add(self, state: EntryState | None, *, is_settled: bool = False) -> None:
        """The next request has a job in this state, or none."""
        self._states.append(0 if state is None else _STATES.index(state) + 1)
        self.settled.append(is_settled)
        if state is not None:
            self.counts[state] += 1


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
        is_settled = entry is not None and is_at_end(entry)
        if not is_settled and key != plain_key(request, identity.defaults):
            known.keys[place] = key
        if entry is None:
            known.add(None)
            continue
        is_gone = entry.account in gone and entry.state in ("running", "ready", "unknown")
        known.add("queued" if is_gone else entry.state, is_settled=is_settled)
        known.are_edited |= _is_edited(entry.request, request)
        if entry.position != place:
            known.moved[key] = place
    if bad:
        say(*bad.text(requests.name, len(requests)))
        return None
    known.news = identity.late_news
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
