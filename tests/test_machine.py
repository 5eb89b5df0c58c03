"""The machine of a job: every entry of its table, what its drawing promises, deadlines, patience, lost creates."""

from __future__ import annotations

import copy
from itertools import product
from typing import Any, get_args

import inner
import msgspec
import pytest
from builders import MODELS, failure
from conftest import naming
from samples import (
    BEFORE,
    EDIT,
    EVENTS,
    FAILED_BEFORE,
    FILE,
    GONE,
    LOST_BEFORE,
    NOW,
    STATES,
    SUCCESS,
    can_meet,
    job_in,
    with_images,
)

from imagen_async import errors
from imagen_async._core.transitions.asking import WAITING

LIVE = {name: state for name, state in STATES.items() if not isinstance(state, inner.Ended)}

OFFER = inner.Offer("kie", MODELS["imagen4"])
TERMS: list[dict[str, Any]] = [
    {"retries": retries, "resubmits": resubmits, "save_to": save_to, "expires_at": expires_at}
    for retries, resubmits, save_to, expires_at in product((0, 2), (0, 1), (None, "out"), (NOW + 900, NOW))
]
TERMS += [{"request": EDIT}, {"route": inner.Route((OFFER,), inner.Route((OFFER,)))}]
"""What the caller asked for, whether its time is over, and whether another model may be made."""
UNPRICED = inner.Model("new", "new", None)


def after(job: inner.Job, *events: str | inner.Event, at: float = NOW) -> inner.Job:
    """What these events, or those of these names, make of a job."""
    for event in events:
        job = inner.advance(job, EVENTS[event] if isinstance(event, str) else event, at)
    return job


def why(job: inner.Job) -> inner.Failure:
    """What a job ended with."""
    told = inner.wording_failure_of(job)
    assert told is not None
    return told


def outcomes(**terms: Any) -> dict[tuple[str, str], str]:
    """The kind of the next state of every pair of samples that can meet."""
    found = {}
    for state, event in product(LIVE, EVENTS):
        job = job_in(state, **terms)
        if can_meet(job, EVENTS[event]):
            with naming(state, event, terms):
                found[state, event] = type(after(job, event).state).__name__
    return found


def test_every_entry_leads_where_it_says_and_nowhere_else() -> None:
    """Over every state, event and wish of the caller, an entry comes to each state that it names, and to no other."""
    reached: dict[tuple[type, type], set[type]] = {pair: set() for pair in inner.TABLE}
    for state, (name, event) in product(LIVE, EVENTS.items()):
        for terms in TERMS:
            job = job_in(state, **terms)
            if can_meet(job, event):
                given_to = copy.deepcopy((job, event)) if terms is TERMS[0] else (job, event)
                with naming(state, name, terms):
                    reached[type(job.state), type(event)].add(type(after(job, event).state))
                    assert (job, event) == given_to, "the machine changes nothing that it is given"
    assert reached == {pair: set(entry.to) for pair, entry in inner.TABLE.items()}


def test_what_has_no_entry_cannot_happen() -> None:
    """A state that is no end has its row, an end has none, every event has its place, and the rest is a bug."""
    kinds = {*get_args(inner.State), *inner.Running.__subclasses__()} - {*inner.Ended.__subclasses__()}
    assert {kind for kind, _ in inner.TABLE} == kinds
    assert {event for _, event in inner.TABLE} == {*get_args(inner.Event)} - {inner.Added}
    for state, event in product(STATES, EVENTS):
        if not can_meet(job_in(state), EVENTS[event]):
            with naming(state, event), pytest.raises(AssertionError, match="cannot happen"):
                after(job_in(state), event)


def test_only_these_lead_back_to_queued() -> None:
    """A create that made nothing or was lost, a failed task, and a denied one that is to be replaced."""
    back = {
        (state.__name__, event.__name__)
        for (state, event), entry in inner.TABLE.items()
        if inner.Queued in entry.to and state is not inner.Queued
    }
    creates = {*product(("Preparing", "Noting"), ("ConnectFailed", "TurnMissed"))}
    creates |= {("Preparing", "Rejected"), ("Sending", "Rejected"), ("Sending", "Lost")}
    tasks = {(state, "TaskFailed") for state in ("Confirming", "Running", "Doubted")}
    assert back == creates | tasks | {("Doubted", "TaskRefused")}


FREE_TO_REPEAT = ("Rejected BACK_OFF", "Rejected PAUSE")
"""Nothing was made: the create may go again, to the same account or another."""

FREE = (*FREE_TO_REPEAT, "Rejected STOP", "Rejected CLOSE_MODEL")
"""Nothing was made; after the last two the create may go to another account only."""

REPEATED = ("Rejected REPEAT", "Lost by name")
"""The same create goes again, as it was: where it goes it is known by its name."""

REFUSED = ("Rejected FAIL", "Rejected FAIL, may be named", "Rejected NEW_TASK")
OF_FILES = ("Rejected REPEAT", "Rejected RENEW")
"""What no upload is answered with, and would be as any other refusal of it."""

