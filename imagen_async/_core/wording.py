"""How a job's end reads: the errors that only the whole job can word, and the result that the user gets."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import (
    AccountError,
    BudgetReached,
    DeadlineExceeded,
    DownloadFailed,
    ImagenError,
    ModelUnavailable,
    UnknownOutcome,
)
from .job import Done, Failed, Final, Job, Left, NotAdmitted, Queued, Ready, Running, Unknown
from .values import Result
from .wire import Succeeded, TaskFailed


def trouble_of(job: Job) -> ImagenError | None:
    """Why a queued or running job has not come further, or None."""
    match job.state:
        case Queued(error=error) | Running(trouble=error):
            return error
    return None


def expired(job: Job) -> DeadlineExceeded:
    """Say that a job's time is over, and what became of its money."""
    trouble = trouble_of(job)
    why = f" ({trouble.message})" if trouble is not None else ""
    if job.task_id is not None:
        message = f"Not finished within {job.deadline:g} s{why}. The task may still finish and is paid for: collect it"
    elif isinstance(job.state, Queued) and job.state.held is not None:
        trouble = job.state.held
        message = f"It failed ({trouble.message}), and no new task was accepted within {job.deadline:g} s: ask again"
    else:
        message = f"Not accepted within {job.deadline:g} s{why}. No task was made and nothing was billed: ask again"
    error = DeadlineExceeded(message, provider=job.account, task_id=job.task_id)
    error.__cause__ = trouble
    return error


def links_not_told(job: Job) -> DownloadFailed:
    """Say that a finished task's links died, and that its time was over before it told new ones."""
    trouble = trouble_of(job)
    why = f" ({trouble.message})" if trouble is not None else ""
    message = f"The picture is made and paid for; its links died, and no new ones came in time{why}: collect the task"
    return DownloadFailed(message, provider=job.account, task_id=job.task_id)


def unknown_outcome(job: Job, error: ImagenError) -> UnknownOutcome:
    """Say what is known of a create whose answer was lost."""
    unknown = lost_create(f"its answer was lost ({error.message})", job.model.price(job.request), max(1, job.lost))
    unknown.about(provider=job.account)
    unknown.code = error.code
    unknown.__cause__ = error
    return unknown


def nobody_takes(refusals: Mapping[str, ImagenError]) -> ImagenError:
    """Say why no account is left for a job: the one account's own error, or one that names them all."""
    first, *others = refusals.values()
    if not others:
        return first
    is_one_kind = all(type(error) is type(first) for error in others)
    kind = type(first) if is_one_kind and isinstance(first, AccountError | ModelUnavailable) else AccountError
    told = "; ".join(f"{account}: {error.message.rstrip('.')}" for account, error in refusals.items())
    return kind(f"No account is left. {told}.")


def used_up(limit: float, spent: float) -> BudgetReached:
    """Say that a batch may spend no more."""
    left = f"{limit:,g} credits, of which {spent:,g} are spent or may have been"
    return BudgetReached(f"The budget is reached: {left}; the next request does not fit. Raise max_credits to go on.")


def lost_create(what: str, price: float | None, times: int) -> UnknownOutcome:
    """Word it: `price` is that of one task, `times` the creates that may have made one each."""
    at_risk = None if price is None else price * times
    cost = "an unknown price" if at_risk is None else f"up to {at_risk:g} credits"
    message = f"The create was sent and {what}. It may have made a task and cost {cost}; it is not sent again"
    return UnknownOutcome(message, credits=at_risk)


def result_of(job: Job) -> Result:
    """Make the result of a job that ended; the shell adds what can save it."""
    state = job.state
    assert isinstance(state, Final)
    outcome = _outcome_of(state)
    succeeded = outcome if isinstance(outcome, Succeeded) else None
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
        credits=billed(job, outcome),
        latency=succeeded.latency if succeeded else None,
        raw=outcome.raw if outcome is not None else b"",
    )


def _outcome_of(state: Final) -> Succeeded | TaskFailed | None:
    """What the provider said of the task, at last."""
    match state:
        case Done(outcome=outcome) | Failed(outcome=outcome) | Left(was=Ready(outcome=outcome)):
            return outcome
        case Left(was=Running(finished=finished)):
            return finished
    return None


def billed(job: Job, outcome: Succeeded | TaskFailed | None) -> float | None:
    """What the provider says it billed; where it says nothing, a finished picture's price; None: unknown.

    After a task that came before, one that failed and of which nobody tells counts with its price, as that one does.
    """
    credits = None if outcome is None else outcome.credits
    if credits is None and (isinstance(outcome, Succeeded) or (job.spent and outcome is not None)):
        credits = job.model.price(job.request)
    return credits if not job.spent else job.spent + (credits or 0.0)


def _error_of(job: Job) -> ImagenError | None:
    match job.state:
        case Failed(error=error) | NotAdmitted(error=error):
            return error
        case Unknown(error=unknown):
            return unknown
        case Left():
            paid = "while the task ran, which is paid for: collect it"
            message = f"Left {paid if job.task_id else 'before it was sent; nothing was billed'}"
            return DeadlineExceeded(message, provider=job.account, task_id=job.task_id)
    return None
