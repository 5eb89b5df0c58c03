"""How each provider words an answer: the recorded and documented shapes, from the server's side."""

from __future__ import annotations

import json
from typing import Any

import msgspec


class Reply(msgspec.Struct, frozen=True):
    """What the server sends.

    Attributes:
        status: HTTP status.
        body: The bytes.
        media_type: Of the body.
        ending: How it arrives: `whole`, `truncated` (half of it, then the connection breaks) or `reset` (nothing).
    """

    status: int
    body: bytes
    media_type: str = "application/json"
    ending: str = "whole"


def success(provider: str, data: Any, *, status_call: bool = False) -> Reply:
    """A good answer. Apikley says `msg` to a create and `message` to a status call; API in One always `message`."""
    word = "message" if provider == "apiin" or (provider == "apikley" and status_call) else "msg"
    return Reply(200, msgspec.json.encode({"code": 200, word: "success", "data": data}))


def refusal(provider: str, code: int, text: str) -> Reply:
    """A refusal: kie.ai and its kin under HTTP 200, the others under the real status and in their own envelopes."""
    if provider == "apiin":
        kind = "invalid_request" if code in (400, 422) else "error"
        return Reply(code, msgspec.json.encode({"error": {"code": code, "message": text, "type": kind}}))
    if provider == "liangxin" and code in (401, 403):
        return Reply(code, msgspec.json.encode({"error": {"message": text, "type": "new_api_error", "code": ""}}))
    http = code if provider == "liangxin" and code < 600 and code not in (433, 455, 505) else 200
    return Reply(http, msgspec.json.encode({"code": code, "msg": text, "data": None}))


def html(status: int) -> Reply:
    """What a proxy or an edge answers in the API's place."""
    return Reply(status, b"<html><body><h1>%d</h1><p>nginx</p></body></html>" % status, "text/html")


def record(
    task_id: str, model: str, wire_input: dict[str, Any], state: str, times: tuple[float, float | None], **outcome: Any
) -> dict[str, Any]:
    """`data` of a recordInfo answer, field by field as recorded in April 2026; times are Unix seconds."""
    created, completed = times
    param = json.dumps({"input": json.dumps(wire_input), "model": model})
    return {
        "taskId": task_id,
        "model": model,
        "state": state,
        "param": param,
        "resultJson": "",
        "failCode": None,
        "failMsg": None,
        # Documented in milliseconds, recorded in seconds.
        "costTime": None if completed is None else round(completed - created),
        "completeTime": None if completed is None else round(completed * 1000),
        "createTime": round(created * 1000),
        **outcome,
    }
