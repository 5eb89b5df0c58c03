"""What a journal remembers of a job: an entry of each state, what a later run makes of it, and any order of crashes."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest
from builders import failure
from conftest import naming
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import CLAIM, EVENTS, FILE, GONE, LOST_BEFORE, NOW, STATES, SUCCESS, can_meet, job_in

from imagen_async import errors
from imagen_async._core.failure import Failure
from imagen_async._core.job import Job
from imagen_async._core.job_events import CallbackNamed, Event, OwnerGone
from imagen_async._core.journal_entry import Bill, EntryError, JournalEntry, bill_of, cut_off, entry_of, failure_of
from imagen_async._core.machine import advance
from imagen_async._core.model import Model
from imagen_async._core.resuming import awaited, changes, earlier_result, model_of, resumed, sent_again, shown
from imagen_async._core.routing import Offer, Route
from imagen_async._core.states import (
    AwaitingCallback,
    Claim,
    Claimed,
    Confirming,
    Done,
    Ended,
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
from imagen_async._core.values import ImageRequest
from imagen_async._core.wire import Accepted, ConnectFailed, Lost, Pending, Rejected, Succeeded, TaskFailed
from imagen_async._core.wording import result_of
from imagen_async.errors import (
    AuthenticationError,
    DeadlineExceeded,
    DownloadFailed,
    GenerationFailed,
    ImagenError,
    InsufficientCredits,
    InvalidRequest,
    ProtocolError,
    RateLimited,
    TransportError,
    UnknownOutcome,
)

EPOCH = 1_700_000_000.0
AT = EPOCH + NOW
BROKEN = TaskFailed(failure(GenerationFailed, "too dark", code="501"), 2.0, b"{}")
PAID = TaskFailed(failure(GenerationFailed, "no picture", code="no_urls"), 8.0, b"{}")
COUNTS: dict[str, Any] = {"attempts": 3, "retried": 1, "lost": 1, "lost_creates": (2,)}


def remembered(state: State | str, **fields: Any) -> JournalEntry | None:
    """What is remembered of a job in this state."""
    return entry_of(job_in(state, **fields), NOW, EPOCH)


def entry_in(state: str, **fields: Any) -> JournalEntry:
    """An entry as a journal has it."""
    request = ImageRequest("a red fox", model="imagen4", aspect_ratio="1:1")
    return JournalEntry(**{"key": "fox", "position": 4, "state": state, "account": "kie", "request": request, **fields})


def blank(**fields: Any) -> Job:
    """The job as a later run would make it."""
    return msgspec.structs.replace(job_in("Queued", expires_at=None), **{"id": 77, "owner": 7, "index": 9, **fields})


def ended_by(kind: type[ImagenError], task_id: str | None = "t1", cause: Failure | None = None) -> Failure:
    """Why a job of kie.ai's came to nothing."""
    return failure(kind, "what happened", account="kie", task_id=task_id, code=7, cause=cause)


# --------------------------------------------------------------------------------------- an entry of each state

Row = tuple[State, str, str | None, tuple[str, ...], dict[str, float]]
ROWS: dict[str, Row] = {
    "queued after a 429": (Queued(failure(RateLimited, "429")), "queued", None, (), {}),
    "queued for a retry": (STATES["Queued after a failure"], "failed", None, (), {"ended_at": AT}),
    "queued after a loss": (STATES["Queued after a loss"], "unknown", None, (), {"ended_at": AT}),
    "noting": (Noting(), "submitting", None, (), {"sent_at": AT}),
    "noting after a loss": (Noting(LOST_BEFORE), "submitting", None, (), {"sent_at": AT}),
    "awaiting a callback": (STATES["AwaitingCallback"], "unknown", None, (), {"ended_at": AT}),
    "confirming": (STATES["Confirming"], "unknown", "t1", (), {"ended_at": AT}),
    "running": (STATES["Running"], "running", "t1", (), {"accepted_at": AT - 10}),
    "collected": (STATES["Collected"], "running", "t1", (), {"accepted_at": AT - 10}),
    "doubted": (STATES["Doubted"], "running", "t1", (), {"accepted_at": AT - 10}),
    "fetching": (STATES["Fetching"], "ready", "t1", SUCCESS.urls, {}),
    "fetching, asked again": (STATES["Fetching asked again"], "ready", "t1", SUCCESS.urls, {}),
    "fetching, renewed": (STATES["Fetching renewed"], "ready", "t1", SUCCESS.urls, {}),
    "done": (Done("t1", SUCCESS, (FILE,)), "done", "t1", SUCCESS.urls, {"ended_at": AT}),
    "unknown": (Unknown(LOST_BEFORE), "unknown", None, (), {"ended_at": AT}),
    "unknown, named": (Unknown(failure(UnknownOutcome, "lost", task_id="t1")), "unknown", "t1", (), {"ended_at": AT}),
    "not admitted": (NotAdmitted(failure(InsufficientCredits, "empty")), "queued", None, (), {}),
    "left queued": (Left(Queued(failure(RateLimited, "429"))), "queued", None, (), {}),
    "left running": (Left(Running("t1", since=NOW - 10)), "running", "t1", (), {"accepted_at": AT - 10}),
    "left fetching": (Left(Fetching("t1", SUCCESS)), "ready", "t1", SUCCESS.urls, {}),
}
TIMES = ("sent_at", "accepted_at", "ended_at")


