"""The dialects against every recorded exchange, and every answer that the provider facts list: bytes to a value."""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Callable
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import inner
import msgspec
import pytest
from builders import failure
from conftest import naming, recorded
from hypothesis import given, settings
from hypothesis import strategies as st

from imagen_async import errors
from imagen_async.providers import PROVIDERS, JobsDialect, TasksDialect

DIALECTS = {name: record.dialect for name, record in PROVIDERS.items() if not record.is_service}
ALL = ("kie", "apikley", "liangxin", "apiin")
JOBS, KIE, APIIN = ALL[:3], ("kie",), ("apiin",)
URL = "https://files.example/1.png"
HTML = b"<html><head><title>502 Bad Gateway</title></head></html>"
UNREADABLE = (
    *(HTML, b"", b"{", b"[]", b"null", b'"ok"', b"\xff\xfe"),
    # Deeper than anybody reads, cut, or what a page has in its scripts.
    b'{"code":200,"data":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    b'{"code":200,"data":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001,
    *(b'{"code":200,"data":{"taskId":"t1","task_id":"t1"}', b"{'code':200}", b"[200,1]"),
    b'<html><script>var page = {"code":200,"data":{"taskId":"t1","task_id":"t1","state":"fail"}}</script></html>',
)
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
ANSWERS = json.loads((Path(__file__).parent / "data" / "answers.json").read_text())


def rows_of(section: str) -> list[Any]:
    """Real answers, and likely ones, with what is to be read in them."""
    return [row for rows in ANSWERS[section].values() for row in rows]


def answer(value: Any, status: int = 200, **fields: Any) -> inner.HttpResponse:
    """An answer with this body, as JSON where it is no bytes."""
    return inner.HttpResponse(status, value if isinstance(value, bytes) else msgspec.json.encode(value), **fields)


def created(provider: str, value: Any, status: int = 200, **fields: Any) -> Any:
    """What is read in the answer to a create."""
    return DIALECTS[provider].read_created(answer(value, status, **fields))


def status_of(provider: str, value: Any, status: int = 200, own: tuple[str, ...] = ("t1",), **fields: Any) -> Any:
    """What is read in the answer to a status call about a task."""
    return DIALECTS[provider].read_status(answer(value, status, **fields), *own)


def gist(told: Any) -> Any:
    """A value without the words of its failure, and without the raw answer: both have tests of their own."""
    if isinstance(told, inner.Failure):
        return msgspec.structs.replace(told, message="")
    if isinstance(told, inner.LinksMissing):
        return inner.LinksMissing(gist(told.outcome))
    if hasattr(told, "failure"):
        told = msgspec.structs.replace(told, failure=gist(told.failure))
    return msgspec.structs.replace(told, raw=b"") if hasattr(told, "raw") else told


def of(kind: type[errors.ImagenError], code: int | str | None = None, **fields: Any) -> inner.Failure:
    """A failure without its words."""
    return failure(kind, "", code=code, **fields)


def lost(code: int, retry_after: float | None = None) -> inner.Lost:
    """A create of which nobody can tell whether it made a task."""
    return inner.Lost(of(errors.ProtocolError, code), retry_after)


def made(*urls: str, latency: float | None = None, credits: float | None = None) -> inner.Succeeded:
    """A task that has finished."""
    return inner.Succeeded(urls or (URL,), latency, credits, b"")


def broke(words: str = "", code: int | str | None = None, credits: float | None = None) -> inner.TaskFailed:
    """A task that has failed."""
    return inner.TaskFailed(failure(errors.GenerationFailed, words, code=code), credits, b"")


def ended(state: str = "success", **data: Any) -> dict[str, Any]:
    """A task that has come to its end, at either kind of API."""
    return {"code": 200, "msg": "success", "data": {"state": state, "status": state, **data}}


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
    data = inner.decode_json(bodies[-1])["data"]
    assert created("kie", exchange["create"]["body"].encode()) == inner.Accepted(data["taskId"])
    *pending, last = [status_of("kie", body, own=(data["taskId"],)) for body in bodies]
    assert pending == [inner.Pending(inner.decode_json(body)["data"]["state"]) for body in bodies[:-1]]
    urls = inner.decode_json(data["resultJson"])["resultUrls"]
    assert last == inner.Succeeded(tuple(urls), latency, None, bodies[-1])
    assert (len(bodies) > 1, len(set(urls))) == (True, count)


def test_a_status_call_names_the_task_and_nothing_else() -> None:
    """A task id is opaque: whatever it holds, it stays in its place of the path."""
    ids = {"task_imagen4-1é": "task_imagen4-1%C3%A9", "../credit?x=1&y#z /%": "..%2Fcredit%3Fx%3D1%26y%23z%20%2F%25"}
    for provider, (task_id, quoted) in itertools.product(ALL, ids.items()):
        place = "/api/v1/tasks/" if provider == "apiin" else "/api/v1/jobs/recordInfo?taskId="
        with naming(provider, task_id):
            assert DIALECTS[provider].build_status(task_id) == inner.HttpRequest("GET", place + quoted, None, "status")


def test_a_record_that_cannot_be_spoken_is_refused() -> None:
    """Where it is made, and with what is allowed: not in the midst of a batch, nor in the sandbox alone."""
    for form in ("{nope}", "{0}", "{}", "{", "{hex:d}", "{hex.x}", "{number[0]}", "always-the-same", "{model}", "", 7):
        for kind in (JobsDialect, TasksDialect):
            with naming(form, kind), pytest.raises(errors.ConfigurationError) as caught:
                kind(task_id_form=form)
            assert "allowed is a text with {hex} or {number} in it, and {model}" in caught.value.message
    for name in ("create_path", "status_path", "credits_path", "renewal_path", "models_path", "schema_path"):
        with (
            naming(name),
            pytest.raises(errors.ConfigurationError, match=f"{name}='v2/x.*it must be a path that begins with one /"),
        ):
            JobsDialect(**{name: "v2/x{task_id}{model}"})


def test_what_a_provider_cannot_be_asked_is_not_asked() -> None:
    """The balance, and a new link for a dead one, are asked for where a page tells of such a question."""
    balance = inner.HttpRequest("GET", "/api/v1/chat/credit", None, "credits")
    renewal = inner.HttpRequest("POST", "/api/v1/common/download-url", msgspec.json.encode({"url": URL}), "renewal")
    asked = {name: (dialect.build_credits(), dialect.build_renewal(URL)) for name, dialect in DIALECTS.items()}
    both, none = (balance, renewal), (None, None)
    own = inner.HttpRequest("GET", "/chat/credit", None, "credits")
    others = {"apikley": (balance, None), "liangxin": none, "apiin": none, "modkie": (own, None), "ruxa": none}
    assert asked == {"sandbox": both, "kie": both, **others}


def test_a_success_gives_the_task_id() -> None:
    """Every place of the task id is read, under whatever HTTP status: the code in the body comes first."""
    for provider, body, task_id in rows_of("tasks that were made"):
        for status in (200, 400, 401, 429, 500, 502):
            with naming(provider, body, status):
                assert created(provider, body, status).task_id == task_id


@pytest.mark.parametrize("provider", ALL)
@pytest.mark.parametrize("where", ANSWERS["refusals"])
def test_a_refusal_is_read_in_the_body_or_by_its_status(provider: str, where: str) -> None:
    """Nothing was created; the words and the provider's own delay are kept. A word as the error's code says nothing."""
    for code, words, kind, remedy in ANSWERS["refusals"][where]:
        refused = {"code": code, "msg": words, "data": None}
        answers = [(refused, status) for status in ((200,) if code == 408 else (200, code))]
        if where == "in the body, or by the HTTP status":
            said: list[dict[str, Any]] = [{"code": ""}, {"code": None}, {"code": "some_word"}, {}]
            answers += [({"error": {"message": words, "type": "new_api_error", **each}}, code) for each in said]
        for body, status in answers:
            with naming(body, status):
                told = created(provider, body, status, retry_after=7.0)
                why = of(getattr(errors, kind), code)
                assert gist(told) == inner.Rejected(why, inner.Remedy[remedy], retry_after=7.0)
                assert told.failure.message.endswith(f": {words}")
        # Under a gateway's status, and behind 303, no body's word tells that no task was made; but its task is one.
        for status in GATEWAYS:
            with naming(code, status):
                assert gist(created(provider, refused, status, retry_after=7.0)) == lost(status, 7.0)
                assert created(provider, {**refused, "data": {"task_id": "a1"}}, status) == TASK


GATEWAYS = (303, 408, 425, 499, 502, 503, 504, 520, 522, 524, 529, 530, 598, 599)
A1 = {"taskId": "a1"}
NO_CODES = ("４２２", "0000422", "", "ok", None, True, 422.5)
FAILING = (408, 500, 501, 502, 503, 504, 505, 520, 524)
DENIED = {"error": {"message": "denied", "code": ""}}
DENIED_IN_BODY = {"code": 403, "msg": "denied"}
FORBIDDEN = inner.Rejected(of(errors.AccountError, 403), inner.Remedy.STOP)
NO_QUOTA = inner.Rejected(of(errors.InsufficientCredits, 403), inner.Remedy.STOP)
INVALID = inner.Rejected(of(errors.InvalidRequest, 422), inner.Remedy.FAIL)
TASK = inner.Accepted("a1")
NO_IDS = (None, "", " ", "\t\n", "null", "undefined", "0", "0000-00", 0, -1, True, 1.5, {"no": "t1"}, ["t1", "t2"])
NO_IDS += ("N/A", "{}", "False", "a\0b", "a\x1b[31m", "a\ufffd", "x" * 513, 2**255)
FLAGS = ({"success": False}, {"success": "false"}, {"error": "x"}, {"status": "failed"}, {"status": 400})
FLAGS += ({"statusCode": 500}, {"errcode": 7}, {"errorCode": "E7"})
NAMELESS: list[Any] = [
    *(
        {"code": 200, "data": data}
        for data in (None, {}, [], {"state": "waiting"}, ["t1"], [{"id": "t1"}, {"id": "t2"}])
    ),
    *({"code": 200, "data": {"taskId": none, "task_id": none}} for none in NO_IDS),
    *({"code": 200, "data": none} for none in (*NO_IDS, "success", "Task submitted 1", 99_999, "https://x.example/t1")),
    *({"code": code, name: A1} for name in ("input", "request", "paramJson") for code in (200, "")),
    *({"code": 200, "msg": "ok", **flag, "data": {"id": "t1"}} for flag in FLAGS),
    *({"code": 200, "msg": "success"}, {}, *UNREADABLE),
]
TELLS_NOTHING = (HTML, b"", {"msg": "error"}, {"error": {"message": "busy", "code": ""}}, {"error": "x"})
IN_VAIN = ("upstream timed out", "Gateway Timeout", "upstream request timeout", "connection reset by peer")
CREATED: list[tuple[tuple[str, ...], Any, int, inner.Created]] = [
    # A flat answer is read like one in `data`.
    (APIIN, {"task_id": "a1"}, 200, TASK),
    (ALL, {"id": "a1", "data": {"TaskID": "a1"}}, 200, TASK),
    (APIIN, {"id": "a1", "status": "IN_PROGRESS"}, 200, inner.Accepted("a1", "id")),
    # Before a create is called lost, its task is looked for everywhere.
    *((ALL, {"code": code, "Payload": [{"more": A1}]}, 200, TASK) for code in (200, "ok", 599)),
    (ALL, {"code": 422, "Payload": A1}, 200, INVALID),
    # What is no code is not looked at: the HTTP status speaks.
    *((KIE, {"code": code, "data": A1}, status, TASK) for code in NO_CODES for status in (200, 201, 299)),
    *((KIE, {"code": code, "data": {"id": "r1"}}, 422, INVALID) for code in NO_CODES),
    # A 200 that names no task may have made one: never accepted, and never free to repeat.
    *((ALL, body, 200, lost(200)) for body in NAMELESS),
    # A real 5xx or 408 without a code of the API's own may be a proxy's, behind which a task was made.
    *((ALL, body, code, lost(code)) for body in TELLS_NOTHING for code in FAILING),
    # A code that is in no table does not tell that nothing was made; nor does an error that comes under 200.
    *((ALL, {"code": code, "data": None}, 200, lost(code)) for code in (502, 503, 504, 599, 0, 201, 302, 999)),
    (ALL, {"error": {"message": "x"}, "data": {"id": "r1"}}, 200, lost(0)),
    # A 500 in words of who waited in vain for the one behind, and under HTTP 500 one that says nothing of the request.
    *((ALL, {"code": 500, "msg": words}, status, lost(500)) for words in IN_VAIN for status in (200, 500)),
    *((ALL, {"error": {"code": 500, "message": words}}, 500, lost(500)) for words in ("", "Internal Server Error")),
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


def test_a_task_that_is_told_is_taken() -> None:
    """Under whatever code and HTTP status, at any place; an error's own ids, which are of requests, are no task's."""
    for told, task_id in (*rows_of("names of a task"), ({"data": {"taskId": "x" * 512}}, "x" * 512)):
        for provider, status in itertools.product(ALL, (200, 201, 202, 302, 400, 429, 500, 504)):
            is_certain = "taskid" in str(told).lower().replace("_", "")
            for code in (0, "0", 200, "200", 201, 202, 422, 429, 500, 1, 10000):
                with naming(provider, status, code, told):
                    accepted = created(provider, {"msg": "x", "code": code, **told}, status)
                    is_taken = getattr(accepted, "task_id", None) == task_id
                    assert is_taken == (is_certain or int(code) in (0, 200, 201, 202))


@pytest.mark.parametrize("status", [300, 301, 302, 307, 308, 399])
def test_a_redirect_stops_the_account_and_names_the_address(status: int) -> None:
    """It is never followed with the key: it is a setting to correct, and it says where it points, safe to print."""
    bodies = ({"data": {"id": "r1"}}, {"code": 500, "error": "moved"}, b"")
    nothing = inner.NoAnswer(of(errors.TransportError, status))
    for provider, body, where in itertools.product(ALL, bodies, ("https://www.kie.ai/api", "https://x\x1b[31m", None)):
        with naming(provider, body, where):
            told = created(provider, body, status, location=where)
            assert gist(told) == inner.Rejected(of(errors.ConfigurationError, status), inner.Remedy.STOP)
            assert (where or "another address").replace("\x1b", r"\u001b") in told.failure.message
            assert gist(status_of(provider, b"", status, location=where)) == nothing


def test_the_words_of_a_refusal_are_found_wherever_they_stand() -> None:
    """`msg`, an older page's `message`, and `error.message` are all read, and so are their codes."""
    why = failure(errors.InvalidRequest, "The provider refused the request: the words", code=422)
    for body in rows_of("words of a refusal"):
        assert created("kie", body) == inner.Rejected(why, inner.Remedy.FAIL), body


WAITING, SUCCEEDED, FAILED = ANSWERS["words of a state"].values()
ODD_STATES = {"dreaming": "dreaming", "": "", None: "None", 7: "7", ("success",): "['success']", "x" * 501: "x" * 500}
NULLS = {"resultJson": "", "failCode": None, "failMsg": None, "costTime": None, "createTime": 1776850322264}


@pytest.mark.parametrize("provider", ALL)
def test_a_state_is_known_by_any_of_its_words(provider: str) -> None:
    """In any case of letters; a word that no page knows counts as pending, and is marked so that it is told once."""

    def told(word: Any, **data: Any) -> Any:
        return gist(status_of(provider, ended(word, **data)))

    assert {word: told(word, **NULLS) for word in WAITING} == {word: inner.Pending(word) for word in WAITING}
    assert {told(word, resultJson={"url": URL}, result=URL) for word in SUCCEEDED} == {made()}
    assert {told(word, failMsg="too dark", message="too dark") for word in FAILED} == {broke()}
    odd = {word: told(word) for word in ODD_STATES}
    assert odd == {word: inner.Pending(shown, known=False) for word, shown in ODD_STATES.items()}


def test_pictures_are_found_in_every_shape_that_was_met() -> None:
    """A success without any may have been billed: it keeps the whole answer, and a code by which it is not retried."""
    for result, urls in rows_of("pictures of a result"):
        found = made(*urls, credits=8.0) if urls else inner.LinksMissing(broke(code="no_urls", credits=8.0))
        bodies = [(provider, ended(resultJson=result, creditsConsumed=8)) for provider in JOBS]
        bodies += [("apiin", ended(**result, credits=8))] if isinstance(result, dict) else []
        for provider, body in bodies:
            with naming(provider, body):
                told = status_of(provider, body)
                assert gist(told) == found
                kept = told if urls else told.outcome
                assert kept.raw == msgspec.json.encode(body)
                assert urls or "no picture" in kept.failure.message
    longest = URL.ljust(16384, "x")
    assert gist(status_of("kie", ended(resultJson=[f"{longest}x", longest]))) == made(longest), "no server takes longer"
    assert isinstance(status_of("kie", {"code": 200, "data": {"state": "success", "status": ""}}), inner.LinksMissing)


@pytest.mark.parametrize(
    "result",
    [
        {"resultObject": {"subject_status": 1}},
        {"resultObject": {"lyricsData": [{"text": "la"}]}},
        {"character_id": "c1"},
        '{"text": "a fox in the snow"}',
        ["hello", "world"],
        [{"text": "a fox"}],
    ],
    ids=str,
)
def test_a_result_of_words_alone_is_none_that_failed(result: Any) -> None:
    """It is paid for, and in the whole answer; whether a picture was to be made, this API does not know."""
    told = status_of("kie", ended(resultJson=result))
    assert isinstance(told, inner.Succeeded)
    assert told.urls == ()


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"output": "a fox in the snow"}, "a fox in the snow"),
        ({"response": "a fox"}, "a fox"),
        ({"resultText": "a fox", "result": "success"}, "a fox"),
        ({"result": "success", "output": True, "response": 1}, None),
        ({"resultJson": json.dumps({"resultUrls": [URL], "text": "a fox", "width": 7})}, {"text": "a fox"}),
        ({"resultJson": json.dumps({"resultUrls": [URL]})}, ""),
    ],
)
def test_words_are_a_result_and_a_word_of_its_state_is_none(fields: dict[str, Any], text: Any) -> None:
    """Under the names that results have; beside pictures too."""
    told = status_of("kie", {"code": 200, "data": {"taskId": "t1", "state": "success", **fields}})
    assert (json.loads(told.text or '""') if isinstance(told, inner.Succeeded) else None) == text


