"""A journal that an earlier version of this package has left: it is read, opened, and gone on with."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from journals import by_hand, entry, place

from imagen_async import Client, GenerationFailed, ImageRequest, InvalidRequest, JournalError, Result, UnknownOutcome
from imagen_async._journal import Journal, JournalReader
from imagen_async.sandbox import Sandbox

__all__ = ["place"]

BEFORE = Path(__file__).parent / "data" / "journals" / "before.db"
"""Written by version 0.1.0, schema 2, by a batch of the command that was killed: a row of every state.

What it says is in `before.jsonl`, a job a line, with paths from the journal's folder.
"""


class Line(ImageRequest, frozen=True):
    """A request as the command has it: with its line in the file, and the columns that are no fields of a request."""

    line: int = 0
    columns: dict[str, Any] = {}  # noqa: RUF012 - msgspec copies an empty default


@pytest.fixture(params=[1, 2], ids=["schema-1", "schema-2"])
def path(request: pytest.FixtureRequest, place: Path) -> Path:
    """The journal, copied; with schema 1 it never knew which creates were lost."""
    shutil.copyfile(BEFORE, place / "run.db")
    if request.param == 1:
        by_hand(place / "run.db", "ALTER TABLE jobs DROP COLUMN lost_creates", "PRAGMA user_version = 1")
    return place / "run.db"


def said_before(path: Path) -> dict[str, dict[str, Any]]:
    """What it says, by key."""
    found = {each["key"]: each for each in map(json.loads, BEFORE.with_suffix(".jsonl").read_text().splitlines())}
    version, _ = version_of(path)
    for values in found.values():
        values["files"] = [file | {"path": str(path.parent / file["path"])} for file in values["files"]]
        values["lost_creates"] = values["lost_creates"] if version == 2 else []
    return found


def said_by(journal: JournalReader) -> dict[str, dict[str, Any]]:
    """What a journal says, as this version reads it."""
    return {each.key: as_json(each) for each in journal.entries()}


def as_json(value: object) -> Any:
    """A value as JSON has it."""
    return json.loads(msgspec.json.encode(value))


def version_of(path: Path) -> tuple[int, list[str]]:
    """A file's schema version, and the columns of its jobs."""
    with closing(sqlite3.connect(path)) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        return version, sorted(name for _, name, *_ in connection.execute("PRAGMA table_info(jobs)"))


def test_every_field_is_read(path: Path) -> None:
    """A reader has all that the journal says of every job and of the batch, and leaves the file as it is."""
    before, expected = path.read_bytes(), said_before(path)
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
        (found,) = [each.request for each in journal.entries() if each.key == "running"]
        assert found == ImageRequest("a brown bear", model="imagen4-fast", aspect_ratio="16:9", key="running")
    assert path.read_bytes() == before


def test_a_writer_keeps_all_of_it(path: Path) -> None:
    """A writer brings the file up to its schema once, and loses nothing; what was on the way is unknown."""
    expected = said_before(path)
    later = float(round(time.time() - expected["queued"]["sent_at"]))
    # As if the batch had been killed just now: after a day the times of creates are forgotten.
    by_hand(
        path,
        f"UPDATE sends SET sent_at = sent_at + {later}",
        f"UPDATE jobs SET sent_at = sent_at + {later}, accepted_at = accepted_at + {later}",
    )
    for values in expected.values():
        values |= {name: values[name] and values[name] + later for name in ("sent_at", "accepted_at")}
    Journal(path.with_name("new.db")).close()
    for _ in range(2):
        with Journal(path, Line) as journal:
            found = said_by(journal)
            sends = journal.sent_since("sandbox", time.time() - 10)
        assert version_of(path) == version_of(path.with_name("new.db"))
        cut_off = found.pop("submitting")
        what = [cut_off[name] for name in ("state", "attempts", "lost", "lost_creates", "task_id")]
        assert what == ["unknown", 2, 1, [2], None]
        assert found == {key: values for key, values in expected.items() if key != "submitting"}
        answered = {(each["sent_at"], each["accepted_at"]) for each in expected.values() if each["accepted_at"]}
        assert {times for times in sends if times[1] is not None} == answered
        assert len(sends) == 18


