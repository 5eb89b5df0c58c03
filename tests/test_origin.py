"""What an answer tells beside what it means: how long to wait, what its sender calls it; and what it may not tell."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from builders import failure, upstream
from hypothesis import given
from hypothesis import strategies as st
from inner import HttpResponse, LinksMissing, Lost, Mask, NoAnswer, Pending, Rejected, Remedy, TaskFailed

from imagen_async import Limits, Rate, errors
from imagen_async._core import origin
from imagen_async._core.answer_headers import request_id, retry_after

NOW = 784111777.0
"""Sun, 06 Nov 1994 08:49:37 GMT."""
AHEAD = {"Date": "Sun, 06 Nov 1994 10:49:37 GMT"}

WAITS: list[tuple[dict[str, str], float | None]] = [
    *(
        ({"Retry-After": told}, 7.0)
        for told in ("7", " 7 ", "7.0", "7s", '"7"', "7, 9", "Sun, 06 Nov 1994 08:49:44 GMT")
    ),
    *(({"Retry-After": told}, 7.0) for told in ("Sunday, 06-Nov-94 08:49:44 GMT", "Sun Nov  6 08:49:44 1994")),
    *(({"Retry-After": told}, 0.25) for told in ("0.25", ".25", "250ms", "250 ms")),
    ({"Retry-After-Ms": "250", "Retry-After": "7"}, 0.25),
    ({"Retry-After-Ms": "soon", "Retry-After": "7"}, 7.0),
    ({"Retry-After": "Sun, 06 Nov 1994 10:49:44 GMT", **AHEAD}, 7.0),
    ({"Retry-After": "Sun, 06 Nov 1994 08:49:30 GMT"}, 0.0),
    *(({"Retry-After": told}, 3600.0) for told in ("9" * 18, "86400", "Fri, 31 Dec 9999 23:59:59 GMT")),
    *(
        ({"Retry-After": told}, None)
        for told in (
            "",
            "-7",
            "nan",
            "inf",
            "٧",
            "1e9",
            "later",
            "Sun, 99 Nov 1994",
            "Sun, 06 Nov 99999999 08:49:37 GMT",
            "7 up",
        )
    ),
    ({}, None),
]


@pytest.mark.parametrize(("headers", "seconds"), WAITS)
def test_how_long_to_wait_is_read_in_every_form(headers: dict[str, str], seconds: float | None) -> None:
    """Seconds, decimals, milliseconds, a date by the answer's own clock; never more than an hour, nor nonsense."""
    assert retry_after(headers, NOW) == seconds


@given(st.text(), st.text())
def test_no_header_is_a_reason_to_fail(told: str, date: str) -> None:
    """Whatever stands there, there is a time within bounds or none, and an id of one short line or none."""
    wait = retry_after({"Retry-After": told, "Date": date}, NOW)
    assert wait is None or 0 <= wait <= 3600
    name = request_id({"x-request-id": told})
    assert name is None or (name.isprintable() and 0 < len(name) <= 100)


def test_what_a_busy_server_asks_for_is_waited_out() -> None:
    """Also where it answers a create with a gateway's 503, and a question: all of the account's wait."""
    account, why = upstream(limits=Limits(Rate(9, per=1), Rate(9, per=1), 9)), failure(errors.TransportError, "503")
    account.take_status(0.0)
    account.settle_status(1, NoAnswer(why, retry_after=30.0), 1.0)
    account.take_submit(0.0)
    account.settle_submit(Lost(why, 30.0), "imagen4", 1.0)
    assert (account.status.ready_at(1.0), account.submit_at(1.0)) == (31.0, 31.0)


KEY = "sk-live_0123/abc+DEF"
DRESSES: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "the name of a host": str.lower,
    "a slash in JSON": lambda key: json.dumps(key).replace("/", r"\/"),
    "every character in JSON": lambda key: "".join(f"\\u{ord(each):04X}" for each in key),
    "JSON in JSON": lambda key: json.dumps(json.dumps("".join(f"\\u{ord(each):04x}" for each in key))),
    "a query": lambda key: quote(key, safe=""),
    "a query in a query": lambda key: quote(quote(key, safe=""), safe=""),
    "every character in a query": lambda key: "".join(f"%{ord(each):02x}" for each in key),
    "a page": lambda key: "".join(f"&#{ord(each)};" if each.isdigit() else each for each in key),
    "a page in hex": lambda key: "".join(f"&#x{ord(each):X};" for each in key),
    "a page by name": lambda key: key.replace("/", "&sol;").replace("+", "&plus;").replace("_", "&lowbar;"),
    "a page in a page": lambda key: html.escape("".join(f"&#{ord(each)};" for each in key)),
    "base64": lambda key: base64.b64encode(f"a:{key}:b".encode()).decode(),
    "base64 for addresses": lambda key: base64.urlsafe_b64encode(f"Bearer {key}!".encode()).decode(),
}


