"""The local provider: a real HTTP server that speaks all four APIs, paints real PNGs and bills nobody.

Everything can be tried against it without a key or a cent, and tested against it, yours included: it has limits,
a latency, faults to order, and a ledger of what it would have billed.
"""

from __future__ import annotations

from ._faults import CALLBACK_FAULTS, CREATE_FAULTS, FILE_FAULTS, POLL_FAULTS, TASK_FAULTS, Faults
from ._ledger import Create, Ledger
from ._server import Sandbox
from ._tasks import Latency, Lives

__all__ = [
    "CALLBACK_FAULTS",
    "CREATE_FAULTS",
    "FILE_FAULTS",
    "POLL_FAULTS",
    "TASK_FAULTS",
    "Create",
    "Faults",
    "Latency",
    "Ledger",
    "Lives",
    "Sandbox",
]
