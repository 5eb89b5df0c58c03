"""The command as a whole, against a sandbox: streams, exit codes, files, and what runs on when it is left.

The real command runs as a process where its installation, its streams or signals are the matter.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import signal
import sqlite3
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
    empty_sandbox,
    finish,
    foxes,
    lines_of,
    prompt_file,
    rows_of,
    running_in,
    short_waits,
    start,
    tasks_in,
)
from PIL import Image
from servers import free_socket

from imagen_async import DownloadFailed, ImageFile, ImageRequest, Limits, Rate, Result
from imagen_async._cli import main
from imagen_async._cli.accounts import pool_of
from imagen_async._cli.batch_run import BatchRun
from imagen_async._cli.library import Journal, router_of
from imagen_async._cli.loop import run_in_loop
from imagen_async._cli.manifest import Manifest
from imagen_async._cli.options import AccountOptions, OutputOptions, RunOptions
from imagen_async._cli.picture_sizes import Sizes
from imagen_async._cli.prompt_files import PromptFile
from imagen_async._downloads import TRIES
from imagen_async.providers import PROVIDERS
from imagen_async.sandbox import Latency, Sandbox
from imagen_async.testing import running_sandbox

__all__ = ["COMMAND", "PATIENCE", "call", "clean_environment", "empty_sandbox", "rows_of"]

WIDE = Limits(Rate(200, per=1), Rate(500, per=1), 200)
FILES = ["failures.jsonl", "metadata.jsonl", "run.db", "run.db-lock"]
"""What a batch leaves in a folder beside its pictures."""


def test_the_installed_command_needs_no_key_and_no_server() -> None:
    """`-p sandbox` alone saves a picture in an empty folder."""
    assert finish(start("generate", "a red fox", "-p", "sandbox", "-o", "out")) == (0, "out/000000-a-red-fox.png\n", "")
    with Image.open("out/000000-a-red-fox.png") as picture:
        picture.verify()


@pytest.mark.parametrize("missing", ["rich", "PIL", "jinja2"])
def test_the_extra_that_is_missing_is_named(call: Call, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    """Without the `cli` extra, the command exits 2 and says which install brings it."""
    monkeypatch.setitem(sys.modules, missing, None)
    needed = "imagen-async needs its command line extra: pip install 'imagen-async[cli]'\n"
    assert call("providers") == (2, "", needed)


def test_providers_lists_what_is_known(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """`providers` tells of each, for people and as JSON, whether its key is set, and shows no key."""
    monkeypatch.setenv("KIE_API_KEY", "sk-secret-0123")
    text, records = call("providers"), call("providers", "--json")
    assert [line.split(":")[0] for line in text.lines[::3]] == list(PROVIDERS)
    assert "key: KIE_API_KEY (set)" in text.lines[0]
    assert [(record["name"], record["key_is_set"]) for record in records.records] == [
        (name, name == "kie") for name in PROVIDERS
    ]
    assert "secret" not in text.out + records.out + text.err + records.err


def test_a_stdout_of_few_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where stdout cannot write a character, the command still says what it has to say."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii", write_through=True))
    assert main(("plan", prompt_file("a fox"), "-p", "apiin")) == 0
    assert written.getvalue().startswith(rb"1 request (1 \xd7 imagen4), 1 picture, 8 credits")


# What is refused before anything is sent

REFUSED = {
    "generate x -p openai": "There is no provider 'openai'",
    "generate x {at} -m imagen5": "'imagen5'",
    "generate x {at} --aspect-ratio 2:1": "aspect_ratio='2:1': allowed is one of",
    "generate x {at} --deadline -5": "deadline=-5",
    "generate x {at} -o prompts.txt/out": "Nothing can be written to prompts.txt/out: Not a directory",
    "collect t1 {at} --deadline inf": "deadline=inf",
    "collect t1 {at} --key k": "--key names a request of a batch: say with --dir which batch.",
    "collect t1 -p kie -p apiin": "-p: a task is one account's; name that one.",
    "collect t1 {at} --dir nowhere": "nowhere holds no batch: there is no run.db in it.",
    "collect no-such-task {at}": "The provider knows no such task (it may belong to another provider",
    "batch none.txt -p kie": "KIE_API_KEY",
    "batch none.txt {at}": "none.txt cannot be read: No such file or directory",
    "batch none.txt {at} --callback-port 1": "--callback-url is missing",
    "batch prompts.txt {at} --retries -1": "retries=-1",
    "batch prompts.txt {at} --deadline nan": "deadline=nan",
    "batch prompts.txt {at} --gallery": "say which with -o DIR",
    "batch prompts.txt {at} -o prompts.txt/out": "Nothing can be written to prompts.txt/out: Not a directory",
    "batch prompts.txt {at} -o listed": "listed holds metadata.jsonl and no journal (run.db) that it could follow.",
    "batch prompts.txt {at} -o failed": "failed holds failures.jsonl and no journal (run.db) that it could follow.",
    "batch prompts.txt -p apikley --base-url https://x.example --max-credits 9": "--price",
    "plan prompts.txt {at} --num-images 2": "num_images=2: imagen4 has no such parameter",
    "plan prompts.txt {at} -o prompts.txt": "prompts.txt is no folder",
    "plan prompts.txt {at} -o foreign": "foreign/run.db is no journal",
    "sandbox --port {port}": "cannot be used: ",
}


@pytest.mark.parametrize(("line", "told"), REFUSED.items(), ids=REFUSED)
def test_what_cannot_be_meant_exits_2(
    call: Call, imagen_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, line: str, told: str
) -> None:
    """The message names what is wrong; nothing is sent, nothing is printed, and no folder is made."""
    for name in (prompt_file("a fox"), "foreign/run.db", "listed/metadata.jsonl", "failed/failures.jsonl"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("what I dreamt of last night, and more of it than would fit into a header")
    before = {path: path.is_file() and path.read_bytes() for path in Path.cwd().rglob("*")}
    monkeypatch.setenv("APIKLEY_API_KEY", "k")
    line = line.format(at=" ".join(at(imagen_sandbox)), port=imagen_sandbox.url.rpartition(":")[2])
    outcome = call(*line.split())
    assert (outcome.code, outcome.out, told in outcome.err) == (2, "", True), outcome.err
    assert imagen_sandbox.ledger.creates == []
    assert {path: path.is_file() and path.read_bytes() for path in Path.cwd().rglob("*")} == before


@pytest.mark.parametrize("command", ["batch", "plan"])
def test_every_bad_line_is_named_and_nothing_is_sent(call: Call, imagen_sandbox: Sandbox, command: str) -> None:
    """Each line is checked together with the options, and is named by file and line; odd columns are a warning."""
    Path("prompts.csv").write_text("prompt,model,aspect ratio\na fox,,\na dog,imagen4,\nan owl,imagen5,\n")
    options = ("-m", "imagen4-fast", "--num-images", "2", "-o", "out")
    outcome = call(command, "prompts.csv", *at(imagen_sandbox), *options)
    assert (outcome.code, outcome.out) == (2, "")
    warning, second, third, summary = outcome.err.splitlines()
    assert warning.startswith("prompts.csv: warning: the column 'aspect ratio' is no field (aspect_ratio?)")
    assert second.startswith("prompts.csv:3: num_images=2: imagen4 has no such parameter")
    assert third.startswith("prompts.csv:4: ")
    assert summary == "2 problems of 3 requests; nothing was sent."
    assert (imagen_sandbox.ledger.creates, os.listdir()) == ([], ["prompts.csv"])


# One picture


def test_generate_sends_what_the_options_say(call: Call, imagen_sandbox: Sandbox) -> None:
    """Each option reaches the provider in its own words; without a folder the URLs are all that comes, on stdout."""
    picture = ["-m", "imagen4-fast", "--aspect-ratio", "9:16", "--negative-prompt", "blur", "--num-images", "2"]
    outcome = call("generate", "a fox", *at(imagen_sandbox), *picture, "--seed", "7")
    (task,) = tasks_in(imagen_sandbox)
    assert outcome == (0, "".join(f"{imagen_sandbox.url}/files/sandbox/{task}/{n}.png\n" for n in (1, 2)), "")
    (create,) = imagen_sandbox.ledger.creates
    expected = {"prompt": "a fox", "aspect_ratio": "9:16", "negative_prompt": "blur", "num_images": "2", "seed": 7}
    assert (create.model, create.input) == ("google/imagen4-fast", expected)
    assert imagen_sandbox.ledger.pictures.total() == 0


def test_generate_saves_what_collect_finds_again(call: Call, imagen_sandbox: Sandbox) -> None:
    """`generate -o` saves in the asked shape; `collect` prints or saves the same, as often as one likes."""
    words = ("--json", "-o", "new/out", "--aspect-ratio", "16:9")
    (made,) = call("generate", "ein Füchslein", *at(imagen_sandbox), *words).records
    (task,) = tasks_in(imagen_sandbox)
    assert (made["files"], made["task_id"], made["credits"]) == (["new/out/000000-ein-fuchslein.png"], task, 8)
    with Image.open(made["files"][0]) as picture:
        assert (picture.format, picture.size) == ("PNG", (384, 216))
    assert call("collect", task, *at(imagen_sandbox)).lines == made["urls"]
    for _ in range(2):
        assert call("collect", task, *at(imagen_sandbox), "-o", "new/out") == (0, f"new/out/000000-{task}.png\n", "")
    (record,) = call("collect", task, *at(imagen_sandbox), "--json").records
    assert (record["ok"], record["task_id"], record["credits"]) == (True, task, 8)
    assert (len(imagen_sandbox.ledger.creates), len(os.listdir("new/out"))) == (1, 2)
    assert imagen_sandbox.ledger.key_leaks == 0


@pytest.mark.parametrize(
    ("road", "faults", "words"),
    [
        ("task", ["fail_word"], "The prompt was flagged as sensitive."),
        ("create", ["reset_after"], "cost up to 8 credits; it is not sent again"),
        ("file", ["html"] * TRIES, "no PNG, JPEG or WebP picture: it begins with b'<html>"),
    ],
)
def test_generate_says_why_it_failed(
    call: Call, imagen_sandbox: Sandbox, road: Any, faults: list[str], words: str
) -> None:
    """A failure exits 1 with its reason and its task; what was made and cannot be saved is printed with its URL."""
    imagen_sandbox.order(road, *faults)
    with short_waits():
        outcome = call("generate", "a red fox", *at(imagen_sandbox), "--json", "-o", "out")
    (task,), (record,) = tasks_in(imagen_sandbox), outcome.records
    assert (outcome.code, words in outcome.err, words in record["error"]["message"]) == (1, True, True)
    assert (record["ok"], record["task_id"]) == (False, None if road == "create" else task)
    assert len(imagen_sandbox.ledger.creates) == 1
    assert record.get("urls", []) == [f"{imagen_sandbox.url}/files/sandbox/{task}/1.png"] * (road == "file")


def test_a_smaller_freshness_asks_more_often(call: Call) -> None:
    """`--freshness` sets how many status calls a picture is worth, alone and in a batch."""
    with running_sandbox(Sandbox(latency=Latency(median=0.4, sigma=0))) as sandbox:
        for words in (("generate", "a fox"), ("batch", prompt_file("a heron"))):
            for freshness in ("0.3", "0.001"):
                assert call(*words, *at(sandbox), "--freshness", freshness).code == 0
        polls = [sandbox.ledger.polls[task] for task in tasks_in(sandbox)]
    assert polls[1] > 2 * polls[0]
    assert polls[3] > 2 * polls[2]


# A batch


def test_batch_writes_pictures_and_their_list(call: Call, imagen_sandbox: Sandbox) -> None:
    """`batch` prints a path a picture and lists each with all that is known of it, in the order of finishing."""
    Path("prompts.csv").write_text(
        "id,Prompt,aspect_ratio,seed,model,num_images,key,width\n"
        "7,a red fox,16:9,,,,fox,wide\n"
        "8,ein Bär,,42,imagen4-fast,2,,narrow\n"
        "9,an owl,3:4,,,,,\n",
        encoding="utf-8",
    )
    imagen_sandbox.order("poll", "record_null")  # the first to be asked for is ready later than the others
    outcome = call("batch", "prompts.csv", *at(imagen_sandbox), "-o", "out")
    assert (outcome.code, outcome.err[:32]) == (0, "3 done, 0 failed; 24 credits in ")
    listed = lines_of(METADATA)
    assert [f"out/{line['file_name']}" for line in listed] == outcome.lines
    assert listed[-1]["task_id"] == next(iter(imagen_sandbox.ledger.polls)), "the last to finish is the last line"
    names = ["000000-a-red-fox.png", "000001-ein-bar.png", "000001-ein-bar-2.png", "000002-an-owl.png"]
    assert sorted(os.listdir("out")) == sorted([*names, *FILES])
    assert FAILURES.read_bytes() == b""
    by_name = {line["file_name"]: line for line in listed}
    for name, line in by_name.items():
        content = Path("out", name).read_bytes()
        assert line["sha256"] == hashlib.sha256(content).hexdigest()
        with Image.open(io.BytesIO(content)) as picture:
            assert (line["width"], line["height"]) == picture.size
        assert 0 < line.pop("latency") < 5
    fox, bear, second, owl = (by_name[name] for name in names)
    told = ("id", "prompt", "model", "aspect_ratio", "seed", "num_images", "input_width", "credits")
    assert [[line[name] for name in told] for line in (fox, bear, owl)] == [
        ["7", "a red fox", "imagen4", "16:9", None, None, "wide", 8],
        ["8", "ein Bär", "imagen4-fast", "16:9", 42, 2, "narrow", 4],
        ["9", "an owl", "imagen4", "3:4", None, None, None, 8],
    ]
    assert (fox["key"], bear["key"], bear["sha256"] != second["sha256"]) == ("fox", second["key"], True)
    assert {line["task_id"]: line["prompt"] for line in listed} == tasks_in(imagen_sandbox)


def test_batch_without_a_folder(call: Call, imagen_sandbox: Sandbox) -> None:
    """`batch` without `-o` prints URLs or JSON, names failures by file and line, and writes nothing."""
    imagen_sandbox.order("task", None, "fail_word", None, "fail_word")
    line = {"a fox": 2, "a dog": 4}
    outcome = call("batch", prompt_file("", "a fox", "", "a dog"), *at(imagen_sandbox))
    well, failed = imagen_sandbox.ledger.tasks
    assert (outcome.code, outcome.lines) == (1, [f"{imagen_sandbox.url}/files/sandbox/{well.task_id}/1.png"])
    assert f"prompts.txt:{line[failed.prompt]}: The prompt was flagged as sensitive." in outcome.err
    outcome = call("batch", "prompts.txt", *at(imagen_sandbox), "--json")
    assert outcome.code == 1
    assert {record["prompt"]: record["line"] for record in outcome.records} == line
    (error,) = (record["error"] for record in outcome.records if not record["ok"])
    assert (error["type"], error["code"]) == ("GenerationFailed", "SENSITIVE_WORD_ERROR")
    assert os.listdir() == ["prompts.txt"]


def test_ordered_prints_in_the_order_of_the_file(call: Call, imagen_sandbox: Sandbox) -> None:
    """`--ordered` keeps the file's order where a request that takes longer would come last without it."""
    for options in ([], ["--ordered"]):
        imagen_sandbox.order("poll", "record_null")
        outcome = call("batch", foxes(4), *at(imagen_sandbox), "--json", *options)
        order = [record["index"] for record in outcome.records]
        (slow,) = [n for n, record in enumerate(outcome.records) if imagen_sandbox.ledger.polls[record["task_id"]] > 1]
        assert (sorted(order), slow) == ([0, 1, 2, 3], order.index(0) if options else 3)
    assert order == [0, 1, 2, 3]


