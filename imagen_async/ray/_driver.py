"""What is known where a job is written down: accounts and their keys, limits, columns. Nothing is sent, or begun."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import msgspec

from .._accounts import Account
from .._checked import checked_credits, checked_deadline
from .._client import Client
from .._core.poll_schedule import FRESHNESS
from .._folders import folder_path
from .._job_factory import Parameters, overridden
from .._opening import home_of
from ..errors import ConfigurationError, InvalidRequest
from ._coordinator import Terms
from ._fetching import FetchTerms
from ._groups import account_groups, journals_of
from ._rows import Reading
from ._sizes import Sizes, sizes_for

PATIENT = 10 * FRESHNESS
"""Seconds of waiting that a status call is worth to a coordinator: rows come out by blocks of some seconds, and each
call takes it a millisecond, of which it has no more than there are."""


class Driver:
    """Knows the accounts of a job.

    Args:
        accounts: As in `Client`.
        options: Other arguments of `Client`.
        parameters: What rows leave out.

    Raises:
        ConfigurationError: An account cannot be used.
        InvalidRequest: The parameters fit no model.
    """

    def __init__(self, accounts: Sequence[str | Account], options: Mapping[str, Any], parameters: Parameters) -> None:
        if parameters.get("key") is not None:
            raise InvalidRequest("key: each row has its own, in a column: key_column=….")
        self._options = {"freshness": PATIENT, **options}
        self._client = Client(*accounts, **self._options)
        self._defaults = overridden("-", parameters)
        self._client._router.check_defaults(self._defaults)

    def terms(
        self,
        journal: str | PurePath | None,
        coordinators: int,
        max_credits: float | None,
        deadline: float,
        *,
        retry_failed: bool,
    ) -> list[Terms]:
        """What each coordinator is told; raises ConfigurationError."""
        opened = self._client._accounts.values()
        if journal is None and not all(account.provider.is_service for account in opened):
            raise ConfigurationError("journal=: a path on the coordinator's node, so that nothing is paid for twice.")
        if journal is None and max_credits is not None:
            raise ConfigurationError("max_credits needs a journal; a service knows what its callers may spend.")
        paths = journals_of(None if journal is None else os.path.abspath(journal), coordinators)
        credits = None if max_credits is None else checked_credits(max_credits) / coordinators
        given = self._defaults, credits, checked_deadline(deadline), retry_failed, self._options
        return [Terms(path, *given) for path in paths]

    def groups(self, coordinators: int) -> list[list[Account]]:
        """The accounts of each coordinator, with the keys and addresses that were found here."""
        return account_groups(self._with_keys(), coordinators)

    def reading(self, key_column: str | None, columns: Sequence[str] | None) -> Reading:
        """How columns are read; raises ConfigurationError where they are known already, and cannot be taken in."""
        models = {model.name for account in self._client._accounts.values() for model in account.provider.models}
        own = {field for model in models for field in self._client._router.own_fields(model)}
        said = {name: value for name, value in msgspec.structs.asdict(self._defaults).items() if name != "prompt"}
        reading = Reading(tuple(sorted(own)), key_column, said)
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
        return FetchTerms(self._client._settings, homes, folder, deadline)

    def _with_keys(self) -> list[Account]:
        opened = self._client._accounts
        return [
            account
            if (endpoint := opened[name].endpoint) is None
            else msgspec.structs.replace(account, api_key=endpoint.api_key, base_url=endpoint.base_url)
            for name, account in self._client._given.items()
        ]
