"""What goes on in a service, counted: by caller, by account and by the minute, in memory that does not grow. Pure."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections import Counter, deque
from itertools import accumulate
from typing import Literal, get_args

import msgspec

from .._core.latency import EDGES, believed
from .._core.upstream import HealthState
from .._text import one_line, well_formed

Outcome = Literal["done", "failed", "unknown", "left"]
"""How a request ends: with its pictures, without, with a create whose answer was lost, or given up by whoever asked."""

OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)

MINUTES = 120
"""Minutes that are remembered one by one."""

BUCKETS = (1, 2, 5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 240, 300, 420, 600)
"""Seconds up to which tasks are counted that took so long; one count more is of those beyond."""

MOST_NAMES = 1000
"""Callers, and accounts, that are counted each for itself: the first ones."""

OTHERS = "others"
"""The name under which all beyond these are counted."""

MOST_RECENT = 24
"""Pictures that are remembered."""

LONGEST_PROMPT = 160
"""Characters of a prompt that are remembered."""

_LONGEST_NAME = 200
_LONGEST_URL = 2000

_MOST_PICTURES = 10_000
_MOST_CREDITS = 1e12
"""What one request may come to; beyond, somebody's number is broken, and would spoil every sum."""


class Counts(msgspec.Struct, frozen=True):
    """What has become of the requests of a caller, of an account, or of all.

    Attributes:
        waiting: Come in, and not sent. Of an account always 0: what waits has none yet.
        running: Sent, and not ended.
        done: Ended with their pictures.
        failed: Ended without.
        unknown: Ended with a create whose answer was lost.
        left: Given up by whoever asked.
        pictures: Made.
        credits: Billed, as far as is told.
    """

    waiting: int = 0
    running: int = 0
    done: int = 0
    failed: int = 0
    unknown: int = 0
    left: int = 0
    pictures: int = 0
    credits: float = 0.0


class Minute(msgspec.Struct, frozen=True):
    """What ended in one minute.

    Attributes:
        pictures: Made.
        credits: Billed.
        median: Seconds that half of its tasks took at most, to a twentieth; None where none tells.
        p95: What 95 in a hundred took at most.
    """

    pictures: int = 0
    credits: float = 0.0
    median: float | None = None
    p95: float | None = None


class Latencies(msgspec.Struct, frozen=True):
    """How long tasks took, of all since the beginning.

    Attributes:
        counts: Tasks in each of `BUCKETS`, and those beyond as one more; not added up.
        sum: Seconds of all of them.
    """

    counts: tuple[int, ...]
    sum: float


class Recent(msgspec.Struct, frozen=True):
    """A picture that was made of late.

    Attributes:
        url: Where the service has it; empty where it has no address that can be shown.
        caller: Who asked for it.
        prompt: Its prompt, on one line and cut short.
        model: Our name of what made it.
        at: Unix seconds.
    """

    url: str
    caller: str
    prompt: str
    model: str
    at: float


class Snapshot(msgspec.Struct, frozen=True):
    """What goes on at one moment. All of it can be written as JSON.

    Attributes:
        at: Unix seconds.
        since: When the counting began.
        last: When something was last counted; None before.
        total: Of all callers.
        callers: By caller, sorted by name; beyond `MOST_NAMES` as `OTHERS`.
        accounts: By account, in the same way. What was never sent is of none.
        minutes: The last `MINUTES`, the oldest first; the last one is not over.
        latencies: How long tasks took.
        pictures: The last ones, the newest first.
    """

    at: float
    since: float
    last: float | None
    total: Counts
    callers: dict[str, Counts]
    accounts: dict[str, Counts]
    minutes: tuple[Minute, ...]
    latencies: Latencies
    pictures: tuple[Recent, ...]


class RateSeen(msgspec.Struct, frozen=True):
    """How an account uses one of its rate limits.

    Attributes:
        count: Calls allowed now in any window.
        per: Seconds of the window.
        rate: Calls a second of late; None where nobody counts them.
    """

    count: int
    per: float
    rate: float | None = None


class AccountSeen(msgspec.Struct, frozen=True):
    """How an account fares at one moment.

    Attributes:
        name: The account's.
        state: As `Health` has it: `ready`, `limited`, `paused` or `stopped`.
        why: Why it is not ready, in words that may be anybody's; None where nothing is wrong.
        until: Unix seconds at which it is tried again while it is paused; None where that is not known.
        waiting: Requests that only wait for it.
        running: Tasks at the provider.
        running_limit: How many may run at once; None where nothing limits them.
        submit: Its creates.
        status: Its status calls.
    """

    name: str
    state: HealthState
    why: str | None
    until: float | None
    waiting: int
    running: int
    running_limit: int | None
    submit: RateSeen
    status: RateSeen


