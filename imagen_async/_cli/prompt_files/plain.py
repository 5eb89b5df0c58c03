"""Plain text: a prompt a line."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .encoding import Text
from .json_text import decoded
from .lines import BadLine, Item, PromptLine
from .tables import SEPARATOR

_CELLS = re.compile(r"[,;\t|]")


def parse_txt(text: Text) -> Iterator[PromptLine]:
    """The requests of a text."""
    for number, line in text.lines():
        if prompt := line.strip():
            yield PromptLine(prompt, line=number)


def parse_unsaid(text: Text) -> Iterator[Item]:
    """The requests of what nobody has said to be a text: a table or JSON in it would be paid for, line by line."""
    items = parse_txt(text)
    first = next(items, None)
    if first is None:
        return
    kind = _kind_by(first.prompt)
    if kind is not None:
        remedy = f"say --format {kind}, or --format txt where that is a prompt"
        yield BadLine(first.line, f"this is no prompt but the beginning of .{kind}; {remedy}")
        return
    yield first
    yield from items


def _kind_by(line: str) -> str | None:
    """The kind of file that a first line tells; None for text."""
    cells = [cell.strip(" \"'").lower() for cell in _CELLS.split(line)]
    if SEPARATOR.fullmatch(line) or ("prompt" in cells and not line.startswith(("{", "["))):
        return "tsv" if "\t" in line else "csv"
    try:
        value = decoded(line.removesuffix(","))
    except (ValueError, RecursionError):
        return "json" if line in ("[", "[{", "{") else None
    first = value[0] if isinstance(value, list) and value else value
    if isinstance(first, str) and first is not value:
        return "json"
    return "jsonl" if isinstance(first, dict) and "prompt" in map(str.lower, first) else None
