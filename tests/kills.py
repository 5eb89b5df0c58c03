"""Kills batches with SIGKILL at random instants, resumes them, and counts at the provider what that has cost.

`python -m tests.kills --kills 25 --prompts 300 [--faults 0.05]` runs the long form and prints a summary.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from servers import free_socket

from imagen_async import Limits, Rate
from imagen_async.sandbox import CREATE_FAULTS, Faults, Latency, Sandbox
from imagen_async.testing import running_sandbox

COMMAND = str(Path(sys.executable).with_name("imagen-async"))
PATIENCE = 300.0
"""Seconds after which a run that should have ended is a failure."""

CALLED_FOR = 4
"""Seconds for which a callback is waited for: longer than the sandbox repeats one."""

LOST = frozenset(CREATE_FAULTS) - {"429", "http_429", "455", "500"}
"""Faults of a create after which nobody can tell whether there is a task."""

BROKEN_TASKS = ("fail_digits", "fail_word", "no_urls")


class Trial(msgspec.Struct, frozen=True):
    """What is tried.

    Attributes:
        prompts: How many pictures are asked for.
        kills: How often the command is killed.
        faults: Share of the server's answers that go wrong.
        rate: The limit of creates, of the client and of the server.
        callbacks: True where the server calls the command back.
        seed: Of the instants of the kills and of the server's chances.
    """

    prompts: int = 60
    kills: int = 5
    faults: float = 0.0
    rate: Rate = Rate(20, per=1)
    callbacks: bool = False
    seed: int = 0


class Kill(msgspec.Struct, frozen=True):
    """One kill: what it waited for, how long after that it came, and the creates that it found on the way."""

    after: str
    delay: float
    on_the_way: frozenset[str]


class Noted(Faults):
    """Faults by chance that remember what they did to each task, in the order of the tasks."""

    def __init__(self, rate: float, seed: int) -> None:
        super().__init__(rate, seed)
        self.tasks: list[str | None] = []

    def draw(self, road: Any) -> str | None:
        """Draw, and note what a task gets."""
        kind = super().draw(road)
        if road == "task":
            self.tasks.append(kind)
        return kind


class Outcome(msgspec.Struct):
    """What a trial came to: its kills, its figures, and all that is wrong with them."""

    trial: Trial
    kills: list[Kill]
    figures: dict[str, Any]
    problems: list[str]

    def text(self) -> str:
        """For people."""
        figures = "\n".join(f"  {name}: {value}" for name, value in self.figures.items())
        problems = "\n".join(f"  WRONG: {problem}" for problem in self.problems) or "  nothing is wrong"
        return f"{self.trial}\n{figures}\n{problems}"


def attempt(trial: Trial, folder: Path) -> Outcome:
    """Run a batch in an empty folder, kill it time and again, let it end, and look at everything."""
    began = time.monotonic()
    faults = Noted(trial.faults, trial.seed)
    limits = Limits(submit=trial.rate, status=Rate(200, per=1), running=200)
    latency = Latency(median=0.3, minimum=0.05)
    served = Sandbox(latency=latency, limits=limits, faults=faults, callback_retry=0.5, seed=trial.seed)
    with running_sandbox(served) as sandbox:
        runs = _Runs(trial, sandbox, folder)
        kills = runs.kill_all()
        code = runs.to_the_end()
        seconds = time.monotonic() - began
        check = _Check(trial, sandbox, faults, folder, kills)
        problems = check.problems()
        problems += [] if code == check.expected_code() else [f"exit code {code}, expected {check.expected_code()}"]
        problems += runs.problems()
        figures = {"seconds": round(seconds, 1), **check.figures()}
        return Outcome(trial, kills, figures, problems)


class _Runs:
    """The runs of one command in one folder."""

    def __init__(self, trial: Trial, sandbox: Sandbox, folder: Path) -> None:
        self._trial = trial
        self._sandbox = sandbox
        self._folder = folder
        self._chance = random.Random(trial.seed)
        # A run sends a whole window at once, so a kill every half of a window leaves enough for the next.
        self._spans = (0.1, trial.rate.per / 2)
        prompts = folder / "prompts.txt"
        prompts.write_text("".join(f"fox number {number}\n" for number in range(trial.prompts)))
        rate = f"{trial.rate.count}/{trial.rate.per:g}"
        options = ["-p", "sandbox", "--base-url", sandbox.url, "--rate", rate, "-o", str(folder / "out"), "--quiet"]
        if trial.callbacks:
            with free_socket() as (_, port):
                options += ["--callback-url", f"http://127.0.0.1:{port}", "--callback-port", str(port)]
            # How long a create that was never sent is waited for, by the last run.
            options += ["--deadline", str(CALLED_FOR)]
        self._command = [COMMAND, "batch", str(prompts), *options]

    def kill_all(self) -> list[Kill]:
        """Run and kill until there were enough kills, or a run came to its end by itself."""
        kills: list[Kill] = []
        while len(kills) < self._trial.kills:
            kill = self._run_and_kill(in_start_up=len(kills) % 5 == 3)
            if kill is None:
                break
            kills.append(kill)
        return kills

    def to_the_end(self) -> int:
        """Run without a kill; returns the exit code."""
        with self._started() as process:
            return process.wait(PATIENCE)

    def problems(self) -> list[str]:
        """What the processes have said that they never should."""
        text = (self._folder / "stderr").read_text()
        return [f"stderr holds {word!r}" for word in ("Traceback", "Unclosed", "Warning") if word in text]

    @contextlib.contextmanager
    def _started(self) -> Any:
        with open(self._folder / "stdout", "ab") as out, open(self._folder / "stderr", "ab") as err:
            process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
            try:
                yield process
            finally:
                process.kill()
                process.wait()

    def _run_and_kill(self, *, in_start_up: bool) -> Kill | None:
        """Start, wait for the first request or for nothing, wait for a random time, kill; None: it was over before."""
        seen = self._requests()
        with self._started() as process:
            if not in_start_up:
                _wait_until(lambda: self._requests() > seen or process.poll() is not None)
            delay = self._chance.uniform(0, 1.0 if in_start_up else self._chance.choice(self._spans))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(delay)
                return None
        on_the_way = frozenset(row["prompt"] for row in rows_of_copy(self._folder / "out", "submitting"))
        return Kill("start" if in_start_up else "first request", delay, on_the_way)

    def _requests(self) -> int:
        ledger = self._sandbox.ledger
        return len(ledger.create_times) + len(ledger.poll_times) + sum(ledger.pictures.values())


class _Check:
    """Looks at the folder, the journal and the provider's ledger after the last run."""

    def __init__(self, trial: Trial, sandbox: Sandbox, faults: Noted, folder: Path, kills: list[Kill]) -> None:
        self._trial = trial
        self._sandbox = sandbox
        self._out = folder / "out"
        self._kills = kills
        self._rows = rows_of_copy(self._out)
        self._tasks = dict(zip((str(task.task_id) for task in sandbox.ledger.tasks), faults.tasks, strict=True))
        self._lost = {create.prompt for create in sandbox.ledger.creates if create.fault in LOST}
        self._metadata, self._failures = (_parsed(self._out / f"{name}.jsonl") for name in ("metadata", "failures"))

    def expected_code(self) -> int:
        """What the last run should have ended with."""
        return int(any(row["state"] != "done" for row in self._rows))

    def problems(self) -> list[str]:
        """All that is wrong."""
        return [*self._of_money(), *self._of_requests(), *self._of_pictures(), *self._of_lists()]

    def figures(self) -> dict[str, Any]:
        """The summary."""
        states = Counter(row["state"] for row in self._rows)
        unknown = {row["prompt"] for row in self._rows if row["state"] == "unknown"}
        made = self._sandbox.ledger.tasks_by_prompt()
        return {
            "kills": len(self._kills),
            "of them in start-up": sum(kill.after == "start" for kill in self._kills),
            "creates on the way at kills": [len(kill.on_the_way) for kill in self._kills],
            "requests": dict(states),
            "creates at the server": len(self._sandbox.ledger.creates),
            "tasks": len(self._tasks),
            "prompts with several tasks": sum(count > 1 for count in made.values()),
            "unknown ones that have a task": sum(prompt in made for prompt in unknown),
            "pictures on disk": len(list(self._out.glob("*.png"))),
            "answers lost by a fault": len(self._lost),
            "refused by the server": dict(self._sandbox.ledger.refused),
        }

    def _of_money(self) -> list[str]:
        ledger = self._sandbox.ledger
        doubled = {prompt: count for prompt, count in ledger.tasks_by_prompt().items() if count > 1}
        problems = [f"paid for more than once: {doubled}"] if doubled else []
        if ledger.refused["submit"] or ledger.refused["running"]:
            problems.append(f"limits were exceeded at the server: {dict(ledger.refused)}")
        if ledger.key_leaks:
            problems.append("the key went to the files' server")
        cut = frozenset[str]().union(*(kill.on_the_way for kill in self._kills))
        unknown = {row["prompt"] for row in self._rows if row["state"] == "unknown"}
        if self._trial.callbacks:
            told = {task.prompt for task in ledger.tasks if task.task_id in ledger.announced}
            if unknown & told:
                problems.append(f"called back, and still held: {sorted(unknown & told)}")
        elif not cut <= unknown:
            problems.append(f"creates were on the way at a kill, and are not held: {sorted(cut - unknown)}")
        if not unknown <= cut | self._lost:
            problems.append(f"held, and neither killed nor lost: {sorted(unknown - cut - self._lost)}")
        return problems

    def _of_requests(self) -> list[str]:
        expected = [f"fox number {number}" for number in range(self._trial.prompts)]
        problems = []
        if sorted(row["prompt"] for row in self._rows) != sorted(expected):
            problems.append("the journal has other requests than the file")
        odd = Counter(row["state"] for row in self._rows if row["state"] not in ("done", "failed", "unknown"))
        return [*problems, f"not brought to an end: {dict(odd)}"] if odd else problems

    def _of_pictures(self) -> list[str]:
        """Every task's picture is on disk, unless the task failed there or nobody knows that it exists."""
        listed = {line["task_id"] for line in self._metadata}
        unknown = {row["prompt"] for row in self._rows if row["state"] == "unknown"}
        problems = []
        for task in self._sandbox.ledger.tasks:
            is_due = self._tasks[str(task.task_id)] not in BROKEN_TASKS and task.prompt not in unknown
            if is_due != (task.task_id in listed):
                problems.append(f"task {task.task_id} of {task.prompt!r}: {'missing' if is_due else 'unexpected'}")
        for line in self._metadata:
            path = self._out / line["file_name"]
            if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != line["sha256"]:
                problems.append(f"{line['file_name']} is not the picture that its line tells")
        return problems

    def _of_lists(self) -> list[str]:
        """The lists are what the journal says, and nothing else lies in the folder."""
        problems = []
        told = [(row["task_id"], file["path"], file["sha256"]) for row in self._rows for file in row["files"]]
        if sorted(told) != sorted((line["task_id"], line["file_name"], line["sha256"]) for line in self._metadata):
            problems.append("metadata.jsonl is not what the journal says")
        failed = [row["key"] for row in self._rows if row["error"] is not None]
        if sorted(failed) != sorted(line["key"] for line in self._failures):
            problems.append("failures.jsonl is not what the journal says")
        known = {*(path for _, path, _ in told), "metadata.jsonl", "failures.jsonl", "run.db", "run.db-lock"}
        others = {path.name for path in self._out.iterdir()} - known
        return [*problems, f"left in the folder: {sorted(others)}"] if others else problems


