"""How a batch shows on stderr: a live panel on a terminal, a plain line now and then elsewhere, nothing when quiet."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Any

import anyio

from .. import AccountProgress, Progress
from .library import shown
from .terminal import has_room
from .wording import amount, eta_text, rate_text, say

PLAIN_EVERY = 10.0
"""Seconds between two plain lines."""


Show = Callable[[Callable[[], Progress]], Coroutine[Any, Any, None]]
"""Shows what it is given, until it is cancelled."""


def display(title: str, *, quiet: bool) -> Show | None:
    """What shows the progress here, as a task that runs until it is cancelled; None for nothing."""
    if quiet:
        return None
    show = _panel_of(title) if sys.stderr.isatty() else _show_lines
    return partial(_show_alone, show)


async def _show_alone(show: Show, look: Callable[[], Progress]) -> None:
    """Show it; whatever goes wrong with that ends nothing else."""
    try:
        await show(look)
    except Exception as error:
        say(f"The progress is not shown any more: {type(error).__name__}: {error}")


def _panel_of(title: str) -> Show:
    from .panel import LivePanel  # only here: elsewhere rich is not needed

    async def show(look: Callable[[], Progress]) -> None:
        terminal = sys.stderr
        with LivePanel(look, title) as panel:
            while True:
                # A terminal that stands still, as after Ctrl-S, needs no more of what it has not shown yet.
                pause = panel.look() if has_room(terminal) else PLAIN_EVERY
                await anyio.sleep(pause)

    return show


async def _show_lines(look: Callable[[], Progress]) -> None:
    while True:
        await anyio.sleep(PLAIN_EVERY)
        snapshot = look()
        total = "" if snapshot.total is None else f" of {snapshot.total:,}"
        line = f"{snapshot.done + snapshot.failed:,}{total} finished, {figures(snapshot)}"
        print(line, *(f"  {line}" for line in _account_lines(snapshot)), sep="\n", file=sys.stderr, flush=True)


def _account_lines(snapshot: Progress) -> Iterator[str]:
    """A line for each account, where there are several or one is in trouble."""
    for account in snapshot.accounts:
        if len(snapshot.accounts) > 1 or account.state != "ready":
            yield account_text(account)


def account_text(account: AccountProgress) -> str:
    """How an account fares."""
    counts = f"{account.running:,} running, {account.done:,} done, {amount(account.credits)} credits"
    why = "" if account.error is None else f"; {shown(account.error.message, 100)}"
    return f"{account.name}: {account.state}, {account.rate:.1f}/s {rate_text(account.limit)}, {counts}{why}"


def figures(snapshot: Progress) -> str:
    """How far the batch is, in a line."""
    counts = [f"{snapshot.done:,} done", f"{snapshot.failed:,} failed", f"{snapshot.running:,} running"]
    if snapshot.held:
        counts.append(f"{snapshot.held:,} waiting for a callback")
    parts = [*counts, f"{snapshot.rate:.1f}/s"]
    if snapshot.eta is not None or snapshot.is_paused:
        parts.append(eta_text(snapshot))
    projected = "" if snapshot.projected is None else f" of {amount(snapshot.projected)}"
    return ", ".join([*parts, f"{amount(snapshot.credits)}{projected} credits"])
