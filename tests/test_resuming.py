"""The command that goes on where it stopped: the same batch again, after any end, and what the folder tells of it.

Runs are left by a signal where that is the matter, elsewhere by a deadline that is shorter than the tasks.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kills import rows_of_copy
from PIL import Image
from test_command import (
    COMMAND,
    PATIENCE,
    Call,
    Outcome,
    Watched,
    at,
    call,
    clean_environment,
    empty_sandbox,
    finish,
    lines_of,
    prompt_file,
    rows_of,
    running_in,
    short_waits,
    start,
)

from imagen_async import Limits, Rate
from imagen_async._downloads import TRIES
from imagen_async.sandbox import Latency, Lives, Sandbox
from imagen_async.testing import running_sandbox

__all__ = ["call", "clean_environment", "empty_sandbox"]

STEADY = Latency(median=0.6, sigma=0)
"""Long enough for a signal to find tasks that run, short enough for the next run to wait for them."""
BRISK = Latency(median=0.4, sigma=0)
SOON = ("--deadline", "0.2")
"""Leaves tasks of the brisk latency running."""
METADATA, FAILURES = Path("out/metadata.jsonl"), Path("out/failures.jsonl")


@pytest.fixture
def brisk_sandbox() -> Iterator[Sandbox]:
    """A sandbox whose tasks all take the same short time."""
    with running_sandbox(Sandbox(latency=BRISK)) as sandbox:
        yield sandbox


def batch(sandbox: Sandbox, *options: str, file: str = "prompts.txt", out: str = "out") -> list[str]:
    """The arguments of a batch of the working folder."""
    return ["batch", file, *at(sandbox), "-o", out, *options]


def foxes(count: int) -> str:
    """A file of so many prompts."""
    return prompt_file(*(f"fox number {number}" for number in range(count)))


def states_in(folder: str) -> list[str]:
    """The states of a journal's jobs, in the order of the input."""
    return [row["state"] for row in rows_of(folder)]


def is_tidy(outcome: Outcome) -> bool:
    """True for a stderr without what only a programmer understands."""
    return not any(word in outcome.err for word in ("Traceback", "Unclosed", "Warning", "never retrieved"))


def tasks_of(sandbox: Sandbox) -> set[str | None]:
    """The ids of all tasks that a sandbox made."""
    return {task.task_id for task in sandbox.ledger.tasks}


def eventually(condition: Callable[[], object]) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.01)


def in_shell(command: str) -> Outcome:
    """Run a command line as a person would paste it."""
    environment = {**os.environ, "PATH": f"{Path(COMMAND).parent}{os.pathsep}{os.environ['PATH']}"}
    ran = subprocess.run(command, shell=True, capture_output=True, text=True, env=environment, timeout=PATIENCE)
    return Outcome(ran.returncode, ran.stdout, ran.stderr)


class Silent:
    """A server that takes connections and requests, and never says a word."""

    def __enter__(self) -> Silent:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._taken: list[socket.socket] = []
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        for each in (*self._taken, self._socket):
            each.close()

    def wait_for_a_create(self) -> None:
        """Wait until a request has come."""
        self._socket.settimeout(PATIENCE)
        connection, _ = self._socket.accept()
        connection.settimeout(PATIENCE)
        self._taken.append(connection)
        assert connection.recv(65536).startswith(b"POST")


# The same command again


def test_the_same_command_again_repeats_nothing(call: Call, imagen_sandbox: Sandbox) -> None:
    """After a batch that came to its end, the same command sends nothing, prints nothing twice and exits 0."""
    foxes(2)
    first = call(*batch(imagen_sandbox))
    listed = METADATA.read_bytes()
    second = call(*batch(imagen_sandbox))
    assert (first.code, len(first.lines)) == (0, 2)
    assert (second.code, second.out) == (0, "")
    assert second.err.startswith("2 done (2 earlier), 0 failed; 0 credits in ")
    assert len(imagen_sandbox.ledger.creates) == 2
    assert METADATA.read_bytes() == listed
    assert FAILURES.read_bytes() == b""


def test_as_json_too_nothing_is_printed_twice(call: Call, imagen_sandbox: Sandbox) -> None:
    """With `--json` a second run prints the results that are new, and no other."""
    foxes(2)
    assert len(call(*batch(imagen_sandbox, "--json", "--limit", "1")).records) == 1
    (entry,) = call(*batch(imagen_sandbox, "--json", "--ordered")).records
    assert (entry["ok"], entry["index"], entry["prompt"]) == (True, 1, "fox number 1")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_and_the_same_command_goes_on(call: Call, number: signal.Signals) -> None:
    """Ctrl-C or SIGTERM leaves soon with 130; the same command waits for what ran, and sends the rest, once."""
    foxes(9)
    watched = Watched()
    with running_sandbox(Sandbox(latency=STEADY, faults=watched)) as sandbox:
        process = start(*batch(sandbox, "--running", "3"))
        watched.wait("create", 3)
        began = time.monotonic()
        process.send_signal(number)
        left = finish(process)
        assert time.monotonic() - began < 5
        assert (left.code, left.out, is_tidy(left)) == (130, "", True)
        assert running_in("out").keys() == tasks_of(sandbox)
        outcome = call(*batch(sandbox))
        assert (outcome.code, len(outcome.lines)) == (0, 9)
    assert set(sandbox.ledger.tasks_by_prompt().values()) == {1}
    assert {line["task_id"] for line in lines_of(METADATA)} == tasks_of(sandbox)
    assert FAILURES.read_bytes() == b""


