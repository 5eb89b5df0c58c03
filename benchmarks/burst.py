"""Many tasks at once, of whose latency little is known: what the first to end tell of the others, in virtual time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

import msgspec

from benchmarks.schedule import PRIOR, every
from benchmarks.shapes import SHAPES, draws
from benchmarks.simulation import MODEL, Outcome, Simulation
from imagen_async import Limits, Rate
from imagen_async._core.poll_schedule import PollSchedule

TITLE = "500 tasks at once, limits out of the way: calls × delay beside the best fixed interval; means of several draws"

OPEN = Limits(Rate(10**6, per=1), Rate(10**9, per=1), running=10**9)
COUNT = 500
ROUND_TRIP = 0.02

INTERVALS = [0.25 * 1.05**number for number in range(math.ceil(math.log(30 / 0.25, 1.05)))]
"""Seconds, of which the best is taken for each draw."""

MOST = {"narrow": 0.75, "two humps": 0.85, "wide": 1.08}
"""What calls × delay may come to, cold, over that of the best fixed interval; of the fourth shape it is told."""


class Burst(msgspec.Struct, frozen=True):
    """What became of a burst, on average over some draws.

    Attributes:
        calls: Status calls a task.
        delay: Seconds from an end to its being seen.
        ratio: Calls × delay, over that of the best fixed interval.
        wall: Seconds from the first create to the last picture seen, over those to the last end.
    """

    calls: float
    delay: float
    ratio: float
    wall: float


def run(*, quick: bool) -> list[dict[str, object]]:
    """Every shape, of a process that knows the record only, and of one that has seen 300 tasks of the kind."""
    return [
        {
            "latencies": shape,
            "known": known,
            **msgspec.structs.asdict(burst(shape, known=known, seeds=4 if quick else 16)),
        }
        for shape in SHAPES
        for known in (0, 300)
    ]


def check() -> list[str]:
    """What is not as it should be, of fewer draws, with half as much again allowed of what is beyond the best."""
    found = {shape: burst(shape, known=0, seeds=4).ratio for shape in MOST}
    return [
        f"burst: {shape}: {ratio:.2f} × the best fixed interval, at most {MOST[shape]}"
        for shape, ratio in found.items()
        if ratio > 1.5 * MOST[shape]
    ]


def burst(shape: str, *, known: int, seeds: int, count: int = COUNT) -> Burst:
    """So many tasks at once, the schedule having seen `known` others end."""
    outcomes: list[Outcome] = []
    ratios: list[float] = []
    walls: list[float] = []
    for seed in range(1, seeds + 1):
        latencies = draws(SHAPES[shape], count, seed)
        outcome = Simulation(schedule(shape, known), latencies, OPEN, ROUND_TRIP).run()
        outcomes.append(outcome)
        ratios.append(fmean(outcome.calls) * fmean(outcome.delays) / best_fixed(latencies))
        walls.append(outcome.makespan / max(latencies))
    calls, delays = (fmean(map(fmean, each)) for each in zip(*((o.calls, o.delays) for o in outcomes), strict=True))
    return Burst(calls, delays, fmean(ratios), fmean(walls))


def schedule(shape: str, known: int) -> PollSchedule:
    """One that starts with kie.ai's record, and has seen so many tasks of a shape."""
    found = PollSchedule(PRIOR)
    for latency in draws(SHAPES[shape], known, seed=99):
        found.ended((MODEL.name, 1), 0.0, latency + 1, latency)
        found.next_age((MODEL.name, 1), 0.0)
    return found


def best_fixed(latencies: Sequence[float]) -> float:
    """Calls × delay of the fixed interval with the least of it."""
    figures = (every(interval, latencies) for interval in INTERVALS)
    return min(calls * delay for calls, delay, _ in figures)
