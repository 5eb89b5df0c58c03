"""The bodies of requests as they come in: JSON within bounds, and forms whose pictures go to the disk in pieces."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

import aiohttp
import msgspec
from aiohttp import web

from .._folders import give_name, new_part
from .._input_files import look_at
from .._off_loop import OffLoop
from .._patience import Patience
from .._text import told
from ..errors import InvalidRequest
from ._reading import Body, InputPicture, Way
from ._refusals import Refusal, Refused, wrong

MAX_JSON = 1 << 20
"""Bytes of a JSON body; the longest prompt that any model takes has 20,000 characters."""

MAX_FIELD = 256 << 10
"""Bytes of one field of a form that is no picture."""

MAX_PICTURE = 64 << 20
"""Bytes of one picture that goes in."""

MOST_PICTURES_IN = 16
"""Pictures that go in, as OpenAI has it."""

MOST_FIELDS = 100

LONGEST_READ = 120.0
"""Seconds in which a body must have arrived whole."""

_PIECE = 1 << 18


async def read_body(request: web.Request, way: Way, inputs: str, off_loop: OffLoop) -> Body:
    """Read a body of either kind.

    Args:
        request: Whose it is.
        way: By which path it came.
        inputs: The folder in which pictures that come with it are put.
        off_loop: Where they are written.

    Raises:
        Refused: 400, 408, 413 or 415.
    """
    with _explained(request):
        if request.content_type == "multipart/form-data":
            return await _read_form(request, way, inputs, off_loop)
        return Body(way, _parsed(await _read_json(request, MAX_JSON, "pictures go in as a form")))


async def read_content(request: web.Request, most: int, remedy: str) -> bytes:
    """Read a JSON body of at most so many bytes, undecoded; raises Refused, who sends more being told the remedy."""
    with _explained(request):
        return await _read_json(request, most, remedy)


@contextmanager
def _explained(request: web.Request) -> Iterator[None]:
    """Say what goes wrong with a body while it is read, or where that takes too long."""
    try:
        with Patience(LONGEST_READ):
            yield
    except TimeoutError:
        # Nothing was sent; but a client that is slow once is so again.
        raise wrong(f"The body did not come within {LONGEST_READ:g} s.", code="too_slow", status=400) from None
    except Refused:
        raise
    except OSError as error:
        if request.transport is None or isinstance(error, ConnectionError):
            raise
        message = f"The pictures cannot be kept here: {error.strerror or error}. Nothing was sent."
        raise Refused(Refusal(503, "disk", message)) from error
    except Exception as error:  # whatever a parser makes of what was sent
        raise wrong(f"The body cannot be read: {error}.", code="unreadable") from error


async def _read_json(request: web.Request, most: int, remedy: str) -> bytes:
    content = bytearray()
    async for piece in request.content.iter_any():
        content += piece
        if len(content) > most:
            raise too_long(f"A JSON body of more than {most:,} bytes", remedy)
    return bytes(content)


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(content)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise wrong(f"The body is no JSON: {error}.", code="invalid_json") from None
    if not isinstance(found, dict):
        raise wrong("The body is no JSON object.", code="invalid_json")
    return found


async def _read_form(request: web.Request, way: Way, inputs: str, off_loop: OffLoop) -> Body:
    fields: dict[str, Any] = {}
    pictures: list[InputPicture] = []
    async for part in await request.multipart():
        if not isinstance(part, aiohttp.BodyPartReader) or not part.name:
            raise wrong("A part of the form has no name.", code="invalid_form")
        name = part.name.partition("[")[0]
        if part.headers.get("Content-Transfer-Encoding", "binary").lower() not in ("binary", "8bit", "7bit"):
            raise wrong(f"{told(name)} is encoded for the transfer: send it as it is.", name, "invalid_form")
        if name in fields:
            raise wrong(f"{told(name)} comes twice.", name, "invalid_form")
        if len(fields) + len(pictures) >= MOST_FIELDS:
            raise too_long(f"A form of more than {MOST_FIELDS} parts", "send fewer")
        if part.filename is not None or name in ("image", "mask"):
            if sum(each.field == name for each in pictures) >= MOST_PICTURES_IN:
                raise too_long(f"More than {MOST_PICTURES_IN} pictures", "send fewer")
            pictures.append(await _kept(part, name, inputs, off_loop))
        else:
            fields[name] = await _text_of(part, name)
    return Body(way, fields, tuple(pictures), is_form=True)


async def _text_of(part: aiohttp.BodyPartReader, name: str) -> str:
    content = bytearray()
    while piece := await part.read_chunk(_PIECE):
        content += piece
        if len(content) > MAX_FIELD:
            raise too_long(f"{name}: more than {MAX_FIELD:,} bytes", "send less")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise wrong(f"{name} is no UTF-8.", name, "invalid_form") from None


async def _kept(part: aiohttp.BodyPartReader, name: str, inputs: str, off_loop: OffLoop) -> InputPicture:
    """Write a picture to the disk, under the name of its content."""
    file = await off_loop.run(_new, inputs)
    try:
        digest, size = hashlib.sha256(), 0
        while piece := await part.read_chunk(_PIECE):
            size += len(piece)
            if size > MAX_PICTURE:
                raise too_long(f"{name}: a picture of more than {MAX_PICTURE:,} bytes", "send a smaller one")
            digest.update(piece)
            await off_loop.run(file.write, bytes(piece))
        return await off_loop.run(_named, file, inputs, digest.hexdigest(), name)
    finally:
        await off_loop.run(_gone, file)


def _new(inputs: str) -> BinaryIO:
    os.makedirs(inputs, exist_ok=True)
    return new_part(inputs)


def _named(file: BinaryIO, inputs: str, sha256: str, field: str) -> InputPicture:
    """Give a file the name of its content; where that is there already, it is kept for as long as a new one."""
    file.close()
    try:
        found = look_at(file.name, field, os.path.getsize(file.name))
    except InvalidRequest as error:
        raise wrong(error.message, field, "invalid_picture") from None
    path = os.path.join(os.path.abspath(inputs), sha256)
    try:
        give_name(file.name, path)
    except FileExistsError:
        os.utime(path)
    return InputPicture(field, path, found)


def _gone(file: BinaryIO) -> None:
    file.close()
    with suppress(FileNotFoundError):
        os.remove(file.name)


def too_long(what: str, remedy: str) -> Refused:
    """A body that is longer than anything that is meant."""
    return wrong(f"{what}: {remedy}.", code="too_long", status=413)