LOST = ("Lost", "Lost, may be named")
OWNERS = ("OwnerWithholds", "OwnerLeft", "OwnerGone")

ASKED_ABOUT = [name for name, state in STATES.items() if isinstance(state, inner.BeingAsked)]
RUNNING = [name for name in ASKED_ABOUT if isinstance(STATES[name], inner.Running)]
LINKED = [name for name in RUNNING if not name.endswith("unlinked")]
REPLACEABLE = [name for name in ASKED_ABOUT if not name.startswith(("Collected", "Relinking"))]

PENDING = ("Pending", "Pending its turn")

UNSENT = ("Preparing", "Noting")
"""Its turn has come, and nothing of it has left."""

# With no create before that says anything, after a failed one, and after a lost one.
OF_CREATES: dict[tuple[str, str], tuple[str, str, str]] = {
    **dict.fromkeys(product(("Queued", *UNSENT), OWNERS), ("Left", "Failed", "Unknown")),
    **dict.fromkeys(product(UNSENT, ("ConnectFailed", "TurnMissed")), ("Queued", "Queued", "Queued")),
    **dict.fromkeys(product(UNSENT, ("SendAborted",)), ("Left", "Failed", "Unknown")),
    **dict.fromkeys(product(UNSENT, ("SendAborted unnoted",)), ("NotAdmitted", "Failed", "Unknown")),
    **dict.fromkeys(product(UNSENT, ("Unsendable",)), ("Failed", "Failed", "Unknown")),
    # Of its files: of what it would have sent nothing has left.
    **dict.fromkeys(product(("Preparing",), (*FREE, *REFUSED, *OF_FILES)), ("Queued", "Queued", "Queued")),
    # Without files that go in: nothing is to be uploaded.
    ("Queued", "Taken"): ("Noting", "Noting", "Noting"),
    ("Queued", "Expired"): ("Failed", "Failed", "Unknown"),
    ("Queued", "NobodyTakes"): ("NotAdmitted", "Failed", "Unknown"),
    ("Queued", "NobodyTakes it anywhere"): ("Failed", "Failed", "Unknown"),
    ("Queued", "OverBudget"): ("NotAdmitted", "Failed", "Unknown"),
    **dict.fromkeys(product(("Sending",), (*FREE, *REPEATED)), ("Queued", "Queued", "Queued")),
    **dict.fromkeys(product(("Orphaned",), (*FREE, "Rejected REPEAT")), ("Left", "Failed", "Unknown")),
    # It may be there, so that what failed before is not its end.
    ("Orphaned", "Lost by name"): ("Left", "Left", "Unknown"),
    # For a new task of its name, unless one of its own is unknown.
    ("Sending", "Rejected RENEW"): ("Queued", "Queued", "Unknown"),
    ("Orphaned", "Rejected RENEW"): ("Failed", "Failed", "Unknown"),
    **dict.fromkeys(product(("Orphaned",), LOST), ("Unknown", "Unknown", "Unknown")),
    **dict.fromkeys(product(("Sending", "Orphaned"), REFUSED), ("Failed", "Failed", "Unknown")),
    ("Sending", "Rejected FAIL, may be named"): ("Failed", "Failed", "AwaitingCallback"),
    ("Sending", "Lost"): ("Unknown", "Unknown", "Unknown"),
    ("Sending", "Lost, may be named"): ("AwaitingCallback", "AwaitingCallback", "AwaitingCallback"),
    # It names the first create: that on the way; one that has failed, and is told of already; one that was lost.
    ("Queued", "CallbackNamed"): ("Queued", "Queued", "Confirming"),
    ("Noting", "CallbackNamed"): ("Noting", "Noting", "Confirming"),
    ("Preparing", "CallbackNamed"): ("Preparing", "Preparing", "Confirming"),
    ("Sending", "CallbackNamed"): ("Claimed", "Sending", "Claimed"),
    **{(kind, "CallbackNamed by another"): (kind, kind, kind) for kind in ("Queued", *UNSENT, "Sending")},
}
OF_TASKS: dict[tuple[str, str], str] = {
    ("AwaitingCallback", "CallbackNamed"): "Confirming",
    ("AwaitingCallback", "CallbackNamed by another"): "AwaitingCallback",
    **{(kind, "TaskRefused"): kind for kind in ("Confirming", "Running", "Doubted", "Relinking")},
    ("Confirming denied", "TaskRefused"): "AwaitingCallback",
    ("Running denied", "TaskRefused"): "Failed",
    ("Doubted denied", "TaskRefused"): "Queued",
    ("Relinking denied", "TaskRefused"): "Fetching",
    **{(f"{kind} unlinked", "TaskRefused"): kind for kind in ("Running", "Relinking")},
    **dict.fromkeys(product(("Confirming", "Confirming denied"), (*PENDING, "LinksMissing")), "Running"),
    **{(name, event): name.split()[0] for name in RUNNING for event in (*PENDING, "NoAnswer", "LinksMissing")},
    ("Running unlinked", "LinksMissing"): "Failed",
    ("Relinking unlinked", "LinksMissing"): "Fetching",
    **dict.fromkeys(product(ASKED_ABOUT, ("Succeeded",)), "Done"),
    **dict.fromkeys(product([*REPLACEABLE, "Collected", "Collected denied"], ("TaskFailed",)), "Failed"),
    **dict.fromkeys(product(REPLACEABLE, ("TaskFailed unsent",)), "Queued"),
    **dict.fromkeys(product(("Collected", "Collected denied"), ("TaskFailed unsent",)), "Failed"),
    **dict.fromkeys(product(("Running", "Running denied", "Running unlinked"), ("Readmitted",)), "Running"),
    **dict.fromkeys(product(("Running", "Running denied", "Running unlinked"), ("Readmitted doubted",)), "Doubted"),
    **dict.fromkeys(product(("Fetching", "Fetching asked again", "Fetching renewed"), ("NotSaved",)), "Failed"),
    ("Fetching", "NotSaved gone"): "Relinking",
    ("Fetching asked again", "NotSaved gone"): "Fetching",
    ("Fetching renewed", "NotSaved gone"): "Failed",
    **dict.fromkeys(
        product(
            ("Orphaned claimed", "Orphaned claimed after a loss"), (*FREE, *REFUSED, *OF_FILES, *LOST, "Lost by name")
        ),
        "Unknown",
    ),
}

