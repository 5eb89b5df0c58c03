"""One job that somebody awaits: the owner behind `generate`, `submit` and `collect`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from ._core.job import Job
from ._core.values import Result
from ._core.wire import clean
from ._log import log
from ._scheduler import Scheduler
from .errors import UnknownOutcome


class Single:
    """The owner of one job that somebody awaits."""

    def __init__(self, scheduler: Scheduler, job: Job, finish: Callable[[Job], Result]) -> None:
        self.job: Job = job
        self._scheduler = scheduler
        self._finish = finish
        self._moved = asyncio.Event()
        self._ended = asyncio.Event()
        self._result: Result | None = None
        self._is_dropped = self._is_told = False

    def begin(self) -> None:
        """Hand the job to the scheduler."""
        self._scheduler.enter(self.job.owner, self)
        self._scheduler.add(self.job)

    def drop(self) -> None:
        """Stop waiting for the job. An end that was paid for and told nobody is logged."""
        self._is_dropped = True
        if self._result is None:
            self._scheduler.drop(self.job.owner)
        self._log_untold()

    async def task_id(self) -> str:
        """Wait until the provider has taken the task; raises the job's error when it ended without one."""
        await self._moved.wait()
        if self.job.task_id is None and self._result is not None and self._result.error is not None:
            self._is_told = True
            raise self._result.error
        assert self.job.task_id is not None
        return self.job.task_id

    async def result(self) -> Result:
        """Wait for the end; raises the job's error when it failed."""
        await self._ended.wait()
        assert self._result is not None
        self._is_told = True
        if self._result.error is not None:
            raise self._result.error
        return self._result

    def closing(self) -> None:
        """Hear that the client is being left. Called by the scheduler."""
        self._is_dropped = True

    def remember(self, job: Job) -> None:
        """Nothing: a job of its own is not journalled. Called by the scheduler."""

    def moved(self, job: Job) -> None:
        """Hear that the job goes on in another state. Called by the scheduler."""
        self.job = job
        if job.task_id is not None:
            self._moved.set()

    def asked(self, job: Job) -> None:
        """Nothing: nobody counts its calls. Called by the scheduler."""

    def finished(self, job: Job) -> None:
        """Hear that the job ended. Called by the scheduler."""
        self.job = job
        self._result = self._finish(job)
        self._scheduler.exit(job.owner)
        self._moved.set()
        self._ended.set()
        self._log_untold()

    def _log_untold(self) -> None:
        result = self._result
        if not self._is_dropped or self._is_told or result is None:
            return
        self._is_told = True
        if isinstance(result.error, UnknownOutcome):
            log(logging.WARNING, "nobody waited for the end of %r: %s", result.key, result.error)
        elif result.task_id is not None:
            what = "it is paid for: collect it" if result.error is None else result.error.message
            log(logging.WARNING, "%s: nobody waited for task %s: %s", result.provider, clean(result.task_id), what)
