"""Width and height of pictures: as an older list has them, or as the pictures themselves say."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Protocol, Self

import anyio
import msgspec
from PIL import Image

from .. import ImageFile
from .library import OffLoop

_KEPT = 4096
"""Lines of a list that are read before somebody asks for them: a batch has far fewer tasks out of their order."""


Size = tuple[int | None, int | None]


class Sizes(Protocol):
    """Width and height in pixels of pictures, by their sha256."""

    def get(self, sha256: str, /) -> Size | None:
        """Of one picture; None where they are not known."""


class _Listed(msgspec.Struct, frozen=True, gc=False):
    sha256: str
    width: int
    height: int


_decode = msgspec.json.Decoder(_Listed).decode


class ListedSizes:
    """Width and height of the pictures that an older list names, so that these need not be opened again.

    It is read in step with whoever asks, in nearly its own order: the lines that nobody asked for yet are kept, up to a
    few thousand of them, and what is not found so counts as not known.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._waiting: dict[str, list[tuple[int, int]]] = {}

    def __enter__(self) -> Self:
        self._file = open(self._path, "rb") if self._path.is_file() else None
        self._listed = self._read()
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def get(self, sha256: str, /) -> Size | None:
        """Of one picture; each line of the list tells it once."""
        waiting = self._waiting
        if sha256 in waiting:
            sizes = waiting[sha256]
            size = sizes.pop()
            if not sizes:
                del waiting[sha256]
            return size
        for listed in self._listed:
            if listed.sha256 == sha256:
                return listed.width, listed.height
            waiting.setdefault(listed.sha256, []).append((listed.width, listed.height))
            if len(waiting) > _KEPT:
                del waiting[next(iter(waiting))]
                break
        return None

    def _read(self) -> Iterator[_Listed]:
        for line in self._file or ():
            # One that could not be opened, for want of a handle, or that a crash has torn, tells nothing.
            with contextlib.suppress(msgspec.MsgspecError):
                yield _decode(line)


async def sizes_of(files: Sequence[ImageFile]) -> Sizes:
    """Open pictures in a worker thread: their disk may be slow, and the event loop has jobs to tend."""
    sizes: dict[str, Size] = {}
    if files:
        with anyio.CancelScope(shield=True):  # it is soon over, and what was paid for is listed on the way out too
            with closing(OffLoop("imagen-sizes", 1)) as off_loop:
                sizes.update(await off_loop.run(_read, files))
    return sizes


def _read(files: Sequence[ImageFile]) -> dict[str, Size]:
    return {file.sha256: size_of(file.path) for file in files}


def size_of(path: str) -> Size:
    """Width and height in pixels; None for a picture that is one by its first bytes only."""
    try:
        with Image.open(path) as picture:
            return picture.size
    # Of a broken PNG Pillow says SyntaxError.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None, None
