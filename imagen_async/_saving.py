"""Saving when a user asks for it: by the client that is open, or by a session of its own once that is not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from contextlib import closing

from ._accounts import OpenAccount
from ._core.values import ImageFile, Painter, Result
from ._opening import OpenClient, file_threads, home_of
from ._transport.file_session import FileSession
from ._transport.session_pool import mask_of
from ._transport.sessions import SessionSettings
from .errors import DownloadFailed


async def save_with(
    opened: OpenClient | None,
    new_files: Callable[[], FileSession],
    executor: Executor | None,
    result: Result,
    folder: str,
    within: float,
) -> tuple[ImageFile, ...]:
    """Save with an open client's session; with one of `new_files` after the client was closed, or in another loop."""
    from ._downloads import save_all  # only here: who imports a client does not save yet

    if opened is not None and opened.loop is asyncio.get_running_loop() and opened.pool.files is not None:
        return await save_all(opened.pool.files, opened.off_loop, result, folder, within=within)
    _check_served(result, None if opened is None else opened.painted)
    with closing(file_threads(executor)) as off_loop:
        async with new_files() as files:
            return await save_all(files, off_loop, result, folder, within=within)


def own_files(settings: SessionSettings, accounts: Mapping[str, OpenAccount]) -> FileSession:
    """A session for files with no client open, which fetches and masks what that client's would."""
    homes = {name: home_of(account) for name, account in accounts.items()}
    endpoints = [account.endpoint for account in accounts.values() if account.endpoint is not None]
    return FileSession(settings, homes, mask=mask_of(endpoints, settings))


def _check_served(result: Result, painted: Painter | None) -> None:
    """Tell of pictures whose server has ended with its client, of which the network could say only that it is gone."""
    painter = result._painter
    if painter is not None and painter is not painted and any(map(painter, result.urls)):
        raise DownloadFailed(
            "The sandbox of this picture has ended with the client that had started it: save inside of its "
            "`async with` block, or start one that stays, with `imagen-async sandbox`.",
            gone=True,
            provider=result.provider,
            task_id=result.task_id,
        )
