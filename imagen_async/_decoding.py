"""Pictures decoded, where Pillow is there: whether one runs to its end, and what it looks like small.

All of it takes time and memory: do it off the loop. Width × height are looked at first, for that a file of half a
megabyte may hold 177 million pixels.
"""

from __future__ import annotations

import importlib
import io
import logging
from collections.abc import Callable
from typing import Any

from ._watch.log import log

_MOST_MEMORY = 128 << 20
"""Bytes that a picture's pixels may take: eight times what Imagen 4's largest take. A larger one is not decoded."""

_CLASSES = {
    "image/png": ("PngImagePlugin", "PngImageFile", 4),
    "image/jpeg": ("JpegImagePlugin", "JpegImageFile", 4),
    "image/webp": ("WebPImagePlugin", "WebPImageFile", 16),
    "image/gif": ("GifImagePlugin", "GifImageFile", 4),
    "image/avif": ("AvifImagePlugin", "AvifImageFile", 10),
    "image/tiff": ("TiffImagePlugin", "TiffImageFile", 4),
    "image/bmp": ("BmpImagePlugin", "BmpImageFile", 4),
}
"""What reads a kind, and the bytes that it takes for each pixel (measured with Pillow 13). Not `Image.open`: that lets
every decoder try, and warns of large pictures."""

_OF_PROGRESSIVE = 3
"""Times what a pixel takes, where a JPEG comes in passes: what they add to is kept too (measured)."""

_OF_A_LINE = 16
"""Bytes that Pillow keeps for each line, however short it is (measured)."""

_OF_TILES = (322, 323)
"""The tags of a TIFF for how wide and high its tiles are."""

_RUN_OUT = ("truncated", "incomplete", "broken data stream", "premature", "unexpected end")
"""How Pillow and its libraries say that data run out; whatever else they do not like is a picture all the same."""


def runs_out(media_type: str, data: bytes) -> bool:
    """True where Pillow decodes this kind and finds its data to end too early."""
    try:
        with _reader(media_type)(io.BytesIO(data)) as picture:
            if _fits(picture, media_type):
                # Of a JPEG every byte is read for a small one, too.
                picture.draft(None, (1, 1))
                picture.load()
    except ImportError:
        return False  # an extra, of which older versions know less
    except Exception as error:  # whatever a decoder raises for what it is given
        log(logging.DEBUG, "Pillow does not like a picture of %s: %s", media_type, error)
        # A warning is an error only where a program wants it so.
        says_so = isinstance(error, EOFError) or any(words in str(error).lower() for words in _RUN_OUT)
        return says_so and not isinstance(error, Warning)
    return False


def made_small(media_type: str, data: bytes, side: int) -> bytes | None:
    """A JPEG of a picture, at most so many pixels wide and high; None for what is no picture, or too large for it.

    Raises:
        ImportError: There is no Pillow, or it does not know this kind.
    """
    read = _reader(media_type)
    try:
        with read(io.BytesIO(data)) as picture:
            if not _fits(picture, media_type):
                return None
            picture.thumbnail((side, side))
            small = io.BytesIO()
            picture.convert("RGB").save(small, "JPEG", quality=85)
            return small.getvalue()
    except Exception as error:  # whatever a decoder raises for what it is given
        log(logging.DEBUG, "Pillow does not like a picture of %s: %s", media_type, error)
        return None


def _reader(media_type: str) -> Callable[[io.BytesIO], Any]:
    try:
        module, name, _ = _CLASSES[media_type]
        reader: Callable[[io.BytesIO], Any] = getattr(importlib.import_module(f"PIL.{module}"), name)
    except (KeyError, AttributeError) as error:
        raise ImportError(f"Pillow reads no {media_type} here") from error
    return reader


def _fits(picture: Any, media_type: str) -> bool:
    each = _CLASSES[media_type][2] * (_OF_PROGRESSIVE if "progressive" in picture.info else 1)
    tags = getattr(picture, "tag_v2", {})  # of a TIFF: a tile is read as a whole, and may be larger than its picture
    width, height = (max(own, tags.get(tag, 0)) for own, tag in zip(picture.size, _OF_TILES, strict=True))
    size: int = height * (width * each + _OF_A_LINE)
    return size <= _MOST_MEMORY
