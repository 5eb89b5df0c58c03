"""How many results of a batch are good, and how many are not."""

from __future__ import annotations

from .. import Result
from ..errors import UnknownOutcome


class ResultCounts:
    """Counts results, each request once.

    Args:
        keys_differ: True where a key is one request's only, so that a second result of it takes the first one's place.

    Attributes:
        done: With their pictures.
        failed: Without; tasks that were left running are among them.
        unknown: Of these, those whose create's answer was lost.
        earlier_failed: Of these, those that an earlier run brought to their end.
    """

    def __init__(self, *, keys_differ: bool) -> None:
        self.done = self.failed = self.unknown = self.earlier_failed = 0
        self._keys_differ = keys_differ
        self._held: dict[str, Result] = {}

    def add(self, result: Result) -> None:
        """Count a result; what a callback has made of a held request comes in the place of what it was."""
        if self._keys_differ:
            replaced = self._held.pop(result.key, None)
            if replaced is not None:
                self._count(replaced, -1)
            # Only a held one can have a second result: to remember all would be memory for each request.
            if isinstance(result.error, UnknownOutcome):
                self._held[result.key] = result
        self._count(result, 1)

    def _count(self, result: Result, sign: int) -> None:
        self.done += sign * result.ok
        self.failed += sign * (not result.ok)
        self.unknown += sign * isinstance(result.error, UnknownOutcome)
        self.earlier_failed += sign * (result.earlier and not result.ok)
