"""What a program was told: by results and errors, in the log, as warnings, or as what its loop could hand to nobody."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from imagen_async import Result

from .stage import stage

if TYPE_CHECKING:
    from .process import Process
    from .universe import Universe


class Told(NamedTuple):
    """What a program was told of a request."""

    process: str
    prompt: str
    task_id: str | None
    error: str
    files: tuple[str, ...] = ()
    is_earlier: bool = False
    is_left: bool = False


class Witness:
    """Hears what the programs of a world are told, for as long as they live.

    Attributes:
        told: Of requests, in order.
        heard: Otherwise: by a job, by an error's words, or in the log.
        left: When a process has left, or one of its requests: world time, and a number of `Universe.tick`.
    """

    def __init__(self, universe: Universe) -> None:
        self._universe = universe
        self.told: list[Told] = []
        self.heard: list[str] = []
        self.left: dict[tuple[str, str], tuple[float, int]] = {}

    def tell(self, process: Process, result: Result, *, is_left: bool = False) -> None:
        """Hear of a result."""
        error = "" if result.error is None else type(result.error).__name__
        files = tuple(file.path for file in result.files)
        prompt, task_id = result.request.prompt, result.task_id
        self._tell(process, Told(process.name, prompt, task_id, error, files, result.earlier, is_left))

    def tell_error(self, process: Process, prompt: str, error: BaseException) -> None:
        """Hear of an error."""
        self._tell(process, Told(process.name, prompt, getattr(error, "task_id", None), type(error).__name__))
        self.hear(process, str(error))

    def _tell(self, process: Process, told: Told) -> None:
        if not process.is_dead:
            self.told.append(told)
            how = f"{told.error or 'done'} {told.task_id or ''} {len(told.files)}"
            # What an earlier run was told of is no news.
            if not told.is_earlier:
                self._universe.trace.add(process.name, f"is told of {told.prompt!r}: {how}")

    def hear(self, process: Process, text: str) -> None:
        """Hear of something otherwise."""
        if not process.is_dead:
            self.heard.append(text)

    def leave(self, process: Process, prompt: str = "") -> None:
        """Hear that a program leaves: from here on it creates nothing."""
        if not process.is_dead and (process.name, prompt) not in self.left:
            self.left[process.name, prompt] = (self._universe.now, self._universe.tick())
            self._universe.trace.add(process.name, f"leaves {prompt}")


class _Ear(logging.Handler):
    def __init__(self, witness: Witness) -> None:
        super().__init__()
        self._witness = witness

    def emit(self, record: logging.LogRecord) -> None:
        process = stage.process
        if process is None or process.is_dead:
            return
        if record.name.startswith("imagen_async"):
            # Quieter lines are seen by nobody who has not asked for them.
            self._witness.hear(process, record.getMessage())
        elif record.levelno >= logging.ERROR:
            what = f": {record.exc_info[1]!r}" if record.exc_info else ""
            process.universe.broken.append(f"{process.name} logs as {record.name}: {record.getMessage()}{what}")


@contextmanager
def listened(witness: Witness, process: Process) -> Iterator[None]:
    """Hear what a process says while the block runs."""
    ear, root = _Ear(witness), logging.getLogger()
    root.addHandler(ear)
    logging.getLogger("imagen_async").setLevel(logging.WARNING)

    def unhandled(loop: Any, context: dict[str, Any]) -> None:
        if not process.is_dead:
            error = context.get("exception")
            process.universe.broken.append(f"{process.name}: {context.get('message')}: {error!r}")

    process.loop.set_exception_handler(unhandled)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ResourceWarning)
            warnings.simplefilter("always", RuntimeWarning)
            yield
        if not process.is_dead:
            heard = [each for each in caught if not _is_of_a_dead_one(each.source)]
            process.universe.broken += [f"{process.name} warns: {each.message}" for each in heard]
    finally:
        root.removeHandler(ear)


def _is_of_a_dead_one(source: object) -> bool:
    """Say whether what was not closed is of a process that was killed before."""
    return getattr(getattr(getattr(source, "_loop", None), "process", None), "is_dead", False)
