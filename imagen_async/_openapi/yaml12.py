"""YAML 1.2 by its core schema: an unquoted 1:1 is a text and not 61, `on` is one and not true, a date is no time.

The grammar is a library's. What a page must not cost is bounded here, while its events come in.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any, Self

from .._text import one_line, seldom
from ..errors import ConfigurationError

MOST_NODES = 50_000
"""Values of a document; a page of kie.ai has 800."""

DEEPEST = 64
"""Lists and objects in one another; a page of kie.ai has 14."""

LONGEST_LINE = 200_000
"""Characters: some things in a line cost the square of its length."""

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_FLAGS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_WHOLE = seldom(r"[-+]?[0-9]+")
_BASED = seldom(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = seldom(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_ENDLESS = {".inf": math.inf, "+.inf": math.inf, "-.inf": -math.inf, ".nan": math.nan}

_BLANKS = dict.fromkeys(map(ord, "\x85\u2028\u2029"), " ")
_TABS = seldom(r"(?<=\S)[ \t]*\t[ \t]*")

_DIGITS = 400
"""Of a number at most."""


def read_yaml(text: str) -> Any:
    """The value of a YAML document; raises ConfigurationError for what is none, is too much, or repeats itself."""
    try:
        from ruamel.yaml import YAML  # only here: an extra
        from ruamel.yaml.error import YAMLError
    except ImportError:
        message = "A page in YAML needs the reader that comes with: pip install 'imagen-async[yaml]'"
        raise ConfigurationError(f"{message}.") from None
    if max(map(len, text.split("\n"))) > LONGEST_LINE:
        raise ConfigurationError(f"The page's YAML has a line of more than {LONGEST_LINE:,} characters.")
    # To the library these end a line, as in YAML 1.1, and a tab between two words is an error: both are blanks now.
    text = _TABS().sub(" ", text.translate(_BLANKS))
    reader = _Reader(YAML(typ="safe", pure=True).parse(text))
    try:
        return reader.document()
    except ConfigurationError:
        raise
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f" in line {mark.line + 1}"
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigurationError(f"The page's YAML cannot be read{where}: {one_line(problem)}.") from None
    except Exception as error:  # the parser meets what its authors have not
        raise ConfigurationError(f"The page's YAML cannot be read: {one_line(repr(error))}.") from None


class _Whole(int):
    """A number that knows how it was written: where it stands for a text, its letters are meant."""

    letters: str

    def __new__(cls, word: str, base: int = 10) -> Self:
        number = super().__new__(cls, word, base)
        number.letters = word
        return number


class _Float(float):
    """The same with a point."""

    letters: str

    def __new__(cls, word: str) -> Self:
        number = super().__new__(cls, word)
        number.letters = word
        return number


class _Reader:
    """Makes values of a parser's events, one by one as they come."""

    def __init__(self, events: Iterator[Any]) -> None:
        self._events = events
        self._nodes = 0

    def document(self) -> Any:
        value = None
        for event in self._events:
            if type(event).__name__ not in ("StreamStartEvent", "DocumentStartEvent"):
                value = self._value(event, DEEPEST) if type(event).__name__ != "StreamEndEvent" else None
                break
        if any(type(event).__name__ == "DocumentStartEvent" for event in self._events):
            raise ConfigurationError("The page's YAML holds several documents; give it one.")
        return value

    def _value(self, event: Any, room: int) -> Any:
        self._nodes += 1
        kind = type(event).__name__
        if kind == "AliasEvent" or event.anchor is not None:
            raise ConfigurationError("The page's YAML repeats parts by anchors and aliases, which are not read.")
        if self._nodes > MOST_NODES or not room:
            raise ConfigurationError("The page's YAML holds too much, or too much in one another, for a model's page.")
        if kind == "ScalarEvent":
            return _scalar(event)
        return self._list(room - 1) if kind == "SequenceStartEvent" else self._object(room - 1)

    def _list(self, room: int) -> list[Any]:
        values = []
        while type(event := next(self._events)).__name__ != "SequenceEndEvent":
            values.append(self._value(event, room))
        return values

    def _object(self, room: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        while type(event := next(self._events)).__name__ != "MappingEndEvent":
            # Always a text: an answer is described under the name 200.
            name = event.value if type(event).__name__ == "ScalarEvent" else None
            if name is None:
                raise ConfigurationError("The page's YAML has a name that is no text.")
            if name in values:
                raise ConfigurationError(f"The page's YAML has the name {name!r} twice in one object.")
            self._value(event, room)
            values[name] = self._value(next(self._events), room)
        return values


def _scalar(event: Any) -> Any:
    """A plain word is what the core schema says; whatever stands in quotes, or over several lines, is a text."""
    word: str = event.value
    is_plain, _ = event.implicit
    if is_plain:
        word = word.strip("\xa0")  # a blank that a page's editor has left
    if not is_plain or len(word) > _DIGITS:
        return word
    if word in _NULL:
        return None
    if word in _FLAGS:
        return _FLAGS[word]
    return _number(word)


def _number(word: str) -> Any:
    if _WHOLE().fullmatch(word):
        return _Whole(word)
    if _BASED().fullmatch(word):
        return _Whole(word, 0)
    if _FLOAT().fullmatch(word):
        return _Float(word)
    return _ENDLESS.get(re.sub(r"\.(INF|Inf|NAN|NaN)\Z", lambda found: found[0].lower(), word), word)
