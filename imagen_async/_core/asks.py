"""Whose status is asked next: every running job of an account, when it is due, and who goes first when many are."""

from __future__ import annotations

import heapq
import math

import msgspec

from .agenda import Agenda
from .job import Job, Running
from .poll_schedule import Kind, PollSchedule
from .wire import Broken, Pending, Succeeded, TaskStatus

_LATE = 0.2
"""Seconds after its time from which a question counts as late: the limit, not the clock, has kept it."""

_AT_ONCE = 8
"""One in so many of the late ones is picked at a time: an exact order at every question would cost all of them."""


class _Watched(msgspec.Struct, gc=False):
    """A running task: `since` when its age counts, when it was last `asked`, and up to when it was `seen` to run."""

    kind: Kind
    since: float
    asked: float
    seen: float
    learns: bool


class Asks:
    """The questions of one account.

    While the limit lets every question go when it is due, they go by their time. When it does not, the late ones go by
    the waiting that each is expected to have caused by now: so the price of a call rises with the load, from
    `freshness` to whatever the limit makes of it, and falls again. Nobody starves: waiting grows with time, faster
    and faster, for everyone who is not asked.
    """

    def __init__(self, schedule: PollSchedule) -> None:
        self._schedule = schedule
        self._watched: dict[int, _Watched] = {}
        self._agenda = Agenda()
        self._late: dict[int, None] = {}
        self._turn: list[int] = []

    def __len__(self) -> int:
        return len(self._agenda) + len(self._late)

    def expect(self, job: Job, now: float, *, at_once: bool = False) -> None:
        """Set the next question about a running job: by the schedule, or now."""
        state = job.state
        assert isinstance(state, Running)
        watched = self._watched.get(job.id)
        if watched is None:
            kind = (job.model.name, job.request.images)
            # The age of a task that was named by its id is not known, and what waits for new links has ended long ago.
            learns = not state.collected and state.finished is None
            watched = self._watched[job.id] = _Watched(kind, state.since, state.since, state.since, learns)
            at_once |= state.finished is not None
        asked = watched.asked - watched.since
        self._agenda.set(job.id, now if at_once else watched.since + self._schedule.next_age(watched.kind, asked))

    def forget(self, job_id: int) -> None:
        """Ask no more about a job."""
        if self._watched.pop(job_id, None) is not None:
            self._agenda.discard(job_id)
            self._late.pop(job_id, None)

    def answered(self, job_id: int, event: TaskStatus, now: float) -> None:
        """Learn from an answer, or from there being none."""
        watched = self._watched.get(job_id)
        if watched is None:
            return
        watched.asked = now
        if not watched.learns or not isinstance(event, Pending | Succeeded | Broken):
            return
        after, age = watched.seen - watched.since, now - watched.since
        if isinstance(event, Pending):
            self._schedule.lasted(watched.kind, after, age)
            watched.seen = now
        else:
            latency = event.latency if isinstance(event, Succeeded) else None
            self._schedule.ended(watched.kind, after, age, latency)

    def heard_at(self, job: Job) -> float:
        """Loop time at which a running job was last known to be unfinished."""
        return self._watched[job.id].seen

    def next_at(self) -> float:
        """When the next question is due; infinity for never."""
        return -math.inf if self._late else self._agenda.next_at()

    def pop(self, now: float) -> int:
        """Take the job that is to be asked about first, of those that are due."""
        if not self._late and self._agenda.next_at() > now - _LATE:
            job_id = self._agenda.pop_due(now)
            assert job_id is not None
            return job_id
        while (due := self._agenda.pop_due(now)) is not None:
            self._late[due] = None
        job_id = self._first(now)
        del self._late[job_id]
        return job_id

    def _first(self, now: float) -> int:
        """Of the late ones, that with the most expected waiting, as of the last look at all of them."""
        while self._turn:
            job_id = self._turn.pop()
            if job_id in self._late:
                return job_id
        share = max(1, len(self._late) // _AT_ONCE)
        self._turn = heapq.nlargest(share, self._late, key=lambda job_id: self._waiting(job_id, now))[::-1]
        return self._turn.pop()

    def _waiting(self, job_id: int, now: float) -> float:
        watched = self._watched[job_id]
        since = watched.since
        return self._schedule.waiting(watched.kind, watched.asked - since, now - since)
