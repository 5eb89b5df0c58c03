"""One account's turns: what its limits leave room for, how it fares, and what it is asked next."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import Literal

import msgspec

from ..errors import ImagenError
from .agenda import Agenda, When
from .circuit_breaker import CircuitBreaker
from .failure import Failure
from .job import Job
from .job_events import NothingLeft
from .limiter import LeasedLimiter, Limiter
from .poll_queue import PollQueue
from .poll_schedule import PollSchedule
from .provider import Limits
from .rate_limit import Rate, Window
from .routing import Offer, Route
from .spare_places import SparePlaces
from .wire import Created, NoAnswer, Rejected, Remedy, TaskFailed, TaskStatus, Told

SLOWEST = 0.99
"""The share of tasks after whose age, twice over, a callback for a lost create is not expected any more."""

CALLBACK_WAIT_AT_LEAST = 30.0
"""Seconds that one is waited for at least: providers repeat what was not taken, "briefly"."""

MOST_AT_A_LOOK = 100
"""Jobs that wait for an account at most, however wide its window: more are taken in as these go."""

HealthState = Literal["ready", "limited", "paused", "stopped"]


class Health(msgspec.Struct, frozen=True):
    """How an account fares.

    Attributes:
        name: The account's.
        state: `ready`. `limited`: it waits out a 429, or sends less after one than it was set to. `paused`: it cannot
            be reached, is in maintenance, or refuses all for its rate; it is tried with one create at a time, further
            apart each time, and comes back. `stopped`: it takes nothing more.
        limit: Creates in any window, as they are allowed now: as set, lowered after a 429, or learned.
        rate: Creates a second, over the last window.
        running: Tasks at the provider, or that a create on the way may come to make.
        error: Why it is not ready, or None.
    """

    name: str
    state: HealthState
    limit: Rate
    rate: float
    running: int
    error: ImagenError | None


class Upstream:
    """The turns of one account.

    Args:
        name: The account's.
        limits: What it may do.
        schedule: Knows how long its tasks take.
        submit: The places of its creates.
        status: The places of its status calls.
        breaker: Knows whether it takes anything at all.
        connections: Open at once to it.

    Attributes:
        poll_queue: Which running job is to be asked about when.
        errands: Calls about no task's state, which take places among the status calls, and go first. Each is let go by
            being called; it returns False where nobody waits for it any more.
        running: Tasks that exist or may come to exist by a create under way.
        leased: Its limit of creates, where that is leased; else None.
        touched: Names of those to which something has happened by which they may have something to do at another time
            than before: one set for all accounts of a plan.
    """

    def __init__(
        self,
        name: str,
        limits: Limits,
        schedule: PollSchedule,
        submit: Limiter,
        status: Limiter,
        breaker: CircuitBreaker,
        connections: int,
    ) -> None:
        self.name = name
        self.limits = limits
        self.schedule = schedule
        self.submit = submit
        self.status = status
        self.breaker = breaker
        self.poll_queue = PollQueue(schedule, SparePlaces(status))
        self.errands: deque[Callable[[], bool]] = deque()
        self.running = 0
        self.touched: set[str] = set()
        self._connections = connections
        self._creating = 0
        self._asking = 0
        self.leased = submit if isinstance(submit, LeasedLimiter) else None
        for limiter in (submit, status):
            if isinstance(limiter, LeasedLimiter):
                limiter.changed = self.touch

    def touch(self) -> None:
        """Say that something has happened here."""
        self.touched.add(self.name)

    def occupy(self, more: int) -> None:
        """Have so many tasks more, or fewer."""
        self.running += more
        self.touch()
        if self.leased is not None:
            self.leased.occupied(self.running)

    @property
    def at_a_look(self) -> int:
        """Creates that one look at the window may send."""
        return min(self.submit.limit, self.limits.running, MOST_AT_A_LOOK)

    def load(self, now: float) -> float:
        """The part of what it may send that it has sent."""
        # Whichever is fuller: without room for tasks a free window is of no use.
        return max(self.submit.taken(now) / self.submit.limit, self.running / self.limits.running)

    def state(self, now: float) -> HealthState:
        """How it fares, in a word."""
        if self.breaker.stopped is not None:
            return "stopped"
        if self.breaker.is_paused:
            return "paused"
        is_limited = self.submit.is_blocked(now) or self.submit.limit < self.submit.rate.count
        return "limited" if is_limited else "ready"

    def health(self, now: float) -> Health:
        """How it fares."""
        state, trouble = self.state(now), self.breaker.trouble
        sent = self.submit.taken(now) / self.submit.rate.per
        error = None if state == "ready" or trouble is None else trouble.about(account=self.name).exception()
        return Health(self.name, state, allowed(self).submit, sent, self.running, error)

    def submit_at(self, now: float) -> float:
        """When the next create may go; infinity while only an answer, or a lease, can tell."""
        return math.inf if self._room() < 1 else max(self.breaker.paused_until, self.submit.ready_at(now))

    def lacks_places(self, now: float) -> int:
        """How many creates nothing keeps from going now but places in a limit that others share."""
        is_able = self.submit.is_shared and self.breaker.paused_until <= now < self.submit.ready_at(now)
        return max(0, self._room()) if is_able else 0

    def _room(self) -> int:
        """How many more creates may be on the way; below 1 while only an answer can make room."""
        if self.breaker.stopped:
            return 0
        # Of these the status calls always have the other half.
        at_once = max(1, self._connections // 2) if self.breaker.is_trusted else 1
        return min(
            at_once - self._creating,
            self.limits.running - self.running,
            self._connections - self._asking - self._creating,
        )

    def ask_at(self, now: float) -> float:
        """When the next status call may go; infinity while only an answer, or a lease, can tell."""
        # Creates keep to half of the connections, so status calls always have the other half.
        if self._asking + self._creating >= self._connections:
            return math.inf
        return max(self.due_at(now), self.status.ready_at(now))

    def due_at(self, now: float) -> float:
        """When the next status call is due, as far as the limit lets it; infinity for never."""
        return -math.inf if self.errands else self.poll_queue.next_at(now)

    def due(self, now: float) -> int:
        """Count the status calls that are due: at least one where one is."""
        return len(self.errands) + self.poll_queue.due(now)

    def take_submit(self, now: float) -> None:
        """A create goes out."""
        self.submit.take(now)
        self._creating += 1
        self.touch()

    def take_status(self, now: float) -> None:
        """A status call goes out."""
        self.status.take(now)
        self._asking += 1
        self.touch()

    def settle_submit(self, event: Created | NothingLeft, model: str, now: float) -> None:
        """Learn from what became of a create."""
        if type(event) is Rejected and event.remedy is Remedy.BACK_OFF:
            # A 429 that no rate explains, since nothing was taken before it, pauses, and does not cut the limit again.
            if self.breaker.back_off(now, self.submit.rate.per, event.retry_after):
                self.submit.block(now, event.retry_after)
            else:
                self.submit.refused(now, event.retry_after)
        if self.leased is not None and isinstance(event, NothingLeft):
            self.leased.released(now)
        else:
            self.submit.answered(now)
        self._creating -= 1
        self.breaker.settle(event, model, now)
        self.touch()

    def add_errand(self, errand: Callable[[], bool]) -> None:
        """Let an errand wait for its turn."""
        self.errands.append(errand)
        self.touch()

    def let_errand_go(self, now: float) -> None:
        """Let the first errand go, where somebody still waits for it."""
        if self.errands.popleft()():
            self.take_status(now)

    def end_call(self, now: float) -> None:
        """Give back the place of a status call, or of an errand."""
        self.status.answered(now)
        self._asking -= 1
        self.touch()

    def settle_status(self, job_id: int, event: TaskStatus, now: float) -> None:
        """Learn from a status call."""
        self.poll_queue.answered(job_id, event, now)
        self.end_call(now)
        if isinstance(event, Told):
            self.breaker.answered_status()
            if type(event) is TaskFailed and event.is_unsent:
                self.breaker.gave_back(event.failure, now)
        elif isinstance(event, NoAnswer):
            # Creates go on: kie.ai counts them apart from status calls.
            ease(self.status, now, event.retry_after, limited=event.limited)


def allowed(upstream: Upstream) -> Limits:
    """An account's limits as they are now."""
    submit = Rate(upstream.submit.limit, per=upstream.submit.rate.per, guess=upstream.submit.rate.guess)
    return Limits(submit, upstream.limits.status, upstream.limits.running)


