"""The machine of a job: every entry of its table, what its drawing promises, deadlines, patience, lost creates."""

from __future__ import annotations

import copy
import itertools
from typing import Any, get_args

import pytest
from builders import MODELS, failure
from conftest import naming
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import BEFORE, EVENTS, FAILED_BEFORE, FILE, GONE, LOST_BEFORE, NOW, STATES, SUCCESS, can_meet, job_in

from imagen_async._core import job_events, wording
from imagen_async._core.job import Job
from imagen_async._core.job_events import (
    Added,
    CallbackNamed,
    Event,
    NobodyTakes,
    NotSaved,
    Readmitted,
)
from imagen_async._core.machine import TABLE, advance
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
    Noting,
    Orphaned,
    Queued,
    Relinking,
    Running,
    Sending,
    State,
    Unknown,
)
from imagen_async._core.wire import (
    Accepted,
    ConnectFailed,
    Lost,
    Rejected,
    Succeeded,
    TaskFailed,
    TaskRefused,
)
from imagen_async.errors import (
    AccountError,
    AuthenticationError,
    DeadlineExceeded,
    DownloadFailed,
    GenerationFailed,
    InsufficientCredits,
    InvalidRequest,
    ModelUnavailable,
    RateLimited,
    UnknownOutcome,
)

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
                with naming(state, name, terms):
                    reached[type(job.state), type(event)].add(type(after(job, event).state))
    for (kind, event_kind), entry in TABLE.items():
        with naming(kind.__name__, event_kind.__name__):
            assert reached[kind, event_kind] == set(entry.to)


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


def test_a_create_leaves_only_once_its_intent_is_noted() -> None:
    """Nothing but Noting leads to Sending, and nothing but its turn leads a queued job there."""
    assert leading_to(Sending) == {(Noting, job_events.Leaves)}
    assert leading_to(Noting) == {(Queued, job_events.Taken)}


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


def test_the_machine_changes_nothing_that_it_is_given() -> None:
    """A job and an event are what they were once the machine was asked, failures in them included."""
    for (state, (name, event)), terms in itertools.product(itertools.product(LIVE, EVENTS.items()), TERMS[::5]):
        job = job_in(state, **terms)
        if can_meet(job, event):
            given_to = copy.deepcopy((job, event))
            advance(job, event, NOW)
            with naming(state, name, terms):
                assert (job, event) == given_to


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


def changed_by(**terms: Any) -> dict[tuple[str, str], str]:
    """What comes out otherwise than without any leave, and as what."""
    plain = outcomes()
    return {pair: name for pair, name in outcomes(**terms).items() if plain[pair] != name}


def test_retries_add_only_the_two_failed_generations() -> None:
    """Where the caller asked for retries, a failed generation is queued again, and nothing else changes."""
    tasks = [name for name in ASKED_ABOUT if not name.startswith(("Collected", "Relinking"))]
    assert changed_by(retries=2) == {
        **{(f"Sending{before}", "Rejected NEW_TASK"): "Queued" for before in ("", " after a failure")},
        **{(name, "TaskFailed"): "Queued" for name in tasks},
    }


def test_resubmits_add_only_the_lost_answer() -> None:
    """Where the caller asked for that, a lost create is queued again, callback or not, and nothing else changes."""
    lost = ("Lost", "Lost, may be named")
    assert changed_by(resubmits=1) == {
        (f"Sending{before}", event): "Queued" for before, event in itertools.product(BEFORE, lost)
    }


def test_a_folder_to_save_to_adds_only_the_saving() -> None:
    """Where pictures are to be saved, success leads to the fetching of them, and nothing else changes."""
    assert changed_by(save_to="out") == {(name, "Succeeded"): "Fetching" for name in ASKED_ABOUT}


def test_a_deadline_ends_only_what_would_go_on() -> None:
    """At its deadline what could be sent again or asked again is given up; what is told is taken, late as it is."""
    assert changed_by(expires_at=NOW) == {
        **{
            (f"Sending{before}", event): "Unknown" if before == " after a loss" else "Failed"
            for before, event in itertools.product(BEFORE, FREE_TO_REPEAT)
        },
        **dict.fromkeys(itertools.product(RUNNING, ("Pending", "NoAnswer")), "Failed"),
        **{("Confirming" + denied, "Pending"): "Failed" for denied in ("", " denied")},
        **{(name, "TaskRefused"): "Failed" for name in ("Running", "Doubted", "Relinking")},
        **{("Orphaned", event): "Failed" for event in FREE_TO_REPEAT},
    }


