"""What a client tells while it works: `Client(on_event=…)` hears every event below, the log and the traces do too.

    def watch(event: Event) -> None:
        if isinstance(event, JobEvent) and event.state == "failed":
            alert(event.key, event.error)

    async with Client("kie", on_event=watch) as client: …

Events come at once, in the client's own loop, in the order in which things happen; what listens must be quick and must
not block. What it raises is logged and changes nothing: no task is paid for twice because a listener failed.

Every job tells each state that it comes to, from `queued` to one of ENDS; requests that are refused before they become
jobs tell that alone. Results of earlier runs of a journal are no news and tell nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from ._core.rate_limit import Rate
from ._core.upstream import HealthState
from ._core.values import ImageRequest, Result
from ._core.wire import Operation
from ._core.wording import StateWord
from .errors import ImagenError

__all__ = ["ENDS", "AccountEvent", "Event", "ExchangeEvent", "JobEvent", "Listener"]

JobState = StateWord

ENDS = frozenset({"done", "failed", "unknown", "unsent", "left"})
"""States after which nothing more comes of a job; only a callback may yet start an `unknown` one anew."""


class JobEvent(msgspec.Struct, frozen=True):
    """A job has come to another state.

    Attributes:
        at: Loop time in seconds.
        job: The job's number, unique while its client is open.
        state: `queued`: it waits for its turn (again, where `error` says why). `submitting`: its create leaves.
            `held`: the create's answer was lost, and a callback may still tell of its task. `running`: the provider
            has taken the task. `ready`: its pictures are made and are being fetched. `done`. `failed`. `unknown`: the
            create's answer was lost, so that it may have been paid for. `unsent`: no account takes it, or its budget
            is used up; nothing was billed. `left`: the caller left while it was so far.
        account: Who has it, or might get it while it is `queued`.
        model: Our name of its model.
        key: The request's key, or the one made for it.
        index: Its position in the input, from 0.
        request: As it is sent, defaults filled in.
        attempts: Creates that were sent for it.
        task_id: The provider's task, or None while none is known.
        error: What went wrong, or None.
        result: What came out; None before the end, and for what was never sent.
    """

    at: float
    job: int
    state: JobState
    account: str
    model: str
    key: str
    index: int
    request: ImageRequest
    attempts: int
    task_id: str | None = None
    error: ImagenError | None = None
    result: Result | None = None


class AccountEvent(msgspec.Struct, frozen=True):
    """An account fares otherwise than before.

    Attributes:
        at: Loop time in seconds.
        account: Its name.
        state: `ready`, `limited`, `paused` or `stopped`, as in `AccountProgress`.
        limit: Creates in any window, as they are allowed now.
        error: Why it is not ready, or None.
    """

    at: float
    account: str
    state: HealthState
    limit: Rate
    error: ImagenError | None


class ExchangeEvent(msgspec.Struct, frozen=True):
    """One exchange over HTTP has ended. Keys, callback tokens and the query of a file's address are masked in it.

    Attributes:
        at: Loop time in seconds.
        account: Whose exchange; empty for a file, which needs no key.
        call: `create`, `status`, `renewal`, `credits` or `file`.
        method: GET or POST.
        path: Path and query of an API call; of a file, its address without the query.
        seconds: How long it took.
        status: HTTP status, or None where no answer came.
        sent: The beginning of the request's body.
        received: The beginning of the answer's body; nothing of a file.
        error: Why no answer came, or None.
    """

    at: float
    account: str
    call: Operation
    method: str
    path: str
    seconds: float
    status: int | None = None
    sent: str = ""
    received: str = ""
    error: ImagenError | None = None


Event = JobEvent | AccountEvent | ExchangeEvent

Listener = Callable[[Event], None]
