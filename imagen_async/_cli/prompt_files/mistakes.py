"""What is wrong with a prompt file: a mistake that many lines have is told once."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from ..wording import counted
from .lines import BadLine

_SHOWN = 3
"""Lines with one mistake that are each told by themselves; of more of them so many are named."""

_KINDS = 100
"""Mistakes that are told apart; the lines with any other are counted."""

_GIVEN = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|-?\d[\d.]*")
"""What of a problem is the line's own: two that differ in nothing else are one mistake."""


class _Mistake(msgspec.Struct):
    """A mistake: in how many lines it is, and the first of these."""

    count: int = 0
    examples: list[BadLine] = []

    def told(self, name: str) -> Iterator[str]:
        """For people."""
        if self.count <= _SHOWN:
            for each in self.examples:
                yield f"{name}:{each.line}: {each.problem}" if each.line else f"{name}: {each.problem}"
            return
        lines = ", ".join(str(each.line) for each in self.examples)
        problem = self.examples[0].problem.rstrip(".")
        yield f"{name}: {counted(self.count, 'line')}: {problem} (lines {lines} …)"


class Mistakes:
    """The bad lines of a file, by what is wrong with them: as large as there are kinds of that, up to a hundred.

    Looping over it gives the lines that are shown.

    Attributes:
        count: Of all bad lines.
    """

    def __init__(self) -> None:
        self.count: int = 0
        self._found: dict[str, _Mistake] = {}

    def add(self, bad: BadLine) -> None:
        """One more; they come in the order of their lines."""
        self.count += 1
        kind = _GIVEN.sub("…", bad.problem)
        if kind not in self._found and len(self._found) == _KINDS:
            return
        mistake = self._found.setdefault(kind, _Mistake())
        mistake.count += 1
        if mistake.count <= _SHOWN:
            mistake.examples.append(bad)

    def __bool__(self) -> bool:
        return self.count > 0

    def __iter__(self) -> Iterator[BadLine]:
        shown = (bad for mistake in self._found.values() for bad in mistake.examples)
        return iter(sorted(shown, key=lambda bad: bad.line))

    def text(self, name: str, requests: int) -> list[str]:
        """For people: what is wrong with a file of so many requests, in the order of where it is first."""
        of_all = f" of {counted(requests, 'request')}" if requests else ""
        told = [line for mistake in self._found.values() for line in mistake.told(name)]
        others = self.count - sum(mistake.count for mistake in self._found.values())
        told += [f"{name}: {counted(others, 'other line')} with other problems"] if others else []
        return [*told, f"{counted(self.count, 'problem')}{of_all}; nothing was sent."]
