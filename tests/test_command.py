"""The command as a whole, against a sandbox: streams, exit codes, files, and what runs on when it is left.

The real command runs as a process where its installation, its streams or signals are the matter.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import commands
import pytest
from commands import (
    FAILURES,
    METADATA,
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
from inner import LONGEST_WAY, TRIES, main
from PIL import Image
from servers import free_socket

from imagen_async import Limits, Rate
from imagen_async.providers import PROVIDERS
from imagen_async.sandbox import Latency, Sandbox
from imagen_async.testing import running_sandbox

__all__ = ["call", "clean_environment"]

WIDE = Limits(Rate(200, per=1), Rate(500, per=1), 200)
QUICK = Latency(median=0.05, minimum=0.01)


def test_the_extra_that_is_missing_is_named(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the `cli` extra, or a part of it, the command exits 2 and says which install brings it."""
    needed = "imagen-async needs its command line extra: pip install 'imagen-async[cli]'\n"
    for missing in ("rich", "PIL", "jinja2", "shtab"):
        with monkeypatch.context() as without:
            without.setitem(sys.modules, missing, None)
            assert call("providers") == (2, "", needed)
            assert (call("--version").code, call("help").code) == (0, 0)


def test_providers_lists_what_is_known(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """`providers` tells of each, for people and as JSON, its address, models and limits, and whether its key is set."""
    monkeypatch.setenv("KIE_API_KEY", "sk-secret-0123")
    lines = call("providers").lines
    assert lines[:3] == [
        "kie: kie.ai, https://api.kie.ai, key: KIE_API_KEY (set)",
        "  models: imagen4 (8 credits), imagen4-fast (4 credits), imagen4-ultra (12 credits), 4o-image (6 credits) "
        "and 37 others: imagen-async models",
        "  limits: 20 creates per 10 s, 10 status calls per 1 s, 100 running",
    ]
    assert "imagen4 (price unknown)" in lines[4]
    assert lines[6] == "liangxin: LiangXin, give --base-url or LIANGXIN_BASE_URL, key: LIANGXIN_API_KEY (not set)"
    assert lines[18].startswith(
        "served: the service, give --base-url or SERVED_BASE_URL, key: SERVED_API_KEY (not set)"
    )
    assert lines[20] == "  limits: those of its accounts; 2000 running"
    assert lines[21] == "sandbox: the sandbox, on this machine, needs no key"
    kie, *others = call("providers", "--json").records
    assert (kie["name"], kie["key_is_set"], kie["submit"], kie["running"]) == ("kie", True, [20, 10], 100)
    prices = {"imagen4": 8, "imagen4-fast": 4, "imagen4-ultra": 12, "nano-banana-2": [8, 18], "qwen2": None}
    assert {name: kie["models"][name] for name in prices} == prices
    assert [each["name"] for each in others if not each["key_is_set"]] == list(PROVIDERS)[1:]


def test_a_stdout_of_few_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where stdout cannot write a character, the command still says what it has to say."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii", write_through=True))
    assert main(("plan", prompt_file("a fox"), "-p", "apiin")) == 0
    assert written.getvalue().startswith(rb"1 request (1 \xd7 imagen4), 1 picture, 8 credits")


REFUSED = commands.data("refused_lines.json")["exit 2 before anything is sent"]


@pytest.mark.parametrize(("line", "told"), REFUSED.items())
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
    terms = ("-m", "seedream-4", "--num-images", "2", "-o", "out")
    outcome = call(command, "prompts.csv", *at(imagen_sandbox), *terms)
    assert (outcome.code, outcome.out) == (2, "")
    warning, *told, summary = outcome.err.splitlines()
    assert warning.startswith("prompts.csv: warning: the column 'aspect ratio' is no field (aspect_ratio?)")
    assert [line[:26] for line in told] == ["prompts.csv:3: num_images=", "prompts.csv:4: model='imag"]
    assert summary == "2 problems of 3 requests; nothing was sent."
    assert (imagen_sandbox.ledger.creates, os.listdir()) == ([], ["prompts.csv"])


