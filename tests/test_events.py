"""What a client tells: events of jobs, accounts and exchanges, the log of them, spans and metrics; never a secret."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from clients import Heard, client_of, run
from dict_store import DictStore
from servers import called_back
from virtual_network import VIRTUAL_TIME, Network, VirtualClient, prompts

from imagen_async import Client, ImageRequest, Limits, Rate, Result, errors
from imagen_async._core.callbacks import Address, Seal
from imagen_async._core.wire import HttpRequest, HttpResponse
from imagen_async._watch.observer import Observer
from imagen_async.events import ENDS, AccountEvent, Event, ExchangeEvent, JobEvent
from imagen_async.providers import PROVIDERS
from imagen_async.sandbox import Latency, Sandbox
from imagen_async.testing import VirtualTimeLoop, running_sandbox

KIE = PROVIDERS["kie"]
virtual_time = pytest.mark.parametrize("anyio_backend", [VIRTUAL_TIME], ids=["virtual-time"])


def two(**first: Any) -> list[ImageRequest]:
    """Two requests with the keys a and b."""
    return [ImageRequest("x", key="a", **first), ImageRequest("y", key="b")]


async def test_a_saved_picture_tells_each_state_and_exchange(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """From the queue to the file, each state comes once and in order, with the task, the result and the exchanges."""
    heard = Heard()
    imagen_sandbox.order("poll", "truncated")
    async with client_of(imagen_sandbox, on_event=heard) as client:
        (result,) = await run(client, [ImageRequest("a fox", key="mine")], save_to=tmp_path)
    told = [(event.state, event.attempts, event.task_id, event.result is not None) for event in heard.jobs()]
    assert told == [
        ("queued", 0, None, False),
        ("submitting", 1, None, False),
        ("running", 1, result.task_id, False),
        ("ready", 1, result.task_id, False),
        ("done", 1, result.task_id, True),
    ]
    places = {(event.account, event.model, event.key, event.index) for event in heard.jobs()}
    assert places == {("sandbox", "imagen4", "mine", 0)}
    last = heard.jobs()[-1].result
    assert last is not None
    assert (last.files, last.credits, last.urls) == (result.files, 8, result.urls)
    assert [event.at for event in heard.events] == sorted(event.at for event in heard.events)
    exchanges = [event for event in heard.events if isinstance(event, ExchangeEvent)]
    polls = imagen_sandbox.ledger.polls[str(result.task_id)]
    assert Counter(event.call for event in exchanges) == {"create": 1, "status": polls, "file": 1}
    told = {(event.call, event.status, event.error is None, event.seconds > 0) for event in exchanges}
    answered = {(call, 200, True, True) for call in ("create", "status", "file")}
    assert told == answered | {("status", None, False, True)}
    assert '"prompt":"a fox"' in exchanges[0].sent
    assert str(result.task_id) in exchanges[0].received


@virtual_time
async def test_what_goes_wrong_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """A request refused by our check, a failed task, a 429 and a lost answer each tell their error; no end twice."""
    network, heard = Network(KIE, limits=Limits(Rate(20, per=10), Rate(100, per=1), 1)), Heard()
    network.faults.order("create", "429", None, "reset_after")
    network.faults.order("task", "fail_word")
    caplog.set_level(logging.INFO, "imagen_async")
    requests = [ImageRequest("x", key="bad", aspect_ratio="7:7"), *two()]
    async with VirtualClient(network, on_event=heard) as client:
        outcomes = {result.key: type(result.error) for result in await run(client, requests)}
    assert {key: heard.states(key) for key in outcomes} == {
        "bad": ["failed"],
        "a": ["queued", "submitting", "queued", "submitting", "running", "failed"],
        "b": ["queued", "submitting", "unknown"],
    }
    ends = {event.key: type(event.error) for event in heard.jobs() if event.state in ENDS}
    assert ends == outcomes
    assert (ends["bad"], ends["a"]) == (errors.InvalidRequest, errors.GenerationFailed)
    assert [event.state for event in heard.events if isinstance(event, AccountEvent)][:1] == ["limited"]
    assert "kie is limited, " in caplog.text


@virtual_time
async def test_a_stopped_account_and_what_it_leaves_are_told() -> None:
    """An account without credit stops, and what could not be sent is `unsent`, with no result that never was."""
    network, heard = Network(KIE), Heard()
    network.faults.keep("create", "402")
    async with VirtualClient(network, on_event=heard) as client:
        with pytest.raises(errors.InsufficientCredits):
            await run(client, two())
    (stopped,) = [event for event in heard.events if isinstance(event, AccountEvent)]
    assert (stopped.account, stopped.state, type(stopped.error)) == ("kie", "stopped", errors.InsufficientCredits)
    assert {(event.state, event.result) for event in heard.jobs() if event.state in ENDS} == {("unsent", None)}


@virtual_time
@pytest.mark.parametrize(
    "error", [ValueError("x"), asyncio.CancelledError(), pytest.fail.Exception("x"), StopIteration()], ids=repr
)
async def test_a_listener_that_fails_costs_nothing(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever a listener raises, at every event, no outcome changes, and the log says so once."""

    def fail(event: Event) -> None:
        raise error

    network = Network(KIE)
    assert [result.ok for result in await run(VirtualClient(network, on_event=fail), ["x", "y"])] == [True, True]
    assert len(network.ledger.creates) == 2
    (record,) = caplog.records
    assert "a listener failed" in record.message
    assert record.exc_info


