"""Which accounts can take a request, and who goes first. Pure: no account is looked at, only its record."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Literal

import msgspec

from ..errors import InvalidRequest
from .failure import Failure
from .fields import FIELDS
from .model import Model
from .parameters import Parameter, file_of
from .provider import Provider, check
from .values import DEFAULT_MODEL, ImageRequest

Policy = Literal["spread", "cheapest", "in_order"]
"""Who of those that can take a request gets it: whoever can send soonest; the cheapest, an unknown price being the
dearest; the first in the client's order. The last two go to the next only while the one before is stopped or paused."""

_UNKNOWN_PRICE = "its price is unknown, and a budget needs one: give credits= in its Account, or --price"


class Offer(msgspec.Struct, frozen=True):
    """An account that can take a request.

    Attributes:
        account: Its name.
        model: Its record of the model.
        rank: The lowest goes first; equals share.
    """

    account: str
    model: Model
    rank: int = 0


class Route(msgspec.Struct, frozen=True):
    """Every account that can take a request, the first in the client's order first."""

    offers: tuple[Offer, ...]

    @property
    def key(self) -> tuple[object, ...]:
        """The same for requests that may go the same ways."""
        return tuple((offer.account, offer.model.wire_name, offer.rank) for offer in self.offers)

    def only(self, account: str) -> Route | None:
        """The way to that account alone; None where there is none."""
        offers = tuple(offer for offer in self.offers if offer.account == account)
        return Route(offers) if offers else None

    def last(self, account: str) -> Route:
        """The same accounts, that one after all others."""
        behind = max(offer.rank for offer in self.offers) + 1
        return Route(
            tuple(
                msgspec.structs.replace(offer, rank=behind) if offer.account == account else offer
                for offer in self.offers
            )
        )