@pytest.mark.parametrize(("state", "name", "task_id", "urls", "times"), ROWS.values(), ids=list(ROWS))
def test_every_state_has_its_entry(
    state: State, name: str, task_id: str | None, urls: tuple[str, ...], times: dict[str, float]
) -> None:
    """Each state is remembered with its task, its URLs and its times in Unix seconds, and a job left as what it was."""
    entry = remembered(state, **COUNTS)
    assert entry is not None
    assert (entry.state, entry.task_id, entry.urls) == (name, task_id, urls)
    assert {each: getattr(entry, each) for each in TIMES if getattr(entry, each) is not None} == times
    assert (entry.attempts, entry.retried, entry.lost, entry.lost_creates) == (3, 1, 1, (2,))
    assert (entry.key, entry.position, entry.account, entry.price) == ("fox", 4, "kie", 8)


FAILURES: dict[str, tuple[Failure, Succeeded | TaskFailed | None, str, str | None]] = {
    "refused": (ended_by(InvalidRequest, None), None, "failed", None),
    "no such task": (ended_by(InvalidRequest), None, "running", "t1"),
    "too late, with a task": (ended_by(DeadlineExceeded), None, "running", "t1"),
    "wrong key while polling": (ended_by(AuthenticationError), None, "running", "t1"),
    "server never reached": (ended_by(TransportError), None, "running", "t1"),
    "not understood": (ended_by(ProtocolError), None, "running", "t1"),
    "too late, never accepted": (ended_by(DeadlineExceeded, None, failure(RateLimited, "429")), None, "queued", None),
    "too late for a retry": (ended_by(DeadlineExceeded, None, failure(GenerationFailed, "dark")), None, "failed", None),
    "broken": (ended_by(GenerationFailed), BROKEN, "failed", "t1"),
    "no urls": (ended_by(GenerationFailed), PAID, "failed", "t1"),
    "left before its retry": (ended_by(GenerationFailed), None, "failed", "t1"),
    "not fetched": (ended_by(DownloadFailed), SUCCESS, "ready", "t1"),
    "not fetched for the network": (ended_by(TransportError), SUCCESS, "ready", "t1"),
    "too late while asked again": (ended_by(DeadlineExceeded), SUCCESS, "ready", "t1"),
    "gone": (GONE.about(task_id="t1"), SUCCESS, "failed", "t1"),
}


@pytest.mark.parametrize(("why", "outcome", "name", "task_id"), FAILURES.values(), ids=list(FAILURES))
def test_a_failed_job_is_remembered_by_what_is_true_at_the_provider(
    why: Failure, outcome: Succeeded | TaskFailed | None, name: str, task_id: str | None
) -> None:
    """A task that may still finish is running, a picture that is there is ready, a create never taken is queued."""
    entry = remembered(Failed(why, outcome), attempts=1)
    assert entry is not None
    assert (entry.state, entry.task_id) == (name, task_id)
    assert entry.error == EntryError(why.kind.__name__, why.message, why.code)
    assert entry.urls == (SUCCESS.urls if outcome is SUCCESS else ())


@pytest.mark.parametrize(
    ("outcome", "credits"), [(SUCCESS, 8), (Succeeded(("u",), 1.0, 5.0, b""), 5.0), (BROKEN, 2.0), (PAID, 8.0)]
)
def test_what_was_billed_is_remembered(outcome: Succeeded | TaskFailed, credits: float) -> None:
    """The provider's word on the credits is kept, also of a failed task; a picture without one costs its price."""
    is_done = isinstance(outcome, Succeeded)
    entry = remembered(Done("t1", outcome) if is_done else Failed(outcome.failure.about(task_id="t1"), outcome))
    assert entry is not None
    assert entry.credits == credits


