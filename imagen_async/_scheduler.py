"""The one loop, and the exchange: does what the plan decides, for all jobs of a client, and decides nothing itself."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Protocol

import anyio
import anyio.lowlevel
import msgspec

from ._callbacks import CallbackClaim, CallbackRegistry, log_stray
from ._core.job import (
    Done,
    Event,
    Final,
    Held,
    Job,
    Links,
    NotSaved,
    Ready,
    Running,
    Saved,
    SendAborted,
    Submitting,
)
from ._core.plan import Plan
from ._core.values import ImageFile, Result
from ._core.wire import (
    Accepted,
    ConnectFailed,
    Created,
    Dialect,
    HttpRequest,
    HttpResponse,
    Lost,
    NoAnswer,
    Pending,
    Succeeded,
    TaskStatus,
    clean,
)
from ._core.wording import result_of
from ._log import log
from ._observer import Observer
from ._plain_group import PlainGroup
from .errors import ConfigurationError, DownloadFailed, ImagenError, JournalError, ProtocolError, TransportError

GRACE = 1.5
"""Seconds that leaving waits for the answers of creates that are on the way: their task ids are worth it."""

BREATH = 0.001
"""Seconds between two looks at the plan that changes ask for: a thousand a second are enough for any limit."""

SAVE_AT_LEAST = 60.0
"""Seconds that a download may take even when the job's deadline is near: the picture is paid for."""


class Transport(Protocol):
    """What carries a request to an account and brings the answer; `SessionPool.send` is one."""

    def __call__(
        self, account: str, request: HttpRequest, *, within: float | None = None
    ) -> Awaitable[HttpResponse]: ...


class Owner(Protocol):
    """Who waits for jobs."""

    def closing(self) -> None:
        """The client is being left, or its loop has ended: no jobs are taken in, and none that runs is waited for."""

    def remember(self, job: Job) -> Awaitable[None] | None:
        """What ends once the job, as it is, would be known after a crash, with JournalError if not; None: it is."""

    def moved(self, job: Job) -> None:
        """The job is in another state and goes on; with `Running` it has a task id."""

    def asked(self, job: Job) -> None:
        """A status call goes out for the job."""

    def finished(self, job: Job) -> None:
        """The job ended."""


Save = Callable[[Result, str], Awaitable[tuple[ImageFile, ...]]]


