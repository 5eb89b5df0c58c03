"""The budgets of a plan's owners, and what each thing that happens means for them."""

from __future__ import annotations

from .budget import Budget
from .change import Change
from .job import Job
from .job_events import Event
from .routing import Offer
from .states import AwaitingCallback, Confirming, Failed, Noting, Preparing, Queued, Running, Sending
from .wire import LinksMissing, Rejected, Succeeded, TaskFailed, TaskRefused


class Spending:
    """Keeps the books of every owner that has a budget."""

    def __init__(self) -> None:
        self._budgets: dict[int, Budget] = {}

    def __bool__(self) -> bool:
        return bool(self._budgets)

    def limit(self, owner: int, budget: Budget) -> None:
        """Let an owner's jobs spend no more than that."""
        self._budgets[owner] = budget

    def forget(self, owner: int) -> None:
        """Keep no more books of an owner."""
        self._budgets.pop(owner, None)

    def of(self, owner: int) -> Budget | None:
        """What an owner may spend; None: whatever it costs."""
        return self._budgets.get(owner)

    def room_for(self, job: Job) -> Budget | None:
        """The budget in which a job that waits to be sent is to have room; None: it needs none."""
        return None if job.is_lost_by_name else self._budgets.get(job.owner)

    def arrives(self, job: Job) -> None:
        """A task that runs is taken up: it is expected to cost its price."""
        budget = self._budgets.get(job.owner)
        # What is ready is paid for, and in the journal's sum already.
        if budget is not None and isinstance(job.state, Running):
            budget.reserve(job, Offer(job.account, job.model))

    def leaves(self, job: Job, offer: Offer) -> None:
        """A create is about to leave: its price is reserved before."""
        budget = self._budgets.get(job.owner)
        # What was lost by its name is reserved, or in the journal's sum, already: its repeat makes no second task.
        if budget is not None and not job.is_lost_by_name:
            budget.reserve(job, offer)

    def settle(self, change: Change) -> None:
        """Let the budget know what something that happened means for it."""
        budget = self._budgets.get(change.after.owner)
        if budget is not None and change.before is not None:
            _settle(budget, change.before, change.event, change.after)

    def ends(self, job: Job) -> None:
        """A job has ended: what it may have cost and nobody tells counts as spent."""
        budget = self._budgets.get(job.owner)
        if budget is not None:
            budget.settle(job.id, None)


def _settle(budget: Budget, before: Job, event: Event, after: Job) -> None:
    is_lost_now = after.lost > before.lost
    match event:
        case _ if after.is_lost_by_name:
            pass  # it stays reserved until it is known what has become of it
        case _ if isinstance(before.state, Noting | Preparing) and not isinstance(after.state, Noting | Sending):
            budget.release(before.id)  # nothing has left
        # Before the refusals: one that comes after a callback has named a task is no proof that nothing is billed.
        case _ if is_lost_now and isinstance(after.state, AwaitingCallback | Confirming):
            pass  # it stays reserved while it may be told of
        # Nobody knows that it cost nothing, so its price is gone at once.
        case _ if is_lost_now:
            budget.settle(before.id, None)
        case Rejected():
            budget.release(before.id)
        case Succeeded(credits=credits) | TaskFailed(credits=credits):
            budget.settle(before.id, credits)
        case LinksMissing(outcome=outcome) if isinstance(after.state, Failed) and after.state.outcome is outcome:
            budget.settle(before.id, outcome.credits)
        case TaskRefused() if isinstance(after.state, Queued):
            # Given up, and to be replaced: nobody knows what it has cost.
            budget.settle(before.id, None)
