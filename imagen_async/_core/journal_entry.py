"""What a journal remembers of a job. Knows rows as values, no file and no clock."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from ..errors import (
    AccountError,
    DeadlineExceeded,
    InvalidRequest,
    ModelUnavailable,
    ProtocolError,
    RateLimited,
    TransportError,
    UnknownOutcome,
)
from .failure import Failure, kind_named
from .job import Job
from .states import (
    AwaitingCallback,
    Claim,
    Claimed,
    Confirming,
    Done,
    Ended,
    Failed,
    Fetching,
    Left,
    NotAdmitted,
    Noting,
    Orphaned,
    Queued,
    Relinking,
    Running,
    Unknown,
)
from .transitions import with_last
from .values import ImageFile, ImageRequest
from .wire import Succeeded, TaskFailed
from .wording import billed, lost_create, unknown_outcome

EntryState = Literal["queued", "submitting", "running", "ready", "done", "failed", "unknown"]

# "No such task" is one: another key, or another address, knows it.
_NO_WORD_ABOUT_THE_TASK = (DeadlineExceeded, AccountError, TransportError, ProtocolError, InvalidRequest)
_TRANSIENT = (RateLimited, TransportError, AccountError, ModelUnavailable)

_NOT_YET = Failure(TransportError, "it had not come yet")


class EntryError(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error of the tree: the name of its class, its message, the provider's code, and where it came from."""

    type: str
    message: str
    code: int | str | None = None
    status: int | None = None
    request_id: str | None = None
    at: float | None = None


class JournalEntry(msgspec.Struct, frozen=True):
    """One job of a batch as its journal has it. Times are Unix seconds; None: not known, or not come to yet.

    Attributes:
        key: The request's key.
        position: Its place in the input that first had it, from 0.
        state: `queued`: nothing exists at the provider. `submitting`: a create is, or was, on the way. `running`: the
            task exists. `ready`: its pictures are to be fetched. `done`, `failed`. `unknown`: held.
        account: Who has it, or had it last.
        request: As it was sent, defaults filled in.
        task_id: The provider's task; of an unknown one that which a callback has named, not confirmed yet.
        urls: Where the pictures are, or were.
        files: The pictures on disk.
        error: Why it failed, or what went wrong last.
        credits: Billed for it.
        price: Credits that one task of it costs when it succeeds; None: unknown.
        latency: Seconds that the provider took.
        attempts: Creates that were sent.
        retried: New tasks that were asked for after a failed generation.
        lost: Creates whose answer was lost: each may have made a task, and cost `price`.
        lost_creates: Which these were, by their number among `attempts`, as far as it is known; the last of them is
            that of which a callback has told.
        sent_at: When the last create was about to be sent.
        accepted_at: When its answer came.
        ended_at: When it was done, failed or was held.
        ignored: Fields of its input that the provider has dropped, or changed, as far as it tells.
        text: What was made where that is no file, as JSON.
        made_by: The model that has it, where this is another than its request's.
    """

    key: str
    position: int
    state: EntryState
    account: str
    request: ImageRequest
    task_id: str | None = None
    urls: tuple[str, ...] = ()
    files: tuple[ImageFile, ...] = ()
    error: EntryError | None = None
    credits: float | None = None
    price: float | None = None
    latency: float | None = None
    attempts: int = 0
    retried: int = 0
    lost: int = 0
    lost_creates: tuple[int, ...] = ()
    sent_at: float | None = None
    accepted_at: float | None = None
    ended_at: float | None = None
    ignored: tuple[str, ...] = ()
    text: str | None = None
    made_by: str | None = None

    @property
    def model(self) -> str:
        """The model that has it, or that it is for."""
        return self.made_by or self.request.model or ""

    @property
    def at_risk(self) -> float | None:
        """Credits that its lost creates may have cost; None: unknown."""
        return None if self.price is None else self.price * self.lost

    @property
    def is_on_the_way(self) -> bool:
        """True where nobody has seen its last create to be over: it may reach the provider yet."""
        sent_at = -math.inf if self.sent_at is None else self.sent_at
        is_answered = self.accepted_at is not None and self.accepted_at >= sent_at
        return not is_answered and (self.ended_at is None or self.ended_at <= sent_at)


