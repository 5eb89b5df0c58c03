"""One account's turns: what its limits leave room for, how it fares, and whether it takes anything at all."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Literal

import msgspec

from ..errors import AuthenticationError, ImagenError, ModelUnavailable, TransportError
from .job import SendAborted
from .poll_queue import PollQueue
from .poll_schedule import Kind, PollSchedule
from .provider import Limits
from .rate_limit import Rate, Window
from .wire import (
    Accepted,
    ConnectFailed,
    Created,
    Lost,
    NoAnswer,
    Pending,
    Rejected,
    Remedy,
    Succeeded,
    TaskFailed,
    TaskRefused,
    TaskStatus,
)

FIRST_CONTACT_TRIES = 5
"""Failed connections after which an account that never answered is taken for wrongly set up, not for down."""

LOST_IN_A_ROW = 3
"""Lost answers after which creates go one at a time: an outage must not make a long list of unknown outcomes."""

LONGEST_PAUSE = 60.0
"""Seconds between two creates to a server that cannot be reached: such a try costs nothing."""

LONGEST_PAUSE_AFTER_LOST = 900.0
"""Seconds between two creates while their answers are lost: each of them may be billed."""

VOLLEY = 0.5
"""Seconds within which status calls that fail to connect count as one try: they meet the same trouble."""

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

    Attributes:
        asks: Which running job is to be asked about when.
        running: Tasks that exist or may come to exist by a create under way.
        stopped: Why the account takes nothing more, or None.
        closed_models: Models that it does not serve, by our name, each with the error that told.
        has_answered: True once the server answered anything at all.
        good_models: Models, by our name, of which the key got a task.
    """

    def __init__(
        self, name: str, limits: Limits, schedule: PollSchedule, connections: int, delay: Callable[[int, float], float]
    ) -> None:
        self.name = name
        self.limits = limits
        self.schedule = schedule
        self.submit: Window = Window(limits.submit)
        self.status: Window = Window(limits.status)
        self.poll_queue: PollQueue = PollQueue(schedule)
        self.running = 0
        self.stopped: ImagenError | None = None
        self.closed_models: dict[str, ImagenError] = {}
        self.good_models: set[str] = set()
        self.has_answered: bool = False
        self._connections = connections
        self._creating = 0
        self._asking = 0
        self._delay = delay
        self._setbacks = 0
        self._lost = 0
        self._limited = 0
        self._limited_until = -math.inf
        self._trouble: ImagenError | None = None
        self._limited_by: ImagenError | None = None
        self._unreached = 0
        self._unreached_at = -math.inf
        self._paused_until = -math.inf

    @property
    def at_a_look(self) -> int:
        """Creates that one look at the window may send."""
        return min(self.submit.limit, self.limits.running, MOST_AT_A_LOOK)

    @property
    def allowed(self) -> Limits:
        """The limits as they are now."""
        submit = Rate(self.submit.limit, per=self.submit.rate.per, guess=self.submit.rate.guess)
        return Limits(submit, self.limits.status, self.limits.running)

    @property
    def is_paused(self) -> bool:
        """True after a setback, until a create is answered: then others go first."""
        return self._setbacks > 0

    def refusal(self, model: str) -> ImagenError | None:
        """Why the account takes no requests for a model, by our name; None where it does."""
        return self.stopped or self.closed_models.get(model)

    def load(self, now: float) -> float:
        """The part of what it may send that it has sent."""
        return max(self.submit.taken(now) / self.submit.limit, self.running / self.limits.running)

    def callback_wait(self, kind: Kind) -> float:
        """Seconds from a create for which a callback may come; 0 where tasks end and none ever does."""
        if self.poll_queue.reliability.are_silent:
            return 0.0
        return max(CALLBACK_WAIT_AT_LEAST, 2 * self.schedule.quantile(kind, SLOWEST))

    def state(self, now: float) -> HealthState:
        """How it fares, in a word."""
        if self.stopped is not None:
            return "stopped"
        if self.is_paused:
            return "paused"
        is_limited = self.submit.is_held(now) or self.submit.limit < self.submit.rate.count
        return "limited" if is_limited else "ready"

    def health(self, now: float) -> Health:
        """How it fares."""
        state, error = self.state(now), self.stopped or self._trouble or self._limited_by
        sent = self.submit.taken(now) / self.submit.rate.per
        return Health(self.name, state, self.allowed.submit, sent, self.running, None if state == "ready" else error)

    def submit_at(self, now: float) -> float:
        """When the next create may go; infinity while only an answer can tell."""
        # A first create goes alone: a wrong key or address costs one refusal, and a server that takes everything
        # and answers nothing costs one unknown outcome, not a volley of them. So does the first after trouble.
        is_trusted = self.has_answered and not self._setbacks and not self._limited
        at_once = max(1, self._connections // 2) if is_trusted else 1
        if self.stopped or self.running >= self.limits.running or self._creating >= at_once:
            return math.inf
        if self._asking + self._creating >= self._connections:
            return math.inf
        return max(self._paused_until, self.submit.ready_at(now))

    def ask_at(self, now: float) -> float:
        """When the next status call may go; infinity while only an answer can tell."""
        # Creates keep to half of the connections, so status calls always have the other half.
        if not self.poll_queue or self._asking + self._creating >= self._connections:
            return math.inf
        return max(self.poll_queue.next_at(), self.status.ready_at(now))

    def spend_submit(self, now: float) -> None:
        """A create goes out."""
        self.submit.spend(now)
        self._creating += 1

    def spend_status(self, now: float) -> None:
        """A status call goes out."""
        self.status.spend(now)
        self._asking += 1

    def remember(self, free_at: Iterable[float]) -> None:
        """Count the creates that another process sent with this account: each holds a place until its time."""
        self.submit.remember(free_at)

    def take_over(self, earlier: Upstream, now: float) -> None:
        """Take over the places that an earlier upstream of this account has spent; its answers are not waited for."""
        self.submit.take_over(earlier.submit, now)
        self.status.take_over(earlier.status, now)
        if earlier._limited > 1:
            self._paused_until = earlier._paused_until

    def judge(self, event: Rejected, model: str) -> Rejected:
        """See a refusal in the light of what went well: 401 was seen for a good key that may not have this model."""
        is_about_model = self.good_models and model not in self.good_models
        if not isinstance(event.error, AuthenticationError) or not is_about_model:
            return event
        message = f"The key works, but not for {model}: {event.error.message}"
        return Rejected(ModelUnavailable(message, code=401), Remedy.CLOSE_MODEL)

    def judge_status(self, event: NoAnswer, now: float) -> NoAnswer | TaskRefused:
        """Give up on a server that was never reached: a wrong address is not worth a whole deadline."""
        if self.has_answered or not isinstance(event.error, TransportError) or event.error.sent:
            return event
        if now >= self._unreached_at + VOLLEY:
            self._unreached += 1
            self._unreached_at = now
        return TaskRefused(_unreachable(event.error)) if self._unreached >= FIRST_CONTACT_TRIES else event

    def settle_submit(self, event: Created | SendAborted, model: str, now: float) -> None:
        """Learn from what became of a create."""
        if isinstance(event, Rejected) and event.remedy is Remedy.BACK_OFF:
            self._hold(event, now)
        self.submit.answered(now)
        self._creating -= 1
        self.has_answered = self.has_answered or isinstance(event, Accepted | Rejected)
        match event:
            case Accepted():
                self.good_models.add(model)
                self._setbacks = self._lost = self._limited = 0
                self._trouble = None
            case Lost(error=error):
                self._lost += 1
                self._trouble = error
                if self._lost >= LOST_IN_A_ROW:
                    self._set_back(now, longest=LONGEST_PAUSE_AFTER_LOST)
            case ConnectFailed(error=error):
                self._trouble = error
                self._set_back(now)
                if not self.has_answered and self._setbacks >= FIRST_CONTACT_TRIES:
                    self.stopped = _unreachable(error).about(provider=self.name)
            case Rejected(remedy=Remedy.PAUSE, error=error):
                self._lost = 0
                self._trouble = error
                self._set_back(now, retry_after=event.retry_after)
            case Rejected(remedy=Remedy.BACK_OFF, error=error):
                self._lost = 0
                self._trouble = self._limited_by = error
            case Rejected():
                self._refused(event, model)

    def settle_status(self, job_id: int, event: TaskStatus, now: float) -> None:
        """Learn from a status call."""
        self.poll_queue.answered(job_id, event, now)
        self.status.answered(now)
        self._asking -= 1
        self.has_answered = self.has_answered or isinstance(event, Pending | Succeeded | TaskFailed)
        if isinstance(event, NoAnswer) and event.limited:
            self.status.refused(now, event.retry_after)

    def _hold(self, event: Rejected, now: float) -> None:
        """Wait out a 429. Where none was accepted since the last one, no rate explains it: pause, and cut no more."""
        window = self.submit.rate.per
        if now >= self._limited_until:
            self._limited += 1
            self._limited_until = now + window
        if self._limited > 1 or self._setbacks:
            self.submit.hold(now, event.retry_after)
            self._set_back(now, retry_after=max(window, event.retry_after or 0.0))
        else:
            self.submit.refused(now, event.retry_after)

    def _refused(self, event: Rejected, model: str) -> None:
        self._setbacks = self._lost = self._limited = 0
        self._trouble = None
        if event.remedy is Remedy.CLOSE_MODEL:
            self.closed_models[model] = event.error.about(provider=self.name)
        elif event.remedy is Remedy.STOP:
            self.stopped = event.error.about(provider=self.name)

    def _set_back(self, now: float, *, retry_after: float | None = None, longest: float = LONGEST_PAUSE) -> None:
        """Pause, longer each time, and send one at a time until one is answered. Failures of one volley count once."""
        if now >= self._paused_until:
            self._paused_until = now + self._delay(self._setbacks, longest)
            self._setbacks += 1
        self._paused_until = max(self._paused_until, now + (retry_after or 0.0))


def _unreachable(error: ImagenError) -> ImagenError:
    message = f"The server cannot be reached: {error.message} Nothing was sent. Check the base URL and the network."
    unreachable = TransportError(message, code=error.code)
    unreachable.sent = False
    return unreachable
