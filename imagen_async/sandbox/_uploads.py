"""Files that were uploaded to the sandbox, for as long as it runs."""

from __future__ import annotations

import hashlib

import msgspec

from .._core.file_kinds.kinds import kind_of


class UploadedFile(msgspec.Struct, frozen=True):
    """A file that is kept.

    Attributes:
        name: Under which it is.
        data: Its content.
    """

    name: str
    data: bytes

    @property
    def media_type(self) -> str:
        """What it is by its first bytes."""
        kind = kind_of(self.data)
        return "application/octet-stream" if kind is None else kind.media_type


class UploadedFiles:
    """Keeps them by their content."""

    def __init__(self) -> None:
        self._files: dict[str, UploadedFile] = {}

    def add(self, data: bytes) -> UploadedFile:
        """Keep a file."""
        name = hashlib.sha256(data).hexdigest()
        return self._files.setdefault(name, UploadedFile(name, data))

    def get(self, name: str) -> UploadedFile | None:
        """What is kept under a name."""
        return self._files.get(name)

    def at(self, url: str) -> UploadedFile | None:
        """What an address of a kept file leads to; None for any other."""
        return self.get(url.rpartition("/files/uploads/")[2])
