"""The poll schedule against others, in virtual time: status calls, and how long finished pictures wait to be seen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean, quantiles

from benchmarks.shapes import SHAPES, Law, best_ages, draws
from benchmarks.simulation import Exponential, Fixed, Simulation
from imagen_async import Limits, Rate
from imagen_async._core.latency import LatencyPrior
from imagen_async._core.poll_schedule import FRESHNESS, PollSchedule
from imagen_async.providers import PROVIDERS

TITLE = "status calls and delay by schedule, virtual time; ours starts with kie.ai's record, which is far off here"

PRIOR: LatencyPrior = PROVIDERS["kie"].latency
OPEN = Limits(Rate(20, per=10), Rate(10**9, per=1), running=10**9)
TIGHT = Limits(Rate(10**9, per=1), Rate(10, per=1), running=100)
REAL = Limits(Rate(20, per=10), Rate(10, per=1), running=100)

SCARCE = 5
"""How many times as slow tasks are where the status limit is to bind: 100 of them, about half a minute each."""

LEARNT = 200
"""Tasks after which it should know what there is to know."""

COLD = 50
"""Tasks that count as a cold start."""

Figures = tuple[float, float, float]
"""Status calls a task, mean and p95 of the delay in seconds."""


def run(*, quick: bool) -> list[dict[str, object]]:
    """Every shape: warm and cold beside others; then with too few status calls; then under kie.ai's limits."""
    count = 800 if quick else 2200
    rows: list[dict[str, object]] = []
    for name in SHAPES:
        rows += [*warm(name, count), *cold(name, seeds=4 if quick else 24)]
    for name in SHAPES:
        rows += scarce(name, count)
    for name in SHAPES:
        rows += makespan(name)
    return rows


def warm(name: str, count: int) -> list[dict[str, object]]:
    """A shape with as many status calls as each schedule likes, tasks after the first 200."""
    latencies = draws(SHAPES[name], count)
    rest = latencies[LEARNT:]
    ours = _ours(latencies)
    rows = [_row(name, f"ours, freshness {FRESHNESS:g}", ours)]
    rows += [_row(name, f"every {interval:g} s", every(interval, rest)) for interval in (0.1, 0.5, 1.0, 2.0)]
    soon = matched(lambda interval: every(interval, rest), ours[1], by=1)
    many = matched(lambda interval: every(interval, rest), ours[0], by=0)
    best = matched(lambda price: _optimum(SHAPES[name], latencies, price), ours[0], by=0)
    rows.append(_row(name, "fixed, as soon as ours", soon, "calls", ours[0] / soon[0]))
    rows.append(_row(name, "fixed, as many calls as ours", many, "delay", ours[1] / many[1]))
    rows.append(_row(name, "optimum, law known", best, "calls × delay", ours[0] * ours[1] / (best[0] * best[1])))
    backoff = _figures(Exponential(), latencies, LEARNT)
    alike = matched(lambda freshness: _ours(latencies, freshness), backoff[0], by=0, rounds=8)
    best = matched(lambda price: _optimum(SHAPES[name], latencies, price), backoff[0], by=0)
    rows.append(_row(name, "1 s × 1.5 up to 10 s", backoff, "delay", alike[1] / backoff[1]))
    rows.append(_row(name, "ours, as many calls as that", alike))
    rows.append(_row(name, "optimum, as many calls as that", best, "delay", alike[1] / best[1]))
    return rows


def cold(name: str, seeds: int) -> list[dict[str, object]]:
    """The first 50 tasks of a process that knows the record only, over several runs, and the fixed interval as soon."""
    runs = [draws(SHAPES[name], COLD, seed) for seed in range(1, seeds + 1)]
    ours = _mean(_figures(PollSchedule(PRIOR), latencies) for latencies in runs)
    fixed = matched(lambda interval: _mean(every(interval, latencies) for latencies in runs), ours[1], by=1)
    title = f"{name}, first {COLD} tasks"
    return [_row(title, "ours", ours), _row(title, "fixed, as soon as ours", fixed, "calls", ours[0] / fixed[0])]


