"""How a job's end reads: the result that a user gets of each, and what it says of money."""

from __future__ import annotations

import traceback

import msgspec
import pytest
from builders import failure, make_job
from conftest import naming
from samples import EVENTS, FILE, NOW, STATES, SUCCESS, job_in, with_images

from imagen_async._core.job_events import NobodyTakes, NotSaved
from imagen_async._core.machine import advance
from imagen_async._core.states import Done, Ended, Fetching, Queued, Relinking, Running, State, Unknown
from imagen_async._core.values import Result
from imagen_async._core.wire import Lost, Succeeded
from imagen_async._core.wording import result_of, unknown_outcome
from imagen_async.errors import (
    AuthenticationError,
    DeadlineExceeded,
    DownloadFailed,
    GenerationFailed,
    ImagenError,
    InvalidRequest,
    ProtocolError,
    RateLimited,
    TransportError,
    UnknownOutcome,
)
from imagen_async.providers import PROVIDERS


def result_after(state: str, event: str) -> Result:
    """The result of a job in that state, which that event ends."""
    return result_of(advance(job_in(state), EVENTS[event], NOW))


@pytest.mark.parametrize(
    ("model", "num_images", "credits", "shown"),
    [("imagen4", None, 8, "8 credits"), ("imagen4-fast", 3, 12, "12 credits"), ("imagen4-ultra", None, 12, "12 cred")],
)
def test_an_unknown_job_names_what_it_may_have_cost(
    model: str, num_images: int | None, credits: float, shown: str
) -> None:
    """The failure of a lost create carries the price of all its pictures, names it, and has the loss as its cause."""
    job = with_images(job_in("Sending", model=model), num_images)
    lost = failure(TransportError, "the connection was reset")
    job = advance(job, Lost(lost), NOW)
    assert isinstance(job.state, Unknown)
    assert job.state.failure.credits == credits
    assert shown in job.state.failure.message
    assert "the connection was reset" in job.state.failure.message
    assert job.state.failure.cause == lost


def test_an_unknown_job_of_an_unknown_price_says_so() -> None:
    """Where no page tells a price, the failure of a lost create says that nobody knows it."""
    model = PROVIDERS["apikley"].find("imagen4")
    assert model is not None
    job = msgspec.structs.replace(job_in("Sending"), account="apikley", model=model)
    unknown = unknown_outcome(job, failure(ProtocolError, "not JSON"))
    assert (unknown.credits, unknown.account) == (None, "apikley")
    assert "unknown price" in unknown.message


def test_a_finished_job_gives_its_urls_files_and_latency() -> None:
    """A result is told by its request, and has all that the provider said."""
    job = job_in(Done("t1", SUCCESS, (FILE,)))
    result = result_of(job)
    assert result.ok
    named = (result.key, result.index, result.request, result.provider, result.model)
    assert named == ("fox", 4, job.request, "kie", "imagen4")
    assert (result.urls, result.files, result.latency, result.task_id) == (SUCCESS.urls, (FILE,), 13.5, "t1")
    assert result.raw == SUCCESS.raw


@pytest.mark.parametrize(("said", "credits"), [(None, 8), (4.0, 4.0), (0.0, 0.0)])
def test_the_credits_of_a_picture_are_the_providers_word_else_its_price(said: float | None, credits: float) -> None:
    """What the provider says it billed wins over the price list, even where it says nothing was."""
    outcome = Succeeded(SUCCESS.urls, None, said, b"")
    assert result_of(job_in(Done("t1", outcome))).credits == credits


def test_a_failed_generation_keeps_task_id_credits_and_the_raw_answer() -> None:
    """A result without a picture still tells its task, what was billed and what the provider said."""
    result = result_after("Running", "TaskFailed")
    assert not result.ok
    assert isinstance(result.error, GenerationFailed)
    assert (result.error.provider, result.error.code) == ("kie", "501")
    assert (result.urls, result.task_id, result.credits, result.raw) == ((), "t1", 0.0, b'{"state":"fail"}')


