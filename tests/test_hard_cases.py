"""Faults that a hostile reading found, each as the case that showed it: what must hold where runs meet trouble."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from test_batch import FAST, run
from test_client import client_of
from test_command import (
    Call,
    at,
    call,
    clean_environment,
    finish,
    lines_of,
    prompt_file,
    rows_of,
    start,
)
from test_resuming import FAILURES, METADATA, batch, eventually, is_tidy, states_in, tasks_of

from imagen_async import (
    Client,
    GenerationFailed,
    ImageRequest,
    InvalidRequest,
    JournalError,
    Limits,
    Rate,
    Result,
)
from imagen_async._core.values import stable_key
from imagen_async._journal import Journal, JournalReader
from imagen_async.sandbox import Latency, Sandbox
from imagen_async.testing import running_sandbox

__all__ = ["call", "clean_environment"]

STEADY = Latency(median=0.5, sigma=0)
"""Long enough for a batch to be left while its tasks run, short enough for the next run to wait for them."""
ENDLESS = Latency(median=600, sigma=0)
TWENTY = Limits(Rate(20, per=3), Rate(500, per=0.5), running=300)
"""So few creates that two runs do not fit into one window."""


async def leave_running(client: Client, server: Sandbox, prompts: Sequence[str], **terms: Any) -> None:
    """Leave a batch as soon as each of its prompts has a task."""
    async with client.batch(prompts, **terms):
        while len(server.ledger.tasks) < len(prompts):
            await anyio.sleep(0.01)


def records_of(path: Path) -> list[Any]:
    """The rows of a journal in the order of the input."""
    with JournalReader(path) as reader:
        return sorted(reader.entries(), key=lambda entry: entry.position)


def hold(call: Call, sandbox: Sandbox, *prompts: str) -> tuple[str, str]:
    """Run a batch whose first create loses its answer; returns the held request's key and the id of its task."""
    prompt_file(*prompts)
    sandbox.order("create", "reset_after")
    assert call(*batch(sandbox)).code == 1
    (held,) = [row for row in rows_of("out") if row["state"] == "unknown"]
    return held["key"], str(sandbox.ledger.tasks[0].task_id)


def refuse_running(path: Path) -> None:
    """Make a journal that takes intents, and no word about a task that runs: as if the disk were full between them."""
    path.parent.mkdir(exist_ok=True)
    Journal(path).close()
    with closing(sqlite3.connect(path)) as connection:
        for event in ("INSERT", "UPDATE"):
            connection.execute(
                f"CREATE TRIGGER no_{event} BEFORE {event} ON jobs WHEN NEW.state = 'running' "
                "BEGIN SELECT RAISE(ABORT, 'no room'); END"
            )


# Collecting by hand


def test_a_mistyped_task_is_not_noted(call: Call, imagen_sandbox: Sandbox) -> None:
    """A task that the provider does not know leaves a held request as it was, and the right one settles it for good."""
    key, right = hold(call, imagen_sandbox, "a fox")
    before = rows_of("out")
    wrong = call("collect", f"{right[:-1]}x", "--dir", "out", "--key", key, *at(imagen_sandbox))
    assert (wrong.code, wrong.out) == (2, "")
    assert is_tidy(wrong)
    assert rows_of("out") == before
    assert call("collect", right, "--dir", "out", "--key", key, *at(imagen_sandbox)).code == 0
    (row,) = rows_of("out")
    assert (row["state"], row["task_id"]) == ("done", right)
    (line,) = lines_of(METADATA)
    assert line["task_id"] == right
    assert len(list(Path("out").glob("*.png"))) == 1
    assert call(*batch(imagen_sandbox, "--retry-failed", "--resubmit-unknown")).code == 0
    assert len(imagen_sandbox.ledger.creates) == 1


