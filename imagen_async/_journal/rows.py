"""A journal's rows and what they stand for: entries, some fields of which are JSON in their column."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from .._core.journal_entry import EntryError, JournalEntry
from .._core.values import ImageFile, ImageRequest
from .._text import well_formed
from .schema import COLUMNS

_LISTS = [list(COLUMNS).index(name) for name in ("urls", "files", "error", "lost_creates", "ignored")]
"""Where in a row what is JSON stands beside the request; the columns are in the order of the entry's fields."""

_encode = msgspec.json.Encoder().encode
_decode_files = msgspec.json.Decoder(tuple[ImageFile, ...]).decode
_DECODERS: dict[str, Callable[[str], object]] = {
    "urls": msgspec.json.Decoder(tuple[str, ...]).decode,
    "error": msgspec.json.Decoder(EntryError).decode,
    "lost_creates": msgspec.json.Decoder(tuple[int, ...]).decode,
    "ignored": msgspec.json.Decoder(tuple[str, ...]).decode,
}
"""Of the other columns that are JSON."""

assert tuple(COLUMNS) == JournalEntry.__struct_fields__
_REQUEST = tuple(COLUMNS).index("request")
_EMPTY = {place: None if name == "error" else () for place, name in enumerate(COLUMNS)}

_NAME = re.compile(r"\w[\w.-]*")
"""Of a file in the journal's own folder, as most are."""


class Rows:
    """Makes rows of entries, and entries of rows; raises msgspec's errors for a row that somebody has spoilt.

    Args:
        folder: That of the journal, as it was named.
        real_folder: The same by its real name, which a file's path is compared with.
        request_type: What requests are read as.
    """

    def __init__(self, folder: str, real_folder: str, request_type: type[ImageRequest]) -> None:
        self._folder = folder
        self._real_folder = real_folder
        self.decode_request = msgspec.json.Decoder(request_type).decode
        start = "" if os.path.normpath(folder) == os.curdir else os.path.join(os.path.normpath(folder), "")
        self._start = start
        decoders = {"files": self._files, **_DECODERS}
        self._decoders = [(place, decoders[name]) for place, name in enumerate(COLUMNS) if name in decoders]

    def entry(self, row: Sequence[Any]) -> JournalEntry:
        """What a whole row says, in the order of `COLUMNS`."""
        values = list(row)
        values[_REQUEST] = self.decode_request(values[_REQUEST])
        for place, decode in self._decoders:
            text = values[place]
            # None is how a row says that there is none, whatever the field is made of.
            values[place] = decode(text) if text else _EMPTY[place]
        return JournalEntry(*values)

    def row(self, entry: JournalEntry, *, is_moved: bool = False) -> list[Any]:
        """The row that says the same as an entry; without its request where the job has a row, in which that stays."""
        if entry.files:
            files = tuple(msgspec.structs.replace(file, path=self._relative(file.path)) for file in entry.files)
            entry = msgspec.structs.replace(entry, files=files)
        row: list[Any] = list(msgspec.structs.astuple(entry))
        row[_REQUEST] = None if is_moved else _text(entry.request)
        for place in _LISTS:
            row[place] = _text(row[place])
        return row

    def encode_request(self, request: ImageRequest) -> str:
        """A request as it stands in its column."""
        return _encode(request).decode()

    def _files(self, text: str) -> tuple[ImageFile, ...]:
        return tuple(map(self._found, _decode_files(text)))

    def _found(self, file: ImageFile) -> ImageFile:
        """A file as it is named here: the journal's folder may have moved since."""
        if _NAME.fullmatch(file.path):
            return msgspec.structs.replace(file, path=self._start + file.path)
        return msgspec.structs.replace(file, path=os.path.normpath(os.path.join(self._folder, file.path)))

    def _relative(self, path: str) -> str:
        """A file below the journal's folder is named from there, so that the folder can move; any other as a whole."""
        # Both by their real names: a link would make what lies inside look as if it lay elsewhere.
        real = os.path.realpath(path)
        inside = real.startswith(os.path.join(self._real_folder, ""))
        relative = os.path.relpath(real, self._real_folder)
        names = (relative,) if inside else (real, relative, os.path.abspath(path))
        # A folder's real name may be no text, which has no place in the file: then as it can be said.
        return next((name for name in names if name == well_formed(name)), names[0])


def _text(value: object) -> str | None:
    """As JSON; nothing for what is empty."""
    return _encode(value).decode() if value else None
