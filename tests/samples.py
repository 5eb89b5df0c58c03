"""A job in every state, and every event: what the tests of the machine and of the journal's entries try out."""

from __future__ import annotations

from typing import Any

import msgspec
from builders import MODELS, failure, make_job

from imagen_async._core.job import Job
from imagen_async._core.job_events import (
    CallbackNamed,
    Event,
    Expired,
    FetchBegun,
    Leaves,
    NobodyTakes,
    NotSaved,
    OverBudget,
    OwnerGone,
    OwnerLeft,
    OwnerWithholds,
    Readmitted,
    Saved,
    SendAborted,
    StatusAsked,
    Taken,
    Unsendable,
)
from imagen_async._core.machine import TABLE
from imagen_async._core.routing import Offer
from imagen_async._core.states import (
    AwaitingCallback,
    Claim,
    Claimed,
    Collected,
    Confirming,
    Done,
    Doubted,
    Failed,
    Fetching,
    Left,
    Links,
    NotAdmitted,
    Noting,
    OnTheWay,
    Orphaned,
    Queued,
    Relinking,
    Running,
    Sending,
    State,
    Unknown,
)
from imagen_async._core.transitions import PATIENCE
from imagen_async._core.values import ImageFile
from imagen_async._core.wire import (
    Accepted,
    ConnectFailed,
    Lost,
    NoAnswer,
    Pending,
    Rejected,
    Remedy,
    Succeeded,
    TaskFailed,
    TaskRefused,
)
from imagen_async.errors import (
    BudgetReached,
    DownloadFailed,
    GenerationFailed,
    InsufficientCredits,
    InvalidRequest,
    JournalError,
    ModelUnavailable,
    RateLimited,
    TransportError,
    UnknownOutcome,
)

NOW = 1000.0
FILE = ImageFile("out/000000-a-red-fox.png", "0" * 64, 68, "image/png", "https://files.example/1.png")
SUCCESS = Succeeded(("https://files.example/1.png",), latency=13.5, credits=None, raw=b'{"state":"success"}')
GONE = failure(DownloadFailed, "404", is_gone=True)

FAILED_BEFORE = failure(GenerationFailed, "too dark")
LOST_BEFORE = failure(UnknownOutcome, "The create was sent and its answer was lost. It may have made a task", credits=8)
BEFORE = {"": None, " after a failure": FAILED_BEFORE, " after a loss": LOST_BEFORE}
"""What became of the create before, where it says something yet."""

CLAIM = Claim(1, "t1")
SINCE: dict[str, Any] = {"task_id": "t1", "since": NOW - 10}
DENIED: dict[str, Any] = {**SINCE, "denied_at": NOW - PATIENCE}

STATES: dict[str, State] = {
    **{
        f"{kind.__name__}{before}": kind(fallback=why)
        for kind in (Queued, Noting, Sending)
        for before, why in BEFORE.items()
    },
    "Claimed": Claimed(CLAIM),
    "Claimed after a loss": Claimed(CLAIM, LOST_BEFORE),
    **{f"Orphaned{before}": Orphaned(fallback=why) for before, why in BEFORE.items()},
    "Orphaned claimed": Orphaned(CLAIM),
    "Orphaned claimed after a loss": Orphaned(CLAIM, LOST_BEFORE),
    "AwaitingCallback": AwaitingCallback(LOST_BEFORE, since=NOW - 10, until=NOW + 30),
    "Confirming": Confirming(LOST_BEFORE, until=NOW + 60, **SINCE),
    "Confirming denied": Confirming(LOST_BEFORE, until=NOW + 60, **DENIED),
    **{kind.__name__: kind(**SINCE) for kind in (Running, Collected, Doubted)},
    **{f"{kind.__name__} denied": kind(**DENIED) for kind in (Running, Collected, Doubted)},
    "Relinking": Relinking(**SINCE, outcome=SUCCESS),
    "Relinking denied": Relinking(**DENIED, outcome=SUCCESS),
    "Fetching": Fetching("t1", SUCCESS),
    "Fetching asked again": Fetching("t1", SUCCESS, Links.ASKED_AGAIN),
    "Fetching renewed": Fetching("t1", SUCCESS, Links.RENEWED),
    "Done": Done("t1", SUCCESS),
    "Failed": Failed(failure(InvalidRequest, "no")),
    "Unknown": Unknown(failure(UnknownOutcome, "lost")),
    "NotAdmitted": NotAdmitted(failure(InsufficientCredits, "empty")),
    "Left": Left(Running("t1", since=NOW - 10)),
}
"""Every state that a job can be in, with what matters of its fields."""

