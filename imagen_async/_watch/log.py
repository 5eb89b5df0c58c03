"""What the log says: a line at INFO for each state that a person cares about, the rest and every exchange at DEBUG."""

from __future__ import annotations

import contextlib
import logging
import re

from .._core.wire import clean
from .._text import one_line, shown
from ..errors import ImagenError
from ..events import AccountEvent, Event, ExchangeEvent, JobEvent

logger = logging.getLogger("imagen_async")

_QUERY = re.compile(r"""(https?:[^\s"?]*\?)[^\s"\\]+""")


def log(level: int, message: str, *values: object, exc_info: bool = False) -> None:
    """Log; a handler or a filter that fails is no reason to lose the answer that is being told of."""
    with contextlib.suppress(Exception):
        if not logger.isEnabledFor(level):
            return
        # Whatever it quotes, it is one line, and none that somebody else has begun.
        line = one_line(message % values)
        if line != message % values:
            message, values = "%s", (line,)
        logger.log(level, message, *values, exc_info=exc_info, stacklevel=2)


def log_event(event: Event) -> None:
    """Log an event, where its level is asked for."""
    level = _level(event)
    if logger.isEnabledFor(level):
        log(level, "%s", without_queries(_text(event)))


def without_queries(text: str) -> str:
    """A text whose addresses have lost what stands behind the question mark: it often is what opens a file."""
    return _QUERY.sub(r"\1***", text)


def _level(event: Event) -> int:
    match event:
        case ExchangeEvent() | JobEvent(state="submitting" | "ready" | "unsent") | JobEvent(state="queued", error=None):
            return logging.DEBUG
    return logging.INFO


def _text(event: Event) -> str:
    match event:
        case JobEvent():
            return f"{clean(event.account)}: {shown(clean(event.key))!r} {_what_of_job(event)}"
        case AccountEvent():
            limit = f"{event.limit.count} creates per {event.limit.per:g} s"
            return f"{clean(event.account)} is {event.state}, {limit}{_why(event.error)}"
        case ExchangeEvent():
            answer = "no answer" if event.status is None else f"HTTP {event.status}"
            bodies = f"{event.sent} -> {event.received}" if event.sent or event.received else ""
            what = f"{event.method} {event.path}: {answer} in {event.seconds:.3f} s{_why(event.error)}"
            return f"{event.account or 'files'}: {event.call}: {what} {bodies}".rstrip()


_WORDS = {
    "queued": "waits for its turn",
    "submitting": "is being submitted",
    "held": "waits for its callback",
    "ready": "is ready to be fetched",
    "failed": "failed",
    "unknown": "has an unknown outcome",
    "unsent": "was not sent",
    "left": "was left",
}


def _what_of_job(event: JobEvent) -> str:
    if event.state == "done":
        return f"is done{_figures(event)}"
    if event.state == "running":
        # A task that was named by its id comes without a request.
        made = f" of {event.model}: {shown(clean(event.request.prompt))!r}" if event.model else ""
        return f"runs as task {clean(str(event.task_id))}{made}"
    return f"{_WORDS[event.state]}{_why(event.error)}"


def _figures(event: JobEvent) -> str:
    result = event.result
    if result is None:
        return ""
    after = "" if result.latency is None else f" after {result.latency:.1f} s"
    cost = "" if result.credits is None else f", {result.credits:g} credits"
    return f"{after}{cost}: {clean(', '.join(map(str, result.files or result.urls)))}"


def _why(error: ImagenError | None) -> str:
    return "" if error is None else f": {clean(str(error))}"
