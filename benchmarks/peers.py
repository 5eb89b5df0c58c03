"""Beside two real clients of the same kind of API: fal-client and replicate, used as their users would.

Each client has its own protocol, at one server whose job number i takes as long in each. All have at most 100 jobs
running at once: the peers by a semaphore around submit and wait, as neither has a limit of its own; ours by its limits,
with the rates out of the way. Both peers ask at a fixed interval, fal-client every 0.1 s and replicate every 0.5 s;
these defaults are left as they are. What fal-client spends on fetching a result, one call a job, is not in its status
calls, but in its CPU and its delay. Ours knows beforehand that tasks take 1 s, a fifth of what they do take here.
"""

from __future__ import annotations

import importlib.util
from statistics import fmean, quantiles
from typing import Any

from benchmarks.clients import in_process
from benchmarks.peer_server import peer_server_process
from benchmarks.server import take_figures
from benchmarks.shapes import Lognormal
from imagen_async._core.poll_schedule import FRESHNESS

TITLE = "1,000 jobs of median 5 s, 100 at once, each client in its own protocol and with its own interval, on loopback"

SOON = 0.025
"""The freshness at which ours sees pictures about as soon as fal-client, the sooner of the peers, on a slow machine.

There a whole CPU is what holds fal-client back: asking about 100 tasks every 0.1 s takes more than that. With 50 tasks
at once it keeps to its interval on the same machine, asks 50 times a task and sees pictures after 0.06 s.
"""

CLIENTS: tuple[tuple[str, str, str, tuple[float, ...]], ...] = (
    ("fal-client", "fal_client", "fal", ()),
    ("replicate", "replicate", "replicate", ()),
    (f"ours, freshness {FRESHNESS:g}", "imagen_async", "ours", (FRESHNESS,)),
    (f"ours, freshness {SOON:g}", "imagen_async", "ours", (SOON,)),
)
"""Label, package, which of the clients' works, and what that needs to know besides."""

COLUMNS = ("jobs done", "wall s", "CPU ms per job", "status calls a task", "delay s", "p95 s", "peak MB")


def run(*, quick: bool) -> list[dict[str, object]]:
    """A row for each peer, and two for ours."""
    count, law = (100, Lognormal(1, 0.35, minimum=0.4)) if quick else (1000, Lognormal(5, 0.35, minimum=2))
    rows: list[dict[str, object]] = []
    for label, package, name, more in CLIENTS:
        figures: dict[str, object] = {"jobs done": "not installed: pip install '.[bench]'"}
        if importlib.util.find_spec(package) is not None:
            with peer_server_process(law, count) as url:
                taken = in_process(name, url, count, 100, *more, module="benchmarks.peer_clients")
                figures = summary(taken, take_figures(url), count)
        rows.append({"client": label, **dict.fromkeys(COLUMNS, ""), **figures})
    return rows


def summary(taken: dict[str, Any], seen: dict[str, Any], count: int) -> dict[str, object]:
    """The columns, from what the client and what the server saw: their clocks are the same one."""
    delays = [held_at - seen["ended"][number] for number, held_at in taken["held"].items()]
    cpu, calls = taken["cpu"] / count * 1000, seen["polls"] / count
    figures = (len(delays), taken["wall"], cpu, calls, fmean(delays), quantiles(delays, n=20)[-1], taken["peak"] / 1e6)
    return dict(zip(COLUMNS, figures, strict=True))
