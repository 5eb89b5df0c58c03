"""Results on stdout: a line a picture, or a JSON object a result. Where nothing is saved, they are all that is kept."""

from __future__ import annotations

import json
import sys

import anyio

from .. import Result
from ..errors import DownloadFailed
from .as_json import result_json
from .terminal import PATIENCE, failure_of, finish, has_room, reader_has_left, unwritten
from .wording import places, say, show

_LOOK_EVERY = 0.05
"""Seconds between two looks at whether a reader that stands still goes on."""


class ResultPrinter:
    """Prints results, and knows whether they arrive.

    Args:
        as_json: True for a JSON object a result.
        out: The folder that has them all; None where nothing is saved, and stdout alone has them.
    """

    def __init__(self, *, as_json: bool, out: str | None) -> None:
        self._as_json = as_json
        self._out = out
        # Before a panel stands in front of them.
        self._stdout, self._stderr = sys.stdout, sys.stderr

    def print(self, result: Result) -> None:
        """Print one that is good, and as JSON any."""
        if self._as_json:
            show(json.dumps(result_json(result), ensure_ascii=False))
        elif places(result):
            show(*places(result))

    async def until_taken(self) -> None:
        """Wait while whoever reads stands still; raises DownloadFailed where what it lost is nowhere else."""
        while not has_room(self._stdout):  # noqa: ASYNC110 - the thread that writes has no event for the loop
            await anyio.sleep(_LOOK_EVERY)
        failure = failure_of(self._stdout) or (failure_of(self._stderr) if self._stdout.isatty() else None)
        if self._out is None and failure is not None:
            why = "has no reader any more" if reader_has_left(failure) else f"takes nothing: {failure.strerror}"
            raise DownloadFailed(f"stdout {why}, and nothing is saved: no more is made. Save the pictures with -o DIR.")

    def close(self) -> None:
        """Say what was printed and did not arrive: all of it where it is nowhere else."""
        failure = finish(self._stdout, PATIENCE)
        if failure is None:
            return
        if self._out is None:
            say(*unwritten(self._stdout).rstrip("\n").split("\n"))
        elif reader_has_left(failure):
            say(f"Whoever read stdout has left, so that not all was printed; {self._out} has it all.")
