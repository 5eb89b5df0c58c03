"""A prompt file from its bytes to its requests: read once, checked whole, and parsed anew by whoever loops over it."""

from __future__ import annotations

import difflib
import hashlib
import itertools
from collections.abc import Callable, Iterator
from functools import partial

from ...errors import ConfigurationError, InvalidRequest
from ..columns import Columns
from .encoding import Text
from .json_text import parse_json
from .lines import KINDS, BadLine, Item, PromptLine
from .mistakes import Mistakes
from .parquet import parquet_reader
from .plain import parse_txt, parse_unsaid
from .reading import kind_of, read, unpacked
from .tables import csv_reader, tsv_reader

_Reader = Callable[[Text], Callable[[], Iterator[Item]]]
"""Looks at a text once, and gives what begins to read it, each time anew."""


def _by(parse: Callable[[Text], Iterator[Item]]) -> _Reader:
    """What reads texts of which nothing must be known beforehand."""
    return lambda text: partial(parse, text)


_READERS: dict[str, _Reader] = {
    "txt": _by(parse_txt),
    "jsonl": _by(parse_json),
    "csv": csv_reader,
    "tsv": tsv_reader,
    "json": _by(parse_json),
}

_KNOWN = (*_READERS, "parquet")


class PromptFile:
    """The requests of a file, which is read once and parsed anew, line by line, each time it is looped over.

    Args:
        path: The file, or `-` for stdin. Gzip is unpacked, up to 1 GB.
        kind: `txt`, `jsonl`, `csv`, `tsv`, `json` or `parquet`; None: by its name, and txt for stdin.
        limit: Only the first so many requests, or None for all.
        encoding: Of a text; None: UTF-8, or what its mark says.

    Attributes:
        name: As people call it.
        sha256: Of its bytes, as they lie there.
        columns: What is beside the requests' fields, once it is checked.
        nan_prompts: How many lines have the word nan for their negative prompt, where a data frame had none.

    Raises:
        ConfigurationError: It cannot be read, is not in that encoding, or is of a kind that nobody knows.
    """

    def __init__(
        self, path: str, kind: str | None = None, limit: int | None = None, encoding: str | None = None
    ) -> None:
        self.name = "stdin" if path == "-" else path
        self.columns = Columns()
        self.nan_prompts = 0
        data = read(path)
        readers = _READERS if kind else _READERS | {"txt": _by(parse_unsaid)}
        kind = kind or kind_of(path, _KNOWN)
        self.sha256 = hashlib.sha256(data).hexdigest()
        data = unpacked(data, self.name)
        if kind == "parquet":
            self._parse = parquet_reader(data, self.name)
        else:
            self._parse = readers[kind](Text(data, self.name, encoding))
        self._limit = limit
        self._count = 0
        self._take: Callable[[PromptLine], PromptLine] | None = None
        self._needs_prompt: Callable[[PromptLine], bool] = lambda line: True

    def convert(
        self,
        take: Callable[[PromptLine], PromptLine],
        needs_prompt: Callable[[PromptLine], bool] = lambda line: True,
    ) -> None:
        """Let each line be what `take` makes of it, from now on, and be one without a prompt where it needs none."""
        self._take, self._needs_prompt = take, needs_prompt

    def check(self, admit: Callable[[PromptLine], object]) -> Mistakes:
        """Look at every line, and let `admit` look at its request; returns what is wrong, nothing when all is well."""
        bad = Mistakes()
        # By 64 bits of each: the keys themselves would take more memory than the file.
        first_line: dict[int, int] = {}
        self._count = 0
        for item in self._items():
            self._count += 1
            problem = self._problem(item, admit, first_line)
            if problem is not None:
                bad.add(BadLine(item.line, problem))
        if not self._count:
            bad.add(BadLine(0, "there is no prompt in it"))
        return bad

    def odd_columns(self) -> list[tuple[str, str]]:
        """Columns that look like a misspelt field, each with that field, once it is checked."""
        names = sorted(self.columns.names - KINDS.keys())
        matches = ((name, difflib.get_close_matches(name.lower(), KINDS, 1, 0.8)) for name in names)
        return [(name, match[0]) for name, match in matches if match]

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[PromptLine]:
        """The requests, in their order."""
        for item in self._items():
            if isinstance(item, BadLine):
                raise ConfigurationError(f"{self.name}:{item.line}: {item.problem}")
            yield item

    def _items(self) -> Iterator[Item]:
        are_any = False
        for item in itertools.islice(self._parse(), self._limit):
            taken = item if self._take is None else self._taken(item, self._take)
            if isinstance(taken, BadLine) and taken.is_last and are_any and taken.request is not None:
                # Others are requests without a prompt: it is this one that lacks something.
                taken = BadLine(taken.request.line, "there is no prompt")
            are_any = True
            yield taken
            if isinstance(taken, BadLine) and taken.is_last:
                return

    def _taken(self, item: Item, take: Callable[[PromptLine], PromptLine]) -> Item:
        try:
            if not isinstance(item, BadLine):
                return take(item)
            if item.request is None:
                return item
            taken = take(item.request)
        except InvalidRequest as error:
            line = item.request.line if isinstance(item, BadLine) and item.request is not None else item.line
            return BadLine(line, error.message)
        is_its_own = len(taken.columns) < len(item.request.columns)
        return taken if is_its_own and not self._needs_prompt(taken) else item

    def _problem(self, item: Item, admit: Callable[[PromptLine], object], first_line: dict[int, int]) -> str | None:
        if isinstance(item, BadLine):
            return item.problem
        if item.columns:
            self.columns.add(item.columns)
        if item.negative_prompt is not None:
            # It stays, so that what was made with it is not made anew.
            self.nan_prompts += item.negative_prompt in ("nan", "NaN", "<NA>")
        if item.key is not None and (first := first_line.setdefault(hash(item.key), item.line)) != item.line:
            return f"key {item.key!r} is taken by line {first}; keys must differ"
        try:
            admit(item)
        except InvalidRequest as error:
            return error.message
        return None
