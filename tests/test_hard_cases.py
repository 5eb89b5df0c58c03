"""What a hostile reading found in the command, over real sockets and processes: tasks and journals that do not fit."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import commands
import pytest
from commands import FAILURES, METADATA, Call, at, call, clean_environment, lines_of, prompt_file, rows_of
from inner import Journal, JournalReader
from journals import by_hand, place

from imagen_async.sandbox import Latency, Sandbox
from imagen_async.testing import running_sandbox

__all__ = ["call", "clean_environment", "place"]
pytestmark = pytest.mark.slow


def test_a_mistyped_task_is_not_noted(call: Call, imagen_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Collected under a wrong id, or at another provider, a held request stays as it was; the right one settles it."""
    monkeypatch.setenv("KIE_API_KEY", imagen_sandbox.key)
    imagen_sandbox.order("create", "reset_after")
    assert call("batch", prompt_file("a fox"), *at(imagen_sandbox), "-o", "out").code == 1
    (held,), (made,) = rows_of("out"), imagen_sandbox.ledger.tasks
    right, here = str(made.task_id), at(imagen_sandbox)
    elsewhere = ["-p", "kie", "--base-url", imagen_sandbox.url_of("kie")]
    for task_id, server, words in ((f"{right[:-1]}x", here, ""), (right, elsewhere, "sandbox, not kie")):
        wrong = call("collect", task_id, "--dir", "out", "--key", held["key"], *server)
        assert (wrong.code, wrong.out, words in wrong.err, rows_of("out")) == (2, "", True, [held])
    assert call("collect", right, "--dir", "out", "--key", held["key"], *here).code == 0
    assert [(row["state"], row["task_id"]) for row in rows_of("out")] == [("done", right)]
    assert [line["task_id"] for line in lines_of(METADATA)] == [right]


@pytest.mark.parametrize(
    "words", [("batch", "p.txt"), ("plan", "p.txt"), ("status",), ("gallery",)], ids=lambda it: it[0]
)
def test_a_folder_whose_journal_is_gone_is_no_new_one(call: Call, imagen_sandbox: Sandbox, words: Any) -> None:
    """Where something has what the journal knew last, each command says so first, and nothing is paid."""
    Path("p.txt").write_text("a fox\n")
    Path("out").mkdir()
    for name in ("run.db-rescued-1795929853", "metadata.jsonl"):
        Path("out", name).write_text("of an earlier run\n")
    options = ("-o", "out", *at(imagen_sandbox)) if len(words) > 1 else ("out",)
    outcome = call(*words, *options)
    assert (outcome.code, "run.db-rescued-1795929853 has what it knew last" in outcome.err) == (2, True), outcome.err
    assert imagen_sandbox.ledger.creates == []


WITHOUT_A_MAIN_THREAD = """
import asyncio, concurrent.futures.thread, sys, threading, time
from imagen_async import Client

async def main():
    while not concurrent.futures.thread._shutdown:  # which the end of the main thread sets
        time.sleep(0.01)
    async with Client("sandbox") as client, client.batch(["a", "b"], journal=sys.argv[1]) as results:
        print(sum([result.ok async for result in results]), "done")

threading.Thread(target=asyncio.run, args=(main(),)).start()
"""


def test_a_batch_outlives_the_main_thread(place: Path) -> None:
    """In a loop of another thread it goes on with its journal after the main thread has ended, to its own end."""
    command = [sys.executable, "-c", WITHOUT_A_MAIN_THREAD, str(place / "j.db")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (ran.stdout, ran.stderr, ran.returncode) == ("2 done\n", "", 0)
    with JournalReader(place / "j.db") as reader:
        assert reader.counts() == {"done": 2}


def test_a_task_that_the_journal_does_not_take_is_listed() -> None:
    """After Ctrl-C the command lists the paid task that its journal, as if the disk were full, could not take."""
    Path("out").mkdir()
    Journal(Path("out/run.db")).close()
    for event in ("INSERT", "UPDATE"):
        refusal = "WHEN NEW.state = 'running' BEGIN SELECT RAISE(ABORT, 'no room'); END"
        by_hand(Path("out/run.db"), f"CREATE TRIGGER no_{event} BEFORE {event} ON jobs {refusal}")
    with running_sandbox(Sandbox(latency=Latency(median=600, sigma=0))) as server:
        process = commands.start("batch", prompt_file("a"), *at(server), "-o", "out", "--verbose")
        try:
            assert any(" runs as task " in line for line in process.stderr or ())
            process.send_signal(signal.SIGINT)
        finally:
            outcome = commands.finish(process)
        assert (outcome.code != 0, "Traceback" in outcome.err) == (True, False)
        assert [line["task_id"] for line in lines_of(FAILURES)] == [task.task_id for task in server.ledger.tasks]