@pytest.mark.parametrize(("word", "reason"), [("nsfw", "its state is nsfw"), ("failed", "no reason given")])
def test_a_state_may_say_why(word: str, reason: str) -> None:
    """Where nothing else does."""
    told = status_of("kie", {"code": 200, "data": {"taskId": "t1", "state": word}})
    assert isinstance(told, inner.TaskFailed)
    assert told.failure.message == reason


NO_OTHER = ("t1", " t1\n", None, "", "null", "0", True, ["t1"], ["t2", "t3"], {"id": "t2"})
OWN: list[tuple[tuple[str, ...], dict[str, Any], bool]] = [
    *((("t1",), {"data": {"taskId": task_id}}, True) for task_id in NO_OTHER),
    *((("17",), {"data": {name: 17}}, True) for name in ("taskId", "task_id", "TaskID")),
    *((("t1",), {"data": {name: "t2"}}, False) for name in ("taskId", "task_id", "TASK_ID")),
    *((("t1",), {"data": {"taskId": task_id}}, False) for task_id in ("T1", 1, "t10", "t")),
    # The record's own word comes before what is around it, which may echo the question; one of its own is enough.
    (("t1",), {"taskId": "t1", "data": {"taskId": "t2"}}, False),
    (("t1",), {"taskId": "t2", "data": {"taskId": "t1", "task_id": "upstream-9"}}, True),
    (("t1",), {"task_id": "t2", "data": {}}, False),
    # A nested one is some other's, and so may be an id by which the create did not name it.
    *((("t1",), {"data": {name: {"taskId": "t2"}}}, True) for name in ("param", "input", "response")),
    *((("t1",), {"data": {name: "t2"}}, True) for name in ("id", "recordId", "requestId")),
    *((("t1", name), {"data": {name: "t2"}}, False) for name in ("id", "recordId")),
    (("t1", "id"), {"id": "call-7", "data": {"id": "t1"}}, True),
    (("t1", "id"), {"id": "call-7", "data": {"taskId": "t1"}}, True),
]