@pytest.mark.parametrize("before", BEFORE)
def test_a_create_that_made_nothing_leads_back_to_queued_with_its_reason(before: str) -> None:
    """A job of which nothing was made waits again, knows why and from whom, and nothing of it is counted but a send."""
    for event in (*FREE_TO_REPEAT, *FREE_FOR_ANOTHER):
        with naming(event):
            job = job_in(f"Sending{before}", retries=2, resubmits=1)
            queued = after(job, event)
            why = getattr(EVENTS[event], "failure")  # noqa: B009 - not every event has one
            assert queued.state == Queued(why.about(account="kie"), BEFORE[before])
            assert queued.to(job.state) == job


@settings(deadline=None)
@given(
    events=st.lists(
        st.sampled_from([*EVENTS, *["Taken", "Leaves", "Lost", "CallbackNamed", "Rejected NEW_TASK"] * 6]), max_size=60
    ),
    terms=st.fixed_dictionaries(
        {"retries": st.integers(0, 3), "resubmits": st.integers(0, 1), "save_to": st.sampled_from([None, "o"])}
    ),
)
def test_a_job_is_sent_again_only_with_leave(events: list[str], terms: dict[str, Any]) -> None:
    """Through any events, creates are at most one, and one for each that made nothing, each retry and resubmit.

    A callback takes leave away, and never gives it.
    """
    job = job_in("Queued", expires_at=None, **terms)
    creates = free = 0
    for name in events:
        event, before = EVENTS[name], job
        if name == "CallbackNamed":
            event = CallbackNamed(max(1, job.attempts), "t1")
        if name.startswith("Readmitted") or not can_meet(job, event):
            continue
        job = advance(job, event, NOW)
        creates += name == "Leaves"
        free += name in FREE_TO_REPEAT + FREE_FOR_ANOTHER and isinstance(before.state, Sending)
        if name.startswith("CallbackNamed") and job is not before:
            assert not isinstance(job.state, Queued | Noting | Sending)
        assert job.attempts == creates + isinstance(job.state, Noting)
        assert job.lost == len(set(job.lost_creates))
    assert creates <= 1 + free + job.retried + (terms["resubmits"] - job.resubmits)
    assert 0 <= job.retried <= terms["retries"]
    assert 0 <= job.resubmits <= terms["resubmits"]
    assert 0 <= job.lost <= terms["resubmits"] + 1


@settings(deadline=None)
@given(events=st.lists(st.sampled_from(sorted(EVENTS)), max_size=40), retries=st.integers(0, 3))
def test_a_task_that_finished_is_never_replaced(events: list[str], retries: int) -> None:
    """From a first success on, whatever becomes of its links, no create goes again and the URLs are never lost."""
    job = job_in("Fetching", retries=retries, resubmits=1, save_to="out")
    for name in events:
        if can_meet(job, EVENTS[name]):
            job = after(job, name)
        assert job.task_id == "t1"
        kept = job.state.was if isinstance(job.state, Left) else job.state
        assert getattr(kept, "outcome", None) == SUCCESS


@settings(deadline=None)
@given(retries=st.integers(0, 5))
def test_each_retry_is_one_new_task_and_then_it_fails(retries: int) -> None:
    """A generation that always fails is asked for once, and once more for each retry, and then the job fails."""
    job = job_in("Queued", retries=retries)
    creates = 0
    while isinstance(job.state, Queued):
        creates += 1
        job = after(job, "Taken", "Leaves", Accepted(f"t{creates}"), "TaskFailed")
    assert creates == 1 + retries
    assert isinstance(job.state, Failed)
    assert job.task_id == f"t{creates}"


def test_a_success_without_urls_is_never_retried() -> None:
    """A success without a picture may have been billed: it fails, retries or not."""
    broken = TaskFailed(failure(GenerationFailed, "no picture", code="no_urls"), 8.0, b"{}")
    job = after(job_in("Running", retries=3), broken)
    assert isinstance(job.state, Failed)
    assert (job.retried, job.task_id) == (0, "t1")


# ------------------------------------------------------------------------------------------------- deadlines


