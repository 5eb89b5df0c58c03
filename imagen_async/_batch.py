"""A batch: pulls requests as fast as they can be sent, and hands results out as they finish."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Sequence, Sized
from types import TracebackType
from typing import Any, Self

import anyio
import msgspec

from ._core.job import Job, Left, Queued, Ready, Running, Submitting, Unsent
from ._core.values import ImageRequest, Result
from ._scheduler import Scheduler, now
from .errors import ConfigurationError, DownloadFailed, ImagenError, InvalidRequest, UnknownOutcome

Requests = Iterable[str | ImageRequest] | AsyncIterable[str | ImageRequest]

AHEAD = 1000
"""Results that may wait for the reader, beyond the tasks that may run, before no more requests are pulled."""

_END = object()


class Progress(msgspec.Struct, frozen=True):
    """How far a batch is, at one moment.

    Attributes:
        total: Requests in the input, or None where it has no length.
        pulled: Requests taken from the input so far.
        queued: Of these, waiting to be sent.
        submitting: Creates on the way.
        running: Tasks at the provider.
        saving: Finished tasks whose pictures are being fetched or wait for it.
        done: Finished with their pictures.
        failed: Finished without, the unknown ones included.
        unknown: Creates whose answer was lost.
        credits: Billed so far, as the results tell; those that tell nothing count 0.
        elapsed: Seconds since the batch began.
        rate: Requests finished per second of late.
        eta: Seconds to the end at that rate, or None where it cannot be told.
    """

    total: int | None
    pulled: int
    queued: int
    submitting: int
    running: int
    saving: int
    done: int
    failed: int
    unknown: int
    credits: float
    elapsed: float
    rate: float
    eta: float | None


class Batch:
    """One run over many requests: an async context manager, and inside it an async iterator of results.

    A bad request or a failed generation is a bad result and does not end the batch. An account that takes nothing
    more does: the results so far come out, then its AccountError is raised; so does a folder that cannot be written.
    Leaving the block stops: from that instant no create is sent.

    Attributes:
        leftover: After the block was left: results that nobody took, tasks that still run (`error` is a
            DeadlineExceeded with their task id: collect them), and creates whose answer did not come in time.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        requests: Requests,
        admit: Callable[[str | ImageRequest, int, int], Job],
        finish: Callable[[Job], Result],
        *,
        account: str,
        window: int,
        ordered: bool,
    ) -> None:
        self._scheduler = scheduler
        self._requests = requests
        self._admit = admit
        self._finish = finish
        self._account = account
        self._window = window
        self._id = scheduler.new_id()
        self._total = len(requests) if isinstance(requests, Sized) else None
        self._feeding: anyio.CancelScope | None = None
        self._changed = asyncio.Event()
        self._space = asyncio.Event()
        self._exit = _InOrder() if ordered else _AsTheyFinish()
        self._tally = _Tally()
        self._pulled = self._live = self._delivered = 0
        self._fed = self._stopped = False
        self._ending: BaseException | None = None
        self.leftover: tuple[Result, ...] = ()

    async def __aenter__(self) -> Self:
        if self._feeding is not None:
            raise ConfigurationError("A batch is entered once; its requests would be paid for again. Make a new one.")
        _check_keys(self._requests)
        self._tally.began_at = now()
        self._feeding = anyio.CancelScope()
        self._scheduler.enter(self._id, self)
        self._scheduler.start(self._feed)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop_feeding()
        try:
            await self._scheduler.leave(self._id)
        finally:
            self._exit.release()
            self.leftover = tuple(self._exit.ready)
            self._exit.ready.clear()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Result:
        if self._feeding is None:
            raise ConfigurationError("Enter the batch first: `async with client.batch(…) as results:`")
        ready = self._exit.ready
        while not ready:
            if self._fed and not self._live:
                self._exit.release()
                break
            self._changed.clear()
            await self._changed.wait()
        if not ready:
            raise self._ending or StopAsyncIteration
        self._delivered += 1
        self._space.set()
        return ready.popleft()

    @property
    def progress(self) -> Progress:
        """How far it is now. Costs a look at every live job."""
        states = [type(job.state) for job in self._scheduler.plan.jobs if job.owner == self._id]
        tally, time = self._tally, now()
        rate = tally.rate(time)
        left = None if self._total is None else self._total - tally.done - tally.failed
        return Progress(
            total=self._total,
            pulled=self._pulled,
            queued=states.count(Queued),
            submitting=states.count(Submitting),
            running=states.count(Running),
            saving=states.count(Ready),
            done=tally.done,
            failed=tally.failed,
            unknown=tally.unknown,
            credits=tally.credits,
            elapsed=time - tally.began_at,
            rate=rate,
            eta=left / rate if left is not None and rate > 0 else None,
        )

    def closing(self) -> None:
        """Hear that the client is being left. Called by the scheduler."""
        if not self._fed:
            self._end_with(ConfigurationError("The client was left before this batch had sent all of its requests."))

    def accepted(self, job: Job) -> None:
        """Hear that a job has a task id; nothing follows from it here."""

    def finished(self, job: Job) -> None:
        """Hear that a job ended. Called by the scheduler."""
        self._live -= 1
        match job.state:
            case Unsent(error=error):
                self._end_with(error)
            case Left(task_id=None):
                pass
            case _:
                self._put(self._finish(job))
        self._changed.set()

    def _put(self, result: Result) -> None:
        self._tally.count(result, now())
        if isinstance(result.error, DownloadFailed) and result.error.local:
            # The next picture could not be written either, so those that wait to be sent are not paid for.
            self._end_with(result.error)
            self._scheduler.withhold(self._id)
        self._exit.put(result)
        self._changed.set()

    def _end_with(self, error: BaseException) -> None:
        self._ending = self._ending or error
        self._stop_feeding()

    def _stop_feeding(self) -> None:
        # The flag holds at once; the scope ends a feeder that waits. A scope alone lets a running feeder run on.
        self._stopped = True
        if self._feeding is not None:
            self._feeding.cancel()

    async def _feed(self) -> None:
        """Pull the input, one request at a time, when the account and the reader have room for it."""
        assert self._feeding is not None
        try:
            with self._feeding:
                pull = _puller(self._requests)
                while await self._has_room() and (item := await pull()) is not _END and not self._stopped:
                    self._take(item)
        except Exception as error:  # the user's iterable failed: what was sent is delivered first
            self._ending = self._ending or error
        finally:
            self._fed = True
            self._changed.set()

    async def _has_room(self) -> bool:
        """Wait until one more may be pulled; False when none will be."""
        while self._pulled - self._delivered >= self._window:
            self._space.clear()
            await self._space.wait()
        await self._scheduler.room(self._account)
        return not self._stopped

    def _take(self, item: Any) -> None:
        index = self._pulled
        self._pulled += 1
        try:
            job = self._admit(item, index, self._id)
        except ImagenError as error:
            self._put(_refused(item, index, self._account, error))
        else:
            self._live += 1
            self._scheduler.add(job)


