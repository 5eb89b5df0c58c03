"""A group of changes as a store takes it: whole, or, where one of them is what no store can hold, one by one."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import msgspec

from .._core.journal_entry import JournalEntry
from .._core.wire import clean
from .._watch.log import log
from ..errors import JournalError
from .explained import told
from .store import BatchStore

_UNSTORABLE = (ValueError, TypeError, OverflowError, RecursionError, msgspec.MsgspecError)
"""What is raised for values that cannot be written. A disk, a lock or a network would fail the next entry as well."""

_WITH_A_TASK = ("running", "ready", "done", "failed")


def write_group(store: BatchStore, group: Sequence[JournalEntry]) -> Mapping[str, Exception]:
    """Write changes in one transaction; those that cannot be stored are left out, and the others are written.

    Returns:
        Why, by its key, for each that was left out.

    Raises:
        JournalError: The store fails, whatever it is given.
    """
    try:
        store.write(group)
    except JournalError:
        raise
    except _UNSTORABLE as error:
        if len(group) > 1:
            return {key: why for entry in group for key, why in write_group(store, [entry]).items()}
        return _left_out(store, group[0], error)
    # A store of the user's own may raise what it likes, also what no future can carry, such as StopIteration.
    except BaseException as error:
        raise JournalError(told(error).message) from error
    return {}


def _left_out(store: BatchStore, entry: JournalEntry, error: Exception) -> Mapping[str, Exception]:
    """Write of a change that cannot be stored what a later run needs most: that its task exists, and is asked about."""
    if entry.task_id is None or entry.state not in _WITH_A_TASK:
        return {entry.key: error}
    task = msgspec.structs.replace(
        entry, state="running", urls=(), files=(), error=None, credits=None, latency=None, ended_at=None
    )
    try:
        store.write([task])
    except _UNSTORABLE:
        return {entry.key: error}
    name = clean(entry.task_id)
    message = "%s: that task %s is %s could not be stored (%s); the next run asks about it again"
    log(logging.WARNING, message, entry.account, name, entry.state, error)
    return {}
