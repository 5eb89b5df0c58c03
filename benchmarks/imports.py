"""What importing the package costs beside importing aiohttp alone."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys

TITLE = "CPU of `python -c 'import …'`, median of the rounds, less an empty interpreter's"


def run(*, quick: bool) -> list[dict[str, object]]:
    """Rows for aiohttp and for us, taken in turn."""
    taken: dict[str, list[float]] = {"sys": [], "aiohttp": [], "imagen_async": []}
    for _ in range(3 if quick else 25):
        for name, times in taken.items():
            times.append(_cpu(name))
    empty = statistics.median(taken["sys"])
    cost = {name: statistics.median(times) - empty for name, times in taken.items() if name != "sys"}
    return [{"import": name, "ms": each * 1000, "ratio": each / cost["aiohttp"]} for name, each in cost.items()]


def _cpu(name: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", f"import {name}"], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
