"""How the command words numbers and places, and where its words go: stderr, for stdout is for data."""

from __future__ import annotations

import sys

from .. import Progress, Result
from .._text import one_line
from ..providers import Rate
from ..providers.served import UNBOUNDED

GONE_TEXT = "gone with the sandbox, which ran inside of the command, and cost nothing"
"""What became of tasks in a sandbox of the command's own, which ends with it."""


def amount(credits: float) -> str:
    """Credits for people: `6,528`, `72.62`."""
    return f"{credits:,.2f}".removesuffix(".00")


def counted(number: int, thing: str) -> str:
    """A number of things: `1 request`, `1,632 requests`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def rate_text(rate: Rate) -> str:
    """A limit, where there is one."""
    return "without a limit" if rate == UNBOUNDED else f"of {rate.count} per {rate.per:g} s"


def duration(seconds: float) -> str:
    """A time for people: `45 s`, `12 min 5 s`, `3 h 20 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"


def eta_text(snapshot: Progress) -> str:
    """When it ends, as far as anybody knows."""
    if snapshot.is_paused:
        return "ETA unknown: paused" if snapshot.eta is None else f"ETA {duration(snapshot.eta)}, paused"
    return f"ETA {'unknown' if snapshot.eta is None else duration(snapshot.eta)}"


def places(result: Result) -> list[str]:
    """Where its pictures are: their paths, or their URLs while they are not saved."""
    return [str(file) for file in result.files] or list(result.urls)


def say(*lines: str) -> None:
    """Tell the person at the terminal; stdout is for data. Whatever a line quotes, it is one line."""
    print(*(one_line(line, joiners=True) for line in lines), sep="\n", file=sys.stderr, flush=True)


def show(*lines: str) -> None:
    """Print data: paths, links, JSON, figures. Whatever a line quotes, it is one line."""
    print(*(one_line(line, joiners=True) for line in lines), sep="\n", flush=True)