@pytest.mark.parametrize("provider", ALL)
def test_an_answer_about_another_task_is_no_answer(provider: str) -> None:
    """Where it names one at all: not ours, it is asked again, and whether it tells of success, failure or neither."""
    stranger = inner.NoAnswer(of(errors.ProtocolError))
    for own, names, is_ours in OWN:
        for word, kind in (("success", inner.Succeeded), ("fail", inner.TaskFailed), ("waiting", inner.Pending)):
            body = ended(word, resultJson=[URL], images=[URL])
            body |= {**names, "data": body["data"] | names["data"]}
            with naming(own, body):
                told = status_of(provider, body, own=own)
                assert isinstance(told, kind) if is_ours else gist(told) == stranger
    for code in (401, 404, 422, 501):
        assert isinstance(status_of(provider, {"code": code, "data": {"taskId": "t2"}}), inner.NoAnswer)
    limited = gist(status_of(provider, {"code": 429, "data": {"taskId": "t2"}}))
    assert limited == inner.NoAnswer(of(errors.RateLimited, 429), limited=True)


OURS = {"taskId": "t1", "state": "success", "status": "success", "url": URL}
NESTED: list[tuple[Any, Any]] = [
    *(({"code": 200, "data": {name: OURS}}, made()) for name in ("task", "data", "output", "Task_Info")),
    *(({"code": 200, name: [OURS]}, made()) for name in ("tasks", "Data", "result", "output")),
    ({"code": 200, "data": {"records": [OURS | {"taskId": "t2", "url": f"{URL}?2"}, OURS]}}, made()),
    ({"data": [{"id": "t2", "state": "fail", "status": "fail"}, {**OURS, "taskId": None, "id": "t1"}]}, made()),
    ({"code": 200, "data": {"id": 7, "tasks": [{"id": "t2", "status": "fail"}, {"id": "t1", "status": "new"}]}},
     inner.Pending("new")),
    ({"code": 200, "data": OURS, "param": {"image": URL}}, inner.LinksMissing(broke(code="no_urls"))),
    ({"code": 200, "data": {"task": OURS | {"taskId": "t2"}}}, inner.NoAnswer(of(errors.ProtocolError))),
    ({"data": {"taskId": "t2", "task": OURS | {"taskId": None}}}, inner.NoAnswer(of(errors.ProtocolError))),
    ({"output": {"task_id": "t1", "task_status": "FAILED"}}, broke()),
    ({"code": 200, "data": {"taskId": "t1", "input": OURS}}, inner.Pending("None", known=False)),
    ({"code": 200, "data": {"status": {"state": "Done"}, "url": URL}}, made()),
    ({"code": 200, "data": {"successFlag": "1.0", "url": URL, "Credits_Used": "8"}}, made(credits=8.0)),
    *(({"data": {"successFlag": flag, "url": URL}}, inner.Pending(str(flag), known=False)) for flag in (-1, "-1")),
    ({"code": 200, "data": {"State": "fail", "Status": "fail", **OURS}}, made()),
    ({"code": 200, "data": {"State": "success", "Status": "success", **OURS, "state": "queued", "status": "queued"}},
     inner.Pending("queued")),
]  # fmt: skip


