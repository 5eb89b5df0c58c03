"""One result: got, saved where that was asked for, and printed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from .. import Account, Client, Result
from ..errors import ImagenError
from ..providers import PROVIDERS
from .accounts import gone_accounts, open_pool_of
from .as_json import error_json
from .exits import ALL_DONE
from .library import UNNUMBERED, prepare_folder
from .loop import run_in_loop
from .options import AccountOptions, OutputOptions
from .printing import ResultPrinter
from .wording import GONE_TEXT, say

Get = Callable[[Client], Awaitable[Result]]
"""Gets the result of a client."""


def one(accounts: AccountOptions, output: OutputOptions, get: Get) -> int:
    """Get one result, save it where it was asked for, and print it. What cannot be saved is printed with its URL."""
    pool = open_pool_of(accounts)
    if output.out is not None:
        # Before anything is paid for.
        prepare_folder(output.out)
    printer = ResultPrinter(as_json=output.json, out=output.out)
    try:
        return run_in_loop(_work(pool, accounts, output, get, printer))
    finally:
        printer.close()


async def _work(
    pool: Mapping[str, Account], accounts: AccountOptions, output: OutputOptions, get: Get, printer: ResultPrinter
) -> int:
    terms: dict[str, Any] = {"policy": accounts.policy, "freshness": output.freshness, "proxy": accounts.proxy}
    async with Client(*pool.values(), trust_env=True, **terms) as client:
        try:
            result = await get(client)
        except asyncio.CancelledError:
            if gone_accounts(pool):
                say(f"What ran is {GONE_TEXT}.")
            raise
        except ImagenError as error:
            if output.json:
                print(json.dumps({"ok": False, "task_id": error.task_id, "error": error_json(error)}))
            raise
        await _hand_out(result, output, printer)
    if output.out is None and not accounts.base_url and _is_local(result):
        say("This link dies with the sandbox, now; -o DIR saves the picture.")
    return ALL_DONE


async def _hand_out(result: Result, output: OutputOptions, printer: ResultPrinter) -> None:
    saved = result
    failure = None
    if output.out is not None:
        try:
            # Of no series: what another call has put there begins at 0 too.
            alone = msgspec.structs.replace(result, index=UNNUMBERED)
            saved = msgspec.structs.replace(result, files=await alone.save(output.out))
        except ImagenError as error:
            failure = error
            saved = msgspec.structs.replace(result, error=error)
    # Before it is raised: of a picture that could not be saved, its URL is all that there is.
    printer.print(saved)
    if failure is not None:
        raise failure


def _is_local(result: Result) -> bool:
    return result.provider in PROVIDERS and PROVIDERS[result.provider].is_local