@virtual_time
async def test_a_log_that_fails_costs_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A filter or a handler that raises at every line changes no outcome."""

    def fail(record: logging.LogRecord) -> bool:
        raise OSError("no space left")

    network = Network(KIE)
    caplog.set_level(logging.DEBUG, "imagen_async")
    monkeypatch.setattr(logging.getLogger("imagen_async"), "filters", [fail])
    network.faults.order("create", None, "429", "reset_after")
    assert sorted(result.ok for result in await run(VirtualClient(network), ["x", "y", "z"])) == [False, True, True]
    assert len(network.ledger.tasks) == 3


def test_a_listener_may_end_the_program() -> None:
    """SystemExit of a listener ends the program in good order: the task that it was told of is in the journal."""

    def leave(event: Event) -> None:
        if isinstance(event, JobEvent) and event.state == "running":
            raise SystemExit(3)

    kept: dict[str, Any] = {}

    async def work() -> None:
        await run(VirtualClient(Network(KIE), on_event=leave), ["x"], journal=DictStore(kept))

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner, pytest.raises(SystemExit) as end:
        runner.run(work())
    (entry,) = kept["jobs"].values()
    assert (end.value.code, entry.state, entry.task_id is None) == (3, "running", False)


@virtual_time
async def test_a_listener_may_stop_a_batch_at_any_event() -> None:
    """However often a listener stops a batch with hundreds of jobs in it, each comes to one end, and nothing hangs."""
    network = Network(KIE, limits=Limits(Rate(300, per=60), Rate(1000, per=1), 300), latency=Latency(20, sigma=0))
    ends: Counter[str] = Counter()

    def stop(event: Event) -> None:
        if isinstance(event, JobEvent) and event.state in ENDS:
            ends[event.state] += 1
            batch.stop()

    async with VirtualClient(network, on_event=stop) as client:
        batch = client.batch(prompts(700))
        async with batch as results:
            done = len([result async for result in results])
    assert ends["done"] == done == len(network.ledger.tasks) > 0
    assert set(ends) <= {"done", "left"}
    assert ends.total() == batch.progress.pulled


def test_a_listener_must_be_a_plain_function() -> None:
    """What cannot be called, or would have to be awaited, is refused when the client is made."""

    async def listen(event: Event) -> None:
        """Nobody would await this."""

    for wrong in (listen, "print"):
        with pytest.raises(errors.ConfigurationError, match="plain function"):
            Client("sandbox", on_event=wrong)  # type: ignore[arg-type]


async def test_no_event_and_no_line_has_a_secret(caplog: pytest.LogCaptureFixture) -> None:
    """Neither the key nor a callback's token is in any event or log line, also where the provider repeats both."""
    heard, key = Heard(), "sk-a-very-secret-key"
    with running_sandbox(Sandbox(key=key)) as sandbox, caplog.at_level(logging.DEBUG, "imagen_async"):
        async with called_back(sandbox, "kie", "apikley", on_event=heard) as client:
            for _ in ("kie", "apikley"):
                sandbox.order("create", None, "500")
                for _ in range(2):
                    assert await run(client, ["x"])
        tokens = [str(create.callback_url).rpartition("/")[2] for create in sandbox.ledger.creates]
    told = "\n".join([*map(repr, heard.events), *(record.getMessage() for record in caplog.records)])
    assert {len(token) for token in tokens} == {36}
    assert [secret for secret in (key, *tokens) if secret in told] == []
    assert "/imagen/***" in told


