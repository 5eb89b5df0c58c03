"""What our own client hears of its tasks: that one has ended, on a stream, and for a while what it has come to."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable, Set

import msgspec

from .._core.dialects.served import TaskReport
from ..errors import InvalidRequest
from ._book import OrderRow
from ._orders import Order, Part
from ._refusals import Refusal, refusal_of

MOST_KEPT = 5000
"""Ends that are kept at hand: each is mostly asked for in the moment in which it is told."""

MOST_WAITING = 10_000
"""Ends that wait for somebody who hears them, at most: who is so slow is told to ask about all."""

AT_ONCE = 200
"""Ends in a line of a stream."""

SOONEST = 0.1
"""Seconds between two lines of a stream at least: a lone end is told at once, and those of many go together."""

ALL = b"data: null\n\n"
"""Says that any may have ended."""

_ENDS = frozenset({"done", "failed", "unsent"})

Addresses = Callable[[Part], tuple[str, ...]]
"""The addresses of the files that a task has made, below the service's."""


def told_of(order_id: str, order: Order, addresses: Addresses, noted: bytes | None) -> TaskReport:
    """What is said of an order of one task.

    Args:
        order_id: Its own.
        order: As it is.
        addresses: Where its files are.
        noted: What was said when it ended, as JSON, or None: of what was never sent no journal knows why.
    """
    part = order.parts[0]
    if part.is_over and part.failure is None:
        return _done(order_id, part, addresses)
    # What is paid for, and is not here yet, is collected: to whoever waits it runs.
    is_over = part.is_over and (order.is_final or isinstance(part.failure, InvalidRequest))
    if is_over or (part.is_over and order.cost == 0):
        assert part.failure is not None
        error = msgspec.json.decode(noted) if noted else error_of(refusal_of(part.failure, part.cost))
        credits = None if part.result is None else part.result.credits
        return TaskReport(order_id, "failed" if is_over else "unsent", credits=credits, error=error)
    state = order.state
    is_queued = state == "queued"
    return TaskReport(order_id, state if is_queued else "running", waits=is_queued and order.asked.waits)


def _done(order_id: str, part: Part, addresses: Addresses) -> TaskReport:
    result = part.result
    assert result is not None
    return TaskReport(
        order_id,
        "done",
        # A text is told as such; its file is for those who read no texts.
        urls=() if result.text else addresses(part),
        credits=result.credits,
        latency=result.latency,
        ignored=result.ignored,
        text=result.text,
        model=result.model,
    )


def error_of(refusal: Refusal) -> dict[str, object]:
    """A refusal as it stands in an answer about several tasks: with its status, and when to come again."""
    again = {"retry_after": refusal.again} if refusal.status in (429, 503) else {}
    return {**refusal.error, "status": refusal.status, **again}


def placed(told: TaskReport, address: str) -> TaskReport:
    """The same with its files below that address of the service."""
    return msgspec.structs.replace(told, urls=tuple(address + each for each in told.urls)) if told.urls else told


class Listener:
    """One who hears of the ends of a caller's tasks."""

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._is_late = False
        self._news = asyncio.Event()
        self._told_at = -math.inf
        self.is_over = False

    def tell(self, order_id: str) -> None:
        """Have it hear of one."""
        self._ids.append(order_id)
        if len(self._ids) > MOST_WAITING:
            self._ids.clear()
            self._is_late = True
        self._news.set()

    def end(self) -> None:
        """Have it hear nothing more."""
        self.is_over = True
        self._news.set()

    async def next(self, seconds: float) -> bytes:
        """What is to be sent: ends, or after so many seconds a sign of life."""
        if not self._ids and not self._is_late:
            self._news.clear()
            try:
                async with asyncio.timeout(seconds):
                    await self._news.wait()
            except TimeoutError:
                return b": still here\n\n"
        now = asyncio.get_running_loop().time
        if not self.is_over:
            await asyncio.sleep(max(0.0, self._told_at + SOONEST - now()))
        self._told_at = now()
        ids, self._ids = self._ids, []
        is_late, self._is_late = self._is_late, False
        groups = [ids[at : at + AT_ONCE] for at in range(0, len(ids), AT_ONCE)]
        lines = [b"data: %b\n\n" % msgspec.json.encode(group) for group in groups]
        return b"".join([ALL] * is_late + lines)


class Board:
    """Keeps what there is to hear.

    Args:
        addresses: Where the files of a task are.
    """

    def __init__(self, addresses: Addresses) -> None:
        self._addresses = addresses
        self._kept: OrderedDict[str, tuple[str, TaskReport]] = OrderedDict()
        self._listeners: dict[str, set[Listener]] = {}
        self._unfinished: dict[str, set[str]] = {}

    def taken(self, caller: str, order_id: str) -> None:
        """Hear that a task of a caller is being made."""
        self._unfinished.setdefault(caller, set()).add(order_id)

    def unfinished(self, caller: str) -> Set[str]:
        """A caller's tasks that were taken here, and have not ended."""
        return self._unfinished.get(caller, frozenset())

    def gone(self, caller: str, order_id: str) -> None:
        """Hear that a task is not being made any more, whatever has become of it."""
        self._unfinished.get(caller, set()).discard(order_id)

    def told(self, order_id: str, order: Order, noted: bytes | None = None) -> TaskReport:
        """What is said of an order, as above."""
        return told_of(order_id, order, self._addresses, noted)

    def ended(self, row: OrderRow, order: Order) -> None:
        """Hear that a task has ended."""
        self.gone(row.caller, row.id)
        told = self.told(row.id, order)
        if told.status not in _ENDS:
            # It is paid for, and collected: its end is told then.
            self._kept.pop(row.id, None)
            return
        self._kept[row.id] = (row.caller, told)
        self._kept.move_to_end(row.id)
        if len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)
        for listener in self._listeners.get(row.caller, ()):
            listener.tell(row.id)

    def last(self, caller: str, order_id: str) -> TaskReport | None:
        """What a caller's task has come to lately; None where that is not at hand."""
        owner, told = self._kept.get(order_id, ("", None))
        return told if owner == caller else None

    def listen(self, caller: str) -> Listener:
        """Hear of a caller's ends from now on."""
        listener = Listener()
        self._listeners.setdefault(caller, set()).add(listener)
        return listener

    def leave(self, caller: str, listener: Listener) -> None:
        """Hear of them no more."""
        listeners = self._listeners[caller]
        listeners.discard(listener)
        if not listeners:
            del self._listeners[caller]

    def close(self) -> None:
        """Let every stream end."""
        for listeners in self._listeners.values():
            for listener in listeners:
                listener.end()
