"""The dialects against every recorded exchange and every answer shape that the provider facts list."""

from __future__ import annotations

import itertools
import re
from typing import Any

import msgspec
import pytest
from conftest import naming, recorded
from hypothesis import given, settings
from hypothesis import strategies as st

from imagen_async._core.dialect import Dialect
from imagen_async._core.failure import Failure
from imagen_async._core.wire import (
    Accepted,
    Created,
    HttpResponse,
    Lost,
    NoAnswer,
    Pending,
    Rejected,
    Remedy,
    Succeeded,
    TaskFailed,
    TaskRefused,
    TaskStatus,
    decode_json,
)
from imagen_async.errors import (
    AccountError,
    AuthenticationError,
    ConfigurationError,
    DownloadFailed,
    GenerationFailed,
    ImagenError,
    InsufficientCredits,
    InvalidRequest,
    ModelUnavailable,
    ProtocolError,
    RateLimited,
    TransportError,
)
from imagen_async.providers import PROVIDERS

EXCHANGES = [
    "03-gpt-image-2-image-to-image",
    "04-grok-imagine_text-to-image",
    "08-kling-3.0_video",
    "09-seedream_5-lite-image-to-image",
    "10-wan_2-7-image-pro",
]
LATENCIES = dict(zip(EXCHANGES, [48.001, 12.939, 165.519, 112.5, 28.662], strict=True))
ALL = ["kie", "apikley", "liangxin", "apiin"]
JOBS = ["kie", "apikley", "liangxin"]
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
URL = "https://files.example/1.png"
HTML = b"<html><head><title>502 Bad Gateway</title></head></html>"


def dialect(provider: str) -> Dialect:
    return PROVIDERS[provider].dialect


def answer(value: Any, status: int = 200, retry_after: float | None = None) -> HttpResponse:
    """An answer with this body, as JSON where it is no bytes."""
    return HttpResponse(status, value if isinstance(value, bytes) else msgspec.json.encode(value), retry_after)


def created(value: Any, status: int = 200, provider: str = "kie", retry_after: float | None = None) -> Created:
    return dialect(provider).read_created(answer(value, status, retry_after))


def status_of(value: Any, status: int = 200, provider: str = "kie", retry_after: float | None = None) -> TaskStatus:
    return dialect(provider).read_status(answer(value, status, retry_after))


def record(**data: Any) -> dict[str, Any]:
    """kie.ai's answer about a task."""
    return {"code": 200, "msg": "success", "data": {"taskId": "t1", "param": "{}", **data}}


def task(**data: Any) -> dict[str, Any]:
    """API in One's answer about a task."""
    return {"code": 200, "message": "success", "data": {"task_id": "t1", **data}}


def kind(event: Created) -> tuple[type[ImagenError], Remedy]:
    """The class and the remedy of a refusal."""
    assert isinstance(event, Rejected)
    return event.failure.kind, event.remedy


# ---------------------------------------------------------------------------------------------- recorded


@pytest.mark.parametrize("name", EXCHANGES)
def test_a_recorded_create_gives_its_task_id(name: str) -> None:
    """The create of each recorded exchange is accepted with the task id that was polled afterwards."""
    exchange = recorded(name)
    event = created(exchange["create"]["body"].encode(), exchange["create"]["http_status"])
    assert event == Accepted(decode_json(exchange["statuses"][0]["body"])["data"]["taskId"])


@pytest.mark.parametrize("name", EXCHANGES)
def test_recorded_statuses_are_read(name: str) -> None:
    """Each recorded poll but the last is pending in a known state, and the last has the URLs and the true latency."""
    *pending, last = [status_of(poll["body"].encode(), poll["http_status"]) for poll in recorded(name)["statuses"]]
    assert pending
    assert all(isinstance(event, Pending) and event.known for event in pending)
    assert isinstance(last, Succeeded)
    data = decode_json(recorded(name)["statuses"][-1]["body"])["data"]
    assert list(last.urls) == decode_json(data["resultJson"])["resultUrls"]
    assert last.latency == LATENCIES[name] == (data["completeTime"] - data["createTime"]) / 1000
    assert last.raw == recorded(name)["statuses"][-1]["body"].encode()


def test_a_task_may_have_more_pictures_than_were_asked_for() -> None:
    """The recorded grok task gave six URLs, all different."""
    event = status_of(recorded(EXCHANGES[1])["statuses"][-1]["body"].encode())
    assert isinstance(event, Succeeded)
    assert len(event.urls) == len(set(event.urls)) == 6


# ---------------------------------------------------------------------------------------------- requests


TASK_IDS = [
    ("f8979ca2ef2635ecbead815bfad6ff24", "f8979ca2ef2635ecbead815bfad6ff24"),
    ("task_imagen4-ultra_1777600000000", "task_imagen4-ultra_1777600000000"),
    ("../credit?x=1&y#z /%", "..%2Fcredit%3Fx%3D1%26y%23z%20%2F%25"),
    ("é", "%C3%A9"),
]


@pytest.mark.parametrize(
    ("provider", "prefix"), [("kie", "/api/v1/jobs/recordInfo?taskId="), ("apiin", "/api/v1/tasks/")]
)
def test_a_status_call_names_the_task_and_nothing_else(provider: str, prefix: str) -> None:
    """A task id is opaque: whatever it holds, it stays in its place of the path."""
    for task_id, quoted in TASK_IDS:
        with naming(task_id):
            request = dialect(provider).build_status(task_id)
            assert (request.method, request.path, request.body) == ("GET", prefix + quoted, None)