def test_a_reader_goes_on_while_the_file_is_upgraded(path: Path) -> None:
    """A reader that was open before a writer came still sees every record, with the new column or without it."""
    changed = entry(1, lost=2, lost_creates=(1, 2))
    with JournalReader(path) as reader:
        before = reader.find("done")
        with Journal(path) as journal:
            journal.write([changed])
            assert reader.find("done") == before
            found = reader.find("k1")
            assert found is not None
            assert msgspec.structs.replace(found, lost_creates=(1, 2)) == changed
    with JournalReader(path) as reader:
        assert reader.find("k1") == changed


def test_an_upgrade_that_fails_leaves_the_file_as_it_was(path: Path) -> None:
    """What has no table of jobs is not half upgraded: its version stays, and the error says so."""
    by_hand(path, "ALTER TABLE jobs RENAME TO others", "PRAGMA user_version = 1")
    with pytest.raises(JournalError, match="no such table: jobs"):
        Journal(path)
    assert version_of(path) == (1, [])


async def test_a_batch_goes_on(path: Path, imagen_sandbox: Sandbox) -> None:
    """Tasks are collected, links are fetched, what ended comes out as it was: only what never went out is created."""
    expected = said_before(path)
    with JournalReader(path, Line) as reader:
        requests: list[ImageRequest] = [each.request for each in reader.entries()]
    requests.append(ImageRequest("a new one", key="new"))
    ledger = imagen_sandbox.ledger
    async with Client("sandbox", api_key=imagen_sandbox.key, base_url=imagen_sandbox.url) as client:
        tasks = await give(client, path, [each for each in requests if expected.get(str(each.key), {}).get("task_id")])
        before = len(ledger.creates)
        first, second = [await gone_on_with(client, path, requests) for _ in range(2)]
        created = Counter(create.prompt for create in ledger.creates[before:])
    assert created == {"a red fox": 1, "a new one": 1}, "the same again creates nothing"
    ended = {"done", "found", "failed", "refused", "lost", "submitting"}
    assert {key for key, result in first.items() if result.earlier} == ended
    for key in ("done", "found"):
        assert as_json(first[key].files) == expected[key]["files"]
    for key, kind in {"failed": GenerationFailed, "refused": InvalidRequest, "lost": UnknownOutcome}.items():
        error = first[key].error
        assert type(error) is kind
        assert (error.message, error.code) == (expected[key]["error"]["message"], expected[key]["error"].get("code"))
    cut_off = first["submitting"].error
    assert isinstance(cut_off, UnknownOutcome)
    assert cut_off.credits == 4.0
    for key in first.keys() - ended:
        assert [Path(file).parent for file in first[key].files] == [path.parent], first[key]
    assert {key: first[key].task_id for key in tasks.keys() - ended} == {
        key: task for key, task in tasks.items() if key not in ended
    }
    assert {key: (result.task_id, result.files) for key, result in second.items()} == {
        key: (result.task_id, result.files) for key, result in first.items()
    }


async def give(client: Client, path: Path, requests: list[ImageRequest]) -> dict[str, str]:
    """Have the journal's tasks be ones that this sandbox has, and its links lead there; the tasks by key."""
    results = await asyncio.gather(*map(client.generate, requests))
    made = {result.key: result for result in results}
    with closing(sqlite3.connect(path)) as connection, connection:
        for key, result in made.items():
            change = "UPDATE jobs SET task_id = ?, urls = iif(state = 'ready', ?, urls) WHERE key = ?"
            connection.execute(change, (result.task_id, msgspec.json.encode(result.urls).decode(), key))
    return {key: str(result.task_id) for key, result in made.items()}


async def gone_on_with(client: Client, path: Path, requests: list[ImageRequest]) -> dict[str, Result]:
    """The results of a batch over the journal, by key."""
    async with client.batch(requests, journal=path, save_to=path.parent, model="imagen4-fast") as results:
        return {result.key: result async for result in results}