def test_the_deadline_runs_from_the_first_sending() -> None:
    """A job that waits does not age; its deadline starts with its first create and is not renewed by the second."""
    first = after(job_in("Queued", expires_at=None), "Taken")
    assert first.expires_at == NOW + 900
    again = after(first, "Leaves", "ConnectFailed", "Taken", at=NOW + 10)
    assert again.expires_at == NOW + 900


@pytest.mark.parametrize("event", [*FREE_TO_REPEAT, "Pending", "TaskRefused", "NoAnswer"])
def test_a_deadline_is_met_from_its_instant_on(event: str) -> None:
    """An instant before it a job goes on; from then on it is given up, with its task id where it has one."""
    state = "Sending" if event in FREE_TO_REPEAT else "Running"
    job = job_in(state, expires_at=NOW)
    assert not isinstance(after(job, event, at=NOW - 0.001).state, Ended)
    for late in (0.0, 1.0):
        with naming(late):
            given_up = after(job, event, at=NOW + late)
            assert isinstance(given_up.state, Failed)
            assert given_up.state.failure.kind is DeadlineExceeded
            assert given_up.state.failure.account == "kie"
            assert given_up.state.failure.task_id == given_up.task_id == job.task_id


def test_a_late_task_id_is_kept() -> None:
    """A create that is accepted after the deadline keeps its task id, and its expiry then carries it."""
    expired = after(job_in("Sending", expires_at=NOW), Accepted("t9"), "Expired", at=NOW + 5)
    assert isinstance(expired.state, Failed)
    assert expired.state.failure.task_id == "t9"


def test_a_queued_job_that_expires_says_why_it_was_not_taken() -> None:
    """The failure of a job that was never accepted names the last refusal and has it as its cause."""
    refusal = failure(RateLimited, "slow down", code=429)
    expired = after(job_in(Queued(refusal), expires_at=NOW), "Expired")
    assert isinstance(expired.state, Failed)
    assert "slow down" in expired.state.failure.message
    assert expired.state.failure.cause == refusal
    assert expired.state.failure.task_id is None


@pytest.mark.parametrize("event", ["TaskRefused", "NoAnswer"])
def test_a_running_job_that_expires_says_what_the_trouble_was(event: str) -> None:
    """The failure of a task that nobody could ask about names why, and has it as its cause, until an answer comes."""
    job = after(job_in("Running", expires_at=NOW), event, at=NOW - 1)
    expired = after(job, "Expired")
    assert isinstance(expired.state, Failed)
    cause = expired.state.failure.cause
    assert cause is not None
    assert cause.message in expired.state.failure.message
    assert expired.task_id == "t1"
    answered = after(after(job, "Pending", at=NOW - 1), "Expired")
    assert isinstance(answered.state, Failed)
    assert answered.state.failure.cause is None


@pytest.mark.parametrize("event", ["Expired", *FREE_TO_REPEAT])
def test_an_expired_retry_does_not_say_that_nothing_was_billed(event: str) -> None:
    """A task was made and failed; that the next create met a 429 until the deadline does not undo it."""
    job = after(job_in("Running", retries=1), "TaskFailed")
    sent = [] if event == "Expired" else ["Taken", "Leaves"]
    expired = after(after(job, *sent), event, at=NOW + 900)
    assert isinstance(expired.state, Failed)
    assert "too dark" in expired.state.failure.message
    assert "No task was made" not in expired.state.failure.message


# ------------------------------------------------------------------------------------------------- denials


def denied(job: Job, at: float) -> Job:
    return after(job, "TaskRefused", at=at)


def test_a_denial_is_transient_for_thirty_seconds() -> None:
    """ "No such task" is waited out for 30 s from its first denial, and then it is final."""
    job = denied(denied(job_in("Running"), NOW), NOW + 29.9)
    assert isinstance(job.state, Running)
    job = denied(job, NOW + 30)
    assert isinstance(job.state, Failed)
    why = job.state.failure
    assert (why.kind, why.task_id, why.account) == (InvalidRequest, "t1", "kie")


def test_patience_begins_anew_when_the_task_is_known_in_between() -> None:
    """An answer about the task ends the denial, so that a later one has 30 s of its own."""
    job = after(denied(job_in("Running"), NOW), "Pending", at=NOW + 20)
    job = denied(job, NOW + 25)
    assert isinstance(denied(job, NOW + 50).state, Running)
    assert isinstance(denied(job, NOW + 55).state, Failed)


