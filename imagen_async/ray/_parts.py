"""The coordinators of a job as its stages know them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from .._accounts import Account


class Part(msgspec.Struct, frozen=True):
    """One coordinator.

    Attributes:
        actor: Ray's handle of it.
        mark: Of its journal, as the job began with it.
        accounts: The names of its accounts.
    """

    actor: Any
    mark: str
    accounts: tuple[str, ...]


def names_of(accounts: Sequence[Account]) -> tuple[str, ...]:
    """What accounts are called."""
    named = (account.name or account.provider for account in accounts)
    return tuple(each if isinstance(each, str) else each.name for each in named)
