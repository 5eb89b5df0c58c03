"""What a journal remembers of a job: a record of each state, what a later run makes of it, and any order of crashes."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest
from conftest import naming
from hypothesis import given, settings
from hypothesis import strategies as st
from test_transitions import EVENTS, FILE, HELD, NOW, STATES, SUCCESS, TABLE, gone, held_back, make_job, name_of

from imagen_async import errors
from imagen_async._core import transitions
from imagen_async._core.job import (
    Done,
    Failed,
    Final,
    Held,
    Job,
    Left,
    Links,
    NotAdmitted,
    Queued,
    Ready,
    Running,
    SendAborted,
    State,
    Submitting,
    Unknown,
)
from imagen_async._core.journal_entry import Bill, EntryError, JournalEntry, bill_of, cut_off, entry_of, error_of
from imagen_async._core.provider import Model
from imagen_async._core.resuming import changes, earlier_result, held, model_of, resumed, sent_again, shown
from imagen_async._core.routing import Offer, Route
from imagen_async._core.values import ImageRequest
from imagen_async._core.wire import Accepted, Succeeded, TaskFailed
from imagen_async._core.wording import result_of
from imagen_async.errors import (
    AuthenticationError,
    DeadlineExceeded,
    DownloadFailed,
    GenerationFailed,
    ImagenError,
    InsufficientCredits,
    InvalidRequest,
    JournalError,
    ProtocolError,
    RateLimited,
    TransportError,
    UnknownOutcome,
)

EPOCH = 1_700_000_000.0
AT = EPOCH + NOW
BROKEN = TaskFailed(GenerationFailed("too dark", code="501"), 2.0, b"{}")
PAID = TaskFailed(GenerationFailed("no picture", code="no_urls"), 8.0, b"{}")
COUNTS: dict[str, Any] = {"attempts": 3, "retried": 1, "lost": 1, "lost_creates": (2,)}


def record_of_state(state: State, **place: Any) -> JournalEntry | None:
    """What is remembered of a job in this state."""
    return entry_of(msgspec.structs.replace(make_job(state), **place), NOW, EPOCH)


def record_in(state: str, **place: Any) -> JournalEntry:
    """A record as a journal has it."""
    request = ImageRequest("a red fox", model="imagen4", aspect_ratio="1:1")
    return JournalEntry(**{"key": "fox", "position": 4, "state": state, "account": "kie", "request": request, **place})


def blank(**place: Any) -> Job:
    """The job as a later run would make it."""
    return msgspec.structs.replace(make_job(expires_at=None), **{"id": 77, "owner": 7, "index": 9, **place})


def failure(kind: type[ImagenError], task_id: str | None = "t1", cause: ImagenError | None = None) -> ImagenError:
    error = kind("what happened", provider="kie", task_id=task_id, code=7)
    error.__cause__ = cause
    return error


# --------------------------------------------------------------------------------------- a record of each state

Row = tuple[State, str, str | None, tuple[str, ...], dict[str, float]]
ROWS: dict[str, Row] = {
    "queued after a 429": (Queued(RateLimited("429")), "queued", None, (), {}),
    "queued for a retry": (
        Queued(GenerationFailed("too dark"), held=GenerationFailed("too dark")),
        "failed",
        None,
        (),
        {"ended_at": AT},
    ),
    "to be sent again after a loss": (Queued(held=HELD), "unknown", None, (), {"ended_at": AT}),
    "submitting": (Submitting(), "submitting", None, (), {"sent_at": AT}),
    "submitting, held": (Submitting(HELD), "submitting", None, (), {"sent_at": AT}),
    "held": (Held(HELD, NOW - 10, NOW + 30), "unknown", None, (), {"ended_at": AT}),
    "held, told": (Held(HELD, NOW - 10, NOW + 60, "t1"), "unknown", "t1", (), {"ended_at": AT}),
    "running": (Running("t1", since=NOW - 10), "running", "t1", (), {"accepted_at": AT - 10}),
    "ready": (Ready("t1", SUCCESS), "ready", "t1", SUCCESS.urls, {}),
    "ready, asked again": (Ready("t1", SUCCESS, Links.ASKED_AGAIN), "ready", "t1", SUCCESS.urls, {}),
    "ready, renewed": (Ready("t1", SUCCESS, Links.RENEWED), "ready", "t1", SUCCESS.urls, {}),
    "done": (Done("t1", SUCCESS, (FILE,)), "done", "t1", SUCCESS.urls, {"ended_at": AT}),
    "unknown": (Unknown(HELD), "unknown", None, (), {"ended_at": AT}),
    "unknown, told": (Unknown(UnknownOutcome("lost", task_id="t1")), "unknown", "t1", (), {"ended_at": AT}),
    "unsent": (NotAdmitted(InsufficientCredits("empty")), "queued", None, (), {}),
    "left queued": (Left(Queued(RateLimited("429"))), "queued", None, (), {}),
    "left running": (Left(Running("t1", since=NOW - 10)), "running", "t1", (), {"accepted_at": AT - 10}),
    "left ready": (Left(Ready("t1", SUCCESS)), "ready", "t1", SUCCESS.urls, {}),
}
TIMES = ("sent_at", "accepted_at", "ended_at")


@pytest.mark.parametrize(("state", "name", "task_id", "urls", "times"), ROWS.values(), ids=list(ROWS))
def test_every_state_has_its_record(
    state: State, name: str, task_id: str | None, urls: tuple[str, ...], times: dict[str, float]
) -> None:
    """Each state is remembered with its task, its URLs and its times in Unix seconds, and a job left as what it was."""
    entry = record_of_state(state, **COUNTS)
    assert entry is not None
    assert (entry.state, entry.task_id, entry.urls) == (name, task_id, urls)
    assert {each: getattr(entry, each) for each in TIMES if getattr(entry, each) is not None} == times
    assert (entry.attempts, entry.retried, entry.lost, entry.lost_creates) == (3, 1, 1, (2,))
    assert (entry.key, entry.position, entry.account, entry.price) == ("fox", 4, "kie", 8)


FAILURES: dict[str, tuple[ImagenError, Succeeded | TaskFailed | None, str, str | None]] = {
    "refused": (failure(InvalidRequest, None), None, "failed", None),
    "no such task": (failure(InvalidRequest), None, "running", "t1"),
    "too late, with a task": (failure(DeadlineExceeded), None, "running", "t1"),
    "wrong key while polling": (failure(AuthenticationError), None, "running", "t1"),
    "server never reached": (failure(TransportError), None, "running", "t1"),
    "not understood": (failure(ProtocolError), None, "running", "t1"),
    "too late, never accepted": (failure(DeadlineExceeded, None, RateLimited("429")), None, "queued", None),
    "too late for a retry": (failure(DeadlineExceeded, None, GenerationFailed("dark")), None, "failed", None),
    "broken": (failure(GenerationFailed), BROKEN, "failed", "t1"),
    "no urls": (failure(GenerationFailed), PAID, "failed", "t1"),
    "left before its retry": (failure(GenerationFailed), None, "failed", "t1"),
    "not fetched": (failure(DownloadFailed), SUCCESS, "ready", "t1"),
    "not fetched for the network": (failure(TransportError), SUCCESS, "ready", "t1"),
    "too late while asked again": (failure(DeadlineExceeded), SUCCESS, "ready", "t1"),
    "gone": (gone().about(task_id="t1"), SUCCESS, "failed", "t1"),
}


@pytest.mark.parametrize(("error", "outcome", "name", "task_id"), FAILURES.values(), ids=list(FAILURES))
def test_a_failed_job_is_remembered_by_what_is_true_at_the_provider(
    error: ImagenError, outcome: Succeeded | TaskFailed | None, name: str, task_id: str | None
) -> None:
    """A task that may still finish is running, a picture that is there is ready, a create never taken is queued."""
    entry = record_of_state(Failed(error, outcome), attempts=1)
    assert entry is not None
    assert (entry.state, entry.task_id) == (name, task_id)
    assert entry.error == EntryError(type(error).__name__, error.message, error.code)
    assert entry.urls == (SUCCESS.urls if outcome is SUCCESS else ())


@pytest.mark.parametrize(
    ("outcome", "credits"), [(SUCCESS, 8), (Succeeded(("u",), 1.0, 5.0, b""), 5.0), (BROKEN, 2.0), (PAID, 8.0)]
)
def test_what_was_billed_is_remembered(outcome: Succeeded | TaskFailed, credits: float) -> None:
    """The provider's word on the credits is kept, also of a failed task; a picture without one costs its price."""
    state = (
        Failed(outcome.error.about(task_id="t1"), outcome) if isinstance(outcome, TaskFailed) else Done("t1", outcome)
    )
    entry = record_of_state(state, attempts=1)
    assert entry is not None
    assert entry.credits == credits


