"""What a process says beside its results: in the log, as a warning, or as what its loop could hand to nobody."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .stage import stage

if TYPE_CHECKING:
    from .process import Process
    from .world import World


class _Ear(logging.Handler):
    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        process = stage.process
        if process is None or process.is_dead:
            return
        if record.name.startswith("imagen_async"):
            # Quieter lines are seen by nobody who has not asked for them.
            self._world.hear(process, record.getMessage())
        elif record.levelno >= logging.ERROR:
            what = "" if record.exc_info is None else f": {record.exc_info[1]!r}"
            self._world.universe.broken.append(f"{process.name} logs as {record.name}: {record.getMessage()}{what}")


@contextmanager
def listened(world: World, process: Process) -> Iterator[None]:
    """Hear what a process says while the block runs."""
    ear, root = _Ear(world), logging.getLogger()
    root.addHandler(ear)
    logging.getLogger("imagen_async").setLevel(logging.WARNING)

    def unhandled(loop: Any, context: dict[str, Any]) -> None:
        if not process.is_dead:
            error = context.get("exception")
            world.universe.broken.append(f"{process.name}: {context.get('message')}: {error!r}")

    process.loop.set_exception_handler(unhandled)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ResourceWarning)
            warnings.simplefilter("always", RuntimeWarning)
            yield
        if not process.is_dead:
            world.universe.broken += [f"{process.name} warns: {each.message}" for each in caught]
    finally:
        root.removeHandler(ear)
