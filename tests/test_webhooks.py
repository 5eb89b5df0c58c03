"""The receiver: what it answers to whom, whatever it is mounted in, and README's programs as they are printed."""

from __future__ import annotations

import asyncio
import functools
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, StreamReader
from aiohttp.base_protocol import BaseProtocol
from aiohttp.test_utils import make_mocked_request
from anyio.from_thread import start_blocking_portal
from builders import make_job
from dict_store import DictStore
from fastapi import FastAPI
from inner import MAX_CALLBACK, signature_of
from printed import KEY, as_printed
from servers import called_back, free_socket, serving

from imagen_async import Account, Callback, Client, ConfigurationError, JournalError
from imagen_async.events import Event, JobEvent
from imagen_async.sandbox import Latency, Sandbox
from imagen_async.testing import VirtualTimeLoop, running_sandbox
from imagen_async.webhooks import LONGEST_READ, Receiver

AT_ONCE = Latency(median=0, sigma=0, minimum=0)
HERE = Callback("https://example.com")


async def told_by(application: Any, scope: dict[str, Any], *messages: dict[str, Any]) -> list[dict[str, Any]]:
    """What an application answers to these messages, as an ASGI server hears it; none comes after the last."""
    sent: list[dict[str, Any]] = []
    coming = iter(messages)

    async def receive() -> dict[str, Any]:
        return next(coming, None) or await asyncio.get_running_loop().create_future()

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await application(scope, receive, send)
    return sent


async def posted(application: Any, url: str, body: bytes, headers: dict[str, str], **unusual: Any) -> int:
    """The status of the answer to a request, which may be of another method, or not come whole."""
    lines = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    path, method = "/" + url.split("/", 3)[3], unusual.pop("method", "POST")
    scope = {"type": "http", "method": method, "path": path, "root_path": "", "query_string": b"", "headers": lines}
    sent = await told_by(application, scope, {"type": "http.request", "body": body, **unusual})
    return sent[0]["status"]


def signed(task_id: str, *, key: str = KEY, age: float = 0.0) -> dict[str, str]:
    """kie.ai's headers."""
    timestamp = str(int(time.time() - age))
    return {"X-Webhook-Timestamp": timestamp, "X-Webhook-Signature": signature_of(task_id, timestamp, key)}


async def test_each_answer() -> None:
    """Whoever may not call learns nothing, what is broken is named, what is old news is taken; one call is enough."""
    async with Sandbox(latency=AT_ONCE, signing_key=KEY) as sandbox:
        sandbox.keep("callback", "lost")
        callback = Callback("https://example.com/imagen/", signing_key=KEY)
        client = Client("sandbox", api_key=sandbox.key, base_url=sandbox.url, callback=callback, freshness=60)
        application = FastAPI()
        application.mount("/imagen", Receiver(client))
        post = functools.partial(posted, application)
        async with client:
            job = await client.submit("a red fox")
            url = str(sandbox.ledger.tasks[0].callback_url)
            root, _, token = url.rpartition("/")
            forged = f"{root}/{token[:-1]}{'B' if token.endswith('A') else 'A'}"
            task = b'{"data": {"taskId": "%s"}}' % job.task_id.encode()
            good, other = signed(job.task_id), signed("another")
            long = b" " * (MAX_CALLBACK + 1)
            assert [await post(address, task, good) for address in (forged, f"{root}/")] == [404, 404]
            unsigned = [{}, other, signed(job.task_id, key="k"), *(signed(job.task_id, age=age) for age in (301, -302))]
            assert [await post(url, task, headers) for headers in unsigned] == [401] * 5
            assert [await post(url, body, good) for body in (b"{", b"[1]", long[1:], long)] == [400, 400, 401, 413]
            assert await post(url, b"", {}, method="GET") == 405
            assert (await post(url, b'{"data": {"taskId": "another"}}', other), sandbox.ledger.polls) == (200, {})
            assert [await post(url, task, good) for _ in range(3)] == [200] * 3
            assert (await job).urls
            assert (sandbox.ledger.polls, client.is_open) == ({job.task_id: 1}, True)
        assert (await post(url, task, good), client.is_open) == (503, False)


async def test_an_asgi_server_may_start_and_end_it() -> None:
    """Where it is the whole application, the server's start and end are answered, and a websocket is closed."""
    receiver, lifespan = Receiver(Client("sandbox", callback=HERE)), {"type": "lifespan"}
    sent = await told_by(receiver, lifespan, lifespan, lifespan)
    sent += await told_by(receiver, {"type": "websocket"})
    told = [message["type"] for message in sent]
    assert told == ["lifespan.startup.complete", "lifespan.shutdown.complete", "websocket.close"]


