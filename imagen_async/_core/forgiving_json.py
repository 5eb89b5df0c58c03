"""JSON as servers write it: a strict reader first, for its speed, and where that refuses what was plainly meant.

Read are a byte order mark, UTF-16, another charset, half an emoji, raw control characters, NaN and 1e999, a comma too
many, a notice before the first brace and whatever comes after the last. A page stays what it is: no JSON.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import msgspec

NOT_JSON = (msgspec.DecodeError, ValueError, RecursionError)
"""What a decoder raises for bytes that somebody else wrote."""

_T = TypeVar("_T")

_PAGE = re.compile(r"<(!doctype|html|head|body|title|script)\b", re.I)
# A log's line may begin with a time in brackets.
_BEGIN = re.compile(r'\{|"|\[\s*[\[{"\]]')
_OBJECT = re.compile(r'\{\s*"[^"]*"\s*:')
# Each text as a whole, also one without its end: whatever stands in it is no token, and no place is looked at twice.
_TOKEN = re.compile(r'("[^"\\]*(?:\\.[^"\\]*)*"?)|-?\d[\d.eE+-]*|([-+]?[A-Za-z_]\w*)|,(?=\s*[\]}])', re.S)
_ESCAPE = re.compile(r'\\(u[0-9a-fA-F]{4}|["\\/bfnrt]|)')
_SPACE = "\ufeff \t\r\n\0"


def forgiving(decode: Callable[[bytes | str], _T]) -> Callable[[bytes | str], _T]:
    """A decoder that also takes what is nearly JSON; for the rest it raises what `decode` does, one of NOT_JSON."""

    def read(content: bytes | str) -> _T:
        try:
            return decode(content)
        except NOT_JSON:
            return decode(_strict(_meant(content)))

    return read


def forgiving_object(decode: Callable[[bytes | str], _T]) -> Callable[[bytes | str], _T]:
    """The same for a decoder that wants an object: one that is alone in a list, or in a text, will do."""

    def read(content: bytes | str) -> _T:
        try:
            return decode(content)
        except NOT_JSON:
            return decode(_strict(unwrapped(_meant(content))))

    return read


def unwrapped(value: Any) -> Any:
    """What a list of one holds, or a text with JSON in it."""
    for _ in range(3):
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        elif isinstance(value, str) and _BEGIN.match(value.lstrip(_SPACE)):
            try:
                value = _meant(value)
            except NOT_JSON:
                break
        else:
            break
    return value


def _meant(content: bytes | str) -> Any:
    refusal: Exception | None = None
    for text in _texts(content):
        try:
            return _DECODER.raw_decode(_TOKEN.sub(_mended, _without_notice(text)))[0]
        except NOT_JSON as error:
            refusal = error
    raise msgspec.DecodeError(f"it is no JSON, nor nearly: {refusal}")


def _texts(content: bytes | str) -> Iterator[str]:
    if isinstance(content, str):
        yield content
        return
    # What is no letter in it is none of its structure.
    yield content.decode(json.detect_encoding(content), "replace")
    if not content.isascii():
        # The second byte of a letter in GBK, Big5 or Shift-JIS may look like a backslash: read in pairs it is none.
        yield content.decode("gb18030", "replace")


def _without_notice(text: str) -> str:
    """The text from where its JSON begins; empty where it has none."""
    text = text.lstrip(_SPACE)
    if _BEGIN.match(text):
        return text
    found = _OBJECT.search(text)
    # What a page has in its scripts is no answer.
    return "" if found is None or _PAGE.search(text[: found.start()]) else text[found.start() :]


def _mended(token: re.Match[str]) -> str:
    """A token as JSON has it."""
    text, word = token.groups()
    if text:
        # A backslash before what cannot follow one stands for itself.
        return text if "\\" not in text else _ESCAPE.sub(lambda it: it[0] if it[1] else "\\\\", text)
    if word:
        # NaN, undefined, None: no value.
        return word.lower() if word.lower() in ("true", "false") else "null"
    return token[0].rstrip(",")


def _float(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None


def _int(text: str) -> int | str:
    # Longer than any amount, and maybe an id: its digits are what counts.
    return int(text) if len(text) <= 18 else text


_DECODER = json.JSONDecoder(strict=False, parse_float=_float, parse_int=_int)


def _strict(value: Any) -> bytes:
    # There and back: the two halves of an emoji that were escaped one by one meet, and a half alone is replaced.
    text = json.dumps(value, ensure_ascii=False).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text.encode()
