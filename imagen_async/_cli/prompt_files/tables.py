"""Tables in text: by which delimiter, under which header, and what a cell says."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol

import msgspec

from ..library import FieldKind
from ..wording import counted
from .encoding import Text
from .json_text import decoded
from .lines import KINDS, BadLine, Item, meant, request_from

_DELIMITERS = ",;\t|"
SEPARATOR = re.compile(r'\s*"?sep=([^\r\n])"?(?:\1|\s)*', re.IGNORECASE)
"""A line before the header by which Excel is told the delimiter; who saved it as a row has filled that up."""

_QUOTE = "quotes around a cell keep together what is in it"

_AS_TEXT = re.compile(r'="((?:[^"]|"")*)"')
"""How a spreadsheet is told to take a cell as it is."""

_ERROR = re.compile(r"#¿?[^\W\d_a-z]+[!?]|#DIV/0!|#N/A|#NV|Err:5[0-9]{2}")
"""What a spreadsheet writes, in any language, of what is no formula: such as a prompt that begins with a dash."""

_ODD = frozenset("#E=")
"""What either begins with."""

_RETURN = "a return, and no newline, stands in a cell without quotes"

_NOTHING = frozenset({"nan", "<na>"})
"""What pandas writes where nothing is, in lower case."""

# More digits than these no provider takes, and int() itself refuses some thousands of them.
# Three noughts behind the point may be thousands, where people write those so.
_WHOLE = re.compile(r"\s*(-?[0-9]{1,19})(?:[.,]0{1,2})?\s*")


class _Layout(msgspec.Struct, frozen=True):
    """How a table is written.

    Attributes:
        delimiter: Between its cells.
        has_quotes: False where a quotation mark is part of the prompt.
        skipped: Lines before the header.
        has_blanks: True where blanks behind a delimiter are no part of a cell, as the header is written so.
        newline: What ends a line, as `open` takes it: where the header's is a newline, a return alone ends none.
    """

    delimiter: str
    has_quotes: bool = True
    skipped: int = 0
    has_blanks: bool = False
    newline: str = ""


def csv_reader(text: Text) -> Callable[[], Iterator[Item]]:
    """What begins to read comma-separated text, or what a spreadsheet calls so."""
    return partial(_parse, text, _layout_of(text, ","))


def tsv_reader(text: Text) -> Callable[[], Iterator[Item]]:
    """What begins to read tab-separated text, which has quotes only where its header has, or its cells need them."""
    return partial(_parse, text, _layout_of(text, "\t"))


def _layout_of(text: Text, usual: str) -> _Layout:
    """Tell it by the header, in which the field's names are known: where they stand alone, the delimiter is right."""
    for skipped, line in enumerate(text.open("")):
        newline = "\n" if line.endswith("\n") else ""
        if told := SEPARATOR.fullmatch(line):
            return _Layout(told[1], skipped=skipped + 1, newline=newline)
        if line.strip(f"{_DELIMITERS}\"' \r\n"):
            if usual == "\t" and "prompt" in _lowered(line.split("\t")):
                return _Layout("\t", has_quotes=_has_quotes(text), newline=newline)
            return _layout_by(line, usual, newline)
    return _Layout(usual)


def _has_quotes(text: Text) -> bool:
    """True where quotes stand around those cells that need them and nowhere else, as pandas and Excel write them."""
    return '"' in text and any(_is_quoted_for(needing, text) for needing in ('"\t\r\n', '"\t\r\n,'))


def _is_quoted_for(needing: str, text: Text) -> bool:
    taken: list[str] = []

    def lines() -> Iterator[str]:
        for line in text.open(""):
            taken.append(line)
            yield line

    try:
        for row in csv.reader(lines(), delimiter="\t", strict=True):
            said = "".join(taken).rstrip("\r\n")
            taken.clear()
            if ('"' in said or "," in said) and said != "\t".join(_quoted(cell, needing) for cell in row):
                return False
    except csv.Error:
        return False
    return True


