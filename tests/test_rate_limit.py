"""The exact window: never over the limit at the server, always up to it, and what a refusal does."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagen_async._core.rate_limit import Rate, Window
from imagen_async.errors import ConfigurationError

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
    """A client that sends through a window, one request after the other, as early as it may."""

    def __init__(self, rate: Rate) -> None:
        self.window = Window(rate)
        self.now = 0.0
        self.trips: list[Trip] = []
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
        self.window.spend(self.now)
        self._under_way.append((self.now + round_trip, len(self.trips), refused))
        self.trips.append((self.now, self.now + round_trip))
        return self.now

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self._hear(self.now + seconds)

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
    window.spend(100.0)
    assert window.ready_at(105.0) == math.inf
    window.answered(107.0)
    assert window.ready_at(107.0) == 117.0


def test_the_place_of_a_slow_request_does_not_block_the_others() -> None:
    """One request without an answer takes one place of the limit, and the other places go on."""
    window = Window(Rate(3, per=10))
    window.spend(0.0)
    for at in (0.0, 0.0):
        window.spend(at)
        window.answered(at)
    assert window.ready_at(0.0) == 10.0
    window.spend(10.0)
    window.answered(10.0)
    assert window.ready_at(10.0) <= 10.0


STEPS = st.lists(st.tuples(st.sampled_from(["spend", "answered", "refused", "wait"]), EXACT), max_size=40)


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
        elif step == "spend" and unasked.ready_at(now) <= now:
            under_way += 1
            asked.spend(now)
            unasked.spend(now)
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
    window.spend(0.0)
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
    [(20, [10, *range(11, 21), 20]), (5, [2, 3, 4, 5, 5]), (100, [50, *range(55, 101, 5), 100]), (1, [1, 1])],
)
def test_clean_windows_give_the_limit_back_step_by_step(count: int, climb: list[int]) -> None:
    """Each window without a refusal gives a place in twenty back, up to the set limit and not above."""
    window = Window(Rate(count, per=10))
    window.refused(0.0)
    limits = [window.limit]
    for number in range(1, len(climb)):
        now = number * 10.0
        assert window.ready_at(now) <= now
        window.spend(now)
        window.answered(now)
        limits.append(window.limit)
    assert limits == climb


def test_many_answers_in_one_clean_window_give_one_step_back() -> None:
    """The limit climbs by the window, not by the answer."""
    window = Window(Rate(20, per=10))
    window.refused(0.0)
    for _ in range(8):
        window.spend(10.0)
    for _ in range(8):
        window.answered(10.0)
    assert window.limit == 11


@settings(deadline=None)
@given(answers=st.lists(EXACT.filter(lambda seconds: seconds < 10), min_size=1, max_size=20))
def test_nothing_is_given_back_within_a_window_of_a_refusal(answers: list[float]) -> None:
    """Answers that arrive within a window of a refusal leave the lowered limit as it is."""
    window = Window(Rate(20, per=10))
    for _ in answers:
        window.spend(0.0)
    window.refused(0.0)
    for at in sorted(answers):
        window.answered(at)
    assert window.limit == 10


def test_after_a_refusal_the_lowered_limit_is_what_goes_out() -> None:
    """After the hold, half of the limit goes in the next window, and no more."""
    window = Window(Rate(20, per=10))
    window.spend(0.0)
    window.refused(0.0)
    window.answered(0.0)
    sent = 0
    while window.ready_at(10.0) <= 10.0:
        window.spend(10.0)
        sent += 1
    assert sent == 10


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
    after.window.remember(answered + rate.per for _, answered in after.trips)
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
    window.remember(spent)
    held = sorted(at for at in spent if at > 0)
    expected = 0.0 if len(held) < rate.count else held[-rate.count]
    assert max(0.0, window.ready_at(0.0)) == expected


def test_places_are_remembered_beside_those_that_are_spent() -> None:
    """What is remembered after requests of this process went counts together with them, each until its own time."""
    window = Window(Rate(3, per=10))
    for at in (0.0, 4.0):
        window.spend(at)
        window.answered(at)
    window.remember([12.0, 2.0])
    assert window.ready_at(5.0) == 10.0
    window.spend(10.0)
    window.answered(10.0)
    assert window.ready_at(10.0) == 12.0


def test_nothing_to_remember_changes_nothing() -> None:
    """An earlier process that sent nothing leaves the whole limit free."""
    window = Window(Rate(2, per=10))
    window.remember([])
    assert window.ready_at(0.0) <= 0.0
    window.spend(0.0)
    assert window.ready_at(0.0) <= 0.0
