"""What is known where a job is written down: accounts and their keys, limits, columns. Nothing is sent, or begun."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import msgspec

from .._accounts import Account, provider_of
from .._checked import checked_credits, checked_deadline
from .._client import Client
from .._core.poll_schedule import FRESHNESS
from .._core.values import ImageRequest
from .._folders import folder_path
from .._job_factory import Parameters, overridden
from .._opening import home_of
from ..errors import ConfigurationError, InvalidRequest
from ._fetcher import FetchTerms
from ._groups import account_groups, journals_of
from ._maker import Order
from ._rows import Reading
from ._sizes import Sizes, sizes_for

PATIENT = 10 * FRESHNESS
"""Seconds of waiting that a status call is worth to a coordinator: rows come out by blocks of some seconds, and each
call takes it a millisecond, of which it has no more than there are."""

FOLDED = frozenset({"api_key", "base_url", "limits", "models"})
"""Arguments of `Client` that are the accounts' own, and go with them."""

OPTIONS = frozenset(
    {
        "connect_timeout",
        "connections",
        "freshness",
        "policy",
        "private_files",
        "proxy",
        "shared",
        "timeout",
        "trust_env",
    }
)
"""Arguments of `Client` that a coordinator may have; all others are its own, or cannot go to another process."""


class Driver:
    """Knows the accounts of a job.

    Args:
        accounts: As in `Client`.
        options: Other arguments of `Client`.
        parameters: What rows leave out.

    Attributes:
        options: What the coordinators' clients are told beside their accounts.
        defaults: What rows leave out.

    Raises:
        ConfigurationError: An account, or an argument, cannot be used.
        InvalidRequest: The parameters fit no model.
    """

    def __init__(self, accounts: Sequence[str | Account], options: Mapping[str, Any], parameters: Parameters) -> None:
        if parameters.get("key") is not None:
            raise InvalidRequest("key: each row has its own, in a column: key_column=….")
        if others := sorted(options.keys() - FOLDED - OPTIONS):
            allowed = ", ".join(sorted(FOLDED | OPTIONS))
            raise ConfigurationError(
                f"client: {', '.join(others)} cannot be given to a coordinator; allowed: {allowed}."
            )
        self._client = Client(*accounts, **options)
        self.options: dict[str, Any] = {"freshness": PATIENT} | {
            name: value for name, value in options.items() if name not in FOLDED
        }
        self.defaults: ImageRequest = overridden("-", parameters)
        self._client._router.check_defaults(self.defaults)

    def order(self, max_credits: float | None, deadline: float, *, retry_failed: bool, has_journal: bool) -> Order:
        """What the job is, but for where and when it began; raises ConfigurationError where that needs a journal."""
        if not has_journal and (retry_failed or max_credits is not None):
            needs = "retry_failed" if max_credits is None else "max_credits"
            raise ConfigurationError(f"{needs} needs a journal; a service knows what its callers may spend.")
        credits = math.inf if max_credits is None else checked_credits(max_credits)
        return Order("", 0.0, self.defaults, credits, checked_deadline(deadline), retry_failed)

    def journals(self, journal: str | PurePath | None, coordinators: int) -> list[str | None]:
        """The journal of each coordinator; raises ConfigurationError where none is named, and one is needed."""
        opened = self._client._accounts.values()
        if journal is None and not all(account.provider.is_service for account in opened):
            raise ConfigurationError("journal=: a path on the coordinator's node, so that nothing is paid for twice.")
        return journals_of(None if journal is None else os.path.abspath(journal), coordinators)

    def groups(self, coordinators: int) -> list[list[Account]]:
        """The accounts of each coordinator, with the keys and addresses that were found here.

        Raises:
            ConfigurationError: There are too few, or some models are served by some of the groups alone.
        """
        groups = account_groups(self._with_keys(), coordinators)
        models = [{model for account in group for model in self._models_of(account)} for group in groups]
        if any(each != models[0] for each in models):
            few = ", ".join(sorted(models[0].union(*models) - models[0].intersection(*models))[:5])
            message = f"coordinators={coordinators}: each needs accounts for all models, and not all have {few}"
            raise ConfigurationError(f"{message}. Name as many accounts of each provider, in turns.")
        return groups

    def reading(self, key_column: str | None, columns: Sequence[str] | None) -> Reading:
        """How columns are read; raises ConfigurationError where they are known already, and cannot be taken in."""
        models = {model for account in self._client._given.values() for model in self._models_of(account)}
        own = {field for model in models for field in self._client._router.own_fields(model)}
        reading = Reading(tuple(sorted(own)), key_column)
        if columns is not None:
            reading.fields(columns)
        return reading

    def sizes(self, rows: int | None) -> Sizes:
        """How much is asked for at once."""
        return sizes_for([account.limits for account in self._client._accounts.values()], rows)

    def fetching(self, save_to: str | PurePath | None, deadline: float) -> FetchTerms:
        """What those who fetch are told; raises ConfigurationError for a folder that is none."""
        homes = {name: home_of(account) for name, account in self._client._accounts.items()}
        folder = None if save_to is None else os.path.abspath(folder_path(save_to))
        return FetchTerms(self._client._settings, homes, folder, checked_deadline(deadline))

    def _models_of(self, account: Account) -> set[str]:
        return {model.name for model in provider_of(account).models}

    def _with_keys(self) -> list[Account]:
        opened = self._client._accounts
        return [
            account
            if (endpoint := opened[name].endpoint) is None
            else msgspec.structs.replace(account, api_key=endpoint.api_key, base_url=endpoint.base_url)
            for name, account in self._client._given.items()
        ]
