"""Whose status is asked next: every running job of an account, when it is due, and who goes first when many are."""

from __future__ import annotations

import heapq
import math

import msgspec

from .callback_reliability import CallbackReliability
from .job import Job
from .poll_schedule import Kind, PollSchedule
from .states import Collected, Confirming, Relinking, Running
from .timer_queue import TimerQueue
from .wire import LinksMissing, Pending, Succeeded, TaskFailed, TaskStatus, Told

_LATE = 0.2
"""Seconds after its time from which a question counts as late: the limit, not the clock, has kept it."""

_AGAIN = 1.0
"""Seconds after which a task that is said to have ended is asked about again: no answer came, or no links."""

_AT_ONCE = 8
"""One in so many of the late ones is picked at a time: an exact order at every question would cost all of them."""


class _Watched(msgspec.Struct, gc=False):
    """A running task: `since` when its age counts, when it was last `asked`, and up to when it was `seen` to run.

    `learns` where its age is known; `announces` where a callback would come to this process; `announced_at` the loop
    time of that, or None, and `is_due` until it is asked about for that; `is_asked` while a question is on its way,
    which left at `sent_at`; `is_last` once it is to be asked about for the last time;
    `is_untold` where the last one was not answered; `made_at` the loop time since which it is said to have succeeded,
    and its links are missing, or None.
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


class PollQueue:
    """The questions of one account.

    While the limit lets every question go when it is due, they go by their time. When it does not, the late ones go by
    the waiting that each is expected to have caused by now: so the price of a call rises with the load, from
    `freshness` to whatever the limit makes of it, and falls again. Nobody starves: waiting grows with time, faster
    and faster, for everyone who is not asked.

    A task that a callback says has ended goes first of all, once. The more callbacks can be relied upon, the longer the
    others wait for theirs.

    Attributes:
        reliability: How far callbacks can be relied upon.
    """

    def __init__(self, schedule: PollSchedule) -> None:
        self.reliability: CallbackReliability = CallbackReliability()
        self._schedule = schedule
        self._watched: dict[int, _Watched] = {}
        # One queue for all: clients in which each job asks by itself made 272 calls for a task of 25 s (measured).
        self._timers = TimerQueue()
        # Sets that keep their order: of several the first goes first.
        self._announced: dict[int, None] = {}
        self._late: dict[int, None] = {}
        self._turn: list[int] = []
        self._silent = 1.0

    def __len__(self) -> int:
        return len(self._timers) + len(self._late) + len(self._announced)

    def expect(self, job: Job, now: float, *, at_once: bool = False) -> None:
        """Set the next question about a running job, or one whose task a callback names: by the schedule, or now."""
        watched = self._watched.get(job.id)
        if watched is None:
            watched = self._watched[job.id] = _watched(job, is_ours=not at_once)
            # No schedule fits a task whose age is not known, or that has ended long ago.
            at_once |= not watched.learns
        watched.is_asked = False
        if watched.is_due:
            self._announced[job.id] = None
        # It is said to have ended: the schedule is for tasks of which nobody knows.
        elif watched.made_at is not None or (watched.announced_at is not None and watched.is_untold):
            self._timers.set(job.id, now + _AGAIN)
        else:
            self._timers.set(job.id, now if at_once else self._next_at(watched))

    def on_callback(self, job_id: int, now: float) -> None:
        """Take in a callback: ask about that job at once, before all others; a second one about it is no news."""
        watched = self._watched.get(job_id)
        if watched is None:
            self.reliability.came_late(job_id)
        elif watched.announced_at is None:
            watched.announced_at = now
            self._ask_at_once(job_id, watched)

    def ask_last(self, job_id: int) -> bool:
        """Ask about a job before all others, since its time is over; False where that was granted before."""
        watched = self._watched.get(job_id)
        if watched is None or watched.is_last:
            return False
        watched.is_last = True
        self._ask_at_once(job_id, watched)
        return True

    def _ask_at_once(self, job_id: int, watched: _Watched) -> None:
        """Let a job be asked about before all others, once."""
        if watched.is_due:
            return
        watched.is_due = True
        # The answer that is on its way may tell of the end already; where it does not, the next turn is this one's.
        if not watched.is_asked:
            self._announced[job_id] = None
            self._timers.discard(job_id)
            self._late.pop(job_id, None)

    def sent_at(self, job_id: int) -> float:
        """When the last question about a job left; minus infinity where none did."""
        watched = self._watched.get(job_id)
        return -math.inf if watched is None else watched.sent_at

    def forget(self, job_id: int) -> None:
        """Ask no more about a job."""
        if self._watched.pop(job_id, None) is not None:
            self._timers.discard(job_id)
            self._late.pop(job_id, None)
            self._announced.pop(job_id, None)

    def answered(self, job_id: int, event: TaskStatus, now: float) -> None:
        """Learn from an answer, or from there being none."""
        watched = self._watched.get(job_id)
        if watched is None:
            return
        # Whatever came of it, and were it nothing: the next question comes by the schedule, and not at once.
        watched.asked = now
        watched.is_untold = not isinstance(event, Told)
        ended_at = now if watched.made_at is None else watched.made_at
        if isinstance(event, LinksMissing | Pending):
            watched.made_at = None if isinstance(event, Pending) else ended_at
        if not watched.learns:
            return
        # From when it was seen to run, not from when it was asked about: no answer is no word on that.
        if isinstance(event, Pending):
            self._schedule.lasted(watched.kind, watched.seen - watched.since, now - watched.since)
            # Only an answer moves it: a question that brought none is not taken for a task that still ran.
            watched.seen = now
        elif isinstance(event, Succeeded | TaskFailed):
            self._ended(job_id, watched, event, ended_at)

    def _ended(self, job_id: int, watched: _Watched, event: Succeeded | TaskFailed, ended_at: float) -> None:
        """Learn from a task that had ended by then."""
        latency = event.latency if isinstance(event, Succeeded) else None
        if latency is None and watched.announced_at is not None:
            # A callback comes when the task ends; the answer, when the limit had room for the question.
            latency = watched.announced_at - watched.since
        self._schedule.ended(watched.kind, watched.seen - watched.since, ended_at - watched.since, latency)
        # Callbacks about another process's tasks go there: to miss them here says nothing.
        if watched.announces:
            self._learn(job_id, announced=watched.announced_at is not None)

    def heard_at(self, job: Job) -> float:
        """Loop time at which a running job was last known to be unfinished."""
        return self._watched[job.id].seen

    def next_at(self) -> float:
        """When the next question is due; infinity for never."""
        return -math.inf if self._late or self._announced else self._timers.next_at()

    def due(self, now: float) -> int:
        """Count the questions that are due, as far as they have been met: at least one where one is."""
        return len(self._announced) + len(self._late) + (self._timers.next_at() <= now)

    def pop(self, now: float) -> int:
        """Take the job that is to be asked about first, of those that are due."""
        job_id = self._pop(now)
        watched = self._watched[job_id]
        watched.is_asked, watched.is_due, watched.sent_at = True, False, now
        return job_id

    def _pop(self, now: float) -> int:
        if self._announced:
            first = next(iter(self._announced))
            del self._announced[first]
            return first
        # While each goes at its time, the order of the clock is the right one, and the cheapest.
        if not self._late and self._timers.next_at() > now - _LATE:
            job_id = self._timers.pop_due(now)
            assert job_id is not None
            return job_id
        # All that are due, not just the late: any of them may be the likeliest to have ended.
        while (due := self._timers.pop_due(now)) is not None:
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
        if watched.made_at is not None:
            return now - watched.asked  # by now its links will be there
        return self._schedule.waiting(
            watched.kind, watched.asked - since, now - since, self._chance_of_callback(watched)
        )

    def _next_at(self, watched: _Watched) -> float:
        asked = watched.asked - watched.since
        return watched.since + self._schedule.next_age(watched.kind, asked, self._chance_of_callback(watched))

    def _chance_of_callback(self, watched: _Watched) -> float:
        """How likely a callback is to come yet, once the task ends."""
        return self.reliability.share if watched.announces and watched.announced_at is None else 0.0

    def _learn(self, job_id: int, *, announced: bool) -> None:
        """Learn how an end became known; where that changes much, set every question anew."""
        self.reliability.ended(job_id, announced)
        silent = 1 - self.reliability.share
        # To set all of them anew is work, worth it only where the share has changed by half.
        if 0.5 < silent / self._silent < 2:
            return
        self._silent = silent
        for each, watched in self._watched.items():
            # Who is to be asked about at once has its turn already: a time as well would be a second one.
            is_timed = not (watched.is_asked or watched.is_due)
            if watched.announces and watched.announced_at is watched.made_at is None and is_timed:
                self._late.pop(each, None)
                self._timers.set(each, self._next_at(watched))


def _watched(job: Job, *, is_ours: bool) -> _Watched:
    """What there is to know of a task when it is met; `is_ours` where this process has seen its create accepted."""
    kind = (job.model.name, job.request.images)
    if isinstance(job.state, Confirming):
        since = job.state.since
        # A callback has told of it already; and its age, counted from the loss of an answer, teaches nothing.
        return _Watched(kind, since, since, since, learns=False, announces=False, announced_at=since)
    assert isinstance(job.state, Running)
    since = job.state.since
    # The age of a task that was named by its id is not known, and what waits for new links has ended long ago.
    learns = not isinstance(job.state, Collected | Relinking)
    return _Watched(kind, since, since, since, learns, announces=learns and is_ours)