EXPECTED = OF_TASKS | {
    (f"{state}{before}", event): ends[at]
    for (state, event), ends in OF_CREATES.items()
    for at, before in enumerate(BEFORE)
}
"""What becomes of a job, without retries and with nothing to save, where the table names several states."""


def test_files_that_go_in_are_uploaded_before_anything_is_noted() -> None:
    """A create of theirs has its number from its turn on, and may be noted once they are where they are read."""
    preparing = after(job_in("Queued", request=EDIT), "Taken")
    noting = after(preparing, "Prepared")
    assert (preparing.state, noting.state, noting.attempts) == (inner.Preparing(), inner.Noting(), 1)
    assert after(preparing, "ConnectFailed").attempts == 0
    assert inner.entry_of(preparing, NOW, 0.0) is None


def test_of_several_states_the_right_one_is_reached() -> None:
    """Without any leave of the caller's, an event has its one next state, by what came of the creates before."""
    found = outcomes()
    several = {pair for pair in found if len(inner.TABLE[type(STATES[pair[0]]), type(EVENTS[pair[1]])].to) > 1}
    assert several <= set(EXPECTED)
    assert {pair: found[pair] for pair in EXPECTED} == EXPECTED


OF_UPLOADS = (*FREE, *REFUSED, *OF_FILES)

BY_LEAVE: dict[str, tuple[dict[str, Any], dict[tuple[str, str], str]]] = {
    "a retry is for failed generations": (
        {"retries": 2},
        {
            **{(f"Sending{before}", "Rejected NEW_TASK"): "Queued" for before in ("", " after a failure")},
            **dict.fromkeys(product(REPLACEABLE, ("TaskFailed",)), "Queued"),
        },
    ),
    "a resubmission is for lost answers": (
        {"resubmits": 1},
        {(f"Sending{before}", event): "Queued" for before in BEFORE for event in ("Lost", "Lost, may be named")},
    ),
    "a folder is for saving": ({"save_to": "out"}, dict.fromkeys(product(ASKED_ABOUT, ("Succeeded",)), "Fetching")),
    "a deadline ends what could be sent or asked again": (
        {"expires_at": NOW},
        {
            **dict.fromkeys(
                product(("Sending", "Sending after a failure", "Orphaned"), (*FREE_TO_REPEAT, *REPEATED)), "Failed"
            ),
            **dict.fromkeys(product(("Sending", "Sending after a failure"), ("Rejected RENEW",)), "Failed"),
            ("Orphaned after a failure", "Lost by name"): "Failed",
            **dict.fromkeys(product(("Sending after a loss",), (*FREE_TO_REPEAT, *REPEATED)), "Unknown"),
            **dict.fromkeys(product(REPLACEABLE, ("TaskFailed unsent",)), "Failed"),
            # While it waits for its turn it does not age; but for who has asked for it by its id.
            **dict.fromkeys(product(("Collected", "Collected denied"), ("Pending its turn",)), "Failed"),
            **{
                (f"{state}{before}", event): "Unknown" if before == " after a loss" else "Failed"
                for state in UNSENT
                for before in BEFORE
                for event in ("ConnectFailed", "TurnMissed", *(OF_UPLOADS if state == "Preparing" else ()))
            },
            **dict.fromkeys(product(UNSENT, ("SendAborted",)), "Failed"),
            **dict.fromkeys(product(RUNNING, ("Pending", "NoAnswer")), "Failed"),
            **dict.fromkeys(product(LINKED, ("LinksMissing",)), "Failed"),
            **dict.fromkeys(product(("Confirming", "Confirming denied"), ("Pending", "LinksMissing")), "Failed"),
            **dict.fromkeys(product(("Running", "Doubted", "Relinking"), ("TaskRefused",)), "Failed"),
            **dict.fromkeys(product(("Running unlinked", "Relinking unlinked"), ("TaskRefused",)), "Failed"),
        },
    ),
}


