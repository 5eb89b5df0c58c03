"""What the options of a command line come to: a request, its defaults, the pool of accounts with their limits."""

from __future__ import annotations

import argparse
import os
from typing import Any, cast

from .._accounts import Account, named, open_pool
from .._core.fields import DEFAULTS
from .._core.provider import Limits
from .._core.values import ImageRequest
from .._job_factory import Parameters
from ..errors import ConfigurationError
from ..providers import PROVIDERS


def limits_of(options: argparse.Namespace, default: Limits, account: str | None = None) -> Limits:
    """The limits that the options ask for an account, the default's where they say nothing."""
    return Limits(
        submit=_said(options.rate, account) or default.submit,
        status=_said(options.status_rate, account) or default.status,
        running=_said(options.running, account) or default.running,
    )


def _said(values: list[Any], account: str | None) -> Any:
    """The last that was said of an account, or of all; None for nothing. Without accounts all values are plain."""
    if account is None:
        return values[-1] if values else None
    of_all = [value for name, value in values if name is None]
    own = [value for name, value in values if name == account]
    return (own or of_all or [None])[-1]


def request_of(options: argparse.Namespace, prompt: str) -> ImageRequest:
    """The request that the options ask for."""
    return ImageRequest(prompt, **defaults_of(options))


def defaults_of(options: argparse.Namespace) -> Parameters:
    """What the options say of every request that does not say it itself."""
    return cast(Parameters, {name: getattr(options, name) for name in DEFAULTS})


def pool_of(options: argparse.Namespace) -> dict[str, Account]:
    """The accounts that the options name, by name; without any the only one whose key is in the environment."""
    given = options.provider or keys_in_environment()
    if not options.provider and len(given) != 1:
        real = ", ".join(name for name, each in PROVIDERS.items() if not each.is_local)
        known = f"{real}, or sandbox, which needs no key"
        found = f"keys are set for {', '.join(given)}: name one, or several for one pool" if given else f"name {known}"
        raise ConfigurationError(f"-p is missing: {found}.")
    pool = named(_account(options, *_name_and_provider(word)) for word in given)
    for option in ("base_url", "price", "rate", "status_rate", "running"):
        for name, _ in getattr(options, option):
            if name is not None and name not in pool:
                dashed = option.replace("_", "-")
                raise ConfigurationError(f"--{dashed} {name}=…: there is no such account, only {', '.join(pool)}.")
    for option, example in (("base_url", "--base-url liangxin=https://…"), ("price", "--price apikley=4")):
        if len(pool) > 1 and any(name is None for name, _ in getattr(options, option)):
            raise ConfigurationError(f"{example.split()[0]}: with several accounts say whose it is, as in {example}")
    return pool


def open_pool_of(options: argparse.Namespace) -> dict[str, Account]:
    """The accounts that the options name; their keys and addresses are looked for at once, before a file is read."""
    pool = pool_of(options)
    open_pool(pool, os.environ)
    return pool


def words_of(options: argparse.Namespace, account: str | None = None) -> list[str]:
    """The words of the command line that name its accounts, or one of them."""
    words: list[str] = []
    for word in options.provider or keys_in_environment():
        if account in (None, _name_and_provider(word)[0]):
            words += ["-p", word]
    for name, url in options.base_url:
        if account is None or name in (None, account):
            words += ["--base-url", url if name is None or account is not None else f"{name}={url}"]
    return words


def keys_in_environment() -> list[str]:
    """The providers whose key is set."""
    return [name for name, provider in PROVIDERS.items() if os.environ.get(provider.key_variable)]


def _name_and_provider(word: str) -> tuple[str, str]:
    name, mark, provider = word.partition("=")
    return (name, provider) if mark else (word, word)


def _account(options: argparse.Namespace, name: str, provider: str) -> Account:
    if provider not in PROVIDERS:
        raise ConfigurationError(f"There is no provider {provider!r}; this version knows: {', '.join(PROVIDERS)}.")
    return Account(
        provider,
        base_url=_said(options.base_url, name),
        limits=limits_of(options, PROVIDERS[provider].limits, name),
        credits=_said(options.price, name),
        name=None if name == provider else name,
    )
