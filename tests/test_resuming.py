"""A batch that goes on where it stopped, after any end: through the client, and by the same command again."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from commands import (
    COMMAND,
    FAILURES,
    METADATA,
    PATIENCE,
    Call,
    Outcome,
    Watched,
    at,
    call,
    clean_environment,
    finish,
    foxes,
    lines_of,
    rows_of,
    running_in,
    short_waits,
    start,
    tasks_in,
)
from dict_store import DictStore
from journals import entry, place

from imagen_async import Client, ImageRequest, Limits, Result
from imagen_async._core.values import stable_key
from imagen_async._journal import Journal
from imagen_async.events import Event, JobEvent
from imagen_async.sandbox import Latency, Lives, Sandbox
from imagen_async.testing import running_sandbox

__all__ = ["call", "clean_environment", "place"]

STEADY = Latency(median=0.8, sigma=0)
"""Long enough for a signal to find tasks that run, short enough for the next run to wait for them."""
SOON = ("--deadline", "0.4")
"""Leaves tasks of that latency running."""
ENDLESS = Latency(median=60, sigma=0)


def batch(sandbox: Sandbox, *options: str, file: str = "prompts.txt", out: str = "out") -> list[str]:
    """The arguments of a batch of the working folder."""
    return ["batch", file, *at(sandbox), "-o", out, *options]


def states_in(folder: str) -> list[str]:
    """The states of a journal's jobs, in the order of the input."""
    return [row["state"] for row in rows_of(folder)]


@pytest.fixture
def steady_sandbox() -> Iterator[Sandbox]:
    """A sandbox whose tasks all take the same time."""
    with running_sandbox(Sandbox(latency=STEADY)) as sandbox:
        yield sandbox


# Through the client


@pytest.mark.parametrize("kind", ["file", "dict"])
async def test_a_batch_that_is_left_goes_on(kind: str, place: Path) -> None:
    """Left in the middle, a batch goes on in another client, over a file or the caller's own store, and pays once."""
    kept: dict[str, Any] = {}
    prompts = [f"p{number}" for number in range(20)]

    def terms() -> dict[str, Any]:
        return {"journal": place / "j.db" if kind == "file" else DictStore(kept), "save_to": place / "out"}

    with running_sandbox(Sandbox(latency=Latency(median=0.05, minimum=0.01))) as sandbox:
        async with client_of(sandbox, limits=Limits(running=5)) as client, client.batch(prompts, **terms()) as results:
            await anext(results)
        assert 0 < len(sandbox.ledger.tasks) < 20, "or it was not left in the middle"
        async with client_of(sandbox) as client:
            first, again = [await all_of(client, prompts, **terms()) for _ in range(2)]
            (by_hand,) = await again[0].save(place / "saved by hand")
    assert sandbox.ledger.tasks_by_prompt() == dict.fromkeys(prompts, 1)
    assert sorted(result.request.prompt for result in first) == sorted(prompts)
    assert all(Path(file).exists() for result in first for file in (*result.files, by_hand))
    assert {result.earlier for result in first} == {False, True}
    assert {(result.ok, result.earlier) for result in again} == {(True, True)}


def client_of(sandbox: Sandbox, **settings: Any) -> Client:
    """A client of a sandbox in another thread."""
    return Client("sandbox", api_key=sandbox.key, base_url=sandbox.url, **settings)


async def all_of(client: Client, requests: Any, **terms: Any) -> list[Result]:
    """All results of a batch."""
    async with client.batch(requests, **terms) as results:
        return [result async for result in results]


async def test_tasks_of_a_sandbox_that_died_with_its_client_are_made_again(place: Path) -> None:
    """What ran at a client's own sandbox is gone with it, and cost nothing: the next run makes it anew, at once."""
    running = asyncio.Semaphore(0)

    def hear(event: Event) -> None:
        if isinstance(event, JobEvent) and event.state == "running":
            running.release()

    async with Client("sandbox", on_event=hear) as client, client.batch(["a", "b"], journal=place / "j.db"):
        for _ in range(2):
            await running.acquire()
    with anyio.fail_after(20):
        async with Client("sandbox") as client:
            again = await all_of(client, ["a", "b"], journal=place / "j.db")
    assert [result.ok for result in again] == [True, True]


