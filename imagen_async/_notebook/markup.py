"""How results and batches read as HTML, for notebooks. Whatever comes from outside is escaped."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .._core.values import Result

Pictures = Callable[[Result], list[str]]
"""Gives a result's pictures as addresses that a page can show, as far as they can be had."""

_FIGURE = "display:inline-block;vertical-align:top;width:{width}px;margin:0 12px 12px 0;overflow-wrap:anywhere"
_QUIET = "opacity:.7;font-size:85%"
_BAD = "color:#c62828"


def escaped(text: str) -> str:
    """A text as a page writes it."""
    from html import escape  # only here: few programs are notebooks

    return escape(text)


def figure(result: Result, pictures: Pictures, width: int = 256) -> str:
    """A result: its pictures, or why there are none; its prompt; its figures."""
    images = "".join(f'<img src="{escaped(src)}" alt="" style="width:100%">' for src in pictures(result))
    error = result.error
    why = "" if error is None else f'<div style="{_BAD}">{escaped(f"{type(error).__name__}: {error.message}")}</div>'
    prompt = f"<div>{escaped(result.request.prompt)}</div>"
    figures = f'<div style="{_QUIET}">{escaped(" · ".join(_figures(result)))}</div>'
    return f'<div style="{_FIGURE.format(width=width)}">{images}{why}{prompt}{figures}</div>'


def _figures(result: Result) -> list[str]:
    figures = [result.model, result.provider]
    if result.request.seed is not None:
        figures.append(f"seed {result.request.seed}")
    if result.credits is not None:
        figures.append(f"{result.credits:g} credits")
    if result.latency is not None:
        figures.append(f"{result.latency:.1f} s")
    return [*filter(None, figures), *map(str, result.files)]


def contact_sheet(results: Sequence[Result], pictures: Pictures, more: int) -> str:
    """Many results, small; `more` says how many are not shown."""
    sheet = "".join(figure(result, pictures, 160) for result in results)
    note = f'<div style="{_QUIET}">and {more:,} before these</div>' if more else ""
    return f"<div>{sheet}</div>{note}"