def test_a_receiver_needs_a_client_that_is_called_back() -> None:
    """A client that asks for no callbacks, or a key of an account that it has not, is a mistake, and says so."""
    with pytest.raises(ConfigurationError, match=r"callback=Callback\(public_url"):
        Receiver(Client("sandbox"))
    with pytest.raises(ConfigurationError, match="no account 'kie'"):
        Client("sandbox", callback=Callback("https://example.com", signing_key={"kie": "k"}))


@pytest.mark.parametrize(
    "address",
    ["https://your-domain.com/callback", "http://10.0.0.7/", "http://127.0.0.1.example/", "//no", "http://[::"],
)
async def test_a_sandbox_calls_this_machine_alone(address: str) -> None:
    """A try-out must not post prompts to the address of somebody's example; that it would have is counted."""
    async with Sandbox(latency=AT_ONCE) as sandbox:
        async with ClientSession(headers={"Authorization": f"Bearer {sandbox.key}"}) as session:
            body = {"model": "google/imagen4-fast", "input": {"prompt": "a fox"}, "callBackUrl": address}
            async with session.post(f"{sandbox.url}/api/v1/jobs/createTask", json=body) as answer:
                task = (await answer.json())["data"]["taskId"]
        while not sandbox.ledger.withheld:
            await asyncio.sleep(0.01)
    assert (sandbox.ledger.withheld[task], sandbox.ledger.callbacks[task]) == (1, 0)


async def test_a_server_in_another_thread(imagen_sandbox: Sandbox) -> None:
    """A receiver that is served in another thread than the client's loop tells it all the same."""
    sandbox = {"api_key": imagen_sandbox.key, "base_url": imagen_sandbox.url, "freshness": 60}
    with free_socket() as (found, port), start_blocking_portal() as portal:
        client = Client("sandbox", callback=Callback(f"http://127.0.0.1:{port}/imagen"), **sandbox)
        with portal.wrap_async_context_manager(serving(Receiver(client).application(), found)):
            async with client:
                assert (await client.generate("a red fox")).urls
    assert list(imagen_sandbox.ledger.polls.values()) == [1]


async def test_a_body_that_is_not_packed_as_it_says(imagen_sandbox: Sandbox) -> None:
    """What cannot be unpacked tells no less than an empty body: the token is good, and nothing is to be sent again."""
    async with called_back(imagen_sandbox) as client, ClientSession() as http:
        imagen_sandbox.keep("callback", "lost")
        job = await client.submit("a red fox")
        url = str(imagen_sandbox.ledger.tasks[0].callback_url)
        async with http.post(url, data=b'{"data": {}}', headers={"Content-Encoding": "gzip"}) as answer:
            assert answer.status == 200
        assert (await job).urls


@pytest.mark.slow
@pytest.mark.parametrize("name", ["with_fastapi.py", "with_aiohttp.py"])
async def test_the_programs_run_as_printed(name: str, tmp_path: Path) -> None:
    """A picture of kie.ai's, whose tasks use to take long, is there as soon as its callback has come."""
    sandbox = Sandbox(latency=Latency(median=0.3, sigma=0.1), signing_key=KEY)
    with running_sandbox(sandbox), free_socket() as (found, port):
        # It stays bound here, so that nobody else is given this port; who listens at it is the program alone.
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        async with as_printed(name, tmp_path, sandbox, port), ClientSession() as session:
            answers = []
            for prompt, fault in (("a+red+fox", None), ("", None), ("a+heron", "fail_word")):
                sandbox.order("task", *([fault] if fault else []))
                async with session.get(f"http://127.0.0.1:{port}/picture?prompt={prompt}") as response:
                    answers.append((response.status, (await response.json())["task"]))
    first, failed = (task.task_id for task in sandbox.ledger.tasks)
    # What nobody created is the caller's mistake; what was created is answered so that no client asks again by itself.
    assert answers == [(200, first), (400, None), (424, failed)]
    assert (sandbox.ledger.callback_answers, list(sandbox.ledger.polls.values())) == ({200: 2}, [1, 1])


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"loop_factory": VirtualTimeLoop})], ids=["virtual-time"])
async def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    """Whoever has a token and sends half a body is answered 408 after ten seconds."""
    client = Client("sandbox", api_key="k" * 9, base_url="http://127.0.0.1:9", callback=HERE)
    async with client:
        url = client._open().desk.registry.url_of(make_job())
        began = asyncio.get_running_loop().time()
        assert await posted(Receiver(client), url, b'{"data":', {}, more_body=True) == 408
        assert asyncio.get_running_loop().time() - began == pytest.approx(LONGEST_READ, abs=0.1)


