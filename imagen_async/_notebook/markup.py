"""How results and batches read as HTML, for notebooks. Whatever comes from outside is escaped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from .._core.values import ImageFile, Result

Thumbnail = Callable[[ImageFile], str | None]
"""Gives a small form of a picture as an address that a page can show, or None where the file is not there."""

_FIGURE = "display:inline-block;vertical-align:top;width:{width}px;margin:0 12px 12px 0;overflow-wrap:anywhere"
_QUIET = "opacity:.7;font-size:85%"
_BAD = "color:#c62828"


def figure(result: Result, thumbnail: Thumbnail, width: int = 256) -> str:
    """A result: its pictures, or why there are none; its prompt; its figures."""
    images = "".join(f'<img src="{escape(src)}" alt="" style="width:100%">' for src in _sources(result, thumbnail))
    error = result.error
    why = "" if error is None else f'<div style="{_BAD}">{escape(f"{type(error).__name__}: {error.message}")}</div>'
    prompt = f"<div>{escape(result.request.prompt)}</div>"
    figures = f'<div style="{_QUIET}">{escape(" · ".join(_figures(result)))}</div>'
    return f'<div style="{_FIGURE.format(width=width)}">{images}{why}{prompt}{figures}</div>'


def _sources(result: Result, thumbnail: Thumbnail) -> list[str]:
    """Of the files, where there are any; else where the provider has them, for as long as it has."""
    if result.files:
        return [src for src in map(thumbnail, result.files) if src is not None]
    # Whatever else a provider calls a URL is not put into a page.
    return [url for url in result.urls if url.startswith(("https://", "http://"))]


def _figures(result: Result) -> list[str]:
    figures = [result.model, result.provider]
    if result.request.seed is not None:
        figures.append(f"seed {result.request.seed}")
    if result.credits is not None:
        figures.append(f"{result.credits:g} credits")
    if result.latency is not None:
        figures.append(f"{result.latency:.1f} s")
    return [*filter(None, figures), *map(str, result.files)]


def contact_sheet(results: Sequence[Result], thumbnail: Thumbnail, more: int) -> str:
    """Many results, small; `more` says how many are not shown."""
    sheet = "".join(figure(result, thumbnail, 160) for result in results)
    note = f'<div style="{_QUIET}">and {more:,} before these</div>' if more else ""
    return f"<div>{sheet}</div>{note}"
