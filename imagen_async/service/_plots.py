"""Three small plots of the last two hours, as SVG that takes its colours from the page around it. Pure.

They have no style and no script of their own, so the strictest policy of a page lets them be: lines and letters are in
`currentColor`, or in the page's `--plot`, `--quiet` and `--line` where it has these.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import msgspec

from ._figures import MINUTES, Minute

WIDTH, HEIGHT = 340, 150
"""Of each plot, in the units of its view box; letters are 11 high."""

_LEFT, _RIGHT, _TOP, _FOOT = 38.0, 338.0, 34.0, 128.0
_STEP = (_RIGHT - _LEFT) / MINUTES

_LARGEST, _SMALLEST = 1e15, 1e-6
"""Beyond these a number is drawn as if it were this: an axis has room for so much."""

_TICKS = (2, 4, 10)
"""What an axis ends with, times a power of ten: the half of each is a round number, too."""

_LETTERS = 'font-size="11" fill="var(--quiet, currentColor)"'
_LINE = 'fill="none" stroke="var(--plot, currentColor)" stroke-width="1.5" stroke-linejoin="round"'
_PALE = 'fill="var(--plot, currentColor)" fill-opacity="0.35"'

_SIZES = ((1e12, 1e12, "tn"), (1e9, 1e9, "bn"), (1e6, 1e6, "M"), (1e4, 1e3, "k"))
"""From where a number is written in thousands and so on."""

Series = list[float | None]


class _Plot(msgspec.Struct, frozen=True):
    """What one plot is of.

    Attributes:
        key: Names it.
        name: In words.
        least: What its axis has room for in any case.
        unit: Of its numbers, after a blank.
        lines: What its line, and the bars above that, stand for; None where it has bars alone.
    """

    key: str
    name: str
    least: float = _SMALLEST
    unit: str = ""
    lines: tuple[str, str] | None = None


_PICTURES = _Plot("pictures", "Pictures a minute", least=2)
_LATENCY = _Plot("latency", "Seconds a task took", unit=" s", lines=("median", "to 95 %"))
_CREDITS = _Plot("credits", "Credits a minute")

KEYS = (_PICTURES.key, _LATENCY.key, _CREDITS.key)
"""The plots' names, in the order in which a page shows them."""


def plots_of(minutes: Sequence[Minute]) -> dict[str, str]:
    """The plots of pictures, latency and credits by the minute.

    Args:
        minutes: The oldest first; the last one is now. Of more than two hours the last two are drawn.

    Returns:
        An `svg` element for each of `KEYS`, well-formed, which names itself to who cannot see it.
    """
    minutes = minutes[-MINUTES:]
    latencies: list[Series] = [[each.median for each in minutes], [each.p95 for each in minutes]]
    return {
        _PICTURES.key: _drawn(_PICTURES, [[each.pictures for each in minutes]]),
        _LATENCY.key: _drawn(_LATENCY, latencies),
        _CREDITS.key: _drawn(_CREDITS, [[each.credits for each in minutes]]),
    }


def _drawn(plot: _Plot, given: Sequence[Series]) -> str:
    series = [[_believed(value) for value in values] for values in given]
    most = max((value for values in series for value in values if value is not None), default=0.0)
    top = _top(max(most, plot.least))
    marks = _lines(series[0], series[1], top) if plot.lines else _bars(series[0], top)
    name = f"plot-{plot.key}"
    return "".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
            f'aria-labelledby="{name}"><title id="{name}">{_told(plot, series, most)}</title>',
            f'<text x="0" y="12" font-size="12" fill="currentColor">{plot.name}</text>',
            *(_key(plot.lines) if plot.lines else ()),
            *_axes(plot, top if most else None),
            *marks,
            "</svg>",
        )
    )


def _axes(plot: _Plot, top: float | None) -> Iterator[str]:
    """Lines at nothing, the half and the top, and what they stand for; None: there is nothing to be measured."""
    for share in (0.0, 0.5, 1.0):
        y = _FOOT - share * (_FOOT - _TOP)
        stroke = 'stroke="var(--line, currentColor)"' + ("" if share == 0 else ' stroke-dasharray="1 3"')
        yield f'<path d="M{_LEFT:g} {y:g}H{_RIGHT:g}" {stroke}/>'
        if top is not None:
            words = f"{short(share * top)}{plot.unit if share else ''}"
            yield f'<text x="{_LEFT - 6:g}" y="{y + 4:g}" text-anchor="end" {_LETTERS}>{words}</text>'
    for x, anchor, words in ((_LEFT, "start", "2 h ago"), (_RIGHT, "end", "now")):
        yield f'<text x="{x:g}" y="{HEIGHT - 6}" text-anchor="{anchor}" {_LETTERS}>{words}</text>'
    middle = (_LEFT + _RIGHT) / 2
    yield f'<text x="{middle:g}" y="{HEIGHT - 6}" text-anchor="middle" {_LETTERS}>1 h ago</text>'
    if top is None:
        y = (_TOP + _FOOT) / 2 - 8
        yield f'<text x="{middle:g}" y="{y:g}" text-anchor="middle" {_LETTERS}>none in two hours</text>'


