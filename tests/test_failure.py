"""Why a job has no picture: a failure is a value that comes back as the error it was, and reads as it should."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from builders import failure
from samples import FAILED_BEFORE, FILE, LOST_BEFORE, SINCE, STATES, SUCCESS, job_in, with_images

from imagen_async import Result, errors
from imagen_async._core import states, wording
from imagen_async._core.failure import Failure, kind_named
from imagen_async._core.states import Ended, Failed, Fetching, Left, Queued, Relinking, Running, State
from imagen_async._core.wire import Succeeded, TaskFailed
from imagen_async.errors import DeadlineExceeded, DownloadFailed, GenerationFailed, ImagenError, TransportError
from imagen_async.providers import PROVIDERS

KINDS: list[type[ImagenError]] = [getattr(errors, name) for name in errors.__all__]
OWN: dict[type[ImagenError], dict[str, Any]] = {
    errors.UnknownOutcome: {"credits": 8.5},
    TransportError: {"sent": False},
    DownloadFailed: {"local": True, "gone": True},
}
"""What only some kinds have. The files of a DownloadFailed travel beside it: they are no reason."""


# A value


def shown(error: BaseException | None) -> list[tuple[type, str, dict[str, Any]]]:
    """All that an error and what caused it say."""
    return [] if error is None else [(type(error), str(error), vars(error)), *shown(error.__cause__)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_comes_back_as_it_was(kind: type[ImagenError]) -> None:
    """With its class, its message, every attribute that it has, and what caused it, however deep; or without any."""
    bare, full = kind("why"), kind("why", provider="kie", task_id="t1", code="501", **OWN.get(kind, {}))
    full.__cause__ = TransportError("reset", sent=False)
    full.__cause__.__cause__ = errors.ProtocolError("not JSON", code=7)
    for error in (bare, full):
        assert shown(Failure.of(error).exception()) == shown(error)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_found_by_its_name_and_caught_by_what_is_above_it(kind: type[ImagenError]) -> None:
    """`is_a` says of each kind what `except` would do."""
    assert kind_named(kind.__name__) is kind
    assert [failure(kind).is_a(other) for other in KINDS] == [issubclass(kind, other) for other in KINDS]


def test_a_name_that_is_none_of_an_error_is_the_root_of_the_tree() -> None:
    """A journal of a later version may have kinds that this one does not know."""
    assert {kind_named(name) for name in ("QuotaMovedAway", "Any", "annotations", "__all__")} == {ImagenError}


def test_each_call_makes_an_error_of_its_own() -> None:
    """What is written into one, a traceback or a new cause, is in no other, nor in the failure, which never changes."""
    why = failure(GenerationFailed, "too dark", cause=failure(TransportError, "reset"))
    first, second = why.exception(), why.exception()
    with pytest.raises(GenerationFailed):
        raise first from ValueError("why not")
    first.message = "changed"
    assert (second.__traceback__, second.message, str(second.__cause__)) == (None, "too dark", "reset")
    assert vars(why.exception()) == vars(second)
    with pytest.raises(AttributeError):
        why.message = "changed"  # type: ignore[misc]


@pytest.mark.parametrize("known", [{}, {"account": "kie"}, {"task_id": "t1"}, {"account": "kie", "task_id": "t1"}])
@pytest.mark.parametrize("told", [{}, {"account": "me"}, {"task_id": "t2"}, {"account": "me", "task_id": "t2"}])
def test_what_is_passed_on_adds_only_what_was_missing(known: dict[str, str], told: dict[str, str]) -> None:
    """The place where it happened knows best."""
    assert failure(GenerationFailed, **known).about(**told) == failure(GenerationFailed, **{**told, **known})


def test_a_kind_of_a_room_s_own_is_the_public_one_above_it() -> None:
    """What only the raising module knows by its name is told as the kind that users know, with all that is said."""

    class NotThere(DownloadFailed):
        pass

    class NotEvenThere(NotThere):
        pass

    expected = failure(DownloadFailed, "404", is_gone=True, task_id="t1")
    assert Failure.of(NotEvenThere("404", gone=True, task_id="t1")) == expected


def test_a_cause_that_is_no_error_of_ours_stays_behind() -> None:
    """Only what the tree has is kept: any other may hold what nobody is to see."""
    error = TransportError("reset")
    error.__cause__ = OSError("the key is 1234")
    assert Failure.of(error) == failure(TransportError, "reset")


# How it reads

RESET = failure(TransportError, "reset", code=7)
TIRED = failure(errors.RateLimited, "429")
EMPTY = failure(errors.InsufficientCredits, "Empty.", account="kie")
NO_MODEL = failure(errors.ModelUnavailable, "no such model", account="me")
LOST = failure(errors.UnknownOutcome, "lost")


NOT_MADE = "No task was made and nothing was billed: ask again"
PAID_FOR = "The task may still finish and is paid for: collect it"
AGAIN = "It failed (too dark), and no new task was accepted within 900 s: ask again"


@pytest.mark.parametrize(
    ("state", "message", "cause"),
    [
        (Queued(), f"Not accepted within 900 s. {NOT_MADE}", None),
        (Queued(TIRED), f"Not accepted within 900 s (429). {NOT_MADE}", TIRED),
        (Queued(TIRED, FAILED_BEFORE), AGAIN, FAILED_BEFORE),
        (Running(**SINCE), f"Not finished within 900 s. {PAID_FOR}", None),
        (Running(**SINCE, trouble=RESET), f"Not finished within 900 s (reset). {PAID_FOR}", RESET),
    ],
)
def test_a_job_whose_time_is_over_says_what_became_of_its_money(
    state: Queued | Running, message: str, cause: Failure | None
) -> None:
    """Whether a task was made, and may be collected, or nothing was billed; and what the trouble was."""
    task_id = state.task_id if isinstance(state, Running) else None
    expected = failure(DeadlineExceeded, message, account="kie", task_id=task_id, cause=cause)
    assert wording.expired(job_in(state)) == expected


@pytest.mark.parametrize(
    ("account", "model", "images", "lost", "credits", "cost"),
    [
        ("kie", "imagen4", None, 0, 8, "up to 8 credits"),
        ("kie", "imagen4-fast", 3, 1, 12, "up to 12 credits"),
        ("kie", "imagen4-fast", 3, 2, 24, "up to 24 credits"),
        ("apikley", "imagen4", None, 1, None, "an unknown price"),
    ],
)
def test_a_lost_create_names_what_it_may_have_cost(
    account: str, model: str, images: int | None, lost: int, credits: float | None, cost: str
) -> None:
    """The price of all pictures of all tasks that it may have made, where anybody knows it."""
    record = PROVIDERS[account].find(model)
    job = msgspec.structs.replace(job_in("Sending", account=account, lost=lost), model=record)
    made = wording.unknown_outcome(with_images(job, images), RESET)
    why = "The create was sent and its answer was lost (reset)"
    message = f"{why}. It may have made a task and cost {cost}; it is not sent again"
    assert made == failure(errors.UnknownOutcome, message, account=account, code=7, credits=credits, cause=RESET)


@pytest.mark.parametrize(
    ("refusals", "kind", "told"),
    [
        ({"kie": EMPTY, "me": EMPTY}, errors.InsufficientCredits, "kie: Empty; me: Empty."),
        ({"a": EMPTY, "b": EMPTY, "c": NO_MODEL}, errors.AccountError, "a: Empty; b: Empty; c: no such model."),
        ({"kie": NO_MODEL, "me": NO_MODEL}, errors.ModelUnavailable, "kie: no such model; me: no such model."),
        ({"kie": RESET, "me": RESET}, errors.AccountError, "kie: reset; me: reset."),
    ],
)
def test_where_no_account_is_left_all_of_them_say_why(
    refusals: dict[str, Failure], kind: type[ImagenError], told: str
) -> None:
    """Of one kind where all are, so that who catches that catches this; and one account has its own word."""
    assert wording.nobody_takes(refusals) == failure(kind, f"No account is left. {told}")
    assert wording.nobody_takes({"kie": EMPTY}) is EMPTY


NAMED = "A callback names its task, of which the provider has told nothing yet: collect it. lost"
NO_LINKS = "The picture is made and paid for; its links died, and no new ones came in time"
GONE = "The picture is gone at the provider, and was paid for: its links are dead. 404"
USED_UP = (
    "The budget is reached: 12,345.5 credits, of which 1,000 are spent or may have been; the next request does not "
    "fit. Raise max_credits to go on."
)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (
            wording.links_not_told(job_in(Relinking(**SINCE, outcome=SUCCESS))),
            failure(DownloadFailed, f"{NO_LINKS}: collect the task", account="kie", task_id="t1"),
        ),
        (
            wording.links_not_told(job_in(Relinking(**SINCE, trouble=RESET, outcome=SUCCESS))),
            failure(DownloadFailed, f"{NO_LINKS} (reset): collect the task", account="kie", task_id="t1"),
        ),
        (
            wording.picture_gone(failure(DownloadFailed, "404", is_gone=True)),
            failure(DownloadFailed, GONE, is_gone=True),
        ),
        (wording.named_by_callback(LOST, "t1"), failure(errors.UnknownOutcome, NAMED, task_id="t1")),
        (
            wording.named_by_callback(wording.named_by_callback(LOST, "t1"), "t2"),
            failure(errors.UnknownOutcome, NAMED, task_id="t1"),
        ),
        (wording.used_up(12_345.5, 1000), failure(errors.BudgetReached, USED_UP)),
    ],
    ids=["no new links", "nobody told new links", "no picture left", "named", "named again", "budget used up"],
)
def test_a_failure_says_what_happened_and_what_to_do(made: Failure, expected: Failure) -> None:
    """Whether it was paid for, and what helps."""
    assert made == expected


# The result

FAIL = TaskFailed(failure(GenerationFailed, "too dark", code="501"), 2.5, b'{"state":"fail"}')
NO_DISK = failure(DownloadFailed, "the disk is full", is_local=True, task_id="t1")
UNSENT = DeadlineExceeded("Left before it was sent; nothing was billed", provider="kie")
PAID = DeadlineExceeded("Left while the task ran, which is paid for: collect it", provider="kie", task_id="t1")
PICTURE = {"urls": SUCCESS.urls, "task_id": "t1", "credits": 8, "latency": 13.5, "raw": SUCCESS.raw}

RESULTS: dict[str, tuple[State, ImagenError | None, dict[str, Any]]] = {
    "done": (states.Done("t1", SUCCESS, (FILE,)), None, {**PICTURE, "files": (FILE,)}),
    "failed": (
        Failed(FAIL.failure.about(task_id="t1"), FAIL),
        FAIL.failure.about(task_id="t1").exception(),
        {"task_id": "t1", "credits": 2.5, "raw": FAIL.raw},
    ),
    "refused": (Failed(failure(errors.InvalidRequest, "no")), errors.InvalidRequest("no"), {}),
    "not saved": (
        Failed(NO_DISK, SUCCESS, (FILE,)),
        NO_DISK.exception(files=(FILE,)),
        {**PICTURE, "files": (FILE,)},
    ),
    "lost": (states.Unknown(LOST_BEFORE), LOST_BEFORE.exception(), {}),
    "lost and named": (
        states.Unknown(LOST.about(task_id="t1")),
        LOST.about(task_id="t1").exception(),
        {"task_id": "t1"},
    ),
    "not admitted": (states.NotAdmitted(EMPTY), EMPTY.exception(), {}),
    "left before it was sent": (Left(Queued(TIRED)), UNSENT, {}),
    "left while it ran": (Left(Running(**SINCE)), PAID, {"task_id": "t1"}),
    "left with a picture": (Left(Fetching("t1", SUCCESS)), PAID, PICTURE),
    "left with dead links": (Left(Relinking(**SINCE, outcome=SUCCESS)), PAID, PICTURE),
}


@pytest.mark.parametrize(("state", "error", "known"), RESULTS.values(), ids=RESULTS)
def test_a_result_has_all_that_is_known(state: State, error: ImagenError | None, known: dict[str, Any]) -> None:
    """What was asked for, what came of it, what it cost, and an error of its own where there is no picture."""
    job = job_in(state)
    result, again = wording.result_of(job), wording.result_of(job)
    asked = {"key": "fox", "index": 4, "request": job.request, "provider": "kie", "model": "imagen4"}
    expected = Result(**{**asked, **known})
    assert msgspec.structs.asdict(msgspec.structs.replace(result, error=None)) == msgspec.structs.asdict(expected)
    assert shown(result.error) == shown(error)
    assert result.ok == (error is None)
    assert error is None or result.error is not again.error


@pytest.mark.parametrize(
    ("spent", "outcome", "credits"),
    [
        (0.0, None, None),
        (0.0, SUCCESS, 8),
        (0.0, Succeeded(SUCCESS.urls, None, 4.0, b""), 4.0),
        (0.0, Succeeded(SUCCESS.urls, None, 0.0, b""), 0.0),
        (0.0, FAIL, 2.5),
        (0.0, TaskFailed(FAIL.failure, None, b""), None),
        (5.0, None, 5.0),
        (5.0, SUCCESS, 13.0),
        (5.0, FAIL, 7.5),
        (5.0, TaskFailed(FAIL.failure, None, b""), 13.0),
    ],
)
def test_the_credits_are_the_provider_s_word_else_the_price(
    spent: float, outcome: Succeeded | TaskFailed | None, credits: float | None
) -> None:
    """A failure of which nobody tells is unknown alone, and counts with its price after a task that came before it."""
    assert wording.billed(job_in("Done", spent=spent), outcome) == credits


def test_only_a_job_that_ended_has_a_result() -> None:
    """There is no result of a job that goes on, and every state has its word."""
    for state in (state for state in STATES.values() if not isinstance(state, Ended)):
        with pytest.raises(AssertionError):
            wording.result_of(job_in(state))
    assert {type(state) for state in STATES.values()} == set(wording.STATE_WORDS)