def test_an_unreadable_answer_does_not_renew_the_patience() -> None:
    """A failed status call tells nothing, so the 30 s run on."""
    job = after(denied(job_in("Running"), NOW), "NoAnswer", at=NOW + 20)
    assert isinstance(denied(job, NOW + 30).state, Failed)


def test_a_denial_of_a_collected_task_is_final_at_once() -> None:
    """A task that an earlier process made is old enough to be known: its first denial is final."""
    job = denied(job_in("Collected"), NOW)
    assert isinstance(job.state, Failed)
    assert job.task_id == "t1"


def test_a_doubted_task_that_is_denied_again_is_replaced() -> None:
    """A new task takes its place, its price counts as spent, and the job ends as the denied one if that is not made."""
    job = denied(job_in("Doubted denied"), NOW)
    why = failure(InvalidRequest, "recordInfo is null", code=422, account="kie", task_id="t1")
    assert (job.state, job.spent) == (Queued(why, fallback=why), 8)


@settings(deadline=None)
@given(unreadable=st.integers(1, 50))
def test_no_number_of_unreadable_answers_fails_a_job(unreadable: int) -> None:
    """429s, resets and 5xx while polling never fail a job and never send it again before its deadline."""
    job = job_in("Running", retries=3)
    for number in range(unreadable):
        job = after(job, "NoAnswer", at=NOW + number)
    assert after(job, "Pending") == job_in("Running", retries=3)


# ------------------------------------------------------------------------------------- accounts that take nothing

REFUSALS = [
    failure(InsufficientCredits, "empty."),
    failure(AuthenticationError, "wrong key"),
    failure(ModelUnavailable, "gone"),
]
NOBODY = [
    ((0, 0), NotAdmitted, InsufficientCredits),
    ((1, 1), NotAdmitted, AuthenticationError),
    ((0, 1), NotAdmitted, AccountError),
    ((1, 2), NotAdmitted, AccountError),
    ((2, 0), NotAdmitted, AccountError),
    ((2, 2), Failed, ModelUnavailable),
    ((2, 2, 2), Failed, ModelUnavailable),
    ((0, 1, 2), NotAdmitted, AccountError),
]


def refused_by(which: tuple[int, ...]) -> NobodyTakes:
    """These accounts take it no more, each for its reason."""
    return NobodyTakes({f"account-{number}": REFUSALS[each] for number, each in enumerate(which)})


@pytest.mark.parametrize(("which", "state", "kind"), NOBODY)
def test_a_job_that_no_account_takes_names_them_all(which: tuple[int, ...], state: type, kind: type) -> None:
    """NotAdmitted while an account may take it once it is looked after, failed where the model is gone everywhere."""
    event = refused_by(which)
    ended = after(job_in(Queued(REFUSALS[which[0]])), event)
    assert type(ended.state) is state
    why = wording.failure_of(ended)
    assert why is not None
    assert why.kind is kind
    for account, refusal in event.refusals.items():
        assert f"{account}: {refusal.message.rstrip('.')}" in why.message


def test_a_job_whose_only_account_stopped_has_its_own_word() -> None:
    """Where there is but one account, what it said stands as it is."""
    why = failure(AuthenticationError, "wrong key", code=401, account="kie")
    assert after(job_in("Queued"), NobodyTakes({"kie": why})).state == NotAdmitted(why)


@pytest.mark.parametrize("which", [which for which, _, _ in NOBODY])
def test_a_fallen_back_job_that_no_account_takes_ends_as_what_came_before(which: tuple[int, ...]) -> None:
    """After a lost create it is unknown, after a failed generation failed with that, unless nobody has the model."""
    event = refused_by(which)
    assert after(job_in("Queued after a loss"), event).state == Unknown(LOST_BEFORE)
    if any(each != 2 for each in which):
        assert after(job_in("Queued after a failure"), event).state == Failed(FAILED_BEFORE)


# --------------------------------------------------------------------------------------- sent again after a loss


def lost_once(**fields: Any) -> Job:
    """A job whose first create was lost, and which waits to be sent again."""
    return after(job_in("Queued", resubmits=1, expires_at=None, **fields), "Taken", "Leaves", "Lost")


