"""The receiver over real sockets: what it answers to whom, and README's programs as they are printed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from aiohttp import ClientSession, web
from fastapi import FastAPI
from servers import called_back, free_socket, serving
from test_readme import blocks
from virtual_network import jobs_for

from imagen_async import Callback, Client, ConfigurationError
from imagen_async._core.callbacks import MAX_CALLBACK, signature_of
from imagen_async._journal import Journal
from imagen_async.providers import PROVIDERS
from imagen_async.sandbox import Latency, Sandbox
from imagen_async.testing import VirtualTimeLoop, running_sandbox
from imagen_async.webhooks import LONGEST_READ, Receiver

KEY = "a-webhook-key"


def with_handler(receiver: Receiver) -> web.Application:
    """An aiohttp application with the receiver as a handler."""
    application = web.Application()
    application.router.add_post("/imagen/{token}", receiver.handle)
    return application


def with_sub_application(receiver: Receiver) -> web.Application:
    """An aiohttp application with the receiver as a sub-application."""
    application = web.Application()
    application.add_subapp("/imagen", receiver.application())
    return application


@asynccontextmanager
async def over_asgi(receiver: Any, found: Any) -> AsyncIterator[None]:
    """Serve a receiver with uvicorn, mounted in FastAPI or as the whole application."""
    server = uvicorn.Server(uvicorn.Config(receiver, log_level="error", access_log=False))
    serving = asyncio.create_task(server.serve(sockets=[found]))
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield
    finally:
        server.should_exit = True
        await serving


def mounted(receiver: Receiver) -> FastAPI:
    """A FastAPI application with the receiver in it."""
    application = FastAPI()
    application.mount("/imagen", receiver)
    return application


Face = Callable[[Receiver, Any], Any]
FACES: dict[str, Face] = {
    "aiohttp handler": lambda receiver, found: serving(with_handler(receiver), found),
    "aiohttp sub-application": lambda receiver, found: serving(with_sub_application(receiver), found),
    "FastAPI": lambda receiver, found: over_asgi(mounted(receiver), found),
    "ASGI alone": lambda receiver, found: over_asgi(receiver, found),
}


@pytest.fixture(params=FACES, ids=str)
def face(request: pytest.FixtureRequest) -> Face:
    """Each way of mounting it."""
    return FACES[request.param]


def signed(task_id: str, *, key: str = KEY, age: float = 0.0) -> dict[str, str]:
    """kie.ai's headers."""
    timestamp = str(int(time.time() - age))
    return {"X-Webhook-Timestamp": timestamp, "X-Webhook-Signature": signature_of(task_id, timestamp, key)}


async def test_each_answer(face: Face) -> None:
    """Whoever may not call learns nothing, what is broken is named, what is old news is taken."""
    async with Sandbox(latency=Latency(median=30), signing_key=KEY) as sandbox:
        with free_socket() as (found, port):
            callback = Callback(f"http://127.0.0.1:{port}/imagen/", signing_key=KEY)
            client = Client("sandbox", api_key=sandbox.key, base_url=sandbox.url, callback=callback)
            async with face(Receiver(client), found), ClientSession() as session, client:
                job = await client.submit("a red fox")
                url = str(sandbox.ledger.tasks[0].callback_url)
                task = {"data": {"taskId": job.task_id}}
                good = signed(job.task_id)
                other = signed("another")

                async def post(url: str, **what: Any) -> int:
                    async with session.post(url, **what) as response:
                        return response.status

                root, _, token = url.rpartition("/")
                forged = token[:-1] + ("B" if token.endswith("A") else "A")
                assert await post(f"{root}/{forged}", json=task, headers=good) == 404
                assert await post(f"{root}/", json=task, headers=good) == 404
                assert await post(url, json=task) == 401
                assert await post(url, json=task, headers=other) == 401
                assert await post(url, json=task, headers=signed(job.task_id, key="k")) == 401
                assert await post(url, json=task, headers=signed(job.task_id, age=301)) == 401
                assert await post(url, json=task, headers=signed(job.task_id, age=-302)) == 401
                assert await post(url, data=b"{", headers=good) == 400
                assert await post(url, data=b"[1]", headers=good) == 400
                assert await post(url, data=b" " * (MAX_CALLBACK + 1), headers=good) == 413
                assert (await session.get(url)).status == 405
                assert not sandbox.ledger.polls
                assert await post(url, json={"data": {"taskId": "another"}}, headers=other) == 200
                assert not sandbox.ledger.polls
                assert [await post(url, json=task, headers=good) for _ in range(3)] == [200] * 3
                while not sandbox.ledger.polls:
                    await asyncio.sleep(0.01)
                assert await post(url, data=b" " * MAX_CALLBACK, headers=good) == 400
                assert sandbox.ledger.polls == {job.task_id: 1}
            assert not client.is_open


