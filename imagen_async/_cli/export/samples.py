"""The pictures of a folder, each with all that is known of it: what an export is made of."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from ... import ImageFile
from ..as_json import columns_of, pictures_json
from ..library import JournalReader, earlier_result
from ..manifest import METADATA
from ..picture_sizes import sizes_in
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


def samples_of(journal: JournalReader, folder: Path) -> list[Sample]:
    """Every picture that the journal of a folder has, and that is there, in the order of the prompt file."""
    sizes = sizes_in(folder / METADATA)
    columns = columns_of(entry.request for entry in journal.entries())
    found = [
        (file, picture)
        for result in map(kept, map(earlier_result, journal.entries()))
        for file, picture in zip(result.files, pictures_json(result, folder, sizes, columns), strict=True)
    ]
    samples: dict[str, Sample] = {}
    for file, picture in sorted(found, key=lambda each: (each[1]["index"], each[1]["file_name"])):
        name = Path(picture["file_name"]).stem.replace(".", "-")
        while name in samples:  # pictures of two kinds, or of several folders
            name += f"-{file.sha256[:8]}"
        samples[name] = Sample(name, file, picture)
    return list(samples.values())
