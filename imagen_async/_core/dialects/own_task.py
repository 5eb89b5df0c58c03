"""Whether an answer is about the task that was asked about: a cache may have another one's at hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from ..field_names import folded
from ..task_ids import LIKELY, told_id

_CERTAIN = "taskid"
"""How a field reads that means the task's id wherever it stands, whatever its style."""


class OwnTask(msgspec.Struct, frozen=True):
    """The task that is asked about.

    Attributes:
        task_id: Its id.
        field: The field by which its create named it, where that is not `taskId`; else empty.
    """

    task_id: str
    field: str = ""

    def other_in(self, record: Mapping[str, Any], *around: Mapping[str, Any]) -> str | None:
        """The task that an answer is about, where that is another one; None where it is ours, or names none.

        What stands around a record may echo the question: it counts where the record itself names none.
        """
        if record.get("taskId") == self.task_id:
            return None  # as it mostly is
        named = _named(record, self.field) or next(filter(None, (_named(place, "") for place in around)), [])
        return None if not named or self.task_id.strip() in named else named[0]

    def is_named_in(self, places: Iterable[Mapping[str, Any]]) -> bool:
        """True where one of these objects names it, in any field that may name a task."""
        fields = [key for place in places for key, value in place.items() if told_id(value) == self.task_id.strip()]
        return any(field == self.field or folded(field) in (_CERTAIN, *LIKELY) for field in fields)

    def first_of(self, records: list[dict[str, Any]], default: dict[str, Any]) -> dict[str, Any]:
        """Of several records the one that names the task, in whatever field, or else one that names no other."""

        def strangeness(record: dict[str, Any]) -> tuple[bool, bool]:
            is_ours = any(told_id(value) == self.task_id.strip() for value in record.values())
            return self.other_in(record) is not None, not is_ours

        return min(records, key=strangeness, default=default) if len(records) != 1 else records[0]


def field_of(created: Any, task_id: str) -> str:
    """The field by which a create's answer names its task, where that alone can tell its answers from others'."""
    data = created.get("data") if isinstance(created, dict) else None
    if isinstance(data, dict) and task_id in (data.get("taskId"), data.get("task_id")):
        return ""  # as it mostly is
    places = [place for place in (data, created) if isinstance(place, dict)]
    if any(task_id in _named(place, "") for place in places):
        return ""
    fields = (field for place in places for field, value in place.items() if told_id(value) == task_id)
    return next((field for field in fields if folded(field) in LIKELY), "")


def _named(place: Mapping[str, Any], field: str) -> list[str]:
    told = [value for key, value in place.items() if key == field or (len(key) < 8 and folded(key) == _CERTAIN)]
    return [each for value in told if (each := told_id(value)) is not None]