def test_a_create_on_the_way_is_held_after_ctrl_c(call: Call) -> None:
    """Ctrl-C while a create's answer is awaited leaves within seconds, and holds that request as unknown."""
    foxes(3)
    with Silent() as silent:
        process = start("batch", "prompts.txt", "-p", "sandbox", "--base-url", silent.url, "-o", "out")
        silent.wait_for_a_create()
        assert states_in("out") == ["submitting"], "the intent is on disk before the request is on the wire"
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        outcome = finish(process)
    assert time.monotonic() - began < 5
    assert (outcome.code, is_tidy(outcome)) == (130, True)
    assert states_in("out") == ["unknown"]
    (failure,) = lines_of(FAILURES)
    assert failure["error"]["type"] == "UnknownOutcome"


def test_a_second_ctrl_c_loses_nothing() -> None:
    """A second Ctrl-C ends the waiting for a create's answer; the journal still has what was on the way."""
    foxes(3)
    with Silent() as silent:
        process = start("batch", "prompts.txt", "-p", "sandbox", "--base-url", silent.url, "-o", "out")
        silent.wait_for_a_create()
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.2)  # it waits for the answer, which would tell a task
        process.send_signal(signal.SIGINT)
        outcome = finish(process)
    assert (outcome.code, is_tidy(outcome)) == (130, True)
    assert [row["state"] for row in rows_of_copy(Path("out"))] in (["unknown"], ["submitting"])


def test_drain_waits_for_what_runs() -> None:
    """With `--on-exit drain` SIGTERM sends no more, waits for the running tasks and exits 130 with none left."""
    foxes(9)
    watched = Watched()
    with running_sandbox(Sandbox(latency=STEADY, faults=watched)) as sandbox:
        process = start(*batch(sandbox, "--running", "3", "--on-exit", "drain"))
        watched.wait("create", 3)
        process.send_signal(signal.SIGTERM)
        outcome = finish(process)
    assert (outcome.code, is_tidy(outcome)) == (130, True)
    assert len(sandbox.ledger.creates) == len(outcome.lines) == 3
    assert "Stopping: nothing more is sent" in outcome.err
    assert "3 done, 0 failed, 6 not sent" in outcome.err
    assert states_in("out") == ["done"] * 3


def test_drain_is_left_by_a_second_ctrl_c() -> None:
    """With `--on-exit drain` a second Ctrl-C leaves at once, as the first one's message says; the journal has all."""
    foxes(9)
    watched = Watched()
    with running_sandbox(Sandbox(latency=Latency(median=60), faults=watched)) as sandbox:
        process = start(*batch(sandbox, "--running", "3", "--on-exit", "drain"))
        watched.wait("poll", 3)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert "Once more leaves at once" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        try:
            process.wait(5)
        finally:
            process.kill()
            outcome = finish(process)
        assert (outcome.code, is_tidy(outcome)) == (130, True)
        assert running_in("out").keys() == tasks_of(sandbox)


def test_nohup_stays_nohup() -> None:
    """A batch that was started with Ctrl-C ignored goes on at a Ctrl-C, to its end."""
    foxes(3)
    watched = Watched()
    with running_sandbox(Sandbox(latency=STEADY, faults=watched)) as sandbox:
        ignoring = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)}
        process = start(*batch(sandbox), **ignoring)
        watched.wait("poll", 1)
        process.send_signal(signal.SIGINT)
        outcome = finish(process)
    assert (outcome.code, len(outcome.lines)) == (0, 3)


# The file has changed, or the options


def test_new_lines_are_sent(call: Call, imagen_sandbox: Sandbox) -> None:
    """Lines that were added are sent, wherever they stand, and the others are not repeated."""
    prompt_file("a fox", "a dog")
    assert call(*batch(imagen_sandbox)).code == 0
    prompt_file("an owl", "a fox", "a bear", "a dog")
    outcome = call(*batch(imagen_sandbox))
    assert (outcome.code, len(outcome.lines)) == (0, 2)
    assert imagen_sandbox.ledger.tasks_by_prompt() == dict.fromkeys(("a fox", "a dog", "an owl", "a bear"), 1)
    assert {line["prompt"] for line in lines_of(METADATA)} == {"a fox", "a dog", "an owl", "a bear"}
    assert all(Path("out", line["file_name"]).exists() for line in lines_of(METADATA))


