"""A process of a world, on a computer with clocks and a disk that outlive it; and the event loop that it has."""

from __future__ import annotations

import asyncio
import random
import selectors
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from .disk import Disk
from .stage import EPOCH, stage

if TYPE_CHECKING:
    from .universe import Universe

_THREAD = threading.get_ident()

GHOST_TURNS = 4000
"""Turns that a dead process may take to come down, with no effect on anybody."""

Act = Callable[[], object]


class Computer:
    """Clocks and a disk.

    Attributes:
        wall: Seconds by which its calendar is ahead of the world's.
        booted_at: When it was switched on, in world time.
        boots: How often that was.
        slept: Seconds for which it was asleep since then: a clock of its own leaves them out.
    """

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.wall = 0.0
        self.booted_at = -5000.0
        self.boots = 0
        self.slept = 0.0

    def reboot(self, now: float) -> None:
        """Begin its own clock anew."""
        self.booted_at, self.boots, self.slept = now - 7.0, self.boots + 1, 0.0


class Process:
    """A process: a loop, the events that wait for it, and whether it runs, stands still or is dead.

    Attributes:
        chance: Its own, so that an accident less elsewhere leaves it as it is.
        inbox: What has arrived and was not read by its loop yet.
        is_dead: True from a kill on: whatever it still does has no effect.
        is_still: True while it is stopped.
        ends: Its ends of connections.
        turns: How often its loop has turned; `at_turns`: what happens after which.
    """

    def __init__(self, universe: Universe, name: str, computer: Computer, chance: random.Random) -> None:
        self.universe, self.name, self.computer, self.chance = universe, name, computer, chance
        self.inbox = deque[Act]()
        self.number = 5000 + universe.tick()
        self.postponed = list[tuple[Act, bool]]()
        self.is_dead, self.is_still = False, False
        self.ends = dict[int, Any]()
        self.turns = 0
        self.at_turns: dict[int, list[Act]] = {}
        self.loop = WorldLoop(self)
        self.signals: dict[int, tuple[Callable[..., object], tuple[Any, ...]]] = {}
        self._ghost_time = 0.0
        self._ghost_turns = 0

    def time(self) -> float:
        """Seconds of its computer's own clock; a dead one has one of its own."""
        return (self._ghost_time if self.is_dead else self.universe.now) - self._since

    @property
    def _since(self) -> float:
        return self.computer.booted_at + self.computer.slept

    def wall(self) -> float:
        """Unix time, as its computer believes it."""
        return EPOCH + self.computer.wall + self.time() + self._since

    def die(self) -> None:
        """Be killed: the world goes on without it."""
        self._ghost_time = self.died_at = self.universe.now
        self.is_dead, self.is_still = True, False
        for end in list(self.ends.values()):
            end.vanish()

    def forget(self) -> None:
        """Let go of what it had in hand: its threads are known to Python for as long as that runs."""
        self.inbox.clear()
        self.postponed.clear()
        self.at_turns.clear()
        self.signals.clear()
        del self.loop

    def is_readable(self, descriptor: int) -> bool:
        """Say whether something lies at a connection that was not read yet."""
        end = self.ends.get(descriptor)
        return end is not None and end.unread > 0

    def work(self, act: Act) -> None:
        """Do something off the loop, after as long as the disk takes."""
        if self.is_dead:
            self.inbox.append(act)
        else:
            self.universe.after(self.computer.disk.seconds(), self, act, off_loop=True)

    def happen(self, act: Act, *, off_loop: bool) -> None:
        """Let an event of it happen, or wait while it stands still; to a dead one nothing happens any more."""
        if self.is_dead:
            return
        if self.is_still:
            self.postponed.append((act, off_loop))
        elif off_loop:
            with stage.of(self):
                act()
        else:
            self.inbox.append(act)

    def stand_still(self) -> None:
        """Stop."""
        self.is_still = True

    def go_on(self) -> None:
        """Go on; what came meanwhile is there."""
        self.is_still = False
        postponed, self.postponed = self.postponed, []
        for act, off_loop in postponed:
            self.happen(act, off_loop=off_loop)

    def is_ready(self) -> bool:
        """Say whether its loop has anything to do now."""
        # With the tolerance that asyncio has itself: two clocks of the same time differ by their rounding.
        return not self.is_still and (
            (bool(self.inbox) and not self.loop.is_closed()) or self.loop.next_at() <= self.time() + 1e-9
        )

    def wakes_at(self) -> float:
        """World time of its next timer."""
        return float("inf") if self.is_still else self.loop.next_at() + self._since

    def turn(self) -> None:
        """Let its loop turn once."""
        self.turns += 1
        with stage.of(self):
            self.loop.turn()
        for act in self.at_turns.pop(self.turns, ()):
            act()

    def ghost_turn(self) -> bool:
        """Let what is left of a dead one turn once, in a time of its own; False when that comes to nothing."""
        self._ghost_turns += 1
        if not self.is_ready():
            self._ghost_time = max(self._ghost_time, self.loop.next_at() + self._since)
        if self._ghost_turns > GHOST_TURNS or self._ghost_time == float("inf"):
            return False
        self.turn()
        return True