def test_generate_sends_what_the_options_say(call: Call, imagen_sandbox: Sandbox) -> None:
    """Each option reaches the provider in its own words; without a folder the URLs are all that comes, on stdout."""
    words = "-m ideogram-v3 --aspect-ratio 9:16 --negative-prompt blur --seed 7"
    assert call("generate", "an owl", *at(imagen_sandbox), *words.split()).code == 0
    wire = {"prompt": "an owl", "image_size": "portrait_16_9", "negative_prompt": "blur", "seed": 7}
    assert imagen_sandbox.ledger.creates.pop().input == wire
    words = "-m seedream-4 --aspect-ratio 9:16 --num-images 2 --seed 7"
    outcome = call("generate", "a fox", *at(imagen_sandbox), *words.split())
    (task,), (create,) = tasks_in(imagen_sandbox), imagen_sandbox.ledger.creates
    assert outcome == (0, "".join(f"{imagen_sandbox.url}/files/sandbox/{task}/{n}.png\n" for n in (1, 2)), "")
    wire = {"prompt": "a fox", "image_size": "portrait_16_9", "max_images": 2, "seed": 7}
    model = "bytedance/seedream-v4-text-to-image"
    assert (create.model, create.input, imagen_sandbox.ledger.pictures.total()) == (model, wire, 0)


def test_generate_saves_what_collect_finds_again(call: Call, imagen_sandbox: Sandbox) -> None:
    """`generate -o` saves in the asked shape; `collect` prints or saves the same, as often as one likes."""
    words = ("--json", "-o", "new/out", "--aspect-ratio", "16:9")
    (made,) = call("generate", "ein Füchslein", *at(imagen_sandbox), *words).records
    (task,) = tasks_in(imagen_sandbox)
    (file,) = made["files"]
    # In no series: another call begins at the beginning too.
    assert re.fullmatch(r"new/out/ein-fuchslein-[0-9a-f]{8}\.png", file)
    assert (made["task_id"], made["credits"]) == (task, 8)
    with Image.open(made["files"][0]) as picture:
        assert (picture.format, picture.size) == ("PNG", (384, 216))
    assert call("collect", task, *at(imagen_sandbox)).lines == made["urls"]
    for _ in range(2):
        assert call("collect", task, *at(imagen_sandbox), "-o", "new/out") == (0, f"new/out/{task}-{file[-12:]}\n", "")
    (record,) = call("collect", task, *at(imagen_sandbox), "--json").records
    assert (record["ok"], record["task_id"], record["credits"]) == (True, task, 8)
    ledger = imagen_sandbox.ledger
    assert (len(ledger.creates), len(os.listdir("new/out")), ledger.key_leaks) == (1, 2, 0)


@pytest.mark.parametrize(
    ("road", "faults", "words"),
    [
        ("task", ["fail_word"], "The prompt was flagged as sensitive."),
        ("create", ["reset_after"], "cost up to 8 credits; it is not sent again"),
        ("file", ["html"] * TRIES, "what came is no picture: it begins with b'<html>"),
    ],
)
def test_generate_says_why_it_failed(call: Call, imagen_sandbox: Sandbox, road: Any, faults: Any, words: str) -> None:
    """A failure exits 1 with its reason and its task; what was made and cannot be saved is printed with its URL."""
    imagen_sandbox.order(road, *faults)
    with commands.short_waits():
        outcome = call("generate", "a red fox", *at(imagen_sandbox), "--json", "-o", "out")
    (task,), (record,) = tasks_in(imagen_sandbox), outcome.records
    assert (outcome.code, words in outcome.err, words in record["error"]["message"]) == (1, True, True)
    assert (record["ok"], record["task_id"]) == (False, None if road == "create" else task)
    assert record.get("urls", []) == [f"{imagen_sandbox.url}/files/sandbox/{task}/1.png"] * (road == "file")


