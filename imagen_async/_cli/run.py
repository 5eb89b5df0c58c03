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
from .terminal import lasting
from .verbose import log_on_stderr
from .wording import say


def run(arguments: Sequence[str]) -> int:
    """Do what the arguments say; returns the exit code."""
    for name in ("stdout", "stderr"):
        setattr(sys, name, lasting(getattr(sys, name)))
    sys.stdin = sys.stdin or io.TextIOWrapper(io.BytesIO())  # closed by whoever started us: nothing comes from it
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
