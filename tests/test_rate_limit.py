"""The exact window: never over the limit at the server, always up to it, and what a refusal does."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable, Iterable
from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import pytest
from builders import failure, upstream
from conftest import naming
from hypothesis import given, settings
from hypothesis import strategies as st
from inner import LONGEST_REST, Accepted, Rejected, Remedy

from imagen_async import Limits, Rate, errors
from imagen_async.ports import Window

EXACT = st.integers(0, 80).map(lambda eighths: eighths / 8)
"""Seconds that floats add up without rounding."""

RATES = st.builds(Rate, count=st.integers(1, 6), per=st.sampled_from([0.5, 1.0, 2.5, 10.0]), guess=st.booleans())
TEN = Rate(20, per=10)
GUESS = Rate(20, per=10, guess=True)


def test_a_rate_refuses_what_is_none() -> None:
    """A count that is no whole number above zero, or a window that is no positive time, is an error that shows it."""
    for count in (0, -1, 1.0, 2.5, "20", True, None):
        with naming(count), pytest.raises(errors.ConfigurationError, match=f"count of {count!r}"):
            Rate(count, per=10)
    for per in (0, -1, 0.0, math.inf, -math.inf, math.nan, "10", True, None):
        with naming(per), pytest.raises(errors.ConfigurationError, match=f"window of {per!r}"):
            Rate(20, per=per)


TURNS = ["take", "take", "take", "answered", "answered", "refused", "block", "reopen", "restart", "wait", "be ready"]


@settings(max_examples=200)
@given(rate=RATES, steps=st.lists(st.tuples(st.sampled_from(TURNS), EXACT), max_size=60))
def test_no_window_at_the_server_holds_more_than_the_limit(rate: Rate, steps: list[tuple[str, float]]) -> None:
    """A place is held until a window after its answer, so wherever the server sees the requests, it sees no more.

    Not with refusals in between, which hold everything for a window or as long as the server asks, while the limit
    falls and climbs; not where a client is opened again; and not in a new process that knows what was sent. The next
    request goes as soon as all this allows, and asking for that changes nothing.
    """
    window, now, blocked_until = Window(rate), 0.0, -math.inf
    # When each request was sent, under what limit, and when its answer arrived: infinity while it is on its way.
    trips: list[SimpleNamespace] = []

    for step, seconds in steps:
        on_their_way = [trip for trip in trips if trip.answered == math.inf]
        if step == "wait":
            now += seconds
        elif step == "be ready" and window.ready_at(now) < math.inf:
            now = max(now, window.ready_at(now))
        elif step == "take" and window.ready_at(now) <= now:
            trips.append(SimpleNamespace(sent=now, limit=window.limit, answered=math.inf))
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
                # A clock that was set may have it that one was answered later than now.
                trips.append(SimpleNamespace(sent=math.inf, limit=0, answered=now + seconds))
                for part in (trips[::2], trips[1::2]):
                    window.preload(trip.answered + rate.per for trip in reversed(part))
        before, ends = deepcopy(vars(window)), [trip.answered + rate.per for trip in trips]
        assert 1 <= window.limit <= (math.inf if rate.guess else rate.count)
        for at in (now, now + seconds):
            assert (window.taken(at), window.is_blocked(at)) == (sum(end > at for end in ends), at < blocked_until)
        free_at = min(at for at in (now, math.inf, *ends) if sum(end > at for end in ends) < window.limit)
        assert max(now, window.ready_at(now)) == max(now, blocked_until, free_at)
        assert vars(window) == before
    # Those that were answered at `start` or later, and sent within a window from it, can all be seen in that.
    for start in (trip.answered for trip in trips if trip.answered < math.inf > trip.sent):
        seen = [trip for trip in trips if trip.answered >= start and trip.sent < start + rate.per]
        assert len(seen) <= seen[-1].limit


def volley(window: Window, at: float, taken: int, refused: int = 0, answered: float | None = None) -> int:
    """Send so many at a time, of which so many are refused, all answered at once, or later; the limit after it."""
    for _ in range(taken + refused):
        window.take(at)
    for number in range(taken + refused):
        if number < refused:
            window.refused(at)
        window.answered(at if answered is None else answered)
    return window.limit


def windows(since: int, taken: Iterable[int]) -> list[tuple[int, int]]:
    """A volley in each window from a time on, and how many are taken of each."""
    return [(since + 10 * number, each) for number, each in enumerate(taken)]


STEP_UP = windows(0, [20, 20])
STEPPED = [20, 21]

# The volleys of each, as they are sent: when, how many are taken, how many refused, when answered; the limit after it.
STORIES: dict[str, tuple[Rate, list[tuple[Any, ...]], list[int]]] = {
    "each window with a refusal halves it": (TEN, [(at, 0, 1) for at in (0, 9, 10, 20, 30, 40)], [10, 10, 5, 2, 1, 1]),
    "one refusal tells little": (TEN, [(0, 4, 1)], [10]),
    "several tell what is taken": (TEN, [(0, 4, 2)], [4]),
    "of which it has taken more than half": (TEN, [(0, 15, 5)], [10]),
    "of which it has taken none: an outage": (TEN, [(0, 0, 20)], [10]),
    "what was taken in the same window counts": (TEN, [(0, 4), (5, 2, 2)], [20, 6]),
    "until all are answered": (TEN, [(0, 4), (5, 2, 2, 9.5)], [20, 6]),
    "what was taken a window before does not": (TEN, [(0, 4), (10, 2, 2)], [20, 2]),
    "nor until all are answered": (TEN, [(0, 4), (5, 2, 2, 14.5)], [20, 2]),
    "answers that come too late tell of another window": (TEN, [(0, 4), (5, 2, 2, 15)], [20, 10]),
    "a clean window gives one place back": (TEN, [(0, 0, 1), *windows(10, [1] * 13)], [10, *range(10, 21), 20, 20]),
    "of a guess too": (Rate(5, per=10, guess=True), [(0, 0, 1), *windows(10, [1] * 5)], [2, 2, 3, 4, 5, 5]),
    "of two": (Rate(2, per=10), [(0, 0, 1), *windows(10, [1] * 3)], [1, 1, 2, 2]),
    "by the window and not by the answer": (TEN, [(0, 0, 1), (10, 8, 0, 20), (30, 8, 0, 40)], [10, 11, 12]),
    "a guess does not climb from windows that are not full": (GUESS, windows(0, [19] * 5), [20] * 5),
    "it climbs a step from each that is": (GUESS, [(0, 1), *windows(10, range(20, 24))], [*range(20, 25)]),
    "and no more than a step": (GUESS, [(0, 1), (10, 20), (20, 1), (30, 19)], [20, 21, 21, 21]),
    "a refused step is taken back, and no window that is not full tries it again": (
        GUESS,
        [*STEP_UP, (20, 20, 1), *windows(30, [19] * 17)],
        [*STEPPED, *[20] * 18],
    ),
    "a refusal that no step explains is a new beginning": (
        GUESS,
        [*STEP_UP, (20, 20, 1), (40, 0, 1), *windows(60, range(11, 23))],
        [*STEPPED, 20, 10, *range(11, 23)],
    ),
    "several that no step explains": (
        GUESS,
        [*STEP_UP, (20, 20, 1), (40, 5, 15), *windows(60, range(6, 23))],
        [*STEPPED, 20, 5, *range(6, 23)],
    ),
    "several at a step": (GUESS, [*STEP_UP, (20, 5, 16), *windows(40, range(6, 23))], [*STEPPED, 5, *range(6, 23)]),
}


@pytest.mark.parametrize(("rate", "volleys", "limits"), STORIES.values(), ids=STORIES)
def test_the_limit_follows_what_is_refused_and_taken(rate: Rate, volleys: list[Any], limits: list[int]) -> None:
    """After each volley of a story the limit is what the server is known to take."""
    window = Window(rate)
    assert [volley(window, *each) for each in volleys] == limits


@pytest.mark.parametrize(("retry_after", "hold"), [(None, 10), (5, 10), (60, 60)])
def test_nothing_is_given_back_before_a_clean_window_after_the_hold(retry_after: float | None, hold: float) -> None:
    """A clean window begins when the hold ends: answers before its own end leave the lowered limit as it is."""
    window = Window(TEN)
    window.refused(0.0, retry_after)
    window.take(0.0)
    assert [volley(window, at, 1) for at in (0.0, hold, hold + 9.9, hold + 10.0)] == [10, 10, 10, 11]


def played(
    limit_at: Callable[[float], int], until: float, round_trip: float = 0.6
) -> tuple[list[tuple[float, int]], list[float], list[float]]:
    """Send all that an account with a guessed limit lets go to a server that takes so many in any window of 10 s.

    Each way is as slow as chance will have it. Returned are the client's limit from each time on, and when the server
    took requests and when it refused some.
    """
    chance, window, number = random.Random(1), Window(GUESS), itertools.count()
    account = upstream(limits=Limits(GUESS, running=10**9), submit=window)
    refusal = Rejected(failure(errors.RateLimited, "slow down", code=429), Remedy.BACK_OFF)
    taken, refused, now, steps = [], [], 0.0, [(0.0, window.limit)]
    # When, which one, and what it is answered: None while it is on its way there.
    events: list[tuple[float, int, Any]] = []
    while now < until:
        while account.submit_at(now) <= now:
            account.take_submit(now)
            heapq.heappush(events, (now + chance.uniform(0, round_trip / 2), next(number), None))
        now = max(now, min(account.submit_at(now), events[0][0] if events else math.inf))
        while events and events[0][0] <= now:
            at, each, answer = heapq.heappop(events)
            if answer is None:
                limit = limit_at(at)
                is_taken = len(taken) < limit or at - taken[-limit] >= 10
                (taken if is_taken else refused).append(at)
                answer = Accepted("t") if is_taken else refusal
                heapq.heappush(events, (at + chance.uniform(0, round_trip / 2), each, answer))
                continue
            account.settle_submit(answer, "imagen4", at)
            if window.limit != steps[-1][1]:
                steps.append((at, window.limit))
    return steps, taken, refused


@pytest.mark.parametrize(
    ("before", "after"), [(20, 8), (30, 5), (25, 22), (3, 2), (20, 1), (8, 20), (5, 30), (2, 3), (17, 17)]
)
def test_a_limit_that_nobody_tells_is_found_and_followed(before: int, after: int) -> None:
    """Within 10 windows as much goes as the server takes, to 15 %, for few refusals; and anew when that has changed."""
    changes = 2137.0
    # By then tries to go beyond are as far apart as they ever will be. What is more is found by such a try, and a step
    # a window from there; a window with its round trips is a little longer than 10 s.
    found = changes + (100 if after < before else 11 * (LONGEST_REST + after - before + 2))
    _, taken, refused = played(lambda now: before if now < changes else after, until=found + 1000)
    for limit, since, until in ((before, 100, 200), (before, 100, changes), (after, found, found + 1000)):
        in_a_window = sum(since <= at < until for at in taken) / (until - since) * 10
        assert 0.85 * limit <= in_a_window <= limit, (since, until)
    assert sum(at < changes for at in refused) < max(30, 0.03 * sum(at < changes for at in taken))
    assert sum(at > found for at in refused) <= 6, "one step up in a rest of 4, 8 … windows"


def test_a_step_up_that_is_refused_is_taken_back_and_tried_again_ever_later() -> None:
    """Nothing is halved by it, and the tries are 4, 8 … 64 and again 64 clean windows after the hold of the last."""
    steps, _, refused = played(lambda now: 20, until=3000, round_trip=0.0)
    waits = [later - earlier for earlier, later in itertools.pairwise(refused)]
    assert {limit for _, limit in steps} == {20, 21}
    assert waits == [10.0 + 10 * rest for rest in (4, 8, 16, 32, 64, 64, 64)]


def test_a_step_that_the_server_takes_at_last_is_followed_by_more() -> None:
    """Once a step holds that was refused before, the next ones are tried a window apart again, and a new one soon."""
    steps, _, refused = played(lambda now: 20 if now < 500 else 24, until=1000, round_trip=0.0)
    (found,) = [number for number, (_, limit) in enumerate(steps) if limit == 22]
    begun, _ = steps[found - 1]
    assert steps[found - 1 : found + 4] == [(begun + 10.0 * n, 21 + n) for n in range(5)]
    first, second = [at for at in refused if at >= 500][:2]
    assert second - first == 50.0