async def test_no_callbacks_without_a_callback() -> None:
    """A receiver for a client that asks for none is a mistake, and says so."""
    with pytest.raises(ConfigurationError, match=r"callback=Callback\(public_url"):
        Receiver(Client("sandbox"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"public_url": "example.com/imagen"}, "is no address"),
        ({"public_url": "https://example.com/imagen?token=1"}, "is no address"),
        ({"public_url": "https://example .com/"}, "is no address"),
        ({"public_url": "https://example.com/imagen?"}, "is no address"),
        ({"public_url": "https://example.com/imagen#"}, "is no address"),
        ({"public_url": "https://@example.com/imagen"}, "is no address"),
        ({"public_url": "https://example.com", "signing_key": {"sandbox": None}}, "not empty"),
        ({"public_url": "http://example.com/imagen"}, "use https://"),
        ({"public_url": "https://example.com", "signing_key": " "}, "not empty"),
        ({"public_url": "https://example.com", "signing_key": {"kie": "k"}}, "no account 'kie'"),
    ],
)
def test_a_wrong_callback_is_refused_before_anything_is_sent(settings: dict[str, Any], message: str) -> None:
    """An address that cannot be reached so, and a key that cannot be one, are named."""
    with pytest.raises(ConfigurationError, match=message):
        Client("sandbox", callback=Callback(**settings))


def test_whose_key_it_is() -> None:
    """One key is that of the accounts that sign, or of the only one; where none signs, it has to be said."""
    pool = ("kie", "apiin")
    keys = {"KIE_API_KEY": "k" * 9, "APIIN_API_KEY": "k" * 9, "APIKLEY_API_KEY": "k" * 9}
    before = dict(os.environ)
    os.environ.update(keys)
    try:
        callback = Callback("https://example.com", signing_key="secret")
        assert Client(*pool, callback=callback)._signing_keys == {"kie": "secret"}
        assert Client("apikley", callback=callback)._signing_keys == {"apikley": "secret"}
        with pytest.raises(ConfigurationError, match="say whose key it is"):
            Client("apikley", "apiin", callback=callback)
    finally:
        os.environ.clear()
        os.environ.update(before)
    assert "secret" not in repr(callback)


async def test_a_server_in_another_thread(imagen_sandbox: Sandbox) -> None:
    """A receiver that is served in another thread than the client's loop tells it all the same."""
    with free_socket() as (found, port):
        callback = Callback(f"http://127.0.0.1:{port}/imagen")
        client = Client(
            "sandbox", api_key=imagen_sandbox.key, base_url=imagen_sandbox.url, callback=callback, freshness=60
        )
        stop, started = asyncio.Event(), threading.Event()
        loop = asyncio.new_event_loop()

        async def serve() -> None:
            async with serving(with_handler(Receiver(client)), found):
                started.set()
                await stop.wait()

        thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
        thread.start()
        started.wait()
        try:
            async with client:
                assert (await client.generate("a red fox")).urls
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join()
            loop.close()
    assert list(imagen_sandbox.ledger.polls.values()) == [1]


