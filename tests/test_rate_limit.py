"""The exact window: never over the limit at the server, always up to it, and what a refusal does."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable
from copy import deepcopy
from typing import Any, NamedTuple

import pytest
from builders import failure, upstream
from hypothesis import given, settings
from hypothesis import strategies as st

from imagen_async import Limits, Rate
from imagen_async._core.rate_limit import LONGEST_REST
from imagen_async._core.upstream import Upstream
from imagen_async._core.wire import Accepted, Rejected, Remedy
from imagen_async.errors import ConfigurationError, RateLimited
from imagen_async.ports import Window

EXACT = st.integers(0, 80).map(lambda eighths: eighths / 8)
"""Seconds that floats add up without rounding."""

RATES = st.builds(Rate, count=st.integers(1, 6), per=st.sampled_from([0.5, 1.0, 2.5, 10.0]), guess=st.booleans())
TEN = Rate(20, per=10)
GUESS = Rate(20, per=10, guess=True)
REFUSAL = Rejected(failure(RateLimited, "slow down", code=429), Remedy.BACK_OFF)


WRONG: list[tuple[str, Any]] = [
    *(("count", count) for count in (0, -1, 1.0, 2.5, "20", True, None)),
    *(("window", per) for per in (0, -1, 0.0, math.inf, -math.inf, math.nan, "10", True, None)),
]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=repr)
def test_a_rate_refuses_what_is_none(name: str, value: Any) -> None:
    """A count that is no whole number above zero, or a window that is no positive time, is an error that shows it."""
    with pytest.raises(ConfigurationError, match=f"(?i){name} of {value!r}"):
        Rate(value, per=10) if name == "count" else Rate(20, per=value)


# Its places


class Trip:
    """A request: when it was sent, under what limit, and when its answer arrived; infinity while it is on its way."""

    def __init__(self, sent: float, limit: int) -> None:
        self.sent, self.limit, self.answered = sent, limit, math.inf


TURNS = ["take", "take", "take", "answered", "answered", "refused", "block", "reopen", "restart", "wait", "be ready"]


@settings(deadline=None, max_examples=200)
@given(rate=RATES, steps=st.lists(st.tuples(st.sampled_from(TURNS), EXACT), max_size=60))
def test_no_window_at_the_server_holds_more_than_the_limit(rate: Rate, steps: list[tuple[str, float]]) -> None:
    """A place is held until a window after its answer, so wherever the server sees the requests, it sees no more.

    Not with refusals in between, which hold everything for a window or as long as the server asks, while the limit
    falls and climbs; not where a client is opened again; and not in a new process that knows what was sent. The next
    request goes as soon as all this allows, and asking for that changes nothing.
    """
    window, now, blocked_until = Window(rate), 0.0, -math.inf
    trips: list[Trip] = []

    def held(at: float) -> int:
        return sum(trip.answered + rate.per > at for trip in trips)

    for step, seconds in steps:
        on_their_way = [trip for trip in trips if trip.answered == math.inf]
        if step == "wait":
            now += seconds
        elif step == "be ready" and window.ready_at(now) < math.inf:
            now = max(now, window.ready_at(now))
        elif step == "take" and window.ready_at(now) <= now:
            trips.append(Trip(now, window.limit))
            window.take(now)
        elif step == "block":
            window.block(now, seconds)
            blocked_until = max(blocked_until, now + rate.per, now + seconds)
        elif step == "refused" and on_their_way:
            window.refused(now)
            blocked_until = max(blocked_until, now + rate.per)
        if step in ("answered", "refused") and on_their_way:
            on_their_way[int(seconds) % len(on_their_way)].answered = now
            window.answered(now)
        elif step in ("reopen", "restart"):
            # What is on its way may be seen until now.
            for trip in on_their_way:
                trip.answered = now
            if step == "reopen":
                window.reopen(now)
            else:
                window, blocked_until = Window(rate), -math.inf
                window.preload(trip.answered + rate.per for trip in reversed(trips))
        before = deepcopy(vars(window))
        assert 1 <= window.limit <= (math.inf if rate.guess else rate.count)
        for at in (now, now + seconds):
            assert (window.taken(at), window.is_blocked(at)) == (held(at), at < blocked_until)
        free_at = min(
            at for at in (now, math.inf, *(trip.answered + rate.per for trip in trips)) if held(at) < window.limit
        )
        assert max(now, window.ready_at(now)) == max(now, blocked_until, free_at)
        assert vars(window) == before
    # Those that were answered at `start` or later, and sent within a window from it, can all be seen in that.
    for start in (trip.answered for trip in trips if trip.answered < math.inf):
        seen = [trip for trip in trips if trip.answered >= start and trip.sent < start + rate.per]
        assert len(seen) <= seen[-1].limit


def test_places_of_an_earlier_process_count_beside_those_that_are_taken() -> None:
    """What is preloaded after requests of this process went counts together with them, each until its own time."""
    window = Window(Rate(3, per=10))
    for at in (0.0, 4.0):
        volley(window, at, 1)
    window.preload([12.0, 2.0])
    assert window.ready_at(5.0) == 10.0
    volley(window, 10.0, 1)
    assert window.ready_at(10.0) == 12.0


# What a refusal does to the limit


def volley(window: Window, at: float, taken: int, refused: int = 0, answered: float | None = None) -> int:
    """Send so many at a time, of which so many are refused, all answered at once, or later; the limit after it."""
    for _ in range(taken + refused):
        window.take(at)
    for number in range(taken + refused):
        if number < refused:
            window.refused(at)
        window.answered(at if answered is None else answered)
    return window.limit


def at_each(times: range, taken: int) -> list[tuple[float, int]]:
    """The same volley at each time."""
    return [(at, taken) for at in times]


# The volleys of each, as they are sent: when, how many are taken, how many refused, when answered; the limit after it.
STORIES: dict[str, tuple[Rate, list[tuple[Any, ...]], list[int]]] = {
    "each window with a refusal halves it, down to one": (
        TEN,
        [*((at, 0, 1) for at in (0, 3, 9.9, 10, 20, 30)), (40, 1), (50, 1), (60, 1), (70, 0, 1), (80, 0, 1)],
        [10, 10, 10, 5, 2, 1, 1, 2, 3, 1, 1],
    ),
    "one refusal tells little": (TEN, [(0, 4, 1)], [10]),
    "several tell what is taken": (TEN, [(0, 4, 2)], [4]),
    "of which it has taken more than half": (TEN, [(0, 15, 5)], [10]),
    "of which it has taken none: an outage": (TEN, [(0, 0, 20)], [10]),
    "what was taken in the same window counts": (TEN, [(0, 4), (5, 2, 2)], [20, 6]),
    "until all are answered": (TEN, [(0, 4), (5, 2, 2, 9.5)], [20, 6]),
    "what was taken a window before does not": (TEN, [(0, 4), (10, 2, 2)], [20, 2]),
    "nor until all are answered": (TEN, [(0, 4), (5, 2, 2, 14.5)], [20, 2]),
    "answers that come too late tell of another window": (TEN, [(0, 4), (5, 2, 2, 15)], [20, 10]),
    "a clean window gives one place back": (
        TEN,
        [(0, 0, 1), *at_each(range(10, 140, 10), 1)],
        [10, 10, *range(11, 21), 20, 20],
    ),
    "of a guess too": (Rate(5, per=10, guess=True), [(0, 0, 1), *at_each(range(10, 60, 10), 1)], [2, 2, 3, 4, 5, 5]),
    "of two": (Rate(2, per=10), [(0, 0, 1), *at_each(range(10, 40, 10), 1)], [1, 1, 2, 2]),
    "of one": (Rate(1, per=10), [(0, 0, 1), *at_each(range(10, 40, 10), 1)], [1, 1, 1, 1]),
    "by the window and not by the answer": (TEN, [(0, 0, 1), (10, 8, 0, 20), (30, 8, 0, 40)], [10, 11, 12]),
    "a guess does not climb from windows that are not full": (GUESS, at_each(range(0, 50, 10), 19), [20] * 5),
    "it climbs a step from one that is": (GUESS, [(0, 1), (10, 20), (20, 1), (30, 19)], [20, 21, 21, 21]),
    "a step that is refused is taken back, and not tried again from windows that are not full": (
        GUESS,
        [(0, 20), (10, 20), (20, 20, 1), *at_each(range(30, 200, 10), 19)],
        [20, 21, 20, *[20] * 17],
    ),
    "a refusal that no step explains is a new beginning": (
        GUESS,
        [(0, 20), (10, 20), (20, 20, 1), (40, 0, 1), *((60 + 10 * n, 11 + n) for n in range(12))],
        [20, 21, 20, 10, *range(11, 23)],
    ),
    "several that no step explains": (
        GUESS,
        [(0, 20), (10, 20), (20, 20, 1), (40, 5, 15), *((60 + 10 * n, 6 + n) for n in range(17))],
        [20, 21, 20, 5, *range(6, 23)],
    ),
    "several at a step": (
        GUESS,
        [(0, 20), (10, 20), (20, 5, 16), *((40 + 10 * n, 6 + n) for n in range(17))],
        [20, 21, 5, *range(6, 23)],
    ),
}


@pytest.mark.parametrize("story", STORIES)
def test_the_limit_follows_what_is_refused_and_taken(story: str) -> None:
    """After each volley of a story the limit is what the server is known to take."""
    rate, volleys, limits = STORIES[story]
    window = Window(rate)
    assert [volley(window, *each) for each in volleys] == limits


@pytest.mark.parametrize(("retry_after", "hold"), [(None, 10), (5, 10), (60, 60)])
def test_nothing_is_given_back_before_a_clean_window_after_the_hold(retry_after: float | None, hold: float) -> None:
    """A clean window begins when the hold ends: answers before its own end leave the lowered limit as it is."""
    window = Window(TEN)
    window.refused(0.0, retry_after)
    window.take(0.0)
    assert [volley(window, at, 1) for at in (0.0, hold, hold + 9.9, hold + 10.0)] == [10, 10, 10, 11]


# A server that does not tell its limit


class StrictServer:
    """Takes as many requests in any window of 10 s as it has a mind to, and tells nobody how many.

    Attributes:
        taken: When each was taken.
        refused: When each was refused.
    """

    def __init__(self, limit: Callable[[float], int]) -> None:
        self.taken: list[float] = []
        self.refused: list[float] = []
        self._limit = limit
        self._recent: deque[float] = deque()

    def takes(self, now: float) -> bool:
        """Hear a request; say whether it is taken."""
        while self._recent and now - self._recent[0] >= 10:
            self._recent.popleft()
        is_taken = len(self._recent) < self._limit(now)
        (self.taken if is_taken else self.refused).append(now)
        if is_taken:
            self._recent.append(now)
        return is_taken

    def rate(self, since: float, until: float) -> float:
        """Requests that it took in 10 s, on average of a time."""
        return sum(since <= at < until for at in self.taken) / (until - since) * 10


class Step(NamedTuple):
    """The limit of a client from a time on."""

    at: float
    limit: int


def played(
    window: Window, server: StrictServer, until: float, round_trip: float = 0.6, account: Upstream | None = None
) -> list[Step]:
    """Send all that a window lets go, or a whole account with it, each way as slow as chance will have it.

    A whole account sends the first one alone, and one at a time after trouble. Returned is how the limit changed.
    """
    chance, steps = random.Random(1), [Step(0.0, window.limit)]
    ready_at, take = (window.ready_at, window.take) if account is None else (account.submit_at, account.take_submit)
    # When, which one, and whether it was taken: None while it is on its way there.
    events: list[tuple[float, int, bool | None]] = []
    now, number = 0.0, itertools.count()
    while now < until:
        while ready_at(now) <= now:
            take(now)
            heapq.heappush(events, (now + chance.uniform(0, round_trip / 2), next(number), None))
        now = max(now, min(ready_at(now), events[0][0] if events else math.inf))
        while events and events[0][0] <= now:
            at, each, is_taken = heapq.heappop(events)
            if is_taken is None:
                heapq.heappush(events, (at + chance.uniform(0, round_trip / 2), each, server.takes(at)))
                continue
            if account is not None:
                account.settle_submit(Accepted("t") if is_taken else REFUSAL, "imagen4", at)
            else:
                if not is_taken:
                    window.refused(at)
                window.answered(at)
            if window.limit != steps[-1].limit:
                steps.append(Step(at, window.limit))
    return steps


@pytest.mark.parametrize("is_whole_account", [False, True], ids=["a window", "a whole account"])
@pytest.mark.parametrize(
    ("before", "after"),
    [(20, 8), (30, 5), (25, 22), (12, 3), (3, 2), (20, 1), (8, 20), (5, 30), (22, 25), (2, 3), (1, 12), (17, 17)],
)
def test_a_limit_that_nobody_tells_is_found_and_followed(before: int, after: int, is_whole_account: bool) -> None:
    """Within 10 windows as much goes as the server takes, to 15 %, for few refusals; and anew when that has changed."""
    changes = 2137.0
    # By then tries to go beyond are as far apart as they ever will be. What is more is found by such a try, and a step
    # a window from there; a window with its round trips is a little longer than 10 s.
    found = changes + (100 if after < before else 11 * (LONGEST_REST + after - before + 2))
    window, server = Window(GUESS), StrictServer(lambda now: before if now < changes else after)
    account = upstream(limits=Limits(GUESS, running=10**9), submit=window) if is_whole_account else None
    played(window, server, until=found + 1000, account=account)
    for limit, since, until in ((before, 100, 200), (before, 100, changes), (after, found, found + 1000)):
        assert 0.85 * limit <= server.rate(since, until) <= limit, (since, until)
    assert sum(at < changes for at in server.refused) < max(30, 0.03 * sum(at < changes for at in server.taken))
    assert sum(at > found for at in server.refused) <= 6, "one step up in a rest of 4, 8 … windows"


def test_a_rate_that_is_no_guess_never_climbs_beyond_it() -> None:
    """Where a provider has published its rate, a server that would take more is not asked to."""
    server = StrictServer(lambda now: 1000)
    assert played(Window(TEN), server, until=1000) == [Step(0.0, 20)]
    assert 0.94 * 20 <= server.rate(0, 1000) <= 20 * 1.01


def test_a_guess_climbs_a_step_a_window() -> None:
    """While all goes well, a guess that is used in full climbs by one in each window, and no faster."""
    steps = played(Window(GUESS), StrictServer(lambda now: 10**6), until=600)
    assert [step.limit for step in steps] == list(range(20, 20 + len(steps)))
    assert len(steps) > 50
    assert min(later.at - earlier.at for earlier, later in itertools.pairwise(steps)) >= 10


def test_a_step_up_that_is_refused_is_taken_back_and_tried_again_ever_later() -> None:
    """Nothing is halved by it, and the tries are 4, 8 … 64 and again 64 clean windows after the hold of the last."""
    server = StrictServer(lambda now: 20)
    steps = played(Window(GUESS), server, until=3000, round_trip=0.0)
    assert {step.limit for step in steps} == {20, 21}
    waits = [later - earlier for earlier, later in itertools.pairwise(server.refused)]
    assert waits == [10.0 + 10 * rest for rest in (4, 8, 16, 32, 64, 64, 64)]


def test_a_step_that_the_server_takes_at_last_is_followed_by_more() -> None:
    """Once a step holds that was refused before, the next ones are tried a window apart again, and a new one soon."""
    server = StrictServer(lambda now: 20 if now < 500 else 24)
    steps = played(Window(GUESS), server, until=1000, round_trip=0.0)
    (found,) = [number for number, step in enumerate(steps) if step.limit == 22]
    begun = steps[found - 1].at
    assert steps[found - 1 : found + 4] == [Step(begun + 10.0 * n, 21 + n) for n in range(5)]
    first, second = [at for at in server.refused if at >= 500][:2]
    assert second - first == 50.0