@pytest.mark.parametrize("error", [DownloadFailed("502"), gone()])
def test_files_that_were_saved_are_remembered_beside_the_failure(error: DownloadFailed) -> None:
    """Of several pictures, those on disk stay in the record of a job whose others could not be fetched."""
    entry = record_of_state(Failed(error.about(task_id="t1"), SUCCESS, (FILE,)), attempts=1)
    assert entry is not None
    assert (entry.files, entry.urls, entry.latency) == ((FILE,), SUCCESS.urls, 13.5)


@pytest.mark.parametrize("state", [Queued(), Left(Queued())])
def test_a_job_that_was_never_sent_has_no_record(state: State) -> None:
    """A queued job that was never handed out is nothing to remember: the input has it."""
    assert record_of_state(state, expires_at=None) is None


@pytest.mark.parametrize("was", [STATES["Running finished"](), Left(STATES["Running finished"]())])
def test_a_job_whose_links_died_stays_ready_in_the_journal(was: State) -> None:
    """While a finished task is asked about again nothing new is known: no record replaces the one with its URLs."""
    assert record_of_state(was, attempts=1) is None


def test_a_create_that_was_withheld_takes_its_record_back() -> None:
    """A create that was noted and not sent, for its caller left, is noted as queued, or it would be held as unknown."""
    job = transitions.start(make_job(expires_at=None), NOW)
    noted = entry_of(job, NOW, EPOCH)
    assert noted is not None
    assert noted.state == "submitting"
    entry = entry_of(transitions.advance(job, SendAborted(), NOW), NOW, EPOCH)
    assert entry is not None
    assert (entry.state, entry.attempts) == ("queued", 0)


def test_a_create_whose_intent_could_not_be_noted_is_queued_with_the_reason() -> None:
    """What the journal could not take at first is remembered as queued once it can be written again."""
    job = transitions.advance(transitions.start(make_job(), NOW), SendAborted(JournalError("disk full")), NOW)
    entry = entry_of(job, NOW, EPOCH)
    assert entry is not None
    assert (entry.state, entry.attempts, entry.error) == ("queued", 0, EntryError("JournalError", "disk full"))


@pytest.mark.parametrize("end", ["left", "unsent"])
def test_a_failed_job_that_was_to_be_paid_again_and_was_not_sent_stays_as_it_was(end: str) -> None:
    """A run that ends before it sends an earlier failure again leaves its record alone: task, error and credits."""
    earlier = record_in("failed", task_id="t1", error=EntryError("GenerationFailed", "no picture"), attempts=1)
    job = sent_again(earlier, blank())
    ended = transitions.left(job) if end == "left" else transitions.unsent(job, InsufficientCredits("empty"))
    entry = entry_of(job.to(ended), NOW, EPOCH)
    assert entry is None or (entry.state, entry.task_id) == ("failed", "t1")