def test_a_smaller_freshness_asks_more_often(call: Call) -> None:
    """`--freshness` sets how many status calls a picture is worth, alone and in a batch."""
    with running_sandbox(Sandbox(latency=Latency(median=1.0, sigma=0))) as sandbox:
        for words in (("generate", "a fox"), ("batch", prompt_file("a heron"))):
            for freshness in ("0.3", "0.001"):
                assert call(*words, *at(sandbox), "--freshness", freshness).code == 0
        seldom, often, seldom_in_batch, often_in_batch = (sandbox.ledger.polls[task] for task in tasks_in(sandbox))
    assert (often > 2 * seldom, often_in_batch > 2 * seldom_in_batch) == (True, True)


def test_batch_writes_pictures_and_their_list(call: Call, imagen_sandbox: Sandbox) -> None:
    """`batch` prints a path a picture and lists each with all that is known of it, in the order of finishing."""
    rows = "7,a red fox,16:9,,,,fox,wide\n8,ein Bär,16:9,42,seedream-4,2,,narrow\n9,an owl,3:4,,,,,\n"
    header = "id,Prompt,aspect_ratio,seed,model,num_images,key,width\n"
    Path("prompts.csv").write_text(header + rows, encoding="utf-8")
    imagen_sandbox.order("poll", "record_null")  # the first to be asked for is ready later than the others
    outcome = call("batch", "prompts.csv", *at(imagen_sandbox), "-o", "out")
    assert (outcome.code, outcome.err[:32]) == (0, "3 done, 0 failed; 26 credits in ")
    listed = lines_of(METADATA)
    assert [f"out/{line['file_name']}" for line in listed] == outcome.lines
    names = ["000000-a-red-fox.png", "000001-ein-bar-2.png", "000001-ein-bar.png", "000002-an-owl.png"]
    assert sorted(os.listdir("out")) == [*names, "failures.jsonl", "metadata.jsonl", "run.db", "run.db-lock"]
    for line in listed:
        content = Path("out", line["file_name"]).read_bytes()
        with Image.open(io.BytesIO(content)) as picture:
            found = (hashlib.sha256(content).hexdigest(), *picture.size)
        assert (line["sha256"], line["width"], line["height"], 0 < line["latency"] < 5) == (*found, True)
    told = ("id", "prompt", "model", "aspect_ratio", "seed", "num_images", "input_width", "credits")
    fox, second, bear, owl = sorted(listed, key=lambda line: line["file_name"])
    assert [[line[name] for name in told] for line in (fox, bear, owl)] == [
        ["7", "a red fox", "imagen4", "16:9", None, None, "wide", 8],
        ["8", "ein Bär", "seedream-4", "16:9", 42, 2, "narrow", 5],
        ["9", "an owl", "imagen4", "3:4", None, None, None, 8],
    ]
    assert (fox["key"], bear["key"], bear["sha256"] != second["sha256"]) == ("fox", second["key"], True)
    assert {line["task_id"]: line["prompt"] for line in listed} == tasks_in(imagen_sandbox)
    ended = [row["task_id"] for row in sorted(rows_of("out"), key=lambda row: row["ended_at"])]
    assert list(dict.fromkeys(line["task_id"] for line in listed)) == ended


