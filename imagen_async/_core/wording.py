"""How a job's end reads: the failures that only the whole job can word, and the result that the user gets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from ..errors import AccountError, BudgetReached, DeadlineExceeded, DownloadFailed, ModelUnavailable, UnknownOutcome
from .failure import Failure
from .job import Job
from .states import (
    AwaitingCallback,
    Claimed,
    Collected,
    Confirming,
    Done,
    Doubted,
    Ended,
    Failed,
    Fetching,
    Left,
    NotAdmitted,
    Noting,
    Orphaned,
    Preparing,
    Queued,
    Relinking,
    Running,
    Sending,
    State,
    Unknown,
)
from .values import Result
from .wire import Succeeded, TaskFailed

StateWord = Literal["queued", "submitting", "held", "running", "ready", "done", "failed", "unknown", "unsent", "left"]

STATE_WORDS: dict[type[State], StateWord] = {
    Queued: "queued",
    Preparing: "queued",
    Noting: "submitting",
    Sending: "submitting",
    Claimed: "submitting",
    Orphaned: "submitting",
    AwaitingCallback: "held",
    Confirming: "held",
    Running: "running",
    Collected: "running",
    Doubted: "running",
    Relinking: "running",
    Fetching: "ready",
    Done: "done",
    Failed: "failed",
    Unknown: "unknown",
    NotAdmitted: "unsent",
    Left: "left",
}
"""What users know of each state, in events and in progress."""

_BY_ITS_NAME = "ask again with the same key, or journal, and it is the same task"

_NAMED = "A callback names its task, of which the provider has told nothing yet: collect it"


def trouble_of(job: Job) -> Failure | None:
    """Why a queued or running job has not come further, or None."""
    match job.state:
        case Queued(failure=failure) | Running(trouble=failure):
            return failure
    return None


def expired(job: Job) -> Failure:
    """Say that a job's time is over, and what became of its money."""
    trouble = trouble_of(job)
    why = f" ({trouble.message})" if trouble is not None else ""
    if job.task_id is not None:
        message = f"Not finished within {job.deadline:g} s{why}. The task may still finish and is paid for: collect it"
    elif isinstance(job.state, Queued) and job.state.fallback is not None and not job.is_lost_by_name:
        trouble = job.state.fallback
        message = f"It failed ({trouble.message}), and no new task was accepted within {job.deadline:g} s: ask again"
    elif job.lost:
        message = f"No answer came within {job.deadline:g} s{why}. It may be made all the same: {_BY_ITS_NAME}"
    else:
        message = f"Not accepted within {job.deadline:g} s{why}. No task was made and nothing was billed: ask again"
    return Failure(DeadlineExceeded, message, account=job.account, task_id=job.task_id, cause=trouble)


def links_not_told(job: Job) -> Failure:
    """Say that a finished task's links died, and that its time was over before it told new ones."""
    trouble = trouble_of(job)
    why = f" ({trouble.message})" if trouble is not None else ""
    message = f"The picture is made and paid for; its links died, and no new ones came in time{why}: collect the task"
    return Failure(DownloadFailed, message, account=job.account, task_id=job.task_id)


def picture_gone(failure: Failure) -> Failure:
    """Say that no link leads to a picture any more."""
    message = f"The picture is gone at the provider, and was paid for: its links are dead. {failure.message}"
    return msgspec.structs.replace(failure, message=message)


def unknown_outcome(job: Job, failure: Failure) -> Failure:
    """Say what is known of a create whose answer was lost."""
    unknown = lost_create(f"its answer was lost ({failure.message})", job.model.price(job.request), max(1, job.lost))
    return msgspec.structs.replace(unknown, account=job.account, code=failure.code, cause=failure)


def named_by_callback(unknown: Failure, task_id: str) -> Failure:
    """Say of a lost create that a callback has named its task, which nobody could confirm."""
    # Named again, by another run or another callback, it says so once.
    message = f"{_NAMED}. {unknown.message.removeprefix(f'{_NAMED}. ')}"
    return msgspec.structs.replace(unknown, message=message, task_id=unknown.task_id or task_id)


