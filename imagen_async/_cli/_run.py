"""The commands: from parsed arguments to output and an exit code."""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import shlex
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import msgspec

from .._accounts import Account
from .._client import Client
from .._core.provider import Provider
from .._core.values import Result
from .._folders import prepare_folder
from ..errors import AuthenticationError, ConfigurationError, ImagenError, InvalidRequest, JournalError
from ..providers import PROVIDERS
from ._arguments import build_parser
from ._balances import balances_of
from ._batch import batch, collect_into, exported, gallery, plan, status
from ._batch_run import places
from ._json import error_json, result_json
from ._loop import run_in_loop
from ._options import keys_in_environment, limits_of, open_pool_of, pool_of, request_of
from ._receiving import KEY_VARIABLE
from ._verbose import log_on_stderr
from ._wording import amount, say

if TYPE_CHECKING:
    from ..sandbox import Sandbox

_WRONG_USE = (ConfigurationError, InvalidRequest, AuthenticationError, JournalError)


def run(arguments: Sequence[str]) -> int:
    """Do what the arguments say; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        # A prompt may hold what the terminal's encoding does not; that is no reason to fail after paying.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    options = build_parser().parse_args(arguments)
    options.command_line = shlex.join(["imagen-async", *arguments])
    try:
        with log_on_stderr(getattr(options, "verbose", 0)):
            return _COMMANDS[options.command](options)
    except ImagenError as error:
        return _told(error)
    except KeyboardInterrupt:
        say("Interrupted.")
        return 130
    except BrokenPipeError:
        # Whoever read stdout has left. Python would complain again when it closes it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _told(error: ImagenError) -> int:
    """Say what went wrong; returns the exit code."""
    say(f"imagen-async: {error}")
    if isinstance(error, AuthenticationError) and error.provider in PROVIDERS:
        say(f"The key is that of {PROVIDERS[error.provider].key_variable}.")
    return 2 if isinstance(error, _WRONG_USE) else 1


def _generate(options: argparse.Namespace) -> int:
    return _one(options, lambda client: client.generate(request_of(options, options.prompt), deadline=options.deadline))


def _collect(options: argparse.Namespace) -> int:
    if options.dir is not None:
        return collect_into(options)
    if options.key is not None:
        raise ConfigurationError("--key names a request of a batch: say with --dir which batch.")
    if options.provider and len(options.provider) > 1:
        raise ConfigurationError("-p: a task is one account's; name that one.")
    return _one(options, lambda client: client.collect(options.task_id, deadline=options.deadline))


def _one(options: argparse.Namespace, make: Callable[[Client], Awaitable[Result]]) -> int:
    """Get one result, save it where it was asked for, and print it. What cannot be saved is printed with its URL."""
    pool = open_pool_of(options)
    if options.out is not None:
        # Before anything is paid for.
        prepare_folder(options.out)

    async def work() -> int:
        async with Client(*pool.values(), policy=options.policy, freshness=options.freshness) as client:
            try:
                result = await make(client)
            except ImagenError as error:
                if options.json:
                    print(json.dumps({"ok": False, "task_id": error.task_id, "error": error_json(error)}))
                raise
            await _hand_out(result, options)
        return 0

    return run_in_loop(work())


async def _hand_out(result: Result, options: argparse.Namespace) -> None:
    saved = result
    failure = None
    if options.out is not None:
        try:
            saved = msgspec.structs.replace(result, files=await result.save(options.out))
        except ImagenError as error:
            failure = error
            saved = msgspec.structs.replace(result, error=error)
    # Before it is raised: of a picture that could not be saved, its URL is all that there is.
    print(json.dumps(result_json(saved), ensure_ascii=False) if options.json else "\n".join(places(saved)))
    if failure is not None:
        raise failure
    is_local = result.provider in PROVIDERS and PROVIDERS[result.provider].is_local
    if options.out is None and is_local and not options.base_url:
        say("This link dies with the sandbox, now; -o DIR saves the picture.")


def _credits(options: argparse.Namespace) -> int:
    if not options.provider:
        options.provider = keys_in_environment() or None
    pool = pool_of(options)
    codes = [0]
    for name, balance in balances_of(pool).items():
        if isinstance(balance, ImagenError):
            codes.append(_told(balance))
        else:
            print(json.dumps({"provider": name, "credits": balance}) if options.json else _balance(name, balance, pool))
    return max(codes)


def _balance(name: str, balance: float | None, pool: Mapping[str, Account]) -> str:
    title = PROVIDERS[pool[name].provider].title
    return f"{name} {amount(balance)}" if balance is not None else f"{name}: the API of {title} does not tell a balance"


def _providers(options: argparse.Namespace) -> int:
    for provider in PROVIDERS.values():
        print(json.dumps(_provider_json(provider)) if options.json else _provider_text(provider))
    return 0


def _provider_json(provider: Provider) -> dict[str, Any]:
    limits = provider.limits
    return {
        "name": provider.name,
        "title": provider.title,
        "base_url": provider.base_url,
        "key_variable": provider.key_variable,
        "key_is_set": bool(os.environ.get(provider.key_variable)),
        "models": {model.name: model.credits for model in provider.models},
        "submit": [limits.submit.count, limits.submit.per],
        "status": [limits.status.count, limits.status.per],
        "running": limits.running,
    }


def _provider_text(provider: Provider) -> str:
    local = provider.is_local
    is_set = "set" if os.environ.get(provider.key_variable) else "not set"
    address = provider.base_url or ("on this machine" if local else f"give --base-url or {provider.base_url_variable}")
    key = "needs no key" if local else f"key: {provider.key_variable} ({is_set})"
    prices = ", ".join(f"{model.name} ({_price(model.credits)})" for model in provider.models)
    rate, status = provider.limits.submit, provider.limits.status
    limits = f"{rate.count} creates per {rate.per:g} s, {status.count} status calls per {status.per:g} s"
    return (
        f"{provider.name}: {provider.title}, {address}, {key}\n  models: {prices}\n"
        f"  limits: {limits}, {provider.limits.running} running"
    )


def _price(credits: float | None) -> str:
    return "price unknown" if credits is None else f"{credits:g} credits"


def _sandbox(options: argparse.Namespace) -> int:
    from ..sandbox import Latency, Sandbox  # only here: no other command needs a server

    sandbox = Sandbox(
        port=options.port,
        latency=Latency(median=options.latency),
        faults=options.faults,
        balance=options.credits,
        limits=limits_of(options, PROVIDERS["sandbox"].limits),
        signing_key=os.environ.get(KEY_VARIABLE) or None,
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
    return 0


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "generate": _generate,
    "batch": batch,
    "plan": plan,
    "status": status,
    "collect": _collect,
    "gallery": gallery,
    "export": exported,
    "credits": _credits,
    "providers": _providers,
    "sandbox": _sandbox,
}
