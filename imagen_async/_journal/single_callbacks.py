"""Callbacks about single requests whose process is gone: their tasks are noted, for whoever asks for them."""

from __future__ import annotations

import msgspec

from .._core.callbacks import Address, Seal
from .._core.journal_entry import JournalEntry
from .._core.transitions import with_last
from .singles import SingleJournal
from .store import JobStore


class SingleCallbacks:
    """The single requests of a journal, as callbacks see them: what `CallbackRegistry.connect` takes.

    Args:
        journal: Open.

    Attributes:
        seal: Makes the tokens of its jobs, the same in all processes that have the journal.
    """

    def __init__(self, journal: SingleJournal) -> None:
        self.seal: Seal = journal.seal
        self._journal = journal

    def account_of(self, name: bytes) -> str | None:
        """Nothing: that stands on the disk, where `account` looks."""
        return None

    async def account(self, name: bytes) -> str | None:
        """Whose task a create has made, or may have, that its process has not heard of any more; None for no such."""
        entry = await self._lost(name)
        return None if entry is None else entry.account

    async def noted(self, key: str) -> None:
        """Wait until what is known of a request is on disk; raises JournalError."""
        await self._journal.written(key)

    async def called_back(self, address: Address, task_id: str) -> None:
        """Have the task of such a create noted, for whoever asks for its request; raises ImagenError."""
        entry = await self._lost(address.name)
        if entry is None:
            return
        claim = await self._journal.claim(entry, (), held=True)
        found = claim.entry
        if not claim.is_ours:
            return  # whoever has it by now waits for this callback, or has its answer
        if found.state == "unknown" and found.task_id is None and address.create in found.lost_creates:
            creates = with_last(found.lost_creates, address.create)
            found = msgspec.structs.replace(found, task_id=task_id, lost_creates=creates)
        await self._journal.put_back(found)

    async def _lost(self, name: bytes) -> JournalEntry | None:
        """The request of that name in tokens that no living process has, and of which no task is known."""

        def look(store: JobStore) -> JournalEntry | None:
            entries = (*store.abandoned(), *store.with_lost_creates())
            found = next((entry for entry in entries if self.seal.name(entry.key) == name), None)
            return found if found is not None and found.task_id is None and not store.owner(found.key) else None

        return await self._journal.ask(look)
