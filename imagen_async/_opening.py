"""What a client is made of while it is open, and how that is put together."""

from __future__ import annotations

import asyncio
import itertools
import logging
import sys
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Literal, Protocol

import backoff
import msgspec

from ._accounts import SANDBOX_KEY, OpenAccount
from ._callbacks import CallbackRegistry
from ._checked import checked_seconds
from ._clock import now
from ._core.circuit_breaker import CircuitBreaker
from ._core.limiter import Limiter
from ._core.plain_values import plain_or_same
from ._core.plan import Plan
from ._core.poll_schedule import PollSchedule
from ._core.rate_limit import Rate, Window
from ._core.upstream import Upstream
from ._plain_group import PlainGroup
from ._scheduler.callback_desk import CallbackDesk
from ._scheduler.exchange import Exchange, Save
from ._scheduler.scheduler import Scheduler
from ._text import told
from ._transport.session_pool import Endpoint, SessionPool
from ._transport.sessions import SessionSettings, SSLSetting
from ._watch.log import log
from ._watch.observer import Observer
from .errors import ConfigurationError
from .events import Listener

SAVING_AT_ONCE = 8
"""Pictures fetched at once; a 2 MB picture costs as much as 35 API calls."""


class LimiterFactory(Protocol):
    """Makes the limits of a client's accounts; `Client(limiter=…)` takes one."""

    def __call__(self, account: str, kind: Literal["submit", "status"], rate: Rate) -> Limiter:
        """Make the limit of an account's creates, or of its status calls."""


class OpenClient(msgspec.Struct, frozen=True):
    """What there is of a client while it is open.

    Attributes:
        scheduler: Has its jobs.
        pool: Its sessions.
        loop: Where it is open.
        desk: Takes its callbacks; None: none are asked for.
        stack: What leaving closes.
    """

    scheduler: Scheduler
    pool: SessionPool
    loop: asyncio.AbstractEventLoop
    desk: CallbackDesk | None
    stack: AsyncExitStack


def session_settings(
    connections: int, connect_timeout: float, timeout: float, trust_env: bool, ssl: SSLSetting
) -> SessionSettings:
    """How a client's sessions connect; raises ConfigurationError for what cannot be."""
    if ssl is False:
        raise ConfigurationError("TLS stays on: give an ssl.SSLContext that trusts your own CA instead of False.")
    connections = plain_or_same(connections)
    if type(connections) is not int or not 1 <= connections < 2**31:
        raise ConfigurationError(f"connections={told(connections)}: it must be a whole number of at least 1.")
    connect_timeout = checked_seconds("connect_timeout", connect_timeout)
    return SessionSettings(connections, connect_timeout, checked_seconds("timeout", timeout), trust_env, ssl)


def window(account: str, kind: Literal["submit", "status"], rate: Rate) -> Limiter:
    """The limit of this process alone."""
    return Window(rate)


def new_upstream(
    name: str,
    account: OpenAccount,
    schedule: PollSchedule,
    connections: int,
    limiter: LimiterFactory,
    earlier: Upstream | None,
) -> Upstream:
    """An account's turns. What an earlier opening of the client has sent still counts at the server."""
    limits, breaker = account.limits, CircuitBreaker(name, _pause)
    if earlier is None:
        submit, status = limiter(name, "submit", limits.submit), limiter(name, "status", limits.status)
    else:
        submit, status = earlier.submit, earlier.status
        # Its places stay taken, or a client that is closed and opened again would send twice its limit.
        submit.reopen(now())
        status.reopen(now())
        breaker.take_over(earlier.breaker)
    return Upstream(name, limits, schedule, submit, status, breaker, connections)


def new_scheduler(
    group: PlainGroup,
    pool: SessionPool,
    upstreams: Iterable[Upstream],
    accounts: Mapping[str, OpenAccount],
    save: Save,
    registry: CallbackRegistry | None,
    observer: Observer,
) -> Scheduler:
    """The loop of an open client, with a plan for these accounts; it is not running yet."""
    plan = Plan(upstreams, SAVING_AT_ONCE, expects_callbacks=registry is not None)
    observer.watch(plan.upstreams)
    dialects = {name: account.provider.dialect for name, account in accounts.items()}
    exchange = Exchange(dialects, pool.send, save, None if registry is None else registry.url_of)
    return Scheduler(group, plan, exchange, observer, registry)


@asynccontextmanager
async def endpoint_of(account: OpenAccount, signing_key: str | None) -> AsyncIterator[Endpoint]:
    """Where an account's API is; a sandbox without an address is served here for as long as the client is open."""
    if account.endpoint is not None:
        yield account.endpoint
        return
    from .sandbox import Sandbox  # only here: who uses a real provider never loads the server

    # With the account's own limits: it refuses what goes beyond them, as a provider would.
    async with Sandbox(limits=account.limits, signing_key=signing_key) as sandbox:
        yield Endpoint(sandbox.url_of(account.provider.name), SANDBOX_KEY)


def listeners(on_event: Listener | None) -> Iterator[Listener]:
    """Who hears of events beside the log: OpenTelemetry where the program has set it up, and the user's own."""
    # Who has set a provider for it has imported it: nobody else pays for its import, or for events that go nowhere.
    if "opentelemetry" in sys.modules:
        try:
            from ._watch.tracing import Tracing, is_set_up

            if is_set_up():
                yield Tracing()
        except Exception:
            log(logging.DEBUG, "OpenTelemetry cannot be used, and is left out", exc_info=True)
    if on_event is not None:
        yield on_event


def _pause(setbacks: int, longest: float) -> float:
    """Seconds to pause after so many setbacks in a row: 1, 2, 4 … longest, of which half is chance."""
    delays = backoff.expo(base=2, factor=1, max_value=longest)
    # backoff's generators give nothing at first, for its own use.
    next(delays)
    # Twenty doublings are beyond any longest pause.
    pause = next(itertools.islice(delays, min(setbacks, 20), None))
    return float(pause / 2 + backoff.full_jitter(pause / 2))
