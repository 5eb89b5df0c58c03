"""A create on its way: its turn, its leaving, its answer. Whether it is sent again is decided here alone."""

from __future__ import annotations

import msgspec

from ...errors import ProtocolError
from ..failure import Failure
from ..job import Job
from ..job_events import Leaves, Prepared, SendAborted, Taken, TurnMissed, Unsendable
from ..states import (
    AwaitingCallback,
    Claimed,
    Ended,
    Failed,
    NotAdmitted,
    Noting,
    OnTheWay,
    Orphaned,
    Preparing,
    Queued,
    Running,
    Sending,
    Unknown,
)
from ..wire import Accepted, ConnectFailed, Lost, Rejected, Remedy
from ..wording import unknown_outcome
from .asking import failed, while_it_waits
from .claims import PATIENCE, confirm_claim, put_back, unknown_of
from .ends import expire, fallen_back, is_unknown, without_owner
from .move import Move

replace = msgspec.structs.replace

_LEFT = Failure(ProtocolError, "the program left before the answer came")


def take(job: Job, state: Queued, event: Taken, now: float) -> Job:
    """Let it be sent, to that account: its deadline runs from the first time."""
    # A job does not age while it waits for its first turn, and a second create does not renew its time.
    expires_at = now + job.deadline if job.expires_at is None else job.expires_at
    return replace(
        job,
        account=event.offer.account,
        model=event.offer.model,
        expires_at=expires_at,
        # Before it leaves: its callback's token is made of this number, and the journal has it first.
        attempts=job.attempts + 1,
        state=Preparing(state.fallback) if job.request.local_files else Noting(state.fallback),
    )


def prepare(job: Job, state: Preparing, event: Prepared, now: float) -> Job:
    """Its files are there: from here on it is as one that has none."""
    return job.to(Noting(state.fallback))


def refuse_files(job: Job, state: Preparing, event: Rejected, now: float) -> Job:
    """Its account takes nothing of it: nothing has left, and whoever else takes it may have it."""
    failure = event.failure.about(account=job.account)
    return _queued_again(put_back(job, state), Queued(failure, state.fallback), now)


def leave_home(job: Job, state: Noting, event: Leaves, now: float) -> Job:
    """Its create leaves."""
    return job.to(Sending(state.fallback))


def abort(job: Job, state: Noting | Preparing, event: SendAborted, now: float) -> Job:
    """Nothing has left: it is as if its turn had not come."""
    queued = put_back(job, state)
    # Its time was over before its connection was had: what comes of it now nobody would wait for.
    if event.failure is None and job.is_due(now):
        return expire(queued, queued.state, event, now)
    if event.failure is None:
        return queued.to(without_owner(queued))
    return queued.to(fallen_back(queued) or NotAdmitted(event.failure.about(account=job.account)))


def miss_connection(job: Job, state: Noting | Preparing, event: ConnectFailed, now: float) -> Job:
    """Nothing has left, for a passing reason: it is sent again, if its time is not over."""
    failure = event.failure.about(account=job.account)
    return _queued_again(put_back(job, state), Queued(failure, state.fallback), now)


def miss_turn(job: Job, state: Noting | Preparing, event: TurnMissed, now: float) -> Job:
    """Nothing has left: it waits for another turn, if its time is not over."""
    return _queued_again(put_back(job, state), Queued(fallback=state.fallback), now)


def give_up_writing(job: Job, state: Noting | Preparing, event: Unsendable, now: float) -> Job:
    """Nothing has left, and the next try would fail in the same way: this one request fails."""
    queued = put_back(job, state)
    ending = fallen_back(queued)
    return queued.to(ending if isinstance(ending, Unknown) else Failed(event.failure.about(account=job.account)))


def leave_noting(job: Job, state: Noting | Preparing, event: object, now: float) -> Job:
    """Nothing of it has left, and nothing will."""
    queued = put_back(job, state)
    return queued.to(without_owner(queued))


def accept(job: Job, state: OnTheWay, event: Accepted, now: float) -> Job:
    """It has a task, whatever a callback has said of another one."""
    if event.is_named:
        # What was lost under that name has come to this very task.
        job = replace(job, lost=0, is_lost_by_name=False)
    if event.waits:
        job = while_it_waits(job, now)
    return replace(job, task_field=event.field, state=Running(event.task_id, since=now))


def lose(job: Job, state: Sending, event: Lost, now: float) -> Job:
    """Hold it, or send it again: where it is known by its name the same, or another one where the caller wants that."""
    if event.is_named:
        # It may be there, so to nobody else.
        again = replace(_put_back(job, state), lost=1, is_lost_by_name=True, route=None)
        return _queued_again(again, Queued(event.failure.about(account=job.account), state.fallback), now)
    job = _count_lost(job)
    unknown = unknown_outcome(job, event.failure)
    if job.resubmits > 0:
        # Never to another account: there nobody could tell the two tasks for one.
        return replace(job, resubmits=job.resubmits - 1, route=None, state=Queued(unknown, fallback=unknown))
    # Never again by itself: clients that repeat such a create made three billed tasks of one call (measured).
    return _unknown_or_awaited(job, unknown, event.callback_wait, now)


