"""One running task as the list of questions has it."""

from __future__ import annotations

import math

import msgspec

from .job import Job
from .poll_schedule import Kind
from .states import Collected, Confirming, Relinking, Running


class Watched(msgspec.Struct, gc=False):
    """A running task.

    Attributes:
        kind: Its own.
        since: Loop time from which its age counts.
        asked: Loop time at which it was last asked about.
        seen: Loop time up to which it was seen to run.
        learns: True where its age is known, so that it teaches how long tasks take.
        announces: True where a callback about it would come to this process.
        announced_at: Loop time at which one came, or None.
        is_due: True from then, or from when its time is over, until it is asked about for that.
        is_asked: True while a question about it is on its way.
        is_untold: True where the last one was not answered.
        made_at: Loop time since which it is said to have succeeded, its links missing; or None.
        sent_at: Loop time at which its last question left.
        is_last: True once it is to be asked about for the last time.
        is_early: True where its next question is set for before its time.
    """

    kind: Kind
    since: float
    asked: float
    seen: float
    learns: bool
    announces: bool
    announced_at: float | None = None
    is_due: bool = False
    is_asked: bool = False
    is_untold: bool = False
    made_at: float | None = None
    sent_at: float = -math.inf
    is_last: bool = False
    is_early: bool = False

    @property
    def has_ended(self) -> bool:
        """True where it is said to have ended: the schedule is for tasks of which nobody knows."""
        return self.made_at is not None or (self.announced_at is not None and self.is_untold)

    @property
    def is_scheduled(self) -> bool:
        """True where its next question goes by the schedule; not at once, as that of one that was just met may."""
        is_set = not (self.is_asked or self.is_due or self.has_ended)
        return is_set and self.learns and (self.announces or self.sent_at > -math.inf)


def watched(job: Job, *, is_ours: bool) -> Watched:
    """What there is to know of a task when it is met; `is_ours` where this process has seen its create accepted."""
    if isinstance(job.state, Confirming):
        since = job.state.since
        # A callback has told of it already; and its age, counted from the loss of an answer, teaches nothing.
        return Watched(job.kind, since, since, since, learns=False, announces=False, announced_at=since)
    assert isinstance(job.state, Running)
    since = job.state.since
    # The age of a task that was named by its id is not known, and what waits for new links has ended long ago.
    learns = not isinstance(job.state, Collected | Relinking)
    return Watched(job.kind, since, since, since, learns, announces=learns and is_ours)