class Router:
    """Finds the route of each request.

    Args:
        providers: The record of each account, by its name, in the client's order.
        policy: Who goes first.
        others: Providers that may be named as taking what these do not.
        needs_price: True where a budget is set: an account whose price is unknown cannot take a request then.
    """

    def __init__(
        self,
        providers: Mapping[str, Provider],
        policy: Policy = "spread",
        others: Iterable[Provider] = (),
        *,
        needs_price: bool = False,
    ) -> None:
        self.providers: dict[str, Provider] = dict(providers)
        self._policy = policy
        self._others = tuple(others)
        self._needs_price = needs_price
        self._ratios: dict[str, list[str | None]] = {}
        self._fields: dict[str, Mapping[str, Parameter]] = {}
        self._routes: dict[tuple[object, ...], Route] = {}

    def route(self, request: ImageRequest) -> tuple[ImageRequest, Route]:
        """Find who can take a request; returns it as it is sent, the same whoever gets it, and the way.

        What it leaves to the model's default is the default of the first account that takes all of it.

        Raises:
            InvalidRequest: Nobody can, and why, account by account.
        """
        takers: list[tuple[str, Model]] = []
        problems: dict[str, Failure] = {}
        for account, provider in self.providers.items():
            try:
                model = check(request, request.model or DEFAULT_MODEL, provider, self._others)
                # Also where its price keeps it out: a budget must not change what a picture looks like.
                request = filled(request, model)
                self._check_price(model, request)
            except InvalidRequest as error:
                # Kept for the case that nobody takes it: then each account's reason is told.
                problems[account] = Failure.of(error).about(account=account)
            else:
                takers.append((account, model))
        if not takers:
            raise _nobody(problems).exception()
        return request, self._ranked(takers, request)

    def check_defaults(self, defaults: ImageRequest) -> None:
        """Refuse what a batch says for all its requests, where that fits no account; raises InvalidRequest.

        What is missing in it, such as a picture that goes in, each request may have.
        """
        name = defaults.model or DEFAULT_MODEL
        for provider in self.providers.values():
            for model in provider.named(name) if isinstance(name, str) and isinstance(defaults.extra, dict) else ():
                has_price = not self._needs_price or model.credits is not None
                if has_price and model.fits(defaults):
                    return
        self.route(defaults)

    def as_before(self, before: ImageRequest, request: ImageRequest) -> ImageRequest:
        """A request, whose key stood for another one before, as it would have been sent then.

        What it leaves to a default is as it was, where that is any provider's default: another account may have had it.
        """
        name, ratio = request.model or DEFAULT_MODEL, request.aspect_ratio
        if ratio is None and (defaults := self._default_ratios(name)):
            ratio = before.aspect_ratio if before.aspect_ratio in defaults else defaults[0]
        return msgspec.structs.replace(request, model=name, aspect_ratio=ratio)

    def ratios(self, request: ImageRequest) -> list[str | None]:
        """Other ways to say a request's aspect ratio: by naming what is a default, or by leaving that out."""
        defaults = self._default_ratios(request.model or DEFAULT_MODEL)
        if request.aspect_ratio is None:
            return list(dict.fromkeys(each for each in defaults if each is not None))
        return [None] if request.aspect_ratio in defaults else []

    def own_fields(self, name: str | None) -> Mapping[str, Parameter]:
        """The fields that a model has of its own, at any of the accounts: not those that are ImageRequest's."""
        name = name or DEFAULT_MODEL
        if name not in self._fields:
            models = [model for each in self.providers.values() for model in each.named(name)]
            schemas = [model.parameters or {} for model in reversed(models)]
            ours = {field.name for field in FIELDS}
            self._fields[name] = {own: each for schema in schemas for own, each in schema.items() if own not in ours}
        return self._fields[name]

    def file_fields(self, name: str | None) -> Collection[str]:
        """The fields of a model's own that take files, at any of the accounts."""
        own = self.own_fields(name) if name is None or isinstance(name, str) else {}
        return [field for field, parameter in own.items() if file_of(parameter) is not None]

    def _default_ratios(self, name: str) -> list[str | None]:
        if name not in self._ratios:
            providers = (*self.providers.values(), *self._others)
            self._ratios[name] = [model.aspect_ratio for each in providers for model in each.named(name)]
        return self._ratios[name]

    def _check_price(self, model: Model, request: ImageRequest) -> None:
        if self._needs_price and model.price(request) is None:
            raise InvalidRequest(f"model={model.name!r}: {_UNKNOWN_PRICE}.")

    def _ranked(self, takers: list[tuple[str, Model]], request: ImageRequest) -> Route:
        prices = [model.price(request) for _, model in takers] if self._policy == "cheapest" else []
        key = (*prices, *(part for account, model in takers for part in (account, model.wire_name)))
        route = self._routes.get(key)
        if route is None:
            offers = [Offer(account, model) for account, model in takers]
            route = self._routes[key] = Route(tuple(_rank(offers, self._policy, prices)))
        return route


def filled(request: ImageRequest, model: Model) -> ImageRequest:
    """The request as it is sent: the model named, its default aspect ratio written out."""
    aspect_ratio = request.aspect_ratio or model.aspect_ratio
    return msgspec.structs.replace(request, model=model.name, aspect_ratio=aspect_ratio)


def _rank(offers: list[Offer], policy: Policy, prices: list[float | None]) -> Iterable[Offer]:
    if policy == "spread":
        return offers
    costs = [math.inf if price is None else price for price in prices] or [float(place) for place in range(len(offers))]
    order = sorted(set(costs))
    return [msgspec.structs.replace(offer, rank=order.index(cost)) for offer, cost in zip(offers, costs, strict=True)]


def _nobody(problems: Mapping[str, Failure]) -> Failure:
    """The one account's own word, or every account's."""
    if len(problems) == 1:
        return next(iter(problems.values()))
    told = "; ".join(f"{account}: {failure.message.rstrip('.')}" for account, failure in problems.items())
    return Failure(InvalidRequest, f"No account takes this request. {told}.")