# ---------------------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize("task_id", [None, "t1"])
def test_an_error_comes_back_as_it_was(task_id: str | None) -> None:
    """The error of a record has the class, the message, the code, the provider and the task that it had."""
    names = [name for name in errors.__all__ if name != "UnknownOutcome"]
    for name, code in itertools.product(names, (None, 422, "SENSITIVE")):
        with naming(name, code):
            error = getattr(errors, name)("what happened", provider="kie", task_id=task_id, code=code)
            entry = record_of_state(Failed(error, BROKEN), attempts=1)
            assert entry is not None
            back = error_of(msgspec.json.decode(msgspec.json.encode(entry), type=JournalEntry))
            assert type(back) is type(error)
            assert back is not None
            assert str(back) == str(error)
            assert (back.message, back.code, back.provider, back.task_id) == ("what happened", code, "kie", task_id)


@pytest.mark.parametrize("lost", [1, 2])
def test_an_unknown_outcome_comes_back_with_what_it_may_have_cost(lost: int) -> None:
    """Each lost create may have cost a task's price, and the error of the record says how much in all."""
    job = make_job(Submitting(), lost=lost - 1)
    job = transitions.advance(job, EVENTS["Lost"](), NOW)
    assert isinstance(job.state, Unknown)
    entry = entry_of(job, NOW, EPOCH)
    assert entry is not None
    back = error_of(entry)
    assert isinstance(back, UnknownOutcome)
    assert back.credits == entry.at_risk == job.state.error.credits == 8 * lost
    assert (back.message, back.provider) == (job.state.error.message, "kie")


def test_an_error_of_a_class_that_is_not_known_is_still_an_error() -> None:
    """A record that a later version wrote names a class that is missing here, and reads as the root of the tree."""
    for name in ("QuotaMovedAway", "Any", "annotations", "__all__"):
        back = error_of(record_in("failed", error=EntryError(name, "what happened", 7)))
        assert type(back) is ImagenError
        assert (back.message, back.code) == ("what happened", 7)


@pytest.mark.parametrize("state", ["queued", "running", "done"])
def test_a_record_without_an_error_has_none(state: str) -> None:
    """No error was, and none comes back."""
    assert error_of(record_in(state)) is None


ENDS: list[State] = [
    Done("t1", SUCCESS, (FILE,)),
    Done("t1", SUCCESS),
    Failed(failure(GenerationFailed), BROKEN),
    Failed(failure(GenerationFailed), PAID),
    Failed(failure(InvalidRequest, None)),
    Failed(gone().about(task_id="t1", provider="kie"), SUCCESS, (FILE,)),
    Unknown(UnknownOutcome("held", credits=8, provider="kie")),
]


@pytest.mark.parametrize("state", ENDS, ids=lambda state: type(state).__name__)
def test_an_earlier_result_is_the_result_that_it_was(state: State) -> None:
    """A job that an earlier run ended gives the same result, but for the raw answer, and is marked as earlier."""
    job = make_job(state, lost=int(isinstance(state, Unknown)))
    entry = entry_of(job, NOW, EPOCH)
    assert entry is not None
    was, now = result_of(job), earlier_result(entry)
    for name in ("key", "index", "request", "provider", "model", "urls", "files", "task_id", "credits", "latency"):
        assert getattr(now, name) == getattr(was, name), name
    assert (type(now.error), str(now.error), now.ok) == (type(was.error), str(was.error), was.ok)
    assert (was.earlier, now.earlier, now.raw) == (False, True, b"")


# ------------------------------------------------------------------------------------------- what goes on

EIGHTHS = st.integers(0, 10_000).map(lambda eighths: eighths / 8)


@settings(deadline=None)
@given(since=EIGHTHS, noted=EIGHTHS, later=EIGHTHS)
def test_a_running_task_keeps_its_age_in_a_later_process(since: float, noted: float, later: float) -> None:
    """A task's age counts from its acceptance on, whatever another process's clock began at."""
    entry = entry_of(make_job(Running("t1", since=since)), since + noted, EPOCH)
    assert entry is not None
    down = 40.0
    epoch, now = EPOCH + since + noted + down - later, later
    job = resumed(entry, blank(deadline=300.0), now, epoch)
    assert isinstance(job.state, Running)
    assert now - job.state.since == noted + down
    assert (job.task_id, job.expires_at) == ("t1", now + 300.0)


@pytest.mark.parametrize("accepted_at", [None, AT + 5.0, AT + 1e6])
def test_a_task_without_a_known_past_begins_now(accepted_at: float | None) -> None:
    """A task whose acceptance is not known, or lies in the future of a clock that was set back, is new now."""
    job = resumed(record_in("running", task_id="t1", accepted_at=accepted_at), blank(), NOW, EPOCH)
    assert job.state == Running("t1", since=NOW)


@pytest.mark.parametrize("state", ["ready", "done"])
def test_a_picture_that_is_not_on_disk_is_fetched_by_a_later_run(state: str) -> None:
    """A ready job, or a done one without its files, is fetched from its first links, and is done where nothing is."""
    entry = record_in(state, task_id="t1", urls=SUCCESS.urls, latency=13.5, credits=8.0, **COUNTS)
    outcome = Succeeded(SUCCESS.urls, 13.5, 8.0, b"")
    saved = resumed(entry, blank(save_to="out"), NOW, EPOCH)
    assert saved.state == Ready("t1", outcome, Links.FIRST)
    assert resumed(entry, blank(), NOW, EPOCH).state == Done("t1", outcome)
    assert (saved.attempts, saved.retried, saved.lost, saved.lost_creates) == (3, 1, 1, (2,))


