"""When each of many has something to do: the same as asking all of them, whatever happens, at far fewer questions."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from imagen_async._core.agenda import Agenda

TIMES = st.sampled_from([-math.inf, 1.0, 2.0, 3.0, 5.0, 8.0, math.inf])
STEPS = st.lists(
    st.tuples(st.sampled_from(["set", "set", "look", "look", "wake"]), st.integers(0, 4), TIMES, st.integers(0, 9))
)


class Times:
    """When each has something to do, in truth, and an agenda of that; the last one's changes by itself."""

    def __init__(self) -> None:
        self.at = [math.inf] * 5
        self.asked = 0
        self.agenda = Agenda([lambda now, number=number: self.when(number) for number in range(5)], [4])

    def when(self, number: int) -> float:
        """As one tells it itself."""
        self.asked += 1
        return self.at[number]

    def set(self, number: int, at: float) -> None:
        """Something happens to one."""
        self.at[number] = at
        if number < 4:
            self.agenda.touched.add(number)


@given(steps=STEPS)
def test_it_tells_what_all_would_tell_if_asked(steps: list[tuple[str, int, float, int]]) -> None:
    """Who is due now, each until it has no more to do, and when the next one is; also of an earlier time."""
    times = Times()
    for what, number, at, now in steps:
        if what == "set":
            times.set(number, at)
        elif what == "wake":
            assert max(times.agenda.next_at(now), now) == max(min(times.at), now)
        else:
            due = []
            expected = [each for each in range(5) if times.at[each] <= now for _ in range(2)]
            for each in times.agenda.due(now):
                due.append(each)
                if due.count(each) == 2:
                    times.set(each, now + 1.5)
            assert due == expected


def test_those_that_nothing_has_happened_to_are_not_asked() -> None:
    """A look costs a question to the restless one, and to those whose time has come."""
    times = Times()
    times.at = [5.0, 6.0, 7.0, math.inf, math.inf]
    assert times.agenda.next_at(0.0) == 5.0
    for now, number in ((1.0, 1), (2.0, 1), (5.0, 2)):
        before = times.asked
        times.agenda.next_at(now)
        assert times.asked - before == number


def test_what_was_told_too_early_is_told_again() -> None:
    """A time may come before there is anything to do: then the next one is told, and nobody is due."""
    agenda = Agenda([lambda now: 5.0 if now < 5 else 9.0])
    assert agenda.next_at(0.0) == 5.0
    assert [*agenda.due(5.0)] == []
    assert agenda.next_at(5.0) == 9.0


def test_who_has_nothing_to_do_any_more_is_not_due() -> None:
    """Also where nobody was told of that: a limit that came between holds."""
    at = [5.0]
    agenda = Agenda([lambda now: at[0]])
    assert agenda.next_at(5.0) == 5.0
    at[0] = 9.0
    assert [*agenda.due(5.0)] == []
    assert agenda.next_at(5.0) == 9.0
