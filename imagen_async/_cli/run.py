"""From the words of a command line to an exit code: whatever goes wrong ends here."""

from __future__ import annotations

import io
import sys
import traceback
from collections.abc import Sequence

from ..errors import ImagenError
from .commands import COMMANDS
from .exits import INTERRUPTED, SOME_FAILED, tell
from .grammar import read
from .terminal import finish, hold_places, lasting, reader_has_left
from .verbose import log_on_stderr
from .wording import say


def run(arguments: Sequence[str]) -> int:
    """Do what the arguments say; returns the exit code."""
    hold_places()
    sys.stdout, sys.stderr = lasting(sys.stdout, sys.stderr)
    sys.stdin = sys.stdin or io.TextIOWrapper(io.BytesIO())  # closed by whoever started us: nothing comes from it
    try:
        return _with_stdout(_done(arguments))
    except KeyboardInterrupt:  # while whoever reads the last words stands still
        return INTERRUPTED
    finally:
        finish(sys.stderr)


def _done(arguments: Sequence[str]) -> int:
    try:
        asked = read(arguments, COMMANDS)
        with log_on_stderr(asked.verbosity):
            return asked.run()
    except SystemExit as end:  # argparse's: it has said why
        return int(end.code or 0)
    except ImagenError as error:
        return tell(error)
    except KeyboardInterrupt:
        say("Interrupted.")
        return INTERRUPTED
    except Exception as error:  # of ours: by then stderr is done, and Python would end in silence
        say("".join(traceback.format_exception(error)).rstrip(), "This is a fault of imagen-async: report it.")
        return SOME_FAILED


def _with_stdout(code: int) -> int:
    """The exit code, where all that was printed is to be written too: whoever keeps it would take it for whole."""
    failure = finish(sys.stdout)
    if failure is None or reader_has_left(failure):
        return code
    say(f"imagen-async: stdout cannot be written: {failure.strerror or failure}. What it has is not all.")
    return code or SOME_FAILED
