"""Who pays: an account, and how its key, address and limits are found. Reads the environment, sends nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import PurePath
from types import NoneType
from typing import Any

import msgspec
from yarl import URL

from ._addresses import http_host, is_address, is_inside, is_loopback, is_unencrypted
from ._core.plain_values import plain_or_same
from ._core.poll_schedule import FRESHNESS, PollSchedule
from ._core.provider import NAME, Limits, Provider, variable_of
from ._core.record_values import is_price
from ._core.routing import Policy, Router
from ._core.suggestion import did_you_mean
from ._records import ModelFile, Models
from ._text import told
from ._transport.proxies import without_login
from ._transport.session_pool import Endpoint
from .errors import ConfigurationError
from .providers import PROVIDERS

SANDBOX_KEY = "key-of-the-sandbox"
"""What the sandbox takes as a key; it is no secret and opens nothing else."""


NOBODYS_KEY = "key-of-nobody"
"""What is sent to a service of this machine that asks for none."""

BETWEEN_QUESTIONS = 60.0
"""Seconds between two questions about a task of which a stream tells the end; double that at most."""


Shared = bool | str | PurePath
"""Whether limits are shared with other processes, or the folder in which they are."""


class Account(msgspec.Struct, frozen=True):
    """A provider with one key, one address and its limits. Its key is in no repr.

    Attributes:
        provider: `kie`, `apikley`, `liangxin`, `apiin`, `modkie`, `ruxa` or `sandbox`; `served`, which is a service of
            yours, `imagen-async serve`; or a record of your own, as in `imagen_async.providers`.
        api_key: None: from the environment, `KIE_API_KEY` and so on; of an account named `kie-2` from `KIE_2_API_KEY`.
            Of a service it is that of one of its callers; where it has none, and is on this machine, none is needed.
        base_url: None: from the environment, `KIE_BASE_URL` and so on in the same way, else the provider's own. That of
            a service may be http:// where it is written as an address, or a name, of a network of your own.
        limits: None: the provider's, published or guessed.
        credits: Price of a picture, for all models or by our names of them: where the provider publishes none, or
            another one was agreed on. None: as published.
        name: What results, errors and the journal call it; None: the provider's name. Two accounts of one provider
            need different ones.
        upload_url: Where pictures of this machine are uploaded, with the key; None: the record's own host for them
            while the API is at the record's own address, else the API's address.
        shared: As in `Client`, for this account; None: as the client has it.
    """

    provider: str | Provider
    api_key: str | None = None
    base_url: str | None = None
    limits: Limits | None = None
    credits: float | Mapping[str, float] | None = None
    name: str | None = None
    upload_url: str | None = None
    shared: Shared | None = None

    def __repr__(self) -> str:
        key = "None" if self.api_key is None else "'***'"
        where = without_login(self.base_url) if isinstance(self.base_url, str) else self.base_url
        fields = {"base_url": where, **{name: getattr(self, name) for name in ("limits", "credits", "name")}}
        set_ones = "".join(f", {name}={told(value)}" for name, value in fields.items() if value is not None)
        provider = self.provider.name if isinstance(self.provider, Provider) else self.provider
        return f"Account({told(provider)}, api_key={key}{set_ones})"


class OpenAccount(msgspec.Struct, frozen=True):
    """An account with everything found. `endpoint` is None for a local one that the client serves by itself."""

    provider: Provider
    limits: Limits
    endpoint: Endpoint | None
    upload_url: str | None = None
    shared: Shared | None = None


def named(accounts: Iterable[str | Account]) -> dict[str, Account]:
    """The accounts of a pool by their names; raises ConfigurationError where there is none, or two have one name."""
    pool: dict[str, Account] = {}
    for given in accounts:
        account = _plain_account(given if isinstance(given, Account) else Account(given))
        own = account.provider.name if isinstance(account.provider, Provider) else account.provider
        name = account.name or own
        # A word that names a provider must not lead to another one's account.
        if not isinstance(name, str) or not NAME.fullmatch(name) or (name in PROVIDERS and name != own):
            message = f"name={told(name)}: an account's name is a word, such as kie-2, and not that of another provider"
            raise ConfigurationError(f"{message}.")
        if name in pool:
            message = f"Two accounts have the name {name!r}: give one another, Account({own!r}, name=…)"
            raise ConfigurationError(f"{message} or -p NAME={own}, and a key of its own.")
        pool[name] = account
    if not pool:
        known = ", ".join(PROVIDERS)
        raise ConfigurationError(f'Name an account, such as Client("kie"); this version knows {known}.')
    return pool


def with_settings(pool: dict[str, Account], given: dict[str, Any]) -> dict[str, Account]:
    """The accounts with what was said for the only one of them."""
    if given and len(pool) > 1:
        message = f"{', '.join(given)}: with several accounts, say it of each: Account({next(iter(pool))!r}"
        raise ConfigurationError(f"{message}, {next(iter(given))}=…).")
    return {name: _plain_account(msgspec.structs.replace(account, **given)) for name, account in pool.items()}


def provider_of(account: Account) -> Provider:
    """The record of an account's provider, with the account's own prices; raises ConfigurationError."""
    provider = _record_of(account)
    if provider is None:
        raise ConfigurationError(no_such_provider(account.provider))
    prices = _plain_prices(account.credits)
    if prices is None:
        return provider
    for model, price in prices.items() if type(prices) is dict else [("", prices)]:
        if not is_price(price):
            message = f"credits={told(prices)}: a price is a number of credits for a picture, or one for each model"
            raise ConfigurationError(f"{message}.", provider=provider.name)
        if model != "" and (not isinstance(model, str) or provider.find(model) is None):
            raise ConfigurationError(f"credits={told(prices)}: {provider.title} has no model {told(model)}.")
    return msgspec.structs.replace(provider, prices=prices)


def _record_of(account: Account) -> Provider | None:
    return PROVIDERS.get(account.provider) if isinstance(account.provider, str) else account.provider


def with_models(pool: dict[str, Account], given: Iterable[Models]) -> dict[str, Account]:
    """The accounts with models of the user's own, before those that their providers' records have.

    Raises:
        ConfigurationError: Some are none, or are in a file that cannot be read.
    """
    for models in given:
        from ._record_files import model_files  # only here: most programs give none

        for file in model_files(models):
            pool = {name: _with_file(account, file) for name, account in pool.items()}
    return pool


def _with_file(account: Account, file: ModelFile) -> Account:
    provider = _record_of(account)
    # What runs here stands for whoever is meant.
    is_anybodys = provider is not None and (provider.is_local or provider.is_service)
    is_meant = provider is not None and (file.provider in (None, provider.name) or is_anybodys)
    if provider is None or not is_meant or not provider.dialect.takes_raw_models:
        return account
    new = {model.wire_name for model in file.models}
    models = (*file.models, *(model for model in provider.models if model.wire_name not in new))
    return msgspec.structs.replace(account, provider=msgspec.structs.replace(provider, models=models))


def schedule_of(account: Account, freshness: float = FRESHNESS) -> PollSchedule:
    """What is known beforehand of how long an account's tasks take."""
    provider = provider_of(account)
    every = BETWEEN_QUESTIONS if provider.is_service else None
    return PollSchedule(provider.latency, freshness, provider.prior_of, every)


