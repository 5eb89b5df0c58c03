"""One owner with a door: pictures for every program that speaks OpenAI's image API, over one client of this library.

One process owns the keys, the limits, the budget and the journal, and everybody else asks it, over HTTP. `application`
makes an aiohttp application of an open `Client`, to be served by itself or mounted; `imagen-async serve` does the same
from the command line.

A request that comes again, from a client that has waited for too long or after the service was killed, is the same
request: it is made once, and paid for once. Pictures lie in the client's folder, and are fetched from here alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import PurePath

from aiohttp import web

from .._client import Client
from .._off_loop import machine_time
from ._application import build
from ._callers import WatchedCallers
from ._guard import check_listening
from ._new_callers import NewCaller, new_caller
from ._service import Service, checked_terms

__all__ = ["NewCaller", "application", "check_listening", "new_caller"]


def application(
    client: Client,
    *,
    callers: str | PurePath | None = None,
    aliases: Mapping[str, str] | None = None,
    public_url: str | None = None,
    keep: str | float = "7d",
    deadline: float = 900.0,
    grace: float = 8.0,
    heartbeat: float = 10.0,
) -> web.Application:
    """Make the aiohttp application of a service over a client.

    It begins and ends with the application, in the loop in which the client is open: with `Client(journal=…,
    save_to=…)`, in whose folder it keeps a book of its own (`serve.db`), which one service may have at a time. Served
    with `handler_cancellation=True`, which `web.run_app` and `web.AppRunner` take, it notices at once who leaves.

    Args:
        client: Open from the application's start to its cleanup.
        callers: A TOML file of those who may ask, as `imagen-async serve --new-caller` writes it; it is read again when
            it has changed. None: everybody who comes over loopback, and no page of another origin.
        aliases: Names that stand for models, such as `{"gpt-image-1": "imagen4-fast"}`: some programs ask for one.
        public_url: Its address as callers know it, where it stands behind a proxy; None: as each request names it.
        keep: For how long a picture can be fetched, and then is removed: seconds, or a text such as `"7d"` or `"36h"`;
            a day at least.
        deadline: Seconds that an order may take. What runs then goes on, and is found by the same request.
        grace: Seconds for which leaving waits for what runs; docker kills what has not left after 10.
        heartbeat: Seconds between two signs of life of a stream: proxies cut what is silent for a minute.

    Raises:
        ConfigurationError: Something of it cannot be, or the client keeps nothing.
    """
    terms = checked_terms(aliases or {}, public_url, keep, deadline, grace)
    watched = None if callers is None else WatchedCallers(os.fspath(callers), machine_time())
    known = None if watched is None else lambda: watched.present(machine_time())
    return build(Service(client, terms, known), known, public_url, heartbeat)
