"""Prompt files: .txt, .jsonl, .csv and .tsv into requests, every bad line named by its number."""

from __future__ import annotations

import csv
import difflib
import hashlib
import io
import itertools
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from .. import ImageRequest
from ..errors import ConfigurationError, InvalidRequest
from .encoding import decoded
from .library import FIELDS

_KINDS = {field.name: field.kind for field in FIELDS}
"""What a cell of each column is read as, by its name in lower case; other columns are not a request's."""


class PromptLine(ImageRequest, frozen=True):
    """A request that knows its line, and the columns that are not a request's."""

    line: int = 0
    columns: dict[str, Any] = {}  # noqa: RUF012 - msgspec copies an empty default


class BadLine(msgspec.Struct, frozen=True):
    """A line that cannot be used, and why."""

    line: int
    problem: str


class PromptFile:
    """The requests of a file, which is read once and parsed anew, line by line, each time it is looped over.

    Args:
        path: The file, or `-` for stdin.
        kind: `txt`, `jsonl`, `csv` or `tsv`; None: by its name, and txt for stdin.
        limit: Only the first so many requests, or None for all.

    Attributes:
        name: As people call it.
        sha256: Of its bytes.

    Raises:
        ConfigurationError: It cannot be read, is no UTF-8, or is of a kind that nobody knows.
    """

    def __init__(self, path: str, kind: str | None = None, limit: int | None = None) -> None:
        self.name = "stdin" if path == "-" else path
        data = _read(path)
        self.sha256 = hashlib.sha256(data).hexdigest()
        self._text = decoded(data, self.name)
        self._parse = _PARSERS[kind or _kind_of(path)]
        self._limit = limit
        self._count = 0

    def check(self, admit: Callable[[PromptLine], object]) -> list[BadLine]:
        """Look at every line, and let `admit` look at its request; returns what is wrong, nothing when all is well."""
        bad: list[BadLine] = []
        first_line: dict[str, int] = {}
        self._count = 0
        for item in self._items():
            self._count += 1
            problem = _problem(item, admit, first_line)
            if problem is not None:
                bad.append(BadLine(item.line, problem))
        if not self._count:
            bad.append(BadLine(0, "there is no prompt in it"))
        return bad

    def odd_columns(self) -> list[tuple[str, str]]:
        """Columns that look like a misspelt field, each with that field."""
        # Of every line: the first one may have no cell there.
        names = {name for item in self._items() if isinstance(item, PromptLine) for name in item.columns}
        matches = ((name, difflib.get_close_matches(name.lower(), _KINDS, 1, 0.8)) for name in sorted(names))
        return [(name, match[0]) for name, match in matches if match]

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[PromptLine]:
        """The requests, in their order."""
        for item in self._items():
            if isinstance(item, BadLine):
                raise ConfigurationError(f"{self.name}:{item.line}: {item.problem}")
            yield item

    def _items(self) -> Iterator[PromptLine | BadLine]:
        return itertools.islice(self._parse(self._text), self._limit)


def _problem(
    item: PromptLine | BadLine, admit: Callable[[PromptLine], object], first_line: dict[str, int]
) -> str | None:
    if isinstance(item, BadLine):
        return item.problem
    if item.key is not None and first_line.setdefault(item.key, item.line) != item.line:
        return f"key {item.key!r} is taken by line {first_line[item.key]}; keys must differ"
    try:
        admit(item)
    except InvalidRequest as error:
        return error.message
    return None


def _read(path: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror or error}.") from error


def _kind_of(path: str) -> str:
    kind = "txt" if path == "-" else Path(path).suffix.lower().removeprefix(".")
    if kind not in _PARSERS:
        known = ", ".join(f".{name}" for name in _PARSERS)
        raise ConfigurationError(f"{path}: its name does not tell its kind ({known}); say it with --format.")
    return kind


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Numbered lines. Only newlines end a line: a prompt may hold any other of Unicode's separators."""
    start, number = 0, 1
    while start < len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        yield number, text[start:end].rstrip("\r")
        start, number = end + 1, number + 1


def _parse_txt(text: str) -> Iterator[PromptLine | BadLine]:
    for number, line in _lines(text):
        if line.strip():
            yield PromptLine(line.strip(), line=number)


