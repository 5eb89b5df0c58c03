"""What callers are told of by themselves: the ends of what they have asked for, where they want to be called back."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

import msgspec

from .._text import told
from ..errors import JournalError
from ._announcer import Announcer, Callback
from ._answers import state_of, status_of
from ._book import OrderRow
from ._bookkeeper import Bookkeeper
from ._callers import Caller
from ._files import Files
from ._orders import Order
from ._reading import Asked, Reader
from ._refusals import wrong


class Notices:
    """Tells callers of ends.

    Args:
        keeper: Has the book, which knows who was told.
        reader: Knows which addresses may be called.
        files: Knows where pictures are.
        announcer: Calls, once it is open.
        caller: The caller of a name, or None.
    """

    def __init__(
        self,
        keeper: Bookkeeper,
        reader: Reader,
        files: Files,
        announcer: Announcer,
        caller: Callable[[str], Caller | None],
    ) -> None:
        self._keeper = keeper
        self._reader = reader
        self._files = files
        self._announcer = announcer
        self._caller = caller

    async def close(self) -> None:
        """Call nobody any more."""
        await self._announcer.close()

    def callback(self, caller: Caller, asked: Asked, address: str) -> bytes | None:
        """Where the end of what is asked for is announced, as the book keeps it; raises Refused where it cannot be.

        Args:
            caller: Who asks.
            asked: What.
            address: The service's, as it was asked.
        """
        url = asked.callback_url
        if url is None:
            return None
        if caller.callback_secret is None:
            message = "A callback is signed by a caller's callback_secret, in the file of callers: here there is none."
            raise wrong(message, "callback_url", "no_callback_secret")
        if not self._reader.takes_address(url):
            raise wrong(f"callback_url={told(url)}: allowed is an https:// address of the Internet.", "callback_url")
        return msgspec.json.encode(Callback(url, address))

    def is_wanted(self, row: OrderRow) -> bool:
        """True where the caller of an order that has ended is still to be told."""
        # While one of its tasks may still come to something, it has not ended for its caller; one called off has.
        has_ended = row.is_final or row.spent is not None
        return row.callback is not None and row.told_at is None and has_ended and not row.is_called_off

    async def tell(self, row: OrderRow, order: Order) -> None:
        """Tell the caller of an order of its end, again and again until that is taken, or given up."""
        caller = self._caller(row.caller)
        if row.callback is not None and caller is not None and caller.callback_secret is not None:
            callback = msgspec.json.decode(row.callback, type=Callback)
            pictures = [each for part in order.parts for each in self._files.pictures(part, callback.address)]
            state = state_of(row, order)
            status = status_of(row, order, state, [{"url": each.url} for each in pictures])
            event = {"type": f"image_generation.{state}", "timestamp": int(row.ended_at or 0), "data": status}
            await self._announcer.announce(row.id, callback.url, msgspec.json.encode(event), caller.callback_secret)
        with suppress(JournalError):  # it is told once more then
            await self._keeper.ask(lambda book: book.mark(row.id, told_at=time.time()))
