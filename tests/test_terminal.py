"""What the command shows: nothing that it cannot show, and nobody who does not look, costs a picture."""

from __future__ import annotations

import os
import pty
import re
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import commands
import pytest
from commands import FAILURES, METADATA, at, finish, foxes, lines_of, prompt_file, start

from imagen_async import Limits, Rate
from imagen_async.sandbox import Latency, Sandbox
from imagen_async.testing import running_sandbox

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="its files that take nothing are others")

clean_environment = commands.clean_environment

QUICK = Latency(median=0.05, minimum=0.01)


def without_a_reader(stack: ExitStack) -> int:
    """The end of a pipe that nobody reads any more."""
    ours, end = os.pipe()
    os.close(ours)
    stack.callback(os.close, end)
    return end


def without_a_terminal(stack: ExitStack) -> int:
    """The end of a terminal that was closed."""
    ours, end = pty.openpty()
    os.close(ours)
    stack.callback(os.close, end)
    return end


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_streams_that_were_closed_end_no_command(imagen_sandbox: Sandbox, closed: tuple[int, ...]) -> None:
    """Nothing that is opened takes the place of one, and a stdout that nobody reads from the start is told of."""
    words = ["generate", "a fox", *at(imagen_sandbox), "-o", "out"]
    outcome = finish(start(*words, preexec_fn=lambda: [os.close(place) for place in closed]))
    assert (outcome.code, outcome.is_clean, len(list(Path("out").glob("*.png")))) == (0, True, 1), outcome.err
    assert ("out has it all" in outcome.err) is (closed == (1,))


def full(stack: ExitStack) -> int:
    """A disk that takes nothing."""
    return stack.enter_context(open("/dev/full", "wb")).fileno()


@pytest.mark.parametrize(
    ("stream", "opened", "code", "told"),
    [
        ("stdout", full, 1, "stdout cannot be written: No space left on device"),
        ("stdout", without_a_reader, 0, "Whoever read stdout has left, so that not all was printed; out has it all."),
        ("stdout", without_a_terminal, 1, "stdout cannot be written: Input/output error"),
        ("stderr", full, 0, ""),
        ("stderr", without_a_reader, 0, ""),
        ("stderr", without_a_terminal, 0, ""),
    ],
)
def test_a_stream_that_takes_nothing_ends_no_batch(
    imagen_sandbox: Sandbox, stream: str, opened: Any, code: int, told: str
) -> None:
    """Every picture is made, saved and listed; what stdout lacks is said at the end, and is no success for whoever
    keeps it, but for a reader who has had enough."""
    with ExitStack() as stack:
        words = ["batch", foxes(12), *at(imagen_sandbox), "-o", "out", *(["-vv"] if stream == "stderr" else [])]
        outcome = finish(start(*words, **{stream: opened(stack)}))
    assert (outcome.code, outcome.is_clean) == (code, True), outcome.err
    assert (len(lines_of(METADATA)), FAILURES.read_bytes(), told in outcome.err) == (12, b"", True), outcome.err
    assert stream == "stdout" or len(outcome.lines) == 12


@pytest.mark.parametrize("words", [["batch", "prompts.txt", "--running", "2"], ["generate", "a fox"]])
@pytest.mark.parametrize("opened", [full, without_a_reader])
def test_links_that_stdout_does_not_take_are_said_on_stderr(words: list[str], opened: Any) -> None:
    """Where nothing is saved, stdout alone has what was paid for: it is said elsewhere, and no more is made."""
    foxes(60)
    with running_sandbox(Sandbox(latency=QUICK)) as sandbox, ExitStack() as stack:
        outcome = finish(start(*words, *at(sandbox), stdout=opened(stack)))
    links = re.findall(r"^http\S+$", outcome.err, re.MULTILINE)
    assert (outcome.is_clean, len(sandbox.ledger.tasks) < 60, links != []) == (True, True, True), outcome.err
    assert words[0] == "generate" or (outcome.code == 1 and "nothing is saved: no more is made" in outcome.err)


@pytest.mark.slow
def test_a_reader_that_stands_still_holds_up_no_batch() -> None:
    """As `less` does: the batch is made to its end meanwhile, and what waits is printed once it is read."""
    limits = Limits(Rate(500, per=1), Rate(500, per=1), 100)
    with running_sandbox(Sandbox(latency=QUICK, limits=limits)) as sandbox:
        words = ["batch", prompt_file(*(f"{number} {'fox ' * 300}" for number in range(200))), *at(sandbox)]
        process = start(*words, "-o", "out", "--rate", "500/1", "--json", bufsize=0)
        assert process.stderr is not None
        for line in iter(process.stderr.readline, ""):
            if line.startswith("200 done"):
                break
        assert len(lines_of(METADATA)) == 200
        outcome = finish(process)
    assert (outcome.code, len(outcome.records)) == (0, 200)