def nobody_takes(refusals: Mapping[str, Failure]) -> Failure:
    """Say why no account is left for a job: the one account's own word, or one that names them all."""
    first, *others = refusals.values()
    if not others:
        return first
    # Where all say the same, whoever catches that kind is to catch this, too.
    is_one_kind = all(other.kind is first.kind for other in others)
    kind = first.kind if is_one_kind and first.is_a(AccountError, ModelUnavailable) else AccountError
    told = "; ".join(f"{account}: {failure.message.rstrip('.')}" for account, failure in refusals.items())
    return Failure(kind, f"No account is left. {told}.")


def used_up(limit: float, spent: float) -> Failure:
    """Say that a batch may spend no more."""
    left = f"{limit:,g} credits, of which {spent:,g} are spent or may have been"
    message = f"The budget is reached: {left}; the next request does not fit. Raise max_credits to go on."
    return Failure(BudgetReached, message)


def lost_create(what: str, price: float | None, times: int) -> Failure:
    """Word it: `price` is that of one task, `times` the creates that may have made one each."""
    at_risk = None if price is None else price * times
    cost = "an unknown price" if at_risk is None else f"up to {at_risk:g} credits"
    message = f"The create was sent and {what}. It may have made a task and cost {cost}; it is not sent again"
    return Failure(UnknownOutcome, message, credits=at_risk)


def result_of(job: Job) -> Result:
    """Make the result of a job that ended, with an error of its own; the shell adds what can save it."""
    state = job.state
    assert isinstance(state, Ended)
    outcome = _outcome_of(state)
    succeeded = outcome if isinstance(outcome, Succeeded) else None
    failure = failure_of(job)
    files = state.files if isinstance(state, Done | Failed) else ()
    return Result(
        key=job.key,
        index=job.index,
        request=job.request,
        provider=job.account,
        model=(succeeded.model if succeeded else "") or job.model.name,
        urls=succeeded.urls if succeeded else (),
        files=files,
        error=None if failure is None else failure.exception(files),
        task_id=job.task_id,
        credits=billed(job, outcome),
        latency=succeeded.latency if succeeded else None,
        raw=outcome.raw if outcome is not None else b"",
        ignored=succeeded.ignored if succeeded else (),
        text=succeeded.text if succeeded else "",
    )


def _outcome_of(state: Ended) -> Succeeded | TaskFailed | None:
    """What the provider said of the task, at last."""
    match state:
        case Done(outcome=outcome) | Failed(outcome=outcome) | Left(was=Fetching(outcome=outcome)):
            return outcome
        case Left(was=Relinking(outcome=outcome)):
            return outcome
    return None


def billed(job: Job, outcome: Succeeded | TaskFailed | None) -> float | None:
    """What the provider says it billed; where it says nothing, a finished picture's price; None: unknown.

    After a task that came before, one that failed and of which nobody tells counts with its price, as that one does.
    """
    credits = None if outcome is None else outcome.credits
    if credits is None and (isinstance(outcome, Succeeded) or (job.spent and outcome is not None)):
        credits = job.model.price(job.request)
    return credits if not job.spent else job.spent + (credits or 0.0)


def failure_of(job: Job) -> Failure | None:
    """Why a job that ended has no picture, or no file; None where it has."""
    match job.state:
        case Failed(failure=failure) | NotAdmitted(failure=failure) | Unknown(failure=failure):
            return failure
        case Left():
            paid = "while the task ran, which is paid for: collect it"
            unsent = "before it was sent; nothing was billed"
            if job.lost:
                unsent = f"while no answer had come: {_BY_ITS_NAME}"
            message = f"Left {paid if job.task_id else unsent}"
            return Failure(DeadlineExceeded, message, account=job.account, task_id=job.task_id)
    return None


def states_sent_again(*, retry_failed: bool, resubmits_unknown: bool) -> frozenset[str]:
    """The states of earlier runs from which a request is sent once more."""
    wanted = {"queued": True, "failed": retry_failed, "unknown": resubmits_unknown}
    return frozenset(state for state, is_wanted in wanted.items() if is_wanted)
