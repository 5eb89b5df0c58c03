"""Tells events to whoever listens: the log, the traces, the user's `on_event`. What a listener raises ends here."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from typing import ParamSpec

from .._core.change import Change
from .._core.failure import Failure
from .._core.job import Job
from .._core.job_events import Leaves
from .._core.states import AwaitingCallback, Confirming, Ended, Failed, NotAdmitted, Queued, Unknown
from .._core.upstream import HealthState, Upstream, Upstreams
from .._core.values import Result
from .._core.wire import HttpRequest, HttpResponse, clean
from .._core.wording import STATE_WORDS, result_of
from ..errors import ImagenError
from ..events import AccountEvent, Event, ExchangeEvent, JobEvent, JobState, Listener
from .log import log, log_event, logger, without_queries

P = ParamSpec("P")

_SHOWN = 600
"""Bytes of a body that an exchange's event shows at most."""

# What may be a callback's token; who has one could announce the task's end.
_LONG_WORD = re.compile(r"[\w-]{36,}", re.ASCII)
# How a slash stands in a query, %2F, and in some servers' JSON, \u002f.
_ESCAPED_SLASHES = ("2F", "2f", "u002F", "u002f")


class Observer:
    """Tells events; costs next to nothing while nobody listens.

    Args:
        listeners: Who hears each event, after the log.
        finish: Makes a result what users get.
        is_token: Knows a callback's token; None: there are none.
    """

    def __init__(
        self,
        listeners: Iterable[Listener] = (),
        finish: Callable[[Result], Result] = lambda result: result,
        is_token: Callable[[str], bool] | None = None,
    ) -> None:
        # The log is always one of them, and asks for itself whether its level is heard.
        self._listeners = (log_event, *listeners)
        self._finish = finish
        self._is_token = is_token
        # By their ids: a listener is anything that can be called, and may have no hash.
        self._broken: set[int] = set()
        self._states: dict[str, HealthState] = {}
        self._upstreams: Mapping[str, Upstream] = {}

    @property
    def is_listening(self) -> bool:
        """True where somebody hears of jobs and accounts."""
        return len(self._listeners) > 1 or logger.isEnabledFor(logging.INFO)

    @property
    def hears_exchanges(self) -> bool:
        """True where somebody hears of exchanges."""
        return len(self._listeners) > 1 or logger.isEnabledFor(logging.DEBUG)

    def watch(self, upstreams: Upstreams) -> None:
        """Tell of these accounts from now on."""
        self._upstreams = upstreams

    def on_change(self, change: Change, now: float) -> None:
        """Tell of a job that has come to another state, and of its account, where that fares otherwise now."""
        if not self.is_listening:
            return
        # Several states of ours are one to people, who hear of it once.
        if change.before is None or _name(change.before) != _name(change.after):
            self._tell(self._job_event, change.after, now)
        if isinstance(change.event, Leaves):
            return  # whoever hears of an account may stop the batch: not between its last look and a create
        upstream = self._upstreams.get(change.after.account)
        if upstream is not None and upstream.state(now) != self._states.get(upstream.name, "ready"):
            self._tell(self._account_event, upstream, now)

    def refused(self, result: Result, number: int, now: float) -> None:
        """Tell of a request of which no job was made."""
        if self.is_listening:
            self._tell(_refusal, result, number, now)

    def exchange(
        self, account: str, request: HttpRequest, outcome: HttpResponse | ImagenError, began_at: float, now: float
    ) -> None:
        """Tell of an exchange that has ended; the key is masked in the answer already."""
        self._tell(self._exchange_event, account, request, outcome, began_at, now)

    def _tell(self, make: Callable[P, Event], *details: P.args, **named: P.kwargs) -> None:
        """Make an event and have everybody hear it; whatever goes wrong with that goes no further."""
        try:
            event = make(*details, **named)
        except Exception:
            log(logging.ERROR, "an event could not be told", exc_info=True)
            return
        for listener in self._listeners:
            self._hand(event, listener)

    def _hand(self, event: Event, listener: Listener) -> None:
        try:
            listener(event)
        except (KeyboardInterrupt, SystemExit) as error:
            # Meant for the program: not for the exchange that is told of, whose answer is still to be kept.
            asyncio.get_running_loop().call_soon(_raise, error)
        except BaseException:
            # Once each: a listener that fails always would fill the log with the same words.
            if id(listener) not in self._broken:
                self._broken.add(id(listener))
                log(logging.ERROR, "a listener failed on an event; it hears the next ones; said once", exc_info=True)

    def _account_event(self, upstream: Upstream, now: float) -> AccountEvent:
        health = upstream.health(now)
        self._states[upstream.name] = health.state
        return AccountEvent(now, upstream.name, health.state, health.limit, health.error)

    def _exchange_event(
        self, account: str, request: HttpRequest, outcome: HttpResponse | ImagenError, began_at: float, now: float
    ) -> ExchangeEvent:
        answer = outcome if isinstance(outcome, HttpResponse) else None
        return ExchangeEvent(
            at=now,
            account=account,
            call=request.operation,
            method=request.method,
            path=request.path,
            seconds=now - began_at,
            status=None if answer is None else answer.status,
            sent=self._shown(request.body),
            received="" if answer is None else self._shown(answer.body),
            error=None if isinstance(outcome, HttpResponse) else outcome,
        )

    def _job_event(self, job: Job, now: float) -> JobEvent:
        result = None
        if isinstance(job.state, Ended) and not job.was_never_sent:
            result = self._finish(result_of(job))
        return JobEvent(
            at=now,
            job=job.id,
            state=_name(job),
            account=job.account,
            model=job.model.name,
            key=job.key,
            index=job.index,
            request=job.request,
            attempts=job.attempts,
            task_id=job.task_id,
            error=_error_of(job) if result is None else result.error,
            result=result,
        )

    def _shown(self, body: bytes | bytearray | None) -> str:
        """The beginning of a body on one line, with callback tokens and the queries of addresses masked."""
        if not body:
            return ""
        text = body[:_SHOWN].decode(errors="replace")
        if len(body) > _SHOWN:
            text = text[: -len("u002F" + 36 * "x")]  # it may end in the first half of a token
        return clean(without_queries(_LONG_WORD.sub(self._masked, text)))

    def _masked(self, found: re.Match[str]) -> str:
        """A token looks like a UUID does, so only behind a slash is it masked by its looks alone."""
        word, token = found[0], found[0][-36:]
        before = word.removesuffix(token)
        is_behind_slash = before in _ESCAPED_SLASHES or (not before and found.string[: found.start()].endswith("/"))
        is_token = self._is_token is not None and self._is_token(token)
        return f"{before}***" if is_behind_slash or is_token else word


def _raise(error: BaseException) -> None:
    raise error


def _name(job: Job) -> JobState:
    name: JobState = STATE_WORDS[type(job.state)]
    return name


def _error_of(job: Job) -> ImagenError | None:
    match job.state:
        case (
            Queued(failure=Failure() as failure)
            | AwaitingCallback(unknown=failure)
            | Confirming(unknown=failure)
            | Failed(failure=failure)
            | Unknown(failure=failure)
            | NotAdmitted(failure=failure)
        ):
            return failure.exception()
    return None


def _refusal(result: Result, number: int, now: float) -> JobEvent:
    return JobEvent(
        at=now,
        job=number,
        state="failed",
        account=result.provider,
        model=result.model,
        key=result.key,
        index=result.index,
        request=result.request,
        attempts=0,
        error=result.error,
        result=result,
    )
