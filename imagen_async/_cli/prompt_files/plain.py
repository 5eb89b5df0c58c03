"""Plain text: a prompt a line."""

from __future__ import annotations

from collections.abc import Iterator

from .encoding import Text
from .lines import Item, PromptLine


def parse_txt(text: Text) -> Iterator[Item]:
    """The requests of a text."""
    for number, line in text.lines():
        if prompt := line.strip():
            yield PromptLine(prompt, line=number)