def test_a_task_s_record_is_found_where_it_stands() -> None:
    """In the places where APIs put one, with its state in a text, a flag or an object; of several ours is read."""
    for provider, (body, expected) in itertools.product(ALL, NESTED):
        with naming(provider, body):
            assert gist(status_of(provider, body)) == expected


KEYS_OF_LINKS = (
    *("resultUrls", "result_urls", "resultUrl", "resultImageUrl", "imageUrl", "image_urls", "urls", "url", "images"),
    *("output", "outputs", "generated_image", "result", "RESULT_URLS", "fileUrl", "Download_URLs"),
)
WRAPPINGS = ("[]", "text", "info", "resultJson", "response", "resultObject", "data", "result", "output")


def wrapped(value: Any, wrappings: list[str]) -> Any:
    """A value in lists, texts of JSON and objects, the first being the outermost."""
    for each in reversed(wrappings):
        value = [value] if each == "[]" else json.dumps(value) if each == "text" else {each: value}
    return value


@settings(max_examples=150)
@given(
    outer=st.lists(st.sampled_from(WRAPPINGS), max_size=3),
    key=st.sampled_from(KEYS_OF_LINKS),
    within=st.lists(st.sampled_from(["[]", "text"]), max_size=3),
    echo=st.sampled_from(["param", "paramJson", "input", "callBackUrl", "callback_url", "webhook", "request_body"]),
    provider=st.sampled_from(ALL),
)
def test_a_link_is_found_at_any_known_place_and_none_that_the_request_had(
    outer: list[str], key: str, within: list[str], echo: str, provider: str
) -> None:
    """However deep, in lists, objects and texts; what an echo holds is no result, not even elsewhere."""
    sent = "https://files.example/sent.png"
    place, asked = wrapped(URL, [*outer, key, *within]), wrapped(sent, [*outer, key, *within])
    for result, found in ((place, made()), (asked, inner.LinksMissing(broke(code="no_urls")))):
        record = {"more": result, echo: json.dumps([sent, asked]), "images": [sent], "callBackUrl": sent}
        assert gist(status_of(provider, ended(**record))) == found


