"""Faults that a hostile reading found, each as the case that showed it: what must hold where runs meet trouble."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest
from clients import Heard, run
from commands import Call, at, call, clean_environment, finish, lines_of, prompt_file, rows_of, start
from dict_store import DictStore
from virtual_network import VIRTUAL_TIME, Disk, Network, VirtualClient, billed, busiest_window, prompts

from imagen_async import ImageFile, Limits, Rate, Result, errors
from imagen_async._journal import Journal, JournalReader
from imagen_async.providers import PROVIDERS
from imagen_async.sandbox import Latency, Sandbox
from imagen_async.testing import running_sandbox

__all__ = ["call", "clean_environment"]

KIE = PROVIDERS["kie"]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """What runs here without a process runs on virtual time."""
    return VIRTUAL_TIME


@pytest.fixture
def kept() -> dict[str, Any]:
    """What a store keeps from one run to the next."""
    return {}


def steady(**settings: Any) -> Network:
    """A provider whose tasks all take 20 s."""
    return Network(KIE, latency=Latency(median=20, sigma=0), **settings)


def states_of(kept: dict[str, Any]) -> dict[str, str]:
    """The states of a store's jobs, by prompt."""
    return {entry.request.prompt: entry.state for entry in kept["jobs"].values()}


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


async def test_a_task_that_is_denied_again_is_replaced_once(kept: dict[str, Any]) -> None:
    """Where a provider denies a task in two runs, retry_failed makes exactly one new task of its request."""
    lost, server, heard = steady(), steady(seed=9), Heard()
    async with VirtualClient(lost, on_event=heard) as client, client.batch(["a", "b"], journal=DictStore(kept)):
        await heard.job("running", 2)
    async with VirtualClient(server) as client:
        for _ in range(2):
            results = await run(client, ["a", "b"], journal=DictStore(kept))
            assert [type(result.error) for result in results] == [errors.InvalidRequest] * 2
        assert (set(states_of(kept).values()), server.ledger.creates) == ({"running"}, [])
        for earlier in (False, True):
            results = await run(client, ["a", "b"], journal=DictStore(kept), retry_failed=True)
            assert [(result.ok, result.earlier) for result in results] == [(True, earlier)] * 2
    assert (billed(server), len(lost.ledger.creates)) == ({"a": 1, "b": 1}, 2)


async def test_a_retry_that_is_left_has_failed(kept: dict[str, Any]) -> None:
    """A batch left while a retry waits leaves the failure, which only retry_failed sends again, once."""
    network, heard = steady(), Heard()
    network.faults.order("task", "fail_digits")
    network.faults.order("create", None, "429")
    async with VirtualClient(network, on_event=heard) as client:
        async with client.batch(["a"], journal=DictStore(kept), retries=1) as left:
            await network.has_seen(2)
        assert states_of(kept) == {"a": "failed"}
        (result,) = await run(client, ["a"], journal=DictStore(kept))
        kinds = [type(failed.error) for failed in (result, *left.leftover)]
        assert (kinds, result.earlier) == ([errors.GenerationFailed] * 2, True)
        for earlier in (False, True):
            (result,) = await run(client, ["a"], journal=DictStore(kept), retry_failed=True)
            assert (result.ok, result.earlier) == (True, earlier)
    assert billed(network) == {"a": 2}


async def test_what_is_no_longer_wanted_is_not_retried(kept: dict[str, Any]) -> None:
    """A task taken up whose request left the input is not paid for again when it fails; one still in it is."""
    network, heard = steady(), Heard()
    network.faults.order("task", "fail_digits", "fail_digits")
    async with VirtualClient(network, on_event=heard) as client:
        async with client.batch(["removed", "kept"], journal=DictStore(kept), retries=2):
            await heard.job("running", 2)
        results = await run(client, ["kept"], journal=DictStore(kept), retries=2, ordered=True)
    assert {result.request.prompt: result.ok for result in results} == {"removed": False, "kept": True}
    assert billed(network) == {"removed": 1, "kept": 2}
    assert states_of(kept) == {"removed": "failed", "kept": "done"}


