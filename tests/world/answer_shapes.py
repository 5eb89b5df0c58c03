"""The forms in which answers were met: texts that are nearly JSON, what names a task, a refusal, a link, a balance."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

Record = dict[str, Any]

_NOTICE = b'<br />\n<b>Notice</b>: Undefined "x" {y} in <b>z.php</b><br />\n'
_REPORT = b'\n{"debug": {"queries": [' + b'"select", ' * 99 + b"]}}"


def _told(field: bytes) -> Callable[[bytes], bytes]:
    """One more field, in the envelope and in the part inside of it."""

    def spoil(body: bytes) -> bytes:
        return b"{" + field + b"," + body[1:].replace(b'"data":{"', b'"data":{' + field + b',"', 1)

    return spoil


def _in_charset(charset: str) -> Callable[[bytes], bytes]:
    return _told(b'"note":"' + "成功 表 ソ".encode(charset, "ignore") + b'"')


NEARLY_JSON: dict[str, Callable[[bytes], bytes]] = {
    "a byte order mark": lambda body: b"\xef\xbb\xbf" + body,
    "blanks around it": lambda body: b" \r\n\t\n" + body + b"\r\n \n\0",
    "UTF-16": lambda body: body.decode().encode("utf-16"),
    "UTF-16 without a mark": lambda body: body.decode().encode("utf-16-le"),
    "a notice before it": lambda body: _NOTICE + body,
    "a log's line before it": lambda body: b'{"level": "warn", "code": 17, "msg": "slow", "taskId": "old"}\n' + body,
    "a time before it": lambda body: b"[2026-11-29 02:00:00] WARN {x}\n" + body,
    "a guard before it": lambda body: b")]}',\n" + body,
    "a call around it": lambda body: b"callback(" + body + b");",
    "a report after it": lambda body: body + _REPORT,
    "a comment after it": lambda body: body + b"\n<!-- {0.03} s -->\n\0",
    "a comma too many": lambda body: body[:-1] + b" , }",
    "comments": lambda body: b"// {x}\n" + body.replace(b',"', b", /* it's } */ \"", 1),
    "odd blanks": lambda body: "{\x0b\u200b\xa0\0".encode() + body[1:],
    "other quotes": lambda body: rb"{'it\'s': 'a \"word\"', " + body[1:].replace(b'"code"', b"code", 1),
    "words of Python": lambda body: b"{'ok': True, 'trace': None, " + body[1:],
    "alone in a list": lambda body: b"[" + body + b"]",
    "a text with JSON in it": lambda body: json.dumps(body.decode()).encode(),
    "the same key twice": lambda body: b'{"data":null,"code":"",' + body[1:],
    **{
        f"a bare {number.decode()[:9]}": _told(b'"progress":' + number)
        for number in (b"NaN", b"-Infinity", b"1e999", b"undefined", b"9" * 5000, b"007", b"+.5", b"5.", b"0x1F")
    },
    **{
        name: _told(b'"trace":"' + part + b'"')
        for name, part in {
            "half an emoji": rb"a cat \ud83d",
            "the other half of an emoji": rb"\uDE00 a cat",
            "half an emoji in JSON in a text": rb"{\"prompt\":\"a cat \ud83d\"}",
            "cut UTF-8": b"a cat \xf0\x9f",
            "control characters": b"a\n\t\x01b\x1b[31m",
            "escapes that there are not": rb"\x41\' C:\dir",
            "Latin-1": b"\xe9t\xe9",
        }.items()
    },
    **{f"words in {charset}": _in_charset(charset) for charset in ("gbk", "big5", "shift_jis", "utf-7")},
}
"""What a body of JSON becomes, of which any lenient reader reads the same."""


def success(data: object, **envelope: Any) -> Record:
    """A good answer."""
    return {"code": 200, "msg": "success", **envelope, "data": data}


def _in_data(field: str) -> Callable[[str], Record]:
    return lambda task_id: success({field: task_id})


def _at_the_top(field: str) -> Callable[[str], Record]:
    return lambda task_id: {"code": 200, "msg": "success", field: task_id}


_FIELDS = ("taskId", "task_id", "TaskID", "recordId", "id", "job_id", "uuid")
CREATED: dict[str, Callable[[str], Any]] = {
    **{f"the id as data.{field}": _in_data(field) for field in _FIELDS},
    **{f"the id as {field} at the top": _at_the_top(field) for field in ("taskId", "task_id", "id")},
    "the id alone": lambda task_id: {"taskId": task_id},
    "the id beside data: null": lambda task_id: success(None, taskId=task_id),
    "the id in a list of one": lambda task_id: success([{"taskId": task_id}]),
    "the id in a list of ids": lambda task_id: success({"taskIds": [task_id]}),
    "the id in a task": lambda task_id: success({"task": {"task_id": task_id}}),
    "the id in a result": lambda task_id: success({}, result={"taskId": task_id}),
    "the id in a text with JSON in it": lambda task_id: success(json.dumps({"taskId": task_id})),
    "the id with blanks": lambda task_id: success({"task_id": f" {task_id}\n", "id": "r1"}),
    "the id beside a request's": lambda task_id: success({"taskId": task_id, "task_id": task_id, "id": "r1"}),
    "the id beside an empty one": lambda task_id: success({"taskId": "", "task_id": None, "recordId": task_id}),
    "the id beside an echo's": lambda task_id: success({"input": {"taskId": "old"}}, taskId=task_id),
    "the id deep inside": lambda task_id: {"code": 200, "Payload": [{"more": {"taskId": task_id}}]},
    "the id in a whole record": lambda task_id: success(
        {
            "state": "waiting",
            "param": '{"taskId":"old"}',
            "resultJson": "",
            "taskId": task_id,
            "recordId": "r1",
        }
    ),
    "data is the id": lambda task_id: success(task_id),
    "an error that names the task": lambda task_id: {"code": 500, "msg": "slow", "data": {"taskId": task_id}},
    "a limit's word that names the task": lambda task_id: {"code": 429, "msg": "slow", "data": {"taskId": task_id}},
}
"""Answers to a create that made a task: each names it."""

NAMELESS: dict[str, Any] = {
    "no data": {"code": 200, "msg": "success"},
    "null for data": success(None),
    "an empty object": success({}),
    "an empty list": success([]),
    "a null id": success({"taskId": None, "task_id": ""}),
    "an id that is a word for none": success({"taskId": "null", "task_id": "undefined"}),
    "an id of zeros": success({"taskId": 0, "task_id": "00000000-0000-0000-0000-000000000000"}),
    "a request's id alone": success({"requestId": "r1"}, request_id="r1"),
    "an echo's id alone": success({"input": {"taskId": "old"}}),
    "a list of nothing known": [1, "two", None],
    "success: false": {"code": 200, "msg": "success", "success": False, "data": {"id": "r1"}},
    "an error under a success": {"error": {"message": "busy", "code": ""}},
    "a null": None,
    "a word": "ok",
    "the health of something": {"status": "ok"},
    "a code that no page has": {"code": 999, "msg": "?", "data": None},
    "a 500 of who waited in vain": {"code": 500, "msg": "upstream timed out", "data": None},
    "a 504 in the body": {"code": 504, "msg": "Gateway Timeout", "data": None},
}
"""Answers of HTTP 200 to a create that made a task: none names it."""


def refused_as(form: str, code: int, text: str) -> Record:
    """A refusal in one of its wordings."""
    match form:
        case "its code as a text":
            return {"code": str(code), "msg": text, "data": None}
        case "its code with zeros before it":
            return {"code": f"{code:06}", "message": text}
        case "its code with a fraction":
            return {"code": float(code), "msg": text, "data": {}}
        case "an error around it":
            return {"error": {"message": text, "type": "new_api_error", "code": code}}
        case "an error of a text":
            return {"code": code, "error": text}
        case "half an emoji in its words":
            return {"code": code, "msg": f"{text} \ud83d"}
    return {"code": code, "message": text, "success": False, "requestId": "r1", "timestamp": 1777600000000}


REFUSED = (
    *("its code as a text", "its code with zeros before it", "its code with a fraction", "an error around it"),
    *("an error of a text", "half an emoji in its words", "more fields"),
)

RENEWED: dict[str, Callable[[Any], Any]] = {
    "an object": lambda link: success({"downloadUrl": link}),
    "an object with another": lambda link: success({"downloadUrl": "", "url": link}),
    "a list": lambda link: success([link]),
    "blanks around it": lambda link: success(f" {link}\n"),
    "JSON in a text": lambda link: success(json.dumps({"url": link})),
    "code as a text": lambda link: success(link, code="200"),
}
"""Ways to tell a new link."""

BALANCES: dict[str, Callable[[Any], Any]] = {
    "a text": lambda left: success(f"{left:.2f}"),
    "a text with commas": lambda left: success(f"{left:,.2f}"),
    "a text with a unit": lambda left: success(f"{left:.2f} credits"),
    "credits in an object": lambda left: success({"credits": left}),
    "a balance in an object": lambda left: success({"balance": str(left)}),
    "beside the code": lambda left: {"code": 200, "credits": left},
}
"""Ways to tell a balance."""
