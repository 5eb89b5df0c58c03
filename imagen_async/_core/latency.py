"""What is known of how long tasks take: a life table of the tasks that were watched. Pure numbers, no jobs."""

from __future__ import annotations

import itertools
import math
import operator
from bisect import bisect_left
from collections.abc import Iterator

import msgspec

from .record_values import check_number

_FIRST_EDGE = 0.1
_RATIO = 1.05
_BINS = 256
_BINS_PER_E = 1 / math.log(_RATIO)

EDGES: tuple[float, ...] = (0.0, *(_FIRST_EDGE * _RATIO**number for number in range(_BINS)))
"""Ages in seconds between which a task's chance to end is taken as even: each bin a twentieth wider than the last."""

MEMORY = 200
"""Tasks after which an observation counts for a third (1/e): enough for a curve, few enough to follow a drift."""

_PRIOR_WEIGHT = 1.0
"""Tasks at risk in every bin that the record's word counts for."""

_UNSHOWN = 4.0
"""Of n tasks that were seen to end, n in n + this have shown how long the slowest take."""

_EARLY = 0.15
"""How far a record may be too slow: a task's chance to end in an instant is never under this, divided by its age."""

_BLUR = 24
"""Bins on either side over which a first ending is spread."""

_SHARPENING = 0.4
"""With n of them, it is by n to the power of this: less and less of what is smooth comes from smoothing."""

_REBUILD = 1 / 8
"""A curve is made anew when so many of the observations that it should know of are newer than it."""


_LONGEST_CREATE = 60.0
"""Seconds that a task may be older than its acceptance: its create was on the way for as long, and clocks round."""


def believed(latency: float | None, age: float = math.inf) -> float | None:
    """A latency by the provider's clock, where it can be one; None for what such a clock tells that is wrong.

    Args:
        latency: Seconds.
        age: Seconds since the task was accepted, by our clock; none: at most what a life table holds.
    """
    if latency is None:
        return None
    longest = EDGES[-1] if age == math.inf else age + _LONGEST_CREATE
    # No picture takes no time: both times are then of when the record was written.
    return latency if 0 < latency <= longest else None


