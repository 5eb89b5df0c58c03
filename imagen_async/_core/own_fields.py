"""How a field of ImageRequest is written in a model's own input: under which name, in which type and words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from .fields import FIELDS
from .parameters import Choice, Number, Parameter, Text, Whole, is_list_of_files

_LEAST = {field.name: field.least for field in FIELDS if field.kind == "whole"}
"""The smallest number that is meant, of each field of ours that is a whole one; None for any."""


class Translation(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a model calls a field of ImageRequest, and how it writes our words.

    Attributes:
        field: Its own name of it.
        words: Our words, and what they are there, where that is another one; its own words are taken beside them.
    """

    field: str
    words: Mapping[str, str] = {}


class OwnField(msgspec.Struct, frozen=True):
    """A field of ImageRequest as a model has it.

    Attributes:
        name: Ours.
        field: The model's.
        parameter: What that takes, but for what nobody means, such as no picture at all.
        view: What ours takes, in our types and words.
        words: Our words, and what they are there.
    """

    name: str
    field: str
    parameter: Parameter
    view: Parameter
    words: Mapping[str, str] = {}

    @classmethod
    def of(cls, name: str, translation: Translation, parameter: Parameter) -> OwnField:
        """That of our name."""
        view = _in_our_words(translation.words, parameter)
        if name in _LEAST:
            parameter = _from(parameter, _LEAST[name])
            view = _as_whole(parameter, _LEAST[name])
        return cls(name, translation.field, parameter, view, translation.words)

    @property
    def default(self) -> Any:
        """What is made where nothing is said, in our words; None where no page tells."""
        default = self.parameter.default
        return next((ours for ours, theirs in self.words.items() if theirs == default), default)

    def takes(self, value: object) -> bool:
        """Tell whether the provider would take our `value`."""
        return self.view.takes(value)

    def written(self, value: Any) -> Any:
        """A value that was taken, in the provider's type and words."""
        if self.words:
            return self.words.get(value, value)
        if self.name == "images":
            return list(value) if is_list_of_files(self.parameter) or len(value) != 1 else value[0]
        # Where it wants '7', and not 7.
        return value if self.name not in _LEAST or self.parameter.takes(value) else str(value)


def _in_our_words(words: Mapping[str, str], parameter: Parameter) -> Parameter:
    if not words or not isinstance(parameter, Choice):
        return parameter
    return msgspec.structs.replace(parameter, values=tuple(dict.fromkeys([*words, *parameter.values])))


def _as_whole(parameter: Parameter, least: int | None) -> Parameter:
    """What takes the whole numbers that a parameter takes, however they are written there."""
    match parameter:
        case Choice(values=values) if all(isinstance(each, str) and each.isdecimal() for each in values):
            return msgspec.structs.replace(parameter, values=tuple(map(int, values)), default=None)
        case Text():
            return Whole(minimum=least)
        case Number(minimum=minimum, maximum=maximum):
            lowest = None if minimum is None else math.ceil(minimum)
            return Whole(minimum=lowest, maximum=None if maximum is None else math.floor(maximum))
    return parameter


def _from(parameter: Parameter, least: int | None) -> Parameter:
    """What takes those of a parameter's numbers that are meant: many pages tell no bound."""
    match parameter:
        case Whole(minimum=minimum) | Number(minimum=minimum) if least is not None:
            return msgspec.structs.replace(parameter, minimum=least if minimum is None else max(minimum, least))
    return parameter