def may_leave(upstream: Upstream, now: float) -> bool:
    """Ask for the last time whether a create may go that has taken a place."""
    # A refusal holds what was about to go, too.
    return not upstream.submit.is_blocked(now) and (upstream.leased is None or upstream.leased.leaves(now))


def leave(limiter: Limiter) -> None:
    """Leave the places of a limit to others who have places of it, too: the client is closed."""
    if isinstance(limiter, LeasedLimiter):
        limiter.leave()


def changes_by_itself(limiter: Limiter) -> bool:
    """True for a limit of the user's own making: how many places others leave, or what it thinks, only it can tell."""
    return type(limiter) is not Window and not isinstance(limiter, LeasedLimiter)


def ease(status: Limiter, now: float, retry_after: float | None, *, limited: bool) -> None:
    """Ask less after an answer that wants it: where its limit was met, or where it is busy, and says for how long."""
    if limited:
        status.refused(now, retry_after)
    elif retry_after:
        status.block(now, retry_after)


class Upstreams(dict[str, Upstream]):
    """The accounts of a plan, by name, in the client's order.

    Attributes:
        in_order: The same, by number.
        numbers: Each one's place in that order.
    """

    def __init__(self, upstreams: Iterable[Upstream]) -> None:
        super().__init__({upstream.name: upstream for upstream in upstreams})
        self.in_order: list[Upstream] = list(self.values())
        self.numbers: dict[str, int] = {name: number for number, name in enumerate(self)}
        self._taking = list(self.in_order)
        self._hearing: list[set[int]] = []
        self._touched: set[str] = set()
        for upstream in self.in_order:
            upstream.touched = self._touched

    @property
    def take_creates(self) -> bool:
        """True while one of them does."""
        # Who has stopped stays so: it is looked at no more.
        while self._taking and self._taking[-1].breaker.stopped is not None:
            self._taking.pop()
        return bool(self._taking)

    def agenda(self, when: Callable[[Upstream], When], limit: Callable[[Upstream], Limiter]) -> Agenda:
        """When each has something to do of a kind that a limit of it allows."""
        agenda = Agenda(
            [when(upstream) for upstream in self.in_order],
            [number for number, upstream in enumerate(self.in_order) if changes_by_itself(limit(upstream))],
        )
        self._hearing.append(agenda.touched)
        return agenda

    def hearing(self) -> set[int]:
        """A set to which the numbers of those are added to which something has happened, at each `pass_on`."""
        self._hearing.append(set())
        return self._hearing[-1]

    def pass_on(self) -> None:
        """Let everybody hear to whom something has happened, who keeps what an account has to do and when."""
        if self._touched:
            numbers = [self.numbers[name] for name in self._touched]
            for touched in self._hearing:
                touched.update(numbers)
            self._touched.clear()

    def open_offers(self, route: Route) -> list[Offer]:
        """The accounts of a route that still take such requests."""
        return [offer for offer in route.offers if self[offer.account].breaker.refusal(offer.model.name) is None]

    def refusals(self, route: Route) -> dict[str, Failure] | None:
        """Why each account of a route takes nothing for it any more; None where one does."""
        refusals: dict[str, Failure] = {}
        for offer in route.offers:
            refusal = self[offer.account].breaker.refusal(offer.model.name)
            if refusal is None:
                return None
            refusals[offer.account] = refusal
        return refusals

    def preferred(self, route: Route) -> set[str]:
        """The accounts of a route that go first as things are: those of the best rank that is open and not paused."""
        offers = self.open_offers(route)
        # Where all are paused none is passed over: any of them may come back.
        offers = [offer for offer in offers if not self[offer.account].breaker.is_paused] or offers
        best = min((offer.rank for offer in offers), default=0)
        return {offer.account for offer in offers if offer.rank == best}

    def callback_wait(self, job: Job) -> float:
        """Seconds from a create of a job for which a callback may tell of a task whose answer was lost.

        0 where tasks end and none ever does.
        """
        upstream = self[job.account]
        # What never comes is not waited for: a lost create is told of at once then.
        if upstream.poll_queue.reliability.are_silent:
            return 0.0
        return max(CALLBACK_WAIT_AT_LEAST, 2 * upstream.schedule.quantile(job.kind, SLOWEST))


def answers_of(upstream: Upstream, job: Job, now: float) -> float:
    """The time that an answer about a job tells of: that of its question, where it comes long after the job's time.

    The process stood still meanwhile: what the answer says of the task is old, and no reason to give that up.
    """
    if not job.is_late(now):
        return now
    sent_at = upstream.poll_queue.sent_at(job.id)
    return sent_at if -math.inf < sent_at < (job.due or 0.0) else now