@pytest.mark.parametrize("why", [failure(DownloadFailed, "502"), GONE])
def test_files_that_were_saved_are_remembered_beside_the_failure(why: Failure) -> None:
    """Of several pictures, those on disk stay in the entry of a job whose others could not be fetched."""
    entry = remembered(Failed(why.about(task_id="t1"), SUCCESS, (FILE,)), attempts=1)
    assert entry is not None
    assert (entry.files, entry.urls, entry.latency) == ((FILE,), SUCCESS.urls, 13.5)


@pytest.mark.parametrize("state", [Queued(), Left(Queued())])
def test_a_job_that_was_never_sent_has_no_entry(state: State) -> None:
    """A queued job that was never handed out is nothing to remember: the input has it."""
    assert remembered(state, expires_at=None) is None


@pytest.mark.parametrize("was", [STATES["Relinking"], Left(Relinking("t1", since=NOW, outcome=SUCCESS))])
def test_a_job_whose_links_died_stays_ready_in_the_journal(was: State) -> None:
    """While a finished task is asked about again nothing new is known: no entry replaces the one with its URLs."""
    assert remembered(was, attempts=1) is None


def test_a_create_that_was_withheld_takes_its_entry_back() -> None:
    """A create that was noted and not sent, for its caller left, is noted as queued, or it would be taken for lost."""
    entry = entry_of(advance(job_in("Noting"), EVENTS["OwnerLeft"], NOW), NOW, EPOCH)
    assert entry is not None
    assert (entry.state, entry.attempts) == ("queued", 0)


def test_a_create_whose_intent_could_not_be_noted_is_queued_with_the_reason() -> None:
    """What the journal could not take at first is remembered as queued once it can be written again."""
    entry = entry_of(advance(job_in("Noting"), EVENTS["SendAborted unnoted"], NOW), NOW, EPOCH)
    assert entry is not None
    assert (entry.state, entry.attempts) == ("queued", 0)
    assert entry.error == EntryError("JournalError", "the disk is full")


def test_while_a_create_is_on_the_way_its_intent_is_what_is_known() -> None:
    """The entry was made before it left; neither its leaving nor that its caller leaves adds to it."""
    for state in (Sending(), Sending(LOST_BEFORE), Orphaned(), Orphaned(fallback=LOST_BEFORE)):
        with naming(state):
            assert remembered(state) is None


@pytest.mark.parametrize("event", ["OwnerLeft", "NobodyTakes", "OverBudget"])
def test_a_failed_job_that_was_to_be_paid_again_and_was_not_sent_stays_as_it_was(event: str) -> None:
    """A run that ends before it sends an earlier failure again leaves its entry alone: task, error and credits."""
    earlier = entry_in("failed", task_id="t1", error=EntryError("GenerationFailed", "no picture"), attempts=1)
    entry = entry_of(advance(sent_again(earlier, blank()), EVENTS[event], NOW), NOW, EPOCH)
    assert entry is None or (entry.state, entry.task_id) == ("failed", "t1")


# ---------------------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize("task_id", [None, "t1"])
def test_a_failure_comes_back_as_it_was(task_id: str | None) -> None:
    """The error of an entry has the kind, the message, the code, the account and the task that it had."""
    names = [name for name in errors.__all__ if name != "UnknownOutcome"]
    for name, code in itertools.product(names, (None, 422, "SENSITIVE")):
        with naming(name, code):
            why = failure(getattr(errors, name), "what happened", account="kie", task_id=task_id, code=code)
            entry = remembered(Failed(why, BROKEN), attempts=1)
            assert entry is not None
            assert failure_of(msgspec.json.decode(msgspec.json.encode(entry), type=JournalEntry)) == why


@pytest.mark.parametrize("lost", [1, 2])
def test_an_unknown_outcome_comes_back_with_what_it_may_have_cost(lost: int) -> None:
    """Each lost create may have cost a task's price, and the failure of the entry says how much in all."""
    job = advance(job_in("Sending", lost=lost - 1), EVENTS["Lost"], NOW)
    assert isinstance(job.state, Unknown)
    entry = entry_of(job, NOW, EPOCH)
    assert entry is not None
    back = failure_of(entry)
    assert back == msgspec.structs.replace(job.state.failure, cause=None)
    assert back.credits == entry.at_risk == 8 * lost


