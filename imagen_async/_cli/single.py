"""One result: got, saved where that was asked for, and printed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import msgspec

from .. import Client, Result
from ..errors import ImagenError
from ..providers import PROVIDERS
from .accounts import gone_accounts, open_pool_of
from .as_json import error_json, result_json
from .exits import ALL_DONE
from .library import prepare_folder
from .loop import run_in_loop
from .options import AccountOptions, OutputOptions
from .wording import GONE_TEXT, places, say, show


def one(accounts: AccountOptions, output: OutputOptions, get: Callable[[Client], Awaitable[Result]]) -> int:
    """Get one result, save it where it was asked for, and print it. What cannot be saved is printed with its URL."""
    pool = open_pool_of(accounts)
    if output.out is not None:
        # Before anything is paid for.
        prepare_folder(output.out)

    async def work() -> int:
        async with Client(*pool.values(), policy=accounts.policy, freshness=output.freshness) as client:
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
            await _hand_out(result, output)
        if output.out is None and not accounts.base_url and _is_local(result):
            say("This link dies with the sandbox, now; -o DIR saves the picture.")
        return ALL_DONE

    return run_in_loop(work())


async def _hand_out(result: Result, output: OutputOptions) -> None:
    saved = result
    failure = None
    if output.out is not None:
        try:
            saved = msgspec.structs.replace(result, files=await result.save(output.out))
        except ImagenError as error:
            failure = error
            saved = msgspec.structs.replace(result, error=error)
    # Before it is raised: of a picture that could not be saved, its URL is all that there is.
    show(json.dumps(result_json(saved), ensure_ascii=False) if output.json else "\n".join(places(saved)))
    if failure is not None:
        raise failure


def _is_local(result: Result) -> bool:
    return result.provider in PROVIDERS and PROVIDERS[result.provider].is_local
