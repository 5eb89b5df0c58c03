"""Pulls a batch's input, one request at a time, when the accounts and the reader have room for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

import anyio

from .._watch.log import log
from ..errors import InvalidRequest
from .inputs import END, Requests, check_keys, length_of, puller

if TYPE_CHECKING:
    # Only a batch with a journal needs it.
    from .._core.identity import Identity

BREATHE_EVERY = 50
"""Requests pulled at most before whatever else the program does has its turn."""

PASSED_AT_ONCE = 1000
"""Requests that are passed over at most before that: each costs next to nothing."""

CLOSING = 1.0
"""Seconds that a generator has to come to its end when the batch is left."""


async def _closed(close: Callable[[], Awaitable[None]]) -> None:
    try:
        with anyio.move_on_after(CLOSING, shield=True):
            await close()
    except Exception:  # the user's own cleaning up: what was sent comes out all the same
        log(logging.WARNING, "the input of a batch could not be closed", exc_info=True)


class Feeder:
    """The input of one batch, on its way in.

    Args:
        requests: The input.
        window: Requests that may be pulled and not have come out yet.
        room: Ends once the accounts have room for one more.
        passes_over: Looks at a request's place in the input, and says whether nothing is to come of it: no room is
            needed for that.
        take: Takes in one request, with its place in the input; an exception of it ends the feeding.
        ended: Called once no more will come.
        look: Looks at the files of a request, where it has any; what it ends with is taken in the request's place.

    Attributes:
        total: Requests in the input, or None where it has no length.
        pulled: Requests taken from it so far.
        error: What the input raised, or `take`; None while all is well.
        is_over: True once no more will come.
    """

    def __init__(
        self,
        requests: Requests,
        window: int,
        room: Callable[[], Awaitable[None]],
        passes_over: Callable[[int], bool],
        take: Callable[[object, int], None],
        ended: Callable[[], None],
        look: Callable[[object], Awaitable[object] | None] = lambda item: None,
    ) -> None:
        self.total = length_of(requests)
        self.pulled = 0
        self.error: BaseException | None = None
        self.is_over = False
        self._requests = requests
        self._places = window
        self._room = room
        self._passes_over = passes_over
        self._take = take
        self._ended = ended
        self._look = look
        self._space = asyncio.Event()
        self._scope = anyio.CancelScope()
        self._closed = asyncio.Event()

    def check(self) -> None:
        """Refuse an input that can be seen to be wrong before anything is sent; raises InvalidRequest."""
        check_keys(self._requests)

    async def look_through(self, identity: Identity) -> None:
        """Refuse a list of which something was made under other defaults before; raises ConfigurationError."""
        # A lazy input is not pulled for that: there the first request that shows it ends the feeding.
        for index, item in enumerate(self._requests if isinstance(self._requests, Sequence) else ()):
            if identity.is_sure:
                return
            looking = self._look(item)
            identity.check(item if looking is None else await looking)
            if index % BREATHE_EVERY == BREATHE_EVERY - 1:
                await asyncio.sleep(0)

    def passed(self) -> None:
        """One more has come out, so that another one may be pulled."""
        self._places += 1
        self._space.set()

    def stop(self) -> None:
        """Pull no more."""
        self._scope.cancel()

    @property
    def is_stopped(self) -> bool:
        """True once no more is wanted. It holds at once: by itself the scope ends only a feeder that waits."""
        return self._scope.cancel_called

    def unpulled(self, unmet: int) -> int | None:
        """Requests that are to be pulled and sent yet, without so many that an earlier run has; None: nobody knows."""
        if self.is_over or self.is_stopped:
            return 0
        return None if self.total is None else max(0, self.total - self.pulled - unmet)

    async def run(self) -> None:
        """Pull until there is no more, or no more is wanted. What the input raises is kept, not raised."""
        close = None
        try:
            with self._scope:
                pull, close = puller(self._requests)
                # The input may take its time: what it gives after a stop is not sent any more.
                while await self._has_room() and (item := await self._next(pull)) is not END and not self.is_stopped:
                    index = self.pulled
                    self.pulled += 1
                    self._places -= 1
                    self._take(item, index)
        except StopAsyncIteration as error:  # to whoever iterates over the batch it would say that all is well
            self.error = RuntimeError(f"The input raised {error!r}.")
        except Exception as error:  # the user's iterable failed: what was sent is delivered first
            self.error = error
        except asyncio.CancelledError:  # its own, not ours: those end in the scope
            self.error = InvalidRequest("The input was cancelled from within; what it gave was sent.")
        finally:
            self.is_over = True
            self._ended()
            if close is not None:
                await _closed(close)
            self._closed.set()

    async def _next(self, pull: Callable[[], Awaitable[object]]) -> object:
        """The next request of which something is to come, or END."""
        item = await pull()
        while item is not END and not self.is_stopped and self._passes_over(self.pulled):
            self.pulled += 1
            if self.pulled % PASSED_AT_ONCE == 0:
                await asyncio.sleep(0)
            item = await pull()
        looking = self._look(item)
        return item if looking is None else await looking

    async def closed(self) -> None:
        """Wait until an input that is a generator has been closed, for as long as that may take."""
        with anyio.move_on_after(CLOSING, shield=True):
            await self._closed.wait()

    async def _has_room(self) -> bool:
        """Wait until one more may be pulled; False when none will be."""
        while self._places <= 0:
            self._space.clear()
            await self._space.wait()
        await self._room()
        if self.pulled % BREATHE_EVERY == BREATHE_EVERY - 1:
            # Where each request ends at once, for no account takes it, nothing else would let others run.
            await asyncio.sleep(0)
        return not self.is_stopped
