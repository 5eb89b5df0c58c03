"""Records of models: those that come with the package, read when first asked for, and what a user gives as such."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import overload

import msgspec

from ._core.model import Model
from ._core.provider import Limits
from ._core.rate_limit import Rate

GUESSED = Limits(submit=Rate(20, per=10, guess=True), status=Rate(10, per=1, guess=True), running=100)
"""kie.ai's own, for the APIs that publish none: to begin with."""

_SHIPPED = Path(__file__).parent / "providers"


Models = str | os.PathLike[str] | Model | Iterable[Model]
"""Records of the user's own: the path of a file, one record, or several."""


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


class _Late(Sequence[Model]):
    """Models that the first look reads: to have them named costs nothing."""

    def __len__(self) -> int:
        return len(self._models)

    def __iter__(self) -> Iterator[Model]:
        return iter(self._models)

    @overload
    def __getitem__(self, index: int) -> Model: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Model]: ...

    def __getitem__(self, index: int | slice) -> Model | Sequence[Model]:
        return self._models[index]

    @cached_property
    def _models(self) -> tuple[Model, ...]:
        return tuple(self._read())

    @abstractmethod
    def _read(self) -> Iterable[Model]: ...


class Shipped(_Late):
    """The models of a file that comes with the package.

    Args:
        name: Of the file, without its ending.
        is_priced: False for a provider that sells them at other prices, which are unknown.
    """

    def __init__(self, name: str, *, is_priced: bool = True) -> None:
        self.name = name
        self.is_priced = is_priced

    def __repr__(self) -> str:
        return f"Shipped({self.name!r})"

    def _read(self) -> Iterable[Model]:
        models = shipped(self.name).models
        return models if self.is_priced else map(_unpriced, models)


class Anybodys(_Late):
    """The models of several records, for whoever sells what others make, at prices that nobody knows here.

    Args:
        records: The models of each.
    """

    def __init__(self, *records: Sequence[Model]) -> None:
        self.records = records

    def __repr__(self) -> str:
        return f"Anybodys({', '.join(map(repr, self.records))})"

    def _read(self) -> Iterable[Model]:
        return (_unpriced(each) for models in self.records for each in models)


def _unpriced(model: Model) -> Model:
    return msgspec.structs.replace(model, credits=None)


@cache
def shipped(name: str) -> ModelFile:
    """A file that comes with the package, with its source and its date."""
    return msgspec.json.decode((_SHIPPED / f"{name}.json").read_bytes(), type=ModelFile)
