"""The exact limit against a server with a strict sliding window and jittered round trips, beside a token bucket."""

from __future__ import annotations

import math

from benchmarks.clients import in_process
from benchmarks.server import server_process, take_figures
from imagen_async import Rate

TITLE = "500 creates under a strict window of 50 per 2 s, round trips of 0 to 0.4 s; the floor is 1.000"

RATE = Rate(50, per=2)
JITTER = 0.2


def run(*, quick: bool) -> list[dict[str, object]]:
    """Rows for our limit and for a token bucket."""
    count = 150 if quick else 500
    # On average a place is away for its window and one round trip: twice half of the longest way.
    floor = (math.ceil(count / RATE.count) - 1) * RATE.per * (RATE.per + JITTER) / RATE.per
    rows: list[dict[str, object]] = []
    for name in ("limited", "bucket"):
        with server_process(jitter=JITTER, rate=RATE) as url:
            in_process(name, url, count, (RATE.count, RATE.per))
            seen = take_figures(url)
        span = seen["last"] - seen["first"]
        label = "ours" if name == "limited" else "token bucket"
        rows.append({"client": label, "creates": seen["creates"], "429": seen["refused"], "span / floor": span / floor})
    return rows