class Bill(msgspec.Struct, frozen=True):
    """What an entry says of money; `has_task` is True where a task is known to exist, or to have existed."""

    state: str
    credits: float | None
    price: float | None
    lost: int
    has_task: bool

    @property
    def open(self) -> float:
        """Credits that its task is expected to cost, while that runs."""
        return self.price or 0.0 if self.state == "running" else 0.0

    @property
    def is_known(self) -> bool:
        """False where tasks exist, or may, of which nobody knows what they cost."""
        tasks = self.lost + (self.state in ("submitting", "running") or (self.has_task and self.credits is None))
        return self.price is not None or not tasks

    @property
    def at_risk(self) -> float:
        """Credits that its lost creates may have cost; one on the way is lost to whoever reads that it is."""
        return (self.price or 0.0) * (self.lost + (self.state == "submitting"))

    @property
    def total(self) -> float:
        """Credits that it has cost, or may have: where nobody tells what was billed, the price."""
        is_finished = self.state in ("done", "ready") or (self.state == "failed" and self.has_task)
        untold = self.price or 0.0 if self.credits is None and is_finished else 0.0
        # Of a debit with its sign earlier versions have noted the sign, too.
        return abs(self.credits or 0.0) + untold + self.at_risk + self.open


def bill_of(entry: JournalEntry) -> Bill:
    """What an entry says of money."""
    return Bill(entry.state, entry.credits, entry.price, entry.lost, entry.task_id is not None)


def entry_of(job: Job, now: float, epoch: float) -> JournalEntry | None:
    """Say what there is to remember of a job as it is now; None where nothing of it is new.

    Args:
        job: The job.
        now: Loop time.
        epoch: The Unix time at which the loop's clock stood at 0.
    """
    state, at = job.state.was if isinstance(job.state, Left) else job.state, epoch + now
    match state:
        case Queued():
            return _entry_of_queued(job, state, at)
        # Written before a byte leaves: whoever finds it so after a crash has to take it for sent.
        case Noting():
            return _entry(job, "submitting", sent_at=at)
        case Claimed(claim=claim) | Orphaned(claim=Claim() as claim):
            return _entry_of_claimed(job, claim, at)
        case AwaitingCallback(unknown=unknown, is_on_the_way=is_on_the_way):
            return _entry_of_unknown(job, unknown, at, is_on_the_way=is_on_the_way)
        case Confirming(unknown=unknown, task_id=task_id):
            return _entry(job, "unknown", unknown, task_id=task_id, ended_at=at)
        case Running() if not isinstance(state, Relinking):
            return _entry(job, "running", task_id=state.task_id, accepted_at=epoch + state.since)
        case Fetching(task_id=task_id, outcome=outcome):
            return _entry(job, "ready", task_id=task_id, outcome=outcome)
    # Of one that is being sent the intent is known; of one that is asked about for new links what it had come to.
    return _entry_of_ended(job, state, at) if isinstance(state, Ended) else None


def _entry_of_queued(job: Job, state: Queued, at: float) -> JournalEntry | None:
    # Not queued: its lost create may be billed, and no later run is to send it by itself.
    if state.fallback is not None and state.fallback.is_a(UnknownOutcome):
        return _entry(job, "unknown", state.fallback, ended_at=at)
    if job.expires_at is None:
        return None  # never handed out in this process: it is as it was
    if job.is_lost_by_name:
        return _entry_of_repeated(job, state.failure, at)
    if state.fallback is not None:
        return _entry_of_failed(job, Failed(state.fallback), at)
    return _entry(job, "queued", state.failure)


def _entry_of_repeated(job: Job, failure: Failure | None, at: float) -> JournalEntry:
    # To whoever reads it, it is lost: only who knows the name can ask again.
    counted = msgspec.structs.replace(job, attempts=job.attempts + 1)
    return _entry(counted, "unknown", unknown_outcome(job, failure or _NOT_YET), ended_at=at)


def _entry_of_claimed(job: Job, claim: Claim, at: float) -> JournalEntry:
    """One whose answer is yet to come: whoever called back was answered, and will not call again after a crash."""
    creates = with_last((*job.lost_creates, job.attempts), claim.create)
    # As if its answer were lost: should it come, a later entry says so.
    lost = msgspec.structs.replace(job, lost=job.lost + 1, lost_creates=creates)
    return _entry(lost, "unknown", unknown_outcome(lost, _NOT_YET), task_id=claim.task_id, ended_at=at)


def _entry_of_ended(job: Job, state: Ended, at: float) -> JournalEntry | None:
    match state:
        case Done(task_id=task_id, outcome=outcome, files=files):
            return _entry(job, "done", task_id=task_id, outcome=outcome, files=files, ended_at=at)
        case Failed():
            return _entry_of_failed(job, state, at)
        case Unknown(failure=failure, is_on_the_way=is_on_the_way):
            return _entry_of_unknown(job, failure, at, is_on_the_way=is_on_the_way)
        # One that this run has not sent keeps the entry of the run that has: its task, error and credits.
        case NotAdmitted(failure=failure) if job.is_lost_by_name:
            return None if job.expires_at is None else _entry_of_repeated(job, failure, at)
        case NotAdmitted(failure=failure) if job.expires_at is not None or not job.attempts:
            return _entry(job, "queued", failure)
    return None