def test_a_picture_that_could_not_be_saved_keeps_its_urls_and_what_was_saved() -> None:
    """A failed download leaves URLs, credits and task id on the result, and of several pictures those on disk."""
    for files in ((), (FILE,)):
        with naming(files):
            event = NotSaved(failure(DownloadFailed, "404"), files=files)
            result = result_of(advance(job_in("Fetching", save_to="out"), event, NOW))
            assert not result.ok
            assert isinstance(result.error, DownloadFailed)
            assert result.error.task_id == "t1"
            assert (result.urls, result.files, result.task_id, result.credits) == (SUCCESS.urls, files, "t1", 8)
            assert result.error.files == files


def test_links_that_no_new_ones_came_for_leave_the_old_ones_on_the_result() -> None:
    """A job that is given up while its links are asked for again has its URLs, its task and its credits."""
    result = result_after("Relinking", "Expired")
    assert isinstance(result.error, DownloadFailed)
    assert not result.error.gone
    assert (result.urls, result.task_id, result.credits) == (SUCCESS.urls, "t1", 8)


@pytest.mark.parametrize(
    ("state", "event", "kind"),
    [
        ("Sending", "Rejected FAIL", InvalidRequest),
        ("Sending", "Lost", UnknownOutcome),
        ("Noting", "Unsendable", InvalidRequest),
    ],
)
def test_a_job_without_a_task_has_none_on_its_result(state: str, event: str, kind: type[ImagenError]) -> None:
    """A refused create or a lost one is a result with the error, its account, and nothing that nobody knows."""
    result = result_after(state, event)
    assert type(result.error) is kind
    assert (result.error.provider, result.task_id, result.credits, result.urls) == ("kie", None, None, ())


def test_a_task_that_a_callback_named_is_on_the_result_to_be_collected() -> None:
    """It is unknown with what it may have cost, and its result and its error both name the task."""
    result = result_after("Confirming", "Expired")
    assert isinstance(result.error, UnknownOutcome)
    assert (result.task_id, result.error.task_id, result.error.credits) == ("t1", "t1", 8)


@pytest.mark.parametrize(
    ("was", "task_id", "said"),
    [
        (Queued(), None, "nothing was billed"),
        (Queued(failure(RateLimited, "429")), None, "nothing was billed"),
        (Running("t1", since=NOW), "t1", "collect"),
        (Relinking("t1", since=NOW, outcome=SUCCESS), "t1", "collect"),
        (Fetching("t1", SUCCESS), "t1", "collect"),
    ],
)
def test_a_job_that_was_left_says_whether_it_is_paid_for(was: State, task_id: str | None, said: str) -> None:
    """A job that the caller left tells its task id where it has one, and that nothing was billed where it has none."""
    result = result_of(advance(job_in(was), EVENTS["OwnerLeft"], NOW))
    assert isinstance(result.error, DeadlineExceeded)
    assert result.error.task_id == result.task_id == task_id
    assert said in result.error.message


def test_only_a_job_that_ended_has_a_result() -> None:
    """There is no result of a job that goes on."""
    for name in (name for name, state in STATES.items() if not isinstance(state, Ended)):
        with naming(name), pytest.raises(AssertionError):
            result_of(job_in(name))


def test_one_failure_of_many_jobs_is_an_error_of_its_own_for_each() -> None:
    """Who raises the error of one result writes no traceback, note or cause into those of the others."""
    stopped = NobodyTakes({"kie": failure(AuthenticationError, "wrong key", code=401, account="kie")})
    ended = [advance(make_job(number), stopped, NOW) for number in range(1, 4)]
    first, *others = errors = [result_of(job).error for job in (*ended, ended[0])]
    assert len({id(error) for error in errors}) == len(errors)
    assert isinstance(first, AuthenticationError)
    with pytest.raises(AuthenticationError):
        raise first from ValueError("why not")
    first.add_note("seen")
    for error in others:
        assert isinstance(error, AuthenticationError)
        assert traceback.format_exception_only(error) == [
            "imagen_async.errors.AuthenticationError: wrong key [provider kie, code 401]\n"
        ]
        assert error.__traceback__ is None
        assert error.__cause__ is error.__context__ is None
