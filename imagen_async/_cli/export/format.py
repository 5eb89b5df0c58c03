"""What an output format is: what it is called, how its shards are named, who writes them and with what."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from string import Formatter

import msgspec

from ...errors import ConfigurationError
from .columns import Column
from .samples import Sample

Writer = Callable[[Path, Iterable[Sample], Sequence[Column]], list[str]]
"""Writes a shard; returns the paths of what is not as it was saved."""


class Format(msgspec.Struct, frozen=True):
    """A form in which pictures are exported.

    Attributes:
        name: What `--to` takes.
        pattern: Of the names of its shards: `{number}`, from 0, and `{count}`, of all, each with its digits (`:06d`).
        write: Writes a shard.
        needs: A module of the extra `export` without which it cannot be written, or None.
    """

    name: str
    pattern: str
    write: Writer
    needs: str | None = None

    def shard_name(self, number: int, count: int) -> str:
        """The name of a shard."""
        return self.pattern.format(number=number, count=count)

    def recognises(self, name: str) -> bool:
        """True where a file's name is that of some shard of this form."""
        # Read from the pattern that makes the names: an export that its own command does not know is never replaced.
        pieces = (
            re.escape(text) + ("" if spec is None else rf"\d{{{int(spec.rstrip('d'))}}}")
            for text, _, spec, _ in Formatter().parse(self.pattern)
        )
        return re.fullmatch("".join(pieces), name) is not None

    def refuse_missing(self) -> None:
        """Raise ConfigurationError where what it needs is not installed."""
        if self.needs is not None and importlib.util.find_spec(self.needs) is None:
            raise ConfigurationError(f"--to {self.name} needs an extra: pip install 'imagen-async[export]'")
