"""What the provider says of a task, or does not say."""

from __future__ import annotations

import msgspec

from ...errors import GenerationFailed
from ..failure import Failure
from ..job import Job
from ..refused_prompts import refuses_prompt
from ..states import (
    AwaitingCallback,
    Collected,
    Confirming,
    Doubted,
    Failed,
    Fetching,
    Links,
    Queued,
    Relinking,
    Running,
)
from ..wire import LinksMissing, NoAnswer, Pending, Succeeded, TaskFailed, TaskRefused, Told
from .claims import PATIENCE
from .ends import expire, to_next_model
from .move import Move

replace = msgspec.structs.replace

WAITING = 600.0
"""Seconds beyond its deadline for which a task may run that waited for its turn when it was last heard of."""

LINKS_PATIENCE = 10.0
"""Seconds for which a success without links is asked about again: a replica lags, or the result is written after it."""


def confirm(job: Job, state: Confirming, event: Told, now: float) -> Job:
    """The provider knows the task that a callback has named: only this makes it the job's own."""
    # As accepted now, which is the latest that it can have been: the next run goes by it in its window.
    running = Running(state.task_id, since=now)
    # The last of them is the one that was named; the others stay lost, and may be billed.
    job = replace(job, lost=job.lost - 1, lost_creates=job.lost_creates[:-1], state=running)
    return _OF_TASK[type(event)](job, running, event, now)


def doubt_claim(job: Job, state: Confirming, event: TaskRefused, now: float) -> Job:
    """The provider does not know that task: after a while the callback is not believed."""
    since = now if state.denied_at is None else state.denied_at
    if now - since < PATIENCE:
        return job.to(replace(state, denied_at=since))
    return job.to(AwaitingCallback(state.unknown, state.since, state.until))


def go_on(job: Job, state: Running, event: Pending, now: float) -> Job:
    """It is not finished: to be asked about again, unless its time is over."""
    # An answer about the task ends a denial: a later one has its own half minute.
    if state.denied_at is not None or state.trouble is not None:
        job = job.to(replace(state, denied_at=None, trouble=None, unlinked_at=None))
    if event.waits and not isinstance(state, Collected):
        job = while_it_waits(job, now)
    return _unless_due(job, now)


def while_it_waits(job: Job, now: float) -> Job:
    """The job while its task waits for its turn: it does not age there, as it does not in a queue of ours."""
    return replace(job, expires_at=now + job.deadline + WAITING)


def miss(job: Job, state: Running, event: NoAnswer, now: float) -> Job:
    """Nothing was learned."""
    # A denial runs on: no answer is no word for the task.
    return _unless_due(job.to(replace(state, trouble=event.failure)), now)


def succeed(job: Job, state: Running, event: Succeeded, now: float) -> Job:
    """Its pictures are made."""
    links = Links.ASKED_AGAIN if isinstance(state, Relinking) else Links.FIRST
    outcome = event if len(event.urls) <= job.most_links else replace(event, urls=event.urls[: job.most_links])
    end = Fetching(state.task_id, outcome, links)
    return job.to(end.done() if job.save_to is None else end)


def await_links(job: Job, state: Running, event: LinksMissing, now: float) -> Job:
    """It has succeeded, and is paid for: its links may come a moment later, and for a while they are asked for."""
    since = now if state.unlinked_at is None else state.unlinked_at
    if now - since < LINKS_PATIENCE:
        failure = event.outcome.failure
        return _unless_due(job.to(replace(state, denied_at=None, trouble=failure, unlinked_at=since)), now)
    return renew(job, state, event, now) if isinstance(state, Relinking) else fail(job, state, event.outcome, now)


def fail(job: Job, state: Running, event: TaskFailed, now: float) -> Job:
    """Its task came to nothing."""
    may_retry = not isinstance(state, Collected)
    if event.is_unsent and may_retry:
        # It is as if it had never been taken; what it has waited there is none of its time.
        due = None if job.expires_at is None else min(job.expires_at, now + job.deadline)
        return _unless_due(replace(job, expires_at=due, state=Queued(event.failure.about(account=job.account))), now)
    return failed(job, event.failure.about(task_id=state.task_id), event, may_retry=may_retry)


def deny(job: Job, state: Running, event: TaskRefused, now: float) -> Job:
    """The provider does not know its task, or does not tell: final where it goes on for a while."""
    since = now if state.denied_at is None else state.denied_at
    # kie.ai knows no task just after its creation (seen: "recordInfo is null"); one named by its id is older than that.
    if not isinstance(state, Collected) and now - since < PATIENCE:
        return _unless_due(job.to(replace(state, denied_at=since, trouble=event.failure)), now)
    failure = event.failure.about(account=job.account, task_id=state.task_id)
    if not isinstance(state, Doubted):
        return job.to(Failed(failure))
    # It is replaced, and whether the one that nobody knows was billed is not known either.
    spent = job.spent + (job.model.price(job.request) or 0.0)
    return replace(job, spent=spent, state=Queued(failure, fallback=failure))


def renew(job: Job, state: Relinking, event: TaskFailed | LinksMissing, now: float) -> Job:
    """It had finished once: new links are asked for."""
    return job.to(Fetching(state.task_id, state.outcome, Links.RENEWED))


def deny_relinking(job: Job, state: Relinking, event: TaskRefused, now: float) -> Job:
    """Its status tells no links any more: where that goes on for a while, new ones are asked for."""
    since = now if state.denied_at is None else state.denied_at
    if now - since < PATIENCE:
        return _unless_due(job.to(replace(state, denied_at=since, trouble=event.failure)), now)
    return job.to(Fetching(state.task_id, state.outcome, Links.RENEWED))


def failed(job: Job, failure: Failure, outcome: TaskFailed | None, *, may_retry: bool) -> Job:
    failure = failure.about(account=job.account)
    if job.next_if_refused and refuses_prompt(failure) and (outcome is None or outcome.credits == 0):
        # Nothing is lost by asking once more, where it is left before it goes: no fallback.
        instead = to_next_model(job, Queued(failure))
        if instead is not None:
            return instead
    is_retried = may_retry and job.retried < job.retries and failure.is_a(GenerationFailed)
    # A success without a picture may have been billed: no second task for that, whatever was asked for.
    if not is_retried or failure.code == "no_urls":
        return job.to(Failed(failure, outcome))
    # Where nobody tells what the failed task has cost, it may have cost its price.
    told = 0.0 if outcome is None else outcome.credits
    spent = job.spent + (told if told is not None else job.model.price(job.request) or 0.0)
    # Whoever could not make it is asked last, where another account can be.
    route, state = job.way.last(job.account), Queued(failure, fallback=failure)
    return replace(job, retried=job.retried + 1, spent=spent, route=route, state=state)


def _unless_due(job: Job, now: float) -> Job:
    # Its time was not looked at while the question was on its way.
    return expire(job, job.state, None, now) if job.is_due(now) else job


_OF_TASK: dict[type, Move] = {Pending: go_on, Succeeded: succeed, LinksMissing: await_links, TaskFailed: fail}
