"""Single requests of a client with a journal: a key is one task, whoever asks for it, and whatever process has died."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Self

import msgspec

from ._clock import now
from ._core.failure import Failure
from ._core.job import Job
from ._core.job_events import Readmitted
from ._core.journal_entry import JournalEntry, failure_of, is_denied
from ._core.resuming import as_ended, awaited, different, earlier_result, is_at_end, repeated, resumed, sent_again
from ._core.routing import Router
from ._core.values import ImageRequest, Result
from ._core.wording import result_of
from ._job_factory import blank_job
from ._latch import Latch
from ._scheduler.errands import LEFT
from ._scheduler.scheduler import Scheduler
from ._single import Single
from .errors import ConfigurationError, DeadlineExceeded, ImagenError, InvalidRequest

if TYPE_CHECKING:
    # They load sqlite3, which only a client with a journal needs.
    from ._journal.singles import SingleJournal
    from ._journal.store import Claim

WAIT = 0.15
"""Seconds between two looks at what another process is at work on."""

AT_ONCE = 1000
"""Requests of ended processes that are collected at once."""

_FINAL = ("done", "failed")
"""States of which nobody will ever hear more; to all others it matters whose they are."""

_WITH_A_TASK = ("running", "ready")


class _Ask:
    """A key that somebody asks for in this process, and what it comes to.

    Args:
        job: Its job as it would be made new.
        again: The states of an earlier task from which a new one is made.
        is_new: False where it is only gone on with: nothing of it is sent, and no other process is waited for.

    Attributes:
        job: As given.
        again: As given.
        is_new: As given.
        callers: Who waits for it to be known what it is.
        known: Set once that is so.
        single: Then what they wait for, or None.
        failure: Then why there is nothing to wait for, or None.
    """

    __slots__ = ("again", "callers", "failure", "is_new", "job", "known", "single")

    def __init__(self, job: Job, again: frozenset[str], *, is_new: bool = True) -> None:
        self.job = job
        self.again = again
        self.is_new = is_new
        self.callers = 0
        self.known = Latch()
        self.single: Single | None = None
        self.failure: Failure | None = None

    async def wait(self) -> Single | None:
        """What there is to wait for, one caller's share of it; raises what keeps it from being."""
        if self.single is not None:
            self.single.join()
            return self.single
        self.callers += 1
        try:
            await self.known.wait()
        except BaseException:
            self.callers -= 1
            if self.single is not None:
                self.single.drop()
            raise
        if self.failure is not None:
            raise self.failure.exception()
        return self.single