def test_what_goes_on_is_the_record_s_request_under_its_own_key_and_place() -> None:
    """A job that goes on has the record's key, place and request, and this run's id, owner, retries and folder."""
    entry = record_in("running", task_id="t1", accepted_at=AT)
    job = resumed(entry, blank(retries=2, save_to="out", request=ImageRequest("a blue fox")), NOW, EPOCH)
    assert (job.key, job.index, job.request) == ("fox", 4, entry.request)
    assert (job.id, job.owner, job.retries, job.save_to) == (77, 7, 2, "out")


@pytest.mark.parametrize("state", ["queued", "failed", "unknown"])
def test_a_record_that_may_be_sent_again_begins_anew(state: str) -> None:
    """It is queued anew, its creates stay counted, only a queued one keeps its retries, and a held one is sent once."""
    error = EntryError("UnknownOutcome", "lost", 502) if state == "unknown" else None
    entry = record_in(state, task_id="t1" if state == "failed" else None, price=8.0, error=error, **COUNTS)
    job = sent_again(entry, blank(retries=1, resubmits=1))
    assert isinstance(job.state, Queued)
    assert (job.key, job.index, job.expires_at) == ("fox", 4, None)
    assert (job.attempts, job.lost, job.lost_creates) == (3, 1, (2,))
    assert job.retried == (1 if state == "queued" else 0)
    assert job.resubmits == (0 if state == "unknown" else 1)
    assert isinstance(job.state.held, UnknownOutcome) == (state == "unknown")


TWO_WAYS = Route((Offer("kie", make_job().model), Offer("mine", make_job().model, rank=1)))


@pytest.mark.parametrize("state", ["queued", "failed"])
def test_what_made_nothing_or_failed_may_go_to_any_account_again(state: str) -> None:
    """A record that was never taken, or whose task is known to have failed, binds the next create to no account."""
    entry = record_in(state, account="mine", task_id="t1" if state == "failed" else None)
    assert sent_again(entry, blank(route=TWO_WAYS)).way == TWO_WAYS


@pytest.mark.parametrize(("account", "accounts"), [("kie", ["kie"]), ("mine", ["mine"]), ("another", ["kie", "mine"])])
def test_a_held_job_goes_to_its_own_account_again(account: str, accounts: list[str]) -> None:
    """Only where its task may be can anybody tell two for one; where that account is gone, the others are left."""
    entry = cut_off(record_in("submitting", account=account, sent_at=AT, price=8.0))
    job = sent_again(entry, blank(route=TWO_WAYS))
    assert [offer.account for offer in job.way.offers] == accounts
    alone = sent_again(entry, blank())
    assert [offer.account for offer in alone.way.offers] == ["kie"]


@pytest.mark.parametrize(
    "event", ["Rejected STOP", "Rejected CLOSE_MODEL", "SendAborted", "SendAborted unnoted", "Lost"]
)
def test_a_held_job_that_is_sent_again_by_a_later_run_stays_held(event: str) -> None:
    """Its second create that is turned away, not sent or lost leaves it unknown, with all that it may have cost."""
    held = cut_off(record_in("submitting", price=8.0, attempts=1, sent_at=AT))
    job = transitions.start(sent_again(held, blank(resubmits=1)), NOW)
    ended = transitions.advance(job, EVENTS[event](), NOW)
    if event in ("Rejected STOP", "Rejected CLOSE_MODEL"):
        assert isinstance(ended.state, Queued)
        waiting = entry_of(ended, NOW, EPOCH)
        assert waiting is not None
        assert (waiting.state, waiting.lost) == ("unknown", 1), "a crash before another account takes it"
        assert ended.state.error is not None
        ended = ended.to(transitions.unwanted(ended, {"kie": ended.state.error}))
    assert isinstance(ended.state, Unknown)
    entry = entry_of(ended, NOW, EPOCH)
    assert entry is not None
    assert (entry.state, entry.lost) == ("unknown", 2 if event == "Lost" else 1)
    assert entry.at_risk == 8.0 * entry.lost


@pytest.mark.parametrize(
    ("lost", "price", "said"), [(0, 8.0, "8 credits"), (1, 8.0, "16 cred"), (0, None, "unknown p")]
)
def test_a_create_on_the_way_when_its_process_died_is_unknown(lost: int, price: float | None, said: str) -> None:
    """It may have made a task: it is held since it was sent, counted as lost, and says what it may have cost."""
    lost_creates = (1,) * lost
    counts = {"lost": lost, "lost_creates": lost_creates, "attempts": 2, "retried": 1}
    entry = cut_off(record_in("submitting", sent_at=AT, price=price, **counts))
    assert entry.lost_creates == (*lost_creates, 2)
    assert (entry.state, entry.lost, entry.ended_at, entry.sent_at) == ("unknown", lost + 1, AT, AT)
    assert (entry.attempts, entry.retried, entry.task_id) == (2, 1, None)
    error = error_of(entry)
    assert isinstance(error, UnknownOutcome)
    assert said in error.message
    assert error.credits == entry.at_risk == (None if price is None else price * (lost + 1))


# ------------------------------------------------------------------------------------------ held for a callback


@pytest.mark.parametrize("before", [None, HELD])
def test_what_a_callback_told_early_outlives_a_crash(before: UnknownOutcome | None) -> None:
    """A create on its way of which a callback has told is remembered as lost, with its task: nobody calls again."""
    counts: dict[str, Any] = COUNTS if before else {"attempts": 3}
    entry = record_of_state(Submitting(before, told="t9", create=3), **counts)
    lost_creates = (2, 3) if before else (3,)
    assert entry is not None
    assert (entry.state, entry.task_id, entry.attempts) == ("unknown", "t9", 3)
    assert (entry.lost, entry.lost_creates) == (len(lost_creates), lost_creates)
    error = error_of(entry)
    assert isinstance(error, UnknownOutcome)
    assert (error.task_id, error.credits, bill_of(entry).total) == ("t9", 8 * entry.lost, 8 * entry.lost)
    assert f"{8 * entry.lost} credits" in error.message


