"""What a journal remembers of a job. Knows rows as values, no file and no clock."""

from __future__ import annotations

from typing import Literal

import msgspec

from .. import errors
from ..errors import (
    AccountError,
    DeadlineExceeded,
    DownloadFailed,
    ImagenError,
    InvalidRequest,
    ModelUnavailable,
    ProtocolError,
    RateLimited,
    TransportError,
    UnknownOutcome,
)
from .job import Done, Failed, Held, Job, Left, NotAdmitted, Queued, Ready, Running, State, Submitting, Unknown
from .transitions import advance
from .values import ImageFile, ImageRequest
from .wire import Lost, Succeeded, TaskFailed
from .wording import billed, lost_create

EntryState = Literal["queued", "submitting", "running", "ready", "done", "failed", "unknown"]

# "No such task" is one: another key, or another address, knows it.
_NO_WORD_ABOUT_THE_TASK = DeadlineExceeded | AccountError | TransportError | ProtocolError | InvalidRequest


class EntryError(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error of the tree: the name of its class, its message, the provider's code."""

    type: str
    message: str
    code: int | str | None = None


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

    @property
    def at_risk(self) -> float | None:
        """Credits that its lost creates may have cost; None: unknown."""
        return None if self.price is None else self.price * self.lost


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
        return max(0.0, self.credits or 0.0) + untold + self.at_risk + self.open


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
    state: State = job.state.was if isinstance(job.state, Left) else job.state
    match state:
        case Queued(held=UnknownOutcome() as unknown):
            return _entry(job, "unknown", unknown, ended_at=epoch + now)
        case Queued() if job.expires_at is None:
            return None  # never handed out in this process: it is as it was
        case Queued(held=ImagenError() as failure):
            return _entry_of_failed(job, Failed(failure), epoch + now)
        case Queued(error=error):
            return _entry(job, "queued", error)
        case Submitting(told=None):
            return _entry(job, "submitting", sent_at=epoch + now)
        case Submitting(told=str()):
            # Its own answer is yet to come. Whoever called back was answered, and will not call again after a crash.
            error = TransportError("it had not come yet")
            return entry_of(advance(job, Lost(error), now), now, epoch)
        case Held(error=unknown, told=task_id):
            return _entry(job, "unknown", unknown, task_id=task_id, ended_at=epoch + now)
        case Running(finished=None):
            return _entry(job, "running", task_id=state.task_id, accepted_at=epoch + state.since)
        case Ready(task_id=task_id, outcome=outcome):
            return _entry(job, "ready", task_id=task_id, outcome=outcome)
        case Done(task_id=task_id, outcome=outcome, files=files):
            return _entry(job, "done", task_id=task_id, outcome=outcome, files=files, ended_at=epoch + now)
        case Failed():
            return _entry_of_failed(job, state, epoch + now)
        case Unknown(error=unknown):
            return _entry(job, "unknown", unknown, task_id=unknown.task_id, ended_at=epoch + now)
        case NotAdmitted(error=error):
            is_new = job.expires_at is not None or not job.attempts
            return _entry(job, "queued", error) if is_new else None
    return None  # its links died and it is asked about again: what is known stays `ready`


def _entry_of_failed(job: Job, state: Failed, at: float) -> JournalEntry:
    """A failed job is remembered by what is true at the provider: a task that may still finish is still running."""
    error, outcome = state.error, state.outcome
    if isinstance(outcome, Succeeded):
        is_gone = isinstance(error, DownloadFailed) and error.gone
        how: EntryState = "failed" if is_gone else "ready"
        return _entry(job, how, error, task_id=job.task_id, outcome=outcome, files=state.files, ended_at=at)
    if outcome is None and isinstance(error, _NO_WORD_ABOUT_THE_TASK) and job.task_id is not None:
        return _entry(job, "running", error, task_id=job.task_id)
    is_transient = isinstance(error.__cause__, RateLimited | TransportError | AccountError | ModelUnavailable | None)
    if isinstance(error, DeadlineExceeded) and job.task_id is None and is_transient:
        return _entry(job, "queued", error)
    return _entry(job, "failed", error, task_id=job.task_id, outcome=outcome, ended_at=at)


def _entry(
    job: Job,
    state: EntryState,
    error: ImagenError | None = None,
    *,
    task_id: str | None = None,
    outcome: Succeeded | TaskFailed | None = None,
    files: tuple[ImageFile, ...] = (),
    sent_at: float | None = None,
    accepted_at: float | None = None,
    ended_at: float | None = None,
) -> JournalEntry:
    succeeded = outcome if isinstance(outcome, Succeeded) else None
    return JournalEntry(
        key=job.key,
        position=job.index,
        state=state,
        account=job.account,
        request=job.request,
        task_id=task_id,
        urls=succeeded.urls if succeeded else (),
        files=files,
        error=None if error is None else EntryError(type(error).__name__, error.message, error.code),
        credits=billed(job, outcome),
        price=job.model.price(job.request),
        latency=succeeded.latency if succeeded else None,
        attempts=job.attempts,
        retried=job.retried,
        lost=job.lost,
        lost_creates=job.lost_creates,
        sent_at=sent_at,
        accepted_at=accepted_at,
        ended_at=ended_at,
    )


def error_of(entry: JournalEntry) -> ImagenError | None:
    """The error that an entry holds, as it was raised."""
    if entry.error is None:
        return None
    name = entry.error.type
    kind: type[ImagenError] = getattr(errors, name) if name in errors.__all__ else ImagenError
    error = kind(entry.error.message, provider=entry.account, task_id=entry.task_id, code=entry.error.code)
    if isinstance(error, UnknownOutcome):
        error.credits = entry.at_risk
    return error


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
        lost_creates=(*entry.lost_creates, entry.attempts),
        error=EntryError(UnknownOutcome.__name__, unknown.message),
        ended_at=entry.sent_at,
    )