def test_a_task_s_end_is_read_with_latency_credits_and_reason() -> None:
    """As the provider tells them, and unknown where it tells none; the raw answer is kept."""
    reading = {"made": made, "broke": broke, "pending": inner.Pending}
    for provider, body, what, fields in rows_of("ends of tasks"):
        with naming(provider, body):
            raw = msgspec.json.encode(body)
            kept = {} if what == "pending" else {"raw": raw}
            assert status_of(provider, raw) == msgspec.structs.replace(reading[what](**fields), **kept)


@pytest.mark.parametrize("provider", ALL)
def test_no_answer_but_a_plain_denial_says_anything_of_a_running_task(provider: str) -> None:
    """A limit, a proxy's page, a failing server, half an answer: ask again, after the provider's own delay."""
    page = (b"404 page not found", 404, "InvalidRequest", 404)
    for body, status, kind, code in (*rows_of("denials of a task"), page):
        with naming(body, status):
            assert gist(status_of(provider, body, status)) == inner.TaskRefused(of(getattr(errors, kind), code))
    limited = inner.NoAnswer(of(errors.RateLimited, 429), limited=True, retry_after=3.0)
    bodies = (HTML, b"", {"code": None, "msg": "x"}, {"error": {"message": "x", "code": ""}})
    for code in (408, 429, 455, 500, 501, 502, 503, 504, 505, 520, 524):
        in_body = [] if code == 501 else [({"code": code, "msg": "x"}, 200)]
        for body, status in [*in_body, *((body, code) for body in bodies)]:
            with naming(body, status):
                told = gist(status_of(provider, body, status, retry_after=3.0))
                assert told == (
                    limited if code == 429 else inner.NoAnswer(of(errors.TransportError, code), retry_after=3.0)
                )
    for body in UNREADABLE:
        with naming(body[:90]):
            told = status_of(provider, body)
            assert isinstance(told, inner.NoAnswer)
            assert (told.limited, told.failure.kind) in {(False, errors.TransportError), (False, errors.ProtocolError)}


OF_NO_TASK: list[Any] = [
    *({"status": word, "message": "dark"} for word in ("error", "failed", "success")),
    *({"status": "error", "data": data, "message": "dark"} for data in (None, {"status": "error", "message": "dark"})),
    {"success": False, "state": "fail", "error": None, "failMsg": "dark", "requestId": "t1", "id": "call-7"},
    {"code": 200, "state": "fail", "message": "dark"},
    {"code": 200, "data": {}, "result": {"state": "fail", "message": "dark"}},
    {"code": "ok", "data": {"state": "fail", "status": "fail", "message": "dark"}},
]
OF_CALLS = (408, 429, 455, 502, 503, 504)


@pytest.mark.parametrize("provider", ALL)
def test_what_names_no_task_ends_none(provider: str) -> None:
    """A gateway means itself by "error": only the API's own envelope, or the task's name, tells that a task failed."""
    for body in OF_NO_TASK:
        with naming(body):
            told = status_of(provider, body)
            assert gist(told) == inner.NoAnswer(of(errors.ProtocolError))
            assert told.failure.message.endswith("dark") or body["status"] == "success"
            named = status_of(provider, {**body, "TASK_ID": "t1"}, own=(" t1",))
            assert isinstance(named, inner.TaskFailed | inner.LinksMissing)
    bodies = [({"code": 501, "message": "x"}, 200), ({"error": {"code": 501}}, 200), ({"code": 501, "data": None}, 501)]
    bodies += [(ended("fail"), 300), (ended("fail"), 502), ({"taskId": "t1", "status": "fail", "error": "x"}, 500)]
    bodies += [({"taskId": "t1", "status": "fail", "error": {"code": code}}, 200) for code in OF_CALLS]
    bodies += [({"taskId": "t1", "error": "x"}, 200), ({**ended("fail", taskId="t1"), "code": 500}, 200)]
    for body, status in bodies:
        with naming(body, status):
            assert isinstance(status_of(provider, body, status), inner.NoAnswer)


