"""The plots of a service's page: well-formed and within their frame, whatever the figures."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inner import MINUTES, Minute

from imagen_async.service._plots import HEIGHT, KEYS, WIDTH, plots_of, short

SVG = "{http://www.w3.org/2000/svg}"
ATTRIBUTES = {
    *("viewBox", "role", "aria-labelledby", "id", "x", "y", "d", "text-anchor", "font-size", "fill", "fill-opacity"),
    *("stroke", "stroke-width", "stroke-linejoin", "stroke-dasharray"),
}
NUMBER = st.one_of(st.floats(), st.integers(-(10**30), 10**30), st.just(0))
MINUTE = st.builds(Minute, NUMBER, NUMBER, st.none() | NUMBER, st.none() | NUMBER)


def elements(minutes: Sequence[Minute]) -> dict[str, ElementTree.Element]:
    """The plots, read."""
    return {key: ElementTree.fromstring(text) for key, text in plots_of(minutes).items()}


def words(plot: ElementTree.Element) -> list[str]:
    """What it says, the title first."""
    return [text for text in (each.text for each in plot.iter()) if text]


def bars(plot: ElementTree.Element) -> int:
    """How many bars it has."""
    whole = [each for each in plot if each.get("fill") == "var(--plot, currentColor)" and not each.get("fill-opacity")]
    return sum(each.get("d", "").count("z") for each in whole)


@given(st.lists(MINUTE, max_size=MINUTES + 5))
def test_any_figures_make_a_plot(minutes: list[Minute]) -> None:
    """Only SVG's own elements, no style, script, address or colour of their own, all of it within the frame."""
    for key, plot in elements(minutes).items():
        assert plot.tag == f"{SVG}svg"
        assert {each.tag.removeprefix(SVG) for each in plot.iter()} <= {"svg", "title", "path", "text"}
        assert {name for each in plot.iter() for name in each.attrib} <= ATTRIBUTES
        assert plot[0].tag == f"{SVG}title"
        assert plot.get("aria-labelledby") == plot[0].get("id") == f"plot-{key}"
        for each in plot:
            assert each.get("fill", "none") in ("none", "currentColor") or "currentColor" in each.get("fill", "")
            assert 0 <= float(each.get("x", 0)) <= WIDTH
            assert 0 <= float(each.get("y", 0)) <= HEIGHT
            _check_path(each.get("d", ""))


def _check_path(path: str) -> None:
    """Every place of a path is in the frame, and a number."""
    for command, numbers in re.findall(r"([MLHVhvz])([^MLHVhvz]*)", path):
        values = [float(number) for number in numbers.split()]
        assert len(values) == {"M": 2, "L": 2, "z": 0}.get(command, 1)
        if command.isupper():
            x, y = values if len(values) == 2 else values * 2
            assert 0 <= x <= WIDTH
            assert 0 <= y <= HEIGHT or command == "H"
    assert "nan" not in path
    assert "inf" not in path


@pytest.mark.parametrize("minutes", [[], [Minute()], [Minute()] * MINUTES], ids=["none", "one", "zeros"])
def test_without_figures_it_says_so(minutes: list[Minute]) -> None:
    """An empty plot has its axes and says that there was nothing, to those who see it and to those who hear it."""
    for plot in elements(minutes).values():
        assert "none in two hours" in words(plot)
        assert words(plot)[0].endswith(": none in the last two hours.")
        assert words(plot)[1:3] != []
        assert bars(plot) == 0


def test_one_minute_is_seen() -> None:
    """A single point is a bar or a stroke at the right end, and is told in words."""
    plots = elements([Minute(1, 8.0, 12.0, 14.0)])
    assert [bars(plots[key]) for key in KEYS] == [1, 0, 1]
    strokes = [each.get("d", "") for each in plots["latency"] if each.get("stroke-width") == "1.5"]
    assert re.fullmatch(r"M335\.8 [\d.]+h2", strokes[-1])
    assert words(plots["pictures"])[0] == "Pictures a minute in the last two hours: 1 at most, 1 in this minute."
    assert words(plots["latency"])[0] == (
        "Seconds a task took in the last two hours: 14 s at most, of late half within 12 s, and 95 % within 14 s."
    )
    assert {"0", "1", "2", "2 h ago", "1 h ago", "now"} <= set(words(plots["pictures"]))
    assert {"0", "10 s", "20 s", "median", "to 95 %"} <= set(words(plots["latency"]))


def test_each_minute_with_pictures_has_a_bar() -> None:
    """Nothing is no bar; a little beside a lot is one that can be seen. A line breaks where there is no figure."""
    minutes = [Minute(10**6 if number == 5 else number % 2, 0.0, 1.0 if number % 10 else None) for number in range(60)]
    plots = elements(minutes)
    assert bars(plots["pictures"]) == 30
    line = [each.get("d", "") for each in plots["latency"] if each.get("stroke-width") == "1.5"][-1]
    assert line.count("M") == 6


def test_bars_are_as_high_as_their_figures() -> None:
    """The top of the axis is the plot's, the half of it the middle; and the bars of the latency begin at its line."""
    plots = elements([Minute(10, 4.0, 10.0, 20.0), Minute(5, 1.0, 5.0, 5.0)])
    paths = [[each.get("d", "") for each in plots[key] if each.tag == f"{SVG}path"] for key in KEYS]
    assert paths[0][-1] == "M333.4 128.0V34.0h1.8V128.0zM335.9 128.0V81.0h1.8V128.0z"
    assert paths[2][-1] == "M333.4 128.0V34.0h1.8V128.0zM335.9 128.0V104.5h1.8V128.0z"
    assert paths[1][-2:] == ["M333.4 81.0V34.0h1.8V81.0z", "M333.2 81.0h2L336.8 104.5"]


@given(st.floats(0, 1e15))
def test_a_number_has_room_beside_its_axis(value: float) -> None:
    """At most six characters, and not far from what it is."""
    text = short(value)
    assert len(text) <= 6
    sizes = {"k": 1e3, "M": 1e6, "bn": 1e9, "tn": 1e12}
    found = re.fullmatch(r"([\d.,e+-]+?)(k|M|bn|tn)?", text)
    assert found is not None
    read = float(found[1].replace(",", "")) * sizes.get(found[2], 1)
    assert read == pytest.approx(value, rel=0.006 if value >= 0.01 else 0.5, abs=1e-300)
