"""What each event makes of a job. Every decision about sending a create again is here, and only here."""

from __future__ import annotations

import msgspec

from ..errors import DeadlineExceeded, GenerationFailed, ImagenError, UnknownOutcome
from .job import (
    Done,
    Event,
    Failed,
    Final,
    Job,
    Left,
    NotSaved,
    Queued,
    Ready,
    Running,
    Saved,
    State,
    Submitting,
    Unknown,
    Unsent,
)
from .values import Result
from .wire import (
    Accepted,
    Broken,
    Created,
    Denied,
    Lost,
    NotSent,
    Pending,
    Rejected,
    Remedy,
    Succeeded,
    TaskStatus,
    Unreadable,
)

PATIENCE = 30.0
"""Seconds for which "no such task" and "not allowed" are taken for transient (seen just after creation)."""


def start(job: Job, now: float) -> Job:
    """Send a queued job out: its deadline runs from the first time."""
    expires_at = now + job.deadline if job.expires_at is None else job.expires_at
    return msgspec.structs.replace(job, state=Submitting(), expires_at=expires_at)


def advance(job: Job, event: Event, now: float) -> Job:
    """Say what an event makes of a job that was talking. Pure; an event that does not fit its state is a bug."""
    match job.state, event:
        case Submitting(), Accepted() | Rejected() | NotSent() | Lost():
            return _after_create(job, event, now)
        case Running(), Pending() | Succeeded() | Broken() | Denied() | Unreadable():
            return _after_status(job, job.state, event, now)
        case Ready(), Saved(files=files):
            return job.to(job.state.done(files))
        case Ready(task_id=task_id, outcome=outcome), NotSaved(error=error, files=files):
            return job.to(Failed(error.about(provider=job.account, task_id=task_id), outcome, files))
    raise AssertionError(f"{type(event).__name__} cannot happen to a job that is {type(job.state).__name__}")


def _after_create(job: Job, event: Created, now: float) -> Job:
    match event:
        case Accepted(task_id=task_id):
            return job.to(Running(task_id, since=now))
        case Lost(error=error):
            return job.to(Unknown(unknown_outcome(job, error)))
        case NotSent(error=error) | Rejected(error=error, remedy=Remedy.HOLD | Remedy.PAUSE):
            error.about(provider=job.account)
            return expire(job, now) if _is_due(job, now) else job.to(Queued(error))
        case Rejected(error=error, remedy=Remedy.STOP):
            return job.to(Unsent(error.about(provider=job.account)))
        case Rejected(error=error, remedy=remedy):
            return _failed(job, error, None, may_retry=remedy is Remedy.NEW_TASK)


def _after_status(job: Job, state: Running, event: TaskStatus, now: float) -> Job:
    match event:
        case Succeeded():
            ready = Ready(state.task_id, event)
            return job.to(ready if job.save_to is not None else Done(state.task_id, event))
        case Broken(error=error):
            return _failed(job, error.about(task_id=state.task_id), event, may_retry=not state.collected)
        case Denied(error=error):
            return _denied(job, state, error, now)
        case Unreadable(error=error):
            return _asked(job, msgspec.structs.replace(state, trouble=error), now)
        case Pending():
            answered = state.denied_at is None and state.trouble is None
            return _asked(job, state if answered else Running(state.task_id, state.since, None, state.collected), now)


def _asked(job: Job, state: Running, now: float) -> Job:
    """A task that is not finished: to be asked about again, unless its time is over."""
    job = job if state is job.state else job.to(state)
    return expire(job, now) if _is_due(job, now) else job


def _denied(job: Job, state: Running, error: ImagenError, now: float) -> Job:
    since = now if state.denied_at is None else state.denied_at
    if state.collected or now - since >= PATIENCE:
        return job.to(Failed(error.about(provider=job.account, task_id=state.task_id)))
    return _asked(job, msgspec.structs.replace(state, denied_at=since, trouble=error), now)


def _failed(job: Job, error: ImagenError, outcome: Broken | None, *, may_retry: bool) -> Job:
    error.about(provider=job.account)
    if may_retry and job.retries > 0 and isinstance(error, GenerationFailed) and error.code != "no_urls":
        return msgspec.structs.replace(job, retries=job.retries - 1, state=Queued(error))
    return job.to(Failed(error, outcome))


def _is_due(job: Job, now: float) -> bool:
    return job.expires_at is not None and now >= job.expires_at


def expire(job: Job, now: float) -> Job:
    """Give a queued or running job up: its time is over."""
    trouble = None
    if isinstance(job.state, Queued | Running):
        trouble = job.state.error if isinstance(job.state, Queued) else job.state.trouble
    error = DeadlineExceeded(_expiry_message(job, trouble), provider=job.account, task_id=job.task_id)
    error.__cause__ = trouble
    return job.to(Failed(error))


def _expiry_message(job: Job, trouble: ImagenError | None) -> str:
    why = f" ({trouble.message})" if trouble is not None else ""
    if job.task_id is not None:
        return f"Not finished within {job.deadline:g} s{why}. The task may still finish and is paid for: collect it"
    if isinstance(trouble, GenerationFailed):
        return f"The task failed{why}, and no new one was accepted within {job.deadline:g} s: ask again"
    return f"Not accepted within {job.deadline:g} s{why}. No task was made and nothing was billed: ask again"


def left(job: Job) -> State:
    """How a job ends that nobody waits for; one that waits for a retry has failed already."""
    if isinstance(job.state, Queued) and isinstance(job.state.error, GenerationFailed):
        return Failed(job.state.error)
    return Left(job.task_id)


def unknown_outcome(job: Job, error: ImagenError) -> UnknownOutcome:
    """Say what is known of a create whose answer was lost."""
    price = job.model.price(job.request)
    cost = "an unknown price" if price is None else f"up to {price:g} credits"
    message = f"The create was sent and its answer was lost ({error.message}). It may have made a task and cost {cost}"
    unknown = UnknownOutcome(f"{message}; it is not sent again", credits=price, provider=job.account, code=error.code)
    unknown.__cause__ = error
    return unknown


def result_of(job: Job) -> Result:
    """Make the result of a job that ended; the shell adds what can save it."""
    state = job.state
    assert isinstance(state, Final)
    outcome = state.outcome if isinstance(state, Done | Failed) else None
    succeeded = outcome if isinstance(outcome, Succeeded) else None
    credits = outcome.credits if outcome is not None else None
    if credits is None and succeeded is not None:
        credits = job.model.price(job.request)
    return Result(
        key=job.key,
        index=job.index,
        request=job.request,
        provider=job.account,
        model=job.model.name,
        urls=succeeded.urls if succeeded else (),
        files=state.files if isinstance(state, Done | Failed) else (),
        error=_error_of(job),
        task_id=job.task_id,
        credits=credits,
        latency=succeeded.latency if succeeded else None,
        raw=outcome.raw if outcome is not None else b"",
    )


def _error_of(job: Job) -> ImagenError | None:
    match job.state:
        case Failed(error=error) | Unsent(error=error):
            return error
        case Unknown(error=unknown):
            return unknown
        case Left(task_id=task_id):
            paid = "while the task ran, which is paid for: collect it"
            message = f"Left {paid if task_id else 'before it was sent; nothing was billed'}"
            return DeadlineExceeded(message, provider=job.account, task_id=task_id)
    return None