class _Tally:
    """What came out of a batch so far."""

    def __init__(self) -> None:
        self.began_at = 0.0
        self.done = self.failed = self.unknown = 0
        self.credits = 0.0
        self._times: deque[float] = deque(maxlen=512)

    def count(self, result: Result, now: float) -> None:
        """Add one result."""
        self._times.append(now)
        self.credits += result.credits or 0.0
        self.done += result.ok
        self.failed += not result.ok
        self.unknown += isinstance(result.error, UnknownOutcome)

    def rate(self, now: float) -> float:
        """Results a second, over the last 512: recent enough to follow a change, long enough to be steady."""
        since = self._times[0] if len(self._times) == self._times.maxlen else self.began_at
        return len(self._times) / max(now - since, 1e-3)


class _AsTheyFinish:
    """Hands results out in the order of finishing."""

    def __init__(self) -> None:
        self.ready: deque[Result] = deque()

    def put(self, result: Result) -> None:
        """Take in a result."""
        self.ready.append(result)

    def release(self) -> None:
        """Give up waiting for results that will not come any more."""


class _InOrder(_AsTheyFinish):
    """Hands results out in the order of the input."""

    def __init__(self) -> None:
        super().__init__()
        self._early: dict[int, Result] = {}
        self._next = 0

    def put(self, result: Result) -> None:
        """Take in a result, and let out what it held back."""
        self._early[result.index] = result
        while self._next in self._early:
            self.ready.append(self._early.pop(self._next))
            self._next += 1

    def release(self) -> None:
        """Give up waiting for results that will not come any more, so that those after them come out."""
        self.ready.extend(self._early.pop(index) for index in sorted(self._early))


def _puller(requests: Requests) -> Callable[[], Awaitable[object]]:
    """Make one way to ask for the next item, `_END` for none, of both kinds of iterable."""
    if isinstance(requests, AsyncIterable):
        source = aiter(requests)

        async def pull_async() -> object:
            return await anext(source, _END)

        return pull_async
    iterator = iter(requests)

    async def pull() -> object:
        return next(iterator, _END)

    return pull


def _check_keys(requests: Requests) -> None:
    """Refuse a list in which two requests have the same key. (A lazy input is not remembered: see `key`.)"""
    if not isinstance(requests, Sequence):
        return
    seen: dict[str, int] = {}
    for index, item in enumerate(requests):
        key = item.key if isinstance(item, ImageRequest) else None
        if key is not None and seen.setdefault(key, index) != index:
            message = f"Requests {seen[key]} and {index} have the same key {key!r}; keys must differ."
            raise InvalidRequest(message)


def check_input(requests: object) -> None:
    """Refuse what looks like an input and is none: one string would be sent letter by letter."""
    if isinstance(requests, str | bytes | ImageRequest):
        raise InvalidRequest(
            "A batch takes an iterable of prompts; for one prompt use generate(…), or put it in a list."
        )
    if not isinstance(requests, Iterable | AsyncIterable):
        raise InvalidRequest(f"A batch takes an iterable of prompts, not {type(requests).__name__}.")


def _refused(item: object, index: int, account: str, error: ImagenError) -> Result:
    """The result of a request of which nothing was sent."""
    request = item if isinstance(item, ImageRequest) else ImageRequest(prompt=str(item)[:5000])
    return Result(
        key=str(request.key or index),
        index=index,
        request=request,
        provider=account,
        model=str(request.model or ""),
        error=error.about(provider=account),
    )
