"""What a journal knows of files that have gone in: what runs, or is done, needs them no more."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import PurePath

from .._core.values import InputFile
from .reader import JournalReader


def files_sent(journal: str | PurePath | None) -> Callable[[str], InputFile | None]:
    """What tells what was in a file that an earlier run has sent, by its name; the journal is read once it is asked."""

    @cache
    def known() -> dict[str, InputFile]:
        if journal is None or not os.path.exists(journal):
            return {}
        with JournalReader(journal) as reader:
            sent = (entry.request.local_files for entry in reader.entries() if entry.state != "queued")
            return {name: file for files in sent for name, file in files.items()}

    return lambda name: known().get(name)
