"""How far callbacks are trusted: slowly won, quickly lost."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inner import CallbackReliability

STEP = st.tuples(st.sampled_from(["announced", "announced", "missed", "late"]), st.integers(0, 60))


def played(announced: int = 0, missed: int = 0) -> CallbackReliability:
    """What is known after so many ends with a callback, and then so many without, of tasks numbered from 0."""
    reliability = CallbackReliability()
    for number in range(announced + missed):
        reliability.ended(number, announced=number < announced)
    return reliability


@settings(max_examples=30)
@given(steps=st.lists(STEP, min_size=20, max_size=60))
def test_an_announced_end_adds_trust_and_a_missed_one_halves_it(steps: list[tuple[str, int]]) -> None:
    """Each end that a callback announces adds one to the odds, each missed one halves them until its own comes late."""
    reliability, odds, lost = CallbackReliability(), 0.0, dict[int, float]()
    for number, (what, about) in enumerate(steps):
        if what == "late":
            reliability.came_late(about)
            odds += lost.pop(about) + 1 if about in lost else 0
        elif what == "missed":
            reliability.ended(number, announced=False)
            odds = lost[number] = odds / 2
        else:
            reliability.ended(number, announced=True)
            odds += 1
        assert reliability.share == pytest.approx(odds / (1 + odds))


def test_no_number_of_callbacks_is_certainty() -> None:
    """After any number of callbacks, ten misses in a row are enough for a share below a half."""
    assert played(announced=20_000).share == pytest.approx(1000 / 1001)
    assert played(announced=20_000, missed=10).share < 0.5


@pytest.mark.parametrize("before", [0, 1500])
def test_late_callbacks_undo_their_misses(before: int) -> None:
    """Ends that were missed, and announced after that, count as if they had been announced in time, each once."""
    late, timely = played(before, missed=5), played(before + 5)
    for number in range(before, before + 5):
        assert late.share < timely.share
        late.came_late(number)
    late.came_late(before)
    assert late.share == pytest.approx(timely.share)


def test_late_ones_are_remembered_for_a_thousand_tasks() -> None:
    """However many ends are missed, no more than a thousand are kept: the oldest are forgotten."""
    reliability = played(missed=3000)
    for number, share in ((1999, 0), (2000, 1 / 2), (2999, 2 / 3)):
        reliability.came_late(number)
        assert reliability.share == pytest.approx(share)


def test_silence_takes_ten_ends_and_no_callback() -> None:
    """None is expected where ten tasks have ended and none ever came; one is enough, and be it late, for good."""
    assert [played(missed=count).are_silent for count in (0, 9, 10, 2000)] == [False, False, True, True]
    assert not played(announced=1, missed=2000).are_silent
    reliability = played(missed=10)
    for number, is_silent in ((99, True), (3, False)):
        reliability.came_late(number)
        assert reliability.are_silent == is_silent
