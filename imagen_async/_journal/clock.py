"""The loop's clock beside the calendar: what is written counts in Unix time, what runs in seconds of the loop."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

import msgspec

from .._clock import boot_clock, boot_id, now
from .._core.run_clock import RunClock, ages, run_clock

__all__ = ["CLOCK", "JournalClock", "now"]

CLOCK = "clock"
"""The note with the clock of a store's last run, as JSON."""

_decode = msgspec.json.Decoder(RunClock).decode


class JournalClock:
    """The time of a run, and what it makes of the times that earlier ones have noted.

    Args:
        notes: The store's, as the last run has left them.
    """

    def __init__(self, notes: Mapping[str, str]) -> None:
        self._last = _read(notes.get(CLOCK))
        self._run = run_clock(self._last, time.time(), boot_clock(), boot_id())

    def note(self, *, is_over: bool = False) -> dict[str, str]:
        """What to note of it, for the runs to come."""
        left = self._run.time(boot_clock()) if is_over else None
        return {CLOCK: msgspec.json.encode(msgspec.structs.replace(self._run, left=left)).decode()}

    def epoch(self) -> float:
        """The Unix time at which the running loop's clock stood at 0, for what this run notes."""
        # Looked up anew each time: the machine may have slept, and the loop's clock with it.
        return self._run.time(boot_clock()) - now()

    def past_epoch(self) -> float:
        """The same, for what earlier runs have noted."""
        goes_on = self._last is not None and self._last.goes_on(self._run.boot)
        return self._present() - now() if goes_on else self.epoch()

    def earliest(self, seconds: float) -> float:
        """Since when, in the time of earlier runs, what they have noted may be younger than these seconds."""
        moment = self._present() - seconds
        # Of what was noted by another clock its own time says nothing.
        return 0.0 if self._last is None or moment < self._last.since else moment

    def ages(self, moments: Iterable[float]) -> list[float]:
        """How many seconds ago they have noted something, at least."""
        return ages(self._last, moments, self._present())

    def since_last(self) -> float:
        """Seconds since the last run ended, at least; 0 where nobody can tell."""
        return 0.0 if self._last is None or self._last.left is None else max(0.0, self._present() - self._last.left)

    def _present(self) -> float:
        return 0.0 if self._last is None else self._last.earliest(boot_clock(), self._run.boot)


def _read(note: str | None) -> RunClock | None:
    try:
        return None if note is None else _decode(note)
    except msgspec.MsgspecError:  # as good as none: all counts as just now
        return None