class WorldLoop(asyncio.SelectorEventLoop):
    """An event loop that turns when the world lets it, and whose connections are in memory."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.is_asked_to_stop = False
        super().__init__(_Inbox(process))

    def time(self) -> float:
        """Seconds of the computer's clock."""
        return self.process.time()

    def next_at(self) -> float:
        """When it has something to do: by its own clock, at once where something is ready."""
        if self.is_closed():
            return float("inf")
        if self._ready:
            return self.time()
        # The head may be cancelled: one turn for nothing, at the same time on every run.
        return self._scheduled[0].when() if self._scheduled else float("inf")

    def turn(self) -> None:
        """Turn once: what `run_forever` does time and again, which takes twice as long for a single turn."""
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=self._asyncgen_firstiter_hook, finalizer=self._asyncgen_finalizer_hook)
        asyncio._set_running_loop(self)
        self._thread_id = _THREAD
        try:
            self._run_once()
        finally:
            self._thread_id = None
            asyncio._set_running_loop(None)
            sys.set_asyncgen_hooks(*hooks)

    def run_forever(self) -> None:
        """Have the whole world turn until this loop is stopped."""
        self.is_asked_to_stop = False
        self.process.universe.drive(self.process)

    def stop(self) -> None:
        """Have `run_forever` return after this turn."""
        self.is_asked_to_stop = True

    async def sock_connect(self, sock: Any, address: Any) -> None:
        """Connect in memory."""
        sock.end = await self.process.universe.network.connect(self.process, address[0], address[1])

    async def create_connection(self, factory: Any, *_: Any, sock: Any = None, **__: Any) -> Any:
        """Give a connection its protocol."""
        protocol = factory()
        end, sock.end = sock.end, None
        end.begin(protocol)
        return end, protocol

    async def create_server(self, factory: Any, host: str = "", port: int = 0, **_: Any) -> Any:
        """Listen in memory."""
        return self.process.universe.network.listen(self.process, factory, host, port)

    def add_signal_handler(self, sig: int, callback: Any, *args: Any) -> None:
        """Hear of a signal that the world sends."""
        self.process.signals[sig] = (callback, args)

    def remove_signal_handler(self, sig: int) -> bool:
        """Hear of it no more."""
        return self.process.signals.pop(sig, None) is not None

    def _process_events(self, event_list: Any) -> None:
        for act in event_list:
            self.call_soon(act)

    def _make_self_pipe(self) -> None:
        """Nobody but the world wakes it."""

    def _close_self_pipe(self) -> None:
        """There is none."""

    def _write_to_self(self) -> None:
        """It looks for what is ready by itself."""


class _Inbox(selectors.BaseSelector):
    """What has arrived for a process, in the place of the system's selector: bytes come before timers."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def select(self, timeout: float | None = None) -> list[Any]:
        """Take what has arrived."""
        found = list(self._process.inbox)
        self._process.inbox.clear()
        return found

    def register(self, fileobj: Any, events: int, data: Any = None) -> Any:
        """There are no descriptors to look at."""
        raise NotImplementedError

    def unregister(self, fileobj: Any) -> Any:
        """See above."""
        raise NotImplementedError

    def get_map(self) -> Mapping[Any, Any]:
        """See above."""
        return {}