@pytest.mark.slow
async def test_thousands_of_earlier_results_take_no_memory(imagen_sandbox: Sandbox, place: Path) -> None:
    """A lazy input whose jobs are all done streams through a resumed batch, and nothing of it stays."""
    count, seen = 5_000, 0
    keys = [stable_key(ImageRequest(f"prompt {number}")) for number in range(count)]
    with Journal(place / "j.db") as journal:
        for fields in ({}, {"state": "done", "urls": ("https://x.example/1.png",)}):
            journal.write(entry(n, key=key, account="sandbox", **fields) for n, key in enumerate(keys))
    async with client_of(imagen_sandbox) as client:
        prompts = (f"prompt {number}" for number in range(count))
        tracemalloc.start()
        try:
            async with client.batch(prompts, journal=place / "j.db", ordered=True) as results:
                async for result in results:
                    seen += result.earlier
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert (seen, imagen_sandbox.ledger.creates) == (count, [])
    assert peak < 8e6, "about a window of results, of which each takes a kilobyte or two"


# Signals


class Silent:
    """A server that takes a connection and a request, and never says a word."""

    def __enter__(self) -> Silent:
        self._socket = self._taken = socket.create_server(("127.0.0.1", 0))
        self.options = ["-p", "sandbox", "--base-url", f"http://127.0.0.1:{self._socket.getsockname()[1]}"]
        return self

    def __exit__(self, *_: object) -> None:
        self._taken.close()
        self._socket.close()

    def wait_for_a_create(self) -> None:
        """Wait until a request has come."""
        self._socket.settimeout(PATIENCE)
        self._taken, _ = self._socket.accept()
        self._taken.settimeout(PATIENCE)
        assert self._taken.recv(65536).startswith(b"POST")


LEFT = {
    "Ctrl-C": (signal.SIGINT, [], "running", "3 left running and paid for, 3 not sent"),
    "SIGTERM": (signal.SIGTERM, [], "running", "Nothing is lost; go on with: imagen-async batch prompts.txt"),
    "drain": (signal.SIGTERM, ["--on-exit", "drain"], "done", "Stopping: nothing more is sent"),
}


@pytest.mark.parametrize(("number", "options", "state", "told"), LEFT.values(), ids=list(LEFT))
def test_a_signal_leaves_and_the_same_command_goes_on(
    call: Call, number: signal.Signals, options: list[str], state: str, told: str
) -> None:
    """A signal leaves with 130, soon or once what runs is done; the same command waits for that, and sends the rest."""
    foxes(6)
    watched = Watched()
    with running_sandbox(Sandbox(latency=STEADY, faults=watched)) as sandbox:
        process = start(*batch(sandbox, "--running", "3", *options))
        watched.wait("create", 3)
        process.send_signal(number)
        left = finish(process)
        assert (left.code, left.is_clean, told in left.err) == (130, True, True), left.err
        assert {row["task_id"]: row["state"] for row in rows_of("out")} == dict.fromkeys(tasks_in(sandbox), state)
        outcome = call(*batch(sandbox))
    assert (outcome.code, len(left.lines) + len(outcome.lines)) == (0, 6)
    assert set(sandbox.ledger.tasks_by_prompt().values()) == {1}
    assert {line["task_id"] for line in lines_of(METADATA)} == tasks_in(sandbox).keys()
    assert FAILURES.read_bytes() == b""


ENDS = {
    "Ctrl-C": ([signal.SIGINT], 130, "unknown"),
    "Ctrl-C twice": ([signal.SIGINT, signal.SIGINT], 130, "unknown"),
    "kill": ([signal.SIGKILL], -9, "submitting"),
}


@pytest.mark.parametrize(("signals", "code", "state"), ENDS.values(), ids=list(ENDS))
def test_a_create_on_the_way_is_held(call: Call, signals: list[signal.Signals], code: int, state: str) -> None:
    """However a run ends while a create's answer is awaited, `status` tells that request as unknown, and its price."""
    foxes(3)
    with Silent() as silent:
        process = start("batch", "prompts.txt", *silent.options, "-o", "out")
        silent.wait_for_a_create()
        assert states_in("out") == ["submitting"], "the intent is on disk before the request is on the wire"
        process.send_signal(signals[0])
        for number in signals[1:]:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.2)  # it waits for the answer, which would tell a task
            process.send_signal(number)
        outcome = finish(process)
    assert (outcome.code, outcome.is_clean) == (code, True)
    assert states_in("out") in ([state], ["submitting"] * len(signals[1:]))
    (entry,) = call("status", "out", "--json").records
    assert (entry["at_work"], entry["credits_at_risk"], entry["unknown"][0]["prompt"]) == (False, 8, "fox number 0")
    assert {name: count for name, count in entry["counts"].items() if count} == {"not sent": 2, "unknown": 1}


