"""`sandbox`: serves the sandbox, a local provider that bills nobody."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from ... import Limits, Rate
from ...errors import ConfigurationError
from ...providers import PROVIDERS
from .. import words
from ..exits import ALL_DONE
from ..grammar import Options, Parser, Work
from ..loop import run_in_loop
from ..options import LIMITS
from ..receiving import KEY_VARIABLE
from ..wording import say

if TYPE_CHECKING:
    from ...sandbox import Sandbox


class SandboxOptions(Options, frozen=True):
    """What `sandbox` is told."""

    port: int
    latency: float
    faults: float
    credits: float | None
    seed: int
    signing_key: str | None
    call_anywhere: bool
    rate: Rate | None
    status_rate: Rate | None
    running: int | None

    @classmethod
    def declare(cls, parser: Parser) -> None:
        """Add what may be written to a parser."""
        parser.add_argument("--port", type=words.port, default=8787, help="on 127.0.0.1 (8787; 0: any)")
        parser.add_argument(
            "--latency", type=words.seconds, default=1.0, metavar="SECONDS", help="median of a task (1)"
        )
        parser.add_argument(
            "--faults", type=words.share, default=0.0, metavar="SHARE", help="of requests that go wrong (0)"
        )
        parser.add_argument("--credits", type=words.price, metavar="N", help="balance of the account (endless)")
        parser.add_argument(
            "--seed", type=words.whole, default=0, help="makes latencies, faults and task ids repeatable (0)"
        )
        parser.add_argument(
            "--signing-key",
            type=words.filled,
            metavar="KEY",
            help=f"signs callbacks ({KEY_VARIABLE} in the environment)",
        )
        parser.add_argument(
            "--call-anywhere", action="store_true", help="call back to any address, and not to this machine alone"
        )
        for name, read, metavar, help_text in LIMITS:
            parser.add_argument(name, type=read, metavar=metavar, help=help_text)


def _run(options: SandboxOptions) -> int:
    from ...sandbox import Latency, Sandbox  # only here: no other command needs a server

    default = PROVIDERS["sandbox"].limits
    sandbox = Sandbox(
        port=options.port,
        latency=Latency(median=options.latency),
        faults=options.faults,
        balance=options.credits,
        limits=Limits(
            submit=options.rate or default.submit,
            status=options.status_rate or default.status,
            running=options.running or default.running,
        ),
        signing_key=options.signing_key or os.environ.get(KEY_VARIABLE) or None,
        calls_anywhere=options.call_anywhere,
        seed=options.seed,
    )
    return run_in_loop(_served(sandbox, options.port))


async def _served(sandbox: Sandbox, port: int) -> int:
    """Serve until a signal ends it; what the sandbox has billed is its last word."""
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(sandbox)
        except OSError as error:
            raise ConfigurationError(f"Port {port} cannot be used: {error.strerror or error}.") from error
        # Once it serves: one that never did has no ledger to tell.
        stack.callback(lambda: print(json.dumps(sandbox.ledger.summary())))
        say(f"The sandbox serves kie.ai's API at {sandbox.url} and each provider's own at {sandbox.url}/NAME")
        say(f"Its key: {sandbox.key} · its ledger: {sandbox.url}/sandbox/ledger · Ctrl-C ends it")
        say(f"Try: imagen-async generate 'a red fox' -p sandbox --base-url {sandbox.url}")
        await asyncio.Event().wait()
    return ALL_DONE


WORK = Work(SandboxOptions, _run)
