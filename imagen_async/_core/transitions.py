"""What each event makes of a job. Every decision about sending a create again is here, and only here."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from ..errors import (
    DownloadFailed,
    GenerationFailed,
    ImagenError,
    ModelUnavailable,
    TransportError,
    UnknownOutcome,
)
from .job import (
    Done,
    Event,
    Failed,
    Held,
    Job,
    Left,
    Links,
    NotAdmitted,
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
from .values import ImageFile
from .wire import (
    Accepted,
    ConnectFailed,
    Created,
    Lost,
    NoAnswer,
    Pending,
    Rejected,
    Remedy,
    Succeeded,
    TaskFailed,
    TaskRefused,
    TaskStatus,
)
from .wording import expired, links_not_told, nobody_takes, unknown_outcome

replace = msgspec.structs.replace

_NAMED = "A callback names its task, of which the provider has told nothing yet: collect it"

PATIENCE = 30.0
"""Seconds for which "no such task" and "not allowed" are taken for transient (seen just after creation)."""


def start(job: Job, now: float) -> Job:
    """Send a queued job out: its deadline runs from the first time."""
    expires_at = now + job.deadline if job.expires_at is None else job.expires_at
    assert isinstance(job.state, Queued)
    return replace(job, state=Submitting(job.state.held), expires_at=expires_at, attempts=job.attempts + 1)


def advance(job: Job, event: Event, now: float) -> Job:
    """Say what an event makes of a job that was talking. Pure; an event that does not fit its state is a bug."""
    match job.state, event:
        case Submitting(), Accepted() | Rejected() | ConnectFailed() | Lost():
            return _after_create(job, job.state, event, now)
        case Submitting(told=told_task, create=create), SendAborted(error=error):
            waiting = replace(job, attempts=job.attempts - 1, state=Queued(held=job.state.held))
            if told_task is not None and create in job.lost_creates:
                return told(waiting, create, told_task, now)
            return waiting.to(left(waiting) if error is None else unsent(waiting, error.about(provider=job.account)))
        case Running(), Pending() | Succeeded() | TaskFailed() | TaskRefused() | NoAnswer():
            return _after_status(job, job.state, event, now)
        case Held(), Pending() | Succeeded() | TaskFailed() | TaskRefused() | NoAnswer():
            return _after_callback(job, job.state, event, now)
        case Ready(), Saved(files=files):
            return job.to(job.state.done(files))
        case Ready(), NotSaved(error=error, files=files):
            return _not_saved(job, job.state, error, files, now)
    raise AssertionError(f"{type(event).__name__} cannot happen to a job that is {type(job.state).__name__}")


def told(job: Job, create: int, task_id: str, now: float) -> Job:
    """Say what a callback makes of a job: it names the task that one of its creates made; as it was where that is old.

    Its word is good enough to keep a create from being sent again, and to ask the provider about the task; no more.
    """
    if isinstance(job.state, Submitting) and job.state.told is None and create in (job.attempts, *job.lost_creates):
        return job.to(replace(job.state, told=task_id, create=create))
    if create not in job.lost_creates:
        return job
    match job.state:
        case Held(told=None, error=unknown, since=since, until=until):
            return _told(job, unknown, task_id, create, since, max(until, now + 2 * PATIENCE))
        case Queued():
            return _told(job, _unknown(job), task_id, create, now, now + 2 * PATIENCE)
    return job


def _told(job: Job, unknown: UnknownOutcome, task_id: str, create: int, since: float, until: float) -> Job:
    held = Held(unknown, since=since, until=until, told=task_id)
    return replace(job, lost_creates=with_last(job.lost_creates, create), state=held)


def with_last(creates: tuple[int, ...], told: int) -> tuple[int, ...]:
    """Lost creates in an order that tells of which of them a callback has told."""
    return (*(create for create in creates if create != told), told)


def _unknown(job: Job) -> UnknownOutcome:
    """What a job that waits or is sent again comes to, if it comes to nothing else than its lost create."""
    assert isinstance(job.state, Queued | Submitting)
    held = job.state.held
    return held if isinstance(held, UnknownOutcome) else unknown_outcome(job, TransportError("that of an earlier one"))


def _after_create(job: Job, state: Submitting, event: Created, now: float) -> Job:
    match event:
        case Accepted(task_id=task_id):
            return job.to(Running(task_id, since=now))
        case Lost(error=error):
            return _lost(job, state, error, now)
        case Rejected(error=error) | ConnectFailed(error=error) if state.told is not None:
            # A callback says that there is a task: whatever this answer is, it is no leave to send another create.
            if state.create == job.attempts:
                return _lost(job, state, error, now)
            return _told(job, _unknown(job), state.told, state.create, now, now + 2 * PATIENCE)
        case ConnectFailed(error=error) | Rejected(error=error, remedy=Remedy.BACK_OFF | Remedy.PAUSE):
            queued = job.to(Queued(error.about(provider=job.account), state.held))
            return expire(queued) if _is_due(job, now) else queued
        case Rejected(error=error, remedy=Remedy.STOP | Remedy.CLOSE_MODEL):
            # Nothing was made: whoever else takes it may have it, and the plan ends it where nobody does.
            return job.to(Queued(error.about(provider=job.account), state.held))
        case Rejected(error=error, remedy=remedy):
            if isinstance(state.held, UnknownOutcome):
                return job.to(Unknown(state.held))  # this create made nothing; the lost one may have
            return _failed(job, error, None, may_retry=remedy is Remedy.NEW_TASK)


def cut_off(job: Job, error: ImagenError) -> Job:
    """End a job whose create is on its way, and whose answer nobody waits for."""
    assert isinstance(job.state, Submitting)
    ended = _lost(replace(job, resubmits=0), job.state, error, now=0.0)
    return ended.to(_held(ended) or ended.state)


def _lost(job: Job, state: Submitting, error: ImagenError, now: float) -> Job:
    """Hold it, or send it again once where the caller asked for that."""
    job = replace(job, lost=job.lost + 1, lost_creates=(*job.lost_creates, job.attempts))
    unknown = unknown_outcome(job, error)
    if state.told is not None:
        return _told(job, unknown, state.told, state.create, now, now + 2 * PATIENCE)
    if job.resubmits > 0:
        # Never to another account: there nobody could tell the two tasks for one.
        return replace(job, resubmits=job.resubmits - 1, route=None, state=Queued(unknown, held=unknown))
    return job.to(Unknown(unknown))


def _after_callback(job: Job, state: Held, event: TaskStatus, now: float) -> Job:
    """What the provider says of a task that a callback has named: only this makes it the job's own."""
    assert state.told is not None
    match event:
        case TaskRefused():
            since = now if state.denied_at is None else state.denied_at
            if now - since < PATIENCE:
                return job.to(replace(state, denied_at=since))
            return job.to(replace(state, told=None, denied_at=None))
        case NoAnswer():
            return job
    job = replace(job, lost=job.lost - 1, lost_creates=job.lost_creates[:-1])
    running = Running(state.told, since=state.since)
    return _after_status(job.to(running), running, event, now)


