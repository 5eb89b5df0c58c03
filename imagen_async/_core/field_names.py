"""How the names of fields read, in whatever case and style an API, or the one behind it, has spelt them."""

from __future__ import annotations

import functools
import re

LONGEST_KEY = 64
"""Characters of a name that are read: its last."""

KNOWN_RECORDS = 16
"""Records, each the names of its fields, of which is kept what these mean: one of 1 MB is no harm."""

_STYLE = str.maketrans("", "", "_-. ")
# What the request said comes back under these; a picture that went in is none that came out.
_ECHO = re.compile(
    r"input|param|callback|webhook|argument|option|setting|^(request|prompt|notif|reference|source|init|config|args)"
)


def folded(name: str) -> str:
    """A name as it reads in any case and style: `result_urls` and `resultUrls` are one. Of a long one the end."""
    return _fold(name[-LONGEST_KEY:])


# An API has the same few names in all of its answers.
@functools.lru_cache(1024)
def _fold(name: str) -> str:
    return name.translate(_STYLE).casefold()


def is_echo(name: str) -> bool:
    """True for the name of what repeats the request."""
    return _is_echo(folded(name))


@functools.lru_cache(1024)
def _is_echo(name: str) -> bool:
    return _ECHO.search(name) is not None
