"""Tasks that are paid for and that no later run would find: named one by one, where a store could not be written."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from .._core.failure import Failure
from .._core.journal_entry import JournalEntry
from .._core.wire import clean
from .._watch.log import log
from ..errors import JournalError
from .store import BatchStore

_IN_A_MESSAGE = 100


def tell_untold(store: BatchStore, entries: Iterable[JournalEntry], why: Exception | str) -> list[str]:
    """Log each task of these entries that the store does not know; returns how they are called."""
    names = [
        f"task {clean(entry.task_id)} of {entry.account}"
        for entry in entries
        if entry.task_id is not None and not _knows(store, entry)
    ]
    for name in names:
        log(logging.ERROR, "%s is paid for and could not be noted in the journal (%s); collect it", name, why)
    return names


def naming_untold(failure: Failure, names: list[str]) -> Failure:
    """A store's failure, with the tasks that are lost with it."""
    if not names:
        return failure
    more = f" and {len(names) - _IN_A_MESSAGE:,} more, in the log" if len(names) > _IN_A_MESSAGE else ""
    listed = ", ".join(names[:_IN_A_MESSAGE])
    return Failure(JournalError, f"{failure.message} Paid for, not noted, and to be collected: {listed}{more}.")


def _knows(store: BatchStore, entry: JournalEntry) -> bool:
    try:
        found = store.find(entry.key)
    except Exception:  # what cannot be written may not be readable either
        return False
    return found is not None and found.task_id == entry.task_id
