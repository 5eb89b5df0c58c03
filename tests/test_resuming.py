"""A batch that goes on where it stopped, after any end: through the client, and by the same command again."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import tarfile
import termios
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import commands
import pytest
from clients import Heard, client_of, run
from commands import (
    FAILURES,
    METADATA,
    PATIENCE,
    Call,
    at,
    call,
    clean_environment,
    foxes,
    lines_of,
    prompt_file,
    rows_of,
    tasks_in,
)
from dict_store import DictStore
from inner import Journal, stable_key
from journals import entry, place

from imagen_async import Client, ImageRequest, Limits
from imagen_async.sandbox import Latency, Lives, Sandbox
from imagen_async.testing import running_sandbox

__all__ = ["call", "clean_environment", "place"]

STEADY = Latency(median=0.8, sigma=0)
"""Long enough for a signal to find tasks that run, short enough for the next run to wait for them."""
SOON = ("--deadline", "0.4")
"""Leaves tasks of that latency running."""


def batch(sandbox: Sandbox, *options: str, file: str = "prompts.txt", out: str = "out") -> list[str]:
    """The arguments of a batch of the working folder."""
    return ["batch", file, *at(sandbox), "-o", out, *options]


def states_in(folder: str) -> list[str]:
    """The states of a journal's jobs, in the order of the input."""
    return [row["state"] for row in rows_of(folder)]


def standing_in(call: Call, folder: str) -> dict[str, Any]:
    """How `status` says that a folder stands."""
    (told,) = call("status", folder, "--json").records
    return told


@pytest.fixture
def steady_sandbox() -> Iterator[Sandbox]:
    """A sandbox whose tasks all take the same time."""
    with running_sandbox(Sandbox(latency=STEADY)) as sandbox:
        yield sandbox


@pytest.mark.parametrize("kind", ["file", "dict"])
async def test_a_batch_that_is_left_goes_on(kind: str, place: Path) -> None:
    """Left in the middle, a batch goes on in another client, over a file or the caller's own store, and pays once."""
    prompts = [f"p{number}" for number in range(20)]
    terms: Any = {"journal": place / "j.db" if kind == "file" else DictStore({}), "save_to": place / "out"}
    with running_sandbox(Sandbox(latency=Latency(median=0.05, minimum=0.01))) as sandbox:
        async with client_of(sandbox, limits=Limits(running=5)) as client, client.batch(prompts, **terms) as results:
            await anext(results)
        assert 0 < len(sandbox.ledger.tasks) < 20, "or it was not left in the middle"
        async with client_of(sandbox) as client:
            first, again = [await run(client, prompts, **terms) for _ in range(2)]
            (by_hand,) = await again[0].save(place / "saved by hand")
    assert sandbox.ledger.tasks_by_prompt() == dict.fromkeys(prompts, 1)
    assert sorted(result.request.prompt for result in first) == sorted(prompts)
    assert all(Path(file).exists() for result in first for file in (*result.files, by_hand))
    assert {result.earlier for result in first} == {False, True}
    assert {(result.ok, result.earlier) for result in again} == {(True, True)}


async def test_tasks_of_a_sandbox_that_died_with_its_client_are_made_again(place: Path) -> None:
    """What ran at a client's own sandbox is gone with it, and cost nothing: the next run makes it anew, at once."""
    heard, journal = Heard(), place / "j.db"
    async with Client("sandbox", on_event=heard) as client, client.batch(["a", "b"], journal=journal):
        await heard.job("running", 2)
    with anyio.fail_after(20):
        again = await run(Client("sandbox"), ["a", "b"], journal=journal)
    assert [result.ok for result in again] == [True, True]


@pytest.mark.slow
async def test_thousands_of_earlier_results_take_no_memory(imagen_sandbox: Sandbox, place: Path) -> None:
    """A lazy input whose jobs are all done streams through a resumed batch, and nothing of it stays."""
    count, seen = 5_000, 0
    keys = [stable_key(ImageRequest(f"prompt {number}")) for number in range(count)]
    with Journal(place / "j.db") as journal:
        for fields in ({}, {"state": "done", "urls": ("https://x.example/1.png",)}):
            journal.write(entry(n, key=key, account="sandbox", **fields) for n, key in enumerate(keys))
    prompts = (f"prompt {number}" for number in range(count))
    terms: Any = {"journal": place / "j.db", "ordered": True}
    tracemalloc.start()
    try:
        async with client_of(imagen_sandbox) as client, client.batch(prompts, **terms) as results:
            async for result in results:
                seen += result.earlier
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8e6, "about a window of results, a kilobyte or two each"
    assert (seen, imagen_sandbox.ledger.creates) == (count, [])


