"""Which of a caller's equal requests one more is: the rule by which nobody pays twice behind a door. Pure.

No client says by itself that a request is one that it has sent before, and all of them send it again when they have
waited for too long. So the equal requests of a caller are numbered, and one that comes takes the first number that
nobody waits for and whose answer nobody was given: there its picture is, or is being made. An equal request that comes
once the first was answered is a new one, as whoever sends it means.

A request that says that it is a repeat is one whose first try was lost on the way. Behind a proxy that try may still
be waited for, or be answered to nobody: so it takes, of those of the last ten minutes, one that was begun and that
nobody waits for or was given, else the newest. Of several of which that is so each repeat takes its own: its try's
number is greater than that of the try before it, by which one of them was asked for last.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

LAPSES = 86400.0
"""Seconds after which what was never given is nobody's: an equal request then is a new one."""

REPEATED_WITHIN = 600.0
"""Seconds for which a repeat may mean an earlier request: openai's client waits so long for an answer."""


class Turn(msgspec.Struct):
    """One of a caller's equal requests.

    Attributes:
        begun_at: When it came first, in Unix seconds.
        given_at: When its answer was written to whoever waited, or None.
        waiting: How many wait for it now.
        repeat: By which try it was asked for last, as that has said; 0: by the first.
    """

    begun_at: float
    given_at: float | None = None
    waiting: int = 0
    repeat: int = 0

    @property
    def is_free(self) -> bool:
        """True where nobody waits for it, and nobody was given its answer."""
        return not self.waiting and self.given_at is None


class Turns:
    """All equal requests of one caller.

    Args:
        known: Those that are known of earlier, by their ordinals.
        first: Those below have ended long ago, and are remembered no more.

    Attributes:
        first: As given.
    """

    __slots__ = ("_next", "_turns", "first")

    def __init__(self, known: Iterable[tuple[int, Turn]] = (), first: int = 0) -> None:
        self._turns: dict[int, Turn] = dict(sorted(known))
        self.first = first
        self._next = max([first, *(ordinal + 1 for ordinal in self._turns)])

    @property
    def last(self) -> int:
        """The ordinal of the newest, whoever waits for it; 0 where there was none."""
        return max(0, self._next - 1)

    def next(self, now: float, *, repeat: int = 0) -> int:
        """The ordinal of one more request.

        Args:
            now: Unix seconds.
            repeat: How often it was sent before, as it says itself.
        """
        free = [ordinal for ordinal, turn in self._turns.items() if turn.is_free and now - turn.begun_at < LAPSES]
        if free:
            return free[0]
        recent = [ordinal for ordinal, turn in self._turns.items() if repeat and _is_recent(turn, now)]
        tried = [(turn.repeat, ordinal) for ordinal in recent if (turn := self._turns[ordinal]).repeat < repeat]
        return max(tried)[1] if tried else recent[-1] if recent else self._next

    def join(self, ordinal: int, now: float, *, repeat: int = 0) -> None:
        """Hear that one more waits for that one, from now on, which was sent so often before."""
        turn = self._turns.get(ordinal)
        if turn is None:
            turn = self._turns[ordinal] = Turn(now)
            self._next = max(self._next, ordinal + 1)
        turn.waiting += 1
        turn.repeat = repeat

    def leave(self, ordinal: int) -> None:
        """Hear that one who waited has left, or has been answered."""
        self._turns[ordinal].waiting -= 1

    def give(self, ordinal: int, now: float) -> None:
        """Hear that the answer was written to somebody."""
        self._turns[ordinal].given_at = now


def _is_recent(turn: Turn, now: float) -> bool:
    """True for one that a repeat may mean: it is waited for, or began or was answered a short while ago."""
    since = max(turn.begun_at, turn.given_at or 0.0)
    return now - since < REPEATED_WITHIN
