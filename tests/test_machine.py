"""The machine of a job: every entry of its table, what its drawing promises, deadlines, patience, lost creates."""

from __future__ import annotations

import copy
import itertools
from typing import Any, get_args

import msgspec
import pytest
from builders import MODELS, failure
from conftest import naming
from samples import BEFORE, EVENTS, FAILED_BEFORE, FILE, GONE, LOST_BEFORE, NOW, STATES, SUCCESS, can_meet, job_in

from imagen_async import errors
from imagen_async._core import job_events, wording
from imagen_async._core.failure import Failure
from imagen_async._core.job import Job
from imagen_async._core.job_events import Added, CallbackNamed, Event, NobodyTakes, NotSaved, Readmitted
from imagen_async._core.machine import TABLE, advance
from imagen_async._core.model import Model
from imagen_async._core.routing import Offer, Route
from imagen_async._core.states import (
    AwaitingCallback,
    Claim,
    Claimed,
    Confirming,
    Doubted,
    Ended,
    Failed,
    Fetching,
    Left,
    Links,
    NotAdmitted,
    Orphaned,
    Queued,
    Relinking,
    Running,
    Sending,
    State,
    Unknown,
)
from imagen_async._core.wire import ConnectFailed, Lost, Rejected, Succeeded, TaskFailed, TaskRefused

LIVE = {name: state for name, state in STATES.items() if not isinstance(state, Ended)}
TERMS = [
    {"retries": retries, "resubmits": resubmits, "save_to": save_to, "expires_at": expires_at}
    for retries, resubmits, save_to, expires_at in itertools.product((0, 2), (0, 1), (None, "out"), (NOW + 900, NOW))
]
"""What the caller asked for, and whether its time is over."""


def after(job: Job, *events: str | Event, at: float = NOW) -> Job:
    """What these events, or those of these names, make of a job."""
    for event in events:
        job = advance(job, EVENTS[event] if isinstance(event, str) else event, at)
    return job


def unpriced(state: str, **fields: Any) -> Job:
    """A job of a model whose price nobody knows."""
    return msgspec.structs.replace(job_in(state, **fields), model=Model("new", "new", None))


def why(job: Job) -> Failure:
    """What a job ended with."""
    told = wording.failure_of(job)
    assert told is not None
    return told


def outcomes(**terms: Any) -> dict[tuple[str, str], str]:
    """The kind of the next state of every pair of samples that can meet."""
    found = {}
    for state, event in itertools.product(LIVE, EVENTS):
        job = job_in(state, **terms)
        if can_meet(job, EVENTS[event]):
            with naming(state, event, terms):
                found[state, event] = type(after(job, event).state).__name__
    return found


# ------------------------------------------------------------------------------------------------- the table


def test_every_entry_leads_where_it_says_and_nowhere_else() -> None:
    """Over every state, event and wish of the caller, an entry comes to each state that it names, and to no other."""
    reached: dict[tuple[type, type], set[type]] = {pair: set() for pair in TABLE}
    for state, (name, event) in itertools.product(LIVE, EVENTS.items()):
        for terms in TERMS:
            job = job_in(state, **terms)
            if can_meet(job, event):
                given_to = copy.deepcopy((job, event)) if terms is TERMS[0] else (job, event)
                with naming(state, name, terms):
                    reached[type(job.state), type(event)].add(type(after(job, event).state))
                    assert (job, event) == given_to, "the machine changes nothing that it is given"
    assert reached == {pair: set(entry.to) for pair, entry in TABLE.items()}


def test_what_has_no_entry_cannot_happen() -> None:
    """A state that is no end has its row, an end has none, every event has its place, and the rest is a bug."""
    assert {kind for kind, _ in TABLE} == set(get_args(State)) - set(Ended.__subclasses__()) | set(
        Running.__subclasses__()
    )
    assert {event for _, event in TABLE} == set(get_args(job_events.Event)) - {Added}
    for state, event in itertools.product(STATES, EVENTS):
        job = job_in(state)
        if not can_meet(job, EVENTS[event]):
            with naming(state, event), pytest.raises(AssertionError, match="cannot happen"):
                after(job, event)


