"""How full the windows of a limit were."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable


def busiest_window(times: Iterable[float], per: float) -> int:
    """The most arrivals that any window of `per` seconds held, its end left out; 0 where nothing arrived."""
    ordered = sorted(times)
    return max((bisect_left(ordered, first + per) - before for before, first in enumerate(ordered)), default=0)
