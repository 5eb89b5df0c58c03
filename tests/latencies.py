"""Latencies that tests tell of, and what follows from them by definition: slow, plain, and unlike what it checks."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections.abc import Sequence

from inner import EDGES, MEMORY, LatencyPrior

BINS = len(EDGES) - 1
FAR_OFF = LatencyPrior(median=47, sigma=0.95)
"""kie.ai's record: tasks of the tests are much quicker."""


class PlainCurve:
    """A curve of straight lines between the shares that last beyond each edge, its figures added up piece by piece."""

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


class PlainTable:
    """A life table that keeps all it was ever told, and reckons each curve anew, with each task as it still counts."""

    def __init__(self, prior: LatencyPrior) -> None:
        self.count = 0.0
        self.mean = prior.mean
        self._prior = prior
        self._curve: PlainCurve | None = None
        # Of a task or a part of one: the first curve that knows of it, the bins it reached, if it ended in the last.
        self._notes: list[tuple[int, range, float, bool]] = []
        # Tasks that have ended, and that had when each curve was made; what was told, and how much of it still counts.
        self._ended, self._known = 0, [0]
        self._told, self._heard = 0, 0.0

    def lasted(self, after: float, age: float) -> None:
        """It reached every bin between the two, and not the end of the last."""
        self._told += 1
        self._note(range(_bin(after), _bin(age)))

    def ended(self, after: float, by: float, latency: float | None) -> None:
        """It ended in one bin, or, where none is told, in each between the two for a part."""
        first = _bin(after)
        took = self._lasted_on_average(after, by) if latency is None else sorted((after, latency, by))[1]
        if latency is not None:
            self._note(range(first, _bin(sorted((after, latency, by))[1]) + 1), is_ending=True)
        else:
            points = {k: (max(after, EDGES[k]), min(by, EDGES[k + 1])) for k in range(first, _bin(by) + 1)}
            parts = {k: self.curve.survival(start) - self.curve.survival(end) for k, (start, end) in points.items()}
            whole = sum(parts.values())
            for k, part in parts.items():
                self._note(range(first, k + 1), part / whole if whole else 1 / len(parts), is_ending=True)
        self._told += 1
        self._ended += 1
        self.mean += (took - self.mean) / (min(self.count + self._ended - self._known[-1], MEMORY) + 1)

    def _lasted_on_average(self, after: float, by: float) -> float:
        return min(max(self.curve.mean(after, by), after), by)

    @property
    def curve(self) -> PlainCurve:
        """Made anew when an eighth as much was told since as it knows of."""
        new = self._ended - self._known[-1]
        if self._curve is None or self._told > self._heard / 8:
            self._heard = self._heard * math.exp(-new / MEMORY) + self._told
            self._told = 0
            self.count = self.count * math.exp(-new / MEMORY) + new
            self._known.append(self._ended)
            self._curve = PlainCurve(self._shares())
        return self._curve

    def _note(self, bins: range, part: float = 1.0, *, is_ending: bool = False) -> None:
        self._notes.append((len(self._known), bins, part, is_ending))

    def _shares(self) -> list[float]:
        reached, ended = [0.0] * BINS, [0.0] * BINS
        for curve, bins, part, is_ending in self._notes:
            weight = part * math.exp((self._known[curve] - self._ended) / MEMORY)
            for k in bins:
                reached[k] += weight
            if is_ending:
                ended[bins[-1]] += weight
        # So many bins on either side make up for few tasks, as far as any were there, and one is the record's.
        reach = int(24 / (1 + self.count) ** 0.4)
        shares = [1.0]
        for k in range(BINS):
            around = slice(max(0, k - reach), k + reach + 1)
            at_risk, ends = (sum(values[around]) / (2 * reach + 1) for values in (reached, ended))
            part = min(1.0, max(reached[k], ends) / at_risk) if at_risk else 1.0
            shares.append(shares[-1] * (1 - (part * ends + self._chance_moved(k)) / (part * at_risk + 1)))
        return shares

    def _chance_moved(self, k: int) -> float:
        """The record's word on the age that is to its mean as this one is to the mean."""
        later = round(math.log(max(self.mean, EDGES[1]) / self._prior.mean) / math.log(1.05))
        return self._chance(min(max(0, k - later), BINS - 1))

    def _chance(self, k: int) -> float:
        """To end in a bin: the law's, or more where that might be too slow; a half where the law knows no more."""
        before, after = self._prior.survival(EDGES[k]), self._prior.survival(EDGES[k + 1])
        lasts = after / before if before > 1e-9 else 0.5
        return min(0.5, 1 - lasts * (1.05**-0.15 if k else 1))


def _bin(age: float) -> int:
    return min(bisect_right(EDGES, age), BINS) - 1
