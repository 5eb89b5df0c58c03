"""What remembering costs: our batch with a journal beside the same without one, limits out of the way."""

from __future__ import annotations

import statistics

from benchmarks.clients import in_process
from benchmarks.server import server_process

TITLE = "CPU of the client's process per job, with every change durable (synchronous=FULL); medians of rounds in turn"


def run(*, quick: bool) -> list[dict[str, object]]:
    """Rows for a batch without and with a journal, and for what the journal adds."""
    count, rounds, running = (500, 1, 200) if quick else (5000, 7, 500)
    taken: dict[str, list[dict[str, float]]] = {"ours": [], "journalled": []}
    with server_process() as url:
        for _ in range(rounds):
            for name, figures in taken.items():
                figures.append(in_process(name, url, count, running))
                assert figures[-1]["done"] == count
    cpu = {name: [each["cpu"] / count * 1e6 for each in figures] for name, figures in taken.items()}
    added = statistics.median(after - before for before, after in zip(cpu["ours"], cpu["journalled"], strict=True))
    return [
        {
            "batch": label,
            "µs per job": statistics.median(cpu[name]),
            "added": extra,
            "of it writing": median_of(taken[name], "writing") / count * 1e6,
            "changes a transaction": 3 * count / max(1.0, median_of(taken[name], "groups")) if extra else 0.0,
            "jobs per s": count / median_of(taken[name], "wall"),
            "bytes per job": median_of(taken[name], "bytes") / count,
        }
        for name, label, extra in (("ours", "without a journal", 0.0), ("journalled", "with a journal", added))
    ]


def median_of(figures: list[dict[str, float]], name: str) -> float:
    """The median of one figure over the rounds; 0 where it was not taken."""
    return statistics.median(each.get(name, 0.0) for each in figures)
