"""JSON as people have it: an object or a string a line, or an array of them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

from .encoding import Text
from .lines import BadLine, Item, request_of

_BLANK = re.compile(r"[ \t\n\r]*")

_DEEPEST = 50
"""Lists and objects in each other at most: whoever looks into them needs some room for each."""


class _Refused(ValueError):
    """It is JSON, and no use here."""


def decoded(source: str) -> Any:
    """The value of a JSON text; raises ValueError or RecursionError for what is none, or is ambiguous."""
    value = _DECODER.decode(source)
    _refuse_odd(value, source)
    return value


def parse_json(text: Text) -> Iterator[Item]:
    """The requests of a file: of its one array, or of its lines."""
    return _array(text) if text.first == "[" else _lines(text)


def _lines(text: Text) -> Iterator[Item]:
    for number, line in text.lines():
        if not line.strip():
            continue
        if line.strip() == "{":
            yield BadLine(number, "this is not JSON in a line: an object of several is read in an array only")
            return
        try:
            value = decoded(line)
        except (ValueError, RecursionError) as error:
            yield _no_json(number, error)
        else:
            yield _request(number, value)


def _array(text: Text) -> Iterator[Item]:
    """What the elements say; behind one that is no JSON nobody can tell where the next begins."""
    whole = text.open("").read()
    at = whole.index("[")
    line = 1 + whole.count("\n", 0, at)
    end = "["
    while end != "]":
        start = _blank_until(whole, at + 1)
        line += whole.count("\n", at, start)
        if end == "[" and whole.startswith("]", start):
            at, end = start, "]"
            continue
        try:
            value, at = _DECODER.raw_decode(whole, start)
            _refuse_odd(value, whole[start:at])
        except (ValueError, RecursionError) as error:
            yield BadLine(line, f"{_no_json(line, error).problem}; the rest was not read")
            return
        yield _request(line, value)
        at, before = _blank_until(whole, at), start
        line += whole.count("\n", before, at)
        end = whole[at : at + 1]
        if end not in (",", "]"):
            yield BadLine(line, "the array does not go on with a comma here, nor does it end; the rest was not read")
            return
    if whole[at + 1 :].strip():
        yield BadLine(line, "there is more behind the end of the array, which was not read")


def _blank_until(text: str, start: int) -> int:
    found = _BLANK.match(text, start)
    assert found is not None
    return found.end()


def _request(line: int, value: Any) -> Item:
    value = {"prompt": value} if isinstance(value, str) else value
    if isinstance(value, dict):
        return request_of(line, value)
    return BadLine(line, "a line must be a JSON object with a prompt, or a string")


def _no_json(line: int, error: Exception) -> BadLine:
    return BadLine(line, str(error) if isinstance(error, _Refused) else f"this is not JSON in Unicode: {error}")


def _refuse_odd(value: Any, source: str) -> None:
    """Raise ValueError for what is nested too deep, and for half a surrogate pair, which can be sent nowhere."""
    if source.count("[") + source.count("{") > _DEEPEST and _is_deeper(value, _DEEPEST):
        raise _Refused(f"its lists and objects are nested more than {_DEEPEST} deep")
    if "\\u" in source:  # it can be written as JSON's \\ud83d
        json.dumps(value, ensure_ascii=False).encode()


def _is_deeper(value: Any, room: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return inner is not None and (room == 0 or any(_is_deeper(each, room - 1) for each in inner))


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        doubled = next(name for name in names if names.count(name) > 1)
        raise _Refused(f"the name {doubled!r} comes twice in an object; which value is meant?")
    return values


def _constant(name: str) -> None:
    """NaN is what tools write that have no other word for none; what is infinite is no number of JSON."""
    if name != "NaN":
        raise ValueError(f"{name} is no number of JSON")


def _number(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"{digits} is too large a number")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_float=_number)
