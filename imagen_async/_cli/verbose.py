"""The log on stderr, for `-v` and `-vv`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class _ToStderr(logging.Handler):
    """Prints to what stderr is at the time: while a panel is up, lines go past it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        try:
            print(self.format(record), file=sys.stderr)
        except Exception:
            self.handleError(record)


@contextmanager
def log_on_stderr(verbosity: int) -> Iterator[None]:
    """Show the package's log while the block runs: 1 what happens to each job, 2 every exchange too, 0 as it is."""
    if not verbosity:
        yield
        return
    from .library import logger  # only here: nobody else needs all of the library for it

    before = (logger.level, logger.propagate)
    handler = _ToStderr()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO if verbosity == 1 else logging.DEBUG)
    # A handler of the root logger's would print each line a second time.
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]
