"""A batch's journal at work: what earlier runs know of each request, and what this one is to be known by."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from functools import cached_property
from pathlib import PurePath

import anyio
import msgspec

from ._callbacks import log_stray
from ._core.callbacks import Address, Seal
from ._core.job import Job, Submitting
from ._core.journal_entry import JournalEntry, bill_of, entry_of, is_denied
from ._core.latency import MEMORY
from ._core.poll_schedule import Kind
from ._core.resuming import changes, earlier_result, held, resumed, sent_again
from ._core.transitions import with_last
from ._core.values import ImageRequest, Result, numbered
from ._folders import sweep
from ._group_commit import GroupCommit
from ._job_factory import JobFactory
from ._journal import Journal, JournalReader
from ._log import log
from ._scheduler import now
from .errors import ConfigurationError, InvalidRequest, JournalError

_SECRET = "callback_secret"
"""The note with the secret of a journal's callback tokens."""


class TakenUp(msgspec.Struct, frozen=True):
    """A request that an earlier run has sent, and that goes on: its job's id, and the job as it would be made new."""

    job_id: int
    like: Job


class Memory:
    """The memory of one batch.

    Args:
        journal: Its path, or one that the caller has opened, and closes.
        factory: Makes the batch's jobs.
        again: The states of earlier runs from which a request is sent once more.
        hears: True where callbacks are asked for.
        executor: Where the journal is written; None: a thread of its own.

    Attributes:
        unmet: Requests of earlier runs that are not sent again, and that the input has not come to yet.
    """

    unmet: int = 0

    def __init__(
        self,
        journal: str | PurePath | Journal,
        factory: JobFactory,
        *,
        again: frozenset[str] = frozenset({"queued"}),
        expects_callbacks: bool = False,
        executor: Executor | None = None,
    ) -> None:
        self._given = journal
        self._factory = factory
        self._again = again
        self._expects_callbacks = expects_callbacks
        self._executor = executor
        self._taken_up: dict[str, int] = {}
        self._denied: set[int] = set()
        self._with_lost: dict[bytes, tuple[str, str]] = {}
        self._called_back: set[Address] = set()
        self._open_bills = 0.0

    async def open(self) -> None:
        """Open the journal; raises JournalError."""
        given = self._given
        self._journal = given if isinstance(given, Journal) else await _opened(given)
        self._journal.begin_run()
        self.unmet = sum(count for state, count in self._journal.counts().items() if state not in self._again)
        self._commit = GroupCommit(self._journal, self._executor)

    async def close(self) -> None:
        """Write what is left, and close what was opened here; raises JournalError when it cannot be written."""
        try:
            await self._commit.close()
        finally:
            self._journal.end_run()
            if self._journal is not self._given:
                self._journal.close()

    @cached_property
    def _notes_before(self) -> dict[str, str]:
        """The journal's notes of earlier runs."""
        return self._journal.notes()

    @cached_property
    def seal(self) -> Seal:
        """Makes the tokens of its jobs' callbacks: always the same, so that a later process knows them."""
        secret = self._notes_before.get(_SECRET)
        if secret is None:
            secret = secrets.token_hex(32)
            self._journal.note({_SECRET: secret})
        return Seal(bytes.fromhex(secret))

    def take_up(self, owner: int, new_id: Callable[[], int], wait: Callable[[Job], float]) -> list[Job]:
        """The jobs of earlier runs whose tasks exist, or of which a callback may tell yet.

        Args:
            owner: Whose they are to be.
            new_id: Makes their ids.
            wait: Seconds from a create for which a callback is waited for; 0: none will come.
        """
        folder = self._factory.save_to
        if folder is not None and self._journal.guards(folder):
            sweep(folder)
        jobs = []
        for entry in self._journal.unfinished():
            if self._factory.serves(entry.account) and entry.state not in self._again - {"unknown"}:
                jobs.append(self._resumed(entry, owner, new_id()))
                self._taken_up[entry.key] = jobs[-1].id
                self._open_bills += bill_of(entry).open
                if is_denied(entry):
                    self._denied.add(jobs[-1].id)
        return jobs + self._take_up_held(owner, new_id, wait)

    def _take_up_held(self, owner: int, new_id: Callable[[], int], wait: Callable[[Job], float]) -> list[Job]:
        """Know the held requests; of which a callback may soon tell, and that are not sent again, are waited for."""
        jobs = []
        # Before the secret there was nothing to call back to.
        is_waited_for = _SECRET in self._notes_before and "unknown" not in self._again
        for entry in self._journal.with_lost_creates() if self._expects_callbacks else ():
            self._know(entry.key, entry.account)
            is_held = entry.state == "unknown" and entry.task_id is None
            if is_held and is_waited_for and self._factory.serves(entry.account):
                blank = self._factory.job_of(entry, owner, new_id())
                seconds = wait(blank)
                if (entry.sent_at or 0.0) + seconds > time.time():
                    jobs.append(held(entry, blank, now(), self._epoch, seconds))
                    self._taken_up[entry.key] = blank.id
        return jobs

    def account_of(self, name: bytes) -> str | None:
        """Whose tasks a request's lost creates have made, by what stands for it in tokens; None where none was lost."""
        return self._with_lost[name][1] if name in self._with_lost else None

    async def called_back(self, address: Address, task_id: str, owner: int, number: int) -> Job | None:
        """The job of a held request that nobody waits for any more, now that a callback tells its task.

        None where nobody can ask about that task: it is in the log, and, of a held request of another account, noted.

        Raises:
            JournalError: That it is held, or what the callback tells, could not be written.
        """
        if address.name not in self._with_lost:
            return None
        key, account = self._with_lost[address.name]
        is_news = address not in self._called_back
        self._called_back.add(address)
        try:
            await self._commit.durable(key)
        except JournalError:
            self._called_back.discard(address)
            raise
        entry = self._journal.find(key) if is_news else None
        if entry is None or address.create not in entry.lost_creates or entry.task_id == task_id:
            return None
        if entry.state != "unknown" or entry.task_id is not None or self._journal.find_task(task_id) is not None:
            log_stray(account, task_id)
            return None
        lost_creates = with_last(entry.lost_creates, address.create)
        told = msgspec.structs.replace(entry, task_id=task_id, lost_creates=lost_creates)
        if not self._factory.serves(account):
            self._commit.note(told)
            await self._commit.durable(key)
            return None
        self._taken_up[key] = number
        return self._resumed(told, owner, number)

    def is_given_up(self, job_id: int) -> bool:
        """True for a job taken up whose task the provider denied, where the caller wants new tasks of what failed."""
        return job_id in self._denied and "failed" in self._again

    def spent(self, account: str, window: float) -> list[float]:
        """When the places are free again that earlier processes took in an account's window, in loop time.

        One whose answer's time is not known may have reached the server until just now.
        """
        present, epoch = now(), self._epoch
        sent = self._journal.sent_since(account, epoch + present - window)
        return [window + (present if accepted is None else min(present, accepted - epoch)) for _, accepted in sent]

    def latencies(self, account: str) -> list[tuple[Kind, float]]:
        """How long the account's latest tasks took, oldest first."""
        return latencies_of(self._journal, account)

    def spent_before(self) -> float:
        """Credits that the journal's jobs have cost, or may have; without what is to come for those taken up."""
        bills = self._journal.bills()
        unknown = sum(count for bill, count in bills if not bill.is_known)
        if unknown:
            log(
                logging.WARNING,
                "%s: nobody knows what %d earlier tasks have cost: no budget counts them",
                self._journal.path,
                unknown,
            )
        return sum(bill.total * count for bill, count in bills) - self._open_bills

    def meet(self, item: str | ImageRequest, index: int, owner: int, number: int) -> Job | Result | TakenUp:
        """Say what a request is to this journal: a job to send, an earlier result, or a job taken up.

        Raises:
            InvalidRequest: It fits no model, its key came twice, or its key stood for something else before.
        """
        job = self._factory.job(item, index, owner, number)
        _check_writable(job.request)
        job = self._numbered(job, has_key=isinstance(item, ImageRequest) and item.key is not None)
        entry = None if self._journal.is_new else self._journal.find(job.key)
        if entry is None:
            return job
        self._check_unchanged(entry, item)
        self.unmet -= entry.state not in self._again
        if entry.key in self._taken_up:
            return TakenUp(self._taken_up[entry.key], like=job)
        is_elsewhere = entry.state == "unknown" and job.way.only(entry.account) is None
        if entry.state in self._again and not is_elsewhere:
            return sent_again(entry, job)
        return self._earlier(entry, job)

    @property
    def _epoch(self) -> float:
        # Looked up anew each time: the machine may have slept, or its clock been set.
        return time.time() - now()

    def remember(self, job: Job) -> Awaitable[None] | None:
        """What ends once the job, as it is, is on disk, with JournalError when it cannot be; None: it is."""
        if isinstance(job.state, Submitting):
            self.note(job)
            return self._durable_intent(job)
        return self._commit.durable(job.key) if self._commit.has(job.key) else None

    async def _durable_intent(self, job: Job) -> None:
        # Shielded like the create itself: whether that goes is the plan's to say then, not whoever cancels.
        with anyio.CancelScope(shield=True):
            await self._commit.durable(job.key)

    def note(self, job: Job) -> None:
        """Have the journal say, soon and in order, how a job is now."""
        entry = entry_of(job, now(), self._epoch)
        if entry is not None:
            self._commit.note(entry)
        if job.lost_creates:
            self._know(job.key, job.account)

    def _know(self, key: str, account: str) -> None:
        """Know a request with a lost create by what stands for it in tokens."""
        if self._expects_callbacks:
            self._with_lost[self.seal.name(key)] = (key, account)

    def _resumed(self, entry: JournalEntry, owner: int, number: int) -> Job:
        blank = self._factory.job_of(entry, owner, number)
        if entry.state == "unknown":
            return held(entry, blank, now(), self._epoch, 0.0)
        return resumed(entry, blank, now(), self._epoch)

    def _numbered(self, job: Job, *, has_key: bool) -> Job:
        """Tell requests of one content apart by their occurrence; refuse a given key that comes again."""
        times = self._journal.times_seen(job.key)
        if has_key and times > 1:
            raise InvalidRequest(f"The key {job.key!r} came {times} times in this input; keys must differ.")
        if times == 1:
            return job
        key = numbered(job.key, times)
        if self._journal.times_seen(key) > 1:
            raise InvalidRequest(f"The key {key!r}, made for this request, was given to another one; keys must differ.")
        return msgspec.structs.replace(job, key=key)

    def _check_unchanged(self, entry: JournalEntry, item: str | ImageRequest) -> None:
        found = changes(entry, self._factory.as_before(entry, item))
        if found:
            what = f"The key {entry.key!r} stood for another request in this journal: {'; '.join(found)}"
            raise InvalidRequest(f"{what}. Change it back, give the request a new key, or choose another journal.")

    def _earlier(self, entry: JournalEntry, job: Job) -> Result | Job:
        is_served = self._factory.serves(entry.account)
        if entry.state == "done" and job.save_to is not None and entry.urls and not entry.files and is_served:
            return self._resumed(entry, job.owner, job.id)
        result = earlier_result(entry)
        is_unsaved = entry.state == "done" and job.save_to is not None and entry.urls and not entry.files
        if entry.state not in ("running", "ready") and not is_unsaved:
            return result
        message = f"Its task belongs to {entry.account}, which this client does not have: resume with that account"
        error = ConfigurationError(f"{message}.", provider=entry.account, task_id=entry.task_id)
        return msgspec.structs.replace(result, error=error)


def latencies_of(journal: JournalReader, account: str) -> list[tuple[Kind, float]]:
    """How long an account's latest tasks took, by kind, oldest first: as many as a schedule remembers."""
    known = journal.latencies(account, MEMORY)
    return [((request.model or "", request.images), latency) for request, latency in known]


async def _opened(path: str | PurePath) -> Journal:
    """Open a journal off the loop. Whoever is cancelled meanwhile leaves none open."""
    opening = asyncio.get_running_loop().run_in_executor(None, Journal, path)
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(lambda opened: opened.result().close() if opened.exception() is None else None)
        raise


def _check_writable(request: ImageRequest) -> None:
    """Refuse what no journal can hold, such as half a character, or a field of the user's own that is no JSON."""
    try:
        msgspec.json.encode(request)
    except (TypeError, ValueError, msgspec.MsgspecError) as error:
        raise InvalidRequest(f"The request cannot be written to the journal: {error}.") from None