@pytest.mark.parametrize(
    ("provider", "path"),
    [("kie", "/api/v1/chat/credit"), ("apikley", "/api/v1/chat/credit"), ("liangxin", None), ("apiin", None)],
)
def test_the_balance_is_asked_where_there_is_such_a_question(provider: str, path: str | None) -> None:
    """kie.ai and Apikley tell their balance, the others have no such question."""
    request = dialect(provider).build_credits()
    assert (None if request is None else (request.method, request.path)) == (path and ("GET", path))


# ----------------------------------------------------------------------------------------------- creates


@pytest.mark.parametrize(
    ("provider", "body", "task_id"),
    [
        ("kie", {"code": 200, "msg": "success", "data": {"taskId": "a1"}}, "a1"),
        ("kie", {"code": 200, "message": "success", "data": {"taskId": "a1", "recordId": "a1"}}, "a1"),
        ("kie", {"code": 200, "data": {"taskId": "task_google_1765172350621"}}, "task_google_1765172350621"),
        ("kie", {"code": "200", "data": {"taskId": "a1"}}, "a1"),
        ("kie", {"code": 200, "data": {"recordId": "a1"}}, "a1"),
        ("kie", {"code": 200, "data": {"taskId": 17}}, "17"),
        ("apikley", {"code": 200, "msg": "success", "data": {"taskId": "a1"}}, "a1"),
        ("liangxin", {"code": 200, "data": {"taskId": "task_imagen4-ultra_1777"}}, "task_imagen4-ultra_1777"),
        ("apiin", {"code": 200, "data": {"task_id": "n47xxxx_imagen4", "status": "IN_PROGRESS"}}, "n47xxxx_imagen4"),
        ("apiin", {"code": 200, "message": "success", "data": {"id": "a1"}}, "a1"),
        ("apiin", {"id": "a1", "status": "IN_PROGRESS"}, "a1"),
        ("apiin", {"task_id": "a1"}, "a1"),
    ],
)  # fmt: skip
def test_a_success_gives_the_task_id(provider: str, body: object, task_id: str) -> None:
    """Every recorded and documented place of the task id is read, and it is taken as it is."""
    assert created(body, provider=provider) == Accepted(task_id)


WITHOUT_TASK_ID = [
    {"code": 200, "msg": "success"},
    {"code": 200, "data": None},
    {"code": 200, "data": {}},
    {"code": 200, "data": []},
    {"code": 200, "data": "t1"},
    {"code": 200, "data": {"state": "waiting"}},
    {"code": 200, "data": {"taskId": None, "task_id": None}},
    {"code": 200, "data": {"task_id": "", "id": ""}},
    {"code": 200, "data": {"taskId": {"id": "t1"}, "task_id": ["t1"]}},
    {"code": 200, "data": {"taskId": True, "task_id": True}},
    {},
    [],
    None,
    "ok",
    b"",
    b"ok",
    HTML,
]


@pytest.mark.parametrize("provider", ALL)
def test_a_success_without_a_task_id_is_lost(provider: str) -> None:
    """A 200 that names no task may have made one: it is lost, never accepted and never free to repeat."""
    for body in WITHOUT_TASK_ID:
        with naming(body):
            event = created(body, provider=provider)
            assert isinstance(event, Lost)
            assert event.failure.kind is ProtocolError


@pytest.mark.parametrize("provider", [*JOBS, "apiin"])
def test_an_empty_task_id_is_none(provider: str) -> None:
    """An empty string names no task, under whatever name it stands."""
    assert isinstance(created({"code": 200, "data": {"taskId": ""}}, provider=provider), Lost)


ROWS: list[tuple[int, str, type[ImagenError], Remedy]] = [
    (400, "bad request", InvalidRequest, Remedy.FAIL),
    (413, "too large", InvalidRequest, Remedy.FAIL),
    (422, "aspect_ratio is not within the range of allowed options", InvalidRequest, Remedy.FAIL),
    (401, "You do not have access permissions", AuthenticationError, Remedy.STOP),
    (402, "Insufficient Credits", InsufficientCredits, Remedy.STOP),
    (404, "not found", ModelUnavailable, Remedy.CLOSE_MODEL),
    (429, "frequency too high", RateLimited, Remedy.BACK_OFF),
    (433, "the sub-key has reached its limit", InsufficientCredits, Remedy.STOP),
    (455, "maintenance", TransportError, Remedy.PAUSE),
    (422, "The model name google/imagen9 is not supported", ModelUnavailable, Remedy.CLOSE_MODEL),
]
"""What each code of a create means, in the body and as HTTP status."""

BODY_ROWS: list[tuple[int, str, type[ImagenError], Remedy]] = [
    (408, "upstream silent for 10 minutes", GenerationFailed, Remedy.NEW_TASK),
    (500, "This field is required", InvalidRequest, Remedy.FAIL),
    (500, "prompt is required", InvalidRequest, Remedy.FAIL),
    (500, "Credits insufficient", InsufficientCredits, Remedy.STOP),
    (500, "Credits are insufficient : please top up", InsufficientCredits, Remedy.STOP),
    (501, "generation failed", GenerationFailed, Remedy.NEW_TASK),
    (505, "feature disabled", ModelUnavailable, Remedy.CLOSE_MODEL),
]
"""What only the API itself can say, in the body: as a bare HTTP status these tell nothing certain."""