def _after_status(job: Job, state: Running, event: TaskStatus, now: float) -> Job:
    match event:
        case Succeeded():
            links = Links.FIRST if state.finished is None else Links.ASKED_AGAIN
            done = Done(state.task_id, event)
            return job.to(done if job.save_to is None else Ready(state.task_id, event, links))
        case TaskFailed(error=error):
            failed = _failed(job, error.about(task_id=state.task_id), event, may_retry=not state.collected)
            return failed if state.finished is None else _renewing(job, state.task_id, state.finished)
        case TaskRefused(error=error):
            return _denied(job, state, error, now)
        case NoAnswer(error=error):
            return _asked(job, replace(state, trouble=error), now)
        case Pending():
            answered = state.denied_at is None and state.trouble is None
            return _asked(job, state if answered else replace(state, denied_at=None, trouble=None), now)


def _asked(job: Job, state: Running, now: float) -> Job:
    """A task that is not finished: to be asked about again, unless its time is over."""
    job = job if state is job.state else job.to(state)
    return expire(job) if _is_due(job, now) else job


def _denied(job: Job, state: Running, error: ImagenError, now: float) -> Job:
    since = now if state.denied_at is None else state.denied_at
    if not state.collected and now - since < PATIENCE:
        return _asked(job, replace(state, denied_at=since, trouble=error), now)
    if state.finished is not None:
        return _renewing(job, state.task_id, state.finished)
    error.about(provider=job.account, task_id=state.task_id)
    if not state.given_up:
        return job.to(Failed(error))
    spent = job.spent + (job.model.price(job.request) or 0.0)
    return replace(job, spent=spent, state=Queued(error, held=error))


