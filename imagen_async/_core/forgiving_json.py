"""JSON as servers write it: a strict reader first, for its speed, and where that refuses what was plainly meant.

Read are a byte order mark, UTF-16, another charset, half an emoji, raw control characters, NaN and 1e999, 007, a comma
too many, comments, other quotes or none, a notice before the first brace and whatever comes after the last. A page
stays what it is: no JSON.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Any, TypeVar

import msgspec

from .._text import seldom, well_formed

NOT_JSON = (msgspec.DecodeError, ValueError, RecursionError)
"""What a decoder raises for bytes that somebody else wrote."""

_T = TypeVar("_T")

_PAGE = seldom(r"<(!doctype|html|head|body|title|script)\b", re.I)
# A log's line may begin with a time in brackets.
_BEGIN = re.compile(r'\{|"|\[\s*[\[{"\]]')
_OBJECT = seldom(r'\{\s*"[^"]*"\s*:')
# Each text as a whole, also one without its end: whatever stands in it is no token, and no place is looked at twice.
_TOKEN = seldom(
    r"""(?P<text>"[^"\\]*(?:\\.[^"\\]*)*"?)|(?<=[\[{:,\s])'(?P<quoted>[^'\\]*(?:\\.[^'\\]*)*)'?"""
    r"""|(?P<number>[-+]?\.?\d[\w.+-]*)|(?P<key>[A-Za-z_]\w*)(?=\s*:)|(?P<word>[-+]?[A-Za-z_]\w*)"""
    r"""|(?P<nothing>/\*.*?(?:\*/|\Z)|//[^\n]*|,(?=\s*[\]},])|[^ -~\t\r\n]+)""",
    re.S | re.A,
)
_NUMBER = seldom(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][-+]?\d+)?", re.A)
_ESCAPE = seldom(r'\\(u[0-9a-fA-F]{4}|["\\/bfnrt]|)')
# In what field of it an object shows that it may be an answer, the surest first; and that it is a line of a log.
_OF_ENVELOPES = frozenset({"code", "data"})
_OF_TASKS = frozenset({"taskId", "task_id"})
_OF_ERRORS = frozenset({"error"})
_OF_OTHERS = frozenset({"id", "job", "message", "msg", "output", "response", "result"})
_OF_OTHERS |= frozenset({"state", "status", "success", "task"})
_OF_ANSWERS = _OF_ENVELOPES | _OF_TASKS | _OF_ERRORS | _OF_OTHERS
_OF_LOGS = frozenset({"level", "levelname", "lvl", "severity"})
_SPACE = "\ufeff \t\r\n\0"

MOST_BEGINNINGS = 4
"""Places that are tried for the beginning of an answer: each takes 10 ms in an answer of 100 KB."""


def forgiving(decode: Callable[[bytes | str], _T], *, wants_object: bool = False) -> Callable[[bytes | str], _T]:
    """A decoder that also takes what is nearly JSON; for the rest it raises what `decode` does, one of NOT_JSON.

    Args:
        decode: The strict one.
        wants_object: True where it takes nothing else: one that is alone in a list, or in a text, will do then.
    """

    def read(content: bytes | str) -> _T:
        try:
            return decode(content)
        except NOT_JSON:
            meant = _meant(content)
            return decode(_strict(unwrapped(meant) if wants_object else meant))

    return read


def unwrapped(value: Any) -> Any:
    """What a list of one holds, or a text with JSON in it."""
    if isinstance(value, dict):
        return value  # as it mostly is
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
            return _answer_in(text.lstrip(_SPACE))
        except NOT_JSON as error:
            refusal = error
    raise msgspec.DecodeError(f"it is no JSON, nor nearly: {refusal}")


def _answer_in(text: str) -> Any:
    """What the answer in a text holds: notices, lines of logs and reports around it may be JSON, too."""
    documents = list(_documents(text))
    if not documents:
        raise ValueError("it has no beginning")
    plain = [each for each in documents if not _has_any(each[1], _OF_LOGS)] or documents
    enveloped = [value for _, value in plain if isinstance(value, dict) and value.keys() >= _OF_ENVELOPES]
    if enveloped:
        return enveloped[0]
    telling = [value for _, value in plain if _has_any(value, _OF_ANSWERS)]
    # Who took an id of what is not the answer would have another task's picture.
    if len({str(value.get("taskId") or value.get("task_id")) for value in telling}) > 1:
        raise ValueError("several parts of it may be what is answered")
    for fields in (_OF_ENVELOPES | _OF_TASKS, _OF_ERRORS):
        if surest := [value for value in telling if _has_any(value, fields)]:
            return surest[0]
    return max(plain, key=itemgetter(0))[1]


def _has_any(value: Any, fields: frozenset[str]) -> bool:
    return isinstance(value, dict) and not fields.isdisjoint(value)


def _documents(text: str) -> Iterator[tuple[int, Any]]:
    """The parts of a text that are JSON, each with its length; none that stands inside of another one."""
    at = 0
    for _ in range(MOST_BEGINNINGS):
        start = _beginning(text, at)
        if start is None:
            return
        mended = _TOKEN().sub(_mended, text[start:])
        try:
            value, end = _DECODER.raw_decode(mended)
        except NOT_JSON:
            return  # what stands inside of half an answer is not what it says
        yield end, value
        at = start + _unmended(text[start:], end)


def _beginning(text: str, at: int) -> int | None:
    """Where an answer may begin."""
    if not at and _BEGIN.match(text):
        return 0
    found = _OBJECT().search(text, at)
    # What a page has in its scripts is no answer.
    return None if found is None or _PAGE().search(text, 0, found.start()) else found.start()


def _unmended(text: str, end: int) -> int:
    """Of how many characters of a text the first ones were made, once it was mended."""
    grown = 0
    for token in _TOKEN().finditer(text):
        if token.start() + grown >= end:
            break
        grown += len(_mended(token)) - len(token[0])
    return end - grown


def _texts(content: bytes | str) -> Iterator[str]:
    if isinstance(content, str):
        yield content
        return
    # What is no letter in it is none of its structure.
    yield content.decode(json.detect_encoding(content), "replace")
    if not content.isascii():
        # The second byte of a letter in GBK, Big5 or Shift-JIS may look like a backslash: read in pairs it is none.
        yield content.decode("gb18030", "replace")


def _mended(token: re.Match[str]) -> str:
    """A token as JSON has it."""
    match token.lastgroup:
        case "text":
            return _escaped(token[0])
        case "quoted":
            text = token["quoted"].replace("\\'", "'").replace('\\"', '"')
            return _escaped('"' + text.replace('"', '\\"') + '"')
        case "number":
            # Any other, of which the digits are what counts, becomes a text.
            return token[0] if _NUMBER().fullmatch(token[0]) else f'"{token[0]}"'
        case "key":
            return f'"{token[0]}"'
        case "nothing":
            return " "
    word = token[0].lower()
    # NaN, undefined, None: no value.
    return word if word in ("true", "false") else "null"


def _escaped(text: str) -> str:
    """A backslash before what cannot follow one stands for itself."""
    return text if "\\" not in text else _ESCAPE().sub(lambda it: it[0] if it[1] else "\\\\", text)


def _float(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None


def _int(text: str) -> int | str:
    # Longer than any amount, and maybe an id: its digits are what counts.
    return int(text) if len(text) <= 18 else text


_DECODER = json.JSONDecoder(strict=False, parse_float=_float, parse_int=_int)


def _strict(value: Any) -> bytes:
    # The two halves of an emoji that were escaped one by one meet here, and a half alone is replaced.
    return well_formed(json.dumps(value, ensure_ascii=False)).encode()
