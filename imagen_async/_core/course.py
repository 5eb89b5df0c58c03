"""The course of jobs: lets things happen to them, keeps the books, puts them where they belong, tells what changed."""

from __future__ import annotations

from .change import Change
from .job import Job
from .job_events import Added, Event, Expired, NobodyTakes, OverBudget, OwnerWithholds, Readmitted, Turn
from .machine import advance
from .places import Places
from .spending import Spending
from .states import AwaitingCallback, BeingAsked, Ended, Queued
from .upstream import Upstreams
from .wording import used_up

_ENDS = frozenset(Ended.__subclasses__())

LAST_WORD = 5.0
"""Seconds that it may take then until the question goes out, or its callback is read: its picture may be there."""


class Course:
    """Carries out what the machine says of each event, for all jobs of a plan.

    Args:
        upstreams: The accounts.
        spending: The owners' budgets.
        places: Where each job waits.
    """

    def __init__(self, upstreams: Upstreams, spending: Spending, places: Places) -> None:
        self._upstreams = upstreams
        self._spending = spending
        self._places = places
        # Who wants nothing more to be sent: that meets also what comes to wait later, after a refusal or a failure.
        self._withholding: set[int] = set()
        # Who has waited longer for a callback, for that the end of the waiting was seen late: once a job.
        self._listened: set[int] = set()
        self._changes: list[Change] = []

    def withhold(self, owner: int) -> None:
        """Let every job of an owner that comes to wait to be sent from now on be withheld."""
        self._withholding.add(owner)

    def forget(self, owner: int) -> None:
        """Know nothing more of an owner."""
        self._withholding.discard(owner)
        self._spending.forget(owner)
        self._places.to_send.forget(owner)

    def arrive(self, job: Job, now: float) -> None:
        """Take in a job, as it is."""
        self._spending.arrives(job)
        self._places.store(job)
        self._changes.append(Change(None, job, Added()))
        self.put(job, now, arrives=True)

    def tell(self, job: Job, turn: Turn) -> None:
        """Say that a job talks, which changes nothing of it yet."""
        self._changes.append(Change(job, job, turn))

    def happen(self, job: Job, event: Event, now: float) -> None:
        """Let something happen to a job that waits, or talks."""
        after = advance(job, event, now)
        # Where it waits is as it was: it keeps its place in the line, and its times.
        if after.state is job.state or isinstance(event, Readmitted):
            if after is not job:
                self._places.store(after)
                self._changes.append(Change(job, after, event))
            return
        self._places.take_out(job)
        self._note(Change(job, after, event))
        self.put(after, now, arrives=True)

    def expire(self, job: Job, now: float) -> None:
        """Let a job's time be over; where that is seen late, its task is asked about, or heard of, once more before."""
        if job.is_late(now) and self._has_last_word(job):
            # An answer past its time ends it, whatever it says; this is for the case that none comes.
            self._places.expiries.set(job.id, now + LAST_WORD)
        else:
            self.happen(job, Expired(), now)

    def _has_last_word(self, job: Job) -> bool:
        if isinstance(job.state, AwaitingCallback):
            # What was announced while the process stood still waits in the kernel to be read.
            is_first = job.id not in self._listened
            self._listened.add(job.id)
            return is_first
        upstream = self._upstreams[job.account]
        upstream.touch()
        return isinstance(job.state, BeingAsked) and upstream.poll_queue.ask_last(job.id)

    def move(self, job: Job, event: Event, now: float) -> Job:
        """Let what came of a job's talk happen to it; where it belongs then is still to be said, with `put`."""
        after = advance(job, event, now)
        self._note(Change(job, after, event))
        return after

    def _note(self, change: Change) -> None:
        if change.after is not change.before:
            self._spending.settle(change)
            self._places.store(change.after)
        self._changes.append(change)

    def put(self, job: Job, now: float, *, arrives: bool, keeps_turn: bool = False) -> None:
        """Put a job where it belongs, as `Places.put` does; one that nobody sends, though it waits, ends at once."""
        kind = type(job.state)
        if kind in _ENDS:
            self._end(job)
            return
        if kind is Queued:
            # The caller's wish first: nobody waits for a word about the accounts any more.
            event = OwnerWithholds() if job.owner in self._withholding else self._refusal(job)
            if event is not None:
                after = self.move(job, event, now)
                # In the place of its model another may take it.
                self.put(after, now, arrives=arrives, keeps_turn=keeps_turn)
                return
        self._places.put(job, now, arrives=arrives, keeps_turn=keeps_turn)

    def _end(self, job: Job) -> None:
        self._listened.discard(job.id)
        self._places.end(job)

    def _refusal(self, job: Job) -> NobodyTakes | None:
        refusals = self._upstreams.refusals(job.way)
        return None if refusals is None else NobodyTakes(refusals)

    def turn_away(self, now: float) -> None:
        """End the queued jobs that no account takes any more, now that one takes less."""
        for job_id in list(self._places.to_send.unwanted()):
            job = self._places.jobs[job_id]
            refusal = self._refusal(job)
            assert refusal is not None
            self.happen(job, refusal, now)

    def end_unaffordable(self, now: float) -> None:
        """End the queued jobs of an owner whose budget is used up."""
        for job_id in list(self._places.to_send.unaffordable()) if self._spending else ():
            job = self._places.jobs[job_id]
            budget = self._spending.of(job.owner)
            assert budget is not None
            self.happen(job, OverBudget(used_up(budget.limit, budget.spent)), now)

    def drain(self) -> list[Change]:
        """Take out what has changed, in the order in which it happened."""
        changes, self._changes = self._changes, []
        return changes