@pytest.mark.parametrize(("terms", "changed"), BY_LEAVE.values(), ids=BY_LEAVE)
def test_each_leave_adds_only_what_it_is_for(terms: dict[str, Any], changed: dict[tuple[str, str], str]) -> None:
    """With one leave of the caller's, or its time over, these pairs come to another state, and no others do."""
    plain = outcomes()
    assert {pair: name for pair, name in outcomes(**terms).items() if plain[pair] != name} == changed


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("event", FREE)
def test_a_create_that_made_nothing_leads_back_to_queued_with_its_reason(before: str, event: str) -> None:
    """A job of which nothing was made waits again, knows why and from whom, and nothing of it is counted but a send."""
    job = job_in(f"Sending{before}", retries=2, resubmits=1)
    reason = getattr(EVENTS[event], "failure", None)
    assert after(job, event) == job.to(inner.Queued(reason.about(account="kie"), BEFORE[before]))


def test_a_task_that_finished_is_never_replaced() -> None:
    """From a first success on, whatever becomes of its links, no create goes again and the URLs are never lost."""
    finished = [name for name, state in LIVE.items() if isinstance(state, inner.Fetching | inner.Relinking)]
    for state, event, terms in product(finished, EVENTS, TERMS):
        job = job_in(state, **terms)
        if can_meet(job, EVENTS[event]):
            with naming(state, event, terms):
                moved = after(job, event)
                kept = moved.state.was if isinstance(moved.state, inner.Left) else moved.state
                assert (moved.task_id, getattr(kept, "outcome", None)) == ("t1", SUCCESS)
                assert not isinstance(moved.state, inner.Failed) or why(moved).is_a(errors.DownloadFailed)


@pytest.mark.parametrize(("credits", "spent"), [(0.0, 2.0), (3.0, 5.0), (None, 10.0)])
def test_what_failed_tasks_have_cost_is_added_up(credits: float | None, spent: float) -> None:
    """What is told counts; where nothing is, the price does, but not for a create that made no task."""
    broken = inner.TaskFailed(failure(errors.GenerationFailed), credits, b"{}")
    assert after(job_in("Running", retries=1, spent=2.0), broken).spent == spent
    unpriced = msgspec.structs.replace(job_in("Running", retries=1), model=UNPRICED)
    assert after(unpriced, broken).spent == (credits or 0)
    assert after(job_in("Sending", retries=1, spent=2.0), "Rejected NEW_TASK").spent == 2.0


def test_a_named_create_goes_again_as_it_was() -> None:
    """Lost, it is the same create, to its own account alone, until its task is known; refused for now, anybody's."""
    sending = after(job_in("Queued", expires_at=None, route=inner.Route((OFFER,))), "Taken", "Leaves")
    lost, refused = after(sending, "Lost by name"), after(sending, "Rejected REPEAT")
    assert (lost.attempts, lost.lost, lost.lost_creates, lost.route) == (0, 1, (), None)
    assert (refused.attempts, refused.lost, refused.route) == (0, 0, sending.route)
    again = after(lost, "Taken", "Leaves", "Rejected REPEAT", "Taken", "Leaves")
    assert (again.attempts, again.lost) == (1, 1)
    accepted = after(again, "Accepted by name")
    assert (accepted.lost, accepted.task_id, accepted.expires_at) == (0, "t1", NOW + 900 + WAITING)
    told = why(after(again, "Lost by name", at=NOW + 900))
    assert (told.kind, "nothing was billed" in told.message) == (errors.DeadlineExceeded, False)
    assert "the same task" in told.message
    assert "the same task" in why(after(lost, "OwnerLeft")).message


def test_what_a_name_stands_for_is_renewed_once() -> None:
    """A new task is behind the one that failed before, and what fails after that is no reason for another one."""
    job = after(job_in("Sending", renews=True), "Rejected RENEW")
    assert (job.renews, job.attempts, job.state.fallback.task_id) == (False, 1, "t0")
    assert isinstance(after(job, "Taken", "Leaves", "Accepted by name", "TaskFailed").state, inner.Failed)


def test_what_a_service_gives_back_is_sent_again() -> None:
    """Nothing of it was sent: it waits again, and knows why; its next create is another one."""
    job = after(job_in("Running"), "TaskFailed unsent")
    assert (type(job.state), job.state.failure.message, job.state.fallback) == (inner.Queued, "empty", None)
    assert after(job, "Taken").attempts == 2
    waited = after(job_in("Running"), "Pending its turn")
    assert waited.expires_at > NOW + waited.deadline
    assert after(waited, "TaskFailed unsent").expires_at == NOW + waited.deadline, (
        "what it waited there is no time of its"
    )


