"""A service that kills itself, as by `kill -9`, at one of the steps of its book or its journal. Run as a program.

It serves over a sandbox at an address, with a folder, at a port, and dies at the step of that number; -1: never.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web
from inner import SANDBOX_KEY, Book, ServiceDesk, SharedJournal, Wait, bookkeeper_module, singles_module

from imagen_async import Account, Client
from imagen_async.ports import Claim, JournalEntry
from imagen_async.service import application

T = TypeVar("T")

_steps = 0
_ends_at = -1


def step() -> None:
    """Take a step, or die at it."""
    global _steps
    if _steps == _ends_at:
        os.kill(os.getpid(), signal.SIGKILL)
    _steps += 1


class MortalBook(Book):
    """A real book whose transactions are steps."""

    def do(self, work: Sequence[Callable[[Book], T]]) -> list[T]:
        """Do it, if that is not the end."""
        step()
        done = super().do(work)
        step()
        return done


class MortalJournal(SharedJournal):
    """A real journal whose writes are steps."""

    def write(self, entries: Iterable[JournalEntry]) -> None:
        """Write, if that is not the end."""
        step()
        super().write(entries)
        step()

    def note(self, notes: Mapping[str, str]) -> None:
        """Note, if that is not the end."""
        step()
        super().note(notes)

    def claim(self, entry: JournalEntry, again: Collection[str] = (), *, held: bool = False) -> Claim:
        """Claim, if that is not the end."""
        step()
        claim = super().claim(entry, again, held=held)
        step()
        return claim


_given = ServiceDesk.given


class MortalDesk(ServiceDesk):
    """A real desk; once an answer is written, and before that is noted, is a step."""

    async def given(self, wait: Wait) -> None:
        """Note it, if that is not the end."""
        step()
        await _given(self, wait)


async def serve(url: str, folder: Path, port: int) -> None:
    """Serve until it is killed; its port is told on stdout."""
    account = Account("sandbox", base_url=url, api_key=SANDBOX_KEY)
    async with Client(account, journal=folder / "run.db", save_to=folder, shared=False) as client:
        runner = web.AppRunner(application(client), access_log=None, handle_signals=False, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        sys.stdout.write(f"{runner.addresses[0][1]}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    places: Any = (bookkeeper_module, "Book", MortalBook), (singles_module, "SharedJournal", MortalJournal)
    for module, name, mortal in places:
        setattr(module, name, mortal)
    ServiceDesk.given = MortalDesk.given
    _ends_at = int(sys.argv[4])
    asyncio.run(serve(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
