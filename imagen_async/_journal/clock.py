"""The loop's clock beside the calendar: what is written counts in Unix time, what runs in seconds of the loop."""

from __future__ import annotations

import time

from .._clock import now

__all__ = ["epoch", "now"]


def epoch() -> float:
    """The Unix time at which the running loop's clock stood at 0."""
    # Looked up anew each time: the machine may have slept, or its clock been set.
    return time.time() - now()