def test_tokens_are_masked_however_a_body_shows_them() -> None:
    """A token is masked in whatever dress, and where the look at a long body ends in its midst; a UUID stays."""
    told: list[Event] = []
    seal = Seal(b"secret")
    token = seal.token(Address(b"12345678", 1))
    observer = Observer([told.append], is_token=lambda text: seal.opened(text) is not None)
    bodies = [
        f'{{"url":"https://host/hook/{token}"}}',
        f'{{"param":"{{\\"url\\":\\"https:\\/\\/host\\/hook\\/{token}\\"}}"}}',
        *(f"{before}{token}&x" for before in ("%2F", "\\u002f", '"token":"', "token=")),
        "é" * 200 + " " * (8192 - 420) + f"/{token}" + "x" * 99,
    ]
    for body in bodies:
        request = HttpRequest("POST", "/create", body.encode(), "create")
        observer.exchange("kie", request, HttpResponse(200, body.encode()), 0.0, 1.0)
    assert len(told) == len(bodies)
    for event in told:
        assert isinstance(event, ExchangeEvent)
        assert token[:6] not in event.sent + event.received
        assert len(event.sent) <= 500
    task = '{"taskId":"123e4567-e89b-42d3-a456-426614174000"}'
    observer.exchange("kie", HttpRequest("GET", "/x"), HttpResponse(200, task.encode()), 0.0, 1.0)
    assert isinstance(told[-1], ExchangeEvent)
    assert told[-1].received == task


def test_what_opens_a_file_is_masked(caplog: pytest.LogCaptureFixture) -> None:
    """The query of an address, which often is a signature, is in no exchange and in no line of the log."""
    told: list[Event] = []
    url = "https://files.example/a.png?sig=SECRET&e=1"
    body = f'{{"resultJson":"{{\\"resultUrls\\":[\\"{url}\\"]}}","x":"{url}"}}'.encode()
    observer = Observer([told.append])
    with caplog.at_level(logging.DEBUG, "imagen_async"):
        observer.exchange("kie", HttpRequest("GET", "/x", body), HttpResponse(200, body), 0.0, 1.0)
        result = Result(
            "k", 0, ImageRequest("x"), "kie", "imagen4", urls=(url,), error=errors.DownloadFailed(f"Its URL: {url}.")
        )
        observer.refused(result, 1, 0.0)
    assert isinstance(told[0], ExchangeEvent)
    assert told[0].received.count("https://files.example/a.png?***") == 2
    assert "SECRET" not in told[0].sent + told[0].received + caplog.text