def test_a_removed_line_that_is_paid_for_is_still_fetched(call: Call, brisk_sandbox: Sandbox) -> None:
    """A task that runs is collected although its line is gone from the file; nothing of that line is sent again."""
    prompt_file("a fox", "a dog")
    assert call(*batch(brisk_sandbox, *SOON)).code == 1
    prompt_file("a dog", "an owl")
    outcome = call(*batch(brisk_sandbox))
    assert outcome.code == 0
    assert {line["prompt"] for line in lines_of(METADATA)} == {"a fox", "a dog", "an owl"}
    assert set(brisk_sandbox.ledger.tasks_by_prompt().values()) == {1}


def test_other_order_is_the_same_batch(call: Call, imagen_sandbox: Sandbox) -> None:
    """Lines in another order are the same requests, doubled ones too."""
    prompt_file("a fox", "a dog", "a fox")
    assert call(*batch(imagen_sandbox)).code == 0
    prompt_file("a fox", "a fox", "a dog")
    outcome = call(*batch(imagen_sandbox))
    assert (outcome.code, outcome.out) == (0, "")
    assert len(imagen_sandbox.ledger.creates) == 3


def test_a_changed_option_is_named_before_anything_is_sent(call: Call, imagen_sandbox: Sandbox) -> None:
    """Another aspect ratio for known lines exits 2, names the first of these lines and the change; nothing is sent."""
    foxes(12)
    assert call(*batch(imagen_sandbox)).code == 0
    foxes(14)
    outcome = call(*batch(imagen_sandbox, "--aspect-ratio", "16:9"))
    assert (outcome.code, outcome.out) == (2, "")
    *named, summary = outcome.err.splitlines()
    assert [line.partition(": ")[0] for line in named] == [f"prompts.txt:{number}" for number in range(1, 11)]
    assert 'aspect_ratio was "1:1" and is "16:9" now' in named[0]
    assert summary == "12 problems of 14 requests; nothing was sent."
    assert len(imagen_sandbox.ledger.creates) == 12


def test_another_prompt_under_a_known_key_is_refused(call: Call, imagen_sandbox: Sandbox) -> None:
    """A key of the file that stood for another prompt exits 2 and names the line, the key and both prompts."""
    Path("prompts.csv").write_text("prompt,key\na fox,one\na dog,two\n")
    assert call(*batch(imagen_sandbox, file="prompts.csv")).code == 0
    Path("prompts.csv").write_text("prompt,key\na fox,one\na bear,two\nan owl,three\n")
    outcome = call(*batch(imagen_sandbox, file="prompts.csv"))
    assert outcome.code == 2
    assert "prompts.csv:3: the key 'two' stood for another request in out/run.db" in outcome.err
    assert 'prompt was "a dog" and is "a bear" now' in outcome.err
    assert len(imagen_sandbox.ledger.creates) == 2


def test_limit_first_and_then_all(call: Call, imagen_sandbox: Sandbox) -> None:
    """`--limit 10` tries ten; the command without it makes the rest, and those ten are not made again."""
    foxes(14)
    assert len(call(*batch(imagen_sandbox, "--limit", "10")).lines) == 10
    assert len(call(*batch(imagen_sandbox)).lines) == 4
    assert set(imagen_sandbox.ledger.tasks_by_prompt().values()) == {1}


def test_columns_of_the_file_survive(call: Call, brisk_sandbox: Sandbox) -> None:
    """A picture that a later run fetches is listed with the other columns of its line, like any other."""
    Path("prompts.csv").write_text("prompt,id,note\na fox,7,rot\na dog,8,blau\n")
    assert call(*batch(brisk_sandbox, *SOON, file="prompts.csv")).code == 1
    assert call(*batch(brisk_sandbox, file="prompts.csv")).code == 0
    columns = {line["prompt"]: (line["id"], line["note"]) for line in lines_of(METADATA)}
    assert columns == {"a fox": ("7", "rot"), "a dog": ("8", "blau")}


def test_the_window_holds_across_runs(call: Call) -> None:
    """Creates of an earlier run count until the server has forgotten them: a strict one refuses none."""
    limits = Limits(submit=Rate(4, per=0.8), status=Rate(200, per=1), running=50)
    with running_sandbox(Sandbox(latency=Latency(median=0.05), limits=limits)) as sandbox:
        for count in (4, 8):
            foxes(count)
            assert call(*batch(sandbox, "--rate", "4/0.8")).code == 0
    assert sandbox.ledger.refused.total() == 0


def test_the_window_holds_for_a_create_that_took_long(call: Call) -> None:
    """A create of an earlier run counts from its answer: where it took long, the server may have seen it just now."""
    limits = Limits(submit=Rate(4, per=0.8), status=Rate(200, per=1), running=50)
    with running_sandbox(Sandbox(latency=Latency(median=0.05), limits=limits)) as sandbox:
        foxes(4)
        assert call(*batch(sandbox, "--rate", "4/0.8")).code == 0
        with contextlib.closing(sqlite3.connect("out/run.db")) as connection, connection:
            connection.execute("UPDATE jobs SET sent_at = sent_at - 2")
        foxes(8)
        assert call(*batch(sandbox, "--rate", "4/0.8")).code == 0
    assert sandbox.ledger.refused.total() == 0


