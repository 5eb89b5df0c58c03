"""What remembering costs: our batch with a journal beside the same without one, limits out of the way."""

from __future__ import annotations

import statistics

from benchmarks.clients import in_process
from benchmarks.server import server_process
from imagen_async._journal.writer import ENOUGH

TITLE = "CPU of the client's process per job, with every change durable (synchronous=FULL); medians of pairs in turn"


BYTES = 400
"""Of the file, for a job."""

RATIO = 1.3
"""Times the CPU of a job without a journal that one with a journal has come to."""

MORE = 1.5
"""By so much a short measurement may be worse than what a long one is to reach."""

Figures = dict[str, list[dict[str, float]]]


def run(*, quick: bool) -> list[dict[str, object]]:
    """Rows for a batch without and with a journal, and for what the journal adds."""
    count, rounds, running = (500, 1, 200) if quick else (5000, 7, 500)
    taken = measured(count, rounds, running)
    return [
        {
            "batch": label,
            "µs per job": 1e6 * median_of(taken[name], "cpu") / count,
            "added": added(taken, count) if name == "journalled" else 0.0,
            "of it writing": median_of(taken[name], "writing") / count * 1e6,
            "changes a transaction": together(taken, count) if name == "journalled" else 0.0,
            "jobs per s": count / median_of(taken[name], "wall"),
            "bytes per job": median_of(taken[name], "bytes") / count,
        }
        for name, label in (("ours", "without a journal"), ("journalled", "with a journal"))
    ]


def check() -> list[str]:
    """What a short form finds to be worse than it is to be by more than half."""
    count = 1000
    taken = measured(count, 3, 500)
    found = []
    # Not in microseconds: these are others on another machine, or beside a neighbour.
    if (ratio := times_as_much(taken)) > RATIO * MORE:
        found.append(f"A job with a journal takes {ratio:.2f} times the CPU, {RATIO * MORE:.2f} is the most.")
    if together(taken, count) < ENOUGH / MORE:
        found.append(f"A transaction has {together(taken, count):.0f} changes, {ENOUGH / MORE:.0f} is the least.")
    if (size := median_of(taken["journalled"], "bytes") / count) > BYTES * MORE:
        found.append(f"A journal has {size:.0f} bytes a job, {BYTES * MORE:.0f} is the most.")
    return found


def measured(count: int, rounds: int, running: int) -> Figures:
    """Figures of a batch without a journal and with one, in pairs that begin with the one and the other in turn."""
    taken: Figures = {"ours": [], "journalled": []}
    with server_process() as url:
        for name in taken:
            in_process(name, url, count // 5, running)
        for number in range(rounds):
            for name in taken if number % 2 else reversed(taken):
                taken[name].append(in_process(name, url, count, running))
                assert taken[name][-1]["done"] == count
    return taken


def added(taken: Figures, count: int) -> float:
    """Microseconds of CPU that the journal adds to a job: the median over the pairs."""
    pairs = zip(taken["ours"], taken["journalled"], strict=True)
    return statistics.median(after["cpu"] - before["cpu"] for before, after in pairs) / count * 1e6


def times_as_much(taken: Figures) -> float:
    """The CPU of a job with a journal over that of one without: the median over the pairs."""
    pairs = zip(taken["ours"], taken["journalled"], strict=True)
    return statistics.median(after["cpu"] / before["cpu"] for before, after in pairs)


def together(taken: Figures, count: int) -> float:
    """Changes that are written in one transaction, of three a job."""
    return 3 * count / median_of(taken["journalled"], "groups")


def median_of(figures: list[dict[str, float]], name: str) -> float:
    """The median of one figure over the rounds; 0 where it was not taken."""
    return statistics.median(each.get(name, 0.0) for each in figures)
