"""The page at `/`, live: one look each second for all who have it open, and nothing from any other host."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files

import msgspec
from aiohttp import web

from .._patience import Patience
from ._figures import Seen
from ._live import Live
from ._markup import page_of
from ._view import view_of

EVERY = 1.0
"""Seconds between two looks, while any page is open."""

BEATS_AFTER = 15.0
"""Seconds after which a page is told that it is not forgotten; `page.js` waits for thrice as long."""

MOST_STREAMS = 100
"""Pages that are kept live at once."""

COME_BACK = 10
"""Seconds after which a page that finds no room may ask again."""

LONGEST_WRITE = 20.0
"""Seconds for which a page may not read before it is dropped."""

POLICY = (
    "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
"""What goes with all of it."""

_ASSETS = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}


def page_routes(look: Callable[[], Seen], application: web.Application) -> list[web.RouteDef]:
    """The routes of the page, of what it needs, and of `/events`, which keeps it live.

    Who may see it is for the application's guard to say. The links in it are relative, but for those of pictures: it
    may be mounted anywhere.

    Args:
        look: Says what goes on. It is called in the loop: at each request for the page, and once a second while any
            page is open.
        application: Whose routes they become, before it is started: its shutdown ends all streams.
    """
    page = Page(look)
    application.on_shutdown.append(page.end)
    return page.routes()


class Page:
    """The page and its streams.

    Args:
        look: As in `page_routes`.
        every: Seconds between two looks.
        beats_after: Seconds after which a page hears that there is nothing new.
        longest_write: Seconds for which it may not read.
    """

    def __init__(
        self,
        look: Callable[[], Seen],
        *,
        every: float = EVERY,
        beats_after: float = BEATS_AFTER,
        longest_write: float = LONGEST_WRITE,
    ) -> None:
        self._look = look
        self._live = Live(lambda: msgspec.structs.asdict(view_of(look())), every, beats_after, MOST_STREAMS)
        self._longest_write = longest_write
        folder = files(__package__)
        self._template = folder.joinpath("page.html").read_text("utf-8")
        self._assets = {name: folder.joinpath(name).read_text("utf-8") for name in _ASSETS}

    def routes(self) -> list[web.RouteDef]:
        """The routes of all of it."""
        return [
            web.get("/", self.show),
            *(web.get(f"/{name}", self.asset) for name in _ASSETS),
            web.get("/events", self.events, allow_head=False),
        ]

    async def end(self, application: web.Application) -> None:
        """Let all streams end, for the server does."""
        self._live.end()

    async def show(self, request: web.Request) -> web.Response:
        """Answer with the page as it is now."""
        seen = self._look()
        text = page_of(self._template, view_of(seen), seen.snapshot.at)
        return web.Response(text=text, content_type="text/html", headers=HEADERS)

    async def asset(self, request: web.Request) -> web.Response:
        """Answer with what the page needs."""
        name = request.path.rpartition("/")[2]
        return web.Response(text=self._assets[name], content_type=_ASSETS[name], headers=HEADERS)

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Keep a page live, until it leaves, reads no more, or the server ends."""
        stream = self._live.open()
        if stream is None:
            headers = {**HEADERS, "Retry-After": str(COME_BACK)}
            return web.Response(status=503, text=f"{MOST_STREAMS} pages are open, or the server ends.", headers=headers)
        # A proxy that keeps events until there are more of them would make them late.
        response = web.StreamResponse(headers={**HEADERS, "X-Accel-Buffering": "no"})
        response.content_type, response.charset = "text/event-stream", "utf-8"
        try:
            await response.prepare(request)
            while (event := await stream.next()) is not None:
                with Patience(self._longest_write):
                    await response.write(event)
        except ConnectionError:
            pass  # it has left
        except TimeoutError:
            # What was written for it and not taken would be kept else.
            if request.transport is not None:
                request.transport.abort()
        finally:
            stream.close()
        return response