def _plain_account(account: Account) -> Account:
    """The account with its texts as such; raises ConfigurationError for what is none, a key being quoted nowhere."""
    names = [
        "api_key",
        "base_url",
        "name",
        "upload_url",
        *(["provider"] * (not isinstance(account.provider, Provider))),
    ]
    texts = {name: plain_or_same(getattr(account, name)) for name in names}
    for name, text in texts.items():
        if type(text) not in (str, NoneType):
            raise ConfigurationError(f"{name}: allowed is a text, not {type(text).__name__}.")
    if account.shared is not None:
        checked_shared(account.shared)
    if type(account.limits) not in (Limits, NoneType):
        raise ConfigurationError(f"limits={told(account.limits)}: allowed is Limits(…).")
    if isinstance(account.provider, Provider):
        texts["provider"] = _with_plain_addresses(account.provider)
    return msgspec.structs.replace(account, **texts)


def _with_plain_addresses(provider: Provider) -> Provider:
    """A record with its addresses as they are used; raises ConfigurationError for what is none."""
    base_url, uploads = provider.base_url, provider.uploads
    if base_url is not None:
        base_url = _checked_url(base_url, provider, "base_url of its record")
    if uploads is not None and uploads.base_url is not None:
        url = _checked_url(uploads.base_url, provider, "uploads.base_url of its record")
        uploads = msgspec.structs.replace(uploads, base_url=url)
    plain = msgspec.structs.replace(provider, base_url=base_url, uploads=uploads)
    # Mostly nothing changes: then the models that were looked up are kept with it.
    return provider if plain == provider else plain


