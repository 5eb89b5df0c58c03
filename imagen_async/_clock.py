"""The clock that everything here goes by: the running loop's, so that a test swaps the loop and nothing else."""

from __future__ import annotations

import asyncio


def now() -> float:
    """Seconds of the running loop's clock."""
    return asyncio.get_running_loop().time()
