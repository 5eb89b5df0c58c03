"""How far callbacks can be relied upon: of an account's tasks, the share whose end one announces. Pure."""

from __future__ import annotations

_MOST = 1000.0
"""Callbacks in a row after which another one adds no trust."""

_REMEMBERED = 1000
"""Tasks that ended unannounced for which a callback that is merely late is still recognised."""

_SILENT = 10
"""Tasks that ended unannounced, before any callback came, after which none is expected."""


class CallbackReliability:
    """What is known of one account's callbacks.

    Trust is the number of ends that were announced, in effect one after the other: each adds one, and each end that a
    status call had to find halves it. So it is slow to come and quick to go; until the first callback there is none.

    Attributes:
        are_asked_for: True where callbacks are.
        come_here: True where those about tasks of other processes come here, too.
    """

    def __init__(self) -> None:
        self.are_asked_for = False
        self.come_here = False
        self._trust = 0.0
        self._missed: dict[int, float] = {}
        self._misses = 0
        self._any_came = False

    @property
    def share(self) -> float:
        """The share of ends that a callback announces, as far as it can be relied upon; below 1."""
        return self._trust / (1 + self._trust)

    @property
    def are_silent(self) -> bool:
        """True where tasks have ended and no callback ever came."""
        return not self._any_came and self._misses >= _SILENT

    @property
    def are_hoped_for(self) -> bool:
        """True where they are asked for, and nothing tells that none will come."""
        return self.are_asked_for and not self.are_silent

    def rely(self) -> None:
        """Trust, from the start, that each end is announced, whoever began the task: as by a stream of ends."""
        self.are_asked_for = self.come_here = self._any_came = True
        self._trust = _MOST

    def ended(self, job_id: int, announced: bool) -> None:
        """Learn that a task has ended, and whether a callback had said so by then."""
        if announced:
            self._add(1.0)
            return
        self._trust /= 2
        self._misses += 1
        # What the miss has cost, to be given back should its callback only be late.
        self._missed[job_id] = self._trust
        if len(self._missed) > _REMEMBERED:
            del self._missed[next(iter(self._missed))]

    def came_late(self, job_id: int) -> None:
        """Learn of a callback for a task whose end a status call has found; a second one counts for nothing."""
        if job_id in self._missed:
            # What its miss has cost is given back.
            self._add(self._missed.pop(job_id) + 1)

    def _add(self, trust: float) -> None:
        self._any_came = True
        self._trust = min(self._trust + trust, _MOST)
