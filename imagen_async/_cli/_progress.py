"""How a batch shows on stderr: a live bar on a terminal, a plain line now and then elsewhere, nothing when quiet."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any

import anyio
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from .._core.resuming import shown
from .._delivery import AccountProgress
from .._delivery import Progress as Snapshot

REFRESH = 0.25
"""Seconds between two looks at a live bar."""

PLAIN_EVERY = 10.0
"""Seconds between two plain lines."""


def display(*, quiet: bool) -> Callable[[Callable[[], Snapshot]], Coroutine[Any, Any, None]] | None:
    """What shows the progress here, as a task that runs until it is cancelled; None for nothing."""
    if quiet:
        return None
    return _show_bar if sys.stderr.isatty() else _show_lines


class _Bar(Progress):
    """A bar, and below it a line for each account where there is more to say than the bar does."""

    lines: tuple[str, ...] = ()

    def get_renderables(self) -> Iterable[RenderableType]:
        """What is drawn."""
        yield from super().get_renderables()
        yield from (Text(f"  {line}", no_wrap=True, overflow="ellipsis") for line in self.lines)


async def _show_bar(look: Callable[[], Snapshot]) -> None:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bar = _Bar(*columns, TextColumn("{task.fields[figures]}"), console=console, redirect_stdout=sys.stdout.isatty())
    with bar:
        task = bar.add_task("pictures", total=look().total, figures="")
        try:
            while True:
                _update(bar, task, look())
                await anyio.sleep(REFRESH)
        finally:
            _update(bar, task, look())


def _update(bar: _Bar, task: TaskID, snapshot: Snapshot) -> None:
    bar.lines = tuple(_account_lines(snapshot))
    bar.update(task, completed=snapshot.done + snapshot.failed, figures=figures(snapshot))


async def _show_lines(look: Callable[[], Snapshot]) -> None:
    while True:
        await anyio.sleep(PLAIN_EVERY)
        snapshot = look()
        total = "" if snapshot.total is None else f" of {snapshot.total:,}"
        line = f"{snapshot.done + snapshot.failed:,}{total} finished, {figures(snapshot)}"
        print(line, *(f"  {line}" for line in _account_lines(snapshot)), sep="\n", file=sys.stderr, flush=True)


def _account_lines(snapshot: Snapshot) -> Iterator[str]:
    """A line for each account, where there are several or one is in trouble."""
    for account in snapshot.accounts:
        if len(snapshot.accounts) > 1 or account.state != "ready":
            yield account_text(account)


def account_text(account: AccountProgress) -> str:
    """How an account fares."""
    limit = f"{account.limit.count} per {account.limit.per:g} s"
    counts = f"{account.running:,} running, {account.done:,} done, {amount(account.credits)} credits"
    why = "" if account.error is None else f"; {shown(account.error.message, 100)}"
    return f"{account.name}: {account.state}, {account.rate:.1f}/s of {limit}, {counts}{why}"


def figures(snapshot: Snapshot) -> str:
    """The figures beside the bar."""
    counts = [f"{snapshot.done:,} done", f"{snapshot.failed:,} failed", f"{snapshot.running:,} running"]
    if snapshot.held:
        counts.append(f"{snapshot.held:,} waiting for a callback")
    parts = [*counts, f"{snapshot.rate:.1f}/s"]
    if snapshot.eta is not None:
        parts.append(f"ETA {duration(snapshot.eta)}")
    return ", ".join([*parts, f"{amount(snapshot.credits)} credits"])


def amount(credits: float) -> str:
    """Credits for people: `6,528`, `72.62`."""
    return f"{credits:,.2f}".removesuffix(".00")


def counted(number: int, thing: str) -> str:
    """A number of things: `1 request`, `1,632 requests`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """A time for people: `45 s`, `12 min 5 s`, `3 h 20 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"


def say(message: str) -> None:
    """Tell the person at the terminal; stdout is for data."""
    print(message, file=sys.stderr, flush=True)
