"""What becomes of a callback whose token is good: its job hears of it, or the journal that has its request."""

from __future__ import annotations

import logging

from .._callbacks import CallbackClaim, CallbackRegistry, log_stray
from .._core.job import Job
from .._core.states import Claimed, Confirming, Orphaned, Sending
from .._watch.log import log
from .scheduler import Scheduler


class CallbackDesk:
    """Takes callbacks, for one opening of a client.

    Args:
        registry: Knows whose callback is whose.
        scheduler: Has the jobs that live.

    Attributes:
        registry: As given.
    """

    def __init__(self, registry: CallbackRegistry, scheduler: Scheduler) -> None:
        self.registry = registry
        self._scheduler = scheduler

    async def take(self, claim: CallbackClaim, task_id: str | None) -> None:
        """Act on a callback: its task is asked about at once. What it tells is safe once this returns.

        Raises:
            JournalError: What it tells could not be noted; whoever called is to call again.
        """
        told = await self._scheduler.on_callback(claim, task_id)
        if told is None:
            await self._take_late(claim, task_id)
            return
        job, is_news = told
        if not is_news or isinstance(job.state, Sending | Claimed | Orphaned):
            # Where another create has left meanwhile, its task is the job's, should it be accepted.
            _log_other_task(claim, task_id, job.task_id or _claimed_task(job), job.lost_creates)

    async def _take_late(self, claim: CallbackClaim, task_id: str | None) -> None:
        """A callback for a job that nobody waits for: for one whose create was lost it is news."""
        journal = self.registry.journal_of(claim)
        # Of what this process has not seen end the journal may know from an earlier run.
        if journal is not None and (claim.ending is None or claim.ending.is_unknown):
            if task_id is not None:
                await journal.called_back(claim.address, task_id)
        elif claim.ending is not None:
            if journal is not None:
                await journal.noted(claim.ending.key)
            _log_other_task(claim, task_id, claim.ending.task_id, claim.ending.lost_creates)


def _log_other_task(claim: CallbackClaim, task_id: str | None, own: str | None, lost_creates: tuple[int, ...]) -> None:
    """Tell of a task that a lost create has made after all, where its job has another one, or has ended without."""
    if claim.address.create not in lost_creates or (task_id is not None and task_id == own):
        return
    if task_id is not None:
        log_stray(claim.account, task_id)
        return
    message = "%s: a create whose answer was lost has made a task; its callback does not say which"
    log(logging.WARNING, message, claim.account)


def _claimed_task(job: Job) -> str | None:
    """The task that a callback has named, and that is to be confirmed."""
    match job.state:
        case Confirming(task_id=task_id):
            return task_id
        case Claimed(claim=claim) | Orphaned(claim=claim):
            return None if claim is None else claim.task_id
    return None
