"""The panel that a terminal shows while a batch runs: what is drawn, and how lines of text get past it whole."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from types import TracebackType
from typing import Self

from rich.box import ROUNDED
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.text import Text

from .. import AccountProgress, Progress, Result
from .library import clean, one_line, shown
from .wording import amount, duration, eta_text, rate_text

REFRESH = 0.25
"""Seconds between two looks at least."""

SHARE = 0.01
"""Of a processor that the panel may take: what a look has cost decides how long the next one waits."""

LONGEST = 2.0
"""Seconds between two looks at most, however many jobs there are to look at."""

AT_MOST = 1 << 16
"""Characters of lines that wait for a look."""

RECENT = 4
"""Prompts shown of those that finished last."""

_COLOURS = {"ready": "green", "limited": "yellow", "paused": "yellow", "stopped": "red"}


class LivePanel:
    """The panel on stderr, from entering to leaving; between, `look` draws it anew.

    Lines that the program prints meanwhile, on stderr or on a stdout that is a terminal, too, are kept until the next
    look and come out whole above the panel.

    Args:
        snapshot: Tells how the batch stands.
        title: What runs.
    """

    def __init__(self, snapshot: Callable[[], Progress], title: str) -> None:
        self._snapshot = snapshot
        self._title = title
        self._drawn: RenderableType = ""
        self._console = Console(file=sys.stderr)
        # Drawn when we look: not in a thread of its own, and not at each line, which would cost all of the time.
        self._live = Live(self, console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        self._lines = _Lines(self._flush)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._live)
            # Once more at the end: what stays on the screen is how it ended.
            stack.callback(self.look)
            # Else it is for data, and on its way elsewhere.
            if sys.stdout.isatty():
                stack.enter_context(redirect_stdout(self._lines))
            stack.enter_context(redirect_stderr(self._lines))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.finish()
        self._stack.close()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._drawn

    def look(self) -> float:
        """Draw how the batch stands; returns the seconds after which the next look is worth what it costs."""
        # Its own work alone: what else the machine does meanwhile is not to slow it down.
        began_at = time.thread_time()
        self._drawn = draw(self._snapshot(), self._title, self._console.width)
        if not self._flush():
            self._live.refresh()
        return min(LONGEST, max(REFRESH, (time.thread_time() - began_at) / SHARE))

    def _flush(self) -> bool:
        """Print the lines that wait, and the panel below them; False where there are none."""
        lines = self._lines.take()
        if lines:
            # Not cut to the terminal: a path is printed whole.
            self._console.print(_Raw(lines), end="", crop=False)
        return bool(lines)


class _Lines(io.TextIOBase):
    """Where lines wait until they can be shown; `flush_all` shows them when they are too many."""

    def __init__(self, flush_all: Callable[[], object]) -> None:
        self._pieces: list[str] = []
        self._size = 0
        self._flush_all = flush_all

    def writable(self) -> bool:
        """True: that is what it is for."""
        return True

    def write(self, text: str) -> int:
        """Keep what is printed."""
        self._pieces.append(text)
        self._size += len(text)
        if self._size > AT_MOST:
            self._flush_all()
        return len(text)

    def take(self) -> str:
        """The whole lines so far."""
        whole, newline, rest = "".join(self._pieces).rpartition("\n")
        self._pieces, self._size = [rest], 0
        return whole + newline

    def finish(self) -> None:
        """End a line that was not ended: nothing comes after it."""
        text = "".join(self._pieces)
        self._pieces = [text if not text or text.endswith("\n") else f"{text}\n"]


class _Raw:
    """Text that goes out as it is: rich would take it apart, at a price for each line."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Segment(self._text)


def draw(progress: Progress, title: str, width: int) -> RenderableType:
    """What the panel shows, in a terminal of so many columns."""
    inner = max(8, width - 4)
    lines = [
        *_flow(_counts(progress), inner),
        *_flow(_times(progress), inner),
        *_flow(_credits(progress), inner),
        *(line for account in progress.accounts for line in _account(account, inner)),
        *(_result(result, inner) for result in reversed(progress.recent[-RECENT:])),
    ]
    heading = _cut(Text(clean(title)), inner - 4)
    return Panel(Group(_bar(progress, inner), *lines), box=ROUNDED, title=heading, title_align="left")