def test_a_lost_create_goes_again_once_and_is_then_unknown() -> None:
    """With resubmits=1 the first loss queues the job again, the second ends it, and both may have been billed."""
    job = lost_once()
    assert isinstance(job.state, Queued)
    assert job.state.failure is not None
    assert job.state.failure == job.state.fallback
    assert (job.state.failure.kind, job.state.failure.credits) == (UnknownOutcome, 8)
    assert (job.attempts, job.lost, job.resubmits, job.route) == (1, 1, 0, None)
    job = after(job, "Taken", "Leaves", "Lost")
    assert isinstance(job.state, Unknown)
    assert (job.attempts, job.lost, job.resubmits, job.state.failure.credits) == (2, 2, 0, 16)


def test_a_job_that_was_lost_once_never_ends_as_if_nothing_happened() -> None:
    """However a job ends before its second sending made a task, it is unknown: its first create may be billed."""
    lost = [name for name in LIVE if name.endswith("after a loss")]
    for name, event, expires_at in itertools.product(lost, EVENTS, (NOW + 900, NOW)):
        job = job_in(name, expires_at=expires_at)
        if event == "Accepted" or not can_meet(job, EVENTS[event]):
            continue
        with naming(name, event, expires_at):
            ended = after(job, event)
            if isinstance(ended.state, Ended):
                assert isinstance(ended.state, Unknown)
                assert ended.state.failure.kind is UnknownOutcome
                assert ended.state.failure.credits == 8 * ended.lost
                assert "nothing was billed" not in ended.state.failure.message


def test_a_second_create_that_is_accepted_makes_a_normal_job() -> None:
    """Once the second create made a task the job runs, fails and is retried like any other; the loss stays counted."""
    job = after(lost_once(retries=1), "Taken", "Leaves", Accepted("t2"))
    assert (job.state, job.lost) == (Running("t2", since=NOW), 1)
    expired = after(job, "Expired")
    assert isinstance(expired.state, Failed)
    assert expired.state.failure.kind is DeadlineExceeded
    job = after(job, "TaskFailed")
    assert isinstance(job.state, Queued)
    assert job.state.fallback is not None
    assert job.state.fallback.kind is GenerationFailed
    job = after(job, "Taken", "Leaves", "Lost")
    assert isinstance(job.state, Unknown)
    assert job.state.failure.credits == 16


@pytest.mark.parametrize("event", ["SendAborted", "SendAborted unnoted", "Unsendable", *OWNERS])
def test_a_create_that_did_not_leave_was_not_sent(event: str) -> None:
    """It does not count as sent; where something was the reason, its job says so."""
    ended = after(job_in("Noting"), event)
    assert ended.attempts == 0
    why = getattr(EVENTS[event], "failure", None)
    assert ended.state == Left(Queued()) if why is None else wording.failure_of(ended) == why.about(account="kie")


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
    assert (job.state.failure.kind, job.state.failure.is_gone) == (DownloadFailed, True)
    assert "gone at the provider, and was paid for" in job.state.failure.message
    assert (job.state.outcome, job.state.files, job.task_id, job.retried) == (other, (FILE,), "t1", 0)


@pytest.mark.parametrize("event", ["TaskFailed", "TaskRefused"])
def test_a_task_that_is_forgotten_when_asked_again_has_its_links_renewed(event: str) -> None:
    """A provider that calls a finished task failed, or denies it for 30 s, is asked for new links to what it gave."""
    job = after(job_in("Relinking", retries=3, save_to="out"), event)
    if event == "TaskRefused":
        assert isinstance(job.state, Relinking)
        job = denied(job, NOW + 30)
    assert job.state == Fetching("t1", SUCCESS, Links.RENEWED)


@pytest.mark.parametrize(("expires_at", "until"), [(None, NOW + 60), (NOW - 5, NOW + 60), (NOW + 900, NOW + 900)])
def test_asking_again_has_a_minute_at_least(expires_at: float | None, until: float) -> None:
    """A link that dies at the deadline is still asked for again, for a minute; a later deadline stays as it is."""
    job = job_in("Fetching", save_to="out", expires_at=expires_at)
    assert after(job, "NotSaved gone").expires_at == until


@pytest.mark.parametrize("event", ["Pending", "TaskRefused", "NoAnswer"])
def test_a_deadline_while_asking_again_keeps_the_urls(event: str) -> None:
    """A job that is given up while its links are asked for again still has its URLs and its task id."""
    job = after(job_in("Relinking", save_to="out", expires_at=NOW), event)
    assert isinstance(job.state, Failed)
    assert (job.state.failure.kind, job.state.failure.is_gone) == (DownloadFailed, False)
    assert "no new ones came in time" in job.state.failure.message
    assert (job.state.outcome, job.task_id) == (SUCCESS, "t1")


