"""What a page says in words alone: which fields take files and of which kind, how large, and how long a text may be."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .._core.parameters import File, Media

_IS_FILE = re.compile(r"(^|_)(url|uri)s?(_?\d+|_list|_array)?$")
_IS_FILE_ALONE = re.compile(r"^(image|images|input_image|image_input|video|audio|mask|init_image|source_image)$")
_SAYS_FILE = re.compile(r"file url|url of (the|an?) |image url|video url|audio url|url after upload", re.IGNORECASE)
_MEDIA: tuple[tuple[Media, re.Pattern[str]], ...] = (
    ("video", re.compile(r"video|clip")),
    ("audio", re.compile(r"audio|voice|music|song|sound|speech")),
    ("image", re.compile(r"image|mask|frame|photo|picture|face|file|input|reference|style")),
)
"""What a field's name tells of what it takes, the surest first."""

_ACCEPTS = re.compile(r"(?:image|video|audio)/[a-z0-9.+-]+")
_ACCEPTED = re.compile(r"accepted (?:types|formats)[^.;)\n]*", re.IGNORECASE)
_SIZE = re.compile(
    r"(?:max(?:imum)?(?: file)?(?: size)?|size|less than|not exceed(?:ing)?|up to|at most)\W{0,3}"
    r"(?:is |of |single \w+ (?:less than|not exceeding) )?([0-9]{1,6}(?:\.[0-9]{1,3})?)\s*(KB|MB|GB)\b",
    re.IGNORECASE,
)
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}
_LENGTH = re.compile(
    r"(?<!ended )(?<!ended: )(?:max(?:imum)?(?:[ -]?length)?(?: of)?[:\s]*(?:is\s*)?([0-9][0-9,]{0,9})\s*char|"
    r"(?:up to|at most|no more than) ([0-9][0-9,]{0,9})\s*char)(?!\w* (?:per|in|for each|each)\b)",
    re.IGNORECASE,
)
_SHORTEST = 20
"""Characters: a limit below that is one of something else."""

_ENCODED = ("byte", "base64", "binary")
"""Forms of a text that is a file's content, and no address."""

_LONGEST = 5000
"""Characters of a description that are looked at."""


def file_in(name: str, schema: Mapping[str, Any]) -> File | None:
    """The file that a text stands for, by its format, its name or its description; None where it stands for none."""
    words = _words(schema.get("description"))
    lowered = name.lower()
    if schema.get("format") in _ENCODED or schema.get("contentEncoding") is not None:
        return None
    is_told = schema.get("format") in ("uri", "url", "uri-reference") or _IS_FILE.search(lowered)
    if "callback" in lowered or "webhook" in lowered:
        return None
    if not is_told and not (_IS_FILE_ALONE.search(lowered) or (_SAYS_FILE.search(words) and _media_of(lowered))):
        return None
    accepted = _ACCEPTED.search(words)
    accepts = tuple(dict.fromkeys(_ACCEPTS.findall(accepted[0]))) if accepted else ()
    sizes = [float(number) * _UNITS[unit.upper()] for number, unit in _SIZE.findall(words)]
    return File(
        media=_of_types(accepts) or _media_of(lowered) or _media_of(words.lower()),
        accepts=accepts,
        max_bytes=round(max(sizes)) if sizes else None,
    )


def longest_in(description: object) -> int | None:
    """The longest that a text may be, where its description says so in the usual words."""
    found = [int((one or other).replace(",", "")) for one, other in _LENGTH.findall(_words(description))]
    # Of several, such as one a version, the longest: what is too long is refused there, and costs nothing.
    return max((each for each in found if each >= _SHORTEST), default=None)


def _words(description: object) -> str:
    return " ".join(description[:_LONGEST].split()) if isinstance(description, str) else ""


def _of_types(accepts: tuple[str, ...]) -> Media | None:
    kinds = {each.partition("/")[0] for each in accepts}
    return next((media for media, _ in _MEDIA if kinds == {media}), None)


def _media_of(words: str) -> Media | None:
    return next((media for media, pattern in _MEDIA if pattern.search(words)), None)
