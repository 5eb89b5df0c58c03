"""Builds what the tests of the core are about: failures, jobs, accounts, a plan driven by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import inner

from imagen_async.errors import ImagenError
from imagen_async.ports import Limiter
from imagen_async.providers import PROVIDERS

MODELS = {model.name: model for model in PROVIDERS["kie"].models}
TURNS = (inner.Taken, inner.StatusAsked, inner.FetchBegun)


def failure(kind: type[ImagenError], message: str = "why", **fields: Any) -> inner.Failure:
    """What went wrong, as a value."""
    return inner.Failure(kind, message, **fields)


def upstream(
    name: str = "kie",
    limits: inner.Limits | None = None,
    schedule: inner.PollSchedule | None = None,
    connections: int = 64,
    delay: Callable[[int, float], float] = lambda setbacks, longest: min(2.0**setbacks, longest),
    *,
    submit: Limiter | None = None,
) -> inner.Upstream:
    """One account's turns, with windows of its own unless another limit is given."""
    limits = limits or inner.Limits()
    schedule = schedule or inner.PollSchedule(inner.LatencyPrior(median=5, sigma=0.5))
    breaker = inner.CircuitBreaker(name, delay)
    return inner.Upstream(
        name, limits, schedule, submit or inner.Window(limits.submit), inner.Window(limits.status), breaker, connections
    )


def make_job(number: int = 1, state: inner.State | None = None, *, model: str = "imagen4", **fields: Any) -> inner.Job:
    """A job of kie.ai's, queued unless a state is given."""
    defaults: dict[str, Any] = {
        "id": number,
        "owner": 1,
        "index": number - 1,
        "key": f"k{number}",
        "request": inner.ImageRequest("a red fox", model=model),
        "account": "kie",
        "model": MODELS[model],
        "deadline": 900.0,
    }
    if state is not None:
        fields["state"] = state
    return inner.Job(**{**defaults, **fields})


class DrivenPlan:
    """A plan driven by hand, as the shell drives it: jobs that talk, jobs that ended, every change.

    Attributes:
        plan: The plan itself.
        changes: Every change so far, in order.
        finished: The jobs that ended, in order; a test may take them out.
    """

    def __init__(
        self, upstreams: Iterable[inner.Upstream], saving_at_once: int = 8, *, expects_callbacks: bool = False
    ) -> None:
        self.plan = inner.Plan(upstreams, saving_at_once, expects_callbacks=expects_callbacks)
        self.upstreams = self.plan.upstreams
        self.changes: list[inner.Change] = []
        self.finished: list[inner.Job] = []

    def __len__(self) -> int:
        return len(self.plan.jobs)

    @property
    def jobs(self) -> list[inner.Job]:
        """Every live job."""
        return list(self.plan.jobs.values())

    def find(self, job_id: int) -> inner.Job | None:
        """A live job."""
        return self.plan.jobs.get(job_id)

    def open(self, owner: int, **terms: Any) -> None:
        """Say on what terms an owner's jobs come in."""
        self.plan.open(owner, inner.OwnerTerms(**terms))

    def add(self, job: inner.Job, now: float) -> None:
        """Take in a job."""
        self.note(self.plan.add(job, now))

    def take(self, now: float) -> list[inner.Job]:
        """The jobs whose turn it is, creates as `Noting`: nothing of them has left."""
        changes = self.plan.take(now)
        self.note(changes)
        return [change.after for change in changes if isinstance(change.event, TURNS)]

    def leaves(self, job: inner.Job, now: float) -> bool:
        """Say that a create leaves, if it may."""
        changes = self.plan.leaves(job, now)
        self.note(changes)
        return bool(changes)

    def settle(self, job: inner.Job, event: inner.Event, now: float) -> inner.Job | None:
        """Say what came of a talk; the job as it is then, or None where it had ended before."""
        changes = self.plan.settle(job, event, now)
        self.note(changes)
        return next((change.after for change in changes if change.after.id == job.id), None)

    def wake_at(self, now: float) -> float:
        """When to look again."""
        return self.plan.wake_at(now)

    def on_callback(
        self, job_id: int, create: int, task_id: str | None, now: float, account: str = ""
    ) -> inner.Job | None:
        """Take in a callback; the job as it is then, where something of it is new."""
        changes = self.plan.on_callback(job_id, account, create, task_id, now)
        self.note(changes)
        return changes[0].after if changes else None

    def readmit(self, job_id: int, like: inner.Job, now: float = 0.0, *, is_doubted: bool = False) -> None:
        """Give a job leave to be sent again, like one that is made new."""
        event = inner.Readmitted(like.retries, like.resubmits, like.route, is_doubted)
        self.note(self.plan.tell(job_id, event, now))

    def withhold(self, owner: int, now: float = 0.0) -> None:
        """Send no more creates for an owner."""
        self.note(self.plan.tell_all(owner, inner.OwnerWithholds(), now))

    def leave(self, owner: int, now: float = 0.0) -> None:
        """An owner waits no more."""
        self.note(self.plan.tell_all(owner, inner.OwnerLeft(), now))

    def abandon(self, owner: int, now: float = 0.0) -> None:
        """An owner's answers are not waited for any more."""
        self.note(self.plan.tell_all(owner, inner.OwnerGone(), now))

    def note(self, changes: list[inner.Change]) -> None:
        """Keep what has happened."""
        self.changes += changes
        self.finished += [change.after for change in changes if isinstance(change.after.state, inner.Ended)]