def leading_to(kind: type[State]) -> set[tuple[type[State], type[Event]]]:
    """Every state, another one, and event that can lead to this one."""
    return {(state, event) for (state, event), entry in TABLE.items() if kind in entry.to and state is not kind}


def test_only_these_lead_back_to_queued() -> None:
    """Of them only a create that made nothing, and a denied task that is to be replaced, ask for no leave."""
    free = {(Sending, Rejected), (Sending, ConnectFailed), (Doubted, TaskRefused)}
    retried = {(kind, TaskFailed) for kind in (Confirming, Running, Doubted)} | {(Sending, Rejected)}
    assert leading_to(Queued) == free | retried | {(Sending, Lost)}
    for terms, allowed in (({"retries": 2}, retried), ({"resubmits": 1}, {(Sending, Lost)})):
        back = {
            (type(STATES[state]), type(EVENTS[event]))
            for (state, event), name in outcomes(**terms).items()
            if name == "Queued" and not isinstance(STATES[state], Queued)
        }
        assert back == free | allowed


# ------------------------------------------------------------------------------------------ which of several states

FREE_TO_REPEAT = ("ConnectFailed", "Rejected BACK_OFF", "Rejected PAUSE")
"""Nothing was made: the create may go again, to the same account or another."""

FREE_FOR_ANOTHER = ("Rejected STOP", "Rejected CLOSE_MODEL")
"""Nothing was made: the create may go to another account; the one that answered takes no more such."""

REFUSED = ("Rejected FAIL", "Rejected FAIL, may be named", "Rejected NEW_TASK")
OWNERS = ("OwnerWithholds", "OwnerLeft", "OwnerGone")

ASKED_ABOUT = [name for name, state in STATES.items() if isinstance(state, Running | Confirming)]
RUNNING = [name for name in ASKED_ABOUT if isinstance(STATES[name], Running)]
CLAIMED_ORPHANS = ("Orphaned claimed", "Orphaned claimed after a loss")

# With no create before that says anything, after a failed one, and after a lost one.
OF_CREATES: dict[tuple[str, str], tuple[str, str, str]] = {
    ("Queued", "CallbackNamed"): ("Queued", "Queued", "Confirming"),
    ("Queued", "CallbackNamed by another"): ("Queued", "Queued", "Queued"),
    ("Queued", "Expired"): ("Failed", "Failed", "Unknown"),
    ("Queued", "NobodyTakes"): ("NotAdmitted", "Failed", "Unknown"),
    ("Queued", "NobodyTakes it anywhere"): ("Failed", "Failed", "Unknown"),
    ("Queued", "OverBudget"): ("NotAdmitted", "Failed", "Unknown"),
    **{("Queued", event): ("Left", "Failed", "Unknown") for event in OWNERS},
    ("Noting", "CallbackNamed"): ("Noting", "Noting", "Confirming"),
    ("Noting", "CallbackNamed by another"): ("Noting", "Noting", "Noting"),
    ("Noting", "SendAborted"): ("Left", "Failed", "Unknown"),
    ("Noting", "SendAborted unnoted"): ("NotAdmitted", "Failed", "Unknown"),
    ("Noting", "Unsendable"): ("Failed", "Failed", "Unknown"),
    **{("Noting", event): ("Left", "Failed", "Unknown") for event in OWNERS},
    **{("Sending", event): ("Queued", "Queued", "Queued") for event in FREE_TO_REPEAT + FREE_FOR_ANOTHER},
    ("Sending", "Rejected FAIL"): ("Failed", "Failed", "Unknown"),
    ("Sending", "Rejected FAIL, may be named"): ("Failed", "Failed", "AwaitingCallback"),
    ("Sending", "Rejected NEW_TASK"): ("Failed", "Failed", "Unknown"),
    # It names the first create: that on the way; one that has failed, and is told of already; one that was lost.
    ("Sending", "CallbackNamed"): ("Claimed", "Sending", "Claimed"),
    ("Sending", "CallbackNamed by another"): ("Sending", "Sending", "Sending"),
    ("Sending", "Lost"): ("Unknown", "Unknown", "Unknown"),
    ("Sending", "Lost, may be named"): ("AwaitingCallback", "AwaitingCallback", "AwaitingCallback"),
    **{("Orphaned", event): ("Left", "Failed", "Unknown") for event in FREE_TO_REPEAT + FREE_FOR_ANOTHER},
    ("Orphaned", "Rejected FAIL"): ("Failed", "Failed", "Unknown"),
    ("Orphaned", "Rejected FAIL, may be named"): ("Failed", "Failed", "Unknown"),
    ("Orphaned", "Rejected NEW_TASK"): ("Failed", "Failed", "Unknown"),
}
OF_TASKS: dict[tuple[str, str], str] = {
    ("AwaitingCallback", "CallbackNamed"): "Confirming",
    ("AwaitingCallback", "CallbackNamed by another"): "AwaitingCallback",
    ("Confirming", "Pending"): "Running",
    ("Confirming", "TaskRefused"): "Confirming",
    ("Confirming denied", "Pending"): "Running",
    ("Confirming denied", "TaskRefused"): "AwaitingCallback",
    **{(kind, "TaskRefused"): kind for kind in ("Running", "Doubted", "Relinking")},
    ("Running denied", "TaskRefused"): "Failed",
    ("Doubted denied", "TaskRefused"): "Queued",
    ("Relinking denied", "TaskRefused"): "Fetching",
    **{(name, event): name.split()[0] for name in RUNNING for event in ("Pending", "NoAnswer")},
    **{(name, "Succeeded"): "Done" for name in ASKED_ABOUT},
    **{(name, "TaskFailed"): "Failed" for name in ASKED_ABOUT if not name.startswith("Relinking")},
    **{(name, "Readmitted"): "Running" for name in ("Running", "Running denied")},
    **{(name, "Readmitted doubted"): "Doubted" for name in ("Running", "Running denied")},
    **{(name, "NotSaved"): "Failed" for name in ("Fetching", "Fetching asked again", "Fetching renewed")},
    ("Fetching", "NotSaved gone"): "Relinking",
    ("Fetching asked again", "NotSaved gone"): "Fetching",
    ("Fetching renewed", "NotSaved gone"): "Failed",
    **{
        (name, event): "Unknown" for name in CLAIMED_ORPHANS for event in (*FREE_TO_REPEAT, *FREE_FOR_ANOTHER, *REFUSED)
    },
}