def test_collect_at_another_provider_is_refused(
    call: Call, imagen_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`collect --dir` with a provider that is not the request's exits 2 and changes nothing."""
    key, right = hold(call, imagen_sandbox, "a fox")
    before = rows_of("out")
    monkeypatch.setenv("KIE_API_KEY", imagen_sandbox.key)
    place = ["-p", "kie", "--base-url", imagen_sandbox.url_of("kie")]
    outcome = call("collect", right, "--dir", "out", "--key", key, *place)
    assert (outcome.code, outcome.out) == (2, "")
    assert "sandbox, not kie" in outcome.err
    assert rows_of("out") == before


def test_collect_of_another_requests_task_is_refused(call: Call, imagen_sandbox: Sandbox) -> None:
    """`collect --dir --key` with a task that another row has exits 2 and changes neither."""
    key, _ = hold(call, imagen_sandbox, "a fox", "a hen")
    before = rows_of("out")
    (other,) = [row["task_id"] for row in before if row["state"] == "done"]
    outcome = call("collect", other, "--dir", "out", "--key", key, *at(imagen_sandbox))
    assert (outcome.code, outcome.out) == (2, "")
    assert rows_of("out") == before
    assert len(lines_of(METADATA)) == 1


# Tasks that a provider denies


def test_denied_tasks_are_collected_at_the_right_address(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """Denied at a wrong address, tasks stay running, and --retry-failed at the right one collects and buys none."""
    monkeypatch.setattr("imagen_async._core.transitions.asking.PATIENCE", 0.2)
    prompt_file("a", "b", "c")
    with running_sandbox(Sandbox(latency=STEADY)) as right, running_sandbox(Sandbox(seed=9)) as wrong:
        call(*batch(right, "--deadline", "0.2"))
        assert states_in("out") == ["running"] * 3
        assert call(*batch(wrong)).code == 1
        assert states_in("out") == ["running"] * 3
        assert all("InvalidRequest" in row["error"] for row in rows_of("out"))
        assert call(*batch(right, "--retry-failed")).code == 0
        assert states_in("out") == ["done"] * 3
        assert right.ledger.tasks_by_prompt() == {"a": 1, "b": 1, "c": 1}
        assert wrong.ledger.creates == []


async def test_a_task_that_is_denied_again_is_replaced_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a provider denies a task in two runs, retry_failed makes exactly one new task of its request."""
    monkeypatch.setattr("imagen_async._core.transitions.asking.PATIENCE", 0.2)
    path = tmp_path / "j.db"
    with running_sandbox(Sandbox(latency=ENDLESS)) as lost, running_sandbox(Sandbox(latency=STEADY, seed=9)) as server:
        async with client_of(lost) as client:
            await leave_running(client, lost, ["a", "b"], journal=path)
        async with client_of(server) as client:
            for _ in range(2):
                results = await run(client, ["a", "b"], journal=path)
                assert all(isinstance(result.error, InvalidRequest) for result in results)
            assert {entry.state for entry in records_of(path)} == {"running"}
            assert server.ledger.creates == []
            for earlier in (False, True):
                results = await run(client, ["a", "b"], journal=path, retry_failed=True)
                assert all(result.ok and result.earlier == earlier for result in results)
        assert server.ledger.tasks_by_prompt() == {"a": 1, "b": 1}
        assert len(lost.ledger.creates) == 2


# The limit


async def test_retried_creates_count_for_the_next_run(tmp_path: Path) -> None:
    """Every create of a job takes a place in the window of the next run, also those before its last."""
    with running_sandbox(Sandbox(latency=Latency(median=0.05, sigma=0), limits=TWENTY)) as server:
        server.order("task", *["fail_digits"] * 12)
        async with client_of(server, limits=TWENTY) as client:
            await run(client, [f"p{number}" for number in range(6)], journal=tmp_path / "j.db", retries=2)
        times = server.ledger.create_times
        assert len(times) == 18
        assert times[-1] - times[0] < TWENTY.submit.per - 0.5, "or the next run would find an empty window"
        async with client_of(server, limits=TWENTY) as client:
            results = await run(client, [f"q{number}" for number in range(20)], journal=tmp_path / "j.db")
        assert all(result.ok for result in results)
        assert (len(times), server.ledger.refused) == (38, {})


async def test_a_clock_that_is_set_does_not_empty_the_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the wall clock moved on within a run, the next one still counts the creates of the last window."""
    ahead, limits = 0.0, Limits(Rate(20, per=1.5), Rate(500, per=0.5), running=300)
    monkeypatch.setattr("imagen_async._journal.clock.time", SimpleNamespace(time=lambda: time.time() + ahead))
    with running_sandbox(Sandbox(latency=Latency(median=0.05, sigma=0), limits=limits)) as server:
        for name in ("p", "q"):
            async with client_of(server, limits=limits) as client:
                prompts = [f"{name}{number}" for number in range(20)]
                async with client.batch(prompts, journal=tmp_path / "j.db") as results:
                    ahead = 3600.0
                    assert all([result.ok async for result in results])
        times = server.ledger.create_times
        assert (len(times), server.ledger.refused) == (40, {})
        assert times[20] - times[0] >= limits.submit.per


# A journal that fails


async def test_a_cancellation_does_not_hide_that_the_journal_failed(tmp_path: Path) -> None:
    """A cancelled task whose batch cannot note a paid task ends with the JournalError."""
    refuse_running(tmp_path / "j.db")

    async def work(server: Sandbox) -> None:
        async with client_of(server) as client, client.batch(["a"], journal=tmp_path / "j.db") as results:
            async for _ in results:
                pass

    with running_sandbox(Sandbox(latency=ENDLESS)) as server:
        working = asyncio.create_task(work(server))
        while not server.ledger.tasks:
            await anyio.sleep(0.01)
        working.cancel()
        with pytest.raises(JournalError, match="no room"):
            await working
        assert len(server.ledger.creates) == 1


def test_a_task_that_the_journal_does_not_take_is_listed() -> None:
    """After Ctrl-C the command lists the paid task that its journal could not take."""
    refuse_running(Path("out/run.db"))
    prompt_file("a")
    with running_sandbox(Sandbox(latency=ENDLESS)) as server:
        process = start(*batch(server, "-q"))
        try:
            eventually(lambda: server.ledger.tasks)
            process.send_signal(signal.SIGINT)
        finally:
            outcome = finish(process)
        assert outcome.code != 0
        assert is_tidy(outcome)
        assert {line["task_id"] for line in lines_of(FAILURES)} == tasks_of(server)


async def test_an_emptied_journal_is_refused(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """A journal of 0 bytes was lost and is no new one: a JournalError, and nothing is sent."""
    path = tmp_path / "j.db"
    async with client_of(imagen_sandbox) as client:
        await run(client, ["a"], journal=path)
        os.truncate(path, 0)
        with pytest.raises(JournalError, match="empty"):
            await run(client, ["a"], journal=path)
    assert path.read_bytes() == b""
    assert len(imagen_sandbox.ledger.creates) == 1


async def test_a_batch_without_its_lock_ends(tmp_path: Path) -> None:
    """With its lock file removed, a batch raises at its next write and has sent nothing that it had not noted."""
    path, limits = tmp_path / "j.db", Limits(Rate(5, per=0.3), Rate(500, per=0.5), running=300)
    with running_sandbox(Sandbox(latency=Latency(median=0.05, sigma=0), limits=FAST)) as server:
        async with client_of(server, limits=limits) as client:
            with pytest.raises(JournalError, match="removed or replaced"):
                async with client.batch([f"p{number}" for number in range(100)], journal=path) as results:
                    await anext(results)
                    Path(f"{path}-lock").unlink()
                    async for _ in results:
                        pass
        sent = {create.prompt for create in server.ledger.creates}
        assert 0 < len(sent) < 100
        assert sent <= {entry.request.prompt for entry in records_of(path) if entry.attempts}


async def test_two_writers_do_not_both_pay(tmp_path: Path) -> None:
    """When a second batch gets at a journal whose lock was removed, no prompt has two tasks, and the first one ends."""
    path, prompts = tmp_path / "j.db", [f"p{number}" for number in range(40)]
    limits = Limits(Rate(5, per=0.3), Rate(500, per=0.5), running=300)
    with running_sandbox(Sandbox(latency=Latency(median=0.05, sigma=0), limits=FAST)) as server:
        async with client_of(server, limits=limits) as first, client_of(server, limits=FAST) as second:
            with pytest.raises(JournalError, match="removed or replaced"):
                async with first.batch(prompts, journal=path) as results:
                    await anext(results)
                    Path(f"{path}-lock").unlink()
                    others = await run(second, prompts, journal=path)
                    async for _ in results:
                        pass
        assert sorted(result.index for result in others) == list(range(40))
        assert max(server.ledger.tasks_by_prompt().values()) == 1


def test_changes_that_cannot_be_read_are_no_empty_batch(call: Call) -> None:
    """A killed writer's changes that cannot be opened are an error, and not a batch of 0 requests."""
    Path("out").mkdir()
    Path("copy").mkdir()
    with running_sandbox(Sandbox(latency=ENDLESS)) as server:
        prompt_file("a", "b")
        process = start(*batch(server, "-q"))
        try:
            eventually(lambda: len(server.ledger.tasks) == 2)
        finally:
            process.kill()
            finish(process)
    for name in ("run.db", "run.db-wal"):
        shutil.copy(f"out/{name}", f"copy/{name}")
    assert "2 requests" in call("status", "out").out
    # In the place of the index that SQLite needs for the changes: it follows no link there, so that root fails, too.
    Path("copy/run.db-shm").symlink_to("nowhere")
    outcome = call("status", "copy")
    assert (outcome.code != 0, outcome.out) == (True, "")
    assert is_tidy(outcome)
    with pytest.raises(JournalError):
        JournalReader("copy/run.db")


async def test_what_waits_for_a_slow_journal_is_not_held(
    imagen_sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A create that still waited to be noted when its batch was left is not sent, and not held as if it had been."""
    monkeypatch.setattr("imagen_async._scheduler.scheduler.GRACE", 0.2)
    path, prompts = tmp_path / "j.db", ["a", "b", "c"]
    async with client_of(imagen_sandbox) as client:
        left = client.batch(prompts, journal=path)
        await left.__aenter__()
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            while not left.progress.submitting:
                await anyio.sleep(0.01)
            leaving = asyncio.create_task(left.__aexit__(None, None, None))
            while left.progress.submitting:
                await anyio.sleep(0.01)
            other.execute("ROLLBACK")
        await leaving
        assert imagen_sandbox.ledger.creates == []
        assert left.leftover == ()
        assert {entry.state for entry in records_of(path)} <= {"queued"}
        assert sum(entry.lost for entry in records_of(path)) == 0
        assert all(result.ok for result in await run(client, prompts, journal=path))
    assert len(imagen_sandbox.ledger.creates) == 3


# What was paid, and to whom


def test_status_agrees_with_the_provider(call: Call, imagen_sandbox: Sandbox) -> None:
    """Credits spent and at risk are the provider's own sum, also after failed and held requests were sent again."""
    prompt_file("a", "b")
    imagen_sandbox.order("create", "reset_after")
    imagen_sandbox.order("task", None, "no_urls")
    assert call(*batch(imagen_sandbox)).code == 1
    assert sorted(states_in("out")) == ["failed", "unknown"]
    for options, spent, at_risk in (([], 8, 8), (["--resubmit-unknown", "--retry-failed"], 24, 8)):
        call(*batch(imagen_sandbox, *options))
        (told,) = call("status", "out", "--json").records
        assert (told["credits_spent"], told["credits_at_risk"]) == (spent, at_risk)
        assert spent + at_risk == imagen_sandbox.ledger.credits
    assert states_in("out") == ["done", "done"]


async def test_another_provider_does_not_take_over_a_picture(tmp_path: Path) -> None:
    """A picture of one provider that was not saved is left alone by a batch at another, and saved by its own."""
    path, out = tmp_path / "j.db", tmp_path / "out"
    with running_sandbox(Sandbox(latency=Latency(median=0.05, sigma=0))) as server:

        async def run_at(provider: str, **terms: Any) -> Result:
            async with Client(provider, api_key=server.key, base_url=server.url_of(provider)) as client:
                (result,) = await run(client, ["a"], journal=path, **terms)
                return result

        made = await run_at("kie")
        before = records_of(path)
        other = await run_at("apikley", save_to=out)
        assert (other.earlier, other.provider, other.task_id) == (True, "kie", made.task_id)
        assert records_of(path) == before
        saved = await run_at("kie", save_to=out)
        assert (saved.ok, saved.task_id, len(saved.files)) == (True, made.task_id, 1)
        assert len(server.ledger.creates) == 1


# Retries that were cut short


def test_a_killed_retry_has_failed(call: Call, imagen_sandbox: Sandbox) -> None:
    """A batch killed while a retry waits leaves the failure, which only --retry-failed sends again, once."""
    prompt_file("a")
    imagen_sandbox.order("task", "fail_digits")
    imagen_sandbox.order("create", None, "429", "429")
    process = start(*batch(imagen_sandbox, "--retries", "1", "-q"))
    try:
        eventually(lambda: len(imagen_sandbox.ledger.creates) == 3 and states_in("out") == ["failed"])
    finally:
        process.kill()
        finish(process)
    assert json.loads(rows_of("out")[0]["error"])["type"] == "GenerationFailed"
    assert call(*batch(imagen_sandbox)).code == 1
    assert len(imagen_sandbox.ledger.creates) == 3
    for _ in range(2):
        assert call(*batch(imagen_sandbox, "--retry-failed")).code == 0
        assert imagen_sandbox.ledger.tasks_by_prompt() == {"a": 2}
    assert states_in("out") == ["done"]


async def test_a_retry_that_is_left_has_failed(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """A batch left while a retry waits leaves the failure, which only retry_failed sends again, once."""
    path = tmp_path / "j.db"
    imagen_sandbox.order("task", "fail_digits")
    imagen_sandbox.order("create", None, "429")
    async with client_of(imagen_sandbox) as client:
        async with client.batch(["a"], journal=path, retries=1) as left:
            while len(imagen_sandbox.ledger.creates) < 2:
                await anyio.sleep(0.01)
        (entry,) = records_of(path)
        assert (entry.state, entry.error.type) == ("failed", "GenerationFailed")
        (result,) = await run(client, ["a"], journal=path)
        for failed in (result, *left.leftover):
            assert isinstance(failed.error, GenerationFailed)
        assert (result.earlier, len(left.leftover)) == (True, 1)
        for earlier in (False, True):
            (result,) = await run(client, ["a"], journal=path, retry_failed=True)
            assert (result.ok, result.earlier) == (True, earlier)
    assert imagen_sandbox.ledger.tasks_by_prompt() == {"a": 2}


async def test_what_is_no_longer_wanted_is_not_retried(tmp_path: Path) -> None:
    """A task taken up whose request left the input is not paid for again when it fails; one still in it is."""
    path = tmp_path / "j.db"
    with running_sandbox(Sandbox(latency=STEADY)) as server:
        server.order("task", "fail_digits", "fail_digits")
        async with client_of(server) as client:
            await leave_running(client, server, ["removed", "kept"], journal=path, retries=2)
            assert {entry.state for entry in records_of(path)} == {"running"}
            results = await run(client, ["kept"], journal=path, retries=2)
        assert {result.request.prompt: result.ok for result in results} == {"removed": False, "kept": True}
        assert server.ledger.tasks_by_prompt() == {"removed": 1, "kept": 2}
        assert {entry.request.prompt: entry.state for entry in records_of(path)} == {
            "removed": "failed",
            "kept": "done",
        }


# Inputs and places


@pytest.mark.parametrize("is_first", [True, False], ids=["given-first", "given-last"])
async def test_a_key_that_was_made_and_given(imagen_sandbox: Sandbox, tmp_path: Path, is_first: bool) -> None:
    """A made key that meets a given one is one bad result; both other tasks are in the journal, and stay the same."""
    given = ImageRequest("something else", key=f"{stable_key(ImageRequest('a'))}-2")
    requests = [given, "a", "a"] if is_first else ["a", "a", given]
    async with client_of(imagen_sandbox) as client:
        for earlier in (False, True):
            results = await run(client, requests, journal=tmp_path / "j.db", ordered=True)
            assert [result.ok for result in results] == [True, True, False]
            assert isinstance(results[2].error, InvalidRequest)
            assert [result.earlier for result in results[:2]] == [earlier] * 2
    entries = records_of(tmp_path / "j.db")
    assert {entry.task_id for entry in entries} == tasks_of(imagen_sandbox)
    assert (len(entries), len(imagen_sandbox.ledger.tasks)) == (2, 2)


async def test_a_relative_journal_outlives_chdir(
    imagen_sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that changes the working folder leaves a relative journal that names its pictures where they are."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    terms = {"journal": "out/j.db", "save_to": tmp_path / "out"}
    async with client_of(imagen_sandbox) as client:
        async with client.batch(["a"], **terms) as results:
            monkeypatch.chdir("elsewhere")
            assert all([result.ok async for result in results])
        monkeypatch.chdir(tmp_path)
        (result,) = await run(client, ["a"], **terms)
    assert (result.ok, result.earlier) == (True, True)
    assert [Path(file).exists() for file in result.files] == [True]
    assert list((tmp_path / "elsewhere").iterdir()) == []


async def test_a_linked_folder_is_the_same_place(
    imagen_sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures noted through a link to the journal's folder are found through its real path, and the other way."""
    monkeypatch.chdir(tmp_path)
    Path("real/deep").mkdir(parents=True)
    Path("link").symlink_to(tmp_path / "real" / "deep")
    async with client_of(imagen_sandbox) as client:
        for prompt, folders in (("a", ("link", "real/deep")), ("b", ("real/deep", "link"))):
            for folder in folders:
                (result,) = await run(client, [prompt], journal=f"{folder}/{prompt}.db", save_to="pictures")
                assert result.earlier == (folder == folders[1])
                assert [Path(file).exists() for file in result.files] == [True], (prompt, folder)
    assert len(imagen_sandbox.ledger.creates) == 2


async def test_an_input_that_is_cancelled_from_within(imagen_sandbox: Sandbox) -> None:
    """A CancelledError out of the caller's generator ends the batch with an InvalidRequest, after the results."""

    async def source() -> AsyncIterator[str]:
        yield "a"
        yield "b"
        given_up = asyncio.get_running_loop().create_future()
        given_up.cancel()
        await given_up

    got = []
    async with client_of(imagen_sandbox) as client:
        with pytest.raises(InvalidRequest, match="cancelled"):
            async with client.batch(source()) as results:
                async for result in results:
                    got.append(result)
    assert sorted(result.request.prompt for result in got if result.ok) == ["a", "b"]
    current = asyncio.current_task()
    assert current is not None
    assert current.cancelling() == 0