def test_drain_is_left_by_a_second_ctrl_c() -> None:
    """With `--on-exit drain` a second Ctrl-C leaves at once, as the first one's message says; the journal has all."""
    foxes(9)
    watched = Watched()
    with running_sandbox(Sandbox(latency=ENDLESS, faults=watched)) as sandbox:
        process = start(*batch(sandbox, "--running", "3", "--on-exit", "drain"))
        watched.wait("poll", 3)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert "Once more leaves at once" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        outcome = finish(process)
        assert (outcome.code, outcome.is_clean) == (130, True)
        assert running_in("out") == tasks_in(sandbox)


def test_nohup_stays_nohup() -> None:
    """A batch that was started with Ctrl-C ignored goes on at a Ctrl-C, to its end."""
    foxes(3)
    watched = Watched()
    with running_sandbox(Sandbox(latency=STEADY, faults=watched)) as sandbox:
        process = start(*batch(sandbox), preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
        watched.wait("poll", 1)
        process.send_signal(signal.SIGINT)
        outcome = finish(process)
    assert (outcome.code, len(outcome.lines)) == (0, 3)


def test_a_folder_at_work_is_looked_at_and_left_alone(call: Call) -> None:
    """While a batch is at work on a folder, `status` tells so; another batch there, or `collect`, exits 2."""
    foxes(3)
    watched = Watched()
    with running_sandbox(Sandbox(latency=STEADY, faults=watched)) as sandbox:
        process = start(*batch(sandbox))
        watched.wait("create", 3)
        (entry,) = call("status", "out", "--json").records
        assert (entry["at_work"], entry["next"], sum(entry["counts"].values())) == (True, [], 3)
        assert "a batch is at work on it" in call("status", "out").out
        listed = METADATA.read_bytes()
        for arguments in (batch(sandbox), ["collect", "some-task", "--dir", "out", *at(sandbox)]):
            outcome = call(*arguments)
            assert (outcome.code, outcome.out) == (2, "")
            assert f"another batch (process {process.pid}) is at work on it. Nothing was sent" in outcome.err
        assert METADATA.read_bytes() == listed
        assert finish(process).code == 0
        assert len(sandbox.ledger.creates) == 3


# The same command again


def test_one_folder_through_five_runs(call: Call) -> None:
    """New lines are sent, moved ones known, removed ones fetched; what ended badly is paid again only when asked."""

    def runs(*options: str) -> tuple[int, int, int, list[str]]:
        """How a run ended, how many pictures it printed, how many creates it sent, and which prompts are not done."""
        before = len(sandbox.ledger.creates)
        outcome = call(*batch(sandbox, *options, file="prompts.csv"))
        failed = sorted(line["prompt"] for line in lines_of(FAILURES))
        return outcome.code, len(outcome.lines), len(sandbox.ledger.creates) - before, failed

    with running_sandbox(Sandbox(latency=STEADY)) as sandbox:
        sandbox.order("create", "reset_after")
        sandbox.order("task", None, "fail_word")
        Path("prompts.csv").write_text("prompt,note\na fox,lost\na dog,bad\na hen,gone\na hen,twice\n")
        assert runs(*SOON) == (1, 0, 4, ["a dog", "a fox", "a hen", "a hen"])
        assert sorted(states_in("out")) == ["running", "running", "running", "unknown"]
        Path("prompts.csv").write_text("prompt,note\nan owl,new\na hen,twice\na dog,bad\na fox,lost\n")
        assert runs() == (1, 3, 1, ["a dog", "a fox"])
        assert runs("--json") == (1, 0, 0, ["a dog", "a fox"]), "as it is, nothing is sent or printed again"
        assert runs("--retry-failed", "--resubmit-unknown") == (0, 2, 2, [])
        assert runs("--retry-failed", "--resubmit-unknown") == (0, 0, 0, [])
    assert sandbox.ledger.tasks_by_prompt() == {"a fox": 2, "a dog": 2, "a hen": 2, "an owl": 1}
    listed = {(line["prompt"], line["note"]) for line in lines_of(METADATA)}
    assert listed == {("a fox", "lost"), ("a dog", "bad"), ("a hen", "gone"), ("a hen", "twice"), ("an owl", "new")}


def test_a_changed_option_is_named_before_anything_is_sent(call: Call, imagen_sandbox: Sandbox) -> None:
    """Another aspect ratio, or prompt, for a known key exits 2 and names the first such lines; nothing is sent."""
    lines = [f"fox {number},k{number}\n" for number in range(12)]
    Path("prompts.csv").write_text("prompt,key\n" + "".join(lines))
    assert call(*batch(imagen_sandbox, file="prompts.csv")).code == 0
    Path("prompts.csv").write_text("prompt,key\na bear,k0\n" + "".join(lines[1:]) + "an owl,new\n")
    outcome = call(*batch(imagen_sandbox, "--aspect-ratio", "16:9", file="prompts.csv"))
    assert (outcome.code, outcome.out) == (2, "")
    *named, summary = outcome.err.splitlines()
    assert [line.partition(": ")[0] for line in named] == [f"prompts.csv:{number}" for number in range(2, 12)]
    assert "the key 'k0' stood for another request in out/run.db" in named[0]
    assert 'prompt was "fox 0" and is "a bear" now' in named[0]
    assert 'aspect_ratio was "1:1" and is "16:9" now' in named[1]
    assert summary == "12 problems of 13 requests; nothing was sent."
    assert len(imagen_sandbox.ledger.creates) == 12


def test_the_next_commands_work_as_they_stand(call: Call, imagen_sandbox: Sandbox) -> None:
    """Pasted into a shell, what `status` says to run next does it, also with spaces in the paths."""
    Path("my prompts.txt").write_text("a fox\na dog\n")
    imagen_sandbox.order("create", "reset_after")
    imagen_sandbox.order("task", None, "fail_word")
    options = {"file": "my prompts.txt", "out": "my out"}
    assert call(*batch(imagen_sandbox, "--negative-prompt", "blur; 'noise'", **options)).code == 1
    (told,) = call("status", "my out", "--json").records
    retry, collect, _ = told["next"]
    found = {"TASK_ID": str(imagen_sandbox.ledger.tasks[0].task_id), "KEY": told["unknown"][0]["key"]}
    for word, value in found.items():
        collect = collect.replace(word, value)
    for command in (collect, retry):
        environment = {**os.environ, "PATH": f"{Path(COMMAND).parent}{os.pathsep}{os.environ['PATH']}"}
        subprocess.run(command, shell=True, check=True, capture_output=True, env=environment, timeout=PATIENCE)
    assert len(imagen_sandbox.ledger.creates) == 3, "what was found at the provider is not made again"
    assert call("status", "my out", "--json").records[0]["next"] == []


REFUSED = {
    "no such task": (["collect", "t", "--dir", "out"], "--key KEY"),
    "no such request": (["collect", "t", "--dir", "out", "--key", "no-such-key"], "--key KEY"),
    "one with another task": (["collect", "t", "--dir", "out", "--key", "{key}"], "has another task in out/run.db"),
    "a key without its batch": (["collect", "t", "--key", "{key}"], "--dir"),
    "no batch to collect for": (["collect", "t", "--dir", "nowhere"], "nowhere holds no batch"),
    "no batch to look at": (["status", "nowhere"], "nowhere holds no batch: there is no run.db in it"),
}


def test_collect_brings_one_task_of_a_batch_to_its_end(call: Call, steady_sandbox: Sandbox) -> None:
    """`collect --dir` fetches a task that was left, and names its path again; what belongs to no request is refused."""
    foxes(2)
    assert call(*batch(steady_sandbox, *SOON)).code == 1
    before = rows_of("out")
    for name, (arguments, words) in REFUSED.items():
        options = at(steady_sandbox) if arguments[0] == "collect" else []
        outcome = call(*(each.format(key=before[0]["key"]) for each in arguments), *options)
        assert (outcome.code, outcome.out, words in outcome.err) == (2, "", True), (name, outcome.err)
    assert (rows_of("out"), Path("nowhere").exists()) == (before, False)
    first, second = tasks_in(steady_sandbox)
    for _ in range(2):
        outcome = call("collect", first, "--dir", "out", *at(steady_sandbox))
        (line,) = lines_of(METADATA)
        assert (outcome.code, outcome.lines) == (0, [f"out/{line['file_name']}"])
        assert (line["task_id"], line["credits"]) == (first, 8)
        assert {row["task_id"]: row["state"] for row in rows_of("out")} == {first: "done", second: "running"}
    assert call(*batch(steady_sandbox)).code == 0
    assert (len(steady_sandbox.ledger.creates), len(lines_of(METADATA))) == (2, 2)


@pytest.mark.parametrize(
    "spoil", [lambda path: path.write_bytes(path.read_bytes()[:-40]), Path.unlink], ids=["torn", "gone"]
)
def test_the_lists_follow_the_journal(call: Call, imagen_sandbox: Sandbox, spoil: Callable[[Path], Any]) -> None:
    """Lists with a torn line, or none, are right after the next run."""
    foxes(4)
    imagen_sandbox.order("task", "fail_word")
    assert call(*batch(imagen_sandbox)).code == 1
    before = [sorted(path.read_bytes().splitlines()) for path in (METADATA, FAILURES)]
    spoil(METADATA)
    spoil(FAILURES)
    assert call(*batch(imagen_sandbox)).code == 1
    assert [sorted(path.read_bytes().splitlines()) for path in (METADATA, FAILURES)] == before


# Keys, addresses, links


def test_the_key_is_nowhere(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """The API key is in no file of the folder, and on no stream of any command."""
    secret = "sk-very-secret-0123456789"
    monkeypatch.setenv("SANDBOX_API_KEY", secret)
    foxes(3)
    with running_sandbox(Sandbox(latency=STEADY, key=secret)) as sandbox:
        sandbox.order("create", "reset_after")
        said = [call(*batch(sandbox, *SOON, "-vv")), call("status", "out"), call("status", "out", "--json")]
        said.append(call(*batch(sandbox, "--resubmit-unknown", "--json", "-vv", "--gallery")))
        said.append(call("export", "out", "--to", "parquet"))
    assert (said[-2].code, said[-1].code) == (0, 0)
    assert " DEBUG sandbox: create: POST /api/v1/jobs/createTask: HTTP 200 in " in said[-2].err
    assert secret not in "".join(outcome.out + outcome.err for outcome in said)
    assert secret.encode() not in b"".join(path.read_bytes() for path in Path().rglob("*.*") if path.is_file())


@pytest.mark.parametrize("key", ["sk-wrong-0123", None], ids=["a wrong key", "another address"])
def test_whoever_does_not_know_a_task_does_not_end_it(
    call: Call, steady_sandbox: Sandbox, imagen_sandbox: Sandbox, key: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resume with a key that is refused, or at a server that knows no such task, leaves it for the right one."""
    foxes(1)
    assert call(*batch(steady_sandbox, *SOON)).code == 1
    with monkeypatch.context() as other:
        other.setenv("SANDBOX_API_KEY", key or imagen_sandbox.key)
        assert call(*batch(steady_sandbox if key else imagen_sandbox, "--deadline", "1")).code == 1
    assert states_in("out") == ["running"]
    assert call(*batch(steady_sandbox)).code == 0
    assert len(steady_sandbox.ledger.creates) == 1


LINKS = {
    "has died": (Lives(link=0.0), 0, "done", ""),
    "is gone": (Lives(link=0.0, picture=0.0), 1, "failed", "gone at the provider, and was paid for"),
}


@pytest.mark.parametrize(("lives", "code", "state", "words"), LINKS.values(), ids=list(LINKS))
def test_a_picture_whose_link_has_died_is_asked_for_anew(
    call: Call, lives: Lives, code: int, state: str, words: str
) -> None:
    """A later run fetches it by a new link, paid for once; one that the provider has no more is said to be gone."""
    foxes(1)
    with running_sandbox(Sandbox(latency=STEADY, lives=lives)) as sandbox:
        assert call(*batch(sandbox, *SOON)).code == 1
        with short_waits():
            outcome = call(*batch(sandbox))
        assert (outcome.code, len(outcome.lines), states_in("out")) == (code, 1 - code, [state])
        assert [line["error"]["type"] for line in lines_of(FAILURES)] == ["DownloadFailed"] * code
        assert words in FAILURES.read_text()
        assert call(*batch(sandbox)).code == code
    assert (len(sandbox.ledger.creates), call("status", "out", "--json").records[0]["credits_spent"]) == (1, 8)


# Asked for by test_hard_cases.


def eventually(condition: Callable[[], object]) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.01)


def is_tidy(outcome: Any) -> bool:
    """True for a stderr without what only a programmer understands."""
    return Outcome(*outcome).is_clean


def tasks_of(sandbox: Sandbox) -> set[str]:
    """The ids of all tasks that a sandbox made."""
    return set(tasks_in(sandbox))
