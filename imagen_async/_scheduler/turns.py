"""A job's turn, from when the plan has given it to what came of it: noted, let go, talked, settled, published."""

from __future__ import annotations

import logging
from collections.abc import Awaitable

from .._core.failure import Failure
from .._core.job import Job
from .._core.job_events import Event, SendAborted, TurnMissed, Unsendable
from .._core.plan import Plan
from .._core.states import Confirming, Fetching, Preparing, Running
from .._core.upstream import may_leave
from .._core.wire import Accepted, clean
from .._home_loop import HomeLoop
from .._watch.log import log
from ..errors import ImagenError, InvalidRequest
from .change_stream import ChangeStream
from .exchange import Exchange, unexpected

LONGEST_TURN = 30.0
"""Seconds from when a create's intent is noted until it leaves: half of the minute that a store counts for its way."""


class Turns:
    """Has jobs talk, one turn each.

    Args:
        plan: Gives the turns, and is told what came of them.
        exchange: Does the talking.
        stream: Takes what changed by it.
    """

    def __init__(self, plan: Plan, exchange: Exchange, stream: ChangeStream) -> None:
        self._plan = plan
        self._exchange = exchange
        self._stream = stream
        self._home = HomeLoop()
        self._now = self._home.loop.time

    async def talk(self, job: Job) -> None:
        """Let one job talk, and settle what came of it."""
        event = await self._talked(job)
        now = self._now()
        changes = self._plan.settle(job, event, now)
        # The job has ended meanwhile, for its caller did not wait: only the log can keep the id now.
        if isinstance(event, Accepted) and not changes:
            name = clean(event.task_id)
            log(logging.WARNING, "%s: nobody waits for task %s; it is paid for: collect it", job.account, name)
        self._stream.publish(changes, now)

    async def _talked(self, job: Job) -> Event:
        # Before anything is noted: while its files are uploaded, it is as if its turn had not come.
        if isinstance(job.state, Preparing):
            return await self._exchange.prepare(job)
        began_at = self._now()
        noting = self._stream.durable(job)
        failure = None if noting is None else await _not_noted(job, noting)
        match job.state:
            # What exists is asked about and fetched also when that cannot be noted: it is paid for.
            case Running() | Confirming() as state:
                return await self._exchange.ask(job, state)
            case Fetching() as state:
                return await self._exchange.fetch(job, state)
        # A create whose intent is not on disk would be made again after a crash: it does not go.
        if failure is not None:
            # Where the journal can be written, but for this one, only this one fails.
            return Unsendable(failure) if failure.is_a(InvalidRequest) else SendAborted(failure)
        return await self._created(job, began_at)

    async def _created(self, job: Job, began_at: float) -> Event:
        is_late = False

        def leaves() -> bool:
            nonlocal is_late
            is_late = self._is_too_late(job, began_at)
            return not is_late and self._leaves(job)

        event = await self._exchange.create(job, leaves)
        return TurnMissed() if is_late and isinstance(event, SendAborted) else event

    def _is_too_late(self, job: Job, began_at: float) -> bool:
        """Say whether a create is to wait for another turn.

        Whoever takes over from this process counts its place in the window from when its intent was noted: that must
        not be long ago, as where the process stood still since.
        """
        now = self._now()
        if now - began_at > LONGEST_TURN or self._home.is_forked():
            return True
        return not may_leave(self._plan.upstreams[job.account], now)

    def _leaves(self, job: Job) -> bool:
        """Ask for the last time whether a create may go; from a yes on a task may exist."""
        now = self._now()
        changes = self._plan.leaves(job, now)
        # Nobody's turn comes by this.
        self._stream.publish(changes, now, is_quiet=True)
        return bool(changes)


async def _not_noted(job: Job, noting: Awaitable[None]) -> Failure | None:
    """Have the job noted, as it is; returns why that cannot be, or None."""
    try:
        await noting
    except ImagenError as error:
        return Failure.of(error)
    # A store of the user's own may raise what it likes; nothing leaves that is not noted.
    except Exception as error:
        return unexpected(job, error)
    return None
