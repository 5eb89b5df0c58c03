"""What a service sees of itself: it counts as orders go, and looks at its accounts when somebody asks."""

from __future__ import annotations

import time

from .._clock import now
from .._core.upstream import Upstream
from .._scheduler.scheduler import Scheduler, waiting_for
from ..errors import UnknownOutcome
from ._figures import AccountSeen, Figures, Outcome, RateSeen, Seen
from ._files import Files
from ._orders import Order, Part


class Sight:
    """Counts, and tells.

    Args:
        scheduler: Knows the accounts.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._figures = Figures(time.time())

    def begun(self, caller: str) -> None:
        """Hear that a task is wanted, and waits."""
        self._figures.begin(caller, time.time())

    def sent(self, caller: str, part: Part) -> None:
        """Hear that a task exists at its provider."""
        if part.single is not None:
            self._figures.sent(caller, part.single.job.account, time.time())

    def ended(self, caller: str, part: Part) -> None:
        """Hear what a task has come to."""
        result = part.result
        account = None if part.single is None or part.single.job.task_id is None else part.single.job.account
        count = 0 if result is None else len(result.files)
        figures = (None, None) if result is None else (result.credits, result.latency)
        self._figures.end(caller, account, _outcome_of(part), count, *figures, time.time())

    def shown(self, order: Order, files: Files) -> None:
        """Hear of the pictures of an order that has ended."""
        for part in order.parts:
            if part.result is not None and not part.result.earlier:
                for picture in files.pictures(part, ""):
                    self._figures.picture(
                        picture.url, order.caller, part.request.prompt, part.result.model, time.time()
                    )

    def look(self) -> Seen:
        """All that there is to see now."""
        accounts = tuple(map(self._account, self._scheduler.upstreams.values()))
        return Seen(self._figures.snapshot(time.time()), accounts)

    def _account(self, upstream: Upstream) -> AccountSeen:
        at = now()
        health, paused_for = upstream.health(at), upstream.breaker.paused_until - at
        return AccountSeen(
            name=health.name,
            state=health.state,
            why=None if health.error is None else health.error.message,
            until=time.time() + paused_for if health.state == "paused" and paused_for > 0 else None,
            waiting=waiting_for(self._scheduler, health.name),
            running=health.running,
            running_limit=upstream.limits.running,
            submit=RateSeen(health.limit.count, health.limit.per, health.rate),
            status=RateSeen(upstream.status.rate.count, upstream.status.rate.per),
        )


def _outcome_of(part: Part) -> Outcome:
    if part.failure is None:
        return "done"
    if isinstance(part.failure, UnknownOutcome):
        return "unknown"
    return "failed" if part.is_final else "left"