@pytest.mark.parametrize("links", list(Links))
def test_a_failed_download_of_a_picture_that_is_there_asks_for_no_links(links: Links) -> None:
    """A download that failed without its link being dead ends the job, with its URLs, wherever the links came from."""
    job = after(job_in(Fetching("t1", SUCCESS, links), save_to="out"), "NotSaved")
    assert isinstance(job.state, Failed)
    assert job.state.outcome == SUCCESS
    assert "gone" not in job.state.failure.message


# ----------------------------------------------------------------------------------------- named by a callback


def named(job: Job, create: int, task_id: str = "t9") -> Job:
    """What a callback about that create makes of a job."""
    return after(job, CallbackNamed(create, task_id))


def test_only_a_job_that_waits_for_a_task_is_told_of_one() -> None:
    """A job that runs, was told already, or was never lost is as it was after a callback."""
    for state in LIVE:
        job = job_in(state)
        waits = isinstance(job.state, Sending | AwaitingCallback) or state.endswith("after a loss")
        if (waits or state.startswith("Orphaned")) and "laimed" not in state:
            continue
        with naming(state):
            assert named(job, job.attempts) is job


@pytest.mark.parametrize("kind", [Sending, Orphaned])
def test_a_create_on_its_way_is_told_of_by_its_own_number(kind: type[Sending | Orphaned]) -> None:
    """A callback is kept that is about the create on its way, or about one lost before it; the first one counts."""
    for fallback, create in itertools.product((None, LOST_BEFORE), (1, 2, 3)):
        with naming(fallback, create):
            job = job_in(kind(fallback=fallback), attempts=2, lost=1, lost_creates=(1,))
            told = named(job, create)
            if create == 3:
                assert told is job
                continue
            claim = Claim(create, "t9")
            assert told.state == (Claimed(claim, fallback) if kind is Sending else Orphaned(claim, fallback))
            assert told.to(job.state) == job
            assert named(told, create, "t8") is told


@pytest.mark.parametrize("state", ["AwaitingCallback", "Queued after a loss", "Noting after a loss"])
def test_a_lost_create_is_told_of_by_its_number(state: str) -> None:
    """A job that waits, for a callback or to go again, takes one for a create that was lost, and has a minute then."""
    for create in (0, 1, 2, 3, 4):
        with naming(create):
            job = job_in(state, attempts=4 if "Noting" in state else 3, lost=2, lost_creates=(1, 3))
            told = named(job, create)
            if create not in (1, 3):
                assert told is job
                continue
            since = NOW - 10 if isinstance(job.state, AwaitingCallback) else NOW
            assert told.state == Confirming(LOST_BEFORE, since, NOW + 60, "t9")
            assert (told.attempts, told.lost) == (3, 2), "what has not left was not sent"
            assert told.task_id is None, "not believed before the provider says so"
            assert told.lost_creates == ((1, 3) if create == 3 else (3, 1)), "the one that was told of is the last"


def test_a_retry_that_waits_is_told_of_a_lost_create() -> None:
    """What waits for a new task after one that failed does without it: the lost create's task is there already."""
    job = named(job_in("Queued after a failure", attempts=2, lost=1, lost_creates=(1,)), 1)
    assert isinstance(job.state, Confirming)
    assert (job.state.task_id, job.state.unknown.credits) == ("t9", 8)
    ended = after(job, "Expired").state
    assert isinstance(ended, Unknown)
    assert ended.failure.message.startswith("A callback names its task")


@pytest.mark.parametrize("event", ["Lost", "ConnectFailed", "Rejected BACK_OFF", "Rejected FAIL", "Rejected NEW_TASK"])
@pytest.mark.parametrize("create", [1, 2])
def test_no_answer_is_leave_to_send_another_create_once_a_callback_has_named_a_task(event: str, create: int) -> None:
    """Whatever is answered but a task, the named one is asked about; the create itself is lost where it is that one's.

    What was lost before stays lost, and the create that was named is the last of them.
    """
    job = job_in(Claimed(Claim(create, "t9"), LOST_BEFORE), resubmits=1, retries=1)
    asked = after(job, event)
    assert isinstance(asked.state, Confirming)
    assert (asked.state.task_id, asked.state.since, asked.state.until) == ("t9", NOW, NOW + 60)
    is_lost = event == "Lost" or create == 2
    assert asked.lost_creates == (((2, 1) if create == 1 else (1, 2)) if is_lost else (1,))
    assert (asked.lost, asked.resubmits) == (len(asked.lost_creates), 1)
    assert asked.state.unknown.credits == 8 * asked.lost


