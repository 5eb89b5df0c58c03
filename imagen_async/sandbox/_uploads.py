"""Files that were uploaded to the sandbox, for as long as it runs."""

from __future__ import annotations

import hashlib


class UploadedFiles:
    """Keeps them by their content."""

    def __init__(self) -> None:
        self._files: dict[str, bytes] = {}

    def add(self, data: bytes) -> str:
        """Keep a file; returns its name."""
        name = hashlib.sha256(data).hexdigest()
        self._files[name] = data
        return name

    def get(self, name: str) -> bytes | None:
        """What is kept under a name."""
        return self._files.get(name)

    def at(self, url: str) -> bytes | None:
        """What an address of a kept file leads to; None for any other."""
        return self.get(url.rpartition("/files/uploads/")[2])
