"""How long it will take: what the limits allow, and what is known of how long tasks take. Pure arithmetic."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping

from .job import Job, Running
from .lane import Lane
from .poll_schedule import Kind, PollSchedule
from .provider import Limits


def kinds_of(jobs: Iterable[Job]) -> Counter[Kind]:
    """How many jobs there are of each kind."""
    return Counter((job.model.name, job.request.images) for job in jobs)


def sending_time(count: int, limits: Limits, latency: float, running: int = 0) -> float:
    """Seconds until the last of `count` creates can go, when nothing but the limits holds them up.

    Args:
        count: Creates to be sent; the first window's go at once.
        limits: Of creates in a window, and of tasks that may run at once.
        latency: Mean seconds that a task takes.
        running: Tasks that run already.
    """
    windows = max(0, math.ceil(count / limits.submit.count) - 1) * limits.submit.per
    places = max(0, count + running - limits.running) / limits.running * latency
    return max(windows, places) if count else 0.0


def making_time(count: int, kinds: Mapping[Kind, int], limits: Limits, schedule: PollSchedule) -> float:
    """Seconds from the first create of `count`, in such a mixture of kinds, to the last picture."""
    return sending_time(count, limits, schedule.mean(kinds)) + _slowest(count, kinds, schedule)


def time_left(unsent: int, jobs: Iterable[Job], lane: Lane, now: float, pace: float | None = None) -> float:
    """Seconds until the last picture of a batch, when the account stays as it is.

    Args:
        unsent: Its requests that are still to be sent.
        jobs: Its live jobs.
        lane: The account's.
        now: Loop time.
        pace: Results a second, once they come steadily: what the limits allow may not be what is reached.
    """
    schedule, status = lane.schedule, lane.limits.status
    running = [job for job in jobs if isinstance(job.state, Running)]
    asking = (unsent + len(running)) / status.count * status.per
    rest = max(_rest(running, lane, now), asking)
    if not unsent:
        return rest
    kinds = kinds_of(jobs) or schedule.kinds
    sending = sending_time(unsent, lane.limits, schedule.mean(kinds), lane.running)
    return max(rest, max(sending, unsent / pace if pace else 0.0) + _slowest(unsent, kinds, schedule))


def _slowest(count: int, kinds: Iterable[Kind], schedule: PollSchedule) -> float:
    """Seconds that the slowest of `count` tasks takes; before any kind is known, as the record has it."""
    if not count:
        return 0.0
    part = _part(count)
    return max((schedule.quantile(kind, part) for kind in kinds), default=schedule.prior.quantile(part))


def _rest(running: list[Job], lane: Lane, now: float) -> float:
    """Seconds until the last running task has ended: mostly one of the youngest, or else the straggler."""
    if not running:
        return 0.0
    youngest, oldest = max(running, key=_began), min(running, key=_began)
    return max(0.0, _ends_at(youngest, _part(len(running)), lane) - now, _ends_at(oldest, 0.5, lane) - now)


def _ends_at(job: Job, part: float, lane: Lane) -> float:
    """Loop time by which such a job has ended, with that chance."""
    (kind,) = kinds_of([job])
    # Beyond what was last heard of it nobody knows whether it still runs.
    return _began(job) + lane.schedule.quantile(kind, part, lane.asks.heard_at(job) - _began(job))


def _began(job: Job) -> float:
    assert isinstance(job.state, Running)
    return job.state.since


def _part(count: int) -> float:
    """The part of tasks that the slowest of `count` outlives, as a median; the odd straggler beyond is left out."""
    return float(0.5 ** (1 / min(count, 20)))
