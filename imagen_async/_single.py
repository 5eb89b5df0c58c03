"""One job that somebody awaits: the owner behind `generate`, `submit` and `collect`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator
from typing import Any, Self

from ._core.change import Change
from ._core.job import Job as CoreJob
from ._core.states import Ended
from ._core.values import Result
from ._core.wire import clean
from ._core.wording import STATE_WORDS, StateWord, failure_of
from ._latch import Latch
from ._scheduler.change_stream import JobKeeper, Owner
from ._scheduler.scheduler import Scheduler
from ._watch.log import log
from .errors import UnknownOutcome


class Single:
    """The owner of one job that somebody awaits, or several do.

    Args:
        scheduler: Has the job.
        job: It.
        finish: Makes its result of it.
        journal: Keeps it beyond this process, or None.

    Attributes:
        job: As it is now.
    """

    __slots__ = (
        "_callers",
        "_ended",
        "_finish",
        "_is_dropped",
        "_is_told",
        "_journal",
        "_moved",
        "_result",
        "_scheduler",
        "job",
    )

    def __init__(
        self,
        scheduler: Scheduler,
        job: CoreJob,
        finish: Callable[[CoreJob], Result],
        journal: JobKeeper | None = None,
    ) -> None:
        self.job: CoreJob = job
        self._scheduler = scheduler
        self._finish = finish
        self._journal = journal
        self._callers = 1
        self._moved = Latch()
        self._ended = Latch()
        self._result: Result | None = None
        self._is_dropped = self._is_told = False

    def begin(self) -> None:
        """Hand the job to the scheduler."""
        self._scheduler.enter(self.job.owner, Owner(self._on_change, self._closing, self._journal))
        self._scheduler.add(self.job)

    @classmethod
    def ended(cls, scheduler: Scheduler, job: CoreJob, result: Result) -> Self:
        """One whose job ended before it was asked for."""
        single = cls(scheduler, job, lambda ended: result)
        single._result, single._is_told = result, True
        single._moved.set()
        single._ended.set()
        return single

    def join(self) -> None:
        """Hear that one more waits for the job."""
        self._callers += 1

    def drop(self) -> None:
        """Stop waiting for the job, once all have who did. An end that was paid for and told nobody is logged."""
        self._callers -= 1
        if self._callers:
            return
        self._is_dropped = True
        if self._result is None:
            self._scheduler.drop(self.job.owner)
        self._log_untold()

    def withhold(self) -> None:
        """Have it sent no more, if it was not yet; what is on its way, or runs, goes on."""
        if self._result is None:
            self._scheduler.withhold(self.job.owner)

    @property
    def is_over(self) -> bool:
        """True once it has ended."""
        return self._ended.is_set()

    def end(self) -> Result:
        """What it came to; raises the job's error when it failed."""
        self._raise_failure()
        assert self._result is not None
        self._is_told = True
        return self._result

    @property
    def is_dropped(self) -> bool:
        """True once nobody waits for it any more."""
        return self._is_dropped

    async def moved(self) -> None:
        """Wait until its task exists, or it has ended without one."""
        await self._moved.wait()

    async def over(self) -> None:
        """Wait until it has ended, whatever it came to."""
        await self._ended.wait()

    async def outcome(self) -> Result:
        """Wait for the end; returns also a result with an error."""
        await self._ended.wait()
        assert self._result is not None
        self._is_told = True
        return self._result

    async def task_id(self) -> str:
        """Wait until the provider has taken the task; raises the job's error when it ended without one."""
        self._scheduler.home.check()
        await self._moved.wait()
        if self.job.task_id is None:
            self._raise_failure()
        assert self.job.task_id is not None
        if self._scheduler.services is not None:
            self._scheduler.services.hand_out(self.job)
        return self.job.task_id

    async def result(self) -> Result:
        """Wait for the end; raises the job's error when it failed."""
        self._scheduler.home.check()
        await self._ended.wait()
        return self.end()

    def _raise_failure(self) -> None:
        """Raise the job's error, if it failed: one of its own for each who asks."""
        failure = failure_of(self.job)
        if failure is not None:
            self._is_told = True
            raise failure.exception()

    def _closing(self) -> None:
        """The client is being left."""
        self._is_dropped = True

    def _on_change(self, change: Change, now: float) -> None:
        self.job = change.after
        if isinstance(self.job.state, Ended):
            self._result = self._finish(self.job)
            self._scheduler.exit(self.job.owner)
            self._ended.set()
            self._log_untold()
        # Also at an end without a task: whoever waits for its id is to get the error.
        if self._result is not None or self.job.task_id is not None:
            self._moved.set()

    def _log_untold(self) -> None:
        result = self._result
        if not self._is_dropped or self._is_told or result is None:
            return
        self._is_told = True
        if isinstance(result.error, UnknownOutcome):
            log(logging.WARNING, "nobody waited for the end of %r: %s", result.key, result.error)
        elif result.task_id is not None:
            what = "it is paid for: collect it" if result.error is None else result.error.message
            # A journal has it, for whoever asks next.
            level = logging.WARNING if self._journal is None else logging.INFO
            log(level, "%s: nobody waited for task %s: %s", result.provider, clean(result.task_id), what)


class Job:
    """A task that the provider took. Await it for its result, as often as you like.

    Attributes:
        task_id: The provider's; `Client.collect` takes it, in another process too.
        key: The request's key.
    """

    def __init__(self, single: Single, task_id: str) -> None:
        self._single = single
        self.task_id = task_id
        self.key: str = single.job.key

    @property
    def state(self) -> StateWord:
        """Where it stands: `running`, `ready` (made, and not taken in yet), `done` or `failed`, and so on."""
        return STATE_WORDS[type(self._single.job.state)]

    def done(self) -> bool:
        """True once it has ended, well or not; as a task of asyncio has it."""
        return self._single.is_over

    def result(self) -> Result:
        """Its result, without waiting; as a task of asyncio has it. Free to repeat.

        Raises:
            asyncio.InvalidStateError: It has not ended yet: await it, or see `done()`.
            ImagenError: It failed; the same that awaiting it raises.
        """
        if not self._single.is_over:
            raise asyncio.InvalidStateError(f"The job is {self.state}: await it for its result.")
        return self._single.end()

    def __await__(self) -> Generator[Any, Any, Result]:
        return self._single.result().__await__()

    def __repr__(self) -> str:
        return f"Job(task_id={self.task_id!r}, key={self.key!r})"
