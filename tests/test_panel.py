"""The progress of a batch: the panel in a real terminal, its figures, its cost, and the plain lines elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import html
import io
import itertools
import os
import pty
import re
import struct
import sys
import termios
from collections.abc import Iterator
from fcntl import ioctl
from pathlib import Path
from typing import Any

import anyio
import pyte
import pytest
from browsing import browser, take_picture
from commands import at, clean_environment, fare, finish, foxes, prompt_file, standing, start
from conftest import naming
from rich.console import Console
from virtual_network import Network, batch_over, scheduler_over

from imagen_async import (
    Client,
    GenerationFailed,
    ImagenError,
    ImageRequest,
    JournalError,
    Limits,
    Progress,
    Rate,
    RateLimited,
    Result,
)
from imagen_async._cli.panel import REFRESH, LivePanel, draw
from imagen_async._cli.progress import display
from imagen_async.providers import PROVIDERS
from imagen_async.sandbox import Latency, Sandbox
from imagen_async.testing import VirtualTimeLoop, running_sandbox

__all__ = ["clean_environment"]

CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def drawn(progress: Progress, width: int, title: str = "imagen-async: prompts.txt → out") -> list[str]:
    """The panel's lines, as plain text."""
    text = io.StringIO()
    Console(file=text, width=width).print(draw(progress, title, width))
    return text.getvalue().split("\n")[:-1]


def a_result(prompt: str, error: ImagenError | None = None) -> Result:
    """What came of a prompt."""
    return Result("k", 0, ImageRequest(prompt), "kie", "imagen4", error=error, latency=None if error else 12.3)


def test_the_panel_has_every_figure_at_any_width() -> None:
    """Counts, rate and limit, latency, calls, credits, ETA, health and prompts are whole, in 60 columns as in 200."""
    words = (
        *("10 queued", "1 submitting", "9 running", "1,200 done", "2 failed", "3 held", "2 saving"),
        *("5 of an earlier run", "1,203 of 1,632", "74%", "1 min 0 s so far", "ETA 21 s", "20.0 finished/s"),
        *("latency 12.1 s, p95 19.8 s", "1.1 status calls a task", "credits: 9,624 spent", "72 reserved"),
        *("13,056 projected", "kie ready", "2.0/s of 20 per 10 s", "9,624 credits", "mine stopped", "no credit left"),
        *("12.3 s  a red fox", "GenerationFailed: too dark", "imagen-async: prompts.txt → out"),
    )
    recent = (a_result("a bat", GenerationFailed("too dark")), a_result("a red fox"))
    accounts = (fare("kie"), fare("mine", state="stopped", error=ImagenError("no credit left")))
    progress = standing(unknown=1, held=2, saving=2, earlier=5, accounts=accounts, recent=recent)
    for width in (60, 80, 140, 200):
        lines = drawn(progress, width)
        assert {len(line) for line in lines} == {width}
        assert [word for word in words if not any(word in line for line in lines)] == [], width
    text = "".join(lines)
    assert text.index("a red fox") < text.index("a bat"), "the newest comes first"


def test_the_panel_says_what_it_does_not_know() -> None:
    """Without a length there is no ETA and no projection, without results no latency; an empty input is all done."""
    text = "".join(drawn(standing(total=None, eta=None, projected=None, latency=None, latency_p95=None), 80))
    told = ("ETA unknown", "unknown projected", "1,203 finished, 40 taken from the input")
    assert [word for word in told if word not in text] == []
    assert "latency" not in text
    assert "0 of 0  100%" in "".join(drawn(standing(total=0, done=0, failed=0), 80))
    assert "1,203 of 1,203  100%" in "".join(drawn(standing(total=100), 80)), "with what an earlier run has left"


def test_odd_prompts_and_narrow_terminals_keep_the_panel_whole() -> None:
    """Whatever is too long is cut to its line, from ten columns on, and no control character gets through."""
    height = len(drawn(standing(recent=(a_result("x"),)), 80))
    for prompt in ("猫" * 300, "two\nlines\x1b[2J", "", "word " * 200, "[bold]x[/bold]", "👩‍👩‍👧‍👦" * 50):
        for error in (None, GenerationFailed("because\n" * 40 + "[red]")):
            lines = drawn(standing(recent=(a_result(prompt, error),)), 80, "a\x1b]0;title\x07b\x9b2J" + "x" * 200)
            assert len(lines) == height, prompt
            assert not CONTROLS.search("".join(lines))
            assert error is not None or "[bold]x[/bold]" not in prompt or any(prompt in line for line in lines)
    for width in range(10, 40):
        lines = drawn(standing(total=1_632_000, recent=(a_result("a red fox"),)), width)
        assert {len(line) for line in lines} == {width}


