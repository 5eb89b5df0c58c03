"""Writes a journal from a thread, off the event loop: what gathers while one group is committed is the next."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor, ThreadPoolExecutor

import anyio

from ._core.journal_entry import JournalEntry
from ._journal import Journal
from .errors import JournalError

GATHER = 0.02
"""Seconds that a group gathers: a commit costs as much as fifty changes, and a create's round trip is far longer."""


ENOUGH = 40
"""Changes with which a group does not wait for more."""


class _Group:
    """The changes of one transaction, the last of each job, and the event of their being durable, or of its failure."""

    def __init__(self) -> None:
        self.entries: dict[str, JournalEntry] = {}
        self.ended = asyncio.Event()
        self.error: JournalError | None = None


class GroupCommit:
    """The writer of one journal.

    Args:
        journal: Open for writing; closed by whoever opened it.
        executor: Where it is written; None: a thread of its own.

    Attributes:
        error: Why the last group could not be written, or None. Its changes are tried again with every later one.
    """

    def __init__(self, journal: Journal, executor: Executor | None = None) -> None:
        self.error: JournalError | None = None
        self._journal = journal
        self._executor = executor or ThreadPoolExecutor(1, "imagen-journal")
        self._gathering = _Group()
        self._writing: _Group | None = None
        self._timer: asyncio.TimerHandle | None = None

    def note(self, entry: JournalEntry) -> None:
        """Have a change written soon, in order; one of the same job that still waits is superseded."""
        self._gathering.entries[entry.key] = entry
        self._call(at_once=len(self._gathering.entries) == ENOUGH)

    def has(self, key: str) -> bool:
        """True while something that was noted of a job is not on disk yet."""
        return key in self._gathering.entries or (self._writing is not None and key in self._writing.entries)

    async def durable(self, key: str) -> None:
        """Wait until what was noted of a job is on disk; raises JournalError when it cannot be written."""
        group = self._gathering if key in self._gathering.entries else self._writing
        if group is None or key not in group.entries:
            return
        if group is self._gathering:
            self._call()
        await group.ended.wait()
        if group.error is not None:
            raise group.error

    async def close(self) -> None:
        """Write what is left; raises JournalError when that is not possible."""
        try:
            with anyio.CancelScope(shield=True):
                await self._write_all()
        except asyncio.CancelledError:
            # Cancelled once more while leaving: what is known by now is written here and at once, after the group that
            # is under way, which knows less.
            entries = self._unwritten()
            self._executor.shutdown(wait=True)
            self._journal.write(entries)
            raise
        finally:
            self._executor.shutdown(wait=False)
        if self._gathering.entries and self.error is not None:
            raise self.error

    async def _write_all(self) -> None:
        while self._writing is not None:
            await self._writing.ended.wait()
        if self._gathering.entries:
            group = self._gathering
            self._begin()
            await group.ended.wait()

    def _unwritten(self) -> list[JournalEntry]:
        if self._timer is not None:
            self._timer.cancel()
        entries = {} if self._writing is None else self._writing.entries
        entries = {**entries, **self._gathering.entries}
        self._gathering = _Group()
        return list(entries.values())

    def _call(self, *, at_once: bool = False) -> None:
        """Have what gathers written soon, or at the loop's next turn; after the group before it."""
        if self._writing is not None or (self._timer is not None and not at_once):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(0 if at_once else GATHER, self._begin)

    def _begin(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self._writing, self._gathering = self._gathering, _Group()
        entries = list(self._writing.entries.values())
        asyncio.get_running_loop().run_in_executor(self._executor, self._journal.write, entries).add_done_callback(
            self._ended
        )

    def _ended(self, written: asyncio.Future[None]) -> None:
        group, self._writing = self._writing, None
        assert group is not None
        if self._gathering.entries:
            self._call(at_once=len(self._gathering.entries) >= ENOUGH)
        error = written.exception()
        if error is not None:
            self._keep(group, error)
        else:
            self.error = None
        group.ended.set()

    def _keep(self, group: _Group, error: BaseException) -> None:
        """Keep what could not be written, under what came since."""
        self.error = error if isinstance(error, JournalError) else JournalError(f"The journal broke: {error}")
        group.error = self.error
        self._gathering.entries = {**group.entries, **self._gathering.entries}
