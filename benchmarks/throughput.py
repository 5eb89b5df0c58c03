"""Jobs per second and CPU per job over loopback with limits out of the way, beside a bare aiohttp loop."""

from __future__ import annotations

import importlib.util
import statistics

from benchmarks.clients import in_process
from benchmarks.server import server_process, take_figures

TITLE = "one create and one status call a job, 500 jobs at once: the client's process, medians of rounds in turn"


def run(*, quick: bool) -> list[dict[str, object]]:
    """Rows for ours and the bare loop, taken in turn, with asyncio's own loop and with uvloop where there is one."""
    loops = ["asyncio", *(["uvloop"] if importlib.util.find_spec("uvloop") else [])]
    with server_process() as url:
        return [row for loop in loops for row in _compared(url, loop, quick=quick)]


def _compared(url: str, loop: str, *, quick: bool) -> list[dict[str, object]]:
    count, rounds, running = (500, 1, 200) if quick else (5000, 7, 500)
    taken: dict[str, list[dict[str, float]]] = {"ours": [], "bare": []}
    polls: dict[str, float] = {}
    for _ in range(rounds):
        for name, figures in taken.items():
            figures.append(in_process(name, url, count, running, loop=loop))
            assert figures[-1]["done"] == count
            polls[name] = take_figures(url)["polls"] / count
    cpu = {name: [each["cpu"] / count * 1e6 for each in figures] for name, figures in taken.items()}
    # Of each round by itself: on a shared machine a whole round is slow, not one of the two in it.
    ratio = statistics.median(ours / bare for ours, bare in zip(cpu["ours"], cpu["bare"], strict=True))
    return [
        {
            "loop": loop,
            "client": name,
            "jobs per s": count / statistics.median(each["wall"] for each in figures),
            "µs CPU per job": statistics.median(cpu[name]),
            "status calls per job": polls[name],
            "ratio": ratio if name == "ours" else 1.0,
        }
        for name, figures in taken.items()
    ]
