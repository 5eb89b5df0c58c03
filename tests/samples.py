"""A job in every state, and every event: what the tests of the machine and of the journal's entries try out."""

from __future__ import annotations

from typing import Any

import msgspec
from builders import MODELS, failure, make_job

from imagen_async import errors
from imagen_async._core import job_events, states, wire
from imagen_async._core.job import Job
from imagen_async._core.machine import TABLE
from imagen_async._core.routing import Offer
from imagen_async._core.transitions import PATIENCE
from imagen_async._core.values import ImageFile

NOW = 1000.0
FILE = ImageFile("out/000000-a-red-fox.png", "0" * 64, 68, "image/png", "https://files.example/1.png")
SUCCESS = wire.Succeeded(("https://files.example/1.png",), latency=13.5, credits=None, raw=b'{"state":"success"}')
GONE = failure(errors.DownloadFailed, "404", is_gone=True)

FAILED_BEFORE = failure(errors.GenerationFailed, "too dark")
LOST_BEFORE = failure(
    errors.UnknownOutcome, "The create was sent and its answer was lost. It may have made a task", credits=8
)
BEFORE = {"": None, " after a failure": FAILED_BEFORE, " after a loss": LOST_BEFORE}
"""What became of the create before, where it says something yet."""

CLAIM = states.Claim(1, "t1")
SINCE: dict[str, Any] = {"task_id": "t1", "since": NOW - 10}
DENIED: dict[str, Any] = {**SINCE, "denied_at": NOW - PATIENCE}

STATES: dict[str, states.State] = {
    **{
        f"{kind.__name__}{before}": kind(fallback=why)
        for kind in (states.Queued, states.Noting, states.Sending, states.Orphaned)
        for before, why in BEFORE.items()
    },
    "Claimed": states.Claimed(CLAIM),
    "Claimed after a loss": states.Claimed(CLAIM, LOST_BEFORE),
    "Orphaned claimed": states.Orphaned(CLAIM),
    "Orphaned claimed after a loss": states.Orphaned(CLAIM, LOST_BEFORE),
    "AwaitingCallback": states.AwaitingCallback(LOST_BEFORE, since=NOW - 10, until=NOW + 30),
    "Confirming": states.Confirming(LOST_BEFORE, until=NOW + 60, **SINCE),
    "Confirming denied": states.Confirming(LOST_BEFORE, until=NOW + 60, **DENIED),
    **{kind.__name__: kind(**SINCE) for kind in (states.Running, states.Collected, states.Doubted)},
    **{f"{kind.__name__} denied": kind(**DENIED) for kind in (states.Running, states.Collected, states.Doubted)},
    "Relinking": states.Relinking(**SINCE, outcome=SUCCESS),
    "Relinking denied": states.Relinking(**DENIED, outcome=SUCCESS),
    "Fetching": states.Fetching("t1", SUCCESS),
    "Fetching asked again": states.Fetching("t1", SUCCESS, states.Links.ASKED_AGAIN),
    "Fetching renewed": states.Fetching("t1", SUCCESS, states.Links.RENEWED),
    "Done": states.Done("t1", SUCCESS),
    "Failed": states.Failed(failure(errors.InvalidRequest, "no")),
    "Unknown": states.Unknown(failure(errors.UnknownOutcome, "lost")),
    "NotAdmitted": states.NotAdmitted(failure(errors.InsufficientCredits, "empty")),
    "Left": states.Left(states.Running("t1", since=NOW - 10)),
}
"""Every state that a job can be in, with what matters of its fields."""

_REFUSALS = {
    wire.Remedy.FAIL: failure(errors.InvalidRequest, "bad", code=422),
    wire.Remedy.NEW_TASK: failure(errors.GenerationFailed, "silent", code=408),
    wire.Remedy.CLOSE_MODEL: failure(errors.ModelUnavailable, "gone", code=404),
    wire.Remedy.STOP: failure(errors.InsufficientCredits, "empty", code=402),
    wire.Remedy.BACK_OFF: failure(errors.RateLimited, "slow down", code=429),
    wire.Remedy.PAUSE: failure(errors.TransportError, "maintenance", code=455),
}