@pytest.mark.parametrize("event", ["Accepted", "Lost", "ConnectFailed", "Rejected BACK_OFF", "Rejected FAIL"])
def test_the_answer_to_a_create_that_was_told_of_counts_it_once(event: str) -> None:
    """Whatever came after the callback, the create is among the lost ones once, or not at all where it was accepted."""
    job = make_job(Submitting(told="t1", create=1), attempts=1)
    after = entry_of(transitions.advance(job, EVENTS[event](), NOW), NOW, EPOCH)
    assert after is not None
    is_accepted = event == "Accepted"
    assert (after.state, after.task_id) == ("running" if is_accepted else "unknown", "t1")
    assert (after.lost, after.lost_creates) == ((0, ()) if is_accepted else (1, (1,)))


SAME = ("key", "position", "state", "account", "request", "task_id", "price", "attempts", "retried")


@pytest.mark.parametrize("task_id", [None, "t1"])
def test_a_held_job_of_an_earlier_run_waits_on(task_id: str | None) -> None:
    """It waits for its callback from its create on, one that was told of a minute at least, and its record stays."""
    for lost_creates, ago in itertools.product(((1,), (1, 3), ()), (0.0, 5.0, 500.0)):
        with naming(lost_creates, ago):
            counts = {"attempts": 3, "retried": 1, "lost": 2, "lost_creates": lost_creates}
            error = EntryError("UnknownOutcome", "lost", 502)
            entry = record_in(
                "unknown", task_id=task_id, price=8.0, error=error, sent_at=AT - ago, ended_at=AT, **counts
            )
            job = held(entry, blank(deadline=300.0, retries=1), NOW, EPOCH, 40.0)
            assert isinstance(job.state, Held)
            until = NOW - ago + 40.0
            assert job.state.until == (until if task_id is None else max(until, NOW + 60.0))
            assert (job.state.since, job.state.told, job.state.denied_at) == (NOW - ago, task_id, None)
            assert (job.id, job.owner, job.retries, job.resubmits, job.expires_at) == (77, 7, 1, 0, NOW + 300.0)
            assert (job.lost, job.lost_creates, job.task_id) == (2, lost_creates, None)
            again = entry_of(job, NOW, EPOCH)
            assert again is not None
            for name in (*SAME, "lost", "lost_creates", "error"):
                assert getattr(again, name) == getattr(entry, name), name
            ended = entry_of(transitions.expire(job), NOW, EPOCH)
            assert ended is not None
            for name in (*SAME, "lost", "lost_creates"):
                assert getattr(ended, name) == getattr(entry, name), name
            assert ended.error is not None
            assert ended.error.message.endswith("collect it. lost" if task_id else "lost")
            assert entry_of(transitions.expire(held(ended, blank(), NOW, EPOCH, 40.0)), NOW, EPOCH) == ended


@pytest.mark.parametrize("sent_at", [None, AT + 5.0])
def test_a_held_job_without_a_known_past_waits_from_now(sent_at: float | None) -> None:
    """A create whose time is not known, or lies in the future of a clock that was set back, counts from now."""
    entry = record_in("unknown", error=EntryError("UnknownOutcome", "lost"), lost=1, attempts=1, sent_at=sent_at)
    job = held(entry, blank(), NOW, EPOCH, 40.0)
    assert isinstance(job.state, Held)
    assert (job.state.since, job.state.until) == (NOW, NOW + 40.0)


@pytest.mark.parametrize(("event", "left"), [("Pending", (1,)), ("Succeeded", (1,)), ("TaskFailed", (1,))])
def test_a_crash_after_an_early_callback_loses_nothing(event: str, left: tuple[int, ...]) -> None:
    """What the next process makes of the record asks about the task that was told, which then is the job's own."""
    entry = record_of_state(Submitting(HELD, told="t9", create=2), attempts=2, lost=1, lost_creates=(1,))
    assert entry is not None
    job = held(msgspec.structs.replace(entry, sent_at=AT - 5.0), blank(), NOW, EPOCH, 0.0)
    moved = transitions.advance(job, EVENTS[event](), NOW)
    assert (moved.task_id, moved.lost, moved.lost_creates, moved.attempts) == ("t9", 1, left, 2)


@pytest.mark.parametrize("state", ["running", "ready", "queued", "failed", "unknown"])
def test_lost_creates_go_on_with_the_job(state: str) -> None:
    """A job that goes on, or is sent again, knows which of its creates were lost, so that a callback finds it."""
    error = EntryError("UnknownOutcome", "lost") if state == "unknown" else None
    entry = record_in(state, task_id="t1" if state in ("running", "ready") else None, error=error, **COUNTS)
    goes_on = state in ("running", "ready")
    job = resumed(entry, blank(), NOW, EPOCH) if goes_on else sent_again(entry, blank())
    assert (job.lost, job.lost_creates) == (1, (2,))
    told = transitions.told(job, 2, "t9", NOW)
    assert isinstance(told.state, Held) != goes_on, "its task is told: it is not paid again"


# ----------------------------------------------------------------------------------------------------- bills

