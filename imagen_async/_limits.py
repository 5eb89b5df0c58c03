"""The limits of a client's accounts, shared with others or its own, and the turns that go by them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Literal, Protocol

from ._accounts import OpenAccount, Shared, checked_shared
from ._clock import now
from ._core.circuit_breaker import CircuitBreaker
from ._core.limiter import Limiter
from ._core.poll_schedule import PollSchedule
from ._core.rate_limit import Rate, Window
from ._core.upstream import Upstream, leave
from ._transport.sessions import SessionSettings

TALKS = 1000
"""Calls to a service that may be on their way at once; of these the creates are half at most."""


class LimiterFactory(Protocol):
    """Makes the limits of a client's accounts; `Client(limiter=…)` takes one."""

    def __call__(self, account: str, kind: Literal["submit", "status"], rate: Rate) -> Limiter:
        """Make the limit of an account's creates, or of its status calls."""


def window(account: str, kind: Literal["submit", "status"], rate: Rate) -> Limiter:
    """The limit of this process alone."""
    return Window(rate)


def shared_or_own(accounts: Mapping[str, OpenAccount], shared: Shared, settings: SessionSettings) -> LimiterFactory:
    """The limits of a client's accounts: shared with whoever else has their keys, or of this process alone."""
    checked_shared(shared)
    wanted = {name: shared if each.shared is None else each.shared for name, each in accounts.items()}
    # What a client serves itself nobody else has; who goes through a service shares the limits there.
    sharing = {
        name: each.endpoint
        for name, each in accounts.items()
        if each.endpoint is not None and wanted[name] and not each.provider.is_service
    }
    if not sharing:
        return window
    from ._shared.seats import Seats, SharedAccount  # only here: who shares nothing does not load it

    shared_accounts = {
        name: SharedAccount(endpoint.api_key, endpoint.base_url, accounts[name].limits, wanted[name])
        for name, endpoint in sharing.items()
    }
    return Seats(shared_accounts, settings.timeout, settings.connect_timeout)


def new_upstreams(
    stack: AsyncExitStack,
    accounts: Mapping[str, OpenAccount],
    schedules: Mapping[str, PollSchedule],
    connections: int,
    limiter: LimiterFactory,
    earlier: Mapping[str, Upstream],
) -> dict[str, Upstream]:
    """The accounts' turns, until the stack is left. What an `earlier` opening of the client has sent still counts."""
    upstreams = {}
    for name, account in accounts.items():
        limits, breaker, before = account.limits, CircuitBreaker(name, pause), earlier.get(name)
        if before is None:
            submit, status = limiter(name, "submit", limits.submit), limiter(name, "status", limits.status)
        else:
            submit, status = before.submit, before.status
            # Its places stay taken, or a client that is closed and opened again would send twice its limit.
            submit.reopen(now())
            status.reopen(now())
            breaker.take_over(before.breaker)
        # What goes in groups needs no connection each.
        talks = TALKS if account.provider.is_service else connections
        upstreams[name] = Upstream(name, limits, schedules[name], submit, status, breaker, talks)
        stack.callback(leave, submit)
        stack.callback(leave, status)
    return upstreams


def pause(setbacks: int, longest: float) -> float:
    """Seconds to pause after so many setbacks in a row: 1, 2, 4 … longest, of which half is chance."""
    import backoff  # only here: what saves files, and is loaded when a client is opened, has it loaded

    delays = backoff.expo(base=2, factor=1, max_value=longest)
    # backoff's generators give nothing at first, for its own use.
    next(delays)
    # Twenty doublings are beyond any longest pause.
    pause = next(itertools.islice(delays, min(setbacks, 20), None))
    return float(pause / 2 + backoff.full_jitter(pause / 2))
