"""How long ago something was that an earlier run has noted, at least: wall clocks are set, and machines start anew."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

SAME = 1.0
"""Seconds by which a wall clock may go another way than the machine's, and nobody has set it."""


class RunClock(msgspec.Struct, frozen=True, omit_defaults=True):
    """The time that a run notes: Unix time as its machine had it at the beginning, then by a clock that nobody sets.

    Attributes:
        began: The run's time at its beginning.
        at: What the machine's clock said then, which counts from when the machine was started.
        since: From when on all that earlier runs have noted is in this time, too.
        boot: Which start of which machine that was; None where nobody can tell.
        left: The run's time at its end; None while it goes on, and for one that was killed.
    """

    began: float
    at: float
    since: float
    boot: str | None = None
    left: float | None = None

    def time(self, at: float) -> float:
        """The run's time when the machine's clock says that."""
        return self.began + max(0.0, at - self.at)

    def goes_on(self, boot: str | None) -> bool:
        """True where the machine's clock has counted on since: it is the same start of the same machine."""
        return boot is not None and boot == self.boot

    def earliest(self, at: float, boot: str | None) -> float:
        """What a later run's present can be at the earliest, in the time of this run."""
        if self.goes_on(boot):
            return self.time(at)
        # Another start or another machine, whose clocks may say anything: only what this run has seen go by has.
        return self.began if self.left is None else self.left


def run_clock(last: RunClock | None, wall: float, at: float, boot: str | None) -> RunClock:
    """The clock of a run that begins: that of the last one, which goes on, unless somebody has set the wall clock.

    Args:
        last: That of the last run, or None.
        wall: Unix time.
        at: What the machine's clock says.
        boot: Which start of which machine this is, or None.
    """
    if last is not None and last.goes_on(boot) and abs(last.time(at) - wall) < SAME:
        return RunClock(last.time(at), at, last.since, boot)
    return RunClock(wall, at, wall, boot)


def ages(last: RunClock | None, moments: Iterable[float], present: float) -> list[float]:
    """How many seconds ago earlier runs noted something, at least: an answer that took longer only waits longer.

    Args:
        last: The last of them; None: nobody knows when it was, so that all was just now.
        moments: When, in the time of the run that noted it.
        present: The earliest that it can be now, in the time of the last run.
    """
    if last is None:
        return [0.0 for _ in moments]
    # What was noted by another clock was over when this one began, whatever that said.
    return [max(0.0, present - max(last.since, at)) for at in moments]