@contextmanager
def at_work(
    count: int, *options: str, latency: Latency = STEADY, until: str = "create", **streams: Any
) -> Iterator[Any]:
    """A process in the midst of a batch: three creates have come to its sandbox, or three questions."""
    foxes(count)
    watched = commands.Watched()
    with running_sandbox(Sandbox(latency=latency, faults=watched)) as sandbox:
        process = commands.start(*batch(sandbox, *options), **streams)
        watched.wait(until, 3)
        yield sandbox, process


LEFT = {
    "Ctrl-C": ([], "running", "3 left running and paid for, 3 not sent"),
    **dict.fromkeys(
        ["SIGTERM", "SIGHUP"], ([], "running", "Nothing is lost; go on with: imagen-async batch prompts.txt")
    ),
    "drain": (["--on-exit", "drain"], "done", "Stopping: nothing more is sent"),
}


@pytest.mark.parametrize("how", LEFT)
def test_a_signal_leaves_and_the_same_command_goes_on(call: Call, how: str) -> None:
    """A signal leaves with 130, soon or once what runs is done; the same command waits for that, and sends the rest."""
    options, state, told = LEFT[how]
    with at_work(6, "--running", "3", *options) as (sandbox, process):
        process.send_signal(signal.Signals[how] if how.startswith("SIG") else signal.SIGINT)
        left = commands.finish(process)
        assert (left.code, left.is_clean, told in left.err) == (130, True, True), left.err
        assert {row["task_id"]: row["state"] for row in rows_of("out")} == dict.fromkeys(tasks_in(sandbox), state)
        outcome = call(*batch(sandbox))
    assert (outcome.code, len(left.lines) + len(outcome.lines)) == (0, 6)
    assert set(sandbox.ledger.tasks_by_prompt().values()) == {1}
    assert {line["task_id"] for line in lines_of(METADATA)} == tasks_in(sandbox).keys()
    assert FAILURES.read_bytes() == b""


def test_drain_is_left_by_a_second_ctrl_c() -> None:
    """With `--on-exit drain` a second Ctrl-C leaves at once, as the first one's message says; the journal has all."""
    endless = Latency(median=60, sigma=0)
    with at_work(9, "--running", "3", "--on-exit", "drain", latency=endless, until="poll") as (sandbox, process):
        process.send_signal(signal.SIGINT)
        assert "Once more leaves at once" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        outcome = commands.finish(process)
        assert (outcome.code, outcome.is_clean) == (130, True)
        assert commands.running_in("out") == tasks_in(sandbox)


@pytest.mark.parametrize("more", [(), (signal.SIGHUP, signal.SIGHUP)], ids=["", "told of three times"])
def test_a_batch_outlives_its_terminal(more: tuple[signal.Signals, ...]) -> None:
    """Where the terminal is closed the batch is left in good order, and writing to nobody is no trouble."""
    terminal, end = pty.openpty()

    def attach() -> None:
        os.setsid()
        fcntl.ioctl(end, termios.TIOCSCTTY, 0)

    streams = dict.fromkeys(("stdin", "stdout", "stderr"), end)
    with at_work(6, "--running", "3", preexec_fn=attach, **streams) as (sandbox, process):
        os.close(end)
        os.close(terminal)
        for number in more:
            process.send_signal(number)
        assert process.wait(PATIENCE) == 130
        assert commands.running_in("out") == tasks_in(sandbox)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGHUP])
def test_nohup_stays_nohup(how: signal.Signals) -> None:
    """A batch that was started with a signal ignored goes on at it, to its end."""
    with at_work(3, preexec_fn=lambda: signal.signal(how, signal.SIG_IGN)) as (_, process):
        process.send_signal(how)
        outcome = commands.finish(process)
    assert (outcome.code, len(outcome.lines)) == (0, 3)


def test_a_folder_at_work_is_looked_at_and_left_alone(call: Call) -> None:
    """While a batch is at work on a folder, `status` tells so; another batch there, or `collect`, exits 2."""
    with at_work(3) as (sandbox, process):
        told = standing_in(call, "out")
        assert (told["at_work"], told["next"], sum(told["counts"].values())) == (True, [], 3)
        assert "a batch is at work on it" in call("status", "out").out
        listed = METADATA.read_bytes()
        for arguments in (batch(sandbox), ["collect", "some-task", "--dir", "out", *at(sandbox)]):
            outcome = call(*arguments)
            assert (outcome.code, outcome.out, METADATA.read_bytes()) == (2, "", listed)
            assert f"another batch (process {process.pid}) is at work on it. Nothing was sent" in outcome.err
        assert (commands.finish(process).code, len(sandbox.ledger.creates)) == (0, 3)