def refuse(job: Job, state: Sending, event: Rejected, now: float) -> Job:
    """Nothing was made: send it again, or end it, as the refusal has it."""
    failure = event.failure
    queued = Queued(failure.about(account=job.account), state.fallback)
    match event.remedy:
        # Known to have made nothing, for a passing reason: nothing else is sent again to the same account by itself.
        case Remedy.BACK_OFF | Remedy.PAUSE:
            return _queued_again(_named_as_before(job, state), queued, now)
        case Remedy.REPEAT:
            return _queued_again(_put_back(job, state), queued, now)
        case Remedy.STOP | Remedy.CLOSE_MODEL:
            # Whoever else takes it may have it, and the plan ends it where nobody does.
            return _named_as_before(job, state).to(queued)
    if state.fallback is not None and is_unknown(state.fallback):
        # This create made nothing; the lost one before it may have.
        return _unknown_or_awaited(job, state.fallback, event.callback_wait, now)
    if event.remedy is Remedy.RENEW:
        # Once: what fails after that was made for this caller.
        again = replace(job, renews=False, lost=0, is_lost_by_name=False)
        return _queued_again(again, Queued(queued.failure, fallback=queued.failure), now)
    if job.is_lost_by_name:
        # Mostly by what stands before the service, or before its name was looked up: what was lost may be there.
        return job.to(Unknown(unknown_outcome(job, failure)))
    return failed(job, failure, None, may_retry=event.remedy is Remedy.NEW_TASK)


def _named_as_before(job: Job, state: Sending) -> Job:
    """The job, whose next create has the name of this one where a lost one had it: else that made a second task."""
    return _put_back(job, state) if job.is_lost_by_name else job


def _put_back(job: Job, state: Sending) -> Job:
    """The job of which the same create is sent again: it is one create, whatever of it has left."""
    return put_back(job, Noting(state.fallback))


def _queued_again(job: Job, queued: Queued, now: float) -> Job:
    job = job.to(queued)
    # Its time was not looked at while it talked.
    return expire(job, queued, None, now) if job.is_due(now) else job


def lose_claimed(job: Job, state: Claimed, event: Lost, now: float) -> Job:
    """Its answer was lost, and a callback has named a task already."""
    job = _count_lost(job)
    return confirm_claim(job, unknown_outcome(job, event.failure), state.claim, now, now + 2 * PATIENCE)


def refuse_claimed(job: Job, state: Claimed, event: Rejected, now: float) -> Job:
    """A callback says that there is a task: whatever this answer is, it is no leave to send another create."""
    # The callback is about this very create, so that its refusal cannot be the whole truth.
    if state.claim.create == job.attempts:
        return lose_claimed(job, state, Lost(event.failure), now)
    return confirm_claim(job, unknown_of(job, state.fallback), state.claim, now, now + 2 * PATIENCE)


def orphan(job: Job, state: Sending | Claimed, event: object, now: float) -> Job:
    """Its create is on the way: the answer is heard, if it comes in time."""
    return job.to(_orphaned(state))


def _orphaned(state: Sending | Claimed) -> Orphaned:
    return Orphaned(state.claim if isinstance(state, Claimed) else None, state.fallback)


def hear_out(job: Job, state: Orphaned, event: Accepted | Rejected | Lost, now: float) -> Job:
    """The answer to a create that nobody waits for: it ends as what the answer makes of it, and is not sent again."""
    claim = state.claim
    # The leave to pay for it twice was for a caller who waits.
    job = replace(job, resubmits=0)
    if claim is not None:
        claimed = Claimed(claim, state.fallback)
        moved = _CLAIMED[type(event)](job.to(claimed), claimed, event, now)
    else:
        sending = Sending(state.fallback)
        moved = _SENT[type(event)](job.to(sending), sending, event, now)
    return moved if isinstance(moved.state, Ended) else moved.to(without_owner(moved))


_SENT: dict[type, Move] = {Accepted: accept, Lost: lose, Rejected: refuse}
_CLAIMED: dict[type, Move] = {Accepted: accept, Lost: lose_claimed, Rejected: refuse_claimed}


def cut_off(job: Job, state: OnTheWay, event: object, now: float) -> Job:
    """The answer to its create is waited for no longer."""
    orphaned = state if isinstance(state, Orphaned) else _orphaned(state)
    job = hear_out(job.to(orphaned), orphaned, Lost(_LEFT), now)
    # What a callback has named has arrived.
    if orphaned.claim is None and isinstance(job.state, Unknown):
        return job.to(replace(job.state, is_on_the_way=True))
    return job


def _count_lost(job: Job) -> Job:
    return replace(job, lost=job.lost + 1, lost_creates=(*job.lost_creates, job.attempts))


def _unknown_or_awaited(job: Job, unknown: Failure, wait: float, now: float) -> Job:
    """Let it wait for a callback whose create was lost, where one may come within its time."""
    if not wait:
        return job.to(Unknown(unknown))
    until = now + wait if job.expires_at is None else min(now + wait, job.expires_at)
    return job.to(AwaitingCallback(unknown, since=now, until=until))
