"""What Ray's own metrics tell of a coordinator, beside what it has for each of its actors."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ..events import ENDS, Event, JobEvent


class Watching:
    """Counts in Ray's metrics, from where its dashboard and Prometheus have them."""

    def __init__(self) -> None:
        from ray.util import metrics

        tags = ("account",)
        self._ended: Any = metrics.Counter("imagen_async_ended", "Requests that ended.", (*tags, "state"))
        self._credits: Any = metrics.Counter("imagen_async_credits", "Credits billed, as far as it is told.", tags)
        self._live: Any = metrics.Gauge("imagen_async_live", "Requests by where they stand.", (*tags, "state"))
        self._states: dict[int, tuple[str, str]] = {}
        self._counts: Counter[tuple[str, str]] = Counter()

    def on_event(self, event: Event) -> None:
        """Hear of a step."""
        if not isinstance(event, JobEvent):
            return
        before = self._states.pop(event.job, None)
        if before is not None:
            self._count(before, -1)
        if event.state not in ENDS:
            self._states[event.job] = (event.account, event.state)
            self._count(self._states[event.job], 1)
            return
        self._ended.inc(tags={"account": event.account, "state": event.state})
        credits = None if event.result is None else event.result.credits
        if credits:
            self._credits.inc(credits, tags={"account": event.account})

    def _count(self, key: tuple[str, str], step: int) -> None:
        self._counts[key] += step
        self._live.set(self._counts[key], tags={"account": key[0], "state": key[1]})
