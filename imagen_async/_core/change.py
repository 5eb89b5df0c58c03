"""What an event has made of a job, as one value: who keeps, counts or tells what happens hears these and no more."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from .job import Job
from .job_events import Event


class Change(msgspec.Struct, frozen=True, gc=False):
    """What an event has made of a job.

    Attributes:
        before: The job before; None for one that has come in.
        after: The job as it is now; the same object where nothing of it has changed.
        event: What happened.
    """

    before: Job | None
    after: Job
    event: Event


ChangeListener = Callable[[Change, float], None]
"""Hears one change, at loop time; it is not asked, and must not raise."""
