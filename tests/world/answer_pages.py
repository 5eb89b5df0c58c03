"""What may befall an answer on any road: odd heads, bad packing, and what a gateway says in its place."""

from __future__ import annotations

import random
import zlib
from email.utils import formatdate
from typing import Any

from . import answer_changes as changes
from .answer_changes import Answer, Asked, Change, Make, always, gateway, page


def _many_headers(answer: Answer, _: Asked, chance: random.Random) -> Answer:
    cookies = tuple(("Set-Cookie", f"c{n}={chance.getrandbits(64):x}; Path=/; HttpOnly") for n in range(300))
    return answer._replace(headers=(*answer.headers, *cookies))


def _small_letters(answer: Answer, *_: object) -> Answer:
    return answer._replace(headers=tuple((name.lower(), value) for name, value in answer.headers))


def _typeless(answer: Answer, *_: object) -> Answer:
    return answer._replace(headers=tuple(each for each in answer.headers if each[0].lower() != "content-type"))


_POLICY = "img-src " + " ".join(f"https://h{n}.example" for n in range(3100))
HEADS: dict[str, Change] = {
    "a header of 64 KiB": changes.headed(Content_Security_Policy=_POLICY),
    "300 cookies": _many_headers,
    "small letters in its headers": _small_letters,
    "no words after its status": lambda answer, *_: answer._replace(reason=""),
    "other words after its status": lambda answer, *_: answer._replace(reason="Fine, thank you: (ok)"),
    "gzip": changes.packed("gzip", changes.gzipped),
    "deflate": changes.packed("deflate", zlib.compress),
    "deflate without its head": changes.packed("deflate", changes.deflated),
    "packed as identity": changes.headed(Content_Encoding="identity"),
    "no type": _typeless,
    "the type of a page": changes.headed(Content_Type="text/html; charset=iso-8859-1"),
    "a charset that there is not": changes.headed(Content_Type="application/json; charset=utf-99"),
    "a type that is none": changes.headed(Content_Type="*"),
    "a request's id that is no text": changes.headed(X_Request_Id="caf\xe9"),
}


def _half(data: bytes) -> bytes:
    return data[: len(data) // 2]


BADLY_PACKED: dict[str, Change] = {
    "gzip said, and not done": changes.packed("gzip", bytes),
    "gzip cut off": changes.packed("gzip", lambda data: _half(changes.gzipped(data))),
    "deflate cut off": changes.packed("deflate", lambda data: _half(zlib.compress(data))),
}

_IN_VAIN: tuple[Any, ...] = (
    {"code": 500, "msg": "upstream timed out"},
    {"code": 500, "msg": "Gateway Timeout", "data": None},
    {"error": {"code": 500, "message": "upstream request timeout"}},
    {"code": 504, "msg": "x"},
    {"message": "Endpoint request timed out"},
)
_SCRIPT = b'<html><script>var page = {"code":200,"data":{"taskId":"t1","task_id":"t1","state":"fail"}}</script></html>'
_DEEP = b'{"code":200,"data":' + b"[" * 9999 + b"]" * 9999 + b"}"


def asked_to_wait(status: int, content: object = None) -> dict[str, Make]:
    """A status with each way to be asked to be left alone for a while."""

    def of(**headers: str) -> Answer:
        return changes.with_headers(page(status) if content is None else gateway(content, status), **headers)

    def until(chance: random.Random) -> Answer:
        sent = 1.8e9 + chance.randrange(10**6)
        return of(Date=formatdate(sent, usegmt=True), Retry_After=formatdate(sent + chance.randint(1, 5), usegmt=True))

    dates = ("Thu, 99 Foo 2026 99:99:99 GMT", "Mon, 01 Jan 1990 00:00:00 GMT")
    absurd = ("-5", "soon", "1e400", "NaN", "9" * 40, "", *dates)
    return {
        f"{status} for seconds": lambda chance: of(Retry_After=str(chance.randint(1, 5))),
        f"{status} for milliseconds": lambda chance: of(Retry_After_Ms=str(chance.randint(100, 5000))),
        f"{status} until a date": until,
        f"{status} for nobody knows how long": lambda chance: of(Retry_After=chance.choice(absurd)),
    }


PAGES: dict[str, Make] = {
    **{f"a page of {status}": always(page(status)) for status in (408, 500, 502, 503, 504, 520, 522, 524)},
    "a gateway's own code under 504": lambda chance: gateway(chance.choice(_IN_VAIN), 504),
    "a gateway's own code under 502": lambda chance: gateway(chance.choice(_IN_VAIN), 502),
    "a 500 of who waited in vain": lambda chance: gateway(chance.choice(_IN_VAIN[:3]), 500),
    **asked_to_wait(503),
    "a page under 200": always(page(200)),
    "a page with JSON in its script": always(page(200, _SCRIPT)),
    "nothing under 200": always(page(200, b"", "application/json")),
    "204": always(page(204, b"")),
    "an answer that breaks off": always(page(200, b'{"code":200,"msg":"success","data":{"tas', "application/json")),
    "lists in lists": always(page(200, _DEEP, "text/plain")),
    "bytes of no charset": always(page(200, b"\xff\xfe", "application/octet-stream")),
}
"""Of none of these can be told what became of what was asked."""
