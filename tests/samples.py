"""A job in every state, and every event: what the tests of the machine and of the journal's entries try out."""

from __future__ import annotations

from typing import Any

import inner
import msgspec
from builders import MODELS, failure, make_job

from imagen_async import errors
from imagen_async._core.transitions import LINKS_PATIENCE, PATIENCE

NOW = 1000.0
FILE = inner.ImageFile("out/000000-a-red-fox.png", "0" * 64, 68, "image/png", "https://files.example/1.png")
SUCCESS = inner.Succeeded(("https://files.example/1.png",), latency=13.5, credits=None, raw=b'{"state":"success"}')
GONE = failure(errors.DownloadFailed, "404", is_gone=True)

FAILED_BEFORE = failure(errors.GenerationFailed, "too dark")
LOST_BEFORE = failure(
    errors.UnknownOutcome, "The create was sent and its answer was lost. It may have made a task", credits=8
)
BEFORE = {"": None, " after a failure": FAILED_BEFORE, " after a loss": LOST_BEFORE}
"""What became of the create before, where it says something yet."""

CLAIM = inner.Claim(1, "t1")
SINCE: dict[str, Any] = {"task_id": "t1", "since": NOW - 10}
DENIED: dict[str, Any] = {**SINCE, "denied_at": NOW - PATIENCE}

STATES: dict[str, inner.State] = {
    **{
        f"{kind.__name__}{before}": kind(fallback=why)
        for kind in (inner.Queued, inner.Preparing, inner.Noting, inner.Sending, inner.Orphaned)
        for before, why in BEFORE.items()
    },
    "Claimed": inner.Claimed(CLAIM),
    "Claimed after a loss": inner.Claimed(CLAIM, LOST_BEFORE),
    "Orphaned claimed": inner.Orphaned(CLAIM),
    "Orphaned claimed after a loss": inner.Orphaned(CLAIM, LOST_BEFORE),
    "AwaitingCallback": inner.AwaitingCallback(LOST_BEFORE, since=NOW - 10, until=NOW + 30),
    "Confirming": inner.Confirming(LOST_BEFORE, until=NOW + 60, **SINCE),
    "Confirming denied": inner.Confirming(LOST_BEFORE, until=NOW + 60, **DENIED),
    **{kind.__name__: kind(**SINCE) for kind in (inner.Running, inner.Collected, inner.Doubted)},
    **{f"{kind.__name__} denied": kind(**DENIED) for kind in (inner.Running, inner.Collected, inner.Doubted)},
    "Running unlinked": inner.Running(**SINCE, unlinked_at=NOW - LINKS_PATIENCE),
    "Relinking unlinked": inner.Relinking(**SINCE, unlinked_at=NOW - LINKS_PATIENCE, outcome=SUCCESS),
    "Relinking": inner.Relinking(**SINCE, outcome=SUCCESS),
    "Relinking denied": inner.Relinking(**DENIED, outcome=SUCCESS),
    "Fetching": inner.Fetching("t1", SUCCESS),
    "Fetching asked again": inner.Fetching("t1", SUCCESS, inner.Links.ASKED_AGAIN),
    "Fetching renewed": inner.Fetching("t1", SUCCESS, inner.Links.RENEWED),
    "Done": inner.Done("t1", SUCCESS),
    "Failed": inner.Failed(failure(errors.InvalidRequest, "no")),
    "Unknown": inner.Unknown(failure(errors.UnknownOutcome, "lost")),
    "NotAdmitted": inner.NotAdmitted(failure(errors.InsufficientCredits, "empty")),
    "Left": inner.Left(inner.Running("t1", since=NOW - 10)),
}
"""Every state that a job can be in, with what matters of its fields."""

_REFUSALS = {
    inner.Remedy.FAIL: failure(errors.InvalidRequest, "bad", code=422),
    inner.Remedy.NEW_TASK: failure(errors.GenerationFailed, "silent", code=408),
    inner.Remedy.CLOSE_MODEL: failure(errors.ModelUnavailable, "gone", code=404),
    inner.Remedy.STOP: failure(errors.InsufficientCredits, "empty", code=402),
    inner.Remedy.BACK_OFF: failure(errors.RateLimited, "slow down", code=429),
    inner.Remedy.PAUSE: failure(errors.TransportError, "maintenance", code=455),
    inner.Remedy.REPEAT: failure(errors.RateLimited, "too many unfinished", code="too_many_unfinished"),
    inner.Remedy.RENEW: failure(errors.GenerationFailed, "failed before", task_id="t0"),
}