EXPECTED = OF_TASKS | {
    (f"{state}{before}", event): ends[at]
    for (state, event), ends in OF_CREATES.items()
    for at, before in enumerate(BEFORE)
}
"""What becomes of a job, without retries and with nothing to save, where the table names several states."""


def test_of_several_states_the_right_one_is_reached() -> None:
    """Without any leave of the caller's, an event has its one next state, by what came of the creates before."""
    found = outcomes()
    several = {pair for pair in found if len(TABLE[type(STATES[pair[0]]), type(EVENTS[pair[1]])].to) > 1}
    assert several <= set(EXPECTED)
    assert {pair: found[pair] for pair in EXPECTED} == EXPECTED


def test_each_leave_adds_only_what_it_is_for() -> None:
    """A retry is for failed generations, a resubmission for lost answers, a folder for saving, and for nothing else.

    A deadline ends only what could be sent again or asked again; what is told is taken, late as it is.
    """
    plain = outcomes()
    tasks = [name for name in ASKED_ABOUT if not name.startswith(("Collected", "Relinking"))]
    retried = {(f"Sending{before}", "Rejected NEW_TASK") for before in ("", " after a failure")}
    retried |= {(name, "TaskFailed") for name in tasks}
    resubmitted = {(f"Sending{before}", event) for before in BEFORE for event in ("Lost", "Lost, may be named")}
    expected = [
        ({"retries": 2}, dict.fromkeys(retried, "Queued")),
        ({"resubmits": 1}, dict.fromkeys(resubmitted, "Queued")),
        ({"save_to": "out"}, {(name, "Succeeded"): "Fetching" for name in ASKED_ABOUT}),
        (
            {"expires_at": NOW},
            {
                **dict.fromkeys(itertools.product(("Sending", "Sending after a failure"), FREE_TO_REPEAT), "Failed"),
                **{("Sending after a loss", event): "Unknown" for event in FREE_TO_REPEAT},
                **dict.fromkeys(itertools.product(RUNNING, ("Pending", "NoAnswer")), "Failed"),
                **{(name, "Pending"): "Failed" for name in ("Confirming", "Confirming denied")},
                **{(name, "TaskRefused"): "Failed" for name in ("Running", "Doubted", "Relinking")},
                **{("Orphaned", event): "Failed" for event in FREE_TO_REPEAT},
            },
        ),
    ]
    for terms, changed in expected:
        with naming(terms):
            found = outcomes(**terms)
            assert {pair: name for pair, name in found.items() if plain[pair] != name} == changed


