"""Simulated worlds, one a seed: the whole client against the whole sandbox, and what must be true of each.

One that breaks a truth is printed with the fewest accidents that still break it, and with what it came by.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import secrets
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from .check import Verdict, check, report, shrunk
from .faulty import FAULTS, seeds_until_found

FIRST_NEW = 1_000_000
"""New seeds lie above it, so that nobody has tried them."""

SHRUNK = 5
"""Broken worlds that are tried with fewer accidents."""


def main(arguments: Sequence[str]) -> int:
    """Run the worlds that are asked for; returns 1 where one broke a truth."""
    options = _parser().parse_args(arguments)
    if options.fault is not None:
        return _find(options.fault, options.seeds)
    if options.replay is not None:
        return _replay(options.replay)
    seeds: Iterable[int] = options.seeds
    if options.new:
        first = FIRST_NEW + secrets.randbelow(10**9)
        print(f"New seeds: {first}..{first + options.new - 1}")
        seeds = itertools.chain(seeds, range(first, first + options.new))
    if options.minutes:
        seeds = _for_minutes(options.minutes, FIRST_NEW + secrets.randbelow(10**9))
    return _run(seeds, options.jobs, options.first_broken)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.world", description=__doc__)
    parser.add_argument("--seeds", type=_seeds, default=range(1, 301), metavar="A..B", help="which worlds (1..300)")
    parser.add_argument("--new", type=int, default=0, metavar="N", help="and as many that nobody has tried yet")
    parser.add_argument("--minutes", type=float, default=0, metavar="N", help="new worlds in their place, for as long")
    parser.add_argument("--replay", type=int, metavar="SEED", help="one world, with all that happened in it")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="worlds at once")
    parser.add_argument("--first-broken", action="store_true", help="end with the first world that breaks a truth")
    parser.add_argument("--fault", choices=FAULTS, help="put a fault back into the package, and look for it")
    return parser


def _seeds(text: str) -> range:
    first, _, last = text.partition("..")
    try:
        seeds = range(int(first), int(last or first) + 1)
    except ValueError:
        seeds = range(0)
    if not seeds:
        raise argparse.ArgumentTypeError(f"{text!r}: allowed is one seed, or several, such as 1..300")
    return seeds


def _for_minutes(minutes: float, first: int) -> Iterator[int]:
    print(f"New seeds, from {first}")
    ends_at = time.monotonic() + 60 * minutes
    return itertools.takewhile(lambda _: time.monotonic() < ends_at, itertools.count(first))


def _run(seeds: Iterable[int], jobs: int, only_first: bool) -> int:
    began, totals, is_interrupted = time.monotonic(), Counter[str](), False
    try:
        for verdict in _verdicts(seeds, jobs):
            totals.update(worlds=1, runs=verdict.runs, creates=verdict.creates, broken=bool(verdict.broken))
            if verdict.broken:
                # To find the fewest accidents takes many worlds.
                print(report(shrunk(verdict) if totals["broken"] <= SHRUNK else verdict), flush=True)
                if only_first:
                    break
    except KeyboardInterrupt:
        is_interrupted = True
    seconds = time.monotonic() - began
    told = ", ".join(f"{totals[each]:,} {each}" for each in ("worlds", "runs", "creates", "broken"))
    pace = 60 * totals["runs"] / seconds / jobs
    print(f"{told} in {seconds:.0f} s, {jobs} at once: {pace:,.0f} runs a minute each")
    return 130 if is_interrupted else 1 if totals["broken"] else 0


def _verdicts(seeds: Iterable[int], jobs: int) -> Iterator[Verdict]:
    if jobs == 1:
        yield from map(check, seeds)
        return
    # In sessions of their own: Ctrl-C is this process's to hear.
    with multiprocessing.get_context("fork").Pool(jobs, os.setsid, maxtasksperchild=100) as pool:
        yield from pool.imap_unordered(check, seeds, chunksize=4)


def _replay(seed: int) -> int:
    verdict = check(seed)
    print(verdict.terms)
    for each in verdict.accidents:
        print(f"accident: {each}")
    print("\n".join(verdict.trace))
    print(f"digest {verdict.digest}: {'; '.join(verdict.broken) or 'all is true'}")
    if verdict.broken:
        print(report(shrunk(verdict)))
    return 1 if verdict.broken else 0


def _find(fault: str, seeds: range) -> int:
    began = time.monotonic()
    count, shown = seeds_until_found(fault, seeds)
    how = f"found in {count:,}" if count else f"not found in {len(seeds):,}"
    print(f"{shown}{fault}: {how} worlds, {time.monotonic() - began:.0f} s")
    return 0 if count else 1
