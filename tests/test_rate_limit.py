"""The exact window: never over the limit at the server, always up to it, and what a refusal does."""

from __future__ import annotations

import copy
import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import pytest
from builders import upstream
from hypothesis import given, settings
from hypothesis import strategies as st

from imagen_async._core.failure import Failure
from imagen_async._core.provider import Limits
from imagen_async._core.rate_limit import LONGEST_REST, Rate, Window
from imagen_async._core.wire import Accepted, Rejected, Remedy
from imagen_async.errors import ConfigurationError, RateLimited

EXACT = st.integers(0, 80).map(lambda eighths: eighths / 8)
"""Seconds that floats add up without rounding."""

RATES = st.builds(Rate, count=st.integers(1, 6), per=st.sampled_from([0.5, 1.0, 2.5, 10.0]))

Trip = tuple[float, float]
"""When a request was sent, and when its answer arrived."""


def most_at_the_server(trips: Iterable[Trip], per: float) -> int:
    """The most requests that some server could see within less than `per` seconds.

    A server may see a request at any instant from its sending to its answer. Requests that were answered at `start` or
    later and sent before `start + per` can all be seen in [start, start + per); to try each answer as start is enough.
    """
    trips = list(trips)
    return max(
        (sum(sent < start + per and answered >= start for sent, answered in trips) for _, start in trips),
        default=0,
    )


class Traffic:
    """A client that sends through a window, one request after the other, as early as it may.

    Attributes:
        trips: Every request, in the order of sending.
        limits: What the limit was when each was sent.
    """

    def __init__(self, rate: Rate) -> None:
        self.window = Window(rate)
        self.now = 0.0
        self.trips: list[Trip] = []
        self.limits: list[int] = []
        self._under_way: list[tuple[float, int, bool]] = []

    def send(self, round_trip: float, refused: bool = False) -> float:
        """Wait until the window is ready, send, and return when."""
        while (ready_at := self.window.ready_at(self.now)) == math.inf:
            assert self._under_way, "the window waits for an answer and none is under way"
            self._hear(min(self._under_way)[0])
        self._hear(max(self.now, ready_at))
        # An answer that was heard just now may be a refusal.
        if self.window.ready_at(self.now) > self.now:
            return self.send(round_trip, refused)
        self.limits.append(self.window.limit)
        self.window.take(self.now)
        self._under_way.append((self.now + round_trip, len(self.trips), refused))
        self.trips.append((self.now, self.now + round_trip))
        return self.now

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self._hear(self.now + seconds)

    def reopen(self, after: float) -> None:
        """Close the client, and open it again some seconds later: what was on the way may be seen until then."""
        self.now += after
        self._under_way.clear()
        self.trips = [(sent, min(answered, self.now)) for sent, answered in self.trips]
        self.window.reopen(self.now)

    def _hear(self, until: float) -> None:
        """Note the answers that arrive up to `until`, in their order."""
        for answer in sorted(answer for answer in self._under_way if answer[0] <= until):
            self._under_way.remove(answer)
            self.now = answer[0]
            if answer[2]:
                self.window.refused(self.now)
            self.window.answered(self.now)
        self.now = max(self.now, until)


@pytest.mark.parametrize(("count", "per"), [(1, 1), (20, 10), (20, 10.0), (1000, 0.25)])
def test_a_rate_is_a_whole_count_in_a_positive_window(count: int, per: float) -> None:
    """A Rate keeps the count and the window that it was given."""
    rate = Rate(count, per=per)
    assert (rate.count, rate.per) == (count, per)


@pytest.mark.parametrize("count", [0, -1, 1.0, 2.5, "20", True, None])
def test_a_rate_refuses_a_count_that_is_no_whole_number_above_zero(count: Any) -> None:
    """A count of zero, a fraction, a word or a bool is a ConfigurationError that shows it."""
    with pytest.raises(ConfigurationError, match="count") as caught:
        Rate(count, per=10)
    assert repr(count) in str(caught.value)


@pytest.mark.parametrize("per", [0, -1, 0.0, math.inf, -math.inf, math.nan, "10", None])
def test_a_rate_refuses_a_window_that_is_no_positive_time(per: Any) -> None:
    """A window of no, negative or endless length, or no number at all, is a ConfigurationError that shows it."""
    with pytest.raises(ConfigurationError, match="window") as caught:
        Rate(20, per=per)
    assert repr(per) in str(caught.value)


