"""A list beside what it is to say: written anew from the first line that differs, and left alone where none does."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from .library import PART_SUFFIX


class Rewriting:
    """One look through a list, line by line. The old list stands until the new one is whole.

    Args:
        path: The list; it may be missing.

    Attributes:
        has_changed: True once it says something else than before, at the end of the block.
    """

    has_changed = False

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = path.with_name(f".{path.name}{PART_SUFFIX}")
        self._same = 0
        self._new: IO[bytes] | None = None

    def __enter__(self) -> Self:
        self._old: IO[bytes] | None = open(self._path, "rb") if self._path.exists() else None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._finish()
        finally:
            for file in (self._old, self._new):
                if file is not None:
                    file.close()
            if self._new is not None and not self.has_changed:
                self._part.unlink(missing_ok=True)

    def put(self, line: bytes) -> None:
        """The next line, as it is to be."""
        if self._new is None:
            if self._old is not None and self._old.readline() == line:
                self._same += len(line)
                return
            self._begin()
        assert self._new is not None
        self._new.write(line)

    def _begin(self) -> None:
        """From here on it differs."""
        self._new = open(self._part, "wb")  # noqa: SIM115 - closed at the end of the block
        if self._old is not None:
            self._old.seek(0)
            while self._same and (piece := self._old.read(min(self._same, 1 << 20))):
                self._new.write(piece)
                self._same -= len(piece)

    def _finish(self) -> None:
        if self._new is None and (self._old is None or self._old.readline()):
            self._begin()
        if self._new is not None:
            self._new.flush()
            os.fsync(self._new.fileno())
            self._new.close()
            os.replace(self._part, self._path)
            self.has_changed = True
