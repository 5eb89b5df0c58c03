"""What has come in, as the desk takes it."""

from __future__ import annotations

import msgspec

from ._book import OrderRow
from ._callers import Caller
from ._reading import Asked

DAY = 86400
"""Seconds of a day, which begins at midnight in UTC."""

KEY = "key:"
"""What the name of an order begins with that its caller has named."""


class Demand(msgspec.Struct, frozen=True):
    """What has come in: from whom, what, and how it is told from others.

    Attributes:
        caller: Who asks.
        asked: What.
        body: It, as it is read again later.
        key: The name that its caller has given it, or None.
        repeat: How often it was sent before, as it says itself.
        callback: Where its end is announced, as the book keeps it, or None.
        after: The order of that name behind which another one is wanted, by its id; None: the last one is meant.
    """

    caller: Caller
    asked: Asked
    body: bytes
    key: str | None = None
    repeat: int = 0
    callback: bytes | None = None
    after: str | None = None

    @property
    def name(self) -> str:
        """What equal ones have in common."""
        return self.asked.digest if self.key is None else f"{KEY}{self.key}"

    def row(self, order_id: str, ordinal: int, now: float) -> OrderRow:
        """The row of an order of it that begins now, in Unix seconds."""
        return OrderRow(
            id=order_id,
            caller=self.caller.name,
            name=self.name,
            ordinal=ordinal,
            content=self.asked.digest,
            body=self.body,
            tasks=len(self.asked.parts),
            is_async=self.asked.is_async,
            begun_at=now,
            day=int(now // DAY),
            reserved=self.asked.price or 0.0,
            callback=self.callback,
        )
