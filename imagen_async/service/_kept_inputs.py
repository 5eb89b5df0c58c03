"""Pictures that went in before, by the addresses that they have here: what was brought, and what was made here."""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from collections.abc import Iterator
from functools import partial
from typing import Any

from .._input_files import look_at
from .._off_loop import OffLoop
from .._text import told
from ..errors import InvalidRequest
from ._book import Book
from ._bookkeeper import Bookkeeper
from ._reading import InputPicture
from ._refusals import wrong
from ._task_reading import TaskRequest

MOST_KNOWN = 1000
"""Pictures of which it is kept what they are: to find that out is to read them."""

_BROUGHT = re.compile(r"https?://[^\s?#]*/v1/files/([0-9a-f]{64})")
_MADE = re.compile(r"https?://[^\s?#]*/files/([0-9a-f]{40}\.[a-z0-9]{1,5})")


class KeptInputs:
    """The pictures that a service has, as what may go in.

    Args:
        folder: Where those are that were brought.
        keeper: Has the book, which knows those that were made.
        off_loop: Where they are looked at.
    """

    def __init__(self, folder: str, keeper: Bookkeeper, off_loop: OffLoop) -> None:
        self._folder = os.path.abspath(folder)
        self._keeper = keeper
        self._off_loop = off_loop
        self._known: OrderedDict[str, InputPicture] = OrderedDict()

    async def named(self, request: TaskRequest) -> dict[str, InputPicture]:
        """The pictures of a request that lie here, by their addresses; raises Refused for one that does no more."""
        found: dict[str, InputPicture] = {}
        for address in dict.fromkeys(_addresses_in([request.images, request.extra])):
            if (brought := _BROUGHT.fullmatch(address)) is not None:
                found[address] = await self._at(os.path.join(self._folder, brought[1]), address)
            elif (made := _MADE.fullmatch(address)) is not None:
                row = await self._keeper.ask(partial(Book.file, token=made[1]))
                # Any other host may have such an address, too.
                if row is not None:
                    found[address] = await self._at(row.path, address)
        return found

    async def _at(self, path: str, address: str) -> InputPicture:
        known = self._known.get(path)
        try:
            picture = await self._off_loop.run(_looked_at, path, address, known)
        except (OSError, InvalidRequest):
            self._known.pop(path, None)
            message = f"{told(address)}: there is no such picture here, or not any more; bring it again"
            raise wrong(f"{message}.", "images", "no_such_file") from None
        self._known[path] = picture
        self._known.move_to_end(path)
        if len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)
        return picture


def _looked_at(path: str, address: str, known: InputPicture | None) -> InputPicture:
    """What a picture is; it is kept for as long from now on as a new one."""
    os.utime(path)
    if known is not None:
        return known
    file = look_at(path, address, os.path.getsize(path))
    return InputPicture(file.content, path, file)


def _addresses_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        yield from _addresses_in(each)
