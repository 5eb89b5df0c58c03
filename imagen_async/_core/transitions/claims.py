"""What a callback names: good enough to keep a create from being sent again, and to ask the provider; no more."""

from __future__ import annotations

import msgspec

from ...errors import TransportError
from ..failure import Failure
from ..job import Job
from ..job_events import CallbackNamed
from ..states import AwaitingCallback, Claim, Claimed, Confirming, Noting, Orphaned, Preparing, Queued, Sending
from ..wording import unknown_outcome
from .ends import is_unknown

replace = msgspec.structs.replace

PATIENCE = 30.0
"""Seconds for which "no such task" and "not allowed" are taken for transient (seen just after creation)."""

_EARLIER = Failure(TransportError, "that of an earlier one")


def claim_queued(job: Job, state: Queued, event: CallbackNamed, now: float) -> Job:
    """A lost create of it has made a task: another one is not sent."""
    # Only a create whose answer was lost can have made a task that is not known.
    if event.create not in job.lost_creates:
        return job
    # When that create was lost is not kept while another one is to be sent: its age counts from now.
    return confirm_claim(job, unknown_of(job, state.fallback), _claim(event), now, now + 2 * PATIENCE)


def claim_noting(job: Job, state: Noting | Preparing, event: CallbackNamed, now: float) -> Job:
    """The same in the last moment before another create leaves."""
    if event.create not in job.lost_creates:
        return job
    return claim_queued(put_back(job, state), Queued(fallback=state.fallback), event, now)


def claim_sending(job: Job, state: Sending | Orphaned, event: CallbackNamed, now: float) -> Job:
    """The create that is on the way has made a task, or one before it; its own answer is heard first."""
    # A refused one made nothing: a callback that says so is wrong, or forged.
    if event.create not in (job.attempts, *job.lost_creates):
        return job
    if isinstance(state, Sending):
        return job.to(Claimed(_claim(event), state.fallback))
    # The first name stands: it is asked about, and another one may come after its denial.
    return job if state.claim is not None else job.to(replace(state, claim=_claim(event)))


def claim_awaited(job: Job, state: AwaitingCallback, event: CallbackNamed, now: float) -> Job:
    """What was waited for."""
    if event.create not in job.lost_creates:
        return job
    return confirm_claim(job, state.unknown, _claim(event), state.since, max(state.until, now + 2 * PATIENCE))


def confirm_claim(job: Job, unknown: Failure, claim: Claim, since: float, until: float) -> Job:
    state = Confirming(unknown, since=since, until=until, task_id=claim.task_id)
    return replace(job, lost_creates=with_last(job.lost_creates, claim.create), state=state)


def put_back(job: Job, state: Noting | Preparing) -> Job:
    # No byte has left, so it was no create, and its number is the next one's.
    return replace(job, attempts=job.attempts - 1, state=Queued(fallback=state.fallback))


def unknown_of(job: Job, fallback: Failure | None) -> Failure:
    """What a job that waits or is sent again comes to, if it comes to nothing else than its lost create."""
    return fallback if fallback is not None and is_unknown(fallback) else unknown_outcome(job, _EARLIER)


def _claim(event: CallbackNamed) -> Claim:
    return Claim(event.create, event.task_id)


def with_last(creates: tuple[int, ...], named: int) -> tuple[int, ...]:
    """Lost creates in an order that tells of which of them a callback has told."""
    return (*(create for create in creates if create != named), named)
