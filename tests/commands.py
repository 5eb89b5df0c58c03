"""The command `imagen-async` for tests: called in this process, or run as one; what it leaves; how a batch stands."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from inner import main

from imagen_async import AccountProgress, ImagenError, Progress, Rate
from imagen_async.sandbox import Faults, Sandbox

COMMAND = str(Path(sys.executable).with_name("imagen-async"))
DATA = Path(__file__).parent / "data"
PATIENCE = 30.0
"""Seconds after which a process that should have ended is a failure."""

METADATA, FAILURES = Path("out", "metadata.jsonl"), Path("out", "failures.jsonl")


class Outcome(NamedTuple):
    """What a run of the command left: its exit code and its two streams."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """Of stdout."""
        return self.out.splitlines()

    @property
    def records(self) -> list[Any]:
        """Of stdout, a JSON value a line."""
        return [json.loads(line) for line in self.lines]

    @property
    def is_clean(self) -> bool:
        """True where nothing on stderr is Python's own: no traceback, nothing left unclosed."""
        return not re.search("Traceback|Exception|Unclosed|Warning|never", self.err)


Call = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No key or address from outside, and a working folder of the test's own."""
    for name in list(os.environ):
        if name.endswith(("_API_KEY", "_BASE_URL")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Call the command in this process."""

    def command(*arguments: str) -> Outcome:
        capsys.readouterr()
        try:
            code = main(arguments)
        except SystemExit as stop:  # argparse ends the process by itself
            code = int(stop.code or 0)
        return Outcome(code, *capsys.readouterr())

    return command


def start(*arguments: str, env: dict[str, str] | None = None, **streams: Any) -> subprocess.Popen[str]:
    """Start the command as a process that shows what it leaves unclosed, which Python hides by default."""
    warned = {"PYTHONWARNINGS": "default::ResourceWarning", "PYTHONIOENCODING": "utf-8"}
    settings: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    settings |= {"env": {**os.environ, **warned, **(env or {})}, "text": True, "encoding": "utf-8"}
    return subprocess.Popen([COMMAND, *arguments], **settings | streams)


def finish(process: subprocess.Popen[str], stdin: str | None = None, patience: float = PATIENCE) -> Outcome:
    """Wait for a process's end; one that does not end is killed and fails the test."""
    try:
        out, err = process.communicate(stdin, timeout=patience)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    return Outcome(process.returncode, out or "", err or "")


def at(sandbox: Sandbox) -> list[str]:
    """The options that lead to a sandbox."""
    return ["-p", "sandbox", "--base-url", sandbox.url]


def data(name: str) -> Any:
    """A table of what goes in and what comes out."""
    return json.loads((DATA / name).read_text(encoding="utf-8"))


def lines_of(path: Path) -> list[dict[str, Any]]:
    """A file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def rows_of(folder: str) -> list[dict[str, Any]]:
    """The rows of a folder's journal, read with plain SQLite."""
    with contextlib.closing(sqlite3.connect(f"file:{folder}/run.db?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute("SELECT * FROM jobs ORDER BY position")]


def running_in(folder: str) -> dict[str, str]:
    """The prompts by task id of the tasks that a folder's journal holds as running, or as to be fetched."""
    going_on = [row for row in rows_of(folder) if row["state"] in ("running", "ready")]
    return {row["task_id"]: json.loads(row["request"])["prompt"] for row in going_on}


def tasks_in(sandbox: Sandbox) -> dict[str, str]:
    """The prompts by task id of all tasks that a sandbox has made."""
    return {str(task.task_id): task.prompt for task in sandbox.ledger.tasks}


def prompt_file(*prompts: str) -> str:
    """A prompt file in the working folder."""
    Path("prompts.txt").write_text("".join(f"{prompt}\n" for prompt in prompts), encoding="utf-8")
    return "prompts.txt"


def foxes(count: int) -> str:
    """A file of so many prompts."""
    return prompt_file(*(f"fox number {number}" for number in range(count)))


@contextlib.contextmanager
def short_waits() -> Iterator[None]:
    """The tries of a download are up to 15 seconds apart, by chance: of this seed's four waits none is over 0.2."""
    state = random.getstate()
    random.seed(10134)
    try:
        yield
    finally:
        random.setstate(state)


class Watched(Faults):
    """No faults; lets a test wait for the requests that a sandbox sees."""

    def __init__(self) -> None:
        super().__init__()
        self._seen = {road: threading.Semaphore(0) for road in ("create", "poll", "task", "file")}

    def draw(self, road: Any) -> str | None:
        """Note the request."""
        self._seen[road].release()
        return super().draw(road)

    def wait(self, road: str, count: int) -> None:
        """Wait until so many more requests came on a road."""
        assert all(self._seen[road].acquire(timeout=PATIENCE) for _ in range(count))


def fare(name: str, *, state: Any = "ready", error: ImagenError | None = None) -> AccountProgress:
    """How an account fares."""
    return AccountProgress(name, state, Rate(20, per=10), 2.0, 9, error, 1200, 9624.0)


def standing(**changes: Any) -> Progress:
    """How a batch stands in the midst."""
    counts = {"pulled": 40, "queued": 10, "submitting": 1, "held": 0, "running": 9, "saving": 0, "unknown": 0}
    figures = {"total": 1632, "done": 1200, "failed": 3, "earlier": 0, "credits": 9624.0, "elapsed": 60.0, "rate": 20.0}
    figures |= {"reserved": 72.0, "projected": 13056.0, "eta": 21.45, "latency": 12.13, "latency_p95": 19.8}
    others = {"calls_per_task": 1.12, "recent": (), "accounts": (fare("kie"),)}
    return Progress(**{**counts, **figures, **others, **changes})