@pytest.mark.parametrize("before", BEFORE)
def test_a_create_that_made_nothing_leads_back_to_queued_with_its_reason(before: str) -> None:
    """A job of which nothing was made waits again, knows why and from whom, and nothing of it is counted but a send."""
    for event in (*FREE_TO_REPEAT, *FREE_FOR_ANOTHER):
        with naming(event):
            job = job_in(f"Sending{before}", retries=2, resubmits=1)
            queued = after(job, event)
            reason = getattr(EVENTS[event], "failure")  # noqa: B009 - not every event has one
            assert queued.state == Queued(reason.about(account="kie"), BEFORE[before])
            assert queued.to(job.state) == job


def test_a_task_that_finished_is_never_replaced() -> None:
    """From a first success on, whatever becomes of its links, no create goes again and the URLs are never lost."""
    for state, event, terms in itertools.product(LIVE, EVENTS, TERMS):
        job = job_in(state, **terms)
        if isinstance(job.state, Fetching | Relinking) and can_meet(job, EVENTS[event]):
            with naming(state, event, terms):
                moved = after(job, event)
                kept = moved.state.was if isinstance(moved.state, Left) else moved.state
                assert (moved.task_id, getattr(kept, "outcome", None)) == ("t1", SUCCESS)


def test_what_failed_tasks_have_cost_is_added_up() -> None:
    """What is told counts; where nothing is, the price does, but not for a create that made no task."""
    for credits, spent in ((0.0, 0.0), (3.0, 3.0), (None, 8.0)):
        with naming(credits):
            broken = TaskFailed(failure(errors.GenerationFailed), credits, b"{}")
            assert after(job_in("Running", retries=1, spent=2.0), broken).spent == 2.0 + spent
    assert after(job_in("Sending", retries=1, spent=2.0), "Rejected NEW_TASK").spent == 2.0
    untold = TaskFailed(failure(errors.GenerationFailed), None, b"{}")
    assert after(unpriced("Running", retries=1), untold).spent == 0


# ------------------------------------------------------------------------------------------------- deadlines


def test_the_deadline_runs_from_the_first_sending() -> None:
    """A job that waits does not age; its deadline starts with its first create and is not renewed by the second."""
    first = after(job_in("Queued", expires_at=None), "Taken")
    again = after(first, "Leaves", "ConnectFailed", "Taken", at=NOW + 10)
    assert (first.expires_at, again.expires_at) == (NOW + 900, NOW + 900)


@pytest.mark.parametrize("event", [*FREE_TO_REPEAT, "Pending", "TaskRefused", "NoAnswer"])
def test_a_deadline_is_met_from_its_instant_on(event: str) -> None:
    """An instant before it a job goes on; from then on it is given up, with its task id where it has one."""
    job = job_in("Sending" if event in FREE_TO_REPEAT else "Running", expires_at=NOW)
    assert not isinstance(after(job, event, at=NOW - 0.001).state, Ended)
    for late in (0.0, 1.0):
        given_up = after(job, event, at=NOW + late)
        told = why(given_up)
        assert (told.kind, told.account, told.task_id, given_up.task_id) == (
            errors.DeadlineExceeded,
            "kie",
            job.task_id,
            job.task_id,
        )


@pytest.mark.parametrize(
    ("state", "events", "cause"),
    [
        (Queued(failure(errors.RateLimited, "slow down")), [], "slow down"),
        ("Running", ["TaskRefused"], "recordInfo is null"),
        ("Running", ["NoAnswer"], "502"),
        ("Running", ["NoAnswer", "Pending"], None),
        ("Sending", ["Accepted"], None),
    ],
)
def test_a_job_that_expires_says_what_the_trouble_was(state: State | str, events: list[str], cause: str | None) -> None:
    """Its failure names the last refusal, or why nobody could ask about its task, until an answer comes."""
    expired = after(job_in(state, expires_at=NOW + 9), *events, "Expired")
    told = why(expired)
    assert (told.cause and told.cause.message, told.task_id) == (cause, None if isinstance(state, Queued) else "t1")
    assert cause is None or cause in told.message


