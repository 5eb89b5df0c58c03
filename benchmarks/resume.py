"""Coming back to a list that is done but for its last line, by the command; and what else the command does with it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import math
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.clients import account, in_process
from benchmarks.server import server_process, take_figures
from benchmarks.worker import Work, cpu_of, main, peak_memory, prompts
from imagen_async import Client, ImageFile, ImageRequest
from imagen_async._cli.manifest import Manifest
from imagen_async._cli.prompt_files import PromptLine
from imagen_async._core.defaults import content_key, note_of
from imagen_async._core.journal_entry import JournalEntry
from imagen_async._journal import Journal
from imagen_async._journal.clock import JournalClock

TITLE = "the real command over a list that is done but for its last line, to the first create; bare: its file and keys"

RATIO, BLOCKED, MEMORY = 4.0, 0.02, 350e6
"""The targets: CPU over that of the bare loop; seconds of the loop; bytes of the process."""

_PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
_SHA256 = hashlib.sha256(_PNG).hexdigest()

_LINKS = 30_000
"""Names that one file has at most: file systems have a limit."""


class Folder(msgspec.Struct, frozen=True):
    """A batch's folder as a run has left it, and its list of prompts."""

    path: Path
    prompts: Path
    count: int

    def as_left(self) -> None:
        """Put back the journal and the lists, whatever was done to them since."""
        for name in ("run.db-wal", "run.db-shm"):
            (self.path / name).unlink(missing_ok=True)
        shutil.copy2(self.prompts.with_suffix(".db"), self.path / "run.db")


@contextlib.contextmanager
def done(count: int, parent: str | None = None) -> Iterator[Folder]:
    """A folder in which all but the last of so many lines are done, each with its picture."""
    with tempfile.TemporaryDirectory(dir=parent) as outer:
        folder = Folder(Path(outer, "out"), Path(outer, "prompts.txt"), count)
        folder.path.mkdir()
        folder.prompts.write_text("".join(f"{prompt}\n" for prompt in prompts(count)))
        with Journal(folder.path / "run.db", PromptLine) as journal:
            # As the last run of all, which has ended in good order, has left them.
            journal.note({"keys": "whole", **note_of([ImageRequest("-")]), **JournalClock({}).note(is_over=True)})
            for begin in range(0, count - 1, 1000):
                entries = list(_entries(folder.path, begin, min(begin + 1000, count - 1)))
                journal.write(msgspec.structs.replace(entry, state="submitting", ended_at=None) for entry in entries)
                journal.write(entries)
            with Manifest(str(folder.path), journal):
                pass
        shutil.copy2(folder.path / "run.db", folder.prompts.with_suffix(".db"))
        yield folder


def _entries(folder: Path, begin: int, end: int) -> Iterator[JournalEntry]:
    for number, prompt in enumerate(prompts(end)):
        if number < begin:
            continue
        path, first = (folder / f"{each:06}-a-red-fox.png" for each in (number, number - number % _LINKS))
        if path == first:
            path.write_bytes(_PNG)
        else:
            os.link(first, path)
        url = f"https://files.example/{number:032x}.png"
        request = PromptLine(prompt, model="imagen4", aspect_ratio="1:1", line=number + 1)
        times = {"sent_at": 1e9 + number, "accepted_at": 1e9 + number, "ended_at": 1e9 + number + 5}
        yield JournalEntry(
            content_key(ImageRequest(prompt)),
            number,
            "done",
            "sandbox",
            request,
            task_id=f"{number:032x}",
            urls=(url,),
            files=(ImageFile(str(path), _SHA256, len(_PNG), "image/png", url),),
            credits=8.0,
            price=8.0,
            latency=5.0,
            attempts=1,
            **times,
        )


def resumed(folder: Folder, url: str) -> dict[str, float]:
    """The command once more, until the server sees its first create, at which it is ended."""
    folder.as_left()
    take_figures(url)
    words = ["batch", str(folder.prompts), "-q", "-o", str(folder.path), "-p", "sandbox", "--base-url", url]
    began, first = time.monotonic(), 0.0
    with subprocess.Popen(
        [sys.executable, "-m", "imagen_async", *words], env=_ENVIRONMENT, stderr=subprocess.DEVNULL
    ) as process:
        while not first and process.poll() is None:
            time.sleep(0.02)
            first = take_figures(url)["first"]
        cpu, peak = cpu_of(process.pid), peak_memory(process.pid)
        process.kill()
    assert first, "it sent nothing"
    return {"wall": first - began, "cpu": cpu, "peak": peak}


_ENVIRONMENT = {**os.environ, "SANDBOX_API_KEY": "a-key"}


_TOLD = """
import atexit, os, runpy, time
from benchmarks.worker import peak_memory
atexit.register(lambda: os.write(int(os.environ["TOLD"]), f"{time.process_time()} {peak_memory()}".encode()))
runpy.run_module("imagen_async", run_name="__main__", alter_sys=True)
"""
"""The command, which tells at its end what it has used: the system counts the memory of whoever started it."""


def ran(*words: str) -> dict[str, float]:
    """A command to its end."""
    began = time.monotonic()
    reading, writing = os.pipe()
    quiet = subprocess.DEVNULL
    command = [sys.executable, "-c", _TOLD, *words]
    environment = _ENVIRONMENT | {"TOLD": str(writing)}
    subprocess.run(command, check=True, env=environment, pass_fds=(writing,), stdout=quiet, stderr=quiet)
    wall = time.monotonic() - began
    cpu, peak = map(float, os.read(reading, 100).split())
    os.close(reading)
    os.close(writing)
    return {"wall": wall, "cpu": cpu, "peak": peak}


