"""The folder of a batch: where its journal lies."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import ConfigurationError

JOURNAL = "run.db"
"""The journal's name in the folder of its pictures."""


def journal_of(folder: str) -> str:
    """The journal of a batch's folder; raises ConfigurationError where there is none."""
    path = Path(folder, JOURNAL)
    if not path.exists():
        raise ConfigurationError(f"{folder} holds no batch: there is no {JOURNAL} in it.")
    return str(path)


def journal_in(folder: str | None) -> Path | None:
    """The journal of a folder, or None where no batch has been; raises ConfigurationError for what is no folder."""
    if folder is None or not os.path.lexists(folder):
        return None
    if not os.path.isdir(folder):
        raise ConfigurationError(f"{folder} is no folder.")
    path = Path(folder, JOURNAL)
    return path if path.exists() else None
