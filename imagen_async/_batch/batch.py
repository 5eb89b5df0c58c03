"""A batch: pulls requests as fast as they can be sent, and hands results out as they finish."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

import anyio

from .._clock import now
from .._core.budget import Budget
from .._core.change import Change
from .._core.failure import Failure
from .._core.job import Job
from .._core.plan import OwnerTerms
from .._core.states import Ended, NotAdmitted
from .._core.values import Result
from .._core.wording import result_of
from .._job_factory import JobFactory
from .._notebook.views import LiveViews, batch_html, batch_text
from .._off_loop import OffLoop
from .._progress import Progress
from .._scheduler.change_stream import Owner
from .._scheduler.scheduler import Scheduler
from ..errors import BudgetReached, ConfigurationError, DownloadFailed, JournalError
from .feeder import Feeder
from .inputs import Requests
from .outlet import Outlet
from .recognition import Recognition
from .tally import Tally

if TYPE_CHECKING:
    # They load sqlite3, which only a batch with a journal needs.
    from .._journal.batch_journal import BatchJournal

OnExit = Literal["detach", "drain"]
"""What leaving does with tasks that run: leaves them to the journal, or waits for them."""

AHEAD = 1000
"""Results that may wait for the reader, beyond the tasks that may run, before no more requests are pulled."""


_CLIENT_LEFT = Failure(ConfigurationError, "The client was left before this batch had sent all of its requests.")


class _Phase(enum.IntEnum):
    """Where a batch is in its life, which goes one way."""

    NEW = 0
    """Not entered yet."""
    RUNNING = 1
    """Requests go in, results come out."""
    STOPPING = 2
    """Nothing more is sent; what runs still comes out."""
    ORPHANED = 3
    """The client was left, or its loop has ended: nothing more comes."""
    LEAVING = 4
    """The block is being left."""
    OVER = 5


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
        journal: BatchJournal | None = None,
        budget: Budget | None = None,
        on_exit: OnExit = "detach",
        off_loop: OffLoop,
        look: Callable[[object], Awaitable[object] | None] = lambda item: None,
    ) -> None:
        self.leftover: tuple[Result, ...] = ()
        self._scheduler = scheduler
        self._id = scheduler.new_id()
        self._outlet = Outlet(ordered=ordered)
        self._tally = Tally()
        self._recognition = Recognition(requests, factory, journal, self._id, self._tally.pass_over)
        self._feeder = Feeder(
            requests,
            window,
            room=lambda: scheduler.room(self._id),
            passes_over=self._recognition.passes_over,
            take=self._take,
            ended=lambda: self._end_with(self._feeder.error),
            look=look,
        )
        self._journal = journal
        self._budget = budget
        self._finish = finish
        self._on_exit = on_exit
        self._phase = _Phase.NEW
        self._ending: BaseException | Failure | None = None
        self._views = LiveViews(self, off_loop)

    def __repr__(self) -> str:
        return "<Batch: not begun>" if self._phase is _Phase.NEW else batch_text(self.progress)

    def _repr_html_(self) -> str:
        """For notebooks: the progress, and once the block was left the last pictures."""
        is_over = self._phase is _Phase.OVER
        return "" if self._phase is _Phase.NEW else batch_html(self.progress, is_over=is_over)

    def _ipython_display_(self) -> None:
        """For notebooks: the same, kept up to date for as long as the batch runs."""
        self._views.add(is_kept=self._phase is not _Phase.OVER)

    async def __aenter__(self) -> Self:
        if self._phase is not _Phase.NEW:
            raise ConfigurationError("A batch is entered once; its requests would be paid for again. Make a new one.")
        self._scheduler.home.check()
        # Before the journal is opened: a list in which keys are doubled leaves no trace.
        self._feeder.check()
        owner = Owner(self._on_change, self._closing, journal=self._journal, tally=self._tally.on_change)
        self._scheduler.enter(self._id, owner)
        self._to(_Phase.RUNNING)
        self._tally.began_at = now()
        try:
            await self._recall()
        except BaseException:
            self._tally.ended_at = now()
            self._to(_Phase.OVER)
            self._scheduler.exit(self._id)
            raise
        # Once the journal is open: each request is looked up there before it may be sent.
        self._scheduler.start(self._feeder.run)
        self._views.keep_up_to_date(self._scheduler.start)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._scheduler.home.check()
        # Cancelled while what runs was waited for already: this is the second time, which leaves at once.
        is_second = self._phase >= _Phase.STOPPING and isinstance(error, asyncio.CancelledError)
        try:
            if self._on_exit == "drain" and not is_second:
                self.stop()
                with anyio.CancelScope(shield=True):
                    await self._outlet.dry(lambda: self._phase >= _Phase.ORPHANED)
        finally:
            await self._leave()
            await self._views.show_last()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Result:
        if self._phase is _Phase.NEW:
            raise ConfigurationError("Enter the batch first: `async with client.batch(…) as results:`")
        self._scheduler.home.check()
        result = await self._outlet.next(lambda: self._feeder.is_over)
        if result is not None:
            self._feeder.passed()
            return result
        ending = self._ending
        raise (ending.exception() if isinstance(ending, Failure) else ending) or StopAsyncIteration

    def stop(self) -> None:
        """Send no more creates. What runs still comes out, then the iteration ends; the rest was not sent.

        From another thread: `loop.call_soon_threadsafe(batch.stop)`. There, ConfigurationError is raised.
        """
        self._scheduler.home.check()
        if self._phase is not _Phase.NEW:  # one that was stopped before it is entered still can be, and sends nothing
            self._to(_Phase.STOPPING)
        self._feeder.stop()
        self._scheduler.withhold(self._id)

    @property
    def progress(self) -> Progress:
        """How far it is now. Costs a look at every live job."""
        return self._tally.progress(
            self._scheduler.standing(self._id),
            total=self._feeder.total,
            pulled=self._feeder.pulled,
            unpulled=self._feeder.unpulled(0 if self._journal is None else self._journal.unmet),
            route=self._recognition.factory.default_route(),
        )

    def _on_change(self, change: Change, now: float) -> None:
        """Take what comes out of its jobs."""
        if change.before is None:
            self._outlet.live += 1
        job = change.after
        if not isinstance(job.state, Ended):
            return
        self._outlet.live -= 1
        if isinstance(job.state, NotAdmitted):
            self._pass_over(job.state.failure)
        if job.was_never_sent:
            # It comes out of no iteration, so that its place in the window is free at once.
            self._feeder.passed()
            self._outlet.skip(job.id)
            if self._phase is _Phase.ORPHANED:
                self._end_with(_CLIENT_LEFT)
        else:
            self._put(result_of(job), job.id, now)

    def _pass_over(self, failure: Failure) -> None:
        """A job that could not be sent: the others go on for as long as anybody takes them."""
        self._ending = self._ending or failure
        if failure.is_a(JournalError):
            # The next intent could not be noted either.
            self._scheduler.withhold(self._id)
        if failure.is_a(JournalError, BudgetReached) or not self._scheduler.upstreams.take_creates:
            self._feeder.stop()

    def _put(self, made: Result, ticket: int, now: float) -> None:
        result = self._finish(made)
        self._tally.count(result, now)
        error = result.error
        if isinstance(error, DownloadFailed) and error.local:
            # The next picture could not be written either, so those that wait to be sent are not paid for.
            self._end_with(Failure.of(error))
            self._scheduler.withhold(self._id)
        self._outlet.put(result, ticket)

    def _end_with(self, ending: BaseException | Failure | None) -> None:
        """Take in no more; of several endings the first is told."""
        self._ending = self._ending or ending
        self._feeder.stop()
        self._outlet.notice()

    def _closing(self) -> None:
        """The client is being left, or its loop has ended."""
        self._to(_Phase.ORPHANED)
        self._outlet.notice()
        if not self._feeder.is_over:
            self._end_with(_CLIENT_LEFT)

    def _to(self, phase: _Phase) -> None:
        self._phase = max(self._phase, phase)

    async def _recall(self) -> None:
        """Open the journal, learn what earlier processes have sent and seen, and take up the tasks that they left."""
        scheduler, journal = self._scheduler, self._journal
        if journal is None:
            scheduler.open(self._id, OwnerTerms(self._budget))
            return
        upstreams = scheduler.upstreams
        rates = {name: each.submit.rate for name, each in upstreams.items()}
        await journal.open(rates, counts_money=self._budget is not None)
        try:
            await self._feeder.look_through(journal.resume.identity)
            # Before any job comes in: jobs of a journal have tokens of its secret, not of the client's.
            if scheduler.callbacks is not None:
                scheduler.callbacks.connect(self._id, journal.callbacks_for(self._id, scheduler.new_id, self._collect))
            if scheduler.services is not None and journal.secret is not None:
                scheduler.services.names.connect(self._id, journal.secret)
            taken_up = journal.resume.take_up(self._id, scheduler.new_id, scheduler.callback_wait)
            if self._budget is not None:
                # After the taking up, without what that has still to pay: each job reserves this by itself.
                self._budget.add_spent(journal.resume.spent_credits())
            scheduler.open(self._id, journal.terms(self._budget, upstreams))
            for job in taken_up:
                scheduler.add(job)
        except BaseException:
            await journal.close()
            raise

    def _collect(self, job: Job) -> None:
        """Go on with a request that has come out as unknown, in this run or before it, and whose task is known now."""
        # Whoever leaves begins nothing more: what the callback told is in the journal, for the next run.
        if self._phase < _Phase.LEAVING:
            self._tally.reopen(job.key)
            self._outlet.reopen(job.id)
            self._scheduler.add(job)

    async def _leave(self) -> None:
        self._to(_Phase.LEAVING)
        self._feeder.stop()
        try:
            await self._scheduler.leave(self._id)
            await self._feeder.closed()
        finally:
            self._tally.ended_at = now()
            self._to(_Phase.OVER)
            # Before the journal is closed, which may raise: what came out can be listed all the same.
            self.leftover = self._outlet.empty()
            if self._journal is not None:
                await self._journal.close()

    def _take(self, item: object, index: int) -> None:
        number = self._scheduler.new_id()
        met = self._recognition.of(item, index, number)
        if isinstance(met, Job):
            # Before the job comes in, for it may end at once.
            self._outlet.expect(number)
            self._scheduler.add(met)
        elif isinstance(met, Result):
            self._outlet.expect(number)
            # What an earlier run has told of is no news.
            if not met.earlier:
                self._scheduler.refused(met, number)
            self._put(met, number, now())
        else:
            # Taken up from an earlier run; that this input has it too is the leave to send it again.
            self._outlet.expect(met.job_id)
            self._scheduler.readmit(met.job_id, met.leave)