_REFUSALS = {
    Remedy.FAIL: failure(InvalidRequest, "bad", code=422),
    Remedy.NEW_TASK: failure(GenerationFailed, "silent", code=408),
    Remedy.CLOSE_MODEL: failure(ModelUnavailable, "gone", code=404),
    Remedy.STOP: failure(InsufficientCredits, "empty", code=402),
    Remedy.BACK_OFF: failure(RateLimited, "slow down", code=429),
    Remedy.PAUSE: failure(TransportError, "maintenance", code=455),
}

EVENTS: dict[str, Event] = {
    "Taken": Taken(Offer("kie", MODELS["imagen4"])),
    "Leaves": Leaves(),
    "SendAborted": SendAborted(),
    "SendAborted unnoted": SendAborted(failure(JournalError, "the disk is full")),
    "Unsendable": Unsendable(failure(InvalidRequest, "no such text")),
    "Accepted": Accepted("t1"),
    "Lost": Lost(failure(TransportError, "reset")),
    "Lost, may be named": Lost(failure(TransportError, "reset"), callback_wait=30.0),
    "ConnectFailed": ConnectFailed(failure(TransportError, "no route", was_sent=False)),
    **{f"Rejected {remedy.name}": Rejected(why, remedy) for remedy, why in _REFUSALS.items()},
    "Rejected FAIL, may be named": Rejected(_REFUSALS[Remedy.FAIL], Remedy.FAIL, callback_wait=30.0),
    "StatusAsked": StatusAsked(),
    "Pending": Pending("waiting"),
    "Succeeded": SUCCESS,
    "TaskFailed": TaskFailed(failure(GenerationFailed, "too dark", code="501"), 0.0, b'{"state":"fail"}'),
    "TaskRefused": TaskRefused(failure(InvalidRequest, "recordInfo is null", code=422)),
    "NoAnswer": NoAnswer(failure(TransportError, "502")),
    "FetchBegun": FetchBegun(),
    "Saved": Saved((FILE,)),
    "NotSaved": NotSaved(failure(DownloadFailed, "502")),
    "NotSaved gone": NotSaved(GONE),
    "CallbackNamed": CallbackNamed(1, "t1"),
    "CallbackNamed by another": CallbackNamed(9, "t9"),
    "Expired": Expired(),
    "NobodyTakes": NobodyTakes({"kie": failure(InsufficientCredits, "empty")}),
    "NobodyTakes it anywhere": NobodyTakes({"kie": failure(ModelUnavailable, "gone")}),
    "OverBudget": OverBudget(failure(BudgetReached, "used up")),
    "OwnerWithholds": OwnerWithholds(),
    "OwnerLeft": OwnerLeft(),
    "OwnerGone": OwnerGone(),
    "Readmitted": Readmitted(1, 1, None),
    "Readmitted doubted": Readmitted(1, 1, None, is_doubted=True),
}
"""Everything that can happen to a job, with what matters of its fields."""


def job_in(state: State | str, **fields: Any) -> Job:
    """A job in a state, or in that of a name, with the creates behind it that led there."""
    state = STATES[state] if isinstance(state, str) else state
    is_lost = isinstance(state, AwaitingCallback | Confirming) or getattr(state, "fallback", None) == LOST_BEFORE
    creates = isinstance(state, Noting | OnTheWay) + (getattr(state, "fallback", None) is not None)
    counts: dict[str, Any] = {"attempts": creates, "lost": int(is_lost), "lost_creates": (1,) if is_lost else ()}
    if isinstance(state, AwaitingCallback | Confirming | Running | Fetching):
        counts["attempts"] = 1
    return make_job(1, state, **{"index": 4, "key": "fox", "expires_at": NOW + 900, **counts, **fields})


def can_meet(job: Job, event: Event) -> bool:
    """True where the machine's table has an entry for it."""
    return (type(job.state), type(event)) in TABLE


def with_images(job: Job, num_images: int | None) -> Job:
    """The same job, of so many pictures."""
    return msgspec.structs.replace(job, request=msgspec.structs.replace(job.request, num_images=num_images))