def test_batch_without_a_folder(call: Call, imagen_sandbox: Sandbox) -> None:
    """`batch` without `-o` prints URLs or JSON, names failures by file and line, and writes nothing."""
    imagen_sandbox.order("task", None, "fail_word", None, "fail_word")
    line = {"a fox": 2, "a dog": 4}
    outcome = call("batch", prompt_file("", "a fox", "", "a dog"), *at(imagen_sandbox))
    well, failed = imagen_sandbox.ledger.tasks
    assert (outcome.code, outcome.lines) == (1, [f"{imagen_sandbox.url}/files/sandbox/{well.task_id}/1.png"])
    assert f"prompts.txt:{line[failed.prompt]}: The prompt was flagged as sensitive." in outcome.err
    outcome = call("batch", "prompts.txt", *at(imagen_sandbox), "--json")
    assert (outcome.code, {record["prompt"]: record["line"] for record in outcome.records}) == (1, line)
    (error,) = (record["error"] for record in outcome.records if not record["ok"])
    assert (error["type"], error["code"]) == ("GenerationFailed", "SENSITIVE_WORD_ERROR")
    assert os.listdir() == ["prompts.txt"]


def test_ordered_prints_in_the_order_of_the_file(call: Call, imagen_sandbox: Sandbox) -> None:
    """`--ordered` keeps the file's order, also where its first request takes the longest."""
    imagen_sandbox.order("poll", "record_null")
    records = call("batch", foxes(4), *at(imagen_sandbox), "--json", "--ordered").records
    took_two = [imagen_sandbox.ledger.polls[record["task_id"]] > 1 for record in records]
    assert ([record["index"] for record in records], took_two) == ([0, 1, 2, 3], [True, False, False, False])


def test_a_locale_of_few_letters_has_names_of_these() -> None:
    """Where names of files have no letters but ASCII's, a picture of another prompt is saved all the same."""
    few = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    Path("p.txt").write_text("红狐狸 fox\n", encoding="utf-8")
    process = commands.start("batch", "p.txt", "-p", "sandbox", "-o", "out", env=few)
    assert commands.finish(process).code == 0
    assert [path.name for path in Path("out").glob("*.png")] == ["000000-fox.png"]


def test_batch_takes_stdin_and_keeps_its_streams_apart(imagen_sandbox: Sandbox) -> None:
    """The real command reads stdin, prints paths alone on stdout, and its summary alone on stderr."""
    process = commands.start("batch", "-", *at(imagen_sandbox), "-o", "out", stdin=-1)
    outcome = commands.finish(process, "ein Füchslein\r\n\r\n# a hash\r\n")
    (summary,) = outcome.err.splitlines()
    assert (outcome.code, summary[:32]) == (0, "2 done, 0 failed; 16 credits in ")
    assert set(outcome.lines) == {"out/000000-ein-fuchslein.png", "out/000001-a-hash.png"}


def test_failures_exit_1_and_are_listed(call: Call, imagen_sandbox: Sandbox) -> None:
    """What failed, and what may be paid for and is not sent again, leaves the others alone and stands in a list."""
    imagen_sandbox.order("task", "fail_digits", None, "fail_word")
    imagen_sandbox.order("create", None, None, None, None, "reset_after")
    outcome = call("batch", foxes(5), *at(imagen_sandbox), "-o", "out", "--running", "1", "--retries", "1")
    assert (outcome.code, len(outcome.lines)) == (1, 4), "failed ones were made once more"
    (lost,) = lines_of(FAILURES)
    assert (lost["error"]["type"], lost["error"]["credits_at_risk"], lost["task_id"]) == ("UnknownOutcome", 8, None)
    assert "4 done, 1 failed (1 with the create's answer lost: maybe billed, not sent again); 32 cr" in outcome.err
    assert "Why is in out/failures.jsonl; what to do: imagen-async status out\n" in outcome.err
    assert sorted(imagen_sandbox.ledger.tasks_by_prompt().values()) == [1, 1, 1, 2, 2]


