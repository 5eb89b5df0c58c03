"""How a batch shows on stderr: a live panel on a terminal, a plain line now and then elsewhere, nothing when quiet."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Any

import anyio

from .. import AccountProgress, Progress
from .library import shown
from .wording import amount, duration

PLAIN_EVERY = 10.0
"""Seconds between two plain lines."""


def display(title: str, *, quiet: bool) -> Callable[[Callable[[], Progress]], Coroutine[Any, Any, None]] | None:
    """What shows the progress here, as a task that runs until it is cancelled; None for nothing."""
    if quiet:
        return None
    return partial(_show_panel, title) if sys.stderr.isatty() else _show_lines


async def _show_panel(title: str, look: Callable[[], Progress]) -> None:
    from .panel import LivePanel  # only here: elsewhere rich is not needed

    with LivePanel(look, title) as panel:
        while True:
            pause = panel.look()
            await anyio.sleep(pause)


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
    limit = f"{account.limit.count} per {account.limit.per:g} s"
    counts = f"{account.running:,} running, {account.done:,} done, {amount(account.credits)} credits"
    why = "" if account.error is None else f"; {shown(account.error.message, 100)}"
    return f"{account.name}: {account.state}, {account.rate:.1f}/s of {limit}, {counts}{why}"


def figures(snapshot: Progress) -> str:
    """How far the batch is, in a line."""
    counts = [f"{snapshot.done:,} done", f"{snapshot.failed:,} failed", f"{snapshot.running:,} running"]
    if snapshot.held:
        counts.append(f"{snapshot.held:,} waiting for a callback")
    parts = [*counts, f"{snapshot.rate:.1f}/s"]
    if snapshot.eta is not None:
        parts.append(f"ETA {duration(snapshot.eta)}")
    projected = "" if snapshot.projected is None else f" of {amount(snapshot.projected)}"
    return ", ".join([*parts, f"{amount(snapshot.credits)}{projected} credits"])
