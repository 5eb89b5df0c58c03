"""A callback that is to be sent: where to, when, and how it is written and signed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from .._core.callbacks import signature_of
from ._dialects import ServedHalf
from ._tasks import Task

# The fields that name a task, in any of the APIs.
_ID_FIELDS = ("taskId", "task_id")


class Webhook(msgspec.Struct, frozen=True):
    """A callback that is to be sent.

    Attributes:
        task_id: The task that it announces.
        url: Where to.
        ends: When the task ends, by the server's clock.
        fault: What is to go wrong, or None.
        message: Makes its headers and body, of the server's time and the Unix time.
    """

    task_id: str
    url: str
    ends: float
    fault: str | None
    message: Callable[[float, float], tuple[dict[str, str], bytes]]


def message_of(
    dialect: ServedHalf, task: Task, signing_key: str | None, now: float, wall: float
) -> tuple[dict[str, str], bytes]:
    """The headers and body that announce a task's end."""
    # The signature is over what the body says, wrong or right: only the task id of it is covered.
    data = _misnamed(dialect.standing(task, now), task)
    headers = {"Content-Type": "application/json"}
    if signing_key is not None and task.callback_fault != "unsigned":
        headers |= _signature(data, signing_key, task.callback_fault, wall)
    return headers, msgspec.json.encode(dialect.callback(task, data))


def _misnamed(data: dict[str, Any], task: Task) -> dict[str, Any]:
    """The data, with the name of no task or of another one where that was ordered."""
    match task.callback_fault:
        case "no_task_id":
            return {name: value for name, value in data.items() if name not in _ID_FIELDS}
        case "another_task":
            return data | {name: task.id[::-1] for name in _ID_FIELDS if name in data}
    return data


def _signature(data: dict[str, Any], key: str, fault: str | None, wall: float) -> dict[str, str]:
    """kie.ai's two headers; an hour old, or made with another key, where that was ordered."""
    timestamp = str(int(wall) - 3600 * (fault == "stale"))
    key = key if fault != "wrong_signature" else f"not {key}"
    named = next((str(data[name]) for name in _ID_FIELDS if name in data), "")
    return {"X-Webhook-Timestamp": timestamp, "X-Webhook-Signature": signature_of(named, timestamp, key)}