@pytest.mark.parametrize("provider", ALL)
def test_every_refusal_in_the_body(provider: str) -> None:
    """The code in the body decides, under HTTP 200 or its own status; nothing was created, and the words are kept."""
    for http_status, (code, text, error, remedy) in itertools.product((200, None), ROWS + BODY_ROWS):
        with naming(http_status, code, text):
            event = created({"code": code, "msg": text, "data": None}, http_status or code, provider)
            assert kind(event) == (error, remedy)
            assert isinstance(event, Rejected)
            assert text in event.failure.message
            assert event.failure.code == code
            assert event.failure.task_id is None


@pytest.mark.parametrize("provider", ALL)
def test_every_refusal_as_a_real_status(provider: str) -> None:
    """LiangXin's platform layer and API in One answer with real statuses; a word or nothing as code changes nothing."""
    for code_of_error, (code, text, error, remedy) in itertools.product(("", None, "some_word", "absent"), ROWS):
        with naming(code_of_error, code, text):
            detail = {"message": text, "type": "new_api_error"}
            if code_of_error != "absent":
                detail["code"] = code_of_error  # type: ignore[assignment]
            event = created({"error": detail}, code, provider)
            assert kind(event) == (error, remedy)
            assert isinstance(event, Rejected)
            assert text in event.failure.message


@pytest.mark.parametrize(
    ("provider", "error"),
    [("kie", AccountError), ("apikley", AccountError), ("liangxin", InsufficientCredits), ("apiin", AccountError)],
)
def test_403_is_no_quota_at_liangxin(provider: str, error: type[ImagenError]) -> None:
    """403 stops the account everywhere, and at LiangXin it means: no quota left."""
    for in_body in (True, False):
        with naming(in_body):
            body = {"code": 403, "msg": "denied"} if in_body else {"error": {"message": "denied", "code": ""}}
            assert kind(created(body, 403, provider)) == (error, Remedy.STOP)


def test_a_403_of_the_edge_is_not_the_keys_fault() -> None:
    """`error code: 1010` is the edge's refusal of a program, not an authentication error."""
    event = created(b"error code: 1010", 403)
    assert kind(event) == (AccountError, Remedy.STOP)
    assert isinstance(event, Rejected)
    assert "1010" in event.failure.message


@pytest.mark.parametrize("provider", ALL)
def test_a_server_that_fails_leaves_the_create_unknown(provider: str) -> None:
    """A real 5xx or 408 without a code of the API's own does not tell whether a task was made: lost."""
    for body, status in itertools.product(
        (HTML, b"", {"msg": "error"}, {"error": {"message": "busy", "code": ""}}, {"error": "x"}),
        (408, 500, 501, 502, 503, 504, 505, 520, 524),
    ):
        with naming(body, status):
            event = created(body, status, provider)
            assert isinstance(event, Lost)
            assert event.failure.code == status


@pytest.mark.parametrize("provider", ALL)
def test_a_code_that_no_page_tells_leaves_the_create_unknown(provider: str) -> None:
    """A body code that is in no table does not tell that nothing was made: lost."""
    for code in (502, 503, 504, 599, 0, 201, 999):
        with naming(code):
            assert isinstance(created({"code": code, "msg": "?", "data": None}, provider=provider), Lost)


@pytest.mark.parametrize("provider", ALL)
def test_a_redirect_stops_the_account_and_names_the_address(provider: str) -> None:
    """A redirect is never followed with the key: it is a setting to correct, and it says where it points."""
    for status in (301, 302, 307, 308):
        with naming(status):
            event = dialect(provider).read_created(HttpResponse(status, b"", location="https://www.kie.ai/api"))
            assert kind(event) == (ConfigurationError, Remedy.STOP)
            assert isinstance(event, Rejected)
            assert "https://www.kie.ai/api" in event.failure.message
            assert isinstance(dialect(provider).read_status(HttpResponse(status, b"", location="https://x")), NoAnswer)


@pytest.mark.parametrize("provider", JOBS)
def test_the_code_in_the_body_comes_before_the_http_status(provider: str) -> None:
    """A task id under any HTTP status is a task, and a refusal in the body is a refusal."""
    for status in (200, 400, 401, 429, 500, 502):
        with naming(status):
            assert created({"code": 200, "data": {"taskId": "t1"}}, status, provider) == Accepted("t1")
            assert kind(created({"code": 429, "msg": "slow"}, status, provider)) == (RateLimited, Remedy.BACK_OFF)
            assert kind(created({"code": 402, "msg": "empty"}, status, provider)) == (InsufficientCredits, Remedy.STOP)


@pytest.mark.parametrize("provider", ALL)
def test_the_servers_own_delay_is_passed_on(provider: str) -> None:
    """Retry-After reaches the account with the refusal."""
    for code in (429, 455):
        with naming(code):
            event = created({"code": code, "msg": "later"}, code, provider, retry_after=7.0)
            assert isinstance(event, Rejected)
            assert event.retry_after == 7.0


