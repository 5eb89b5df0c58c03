"""Callbacks about a journal's requests that nobody waits for any more: their tasks are collected after all."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping

import msgspec

from .._callbacks import log_stray
from .._core.callbacks import Address, Seal
from .._core.job import Job
from .._core.journal_entry import JournalEntry
from .._core.transitions import with_last
from ..errors import JournalError
from .resume import ResumeState
from .store import BatchStore
from .writer import JournalWriter

SECRET = "callback_secret"
"""The note with the secret of a store's callback tokens, in hexadecimal digits."""


class JournalCallbacks:
    """A journal's requests, as callbacks see them: what `CallbackRegistry.connect` takes.

    Args:
        store: In the midst of a run.
        writer: Writes it.
        resume: What earlier runs know.
        seal: Makes the tokens of its jobs: always the same, so that a later process knows them.
        collect: Takes the job of a request that has come out as unknown, in this run or before it, now that its task
            is known.
        owner: Whose these jobs are to be.
        new_id: Makes their ids.

    Attributes:
        seal: As given.
    """

    def __init__(
        self,
        store: BatchStore,
        writer: JournalWriter,
        resume: ResumeState,
        seal: Seal,
        collect: Callable[[Job], None],
        *,
        owner: int,
        new_id: Callable[[], int],
    ) -> None:
        self.seal = seal
        self._store = store
        self._writer = writer
        self._resume = resume
        self._collect = collect
        self._owner = owner
        self._new_id = new_id
        self._called_back: set[Address] = set()
        self._with_lost: dict[bytes, tuple[str, str]] = {}
        for entry in resume.earlier.with_lost_creates:
            self._know(entry.key, entry.account)

    def note(self, job: Job) -> None:
        """Know a job with a lost create, which may be called back about when it has ended."""
        if job.lost_creates:
            self._know(job.key, job.account)

    def account_of(self, name: bytes) -> str | None:
        """Whose tasks a request's lost creates have made, by what stands for it in tokens; None where none was lost."""
        return self._with_lost[name][1] if name in self._with_lost else None

    async def account(self, name: bytes) -> str | None:
        """The same."""
        return self.account_of(name)

    async def noted(self, key: str) -> None:
        """Wait until what is known of a request is on disk.

        Raises:
            JournalError: It cannot be written.
        """
        await self._writer.wait_durable(key)

    async def called_back(self, address: Address, task_id: str) -> None:
        """Hear of the task of a request that nobody waits for any more, and have it collected where that can be.

        Where nobody here can ask about it, it is in the log, and, of a held request of another account, noted.

        Raises:
            JournalError: That it is held, or what the callback tells, could not be written.
        """
        entry = await self._entry_for(address)
        if entry is None or address.create not in entry.lost_creates or entry.task_id == task_id:
            return
        # The request has a task by now, or this one is another request's: only the log can name it.
        if entry.state != "unknown" or entry.task_id is not None or self._store.find_task(task_id) is not None:
            log_stray(self.account_of(address.name), task_id)
            return
        lost_creates = with_last(entry.lost_creates, address.create)
        named = msgspec.structs.replace(entry, task_id=task_id, lost_creates=lost_creates)
        job = self._resume.take_up_named(named, self._owner, self._new_id())
        if job is None:
            # Nobody here can ask about it: its name is kept for the run that can.
            self._writer.put(named)
        else:
            self._collect(job)
            self._writer.note(job)
        # Whoever calls back is answered then, and will not call again.
        await self._writer.wait_durable(named.key)

    async def _entry_for(self, address: Address) -> JournalEntry | None:
        """What the store says of the request by now; None for one that never lost a create, and for old news."""
        if address.name not in self._with_lost:
            return None
        key, _ = self._with_lost[address.name]
        is_news = address not in self._called_back
        # Before the wait: the same callback may come again meanwhile.
        self._called_back.add(address)
        try:
            await self._writer.wait_durable(key)
        except JournalError:
            # Nothing is known of it after a crash, so it is not heard yet.
            self._called_back.discard(address)
            raise
        return self._store.find(key) if is_news else None

    def _know(self, key: str, account: str) -> None:
        """Know a request with a lost create by what stands for it in tokens."""
        self._with_lost[self.seal.name(key)] = (key, account)


def seal_of(store: BatchStore, notes: Mapping[str, str]) -> Seal:
    """The seal of a store's secret, which is made with the first that needs it.

    Args:
        store: Open.
        notes: What it had noted by then.
    """
    secret = notes.get(SECRET)
    if secret is None:
        secret = secrets.token_hex(32)
        # Others may do the same just now, but for a store that batches alone have.
        if hasattr(store, "note_once"):
            secret = str(store.note_once(SECRET, secret))
        else:
            store.note({SECRET: secret})
    return Seal(bytes.fromhex(secret))
