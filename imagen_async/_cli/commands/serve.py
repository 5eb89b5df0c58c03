"""`serve`: one owner of keys, limits and journal, for every program that speaks OpenAI's image API."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from ... import Account, Client
from ...errors import ConfigurationError
from .. import words
from ..accounts import open_pool_of
from ..exits import ALL_DONE
from ..folder import JOURNAL
from ..grammar import Options, Parser, Work
from ..library import prepare_folder
from ..loop import run_in_loop
from ..options import AccountOptions
from ..wording import say

if TYPE_CHECKING:
    from aiohttp import web

CALLERS = "callers.toml"
"""The file that `--new-caller` writes where none is named."""

DEFAULT_PORT = 8790

LAST_WORDS = 1.0
"""Seconds for which answers are written, and bodies read, once all has been heard out."""


class ServeOptions(Options, frozen=True):
    """What `serve` is told."""

    accounts: AccountOptions
    out: str | None
    host: str
    port: int
    callers: str | None
    new_caller: str | None
    alias: tuple[tuple[str, str], ...]
    public_url: str | None
    tls_cert: str | None
    tls_key: str | None
    keep: str
    deadline: float
    grace: float

    @classmethod
    def declare(cls, parser: Parser) -> None:
        """Add what may be written to a parser."""
        AccountOptions.declare(parser)
        _declare_callers(parser)
        where = parser.add_argument_group("where")
        where.add_argument("-o", "--out", type=words.filled, metavar="DIR", help="the folder of pictures and journals")
        where.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="to listen on (127.0.0.1)")
        where.add_argument("--port", type=words.port, default=DEFAULT_PORT, help=f"({DEFAULT_PORT}; 0: any)")
        where.add_argument("--public-url", metavar="URL", help="its address behind a proxy, as callers know it")
        where.add_argument("--tls-cert", metavar="FILE", help="its certificate, with those between, as PEM")
        where.add_argument("--tls-key", metavar="FILE", help="the key of that, where it is in a file of its own")
        parser.add_argument("--keep", default="7d", metavar="TIME", help="how long pictures are kept: 7d, 36h (7d)")
        parser.add_argument("--deadline", type=words.number, default=900, metavar="SECONDS", help="for each (900)")
        parser.add_argument(
            "--grace", type=words.number, default=8, metavar="SECONDS", help="to hear out what runs when it leaves (8)"
        )
        parser.add_argument("-v", "--verbose", action="count", default=0, help="log on stderr; -vv: every exchange")


def _declare_callers(parser: Parser) -> None:
    who = parser.add_argument_group("who may ask, and for what")
    who.add_argument("--callers", metavar="FILE", help="those who may ask; without it, all on this machine")
    who.add_argument(
        "--new-caller", metavar="NAME", help=f"add one to that file ({CALLERS}), print its key, and serve nothing"
    )
    who.add_argument(
        "--alias",
        action="append",
        default=[],
        type=words.assignment,
        metavar="NAME=MODEL",
        help="have a name stand for a model, such as gpt-image-1=imagen4-fast",
    )


def _run(options: ServeOptions) -> int:
    if options.new_caller is not None:
        return _add(options.callers or CALLERS, options.new_caller)
    if options.out is None:
        raise ConfigurationError("-o DIR is missing: the folder in which the pictures and the journals are kept.")
    from ...service import check_listening  # only here: no other command needs a server

    check_listening(options.host, options.callers is not None)
    tls = _tls_of(options)
    pool = open_pool_of(options.accounts)
    prepare_folder(options.out)
    leaving = asyncio.Event()

    def stop() -> bool:
        """Have it leave; the second time it is not asked any more."""
        is_first = not leaving.is_set()
        leaving.set()
        return is_first

    # What it notes of its pictures is to hold wherever it is started the next time.
    return run_in_loop(_serve(options, os.path.abspath(options.out), pool, tls, leaving), stop)


def _add(path: str, name: str) -> int:
    """Add a caller to a file, and print what nobody can find out later on."""
    from ...service import new_caller  # only here, as above

    made = new_caller(path, name)
    print(made.key)
    secret = f" Its callbacks are signed with {made.callback_secret}." if made.callback_secret else ""
    say(f"{name} is in {path} now, and this is its key, which is shown once.{secret}")
    return ALL_DONE


def _tls_of(options: ServeOptions) -> ssl.SSLContext | None:
    if options.tls_cert is None:
        if options.tls_key is not None:
            raise ConfigurationError("--tls-key is of no use without --tls-cert, the certificate.")
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        # Else OpenSSL asks the terminal for the password of a key that has one, which a service may not have.
        context.load_cert_chain(options.tls_cert, options.tls_key, password=_no_password)
    except (OSError, ssl.SSLError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        message = f"--tls-cert {options.tls_cert} cannot be used: {why}"
        raise ConfigurationError(
            f"{message}. It is PEM, the certificate first, with its key there or in --tls-key."
        ) from None
    return context


def _no_password() -> str:
    raise ValueError("its key has a password, which nobody could type: openssl pkey -in KEY -out PLAIN takes it off")


async def _serve(
    options: ServeOptions, out: str, pool: Mapping[str, Account], tls: ssl.SSLContext | None, leaving: asyncio.Event
) -> int:
    """Serve until a signal ends it."""
    from aiohttp import web  # only here, as above

    from ...service import application

    async with AsyncExitStack() as stack:
        made = application(
            await stack.enter_async_context(_client_of(options.accounts, out, pool)),
            callers=options.callers,
            aliases=dict(options.alias),
            public_url=options.public_url,
            keep=options.keep,
            deadline=options.deadline,
            grace=options.grace,
        )
        # Who leaves before the answer must cost nothing that was not sent: told at once, and not at the writing.
        runner = web.AppRunner(
            made, access_log=None, handle_signals=False, handler_cancellation=True, shutdown_timeout=LAST_WORDS
        )
        stack.push_async_callback(runner.cleanup)
        await runner.setup()
        await _listen(runner, options, tls)
        await leaving.wait()
        say("Leaving: nothing more is taken or sent, and what runs is heard out.")
    return ALL_DONE


def _client_of(accounts: AccountOptions, out: str, pool: Mapping[str, Account]) -> Client:
    terms: dict[str, Any] = {"policy": accounts.policy, "proxy": accounts.proxy}
    return Client(*pool.values(), trust_env=True, journal=os.path.join(out, JOURNAL), save_to=out, **terms)


async def _listen(runner: web.AppRunner, options: ServeOptions, tls: ssl.SSLContext | None) -> None:
    from aiohttp import web  # only here, as above

    site = web.TCPSite(runner, options.host, options.port, ssl_context=tls, backlog=1024)
    try:
        await site.start()
    except OSError as error:
        message = f"--port {options.port} on {options.host} cannot be used: {error.strerror or error}"
        raise ConfigurationError(f"{message}. Nothing was sent.") from error
    host, port = runner.addresses[0][:2]
    address = f"{'http' if tls is None else 'https'}://{f'[{host}]' if ':' in host else host}:{port}"
    who = "everybody on this machine" if options.callers is None else f"the callers in {options.callers}"
    say(f"OpenAI's image API at {address}/v1 for {who}, a page of what goes on at {address}/")
    say(f"Pictures and journals are in {options.out} · Ctrl-C ends it")


WORK = Work(ServeOptions, _run)
