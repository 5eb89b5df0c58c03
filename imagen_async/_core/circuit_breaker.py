"""Whether an account takes anything at all, by what became of its creates: stopped, paused, or without some models."""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec

from ..errors import (
    AccountError,
    AuthenticationError,
    BudgetReached,
    DeadlineExceeded,
    ModelUnavailable,
    TransportError,
)
from .failure import Failure
from .job_events import NothingLeft
from .wire import Accepted, ConnectFailed, Created, Lost, NoAnswer, Rejected, Remedy, TaskRefused

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


class _FirstContact:
    """Whether a server has ever answered; where it has not, how often status calls could not even connect."""

    def __init__(self) -> None:
        self.is_made = False
        self._tries = 0
        self._tried_at = -math.inf

    def judge(self, event: NoAnswer, now: float) -> NoAnswer | TaskRefused:
        """Give up on a server that was never reached: a wrong address is not worth a whole deadline."""
        failure = event.failure
        # Once anything was answered it is an outage, and that is waited out until the deadline.
        if self.is_made or not failure.is_a(TransportError) or failure.was_sent:
            return event
        if now >= self._tried_at + VOLLEY:
            self._tries += 1
            self._tried_at = now
        return TaskRefused(_unreachable(failure)) if self._tries >= FIRST_CONTACT_TRIES else event


