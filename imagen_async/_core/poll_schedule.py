"""When to ask about a task next: when a finished picture would have waited long enough to be worth a status call."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

from .._text import told
from ..errors import ConfigurationError
from .latency import Curve, LatencyPrior, LifeTable
from .plain_values import plain_or_same

Kind = tuple[str, int]
"""What latencies depend on: a model, by our name, and the number of images of one task."""

FRESHNESS = 0.1
"""Seconds. Tasks of 3 to 8 s (API in One's) are seen 0.4 s late for four calls, tasks of half a minute 1 s for ten."""

_DAY = 86400.0

_STEPS = 40
"""Ages for which a question is reckoned out, between each age and e times as much."""

_FIRST = 0.5
"""Seconds up to which they are about as far apart as there."""

LONGEST_INTERVAL = 30.0
"""Seconds between two questions at most: kie.ai's advice for tasks of more than 2 minutes is every 15 to 30 s."""

_MOVED = 0.13
"""The share of tasks, at some age, by which what is known must have changed for it to matter. Less is mostly chance."""

LONGEST_SILENCE = 300.0
"""Seconds between two questions at most, however surely a callback will come."""


def checked_freshness(freshness: float) -> float:
    """The freshness itself, if it can be meant; raises ConfigurationError that says what can."""
    freshness = plain_or_same(freshness)
    if type(freshness) not in (int, float) or not 0 < freshness <= _DAY:
        raise ConfigurationError(f"freshness={told(freshness)}: it must be a number of seconds above 0, at most a day.")
    return freshness


class _Timetable:
    """The next questions by one curve, for one worth of a call.

    Tasks of a burst are of nearly one age: it is reckoned out for a few ages, and between these along straight lines.
    """

    def __init__(self, curve: Curve, waiting: float) -> None:
        self.curve = curve
        self._waiting = waiting
        self._ages: dict[int, tuple[float, float]] = {}

    def next_age(self, asked: float) -> float:
        """The age at which to ask next who was last asked about at the age `asked`."""
        step = int(math.log(max(0.0, asked) / _FIRST + 1) * _STEPS)
        (start, early), (end, late) = self._at(step), self._at(step + 1)
        return early + (late - early) * (asked - start) / (end - start)

    def _at(self, step: int) -> tuple[float, float]:
        found = self._ages.get(step)
        if found is None:
            age = (math.exp(step / _STEPS) - 1) * _FIRST
            found = self._ages[step] = (age, self.curve.next_age(age, self._waiting, LONGEST_INTERVAL))
        return found


class PollSchedule:
    """What is known of an account's latencies, and the rule that follows from it.

    1. T is how long a task takes. One that was unfinished at the age b has, at a later age a, waited unseen for
       E[(a − T)⁺ | T > b] seconds, as far as anybody can tell.
    2. It is asked about at the smallest a at which that reaches `freshness`. So a call is spent where it saves most:
       hardly any before tasks use to end, many while they do, few on stragglers.
    3. Each call costs `freshness` in waiting, so the mean delay is `freshness` times the mean number of calls, whatever
       the latencies are. The best schedule for the price of a call solves Barlow, Hunter and Proschan's "Optimum
       checking procedures" (J. SIAM 11, 1963); `python -m benchmarks schedule` compares.
    4. `freshness` is the price of a call that others might need. Where none does, it is a part of that.
    5. Where callbacks announce a share p of the ends, only the others wait unseen. That no callback has come tells in
       turn that the task still runs, or that it is one of those: by Bayes, its expected waiting is (1 − p) times that
       of rule 1, divided by 1 − p · P(T ≤ a | T > b). So hardly anything is asked while callbacks come, and as soon as
       one is overdue, the division makes it a certainty that it will not.

    Args:
        prior: What the provider's record says of latencies.
        freshness: Seconds of waiting that one status call is worth.
        prior_of: The same of one model, by our name; None: all are alike.
        every: Seconds between two questions about a task, whatever is known of latencies: where something else tells of
            ends, and a question is for the case that it does not. None: as above.

    Attributes:
        prior: As given.
        freshness: As given.
        every: As given.
    """

    def __init__(
        self,
        prior: LatencyPrior,
        freshness: float = FRESHNESS,
        prior_of: Callable[[str], LatencyPrior] | None = None,
        every: float | None = None,
    ) -> None:
        self.freshness: float = checked_freshness(freshness)
        self.prior = prior
        self.every = every
        self._prior_of = prior_of or (lambda model: prior)
        self._tables: dict[Kind, LifeTable] = {}
        self._told: dict[Kind, Curve] = {}
        self._compared: dict[Kind, Curve] = {}
        self._timetables: dict[tuple[Kind, float], _Timetable] = {}

    def next_age(self, kind: Kind, asked: float, announced: float = 0.0, part: float = 1.0) -> float:
        """The age in seconds at which a task, last asked about at the age `asked`, is to be asked about again.

        Args:
            kind: Its own.
            asked: Seconds.
            announced: The share of tasks whose end a callback announces; below 1.
            part: Of `freshness`, what a call is worth now.
        """
        curve = self._curve(kind)
        if not announced:
            return self._timetable(kind, part, curve).next_age(asked)
        # The fewer ends go unannounced, the longer a question may wait for one of them.
        longest = min(LONGEST_INTERVAL / (1 - announced), LONGEST_SILENCE)
        return curve.next_age(asked, part * self.freshness, longest, announced)

    def waiting(self, kind: Kind, asked: float, age: float, announced: float = 0.0) -> float:
        """Seconds for which a task, last asked about at `asked`, is expected to wait unseen at `age`."""
        return self._curve(kind).waiting(asked, age, announced)

    def lasted(self, kind: Kind, after: float, age: float) -> None:
        """Learn that a task, known to be unfinished at the age `after`, was so at `age`."""
        self._table(kind).lasted(after, age)

    def ended(self, kind: Kind, after: float, by: float, latency: float | None) -> None:
        """Learn that a task, unfinished at the age `after`, had ended by the age `by`, or after `latency`."""
        self._table(kind).ended(after, by, latency)

    def has_moved(self, kind: Kind) -> bool:
        """Say, once, that what is known of a kind is not what it was when this was said last."""
        curve, told = self._curve(kind), self._told.get(kind)
        # Each curve once: it stays for many answers.
        if curve is self._compared.get(kind):
            return False
        self._compared[kind] = curve
        if told is not None and curve.distance(told) <= _MOVED:
            return False
        self._told[kind] = curve
        return True

    def recall(self, latencies: Iterable[tuple[Kind, float]]) -> None:
        """Learn from tasks of earlier runs, for each kind of which nothing is known yet."""
        # Chosen before any is learned: the first of a kind makes it known, and its others would be left out.
        new = [(kind, latency) for kind, latency in latencies if self._table(kind).is_new]
        for kind, latency in new:
            self.ended(kind, 0.0, math.inf, latency)

    @property
    def kinds(self) -> Mapping[Kind, int]:
        """Every kind of which a task has ended, as of one task each."""
        return {kind: 1 for kind, table in self._tables.items() if not table.is_new}

    def mean(self, kinds: Mapping[Kind, int]) -> float:
        """Seconds that tasks take on average, with so many of each kind."""
        count = sum(kinds.values())
        if not count:
            return self.prior.mean
        return sum(self._table(kind).mean * number for kind, number in kinds.items()) / count

    def quantile(self, kind: Kind, part: float, age: float = 0.0) -> float:
        """The age in seconds that `part` of the tasks which last until `age` do not outlive."""
        table = self._table(kind)
        # The curve allows for a record that is too slow, which is right for asking, and no forecast.
        return self._prior_of(kind[0]).quantile(part, age) if table.is_new else table.quantile(part, age)

    def _timetable(self, kind: Kind, part: float, curve: Curve) -> _Timetable:
        found = self._timetables.get((kind, part))
        if found is None or found.curve is not curve:
            found = self._timetables[kind, part] = _Timetable(curve, part * self.freshness)
        return found

    def _table(self, kind: Kind) -> LifeTable:
        table = self._tables.get(kind)
        if table is None:
            table = self._tables[kind] = LifeTable(self._prior_of(kind[0]))
        return table

    def _curve(self, kind: Kind) -> Curve:
        return self._table(kind).curve
