"""What the accounts say they have left."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

import anyio

from .. import Account, Client
from ..errors import ConfigurationError, ImagenError
from .library import open_account
from .loop import run_in_loop

PATIENCE = 10.0
"""Seconds for an account to tell its balance."""

Balance = float | ImagenError | None
"""Credits; why they could not be had; or None where the API does not tell."""


def balances_of(
    pool: Mapping[str, Account], *, proxy: str | None = None, own_sandbox: bool = True
) -> dict[str, Balance]:
    """Ask every account for its balance, where it has its key; a sandbox of one's own only if that is wanted."""
    found: dict[str, Balance] = {}
    askable: dict[str, Account] = {}
    for name, account in pool.items():
        try:
            if open_account(account, os.environ).endpoint is not None or own_sandbox:
                askable[name] = account
        except ConfigurationError as error:
            found[name] = error
    return run_in_loop(_asked(askable, found, pool, proxy)) if askable else found


async def _asked(
    pool: Mapping[str, Account], found: dict[str, Balance], order: Iterable[str], proxy: str | None
) -> dict[str, Balance]:
    client = Client(*pool.values(), connect_timeout=PATIENCE / 2, timeout=PATIENCE, trust_env=True, proxy=proxy)
    async with client:

        async def ask(name: str) -> None:
            try:
                found.update(await client.credits(name))
            except ImagenError as error:
                found[name] = error

        async with anyio.create_task_group() as group:
            for name in client.accounts:
                group.start_soon(ask, name)
    return {name: found[name] for name in order if name in found}