class Seen(msgspec.Struct, frozen=True):
    """All that a service shows of itself: what was counted, and how its accounts fare."""

    snapshot: Snapshot
    accounts: tuple[AccountSeen, ...]


class Figures:
    """Counts what goes on. Time is an argument: Unix seconds.

    A request comes in (`begin`), is sent (`sent`), perhaps comes back (`unsent`), and ends (`end`). Requests have no
    names here, so each is to be told of in this order; what comes without what belongs before it is counted as far as
    it goes, and no count is ever below zero. Amounts that cannot be (negative, not a number, beyond all bounds) are
    counted as nothing.

    Args:
        at: When the counting begins.
    """

    def __init__(self, at: float) -> None:
        self._since = at
        self._last: float | None = None
        self._callers: dict[str, _Tally] = {}
        self._accounts: dict[str, _Tally] = {}
        # By caller and account: so both are right, and what runs with both is never counted for one of them alone.
        self._running: Counter[tuple[str, str]] = Counter()
        self._minutes = [_Minute(-1) for _ in range(MINUTES)]
        self._buckets = [0] * (len(BUCKETS) + 1)
        self._seconds = 0.0
        self._recent: deque[Recent] = deque(maxlen=MOST_RECENT)

    def begin(self, caller: str, at: float) -> None:
        """Count a request for one task that has come in, and waits."""
        self._last = at
        _tally_of(self._callers, caller)[1].waiting += 1

    def sent(self, caller: str, account: str, at: float) -> None:
        """Count that its create goes out: it runs with that account."""
        self._last = at
        caller, tally = _tally_of(self._callers, caller)
        tally.waiting = max(0, tally.waiting - 1)
        self._running[caller, _tally_of(self._accounts, account)[0]] += 1

    def unsent(self, caller: str, account: str, at: float) -> None:
        """Count that its create is known to have made nothing, as after a 429: it waits again."""
        self._last = at
        caller, tally = _tally_of(self._callers, caller)
        if self._stop_one(caller, _tally_of(self._accounts, account)[0]):
            tally.waiting += 1

    def end(
        self,
        caller: str,
        account: str | None,
        outcome: Outcome,
        pictures: int,
        credits: float | None,
        latency: float | None,
        at: float,
    ) -> None:
        """Count the end of a request.

        Args:
            caller: Who asked.
            account: Where it was sent; None: it never was.
            outcome: How it ended.
            pictures: Made.
            credits: Billed; None: that is not told.
            latency: Seconds that the provider took; None: that is not told.
            at: Unix seconds.
        """
        self._last = at
        pictures = pictures if 0 < pictures <= _MOST_PICTURES else 0
        billed = 0.0 if credits is None or not 0 < credits <= _MOST_CREDITS else float(credits)
        caller, tally = _tally_of(self._callers, caller)
        tally.add(outcome, pictures, billed)
        if account is not None:
            account, of_account = _tally_of(self._accounts, account)
            of_account.add(outcome, pictures, billed)
        self._free(caller, account)
        if (seconds := believed(latency)) is not None:
            self._buckets[bisect_left(BUCKETS, seconds)] += 1
            self._seconds += seconds
        if (minute := self._minute(at)) is not None:
            minute.add(pictures, billed, seconds)

    def picture(self, url: str, caller: str, prompt: str, model: str, at: float) -> None:
        """Remember a picture, as one of the last."""
        kept = url if len(url) <= _LONGEST_URL and well_formed(url) == url else ""
        self._recent.appendleft(Recent(kept, name_of(caller), cut(prompt, LONGEST_PROMPT), name_of(model), at))

    def snapshot(self, at: float) -> Snapshot:
        """Say what goes on now."""
        by_caller: Counter[str] = Counter()
        by_account: Counter[str] = Counter()
        for (caller, account), count in self._running.items():
            by_caller[caller] += count
            by_account[account] += count
        now = _number_of(at)
        numbers = range(0) if now is None else range(now - MINUTES + 1, now + 1)
        known = [self._minutes[number % MINUTES] for number in numbers]
        return Snapshot(
            at=at,
            since=self._since,
            last=self._last,
            total=_sum_of(self._callers).counts(by_caller.total()),
            callers={name: tally.counts(by_caller[name]) for name, tally in sorted(self._callers.items())},
            accounts={name: tally.counts(by_account[name]) for name, tally in sorted(self._accounts.items())},
            minutes=tuple(
                each.told() if each.number == number else Minute() for each, number in zip(known, numbers, strict=True)
            ),
            latencies=Latencies(tuple(self._buckets), self._seconds),
            pictures=tuple(self._recent),
        )

    def _free(self, caller: str, account: str | None) -> None:
        """Take one that has ended from those that ran or waited: wherever it can have been."""
        tally = self._callers[caller]
        if account is not None and self._stop_one(caller, account):
            return
        if tally.waiting:
            tally.waiting -= 1
            return
        # It ran, and nobody tells where, or in another place than where it was said to be sent.
        elsewhere = next((pair[1] for pair in self._running if pair[0] == caller), None)
        if elsewhere is not None:
            self._stop_one(caller, elsewhere)

    def _stop_one(self, caller: str, account: str) -> bool:
        """Count one running less, if there is one."""
        pair = (caller, account)
        count = self._running[pair]
        if count > 1:
            self._running[pair] = count - 1
        else:
            del self._running[pair]
        return count > 0

    def _minute(self, at: float) -> _Minute | None:
        """That of a time. One of 120 minutes before, or of a clock that was set, gives way."""
        number = _number_of(at)
        if number is None:
            return None
        place = number % MINUTES
        if self._minutes[place].number != number:
            self._minutes[place] = _Minute(number)
        return self._minutes[place]


