"""The event loop in which a client is open: what waits there is woken by no other, so that others are refused."""

from __future__ import annotations

import asyncio
import os

from .errors import ConfigurationError


class HomeLoop:
    """The loop that runs where this is made; raises ConfigurationError where none does, as in trio's.

    Attributes:
        loop: That loop.
    """

    def __init__(self) -> None:
        loop = _running_loop()
        if loop is None:
            raise ConfigurationError(
                "No event loop of asyncio runs here: a client needs one, such as `asyncio.run` has."
            )
        self.loop: asyncio.AbstractEventLoop = loop
        self._process = os.getpid()

    def is_forked(self) -> bool:
        """True in a fork of the process: whatever is sent there the other one sends as well."""
        return os.getpid() != self._process

    def now(self) -> float:
        """Seconds of that loop's clock, wherever it is asked for."""
        return self.loop.time()

    def check(self) -> None:
        """Raise ConfigurationError in another loop, in a thread that has none while the own one runs, and in a fork."""
        if self.is_forked():
            raise ConfigurationError(
                f"This client was opened in process {self._process}, of which this one is a fork: nothing was sent. "
                "Open a client in each process, after the fork."
            )
        here = _running_loop()
        if here is self.loop or (here is None and not self.loop.is_running()):
            return
        where = "an event loop that has ended" if self.loop.is_closed() else "another event loop"
        raise ConfigurationError(
            f"This client was opened in {where}, and is used from here: nothing was sent. Open a client in each loop, "
            "or have it done there: `asyncio.run_coroutine_threadsafe(client.generate(…), loop).result()`."
        )


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
