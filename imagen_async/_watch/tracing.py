"""OpenTelemetry: a span for each job, with its submit, wait and download, and metrics. Loaded only where it can be."""

from __future__ import annotations

import msgspec
from opentelemetry import metrics, trace
from opentelemetry.trace import Span, SpanKind, StatusCode

from ..events import ENDS, AccountEvent, Event, ExchangeEvent, JobEvent

SCOPE = "imagen_async"

_STEPS = {"submitting": "submit", "held": "wait", "running": "wait", "ready": "download"}
"""The span that each state belongs to."""

_STAND_INS = (["opentelemetry", "trace"], ["opentelemetry", "metrics"])


class _Traced(msgspec.Struct):
    """A live job's spans: of all of it, and of the step that it is at, by its name."""

    whole: Span
    began_at: float
    step: Span | None = None
    step_name: str | None = None


def is_set_up() -> bool:
    """True where the program has set a provider of traces or metrics: the API's own stand-ins do nothing."""
    providers = (trace.get_tracer_provider(), metrics.get_meter_provider())
    return any(type(each).__module__.split(".")[:2] not in _STAND_INS for each in providers)


class Tracing:
    """Hears events and makes spans and metrics of them, with whatever providers the application has set.

    A job's span is a child of the span in which it was asked for. Prompts and API keys are in none.
    """

    def __init__(self) -> None:
        self._tracer = trace.get_tracer(SCOPE)
        meter = metrics.get_meter(SCOPE)
        self._ended = meter.create_counter("imagen_async.jobs", "{job}", "Jobs that ended, by their state")
        self._live = meter.create_up_down_counter("imagen_async.jobs.live", "{job}", "Jobs that have not ended")
        self._calls = meter.create_counter("imagen_async.exchanges", "{exchange}", "HTTP exchanges, by what they ask")
        self._credits = meter.create_counter("imagen_async.credits", "{credit}", "Credits billed")
        self._duration = meter.create_histogram("imagen_async.job.duration", "s", "From being asked for to the end")
        self._latency = meter.create_histogram("imagen_async.task.latency", "s", "That the provider took for a task")
        self._jobs: dict[int, _Traced] = {}

    def __call__(self, event: Event) -> None:
        match event:
            case JobEvent():
                self._hear_job(event)
            case ExchangeEvent():
                status = "none" if event.status is None else str(event.status)
                self._calls.add(1, {"account": event.account, "call": event.call, "status": status})
            case AccountEvent():
                pass

    def _hear_job(self, event: JobEvent) -> None:
        traced = self._jobs.get(event.job)
        if traced is None:
            traced = self._jobs[event.job] = self._begun(event)
        traced.whole.set_attributes(_attributes(event))
        self._step(traced, event)
        if event.state in ENDS:
            self._end(self._jobs.pop(event.job), event)

    def _begun(self, event: JobEvent) -> _Traced:
        self._live.add(1)
        return _Traced(
            self._tracer.start_span("imagen_async.job", attributes={"imagen_async.key": event.key}), event.at
        )

    def _step(self, traced: _Traced, event: JobEvent) -> None:
        """End the span of the last step and begin the next one's; a wait for a callback is part of the wait."""
        name = _STEPS.get(event.state)
        # A second create is a step of its own, though its name is that of the first.
        if name == traced.step_name and event.state != "submitting":
            return
        if traced.step is not None:
            _fail(traced.step, event)
            traced.step.end()
        traced.step_name, traced.step = name, None
        if name is not None:
            context = trace.set_span_in_context(traced.whole)
            traced.step = self._tracer.start_span(name, context, SpanKind.CLIENT, attributes=_attributes(event))

    def _end(self, traced: _Traced, event: JobEvent) -> None:
        labels = {"account": event.account, "model": event.model}
        self._live.add(-1)
        self._ended.add(1, {**labels, "state": event.state})
        self._duration.record(event.at - traced.began_at, {**labels, "state": event.state})
        result = event.result
        if result is not None and result.credits is not None and result.credits > 0:
            self._credits.add(result.credits, labels)
            traced.whole.set_attribute("imagen_async.credits", result.credits)
        if result is not None and result.latency is not None and result.latency >= 0:
            self._latency.record(result.latency, labels)
        _fail(traced.whole, event)
        traced.whole.end()


def _fail(span: Span, event: JobEvent) -> None:
    """Mark a span whose end is an error; leaving is none, and a new turn in the queue after a 429 neither."""
    if event.error is not None and event.state in ENDS - {"left"}:
        # Without its message: that may quote the prompt.
        span.set_status(StatusCode.ERROR)
        span.set_attribute("error.type", type(event.error).__name__)
        if event.error.code is not None:
            span.set_attribute("imagen_async.code", str(event.error.code))


def _attributes(event: JobEvent) -> dict[str, str | int]:
    attributes: dict[str, str | int] = {
        "gen_ai.provider.name": event.account,
        "gen_ai.request.model": event.model,
        "imagen_async.state": event.state,
        "imagen_async.attempts": event.attempts,
        "imagen_async.index": event.index,
    }
    return attributes if event.task_id is None else {**attributes, "imagen_async.task_id": event.task_id}
