"""The command `imagen-async`: streams, exit codes, lists and signals.

The real command runs as a process where its streams, its exit or signals are the matter, in this process elsewhere.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image

from imagen_async import ImageFile, ImageRequest, Limits, Rate, Result
from imagen_async._cli import main
from imagen_async._cli._manifest import Manifest
from imagen_async._cli._wording import amount, duration
from imagen_async._downloads import TRIES
from imagen_async._journal import Journal
from imagen_async.providers import PROVIDERS
from imagen_async.sandbox import Faults, Latency, Sandbox
from imagen_async.testing import running_sandbox

COMMAND = str(Path(sys.executable).with_name("imagen-async"))
COMMANDS = ("generate", "batch", "plan", "status", "collect", "credits", "providers", "sandbox")
JOURNAL = ("run.db", "run.db-lock")
"""What the journal leaves in a folder."""
PATIENCE = 30.0
"""Seconds after which a process that should have ended is a failure."""


class Outcome(NamedTuple):
    """What a run of the command left: its exit code and its two streams."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """Of stdout."""
        return self.out.splitlines()

    @property
    def records(self) -> list[Any]:
        """Of stdout, a JSON value a line."""
        return [json.loads(line) for line in self.lines]


Call = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No key or address from outside, and a working folder of the test's own."""
    for name in list(os.environ):
        if name.endswith(("_API_KEY", "_BASE_URL")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Call the command in this process."""

    def command(*arguments: str) -> Outcome:
        capsys.readouterr()
        try:
            code = main(arguments)
        except SystemExit as stop:  # argparse ends the process by itself
            code = int(stop.code or 0)
        return Outcome(code, *capsys.readouterr())

    return command


def start(*arguments: str, env: dict[str, str] | None = None, **streams: Any) -> subprocess.Popen[str]:
    """Start the command as a process that shows what it leaves unclosed, which Python hides by default."""
    environment = {
        **os.environ,
        "PYTHONWARNINGS": "default::ResourceWarning",
        "PYTHONIOENCODING": "utf-8",
        **(env or {}),
    }
    settings: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([COMMAND, *arguments], env=environment, text=True, encoding="utf-8", **settings | streams)


def finish(process: subprocess.Popen[str], stdin: str | None = None) -> Outcome:
    """Wait for a process's end; one that does not end is killed and fails the test."""
    try:
        out, err = process.communicate(stdin, timeout=PATIENCE)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    return Outcome(process.returncode, out or "", err or "")


def run(*arguments: str, stdin: str | None = None, env: dict[str, str] | None = None) -> Outcome:
    """Run the command as a process."""
    streams = {} if stdin is None else {"stdin": subprocess.PIPE}
    return finish(start(*arguments, env=env, **streams), stdin)


def at(sandbox: Sandbox) -> list[str]:
    """The options that lead to a sandbox."""
    return ["-p", "sandbox", "--base-url", sandbox.url]


def lines_of(path: Path) -> list[dict[str, Any]]:
    """A file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def rows_of(folder: str) -> list[dict[str, Any]]:
    """The rows of a folder's journal, read with plain SQLite."""
    with contextlib.closing(sqlite3.connect(f"file:{folder}/run.db?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute("SELECT * FROM jobs ORDER BY position")]


def running_in(folder: str) -> dict[str, str]:
    """The prompts by task id of the tasks that a folder's journal holds as running, or as to be fetched."""
    going_on = [row for row in rows_of(folder) if row["state"] in ("running", "ready")]
    return {row["task_id"]: json.loads(row["request"])["prompt"] for row in going_on}


def prompt_file(*prompts: str) -> str:
    """A prompt file in the working folder."""
    Path("prompts.txt").write_text("".join(f"{prompt}\n" for prompt in prompts), encoding="utf-8")
    return "prompts.txt"


@contextlib.contextmanager
def short_waits() -> Iterator[None]:
    """The tries of a download are up to 15 seconds apart, by chance: of this seed's four waits none is over 0.2."""
    state = random.getstate()
    random.seed(10134)
    try:
        yield
    finally:
        random.setstate(state)


def twelve() -> str:
    """A file of twelve prompts."""
    return prompt_file(*(f"fox number {number}" for number in range(12)))


def many() -> str:
    """A file of so many prompts that a batch of a few at once is still at work whenever a test gets to stop it."""
    return prompt_file(*(f"fox number {number}" for number in range(400)))


@pytest.fixture
def empty_sandbox() -> Iterator[Sandbox]:
    """A sandbox whose account pays for two pictures of imagen4."""
    with running_sandbox(Sandbox(latency=Latency(median=0.05, minimum=0.01), balance=16)) as sandbox:
        yield sandbox


class Watched(Faults):
    """No faults; lets a test wait for the requests that a sandbox sees."""

    def __init__(self) -> None:
        super().__init__()
        self._seen = {road: threading.Semaphore(0) for road in ("create", "poll", "task", "file")}

    def draw(self, road: Any) -> str | None:
        """Note the request."""
        self._seen[road].release()
        return super().draw(road)

    def wait(self, road: str, count: int) -> None:
        """Wait until so many more requests came on a road."""
        assert all(self._seen[road].acquire(timeout=PATIENCE) for _ in range(count))


# Help, and what this version knows


@pytest.mark.parametrize("arguments", [[], *([name] for name in COMMANDS)])
def test_help_exits_0(call: Call, arguments: list[str]) -> None:
    """Each command explains itself on stdout, with the exit codes."""
    outcome = call(*arguments, "--help")
    assert outcome.code == 0
    assert outcome.err == ""
    assert outcome.out.startswith(f"usage: {' '.join(['imagen-async', *arguments])}")
    assert "0 all done, 1 some failed, 2 wrong usage or configuration, 130 interrupted" in outcome.out
    assert arguments or all(name in outcome.out for name in COMMANDS)


@pytest.mark.parametrize("arguments", [[], ["paint"], ["generate"], ["batch"], ["generate", "a fox", "--colour"]])
def test_wrong_usage_exits_2(call: Call, arguments: list[str]) -> None:
    """What the grammar does not know is refused on stderr with exit code 2."""
    outcome = call(*arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("usage: imagen-async")


def test_providers_lists_what_is_known(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """`providers` names each provider's address, key variable, models, prices and limits, and shows no key."""
    monkeypatch.setenv("KIE_API_KEY", "sk-secret-0123")
    outcome = call("providers")
    assert (outcome.code, outcome.err) == (0, "")
    assert [line.split(":")[0] for line in outcome.lines[::3]] == list(PROVIDERS)
    assert "kie.ai, https://api.kie.ai, key: KIE_API_KEY (set)" in outcome.out
    assert "API in One, https://apiin.one, key: APIIN_API_KEY (not set)" in outcome.out
    assert "LIANGXIN_BASE_URL" in outcome.out
    assert "imagen4 (8 credits), imagen4-fast (4 credits), imagen4-ultra (12 credits)" in outcome.out
    assert "20 creates per 10 s" in outcome.out
    assert "secret" not in outcome.out


def test_providers_as_json(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """`providers --json` prints an object a provider, and tells whether its key is set but not the key."""
    monkeypatch.setenv("KIE_API_KEY", "sk-secret-0123")
    outcome = call("providers", "--json")
    assert [record["name"] for record in outcome.records] == list(PROVIDERS)
    kie = outcome.records[0]
    assert kie["key_is_set"] is True
    assert (kie["base_url"], kie["key_variable"]) == ("https://api.kie.ai", "KIE_API_KEY")
    assert kie["models"] == {"imagen4": 8, "imagen4-fast": 4, "imagen4-ultra": 12}
    assert (kie["submit"], kie["status"], kie["running"]) == ([20, 10], [10, 1], 100)
    assert [record["key_is_set"] for record in outcome.records[1:]] == [False] * (len(PROVIDERS) - 1)
    assert "secret" not in outcome.out


# generate


def test_generate_prints_a_link(call: Call, imagen_sandbox: Sandbox) -> None:
    """`generate` without a folder prints the picture's URL and nothing else on stdout."""
    outcome = call("generate", "a red fox", *at(imagen_sandbox))
    (task,) = imagen_sandbox.ledger.tasks
    assert outcome.code == 0
    assert outcome.lines == [f"{imagen_sandbox.url}/files/sandbox/{task.task_id}/1.png"]
    assert outcome.err == ""
    assert imagen_sandbox.ledger.pictures.total() == 0


def test_generate_saves_and_prints_the_path(call: Call, imagen_sandbox: Sandbox) -> None:
    """`generate -o` makes the folder, saves the picture in the asked shape and prints its path."""
    outcome = call("generate", "a red fox", *at(imagen_sandbox), "-o", "new/out", "--aspect-ratio", "16:9")
    assert outcome.code == 0
    assert outcome.lines == ["new/out/000000-a-red-fox.png"]
    with Image.open(outcome.lines[0]) as picture:
        assert (picture.format, picture.size) == ("PNG", (384, 216))
    assert os.listdir("new/out") == ["000000-a-red-fox.png"]
    assert imagen_sandbox.ledger.key_leaks == 0


def test_generate_sends_what_the_options_say(call: Call, imagen_sandbox: Sandbox) -> None:
    """Each picture option reaches the provider, in its own words and types."""
    options = ["-m", "imagen4-fast", "--aspect-ratio", "9:16", "--negative-prompt", "blur", "--num-images", "2"]
    outcome = call("generate", "a fox", *at(imagen_sandbox), *options, "--seed", "7")
    assert outcome.code == 0
    (create,) = imagen_sandbox.ledger.creates
    assert create.model == "google/imagen4-fast"
    expected = {"prompt": "a fox", "aspect_ratio": "9:16", "negative_prompt": "blur", "num_images": "2", "seed": 7}
    assert create.input == expected
    assert [line.rpartition("/")[2] for line in outcome.lines] == ["1.png", "2.png"]


def test_generate_as_json(call: Call, imagen_sandbox: Sandbox) -> None:
    """`generate --json` prints one object: the request, the task, what it cost, URLs and files."""
    outcome = call("generate", "ein Füchslein", *at(imagen_sandbox), "-o", "out", "--json")
    (record,) = outcome.records
    (task,) = imagen_sandbox.ledger.tasks
    assert (outcome.code, record["ok"], record["error"]) == (0, True, None)
    assert (record["prompt"], record["model"], record["aspect_ratio"]) == ("ein Füchslein", "imagen4", "1:1")
    assert (record["provider"], record["task_id"], record["credits"]) == ("sandbox", task.task_id, 8)
    assert record["files"] == ["out/000000-ein-fuchslein.png"]
    assert record["urls"] == [f"{imagen_sandbox.url}/files/sandbox/{task.task_id}/1.png"]
    assert 0 < record["latency"] < 5


def test_a_smaller_freshness_asks_more_often(call: Call) -> None:
    """`--freshness` sets how many status calls a picture is worth: the smaller it is, the more are made."""
    with running_sandbox(Sandbox(latency=Latency(median=0.8, sigma=0))) as sandbox:
        for freshness in ("0.3", "0.003"):
            assert call("generate", f"a fox {freshness}", *at(sandbox), "--freshness", freshness).code == 0
        few, many = (sandbox.ledger.polls[str(task.task_id)] for task in sandbox.ledger.tasks)
    assert many > 2 * few


def test_generate_says_why_it_failed(call: Call, imagen_sandbox: Sandbox) -> None:
    """A failed generation exits 1 with the provider's reason and the task on stderr, and nothing on stdout."""
    imagen_sandbox.order("task", "fail_word")
    outcome = call("generate", "a red fox", *at(imagen_sandbox))
    (task,) = imagen_sandbox.ledger.tasks
    assert (outcome.code, outcome.out) == (1, "")
    assert "flagged as sensitive" in outcome.err
    assert str(task.task_id) in outcome.err


def test_generate_whose_answer_was_lost(call: Call, imagen_sandbox: Sandbox) -> None:
    """A create whose answer was lost exits 1, says what it may have cost, and is not sent again."""
    imagen_sandbox.order("create", "reset_after")
    outcome = call("generate", "a red fox", *at(imagen_sandbox))
    assert (outcome.code, outcome.out) == (1, "")
    assert "cost up to 8 credits; it is not sent again" in outcome.err
    assert len(imagen_sandbox.ledger.creates) == 1


def test_generate_looks_at_the_folder_first(call: Call, imagen_sandbox: Sandbox) -> None:
    """`generate -o` into a folder that cannot be made pays for nothing."""
    Path("file").write_text("no folder")
    outcome = call("generate", "a red fox", *at(imagen_sandbox), "-o", "file/out")
    assert "file/out" in outcome.err
    assert outcome.code != 0
    assert imagen_sandbox.ledger.creates == []


def test_generate_from_a_sandbox_of_its_own() -> None:
    """`-p sandbox` alone needs no key and no server: the real command saves a picture in an empty folder."""
    outcome = run("generate", "a red fox", "-p", "sandbox", "-o", "out")
    assert outcome == Outcome(0, "out/000000-a-red-fox.png\n", "")
    with Image.open("out/000000-a-red-fox.png") as picture:
        picture.verify()


def test_an_interrupted_generate_tells_the_task() -> None:
    """Ctrl-C in `generate` exits 130 and names the task that runs on and is paid for, without a traceback."""
    watched = Watched()
    with running_sandbox(Sandbox(latency=Latency(median=30), faults=watched)) as sandbox:
        process = start("generate", "a fox", *at(sandbox))
        watched.wait("poll", 1)
        process.send_signal(signal.SIGINT)
        outcome = finish(process)
        (task,) = sandbox.ledger.tasks
    assert (outcome.code, outcome.out) == (130, "")
    assert str(task.task_id) in outcome.err
    assert "collect" in outcome.err
    assert not any(word in outcome.err for word in ("Traceback", "Unclosed", "Warning", "never"))


# batch: the main road


def test_batch_writes_pictures_and_their_list(call: Call, imagen_sandbox: Sandbox) -> None:
    """`batch` prints a path a picture and lists each with all that is known of it, in the order of finishing."""
    Path("prompts.csv").write_text(
        "id,Prompt,aspect_ratio,seed,negative_prompt,key,width\n"
        "7,a red fox,16:9,,,fox,wide\n"
        "8,ein Bär,,42,blur,,narrow\n"
        "9,an owl,3:4,,,,\n",
        encoding="utf-8",
    )
    imagen_sandbox.order("poll", "record_null")  # the first to be asked for is ready later than the others
    outcome = call("batch", "prompts.csv", *at(imagen_sandbox), "-o", "out")
    assert outcome.code == 0
    assert outcome.err.startswith("3 done, 0 failed; 24 credits in ")
    listed = lines_of(Path("out/metadata.jsonl"))
    assert [f"out/{line['file_name']}" for line in listed] == outcome.lines
    assert listed[-1]["task_id"] == next(iter(imagen_sandbox.ledger.polls)), "the last to finish is the last line"
    names = {"000000-a-red-fox.png", "000001-ein-bar.png", "000002-an-owl.png"}
    assert set(os.listdir("out")) == {*names, "metadata.jsonl", "failures.jsonl", *JOURNAL}
    assert Path("out/failures.jsonl").read_bytes() == b""

    fox, bear, owl = sorted(listed, key=lambda line: int(line["index"]))
    for line, asked in ((fox, ("7", "16:9", "wide")), (bear, ("8", "1:1", "narrow")), (owl, ("9", "3:4", None))):
        content = Path("out", line["file_name"]).read_bytes()
        assert line["sha256"] == hashlib.sha256(content).hexdigest()
        with Image.open(io.BytesIO(content)) as picture:
            assert (line["width"], line["height"]) == picture.size
        assert (line["id"], line["aspect_ratio"], line["input_width"]) == asked
        assert (line["provider"], line["model"], line["credits"]) == ("sandbox", "imagen4", 8)
        assert 0 < line["latency"] < 5
    assert (fox["prompt"], fox["key"], fox["seed"], fox["negative_prompt"]) == ("a red fox", "fox", None, None)
    assert (bear["prompt"], bear["seed"], bear["negative_prompt"]) == ("ein Bär", 42, "blur")
    assert len({line["key"] for line in listed}) == 3
    assert {line["task_id"]: line["prompt"] for line in listed} == {
        task.task_id: task.prompt for task in imagen_sandbox.ledger.tasks
    }


def test_two_pictures_of_one_prompt(call: Call, imagen_sandbox: Sandbox) -> None:
    """A second picture of a request is `-2`, and has a line of its own with a sha256 of its own."""
    file = prompt_file("a red fox")
    outcome = call("batch", file, *at(imagen_sandbox), "-o", "out", "-m", "imagen4-fast", "--num-images", "2")
    assert (outcome.code, outcome.lines) == (0, ["out/000000-a-red-fox.png", "out/000000-a-red-fox-2.png"])
    first, second = lines_of(Path("out/metadata.jsonl"))
    assert (first["file_name"], second["file_name"]) == ("000000-a-red-fox.png", "000000-a-red-fox-2.png")
    assert (first["key"], first["task_id"], first["num_images"]) == (second["key"], second["task_id"], 2)
    assert first["sha256"] != second["sha256"]


def test_like_lines_are_requests_of_their_own(call: Call, imagen_sandbox: Sandbox) -> None:
    """Two lines that say the same are two pictures, with keys that differ by `-2`."""
    assert call("batch", prompt_file("a fox", "a fox"), *at(imagen_sandbox), "-o", "out").code == 0
    first, second = sorted(lines_of(Path("out/metadata.jsonl")), key=lambda line: int(line["index"]))
    assert second["key"] == f"{first['key']}-2"
    assert (first["file_name"], second["file_name"]) == ("000000-a-fox.png", "000001-a-fox.png")


def test_batch_without_a_folder_prints_links(call: Call, imagen_sandbox: Sandbox) -> None:
    """`batch` without `-o` prints URLs, names failures by file and line on stderr, and writes nothing."""
    imagen_sandbox.order("task", None, "fail_word")
    outcome = call("batch", prompt_file("", "a fox", "", "a dog"), *at(imagen_sandbox))
    well, failed = imagen_sandbox.ledger.tasks
    line = {"a fox": 2, "a dog": 4}[failed.prompt]
    assert outcome.code == 1
    assert outcome.lines == [f"{imagen_sandbox.url}/files/sandbox/{well.task_id}/1.png"]
    assert f"prompts.txt:{line}: The prompt was flagged as sensitive." in outcome.err
    assert os.listdir() == ["prompts.txt"]


def test_batch_as_json(call: Call, imagen_sandbox: Sandbox) -> None:
    """`batch --json` prints an object a result, failures included, with the line and the file's other columns."""
    imagen_sandbox.order("task", None, "fail_word")
    Path("prompts.jsonl").write_text('{"prompt": "a fox", "n": 1, "line": "x"}\n\n{"prompt": "a dog", "n": 2}\n')
    outcome = call("batch", "prompts.jsonl", *at(imagen_sandbox), "--json")
    assert outcome.code == 1
    fox, dog = sorted(outcome.records, key=lambda record: int(record["index"]))
    assert (fox["line"], dog["line"], fox["n"], dog["n"], fox["input_line"]) == (1, 3, 1, 2, "x")
    assert sorted((fox["ok"], dog["ok"])) == [False, True]
    failed = dog if fox["ok"] else fox
    assert failed["error"]["type"] == "GenerationFailed"
    assert failed["error"]["code"] == "SENSITIVE_WORD_ERROR"


@pytest.mark.parametrize("ordered", [False, True])
def test_ordered_prints_in_the_order_of_the_file(call: Call, imagen_sandbox: Sandbox, ordered: bool) -> None:
    """`--ordered` keeps the file's order where a request that takes longer would come last without it."""
    imagen_sandbox.order("poll", "record_null")
    options = ["--ordered"] if ordered else []
    outcome = call("batch", twelve(), "--limit", "4", *at(imagen_sandbox), "--json", *options)
    (slow,) = (task for task, polls in imagen_sandbox.ledger.polls.items() if polls > 1)
    order = [record["index"] for record in outcome.records]
    assert sorted(order) == [0, 1, 2, 3]
    assert [record["task_id"] for record in outcome.records].index(slow) == (order.index(0) if ordered else 3)
    assert not ordered or order == [0, 1, 2, 3]


def test_batch_takes_stdin_and_keeps_its_streams_apart(imagen_sandbox: Sandbox) -> None:
    """The real command reads stdin, prints paths alone on stdout, and its summary alone on stderr."""
    text = "ein Füchslein\r\n\r\n# a hash\r\n"
    outcome = run("batch", "-", *at(imagen_sandbox), "-o", "out", stdin=text)
    assert outcome.code == 0
    assert set(outcome.lines) == {"out/000000-ein-fuchslein.png", "out/000001-a-hash.png"}
    assert outcome.err.startswith("2 done, 0 failed; 16 credits in ")
    assert len(outcome.err.splitlines()) == 1


def test_stdin_in_another_format(call: Call, imagen_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--format` says what stdin is, and a bad line of it is named as stdin's."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"prompt,seed\na fox,7\na dog,x\n")))
    outcome = call("batch", "-", "--format", "csv", *at(imagen_sandbox))
    assert outcome.code == 2
    assert outcome.err.startswith("stdin:3: seed='x'")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (725, "12 min 5 s"), (3600, "1 h 0 min"), (12_000, "3 h 20 min")],
)
def test_durations_for_people(seconds: float, text: str) -> None:
    """Seconds are told as people say them."""
    assert duration(seconds) == text


@pytest.mark.parametrize(("credits", "text"), [(0, "0"), (6528.0, "6,528"), (72.62, "72.62"), (0.5, "0.50")])
def test_credits_for_people(credits: float, text: str) -> None:
    """Credits have two decimals where they have any."""
    assert amount(credits) == text


# batch: what is refused before anything is sent


@pytest.mark.parametrize("name", ["metadata.jsonl", "failures.jsonl"])
def test_lists_without_a_journal_are_refused(call: Call, imagen_sandbox: Sandbox, name: str) -> None:
    """A folder with lists that no journal explains exits 2, sends nothing and leaves the folder as it is."""
    Path("out").mkdir()
    Path("out", name).write_text('{"prompt": "a fox"}\n')
    outcome = call("batch", prompt_file("a fox"), *at(imagen_sandbox), "-o", "out")
    assert (outcome.code, outcome.out) == (2, "")
    assert f"out holds {name} and no journal (run.db)" in outcome.err
    assert "Nothing was sent. Choose another -o" in outcome.err
    assert imagen_sandbox.ledger.creates == []
    assert os.listdir("out") == [name]
    assert Path("out", name).read_text() == '{"prompt": "a fox"}\n'


def test_every_bad_line_is_named_and_nothing_is_sent(call: Call, imagen_sandbox: Sandbox) -> None:
    """A file with bad lines exits 2, names each by file and line with what is wrong, and leaves no folder."""
    Path("prompts.jsonl").write_text(
        '{"prompt": "fine"}\n{"prompt": "x", "seed": "seven"}\n{"prompt": \n'
        '{"prompt": "y", "model": "imagen4-fast", "num_images": 9, "aspect_ratio": "2:1"}\n"fine"\n'
    )
    outcome = call("batch", "prompts.jsonl", *at(imagen_sandbox), "-o", "out")
    assert (outcome.code, outcome.out) == (2, "")
    second, third, fourth, summary = outcome.err.splitlines()
    assert second.startswith("prompts.jsonl:2: seed='seven': allowed is a whole number")
    assert third.startswith("prompts.jsonl:3: this is not JSON")
    assert fourth.startswith("prompts.jsonl:4: ")
    assert "num_images=9: allowed is a whole number from 1 to 4" in fourth
    assert "aspect_ratio='2:1': allowed is one of" in fourth
    assert summary == "3 problems of 5 requests; nothing was sent."
    assert imagen_sandbox.ledger.creates == []
    assert not Path("out").exists()


def test_an_option_that_a_line_does_not_bear(call: Call, imagen_sandbox: Sandbox) -> None:
    """The options are checked together with each line, whose own fields win."""
    Path("prompts.csv").write_text("prompt,model\na fox,\na dog,imagen4\n")
    outcome = call("batch", "prompts.csv", *at(imagen_sandbox), "-m", "imagen4-fast", "--num-images", "2")
    assert outcome.code == 2
    assert outcome.err.startswith("prompts.csv:3: num_images=2: imagen4 has no such parameter")
    assert "imagen4-fast" in outcome.err
    assert imagen_sandbox.ledger.creates == []


@pytest.mark.parametrize("command", ["batch", "plan"])
def test_a_misspelt_column_is_pointed_out(call: Call, imagen_sandbox: Sandbox, command: str) -> None:
    """A column that looks like a field is a warning on stderr, and no more than that."""
    Path("prompts.csv").write_text("prompt,aspect ratio\na fox,16:9\n")
    outcome = call(command, "prompts.csv", *at(imagen_sandbox))
    assert outcome.code == 0
    assert "prompts.csv: warning: the column 'aspect ratio' is no field (aspect_ratio?)" in outcome.err


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["prompts.txt: there is no prompt in it", "nothing was sent"]),
        (b"a fox\ncaf\xe9\n", ["prompts.txt:2: the byte b'\\xe9' is not UTF-8; save the file as UTF-8"]),
        (b"\xff\xfea\0", ["prompts.txt is UTF-16; save it as UTF-8"]),
        (None, ["prompts.txt cannot be read: No such file or directory"]),
    ],
)
def test_a_file_that_is_no_use(call: Call, imagen_sandbox: Sandbox, content: bytes | None, words: list[str]) -> None:
    """A file that is empty, missing or no UTF-8 exits 2, and the message names it and the remedy."""
    if content is not None:
        Path("prompts.txt").write_bytes(content)
    outcome = call("batch", "prompts.txt", *at(imagen_sandbox), "-o", "out")
    assert (outcome.code, outcome.out) == (2, "")
    assert all(word in outcome.err for word in words)
    assert imagen_sandbox.ledger.creates == []


@pytest.mark.parametrize("command", ["generate", "batch", "plan"])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-p", "openai"], ["'openai'", ", ".join(PROVIDERS)]),
        (["-p", "kie", "-p", "kie"], ["Two accounts have the name 'kie'", "name=…"]),
        (["-p", "mine=openai"], ["'openai'", ", ".join(PROVIDERS)]),
        (["-p", "sandbox", "--rate", "kie=5/10"], ["--rate kie=…: there is no such account, only sandbox"]),
        (["-p", "sandbox", "--status-rate", "kie=5/10"], ["--status-rate kie=…: there is no such account"]),
        (["-p", "kie", "-p", "mine=kie", "--base-url", "https://x.example"], ["--base-url", "say whose it is"]),
        (["-p", "sandbox", "--price", "cheap"], ["--price", "'cheap' is not a number of credits"]),
        (["-p", "sandbox", "--policy", "dearest"], ["--policy", "spread", "cheapest", "in_order"]),
        ([], ["-p is missing", "sandbox, which needs no key"]),
        (["-p", "sandbox", "-m", "imagen5"], ["'imagen5'", "imagen4, imagen4-fast, imagen4-ultra"]),
        (["-p", "sandbox", "--aspect-ratio", "2:1"], ["aspect_ratio='2:1'", "16:9"]),
        (["-p", "sandbox", "--extra", '{"steps": 4}'], ["steps=4", "no such parameter"]),
        (["-p", "sandbox", "--num-images", "2"], ["num_images=2", "imagen4-fast"]),
        (["-p", "sandbox", "--rate", "20"], ["--rate", "'20' is not N/SECONDS, such as 20/10"]),
        (["-p", "sandbox", "--rate", "0/10"], ["--rate", "at least 1"]),
        (["-p", "sandbox", "--rate", "20/0"], ["--rate"]),
        (["-p", "sandbox", "--status-rate", "fast"], ["--status-rate", "'fast'"]),
        (["-p", "sandbox", "--running", "0"], ["--running", "'0' is not a whole number above 0"]),
        (["-p", "sandbox", "--extra", "[1]"], ["--extra", "is not a JSON object"]),
        (["-p", "sandbox", "--seed", "x"], ["--seed", "'x'"]),
    ],
)
def test_a_wrong_option_exits_2(call: Call, command: str, options: list[str], words: list[str]) -> None:
    """An option that cannot be meant exits 2, and the message names it, what was given and what is allowed."""
    subject = "a fox" if command == "generate" else prompt_file("a fox")
    outcome = call(command, subject, *options)
    assert (outcome.code, outcome.out) == (2, "")
    assert [word for word in words if word not in outcome.err] == []
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize(
    ("command", "options", "words"),
    [
        ("batch", ["--retries", "-1"], "retries=-1"),
        ("batch", ["--deadline", "nan"], "deadline=nan"),
        ("batch", ["--deadline", "0"], "deadline=0"),
        ("generate", ["--deadline", "-5"], "deadline=-5"),
        ("collect", ["--deadline", "inf"], "deadline=inf"),
        ("batch", ["--freshness", "0"], "--freshness: '0' is not a number of seconds above 0"),
        ("batch", ["--freshness", "nan"], "--freshness: 'nan' is not"),
        ("generate", ["--freshness", "inf"], "--freshness: 'inf' is not"),
        ("generate", ["--freshness", "soon"], "--freshness: 'soon' is not"),
        ("collect", ["--freshness", "-1"], "--freshness: '-1' is not"),
        ("batch", ["--freshness", "90000"], "--freshness: '90000' is not a number of seconds above 0, at most a day"),
        ("batch", ["--limit", "0"], "--limit"),
        ("batch", ["--format", "xml"], "--format"),
    ],
)
def test_a_wrong_figure_exits_2(
    call: Call, imagen_sandbox: Sandbox, command: str, options: list[str], words: str
) -> None:
    """A figure out of its range exits 2, names itself, and nothing is sent."""
    outcome = call(command, prompt_file("a fox"), *at(imagen_sandbox), *options)
    assert outcome.code == 2
    assert words in outcome.err
    assert imagen_sandbox.ledger.creates == []


def test_a_wrong_freshness_is_not_noted(call: Call, imagen_sandbox: Sandbox) -> None:
    """A freshness that cannot be meant makes no folder, and is no part of what `status` says to run next."""
    line = ("batch", prompt_file("a fox"), *at(imagen_sandbox), "-o", "out")
    assert call(*line, "--freshness", "0").code == 2
    assert not Path("out").exists()
    imagen_sandbox.order("task", "fail_word")
    assert call(*line).code == 1
    before = call("status", "out", "--json")
    assert before.records[0]["next"]
    assert call(*line, "--freshness", "nan").code == 2
    assert call("status", "out", "--json") == before


@pytest.mark.parametrize("command", ["generate", "batch", "collect", "credits"])
@pytest.mark.parametrize(
    ("provider", "variable"), [("kie", "KIE_API_KEY"), ("liangxin", "LIANGXIN_BASE_URL"), ("apiin", "APIIN_API_KEY")]
)
def test_a_missing_key_or_address_exits_2(call: Call, command: str, provider: str, variable: str) -> None:
    """Without a key, or LiangXin's address, the message names the variable to set, before the file is looked at."""
    subject = [] if command == "credits" else ["no-such-file.txt"]
    outcome = call(command, *subject, "-p", provider)
    assert (outcome.code, outcome.out) == (2, "")
    assert variable in outcome.err


def test_the_remedy_is_an_option_of_the_command(call: Call) -> None:
    """What a message tells the reader of a terminal to give is something that the command takes."""
    messages = [call("credits", "-p", "kie").err, call("credits", "-p", "liangxin").err]
    messages.append(call("credits", "-p", "sandbox", "--base-url", "kie.ai").err)
    assert "--base-url" in messages[1]
    assert "--base-url" in messages[2]
    assert not any("api_key=" in message or "base_url=" in message for message in messages)


def test_the_only_key_of_the_environment_names_the_provider(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `-p`, the provider is the one whose key is set; of two the command asks which."""
    monkeypatch.setenv("APIIN_API_KEY", "k")
    prompts = prompt_file("a fox")
    assert call("plan", prompts).out.startswith("1 request (1 × imagen4), 1 picture, 8 credits")
    monkeypatch.setenv("KIE_API_KEY", "k")
    outcome = call("plan", prompts)
    assert outcome.code == 2
    assert "-p is missing" in outcome.err


def test_a_folder_that_cannot_be_made_stops_the_batch_first(call: Call, imagen_sandbox: Sandbox) -> None:
    """`batch -o` below a regular file names the folder and pays for nothing."""
    Path("file").write_text("no folder")
    outcome = call("batch", prompt_file("a fox"), *at(imagen_sandbox), "-o", "file/out")
    assert outcome.code != 0
    assert outcome.out == ""
    assert "Nothing can be written to file/out: Not a directory" in outcome.err
    assert imagen_sandbox.ledger.creates == []


def test_a_folder_that_cannot_be_made_is_wrong_usage(call: Call, imagen_sandbox: Sandbox) -> None:
    """A folder that cannot be used is found before anything is sent, so it is wrong usage: exit 2."""
    Path("file").write_text("no folder")
    assert call("batch", prompt_file("a fox"), *at(imagen_sandbox), "-o", "file/out").code == 2


def test_no_column_can_break_the_manifest(call: Call, imagen_sandbox: Sandbox) -> None:
    """Whatever a JSON file holds in another column, no picture is paid for and then not listed."""
    Path("prompts.jsonl").write_text('{"prompt": "a fox", "note": "\\ud83d"}\n{"prompt": "a dog"}\n')
    try:
        call("batch", "prompts.jsonl", *at(imagen_sandbox), "-o", "out")
    finally:
        listed = lines_of(Path("out/metadata.jsonl")) if Path("out").exists() else []
        assert {line["task_id"] for line in listed} == {task.task_id for task in imagen_sandbox.ledger.tasks}


# batch: what goes wrong on the way


def test_a_wrong_key_stops_the_batch_at_once(
    call: Call, imagen_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that the provider refuses exits 2 after a single create, is shown nowhere, and the folder stays usable."""
    arguments = ["batch", twelve(), *at(imagen_sandbox), "-o", "out"]
    monkeypatch.setenv("SANDBOX_API_KEY", "sk-wrong-0123")
    outcome = call(*arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert "The provider refuses the key" in outcome.err
    assert "0 done, 0 failed, 12 not sent" in outcome.err
    assert len(imagen_sandbox.ledger.creates) == 1
    assert "sk-wrong" not in outcome.err
    assert not any(b"sk-wrong" in path.read_bytes() for path in Path("out").iterdir())

    monkeypatch.delenv("SANDBOX_API_KEY")
    outcome = call(*arguments, "--limit", "1")
    assert outcome.code == 0
    assert len(lines_of(Path("out/metadata.jsonl"))) == 1


def test_a_refusal_of_the_key_later_on(call: Call, imagen_sandbox: Sandbox) -> None:
    """A key that is refused after some creates went well exits 2, too, and the pictures of these are kept."""
    imagen_sandbox.order("create", None, None, "401")
    outcome = call("batch", twelve(), *at(imagen_sandbox), "-o", "out", "--running", "2")
    assert outcome.code == 2
    assert "The provider refuses the key" in outcome.err
    tasks = imagen_sandbox.ledger.tasks
    listed = lines_of(Path("out/metadata.jsonl"))
    assert {line["task_id"] for line in listed} == {task.task_id for task in tasks}
    assert len(tasks) >= 2
    assert all(Path("out", line["file_name"]).exists() for line in listed)


def test_an_account_without_credit_keeps_the_results_so_far(call: Call, empty_sandbox: Sandbox) -> None:
    """When the credit is used up the batch ends with exit 1, says so, and what was paid for is saved and listed."""
    outcome = call("batch", twelve(), *at(empty_sandbox), "-o", "out")
    assert outcome.code == 1
    assert "no credit left: top it up" in outcome.err
    assert "2 done, 0 failed, 10 not sent; 16 credits" in outcome.err
    tasks = {task.task_id for task in empty_sandbox.ledger.tasks}
    assert {line["task_id"] for line in lines_of(Path("out/metadata.jsonl"))} == tasks
    assert len(outcome.lines) == len(tasks) == 2
    assert all(Path(line).exists() for line in outcome.lines)


def test_some_failures_exit_1_and_are_listed(call: Call, imagen_sandbox: Sandbox) -> None:
    """Failed generations leave the others alone, exit 1 and stand in failures.jsonl with their errors."""
    imagen_sandbox.order("task", "fail_digits", None, "fail_word")
    outcome = call("batch", twelve(), "--limit", "4", *at(imagen_sandbox), "-o", "out")
    first, _, third, _ = imagen_sandbox.ledger.tasks
    assert outcome.code == 1
    assert len(outcome.lines) == 2
    assert "2 done, 2 failed; 16 credits" in outcome.err
    assert "Why is in out/failures.jsonl" in outcome.err
    failures = {line["task_id"]: line for line in lines_of(Path("out/failures.jsonl"))}
    assert set(failures) == {first.task_id, third.task_id}
    sensitive = failures[third.task_id]
    assert sensitive["prompt"] == third.prompt
    assert sensitive["line"] == sensitive["index"] + 1
    assert (sensitive["ok"], sensitive["files"]) == (False, [])
    expected = {
        "type": "GenerationFailed",
        "message": "The prompt was flagged as sensitive.",
        "code": "SENSITIVE_WORD_ERROR",
    }
    assert expected.items() <= sensitive["error"].items()
    assert failures[first.task_id]["error"]["code"] == "500"
    assert len(lines_of(Path("out/metadata.jsonl"))) == 2


def test_retries_make_new_tasks_of_failed_ones(call: Call, imagen_sandbox: Sandbox) -> None:
    """`--retries 1` asks for a new picture once where the first try failed, and no task more."""
    imagen_sandbox.order("task", "fail_digits")
    outcome = call("batch", prompt_file("a fox", "a dog"), *at(imagen_sandbox), "--retries", "1")
    assert outcome.code == 0
    assert sorted(imagen_sandbox.ledger.tasks_by_prompt().values()) == [1, 2]


def test_a_lost_answer_is_listed_and_never_sent_again(call: Call, imagen_sandbox: Sandbox) -> None:
    """A create whose answer was lost exits 1, stands in failures.jsonl with the credits at risk, and is not doubled."""
    imagen_sandbox.order("create", "reset_after")
    outcome = call("batch", twelve(), "--limit", "3", *at(imagen_sandbox), "-o", "out", "-m", "imagen4-ultra")
    assert outcome.code == 1
    assert "1 failed (1 with the create's answer lost: maybe billed, not sent again)" in outcome.err
    (lost,) = lines_of(Path("out/failures.jsonl"))
    (faulty,) = (create for create in imagen_sandbox.ledger.creates if create.fault)
    assert lost["error"]["type"] == "UnknownOutcome"
    assert lost["error"]["credits_at_risk"] == 12
    assert (lost["prompt"], lost["task_id"]) == (faulty.prompt, None)
    assert set(imagen_sandbox.ledger.tasks_by_prompt().values()) == {1}
    assert len(imagen_sandbox.ledger.creates) == 3


def test_the_time_for_a_request_runs_out_and_it_is_collected(call: Call) -> None:
    """A deadline exits 1 and lists the task, which `collect` takes up: it saves the picture and creates nothing."""
    with running_sandbox(Sandbox(latency=Latency(median=1, sigma=0))) as sandbox:
        outcome = call("batch", prompt_file("a fox"), *at(sandbox), "-o", "out", "--deadline", "0.4")
        assert outcome.code == 1
        (late,) = lines_of(Path("out/failures.jsonl"))
        assert late["error"]["type"] == "DeadlineExceeded"
        assert late["task_id"] == sandbox.ledger.tasks[0].task_id
        outcome = call("collect", late["task_id"], *at(sandbox), "-o", "late")
        assert outcome.code == 0
        (path,) = outcome.lines
        with Image.open(path) as picture:
            picture.verify()
        assert Path(path).parent == Path("late")
        assert len(sandbox.ledger.creates) == 1


def test_a_picture_that_is_no_picture(call: Call, imagen_sandbox: Sandbox) -> None:
    """What is no picture, however often it is fetched, is a listed failure with its URL, and leaves no file."""
    imagen_sandbox.order("file", *["html"] * TRIES)
    with short_waits():
        outcome = call("batch", prompt_file("a fox"), *at(imagen_sandbox), "-o", "out")
    (task,) = imagen_sandbox.ledger.tasks
    assert (outcome.code, outcome.out) == (1, "")
    (failure,) = lines_of(Path("out/failures.jsonl"))
    assert failure["error"]["type"] == "DownloadFailed"
    assert "no PNG, JPEG or WebP picture: it begins with b'<html>" in failure["error"]["message"]
    assert failure["urls"] == [f"{imagen_sandbox.url}/files/sandbox/{task.task_id}/1.png"]
    assert failure["credits"] == 8
    assert sorted(os.listdir("out")) == ["failures.jsonl", "metadata.jsonl", *JOURNAL]
    assert Path("out/metadata.jsonl").read_bytes() == b""
    outcome = call("collect", str(task.task_id), *at(imagen_sandbox), "-o", "again")
    assert outcome.code == 0, "when the provider's server is well again, the picture is to be had"


def test_lists_that_cannot_be_written_name_every_paid_task(
    call: Call, imagen_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the disk fails under the lists, the batch stops, and every task is on stderr or left to the journal."""

    def full(path: Any, mode: str = "r", **options: Any) -> Any:
        return open("/dev/full" if mode == "ab" else path, mode, **options)

    prompts = prompt_file(*(f"p{number}" for number in range(30)))
    arguments = ["batch", prompts, *at(imagen_sandbox), "-o", "out", "--rate", "5/1"]
    with monkeypatch.context() as broken:
        broken.setattr("imagen_async._cli._manifest.open", full, raising=False)
        outcome = call(*arguments)
    assert outcome.code == 1
    assert "No space left on device" in outcome.err
    tasks = {str(task.task_id) for task in imagen_sandbox.ledger.tasks}
    assert 0 < len(tasks) < 30
    assert tasks - running_in("out").keys() <= {task for task in tasks if task in outcome.err}
    call(*arguments, "--limit", "1")
    listed = {line["task_id"] for line in lines_of(Path("out/metadata.jsonl"))}
    assert tasks <= listed, "the next run sets the lists right"


def test_a_picture_by_its_first_bytes_only_is_listed(tmp_path: Path) -> None:
    """A file that Pillow cannot read is listed without its size in pixels, and ends nothing."""
    path = tmp_path / "000000.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"junk")
    file = ImageFile(str(path), "0" * 64, 12, "image/png", "https://files.example/1.png")
    result = Result("k", 0, ImageRequest("a fox"), "kie", "imagen4", urls=(file.url,), files=(file,), task_id="t")
    with Journal(tmp_path / "run.db") as journal, Manifest(str(tmp_path), journal) as manifest:
        manifest.write(result, {})
    (line,) = lines_of(tmp_path / "metadata.jsonl")
    assert (line["file_name"], line["width"], line["height"]) == ("000000.png", None, None)


def test_the_first_of_two_pictures_is_listed(call: Call, imagen_sandbox: Sandbox) -> None:
    """When a request's second picture cannot be fetched, the first is on disk, so it is in the list."""
    imagen_sandbox.order("file", None, *["html"] * TRIES)
    options = ["-o", "out", "-m", "imagen4-fast", "--num-images", "2"]
    with short_waits():
        outcome = call("batch", prompt_file("a fox"), *at(imagen_sandbox), *options)
    assert outcome.code == 1
    pictures = {path.name for path in Path("out").glob("*.png")}
    assert pictures == {"000000-a-fox.png"}
    assert {line["file_name"] for line in lines_of(Path("out/metadata.jsonl"))} == pictures


def test_ctrl_c_leaves_nothing_paid_for_unlisted() -> None:
    """Ctrl-C ends a batch at once with exit 130, its journal has each task that runs on, and it says how to go on."""
    watched = Watched()
    with running_sandbox(Sandbox(latency=Latency(median=30), faults=watched)) as sandbox:
        arguments = ["batch", twelve(), *at(sandbox), "-o", "out", "--running", "3"]
        process = start(*arguments)
        watched.wait("poll", 3)
        process.send_signal(signal.SIGINT)
        outcome = finish(process)
        tasks = {task.task_id: task.prompt for task in sandbox.ledger.tasks}
    assert (outcome.code, outcome.out) == (130, "")
    assert len(tasks) == 3, "nothing was sent after the signal"
    assert running_in("out") == tasks
    assert lines_of(Path("out/failures.jsonl")) == [], "a task that runs on has not failed"
    assert "0 done, 0 failed, 3 left running and paid for, 9 not sent" in outcome.err
    assert f"Nothing is lost; go on with: imagen-async {' '.join(arguments)}\n" in outcome.err
    assert not any(word in outcome.err for word in ("Traceback", "Unclosed", "Warning", "never"))


def test_ctrl_c_without_a_folder_says_where_the_tasks_are() -> None:
    """After Ctrl-C without `-o` the task ids are on stderr, and one sentence says how to collect them."""
    watched = Watched()
    with running_sandbox(Sandbox(latency=Latency(median=30), faults=watched)) as sandbox:
        process = start("batch", prompt_file("a fox"), *at(sandbox))
        watched.wait("poll", 1)
        process.send_signal(signal.SIGINT)
        outcome = finish(process)
        (task,) = sandbox.ledger.tasks
    assert str(task.task_id) in outcome.err
    assert outcome.err.count("Collect each") == 1
    assert f"imagen-async collect TASK_ID -p sandbox --base-url {sandbox.url}" in outcome.err


def test_ctrl_c_after_some_results_keeps_them() -> None:
    """Ctrl-C after the first result exits 130 with every task either saved and listed, or left to the journal."""
    watched = Watched()
    with running_sandbox(Sandbox(latency=Latency(median=0.05, minimum=0.01), faults=watched)) as sandbox:
        process = start("batch", many(), *at(sandbox), "-o", "out", "--running", "2")
        assert process.stdout is not None
        first = process.stdout.readline().rstrip()
        process.send_signal(signal.SIGINT)
        outcome = finish(process)
        tasks = {task.task_id for task in sandbox.ledger.tasks}
    assert outcome.code == 130
    listed = lines_of(Path("out/metadata.jsonl"))
    assert f"out/{listed[0]['file_name']}" == first
    assert {line["task_id"] for line in listed} | running_in("out").keys() == tasks
    assert len(tasks) < 400
    assert all(Path("out", line["file_name"]).exists() for line in listed)
    assert not any(word in outcome.err for word in ("Traceback", "Unclosed", "Warning", "never"))


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
    assert threads
    assert threading.main_thread() not in threads
    Path("signalled").touch()
    outcome = call("batch", prompt_file("a whale"), *at(imagen_sandbox), "-o", "there")
    assert outcome.code == 130
    (line,) = lines_of(Path("there/metadata.jsonl"))
    assert [f"there/{line['file_name']}"] == outcome.lines


def closed_early(sandbox: Sandbox) -> Outcome:
    """A batch whose reader leaves after the first line, as `head -1` does, while most of it is still to come."""
    process = start("batch", many(), *at(sandbox), "-o", "out", "--json", "--running", "4")
    assert process.stdout is not None
    assert process.stderr is not None
    first = process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    return Outcome(process.wait(PATIENCE), first, err)


def test_a_reader_who_leaves_ends_the_batch_quietly(imagen_sandbox: Sandbox) -> None:
    """When stdout is closed early the batch stops sending and ends without a traceback, and not as a success."""
    outcome = closed_early(imagen_sandbox)
    assert outcome.records[0]["ok"]
    assert outcome.code not in (0, 120, 130)
    assert not any(word in outcome.err for word in ("Traceback", "Exception", "Unclosed", "Warning"))
    assert len(imagen_sandbox.ledger.creates) < 400


def test_a_reader_who_leaves_costs_no_picture(imagen_sandbox: Sandbox) -> None:
    """When stdout is closed early, every task that was paid for is saved and listed, or left to the journal."""
    closed_early(imagen_sandbox)
    listed = {line["task_id"] for line in lines_of(Path("out/metadata.jsonl"))}
    assert listed | running_in("out").keys() == {task.task_id for task in imagen_sandbox.ledger.tasks}


# plan, collect, credits, sandbox


def test_plan_tells_counts_credits_and_time(call: Call, imagen_sandbox: Sandbox) -> None:
    """`plan` adds up requests, pictures and credits, tells the time by the limits and latencies, and sends nothing."""
    Path("prompts.csv").write_text(
        "prompt,model,num_images\n" + "a fox,,\n" * 40 + "a dog,imagen4-fast,3\n" + "an owl,imagen4-ultra,\n"
    )
    outcome = call("plan", "prompts.csv", *at(imagen_sandbox), "--rate", "20/10")
    assert (outcome.code, outcome.err) == (0, "")
    counts, times = outcome.lines
    requests = "42 requests (40 × imagen4, 1 × imagen4-fast, 1 × imagen4-ultra), 44 pictures, 344 credits"
    assert counts == f"{requests}; 1,000,000 credits on the account"
    told = re.fullmatch(
        r"about (\d+) s: sent in 20 s at 20 creates per 10 s, 200 tasks at once of some 1 s each", times
    )
    assert told is not None
    assert 20 < int(told[1]) < 25, "the sending, and the last tasks"
    assert imagen_sandbox.ledger.summary()["creates"] == 0


def test_plan_as_json(call: Call) -> None:
    """`plan --json` prints one object of the same figures, by the provider's own limits, and needs no key."""
    outcome = call("plan", twelve(), "-p", "kie", "--json", "-m", "imagen4-fast", "--num-images", "4")
    assert outcome.code == 0
    (figures,) = outcome.records
    counts = {"requests": 12, "images": 48, "credits": 192, "models": {"imagen4-fast": 12}}
    expected = PROVIDERS["kie"].latency.mean
    assert figures["latency"] == pytest.approx(expected, abs=0.05)
    assert expected < figures["seconds"] < 4 * expected, "the slowest of twelve"
    account = {"models": {"imagen4-fast": 12}, "credits": {"imagen4-fast": 192}, "seconds": figures["seconds"]}
    assert figures == {
        **counts,
        "seconds_at_least": 0,
        "in_journal": 0,
        "affordable": None,
        "accounts": {"kie": {**account, "balance": None}},
        "latency": figures["latency"],
        "seconds": figures["seconds"],
    }
    (limited,) = call("plan", twelve(), "-p", "kie", "--json", "--limit", "5").records
    assert (limited["requests"], limited["credits"]) == (5, 40)
    (unpriced,) = call("plan", twelve(), "-p", "liangxin", "--json", "-m", "imagen4-fast").records
    assert unpriced["credits"] is None


def test_plan_tells_more_time_for_more_requests(call: Call) -> None:
    """What must wait for a window, or for a place among the running tasks, takes longer."""
    options = ("-p", "kie", "--json")
    (few,) = call("plan", many(), *options, "--limit", "20").records
    (window,) = call("plan", many(), *options, "--limit", "21").records
    (place,) = call("plan", many(), *options, "--limit", "21", "--running", "1").records
    assert [each["seconds_at_least"] for each in (few, window, place)] == [0, 10, 10]
    assert few["seconds"] + 10 <= window["seconds"] + 0.1
    assert place["seconds"] > 20 * place["latency"]


def test_plan_leaves_out_what_the_journal_has(call: Call, imagen_sandbox: Sandbox) -> None:
    """`plan -o` counts what is to be sent, reckons with the latencies of the folder, and changes nothing there."""
    assert call("batch", twelve(), *at(imagen_sandbox), "-o", "out", "--limit", "4").code == 0
    before = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    (whole,) = call("plan", "prompts.txt", "-p", "sandbox", "--json").records
    (rest,) = call("plan", "prompts.txt", "-p", "sandbox", "-o", "out", "--json").records
    assert (whole["requests"], whole["credits"], whole["in_journal"]) == (12, 96, 0)
    assert (rest["requests"], rest["credits"], rest["in_journal"]) == (8, 64, 4)
    # The record says 1 s, and these took some 50 ms.
    assert rest["latency"] < 0.4 < 0.9 < whole["latency"]
    assert 0 < rest["seconds"] < whole["seconds"]
    lines = call("plan", "prompts.txt", "-p", "sandbox", "-o", "out").lines
    assert lines[0] == "4 requests of the file in the journal already; to be sent:"
    assert lines[1].startswith("8 requests (8 × imagen4), 8 pictures, 64 credits")
    assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == before


def test_plan_of_a_batch_that_is_done(call: Call, imagen_sandbox: Sandbox) -> None:
    """`plan -o` of a folder that has it all already tells no requests, no credits and no time."""
    assert call("batch", prompt_file("a fox", "a dog"), *at(imagen_sandbox), "-o", "out").code == 0
    (figures,) = call("plan", "prompts.txt", "-p", "sandbox", "-o", "out", "--json").records
    assert (figures["in_journal"], figures["requests"], figures["images"], figures["models"]) == (2, 0, 0, {})
    assert (figures["credits"], figures["seconds"], figures["seconds_at_least"]) == (0, 0, 0)
    outcome = call("plan", "prompts.txt", "-p", "sandbox", "-o", "out")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.lines == ["2 requests of the file in the journal already; to be sent:", "nothing"]


def test_plan_refuses_what_the_batch_would(call: Call, imagen_sandbox: Sandbox) -> None:
    """`plan -o` names the lines whose key stood for something else in the folder, as `batch` does, and exits 2."""
    assert call("batch", prompt_file("a fox", "a dog"), *at(imagen_sandbox), "-o", "out").code == 0
    options = (*at(imagen_sandbox), "-m", "imagen4-fast", "-o", "out")
    planned, run = call("plan", "prompts.txt", *options), call("batch", "prompts.txt", *options)
    assert planned.code == run.code == 2
    assert planned.err == run.err
    assert "stood for another request" in planned.err


def test_plan_refuses_a_file_as_the_folder(call: Call) -> None:
    """`plan -o` of something that is no folder says so."""
    outcome = call("plan", prompt_file("a fox"), "-p", "sandbox", "-o", "prompts.txt")
    assert outcome.code == 2
    assert "prompts.txt is no folder" in outcome.err


def test_plan_counts_what_was_not_sent(call: Call, empty_sandbox: Sandbox) -> None:
    """Requests that an earlier run noted and could not send are still to be paid for, and `plan -o` counts them."""
    assert call("batch", prompt_file("a", "b", "c", "d"), *at(empty_sandbox), "-o", "out").code != 0
    done = sum(row["state"] == "done" for row in rows_of("out"))
    (figures,) = call("plan", "prompts.txt", "-p", "sandbox", "-o", "out", "--json").records
    assert (done, figures["in_journal"], figures["requests"], figures["credits"]) == (2, 2, 2, 16)


def test_plan_of_a_folder_without_a_journal(call: Call) -> None:
    """`plan -o` of a folder that is not there yet, or holds no batch, is that of the whole file, and makes nothing."""
    whole = call("plan", twelve(), "-p", "sandbox", "--json")
    assert call("plan", "prompts.txt", "-p", "sandbox", "--json", "-o", "nowhere") == whole
    Path("empty").mkdir()
    assert call("plan", "prompts.txt", "-p", "sandbox", "--json", "-o", "empty") == whole
    assert (os.listdir("empty"), sorted(os.listdir())) == ([], ["empty", "prompts.txt"])


def test_plan_of_a_folder_whose_journal_is_none(call: Call) -> None:
    """`plan -o` of a folder whose journal cannot be read exits 2 and says so, rather than counting all of it again."""
    Path("out").mkdir()
    Path("out/run.db").write_text("what I dreamt of last night, and more of it than would fit into a header")
    outcome = call("plan", twelve(), "-p", "sandbox", "-o", "out")
    assert (outcome.code, outcome.out) == (2, "")
    assert "out/run.db is no journal" in outcome.err


def test_plan_says_when_a_price_is_unknown(call: Call) -> None:
    """Where no page tells a price, `plan` says so and makes none up."""
    outcome = call("plan", twelve(), "-p", "apikley")
    requests = "12 requests (12 × imagen4), 12 pictures, an unknown price"
    remedy = "Apikley needs a key: set the environment variable APIKLEY_API_KEY."
    assert outcome.lines[0] == f"{requests}; balance unknown: {remedy}"


def test_plan_names_bad_lines(call: Call) -> None:
    """`plan` checks every line as `batch` does, and exits 2."""
    Path("prompts.tsv").write_text("Prompt\tSeed\na fox\t1\na dog\tone\n")
    outcome = call("plan", "prompts.tsv", "-p", "kie")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("prompts.tsv:3: seed='one': allowed is a whole number")


def test_a_stdout_of_few_characters() -> None:
    """Where stdout cannot write a character, the command still says what it has to say, without a traceback."""
    outcome = run("plan", "-", "-p", "kie", stdin="a fox\n", env={"PYTHONIOENCODING": "ascii"})
    assert outcome.code == 0
    assert "8 credits" in outcome.out


def test_collect_fetches_a_finished_task(call: Call, imagen_sandbox: Sandbox) -> None:
    """`collect` prints a finished task's URL, or saves it and prints its path, as often as one likes, for nothing."""
    (made,) = call("generate", "a fox", *at(imagen_sandbox), "--json").records
    assert call("collect", made["task_id"], *at(imagen_sandbox)).lines == made["urls"]
    for _ in range(2):
        outcome = call("collect", made["task_id"], *at(imagen_sandbox), "-o", "out")
        assert outcome.code == 0
        assert outcome.lines == [f"out/000000-{made['task_id']}.png"]
    (record,) = call("collect", made["task_id"], *at(imagen_sandbox), "--json").records
    assert (record["ok"], record["task_id"], record["credits"]) == (True, made["task_id"], 8)
    assert len(imagen_sandbox.ledger.creates) == 1
    assert len(os.listdir("out")) == 1


def test_collect_of_a_task_that_nobody_knows(call: Call, imagen_sandbox: Sandbox) -> None:
    """`collect` of an unknown task fails with its id and what may be the reason."""
    outcome = call("collect", "no-such-task", *at(imagen_sandbox), "--deadline", "20")
    assert outcome.code in (1, 2)
    assert outcome.out == ""
    assert "no-such-task" in outcome.err
    assert "knows no such task" in outcome.err


def test_collect_of_a_failed_task(call: Call, imagen_sandbox: Sandbox) -> None:
    """`collect` of a task that failed exits 1 with the provider's reason."""
    imagen_sandbox.order("task", "fail_word")
    assert call("generate", "a fox", *at(imagen_sandbox)).code == 1
    outcome = call("collect", str(imagen_sandbox.ledger.tasks[0].task_id), *at(imagen_sandbox))
    assert (outcome.code, outcome.out) == (1, "")
    assert "flagged as sensitive" in outcome.err


def test_credits_tells_the_balance(call: Call, empty_sandbox: Sandbox) -> None:
    """`credits` prints the balance, and as JSON an object."""
    assert call("credits", *at(empty_sandbox)) == Outcome(0, "sandbox 16\n", "")
    assert call("credits", *at(empty_sandbox), "--json").records == [{"provider": "sandbox", "credits": 16}]


def test_credits_of_a_provider_that_does_not_tell(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an API has no such question, `credits` says so, and as JSON it is null."""
    monkeypatch.setenv("APIIN_API_KEY", "k")
    outcome = call("credits", "-p", "apiin")
    assert outcome.code == 0
    assert "API in One" in outcome.out
    assert call("credits", "-p", "apiin", "--json").records == [{"provider": "apiin", "credits": None}]


def test_credits_with_a_wrong_key(call: Call, imagen_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """`credits` with a key that is refused exits 2."""
    monkeypatch.setenv("SANDBOX_API_KEY", "sk-wrong-0123")
    outcome = call("credits", *at(imagen_sandbox))
    assert (outcome.code, outcome.out) == (2, "")
    assert "refuses the key" in outcome.err
    assert "sk-wrong" not in outcome.err


def test_a_server_that_is_not_there(call: Call) -> None:
    """An address where nobody answers is an error with the address, without a traceback."""
    with running_sandbox(Sandbox()) as sandbox:
        gone = sandbox.url
    outcome = call("credits", "-p", "sandbox", "--base-url", gone)
    assert (outcome.code, outcome.out) == (1, "")
    assert gone.removeprefix("http://") in outcome.err


def test_the_sandbox_serves_until_ctrl_c(call: Call) -> None:
    """`sandbox` says on stderr where it serves, serves, and ends at Ctrl-C with its ledger on stdout and exit 130."""
    process = start("sandbox", "--port", "0", "--latency", "0.05", "--credits", "16")
    assert process.stderr is not None
    try:
        greeting = [process.stderr.readline() for _ in range(3)]
        url = greeting[2].split()[-1]
        assert url.startswith("http://127.0.0.1:")
        assert url in greeting[0]
        assert "imagen-async generate 'a red fox' -p sandbox --base-url" in greeting[2]
        account = ["-p", "sandbox", "--base-url", url]
        made = call("generate", "a red fox", *account, "-o", "out")
        assert made.lines == ["out/000000-a-red-fox.png"]
        assert call("credits", *account).out == "sandbox 8\n"
    finally:
        process.send_signal(signal.SIGINT)
        outcome = finish(process)
    assert outcome.code == 130
    (ledger,) = outcome.records
    expected = {"creates": 1, "tasks": 1, "credits": 8, "pictures": 1, "prompts_with_several_tasks": {}, "key_leaks": 0}
    assert expected.items() <= ledger.items()
    assert not any(word in outcome.err for word in ("Traceback", "Unclosed", "Warning", "never"))


def test_a_port_that_is_taken(call: Call, imagen_sandbox: Sandbox) -> None:
    """`sandbox` on a port that is in use exits 2 and names the port."""
    port = imagen_sandbox.url.rpartition(":")[2]
    outcome = call("sandbox", "--port", port)
    assert outcome.code == 2
    assert f"Port {port} cannot be used" in outcome.err


def test_a_port_that_is_taken_prints_no_data(call: Call, imagen_sandbox: Sandbox) -> None:
    """A `sandbox` that never served prints no ledger."""
    outcome = call("sandbox", "--port", imagen_sandbox.url.rpartition(":")[2])
    assert outcome.out == ""


def test_the_limits_of_the_options_are_kept(call: Call) -> None:
    """`--rate` and `--running` bound what is sent: a strict server of the same limits refuses nothing."""
    limits = Limits(submit=Rate(4, per=0.5), status=Rate(50, per=1), running=4)
    with running_sandbox(Sandbox(latency=Latency(median=0.05, minimum=0.01), limits=limits)) as sandbox:
        options = ["--rate", "4/0.5", "--status-rate", "50/1", "--running", "4"]
        outcome = call("batch", twelve(), "--limit", "8", *at(sandbox), *options)
    assert (outcome.code, len(outcome.lines)) == (0, 8)
    assert sandbox.ledger.refused.total() == 0


@pytest.mark.parametrize("missing", ["rich", "PIL"])
def test_the_extra_that_is_missing_is_named(call: Call, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    """Without the `cli` extra, the command exits 2 and says which install brings it."""
    monkeypatch.setitem(sys.modules, missing, None)
    outcome = call("providers")
    assert (outcome.code, outcome.out) == (2, "")
    assert "pip install 'imagen-async[cli]'" in outcome.err