async def test_a_body_whose_connection_was_lost_is_no_error() -> None:
    """A callback whose connection ends before its body is read is answered 400, and is no error of the server's."""
    async with Client("sandbox", api_key="k" * 9, base_url="http://127.0.0.1:9", callback=HERE) as client:
        url = client._open().desk.registry.url_of(make_job())
        lost = StreamReader(BaseProtocol(asyncio.get_running_loop()), 2**16)
        request = make_mocked_request("POST", f"/{url.rpartition('/')[2]}", payload=lost)
        assert (await Receiver(client).handle(request)).status == 400


class FullStore(DictStore):
    """A store whose disk is full for a while."""

    is_full = False

    def write(self, entries: Any) -> None:
        """Keep these changes, or none of them."""
        if self.is_full:
            raise JournalError("the disk is full")
        super().write(entries)


@pytest.mark.parametrize(("state", "fault"), [("held", "reset_after"), ("running", None), ("done", None)])
async def test_what_cannot_be_noted_is_not_taken(state: str, fault: str | None) -> None:
    """While the journal cannot be told what a callback tells, it is answered 503, each time; then it is taken."""
    store, held = FullStore({}), asyncio.Event()

    def listen(event: Event) -> None:
        if isinstance(event, JobEvent) and event.state == state:
            store.is_full = True
            held.set()

    async with Sandbox(latency=AT_ONCE) as sandbox, called_back(sandbox, on_event=listen) as client:
        sandbox.order("create", *([fault] if fault else []))
        sandbox.order("callback", "lost")
        async with client.batch(["a red fox"], journal=store) as batch, ClientSession() as session:
            await held.wait()
            (task,) = sandbox.ledger.tasks
            statuses: list[int] = []
            for is_full in (True, True, False):
                store.is_full = is_full
                async with session.post(task.callback_url, json={"data": {"taskId": task.task_id}}) as response:
                    statuses.append(response.status)
            results = [result async for result in batch]
    assert statuses == [503, 503, 200]
    assert [result.task_id for result in results] == [task.task_id]


async def test_a_callback_that_quotes_the_key_has_it_shown_nowhere() -> None:
    """Whoever calls knows it: what is told of the task has the mask of an answer."""
    heard, held = [""], asyncio.Event()

    def listen(event: Event) -> None:
        heard.append(repr(event))
        if isinstance(event, JobEvent) and event.state == "held":
            held.set()

    async with Sandbox(latency=AT_ONCE) as sandbox, called_back(sandbox, on_event=listen) as client:
        sandbox.order("create", "reset_after")
        sandbox.order("callback", "lost")
        async with client.batch(["a red fox"]) as batch, ClientSession() as session:
            await held.wait()
            named = {"data": {"taskId": f"task-{sandbox.key}"}}
            async with session.post(str(sandbox.ledger.tasks[0].callback_url), json=named) as response:
                assert response.status == 200
        told = f"{heard} {batch.leftover}"
    assert (sandbox.key in told, "task-***" in told) == (False, True)


@pytest.mark.parametrize(("key", "state"), [(None, ""), (KEY, ""), (None, "/proc/nope")], ids=["", "signed", "no file"])
async def test_a_callback_that_reaches_another_worker_is_handed_on(
    key: str | None, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two clients with a key, one public URL will do: what comes to the one is told to the other, which waits.

    Where a create's answer was lost nothing but its callback tells of its task.
    """
    if state:
        monkeypatch.setenv("IMAGEN_ASYNC_STATE", state)
    async with Sandbox(latency=AT_ONCE, signing_key=key) as sandbox:
        sandbox.order("create", "reset_after")
        async with called_back(sandbox, "kie", key=key) as other:
            callback = Callback(other._callback.public_url if other._callback else "", signing_key=key)
            account = Account("kie", sandbox.key, sandbox.url_of("kie"))
            async with Client(account, callback=callback) as client:
                result = await client.generate("a fox", model="imagen4-fast")
        assert [result.task_id] == [task.task_id for task in sandbox.ledger.tasks]
        assert sandbox.ledger.callback_answers[200] == 1


async def test_without_sharing_nobody_hands_on() -> None:
    """A client that shares nothing knows no token but its own."""
    async with Sandbox(latency=AT_ONCE) as sandbox, called_back(sandbox, "kie") as other:
        assert other._callback is not None
        account = Account("kie", sandbox.key, sandbox.url_of("kie"), shared=False)
        async with Client(account, callback=other._callback) as client:
            await client.generate("a fox", model="imagen4-fast")
        assert set(sandbox.ledger.callback_answers) <= {404}