async def test_the_log_has_a_line_for_what_a_person_cares_about(
    imagen_sandbox: Sandbox, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """At INFO: taken, done, failed, an account's trouble, with no line torn by what a prompt holds; DEBUG has more."""
    imagen_sandbox.order("task", None, "fail_word")
    requests = [ImageRequest("two\nlines\x1b[2J", key="a"), ImageRequest("y", key="b")]
    lines: dict[int, list[str]] = {}
    for level in (logging.INFO, logging.DEBUG):
        caplog.clear()
        with caplog.at_level(level, "imagen_async"):
            assert len(await run(client_of(imagen_sandbox), requests, save_to=tmp_path)) == 2
        lines[level] = [record.getMessage() for record in caplog.records]
        assert {record.name for record in caplog.records} == {"imagen_async"}
        assert all(line.isprintable() for line in lines[level])
    info = lines[logging.INFO]
    assert len(info) == 4
    assert sum(" runs as task " in line and "imagen4" in line for line in info) == 2
    assert sum("'a' is done after" in line and "8 credits: " in line and ".png" in line for line in info) == 1
    assert sum("'b' failed: " in line and "SENSITIVE_WORD_ERROR" in line for line in info) == 1
    debug = lines[logging.DEBUG]
    assert sum(": create: POST /api/v1/jobs/createTask: HTTP 200 in " in line for line in debug) == 2
    assert sum("files: file: GET http://127.0.0.1" in line for line in debug) == 2
    assert sum("waits for its turn" in line for line in debug) == 2


def test_nobody_listens_for_nothing() -> None:
    """Without a listener, and with the log at WARNING, no event is made: not even the job is looked at."""
    observer = Observer()
    nothing: Any = None
    assert not observer.is_listening
    assert not observer.hears_exchanges
    observer.on_change(nothing, 0.0)
    observer.refused(nothing, 1, 0.0)


TRACED = """
import asyncio, json, sys
from imagen_async import Client, ImagenError
from imagen_async.sandbox import Sandbox

async def work():
    async with Sandbox() as sandbox:
        sandbox.order("task", None, "fail_word")
        settings = {"api_key": sandbox.key, "base_url": sandbox.url}
        async with Client("sandbox", **settings) as client:
            await client.credits()
        assert "imagen_async._watch.tracing" not in sys.modules, "nothing is set up, so nothing is loaded"
        sandbox.order("create", None, "429")
        from opentelemetry import metrics, trace
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
        exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        trace.set_tracer_provider(provider)
        metrics.set_meter_provider(MeterProvider([reader]))
        async with Client("sandbox", **settings) as client:
            with trace.get_tracer("mine").start_as_current_span("a web request"):
                async with client.batch(["a secret prompt"], save_to=sys.argv[1]) as results:
                    assert [result.ok async for result in results] == [True]
            try:
                await client.generate("a secret prompt")
            except ImagenError:
                pass
    data = reader.get_metrics_data().to_json()
    print(json.dumps({"spans": [json.loads(span.to_json()) for span in exporter.get_finished_spans()],
                      "metrics": json.loads(data)}))

asyncio.run(work())
"""


def test_spans_and_metrics_come_where_opentelemetry_is_set_up(tmp_path: Path) -> None:
    """A job is a span below the caller's, with submit, wait and download in it; errors, credits and calls are told."""
    told = subprocess.run(
        [sys.executable, "-W", "error", "-c", TRACED, tmp_path], capture_output=True, text=True, check=True
    )
    document = json.loads(told.stdout)
    spans = document["spans"]
    outer = next(span for span in spans if span["name"] == "a web request")
    saved, failed = sorted(
        (span for span in spans if span["name"] == "imagen_async.job"), key=lambda span: span["start_time"]
    )
    assert saved["parent_id"] == outer["context"]["span_id"]
    assert failed["parent_id"] is None
    steps = {whole["context"]["span_id"]: [] for whole in (saved, failed)}
    for span in sorted(spans, key=lambda span: span["start_time"]):
        if span["parent_id"] in steps:
            steps[span["parent_id"]].append(span["name"])
    assert list(steps.values()) == [["submit", "wait", "download"], ["submit", "submit", "wait"]]
    assert (saved["status"]["status_code"], saved["attributes"]["imagen_async.credits"]) == ("UNSET", 8)
    assert saved["attributes"]["gen_ai.request.model"] == "imagen4"
    assert (failed["status"]["status_code"], failed["attributes"]["error.type"]) == ("ERROR", "GenerationFailed")
    assert "a secret prompt" not in told.stdout
    points: Counter[str] = Counter()
    for scope in document["metrics"]["resource_metrics"][0]["scope_metrics"]:
        for metric in scope["metrics"]:
            for point in metric["data"]["data_points"]:
                labels = [point["attributes"].get(name) for name in ("state", "call")]
                name = ".".join([metric["name"], *(label for label in labels if label)])
                points[name] += point["value"] if "value" in point else point["count"]
    assert points["imagen_async.jobs.done"] == points["imagen_async.jobs.failed"] == 1
    assert points["imagen_async.jobs.live"] == 0
    assert points["imagen_async.credits"] == 8
    assert (points["imagen_async.exchanges.create"], points["imagen_async.exchanges.file"]) == (3, 1)
    assert (points["imagen_async.job.duration.done"], points["imagen_async.task.latency"]) == (1, 1)