def _entry_of_unknown(job: Job, failure: Failure, at: float, *, is_on_the_way: bool) -> JournalEntry:
    # Of one that is on the way nobody knows when it was over: it keeps its place as after a crash.
    return _entry(job, "unknown", failure, task_id=failure.task_id, ended_at=None if is_on_the_way else at)


def _entry_of_failed(job: Job, state: Failed, at: float) -> JournalEntry:
    """A failed job is remembered by what is true at the provider: a task that may still finish is still running."""
    failure, outcome = state.failure, state.outcome
    if isinstance(outcome, Succeeded):
        # Made and paid for: a later run fetches it, unless the provider has it no more.
        how: EntryState = "failed" if failure.is_gone else "ready"
        return _entry(job, how, failure, task_id=job.task_id, outcome=outcome, files=state.files, ended_at=at)
    if outcome is not None and failure.is_a(UnknownOutcome):
        # A service has lost what it sent for it: no leave to send what has failed once more is one for that.
        creates = with_last(job.lost_creates, job.attempts)
        lost = msgspec.structs.replace(job, lost=job.lost + 1, lost_creates=creates)
        return _entry(lost, "unknown", failure, task_id=job.task_id, ended_at=at)
    if outcome is None and job.task_id is not None and failure.is_a(*_NO_WORD_ABOUT_THE_TASK):
        return _entry(job, "running", failure, task_id=job.task_id)
    if outcome is None and failure.is_a(DeadlineExceeded) and job.is_lost_by_name and job.task_id is None:
        return _entry_of_repeated(job, failure, at)
    is_transient = failure.cause is None or failure.cause.is_a(*_TRANSIENT)
    # A passing trouble kept it from being accepted: nothing was paid, so the next run sends it.
    if failure.is_a(DeadlineExceeded) and job.task_id is None and is_transient:
        return _entry(job, "queued", failure)
    return _entry(job, "failed", failure, task_id=job.task_id, outcome=outcome, ended_at=at)


def _entry(
    job: Job,
    state: EntryState,
    failure: Failure | None = None,
    *,
    task_id: str | None = None,
    outcome: Succeeded | TaskFailed | None = None,
    files: tuple[ImageFile, ...] = (),
    **times: float | None,
) -> JournalEntry:
    succeeded = outcome if isinstance(outcome, Succeeded) else None
    model = (succeeded.model if succeeded else "") or job.model.name
    return JournalEntry(
        key=job.key,
        position=job.index,
        state=state,
        account=job.account,
        request=job.request,
        task_id=task_id,
        urls=succeeded.urls if succeeded else (),
        files=files,
        error=None if failure is None else _error_of(failure),
        credits=billed(job, outcome),
        # That of now, at which the task is made: a later version, or another account, may know another one.
        price=job.model.price(job.request),
        latency=succeeded.latency if succeeded else None,
        attempts=job.attempts,
        retried=job.retried,
        lost=job.lost,
        lost_creates=job.lost_creates,
        **times,
        ignored=succeeded.ignored if succeeded else (),
        text=(succeeded.text or None) if succeeded else None,
        made_by=None if model in ("", job.request.model) else model,
    )


def _error_of(failure: Failure) -> EntryError:
    origin = (failure.status, failure.request_id, failure.at)
    return EntryError(failure.kind.__name__, failure.message, failure.code, *origin)


def failure_of(entry: JournalEntry) -> Failure | None:
    """Why an entry's job failed, as it was when that was written."""
    if entry.error is None:
        return None
    return Failure(
        kind_named(entry.error.type),
        entry.error.message,
        code=entry.error.code,
        account=entry.account,
        task_id=entry.task_id,
        credits=entry.at_risk if entry.error.type == UnknownOutcome.__name__ else None,
        status=entry.error.status,
        request_id=entry.error.request_id,
        at=entry.error.at,
    )


def is_denied(entry: JournalEntry) -> bool:
    """True for a task that the provider did not know when it was last asked: nobody can tell what became of it."""
    return entry.state == "running" and entry.error is not None and entry.error.type == InvalidRequest.__name__


def cut_off(entry: JournalEntry) -> JournalEntry:
    """What a create that was on the way when its process died has become: unknown."""
    unknown = lost_create("the process ended before its answer came", entry.price, entry.lost + 1)
    return msgspec.structs.replace(
        entry,
        state="unknown",
        lost=entry.lost + 1,
        # By its number, so that a callback for it is known again.
        lost_creates=(*entry.lost_creates, entry.attempts),
        error=EntryError(UnknownOutcome.__name__, unknown.message),
        # Nobody saw it end: it is held since it was sent.
        ended_at=entry.sent_at,
    )