def test_an_error_of_a_class_that_is_not_known_is_still_an_error() -> None:
    """An entry that a later version wrote names a class that is missing here, and reads as the root of the tree."""
    back = failure_of(entry_in("failed", error=EntryError("QuotaMovedAway", "what happened", 7)))
    assert back == failure(ImagenError, "what happened", code=7, account="kie")


@pytest.mark.parametrize("state", ["queued", "running", "done"])
def test_an_entry_without_an_error_has_none(state: str) -> None:
    """No error was, and none comes back."""
    assert failure_of(entry_in(state)) is None


ENDS: list[State] = [
    Done("t1", SUCCESS, (FILE,)),
    Done("t1", SUCCESS),
    Failed(ended_by(GenerationFailed), BROKEN),
    Failed(ended_by(GenerationFailed), PAID),
    Failed(ended_by(InvalidRequest, None)),
    Failed(GONE.about(account="kie", task_id="t1"), SUCCESS, (FILE,)),
    Unknown(failure(UnknownOutcome, "lost", credits=8, account="kie")),
]


@pytest.mark.parametrize("state", ENDS, ids=lambda state: type(state).__name__)
def test_an_earlier_result_is_the_result_that_it_was(state: State) -> None:
    """A job that an earlier run ended gives the same result, but for the raw answer, and is marked as earlier."""
    job = job_in(state, lost=int(isinstance(state, Unknown)))
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
    entry = entry_of(job_in(Running("t1", since=since)), since + noted, EPOCH)
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
    job = resumed(entry_in("running", task_id="t1", accepted_at=accepted_at), blank(), NOW, EPOCH)
    assert job.state == Running("t1", since=NOW)


@pytest.mark.parametrize("state", ["ready", "done"])
def test_a_picture_that_is_not_on_disk_is_fetched_by_a_later_run(state: str) -> None:
    """A ready job, or a done one without its files, is fetched from its first links, and is done where nothing is."""
    entry = entry_in(state, task_id="t1", urls=SUCCESS.urls, latency=13.5, credits=8.0, **COUNTS)
    outcome = Succeeded(SUCCESS.urls, 13.5, 8.0, b"")
    saved = resumed(entry, blank(save_to="out"), NOW, EPOCH)
    assert saved.state == Fetching("t1", outcome, Links.FIRST)
    assert resumed(entry, blank(), NOW, EPOCH).state == Done("t1", outcome)
    assert (saved.attempts, saved.retried, saved.lost, saved.lost_creates) == (3, 1, 1, (2,))


def test_what_goes_on_is_the_entry_s_request_under_its_own_key_and_place() -> None:
    """A job that goes on has the entry's key, place and request, and this run's id, owner, retries and folder."""
    entry = entry_in("running", task_id="t1", accepted_at=AT)
    job = resumed(entry, blank(retries=2, save_to="out", request=ImageRequest("a blue fox")), NOW, EPOCH)
    assert (job.key, job.index, job.request) == ("fox", 4, entry.request)
    assert (job.id, job.owner, job.retries, job.save_to) == (77, 7, 2, "out")


@pytest.mark.parametrize("state", ["queued", "failed", "unknown"])
def test_an_entry_that_may_be_sent_again_begins_anew(state: str) -> None:
    """It is queued anew, its creates stay counted, only a queued one keeps its retries, and a lost one is sent once."""
    error = EntryError("UnknownOutcome", "lost", 502) if state == "unknown" else None
    entry = entry_in(state, task_id="t1" if state == "failed" else None, price=8.0, error=error, **COUNTS)
    job = sent_again(entry, blank(retries=1, resubmits=1))
    assert isinstance(job.state, Queued)
    assert (job.key, job.index, job.expires_at) == ("fox", 4, None)
    assert (job.attempts, job.lost, job.lost_creates) == (3, 1, (2,))
    assert job.retried == (1 if state == "queued" else 0)
    assert job.resubmits == (0 if state == "unknown" else 1)
    assert job.state.fallback == (None if state == "queued" else failure_of(entry))


TWO_WAYS = Route((Offer("kie", job_in("Queued").model), Offer("mine", job_in("Queued").model, rank=1)))


