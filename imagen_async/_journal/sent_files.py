"""What a journal knows of files that have gone in: what runs, or is done, needs them no more."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import PurePath

from .._core.values import InputFile
from .file import Journal
from .reader import JournalReader


def files_sent(journal: object) -> Callable[[str], InputFile | None]:
    """What tells what was in a file that an earlier run has sent, by its name; the journal is read once it is asked.

    Args:
        journal: The path of one, or one that is open. Of another store nothing is known: it works in one thread only.
    """
    path = journal.path if isinstance(journal, Journal) else journal

    @cache
    def known() -> dict[str, InputFile]:
        if not isinstance(path, str | PurePath) or not os.path.exists(path):
            return {}
        with JournalReader(path) as reader:
            sent = (entry.request.local_files for entry in reader.entries() if entry.state != "queued")
            return {name: file for files in sent for name, file in files.items()}

    return lambda name: known().get(name)
