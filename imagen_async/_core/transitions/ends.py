"""Ends that no answer brings, what a job falls back on, and what leaves it as it is."""

from __future__ import annotations

import msgspec

from ...errors import ModelUnavailable, UnknownOutcome
from ..failure import Failure
from ..job import Job
from ..job_events import NobodyTakes, OverBudget, Readmitted
from ..states import (
    AwaitingCallback,
    Confirming,
    Doubted,
    Failed,
    Fetching,
    Left,
    NotAdmitted,
    Queued,
    Relinking,
    Running,
    State,
    Unknown,
)
from ..wording import expired, links_not_told, named_by_callback, nobody_takes, unknown_outcome

replace = msgspec.structs.replace


def stay(job: Job, state: State, event: object, now: float) -> Job:
    """Nothing changes."""
    return job


def readmit(job: Job, state: State, event: Readmitted, now: float) -> Job:
    """It may be sent again now, if it comes to that."""
    route = event.route
    if route is not None:
        # What was lost may be at its own account; there the two tasks would stand side by side. Of several models it
        # goes on from the one that it has come to.
        route = route.only(job.account, job.model.name) if job.lost else route.of(job.model.name)
    request = job.request
    if event.request is not None:
        given = event.request
        request = replace(request, images=given.images, extra=given.extra, local_files=given.local_files)
    leave = {"retries": event.retries, "resubmits": event.resubmits, "next_if_refused": event.next_if_refused}
    return replace(job, **leave, route=route, request=request)


def readmit_running(job: Job, state: Running, event: Readmitted, now: float) -> Job:
    """The same; and a task that was denied may be replaced."""
    if event.is_doubted:
        job = job.to(Doubted(state.task_id, state.since, state.denied_at, state.trouble))
    return readmit(job, state, event, now)


def expire(job: Job, state: State, event: object, now: float) -> Job:
    """Its time is over."""
    if isinstance(state, Relinking):
        # With what it had come to: its URLs are all that is left of a picture that is paid for.
        return job.to(Failed(links_not_told(job), state.outcome))
    ending = fallen_back(job)
    # A lost create is unknown however its job ends: no deadline undoes what it may have cost.
    return job.to(ending if isinstance(ending, Unknown) else Failed(expired(job)))


def leave(job: Job, state: State, event: object, now: float) -> Job:
    """Nobody waits for it any more."""
    return job.to(without_owner(job))


def turn_away(job: Job, state: Queued, event: NobodyTakes, now: float) -> Job:
    """No account takes it: another run may send it, but for a model that is gone everywhere.

    In the place of that another one may be made, where the caller has named some.
    """
    failure = nobody_takes(event.refusals)
    ending = fallen_back(job)
    # To try again would change nothing: unlike an account, a model does not come back by being looked after.
    if all(refusal.is_a(ModelUnavailable) for refusal in event.refusals.values()):
        if job.is_lost_by_name:
            # Its name is that of its last create; what that came to, this refusal does not tell.
            return replace(job, attempts=job.attempts + 1, state=Unknown(unknown_outcome(job, failure)))
        instead = to_next_model(job, Queued(failure, state.fallback))
        return instead or job.to(ending if isinstance(ending, Unknown) else Failed(failure))
    return job.to(ending or NotAdmitted(failure))


def to_next_model(job: Job, waiting: Queued) -> Job | None:
    """The job as it waits for the next of its models; None: there is none, or a task of this one may exist."""
    then = job.way.then
    if then is None or job.lost:
        return None
    # Who had it has it until its turn: its task, or create, is counted there, and asked about.
    return replace(job, route=then, model=then.offers[0].model, state=waiting)


def stop_spending(job: Job, state: Queued, event: OverBudget, now: float) -> Job:
    """It is not sent; nothing happened, but for what an earlier create came to."""
    return job.to(fallen_back(job) or NotAdmitted(event.failure))


def without_owner(job: Job) -> Unknown | Failed | Left:
    """How a job ends that nobody waits for; one that waits for a retry has failed already."""
    ending = fallen_back(job)
    if ending is not None:
        return ending
    assert isinstance(job.state, Queued | Running | Fetching)
    return Left(job.state)


def fallen_back(job: Job) -> Unknown | Failed | None:
    """How a job ends of which no new create was accepted, after one that was lost, or whose task failed."""
    match job.state:
        case AwaitingCallback(unknown=unknown, is_on_the_way=is_on_the_way):
            return Unknown(unknown, is_on_the_way)
        case Confirming(unknown=unknown, task_id=task_id):
            return Unknown(named_by_callback(unknown, task_id))
        # What was lost after a failed task may be there: that it failed before is not its end.
        case Queued(fallback=Failure() as failure) if is_unknown(failure) or not job.is_lost_by_name:
            return Unknown(failure) if is_unknown(failure) else Failed(failure)
    return None


def is_unknown(failure: Failure) -> bool:
    return failure.is_a(UnknownOutcome)
