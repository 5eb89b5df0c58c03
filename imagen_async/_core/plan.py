"""The pure scheduler: every live job, who may talk now, and when to look again."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping

import msgspec

from ..errors import ImagenError, ProtocolError
from . import transitions
from .budget import Budget
from .job import (
    Event,
    Final,
    Held,
    Job,
    NotSaved,
    Queued,
    Ready,
    Running,
    Saved,
    SendAborted,
    State,
    Submitting,
    Unknown,
)
from .routing import Offer, Route
from .submit_queue import SubmitQueue
from .timer_queue import TimerQueue
from .upstream import Upstream
from .wire import ConnectFailed, Lost, NoAnswer, Pending, Rejected, Succeeded, TaskFailed, TaskRefused
from .wording import used_up

_AT_THE_PROVIDER = (Submitting, Running)
"""States of a task that runs, or that a create on the way may come to make."""


class Plan:
    """Whose turn it is.

    `take` hands out the jobs that may talk now, `settle` says what came of it, `finished` collects the jobs that
    ended. Time is an argument everywhere, in seconds of one clock.

    Args:
        upstreams: The accounts.
        saving_at_once: Jobs whose pictures may be fetched at once.
        hears: True where callbacks are asked for: then a job whose create was lost waits for one.

    Attributes:
        upstreams: The accounts, by name.
        finished: Jobs in a final state, for the shell to deliver and take out.
    """

    def __init__(self, upstreams: Iterable[Upstream], saving_at_once: int, *, expects_callbacks: bool = False) -> None:
        self.upstreams: dict[str, Upstream] = {upstream.name: upstream for upstream in upstreams}
        self.finished: deque[Job] = deque()
        self._jobs: dict[int, Job] = {}
        self._submit_queue = SubmitQueue(self.upstreams, self._jobs)
        self._budgets: dict[int, Budget] = {}
        self._leaving: set[int] = set()
        self._withheld: set[int] = set()
        self._begun: set[int] = set()
        self._expiries = TimerQueue()
        self._to_save: deque[int] = deque()
        self._saving = 0
        self._saving_at_once = saving_at_once
        self._expects_callbacks = expects_callbacks

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def jobs(self) -> Iterable[Job]:
        """Every live job."""
        return self._jobs.values()

    @property
    def is_open(self) -> bool:
        """True while some account takes creates."""
        return any(upstream.stopped is None for upstream in self.upstreams.values())

    def wants_more(self, owner: int) -> bool:
        """Say whether an owner should add more jobs."""
        return self._submit_queue.wants_more(owner)

    def preferred(self, route: Route) -> set[str]:
        """The accounts of a route that go first as things are: those of the best rank that is open and not paused."""
        offers = self._submit_queue.open_offers(route)
        offers = [offer for offer in offers if not self.upstreams[offer.account].is_paused] or offers
        best = min((offer.rank for offer in offers), default=0)
        return {offer.account for offer in offers if offer.rank == best}

    def limit_spending(self, owner: int, budget: Budget) -> None:
        """Let an owner's jobs spend no more than that; before the first of them is added.

        What was spent for jobs that come in finished is to be in it already.
        """
        self._budgets[owner] = budget

    def add(self, job: Job, now: float) -> None:
        """Take in a queued job, a running one that is to be collected, or a finished one that is to be saved."""
        budget = self._budgets.get(job.owner)
        if budget is not None and isinstance(job.state, Running):
            budget.reserve(job, Offer(job.account, job.model))
        self._place(job, now, arrives=True)

    def take(self, now: float) -> list[Job]:
        """Hand out every job that may talk now; each is to be settled once."""
        self._expire(now)
        taken: list[Job] = []
        while (found := self._submit_queue.next(now)) is not None:
            taken.append(self._send(*found, now))
        self._end_unaffordable()
        for upstream in self.upstreams.values():
            while upstream.ask_at(now) <= now:
                taken.append(self._ask(upstream, now))
        while self._to_save and self._saving < self._saving_at_once:
            self._saving += 1
            taken.append(self._jobs[self._to_save.popleft()])
        return taken

    def wake_at(self, now: float) -> float:
        """When `take` will have something, if nothing is settled or added before; infinity for never."""
        poll_queue = (upstream.ask_at(now) for upstream in self.upstreams.values())
        return min(self._expiries.next_at(), self._submit_queue.wake_at(now), *poll_queue)

    def may_send(self, job: Job) -> bool:
        """Say whether a create that was handed out may still go.

        Not when its caller left meanwhile, nor when a callback has told the task of an earlier, lost one of the job.
        """
        match self._jobs.get(job.id):
            case Job(state=Submitting(told=None)):
                return job.id not in self._leaving and job.owner not in self._withheld
        return False

    def begin_create(self, job: Job) -> None:
        """Note that a create leaves now: from here on, its answer lost, nobody can tell whether it made a task."""
        self._begun.add(job.id)

    def has_begun(self, job_id: int) -> bool:
        """True from when a job's create has left until its answer is settled."""
        return job_id in self._begun

    def allow(self, job_id: int, like: Job, *, given_up: bool = False) -> None:
        """Let a live job that was taken up without leave to be sent again have it.

        Args:
            job_id: Whose.
            like: The job as this run would have made it: its retries, its resubmits, its route.
            given_up: As in Running, if it is that.
        """
        job = self._jobs.get(job_id)
        if job is None:
            return
        if given_up and isinstance(job.state, Running):
            job = job.to(msgspec.structs.replace(job.state, given_up=True))
        # What was lost may be at its own account; there the two tasks would stand side by side.
        route = (like.way.only(job.account) if job.lost else None) or like.route
        self._jobs[job_id] = msgspec.structs.replace(job, retries=like.retries, resubmits=like.resubmits, route=route)

    def settle(self, job: Job, event: Event, now: float) -> Job | None:
        """Note what came of a job's talk; returns the job as it is now, or None when it had ended meanwhile."""
        event = self._judge(job, event, now)
        self._release(job, event, now)
        self._begun.discard(job.id)
        if job.id not in self._jobs:
            return None
        before = self._jobs[job.id]
        moved = self._held_back(transitions.advance(before, event, now), now)
        self._pay(job, event, moved)
        if job.id in self._leaving and not isinstance(moved.state, Final):
            moved = moved.to(transitions.left(moved))
        self._place(moved, now, arrives=False)
        if isinstance(before.state, Submitting) and before.state.create == before.attempts:
            self._call(moved, now)
        return moved

    def find(self, job_id: int) -> Job | None:
        """A live job."""
        return self._jobs.get(job_id)

    def hear(self, job_id: int, create: int, task_id: str | None, now: float) -> Job | None:
        """Take in a callback about a live job: its task is asked about at once, once.

        Args:
            job_id: Whose.
            create: Which create the callback is about, by its number.
            task_id: The task that it names, if any.
            now: Loop time.

        Returns:
            The job as it is now, where something new is known of it that a journal is to keep; else None.
        """
        job = self._jobs.get(job_id)
        if job is None:
            return None
        moved = job if task_id is None else transitions.told(job, create, task_id, now)
        if task_id is not None and moved is not job and self._has_task(task_id, but=job):
            return None
        if moved is job:
            if create == job.attempts and task_id in (None, job.task_id):
                self._call(job, now)
            return None
        if isinstance(job.state, Submitting):
            self._store(moved)
            return moved
        if isinstance(job.state, Queued):
            self._submit_queue.remove(job_id)
        self._place(moved, now, arrives=True)
        return moved

    def _has_task(self, task_id: str, but: Job) -> bool:
        """True where another job of the account has that task."""
        return any(job.task_id == task_id and job.account == but.account and job.id != but.id for job in self.jobs)

    def heard_late(self, account: str, job_id: int) -> None:
        """Learn of a callback about a job that has ended."""
        if account in self.upstreams:
            self.upstreams[account].poll_queue.reliability.came_late(job_id)

    def _call(self, job: Job, now: float) -> None:
        if isinstance(job.state, Running | Ready):
            self.upstreams[job.account].poll_queue.call(job.id, now)

    def _held_back(self, job: Job, now: float) -> Job:
        """Let a job wait for a callback whose create was lost, where one may come."""
        if not isinstance(job.state, Unknown) or not (wait := self.callback_wait(job)):
            return job
        until = min(now + wait, math.inf if job.expires_at is None else job.expires_at)
        return job.to(Held(job.state.error, since=now, until=until))

    def callback_wait(self, job: Job) -> float:
        """Seconds from a create for which a callback may tell of a task whose answer was lost; 0: none will."""
        return (
            self.upstreams[job.account].callback_wait((job.model.name, job.request.images))
            if self._expects_callbacks
            else 0.0
        )

    def withhold(self, owner: int) -> None:
        """Send no more creates for an owner; what is on the way, runs or is saved goes on."""
        self._withheld.add(owner)
        for job in self._jobs_of(owner):
            if isinstance(job.state, Queued):
                self._drop(job, transitions.left(job))

    def leave(self, owner: int) -> None:
        """Stop sending and asking for an owner's jobs. One whose create is on the way is kept until it is settled."""
        for job in self._jobs_of(owner):
            if isinstance(job.state, Submitting):
                self._leaving.add(job.id)
            else:
                self._drop(job, transitions.left(job))

    def abandon(self, owner: int) -> None:
        """Give up the answers that `leave` kept waiting for: those creates are unknown."""
        self._withheld.discard(owner)
        self._budgets.pop(owner, None)
        for job in self._jobs_of(owner):
            if job.id not in self._begun:
                ended = transitions.advance(job, SendAborted(), 0.0)
                self._finish(ended if isinstance(ended.state, Final) else ended.to(transitions.left(ended)))
                continue
            self._finish(transitions.cut_off(job, ProtocolError("the program left before the answer came")))

    def _jobs_of(self, owner: int) -> list[Job]:
        return [job for job in self._jobs.values() if job.owner == owner]

    def _send(self, offer: Offer, job_id: int, now: float) -> Job:
        self._submit_queue.remove(job_id)
        job = self._jobs[job_id]
        if offer.account != job.account:
            job = msgspec.structs.replace(job, account=offer.account, model=offer.model)
        job = transitions.start(job, now)
        budget = self._budgets.get(job.owner)
        if budget is not None:
            budget.reserve(job, offer)
        self.upstreams[offer.account].spend_submit(now)
        self._store(job)
        self._expiries.discard(job.id)
        return job

    def _ask(self, upstream: Upstream, now: float) -> Job:
        job_id = upstream.poll_queue.pop(now)
        upstream.spend_status(now)
        self._expiries.discard(job_id)
        return self._jobs[job_id]

    def _pay(self, job: Job, event: Event, moved: Job) -> None:
        """Let the budget know what an answer means for it."""
        budget = self._budgets.get(job.owner)
        match event:
            case _ if budget is None or (isinstance(moved.state, Held) and moved.lost > job.lost):
                pass  # a create that was lost stays reserved while it may be told of
            case Rejected() | ConnectFailed() | SendAborted():
                budget.release(job.id)
            case Succeeded(credits=credits) | TaskFailed(credits=credits):
                budget.settle(job.id, credits)
            case Lost():
                budget.settle(job.id, None)
            case TaskRefused() if isinstance(moved.state, Queued):
                # Given up, and to be replaced: nobody knows what it has cost.
                budget.settle(job.id, None)

    def _judge(self, job: Job, event: Event, now: float) -> Event:
        """Let the account see an answer in the light of the earlier ones, before anything follows from it."""
        upstream = self.upstreams[job.account]
        match event:
            case Rejected():
                return upstream.judge(event, job.model.name)
            case NoAnswer():
                return upstream.judge_status(event, now)
        return event

    def _release(self, job: Job, event: Event, now: float) -> None:
        """Give back the place that the talk took, and let the account learn from it."""
        upstream = self.upstreams[job.account]
        match event:
            case Saved() | NotSaved():
                self._saving -= 1
            case Pending() | Succeeded() | TaskFailed() | TaskRefused() | NoAnswer():
                upstream.settle_status(job.id, event, now)
            case _:
                was_open = (upstream.stopped, len(upstream.closed_models))
                upstream.settle_submit(event, job.model.name, now)
                if (upstream.stopped, len(upstream.closed_models)) != was_open:
                    self._turn_away()

    def _place(self, job: Job, now: float, *, arrives: bool) -> None:
        """Put a job where its state belongs; one that arrives from outside is queued last, or asked about at once."""
        upstream = self.upstreams[job.account]
        self._store(job)
        match job.state:
            case Running() | Held(told=str()):
                upstream.poll_queue.expect(job, now, at_once=arrives)
            case _:
                upstream.poll_queue.forget(job.id)
        match job.state:
            case Queued():
                self._enqueue(job, at_front=not arrives)
            case Running() | Held():
                pass
            case Ready():
                self._to_save.append(job.id)
            case _:
                self._finish(job)
                return
        if job.due is not None and job.id in self._jobs and not isinstance(job.state, Ready):
            self._expiries.set(job.id, job.due)

    def _enqueue(self, job: Job, *, at_front: bool) -> None:
        refusals = self._refusals(job.way)
        if job.owner in self._withheld:
            self._finish(job.to(transitions.left(job)))
        elif refusals is not None:
            self._finish(job.to(transitions.unwanted(job, refusals)))
        else:
            self._submit_queue.add(job, self._budgets.get(job.owner), at_front=at_front)

    def _refusals(self, route: Route) -> Mapping[str, ImagenError] | None:
        """Why each account of a route takes nothing for it any more; None where one does."""
        refusals: dict[str, ImagenError] = {}
        for offer in route.offers:
            error = self.upstreams[offer.account].refusal(offer.model.name)
            if error is None:
                return None
            refusals[offer.account] = error
        return refusals

    def _turn_away(self) -> None:
        """End the queued jobs that no account takes any more."""
        self._submit_queue.look_again()
        for job_id in list(self._submit_queue.unwanted()):
            self._submit_queue.remove(job_id)
            self._enqueue(self._jobs[job_id], at_front=False)

    def _end_unaffordable(self) -> None:
        """End the queued jobs of an owner whose budget is used up."""
        for job_id in list(self._submit_queue.unaffordable()) if self._budgets else ():
            job = self._jobs[job_id]
            budget = self._budgets[job.owner]
            self._drop(job, transitions.unsent(job, used_up(budget.limit, budget.spent)))

    def _expire(self, now: float) -> None:
        while (job_id := self._expiries.pop_due(now)) is not None:
            self._drop(self._jobs[job_id], transitions.expire(self._jobs[job_id]).state)

    def _drop(self, job: Job, state: State) -> None:
        """End a job that is not talking, or that nobody waits for any more."""
        if isinstance(job.state, Queued):
            self._submit_queue.remove(job.id)
        elif isinstance(job.state, Running | Held):
            self.upstreams[job.account].poll_queue.forget(job.id)
        elif isinstance(job.state, Ready) and job.id in self._to_save:
            self._to_save.remove(job.id)
        self._finish(job.to(state))

    def _store(self, job: Job) -> None:
        """Keep a job as it is now, and count the tasks that its account has at the provider, or may come to have."""
        before = self._jobs.get(job.id)
        self.upstreams[job.account].running += _occupies(job) - (before is not None and _occupies(before))
        self._jobs[job.id] = job

    def _finish(self, job: Job) -> None:
        self._store(job)
        budget = self._budgets.get(job.owner)
        if budget is not None:
            budget.settle(job.id, None)
        del self._jobs[job.id]
        self._leaving.discard(job.id)
        self._expiries.discard(job.id)
        self.finished.append(job)


def _occupies(job: Job) -> bool:
    return type(job.state) in _AT_THE_PROVIDER
