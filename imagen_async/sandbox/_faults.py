"""What can go wrong at a provider and on the way to it, by name, to order or by chance."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from typing import Literal

Road = Literal["create", "poll", "task", "file", "callback"]

CREATE_FAULTS = (
    "429",  # over the limit, in the body; nothing made
    "http_429",  # the same as a real status, from something before the API
    "455",  # maintenance; nothing made
    "500",  # a validation error, as kie.ai words it; nothing made
    "http_502",  # an HTML page; nothing made, but nobody can tell
    "http_504_made",  # an HTML page; the task was made
    "reset_before",  # the connection breaks before the task is made
    "reset_after",  # the task was made, the connection breaks before the answer
    "truncated",  # the task was made, the answer breaks off
    "garbage",  # HTTP 200 and no JSON; nothing made, but nobody can tell
    "no_task_id",  # the task was made, the answer does not name it
    "wrong_types",  # the task was made, the answer has another shape
    "too_long",  # the task was made, the answer is 2 MiB long
)
POLL_FAULTS = (
    "429",
    "http_429",
    "500",
    "http_502",
    "reset",
    "truncated",
    "garbage",
    "null_data",
    "record_null",
    "odd_state",
    "another_task",  # success of a task that was not asked about
    "wrong_types",
    "too_long",
)
TASK_FAULTS = (
    "fail_digits",  # failCode "500"
    "fail_word",  # failCode "SENSITIVE_WORD_ERROR"
    "no_urls",  # success and an empty list
    "late_urls",  # success, and two seconds later its links
    "more_urls",  # success and more pictures than asked for
    "object_result",  # resultJson an object, not a string
    "nested_result",  # resultJson {"data": {"result_urls": …}}
)
FILE_FAULTS = ("http_503", "http_404", "reset", "truncated", "html")

CALLBACK_FAULTS = (
    "lost",  # never sent
    "twice",
    "late",  # a second after the task's end
    "early",  # the task ends at once, and is announced before the create is answered
)
FORGERIES = ("unsigned", "wrong_signature", "stale", "no_task_id", "another_task")
"""Callbacks that nobody should believe; only to order, never by chance."""

ACCOUNT_FAULTS = ("401", "402", "no_credit_500", "433", "403_edge", "model_gone")
"""Refusals that stop an account, or a model there; only to order, never by chance."""

_BY_CHANCE: dict[Road, Sequence[str]] = {
    "create": CREATE_FAULTS,
    "poll": POLL_FAULTS,
    "task": TASK_FAULTS,
    "file": FILE_FAULTS,
    "callback": CALLBACK_FAULTS,
}
_TO_ORDER: dict[Road, Sequence[str]] = {"create": ACCOUNT_FAULTS, "callback": FORGERIES}


class Faults:
    """Decides which request goes wrong and how: first what was ordered, then what is kept up, then chance.

    Args:
        rate: Share of the requests on every road that go wrong, 0 to 1, every kind as likely as the others.
        seed: Makes chance repeatable.
    """

    def __init__(self, rate: float = 0.0, seed: int = 0) -> None:
        self.rate = rate
        self._random = random.Random(seed)
        self._ordered: dict[Road, deque[str | None]] = {road: deque() for road in _BY_CHANCE}
        self._kept: dict[Road, str] = {}

    def order(self, road: Road, *kinds: str | None) -> None:
        """Let the next requests on a road go wrong in these ways, in turn; None lets one go well."""
        self._check(road, *kinds)
        self._ordered[road].extend(kinds)

    def keep(self, road: Road, kind: str | None) -> None:
        """Let every request on a road go wrong in this way from now on; None ends that."""
        self._check(road, kind)
        self._kept.pop(road, None)
        if kind is not None:
            self._kept[road] = kind

    def draw(self, road: Road) -> str | None:
        """The fault of the next request on a road, or None."""
        if self._ordered[road]:
            return self._ordered[road].popleft()
        if road in self._kept:
            return self._kept[road]
        return self._random.choice(_BY_CHANCE[road]) if self._random.random() < self.rate else None

    def _check(self, road: Road, *kinds: str | None) -> None:
        allowed = (*_BY_CHANCE[road], *_TO_ORDER.get(road, ()))
        for kind in kinds:
            if kind is not None and kind not in allowed:
                raise ValueError(f"there is no fault {kind!r} on the road {road!r}; there are {', '.join(allowed)}")