@contextmanager
def as_printed(name: str, folder: Path, sandbox: Sandbox, port: int) -> Iterator[subprocess.Popen[str]]:
    """README's program of that name, as a process whose kie.ai is the sandbox."""
    program = next(block for block in blocks("python") if block.startswith(f"# {name}\n"))
    (folder / name).write_text(program)
    environment = {
        **os.environ,
        "PUBLIC_URL": f"http://127.0.0.1:{port}",
        "PORT": str(port),
        "IMAGEN_WEBHOOK_KEY": KEY,
        "KIE_API_KEY": sandbox.key,
        "KIE_BASE_URL": sandbox.url_of("kie"),
    }
    if "fastapi" in name:
        command = ["-m", "uvicorn", f"{name.removesuffix('.py')}:app", "--no-access-log", "--port", str(port)]
    else:
        command = [name]
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=20)


@pytest.mark.parametrize("name", ["with_fastapi.py", "with_aiohttp.py"])
async def test_the_programs_run_as_printed(name: str, tmp_path: Path) -> None:
    """A picture of kie.ai's, whose tasks use to take long, is there as soon as its callback has come."""
    sandbox = Sandbox(latency=Latency(median=0.3, sigma=0.1), signing_key=KEY)
    with running_sandbox(sandbox), free_socket() as (found, port):
        found.close()
        with as_printed(name, tmp_path, sandbox, port):
            async with ClientSession() as session:
                while True:
                    try:
                        async with session.get(f"http://127.0.0.1:{port}/picture?prompt=a+red+fox") as response:
                            answer = await response.json()
                            break
                    except OSError:
                        await asyncio.sleep(0.05)
    assert answer == {"task": sandbox.ledger.tasks[0].task_id, "urls": answer["urls"]}
    assert len(answer["urls"]) == 1
    assert sandbox.ledger.callback_answers == {200: 1}
    assert list(sandbox.ledger.polls.values()) == [1]


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"loop_factory": VirtualTimeLoop})], ids=["virtual-time"])
async def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    """Whoever has a token and sends half a body is answered 408 after ten seconds."""
    client = Client("sandbox", api_key="k" * 9, base_url="http://127.0.0.1:9", callback=Callback("https://example.com"))
    receiver = Receiver(client)
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        if not sent:
            sent.append("half")
            return {"type": "http.request", "body": b'{"data":', "more_body": True}
        return await asyncio.get_running_loop().create_future()

    async def send(message: Any) -> None:
        sent.append(message)

    async with client:
        began = asyncio.get_running_loop().time()
        opened = client._open()
        assert opened.desk is not None
        url = opened.desk.registry.url_of(jobs_for(opened.scheduler, PROVIDERS["sandbox"], 1, 1, attempts=1)[0])
        await receiver({"type": "http", "method": "POST", "path": url, "headers": []}, receive, send)
        assert asyncio.get_running_loop().time() - began == pytest.approx(LONGEST_READ, abs=0.1)
    assert sent[1]["status"] == 408


async def test_what_cannot_be_noted_is_not_taken(tmp_path: Path) -> None:
    """While the journal cannot be written, a lost create's callback is answered 503, each time; then it is taken."""
    async with Sandbox(latency=Latency(median=0.1)) as sandbox:
        sandbox.order("create", "reset_after")
        sandbox.order("callback", "lost")
        with Journal(tmp_path / "run.db") as journal:
            async with called_back(sandbox) as client, ClientSession() as session:
                async with client.batch(["a red fox"], journal=journal) as batch:
                    while [entry.state for entry in journal.entries()] != ["unknown"]:
                        await asyncio.sleep(0.01)
                    lock, away = tmp_path / "run.db-lock", tmp_path / "away"
                    lock.rename(away)
                    (task,) = sandbox.ledger.tasks
                    statuses: list[int] = []
                    for number in range(3):
                        if number == 2:
                            away.rename(lock)
                        body = {"data": {"taskId": task.task_id}}
                        async with session.post(str(task.callback_url), json=body) as response:
                            statuses.append(response.status)
                    results = [result async for result in batch]
        assert statuses == [503, 503, 200]
        assert [result.task_id for result in results] == [task.task_id]
