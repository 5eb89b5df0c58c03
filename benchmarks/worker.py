"""What every measured process shares; imports next to nothing, so that a client's memory is the client's own."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any

Work = Mapping[str, Callable[..., Coroutine[Any, Any, Mapping[str, object]]]]
"""What a process can be told to do, by name."""


def peak_memory(process: int | str = "self") -> int:
    """The most memory that a process has had, in bytes; of this one, if none is named."""
    return _status(process, "VmHWM")


def current_memory() -> int:
    """The memory that this process has now, in bytes."""
    return _status("self", "VmRSS")


def cpu_of(process: int) -> float:
    """Seconds of CPU that a process has taken."""
    with open(f"/proc/{process}/stat") as stat:
        times = stat.read().rpartition(")")[2].split()
    return (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")


def _status(process: int | str, name: str) -> int:
    with open(f"/proc/{process}/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(name))


def prompts(count: int) -> Iterator[str]:
    """As many different prompts, made one at a time."""
    return (f"a red fox in the snow, number {index}, side light, photograph" for index in range(count))


def main(known: Work) -> None:
    """Do what the command line says, and print the figures."""
    new_event_loop = importlib.import_module(sys.argv[3]).new_event_loop
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        print(json.dumps(runner.run(known[sys.argv[1]](*json.loads(sys.argv[2])))))
