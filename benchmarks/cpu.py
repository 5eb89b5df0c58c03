"""CPU of the client per job over loopback with limits out of the way, beside a bare aiohttp loop."""

from __future__ import annotations

import statistics

from benchmarks.clients import in_process
from benchmarks.server import server_process, take_figures

TITLE = "CPU of the client's process per job: one create and the status calls, median of the rounds"


def run(*, quick: bool) -> list[dict[str, object]]:
    """Rows for ours and the bare loop, taken in turn."""
    count, rounds, running = (500, 1, 200) if quick else (5000, 5, 500)
    figures: dict[str, list[float]] = {"ours": [], "bare": []}
    polls: dict[str, int] = {}
    with server_process() as url:
        for _ in range(rounds):
            for name, taken in figures.items():
                took = in_process(name, url, count, running)
                assert took["done"] == count
                taken.append(took["cpu"] / count * 1e6)
                polls[name] = take_figures(url)["polls"]
    bare = statistics.median(figures["bare"])
    return [
        {
            "client": name,
            "µs per job": statistics.median(taken),
            "status calls per job": polls[name] / count,
            "ratio": statistics.median(taken) / bare,
        }
        for name, taken in figures.items()
    ]
