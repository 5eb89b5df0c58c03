"""Memory: what a job costs at each stage, and what a long lazy input adds."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

from benchmarks.clients import ENDLESS, in_process
from benchmarks.server import record_answer, server_process
from benchmarks.simulation import upstream
from benchmarks.worker import prompts
from imagen_async import ImageRequest
from imagen_async._core.job import Job
from imagen_async._core.job_events import Turn
from imagen_async._core.plan import Plan
from imagen_async._core.poll_schedule import PollSchedule
from imagen_async._core.routing import Router
from imagen_async._core.wire import Accepted, HttpResponse
from imagen_async._core.wording import result_of
from imagen_async._job_factory import JobFactory, JobOptions
from imagen_async.providers import PROVIDERS

TITLE = "a job of its own at each stage, as Python counts it; real ones, as the system does; a lazy input of a million"

KIE = PROVIDERS["kie"]


def run(*, quick: bool) -> list[dict[str, object]]:
    """Rows for each stage of a job, for tasks that run at once, and for the long input."""
    long, many = (20_000, 1000) if quick else (1_000_000, 10_000)
    rows = [{"what": f"a {stage} job", "figure": each, "unit": "bytes"} for stage, each in _stages(many)]
    with server_process(latency=3600) as url:
        held = in_process("holding", url, many, many)
    with server_process(latency=0.0) as url:
        short_peak = in_process("ours", url, 1000, 500)["peak"]
        long_peak = in_process("ours", url, long, 500)["peak"]
    return [
        *rows,
        {"what": f"a job of {many:,} that run, all in", "figure": held["bytes_per_job"], "unit": "bytes"},
        {"what": "peak with 1,000 lazy prompts", "figure": short_peak / 1e6, "unit": "MB"},
        {"what": f"added by {long:,} lazy prompts", "figure": (long_peak - short_peak) / 1e6, "unit": "MB"},
    ]


def _stages(count: int) -> Iterator[tuple[str, float]]:
    """Bytes of a job that is queued, that runs, and of the result that a reader keeps, its prompt included."""
    plan = Plan([upstream("kie", ENDLESS, PollSchedule(KIE.latency))], 1)
    terms = JobOptions(deadline=900, retries=0, resubmits=0, save_to=None)
    factory = JobFactory(Router({"kie": KIE}), ImageRequest("-"), terms)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number, prompt in enumerate(prompts(count)):
        plan.add(factory.job(prompt, number, 0, number), 0.0)
    yield "queued", (tracemalloc.get_traced_memory()[0] - before) / count
    for job in _sent(plan):
        plan.settle(job, Accepted(f"{job.id:032x}"), 0.0)
    yield "running", (tracemalloc.get_traced_memory()[0] - before) / count
    results = [result_of(job) for job in _finished(plan, 60.0)]
    yield "finished", (tracemalloc.get_traced_memory()[0] - before) / len(results)
    tracemalloc.stop()


def _sent(plan: Plan) -> list[Job]:
    """All queued jobs, sent: the first goes alone, until it is answered."""
    (first,) = _taken(plan, 0.0)
    plan.settle(first, Accepted(f"{first.id:032x}"), 0.0)
    return _taken(plan, 0.0)


def _finished(plan: Plan, now: float) -> Iterator[Job]:
    """All running jobs, asked about and finished."""
    for job in _taken(plan, plan.wake_at(now)):
        answer = HttpResponse(200, record_answer(f"{job.id:032x}", 5.0))
        for change in plan.settle(job, KIE.dialect.read_status(answer, f"{job.id:032x}"), now):
            yield change.after


def _taken(plan: Plan, now: float) -> list[Job]:
    """Whose turn it is; of a create nothing holds back, and it leaves at once."""
    jobs = [change.after for change in plan.take(now) if isinstance(change.event, Turn)]
    for job in jobs:
        plan.leaves(job, now)
    return jobs