@settings(deadline=None)
@given(rate=RATES, requests=st.lists(st.tuples(EXACT, EXACT), max_size=40))
def test_no_window_at_the_server_holds_more_than_the_limit(rate: Rate, requests: list[tuple[float, float]]) -> None:
    """Whatever the round trips are, and wherever in them the server sees each request, no window holds more than N."""
    traffic = Traffic(rate)
    for pause, round_trip in requests:
        traffic.wait(pause)
        traffic.send(round_trip)
    assert most_at_the_server(traffic.trips, rate.per) <= rate.count


@settings(deadline=None)
@given(rate=RATES, requests=st.lists(st.tuples(EXACT, EXACT, st.booleans()), max_size=40))
def test_refusals_never_let_more_than_the_limit_through(rate: Rate, requests: list[tuple[float, float, bool]]) -> None:
    """With refusals in between, while the limit falls and climbs, no window at the server holds more than N."""
    traffic = Traffic(rate)
    for pause, round_trip, refused in requests:
        traffic.wait(pause)
        traffic.send(round_trip, refused)
        assert 1 <= traffic.window.limit <= rate.count
    assert most_at_the_server(traffic.trips, rate.per) <= rate.count


@settings(deadline=None)
@given(
    rate=RATES,
    guess=st.booleans(),
    requests=st.lists(st.tuples(EXACT | st.just(0.0), EXACT | st.just(0.0), st.integers(0, 9)), max_size=60),
)
def test_no_window_holds_more_than_the_limit_of_its_last_request(
    rate: Rate, guess: bool, requests: list[tuple[float, float, int]]
) -> None:
    """While a guess climbs, falls and is taken back, no window at the server holds more than the limit of that time."""
    rate = Rate(rate.count, per=rate.per, guess=guess)
    traffic = Traffic(rate)
    for pause, round_trip, luck in requests:
        traffic.wait(pause)
        traffic.send(round_trip, refused=luck == 0)
        assert traffic.window.limit >= 1
        assert guess or traffic.window.limit <= rate.count
    for _, start in traffic.trips:
        seen = [
            number
            for number, (sent, answered) in enumerate(traffic.trips)
            if sent < start + rate.per and answered >= start
        ]
        assert len(seen) <= traffic.limits[seen[-1]]


@settings(deadline=None)
@given(rate=RATES, round_trips=st.lists(EXACT, min_size=1, max_size=40))
def test_waiting_requests_go_out_as_fast_as_the_limit_lets_them(rate: Rate, round_trips: list[float]) -> None:
    """While there is always one waiting, each N requests take at most one window and one round trip.

    Proof: a place taken at time t is free again by t + slowest + per. So once the first N are sent by time T, the next
    N are all sent by T + slowest + per.
    """
    traffic = Traffic(rate)
    sent = [traffic.send(round_trip) for round_trip in round_trips]
    slowest = max(round_trips)
    for number, at in enumerate(sent):
        assert at <= number // rate.count * (rate.per + slowest)


