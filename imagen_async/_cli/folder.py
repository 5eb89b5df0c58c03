"""The folder of a batch: where its journal lies."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ..errors import ConfigurationError
from .library import JournalReader, check_pair

JOURNAL = "run.db"
"""The journal's name in the folder of its pictures."""


def journal_of(folder: str) -> str:
    """The journal of a batch's folder; raises ConfigurationError where there is none, else as `journal_in`."""
    path = _found(folder)
    if path is None:
        raise ConfigurationError(
            f"{folder} holds no batch: there is no {JOURNAL} in it. Name the folder that `batch` was given with -o."
        )
    return str(path)


def journal_in(folder: str | None) -> Path | None:
    """The journal of a folder, or None where no batch has been.

    Raises:
        ConfigurationError: It is no folder.
        JournalError: The journal is missing, and what it knew last is not.
    """
    if folder is None or not os.path.lexists(folder):
        return None
    if not os.path.isdir(folder):
        raise ConfigurationError(f"{folder} is no folder.")
    return _found(folder)


def notes_in(folder: str | None) -> Mapping[str, str] | None:
    """What the journal of a folder has noted, or None where there is none yet, or it has no request."""
    path = journal_in(folder)
    if path is None:
        return None
    with JournalReader(path) as journal:
        return journal.notes() if journal.counts() else None


def _found(folder: str) -> Path | None:
    path = Path(folder, JOURNAL)
    if path.exists():
        return path
    check_pair(os.path.realpath(path))
    return None