def test_a_saturated_group_is_a_limit_even_where_it_speaks_of_quota() -> None:
    """429 is always free to repeat, whatever its words are."""
    body = {"error": {"message": "insufficient quota in group, saturated", "type": "new_api_error", "code": None}}
    assert kind(created(body, 429, "liangxin")) == (RateLimited, Remedy.BACK_OFF)


PLACES_OF_WORDS = [
    {"code": 422, "msg": "the words"},
    {"code": 422, "message": "the words"},
    {"code": "422", "msg": "the words"},
    {"code": 422, "error": {"message": "the words"}},
    {"error": {"message": "the words", "code": 422, "type": "new_api_error"}},
    {"error": {"message": "the words", "code": "422"}},
]


def test_the_message_is_found_wherever_it_stands() -> None:
    """`msg`, an older page's `message`, and `error.message` are all read, and so are their codes."""
    for body in PLACES_OF_WORDS:
        with naming(body):
            event = created(body)
            assert kind(event) == (InvalidRequest, Remedy.FAIL)
            assert isinstance(event, Rejected)
            assert "the words" in event.failure.message


# ---------------------------------------------------------------------------------------------- statuses


@pytest.mark.parametrize("provider", JOBS)
def test_the_documented_states_are_pending(provider: str) -> None:
    """The three states of a task that is not finished, with the nulls that were seen."""
    for state in ("waiting", "queuing", "generating"):
        with naming(state):
            body = record(
                state=state, resultJson="", failCode=None, failMsg=None, costTime=None, createTime=1776850322264
            )
            assert status_of(body, provider=provider) == Pending(state, known=True)


@pytest.mark.parametrize("provider", ALL)
def test_an_unknown_state_is_pending_and_unknown(provider: str) -> None:
    """A state that no page knows counts as pending, and is marked so that it is warned of once."""
    for state in ("dreaming", "", None, 7, ["success"], {"success": True}):
        with naming(state):
            event = status_of(
                {"code": 200, "data": {"state": state, "status": state, "resultJson": ""}}, provider=provider
            )
            assert isinstance(event, Pending)
            assert not event.known


SHAPES_OF_RESULT = [
    f'{{"resultUrls":["{URL}"]}}',
    {"resultUrls": [URL]},
    {"data": {"result_urls": [URL]}},
    f'{{"data":{{"result_urls":["{URL}"]}}}}',
    {"data": f'{{"resultUrls":["{URL}"]}}'},
    {"resultUrls": URL},
    [URL],
    URL,
    {"resultUrls": [{"url": URL}]},
    {"resultUrls": [URL, URL]},
]


@pytest.mark.parametrize("provider", JOBS)
def test_a_result_is_found_in_every_shape_that_was_met(provider: str) -> None:
    """`resultJson` as a string, as an object and nested, with one URL each."""
    for result in SHAPES_OF_RESULT:
        with naming(result):
            event = status_of(record(state="success", resultJson=result), provider=provider)
            assert isinstance(event, Succeeded)
            assert event.urls == (URL,)


def test_all_urls_are_kept_in_order() -> None:
    """More URLs than were asked for are all there, in the provider's order."""
    urls = [f"https://files.example/{number}.png" for number in (3, 1, 2)]
    event = status_of(record(state="success", resultJson=msgspec.json.encode({"resultUrls": urls}).decode()))
    assert isinstance(event, Succeeded)
    assert event.urls == tuple(urls)


WITHOUT_URLS = ["", None, "{}", '{"resultUrls":[]}', {"resultUrls": []}, {"resultUrls": None}, "not json", "{", 7, [[]]]


@pytest.mark.parametrize("provider", ALL)
def test_a_success_without_urls_is_a_failure_not_a_crash(provider: str) -> None:
    """Success without a picture fails with a code of its own, keeps the raw answer, and is never retried."""
    for result in WITHOUT_URLS:
        with naming(result):
            data = {"state": "success", "status": "completed", "resultJson": result, "result": result}
            body = msgspec.json.encode({"code": 200, "data": data})
            event = status_of(body, provider=provider)
            assert isinstance(event, TaskFailed)
            assert event.failure.kind is GenerationFailed
            assert event.failure.code == "no_urls"
            assert event.raw == body


@pytest.mark.parametrize("provider", JOBS)
def test_a_failed_task_tells_code_and_reason(provider: str) -> None:
    """A failed task gives its failCode, digits or a word, and its failMsg."""
    for code in ("500", "422", "SENSITIVE_WORD_ERROR", 501):
        with naming(code):
            body = record(state="fail", failCode=code, failMsg="the prompt is not allowed", creditsConsumed=0.0)
            event = status_of(body, provider=provider)
            assert isinstance(event, TaskFailed)
            assert event.failure.kind is GenerationFailed
            assert (event.failure.code, event.failure.message, event.credits) == (
                code,
                "the prompt is not allowed",
                0.0,
            )


@pytest.mark.parametrize("empty", [None, ""])
def test_a_failed_task_without_a_reason_is_still_a_failure(empty: object) -> None:
    """Nulls and empty strings in place of a reason are met with a sentence."""
    event = status_of(record(state="fail", failCode=empty, failMsg=empty))
    assert isinstance(event, TaskFailed)
    assert event.failure.message