def test_a_wrong_key_stops_a_batch(call: Call, imagen_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that the provider refuses exits 2 after a single create, is shown nowhere, and the folder stays usable."""
    words = ["batch", foxes(12), *at(imagen_sandbox), "-o", "out"]
    with monkeypatch.context() as wrong:
        wrong.setenv("SANDBOX_API_KEY", "sk-wrong-0123")
        outcome = call(*words)
    assert (outcome.code, outcome.out, len(imagen_sandbox.ledger.creates)) == (2, "", 1)
    told = ("The provider refuses the key", "0 done, 0 failed, 12 not sent (up to 96 credits)")
    assert [words for words in told if words not in outcome.err] == []
    assert b"sk-wrong" not in outcome.err.encode() + b"".join(file.read_bytes() for file in Path("out").iterdir())
    assert (call(*words, "--limit", "1").code, len(lines_of(METADATA))) == (0, 1)


def test_a_failure_lists_what_it_has(call: Call, imagen_sandbox: Sandbox) -> None:
    """What of a request was saved is listed beside its failure, which tells the task, the URLs and what they cost.

    The run that saves the rest has paid for nothing.
    """
    imagen_sandbox.order("file", None, *["html"] * TRIES)
    with commands.short_waits():
        words = ("-m", "seedream-4", "--aspect-ratio", "16:9", "--num-images", "2", "-o", "out")
        assert call("batch", prompt_file("a fox"), *at(imagen_sandbox), *words).code == 1
    (task,), (listed,), (failure,) = tasks_in(imagen_sandbox), lines_of(METADATA), lines_of(FAILURES)
    assert (listed["task_id"], listed["width"], listed["credits"]) == (task, 384, 5)
    assert (failure["task_id"], len(failure["urls"]), failure["credits"]) == (task, 2, 10)
    assert (failure["error"]["type"], failure["error"]["code"]) == ("DownloadFailed", None)
    again = call("batch", "prompts.txt", *at(imagen_sandbox), *words)
    assert (again.code, again.err.splitlines()[-1][:31]) == (0, "1 done, 0 failed; 0 credits in ")


def test_a_run_tells_what_it_has_spent_itself(call: Call, imagen_sandbox: Sandbox) -> None:
    """A request that is paid for once more counts with its new bill alone; the folder counts both."""
    imagen_sandbox.order("task", "no_urls")
    words = ("batch", prompt_file("a fox"), *at(imagen_sandbox), "-o", "out")
    told = [call(*words, *more).err.splitlines() for more in ([], ["--retry-failed"])]
    assert any(line.startswith("0 done, 1 failed; 8 credits in ") for line in told[0])
    assert told[1][-1].startswith("1 done, 0 failed; 8 credits in ")
    assert call("status", "out", "--json").records[0]["credits_spent"] == 16


def test_a_full_disk_loses_no_task(call: Call, imagen_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk is full under the lists, the batch stops, and every task is on stderr or left to the journal."""
    words = ("batch", foxes(30), *at(imagen_sandbox), "-o", "out")
    on_disk = open

    def on_full_disk(path: Any, mode: str = "r", *rest: Any, **terms: Any) -> Any:
        is_list = mode == "ab" and str(path).endswith(".jsonl")
        return on_disk("/dev/full" if is_list else path, mode, *rest, **terms)

    with monkeypatch.context() as full:
        full.setattr("builtins.open", on_full_disk)
        outcome = call(*words, "--rate", "5/1")
    assert "The lists in out cannot be written: No space left on device" in outcome.err
    tasks = tasks_in(imagen_sandbox)
    assert (outcome.code, 0 < len(tasks) < 30) == (1, True)
    assert [task for task in tasks.keys() - commands.running_in("out").keys() if task not in outcome.err] == []
    call(*words, "--limit", "1")
    assert tasks.keys() <= {line["task_id"] for line in lines_of(METADATA)}, "the next run sets the lists right"


@pytest.fixture
def endless() -> Iterator[Sandbox]:
    """A sandbox whose tasks run on and on, and whose status calls can be waited for."""
    with running_sandbox(Sandbox(latency=Latency(median=30), faults=commands.Watched())) as sandbox:
        yield sandbox


def interrupted(call: Call, sandbox: Any, polls: int, *arguments: str) -> commands.Outcome:
    """Ctrl-C in this process, as soon as so many tasks were asked for."""

    def press() -> None:
        sandbox.faults.wait("poll", polls)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press).start()
    return call(*arguments, *at(sandbox))