@pytest.mark.parametrize("state", ["queued", "failed"])
def test_what_made_nothing_or_failed_may_go_to_any_account_again(state: str) -> None:
    """An entry that was never taken, or whose task is known to have failed, binds the next create to no account."""
    entry = entry_in(state, account="mine", task_id="t1" if state == "failed" else None)
    assert sent_again(entry, blank(route=TWO_WAYS)).way == TWO_WAYS


@pytest.mark.parametrize(("account", "accounts"), [("kie", ["kie"]), ("mine", ["mine"]), ("another", ["kie", "mine"])])
def test_a_lost_job_goes_to_its_own_account_again(account: str, accounts: list[str]) -> None:
    """Only where its task may be can anybody tell two for one; where that account is gone, the others are left."""
    entry = cut_off(entry_in("submitting", account=account, sent_at=AT, price=8.0))
    job = sent_again(entry, blank(route=TWO_WAYS))
    assert [offer.account for offer in job.way.offers] == accounts
    alone = sent_again(entry, blank())
    assert [offer.account for offer in alone.way.offers] == ["kie"]


@pytest.mark.parametrize(
    "events",
    [
        ("Leaves", "Rejected STOP"),
        ("Leaves", "Rejected CLOSE_MODEL"),
        ("SendAborted",),
        ("SendAborted unnoted",),
        ("Unsendable",),
        ("Leaves", "Lost"),
    ],
)
def test_a_lost_job_that_is_sent_again_by_a_later_run_stays_lost(events: tuple[str, ...]) -> None:
    """Its second create that is turned away, not sent or lost leaves it unknown, with all that it may have cost."""
    lost = cut_off(entry_in("submitting", price=8.0, attempts=1, sent_at=AT))
    job = sent_again(lost, blank(resubmits=1))
    for event in ("Taken", *events):
        job = advance(job, EVENTS[event], NOW)
    entry = entry_of(job, NOW, EPOCH)
    assert entry is not None
    assert (entry.state, entry.lost) == ("unknown", 2 if "Lost" in events else 1), "whatever crash comes now"
    assert entry.at_risk == 8.0 * entry.lost
    ended = advance(job, EVENTS["NobodyTakes"], NOW) if isinstance(job.state, Queued) else job
    assert isinstance(ended.state, Unknown)
    assert entry_of(ended, NOW, EPOCH) == entry


@pytest.mark.parametrize(
    ("lost", "price", "said"), [(0, 8.0, "8 credits"), (1, 8.0, "16 cred"), (0, None, "unknown p")]
)
def test_a_create_on_the_way_when_its_process_died_is_unknown(lost: int, price: float | None, said: str) -> None:
    """It may have made a task: it is unknown since it was sent, counted as lost, and says what it may have cost."""
    lost_creates = (1,) * lost
    counts = {"lost": lost, "lost_creates": lost_creates, "attempts": 2, "retried": 1}
    entry = cut_off(entry_in("submitting", sent_at=AT, price=price, **counts))
    assert entry.lost_creates == (*lost_creates, 2)
    assert (entry.state, entry.lost, entry.ended_at, entry.sent_at) == ("unknown", lost + 1, AT, AT)
    assert (entry.attempts, entry.retried, entry.task_id) == (2, 1, None)
    why = failure_of(entry)
    assert why is not None
    assert (why.kind, said in why.message) == (UnknownOutcome, True)
    assert why.credits == entry.at_risk == (None if price is None else price * (lost + 1))


# ------------------------------------------------------------------------------------ lost, and named by a callback


@pytest.mark.parametrize("kind", [Claimed, Orphaned])
def test_what_a_callback_named_early_outlives_a_crash(kind: type[Claimed | Orphaned]) -> None:
    """A create on its way whose task a callback named is remembered as lost, with that task: nobody calls again."""
    for before, create in ((None, 3), (LOST_BEFORE, 3), (LOST_BEFORE, 2)):
        with naming(before, create):
            entry = remembered(kind(Claim(create, "t9"), before), **(COUNTS if before else {"attempts": 3}))
            lost_creates = (3,) if before is None else (2, 3) if create == 3 else (3, 2)
            assert entry is not None
            assert (entry.state, entry.task_id, entry.attempts) == ("unknown", "t9", 3)
            assert (entry.lost, entry.lost_creates, entry.ended_at) == (len(lost_creates), lost_creates, AT)
            why = failure_of(entry)
            assert why is not None
            assert (why.kind, why.task_id, why.credits) == (UnknownOutcome, "t9", 8 * entry.lost)
            assert bill_of(entry).total == 8 * entry.lost
            assert f"{8 * entry.lost} credits" in why.message


