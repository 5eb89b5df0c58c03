"""Finds the OpenAPI document in a page as it is published: Markdown around YAML, YAML alone, JSON in an envelope."""

from __future__ import annotations

import itertools
import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from .._text import one_line, shown, told
from ..errors import ConfigurationError
from .yaml12 import read_yaml

MAX_BYTES = 1 << 20
"""Of a page; the longest of kie.ai's has 20 KB."""

_FENCE = re.compile(r"([ \t]*)(`{3,}|~{3,})")
_OPENS = re.compile(r"^[\"']?openapi[\"']?[ \t]*:", re.MULTILINE)
_BEGINS = re.compile(r"^openapi:[ \t]*['\"]?3\.", re.MULTILINE)
# At the left edge a document has its own words and lists; what else stands there is the page that goes on.
_WORD = re.compile(r"(openapi|info|servers|security|tags|paths|components|webhooks|externalDocs|x-[\w-]+):")
_GOES_ON = re.compile(rf"[ \t#-]|$|{_WORD.pattern}")

_MOST_BLOCKS = 8
"""Blocks of a page that are tried: what another one has for a document may only look like one."""

_LOST = (
    "The page has lost its indentation, so that nobody can tell what belongs to what: "
    "take it from its source, such as the address of the page with .md behind it."
)


def document_of(page: object) -> tuple[Mapping[str, Any], str | None]:
    """The OpenAPI document of a page, and the model that an answer around it names.

    Args:
        page: Its text or bytes, or decoded JSON.

    Raises:
        ConfigurationError: There is none in it, or it cannot be read.
    """
    found = page if isinstance(page, Mapping) else _read(_text_of(page))
    named = said = None
    for _ in range(4):
        if isinstance(found, str):
            found = _read(found)
        if isinstance(found, Mapping) and isinstance(found.get("paths"), Mapping):
            return found, named
        if not isinstance(found, Mapping) or not {"openapi", "data"} & found.keys():
            break
        # kie.ai's answer to the question for a schema has it two objects deep.
        model, said = found.get("model"), said or found.get("msg") or found.get("message")
        named = model.strip() if isinstance(model, str) and model.strip() else named
        inner = found.get("openapi", found.get("data"))
        if isinstance(inner, int | float) or (isinstance(inner, str) and re.match(r"\d", inner)):
            return found, named
        if inner is None:
            what = "The provider has no schema of this model: its answer's `openapi` is null"
            raise ConfigurationError(f"{what}.{_words_of(said)}")
        found = inner
    raise ConfigurationError(f"This is no page of a model: there is no OpenAPI document in it.{_words_of(said)}")


def _words_of(said: object) -> str:
    """What an answer says beside that it has no page."""
    return "" if said in (None, "success") else f" It says: {one_line(shown(str(said), 200))}."


def _text_of(page: object) -> str:
    if not isinstance(page, str | bytes):
        raise ConfigurationError(f"A page is a text, bytes or decoded JSON, not {type(page).__name__}.")
    if len(page) > MAX_BYTES:
        raise ConfigurationError(f"The page is longer than {MAX_BYTES:,} bytes: that is no page of one model.")
    try:
        return page if isinstance(page, str) else page.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"The page is not in UTF-8: {error}.") from None


def _read(text: str) -> Any:
    """The value of JSON, or of the YAML in a page."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    wrong: ConfigurationError | None = None
    if text.lstrip()[:1] in ("{", "["):
        try:
            return _json_of(text)
        except ConfigurationError as error:  # a page may begin so, too: with a badge, or a link
            wrong = error
    for block in itertools.islice(_blocks(text), _MOST_BLOCKS):
        try:
            found = _of_block(block)
        except ConfigurationError as error:
            wrong = wrong or error
            continue
        if isinstance(found, Mapping):
            return found
    if wrong is not None:
        raise wrong
    return None


def _of_block(block: str) -> Any:
    if block.startswith("{"):
        return _json_of(block)
    _refuse_others(block)
    return read_yaml(block)


def _json_of(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise ConfigurationError(f"The page's JSON cannot be read: {told(str(error), 200)}.") from None


def _blocks(text: str) -> Iterator[str]:
    """The parts of a page that are an OpenAPI document: what is fenced, or else from its first line on."""
    for fenced in _fenced(text):
        block = textwrap.dedent(fenced).lstrip("\n")
        if _OPENS.search(block) or (block.startswith("{") and '"openapi"' in block):
            yield block
    begins = _BEGINS.search(text)
    if begins is not None:
        before = text[: begins.start()].split("\n")
        # Its keys may come in another order: what stands before goes with it from the first that is one.
        start = next((at + 1 for at in reversed(range(len(before))) if not _GOES_ON.match(before[at])), 0)
        start = next((at for at in range(start, len(before)) if _WORD.match(before[at])), len(before) - 1)
        lines = [*before[start:-1], *text[begins.start() :].split("\n")]
        end = next((at for at, line in enumerate(lines) if not _GOES_ON.match(line)), len(lines))
        # A page without any indentation goes on at once: what is wrong with it is told by its whole.
        yield "\n".join(lines[:end] if end > 5 else lines)


def _fenced(text: str) -> Iterator[str]:
    """What stands between fences, in the order of the page; a fence that does not close goes to its end."""
    fence, edge, inside = "", 0, list[str]()
    for line in text.split("\n"):
        found = _FENCE.match(line)
        if not fence and found:
            edge, fence = len(found[1]), found[2]
        elif fence and found and _closes(found, fence, edge):
            yield "\n".join(inside).lstrip("\n")
            fence = ""
            inside.clear()
        elif fence:
            inside.append(line)
    if inside:
        yield "\n".join(inside).lstrip("\n")


def _closes(found: re.Match[str], fence: str, edge: int) -> bool:
    """True for what ends a fenced block: what stands further in is part of it, for a description has its own fences."""
    is_all = not found.string[found.end() :].strip()
    return is_all and found[2].startswith(fence) and len(found[1]) <= edge


def _refuse_others(block: str) -> None:
    """Raise ConfigurationError for what can be told to be no use before it is read."""
    after = re.search(r"^(paths|info):[ \t]*\n+(.)", block, re.MULTILINE)
    if after is not None and after[2] not in " \t":
        raise ConfigurationError(_LOST)
    if re.search(r"[\s{,][\"']?post[\"']?[ \t]?:", block) is None:
        raise ConfigurationError("This is no page of a model: no POST is described in it.")