def test_an_interrupted_command_tells_its_tasks(call: Call, endless: Sandbox, caplog: pytest.LogCaptureFixture) -> None:
    """Ctrl-C without a folder exits 130, and names each task that runs on and is paid for, and how to collect it."""
    outcome = interrupted(call, endless, 1, "generate", "a fox")
    (task,) = tasks_in(endless)
    assert (outcome, task in caplog.text) == ((130, "", "Interrupted.\n"), True)
    outcome = interrupted(call, endless, 3, "batch", foxes(3))
    assert (outcome.code, outcome.out) == (130, "")
    assert [task for task in list(tasks_in(endless))[1:] if task not in outcome.err] == []
    assert outcome.err.count(f"imagen-async collect TASK_ID -p sandbox --base-url {endless.url}\n") == 1


def test_an_interrupted_collect_leaves_the_batchs_command(call: Call, endless: Sandbox) -> None:
    """Ctrl-C while one task of a batch is collected: `status` goes on with the batch, and not with that task."""
    words = ["batch", prompt_file("a fox"), *at(endless), "-o", "out"]
    assert call(*words, "--deadline", "0.3").code == 1
    (task,) = tasks_in(endless)
    asked = endless.ledger.polls[task]
    outcome = interrupted(call, endless, asked + 1, "collect", task, "--dir", "out")
    assert (outcome.code, f"go on with: imagen-async collect {task}" in outcome.err) == (130, True)
    (status,) = call("status", "out", "--json").records
    assert status["next"] == [f"imagen-async {' '.join(words)} --deadline 0.3"]


def test_a_command_needs_no_stream(imagen_sandbox: Sandbox) -> None:
    """With stdout and stderr closed, as some services are, a batch makes its pictures; nothing comes from no stdin."""
    words = ["batch", foxes(2), *at(imagen_sandbox), "-o", "out"]
    closed = commands.start(*words, stdout=None, stderr=None, preexec_fn=lambda: os.closerange(1, 3))
    assert (commands.finish(closed).code, len(lines_of(METADATA))) == (0, 2)
    deaf = commands.finish(commands.start("plan", "-", *words[2:4], stdin=None, preexec_fn=lambda: os.close(0)))
    assert (deaf.code, deaf.is_clean) == (2, True), deaf.err


