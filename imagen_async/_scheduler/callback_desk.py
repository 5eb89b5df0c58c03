"""What becomes of a callback whose token is good: its job hears of it, or the journal that has its request."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import msgspec

from .._callbacks import CallbackClaim, CallbackRegistry, log_stray
from .._core.callbacks import SIGNATURE, TIMESTAMP, task_hinted_at, task_named_by
from .._core.job import Job
from .._core.shared_limits import HandedOn
from .._core.states import Claimed, Confirming, Orphaned, Sending
from .._watch.log import log
from ..errors import InvalidRequest, JournalError
from .scheduler import Scheduler


class Others(Protocol):
    """Other clients that know our tokens, and we theirs; `Mailbox` is how they are reached."""

    async def hand_on(self, callback: HandedOn) -> None: ...

    def listen(self, listener: Callable[[Sequence[HandedOn]], None]) -> None: ...


class CallbackDesk:
    """Takes callbacks, for one opening of a client.

    Args:
        registry: Knows whose callback is whose.
        scheduler: Has the jobs that live.
        mask: Masks what is secret.
        others: Other processes whose callbacks may come here, and whose receivers may get ours; None: there are none.

    Attributes:
        registry: As given.
    """

    def __init__(
        self,
        registry: CallbackRegistry,
        scheduler: Scheduler,
        mask: Callable[[str], str] = str,
        others: Others | None = None,
    ) -> None:
        self.registry = registry
        self._scheduler = scheduler
        self._mask = mask
        self._others = others
        self._heard: set[int] = set()
        if others is not None:
            others.listen(self._hear_from_others)

    async def hear(self, token: str, headers: Mapping[str, str], document: Mapping[str, Any]) -> bool | None:
        """Take a callback whose body has come: by now its job, or its batch, may have come to an end.

        Returns:
            Whether it was taken: False where it is not signed as it must be, None where its token is not ours.

        Raises:
            JournalError, OSError: What it tells could not be noted, or handed on; whoever called is to call again.
        """
        claim = self.registry.find(token)
        if claim is None:
            return None
        if _is_of_others(claim):
            if self._others is not None:
                await self._others.hand_on(_handed_on(token, headers, document))
            claim = await self._of_the_dead(claim)
        if not self.registry.is_genuine(claim, headers, document):
            return False
        # What is signed is the task id at its documented places alone.
        named_by = task_hinted_at if self.registry.key_of(claim.account or "") is None else task_named_by
        named = named_by(document)
        # Masked, as an answer is: who calls knows the key.
        await self.take(claim, None if named is None else self._mask(named))
        return True

    async def _of_the_dead(self, claim: CallbackClaim) -> CallbackClaim:
        """Whose it is, where a journal has the request of a process that lives no more."""
        journal = self.registry.journal_of(claim)
        account = None if journal is None else await journal.account(claim.address.name)
        return claim if account is None else msgspec.structs.replace(claim, account=account)

    def _hear_from_others(self, callbacks: Sequence[HandedOn]) -> None:
        """Take those that others have handed on, each once, as far as they are about jobs of this client."""
        # What is nobody's may be ours a moment later: its request is taken over from a process that has died.
        self._heard &= {each.number for each in callbacks}
        for each in callbacks:
            claim = None if each.number in self._heard else self.registry.find(each.token)
            if claim is not None and not _is_of_others(claim):
                self._heard.add(each.number)
                self._scheduler.start(partial(self._hear_one, each))

    async def _hear_one(self, callback: HandedOn) -> None:
        headers = {TIMESTAMP: callback.timestamp, SIGNATURE: callback.signature}
        document = {"data": {"taskId": callback.named} if callback.named else {"recordId": callback.hinted}}
        try:
            await self.hear(callback.token, headers, document)
        except (JournalError, InvalidRequest, OSError) as error:
            # Whoever called was answered, and will not call again; the status is asked for all the same.
            log(logging.WARNING, "a callback that was handed on could not be taken: %s", error)

    async def take(self, claim: CallbackClaim, task_id: str | None) -> None:
        """Act on a callback: its task is asked about at once. What it tells is safe once this returns."""
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


def _is_of_others(claim: CallbackClaim) -> bool:
    """True for a good token of a job that this client has not, nor had, and no journal of it waits for."""
    return claim.job_id is None and claim.ending is None and claim.account is None


def _handed_on(token: str, headers: Mapping[str, str], document: Mapping[str, Any]) -> HandedOn:
    lower = {name.lower(): value for name, value in headers.items()}
    signed = lower.get(TIMESTAMP, ""), lower.get(SIGNATURE, "")
    return HandedOn(token, task_named_by(document), task_hinted_at(document), *signed)


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
