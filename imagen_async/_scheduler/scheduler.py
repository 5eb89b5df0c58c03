"""The one loop: does what the plan decides, for all jobs of a client, hands on what changed, and decides nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import anyio
import msgspec

from .._callbacks import CallbackClaim, CallbackRegistry, SilenceWatch
from .._core.job import Job
from .._core.job_events import OwnerGone, OwnerLeft, OwnerWithholds, Readmitted
from .._core.plan import OwnerTerms, Plan
from .._core.upstream import Upstreams
from .._core.values import Result
from .._home_loop import HomeLoop
from .._patience import Alarm
from .._plain_group import PlainGroup
from .._watch.observer import Observer
from ..errors import ConfigurationError
from .change_stream import ChangeStream, Owner
from .errands import LEFT, Errands
from .exchange import Exchange
from .leasing import Leasing
from .services import Services
from .turns import Turns
from .wakeup import Wakeup
from .workers import Workers

GRACE = 1.5
"""Seconds that leaving waits for the answers of creates that are on the way: their task ids are worth it."""


class Standing(msgspec.Struct, frozen=True):
    """How an owner's jobs and the accounts are, at one moment.

    Attributes:
        now: Loop time.
        jobs: Its live jobs.
        upstreams: The accounts; only to be looked at.
    """

    now: float
    jobs: tuple[Job, ...]
    upstreams: Upstreams


class _Door:
    """Where owners wait until they may bring more jobs."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.waiting: set[int] = set()
        self._opens = asyncio.Event()

    async def wait(self, owner_id: int) -> None:
        self.waiting.add(owner_id)
        try:
            # With no account left the door stands open: whoever waits is to learn that, and not to wait for ever.
            while self._plan.upstreams.take_creates and not self._plan.wants_more(owner_id):
                self._opens.clear()
                await self._opens.wait()
        finally:
            self.waiting.discard(owner_id)

    def look(self) -> None:
        if any(map(self._plan.wants_more, self.waiting)) or not self._plan.upstreams.take_creates:
            self._opens.set()


