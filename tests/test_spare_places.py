"""What is left of a status limit: half of it, five calls a second at most, for questions before their time."""

from __future__ import annotations

import math

import inner
import pytest


class Shared(inner.Window):
    """A limit that others take places of, too."""

    is_shared = True


@pytest.mark.parametrize(
    ("limit", "per", "places"), [(2, 1.0, 1), (5, 1.0, 2), (10, 1.0, 5), (30, 1.0, 5), (4, 0.1, 1), (100, 10.0, 50)]
)
def test_half_of_a_window_is_to_spare_and_five_calls_a_second(limit: int, per: float, places: int) -> None:
    """While these are out only an answer makes room, and then not before a window has passed."""
    status = inner.Window(inner.Rate(limit, per=per))
    spare = inner.SparePlaces(status)
    for _ in range(places):
        assert spare.ready_at(0.0) <= 0.0
        status.take(0.0)
    assert spare.ready_at(0.0) == math.inf
    status.answered(0.5)
    assert spare.ready_at(0.5) == 0.5 + per


@pytest.mark.parametrize("status", [inner.Window(inner.Rate(1, per=1)), Shared(inner.Rate(10, per=1))])
def test_nothing_is_to_spare_of_a_single_call_or_of_what_others_share(status: inner.Window) -> None:
    """Whatever waits there waits for its time."""
    spare = inner.SparePlaces(status)
    assert not spare.suit(1, 0.0)
    assert spare.ready_at(0.0) == spare.retry_at(1, 0.0) == math.inf


def test_whoever_finds_no_place_tries_again_where_few_are_left_and_nobody_is_early_for_a_while_where_many_are() -> None:
    """Twenty seconds: so many questions are asked in their time that their lateness is worth more than their haste."""
    status = inner.Window(inner.Rate(2, per=1))
    spare = inner.SparePlaces(status)
    status.take(0.0)
    status.answered(0.0)
    assert spare.retry_at(inner.FEW, 0.5) == 1.0
    assert spare.suit(inner.FEW + 1, 0.5)
    assert spare.retry_at(inner.FEW + 1, 0.5) == math.inf
    assert [spare.suit(running, 20.4) for running in (inner.FEW, inner.FEW + 1)] == [True, False]
    assert spare.suit(inner.FEW + 1, 20.5)
