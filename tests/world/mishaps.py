"""What befalls a process and its computer: standing still, clocks, ends by force, signals, a second one, the disk."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from .accidents import (
    AGAIN,
    ASLEEP,
    AT_A_FILE,
    BETWEEN,
    HELD_UP,
    IN_A_BURST,
    OF_A_COMMIT,
    WHILE_ENDS,
    WHILE_SPEAKS,
    Accident,
)

if TYPE_CHECKING:
    from .process import Process
    from .program import Program
    from .world import World

TROUBLES = ("full", "read-only", "locked", "slow")
"""Of a disk."""


class Mishaps:
    """Lets the accidents of a run befall its process.

    Args:
        world: Whose.
        process: Whom they befall.
        program: What runs there.
    """

    def __init__(self, world: World, process: Process, program: Program) -> None:
        self._world, self._process, self._program = world, process, program
        self._universe, self._storage = world.universe, world.computer.disk
        self._locks: list[sqlite3.Connection] = []
        self._creates = 0

    def schedule(self, accidents: Iterable[Accident]) -> None:
        """Let each of them happen at its time."""
        acts: dict[str, Callable[[Accident], object]] = {
            "still": self._stand_still,
            "clock": self._set_clock,
            "end": self._end_by_force,
            "leave": self._leave,
            "second": lambda _: self._world.begin_second(self._process),
            "disk": self._trouble,
        }
        at_commits, at_steps, at_creates = dict[int, Accident](), dict[int, str](), dict[int, Accident]()
        for each in accidents:
            if each.what in (*OF_A_COMMIT, HELD_UP):
                at_commits[int(each.at)] = each
            elif each.what == IN_A_BURST:
                at_creates[int(each.at)] = each
            elif each.what in AT_A_FILE:
                at_steps[int(each.at)] = each.what
            elif each.kind in acts and each.what not in ("break", BETWEEN):
                self._at(each, acts[each.kind])
        self._storage.commits = self._storage.steps = 0
        self._storage.on_commit = lambda number: self._at_commit(at_commits.get(number))
        self._storage.on_step = lambda number: at_steps.get(number, "")
        self._world.gateway.on_create = lambda process: self._at_create(process, at_creates)

    def _at_create(self, process: Process, accidents: Mapping[int, Accident]) -> None:
        """Let what befalls the run at a create of its do so once its loop has turned."""
        if process is self._process:
            accident, self._creates = accidents.get(self._creates), self._creates + 1
            if accident is not None:
                self._at_turn(process.turns, accident, self._stand_still)

    def _at_commit(self, accident: Accident | None) -> str:
        """What befalls the disk there; a process that is held up there is left a second after it goes on."""
        if accident is None or accident.what != HELD_UP:
            return "" if accident is None else accident.what
        self._stand_still(accident)
        self._universe.after(accident.amount + 1.0, None, lambda: self._leave(Accident("leave", "SIGTERM")))
        return ""

    def end(self) -> None:
        """Let none of them go on."""
        self._storage.on_commit = self._storage.on_step = lambda number: ""
        self._world.gateway.on_create = lambda process: None
        self._storage.trouble, self._storage.slow = "", 0.0
        self._unlock()

    def _at(self, accident: Accident, act: Callable[[Accident], object]) -> None:
        if accident.in_turns:
            self._at_turn(int(accident.at), accident, act)
        else:
            self._universe.after(accident.at, None, lambda: self._befall(accident, act))

    def _at_turn(self, turn: int, accident: Accident, act: Callable[[Accident], object]) -> None:
        self._process.at_turns.setdefault(turn, []).append(lambda: self._befall(accident, act))

    def _befall(self, accident: Accident, act: Callable[[Accident], object]) -> None:
        if self._process in self._universe.processes and not self._process.is_dead:
            self._universe.trace.add(self._process.name, f"· {accident}")
            act(accident)

    def _stand_still(self, accident: Accident) -> None:
        if self._process.is_dead or self._process.is_still:
            return
        self._process.stand_still()
        if accident.what in (WHILE_ENDS, WHILE_SPEAKS, IN_A_BURST):
            self._world.gateway.end_idle(self._process, speaks=accident.what == WHILE_SPEAKS)
        is_asleep = accident.what == ASLEEP and not self._world.has_second
        self._universe.after(accident.amount, None, lambda: self._go_on(accident.amount if is_asleep else 0.0))

    def _go_on(self, slept: float) -> None:
        if not self._process.is_dead and self._process in self._universe.processes:
            self._world.computer.slept += slept
            self._process.go_on()

    def _set_clock(self, accident: Accident) -> None:
        self._world.computer.wall += accident.amount

    def _end_by_force(self, accident: Accident) -> None:
        if accident.what == "power":
            self._storage.lose_power()
        else:
            self._storage.keep()
        self._universe.end_by_force(self._world.computer)

    def _leave(self, accident: Accident) -> None:
        if accident.what in ("cancel", AGAIN):
            self._cancel()
            if accident.what == AGAIN:
                self._process.at_turns.setdefault(self._process.turns + int(accident.amount), []).append(self._cancel)
        elif (heard := self._process.signals.get(getattr(signal, accident.what))) is not None:
            callback, arguments = heard
            self._process.happen(lambda: callback(*arguments), off_loop=False)

    def _cancel(self) -> None:
        if self._program.task is not None:
            self._process.happen(self._program.task.cancel, off_loop=False)

    def _trouble(self, accident: Accident) -> None:
        if accident.what == "locked":
            self._lock()
        elif accident.what == "slow":
            self._storage.slow = min(accident.amount, 5.0)
        else:
            self._storage.trouble = accident.what
        self._universe.after(accident.amount, None, lambda: self._untrouble(accident.what))

    def _untrouble(self, what: str) -> None:
        if what == "locked":
            self._unlock()
        elif what == "slow":
            self._storage.slow = 0.0
        elif self._storage.trouble == what:
            self._storage.trouble = ""

    def _lock(self) -> None:
        """Another program writes to the journal."""
        path = self._world.journal
        if path.exists():
            connection = sqlite3.connect(path, isolation_level=None)
            self._locks.append(connection)
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:  # a commit is under way just now
                self._unlock()

    def _unlock(self) -> None:
        for connection in self._locks:
            connection.close()
        self._locks.clear()