@pytest.mark.parametrize("event", ["Accepted", "Lost", "ConnectFailed", "Rejected BACK_OFF", "Rejected FAIL"])
def test_the_answer_to_a_create_that_was_named_counts_it_once(event: str) -> None:
    """Whatever came after the callback, the create is among the lost ones once, or not at all where it was accepted."""
    after = entry_of(advance(job_in(Claimed(CLAIM)), EVENTS[event], NOW), NOW, EPOCH)
    assert after is not None
    is_accepted = event == "Accepted"
    assert (after.state, after.task_id) == ("running" if is_accepted else "unknown", "t1")
    assert (after.lost, after.lost_creates) == ((0, ()) if is_accepted else (1, (1,)))


SAME = ("key", "position", "state", "account", "request", "task_id", "price", "attempts", "retried")


@pytest.mark.parametrize("task_id", [None, "t1"])
def test_a_lost_job_of_an_earlier_run_waits_on(task_id: str | None) -> None:
    """It waits for its callback from its create on, a named one a minute at least, and its entry stays."""
    for lost_creates, ago in itertools.product(((1,), (1, 3), ()), (0.0, 5.0, 500.0)):
        with naming(lost_creates, ago):
            counts = {"attempts": 3, "retried": 1, "lost": 2, "lost_creates": lost_creates}
            error = EntryError("UnknownOutcome", "lost", 502)
            entry = entry_in(
                "unknown", task_id=task_id, price=8.0, error=error, sent_at=AT - ago, ended_at=AT, **counts
            )
            job = awaited(entry, blank(deadline=300.0, retries=1), NOW, EPOCH, 40.0)
            assert isinstance(job.state, AwaitingCallback if task_id is None else Confirming)
            until = NOW - ago + 40.0
            assert job.state.until == (until if task_id is None else max(until, NOW + 60.0))
            assert (job.state.since, getattr(job.state, "task_id", None)) == (NOW - ago, task_id)
            assert (job.id, job.owner, job.retries, job.resubmits, job.expires_at) == (77, 7, 1, 0, NOW + 300.0)
            assert (job.lost, job.lost_creates, job.task_id) == (2, lost_creates, None)
            again = entry_of(job, NOW, EPOCH)
            assert again is not None
            for name in (*SAME, "lost", "lost_creates", "error"):
                assert getattr(again, name) == getattr(entry, name), name
            ended = entry_of(advance(job, EVENTS["Expired"], NOW), NOW, EPOCH)
            assert ended is not None
            for name in (*SAME, "lost", "lost_creates"):
                assert getattr(ended, name) == getattr(entry, name), name
            assert ended.error is not None
            assert ended.error.message.endswith("collect it. lost" if task_id else "lost")
            once_more = advance(awaited(ended, blank(), NOW, EPOCH, 40.0), EVENTS["Expired"], NOW)
            assert entry_of(once_more, NOW, EPOCH) == ended


@pytest.mark.parametrize("sent_at", [None, AT + 5.0])
def test_a_lost_job_without_a_known_past_waits_from_now(sent_at: float | None) -> None:
    """A create whose time is not known, or lies in the future of a clock that was set back, counts from now."""
    entry = entry_in("unknown", error=EntryError("UnknownOutcome", "lost"), lost=1, attempts=1, sent_at=sent_at)
    job = awaited(entry, blank(), NOW, EPOCH, 40.0)
    assert isinstance(job.state, AwaitingCallback)
    assert (job.state.since, job.state.until) == (NOW, NOW + 40.0)


@pytest.mark.parametrize("event", ["Pending", "Succeeded", "TaskFailed"])
def test_a_crash_after_an_early_callback_loses_nothing(event: str) -> None:
    """What the next process makes of the entry asks about the task that was named, which then is the job's own."""
    entry = remembered(Claimed(Claim(2, "t9"), LOST_BEFORE), attempts=2, lost=1, lost_creates=(1,))
    assert entry is not None
    job = awaited(msgspec.structs.replace(entry, sent_at=AT - 5.0), blank(), NOW, EPOCH, 0.0)
    moved = advance(job, EVENTS[event], NOW)
    assert (moved.task_id, moved.lost, moved.lost_creates, moved.attempts) == ("t9", 1, (1,), 2)


