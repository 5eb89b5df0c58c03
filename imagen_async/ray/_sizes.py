"""How many rows are asked for at once: what keeps the accounts at work, and no more. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from .._core.provider import Limits
from .._core.rate_limit import Rate

BLOCKS = 64
"""Blocks that one actor asks for at once, each in a thread that only waits."""

FEWEST_ROWS, MOST_ROWS = 4, 256
"""Rows of a block, which comes out as a whole."""

SPREAD = 2.0
"""Seconds of creates that a block is: so much later than the first of its rows it may come out."""

AHEAD = 10.0
"""Seconds of creates that are asked for beyond the tasks that may run: what has not gone out is there when it may."""

WAITING = 2
"""Rows that are asked for, for each task that may run: in a block one waits for the last of all, and that takes twice
as long as one of them (measured, with blocks of 40)."""

MOST_AT_ONCE = 50_000
"""Rows that are asked for at once at most: each takes 16 KB in the coordinator (measured, benchmark `coordinator`)."""

OF_A_SERVICE = Limits(Rate(20, per=1), running=1000)
"""What is asked for of a service, whose limits nobody knows: it takes 10,000 of one caller, and tells when it is
full."""


class Sizes(msgspec.Struct, frozen=True):
    """How much is asked for at once.

    Attributes:
        rows: Of a block.
        blocks: At once, by each actor that asks.
        askers: Actors that ask.
    """

    rows: int
    blocks: int
    askers: int


def sizes_for(limits: Iterable[Limits], rows: int | None = None) -> Sizes:
    """What keeps accounts of these limits at work; `rows` of a block where they are given."""
    all_limits = [OF_A_SERVICE if each.submit.count > MOST_AT_ONCE else each for each in limits]
    rate = sum(each.submit.count / each.submit.per for each in all_limits)
    at_once = min(MOST_AT_ONCE, WAITING * sum(each.running for each in all_limits) + math.ceil(rate * AHEAD))
    rows = rows or max(FEWEST_ROWS, min(MOST_ROWS, math.ceil(rate * SPREAD)))
    blocks = math.ceil(at_once / rows)
    askers = math.ceil(blocks / BLOCKS)
    return Sizes(rows, math.ceil(blocks / askers), askers)
