"""Which of a caller's equal requests one more is: nobody is left without, and nobody pays for a picture twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from inner import LAPSES, REPEATED_WITHIN, Turn, Turns

NOW = 1_000_000.0


def taken(turns: Turns, now: float = NOW, *, repeat: int = 0) -> int:
    """One more that comes and waits; its ordinal."""
    ordinal = turns.next(now, repeat=repeat)
    turns.join(ordinal, now, repeat=repeat)
    return ordinal


def answered(turns: Turns, ordinal: int, now: float = NOW) -> None:
    """One that waits is given its answer, and leaves."""
    turns.give(ordinal, now)
    turns.leave(ordinal)


def test_equal_requests_at_once_are_told_apart() -> None:
    """Each that waits has one of its own, and so has one that comes after an answer."""
    turns = Turns()
    assert [taken(turns) for _ in range(3)] == [0, 1, 2]
    answered(turns, 1)
    assert taken(turns) == 3


def test_what_nobody_was_given_is_taken_first() -> None:
    """One whose caller has left before the answer is the next caller's, in the order of their coming."""
    turns = Turns()
    for ordinal in (taken(turns), taken(turns), taken(turns)):
        turns.leave(ordinal)
    assert [taken(turns) for _ in range(4)] == [0, 1, 2, 3]


def test_a_repeat_is_the_newest() -> None:
    """Waited for, as behind a proxy that has not noticed, or given to nobody: for ten minutes, and no longer."""
    turns = Turns()
    taken(turns)
    assert taken(turns, repeat=1) == 0
    answered(turns, 0)
    answered(turns, 0)
    assert taken(turns, NOW + REPEATED_WITHIN - 1, repeat=1) == 0
    turns.leave(0)
    assert taken(turns, NOW + REPEATED_WITHIN + 1, repeat=1) == 1


def test_a_repeat_takes_what_was_left_before_the_newest() -> None:
    """After a crash three equal requests come again: each has its own picture, and none of them that of another."""
    turns = Turns([(ordinal, Turn(NOW)) for ordinal in range(3)])
    assert sorted(taken(turns, repeat=1) for _ in range(3)) == [0, 1, 2]
    assert taken(turns, repeat=1) == 2


def test_repeats_of_equal_requests_stay_apart() -> None:
    """Where all first tries are still waited for, or lost on the way, each repeat has another one, however often."""
    turns = Turns()
    for repeat in range(4):
        assert {taken(turns, repeat=repeat) for _ in range(5)} == set(range(5))
    # Also where some of the tries have never arrived.
    taken(turns, repeat=5)
    assert {taken(turns, repeat=6) for _ in range(5)} == set(range(5))


def test_a_repeat_is_not_an_earlier_one_that_was_given() -> None:
    """What somebody else was given before stays that: each repeat of a later one has the later one."""
    turns = Turns([(0, Turn(NOW, NOW))])
    assert [taken(turns, repeat=repeat) for repeat in range(5)] == [1] * 5


def test_what_was_never_given_lapses() -> None:
    """After a day it is nobody's: whoever asks then means a new one."""
    turns = Turns([(0, Turn(NOW))])
    assert taken(turns, NOW + LAPSES - 1) == 0
    turns.leave(0)
    assert taken(turns, NOW + LAPSES + 1) == 1


def test_what_is_remembered_no_more_is_not_taken_again() -> None:
    """Ordinals below those that were forgotten stay taken: their keys stand for pictures that were given."""
    assert taken(Turns(first=7)) == 7
    assert taken(Turns([(9, Turn(NOW, NOW))], first=7)) == 10


@given(st.lists(st.sampled_from(["ask", "repeat", "leave", "answer", "crash"]), max_size=60))
def test_no_picture_is_made_while_one_is_left(steps: list[str]) -> None:
    """Whatever comes: a new ordinal is begun only where no other is free, and no first try is given one twice."""
    turns, waiting, begun, given_ones = Turns(), [], set(), set()
    for step in steps:
        if step == "crash":
            turns = Turns([(each, Turn(NOW, NOW if each in given_ones else None)) for each in sorted(begun)])
            waiting = []
        elif step in ("ask", "repeat"):
            free = begun - given_ones - set(waiting)
            ordinal = taken(turns, repeat=step == "repeat")
            assert ordinal in free or not free
            assert step == "repeat" or ordinal not in given_ones | set(waiting)
            begun.add(ordinal)
            waiting.append(ordinal)
        elif waiting:
            ordinal = waiting.pop(0)
            if step == "answer":
                turns.give(ordinal, NOW)
                given_ones.add(ordinal)
            turns.leave(ordinal)
    assert begun == set(range(len(begun)))
