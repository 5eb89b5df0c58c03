"""Runs worlds of seeds, and makes of one that breaks a truth a report: the fewest accidents that break it, and why."""

from __future__ import annotations

import gc
import random
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .accidents import Accident, Terms
from .truths import broken_by
from .universe import Stuck
from .world import World, looks_through_memory

LINES = 40
"""Of a trace that are shown."""


class Verdict(NamedTuple):
    """What came of a world."""

    seed: int
    broken: tuple[str, ...]
    accidents: tuple[Accident, ...]
    digest: str
    trace: list[str]
    terms: Terms
    runs: int
    creates: int


def check(seed: int, accidents: Sequence[Accident] | None = None) -> Verdict:
    """Run the world of a seed, with its own accidents or with others."""
    random.seed(seed)
    if looks_through_memory(seed):
        # What dead processes of earlier worlds have left is none of this one's.
        gc.collect()
        gc.freeze()
    folder = Path(tempfile.mkdtemp(prefix="world-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    world = World(seed, folder, accidents)
    try:
        try:
            world.live()
            broken = tuple(broken_by(world))
        except Stuck as stuck:
            broken = (str(stuck),)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    trace = world.universe.trace
    creates = len(world.sandbox.ledger.creates)
    return Verdict(seed, broken, world.accidents, trace.digest(), trace.lines, world.terms, world.runs, creates)


def shrunk(verdict: Verdict) -> Verdict:
    """The same world with as few accidents as still break a truth."""
    found, at = verdict, 0
    while at < len(found.accidents):
        fewer = found.accidents[:at] + found.accidents[at + 1 :]
        tried = check(found.seed, fewer)
        if tried.broken:
            found = tried
        else:
            at += 1
    return found


def report(verdict: Verdict) -> str:
    """What was broken, by what, and how it came to it."""
    lines = [f"seed {verdict.seed}: {'; '.join(verdict.broken)}"]
    lines += [f"  accident: {each}" for each in verdict.accidents]
    lines += [f"  {line[:200]}" for line in _telling(verdict)[-LINES:]]
    return "\n".join([*lines, f"  again: python -m tests.world --replay {verdict.seed}"])


def _telling(verdict: Verdict) -> list[str]:
    """The lines of a trace about what was broken, and about accidents; all, where none tells what it is about."""
    about = set(re.findall(r"'([^']+)'", verdict.broken[0]))
    for line in verdict.trace:
        if any(each in line for each in about):
            about.update(re.findall(r"[0-9a-f]{32}|\w*task\w*_\w+|n[0-9a-f]{12}_\w+", line))
    told = [
        line for line in verdict.trace if any(each in line for each in (*about, " · ", " leaves", " ended", " no more"))
    ]
    return told if about else verdict.trace