EVENTS: dict[str, job_events.Event] = {
    "Taken": job_events.Taken(Offer("kie", MODELS["imagen4"])),
    "Leaves": job_events.Leaves(),
    "SendAborted": job_events.SendAborted(),
    "SendAborted unnoted": job_events.SendAborted(failure(errors.JournalError, "the disk is full")),
    "Unsendable": job_events.Unsendable(failure(errors.InvalidRequest, "no such text")),
    "Accepted": wire.Accepted("t1"),
    "Lost": wire.Lost(failure(errors.TransportError, "reset")),
    "Lost, may be named": wire.Lost(failure(errors.TransportError, "reset"), callback_wait=30.0),
    "ConnectFailed": wire.ConnectFailed(failure(errors.TransportError, "no route", was_sent=False)),
    **{f"Rejected {remedy.name}": wire.Rejected(why, remedy) for remedy, why in _REFUSALS.items()},
    "Rejected FAIL, may be named": wire.Rejected(_REFUSALS[wire.Remedy.FAIL], wire.Remedy.FAIL, callback_wait=30.0),
    "StatusAsked": job_events.StatusAsked(),
    "Pending": wire.Pending("waiting"),
    "Succeeded": SUCCESS,
    "TaskFailed": wire.TaskFailed(failure(errors.GenerationFailed, "too dark", code="501"), 0.0, b'{"state":"fail"}'),
    "TaskRefused": wire.TaskRefused(failure(errors.InvalidRequest, "recordInfo is null", code=422)),
    "NoAnswer": wire.NoAnswer(failure(errors.TransportError, "502")),
    "FetchBegun": job_events.FetchBegun(),
    "Saved": job_events.Saved((FILE,)),
    "NotSaved": job_events.NotSaved(failure(errors.DownloadFailed, "502")),
    "NotSaved gone": job_events.NotSaved(GONE),
    "CallbackNamed": job_events.CallbackNamed(1, "t1"),
    "CallbackNamed by another": job_events.CallbackNamed(9, "t9"),
    "Expired": job_events.Expired(),
    "NobodyTakes": job_events.NobodyTakes({"kie": failure(errors.InsufficientCredits, "empty")}),
    "NobodyTakes it anywhere": job_events.NobodyTakes({"kie": failure(errors.ModelUnavailable, "gone")}),
    "OverBudget": job_events.OverBudget(failure(errors.BudgetReached, "used up")),
    "OwnerWithholds": job_events.OwnerWithholds(),
    "OwnerLeft": job_events.OwnerLeft(),
    "OwnerGone": job_events.OwnerGone(),
    "Readmitted": job_events.Readmitted(1, 1, None),
    "Readmitted doubted": job_events.Readmitted(1, 1, None, is_doubted=True),
}
"""Everything that can happen to a job, with what matters of its fields."""


def job_in(state: states.State | str, **fields: Any) -> Job:
    """A job in a state, or in that of a name, with the creates behind it that led there."""
    state = STATES[state] if isinstance(state, str) else state
    fallback = getattr(state, "fallback", None)
    is_lost = fallback == LOST_BEFORE or isinstance(state, states.AwaitingCallback | states.Confirming)
    creates = isinstance(state, states.Noting | states.OnTheWay) + (fallback is not None)
    counts: dict[str, Any] = {"attempts": creates, "lost": int(is_lost), "lost_creates": (1,) if is_lost else ()}
    if isinstance(state, states.AwaitingCallback | states.Confirming | states.Running | states.Fetching):
        counts["attempts"] = 1
    return make_job(1, state, **{"index": 4, "key": "fox", "expires_at": NOW + 900, **counts, **fields})


def can_meet(job: Job, event: job_events.Event) -> bool:
    """True where the machine's table has an entry for it."""
    return (type(job.state), type(event)) in TABLE


def with_images(job: Job, num_images: int | None) -> Job:
    """The same job, of so many pictures."""
    return msgspec.structs.replace(job, request=msgspec.structs.replace(job.request, num_images=num_images))
