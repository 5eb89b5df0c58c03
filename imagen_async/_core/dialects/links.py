"""Where a finished task's pictures are: the links of its record, however wrapped, and none of what it echoes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from operator import itemgetter
from typing import Any
from urllib.parse import quote

import msgspec

from ..._text import seldom
from ..field_names import LONGEST_KEY, folded, is_echo
from ..forgiving_json import NOT_JSON
from ..wire import loose_json
from .state_words import meaning_of

DEEPEST = 8
"""Lists, objects and texts of JSON that are opened, one in the other, to find a link."""

# The surest name first, as they read in any case and style: what comes last may hold thumbnails, or all sorts.
_PLACES = (
    *("resultjson", "resulturls", "resulturl", "resultimageurls", "resultimageurl", "resultobject", "response"),
    *("results", "result", "outputs", "output", "generatedimages", "generatedimage", "urls", "images", "imageurls"),
    *("imageurl", "image", "url", "data", "files", "file", "pictures", "picture", "imgs", "img", "artifacts", "assets"),
    *("media", "videos", "video", "audios", "audio", "generated", "content", "src", "href"),
    *("sample", "samples", "download"),
)
_RESULTS = frozenset({"resultjson", "resultobject", "resulttext", "response", "result", "results", "output", "outputs"})
_LINKS = frozenset(name for name in _PLACES if name.endswith(("url", "urls")) or name in ("images", "image"))
_WORKS = (
    r"(frame|layer|mask|segment|alpha|matte|audio|video|image|svg|vector|psd|depth|depthmap|normal|normalmap|pose|mesh"
    r"|glb|gltf|fbx|usdz|splat|gif|clip|subtitle|midi|stem|vocal|instrumental|zip|pdf)"
)
_WORK = seldom(_WORKS)
_IS_WORK = seldom(rf"{_WORKS}(s|list|data)?$")
# Copies of what went in, which a provider has made its own; and what is said of whoever made it.
_GIVEN = seldom(
    r"^(uploaded|upload|users?|source|inputs?|init|reference|ref|meta)|imagesin$|info$|author|owner|creator|brand"
)
_TEXTS = frozenset(
    {
        *("text", "texts", "caption", "captions", "lyrics", "transcript", "transcription"),
        *("answer", "outputtext", "resulttext"),
    }
)
_RANK = {name: rank for rank, name in enumerate(_PLACES)}
# Of a picture that is paid for these are lesser copies: who takes one while the links are late has lost the picture.
_COPY = seldom(r"thumb|preview|watermark|origin|placeholder|lowres|blur")
_WORD = seldom(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_PAGES = frozenset(
    {
        *("api", "avatar", "cancel", "cover", "detail", "details", "docs", "documentation", "get", "help", "home"),
        *("icon", "log", "logo", "logs", "next", "page", "poll", "polling", "poster", "prev", "profile", "progress"),
        *("query", "queue", "response", "self"),
        *("share", "site", "status", "stream", "user", "web"),
    }
)

# All that Python takes for a space, written out: to look through all characters takes 1 ms.
_BLANKS = (
    "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
)
_BLANKS += "\u2028\u2029\u202f\u205f\u3000\ufeff\u200b\u200c\u200d\u2060"
_IS_LINK = seldom(r"(https?:)?//(?(1)[^\s/?#]|[\w.-]+(:\d+)?/.)", re.I)
# A comma, blank or line inside a link is its own: another link has to begin behind it.
_JOINING = f"{_BLANKS},;|'\"\uff0c\uff1b\u3001"
_BETWEEN = seldom(rf"(?<![{_JOINING}])[{_JOINING}]+(?=(?:https?:)?//)", re.I)
_AROUND = {("[", "]"), ("(", ")"), ("<", ">"), ("'", "'"), ('"', '"'), ("`", "`")}
# Of markdown, of a page, or after a word that says what it is.
_SHOWN = seldom(
    r"""(?:!?\[[^\]]*\]\(|<?img\b[^>]*?\bsrc=["']|(?:image|picture|result|download)?[ _]?(?:url|link)?[:：]\s*)"""
    r"""(https?://[^\s"'()<>]+)(?:\)|["'][^>]*>?)?""",
    re.I,
)
# A link that is to be taken as it is, and is one alone.
_IS_PLAIN = re.compile(r"https?://(?![/?#])[!#-&(-+\--:<-\[\]-{}~]{1,2000}").fullmatch
_URL_SAFE = ":/?#[]@!$&'()*+,;=%~"

MOST_OBJECTS = 2000
"""Objects that are searched for a link whose place is not known: 20 ms."""

MOST_TEXTS = 100
"""Texts that look like JSON and are opened for a link: to find out that one is none takes 0.4 ms."""

LONGEST_LINK = 16384
"""Characters of a link: servers take no longer ones, and a signed one has 2,000."""


def find_links(record: Any, around: Any = None, sent: Iterable[str] = ()) -> tuple[str, ...]:
    """Collect the links of a record, or of a result, each once, in order, as they were given.

    The places that are known come first, and only where they hold none any key that ends in url, and then the known
    places of what is around the record. What stands under the keys of an echo (`param`, `input`, `callBackUrl`, …) is
    left out, also where it is repeated elsewhere; so is what was `sent`.
    """
    echo = {link for each in sent for link in (each, *links_of(each))}
    if (usual := _usual_links(record)) and echo.isdisjoint(usual):
        return usual
    search = _Search(frozenset(echo.union(each for place in (record, around) for each in _echoed(place, DEEPEST))))
    found = search.known(record, DEEPEST) or search.anywhere(record, DEEPEST) or search.known(around, DEEPEST)
    # Under whatever name: it is paid for.
    found = found or [each for result in _results_of(record) for each in search.all_of(result, DEEPEST - 1)]
    # What else it has made is paid for, too: frames of a film, layers, masks.
    return tuple(dict.fromkeys([*found, *_others_than(found, search.works(record, DEEPEST))] if found else ()))


def _others_than(found: list[str], works: list[str]) -> Iterator[str]:
    """Those of another file: the same one in another size, or for a download, has only another query."""
    taken = {link.partition("?")[0] for link in found}
    for link in works:
        place = link.partition("?")[0]
        if place not in taken or "." not in place.rpartition("/")[2]:
            yield link
        taken.add(place)


def links_and_text(record: Mapping[str, Any], around: Any) -> tuple[tuple[str, ...], str]:
    """The links of a record, as `find_links`, and the texts beside them, as JSON: captions, lyrics."""
    if usual := _usual_links(record):
        return usual, ""  # it holds links alone
    links = find_links(record, around)
    return links, _text_beside_links(record) if links else ""


def _text_beside_links(record: Mapping[str, Any]) -> str:
    results = (_opened(each) if isinstance(each, str) else each for each in _results_of(record))
    told = {key: value for each in results for key, value in _items(each) if folded(key) in _TEXTS and value}
    return msgspec.json.encode(told).decode() if told else ""


def text_without_links(record: Mapping[str, Any]) -> str:
    """A result, as JSON, that tells something and has no place for a link: a text, a number, a name; empty for none."""
    results = [(folded(key), value) for key, value in _items(record) if folded(key) in _RESULTS]
    told = next((text for name, value in results if _tells(text := _told_as(name, value), DEEPEST)), None)
    return "" if told is None else msgspec.json.encode(told).decode()


def _results_of(record: Any) -> list[Any]:
    return [value for key, value in _items(record) if folded(key) in _RESULTS]


def _told_as(name: str, value: Any) -> Any:
    """What stands there, JSON opened; nothing for what says how a task stands, and for what was to be JSON."""
    if isinstance(value, str) and not _is_json(value):
        return None if name == "resultjson" or meaning_of(value) is not None else value
    opened = _opened(value) if isinstance(value, str) else value
    return None if isinstance(opened, bool | int | float) else opened


def _tells(value: Any, depth: int) -> bool:
    """True where something stands in it, and nothing is named as a link is, filled in or not."""
    if isinstance(value, dict):
        names = (folded(key) in _LINKS or _names_links(key) for key in value)
        told = (item for key, item in value.items() if not _is_aside(key))
        return bool(depth) and not any(names) and any(_tells(item, depth - 1) for item in told)
    if isinstance(value, list):
        return bool(depth) and any(_tells(item, depth - 1) for item in value)
    return value is not None and value != "" and not (isinstance(value, str) and links_of(value))


# Of a record's fields these may hold a link: put together once, for each is looked at in every record.
_HOLDS_TEXT = (str, list, dict)


class _UsualResult(msgspec.Struct, forbid_unknown_fields=True):
    """What nearly all records have for a result."""

    links: list[str] = msgspec.field(name="resultUrls")


_decode_usual = msgspec.json.Decoder(_UsualResult).decode


def _usual_links(record: Any) -> tuple[str, ...]:
    """The links of a record as nearly all are, at a quarter of the price of a search; empty where it is another."""
    result = record.get("resultJson") if isinstance(record, dict) else None
    if not isinstance(result, str):
        return ()
    try:
        links = _decode_usual(result).links
    except NOT_JSON:
        return ()
    parsed = record.get("response")
    # kie.ai says the result once more, not as a text (since autumn 2026).
    same = parsed if parsed == {"resultUrls": links} else result
    rest = [
        value
        for value in record.values()
        if value is not result and value is not same and isinstance(value, _HOLDS_TEXT)
    ]
    is_usual = all(map(_IS_PLAIN, links)) and not _may_echo(rest, links)
    return tuple(dict.fromkeys(links)) if is_usual else ()


def _may_echo(values: list[Any], links: list[str]) -> bool:
    """True where one of the links may stand, as it is or escaped."""
    texts = [value for value in values if isinstance(value, str)]
    if len(texts) < len(values) and any(value for value in values if not isinstance(value, str)):
        return True
    # In one go: no link has a line's end in it.
    text = "\n".join(texts)
    # Of its scheme an echo may have another spelling, or none.
    return "\\/" in text or "\\u" in text or any(link[link.index("//") :] in text for link in links)


class _Search:
    """Looks for links, and for none of the echo's."""

    def __init__(self, echo: frozenset[str]) -> None:
        self._echo = echo
        self._objects, self._texts = MOST_OBJECTS, MOST_TEXTS

    def known(self, value: Any, depth: int) -> list[str]:
        """The links at a place whose name says that it holds them."""
        if isinstance(value, str):
            opened = self._opened(value)
            if opened is not None:
                return self.known(opened, depth - 1) if depth else []
            return [link for link in links_of(value) if link not in self._echo]
        if not depth:
            return []
        if isinstance(value, list):
            return [link for item in value for link in self.known(item, depth - 1)]
        # The first key that leads anywhere is the result; others may be thumbnails or copies of the input.
        for item in _places(value):
            if found := self.known(item, depth - 1):
                return found
        return []

    def anywhere(self, value: Any, depth: int) -> list[str]:
        """The links at the known places of any object in it, or else under any of its keys that end in url."""
        if not depth:
            return []
        if isinstance(value, str):
            return self.anywhere(self._opened(value), depth - 1)
        if isinstance(value, list):
            return [link for item in value for link in self.anywhere(item, depth - 1)]
        self._objects -= 1
        if not isinstance(value, dict) or self._objects < 0:
            return []
        if found := self.known(value, depth):
            return found
        items = [(key, item) for key, item in value.items() if not _is_aside(key)]
        links = [link for key, item in items if _names_links(key) for link in self.known(item, depth - 1)]
        return links or next(filter(None, (self.anywhere(item, depth - 1) for _, item in items)), [])

    def all_of(self, value: Any, depth: int) -> list[str]:
        """All links in a result, under names that say nothing."""
        if isinstance(value, str):
            opened = self._opened(value)
            return self.known(value, 1) if opened is None else self.all_of(opened, depth - 1)
        self._objects -= 1
        if depth <= 0 or self._objects < 0 or not isinstance(value, dict | list):
            return []
        items = (
            value
            if isinstance(value, list)
            else [item for key, item in value.items() if not _is_aside(key) and not _is_page(key)]
        )
        return [link for item in items for link in self.all_of(item, depth - 1)]

    def works(self, value: Any, depth: int) -> list[str]:
        """The links of what a task makes beside its pictures, by the names of their places."""
        if isinstance(value, str):
            value = self._opened(value)
        self._objects -= 1
        if depth <= 0 or self._objects < 0 or not isinstance(value, dict | list):
            return []
        found: list[str] = []
        for key, item in value.items() if isinstance(value, dict) else (("", item) for item in value):
            name = folded(key)
            if key and (_is_aside(key) or _GIVEN().search(name)):
                continue
            if key and _names_links(key):
                found += self.known(item, depth - 1) if _WORK().search(name) else []
            elif _IS_WORK().search(name) and not _is_page(key):
                # Each at its likeliest place: what stands beside that are its sizes, and who made it.
                for each in item if isinstance(item, list) else [item]:
                    found += self.known(each, depth - 1)
                found += self.works(item, depth - 1)
            elif isinstance(item, dict | list) or name in _RESULTS:
                found += self.works(item, depth - 1)
        return found

    def _opened(self, text: str) -> Any:
        self._texts -= _is_json(text)
        return _opened(text) if self._texts >= 0 else None


def links_of(text: str) -> list[str]:
    """The links that a text consists of, in whatever spelling; none where it does not begin with one.

    A link is left as it is: only blanks around it go, `//host` gets its https:, and what cannot be printed is escaped.
    """
    # The slashes of JSON that was written into JSON, and what a list looks like that was made a text of.
    text = text.strip(_BLANKS).replace("\\/", "/")
    for _ in range(2):
        if (text[:1], text[-1:]) in _AROUND:
            text = text[1:-1].strip(_BLANKS)
    if not _IS_LINK().match(text):
        shown = _SHOWN().fullmatch(text)
        return [] if shown is None else [_whole(shown[1])]
    parts = _BETWEEN().split(text)
    # What only joined them is no part of the last.
    parts = [part.rstrip(_JOINING) for part in parts] if len(parts) > 1 else parts
    return [_whole(part) for part in parts if _IS_LINK().match(part) and len(part) <= LONGEST_LINK]


def _whole(link: str) -> str:
    scheme, slashes, rest = link.partition("//")
    link = f"{scheme.lower() or 'https:'}{slashes}{rest}"
    # A URL is printed; what has no place in one is escaped.
    return link if link.isprintable() and " " not in link else quote(link, safe=_URL_SAFE, errors="replace")


def _opened(text: str) -> Any:
    """What a text holds that is JSON itself, else None."""
    return loose_json(text) if _is_json(text) else None


def _is_json(text: str) -> bool:
    return text.lstrip()[:1] in ("{", "[", '"')


def _places(value: Any) -> Iterable[Any]:
    """What an object holds at the known places, the surest first; of a list that was written as one, all."""
    ranked = [(_RANK[name], item) for key, item in _items(value) if (name := folded(key)) in _RANK]
    if len(ranked) > 1:
        ranked.sort(key=itemgetter(0))
    elif not ranked and isinstance(value, dict) and all(key.isdecimal() for key in value):
        return [list(value.values())]
    return [item for _, item in ranked]


def _items(value: Any) -> Iterable[tuple[str, Any]]:
    return value.items() if isinstance(value, dict) else ()


def _is_aside(key: str) -> bool:
    return is_echo(key) or _COPY().search(folded(key)) is not None


def _names_links(key: str) -> bool:
    return folded(key).endswith(("url", "urls", "uri", "uris", "link", "links")) and not _is_page(key)


def _is_page(key: str) -> bool:
    return not _PAGES.isdisjoint(word.lower() for word in _WORD().findall(key[-LONGEST_KEY:]))


def _echoed(value: Any, depth: int) -> Iterator[str]:
    """The links of everything that echoes the request."""
    for key, item in _items(value):
        if isinstance(item, str | list | dict) and is_echo(key):
            yield from _all_links(item, depth)
        elif isinstance(item, dict) and depth:
            yield from _echoed(item, depth - 1)


def _all_links(value: Any, depth: int) -> Iterator[str]:
    if isinstance(value, str):
        # Mostly there is none, and what was sent need not be decoded.
        if "//" in value or "\\/" in value:
            yield from links_of(value)
            yield from _all_links(_opened(value), depth)
    elif depth and isinstance(value, list | dict):
        for item in value if isinstance(value, list) else value.values():
            yield from _all_links(item, depth - 1)