@pytest.mark.parametrize("event", ["Pending", "Succeeded", "TaskFailed"])
def test_the_provider_s_word_takes_the_create_from_those_that_were_lost(event: str) -> None:
    """Of several lost creates the one whose task is known is lost no more; the others stay."""
    job = job_in("Confirming", attempts=3, lost=3, lost_creates=(1, 3, 2))
    moved = after(job, event)
    assert (moved.lost, moved.lost_creates, moved.task_id, moved.attempts) == (2, (1, 3), "t1", 3)
    if isinstance(moved.state, Running):
        assert moved.state.since == NOW - 10


def test_a_denied_name_is_dropped_after_thirty_seconds() -> None:
    """The patience is that of a running task; what was lost stays lost, and another name may come."""
    job = denied(denied(job_in("Confirming"), NOW), NOW + 20)
    job = after(job, "NoAnswer", at=NOW + 29)
    assert isinstance(job.state, Confirming)
    assert (job.state.task_id, job.state.denied_at) == ("t1", NOW)
    job = denied(job, NOW + 30)
    assert job.state == AwaitingCallback(LOST_BEFORE, since=NOW - 10, until=NOW + 60)
    assert (job.lost, job.lost_creates) == (1, (1,))
    again = named(job, 1, "t2")
    assert isinstance(again.state, Confirming)
    assert again.state.task_id == "t2"


@pytest.mark.parametrize("event", ["Expired", "OwnerLeft", "OwnerGone"])
def test_a_lost_job_ends_as_unknown_with_what_was_told(event: str) -> None:
    """However it ends, it is unknown, with the task that a callback has named, to be collected."""
    for state, task_id in (("AwaitingCallback", None), ("Confirming", "t1")):
        with naming(state):
            ended = after(job_in(state), event)
            assert isinstance(ended.state, Unknown)
            assert (ended.task_id, ended.state.failure.task_id, ended.state.failure.credits) == (task_id, task_id, 8)
            assert ended.state.failure.message.startswith("A callback names its task") == (task_id is not None)


@pytest.mark.parametrize("event", ["Lost", "OwnerGone", "Rejected FAIL"])
def test_what_nobody_waits_for_keeps_the_task_that_a_callback_named(event: str) -> None:
    """A create whose caller left, and whose answer is none, ends as unknown with the named task, lost once."""
    ended = after(job_in("Orphaned claimed", resubmits=1), event)
    assert isinstance(ended.state, Unknown)
    assert (ended.task_id, ended.lost, ended.lost_creates) == ("t1", 1, (1,))


def test_a_create_that_is_accepted_after_its_caller_left_keeps_its_task() -> None:
    """Its answer is heard out for the task id's sake: the job ends as left while it ran."""
    for state in ("Orphaned", "Orphaned claimed", "Orphaned after a loss"):
        with naming(state):
            assert after(job_in(state), Accepted("t7")).state == Left(Running("t7", since=NOW))


@pytest.mark.parametrize("state", ["Sending", "Orphaned"])
def test_who_is_gone_leaves_a_create_on_its_way_as_lost(state: str) -> None:
    """When nobody hears the answer any more the create may have made a task, whatever leave there was to send again."""
    ended = after(job_in(state, resubmits=1), "OwnerGone")
    assert isinstance(ended.state, Unknown)
    assert "the program left before the answer came" in ended.state.failure.message
    assert (ended.lost, ended.lost_creates) == (1, (1,))


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
    event = Readmitted(2, 1, ways)
    for state in LIVE:
        job = job_in(state)
        with naming(state):
            moved = after(job, event)
            if isinstance(job.state, Orphaned):
                assert moved is job, "nobody waits for it"
                continue
            assert moved.to(job.state) == moved
            assert (moved.retries, moved.resubmits) == (2, 1)
            assert moved.route == (ways.only("kie") if job.lost else ways)


def test_a_running_task_that_was_denied_before_is_doubted() -> None:
    """Where the caller wants a new one, a task that was denied in an earlier run keeps what is known of it."""
    job = after(job_in("Running denied"), "Readmitted doubted")
    assert job.state == Doubted("t1", NOW - 10, NOW - 30)
