"""The state machine of a job: a table of every state and every event, deadlines, patience, and results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from conftest import naming
from hypothesis import given, settings
from hypothesis import strategies as st

from imagen_async._core import transitions, wording
from imagen_async._core.job import (
    Done,
    Event,
    Failed,
    Held,
    Job,
    Left,
    Links,
    NotAdmitted,
    NotSaved,
    Queued,
    Ready,
    Running,
    Saved,
    SendAborted,
    State,
    Submitting,
    Unknown,
)
from imagen_async._core.values import ImageFile, ImageRequest
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
    AccountError,
    AuthenticationError,
    DeadlineExceeded,
    DownloadFailed,
    GenerationFailed,
    ImagenError,
    InsufficientCredits,
    InvalidRequest,
    JournalError,
    ModelUnavailable,
    ProtocolError,
    RateLimited,
    TransportError,
    UnknownOutcome,
)
from imagen_async.providers import PROVIDERS

KIE = PROVIDERS["kie"]
NOW = 1000.0
FILE = ImageFile("out/000000-a-red-fox.png", "0" * 64, 68, "image/png", "https://files.example/1.png")
SUCCESS = Succeeded(("https://files.example/1.png",), latency=13.5, credits=None, raw=b'{"state":"success"}')


def make_job(
    state: State = Queued(),  # noqa: B008 - a frozen record
    *,
    model: str = "imagen4",
    num_images: int | None = None,
    retries: int = 0,
    resubmits: int = 0,
    lost: int = 0,
    lost_creates: tuple[int, ...] = (),
    attempts: int = 0,
    save_to: str | None = None,
    expires_at: float | None = NOW + 900,
) -> Job:
    found = KIE.find(model)
    assert found is not None
    return Job(
        id=1,
        owner=1,
        index=4,
        key="fox",
        request=ImageRequest("a red fox", model=model, num_images=num_images),
        account="kie",
        model=found,
        deadline=900.0,
        retries=retries,
        resubmits=resubmits,
        lost=lost,
        lost_creates=lost_creates,
        attempts=attempts,
        save_to=save_to,
        expires_at=expires_at,
        state=state,
    )


HELD = UnknownOutcome("The create was sent and its answer was lost. It may have made a task", credits=8)

STATES: dict[str, Callable[[], State]] = {
    "Queued": Queued,
    "Queued held": lambda: Queued(held=HELD),
    "Submitting": Submitting,
    "Submitting held": lambda: Submitting(HELD),
    "Submitting told": lambda: Submitting(told="t1", create=1),
    "Submitting held told": lambda: Submitting(HELD, told="t1", create=1),
    "Held": lambda: Held(HELD, since=NOW - 10, until=NOW + 30),
    "Held told": lambda: Held(HELD, since=NOW - 10, until=NOW + 60, told="t1"),
    "Running": lambda: Running("t1", since=NOW - 10),
    "Running finished": lambda: Running("t1", since=NOW - 10, finished=SUCCESS),
    "Ready": lambda: Ready("t1", SUCCESS),
    "Ready ASKED_AGAIN": lambda: Ready("t1", SUCCESS, Links.ASKED_AGAIN),
    "Ready RENEWED": lambda: Ready("t1", SUCCESS, Links.RENEWED),
    "Done": lambda: Done("t1", SUCCESS),
    "Failed": lambda: Failed(InvalidRequest("no")),
    "Unknown": lambda: Unknown(UnknownOutcome("lost")),
    "NotAdmitted": lambda: NotAdmitted(InsufficientCredits("empty")),
    "Left": lambda: Left(Running("t1", since=NOW - 10)),
}


def gone() -> DownloadFailed:
    error = DownloadFailed("404")
    error.gone = True
    return error


EVENTS: dict[str, Callable[[], Event]] = {
    "Accepted": lambda: Accepted("t1"),
    "Lost": lambda: Lost(TransportError("reset")),
    "ConnectFailed": lambda: ConnectFailed(TransportError("no route")),
    "SendAborted": SendAborted,
    "SendAborted unnoted": lambda: SendAborted(JournalError("the disk is full")),
    "Rejected FAIL": lambda: Rejected(InvalidRequest("bad", code=422), Remedy.FAIL),
    "Rejected NEW_TASK": lambda: Rejected(GenerationFailed("silent", code=408), Remedy.NEW_TASK),
    "Rejected CLOSE_MODEL": lambda: Rejected(ModelUnavailable("gone", code=404), Remedy.CLOSE_MODEL),
    "Rejected STOP": lambda: Rejected(InsufficientCredits("empty", code=402), Remedy.STOP),
    "Rejected BACK_OFF": lambda: Rejected(RateLimited("slow down", code=429), Remedy.BACK_OFF),
    "Rejected PAUSE": lambda: Rejected(TransportError("maintenance", code=455), Remedy.PAUSE),
    "Pending": lambda: Pending("waiting"),
    "Succeeded": lambda: SUCCESS,
    "TaskFailed": lambda: TaskFailed(GenerationFailed("too dark", code="501"), 0.0, b'{"state":"fail"}'),
    "TaskRefused": lambda: TaskRefused(InvalidRequest("recordInfo is null", code=422)),
    "NoAnswer": lambda: NoAnswer(TransportError("502")),
    "Saved": lambda: Saved((FILE,)),
    "NotSaved": lambda: NotSaved(DownloadFailed("502")),
    "NotSaved gone": lambda: NotSaved(gone()),
}

TABLE: dict[tuple[str, str], str] = {
    ("Submitting", "Accepted"): "Running",
    ("Submitting", "Lost"): "Unknown",
    ("Submitting", "ConnectFailed"): "Queued",
    ("Submitting", "Rejected FAIL"): "Failed",
    ("Submitting", "Rejected NEW_TASK"): "Failed",
    ("Submitting", "Rejected CLOSE_MODEL"): "Queued",
    ("Submitting", "Rejected STOP"): "Queued",
    ("Submitting", "Rejected BACK_OFF"): "Queued",
    ("Submitting", "Rejected PAUSE"): "Queued",
    ("Submitting", "SendAborted"): "Left",
    ("Submitting", "SendAborted unnoted"): "NotAdmitted",
    ("Submitting held", "Accepted"): "Running",
    ("Submitting held", "Lost"): "Unknown",
    ("Submitting held", "ConnectFailed"): "Queued held",
    ("Submitting held", "Rejected FAIL"): "Unknown",
    ("Submitting held", "Rejected NEW_TASK"): "Unknown",
    ("Submitting held", "Rejected CLOSE_MODEL"): "Queued held",
    ("Submitting held", "Rejected STOP"): "Queued held",
    ("Submitting held", "Rejected BACK_OFF"): "Queued held",
    ("Submitting held", "Rejected PAUSE"): "Queued held",
    ("Submitting held", "SendAborted"): "Unknown",
    ("Submitting held", "SendAborted unnoted"): "Unknown",
    ("Held told", "Pending"): "Running",
    ("Held told", "Succeeded"): "Done",
    ("Held told", "TaskFailed"): "Failed",
    ("Held told", "TaskRefused"): "Held told",
    ("Held told", "NoAnswer"): "Held told",
    ("Running", "Pending"): "Running",
    ("Running", "Succeeded"): "Done",
    ("Running", "TaskFailed"): "Failed",
    ("Running", "TaskRefused"): "Running",
    ("Running", "NoAnswer"): "Running",
    ("Running finished", "Pending"): "Running finished",
    ("Running finished", "Succeeded"): "Done",
    ("Running finished", "TaskFailed"): "Ready RENEWED",
    ("Running finished", "TaskRefused"): "Running finished",
    ("Running finished", "NoAnswer"): "Running finished",
    ("Ready", "Saved"): "Done",
    ("Ready", "NotSaved"): "Failed",
    ("Ready", "NotSaved gone"): "Running finished",
    ("Ready ASKED_AGAIN", "Saved"): "Done",
    ("Ready ASKED_AGAIN", "NotSaved"): "Failed",
    ("Ready ASKED_AGAIN", "NotSaved gone"): "Ready RENEWED",
    ("Ready RENEWED", "Saved"): "Done",
    ("Ready RENEWED", "NotSaved"): "Failed",
    ("Ready RENEWED", "NotSaved gone"): "Failed",
}
"""What every event makes of a job in every state, without retries and with nothing to save; else it cannot happen."""

TOLD = ("Submitting told", "Submitting held told")
"""A callback has named the task of the create on its way: whatever is answered, no other create goes."""

TABLE |= {
    (f"{state} told", event): "Held told" if state != "Submitting" or not event.startswith("SendAborted") else after
    for (state, event), after in TABLE.items()
    if f"{state} told" in TOLD and event != "Accepted"
}
TABLE |= {(state, "Accepted"): "Running" for state in TOLD}

WITH_RETRIES = {
    **TABLE,
    ("Submitting", "Rejected NEW_TASK"): "Queued",
    ("Running", "TaskFailed"): "Queued",
    ("Held told", "TaskFailed"): "Queued",
}
WITH_RESUBMITS = {**TABLE, ("Submitting", "Lost"): "Queued held", ("Submitting held", "Lost"): "Queued held"}
WITH_FOLDER = {
    **TABLE,
    ("Running", "Succeeded"): "Ready",
    ("Held told", "Succeeded"): "Ready",
    ("Running finished", "Succeeded"): "Ready ASKED_AGAIN",
}

FREE_TO_REPEAT = ("ConnectFailed", "Rejected BACK_OFF", "Rejected PAUSE")
"""Nothing was made: the create may go again, to the same account or another."""

FREE_FOR_ANOTHER = ("Rejected STOP", "Rejected CLOSE_MODEL")
"""Nothing was made: the create may go to another account; the one that answered takes no more such."""

PAIRS = [(state, event) for state in STATES for event in EVENTS]


def name_of(state: State) -> str:
    """What the table calls a state; that a create is held shows only where its next sending is due or on the way."""
    name = type(state).__name__
    match state:
        case Submitting(told=str()):
            return f"{name} held told" if state.held is not None else f"{name} told"
        case Queued(held=UnknownOutcome()) | Submitting(held=UnknownOutcome()):
            return f"{name} held"
        case Held(told=str()):
            return f"{name} told"
        case Running(finished=Succeeded()):
            return f"{name} finished"
        case Ready(links=Links.ASKED_AGAIN | Links.RENEWED as links):
            return f"{name} {links.name}"
    return name


def outcome(state: str, event: str, *, retries: int = 0, resubmits: int = 0, save_to: str | None = None) -> str | None:
    """The name of the state that an event leads to, or None where it cannot happen."""
    is_lost = "held" in state.lower()
    lost = {"attempts": 1, "lost": 1, "lost_creates": (1,)} if is_lost else {}
    job = make_job(STATES[state](), retries=retries, resubmits=resubmits, save_to=save_to, **lost)
    with naming(state, event):
        try:
            return name_of(transitions.advance(job, EVENTS[event](), NOW).state)
        except AssertionError:
            return None


def outcomes_of_all(**terms: Any) -> dict[tuple[str, str], str]:
    """The table as the code has it: the name of the next state of every pair that can happen."""
    found = {pair: outcome(*pair, **terms) for pair in PAIRS}
    return {pair: name for pair, name in found.items() if name is not None}


@pytest.mark.parametrize("state", STATES)
def test_every_event_in_every_state_does_what_the_table_says(state: str) -> None:
    """Each event has its one next state where it fits, and is an AssertionError where it does not."""
    for event in EVENTS:
        assert outcome(state, event) == TABLE.get((state, event)), (state, event)


def test_retries_add_only_the_two_failed_generations() -> None:
    """Where the caller asked for retries, a failed generation is queued again, and nothing else changes."""
    assert outcomes_of_all(retries=2) == WITH_RETRIES


def test_resubmits_add_only_the_lost_answer() -> None:
    """Where the caller asked for that, a lost create is queued again and stays held, and nothing else changes."""
    assert outcomes_of_all(resubmits=1) == WITH_RESUBMITS


def test_a_folder_to_save_to_adds_only_the_saving() -> None:
    """Where pictures are to be saved, success leads to Ready, and nothing else changes."""
    assert outcomes_of_all(save_to="out") == WITH_FOLDER


def test_nothing_else_leads_back_to_queued() -> None:
    """Only not sent, 429, 455, STOP, CLOSE_MODEL, and with leave a failed generation or a lost answer, do so."""
    back = {pair for pair in PAIRS if (outcome(*pair, retries=5, resubmits=1) or "").startswith("Queued")}
    creates = {*FREE_TO_REPEAT, *FREE_FOR_ANOTHER, "Rejected NEW_TASK", "Lost"}
    submitting = {(state, event) for state in ("Submitting", "Submitting held") for event in creates}
    # A refusal of the second create says nothing of the first one, which was lost.
    assert back == submitting - {("Submitting held", "Rejected NEW_TASK")} | {
        ("Running", "TaskFailed"),
        ("Held told", "TaskFailed"),
    }


@pytest.mark.parametrize("state", ["Submitting", "Submitting held"])
def test_a_create_that_made_nothing_leads_back_to_queued_with_its_reason(state: str) -> None:
    """A job of which nothing was made waits again, knows why and from whom, and nothing of it is counted but a send."""
    for event in (*FREE_TO_REPEAT, *FREE_FOR_ANOTHER):
        with naming(event):
            job = make_job(STATES[state](), retries=2, resubmits=1)
            queued = transitions.advance(job, EVENTS[event](), NOW)
            assert isinstance(queued.state, Queued)
            error = getattr(EVENTS[event](), "error")  # noqa: B009 - not every event has one
            assert isinstance(queued.state.error, type(error))
            assert queued.state.error.provider == "kie"
            assert isinstance(job.state, Submitting)
            assert queued.state.held is job.state.held
            assert queued.to(job.state) == job


EVENT_LISTS = st.lists(st.sampled_from(sorted(EVENTS)), max_size=40)
CALLBACKS = ("told", "told of the first", "told of another")


def called_back(job: Job, name: str) -> Job:
    """What a callback makes of a job: about its last create, its first, or one that never was."""
    create = {"told": job.attempts, "told of the first": 1, "told of another": job.attempts + 1}[name]
    return transitions.told(job, create, f"t{create}", NOW)


def held_back(job: Job) -> Job:
    """What a plan makes of a lost create where callbacks are asked for."""
    if not isinstance(job.state, Unknown) or not job.lost:
        return job
    return job.to(Held(job.state.error, since=NOW, until=NOW + 30))


@settings(deadline=None)
@given(
    events=st.lists(st.sampled_from([*EVENTS, *CALLBACKS * 2, *["Lost"] * 4]), max_size=40),
    retries=st.integers(0, 3),
    resubmits=st.integers(0, 1),
    save_to=st.sampled_from([None, "o"]),
)
def test_a_job_is_sent_again_only_with_leave(events: list[str], retries: int, resubmits: int, save_to: str) -> None:
    """Through any events, creates are at most one, and one for each that made nothing, each retry and resubmit.

    A callback takes leave away, and never gives it.
    """
    job = make_job(retries=retries, resubmits=resubmits, save_to=save_to, expires_at=None)
    creates = free = 0
    for name in events:
        if name in CALLBACKS:
            told = called_back(job, name)
            assert told == job or name_of(told.state).endswith("told")
            job = told
        elif isinstance(job.state, Queued):
            job = transitions.start(job, NOW)
            creates += 1
        if (name_of(job.state), name) in TABLE:
            creates -= name.startswith("SendAborted")
            free += name in FREE_TO_REPEAT + FREE_FOR_ANOTHER and name_of(job.state) not in TOLD
            job = held_back(transitions.advance(job, EVENTS[name](), NOW))
            assert job.attempts == creates
        assert job.lost == len(set(job.lost_creates))
    assert 0 <= creates <= 1 + free + job.retried + (resubmits - job.resubmits)
    assert 0 <= job.retried <= retries
    assert 0 <= job.resubmits <= resubmits
    assert 0 <= job.lost <= resubmits + 1


@settings(deadline=None)
@given(events=EVENT_LISTS, retries=st.integers(0, 3))
def test_a_task_that_finished_is_never_replaced(events: list[str], retries: int) -> None:
    """From a first success on, whatever becomes of its links, no create goes again and the URLs are never lost."""
    job = make_job(STATES["Ready"](), retries=retries, resubmits=1, save_to="out")
    for name in events:
        if (name_of(job.state), name) in TABLE:
            job = transitions.advance(job, EVENTS[name](), NOW)
        assert job.task_id == "t1"
        assert not isinstance(job.state, Queued | Submitting | Unknown)
        known = job.state.finished if isinstance(job.state, Running) else getattr(job.state, "outcome", None)
        assert known == SUCCESS


@settings(deadline=None)
@given(retries=st.integers(0, 5))
def test_each_retry_is_one_new_task_and_then_it_fails(retries: int) -> None:
    """A generation that always fails is asked for once, and once more for each retry, and then the job fails."""
    job = make_job(retries=retries)
    creates = 0
    while isinstance(job.state, Queued):
        creates += 1
        job = transitions.advance(transitions.start(job, NOW), Accepted(f"t{creates}"), NOW)
        job = transitions.advance(job, EVENTS["TaskFailed"](), NOW)
    assert creates == 1 + retries
    assert isinstance(job.state, Failed)
    assert job.task_id == f"t{creates}"


def test_a_success_without_urls_is_never_retried() -> None:
    """A success without a picture may have been billed: it fails, retries or not."""
    broken = TaskFailed(GenerationFailed("no picture", code="no_urls"), 8.0, b"{}")
    job = transitions.advance(make_job(STATES["Running"](), retries=3), broken, NOW)
    assert isinstance(job.state, Failed)
    assert job.retried == 0
    assert job.task_id == "t1"


def test_a_collected_task_that_failed_is_not_retried() -> None:
    """A task that an earlier process made is never replaced by a new one."""
    job = make_job(Running("t1", since=NOW, collected=True), retries=3)
    assert isinstance(transitions.advance(job, EVENTS["TaskFailed"](), NOW).state, Failed)


# ------------------------------------------------------------------------------------------------- deadlines


def test_the_deadline_runs_from_the_first_sending() -> None:
    """A job that waits does not age; its deadline starts with its first create and is not renewed by the second."""
    first = transitions.start(make_job(expires_at=None), NOW)
    assert isinstance(first.state, Submitting)
    assert first.expires_at == NOW + 900
    again = transitions.start(transitions.advance(first, EVENTS["ConnectFailed"](), NOW + 5), NOW + 10)
    assert again.expires_at == NOW + 900


@pytest.mark.parametrize("event", FREE_TO_REPEAT)
def test_a_create_is_not_sent_again_after_the_deadline(event: str) -> None:
    """At its deadline or after it, what could be sent again fails instead, with no task id, and says why it waited."""
    for late in (0.0, 1.0):
        with naming(late):
            job = transitions.advance(make_job(Submitting(), expires_at=NOW), EVENTS[event](), NOW + late)
            assert isinstance(job.state, Failed)
            assert isinstance(job.state.error, DeadlineExceeded)
            assert job.state.error.task_id is None
            assert job.task_id is None


@pytest.mark.parametrize("event", ["Pending", "TaskRefused", "NoAnswer"])
def test_a_running_task_that_is_late_is_given_up_with_its_task_id(event: str) -> None:
    """A running job fails at its deadline with a DeadlineExceeded that carries the task id, for collecting it."""
    for late in (0.0, 1.0):
        with naming(late):
            job = transitions.advance(make_job(STATES["Running"](), expires_at=NOW), EVENTS[event](), NOW + late)
            assert isinstance(job.state, Failed)
            assert isinstance(job.state.error, DeadlineExceeded)
            assert job.state.error.task_id == "t1"
            assert job.state.error.provider == "kie"
            assert wording.result_of(job).task_id == "t1"


@pytest.mark.parametrize("event", [*FREE_TO_REPEAT, "Pending", "TaskRefused", "NoAnswer"])
def test_just_before_the_deadline_nothing_is_given_up(event: str) -> None:
    """An instant before its deadline a job goes on."""
    state = "Submitting" if event in FREE_TO_REPEAT else "Running"
    job = transitions.advance(make_job(STATES[state](), expires_at=NOW), EVENTS[event](), NOW - 0.001)
    assert type(job.state).__name__ == TABLE[state, event]


def test_a_late_success_is_a_success() -> None:
    """A picture that is there is taken, even after the deadline: it is paid for."""
    job = transitions.advance(make_job(STATES["Running"](), expires_at=NOW), SUCCESS, NOW + 5)
    assert isinstance(job.state, Done)


def test_a_late_task_id_is_kept() -> None:
    """A create that is accepted after the deadline keeps its task id, and its expiry then carries it."""
    job = transitions.advance(make_job(Submitting(), expires_at=NOW), Accepted("t9"), NOW + 5)
    assert job.task_id == "t9"
    expired = transitions.expire(job)
    assert isinstance(expired.state, Failed)
    assert expired.state.error.task_id == "t9"


def test_a_late_loss_is_unknown_not_late() -> None:
    """A create whose answer is lost after the deadline may have made a task, so it is unknown."""
    job = transitions.advance(make_job(Submitting(), expires_at=NOW), EVENTS["Lost"](), NOW + 5)
    assert isinstance(job.state, Unknown)


def test_a_queued_job_that_expires_says_why_it_was_not_taken() -> None:
    """The error of a job that was never accepted names the last refusal and has it as its cause."""
    refusal = RateLimited("slow down", code=429)
    expired = transitions.expire(make_job(Queued(refusal), expires_at=NOW))
    assert isinstance(expired.state, Failed)
    assert "slow down" in expired.state.error.message
    assert expired.state.error.__cause__ is refusal
    assert expired.state.error.task_id is None


@pytest.mark.parametrize("event", ["TaskRefused", "NoAnswer"])
def test_a_running_job_that_expires_says_what_the_trouble_was(event: str) -> None:
    """The error of a task that nobody could ask about names why, and has it as its cause, until an answer comes."""
    job = transitions.advance(make_job(STATES["Running"](), expires_at=NOW), EVENTS[event](), NOW - 1)
    expired = transitions.expire(job)
    assert isinstance(expired.state, Failed)
    cause = expired.state.error.__cause__
    assert isinstance(cause, ImagenError)
    assert cause.message in expired.state.error.message
    assert expired.task_id == "t1"
    answered = transitions.expire(transitions.advance(job, EVENTS["Pending"](), NOW - 1))
    assert isinstance(answered.state, Failed)
    assert answered.state.error.__cause__ is None


def test_an_expired_retry_does_not_say_that_no_task_was_made() -> None:
    """A job that failed once, and expires while it waits for its retry, does not claim that no task was made."""
    job = transitions.advance(make_job(STATES["Running"](), retries=1), EVENTS["TaskFailed"](), NOW)
    assert isinstance(job.state, Queued)
    expired = transitions.expire(job)
    assert isinstance(expired.state, Failed)
    assert "No task was made" not in expired.state.error.message


# ------------------------------------------------------------------------------------------------- denials


def denied(job: Job, at: float) -> Job:
    return transitions.advance(job, EVENTS["TaskRefused"](), at)


def test_a_denial_is_transient_for_thirty_seconds() -> None:
    """ "No such task" is waited out for 30 s from its first denial, and then it is final."""
    job = denied(make_job(STATES["Running"]()), NOW)
    job = denied(job, NOW + 29.9)
    assert isinstance(job.state, Running)
    job = denied(job, NOW + 30)
    assert isinstance(job.state, Failed)
    assert isinstance(job.state.error, InvalidRequest)
    assert job.state.error.task_id == "t1"
    assert job.state.error.provider == "kie"


def test_patience_begins_anew_when_the_task_is_known_in_between() -> None:
    """An answer about the task ends the denial, so that a later one has 30 s of its own."""
    job = denied(make_job(STATES["Running"]()), NOW)
    job = transitions.advance(job, EVENTS["Pending"](), NOW + 20)
    job = denied(job, NOW + 25)
    assert isinstance(denied(job, NOW + 50).state, Running)
    assert isinstance(denied(job, NOW + 55).state, Failed)


def test_an_unreadable_answer_does_not_renew_the_patience() -> None:
    """A failed status call tells nothing, so the 30 s run on."""
    job = denied(make_job(STATES["Running"]()), NOW)
    job = transitions.advance(job, EVENTS["NoAnswer"](), NOW + 20)
    assert isinstance(denied(job, NOW + 30).state, Failed)


def test_a_denial_of_a_collected_task_is_final_at_once() -> None:
    """A task that an earlier process made is old enough to be known: its first denial is final."""
    job = denied(make_job(Running("t1", since=NOW, collected=True)), NOW)
    assert isinstance(job.state, Failed)
    assert job.task_id == "t1"


@settings(deadline=None)
@given(unreadable=st.integers(1, 50))
def test_no_number_of_unreadable_answers_fails_a_job(unreadable: int) -> None:
    """429s, resets and 5xx while polling never fail a job and never send it again before its deadline."""
    job = make_job(STATES["Running"](), retries=3)
    for number in range(unreadable):
        job = transitions.advance(job, EVENTS["NoAnswer"](), NOW + number)
    assert isinstance(job.state, Running)
    assert (job.task_id, job.retried) == ("t1", 0)
    assert transitions.advance(job, EVENTS["Pending"](), NOW) == make_job(STATES["Running"](), retries=3)


# ------------------------------------------------------------------------------------------------- results


@pytest.mark.parametrize(
    ("model", "num_images", "credits", "shown"),
    [("imagen4", None, 8, "8 credits"), ("imagen4-fast", 3, 12, "12 credits"), ("imagen4-ultra", None, 12, "12 cred")],
)
def test_an_unknown_job_names_what_it_may_have_cost(
    model: str, num_images: int | None, credits: float, shown: str
) -> None:
    """The error of a lost create carries the price of all its pictures, names it, and has the loss as its cause."""
    job = make_job(Submitting(), model=model, num_images=num_images)
    lost = TransportError("the connection was reset")
    job = transitions.advance(job, Lost(lost), NOW)
    assert isinstance(job.state, Unknown)
    assert job.state.error.credits == credits
    assert shown in job.state.error.message
    assert "the connection was reset" in job.state.error.message
    assert job.state.error.__cause__ is lost


def test_an_unknown_job_of_an_unknown_price_says_so() -> None:
    """Where no page tells a price, the error of a lost create says that nobody knows it."""
    model = PROVIDERS["apikley"].find("imagen4")
    assert model is not None
    job = Job(1, 1, 0, "k", ImageRequest("x"), "apikley", model, 900.0, state=Submitting())
    unknown = wording.unknown_outcome(job, ProtocolError("not JSON"))
    assert unknown.credits is None
    assert "unknown price" in unknown.message
    assert unknown.provider == "apikley"


def test_a_finished_job_gives_its_urls_files_and_latency() -> None:
    """A result is told by its request, and has all that the provider said."""
    job = make_job(Done("t1", SUCCESS, (FILE,)))
    result = wording.result_of(job)
    assert result.ok
    assert (result.key, result.index, result.request, result.provider, result.model) == (
        "fox",
        4,
        job.request,
        "kie",
        "imagen4",
    )
    assert (result.urls, result.files, result.latency, result.task_id) == (SUCCESS.urls, (FILE,), 13.5, "t1")
    assert result.raw == SUCCESS.raw


@pytest.mark.parametrize(("said", "credits"), [(None, 8), (4.0, 4.0), (0.0, 0.0)])
def test_the_credits_of_a_picture_are_the_providers_word_else_its_price(said: float | None, credits: float) -> None:
    """What the provider says it billed wins over the price list, even where it says nothing was."""
    outcome = Succeeded(SUCCESS.urls, None, said, b"")
    assert wording.result_of(make_job(Done("t1", outcome))).credits == credits


def test_a_failed_generation_keeps_task_id_credits_and_the_raw_answer() -> None:
    """A result without a picture still tells its task, what was billed and what the provider said."""
    job = transitions.advance(make_job(STATES["Running"]()), EVENTS["TaskFailed"](), NOW)
    result = wording.result_of(job)
    assert not result.ok
    assert isinstance(result.error, GenerationFailed)
    assert (result.error.provider, result.error.code) == ("kie", "501")
    assert (result.urls, result.task_id, result.credits, result.raw) == ((), "t1", 0.0, b'{"state":"fail"}')


def test_a_picture_that_could_not_be_saved_keeps_its_urls() -> None:
    """A failed download leaves the URLs, the credits and the task id on the result: the picture is paid for."""
    job = transitions.advance(make_job(STATES["Ready"](), save_to="out"), EVENTS["NotSaved"](), NOW)
    result = wording.result_of(job)
    assert isinstance(result.error, DownloadFailed)
    assert (result.urls, result.files, result.task_id, result.credits) == (SUCCESS.urls, (), "t1", 8)
    assert result.error.task_id == "t1"


def test_the_pictures_that_were_saved_before_one_failed_stay_on_the_result() -> None:
    """Of several pictures, those on disk are on the result beside the error for the one that failed."""
    event = NotSaved(DownloadFailed("404"), files=(FILE,))
    result = wording.result_of(transitions.advance(make_job(STATES["Ready"](), save_to="out"), event, NOW))
    assert not result.ok
    assert (result.files, result.urls) == ((FILE,), SUCCESS.urls)


def test_a_refused_job_has_no_task_and_cost_nothing_known() -> None:
    """A refused create is a result with the error, its account, and no task."""
    job = transitions.advance(make_job(Submitting()), EVENTS["Rejected FAIL"](), NOW)
    result = wording.result_of(job)
    assert isinstance(result.error, InvalidRequest)
    assert (result.error.provider, result.task_id, result.credits, result.urls) == ("kie", None, None, ())


def stopped_everywhere(job: Job, **refusals: ImagenError) -> Job:
    """A queued job that these accounts, all of its route, take no more, each for its reason."""
    return job.to(transitions.unwanted(job, refusals))


def test_an_unsent_job_has_its_accounts_error() -> None:
    """A job whose only account stopped carries why it stopped, and no task."""
    job = make_job(Submitting())
    job = transitions.advance(job, Rejected(AuthenticationError("wrong key", code=401), Remedy.STOP), NOW)
    job = stopped_everywhere(job, kie=AuthenticationError("wrong key", code=401, provider="kie"))
    assert isinstance(job.state, NotAdmitted)
    result = wording.result_of(job)
    assert isinstance(result.error, AuthenticationError)
    assert (result.error.message, result.error.provider, result.task_id) == ("wrong key", "kie", None)


REFUSALS = [InsufficientCredits("empty."), AuthenticationError("wrong key"), ModelUnavailable("gone")]
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


@pytest.mark.parametrize(("which", "state", "kind"), NOBODY)
def test_a_job_that_no_account_takes_names_them_all(which: tuple[int, ...], state: type, kind: type) -> None:
    """NotAdmitted while an account may take it once it is looked after, failed where the model is gone everywhere."""
    refusals = {f"account-{number}": REFUSALS[each] for number, each in enumerate(which)}
    ended = stopped_everywhere(make_job(Queued(REFUSALS[which[0]])), **refusals)
    assert type(ended.state) is state
    error = wording.result_of(ended).error
    assert type(error) is kind
    for account, refusal in refusals.items():
        assert f"{account}: {refusal.message.rstrip('.')}" in error.message


@pytest.mark.parametrize("which", [which for which, _, _ in NOBODY])
def test_a_held_job_that_no_account_takes_ends_as_what_held_it(which: tuple[int, ...]) -> None:
    """After a lost create it is unknown, after a failed generation failed with that, whatever the accounts say."""
    refusals = {f"account-{number}": REFUSALS[each] for number, each in enumerate(which)}
    unknown = stopped_everywhere(make_job(Queued(REFUSALS[0], held=HELD)), **refusals)
    assert unknown.state == Unknown(HELD)
    if all(each == 2 for each in which):
        return
    failure = GenerationFailed("too dark")
    assert stopped_everywhere(make_job(Queued(REFUSALS[0], held=failure)), **refusals).state == Failed(failure)


def test_an_unknown_jobs_result_has_its_error_and_no_task() -> None:
    """A lost create is an UnknownOutcome on the result, without a task id that nobody knows."""
    job = transitions.advance(make_job(Submitting()), EVENTS["Lost"](), NOW)
    result = wording.result_of(job)
    assert isinstance(result.error, UnknownOutcome)
    assert (result.task_id, result.error.provider) == (None, "kie")


UNFINISHED = ("Queued", "Submitting", "Held", "Running", "Ready")
LEAVING: list[tuple[Queued | Running | Ready, str | None, str]] = [
    (Queued(), None, "nothing was billed"),
    (Queued(RateLimited("429")), None, "nothing was billed"),
    (Running("t1", since=NOW), "t1", "collect"),
    (Running("t1", since=NOW, finished=SUCCESS), "t1", "collect"),
    (Ready("t1", SUCCESS), "t1", "collect"),
]


@pytest.mark.parametrize(("was", "task_id", "said"), LEAVING)
def test_a_job_that_was_left_says_whether_it_is_paid_for(
    was: Queued | Running | Ready, task_id: str | None, said: str
) -> None:
    """A job that the caller left tells its task id where it has one, and that nothing was billed where it has none."""
    job = make_job(was)
    left = job.to(transitions.left(job))
    assert left.state == Left(was)
    result = wording.result_of(left)
    assert isinstance(result.error, DeadlineExceeded)
    assert result.error.task_id == result.task_id == left.task_id == task_id
    assert said in result.error.message


def test_only_a_job_that_ended_has_a_result() -> None:
    """There is no result of a job that goes on."""
    for state in (name for name in STATES if name.split()[0] in UNFINISHED):
        with naming(state):
            with pytest.raises(AssertionError):
                wording.result_of(make_job(STATES[state]()))


# --------------------------------------------------------------------------------------- sent again after a loss


def lost_once(**place: Any) -> Job:
    """A job whose first create was lost, and which waits to be sent again."""
    job = transitions.start(make_job(resubmits=1, expires_at=None, **place), NOW)
    return transitions.advance(job, EVENTS["Lost"](), NOW)


def test_a_lost_create_goes_again_once_and_is_then_held() -> None:
    """With resubmits=1 the first loss queues the job again, the second holds it, and both may have been billed."""
    job = lost_once()
    assert isinstance(job.state, Queued)
    assert isinstance(job.state.error, UnknownOutcome)
    assert (job.attempts, job.lost, job.resubmits, job.state.error.credits) == (1, 1, 0, 8)
    job = transitions.start(job, NOW)
    assert isinstance(job.state, Submitting)
    assert isinstance(job.state.held, UnknownOutcome)
    job = transitions.advance(job, EVENTS["Lost"](), NOW)
    assert isinstance(job.state, Unknown)
    assert (job.attempts, job.lost, job.resubmits, job.state.error.credits) == (2, 2, 0, 16)


def ways_to_end_held() -> dict[str, Callable[[Job], Job]]:
    def sent(event: str) -> Callable[[Job], Job]:
        return lambda job: transitions.advance(transitions.start(job, NOW), EVENTS[event](), NOW)

    def late(event: str) -> Callable[[Job], Job]:
        return lambda job: transitions.advance(transitions.start(job, NOW), EVENTS[event](), NOW + 900)

    def nobody(event: str, refusal: ImagenError) -> Callable[[Job], Job]:
        return lambda job: stopped_everywhere(sent(event)(job), kie=refusal)

    return {
        "expired": transitions.expire,
        "left": lambda job: job.to(transitions.left(job)),
        "unsent": lambda job: job.to(transitions.unsent(job, InsufficientCredits("empty"))),
        "account stopped": nobody("Rejected STOP", InsufficientCredits("empty")),
        "withheld": sent("SendAborted"),
        "not noted": sent("SendAborted unnoted"),
        "expired after a 429": late("Rejected BACK_OFF"),
        "expired after a 455": late("Rejected PAUSE"),
        "expired, not sent": late("ConnectFailed"),
        "left after a 429": lambda job: job.to(transitions.left(sent("Rejected BACK_OFF")(job))),
        "unsent after a 455": lambda job: job.to(
            transitions.unsent(sent("Rejected PAUSE")(job), InsufficientCredits("empty"))
        ),
        "refused": sent("Rejected FAIL"),
        "model gone": nobody("Rejected CLOSE_MODEL", ModelUnavailable("gone")),
        "silent": sent("Rejected NEW_TASK"),
    }


@pytest.mark.parametrize("way", ways_to_end_held())
def test_a_job_that_was_lost_once_never_ends_as_if_nothing_happened(way: str) -> None:
    """However a job ends before its second sending made a task, it is unknown: its first create may be billed."""
    ended = ways_to_end_held()[way](lost_once())
    assert isinstance(ended.state, Unknown)
    result = wording.result_of(ended)
    assert isinstance(result.error, UnknownOutcome)
    assert result.error.credits == 8
    assert "nothing was billed" not in result.error.message


def test_a_second_create_that_is_accepted_makes_a_normal_job() -> None:
    """Once the second create made a task the job runs, fails and is retried like any other; the loss stays counted."""
    job = transitions.advance(transitions.start(lost_once(retries=1), NOW), Accepted("t2"), NOW)
    assert job.state == Running("t2", since=NOW)
    assert job.lost == 1
    expired = transitions.expire(job)
    assert isinstance(expired.state, Failed)
    assert isinstance(expired.state.error, DeadlineExceeded)
    job = transitions.advance(job, EVENTS["TaskFailed"](), NOW)
    assert isinstance(job.state, Queued)
    assert isinstance(job.state.error, GenerationFailed)
    job = transitions.advance(transitions.start(job, NOW), EVENTS["Lost"](), NOW)
    assert isinstance(job.state, Unknown)
    assert job.state.error.credits == 16


@pytest.mark.parametrize("event", FREE_TO_REPEAT)
def test_an_expired_job_that_was_retried_does_not_say_that_nothing_was_billed(event: str) -> None:
    """A task was made and failed; that the next create met a 429 until the deadline does not undo it."""
    job = transitions.advance(make_job(STATES["Running"](), retries=1), EVENTS["TaskFailed"](), NOW)
    job = transitions.advance(transitions.start(job, NOW), EVENTS[event](), NOW + 900)
    assert isinstance(job.state, Failed)
    assert "No task was made" not in job.state.error.message


def test_a_create_that_is_withheld_was_not_sent() -> None:
    """A create that was withheld does not count as sent, and its job says why."""
    job = transitions.start(make_job(), NOW)
    left = transitions.advance(job, SendAborted(), NOW)
    assert (left.attempts, left.state) == (0, Left(Queued()))
    unsent = transitions.advance(job, EVENTS["SendAborted unnoted"](), NOW)
    assert isinstance(unsent.state, NotAdmitted)
    assert isinstance(unsent.state.error, JournalError)
    assert (unsent.attempts, unsent.state.error.provider) == (0, "kie")


# ------------------------------------------------------------------------------------------- links that died


def test_links_that_died_are_asked_for_again_then_renewed_then_the_picture_is_gone() -> None:
    """The tries go status call, new links, end; the end names the loss and the payment, and keeps URLs and files."""
    job = transitions.advance(make_job(STATES["Ready"](), retries=3, save_to="out"), EVENTS["NotSaved gone"](), NOW)
    assert job.state == Running("t1", since=NOW, finished=SUCCESS)
    other = Succeeded(("https://files.example/2.png",), 13.5, None, b"{}")
    job = transitions.advance(job, other, NOW)
    assert job.state == Ready("t1", other, Links.ASKED_AGAIN)
    job = transitions.advance(job, EVENTS["NotSaved gone"](), NOW)
    assert job.state == Ready("t1", other, Links.RENEWED)
    job = transitions.advance(job, NotSaved(gone(), files=(FILE,)), NOW)
    result = wording.result_of(job)
    assert isinstance(result.error, DownloadFailed)
    assert "gone at the provider" in result.error.message
    assert "was paid for" in result.error.message
    assert (result.urls, result.files, result.task_id, job.retried) == (other.urls, (FILE,), "t1", 0)


@pytest.mark.parametrize("event", ["TaskFailed", "TaskRefused"])
def test_a_task_that_is_forgotten_when_asked_again_has_its_links_renewed(event: str) -> None:
    """A provider that calls a finished task failed, or denies it for 30 s, is asked for new links to what it gave."""
    job = transitions.advance(make_job(STATES["Ready"](), retries=3, save_to="out"), EVENTS["NotSaved gone"](), NOW)
    job = transitions.advance(job, EVENTS[event](), NOW)
    if event == "TaskRefused":
        assert isinstance(job.state, Running)
        job = transitions.advance(job, EVENTS[event](), NOW + 30)
    assert job.state == Ready("t1", SUCCESS, Links.RENEWED)


@pytest.mark.parametrize(("expires_at", "until"), [(None, NOW + 60), (NOW - 5, NOW + 60), (NOW + 900, NOW + 900)])
def test_asking_again_has_a_minute_at_least(expires_at: float | None, until: float) -> None:
    """A link that dies at the deadline is still asked for again, for a minute; a later deadline stays as it is."""
    job = make_job(STATES["Ready"](), save_to="out", expires_at=expires_at)
    assert transitions.advance(job, EVENTS["NotSaved gone"](), NOW).expires_at == until


@pytest.mark.parametrize("event", ["Pending", "TaskRefused", "NoAnswer"])
def test_a_deadline_while_asking_again_keeps_the_urls(event: str) -> None:
    """A job that is given up while its links are asked for again still has its URLs, credits and task id."""
    job = make_job(STATES["Running finished"](), save_to="out", expires_at=NOW)
    result = wording.result_of(transitions.advance(job, EVENTS[event](), NOW))
    assert isinstance(result.error, DownloadFailed)
    assert not result.error.gone
    assert "no new ones came in time" in result.error.message
    assert (result.urls, result.task_id, result.credits) == (SUCCESS.urls, "t1", 8)


@pytest.mark.parametrize("links", list(Links))
def test_a_failed_download_of_a_picture_that_is_there_asks_for_no_links(links: Links) -> None:
    """A download that failed without its link being dead ends the job, with its URLs, wherever the links came from."""
    job = transitions.advance(make_job(Ready("t1", SUCCESS, links), save_to="out"), EVENTS["NotSaved"](), NOW)
    assert isinstance(job.state, Failed)
    assert job.state.outcome == SUCCESS
    assert "gone" not in job.state.error.message


# --------------------------------------------------------------------------------------------- told by a callback

HELD_ONCE = {"attempts": 1, "lost": 1, "lost_creates": (1,)}


def test_only_a_job_that_waits_for_a_task_is_told_of_one() -> None:
    """A job that runs, has ended, was told already, or was never lost is as it was after a callback."""
    for state in (name for name in STATES if name not in ("Submitting", "Submitting held", "Held")):
        with naming(state):
            job = make_job(STATES[state](), attempts=3)
            assert transitions.told(job, 3, "t9", NOW) is job


@pytest.mark.parametrize("state", ["Submitting", "Submitting held"])
def test_a_create_on_its_way_is_told_of_by_its_own_number(state: str) -> None:
    """A callback is kept that is about the create on its way, or about one that was lost before it."""
    for create in (1, 2, 3):
        with naming(create):
            job = make_job(STATES[state](), attempts=2, lost=1, lost_creates=(1,))
            told = transitions.told(job, create, "t9", NOW)
            assert isinstance(job.state, Submitting)
            assert told.state == (Submitting(job.state.held, "t9", create) if create in (1, 2) else job.state)
            assert told.to(job.state) == job


@pytest.mark.parametrize("state", ["Held", "Queued held"])
def test_a_lost_create_is_told_of_by_its_number(state: str) -> None:
    """A held job, or one that waits to go again, takes a callback for a create that was lost, and has a minute then."""
    for create in (0, 1, 2, 3):
        with naming(create):
            job = make_job(STATES[state](), attempts=3, lost=2, lost_creates=(1, 3))
            told = transitions.told(job, create, "t9", NOW)
            if create not in (1, 3):
                assert told is job
                continue
            since = job.state.since if isinstance(job.state, Held) else NOW
            assert told.state == Held(HELD, since, NOW + 60, "t9")
            assert (told.lost, told.task_id) == (2, None), "not believed before the provider says so"
            assert told.lost_creates == ((1, 3) if create == 3 else (3, 1)), "the one that was told of is the last"


def test_a_retry_that_waits_is_told_of_a_lost_create() -> None:
    """What waits for a new task after one that failed does without it: the lost create's task is there already."""
    job = make_job(Queued(held=GenerationFailed("too dark")), attempts=2, lost=1, lost_creates=(1,))
    told = transitions.told(job, 1, "t9", NOW)
    assert isinstance(told.state, Held)
    assert (told.state.told, told.state.error.credits) == ("t9", 8)
    ended = transitions.expire(told).state
    assert isinstance(ended, Unknown)
    assert ended.error.message.startswith("A callback names its task")