def test_the_deadline_runs_from_the_first_sending() -> None:
    """A job that waits does not age; its deadline starts with its first create and is not renewed by the second."""
    first = after(job_in("Queued", expires_at=None), "Taken")
    again = after(first, "ConnectFailed", "Taken", "Leaves", "Rejected PAUSE", "Taken", at=NOW + 10)
    assert (first.expires_at, again.expires_at) == (NOW + 900, NOW + 900)


@pytest.mark.parametrize(
    ("state", "events", "cause"),
    [
        (inner.Queued(failure(errors.RateLimited, "slow down")), [], "slow down"),
        ("Running", ["TaskRefused"], "recordInfo is null"),
        ("Running", ["NoAnswer"], "502"),
        ("Running", ["NoAnswer", "Pending"], None),
        ("Sending", ["Accepted"], None),
    ],
)
def test_a_job_that_expires_says_what_the_trouble_was(state: Any, events: list[str], cause: str | None) -> None:
    """Its failure names the last refusal, or why nobody could ask about its task, until an answer comes."""
    told = why(after(job_in(state, expires_at=NOW + 9), *events, "Expired"))
    assert (told.kind, told.account, told.task_id) == (errors.DeadlineExceeded, "kie", "t1" if events else None)
    assert (told.cause and told.cause.message) == cause


@pytest.mark.parametrize(
    ("state", "event", "expires_at", "due"),
    [
        *[("Sending", "Lost, may be named", at, NOW + 30) for at in (None, NOW + 900)],
        ("Sending", "Lost, may be named", NOW + 7, NOW + 7),
        *[("Fetching", "NotSaved gone", at, NOW + 60) for at in (None, NOW - 5)],
        ("Fetching", "NotSaved gone", NOW + 900, NOW + 900),
        ("AwaitingCallback", "CallbackNamed", NOW + 900, NOW + 900),
        ("AwaitingCallback", "CallbackNamed", NOW + 9, NOW + 60),
        (inner.AwaitingCallback(LOST_BEFORE, since=NOW - 10, until=NOW + 300), "CallbackNamed", NOW + 9, NOW + 300),
    ],
)
def test_what_is_worth_a_wait_has_its_time(state: Any, event: str, expires_at: float | None, due: float) -> None:
    """A callback is waited for within the deadline; a name, or links that died, are asked about a minute at least."""
    moved = after(job_in(state, save_to="out", expires_at=expires_at), event)
    assert (moved.due, moved.state.since) == (due, NOW - 10 if event == "CallbackNamed" else NOW)


@pytest.mark.parametrize(
    ("state", "said", "end"),
    [
        ("Running", [("TaskRefused", at) for at in (0, 29.9, 30)], "Failed"),
        ("Running", [("TaskRefused", 0), ("Pending", 20), *[("TaskRefused", at) for at in (25, 50, 55)]], "Failed"),
        ("Running", [("TaskRefused", 0), ("NoAnswer", 20), ("TaskRefused", 30)], "Failed"),
        ("Running", [("NoAnswer", number) for number in range(50)], "Running"),
        ("Collected", [("TaskRefused", 0)], "Failed"),
        ("Doubted", [("TaskRefused", at) for at in (0, 29.9, 30)], "Queued"),
        ("Relinking", [("TaskRefused", at) for at in (0, 29.9, 30)], "Fetching"),
        ("Confirming", [("TaskRefused", 0), ("NoAnswer", 29), ("TaskRefused", 29.9)], "Confirming"),
        ("Confirming", [("TaskRefused", at) for at in (0, 29.9, 30)], "AwaitingCallback"),
    ],
)
def test_a_denial_is_transient_for_thirty_seconds(state: str, said: list[tuple[str, float]], end: str) -> None:
    """ "No such task" is waited out for 30 s from its first denial, which an answer ends, and no silence renews."""
    job = job_in(state, save_to="out")
    for event, at in said:
        assert not isinstance(job.state, inner.Ended)
        job = after(job, event, at=NOW + at)
    has_task = isinstance(job.state, inner.Running | inner.Fetching | inner.Failed)
    assert (type(job.state).__name__, job.task_id) == (end, "t1" if has_task else None)


