"""The kinds of fields that a model's record knows: what each takes, how it says so, and what a word means to it."""

from __future__ import annotations

from typing import Any

import inner
import pytest
from conftest import naming
from hypothesis import given
from hypothesis import strategies as st

from imagen_async.providers import Anything, Choice, Either, Fields, File, Flag, Items, Number, Text, Whole

READ: list[tuple[inner.Parameter, str, Any]] = [
    (Text(), "7", "7"),
    (Choice(("1", "2")), "2", "2"),
    (Choice((1, 2)), "2", 2),
    (Whole(), "7", 7),
    (Whole(), "7.5", "7.5"),
    (Whole(), "seven", "seven"),
    (Number(), "7", 7),
    (Number(), "-0.5", -0.5),
    (Number(), "nan", "nan"),
    (Number(), "seven", "seven"),
    (Flag(), "TRUE", True),
    (Flag(), "no", False),
    (Flag(), "maybe", "maybe"),
    (Items(Whole()), "1, 2 3", [1, 2, 3]),
    (Items(Whole()), "[1, 2]", [1, 2]),
    (Items(Whole()), "[1, 2", ["[1", 2]),
    (Items(File()), "a b.png; c,d.png|https://a.example/e,f.png", ["a b.png", "c,d.png", "https://a.example/e,f.png"]),
    (Fields({"x": Whole()}), '{"x": 1}', {"x": 1}),
    (Fields({"x": Whole()}), "x=1", "x=1"),
    (Either((Whole(), Choice(("auto",)))), "auto", "auto"),
    (Either((Whole(), Choice(("auto",)))), "7", 7),
    (Either((Whole(), Choice(("auto",)))), "other", "other"),
    (Anything(), "[1, {}]", [1, {}]),
    (Anything(), "plain", "plain"),
]

TAKEN: list[tuple[inner.Parameter, list[Any], list[Any], str]] = [
    (Whole(minimum=1, maximum=4), [1, 4], [0, 5, 1.5, True, "1", None], "1 to 4"),
    (Number(minimum=0, maximum=1), [0, 0.5, 1], [-0.1, 2, float("nan"), float("inf"), True, "0.5"], "0 to 1"),
    (Flag(), [True, False], [0, 1, "true", None], "true or false"),
    (Choice(("a", "b")), ["a"], ["c", "", None, ["a"]], "a, b"),
    (Items(Whole(), max_items=2, min_items=1), [[1], (1, 2)], [[], [1, 2, 3], ["1"], 1, "12"], "a list"),
    (Items(Whole(), required=True), [[1]], [[]], "a list, each"),
    (
        Fields({"x": Whole(required=True), "y": Flag()}),
        [{"x": 1}, {"x": 1, "y": True}],
        [{}, {"x": "1"}, {"x": 1, "z": 1}, 7],
        "an object of x",
    ),
    (Either((Whole(), Choice(("auto",)))), [7, "auto"], ["other", 1.5], "auto"),
    (Anything(), [1, "x", [], {}], [None], "any JSON"),
]


@pytest.mark.parametrize(("parameter", "word", "value"), READ)
def test_what_a_word_means(parameter: inner.Parameter, word: str, value: Any) -> None:
    """A word of a command line, or a cell of a table, is read as the field wants it, or left as it is."""
    found = parameter.read(word)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(("parameter", "good", "bad", "allowed"), TAKEN)
def test_what_it_takes(parameter: inner.Parameter, good: list[Any], bad: list[Any], allowed: str) -> None:
    """And what it does not; the message says what would be taken."""
    for values, is_taken in ((good, True), (bad, False)):
        for value in values:
            with naming(value):
                assert parameter.takes(value) is is_taken
    assert allowed in parameter.allowed


@given(word=st.text(max_size=40))
def test_no_word_is_too_odd_to_be_read(word: str) -> None:
    """What it is none of stays what it was, to be refused with its own words."""
    for parameter, *_ in READ:
        value = parameter.read(word)
        assert value == word or not isinstance(value, str) or parameter.takes(value)


@given(value=st.integers(-(10**9), 10**9) | st.booleans() | st.floats(-1e9, 1e9))
def test_what_is_written_is_read_again(value: float) -> None:
    """A number or a truth value, as Python and JSON write it."""
    parameter = Flag() if isinstance(value, bool) else Whole() if isinstance(value, int) else Number()
    assert parameter.read(str(value)) == value