@pytest.mark.parametrize("ahead", [0.0, 3600.0], ids=["clock as it is", "clock moved on"])
async def test_every_create_of_a_run_counts_for_the_next(
    kept: dict[str, Any], monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    """Every create of a job, also those before its last, takes a place in the next run's window, whatever the clock."""
    network = Network(KIE, limits=Limits(Rate(20, per=100), Rate(500, per=1), 300), latency=Latency(2, sigma=0))
    network.faults.order("task", *["fail_digits"] * 12)
    started, wall = asyncio.get_running_loop().time(), time.time()
    moved = [0.0]
    monkeypatch.setattr("time.time", lambda: wall + asyncio.get_running_loop().time() - started + moved[0])
    async with VirtualClient(network) as client:
        async with client.batch(prompts(6), journal=DictStore(kept), retries=2) as batch:
            moved[0] = ahead
            assert len([result async for result in batch]) == 6
    assert len(network.ledger.creates) == 18
    assert all(result.ok for result in await run(VirtualClient(network), prompts(20, "q"), journal=DictStore(kept)))
    assert (len(network.ledger.creates), network.ledger.refused) == (38, {})
    assert busiest_window(network.ledger.create_times, 100) == 20


async def test_a_cancellation_does_not_hide_that_the_journal_failed(tmp_path: Path) -> None:
    """A cancelled task whose batch cannot note a paid task ends with the JournalError."""
    refuse_running(tmp_path / "j.db")
    network, heard = steady(), Heard()
    async with VirtualClient(network, on_event=heard) as client:
        working = asyncio.create_task(run(client, ["a"], journal=tmp_path / "j.db"))
        await heard.job("running")
        working.cancel()
        with pytest.raises(errors.JournalError, match="no room"):
            await working
    assert len(network.ledger.creates) == 1


class LostStore(DictStore):
    """A store whose disk may go."""

    is_lost = False

    def write(self, entries: Any) -> None:
        """Write, unless the disk is gone."""
        if self.is_lost:
            raise errors.JournalError("the disk is gone")
        super().write(entries)


async def test_without_its_journal_a_batch_sends_nothing_more(kept: dict[str, Any]) -> None:
    """Where intents cannot be noted no create goes; what runs comes out first, and then the JournalError is raised."""
    network, store = Network(KIE, limits=Limits(Rate(5, per=10), Rate(500, per=1), 300)), LostStore(kept)
    results = []
    async with VirtualClient(network) as client:
        with pytest.raises(errors.JournalError, match="the disk is gone"):
            async with client.batch(prompts(40), journal=store) as batch:
                results.append(await anext(batch))
                store.is_lost, seen = True, len(network.ledger.creates)
                async for result in batch:
                    results.append(result)
    assert [result.ok for result in results] == [True] * len(network.ledger.tasks)
    assert len(network.ledger.creates) == seen < 40


async def test_what_waits_for_a_slow_journal_is_not_held(kept: dict[str, Any]) -> None:
    """A create that still waited to be noted when its batch was left is not sent, and not held as if it had been."""
    network, disk = steady(), Disk()
    async with VirtualClient(network, disk=disk) as client:
        batch = client.batch(["a", "b", "c"], journal=DictStore(kept))
        async with batch:
            disk.is_held = True
            await anyio.sleep(1)
            assert batch.progress.submitting > 0
            asyncio.get_running_loop().call_later(10, disk.go_on)
        assert (network.ledger.creates, batch.leftover, set(states_of(kept).values())) == ([], (), {"queued"})
        assert sum(entry.lost for entry in kept["jobs"].values()) == 0
        assert all(result.ok for result in await run(client, ["a", "b", "c"], journal=DictStore(kept)))
    assert len(network.ledger.creates) == 3


async def test_a_relative_journal_outlives_chdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that changes the working folder leaves a relative journal that names its pictures where they are."""

    async def save(result: Result, folder: str) -> tuple[ImageFile, ...]:
        path = Path(folder, "a.png")
        path.write_bytes(b"a picture")
        return (ImageFile(str(path), "0", 9, "image/png", result.urls[0]),)

    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    terms: dict[str, Any] = {"journal": "out/j.db", "save_to": tmp_path / "out"}
    async with VirtualClient(steady(), save=save) as client:
        async with client.batch(["a"], **terms) as results:
            monkeypatch.chdir("elsewhere")
            assert [result.ok async for result in results] == [True]
        monkeypatch.chdir(tmp_path)
        (result,) = await run(client, ["a"], **terms)
    assert (result.ok, result.earlier, [Path(file).exists() for file in result.files]) == (True, True, [True])
    assert list((tmp_path / "elsewhere").iterdir()) == []


def hold(call: Call, sandbox: Sandbox) -> tuple[str, str]:
    """Run a batch whose only create loses its answer; returns the held request's key and the id of its task."""
    sandbox.order("create", "reset_after")
    assert call("batch", prompt_file("a fox"), *at(sandbox), "-o", "out").code == 1
    return rows_of("out")[0]["key"], str(sandbox.ledger.tasks[0].task_id)


@pytest.mark.slow
def test_a_mistyped_task_is_not_noted(call: Call, imagen_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Collected under a wrong id, or at another provider, a held request stays as it was; the right one settles it."""
    monkeypatch.setenv("KIE_API_KEY", imagen_sandbox.key)
    key, right = hold(call, imagen_sandbox)
    before = rows_of("out")
    elsewhere = ["-p", "kie", "--base-url", imagen_sandbox.url_of("kie")]
    for task_id, server, words in ((f"{right[:-1]}x", at(imagen_sandbox), ""), (right, elsewhere, "sandbox, not kie")):
        wrong = call("collect", task_id, "--dir", "out", "--key", key, *server)
        assert (wrong.code, wrong.out, words in wrong.err) == (2, "", True)
        assert rows_of("out") == before
    assert call("collect", right, "--dir", "out", "--key", key, *at(imagen_sandbox)).code == 0
    assert [(row["state"], row["task_id"]) for row in rows_of("out")] == [("done", right)]
    assert [line["task_id"] for line in lines_of(Path("out/metadata.jsonl"))] == [right]


@pytest.mark.slow
def test_a_task_that_the_journal_does_not_take_is_listed() -> None:
    """After Ctrl-C the command lists the paid task that its journal could not take."""
    refuse_running(Path("out/run.db"))
    with running_sandbox(Sandbox(latency=Latency(median=600, sigma=0))) as server:
        process = start("batch", prompt_file("a"), *at(server), "-o", "out", "--verbose")
        try:
            assert process.stderr is not None
            while " runs as task " not in (line := process.stderr.readline()):
                assert line, "it ended before its task ran"
            process.send_signal(signal.SIGINT)
        finally:
            outcome = finish(process)
        assert outcome.code != 0
        assert "Traceback" not in outcome.err
        tasks = [task.task_id for task in server.ledger.tasks]
        assert [line["task_id"] for line in lines_of(Path("out/failures.jsonl"))] == tasks


@pytest.mark.slow
def test_status_agrees_with_the_provider(call: Call, imagen_sandbox: Sandbox) -> None:
    """Credits spent and at risk are the provider's own sum, also after failed and held requests were sent again."""
    arguments = ["batch", prompt_file("a", "b"), *at(imagen_sandbox), "-o", "out"]
    imagen_sandbox.order("create", "reset_after")
    imagen_sandbox.order("task", None, "no_urls")
    assert call(*arguments).code == 1
    assert sorted(row["state"] for row in rows_of("out")) == ["failed", "unknown"]
    for options, spent, at_risk in (([], 8, 8), (["--resubmit-unknown", "--retry-failed"], 24, 8)):
        call(*arguments, *options)
        (told,) = call("status", "out", "--json").records
        assert (told["credits_spent"], told["credits_at_risk"]) == (spent, at_risk)
        assert spent + at_risk == imagen_sandbox.ledger.credits
    assert [row["state"] for row in rows_of("out")] == ["done", "done"]


def test_changes_that_cannot_be_read_are_no_empty_batch(tmp_path: Path) -> None:
    """A killed writer's changes that cannot be opened are an error, and not a batch of 0 requests."""
    journal = Journal(tmp_path / "j.db")
    journal.begin_run()
    journal.write([])
    journal.note({"a": "note"})
    for name in ("j.db", "j.db-wal"):
        shutil.copy(tmp_path / name, tmp_path / f"copy-{name}")
    journal.close()
    # In the place of the index that SQLite needs for the changes: it follows no link there, so that root fails, too.
    (tmp_path / "copy-j.db-shm").symlink_to("nowhere")
    with pytest.raises(errors.JournalError):
        JournalReader(tmp_path / "copy-j.db")
