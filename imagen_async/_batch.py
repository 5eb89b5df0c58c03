"""A batch: pulls requests as fast as they can be sent, and hands results out as they finish."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sized
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import anyio
import anyio.lowlevel
import anyio.to_thread

from ._core.budget import Budget
from ._core.job import Job, Left, NotAdmitted, Queued
from ._core.values import ImageRequest, Result
from ._core.wording import result_of
from ._inputs import END, Requests, check_keys, puller
from ._job_factory import JobFactory
from ._notebook import REFRESH, LiveView, batch_html, batch_text, is_live
from ._progress import Progress, Tally
from ._reorder_buffer import AsTheyFinish, InOrder
from ._scheduler import Scheduler, now
from .errors import BudgetReached, ConfigurationError, DownloadFailed, ImagenError, InvalidRequest, JournalError

if TYPE_CHECKING:
    from ._journal.batch_journal import BatchJournal
    from ._journal.resume import TakenUp  # loads sqlite3, which only a batch with a journal needs

OnExit = Literal["detach", "drain"]
"""What leaving does with tasks that run: leaves them to the journal, or waits for them."""

AHEAD = 1000
"""Results that may wait for the reader, beyond the tasks that may run, before no more requests are pulled."""

BREATHE_EVERY = 50
"""Requests pulled at most before whatever else the program does has its turn."""


class Batch:
    """One run over many requests: an async context manager, and inside it an async iterator of results.

    A bad request or a failed generation is a bad result and does not end the batch. When no account takes anything
    more, or none is left for some of its requests, or its budget is reached, the results so far come out, then the
    AccountError or BudgetReached is raised; so it is with a folder, or a journal, that cannot be written. Leaving the
    block stops: from that instant no create is sent.

    With a journal, results of earlier runs come out too, with `earlier` set, when their request is met in the input;
    tasks that earlier runs left come out as they finish, also of requests that the input does not have any more.

    Attributes:
        leftover: After the block was left: results that nobody took, tasks that still run (`error` is a
            DeadlineExceeded with their task id: collect them, or resume), and creates whose answer did not come.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        requests: Requests,
        factory: JobFactory,
        finish: Callable[[Result], Result],
        *,
        window: int,
        ordered: bool = False,
        memory: BatchJournal | None = None,
        budget: Budget | None = None,
        on_exit: OnExit = "detach",
    ) -> None:
        self._scheduler = scheduler
        self._requests = requests
        self._factory = factory
        self._finish = finish
        self._window = window
        self._memory = memory
        self._budget = budget
        self._on_exit = on_exit
        self._id = scheduler.new_id()
        self._total = len(requests) if isinstance(requests, Sized) else None
        self._feeding: anyio.CancelScope | None = None
        self._changed = asyncio.Event()
        self._space = asyncio.Event()
        self._exit = InOrder() if ordered else AsTheyFinish()
        self._tally = Tally()
        self._pulled = self._live = self._gone = 0
        self._fed = self._stopped = self._is_draining = self._is_leaving = self._is_orphaned = False
        self._reopened: set[int] = set()
        self._ending: BaseException | None = None
        self._ended_at: float | None = None
        self._views: list[LiveView] = []
        self.leftover: tuple[Result, ...] = ()

    def __repr__(self) -> str:
        return "<Batch: not begun>" if self._feeding is None else batch_text(self.progress)

    def _repr_html_(self) -> str:
        """For notebooks: the progress, and once the block was left the last pictures."""
        return "" if self._feeding is None else batch_html(self.progress, is_over=self._ended_at is not None)

    def _ipython_display_(self) -> None:
        """For notebooks: the same, kept up to date for as long as the batch runs."""
        if not is_live():
            raise NotImplementedError  # so that IPython shows it as it shows anything
        view = LiveView(self._repr_html_(), repr(self))
        if self._ended_at is None:
            self._views.append(view)

    async def __aenter__(self) -> Self:
        if self._feeding is not None:
            raise ConfigurationError("A batch is entered once; its requests would be paid for again. Make a new one.")
        check_keys(self._requests)
        self._feeding = anyio.CancelScope()
        self._scheduler.enter(self._id, self)
        self._tally.began_at = now()
        if self._budget is not None:
            self._scheduler.plan.limit_spending(self._id, self._budget)
        try:
            await self._recall()
        except BaseException:
            self._ended_at = now()
            self._scheduler.exit(self._id)
            raise
        self._scheduler.start(self._feed)
        if is_live():
            self._scheduler.start(self._keep_showing)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Cancelled while what runs was waited for already: this is the second time, which leaves at once.
        is_second = self._is_draining and isinstance(error, asyncio.CancelledError)
        try:
            if self._on_exit == "drain" and not is_second:
                await self._drain()
        finally:
            await self._leave()
            if self._views:
                await self._show_last()

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
        self._gone += 1
        self._space.set()
        return ready.popleft()

    def stop(self) -> None:
        """Send no more creates. What runs still comes out, then the iteration ends; the rest was not sent."""
        self._is_draining = True
        self._stop_feeding()
        self._scheduler.withhold(self._id)

    @property
    def progress(self) -> Progress:
        """How far it is now. Costs a look at every live job."""
        return self._tally.progress(
            self._scheduler.plan,
            self._id,
            self._scheduler.now() if self._ended_at is None else self._ended_at,
            total=self._total,
            pulled=self._pulled,
            unpulled=self._unpulled(),
            route=self._factory.default_route(),
        )

    def _unpulled(self) -> int | None:
        """Requests of the input that are to be sent yet, as far as that is known."""
        if self._fed or self._stopped:
            return 0
        if self._total is None:
            return None
        return max(0, self._total - self._pulled - (0 if self._memory is None else self._memory.unmet))

    def closing(self) -> None:
        """Hear that the client is being left, or that its loop has ended. Called by the scheduler."""
        self._is_orphaned = True
        self._changed.set()
        if not self._fed:
            self._end_with(ConfigurationError("The client was left before this batch had sent all of its requests."))

    def remember(self, job: Job) -> Awaitable[None] | None:
        """What ends once the journal would tell a later run of the job as it is. Called by the scheduler."""
        return None if self._memory is None else self._memory.durable(job)

    def moved(self, job: Job) -> None:
        """Hear that a job goes on in another state. Called by the scheduler."""
        if self._memory is not None:
            self._memory.note(job)

    def asked(self, job: Job) -> None:
        """Hear that a status call goes out for a job. Called by the scheduler."""
        self._tally.ask(job.id)

    def finished(self, job: Job) -> None:
        """Hear that a job ended. Called by the scheduler."""
        if self._memory is not None:
            self._memory.note(job)
        self._tally.end(job)
        self._live -= 1
        match job.state:
            case NotAdmitted(error=error):
                self._pass_over(job, error)
            case Left(was=Queued()):
                self._skip(job)
            case _:
                self._put(result_of(job), job.id)
        self._changed.set()

    def _pass_over(self, job: Job, error: ImagenError) -> None:
        """A job that could not be sent: the others go on for as long as anybody takes them."""
        self._ending = self._ending or error
        self._skip(job)
        if isinstance(error, JournalError):
            # The next intent could not be noted either.
            self._scheduler.withhold(self._id)
        if isinstance(error, JournalError | BudgetReached) or not self._scheduler.plan.is_open:
            self._stop_feeding()

    def _skip(self, job: Job) -> None:
        self._gone += 1
        self._exit.skip(job.id)
        self._space.set()

    def _put(self, made: Result, ticket: int) -> None:
        result = self._finish(made)
        self._tally.count(result, now())
        if isinstance(result.error, DownloadFailed) and result.error.local:
            # The next picture could not be written either, so those that wait to be sent are not paid for.
            self._end_with(result.error)
            self._scheduler.withhold(self._id)
        self._exit.put(result, ticket)
        self._changed.set()

    def _end_with(self, error: BaseException) -> None:
        self._ending = self._ending or error
        self._stop_feeding()

    def _stop_feeding(self) -> None:
        # The flag holds at once; the scope ends a feeder that waits. A scope alone lets a running feeder run on.
        self._stopped = True
        if self._feeding is not None:
            self._feeding.cancel()

    async def _recall(self) -> None:
        """Open the journal, learn what earlier processes have sent and seen, and take up the tasks that they left."""
        if self._memory is None:
            return
        await self._memory.open()
        try:
            for name, upstream in self._scheduler.plan.upstreams.items():
                upstream.remember(self._memory.resume.spent_places(name, upstream.limits.submit.per))
                upstream.schedule.recall(self._memory.resume.latencies(name))
            plan, callbacks = self._scheduler.plan, self._scheduler.callbacks
            if callbacks is not None:
                journal = self._memory.callbacks_for(self._id, self._scheduler.new_id, self._collect)
                callbacks.connect(self._id, journal)
            taken_up = self._memory.resume.take_up(self._id, self._scheduler.new_id, plan.callback_wait)
            if self._budget is not None:
                self._budget.add_spent(self._memory.resume.spent_credits())
            for job in taken_up:
                self._begin(job)
        except BaseException:
            await self._memory.close()
            raise

    def _collect(self, job: Job) -> None:
        """Go on with a request that has come out as unknown, in this run or before it, and whose task is known now."""
        if not self._is_leaving:
            self._tally.reopen(job.key)
            self._exit.expect(job.id)
            self._reopened.add(job.id)
            self._begin(job)

    async def _drain(self) -> None:
        """Wait for what is on the way, runs or is saved; a second cancellation of the task ends the wait."""
        self.stop()
        with anyio.CancelScope(shield=True):
            while self._live and not self._is_orphaned:
                self._changed.clear()
                await self._changed.wait()

    async def _leave(self) -> None:
        self._is_leaving = True
        self._stop_feeding()
        try:
            await self._scheduler.leave(self._id)
        finally:
            self._ended_at = now()
            self._exit.release()
            self.leftover = tuple(self._exit.ready)
            self._exit.ready.clear()
            if self._memory is not None:
                await self._memory.close()

    async def _keep_showing(self) -> None:
        """Bring the views on a notebook's page up to date, now and then."""
        while True:
            await anyio.sleep(REFRESH)
            if self._is_leaving:
                return
            for view in self._views:
                view.update(self._repr_html_(), repr(self))

    async def _show_last(self) -> None:
        """Leave the last pictures on a notebook's page; making them small takes a while."""
        html = await anyio.to_thread.run_sync(partial(batch_html, self.progress, is_over=True))
        for view in self._views:
            view.update(html, repr(self))

    async def _feed(self) -> None:
        """Pull the input, one request at a time, when the account and the reader have room for it."""
        assert self._feeding is not None
        try:
            with self._feeding:
                pull = puller(self._requests)
                while await self._has_room() and (item := await pull()) is not END and not self._stopped:
                    self._take(item)
        except Exception as error:  # the user's iterable failed: what was sent is delivered first
            self._ending = self._ending or error
        except asyncio.CancelledError:  # its own, not ours: those end in the scope
            self._ending = self._ending or InvalidRequest("The input was cancelled from within; what it gave was sent.")
        finally:
            self._fed = True
            self._changed.set()

    async def _has_room(self) -> bool:
        """Wait until one more may be pulled; False when none will be."""
        while self._pulled - self._gone >= self._window:
            self._space.clear()
            await self._space.wait()
        await self._scheduler.room(self._id)
        if self._pulled % BREATHE_EVERY == BREATHE_EVERY - 1:
            # Where each request ends at once, for no account takes it, nothing else would let others run.
            await anyio.lowlevel.checkpoint()
        return not self._stopped

    def _take(self, item: Any) -> None:
        index, number = self._pulled, self._scheduler.new_id()
        self._pulled += 1
        met: Job | Result | TakenUp
        try:
            if self._memory is None:
                met = self._factory.job(item, index, self._id, number)
            else:
                met = self._memory.resume.meet(item, index, self._id, number)
        except JournalError:
            raise
        except ImagenError as error:
            met = _refused(item, index, self._factory.accounts, error)
        if isinstance(met, Job):
            self._exit.expect(number)
            self._begin(met)
        elif isinstance(met, Result):
            self._exit.expect(number)
            if not met.earlier:
                self._scheduler.observer.refused(met, number, now())
            self._put(met, number)
        elif self._memory is not None:
            # Taken up from an earlier run; that this input has it too is the leave to send it again.
            if met.job_id not in self._reopened:
                self._exit.expect(met.job_id)
            given_up = self._memory.resume.is_given_up(met.job_id)
            self._scheduler.plan.allow(met.job_id, met.like, given_up=given_up)

    def _begin(self, job: Job) -> None:
        self._live += 1
        self._tally.begin(job.model.price(job.request))
        self._scheduler.add(job)


def _refused(item: object, index: int, accounts: Iterable[str], error: ImagenError) -> Result:
    """The result of a request of which nothing was sent; it is the account's where there is only one."""
    account, *others = accounts
    account = "" if others else account
    request = item if isinstance(item, ImageRequest) else ImageRequest(prompt=str(item)[:5000])
    return Result(
        key=str(request.key or index),
        index=index,
        request=request,
        provider=account,
        model=str(request.model or ""),
        error=error.about(provider=account or None),
    )
