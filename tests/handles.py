"""A process that may open no more files, until something waits for that."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager


@contextlib.contextmanager
def at_most(handles: int) -> Iterator[None]:
    """Let this process open files whose numbers are below this only."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (handles, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@asynccontextmanager
async def without_handles() -> AsyncIterator[None]:
    """Nothing can be opened in the block, at the end of which it is said that a handle is waited for."""
    waits = asyncio.Event()

    class Told(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "no file handle is left" in record.getMessage():
                waits.set()

    told, logger = Told(), logging.getLogger("imagen_async")
    logger.addHandler(told)
    try:
        with at_most(0):
            yield
            await waits.wait()
    finally:
        logger.removeHandler(told)
