"""A journal that an earlier version of this package has left: it is read, opened, and gone on with."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from test_client import client_of

from imagen_async import Client, GenerationFailed, ImageFile, ImageRequest, InvalidRequest, Result, UnknownOutcome
from imagen_async._journal import Journal, JournalReader
from imagen_async.sandbox import Sandbox

BEFORE = Path(__file__).parent / "data" / "journals" / "before.db"
"""Written by version 0.1.0, schema 2, by a batch of the command that was killed: a row of every state."""

BEGAN_AT = 1_764_000_000.0
LOST = (
    "The create was sent and its answer was lost (The exchange with http://127.0.0.1:8787 failed: Server "
    "disconnected.). It may have made a task and cost up to 4 credits; it is not sent again"
)


class Line(ImageRequest, frozen=True):
    """A request as the command has it: with its line in the file, and the columns that are no fields of a request."""

    line: int = 0
    columns: dict[str, Any] = {}  # noqa: RUF012 - msgspec copies an empty default


def task(position: int) -> str:
    """The task of a row."""
    return f"{position:02}e3e70682c2094cac629f6fbed82c07"


def url(position: int) -> str:
    """Where the picture of a row was."""
    return f"http://127.0.0.1:8787/files/sandbox/{task(position)}/1.png"


def row(position: int, key: str, state: str, prompt: str, **fields: Any) -> dict[str, Any]:
    """What a row says; by default a create of imagen4-fast that was sent once, at its own quarter of a second."""
    given = {"model": "imagen4-fast", "aspect_ratio": "16:9", **fields.pop("request", {})}
    sent_at = BEGAN_AT + position / 4
    if "task_id" in fields and state != "unknown":
        fields["accepted_at"] = sent_at + 0.375
    return {
        "key": key,
        "position": position,
        "state": state,
        "account": "sandbox",
        "request": Line(prompt, key=key, line=position + 1, columns=fields.pop("columns", {}), **given),
        "task_id": None,
        "urls": (),
        "files": (),
        "error": None,
        "credits": None,
        "price": 4.0,
        "latency": None,
        "attempts": 1,
        "retried": 0,
        "lost": 0,
        "lost_creates": (),
        "sent_at": sent_at,
        "accepted_at": None,
        "ended_at": None,
        **fields,
    }


def rows(folder: Path) -> dict[str, dict[str, Any]]:
    """What the journal says, by key, where it lies in a folder; errors as their message and code."""
    unserved = "No account took the request within 900 s; nothing was billed (Your call frequency is too high)"
    fox = ImageFile(str(folder / "000007-ein-fuchs-der-schlaft.png"), "ab" * 32, 5823, "image/png", url(7))
    hare = ImageFile(str(folder / "000008-a-hare.png"), "cd" * 32, 6496, "image/png", url(8))
    slow = ("The task did not finish within 900 s; collect it, or resume.", None)
    word = ("The prompt was flagged as sensitive.", "SENSITIVE_WORD_ERROR")
    odd = ("The provider refused the request: prompt is too odd", 422)
    made = {"credits": 4.0, "latency": 1.25}
    careful = {"model": "imagen4", "aspect_ratio": "1:1", "negative_prompt": "text, people", "seed": 2**31 - 1}
    found = [
        row(0, "queued", "queued", "a red fox", attempts=2, error=(unserved, 429)),
        row(1, "submitting", "submitting", "a grey heron", attempts=2),
        row(2, "running", "running", "a brown bear", task_id=task(2), columns={"sku": 17, "shop": "Zürich"}),
        row(3, "overdue", "running", "a white stork", task_id=task(3), attempts=2, retried=1, credits=4.0, error=slow),
        row(4, "denied", "running", "a black swan", task_id=task(4), error=("recordInfo is null", 422)),
        row(5, "ready", "ready", "an owl", task_id=task(5), urls=(url(5),), **made),
        row(6, "unsaved", "ready", "a lynx", task_id=task(6), urls=(url(6),), credits=4.0, latency=0.75)
        | {"error": ("http://127.0.0.1:8787 answered 503.", 503), "ended_at": BEGAN_AT + 9.5},
        row(7, "done", "done", "ein Fuchs, der schläft 🦊", task_id=task(7), urls=(url(7),), files=(fox,))
        | {"credits": 4.0, "latency": 2.0, "ended_at": BEGAN_AT + 6.25},
        row(8, "found", "done", "a hare", task_id=task(8), urls=(url(8),), files=(hare,), request=careful, attempts=2)
        | {"credits": 8.0, "price": 8.0, "latency": 1.5, "ended_at": BEGAN_AT + 7.25, "lost": 1, "lost_creates": (1,)},
        row(9, "failed", "failed", "a wolf", task_id=task(9), credits=0.0, ended_at=BEGAN_AT + 5.5, error=word),
        row(10, "refused", "failed", "a badger", ended_at=BEGAN_AT + 5.75, error=odd),
        row(11, "lost", "unknown", "a salmon", lost=1, lost_creates=(1,), error=(LOST, None), columns={"sku": 19})
        | {"ended_at": BEGAN_AT + 4.5},
        row(12, "told", "unknown", "an otter", task_id=task(12), attempts=2, lost=1, lost_creates=(2,))
        | {"error": (LOST, None), "ended_at": BEGAN_AT + 8.0},
    ]
    columns = {"sku": 18, "tags": ["animal", None]}
    found[7]["request"] = msgspec.structs.replace(found[7]["request"], columns=columns)
    return {each["key"]: each for each in found}


def said_by(journal: JournalReader) -> dict[str, dict[str, Any]]:
    """What the journal says, as far as this version reads it."""
    found = {entry.key: {name: getattr(entry, name) for name in entry.__struct_fields__} for entry in journal.entries()}
    for values in found.values():
        if values["error"] is not None:
            values["error"] = (values["error"].message, values["error"].code)
    return found


@pytest.fixture(params=[1, 2], ids=["schema-1", "schema-2"])
def version(request: pytest.FixtureRequest) -> int:
    """The version of the schema."""
    return int(request.param)


@pytest.fixture
def path(version: int, tmp_path: Path) -> Path:
    """The journal, copied; with schema 1 it never knew which creates were lost."""
    copy = tmp_path / "run.db"
    shutil.copyfile(BEFORE, copy)
    if version == 1:
        with closing(sqlite3.connect(copy)) as connection, connection:
            connection.execute("ALTER TABLE jobs DROP COLUMN lost_creates")
            connection.execute("PRAGMA user_version = 1")
    return copy


@pytest.fixture
def expected(version: int, tmp_path: Path) -> dict[str, dict[str, Any]]:
    """What it says."""
    found = rows(tmp_path)
    return found if version == 2 else {key: values | {"lost_creates": ()} for key, values in found.items()}


def test_every_field_is_read(path: Path, expected: dict[str, dict[str, Any]]) -> None:
    """A reader has all that the journal says of every job and of the batch, and leaves the file as it is."""
    before = path.read_bytes()
    with JournalReader(path, Line) as journal:
        assert said_by(journal) == expected
        assert journal.counts() == Counter(values["state"] for values in expected.values())
        assert journal.notes() == {
            "total": "14",
            "command": "imagen-async batch prompts.csv -p sandbox -m imagen4-fast -o out",
            "account": "-p sandbox",
            "working_folder": "/data",
            "callback_secret": "5e" * 32,
            "process": "4242",
        }
    with JournalReader(path) as journal:
        assert journal.find("running").request == ImageRequest(  # type: ignore[union-attr]
            "a brown bear", model="imagen4-fast", aspect_ratio="16:9", key="running"
        )
    assert path.read_bytes() == before


def test_it_is_opened_for_writing(path: Path, expected: dict[str, dict[str, Any]]) -> None:
    """A writer keeps all of it, knows when its creates were sent, and makes the one on the way unknown."""
    later = float(round(time.time() - BEGAN_AT))
    with closing(sqlite3.connect(path)) as connection, connection:
        # As if the batch had been killed just now: after a day the times of creates are forgotten.
        connection.execute("UPDATE sends SET sent_at = sent_at + ?", (later,))
        connection.execute("UPDATE jobs SET sent_at = sent_at + ?, accepted_at = accepted_at + ?", (later, later))
    with Journal(path, Line) as journal:
        found = said_by(journal)
        sends = journal.sent_since("sandbox", BEGAN_AT + later - 10)
    cut_off = found.pop("submitting")
    what = [cut_off[name] for name in ("state", "attempts", "lost", "lost_creates", "task_id")]
    assert what == ["unknown", 2, 1, (2,), None]
    del expected["submitting"]
    for values in expected.values():
        for name in {"sent_at", "accepted_at"}:
            values[name] = values[name] and values[name] + later
    assert found == expected
    answered = {(values["sent_at"], values["accepted_at"]) for values in expected.values() if values["accepted_at"]}
    assert {(sent, accepted) for sent, accepted in sends if accepted is not None} == answered
    assert len(sends) == 18


async def test_a_batch_goes_on(path: Path, expected: dict[str, dict[str, Any]], imagen_sandbox: Sandbox) -> None:
    """Tasks are collected, links are fetched, what ended comes out as it was: only what never went out is created."""
    requests: list[ImageRequest] = [values["request"] for values in expected.values()]
    requests.append(ImageRequest("a new one", key="new"))
    with_task = [request for request in requests if request.key in ("running", "overdue", "denied", "told")]
    with_links = [request for request in requests if request.key in ("ready", "unsaved")]
    async with client_of(imagen_sandbox) as client:
        tasks = {str(request.key): (await client.submit(request)).task_id for request in with_task}
        made = [await client.generate(request) for request in with_links]
        give(path, tasks | {result.key: str(result.task_id) for result in made}, made)
        before = len(imagen_sandbox.ledger.creates)
        first = await gone_on_with(client, path, requests)
        created = imagen_sandbox.ledger.creates[before:]
        assert Counter(create.prompt for create in created) == {"a red fox": 1, "a new one": 1}
        second = await gone_on_with(client, path, requests)
        assert len(imagen_sandbox.ledger.creates) == before + 2, "the same again creates nothing"
    ended = ["done", "found", "failed", "refused", "lost", "submitting"]
    assert {key for key, result in first.items() if result.earlier} == set(ended)
    for key in ("done", "found"):
        assert (first[key].ok, first[key].files) == (True, expected[key]["files"])
    for key, kind in {"failed": GenerationFailed, "refused": InvalidRequest, "lost": UnknownOutcome}.items():
        error = first[key].error
        assert type(error) is kind
        assert (error.message, error.code) == expected[key]["error"]
    cut_off = first["submitting"].error
    assert isinstance(cut_off, UnknownOutcome)
    assert cut_off.credits == 4.0
    for key in first.keys() - ended:
        assert first[key].ok, first[key]
        assert [Path(file).parent for file in first[key].files] == [path.parent], key
    assert {key: first[key].task_id for key in tasks} == tasks
    assert {key: (result.task_id, result.files) for key, result in second.items()} == {
        key: (result.task_id, result.files) for key, result in first.items()
    }


def give(path: Path, tasks: dict[str, str], made: list[Result]) -> None:
    """Have the journal's tasks be ones that this sandbox has, and its links lead there."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for key, task_id in tasks.items():
            connection.execute("UPDATE jobs SET task_id = ? WHERE key = ?", (task_id, key))
        for result in made:
            urls = msgspec.json.encode(result.urls).decode()
            connection.execute("UPDATE jobs SET urls = ? WHERE key = ?", (urls, result.key))


async def gone_on_with(client: Client, path: Path, requests: list[ImageRequest]) -> dict[str, Result]:
    """The results of a batch over the journal, by key."""
    async with client.batch(requests, journal=path, save_to=path.parent, model="imagen4-fast") as results:
        return {result.key: result async for result in results}
