"""The progress of a batch: the panel in a real terminal, its figures, its cost, and the plain lines elsewhere."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import re
import struct
import sys
import termios
from fcntl import ioctl
from pathlib import Path

import anyio
import pyte
import pytest
from commands import Outcome, at, clean_environment, fare, finish, foxes, prompt_file, standing, start
from rich.console import Console

from imagen_async import Client, ImageRequest, Limits, Progress, Rate, Result, errors
from imagen_async._cli.panel import REFRESH, LivePanel, draw
from imagen_async._cli.progress import display
from imagen_async.sandbox import Latency, Sandbox
from imagen_async.testing import VirtualTimeLoop, running_sandbox

__all__ = ["clean_environment"]


def drawn(progress: Progress, width: int, title: str = "imagen-async: prompts.txt → out") -> list[str]:
    """The panel's lines, as plain text; a picture of it is left where SCREENSHOTS names a folder for it."""
    text = io.StringIO()
    console = Console(file=text, width=width, record=True)
    console.print(draw(progress, title, width))
    if "SCREENSHOTS" in os.environ and len(progress.accounts) > 1:
        console.save_svg(str(Path(os.environ["SCREENSHOTS"], f"panel-{width}.svg")))
    return text.getvalue().split("\n")[:-1]


def a_result(prompt: str, error: errors.ImagenError | None = None) -> Result:
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
    recent = (a_result("a bat", errors.GenerationFailed("too dark")), a_result("a red fox"))
    accounts = (fare("kie"), fare("mine", state="stopped", error=errors.ImagenError("no credit left")))
    progress = standing(unknown=1, held=2, saving=2, earlier=5, accounts=accounts, recent=recent)
    for width in (60, 80, 140, 200):
        lines = drawn(progress, width)
        missing = [word for word in words if not any(word in line for line in lines)]
        assert ({len(line) for line in lines}, missing) == ({width}, [])
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
        for error in (None, errors.GenerationFailed("because\n" * 40 + "[red]")):
            lines = drawn(standing(recent=(a_result(prompt, error),)), 80, "a\x1b]0;title\x07b\x9b2J" + "x" * 200)
            assert len(lines) == height, prompt
            assert not re.search(r"[\x00-\x1f\x7f-\x9f]", "".join(lines))
            assert error is not None or "[bold]x[/bold]" not in prompt or any(prompt in line for line in lines)
    for width in range(10, 40):
        lines = drawn(standing(total=1_632_000, recent=(a_result("a red fox"),)), width)
        assert {len(line) for line in lines} == {width}


def in_terminal(columns: int, *words: str, both: bool = False) -> tuple[Outcome, list[str], bytes]:
    """Run the command with stderr, or both streams, on a terminal; all lines that this shows, and the bytes."""
    ours, end = pty.openpty()
    ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    env = {"TERM": "xterm-256color", "COLUMNS": "", "LINES": ""}
    process = start(*words, env=env, stderr=end, **({"stdout": end} if both else {}))
    os.close(end)
    raw = b""
    with open(ours, "rb", buffering=0) as terminal:
        with contextlib.suppress(OSError):  # how a terminal says that nobody writes to it any more
            while piece := terminal.read(65536):
                raw += piece
    screen = pyte.HistoryScreen(columns, 40, history=10_000)
    pyte.ByteStream(screen).feed(raw)
    above = ["".join(line[x].data for x in range(columns)) for line in screen.history.top]
    return finish(process), [*above, *screen.display], raw


WHOLE_LINES = re.compile(
    r"out-\d+/\d{6}-fox-number-\d+\.png"
    r"|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO sandbox: '[\w-]+' (runs as task \w{32} of imagen4: 'fox number \d+'"
    r"|is done after \d+\.\d s, 8 credits: out-\d+/\d{6}-fox-number-\d+\.png)"
    r"|[╭│╰].*?[╮│╯](?= *[╭│╰]| *60 done)"
    r"|60 done, 0 failed; 480 credits in \d+ s"
)


@pytest.mark.slow
@pytest.mark.parametrize("columns", [80, 140])
def test_the_panel_in_a_terminal_tears_no_line(columns: int) -> None:
    """At full speed, with log and paths on the same terminal, every line is whole and the panel is there once."""
    limits = Limits(Rate(40, per=0.5), Rate(500, per=1), 80)
    with running_sandbox(Sandbox(latency=Latency(0.4, minimum=0.1), limits=limits)) as sandbox:
        words = ("batch", foxes(60), *at(sandbox), "--rate", "40/0.5", "-o", f"out-{columns}", "-v")
        outcome, lines, _ = in_terminal(columns, *words, both=True)
    text = "".join(lines)  # so that what the terminal has broken at its edge is whole again
    assert (outcome.code, WHOLE_LINES.sub("", text).split()) == (0, [])
    told = {" runs as task ": 60, " is done after ": 60, "╭": 1, "60 of 60  100%": 1}
    assert {mark: text.count(mark) for mark in told} == told
    assert sum(line.startswith("out-") for line in lines) == 60


