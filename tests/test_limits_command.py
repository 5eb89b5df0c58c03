"""`limits`: who has and waits for what of a key's limits, as people and programs read it."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest
from commands import Call, at, call, clean_environment

from imagen_async import Account, Client
from imagen_async.sandbox import Sandbox

__all__ = ["call", "clean_environment"]


@pytest.fixture(autouse=True)
def own_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is shared lies in a folder of the test's own."""
    monkeypatch.setenv("IMAGEN_ASYNC_STATE", str(tmp_path / "state"))


def once_it_has_left(call: Call, *arguments: str) -> str:
    """What `limits` tells as soon as no process uses the key: a client says so in a thread, after it was closed."""
    deadline = time.monotonic() + 30
    while "no process uses it now" not in (told := call("limits", *arguments).out):
        assert time.monotonic() < deadline, told
    return told


def test_a_key_that_was_never_used_is_told_so(call: Call, imagen_sandbox: Sandbox) -> None:
    """Nothing is made by looking."""
    outcome = call("limits", *at(imagen_sandbox))
    assert (outcome.code, outcome.out) == (0, "sandbox: no process has shared its limits on this machine yet\n")
    assert call("limits", *at(imagen_sandbox), "--json").records == [{"account": "sandbox", "use": None}]
    assert not Path(os.environ["IMAGEN_ASYNC_STATE"]).exists()


def test_who_uses_a_key_is_told(call: Call, imagen_sandbox: Sandbox) -> None:
    """While a client has the key it is told with its process and its places; with `--not-shared` it has none there."""
    imagen_sandbox.order("create", "429")

    async def work() -> tuple[list[dict[str, object]], str, str]:
        account = Account("sandbox", imagen_sandbox.key, imagen_sandbox.url)
        alone = Account("sandbox", imagen_sandbox.key, imagen_sandbox.url, shared=False)
        async with Client(account) as client, Client(alone) as other:
            await client.generate("a fox")
            await other.generate("a fox")
            used = call("limits", *at(imagen_sandbox), "--json").records
            told = call("limits", *at(imagen_sandbox)).out
            return used, told, call("limits", *at(imagen_sandbox), "--forget").out

    ((record,), told, forgotten) = asyncio.run(work())
    use = record["use"]
    assert [(each["pid"], each["clients"]) for each in use["processes"]] == [(os.getpid(), 1)]
    assert f"  process {os.getpid()}: tasks 0, creates 1" in told
    assert "were learned" in told, "half of what was set, since the 429"
    assert "were learned" not in forgotten
    assert once_it_has_left(call, *at(imagen_sandbox))


def test_the_command_has_a_window_of_its_own_where_it_is_told_so(call: Call, imagen_sandbox: Sandbox) -> None:
    """`--not-shared` leaves no trace in the folder."""
    assert call("generate", "a fox", *at(imagen_sandbox), "--no-save", "--not-shared").code == 0
    assert not Path(os.environ["IMAGEN_ASYNC_STATE"]).exists()


def test_what_nobody_shares_and_what_cannot_be_read(call: Call, imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """A sandbox of the command's own has nothing to share; a folder that is none is told as such."""
    assert "no process has shared" in call("limits", "-p", "sandbox").out
    assert call("generate", "a fox", *at(imagen_sandbox), "--no-save").code == 0
    once_it_has_left(call, *at(imagen_sandbox))
    (roster,) = (tmp_path / "state").glob("*.roster")
    roster.unlink()
    roster.mkdir()
    outcome = call("limits", *at(imagen_sandbox))
    assert outcome.code == 2
    assert "What is shared of sandbox cannot be read" in outcome.err


def test_a_pause_is_told(call: Call, imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """After a loss of the file nothing is sent for a window, and that is said."""
    slow = [*at(imagen_sandbox), "--rate", "20/60"]
    assert call("generate", "a fox", *slow, "--no-save").code == 0
    once_it_has_left(call, *slow)
    (file,) = (tmp_path / "state").glob("*.db")
    file.write_bytes(b"garbage")
    creates = call("limits", *slow).out.splitlines()[0]
    pause = creates.partition("nothing is sent for ")[2].removesuffix(" s")
    assert 30 < float(pause) <= 60, "the window, less what this machine took to ask"
