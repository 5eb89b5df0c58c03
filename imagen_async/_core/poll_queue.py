"""Whose status is asked next: every running job of an account, when it is due, and who goes first when many are."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

from .callback_reliability import CallbackReliability
from .job import Job
from .late_questions import LateQuestions
from .outlook import Outlook
from .poll_schedule import PollSchedule
from .spare_places import FEW, PART, SparePlaces
from .timer_queue import TimerQueue
from .watched import Watched, watched
from .wire import Pending, Succeeded, TaskFailed, TaskStatus

_LATE = 0.2
"""Seconds after its time from which a question counts as late: the limit, not the clock, has kept it."""

_AT_AN_ANSWER = 16
"""Questions that are set anew at an answer, at most: all at once would keep the loop, where a hundred thousand wait."""

_AGAIN = 1.0
"""Seconds after which a task that is said to have ended is asked about again: no answer came, or no links."""


class PollQueue:
    """The questions of one account.

    While the limit lets every question go when it is due, they go by their time. When it does not, the late ones go by
    the waiting that each is expected to have caused by now: so the price of a call rises with the load, from
    `freshness` to whatever the limit makes of it, and falls again. Nobody starves: waiting grows with time, faster
    and faster, for everyone who is not asked. And where the limit is hardly used, it falls further: a question may go
    before its time, on a place that is to spare.

    What the answers teach of one task holds for all others: where that is much, every question is set anew.

    A task that a callback says has ended goes first of all, once. The more callbacks can be relied upon, the longer the
    others wait for theirs.

    Args:
        schedule: Knows how long tasks take.
        spare: The places that early questions may take.
    """

    def __init__(self, schedule: PollSchedule, spare: SparePlaces) -> None:
        self._outlook = Outlook(schedule)
        self._spare = spare
        self._watched: dict[int, Watched] = {}
        # One queue for all: clients in which each job asks by itself made 272 calls for a task of 25 s (measured).
        self._timers = TimerQueue()
        # A set that keeps its order: of several the first goes first.
        self._announced: dict[int, None] = {}
        self._late = LateQuestions()
        self._stale: deque[int] = deque()

    def __len__(self) -> int:
        return len(self._timers) + len(self._late) + len(self._announced)

    @property
    def reliability(self) -> CallbackReliability:
        """How far callbacks can be relied upon."""
        return self._outlook.reliability

    def expect(self, job: Job, now: float, *, at_once: bool = False) -> None:
        """Set the next question about a running job, or one whose task a callback names: by the schedule, or now."""
        each = self._watched.get(job.id)
        if each is None:
            each = self._watched[job.id] = watched(job, is_ours=not at_once or self.reliability.come_here)
            # No schedule fits a task whose age is not known, or that has ended long ago.
            at_once |= not each.learns
        # What the last question was set for says nothing of the next: only one that goes by the schedule may be early.
        each.is_asked = each.is_early = False
        if each.is_due:
            self._announced[job.id] = None
        elif each.has_ended:
            self._timers.set(job.id, now + _AGAIN)
        elif at_once:
            self._timers.set(job.id, now)
        else:
            self._set(job.id, each, len(self._watched), now)

    def on_callback(self, job_id: int, now: float) -> None:
        """Take in a callback: ask about that job at once, before all others; a second one about it is no news."""
        each = self._watched.get(job_id)
        if each is None:
            self.reliability.came_late(job_id)
        elif each.announced_at is None:
            each.announced_at = now
            self._ask_at_once(job_id, each)

    def ask_all(self, now: float) -> None:
        """Ask about every job as soon as may be: what would have told of their ends was silent for a while."""
        for job_id, each in self._watched.items():
            if each.is_asked:
                # What is answered to a question from before may be from before, too.
                each.is_due = True
            elif not each.is_due:
                each.is_early = False
                self._late.discard(job_id)
                self._timers.set(job_id, now)

    def ask_last(self, job_id: int) -> bool:
        """Ask about a job before all others, since its time is over; False where that was granted before."""
        each = self._watched.get(job_id)
        if each is None or each.is_last:
            return False
        each.is_last = True
        self._ask_at_once(job_id, each)
        return True

    def _ask_at_once(self, job_id: int, each: Watched) -> None:
        """Let a job be asked about before all others, once."""
        if each.is_due:
            return
        each.is_due = True
        # The answer that is on its way may tell of the end already; where it does not, the next turn is this one's.
        if not each.is_asked:
            self._announced[job_id] = None
            self._timers.discard(job_id)
            self._late.discard(job_id)

    def sent_at(self, job_id: int) -> float:
        """When the last question about a job left; minus infinity where none did."""
        each = self._watched.get(job_id)
        return -math.inf if each is None else each.sent_at

    def forget(self, job_id: int) -> None:
        """Ask no more about a job."""
        if self._watched.pop(job_id, None) is not None:
            self._timers.discard(job_id)
            self._late.discard(job_id)
            self._announced.pop(job_id, None)

    def answered(self, job_id: int, event: TaskStatus, now: float) -> None:
        """Learn from an answer, or from there being none."""
        each = self._watched.get(job_id)
        if each is not None:
            self._outlook.hear(job_id, each, event, now)
            if isinstance(event, Pending) and self.reliability.come_here:
                # What was told is that of another time: the end is still to come, and to be told.
                each.announced_at = None
            has_ended = isinstance(event, Succeeded | TaskFailed)
            running = len(self._watched) - has_ended
            # What was set before is set anew: at once where the last few are left, whose way nobody is in any more.
            if self._outlook.trusts_otherwise() or (has_ended and running == FEW):
                self._set_anew(self._watched, running, now)
                return
            if self._outlook.has_moved(each):
                # Behind those that wait for that already: all have their turn, however often it moves.
                waiting = set(self._stale)
                self._stale.extend(other for other in self._watched if other not in waiting)
            if self._stale:
                some = [self._stale.popleft() for _ in range(min(_AT_AN_ANSWER, len(self._stale)))]
                self._set_anew(some, running, now)

    def heard_at(self, job: Job) -> float:
        """Loop time at which a running job was last known to be unfinished."""
        return self._watched[job.id].seen

    def next_at(self, now: float) -> float:
        """When the next question is due; infinity for never. One that is early and finds no place is put off."""
        if self._late or self._announced:
            return -math.inf
        while (at := self._timers.next_at()) <= now:
            job_id = self._timers.first()
            each = self._watched[job_id]
            if not each.is_early or self._spare.ready_at(now) <= now:
                break
            self._put_off(job_id, each, now)
        return at

    def due(self, now: float) -> int:
        """Count the questions that are due, as far as they have been met: at least one where one is."""
        return len(self._announced) + len(self._late) + (self._timers.next_at() <= now)

    def pop(self, now: float) -> int:
        """Take the job that is to be asked about first, of those that are due."""
        job_id = self._pop(now)
        each = self._watched[job_id]
        each.is_asked, each.is_due, each.sent_at = True, False, now
        return job_id

    def _pop(self, now: float) -> int:
        if self._announced:
            first = next(iter(self._announced))
            del self._announced[first]
            return first
        # While each goes at its time, or before, the order of the clock is the right one, and the cheapest.
        if not self._late and (self._timers.next_at() > now - _LATE or self._watched[self._timers.first()].is_early):
            job_id = self._timers.pop_due(now)
            assert job_id is not None
            return job_id
        self._gather_due(now)
        return self._late.pop(lambda job_id: self._outlook.waiting(self._watched[job_id], now))

    def _gather_due(self, now: float) -> None:
        """Count all as late whose time it is, just or long ago: any of them may be the likeliest to have ended."""
        while (due := self._timers.pop_due(now)) is not None:
            each = self._watched[due]
            in_time = self._outlook.time_of(each) if each.is_early else now
            if in_time > now:
                each.is_early = False
                self._timers.set(due, in_time)
            else:
                self._late.add(due)

    def _set(self, job_id: int, each: Watched, running: int, now: float) -> None:
        """Set a question by the schedule: for before its time, where that may be."""
        # Of what a callback may tell at once, no question tells sooner.
        is_told = each.announces and self.reliability.are_hoped_for
        each.is_early = not (self._late or is_told) and self._spare.suit(running, now)
        self._timers.set(job_id, self._outlook.time_of(each, PART if each.is_early else 1.0))

    def _put_off(self, job_id: int, each: Watched, now: float) -> None:
        """Have an early question, for which there is no place, wait for one, until its time at most."""
        in_time = self._outlook.time_of(each)
        early = self._spare.retry_at(len(self._watched), now)
        each.is_early = early < in_time
        self._timers.set(job_id, min(early, in_time))

    def _set_anew(self, job_ids: Iterable[int], running: int, now: float) -> None:
        """Set questions anew that go by the schedule."""
        for job_id in job_ids:
            each = self._watched.get(job_id)
            if each is not None and each.is_scheduled:
                self._late.discard(job_id)
                self._set(job_id, each, running, now)