@pytest.mark.parametrize(
    ("state", "said", "end"),
    [
        ("Running", [("LinksMissing", 0), ("LinksMissing", 9.9), ("Succeeded", 60)], "Fetching"),
        *((kind, [("LinksMissing", at) for at in (0, 9.9, 10)], "Failed") for kind in ("Running", "Collected")),
        ("Running", [("LinksMissing", 0), ("NoAnswer", 5), ("TaskRefused", 6), ("LinksMissing", 10)], "Failed"),
        ("Running", [("LinksMissing", 0), ("Pending", 5), ("LinksMissing", 10), ("LinksMissing", 19)], "Running"),
        ("Confirming", [("LinksMissing", 0), ("LinksMissing", 9.9)], "Running"),
        ("Relinking", [("LinksMissing", 0), ("LinksMissing", 10)], "Fetching"),
    ],
)
def test_links_may_come_ten_seconds_after_the_success(state: str, said: list[tuple[str, float]], end: str) -> None:
    """A success without links is asked about again; what fails for it keeps its answer, and no new task is made."""
    job = job_in(state, save_to="out", retries=2)
    for event, at in said:
        assert not isinstance(job.state, inner.Ended)
        job = after(job, event, at=NOW + at)
    assert (type(job.state).__name__, job.task_id) == (end, "t1")
    if end == "Failed":
        assert (why(job).code, job.state.outcome) == ("no_urls", EVENTS["LinksMissing"].outcome)
    late = why(after(job_in("Running"), "LinksMissing", "Expired"))
    assert (late.kind, late.cause) == (errors.DeadlineExceeded, EVENTS["LinksMissing"].outcome.failure)


@pytest.mark.parametrize(("num_images", "taken"), [(None, 5), (4, 8), ("unknown", 20)])
def test_four_links_more_than_were_asked_for_are_taken(num_images: Any, taken: int) -> None:
    """They are paid for; of a raw model, and of a task that was named by its id, nobody knows how many were asked."""
    job = with_images(job_in("Running"), None if num_images == "unknown" else num_images)
    job = msgspec.structs.replace(job, model=UNPRICED) if num_images == "unknown" else job
    many = msgspec.structs.replace(SUCCESS, urls=tuple(f"https://files.example/{n}.png" for n in range(1000)))
    assert after(job, many).state.outcome == msgspec.structs.replace(many, urls=many.urls[:taken])


def test_an_answer_about_a_task_that_goes_on_ends_all_trouble() -> None:
    """Of what was denied or not answered nothing is known any more; where there was no trouble nothing changes."""
    job = job_in("Running")
    assert after(job, "Pending") is job == after(job, "TaskRefused", "Pending") == after(job, "NoAnswer", "Pending")


def test_a_doubted_task_that_is_denied_again_is_replaced() -> None:
    """A new task takes its place, its price counts as spent, and the job ends as the denied one if that is not made."""
    denied = failure(errors.InvalidRequest, "recordInfo is null", code=422, account="kie", task_id="t1")
    unpriced = msgspec.structs.replace(job_in("Doubted denied"), model=UNPRICED)
    assert after(unpriced, "TaskRefused").spent == 0, "nobody knows its price"
    job = after(job_in("Doubted denied", spent=2.0), "TaskRefused")
    assert (job.state, job.spent) == (inner.Queued(denied, fallback=denied), 10.0)
    assert after(job_in("Running denied"), "TaskRefused").state == inner.Failed(denied)


EMPTY, NO_MODEL = failure(errors.InsufficientCredits, "empty"), failure(errors.ModelUnavailable, "gone")


@pytest.mark.parametrize("refusals", [(EMPTY,), (NO_MODEL, EMPTY), (EMPTY, NO_MODEL), (NO_MODEL, NO_MODEL)])
def test_a_job_that_no_account_takes_names_them_all(refusals: tuple[inner.Failure, ...]) -> None:
    """NotAdmitted while an account may take it once it is looked after, failed where the model is gone everywhere."""
    told = {f"account-{number}": refusal for number, refusal in enumerate(refusals)}
    end = inner.NotAdmitted if EMPTY in refusals else inner.Failed
    assert after(job_in("Queued"), inner.NobodyTakes(told)).state == end(inner.nobody_takes(told))


def test_a_refused_repeat_keeps_its_name() -> None:
    """What was lost under a name may be there: a refusal of its repeat is no leave for another name, nor its end."""
    for before in ("Sending", "Sending after a failure"):
        sending = job_in(before, attempts=2)
        for event in ("Rejected STOP", "Rejected CLOSE_MODEL"):
            again = after(after(sending, "Lost by name"), "Taken")
            waiting = after(again.to(inner.Sending(again.state.fallback)), event)
            assert (waiting.attempts, waiting.is_lost_by_name) == (1, True)
            for end in ("NobodyTakes", "NobodyTakes it anywhere", "OverBudget", *OWNERS, "Expired"):
                with naming(before, event, end):
                    ended = msgspec.structs.replace(after(waiting, end), expires_at=NOW + 900)
                    entry = inner.entry_of(ended, NOW, 0.0)
                    assert entry is not None
                    assert (entry.state, entry.attempts, entry.lost) == ("unknown", 2, 1)


