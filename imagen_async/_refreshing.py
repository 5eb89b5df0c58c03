"""Fetches a provider's own list of models and their schemas, one question a second, and makes records of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime

import anyio
import msgspec

from ._accounts import OpenAccount
from ._core.dialects.answers import open_answer
from ._core.model import Model
from ._core.suggestion import did_you_mean
from ._core.wire import HttpRequest, HttpResponse, loose_json
from ._openapi.listing import Listed, listed_in
from ._opening import open_endpoints
from ._record_files import completed
from ._records import ModelFile
from ._text import one_line
from ._transport.session_pool import SessionPool
from ._transport.sessions import SessionSettings
from .errors import ConfigurationError, TransportError
from .models import from_openapi

APART = 1.0
"""Seconds between two questions: what kie.ai lets an account ask (its rules of October 2026)."""

TRIES = 3
"""Of a question that finds no answer."""

Tell = Callable[[str], None]
"""Says to the person who waits how far it is."""


async def refresh(
    name: str, account: OpenAccount, settings: SessionSettings, only: Collection[str], tell: Tell
) -> ModelFile:
    """The records of a provider's models as it tells them today. Free; costs a second for each model.

    What this version knows of a model, and its page does not tell, is kept: its short name, its kind, its price where
    the list tells none that can be read.

    Args:
        name: Of the account.
        account: Its own.
        settings: How its session connects.
        only: Models to ask about, by the provider's names or ours; empty: all that make pictures, or are not known.
        tell: Hears of each model that is left out, and why.

    Raises:
        ConfigurationError: The provider tells no list.
        ImagenError: The list could not be had.
    """
    asking = _Asking(name, account)
    async with AsyncExitStack() as stack:
        endpoints, _ = await open_endpoints(stack, {name: account}, {})
        asking.pool = await stack.enter_async_context(SessionPool(endpoints, settings))
        listed = await asking.listed()
        known = {model.wire_name: model for model in account.provider.models}
        wanted = [each for each in listed if _is_wanted(each, known, only)]
        names = {name for each in wanted for name in (each.wire_name, _name_of(each, known))}
        for name in only:
            if name not in names:
                tell(f"{name} is not in the list.{did_you_mean(name, [each.wire_name for each in listed])}")
        tell(f"{len(listed)} models are listed; {len(wanted)} are asked about, one a second.")
        found = [model for each in wanted if (model := await asking.model(each, known, tell)) is not None]
    today = datetime.now(UTC).date().isoformat()
    return ModelFile(
        tuple(found),
        provider=account.provider.name,
        source=f"{account.provider.title}'s own list and schemas",
        date=today,
    )


def _is_wanted(listed: Listed, known: Mapping[str, Model], only: Collection[str]) -> bool:
    return not only or listed.wire_name in only or _name_of(listed, known) in only


def _name_of(listed: Listed, known: Mapping[str, Model]) -> str:
    """Ours, where it has one."""
    model = known.get(listed.wire_name)
    return listed.wire_name if model is None else model.name


class _Asking:
    """The questions of one refreshing."""

    def __init__(self, name: str, account: OpenAccount) -> None:
        self.pool: SessionPool | None = None
        self._name = name
        self._account = account
        self._next_at = 0.0

    async def listed(self) -> list[Listed]:
        """The list."""
        title, question = self._account.provider.title, self._account.provider.dialect.build_models()
        if question is None:
            raise ConfigurationError(f"{title} tells no list of its models.", provider=self._name)
        response = await self._send(question)
        answer = open_answer(response)
        found = listed_in(loose_json(response.body)) if answer.is_success else []
        if not found:
            message = f"{title} gave no list of models: {answer.text or f'HTTP {response.status}'}."
            raise TransportError(message, provider=self._name, code=answer.code)
        return found

    async def model(self, listed: Listed, known: Mapping[str, Model], tell: Tell) -> Model | None:
        """The record of one; None, and why is told, where its schema makes none."""
        question = self._account.provider.dialect.build_schema(listed.wire_name)
        if question is None:
            return None
        try:
            response = await self._send(question)
            answer = open_answer(response)
            if not answer.is_success:
                raise ConfigurationError(answer.text or f"HTTP {response.status}")
            model = from_openapi(response.body)
            if model.wire_name != listed.wire_name:
                raise ConfigurationError(f"its schema is of {model.wire_name}")
        except (ConfigurationError, TransportError) as error:
            tell(f"{listed.wire_name} is left out: {error.message}")
            return None
        return _completed(model, listed, known.get(listed.wire_name))

    async def _send(self, request: HttpRequest) -> HttpResponse:
        assert self.pool is not None
        for left in range(TRIES - 1, -1, -1):
            now = asyncio.get_running_loop().time()
            await anyio.sleep(max(0.0, self._next_at - now))
            try:
                response = await self.pool.send(self._name, request)
                if open_answer(response).code != 429 or not left:
                    return response
            except TransportError:
                if not left:
                    raise
            finally:
                self._next_at = asyncio.get_running_loop().time() + APART
        raise AssertionError("the last try returns or raises")


def _completed(model: Model, listed: Listed, before: Model | None) -> Model:
    """A record with what its page does not tell."""
    notes = list(model.notes)
    if listed.credits is None and listed.price:
        notes.append(f"its price, in the provider's words: {one_line(listed.price)}")
    model = msgspec.structs.replace(model, credits=listed.credits, notes=tuple(notes))
    return completed(model, before, is_priced=True)