@pytest.mark.parametrize(
    ("times", "latency"),
    [
        ({"createTime": 1776323915587, "completeTime": 1776323928526, "costTime": 12}, 12.939),
        ({"createTime": 1776323915587, "completeTime": 1776323928526, "costTime": 12939}, 12.939),
        ({"createTime": 1776323915587, "completeTime": None, "costTime": 12}, None),
        ({"createTime": 0, "completeTime": -1}, None),
        ({"createTime": "1776323915587", "completeTime": "1776323928526"}, None),
        ({"createTime": True, "completeTime": True}, None),
        ({}, None),
    ],
)
def test_the_latency_is_the_difference_of_the_two_times(times: dict[str, Any], latency: float | None) -> None:
    """completeTime less createTime is the latency; costTime, of two units, is not read."""
    event = status_of(record(state="success", resultJson={"resultUrls": [URL]}, **times))
    assert isinstance(event, Succeeded)
    assert event.latency == latency


@pytest.mark.parametrize(
    ("said", "credits"), [(8.0, 8.0), (8, 8.0), (0.0, 0.0), (None, None), ("8", None), (True, None)]
)
def test_the_credits_of_a_task_are_the_providers_word(said: object, credits: float | None) -> None:
    """creditsConsumed is a number where it is told, and unknown where it is not one."""
    event = status_of(record(state="success", resultJson={"resultUrls": [URL]}, creditsConsumed=said))
    assert isinstance(event, Succeeded)
    assert event.credits == credits


ECHOES = ['{"input":"{\\"prompt\\":\\"x\\"}"}', "{", None, 7, {"input": {}}, f'["{URL}"]']


def test_the_echo_of_the_create_does_not_matter() -> None:
    """`param` holds JSON in JSON, or anything else, and is not read: no URL of the input is taken for a picture."""
    for param in ECHOES:
        with naming(param):
            event = status_of(
                record(state="success", param=param, resultJson={"resultUrls": ["https://files.example/2.png"]})
            )
            assert isinstance(event, Succeeded)
            assert event.urls == ("https://files.example/2.png",)


NO_SUCH_TASK = [
    ({"code": 422, "msg": "recordInfo is null"}, 200),
    ({"code": 422, "msg": "recordInfo is null"}, 422),
    ({"code": 404, "msg": "not found"}, 200),
    ({"error": {"message": "no such task", "code": ""}}, 404),
    (b"404 page not found", 404),
    ({"code": 200, "msg": "success", "data": None}, 200),
]


@pytest.mark.parametrize("provider", ALL)
def test_no_such_task_is_a_denial(provider: str) -> None:
    """ "recordInfo is null", 404 and null data all say: no such task, which is transient or final by its age."""
    for body, status in NO_SUCH_TASK:
        with naming(body, status):
            event = status_of(body, status, provider)
            assert isinstance(event, TaskRefused)
            assert event.failure.kind is InvalidRequest


@pytest.mark.parametrize("provider", ALL)
def test_a_refused_key_is_a_denial_of_a_task(provider: str) -> None:
    """A 401 to a status call denies this task and tells why."""
    for in_body in (True, False):
        with naming(in_body):
            body = {"code": 401, "msg": "no"} if in_body else {"error": {"message": "no"}}
            event = status_of(body, 401, provider)
            assert isinstance(event, TaskRefused)
            assert event.failure.kind is AuthenticationError


NEVER_FAIL = [429, 408, 455, 500, 502, 503, 504, 505, 520, 524]


@pytest.mark.parametrize("provider", ALL)
def test_no_429_and_no_5xx_fails_a_running_task(provider: str) -> None:
    """A limit, a proxy's page or a failing server tells nothing of the task: ask again."""
    for body, status in itertools.product(
        (HTML, b"", {"code": None, "msg": "x"}, {"error": {"message": "x", "code": ""}}), (*NEVER_FAIL, 501)
    ):
        with naming(body, status):
            event = status_of(body, status, provider)
            assert isinstance(event, NoAnswer)
            assert event.limited == (status == 429)


@pytest.mark.parametrize("provider", ALL)
def test_no_429_and_no_5xx_in_the_body_fails_a_running_task(provider: str) -> None:
    """The same codes in the body, under HTTP 200, tell nothing of the task either, and Retry-After is kept."""
    for code in NEVER_FAIL:
        with naming(code):
            event = status_of({"code": code, "msg": "x"}, provider=provider, retry_after=3.0)
            assert isinstance(event, NoAnswer)
            assert event.limited == (code == 429)
            assert event.retry_after == (3.0 if code == 429 else None)


@pytest.mark.parametrize("provider", ALL)
def test_a_200_that_is_no_answer_is_unreadable(provider: str) -> None:
    """A page, half an answer or nothing under HTTP 200 tells nothing of the task: ask again."""
    for body in (HTML, b"", b"{", b"[]", b"null", b"\xff\xfe"):
        with naming(body):
            assert isinstance(status_of(body, provider=provider), NoAnswer)


def test_501_in_the_body_is_a_failed_generation() -> None:
    """kie.ai says 501 for a failed task; it is the task's end, with its message."""
    event = status_of({"code": 501, "msg": "generation failed", "data": None})
    assert isinstance(event, TaskFailed)
    assert event.failure.kind is GenerationFailed
    assert event.failure.message == "generation failed"