def _failed(job: Job, error: ImagenError, outcome: TaskFailed | None, *, may_retry: bool) -> Job:
    error.about(provider=job.account)
    if may_retry and job.retried < job.retries and isinstance(error, GenerationFailed) and error.code != "no_urls":
        # Where nobody tells what the failed task has cost, it may have cost its price.
        told = 0.0 if outcome is None else outcome.credits
        spent = job.spent + (told if told is not None else job.model.price(job.request) or 0.0)
        # Whoever could not make it is asked last, where another account can be.
        route, state = job.way.last(job.account), Queued(error, held=error)
        return replace(job, retried=job.retried + 1, spent=spent, route=route, state=state)
    return job.to(Failed(error, outcome))


def _not_saved(job: Job, state: Ready, error: ImagenError, files: tuple[ImageFile, ...], now: float) -> Job:
    """A picture that is not where it was: ask for its links again, then for new ones; then it is gone."""
    if isinstance(error, DownloadFailed) and error.gone:
        if state.links is Links.FIRST:
            until = max(job.expires_at or 0.0, now + 2 * PATIENCE)
            asking = Running(state.task_id, since=now, finished=state.outcome)
            return replace(job, expires_at=until, state=asking)
        if state.links is Links.ASKED_AGAIN:
            return _renewing(job, state.task_id, state.outcome)
        error.message = f"The picture is gone at the provider, and was paid for: its links are dead. {error.message}"
    return job.to(Failed(error.about(provider=job.account, task_id=state.task_id), state.outcome, files))


def _renewing(job: Job, task_id: str, outcome: Succeeded) -> Job:
    return job.to(Ready(task_id, outcome, Links.RENEWED))


def _is_due(job: Job, now: float) -> bool:
    return job.expires_at is not None and now >= job.expires_at


def expire(job: Job) -> Job:
    """Give a queued, held or running job up: its time is over."""
    if isinstance(job.state, Running) and job.state.finished is not None:
        return job.to(Failed(links_not_told(job), job.state.finished))
    ending = _held(job)
    return job.to(ending if isinstance(ending, Unknown) else Failed(expired(job)))


def left(job: Job) -> State:
    """How a job ends that nobody waits for; one that waits for a retry has failed already."""
    ending = _held(job)
    if ending is not None:
        return ending
    assert isinstance(job.state, Queued | Running | Ready)
    return Left(job.state)


def unsent(job: Job, error: ImagenError) -> State:
    """How a job ends that will not be sent for now: nothing happened, but for what an earlier create came to."""
    return _held(job) or NotAdmitted(error)


def unwanted(job: Job, refusals: Mapping[str, ImagenError]) -> State:
    """How a queued job ends that no account takes any more, each for its own reason."""
    error = nobody_takes(refusals)
    if not all(isinstance(refusal, ModelUnavailable) for refusal in refusals.values()):
        return unsent(job, error)
    ending = _held(job)
    return ending if isinstance(ending, Unknown) else Failed(error)


def _held(job: Job) -> Unknown | Failed | None:
    """How a job ends of which no new create was accepted, after one that was lost, or whose task failed."""
    match job.state:
        case Held(error=unknown, told=None):
            return Unknown(unknown)
        case Held(error=unknown, told=task_id):
            unknown.about(task_id=task_id)
            unknown.message = f"{_NAMED}. {unknown.message.removeprefix(f'{_NAMED}. ')}"
            return Unknown(unknown)
        case Queued(held=UnknownOutcome() as unknown) | Submitting(held=UnknownOutcome() as unknown):
            return Unknown(unknown)
        case Queued(held=ImagenError() as failure) | Submitting(held=ImagenError() as failure):
            return Failed(failure)
    return None