# Failed ones


def test_failed_ones_stay_failed(call: Call, imagen_sandbox: Sandbox) -> None:
    """The same command does not pay again for what failed at the provider, exits 1, and still lists it."""
    foxes(3)
    imagen_sandbox.order("task", "fail_word")
    assert call(*batch(imagen_sandbox)).code == 1
    before = FAILURES.read_bytes()
    outcome = call(*batch(imagen_sandbox))
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.startswith("2 done (2 earlier), 1 failed; 0 credits")
    assert len(imagen_sandbox.ledger.creates) == 3
    assert lines_of(FAILURES) == [json.loads(before)]


def test_retry_failed_makes_new_tasks_of_those_alone(call: Call, imagen_sandbox: Sandbox) -> None:
    """`--retry-failed` sends each failed one once more; when it is done it leaves failures.jsonl."""
    foxes(3)
    imagen_sandbox.order("task", "fail_word", None, "fail_digits")
    assert call(*batch(imagen_sandbox)).code == 1
    imagen_sandbox.order("task", None, "fail_digits")
    outcome = call(*batch(imagen_sandbox, "--retry-failed"))
    assert (outcome.code, len(outcome.lines)) == (1, 1)
    assert len(imagen_sandbox.ledger.creates) == 5
    assert len(lines_of(METADATA)) == 2
    (failure,) = lines_of(FAILURES)
    assert failure["task_id"] in {task.task_id for task in imagen_sandbox.ledger.tasks[3:]}, "the newer task is told"
    assert call(*batch(imagen_sandbox, "--retry-failed")).code == 0
    assert FAILURES.read_bytes() == b""
    assert len(lines_of(METADATA)) == 3


# Unknown ones


def test_an_unknown_one_is_held(call: Call, imagen_sandbox: Sandbox) -> None:
    """What a lost answer left unknown is not sent by the same command, and `status` tells prompt, time and credits."""
    foxes(2)
    imagen_sandbox.order("create", "reset_after")
    assert call(*batch(imagen_sandbox, "-m", "imagen4-ultra")).code == 1
    outcome = call(*batch(imagen_sandbox, "-m", "imagen4-ultra"))
    assert (outcome.code, outcome.out) == (1, "")
    assert "1 failed (1 with the create's answer lost: maybe billed, not sent again)" in outcome.err
    assert len(imagen_sandbox.ledger.creates) == 2
    lost = imagen_sandbox.ledger.creates[0]
    shown = call("status", "out").out
    assert "1 unknown  (the create's answer was lost: maybe billed, held, not sent again)" in shown
    (held,) = [line for line in shown.splitlines() if lost.prompt in line and line.startswith("  ")]
    assert time.strftime("%Y-%m-%d ") in held
    assert "up to 12 credits" in held
    (entry,) = call("status", "out", "--json").records
    assert entry["credits_at_risk"] == 12
    assert entry["unknown"][0]["prompt"] == lost.prompt
    assert abs(entry["unknown"][0]["sent_at"] - time.time()) < 60


def test_resubmit_unknown_sends_it_exactly_once(call: Call, imagen_sandbox: Sandbox) -> None:
    """`--resubmit-unknown` sends a held one once a run, and never one that is known to be done."""
    foxes(2)
    imagen_sandbox.order("create", "reset_after")
    assert call(*batch(imagen_sandbox)).code == 1
    imagen_sandbox.order("create", "http_502")
    outcome = call(*batch(imagen_sandbox, "--resubmit-unknown"))
    assert (outcome.code, len(imagen_sandbox.ledger.creates)) == (1, 3), "its answer was lost again: held again"
    assert call("status", "out", "--json").records[0]["credits_at_risk"] == 16
    outcome = call(*batch(imagen_sandbox, "--resubmit-unknown"))
    assert (outcome.code, len(outcome.lines)) == (0, 1)
    assert call(*batch(imagen_sandbox, "--resubmit-unknown")).code == 0
    assert len(imagen_sandbox.ledger.creates) == 4
    assert FAILURES.read_bytes() == b""


@pytest.mark.parametrize("option", ["--retry-failed", "--resubmit-unknown"])
def test_what_is_paid_again_is_no_advice(option: str) -> None:
    """A run that paid again on request and was left does not advise to pay again: what is said is the plain command."""
    foxes(3)
    watched = Watched()
    with running_sandbox(Sandbox(latency=Latency(median=60), faults=watched)) as sandbox:
        process = start(*batch(sandbox, option, "--running", "1"))
        watched.wait("poll", 1)
        process.send_signal(signal.SIGINT)
        outcome = finish(process)
        assert f"go on with: {shlex.join(['imagen-async', *batch(sandbox, '--running', '1')])}\n" in outcome.err


# status