# -------------------------------------------------------------------------------------------- API in One


PLACES_OF_URL = [
    {"result": URL},
    {"result": [URL]},
    {"result": {"url": URL}},
    {"result": [{"url": URL}]},
    {"output": URL},
    {"output": [URL]},
    {"output": [{"url": URL}]},
    {"images": [URL]},
    {"images": [{"url": URL}]},
    {"images": {"url": URL}},
    {"urls": [URL]},
    {"urls": URL},
    {"urls": [{"url": URL}]},
    {"result": {"images": [{"url": URL}]}},
    {"result": f'{{"images":["{URL}"]}}'},
]


@pytest.mark.parametrize("word", ["completed", "COMPLETED", "Completed", "success", "succeeded", "SUCCESS"])
def test_api_in_ones_result_is_found_in_all_its_usual_places(word: str) -> None:
    """A finished task's URL is found under every usual word and place, and the raw answer is kept."""
    for result in PLACES_OF_URL:
        with naming(result):
            body = msgspec.json.encode(task(status=word, **result))
            event = status_of(body, provider="apiin")
            assert isinstance(event, Succeeded)
            assert event.urls == (URL,)
            assert event.raw == body


DETAILS = [
    ({"error": {"message": "not allowed", "code": "policy"}}, "not allowed", "policy"),
    ({"error": "not allowed"}, "not allowed", None),
    ({"message": "not allowed"}, "not allowed", None),
]


@pytest.mark.parametrize("word", ["failed", "FAILED", "error", "canceled", "Failed"])
def test_api_in_ones_failure_under_every_usual_word(word: str) -> None:
    """A failed task is found under every usual word, with its reason where it gives one."""
    for detail, message, code in DETAILS:
        with naming(detail):
            event = status_of(task(status=word, **detail), provider="apiin")
            assert isinstance(event, TaskFailed)
            assert event.failure.kind is GenerationFailed
            assert (event.failure.message, event.failure.code) == (message, code)


def test_api_in_ones_waiting_words_are_known() -> None:
    """A task in progress is pending, in any case, with the provider's own word."""
    for word in ("IN_PROGRESS", "in_progress", "In_Progress", "pending", "processing", "queued"):
        with naming(word):
            assert status_of(task(status=word), provider="apiin") == Pending(word, known=True)


def test_api_in_one_may_answer_without_an_envelope() -> None:
    """A flat answer about a task is read like one in `data`."""
    event = status_of({"id": "t1", "status": "completed", "output": [URL]}, provider="apiin")
    assert isinstance(event, Succeeded)
    assert event.urls == (URL,)


# ----------------------------------------------------------------------------------------------- credits


@pytest.mark.parametrize(("balance", "credits"), [(72.62, 72.62), (72, 72.0), (0, 0.0), (-3.5, -3.5)])
def test_the_balance_is_a_number(balance: float, credits: float) -> None:
    """A float, as seen, and an integer, as documented, are both a balance."""
    read = dialect("kie").read_credits(answer({"code": 200, "msg": "success", "data": balance}))
    assert read == credits
    assert type(read) is float


WITHOUT_BALANCE = [
    {"code": 200, "data": None},
    {"code": 200},
    {"code": 200, "data": "many"},
    {"code": 200, "data": {"credits": 7}},
    {"code": 200, "data": True},
    {"code": 500, "msg": "x", "data": 7},
    HTML,
    b"",
    b'{"code":200,"data":1e999}',
]


def no_balance(body: object, status: int = 200) -> type[ImagenError]:
    """The kind of failure that is read in a balance's place."""
    read = dialect("kie").read_credits(answer(body, status))
    assert isinstance(read, Failure)
    return read.kind


def test_an_answer_without_a_balance_is_a_protocol_error() -> None:
    """Whatever holds no number, or says failure, is a ProtocolError and no balance."""
    for body in WITHOUT_BALANCE:
        with naming(body):
            assert no_balance(body) is ProtocolError


@pytest.mark.parametrize("status", [200, 401])
def test_a_refused_key_is_told_when_the_balance_is_asked(status: int) -> None:
    """A 401, in the body or as status, is an AuthenticationError."""
    assert no_balance({"code": 401, "msg": "no"}, status) is AuthenticationError


# -------------------------------------------------------------------------------------- links that are renewed


@pytest.mark.parametrize("provider", ["kie", "sandbox"])
def test_a_new_link_is_asked_for_by_the_old_one(provider: str) -> None:
    """kie.ai, and the sandbox like it, are asked for a new link with a POST that holds just the dead one."""
    request = dialect(provider).build_renewal(URL)
    assert request is not None
    assert (request.method, request.path) == ("POST", "/api/v1/common/download-url")
    assert decode_json(request.body or b"") == {"url": URL}


@pytest.mark.parametrize("provider", ["apikley", "liangxin", "apiin"])
def test_providers_without_such_a_call_are_not_asked_for_a_new_link(provider: str) -> None:
    """Where no page tells of a call for new links, none is written."""
    assert dialect(provider).build_renewal(URL) is None


@pytest.mark.parametrize("provider", ["sandbox", *ALL])
def test_a_new_link_is_read(provider: str) -> None:
    """The documented answer holds the link as a string; one that is wrapped is found too."""
    for data in (URL, {"url": URL}, {"downloadUrl": None, "url": URL}, [URL]):
        with naming(data):
            assert dialect(provider).read_renewal(answer({"code": 200, "msg": "success", "data": data})) == URL