# State, credits, price, lost, whether there is a task; what is open, and what it has cost or may have in all.
BILLS: list[tuple[str, float | None, float | None, int, bool, float, float]] = [
    ("queued", None, 8.0, 0, False, 0, 0),
    ("queued", 4.0, 8.0, 0, False, 0, 4),
    ("queued", None, 8.0, 2, False, 0, 16),
    ("queued", None, None, 1, False, 0, 0),
    ("running", None, 8.0, 0, True, 8, 8),
    ("running", 4.0, 8.0, 1, True, 8, 20),
    ("running", None, None, 0, True, 0, 0),
    ("ready", 8.0, 8.0, 0, True, 0, 8),
    ("ready", 5.0, 8.0, 0, True, 0, 5),
    ("ready", 0.0, 8.0, 0, True, 0, 0),
    ("ready", None, 8.0, 0, True, 0, 8),
    ("ready", 12.0, 8.0, 1, True, 0, 20),
    ("submitting", None, 8.0, 1, False, 0, 16),
    ("done", 8.0, 8.0, 0, True, 0, 8),
    ("done", 0.0, 8.0, 0, True, 0, 0),
    ("done", None, 8.0, 1, True, 0, 16),
    ("failed", None, 8.0, 0, False, 0, 0),
    ("failed", 0.0, 8.0, 0, True, 0, 0),
    ("failed", 2.0, 8.0, 0, True, 0, 2),
    ("failed", None, 8.0, 0, True, 0, 8),
    ("unknown", None, 8.0, 1, False, 0, 8),
    ("unknown", 4.0, 8.0, 2, False, 0, 20),
]


def test_a_bill_is_what_was_billed_or_may_have_been() -> None:
    """What the provider told counts; where it tells nothing, and for each lost create, the price does."""
    for state, credits, price, lost, has_task, still_open, total in BILLS:
        with naming(state, credits, price, lost, has_task, still_open, total):
            bill = Bill(state, credits, price, lost, has_task)
            assert (bill.open, bill.total) == (still_open, total)
            entry = record_in(state, credits=credits, price=price, lost=lost, task_id="t1" if has_task else None)
            assert bill_of(entry) == bill


KNOWN_BILLS = [
    ("queued", None, 0, False, True),
    ("queued", None, 1, False, False),
    ("running", None, 0, True, False),
    ("done", 5.0, 0, True, True),
    ("done", None, 0, True, False),
    ("failed", None, 0, False, True),
    ("unknown", 5.0, 1, False, False),
]


def test_a_bill_says_whether_anybody_knows_it() -> None:
    """With a price it is always known; without one, only where no task was made of which nothing was told."""
    for state, credits, lost, has_task, is_known in KNOWN_BILLS:
        with naming(state, credits, lost, has_task, is_known):
            assert Bill(state, credits, None, lost, has_task).is_known == is_known
            assert Bill(state, credits, 8.0, lost, has_task).is_known


AT_WORK = ("running", "ready", "ready, asked again", "ready, renewed", "done", "left running", "left ready")


def test_the_record_of_every_state_has_its_bill() -> None:
    """A task that exists counts its price or what was told, an earlier loss a price more, and what failed its word."""
    for name in (name for name in ROWS if not name.startswith("submitting")):
        with naming(name):
            entry = record_of_state(ROWS[name][0], **COUNTS, spent=2.0)
            assert entry is not None
            bill = bill_of(entry)
            assert bill.total == 2 + 8 + 8 * (name in AT_WORK)
            assert bill.open == (8 if entry.state == "running" else 0)


# ------------------------------------------------------------------------------------------ models and changes


def test_a_model_that_is_still_known_is_taken_as_it_is_now_at_the_price_of_then() -> None:
    """The table of models wins over what a record says of its model, but its task was made at the record's price."""
    known = make_job().model
    assert model_of(record_in("running", price=99.0), known) == msgspec.structs.replace(known, credits=99.0)
    assert model_of(record_in("running"), known) is known


@pytest.mark.parametrize(("num_images", "price"), [(None, 8.0), (1, 8.0), (3, 12.0), (None, None)])
def test_a_model_that_is_gone_keeps_its_name_and_price(num_images: int | None, price: float | None) -> None:
    """A request for a model of which this version has no record costs what its record says, whatever its pictures."""
    request = ImageRequest("a red fox", model="imagen3", num_images=num_images)
    model = model_of(record_in("running", request=request, price=price), None)
    assert isinstance(model, Model)
    assert (model.name, model.price(request)) == ("imagen3", price)


CHANGED = [
    ({"prompt": "a blue fox"}, 'prompt was "a red fox" and is "a blue fox" now'),
    ({"model": "imagen4-ultra"}, 'model was "imagen4" and is "imagen4-ultra" now'),
    ({"aspect_ratio": "16:9"}, 'aspect_ratio was "1:1" and is "16:9" now'),
    ({"seed": 7}, "seed was null and is 7 now"),
    ({"num_images": 2}, "num_images was null and is 2 now"),
    ({"negative_prompt": "cats"}, 'negative_prompt was null and is "cats" now'),
    ({"extra": {"a": 1}}, 'extra was {} and is {"a":1} now'),
]


def test_every_change_of_a_request_is_named() -> None:
    """Each parameter that another request has under the same key is named, with both values."""
    for change, said in CHANGED:
        with naming(change, said):
            entry = record_in("done")
            assert changes(entry, msgspec.structs.replace(entry.request, **change)) == [said]


def test_what_does_not_reach_the_provider_is_no_change() -> None:
    """A key and the order of extra's fields make no other picture."""
    request = ImageRequest("x", model="imagen4", extra={"a": 1, "b": [1, {"c": 2, "d": 3}]})
    other = msgspec.structs.replace(request, key="k", extra={"b": [1, {"d": 3, "c": 2}], "a": 1})
    assert changes(record_in("done", request=request), other) == []


