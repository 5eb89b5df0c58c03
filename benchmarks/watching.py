"""What watching costs: a listener, the log, OpenTelemetry and the panel, each beside the same batch unwatched.

Run as a program it is one such batch.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import os
import pty
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.clients import account, in_process
from benchmarks.server import server_process
from benchmarks.worker import Work, main, prompts
from imagen_async import Batch, Client
from imagen_async._cli.panel import LivePanel
from imagen_async.events import Event, Listener

TITLE = "one create and one status call a job at full speed, watched in several ways; medians of rounds in turn"

WAYS = ("nobody", "opentelemetry, not set up", "on_event", "log at INFO", "panel", "opentelemetry, all recorded")


def run(*, quick: bool) -> list[dict[str, object]]:
    """A row for each way of watching: CPU per job, and how much that is over nobody watching in the same round."""
    count, rounds, running = (500, 1, 200) if quick else (5000, 5, 500)
    taken: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    with server_process() as url:
        for _ in range(rounds):
            for way, figures in taken.items():
                figures.append(in_process("watched", url, count, running, way, module=__name__))
                assert figures[-1]["done"] == count
    return [
        {
            "watched by": way,
            "µs CPU per job": statistics.median(each["cpu"] for each in figures) / count * 1e6,
            "ratio": statistics.median(
                each["cpu"] / alone["cpu"] for each, alone in zip(figures, taken["nobody"], strict=True)
            ),
            "events per job": statistics.median(each["events"] for each in figures) / count,
            "panel, % of a processor": statistics.median(each["panel"] / each["wall"] for each in figures) * 100,
            "panel, ms a look": statistics.median(each["panel"] / max(1, each["looks"]) for each in figures) * 1e3,
        }
        for way, figures in taken.items()
    ]


async def watched(url: str, count: int, running: int, way: str) -> dict[str, float]:
    """Our batch, with somebody who watches."""
    events = 0

    def hear(event: Event) -> None:
        nonlocal events
        events += 1

    listener = _prepared(way, hear)
    with _terminal() if way == "panel" else contextlib.nullcontext():
        async with Client(account(url, running), on_event=listener) as client:
            began, began_at = time.process_time(), time.monotonic()
            async with client.batch(prompts(count), model="imagen4") as results, asyncio.TaskGroup() as beside:
                panel = Panel(results) if way == "panel" else None
                showing = None if panel is None else beside.create_task(panel.show())
                done = 0
                async for result in results:
                    done += result.ok
                    if panel is not None:
                        print(result.urls[0])
                if showing is not None:
                    showing.cancel()
            cpu, wall = time.process_time() - began, time.monotonic() - began_at
    figures = {"done": done, "cpu": cpu, "wall": wall, "events": events}
    return {**figures, "panel": 0.0 if panel is None else panel.cpu, "looks": 1 if panel is None else panel.looks}


class Panel:
    """The command's panel, as the command shows it, and how much CPU its looks have taken."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self.cpu = 0.0
        self.looks = 0

    async def show(self) -> None:
        """Show it until this is cancelled."""
        with LivePanel(lambda: self._batch.progress, "a benchmark") as panel:
            while True:
                began = time.thread_time()
                pause = panel.look()
                self.cpu += time.thread_time() - began
                self.looks += 1
                await asyncio.sleep(pause)


def _prepared(way: str, hear: Listener) -> Listener | None:
    """Set up who watches; returns the listener of the client, if that is how."""
    if way == "log at INFO":
        logger = logging.getLogger("imagen_async")
        logger.setLevel(logging.INFO)
        logger.addHandler(logging.StreamHandler(io.StringIO()))
    if way.startswith("opentelemetry"):
        from opentelemetry import metrics, trace

        if way.endswith("recorded"):
            from opentelemetry.sdk.metrics import MeterProvider
            from opentelemetry.sdk.metrics.export import InMemoryMetricReader
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import SimpleSpanProcessor
            from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

            provider = TracerProvider()
            provider.add_span_processor(SimpleSpanProcessor(InMemorySpanExporter()))
            trace.set_tracer_provider(provider)
            metrics.set_meter_provider(MeterProvider([InMemoryMetricReader()]))
    return hear if way == "on_event" else None


@contextlib.contextmanager
def _terminal() -> Iterator[None]:
    """Let both streams be a terminal that somebody reads."""
    ours, end = pty.openpty()
    reader = threading.Thread(target=_drain(ours), daemon=True)
    reader.start()
    os.environ |= {"TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"}
    with open(end, "w", buffering=1) as stream:
        before = sys.stdout, sys.stderr
        sys.stdout = sys.stderr = stream
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before
    reader.join()
    os.close(ours)


def _drain(ours: int) -> Callable[[], None]:
    def read() -> None:
        with contextlib.suppress(OSError):
            while os.read(ours, 1 << 16):
                pass

    return read


WORK: Work = {"watched": watched}

if __name__ == "__main__":
    main(WORK)