class LatencyPrior(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a provider's record says beforehand of its tasks' latency, taken as lognormal.

    Attributes:
        median: Seconds.
        sigma: Standard deviation of the natural logarithm: with 1, two thirds lie between median / 2.7 and × 2.7.
    """

    median: float
    sigma: float

    def __post_init__(self) -> None:
        check_number("latency.median", self.median, 0.001, 1e6)
        # The mean grows with the exponential of its square: of much more no float holds it.
        check_number("latency.sigma", self.sigma, 0.001, 10)

    @property
    def mean(self) -> float:
        """Seconds."""
        return self.median * math.exp(self.sigma**2 / 2)

    def survival(self, age: float) -> float:
        """The share of tasks that take longer than `age` seconds."""
        return math.erfc(math.log(age / self.median) / (self.sigma * math.sqrt(2))) / 2 if age > 0 else 1.0

    def quantile(self, part: float, age: float = 0.0) -> float:
        """The age that `part` of the tasks which last until `age` do not outlive."""
        share = self.survival(age) * (1 - part)
        return EDGES[min(bisect_left(EDGES, -share, key=lambda edge: -self.survival(edge)), len(EDGES) - 1)]

    def chances(self) -> list[float]:
        """For each bin, the chance that a task which reached it ends in it."""
        chances = [min(0.5, 1 - self.survival(EDGES[1]))]
        for start, end in itertools.pairwise(EDGES[1:]):
            before = self.survival(start)
            lasts = (self.survival(end) / before if before > 1e-9 else 0.5) * _RATIO**-_EARLY
            # Never nearly certain: a straggler far beyond anything is asked about calmly, and no product vanishes.
            chances.append(min(0.5, 1 - lasts))
        return chances


class Curve:
    """The share of tasks that last beyond each age, straight lines between the edges."""

    def __init__(self, survival: list[float]) -> None:
        self._survival = survival
        # Added up from the far end, where the shares are smallest: differences near there keep their digits.
        pairs = zip(itertools.pairwise(reversed(EDGES)), itertools.pairwise(reversed(survival)), strict=True)
        widths = ((late - early) * (low + high) / 2 for (late, early), (low, high) in pairs)
        self._beyond = [*itertools.accumulate(widths, initial=0.0)][::-1]

    def survival(self, age: float) -> float:
        """The share of tasks that take longer than `age` seconds."""
        return self._at(age)[0]

    def distance(self, other: Curve) -> float:
        """The most by which the shares of two curves differ at any age."""
        return max(abs(one - another) for one, another in zip(self._survival, other._survival, strict=True))

    def waiting(self, asked: float, age: float, announced: float = 0.0) -> float:
        """Seconds for which, at `age`, a task that was unfinished at `asked` is expected to have been finished.

        Args:
            asked: Seconds.
            age: Seconds.
            announced: The share of tasks whose end is announced at once; this one's has not been (Bayes).
        """
        share, area = self._at(asked)
        alive, beyond = self._at(age)
        waiting = max(0.0, (age - asked) - (area - beyond) / share)
        return (1 - announced) * waiting / (1 - announced * (1 - alive / share))

    def next_age(self, asked: float, waiting: float, longest: float, announced: float = 0.0) -> float:
        """The age at which that expectation reaches `waiting`, at most `longest` seconds after `asked`."""
        share, area = self._at(asked)
        first, last = _bin(asked), _bin(asked + longest)
        silent, hidden = 1 - announced, waiting * announced

        def reached(at: float, alive: float, beyond: float) -> float:
            """What comes to `waiting` when that expectation does: without its division, straight where `alive` is."""
            return silent * ((at - asked) - (area - beyond) / share) + hidden * (1 - alive / share)

        k = first + bisect_left(
            range(first + 1, last + 1),
            waiting,
            key=lambda k: reached(EDGES[k], self._survival[k], self._beyond[k]),
        )
        # It is reached in bin k, whose start, or `asked` itself, is where to go on from: a quadratic equation.
        start, alive, beyond = (asked, share, area) if k == first else (EDGES[k], self._survival[k], self._beyond[k])
        missing = waiting - reached(start, alive, beyond)
        slope = (self._survival[k] - self._survival[k + 1]) / (EDGES[k + 1] - EDGES[k]) / share
        rising = silent * (1 - alive / share) + hidden * slope
        divisor = rising + math.sqrt(max(0.0, rising**2 + 2 * silent * slope * missing))
        return asked + longest if divisor <= 0 else min(asked + longest, start + 2 * missing / divisor)

    def mean(self, after: float, by: float) -> float:
        """Seconds that tasks take on average which end between the two ages."""
        (most, area), (least, beyond) = self._at(after), self._at(by)
        ended, known = most - least, min(by, EDGES[-1]) - after
        # The area under the curve is what they last beyond `after`, and what those last that go on beyond `by`.
        mean = after + (area - beyond - known * least) / ended if ended > 0 else (after + by) / 2
        return min(max(mean, after), by)

    def quantile(self, part: float, asked: float = 0.0) -> float:
        """The age that `part` of the tasks which were unfinished at `asked` do not outlive."""
        share = self._at(asked)[0] * (1 - part)
        at = bisect_left(self._survival, -share, lo=_bin(asked), key=lambda survival: -survival)
        return EDGES[min(at, len(EDGES) - 1)]

    def _at(self, age: float) -> tuple[float, float]:
        """The share that lasts longer, and the area under the curve beyond."""
        age = min(age, EDGES[-1])
        k = _bin(age)
        start, end = EDGES[k], EDGES[k + 1]
        high, low = self._survival[k], self._survival[k + 1]
        share = high + (low - high) * (age - start) / (end - start)
        return share, self._beyond[k + 1] + (end - age) * (share + low) / 2


class LifeTable:
    """Watches tasks, and tells the curve of their latency.

    For each bin it keeps how many tasks were seen to reach it, and how many of them ended in it (the actuary's life
    table, Kaplan and Meier 1958): so a task that still runs counts for what it has lasted, and a batch whose quick
    tasks finish first is not taken for a quick one. The provider's record stands in each bin for a few tasks more: it
    may be wrong about how long they take, and is moved along with their mean, for it tells how far they are apart.
    Old observations fade.

    Attributes:
        count: Ended tasks that the curve knows of, each as much as it still counts.
        mean: Their mean latency in seconds, the record's counting as one task's.
    """

    def __init__(self, prior: LatencyPrior) -> None:
        self._prior = prior.chances()
        self._prior_mean = prior.mean
        self._reached = [0.0] * _BINS
        self._ended = [0.0] * _BINS
        # What is new since the curve was made: tasks that begin (+) and cease (-) to be watched at each bin.
        self._arrivals = [0.0] * (_BINS + 1)
        self._endings = [0.0] * _BINS
        self._new = 0
        self._observed = 0
        self._known = 0.0
        self.count = 0.0
        self.mean = prior.mean
        self._curve: Curve | None = None

    @property
    def is_new(self) -> bool:
        """True until the first task ends."""
        return not self.count and not self._new

    def lasted(self, after: float, age: float) -> None:
        """Note that a task, watched up to the age `after`, was unfinished at `age`."""
        self._arrivals[_bin(after)] += 1
        self._arrivals[_bin(age)] -= 1
        self._observed += 1

    def ended(self, after: float, by: float, latency: float | None) -> None:
        """Note that a task, watched and unfinished up to the age `after`, was finished by the age `by`.

        Args:
            after: Seconds.
            by: Seconds.
            latency: Its latency as the provider tells it, believed between the two; None: it tells none.
        """
        if latency is None:
            # Not halfway: a task of seconds that is seen to have ended a day later would count as one of half a day.
            latency = self.curve.mean(after, by)
            self._spread(after, by)
        else:
            # A provider's clock may be broken; that it ran, and that it had ended, was seen.
            latency = min(max(latency, after), by)
            self._count_ending(_bin(after), _bin(latency), 1.0)
        self._new += 1
        self._observed += 1
        # The plain mean, with the record's as one more, until the first are forgotten.
        weight = min(self.count + self._new, MEMORY)
        self.mean += (latency - self.mean) / (weight + 1)

    @property
    def curve(self) -> Curve:
        """What is known now, or was a few observations ago."""
        # Those of both kinds: that none of a burst has ended yet tells as much as that some have.
        if self._curve is None or self._observed > self._known * _REBUILD:
            self._settle()
            self._curve = Curve(self._survival())
        return self._curve

    def quantile(self, part: float, age: float) -> float:
        """The age that `part` of the tasks which last until `age` do not outlive, as far as tasks have shown it."""
        curve = self.curve
        # The slowest few in a hundred of what has been seen of some twenty are the record's word alone.
        return curve.quantile(min(part, self.count / (self.count + _UNSHOWN)), age)

    def _count_ending(self, first: int, last: int, part: float) -> None:
        self._arrivals[first] += part
        self._arrivals[last + 1] -= part
        self._endings[last] += part

    def _spread(self, after: float, by: float) -> None:
        """Spread an ending over the bins in which it may have been, as the curve has it so far (Turnbull 1976)."""
        curve, first, last = self.curve, _bin(after), _bin(by)
        whole = curve.survival(after) - curve.survival(by)
        for k in range(first, last + 1):
            start, end = max(after, EDGES[k]), min(by, EDGES[k + 1])
            part = (curve.survival(start) - curve.survival(end)) / whole if whole > 0 else 1 / (last + 1 - first)
            self._count_ending(first, k, max(0.0, part))

    def _settle(self) -> None:
        """Let what is old fade, and take in what is new."""
        fading = math.exp(-self._new / MEMORY)
        # One more than there are bins: what ceases to be watched with the last. Sums of parts may end just below 0.
        watched = itertools.accumulate(self._arrivals)
        self._reached = [old * fading + max(0.0, new) for old, new in zip(self._reached, watched, strict=False)]
        self._ended = [old * fading + new for old, new in zip(self._ended, self._endings, strict=True)]
        self._arrivals = [0.0] * (_BINS + 1)
        self._endings = [0.0] * _BINS
        self.count = self.count * fading + self._new
        self._known = self._known * fading + self._observed
        self._new = self._observed = 0

    def _survival(self) -> list[float]:
        reach = int(_BLUR / (1 + self.count) ** _SHARPENING)
        reached, ended = _blurred(self._reached, reach), _blurred(self._ended, reach)
        lasting = _lasting(self._reached, reached, ended, self._moved_prior())
        return [*itertools.accumulate(lasting, operator.mul, initial=1.0)]

    def _moved_prior(self) -> list[float]:
        """The record's chances, at ages that are longer or shorter by as much as the mean is than the record's."""
        moved = round(math.log(max(self.mean, _FIRST_EDGE) / self._prior_mean) * _BINS_PER_E)
        shifted = [self._prior[0]] * moved + self._prior[max(0, -moved) :] + [self._prior[-1]] * -moved
        return shifted[:_BINS]


def _lasting(owns: list[float], reached: list[float], ended: list[float], chances: list[float]) -> Iterator[float]:
    """The share of tasks that outlast each bin: of those seen in it and around it, and of the record's.

    Args:
        owns: Tasks seen to reach the bin.
        reached: As many as the bins around it have on average.
        ended: How many of them ended in such a bin.
        chances: The record's word.
    """
    for own, around, ends, chance in zip(owns, reached, ended, chances, strict=True):
        if not around:
            yield 1 - chance
            continue
        # What its neighbours tell of a bin weighs no more than the tasks that were there themselves, or ended nearby:
        # that none of a burst has ended by now says nothing of how soon they will.
        seen = own if own > ends else ends
        weight = seen / around if seen < around else 1.0
        yield 1 - (weight * ends + _PRIOR_WEIGHT * chance) / (weight * around + _PRIOR_WEIGHT)


def _blurred(values: list[float], reach: int) -> list[float]:
    """The mean of each value and `reach` more on either side: what few observations leave ragged, smoothed."""
    sums = [*itertools.accumulate(values, initial=0.0)]
    sums = [0.0] * reach + sums + sums[-1:] * reach
    width = 2 * reach + 1
    return [(late - early) / width for early, late in zip(sums, sums[width:], strict=False)]


def _bin(age: float) -> int:
    """The number of the bin of an age, that of the last one beyond all edges."""
    if age < _FIRST_EDGE:
        return 0
    return min(1 + int(math.log(age / _FIRST_EDGE) * _BINS_PER_E), _BINS - 1)
