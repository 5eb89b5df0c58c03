"""The world's time: what happens next, to whom, and who may turn meanwhile."""

from __future__ import annotations

import heapq
import itertools
import random

from .network import Network
from .process import Act, Computer, Process
from .trace import Trace

TURN = 2e-5
"""Seconds that a turn of a loop takes."""


class Killed(BaseException):
    """The process whose code this reaches is no more."""


class Stuck(AssertionError):
    """The world does not come to an end: nothing happens any more, or always the same."""


class Universe:
    """Time, processes and the network between them; all of it the same for a seed.

    Attributes:
        now: Seconds since it began.
        trace: What happened.
        broken: What must not be and was found while it went on.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.now = 0.0
        self.trace = Trace(lambda: self.now)
        self.processes: list[Process] = []
        self.network = Network(self)
        self.broken: list[str] = []
        self.turns_left, self.ends_at = 0, 0.0
        self._events: list[tuple[float, int, Process | None, Act, bool]] = []
        self._numbers = itertools.count()
        self._last = -1

    def chance(self, purpose: str) -> random.Random:
        """Chance for one purpose, which no other one's draws change."""
        return random.Random(f"{self.seed}/{purpose}")

    def tick(self) -> int:
        """A number that is higher than all before it: what was first, also within one turn."""
        return next(self._numbers)

    def begin(self, name: str, computer: Computer) -> Process:
        """Begin a process."""
        process = Process(self, name, computer, self.chance(f"{name}/{len(self.processes)}"))
        self.processes.append(process)
        return process

    def end(self, process: Process) -> None:
        """Forget a process, whose loop was closed; its threads come to the end of what they were given."""
        while works := [each for each in self._events if each[2] is process and each[4] and not process.is_dead]:
            self._events = [each for each in self._events if each[2] is not process]
            heapq.heapify(self._events)
            for _, _, _, act, _ in sorted(works, key=lambda each: each[:2]):
                process.happen(act, off_loop=True)
        self.processes.remove(process)
        for end in list(process.ends.values()):
            end.vanish()
        process.forget()

    def end_by_force(self, computer: Computer) -> None:
        """Kill whatever runs on a computer, whose disk was kept as it was."""
        for process in self.processes:
            if process.computer is computer and not process.is_dead:
                process.die()

    def limit(self, turns: int, seconds: float) -> None:
        """Let what follows take no longer."""
        self.turns_left, self.ends_at = turns, self.now + seconds

    def after(self, seconds: float, process: Process | None, act: Act, *, off_loop: bool = False) -> None:
        """Have something happen to a process, or to none, in a while."""
        heapq.heappush(self._events, (self.now + seconds, next(self._numbers), process, act, off_loop))

    def drive(self, mine: Process) -> None:
        """Let all turn until the loop of one is stopped; raises Killed where that dies meanwhile."""
        while not mine.loop.is_asked_to_stop:
            if mine.is_dead:
                if not mine.ghost_turn():
                    return
                continue
            self._fire()
            if mine.is_dead:
                raise Killed
            process = self._next()
            if process is None:
                self._move_on()
            else:
                self._turn(process)
            if mine.is_dead:
                raise Killed

    def _turn(self, process: Process) -> None:
        self.turns_left -= 1
        if self.turns_left < 0:
            raise Stuck(f"it goes on and on: {process.name} turned {process.turns:,} times")
        process.turn()
        self.now += TURN

    def _next(self) -> Process | None:
        """Whose turn it is: each in its order, of those that have anything to do."""
        count = len(self.processes)
        for step in range(1, count + 1):
            number = (self._last + step) % count
            process = self.processes[number]
            if not process.is_dead and process.is_ready():
                self._last = number
                return process
        return None

    def _move_on(self) -> None:
        """Go to the time of what happens next."""
        times = [process.wakes_at() for process in self.processes if not process.is_dead]
        at = min([self._events[0][0] if self._events else float("inf"), *times])
        if at > self.ends_at:
            raise Stuck(f"it does not end by {self.ends_at:.0f} s: what comes next is at {at:.0f} s")
        self.now = max(self.now, at)

    def _fire(self) -> None:
        while self._events and self._events[0][0] <= self.now:
            _, _, process, act, off_loop = heapq.heappop(self._events)
            if process is None:
                act()
            else:
                process.happen(act, off_loop=off_loop)