def _plain_prices(given: Any) -> Any:
    if issubclass(type(given), Mapping):
        return {plain_or_same(model): plain_or_same(price) for model, price in given.items()}
    return plain_or_same(given)


def checked_shared(shared: Shared) -> Shared:
    """Whether limits are shared, or the folder in which; raises ConfigurationError for what says neither."""
    if not isinstance(shared, bool | str | PurePath) or shared == "":
        raise ConfigurationError(f"shared={told(shared)}: allowed is True, False, or a folder.")
    return shared


def no_such_provider(name: object) -> str:
    """Say that nobody has a record of this name, and who there is."""
    known = ", ".join(PROVIDERS)
    return f"There is no provider {told(name)}; this version knows: {known}.{did_you_mean(name, PROVIDERS)}"


def router_of(pool: Mapping[str, Account], policy: Policy = "spread", *, needs_price: bool = False) -> Router:
    """What finds the accounts of a pool that can take a request; `needs_price` where a budget is set."""
    providers = {name: provider_of(account) for name, account in pool.items()}
    # Who may be named as taking what another does not; looked up now, since a record may be added at any time.
    real = tuple(each for each in PROVIDERS.values() if not (each.is_local or each.is_service))
    return Router(providers, policy, real, needs_price=needs_price)


def open_pool(pool: Mapping[str, Account], environment: Mapping[str, str]) -> dict[str, OpenAccount]:
    """Find the accounts' keys and addresses; raises ConfigurationError also where two of them are one account."""
    opened: dict[str, OpenAccount] = {}
    for name, account in pool.items():
        found = open_account(account, environment)
        # Two windows for one account would let twice its limit through.
        twin = next((other for other, each in opened.items() if _is_same(each.endpoint, found.endpoint)), "")
        if twin:
            message = f"{twin!r} and {name!r} have the same key and address: they are one account, with one limit"
            raise ConfigurationError(f"{message}. Name it once, or give each its own key.")
        opened[name] = found
    return opened


def open_account(account: Account, environment: Mapping[str, str]) -> OpenAccount:
    """Find an account's key and address; raises ConfigurationError that says what is missing and where to put it."""
    provider = provider_of(account)
    limits = account.limits or provider.limits
    own = variable_of(account.name or provider.name)
    key_variable = f"{own}_API_KEY"
    # An account with a name of its own is mostly at its provider's address all the same.
    base_url = account.base_url or environment.get(f"{own}_BASE_URL") or environment.get(provider.base_url_variable)
    base_url = base_url or provider.base_url
    if base_url is None and provider.is_local:
        return OpenAccount(provider, limits, None)
    uploads = None if account.upload_url is None else _checked_url(account.upload_url, provider, "upload_url")
    address = _checked_url(base_url, provider, _where_of(provider))
    key = account.api_key or environment.get(key_variable) or _default_key(provider, address)
    endpoint = Endpoint(address, _checked_key(key, key_variable, provider))
    return OpenAccount(provider, limits, endpoint, uploads, account.shared)