def test_status_tells_how_it_stands(call: Call, imagen_sandbox: Sandbox) -> None:
    """`status` counts by state, adds up credits spent and at risk, groups failures, and says what to run next."""
    foxes(6)
    imagen_sandbox.order("create", "reset_after")
    imagen_sandbox.order("task", None, "fail_word", "fail_digits")
    assert call(*batch(imagen_sandbox)).code == 1
    (entry,) = call("status", "out", "--json").records
    assert (entry["dir"], entry["at_work"]) == ("out", False)
    counts = {name: count for name, count in entry["counts"].items() if count}
    assert counts == {"done": 3, "failed": 2, "unknown": 1}
    assert (entry["credits_spent"], entry["credits_at_risk"]) == (24, 8)
    reasons = {(each["type"], each["code"]): each for each in entry["failures"]}
    sensitive = reasons["GenerationFailed", "SENSITIVE_WORD_ERROR"]
    assert (sensitive["count"], sensitive["example"]["message"]) == (1, "The prompt was flagged as sensitive.")
    assert sensitive["example"]["prompt"].startswith("fox number ")
    assert [each["count"] for each in entry["failures"]] == [1, 1]
    text = call("status", "out").out
    for words in ("out: 6 requests", "3 done", "2 failed", "1 unknown", "24 spent, up to 8 more", "next:"):
        assert words in text
    assert [line.strip() for line in text.splitlines()[-3:]] == entry["next"]


def test_reasons_are_grouped(call: Call, imagen_sandbox: Sandbox) -> None:
    """Failures that differ in ids alone are one reason, with their number, the most frequent first."""
    foxes(7)
    imagen_sandbox.order("task", "fail_word", *["fail_digits"] * 4)
    assert call(*batch(imagen_sandbox)).code == 1
    (entry,) = call("status", "out", "--json").records
    assert [(each["code"], each["count"]) for each in entry["failures"]] == [("500", 4), ("SENSITIVE_WORD_ERROR", 1)]


def test_what_is_not_sent_is_counted(call: Call, empty_sandbox: Sandbox) -> None:
    """Requests that a stopped account never took are told by `status` as queued or not sent, and free of charge."""
    foxes(12)
    assert call(*batch(empty_sandbox)).code == 1
    (entry,) = call("status", "out", "--json").records
    counts = entry["counts"]
    assert (counts["done"], counts["queued"] + counts["not sent"], entry["credits_spent"]) == (2, 10, 16)
    assert entry["next"] == [shlex.join(["imagen-async", *batch(empty_sandbox)])]


def test_the_next_commands_work_as_they_stand(call: Call, imagen_sandbox: Sandbox) -> None:
    """Pasted into a shell, what `status` says to run next does it, also with spaces in the paths."""
    Path("my prompts.txt").write_text("a fox\na dog\nan owl\n")
    imagen_sandbox.order("create", "reset_after")
    imagen_sandbox.order("task", None, "fail_word")
    options = {"file": "my prompts.txt", "out": "my out"}
    assert call(*batch(imagen_sandbox, "--negative-prompt", "blur; 'noise'", **options)).code == 1
    (entry,) = call("status", "my out", "--json").records
    assert entry["dir"] == "my out"
    retry, _, resubmit = entry["next"]
    assert retry.endswith(" --retry-failed")
    assert in_shell(retry).code == 1, "the held one stays"
    assert len(imagen_sandbox.ledger.creates) == 4
    assert " --resubmit-unknown" in resubmit
    assert in_shell(resubmit).code == 0
    assert call("status", "my out", "--json").records[0]["counts"]["done"] == 3
    assert call("status", "my out", "--json").records[0]["next"] == []


def test_the_next_command_for_a_held_one_finds_its_server(call: Call, imagen_sandbox: Sandbox) -> None:
    """The `collect` that `status` names asks where the batch was sent, without another word about the account."""
    foxes(1)
    imagen_sandbox.order("create", "reset_after")
    assert call(*batch(imagen_sandbox)).code == 1
    (entry,) = call("status", "out", "--json").records
    (command,) = [each for each in entry["next"] if " collect " in each]
    (task,) = imagen_sandbox.ledger.tasks
    key = entry["unknown"][0]["key"]
    filled = command.partition("  #")[0].replace("TASK_ID", str(task.task_id)).replace("KEY", key)
    outcome = in_shell(f"{filled} --deadline 3")
    assert (outcome.code, outcome.out) == (0, "out/000000-fox-number-0.png\n")


def test_the_hint_at_status_is_quoted(call: Call, imagen_sandbox: Sandbox) -> None:
    """The `status` command that a batch with failures names works as it stands, also with spaces in the path."""
    foxes(1)
    imagen_sandbox.order("task", "fail_word")
    outcome = call(*batch(imagen_sandbox, out="my out"))
    _, _, command = outcome.err.strip().rpartition("what to do: ")
    assert in_shell(command).code == 0


def test_a_shortened_option_is_for_one_run_too(call: Call, imagen_sandbox: Sandbox) -> None:
    """However `--retry-failed` is written, going on does not mean to pay again: the plain command is remembered."""
    foxes(3)
    imagen_sandbox.order("create", None, "401")
    if call(*batch(imagen_sandbox, "--retry", "--running", "1")).out:  # to refuse it is fine, too
        (entry,) = call("status", "out", "--json").records
        assert entry["next"] == [shlex.join(["imagen-async", *batch(imagen_sandbox, "--running", "1")])]


