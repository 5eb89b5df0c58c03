"""A prompt file is checked before anything is sent: each line against its model, and against the folder's journal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from .. import ImageRequest
from ..errors import InvalidRequest
from .library import Identity, JournalReader, Known, Router, with_defaults
from .options import FileOptions
from .prompt_files import BadLine, PromptFile
from .wording import counted, say

_CHANGES_SHOWN = 10
"""Changed lines that are named."""


def checked_file(options: FileOptions, defaults: ImageRequest, router: Router) -> PromptFile | None:
    """Read and check the whole file; None, and every bad line on stderr, when something is wrong with it."""
    router.route(defaults)
    requests = PromptFile(options.file, options.format, options.limit)
    bad = requests.check(lambda request: router.route(with_defaults(request, defaults)))
    for name, field in requests.odd_columns():
        say(f"{requests.name}: warning: the column {name!r} is no field ({field}?); it goes to the manifest")
    if bad:
        say(*bad_lines(requests.name, len(requests), bad))
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


def states_of(requests: PromptFile, identity: Identity) -> dict[int, str] | None:
    """The states of those that the journal has, by their line; None, and why on stderr, when some are others now.

    Raises:
        ConfigurationError: The journal's results were made under other defaults.
    """
    bad: list[BadLine] = []
    known: dict[int, str] = {}
    for request in requests:
        try:
            _, entry = identity.of(request)
        except InvalidRequest as error:
            bad.append(BadLine(request.line, error.message))
        else:
            if entry is not None:
                known[request.line] = entry.state
    if bad:
        say(*bad_lines(requests.name, len(requests), bad, _CHANGES_SHOWN))
        return None
    return known


def bad_lines(name: str, requests: int, bad: Sequence[BadLine], at_most: int | None = None) -> list[str]:
    """For people: what is wrong with a file of so many requests."""
    named = [
        f"{name}:{line.line}: {line.problem}" if line.line else f"{name}: {line.problem}" for line in bad[:at_most]
    ]
    of_all = f" of {counted(requests, 'request')}" if requests else ""
    return [*named, f"{counted(len(bad), 'problem')}{of_all}; nothing was sent."]