def _default_key(provider: Provider, address: str) -> str:
    if provider.is_local:
        return SANDBOX_KEY
    # Where it has callers it will say so.
    return NOBODYS_KEY if provider.is_service and is_loopback(http_host(address) or "") else ""


def _is_same(one: Endpoint | None, other: Endpoint | None) -> bool:
    """True for one key at one address, however that is spelled."""
    if one is None or other is None or one.api_key != other.api_key:
        return False
    first, second = URL(one.base_url), URL(other.base_url)
    return (first.scheme, first.host, first.port, first.path) == (second.scheme, second.host, second.port, second.path)


def _checked_key(key: str, variable: str, provider: Provider) -> str:
    key = key.strip()
    if not key:
        raise ConfigurationError(
            f"{provider.title} needs a key: set the environment variable {variable}.",
            provider=provider.name,
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        message = f"The key for {provider.title} holds characters that no key has; copy it again."
        raise ConfigurationError(message, provider=provider.name)
    return key


def _where_of(provider: Provider) -> str:
    return f"base URL (--base-url) or in the environment variable {provider.base_url_variable}"


def _checked_url(base_url: str | None, provider: Provider, where: str) -> str:
    """An address to which the key may go, as it is used; `where` it was said, or is to be."""
    if base_url is None:
        message = f"{provider.title} publishes no address; take it from your account there, and give it as {where}."
        if provider.is_service:
            message = f"Where is {provider.title}? imagen-async serve says its address; give it as {where}."
        raise ConfigurationError(message, provider=provider.name)
    if not is_address(base_url.strip()):
        message = (
            f"{without_login(base_url)!r} is no address of an API such as https://api.example.com; give it as {where}."
        )
        raise ConfigurationError(message, provider=provider.name)
    is_inside_ok = provider.is_service and is_inside(http_host(base_url.strip()) or "")
    if is_unencrypted(base_url.strip()) and not (provider.is_local or is_inside_ok):
        where_ok = "this machine and your own networks" if provider.is_service else "this machine"
        message = f"{base_url} would send the key unencrypted; use https:// (http:// is for {where_ok} only)."
        raise ConfigurationError(message, provider=provider.name)
    address = base_url.strip().rstrip("/")
    # As OpenAI's clients are told it, and as a service says it.
    return address.removesuffix("/v1") if provider.is_service else address


def account_named(accounts: Mapping[str, OpenAccount], provider: str | None) -> str:
    """The account of that name, or the only one of that provider, or the only one; raises ConfigurationError."""
    provider = plain_or_same(provider)
    if provider is not None and type(provider) is not str:
        raise ConfigurationError(f"provider={told(provider)}: it is the name of an account.")
    names = [name for name, account in accounts.items() if provider in (None, name, account.provider.name)]
    if provider in accounts or len(names) == 1:
        return names[0] if provider is None or provider not in accounts else provider
    known = ", ".join(map(repr, accounts))
    if provider is None or names:
        raise ConfigurationError(f"Say which account: provider= one of {known}.")
    raise ConfigurationError(f"This client has no account {provider!r}, only {known}.")


def with_named_creates(accounts: Mapping[str, OpenAccount]) -> frozenset[str]:
    """Accounts where creates are known by their names: services, where the same once more is the same task."""
    return frozenset(name for name, account in accounts.items() if account.provider.is_service)


def gone_with_client(accounts: Mapping[str, OpenAccount]) -> frozenset[str]:
    """Accounts of which nothing outlives the client: sandboxes that it serves itself, whose tasks nobody pays."""
    return frozenset(name for name, account in accounts.items() if account.endpoint is None)