class Terminal:
    """A terminal of so many columns and 40 lines, in which a program runs; `lines` is all that it has ever shown."""

    def __init__(self, columns: int) -> None:
        self.screen = pyte.HistoryScreen(columns, 40, history=10_000)
        self._stream = pyte.ByteStream(self.screen)
        self._ours, self.end = pty.openpty()
        ioctl(self.end, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self.raw = bytearray()

    def read(self, until: bytes = rb"\Z.") -> None:
        """Show what comes, until it has a match of this, or to the end."""
        with contextlib.suppress(OSError):  # how a terminal says that nobody writes to it any more
            while not re.search(until, self.raw) and (piece := os.read(self._ours, 65536)):
                self.raw += piece
                self._stream.feed(piece)

    def close(self) -> None:
        """Close it once the program has ended."""
        os.close(self._ours)

    @property
    def lines(self) -> list[str]:
        """What has scrolled off, and what is on the screen."""
        above = ["".join(line[x].data for x in range(self.screen.columns)) for line in self.screen.history.top]
        return "\n".join(line.rstrip() for line in (*above, *self.screen.display)).rstrip().split("\n")

    def page(self) -> str:
        """The screen as a page with its colours, for a picture."""
        rows = ("".join(_cell(self.screen.buffer[y][x]) for x in range(self.screen.columns)) for y in range(40))
        style = "background:#111;color:#ddd;font:14px/1.2 'DejaVu Sans Mono',monospace;margin:0;padding:8px"
        return f'<pre style="{style}">{"<br>".join(rows)}</pre>'


def _cell(cell: Any) -> str:
    colour = {"default": "inherit", "brown": "#dd0"}.get(cell.fg, cell.fg)
    colour = f"#{colour}" if re.fullmatch("[0-9a-f]{6}", colour) else colour
    return f'<span style="color:{colour};font-weight:{"bold" * cell.bold}">{html.escape(cell.data)}</span>'


@contextlib.contextmanager
def terminal(columns: int) -> Iterator[Terminal]:
    """A terminal that is closed at the end."""
    opened = Terminal(columns)
    try:
        yield opened
    finally:
        opened.close()


ALLOWED = re.compile(
    r"out-\d+/\d{6}-fox-number-\d+\.png"
    r"|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO sandbox: '[\w-]+' (runs as task \w{32} of imagen4: 'fox number \d+'"
    r"|is done after \d+\.\d s, 8 credits: out-\d+/\d{6}-fox-number-\d+\.png)"
    r"|[╭│╰].*[╮│╯]"
    r"|60 done, 0 failed; 480 credits in \d+ s"
)


@pytest.mark.slow
def test_the_panel_in_a_terminal_tears_no_line() -> None:
    """At full speed, with log and paths on the same terminal, every line is whole and the panel is there once."""
    limits, pages = Limits(Rate(40, per=0.5), Rate(500, per=1), 80), {}
    with running_sandbox(Sandbox(latency=Latency(0.4, minimum=0.1), limits=limits)) as sandbox:
        for columns in (80, 140):
            with naming(columns):
                lines, pages[columns] = _shown(columns, foxes(60), sandbox)
                assert [line for line in lines if not ALLOWED.fullmatch(line)] == []
                for mark, count in (("^out-", 60), (" runs as task ", 60), (" is done after ", 60), ("^╭", 1)):
                    assert sum(bool(re.search(mark, line)) for line in lines) == count, mark
                assert any("60 of 60  100%" in line for line in lines)
    if "SCREENSHOTS" in os.environ:
        with browser() as chromium:
            for columns, midst in pages.items():
                page = chromium.new_page(viewport={"width": columns * 9 + 16, "height": 700})
                page.set_content(midst)
                take_picture(page, f"panel-{columns}")


def _shown(columns: int, prompts: str, sandbox: Sandbox) -> tuple[list[str], str]:
    """What a batch has shown in a terminal, line by line, and the screen in the midst of it as a page."""
    words = ["batch", prompts, *at(sandbox), "--rate", "40/0.5", "-o", f"out-{columns}", "-v"]
    with terminal(columns) as shown:
        env = {"TERM": "xterm-256color", "COLUMNS": "", "LINES": ""}
        process = start(*words, env=env, stdout=shown.end, stderr=shown.end)
        os.close(shown.end)
        shown.read(until="[2-5]\\d of 60(?s:.*?)╯".encode())
        midst = shown.page()
        shown.read()
        assert finish(process).code == 0
    return _unwrapped(shown.lines, columns), midst


def _unwrapped(lines: list[str], columns: int) -> list[str]:
    """Put together again the log lines that the terminal has broken at its edge."""
    whole: list[str] = []
    for line in lines:
        if whole and re.match(r"\d{4}-", whole[-1]) and not ALLOWED.fullmatch(whole[-1]):
            # A space at the edge is one, and not the end of the line.
            whole[-1] = whole[-1].ljust(-(-len(whole[-1]) // columns) * columns) + line
        else:
            whole.append(line)
    return whole


@pytest.mark.parametrize("quiet", [False, True])
def test_the_panel_is_on_a_terminal_and_on_stderr_only(imagen_sandbox: Sandbox, quiet: bool) -> None:
    """On a terminal stderr shows the panel, with `--quiet` the summary alone; stdout is the same paths both times."""
    words = ["batch", prompt_file("a fox", "a dog"), *at(imagen_sandbox), "-o", "out", *(["--quiet"] if quiet else [])]
    with terminal(120) as shown:
        process = start(*words, env={"TERM": "xterm", "COLUMNS": "120"}, stderr=shown.end)
        os.close(shown.end)
        shown.read()
        outcome = finish(process)
    assert (outcome.code, sorted(outcome.lines)) == (0, ["out/000000-a-fox.png", "out/000001-a-dog.png"])
    *panel, summary = shown.lines
    assert summary.startswith("2 done, 0 failed; 16 credits in ")
    assert (panel == [], b"\x1b" in shown.raw) == (quiet, not quiet)
    told = ("prompts.txt → out", "2 of 2  100%", "0 failed", "credits: 16 spent", "a dog")
    assert quiet or [word for word in told if word not in "".join(panel)] == []


def test_lines_without_an_end_come_out_at_the_end(capfd: pytest.CaptureFixture[str]) -> None:
    """What was printed and not ended is kept until it is, or until the panel goes; nothing is lost to an error."""
    with pytest.raises(KeyError), LivePanel(standing, "x") as panel:
        sys.stderr.write("half")
        assert panel.look() >= REFRESH
        assert "half" not in capfd.readouterr().err
        sys.stderr.write(" of it\nand more")
        panel.look()
        assert "half of it\n" in capfd.readouterr().err
        raise KeyError
    assert "and more\n" in capfd.readouterr().err


def test_many_lines_wait_no_longer_than_a_look(capfd: pytest.CaptureFixture[str]) -> None:
    """Lines are kept for the next look up to a size, in their order; a long wait loses none and costs no more each."""
    with LivePanel(standing, "x"):
        for number in range(5000):
            sys.stderr.write(f"line number {number}\n")
        early = capfd.readouterr().err
        assert 3000 < early.count("line number") < 5000
    lines = [line for line in (early + capfd.readouterr().err).splitlines() if line.startswith("line number")]
    assert lines == [f"line number {number}" for number in range(5000)]


WHOLE = "1,203 of 1,632 finished, 1,200 done, 3 failed, 9 running, 20.0/s, ETA 21 s, 9,624 of 13,056 credits"
KIE = "  kie: ready, 2.0/s of 20 per 10 s, 9 running, 1,200 done, 9,624 credits"
MINE = "  mine: paused, 2.0/s of 20 per 10 s, 9 running, 1,200 done, 9,624 credits; slow down"
PAUSED = fare("mine", state="paused", error=RateLimited("slow down"))


@pytest.mark.parametrize(
    ("snapshot", "lines"),
    [
        (standing(), [WHOLE]),
        (standing(accounts=(fare("kie"), PAUSED)), [WHOLE, KIE, MINE]),
        (standing(accounts=(PAUSED,)), [WHOLE, MINE]),
        (standing(held=2), [WHOLE.replace("9 running,", "9 running, 2 waiting for a callback,")]),
        (standing(total=None, eta=None, projected=None), ["1,203 finished, 1,200 done, 3 failed, 9 running, 20.0/s,"]),
    ],
    ids=["one", "several", "trouble", "held", "unknown"],
)
def test_plain_progress_comes_now_and_then(
    capsys: pytest.CaptureFixture[str], snapshot: Progress, lines: list[str]
) -> None:
    """Where stderr is no terminal, it tells every ten seconds how the batch stands, and each account or its trouble."""
    if snapshot.total is None:
        lines = [f"{lines[0]} 9,624 credits"]

    async def watch() -> None:
        show = display("", quiet=False)
        assert show is not None
        with anyio.move_on_after(35):
            await show(lambda: snapshot)

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(watch())
    streams = capsys.readouterr()
    assert (streams.out, streams.err.splitlines()) == ("", lines * 3)
    assert display("", quiet=True) is None


class TestFigures:
    """What a batch says of itself, on virtual time."""

    @pytest.fixture
    def anyio_backend(self) -> tuple[str, dict[str, object]]:
        """These tests run on virtual time."""
        return "asyncio", {"loop_factory": VirtualTimeLoop}

    async def test_money_and_calls_add_up(self) -> None:
        """In the midst what is spent, reserved and yet to be sent makes the projection; at the end all of it is spent.

        The calls, the latencies and the last results are those that the provider saw and made.
        """
        network = Network(PROVIDERS["kie"], latency=Latency(5, sigma=0.3, minimum=1))
        prompts = [f"a fox {number}" for number in range(100)]
        async with scheduler_over(network) as scheduler, batch_over(scheduler, network, prompts, window=200) as batch:
            start = batch.progress
            assert (start.projected, start.latency, start.calls_per_task, start.recent) == (None, None, None, ())
            results = [await anext(batch) for _ in range(30)]
            midst = batch.progress
            live = midst.submitting + midst.running
            assert (live > 0, midst.reserved) == (True, 8 * live)
            assert midst.projected == midst.credits + midst.reserved + 8 * (100 - midst.done - live) == 800
            results += [result async for result in batch]
            end = batch.progress
        assert (end.credits, end.reserved, end.projected) == (800, 0, 800)
        assert end.calls_per_task == sum(network.ledger.polls.values()) / 100
        latencies = sorted(result.latency for result in results if result.latency is not None)
        assert (end.latency, end.latency_p95) == (latencies[49], latencies[94])
        assert end.recent == tuple(results[-48:])

    async def test_what_nobody_knows_is_not_projected(self) -> None:
        """Where the input has no length or the price is unknown, nothing is projected."""
        for name, prompts in (("kie", map(str, itertools.count())), ("apikley", ["x", "y"])):
            network = Network(PROVIDERS[name])
            async with scheduler_over(network) as scheduler, batch_over(scheduler, network, prompts, window=9) as batch:
                await anyio.sleep(1)
                assert batch.progress.projected is None


async def test_what_earlier_runs_have_paid_for_is_not_projected(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """Lines that the journal has done are no money to come, wherever they stand; a lost create may be, and is named."""
    old, new = [f"old {number}" for number in range(20)], [f"new {number}" for number in range(20)]
    limits = Limits(Rate(100, per=1), Rate(200, per=1), 5)
    async with Client("sandbox", api_key=imagen_sandbox.key, base_url=imagen_sandbox.url, limits=limits) as client:
        async with client.batch(old, journal=tmp_path / "j.db") as results:
            assert len([result async for result in results]) == 20
        imagen_sandbox.order("create", None, None, "reset_after")
        seen = set()
        async with client.batch([*new, *old], journal=tmp_path / "j.db") as results:
            async for result in results:
                seen.add(results.progress.projected)
                assert result.error is None or results.progress.reserved >= 8
            end = results.progress
        made = next(result for result in end.recent if result.ok)
        assert len(await made.save(tmp_path / "again")) == 1
    assert seen == {160}
    assert (end.credits, end.reserved, end.unknown, end.earlier) == (152, 8, 1, 20)


async def test_a_batch_that_could_not_begin_still_reads(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """What is wrong with a journal comes out, and the batch can be looked at afterwards, loop or no loop."""
    (tmp_path / "j.db").write_text("no journal " * 200)
    async with Client("sandbox", api_key=imagen_sandbox.key, base_url=imagen_sandbox.url) as client:
        batch = client.batch(["x"], journal=tmp_path / "j.db")
        with pytest.raises(JournalError):
            await batch.__aenter__()
    assert await asyncio.to_thread(repr, batch) == "<Batch: 0 of 1 finished, 0 credits>"
