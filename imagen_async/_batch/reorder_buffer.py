"""What a batch hands out: results in the order of finishing, or of the input."""

from __future__ import annotations

from collections import deque

from .._core.values import Result


class AsTheyFinish:
    """Hands results out in the order of finishing."""

    def __init__(self) -> None:
        self.ready: deque[Result] = deque()

    def expect(self, ticket: int) -> None:
        """Hear which result is the next of the input, by the id of its job or another number of its own."""

    def put(self, result: Result, ticket: int) -> None:
        """Take in a result."""
        self.ready.append(result)

    def skip(self, ticket: int) -> None:
        """Hear that a result will not come."""

    def release(self) -> None:
        """Give up waiting for results that will not come any more."""


class InOrder(AsTheyFinish):
    """Hands results out in the order of the input."""

    def __init__(self) -> None:
        super().__init__()
        self._early: dict[int, Result | None] = {}
        self._expected: deque[int] = deque()

    def expect(self, ticket: int) -> None:
        """Hear which result is the next of the input, by the id of its job or another number of its own."""
        self._expected.append(ticket)
        self._let_out()

    def put(self, result: Result, ticket: int) -> None:
        """Take in a result, and let out what it held back."""
        self._early[ticket] = result
        self._let_out()

    def skip(self, ticket: int) -> None:
        """Hear that a result will not come, and let out what it held back."""
        self._early[ticket] = None
        self._let_out()

    def release(self) -> None:
        """Give up waiting for results that will not come any more, so that those after them come out."""
        order = [ticket for ticket in self._expected if ticket in self._early]
        # Last those that no request of this input stands for: tasks that an earlier run left.
        for ticket in [*order, *(self._early.keys() - set(order))]:
            self._release(ticket)
        self._expected.clear()

    def _let_out(self) -> None:
        while self._expected and self._expected[0] in self._early:
            self._release(self._expected.popleft())

    def _release(self, ticket: int) -> None:
        result = self._early.pop(ticket)
        if result is not None:
            self.ready.append(result)