@pytest.mark.parametrize("quiet", [False, True])
def test_the_panel_is_on_a_terminal_and_on_stderr_only(imagen_sandbox: Sandbox, quiet: bool) -> None:
    """On a terminal stderr shows the panel, with `--quiet` the summary alone; stdout is the same paths both times."""
    words = ["batch", prompt_file("a fox", "a dog"), *at(imagen_sandbox), "-o", "out", *(["--quiet"] if quiet else [])]
    outcome, lines, raw = in_terminal(120, *words)
    assert (outcome.code, sorted(outcome.lines)) == (0, ["out/000000-a-fox.png", "out/000001-a-dog.png"])
    *panel, summary = filter(None, map(str.rstrip, lines))
    assert summary.startswith("2 done, 0 failed; 16 credits in ")
    assert (panel == [], b"\x1b" in raw) == (quiet, not quiet)
    told = ("prompts.txt → out", "2 of 2  100%", "0 failed", "credits: 16 spent", "a dog")
    assert quiet or [word for word in told if word not in "".join(panel)] == []


def test_what_is_printed_under_the_panel_is_kept_for_the_next_look(capfd: pytest.CaptureFixture[str]) -> None:
    """Lines are kept for it up to a size, and one without an end until it has one; the panel's end loses nothing."""
    with pytest.raises(KeyError), LivePanel(standing, "x") as panel:
        sys.stderr.write("half")
        assert panel.look() >= REFRESH
        assert "half" not in capfd.readouterr().err
        sys.stderr.write(" of it\n")
        for number in range(5000):
            sys.stderr.write(f"line number {number}\n")
        early = capfd.readouterr().err
        assert 3000 < early.count("line number") < 5000
        sys.stderr.write("and more")
        panel.look()
        raise KeyError
    said = (early + capfd.readouterr().err).splitlines()
    lines = [line for line in said if line.startswith(("half", "line number", "and more"))]
    assert lines == ["half of it", *(f"line number {number}" for number in range(5000)), "and more"]


WHOLE = "1,203 of 1,632 finished, 1,200 done, 3 failed, 9 running, 20.0/s, ETA 21 s, 9,624 of 13,056 credits"
KIE = "  kie: ready, 2.0/s of 20 per 10 s, 9 running, 1,200 done, 9,624 credits"
MINE = "  mine: paused, 2.0/s of 20 per 10 s, 9 running, 1,200 done, 9,624 credits; slow down"
PAUSED = fare("mine", state="paused", error=errors.RateLimited("slow down"))
UNKNOWN = "1,203 finished, 1,200 done, 3 failed, 9 running, 20.0/s, 9,624 credits"
PLAIN = {
    "one": (standing(), [WHOLE]),
    "several": (standing(accounts=(fare("kie"), PAUSED)), [WHOLE, KIE, MINE]),
    "trouble": (standing(accounts=(PAUSED, fare("kie"))), [WHOLE, MINE, KIE]),
    "paused": (standing(accounts=(PAUSED,), eta=None), [WHOLE.replace("ETA 21 s", "ETA unknown: paused"), MINE]),
    "paused, all sent": (standing(accounts=(PAUSED,)), [WHOLE.replace("ETA 21 s", "ETA 21 s, paused"), MINE]),
    "held": (standing(held=2), [WHOLE.replace("9 running,", "9 running, 2 waiting for a callback,")]),
    "unknown": (standing(total=None, eta=None, projected=None), [UNKNOWN]),
}


@pytest.mark.parametrize(("snapshot", "lines"), PLAIN.values(), ids=PLAIN)
@pytest.mark.parametrize("anyio_backend", [("asyncio", {"loop_factory": VirtualTimeLoop})], ids=[""])
async def test_plain_progress(capsys: pytest.CaptureFixture[str], snapshot: Progress, lines: list[str]) -> None:
    """Where stderr is no terminal, it tells every ten seconds how the batch stands, and each account or its trouble."""
    show = display("", quiet=False)
    assert show is not None
    with anyio.move_on_after(35):
        await show(lambda: snapshot)
    streams = capsys.readouterr()
    assert (streams.out, streams.err.splitlines()) == ("", lines * 3)
    assert display("", quiet=True) is None


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"loop_factory": VirtualTimeLoop})], ids=[""])
async def test_a_progress_that_cannot_be_shown_ends_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever goes wrong with it, it says so once and ends alone."""

    def look() -> Progress:
        raise ZeroDivisionError("no figures")

    show = display("", quiet=False)
    assert show is not None
    await show(look)
    assert capsys.readouterr().err == "The progress is not shown any more: ZeroDivisionError: no figures\n"


async def test_money_and_calls_add_up(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """Calls and last results are the provider's; what earlier runs have paid for is no money to come; a lost create is.

    So from the first result on the projection stays as it is.
    """
    old, new = [f"old {number}" for number in range(20)], [f"new {number}" for number in range(20)]
    limits = Limits(Rate(100, per=1), Rate(200, per=1), 5)
    async with Client("sandbox", api_key=imagen_sandbox.key, base_url=imagen_sandbox.url, limits=limits) as client:
        async with client.batch(old, journal=tmp_path / "j.db") as results:
            start = results.progress
            made, first = [result async for result in results], results.progress
        assert (first.credits, first.reserved, first.projected, first.recent) == (160, 0, 160, tuple(made))
        assert first.calls_per_task == sum(imagen_sandbox.ledger.polls.values()) / 20
        imagen_sandbox.order("create", None, None, "reset_after")
        async with client.batch([*new, *old], journal=tmp_path / "j.db") as results:
            assert {results.progress.projected async for _ in results} == {160}
            end = results.progress
    assert (start.projected, start.latency, start.calls_per_task, start.recent) == (None, None, None, ())
    assert (end.credits, end.reserved, end.unknown, end.earlier) == (152, 8, 1, 20)
