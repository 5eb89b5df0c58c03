"""For the tests of programs that use this library: the sandbox as a pytest fixture, and a loop of virtual time."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal

from .sandbox import Latency, Sandbox

__all__ = ["VirtualTimeLoop", "imagen_sandbox", "running_sandbox"]


@pytest.fixture
def imagen_sandbox() -> Iterator[Sandbox]:
    """A sandbox of its own for a test, with tasks of about 50 ms, served from a thread: any test runner will do.

    Import it into a `conftest.py`, then talk to `imagen_sandbox.url` with the key `imagen_sandbox.key`, order faults
    with `imagen_sandbox.order(…)` and look at `imagen_sandbox.ledger`.
    """
    with running_sandbox(Sandbox(latency=Latency(median=0.05, minimum=0.01))) as sandbox:
        yield sandbox


@contextmanager
def running_sandbox(sandbox: Sandbox) -> Iterator[Sandbox]:
    """Serve a sandbox from a thread while the block runs."""
    with start_blocking_portal(name="imagen-sandbox") as portal, portal.wrap_async_context_manager(sandbox):
        yield sandbox


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer when nothing is ready: an hour's waiting takes no time.

    For code that waits on timers alone; threads and sockets go by real time, and the clock does not wait for them.
    With anyio's pytest plugin: `("asyncio", {"loop_factory": VirtualTimeLoop})` as the `anyio_backend`.
    """

    def __init__(self) -> None:
        self._offset = 0.0
        self._jumping = _JumpingSelector(self)
        super().__init__(self._jumping)

    def time(self) -> float:
        """Seconds of virtual time."""
        return self._offset

    def jump(self, seconds: float) -> None:
        """Move the clock on."""
        self._offset += seconds


class _JumpingSelector(selectors.DefaultSelector):
    """Looks for what is ready, and where the loop would wait for a timer, moves its clock instead."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, Any]]:
        # Without a timer only another thread can wake the loop, and that goes by real time.
        ready = super().select(0 if timeout is not None else None)
        if not ready and timeout is not None and timeout > 0:
            self._loop.jump(timeout)
        return ready