class Durable:
    """A client's single requests, each with a row in its journal.

    Args:
        journal: Open.
        scheduler: Has the jobs.
        router: Knows what a request leaves to a model's default.
        finish: Makes a result the user's.
        gone: Accounts whose tasks have ended with the process that began them, and cost nothing: they are made anew.
        save_to: The folder for the pictures, or None.
        named: Accounts where creates are known by their names: what was on its way is sent once more, as it was.

    Attributes:
        mark: What tells its journal from any other; it opens nothing.
    """

    def __init__(
        self,
        journal: SingleJournal,
        scheduler: Scheduler,
        router: Router,
        finish: Callable[[Result], Result],
        gone: frozenset[str],
        save_to: str | None,
        named: frozenset[str] = frozenset(),
    ) -> None:
        self.mark: str = journal.seal.name("journal").hex()
        self._named = named
        self._journal = journal
        self._scheduler = scheduler
        self._router = router
        self._finish = finish
        self._gone = gone
        self._save_to = save_to
        self._asks: dict[str, _Ask] = {}
        self._left: set[str] = set()  # a moment ago: on disk they may be this process's still

    async def single(self, job: Job, *, retry_failed: bool, waits: bool = False) -> Single:
        """One request's share of what its key comes to; raises ImagenError.

        Args:
            job: As it would be made new, with its key where it was given one.
            retry_failed: True where a task that failed, or of which nobody knows, is to be made anew.
            waits: True where its time counts from when it first goes out, and not from now.
        """
        if not job.request.key:
            # What has no name is nobody's but this caller's: no other request may ever have the key.
            job = msgspec.structs.replace(job, key=f"{job.key}-{secrets.token_hex(8)}")
        ask = await self._live(job)
        if ask is None:
            ask = self._ask(job, frozenset({"failed", "unknown"} if retry_failed else ()), waits=waits)
        single = await ask.wait()
        assert single is not None
        return single

    async def unfinished(self) -> list[JournalEntry]:
        """The requests that have not ended and whose process does not live; raises ImagenError."""
        for key in tuple(self._left):
            await self._release(key)
        return [entry for entry in await self._journal.abandoned() if entry.key not in self._asks]

    async def look_up(self, keys: Sequence[str]) -> list[JournalEntry | None]:
        """What the journal has of some keys; nothing is sent, or asked of a provider. Raises ImagenError."""
        for key in keys:
            with suppress(ImagenError):  # what cannot be written: told is what is there
                await self._journal.written(key)
        return await self._journal.ask(lambda store: [store.find(key) for key in keys])

    async def take_over(self, entry: JournalEntry, deadline: float) -> Single | None:
        """What an ended process has left of a request, gone on with; None where it is another one's by now.

        Raises:
            ImagenError: It cannot be gone on with here.
        """
        if entry.key in self._asks:
            return None
        _check_served(self._router, entry)
        if entry.account in self._gone:
            message = "Its sandbox has ended with the client that had started it: ask for its key, and it is made anew."
            raise ConfigurationError(message, provider=entry.account, task_id=entry.task_id)
        job = blank_job(self._router, entry, self._scheduler.new_id(), deadline, self._save_to)
        return await self._ask(job, frozenset(), is_new=False).wait()

    async def _live(self, job: Job) -> _Ask | None:
        """What this process is at work on already under a key, where that is the same request."""
        while (ask := self._asks.get(job.key)) is not None:
            if ask.single is None or not ask.single.is_dropped:
                self._check_same(ask.job.request, ask.job.model.name, job)
                return ask
            # Whoever asked has left, and its create is heard out: what comes of that is to be gone on with.
            await ask.single.over()
        return None

    def _ask(self, job: Job, again: frozenset[str], *, is_new: bool = True, waits: bool = False) -> _Ask:
        if not waits:
            job = msgspec.structs.replace(job, expires_at=now() + job.deadline)
        ask = self._asks[job.key] = _Ask(job, again, is_new=is_new)
        # Beside whoever asks: one who is cancelled takes nothing from the others.
        self._scheduler.start(partial(self._settle, ask))
        return ask

    async def _settle(self, ask: _Ask) -> None:
        try:
            ask.single = await self._begun(ask)
        except ImagenError as error:
            ask.failure = Failure.of(error)
        finally:
            if ask.single is None:
                self._asks.pop(ask.job.key, None)
                if ask.failure is None and ask.is_new:
                    ask.failure = Failure(ConfigurationError, LEFT)
            ask.known.set()
        if ask.single is not None:
            for _ in range(ask.callers - 1):
                ask.single.join()
            if not ask.callers:
                ask.single.drop()

    async def _begun(self, ask: _Ask) -> Single | None:
        """What a key is, in the journal: an earlier result, a task that goes on, or a new one."""
        key = ask.job.key
        # Of an earlier job of this process not all may be on disk yet.
        await self._journal.written(key)
        claim = await self._claimed(ask)
        if claim.is_others:
            return None
        if not claim.is_ours:
            return self._earlier(ask, claim.entry)
        try:
            return self._gone_on(ask, claim.entry)
        except BaseException:
            # Where nothing comes of it, it is as it was, and anybody's.
            await self._journal.put_back(claim.entry)
            raise

    async def _claimed(self, ask: _Ask) -> Claim:
        """The row of a key, once it has ended or nobody else is at work on it."""
        due = ask.job.expires_at or now() + ask.job.deadline
        entry, again = self._journal.entry_of(msgspec.structs.replace(ask.job, expires_at=due)), ask.again
        assert entry is not None
        while True:
            claim = await self._journal.claim(entry, again, held=self._scheduler.callbacks is not None)
            found = claim.entry
            await self._check_row(ask, claim)
            if claim.is_ours:
                return claim
            is_free = found.account in self._gone | (self._named if ask.is_new else frozenset())
            if found.state == "unknown" and is_free and not (claim.is_others or "unknown" in again):
                again |= {"unknown"}
            elif not claim.is_others or not ask.is_new:
                return claim
            else:
                self._check_time(ask, found)
                await asyncio.sleep(WAIT)

    async def _check_row(self, ask: _Ask, claim: Claim) -> None:
        """Refuse a key that stands for another request."""
        try:
            self._check_same(claim.entry.request, claim.entry.model, ask.job)
        except InvalidRequest:
            if claim.is_ours:
                await self._journal.put_back(claim.entry)
            raise

    def _check_same(self, before: ImageRequest, made_by: str, job: Job) -> None:
        found = different(before, self._router.as_before(before, job.request, made_by or None))
        if found:
            what = (
                f"The key {job.key!r} stood for another request in {self._journal.name}: {'; '.join(map(str, found))}"
            )
            raise InvalidRequest(f"{what}. Nothing was sent. Change it back, or give the request a new key.")

    def _check_time(self, ask: _Ask, found: JournalEntry) -> None:
        """Give up what another process is at work on, once nobody waits for it any more or its time is over."""
        if not ask.callers:
            raise ConfigurationError(LEFT)
        if ask.job.is_due(now()):
            what = f"Another process is at work on the key {found.key!r}, and has not finished"
            message = f"{what} within {ask.job.deadline:g} s: ask again with the same key"
            raise DeadlineExceeded(message, provider=found.account, task_id=found.task_id)

    def _earlier(self, ask: _Ask, entry: JournalEntry) -> Single:
        """What has ended, as it did."""
        if entry.state == "done" and self._save_to and entry.account in self._router.providers and not is_at_end(entry):
            # A process that saved nothing has made it: this one fetches it, and pays nothing.
            return self._begin(ask, self._resumed(ask, entry))
        self._asks.pop(entry.key, None)
        return Single.ended(self._scheduler, as_ended(entry, ask.job), self._finish(earlier_result(entry)))

    def _gone_on(self, ask: _Ask, entry: JournalEntry) -> Single | None:
        """What this process is at work on from now on."""
        is_gone = entry.account in self._gone and entry.state not in ("queued", "failed")
        if entry.state in _WITH_A_TASK and not is_gone:
            _check_served(self._router, entry)
            single = self._begin(ask, self._resumed(ask, entry))
            if "failed" in ask.again and is_denied(entry):
                # The provider did not know the task when it was last asked: if it does not now, there is to be another.
                self._scheduler.readmit(single.job.id, Readmitted(0, 0, ask.job.route, True, ask.job.next_if_refused))
            return single
        own = ask.job.way.only(entry.account, entry.model)
        if entry.state == "unknown" and entry.account in self._named and ask.is_new and own is not None:
            return self._begin(ask, repeated(entry, ask.job))
        if entry.state == "unknown" and "unknown" not in ask.again and not is_gone:
            return self._begin(ask, self._awaited(ask, entry))
        if not ask.is_new:
            raise ConfigurationError("It was never sent.")
        if is_gone:
            entry = msgspec.structs.replace(entry, state="queued", lost=0, lost_creates=())
        elif entry.state == "unknown" and own is None:
            # Sent to another account, its task might stand beside the one that the lost create has made.
            raise _error_of(entry)
        return self._begin(ask, sent_again(entry, ask.job))

    def _awaited(self, ask: _Ask, entry: JournalEntry) -> Job:
        """What waits for the callback of a create whose process is gone, or for its named task to be confirmed."""
        _check_served(self._router, entry)
        blank = blank_job(self._router, entry, ask.job.id, ask.job.deadline, self._save_to)
        seconds, epoch = self._scheduler.callback_wait(blank), self._journal.past_epoch()
        # Later than that none comes: it stays held, until somebody has looked at the provider.
        if entry.task_id is None and (entry.sent_at or 0.0) + seconds <= epoch + now():
            raise _error_of(entry)
        return awaited(entry, blank, now(), epoch, seconds)

    def _resumed(self, ask: _Ask, entry: JournalEntry) -> Job:
        blank = blank_job(self._router, entry, ask.job.id, ask.job.deadline, self._save_to)
        return resumed(entry, blank, now(), self._journal.past_epoch())

    def _begin(self, ask: _Ask, job: Job) -> Single:
        """Hand a job to the scheduler; what another process has waited for counts in its time."""
        like = ask.job
        # No journal keeps whose turn it is: the one who asks now.
        own = {"index": 0, "expires_at": like.expires_at or job.expires_at, "caller": like.caller, "share": like.share}
        job = msgspec.structs.replace(job, **own)
        single = Single(self._scheduler, job, self._over, self._journal)
        single.begin()
        return single

    def _over(self, ended: Job) -> Result:
        """Hear that a job has ended, or was left; what is not finished with that is anybody's."""
        self._asks.pop(ended.key, None)
        entry = self._journal.entry_of(ended)
        if entry is None or entry.state not in _FINAL:
            self._left.add(ended.key)
            self._scheduler.start(partial(self._release, ended.key))
        else:
            self._journal.settled(ended.key)
        return self._finish(result_of(ended))

    async def _release(self, key: str) -> None:
        # What cannot be written stays this process's: on disk it is not what it is.
        with suppress(ImagenError):
            await self._journal.written(key)
            # Not once it is asked for anew, which takes it as it is.
            if key not in self._asks:
                await self._journal.release(key, lambda: key not in self._asks)
        self._left.discard(key)


