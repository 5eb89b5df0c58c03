"""Jobs per second and CPU per job over loopback with limits out of the way, beside a bare aiohttp loop."""

from __future__ import annotations

import importlib.util
import statistics

from benchmarks.clients import in_process
from benchmarks.server import server_process, take_figures

TITLE = "one create and its status calls, 500 jobs at once: the client's process, medians of pairs taken in turn"

MOST = 1.4
"""Times the CPU of the bare loop that a job with three status calls has come to; 1.15 is wanted."""

_SIZES = {3: (2500, 15), 1: (2500, 7)}
"""Jobs and pairs, by the status calls of a job. A create and one call tell what a job costs beside its requests."""


def run(*, quick: bool) -> list[dict[str, object]]:
    """Rows for ours and the bare loop, taken in turn, with asyncio's own loop and with uvloop where there is one."""
    loops = ["asyncio", *(["uvloop"] if importlib.util.find_spec("uvloop") else [])]
    sizes = {calls: (500, 1) if quick else size for calls, size in _SIZES.items()}
    return [row for calls, size in sizes.items() for loop in loops for row in _compared(loop, calls, *size)]


def check() -> list[str]:
    """What is wrong with the figures of a few pairs: more requests than the bare loop makes, or far more CPU."""
    ours, _ = _compared("asyncio", calls=3, count=400, pairs=3)
    wrong = [f"a job takes {ours['calls']} status calls where three tell all"] if ours["calls"] != 3 else []
    if float(str(ours["ratio"])) > 1.5 * MOST:
        wrong.append(f"a job takes {ours['ratio']:.2f} times the CPU of a bare loop, where it has come to {MOST}")
    return wrong


def _compared(loop: str, calls: int, count: int, pairs: int) -> list[dict[str, object]]:
    taken: dict[str, list[dict[str, float]]] = {"ours": [], "bare": []}
    asked: dict[str, float] = {}
    with server_process(questions=calls) as url:
        # The first is a warm-up, of the server and of what is read from the disk.
        for turn in range(pairs + 1):
            for name, figures in taken.items():
                figure = in_process(name, url, count, 500, loop=loop)
                assert figure["done"] == count
                seen = take_figures(url)
                assert seen["creates"] == count
                asked[name] = seen["polls"] / count
                figures.extend([figure] if turn else [])
    cpu = {name: [each["cpu"] / count * 1e6 for each in figures] for name, figures in taken.items()}
    # Of each pair by itself: on a shared machine a whole pair is slow, not one of the two in it.
    ratio = statistics.median(ours / bare for ours, bare in zip(cpu["ours"], cpu["bare"], strict=True))
    return [
        {
            "loop": loop,
            "calls": asked[name],
            "client": name,
            "jobs per s": count / statistics.median(each["wall"] for each in figures),
            "µs CPU per job": statistics.median(cpu[name]),
            "ratio": ratio if name == "ours" else 1.0,
        }
        for name, figures in taken.items()
    ]
