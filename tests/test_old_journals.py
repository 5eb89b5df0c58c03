"""A journal that an earlier version of this package has left: it is read, opened, and gone on with."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from inner import Journal, JournalReader
from journals import by_hand, entry, place

from imagen_async import Client, ImageRequest, JournalError
from imagen_async.sandbox import Sandbox

__all__ = ["place"]

BEFORE = Path(__file__).parent / "data" / "journals" / "before.db"
"""Written by version 0.1.0, schema 2, by a batch of the command that was killed: a row of every state.

What it says is in `before.jsonl`, a job a line, with paths from the journal's folder.
"""
COMMAND = "imagen-async batch prompts.csv -p sandbox -m imagen4-fast -o out"
NOTES = {"total": "14", "account": "-p sandbox", "working_folder": "/data", "process": "4242"}


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
    found = list(map(json.loads, BEFORE.with_suffix(".jsonl").read_text().splitlines()))
    for values in found:
        values["files"] = [file | {"path": str(path.parent / file["path"])} for file in values["files"]]
        values["lost_creates"] = values["lost_creates"] if version_of(path)[0] == 2 else []
        # Nobody asked what a provider had understood, for a text, nor for another model.
        values |= {"ignored": [], "text": None, "made_by": None}
    return {values["key"]: values for values in found}


def said_by(journal: JournalReader) -> dict[str, dict[str, Any]]:
    """What a journal says, as this version reads it."""
    return {each.key: json.loads(msgspec.json.encode(each)) for each in journal.entries()}


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
        assert journal.notes() == {**NOTES, "command": COMMAND, "callback_secret": "5e" * 32}
    with JournalReader(path) as journal:
        (found,) = [each.request for each in journal.entries() if each.key == "running"]
        assert found == ImageRequest("a brown bear", model="imagen4-fast", aspect_ratio="16:9", key="running")
    assert path.read_bytes() == before


def test_a_writer_keeps_all_of_it(path: Path) -> None:
    """A writer brings the file up to its schema once, and loses nothing; what was on the way is unknown."""
    expected = said_before(path)
    Journal(path.with_name("new.db")).close()
    # As if the batch had been killed just now: after a day the times of creates are forgotten.
    later, times = float(round(time.time() - expected["queued"]["sent_at"])), ("sent_at", "accepted_at")
    by_hand(path, f"UPDATE sends SET sent_at = sent_at + {later}")
    by_hand(path, *(f"UPDATE jobs SET {name} = {name} + {later}" for name in times))
    for values in expected.values():
        values |= {name: values[name] and values[name] + later for name in times}
    answered = {(each["sent_at"], each["accepted_at"]) for each in expected.values() if each["accepted_at"]}
    del expected["submitting"]
    for _ in range(2):
        with Journal(path, Line) as journal:
            found, sends = said_by(journal), journal.sent_since("sandbox", time.time() - 10)
        assert version_of(path) == version_of(path.with_name("new.db"))
        cut_off = found.pop("submitting")
        what = {"state": "unknown", "attempts": 2, "lost": 1, "lost_creates": [2], "task_id": None}
        assert (found, cut_off | what) == (expected, cut_off)
        over = {times for times in sends if times[1] is not None}
        sent_last = {each["sent_at"] for each in (*found.values(), cut_off)}
        assert (len(sends), answered <= over, {times[1] for times in over - answered} <= sent_last) == (18, True, True)


def test_a_reader_goes_on_while_the_file_is_upgraded(path: Path) -> None:
    """A reader that was open before a writer came still sees every record, with the new column or without it."""
    changed = entry(1, lost=2, lost_creates=(1, 2))
    with JournalReader(path) as reader:
        before = reader.find("done")
        with Journal(path) as journal:
            journal.write([changed])
        without = msgspec.structs.replace(changed, lost_creates=())
        assert (reader.find("done"), reader.find("k1") in (changed, without)) == (before, True)
    with JournalReader(path) as reader:
        assert reader.find("k1") == changed


KILLED_EVER_LATER = """
import os, shutil, signal, sys
from imagen_async._journal import Journal

def killed(path, left):
    def count(frame, event, what):
        nonlocal left
        left -= event == "c_call" and what.__name__.startswith("execute")
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
    if child := os.fork():
        return os.waitpid(child, 0)[1]
    sys.setprofile(count)
    Journal(path).close()
    os._exit(0)

number = 1
while killed(shutil.copyfile(sys.argv[1], f"{sys.argv[1]}-{number}"), number):
    number += 1
print(number)
"""


def test_a_process_killed_while_it_upgrades_loses_nothing(path: Path) -> None:
    """Whatever statement it was killed before, a reader and the next writer find all that was there."""
    expected = said_before(path)
    ran = subprocess.run([sys.executable, "-c", KILLED_EVER_LATER, str(path)], capture_output=True, check=True)
    versions = Counter[int]()
    for number in range(1, int(ran.stdout)):
        copy = path.with_name(f"{path.name}-{number}")
        with JournalReader(copy, Line) as reader:
            found = said_by(reader)
        versions[version_of(copy)[0]] += 1
        with Journal(copy, Line) as journal:
            assert said_by(journal).keys() == expected.keys()
        del found["submitting"]
        assert found == {key: values for key, values in expected.items() if key != "submitting"}
    assert version_of(path)[0] in versions, "it was killed before"
    assert len(versions) == 2, "and after"


def test_an_upgrade_that_fails_leaves_the_file_as_it_was(path: Path) -> None:
    """What has no table of jobs is not half upgraded: its version stays, and the error says so."""
    by_hand(path, "ALTER TABLE jobs RENAME TO others", "PRAGMA user_version = 1")
    with pytest.raises(JournalError, match="no such table: jobs"):
        Journal(path)
    assert version_of(path) == (1, [])


async def test_a_batch_goes_on(path: Path, imagen_sandbox: Sandbox) -> None:
    """What ended comes out as it was, what has a task or a link is collected, only what never went out is created."""
    with JournalReader(path, Line) as reader:
        requests = {each.key: each.request for each in reader.entries()}
    going_on = ("running", "overdue", "denied", "told", "ready", "unsaved")
    async with Client("sandbox", api_key=imagen_sandbox.key, base_url=imagen_sandbox.url) as client:
        made = await asyncio.gather(*(client.generate(requests[key]) for key in going_on))
        tasks = {key: result.task_id for key, result in zip(going_on, made, strict=True)}
        for key, result in zip(going_on, made, strict=True):  # this sandbox knows none of the tasks in the journal
            by_hand(path, f"UPDATE jobs SET task_id = '{result.task_id}' WHERE key = '{key}'")
            by_hand(path, f"UPDATE jobs SET urls = '{json.dumps(result.urls)}' WHERE key = '{key}' AND state = 'ready'")
        async with client.batch(requests.values(), journal=path, save_to=path.parent) as results:
            found = {result.key: result async for result in results}
    held_or_failed = dict.fromkeys(("failed", "refused", "lost", "submitting"), (False, True))
    ended = {"done": (True, True), "found": (True, True), **held_or_failed}
    came = {key: (result.ok, result.earlier) for key, result in found.items()}
    assert came == dict.fromkeys(("queued", *going_on), (True, False)) | ended
    assert {key: found[key].task_id for key in going_on} == tasks
    assert [create.prompt for create in imagen_sandbox.ledger.creates[len(made) :]] == ["a red fox"]