def _quoted(cell: str, needing: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if any(each in cell for each in needing) else cell


def _layout_by(header: str, usual: str, newline: str) -> _Layout:
    delimiters = [usual, *_DELIMITERS.replace(usual, "")]
    names = {each: _names_in(header, each) for each in delimiters}
    found = [each for each in delimiters if "prompt" in names[each]]
    likely = max(delimiters, key=lambda each: (len(KINDS.keys() & set(names[each])), len(names[each])))
    delimiter = found[0] if found else likely
    return _Layout(delimiter, has_blanks=f"{delimiter} " in header, newline=newline)


def _names_in(header: str, delimiter: str) -> list[str]:
    try:
        return _lowered(next(csv.reader([header], delimiter=delimiter, skipinitialspace=True), []))
    except csv.Error:  # a name of more characters than the reader takes: it is told when the row is read
        return []


def _lowered(names: Sequence[str]) -> list[str]:
    return [name.strip().lower() for name in names]


def _parse(text: Text, layout: _Layout) -> Iterator[Item]:
    if not layout.has_quotes:
        return _parse_rows(_UnquotedRows(text, layout))
    lines = text.open(layout.newline)
    for _ in range(layout.skipped):
        next(lines)
    # Strict: quotes that do not close would make one prompt of half the file.
    rows = csv.reader(lines, delimiter=layout.delimiter, skipinitialspace=layout.has_blanks, strict=True)
    return _parse_rows(rows, layout.skipped)


class _Rows(Protocol):
    """A table's rows of cells, as `csv.reader` gives them, with the number of the line that was read last."""

    @property
    def line_num(self) -> int: ...

    def __next__(self) -> list[str]: ...


class _UnquotedRows:
    """The rows of a text in which a quotation mark is part of a cell."""

    def __init__(self, text: Text, layout: _Layout) -> None:
        self.line_num = 0
        self._lines = text.lines(layout.newline or None)
        self._delimiter = layout.delimiter
        self._width = 0

    def __next__(self) -> list[str]:
        self.line_num, line = next(self._lines)
        if "\r" in line:
            raise csv.Error(_RETURN)
        row = line.split(self._delimiter)
        if len(row) < self._width and row[-1].startswith('"') and row[-1].count('"') % 2:
            raise csv.Error("a quote opens a cell of several lines; say so by quotes in the header too")
        self._width = max(self._width, len(row))
        return row


def _parse_rows(rows: _Rows, skipped: int = 0) -> Iterator[Item]:
    header: _Header | None = None
    lack: BadLine | None = None
    while True:
        # A quoted field may hold newlines: a row is named by its first line.
        first_line = skipped + rows.line_num + 1
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            # Behind a quote that does not close nobody can tell where the next row begins.
            reason = _RETURN if "new-line" in str(error) else error
            yield BadLine(first_line, f"this is not CSV, and the rest was not read: {reason}")
            return
        if not any(map(str.strip, row)):
            continue
        if header is not None:
            yield of_table(header.request(first_line, row), lack)
            continue
        names = [name.strip() for name in row]
        problem = header_problem(names)
        header, lack = _Header(names), lacking_prompt(first_line, names)
        if problem is not None:
            yield BadLine(first_line, problem)
            return


def header_problem(names: Sequence[str]) -> str | None:
    """What is wrong with the names of a table's columns, or None."""
    doubled = [name for name, count in Counter(filter(None, map(str.lower, names))).items() if count > 1]
    return f"two columns are named {doubled[0]!r}" if doubled else None


def lacking_prompt(line: int, names: Sequence[str]) -> BadLine | None:
    """What is to be said of a table that has no column for prompts, where the model wants some; None: it has one."""
    if not {"prompt", "images"}.isdisjoint(map(str.lower, names)):
        return None
    remedy = meant(names) or "; the first line is to name the columns"
    return BadLine(
        line, f"there is no column named prompt, only {', '.join(filter(None, names))}{remedy}", is_last=True
    )


def of_table(item: Item, lack: BadLine | None) -> Item:
    """A row; where it is no request for want of a prompt, and its table has no column for any, that is what is said."""
    if lack is None or not isinstance(item, BadLine):
        return item
    return msgspec.structs.replace(lack, request=item.request)


class _Header:
    """The columns of a table. Spreadsheets leave some without a name, mostly with nothing under it."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = list(names)
        named = [(name, at) for at, name in enumerate(names) if name]
        self._fields = [(name.lower(), at, _reader_of(name.lower())) for name, at in named if name.lower() in KINDS]
        # Of the user's own: they go to the manifest as they are.
        self._columns = [(name, at) for name, at in named if name.lower() not in KINDS]
        self._unnamed = [at for at, name in enumerate(names) if not name]

    def request(self, line: int, row: list[str]) -> Item:
        """What a row says."""
        if row[0].strip() == self._names[0] and [cell.strip() for cell in row] == self._names:
            return BadLine(line, "this is the header once more")  # as two files in one have it
        width = len(self._names)
        if len(row) != width:
            if any(map(str.strip, row[width:])):
                return BadLine(line, f"there are {len(row)} fields under {counted(width, 'column')}; {_QUOTE}")
            row += [""] * (width - len(row))
        for name, at, _ in self._fields:
            if row[at][:1] not in _ODD:
                continue
            cell = row[at].strip()
            if _ERROR.fullmatch(cell):
                return BadLine(line, f"{name} is {cell!r}, a spreadsheet's error; mend the cell there")
            if told := _AS_TEXT.fullmatch(cell):
                row[at] = told[1].replace('""', '"')
        fields = {name: read(row[at]) for name, at, read in self._fields}
        columns: dict[str, Any] = {name: row[at] if row[at].strip() else None for name, at in self._columns}
        for at in self._unnamed:
            if row[at].strip():
                if len(self._unnamed) > 1:
                    return BadLine(line, f"there is {row[at]!r} in column {at + 1}, which has no name")
                columns[""] = row[at]  # the index of a data frame
        return request_from(line, fields, columns)


def _reader_of(field: str) -> Callable[[str], Any]:
    """What reads the cells of a field: an empty one is none; a number or a JSON object stays text where it is none."""
    return _READERS.get(field) or _OF_KIND[KINDS[field]]


def _text(cell: str) -> str | None:
    return cell.strip() or None


def _word(cell: str) -> str | None:
    """A text of which "nan" can be none."""
    text = cell.strip()
    return None if text.lower() in _NOTHING else text or None


def _prompt(cell: str) -> str:
    # No prompt is a mistake, and nothing elsewhere leaves it to the defaults.
    return _word(cell) or ""


def _whole(cell: str) -> int | str | None:
    found = _WHOLE.fullmatch(cell)
    return int(found[1]) if found else _word(cell)


def _object(cell: str) -> Any:
    try:
        return decoded(cell)
    except (ValueError, RecursionError):
        return _word(cell)


def _files(cell: str) -> tuple[str, ...] | None:
    """Names of files: a JSON list, or what stands between semicolons, bars or lines."""
    if cell.lstrip().startswith("["):
        listed = _object(cell)
        return tuple(listed) if isinstance(listed, list) else listed
    return tuple(each.strip() for each in re.split(r"[;|\n]", cell) if each.strip()) or None


_OF_KIND: dict[FieldKind, Callable[[str], Any]] = {
    "whole": _whole,
    "object": _object,
    "text": _text,
    "files": _files,
}
_READERS: dict[str, Callable[[str], Any]] = {"prompt": _prompt, "model": _word, "aspect_ratio": _word}