# ------------------------------------------------------------------------------------------------- denials


@pytest.mark.parametrize(
    ("state", "said", "end"),
    [
        ("Running", [("TaskRefused", 0), ("TaskRefused", 29.9)], "Running"),
        ("Running", [("TaskRefused", 0), ("TaskRefused", 30)], "Failed"),
        ("Running", [("TaskRefused", 0), ("Pending", 20), ("TaskRefused", 25), ("TaskRefused", 50)], "Running"),
        ("Running", [("TaskRefused", 0), ("Pending", 20), ("TaskRefused", 25), ("TaskRefused", 55)], "Failed"),
        ("Running", [("TaskRefused", 0), ("NoAnswer", 20), ("TaskRefused", 30)], "Failed"),
        ("Running", [("NoAnswer", number) for number in range(50)], "Running"),
        ("Collected", [("TaskRefused", 0)], "Failed"),
        ("Doubted", [("TaskRefused", 0), ("TaskRefused", 29.9)], "Doubted"),
        ("Doubted", [("TaskRefused", 0), ("TaskRefused", 30)], "Queued"),
        ("Relinking", [("TaskRefused", 0), ("TaskRefused", 29.9)], "Relinking"),
        ("Relinking", [("TaskRefused", 0), ("TaskRefused", 30)], "Fetching"),
        ("Relinking", [("TaskFailed", 0)], "Fetching"),
        ("Confirming", [("TaskRefused", 0), ("NoAnswer", 29), ("TaskRefused", 29.9)], "Confirming"),
        ("Confirming", [("TaskRefused", 0), ("TaskRefused", 30)], "AwaitingCallback"),
    ],
)
def test_a_denial_is_transient_for_thirty_seconds(state: str, said: list[tuple[str, float]], end: str) -> None:
    """ "No such task" is waited out for 30 s from its first denial, which an answer ends, and no silence renews."""
    job = job_in(state, save_to="out")
    for event, at in said:
        assert not isinstance(job.state, Ended)
        job = after(job, event, at=NOW + at)
    assert (type(job.state).__name__, job.task_id) == (
        end,
        None if end in ("Queued", "AwaitingCallback", "Confirming") else "t1",
    )


def test_an_answer_about_a_task_that_goes_on_ends_all_trouble() -> None:
    """Of what was denied or not answered nothing is known any more; where there was no trouble nothing changes."""
    job = job_in("Running")
    assert after(job, "Pending") is job
    for trouble in ("TaskRefused", "NoAnswer"):
        assert after(job, trouble, "Pending") == job
    assert after(job_in("Running denied"), "Pending").state == job.state


def test_a_doubted_task_that_is_denied_again_is_replaced() -> None:
    """A new task takes its place, its price counts as spent, and the job ends as the denied one if that is not made."""
    denied = failure(errors.InvalidRequest, "recordInfo is null", code=422, account="kie", task_id="t1")
    assert after(unpriced("Doubted denied"), "TaskRefused").spent == 0, "nobody knows its price"
    job = after(job_in("Doubted denied", spent=2.0), "TaskRefused")
    assert (job.state, job.spent) == (Queued(denied, fallback=denied), 10.0)
    assert after(job_in("Running denied"), "TaskRefused").state == Failed(denied)


# ------------------------------------------------------------------------------------- accounts that take nothing

REFUSALS = {
    "empty": failure(errors.InsufficientCredits, "empty."),
    "key": failure(errors.AuthenticationError, "wrong key"),
    "gone": failure(errors.ModelUnavailable, "gone"),
}


