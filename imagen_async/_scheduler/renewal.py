"""New links to pictures whose links have died: free to ask for, and to repeat."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable

from .._core import origin
from .._core.dialect import Dialect
from .._core.failure import Failure
from .._core.wire import HttpRequest, HttpResponse
from ..errors import DownloadFailed, ImagenError

Errand = Callable[[str, HttpRequest], Awaitable[HttpResponse]]
"""Carries a call about no task's state to an account."""


async def new_links(
    send: Errand, account: str, dialect: Dialect, urls: Iterable[str], mask: Callable[[str], str]
) -> tuple[str, ...] | Failure:
    """Ask for new links to pictures; a DownloadFailed where there are none, gone where there never will be.

    Args:
        send: Carries the questions.
        account: Whose pictures they are.
        dialect: How its API talks.
        urls: The links that have died.
        mask: Masks what is secret in a failure.
    """
    links: list[str] = []
    for url in urls:
        request = dialect.build_renewal(url)
        if request is None:
            # No other link can be had, so that the picture is as good as gone.
            return Failure(DownloadFailed, f"The provider gives no new link for {url}.", is_gone=True)
        try:
            response = await send(account, request)
        except ImagenError as error:
            # Of whatever kind: what has failed is to fetch a picture that is paid for.
            failed = DownloadFailed(f"The provider gave no new link: {error.message}", code=error.code)
            return origin.failure_of(Failure.of(failed), None, time.time(), mask)
        renewed = dialect.read_renewal(response)
        if isinstance(renewed, Failure):
            return origin.failure_of(renewed, response, time.time(), mask)
        links.append(renewed)
    return tuple(links)