def scarce(name: str, count: int) -> list[dict[str, object]]:
    """A shape five times as slow, 100 tasks running, 10 status calls a second, without the first and last 200 tasks."""
    latencies = [SCARCE * latency for latency in draws(SHAPES[name], count)]
    ours = _figures(PollSchedule(PRIOR), latencies, LEARNT, TIGHT, end=LEARNT)
    first = _figures(Fixed(0.1), latencies, LEARNT, TIGHT, end=LEARNT)
    best = matched(lambda price: _optimum(SHAPES[name], latencies, price, SCARCE), ours[0], by=0)
    title = f"{name} × {SCARCE}, 10 calls/s"
    return [
        _row(title, "ours", ours),
        _row(title, "first come, first asked", first, "delay", ours[1] / first[1]),
        _row(title, "optimum without a limit", best, "delay", ours[1] / best[1]),
    ]


def makespan(name: str) -> list[dict[str, object]]:
    """1,000 tasks under kie.ai's limits, round trips of 0.1 s: the whole time over the least that it can be."""
    outcome = Simulation(PollSchedule(PRIOR), draws(SHAPES[name], 1000), REAL, round_trip=0.1).run()
    figures = _summary(outcome.calls, outcome.delays)
    ratio = outcome.makespan / outcome.bound
    return [_row(f"{name}, 1,000 at 20 per 10 s", "ours, beside the lower bound", figures, "makespan", ratio)]


def every(interval: float, latencies: Sequence[float]) -> Figures:
    """A fixed interval without limits: nothing to simulate."""
    return _asked_at(lambda latency: _first_at_or_after(latency, interval), latencies)


def matched(figures_of: Callable[[float], Figures], wanted: float, by: int, rounds: int = 16) -> Figures:
    """The figures of the setting where one of them, `by` its place, is as wanted: calls fall, delays rise with it."""
    low, high = 0.03, 30.0
    for _ in range(rounds):
        middle = (low * high) ** 0.5
        too_far = figures_of(middle)[by] > wanted if by else figures_of(middle)[by] < wanted
        low, high = (low, middle) if too_far else (middle, high)
    return figures_of((low * high) ** 0.5)


def _ours(latencies: Sequence[float], freshness: float = FRESHNESS) -> Figures:
    return _figures(PollSchedule(PRIOR, freshness), latencies, LEARNT)


def _optimum(shape: Callable[[float], Law], latencies: Sequence[float], price: float, slowed: int = 1) -> Figures:
    """The best schedule of whoever knows the law at each time, for the tasks after the first 200."""
    known: dict[Law, list[float]] = {}
    calls, delays = [], []
    for number, latency in list(enumerate(latencies))[LEARNT:]:
        law = shape(number / len(latencies))
        if law not in known:
            known[law] = [slowed * age for age in best_ages(law, price / slowed)]
        asked = next(((at, age) for at, age in enumerate(known[law], 1) if age >= latency), (len(known[law]), latency))
        calls.append(asked[0])
        delays.append(asked[1] - latency)
    return _summary(calls, delays)


def _first_at_or_after(latency: float, interval: float) -> tuple[int, float]:
    calls = max(1, -int(-latency // interval))
    return calls, calls * interval


def _asked_at(find: Callable[[float], tuple[int, float]], latencies: Sequence[float]) -> Figures:
    found = [(*find(latency), latency) for latency in latencies]
    return _summary([calls for calls, _, _ in found], [age - latency for _, age, latency in found])


def _figures(
    schedule: PollSchedule, latencies: Sequence[float], skip: int = 0, limits: Limits = OPEN, end: int = 0
) -> Figures:
    outcome = Simulation(schedule, latencies, limits).run()
    part = slice(skip, len(latencies) - end)
    return _summary(outcome.calls[part], outcome.delays[part])


def _summary(calls: Sequence[int], delays: Sequence[float]) -> Figures:
    return fmean(calls), fmean(delays), quantiles(delays, n=20)[-1]


def _mean(runs: Iterable[Figures]) -> Figures:
    calls, means, tails = zip(*runs, strict=True)
    return fmean(calls), fmean(means), fmean(tails)


def _row(shape: str, schedule: str, figures: Figures, by: str = "", ratio: float | str = "") -> dict[str, object]:
    calls, delay, tail = figures
    return {
        "latencies": shape,
        "schedule": schedule,
        "calls a task": calls,
        "delay s": delay,
        "p95 s": tail,
        "calls × delay": calls * delay,
        "compared by": by,
        "ours / this": ratio,
    }
