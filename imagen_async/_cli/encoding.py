"""A prompt file's bytes as text: UTF-8 and nothing else, and a name for what it is where it is something else."""

from __future__ import annotations

import contextlib

from ..errors import ConfigurationError
from .library import foreign_character

_MARK = "\ufeff"
_MARKED = {b"\xff\xfe\0\0": "UTF-32", b"\0\0\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
"""What a file begins with that says what it is; the longer ones first."""

_UNMARKED = ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be")


def decoded(data: bytes, name: str) -> str:
    """The text of a file, without a mark at its beginning; raises ConfigurationError for what is no UTF-8."""
    other = _other_encoding(data)
    if other is not None:
        raise ConfigurationError(f"{name} is {other}; save it as UTF-8.")
    try:
        # Some spreadsheets write a mark, and who saves such a file once more may write another.
        return data.decode().lstrip(_MARK)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        bad = data[error.start : error.start + 1]
        raise ConfigurationError(f"{name}:{line}: the byte {bad!r} is not UTF-8; save the file as UTF-8.") from None


def _other_encoding(data: bytes) -> str | None:
    """Name a file of two or four bytes a character, marked or not; None where it is none."""
    marked = next((found for mark, found in _MARKED.items() if data.startswith(mark)), None)
    if marked is not None or b"\0" not in data:
        return marked
    for encoding in _UNMARKED:
        with contextlib.suppress(UnicodeDecodeError):
            if _reads(data.decode(encoding), data):
                return f"{encoding[:6].upper()} without a mark"
    return None


def _reads(text: str, data: bytes) -> bool:
    """True where this is what a file says, and not what one of bytes looks like, two or four at a time."""
    # Of Chinese nothing but the ends of lines has a byte of 0; where there are none, it is a matter of how many.
    is_like_it = "\n" in text if b"\n" in data else data.count(0) * 4 >= len(data)
    return is_like_it and foreign_character(text) is None
