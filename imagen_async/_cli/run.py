"""From the words of a command line to an exit code: whatever goes wrong ends here."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

from ..errors import ImagenError
from .commands import COMMANDS
from .exits import INTERRUPTED, SOME_FAILED, told
from .grammar import read
from .verbose import log_on_stderr
from .wording import say


def run(arguments: Sequence[str]) -> int:
    """Do what the arguments say; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        # A prompt may hold what the terminal's encoding does not; that is no reason to fail after paying.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    asked = read(arguments, COMMANDS)
    try:
        with log_on_stderr(asked.verbosity):
            return asked.run()
    except ImagenError as error:
        return told(error)
    except KeyboardInterrupt:
        say("Interrupted.")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read stdout has left. Python would complain again when it closes it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return SOME_FAILED