@given(text=st.text(max_size=200))
def test_a_text_in_a_message_is_short(text: str) -> None:
    """A long prompt is cut, so that an error stays readable, and a short one is shown whole."""
    assert len(shown(text)) <= 60
    assert shown(text) == text or len(text) > 60


# --------------------------------------------------------------------------------- any events, and any crashes


class Request:
    """One request through any number of processes: what is on disk, what may be sent, and what the provider saw.

    Each process notes every step and makes the intent durable before a create goes, as the shell does; what it noted
    besides reaches the disk in order, and a crash loses some of the last.
    """

    def __init__(
        self,
        *,
        retries: int,
        resubmits: int,
        save_to: str | None,
        leave: frozenset[str],
        expects_callbacks: bool = False,
    ) -> None:
        self._terms = {"retries": retries, "resubmits": resubmits, "save_to": save_to}
        self._leave = leave
        self._expects_callbacks = expects_callbacks
        self.disk: JournalEntry | None = None
        self.unwritten: list[JournalEntry] = []
        self.job: Job | None = None
        self.now = 0.0
        self.epoch = EPOCH
        self.sent = 0
        self.may_be_billed = 0
        self.untaken = 0
        self.told: dict[str | None, float] = {}
        self.has_leave = True
        self.is_over: set[str | None] = {None}

    def write(self, count: int) -> None:
        """Some of what was noted reaches the disk."""
        for entry in self.unwritten[:count]:
            self._check_replaced(entry)
            kept = {} if entry.state == "submitting" or self.disk is None else self._times_kept(entry, self.disk)
            self.disk = msgspec.structs.replace(entry, **kept)
        del self.unwritten[:count]

    def crash(self, written: int) -> None:
        """The process ends: what was not written is forgotten, and a create on the way gets no answer."""
        if self.job is not None and isinstance(self.job.state, Submitting):
            self._spend()
            self.untaken += 1
        self.write(written)
        self.unwritten.clear()
        self.job = None
        self.epoch += self.now + 100.0
        self.now = 0.0

    def wake(self) -> None:
        """Look what there is to do: in a new process what the disk tells, else the next create."""
        if self.job is None:
            self.job = self.taken_up()
        elif isinstance(self.job.state, Queued):
            self.job = transitions.start(self.job, self.now)
            self.note()
            self.write(len(self.unwritten))
            self.sent += 1

    def happen(self, name: str) -> None:
        """Let an event happen to the job, if it fits."""
        job = self.job
        if job is None or (name_of(job.state), name) not in TABLE:
            return
        is_told = isinstance(job.state, Submitting) and job.state.told is not None
        if is_told and name.startswith("SendAborted"):
            return  # it has left, or nobody could have called
        if name in ("Accepted", "Lost") or is_told:
            self._spend()
        if name.startswith("SendAborted"):
            self.sent -= 1
        if name == "TaskFailed":
            self.is_over.add(job.task_id)
        if name == "Lost" or (is_told and name != "Accepted"):
            self.untaken += 1
        if isinstance(job.state, Held) and name in ("Pending", "Succeeded", "TaskFailed"):
            self.untaken -= 1
            assert job.state.told is not None
            self.told[job.state.told] = 0.0 if name == "TaskFailed" else 8.0
            self.is_over |= {job.state.told} if name == "TaskFailed" else set()
        if isinstance(job.state, Running) and job.state.finished is None and name in ("Succeeded", "TaskFailed"):
            self.told[job.task_id] = 8.0 if name == "Succeeded" else 0.0
        self.job = transitions.advance(job, self._event(name), self.now)
        if self._expects_callbacks:
            self.job = held_back(self.job)
        self.has_leave |= self.job.retried > job.retried or self.job.resubmits < job.resubmits
        self.note()

    def tell(self, which: str) -> None:
        """A callback comes, about the last create or the first: it takes the leave to send another one away."""
        job = self.job
        if not self._expects_callbacks or job is None:
            return
        create = {"last": job.attempts, "first": 1}[which]
        self.job = transitions.told(job, create, f"t{create}", self.now)
        if self.job is not job:
            self.has_leave &= not isinstance(job.state, Queued)
            self.note()

    def end(self, how: str) -> None:
        """The caller leaves, or the deadline comes."""
        job = self.job
        if job is not None and isinstance(job.state, Queued | Held | Running | Ready) and how == "leave":
            self.job = job.to(transitions.left(job))
        elif job is not None and isinstance(job.state, Queued | Held | Running) and job.expires_at is not None:
            self.job = transitions.expire(job)
        self.note()

    def note(self) -> None:
        """Note the job as it is, as the shell does after each step."""
        entry = None if self.job is None else entry_of(self.job, self.now, self.epoch)
        if entry is not None:
            self.unwritten.append(entry)

    def _event(self, name: str) -> Any:
        if name != "Accepted":
            return EVENTS[name]()
        self.told[f"t{self.sent}"] = 8.0
        return Accepted(f"t{self.sent}")

    def _spend(self) -> None:
        assert self.has_leave, "a create went that may be paid twice, and nobody gave leave"
        self.has_leave = False
        self.may_be_billed += 1

    def taken_up(self) -> Job | None:
        fresh = blank(**self._terms)
        if self.disk is None:
            assert self.sent == 0, "a create was sent, and nothing remembers it"
            return fresh
        if self.disk.state == "submitting":
            self.disk = cut_off(self.disk)
        entry = self.disk
        if entry.state in ("running", "ready"):
            return resumed(entry, fresh, self.now, self.epoch)
        if self._expects_callbacks and entry.state == "unknown" and (entry.task_id or "unknown" not in self._leave):
            return held(entry, fresh, self.now, self.epoch, 1e6)
        if entry.state == "queued" or entry.state in self._leave:
            self.has_leave |= entry.state != "queued"
            return sent_again(entry, fresh)
        return None

    def _check_replaced(self, entry: JournalEntry) -> None:
        before = self.disk
        if before is None or before.task_id in (*self.is_over, entry.task_id) or entry.state == "submitting":
            return
        assert before.state in self._leave, "a task's id is lost from the journal"

    def _times_kept(self, entry: JournalEntry, before: JournalEntry) -> dict[str, float | None]:
        return {name: getattr(before, name) for name in TIMES if getattr(entry, name) is None}