@pytest.mark.parametrize("event", ["Pending", "Succeeded", "TaskFailed"])
def test_the_provider_s_word_takes_the_create_from_those_that_were_lost(event: str) -> None:
    """Of several lost creates the one whose task is known is lost no more; the others stay."""
    job = make_job(Held(HELD, NOW - 10, NOW + 60, "t9"), attempts=3, lost=3, lost_creates=(1, 3, 2))
    moved = transitions.advance(job, EVENTS[event](), NOW)
    assert (moved.lost, moved.lost_creates, moved.task_id, moved.attempts) == (2, (1, 3), "t9", 3)
    if isinstance(moved.state, Running):
        assert moved.state.since == NOW - 10


def test_a_denied_name_is_dropped_after_thirty_seconds() -> None:
    """The patience is that of a running task; what was lost stays lost, and another name may come."""
    job = denied(make_job(STATES["Held told"](), **HELD_ONCE), NOW)
    job = transitions.advance(denied(job, NOW + 20), EVENTS["NoAnswer"](), NOW + 29)
    assert isinstance(job.state, Held)
    assert (job.state.told, job.state.denied_at) == ("t1", NOW)
    job = denied(job, NOW + 30)
    assert isinstance(job.state, Held)
    assert (job.state.told, job.state.denied_at, job.lost, job.lost_creates) == (None, None, 1, (1,))
    again = transitions.told(job, 1, "t2", NOW + 31)
    assert isinstance(again.state, Held)
    assert again.state.told == "t2"


