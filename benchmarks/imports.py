"""What the package's first use, and the command's `--help` and `--version`, cost beside importing aiohttp alone."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys

TITLE = "CPU of a new interpreter less an empty one's, medians of pairs taken in turn"

MOST = 1.2
"""Times the CPU of `import aiohttp` that the import of a client may take."""

_BESIDE = "import aiohttp"
_TRIED = {
    "nothing": ["-c", ""],
    _BESIDE: ["-c", "import aiohttp"],
    "import imagen_async": ["-c", "import imagen_async"],
    "from imagen_async import Client": ["-c", "from imagen_async import Client"],
    "imagen-async --help": ["-m", "imagen_async", "--help"],
    "imagen-async --version": ["-m", "imagen_async", "--version"],
}


def run(*, quick: bool) -> list[dict[str, object]]:
    """Rows for aiohttp and for us, taken in turn."""
    return _compared(3 if quick else 25)


def check() -> list[str]:
    """What is wrong with the figures of a few pairs."""
    ratios = {str(row["what"]): float(str(row["ratio"])) for row in _compared(5)}
    ratio, of_version = ratios["from imagen_async import Client"], ratios["imagen-async --version"]
    wrong = []
    if ratio > 1.5 * MOST:
        wrong.append(f"a client's import takes {ratio:.2f} times aiohttp's, where {MOST} is wanted")
    if of_version > 1:
        wrong.append(f"`--version` takes {of_version:.2f} times aiohttp's import, of which it needs nothing")
    return wrong


def _compared(pairs: int) -> list[dict[str, object]]:
    taken: dict[str, list[float]] = {name: [] for name in _TRIED}
    # The first is a warm-up, which writes what is compiled.
    for turn in range(pairs + 1):
        for name, times in taken.items():
            cpu = _cpu(_TRIED[name])
            times.extend([cpu] if turn else [])
    empty = statistics.median(taken.pop("nothing"))
    cost = {name: [each - empty for each in times] for name, times in taken.items()}
    return [
        {
            "what": name,
            "ms": statistics.median(each) * 1000,
            "ratio": statistics.median(ours / beside for ours, beside in zip(each, cost[_BESIDE], strict=True)),
        }
        for name, each in cost.items()
    ]


def _cpu(words: list[str]) -> float:
    # With what is compiled kept, as an installed package has it.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