@pytest.mark.parametrize(
    ("refusals", "state", "kind"),
    [
        ("empty empty", NotAdmitted, errors.InsufficientCredits),
        ("key key", NotAdmitted, errors.AuthenticationError),
        ("empty key", NotAdmitted, errors.AccountError),
        ("key gone", NotAdmitted, errors.AccountError),
        ("gone empty", NotAdmitted, errors.AccountError),
        ("empty key gone", NotAdmitted, errors.AccountError),
        ("gone gone gone", Failed, errors.ModelUnavailable),
        ("key", NotAdmitted, errors.AuthenticationError),
    ],
)
def test_a_job_that_no_account_takes_names_them_all(refusals: str, state: type, kind: type) -> None:
    """NotAdmitted while an account may take it once it is looked after, failed where the model is gone everywhere.

    After a lost create it is unknown, after a failed generation failed with that, unless nobody has the model.
    """
    event = NobodyTakes({f"account-{number}": REFUSALS[each] for number, each in enumerate(refusals.split())})
    ended = after(job_in("Queued"), event)
    assert (type(ended.state), why(ended).kind) == (state, kind)
    told = {f"{account}: {refusal.message.rstrip('.')}" for account, refusal in event.refusals.items()}
    assert why(ended) == REFUSALS[refusals] if len(told) == 1 else all(each in why(ended).message for each in told)
    assert after(job_in("Queued after a loss"), event).state == Unknown(LOST_BEFORE)
    if state is NotAdmitted:
        assert after(job_in("Queued after a failure"), event).state == Failed(FAILED_BEFORE)


# --------------------------------------------------------------------------------------- sent again after a loss


def lost_once(**fields: Any) -> Job:
    """A job whose first create was lost, and which waits to be sent again."""
    return after(job_in("Queued", resubmits=1, expires_at=None, **fields), "Taken", "Leaves", "Lost")


def counts(job: Job) -> tuple[int, int, tuple[int, ...], int]:
    """What is counted of a job's creates, and the leave that it has."""
    return job.attempts, job.lost, job.lost_creates, job.resubmits


def test_a_lost_create_goes_again_once_and_is_then_unknown() -> None:
    """With resubmits=1 the first loss queues the job again, the second ends it, and both may have been billed."""
    job = lost_once()
    assert isinstance(job.state, Queued)
    assert job.state.failure is not None
    assert job.state.failure is job.state.fallback
    assert (counts(job), job.route, job.state.failure.credits) == ((1, 1, (1,), 0), None, 8)
    job = after(job, "Taken", "Leaves", "Lost")
    assert (counts(job), why(job).kind, why(job).credits) == ((2, 2, (1, 2), 0), errors.UnknownOutcome, 16)


def test_a_job_that_was_lost_once_never_ends_as_if_nothing_happened() -> None:
    """However a job ends before its second sending made a task, it is unknown: its first create may be billed."""
    lost = [name for name in LIVE if name.endswith("after a loss")]
    for name, event, expires_at in itertools.product(lost, EVENTS, (NOW + 900, NOW)):
        job = job_in(name, expires_at=expires_at)
        if event != "Accepted" and can_meet(job, EVENTS[event]):
            ended = after(job, event)
            with naming(name, event, expires_at):
                if isinstance(ended.state, Ended):
                    assert (type(ended.state), why(ended).credits) == (Unknown, 8 * ended.lost)
                    assert "nothing was billed" not in why(ended).message


@pytest.mark.parametrize("event", ["SendAborted", "SendAborted unnoted", "Unsendable", *OWNERS])
def test_a_create_that_did_not_leave_was_not_sent(event: str) -> None:
    """It does not count as sent; where something was the reason, its job says so."""
    ended = after(job_in("Noting"), event)
    reason = getattr(EVENTS[event], "failure", None)
    assert ended.attempts == 0
    assert ended.state == Left(Queued()) if reason is None else why(ended) == reason.about(account="kie")


# ------------------------------------------------------------------------------------------- links that died


def test_links_that_died_are_asked_for_again_then_renewed_then_the_picture_is_gone() -> None:
    """The tries go status call, new links, end; the end names the loss and the payment, and keeps URLs and files."""
    job = after(job_in("Fetching", retries=3, save_to="out"), "NotSaved gone")
    assert job.state == Relinking("t1", since=NOW, outcome=SUCCESS)
    other = Succeeded(("https://files.example/2.png",), 13.5, None, b"{}")
    job = after(job, other)
    assert job.state == Fetching("t1", other, Links.ASKED_AGAIN)
    job = after(job, "NotSaved gone")
    assert job.state == Fetching("t1", other, Links.RENEWED)
    job = after(job, NotSaved(GONE, files=(FILE,)))
    assert isinstance(job.state, Failed)
    assert (why(job).kind, why(job).is_gone, why(job).account) == (errors.DownloadFailed, True, "kie")
    assert "gone at the provider, and was paid for" in why(job).message
    assert (job.state.outcome, job.state.files, job.task_id, job.retried) == (other, (FILE,), "t1", 0)


