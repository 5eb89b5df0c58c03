"""The mask over what is secret: in no text that leaves us, however it was written there.

A server that quotes a key may have escaped it, as JSON, a query, a page or base64 does, once or several times; what
opens those again, here or at whoever reads a journal, would have it in the clear.
"""

from __future__ import annotations

import functools
import re
from base64 import b64encode
from collections.abc import Iterable, Iterator

SHORTEST = 8
"""Characters of a secret that is masked: a shorter one would be found where it is not meant."""

LONGEST = 64
"""Characters of a secret by which it is found; what follows them without a gap is masked with them."""

MASKED = "***"

_REST = r"[\w%\\&#;+/=.~-]*"
_STROKES = r"\\\\*"
_OF_ADDRESSES = str.maketrans("+/", "-_")
"""The two characters of base64 that an address has others for."""


class _Secret:
    """What one is found by: as it is, in base64, and with any of its characters escaped.

    Attributes:
        plain: As it is, as the name of a host is told, and in base64: the longest first.
        coded: The same in bytes; `wide` in UTF-16.
        mark: Without it, and a % or &, no text has an escape of a character of it; `byte_mark` in bytes.
    """

    def __init__(self, secret: str) -> None:
        self._secret = secret[:LONGEST]
        self._rest = _REST if len(secret) > LONGEST else ""
        self.plain = tuple(dict.fromkeys((secret, secret.lower(), *_in_base64(secret))))
        self.coded = tuple(each.encode() for each in self.plain)
        self.wide = tuple(each.encode(coding) for each in self.plain for coding in ("utf-16-le", "utf-16-be"))
        odd = "".join(re.escape(character) for character in sorted(set(secret)) if not character.isalnum())
        # It begins with one character that is always the same, which makes it ten times as quick.
        self.mark = re.compile(rf"\\[ux{odd}]")
        self.byte_mark = re.compile(self.mark.pattern.encode())

    # Once it is wanted: to put one together takes 10 ms.
    @functools.cached_property
    def escaped(self) -> re.Pattern[str]:
        pattern = "".join(f"(?:{'|'.join(_forms(each))})" for each in self._secret) + self._rest
        # A run of strokes is looked through once, and not from each of them: an answer may have a million.
        return re.compile(pattern.replace(_STROKES, rf"(?<!\\){_STROKES}", 1), re.A)

    @functools.cached_property
    def escaped_bytes(self) -> re.Pattern[bytes]:
        return re.compile(self.escaped.pattern.encode())


class Mask:
    """Masks secrets in texts and in bytes.

    Args:
        secrets: Keys, passwords: ASCII. Those that are shorter than `SHORTEST` are left out.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        # The longest first: one may be a part of another.
        wanted = sorted({secret for secret in secrets if len(secret) >= SHORTEST}, key=len, reverse=True)
        self._secrets = [_Secret(secret) for secret in wanted]
        # Loaded now: once an answer is there, no file handle may be left to do so.
        _names()

    def text(self, text: str) -> str:
        """A text without them."""
        for secret in self._secrets:
            for plain in secret.plain:
                if plain in text:
                    text = text.replace(plain, MASKED)
            if "%" in text or "&" in text or secret.mark.search(text):
                text = secret.escaped.sub(MASKED, text)
        return text

    def content(self, content: bytes) -> bytes:
        """Bytes without them, in whatever coding they are."""
        for secret in self._secrets:
            for coded in secret.coded if b"\0" not in content else (*secret.coded, *secret.wide):
                if coded in content:
                    content = content.replace(coded, MASKED.encode())
            if b"%" in content or b"&" in content or secret.byte_mark.search(content):
                content = secret.escaped_bytes.sub(MASKED.encode(), content)
        return content


def _forms(character: str) -> Iterator[str]:
    """How a character may be written. Each begins with a character of its own, which makes a search quick."""
    code = ord(character)
    digits = "".join(f"[{digit}{digit.upper()}]" if digit.isalpha() else digit for digit in f"{code:02x}")
    yield re.escape(character)
    # A text in JSON within a text in JSON has two strokes, and so on.
    itself = "" if character.isalnum() else f"|{re.escape(character)}"
    yield rf"{_STROKES}(?:u00{digits}|x{digits}{itself})"
    yield f"%(?:25)*{digits}"
    names = "".join(f"|{name}" for name in _names().get(character, ()))
    yield rf"&(?:amp;)*(?:#0*{code}(?:;|(?![0-9]))|#[xX]0*{digits}(?:;|(?![0-9a-fA-F])){names})"


@functools.cache
def _names() -> dict[str, list[str]]:
    """What characters are called in a page."""
    from html.entities import html5  # only here: who imports a client masks nothing yet

    names: dict[str, list[str]] = {}
    for name, character in html5.items():
        if name.endswith(";"):
            names.setdefault(character, []).append(name)
    return names


def _in_base64(secret: str) -> Iterator[str]:
    """What no neighbours change of it in base64, at each of the three places where it may begin."""
    for before in range(3):
        whole = b64encode(bytes(before) + secret.encode()).decode()
        inner = whole[-(-before * 8 // 6) : (before + len(secret)) * 8 // 6]
        yield inner
        yield inner.translate(_OF_ADDRESSES)
