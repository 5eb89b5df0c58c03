"""The dialects against every recorded exchange, and every answer that the provider facts list: bytes to a value."""

from __future__ import annotations

import itertools
import re
from typing import Any

import msgspec
import pytest
from builders import failure
from conftest import naming, recorded
from hypothesis import given, settings
from hypothesis import strategies as st

from imagen_async import errors
from imagen_async._core.dialect import Dialect
from imagen_async._core.failure import Failure
from imagen_async._core.wire import (
    Accepted,
    Created,
    HttpRequest,
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
from imagen_async.providers import PROVIDERS

ALL = ("kie", "apikley", "liangxin", "apiin")
JOBS = ("kie", "apikley", "liangxin")
KIE, APIIN = ("kie",), ("apiin",)
URL = "https://files.example/1.png"
HTML = b"<html><head><title>502 Bad Gateway</title></head></html>"
UNREADABLE = (
    *(HTML, b"", b"{", b"[]", b"null", b'"ok"', b"\xff\xfe"),
    # Deeper than anybody reads, and no UTF-8 inside of a good envelope.
    b'{"code":200,"data":' + b"[" * 3000 + b"]" * 3000 + b"}",
    b'{"code":200,"data":' + b'{"a":' * 3000 + b"1" + b"}" * 3001,
    b'{"code":200,"data":{"taskId":"\xff","task_id":"\xff","state":"\xff","status":"\xff"}}',
)
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def dialect(provider: str) -> Dialect:
    """How a provider talks."""
    return PROVIDERS[provider].dialect


def answer(value: Any, status: int = 200, **fields: Any) -> HttpResponse:
    """An answer with this body, as JSON where it is no bytes."""
    return HttpResponse(status, value if isinstance(value, bytes) else msgspec.json.encode(value), **fields)


def created(provider: str, value: Any, status: int = 200, **fields: Any) -> Any:
    """What is read in the answer to a create."""
    return dialect(provider).read_created(answer(value, status, **fields))


def status_of(provider: str, value: Any, status: int = 200, **fields: Any) -> Any:
    """What is read in the answer to a status call."""
    return dialect(provider).read_status(answer(value, status, **fields))


def gist(told: Any) -> Any:
    """A value without the words of its failure, and without the raw answer: both have tests of their own."""
    if isinstance(told, Failure):
        return msgspec.structs.replace(told, message="")
    emptied = {"failure": gist(told.failure)} if hasattr(told, "failure") else {}
    if hasattr(told, "raw"):
        emptied["raw"] = b""
    return msgspec.structs.replace(told, **emptied) if emptied else told


def of(kind: type[errors.ImagenError], code: int | str | None = None, **fields: Any) -> Failure:
    """A failure without its words."""
    return failure(kind, "", code=code, **fields)


def lost(code: int) -> Lost:
    """A create of which nobody can tell whether it made a task."""
    return Lost(of(errors.ProtocolError, code))


def no_answer(code: int) -> NoAnswer:
    """Nothing was learned of a task."""
    return NoAnswer(of(errors.TransportError, code))


def made(*urls: str, latency: float | None = None, credits: float | None = None) -> Succeeded:
    """A task that has finished."""
    return Succeeded(urls or (URL,), latency, credits, b"")


def broke(words: str = "", code: int | str | None = None, credits: float | None = None) -> TaskFailed:
    """A task that has failed."""
    return TaskFailed(failure(errors.GenerationFailed, words, code=code), credits, b"")


def success(**data: Any) -> dict[str, Any]:
    """A good answer about a task, in the envelope that all have."""
    return {"code": 200, "msg": "success", "data": data}


def ended(state: str = "success", **data: Any) -> dict[str, Any]:
    """A task that has come to its end, at either kind of API."""
    return success(state=state, status=state, **data)


def pictured(**data: Any) -> dict[str, Any]:
    """kie.ai's answer about a finished task."""
    return ended(resultJson={"resultUrls": [URL]}, **data)


# -------------------------------------------------------------------------------------- recorded, and questions


@pytest.mark.parametrize(
    ("name", "latency", "count"),
    [
        ("03-gpt-image-2-image-to-image", 48.001, 1),
        ("04-grok-imagine_text-to-image", 12.939, 6),
        ("08-kling-3.0_video", 165.519, 1),
        ("09-seedream_5-lite-image-to-image", 112.5, 1),
        ("10-wan_2-7-image-pro", 28.662, 1),
    ],
)
def test_a_recorded_exchange_is_read_to_its_end(name: str, latency: float, count: int) -> None:
    """Its create names the task that was polled, each poll but the last is pending, and the last has every picture."""
    exchange = recorded(name)
    bodies = [poll["body"].encode() for poll in exchange["statuses"]]
    data = decode_json(bodies[-1])["data"]
    assert created("kie", exchange["create"]["body"].encode()) == Accepted(data["taskId"])
    *pending, last = [status_of("kie", body) for body in bodies]
    assert pending == [Pending(decode_json(body)["data"]["state"]) for body in bodies[:-1]]
    urls = decode_json(data["resultJson"])["resultUrls"]
    assert last == Succeeded(tuple(urls), latency, None, bodies[-1])
    assert (len(bodies) > 1, len(set(urls))) == (True, count)


def test_a_status_call_names_the_task_and_nothing_else() -> None:
    """A task id is opaque: whatever it holds, it stays in its place of the path."""
    ids = {"task_imagen4-ultra_1777": "task_imagen4-ultra_1777", "é": "%C3%A9"}
    ids |= {"../credit?x=1&y#z /%": "..%2Fcredit%3Fx%3D1%26y%23z%20%2F%25"}
    for provider, (task_id, quoted) in itertools.product(ALL, ids.items()):
        place = "/api/v1/tasks/" if provider == "apiin" else "/api/v1/jobs/recordInfo?taskId="
        assert dialect(provider).build_status(task_id) == HttpRequest("GET", place + quoted, None, "status"), provider


def test_what_a_provider_cannot_be_asked_is_not_asked() -> None:
    """The balance, and a new link for a dead one, are asked for where a page tells of such a question."""
    balance = HttpRequest("GET", "/api/v1/chat/credit", None, "credits")
    renewal = HttpRequest("POST", "/api/v1/common/download-url", msgspec.json.encode({"url": URL}), "renewal")
    asked = {name: (dialect(name).build_credits(), dialect(name).build_renewal(URL)) for name in ("sandbox", *ALL)}
    both, none = (balance, renewal), (None, None)
    assert asked == {"sandbox": both, "kie": both, "apikley": (balance, None), "liangxin": none, "apiin": none}


# ----------------------------------------------------------------------------------------------- creates

NAMED: list[tuple[str, dict[str, Any], str]] = [
    ("kie", success(taskId="a1", recordId="a2"), "a1"),
    ("kie", {"code": 200, "data": {"taskId": "task_google_1765172350621"}}, "task_google_1765172350621"),
    ("kie", success(recordId="a1"), "a1"),
    ("kie", success(taskId=17), "17"),
    ("kie", success(taskId="", recordId="a1"), "a1"),
    ("kie", {"code": "200", "data": {"taskId": "a1"}}, "a1"),
    ("kie", {"code": 200.0, "data": {"taskId": "a1"}}, "a1"),
    # A message of a wrong type is no reason to lose a task.
    ("kie", {"code": 200, "msg": ["ok"], "data": {"taskId": "a1"}}, "a1"),
    ("apikley", {"code": 200, "message": "success", "data": {"taskId": "a1"}}, "a1"),
    ("liangxin", success(taskId="task_imagen4-ultra_1777"), "task_imagen4-ultra_1777"),
    ("apiin", success(task_id="n47xxxx_imagen4", status="IN_PROGRESS"), "n47xxxx_imagen4"),
    ("apiin", success(task_id="a1", id="a2", taskId="a3"), "a1"),
    # An older page, and the word of the others.
    ("apiin", success(id="a1", taskId="a2"), "a1"),
    ("apiin", success(taskId="a1"), "a1"),
]


def test_a_success_gives_the_task_id() -> None:
    """Every place of the task id is read, under whatever HTTP status: the code in the body comes first."""
    for provider, body, task_id in NAMED:
        for status in (200, 400, 401, 429, 500, 502):
            with naming(provider, body, status):
                assert created(provider, body, status) == Accepted(task_id)


REFUSALS: dict[tuple[int, str], tuple[type[errors.ImagenError], Remedy]] = {
    (400, "bad request"): (errors.InvalidRequest, Remedy.FAIL),
    (413, "too large"): (errors.InvalidRequest, Remedy.FAIL),
    (422, "aspect_ratio is not within the range of allowed options"): (errors.InvalidRequest, Remedy.FAIL),
    (422, "model input: aspect_ratio 2:3 is not supported"): (errors.InvalidRequest, Remedy.FAIL),
    (401, "You do not have access permissions"): (errors.AuthenticationError, Remedy.STOP),
    (402, "Insufficient Credits"): (errors.InsufficientCredits, Remedy.STOP),
    (404, "not found"): (errors.ModelUnavailable, Remedy.CLOSE_MODEL),
    (429, "frequency too high"): (errors.RateLimited, Remedy.BACK_OFF),
    (429, "insufficient quota in group, saturated"): (errors.RateLimited, Remedy.BACK_OFF),
    (433, "the sub-key has reached its limit"): (errors.InsufficientCredits, Remedy.STOP),
    (455, "maintenance"): (errors.TransportError, Remedy.PAUSE),
    (400, "model google/imagen9 does not exist"): (errors.ModelUnavailable, Remedy.CLOSE_MODEL),
    (422, "The model name google/imagen9 is not supported"): (errors.ModelUnavailable, Remedy.CLOSE_MODEL),
}
"""What a code and its words mean to a create, in the body and as HTTP status."""

REFUSALS_IN_THE_BODY: dict[tuple[int, str], tuple[type[errors.ImagenError], Remedy]] = {
    (408, "upstream silent for 10 minutes"): (errors.GenerationFailed, Remedy.NEW_TASK),
    (500, "This field is required"): (errors.InvalidRequest, Remedy.FAIL),
    (500, "the model is not supported"): (errors.InvalidRequest, Remedy.FAIL),
    (500, "Credits insufficient"): (errors.InsufficientCredits, Remedy.STOP),
    (500, "Credits are insufficient : please top up"): (errors.InsufficientCredits, Remedy.STOP),
    (501, "generation failed"): (errors.GenerationFailed, Remedy.NEW_TASK),
    (505, "feature disabled"): (errors.ModelUnavailable, Remedy.CLOSE_MODEL),
}
"""What only the API itself can say: as a bare HTTP status these tell nothing certain."""


@pytest.mark.parametrize("provider", ALL)
def test_a_refusal_is_read_in_the_body_or_by_its_status(provider: str) -> None:
    """Nothing was created; the words and the provider's own delay are kept. A word as the error's code says nothing."""
    for (code, words), (kind, remedy) in (REFUSALS | REFUSALS_IN_THE_BODY).items():
        answers = [({"code": code, "msg": words, "data": None}, status) for status in (200, code, 502)]
        if (code, words) in REFUSALS:
            said: list[dict[str, Any]] = [{"code": ""}, {"code": None}, {"code": "some_word"}, {}]
            answers += [({"error": {"message": words, "type": "new_api_error", **each}}, code) for each in said]
        for body, status in answers:
            with naming(body, status):
                told = created(provider, body, status, retry_after=7.0)
                assert gist(told) == Rejected(of(kind, code), remedy, retry_after=7.0)
                assert told.failure.message.endswith(f": {words}")


A1 = {"taskId": "a1"}
NO_CODES = ("４２２", "0000422", "", "ok", None, True, 422.5)
FAILING = (408, 500, 501, 502, 503, 504, 505, 520, 524)
DENIED = {"error": {"message": "denied", "code": ""}}
DENIED_IN_BODY = {"code": 403, "msg": "denied"}
FORBIDDEN = Rejected(of(errors.AccountError, 403), Remedy.STOP)
NO_QUOTA = Rejected(of(errors.InsufficientCredits, 403), Remedy.STOP)
NAMELESS: list[Any] = [
    *({"code": 200, "data": data} for data in (None, {}, [], "t1", {"state": "waiting"})),
    *({"code": 200, "data": {"taskId": none, "task_id": none}} for none in (None, "", True, {"id": "t1"}, ["t1"])),
    *({"code": 200, "msg": "success"}, {}, *UNREADABLE),
]
TELLS_NOTHING = (HTML, b"", {"msg": "error"}, {"error": {"message": "busy", "code": ""}}, {"error": "x"})
CREATED: list[tuple[tuple[str, ...], Any, int, Created]] = [
    # A flat answer is read like one in `data`.
    *((APIIN, body, 200, Accepted("a1")) for body in ({"task_id": "a1"}, {"id": "a1", "status": "IN_PROGRESS"})),
    # What is no code is not looked at: the HTTP status speaks.
    *((KIE, {"code": code, "data": A1}, status, Accepted("a1")) for code in NO_CODES for status in (200, 201, 299)),
    *(
        (KIE, {"code": code, "data": A1}, 422, Rejected(of(errors.InvalidRequest, 422), Remedy.FAIL))
        for code in NO_CODES
    ),
    # A 200 that names no task may have made one: never accepted, and never free to repeat.
    *((ALL, body, 200, lost(200)) for body in NAMELESS),
    # A real 5xx or 408 without a code of the API's own may be a proxy's, behind which a task was made.
    *((ALL, body, code, lost(code)) for body in TELLS_NOTHING for code in FAILING),
    # A code that is in no table does not tell that nothing was made; nor does an error that comes under 200.
    *((ALL, {"code": code, "data": None}, 200, lost(code)) for code in (502, 503, 504, 599, 0, 201, 302, 999)),
    (ALL, {"error": {"message": "x"}, "data": {"taskId": "t1", "task_id": "t1"}}, 200, lost(0)),
    # At LiangXin 403 means: no quota left. The edge's refusal of a program is no word about the account.
    (("kie", "apikley", "apiin"), DENIED_IN_BODY, 403, FORBIDDEN),
    (APIIN, DENIED, 403, FORBIDDEN),
    *((("liangxin",), body, 403, NO_QUOTA) for body in (DENIED_IN_BODY, DENIED)),
    (ALL, b"error code: 1010", 403, FORBIDDEN),
]


def test_whatever_is_no_clear_word_leaves_a_create_unknown() -> None:
    """Lost, and not free to repeat; only what is plainly a task is accepted, and only a plain refusal is one."""
    for providers, body, status, expected in CREATED:
        for provider in providers:
            with naming(provider, body, status):
                assert gist(created(provider, body, status)) == expected


@pytest.mark.parametrize("status", [300, 301, 302, 307, 308, 399])
def test_a_redirect_stops_the_account_and_names_the_address(status: int) -> None:
    """It is never followed with the key: it is a setting to correct, and it says where it points, safe to print."""
    bodies = ({"data": {"taskId": "t1", "task_id": "t1"}}, {"error": "moved"}, b"")
    for provider, body, where in itertools.product(ALL, bodies, ("https://www.kie.ai/api", "https://x\x1b[31m", None)):
        with naming(provider, body, where):
            told = created(provider, body, status, location=where)
            assert gist(told) == Rejected(of(errors.ConfigurationError, status), Remedy.STOP)
            assert (where or "another address").replace("\x1b", " ") in told.failure.message
            assert gist(status_of(provider, b"", status, location=where)) == no_answer(status)


WORDED: list[dict[str, Any]] = [
    {"code": 422, "msg": "the words", "message": "others", "error": "others"},
    {"code": "000422", "message": "the words"},
    {"code": 422, "error": "the words"},
    {"code": 422, "error": {"message": "the words"}},
    {"error": {"message": "the words", "code": 422, "type": "new_api_error"}},
    {"error": {"message": "the words", "code": "422"}},
]


def test_the_words_of_a_refusal_are_found_wherever_they_stand() -> None:
    """`msg`, an older page's `message`, and `error.message` are all read, and so are their codes."""
    why = failure(errors.InvalidRequest, "The provider refused the request: the words", code=422)
    for body in WORDED:
        assert created("kie", body) == Rejected(why, Remedy.FAIL), body


# ---------------------------------------------------------------------------------------------- statuses

WAITING = [
    "waiting",
    "queuing",
    "generating",
    "IN_PROGRESS",
    "In_Progress",
    "queued",
    "pending",
    "processing",
    "running",
]
SUCCEEDED = ["success", "SUCCESS", "succeeded", "successful", "completed", "Completed", "complete", "done", "finished"]
FAILED = ["fail", "failed", "Failed", "FAILED", "failure", "error", "canceled", "cancelled", "expired"]
ODD_STATES = {"dreaming": "dreaming", "": "", None: "None", 7: "7", ("success",): "['success']", "x" * 501: "x" * 500}
NULLS = {"resultJson": "", "failCode": None, "failMsg": None, "costTime": None, "createTime": 1776850322264}


@pytest.mark.parametrize("provider", ALL)
def test_a_state_is_known_by_any_of_its_words(provider: str) -> None:
    """In any case of letters; a word that no page knows counts as pending, and is marked so that it is told once."""

    def told(word: Any, **data: Any) -> Any:
        return gist(status_of(provider, ended(word, **data)))

    assert {word: told(word, **NULLS) for word in WAITING} == {word: Pending(word) for word in WAITING}
    found = {word: told(word, resultJson={"url": URL}, result=URL) for word in SUCCEEDED}
    assert found == dict.fromkeys(SUCCEEDED, made())
    broken = {word: told(word, failMsg="too dark", message="too dark") for word in FAILED}
    assert broken == dict.fromkeys(FAILED, broke())
    odd = {word: told(word) for word in ODD_STATES}
    assert odd == {word: Pending(shown, known=False) for word, shown in ODD_STATES.items()}


RESULTS: list[tuple[Any, tuple[str, ...]]] = [
    # As recorded, as an object, nested, as a text in each of them.
    (f'{{"resultUrls":["{URL}"]}}', (URL,)),
    ({"resultUrls": [URL]}, (URL,)),
    ({"data": {"result_urls": [URL]}}, (URL,)),
    (f'{{"data":{{"result_urls":["{URL}"]}}}}', (URL,)),
    ({"data": f'{{"resultUrls":["{URL}"]}}'}, (URL,)),
    (f'["{URL}"]', (URL,)),
    *((alone, (URL,)) for alone in (URL, [URL], {"resultUrls": URL})),
    *(({key: [{"url": URL}]}, (URL,)) for key in ("resultUrls", "resultUrl", "urls", "images", "output", "result")),
    # Five deep at most, of whatever kinds.
    ([[[[[URL]]]]], (URL,)),
    ({"data": {"data": {"data": {"data": {"data": URL}}}}}, (URL,)),
    ([[[f'["{URL}"]']]], (URL,)),
    *((deep, ()) for deep in ([[[[[[URL]]]]]], [[[[f'["{URL}"]']]]], {"data": {"data": {"data": {"data": [[URL]]}}}})),
    # Each once, in the provider's order, as many as there are; the first place that leads anywhere is the result.
    ({"resultUrls": [URL, URL]}, (URL,)),
    ([f"{URL}?3", f"{URL}?1", f"{URL}?2"], (f"{URL}?3", f"{URL}?1", f"{URL}?2")),
    ({"url": "https://files.example/small.png", "resultUrls": [URL]}, (URL,)),
    ({"resultUrls": [], "images": [URL]}, (URL,)),
    # What is printed is safe to print.
    ("http://files.example/a fox.png", ("http://files.example/a%20fox.png",)),
    ("https://files.example/a\nfox.png", ("https://files.example/a%0Afox.png",)),
    *((none, ()) for none in ("", None, "{}", "not json", "{", 7, [[]], "ftp://files.example/1", f'"{URL}"')),
    *((none, ()) for none in ({"resultUrls": []}, {"resultUrls": None})),
]


def test_pictures_are_found_in_every_shape_that_was_met() -> None:
    """A success without any may have been billed: it keeps the whole answer, and a code by which it is not retried."""
    for result, urls in RESULTS:
        found = made(*urls, credits=8.0) if urls else broke(code="no_urls", credits=8.0)
        bodies = [(provider, ended(resultJson=result, creditsConsumed=8)) for provider in JOBS]
        bodies += [("apiin", ended(**result, credits=8))] if isinstance(result, dict) else []
        for provider, body in bodies:
            with naming(provider, body):
                told = status_of(provider, body)
                assert gist(told) == found
                assert urls or (told.raw, "no picture" in told.failure.message) == (msgspec.json.encode(body), True)


MILLISECONDS = {"createTime": 1776323915587, "completeTime": 1776323928526}
ECHOES = ('{"input":"{\\"prompt\\":\\"x\\"}"}', "{", None, 7, {}, '["https://files.example/in.png"]')
STANDINGS: list[tuple[str, dict[str, Any], TaskStatus]] = [
    # costTime is of two units, and not read.
    *(("kie", pictured(**MILLISECONDS, costTime=cost), made(latency=12.939)) for cost in (None, 12, 12939)),
    ("kie", pictured(createTime=1000, completeTime=1000), made(latency=0.0)),
    ("kie", pictured(createTime=1000, completeTime=None, costTime=12), made()),
    ("kie", pictured(completeTime=1000), made()),
    ("kie", pictured(createTime=0, completeTime=-1), made()),
    ("kie", pictured(createTime="1000", completeTime="2000", creditsConsumed="8"), made()),
    ("kie", pictured(createTime=True, completeTime=True, creditsConsumed=True), made()),
    *(("kie", pictured(creditsConsumed=told), made(credits=float(told))) for told in (8.5, 8, 0.0, 1e18)),
    ("kie", pictured(creditsConsumed=2e18), made()),
    # The echo of the create is not read: no URL of the input is taken for a picture.
    *(("kie", pictured(param=param), made()) for param in ECHOES),
    ("kie", ended("fail", failCode="500", failMsg="dark", creditsConsumed=0), broke("dark", "500", 0.0)),
    ("kie", ended("fail", failCode="DARK", failMsg="dark"), broke("dark", "DARK")),
    ("liangxin", ended("fail", failCode=501, failMsg="dark"), broke("dark", 501)),
    ("kie", ended("fail", failCode=None, failMsg=None), broke("no reason given")),
    ("kie", ended("fail", failCode="", failMsg=""), broke("no reason given", "")),
    ("kie", ended("fail", failCode=[1], failMsg=["dark"]), broke("['dark']")),
    ("kie", {"code": 501, "msg": "generation failed", "data": None}, broke("generation failed", 501)),
    ("kie", {"code": 501, "data": None}, broke("no reason given", 501)),
    ("apiin", ended("fail", error={"message": "dark", "code": "DARK"}), broke("dark", "DARK")),
    ("apiin", ended("fail", error="dark", credits=2), broke("dark", None, 2.0)),
    ("apiin", ended("fail", message="dark"), broke("dark")),
    ("apiin", ended("fail"), broke("success")),
    ("apiin", {"code": 200, "data": {"status": "failed"}}, broke("no reason given")),
    ("apiin", success(state="queued"), Pending("queued")),
    ("apiin", success(state="success", status="queued"), Pending("queued")),
    ("apiin", ended(result=f'{{"images":["{URL}"]}}'), made()),
    ("apiin", ended(result={"images": {"url": URL}}, credits=4), made(credits=4.0)),
    ("apiin", {"id": "t1", "status": "completed", "output": [URL]}, made()),
]


def test_a_task_s_end_is_read_with_latency_credits_and_reason() -> None:
    """As the provider tells them, and unknown where it tells none; the raw answer is kept."""
    for provider, body, expected in STANDINGS:
        with naming(provider, body):
            raw = msgspec.json.encode(body)
            kept = {} if isinstance(expected, Pending) else {"raw": raw}
            assert status_of(provider, raw) == msgspec.structs.replace(expected, **kept)


NO_TASK = {"code": 422, "msg": "recordInfo is null"}
DENIALS: list[tuple[Any, int, type[errors.ImagenError], int]] = [
    # Transient or final, by the task's age.
    *((NO_TASK, status, errors.InvalidRequest, 422) for status in (200, 422)),
    ({"code": 404, "msg": "not found"}, 200, errors.InvalidRequest, 404),
    *((body, 404, errors.InvalidRequest, 404) for body in (b"404 page not found", DENIED)),
    ({"code": 200, "msg": "success", "data": None}, 200, errors.InvalidRequest, 200),
    *((body, 401, errors.AuthenticationError, 401) for body in ({"code": 401, "msg": "no"}, DENIED)),
    ({"code": 403, "msg": "no"}, 200, errors.AuthenticationError, 403),
    *(({"code": code, "msg": "no"}, 200, errors.AccountError, code) for code in (400, 402, 499)),
]


@pytest.mark.parametrize("provider", ALL)
def test_no_answer_but_a_plain_denial_says_anything_of_a_running_task(provider: str) -> None:
    """A limit, a proxy's page, a failing server, half an answer: ask again, after the provider's own delay."""
    for body, status, kind, code in DENIALS:
        with naming(body, status):
            assert gist(status_of(provider, body, status)) == TaskRefused(of(kind, code))
    limited = NoAnswer(of(errors.RateLimited, 429), limited=True, retry_after=3.0)
    bodies = (HTML, b"", {"code": None, "msg": "x"}, {"error": {"message": "x", "code": ""}})
    for code in (408, 429, 455, 500, 501, 502, 503, 504, 505, 520, 524):
        in_body = [] if code == 501 else [({"code": code, "msg": "x"}, 200)]
        for body, status in [*in_body, *((body, code) for body in bodies)]:
            with naming(body, status):
                told = gist(status_of(provider, body, status, retry_after=3.0))
                assert told == (limited if code == 429 else no_answer(code))
    for body in UNREADABLE:
        with naming(body[:90]):
            told = status_of(provider, body)
            assert isinstance(told, NoAnswer)
            assert (told.limited, told.failure.kind) in {(False, errors.TransportError), (False, errors.ProtocolError)}


# ------------------------------------------------------------------------------------- balances and new links

BALANCES: list[tuple[Any, int, float | Failure]] = [
    # A float, as seen, or an integer, as documented.
    *(({"code": 200, "msg": "success", "data": said}, 200, float(said)) for said in (72.62, 72, 0, -3.5)),
    *(
        ({"code": 200, "data": none}, 200, of(errors.ProtocolError, 200))
        for none in (None, "many", {"credits": 7}, True)
    ),
    *(
        (body, 200, of(errors.ProtocolError, 200))
        for body in ({"code": 200}, b'{"code":200,"data":1e999}', *UNREADABLE)
    ),
    ({"code": 500, "msg": "x", "data": 7}, 200, of(errors.ProtocolError, 500)),
    *(({"code": 401, "msg": "no"}, status, of(errors.AuthenticationError, 401)) for status in (200, 401)),
    (HTML, 403, of(errors.AuthenticationError, 403)),
]


def no_link(code: int, *, is_gone: bool = False) -> Failure:
    """What is read in a new link's place."""
    return of(errors.DownloadFailed, code, is_gone=is_gone)


LINKS: list[tuple[Any, int, str | Failure]] = [
    *((success() | {"data": data}, 200, URL) for data in (URL, {"url": URL}, {"downloadUrl": None, "url": URL}, [URL])),
    # Only the API's own word gives up a picture that is paid for: no proxy's page, no limit and no wrong key does.
    *(({"code": code, "msg": "url is wrong"}, 200, no_link(code, is_gone=True)) for code in (400, 404, 410, 422)),
    ({"code": 422, "msg": "url is wrong"}, 422, no_link(422, is_gone=True)),
    *(({"code": code, "msg": "no"}, 200, no_link(code)) for code in (401, 402, 403, 405, 408, 411, 423, 429, 501)),
    *((HTML, code, no_link(code)) for code in (400, 404, 408, 410, 422, 429, 500, 502, 503)),
    *((body, 200, no_link(200)) for body in (*UNREADABLE, b'{"code":200}', b'{"code":200,"data":7}')),
]


def test_a_balance_or_a_new_link_is_read_or_why_there_is_none() -> None:
    """A balance is a number; a link that the provider does not know is gone, and any other may be had later."""
    for body, status, balance in BALANCES:
        with naming(body, status):
            read = dialect("kie").read_credits(answer(body, status))
            assert (type(read), gist(read) if isinstance(read, Failure) else read) == (type(balance), balance)
    for provider, (body, status, link) in itertools.product(("sandbox", *ALL), LINKS):
        with naming(provider, body, status):
            found = dialect(provider).read_renewal(answer(body, status))
            assert (gist(found) if isinstance(found, Failure) else found) == link
            assert isinstance(found, str) or "url is wrong" in found.message or not found.is_gone


# ------------------------------------------------------------------------------------------ arbitrary answers

STATUSES = st.sampled_from([200, 200, 201, 204, 301, 400, 401, 402, 404, 408, 422, 429, 433, 455, 500, 501, 503, 599])
WORDS = st.text(st.characters(codec="utf-8"), max_size=20).map(lambda text: f"a{text}\x1b[31m\r\n\x00\x7f\x9bz")
LEAVES: st.SearchStrategy[Any] = st.one_of(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False),
    WORDS,
    st.sampled_from(["success", "completed", "fail", "failed", "waiting", "", "200", "{", '{"resultUrls":[]}', URL]),
)
KEYS = st.sampled_from(
    sorted(
        {"code", "msg", "message", "error", "data", "taskId", "task_id", "recordId", "id", "state", "status", "url"}
        | {"resultJson", "resultUrls", "failCode", "failMsg", "creditsConsumed", "images", "credits"}
    )
)
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=6), max_leaves=12
)
ENVELOPES = st.fixed_dictionaries(
    {"code": st.sampled_from([200, 200, 200, "200", 401, 422, 429, 500, 501, None]) | LEAVES, "data": JSON},
    optional={"msg": LEAVES, "message": LEAVES, "error": JSON},
)
SOUND = [pictured(creditsConsumed=8.0), ended(task_id="t1", output=[{"url": URL}]), NO_TASK, DENIED]
DAMAGED = st.builds(
    lambda sound, at, byte, length: sound[:at] + byte + sound[at + length :],
    st.sampled_from(SOUND).map(msgspec.json.encode),
    st.integers(0, 99),
    st.binary(max_size=1),
    st.integers(0, 3),
)
BODIES = st.one_of(st.binary(max_size=200), DAMAGED, (JSON | ENVELOPES).map(msgspec.json.encode))