class Resumption:
    """Collects what ended processes have left: an async iterator of results, as they finish.

    Args:
        durable: The client's.
        scheduler: Where it is done.
        deadline: Seconds for each.
    """

    def __init__(self, durable: Durable, scheduler: Scheduler, deadline: float) -> None:
        self._durable = durable
        self._scheduler = scheduler
        self._deadline = deadline
        self._left: deque[JournalEntry] | None = None
        self._results: deque[Result] = deque()
        self._live = 0
        self._news = asyncio.Event()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Result:
        self._scheduler.home.check()
        if self._left is None:
            found = await self._durable.unfinished()
            self._left = deque(entry for entry in found if entry.state != "queued")
        while True:
            while self._left and self._live < AT_ONCE:
                self._live += 1
                self._scheduler.start(partial(self._collect, self._left.popleft()))
            if self._results:
                return self._results.popleft()
            if not self._live:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()

    async def _collect(self, entry: JournalEntry) -> None:
        try:
            single = await self._durable.take_over(entry, self._deadline)
            if single is not None:
                self._results.append(await single.outcome())
        except ImagenError as error:
            failure = Failure.of(error).about(account=entry.account, task_id=entry.task_id)
            self._results.append(msgspec.structs.replace(earlier_result(entry), error=failure.exception()))
        finally:
            self._live -= 1
            self._news.set()


def _check_served(router: Router, entry: JournalEntry) -> None:
    if entry.account not in router.providers:
        what = f"Its task belongs to {entry.account}, which this client does not have"
        message = f"{what}: ask again with that account."
        raise ConfigurationError(message, provider=entry.account, task_id=entry.task_id)


def _error_of(entry: JournalEntry) -> ImagenError:
    """The error of an entry that has one."""
    failure = failure_of(entry)
    assert failure is not None
    return failure.exception()
