"""Whether a text is what it looks like: without control characters, and with something in it that can be seen."""

from __future__ import annotations

import unicodedata

from .._text import seldom

# What word processors and spreadsheets leave between words is fine: tab, newline, vertical tab, form feed, return.
# U+FEFF is a mark at the beginning of a file; in the midst of a text it tells that files were joined.
_NEVER_TEXT = seldom("[\x00-\x08\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufeff\ufffe\uffff]")

_BLANK_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zs", "Zl", "Zp", "Mn", "Mc", "Me"})
"""Controls, formats, spaces, and marks that need a letter before them."""

_BLANK_LETTERS = frozenset("\u115f\u1160\u3164\uffa0\u2800")
"""Letters and symbols by their category, without ink: fillers of Hangul, the blank of Braille."""

_NAMES = {
    "\x00": "NULL",
    "\x07": "BELL",
    "\x08": "BACKSPACE",
    "\x1a": "SUBSTITUTE, the end of a file in DOS",
    "\x1b": "ESCAPE",
    "\x7f": "DELETE",
    "\ufeff": "ZERO WIDTH NO-BREAK SPACE, the mark at the beginning of a file",
}
"""Of those that Unicode gives no name, or one that does not say how they came here."""

_UNNAMED = {"Cs": "half of a character", "Cc": "a control character"}
"""By category."""


def oddity(text: str, *, is_required: bool) -> str | None:
    """Say why a text is not what it looks like; None where it is. One that nothing requires may be blank."""
    if text.isascii() and text.isprintable():
        return None  # most are, and each request is looked at
    return foreign_character(text) or (nothing_to_see(text) if is_required else None)


def foreign_character(text: str) -> str | None:
    """Name the first character that is in no text, with its place; None where all is well."""
    found = _NEVER_TEXT().search(text)
    return None if found is None else f"its character {found.start() + 1} is {_named(found[0])}"


def nothing_to_see(text: str) -> str | None:
    """Say what stands in a text in which nothing can be seen; None where something can, or where it is empty."""
    if any(map(_is_visible, text)):
        return None
    blanks = list(dict.fromkeys(character for character in text if not character.isspace()))
    more = " and others" if len(blanks) > 3 else ""
    return f"there is nothing to see in it, only {', '.join(map(_named, blanks[:3]))}{more}" if blanks else None


def _is_visible(character: str) -> bool:
    is_blank = unicodedata.category(character) in _BLANK_CATEGORIES or character in _BLANK_LETTERS
    # Tags and what Unicode keeps beside them for more of their kind.
    return not (is_blank or "\U000e0000" <= character <= "\U000e0fff")


def _named(character: str) -> str:
    """A character that cannot be shown: its code and its name."""
    name = _NAMES.get(character) or unicodedata.name(
        character, _UNNAMED.get(unicodedata.category(character), "no name")
    )
    return f"U+{ord(character):04X} ({name})"
