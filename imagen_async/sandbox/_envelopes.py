"""What an answer is to the sandbox, and the shapes that several APIs have in common."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import msgspec

from .._core.wire import loose_json
from ._tasks import Task


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


def document(status: int, content: dict[str, Any]) -> Reply:
    """An answer in JSON."""
    return Reply(status, msgspec.json.encode(content))


def html(status: int) -> Reply:
    """What a proxy or an edge answers in the API's place."""
    return Reply(status, b"<html><body><h1>%d</h1><p>nginx</p></body></html>" % status, "text/html")


def damaged(reply: Reply, fault: str | None) -> Reply:
    """A good answer that does not arrive as one."""
    match fault:
        case "reset" | "reset_after":
            return msgspec.structs.replace(reply, ending="reset")
        case "truncated":
            return msgspec.structs.replace(reply, ending="truncated")
        case "http_504_made":
            return html(504)
        case "too_long":
            # Spaces inside of the object: it would be good JSON if anybody read to its end.
            return msgspec.structs.replace(reply, body=reply.body[:-1] + b" " * (2 << 20) + b"}")
    return reply


def record_info(task: Task, state: str, completed: float | None, outcome: dict[str, Any]) -> dict[str, Any]:
    """`data` of a recordInfo answer, field by field as recorded from April to October 2026; times are Unix seconds."""
    called = {} if task.callback_url is None else {"callBackUrl": task.callback_url}
    result = outcome.get("resultJson")
    return {
        "taskId": task.id,
        "model": task.model,
        "state": state,
        "param": json.dumps({"input": json.dumps(task.input), **called, "model": task.model}),
        # What it knows of it: the rest is dropped in silence.
        "paramJson": json.dumps(task.understood),
        "operationType": task.model,
        "resultJson": "",
        # The result once more, not as a text.
        "response": loose_json(result) if isinstance(result, str) else result,
        "successFlag": {"success": 1, "fail": 3}.get(state, 0),
        "failCode": None,
        "failMsg": None,
        # Documented in milliseconds, recorded in seconds.
        "costTime": None if completed is None else round(completed - task.wall),
        "completeTime": None if completed is None else round(completed * 1000),
        "createTime": round(task.wall * 1000),
        "updateTime": round((completed or task.wall) * 1000),
        **outcome,
    }


def uploaded(name: str, size: int, media_type: str, url: str, wall: float) -> dict[str, Any]:
    """`data` of the answer to an upload, as kie.ai's pages have it; the time is in Unix seconds."""
    taken = datetime.fromtimestamp(wall, UTC).isoformat(timespec="milliseconds")
    return {
        "fileName": name,
        "filePath": f"uploads/{name}",
        "downloadUrl": url,
        "fileSize": size,
        "mimeType": media_type,
        "uploadedAt": taken.replace("+00:00", "Z"),
    }