def rows_of_copy(folder: Path, state: str | None = None) -> list[dict[str, Any]]:
    """The rows of a folder's journal, of one state or of all, read by SQLite alone from a copy of its files."""
    with tempfile.TemporaryDirectory() as copy:
        for path in (folder / "run.db", folder / "run.db-wal"):
            if path.exists():
                shutil.copy(path, copy)
        if not Path(copy, "run.db").exists():
            return []
        with contextlib.closing(sqlite3.connect(Path(copy, "run.db"))) as connection:
            connection.row_factory = sqlite3.Row
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'jobs'").fetchone():
                return []  # killed before it was made
            assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
            rows = [dict(row) for row in connection.execute("SELECT * FROM jobs")]
    for row in rows:
        row["prompt"] = json.loads(row["request"])["prompt"]
        row["files"] = json.loads(row["files"] or "[]")
    return [row for row in rows if state in (None, row["state"])]


def _parsed(path: Path) -> list[dict[str, Any]]:
    """A list, of which every line must be whole."""
    text = path.read_text(encoding="utf-8")
    assert not text or text.endswith("\n"), f"{path.name} ends in the middle of a line"
    return [json.loads(line) for line in text.splitlines()]


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.002)


def main() -> int:
    """The long form; 1 when anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--prompts", type=int, default=300)
    parser.add_argument("--faults", type=float, default=0.0)
    parser.add_argument("--rate", default="10/0.5", help="creates in a window: N/SECONDS, such as 20/1")
    parser.add_argument("--callbacks", action="store_true", help="have the server call back")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    given = parser.parse_args()
    count, _, per = given.rate.partition("/")
    rate = Rate(int(count), per=float(per))
    trial = Trial(given.prompts, given.kills, given.faults, rate, given.callbacks, given.seed)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        outcome = attempt(trial, Path(folder))
    print(outcome.text())  # noqa: T201
    return int(bool(outcome.problems))


if __name__ == "__main__":
    sys.exit(main())
