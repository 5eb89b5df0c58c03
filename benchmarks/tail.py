"""The end of a batch, and a status limit that is hardly used: how soon the last pictures are seen, in virtual time."""

from __future__ import annotations

import random
from statistics import fmean

from benchmarks.burst import burst
from benchmarks.schedule import PRIOR
from benchmarks.shapes import SHAPES, Lognormal
from benchmarks.simulation import MODEL, Outcome, Simulation
from imagen_async._core.poll_schedule import PollSchedule
from imagen_async.providers import PROVIDERS

TITLE = "wall over the last end: 500 at once, limits out of the way; a few at a time under kie.ai's limits, law known"

LAW = Lognormal(5, 0.2)
LIMITS = PROVIDERS["kie"].limits
AT_A_TIME = {1: 0.15, 5: 0.4}
"""Seconds of delay, in the mean, where so many tasks run at a time."""

LONGEST = 1.03
"""The wall of a burst over its last end, at most."""


def run(*, quick: bool) -> list[dict[str, object]]:
    """Bursts of every shape, cold and warm; then groups of one to twenty tasks, one group after the other."""
    rows: list[dict[str, object]] = []
    for shape in SHAPES:
        for known in (0, 300):
            found = burst(shape, known=known, seeds=4 if quick else 16)
            rows.append(_row(f"500 at once, {shape}, {known} known", found.calls, found.delay, found.wall))
    for size in (1, 2, 5, 10, 20):
        outcome = groups(size, 40 if quick else 300 // size)
        calls, delay = fmean(outcome.calls), fmean(outcome.delays)
        rows.append(_row(f"{size} at a time, median 5 s", calls, delay, "", outcome.busiest))
    return rows


def check() -> list[str]:
    """What is not as it should be, of fewer draws, with half as much again of what is allowed."""
    walls = {shape: burst(shape, known=0, seeds=4).wall for shape in SHAPES}
    delays = {size: fmean(groups(size, 100).delays) for size in AT_A_TIME}
    return [
        *(
            f"tail: {shape}: wall {wall:.3f} × the last end"
            for shape, wall in walls.items()
            if wall > 1 + 1.5 * (LONGEST - 1)
        ),
        *(f"tail: {size} at a time: {delay:.2f} s" for size, delay in delays.items() if delay > 1.5 * AT_A_TIME[size]),
    ]


def groups(size: int, count: int) -> Outcome:
    """So many groups of tasks, each alone with its account, whose schedule knows their law from 300 others."""
    chance = random.Random(size)
    schedule = PollSchedule(PRIOR)
    for _ in range(300):
        latency = LAW.draw(chance)
        schedule.ended((MODEL.name, 1), 0.0, latency + 1, latency)
    latencies = [LAW.draw(chance) for _ in range(size * count)]
    return Simulation(schedule, latencies, LIMITS, round_trip=0.002, at_a_time=size).run()


def _row(what: str, calls: float, delay: float, wall: float | str, busiest: int | str = "") -> dict[str, object]:
    return {
        "what": what,
        "calls a task": calls,
        "delay s": delay,
        "wall / last end": wall,
        "most calls a window": busiest,
    }
