"""Memory: what a long lazy input adds, and what a running job costs."""

from __future__ import annotations

from benchmarks.clients import in_process
from benchmarks.server import server_process

TITLE = "a lazy input of a million prompts over one of a thousand; 10,000 jobs that run at once"


def run(*, quick: bool) -> list[dict[str, object]]:
    """Rows for the long input and for the running jobs."""
    long, many = (20_000, 1000) if quick else (1_000_000, 10_000)
    with server_process(latency=0.0) as url:
        short_peak = in_process("ours", url, 1000, 500)["peak"]
        long_peak = in_process("ours", url, long, 500)["peak"]
    with server_process(latency=3600) as url:
        held = in_process("holding", url, many, many)
    return [
        {"what": "peak with 1,000 lazy prompts", "figure": short_peak / 1e6, "unit": "MB"},
        {"what": f"added by {long:,} lazy prompts", "figure": (long_peak - short_peak) / 1e6, "unit": "MB"},
        {"what": f"a job of {many:,} that run", "figure": held["bytes_per_job"] / 1024, "unit": "KiB"},
    ]
