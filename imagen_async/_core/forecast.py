"""How long it will take: what the limits allow, and what is known of how long tasks take. Pure arithmetic."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from .job import Job
from .poll_schedule import Kind, PollSchedule
from .provider import Limits
from .routing import Offer, Route
from .states import Running
from .upstream import Upstream, allowed


def kinds_of(jobs: Iterable[Job]) -> Counter[Kind]:
    """How many jobs there are of each kind."""
    return Counter(job.kind for job in jobs)


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


def time_left(
    unsent: int, jobs: Iterable[Job], upstreams: Iterable[Upstream], now: float, pace: float | None = None
) -> float:
    """Seconds until the last picture of a batch, when the accounts stay as they are.

    Args:
        unsent: Its requests that are still to be sent.
        jobs: Its live jobs.
        upstreams: The accounts that have them, or may take them: they share what is unsent by what their limits allow.
        now: Loop time.
        pace: Results a second, once they come steadily: what the limits allow may not be what is reached.
    """
    jobs, upstreams = list(jobs), list(upstreams)
    kinds = kinds_of(jobs)
    able = [upstream for upstream in upstreams if upstream.breaker.stopped is None]
    # A paused one may come back, and is reckoned with only where there is no other.
    able = [upstream for upstream in able if not upstream.breaker.is_paused] or able
    speeds = {upstream.name: _speed(upstream, kinds) for upstream in able}
    running = defaultdict[str, list[Job]](list)
    for job in jobs:
        if isinstance(job.state, Running):
            running[job.account].append(job)
    times, speed = [0.0], sum(speeds.values())
    for upstream in upstreams:
        part = speeds.get(upstream.name, 0.0) / speed if speeds else 0.0
        own = running[upstream.name]
        times.append(_time_of(upstream, math.ceil(unsent * part), own, kinds, now, pace and pace * part))
    return max(times)


def _time_of(
    upstream: Upstream, unsent: int, running: list[Job], kinds: Mapping[Kind, int], now: float, pace: float | None
) -> float:
    """Seconds until the last picture of one account."""
    schedule, status = upstream.schedule, upstream.limits.status
    # Each is asked about once at least: with few status calls that alone may take longer than the tasks.
    asking = (unsent + len(running)) / status.count * status.per
    # Also of a stopped account: its tasks are paid for, and their end is part of the time left.
    rest = max(_rest(running, upstream, now), asking)
    if not unsent:
        return rest
    # Before anything of the batch is live, what the account has seen stands for it.
    kinds = kinds or schedule.kinds
    sending = sending_time(unsent, allowed(upstream), schedule.mean(kinds), upstream.running)
    return max(rest, max(sending, unsent / pace if pace else 0.0) + _slowest(unsent, kinds, schedule))


def _speed(upstream: Upstream, kinds: Counter[Kind]) -> float:
    """Creates a second that an account's limits allow over a long time."""
    submit, latency = allowed(upstream).submit, upstream.schedule.mean(kinds or upstream.schedule.kinds)
    return min(submit.count / submit.per, upstream.limits.running / latency if latency > 0 else math.inf)


class Shares:
    """Deals requests out to accounts as a batch would, as far as the limits tell: for a plan, before anything is sent.

    Attributes:
        kinds: What each account has got.
    """

    def __init__(self, limits: Mapping[str, Limits], schedules: Mapping[str, PollSchedule]) -> None:
        self.kinds: dict[str, Counter[Kind]] = {account: Counter() for account in limits}
        self._limits = limits
        self._schedules = schedules
        self._counts: Counter[str] = Counter()
        self._latencies: dict[tuple[str, Kind], float] = {}

    def deal(self, route: Route, images: int) -> Offer:
        """Give a request to the one, of those that go first, who could send it soonest."""
        offer = route.offers[0] if len(route.offers) == 1 else self._soonest(route, images)
        self.kinds[offer.account][offer.model.name, images] += 1
        self._counts[offer.account] += 1
        return offer

    def _soonest(self, route: Route, images: int) -> Offer:
        best = min(offer.rank for offer in route.offers)
        _, number = min(
            (self._sent_at(offer, images), number) for number, offer in enumerate(route.offers) if offer.rank == best
        )
        return route.offers[number]

    def _sent_at(self, offer: Offer, images: int) -> float:
        key = (offer.account, (offer.model.name, images))
        # Once a kind, and not once a line of the file.
        if key not in self._latencies:
            self._latencies[key] = self._schedules[offer.account].mean({key[1]: 1})
        limits = self._limits[offer.account]
        count = self._counts[offer.account] + 1
        # Within a window, whoever has used the smaller part of it.
        share = count / limits.submit.count * 1e-6
        return sending_time(count, limits, self._latencies[key]) + share


def _slowest(count: int, kinds: Iterable[Kind], schedule: PollSchedule) -> float:
    """Seconds that the slowest of `count` tasks takes; before any kind is known, as the record has it."""
    if not count:
        return 0.0
    part = _part(count)
    return max((schedule.quantile(kind, part) for kind in kinds), default=schedule.prior.quantile(part))


def _rest(running: list[Job], upstream: Upstream, now: float) -> float:
    """Seconds until the last running task has ended: mostly one of the youngest, or else the straggler."""
    if not running:
        return 0.0
    youngest, oldest = max(running, key=_began), min(running, key=_began)
    return max(0.0, _ends_at(youngest, _part(len(running)), upstream) - now, _ends_at(oldest, 0.5, upstream) - now)


def _ends_at(job: Job, part: float, upstream: Upstream) -> float:
    """Loop time by which such a job has ended, with that chance."""
    (kind,) = kinds_of([job])
    # Beyond what was last heard of it nobody knows whether it still runs.
    return _began(job) + upstream.schedule.quantile(kind, part, upstream.poll_queue.heard_at(job) - _began(job))


def _began(job: Job) -> float:
    assert isinstance(job.state, Running)
    return job.state.since


def _part(count: int) -> float:
    """The part of tasks that the slowest of `count` outlives, as a median; the odd straggler beyond is left out."""
    return float(0.5 ** (1 / min(count, 20)))
