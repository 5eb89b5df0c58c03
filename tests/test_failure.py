"""Why a job has no picture: a failure is a value that comes back as the error it was, and reads as it should."""

from __future__ import annotations

import re
from typing import Any

import inner
import msgspec
import pytest
from builders import failure
from hypothesis import given
from hypothesis import strategies as st
from samples import FAILED_BEFORE, FILE, GONE, LOST_BEFORE, SINCE, STATES, SUCCESS, job_in, with_images

from imagen_async import Result, errors
from imagen_async.errors import DeadlineExceeded, DownloadFailed, GenerationFailed, ImagenError, TransportError
from imagen_async.providers import PROVIDERS

KINDS: list[type[ImagenError]] = [getattr(errors, name) for name in errors.__all__]
OWN: dict[type[ImagenError], dict[str, Any]] = {
    errors.UnknownOutcome: {"credits": 8.5},
    TransportError: {"sent": False},
    DownloadFailed: {"local": True, "gone": True},
}
"""What only some kinds have. The files of a DownloadFailed travel beside it: they are no reason."""


def shown(error: BaseException | None) -> list[tuple[type, str, dict[str, Any]]]:
    """All that an error and what caused it say."""
    return [] if error is None else [(type(error), str(error), vars(error)), *shown(error.__cause__)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_comes_back_as_it_was(kind: type[ImagenError]) -> None:
    """With its class, its message, every attribute that it has, and what caused it, however deep; or without any."""
    bare, full = kind("why"), kind("why", provider="kie", task_id="t1", code="501", **OWN.get(kind, {}))
    full.status, full.request_id, full.at = 503, "r-1", 5.0
    full.__cause__ = TransportError("reset", sent=False)
    full.__cause__.__cause__ = errors.ProtocolError("not JSON", code=7)
    for error in (bare, full):
        assert shown(inner.Failure.of(error).exception()) == shown(error)


@given(st.text(), st.sampled_from(["\udcff", "\ud83d", "\udc00\ud800", "\ud83d "]))
def test_what_an_error_says_can_be_written_down(text: str, half: str) -> None:
    """Whatever bytes its words were made of, they are text, and only what stands for no character is another."""
    why = failure(GenerationFailed, text + half + text, code=half)
    for said in (why.message, str(why.code), inner.clean(text + half)):
        assert said.encode().decode() == said
    assert why.message == text + re.sub("[\ud800-\udfff]", "\ufffd", half) + text


def test_a_kind_is_found_by_its_name_and_caught_by_what_is_above_it() -> None:
    """`is_a` says what `except` would do; a name that no kind has, as a later version's journal may, is the root."""
    for kind in KINDS:
        assert inner.kind_named(kind.__name__) is kind
        assert [failure(kind).is_a(other) for other in KINDS] == [issubclass(kind, other) for other in KINDS], kind
    assert {inner.kind_named(name) for name in ("QuotaMovedAway", "Any", "annotations", "__all__")} == {ImagenError}


def test_each_call_makes_an_error_of_its_own() -> None:
    """What is written into one, a traceback or a new cause, is in no other."""
    why = failure(GenerationFailed, "too dark", cause=failure(TransportError, "reset"))
    first, second = why.exception(), why.exception()
    with pytest.raises(GenerationFailed):
        raise first from ValueError("why not")
    first.message = "changed"
    assert (second.__traceback__, second.message, str(second.__cause__)) == (None, "too dark", "reset")


@pytest.mark.parametrize("known", [{}, {"account": "kie"}, {"task_id": "t1"}, {"account": "kie", "task_id": "t1"}])
@pytest.mark.parametrize("told", [{}, {"account": "me"}, {"task_id": "t2"}, {"account": "me", "task_id": "t2"}])
def test_what_is_passed_on_adds_only_what_was_missing(known: dict[str, str], told: dict[str, str]) -> None:
    """The place where it happened knows best."""
    assert failure(GenerationFailed, **known).about(**told) == failure(GenerationFailed, **{**told, **known})


def test_what_is_none_of_the_tree_stays_behind() -> None:
    """A room's own kind is told as the public one above it, with all that is said; no foreign cause is: it may tell."""
    not_there = type("NotThere", (DownloadFailed,), {})("404", gone=True, task_id="t1")
    assert inner.Failure.of(not_there) == failure(DownloadFailed, "404", is_gone=True, task_id="t1")
    error = TransportError("reset")
    error.__cause__ = OSError("the key is 1234")
    assert inner.Failure.of(error) == failure(TransportError, "reset")


RESET = failure(TransportError, "reset", code=7)
TIRED = failure(errors.RateLimited, "429")
EMPTY = failure(errors.InsufficientCredits, "Empty.", account="kie")
NO_MODEL = failure(errors.ModelUnavailable, "gone", account="me")
LOST = failure(errors.UnknownOutcome, "lost")


def late(state: inner.State) -> inner.Failure:
    """What is said of a job whose time is over in this state."""
    return inner.expired(job_in(state))


def nobody(*refusals: inner.Failure) -> inner.Failure:
    """What is said where none of these accounts is left."""
    return inner.nobody_takes(dict(zip("abc", refusals, strict=False)))


UNHEARD_OF = inner.Running(**SINCE, trouble=RESET)
NO_NEW_LINK = inner.Relinking(**SINCE, trouble=RESET, outcome=SUCCESS)
NAMED_LOST = inner.named_by_callback(LOST, "t1")
KIE, T1 = {"account": "kie"}, {"account": "kie", "task_id": "t1"}

NOT_ACCEPTED = "Not accepted within 900 s"
NOT_MADE = "No task was made and nothing was billed: ask again"
PAID_FOR = "The task may still finish and is paid for: collect it"
AGAIN = "It failed (too dark), and no new task was accepted within 900 s: ask again"
NO_LINKS = "The picture is made and paid for; its links died, and no new ones came in time"
DEAD = "The picture is gone at the provider, and was paid for: its links are dead. 404"
NAMED = "A callback names its task, of which the provider has told nothing yet: collect it. lost"
LEFT = "12,345.5 credits, of which 1,000 are spent or may have been"
USED_UP = f"The budget is reached: {LEFT}; the next request does not fit. Raise max_credits to go on."

SAYINGS: list[tuple[inner.Failure, type[ImagenError], str, dict[str, Any]]] = [
    (late(inner.Queued()), DeadlineExceeded, f"{NOT_ACCEPTED}. {NOT_MADE}", KIE),
    (late(inner.Queued(TIRED)), DeadlineExceeded, f"{NOT_ACCEPTED} (429). {NOT_MADE}", {**KIE, "cause": TIRED}),
    (late(inner.Queued(TIRED, FAILED_BEFORE)), DeadlineExceeded, AGAIN, {**KIE, "cause": FAILED_BEFORE}),
    (late(inner.Running(**SINCE)), DeadlineExceeded, f"Not finished within 900 s. {PAID_FOR}", T1),
    (late(UNHEARD_OF), DeadlineExceeded, f"Not finished within 900 s (reset). {PAID_FOR}", {**T1, "cause": RESET}),
    (inner.links_not_told(job_in("Relinking")), DownloadFailed, f"{NO_LINKS}: collect the task", T1),
    (inner.links_not_told(job_in(NO_NEW_LINK)), DownloadFailed, f"{NO_LINKS} (reset): collect the task", T1),
    (inner.picture_gone(GONE), DownloadFailed, DEAD, {"is_gone": True}),
    (NAMED_LOST, errors.UnknownOutcome, NAMED, {"task_id": "t1"}),
    (inner.named_by_callback(NAMED_LOST, "t2"), errors.UnknownOutcome, NAMED, {"task_id": "t1"}),
    (inner.used_up(12_345.5, 1000), errors.BudgetReached, USED_UP, {}),
    (nobody(EMPTY), errors.InsufficientCredits, "Empty.", KIE),
    (nobody(EMPTY, EMPTY), errors.InsufficientCredits, "No account is left. a: Empty; b: Empty.", {}),
    (nobody(EMPTY, EMPTY, NO_MODEL), errors.AccountError, "No account is left. a: Empty; b: Empty; c: gone.", {}),
    (nobody(NO_MODEL, NO_MODEL), errors.ModelUnavailable, "No account is left. a: gone; b: gone.", {}),
    (nobody(RESET, RESET), errors.AccountError, "No account is left. a: reset; b: reset.", {}),
]


@pytest.mark.parametrize(("said", "kind", "message", "known"), SAYINGS)
def test_a_failure_says_what_happened_and_what_to_do(said: Any, kind: Any, message: str, known: Any) -> None:
    """Whether it was paid for, what the trouble was, and what helps; of a kind that whoever catches it expects."""
    assert said == failure(kind, message, **known)


def test_a_lost_create_names_what_it_may_have_cost() -> None:
    """The price of all pictures of all tasks that it may have made, where anybody knows it."""
    why = "The create was sent and its answer was lost (reset)"
    for account, images, lost, credits in (("kie", None, 0, 4), ("kie", 3, 2, 24), ("apikley", 3, 1, None)):
        model = PROVIDERS[account].find("imagen4-fast")
        job = msgspec.structs.replace(job_in("Sending", account=account, lost=lost), model=model)
        cost = f"up to {credits} credits" if credits else "an unknown price"
        message = f"{why}. It may have made a task and cost {cost}; it is not sent again"
        said = failure(errors.UnknownOutcome, message, account=account, code=7, credits=credits, cause=RESET)
        assert inner.unknown_outcome(with_images(job, images), RESET) == said


FAIL = inner.TaskFailed(failure(GenerationFailed, "too dark", code="501"), 2.5, b'{"state":"fail"}')
FAIL_T1 = FAIL.failure.about(task_id="t1")
UNTOLD = inner.TaskFailed(FAIL.failure, None, b"")
NO_DISK = failure(DownloadFailed, "the disk is full", is_local=True, task_id="t1")
UNSENT = DeadlineExceeded("Left before it was sent; nothing was billed", provider="kie")
PAID = DeadlineExceeded("Left while the task ran, which is paid for: collect it", provider="kie", task_id="t1")
PICTURE = {"urls": SUCCESS.urls, "task_id": "t1", "credits": 8, "latency": 13.5, "raw": SUCCESS.raw}
SAVED = {**PICTURE, "files": (FILE,)}

RESULTS: dict[str, tuple[inner.State, ImagenError | None, dict[str, Any]]] = {
    "done": (inner.Done("t1", SUCCESS, (FILE,)), None, SAVED),
    "failed": (inner.Failed(FAIL_T1, FAIL), FAIL_T1.exception(), {"task_id": "t1", "credits": 2.5, "raw": FAIL.raw}),
    "refused": (inner.Failed(failure(errors.InvalidRequest, "no")), errors.InvalidRequest("no"), {}),
    "not saved": (inner.Failed(NO_DISK, SUCCESS, (FILE,)), NO_DISK.exception(files=(FILE,)), SAVED),
    "lost": (inner.Unknown(LOST_BEFORE), LOST_BEFORE.exception(), {}),
    "lost and named": (inner.Unknown(NAMED_LOST), NAMED_LOST.exception(), {"task_id": "t1"}),
    "not admitted": (inner.NotAdmitted(EMPTY), EMPTY.exception(), {}),
    "left before it was sent": (inner.Left(inner.Queued(TIRED)), UNSENT, {}),
    "left while it ran": (inner.Left(inner.Running(**SINCE)), PAID, {"task_id": "t1"}),
    "left with a picture": (inner.Left(inner.Fetching("t1", SUCCESS)), PAID, PICTURE),
    "left with dead links": (inner.Left(inner.Relinking(**SINCE, outcome=SUCCESS)), PAID, PICTURE),
}


@pytest.mark.parametrize(("state", "error", "known"), RESULTS.values(), ids=RESULTS)
def test_a_result_has_all_that_is_known(state: inner.State, error: ImagenError | None, known: dict[str, Any]) -> None:
    """What was asked for, what came of it, what it cost, and an error of its own where there is no picture."""
    job = job_in(state)
    result, again = inner.result_of(job), inner.result_of(job)
    expected = Result("fox", 4, job.request, "kie", "imagen4", **known)
    assert msgspec.structs.asdict(msgspec.structs.replace(result, error=None)) == msgspec.structs.asdict(expected)
    assert (shown(result.error), result.ok) == (shown(error), error is None)
    assert error is None or result.error is not again.error


BILLED: list[tuple[float, inner.Succeeded | inner.TaskFailed | None, float | None]] = [
    *((0.0, inner.Succeeded(SUCCESS.urls, None, credits, b""), credits) for credits in (4.0, 0.0)),
    *((5.0, None, 5.0), (5.0, SUCCESS, 13.0), (5.0, FAIL, 7.5)),
    *((0.0, UNTOLD, None), (5.0, UNTOLD, 13.0)),
]


def test_the_credits_are_the_provider_s_word_else_the_price() -> None:
    """A failure of which nobody tells is unknown alone, and counts with its price after a task that came before it."""
    for spent, outcome, credits in BILLED:
        assert inner.billed(job_in("Done", spent=spent), outcome) == credits, (spent, outcome)


def test_every_state_has_its_word() -> None:
    """Users are told of each state that a job can be in."""
    assert {type(state) for state in STATES.values()} == set(inner.STATE_WORDS)