@pytest.mark.parametrize("event", ["NobodyTakes", "NobodyTakes it anywhere", "OverBudget", *OWNERS])
def test_who_waited_to_be_sent_again_ends_with_what_came_before(event: str) -> None:
    """After a lost create it is unknown, after a failed generation failed with that, unless nobody has the model."""
    assert after(job_in("Queued after a loss"), event).state == inner.Unknown(LOST_BEFORE)
    is_gone = event == "NobodyTakes it anywhere"
    assert (after(job_in("Queued after a failure"), event).state == inner.Failed(FAILED_BEFORE)) == (not is_gone)


def counts(job: inner.Job) -> tuple[int, int, tuple[int, ...], int]:
    """What is counted of a job's creates, and the leave that it has."""
    return job.attempts, job.lost, job.lost_creates, job.resubmits


def test_a_lost_create_goes_again_once_and_is_then_unknown() -> None:
    """With resubmits=1 the first loss queues the job again, the second ends it, and both may have been billed."""
    job = after(job_in("Queued", resubmits=1, expires_at=None), "Taken", "Leaves", "Lost")
    lost = job.state.failure
    assert (job.state, lost.credits) == (inner.Queued(lost, fallback=lost), 8)
    assert (counts(job), job.route) == ((1, 1, (1,), 0), None)
    job = after(job, "Taken", "Leaves", "Lost")
    assert (counts(job), why(job).kind, why(job).credits) == ((2, 2, (1, 2), 0), errors.UnknownOutcome, 16)


def test_a_job_that_was_lost_once_never_ends_as_if_nothing_happened() -> None:
    """However a job ends before its second sending made a task, it is unknown: its first create may be billed."""
    lost = [name for name in LIVE if name.endswith("after a loss")]
    for name, event, expires_at in product(lost, EVENTS, (NOW + 900, NOW)):
        job = job_in(name, expires_at=expires_at)
        if not event.startswith("Accepted") and can_meet(job, EVENTS[event]):
            ended = after(job, event)
            with naming(name, event, expires_at):
                if isinstance(ended.state, inner.Ended):
                    assert (type(ended.state), why(ended).credits) == (inner.Unknown, 8 * ended.lost)
                    assert "nothing was billed" not in why(ended).message


@pytest.mark.parametrize("event", ["SendAborted", "SendAborted unnoted", "Unsendable", *OWNERS])
def test_a_create_that_did_not_leave_was_not_sent(event: str) -> None:
    """It does not count as sent; where something was the reason, its job says so."""
    ended = after(job_in("Noting"), event)
    reason = getattr(EVENTS[event], "failure", None)
    assert ended.attempts == 0
    assert ended.state == inner.Left(inner.Queued()) if reason is None else why(ended) == reason.about(account="kie")


def test_links_that_died_are_asked_for_again_then_renewed_then_the_picture_is_gone() -> None:
    """The tries go status call, new links, end; the end names the loss and the payment, and keeps URLs and files."""
    other = inner.Succeeded(("https://files.example/2.png",), 13.5, None, b"{}")
    job = after(job_in("Fetching", retries=3, save_to="out"), "NotSaved gone")
    assert job.state == inner.Relinking("t1", since=NOW, outcome=SUCCESS)
    job = after(job, other)
    assert job.state == inner.Fetching("t1", other, inner.Links.ASKED_AGAIN)
    job = after(job, "NotSaved gone")
    assert job.state == inner.Fetching("t1", other, inner.Links.RENEWED)
    job = after(job, inner.NotSaved(GONE, files=(FILE,)))
    told = inner.picture_gone(GONE).about(account="kie", task_id="t1")
    assert (job.state, job.retried) == (inner.Failed(told, other, (FILE,)), 0)


def named(job: inner.Job, create: int, task_id: str = "t9") -> inner.Job:
    """What a callback about that create makes of a job."""
    return after(job, inner.CallbackNamed(create, task_id))


@pytest.mark.parametrize("kind", [inner.Sending, inner.Orphaned])
@pytest.mark.parametrize("fallback", [None, LOST_BEFORE])
def test_a_create_on_its_way_is_told_of_by_its_own_number(kind: Any, fallback: inner.Failure | None) -> None:
    """A callback is kept that is about the create on its way, or about one lost before it; the first one counts."""
    job = job_in(kind(fallback=fallback), attempts=2, lost=1, lost_creates=(1,))
    claimed = inner.Claimed if kind is inner.Sending else inner.Orphaned
    assert named(job, 3) is job
    for create in (1, 2):
        told = named(job, create)
        assert told == job.to(claimed(inner.Claim(create, "t9"), fallback))
        assert named(told, create, "t8") is told


@pytest.mark.parametrize("state", ["AwaitingCallback", "Queued after a loss", "Noting after a loss"])
def test_a_lost_create_is_told_of_by_its_number(state: str) -> None:
    """A job that waits, for a callback or to go again, takes one for a create that was lost, and has a minute then."""
    job = job_in(state, attempts=4 if "Noting" in state else 3, lost=2, lost_creates=(1, 3))
    since = NOW - 10 if state == "AwaitingCallback" else NOW
    assert all(named(job, create) is job for create in (0, 2, 4))
    for create, lost in ((1, (3, 1)), (3, (1, 3))):
        told = named(job, create)
        assert told.state == inner.Confirming(LOST_BEFORE, since, NOW + 60, "t9")
        assert counts(told) == (3, 2, lost, 0), "what has not left was not sent"
        assert told.task_id is None, "not believed before the provider says so"