@settings(deadline=None)
@given(rate=RATES, windows=st.integers(1, 5))
def test_a_fast_server_sees_exactly_the_limit_in_each_window(rate: Rate, windows: int) -> None:
    """With answers that take no time, N go at once, the next N exactly one window later, and so on."""
    traffic = Traffic(rate)
    sent = [traffic.send(0.0) for _ in range(rate.count * windows)]
    assert sent == [number // rate.count * rate.per for number in range(len(sent))]
    assert most_at_the_server(traffic.trips, rate.per) == rate.count


def test_a_place_is_free_a_window_after_its_answer_not_after_its_sending() -> None:
    """A request that took 7 s holds its place for 7 s and a window; until it is answered nobody knows when it ends."""
    window = Window(Rate(1, per=10))
    window.take(100.0)
    assert window.ready_at(105.0) == math.inf
    window.answered(107.0)
    assert window.ready_at(107.0) == 117.0


def test_the_place_of_a_slow_request_does_not_block_the_others() -> None:
    """One request without an answer takes one place of the limit, and the other places go on."""
    window = Window(Rate(3, per=10))
    window.take(0.0)
    for at in (0.0, 0.0):
        window.take(at)
        window.answered(at)
    assert window.ready_at(0.0) == 10.0
    window.take(10.0)
    window.answered(10.0)
    assert window.ready_at(10.0) <= 10.0


STEPS = st.lists(st.tuples(st.sampled_from(["take", "answered", "refused", "wait"]), EXACT), max_size=40)


@settings(deadline=None)
@given(rate=RATES, steps=STEPS, questions=st.integers(1, 4))
def test_asking_changes_nothing(rate: Rate, steps: list[tuple[str, float]], questions: int) -> None:
    """A window that is asked `ready_at` at any time, many times, does the same as one that is not."""
    asked, unasked = Window(rate), Window(rate)
    now, under_way = 0.0, 0
    for step, amount in steps:
        for number in range(questions):
            asked.ready_at(now + number * amount)
        if step == "wait":
            now += amount
        elif step == "take" and unasked.ready_at(now) <= now:
            under_way += 1
            asked.take(now)
            unasked.take(now)
        elif step == "answered" and under_way:
            under_way -= 1
            asked.answered(now)
            unasked.answered(now)
        elif step == "refused":
            asked.refused(now)
            unasked.refused(now)
        assert [asked.ready_at(now), asked.ready_at(now)] == [unasked.ready_at(now)] * 2
        assert asked.limit == unasked.limit


@settings(deadline=None)
@given(rate=RATES, retry_after=st.none() | EXACT, round_trip=EXACT)
def test_a_refusal_holds_for_a_full_window_or_as_long_as_the_server_asks(
    rate: Rate, retry_after: float | None, round_trip: float
) -> None:
    """After a refusal nothing goes for a window, or for the server's own delay if that is longer, and then it goes."""
    window = Window(rate)
    window.take(0.0)
    window.refused(round_trip, retry_after)
    window.answered(round_trip)
    assert window.ready_at(round_trip) == round_trip + max(rate.per, retry_after or 0.0)


def test_a_later_refusal_never_shortens_a_hold() -> None:
    """A hold that the server asked for outlives a shorter one that comes after it."""
    window = Window(Rate(20, per=10))
    window.refused(0.0, retry_after=60.0)
    window.refused(5.0)
    assert window.ready_at(5.0) == 60.0


@settings(deadline=None)
@given(later=st.lists(EXACT.filter(lambda seconds: seconds < 10), max_size=19))
def test_a_volley_of_refusals_halves_the_limit_once(later: list[float]) -> None:
    """However many refusals come within one window, the limit is halved once."""
    window = Window(Rate(20, per=10))
    for at in [0.0, *sorted(later)]:
        window.refused(at)
    assert window.limit == 10


def test_each_window_with_a_refusal_halves_the_limit_down_to_one() -> None:
    """Refusals a window apart halve the limit each time, and it never falls below one."""
    window = Window(Rate(20, per=10))
    limits = []
    for number in range(6):
        window.refused(number * 10.0)
        limits.append(window.limit)
    assert limits == [10, 5, 2, 1, 1, 1]


@pytest.mark.parametrize(
    ("count", "climb"),
    [(20, [10, 10, *range(11, 21), 20, 20]), (5, [2, 2, 3, 4, 5, 5]), (100, [50, *range(50, 101), 100]), (1, [1] * 4)],
)
@pytest.mark.parametrize("guess", [False, True])
def test_clean_windows_give_the_limit_back_step_by_step(count: int, climb: list[int], guess: bool) -> None:
    """Each window without a refusal, used in full or not, gives one place back, up to the set limit and not above."""
    window = Window(Rate(count, per=10, guess=guess and count > 1))
    window.refused(0.0)
    limits = [window.limit]
    for number in range(1, len(climb)):
        now = number * 10.0
        assert window.ready_at(now) <= now
        window.take(now)
        window.answered(now)
        limits.append(window.limit)
    assert limits == climb


def test_many_answers_in_one_clean_window_give_one_step_back() -> None:
    """The limit climbs by the window, not by the answer."""
    window = Window(Rate(20, per=10))
    window.refused(0.0)
    for _ in range(8):
        window.take(10.0)
    for _ in range(8):
        window.answered(20.0)
    assert window.limit == 11
    for _ in range(8):
        window.take(30.0)
        window.answered(30.0)
    assert window.limit == 12


@settings(deadline=None)
@given(
    retry_after=st.none() | EXACT.map(lambda seconds: 10 * seconds),
    answers=st.lists(EXACT.filter(lambda seconds: seconds < 10), min_size=1, max_size=20),
)
def test_nothing_is_given_back_before_a_clean_window_after_the_hold(
    retry_after: float | None, answers: list[float]
) -> None:
    """A clean window begins when the hold ends: answers before its own end leave the lowered limit as it is."""
    window = Window(Rate(20, per=10))
    window.refused(0.0, retry_after)
    hold = max(10.0, retry_after or 0.0)
    for at in sorted([*answers, *(hold + at for at in answers)]):
        window.answered(at)
        assert window.limit == 10
    window.answered(hold + 10.0)
    assert window.limit == 11


def test_after_a_refusal_the_lowered_limit_is_what_goes_out() -> None:
    """After the hold, half of the limit goes in the next window, and no more."""
    window = Window(Rate(20, per=10))
    window.take(0.0)
    window.refused(0.0)
    window.answered(0.0)
    sent = 0
    while window.ready_at(10.0) <= 10.0:
        window.take(10.0)
        sent += 1
    assert sent == 10


@settings(deadline=None)
@given(order=st.lists(st.booleans(), min_size=2, max_size=20), pause=st.sampled_from([0.0, 0.125, 0.25]))
def test_several_refusals_let_the_limit_fall_to_what_the_window_took(order: list[bool], pause: float) -> None:
    """Once all answers of a volley are there, the limit is what it took, if that is less than half; one tells little.

    A volley of which nothing was taken tells of an outage, and the limit is halved only.
    """
    window = Window(Rate(20, per=10))
    for _ in order:
        window.take(0.0)
    taken, refused = order.count(True), order.count(False)
    for number, is_taken in enumerate(order):
        assert window.limit >= 10
        if not is_taken:
            window.refused(number * pause)
        window.answered(number * pause)
    halved = 10 if refused else 20
    assert window.limit == (min(halved, taken) if refused > 1 and taken else halved)


def test_what_earlier_requests_of_the_window_took_counts() -> None:
    """Requests that were taken a little before the volley, in the same window, belong to what the window took."""
    for second, limit in ((5.0, 6), (12.0, 2)):
        window = Window(Rate(20, per=10))
        for at, refusals in ((0.0, 0), (second, 2)):
            for _ in range(4):
                window.take(at)
            for number in range(4):
                if number < refusals:
                    window.refused(at)
                window.answered(at)
        assert window.limit == limit, second


def test_a_hold_and_the_places_that_are_taken_are_told() -> None:
    """`is_blocked` is true until the hold ends; `taken` counts what is on the way, and what may still count there."""
    window = Window(Rate(20, per=10))
    assert (window.is_blocked(0.0), window.taken(0.0)) == (False, 0)
    for _ in range(3):
        window.take(0.0)
    window.answered(1.0)
    window.refused(2.0)
    window.answered(2.0)
    assert [window.taken(at) for at in (2.0, 10.9, 11.0, 12.0)] == [3, 3, 2, 1]
    assert [window.is_blocked(at) for at in (2.0, 11.9, 12.0)] == [True, True, False]


# ------------------------------------------------------------------------------ a server that does not tell its limit


class StrictServer:
    """Takes as many requests in any window of 10 s as it has a mind to, and tells nobody how many.

    Attributes:
        limit: How many, by the time.
        taken: When each was taken.
        refused: When each was refused.
    """

    def __init__(self, limit: Callable[[float], int]) -> None:
        self.limit = limit
        self.taken: list[float] = []
        self.refused: list[float] = []
        self._recent: deque[float] = deque()

    def takes(self, now: float) -> bool:
        """Hear a request; say whether it is taken."""
        while self._recent and now - self._recent[0] >= 10:
            self._recent.popleft()
        is_taken = len(self._recent) < self.limit(now)
        (self.taken if is_taken else self.refused).append(now)
        if is_taken:
            self._recent.append(now)
        return is_taken

    def rate(self, since: float, until: float) -> float:
        """Requests that it took in 10 s, on average of a time."""
        return sum(since <= at < until for at in self.taken) / (until - since) * 10


class ThroughAWindow:
    """Sends as a window lets it."""

    def __init__(self, rate: Rate) -> None:
        self.window = Window(rate)

    def ready_at(self, now: float) -> float:
        """When the next request may go."""
        return self.window.ready_at(now)

    def take(self, now: float) -> None:
        """One goes."""
        self.window.take(now)

    def answered(self, now: float, *, is_taken: bool) -> None:
        """Its answer arrives."""
        if not is_taken:
            self.window.refused(now)
        self.window.answered(now)


class ThroughAnUpstream(ThroughAWindow):
    """Sends as a whole account does: the first one alone, and one at a time after trouble."""

    def __init__(self, rate: Rate) -> None:
        super().__init__(rate)
        self.upstream = upstream(limits=Limits(submit=rate, running=10**9), submit=self.window)

    def ready_at(self, now: float) -> float:
        """When the next create may go."""
        return self.upstream.submit_at(now)

    def take(self, now: float) -> None:
        """One goes."""
        self.upstream.take_submit(now)

    def answered(self, now: float, *, is_taken: bool) -> None:
        """Its answer arrives."""
        refusal = Rejected(Failure(RateLimited, "slow down", code=429), Remedy.BACK_OFF)
        self.upstream.settle_submit(Accepted("t") if is_taken else refusal, "imagen4", now)


class Change(NamedTuple):
    """The limit of a client from a time on."""

    at: float
    limit: int


def played(
    client: ThroughAWindow,
    server: StrictServer,
    *,
    most: float = math.inf,
    until: float = math.inf,
    round_trip: float = 0.6,
    seed: int = 1,
) -> list[Change]:
    """Let a client with endlessly much to send go on, each way of a request as slow as chance will have it.

    It ends at a time, or when so many requests were sent; returned is how its limit changed.
    """
    chance, changes = random.Random(seed), [Change(0.0, client.window.limit)]
    # When, which one, and whether it was taken: None while it is on its way there.
    events: list[tuple[float, int, bool | None]] = []
    now, sent = 0.0, 0
    while now < until and (sent < most or events):
        while sent < most and client.ready_at(now) <= now:
            client.take(now)
            sent += 1
            heapq.heappush(events, (now + chance.uniform(0, round_trip / 2), sent, None))
        ready_at = client.ready_at(now) if sent < most else math.inf
        now = max(now, min(ready_at, events[0][0] if events else math.inf))
        while events and events[0][0] <= now:
            at, number, is_taken = heapq.heappop(events)
            if is_taken is None:
                heapq.heappush(events, (at + chance.uniform(0, round_trip / 2), number, server.takes(at)))
                continue
            client.answered(at, is_taken=is_taken)
            if client.window.limit != changes[-1].limit:
                changes.append(Change(at, client.window.limit))
    return changes


GUESS = Rate(20, per=10, guess=True)
CLIENTS = [ThroughAWindow, ThroughAnUpstream]
LEARNT = (2000.0, 2137.0, 2500.0)
"""By then a limit has been found, and tries to go beyond it are as far apart as they ever will be."""


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("limit", [1, 2, 3, 5, 8, 12, 17, 20, 22, 25, 30])
def test_a_limit_that_nobody_tells_is_found_and_kept_to(client: type[ThroughAWindow], limit: int) -> None:
    """Within 10 windows as much goes as the server takes, to 15 %, and of 2,000 creates fewer than 3 % are refused."""
    for seed in range(2):
        server = StrictServer(lambda now: limit)
        played(client(GUESS), server, most=2000, seed=seed)
        assert 0.85 * limit <= server.rate(100, 200) <= limit
        assert sum(at >= 100 for at in server.taken) >= 1000
        assert 0.85 * limit <= server.rate(100, server.taken[-1]) <= limit
        assert len(server.refused) < 0.03 * 2000


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(("before", "after"), [(20, 8), (30, 5), (25, 22), (12, 3), (3, 2), (20, 1)])
def test_a_limit_that_falls_is_followed(client: type[ThroughAWindow], before: int, after: int) -> None:
    """From 10 windows after a limit fell on, as much goes as the server takes now, and little more."""
    for at in LEARNT:
        server = StrictServer(lambda now, at=at: before if now < at else after)  # type: ignore[misc]
        played(client(GUESS), server, until=at + 1100, seed=int(at))
        assert server.rate(at - 500, at) >= 0.85 * before
        assert 0.85 * after <= server.rate(at + 100, at + 1100) <= after
        # One step up in a rest of 2, 4 … windows, and one volley when it fell.
        assert sum(refused > at + 100 for refused in server.refused) <= 6


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(("before", "after"), [(8, 20), (5, 30), (22, 25), (2, 3), (1, 12)])
def test_a_limit_that_rises_is_followed(client: type[ThroughAWindow], before: int, after: int) -> None:
    """After the longest rest at most, and then a step a window, as much goes as the server takes now."""
    for at in LEARNT:
        server = StrictServer(lambda now, at=at: before if now < at else after)  # type: ignore[misc]
        # A window with its round trips is a little longer than 10 s.
        found = at + 11 * (LONGEST_REST + after - before + 2)
        played(client(GUESS), server, until=found + 1000, seed=int(at))
        assert server.rate(at - 500, at) >= 0.85 * before
        assert 0.85 * after <= server.rate(found, found + 1000) <= after


@pytest.mark.parametrize("client", CLIENTS)
def test_a_rate_that_is_no_guess_never_climbs_beyond_it(client: type[ThroughAWindow]) -> None:
    """Where a provider has published its rate, a server that would take more is not asked to."""
    server = StrictServer(lambda now: 1000)
    changes = played(client(Rate(20, per=10)), server, until=1000)
    assert changes == [Change(0.0, 20)]
    assert 0.94 * 20 <= server.rate(0, 1000) <= 20 * 1.01


def test_a_guess_climbs_a_step_a_window() -> None:
    """While all goes well, a guess that is used in full climbs by one in each window, and no faster."""
    changes = played(ThroughAWindow(GUESS), StrictServer(lambda now: 10**6), until=1000)
    assert [change.limit for change in changes] == list(range(20, 20 + len(changes)))
    assert len(changes) > 90
    gaps = [later.at - earlier.at for earlier, later in itertools.pairwise(changes[1:])]
    assert min(gaps) >= 10


@settings(deadline=None)
@given(used=st.integers(1, 19), windows=st.integers(1, 10))
def test_a_guess_does_not_climb_from_windows_that_were_not_used_in_full(used: int, windows: int) -> None:
    """Whoever has less to send than a guess allows learns nothing of what lies beyond it."""
    window = Window(GUESS)
    for number in range(windows):
        for _ in range(used):
            window.take(number * 10.0)
        for _ in range(used):
            window.answered(number * 10.0)
    assert window.limit == 20


def test_a_step_up_that_is_refused_is_taken_back_and_tried_again_ever_later() -> None:
    """Nothing is halved by it, and the tries are 4, 8 … 64 and again 64 clean windows after the hold of the last."""
    server = StrictServer(lambda now: 20)
    changes = played(ThroughAWindow(GUESS), server, until=4000, round_trip=0.0)
    assert {change.limit for change in changes} == {20, 21}
    waits = [later - earlier for earlier, later in itertools.pairwise(server.refused)]
    rests = [4, 8, 16, 32, *[LONGEST_REST] * (len(waits) - 4)]
    assert waits == [10.0 + 10 * rest for rest in rests]
    assert len(waits) >= 8


def test_a_step_that_the_server_takes_at_last_is_followed_by_more() -> None:
    """Once a step holds that was refused before, the next ones are tried a window apart again."""
    server = StrictServer(lambda now: 20 if now < 500 else 24)
    changes = played(ThroughAWindow(GUESS), server, until=1000, round_trip=0.0)
    (found,) = [number for number, change in enumerate(changes) if change.limit == 22]
    steps = changes[found - 1 : found + 4]
    assert [step.limit for step in steps] == [21, 22, 23, 24, 25]
    assert [later.at - earlier.at for earlier, later in itertools.pairwise(steps)] == [10.0] * 4
    first, second = [at for at in server.refused if at >= 500][:2]
    assert second - first == 50.0, "a ceiling that is new is tried again soon"


def test_a_refusal_below_what_was_proven_halves_the_limit() -> None:
    """A refusal that no step up explains halves the limit, and what was known to be taken counts no more."""
    server = StrictServer(lambda now: 20)
    client = ThroughAWindow(GUESS)
    played(client, server, until=15, round_trip=0.0)
    assert client.window.limit == 20
    client.window.refused(1000.0)
    assert client.window.limit == 10
    client.window.refused(1010.0)
    assert client.window.limit == 5


# --------------------------------------------------------------------------------- places of an earlier process


def after_a_restart(rate: Rate, earlier: list[tuple[float, float]], down: float) -> Traffic:
    """A new process that knows when each request of the one before it was answered, or that it was not."""
    before = Traffic(rate)
    for pause, round_trip in earlier:
        before.wait(pause)
        before.send(round_trip)
    after = Traffic(rate)
    after.now = before.now + down
    # A request without an answer may be seen until the new process begins.
    after.trips = [(sent, min(answered, after.now)) for sent, answered in before.trips]
    after.window.preload(answered + rate.per for _, answered in after.trips)
    return after


@settings(deadline=None)
@given(
    rate=RATES,
    earlier=st.lists(st.tuples(EXACT, EXACT), max_size=20),
    down=EXACT,
    later=st.lists(st.tuples(EXACT, EXACT, st.booleans()), max_size=20),
)
def test_with_an_earlier_process_no_window_holds_more_than_the_limit(
    rate: Rate, earlier: list[tuple[float, float]], down: float, later: list[tuple[float, float, bool]]
) -> None:
    """Whatever two processes in a row send, and refusals or not, no window at the server holds more than N."""
    traffic = after_a_restart(rate, earlier, down)
    for pause, round_trip, refused in later:
        traffic.wait(pause)
        traffic.send(round_trip, refused)
    assert most_at_the_server(traffic.trips, rate.per) <= rate.count


@settings(deadline=None)
@given(rate=RATES, spent=st.lists(EXACT, max_size=8))
def test_the_places_of_an_earlier_process_hold_until_their_time(rate: Rate, spent: list[float]) -> None:
    """A request goes at once while places are free, and else when the first that must be free is so, in any order."""
    window = Window(rate)
    window.preload(spent)
    held = sorted(at for at in spent if at > 0)
    expected = 0.0 if len(held) < rate.count else held[-rate.count]
    assert max(0.0, window.ready_at(0.0)) == expected


def test_places_are_preloaded_beside_those_that_are_taken() -> None:
    """What is preloaded after requests of this process went counts together with them, each until its own time."""
    window = Window(Rate(3, per=10))
    for at in (0.0, 4.0):
        window.take(at)
        window.answered(at)
    window.preload([12.0, 2.0])
    assert window.ready_at(5.0) == 10.0
    window.take(10.0)
    window.answered(10.0)
    assert window.ready_at(10.0) == 12.0


def test_nothing_to_preload_changes_nothing() -> None:
    """An earlier process that sent nothing leaves the whole limit free."""
    window = Window(Rate(2, per=10))
    window.preload([])
    assert window.ready_at(0.0) <= 0.0
    window.take(0.0)
    assert window.ready_at(0.0) <= 0.0


# ------------------------------------------------------------------------------------- a client that is opened again


@settings(deadline=None)
@given(
    rate=RATES,
    earlier=st.lists(st.tuples(EXACT, EXACT, st.booleans()), max_size=20),
    down=EXACT,
    later=st.lists(st.tuples(EXACT, EXACT), max_size=20),
)
def test_a_window_that_is_reopened_goes_on(
    rate: Rate, earlier: list[tuple[float, float, bool]], down: float, later: list[tuple[float, float]]
) -> None:
    """It holds to its places and its limit, and to those of requests whose answers nobody heard any more."""
    traffic = Traffic(rate)
    for pause, round_trip, refused in earlier:
        traffic.wait(pause)
        traffic.send(round_trip, refused)
    traffic.wait(0.0)
    limit = traffic.window.limit
    traffic.reopen(down)
    assert traffic.window.limit == limit
    for pause, round_trip in later:
        traffic.wait(pause)
        traffic.send(round_trip)
    assert most_at_the_server(traffic.trips, rate.per) <= rate.count


@settings(deadline=None)
@given(rate=RATES, earlier=st.lists(st.tuples(EXACT, EXACT, st.booleans()), max_size=20))
def test_a_window_at_rest_is_reopened_as_it_was(rate: Rate, earlier: list[tuple[float, float, bool]]) -> None:
    """With nothing on its way it forgets nothing of what a window comes to know, and makes nothing up."""
    traffic = Traffic(Rate(rate.count, per=rate.per, guess=True))
    for pause, round_trip, refused in earlier:
        traffic.wait(pause)
        traffic.send(round_trip, refused)
    traffic.wait(max((answered for _, answered in traffic.trips), default=0.0) - traffic.now)
    before = copy.deepcopy(vars(traffic.window))
    traffic.window.reopen(traffic.now)
    assert vars(traffic.window) == before
