"""One world: a provider, a computer with a disk, and a program that is run there until all is done."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from imagen_async import errors
from imagen_async._cli.loop import _run_until_signalled
from imagen_async._core.job import Job

from . import accidents as drawn
from .accidents import AGAIN, BETWEEN, HELD_UP, STILLS, Accident, Terms
from .disk import Disk
from .facts import is_lost, on_the_way
from .file_truths import STRANGER
from .gateway import Gateway
from .mishaps import TROUBLES, Mishaps
from .process import Computer, Process, WorldLoop
from .program import InputBroke, Program, prompts_of
from .provider import PORT, DrawnFaults, new_sandbox
from .stage import stage
from .universe import Killed, Stuck, Universe
from .witness import Witness, listened

LONGEST = 3 * 3600.0
"""Seconds of a run, in which every deadline has passed several times."""

HEARD_WITHIN = 0.005
"""Seconds from an answer's arrival until it is known, in which a process is busy with nothing else."""

MOST_TURNS = 300_000
CALM_RUNS = 3
"""Runs without accidents in which all is done."""


def looks_through_memory(seed: int) -> bool:
    """Say whether a world looks for what is left in memory: that takes a while, and so not each does."""
    return seed % 10 == 0


class World:
    """A world of a seed.

    Attributes:
        strangers: Files of somebody else, where pictures are to lie.
        lost_by_end: Prompts whose create was on the way when a process was killed.
        unwritten: Prompts of which the journal could not be told what became of their create.
        is_calm: True once there are no accidents any more.
        runs: How often the program was run.
    """

    def __init__(self, seed: int, folder: Path, accidents: Sequence[Accident] | None = None) -> None:
        self.terms: Terms = drawn.terms_of(random.Random(f"{seed}/terms"))
        chance = random.Random(f"{seed}/accidents")
        self.accidents = drawn.accidents_of(self.terms, chance) if accidents is None else tuple(accidents)
        self.universe, self.folder = Universe(seed), folder / "disk"
        self.universe.trace.home = str(folder)
        # Where it lies among the pictures, what killed processes have left there is swept up.
        self.journal = self.folder / ("pictures/run.db" if seed % 2 and self.terms.saves else "run.db")
        self.witness = Witness(self.universe)
        self.lost_by_end = Counter[str]()
        self.unwritten = Counter[str]()
        self.is_calm, self.runs = False, 0
        self.computer = Computer(Disk(self.folder, self.universe.chance("disk")))
        self._elsewhere = Computer(Disk(folder / "provider", self.universe.chance("provider's disk")))
        self.gateway = Gateway(self.universe, self.accidents, self.terms.trip)
        self.faults = DrawnFaults(self.accidents)
        self.sandbox = new_sandbox(self.terms, self.faults, seed)
        self.strangers = self._put_in_the_way() if self.terms.saves else []
        self._seconds: list[tuple[Process, asyncio.Task[None]]] = []

    @property
    def model(self) -> str:
        """Which one is asked."""
        if self.has_many:
            return "seedream-4" if set(self.terms.accounts) <= {"kie", "sandbox"} else "imagen4-fast"
        is_fast = self.terms.requests % 8 == 0 or "liangxin" in self.terms.accounts
        return "imagen4-fast" if is_fast else "imagen4"

    @property
    def has_many(self) -> bool:
        """Whether several pictures are asked for at once: of a model that all of the accounts have."""
        accounts = set(self.terms.accounts)
        return self.terms.images > 1 and (accounts <= {"kie", "sandbox"} or accounts <= {"apikley", "apiin"})

    def _put_in_the_way(self) -> list[Path]:
        numbers = {int(each.at) for each in self.accidents if each.what == "file is there"}
        paths = [self.folder / f"pictures/{number:06}-a-fox-number-{number}.png" for number in sorted(numbers)]
        for path in paths:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(STRANGER)
        return paths

    def url_of(self, account: str) -> str:
        """Where an account's API is."""
        return f"http://127.0.0.1:{PORT}/{account}"

    def prompts(self, run: int) -> list[str]:
        """The input of a run."""
        return prompts_of(self.terms, self.accidents, run, self.universe.chance("input"))

    def live(self) -> None:
        """Run the program until all is done, first with accidents, then without."""
        provider = self.universe.begin("provider", self._elsewhere)
        with stage.of(provider):
            self.universe.limit(10_000, 100.0)
            provider.loop.run_until_complete(self.sandbox.__aenter__())
            try:
                for number in range(self.terms.runs):
                    self._run(number)
                self.is_calm = self.faults.is_calm = self.gateway.is_calm = True
                for number in range(CALM_RUNS if self.terms.has_journal else 0):
                    self._run(self.terms.runs + number)
            finally:
                self.universe.limit(10_000, 100.0)
                provider.loop.run_until_complete(self.sandbox.__aexit__(None, None, None))
                _close(provider.loop)

    def _run(self, number: int) -> None:
        """Run the program once, until it ends by itself or by an accident."""
        self.runs += 1
        process = self.universe.begin(f"run {number}", self.computer)
        accidents = [] if self.is_calm else [each for each in self.accidents if each.run == number]
        program = Program(self, process, number, accidents)
        mishaps = Mishaps(self, process, program)
        mishaps.schedule(accidents)
        self.universe.limit(MOST_TURNS, LONGEST)
        with stage.of(process), listened(self.witness, process):
            self._main(process, program)
            gc.collect()  # what is left of it is to be heard of now, and of a dead one never
        mishaps.end()
        self._end_seconds()
        self._go_on_without(process, accidents)
        self.computer.wall += sum(each.amount for each in accidents if each.what == BETWEEN)

    def _main(self, process: Process, program: Program) -> None:
        how = "has ended"
        try:
            _run_until_signalled(self._watched(program, process), lambda: process.loop)
        except Killed:
            how = "is no more"
        except (KeyboardInterrupt, asyncio.CancelledError):
            how = "has left"
        except (errors.ImagenError, InputBroke) as error:
            how = f"has ended with {type(error).__name__}: {error}"
            self.witness.tell_error(process, "", error)
        except Stuck:
            raise
        except BaseException as error:
            if not process.is_dead:
                self.universe.broken.append(f"{process.name} has ended with what is none of ours: {error!r}")
        self.universe.trace.add(process.name, "is no more" if process.is_dead else how)

    async def _watched(self, program: Program, process: Process) -> None:
        """Run a program, and see that nothing is left of its client once that was left."""
        has_ended = False
        try:
            await program.main()
            has_ended = True
        finally:
            if not process.is_dead:
                # Not while an error is on its way, or what is left of a dead one: these have hold of jobs.
                looks = has_ended and not self.computer.disk.went_back
                self._check_left_over(process, looks=looks and looks_through_memory(self.universe.seed))

    def _check_left_over(self, process: Process, *, looks: bool) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        left = [*tasks, *(end for end in process.ends.values() if end.is_client and end.is_open)]
        if looks:
            gc.collect()
            left += [each for each in gc.get_objects() if isinstance(each, Job)]
        self.universe.broken += [f"{process.name} has left, and this is left over: {each!r:.100}" for each in left]

    def _go_on_without(self, process: Process, accidents: Sequence[Accident]) -> None:
        befell = {each.what for each in accidents}
        self.universe.end(process)
        self.computer.disk.go_back()
        # What became of these could be written down by nobody.
        if process.is_dead:
            self.lost_by_end.update(self._cut_off(process, befell))
        else:
            # Who is held up is left after that, too.
            if AGAIN in befell or sum(each.kind == "leave" or each.what == HELD_UP for each in accidents) > 1:
                self.lost_by_end.update(self._left_behind(process))
            if not befell.isdisjoint(TROUBLES):
                self.unwritten.update(on_the_way(self.journal))
        if process.is_dead and not befell.isdisjoint(("power", "torn", "power at a file")):
            self.computer.reboot(self.universe.now)

    def _left_behind(self, process: Process) -> Iterator[str]:
        """Prompts whose create was answered when its process had been told twice to leave: it waits no longer then."""
        for each in self.gateway.exchanges:
            left = self.witness.left.get((process.name, "" if self.terms.program == "batch" else each.prompt))
            is_create = each.process is process and each.asked.road == "create"
            if is_create and left is not None and each.is_answered and each.answered_at > left[0] - HEARD_WITHIN:
                yield each.prompt

    def _cut_off(self, process: Process, befell: set[str]) -> Iterator[str]:
        """Prompts whose create a dead process had on the way, or whose answer it had no time to write down."""
        last = {each.prompt: each for each in self.gateway.exchanges if each.process is process}
        has_time = befell.isdisjoint((*TROUBLES, *STILLS))
        for prompt in on_the_way(self.journal):
            create = last.get(prompt)
            is_known = create is not None and not is_lost(create) and create.answered_at < process.died_at - 1.0
            if not (has_time and is_known):
                yield prompt

    @property
    def has_second(self) -> bool:
        """Whether another process runs beside the first."""
        return bool(self._seconds)

    def begin_second(self, first: Process) -> None:
        """Run the program once more, beside the first."""
        process = self.universe.begin(f"{first.name} second", self.computer)
        program = Program(self, process, 0, ())

        async def main() -> None:
            try:
                await program.main()
            except errors.ImagenError as error:
                self.witness.tell_error(process, "", error)

        with stage.of(process):
            self._seconds.append((process, process.loop.create_task(main())))

    def _end_seconds(self) -> None:
        """Let what runs beside come to its end; where the computer ends, it ends, too."""
        for process, task in self._seconds:
            with stage.of(process), listened(self.witness, process):
                if process.is_dead:
                    task.cancel()
                with contextlib.suppress(Exception, Killed, asyncio.CancelledError):
                    process.loop.run_until_complete(task)
                if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                    self.universe.broken.append(f"{process.name} has ended with what is none of ours: {error!r}")
                _close(process.loop)
            self.universe.end(process)
        self._seconds.clear()


def _close(loop: WorldLoop) -> None:
    """Cancel what still runs there, as `asyncio.run` does, and close it; a dead process's does nothing any more."""
    # In the order in which they were made, which is in their names.
    tasks = sorted(asyncio.all_tasks(loop), key=lambda task: (len(task.get_name()), task.get_name()))
    for task in tasks:
        task.cancel()
    if tasks:
        with contextlib.suppress(Killed):
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.close()
