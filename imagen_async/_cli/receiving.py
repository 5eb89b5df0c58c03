"""The receiver of a `batch` command: serves callbacks on this machine, behind the user's own proxy or tunnel."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from .. import Callback, Client
from ..errors import ConfigurationError
from ..webhooks import Receiver
from .options import CallbackOptions
from .wording import say

KEY_VARIABLE = "IMAGEN_WEBHOOK_KEY"
"""Has the key with which kie.ai signs callbacks."""

DEFAULT_PORT = 8788


def callback_of(options: CallbackOptions) -> Callback | None:
    """Where the options have tasks announced, or None; raises ConfigurationError for what can be no such address."""
    if options.callback_url is None:
        if options.callback_port is not None or options.callback_host is not None:
            raise ConfigurationError("--callback-url is missing: the public address that leads to this machine's port.")
        return None
    return Callback(options.callback_url, signing_key=os.environ.get(KEY_VARIABLE) or None)


@asynccontextmanager
async def receiving(client: Client, options: CallbackOptions) -> AsyncIterator[None]:
    """Serve the client's callbacks while the block runs, where the options ask for it."""
    if options.callback_url is None:
        yield
        return
    from aiohttp import web  # only here: who takes no callbacks loads no server

    host = options.callback_host or "127.0.0.1"
    port = DEFAULT_PORT if options.callback_port is None else options.callback_port
    application = Receiver(client).application()
    # Without an access log: the paths are tokens.
    runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, backlog=1024)
        try:
            await site.start()
        except OSError as error:
            message = f"--callback-port {port} on {host} cannot be used: {error.strerror or error}"
            raise ConfigurationError(f"{message}. Nothing was sent.") from error
        host, port = runner.addresses[0][:2]
        signed = "" if os.environ.get(KEY_VARIABLE) else f"; without {KEY_VARIABLE}, no signature is asked for"
        say(f"Callbacks for {options.callback_url} are taken on {host}:{port}{signed}")
        yield
    finally:
        await runner.cleanup()
