"""The proof of what a journal is for: batches that are killed at random instants pay once and lose no picture."""

from __future__ import annotations

import contextlib
import hashlib
import random
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from commands import COMMAND, lines_of
from servers import free_socket

from imagen_async import Limits, Rate
from imagen_async._journal import JournalReader
from imagen_async.ports import JournalEntry
from imagen_async.sandbox import CREATE_FAULTS, Faults, Latency, Sandbox
from imagen_async.testing import running_sandbox

PATIENCE = 300.0
"""Seconds after which a run that should have ended is a failure."""
CALLED_FOR = 4
"""Seconds for which a callback is waited for: longer than the sandbox repeats one."""
LOST = frozenset(CREATE_FAULTS) - {"429", "http_429", "455", "500"}
"""Faults of a create after which nobody can tell whether there is a task."""
BROKEN_TASKS = ("fail_digits", "fail_word", "no_urls")


class Trial(msgspec.Struct, frozen=True):
    """How many pictures, the limit of creates at both ends, the share of bad answers, whether there are callbacks."""

    prompts: int
    rate: Rate
    faults: float = 0.0
    callbacks: bool = False


class Noted(Faults):
    """Faults by chance that remember what they did to each task, and tell when a request comes."""

    def __init__(self, rate: float, seed: int) -> None:
        super().__init__(rate, seed)
        self.tasks: list[str | None] = []
        self.asked = threading.Event()

    def draw(self, road: Any) -> str | None:
        """Draw, and note what a task gets."""
        kind = super().draw(road)
        if road == "task":
            self.tasks.append(kind)
        self.asked.set()
        return kind


def command_of(trial: Trial, sandbox: Sandbox, folder: Path) -> list[str]:
    """The command of a trial, which is the same in each of its runs."""
    (folder / "prompts.txt").write_text("".join(f"fox number {number}\n" for number in range(trial.prompts)))
    options = ["-p", "sandbox", "--base-url", sandbox.url, "--rate", f"{trial.rate.count}/{trial.rate.per:g}"]
    if trial.callbacks:
        with free_socket() as (_, port):
            options += ["--callback-url", f"http://127.0.0.1:{port}", "--callback-port", str(port)]
        # How long a create that was never sent is waited for, by the last run.
        options += ["--deadline", str(CALLED_FOR)]
    return [COMMAND, "batch", str(folder / "prompts.txt"), "-o", str(folder / "out"), "--quiet", *options]


@contextlib.contextmanager
def started(command: list[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the command while the block runs, and kill it at the end of that."""
    with open(folder / "said", "ab") as said:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def entries_in(folder: Path) -> list[JournalEntry]:
    """What the journal says."""
    with JournalReader(folder / "out" / "run.db") as reader:
        return list(reader.entries())


TRIALS = {
    "limit": Trial(prompts=50, rate=Rate(20, per=1)),
    "faults": Trial(prompts=40, rate=Rate(8, per=0.4), faults=0.05),
    "callbacks": Trial(prompts=40, rate=Rate(20, per=1), callbacks=True),
}


@pytest.mark.slow
@pytest.mark.parametrize("trial", TRIALS.values(), ids=list(TRIALS))
def test_kills_cost_nothing(trial: Trial, tmp_path: Path) -> None:
    """However often kill -9 ends a batch: nothing is paid for twice, every picture comes, no limit is exceeded."""
    seed = random.randrange(1_000_000)
    chance, faults, kills, cut = random.Random(seed), Noted(trial.faults, seed), 0, set[str]()
    limits = Limits(submit=trial.rate, status=Rate(200, per=1), running=200)
    latency = Latency(median=0.3, minimum=0.05)
    sandbox = Sandbox(latency=latency, limits=limits, faults=faults, callback_retry=0.5, seed=seed)
    with running_sandbox(sandbox):
        command = command_of(trial, sandbox, tmp_path)
        for _ in range(3):
            faults.asked.clear()
            with started(command, tmp_path) as process:
                assert faults.asked.wait(PATIENCE), f"no request came: {(tmp_path / 'said').read_text()}"
                # A run sends a whole window at once, so a kill every half of a window leaves enough for the next.
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(chance.uniform(0, chance.choice((0.1, trial.rate.per / 2))))
                    break  # it came to its end by itself
            kills += 1
            cut |= {entry.request.prompt for entry in entries_in(tmp_path) if entry.state == "submitting"}
        with started(command, tmp_path) as process:
            code = process.wait(PATIENCE)
    assert kills, "it was over before it was killed"
    entries = entries_in(tmp_path)
    problems = problems_of_money(trial, sandbox, entries, cut) | problems_of_pictures(
        sandbox, faults, entries, tmp_path
    )
    said = (tmp_path / "said").read_text()
    problems["said"] = [word for word in ("Traceback", "Unclosed", "Warning") if word in said]
    problems["requests"] = {entry.request.prompt for entry in entries} ^ {
        f"fox number {n}" for n in range(trial.prompts)
    }
    assert {what: found for what, found in problems.items() if found} == {}, f"with seed {seed}"
    assert code == int(any(entry.state != "done" for entry in entries))


def problems_of_money(trial: Trial, sandbox: Sandbox, entries: list[JournalEntry], cut: set[str]) -> dict[str, object]:
    """What is wrong with what was paid, with the limits, and with what is held."""
    ledger = sandbox.ledger
    held = {entry.request.prompt for entry in entries if entry.state == "unknown"}
    lost = {create.prompt for create in ledger.creates if create.fault in LOST}
    told = {task.prompt for task in ledger.tasks if task.task_id in ledger.announced}
    return {
        "paid for more than once": {prompt for prompt, count in ledger.tasks_by_prompt().items() if count > 1},
        "limits exceeded at the server": {road for road in ("submit", "running") if ledger.refused[road]},
        "keys that went to the files' server": ledger.key_leaks,
        "not brought to an end": [each for each in entries if each.state not in ("done", "failed", "unknown")],
        "held although called back": held & told if trial.callbacks else None,
        "on the way at a kill and not held": None if trial.callbacks else cut - held,
        "held, and neither killed nor lost": held - cut - lost,
    }


def problems_of_pictures(
    sandbox: Sandbox, faults: Noted, entries: list[JournalEntry], folder: Path
) -> dict[str, object]:
    """What is wrong with the folder: the picture of every task that anybody knows and that did not fail is there."""
    out = folder / "out"
    metadata, failures = (lines_of(out / f"{name}.jsonl") for name in ("metadata", "failures"))
    held = {entry.request.prompt for entry in entries if entry.state == "unknown"}
    fates = zip(sandbox.ledger.tasks, faults.tasks, strict=True)
    due = {task.task_id for task, fate in fates if fate not in BROKEN_TASKS and task.prompt not in held}
    saved = {(entry.task_id, Path(file.path).name, file.sha256) for entry in entries for file in entry.files}
    listed = {(line["task_id"], line["file_name"], line["sha256"]) for line in metadata}
    known = {*(name for _, name, _ in saved), "metadata.jsonl", "failures.jsonl", "run.db", "run.db-lock"}
    return {
        "pictures": due ^ {task_id for task_id, _, _ in listed},
        "metadata.jsonl": listed ^ saved,
        "failures.jsonl": {entry.key for entry in entries if entry.error} ^ {line["key"] for line in failures},
        "in the folder": {path.name for path in out.iterdir()} ^ known,
        "damaged": [name for _, name, told in saved if hashlib.sha256((out / name).read_bytes()).hexdigest() != told],
    }
