"""The proof of what a journal is for: batches that are killed at random instants pay once and lose no picture."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import commands
import pytest
from clients import FAST, client_of
from commands import at, lines_of
from inner import JournalReader
from journals import LOST

from imagen_async import Limits, Rate, UnknownOutcome
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


WORKER = """
import asyncio, random, sys
from imagen_async import Client, ImagenError, Limits, Rate

async def ask(client, key, room):
    async with room:
        try:
            found = (await client.generate(f"fox {key}", key=key)).urls[0]
        except ImagenError as error:
            found = type(error).__name__
        print(key, found, flush=True)

async def main(url, api_key, journal, count):
    limits, room = Limits(Rate(200, per=0.5), Rate(500, per=0.5), running=300), asyncio.Semaphore(12)
    keys = [f"order-{number}" for number in range(int(count))]
    random.shuffle(keys)
    async with Client("sandbox", api_key=api_key, base_url=url, journal=journal, limits=limits) as client:
        print("open", flush=True)
        await asyncio.gather(*(ask(client, key, room) for key in keys))
        print("over", flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


class Worker:
    """A process that asks for all keys, is killed at random for some times, and at last comes to its end.

    Attributes:
        said: What it heard of each key, in all its lives.
        problems: What it should not have said.
    """

    def __init__(self, command: list[str], kills: int, chance: random.Random) -> None:
        self.said: dict[str, set[str]] = {}
        self.problems: list[str] = []
        self._command = command
        self._waits = [chance.choice((0.02, 0.3, 1.0)) * chance.random() for _ in range(kills)]

    def work(self) -> None:
        """Live through all lives."""
        for wait in (*self._waits, None):
            with subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
                assert process.stdout is not None
                assert process.stdout.readline() == "open\n"
                timer = threading.Timer(PATIENCE if wait is None else wait, process.kill)
                timer.start()
                out, errors = process.communicate()
                timer.cancel()
            lines = out.splitlines()
            # The last line of one that was killed may be a part.
            for line in lines if out.endswith("\n") else lines[:-1]:
                key, _, found = line.partition(" ")
                self.said.setdefault(key, set()).add(found)
            self.problems += errors.splitlines()
        if "over" not in self.said:
            self.problems.append("the last life did not come to its end")
        self.said.pop("over", None)


@pytest.mark.slow
async def test_a_key_is_one_task_whatever_is_killed(tmp_path: Path) -> None:
    """A hundred keys, asked for by four processes that are killed at random: each is billed once and is one picture."""
    seed, keys = random.randrange(1_000_000), [f"order-{number}" for number in range(100)]
    chance, latency = random.Random(seed), Latency(median=0.3, minimum=0.05)
    with running_sandbox(Sandbox(latency=latency, limits=FAST, faults=Faults(), seed=seed)) as sandbox:
        command = [sys.executable, "-c", WORKER, sandbox.url, sandbox.key, str(tmp_path / "run.db"), str(len(keys))]
        workers = [Worker(command, 5, chance) for _ in range(4)]
        threads = [threading.Thread(target=worker.work) for worker in workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join)
        billed = sandbox.ledger.tasks_by_prompt()
        heard = {key: set().union(*(worker.said[key] for worker in workers)) for key in keys}
        held = {key for key, found in heard.items() if found == {"UnknownOutcome"}}
        found = {
            "said": [problem for worker in workers for problem in worker.problems],
            "paid for more than once": {prompt for prompt, count in billed.items() if count > 1},
            "neither one picture nor held": {key for key in heard.keys() - held if len(heard[key]) != 1},
            "a picture of nothing": {key for key in heard.keys() - held if f"fox {key}" not in billed},
        }
        assert {what: problem for what, problem in found.items() if problem} == {}, f"with seed {seed}"
        async with client_of(sandbox, journal=tmp_path / "run.db", limits=FAST) as client:
            assert await client.unfinished() == []
            for key in keys:
                if key in held:
                    with pytest.raises(UnknownOutcome):
                        await client.generate(f"fox {key}", key=key)
                result = await client.generate(f"fox {key}", key=key, retry_failed=True)
                assert result.earlier == (key not in held)
        after = sandbox.ledger.tasks_by_prompt()
    assert {
        prompt: count - billed.get(prompt, 0) for prompt, count in after.items() if count != billed.get(prompt)
    } == {f"fox {key}": 1 for key in held}
    assert len(held) < len(keys) / 2