@pytest.mark.parametrize("signals", [["SIGINT"], ["SIGINT", "SIGINT"], ["SIGKILL"]], ids=" ".join)
def test_a_create_on_the_way_is_held(call: Call, signals: list[str]) -> None:
    """However a run ends while a create's answer is awaited, `status` tells that request as unknown, and its price."""
    foxes(3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(PATIENCE)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        process = commands.start("batch", "prompts.txt", "-p", "sandbox", "--base-url", url, "-o", "out")
        with silent.accept()[0] as request:
            assert request.recv(4) == b"POST"
            assert states_in("out") == ["submitting"], "the intent is on disk before the request is on the wire"
            for number in signals[:-1]:
                process.send_signal(signal.Signals[number])
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(0.2)  # it waits for the answer, which would tell a task
            process.send_signal(signal.Signals[signals[-1]])
            outcome = commands.finish(process)
    assert (outcome.code, outcome.is_clean) == (-9 if "SIGKILL" in signals else 130, True)
    assert len(signals) > 1 or states_in("out") == ["submitting" if "SIGKILL" in signals else "unknown"]
    told = standing_in(call, "out")
    assert (told["at_work"], told["credits_at_risk"], told["unknown"][0]["prompt"]) == (False, 8, "fox number 0")
    assert +Counter(told["counts"]) == {"not sent": 2, "unknown": 1}


def test_one_folder_through_five_runs(call: Call, steady_sandbox: Sandbox) -> None:
    """New lines are sent, moved ones known, removed ones fetched; what ended badly is paid again only when asked."""

    def runs(*options: str) -> tuple[int, int, int, list[str]]:
        """How a run ended, how many pictures it printed, how many creates it sent, and which prompts are not done."""
        before = len(steady_sandbox.ledger.creates)
        outcome = call(*batch(steady_sandbox, *options, file="prompts.csv"))
        failed = sorted(line["prompt"] for line in lines_of(FAILURES))
        return outcome.code, len(outcome.lines), len(steady_sandbox.ledger.creates) - before, failed

    steady_sandbox.order("create", "reset_after")
    steady_sandbox.order("task", None, "fail_word")
    Path("prompts.csv").write_text("prompt,note\na fox,lost\na dog,bad\na hen,gone\na hen,twice\n")
    assert runs(*SOON) == (1, 0, 4, ["a dog", "a fox", "a hen", "a hen"])
    assert sorted(states_in("out")) == ["running", "running", "running", "unknown"]
    Path("prompts.csv").write_text("prompt,note\nan owl,new\na hen,twice\na dog,bad\na fox,lost\n")
    assert runs() == (1, 3, 1, ["a dog", "a fox"])
    assert runs("--json") == (1, 0, 0, ["a dog", "a fox"]), "as it is, nothing is sent or printed again"
    assert runs("--retry-failed", "--resubmit-unknown") == (0, 2, 2, [])
    assert runs("--retry-failed", "--resubmit-unknown") == (0, 0, 0, [])
    assert steady_sandbox.ledger.tasks_by_prompt() == {"a fox": 2, "a dog": 2, "a hen": 2, "an owl": 1}
    listed = {(line["prompt"], line["note"]) for line in lines_of(METADATA)}
    assert listed == {("a fox", "lost"), ("a dog", "bad"), ("a hen", "gone"), ("a hen", "twice"), ("an owl", "new")}


def test_a_folder_is_in_the_order_of_the_file_as_it_is_now(call: Call, imagen_sandbox: Sandbox) -> None:
    """Lines inserted and lines that changed places are where they stand now, in lists, gallery and export; what is
    left to pay is said before it goes on."""
    words = ["batch", prompt_file("a fox", "a dog"), *at(imagen_sandbox), "-o", "out", "--gallery"]
    assert "left" not in call(*words).err
    order = ["a heron", "a dog", "an owl", "a fox"]
    prompt_file(*order)
    outcome = call(*words)
    assert (outcome.code, "2 of 4 are done; 2 are left, up to 16 credits\n" in outcome.err) == (0, True), outcome.err
    assert {line["prompt"]: line["index"] for line in lines_of(METADATA)} == {name: at for at, name in enumerate(order)}
    (shard,) = call("export", "out", "--to", "webdataset").lines
    with tarfile.open(shard) as tar:
        lines = [json.loads(tar.extractfile(name).read()) for name in tar.getnames() if name.endswith(".json")]  # type: ignore[union-attr]
    page = Path("out/index.html").read_text(encoding="utf-8")
    assert [line["prompt"] for line in lines] == sorted(order, key=page.index) == order


def test_a_changed_line_is_named_before_anything_is_sent(call: Call, imagen_sandbox: Sandbox) -> None:
    """Another prompt for a known key exits 2 and names each such line; nothing is sent."""
    Path("prompts.csv").write_text("prompt,key\na fox,k0\na dog,k1\n")
    assert call(*batch(imagen_sandbox, file="prompts.csv")).code == 0
    Path("prompts.csv").write_text("prompt,key\na bear,k0\na dog,k1\nan owl,new\na fox,k1\n")
    outcome = call(*batch(imagen_sandbox, file="prompts.csv"))
    assert (outcome.code, outcome.out, len(imagen_sandbox.ledger.creates)) == (2, "", 2)
    Path("prompts.csv").write_text("prompt,key\na bear,k0\na cat,k1\nan owl,new\n")
    first, second, summary = call(*batch(imagen_sandbox, file="prompts.csv")).err.splitlines()
    assert first.startswith("prompts.csv:2: The key 'k0' stood for another request in out/run.db")
    assert 'prompt was "a fox" and is "a bear" now' in first
    assert second.startswith("prompts.csv:3: ")
    assert summary == "2 problems of 3 requests; nothing was sent."


@pytest.mark.parametrize("file", ["prompts.txt", "keyed.csv"])
def test_other_options_for_a_folder_are_refused_once_or_added(call: Call, imagen_sandbox: Sandbox, file: str) -> None:
    """`-m` changed: one line says so, before a cent. With `--add` both are in the folder, its lists and its gallery.

    The same as a column is the same: each command, and both in one, goes on without paying anything again.
    """
    Path("prompts.txt").write_text("a fox\na heron\na fox\n")
    Path("keyed.csv").write_text("prompt,key\na fox,k0\na heron,k1\na fox,k2\n")
    fast, ultra = (batch(imagen_sandbox, "-m", f"imagen4-{model}", file=file) for model in ("fast", "ultra"))
    assert call(*fast).code == 0
    refused = call(*ultra)
    assert (refused.code, refused.out, len(imagen_sandbox.ledger.creates)) == (2, "", 3)
    assert "What was changed: model: imagen4-fast → imagen4-ultra. Nothing was sent." in refused.err
    assert refused.err.count("\n") == 1
    added = call(*ultra, "--add", "--gallery")
    assert (added.code, len(added.lines), len(lines_of(METADATA)), "3 done, 0 failed" in added.err) == (0, 3, 6, True)
    assert sorted(line["file_name"] for line in lines_of(METADATA)) == sorted(
        path.name for path in Path("out").glob("*.png")
    )
    columns = {"prompts.txt": "prompt,model\n", "keyed.csv": "prompt,key,model\n"}[file]
    lines = [line for line in Path(file).read_text().splitlines() if not line.startswith("prompt,")]
    Path("columns.csv").write_text(columns + "".join(f"{line},imagen4-fast\n" for line in lines))
    for command in (fast, ultra, [*ultra, "--add"], batch(imagen_sandbox, file="columns.csv")):
        assert call(*command) == (0, "", call(*command).err)
    assert len(imagen_sandbox.ledger.creates) == 6


def test_the_next_commands_work_as_they_stand(call: Call, imagen_sandbox: Sandbox) -> None:
    """Pasted into a shell, what `status` says to run next does it, also with spaces in the paths."""
    Path("my prompts.txt").write_text("a fox\na dog\n")
    imagen_sandbox.order("create", "reset_after")
    imagen_sandbox.order("task", None, "fail_word")
    options = {"file": "my prompts.txt", "out": "my out"}
    assert call(*batch(imagen_sandbox, "--negative-prompt", "blur; 'noise'", **options)).code == 1
    told = standing_in(call, "my out")
    retry, collect, _ = told["next"]
    collect = collect.replace("TASK_ID", str(imagen_sandbox.ledger.tasks[0].task_id))
    environment = {**os.environ, "PATH": f"{Path(commands.COMMAND).parent}{os.pathsep}{os.environ['PATH']}"}
    for command in (collect.replace("KEY", told["unknown"][0]["key"]), retry):
        subprocess.run(command, shell=True, check=True, capture_output=True, env=environment, timeout=PATIENCE)
    assert len(imagen_sandbox.ledger.creates) == 3, "what was found at the provider is not made again"
    assert standing_in(call, "my out")["next"] == []


MOVED: dict[str, tuple[list[tuple[str, str]], str, str]] = {
    "nothing": ([], "project", "out"),
    "seen from elsewhere": ([], "project/sub", "../out"),
    "the folder": ([("project/out", "project/sub/my out")], "project", "sub/my out"),
    "the project": ([("project", "my project")], "my project", "out"),
    "the project, seen from elsewhere": ([("project", "my project")], ".", "my project/out"),
}


@pytest.mark.parametrize(("moves", "here", "folder"), MOVED.values(), ids=MOVED)
def test_what_is_printed_names_the_folder_where_it_stands_now(
    call: Call,
    steady_sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    moves: Any,
    here: str,
    folder: str,
) -> None:
    """Whatever was moved: run as it is printed, from where it is, the command goes on, and pays nothing again."""
    outside = Path.cwd()
    Path("project/sub").mkdir(parents=True)
    monkeypatch.chdir("project")
    foxes(2)
    assert call(*batch(steady_sandbox, *SOON)).code == 1
    monkeypatch.chdir(outside)
    for old, new in moves:
        Path(old).rename(new)
    for other in (Path("project"), Path("project/sub")):
        other.mkdir(exist_ok=True)
        if not (other / "prompts.txt").exists():
            (other / "prompts.txt").write_text("an owl of another project\n")
    monkeypatch.chdir(here)
    (command,) = standing_in(call, folder)["next"]
    environment = {**os.environ, "PATH": f"{Path(commands.COMMAND).parent}{os.pathsep}{os.environ['PATH']}"}
    line = f"{command} --deadline 20"
    subprocess.run(line, shell=True, check=True, capture_output=True, env=environment, timeout=PATIENCE)
    assert (len(steady_sandbox.ledger.creates), standing_in(call, folder)["counts"]["done"]) == (2, 2)


def test_a_file_that_is_gone_is_named_in_a_line_that_does_nothing(call: Call, steady_sandbox: Sandbox) -> None:
    """With another file the command would pay, so that nothing is to be run as it stands."""
    foxes(2)
    assert call(*batch(steady_sandbox, *SOON)).code == 1
    Path("prompts.txt").unlink()
    told = f"# {os.path.abspath('prompts.txt')} is not there any more as it was; with FILE where it is now: "
    assert standing_in(call, "out")["next"][0].startswith(f"{told}imagen-async batch FILE ")
    Path("out").rename("before")
    foxes(3)  # for another folder
    assert standing_in(call, "before")["next"][0].startswith(told)


def test_a_copy_of_a_folder_says_so(call: Call, steady_sandbox: Sandbox) -> None:
    """What is not sent would be sent by both: `status` and `batch` tell it; another batch in the old place is none."""
    foxes(2)
    assert call(*batch(steady_sandbox, *SOON)).code == 1
    shutil.copytree("out", "copy")
    told = f"This folder is a copy of {os.path.abspath('out')}, which is still there"
    assert (standing_in(call, "copy")["copy_of"], told in call("status", "copy").out) == (os.path.abspath("out"), True)
    shutil.copytree("copy", "again")
    assert (told in call(*batch(steady_sandbox, *SOON, out="copy")).err, told in call("status", "out").out) == (
        True,
        False,
    )
    shutil.rmtree("out")
    assert call(*batch(steady_sandbox, file=prompt_file("an owl"))).code == 0
    assert standing_in(call, "again")["copy_of"] is None


def test_a_sandbox_of_the_commands_own_takes_its_tasks_with_it(call: Call) -> None:
    """Ctrl-C says that they are gone, and so do `status` and the next run, which makes them anew."""
    foxes(4)
    words = ("batch", "prompts.txt", "-p", "sandbox", "-o", "out", "--running", "2")

    process = commands.start(*words, "--json")
    process.stdout.readline()  # two more run by then
    process.send_signal(signal.SIGINT)
    left = commands.finish(process)
    gone = standing_in(call, "out")["counts"]["gone"]
    told = (f"{gone} gone with the sandbox", "and cost nothing. The same again makes them anew: imagen-async batch")
    assert (left.code, [each for each in told if each not in left.err], "paid for" in left.err) == (130, [], False)
    again = call(*words)
    assert (again.code, "gone with the sandbox, which ran inside of the command" in again.err) == (0, True)
    assert standing_in(call, "out")["counts"] == dict.fromkeys(standing_in(call, "out")["counts"], 0) | {"done": 4}


def test_a_picture_that_was_removed_is_nowhere_and_not_made_again(call: Call, imagen_sandbox: Sandbox) -> None:
    """Neither is one that is empty: lists, status, gallery and export agree, and the next run leaves it as it is."""
    foxes(4)
    assert call(*batch(imagen_sandbox)).code == 0
    gone, empty, *_ = sorted(Path("out").glob("*.png"))
    gone.unlink()
    gone.mkdir()
    empty.write_bytes(b"")
    assert call(*batch(imagen_sandbox)) == (0, "", call(*batch(imagen_sandbox)).err)
    assert (len(lines_of(METADATA)), len(imagen_sandbox.ledger.creates)) == (2, 4)
    said = [call("status", "out").out, call("gallery", "out").err, call("export", "out", "--to", "webdataset").err]
    assert ["2 pictures were removed from the folder" in each for each in said] == [True] * 3
    (task,) = [row["task_id"] for row in rows_of("out") if gone.name in row["files"]]
    collected = call("collect", task, "--dir", "out", *at(imagen_sandbox))
    assert collected == (0, "", "1 picture was removed from the folder\n")


def test_collect_brings_one_task_of_a_batch_to_its_end(call: Call, steady_sandbox: Sandbox) -> None:
    """`collect --dir` fetches a task that was left, and names its path again; what belongs to no request is refused."""
    foxes(2)
    assert call(*batch(steady_sandbox, *SOON)).code == 1
    before = rows_of("out")
    other = "has another task in out/run.db"
    for key, words in ((), "--key KEY"), (("--key", "none"), "--key KEY"), (("--key", before[0]["key"]), other):
        outcome = call("collect", "t", "--dir", "out", *key, *at(steady_sandbox))
        assert (outcome.code, outcome.out, words in outcome.err) == (2, "", True), outcome.err
    assert rows_of("out") == before
    first, second = tasks_in(steady_sandbox)
    for _ in range(2):
        outcome = call("collect", first, "--dir", "out", *at(steady_sandbox))
        (line,) = lines_of(METADATA)
        assert (outcome.code, outcome.lines) == (0, [f"out/{line['file_name']}"])
        assert (line["task_id"], line["credits"]) == (first, 8)
        assert {row["task_id"]: row["state"] for row in rows_of("out")} == {first: "done", second: "running"}
    assert call(*batch(steady_sandbox)).code == 0
    assert (len(steady_sandbox.ledger.creates), len(lines_of(METADATA))) == (2, 2)


def test_the_lists_follow_the_journal(call: Call, imagen_sandbox: Sandbox) -> None:
    """Lists with a torn line, or none, are right after the next run."""
    foxes(4)
    imagen_sandbox.order("task", "fail_word")
    for torn, gone in ((METADATA, FAILURES), (FAILURES, METADATA)):
        assert call(*batch(imagen_sandbox)).code == 1
        before = [sorted(path.read_bytes().splitlines()) for path in (METADATA, FAILURES)]
        torn.write_bytes(torn.read_bytes()[:-40])
        gone.unlink()
        assert call(*batch(imagen_sandbox)).code == 1
        assert [sorted(path.read_bytes().splitlines()) for path in (METADATA, FAILURES)] == before


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


@pytest.mark.parametrize("is_gone", [False, True], ids=["has died", "is gone"])
def test_a_picture_whose_link_has_died_is_asked_for_anew(call: Call, is_gone: bool) -> None:
    """A later run fetches it by a new link, paid for once; one that the provider has no more is said to be gone."""
    foxes(1)
    lives = Lives(link=0.0, picture=0.0) if is_gone else Lives(link=0.0)
    with running_sandbox(Sandbox(latency=STEADY, lives=lives)) as sandbox:
        assert call(*batch(sandbox, *SOON)).code == 1
        with commands.short_waits():
            outcome = call(*batch(sandbox))
        assert (outcome.code, len(outcome.lines)) == (int(is_gone), int(not is_gone))
        assert states_in("out") == ["failed" if is_gone else "done"]
        assert ("gone at the provider, and was paid for" in FAILURES.read_text()) == is_gone
        assert call(*batch(sandbox)).code == int(is_gone)
    assert (len(sandbox.ledger.creates), standing_in(call, "out")["credits_spent"]) == (1, 8)
