"""Questions that the limit, and not the clock, keeps waiting: which of them goes first."""

from __future__ import annotations

import heapq
from collections.abc import Callable

_AT_ONCE = 8
"""One in so many of them is picked at a time: an exact order at every question would cost a look at all of them."""


class LateQuestions:
    """Jobs that are to be asked about, those first which are the most worth it."""

    def __init__(self) -> None:
        # Keeps their order: of equals the first goes first.
        self._ids: dict[int, None] = {}
        self._turn: list[int] = []

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, job_id: int) -> None:
        """Take in a job."""
        self._ids[job_id] = None

    def discard(self, job_id: int) -> None:
        """Let a job go, if it is here."""
        self._ids.pop(job_id, None)

    def pop(self, worth: Callable[[int], float]) -> int:
        """Take out the one that is worth most, as of the last look at all of them."""
        job_id = self._first(worth)
        del self._ids[job_id]
        return job_id

    def _first(self, worth: Callable[[int], float]) -> int:
        while self._turn:
            job_id = self._turn.pop()
            if job_id in self._ids:
                return job_id
        self._turn = heapq.nlargest(max(1, len(self._ids) // _AT_ONCE), self._ids, key=worth)[::-1]
        return self._turn.pop()
