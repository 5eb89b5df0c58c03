"""A prompt file is checked before anything is sent: each line against its model, and against the folder's journal."""

from __future__ import annotations

from collections.abc import Sequence

from .. import ImageRequest
from .library import JournalReader, Router, changes, with_defaults
from .options import FileOptions
from .prompt_files import BadLine, PromptFile
from .wording import counted, say

_CHANGES_SHOWN = 10
"""Changed lines that are named: mostly one changed option has changed them all."""


def checked_file(options: FileOptions, defaults: ImageRequest, router: Router) -> PromptFile | None:
    """Read and check the whole file; None, and every bad line on stderr, when something is wrong with it."""
    router.route(defaults)
    requests = PromptFile(options.file, options.format, options.limit)
    bad = requests.check(lambda request: router.route(with_defaults(request, defaults)))
    for name, field in requests.odd_columns():
        say(f"{requests.name}: warning: the column {name!r} is no field ({field}?); it goes to the manifest")
    if bad:
        say("\n".join(bad_lines(requests.name, len(requests), bad)))
        return None
    return requests


def states_of(
    requests: PromptFile, journal: JournalReader, defaults: ImageRequest, router: Router
) -> dict[str, str] | None:
    """The states of those that the journal has, by key; None, and why on stderr, when some are others now."""
    bad: list[BadLine] = []
    known: dict[str, str] = {}
    for request in requests:
        entry = journal.find(str(request.key))
        if entry is None:
            continue
        known[entry.key] = entry.state
        found = changes(entry, router.as_before(entry.request, with_defaults(request, defaults)))
        if found:
            what = f"the key {entry.key!r} stood for another request in {journal.path}: {'; '.join(found)}"
            bad.append(BadLine(request.line, f"{what}; change it back, give it a new key, or choose another -o"))
    if bad:
        say("\n".join(bad_lines(requests.name, len(requests), bad, _CHANGES_SHOWN)))
        return None
    return known


def bad_lines(name: str, requests: int, bad: Sequence[BadLine], at_most: int | None = None) -> list[str]:
    """For people: what is wrong with a file of so many requests."""
    named = [
        f"{name}:{line.line}: {line.problem}" if line.line else f"{name}: {line.problem}" for line in bad[:at_most]
    ]
    of_all = f" of {counted(requests, 'request')}" if requests else ""
    return [*named, f"{counted(len(bad), 'problem')}{of_all}; nothing was sent."]
