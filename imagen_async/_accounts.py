"""Who pays: an account, and how its key, address and limits are found. Reads the environment, sends nothing."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

import msgspec

from ._core.provider import Limits, Provider
from ._session_pool import Endpoint
from .errors import ConfigurationError
from .providers import PROVIDERS, SANDBOX

SANDBOX_KEY = "key-of-the-sandbox"
"""What the sandbox takes as a key; it is no secret and opens nothing else."""

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Account(msgspec.Struct, frozen=True):
    """A provider with one key, one address and its limits. Its key is in no repr.

    Attributes:
        provider: `kie`, `apikley`, `liangxin`, `apiin` or `sandbox`.
        api_key: None: from the environment, `KIE_API_KEY` and so on.
        base_url: None: from the environment, `KIE_BASE_URL` and so on, else the provider's own.
        limits: None: the provider's, published or guessed.
    """

    provider: str
    api_key: str | None = None
    base_url: str | None = None
    limits: Limits | None = None

    def __repr__(self) -> str:
        key = "None" if self.api_key is None else "'***'"
        return f"Account({self.provider!r}, api_key={key}, base_url={self.base_url!r}, limits={self.limits!r})"


class OpenAccount(msgspec.Struct, frozen=True):
    """An account with everything found. `endpoint` is None for the sandbox that the client starts by itself."""

    provider: Provider
    limits: Limits
    endpoint: Endpoint | None


def open_account(account: Account, environment: Mapping[str, str]) -> OpenAccount:
    """Find an account's key and address; raises ConfigurationError that says what is missing and where to put it."""
    provider = PROVIDERS.get(account.provider)
    if provider is None:
        known = ", ".join(PROVIDERS)
        raise ConfigurationError(f"There is no provider {account.provider!r}; this version knows: {known}.")
    limits = account.limits or provider.limits
    base_url = account.base_url or environment.get(provider.base_url_variable) or provider.base_url
    if base_url is None and provider is SANDBOX:
        return OpenAccount(provider, limits, None)
    key = account.api_key or environment.get(provider.key_variable) or (SANDBOX_KEY if provider is SANDBOX else "")
    return OpenAccount(provider, limits, Endpoint(_checked_url(base_url, provider), _checked_key(key, provider)))


def _checked_key(key: str, provider: Provider) -> str:
    key = key.strip()
    if not key:
        raise ConfigurationError(
            f"{provider.title} needs a key: set the environment variable {provider.key_variable}.",
            provider=provider.name,
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        message = f"The key for {provider.title} holds characters that no key has; copy it again."
        raise ConfigurationError(message, provider=provider.name)
    return key


def _checked_url(base_url: str | None, provider: Provider) -> str:
    where = f"base URL (--base-url) or in the environment variable {provider.base_url_variable}"
    if base_url is None:
        message = f"{provider.title} publishes no address; take it from your account there, and give it as {where}."
        raise ConfigurationError(message, provider=provider.name)
    try:
        parts = urlsplit(base_url.strip())
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_url = False
    if not is_url or parts.query or parts.fragment or parts.username:
        message = f"{base_url!r} is no address of an API such as https://api.example.com; give it as {where}."
        raise ConfigurationError(message, provider=provider.name)
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK and provider is not SANDBOX:
        message = f"{base_url} would send the key unencrypted; use https:// (http:// is for this machine only)."
        raise ConfigurationError(message, provider=provider.name)
    return base_url.strip().rstrip("/")
