"""What the options say of accounts: the pool with its limits, and the words that lead back to it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from .. import Account, Limits
from ..errors import ConfigurationError
from ..providers import PROVIDERS, Provider
from .library import (
    gone_with_client,
    named,
    no_such_provider,
    open_pool,
    proxies_of,
    read_provider,
    with_models,
    with_named_creates,
    without_login,
)
from .options import AccountOptions, Said, T


def pool_of(options: AccountOptions) -> dict[str, Account]:
    """The accounts that the options name, by name; without any the only one whose key is in the environment."""
    given = options.provider or keys_in_environment()
    if not options.provider and len(given) != 1:
        real = ", ".join(name for name, each in PROVIDERS.items() if not each.is_local)
        known = f"{real}, or sandbox, which needs no key"
        found = f"keys are set for {', '.join(given)}: name one, or several for one pool" if given else f"name {known}"
        raise ConfigurationError(f"-p is missing: {found}.")
    pool = named(_account(options, *_name_and_provider(word)) for word in given)
    _refuse_stray(options, list(pool))
    return with_models(pool, options.models_file)


def open_pool_of(options: AccountOptions) -> dict[str, Account]:
    """The accounts that the options name; keys, addresses and proxies are looked for at once, before a file is read."""
    pool = pool_of(options)
    proxies_of(open_pool(pool, os.environ), options.proxy, trust_env=True)
    return pool


def service_accounts(pool: Mapping[str, Account]) -> frozenset[str]:
    """Those that are services, where a create that is sent again is the same task."""
    return with_named_creates(open_pool(pool, os.environ))


def gone_accounts(pool: Mapping[str, Account]) -> frozenset[str]:
    """The accounts whose tasks end with the command: sandboxes without an address, which it serves by itself."""
    return gone_with_client(open_pool(pool, os.environ))


def words_of(options: AccountOptions, account: str | None = None) -> list[str]:
    """The words of the command line that name its accounts, or one of them."""
    words: list[str] = []
    for word in options.provider or keys_in_environment():
        if account in (None, _name_and_provider(word)[0]):
            words += ["-p", word]
    for name, url in options.base_url:
        if account is None or name in (None, account):
            words += ["--base-url", url if name is None or account is not None else f"{name}={url}"]
    words += ["--not-shared"] * options.not_shared
    for path in options.models_file:
        words += ["--models-file", path]
    return words if options.proxy is None else [*words, "--proxy", without_login(options.proxy)]


def keys_in_environment() -> tuple[str, ...]:
    """The providers whose key is set."""
    return tuple(name for name, provider in PROVIDERS.items() if os.environ.get(provider.key_variable))


def _refuse_stray(options: AccountOptions, names: Sequence[str]) -> None:
    """Raise ConfigurationError for what is said of no account, or may be said of another one than is meant."""
    said: dict[str, Said[object]] = {
        "base-url": options.base_url,
        "price": options.price,
        "rate": options.rate,
        "status-rate": options.status_rate,
        "running": options.running,
    }
    for option, values in said.items():
        for name, _ in values:
            if name is not None and name not in names:
                raise ConfigurationError(f"--{option} {name}=…: there is no such account, only {', '.join(names)}.")
    for option, example in (("base-url", "--base-url liangxin=https://…"), ("price", "--price apikley=4")):
        if len(names) > 1 and any(name is None for name, _ in said[option]):
            raise ConfigurationError(f"--{option}: with several accounts say whose it is, as in {example}")


def _name_and_provider(word: str) -> tuple[str, Provider]:
    """The account that a word behind -p names, and the record of its provider, which may be in a file."""
    name, mark, provider = word.partition("=")
    provider = provider if mark else word
    if provider.endswith(".toml"):
        record = read_provider(provider, PROVIDERS)
        return (name if mark else record.name), record
    if provider not in PROVIDERS:
        raise ConfigurationError(no_such_provider(provider))
    return name, PROVIDERS[provider]


def _account(options: AccountOptions, name: str, provider: Provider) -> Account:
    default = provider.limits
    return Account(
        provider if provider is not PROVIDERS.get(provider.name) else provider.name,
        base_url=_said(options.base_url, name),
        limits=Limits(
            submit=_said(options.rate, name) or default.submit,
            status=_said(options.status_rate, name) or default.status,
            running=_said(options.running, name) or default.running,
        ),
        credits=_said(options.price, name),
        name=None if name == provider.name else name,
        shared=False if options.not_shared else None,
    )


def _said(values: Said[T], account: str) -> T | None:
    """The last that was said of an account, or else of all; None for nothing."""
    of_all = [value for name, value in values if name is None]
    own = [value for name, value in values if name == account]
    return next(reversed(own or of_all), None)