@pytest.mark.parametrize("way", ["expired", "left", "unsent"])
def test_a_held_job_ends_as_unknown_with_what_was_told(way: str) -> None:
    """However it ends, its result is unknown, with the task that a callback has named, to be collected."""
    for told in (None, "t1"):
        with naming(told):
            error = UnknownOutcome("lost", credits=8)
            job = make_job(Held(error, NOW - 10, NOW + 30, told), **HELD_ONCE)
            if way == "expired":
                ended = transitions.expire(job)
            else:
                ended = job.to(
                    transitions.left(job) if way == "left" else transitions.unsent(job, InsufficientCredits("empty"))
                )
            assert isinstance(ended.state, Unknown)
            result = wording.result_of(ended)
            assert isinstance(result.error, UnknownOutcome)
            assert (result.task_id, result.error.task_id, result.error.credits) == (told, told, 8)


def test_a_lost_task_that_still_runs_after_the_deadline_is_given_up_with_its_id() -> None:
    """A job that was held up to its deadline and then turns out to run is late, like any that runs."""
    job = make_job(STATES["Held told"](), expires_at=NOW, **HELD_ONCE)
    late = transitions.advance(job, EVENTS["Pending"](), NOW)
    assert isinstance(late.state, Failed)
    assert isinstance(late.state.error, DeadlineExceeded)
    assert (late.task_id, late.lost) == ("t1", 0)