def _parse_jsonl(text: str) -> Iterator[PromptLine | BadLine]:
    for number, line in _lines(text):
        if not line.strip():
            continue
        try:
            value = json.loads(line, parse_constant=_no_number)
            # Half a surrogate pair can be written as JSON's \ud83d, and can be sent or saved nowhere.
            json.dumps(value, ensure_ascii=False).encode()
        except (ValueError, RecursionError) as error:
            yield BadLine(number, f"this is not JSON in Unicode: {error}")
            continue
        value = {"prompt": value} if isinstance(value, str) else value
        if isinstance(value, dict):
            yield _request(number, value)
        else:
            yield BadLine(number, "a line must be a JSON object with a prompt, or a string")


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _parse_csv(text: str) -> Iterator[PromptLine | BadLine]:
    # Strict: quotes that do not close would make one prompt of half the file.
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    return _parse_table(reader, lambda: reader.line_num)


def _parse_tsv(text: str) -> Iterator[PromptLine | BadLine]:
    """Tab-separated text has no quoting: a quotation mark is part of the prompt."""
    number = 0

    def rows() -> Iterator[list[str]]:
        nonlocal number
        for number, line in _lines(text):  # noqa: B007 - it is what the table asks for
            yield line.split("\t") if line.strip() else []

    return _parse_table(rows(), lambda: number)


def _parse_table(rows: Iterator[list[str]], line_number: Callable[[], int]) -> Iterator[PromptLine | BadLine]:
    header: list[str] | None = None
    while True:
        # A quoted field may hold newlines: a row is named by its first line.
        first_line = line_number() + 1
        try:
            row = next(rows, None)
        except csv.Error as error:
            # Behind a quote that does not close nobody can tell where the next row begins.
            yield BadLine(first_line, f"this is not CSV, and the rest was not read: {error}")
            return
        if row is None:
            return
        if not any(cell.strip() for cell in row):
            continue
        if header is None:
            header = [name.strip() for name in row]
            problem = _header_problem(header)
            if problem is not None:
                yield BadLine(first_line, problem)
                return
        elif len(row) > len(header):
            yield BadLine(first_line, f"there are {len(row)} fields under {len(header)} columns")
        else:
            row += [""] * (len(header) - len(row))
            yield _request(first_line, dict(zip(header, map(_typed, header, row), strict=True)))


def _header_problem(header: list[str]) -> str | None:
    lowered = [name.lower() for name in header]
    doubled = [name for name, count in Counter(lowered).items() if count > 1]
    if doubled:
        return f"two columns are named {doubled[0]!r}"
    return None if "prompt" in lowered else f"there is no column named prompt, only {', '.join(header)}"


def _typed(name: str, cell: str) -> Any:
    """A cell of a table as a value: an empty one is none; a number or a JSON object stays text where it is none."""
    field = name.lower()
    if not cell.strip():
        # No prompt is a mistake, and nothing elsewhere leaves it to the defaults.
        return "" if field == "prompt" else None
    match _KINDS.get(field):
        case "whole":
            # More digits than these no provider takes, and int() itself refuses some thousands of them.
            return int(cell) if re.fullmatch(r"\s*-?[0-9]{1,19}\s*", cell) else cell
        case "object":
            try:
                return json.loads(cell)
            except ValueError:
                return cell
        case "text":
            return cell.strip()
        case None:  # a column of the user's own: it goes to the manifest as it is
            return cell


def _request(line: int, values: dict[str, Any]) -> PromptLine | BadLine:
    """A request of named values; the check of their types and ranges is the model's."""
    fields = {name.lower(): value for name, value in values.items() if name.lower() in _KINDS}
    columns = {name: value for name, value in values.items() if name.lower() not in _KINDS}
    if len({name.lower() for name in values}) < len(values):
        return BadLine(line, "two of its fields have one name")
    if "prompt" not in fields:
        return BadLine(line, "there is no prompt")
    if isinstance(fields["prompt"], str):
        fields["prompt"] = fields["prompt"].strip()
    if fields.get("extra") is None:
        fields.pop("extra", None)
    key = fields.get("key")
    if key is not None:
        # A number is the same key as its digits, so that JSON and CSV agree.
        fields["key"] = str(key)
    return PromptLine(**fields, line=line, columns=columns)


_PARSERS: dict[str, Callable[[str], Iterator[PromptLine | BadLine]]] = {
    "txt": _parse_txt,
    "jsonl": _parse_jsonl,
    "csv": _parse_csv,
    "tsv": _parse_tsv,
}