def _key(names: tuple[str, str]) -> Iterator[str]:
    """What the line and the bars above it are called, each beside a piece of its own."""
    line, bars = names
    # Each text begins beside its piece, whatever the letters' width.
    yield f'<path d="M{_RIGHT - 136:g} 8h12" {_LINE}/><text x="{_RIGHT - 119:g}" y="12" {_LETTERS}>{line}</text>'
    yield f'<path d="M{_RIGHT - 58:g} 13V3h3v10z" {_PALE}/><text x="{_RIGHT - 49:g}" y="12" {_LETTERS}>{bars}</text>'


def _bars(values: Series, top: float) -> Iterator[str]:
    """A bar for each value; what is not nothing is seen."""
    bars = [_bar(x, min(y, _FOOT - 1), _FOOT) for x, y in _places(values, top) if y < _FOOT]
    if bars:
        yield f'<path d="{"".join(bars)}" fill="var(--plot, currentColor)"/>'


def _lines(lower: Series, upper: Series, top: float) -> Iterator[str]:
    """A line for the lower values, from minute to minute, and from it a bar up to each of the upper ones."""
    above = dict(_places(upper, top))
    bars, path, before = "", "", -math.inf
    for x, y in _places(lower, top):
        bars += _bar(x, above[x], y) if above.get(x, y) < y else ""
        # A point that stands alone is a short stroke.
        path += f"L{x:.1f} {y:.1f}" if x - before < 1.5 * _STEP else f"M{x - 1:.1f} {y:.1f}h2"
        before = x
    if path:
        yield f'<path d="{bars}" {_PALE}/><path d="{path}" {_LINE}/>'


def _bar(x: float, high: float, low: float) -> str:
    return f"M{x - 0.35 * _STEP:.1f} {low:.1f}V{high:.1f}h{0.7 * _STEP:.1f}V{low:.1f}z"


def _places(values: Series, top: float) -> Iterator[tuple[float, float]]:
    """Where each value stands that there is; the last one is now."""
    first = _RIGHT - _STEP * (len(values) - 0.5)
    for number, value in enumerate(values):
        if value is not None:
            yield first + number * _STEP, _FOOT - (_FOOT - _TOP) * value / top


def _believed(value: float | None) -> float | None:
    """A number that can be drawn; nothing is below zero, and what is no number is not there."""
    if value is None or math.isnan(value):
        return None
    return float(min(max(value, 0), _LARGEST))


def _top(most: float) -> float:
    """The round number with which an axis ends on which so much must have room."""
    power = 10.0 ** math.floor(math.log10(most / 2))
    return next((tick * power for tick in _TICKS if most <= tick * power), 20 * power)


def _told(plot: _Plot, series: Sequence[Series], most: float) -> str:
    """The plot in words."""
    if not most:
        return f"{plot.name}: none in the last two hours."
    if plot.lines:
        lasts = [next((value for value in reversed(values) if value is not None), 0.0) for values in series]
        last = f"of late half within {short(lasts[0])} s, and 95 % within {short(lasts[1])} s"
    else:
        last = f"{short(series[0][-1] or 0)} in this minute"
    return f"{plot.name} in the last two hours: {short(most)}{plot.unit} at most, {last}."


def short(value: float) -> str:
    """A number in the room that an axis has: `0.5`, `1,200`, `40k`, `2M`."""
    if value >= 0.9995 * _LARGEST or 0 < value < 0.01:
        return f"{value:.0e}".replace("e+", "e").replace("e-0", "e-")
    # Rounded first: what is nearly a thousand of one size is one of the next.
    value = float(f"{value:.3g}") if value >= 9999 else value
    size, name = next(((size, name) for least, size, name in _SIZES if value >= least), (1.0, ""))
    value /= size
    return f"{value:,.0f}{name}" if value >= 100 else f"{value:.3g}{name}"