def not_renewed(body: object, status: int = 200) -> Failure:
    """The failed download that is read in a link's place."""
    read = dialect("kie").read_renewal(answer(body, status))
    assert isinstance(read, Failure)
    assert read.kind is DownloadFailed
    return read


@pytest.mark.parametrize("status", [200, 422])
def test_a_link_that_the_provider_does_not_know_is_gone(status: int) -> None:
    """422, "url is wrong", is the provider's word that it does not have the picture, in the body or as status."""
    failure = not_renewed({"code": 422, "msg": "The file url is wrong"}, status)
    assert failure.is_gone
    assert failure.code == 422
    assert "url is wrong" in failure.message


@pytest.mark.parametrize("in_body", [True, False])
def test_a_refusal_for_another_reason_leaves_the_picture_where_it_is(in_body: bool) -> None:
    """A wrong key, a limit, maintenance or a failing server says nothing of the picture: it may be had later."""
    for code in (401, 402, 403, 408, 429, 455, 500, 501, 502, 503):
        with naming(code):
            failure = not_renewed({"code": code, "msg": "no"} if in_body else HTML, 200 if in_body else code)
            assert not failure.is_gone
            assert failure.code == code


def test_an_answer_that_nobody_understands_is_no_word_about_the_picture() -> None:
    """A 200 without a link, such as a proxy's page, does not give up a picture that is paid for."""
    for body in (HTML, b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"code":200}', b'{"code":200,"data":7}'):
        with naming(body):
            assert not not_renewed(body).is_gone


@settings(deadline=None)
@given(body=st.binary(max_size=60), status=st.sampled_from([200, 404, 422, 500]), provider=st.sampled_from(ALL))
def test_an_arbitrary_answer_gives_a_link_or_a_failed_download(body: bytes, status: int, provider: str) -> None:
    """Whatever comes back, reading it raises nothing."""
    read = dialect(provider).read_renewal(answer(body, status))
    assert isinstance(read, str) or read.kind is DownloadFailed
    said = read if isinstance(read, str) else read.message
    assert said
    assert not CONTROL.search(said)


# -------------------------------------------------------------------------------------- arbitrary answers

STATUSES = st.sampled_from(
    [200, 201, 204, 301, 400, 401, 402, 403, 404, 408, 422, 429, 433, 455, 500, 501, 502, 503, 599]
)
LEAVES: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.sampled_from(["success", "completed", "fail", "failed", "waiting", "", "200", "{", '{"resultUrls":[]}', URL]),
)
KEYS = st.sampled_from(
    [
        "code",
        "msg",
        "message",
        "error",
        "data",
        "taskId",
        "recordId",
        "state",
        "status",
        "resultJson",
        "resultUrls",
        "failCode",
        "failMsg",
        "createTime",
        "completeTime",
        "creditsConsumed",
        "result",
        "images",
        "url",
        "credits",
    ]
)
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=6), max_leaves=12
)
ENVELOPES = st.fixed_dictionaries(
    {"code": st.sampled_from([200, 200, 200, "200", 401, 422, 429, 500, 501, None]) | LEAVES, "data": JSON},
    optional={"msg": LEAVES, "message": LEAVES, "error": JSON},
)


def read_both(provider: str, body: bytes, status: int) -> tuple[Created, TaskStatus]:
    """Read an answer as that of a create and as that of a status call, and make sure of what always holds."""
    response = HttpResponse(status, body)
    event, state = dialect(provider).read_created(response), dialect(provider).read_status(response)
    assert isinstance(event, Accepted | Rejected | Lost)
    assert isinstance(state, Pending | Succeeded | TaskFailed | TaskRefused | NoAnswer)
    if isinstance(state, Succeeded):
        assert state.urls
        assert all(url.startswith(("https://", "http://")) for url in state.urls)
    return event, state


@settings(deadline=None)
@given(body=st.binary(max_size=200), status=STATUSES, provider=st.sampled_from(ALL))
def test_arbitrary_bytes_never_raise(body: bytes, status: int, provider: str) -> None:
    """Whatever bytes come under whatever status, something is made of them, and never a task."""
    event, state = read_both(provider, body, status)
    assert not isinstance(event, Accepted)
    assert not isinstance(state, Succeeded | TaskFailed)


@settings(deadline=None)
@given(body=JSON | ENVELOPES, status=STATUSES, provider=st.sampled_from(JOBS))
def test_arbitrary_json_never_raises(body: Any, status: int, provider: str) -> None:
    """Whatever JSON comes under whatever status, something is made of it, and no task has an empty id."""
    event, _ = read_both(provider, msgspec.json.encode(body), status)
    if isinstance(event, Accepted):
        assert event.task_id
        assert body["data"].get("taskId") or body["data"].get("recordId")


@settings(deadline=None)
@given(body=JSON | ENVELOPES, status=STATUSES)
def test_arbitrary_json_never_raises_at_api_in_one(body: Any, status: int) -> None:
    """The same for the other dialect, whose ids may be called `task_id` and `id`."""
    renamed = msgspec.json.encode(body).replace(b'"taskId"', b'"task_id"').replace(b'"recordId"', b'"id"')
    event, _ = read_both("apiin", renamed, status)
    if isinstance(event, Accepted):
        assert event.task_id