def test_batch_takes_stdin_and_keeps_its_streams_apart(imagen_sandbox: Sandbox) -> None:
    """The real command reads stdin, prints paths alone on stdout, and its summary alone on stderr."""
    process = start("batch", "-", *at(imagen_sandbox), "-o", "out", stdin=-1)
    outcome = finish(process, "ein Füchslein\r\n\r\n# a hash\r\n")
    assert outcome.code == 0
    assert set(outcome.lines) == {"out/000000-ein-fuchslein.png", "out/000001-a-hash.png"}
    (summary,) = outcome.err.splitlines()
    assert summary.startswith("2 done, 0 failed; 16 credits in ")


def test_failures_exit_1_and_are_listed(call: Call, imagen_sandbox: Sandbox) -> None:
    """What failed, and what may be paid for and is not sent again, leaves the others alone and stands in a list."""
    imagen_sandbox.order("task", "fail_digits", None, "fail_word")
    imagen_sandbox.order("create", None, None, None, None, "reset_after")
    words = ("batch", foxes(5), *at(imagen_sandbox), "-o", "out", "--running", "1", "--retries", "1")
    outcome = call(*words)
    assert (outcome.code, len(outcome.lines)) == (1, 4), "failed ones were made once more"
    (lost,) = lines_of(FAILURES)
    assert (lost["error"]["type"], lost["error"]["credits_at_risk"], lost["task_id"]) == ("UnknownOutcome", 8, None)
    assert "4 done, 1 failed (1 with the create's answer lost: maybe billed, not sent again); 32 cr" in outcome.err
    assert "Why is in out/failures.jsonl; what to do: imagen-async status out\n" in outcome.err
    assert sorted(imagen_sandbox.ledger.tasks_by_prompt().values()) == [1, 1, 1, 2, 2]


