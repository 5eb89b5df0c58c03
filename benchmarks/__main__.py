"""Run one benchmark or all, and print a table each, or a JSON object each, with versions and machine."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Iterable

from benchmarks import (
    burst,
    callbacks,
    coordinator,
    imports,
    journal,
    limit,
    machines,
    memory,
    peers,
    ray,
    resume,
    scale,
    schedule,
    service,
    shared,
    tail,
    throughput,
    watching,
)

BENCHMARKS = {
    "schedule": schedule,
    "burst": burst,
    "tail": tail,
    "throughput": throughput,
    "journal": journal,
    "resume": resume,
    "memory": memory,
    "limit": limit,
    "shared": shared,
    "service": service,
    "machines": machines,
    "callbacks": callbacks,
    "watching": watching,
    "scale": scale,
    "peers": peers,
    "ray": ray,
    "coordinator": coordinator,
    "import": imports,
}

TRIES = 3
"""Times that what a check finds wrong is measured, before it counts."""


def environment() -> dict[str, object]:
    """What the figures were taken on."""
    packages = ("imagen-async", "aiohttp", "msgspec", "anyio")
    versions = {name: importlib.metadata.version(name) for name in packages}
    for name in ("fal-client", "replicate"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {"python": platform.python_version(), "machine": f"{platform.machine()}, {os.cpu_count()} CPUs", **versions}


def show(name: str, title: str, rows: list[dict[str, object]], *, as_json: bool) -> None:
    """Print one benchmark's rows."""
    if as_json:
        print(json.dumps({"benchmark": name, "environment": environment(), "rows": rows}))
        return
    columns = list(rows[0])
    cells = [columns, *([_text(row[column]) for column in columns] for row in rows)]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    print(f"\n{name}: {title}")
    for line in cells:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _text(value: object) -> str:
    return f"{value:,.3f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def check(names: Iterable[str]) -> int:
    """Run the short form of those that have one; 1 where a figure is not as it should be, `TRIES` times running."""
    misses: list[str] = []
    for name in names:
        if (found := getattr(BENCHMARKS[name], "check", None)) is not None:
            began, tries = time.monotonic(), 1
            # A neighbour on the same machine spoils a figure; a fault is there each time.
            while (wrong := found()) and tries < TRIES:
                print(f"{name}: once more, since: {' '.join(wrong)}", flush=True)
                tries += 1
            misses += wrong
            print(f"{name}: checked in {time.monotonic() - began:.0f} s", flush=True)
    for miss in misses:
        print(miss, file=sys.stderr)
    return min(len(misses), 1)


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", nargs="?", choices=BENCHMARKS, help="one of them; all when left out")
    parser.add_argument("--json", action="store_true", help="a JSON object a benchmark")
    parser.add_argument("--quick", action="store_true", help="a tenth of the size: for trying out, not for figures")
    parser.add_argument(
        "--check", action="store_true", help="short forms of what is counted or a ratio, against limits"
    )
    options = parser.parse_args()
    names = [options.name] if options.name else list(BENCHMARKS)
    if options.check:
        return check(names)
    if not options.json:
        print(", ".join(f"{name} {value}" for name, value in environment().items()))
    for name in names:
        module = BENCHMARKS[name]
        show(name, module.TITLE, module.run(quick=options.quick), as_json=options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
