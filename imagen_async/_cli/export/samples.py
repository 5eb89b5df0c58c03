"""The pictures of a folder, each with all that is known of it: what an export is made of."""

from __future__ import annotations

import hashlib
import itertools
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from ... import ImageFile
from ...ports import JournalEntry
from ..as_json import columns_of, pictures_json
from ..library import JournalReader, earlier_result
from ..manifest import METADATA
from ..picture_sizes import ListedSizes, Sizes
from ..pictures import kept


class Sample(msgspec.Struct, frozen=True):
    """One picture and what is known of it.

    Attributes:
        name: Its name in an export: unique, and without a dot, where WebDataset takes the rest for an ending.
        file: Where it lies.
        line: Its line of `metadata.jsonl`.
    """

    name: str
    file: ImageFile
    line: dict[str, Any]

    def read(self) -> bytes | None:
        """Its bytes; None where they are not those that were saved."""
        try:
            data = Path(self.file.path).read_bytes()
        except OSError:
            return None
        return data if hashlib.sha256(data).hexdigest() == self.file.sha256 else None


class Samples:
    """Every picture that the journal of a folder has, and that is there, in the order of the prompt file.

    Looked through anew by whoever loops over it, so that they need not all be in memory.

    Attributes:
        removed: Pictures that the journal has and that are there no more, as the last loop has found.
    """

    def __init__(self, journal: JournalReader, folder: Path) -> None:
        self.removed = 0
        self._journal = journal
        self._folder = folder
        self._columns = columns_of(entry.request for entry in journal.entries())

    def __iter__(self) -> Iterator[Sample]:
        self.removed = 0
        with ListedSizes(self._folder / METADATA) as sizes, closing(_Names()) as names:
            entries = self._journal.entries(by_position=True)
            for _, alike in itertools.groupby(entries, key=lambda entry: entry.position):
                found = [each for entry in alike for each in self._pictures(entry, sizes)]
                for file, picture in sorted(found, key=lambda each: str(each[1]["file_name"])):
                    name = Path(picture["file_name"]).stem.replace(".", "-")
                    while not names.take(name):  # pictures of two kinds, or of several folders
                        name += f"-{file.sha256[:8]}"
                    yield Sample(name, file, picture)

    def _pictures(self, entry: JournalEntry, sizes: Sizes) -> Iterator[tuple[ImageFile, dict[str, Any]]]:
        result = kept(earlier_result(entry))
        self.removed += len(entry.files) - len(result.files)
        return zip(result.files, pictures_json(result, self._folder, sizes, self._columns), strict=True)


class _Names:
    """The names that are taken: on disk beyond some megabytes."""

    def __init__(self) -> None:
        # Without a name a database is a temporary one.
        self._taken = sqlite3.connect("", isolation_level=None)
        self._taken.execute("PRAGMA journal_mode = OFF")
        self._taken.execute("CREATE TABLE names (name TEXT PRIMARY KEY NOT NULL) WITHOUT ROWID")
        self._taken.execute("BEGIN")

    def take(self, name: str) -> bool:
        """Take a name; False where it is taken."""
        return self._taken.execute("INSERT OR IGNORE INTO names VALUES (?)", (name,)).rowcount > 0

    def close(self) -> None:
        self._taken.close()