@pytest.mark.parametrize("dress", DRESSES)
@pytest.mark.parametrize("key", [KEY, KEY * 9])
def test_a_key_is_masked_however_it_is_written(dress: str, key: str) -> None:
    """In texts and in bytes; what stands around it stays, and a key too short to tell from other words, too."""
    mask, said = Mask([key, "k"]), f"ok <{DRESSES[dress](key)}> ok"
    shown = mask.text(said)
    assert (shown[:4], shown[-4:], "***" in shown, len(shown) < 30) == ("ok <", "> ok", True, True)
    assert mask.content(said.encode()) == shown.encode()
    assert key.encode("utf-16-le") not in mask.content(said.encode("utf-16"))
    assert Mask([]).text(said) == said


def test_a_mask_takes_a_secret_whole_and_nothing_more() -> None:
    """One that begins with another, one of the least length, one as long as is looked for; in base64 to its edges."""
    mask = Mask(["sk_12345", "sk_12345-and-more", "1234567", "k" * 64])
    assert mask.text("<sk_12345> <sk_12345-and-more> <1234567>") == "<***> <***> <1234567>"
    assert mask.content(b"<sk_12345-and-more> <1234567>") == b"<***> <1234567>"
    assert mask.text(f"<{'k' * 63}%6Bxy>") == "<***xy>"
    for before, characters in enumerate((0, 2, 3)):
        shown = mask.text(base64.b64encode(b"a" * before + b"sk_12345-and-more").decode())
        left, _, right = shown.partition("***")
        assert (len(left), len(right.rstrip("=")) <= 1) == (characters, True)


def test_no_answer_is_looked_through_twice() -> None:
    """A million strokes are read in one go, where to begin anew at each of them would take hours."""
    strokes = "\\" * (1 << 20) + "u %"
    assert (Mask([KEY]).text(strokes), Mask([KEY]).content(strokes.encode())) == (strokes, strokes.encode())


IDS: dict[str, tuple[dict[str, str], Any]] = {
    "its own header": ({"x-request-id": "r-1", "cf-ray": "edge"}, {}),
    "the edge's": ({"cf-ray": "r-1"}, {"code": 500}),
    "its body": ({}, {"code": 500, "requestId": " r-1 "}),
    "its body's error": ({}, {"error": {"request_id": "r-1"}}),
}


@pytest.mark.parametrize("where", IDS)
def test_a_failure_says_what_support_asks_for(where: str) -> None:
    """The request's id, the HTTP status and when, in whatever a refusal comes to; a key that decoding showed is not."""
    headers, body = IDS[where]
    response = HttpResponse(503, json.dumps(body).encode(), headers=headers)
    why = failure(errors.GenerationFailed, f"no {KEY}", code=KEY)
    kinds = (Rejected(why, Remedy.FAIL), Lost(why), NoAnswer(why), LinksMissing(TaskFailed(why, None, b"")))
    for event in kinds:
        told: Any = origin.event_of(event, response, 5.0, Mask([KEY]).text)
        told = getattr(told, "outcome", told).failure
        lost = failure(errors.UnknownOutcome, "lost", cause=told).exception()
        for error in (told.exception(), lost):
            assert (error.status, error.request_id, error.at) == (503, "r-1", 5.0)
        assert (told.message, told.code) == ("no ***", "***")
        assert str(lost) == "lost [request r-1, HTTP 503]"
    assert origin.event_of(Pending("x"), response, 5.0, str) == Pending("x")
    long = HttpResponse(500, b"", headers={"x-request-id": 90 * "r" + KEY})
    assert origin.failure_of(why, long, 5.0, Mask([KEY]).text).request_id == 90 * "r" + "***"
