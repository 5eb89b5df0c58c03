"""The pure scheduler: every live job, who may talk now, and when to look again."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import get_args

import msgspec

from .budget import Budget
from .change import Change
from .course import Course
from .job import Job
from .job_events import (
    CallbackNamed,
    Event,
    FetchBegun,
    Leaves,
    NothingLeft,
    NotSaved,
    Owners,
    OwnerWithholds,
    Prepared,
    Readmitted,
    Saved,
    StatusAsked,
    Taken,
    TurnMissed,
)
from .limiter import Limiter
from .live_jobs import LiveJobs
from .machine import advance
from .places import Places
from .poll_schedule import Kind
from .routing import Offer
from .spending import Spending
from .states import Claimed, Fetching, Noting, Preparing, Running
from .submit_queue import SubmitQueue
from .upstream import Upstream, Upstreams, answers_of
from .wire import Created, Lost, NoAnswer, Rejected, Remedy, TaskFailed, TaskStatus

replace = msgspec.structs.replace

# By its very type: that an object is none of a record's takes ten times as long to find out as what it is.
_STATUSES = frozenset(get_args(TaskStatus))
_UNSENT = frozenset(get_args(NothingLeft))
_PASSING = frozenset({Remedy.BACK_OFF, Remedy.PAUSE, Remedy.REPEAT, Remedy.STOP, Remedy.CLOSE_MODEL})
"""Refusals for the account's sake, not for the request's."""
_JUDGED = frozenset({NoAnswer, Rejected, Lost})
"""Answers that the account sees in the light of the earlier ones."""


class OwnerTerms(msgspec.Struct, frozen=True):
    """What the jobs of one owner may do, and what its earlier runs know of the accounts.

    Attributes:
        budget: What they may spend, or None. What was spent for jobs that come in finished is in it already.
        sent: Loop times at which the places are free again that an earlier process took, by account.
        asked: Loop time at which that may have made the last of a window's status calls, by account.
        latencies: How long an account's latest tasks took, by kind, oldest first.
    """

    budget: Budget | None = None
    sent: Mapping[str, Iterable[float]] = {}
    asked: Mapping[str, float] = {}
    latencies: Mapping[str, Iterable[tuple[Kind, float]]] = {}


class Plan:
    """Whose turn it is.

    `take` hands out the jobs that may talk now, `settle` says what came of it. Both, and whatever else may change a
    job, return every change that follows, in the order in which they happened; who has ended is kept no more. Time is
    an argument everywhere, in seconds of one clock.

    Args:
        upstreams: The accounts.
        saving_at_once: Jobs whose pictures may be fetched at once.
        expects_callbacks: True where callbacks are asked for: then a job whose create was lost waits for one.

    Attributes:
        upstreams: The accounts, by name.
        to_send: Those who wait to be sent; only to be asked.
        shares_limits: True where places must be awaited, since others share them.
    """

    def __init__(self, upstreams: Iterable[Upstream], saving_at_once: int, *, expects_callbacks: bool = False) -> None:
        self.upstreams: Upstreams = Upstreams(upstreams)
        self._sharing = [each for each in self.upstreams.values() if each.submit.is_shared or each.status.is_shared]
        # Mostly none are shared, and then a look at the plan costs no question about leases.
        self.shares_limits: bool = bool(self._sharing)
        self._spending = Spending()
        self._places = Places(self.upstreams, self._spending, saving_at_once)
        self._jobs = self._places.jobs
        self.to_send: SubmitQueue = self._places.to_send
        self._course = Course(self.upstreams, self._spending, self._places)
        self._expects_callbacks = expects_callbacks
        for upstream in self.upstreams.values():
            upstream.poll_queue.reliability.are_asked_for = expects_callbacks

    @property
    def jobs(self) -> LiveJobs:
        """Every live job, by its id; only to be looked at."""
        return self._jobs

    def wants_more(self, owner: int) -> bool:
        """Say whether an owner should add more jobs."""
        return self._places.to_send.wants_more(owner)

    def wants_places(self, now: float) -> Iterator[tuple[Limiter, int]]:
        """The limits whose places must be awaited, as others share them, and how many requests find none at hand."""
        for upstream in self._sharing:
            lacking = upstream.lacks_places(now)
            waiting = self._places.to_send.waiting_for(upstream.name) if lacking else 0
            if waiting:
                yield upstream.submit, min(waiting, lacking)
            if upstream.status.is_shared and upstream.due_at(now) <= now < upstream.status.ready_at(now):
                yield upstream.status, upstream.due(now)

    def callback_wait(self, job: Job) -> float:
        """Seconds from a create for which a callback may tell of a task whose answer was lost; 0: none will."""
        return self.upstreams.callback_wait(job) if self._expects_callbacks else 0.0

    def open(self, owner: int, terms: OwnerTerms) -> None:
        """Say on what terms an owner's jobs come in; before the first of them is added."""
        if terms.budget is not None:
            self._spending.limit(owner, terms.budget)
        for account, free_at in terms.sent.items():
            # What an earlier process has sent is still in the server's window.
            self.upstreams[account].submit.preload(free_at)
        for account, asked_at in terms.asked.items():
            # What is shared is counted by those that share it.
            if not self.upstreams[account].status.is_shared:
                self.upstreams[account].status.block(asked_at)
        for account, latencies in terms.latencies.items():
            self.upstreams[account].schedule.recall(latencies)
        for account in {*terms.sent, *terms.asked}:
            self.upstreams[account].touch()

    def add(self, job: Job, now: float) -> list[Change]:
        """Take in a queued job, a running one that is to be collected, or a finished one that is to be saved."""
        self._course.arrive(job, now)
        return self._course.drain()

    def take(self, now: float) -> list[Change]:
        """Let every job talk that may now: each change by a `Turn` is to be settled once, with what came of it."""
        # First, so that nobody is sent or asked about in the very look in which its time is over.
        while (expired := self._places.expiries.pop_due(now)) is not None:
            self._course.expire(self._jobs[expired], now)
        while (found := self._places.to_send.next(now)) is not None:
            self._send(*found, now)
        # After the sending: what has just been reserved may come back, and then there is room again.
        self._course.end_unaffordable(now)
        for upstream in self._places.to_ask(now):
            self._ask(upstream, now)
        while (job_id := self._places.to_save.pop()) is not None:
            self._course.tell(self._jobs[job_id], FetchBegun())
        return self._course.drain()

    def wake_at(self, now: float) -> float:
        """When `take` or `wants_places` will have something, if nothing happens before; infinity for never."""
        wake_at = self._places.wake_at(now)
        for upstream in self._sharing:
            # Who finds no place at hand waits for a lease, which begins when a question is due, or a pause is over.
            begins = (upstream.due_at(now), upstream.breaker.paused_until)
            wake_at = min(wake_at, *(at for at in begins if at > now), math.inf)
        return wake_at

    def leaves(self, job: Job, now: float) -> list[Change]:
        """Say that a create leaves now: its connection is in hand. Nothing where it may not: no byte of it may leave.

        Not when its caller left or withheld it meanwhile, when its time is over, nor when a callback has told the task
        of an earlier, lost one of the job. From here on, its answer lost, nobody can tell whether it made a task.
        """
        live = self._jobs.get(job.id)
        # The very state of this turn: a later turn of the same job has another one.
        is_its_turn = live is not None and live.state is job.state and isinstance(live.state, Noting)
        if live is None or not is_its_turn or live.is_due(now):
            return []
        self._course.move(live, Leaves(), now)
        return self._course.drain()

    def settle(self, job: Job, event: Event, now: float) -> list[Change]:
        """Note what came of a job's talk; nothing where it had ended meanwhile."""
        # Before anything is learned from it: whether a key was good is known by the answers before this one.
        if type(event) in _JUDGED:
            event = self._judge(job, event, now)
        live = self._jobs.get(job.id)
        # A callback may have called the turn off, and a later one begun: what came of the first says nothing of that.
        is_called_off = live is None or live.state is not job.state
        if type(event) is Prepared and is_called_off:
            event = TurnMissed()  # its create does not go: the place is free
        is_stale = is_called_off and (type(event) in _UNSENT or type(job.state) is Preparing)
        # Also for a job that has ended meanwhile: its talk has held a connection and a place.
        takes_less = self._release(job, event, now)
        if live is not None and not is_stale:
            tells_of = answers_of(self.upstreams[job.account], live, now) if type(event) in _STATUSES else now
            after = self._course.move(live, event, tells_of)
            self._course.put(after, now, arrives=False, keeps_turn=_came_to_nothing(live, event))
            # Its end was announced before its create was answered.
            if type(live.state) is Claimed and live.state.claim.create == live.attempts:
                self._ask_at_once(after, now)
        if takes_less:
            self._course.turn_away(now)
        return self._course.drain()

    def tell(self, job_id: int, event: CallbackNamed | Readmitted | TaskFailed, now: float) -> list[Change]:
        """Let a live job have what happens to it beside its talk."""
        if job_id in self._jobs:
            self._course.happen(self._jobs[job_id], event, now)
        return self._course.drain()

    def tell_all(self, owner: int, event: Owners, now: float) -> list[Change]:
        """Let all jobs of an owner have what it wants: no more creates, to be left, or to be given up."""
        # Before the jobs hear it: from now on it meets those that come in, or back, as well.
        if isinstance(event, OwnerWithholds):
            self._course.withhold(owner)
        for job in self._jobs.of(owner):
            self._course.happen(job, event, now)
        return self._course.drain()

    def forget(self, owner: int) -> None:
        """Know nothing more of an owner, of whom no job lives."""
        self._course.forget(owner)

    def on_callback(self, job_id: int, account: str, create: int, task_id: str | None, now: float) -> list[Change]:
        """Take in a callback about a job: if that lives, its task is asked about at once, once.

        Args:
            job_id: Whose.
            account: The account that has the job, as far as whoever calls knows.
            create: Which create the callback is about, by its number.
            task_id: The task that it names, if any.
            now: Loop time.

        Returns:
            What has changed, where something new is known of the job; else nothing.
        """
        job = self._jobs.get(job_id)
        if job is None:
            # A status call may have found its end just before: then its callback was as good as one in time.
            if account in self.upstreams:
                self.upstreams[account].poll_queue.reliability.came_late(job_id)
            return []
        # Whether it is news is asked first: a flood of callbacks is not to cost a look at all jobs each.
        if task_id is not None and advance(job, CallbackNamed(create, task_id), now) is not job:
            return (
                []
                # A task that another job has was not made by this create: it clears nothing up.
                if self._jobs.has_another(task_id, job)
                else self.tell(job_id, CallbackNamed(create, task_id), now)
            )
        # One about an earlier create, or another task, says nothing of the task that runs.
        if create == job.attempts and task_id in (None, job.task_id):
            self._ask_at_once(job, now)
        return []

    def _ask_at_once(self, job: Job, now: float) -> None:
        if isinstance(job.state, Running | Fetching):
            self.upstreams[job.account].poll_queue.on_callback(job.id, now)
            self.upstreams[job.account].touch()

    def _send(self, offer: Offer, job_id: int, now: float) -> None:
        job = self._jobs[job_id]
        self._places.send(job)
        # Before the next one is chosen in the same look: both would count on the same credits.
        self._spending.leaves(job, offer)
        self.upstreams[offer.account].take_submit(now)
        # Put nowhere: who talks waits for nothing, until what came of that is settled.
        self._course.move(job, Taken(offer), now)

    def _ask(self, upstream: Upstream, now: float) -> None:
        if upstream.errands:
            upstream.let_errand_go(now)
            return
        job = self._jobs[upstream.poll_queue.pop(now)]
        upstream.take_status(now)
        # Not given up while the question is on its way: a late picture is a picture.
        self._places.expiries.discard(job.id)
        self._course.tell(job, StatusAsked())

    def _judge(self, job: Job, event: Event, now: float) -> Event:
        """Let the account see an answer in the light of the earlier ones, before anything follows from it."""
        breaker = self.upstreams[job.account].breaker
        match event:
            case NoAnswer():
                return breaker.judge_status(event, now)
            case Rejected():
                event = breaker.judge(event, job.model.name)
                # Only one that was lost before has a callback to wait for.
                if getattr(job.state, "fallback", None) is None:
                    return event
            # Nothing to judge, but a callback may tell of it yet.
            case Lost():
                pass
            case _:
                return event
        return replace(event, callback_wait=self.callback_wait(job)) if self._expects_callbacks else event

    def _release(self, job: Job, event: Event, now: float) -> bool:
        """Give back the place that the talk took, and let the account learn from it; True where it takes less now."""
        upstream = self.upstreams[job.account]
        if isinstance(event, TaskStatus):
            # Of answers about tasks only one stops an account: that one gave it back.
            stopped = upstream.breaker.stopped
            upstream.settle_status(job.id, event, now)
            return upstream.breaker.stopped is not stopped
        if isinstance(event, Created | NothingLeft):
            closures = upstream.breaker.closures
            upstream.settle_submit(event, job.model.name, now)
            return upstream.breaker.closures != closures
        if isinstance(event, Saved | NotSaved):
            self._places.to_save.settled()
        return False


def _came_to_nothing(job: Job, event: Event) -> bool:
    """True where a job that talks has had its turn for nothing, by what came of it."""
    if type(event) is Rejected:
        return type(job.state) is Preparing or event.remedy in _PASSING
    return type(event) in _UNSENT