AMOUNTS: list[tuple[Any, float]] = [
    *((told, 16.0) for told in (16, 16.0, -16, "16", " 16.0 ", "-16", "−16", "+16", "16,0", "1.6e1", "16".zfill(64))),
    *(
        (told, 16.0)
        for told in ("16 credits", "16cr", "credits: 16", {"used": 16}, '{"credits":16}', {"amount": "-16"})
    ),
    *((told, 16.0) for told in ({"cost": {"credits_used": 16}}, {"credits": None, "total": 16, "unit": "Credits"})),
    *((told, 1016.0) for told in ("1.016,00", "-1.016,0")),
    *((told, 1016000.0) for told in ("1.016.000", "1,016,000")),
    *((told, 1016.0) for told in ("1,016", "1,016.0", "1 016,0", "1'016", "1_016.00", "1\u202f016", "-1,016")),
    *((told, 0.0) for told in (0, -0.0, "0", "0.00", {"credits": 0})),
]
DEEP = {"cost": {"cost": {"cost": {"cost": 16}}}}
NO_AMOUNTS: list[Any] = [
    *("many", "", " ", "NaN", "inf", "-Infinity", "1e400", "1e300", "$0.08", "0.08 USD", "16/20", "1,16,0", "--16"),
    *(
        "16 16",
        "0x10",
        "0" * 65,
        True,
        False,
        [16],
        {},
        {"cost": {"cost": {"cost": {"cost": 16}}}},
        {"credits": None},
        {"remaining": [16]},
        1e19,
        -1e19,
    ),
]
BALANCES_TOLD: list[Any] = [
    *("72.62", "72,62", {"credits": 72.62}, {"balance": "72.62"}, {"data": {"remaining_credits": 72.62}}),
    *({"total": 100, "used": 27.38, "remaining": 72.62}, {"balance": {"amount": 72.62, "unit": "credits"}}),
]
NO_BALANCE = [*({"code": 200, "data": none} for none in (None, *NO_AMOUNTS, {"currency": "USD", "balance": 7}))]
BALANCES: list[tuple[Any, int, float | inner.Failure]] = [
    # A float, as seen, or an integer, as documented.
    *(({"code": 200, "msg": "success", "data": said}, 200, float(said)) for said in (72.62, 72, 0, -3.5, "-3.5")),
    *(({"code": 200, "msg": "success", "data": said}, 200, 72.62) for said in BALANCES_TOLD),
    ({"code": 200, "credits": "72.62 credits"}, 200, 72.62),
    *((body, 200, of(errors.ProtocolError, 200)) for body in (*NO_BALANCE, {"code": 200}, *UNREADABLE)),
    ({"code": 500, "msg": "x", "data": 7}, 200, of(errors.TransportError, 500)),
    *((body, status, of(errors.RateLimited, 429)) for body, status in (({"code": 429}, 200), (HTML, 429))),
    *(({"code": 401, "msg": "no"}, status, of(errors.AuthenticationError, 401)) for status in (200, 401)),
    (HTML, 403, of(errors.AuthenticationError, 403)),
]


def test_a_bill_is_read_in_any_form_and_is_never_below_nothing() -> None:
    """A debit has its sign; what can be no amount is unknown, so that the price counts in its place."""
    fields = {**dict.fromkeys(JOBS, ("creditsConsumed", "consumeCredits")), "apiin": ("credits", "creditsConsumed")}
    unknown: list[tuple[Any, None]] = [(told, None) for told in (*NO_AMOUNTS, {"amount": 0.08, "currency": "USD"})]
    for provider, (told, credits) in itertools.product(ALL, [*AMOUNTS, *unknown]):
        for field, state in itertools.product(fields[provider], ("success", "fail")):
            with naming(provider, field, told, state):
                body = ended(state, **{field: told}, resultJson=[URL], output=[URL])
                assert status_of(provider, body).credits == credits
    for told in (b"1e999", b"NaN", b"-Infinity", b"1" * 400):
        body = msgspec.json.encode(ended(resultJson=[URL], creditsConsumed=5)).replace(b"5}", told + b"}")
        assert gist(status_of("kie", body)) == made()


NO_LINK = errors.DownloadFailed
LINKS: list[tuple[Any, int, str | inner.Failure]] = [
    *(({"code": 200, "data": {"downloadUrl": none, "url": URL}}, 200, URL) for none in (None, "")),
    *(({"code": 200, "data": data}, 200, URL) for data in (URL, {"url": URL}, [URL])),
    # Only the API's own word gives up a picture that is paid for: no proxy's page, no limit and no wrong key does.
    *(({"code": code, "msg": "url is wrong"}, 200, of(NO_LINK, code, is_gone=True)) for code in (400, 404, 410, 422)),
    ({"code": 422, "msg": "url is wrong"}, 422, of(NO_LINK, 422, is_gone=True)),
    *(({"code": code, "msg": "no"}, 200, of(NO_LINK, code)) for code in (401, 402, 403, 405, 408, 411, 423, 429, 501)),
    *((HTML, code, of(NO_LINK, code)) for code in (400, 404, 408, 410, 422, 429, 500, 502, 503)),
    *((body, 200, of(NO_LINK, 200)) for body in (*UNREADABLE, b'{"code":200}', b'{"code":200,"data":7}')),
]


def test_a_balance_or_a_new_link_is_read_or_why_there_is_none() -> None:
    """A balance is a number; a link that the provider does not know is gone, and any other may be had later."""
    for body, status, balance in BALANCES:
        with naming(body, status):
            read = gist(DIALECTS["kie"].read_credits(answer(body, status)))
            assert (type(read), read) == (type(balance), balance)
    for provider, (body, status, link) in itertools.product(DIALECTS, LINKS):
        with naming(provider, body, status):
            found = DIALECTS[provider].read_renewal(answer(body, status))
            assert gist(found) == link
            assert isinstance(found, str) or "url is wrong" in found.message or not found.is_gone


NEARLY: dict[str, Callable[[bytes], bytes]] = {
    "a byte order mark": lambda body: b"\xef\xbb\xbf" + body,
    "UTF-16": lambda body: body.decode().encode("utf-16"),
    "UTF-16 without a mark": lambda body: body.decode().encode("utf-16-le"),
    "a notice before it": lambda body: b'<br />\n<b>Notice</b>: Undefined "x" {y} in <b>z.php</b><br />\n' + body,
    "JSON in the notice": lambda body: b'["slow"] Undefined key in {"a": {"b": null}} of z.php\n' + body,
    "a log's line before it": lambda body: b'{"level": "warn", "code": 17, "taskId": "old"}\n' + body,
    "a time before it": lambda body: b"[2026-11-29 02:00:00] WARN {x}\n" + body,
    "a guard before it": lambda body: b")]}',\n" + body,
    "a call around it": lambda body: b"callback(" + body + b");",
    "a report after it": lambda body: body + b'\n{"debug": {"queries": [' + b'"select", ' * 999 + b"]}}",
    "a comment after it": lambda body: body + b"\n<!-- {0.03} s -->\n\0",
    "a comma too many": lambda body: body.replace(b"}", b" , }").replace(b'"echo",', b'"echo",,'),
    "comments": lambda body: b"// {x}\n" + body.replace(b'"msg"', b'/* "x */ "msg"').replace(b"}", b"// it's\n}"),
    "odd blanks": lambda body: body.replace(b'"msg"', '\x0b\u200b\xa0\0"msg"'.encode()),
    "other quotes": lambda body: body.replace(b'"msg"', rb"'it\'s \"'").replace(b'"code"', b"code"),
    "alone in a list": lambda body: b"[" + body + b"]",
    **{f"a bare {word}": lambda body, word=word: body.replace(b'"echo"', word.encode())
       for word in ("NaN", "-NaN", "nan", "Infinity", "-Infinity", "1e999", "undefined", "None", "True", "9" * 5000,
                    "007", "+.5", "5.", "0x1F")},
    **{f"{part!r} in a text": lambda body, part=part: body.replace(b"echo", b"a " + part)
       for part in (rb"\ud83d", rb"\uDE00 b", b"\xf0\x9f", b"\n\t\x01", rb"\x41\'", b"\xe9t\xe9", rb"{\"\ud83d\"}")},
    **{charset: lambda body, charset=charset: body.replace(b"echo", "成功 表 ソ".encode(charset, "ignore"))
       for charset in ("gbk", "big5", "shift_jis", "utf-7")},
}  # fmt: skip