@pytest.mark.parametrize(("expires_at", "until"), [(None, NOW + 60), (NOW - 5, NOW + 60), (NOW + 900, NOW + 900)])
def test_asking_again_has_a_minute_at_least(expires_at: float | None, until: float) -> None:
    """A link that dies at the deadline is still asked for again, for a minute; a later deadline stays as it is."""
    assert after(job_in("Fetching", save_to="out", expires_at=expires_at), "NotSaved gone").expires_at == until


@pytest.mark.parametrize("event", ["Pending", "TaskRefused", "NoAnswer", "Expired"])
def test_a_deadline_while_asking_again_keeps_the_urls(event: str) -> None:
    """A job that is given up while its links are asked for again still has its URLs and its task id."""
    job = after(job_in("Relinking", save_to="out", expires_at=NOW), event)
    assert isinstance(job.state, Failed)
    assert (why(job).kind, why(job).is_gone, job.state.outcome, job.task_id) == (
        errors.DownloadFailed,
        False,
        SUCCESS,
        "t1",
    )


# ----------------------------------------------------------------------------------------- named by a callback


def named(job: Job, create: int, task_id: str = "t9") -> Job:
    """What a callback about that create makes of a job."""
    return after(job, CallbackNamed(create, task_id))


@pytest.mark.parametrize("kind", [Sending, Orphaned])
@pytest.mark.parametrize("fallback", [None, LOST_BEFORE])
def test_a_create_on_its_way_is_told_of_by_its_own_number(kind: Any, fallback: Failure | None) -> None:
    """A callback is kept that is about the create on its way, or about one lost before it; the first one counts."""
    job = job_in(kind(fallback=fallback), attempts=2, lost=1, lost_creates=(1,))
    assert named(job, 3) is job
    for create in (1, 2):
        told, claim = named(job, create), Claim(create, "t9")
        assert told.state == (Claimed(claim, fallback) if kind is Sending else Orphaned(claim, fallback))
        assert told.to(job.state) == job
        assert named(told, create, "t8") is told


@pytest.mark.parametrize("state", ["AwaitingCallback", "Queued after a loss", "Noting after a loss"])
def test_a_lost_create_is_told_of_by_its_number(state: str) -> None:
    """A job that waits, for a callback or to go again, takes one for a create that was lost, and has a minute then."""
    job = job_in(state, attempts=4 if "Noting" in state else 3, lost=2, lost_creates=(1, 3))
    since = NOW - 10 if isinstance(job.state, AwaitingCallback) else NOW
    assert all(named(job, create) is job for create in (0, 2, 4))
    for create, lost in ((1, (3, 1)), (3, (1, 3))):
        told = named(job, create)
        assert told.state == Confirming(LOST_BEFORE, since, NOW + 60, "t9")
        assert (told.attempts, told.lost, told.lost_creates) == (3, 2, lost), "what has not left was not sent"
        assert told.task_id is None, "not believed before the provider says so"


def test_a_name_that_comes_early_is_asked_about_for_as_long_as_was_waited() -> None:
    """A minute at least: a longer wait, or a later deadline, stays as it is."""
    job = job_in(AwaitingCallback(LOST_BEFORE, since=NOW - 10, until=NOW + 300), lost=1, lost_creates=(1,))
    assert named(job, 1).state == Confirming(LOST_BEFORE, NOW - 10, NOW + 300, "t9")
    assert [named(job_in("AwaitingCallback", expires_at=at), 1).due for at in (NOW + 900, NOW + 9)] == [
        NOW + 900,
        NOW + 60,
    ]


