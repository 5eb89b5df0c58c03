"""The clock that everything here goes by: the running loop's, so that a test swaps the loop and nothing else.

Beside it the machine's, by which goes what outlives a process, or is other processes', too.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

# Named for Linux. macOS has none, and its CLOCK_MONOTONIC counts on in sleep; Windows' monotonic clock does so as well.
# Neither was tried.
_CLOCK_ID = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))


def now() -> float:
    """Seconds of the running loop's clock."""
    return asyncio.get_running_loop().time()


def boot_clock() -> float:
    """Seconds that count on while the machine sleeps, where it has such a clock, and that nobody sets."""
    return time.monotonic() if _CLOCK_ID is None else time.clock_gettime(_CLOCK_ID)


def boot_id() -> str | None:
    """Which start of which machine this is; None where nobody can tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() or None
    except OSError:
        return None