class CircuitBreaker:
    """What an account's answers say of the account itself.

    Args:
        name: The account's.
        delay: Seconds to pause after so many setbacks in a row, and at most.

    Attributes:
        stopped: Why the account takes nothing more, or None.
        paused_until: Loop time until which no create goes.
    """

    def __init__(self, name: str, delay: Callable[[int, float], float]) -> None:
        self.stopped: Failure | None = None
        self.paused_until = -math.inf
        self._name = name
        self._delay = delay
        self._contact = _FirstContact()
        self._closed_models: dict[str, Failure] = {}
        self._good_models: set[str] = set()
        self._setbacks = 0
        # A refusal is an answer: what was lost before is no row any more.
        self._lost = 0
        self._limited = 0
        self._limited_until = -math.inf
        # The first ends with the first create that is answered; the second stays, as the lowered limit does.
        self._trouble: Failure | None = None
        self._limited_by: Failure | None = None

    @property
    def is_paused(self) -> bool:
        """True after a setback, until a create is answered: then others go first."""
        return self._setbacks > 0

    @property
    def is_trusted(self) -> bool:
        """True where creates may go in numbers: the server answers, and its last answers were no trouble."""
        # A first create goes alone: a wrong key or address costs one refusal, and a server that takes everything
        # and answers nothing costs one unknown outcome, not a volley of them. So does the first after trouble.
        return self._contact.is_made and not self._setbacks and not self._limited

    @property
    def trouble(self) -> Failure | None:
        """Why the account is not as it should be, if it is not."""
        return self.stopped or self._trouble or self._limited_by

    @property
    def closures(self) -> tuple[bool, int]:
        """What tells whether the account takes less than it did: is it stopped, and how many models are closed."""
        return self.stopped is not None, len(self._closed_models)

    def refusal(self, model: str) -> Failure | None:
        """Why the account takes no requests for a model, by our name; None where it does."""
        return self.stopped or self._closed_models.get(model)

    def judge(self, event: Rejected, model: str) -> Rejected:
        """See a refusal in the light of what went well: 401 was seen for a good key that may not have this model."""
        is_about_model = self._good_models and model not in self._good_models
        if not event.failure.is_a(AuthenticationError) or not is_about_model:
            return event
        message = f"The key works, but not for {model}: {event.failure.message}"
        return Rejected(Failure(ModelUnavailable, message, code=401), Remedy.CLOSE_MODEL)

    def judge_status(self, event: NoAnswer, now: float) -> NoAnswer | TaskRefused:
        """Give up on a server that was never reached."""
        return self._contact.judge(event, now)

    def answered_status(self) -> None:
        """Learn that a status call was answered."""
        self._contact.is_made = True

    def settle(self, event: Created | NothingLeft, model: str, now: float) -> None:
        """Learn from what became of a create; a 429 is `back_off`'s."""
        match event:
            case Accepted():
                self._contact.is_made = True
                # A key that made a task is right: a 401 from here on is about a model.
                self._good_models.add(model)
                self._recover()
            case Rejected():
                self._contact.is_made = True
                self._settle_refusal(event, model, now)
            case Lost(failure=failure, retry_after=retry_after, is_named=True):
                # To ask again costs nothing.
                self._trouble = failure
                self._set_back(now, retry_after=retry_after)
                if self._was_never_answered():
                    self.stopped = _no_service(failure).about(account=self._name)
            case Lost(failure=failure, retry_after=retry_after):
                self._lost += 1
                self._trouble = failure
                if self._lost >= LOST_IN_A_ROW or retry_after:
                    self._set_back(now, retry_after=retry_after, longest=LONGEST_PAUSE_AFTER_LOST)
            case ConnectFailed(failure=failure):
                self._trouble = failure
                self._set_back(now)
                if self._was_never_answered():
                    self.stopped = _unreachable(failure).about(account=self._name)

    def _was_never_answered(self) -> bool:
        """True where nothing that was tried has ever been answered as it should: a wrong address, most likely."""
        return not self._contact.is_made and self._setbacks >= FIRST_CONTACT_TRIES

    def _settle_refusal(self, event: Rejected, model: str, now: float) -> None:
        match event.remedy:
            case Remedy.PAUSE | Remedy.REPEAT:
                self._lost = 0
                self._trouble = event.failure
                self._set_back(now, retry_after=event.retry_after)
            case Remedy.BACK_OFF:
                self._lost = 0
                self._trouble = self._limited_by = event.failure
            case _:
                # Whatever it refuses, the server answers: no outage, and no rate.
                self._recover()
                if event.remedy is Remedy.CLOSE_MODEL:
                    self._closed_models[model] = event.failure.about(account=self._name)
                elif event.remedy is Remedy.STOP:
                    self.stopped = event.failure.about(account=self._name)

    def gave_back(self, failure: Failure, now: float) -> None:
        """Learn that a task came back that the account had taken, nothing being sent of it."""
        if failure.is_a(AccountError, BudgetReached):
            self.stopped = failure.about(account=self._name)
        elif not failure.is_a(DeadlineExceeded):
            self._trouble = failure
            self._set_back(now)

    def _recover(self) -> None:
        self._setbacks = self._lost = self._limited = 0
        self._trouble = None

    def back_off(self, now: float, window: float, retry_after: float | None) -> bool:
        """Learn of a 429; True where none was accepted since the last one: no rate explains that, so creates pause."""
        # The 429s of one volley meet the same window, and count once.
        if now >= self._limited_until:
            self._limited += 1
            self._limited_until = now + window
        # The first one since a create was taken may well be the rate: the window learns from it, and nothing pauses.
        if self._limited <= 1 and not self._setbacks:
            return False
        # A 429 is waited out for a full window, however short the pause would be: what comes earlier meets it again.
        self._set_back(now, retry_after=max(window, retry_after or 0.0))
        return True

    def take_over(self, earlier: CircuitBreaker) -> None:
        """Wait out what an earlier opening of the client was told to wait out."""
        # A server that refuses all for its rate goes on counting while the client is closed.
        if earlier._limited > 1:
            self.paused_until = earlier.paused_until

    def _set_back(self, now: float, *, retry_after: float | None = None, longest: float = LONGEST_PAUSE) -> None:
        """Pause, longer each time, and send one at a time until one is answered. Failures of one volley count once."""
        if now >= self.paused_until:
            self.paused_until = now + self._delay(self._setbacks, longest)
            self._setbacks += 1
        self.paused_until = max(self.paused_until, now + (retry_after or 0.0))


def _no_service(failure: Failure) -> Failure:
    message = f"No service has answered there: {failure.message} Check the base URL, and what stands in front of it."
    return msgspec.structs.replace(failure, kind=TransportError, message=message)


def _unreachable(failure: Failure) -> Failure:
    message = f"The server cannot be reached: {failure.message} Nothing was sent. Check the base URL and the network."
    return msgspec.structs.replace(failure, kind=TransportError, message=message, was_sent=False)