EVENTS: dict[str, inner.Event] = {
    "Taken": inner.Taken(inner.Offer("kie", MODELS["imagen4"])),
    "Prepared": inner.Prepared((inner.Upload("0" * 64, "https://files.example/in.png", 2e9),)),
    "Leaves": inner.Leaves(),
    "SendAborted": inner.SendAborted(),
    "SendAborted unnoted": inner.SendAborted(failure(errors.JournalError, "the disk is full")),
    "TurnMissed": inner.TurnMissed(),
    "Unsendable": inner.Unsendable(failure(errors.InvalidRequest, "no such text")),
    "Accepted": inner.Accepted("t1"),
    "Accepted by name": inner.Accepted("t1", is_named=True, waits=True),
    "Lost": inner.Lost(failure(errors.TransportError, "reset")),
    "Lost, may be named": inner.Lost(failure(errors.TransportError, "reset"), callback_wait=30.0),
    "Lost by name": inner.Lost(failure(errors.TransportError, "reset"), is_named=True),
    "ConnectFailed": inner.ConnectFailed(failure(errors.TransportError, "no route", was_sent=False)),
    **{f"Rejected {remedy.name}": inner.Rejected(why, remedy) for remedy, why in _REFUSALS.items()},
    "Rejected FAIL, may be named": inner.Rejected(_REFUSALS[inner.Remedy.FAIL], inner.Remedy.FAIL, callback_wait=30.0),
    "StatusAsked": inner.StatusAsked(),
    "Pending": inner.Pending("waiting"),
    "Pending its turn": inner.Pending("queued", waits=True),
    "Succeeded": SUCCESS,
    "LinksMissing": inner.LinksMissing(
        inner.TaskFailed(failure(errors.GenerationFailed, "no picture", code="no_urls"), None, b'{"state":"success"}')
    ),
    "TaskFailed": inner.TaskFailed(failure(errors.GenerationFailed, "too dark", code="501"), 0.0, b'{"state":"fail"}'),
    "TaskFailed unsent": inner.TaskFailed(failure(errors.InsufficientCredits, "empty"), 0.0, b"{}", is_unsent=True),
    "TaskRefused": inner.TaskRefused(failure(errors.InvalidRequest, "recordInfo is null", code=422)),
    "NoAnswer": inner.NoAnswer(failure(errors.TransportError, "502")),
    "FetchBegun": inner.FetchBegun(),
    "Saved": inner.Saved((FILE,)),
    "NotSaved": inner.NotSaved(failure(errors.DownloadFailed, "502")),
    "NotSaved gone": inner.NotSaved(GONE),
    "CallbackNamed": inner.CallbackNamed(1, "t1"),
    "CallbackNamed by another": inner.CallbackNamed(9, "t9"),
    "Expired": inner.Expired(),
    "NobodyTakes": inner.NobodyTakes({"kie": failure(errors.InsufficientCredits, "empty")}),
    "NobodyTakes it anywhere": inner.NobodyTakes({"kie": failure(errors.ModelUnavailable, "gone")}),
    "OverBudget": inner.OverBudget(failure(errors.BudgetReached, "used up")),
    "OwnerWithholds": inner.OwnerWithholds(),
    "OwnerLeft": inner.OwnerLeft(),
    "OwnerGone": inner.OwnerGone(),
    "Readmitted": inner.Readmitted(1, 1, None),
    "Readmitted doubted": inner.Readmitted(1, 1, None, is_doubted=True),
}
"""Everything that can happen to a job, with what matters of its fields."""


_FILES = {"fox.png": inner.InputFile("0" * 64, 9, "image/png")}
EDIT = inner.ImageRequest("make it night", images=("fox.png",), local_files=_FILES)
"""A request with a picture that goes in."""


def job_in(state: inner.State | str, **fields: Any) -> inner.Job:
    """A job in a state, or in that of a name, with the creates behind it that led there."""
    state = STATES[state] if isinstance(state, str) else state
    fallback = getattr(state, "fallback", None)
    is_lost = fallback == LOST_BEFORE or isinstance(state, inner.AwaitingCallback | inner.Confirming)
    creates = isinstance(state, inner.Preparing | inner.Noting | inner.OnTheWay) + (fallback is not None)
    counts: dict[str, Any] = {"attempts": creates, "lost": int(is_lost), "lost_creates": (1,) if is_lost else ()}
    if isinstance(state, inner.AwaitingCallback | inner.Confirming | inner.Running | inner.Fetching):
        counts["attempts"] = 1
    return make_job(1, state, **{"index": 4, "key": "fox", "expires_at": NOW + 900, **counts, **fields})


def can_meet(job: inner.Job, event: inner.Event) -> bool:
    """True where the machine's table has an entry for it."""
    return (type(job.state), type(event)) in inner.TABLE


def with_images(job: inner.Job, num_images: int | None) -> inner.Job:
    """The same job, of so many pictures."""
    return msgspec.structs.replace(job, request=msgspec.structs.replace(job.request, num_images=num_images))
