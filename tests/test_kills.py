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

import commands
import pytest
from commands import at, lines_of
from inner import JournalReader
from journals import LOST

from imagen_async import Limits, Rate
from imagen_async.ports import JournalEntry
from imagen_async.sandbox import Faults, Latency, Ledger, Sandbox
from imagen_async.testing import running_sandbox

PATIENCE = 300.0
"""Seconds after which a run that should have ended is a failure."""


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


@contextlib.contextmanager
def started(command: list[str], said: Path) -> Iterator[subprocess.Popen[str]]:
    """Run the command while the block runs, and kill it at the end of that."""
    with open(said, "ab") as stream, commands.start(*command, stdout=stream, stderr=stream) as process:
        try:
            yield process
        finally:
            process.kill()


def entries_in(out: Path) -> list[JournalEntry]:
    """What the journal says."""
    with JournalReader(out / "run.db") as reader:
        return list(reader.entries())


def prompts_of(entries: list[JournalEntry], state: str) -> set[str]:
    """The prompts whose job is in a state."""
    return {entry.request.prompt for entry in entries if entry.state == state}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rate", "share", "words"),
    [
        (Rate(20, per=1), 0.0, "-m imagen4-fast"),
        (Rate(8, per=0.4), 0.05, "-m imagen4-fast"),
        (Rate(8, per=0.4), 0.05, "-m nano-banana-2 --set resolution=2K"),
    ],
    ids=["limit", "faults", "another model"],
)
def test_kills_cost_nothing(rate: Rate, share: float, words: str, tmp_path: Path) -> None:
    """However often kill -9 ends a batch: nothing is paid for twice, every picture comes, no limit is exceeded."""
    seed, out, prompts = random.randrange(1_000_000), tmp_path / "out", [f"fox number {number}" for number in range(50)]
    chance, faults, kills, cut = random.Random(seed), Noted(share, seed), 0, set[str]()
    limits, latency = Limits(submit=rate, status=Rate(200, per=1), running=200), Latency(median=0.3, minimum=0.05)
    said, file = tmp_path / "said", tmp_path / "prompts.txt"
    file.write_text("\n".join(prompts))
    with running_sandbox(Sandbox(latency=latency, limits=limits, faults=faults, seed=seed)) as sandbox:
        options = [*at(sandbox), "--rate", f"{rate.count}/{rate.per:g}", "--quiet"]
        command = ["batch", str(file), "-o", str(out), *words.split(), *options]
        for _ in range(3):
            faults.asked.clear()
            with started(command, said) as process:
                assert faults.asked.wait(PATIENCE), f"no request came: {said.read_text()}"
                # A run sends a whole window at once, so a kill every half of a window leaves enough for the next.
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(chance.uniform(0, chance.choice((0.1, rate.per / 2))))
                    break  # it came to its end by itself
            kills += 1
            cut |= prompts_of(entries_in(out), "submitting")
        with started(command, said) as process:
            code = process.wait(PATIENCE)
    assert kills, "it was over before it was killed"
    entries, odd = entries_in(out), ("Traceback", "Unclosed", "Warning")
    found = problems_of(sandbox.ledger, faults, entries, cut, out)
    found["said"] = [word for word in odd if word in said.read_text()]
    found["requests"] = {entry.request.prompt for entry in entries} ^ set(prompts)
    assert {what: problem for what, problem in found.items() if problem} == {}, f"with seed {seed}"
    assert code == int(any(entry.state != "done" for entry in entries))


def problems_of(ledger: Ledger, faults: Noted, entries: list[JournalEntry], cut: set[str], out: Path) -> dict[str, Any]:
    """What is wrong with money, limits, what is held, and the folder: each picture that anybody knows of is there."""
    held, lost = prompts_of(entries, "unknown"), {create.prompt for create in ledger.creates if create.fault in LOST}
    metadata, failures = (lines_of(out / f"{name}.jsonl") for name in ("metadata", "failures"))
    broken, fates = ("fail_digits", "fail_word", "no_urls"), zip(ledger.tasks, faults.tasks, strict=True)
    due = {task.task_id for task, fate in fates if fate not in broken and task.prompt not in held}
    saved = {(entry.task_id, Path(file.path).name, file.sha256) for entry in entries for file in entry.files}
    listed = {(line["task_id"], line["file_name"], line["sha256"]) for line in metadata}
    known = {*(name for _, name, _ in saved), "metadata.jsonl", "failures.jsonl", "run.db", "run.db-lock"}
    return {
        "paid for more than once": {prompt for prompt, count in ledger.tasks_by_prompt().items() if count > 1},
        "limits exceeded at the server": {road for road in ("submit", "running") if ledger.refused[road]},
        "keys that went to the files' server": ledger.key_leaks,
        "not brought to an end": [each for each in entries if each.state not in ("done", "failed", "unknown")],
        "on the way at a kill and not held": cut - held,
        "held, and neither killed nor lost": held - cut - lost,
        "pictures": due ^ {task_id for task_id, _, _ in listed},
        "metadata.jsonl": listed ^ saved,
        "failures.jsonl": {entry.key for entry in entries if entry.error} ^ {line["key"] for line in failures},
        "in the folder": {path.name for path in out.iterdir()} ^ known,
        "damaged": [name for _, name, told in saved if hashlib.sha256((out / name).read_bytes()).hexdigest() != told],
    }
