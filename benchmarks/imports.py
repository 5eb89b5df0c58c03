"""What the package's first use, and the command's `--help` and `--version`, cost beside importing aiohttp alone."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys

TITLE = "CPU of a new interpreter, median of the rounds, less an empty one's"

_TRIED = {
    "nothing": ["-c", ""],
    "import aiohttp": ["-c", "import aiohttp"],
    "import imagen_async": ["-c", "import imagen_async"],
    "from imagen_async import Client": ["-c", "from imagen_async import Client"],
    "imagen-async --help": ["-m", "imagen_async", "--help"],
    "imagen-async --version": ["-m", "imagen_async", "--version"],
}


def run(*, quick: bool) -> list[dict[str, object]]:
    """Rows for aiohttp and for us, taken in turn."""
    taken: dict[str, list[float]] = {name: [] for name in _TRIED}
    for _ in range(3 if quick else 25):
        for name, times in taken.items():
            times.append(_cpu(_TRIED[name]))
    empty = statistics.median(taken.pop("nothing"))
    cost = {name: statistics.median(times) - empty for name, times in taken.items()}
    return [{"what": name, "ms": each * 1000, "ratio": each / cost["import aiohttp"]} for name, each in cost.items()]


def _cpu(words: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
