"""The body of a callback in whatever form it comes: JSON, a form with it or with its fields, compressed. Pure."""

from __future__ import annotations

import itertools
import re
import zlib
from codecs import BOM_UTF8
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl

from ..errors import ProtocolError
from .forgiving_json import unwrapped
from .wire import decode_json

MAX_CALLBACK = 256 << 10
"""Bytes of a callback's body, unpacked too; it is a status answer, and the recorded ones are below 5 KB."""

_MOST_FIELDS = 100
_FIELD_NAME = re.compile(r"[\w.\[\]-]+")
_GZIP, _ZLIB, _BARE = b"\x1f\x8b", b"\x78", -zlib.MAX_WBITS
_EITHER = zlib.MAX_WBITS | 32


def read_callback(body: bytes) -> dict[str, Any]:
    """Read a callback's body; raises ProtocolError for what holds no object.

    An empty one is an object without fields: the token of its address tells whose it is, and the provider is asked.
    """
    if not body.removeprefix(BOM_UTF8).strip():
        return {}
    try:
        return _read(_unpacked(body, _EITHER) if body.startswith((_GZIP, _ZLIB)) else body)
    except ProtocolError:
        # HTTP's `deflate` without the header that it should have, as some send it.
        bare = _unpacked(body, _BARE)
        if bare == body:
            raise
        return _read(bare)


def _read(content: bytes) -> dict[str, Any]:
    refusal = ProtocolError("The callback is no JSON object.")
    try:
        document = unwrapped(decode_json(content))
    except ProtocolError as error:
        document, refusal = _of_form(dict(_fields(content))), error
    if not isinstance(document, dict):
        raise refusal
    return document


def _unpacked(body: bytes, window: int) -> bytes:
    """What was compressed; the body itself where it was not, or where it is not whole."""
    reader = zlib.decompressobj(window)
    try:
        content = reader.decompress(body, MAX_CALLBACK + 1)
    except zlib.error:
        return body
    if len(content) > MAX_CALLBACK:
        raise ProtocolError("The callback is too long when it is unpacked.")
    return content if reader.eof else body


def _fields(content: bytes) -> Iterator[tuple[str, str]]:
    """The fields of a form of either kind; nothing for what is none."""
    if content.lstrip().startswith(b"--"):
        yield from _parts(content.lstrip())
        return
    try:
        # Without a name that is one, and its value, it is a page or a text.
        found = parse_qsl(content.decode("utf-8-sig"), strict_parsing=True, max_num_fields=_MOST_FIELDS)
    except ValueError:
        return
    if all(_FIELD_NAME.fullmatch(name) for name, _ in found):
        yield from found


def _parts(content: bytes) -> Iterator[tuple[str, str]]:
    """The parts of a multipart form, whose first line is their boundary."""
    from email.parser import BytesParser  # only here: hardly any callback comes so

    boundary = content.split(b"\n", 1)[0].strip()[2:]
    head = b'Content-Type: multipart/form-data; boundary="%s"\r\n\r\n' % boundary.replace(b'"', b"")
    try:
        form = BytesParser().parsebytes(head + content)
    except RecursionError:  # parts within parts, which no form has
        return
    for part in itertools.islice(form.walk(), _MOST_FIELDS):
        name, value = part.get_param("name", header="content-disposition"), part.get_payload(decode=True)
        if isinstance(name, str) and isinstance(value, bytes):
            yield name, value.decode("utf-8", "replace").strip()


def _of_form(fields: dict[str, str]) -> dict[str, Any] | None:
    """What a form says: its fields, or the whole callback in one of them; None for a form without any."""
    document = {name: unwrapped(value) for name, value in fields.items()}
    whole = [(name, value) for name, value in document.items() if isinstance(value, dict)]
    if len(whole) == 1 and (whole[0][0] != "data" or "data" in whole[0][1]):
        return whole[0][1]
    return document or None