def test_sizes_are_read_in_a_thread(call: Call, imagen_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes are read beside the event loop; a result that a signal meets there is listed and printed all the same."""
    opened, threads, is_taken_up = Image.open, set(), threading.Event()

    def watched(path: str) -> Any:
        threads.add(threading.current_thread())
        if threading.current_thread() is threading.main_thread():
            is_taken_up.set()
        elif Path("signalled").exists():
            os.kill(os.getpid(), signal.SIGINT)
            assert is_taken_up.wait(commands.PATIENCE)
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
    process = commands.start("sandbox", "--port", "0", "--latency", "0.05", "--credits", "16")
    try:
        greeting = [process.stderr.readline() for _ in range(3)]
        url = greeting[2].split()[-1]
        assert [url in line for line in greeting] == [url.startswith("http://127.0.0.1:")] * 3
        account = ["-p", "sandbox", "--base-url", url]
        assert call("generate", "a red fox", *account, "-o", "out").lines[0].startswith("out/a-red-fox-")
        assert call("credits", *account) == (0, "sandbox 8\n", "")
    finally:
        process.send_signal(signal.SIGINT)
        outcome = commands.finish(process)
    (ledger,) = outcome.records
    expected = {"creates": 1, "tasks": 1, "credits": 8, "pictures": 1, "prompts_with_several_tasks": {}, "key_leaks": 0}
    assert (outcome.code, outcome.is_clean, expected | ledger) == (130, True, ledger)


def test_plan_reckons_with_what_the_folder_has(call: Call, imagen_sandbox: Sandbox) -> None:
    """`plan` sends nothing; with `-o` it counts what is to be sent, by the folder's latencies, and changes nothing."""
    figures = ("plan", foxes(12), "-p", "sandbox", "--json")
    (whole,) = call(*figures).records
    assert call(*figures, "-o", "nowhere").records == call(*figures, "-o", ".").records == [whole]
    assert call("batch", "prompts.txt", *at(imagen_sandbox), "-o", "out", "--limit", "4").code == 0
    before = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    (rest,) = call(*figures, "-o", "out").records
    counts = [[each[name] for name in ("requests", "credits", "in_journal")] for each in (whole, rest)]
    assert counts == [[12, 96, 0], [8, 64, 4]]
    assert rest["latency"] < 0.4 < 0.9 < whole["latency"], "the record says 1 s, and these took some 50 ms"
    assert 0 < rest["seconds"] < whole["seconds"]
    assert call("plan", "prompts.txt", *at(imagen_sandbox), "-o", "out").lines[:2] == [
        "4 requests of the file in the journal already; to be sent:",
        "8 requests (8 × imagen4), 8 pictures, 64 credits; 1,000,000 credits on the account",
    ]
    refused = call("plan", "prompts.txt", *at(imagen_sandbox), "-m", "imagen4-fast", "-o", "out")
    assert (refused.code, "What was changed: model: imagen4 → imagen4-fast. " in refused.err) == (2, True)
    (added,) = call(*figures, "-m", "imagen4-fast", "-o", "out", "--add").records
    assert (added["requests"], added["credits"], added["in_journal"]) == (12, 48, 0)
    assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == before


POOL = ("-p", "kie", "-p", "apiin", "-m", "imagen4-fast", "--rate", "200/1")


@pytest.fixture
def pooled(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """A sandbox with 60 credits for each account, and an environment that leads three of them there."""
    with running_sandbox(Sandbox(limits=WIDE, latency=QUICK, balance=60)) as sandbox:
        for name in ("kie", "apiin", "apikley"):
            monkeypatch.setenv(f"{name.upper()}_API_KEY", sandbox.key)
            monkeypatch.setenv(f"{name.upper()}_BASE_URL", sandbox.url_of(name))
        yield sandbox


def test_balances_are_asked_for(call: Call, pooled: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """`credits` asks all accounts whose key is set; one that fails is told beside the others, here and in `plan`.

    Where nobody answers, that is an error with the address.
    """
    assert call("credits").lines == ["kie 60", "apikley 60", "apiin: the API of API in One does not tell a balance"]
    monkeypatch.setenv("KIE_API_KEY", "sk-wrong-0123")
    outcome = call("credits", "-p", "kie", "-p", "apikley", "--json")
    assert (outcome.code, outcome.records) == (2, [{"provider": "apikley", "credits": 60}])
    monkeypatch.delenv("APIKLEY_API_KEY")
    planned = call("plan", foxes(4), "-p", "kie", "-p", "apikley")
    told = ("balance unknown: The provider refuses the key", "balance unknown: Apikley needs a key")
    assert (planned.code, [words for words in told if words not in planned.out]) == (0, [])
    assert call("credits", "-p", "sandbox").lines == ["sandbox 1,000,000"]
    assert "on the account" not in call("plan", "prompts.txt", "-p", "sandbox").out
    assert "sk-wrong" not in outcome.err + planned.out + planned.err
    with free_socket() as (_, port):
        outcome = call("credits", "-p", "sandbox", "--base-url", f"http://127.0.0.1:{port}")
    assert (outcome.code, outcome.out, f"127.0.0.1:{port}" in outcome.err) == (1, "", True)


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
    assert [name for name in ("kie", "apiin") if f"  {name}: " not in rest.err] == []
    assert set(pooled.ledger.tasks_by_prompt().values()) == {1}
    task = next(line["task_id"] for line in lines_of(METADATA) if line["provider"] == "apiin")
    assert call("collect", task, "--dir", "out").code == 0, "it is that account's that has the request"


@pytest.mark.slow
def test_kills_pay_nothing_twice_and_no_more_than_the_budget(call: Call, pooled: Sandbox) -> None:
    """Killed in the midst several times, a pool makes each picture once, and all runs together keep the budget."""
    words, codes = ("batch", foxes(40), *POOL[:-1], "4/0.4", "-o", "out", "-q", "--max-credits", "100"), set()
    for _ in range(3):
        process = commands.start(*words)
        process.stdout.readline()
        process.kill()
        codes.add(commands.finish(process).code)
    # A kill that met all creates of a window on their way leaves that window taken for as long as one may be.
    outcome = commands.finish(commands.start(*words), patience=2 * LONGEST_WAY)
    (status,) = call("status", "out", "--json").records
    assert (outcome.code, "The budget is reached" in outcome.err, -signal.SIGKILL in codes) == (1, True, True)
    assert set(pooled.ledger.tasks_by_prompt().values()) == {1}
    assert pooled.ledger.credits <= status["credits_spent"] + status["credits_at_risk"] == 100


def test_a_pool_without_credit_keeps_what_is_left(call: Call, pooled: Sandbox) -> None:
    """When all accounts are empty the command exits with 1, names each, and the same command goes on.

    What was paid for is saved and listed; what was noted and could not be sent is still to be paid for, says `plan`.
    """
    outcome = call("batch", foxes(40), *POOL, "-o", "out", "-q")
    assert (outcome.code, len(outcome.lines), len(pooled.ledger.tasks)) == (1, 30, 30)
    told = ("No account is left. kie: ", "; apiin: ", "  kie: stopped", "go on with: imagen-async batch prompts.txt")
    assert [word for word in told if word not in outcome.err] == []
    assert {line["task_id"] for line in lines_of(METADATA)} == set(tasks_in(pooled))
    (figures,) = call("plan", "prompts.txt", *POOL, "-o", "out", "--json").records
    assert (figures["in_journal"], figures["requests"], figures["credits"]) == (30, 10, 40)


def test_batch_takes_callbacks(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are there as soon as they are announced, also where the create's answer was lost.

    Where the port is taken, nothing is sent. Without a key, no signature is asked for.
    """
    with running_sandbox(Sandbox(limits=WIDE, latency=Latency(1.0, sigma=0.01), signing_key="a-hook-key")) as calling:
        with free_socket() as (found, port):
            url = f"http://127.0.0.1:{port}/hook"
            words = ["--freshness", "60", "-q", "-o", "out", "--callback-url", url, "--callback-port", str(port)]
            words = ["batch", prompt_file("a fox", "a heron"), *at(calling), *words]
            found.listen()
            taken = call(*words)
        assert (taken.code, calling.ledger.creates) == (2, [])
        assert f"--callback-port {port} on 127.0.0.1 cannot be used" in taken.err
        assert "no signature is asked for" in call(*words, "--limit", "1").err
        monkeypatch.setenv("IMAGEN_WEBHOOK_KEY", "a-hook-key")
        calling.order("create", "reset_after")
        done = call(*words)
    assert (done.code, "2 done (1 earlier), 0 failed; " in done.err) == (0, True), done.err
    assert f"Callbacks for {url} are taken on 127.0.0.1:{port}\n" in done.err
    assert (len(lines_of(METADATA)), FAILURES.read_bytes()) == (2, b"")
    assert calling.ledger.tasks_by_prompt() == {"a fox": 1, "a heron": 1}
    assert set(calling.ledger.polls.values()) == {1}
    assert "a-hook-key" not in done.err + done.out