SOUND = [
    msgspec.json.encode(body)
    for body in (
        record(state="success", resultJson={"resultUrls": [URL]}, createTime=1776323915587, creditsConsumed=8.0),
        task(status="completed", output=[{"url": URL}]),
        {"code": 422, "msg": "recordInfo is null"},
        {"error": {"message": "denied", "type": "new_api_error", "code": ""}},
    )
]


@settings(deadline=None)
@given(
    sound=st.sampled_from(SOUND),
    place=st.integers(0, 10**6),
    byte=st.integers(0, 127),
    length=st.integers(0, 3),
    provider=st.sampled_from(ALL),
)
def test_a_damaged_answer_raises_nothing(sound: bytes, place: int, byte: int, length: int, provider: str) -> None:
    """A sound answer with some bytes replaced is read as something, as the seam promises."""
    at = place % len(sound)
    read_both(provider, sound[:at] + bytes([byte]) + sound[at + length :], 200)


@pytest.mark.parametrize("provider", ALL)
def test_a_very_deep_answer_is_read_too(provider: str) -> None:
    """JSON that is nested deeper than anybody reads does not bring the reader down."""
    for inner in (b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 100_000 + b"1" + b"}" * 100_000):
        event, state = read_both(provider, b'{"code":200,"data":' + inner + b"}", 200)
        assert isinstance(event, Lost)
        assert isinstance(state, NoAnswer)


@pytest.mark.parametrize("provider", [*JOBS, "apiin"])
def test_an_answer_that_is_no_utf8_tells_nothing(provider: str) -> None:
    """Bytes that are no UTF-8 inside of an answer are a matter of the protocol, and raise no UnicodeDecodeError."""
    for field, reader in (("taskId", "read_created"), ("state", "read_status")):
        with naming(field, reader):
            response = HttpResponse(200, b'{"code":200,"data":{"' + field.encode() + b'":"\xff\xfe"}}')
            event = getattr(dialect(provider), reader)(response)
            assert isinstance(event, Lost | NoAnswer)
            assert event.failure.kind is ProtocolError


# ---------------------------------------------------------------------------------------- a server's words

WORDS = st.text(st.characters(codec="utf-8"), max_size=60).map(lambda text: f"a{text}\x1b[31m\r\n\x00\x7f\x9bz")


@settings(deadline=None)
@given(words=WORDS, code=st.sampled_from([200, 401, 402, 404, 408, 422, 429, 433, 455, 500, 501, 502, 505]))
def test_messages_hold_no_control_characters(words: str, code: int) -> None:
    """A server's words reach a terminal as one line without control characters, whatever carries them."""
    messages = []
    for provider in ALL:
        for body, status in (({"code": code, "msg": words, "data": None}, 200), ({"error": {"message": words}}, code)):
            event, state = created(body, status, provider), status_of(body, status, provider)
            messages += [
                told.failure.message for told in (event, state) if not isinstance(told, Accepted | Pending | Succeeded)
            ]
        for name, field in (("state", "failMsg"), ("status", "message")):
            failed = status_of({"code": 200, "data": {name: "failed", field: words}}, provider=provider)
            odd = status_of({"code": 200, "data": {name: words}}, provider=provider)
            messages += [failed.failure.message] if isinstance(failed, TaskFailed) else []
            messages += [odd.state] if isinstance(odd, Pending) else []
    assert len(messages) > 10
    assert not [message for message in messages if CONTROL.search(message)]


@pytest.mark.parametrize("provider", ALL)
def test_messages_are_bounded(provider: str) -> None:
    """A server's words are cut, so that a page of 10 MB does not go into every log."""
    for event in (
        created({"code": 422, "msg": "x" * 10**6}, provider=provider),
        created(b"x" * 10**6, 404, provider=provider),
        status_of(
            {"code": 200, "data": {"state": "fail", "status": "failed", "failMsg": "x" * 10**6}}, provider=provider
        ),
        status_of({"code": 200, "data": {"state": "x" * 10**6, "status": "x" * 10**6}}, provider=provider),
    ):
        words = event.state if isinstance(event, Pending) else event.failure.message  # type: ignore[union-attr]
        assert len(words) < 1000


def test_the_address_of_a_redirect_is_cleaned_too() -> None:
    """A redirect's address is shown without control characters."""
    event = dialect("kie").read_created(HttpResponse(302, b"", location="https://x\x1b[31m"))
    assert isinstance(event, Rejected)
    assert not CONTROL.search(str(event.failure.exception()))


@pytest.mark.parametrize(
    ("provider", "data"),
    [
        ("kie", {"state": "fail", "failCode": "BAD\x1b[31m\nWORD", "failMsg": "x"}),
        ("apiin", {"status": "failed", "error": {"code": "BAD\x1b[31m\nWORD", "message": "x"}}),
    ],
)
def test_a_word_as_code_holds_no_control_characters_either(provider: str, data: dict[str, Any]) -> None:
    """A failCode is a server's word like its message, and is shown with it."""
    event = status_of({"code": 200, "data": data}, provider=provider)
    assert isinstance(event, TaskFailed)
    assert not CONTROL.search(str(event.failure.exception()))
