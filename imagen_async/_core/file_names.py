"""The names of files: the words of a prompt in whatever script, and nothing that cannot be seen."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

UNNUMBERED = -1
"""In the place of an index: a picture of no series, which has a mark behind its words and no number before them."""

_READ = 400
"""Characters of a prompt that are looked at."""

_LONGEST, _MOST_BYTES = 56, 72
"""Characters and bytes of a name without its endings: a few more than those of Latin letters, for some have three."""

# Letters and marks without ink: the joiner of graphemes, fillers of Hangul, vowels of Khmer, and variation selectors.
_INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]")

_DROPPED = frozenset({"Cf", "Cs", "Co", "Cn"})
"""What stands within words and cannot be seen, such as a zero-width joiner or a mark of direction."""

# Hugging Face's ImageFolder takes a file with one of these words in its name for a split of its own, and then leaves
# out every other file of the folder (seen with datasets 5.2: "a single train" cost 1,541 of 1,572 pictures).
_SPLIT_WORDS = frozenset(
    {"train", "training", "validation", "valid", "val", "dev", "test", "testing", "eval", "evaluation"}
)


def file_stem(index: int, prompt: str, mark: str) -> str:
    """Make a file's name without its ending: `000012-a-red-fox`, `000012-赤い狐`; unnumbered `a-red-fox-5d2c81f0`.

    Letters, digits and their marks of any script, in lower case, at most 72 bytes and a mark; of Latin ones no accents.
    """
    parts = [] if index < 0 else [f"{index:06d}"]
    for word in _words(prompt):
        room = _MOST_BYTES - len("-".join([*parts, ""]).encode())
        if len("-".join([*parts, word])) > _LONGEST or len(word.encode()) > room:
            # Some scripts have no blanks between their words.
            cut = "" if word.isascii() else word.encode()[:room].decode(errors="ignore")
            parts += [cut] if cut and _is_no_split(cut) else []
            break
        parts += [word] if _is_no_split(word) else []
    return "-".join(parts if index >= 0 else [*parts, mark])


def plain_stem(stem: str) -> str:
    """The same name in ASCII, for a system that takes no other."""
    return "-".join(filter(str.isascii, stem.split("-")))


def _is_no_split(word: str) -> bool:
    return _SPLIT_WORDS.isdisjoint(re.split(r"\d+", word))


def _words(prompt: str) -> list[str]:
    kept = "".join(_visible(_INVISIBLE.sub("", unicodedata.normalize("NFKD", prompt[:_READ]))))
    return unicodedata.normalize("NFC", kept.lower()).split()


def _visible(text: str) -> Iterator[str]:
    """The characters of words, with a blank between these."""
    base = " "
    for character in text:
        category = unicodedata.category(character)
        if category in _DROPPED:
            continue
        if category.startswith("M"):
            # A part of its letter; but for an accent of a Latin one, and where there is no letter.
            if not base.isascii():
                yield character
            continue
        base = character if character.isalnum() else " "
        yield base