class _Tally:
    """The counts of one name."""

    __slots__ = ("credits", "outcomes", "pictures", "waiting")

    def __init__(self) -> None:
        self.waiting = 0
        self.outcomes = dict.fromkeys(OUTCOMES, 0)
        self.pictures = 0
        self.credits = 0.0

    def add(self, outcome: Outcome, pictures: int, credits: float) -> None:
        """Count one that has ended."""
        self.outcomes[outcome] += 1
        self.pictures += pictures
        self.credits += credits

    def counts(self, running: int) -> Counts:
        """As users read it."""
        return Counts(
            waiting=self.waiting, running=running, pictures=self.pictures, credits=self.credits, **self.outcomes
        )


class _Minute:
    """What ended in one minute; its latencies as counts in `EDGES`, whose bins are a twentieth wide.

    Attributes:
        number: Of the minute, since 1970.
    """

    __slots__ = ("_counts", "_credits", "_pictures", "_told", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self._pictures = 0
        self._credits = 0.0
        self._counts: array[int] | None = None
        self._told: Minute | None = Minute()

    def add(self, pictures: int, credits: float, latency: float | None) -> None:
        """Count one that has ended."""
        self._told = None
        self._pictures += pictures
        self._credits += credits
        if latency is not None:
            if self._counts is None:
                self._counts = array("Q", bytes(8 * len(EDGES)))
            self._counts[bisect_left(EDGES, latency)] += 1

    def told(self) -> Minute:
        """As users read it; reckoned once for each change."""
        if self._told is None:
            self._told = Minute(self._pictures, self._credits, self._quantile(0.5), self._quantile(0.95))
        return self._told

    def _quantile(self, part: float) -> float | None:
        """Seconds that `part` of the tasks took at most: the upper end of the bin, to half of its width."""
        if self._counts is None:
            return None
        sums = [*accumulate(self._counts)]
        number = bisect_left(sums, part * sums[-1])
        # Half a bin below its end; the first one's counts as its end, below which no picture is made.
        return EDGES[number] / math.sqrt(EDGES[2] / EDGES[1]) if number > 1 else EDGES[1]


def cut(text: str, at_most: int) -> str:
    """As much of anybody's text as is remembered or shown, on one line. Long ones cost no more than short ones."""
    head = text[: 2 * at_most]
    line = one_line(well_formed(head), joiners=True).strip()
    if len(line) <= at_most and len(head) == len(text):
        return line
    return f"{line[: at_most - 1].rstrip()}…"


def name_of(text: str) -> str:
    """The name under which a caller or an account is counted."""
    return cut(text, _LONGEST_NAME)


def _tally_of(tallies: dict[str, _Tally], name: str) -> tuple[str, _Tally]:
    """The counts of a name, and the name under which it has them."""
    name = name_of(name)
    if name not in tallies:
        if len(tallies) >= MOST_NAMES:
            name = OTHERS
        tallies.setdefault(name, _Tally())
    return name, tallies[name]


def _sum_of(tallies: dict[str, _Tally]) -> _Tally:
    whole = _Tally()
    for tally in tallies.values():
        whole.waiting += tally.waiting
        whole.pictures += tally.pictures
        whole.credits += tally.credits
        for outcome, count in tally.outcomes.items():
            whole.outcomes[outcome] += count
    return whole


def _number_of(at: float) -> int | None:
    """The number of a time's minute; None for what is no time."""
    return int(at // 60) if math.isfinite(at) else None
