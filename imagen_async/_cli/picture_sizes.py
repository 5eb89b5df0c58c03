"""Width and height of pictures: as an older list has them, or as the pictures themselves say."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
from PIL import Image

from .. import ImageFile
from .library import OffLoop

Sizes = Mapping[str, tuple[Any, Any]]
"""Width and height in pixels of pictures, by their sha256."""


def sizes_in(path: Path) -> dict[str, tuple[Any, Any]]:
    """Width and height of the pictures that an older list names, so that these need not be opened again."""
    sizes: dict[str, tuple[Any, Any]] = {}
    if path.is_file():
        with open(path, "rb") as file:
            for line in file:
                with contextlib.suppress(ValueError, LookupError, TypeError):
                    values = json.loads(line)
                    if values["width"] is not None:  # else it could not be opened, for want of a handle
                        sizes[values["sha256"]] = values["width"], values["height"]
    return sizes


async def sizes_of(files: Sequence[ImageFile]) -> Sizes:
    """Open pictures in a worker thread: their disk may be slow, and the event loop has jobs to tend."""
    sizes: dict[str, tuple[Any, Any]] = {}
    if files:
        with anyio.CancelScope(shield=True):  # it is soon over, and what was paid for is listed on the way out too
            with closing(OffLoop("imagen-sizes", 1)) as off_loop:
                sizes.update(await off_loop.run(_read, files))
    return sizes


def _read(files: Sequence[ImageFile]) -> Sizes:
    return {file.sha256: size_of(file.path) for file in files}


def size_of(path: str) -> tuple[int | None, int | None]:
    """Width and height in pixels; None for a picture that is one by its first bytes only."""
    try:
        with Image.open(path) as picture:
            return picture.size
    # Of a broken PNG Pillow says SyntaxError.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None, None
