"""Reads the file of an upload, in each of the ways in which kie.ai takes one: a form, base64, or its address."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Literal

import aiohttp
from aiohttp import web

from .._addresses import http_host, is_loopback
from .._core.provider import Uploads
from .._off_loop import OffLoop
from ._bodies import object_of
from ._painter import paint

Way = Literal["form", "base64", "url"]

LARGEST_UPLOAD = 100 << 20
"""Bytes of a request; of kie.ai 100 MB."""

_PATIENCE = 30.0
"""Seconds that a file at an address may take: kie.ai's own figure."""


def ways_of(uploads: Uploads | None) -> Iterator[tuple[str, Way]]:
    """The paths at which files are taken, without their queries, and in which way."""
    if uploads is not None:
        places: dict[Way, str | None] = {"form": uploads.path, "base64": uploads.base64_path, "url": uploads.url_path}
        yield from ((path.partition("?")[0], way) for way, path in places.items() if path is not None)


class UploadReader:
    """Reads uploads.

    Args:
        session: Fetches what is at an address of this machine.
        off_loop: Where the others are painted: nothing is asked of the Internet.
    """

    def __init__(self, session: aiohttp.ClientSession, off_loop: OffLoop) -> None:
        self._session = session
        self._off_loop = off_loop

    async def read(self, request: web.Request, way: Way, file_field: str) -> bytes | None:
        """The content of the file, or None where there is none that can be read."""
        try:
            match way:
                case "form":
                    file = (await request.post()).get(file_field)
                    return file.file.read() if isinstance(file, web.FileField) else None
                case "base64":
                    return _decoded(object_of(await request.read()).get("base64Data"))
                case "url":
                    return await self._at(object_of(await request.read()).get("fileUrl"))
        except web.HTTPException:
            raise
        except Exception:  # a form, an encoding or a server of somebody else's: any error is one of theirs
            return None

    async def _at(self, url: object) -> bytes | None:
        """What is at an address of this machine; of any other a picture that stands for it."""
        host = http_host(url) if isinstance(url, str) else None
        if host is None:
            return None
        if not is_loopback(host):
            return await self._off_loop.run(paint, str(url), "1:1", "")
        data, timeout = bytearray(), aiohttp.ClientTimeout(_PATIENCE)
        async with self._session.get(str(url), timeout=timeout, allow_redirects=False) as response:
            async for piece in response.content.iter_chunked(1 << 16):
                data += piece
                if len(data) > LARGEST_UPLOAD:
                    return None
        return bytes(data) if response.status == 200 else None


def _decoded(text: object) -> bytes | None:
    """The bytes of a data URI, or of bare base64; None for what is neither."""
    if not isinstance(text, str):
        return None
    bare = text.partition(",")[2] if text.startswith("data:") else text
    return base64.b64decode("".join(bare.split()), validate=True) or None
