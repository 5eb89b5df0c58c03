"""Where an answer may name its task, and what can be an id of one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from .field_names import folded
from .forgiving_json import unwrapped

LONGEST = 512
"""Characters of an id: the longest seen has 47, and it has to fit into a URL."""

# By their letters alone: `taskId`, `task_id`, `TaskID`. The first are an id of a task and nothing else.
_CERTAIN = ("taskid", "taskids")
LIKELY = ("recordid", "jobid", "generationid", "predictionid", "id", "uid", "uuid")
_INSIDE = ("data", "result", "output", "response", "task", "tasks", "job", "jobs")
# What programs write where there is none.
_NONE = frozenset({"null", "none", "nil", "undefined", "nan", "-1", "n/a", "false", "true", "{}", "[]"})


class TaskName(msgspec.Struct, frozen=True):
    """A task as an answer names it.

    Attributes:
        task_id: Its id.
        field: The field that holds it, spelt as there; `data` where that is the id itself.
    """

    task_id: str
    field: str


def id_of(value: object) -> str | None:
    """A value as a task's id, opaque as it is; None for what can be none: blank, not printable, damaged, too long."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    if isinstance(value, int):
        # Digits beyond number are written by nobody, and take long.
        return str(value) if value.bit_length() < 256 else None
    text = value.strip()
    return text if text and len(text) <= LONGEST and text.isprintable() and "\ufffd" not in text else None


def name_in(answer: dict[str, Any], own: tuple[str, ...], *, is_success: bool) -> TaskName | None:
    """Find the task that an answer to a create names.

    Args:
        answer: The whole of it.
        own: The fields of `data` that the provider documents, the likeliest first.
        is_success: False where it tells an error: such answers carry ids of requests, so that only `taskId` counts,
            in any spelling.
    """
    data = unwrapped(answer.get("data"))
    if is_success and isinstance(data, dict):
        for field in own:
            if (task_id := told_id(data.get(field))) is not None:
                return TaskName(task_id, field)
    places = list(_places(data, answer))
    for names in (_CERTAIN, LIKELY) if is_success else (_CERTAIN,):
        for place in places:
            if (found := _named(place, names)) is not None:
                return found
    return _data_itself(data) if is_success and not isinstance(answer.get("data"), list) else None


def _places(data: Any, answer: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The objects in which a task may be named; never one that echoes the request, which may name another task."""
    for outer in (data, answer):
        if isinstance(outer, dict):
            yield outer
            inside = (unwrapped(outer[name]) for name in _INSIDE if name in outer)
            yield from (inner for inner in inside if isinstance(inner, dict) and inner is not data)


def _named(place: dict[str, Any], names: tuple[str, ...]) -> TaskName | None:
    for name in names:
        for field, value in place.items():
            if folded(field) == name and (task_id := told_id(value)) is not None:
                return TaskName(task_id, field)
    return None


def told_id(value: object) -> str | None:
    """The id that a field holds; zeros, as of a whole UUID, are what a program writes that has none."""
    task_id = id_of(unwrapped(value) if isinstance(value, list) else value)
    return None if task_id is None or task_id.lower() in _NONE or not task_id.strip("0-") else task_id


def _data_itself(data: object) -> TaskName | None:
    task_id = told_id(data)
    # A small number there counts something, and a word, or more than one, says how it went.
    is_count = isinstance(data, int) and data < 100_000
    is_id = task_id is not None and re.fullmatch(r"[^\s/<{]*[\d-][^\s/<{]*", task_id)
    return TaskName(task_id, "data") if task_id is not None and is_id and not is_count else None
