"""Which pictures of a folder are there still: one that its owner has removed is in no list, and is not made again."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

import msgspec

from .. import ImageFile, Result
from ..ports import JournalEntry
from .wording import counted


def is_there(file: ImageFile) -> bool:
    """True where a picture lies where it was saved, and is not empty."""
    try:
        found = os.stat(file.path)
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size > 0


def kept(result: Result) -> Result:
    """A result with those of its pictures that are there."""
    if all(map(is_there, result.files)):
        return result
    return msgspec.structs.replace(result, files=tuple(filter(is_there, result.files)))


def removed_in(entries: Iterable[JournalEntry]) -> int:
    """How many pictures of a journal are there no more."""
    return sum(not is_there(file) for entry in entries for file in entry.files)


def removed_text(count: int) -> str:
    """So many pictures are there no more."""
    return f"{counted(count, 'picture')} {'was' if count == 1 else 'were'} removed from the folder"