def test_a_wrong_key_stops_the_batch_at_once(
    call: Call, imagen_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that the provider refuses exits 2 after a single create, is shown nowhere, and the folder stays usable."""
    arguments = ["batch", foxes(12), *at(imagen_sandbox), "-o", "out"]
    monkeypatch.setenv("SANDBOX_API_KEY", "sk-wrong-0123")
    outcome = call(*arguments)
    assert (outcome.code, outcome.out, len(imagen_sandbox.ledger.creates)) == (2, "", 1)
    told = ("The provider refuses the key", "0 done, 0 failed, 12 not sent")
    assert [words for words in told if words not in outcome.err] == []
    assert not any(
        "sk-wrong" in text for text in (outcome.err, *(str(file.read_bytes()) for file in Path("out").iterdir()))
    )
    monkeypatch.delenv("SANDBOX_API_KEY")
    assert (call(*arguments, "--limit", "1").code, len(lines_of(METADATA))) == (0, 1)


def test_an_account_without_credit_keeps_the_results_so_far(call: Call, empty_sandbox: Sandbox) -> None:
    """When the credit is used up the batch ends with exit 1, says so, and what was paid for is saved and listed.

    What it noted and could not send is still to be paid for, and `plan -o` counts it.
    """
    outcome = call("batch", foxes(12), *at(empty_sandbox), "-o", "out")
    assert (outcome.code, len(outcome.lines)) == (1, 2)
    assert "no credit left: top it up" in outcome.err
    assert "2 done, 0 failed, 10 not sent; 16 credits" in outcome.err
    assert {line["task_id"] for line in lines_of(METADATA)} == set(tasks_in(empty_sandbox))
    assert all(Path(line).exists() for line in outcome.lines)
    (figures,) = call("plan", "prompts.txt", "-p", "sandbox", "-o", "out", "--json").records
    assert (figures["in_journal"], figures["requests"], figures["credits"]) == (2, 10, 80)


def test_a_failure_lists_what_it_has(tmp_path: Path) -> None:
    """What of a request was saved is listed beside its failure, which tells the task, the URLs and what they cost."""
    file = ImageFile(str(tmp_path / "1.png"), "0" * 64, 12, "image/png", "https://x.example/1.png")
    why = DownloadFailed("no picture", task_id="t")
    failed = Result("k", 0, ImageRequest("a fox"), "kie", "imagen4", (file.url, "u2"), (file,), why, "t", credits=8.0)
    with Journal(tmp_path / "run.db") as journal, Manifest(str(tmp_path), journal) as manifest:
        manifest.write(failed, {file.sha256: (288, 288)})
    (listed,), (failure,) = lines_of(tmp_path / "metadata.jsonl"), lines_of(tmp_path / "failures.jsonl")
    assert (listed["file_name"], listed["width"], listed["credits"]) == ("1.png", 288, 4)
    assert (failure["task_id"], failure["urls"], failure["credits"]) == ("t", [file.url, "u2"], 8)
    assert failure["error"] == {"type": "DownloadFailed", "message": "no picture", "code": None}


class Full(Manifest):
    """Lists on a disk that is full."""

    def write(self, result: Result, sizes: Sizes) -> None:
        """Fail."""
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_lists_that_cannot_be_written_name_every_paid_task(
    call: Call, imagen_sandbox: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    """When the disk fails under the lists, the batch stops, and every task is on stderr or left to the journal."""
    pool = pool_of(AccountOptions(("sandbox",), base_url=((None, imagen_sandbox.url),), rate=((None, Rate(5, per=1)),)))
    options = RunOptions(accounts=AccountOptions(), output=OutputOptions("out"), command_line="imagen-async batch")
    requests = PromptFile(foxes(30))
    requests.check(bool)
    Path("out").mkdir()
    with Journal("out/run.db") as journal, Full("out", journal) as manifest:
        journal.note({"total": "30"})
        run = BatchRun(requests, journal, manifest, router_of(pool), options)
        with pytest.raises(DownloadFailed, match="The lists in out cannot be written: No space left on device"):
            run_in_loop(run.work(pool), run.stop)
    told, tasks = capsys.readouterr().err, tasks_in(imagen_sandbox)
    assert 0 < len(tasks) < 30
    assert tasks.keys() - running_in("out").keys() <= {task for task in tasks if task in told}
    call("batch", "prompts.txt", *at(imagen_sandbox), "-o", "out", "--limit", "1")
    assert tasks.keys() <= {line["task_id"] for line in lines_of(METADATA)}, "the next run sets the lists right"


# Left in the midst


def interrupted(call: Call, watched: Watched, polls: int, *arguments: str) -> Outcome:
    """Ctrl-C in this process, as soon as so many tasks were asked for."""

    def press() -> None:
        watched.wait("poll", polls)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press).start()
    return call(*arguments)


def test_an_interrupted_command_tells_its_tasks(call: Call, caplog: pytest.LogCaptureFixture) -> None:
    """Ctrl-C without a folder exits 130, and names each task that runs on and is paid for, and how to collect it."""
    watched = Watched()
    with running_sandbox(Sandbox(latency=Latency(median=30), faults=watched)) as sandbox:
        outcome = interrupted(call, watched, 1, "generate", "a fox", *at(sandbox))
        (task,) = tasks_in(sandbox)
        assert (outcome, task in caplog.text) == ((130, "", "Interrupted.\n"), True)
        outcome = interrupted(call, watched, 3, "batch", foxes(3), *at(sandbox))
        assert (outcome.code, outcome.out) == (130, "")
        assert [task for task in list(tasks_in(sandbox))[1:] if task not in outcome.err] == []
        assert outcome.err.count(f"imagen-async collect TASK_ID -p sandbox --base-url {sandbox.url}\n") == 1


def test_ctrl_c_leaves_nothing_paid_for_unlisted() -> None:
    """Ctrl-C ends a batch with exit 130, each task saved and listed or left to the journal, and says how to go on."""
    watched = Watched()
    with running_sandbox(Sandbox(latency=Latency(median=0.05, minimum=0.01), faults=watched)) as sandbox:
        arguments = ["batch", foxes(400), *at(sandbox), "-o", "out", "--running", "2"]
        process = start(*arguments)
        assert process.stdout is not None
        first = process.stdout.readline().rstrip()
        process.send_signal(signal.SIGINT)
        outcome = finish(process)
        tasks = tasks_in(sandbox)
    assert (outcome.code, outcome.is_clean) == (130, True), outcome.err
    listed = lines_of(METADATA)
    assert f"out/{listed[0]['file_name']}" == first
    assert {line["task_id"] for line in listed} | running_in("out").keys() == tasks.keys()
    assert len(tasks) < 400
    assert all(Path("out", line["file_name"]).exists() for line in listed)
    assert FAILURES.read_bytes() == b"", "a task that runs on has not failed"
    assert f"Nothing is lost; go on with: imagen-async {' '.join(arguments)}\n" in outcome.err


def test_a_reader_who_leaves_costs_no_picture(imagen_sandbox: Sandbox) -> None:
    """When stdout is closed early, as by `head -1`, the batch ends quietly, not as a success, and loses nothing."""
    process = start("batch", foxes(400), *at(imagen_sandbox), "-o", "out", "--json", "--running", "4")
    assert process.stdout is not None
    assert process.stderr is not None
    first = json.loads(process.stdout.readline())
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    outcome = Outcome(process.wait(PATIENCE), "", err)
    assert (first["ok"], outcome.code, outcome.is_clean) == (True, 1, True), outcome.err
    listed = {line["task_id"] for line in lines_of(METADATA)}
    assert listed | running_in("out").keys() == tasks_in(imagen_sandbox).keys()
    assert len(imagen_sandbox.ledger.creates) < 400


def test_pictures_are_looked_at_beside_the_event_loop(
    call: Call, imagen_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their sizes are read in another thread; a result that a signal meets there is listed and printed all the same."""
    opened, threads, is_taken_up = Image.open, set(), threading.Event()

    def watched(path: str) -> Any:
        threads.add(threading.current_thread())
        if threading.current_thread() is threading.main_thread():
            is_taken_up.set()
        elif Path("signalled").exists():
            os.kill(os.getpid(), signal.SIGINT)
            assert is_taken_up.wait(PATIENCE)
        return opened(path)

    monkeypatch.setattr(Image, "open", watched)
    assert call("batch", prompt_file("a fox", "a heron"), *at(imagen_sandbox), "-o", "out").code == 0
    assert (bool(threads), threading.main_thread() in threads) == (True, False)
    Path("signalled").touch()
    outcome = call("batch", prompt_file("a whale"), *at(imagen_sandbox), "-o", "there")
    (line,) = lines_of(Path("there/metadata.jsonl"))
    assert (outcome.code, outcome.lines) == (130, [f"there/{line['file_name']}"])


def test_the_sandbox_serves_until_ctrl_c(call: Call) -> None:
    """`sandbox` says on stderr where it serves, serves, and ends at Ctrl-C with its ledger on stdout and exit 130."""
    process = start("sandbox", "--port", "0", "--latency", "0.05", "--credits", "16")
    assert process.stderr is not None
    try:
        greeting = [process.stderr.readline() for _ in range(3)]
        url = greeting[2].split()[-1]
        assert url.startswith("http://127.0.0.1:")
        assert [url in line for line in greeting] == [True] * 3
        account = ["-p", "sandbox", "--base-url", url]
        assert call("generate", "a red fox", *account, "-o", "out").lines == ["out/000000-a-red-fox.png"]
        assert call("credits", *account) == (0, "sandbox 8\n", "")
    finally:
        process.send_signal(signal.SIGINT)
        outcome = finish(process)
    (ledger,) = outcome.records
    expected = {"creates": 1, "tasks": 1, "credits": 8, "pictures": 1, "prompts_with_several_tasks": {}, "key_leaks": 0}
    assert (outcome.code, outcome.is_clean, expected.items() <= ledger.items()) == (130, True, True)


# What is planned, and what is left to pay with


def test_plan_reckons_with_what_the_folder_has(call: Call, imagen_sandbox: Sandbox) -> None:
    """`plan` sends nothing; with `-o` it counts what is to be sent, by the folder's latencies, and changes nothing."""
    whole = call("plan", foxes(12), "-p", "sandbox", "--json")
    for folder in ("nowhere", "."):
        assert call("plan", "prompts.txt", "-p", "sandbox", "--json", "-o", folder) == whole
    assert call("batch", "prompts.txt", *at(imagen_sandbox), "-o", "out", "--limit", "4").code == 0
    before = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    (rest,) = call("plan", "prompts.txt", "-p", "sandbox", "-o", "out", "--json").records
    (all_of_it,) = whole.records
    counts = [[each[name] for name in ("requests", "credits", "in_journal")] for each in (all_of_it, rest)]
    assert counts == [[12, 96, 0], [8, 64, 4]]
    # The record says 1 s, and these took some 50 ms.
    assert rest["latency"] < 0.4 < 0.9 < all_of_it["latency"]
    assert 0 < rest["seconds"] < all_of_it["seconds"]
    text = call("plan", "prompts.txt", *at(imagen_sandbox), "-o", "out")
    assert text.lines[:2] == [
        "4 requests of the file in the journal already; to be sent:",
        "8 requests (8 × imagen4), 8 pictures, 64 credits; 1,000,000 credits on the account",
    ]
    changed = ("prompts.txt", *at(imagen_sandbox), "-m", "imagen4-fast", "-o", "out")
    refused = call("plan", *changed)
    assert (refused.code, "stood for another request" in refused.err) == (2, True)
    assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == before
    assert (call("batch", *changed), len(imagen_sandbox.ledger.creates)) == (refused, 4)


POOL = ("-p", "kie", "-p", "apiin", "-m", "imagen4-fast", "--rate", "200/1")


@pytest.fixture
def pooled(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """A sandbox with 60 credits for each account, and an environment that leads three of them there."""
    with running_sandbox(Sandbox(limits=WIDE, latency=Latency(0.05, minimum=0.01), balance=60)) as sandbox:
        for name in ("kie", "apiin", "apikley"):
            monkeypatch.setenv(f"{name.upper()}_API_KEY", sandbox.key)
            monkeypatch.setenv(f"{name.upper()}_BASE_URL", sandbox.url_of(name))
        yield sandbox


def test_balances_are_asked_for(call: Call, pooled: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """`credits` asks all accounts whose key is set; one that fails is told beside the others, here and in `plan`."""
    assert call("credits").lines == ["kie 60", "apikley 60", "apiin: the API of API in One does not tell a balance"]
    monkeypatch.setenv("KIE_API_KEY", "sk-wrong-0123")
    outcome = call("credits", "-p", "kie", "-p", "apikley", "--json")
    assert (outcome.code, outcome.records) == (2, [{"provider": "apikley", "credits": 60}])
    assert "The key is that of KIE_API_KEY." in outcome.err
    monkeypatch.delenv("APIKLEY_API_KEY")
    planned = call("plan", foxes(4), "-p", "kie", "-p", "apikley")
    assert planned.code == 0
    assert "balance unknown: The provider refuses the key" in planned.out
    assert "balance unknown: Apikley needs a key" in planned.out
    assert call("credits", "-p", "sandbox").lines == ["sandbox 1,000,000"]
    assert "on the account" not in call("plan", "prompts.txt", "-p", "sandbox").out
    assert "sk-wrong" not in outcome.err + planned.out + planned.err


def test_a_server_that_is_not_there(call: Call) -> None:
    """An address where nobody answers is an error with the address, without a traceback."""
    with running_sandbox(Sandbox()) as sandbox:
        gone = sandbox.url
    outcome = call("credits", "-p", "sandbox", "--base-url", gone)
    assert (outcome.code, outcome.out, gone.removeprefix("http://") in outcome.err) == (1, "", True)


def test_a_budget_ends_the_command_and_the_words_it_prints_go_on(call: Call, pooled: Sandbox) -> None:
    """A pool ends at its budget with exit 1; the command that it names makes the rest, once each, and each is told."""
    first = call("batch", foxes(20), *POOL, "-o", "out", "-q", "--max-credits", "30")
    assert (first.code, len(first.lines), pooled.ledger.credits) == (1, 7, 28)
    assert "The budget is reached: 30 credits, of which 28" in first.err
    words = first.err.split("go on with: imagen-async ")[1].splitlines()[0].split()
    assert words[-2:] == ["--max-credits", "80"]
    assert call("status", "out", "--json").records[0]["next"] == [f"imagen-async {' '.join(words)}"]
    rest = call(*words)
    assert (rest.code, len(rest.lines), pooled.ledger.credits) == (0, 13, 80)
    assert "  kie: " in rest.err
    assert "  apiin: " in rest.err
    (status,) = call("status", "out", "--json").records
    assert sum(account["counts"]["done"] for account in status["accounts"].values()) == 20
    assert set(pooled.ledger.tasks_by_prompt().values()) == {1}
    task = next(line["task_id"] for line in lines_of(METADATA) if line["provider"] == "apiin")
    assert call("collect", task, "--dir", "out").code == 0, "it is that account's that has the request"


def test_a_pool_without_credit_keeps_what_is_left(call: Call, pooled: Sandbox) -> None:
    """When all accounts are empty the command exits with 1, names each, and the same command goes on."""
    outcome = call("batch", foxes(40), *POOL, "-o", "out", "-q")
    assert (outcome.code, len(outcome.lines), len(pooled.ledger.tasks)) == (1, 30, 30)
    told = ("No account is left. kie: ", "; apiin: ", "  kie: stopped", "go on with: imagen-async batch prompts.txt")
    assert [word for word in told if word not in outcome.err] == []


@pytest.mark.slow
def test_kills_pay_nothing_twice_and_no_more_than_the_budget(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed six times in the midst, a pool makes each picture at most once, and all runs together keep the budget."""
    limits = Limits(Rate(40, per=1), Rate(500, per=1), 200)
    with running_sandbox(Sandbox(limits=limits, latency=Latency(0.3, minimum=0.05))) as server:
        for name in ("kie", "apiin"):
            monkeypatch.setenv(f"{name.upper()}_API_KEY", server.key)
            monkeypatch.setenv(f"{name.upper()}_BASE_URL", server.url_of(name))
        words = ("batch", foxes(120), *POOL[:-2], "--rate", "40/1", "-o", "out", "-q", "--max-credits", "400")
        for number in range(6):
            process = start(*words)
            assert process.stdout is not None
            for _ in range(3 + 5 * number):
                if not process.stdout.readline():
                    break
            process.kill()
            process.communicate()
        outcome = finish(start(*words))
        (status,) = call("status", "out", "--json").records
        billed = server.ledger.tasks_by_prompt()
    assert (outcome.code, "The budget is reached" in outcome.err) == (1, True)
    assert set(billed.values()) == {1}
    assert server.ledger.credits <= status["credits_spent"] + status["credits_at_risk"] <= 400
    assert status["credits_spent"] + status["credits_at_risk"] > 396
    assert len(list(Path("out").glob("*.png"))) == status["counts"]["done"]


# Called back


@pytest.fixture
def calling(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """A sandbox whose tasks take a second, and that signs its callbacks."""
    with running_sandbox(Sandbox(limits=WIDE, latency=Latency(1.0, sigma=0.01), signing_key="a-hook-key")) as sandbox:
        monkeypatch.setenv("SANDBOX_API_KEY", sandbox.key)
        yield sandbox


def hooked(server: Sandbox, port: int) -> list[str]:
    """The options for a sandbox that calls back to a port."""
    callback = ["--callback-url", f"http://127.0.0.1:{port}/hook", "--callback-port", str(port)]
    return [*at(server), "-q", "--freshness", "60", "-o", "out", *callback]


def test_batch_takes_callbacks(call: Call, calling: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are there as soon as they are announced; what an earlier run held comes out after all, and is done.

    Where the port is taken, nothing is sent. Without a key, no signature is asked for.
    """
    calling.order("create", "reset_after")
    with free_socket() as (found, port):
        found.listen()
        taken = call("batch", prompt_file("a red fox"), *hooked(calling, port))
    assert (taken.code, calling.ledger.creates) == (2, [])
    assert f"--callback-port {port} on 127.0.0.1 cannot be used" in taken.err
    first = call("batch", prompt_file("a red fox"), *hooked(calling, port), "--deadline", "0.2")
    assert (first.code, "no signature is asked for" in first.err) == (1, True)
    assert [line["error"]["type"] for line in lines_of(FAILURES)] == ["UnknownOutcome"]
    with contextlib.closing(sqlite3.connect("out/run.db")) as connection, connection:
        connection.execute("UPDATE jobs SET sent_at = sent_at - 10000")
    monkeypatch.setenv("IMAGEN_WEBHOOK_KEY", "a-hook-key")
    calling.order("create", None, "reset_after")
    again = call("batch", prompt_file("a red fox", "a heron", "a harbour"), *hooked(calling, port))
    assert again.code == 0, again.err
    assert f"Callbacks for http://127.0.0.1:{port}/hook are taken on 127.0.0.1:{port}\n" in again.err
    assert "3 done, 0 failed; 24 credits in " in again.err
    assert (len(lines_of(METADATA)), FAILURES.read_bytes()) == (3, b"")
    assert calling.ledger.tasks_by_prompt() == {"a red fox": 1, "a heron": 1, "a harbour": 1}
    assert set(calling.ledger.polls.values()) == {1}
    assert "a-hook-key" not in again.err + again.out