async def bare(prompts_path: str, journal: str) -> dict[str, float]:
    """What nobody does without: read the file, hash each line, and look its key up in the same journal, one by one."""
    began, began_at = time.process_time(), time.monotonic()
    found = 0
    with contextlib.closing(sqlite3.connect(journal)) as connection, open(prompts_path) as lines:  # noqa: ASYNC230
        for line in lines:
            content = json.dumps([line.strip(), "imagen4", None, None, None, None, {}], separators=(",", ":"))
            key = hashlib.blake2b(content.encode(), digest_size=8).hexdigest()
            found += connection.execute("SELECT * FROM jobs WHERE key = ?", (key,)).fetchone() is not None
    assert found, "it has the journal's keys"
    return {"cpu": time.process_time() - began, "wall": time.monotonic() - began_at, "peak": peak_memory()}


async def blocking(journal: str, count: int) -> dict[str, float]:
    """A batch of a program's own over that journal: the CPU time that its loop's thread is at one callback, at most."""
    loop, longest, last = asyncio.get_running_loop(), 0.0, math.inf

    def beat() -> None:
        nonlocal longest, last
        now = time.thread_time()
        longest, last = max(longest, now - last), now
        loop.call_soon(beat)

    async with Client(account("http://127.0.0.1:9", 100)) as client:
        # Made before: what a first batch imports is no matter of the journal.
        batch = client.batch(prompts(count), journal=journal)
        loop.call_soon(beat)
        async with batch as results:
            await asyncio.sleep(0)
            opened = longest
            assert (await anext(aiter(results))).earlier
    return {"opened": opened, "done": 1}


WORK: Work = {"bare": bare, "blocking": blocking}


def run(*, quick: bool) -> list[dict[str, object]]:
    """Rows for each size: coming back beside the bare loop, in turn; then each of the other commands, once."""
    rows: list[dict[str, object]] = []
    for count, rounds in ((20_000, 3),) if quick else ((100_000, 5), (1_000_000, 1)):
        with done(count) as folder, server_process(latency=3600) as url:
            rows += _coming_back(folder, url, rounds)
            rows += [_row(what, count, [figures]) for what, figures in _commands(folder)]
    return rows


def _coming_back(folder: Folder, url: str, rounds: int) -> list[dict[str, object]]:
    ours, loops, blocked = [], [], []
    for _ in range(rounds):
        ours.append(resumed(folder, url))
        folder.as_left()
        loops.append(_own("bare", str(folder.prompts), str(folder.path / "run.db")))
        blocked.append(_own("blocking", str(folder.path / "run.db"), folder.count)["opened"])
    ratio = statistics.median(one["cpu"] / other["cpu"] for one, other in zip(ours, loops, strict=True))
    row = _row("batch, to its first create", folder.count, ours)
    blocked_ms = statistics.median(blocked) * 1000
    return [row | {"over bare": ratio, "loop blocked ms": blocked_ms}, _row("bare", folder.count, loops)]


def _commands(folder: Folder) -> Iterator[tuple[str, dict[str, float]]]:
    path, shards = str(folder.path), str(folder.path.with_name("shards"))
    folder.as_left()
    yield "plan", ran("plan", str(folder.prompts), "-p", "sandbox")
    yield "status", ran("status", path)
    yield "gallery", ran("gallery", path)
    yield "export", ran("export", path, "--to", "webdataset", "-o", shards)


def _row(what: str, count: int, taken: list[dict[str, float]]) -> dict[str, object]:
    wall, cpu, peak = (statistics.median(each[name] for each in taken) for name in ("wall", "cpu", "peak"))
    least = min(each["cpu"] for each in taken)
    of_all = {"wall s": wall, "CPU s": cpu, "least CPU s": least}
    figures = {**of_all, "µs per line": cpu / count * 1e6, "peak MB": peak / 1e6}
    return {"what": what, "lines": count, **figures, "over bare": "", "loop blocked ms": ""}


def _own(name: str, *arguments: object) -> dict[str, Any]:
    return in_process(name, *arguments, module="benchmarks.resume")


def check() -> list[str]:
    """What is worse than half as much again than it is to be, in short forms; a sentence each."""
    count, failures = 20_000, []
    with done(count) as folder, server_process(latency=3600) as url:
        back, bare = _coming_back(folder, url, 3)
        blocked, peak = (float(str(back[name])) for name in ("loop blocked ms", "peak MB"))
        with done(1000) as short:
            start = min(resumed(short, url)["cpu"] for _ in range(3))
        small, large = _peaks(folder)
    # So few lines take less than the command's start does.
    ratio = (float(str(back["least CPU s"])) - start) / float(str(bare["least CPU s"]))
    if ratio > RATIO * 1.5:
        failures.append(f"To come back costs {ratio:.1f} times what a bare loop over file and journal does.")
    if blocked > BLOCKED * 1000 * 1.5:
        failures.append(f"To open a journal of {count:,} rows keeps the loop for {blocked:.0f} ms.")
    if peak * 1e6 > MEMORY * 0.5:
        failures.append(f"To come back to {count:,} lines takes {peak:.0f} MB.")
    if large - small > 20e6:
        failures.append(f"`status` takes {(large - small) / 1e6:.0f} MB more for {count:,} rows than for 1,000.")
    return failures


def _peaks(folder: Folder) -> tuple[float, float]:
    """Memory of `status` over a small folder, and over this one."""
    with done(1000) as small:
        return ran("status", str(small.path))["peak"], ran("status", str(folder.path))["peak"]


if __name__ == "__main__":
    main(WORK)
