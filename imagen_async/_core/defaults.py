"""What a batch's defaults fill in of a request, and how a journal remembers them: filled in, they are content."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from ..errors import ConfigurationError
from .fields import FIELDS
from .values import DEFAULT_MODEL, ImageRequest, stable_key, with_own_files

_FILLED_IN = tuple(field.name for field in FIELDS if field.has_default and field.kind != "object")
"""What a default takes the place of as a whole; `extra` is mixed with its own."""

_NOTHING: tuple[object, ...] = (None, ())

_NOTE = "defaults"

_encode = msgspec.json.Encoder(order="sorted").encode
_decode = msgspec.json.Decoder(tuple[ImageRequest, ...]).decode


class DefaultsChanged(ConfigurationError):
    """A journal has results under other defaults: it is told once, for all requests."""


def as_request(item: str | ImageRequest) -> ImageRequest:
    """What a batch was given, made plain, as a request."""
    return item if isinstance(item, ImageRequest) else ImageRequest(item)


def with_defaults(item: str | ImageRequest, defaults: ImageRequest) -> ImageRequest:
    """A request of a batch: the defaults fill in what it leaves None."""
    if isinstance(item, str):
        return msgspec.structs.replace(defaults, prompt=item)
    missing: dict[str, Any] = {}
    for name in _FILLED_IN:
        default = getattr(defaults, name)
        if default not in _NOTHING and getattr(item, name) in _NOTHING:
            missing[name] = default
    if defaults.extra and isinstance(item.extra, dict):
        missing["extra"] = {**defaults.extra, **item.extra}
    if defaults.local_files:
        missing["local_files"] = {**defaults.local_files, **item.local_files}
    filled = msgspec.structs.replace(item, **missing) if missing else item
    return with_own_files(filled) if filled.local_files else filled


def made_whole(stated: ImageRequest) -> ImageRequest:
    """A request with its defaults filled in, its model named."""
    return msgspec.structs.replace(stated, model=stated.model or DEFAULT_MODEL)


def content_key(stated: ImageRequest) -> str:
    """The key of a request with its defaults filled in that has none of its own."""
    return stable_key(made_whole(stated))


def plain_key(item: str | ImageRequest, defaults: ImageRequest) -> str:
    """The key of a request that is the only one of its content, and new."""
    return as_request(item).key or content_key(with_defaults(item, defaults))


def leaves_open(given: ImageRequest, name: str, was: object, now: object) -> bool:
    """True where a field, which was one value and is another, says neither by itself, so that a default did."""
    own = getattr(given, name)
    if isinstance(own, dict) and isinstance(was, dict) and isinstance(now, dict):
        return not any(was.get(each) != now.get(each) for each in own)
    return name in _FILLED_IN and own in _NOTHING


def note_of(known: Iterable[ImageRequest]) -> dict[str, str]:
    """What a journal notes of the defaults under which its requests were made."""
    return {_NOTE: _encode([msgspec.structs.replace(each, prompt="-", key=None) for each in known]).decode()}


def noted(notes: Mapping[str, str]) -> tuple[ImageRequest, ...]:
    """The defaults that a journal has noted; none where it is one of before, or nobody can read them."""
    try:
        return _decode(notes.get(_NOTE, "[]"))
    except msgspec.MsgspecError:
        return ()
