"""The door by which a request enters: whatever it is made of, what goes on from here is plain, or it is refused.

A str enum, a text out of numpy or of a template are a `str` to Python and to no encoder; what an object says of itself
may be an error. From here on a field is exactly a `str`, an `int`, a `float`, a `bool` or None, and `extra` is made of
these in exact lists and dicts. Whether they fit a model is for its record to say.
"""

from __future__ import annotations

import enum
import math
import numbers
import operator
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, TypeGuard

import msgspec

from .._text import told, well_formed
from ..errors import InvalidRequest
from .fields import FIELDS
from .values import ImageRequest, several_models

DEEPEST = 200
"""Objects in one another that a request may hold: what holds itself has no end."""

_MOST_BITS = 14_280
"""Of a number: Python writes at most 4,300 digits."""

_ATOMS = frozenset({str, int, float, bool, type(None)})
_BUILT = frozenset({dict, list, tuple})
_SCALARS = tuple(field.name for field in FIELDS if field.kind in ("text", "whole"))


def is_request(item: object) -> TypeGuard[ImageRequest]:
    """True for a request, by its type: an object may say anything of its class, or raise."""
    return issubclass(type(item), ImageRequest)


def plain_item(item: Any) -> str | ImageRequest:
    """What a batch or a call was given, made plain; raises InvalidRequest for what cannot be, and nothing else."""
    if type(item) is str:
        return item
    try:
        if is_request(item):
            return _plain_request(item)
        text = plain_atom(item)
    except InvalidRequest:
        raise
    except Exception as error:  # of the user's own object: a prompt that raises is one bad prompt
        raise InvalidRequest(f"The request cannot be read: {told(error)}.") from None
    if type(text) is str:
        return text
    hint = ": ImageRequest(**row) makes one of a row" if issubclass(type(item), Mapping) else ""
    raise InvalidRequest(f"A batch takes prompts and ImageRequests, not {type(item).__name__}{hint}.")


def key_of(item: object) -> str | None:
    """The key that an item of a list was given; None where it has none, or none that can be one."""
    if not is_request(item):
        return None
    try:
        key = plain_atom(item.key)
    except Exception:  # it is refused when its turn comes
        return None
    return key if type(key) is str else None


def showable(item: object) -> ImageRequest:
    """A request that was refused as its result shows it: what cannot be plain is told in words."""
    if not is_request(item):
        return ImageRequest(prompt=str(_words(item, 5000)))
    fields: dict[str, Any] = {name: _words(getattr(item, name)) for name in _SCALARS}
    extra = item.extra if type(item.extra) is dict else {}
    fields["prompt"] = str(fields["prompt"])
    fields["extra"] = {str(_words(name)): _words(each) for name, each in extra.items()}
    given = item.images if isinstance(item.images, list | tuple) else ()
    fields["images"] = tuple(each if type(each) is str else told(each) for each in given)
    try:
        return msgspec.structs.replace(item, **fields)
    except Exception:  # a class of the user's own that looks at its values
        return ImageRequest(**fields)


def plain_atom(value: object) -> object:
    """A text, a number or nothing, of exactly that type; what is none of these comes back as it is."""
    if type(value) in _ATOMS:
        return value
    # Each by its type's own way: what a class says of itself may be another text, as an enum's is, or an error.
    if isinstance(value, enum.Enum):
        return plain_atom(value.value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, numbers.Integral):
        return int.__int__(operator.index(value))
    if isinstance(value, numbers.Real):
        return float.__float__(value) if isinstance(value, float) else float(value)
    # numpy's own truth values, and numbers in an array without a dimension.
    return plain_atom(value.item()) if getattr(value, "ndim", None) == 0 else value  # type: ignore[attr-defined]


def plain_or_same(value: Any) -> Any:
    """The same for a setting, of which whoever checks it says what it may be; it raises nothing."""
    try:
        return plain_atom(value)
    except Exception:
        return value


