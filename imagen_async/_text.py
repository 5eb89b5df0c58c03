"""Texts that everything takes: without half characters to be stored or sent, and on one line to be shown.

What is data stays as it is. What is shown (an error, a line of the log, a word of the command) goes through `one_line`,
for it may quote a server, a file's header, a path or a prompt: none of these starts a line of its own, moves the cursor
or turns the order of letters around.
"""

from __future__ import annotations

import functools
import json
import re
import unicodedata
from collections.abc import Callable

_SHORT_OF = 60
"""Characters of a value that a message bears."""

# From where they begin: looked for from each of them, a million would take hours.
_SPACES = re.compile(r"(?<![ \t\r\n]) *[\t\r\n][ \t\r\n]*")

_NEVER_SHOWN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Controls; formats, which turn the order of letters or have no width; halves of characters; separators of lines."""


def seldom(pattern: str, flags: int = 0) -> Callable[[], re.Pattern[str]]:
    """A regular expression that is put together when it is first asked for: most programs never meet what it is for."""
    return functools.cache(lambda: re.compile(pattern, flags))


def well_formed(text: str) -> str:
    """The text with U+FFFD for each lone surrogate: what stands for a byte that was no text has no encoding itself."""
    # Quick where all is well, which is nearly always.
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def one_line(text: str, *, joiners: bool = False) -> str:
    r"""The text as it may be shown: on one line, and `\u2028`, `\u001b` in place of what is no letter, mark or space.

    Written as JSON writes it, so that a line of JSON stays one, of the same value.

    Args:
        text: Anybody's.
        joiners: True for a prompt of the user's own: the two joiners that Persian, Hindi and emoji need stay.
    """
    if text.isprintable():
        return text
    return "".join([_visible(each, joiners) for each in _SPACES.sub(" ", text)])


def _visible(character: str, joiners: bool) -> str:
    if character.isprintable() or unicodedata.category(character) not in _NEVER_SHOWN:
        return character
    if joiners and character in "\u200c\u200d":
        return character
    return json.dumps(character)[1:-1]


def shown(text: str, at_most: int = _SHORT_OF) -> str:
    """As much of a text as a message bears."""
    return text if len(text) <= at_most else f"{text[: at_most - 4]}…{text[-1]}"


def told(value: object, at_most: int = _SHORT_OF) -> str:
    """A value of the user's own as a message may quote it, whatever it is, and whatever its repr does."""
    try:
        text = repr(value)
        size = "" if len(text) <= at_most else f" ({len(str(value)):,} characters)"
        return one_line(shown(text, at_most)) + size
    except Exception:  # an int of more digits than Python writes; an object whose repr fails
        return f"<{type(value).__name__} that cannot be shown>"
