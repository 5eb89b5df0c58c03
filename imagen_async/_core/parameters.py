"""The kinds of parameter that a model has, as its provider's page has them: what each takes on the wire.

How a field of ImageRequest is written in these is in `own_fields`; what a page cannot say of one is in a model's notes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from .._text import seldom
from ..errors import ConfigurationError
from .plain_text import oddity

Media = Literal["image", "video", "audio"]

_ADDRESS = seldom(r"(?!file:)[A-Za-z][A-Za-z0-9+.-]+://\S+", re.IGNORECASE)
_WHOLE = seldom(r"[+-]?[0-9]{1,19}")
_FLAGS = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}


class _Kind(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, tag_field="kind"
):
    """What all of them have.

    Attributes:
        required: True where the provider refuses a request without it; a text must not be blank then, either.
        default: What the provider takes where nothing is said; None: its page tells of none.
    """

    required: bool = False
    default: Any = None

    @property
    def allowed(self) -> str:
        """What this takes, for an error message."""
        raise NotImplementedError

    def takes(self, value: object) -> bool:
        """Tell whether the provider would take `value`."""
        raise NotImplementedError

    def read(self, word: str) -> Any:
        """The value that a word of a command line or a cell of a table means; the word where it is none of these."""
        return word


class Text(_Kind, frozen=True, tag="text"):
    """A string. Lengths are in characters; a longest of None: no limit documented."""

    max_length: int | None = None
    min_length: int = 0

    @property
    def allowed(self) -> str:
        """What this takes, for an error message."""
        least = f" of at least {self.min_length:,}" if self.min_length > 1 else ""
        size = "" if self.max_length is None else f" of at most {self.max_length:,}"
        characters = f"{least}{' and' if least and size else ''}{size} characters" if least or size else ""
        return ("a non-empty string" if self.required else "a string") + characters

    def takes(self, value: object) -> bool:
        """Tell whether the provider would take `value`."""
        if not isinstance(value, str) or (self.required and not value.strip()) or oddity_of(self, value):
            return False
        return self.min_length <= len(value) and (self.max_length is None or len(value) <= self.max_length)


class File(_Kind, frozen=True, tag="file"):
    """The URL of a file that goes in.

    Attributes:
        media: What it is; None where the page does not say.
        accepts: Media types that it may have; empty: whatever is of that media.
        max_bytes: Its size at most, or None.
    """

    media: Media | None = None
    accepts: tuple[str, ...] = ()
    max_bytes: int | None = None

    @property
    def allowed(self) -> str:
        """What this takes, for an error message."""
        what = {None: "a file", "image": "a picture", "video": "a video", "audio": "a sound"}[self.media]
        size = [] if self.max_bytes is None else [f"at most {self.max_bytes / 1e6:g} MB"]
        told = ", ".join([*self.accepts, *size])
        return f"the URL of {what}{f' ({told})' if told else ''}"

    def takes(self, value: object) -> bool:
        """Tell whether the provider would take `value`, as far as its text tells."""
        return isinstance(value, str) and is_address(value) and oddity(value, is_required=True) is None


class Choice(_Kind, frozen=True, tag="choice"):
    """One of a few values."""

    values: tuple[str | int | float, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise ConfigurationError("A choice has no values.")
        if self.default is not None and not self.takes(self.default):
            raise ConfigurationError(f"default={self.default!r}: allowed is {self.allowed}.")

    @property
    def allowed(self) -> str:
        """What this takes, for an error message."""
        return f"one of {', '.join(map(str, self.values))}"

    def takes(self, value: object) -> bool:
        """Tell whether the provider would take `value`."""
        # 2.0 and True are 2 and 1 to Python, and to no provider; 2.0 is 2 where numbers with a point may be said.
        found = [each for each in self.values if each == value]
        if any(type(each) is type(value) for each in found):
            return True
        return bool(found) and type(value) in (int, float) and any(type(each) is float for each in self.values)

    def read(self, word: str) -> Any:
        """The value that reads so, or the number that it writes where that is one of them."""
        found = next((each for each in self.values if str(each) == word), None)
        if found is not None:
            return found
        number = Number().read(word)
        return number if self.takes(number) else word


class Whole(_Kind, frozen=True, tag="whole"):
    """A whole number, bounds included (None: none documented)."""

    minimum: int | None = None
    maximum: int | None = None

    @property
    def allowed(self) -> str:
        """What this takes, for an error message."""
        if self.minimum is None and self.maximum is None:
            return "a whole number below 2^63"
        return f"a whole number {_bounds(self.minimum, self.maximum)}"

    def takes(self, value: object) -> bool:
        """Tell whether the provider would take `value`."""
        # True is an int to Python, and would be sent as 1 or as 'True'.
        if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 2**63:
            return False
        return (self.minimum is None or value >= self.minimum) and (self.maximum is None or value <= self.maximum)

    def read(self, word: str) -> Any:
        """The number of its digits."""
        return int(word) if _WHOLE().fullmatch(word) else word


class Number(_Kind, frozen=True, tag="number"):
    """A number, bounds included (None: none documented)."""

    minimum: float | None = None
    maximum: float | None = None

    @property
    def allowed(self) -> str:
        """What this takes, for an error message."""
        return f"a number {_bounds(self.minimum, self.maximum)}".rstrip()

    def takes(self, value: object) -> bool:
        """Tell whether the provider would take `value`."""
        if not isinstance(value, int | float) or isinstance(value, bool) or not -1e300 < value < 1e300:
            return False
        return (self.minimum is None or value >= self.minimum) and (self.maximum is None or value <= self.maximum)

    def read(self, word: str) -> Any:
        """The number that it writes, a whole one where it has no point."""
        if _WHOLE().fullmatch(word):
            return int(word)
        try:
            number = float(word)
        except ValueError:
            return word
        return number if math.isfinite(number) else word


class Flag(_Kind, frozen=True, tag="flag"):
    """True or false."""

    @property
    def allowed(self) -> str:
        """What this takes, for an error message."""
        return "true or false"

    def takes(self, value: object) -> bool:
        """Tell whether the provider would take `value`."""
        return isinstance(value, bool)

    def read(self, word: str) -> Any:
        """True or false in the words that people and spreadsheets have for it."""
        return _FLAGS.get(word.lower(), word)


class Items(_Kind, frozen=True, tag="items"):
    """A list of values of one kind; `max_items` None: no limit documented."""

    of: Parameter
    max_items: int | None = None
    min_items: int = 0

    @property
    def allowed(self) -> str:
        """What this takes, for an error message."""
        count = _bounds(self.min_items or None, self.max_items)
        return f"a list{f' {count}' if count else ''}, each {self.of.allowed}"

    def takes(self, value: object) -> bool:
        """Tell whether the provider would take `value`."""
        if not isinstance(value, list | tuple) or len(value) < max(self.min_items, int(self.required)):
            return False
        return (self.max_items is None or len(value) <= self.max_items) and all(map(self.of.takes, value))

    def read(self, word: str) -> Any:
        """A JSON list, or what stands between commas or blanks; of files between semicolons, bars or lines."""
        value = _json_of(word, "[")
        if value is not word:
            return value
        parts = re.split(r"\s*[;|\n]\s*" if isinstance(self.of, File) else r"[,\s]+", word.strip())
        return [self.of.read(each) for each in parts if each]


class Fields(_Kind, frozen=True, tag="fields"):
    """An object with fields of its own."""

    fields: Schema

    @property
    def allowed(self) -> str:
        """What this takes, for an error message."""
        return f"an object of {', '.join(f'{name} ({field.allowed})' for name, field in self.fields.items())}"

    def takes(self, value: object) -> bool:
        """Tell whether the provider would take `value`."""
        if not isinstance(value, Mapping) or value.keys() - self.fields.keys():
            return False
        given = {name: field for name, field in self.fields.items() if name in value}
        others = (field for name, field in self.fields.items() if name not in given)
        missing = any(field.required and field.default is None for field in others)
        return not missing and all(field.takes(value[name]) for name, field in given.items())

    def read(self, word: str) -> Any:
        """A JSON object."""
        return _json_of(word, "{")


class Either(_Kind, frozen=True, tag="either"):
    """A value of any of these kinds."""

    kinds: tuple[Parameter, ...]

    @property
    def allowed(self) -> str:
        """What this takes, for an error message."""
        return ", or ".join(dict.fromkeys(kind.allowed for kind in self.kinds))

    def takes(self, value: object) -> bool:
        """Tell whether the provider would take `value`."""
        return any(kind.takes(value) for kind in self.kinds)

    def read(self, word: str) -> Any:
        """What the first kind makes of it that takes that."""
        return next((value for kind in self.kinds if kind.takes(value := kind.read(word))), word)


class Anything(_Kind, frozen=True, tag="anything"):
    """What the page names and does not describe: not checked."""

    @property
    def allowed(self) -> str:
        """What this takes, for an error message."""
        return "any JSON"

    def takes(self, value: object) -> bool:
        """Tell whether the provider would take `value`: nobody knows."""
        return value is not None

    def read(self, word: str) -> Any:
        """A JSON value where it is one."""
        return _json_of(word)


Parameter = Text | File | Choice | Whole | Number | Flag | Items | Fields | Either | Anything
Schema = Mapping[str, Parameter]


def oddity_of(parameter: Parameter, value: object) -> str | None:
    """Why a value is not what it looks like, where it nearly is what a parameter takes; None for any other."""
    if isinstance(parameter, Text | File) and isinstance(value, str):
        return oddity(value, is_required=parameter.required)
    # A truth value is a number to Python.
    is_number = isinstance(parameter, Whole | Number) and isinstance(value, bool)
    return "a truth value is no number" if is_number else None


def is_address(text: str) -> bool:
    """True for what is a URL, of whatever scheme; a path is none, nor what leads to a file of this machine."""
    return _ADDRESS().fullmatch(text) is not None


def file_of(parameter: Parameter | None) -> File | None:
    """What is known of the files that a parameter takes, one or a list of them; None where it takes none, or texts."""
    each = parameter.of if isinstance(parameter, Items) else parameter
    if isinstance(each, Either):
        files = [file_of(kind) for kind in each.kinds]
        return files[0] if all(files) else None
    return each if isinstance(each, File) else None


def is_list_of_files(parameter: Parameter) -> bool:
    """True for what takes files in a list alone."""
    kinds = parameter.kinds if isinstance(parameter, Either) else (parameter,)
    return all(isinstance(kind, Items) for kind in kinds)


def takes_several_files(parameter: Parameter) -> bool:
    """True for what takes files in a list, too."""
    kinds = parameter.kinds if isinstance(parameter, Either) else (parameter,)
    return any(isinstance(kind, Items) for kind in kinds)


def unfit(file: File, media_type: str, size: int) -> str | None:
    """Why a file of this machine is not what goes in there; None where it is."""
    # What one calls image/jpg others call image/jpeg.
    accepts = {each.replace("/jpg", "/jpeg") for each in file.accepts}
    is_other = media_type not in accepts if accepts else not media_type.startswith(f"{file.media or ''}/")
    if is_other and (accepts or file.media is not None):
        return f"it is {media_type}"
    if file.max_bytes is not None and size > file.max_bytes:
        return f"it has {size / 1e6:.1f} MB"
    return None


def _bounds(least: float | None, most: float | None) -> str:
    if least is not None and least == most:
        return f"of {_figure(least)}"
    if least is not None and most is not None:
        are_short = abs(least) < 1e6 and abs(most) < 1e6
        return f"from {_figure(least)} to {_figure(most)}" if are_short else f"from {least} to {most}"
    return f"of at least {least}" if least is not None else "" if most is None else f"of at most {most}"


def _figure(number: float) -> str:
    return f"{number:g}" if abs(number) < 1e6 else str(number)


def _json_of(word: str, begins: str = "") -> Any:
    """The value of a JSON text that begins so; the text itself where it is none."""
    if not word.lstrip().startswith(begins):
        return word
    try:
        return msgspec.json.decode(word)
    except (msgspec.MsgspecError, RecursionError, UnicodeEncodeError):
        return word