def read_all(provider: str, body: bytes, status: int) -> list[Any]:
    """What each reader makes of an answer, which is one of the values that it may be, in words that can be shown."""
    spoken, response = dialect(provider), HttpResponse(status, body)
    told = [spoken.read_created(response), spoken.read_status(response)]
    told += [spoken.read_renewal(response), spoken.read_credits(response)]
    for value, kinds in zip(told, (Created, TaskStatus, str | Failure, float | Failure), strict=True):
        assert isinstance(value, kinds)
        # Of an id nothing is promised: it is opaque.
        words = "" if isinstance(value, Accepted) else words_of(value)
        assert not CONTROL.search(words)
        assert len(words) < 1200
    return told


def words_of(told: Any) -> str:
    """What people are shown of it: its own words, a state, a code."""
    if isinstance(told, Pending):
        return told.state
    why = getattr(told, "failure", told)
    if isinstance(why, Failure):
        return str(why.exception())
    return " ".join(told.urls) if isinstance(told, Succeeded) else str(told)


@settings(deadline=None, max_examples=150)
@given(body=BODIES, status=STATUSES, provider=st.sampled_from(ALL))
def test_whatever_comes_something_is_made_of_it(body: bytes, status: int, provider: str) -> None:
    """No answer is an error, no task has an empty name, each link can be followed, and all is safe in a terminal."""
    made_of, standing, *_ = read_all(provider, body, status)
    assert made_of != Accepted("")
    if isinstance(standing, Succeeded):
        assert standing.urls
        assert all(url.startswith(("https://", "http://")) for url in standing.urls)


@pytest.mark.parametrize("words", ["x" * 10**5, "BAD\x1b[31m\r\n\x00\x7f\x9bWORD"], ids=["long", "odd"])
def test_a_servers_words_are_one_short_line(words: str) -> None:
    """A page of 10 MB does not go into every log, and no control character reaches a terminal, whatever has them."""
    bodies: list[tuple[Any, int]] = [
        *(({"code": code, "msg": words}, 200) for code in (401, 422, 429, 500, 501)),
        *(({"error": {"message": words}}, code) for code in (401, 404, 422, 502)),
        (ended("failed", failMsg=words, failCode=words, error={"code": words, "message": words}), 200),
        (ended(words), 200),
        (words.encode(), 404),
    ]
    for provider, (body, status) in itertools.product(ALL, bodies):
        with naming(provider, status):
            assert any(words[:3] in words_of(each) for each in read_all(provider, answer(body).body, status))
    page = created("kie", b"x" * 300, 404)
    assert page.failure.message.endswith(f"model: {'x' * 200}"), "of a page the beginning is enough"
