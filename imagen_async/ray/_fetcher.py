"""Gets pictures from where they lie, and looks whether they are whole. No Ray."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from .._core.values import ImageFile
from .._downloads import save_all
from .._folders import prepare_folder
from .._opening import file_threads
from .._text import one_line
from .._transport.file_session import FileSession
from .._transport.sessions import SessionSettings
from ..errors import DownloadFailed, ImagenError
from ._answers import Answer, Picture, error_text
from ._rows import Made

RENEWALS = 2
"""Times that links are asked for in the place of dead ones: first the task's own, which may have changed, then new."""

Renew = Callable[[Answer, tuple[str, ...]], Awaitable[tuple[str, ...]]]
"""Asks for other links to the pictures of an answer than those that have died."""


class FetchTerms(msgspec.Struct, frozen=True):
    """What fetches is told; there is no key in it.

    Attributes:
        settings: How it connects.
        homes: The base URLs of the accounts, by their names: links lead into a network only where the API is there.
        save_to: A folder that all nodes have, for the pictures; None: they are part of the rows.
        deadline: Seconds for the pictures of one row.
    """

    settings: SessionSettings
    homes: Mapping[str, str]
    save_to: str | None = None
    deadline: float = 900.0


class Fetcher:
    """Fetches the pictures of rows, in an event loop.

    Args:
        terms: What it is told.
        renew: Asks for other links.
    """

    def __init__(self, terms: FetchTerms, renew: Renew) -> None:
        self._terms = terms
        self._renew = renew
        self._off_loop = file_threads(None)

    def session(self) -> FileSession:
        """What carries the pictures, to be entered; it has no key."""
        return FileSession(self._terms.settings, self._terms.homes)

    async def fetch(self, session: FileSession, answers: Sequence[Answer]) -> list[Made]:
        """The pictures of each, or why there are none, in the order of the asking."""
        return list(await asyncio.gather(*(self._made(session, answer) for answer in answers)))

    async def _made(self, session: FileSession, answer: Answer) -> Made:
        if answer.error is not None:
            return answer.error
        urls = answer.urls
        try:
            for _ in range(RENEWALS):
                try:
                    return await self._pictures(session, answer, urls)
                except DownloadFailed as error:
                    if not (error.gone and answer.task_id):
                        raise
                    urls = await self._renew(answer, urls)
            return await self._pictures(session, answer, urls)
        except ImagenError as error:
            return error_text(error)
        except Exception as error:  # such as a full disk, or a coordinator that is gone: others may have their pictures
            message = f"The picture is made and paid for. It cannot be fetched: {one_line(str(error))}"
            return error_text(DownloadFailed(message))

    async def _pictures(self, session: FileSession, answer: Answer, urls: tuple[str, ...]) -> list[Picture]:
        result, folder = answer.to_result(urls), self._terms.save_to
        if folder is not None:
            await self._off_loop.run(prepare_folder, folder)
            files = await save_all(session, self._off_loop, result, folder, within=self._terms.deadline)
            return [Picture(file.media_type, file.sha256, path=file.path) for file in files]
        with tempfile.TemporaryDirectory(prefix="imagen-async-") as own:
            files = await save_all(session, self._off_loop, result, own, within=self._terms.deadline)
            return await self._off_loop.run(_read, files)


def _read(files: Sequence[ImageFile]) -> list[Picture]:
    pictures = []
    for file in files:
        with open(file, "rb") as opened:
            pictures.append(Picture(file.media_type, file.sha256, opened.read()))
    return pictures
