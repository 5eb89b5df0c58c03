"""Latencies that tests tell of, and what follows from them by definition: slow, plain, and unlike what it checks."""

from __future__ import annotations

import itertools
import math
import random
from bisect import bisect_right
from collections.abc import Callable, Sequence

from imagen_async._core.latency import EDGES, MEMORY, LatencyPrior

BINS = len(EDGES) - 1
FAR_OFF = LatencyPrior(median=47, sigma=0.95)
"""kie.ai's record: tasks of the laws below are much quicker."""

LAWS: dict[str, Callable[[random.Random], float]] = {
    "narrow": lambda chance: chance.lognormvariate(math.log(5), 0.35),
    "wide": lambda chance: chance.lognormvariate(math.log(8), 0.8),
    "two humps": lambda chance: chance.lognormvariate(math.log(4 if chance.random() < 0.85 else 25), 0.25),
    "even": lambda chance: chance.uniform(10, 40),
}


def drawn(law: str, count: int, seed: int = 7) -> list[float]:
    """So many latencies of a law."""
    chance = random.Random(seed)
    return [LAWS[law](chance) for _ in range(count)]


class PlainCurve:
    """A curve of straight lines between the edges, each figure added up piece by piece.

    Args:
        shares: Of tasks that last beyond each edge.
    """

    def __init__(self, shares: Sequence[float]) -> None:
        self.shares = shares

    def survival(self, age: float) -> float:
        """The share that takes longer than `age`; of what lies beyond the last edge nothing is told apart."""
        after = max(k for k, edge in enumerate(EDGES) if edge <= age)
        if after == BINS:
            return self.shares[-1]
        part = (age - EDGES[after]) / (EDGES[after + 1] - EDGES[after])
        return (1 - part) * self.shares[after] + part * self.shares[after + 1]

    def waiting(self, asked: float, age: float, announced: float = 0.0) -> float:
        """E[(age - T)+ | T > asked], less what would have been announced: by Bayes, from what was not."""
        ended = [(point, 1 - self.survival(point) / self.survival(asked)) for point in self._points(asked, age)]
        plain = sum((late - early) * (low + high) / 2 for (early, low), (late, high) in itertools.pairwise(ended))
        has_ended = ended[-1][1]
        return plain * (1 - announced) / ((1 - announced) * has_ended + (1 - has_ended))

    def mean(self, after: float, by: float) -> float:
        """The mean latency of those that end between two ages."""
        pieces = [
            (self.survival(early) - self.survival(late), (early + late) / 2)
            for early, late in itertools.pairwise(self._points(after, by))
        ]
        ended = sum(share for share, _ in pieces)
        is_any = ended > 1e-12 * self.survival(after)
        return sum(share * middle for share, middle in pieces) / ended if is_any else (after + by) / 2

    def quantile(self, part: float, asked: float) -> float:
        """The first edge after `asked` that no more than the rest outlive of those unfinished then."""
        share = self.survival(asked) * (1 - part)
        first = max(k for k, edge in enumerate(EDGES[:-1]) if edge <= asked)
        return next((EDGES[k] for k in range(first, BINS) if self.shares[k] <= share), EDGES[-1])

    def _points(self, after: float, by: float) -> list[float]:
        return [after, *(edge for edge in EDGES if after < edge < by), by]


class Batch:
    """What was told between two curves: how many tasks reached each bin, and how many of them ended in it."""

    def __init__(self) -> None:
        self.reached, self.ended = [0.0] * BINS, [0.0] * BINS
        self.known_at = 0

    def note(self, bins: range, part: float = 1.0, *, is_ending: bool = False) -> None:
        """Note a task, or a part of one, that reached these bins and ended in the last of them."""
        for k in bins:
            self.reached[k] += part
        if is_ending:
            self.ended[bins[-1]] += part


class PlainTable:
    """A life table that keeps all it was ever told, and reckons each curve anew, with each task as it still counts.

    Attributes:
        count: Ended tasks that the curve knows of, each as much as it still counts.
    """

    def __init__(self, prior: LatencyPrior) -> None:
        self.count = 0.0
        self._prior = prior
        self._ended = self._known = 0
        self._batches = [Batch()]
        self._curve: PlainCurve | None = None

    @property
    def is_new(self) -> bool:
        """True until the first task ends."""
        return self._ended == 0

    def lasted(self, after: float, age: float) -> None:
        """It reached every bin between the two, and not the end of the last."""
        self._batches[-1].note(range(_bin(after), _bin(age)))

    def ended(self, after: float, by: float, latency: float | None) -> None:
        """It ended in one bin, or, where none is told, in each between the two for a part."""
        first = _bin(after)
        if latency is not None:
            self._batches[-1].note(range(first, _bin(sorted((after, latency, by))[1]) + 1), is_ending=True)
        else:
            points = {k: (max(after, EDGES[k]), min(by, EDGES[k + 1])) for k in range(first, _bin(by) + 1)}
            parts = {k: self.curve.survival(start) - self.curve.survival(end) for k, (start, end) in points.items()}
            whole = sum(parts.values())
            for k, part in parts.items():
                share = part / whole if whole else 1 / len(parts)
                self._batches[-1].note(range(first, k + 1), share, is_ending=True)
        self._ended += 1

    @property
    def curve(self) -> PlainCurve:
        """Made anew when an eighth as much has ended since as it knows of."""
        if self._curve is None or self._ended - self._known > self.count / 8:
            self.count = self.count * self._fading(self._known) + self._ended - self._known
            self._known = self._batches[-1].known_at = self._ended
            self._curve = PlainCurve(self._shares())
            self._batches.append(Batch())
        return self._curve

    def _fading(self, known_at: int) -> float:
        return math.exp((known_at - self._ended) / MEMORY)

    def _shares(self) -> list[float]:
        weighted = [(self._fading(batch.known_at), batch) for batch in self._batches]
        reached = [sum(weight * batch.reached[k] for weight, batch in weighted) for k in range(BINS)]
        ended = [sum(weight * batch.ended[k] for weight, batch in weighted) for k in range(BINS)]
        # So many bins on either side make up for few tasks, and two tasks of the record's stand in each.
        reach = int(16 / (1 + self.count) ** (1 / 3))
        shares = [1.0]
        for k in range(BINS):
            around = slice(max(0, k - reach), k + reach + 1)
            at_risk, ends = (sum(values[around]) / (2 * reach + 1) for values in (reached, ended))
            shares.append(shares[-1] * (1 - (ends + 2 * self._chance(k)) / (at_risk + 2)))
        return shares

    def _chance(self, k: int) -> float:
        """To end in a bin: the law's, or more where that might be too slow; a half where the law knows no more."""
        before, after = self._prior.survival(EDGES[k]), self._prior.survival(EDGES[k + 1])
        lasts = after / before if before > 1e-9 else 0.5
        return min(0.5, 1 - lasts * (1.05**-0.15 if k else 1))


def _bin(age: float) -> int:
    return min(bisect_right(EDGES, age), BINS) - 1
