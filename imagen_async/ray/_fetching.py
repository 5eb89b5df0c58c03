"""The stage that fetches: workers, as many as there is work for."""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .._transport.file_session import FileSession
from ..errors import DownloadFailed
from ._answers import Answer
from ._fetcher import Fetcher, FetchTerms
from ._parts import Part
from ._rows import answers_in, with_pictures

if TYPE_CHECKING:
    import pyarrow as pa


class Fetching:
    """Fetches the pictures of blocks. Free to repeat.

    Args:
        parts: The coordinators: who has the key of an account can have dead links made anew.
        terms: What it is told.
    """

    def __init__(self, parts: Sequence[Part], terms: FetchTerms) -> None:
        self._parts = parts
        self._terms = terms
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._session = self._do(self._open())
        # A worker that there is no more work for goes in good order.
        atexit.register(lambda: self._do(self._session.__aexit__(None, None, None)))

    def __call__(self, table: pa.Table) -> pa.Table:
        """The rows of a block with their pictures."""
        answers = answers_in(table)
        made = self._do(self._fetcher.fetch(self._session, answers))
        return with_pictures(table, answers, made, as_paths=self._terms.save_to is not None)

    def _do(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _open(self) -> FileSession:
        self._fetcher = Fetcher(self._terms, self._renew)
        return await self._fetcher.session().__aenter__()

    async def _renew(self, answer: Answer, dead: tuple[str, ...]) -> tuple[str, ...]:
        part = next((each for each in self._parts if answer.provider in each.accounts), None)
        if part is None:
            raise DownloadFailed(f"Its link has died, and it is of the account {answer.provider}, which is not here.")
        mark = part.order.mark
        urls: tuple[str, ...] = await part.actor.links.remote(mark, answer.provider, answer.task_id, dead)
        return urls
