"""Accounts that are services: their streams of ends are heard while tasks run there, and tasks are called off there."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from .._clock import now
from .._core.change import Change
from .._core.job import Job
from .._core.naming import Names, NamingDialect
from .._core.plan import Plan
from .._core.states import Collected, Running
from .._core.wire import HttpRequest, HttpResponse, TaskFailed
from .._watch.log import log
from ..errors import ImagenError

SILENCE = 35.0
"""Seconds without a word on a stream after which it is opened anew; a service has a sign of life every ten."""

IDLE = 30.0
"""Seconds without a task after which a stream is left."""

LONGEST_PAUSE = 15.0
"""Seconds between two tries to open a stream, at most."""

TOLD_AFTER = 3
"""Tries to open a stream that came to nothing, after which that is told, once."""

EARLY = 10_000
"""Ends of tasks that nobody here knows that are kept: their creates may not have been answered yet."""

AT_ONCE = 500
"""Tasks that are called off by one call."""


class Listen(Protocol):
    """What hears a stream; `SessionPool.listen` is one."""

    def __call__(
        self, account: str, path: str, hear: Callable[[bytes], bool], silence: float
    ) -> Coroutine[Any, Any, None]: ...


Send = Callable[[str, HttpRequest], Awaitable[HttpResponse]]

Start = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]

Publish = Callable[[Iterable[Change], float], None]
"""Hands out what has changed."""


class _Stream:
    """The stream of one account.

    Attributes:
        account: The account's name.
        dialect: How it talks.
        running: The jobs whose tasks run there, by these.
        is_heard: True while somebody hears it, or tries to.
        is_new: True until something was heard since it was opened.
        idle_since: Loop time since which no task runs.
    """

    def __init__(self, account: str, dialect: NamingDialect) -> None:
        self.account = account
        self.dialect = dialect
        self.running: dict[str, tuple[int, ...]] = {}
        self.is_heard = False
        self.is_new = True
        self.idle_since = 0.0
        # A set that keeps its order.
        self._early: dict[str, None] = {}

    def begins(self, task_id: str, job_id: int) -> None:
        """A job has that task: several have one, where they have one name."""
        self.running[task_id] = (*self.running.get(task_id, ()), job_id)

    def ends(self, task_id: str, job_id: int, at: float) -> None:
        """A job has it no more."""
        others = tuple(each for each in self.running.pop(task_id, ()) if each != job_id)
        if others:
            self.running[task_id] = others
        self.idle_since = at

    def came_early(self, task_id: str) -> None:
        """Keep the end of a task that nobody here knows yet."""
        self._early[task_id] = None
        if len(self._early) > EARLY:
            del self._early[next(iter(self._early))]

    def is_over(self, task_id: str) -> bool:
        """True once for a task whose end came early."""
        return self._early.pop(task_id, self) is None


class Services:
    """What there is to do with services beside sending to them and asking.

    Args:
        plan: Has the jobs.
        dialects: How each of the services talks.
        listen: Hears a stream.
        send: Carries a request.
        start: Runs something beside the loop.
        notice: Has the plan looked at.
        pause: Seconds to wait after so many failures in a row, and at most.

    Attributes:
        names: Makes the names of the creates that go there.
        publish: Hands out what has changed by it; nobody hears of that yet.
    """

    def __init__(
        self,
        plan: Plan,
        dialects: Mapping[str, NamingDialect],
        listen: Listen,
        send: Send,
        start: Start,
        notice: Callable[[], None],
        pause: Callable[[int, float], float],
    ) -> None:
        self._plan = plan
        self._streams = {name: _Stream(name, dialect) for name, dialect in dialects.items()}
        self._listen = listen
        self._send = send
        self._start = start
        self._notice = notice
        self._pause = pause
        self.names: Names = Names(secrets.token_hex(8))
        self.publish: Publish = lambda changes, at: None
        self._handed_out: set[int] = set()
        for name in dialects:
            plan.upstreams[name].poll_queue.reliability.rely()

    def on_change(self, change: Change, at: float) -> None:
        """Know which tasks run where, and hear of the end of each."""
        after = change.after
        stream = self._streams.get(after.account)
        if stream is None:
            return
        was = None if change.before is None else _task_of(change.before)
        task_id = _task_of(after)
        if task_id == was:
            return
        if was is not None:
            stream.ends(was, after.id, at)
            self._handed_out.discard(after.id)
        if task_id is not None:
            stream.begins(task_id, after.id)
            if stream.is_over(task_id):
                self._ask(after, at)
            if not stream.is_heard:
                stream.is_heard = True
                self._start(partial(self._hear_out, stream))

    def hand_out(self, job: Job) -> None:
        """Hear that somebody has the id of a job's task, and may collect it elsewhere: it is not called off."""
        # One that has ended by then is heard of no more, and would stay here for good.
        if job.account in self._streams and _task_of(job) is not None:
            self._handed_out.add(job.id)

    async def call_off(self, owners: Iterable[int]) -> None:
        """Have nothing more sent, at the services, for these owners' jobs: what was not sent comes back to be."""
        jobs = [job for owner in owners for job in self._plan.jobs.of(owner) if job.account in self._streams]
        for stream in self._streams.values():
            ours = [task_id for job in jobs if job.account == stream.account and (task_id := self._own_task_of(job))]
            for first in range(0, len(ours), AT_ONCE):
                for task_id, end in await self._called_off(stream, ours[first : first + AT_ONCE]):
                    for job_id in stream.running.get(task_id, ()):
                        self.publish(self._plan.tell(job_id, end, now()), now())

    def let_go(self, jobs: Iterable[Job]) -> None:
        """Have nothing more sent, at the services, for jobs that nobody waits for; what comes of that nobody hears."""
        for job in jobs:
            stream, task_id = self._streams.get(job.account), self._own_task_of(job)
            if stream is not None and task_id is not None:
                self._start(partial(self._let_go, stream, task_id))

    def _own_task_of(self, job: Job) -> str | None:
        """The task of a job where nobody knows it but who leaves; one that was named by its id is somebody else's."""
        return None if job.id in self._handed_out or isinstance(job.state, Collected) else _task_of(job)

    async def _let_go(self, stream: _Stream, task_id: str) -> None:
        await self._called_off(stream, [task_id])

    async def _called_off(self, stream: _Stream, task_ids: Sequence[str]) -> list[tuple[str, TaskFailed]]:
        dialect = stream.dialect
        try:
            response = await self._send(stream.account, dialect.build_calling_off(task_ids))
        except ImagenError as error:
            log(logging.INFO, "%s: what waits there could not be called off: %s", stream.account, error)
            return []
        answers = zip(task_ids, dialect.split(response, len(task_ids)), strict=True)
        told = ((task_id, dialect.read_status(answer, task_id)) for task_id, answer in answers)
        return [(task_id, status) for task_id, status in told if isinstance(status, TaskFailed) and status.is_unsent]

    def _ask(self, job: Job, at: float) -> None:
        """Have a job asked about at once whose task has ended."""
        self._plan.on_callback(job.id, job.account, job.attempts, job.task_id, at)
        self._notice()

    async def _hear_out(self, stream: _Stream) -> None:
        """Hear a stream for as long as tasks run, whatever becomes of its connections."""
        failures = 0
        while stream.running or now() < stream.idle_since + IDLE:
            stream.is_new = True
            try:
                await self._listen(stream.account, stream.dialect.ends_path, partial(self._hear, stream), SILENCE)
            except ImagenError as error:
                failures = failures + 1 if stream.is_new else 0
                level = logging.WARNING if failures == TOLD_AFTER else logging.DEBUG
                message = "%s: no word of what runs there, which is asked for again and again: %s"
                log(level, message, stream.account, error)
                await asyncio.sleep(self._pause(failures, LONGEST_PAUSE))
        stream.is_heard = False

    def _hear(self, stream: _Stream, line: bytes) -> bool:
        """Take a line; False where no more is wanted."""
        at, ended = now(), stream.dialect.read_ends(line)
        if stream.is_new or ended is None:
            # What has ended in between was told to nobody.
            stream.is_new = False
            self._plan.upstreams[stream.account].poll_queue.ask_all(at)
            self._plan.upstreams[stream.account].touch()
            self._notice()
        for task_id in ended or ():
            if task_id not in stream.running:
                stream.came_early(task_id)
            for job_id in stream.running.get(task_id, ()):
                if (job := self._plan.jobs.get(job_id)) is not None:
                    self._ask(job, at)
        return bool(stream.running) or at < stream.idle_since + IDLE


def _task_of(job: Job) -> str | None:
    return job.state.task_id if isinstance(job.state, Running) else None
