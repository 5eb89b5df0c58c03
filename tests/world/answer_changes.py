"""What an answer is on the wire, and how another one is made of it."""

from __future__ import annotations

import gzip
import json
import random
import zlib
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Literal, NamedTuple

from . import answer_shapes as shapes
from . import record_shapes as records

Means = Literal["same", "lost", "later", "refused", "bill"]
Record = shapes.Record


class Answer(NamedTuple):
    """An HTTP answer, whole; without a length, unless that is what is odd."""

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


class Asked(NamedTuple):
    """What it answers: `task_id` is the one that a poll is about, else empty."""

    road: str
    path: str
    body: bytes
    task_id: str


Change = Callable[[Answer, Asked, random.Random], Answer | None]
Make = Callable[[random.Random], Answer]


class Oddity(NamedTuple):
    """An odd answer on record.

    Attributes:
        name: Its own.
        road: Which answers it may befall.
        change: Makes it of a plain answer; None where it does not apply to that one.
        means: `same`: what the plain one says. `lost`: nothing of a create that has made a task. `later`: nothing now,
            and something when it is asked for again. `refused`: a create that made nothing. `bill`: only money is odd.
    """

    name: str
    road: str
    change: Change
    means: Means


# What a plain answer says.


def read(answer: Answer) -> Record:
    """The object that a plain answer holds; an empty one where it holds none."""
    try:
        content = json.loads(answer.body)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def success(answer: Answer) -> Record:
    """The answer of an API that did what it was asked; else nothing."""
    content = read(answer)
    return content if answer.status == 200 and content.get("code") == 200 else {}


def record_of(answer: Answer) -> Record:
    """The task that a plain answer is about; else nothing."""
    data = success(answer).get("data")
    return data if isinstance(data, dict) and not {"taskId", "task_id"}.isdisjoint(data) else {}


def refusal(answer: Answer) -> tuple[int, str] | None:
    """The code and the words of a plain refusal."""
    content = read(answer)
    told = content["error"] if isinstance(content.get("error"), dict) else content
    code = told.get("code") or answer.status
    text = told.get("msg") or told.get("message")
    return (code, text) if isinstance(code, int) and code not in (0, 200) and isinstance(text, str) else None


_IS_PLAIN: dict[str, Callable[[Answer], object]] = {
    "create": record_of,
    "poll": record_of,
    "renewal": success,
    "credits": success,
    # Of a file half of it is to be half a picture.
    "file": lambda answer: answer.status == 200 and len(answer.body) > 64,
}


# Another answer.


def with_headers(answer: Answer, **headers: str) -> Answer:
    """With these headers in place of those of the same names."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    kept = [each for each in answer.headers if each[0].lower() not in map(str.lower, named)]
    return answer._replace(headers=(*kept, *named.items()))


def in_json(answer: Answer, content: object, status: int | None = None) -> Answer:
    """With this in its body."""
    status = answer.status if status is None else status
    body = json.dumps(content, separators=(",", ":")).encode()
    return answer._replace(status=status, reason=reason(status), body=body)


def reason(status: int) -> str:
    """The words after a status."""
    return HTTPStatus(status).phrase if status in {each.value for each in HTTPStatus} else "Unknown"


def page(status: int, body: bytes | None = None, kind: str = "text/html; charset=utf-8", **headers: str) -> Answer:
    """What a gateway or an edge says of its own accord."""
    if body is None:
        title = f"{status} {reason(status)}"
        body = f"<html>\n<head><title>{title}</title></head>\n<body><h1>{title}</h1>nginx</body></html>\n".encode()
    plain = Answer(status, reason(status), (("Server", "nginx"), ("Date", formatdate(1.7e9, usegmt=True))), body)
    return with_headers(plain, Content_Type=kind, **headers)


def gateway(content: object, status: int) -> Answer:
    """The same in JSON."""
    return page(status, json.dumps(content).encode(), "application/json")


def always(answer: Answer) -> Make:
    """The same, whatever chance will have."""
    return lambda _: answer


# How one is changed.


def instead(road: str, make: Make) -> Change:
    """Another answer in the place of a good one."""
    return lambda answer, _, chance: make(chance) if _IS_PLAIN[road](answer) else None


def under(road: str, status: int) -> Change:
    """A good answer under another status."""
    return lambda answer, *_: (
        answer._replace(status=status, reason=reason(status))
        if answer.status == 200 and _IS_PLAIN[road](answer)
        else None
    )


def in_text(spoil: Callable[[bytes], bytes]) -> Change:
    """Another text in the place of an object of JSON, be it a success or not."""
    return lambda answer, *_: answer._replace(body=spoil(answer.body)) if read(answer) else None


def of_data(make: Callable[[Any], Any]) -> Change:
    """Another answer of the same API, made of the data of a good one."""
    return lambda answer, *_: in_json(answer, make(told["data"])) if "data" in (told := success(answer)) else None


def enveloped(wrap: Callable[[Record], Any]) -> Change:
    """Another envelope around what is told of a task; `wrap` gives None for what it cannot hold."""

    def change(answer: Answer, *_: object) -> Answer | None:
        record = record_of(answer)
        whole = wrap(record) if record else None
        return None if whole is None else in_json(answer, whole)

    return change


def named(make: Callable[[str], Any]) -> Change:
    """Another answer that names the same task."""
    return enveloped(lambda record: make(str(record[records.own_field(record)])))


def of_record(change: Callable[[Record, random.Random], Record | None]) -> Change:
    """Another record in the place of a task's."""

    def changed(answer: Answer, _: Asked, chance: random.Random) -> Answer | None:
        record = record_of(answer)
        other = change(record, chance) if record else None
        return None if other is None else in_json(answer, {**read(answer), "data": other})

    return changed


def of_links(change: Callable[[Record, list[str]], Record]) -> Change:
    """Another record of a task that has made pictures."""

    def linked(record: Record, _: random.Random) -> Record | None:
        links = records.links_in(record) if records.kind_of(record) == "made" else []
        return change(record, links) if links else None

    return of_record(linked)


def of_refusal(make: Callable[[Answer, int, str, random.Random], Answer | None]) -> Change:
    """Another wording of a refusal."""
    return lambda answer, _, chance: make(answer, *told, chance) if (told := refusal(answer)) else None


def of_limit(make: Make) -> Change:
    """Another wording of a refusal for a limit of calls."""
    return of_refusal(lambda answer, code, text, chance: make(chance) if code == 429 else None)


def headed(**headers: str) -> Change:
    """The same under other headers."""
    return lambda answer, *_: with_headers(answer, **headers)


def packed(encoding: str, pack: Callable[[bytes], bytes]) -> Change:
    """The same in fewer bytes, where it is not packed yet."""

    def change(answer: Answer, *_: object) -> Answer | None:
        is_packed = any(name.lower() == "content-encoding" for name, _ in answer.headers)
        if is_packed or not answer.body:
            return None
        return with_headers(answer, Content_Encoding=encoding)._replace(body=pack(answer.body))

    return change


def deflated(data: bytes) -> bytes:
    """Without the head that it should have."""
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def gzipped(data: bytes) -> bytes:
    """With no time in it: the same bytes each time."""
    return gzip.compress(data, mtime=0)
