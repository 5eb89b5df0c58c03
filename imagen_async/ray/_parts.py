"""The coordinators of a job as its stages know them."""

from __future__ import annotations

from typing import Any

import msgspec

from ._maker import Order


class Part(msgspec.Struct, frozen=True):
    """One coordinator.

    Attributes:
        actor: Ray's handle of it.
        order: The job, as it is asked for there.
        accounts: The names of its accounts.
    """

    actor: Any
    order: Order
    accounts: tuple[str, ...]