@pytest.mark.parametrize("event", ["Lost", "ConnectFailed", *REFUSED, "Rejected BACK_OFF"])
@pytest.mark.parametrize("create", [1, 2])
def test_no_answer_is_leave_to_send_another_create_once_a_callback_has_named_a_task(event: str, create: int) -> None:
    """Whatever is answered but a task, the named one is asked about; the create itself is lost where it is that one's.

    What was lost before stays lost, and the create that was named is the last of them.
    """
    asked = after(job_in(Claimed(Claim(create, "t9"), LOST_BEFORE), resubmits=1, retries=1), event)
    assert isinstance(asked.state, Confirming)
    assert (asked.state.task_id, asked.state.since, asked.state.until) == ("t9", NOW, NOW + 60)
    lost = (1,) if event != "Lost" and create == 1 else (2, 1) if create == 1 else (1, 2)
    assert (counts(asked), asked.state.unknown.credits) == ((2, len(lost), lost, 1), 8 * len(lost))


@pytest.mark.parametrize("event", ["Pending", "Succeeded", "TaskFailed"])
def test_the_provider_s_word_takes_the_create_from_those_that_were_lost(event: str) -> None:
    """Of several lost creates the one whose task is known is lost no more; the others stay."""
    moved = after(job_in("Confirming", attempts=3, lost=3, lost_creates=(1, 3, 2)), event)
    assert (counts(moved), moved.task_id) == ((3, 2, (1, 3), 0), "t1")
    assert event != "Pending" or moved.state == Running("t1", since=NOW - 10), "its age counts from its create"


@pytest.mark.parametrize("event", ["Expired", "OwnerLeft", "OwnerGone"])
@pytest.mark.parametrize(("state", "task_id"), [("AwaitingCallback", None), ("Confirming", "t1")])
def test_a_lost_job_ends_as_unknown_with_what_was_told(event: str, state: str, task_id: str | None) -> None:
    """However it ends, it is unknown, with the task that a callback has named, to be collected."""
    ended = after(job_in(state), event)
    assert (type(ended.state), ended.task_id, why(ended).task_id, why(ended).credits) == (Unknown, task_id, task_id, 8)
    assert why(ended).message.startswith("A callback names its task") == (task_id is not None)


@pytest.mark.parametrize("event", ["Lost", "OwnerGone", "Rejected FAIL"])
def test_what_nobody_waits_for_keeps_the_task_that_a_callback_named(event: str) -> None:
    """A create whose caller left, and whose answer is none, ends as unknown with the named task, lost once."""
    ended = after(job_in("Orphaned claimed", resubmits=1), event)
    assert (type(ended.state), ended.task_id, ended.lost, ended.lost_creates) == (Unknown, "t1", 1, (1,))
    assert after(job_in("Claimed"), "OwnerLeft", event).task_id == "t1"


@pytest.mark.parametrize("state", ["Sending", "Orphaned"])
def test_who_is_gone_leaves_a_create_on_its_way_as_lost(state: str) -> None:
    """When nobody hears the answer any more the create may have made a task, whatever leave there was to send again."""
    ended = after(job_in(state, resubmits=1), "OwnerGone")
    assert (type(ended.state), ended.lost, ended.lost_creates) == (Unknown, 1, (1,))
    assert "the program left before the answer came" in why(ended).message


@pytest.mark.parametrize(("expires_at", "until"), [(None, NOW + 30), (NOW + 900, NOW + 30), (NOW + 7, NOW + 7)])
def test_a_callback_is_waited_for_within_the_deadline(expires_at: float | None, until: float) -> None:
    """A lost create waits as long as a callback may come, and no longer than its job has time."""
    job = after(job_in("Sending", expires_at=expires_at), "Lost, may be named")
    assert isinstance(job.state, AwaitingCallback)
    assert (job.state.since, job.state.until, job.due) == (NOW, until, until)


# ------------------------------------------------------------------------------------------ taken up once more


def test_leave_to_be_sent_again_comes_with_its_way() -> None:
    """A job that was taken up without leave gets it; what was lost goes to its own account only, where it has a way."""
    ways = Route((Offer("kie", MODELS["imagen4"]), Offer("mine", MODELS["imagen4"], rank=1)))
    for state in LIVE:
        job = job_in(state)
        with naming(state):
            moved = after(job, Readmitted(2, 1, ways))
            if isinstance(job.state, Orphaned):
                assert moved is job, "nobody waits for it"
                continue
            assert moved.to(job.state) == moved
            assert (moved.retries, moved.resubmits) == (2, 1)
            assert moved.route == (ways.only("kie") if job.lost else ways)