@pytest.mark.parametrize("spoil", NEARLY.values(), ids=NEARLY)
def test_what_is_nearly_json_is_read(spoil: Callable[[bytes], bytes]) -> None:
    """In an envelope, and in a part that is read or not: no task, no picture and no refusal is lost for its form."""

    def told(read: Callable[[inner.HttpResponse], Any], data: Any, **envelope: Any) -> Any:
        body = spoil(json.dumps({"code": 200, "msg": "echo", "data": data, **envelope}).encode())
        return gist(read(inner.HttpResponse(200, body)))

    for dialect in (DIALECTS[provider] for provider in ALL):
        assert told(dialect.read_created, {"taskId": "a1", "task_id": "a1", "param": "echo"}) == TASK
        assert told(dialect.read_created, None, code=422) == INVALID
        result = {"state": "success", "status": "success", "resultJson": json.dumps([URL]), "output": [URL]}
        read_status = partial(dialect.read_status, task_id="t1")
        assert told(read_status, {**result, "param": "echo", "failMsg": "echo"}) == made()
        assert told(read_status, {**result, "failMsg": json.dumps({"prompt": "echo"})}) == made()
        assert told(dialect.read_credits, {"balance": 7, "of": "echo"}) == 7.0
        assert told(dialect.read_renewal, {"url": URL, "of": "echo"}) == URL


REPORT = json.dumps({"debug": {"code": 200, "data": {"taskId": "old"}, "queries": ["select"] * 99}})
SLOW = '{"code":422,"msg":"slow"}'
NUMBERS = "007," * 99
IN_PARTS: list[tuple[str, inner.Created]] = [
    *((f"{{{fields}}}\n{REPORT}", TASK) for fields in ('"taskId":"a1"', "task_id:'a1',", 'x:[NaN,007,],"taskId":"a1"')),
    *(
        (f"{SLOW}\n{envelope}", TASK)
        for envelope in ('{"code":200,"data":{"taskId":"a1"}}', '{"data":{"task_id":"a1"},code:0}')
    ),
    *((f'{{"{level}":"info","code":17,"taskId":"old"}}\n{{"taskId":"a1"}}', TASK) for level in ("level", "severity")),
    *((told, TASK) for told in ('{"taskId":"a1"}{"x":[', '{"taskId":"a1"}{"x":{"taskId":"old"},"y"')),
    ('{"taskId":0071}', inner.Accepted("0071")),
    (f'{{"x":[{NUMBERS}],"y":{{"error":"x"}}}}{{"taskId":"a1","z":[{NUMBERS}]}}', TASK),
    *((f'{told} {{"taskId":"a1"}}', TASK) for told in ('{"a":{"taskId":"old"}}', '["slow"]', '{"taskId":"a1"}')),
    *((f"{told}{REPORT}", INVALID) for told in ("{code:422}", '{"error":{"code":422}}', '{"error":"x"}{"code":422}')),
    ('{"level":"info","code":1,"data":{"taskId":"old"}}{"ok":true}', lost(200)),
    # An id is taken of what is the answer, and of nothing else.
    *((f'{{"taskId":"old"}} {told}', lost(200)) for told in (SLOW, '{"error":"x"}', '{"code":200,"data":null}')),
    *((f'{{"task_id":"old"}} {told}', lost(200)) for told in ('{"result":{"taskId":"a1"}}', '{"task_id":"older"}')),
    *((told, lost(200)) for told in (f'{SLOW} {{"taskId":"a1"}}', '<script>{"taskId":"a1"}</script>')),
]


def test_of_several_parts_of_json_the_answer_is_read() -> None:
    """A log's line before it and a report after it are none; where that is in doubt the create is unknown."""
    for provider, (body, expected) in itertools.product(ALL, IN_PARTS):
        with naming(provider, body):
            assert gist(created(provider, body.encode())) == expected


