"""The command `serve`: begins, says where, leaves in good order, and says what is wrong before anything is sent."""

from __future__ import annotations

import json
import re
import signal
import ssl
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from commands import Call, at, call, clean_environment, start
from cryptography.hazmat.primitives import serialization
from servers import free_socket

from imagen_async.sandbox import Sandbox

__all__ = ["call", "clean_environment"]


@contextmanager
def serving(*words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command, and the address that it says that it serves at; killed where it has not ended by then."""
    with start("serve", *words) as process:
        try:
            assert process.stderr is not None
            said = process.stderr.readline()
            found = re.search(r"at (https?://\S+)/v1", said)
            assert found is not None, said + process.stderr.read()
            yield process, found[1]
        finally:
            process.kill()


def posted(url: str, body: dict[str, Any], key: str = "x", context: ssl.SSLContext | None = None) -> dict[str, Any]:
    """What it answers to a request."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    request = urllib.request.Request(f"{url}/v1/images/generations", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, context=context) as response:
        found: dict[str, Any] = json.load(response)
    return found


def with_a_password(issued: trustme.LeafCert) -> bytes:
    """A certificate and its key, as a file that opens by a password."""
    key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
    encryption = serialization.BestAvailableEncryption(b"sesame")
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(*form, encryption) + issued.cert_chain_pems[0].bytes()


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_it_is_told_to_leave(imagen_sandbox: Sandbox, how: signal.Signals) -> None:
    """One signal is enough: it leaves in good order, with exit code 0, and the same again goes on in its folder."""
    for count in range(2):
        with serving(*at(imagen_sandbox), "-o", "out", "--port", "0") as (process, url):
            answer = posted(url, {"prompt": "a fox", "response_format": "url"})
            assert len(answer["data"]) == 1
            process.send_signal(how)
            said = process.communicate(timeout=60)[1]
            assert (process.returncode, "Leaving" in said) == (0, True)
        assert len(imagen_sandbox.ledger.tasks) == count + 1
    assert {"run.db", "serve.db"} <= {path.name for path in Path("out").iterdir()}


@pytest.mark.slow
def test_callers_and_tls(imagen_sandbox: Sandbox, call: Call) -> None:
    """`--new-caller` prints a key that is shown once; with a certificate the service is https."""
    key = call("serve", "--new-caller", "shop").out.strip()
    authority = trustme.CA()
    authority.cert_pem.write_to_path("ca.pem")
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path("cert.pem")
    words = ["-o", "out", "--port", "0", "--callers", "callers.toml", "--tls-cert", "cert.pem", "--host", "127.0.0.1"]
    with serving(*at(imagen_sandbox), *words) as (process, url):
        assert url.startswith("https://")
        context = ssl.create_default_context(cafile="ca.pem")
        assert posted(url, {"prompt": "a fox", "response_format": "url"}, key, context)["data"][0]["url"].startswith(
            url
        )
        process.terminate()
        process.communicate(timeout=60)


@pytest.mark.slow
def test_a_batch_goes_through_it(imagen_sandbox: Sandbox, call: Call) -> None:
    """By the address that it says, and `-p served`: pictures in a folder, and the same again makes nothing more."""
    Path("prompts.txt").write_text("a fox\na heron\n")
    with serving(*at(imagen_sandbox), "-o", "out", "--port", "0") as (process, url):
        for _ in range(2):
            outcome = call("batch", "prompts.txt", "-p", "served", "--base-url", f"{url}/v1", "-o", "pictures", "-q")
            assert outcome.code == 0, outcome
        assert len(list(Path("pictures").glob("*.png"))) == 2
        assert call("status", "pictures").code == 0
        process.terminate()
        process.communicate(timeout=60)
    assert sorted(imagen_sandbox.ledger.tasks_by_prompt().values()) == [1, 1]


def test_what_is_wrong_is_said_before_it_serves(imagen_sandbox: Sandbox, call: Call) -> None:
    """No folder, an address for others without callers, a missing file, a bad certificate, a taken name or port: 2."""
    sandbox = at(imagen_sandbox)
    assert call("serve", "--new-caller", "shop").code == 0
    Path("bad.pem").write_text("no certificate")
    Path("folder").write_text("a file")
    Path("locked.pem").write_bytes(with_a_password(trustme.CA().issue_cert("127.0.0.1")))
    with free_socket() as (found, port):
        found.listen()
        wrong = {
            "-o DIR is missing": ["-p", "sandbox"],
            "without callers": [*sandbox, "-o", "out", "--host", "0.0.0.0"],
            "missing.toml": [*sandbox, "-o", "out", "--callers", "missing.toml"],
            "bad.pem cannot be used": [*sandbox, "-o", "out", "--tls-cert", "bad.pem"],
            "has a password": [*sandbox, "-o", "out", "--tls-cert", "locked.pem"],
            "without --tls-cert": [*sandbox, "-o", "out", "--tls-key", "bad.pem"],
            "shop": ["--new-caller", "shop"],
            f"--port {port}": [*sandbox, "-o", "out", "--port", str(port)],
            "a day or more": [*sandbox, "-o", "out", "--keep", "1h"],
            "folder": [*sandbox, "-o", "folder"],
            "KIE_API_KEY": ["-p", "kie", "-o", "out"],
        }
        for told, words in wrong.items():
            outcome = call("serve", *words)
            assert (outcome.code, told.lower() in outcome.err.lower()) == (2, True), (told, outcome)
    assert imagen_sandbox.ledger.creates == []
