"""When to ask for a task's status next. A later schedule may learn; this one follows a provider's written advice."""

from __future__ import annotations

from typing import Protocol

import msgspec


class PollSchedule(Protocol):
    """Decides how old a task is when it is asked about next."""

    def next_age(self, age: float) -> float:
        """Seconds after its creation at which a task, last asked about at `age`, is to be asked about again."""


class Advice(msgspec.Struct, frozen=True):
    """A fixed interval for each stretch of a task's age.

    Attributes:
        steps: Pairs of (age in seconds up to which it holds, interval in seconds), by rising age.
        after: The interval in seconds beyond the last step.
    """

    steps: tuple[tuple[float, float], ...]
    after: float

    def next_age(self, age: float) -> float:
        """Seconds after its creation at which a task, last asked about at `age`, is to be asked about again."""
        for until, interval in self.steps:
            if age < until:
                return age + interval
        return age + self.after
