"""Four shapes of latency, as laws to draw from and to look at, and the best schedule for one that is known."""

from __future__ import annotations

import itertools
import math
import random
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from functools import lru_cache

import msgspec


class Lognormal(msgspec.Struct, frozen=True):
    """A latency that is never under `minimum` seconds."""

    median: float
    sigma: float
    minimum: float = 0.0

    def draw(self, chance: random.Random) -> float:
        """One task's seconds."""
        return max(self.minimum, chance.lognormvariate(math.log(self.median), self.sigma))

    def survival(self, age: float) -> float:
        """The share of tasks that take longer."""
        if age <= max(self.minimum, 0.0):
            return 1.0
        return math.erfc(math.log(age / self.median) / (self.sigma * math.sqrt(2))) / 2


class Mixture(msgspec.Struct, frozen=True):
    """Either of two, the first with the chance `share`."""

    share: float
    first: Lognormal
    second: Lognormal

    def draw(self, chance: random.Random) -> float:
        """One task's seconds."""
        return (self.first if chance.random() < self.share else self.second).draw(chance)

    def survival(self, age: float) -> float:
        """The share of tasks that take longer."""
        return self.share * self.first.survival(age) + (1 - self.share) * self.second.survival(age)


Law = Lognormal | Mixture

DRIFT_STEPS = 20
"""The drifting shape stays as it is for so many parts of a run."""


def steady(law: Law) -> Callable[[float], Law]:
    """A law that stays as it is."""
    return lambda part: law


def _drifting(part: float) -> Law:
    """Rises from a median of 5 s to one of 12.5 s over the first two thirds of a run, and stays there."""
    step = int(part * DRIFT_STEPS) / DRIFT_STEPS
    return Lognormal(5 * (1 + 1.5 * min(1.0, step * 1.5)), 0.35)


SHAPES: dict[str, Callable[[float], Law]] = {
    "narrow": steady(Lognormal(5, 0.35, minimum=2)),
    "two humps": steady(Mixture(0.85, Lognormal(4, 0.25), Lognormal(25, 0.25))),
    "wide": steady(Lognormal(8, 0.8)),
    "drifting": _drifting,
}
"""Each by how much of the run is over: median 5 s; 85 % around 4 s and 15 % around 25 s; median 8 s; 5 to 12.5 s."""


def draws(shape: Callable[[float], Law], count: int, seed: int = 1) -> list[float]:
    """The latencies of a run, the same for each seed."""
    chance = random.Random(seed)
    return [shape(number / count).draw(chance) for number in range(count)]


@lru_cache(256)
def best_ages(law: Law, price: float) -> list[float]:
    """The ages at which to ask when the law is known and a call costs `price` seconds of delay.

    The optimum of Barlow, Hunter and Proschan (1963), by dynamic programming on a grid of ages, each 0.8 % beyond the
    last: from the far end, the cost of going on from each age is the least over all next questions. Whatever the law, a
    next question that is better than a later one for some age is so for all ages before: waiting from a to b, as a
    function of both, has -f(a) as its mixed derivative. So each candidate has its turn, one after the other.
    """
    grid = [0.0, 0.05 * law_scale(law)]
    while law.survival(grid[-1]) > 1e-6:
        grid.append(grid[-1] * 1.008)
    alive = [law.survival(age) for age in grid]
    gone = [-share for share in alive]
    areas = [(b - a) * (p + q) / 2 for (a, b), (p, q) in zip(*map(itertools.pairwise, (grid, alive)), strict=True)]
    area: list[float] = [0.0, *itertools.accumulate(areas)]
    cost = [0.0] * len(grid)
    following = [len(grid) - 1] * len(grid)

    def total(i: int, j: int) -> float:
        """The cost of asking at age j next, from age i on; without what does not depend on j."""
        return grid[j] * alive[i] - area[j] + cost[j]

    def best_until(j: int, later: int) -> int:
        """The oldest age up to which j is a better next question than a later one; what tells is the share alive."""
        share = (area[j] - area[later] - cost[j] + cost[later]) / (grid[j] - grid[later])
        return bisect_right(gone, -share, 0, j) - 1

    turns = deque([(len(grid) - 1, len(grid))])
    for i in range(len(grid) - 2, -1, -1):
        if i + 1 < len(grid) - 1:
            _add_candidate(turns, i + 1, best_until)
        while len(turns) > 1 and turns[1][1] >= i:
            turns.popleft()
        following[i] = turns[0][0]
        cost[i] = total(i, following[i]) + (price - grid[i]) * alive[i] + area[i]
    ages, at = [], 0
    while at < len(grid) - 1:
        at = following[at]
        ages.append(grid[at])
    return ages


def _add_candidate(turns: deque[tuple[int, int]], j: int, best_until: Callable[[int, int], int]) -> None:
    """Give the age j its turn among the next questions: each with the oldest age for which it is the best so far."""
    while turns:
        last, begins = turns[-1]
        better = best_until(j, last)
        if better < begins:
            break
        turns.pop()
    if better >= 0:
        turns.append((j, better))


def law_scale(law: Law) -> float:
    """Seconds that a typical task takes."""
    return law.median if isinstance(law, Lognormal) else law.first.median