def _flow(items: Iterable[Text], width: int, indent: str = "") -> Iterator[Text]:
    """Items in lines, as many in each as fit; an item that is too long for a line is cut."""
    line = Text()
    for item in items:
        if line and line.cell_len + 3 + item.cell_len > width:
            yield _cut(line, width)
            line = Text(indent)
        line = Text.assemble(line, "" if line.plain in ("", indent) else "   ", item)
    yield _cut(line, width)


def _cut(text: Text, width: int) -> Text:
    text.no_wrap = True
    text.truncate(width, overflow="ellipsis")
    return text


def _bar(progress: Progress, width: int) -> RenderableType:
    finished = progress.done + progress.failed
    if progress.total is None:
        return Text(f"{finished:,} finished, {progress.pulled:,} taken from the input")
    # Tasks that an earlier run left are finished too, also where this input does not have them.
    total = max(progress.total, finished)
    text = f" {finished:,} of {total:,}  {finished / total if total else 1.0:4.0%}"
    if width - len(text) < 4:
        return _cut(Text(text.strip()), width)
    # rich's own colour for what is under way is a red, as if something were wrong.
    bar = ProgressBar(
        total or 1,
        finished if total else 1,
        width=width - len(text),
        complete_style="cyan",
        finished_style="green",
    )
    return _Row(bar, text)


class _Row:
    """A bar and the text behind it."""

    def __init__(self, bar: ProgressBar, text: str) -> None:
        self._bar = bar
        self._text = text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._bar
        yield Text(self._text)


def _counts(progress: Progress) -> Iterator[Text]:
    """How many requests are where. `held`: their create's answer was lost."""
    for number, word, colour in (
        (progress.queued, "queued", ""),
        (progress.submitting, "submitting", ""),
        (progress.running, "running", "cyan"),
        (progress.done, "done", "green"),
        (progress.failed - progress.unknown, "failed", "red"),
        (progress.held + progress.unknown, "held", "yellow"),
    ):
        style = f"bold {colour}".strip() if number else "dim"
        yield Text.assemble((f"{number:,}", style), (f" {word}", "" if number else "dim"))
    if progress.saving:
        yield Text(f"{progress.saving:,} saving")
    if progress.earlier:
        yield Text(f"{progress.earlier:,} of an earlier run")


def _times(progress: Progress) -> Iterator[Text]:
    yield Text(f"{duration(progress.elapsed)} so far")
    yield Text(eta_text(progress))
    yield Text(f"{progress.rate:.1f} finished/s")
    if progress.latency is not None and progress.latency_p95 is not None:
        yield Text(f"latency {progress.latency:.1f} s, p95 {progress.latency_p95:.1f} s")
    if progress.calls_per_task is not None:
        yield Text(f"{progress.calls_per_task:.1f} status calls a task")


def _credits(progress: Progress) -> Iterator[Text]:
    projected = "unknown" if progress.projected is None else amount(progress.projected)
    yield Text(f"credits: {amount(progress.credits)} spent")
    yield Text(f"{amount(progress.reserved)} reserved")
    yield Text(f"{projected} projected")


def _account(account: AccountProgress, width: int) -> Iterator[Text]:
    colour = _COLOURS[account.state]
    items = [
        Text.assemble(("● ", colour), (clean(account.name), "bold"), " ", (account.state, colour)),
        Text(f"{account.rate:.1f}/s {rate_text(account.limit)}"),
        Text(f"{account.running:,} running"),
        Text(f"{account.done:,} done"),
        Text(f"{amount(account.credits)} credits"),
    ]
    yield from _flow(items, width, indent="  ")
    if account.error is not None:
        yield _cut(Text(f"  {clean(account.error.message)}", style="red"), width)


def _result(result: Result, width: int) -> Text:
    took = "" if result.latency is None else f"{result.latency:.1f} s  "
    # The user's own: Persian, Hindi and emoji need their joiners.
    prompt = one_line(result.request.prompt[:500], joiners=True)
    if result.error is None:
        return _cut(Text.assemble(("✓ ", "green"), (took, "dim"), prompt), width)
    why = f"{type(result.error).__name__}: {clean(result.error.message)}"
    return _cut(Text.assemble(("✗ ", "red"), (took, "dim"), shown(prompt, width // 3), "  ", (why, "red")), width)