@pytest.mark.parametrize("folder", ["nowhere", "."])
def test_status_of_a_folder_without_a_batch(call: Call, folder: str) -> None:
    """`status` of a folder that holds no batch exits 2, says so, and leaves nothing there."""
    outcome = call("status", folder)
    assert (outcome.code, outcome.out) == (2, "")
    assert f"{folder} holds no batch: there is no run.db in it" in outcome.err
    assert os.listdir() == []


def test_status_while_a_batch_is_at_work(call: Call) -> None:
    """`status` of a folder at work says so, counts what runs, advises nothing, and disturbs nobody."""
    foxes(4)
    watched = Watched()
    with running_sandbox(Sandbox(latency=STEADY, faults=watched)) as sandbox:
        process = start(*batch(sandbox))
        watched.wait("create", 2)
        (entry,) = call("status", "out", "--json").records
        assert (entry["at_work"], entry["next"]) == (True, [])
        assert entry["counts"]["running"] + entry["counts"]["submitting"] > 0
        assert sum(entry["counts"].values()) == 4
        assert "a batch is at work on it" in call("status", "out").out
        assert finish(process).code == 0
    assert call("status", "out", "--json").records[0]["counts"]["done"] == 4


def test_status_of_a_killed_batch(call: Call) -> None:
    """A create that was on the way when its process was killed is told as unknown, before any other run."""
    foxes(3)
    with Silent() as silent:
        process = start("batch", "prompts.txt", "-p", "sandbox", "--base-url", silent.url, "-o", "out")
        silent.wait_for_a_create()
        process.kill()
        finish(process)
    (entry,) = call("status", "out", "--json").records
    assert (entry["at_work"], entry["credits_at_risk"]) == (False, 8)
    assert {name: count for name, count in entry["counts"].items() if count} == {"not sent": 2, "unknown": 1}
    assert entry["unknown"][0]["prompt"] == "fox number 0"


# Who may use a folder


def test_a_second_process_is_refused(call: Call) -> None:
    """While a batch is at work on a folder, another one exits 2 with nothing sent, and so does `collect --dir`."""
    foxes(3)
    watched = Watched()
    with running_sandbox(Sandbox(latency=STEADY, faults=watched)) as sandbox:
        process = start(*batch(sandbox))
        watched.wait("create", 3)
        listed = METADATA.read_bytes()
        outcome = call(*batch(sandbox))
        assert (outcome.code, outcome.out) == (2, "")
        assert f"another batch (process {process.pid}) is at work on it. Nothing was sent" in outcome.err
        (task, *_) = sandbox.ledger.tasks
        assert call("collect", str(task.task_id), "--dir", "out", *at(sandbox)).code == 2
        assert METADATA.read_bytes() == listed
        assert finish(process).code == 0
        assert len(sandbox.ledger.creates) == 3


def damage(path: Path) -> None:
    """Write over the middle of a file."""
    with open(path, "r+b") as file:
        file.seek(100)
        file.write(b"\xa5" * (path.stat().st_size - 100))


