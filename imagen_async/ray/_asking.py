"""The stage that asks: it takes rows in, has the coordinator make them, and passes them on with what became of them."""

from __future__ import annotations

import atexit
import secrets
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ._answers import Answer
from ._coordinator import LOOK
from ._groups import group_of
from ._parts import Part
from ._rows import Reading, requests_in, with_answers

if TYPE_CHECKING:
    import pyarrow as pa

ANSWERED_WITHIN = 5.0
"""Seconds after which one word that it is there is given up for the next one."""


class Asking:
    """Asks for the rows of blocks, of several at once. Whoever runs a block anew asks for the same, and pays nothing.

    Args:
        parts: The coordinators.
        reading: How columns are read.
    """

    def __init__(self, parts: Sequence[Part], reading: Reading) -> None:
        self._parts = parts
        self._reading = reading
        self._name = secrets.token_hex(8)
        self._gone = threading.Event()
        # Ray's own parts are taken down under the feet of a thread that still asks for something.
        atexit.register(self._gone.set)
        for part in parts:
            threading.Thread(target=self._attend, args=(part,), daemon=True).start()

    def __call__(self, table: pa.Table) -> pa.Table:
        """The rows of a block once all of them have come to an end, with that."""
        rows = requests_in(table, self._reading)
        groups = [group_of(row, len(self._parts)) for row in rows]
        asked: list[list[dict[str, Any]]] = [[] for _ in self._parts]
        for row, group in zip(rows, groups, strict=True):
            asked[group].append(row)
        answers = list(map(iter, self._answers(asked)))
        return with_answers(table, [next(answers[group]) for group in groups])

    def _answers(self, rows: Sequence[Sequence[Any]]) -> list[Sequence[Answer]]:
        """What each coordinator answers about its rows."""
        import ray

        found: dict[int, Sequence[Answer]] = {place: () for place, each in enumerate(rows) if not each}
        while len(found) < len(rows):
            waiting = {place: part for place, part in enumerate(self._parts) if place not in found}
            calls = [part.actor.ask.remote(self._name, part.order, rows[place]) for place, part in waiting.items()]
            told = zip(waiting, ray.get(calls), strict=True)
            # One that has taken this one for dead answers nothing: then it is asked once more.
            found.update({place: answers for place, answers in told if answers is not None})
        return [found[place] for place in range(len(rows))]

    def _attend(self, part: Part) -> None:
        """Say again and again that it is there: what a dead one has asked for is not sent."""
        import ray

        say = part.actor.attend.options(max_task_retries=0)
        while not self._gone.wait(LOOK):
            with suppress(Exception):  # while the coordinator is gone
                ray.get(say.remote(self._name), timeout=ANSWERED_WITHIN)
