"""What a client tells: events of jobs, accounts and exchanges, the log of them, spans and metrics; never a secret."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from clients import Heard, client_of, run, until_error
from dict_store import DictStore
from inner import Address, HttpRequest, HttpResponse, Observer, Seal
from servers import called_back
from virtual_network import VIRTUAL_TIME, Network, VirtualClient, prompts

from imagen_async import ImageRequest, Limits, Rate, Result, errors
from imagen_async.events import ENDS, AccountEvent, Event, ExchangeEvent, JobEvent
from imagen_async.providers import PROVIDERS
from imagen_async.sandbox import Latency, Sandbox
from imagen_async.testing import VirtualTimeLoop, running_sandbox

KIE = PROVIDERS["kie"]
virtual_time = pytest.mark.parametrize("anyio_backend", [VIRTUAL_TIME], ids=["virtual-time"])


async def test_a_saved_picture_tells_each_state_and_exchange(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """From the queue to the file, each state comes once and in order, with the task, the result and the exchanges."""
    heard = Heard()
    imagen_sandbox.order("poll", "truncated")
    async with client_of(imagen_sandbox, on_event=heard) as client:
        (result,) = await run(client, [ImageRequest("a fox", key="mine")], save_to=tmp_path)
    task = str(result.task_id)
    told = [(event.state, event.attempts, event.task_id) for event in heard.jobs()]
    begun = [("queued", 0, None), ("submitting", 1, None)]
    assert told == begun + [(state, 1, task) for state in ("running", "ready", "done")]
    (*before, last) = [event.result for event in heard.jobs()]
    assert (before, last.files, last.credits, last.urls) == ([None] * 4, result.files, 8, result.urls)
    whose = {(event.account, event.model, event.key, event.index) for event in heard.jobs()}
    assert whose == {("sandbox", "imagen4", "mine", 0)}
    assert [event.at for event in heard.events] == sorted(event.at for event in heard.events)
    exchanges = [event for event in heard.events if isinstance(event, ExchangeEvent)]
    assert Counter((event.call, event.status, event.error is None, event.seconds > 0) for event in exchanges) == {
        ("create", 200, True, True): 1,
        ("status", None, False, True): 1,
        ("status", 200, True, True): imagen_sandbox.ledger.polls[task] - 1,
        ("file", 200, True, True): 1,
    }
    assert ('"prompt":"a fox"' in exchanges[0].sent, task in exchanges[0].received) == (True, True)


@virtual_time
async def test_what_goes_wrong_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """A request refused by our check, a 429, a failed task, a lost answer and an empty account: each error, once."""
    network, heard = Network(KIE, limits=Limits(Rate(20, per=10), Rate(100, per=1), 1)), Heard()
    network.faults.order("create", "429", None, "reset_after", "402")
    network.faults.order("task", "fail_word")
    caplog.set_level(logging.INFO, "imagen_async")
    requests = [ImageRequest("x", key=key, aspect_ratio="7:7" if key == "bad" else None) for key in ("bad", *"abc")]
    async with VirtualClient(network, on_event=heard) as client, client.batch(requests) as batch:
        await until_error(batch, errors.InsufficientCredits)
    ends = {event.key: (heard.states(event.key), type(event.error)) for event in heard.jobs() if event.state in ENDS}
    assert ends == {
        "bad": (["failed"], errors.InvalidRequest),
        "a": (["queued", "submitting", "queued", "submitting", "running", "failed"], errors.GenerationFailed),
        "b": (["queued", "submitting", "unknown"], errors.UnknownOutcome),
        "c": (["queued", "submitting", "queued", "unsent"], errors.InsufficientCredits),
    }
    assert heard.jobs("unsent")[0].result is None, "nothing came of it, and another run may send it"
    accounts = [(event.account, event.state) for event in heard.events if isinstance(event, AccountEvent)]
    assert (accounts[0], accounts[-1]) == (("kie", "limited"), ("kie", "stopped"))
    assert "kie is limited, " in caplog.text


@virtual_time
@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError, pytest.fail.Exception, StopIteration])
async def test_a_listener_that_fails_costs_nothing(error: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever a listener raises, at every event, no outcome changes, and the log says so once."""

    def fail(event: Event) -> None:
        raise error

    network = Network(KIE)
    assert [result.ok for result in await run(VirtualClient(network, on_event=fail), prompts(2))] == [True, True]
    assert len(network.ledger.creates) == 2
    (record,) = caplog.records
    assert ("a listener failed" in record.message, bool(record.exc_info)) == (True, True)


