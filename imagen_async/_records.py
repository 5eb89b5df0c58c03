"""Files of models' records: those that come with the package, read when first asked for, and the user's own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import overload

import msgspec

from ._core.model import Model
from ._text import told
from .errors import ConfigurationError

MAX_BYTES = 16 << 20
"""Of a file of the user's own; that of all of kie.ai's models has 60 KB."""

_SHIPPED = Path(__file__).parent / "providers"


class ModelFile(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What such a file holds.

    Attributes:
        models: The records.
        provider: Whose they are, by the name of its record; None: anybody's who has a createTask API.
        source: Where they were taken from.
        date: When, as 2026-10-06.
    """

    models: tuple[Model, ...]
    provider: str | None = None
    source: str = ""
    date: str = ""


class Shipped(Sequence[Model]):
    """The models of a file that comes with the package. To import it costs nothing; the first look reads it.

    Args:
        name: Of the file, without its ending.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"Shipped({self.name!r})"

    def __len__(self) -> int:
        return len(_shipped(self.name).models)

    def __iter__(self) -> Iterator[Model]:
        return iter(_shipped(self.name).models)

    @overload
    def __getitem__(self, index: int) -> Model: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Model]: ...

    def __getitem__(self, index: int | slice) -> Model | Sequence[Model]:
        return _shipped(self.name).models[index]

    @property
    def file(self) -> ModelFile:
        """The file, with its source and its date."""
        return _shipped(self.name)


@cache
def _shipped(name: str) -> ModelFile:
    return msgspec.json.decode((_SHIPPED / f"{name}.json").read_bytes(), type=ModelFile)


def read_models(path: str | os.PathLike[str]) -> ModelFile:
    """The records of a file of the user's own; raises ConfigurationError where it cannot be read, or is none."""
    try:
        data = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    if len(data) > MAX_BYTES:
        raise ConfigurationError(f"{path} is longer than {MAX_BYTES:,} bytes: that is no file of models.")
    try:
        found = msgspec.json.decode(data, type=ModelFile)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        remedy = "imagen-async models import PAGE… -o FILE writes one"
        raise ConfigurationError(f"{path} is no file of models: {told(str(error), 300)}; {remedy}.") from None
    return found


def written(file: ModelFile) -> bytes:
    """A file of models as it is written: a line a field, so that a change of one is seen as such."""
    return msgspec.json.format(msgspec.json.encode(file), indent=1) + b"\n"