def _plain_request(request: ImageRequest) -> ImageRequest:
    changed: dict[str, Any] = {}
    for name in _SCALARS:
        value = getattr(request, name)
        if not _is_plain(value):
            # Several, the first of which is meant.
            names = value if name == "model" and isinstance(value, list | tuple) else None
            changed[name] = _field(name, value) if names is None else several_models(map(_model, names))
    if request.extra or type(request.extra) is not dict:
        changed["extra"] = _plain_extra(request.extra)
    if request.images or type(request.images) is not tuple:
        changed["images"] = _plain_images(request.images)
    key = changed.get("key", request.key)
    if key is not None and (type(key) is not str or well_formed(key) != key):
        raise InvalidRequest(f"key={told(key)}: allowed is a string.")
    return msgspec.structs.replace(request, **changed) if changed else request


def _plain_images(images: Any) -> tuple[str | bytes, ...]:
    """Names and addresses as exact texts, and bytes; one alone is a list of one."""
    if images is None or images == "":
        return ()
    if isinstance(images, str | bytes | bytearray | memoryview | PurePath):
        return (_plain_image(images),)
    if not isinstance(images, Sequence):
        raise InvalidRequest(f"images={told(images)}: allowed is a list of paths, URLs and bytes.")
    return tuple(map(_plain_image, images))


def _plain_image(image: Any) -> str | bytes:
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    plain = plain_atom(str(image) if isinstance(image, PurePath) else image)
    if type(plain) is not str or well_formed(plain) != plain or not plain.strip() or "\0" in plain:
        raise InvalidRequest(f"images holds {told(image)}: allowed is a path, a URL or bytes.")
    return plain


def _model(name: object) -> str:
    plain = plain_atom(name)
    if type(plain) is str:
        return plain
    raise InvalidRequest(f"model={told(name)}: allowed is a text, or several.")


def _field(name: str, value: object) -> object:
    plain = plain_atom(value)
    if _is_plain(plain):
        return plain
    raise InvalidRequest(f"{name}={told(value)}: allowed is a text or a number that can be written.")


def _is_plain(value: Any) -> bool:
    """True for what every encoder takes; not for a number that Python itself does not write."""
    return type(value) in _ATOMS and (type(value) is not int or value.bit_length() <= _MOST_BITS)


def _plain_extra(extra: object) -> dict[str, Any]:
    if not isinstance(extra, Mapping):
        raise InvalidRequest(f"extra={told(extra)}: allowed is a mapping of the provider's own fields.")
    return {_name(name): _plain(each, 1) for name, each in extra.items()}


def _plain(value: Any, depth: int) -> Any:
    """What JSON can say of a value, in exact types."""
    # Of what is a list or an object already, nothing need be asked.
    plain = value if type(value) in _BUILT else plain_atom(value)
    if type(plain) is float and not math.isfinite(plain):
        raise InvalidRequest(f"extra holds {plain}: JSON has no such number.")
    if _is_plain(plain):
        return plain
    if depth > DEEPEST:
        raise InvalidRequest(f"extra holds itself, or more than {DEEPEST} objects in one another.")
    if type(plain) is dict or isinstance(plain, Mapping):
        return {_name(name): _plain(each, depth + 1) for name, each in plain.items()}
    if isinstance(plain, list | tuple):
        return [_plain(each, depth + 1) for each in plain]
    return _plain(_built_in(plain), depth + 1)


def _built_in(value: Any) -> Any:
    """What is written as something simpler: an array, a time, bytes, a record, a path."""
    if isinstance(value, PurePath):
        return str(value)
    if callable(to_list := getattr(value, "tolist", None)):
        return to_list()
    # A number to whoever writes it, and a text to JSON: neither would say what was meant.
    if not isinstance(value, numbers.Number):
        try:
            return msgspec.to_builtins(value, order="deterministic")
        except TypeError:
            pass
    raise InvalidRequest(f"extra cannot be written as JSON: it holds {told(value)}; give it as a text or a number.")


def _name(name: object) -> str:
    plain = plain_atom(name)
    if type(plain) is not str:
        raise InvalidRequest(
            f"extra cannot be written as JSON: {told(name)} is no name of a field; allowed is a string."
        )
    return plain


def _words(value: Any, at_most: int = 60) -> Any:
    """A value that is plain, or what stands for it."""
    if issubclass(type(value), str) and not issubclass(type(value), enum.Enum):
        return str.__str__(value)
    return value if _is_plain(value) else told(value, at_most)