@virtual_time
async def test_a_failing_log_costs_nothing(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A filter or a handler that raises at every line changes no outcome."""

    def fail(record: logging.LogRecord) -> bool:
        raise OSError("no space left")

    network = Network(KIE)
    caplog.set_level(logging.DEBUG, "imagen_async")
    monkeypatch.setattr(logging.getLogger("imagen_async"), "filters", [fail])
    network.faults.order("create", None, "429", "reset_after")
    results = await run(VirtualClient(network), prompts(3))
    assert (sum(result.ok for result in results), len(network.ledger.tasks)) == (2, 3)


def test_a_listener_may_end_the_program() -> None:
    """SystemExit of a listener ends the program in good order: the task that it was told of is in the journal."""

    def leave(event: Event) -> None:
        if isinstance(event, JobEvent) and event.state == "running":
            raise SystemExit(3)

    kept: dict[str, Any] = {}
    client = VirtualClient(Network(KIE), on_event=leave)
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner, pytest.raises(SystemExit) as end:
        runner.run(run(client, ["x"], journal=DictStore(kept)))
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
        async with client.batch(prompts(700)) as batch:
            done = len([result async for result in batch])
    assert ends["done"] == done == len(network.ledger.tasks) > 0
    assert ends == {"done": done, "left": batch.progress.pulled - done}


async def test_no_event_and_no_line_has_a_secret(caplog: pytest.LogCaptureFixture) -> None:
    """Neither the key nor a callback's token is in any event or log line, also where the provider repeats both."""
    heard, key = Heard(), "sk-a-very-secret-key"
    with running_sandbox(Sandbox(key=key)) as sandbox, caplog.at_level(logging.DEBUG, "imagen_async"):
        sandbox.order("create", None, None, "500", "500")
        async with called_back(sandbox, "kie", "apikley", on_event=heard) as client:
            assert len(await run(client, prompts(4))) == 4
        tokens = [str(create.callback_url).rpartition("/")[2] for create in sandbox.ledger.creates]
    told = "\n".join([*map(repr, heard.events), *(record.getMessage() for record in caplog.records)])
    assert {len(token) for token in tokens} == {36}
    assert [secret for secret in (key, *tokens) if secret in told] == []
    assert "/imagen/***" in told


SEAL = Seal(b"secret")
TOKEN = SEAL.token(Address(b"12345678", 1))
DRESSES = [
    '{"url":"https://host/hook/***"}',
    r'{"param":"{\"url\":\"https:\/\/host\/hook\/***\"}"}',
    *("%2F***&x", r"\u002f***&x", '"token":"***"', "token=***&x"),
]
SIGNED = ['{"x":"https://files.example/a.png?***"}', r'{"x":"{\"y\":[\"https://files.example/a.png?***\"]}"}']


def shown(body: str) -> str:
    """What an exchange's event shows of a body."""
    told: list[Any] = []
    observer = Observer([told.append], is_token=lambda text: SEAL.opened(text) is not None)
    observer.exchange("kie", HttpRequest("POST", "/x", body.encode()), HttpResponse(200, body.encode()), 0.0, 1.0)
    assert told[0].sent == told[0].received
    return str(told[0].sent)


def test_what_is_told_of_a_body_is_short_and_opens_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A token is masked in whatever dress, also cut in two, and a signature behind a question mark; a UUID stays."""
    caplog.set_level(logging.INFO, "imagen_async")
    assert [shown(dress.replace("***", TOKEN)) for dress in DRESSES] == DRESSES
    assert [shown(signed.replace("***", "sig=SECRET&e=1")) for signed in SIGNED] == SIGNED
    task = '{"taskId":"123e4567-e89b-42d3-a456-426614174000"}'
    assert shown(task) == task
    assert shown("é" * 285 + f"/{TOKEN}").strip("é") == ""
    assert len(shown("x " * 9999)) <= 500
    error = errors.DownloadFailed("Its URL: https://files.example/a.png?sig=SECRET&e=1.")
    Observer().refused(Result("k", 0, ImageRequest("x"), "kie", "imagen4", error=error), 1, 0.0)
    assert caplog.messages == ["kie: 'k' failed: Its URL: https://files.example/a.png?***"]


LINES = {
    logging.INFO: {
        r"^sandbox: '[ab]' runs as task \w+ of imagen4: '.+'$": 2,
        r"^sandbox: 'a' is done after \d+\.\d s, 8 credits: .+\.png$": 1,
        r"^sandbox: 'b' failed: .*SENSITIVE_WORD_ERROR": 1,
        "": 4,
    },
    logging.DEBUG: {
        "^sandbox: create: POST /api/v1/jobs/createTask: HTTP 200 in ": 2,
        "^files: file: GET http://127.0.0.1": 1,
        "^sandbox: '[ab]' waits for its turn$": 2,
    },
}


async def test_the_log_has_a_line_for_what_a_person_cares_about(
    imagen_sandbox: Sandbox, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """At INFO: taken, done, failed, an account's trouble, with no line torn by what a prompt holds; DEBUG has more."""
    imagen_sandbox.order("task", None, "fail_word")
    caplog.set_level(logging.DEBUG, "imagen_async")
    requests = [ImageRequest("two\nlines\v", key="a"), ImageRequest("y", key="b")]
    await run(client_of(imagen_sandbox), requests, save_to=tmp_path)
    assert {(record.name, record.getMessage().isprintable()) for record in caplog.records} == {("imagen_async", True)}
    for level, counts in LINES.items():
        lines = [record.getMessage() for record in caplog.records if record.levelno == level]
        assert {words: sum(bool(re.search(words, line)) for line in lines) for words in counts} == counts, lines


def test_nobody_listens_for_nothing() -> None:
    """Without a listener, and with the log at WARNING, no event is made: not even the job is looked at."""
    observer, nothing = Observer(), None
    assert (observer.is_listening, observer.hears_exchanges) == (False, False)
    observer.on_change(nothing, 0.0)  # type: ignore[arg-type]
    observer.refused(nothing, 1, 0.0)  # type: ignore[arg-type]


TRACED = """
import asyncio, json, sys
from clients import client_of, run
from imagen_async.sandbox import Sandbox

async def work():
    async with Sandbox() as sandbox:
        async with client_of(sandbox) as client:
            await client.credits()
        assert "imagen_async._watch.tracing" not in sys.modules, "nothing is set up, so nothing is loaded"
        from opentelemetry import metrics, trace
        from opentelemetry.sdk import metrics as measuring, trace as tracing
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor, in_memory_span_exporter
        exporter, reader = in_memory_span_exporter.InMemorySpanExporter(), InMemoryMetricReader()
        trace.set_tracer_provider(tracing.TracerProvider())
        trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(exporter))
        metrics.set_meter_provider(measuring.MeterProvider([reader]))
        async with client_of(sandbox) as client:
            with trace.get_tracer("mine").start_as_current_span("a web request"):
                await run(client, ["a secret prompt"], save_to=sys.argv[1])
            sandbox.order("create", "429")
            sandbox.order("task", "fail_word")
            await run(client, ["a secret prompt"])
    spans = sorted(exporter.get_finished_spans(), key=lambda span: span.start_time)
    names = {span.context.span_id: span.name for span in spans}
    (scope,) = reader.get_metrics_data().resource_metrics[0].scope_metrics
    print(json.dumps({
        "spans": [[names[span.parent.span_id] if span.parent else None, span.name] for span in spans],
        "jobs": [{**span.attributes, "status": span.status.status_code.name} for span in spans if "job" in span.name],
        "points": [[metric.name, {**point.attributes}, point.value if hasattr(point, "value") else point.count]
                   for metric in scope.metrics for point in metric.data.data_points]}))

asyncio.run(work())
"""


@pytest.mark.slow
def test_spans_and_metrics_come_where_opentelemetry_is_set_up(tmp_path: Path) -> None:
    """A job is a span below the caller's, with submit, wait and download in it; errors, credits and calls are told."""
    command = [sys.executable, "-W", "error", "-c", TRACED, tmp_path]
    output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent).stdout
    told, job = json.loads(output), "imagen_async.job"
    assert told["spans"] == [
        *([None, "a web request"], ["a web request", job]),
        *([job, "submit"], [job, "wait"], [job, "download"]),
        *([None, job], [job, "submit"], [job, "submit"], [job, "wait"]),
    ]
    saved, failed = told["jobs"]
    made = (saved["status"], saved["imagen_async.credits"], saved["gen_ai.request.model"])
    assert made == ("UNSET", 8, "imagen4")
    assert (failed["status"], failed["error.type"]) == ("ERROR", "GenerationFailed")
    assert "a secret prompt" not in output
    points: Counter[str] = Counter()
    for name, labels, value in told["points"]:
        points[".".join([name, *(labels[label] for label in ("state", "call") if label in labels)])] += value
    expected = {"jobs.done": 1, "jobs.failed": 1, "jobs.live": 0, "credits": 8, "exchanges.create": 3}
    expected |= {"exchanges.file": 1, "job.duration.done": 1, "task.latency": 1}
    assert {name: points[f"imagen_async.{name}"] for name in expected} == expected
