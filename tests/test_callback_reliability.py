"""How far callbacks are trusted: slowly won, quickly lost."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagen_async._core.callback_reliability import CallbackReliability

SURE = 1000 / 1001
"""The share after a thousand callbacks in a row: no more is ever believed."""

STEP = st.tuples(st.sampled_from(["announced", "announced", "missed", "late"]), st.integers(0, 60))


def played(*steps: tuple[str, int]) -> CallbackReliability:
    """What is known after so many ends of each sort, all of different tasks, numbered from 0."""
    reliability, numbers = CallbackReliability(), itertools.count()
    for what, count in steps:
        for number in itertools.islice(numbers, count):
            reliability.ended(number, announced=what == "announced")
    return reliability


def trust(reliability: CallbackReliability) -> float:
    """The odds that an end is announced."""
    return reliability.share / (1 - reliability.share)


@settings(deadline=None, max_examples=30)
@given(steps=st.lists(STEP, min_size=20, max_size=60))
def test_an_announced_end_adds_trust_and_a_missed_one_halves_it(steps: list[tuple[str, int]]) -> None:
    """Each end that a callback announces adds one to the odds, each missed one halves them until its own comes late."""
    reliability, expected, lost = CallbackReliability(), 0.0, dict[int, float]()
    for number, (what, about) in enumerate(steps):
        if what == "late":
            reliability.came_late(about)
            expected += lost.pop(about) + 1 if about in lost else 0
        else:
            reliability.ended(number, announced=what == "announced")
            lost |= {number: expected / 2} if what == "missed" else {}
            expected = expected + 1 if what == "announced" else expected / 2
        assert trust(reliability) == pytest.approx(expected)
        assert 0 <= reliability.share < 1


def test_no_number_of_callbacks_is_certainty() -> None:
    """After any number of callbacks, ten misses in a row are enough for a share below a half."""
    assert played(("announced", 20_000)).share == pytest.approx(SURE)
    assert played(("announced", 20_000), ("missed", 10)).share < 0.5


@pytest.mark.parametrize("before", [0, 1, 9, 1500])
def test_late_callbacks_undo_their_misses(before: int) -> None:
    """Ends that were missed, and announced after that, count as if they had been announced in time, each once."""
    late, timely = played(("announced", before), ("missed", 5)), played(("announced", before + 5))
    for number in range(before, before + 5):
        assert late.share < timely.share
        late.came_late(number)
    assert late.share == pytest.approx(timely.share)
    for number in (before, 0, 9999):
        late.came_late(number)
    assert late.share == pytest.approx(timely.share)


def test_late_ones_are_remembered_for_a_thousand_tasks() -> None:
    """However many ends are missed, no more than a thousand are kept: the oldest are forgotten."""
    reliability = played(("missed", 3000))
    reliability.came_late(1999)
    assert reliability.share == 0
    reliability.came_late(2000)
    assert reliability.share == pytest.approx(1 / 2)
    reliability.came_late(2999)
    assert reliability.share == pytest.approx(2 / 3)


def test_silence_takes_ten_ends_and_no_callback() -> None:
    """None is expected where ten tasks have ended and none ever came; one is enough, and be it late, for good."""
    told = {count: played(("missed", count)).are_silent for count in (0, 9, 10, 2000)}
    assert told == {0: False, 9: False, 10: True, 2000: True}
    assert not played(("announced", 1), ("missed", 2000)).are_silent
    reliability = played(("missed", 10))
    reliability.came_late(99)
    assert reliability.are_silent
    reliability.came_late(3)
    assert not reliability.are_silent