@pytest.mark.parametrize("state", ["running", "ready", "queued", "failed", "unknown"])
def test_lost_creates_go_on_with_the_job(state: str) -> None:
    """A job that goes on, or is sent again, knows which of its creates were lost, so that a callback finds it."""
    error = EntryError("UnknownOutcome", "lost") if state == "unknown" else None
    entry = entry_in(state, task_id="t1" if state in ("running", "ready") else None, error=error, **COUNTS)
    goes_on = state in ("running", "ready")
    job = resumed(entry, blank(save_to="out"), NOW, EPOCH) if goes_on else sent_again(entry, blank())
    assert (job.lost, job.lost_creates) == (1, (2,))
    named = advance(job, CallbackNamed(2, "t9"), NOW)
    assert isinstance(named.state, Confirming) != goes_on, "its task is named: it is not paid again"


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
            entry = entry_in(state, credits=credits, price=price, lost=lost, task_id="t1" if has_task else None)
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


AT_WORK = (
    *("running", "collected", "doubted", "fetching", "fetching, asked again", "fetching, renewed", "done"),
    *("left running", "left fetching"),
)


def test_the_entry_of_every_state_has_its_bill() -> None:
    """A task that exists counts its price or what was told, an earlier loss a price more, and what failed its word."""
    for name in (name for name in ROWS if not name.startswith("noting")):
        with naming(name):
            entry = remembered(ROWS[name][0], **COUNTS, spent=2.0)
            assert entry is not None
            bill = bill_of(entry)
            assert bill.total == 2 + 8 + 8 * (name in AT_WORK)
            assert bill.open == (8 if entry.state == "running" else 0)


# ------------------------------------------------------------------------------------------ models and changes


def test_a_model_that_is_still_known_is_taken_as_it_is_now_at_the_price_of_then() -> None:
    """The table of models wins over what an entry says of its model, but its task was made at the entry's price."""
    known = job_in("Queued").model
    assert model_of(entry_in("running", price=99.0), known) == msgspec.structs.replace(known, credits=99.0)
    assert model_of(entry_in("running"), known) is known


@pytest.mark.parametrize(("num_images", "price"), [(None, 8.0), (1, 8.0), (3, 12.0), (None, None)])
def test_a_model_that_is_gone_keeps_its_name_and_price(num_images: int | None, price: float | None) -> None:
    """A request for a model of which this version has no entry costs what its entry says, whatever its pictures."""
    request = ImageRequest("a red fox", model="imagen3", num_images=num_images)
    model = model_of(entry_in("running", request=request, price=price), None)
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
            entry = entry_in("done")
            assert changes(entry, msgspec.structs.replace(entry.request, **change)) == [said]


