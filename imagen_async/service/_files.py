"""The pictures as they can be fetched: from here alone, at addresses that nobody guesses, for as long as they are kept.

Never from the provider: some clients send their caller's key to whatever host a picture's address has, and links die.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web

from .._off_loop import OffLoop
from ._answers import Picture, data_of
from ._book import Book, FileRow
from ._bookkeeper import Bookkeeper
from ._kept_inputs import KeptInputs
from ._orders import Order, Part
from ._refusals import Refusal, Refused

T = TypeVar("T")

SWEEPING = 600.0
"""Seconds between two looks for pictures whose time is over."""

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    # What somebody else's model has made is shown by a browser, and runs nowhere.
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "private, max-age=3600",
}


class Files:
    """The pictures of a service.

    Args:
        keeper: Has the book.
        secret: Makes their addresses.
        kept: Seconds for which each can be fetched.
        inputs: The folder of pictures that go in.
        off_loop: Where files are removed.

    Attributes:
        brought: The pictures that may go in by their addresses here.
    """

    def __init__(self, keeper: Bookkeeper, secret: str, kept: float, inputs: str, off_loop: OffLoop) -> None:
        self._keeper = keeper
        self._secret = bytes.fromhex(secret)
        self._kept = kept
        self.brought: KeptInputs = KeptInputs(inputs, keeper, off_loop)
        self._inputs = inputs
        self._off_loop = off_loop

    def rows(self, order: Order) -> Iterator[FileRow]:
        """The pictures of an order, as they can be fetched from now on."""
        dies_at = time.time() + self._kept
        for part in order.parts:
            for at, file in enumerate(() if part.result is None else part.result.files):
                path = os.path.abspath(file.path)
                yield FileRow(self.token(part, at, path), path, file.media_type, dies_at)

    def token(self, part: Part, at: int, path: str) -> str:
        """The last part of the address of a task's picture: the same whenever that is asked for."""
        digest = hashlib.blake2b(f"{part.key}\n{at}".encode(), key=self._secret, digest_size=20).hexdigest()
        return f"{digest}{os.path.splitext(path)[1]}"

    def addresses(self, part: Part) -> tuple[str, ...]:
        """Where the pictures of a task are, below an address of the service."""
        files = () if part.result is None else part.result.files
        return tuple(f"/files/{self.token(part, at, each.path)}" for at, each in enumerate(files))

    def pictures(self, part: Part, address: str) -> tuple[Picture, ...]:
        """The pictures of a task, as they are found below an address of the service."""
        files = () if part.result is None else part.result.files
        return tuple(
            Picture(each.path, each.media_type, address + where)
            for each, where in zip(files, self.addresses(part), strict=True)
        )

    async def data(self, order: Order, address: str) -> list[dict[str, Any]]:
        """The pictures of an order, as it is asked for them; raises Refused where one is gone."""
        pictures = tuple(each for part in order.parts for each in self.pictures(part, address))
        results = [part.result for part in order.parts if part.result is not None]
        if order.asked.shows == ("url",) and not any(result.earlier for result in results):
            # They lie there since a moment ago, and need not be looked at.
            return [{"url": picture.url} for picture in pictures]
        return await self.read(lambda: data_of(order.asked, pictures))

    async def read(self, look: Callable[[], T]) -> T:
        """Have pictures read, beside the loop; raises Refused where one is gone."""
        try:
            return await self._off_loop.run(look)
        except OSError as error:
            message = f"The picture was made, and is kept no longer, or cannot be read: {error.strerror or error}."
            raise Refused(Refusal(424, "picture_gone", message)) from error

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Hand out a picture: an aiohttp handler."""
        token = request.match_info["token"]
        row = await self._keeper.ask(lambda book: book.file(token))
        if row is None or row.dies_at < time.time() or not await self._off_loop.run(os.path.exists, row.path):
            raise Refused(Refusal(404, "no_such_file", "There is no picture here, or not any more."))
        return web.FileResponse(row.path, headers={**_HEADERS, "Content-Type": row.media_type})

    async def sweep(self) -> None:
        """Remove the pictures whose time is over, those that went in, and what the book has of them."""
        now = time.time()
        while dying := await self._keeper.ask(lambda book: book.dying(now)):
            await self._off_loop.run(_remove, [row.path for row in dying])
            tokens = [row.token for row in dying]
            await self._keeper.ask(partial(Book.drop, tokens=tokens, before=now - self._kept))
        await self._keeper.ask(lambda book: book.drop((), now - self._kept))
        await self._off_loop.run(_remove_old, self._inputs, now - self._kept)


def _remove(paths: list[str]) -> None:
    for path in paths:
        with suppress(OSError):
            os.remove(path)


def _remove_old(folder: str, before: float) -> None:
    with suppress(OSError):
        for entry in Path(folder).iterdir():
            if entry.stat().st_mtime < before:
                _remove([str(entry)])
