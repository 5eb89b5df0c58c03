"""A prompt file's bytes as UTF-8, from whatever its mark or its user says they are; text is decoded as it is read."""

from __future__ import annotations

import codecs
import contextlib
import io
import re
from collections.abc import Iterator

from ...errors import ConfigurationError
from ..library import foreign_character

_MARK = "\ufeff".encode()
_MARKED = {
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
    _MARK: "utf-8",
}
"""What a file begins with that says what it is; the longer ones first."""

_UNMARKED = ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be")

_PIECE = 1 << 20
"""Bytes that are decoded at a time: a million prompts need not lie in memory once more as characters of four bytes."""


class Text:
    """A prompt file's text: UTF-8, whatever it was, without a mark at its beginning.

    Args:
        data: What the file holds.
        name: As people call it.
        encoding: What it is said to be; None: UTF-8, or what its mark tells.

    Raises:
        ConfigurationError: It is something else, or there is no such encoding.
    """

    def __init__(self, data: bytes, name: str, encoding: str | None = None) -> None:
        self._data = _utf8(data, name, encoding)
        self._start = 0
        # Some spreadsheets write a mark, and who saves such a file once more may write another.
        while self._data.startswith(_MARK, self._start):
            self._start += len(_MARK)

    @property
    def first(self) -> str:
        """Its first character that is no blank; nothing where there is none."""
        return next((line.lstrip()[0] for line in self.open("") if line.strip()), "")

    def open(self, newline: str | None) -> io.TextIOWrapper:
        """Begin to read it, with ends of lines as `open` takes them."""
        stream = io.BytesIO(self._data)  # which does not copy what nobody writes to
        stream.seek(self._start)
        return io.TextIOWrapper(stream, "utf-8", newline=newline)

    def lines(self, newline: str | None = None) -> Iterator[tuple[int, str]]:
        """Numbered lines. Newlines and returns end one; a prompt may hold any other of Unicode's separators."""
        for number, line in enumerate(self.open(newline), 1):
            yield number, line.rstrip("\r\n")

    def __contains__(self, word: str) -> bool:
        return word.encode() in self._data


def _utf8(data: bytes, name: str, encoding: str | None) -> bytes:
    marked = next((found for mark, found in _MARKED.items() if data.startswith(mark)), None)
    if encoding is not None:
        _refuse_unknown(encoding)
        if marked is not None and not codecs.lookup(encoding).name.startswith(marked):
            raise ConfigurationError(
                f"{name} is {marked.upper()} by its mark, and not {encoding}; leave --encoding away."
            )
        return _transcoded(data, name, encoding)
    if marked not in (None, "utf-8"):
        return _transcoded(data, name, marked)
    unmarked = _unmarked(data)
    if unmarked is not None:
        remedy = f"save it as UTF-8, or say --encoding {unmarked}"
        raise ConfigurationError(f"{name} is {unmarked[:6].upper()} without a mark; {remedy}.")
    for _ in _pieces(data, name, "utf-8"):
        pass
    return data


def _refuse_unknown(encoding: str) -> None:
    try:
        b" ".decode(encoding)
    except UnicodeError:  # it is one, of which a blank is not the whole
        return
    except (LookupError, ValueError) as error:
        known = "cp1252, latin-1, mac_roman, utf-16, gb18030 and shift_jis"
        message = f"--encoding {encoding}: there is no such encoding of text. Some that there are: {known}."
        raise ConfigurationError(message) from error


def _transcoded(data: bytes, name: str, encoding: str) -> bytes:
    utf8 = io.BytesIO()
    for piece in _pieces(data, name, encoding):
        try:
            utf8.write(piece.encode())
        except UnicodeEncodeError as error:
            raise ConfigurationError(f"{name} is not {encoding}: {error}.") from error
    return utf8.getvalue()


def _pieces(data: bytes, name: str, encoding: str) -> Iterator[str]:
    """The text in pieces; raises ConfigurationError that names the first byte which is none."""
    decoder = codecs.getincrementaldecoder(encoding)()
    newlines = returns = 0
    for start in range(0, len(data), _PIECE):
        try:
            text = decoder.decode(data[start : start + _PIECE], final=start + _PIECE >= len(data))
        except UnicodeDecodeError as error:
            before = error.object[: error.start].decode(encoding, "ignore")
            line = 1 + (newlines + before.count("\n") or returns + before.count("\r"))
            byte, remedy = error.object[error.start : error.start + 1], _remedy(data, encoding)
            raise ConfigurationError(
                f"{name}:{line}: the byte {byte!r} is not {_called(encoding)}; {remedy}."
            ) from None
        except UnicodeError as error:
            raise ConfigurationError(f"{name} is not {encoding}: {error}.") from None
        newlines, returns = newlines + text.count("\n"), returns + text.count("\r")
        yield text


def _called(encoding: str) -> str:
    return encoding.upper() if encoding in ("utf-8", "utf-16", "utf-32") else encoding


def _remedy(data: bytes, encoding: str) -> str:
    if encoding != "utf-8":
        return "save the file as UTF-8, or name another --encoding"
    foreign = re.findall(rb"[\x80-\xff]+", data[:_PIECE])
    if sum(map(len, foreign)) > 1.5 * len(foreign):  # seldom alone, so no Latin letters: one of several
        return "save the file as UTF-8, or name its encoding: --encoding gb18030, shift_jis, cp1251 or another"
    is_mac = b"\r" in data and b"\n" not in data
    return f"save the file as UTF-8, or name its encoding: --encoding {'mac_roman' if is_mac else 'cp1252'}"


def _unmarked(data: bytes) -> str | None:
    """Name a file of two or four bytes a character that does not say so; None where it is none."""
    found: dict[str, int] = {}
    for encoding in _UNMARKED if b"\0" in data else ():
        with contextlib.suppress(UnicodeDecodeError):
            text = data.decode(encoding)
            if _reads(text, data):
                found[encoding] = sum(map(str.isascii, text))
    # What reads in either order reads best where its blanks are blanks.
    return max(found, key=lambda encoding: found[encoding], default=None)


def _reads(text: str, data: bytes) -> bool:
    """True where this is what a file says, and not what one of bytes looks like, two or four at a time."""
    # Of Chinese nothing but the ends of lines has a byte of 0; where there are none, it is a matter of how many.
    is_like_it = "\n" in text if b"\n" in data else data.count(0) * 4 >= len(data)
    return is_like_it and foreign_character(text) is None
