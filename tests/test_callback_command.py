"""The command with callbacks: it takes them itself, and what they clear up is in its lists and its exit code."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from servers import free_socket
from test_command import Call, call, clean_environment, lines_of, prompt_file

from imagen_async import Limits, Rate
from imagen_async.sandbox import Latency, Sandbox
from imagen_async.testing import running_sandbox

__all__ = ["call", "clean_environment"]

KEY = "a-webhook-key"


@pytest.fixture
def server() -> Iterator[Sandbox]:
    """A sandbox whose tasks take a second, and that signs its callbacks."""
    limits = Limits(Rate(200, per=1), Rate(500, per=1), 200)
    latency = Latency(median=1.0, sigma=0.01)
    with running_sandbox(Sandbox(limits=limits, latency=latency, signing_key=KEY)) as sandbox:
        yield sandbox


def words(server: Sandbox, port: int) -> list[str]:
    """The options for a sandbox that calls back to a port."""
    callback = ["--callback-url", f"http://127.0.0.1:{port}/hook", "--callback-port", str(port)]
    return ["-p", "sandbox", "--base-url", server.url, "-q", "--freshness", "60", "-o", "out", *callback]


def free_port() -> int:
    """A port that nobody listens on."""
    with free_socket() as (_, port):
        return port


def test_batch_takes_callbacks(call: Call, server: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are there as soon as they are announced, and a lost create costs nothing but a moment."""
    monkeypatch.setenv("SANDBOX_API_KEY", server.key)
    monkeypatch.setenv("IMAGEN_WEBHOOK_KEY", KEY)
    server.order("create", None, "reset_after")
    port = free_port()
    outcome = call("batch", prompt_file("a red fox", "a heron", "a harbour"), *words(server, port))
    assert outcome.code == 0, outcome.err
    assert f"Callbacks for http://127.0.0.1:{port}/hook are taken on 127.0.0.1:{port}\n" in outcome.err
    assert server.ledger.tasks_by_prompt() == {"a red fox": 1, "a heron": 1, "a harbour": 1}
    assert set(server.ledger.polls.values()) == {1}
    assert Path("out", "failures.jsonl").read_text() == ""
    assert KEY not in outcome.err + outcome.out


def test_what_was_held_comes_out_after_all(call: Call, server: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request held by an earlier run, whose callback comes to this one, is in the right list and counts as done."""
    monkeypatch.setenv("SANDBOX_API_KEY", server.key)
    server.order("create", "reset_after")
    port = free_port()
    first = call("batch", prompt_file("a red fox"), *words(server, port), "--deadline", "0.2")
    assert first.code == 1
    assert [line["error"]["type"] for line in lines_of(Path("out", "failures.jsonl"))] == ["UnknownOutcome"]
    with closing(sqlite3.connect(Path("out", "run.db"))) as connection, connection:
        connection.execute("UPDATE jobs SET sent_at = sent_at - 10000")
    again = call("batch", prompt_file("a red fox", "a heron"), *words(server, port))
    assert again.code == 0, again.err
    assert "2 done, 0 failed; 16 credits" in again.err
    assert len(lines_of(Path("out", "metadata.jsonl"))) == 2
    assert Path("out", "failures.jsonl").read_text() == ""
    assert Counter(server.ledger.tasks_by_prompt().values()) == {1: 2}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--callback-port", "8788"), "--callback-url is missing"),
        (("--callback-url", "http://example.com/hook"), "use https://"),
        (("--callback-url", "example.com"), "is no address"),
    ],
)
def test_a_wrong_callback_exits_2(call: Call, server: Sandbox, options: tuple[str, ...], message: str) -> None:
    """What cannot be called back is named before the file is read, and nothing is sent."""
    outcome = call("batch", "missing.txt", "-p", "sandbox", *options)
    assert (outcome.code, outcome.out) == (2, "")
    assert message in outcome.err


def test_a_port_in_use_exits_2(call: Call, server: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the port is taken nothing is sent, and the message says which it was."""
    monkeypatch.setenv("SANDBOX_API_KEY", server.key)
    with free_socket() as (found, port):
        found.listen()
        outcome = call("batch", prompt_file("a red fox"), *words(server, port))
    assert outcome.code == 2
    assert f"--callback-port {port} on 127.0.0.1 cannot be used" in outcome.err
    assert server.ledger.creates == []