def age(path: Path) -> None:
    """Make a journal one of a newer version."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")


def replace(path: Path) -> None:
    """Put another program's database in a journal's place."""
    path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE notes (text)")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (damage, "out/run.db is damaged"),
        (lambda path: path.write_bytes(b"a letter " * 500), "out/run.db is no journal"),
        (age, "out/run.db was written by a newer version of imagen_async"),
        (replace, "out/run.db is no journal of imagen_async"),
    ],
    ids=["damaged", "no database", "newer", "foreign"],
)
def test_a_journal_that_is_no_use(
    call: Call, imagen_sandbox: Sandbox, spoil: Callable[[Path], Any], words: str
) -> None:
    """With a journal that is damaged, newer or foreign each command exits 2 and says so; nothing is sent or written."""
    foxes(40)
    assert call(*batch(imagen_sandbox, "--limit", "1")).code == 0
    spoil(Path("out/run.db"))
    before = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    collect = ["collect", "some-task", "--dir", "out", *at(imagen_sandbox)]
    for arguments in (batch(imagen_sandbox), ["status", "out"], collect):
        outcome = call(*arguments)
        assert (outcome.code, outcome.out) == (2, "")
        assert words in outcome.err
        assert len(imagen_sandbox.ledger.creates) == 1
        assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == before


# collect --dir


def test_collect_into_a_batch(call: Call, brisk_sandbox: Sandbox) -> None:
    """`collect --dir` brings a task of a left batch to its end: picture, list and journal; again, its path again."""
    foxes(2)
    assert call(*batch(brisk_sandbox, *SOON)).code == 1
    first, second = (str(task.task_id) for task in brisk_sandbox.ledger.tasks)
    outcome = call("collect", first, "--dir", "out", *at(brisk_sandbox))
    (line,) = lines_of(METADATA)
    assert (outcome.code, outcome.lines) == (0, [f"out/{line['file_name']}"])
    assert (line["task_id"], line["credits"]) == (first, 8)
    with Image.open(outcome.lines[0]) as picture:
        assert picture.size == (line["width"], line["height"])
    assert {row["task_id"]: row["state"] for row in rows_of("out")} == {first: "done", second: "running"}
    again = call("collect", first, "--dir", "out", *at(brisk_sandbox))
    assert (again.code, again.lines) == (0, outcome.lines)
    assert call(*batch(brisk_sandbox)).code == 0
    assert len(brisk_sandbox.ledger.creates) == 2
    assert len(lines_of(METADATA)) == 2


def test_collect_of_a_task_that_the_batch_does_not_know(call: Call, imagen_sandbox: Sandbox) -> None:
    """`collect --dir` of an unknown task exits 2 and says how to name the request; the batch stays as it was."""
    foxes(1)
    assert call(*batch(imagen_sandbox)).code == 0
    for options in ([], ["--key", "no-such-key"]):
        outcome = call("collect", "no-such-task", "--dir", "out", *options, *at(imagen_sandbox))
        assert (outcome.code, outcome.out) == (2, "")
        assert "--key KEY" in outcome.err
    assert states_in("out") == ["done"]
    assert imagen_sandbox.ledger.polls.keys() == tasks_of(imagen_sandbox)


def test_collect_of_a_held_request(call: Call, imagen_sandbox: Sandbox) -> None:
    """`collect --dir --key` fetches the task that was found at the provider for a held request, held no more."""
    foxes(2)
    imagen_sandbox.order("create", "reset_after")
    assert call(*batch(imagen_sandbox)).code == 1
    (held,) = [row for row in rows_of("out") if row["state"] == "unknown"]
    lost = imagen_sandbox.ledger.tasks[0]
    assert lost.prompt == json.loads(held["request"])["prompt"]
    outcome = call("collect", str(lost.task_id), "--dir", "out", "--key", held["key"], *at(imagen_sandbox))
    assert (outcome.code, len(outcome.lines)) == (0, 1)
    assert states_in("out") == ["done", "done"]
    assert {line["task_id"] for line in lines_of(METADATA)} == tasks_of(imagen_sandbox)
    assert FAILURES.read_bytes() == b""
    assert call(*batch(imagen_sandbox, "--resubmit-unknown")).code == 0
    assert len(imagen_sandbox.ledger.creates) == 2


def test_collect_does_not_move_a_task_to_another_request(call: Call, imagen_sandbox: Sandbox) -> None:
    """`collect --dir --key` of a request that has another task exits 2 and names that one."""
    foxes(2)
    assert call(*batch(imagen_sandbox)).code == 0
    (first, *_) = rows_of("out")
    outcome = call("collect", "another-task", "--dir", "out", "--key", first["key"], *at(imagen_sandbox))
    assert (outcome.code, outcome.out) == (2, "")
    assert first["task_id"] in outcome.err
    assert states_in("out") == ["done", "done"]


def test_a_key_needs_its_batch(call: Call, imagen_sandbox: Sandbox) -> None:
    """`collect --key` without `--dir` exits 2 and asks for it; `--dir` without a batch exits 2, too."""
    outcome = call("collect", "a-task", "--key", "a-key", *at(imagen_sandbox))
    assert outcome.code == 2
    assert "--dir" in outcome.err
    outcome = call("collect", "a-task", "--dir", "nowhere", *at(imagen_sandbox))
    assert outcome.code == 2
    assert "nowhere holds no batch" in outcome.err
    assert not Path("nowhere").exists()


# The lists


def tear(path: Path) -> None:
    """Cut the last line in its middle."""
    path.write_bytes(path.read_bytes()[:-40])


def double(path: Path) -> None:
    """Have every line twice."""
    path.write_bytes(path.read_bytes() * 2)


@pytest.mark.parametrize("spoil", [tear, double, Path.unlink, lambda path: path.write_bytes(b"")])
def test_the_lists_follow_the_journal(call: Call, imagen_sandbox: Sandbox, spoil: Callable[[Path], Any]) -> None:
    """Lists with a torn, doubled or missing line, or none, are right after the next run, in the order of finishing."""
    foxes(4)
    imagen_sandbox.order("task", "fail_word")
    assert call(*batch(imagen_sandbox)).code == 1
    before = METADATA.read_bytes(), FAILURES.read_bytes()
    spoil(METADATA)
    spoil(FAILURES)
    assert call(*batch(imagen_sandbox)).code == 1
    after = METADATA.read_bytes(), FAILURES.read_bytes()
    assert [sorted(lines.splitlines()) for lines in after] == [sorted(lines.splitlines()) for lines in before]
    assert sorted(path.name for path in Path("out").glob(".*")) == []


# Keys


def contents(folder: str) -> bytes:
    """All bytes of all files of a folder."""
    return b"".join(path.read_bytes() for path in sorted(Path(folder).iterdir()))


def test_the_key_is_nowhere(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """The API key is in no file of the folder, at work or after, and on no stream of any command."""
    secret = "sk-very-secret-0123456789"
    monkeypatch.setenv("SANDBOX_API_KEY", secret)
    foxes(4)
    watched = Watched()
    with running_sandbox(Sandbox(latency=STEADY, key=secret, faults=watched)) as sandbox:
        sandbox.order("create", "reset_after")
        process = start(*batch(sandbox, "-vv"))
        watched.wait("create", 4)
        at_work = contents("out")
        process.send_signal(signal.SIGINT)
        wording = [
            finish(process),
            call(*batch(sandbox, "-v")),
            call("status", "out"),
            call("status", "out", "--json"),
        ]
        wording.append(call(*batch(sandbox, "--resubmit-unknown", "--json", "-vv", "--gallery")))
        assert wording[-1].code == 0
        assert " DEBUG sandbox: create: POST /api/v1/jobs/createTask: HTTP 200 in " in wording[-1].err
        assert call("export", "out", "--to", "parquet").code == 0
    assert secret not in "".join(outcome.out + outcome.err for outcome in wording)
    assert secret.encode() not in at_work + contents("out") + contents("out-parquet")


def test_a_wrong_key_leaves_running_tasks_running(
    call: Call, brisk_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resume with a key that is refused exits 2, and the tasks that run are collected with the right one."""
    foxes(3)
    assert call(*batch(brisk_sandbox, *SOON, "--limit", "2")).code == 1
    monkeypatch.setenv("SANDBOX_API_KEY", "sk-wrong-0123")
    outcome = call(*batch(brisk_sandbox, "--deadline", "1"))
    assert (outcome.code, outcome.out) == (2, "")
    assert "refuses the key" in outcome.err
    assert states_in("out")[:2] == ["running", "running"]
    monkeypatch.delenv("SANDBOX_API_KEY")
    outcome = call(*batch(brisk_sandbox))
    assert (outcome.code, len(outcome.lines)) == (0, 3)
    assert set(brisk_sandbox.ledger.tasks_by_prompt().values()) == {1}


