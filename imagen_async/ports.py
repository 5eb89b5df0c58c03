"""The ports by which another store and another limit enter a client, in place of SQLite and of this process's windows.

    Client("kie", limiter=make_limiter)              # make_limiter(account, kind, rate) -> Limiter
    client.batch(prompts, journal=my_store)          # my_store: a BatchStore
    Client("kie", journal=my_store)                  # my_store: a JobStore, which processes share

What is kept through them are promises: that nothing is paid twice, and that no window holds more than its limit. What
each call means for them stands at the protocols; `Window` is the exact window of one process, to build upon.
"""

from __future__ import annotations

from ._core.journal_entry import Bill, EntryError, EntryState, JournalEntry
from ._core.limiter import LeasedLimiter, Limiter
from ._core.rate_limit import Rate, Window
from ._journal.store import BatchStore, Claim, JobStore
from ._limits import LimiterFactory

__all__ = [
    "BatchStore",
    "Bill",
    "Claim",
    "EntryError",
    "EntryState",
    "JobStore",
    "JournalEntry",
    "LeasedLimiter",
    "Limiter",
    "LimiterFactory",
    "Rate",
    "Window",
]