def test_no_answer_takes_long_to_be_no_json() -> None:
    """Whatever fills an answer, each of its places is looked at a few times at most."""
    fillers = (b'{"', b'"\\', b"\\", b", ", b"[1,", b'{"a":', b"\x81", b"- ", b'{"a" ', b'{"a":1}', b"A ", b"1e9,")
    for filler, start in itertools.product(fillers, (b"", b'{"x":"\xff', b'{"code":200,"data":{"x":NaN,"y":')):
        began = time.process_time()
        assert isinstance(created("kie", start + filler * ((1 << 17) // len(filler))), inner.Lost)
        assert time.process_time() - began < 5, (start, filler)


STATUSES = st.sampled_from([200, 200, 201, 204, 301, 400, 401, 402, 404, 408, 422, 429, 433, 455, 500, 501, 503, 599])
WORDS = st.text(st.characters(codec="utf-8"), max_size=20).map(lambda text: f"a{text}\x1b[31m\r\n\x00\x7f\x9bz")
LEAVES: st.SearchStrategy[Any] = st.one_of(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False),
    WORDS,
    st.sampled_from(["success", "completed", "fail", "failed", "waiting", "", "200", "{", '{"resultUrls":[]}', URL]),
)
OF_TASKS = ("code", "msg", "message", "error", "data", "taskId", "task_id", "recordId", "id", "state", "status")
OF_RESULTS = ("url", "resultJson", "resultUrls", "failCode", "failMsg", "creditsConsumed", "images", "credits")
KEYS = st.sampled_from(OF_TASKS + OF_RESULTS)
JSON = st.recursive(LEAVES, lambda it: st.lists(it, max_size=3) | st.dictionaries(KEYS, it, max_size=6), max_leaves=12)
CODES = st.sampled_from([200, 200, 200, "200", 401, 422, 429, 500, 501, None]) | LEAVES
TOLD = {"msg": LEAVES, "message": LEAVES, "error": JSON}
ENVELOPES = st.fixed_dictionaries({"code": CODES, "data": JSON}, optional=TOLD)
ANY_TEXT = st.text(st.characters(), max_size=8)
ODD_LEAVES = LEAVES | st.floats() | ANY_TEXT
ODD = st.recursive(
    ODD_LEAVES, lambda it: st.lists(it, max_size=3) | st.dictionaries(KEYS | ANY_TEXT, it, max_size=4), max_leaves=9
)
ODD_ENVELOPES = st.fixed_dictionaries({"code": CODES, "data": ODD, "cost": ODD_LEAVES}, optional={"msg": ODD})
ODD_BODIES = st.builds(
    lambda before, value, after: before + json.dumps(value).encode() + after,
    *(st.sampled_from([b"", b"\xef\xbb\xbf", b"<b>Notice</b>\n"]), ODD_ENVELOPES, st.binary(max_size=5)),
)
BODIES = st.one_of(st.binary(max_size=200), (JSON | ENVELOPES).map(msgspec.json.encode), ODD_BODIES)


def read_all(provider: str, body: bytes, status: int) -> list[Any]:
    """What each reader makes of an answer, which is one of the values that it may be, in words that can be shown."""
    response = inner.HttpResponse(status, body)
    readers = attrgetter("read_created", "read_renewal", "read_credits")(DIALECTS[provider])
    told = [read(response) for read in readers]
    told.insert(1, DIALECTS[provider].read_status(response, "t1"))
    kinds = (inner.Created, inner.TaskStatus, str | inner.Failure, float | inner.Failure)
    for value, kind in zip(told, kinds, strict=True):
        assert isinstance(value, kind)
        assert len(words_of(value)) < 1200
        assert not CONTROL.search(words_of(value))
        # Half an emoji can be written to no file, and to no journal.
        f"{words_of(value)}{getattr(value, 'task_id', None)}".encode()
    return told


def words_of(told: Any) -> str:
    """What people are shown of it: its own words, a state, a code."""
    why = getattr(getattr(told, "outcome", told), "failure", told)
    if isinstance(why, inner.Failure):
        return str(why.exception())
    # Of a task's id nothing is promised: it is opaque.
    return getattr(told, "state", "") or " ".join(getattr(told, "urls", [told if isinstance(told, str) else ""]))


@settings(max_examples=150)
@given(body=BODIES, status=STATUSES, provider=st.sampled_from(ALL))
def test_whatever_comes_something_is_made_of_it(body: bytes, status: int, provider: str) -> None:
    """No answer is an error, no task has an empty name, each link can be followed, and all is safe in a terminal."""
    made_of, standing, *_ = read_all(provider, body, status)
    assert made_of != inner.Accepted("")
    if isinstance(standing, inner.Succeeded):
        assert standing.urls
        assert all(url.startswith(("https://", "http://")) for url in standing.urls)


@settings(max_examples=100)
@given(
    body=ODD_ENVELOPES,
    place=st.sampled_from(["taskId", "task_id"]),
    is_inside=st.booleans(),
    provider=st.sampled_from(ALL),
    status=STATUSES,
)
def test_whatever_else_an_answer_says_its_task_is_taken(
    body: dict[str, Any], place: str, is_inside: bool, provider: str, status: int
) -> None:
    """A task's id at a place where it may stand is never lost, whatever stands beside it and however it is written."""
    data = body["data"] if isinstance(body["data"], dict) else {}
    others = {name: value for name, value in data.items() if name not in OF_TASKS}
    named = {**body, "data": {**others, place: "a1"}} if is_inside else {**body, "data": None, place: "a1"}
    assert created(provider, json.dumps(named).encode(), status) == TASK


@pytest.mark.parametrize("words", ["x" * 10**5, "BAD\x1b[31m\r\n\x00\x7f\x9bWORD"], ids=["long", "odd"])
def test_a_servers_words_are_one_short_line(words: str) -> None:
    """A page of 10 MB does not go into every log, and no control character reaches a terminal, whatever has them."""
    bodies: list[tuple[Any, int]] = [
        *(({"code": code, "msg": words}, 200) for code in (401, 422, 429, 500, 501)),
        *(({"error": {"message": words}}, code) for code in (401, 404, 422, 502)),
        (ended("failed", failMsg=words, failCode=words, error={"code": words, "message": words}), 200),
        *((ended(words), 200), (words.encode(), 404)),
    ]
    for provider, (body, status) in itertools.product(ALL, bodies):
        with naming(provider, status):
            assert any(words[:3] in words_of(each) for each in read_all(provider, answer(body).body, status))
    page = created("kie", b"x" * 300, 404)
    assert page.failure.message.endswith(f"model: {'x' * 200}"), "of a page the beginning is enough"


@given(
    code=st.sampled_from([200, 0, 500, 429, "200", None, True]),
    task=st.sampled_from(["t1", "t2", " t1", None, 7]),
    state=st.sampled_from(["waiting", "queuing", "generating", "Waiting", "success", "fail", "odd", "", None, 1]),
    more=st.dictionaries(st.sampled_from(["resultJson", "status", "failMsg", "state ", "error"]), st.text(max_size=9)),
    around=st.dictionaries(st.sampled_from(["error", "state", "taskId", "data", "msg"]), st.text(max_size=9)),
)
@settings(max_examples=200)
def test_a_mark_before_an_answer_changes_nothing_of_it(
    code: Any, task: Any, state: Any, more: dict[str, str], around: dict[str, str]
) -> None:
    """An answer about a task says the same behind a byte order mark, which some servers put before all they send."""
    body = msgspec.json.encode({**around, "code": code, "data": {**more, "taskId": task, "state": state}})
    assert gist(status_of("kie", body)) == gist(status_of("kie", b"\xef\xbb\xbf" + body))