@pytest.mark.parametrize("event", ["Lost", *REFUSED, "Rejected BACK_OFF"])
@pytest.mark.parametrize("create", [1, 2])
def test_no_answer_is_leave_to_send_another_create_once_a_callback_has_named_a_task(event: str, create: int) -> None:
    """Whatever is answered but a task, the named one is asked about; the create itself is lost where it is that one's.

    What was lost before stays lost, and the create that was named is the last of them.
    """
    asked = after(job_in(inner.Claimed(inner.Claim(create, "t9"), LOST_BEFORE), resubmits=1, retries=1), event)
    assert isinstance(asked.state, inner.Confirming)
    assert (asked.state.task_id, asked.state.since, asked.state.until) == ("t9", NOW, NOW + 60)
    lost = (1,) if event != "Lost" and create == 1 else (2, 1) if create == 1 else (1, 2)
    assert (counts(asked), asked.state.unknown.credits) == ((2, len(lost), lost, 1), 8 * len(lost))


@pytest.mark.parametrize("event", ["Pending", "Succeeded", "TaskFailed"])
def test_the_provider_s_word_takes_the_create_from_those_that_were_lost(event: str) -> None:
    """Of several lost creates the one whose task is known is lost no more; the others stay."""
    moved = after(job_in("Confirming", attempts=3, lost=3, lost_creates=(1, 3, 2)), event)
    assert (counts(moved), moved.task_id) == ((3, 2, (1, 3), 0), "t1")
    assert event != "Pending" or moved.state == inner.Running("t1", since=NOW), "as late as it can have been accepted"


@pytest.mark.parametrize("event", ["Expired", "OwnerLeft", "OwnerGone"])
@pytest.mark.parametrize(("state", "task_id"), [("AwaitingCallback", None), ("Confirming", "t1")])
def test_a_lost_job_ends_as_unknown_with_what_was_told(event: str, state: str, task_id: str | None) -> None:
    """However it ends, it is unknown, with the task that a callback has named, to be collected."""
    ended = after(job_in(state), event)
    told = LOST_BEFORE if task_id is None else inner.named_by_callback(LOST_BEFORE, task_id)
    assert (ended.state, ended.task_id) == (inner.Unknown(told), task_id)


def test_a_create_whose_answer_nobody_waited_for_may_be_on_its_way() -> None:
    """By whom it was sent, in this process or an earlier one; one that a callback has named has arrived."""
    awaited = inner.AwaitingCallback(LOST_BEFORE, NOW - 10, NOW + 30, is_on_the_way=True)
    ends = [
        after(job_in(state), *events)
        for state, *events in (
            ("Sending", "OwnerGone"),
            ("Orphaned", "OwnerGone"),
            (awaited, "OwnerLeft"),
            ("Sending", "Lost"),
            ("Claimed", "OwnerGone"),
            (awaited, "CallbackNamed", "OwnerLeft"),
        )
    ]
    states = [each.state for each in ends]
    assert [isinstance(state, inner.Unknown) and state.is_on_the_way for state in states] == [True] * 3 + [False] * 3


@pytest.mark.parametrize(
    ("state", "event", "task_id"),
    [
        *product(("Sending", "Orphaned"), ("Lost", "OwnerGone"), (None,)),
        *product(("Claimed", "Orphaned claimed"), ("Lost", "OwnerGone", "Rejected FAIL"), ("t1",)),
    ],
)
def test_what_nobody_waits_for_is_lost_once(state: str, event: str, task_id: str | None) -> None:
    """Whose caller left, and who has no task by the answer, ends with what is known, whatever leave there was."""
    ended = after(job_in(state, resubmits=1), "OwnerLeft", event)
    assert (type(ended.state), ended.task_id, counts(ended)) == (inner.Unknown, task_id, (1, 1, (1,), 0))
    assert ("the program left before the answer came" in why(ended).message) == (event == "OwnerGone")


def test_leave_to_be_sent_again_comes_with_its_way() -> None:
    """A job that was taken up without leave gets it; what was lost goes to its own account only, where it has a way."""
    ways = inner.Route((inner.Offer("kie", MODELS["imagen4"]), inner.Offer("mine", MODELS["imagen4"], rank=1)))
    for state in LIVE:
        job = job_in(state)
        with naming(state):
            moved = after(job, inner.Readmitted(2, 1, ways))
            if isinstance(job.state, inner.Orphaned):
                assert moved is job, "nobody waits for it"
                continue
            assert moved.to(job.state) == moved
            way = ways.only("kie") if job.lost else ways
            assert (moved.retries, moved.resubmits, moved.route) == (2, 1, way)