class Scheduler:
    """The shell around one plan.

    Attributes:
        callbacks: Knows whose callback is whose; None: none are asked for.
        observer: Tells what happens to whoever listens.
    """

    def __init__(
        self,
        group: PlainGroup,
        plan: Plan,
        dialects: Mapping[str, Dialect],
        send: Transport,
        save: Save,
        callbacks: CallbackRegistry | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.callbacks = callbacks
        self.observer: Observer = observer or Observer()
        self._group = group
        self._plan = plan
        self._dialects = dialects
        self._send = send
        self._save = save
        self._owners: dict[int, Owner] = {}
        self._now = asyncio.get_running_loop().time
        self._changed = asyncio.Event()
        self._settled = asyncio.Event()
        self._room = asyncio.Event()
        self._at_the_door: set[int] = set()
        self._workers: list[anyio.CancelScope] = []
        self._resting: list[asyncio.Future[Job]] = []
        self._alarm: asyncio.TimerHandle | None = None
        self._rings_at = math.inf
        self._looked_at = -math.inf
        self._odd_states: set[tuple[str, str]] = set()
        self._silent: set[str] = set()
        self._last_id = 0
        self._is_closed = self._is_delivering = False

    @property
    def plan(self) -> Plan:
        """What is decided here; for looking at."""
        return self._plan

    def now(self) -> float:
        """Seconds of its loop's clock; also where that loop does not run at the moment."""
        return self._now()

    def new_id(self) -> int:
        """A number that no job or owner of this client has."""
        self._last_id += 1
        return self._last_id

    def enter(self, owner_id: int, owner: Owner) -> None:
        """Say who is to hear of the jobs with this owner's id; raises ConfigurationError when the client was left."""
        if self._is_closed:
            raise ConfigurationError("The client was left; open it again, and make this anew.")
        self._owners[owner_id] = owner

    def exit(self, owner_id: int) -> None:
        """Forget an owner; what its jobs still hear is logged."""
        self._owners.pop(owner_id, None)
        if self.callbacks is not None:
            self.callbacks.disconnect(owner_id)

    def start(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run something beside the loop, until it ends or the client is left."""
        self._group.start_soon(work)

    def add(self, job: Job) -> None:
        """Take in a job, whose owner hears when it ends; one whose owner has left is not taken in."""
        if job.owner not in self._owners:
            return
        if self.callbacks is not None and (job.lost_creates or isinstance(job.state, Running | Held)):
            self.callbacks.expect(job)
        time = self._now()
        self.observer.job(job, time)
        self._plan.add(job, time)
        self._deliver()
        self._notice()

    async def room(self, owner_id: int) -> None:
        """Wait until some account could soon send another create of an owner, or none takes any more."""
        if len(self._owners) > 1:
            # Several batches take turns, one request each; a lone one need not give way.
            await anyio.lowlevel.checkpoint()
        self._at_the_door.add(owner_id)
        try:
            while self._plan.is_open and not self._plan.wants_more(owner_id):
                self._room.clear()
                await self._room.wait()
        finally:
            self._at_the_door.discard(owner_id)

    async def run(self) -> None:
        """The loop. Runs until it is cancelled."""
        try:
            while True:
                self._changed.clear()
                time = self._looked_at = self._now()
                for job in self._plan.take(time):
                    self._begin(job)
                self._deliver()
                self._look_by(self._plan.wake_at(time))
                await self._changed.wait()
        finally:
            # However it ended: nobody may wait for what will not come.
            self._close_owners()

    async def hear(self, claim: CallbackClaim, task_id: str | None) -> None:
        """Act on a callback: its task is asked about at once. What it tells is safe once this returns.

        Raises:
            JournalError: What it tells could not be noted; whoever called is to call again.
        """
        job = None if claim.job_id is None else self._plan.find(claim.job_id)
        if job is None:
            await self._hear_late(claim, task_id)
            return
        changed = self._plan.hear(job.id, claim.address.create, task_id, self._now())
        named = job.task_id or _told(job)
        if changed is None or self._plan.has_begun(job.id):
            # Where another create has left meanwhile, its task is the job's, should it be accepted.
            _log_stray(claim, task_id, named, job.lost_creates)
        self._notice()
        owner = self._owners.get(job.owner)
        if owner is None:
            return
        if changed is not None:
            owner.moved(changed)
            if type(changed.state) is not type(job.state):
                self.observer.job(changed, self._now())
        # Also where it is no news: what was told the first time may not be safe yet.
        is_told = changed is not None or (task_id is not None and _told(job) == task_id)
        if is_told and (waiting := owner.remember(changed or job)) is not None:
            await waiting

    async def _hear_late(self, claim: CallbackClaim, task_id: str | None) -> None:
        """A callback for a job that nobody waits for: for a held one it is news."""
        assert self.callbacks is not None
        journal = self.callbacks.journal_of(claim)
        if claim.job_id is not None and claim.account is not None:
            self._plan.heard_late(claim.account, claim.job_id)
        if journal is not None and (claim.ending is None or claim.ending.is_unknown):
            if task_id is not None:
                await journal.called_back(claim.address, task_id)
        elif claim.ending is not None:
            _log_stray(claim, task_id, claim.ending.task_id, claim.ending.lost_creates)

    def drop(self, owner_id: int) -> None:
        """Stop sending and asking for an owner's jobs; a create that is on the way is heard out."""
        self._plan.leave(owner_id)
        self._deliver()
        self._notice()

    def withhold(self, owner_id: int) -> None:
        """Send none of an owner's jobs that wait to be sent; those on the way and those that run go on."""
        self._plan.withhold(owner_id)
        self._deliver()
        self._notice()

    async def leave(self, *owner_ids: int) -> None:
        """Drop these owners' jobs, and wait up to `GRACE` seconds for the answers of their creates on the way."""
        for owner_id in owner_ids:
            self.drop(owner_id)
        try:
            with anyio.move_on_after(GRACE, shield=True):
                while any(job.owner in owner_ids for job in self._plan.jobs):
                    self._settled.clear()
                    await self._settled.wait()
        finally:
            # Also when a second cancellation cuts the waiting short: what is known by now must be told.
            for owner_id in owner_ids:
                self._plan.abandon(owner_id)
            self._deliver()
            for owner_id in owner_ids:
                self.exit(owner_id)

    async def close(self) -> None:
        """Leave for every owner, then end the loop and whatever still talks."""
        self._close_owners()
        try:
            await self.leave(*self._owners)
        finally:
            self._silence()
            for worker in self._workers:
                worker.cancel()
            self._group.cancel()

    def _close_owners(self) -> None:
        self._is_closed = True
        for owner in list(self._owners.values()):
            owner.closing()

    def _notice(self) -> None:
        """Have the loop look at the plan: now, or shortly after its last look. Changes come in swarms."""
        if self._now() >= self._looked_at + BREATH:
            self._changed.set()
        else:
            self._look_by(-math.inf)

    def _look_by(self, time: float) -> None:
        """Have the loop look at the plan at that time."""
        # Not at once: uvloop's alarms ring up to a millisecond early, and nothing would be due yet, again and again.
        time = max(time, self._looked_at + BREATH)
        # An alarm that rings too early stays: a look too many costs less than a new alarm at every change.
        if time < self._rings_at:
            self._silence()
            self._alarm = asyncio.get_running_loop().call_at(time, self._ring)
            self._rings_at = time

    def _ring(self) -> None:
        self._rings_at = math.inf
        self._changed.set()

    def _silence(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()

    def _deliver(self) -> None:
        finished = self._plan.finished
        # Once at a time: who hears of an end may end others, and these come next, not in between.
        while finished and not self._is_delivering:
            self._is_delivering = True
            try:
                self._end(finished.popleft())
            finally:
                self._is_delivering = False
        if self._at_the_door and (any(map(self._plan.wants_more, self._at_the_door)) or not self._plan.is_open):
            self._room.set()

    def _end(self, job: Job) -> None:
        if self.callbacks is not None:
            self.callbacks.end(job)
        owner = self._owners.get(job.owner)
        if owner is not None:
            owner.finished(job)
        # Told last: whatever a listener does, the result is where it belongs.
        self.observer.job(job, self._now())

    def _begin(self, job: Job) -> None:
        """Let a job talk: in a task that has done with another's, or in a new one, which costs four times as much."""
        if isinstance(job.state, Submitting):
            self.observer.job(job, self._now())
        # A task that the program has cancelled rests no more.
        while self._resting and self._resting[-1].done():
            self._resting.pop()
        if self._resting:
            self._resting.pop().set_result(job)
        else:
            # Shielded: whatever is cancelled around the client, the answer to a create is heard if it comes in time.
            # Known before it runs, so that `close` ends also one that has not begun.
            worker = anyio.CancelScope(shield=True)
            self._workers.append(worker)
            self._group.start_soon(self._work, job, worker)

    async def _work(self, job: Job, worker: anyio.CancelScope) -> None:
        """Let one job after the other talk, until `close` ends it."""
        with worker:
            while True:
                await self._exchange(job)
                resting: asyncio.Future[Job] = asyncio.get_running_loop().create_future()
                self._resting.append(resting)
                job = await resting

    async def _exchange(self, job: Job) -> None:
        """Let one job talk, and settle what came of it."""
        try:
            event = await self._withheld(job) or await self._talk(job)
        except Exception as error:  # a bug of ours; no job may be lost and no create repeated for it
            log(logging.ERROR, "unexpected error while job %s talked", job.key, exc_info=True)
            event = _after_bug(job, ProtocolError(f"Unexpected {type(error).__name__}: {error}"))
        settled = self._plan.settle(job, event, self._now())
        owner = self._owners.get(job.owner)
        if settled is not None and owner is not None:
            if type(settled.state) is not type(job.state) and not isinstance(settled.state, Final):
                owner.moved(settled)
                self.observer.job(settled, self._now())
        elif isinstance(event, Accepted):
            name = clean(event.task_id)
            log(logging.WARNING, "%s: nobody waits for task %s; it is paid for: collect it", job.account, name)
        if self.callbacks is not None:
            self._warn_of_silence(job.account, self.callbacks)
        self.observer.account(self._plan.upstreams[job.account], self._now())
        self._deliver()
        self._settled.set()
        self._notice()

    async def _withheld(self, job: Job) -> SendAborted | None:
        """Have the owner remember the job before it talks; returns why its create may not go, or None.

        A task that exists is asked about and fetched also when that cannot be remembered: it is paid for.
        """
        owner = self._owners.get(job.owner)
        unsent = isinstance(job.state, Submitting)
        waiting = None if owner is None else owner.remember(job)
        try:
            if waiting is not None:
                await waiting
        except JournalError as error:
            if unsent:
                return SendAborted(error)
        return SendAborted() if unsent and not self._plan.may_send(job) else None

    async def _talk(self, job: Job) -> Event:
        match job.state:
            case Submitting():
                return await self._create(job)
            case Running(task_id=task_id) | Held(told=str(task_id)):
                return await self._ask(job, task_id)
            case Ready():
                return await self._fetch(job, job.state)
        raise AssertionError(f"a job that is {type(job.state).__name__} has nothing to say")

    async def _create(self, job: Job) -> Created:
        """Send a create, once."""
        dialect = self._dialects[job.account]
        callback_url = None if self.callbacks is None else self.callbacks.url_of(job)
        request = dialect.build_create(job.request, job.model, callback_url)
        self._plan.begin_create(job)
        try:
            return dialect.read_created(await self._send(job.account, request))
        except TransportError as error:
            return Lost(error) if error.sent else ConnectFailed(error)
        except ImagenError as error:
            return Lost(error)

    async def _ask(self, job: Job, task_id: str) -> TaskStatus:
        dialect = self._dialects[job.account]
        owner = self._owners.get(job.owner)
        if owner is not None:
            owner.asked(job)
        left = max((job.due or math.inf) - self._now(), 0.1)
        try:
            response = await self._send(job.account, dialect.build_status(task_id), within=left)
            status = dialect.read_status(response)
        except ImagenError as error:
            return NoAnswer(error)
        if isinstance(status, Pending) and not status.known:
            self._warn_of_state(job.account, status.state)
        return status

    async def _fetch(self, job: Job, state: Ready) -> Saved | NotSaved:
        assert job.save_to is not None
        left = (job.expires_at or math.inf) - self._now()
        try:
            with anyio.fail_after(max(left, SAVE_AT_LEAST)):
                outcome = state.outcome
                if state.links is Links.RENEWED:
                    outcome = await self._renewed(job.account, outcome)
                result = result_of(job.to(Done(state.task_id, outcome)))
                return Saved(await self._save(result, job.save_to))
        except ImagenError as error:
            return NotSaved(error, error.files if isinstance(error, DownloadFailed) else ())
        except TimeoutError:
            return NotSaved(DownloadFailed("The picture could not be fetched in time; its URL is on the result."))

    async def _renewed(self, account: str, outcome: Succeeded) -> Succeeded:
        """Ask for new links to the pictures; raises DownloadFailed where the provider gives none."""
        dialect = self._dialects[account]
        urls = []
        for url in outcome.urls:
            request = dialect.build_renewal(url)
            if request is None:
                gone = DownloadFailed(f"The provider gives no new link for {url}.")
                gone.gone = True
                raise gone
            urls.append(dialect.read_renewal(await self._send(account, request)))
        return msgspec.structs.replace(outcome, urls=tuple(urls))

    def _warn_of_silence(self, account: str, callbacks: CallbackRegistry) -> None:
        if account not in self._silent and self._plan.upstreams[account].poll_queue.reliability.are_silent:
            self._silent.add(account)
            message = "%s: tasks end and no callback comes: can it reach %s from where it is? Polling goes on."
            log(logging.WARNING, message, account, callbacks.public_url)

    def _warn_of_state(self, account: str, word: str) -> None:
        if (account, word) not in self._odd_states:
            self._odd_states.add((account, word))
            log(logging.WARNING, "%s: unknown task state %r is taken for: not finished", account, word)


def _after_bug(job: Job, error: ImagenError) -> Event:
    if isinstance(job.state, Submitting):
        return Lost(error)
    return NoAnswer(error) if isinstance(job.state, Running | Held) else NotSaved(error)


def _told(job: Job) -> str | None:
    """The task that a callback has named, and that is to be confirmed."""
    return job.state.told if isinstance(job.state, Submitting | Held) else None


def _log_stray(claim: CallbackClaim, task_id: str | None, own: str | None, lost_creates: tuple[int, ...]) -> None:
    """Tell of a task that a lost create has made after all, where its job has another one, or has ended without."""
    if claim.address.create not in lost_creates or (task_id is not None and task_id == own):
        return
    if task_id is None:
        log(
            logging.WARNING,
            "%s: a create whose answer was lost has made a task; its callback does not say which",
            claim.account,
        )
    else:
        log_stray(claim.account, task_id)


def now() -> float:
    """Seconds of the running loop's clock."""
    return asyncio.get_running_loop().time()