def test_another_address_does_not_end_a_task(call: Call, brisk_sandbox: Sandbox) -> None:
    """A resume at a server that knows no such task leaves it to be had at the right one."""
    foxes(1)
    assert call(*batch(brisk_sandbox, *SOON)).code == 1
    with running_sandbox(Sandbox()) as other:
        assert call(*batch(other, "--deadline", "1")).code == 1
    assert call(*batch(brisk_sandbox)).code == 0
    assert len(brisk_sandbox.ledger.creates) == 1


# Links that have died


def test_a_dead_link_is_renewed(call: Call) -> None:
    """A picture whose link has died when a later run comes to it is fetched by a new one, and paid for once."""
    foxes(1)
    with running_sandbox(Sandbox(latency=BRISK, lives=Lives(link=0.0))) as sandbox:
        assert call(*batch(sandbox, *SOON)).code == 1
        with short_waits():
            outcome = call(*batch(sandbox))
    assert (outcome.code, outcome.lines) == (0, ["out/000000-fox-number-0.png"])
    assert len(sandbox.ledger.creates) == 1
    assert [line["task_id"] for line in lines_of(METADATA)] == [sandbox.ledger.tasks[0].task_id]
    assert states_in("out") == ["done"]


def test_a_picture_that_is_gone_is_said_to_be(call: Call) -> None:
    """A picture that the provider has no more is a failure that says so and that it was paid for, and stays one."""
    foxes(1)
    with running_sandbox(Sandbox(latency=BRISK, lives=Lives(link=0.0, picture=0.0))) as sandbox:
        assert call(*batch(sandbox, *SOON)).code == 1
        with short_waits():
            outcome = call(*batch(sandbox))
        assert (outcome.code, outcome.out) == (1, "")
        (failure,) = lines_of(FAILURES)
        assert failure["error"]["type"] == "DownloadFailed"
        assert "gone at the provider, and was paid for" in failure["error"]["message"]
        assert states_in("out") == ["failed"]
        assert call(*batch(sandbox)).code == 1
        assert len(sandbox.ledger.creates) == 1
    (entry,) = call("status", "out", "--json").records
    assert (entry["credits_spent"], entry["counts"]["failed"]) == (8, 1)


def test_a_picture_that_could_not_be_fetched_is_fetched_later(call: Call, imagen_sandbox: Sandbox) -> None:
    """A picture that is made and could not be had stays to be fetched: the same command does so, for nothing."""
    foxes(1)
    imagen_sandbox.order("file", *["html"] * TRIES)
    with short_waits():
        assert call(*batch(imagen_sandbox)).code == 1
    assert call("status", "out", "--json").records[0]["counts"]["ready"] == 1
    assert len(lines_of(FAILURES)) == 1
    outcome = call(*batch(imagen_sandbox))
    assert (outcome.code, len(outcome.lines)) == (0, 1)
    assert FAILURES.read_bytes() == b""
    assert len(imagen_sandbox.ledger.creates) == 1