class Scheduler:
    """The shell around one plan.

    Args:
        group: Where its tasks run.
        plan: What is decided here.
        exchange: Does the talking.
        observer: Tells what happens to whoever listens.
        wakeup: Wakes its loop.
        errands: The calls about no task's state.
        callbacks: Knows which callback is about which job; None: none are asked for.
        services: Hears what services tell of their tasks; None: no account is one.

    Attributes:
        errands: As given.
        callbacks: As given.
        services: As given.
        home: The loop in which it is used.
        upstreams: The accounts; only to be looked at.
    """

    def __init__(
        self,
        group: PlainGroup,
        plan: Plan,
        exchange: Exchange,
        observer: Observer,
        wakeup: Wakeup,
        errands: Errands,
        callbacks: CallbackRegistry | None = None,
        services: Services | None = None,
    ) -> None:
        self.errands = errands
        self.callbacks = callbacks
        self.home: HomeLoop = HomeLoop()
        self.upstreams: Upstreams = plan.upstreams
        self._group = group
        self._plan = plan
        self._wakeup = wakeup
        self.services = services
        knowing = watching = None
        if callbacks is not None:
            knowing, watching = callbacks.on_change, SilenceWatch(plan.upstreams, callbacks.public_url).on_change
        heard = None if services is None else services.on_change
        self._stream = ChangeStream(knowing, watching, observer, self._published, heard)
        self._workers = Workers(group, Turns(plan, exchange, self._stream).talk)
        if services is not None:
            services.publish = self._stream.publish
        # Each needs the other: the stream has jobs talk, and what they say is published there.
        self._stream.talks = self._workers.on_turn
        self._door = _Door(plan)
        self._settled = asyncio.Event()
        self._last_id = 0
        self._is_closed = False

    def new_id(self) -> int:
        """A number that no job or owner of this client has."""
        self._last_id += 1
        return self._last_id

    def standing(self, owner_id: int) -> Standing:
        """How an owner's jobs are. Costs a look at each of them."""
        return Standing(self.home.now(), tuple(self._plan.jobs.of(owner_id)), self.upstreams)

    def callback_wait(self, job: Job) -> float:
        """Seconds from a create for which a callback may tell of a task whose answer was lost; 0: none will."""
        return self._plan.callback_wait(job)

    def enter(self, owner_id: int, owner: Owner) -> None:
        """Say who is to hear of the jobs with this owner's id; raises ConfigurationError when the client was left."""
        if self._is_closed:
            raise ConfigurationError(LEFT)
        self._stream.enter(owner_id, owner)

    def open(self, owner_id: int, terms: OwnerTerms) -> None:
        """Say on what terms an owner's jobs come in; before the first of them is added."""
        self._plan.open(owner_id, terms)

    def exit(self, owner_id: int) -> None:
        """Forget an owner; what its jobs still come to is told to the others."""
        self._stream.exit(owner_id)
        self._plan.forget(owner_id)
        for known in (self.callbacks, None if self.services is None else self.services.names):
            if known is not None:
                known.disconnect(owner_id)

    def start(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run something beside the loop, until it ends or the client is left."""
        self._group.start_soon(work)

    def add(self, job: Job) -> None:
        """Take in a job; one whose owner has left is not taken in."""
        if job.owner in self._stream.owners:
            self._stream.publish(self._plan.add(job, self.home.now()), self.home.now())

    def refused(self, result: Result, number: int) -> None:
        """Tell of a request of which no job was made."""
        self._stream.events.refused(result, number, self.home.now())

    def readmit(self, job_id: int, event: Readmitted) -> None:
        """Let a job that was taken up have leave to be sent again."""
        self._stream.publish(self._plan.tell(job_id, event, self.home.now()), self.home.now())

    async def room(self, owner_id: int) -> None:
        """Wait until some account could soon send another create of an owner, or none takes any more."""
        if len(self._stream.owners) > 1:
            # Several batches take turns, one request each; a lone one need not give way.
            await asyncio.sleep(0)
        await self._door.wait(owner_id)

    async def run(self) -> None:
        """The loop. Runs until it is cancelled."""
        leasing = Leasing(self._group, self._wakeup.notice)
        try:
            while True:
                time = self._wakeup.looks()
                changes = self._plan.take(time)
                if changes:
                    self._stream.publish(changes, time)
                # Once a look, and not at every change: what comes in is sent at the next look, whenever it comes.
                if self._door.waiting:
                    self._door.look()
                if self._plan.shares_limits:
                    leasing.look(self._plan.wants_places(time))
                await self._wakeup.wait(by=self._plan.wake_at(time))
        finally:
            # However it ended: nobody may wait for what will not come.
            self._close_owners()

    async def on_callback(self, claim: CallbackClaim, task_id: str | None) -> tuple[Job, bool] | None:
        """Take in a callback: its task is asked about at once. What it tells is safe once this returns.

        Returns:
            The job as it was before, and whether that was news of it; None where none lives.

        Raises:
            JournalError: What it tells could not be noted; whoever called is to call again.
        """
        if claim.job_id is None:
            return None
        job = self._plan.jobs.get(claim.job_id)
        create, account = claim.address.create, claim.account or ""
        changes = self._plan.on_callback(claim.job_id, account, create, task_id, self.home.now())
        self._stream.publish(changes, self.home.now())
        if job is None:
            return None
        # Also where it is no news: what its create's answer told, or another callback, may not be safe yet.
        # As the job is by now: what it was when the callback came may be on disk already.
        noting = self._stream.durable(self._plan.jobs.get(job.id, job))
        if noting is not None:
            await noting
        return job, bool(changes)

    def withhold(self, owner_id: int) -> None:
        """Send none of an owner's jobs that wait to be sent; those on the way and those that run go on."""
        _tell(self, OwnerWithholds(), owner_id)
        if self.services is not None:
            self.start(partial(self.services.call_off, [owner_id]))

    def drop(self, owner_id: int) -> None:
        """Stop sending and asking for an owner's jobs; a create that is on the way is heard out."""
        if self.services is not None:
            self.services.let_go(self._plan.jobs.of(owner_id))
        _tell(self, OwnerLeft(), owner_id)

    async def leave(self, *owner_ids: int) -> None:
        """Drop these owners' jobs, and wait up to `GRACE` seconds for the answers of their creates on the way."""
        # All of them before any waiting: from here on nothing more is sent, for leaving stops spending.
        _tell(self, OwnerLeft() if self.services is None else OwnerWithholds(), *owner_ids)
        try:
            # A cancellation around it would lose the ids of tasks that are paid for.
            with anyio.CancelScope(shield=True) as waiting:
                alarm = Alarm(GRACE, waiting.cancel)
                try:
                    if self.services is not None:
                        await self.services.call_off(owner_ids)
                        _tell(self, OwnerLeft(), *owner_ids)
                    while any(map(self._plan.jobs.has_any, owner_ids)):
                        self._settled.clear()
                        await self._settled.wait()
                finally:
                    alarm.stop()
        finally:
            # Also when a second cancellation cuts the waiting short: what is known by now must be told.
            _tell(self, OwnerGone(), *owner_ids)
            # Last: until here each of them hears what its jobs have come to.
            for owner_id in owner_ids:
                self.exit(owner_id)

    async def close(self) -> None:
        """Leave for every owner, then end the loop and whatever still talks."""
        self._close_owners()
        try:
            await self.leave(*self._stream.owners)
        finally:
            # The talks end last: it is their answers that leaving has waited for.
            self._wakeup.silence()
            self._workers.cancel()
            self._group.cancel()

    def _close_owners(self) -> None:
        self._is_closed = True
        self.errands.close()
        for owner in list(self._stream.owners.values()):
            owner.closing()

    def _published(self) -> None:
        """Have everybody look who waits for a change: the loop, with it newcomers at the door, and whoever leaves."""
        self._wakeup.notice()
        self._settled.set()


def waiting_for(scheduler: Scheduler, account: str) -> int:
    """Count the jobs that wait to be sent and may be to an account, whoever else takes them too."""
    return scheduler._plan.to_send.waiting_for(account)


def _tell(scheduler: Scheduler, event: OwnerWithholds | OwnerLeft | OwnerGone, *owner_ids: int) -> None:
    """Let all of these owners' jobs have what happens to them."""
    now = scheduler.home.now()
    for owner_id in owner_ids:
        scheduler._stream.publish(scheduler._plan.tell_all(owner_id, event, now), now)