def test_what_does_not_reach_the_provider_is_no_change() -> None:
    """A key and the order of extra's fields make no other picture."""
    request = ImageRequest("x", model="imagen4", extra={"a": 1, "b": [1, {"c": 2, "d": 3}]})
    other = msgspec.structs.replace(request, key="k", extra={"b": [1, {"d": 3, "c": 2}], "a": 1})
    assert changes(entry_in("done", request=request), other) == []


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
        if self.job is not None and isinstance(self.job.state, OnTheWay):
            self._lose()
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
            self._move(EVENTS["Taken"])
            self.write(len(self.unwritten))
        elif isinstance(self.job.state, Noting):
            self._move(EVENTS["Leaves"])
            self.sent += 1

    def happen(self, name: str) -> None:
        """Let an event happen to the job, if it fits."""
        job, event = self.job, EVENTS[name]
        if job is None or name in NOT_BY_ITSELF or not can_meet(job, event):
            return
        if name == "Expired" and job.expires_at is None:
            return
        if isinstance(event, Accepted):
            event = Accepted(f"t{job.attempts}")
        if isinstance(event, Lost | Rejected):
            event = msgspec.structs.replace(event, callback_wait=30.0 if self._expects_callbacks else 0.0)
        self._answer(job, event)
        self._move(event)

    def name_task(self, which: str) -> None:
        """A callback comes, about the last create or the first: it takes the leave to send another one away."""
        job = self.job
        if not self._expects_callbacks or job is None:
            return
        event = CallbackNamed({"last": job.attempts, "first": 1}[which], "")
        event = msgspec.structs.replace(event, task_id=f"t{event.create}")
        if can_meet(job, event) and advance(job, event, self.now) is not job:
            self.has_leave &= not isinstance(job.state, Queued | Noting)
            self._move(event)

    def _move(self, event: Event) -> None:
        """What the machine makes of it is noted, as the shell does after each step."""
        assert self.job is not None
        before, self.job = self.job, advance(self.job, event, self.now)
        is_sent_again = self.job.retried > before.retried or self.job.resubmits < before.resubmits
        self.has_leave |= isinstance(self.job.state, Queued) and is_sent_again
        entry = entry_of(self.job, self.now, self.epoch)
        if entry is not None:
            self.unwritten.append(entry)

    def _answer(self, job: Job, event: Event) -> None:
        """Count what an answer says of money: of the create on its way, or of the task that is asked about."""
        state = job.state
        if isinstance(state, OnTheWay):
            claim = state.claim if isinstance(state, Claimed | Orphaned) else None
            is_named = claim is not None and claim.create == job.attempts
            if isinstance(event, Accepted):
                self._spend()
                self.told[event.task_id] = 8.0
            elif isinstance(event, Lost | OwnerGone) or (is_named and isinstance(event, Rejected | ConnectFailed)):
                self._lose()
        elif isinstance(state, Running | Confirming) and not isinstance(state, Relinking):
            if isinstance(event, Pending | Succeeded | TaskFailed):
                self.untaken -= isinstance(state, Confirming)
                self.told[state.task_id] = 0.0 if isinstance(event, TaskFailed) else 8.0
            if isinstance(event, TaskFailed):
                self.is_over.add(state.task_id)

    def _spend(self) -> None:
        assert self.has_leave, "a create went that may be paid twice, and nobody gave leave"
        self.has_leave = False
        self.may_be_billed += 1

    def _lose(self) -> None:
        self._spend()
        self.untaken += 1

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
            return awaited(entry, fresh, self.now, self.epoch, 1e6)
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


NOT_BY_ITSELF = ("Taken", "Leaves", "CallbackNamed", "CallbackNamed by another", "Readmitted", "Readmitted doubted")

STEPS = st.one_of(
    *[st.tuples(st.just("wake"), st.just(""))] * 6,
    *[
        st.tuples(
            st.just("happen"), st.sampled_from(["Accepted", "Accepted", "Succeeded", "TaskFailed", "NotSaved gone"])
        )
    ]
    * 4,
    *[st.tuples(st.just("happen"), st.sampled_from(sorted(set(EVENTS) - set(NOT_BY_ITSELF))))] * 4,
    *[st.tuples(st.just("name"), st.sampled_from(["last", "last", "first"]))] * 3,
    st.tuples(st.just("write"), st.integers(1, 3)),
    st.tuples(st.just("crash"), st.integers(0, 3)),
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
            case "name":
                request.name_task(detail)
            case "write":
                request.write(detail)
            case "crash":
                request.crash(detail)
            case "wait":
                request.now += detail
        if request.job is not None and isinstance(request.job.state, Ended):
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
    """Whatever was sent has an entry, and a task id on disk stays there until a new create replaces a failed one."""
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
    """From an entry with URLs on nothing is created, whatever happens to its links and its processes."""
    request = Request(**terms, leave=frozenset({"unknown"}))
    request.disk = entry_in("ready", task_id="t1", urls=SUCCESS.urls, attempts=1)
    request.has_leave = False
    lived(request, steps)
    assert (request.sent, request.disk.task_id, request.disk.urls) == (0, "t1", SUCCESS.urls)


def test_the_model_of_crashes_reaches_what_it_is_about() -> None:
    """A lost answer, a crash with a create on the way and a resumed task all come about in the model of a request."""
    request = Request(retries=0, resubmits=0, save_to="out", leave=frozenset({"unknown"}))
    lived(request, [*[("wake", "")] * 3, ("crash", 0), ("wake", "")])
    assert request.disk is not None
    assert (request.disk.state, request.disk.lost, request.may_be_billed) == ("unknown", 1, 1)
    lived(request, [*[("wake", "")] * 2, ("happen", "Accepted"), ("crash", 1), ("wake", "")])
    assert request.job is not None
    assert (type(request.job.state), request.job.task_id, request.job.lost) == (Running, "t2", 1)
    lived(request, [("happen", "Succeeded"), ("crash", 1), ("wake", ""), ("happen", "Saved")])
    assert (request.disk.state, request.disk.lost, request.may_be_billed) == ("done", 1, 2)