STEPS = st.one_of(
    *[st.tuples(st.just("wake"), st.just(""))] * 4,
    *[
        st.tuples(
            st.just("happen"), st.sampled_from(["Accepted", "Accepted", "Succeeded", "TaskFailed", "NotSaved gone"])
        )
    ]
    * 4,
    *[st.tuples(st.just("happen"), st.sampled_from(sorted(EVENTS)))] * 4,
    *[st.tuples(st.just("tell"), st.sampled_from(["last", "last", "first"]))] * 3,
    st.tuples(st.just("write"), st.integers(1, 3)),
    st.tuples(st.just("crash"), st.integers(0, 3)),
    st.tuples(st.just("end"), st.sampled_from(["leave", "expire"])),
    st.tuples(st.just("wait"), st.sampled_from([1.0, 31.0])),
)
LIVES = st.lists(STEPS, min_size=10, max_size=60)
TERMS = st.fixed_dictionaries(
    {
        "retries": st.integers(0, 2),
        "resubmits": st.integers(0, 1),
        "save_to": st.sampled_from([None, "out", "out"]),
        "expects_callbacks": st.booleans(),
    }
)
LEAVES = st.frozensets(st.sampled_from(["failed", "unknown"]))
MANY = settings(deadline=None, max_examples=200)


def lived(request: Request, steps: list[tuple[str, Any]]) -> None:
    """Play a whole script."""
    for what, detail in steps:
        match what:
            case "wake":
                request.wake()
            case "happen":
                request.happen(detail)
            case "tell":
                request.tell(detail)
            case "write":
                request.write(detail)
            case "crash":
                request.crash(detail)
            case "end":
                request.end(detail)
            case "wait":
                request.now += detail
        if request.job is not None and isinstance(request.job.state, Final):
            # The batch is over for it; another run may take it up from what is on disk.
            request.crash(len(request.unwritten))


@MANY
@given(steps=LIVES, terms=TERMS, leave=LEAVES)
def test_no_order_of_events_and_crashes_pays_twice_without_leave(
    steps: list[tuple[str, Any]], terms: dict[str, Any], leave: frozenset[str]
) -> None:
    """Between two creates that may be billed the caller gave leave: a retry, a resubmit, or a run that asks for it."""
    request = Request(**terms, leave=leave)
    lived(request, steps)
    if not leave:
        assert request.may_be_billed <= 1 + terms["retries"] + terms["resubmits"]


@MANY
@given(steps=LIVES, terms=TERMS, leave=LEAVES)
def test_no_order_of_events_and_crashes_loses_a_job_or_its_task(
    steps: list[tuple[str, Any]], terms: dict[str, Any], leave: frozenset[str]
) -> None:
    """Whatever was sent has a record, and a task id on disk stays there until a new create replaces a failed one."""
    request = Request(**terms, leave=leave)
    lived(request, steps)
    request.crash(0)
    if request.sent:
        assert request.disk is not None
    taken_up = request.taken_up()
    if request.may_be_billed and taken_up is not None and isinstance(taken_up.state, Queued):
        assert request.has_leave, "what may be billed is sent again without leave"


@MANY
@given(steps=LIVES, terms=TERMS, leave=LEAVES)
def test_no_order_of_events_and_crashes_hides_what_may_have_been_billed(
    steps: list[tuple[str, Any]], terms: dict[str, Any], leave: frozenset[str]
) -> None:
    """The bill on disk is never below the prices of lost creates and what was told, or not yet, of each task."""
    request = Request(**terms, leave=leave)
    lived(request, steps)
    request.crash(0)
    request.taken_up()
    if request.disk is not None:
        assert bill_of(request.disk).total >= 8 * request.untaken + sum(request.told.values())


@MANY
@given(steps=LIVES, terms=TERMS)
def test_a_finished_picture_is_never_made_again(steps: list[tuple[str, Any]], terms: dict[str, Any]) -> None:
    """From a record with URLs on nothing is created, whatever happens to its links and its processes."""
    request = Request(**terms, leave=frozenset({"unknown"}))
    request.disk = record_in("ready", task_id="t1", urls=SUCCESS.urls, attempts=1)
    request.has_leave = False
    lived(request, steps)
    assert (request.sent, request.disk.task_id, request.disk.urls) == (0, "t1", SUCCESS.urls)


def test_the_model_of_crashes_reaches_what_it_is_about() -> None:
    """A lost answer, a crash with a create on the way and a resumed task all come about in the model of a request."""
    request = Request(retries=0, resubmits=0, save_to="out", leave=frozenset({"unknown"}))
    lived(request, [("wake", ""), ("wake", ""), ("crash", 0), ("wake", "")])
    assert request.disk is not None
    assert (request.disk.state, request.disk.lost, request.may_be_billed) == ("unknown", 1, 1)
    lived(request, [("wake", ""), ("happen", "Accepted"), ("crash", 1), ("wake", "")])
    assert request.job is not None
    assert (type(request.job.state), request.job.task_id, request.job.lost) == (Running, "t2", 1)
    lived(request, [("happen", "Succeeded"), ("crash", 1), ("wake", ""), ("happen", "Saved")])
    assert (request.disk.state, request.disk.lost, request.may_be_billed) == ("done", 1, 2)
